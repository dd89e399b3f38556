//! One guest looked at closely: what its configuration and the cluster's preconditions say about moving it.
//!
//! Translates, and asks for sizes that are not in the configuration. Never changes anything. Read next:
//! `plan/evacuate/way.rs`, which judges this.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Api, ApiError};
use crate::plan::evacuate::facts::{GuestSeen, LocalVolume};
use crate::plan::evacuate::note::Away;
use crate::pve::drive::DriveSource;
use crate::pve::guest::{GuestConfig, GuestDetail, GuestKind, GuestRef, Power};
use crate::pve::id::{NodeName, StorageId, Volid};
use crate::pve::migration::{MigratePreconditions, NodeObstacles};
use crate::pve::property::PropertyString;
use crate::units::Bytes;

/// Reads one guest: what is known of it, whether it runs, its lock.
pub(super) async fn read(
    api: &dyn Api,
    place: &GuestRef,
    shared: &BTreeSet<StorageId>,
) -> Result<(GuestSeen, Power, Option<String>), ApiError> {
    let detail = api.guest(place).await?;
    // A lock makes the cluster refuse the question; the lock is a reason of its own to wait.
    let asked = match api.migrate_preconditions(place, None).await {
        Err(ApiError::Refused {
            status: 500,
            reason,
            ..
        }) if reason.contains("locked") => None,
        answer => answer?,
    };
    let mut seen = of_config(&detail, shared);
    if let Some(asked) = asked {
        add_preconditions(&mut seen, &asked);
    }
    for volume in &mut seen.local {
        if volume.size == Bytes::ZERO
            && !volume.cdrom
            && let Ok(volid) = volume.volid.parse::<Volid>()
        {
            volume.size = api.volume(&place.node, &volid).await?.size;
        }
    }
    Ok((seen, detail.power, detail.lock))
}

fn of_config(detail: &GuestDetail, shared: &BTreeSet<StorageId>) -> GuestSeen {
    let config = &detail.config;
    let mut seen = GuestSeen {
        snapshots: !detail.snapshots.is_empty(),
        bridges: bridges(config),
        away: Away::parse(detail.description()),
        ..GuestSeen::default()
    };
    if let Some(startup) = config.value("startup") {
        let startup = PropertyString::parse(startup);
        // A bare number is the order.
        let order = startup.value("order").or_else(|| startup.bare());
        seen.order = order.and_then(|order| order.parse().ok());
        seen.up_delay = startup
            .value("up")
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(0);
    }
    match detail.place.kind {
        GuestKind::Qemu => of_vm(&mut seen, config, shared),
        GuestKind::Lxc => of_container(&mut seen, config, shared),
    }
    seen
}

fn of_vm(seen: &mut GuestSeen, config: &GuestConfig, shared: &BTreeSet<StorageId>) {
    let (drives, odd) = config.drives();
    seen.devices
        .extend(odd.into_iter().map(|(key, _)| key.to_string()));
    for drive in drives {
        match &drive.source {
            DriveSource::Nothing => {}
            DriveSource::PhysicalCdrom | DriveSource::Path(_) => {
                seen.devices.push(drive.key.to_string());
            }
            // Made anew wherever the guest is started.
            DriveSource::Volume(_) if drive.is_cloudinit() => {}
            DriveSource::Volume(volid) => {
                let size = drive.properties.value("size");
                add_volume(seen, volid, size, drive.is_cdrom(), shared);
            }
        }
    }
}

fn of_container(seen: &mut GuestSeen, config: &GuestConfig, shared: &BTreeSet<StorageId>) {
    let is_mount = |key: &str| {
        key == "rootfs"
            || ["mp", "unused"].iter().any(|prefix| {
                key.strip_prefix(prefix)
                    .is_some_and(|rest| rest.parse::<u16>().is_ok())
            })
    };
    for (key, value) in &config.0 {
        if key.starts_with("dev") && key[3..].parse::<u16>().is_ok() {
            seen.devices.push(key.clone());
            continue;
        }
        if !is_mount(key) {
            continue;
        }
        let properties = PropertyString::parse(value);
        let source = properties.bare().or_else(|| properties.value("volume"));
        match source.map(str::parse::<Volid>) {
            Some(Ok(volid)) => add_volume(seen, &volid, properties.value("size"), false, shared),
            // A directory or device of the node; its owner may have said that all nodes have it.
            _ if properties.value("shared") == Some("1") => {}
            _ => seen.devices.push(key.clone()),
        }
    }
}

fn add_volume(
    seen: &mut GuestSeen,
    volid: &Volid,
    size: Option<&str>,
    cdrom: bool,
    shared: &BTreeSet<StorageId>,
) {
    seen.storages.insert(volid.storage.clone());
    let known = seen
        .local
        .iter()
        .any(|volume| volume.volid == volid.to_string());
    if shared.contains(&volid.storage) || known {
        return;
    }
    seen.local.push(LocalVolume {
        volid: volid.to_string(),
        storage: Some(volid.storage.clone()),
        format: format_of(volid),
        size: size.and_then(size_in_bytes).unwrap_or_default(),
        cdrom,
    });
}

