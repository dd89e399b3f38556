//! One case per verdict: what is changed in a world that is in order, and which verdicts that brings.

use std::collections::BTreeSet;

use crate::plan::check::grouped;
use crate::plan::check::zfs::{SOURCE_RIGHTS, TARGET_RIGHTS};
use crate::plan::facts::zfs::{DatasetKind, Encryption, ZfsRights};
use crate::plan::facts::{HostKey, Unanswered};
use crate::plan::sample::{World, code, id, node, section, storage, summary};
use crate::plan::{Severity, Verdict};
use crate::pve::guest::{GuestKind, GuestSnapshot, PendingChange, Power};
use crate::pve::inventory::{Permissions, ReplicationJob};
use crate::transfer::Route;
use crate::units::Bytes;

/// Checks which codes a change brings; `!` stands before refusals.
fn check(change: impl FnOnce(&mut World), expect: &[&str]) {
    let mut world = World::new();
    change(&mut world);
    assert_eq!(world.codes(), expect);
    for verdict in world.decide().all_verdicts() {
        assert!(
            !verdict.reason.is_empty() && !verdict.remedy.is_empty(),
            "{verdict:?}"
        );
        assert!(!verdict.reason.contains("{"), "{verdict:?}");
    }
}

/// Returns what a change brings, as text, for the exact words.
fn words(change: impl FnOnce(&mut World)) -> Vec<String> {
    let mut world = World::new();
    change(&mut world);
    let decision = world.decide();
    decision
        .all_verdicts()
        .map(|verdict| {
            format!(
                "{} | {} | {}",
                code(verdict),
                verdict.reason,
                verdict.remedy
            )
        })
        .collect()
}

fn set(world: &mut World, key: &str, value: &str) {
    let config = &mut world.guest().detail.config.0;
    config.insert(key.to_owned(), value.to_owned());
}

#[test]
fn a_world_in_order_has_no_verdicts() {
    check(|_| {}, &[]);
}

#[test]
fn names_are_judged() {
    check(
        |world| {
            world.source.wanted.clear();
            world.source.guests.clear();
        },
        &["!guest-missing"],
    );
    check(
        |world| {
            world.source.wanted.clear();
            world.source.guests.push(summary("node1", 566, "web1"));
        },
        &["!guest-double"],
    );
    check(
        |world| {
            world.source.wanted.clear();
            world.source.guests[0].place.kind = GuestKind::Lxc;
        },
        &["!guest-is-container"],
    );
    check(
        |world| {
            world.source.wanted.clear();
            world.source.nodes[0].online = false;
        },
        &["!guest-unreadable"],
    );
    check(
        |world| world.request.guests.push("web1".to_owned()),
        &["!guest-twice"],
    );
    let name = "a".repeat(60);
    check(
        |world| {
            let guest = world.source.wanted["web1"].clone();
            world.source.wanted.insert(name.clone(), guest);
            world.request.guests = vec![name];
        },
        &["!name-too-long"],
    );
}

#[test]
fn a_missing_name_is_explained() {
    assert_eq!(
        words(|world| {
            world.source.wanted.clear();
            world.source.guests[0].name = Some("web-1".to_owned());
        }),
        [
            "!guest-missing | apple has no guest web1 (did you mean 'web-1'?) | check the name; root@pam sees guests on \
          which it has VM.Audit only"
        ]
    );
    assert_eq!(
        words(|world| {
            world.source.wanted.clear();
            world.source.guests[0].name = Some("web1--MIGRATED".to_owned());
        }),
        [
            "!guest-missing | apple has no guest web1, but web1--MIGRATED (565 on node1): it has been moved already | \
          nothing is left to do; to move it again, rename it: qm set 565 --name web1"
        ]
    );
}

