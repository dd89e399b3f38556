//! A small world to plan in: one guest on apple that may go to banana. Tests change one thing at a time.
//!
//! Only for tests. Everything in it is in order, so that a test's verdicts are about what the test changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Decision, decide};
use super::facts::zfs::{DatasetKind, Features, ZfsFacts, ZfsRights, ZvolFacts};
use super::facts::{
    DirectoryFacts, ExistingMoves, HostFacts, HostKey, Hosts, SourceFacts, TargetFacts,
    VolumeFacts, WantedGuest,
};
use super::mark::Mark;
use super::{MoveRequest, Severity, Verdict};
use crate::config::{Origin, SshAddress, StorageConfig, StoragePath};
use crate::plan::facts::Existing;
use crate::pve::guest::{GuestConfig, GuestDetail, GuestKind, GuestRef, GuestSummary, Power};
use crate::pve::id::Vmid;
use crate::pve::inventory::{Node, Permissions, Release, Storage, Volume};
use crate::transfer::Verify;
use crate::units::Bytes;

/// Parses an id that a test spells right.
pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a well-formed id")
}

/// Returns a release.
pub(crate) fn release(text: &str) -> Release {
    id(text)
}

/// Everything a decision starts from.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) request: MoveRequest,
    pub(crate) source: SourceFacts,
    pub(crate) target: TargetFacts,
    pub(crate) hosts: Hosts,
    pub(crate) existing: ExistingMoves,
}

/// Returns a node that is online.
pub(crate) fn node(name: &str) -> Node {
    Node {
        name: id(name),
        online: true,
        address: Some("192.0.2.1".to_owned()),
        maintenance: false,
    }
}

/// Returns one line of a guest list.
pub(crate) fn summary(node: &str, vmid: u32, name: &str) -> GuestSummary {
    GuestSummary {
        place: place(node, vmid),
        name: Some(name.to_owned()),
        power: Power::Running,
        template: false,
        lock: None,
        tags: Vec::new(),
        pool: None,
        ha_state: None,
        memory: None,
        memory_used: None,
        cpus: None,
        cpu_used: None,
    }
}

/// Returns where a virtual machine is.
pub(crate) fn place(node: &str, vmid: u32) -> GuestRef {
    GuestRef {
        node: id(node),
        kind: GuestKind::Qemu,
        vmid: Vmid::new(vmid).expect("a VMID"),
    }
}

/// Returns a storage section; its path is a directory or `zfs:` and a dataset.
pub(crate) fn section(cluster: &str, storage: &str, host: &str, path: &str) -> StorageConfig {
    StorageConfig {
        cluster: id(cluster),
        storage: id(storage),
        node: None,
        ssh: SshAddress {
            user: Some("root".to_owned()),
            host: host.to_owned(),
            port: None,
        },
        peer: None,
        path: match path.strip_prefix("zfs:") {
            Some(dataset) => StoragePath::Zfs(dataset.to_owned()),
            None => StoragePath::Directory(path.to_owned()),
        },
        temp: "/var/tmp/proxmove".to_owned(),
        origin: Origin::File,
    }
}

/// Returns a host where everything is as it should be.
pub(crate) fn host(address: &str) -> HostFacts {
    let directory = DirectoryFacts {
        exists: true,
        writable: true,
        executable: true,
        free: Some(Bytes::gib(500)),
    };
    HostFacts {
        address: address.to_owned(),
        system: "Linux".to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        ssh: Some((9, 2)),
        tools: ["dd", "sha256sum"].map(str::to_owned).into(),
        path: Some(directory.clone()),
        temp: directory,
        listing: BTreeMap::new(),
        zfs: None,
    }
}

