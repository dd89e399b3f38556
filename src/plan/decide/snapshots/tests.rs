use expect_test::{Expect, expect};

use super::*;
use crate::config::SshAddress;
use crate::plan::sample::{World, code, config, id};
use crate::plan::show;

const NOW: &str = "boot: order=scsi0;net0\nmeta: creation-qemu=9.0,ctime=1\nname: web1\n\
    net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\nparent: s3\n\
    scsi0: tank:vm-565-disk-0,size=50G\nscsi1: tank:vm-565-disk-1,size=8G";

fn login() -> SshAddress {
    SshAddress {
        user: Some("root".to_owned()),
        host: "node2.banana.example".to_owned(),
        port: None,
    }
}

/// Returns a guest on ZFS with the snapshots s1, s2 (which holds memory, and of scsi0 alone) and s3.
fn world() -> World {
    let mut world = World::of(NOW);
    world.source_on_zfs(&["vm-565-disk-0", "vm-565-disk-1"]);
    world.target_on_zfs();
    world.request.with_snapshots = true;
    world
        .request
        .bridges
        .insert("vmbr9".to_owned(), "vmbr1".to_owned());
    world.target.node_files.insert(id("node2"), Ok(login()));
    let one = "boot: order=scsi0;scsi1\ncores: 1\ndescription: before: all\nmeta: creation-qemu=8.0,ctime=1\n\
        name: web\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nscsi0: tank:vm-565-disk-0,size=40G\n\
        scsi1: tank:vm-565-disk-1,size=8G\nsnaptime: 100\nvmgenid: 5f0e1c4e-0c47-4a52-a6b5-0d6b33a54f11";
    let two = "boot: order=scsi0\nide2: tank:iso/x.iso,media=cdrom\nname: web1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr9\n\
        parent: s1\nrunningcpu: host\nrunningmachine: pc-i440fx-9.0\nscsi0: tank:vm-565-disk-0,size=50G\n\
        snaptime: 200\nvmstate: tank:vm-565-state-s2";
    let three = "boot: order=scsi0\nname: web1\nparent: s2\nscsi0: tank:vm-565-disk-0,size=50G\n\
        scsi1: tank:vm-565-disk-1,size=8G\nsnaptime: 300";
    for (name, lines) in [("s3", three), ("s1", one), ("s2", two)] {
        let section = config(lines);
        let guest = world.guest();
        guest.detail.snapshots.push(GuestSnapshot {
            name: name.to_owned(),
            parent: section.value("parent").map(str::to_owned),
            taken: section
                .value("snaptime")
                .and_then(|at| at.parse().ok())
                .unwrap_or(0),
            with_memory: section.value("vmstate").is_some(),
        });
        guest.sections.insert(name.to_owned(), Ok(section));
    }
    let taken = |name: &str, written, referenced| SnapshotFacts {
        name: name.to_owned(),
        written: Bytes::gib(written),
        referenced: Bytes::gib(referenced),
    };
    let zfs = world.dataset("tank.apple");
    let foreign = "autosnap_daily";
    zfs.snapshots.insert(
        "vm-565-disk-0".to_owned(),
        vec![
            taken(foreign, 1, 1),
            taken("s1", 2, 3),
            taken(foreign, 4, 7),
            taken("s2", 5, 8),
            taken("s3", 6, 9),
        ],
    );
    zfs.snapshots.insert(
        "vm-565-disk-1".to_owned(),
        vec![taken("s1", 1, 1), taken("s3", 1, 2)],
    );
    world
}

fn shown(world: &World) -> String {
    let decision = world.decide();
    let mut out = String::new();
    for plan in &decision.plans {
        for snapshot in plan.snapshots.sections(&config(
            "meta: target\nide0: ssd:vm-126-cloudinit,media=cdrom",
        )) {
            let keys: Vec<String> = snapshot
                .keys
                .iter()
                .map(|(key, value)| format!("  {key}: {value}\n"))
                .collect();
            out += &format!(
                "[{}] {}\n{}",
                snapshot.name,
                snapshot.description,
                keys.concat()
            );
        }
        for drive in &plan.drives {
            if let DriveAction::Copy(volume) = &drive.action {
                out += &format!(
                    "{} carries {:?}, {} more\n",
                    drive.key, volume.snapshots, volume.history
                );
            }
        }
        out += &format!(
            "parent {:?}, staying {:?}\n",
            plan.snapshots.parent, plan.snapshots.staying
        );
    }
    let codes: Vec<String> = decision.all_verdicts().map(code).collect();
    out + &codes.join(" ")
}

fn check(change: impl FnOnce(&mut World), expect: Expect) {
    let mut world = world();
    change(&mut world);
    expect.assert_eq(&shown(&world));
}

fn section<'a>(world: &'a mut World, name: &str) -> &'a mut GuestConfig {
    let section = world.guest().sections.get_mut(name).expect("a section");
    section.as_mut().expect("readable")
}