#[test]
fn the_request_is_judged() {
    check(
        |world| world.request.target = id("apple"),
        &["!same-cluster"],
    );
    check(
        |world| {
            world.request.target = id("apple");
            world.request.ignore_exists = true;
        },
        &[],
    );
    check(
        |world| {
            let guest = world.source.wanted["web1"].clone();
            world.source.wanted.insert("db1".to_owned(), guest);
            world.request.guests.push("db1".to_owned());
            world.request.target_vmid = Some(id("300"));
        },
        &["!vmid-for-many"],
    );
    check(
        |world| world.target.guests.push(summary("node3", 200, "web1")),
        &["!name-taken"],
    );
    check(
        |world| {
            world.target.guests.push(summary("node3", 200, "web1"));
            world.request.ignore_exists = true;
        },
        &[],
    );
    check(
        |world| {
            world
                .target
                .guests
                .push(summary("node3", 200, "web1--CREATING"));
        },
        &["!placeholder-foreign"],
    );
    check(
        |world| world.request.target_vmid = Some(id("100")),
        &["!vmid-taken"],
    );
    check(
        |world| {
            let gap = Unanswered {
                what: "pools".to_owned(),
                why: "timeout".to_owned(),
            };
            world.target.unanswered.push(gap);
        },
        &["not-observed"],
    );
    check(
        |world| {
            world
                .request
                .bridges
                .insert("vmbr9".to_owned(), "vmbr0".to_owned());
            world.request.storages.insert(id("scsi7"), id("ssd"));
        },
        &["mapping-unused"],
    );
}

#[test]
fn the_target_node_is_judged() {
    check(|world| world.request.node = id("nodd2"), &["!node-unknown"]);
    check(
        |world| world.target.nodes[0].online = false,
        &["!node-offline"],
    );
    check(
        |world| world.target.nodes[0].maintenance = true,
        &["!node-maintenance"],
    );
    let text = words(|world| world.request.node = id("nodee2")).join("");
    assert!(text.contains("(did you mean 'node2'?)"), "{text}");
}

#[test]
fn the_target_storage_is_judged() {
    check(
        |world| {
            world.target.storages.clear();
            world.target.sections.clear();
        },
        &["!storage-missing"],
    );
    check(
        |world| world.target.storages[0].enabled = false,
        &["!storage-disabled"],
    );
    check(
        |world| world.target.storages[0].active = false,
        &["!storage-inactive"],
    );
    check(
        |world| world.target.storages[0].content = BTreeSet::from(["iso".to_owned()]),
        &["!storage-no-images"],
    );
    check(
        |world| world.target.storages[0].kind = "lvmthin".to_owned(),
        &["!storage-kind"],
    );
    check(
        |world| {
            let why = "node node2 has no usable address".to_owned();
            world.target.sections.insert(id("ssd"), Err(why));
        },
        &["!storage-unconfigured"],
    );
    check(
        |world| {
            let host = world.host("banana").clone();
            let to = section("banana", "ssd", "node2.banana.example", "zfs:ssd/images");
            world.hosts.insert(HostKey::of(&to), host);
            world.target.sections.insert(id("ssd"), Ok(to));
        },
        &["!section-mismatch", "!zfs-missing"],
    );
    // Nothing is copied, so the storage does not matter.
    check(
        |world| {
            world.target.storages.clear();
            world.request.skip_disks = true;
        },
        &[],
    );
}

#[test]
fn the_guests_state_is_judged() {
    check(
        |world| world.guest().detail.lock = Some("backup".to_owned()),
        &["!guest-locked"],
    );
    check(
        |world| world.guest().detail.lock = Some("suspended".to_owned()),
        &["!guest-suspended"],
    );
    check(
        |world| set(world, "vmstate", "san:565/vm-565-state-suspend-2026.raw"),
        &["!guest-suspended"],
    );
    check(
        |world| {
            world.guest().detail.pending.push(PendingChange {
                key: "memory".to_owned(),
                value: Some("4096".to_owned()),
            });
        },
        &["!pending-changes"],
    );
    check(
        |world| {
            world.guest().detail.ha_managed = true;
            world.guest().ha_state = Some("started".to_owned());
        },
        &["!ha-managed"],
    );
    check(
        |world| {
            world.guest().detail.ha_managed = true;
            world.guest().ha_state = Some("ignored".to_owned());
        },
        &["ha-ignored"],
    );
    check(
        |world| {
            world.guest().replication.push(ReplicationJob {
                id: "565-0".to_owned(),
                guest: id("565"),
                target: "node4".to_owned(),
            });
        },
        &["replicated"],
    );
    check(
        |world| {
            world.guest().replication.push(ReplicationJob {
                id: "565-0".to_owned(),
                guest: id("565"),
                target: "node4".to_owned(),
            });
            world.guest().replicating = vec!["565-0".to_owned()];
        },
        &["!replication-running"],
    );
    check(|world| set(world, "template", "1"), &["!template"]);
    for (with_memory, expect) in [(false, "!snapshots"), (true, "!snapshots-with-memory")] {
        check(
            |world| {
                world.guest().detail.snapshots.push(GuestSnapshot {
                    name: "before".to_owned(),
                    with_memory,
                    ..GuestSnapshot::default()
                });
            },
            &[expect],
        );
    }
    check(
        |world| world.guest().detail.power = Power::Unknown,
        &["!status-unknown"],
    );
    for (status, expect) in [
        ("paused", "guest-paused"),
        ("io-error", "!guest-in-error"),
        ("save-vm", "!guest-busy"),
    ] {
        check(
            |world| world.guest().detail.qmp_status = status.to_owned(),
            &[expect],
        );
    }
    check(
        |world| {
            set(
                world,
                "net0",
                "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1",
            )
        },
        &["firewall-rules"],
    );
}

