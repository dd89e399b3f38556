//! Devices of the host: what cannot leave with the guest.
//!
//! Pure. Read next: `volumes.rs`.

use crate::plan::Verdict;
use crate::plan::facts::WantedGuest;
use crate::pve::drive::{Drive, DriveSource};
use crate::pve::property::PropertyString;

/// Returns what a key takes from the host, or `None` when it takes nothing.
pub fn local(key: &str, value: &str) -> Option<String> {
    let properties = PropertyString::parse(value);
    let is = |wanted: &str| {
        properties.bare() == Some(wanted) || properties.value("host") == Some(wanted)
    };
    let mapped = |what: &str| match properties.value("mapping") {
        Some(mapping) => format!("{what} (mapping {mapping})"),
        None => what.to_owned(),
    };
    match key.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "hostpci" => Some(mapped("a PCI device of the host")),
        "usb" if !is("spice") => Some(mapped("a USB device of the host")),
        "serial" if !is("socket") => Some("a serial port of the host".to_owned()),
        "parallel" => Some("a parallel port of the host".to_owned()),
        "virtiofs" => Some("a directory of the host".to_owned()),
        "ivshmem" => Some("memory shared with the host".to_owned()),
        _ => None,
    }
}

/// Returns what a drive takes from the host, or `None` when it takes nothing.
pub fn local_drive(drive: &Drive) -> Option<String> {
    match &drive.source {
        DriveSource::PhysicalCdrom => Some("the node's own CD-ROM drive".to_owned()),
        DriveSource::Path(path) => Some(format!("the path {path} of the host")),
        DriveSource::Nothing | DriveSource::Volume(_) => None,
    }
}

/// Refuses every device of the host that the guest uses.
pub fn all(name: &str, guest: &WantedGuest) -> Vec<Verdict> {
    let vmid = guest.detail.place.vmid;
    let config = &guest.detail.config;
    let refuse = |key: &str, what: String, remedy: String| {
        Verdict::refuse(
            name,
            "local-device",
            format!("{key} is {what}, which cannot move"),
            remedy,
        )
    };
    let keys = config.0.iter().filter_map(|(key, value)| {
        let what = local(key, value)?;
        Some(refuse(key, what, format!("qm set {vmid} --delete {key}")))
    });
    let (drives, wrong) = config.drives();
    let slots = drives.iter().filter_map(|drive| {
        let remedy = if drive.is_cdrom() {
            format!("qm set {vmid} --{} none,media=cdrom", drive.key)
        } else {
            format!(
                "move it to a storage by hand, or qm set {vmid} --delete {}",
                drive.key
            )
        };
        Some(refuse(&drive.key.to_string(), local_drive(drive)?, remedy))
    });
    let odd = wrong.iter().map(|(key, error)| {
        Verdict::refuse(
            name,
            "drive-unreadable",
            format!("{key} is not understood: {error}"),
            format!("look at it: qm config {vmid}"),
        )
    });
    keys.chain(slots).chain(odd).collect()
}
