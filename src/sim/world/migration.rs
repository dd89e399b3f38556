//! Migration inside a cluster: what stands in its way, and what it carries.
//!
//! The refusals are those of Proxmox VE, which come early (in the answer) or late (in the task). Disks of storages that
//! are not shared are really moved to the directory of the other node. What it cannot do and the real thing can:
//! converting a disk to another format. Read next: `migration/carry.rs`,
//! `../api/migrate.rs`.

mod carry;

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use super::guest::{Guest, holds_volume, is_cdrom, option_of, volume_of};

/// Where volumes go, by the storage they are on.
#[derive(Clone, Debug, Default)]
pub struct StorageMap {
    /// By name.
    pub entries: BTreeMap<String, String>,
    /// For all others.
    pub default: Option<String>,
    /// Whether all stay where they are, said with the word `1`.
    pub identity: bool,
}

impl StorageMap {
    /// Reads `a:b,c:d`, `a` or `1`.
    pub fn parse(text: &str) -> Result<StorageMap, String> {
        let mut map = StorageMap::default();
        for part in text.split([',', ';', ' ']).filter(|part| !part.is_empty()) {
            match part.split_once(':') {
                Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                    if map.entries.insert(from.to_owned(), to.to_owned()).is_some() {
                        return Err(format!("duplicate mapping for '{from}' to '{to}'\n"));
                    }
                }
                Some(_) => return Err(format!("invalid mapping '{part}'\n")),
                None if part == "1" => map.identity = true,
                None => map.default = Some(part.to_owned()),
            }
        }
        Ok(map)
    }

    /// Returns where the volumes of a storage go.
    pub fn target<'a>(&'a self, storage: &'a str) -> &'a str {
        match (self.entries.get(storage), &self.default) {
            (Some(target), _) => target,
            (None, Some(target)) => target,
            (None, None) => storage,
        }
    }

    /// Returns all storages it names as targets.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.entries
            .values()
            .chain(&self.default)
            .map(String::as_str)
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The node to go to.
    pub target: String,
    /// Whether to migrate while the guest runs.
    pub online: bool,
    /// Whether disks that are not shared may be copied while it runs.
    pub with_local_disks: bool,
    /// Whether devices of the node are no reason to refuse; root may say so.
    pub force: bool,
    /// Where volumes go.
    pub storages: StorageMap,
}

/// One volume that has to be carried.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Its id.
    pub volid: String,
    /// The storage it goes to.
    pub storage: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the guest goes on writing to it.
    pub online: bool,
}

/// A volume as a configuration refers to it.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// The keys that name it, in the current configuration.
    pub keys: Vec<String>,
    /// Whether it is in a CD drive.
    pub cdrom: bool,
    /// The snapshots that need it.
    pub snapshots: BTreeSet<String>,
}

/// Returns the volumes a guest refers to, also those of its snapshots.
pub fn references(guest: &Guest) -> BTreeMap<String, Reference> {
    let mut found: BTreeMap<String, Reference> = BTreeMap::new();
    let mut look = |config: &BTreeMap<String, String>, snapshot: Option<&str>| {
        for (key, value) in config.iter().filter(|(key, _)| holds_volume(key)) {
            let volume = volume_of(value);
            if volume == "none" || volume.is_empty() {
                continue;
            }
            let reference = found.entry(volume.to_owned()).or_default();
            reference.cdrom |= is_cdrom(value);
            match snapshot {
                Some(name) => {
                    reference.snapshots.insert(name.to_owned());
                }
                None => reference.keys.push(key.clone()),
            }
        }
    };
    look(&guest.config, None);
    look(&guest.pending, None);
    for snapshot in &guest.snapshots {
        look(&snapshot.config, Some(&snapshot.name));
    }
    found
}