/// Returns a host that has ZFS, with a dataset in order and the zvols of that guest.
pub(crate) fn zfs_host(address: &str, zvols: &[&str]) -> HostFacts {
    let features = [
        "embedded_data",
        "encryption",
        "extensible_dataset",
        "large_blocks",
        "lz4_compress",
        "zstd_compress",
    ]
    .map(str::to_owned);
    let zvol = ZvolFacts {
        size: Bytes::gib(50),
        referenced: Some(Bytes::gib(12)),
        logical: Some(Bytes::gib(18)),
        block_size: Some(Bytes::kib(16)),
        sparse: true,
        compression: "lz4".to_owned(),
        encryption: None,
    };
    let mut host = host(address);
    host.path = None;
    host.tools.extend(["zfs", "zpool"].map(str::to_owned));
    host.zfs = Some(ZfsFacts {
        version: Some((2, 3)),
        kind: Some(DatasetKind::Filesystem),
        available: Some(Bytes::gib(500)),
        zvols: zvols
            .iter()
            .map(|name| ((*name).to_owned(), zvol.clone()))
            .collect(),
        health: Some("ONLINE".to_owned()),
        features: Some(Features {
            enabled: features.clone().into(),
            active: features.into(),
        }),
        rights: ZfsRights::Root,
        ..ZfsFacts::default()
    });
    host
}

/// Returns a storage of the target node.
pub(crate) fn storage(name: &str, kind: &str, content: &[&str]) -> Storage {
    Storage {
        id: id(name),
        kind: kind.to_owned(),
        content: content.iter().map(|word| (*word).to_owned()).collect(),
        enabled: true,
        active: true,
        shared: false,
        available: Bytes::gib(500),
        total: Bytes::gib(1000),
        settings: BTreeMap::new(),
    }
}

/// Returns a configuration out of `key: value` lines.
pub(crate) fn config(lines: &str) -> GuestConfig {
    let pairs = lines
        .lines()
        .filter_map(|line| line.trim().split_once(": "));
    GuestConfig(
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    )
}

impl World {
    /// Returns a running guest `web1` with one disk, a CD-ROM drive and a network card, which may go.
    pub(crate) fn new() -> World {
        World::of(
            "boot: order=virtio0;ide2;net0\ncores: 2\ndigest: 1\nide2: none,media=cdrom\nmemory: 2048\nname: web1\n\
             net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\nvirtio0: san:565/vm-565-disk-0.qcow2,size=50G",
        )
    }

