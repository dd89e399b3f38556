//! Routes: which engine copies which pair of volumes, what runs on the hosts, and how the bytes travel.
//!
//! Pure. The table [`CAPABILITIES`] is the only place that knows which engine can do what; nobody else asks "is it
//! ZFS?". Every choice comes with its reason. Read next: `route/stream.rs` (between pools), `decide.rs`.

pub mod stream;

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
pub const CAPABILITIES: &[Capability] = &[
    Capability {
        engine: EngineKind::Zfs,
        source: Place::Zfs,
        target: Place::Zfs,
        precopy: true,
        resume: true,
        converts: false,
    },
    image(Place::Directory, Place::Directory),
    image(Place::Zfs, Place::Directory),
    image(Place::Directory, Place::Zfs),
];

const fn image(source: Place, target: Place) -> Capability {
    Capability {
        engine: EngineKind::Image,
        source,
        target,
        precopy: true,
        resume: true,
        converts: true,
    }
}

/// Returns where storages of a type keep their volumes; `None` for types proxmove does not copy from or to.
pub fn place(kind: &str) -> Option<Place> {
    match kind {
        "dir" | "nfs" | "cifs" | "glusterfs" => Some(Place::Directory),
        "zfspool" => Some(Place::Zfs),
        _ => None,
    }
}

/// The types of storages proxmove copies from and to, for remedies.
pub const STORAGE_KINDS: &str = "dir, nfs, cifs, glusterfs, zfspool";

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

/// Returns what copies from one place to another.
pub fn between(source: Place, target: Place) -> Option<&'static Capability> {
    CAPABILITIES
        .iter()
        .find(|capability| (capability.source, capability.target) == (source, target))
}

/// Returns the engine for a pair of storages.
pub fn engine(
    source: &StorageConfig,
    target: &StorageConfig,
) -> Result<&'static Capability, Impossible> {
    between(Place::of(&source.path), Place::of(&target.path)).ok_or_else(|| Impossible {
        code: "engine-missing",
        reason: format!(
            "nothing copies from storage {} of {} to storage {} of {}",
            source.storage, source.cluster, target.storage, target.cluster
        ),
        remedy: "choose another storage".to_owned(),
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
pub fn target_format(key: DriveKey, source: Format, target: Release, place: Place) -> Format {
    let old = target < (Release { major: 9, minor: 0 });
    match (place, key.bus, source) {
        (Place::Zfs, _, _) => Format::Raw,
        // The state of a TPM has to be raw up to PVE 8.4.
        (Place::Directory, Bus::TpmState, Format::Qcow2) if old => Format::Raw,
        (Place::Directory, _, format) => format,
    }
}

/// The processor proxmove was built for; the porter is the same executable.
pub const PORTER_ARCHITECTURE: &str = std::env::consts::ARCH;

/// The programs the fallback of an engine needs on both hosts.
pub fn stock_tools(engine: EngineKind) -> &'static [&'static str] {
    match engine {
        EngineKind::Image => &["dd", "sha256sum"],
        EngineKind::Zfs => &["zfs"],
    }
}

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
    capability: &Capability,
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
    let only_porter = match (capability.engine, capability.source, capability.target) {
        (EngineKind::Zfs, ..) => None,
        (EngineKind::Image, ..) if converts => Some("the format must be converted"),
        (EngineKind::Image, Place::Directory, Place::Directory) => None,
        (EngineKind::Image, ..) => Some("ZFS is on one side only"),
    };
    if let Some(need) = only_porter {
        return Err(Impossible {
            code: "tool-missing",
            reason: format!("{need}, which only the porter can do, and {why}"),
            remedy,
        });
    }
    for host in [source, target] {
        let missing: Vec<&str> = stock_tools(capability.engine)
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
    let how = match capability.engine {
        EngineKind::Image => "dd and sha256sum, slower and without compression",
        EngineKind::Zfs => "zfs alone, relayed and without the porter's checks on the way",
    };
    Ok((Tool::Stock, format!("{how}, because {why}")))
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
