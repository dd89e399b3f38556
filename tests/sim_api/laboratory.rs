//! The laboratory the conversations were recorded in, as a scenario, and what its people did by hand in between.

use std::collections::BTreeMap;

use proxmove::sim::Simulation;
use proxmove::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, NodeSpec, Pace, Scenario, StorageSpec, TokenSpec, UserSpec,
};

/// Passwords of the laboratory, which no longer exists.
pub(crate) fn password(user: &str) -> &'static str {
    match user {
        "root@pam" => "rootpw12",
        "mover@pve" => "moverpw12",
        "auditor@pve" => "auditpw12",
        "nobody@pve" => "nobodypw12",
        "vmuser@pve" => "vmuserpw12",
        "half@pve" => "halfpw123",
        "tfa@pve" => "tfapw1234",
        _ => "",
    }
}

fn user(id: &str, acl: &[(&str, &str)]) -> UserSpec {
    UserSpec {
        id: id.to_owned(),
        password: password(id).to_owned(),
        acl: acl
            .iter()
            .map(|(path, roles)| ((*path).to_owned(), (*roles).to_owned()))
            .collect(),
        ..UserSpec::default()
    }
}

const MOVER: &str = "PVEVMAdmin,PVEDatastoreAdmin,PVEPoolAdmin,PVESDNAdmin,PVEAuditor";

fn users(code: &str) -> Vec<UserSpec> {
    let mut root = user("root@pam", &[]);
    root.tokens = vec![
        TokenSpec {
            name: "full".to_owned(),
            secret: "secret".to_owned(),
            ..TokenSpec::default()
        },
        TokenSpec {
            name: "sep".to_owned(),
            secret: "secret".to_owned(),
            privsep: true,
            acl: BTreeMap::from([("/".to_owned(), "PVEAuditor".to_owned())]),
            ..TokenSpec::default()
        },
    ];
    let mut mover = user("mover@pve", &[("/", MOVER)]);
    mover.tokens = vec![
        TokenSpec {
            name: "t1".to_owned(),
            secret: "secret".to_owned(),
            ..TokenSpec::default()
        },
        TokenSpec {
            name: "old".to_owned(),
            secret: "secret".to_owned(),
            expired: true,
            ..TokenSpec::default()
        },
    ];
    let mut tfa = user("tfa@pve", &[]);
    tfa.second_factor = Some(code.to_owned());
    vec![
        root,
        mover,
        user("auditor@pve", &[("/", "PVEAuditor")]),
        user("nobody@pve", &[]),
        user("vmuser@pve", &[("/vms/100", "PVEVMUser")]),
        user("half@pve", &[("/", "PVEVMAdmin")]),
        tfa,
        UserSpec {
            password: "disabpw12".to_owned(),
            disabled: true,
            ..user("disabled@pve", &[])
        },
        UserSpec {
            password: "expirpw12".to_owned(),
            expired: true,
            ..user("expired@pve", &[])
        },
    ]
}

fn storages(with_tank: bool) -> Vec<StorageSpec> {
    let dir = |id: &str, path: &str, content: &str| StorageSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        content: content.to_owned(),
        ..StorageSpec::default()
    };
    let mut local = dir(
        "local",
        "/var/lib/vz",
        "images,iso,vztmpl,snippets,import,rootdir,backup",
    );
    local.extra = BTreeMap::from([("prune-backups".to_owned(), "keep-all=1".to_owned())]);
    let mut iso = dir("iso", "/srv/iso", "iso,vztmpl");
    iso.isos = BTreeMap::from([
        ("tiny.iso".to_owned(), 20 << 20),
        ("virtio-win.iso".to_owned(), 1 << 20),
    ]);
    let mut off = dir("off", "/srv/off", "images");
    off.disabled = true;
    let mut elsewhere = dir("elsewhere", "/srv/elsewhere", "images");
    elsewhere.nodes = vec!["othernode".to_owned()];
    let mut unmounted = dir("unmounted", "/srv/unmounted", "images");
    unmounted.unmounted = true;
    unmounted.disabled = true;
    let mut all = vec![
        local,
        dir("data", "/srv/data", "images,rootdir"),
        iso,
        off,
        elsewhere,
        unmounted,
    ];
    if with_tank {
        let mut tank = dir("tank", "", "images");
        tank.kind = "zfspool".to_owned();
        let extra = [
            ("pool", "tank/vm"),
            ("mountpoint", "/tank/vm"),
            ("sparse", "1"),
        ];
        tank.extra = extra
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        all.push(tank);
    }
    all
}