    /// Returns a world whose guest has that configuration; each drive's volume is 50 GiB, of which 20 are used.
    pub(crate) fn of(lines: &str) -> World {
        let config = config(lines);
        let from = section("apple", "san", "san.apple.example", "/pool0/san/images");
        let to = section("banana", "ssd", "node2.banana.example", "/ssd/images");
        let mut source_host = host("root@san.apple.example");
        let volumes = config
            .drives()
            .0
            .iter()
            .filter_map(|drive| Some((drive.key, drive.volume()?.clone())))
            .map(|(key, volid)| {
                if let Some((_, file)) = volid.volname.split_once('/') {
                    let files = source_host.listing.entry(id("565")).or_default();
                    files.insert(file.to_owned());
                }
                let format = volid.volname.rsplit('.').next().unwrap_or("raw").to_owned();
                let volume = Volume {
                    volid,
                    format,
                    size: Bytes::gib(50),
                    used: Some(Bytes::gib(20)),
                    path: None,
                    parent: None,
                    owner: Some(id("565")),
                };
                let facts = VolumeFacts {
                    volume: Ok(volume),
                    storage_kind: Some("nfs".to_owned()),
                    section: Ok(from.clone()),
                };
                (key, facts)
            })
            .collect();
        let guest = WantedGuest {
            detail: GuestDetail {
                place: place("node1", 565),
                config,
                pending: Vec::new(),
                snapshots: Vec::new(),
                power: Power::Running,
                qmp_status: "running".to_owned(),
                lock: None,
                ha_managed: false,
                running_machine: None,
            },
            pool: None,
            ha_state: None,
            replication: Vec::new(),
            ha_rules: Vec::new(),
            replicating: Vec::new(),
            sections: BTreeMap::new(),
            volumes,
        };
        World {
            request: MoveRequest {
                source: id("apple"),
                target: id("banana"),
                node: id("node2"),
                storage: id("ssd"),
                guests: vec!["web1".to_owned()],
                skip_disks: false,
                skip_start: false,
                wait_before_stop: false,
                ignore_exists: false,
                allow_plain: false,
                with_snapshots: false,
                forget: false,
                target_vmid: None,
                bridges: BTreeMap::new(),
                storages: BTreeMap::new(),
                max_downtime: None,
                stop_timeout: Duration::from_secs(180),
                boot_check: None,
                on_failure: crate::plan::returning::OnFailure::Keep,
                ha: crate::plan::ha::HaWish::Refuse,
                route: None,
                verify: Verify::Full,
                limit: None,
                parallel: 2,
            },
            source: SourceFacts {
                alias: id("apple"),
                release: release("8.4"),
                user: "root@pam".to_owned(),
                permissions: Permissions::default(),
                nodes: vec![node("node1")],
                guests: vec![summary("node1", 565, "web1")],
                wanted: BTreeMap::from([("web1".to_owned(), guest)]),
                unanswered: Vec::new(),
            },
            target: TargetFacts {
                alias: id("banana"),
                release: release("9.1"),
                user: "root@pam".to_owned(),
                permissions: Permissions::default(),
                nodes: vec![node("node2"), node("node3")],
                guests: vec![summary("node2", 100, "other")],
                storages: vec![storage("ssd", "dir", &["images"])],
                sections: BTreeMap::from([(id("ssd"), Ok(to.clone()))]),
                volumes: BTreeMap::from([(id("ssd"), BTreeSet::new())]),
                bridges: Some(vec!["vmbr0".to_owned(), "vmbr1".to_owned()]),
                machines: Vec::new(),
                pools: Vec::new(),
                schema: None,
                node_files: BTreeMap::new(),
                free_vmids: ["126", "127", "128"].map(id).to_vec(),
                unanswered: Vec::new(),
            },
            hosts: BTreeMap::from([
                (HostKey::of(&from), Ok(source_host)),
                (HostKey::of(&to), Ok(host("root@node2.banana.example"))),
            ]),
            existing: BTreeMap::new(),
        }
    }

    /// Returns a world whose guest has one disk on ZFS, and may go to ZFS.
    pub(crate) fn zfs() -> World {
        let mut world = World::of(
            "boot: order=scsi0;net0\nname: web1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\n\
             scsi0: tank:vm-565-disk-0,size=50G",
        );
        world.source_on_zfs(&["vm-565-disk-0"]);
        world.target_on_zfs();
        world
    }

    /// Puts the guest's volumes of storage tank into tank/data on the source's host.
    pub(crate) fn source_on_zfs(&mut self, zvols: &[&str]) {
        let from = section("apple", "tank", "tank.apple.example", "zfs:tank/data");
        let host = zfs_host("root@tank.apple.example", zvols);
        self.hosts.insert(HostKey::of(&from), Ok(host));
        for facts in self.guest().volumes.values_mut() {
            let Ok(volume) = &mut facts.volume else {
                continue;
            };
            if volume.volid.storage == id("tank") {
                volume.format = "raw".to_owned();
                volume.used = None;
                facts.storage_kind = Some("zfspool".to_owned());
                facts.section = Ok(from.clone());
            }
        }
    }

    /// Makes the target's storage the dataset fast/vms, which is sparse.
    pub(crate) fn target_on_zfs(&mut self) {
        let to = section("banana", "ssd", "node2.banana.example", "zfs:fast/vms");
        let host = zfs_host("root@node2.banana.example", &[]);
        self.hosts
            .retain(|key, _| key.ssh.host != "node2.banana.example");
        self.hosts.insert(HostKey::of(&to), Ok(host));
        self.target.sections.insert(id("ssd"), Ok(to));
        let mut storage = storage("ssd", "zfspool", &["images"]);
        storage.settings.insert("sparse".to_owned(), "1".to_owned());
        self.target.storages = vec![storage];
    }