#[test]
fn devices_of_the_host_are_refused() {
    for (key, value, refused) in [
        ("hostpci0", "0000:01:00.0,pcie=1", true),
        ("hostpci0", "mapping=gpu", true),
        ("usb0", "host=1234:5678", true),
        ("usb0", "mapping=dongle", true),
        ("usb0", "spice", false),
        ("usb0", "host=spice,usb3=1", false),
        ("serial0", "/dev/ttyS0", true),
        ("serial0", "socket", false),
        ("parallel0", "/dev/parport0", true),
        ("virtiofs0", "dirid=share", true),
        ("ivshmem", "size=32", true),
        ("ide2", "cdrom,media=cdrom", true),
        ("scsi3", "/dev/disk/by-id/ata-x,size=1T", true),
    ] {
        let expect: &[&str] = if refused { &["!local-device"] } else { &[] };
        check(|world| set(world, key, value), expect);
    }
    check(
        |world| set(world, "scsi3", "size=4G"),
        &["!drive-unreadable"],
    );
}

#[test]
fn bridges_must_exist() {
    check(
        |world| set(world, "net1", "virtio=BC:24:11:00:00:02,bridge=vmbr7"),
        &["!bridge-missing"],
    );
    check(
        |world| {
            set(world, "net1", "virtio=BC:24:11:00:00:02,bridge=vmbr7");
            world
                .request
                .bridges
                .insert("vmbr7".to_owned(), "vmbr1".to_owned());
        },
        &[],
    );
    check(|world| set(world, "net1", "virtio=BC:24:11:00:00:02"), &[]);
    check(
        |world| {
            world.target.bridges = None;
            set(world, "net1", "virtio=BC:24:11:00:00:02,bridge=vmbr7");
        },
        &[],
    );
}

#[test]
fn volumes_are_judged() {
    check(
        |world| {
            let facts = world.guest().volumes.values_mut().next().expect("in order");
            facts.volume = Err("no such volume".to_owned());
        },
        &["!volume-unreadable"],
    );
    check(
        |world| world.guest().volumes.clear(),
        &["!volume-unreadable"],
    );
    check(
        |world| {
            let facts = world.guest().volumes.values_mut().next().expect("in order");
            facts.section = Err("not in proxmoverc".to_owned());
        },
        &["!storage-unconfigured"],
    );
    check(
        |world| {
            let facts = world.guest().volumes.values_mut().next().expect("in order");
            facts.storage_kind = Some("rbd".to_owned());
            facts.section = Err("not a file storage".to_owned());
        },
        &["!storage-kind"],
    );
    check(
        |world| world.volume().format = "vmdk".to_owned(),
        &["!format-unknown"],
    );
    check(
        |world| world.volume().size = Bytes::ZERO,
        &["!volume-empty"],
    );
    check(
        |world| world.volume().owner = Some(id("700")),
        &["!volume-of-other"],
    );
    check(
        |world| world.volume().parent = Some("base-9000-disk-0.qcow2".to_owned()),
        &["!linked-clone"],
    );
    check(
        |world| {
            let san = world.host("san").as_mut().expect("in order");
            san.listing.clear();
        },
        &["!volume-not-on-host"],
    );
    let linked =
        "boot: order=scsi0\nscsi0: san:9000/base-9000-disk-0.qcow2/565/vm-565-disk-0.qcow2";
    assert_eq!(World::of(linked).codes(), ["!linked-clone"]);
    let block = "boot: order=scsi0\nscsi0: san:base-9000-disk-0/vm-565-disk-0";
    assert!(
        World::of(block)
            .codes()
            .contains(&"!linked-clone".to_owned())
    );
    let base = "boot: order=scsi0\nscsi0: san:565/base-565-disk-0.qcow2";
    assert_eq!(World::of(base).codes(), [""; 0]);
    let efi = "boot: order=efidisk0\nefidisk0: san:565/vm-565-disk-1.qcow2,efitype=4m";
    assert_eq!(World::of(efi).codes(), ["efidisk-size"]);
    let unused = "unused0: san:565/vm-565-disk-9.qcow2";
    assert_eq!(World::of(unused).codes(), ["unused-volume"]);
}

