//! Routes: which engine copies which pair of volumes, what runs on the hosts, and how the bytes travel.
//!
//! Pure. The table [`CAPABILITIES`] is the only place that knows which engine can do what; nobody else asks "is it
//! ZFS?". Every choice comes with its reason. Read next: `decide.rs`.

use crate::config::{StorageConfig, StoragePath};
use crate::plan::facts::HostFacts;
use crate::pve::drive::{Bus, DriveKey};
use crate::pve::inventory::Release;
use crate::transfer::{EngineKind, Format, Route, Tool};

/// Where a storage keeps its volumes, as far as engines differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Files in a directory.
    Directory,
    /// Volumes of a ZFS dataset.
    Zfs,
}

impl Place {
    /// Returns the place a storage section names.
    pub fn of(path: &StoragePath) -> Place {
        match path {
            StoragePath::Directory(_) => Place::Directory,
            StoragePath::Zfs(_) => Place::Zfs,
        }
    }
}

/// A way of copying a volume, and what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine.
    pub engine: EngineKind,
    /// What it reads from.
    pub source: Place,
    /// What it writes to.
    pub target: Place,
    /// Whether it copies while the guest runs.
    pub precopy: bool,
    /// Whether an interrupted copy continues where it was.
    pub resume: bool,
    /// Whether it converts between formats on the way.
    pub converts: bool,
}

/// What this release can do.
pub const CAPABILITIES: &[Capability] = &[Capability {
    engine: EngineKind::Image,
    source: Place::Directory,
    target: Place::Directory,
    precopy: true,
    resume: true,
    converts: true,
}];

/// Why something cannot be done, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// A stable word.
    pub code: &'static str,
    /// What was found.
    pub reason: String,
    /// What would turn it.
    pub remedy: String,
}

/// Returns the engine for a pair of storages.
pub fn engine(
    source: &StorageConfig,
    target: &StorageConfig,
) -> Result<&'static Capability, Impossible> {
    let pair = (Place::of(&source.path), Place::of(&target.path));
    CAPABILITIES
        .iter()
        .find(|capability| (capability.source, capability.target) == pair)
        .ok_or_else(|| {
            let zfs = match pair {
                (Place::Zfs, _) => source,
                (Place::Directory, _) => target,
            };
            Impossible {
                code: "engine-missing",
                reason: format!(
                    "storage {} of {} is ZFS ('path=zfs:...'), which this release does not copy yet",
                    zfs.storage, zfs.cluster
                ),
                remedy: "use a storage with 'path=/directory' for now".to_owned(),
            }
        })
}

/// Returns the format of that name; `None` for those proxmove does not read.
pub fn format(word: &str) -> Option<Format> {
    match word {
        "raw" => Some(Format::Raw),
        "qcow2" => Some(Format::Qcow2),
        _ => None,
    }
}

/// Returns the name of a format, which is also the extension of its files.
pub fn extension(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

/// Returns the format a volume gets on the target: its own, unless the target cannot use it there.
pub fn target_format(key: DriveKey, source: Format, target: Release) -> Format {
    let old = target < (Release { major: 9, minor: 0 });
    match (key.bus, source) {
        // The state of a TPM has to be raw up to PVE 8.4.
        (Bus::TpmState, Format::Qcow2) if old => Format::Raw,
        (_, format) => format,
    }
}

/// The processor proxmove was built for; the porter is the same executable.
pub const PORTER_ARCHITECTURE: &str = std::env::consts::ARCH;

/// The programs the fallback needs on both hosts.
pub const STOCK_TOOLS: &[&str] = &["dd", "sha256sum"];

/// Returns why the porter cannot run on a host; `None` when it can.
fn no_porter_on(host: &HostFacts) -> Option<String> {
    if host.system != "Linux" {
        return Some(format!("{} runs {}", host.address, host.system));
    }
    if host.architecture != PORTER_ARCHITECTURE {
        return Some(format!(
            "{} is {}, proxmove is built for {PORTER_ARCHITECTURE}",
            host.address, host.architecture
        ));
    }
    (!host.temp.executable).then(|| format!("nothing may be run from temp on {}", host.address))
}

/// Chooses what runs on the hosts, and says why.
pub fn tool(
    source: &HostFacts,
    target: &HostFacts,
    converts: bool,
) -> Result<(Tool, String), Impossible> {
    let Some(why) = no_porter_on(source).or_else(|| no_porter_on(target)) else {
        return Ok((Tool::Porter, "the porter runs on both hosts".to_owned()));
    };
    let remedy =
        "choose a 'temp' on a file system without noexec, on a host of the same architecture"
            .to_owned();
    if converts {
        return Err(Impossible {
            code: "tool-missing",
            reason: format!("the format must be converted, which only the porter does, and {why}"),
            remedy,
        });
    }
    for host in [source, target] {
        let missing: Vec<&str> = STOCK_TOOLS
            .iter()
            .copied()
            .filter(|tool| !host.tools.contains(*tool))
            .collect();
        if !missing.is_empty() {
            return Err(Impossible {
                code: "tool-missing",
                reason: format!(
                    "the porter cannot run ({why}), and {} has no {}",
                    host.address,
                    missing.join(", ")
                ),
                remedy,
            });
        }
    }
    Ok((
        Tool::Stock,
        format!("dd and sha256sum, slower and without compression, because {why}"),
    ))
}

/// The oldest OpenSSH whose agent requests say which host they are for, so that they can be limited to one.
pub const SCOPED_AGENT: (u32, u32) = (8, 9);

/// Chooses how the bytes travel, and says why.
pub fn route(
    wanted: Option<Route>,
    tool: Tool,
    source: &HostFacts,
    target: &StorageConfig,
) -> Result<(Route, String), Impossible> {
    if wanted == Some(Route::Relay) {
        return Ok((Route::Relay, "through this machine, as asked".to_owned()));
    }
    let obstacle = direct_obstacle(tool, source);
    if wanted == Some(Route::Direct) {
        return match obstacle {
            None => Ok((Route::Direct, "from host to host, as asked".to_owned())),
            Some(why) => Err(Impossible {
                code: "route-impossible",
                reason: format!("--route direct cannot be used: {why}"),
                remedy: "use --route relay, or leave --route out".to_owned(),
            }),
        };
    }
    if let Some(why) = obstacle {
        return Ok((Route::Relay, format!("through this machine, because {why}")));
    }
    // An alias of ~/.ssh/config means nothing on the source host.
    let peer = target.peer.as_ref().unwrap_or(&target.ssh);
    let alias = target.peer.is_none() && !peer.host.contains(['.', ':']);
    if alias {
        return Ok((
            Route::Relay,
            format!(
                "through this machine, because '{}' may be a name only this machine knows (set 'peer=')",
                peer.host
            ),
        ));
    }
    Ok((
        Route::Direct,
        format!(
            "from host to host, because {} has an ssh client that can be trusted with a limited agent",
            source.address
        ),
    ))
}

/// Returns why the source host cannot connect to the target host itself; `None` when it can.
fn direct_obstacle(tool: Tool, source: &HostFacts) -> Option<String> {
    if tool == Tool::Stock {
        return Some(
            "without the porter the source host has no credentials for the target host".to_owned(),
        );
    }
    match source.ssh {
        None => Some(format!("{} has no OpenSSH client", source.address)),
        Some(version) if version < SCOPED_AGENT => Some(format!(
            "{} has OpenSSH {}.{}, and only {}.{} and newer can be limited to one target",
            source.address, version.0, version.1, SCOPED_AGENT.0, SCOPED_AGENT.1
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