    /// Returns what a host said about its dataset, to be changed.
    pub(crate) fn dataset(&mut self, address: &str) -> &mut ZfsFacts {
        let host = self.host(address).as_mut().expect("a host");
        host.zfs.as_mut().expect("a dataset")
    }

    /// Returns the guest, to be changed.
    pub(crate) fn guest(&mut self) -> &mut WantedGuest {
        self.source.wanted.get_mut("web1").expect("web1")
    }

    /// Returns the first volume, to be changed.
    pub(crate) fn volume(&mut self) -> &mut Volume {
        let facts = self.guest().volumes.values_mut().next().expect("a drive");
        facts.volume.as_mut().expect("a volume")
    }

    /// Returns the host of a cluster's storage, to be changed.
    pub(crate) fn host(&mut self, address: &str) -> &mut Result<HostFacts, String> {
        let found = self
            .hosts
            .iter_mut()
            .find(|(key, _)| key.ssh.host.contains(address));
        found.expect("a host").1
    }

    /// Returns the mark of a move of web1 without volumes.
    pub(crate) fn new_mark() -> Mark {
        Mark {
            source_cluster: id("apple"),
            source: place("node1", 565),
            name: "web1".to_owned(),
            running: true,
            onboot: true,
            by: "admin@desk".to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            onboot_set: true,
            id: None,
            made_from: None,
            returning: false,
            ha: None,
            order: None,
            claim: None,
            volumes: BTreeMap::new(),
            kept: None,
            finishing: false,
        }
    }

    /// Makes web1 the guest of a move that began earlier, with these volumes on the target.
    pub(crate) fn began(&mut self, volumes: &[(&str, &str)]) {
        let mark = Mark {
            volumes: volumes
                .iter()
                .map(|(key, volid)| (id(key), id(volid)))
                .collect(),
            ..World::new_mark()
        };
        let target = place("node2", 140);
        self.target
            .guests
            .push(summary("node2", 140, "web1--CREATING"));
        self.existing.insert(
            "web1".to_owned(),
            Existing {
                target,
                mark,
                former: None,
            },
        );
    }

    /// Lets web1 go back to its former self, 140 on node2, which has these drives.
    pub(crate) fn goes_back(&mut self, drives: &[(&str, &str)]) {
        self.began(drives);
        let existing = self.existing.get_mut("web1").expect("web1");
        existing.mark.kept = Some(drives.iter().map(|(key, _)| id(key)).collect());
        let mut config = self.source.wanted["web1"].detail.config.clone();
        config
            .0
            .retain(|key, _| key.parse::<crate::pve::drive::DriveKey>().is_err());
        for (key, volid) in drives {
            config
                .0
                .insert((*key).to_owned(), format!("{volid},size=50G"));
        }
        existing.former = Some(Box::new(GuestDetail {
            place: place("node2", 140),
            config,
            power: Power::Stopped,
            qmp_status: String::new(),
            ..self.source.wanted["web1"].detail.clone()
        }));
        let retired = summary("node2", 140, "web1--MIGRATED");
        self.target.guests.pop();
        self.target.guests.push(retired);
    }

    /// Decides.
    pub(crate) fn decide(&self) -> Decision {
        decide(
            &self.request,
            &self.source,
            &self.target,
            &self.hosts,
            &self.existing,
        )
    }

    /// Returns the codes of all refusals and warnings, `!` before refusals.
    pub(crate) fn codes(&self) -> Vec<String> {
        let decision = self.decide();
        let mut codes: Vec<String> = decision.all_verdicts().map(code).collect();
        codes.sort();
        codes.dedup();
        codes
    }
}

/// Returns a verdict's code, `!` before that of a refusal.
pub(crate) fn code(verdict: &Verdict) -> String {
    match verdict.severity {
        Severity::Refuse => format!("!{}", verdict.code),
        Severity::Warn => verdict.code.to_owned(),
    }
}