#[test]
fn space_counts_all_guests_of_the_batch() {
    let second = |world: &mut World| {
        let guest = world.source.wanted["web1"].clone();
        world.source.wanted.insert("db1".to_owned(), guest);
        world.request.guests.push("db1".to_owned());
    };
    // 20 GiB used and 50 GiB large, each.
    check(
        |world| world.target.storages[0].available = Bytes::gib(30),
        &["space-overcommitted"],
    );
    check(
        |world| {
            second(world);
            world.target.storages[0].available = Bytes::gib(30);
        },
        &["!space-short"],
    );
    check(
        |world| {
            let host = world.host("banana").as_mut().expect("in order");
            host.path.as_mut().expect("in order").free = Some(Bytes::gib(10));
        },
        &["!space-short"],
    );
    check(
        |world| {
            world.volume().used = None;
            world.target.storages[0].available = Bytes::gib(49);
        },
        &["!space-short"],
    );
    check(
        |world| {
            world.volume().size = Bytes(u64::MAX);
            second(world);
        },
        &["space-overcommitted"],
    );
}

#[test]
fn hosts_are_judged_once() {
    check(
        |world| *world.host("san") = Err("connection refused".to_owned()),
        &["!host-unreachable"],
    );
    check(|world| world.hosts.clear(), &["!host-unreachable"]);
    check(
        |world| {
            world
                .host("banana")
                .as_mut()
                .expect("in order")
                .temp
                .writable = false
        },
        &["!temp-not-writable"],
    );
    check(
        |world| world.host("banana").as_mut().expect("in order").temp.free = Some(Bytes::mib(3)),
        &["temp-small"],
    );
    check(
        |world| {
            world
                .host("san")
                .as_mut()
                .expect("in order")
                .path
                .as_mut()
                .expect("in order")
                .exists = false
        },
        &["!path-missing"],
    );
    check(
        |world| {
            world
                .host("banana")
                .as_mut()
                .expect("in order")
                .path
                .as_mut()
                .expect("in order")
                .writable = false
        },
        &["!path-not-writable"],
    );
    // The source is only read.
    check(
        |world| {
            world
                .host("san")
                .as_mut()
                .expect("in order")
                .path
                .as_mut()
                .expect("in order")
                .writable = false
        },
        &[],
    );
    check(
        |world| {
            world.request.route = Some(Route::Direct);
            world.host("san").as_mut().expect("in order").ssh = None;
        },
        &["!route-impossible"],
    );
    check(
        |world| {
            let host = world.host("banana").as_mut().expect("in order");
            host.temp.executable = false;
            host.tools.clear();
        },
        &["!tool-missing"],
    );
}

