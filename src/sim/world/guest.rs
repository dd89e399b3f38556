//! One guest: its configuration, what is pending, its snapshots, whether it runs.
//!
//! Pure apart from looking at the clock for its uptime. Volumes are only names here; their files are in `storage.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Cluster;
use super::machine::{GuestImage, RunningGuest};
use crate::pve::drive::{Bus, DriveKey};
use crate::sim::api::check::{boot_order, parse_size};
use crate::sim::api::config_keys;
use crate::sim::api::schema::{Kind, Version};

/// A snapshot of a guest.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it holds the memory.
    pub with_memory: bool,
    /// Unix time.
    pub taken: u64,
    /// The snapshot before it.
    pub parent: Option<String>,
    /// The configuration at that time.
    pub config: BTreeMap<String, String>,
}

/// A running guest's process.
#[derive(Clone, Debug)]
pub struct Run {
    /// The process.
    pub pid: u32,
    /// Its start.
    pub since: Instant,
    /// QEMU's word.
    pub qmp_status: String,
}

/// One guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// Whether it is a container.
    pub container: bool,
    /// Its node.
    pub node: String,
    /// Its configuration without what is pending.
    pub config: BTreeMap<String, String>,
    /// Values that wait for the next start.
    pub pending: BTreeMap<String, String>,
    /// Deletions that wait, with 2 for forced ones.
    pub pending_delete: BTreeMap<String, u8>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Its process.
    pub run: Option<Run>,
    /// The task that holds the lock on its configuration file.
    pub holder: Option<String>,
    /// How fast it writes, in bytes per second.
    pub write_rate: u64,
    /// How long it takes to shut down, in milliseconds.
    pub shutdown: u64,
    /// Whether it does not react to a shutdown.
    pub ignores_shutdown: bool,
    /// CPU it uses while it runs, 0.0 to 1.0 of its own.
    pub cpu: f64,
    /// What a migration of it fails with half-way; empty for none.
    pub migration_fault: String,
    /// The node it is on its way to.
    pub migrating_to: Option<String>,
}

/// Keys that take effect at once on a running guest.
const IMMEDIATE: &[&str] = &[
    "lock",
    "name",
    "onboot",
    "shares",
    "startup",
    "description",
    "protection",
    "vmstatestorage",
    "hookscript",
    "tags",
    "hotplug",
    "template",
    "autostart",
    "migrate_downtime",
    "migrate_speed",
];

/// Returns the volume in a drive's value: the part without a key, or `file=`/`volume=`.
pub fn volume_of(value: &str) -> &str {
    value
        .split(',')
        .find_map(|part| match part.split_once('=') {
            None => Some(part),
            Some(("file" | "volume", volume)) => Some(volume),
            Some(_) => None,
        })
        .unwrap_or_default()
}

/// Returns one option of a drive's value.
pub fn option_of<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Tells whether a drive's value is a CD drive.
pub fn is_cdrom(value: &str) -> bool {
    option_of(value, "media") == Some("cdrom") || matches!(volume_of(value), "none" | "cdrom")
}

/// Returns the guest a volume belongs to by its name.
pub fn owner_of(volid: &str) -> Option<u32> {
    let (_, name) = volid.split_once(':')?;
    match name.split_once('/') {
        Some((owner, _)) => owner.parse().ok(),
        None => super::storage::owner_in_name(name),
    }
}

/// Tells whether a key is a slot for a disk that is attached (not `unusedN`).
pub fn is_drive(key: &str) -> bool {
    key.parse::<DriveKey>()
        .is_ok_and(|key| key.bus != Bus::Unused)
}