impl Cluster {
    /// Returns the keys of a VM's devices that belong to its node, and those by a mapping with the mapping's name.
    pub fn local_resources(&self, guest: &Guest) -> (Vec<String>, BTreeMap<String, String>) {
        let (mut local, mut mapped) = (Vec::new(), BTreeMap::new());
        for key in ["ivshmem", "amd-sev", "intel-tdx"] {
            if guest.config.contains_key(key) {
                local.push(key.to_owned());
            }
        }
        for (key, value) in &guest.config {
            let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
            if stem == key
                || !matches!(stem, "usb" | "hostpci" | "serial" | "parallel" | "virtiofs")
            {
                continue;
            }
            let is_spice =
                stem == "usb" && (value == "spice" || option_of(value, "host") == Some("spice"));
            if is_spice || (stem == "serial" && value == "socket") {
                continue;
            }
            let directory = (stem == "virtiofs").then(|| volume_of(value));
            if let Some(name) = option_of(value, "mapping")
                .or(option_of(value, "dirid"))
                .or(directory)
            {
                mapped.insert(key.clone(), name.to_owned());
                let live = self
                    .mappings
                    .iter()
                    .any(|known| known.id == name && known.live_migration);
                if live || (stem == "hostpci" && guest.run.is_none()) {
                    continue;
                }
            }
            local.push(key.clone());
        }
        (local, mapped)
    }

    /// Returns the keys of devices whose mapping a node does not have.
    pub fn missing_mappings(&self, mapped: &BTreeMap<String, String>, node: &str) -> Vec<String> {
        let has = |id: &String| {
            let mut known = self.mappings.iter().filter(|known| known.id == *id);
            known.any(|known| known.nodes.iter().any(|name| name == node))
        };
        let missing = mapped.iter().filter(|(_, id)| !has(id));
        missing.map(|(key, _)| key.clone()).collect()
    }

    /// Checks that a storage may be used on a node for a kind of content.
    fn storage_takes(
        &self,
        volid: &str,
        storage: &str,
        node: &str,
        content: &str,
    ) -> Result<(), String> {
        let found = self.usable_storage(storage, node)?;
        match found.content.split(',').any(|word| word == content) {
            true => Ok(()),
            false => Err(format!(
                "{volid}: content type '{content}' is not available on storage '{storage}'"
            )),
        }
    }