#[test]
fn missing_rights_name_the_command() {
    let lacking = |world: &mut World| {
        world.target.user = "mover@pve".to_owned();
        let all = [
            "VM.Allocate",
            "VM.Audit",
            "VM.PowerMgmt",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.Options",
            "VM.Config.CDROM",
            "VM.Config.Network",
        ];
        let held = all.map(|privilege| (privilege.to_owned(), true));
        world.target.permissions = Permissions(
            [
                ("/vms".to_owned(), held.into()),
                (
                    "/storage".to_owned(),
                    [("Datastore.Audit".to_owned(), true)].into(),
                ),
            ]
            .into(),
        );
    };
    assert_eq!(
        words(lacking),
        [
            "!right-missing | mover@pve lacks SDN.Use on /sdn/zones/localnetwork/vmbr0 of banana (to connect to the \
             bridge) | pveum acl modify /sdn/zones/localnetwork/vmbr0 --users mover@pve --roles PVESDNUser",
            "!right-missing | mover@pve lacks VM.Config.Disk on /vms of banana (to attach drives) | pveum acl \
             modify /vms --users mover@pve --roles PVEVMAdmin",
        ]
    );
    // Before 8.0 bridges needed no right.
    let mut world = World::new();
    lacking(&mut world);
    world.target.release = crate::plan::sample::release("7.4");
    assert_eq!(world.decide().all_verdicts().count(), 1);
    let text = words(|world| world.source.user = "mover@pve".to_owned()).join("");
    assert!(
        text.contains("lacks VM.Config.Options, VM.PowerMgmt on /vms/565 of apple"),
        "{text}"
    );
}

#[test]
fn an_earlier_move_of_ours_is_no_obstacle() {
    check(|world| world.began(&[]), &[]);
    check(
        |world| {
            world.began(&[]);
            world.request.node = id("node3");
        },
        &["!begun-elsewhere"],
    );
    // Its data may be there already, so its space is not asked for again.
    check(
        |world| {
            world.began(&[("virtio0", "ssd:140/vm-140-disk-0.qcow2")]);
            world.target.storages[0].available = Bytes::gib(1);
        },
        &[],
    );
}

#[test]
fn verdicts_are_grouped_by_what_they_say() {
    let verdicts = [
        Verdict::warn("a", "w", "odd", "look"),
        Verdict::refuse("a", "r", "locked", "wait"),
        Verdict::refuse("b", "r", "locked", "wait"),
        Verdict::refuse("b", "r", "locked", "wait"),
        Verdict::refuse("b", "r", "other", "wait"),
    ];
    let shown: Vec<String> = grouped(&verdicts)
        .iter()
        .map(|group| format!("{:?} {} {:?}", group.severity, group.reason, group.guests))
        .collect();
    assert_eq!(
        shown,
        [
            r#"Refuse locked ["a", "b"]"#,
            r#"Refuse other ["b"]"#,
            r#"Warn odd ["a"]"#
        ]
    );
    assert!(Severity::Warn < Severity::Refuse);
}

#[test]
fn a_storage_that_is_not_used_is_not_judged() {
    check(
        |world| {
            world.target.storages.push(storage("tape", "lvm", &[]));
            world.target.nodes.push(node("node9"));
            let key = HostKey::of(&section("banana", "tape", "x", "/x"));
            world.hosts.insert(key, Err("gone".to_owned()));
        },
        &[],
    );
}

/// Checks which codes a change brings to a guest that goes from ZFS to ZFS.
fn check_zfs(change: impl FnOnce(&mut World), expect: &[&str]) {
    let mut world = World::zfs();
    change(&mut world);
    assert_eq!(world.codes(), expect);
    for verdict in world.decide().all_verdicts() {
        assert!(
            !verdict.reason.is_empty()
                && !verdict.remedy.is_empty()
                && !verdict.reason.contains('{'),
            "{verdict:?}"
        );
    }
}