/// Tells whether a key holds a volume: a drive, attached or not, or what a container mounts.
pub fn holds_volume(key: &str) -> bool {
    let numbered = |stem| {
        key.strip_prefix(stem)
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    key == "rootfs" || numbered("mp") || key.parse::<DriveKey>().is_ok()
}

impl Guest {
    /// Returns a guest that has no configuration yet.
    pub fn new(vmid: u32, node: &str) -> Guest {
        Guest {
            vmid,
            container: false,
            node: node.to_owned(),
            config: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_delete: BTreeMap::new(),
            snapshots: Vec::new(),
            run: None,
            holder: None,
            write_rate: 0,
            shutdown: 100,
            ignores_shutdown: false,
            cpu: 0.0,
            migration_fault: String::new(),
            migrating_to: None,
        }
    }

    /// Tells whether its create task still works.
    pub fn is_being_created(&self) -> bool {
        self.lock() == Some("create")
            && !self.config.contains_key("memory")
            && self.config.len() == 1
    }

    /// Returns `VM` or `CT`, as messages say.
    pub fn kind_word(&self) -> &'static str {
        match self.container {
            true => "CT",
            false => "VM",
        }
    }

    /// Tells whether it is a template.
    pub fn is_template(&self) -> bool {
        self.flag("template")
    }

    /// Returns its lock.
    pub fn lock(&self) -> Option<&str> {
        self.config.get("lock").map(String::as_str)
    }

    /// Returns `VM is locked (x)` when it is.
    pub fn check_lock(&self) -> Result<(), String> {
        match self.lock() {
            Some(lock) => Err(format!("{} is locked ({lock})", self.kind_word())),
            None => Ok(()),
        }
    }

    /// Returns its name; a VM without one is shown by its number.
    pub fn name(&self) -> String {
        let key = if self.container { "hostname" } else { "name" };
        let unnamed = self.kind_word();
        match self.config.get(key) {
            Some(name) => name.clone(),
            None => format!("{unnamed} {}", self.vmid),
        }
    }

    /// Returns the configuration with what is pending applied.
    pub fn effective(&self) -> BTreeMap<String, String> {
        let mut config = self.config.clone();
        config.retain(|key, _| !self.pending_delete.contains_key(key));
        config.extend(self.pending.clone());
        config
    }

    /// Returns the digest of its configuration file.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in self.config.iter().chain(&self.pending) {
            hash.update(format!("{key}: {value}\n"));
        }
        for key in self.pending_delete.keys() {
            hash.update(format!("delete: {key}\n"));
        }
        for snapshot in &self.snapshots {
            hash.update(format!("[{}]\n", snapshot.name));
        }
        // The real digest is a SHA-1, so forty digits are what clients know.
        hash.finalize()
            .iter()
            .take(20)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Returns the value of a key as JSON, typed as the release does it.
    pub fn shown(key: &str, value: &str, release: Version) -> Value {
        let kind = config_keys::key(key).map(|param| param.kind_in(release));
        match (kind, value.parse::<i64>()) {
            (Some(Kind::Integer | Kind::Boolean), Ok(number)) => json!(number),
            _ if key == "cipassword" => json!("**********"),
            _ => json!(value),
        }
    }

    /// Returns its attached drives.
    pub fn drives(&self) -> impl Iterator<Item = (&String, &String)> {
        self.config.iter().filter(|(key, _)| is_drive(key))
    }

    /// Returns all volumes its configuration names, attached or not, also pending and in snapshots.
    pub fn volumes(&self) -> Vec<String> {
        let of = |config: &BTreeMap<String, String>| -> Vec<String> {
            config
                .iter()
                .filter(|(key, _)| holds_volume(key))
                .map(|(_, value)| volume_of(value).to_owned())
                .filter(|volume| volume.contains(':'))
                .collect()
        };
        let mut volumes = of(&self.config);
        volumes.extend(of(&self.pending));
        volumes.extend(
            self.snapshots
                .iter()
                .flat_map(|snapshot| of(&snapshot.config)),
        );
        volumes.sort();
        volumes.dedup();
        volumes
    }

    /// Returns the slot it boots from.
    pub fn boot_disk(&self) -> Option<String> {
        let boot = self.config.get("boot").map_or("", String::as_str);
        let listed = boot_order(boot).into_iter().flatten();
        listed
            .filter(|key| is_drive(key))
            .find(|key| self.config.get(key).is_some_and(|value| !is_cdrom(value)))
            .or_else(|| self.config.get("bootdisk").cloned())
    }

    fn disk_size(&self) -> u64 {
        let key = match self.container {
            true => Some("rootfs".to_owned()),
            false => self.boot_disk(),
        };
        key.and_then(|key| self.config.get(&key))
            .and_then(|value| option_of(value, "size"))
            .and_then(parse_size)
            .unwrap_or(0)
    }

    /// Returns its memory in bytes.
    pub fn memory(&self) -> u64 {
        let memory = self.config.get("memory").map_or("512", String::as_str);
        let memory = memory.strip_prefix("current=").unwrap_or(memory);
        memory.parse::<u64>().unwrap_or(512) << 20
    }

    /// Returns the number of its virtual CPUs.
    pub fn cpus(&self) -> u64 {
        let number = |key: &str| self.config.get(key).and_then(|n| n.parse::<u64>().ok());
        if self.container {
            // One without a limit may use all of its node, which only the node knows; one stands for it here.
            return number("cores").unwrap_or(1);
        }
        number("vcpus").unwrap_or(number("sockets").unwrap_or(1) * number("cores").unwrap_or(1))
    }

    fn flag(&self, key: &str) -> bool {
        self.config.get(key).is_some_and(|value| value == "1")
    }

    fn counters(&self, release: Version) -> Map<String, Value> {
        let uptime = self
            .run
            .as_ref()
            .map_or(0, |run| run.since.elapsed().as_secs());
        let mem = if self.run.is_some() {
            self.memory() / 32
        } else {
            0
        };
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(self.name()));
        row.insert("uptime".to_owned(), json!(uptime));
        row.insert("mem".to_owned(), json!(mem));
        row.insert("maxmem".to_owned(), json!(self.memory()));
        row.insert("maxdisk".to_owned(), json!(self.disk_size()));
        for key in ["cpu", "disk", "diskread", "diskwrite", "netin", "netout"] {
            row.insert(key.to_owned(), json!(0));
        }
        if self.run.is_some() && self.cpu > 0.0 {
            row.insert("cpu".to_owned(), json!(self.cpu));
        }
        if release >= (9, 0) {
            row.insert("memhost".to_owned(), json!(mem));
        }
        let status = if self.run.is_some() {
            "running"
        } else {
            "stopped"
        };
        row.insert("status".to_owned(), json!(status));
        row
    }

    /// Returns what its node broadcasts of it.
    pub fn resource_row(&self, cluster: &Cluster) -> Map<String, Value> {
        let mut row = self.counters(cluster.release());
        row.insert("maxcpu".to_owned(), json!(self.cpus()));
        row.insert(
            "template".to_owned(),
            json!(u8::from(self.flag("template"))),
        );
        row
    }

    /// Returns its line in the node's own list.
    pub fn list_row(&self, release: Version) -> Map<String, Value> {
        let mut row = self.counters(release);
        // Before 7.0 the list has numbers as text.
        let vmid = if release < (7, 0) {
            json!(self.vmid.to_string())
        } else {
            json!(self.vmid)
        };
        row.insert("vmid".to_owned(), vmid);
        let cpus = match self.config.contains_key("vcpus") {
            true => json!(self.cpus().to_string()),
            false => json!(self.cpus()),
        };
        row.insert("cpus".to_owned(), cpus);
        if let Some(run) = &self.run {
            let pid = if release < (7, 0) {
                json!(run.pid.to_string())
            } else {
                json!(run.pid)
            };
            row.insert("pid".to_owned(), pid);
        }
        if let Some(lock) = self.lock() {
            row.insert("lock".to_owned(), json!(lock));
        }
        if let Some(tags) = self.config.get("tags") {
            row.insert("tags".to_owned(), json!(tags));
        }
        if self.flag("template") {
            row.insert("template".to_owned(), json!(1));
        }
        if self.config.keys().any(|key| key.starts_with("serial")) {
            row.insert("serial".to_owned(), json!(1));
        }
        if release >= (9, 0) && self.run.is_some() && !self.container {
            for what in ["cpu", "io", "memory"] {
                for how in ["some", "full"] {
                    row.insert(format!("pressure{what}{how}"), json!(0));
                }
            }
        }
        if release >= (9, 2) {
            row.remove("diskread");
            row.remove("diskwrite");
        }
        let balloon = self
            .config
            .get("balloon")
            .and_then(|n| n.parse::<u64>().ok());
        if let Some(balloon) = balloon.filter(|balloon| *balloon > 0) {
            let shares = self
                .config
                .get("shares")
                .and_then(|n| n.parse::<u64>().ok());
            row.insert("balloon_min".to_owned(), json!(balloon << 20));
            row.insert("shares".to_owned(), json!(shares.unwrap_or(1000)));
        }
        if self.container {
            row.insert("type".to_owned(), json!("lxc"));
            row.insert("swap".to_owned(), json!(0));
            row.insert("maxswap".to_owned(), json!(0));
        }
        row
    }

    /// Tells whether a change of `key` takes effect on the running guest at once.
    pub fn is_hot(&self, key: &str, old: Option<&str>, new: Option<&str>) -> bool {
        let features = self
            .config
            .get("hotplug")
            .map_or("network,disk,usb", String::as_str);
        let features = if features == "1" {
            "network,disk,usb"
        } else {
            features
        };
        let has = |feature| features.split(',').any(|word| word == feature);
        if IMMEDIATE.contains(&key) {
            return true;
        }
        if key.starts_with("unused") {
            return true;
        }
        if let Ok(slot) = key.parse::<DriveKey>() {
            let cdrom = |value: Option<&str>| value.is_some_and(is_cdrom);
            return match (old, new) {
                // Another medium in a drive that stays a CD drive.
                (Some(_), Some(_)) if cdrom(old) && cdrom(new) => true,
                (None | Some(_), Some(_)) if cdrom(new) => false,
                (Some(_), None) if cdrom(old) => false,
                _ => has("disk") && matches!(slot.bus, Bus::Scsi | Bus::Virtio),
            };
        }
        key.strip_prefix("net")
            .is_some_and(|n| n.parse::<u32>().is_ok())
            && has("network")
    }

    /// Applies one waiting change: a value, or a deletion. A drive that goes becomes `unusedN` when it is owned.
    pub fn settle(&mut self, key: &str) {
        if self.pending_delete.remove(key).is_some()
            && let Some(old) = self.config.remove(key)
            && is_drive(key)
        {
            self.keep_as_unused(&old);
        }
        if let Some(value) = self.pending.remove(key) {
            let old = self.config.insert(key.to_owned(), value.clone());
            if let Some(old) = old
                && is_drive(key)
                && volume_of(&old) != volume_of(&value)
            {
                self.keep_as_unused(&old);
            }
            if is_drive(key) {
                let volume = volume_of(&value).to_owned();
                self.config.retain(|slot, held| {
                    !(slot.starts_with("unused") && volume_of(held) == volume)
                });
            }
        }
    }

    /// Applies everything that waits; done for a stopped guest, and when it starts or stops.
    pub fn settle_all(&mut self) {
        let mut keys: Vec<String> = self.pending_delete.keys().cloned().collect();
        keys.extend(self.pending.keys().cloned());
        for key in keys {
            self.settle(&key);
        }
    }

    /// Puts the volume of a drive that was taken out into a free `unusedN`, when it is this guest's own.
    pub fn keep_as_unused(&mut self, old: &str) {
        let volume = volume_of(old).to_owned();
        if is_cdrom(old) || owner_of(&volume) != Some(self.vmid) {
            return;
        }
        let mut values = self.config.iter();
        if values.any(|(key, value)| key.parse::<DriveKey>().is_ok() && volume_of(value) == volume)
        {
            return;
        }
        let free = (0..256)
            .map(|n| format!("unused{n}"))
            .find(|key| !self.config.contains_key(key));
        if let Some(key) = free {
            self.config.insert(key, volume);
        }
    }
}

impl Cluster {
    /// Returns a guest with the files of its disks, for whoever plays it.
    pub fn running_guest(&self, guest: &Guest) -> RunningGuest {
        let image = |(key, value): (&String, &String)| {
            let drive: DriveKey = key.parse().ok()?;
            if is_cdrom(value) {
                return None;
            }
            let name = self.parse_volume(volume_of(value)).ok()?;
            let volume = self.look_at_volume(name, &guest.node).ok()??;
            Some(GuestImage {
                drive,
                format: volume.name.format().to_owned(),
                size: volume.facts.as_ref()?.size,
                path: volume.path,
            })
        };
        RunningGuest {
            cluster: self.alias.clone(),
            vmid: guest.vmid,
            images: guest.drives().filter_map(image).collect(),
            write_rate: guest.write_rate,
        }
    }
}