fn add_preconditions(seen: &mut GuestSeen, asked: &MigratePreconditions) {
    for disk in asked.local_disks.iter().filter(|disk| !disk.cloud_init) {
        if let Some(known) = seen
            .local
            .iter_mut()
            .find(|volume| volume.volid == disk.volid.to_string())
        {
            known.size = disk.size.unwrap_or(known.size);
            continue;
        }
        seen.storages.insert(disk.volid.storage.clone());
        seen.local.push(LocalVolume {
            volid: disk.volid.to_string(),
            storage: Some(disk.volid.storage.clone()),
            format: format_of(&disk.volid),
            size: disk.size.unwrap_or_default(),
            cdrom: disk.cdrom,
        });
    }
    for device in &asked.local_resources {
        match asked.mapped_resources.get(device) {
            None if !seen.devices.contains(device) => seen.devices.push(device.clone()),
            None => {}
            Some(mapped) if mapped.live_migration => {}
            Some(_) => seen.only_stopped.push(device.clone()),
        }
    }
    for (device, mapped) in &asked.mapped_resources {
        if !mapped.live_migration && !seen.only_stopped.contains(device) {
            seen.only_stopped.push(device.clone());
        }
    }
    seen.allowed.clone_from(&asked.allowed_nodes);
    seen.refused = asked
        .not_allowed
        .iter()
        .map(|(node, obstacles)| (node.clone(), words(obstacles)))
        .collect::<BTreeMap<NodeName, Vec<String>>>();
}

fn words(obstacles: &NodeObstacles) -> Vec<String> {
    let storages = obstacles
        .storages
        .iter()
        .map(|id| format!("no storage {id}"));
    let devices = obstacles
        .resources
        .iter()
        .map(|id| format!("no device for {id}"));
    let ha = obstacles
        .ha
        .iter()
        .map(|(sid, why)| format!("{sid} in the way ({why})"));
    storages.chain(devices).chain(ha).collect()
}

fn bridges(config: &GuestConfig) -> BTreeSet<String> {
    let is_net = |key: &str| {
        key.strip_prefix("net")
            .is_some_and(|rest| rest.parse::<u16>().is_ok())
    };
    config
        .0
        .iter()
        .filter(|(key, _)| is_net(key))
        .filter_map(|(_, value)| {
            PropertyString::parse(value)
                .value("bridge")
                .map(str::to_owned)
        })
        .collect()
}

/// Returns a volume's format by its name; what is no file is raw, or a directory of a container.
fn format_of(volid: &Volid) -> String {
    let name = volid.last_name();
    match name.rsplit_once('.') {
        Some((_, format @ ("qcow2" | "vmdk" | "raw" | "subvol"))) => format.to_owned(),
        _ if name.starts_with("subvol-") => "subvol".to_owned(),
        _ => "raw".to_owned(),
    }
}

/// Reads a size as the configuration writes it: `4G`, `512M`, `4194304K`.
fn size_in_bytes(text: &str) -> Option<Bytes> {
    let unit = text.chars().last()?;
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return text.parse().ok().map(Bytes),
    };
    let number: f64 = text[..text.len() - 1].parse().ok()?;
    // `as` saturates; sizes may have a fraction.
    (number >= 0.0).then(|| Bytes((number * f64::from(1u32 << (shift - 10)) * 1024.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(config: &[(&str, &str)]) -> GuestSeen {
        let detail = GuestDetail {
            place: GuestRef {
                node: "pve1".parse().expect("parses"),
                kind: GuestKind::Lxc,
                vmid: "101".parse().expect("parses"),
            },
            config: GuestConfig(
                config
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            pending: Vec::new(),
            snapshots: Vec::new(),
            power: Power::Running,
            qmp_status: String::new(),
            lock: None,
            ha_managed: false,
            running_machine: None,
        };
        of_config(&detail, &BTreeSet::from(["nfs".parse().expect("parses")]))
    }

    #[test]
    fn a_container_s_mounts_are_told_apart() {
        let seen = container(&[
            ("rootfs", "local-zfs:subvol-101-disk-0,size=8G"),
            ("mp0", "nfs:101/vm-101-disk-0.raw,mp=/data,size=4G"),
            ("mp1", "/srv/media,mp=/media"),
            ("mp2", "/srv/all,mp=/all,shared=1"),
            ("dev0", "/dev/dri/card0"),
            ("net0", "name=eth0,bridge=vmbr1,ip=dhcp"),
            ("startup", "order=3,up=20"),
        ]);
        assert_eq!(seen.local.len(), 1);
        assert_eq!(seen.local[0].size, Bytes::gib(8));
        assert_eq!(seen.local[0].format, "subvol");
        assert_eq!(seen.devices, ["dev0", "mp1"]);
        assert_eq!(seen.storages.len(), 2);
        assert_eq!(seen.bridges, BTreeSet::from(["vmbr1".to_owned()]));
        assert_eq!((seen.order, seen.up_delay), (Some(3), 20));
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(size_in_bytes("4G"), Some(Bytes::gib(4)));
        assert_eq!(size_in_bytes("528K"), Some(Bytes::kib(528)));
        assert_eq!(size_in_bytes("1.5T"), Some(Bytes::gib(1536)));
        assert_eq!(size_in_bytes("4096"), Some(Bytes(4096)));
        assert_eq!(size_in_bytes("G"), None);
        assert_eq!(size_in_bytes(""), None);
    }
}