    /// Finds what a VM's migration has to carry, as the task does after it has begun; writes down what it meets.
    pub fn scan_vm(
        &self,
        guest: &Guest,
        wish: &Wish,
        log: &mut Vec<String>,
    ) -> Result<Vec<Transfer>, String> {
        let running = guest.run.is_some();
        if running && !wish.online {
            return Err("can't migrate running VM without --online".to_owned());
        }
        let (local, mapped) = self.local_resources(guest);
        let blocking: Vec<String> = local
            .into_iter()
            .filter(|key| !mapped.contains_key(key))
            .collect();
        if !blocking.is_empty() && (running || !wish.force) {
            return Err(format!(
                "can't migrate VM which uses local devices: {}",
                blocking.join(", ")
            ));
        }
        let missing = self.missing_mappings(&mapped, &wish.target);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(format!(
                "can't migrate to '{}': missing mapped devices {missing}",
                wish.target
            ));
        }
        let rooted: Vec<String> = mapped
            .iter()
            .filter(|(_, id)| {
                !self
                    .mappings
                    .iter()
                    .any(|known| known.id == **id && known.live_migration)
            })
            .map(|(key, id)| format!("{key}:{id}"))
            .collect();
        if running && !rooted.is_empty() {
            let rooted = rooted.join(", ");
            return Err(format!(
                "can't live migrate running VM which uses following mapped devices: {rooted}"
            ));
        }
        let (mut transfers, mut errors) = (Vec::new(), Vec::new());
        for (volid, reference) in references(guest) {
            match self.test_volume(guest, &volid, &reference, wish) {
                Ok(None) => {}
                Ok(Some(transfer)) => {
                    let attached = reference.keys.iter().any(|key| !key.starts_with("unused"));
                    let generated =
                        reference.cdrom || reference.keys.iter().any(|key| key == "tpmstate0");
                    log.push(match (generated, attached) {
                        (true, _) => {
                            format!("found generated disk '{volid}' (in current VM config)")
                        }
                        (_, true) => format!("found local disk '{volid}' (attached)"),
                        (_, false) if reference.keys.is_empty() => {
                            format!("found local disk '{volid}' (referenced by snapshot(s))")
                        }
                        _ => format!("found local disk '{volid}' (unused)"),
                    });
                    if running && attached && !generated && !wish.with_local_disks {
                        let text = "can't live migrate attached local disks without with-local-disks option";
                        errors.push((volid, text.to_owned()));
                        continue;
                    }
                    transfers.push(Transfer {
                        online: running && attached && !generated,
                        ..transfer
                    });
                }
                Err(text) => errors.push((volid, text)),
            }
        }
        if errors.is_empty() {
            return Ok(transfers);
        }
        for (volid, text) in errors {
            log.push(match volid == "cdrom" {
                true => text,
                false => format!("can't migrate local disk '{volid}': {text}"),
            });
        }
        let scanning = match self.release() < (7, 0) {
            true => "Failed to sync data",
            false => "Problem found while scanning volumes",
        };
        Err(format!("{scanning} - can't migrate VM - check log"))
    }

    fn test_volume(
        &self,
        guest: &Guest,
        volid: &str,
        reference: &Reference,
        wish: &Wish,
    ) -> Result<Option<Transfer>, String> {
        if volid == "cdrom" {
            return Err("can't migrate local cdrom drive".to_owned());
        }
        if volid.starts_with('/') {
            return Err("local file/device".to_owned());
        }
        let name = self.parse_volume(volid)?;
        let storage = self.usable_storage(&name.storage, &guest.node)?;
        let target = match storage.shared {
            true => name.storage.as_str(),
            false => wish.storages.target(&name.storage),
        };
        self.storage_takes(volid, target, &wish.target, name.content)?;
        if storage.shared {
            return Ok(None);
        }
        let found = self.look_at_volume(name.clone(), &guest.node)?;
        let missing = || format!("volume '{volid}' does not exist");
        let found = found.ok_or_else(missing)?;
        let size = found
            .facts
            .as_ref()
            .map_or(found.file_size, |facts| facts.size);
        let transfer = Transfer {
            volid: volid.to_owned(),
            storage: target.to_owned(),
            size,
            online: false,
        };
        if reference.cdrom {
            return match volid.contains("-cloudinit") {
                true => Ok(Some(transfer)),
                false => Err("local cdrom image".to_owned()),
            };
        }
        if name.owner != Some(guest.vmid) {
            return Err(match name.owner {
                Some(owner) => format!("owned by other VM (owner = VM {owner})"),
                None => "owned by other VM (owner = VM )".to_owned(),
            });
        }
        if !reference.snapshots.is_empty() {
            if guest.run.is_some() {
                return Err(
                    "online storage migration not possible if non-replicated snapshot exists"
                        .to_owned(),
                );
            }
            if storage.kind != "zfspool" && name.format() != "qcow2" {
                return Err("non-migratable snapshot exists".to_owned());
            }
        }
        Ok(Some(transfer))
    }

    /// Finds what a container's migration has to carry. It is shut down by then.
    pub fn scan_container(
        &self,
        guest: &Guest,
        wish: &Wish,
        log: &mut Vec<String>,
    ) -> Result<Vec<Transfer>, String> {
        let mut transfers = Vec::new();
        for (volid, reference) in references(guest) {
            let key = reference.keys.first().map_or("snapshot", String::as_str);
            let shared = guest
                .config
                .get(key)
                .is_some_and(|value| option_of(value, "shared") == Some("1"));
            if volid.starts_with('/') {
                let kind = if volid.starts_with("/dev/") {
                    "device"
                } else {
                    "bind"
                };
                match shared {
                    true => continue,
                    false => {
                        return Err(format!("cannot migrate local {kind} mount point '{key}'"));
                    }
                }
            }
            let name = self.parse_volume(&volid)?;
            let storage = self.usable_storage(&name.storage, &guest.node)?;
            let roots = |content: &str| content.split(',').any(|word| word == "rootdir");
            if !roots(&storage.content) {
                return Err(format!(
                    "content type 'rootdir' is not available on storage '{}'",
                    storage.id
                ));
            }
            let target = match storage.shared {
                true => storage.id.as_str(),
                false => wish.storages.target(&storage.id),
            };
            self.storage_takes(&volid, target, &wish.target, "rootdir")?;
            if storage.shared {
                log.push(format!(
                    "volume '{volid}' is on shared storage '{}'",
                    storage.id
                ));
                continue;
            }
            if !reference.snapshots.is_empty() && storage.kind != "zfspool" {
                log.push(format!(
                    "can't migrate local volume '{volid}': non-migratable snapshot exists"
                ));
                return Err("can't migrate CT - check log".to_owned());
            }
            let found = self.look_at_volume(name, &guest.node)?;
            let found = found.ok_or_else(|| format!("volume '{volid}' does not exist"))?;
            transfers.push(Transfer {
                size: found
                    .facts
                    .as_ref()
                    .map_or(found.file_size, |facts| facts.size),
                storage: target.to_owned(),
                volid,
                online: false,
            });
        }
        Ok(transfers)
    }
}
