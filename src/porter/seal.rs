//! The seal: proof that a final pass completed, and of what.
//!
//! A volume is synced only while the source still has the times and size it had during that pass, and the target, too;
//! so a seal cannot outlive a write to either. Block devices have no such times. Of a zvol, ZFS itself tells whether it
//! was written to since a snapshot; the engine takes that snapshot, the seal names it, and the engine judges it
//! (`transfer/device.rs`). Any other device is never synced by a seal. Read next: `places.rs`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::device::measure;
use super::error::PorterError;
use super::manifest::{remove_file, sync_directory};

/// What tells one state of a source volume from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// Bytes.
    pub(crate) size: u64,
    /// Last write, nanoseconds since 1970.
    pub(crate) written: i64,
    /// Last change of the inode, nanoseconds since 1970; cannot be set back by a program.
    pub(crate) changed: i64,
    /// The inode.
    pub(crate) inode: u64,
    /// Whether this is a file, whose times tell of writes; a block device's do not.
    pub(crate) file: bool,
    /// The guid of the snapshot since which a zvol must not have been written to, as the engine gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<u64>,
}

impl SourceState {
    /// Looks at a volume.
    pub(crate) fn of(path: &Path) -> Result<SourceState, PorterError> {
        let found = std::fs::metadata(path).map_err(PorterError::file("look at", path))?;
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        if !found.is_file() {
            // What its node in /dev tells is not about its content, and changes when the machine starts anew.
            let size = File::open(path).and_then(|device| measure(&device));
            return Ok(SourceState {
                size: size.map_err(PorterError::file("measure", path))?,
                written: 0,
                changed: 0,
                inode: 0,
                file: false,
                snapshot: None,
            });
        }
        Ok(SourceState {
            size: found.len(),
            written: nanoseconds(found.mtime(), found.mtime_nsec()),
            changed: nanoseconds(found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
            file: true,
            snapshot: None,
        })
    }

    /// Returns the state as it travels.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What a final pass leaves in the target's temp directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// 1.
    pub(crate) version: u32,
    /// The source as the pass found and left it.
    pub(crate) source: SourceState,
    /// What both sides agreed on, in hexadecimal.
    pub(crate) digest: String,
    /// The target volume.
    pub(crate) path: String,
    /// Its size when the pass ended.
    pub(crate) target_size: u64,
    /// Its last write when the pass ended, nanoseconds since 1970.
    pub(crate) target_written: i64,
}

impl Seal {
    /// Writes the seal, durably, complete or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), PorterError> {
        let draft = path.with_extension("seal-new");
        let json = serde_json::to_vec(self)
            .map_err(|error| PorterError::file("write", path)(error.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(PorterError::file("create", &draft))?;
        file.write_all(&json)
            .and_then(|()| file.sync_all())
            .map_err(PorterError::file("write", &draft))?;
        std::fs::rename(&draft, path).map_err(PorterError::file("create", path))?;
        sync_directory(path)
    }

    /// Reads a seal; `None` when there is none that makes sense.
    pub(crate) fn read(path: &Path) -> Option<Seal> {
        let json = std::fs::read(path).ok()?;
        let seal: Seal = serde_json::from_slice(&json).ok()?;
        (seal.version == 1).then_some(seal)
    }

    /// Breaks the seal, durably. Call before a pass writes.
    pub(crate) fn break_it(path: &Path) -> Result<(), PorterError> {
        if path.exists() {
            remove_file(path)?;
            sync_directory(path)?;
        }
        Ok(())
    }

    /// Says whether there is a seal, and the target is not as its pass left it.
    pub(crate) fn is_broken_by(path: &Path, target: &SourceState) -> bool {
        Seal::read(path).is_some_and(|seal| !seal.holds_for(target))
    }

    /// Says whether the target is as the pass left it.
    pub(crate) fn holds_for(&self, target: &SourceState) -> bool {
        self.target_size == target.size && self.target_written == target.written
    }
}
