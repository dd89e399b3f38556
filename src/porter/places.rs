//! Our own files beside a volume, what they say about it, and how they are removed.
//!
//! All of them lie in the temp directory of a host and their names begin with `proxmove-`. A volume is removed only
//! when our manifest names it. Read next: `seal.rs`, `manifest.rs`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::chunk::{CHUNK, Fingerprint, chunks_of};
use super::device::{self, Device};
use super::error::PorterError;
use super::manifest::{Manifest, remove_file, sync_directory};
use super::seal::{Seal, SourceState};
use super::target::{Owner, owner};

/// The names of one pair's files.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    temp: PathBuf,
    name: String,
}

impl Places {
    /// Names the files of pair `name` (`[a-z0-9-]+`) in the directory `temp`.
    pub(crate) fn new(temp: &str, name: &str) -> Result<Places, PorterError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 150 || !name.chars().all(plain) {
            return Err(PorterError::Usage(format!("'{name}' is no name of a pair")));
        }
        Ok(Places {
            temp: PathBuf::from(temp),
            name: name.to_owned(),
        })
    }

    /// Returns the directory of them all.
    pub(crate) fn temp(&self) -> &Path {
        &self.temp
    }

    /// Returns the pair's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the manifest.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.temp.join(format!("proxmove-{}.manifest", self.name))
    }

    /// Returns the path of the seal.
    pub(crate) fn seal(&self) -> PathBuf {
        self.temp.join(format!("proxmove-{}.seal", self.name))
    }
}

/// What there is of a target, as told to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub(crate) enum Target {
    /// No volume.
    Absent,
    /// Somebody else's file.
    Foreign,
    /// Ours.
    Ours {
        /// Bytes that the manifest claims.
        in_place: u64,
        /// The seal of the newest final pass.
        seal: Option<Seal>,
        /// Whether the target is as it was sealed; says nothing of a device.
        kept: bool,
    },
}

/// Finds out what there is of a target, which is a device when the engine says so; changes nothing.
pub(crate) fn observe(
    path: &Path,
    places: &Places,
    device: Option<Device>,
) -> Result<Target, PorterError> {
    let mut manifest = Manifest::open(&places.manifest())?;
    let owner = match device {
        Some(device) => {
            manifest = manifest.filter(|manifest| device::is_named(path, &manifest.header, device));
            device::owner(path)?
        }
        None => owner(path, manifest.as_ref().map(|manifest| &manifest.header))?,
    };
    match owner {
        Owner::Nobody => return Ok(Target::Absent),
        Owner::Foreign => return Ok(Target::Foreign),
        Owner::Us => {}
    }
    let target = SourceState::of(path)?;
    let mut in_place = 0;
    if let Some(manifest) = &manifest {
        manifest.scan(manifest.chunks()?, |_, claims| {
            let known = claims
                .iter()
                .filter(|claim| **claim != Fingerprint::ABSENT)
                .count();
            in_place += (known * CHUNK) as u64;
            Ok(())
        })?;
    }
    let seal = Seal::read(&places.seal()).filter(|seal| seal.path == path.display().to_string());
    let kept = seal.as_ref().is_some_and(|seal| seal.holds_for(&target));
    if let Some(seal) = seal.as_ref().filter(|seal| kept && seal.source.file) {
        in_place = in_place.min(chunks_of(seal.source.size) * CHUNK as u64);
    }
    Ok(Target::Ours {
        in_place,
        seal,
        kept,
    })
}

/// Sees to it that nothing is believed of the target any more: the next pass reads all of it.
///
/// The claims go before the seal: whatever is killed in between, a seal that does not hold stands for itself.
pub(crate) fn doubt(places: &Places) -> Result<(), PorterError> {
    if let Some(mut manifest) = Manifest::open_locked(&places.manifest())? {
        manifest.doubt()?;
    }
    Seal::break_it(&places.seal())
}

/// Removes the target volume when it is ours, and the directory that was made for it when that is empty now.
pub(crate) fn discard(path: &Path, places: &Places) -> Result<(), PorterError> {
    let Some(manifest) = Manifest::open_locked(&places.manifest())? else {
        return match owner(path, None)? {
            Owner::Nobody => Ok(()),
            Owner::Us | Owner::Foreign => Err(PorterError::Foreign {
                path: path.display().to_string(),
            }),
        };
    };
    match owner(path, Some(&manifest.header))? {
        Owner::Foreign => {
            return Err(PorterError::Foreign {
                path: path.display().to_string(),
            });
        }
        Owner::Us => {
            remove_file(path)?;
            sync_directory(path)?;
        }
        Owner::Nobody => {}
    }
    if let (true, Some(directory)) = (manifest.header.made_directory, path.parent()) {
        // Not empty: somebody else's volumes are in it by now.
        let _ = std::fs::remove_dir(directory);
    }
    tidy(places)
}

/// Removes our files of this pair, and what killed passes of it left behind; never a volume.
pub(crate) fn tidy(places: &Places) -> Result<(), PorterError> {
    let entries = match std::fs::read_dir(places.temp()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PorterError::file("list", places.temp())(error)),
    };
    let ours = [
        format!("proxmove-{}.manifest", places.name()),
        format!("proxmove-{}.seal", places.name()),
        format!("proxmove-{}.agent", places.name()),
    ];
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // `proxmove-NAME.manifest-PID` is a draft, `proxmove-NAME.agent-XYZ` a directory with a socket.
        let is_ours = ours.iter().any(|own| {
            name.strip_prefix(own.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        if !is_ours {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            std::fs::remove_dir_all(&path).map_err(PorterError::file("remove", &path))?;
        } else {
            remove_file(&path)?;
        }
    }
    Ok(())
}
