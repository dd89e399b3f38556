//! Drives: the value each slot gets on the target.
//!
//! Pure. It never chooses a volume name or a format; `decide` hands them in. Read next: `../decide.rs`.

use super::schema::{Fit, Known};
use crate::plan::{ConfigNote, Verdict};
use crate::pve::drive::{Bus, Drive, DriveSource};
use crate::pve::id::{StorageId, Volid};
use crate::pve::property::PropertyString;

/// What an ejected CD-ROM drive holds.
pub(crate) const EJECTED: &str = "none,media=cdrom";

/// A drive's value on the target, and what is to be said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriveValue {
    /// The value.
    pub(crate) value: String,
    /// What is different.
    pub(crate) notes: Vec<ConfigNote>,
    /// What must not go on.
    pub(crate) verdicts: Vec<Verdict>,
}

/// Whether the target's storage gives freed space back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sparse {
    /// It does.
    Yes,
    /// It does not: the whole size is reserved.
    No,
}

fn note(drive: &Drive, action: &'static str, reason: impl Into<String>) -> ConfigNote {
    ConfigNote {
        key: drive.key.to_string(),
        action,
        reason: reason.into(),
    }
}

/// Returns the value that attaches `volid`, with all properties of the source's drive that still hold.
pub(crate) fn attached(
    guest: &str,
    drive: &Drive,
    volid: &Volid,
    sparse: Sparse,
    fit: &Fit<'_>,
) -> DriveValue {
    let mut out = DriveValue::default();
    let mut properties = PropertyString::default();
    if fit.key(&drive.key.to_string()) != Known::Yes {
        out.verdicts.push(Verdict::refuse(
            guest,
            "key-unsupported",
            format!(
                "{}: the target's release does not know such a drive",
                drive.key
            ),
            "update the target, or remove the drive",
        ));
    }
    for (part, value) in &drive.properties.parts {
        let Some(part) = part else {
            continue;
        };
        match part.as_str() {
            // The server rewrites the size from the volume, and takes the format from its name.
            "size" | "format" | "file" | "volume" | "import-from" => continue,
            "cyls" | "heads" | "secs" | "trans" => {
                let reason = format!("without '{part}', which QEMU no longer knows");
                out.notes.push(note(drive, "changed", reason));
                continue;
            }
            "shared" => {
                let reason = "without 'shared', which is about the old storage";
                out.notes.push(note(drive, "changed", reason));
                continue;
            }
            _ => {}
        }
        match fit.part(&drive.key.to_string(), part) {
            Known::Yes => properties.set(part, value),
            Known::NoButHarmless => {
                let reason = format!("without '{part}', which the target does not know");
                out.notes.push(note(drive, "changed", reason));
            }
            Known::No => out.verdicts.push(Verdict::refuse(
                guest,
                "key-unsupported",
                format!("{}: the target does not know '{part}'", drive.key),
                format!("update the target, or remove '{part}' from {}", drive.key),
            )),
        }
    }
    let trims = match drive.key.bus {
        Bus::Scsi | Bus::Virtio => true,
        // Old guests on emulated controllers gain nothing, firmware and TPM have no such property.
        Bus::Ide | Bus::Sata | Bus::EfiDisk | Bus::TpmState | Bus::Unused => false,
    };
    if trims && sparse == Sparse::Yes && properties.value("discard").is_none() {
        properties.set("discard", "on");
        let reason = "discard=on, so that the guest can give space back to the storage";
        out.notes.push(note(drive, "added", reason));
    }
    out.value = volid.to_string();
    if !properties.parts.is_empty() {
        out.value = format!("{volid},{properties}");
    }
    out
}

/// Returns the value of an ejected CD-ROM drive.
pub(crate) fn ejected(drive: &Drive) -> DriveValue {
    let mut out = DriveValue {
        value: EJECTED.to_owned(),
        ..DriveValue::default()
    };
    if let DriveSource::Volume(volid) = &drive.source {
        let reason = format!("{volid} is ejected");
        out.notes.push(note(drive, "changed", reason));
    }
    out
}

/// Returns the value that makes the target create a cloud-init drive of its own.
pub(crate) fn cloudinit(drive: &Drive, storage: &StorageId) -> DriveValue {
    DriveValue {
        value: format!("{storage}:cloudinit"),
        notes: vec![note(
            drive,
            "changed",
            "the cloud-init drive is made anew from the same settings",
        )],
        verdicts: Vec::new(),
    }
}
