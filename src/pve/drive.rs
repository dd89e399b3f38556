//! Drives: a guest's slots for volumes (`virtio0`, `efidisk0`) and what is in them.
//!
//! Pure. Read next: `inventory.rs`.

use std::fmt;
use std::str::FromStr;

use super::id::{InvalidId, Volid};
use super::property::PropertyString;

/// The kind of slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bus {
    /// `ide0` to `ide3`.
    Ide,
    /// `sata0` to `sata5`.
    Sata,
    /// `scsi0` to `scsi30`.
    Scsi,
    /// `virtio0` to `virtio15`.
    Virtio,
    /// `efidisk0`.
    EfiDisk,
    /// `tpmstate0`.
    TpmState,
    /// `unused0` to `unused255`: owned by the guest, attached to nothing.
    Unused,
}

impl Bus {
    const ALL: [(Bus, &'static str, u16); 7] = [
        (Bus::Ide, "ide", 4),
        (Bus::Sata, "sata", 6),
        (Bus::Scsi, "scsi", 31),
        (Bus::Virtio, "virtio", 16),
        (Bus::EfiDisk, "efidisk", 1),
        (Bus::TpmState, "tpmstate", 1),
        (Bus::Unused, "unused", 256),
    ];
}

/// A guest's slot: `virtio0`, `scsi1`, `ide2`, `efidisk0`, `tpmstate0`, `unused3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveKey {
    /// The kind of slot.
    pub bus: Bus,
    /// The slot's number.
    pub index: u16,
}

impl fmt::Display for DriveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Bus::ALL
            .iter()
            .find(|(bus, ..)| *bus == self.bus)
            .map_or("", |(_, name, _)| name);
        f.pad(&format!("{name}{}", self.index))
    }
}

impl FromStr for DriveKey {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<DriveKey, InvalidId> {
        let digits = text.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let name = &text[..text.len() - digits.len()];
        // A number's own parser would also take "+5" and "05", which Proxmox VE does not.
        let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        Bus::ALL
            .iter()
            .find(|(_, bus_name, _)| *bus_name == name)
            .and_then(|(bus, _, count)| {
                let index = digits
                    .parse()
                    .ok()
                    .filter(|index| canonical && index < count)?;
                Some(DriveKey { bus: *bus, index })
            })
            .ok_or_else(|| InvalidId {
                kind: "drive",
                text: text.to_owned(),
                hint: Some("such as scsi0 or virtio1"),
            })
    }
}

/// What stands in a drive's first place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveSource {
    /// `none`: an empty CD-ROM drive.
    Nothing,
    /// `cdrom`: the node's physical drive.
    PhysicalCdrom,
    /// A volume on a storage.
    Volume(Volid),
    /// An absolute path on the node, such as a raw device.
    Path(String),
}

/// One drive of a guest: its slot, what is in it, and its other properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// The slot.
    pub key: DriveKey,
    /// What is in it.
    pub source: DriveSource,
    /// All other properties, in their order, without the source.
    pub properties: PropertyString,
}

impl Drive {
    /// Parses a drive's value, such as `local:100/vm-100-disk-0.qcow2,discard=on,size=4G`.
    ///
    /// The source may be bare, `file=` or `volume=`.
    pub fn parse(key: DriveKey, text: &str) -> Result<Drive, InvalidId> {
        let mut properties = PropertyString::parse(text);
        let place = properties
            .parts
            .iter()
            .position(|(key, _)| matches!(key.as_deref(), None | Some("file" | "volume")))
            .ok_or_else(|| InvalidId {
                kind: "drive value",
                text: text.to_owned(),
                hint: Some("STORAGE:VOLUME,..."),
            })?;
        let (_, value) = properties.parts.remove(place);
        let source = match value.as_str() {
            "none" => DriveSource::Nothing,
            "cdrom" => DriveSource::PhysicalCdrom,
            path if path.starts_with('/') => DriveSource::Path(path.to_owned()),
            volid => DriveSource::Volume(volid.parse()?),
        };
        Ok(Drive {
            key,
            source,
            properties,
        })
    }

    /// Returns the volume, when there is one.
    pub fn volume(&self) -> Option<&Volid> {
        match &self.source {
            DriveSource::Volume(volid) => Some(volid),
            DriveSource::Nothing | DriveSource::PhysicalCdrom | DriveSource::Path(_) => None,
        }
    }

    /// Says whether this is a CD-ROM drive (cloud-init drives are CD-ROMs as well).
    pub fn is_cdrom(&self) -> bool {
        self.properties.value("media") == Some("cdrom")
            || matches!(
                self.source,
                DriveSource::Nothing | DriveSource::PhysicalCdrom
            )
    }

    /// Says whether this is a cloud-init drive, which is created anew on the target rather than copied.
    pub fn is_cloudinit(&self) -> bool {
        self.is_cdrom()
            && self.volume().is_some_and(|volid| {
                let file = volid.volname.rsplit('/').next().unwrap_or_default();
                file == "cloudinit"
                    || file
                        .split('.')
                        .next()
                        .is_some_and(|stem| stem.ends_with("-cloudinit"))
            })
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            DriveSource::Nothing => "none".to_owned(),
            DriveSource::PhysicalCdrom => "cdrom".to_owned(),
            DriveSource::Volume(volid) => volid.to_string(),
            DriveSource::Path(path) => path.clone(),
        };
        // Bare, what stands before the sign would be taken for a key.
        if source.contains('=') {
            f.write_str("file=")?;
        }
        f.write_str(&source)?;
        if !self.properties.parts.is_empty() {
            write!(f, ",{}", self.properties)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