#[test]
fn all_that_can_travel_does_with_translated_sections() {
    check(
        |_| {},
        expect![[r#"
            [s1] before: all
              boot: order=scsi0;scsi1
              cores: 1
              meta: target
              name: web
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
              scsi0: ssd:vm-126-disk-0,size=40G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 100
              vmgenid: 5f0e1c4e-0c47-4a52-a6b5-0d6b33a54f11
            [s2] 
              boot: order=scsi0
              ide2: none,media=cdrom
              meta: target
              name: web1
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr1
              parent: s1
              scsi0: ssd:vm-126-disk-0,size=50G
              snaptime: 200
            [s3] 
              boot: order=scsi0
              meta: target
              name: web1
              parent: s2
              scsi0: ssd:vm-126-disk-0,size=50G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 300
            scsi0 carries ["s1", "s2", "s3"], 6.0 GiB more
            scsi1 carries ["s1", "s3"], 0 B more
            parent Some("s3"), staying {}
            snapshot-without-memory"#]],
    );
}

#[test]
fn what_cannot_travel_stays_and_its_children_find_its_parent() {
    // Its data is gone.
    check(
        |world| {
            let zfs = world.dataset("tank.apple");
            let taken = zfs.snapshots.get_mut("vm-565-disk-0").expect("known");
            taken.retain(|snapshot| snapshot.name != "s2");
        },
        expect![[r#"
            [s1] before: all
              boot: order=scsi0;scsi1
              cores: 1
              meta: target
              name: web
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
              scsi0: ssd:vm-126-disk-0,size=40G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 100
              vmgenid: 5f0e1c4e-0c47-4a52-a6b5-0d6b33a54f11
            [s3] 
              boot: order=scsi0
              meta: target
              name: web1
              parent: s1
              scsi0: ssd:vm-126-disk-0,size=50G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 300
            scsi0 carries ["s1", "s3"], 1.0 GiB more
            scsi1 carries ["s1", "s3"], 0 B more
            parent Some("s3"), staying {"s2": "there is no tank/data/vm-565-disk-0@s2"}
            snapshot-stays"#]],
    );
    // It needs a volume that is attached to nothing any more, and one is incomplete.
    check(
        |world| {
            let line = "tank:vm-565-disk-7,size=1G".to_owned();
            section(world, "s1").0.insert("scsi2".to_owned(), line);
            section(world, "s3")
                .0
                .insert("snapstate".to_owned(), "delete".to_owned());
        },
        expect![[r#"
            [s2] 
              boot: order=scsi0
              ide2: none,media=cdrom
              meta: target
              name: web1
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr1
              scsi0: ssd:vm-126-disk-0,size=50G
              snaptime: 200
            scsi0 carries ["s2"], 0 B more
            scsi1 carries [], 0 B more
            parent Some("s2"), staying {"s1": "it needs tank:vm-565-disk-7, which is not copied", "s3": "it is incomplete (snapstate: delete)"}
            snapshot-stays snapshot-stays snapshot-without-memory"#]],
    );
    // Its machine or its bridge does not exist there.
    check(
        |world| {
            world.request.bridges.clear();
            section(world, "s1")
                .0
                .insert("cpu".to_owned(), "custom-x".to_owned());
        },
        expect![[r#"
            [s3] 
              boot: order=scsi0
              meta: target
              name: web1
              scsi0: ssd:vm-126-disk-0,size=50G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 300
            scsi0 carries ["s3"], 0 B more
            scsi1 carries ["s3"], 0 B more
            parent Some("s3"), staying {"s1": "its CPU model custom-x is defined in the source cluster only", "s2": "node node2 has no bridge vmbr9, which net0 needs (did you mean 'vmbr1'?)"}
            snapshot-stays snapshot-stays"#]],
    );
}

#[test]
fn what_the_target_makes_itself_is_taken_from_its_present_configuration() {
    check(
        |world| {
            let line = "tank:vm-565-cloudinit,media=cdrom".to_owned();
            section(world, "s3").0.insert("ide0".to_owned(), line);
        },
        expect![[r#"
            [s1] before: all
              boot: order=scsi0;scsi1
              cores: 1
              meta: target
              name: web
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
              scsi0: ssd:vm-126-disk-0,size=40G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 100
              vmgenid: 5f0e1c4e-0c47-4a52-a6b5-0d6b33a54f11
            [s2] 
              boot: order=scsi0
              ide2: none,media=cdrom
              meta: target
              name: web1
              net0: virtio=BC:24:11:00:00:01,bridge=vmbr1
              parent: s1
              scsi0: ssd:vm-126-disk-0,size=50G
              snaptime: 200
            [s3] 
              boot: order=scsi0
              ide0: ssd:vm-126-cloudinit,media=cdrom
              meta: target
              name: web1
              parent: s2
              scsi0: ssd:vm-126-disk-0,size=50G
              scsi1: ssd:vm-126-disk-1,size=8G
              snaptime: 300
            scsi0 carries ["s1", "s2", "s3"], 6.0 GiB more
            scsi1 carries ["s1", "s3"], 0 B more
            parent Some("s3"), staying {}
            snapshot-without-memory"#]],
    );
}

#[test]
fn a_way_without_snapshots_or_without_root_is_refused() {
    let codes = |change: fn(&mut World)| {
        let mut world = world();
        change(&mut world);
        world.codes().join(" ")
    };
    expect!["!node-file snapshot-without-memory"]
        .assert_eq(&codes(|world| world.target.node_files.clear()));
    expect!["!node-file snapshot-without-memory"].assert_eq(&codes(|world| {
        let why = Err("the login is ann".to_owned());
        world.target.node_files.insert(id("node2"), why);
    }));
    expect!["!snapshot-unreadable mapping-unused"].assert_eq(&codes(|world| {
        let unreadable = Err("VM is locked".to_owned());
        world.guest().sections.insert("s2".to_owned(), unreadable);
    }));
    // From a zvol into a file.
    expect!["!snapshots-cannot-travel"].assert_eq(&codes(|world| {
        let files = World::new();
        world.target.storages = files.target.storages.clone();
        world.target.sections = files.target.sections.clone();
        world.hosts.extend(files.hosts);
    }));
    // Without snapshots nobody need be root.
    expect!["mapping-unused"].assert_eq(&codes(|world| {
        world.target.node_files.clear();
        world.guest().detail.snapshots.clear();
        world.guest().sections.clear();
    }));
    // Without the flag nothing changes.
    expect!["snapshots-stay"].assert_eq(&codes(|world| world.request.with_snapshots = false));
}

#[test]
fn a_qcow2_file_that_stays_one_has_them_inside() {
    let mut world = World::new();
    world.request.with_snapshots = true;
    world.target.node_files.insert(id("node2"), Ok(login()));
    let section = config("name: web1\nsnaptime: 7\nvirtio0: san:565/vm-565-disk-0.qcow2,size=50G");
    let guest = world.guest();
    guest.detail.snapshots.push(GuestSnapshot {
        name: "before".to_owned(),
        taken: 7,
        ..GuestSnapshot::default()
    });
    guest.sections.insert("before".to_owned(), Ok(section));
    expect![[r#"
        [before] 
          boot: order=virtio0
          meta: target
          name: web1
          snaptime: 7
          virtio0: ssd:126/vm-126-disk-0.qcow2,size=50G
        virtio0 carries [], 0 B more
        parent None, staying {}
    "#]]
    .assert_eq(&shown(&world));
    world.target_on_zfs();
    expect!["!snapshots-cannot-travel"].assert_eq(&world.codes().join(" "));
}

#[test]
fn the_plan_says_which_travel_and_which_stay() {
    let mut world = world();
    section(&mut world, "s1")
        .0
        .insert("snapstate".to_owned(), "prepare".to_owned());
    let text = show::text(&world.request, &world.decide());
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("snapshot") || line.contains("copy "))
        .collect();
    expect![[r#"
          snapshot  s2 (8.0 GiB) travels, without its memory
          snapshot  s3 (8.0 GiB) travels
          snapshot  s1 stays: it is incomplete (snapstate: prepare)
          copy      26.0 GiB in about 4m 3s, downtime about 23s
        Estimates assume 110.0 MiB/s between the hosts, 1 % changed between the last pre-copy and the stop, 20s to shut down.
          web1: its snapshot s1 stays with the source: it is incomplete (snapstate: prepare) [snapshot-stays]
          web1: the memory of s2 stays with the source: a rollback to it on the target gives its disks as after a power cut, and a guest that is off [snapshot-without-memory]"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_plan_knows_when_the_snapshots_have_changed_and_when_they_are_entered() {
    let world = world();
    let decision = world.decide();
    let plan = &decision.plans[0].snapshots;
    let source = world.source.wanted["web1"].detail.clone();
    assert_eq!(plan.changed(&source), None);
    let mut new = source.clone();
    new.snapshots.push(GuestSnapshot {
        name: "s4".to_owned(),
        ..GuestSnapshot::default()
    });
    assert_eq!(plan.changed(&new).as_deref(), Some("s4 is new"));
    new.snapshots.remove(0);
    assert_eq!(
        plan.changed(&new).as_deref(),
        Some("s4 is new or another one, s3 is gone")
    );

    let mut target = source;
    target.snapshots.retain(|snapshot| snapshot.name != "s2");
    assert!(!plan.recorded(&target));
    target
        .snapshots
        .clone_from(&world.source.wanted["web1"].detail.snapshots);
    assert!(plan.recorded(&target));
    target.config.0.remove("parent");
    assert!(!plan.recorded(&target));
}
