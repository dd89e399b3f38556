//! Which privilege each key of a configuration needs.
//!
//! Only decides; the refusals are Proxmox VE's own words.

use super::{Call, Refusal};
use crate::sim::world::guest::{is_cdrom, is_drive};

const CPU: &[&str] = &[
    "cores", "cpu", "cpulimit", "cpuunits", "numa", "smp", "sockets", "vcpus",
];
const MEMORY: &[&str] = &["memory", "balloon", "shares", "allow-ksm"];
const HARDWARE: &[&str] = &[
    "acpi", "hotplug", "kvm", "machine", "scsihw", "smbios1", "tablet", "vga", "watchdog", "audio0",
];
const OPTIONS: &[&str] = &[
    "agent",
    "autostart",
    "bios",
    "description",
    "keyboard",
    "localtime",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "ostype",
    "protection",
    "reboot",
    "startdate",
    "startup",
    "tdf",
    "template",
    "tags",
];
const DISK: &[&str] = &["boot", "bootdisk", "vmstatestorage"];
const CLOUD_INIT: &[&str] = &[
    "cicustom",
    "cipassword",
    "citype",
    "ciuser",
    "ciupgrade",
    "nameserver",
    "searchdomain",
    "sshkeys",
];

fn numbered(key: &str, stem: &str) -> bool {
    key.strip_prefix(stem)
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Checks that the caller may set (`value`) or delete (`None`) a key of a guest; `old` is what it holds now.
pub(super) fn may_change(
    call: &Call<'_>,
    vmid: u32,
    pool: Option<&str>,
    key: &str,
    value: Option<&str>,
    old: Option<&str>,
) -> Result<(), Refusal> {
    if call.who.is_root() {
        return Ok(());
    }
    let need = |any: &[&str]| {
        let path = format!("/vms/{vmid}");
        let by_pool =
            pool.is_some_and(|pool| call.cluster.may(&call.who, &format!("/pool/{pool}"), any));
        match by_pool || call.cluster.may(&call.who, &path, any) {
            true => Ok(()),
            false => Err(Refusal::forbidden(&path, any)),
        }
    };
    let verb = if old.is_some() { "modify" } else { "set" };
    if is_drive(key) || key == "cdrom" {
        return match value.or(old).is_some_and(is_cdrom) {
            true => need(&["VM.Config.CDROM"]),
            false => need(&["VM.Config.Disk"]),
        };
    }
    if CPU.contains(&key) || numbered(key, "numa") {
        return need(&["VM.Config.CPU"]);
    }
    if MEMORY.contains(&key) {
        return need(&["VM.Config.Memory"]);
    }
    if HARDWARE.contains(&key) {
        return need(&["VM.Config.HWType"]);
    }
    if OPTIONS.contains(&key) {
        need(&["VM.Config.Options"])?;
        return match key {
            "startup" => call.require("/", &["Sys.Modify"]),
            _ => Ok(()),
        };
    }
    if DISK.contains(&key) || numbered(key, "unused") || numbered(key, "virtiofs") {
        return need(&["VM.Config.Disk"]);
    }
    if numbered(key, "net") {
        return need(&["VM.Config.Network"]);
    }
    if CLOUD_INIT.contains(&key) || numbered(key, "ipconfig") {
        return need(&["VM.Config.Cloudinit", "VM.Config.Network"]);
    }
    if key == "freeze" {
        return need(&["VM.PowerMgmt"]);
    }
    if numbered(key, "serial") {
        need(&["VM.Config.HWType"])?;
        return match value.or(old) {
            Some("socket") => Ok(()),
            _ => Err(Refusal::died(format!(
                "only root can {verb} '{key}' config for real devices"
            ))),
        };
    }
    if numbered(key, "usb") {
        need(&["VM.Config.HWType"])?;
        let text = value.or(old).unwrap_or_default();
        return match text.starts_with("spice") || text.contains("mapping=") {
            true => Ok(()),
            false => Err(Refusal::died(format!(
                "only root can {verb} '{key}' config for real devices"
            ))),
        };
    }
    if numbered(key, "hostpci") && call.release() >= (8, 0) {
        need(&["VM.Config.HWType"])?;
        return match value.or(old).is_some_and(|text| text.contains("mapping=")) {
            true => Ok(()),
            false => Err(Refusal::died(format!(
                "only root can {verb} '{key}' config for non-mapped devices"
            ))),
        };
    }
    if key == "rng0" && call.release() >= (8, 3) {
        need(&["VM.Config.HWType"])?;
        return match value.is_some_and(|text| text.contains("/dev/hwrng")) {
            true => call.require("/mapping/hwrng", &["Mapping.Use"]),
            false => Ok(()),
        };
    }
    Err(Refusal::died(format!("only root can set '{key}' config")))
}

/// Checks that the caller may connect a card to its bridge; since 8.0.
pub(super) fn may_use_bridge(call: &Call<'_>, value: &str) -> Result<(), Refusal> {
    if call.who.is_root() || call.release() < (8, 0) {
        return Ok(());
    }
    let option = |name: &str| {
        value
            .split(',')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let Some(bridge) = option("bridge") else {
        return Ok(());
    };
    let path = match option("tag") {
        Some(tag) => format!("/sdn/zones/localnetwork/{bridge}/{tag}"),
        None => format!("/sdn/zones/localnetwork/{bridge}"),
    };
    call.require(&path, &["SDN.Use"])
}