fn cluster(alias: &str, version: &str, node: &str, with_tank: bool) -> ClusterSpec {
    ClusterSpec {
        alias: alias.to_owned(),
        version: version.to_owned(),
        nodes: vec![NodeSpec {
            name: node.to_owned(),
            qemu: "10.0.2".to_owned(),
            ..NodeSpec::default()
        }],
        storages: storages(with_tank),
        users: users(if version.starts_with('8') {
            "325066"
        } else {
            "305321"
        }),
        ..ClusterSpec::default()
    }
}

fn disk(key: &str, storage: &str, format: &str, options: &str) -> DiskSpec {
    DiskSpec {
        key: key.to_owned(),
        storage: storage.to_owned(),
        format: format.to_owned(),
        size: 1 << 30,
        options: options.to_owned(),
    }
}

fn guest(vmid: u32, name: &str, config: &[(&str, &str)]) -> GuestSpec {
    GuestSpec {
        vmid,
        name: name.to_owned(),
        config: config
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..GuestSpec::default()
    }
}

/// The guest that is moved in `happy-move`.
fn web01() -> GuestSpec {
    let mut guest = guest(
        100,
        "web01.example.com",
        &[
            ("memory", "128"),
            ("cores", "1"),
            ("sockets", "1"),
            ("ostype", "l26"),
            ("onboot", "1"),
            ("agent", "enabled=1"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"),
            ("net1", "e1000=BC:24:11:00:00:02,bridge=vmbr0"),
            ("scsihw", "virtio-scsi-single"),
            ("ide2", "iso:iso/tiny.iso,media=cdrom,size=20M"),
            (
                "smbios1",
                "uuid=76223226-e334-488c-ae8a-a174690e2803,base64=1,manufacturer=ZXhhbXBsZQ==,product=dm0=",
            ),
            ("description", "Line one\nLijn twée: 100% \"q\"\n\ttab end"),
            ("tags", "prod;web"),
            ("boot", "order=virtio0;ide2;net0"),
            ("rng0", "source=/dev/urandom"),
            ("hotplug", "network,disk"),
        ],
    );
    guest.disks = vec![
        disk("virtio0", "data", "qcow2", "iops_rd=5000"),
        disk("scsi1", "local", "raw", "discard=on,ssd=1"),
    ];
    guest.running = true;
    guest.ignores_shutdown = true;
    guest.pool = Some("Customer-1".to_owned());
    guest
}

/// The guest that the older program moves, in several names.
fn plain(name: &str) -> GuestSpec {
    let mut guest = guest(
        100,
        name,
        &[
            ("memory", "128"),
            ("cores", "1"),
            ("sockets", "1"),
            ("ostype", "l26"),
            ("onboot", "1"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("scsihw", "virtio-scsi-pci"),
            ("ide2", "iso:iso/tiny.iso,media=cdrom,size=20M"),
            (
                "smbios1",
                "uuid=76223226-e334-488c-ae8a-a174690e2803,base64=1,manufacturer=ZXhhbXBsZQ==",
            ),
            ("description", "Line one"),
            ("boot", "order=virtio0;ide2;net0"),
        ],
    );
    guest.disks = vec![
        disk("virtio0", "data", "qcow2", ""),
        disk("scsi1", "local", "raw", "discard=on"),
    ];
    guest.pool = Some("Customer-1".to_owned());
    guest
}

fn container() -> GuestSpec {
    let mut guest = guest(
        110,
        "ct110",
        &[("memory", "128"), ("ostype", "debian"), ("arch", "amd64")],
    );
    guest.kind = "lxc".to_owned();
    guest.disks = vec![disk("rootfs", "data", "raw", "")];
    guest
}

/// Returns the laboratory as it was at the start of a recording.
pub(crate) fn scenario(file: &str, first_row: usize) -> Scenario {
    let (version, names) = match file.starts_with("pve8") {
        true => ("8.4.1", [("alpha", "nodea1"), ("beta", "nodeb1")]),
        false => ("9.2.11", [("gamma", "nodeg1"), ("delta", "noded1")]),
    };
    let mut clusters = names.map(|(alias, node)| {
        let with_tank = file.starts_with("pve9") || file.ends_with("-zfs");
        cluster(alias, version, node, with_tank)
    });
    let migrated = |mut guest: GuestSpec| {
        guest.name.push_str("--MIGRATED");
        guest
    };
    match file {
        "pve8-smoke" => {
            let mut guest = migrated(plain("the-vm-to-move"));
            guest.config.insert("onboot".to_owned(), "0".to_owned());
            guest.config.insert(
                "description".to_owned(),
                "Line one\n2026-11-21 02:23:32.258339 UTC: Migrated to the-vm-to-move@nodeb1<qemu/100/stopped>"
                    .to_owned(),
            );
            clusters[0].guests.push(guest);
        }
        "pve8-setup" => {
            clusters[0].guests.push(migrated(plain("the-vm-to-move")));
            let mut moved = plain("the-vm-to-move");
            moved.name = "the-vm-to-move".to_owned();
            clusters[1].guests.push(moved);
        }
        "pve8-happy-move" | "pve9-happy-move" => clusters[0].guests.push(web01()),
        "pve8-proxmove" | "pve9-proxmove" => {
            let mut guest = plain(if first_row == 0 {
                "the-vm-to-move"
            } else {
                "sanity"
            });
            guest.running = true;
            clusters[0].guests.push(guest);
        }
        "pve8-errors" | "pve9-errors" => {
            let mut guest = match file.starts_with("pve8") {
                true => migrated(web01()),
                false => migrated(plain("the-vm-to-move")),
            };
            guest.running = false;
            guest.pool = None;
            clusters[0].guests.push(guest);
            clusters[0].pools.push("Customer-1".to_owned());
        }
        "pve8-proxmove-zfs" => {
            let mut guest = guest(
                105,
                "zvm.example.com",
                &[
                    ("memory", "64"),
                    ("ostype", "l26"),
                    ("scsihw", "virtio-scsi-single"),
                    ("net0", "virtio=BC:24:11:E8:E7:60,bridge=vmbr0"),
                    ("ide2", "iso:iso/tiny.iso,media=cdrom,size=20M"),
                    ("boot", "order=scsi0"),
                ],
            );
            guest.disks = vec![
                disk("scsi0", "tank", "raw", "iothread=1,ssd=1"),
                disk("virtio1", "tank", "raw", ""),
            ];
            guest.disks[1].size = 2 << 30;
            guest.running = true;
            clusters[0].guests.push(guest);
            clusters[0].guests.push(container());
        }
        _ => {}
    }
    let mut pace = Pace::quick();
    // The recordings show both sides of a broadcast; the test decides when one happens.
    pace.broadcast = 3_600_000;
    // Long enough to be seen running on a busy machine.
    pace.task = 150;
    pace.start = 150;
    Scenario {
        clusters: clusters.into(),
        pace,
    }
}

/// Returns where a recording begins anew with another state of the laboratory, and where it ends to make sense alone:
/// later rows clear away what other recordings left.
#[expect(clippy::single_range_in_vec_init, reason = "ranges are what is listed")]
pub(crate) fn sessions(file: &str) -> Vec<std::ops::Range<usize>> {
    match file {
        "pve8-proxmove" => vec![0..30, 30..usize::MAX],
        "pve8-setup" => vec![0..28],
        "pve9-setup" => vec![8..31],
        "pve8-more" => vec![35..usize::MAX],
        "pve9-more" => vec![0..usize::MAX],
        _ => vec![0..usize::MAX],
    }
}

/// Prepares what a scenario cannot say.
pub(crate) fn prepare(simulation: &Simulation, file: &str) {
    let mut world = simulation.world();
    if file == "pve8-smoke" {
        let cluster = &mut world.clusters[0];
        let node = cluster.nodes[0].name.clone();
        let mover = proxmove::sim::world::rights::Identity {
            user: "mover@pve".to_owned(),
            token: None,
        };
        let upid = cluster.add_task(&node, "qmshutdown", "100", &mover);
        if let Some(task) = cluster.task_mut(&upid) {
            task.ended = Some((task.started, "OK".to_owned()));
        }
    }
    if file == "pve8-happy-move" {
        // An earlier guest of the same number was there a moment ago.
        if let Some(row) = world.clusters[0].broadcasts.get(&100).cloned() {
            world.clusters[1].broadcasts.insert(100, row);
        }
    }
}

/// Makes the images that were copied by ssh before a row.
fn copied(simulation: &Simulation, file: &str, number: usize) {
    let (storage, names): (&str, &[&str]) = match (file, number) {
        ("pve8-happy-move" | "pve9-happy-move", 42) => {
            ("data", &["vm-100-disk-0.qcow2", "vm-100-disk-1.raw"])
        }
        ("pve8-proxmove", 22 | 46) | ("pve9-proxmove", 25) => {
            ("data", &["vm-100-disk-0.raw", "vm-100-disk-1.qcow2"])
        }
        ("pve8-proxmove-zfs", 14) => ("tank", &["vm-100-disk-0", "vm-100-disk-1"]),
        _ => return,
    };
    let world = simulation.world();
    let cluster = &world.clusters[1];
    let node = &cluster.nodes[0].name;
    for (place, name) in names.iter().enumerate() {
        let volid = match storage {
            "tank" => format!("tank:{name}"),
            _ => format!("{storage}:100/{name}"),
        };
        let volume = cluster.parse_volume(&volid).expect("a volume's name");
        let size = if storage == "tank" && place == 1 {
            2 << 30
        } else {
            1 << 30
        };
        cluster.allocate(&volume, node, size).expect("allocated");
    }
}

/// Does by hand what was done by hand in the laboratory before a row was recorded.
pub(crate) fn before_row(simulation: &Simulation, file: &str, number: usize, note: &str) {
    copied(simulation, file, number);
    let mut world = simulation.world();
    let cluster = &mut world.clusters[0];
    let images = cluster
        .directory
        .join(&cluster.nodes[0].name)
        .join("srv/data/images/101");
    let mut lock = |lock: Option<&str>| {
        if let Some(guest) = cluster.guests.get_mut(&100) {
            match lock {
                Some(lock) => guest.config.insert("lock".to_owned(), lock.to_owned()),
                None => guest.config.remove("lock"),
            };
        }
    };
    if !file.ends_with("-errors") {
        return;
    }
    match note {
        "corrupt qcow2 attached" => {
            let write = |name: &str, size: u64, text: &str| {
                let path = images.join(name);
                std::fs::write(&path, text).expect("written");
                let file = std::fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .expect("opened");
                file.set_len(size).expect("sized");
            };
            write("vm-101-disk-1.qcow2", 512, "garbage");
            write("foo.qcow2", 512, "garbage");
            write("vm-101-disk-2.raw", 3_146_240, "");
        }
        "storage unmounted status" => {
            for storage in cluster
                .storages
                .iter_mut()
                .filter(|storage| storage.id == "unmounted")
            {
                storage.disabled = false;
            }
        }
        "locked: status" => lock(Some("migrate")),
        "stop on stopped vm" => lock(None),
        "destroy running" => {
            let pid = cluster.next_pid();
            if let Some(guest) = cluster.guests.get_mut(&100) {
                guest.ignores_shutdown = true;
                guest.run = Some(proxmove::sim::world::guest::Run {
                    pid,
                    since: std::time::Instant::now(),
                    qmp_status: "running".to_owned(),
                });
            }
        }
        // None could be taken without qemu-img.
        "snapshot list" => {
            if let Some(guest) = cluster
                .guests
                .get_mut(&103)
                .filter(|guest| guest.snapshots.is_empty())
            {
                guest.snapshots.push(proxmove::sim::world::guest::Snapshot {
                    name: "s1".to_owned(),
                    description: "d".to_owned(),
                    with_memory: false,
                    taken: 1_795_228_131,
                    parent: None,
                    config: guest.config.clone(),
                });
                guest.config.insert("parent".to_owned(), "s1".to_owned());
            }
        }
        _ => {}
    }
}
