use expect_test::expect;

use super::*;
use crate::plan::sample::{World, id};

#[test]
fn a_plan_is_shown_whole() {
    let mut world = World::of(
        "boot: order=virtio0\nide2: iso:iso/tiny.iso,media=cdrom\nname: web1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\n\
         meta: creation-qemu=9.0\nvirtio0: san:565/vm-565-disk-0.qcow2,iops_rd=4000,size=50G",
    );
    world
        .request
        .bridges
        .insert("vmbr0".to_owned(), "vmbr1".to_owned());
    world.guest().pool = Some(id("customers"));
    world.target.pools.push(id("customers"));
    let decision = world.decide();
    expect![[r#"
        web1: apple/565 on node1 (running) -> banana/126 on node2
          ide2      set to none,media=cdrom
          virtio0   san:565/vm-565-disk-0.qcow2 (qcow2, 50.0 GiB, 20.0 GiB occupied) -> ssd:126/vm-126-disk-0.qcow2 (qcow2)
                    engine image, route direct, tool porter: from host to host, because root@san.apple.example has an ssh client that can be trusted with a limited agent; the porter runs on both hosts
          pool      customers
          ide2      changed: iso:iso/tiny.iso is ejected
          meta      dropped: the target writes its own (QEMU version and time of creation)
          net0      changed: bridge vmbr0 becomes vmbr1 (--map-bridge)
          virtio0   added: discard=on, so that the guest can give space back to the storage
          copy      20.0 GiB in about 3m 7s, downtime about 1m 44s

        Estimates assume 110.0 MiB/s between the hosts, 500.0 MiB/s from disk and all of it read on both sides after the stop, 1 % changed between the last pre-copy and the stop, 20s to shut down.

        Not carried: firewall rules, ACLs, backup jobs and replication settings; HA settings only with --ha recreate.

        Nothing forbids this move.
    "#]]
    .assert_eq(&text(&world.request, &decision));
}

#[test]
fn verdicts_are_shown_once_for_all_guests() {
    let mut world = World::new();
    world.guest().detail.lock = Some("backup".to_owned());
    let guest = world.source.wanted["web1"].clone();
    world.source.wanted.insert("db1".to_owned(), guest);
    world.request.guests = ["db1", "web1", "mail"].map(str::to_owned).to_vec();
    world.target.storages[0].available = Bytes::gib(60);
    let decision = world.decide();
    let text = text(&world.request, &decision);
    let verdicts = &text[text.find("Refused:").expect("in order")..];
    expect![[r#"
        Refused:
          mail: apple has no guest mail [guest-missing]
            -> check the name; root@pam sees guests on which it has VM.Audit only
          db1, web1: it is locked (backup) [guest-locked]
            -> wait until that ends; only if nothing is at work any more: qm unlock 565

        Warnings:
          storage ssd has 60.0 GiB free; the guests occupy 40.0 GiB but may grow to 100.0 GiB [space-overcommitted]
            -> watch its free space

        Nothing will be started until what is refused is turned.
    "#]]
    .assert_eq(verdicts);
}

#[test]
fn json_says_the_same() {
    let mut world = World::new();
    world.request.limit = Some(Bandwidth::mbit_per_second(80));
    world.request.skip_start = true;
    let decision = world.decide();
    let value = serde_json::to_value(shown(&world.request, &decision)).expect("plain values");
    assert_eq!(value["refused"], false);
    assert_eq!(value["guests"][0]["drives"][1]["action"], "copy");
    assert_eq!(value["guests"][0]["drives"][1]["source-format"], "qcow2");
    assert_eq!(value["guests"][0]["bytes"], Bytes::gib(20).0);
    // 20 GiB at 10 MB/s.
    assert_eq!(value["guests"][0]["copy-seconds"], 2148);
    assert_eq!(value["guests"][0]["start"], false);
    assert_eq!(value["verdicts"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_stopped_guest_has_no_downtime() {
    let mut world = World::new();
    world.guest().detail.power = crate::pve::guest::Power::Stopped;
    let decision = world.decide();
    let text = text(&world.request, &decision);
    assert!(text.contains("no downtime, for it does not run"), "{text}");
}

#[test]
fn streams_between_pools_read_well() {
    let mut world = World::zfs();
    let decision = world.decide();
    expect![[r#"
        web1: apple/565 on node1 (running) -> banana/126 on node2
          scsi0     tank:vm-565-disk-0 (zvol, 50.0 GiB, 12.0 GiB occupied) -> ssd:vm-126-disk-0 (sparse zvol)
                    engine zfs (zfs send -c -L -e), route direct, tool porter: from host to host, because root@tank.apple.example has an ssh client that can be trusted with a limited agent; the porter runs on both hosts
          scsi0     added: discard=on, so that the guest can give space back to the storage
          copy      12.0 GiB in about 1m 52s, downtime about 22s

        Estimates assume 110.0 MiB/s between the hosts, 1 % changed between the last pre-copy and the stop, 20s to shut down.

        Not carried: firewall rules, ACLs, backup jobs and replication settings; HA settings only with --ha recreate.

        Nothing forbids this move.
    "#]].assert_eq(&text(&world.request, &decision));
    world.target.storages[0].settings.clear();
    world.dataset("banana").version = None;
    let decision = world.decide();
    let text = text(&world.request, &decision);
    expect![[r#"
        web1: apple/565 on node1 (running) -> banana/126 on node2
          scsi0     tank:vm-565-disk-0 (zvol, 50.0 GiB, 12.0 GiB occupied) -> ssd:vm-126-disk-0 (zvol, all of its size reserved)
                    engine zfs (zfs send -L -e), route direct, tool porter: from host to host, because root@tank.apple.example has an ssh client that can be trusted with a limited agent; the porter runs on both hosts
          copy      12.0 GiB in about 1m 52s, downtime about 22s

    "#]].assert_eq(&text[..text.find("Estimates").expect("in order")]);
    let value = serde_json::to_value(shown(&world.request, &decision)).expect("plain values");
    let drive = &value["guests"][0]["drives"][0];
    let zfs = &drive["zfs"];
    assert_eq!(zfs["source"], "tank/data/vm-565-disk-0");
    assert_eq!(zfs["target"], "fast/vms/vm-126-disk-0");
    assert_eq!(zfs["sparse"], false);
    assert_eq!(zfs["stream"], "-L -e");
    assert_eq!(drive["source-format"], "raw");
}
