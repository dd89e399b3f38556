//! The boot order: kept as it is, in its old form too, and set when its devices exist.
//!
//! Pure. Read next: `drives.rs`.

use super::Translator;
use crate::pve::drive::{Bus, DriveKey};
use crate::pve::property::PropertyString;

/// The boot order is set at the end, because every device it names must exist.
pub(super) fn order(t: &mut Translator<'_>) {
    let (guest, drives) = (t.input.guest, t.input.drives);
    let config = &guest.detail.config;
    let boot = config.value("boot").map(str::to_owned);
    let bootdisk = config.value("bootdisk").map(str::to_owned);
    let exists = |device: &str| match device.parse::<DriveKey>() {
        Ok(key) => drives.contains(&key),
        Err(_) => config.value(device).is_some(),
    };
    let order = boot.as_deref().and_then(|boot| {
        let properties = PropertyString::parse(boot);
        properties.value("order").map(str::to_owned)
    });
    if let Some(order) = order {
        let (kept, gone): (Vec<&str>, Vec<&str>) = order
            .split(';')
            .filter(|device| !device.is_empty())
            .partition(|device| exists(device));
        let (kept, gone) = (kept.join(";"), gone.join(", "));
        if !gone.is_empty() {
            t.note(
                "boot",
                "changed",
                format!("without {gone}, which the target will not have"),
            );
        }
        if !kept.is_empty() {
            t.finish("boot", &format!("order={kept}"));
            t.note("boot", "kept for later", "set when its devices exist");
        }
        return;
    }
    if boot.is_some() || bootdisk.is_some() {
        let disk = bootdisk.filter(|disk| exists(disk));
        if let Some(boot) = boot {
            t.finish("boot", &boot);
        }
        if let Some(disk) = disk {
            t.finish("bootdisk", &disk);
        }
        t.note(
            "boot",
            "kept for later",
            "set when its devices exist; kept in its old form",
        );
        return;
    }
    // Without a boot order the target would make one up at creation, when there is no drive yet.
    let order = default_order(t);
    if !order.is_empty() {
        t.finish("boot", &format!("order={}", order.join(";")));
        t.note(
            "boot",
            "added",
            "what Proxmox VE assumes when there is no boot order",
        );
    }
}

/// Returns the first disk, the first CD-ROM drive and the first network card: Proxmox VE's default.
fn default_order(t: &Translator<'_>) -> Vec<String> {
    let config = &t.input.guest.detail.config;
    let (mut drives, _) = config.drives();
    drives.retain(|drive| {
        t.input.drives.contains(&drive.key)
            && matches!(
                drive.key.bus,
                Bus::Ide | Bus::Scsi | Bus::Virtio | Bus::Sata
            )
    });
    // Proxmox VE looks at the buses in this order.
    drives.sort_by_key(|drive| {
        let bus = match drive.key.bus {
            Bus::Ide => 0,
            Bus::Scsi => 1,
            Bus::Virtio => 2,
            Bus::Sata => 3,
            Bus::EfiDisk | Bus::TpmState | Bus::Unused => 4,
        };
        (bus, drive.key.index)
    });
    let disk = drives.iter().find(|drive| !drive.is_cdrom());
    let cdrom = drives.iter().find(|drive| drive.is_cdrom());
    let card = (0..32)
        .map(|number| format!("net{number}"))
        .find(|key| config.value(key).is_some());
    let slots = disk
        .into_iter()
        .chain(cdrom)
        .map(|drive| drive.key.to_string());
    slots.chain(card).collect()
}