#[test]
fn datasets_are_judged() {
    check_zfs(|_| {}, &[]);
    check_zfs(
        |world| world.host("tank").as_mut().expect("in order").zfs = None,
        &["!zfs-missing"],
    );
    for (health, expect) in [
        (Some("DEGRADED"), Some("pool-degraded")),
        (Some("SUSPENDED"), Some("!pool-failed")),
        (Some("FAULTED"), Some("!pool-failed")),
        (Some("UNAVAIL"), Some("!pool-failed")),
        (None, Some("!pool-missing")),
        (Some("ONLINE"), None),
    ] {
        check_zfs(
            |world| world.dataset("banana").health = health.map(str::to_owned),
            expect.as_slice(),
        );
    }
    check_zfs(
        |world| world.dataset("banana").kind = None,
        &["!dataset-missing"],
    );
    check_zfs(
        |world| world.dataset("banana").kind = Some(DatasetKind::Volume),
        &["!dataset-not-filesystem"],
    );
    for host in ["tank", "banana"] {
        check_zfs(
            |world| world.dataset(host).read_only = true,
            &["!pool-read-only"],
        );
        check_zfs(
            |world| world.dataset(host).version = Some((0, 7)),
            &["zfs-old"],
        );
        check_zfs(|world| world.dataset(host).version = None, &["zfs-old"]);
    }
    let lacks = |world: &mut World, host: &str, feature: &str| {
        let features = world.dataset(host).features.as_mut().expect("features");
        features.enabled.remove(feature);
        features.active.remove(feature);
    };
    check_zfs(
        |world| lacks(world, "banana", "extensible_dataset"),
        &["receive-not-resumable"],
    );
    check_zfs(|world| lacks(world, "tank", "extensible_dataset"), &[]);
    check_zfs(
        |world| {
            let zvols = &mut world.dataset("tank").zvols;
            zvols.get_mut("vm-565-disk-0").expect("it").block_size = Some(Bytes::mib(1));
            lacks(world, "banana", "large_blocks");
        },
        &["blocks-split"],
    );
    check_zfs(
        |world| world.dataset("tank").zvols.clear(),
        &["!volume-not-on-host"],
    );
    check_zfs(
        |world| {
            let facts = world.guest().volumes.values_mut().next().expect("in order");
            facts.storage_kind = Some("dir".to_owned());
        },
        &["!section-mismatch"],
    );
    check_zfs(
        |world| world.volume().parent = Some("base-9000-disk-0".to_owned()),
        &["!linked-clone"],
    );
}

#[test]
fn what_zfs_complains_about_is_said() {
    let mut world = World::zfs();
    let zfs = world.dataset("banana");
    zfs.kind = None;
    zfs.complaint = Some("cannot open 'fast/vms': dataset does not exist".to_owned());
    let verdicts = world.decide().verdicts;
    assert_eq!(
        verdicts[0].reason,
        "there is no dataset fast/vms on root@node2.banana.example: cannot open 'fast/vms': dataset does not exist"
    );
    assert!(verdicts[0].remedy.ends_with("zfs create -p fast/vms"));
}

#[test]
fn a_login_that_is_not_root_needs_rights() {
    let login = |allowed: &[&str], devices| ZfsRights::Delegated {
        user: "mover".to_owned(),
        devices,
        allowed: allowed.iter().map(|right| (*right).to_owned()).collect(),
    };
    check_zfs(
        |world| {
            world.dataset("tank").rights = login(SOURCE_RIGHTS, false);
            world.dataset("banana").rights = login(TARGET_RIGHTS, false);
        },
        &[],
    );
    let mut world = World::zfs();
    world.dataset("banana").rights = login(&TARGET_RIGHTS[2..], false);
    assert_eq!(world.codes(), ["!zfs-right-missing"]);
    let verdict = &world.decide().verdicts[0];
    assert_eq!(
        (verdict.reason.as_str(), verdict.remedy.as_str()),
        (
            "mover is not root on root@node2.banana.example and lacks there for fast/vms: create, destroy",
            "zfs allow mover create,destroy fast/vms; or log in as root"
        )
    );
    // The image engine opens the devices themselves.
    let mut world = World::new();
    world.target_on_zfs();
    world.dataset("banana").rights = login(TARGET_RIGHTS, true);
    assert_eq!(world.codes(), [""; 0]);
    world.dataset("banana").rights = login(TARGET_RIGHTS, false);
    assert_eq!(world.codes(), ["!device-right-missing"]);
}

#[test]
fn space_on_zfs_counts_what_is_reserved() {
    // 12 GiB compressed, 18 GiB as written, 50 GiB large.
    let free =
        |gib| move |world: &mut World| world.dataset("banana").available = Some(Bytes::gib(gib));
    check_zfs(free(11), &["!space-short"]);
    check_zfs(free(13), &["space-overcommitted"]);
    check_zfs(free(50), &[]);
    check_zfs(
        |world| {
            free(50)(world);
            world.target.storages[0].settings.clear();
        },
        &["!space-short"],
    );
    check_zfs(
        |world| {
            free(52)(world);
            world.target.storages[0].settings.clear();
        },
        &[],
    );
    let mut world = World::zfs();
    free(50)(&mut world);
    world.target.storages[0].settings.clear();
    let verdicts = world.decide().verdicts;
    assert_eq!(
        verdicts[0].reason,
        "storage ssd has 50.0 GiB free, and the guests need 51.6 GiB, of which 51.6 GiB are reserved, for the storage is \
         not sparse"
    );
    assert!(verdicts[0].remedy.contains("pvesm set ssd --sparse 1"));
}

