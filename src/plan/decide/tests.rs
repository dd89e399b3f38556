use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::config::Origin;
use crate::plan::VolumePlan;
use crate::plan::sample::{World, config, id, place, section, summary};
use crate::transfer::{Format, Route, Tool};

fn copies(world: &World) -> Vec<VolumePlan> {
    let decision = world.decide();
    decision
        .plans
        .iter()
        .flat_map(|plan| &plan.drives)
        .filter_map(|drive| match &drive.action {
            DriveAction::Copy(volume) => Some((**volume).clone()),
            DriveAction::Set { .. } | DriveAction::Leave => None,
        })
        .collect()
}

#[test]
fn a_plan_says_everything_that_will_be_done() {
    let decision = World::new().decide();
    let [plan] = decision.plans.as_slice() else {
        panic!("one plan");
    };
    let drives: Vec<String> = plan
        .drives
        .iter()
        .map(|drive| match &drive.action {
            DriveAction::Copy(v) => format!(
                "{} {} {:?} -> {} {:?} {:?} {:?} = {}",
                drive.key,
                v.source_path,
                v.source_format,
                v.target_path,
                v.target_format,
                v.route,
                v.tool,
                v.attach
            ),
            other => format!("{} {other:?}", drive.key),
        })
        .collect();
    let shown = format!(
        "{:?}\n{:#?}\n{:#?}\n{:#?}\nrunning {} onboot {}",
        plan.target, drives, plan.create, plan.finish, plan.running, plan.onboot
    );
    expect![[r#"
        GuestRef { node: NodeName("node2"), kind: Qemu, vmid: Vmid(126) }
        [
            "ide2 Set { value: \"none,media=cdrom\" }",
            "virtio0 /pool0/san/images/565/vm-565-disk-0.qcow2 Qcow2 -> /ssd/images/126/vm-126-disk-0.qcow2 Qcow2 Direct Porter = ssd:126/vm-126-disk-0.qcow2,discard=on",
        ]
        {
            "cores": "2",
            "memory": "2048",
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
            "ostype": "l26",
        }
        {
            "boot": "order=virtio0;ide2;net0",
        }
        running true onboot false"#]]
    .assert_eq(&shown);
    assert!(!decision.refused());
}

#[test]
fn the_note_and_the_tag_of_an_evacuation_do_not_travel() {
    let note = "mine\n\nproxmove: this guest is away from its node, and comes back with 'proxmove restore'\n\
                - origin: node1\n- sent to: banana:node2:ssd\n- running: yes\n- by: ann@laptop\n- since: now\n\
                proxmove: end of the evacuation's notes";
    for (tags, left) in [
        ("web;proxmove-from-node1", Some("web")),
        ("proxmove-from-node1", None),
        ("web;db", Some("web;db")),
    ] {
        let mut world = World::new();
        let config = &mut world.guest().detail.config.0;
        config.insert("tags".to_owned(), tags.to_owned());
        config.insert("description".to_owned(), note.to_owned());
        let decision = world.decide();
        let plan = decision.plans.first().expect("one plan");
        assert_eq!(plan.create.get("tags").map(String::as_str), left);
        assert_eq!(plan.description, "mine");
    }
}

#[test]
fn vmids_are_given_once() {
    let vmids = |world: &World| -> Vec<u32> {
        let plans = world.decide().plans;
        plans.iter().map(|plan| plan.target.vmid.number()).collect()
    };
    let mut world = World::new();
    for name in ["db1", "db2", "db3", "db4"] {
        let guest = world.source.wanted["web1"].clone();
        world.source.wanted.insert(name.to_owned(), guest);
        world.request.guests.push(name.to_owned());
    }
    // Three are suggested; the rest are the next numbers nobody has.
    world.target.guests.push(summary("node3", 129, "x"));
    assert_eq!(vmids(&world), [126, 127, 128, 130, 131]);
    // A number whose old volumes are still there is not used.
    let mut world = World::new();
    let names = world.target.volumes.get_mut(&id("ssd")).expect("in order");
    names.insert("126/vm-126-disk-0.raw".to_owned());
    assert_eq!(vmids(&world), [127]);
    world.request.target_vmid = Some(id("300"));
    assert_eq!(vmids(&world), [300]);
    world.request.target_vmid = None;
    world.target.free_vmids.clear();
    assert_eq!(world.codes(), ["!vmid-none"]);
}

#[test]
fn volume_names_avoid_what_is_there() {
    let names = |world: &World| -> Vec<String> {
        copies(world).iter().map(|v| v.target.to_string()).collect()
    };
    let mut world = World::of(
        "scsi0: san:565/a.raw\nscsi1: san:565/b.qcow2\nscsi2: san:565/c.raw\nboot: order=scsi0",
    );
    assert_eq!(
        names(&world),
        [
            "ssd:126/vm-126-disk-0.raw",
            "ssd:126/vm-126-disk-1.qcow2",
            "ssd:126/vm-126-disk-2.raw"
        ]
    );
    // The operator's own VMID: the storage knows of disk-0, the host of disk-1 and disk-2.
    world.request.target_vmid = Some(id("300"));
    let known = world.target.volumes.get_mut(&id("ssd")).expect("in order");
    known.insert("300/vm-300-disk-0.qcow2".to_owned());
    let files = ["vm-300-disk-1.raw", "vm-300-disk-2", "vm-300-disk-30.raw"];
    let listing = &mut world.host("banana").as_mut().expect("in order").listing;
    listing.insert(id("300"), files.map(str::to_owned).into());
    assert_eq!(
        names(&world),
        [
            "ssd:300/vm-300-disk-3.raw",
            "ssd:300/vm-300-disk-4.qcow2",
            "ssd:300/vm-300-disk-5.raw"
        ]
    );
}

#[test]
fn drives_go_where_they_are_mapped() {
    let mut world = World::of(
        "scsi0: san:565/a.raw\nscsi1: san:565/b.raw\nide2: san:565/vm-565-cloudinit.qcow2,media=cdrom\nboot: order=scsi0",
    );
    let big = section("banana", "big", "node2.banana.example", "/big/");
    let mut storage = world.target.storages[0].clone();
    storage.id = id("big");
    world.target.storages.push(storage);
    let host = world.host("banana").clone();
    world.hosts.insert(HostKey::of(&big), host);
    world.target.sections.insert(id("big"), Ok(big));
    world.request.storages.insert(id("scsi1"), id("big"));
    world.request.storages.insert(id("ide2"), id("big"));
    let paths: Vec<String> = copies(&world).into_iter().map(|v| v.target_path).collect();
    // Numbers are counted per storage, as Proxmox VE does.
    assert_eq!(
        paths,
        [
            "/ssd/images/126/vm-126-disk-0.raw",
            "/big/126/vm-126-disk-0.raw"
        ]
    );
    let plan = &world.decide().plans[0];
    assert!(
        matches!(&plan.drives[0].action, DriveAction::Set { value } if value == "big:cloudinit")
    );
}

#[test]
fn cd_roms_are_ejected_and_loose_volumes_stay() {
    let world = World::of(
        "ide0: iso:iso/tiny.iso,media=cdrom\nide2: san:565/vm-565-cloudinit.qcow2,media=cdrom\nunused0: san:565/old.raw",
    );
    let plan = &world.decide().plans[0];
    let drives: Vec<String> = plan
        .drives
        .iter()
        .map(|drive| format!("{} {:?}", drive.key, drive.action))
        .collect();
    assert_eq!(
        drives,
        [
            r#"ide0 Set { value: "none,media=cdrom" }"#,
            r#"ide2 Set { value: "ssd:cloudinit" }"#,
            "unused0 Leave"
        ]
    );
    let notes: Vec<String> = plan
        .changes
        .iter()
        .map(|note| format!("{} {}", note.key, note.reason))
        .collect();
    assert!(
        notes.contains(&"ide0 iso:iso/tiny.iso is ejected".to_owned()),
        "{notes:?}"
    );
}

#[test]
fn skip_disks_leaves_every_volume() {
    let mut world = World::new();
    world.request.skip_disks = true;
    world.hosts.clear();
    let decision = world.decide();
    assert!(!decision.refused());
    let plan = &decision.plans[0];
    assert!(matches!(plan.drives[1].action, DriveAction::Leave));
    // A boot order must not name a drive that is not there.
    assert_eq!(plan.finish["boot"], "order=ide2;net0");
    assert!(
        super::hosts_to_ask(
            &world.request,
            &world.source,
            &world.target,
            &world.existing
        )
        .is_empty()
    );
}

#[test]
fn an_earlier_move_goes_on_with_what_it_recorded() {
    let mut world = World::new();
    world.began(&[("virtio0", "ssd:140/vm-140-disk-7.qcow2")]);
    // Its source is stopped and marked by now, and does not start at boot any more.
    world.guest().detail.power = Power::Stopped;
    world
        .guest()
        .detail
        .config
        .0
        .insert("name".to_owned(), "web1--CLONING".to_owned());
    world
        .guest()
        .detail
        .config
        .0
        .insert("onboot".to_owned(), "0".to_owned());
    let decision = world.decide();
    assert!(!decision.refused(), "{:?}", world.codes());
    let plan = &decision.plans[0];
    assert_eq!(plan.name, "web1");
    assert_eq!(plan.target, place("node2", 140));
    assert!(plan.running && plan.onboot);
    assert_eq!(plan.finish["onboot"], "1");
    assert_eq!(
        copies(&world)[0].target_path,
        "/ssd/images/140/vm-140-disk-7.qcow2"
    );
}

#[test]
fn a_drive_added_since_an_earlier_move_gets_a_new_volume() {
    let mut world = World::of("scsi0: san:565/a.raw\nscsi1: san:565/b.raw\nboot: order=scsi0");
    world.began(&[("scsi0", "ssd:140/vm-140-disk-0.raw")]);
    let names = world.target.volumes.get_mut(&id("ssd")).expect("in order");
    names.insert("140/vm-140-disk-0.raw".to_owned());
    let targets: Vec<String> = copies(&world)
        .iter()
        .map(|v| v.target.to_string())
        .collect();
    assert_eq!(
        targets,
        ["ssd:140/vm-140-disk-0.raw", "ssd:140/vm-140-disk-1.raw"]
    );
}

#[test]
fn an_earlier_move_goes_on_where_it_began() {
    let mut world = World::new();
    world.began(&[("virtio0", "old:140/vm-140-disk-0.qcow2")]);
    assert_eq!(world.codes(), ["!storage-missing", "storage-recorded"]);
    let old = section("banana", "old", "node2.banana.example", "/old/images");
    let mut storage = world.target.storages[0].clone();
    storage.id = id("old");
    world.target.storages.push(storage);
    let ask = |world: &World| {
        hosts_to_ask(
            &world.request,
            &world.source,
            &world.target,
            &world.existing,
        )
        .len()
    };
    assert_eq!(ask(&world), 2);
    world.target.sections.insert(id("old"), Ok(old.clone()));
    assert_eq!(ask(&world), 3);
    let host = world.host("banana").clone();
    world.hosts.insert(HostKey::of(&old), host);
    assert_eq!(world.codes(), ["storage-recorded"]);
    assert_eq!(
        copies(&world)[0].target_path,
        "/old/images/140/vm-140-disk-0.qcow2"
    );
}

#[test]
fn the_state_of_a_tpm_becomes_raw_for_older_targets() {
    let mut world = World::of("tpmstate0: san:565/t.qcow2,version=v2.0\nboot: order=net0");
    assert_eq!(copies(&world)[0].target_format, Format::Qcow2);
    world.target.release = crate::plan::sample::release("8.4");
    let volume = &copies(&world)[0];
    assert_eq!(volume.target_format, Format::Raw);
    assert_eq!(volume.attach, "ssd:126/vm-126-disk-0.raw,version=v2.0");
}

#[test]
fn pools_are_joined_where_they_exist() {
    let mut world = World::new();
    world.guest().pool = Some(id("customers"));
    assert_eq!(world.codes(), ["pool-missing"]);
    assert_eq!(world.decide().plans[0].pool, None);
    world.target.pools.push(id("customers"));
    assert_eq!(world.codes(), [""; 0]);
    assert_eq!(world.decide().plans[0].pool, Some(id("customers")));
}

#[test]
fn hosts_are_asked_about_the_vmids_that_matter() {
    let mut world = World::new();
    world.request.target_vmid = Some(id("300"));
    world.began(&[]);
    let ask = hosts_to_ask(
        &world.request,
        &world.source,
        &world.target,
        &world.existing,
    );
    let shown: Vec<String> = ask
        .iter()
        .map(|(key, vmids)| {
            let vmids: Vec<String> = vmids.iter().map(ToString::to_string).collect();
            format!("{}: {}", key.ssh.host, vmids.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "node2.banana.example: 126 127 128 140 300",
            "san.apple.example: 565"
        ]
    );
}

#[test]
fn the_route_and_tool_come_with_their_reason() {
    let mut world = World::new();
    world
        .host("banana")
        .as_mut()
        .expect("in order")
        .temp
        .executable = false;
    let volume = &copies(&world)[0];
    assert_eq!((volume.route, volume.tool), (Route::Relay, Tool::Stock));
    assert!(
        volume.because.contains("nothing may be run from temp"),
        "{}",
        volume.because
    );
    assert_eq!(volume.source_storage.origin, Origin::File);
}

/// One line for each volume: who copies it, from where to where, in which formats and by which tool.
fn ways(world: &World) -> Vec<String> {
    copies(world)
        .iter()
        .map(|v| {
            let sparse = v
                .target_zvol
                .as_ref()
                .map_or("", |zvol| if zvol.sparse { " sparse" } else { " thick" });
            format!(
                "{:?} {} {:?} -> {} {:?}{sparse} = {}",
                v.engine, v.source_path, v.source_format, v.target_path, v.target_format, v.attach
            )
        })
        .collect()
}

#[test]
fn each_pair_of_storages_has_its_engine() {
    let world = World::zfs();
    assert_eq!(world.codes(), [""; 0]);
    assert_eq!(
        ways(&world),
        [
            "Zfs /dev/zvol/tank/data/vm-565-disk-0 Raw -> /dev/zvol/fast/vms/vm-126-disk-0 Raw sparse = \
          ssd:vm-126-disk-0,discard=on"
        ]
    );
    let volume = &copies(&world)[0];
    let source = volume.source_zvol.as_ref().expect("a zvol");
    assert_eq!(source.dataset, "tank/data/vm-565-disk-0");
    assert_eq!(source.block_size, Some(crate::units::Bytes::kib(16)));
    assert_eq!(volume.used, Some(crate::units::Bytes::gib(12)));
    assert!(volume.stream.compressed && volume.stream.large_blocks && !volume.stream.raw);
    // From ZFS to files: raw, uncompressed.
    let mut world = World::of("boot: order=scsi0\nscsi0: tank:vm-565-disk-0,size=50G");
    world.source_on_zfs(&["vm-565-disk-0"]);
    assert_eq!(world.codes(), [""; 0]);
    assert_eq!(
        ways(&world),
        [
            "Image /dev/zvol/tank/data/vm-565-disk-0 Raw -> /ssd/images/126/vm-126-disk-0.raw Raw = \
          ssd:126/vm-126-disk-0.raw,discard=on"
        ]
    );
    assert_eq!(copies(&world)[0].used, Some(crate::units::Bytes::gib(18)));
    // From files to ZFS, where nothing but raw exists; this storage reserves.
    let mut world = World::of(
        "boot: order=scsi0\nefidisk0: san:565/e.raw,efitype=4m\nscsi0: san:565/a.qcow2,discard=ignore\n\
         tpmstate0: san:565/t.qcow2,version=v2.0\nvirtio0: san:565/b.raw",
    );
    world.target_on_zfs();
    let settings = &mut world.target.storages[0].settings;
    settings.insert("sparse".to_owned(), "0".to_owned());
    settings.insert("blocksize".to_owned(), "64k".to_owned());
    assert_eq!(world.codes(), [""; 0]);
    assert_eq!(
        ways(&world),
        [
            "Image /pool0/san/images/565/a.qcow2 Qcow2 -> /dev/zvol/fast/vms/vm-126-disk-0 Raw thick = \
             ssd:vm-126-disk-0,discard=ignore",
            "Image /pool0/san/images/565/b.raw Raw -> /dev/zvol/fast/vms/vm-126-disk-1 Raw thick = \
             ssd:vm-126-disk-1",
            "Image /pool0/san/images/565/e.raw Raw -> /dev/zvol/fast/vms/vm-126-disk-2 Raw thick = \
             ssd:vm-126-disk-2,efitype=4m",
            "Image /pool0/san/images/565/t.qcow2 Qcow2 -> /dev/zvol/fast/vms/vm-126-disk-3 Raw thick = \
             ssd:vm-126-disk-3,version=v2.0",
        ]
    );
    let zvol = copies(&world)[0].target_zvol.clone().expect("a zvol");
    assert_eq!(zvol.block_size, Some(crate::units::Bytes::kib(64)));
    let notes = &world.decide().plans[0].changes;
    assert!(
        notes
            .iter()
            .any(|note| note.key == "scsi0" && note.reason.starts_with("becomes raw")),
        "{notes:?}"
    );
}

#[test]
fn one_guest_may_have_drives_on_both_kinds() {
    let mut world = World::of(
        "boot: order=scsi0\nscsi0: tank:vm-565-disk-0\nscsi1: san:565/b.qcow2\nscsi2: tank:vm-565-disk-1",
    );
    world.source_on_zfs(&["vm-565-disk-0", "vm-565-disk-1"]);
    world.target_on_zfs();
    // One of them goes to files.
    let files = section("banana", "files", "node2.banana.example", "/files");
    world
        .target
        .storages
        .push(crate::plan::sample::storage("files", "dir", &["images"]));
    let host = crate::plan::sample::host("root@node2.banana.example");
    world.hosts.insert(HostKey::of(&files), Ok(host));
    world.target.sections.insert(id("files"), Ok(files));
    world.request.storages.insert(id("scsi2"), id("files"));
    assert_eq!(world.codes(), [""; 0]);
    let engines: Vec<String> = copies(&world)
        .iter()
        .map(|v| format!("{:?} {}", v.engine, v.target))
        .collect();
    assert_eq!(
        engines,
        [
            "Zfs ssd:vm-126-disk-0",
            "Image ssd:vm-126-disk-1",
            "Image files:126/vm-126-disk-0.raw"
        ]
    );
    let ask = hosts_to_ask(
        &world.request,
        &world.source,
        &world.target,
        &world.existing,
    );
    let asked: Vec<String> = ask
        .keys()
        .map(|key| format!("{:?} {:?}", key.directory, key.dataset))
        .collect();
    assert_eq!(ask.len(), 4, "{asked:?}");
}

#[test]
fn names_of_zvols_avoid_what_is_there() {
    let mut world = World::zfs();
    world.request.target_vmid = Some(id("300"));
    // The cluster knows a template's volume, the host a container's and one of another guest.
    let known = world.target.volumes.get_mut(&id("ssd")).expect("in order");
    known.insert("base-300-disk-0".to_owned());
    known.insert("base-9000-disk-0/vm-300-disk-1".to_owned());
    let zfs = world.dataset("banana");
    zfs.others.insert("subvol-300-disk-2".to_owned());
    zfs.zvols
        .insert("vm-300-disk-3".to_owned(), Default::default());
    zfs.zvols
        .insert("vm-300-disk-40".to_owned(), Default::default());
    zfs.zvols
        .insert("vm-3001-disk-4".to_owned(), Default::default());
    assert_eq!(copies(&world)[0].target.to_string(), "ssd:vm-300-disk-4");
    // A number with volumes on ZFS is not suggested.
    world.request.target_vmid = None;
    let known = world.target.volumes.get_mut(&id("ssd")).expect("in order");
    known.insert("vm-126-disk-9".to_owned());
    assert_eq!(copies(&world)[0].target.to_string(), "ssd:vm-127-disk-0");
}

#[test]
fn an_earlier_move_to_zfs_goes_on_with_what_it_recorded() {
    let mut world = World::zfs();
    world.began(&[("scsi0", "ssd:vm-140-disk-7")]);
    let mut there = world.dataset("tank").zvols["vm-565-disk-0"].clone();
    world
        .dataset("banana")
        .zvols
        .insert("vm-140-disk-7".to_owned(), there.clone());
    assert_eq!(world.codes(), [""; 0]);
    assert_eq!(
        copies(&world)[0].target_path,
        "/dev/zvol/fast/vms/vm-140-disk-7"
    );
    // From a qcow2 file, the volume is raw as before.
    let mut files = World::new();
    files.target_on_zfs();
    files.began(&[("virtio0", "ssd:vm-140-disk-7")]);
    assert_eq!(copies(&files)[0].target_format, Format::Raw);
    // What arrived encrypted as it was goes on so, whatever is allowed now.
    let key = |root: &str| crate::plan::facts::zfs::Encryption {
        root: root.to_owned(),
        key_loaded: true,
    };
    let zvols = &mut world.dataset("tank").zvols;
    zvols.get_mut("vm-565-disk-0").expect("it").encryption = Some(key("tank/data"));
    there.encryption = Some(key("fast/vms/vm-140-disk-7"));
    world
        .dataset("banana")
        .zvols
        .insert("vm-140-disk-7".to_owned(), there);
    world.request.allow_plain = true;
    world.request.skip_start = true;
    assert_eq!(world.codes(), ["key-stays"]);
    assert!(copies(&world)[0].stream.raw);
}

#[test]
fn block_sizes_are_read() {
    use crate::units::Bytes;
    for (text, expect) in [
        ("16k", Some(Bytes::kib(16))),
        ("8K", Some(Bytes::kib(8))),
        ("1M", Some(Bytes::mib(1))),
        ("4096", Some(Bytes::kib(4))),
        (" 64k ", Some(Bytes::kib(64))),
        ("12k", None),
        ("k", None),
        ("", None),
        ("99999999999999999999k", None),
    ] {
        assert_eq!(zvol::block_size(text), expect, "{text}");
    }
}

/// Lines that a guest's configuration may hold, good and odd ones.
fn line() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "scsi0",
        "scsi1",
        "virtio0",
        "ide2",
        "sata0",
        "efidisk0",
        "tpmstate0",
        "unused0",
        "net0",
        "boot",
        "bootdisk",
        "cpu",
        "machine",
        "memory",
        "args",
        "onboot",
        "protection",
        "startup",
        "smbios1",
        "template",
        "lock",
        "hostpci0",
    ]);
    let values = prop_oneof![
        "san:565/vm-565-disk-[0-3]\\.(raw|qcow2|vmdk)(,[a-z]{1,6}=[a-z0-9]{1,4}){0,3}",
        "none,media=cdrom",
        "[ -~]{0,30}",
        "order=[a-z0-9;]{0,20}",
    ];
    (keys, values).prop_map(|(key, value)| format!("{key}: {value}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_drive_has_a_plan_or_a_verdict(lines in proptest::collection::vec(line(), 0..12)) {
        let text = lines.join("\n");
        let world = World::of(&text);
        let decision = world.decide();
        let plan = &decision.plans[0];
        let (drives, wrong) = config(&text).drives();
        for key in drives.iter().map(|drive| drive.key).chain(wrong.iter().map(|(key, _)| *key)) {
            let planned = plan.drives.iter().any(|drive| drive.key == key);
            let judged = decision.all_verdicts().any(|verdict| {
                verdict.severity == Severity::Refuse && verdict.reason.contains(&key.to_string())
            });
            prop_assert!(planned || judged, "{key} in {text}");
        }
    }

    #[test]
    fn no_two_drives_share_a_volume(lines in proptest::collection::vec(line(), 0..12)) {
        let mut world = World::of(&lines.join("\n"));
        let guest = world.source.wanted["web1"].clone();
        world.source.wanted.insert("db1".to_owned(), guest);
        world.request.guests.push("db1".to_owned());
        let targets: Vec<String> = copies(&world).iter().map(|v| v.target_path.clone()).collect();
        let unique: BTreeSet<&String> = targets.iter().collect();
        prop_assert_eq!(unique.len(), targets.len());
    }
}
