//! The laboratory the conversations were recorded in, as a scenario, and what its people did by hand in between.

use std::collections::BTreeMap;

use proxmove::sim::Simulation;
use proxmove::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, NodeSpec, Pace, Scenario, StorageSpec, TokenSpec, UserSpec,
};

/// Passwords of the laboratory, which no longer exists.
pub fn password(user: &str) -> &'static str {
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

fn users() -> Vec<UserSpec> {
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
    tfa.second_factor = Some("325066".to_owned());
    vec![
        root,
        mover,
        user("auditor@pve", &[("/", "PVEAuditor")]),
        user("nobody@pve", &[]),
        user("vmuser@pve", &[("/vms/102", "PVEVMUser")]),
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

fn storages() -> Vec<StorageSpec> {
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
    vec![
        local,
        dir("data", "/srv/data", "images,rootdir"),
        iso,
        off,
        elsewhere,
        unmounted,
    ]
}

fn cluster(alias: &str, version: &str, node: &str) -> ClusterSpec {
    ClusterSpec {
        alias: alias.to_owned(),
        version: version.to_owned(),
        nodes: vec![NodeSpec {
            name: node.to_owned(),
            qemu: "10.0.2".to_owned(),
            ..NodeSpec::default()
        }],
        storages: storages(),
        users: users(),
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

/// Returns the laboratory as it was at the start of a recording.
pub fn scenario(file: &str) -> Scenario {
    let (version, names) = match file.starts_with("pve8") {
        true => ("8.4.1", [("alpha", "nodea1"), ("beta", "nodeb1")]),
        false => ("9.2.11", [("gamma", "nodeg1"), ("delta", "noded1")]),
    };
    let mut clusters = names.map(|(alias, node)| cluster(alias, version, node));
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
            let mut guest = plain(if file.starts_with("pve8") {
                "the-vm-to-move"
            } else {
                "sanity"
            });
            guest.running = true;
            clusters[0].guests.push(guest);
        }
        "pve8-errors" | "pve9-errors" => {
            let mut guest = web01();
            guest.name.push_str("--MIGRATED");
            guest.running = false;
            guest.pool = None;
            clusters[0].guests.push(guest);
            clusters[0].pools.push("Customer-1".to_owned());
        }
        _ => {}
    }
    let mut pace = Pace::quick();
    // The recordings show both sides of a broadcast; the test decides when one happens.
    pace.broadcast = 3_600_000;
    Scenario {
        clusters: clusters.into(),
        pace,
    }
}

/// Does by hand what was done by hand in the laboratory before a row was recorded.
pub fn before_row(simulation: &Simulation, file: &str, note: &str) {
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
        "destroy running" => {}
        _ => {}
    }
}