#[test]
fn encrypted_volumes_are_judged() {
    let encrypt = |world: &mut World, key_loaded: bool| {
        let zvols = &mut world.dataset("tank").zvols;
        zvols.get_mut("vm-565-disk-0").expect("it").encryption = Some(Encryption {
            root: "tank/data".to_owned(),
            key_loaded,
        });
    };
    let encrypted_target = |world: &mut World, key_loaded: bool| {
        world.dataset("banana").encryption = Some(Encryption {
            root: "fast".to_owned(),
            key_loaded,
        });
    };
    check_zfs(|world| encrypt(world, true), &["!key-not-there"]);
    check_zfs(
        |world| {
            encrypt(world, true);
            world.request.allow_plain = true;
        },
        &["lands-plain"],
    );
    check_zfs(
        |world| {
            encrypt(world, true);
            world.request.skip_start = true;
        },
        &["key-stays"],
    );
    check_zfs(
        |world| {
            encrypt(world, true);
            encrypted_target(world, true);
        },
        &[],
    );
    check_zfs(
        |world| encrypted_target(world, false),
        &["!target-key-not-loaded"],
    );
    check_zfs(
        |world| {
            encrypt(world, false);
            world.guest().detail.power = Power::Stopped;
            let features = world.dataset("banana").features.as_mut().expect("features");
            features.enabled.remove("encryption");
        },
        &["!pool-feature-missing"],
    );
    let mut world = World::zfs();
    encrypted_target(&mut world, true);
    let plan = &world.decide().plans[0];
    let note = plan
        .changes
        .iter()
        .find(|note| note.reason.contains("encrypted"));
    assert_eq!(
        note.expect("a note").reason,
        "is encrypted on the target, with the key of fast"
    );
    // To files.
    let mut world = World::of("boot: order=scsi0\nscsi0: tank:vm-565-disk-0");
    world.source_on_zfs(&["vm-565-disk-0"]);
    encrypt(&mut world, true);
    assert_eq!(world.codes(), ["!encryption-lost"]);
    world.request.allow_plain = true;
    assert_eq!(world.codes(), ["lands-plain"]);
    encrypt(&mut world, false);
    assert_eq!(world.codes(), ["!source-key-not-loaded"]);
}

#[test]
fn snapshots_beside_the_volumes_stay_behind() {
    let snapshot = |name: &str, with_memory| GuestSnapshot {
        name: name.to_owned(),
        with_memory,
        ..GuestSnapshot::default()
    };
    check_zfs(
        |world| {
            let all = &mut world.guest().detail.snapshots;
            all.extend([snapshot("before", false), snapshot("after", true)]);
        },
        &["snapshots-stay"],
    );
    // Inside of files they would be carried, and nobody would know of them.
    let mut world = World::of("boot: order=scsi0\nscsi0: tank:vm-565-disk-0\nscsi1: san:565/b.raw");
    world.source_on_zfs(&["vm-565-disk-0"]);
    world.target_on_zfs();
    world
        .guest()
        .detail
        .snapshots
        .push(snapshot("before", false));
    assert_eq!(world.codes(), ["!snapshots"]);
}

#[test]
fn with_zfs_on_one_side_only_the_porter_is_needed() {
    let mut world = World::new();
    world.target_on_zfs();
    assert_eq!(world.codes(), [""; 0]);
    let host = world.host("banana").as_mut().expect("in order");
    host.temp.executable = false;
    assert_eq!(world.codes(), ["!tool-missing"]);
    // Between pools the programs of ZFS are enough.
    check_zfs(
        |world| {
            let host = world.host("banana").as_mut().expect("in order");
            host.temp.executable = false;
        },
        &[],
    );
}
