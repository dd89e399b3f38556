//! A site whose storage is a directory; real pools are in the lab.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::*;
use crate::sim::world::scenario::{ClusterSpec, DiskSpec, GuestSpec, StorageSpec};

fn settings(directory: &std::path::Path) -> SiteSettings {
    let disk = |key: &str, format: &str| DiskSpec {
        key: key.to_owned(),
        format: format.to_owned(),
        size: 1 << 20,
        ..DiskSpec::default()
    };
    let cluster = |alias: &str, write_rate| ClusterSpec {
        alias: alias.to_owned(),
        guests: vec![GuestSpec {
            running: true,
            disks: vec![disk("scsi0", "raw"), disk("scsi1", "qcow2")],
            write_rate,
            ..GuestSpec::default()
        }],
        ..ClusterSpec::default()
    };
    SiteSettings {
        scenario: Scenario {
            clusters: vec![cluster("apple", 1 << 20), cluster("banana", 0)],
            ..Scenario::default()
        },
        cluster: "apple".to_owned(),
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        directory: directory.to_owned(),
        play: Play {
            seed: 5,
            ..Play::default()
        },
    }
}

fn await_records(site: &Site) -> Value {
    let began = Instant::now();
    loop {
        let guest = site.obey(r#"{"order": "guest", "vmid": 100}"#);
        if guest["completed"].as_u64() > Some(20) {
            return guest;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{guest}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_that_was_moved_writes_on_from_its_ledger() {
    let directory = tempfile::tempdir().expect("a directory");
    let apple = settings(&directory.path().join("a"));
    let site = Site::start(apple.clone()).expect("a site");
    assert_eq!(site.ready()["ready"], "apple");
    let guest = await_records(&site);
    assert_eq!(guest["running"], true);
    assert_eq!(guest["images"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        site.obey(r#"{"order": "requests"}"#),
        json!({"requests": []})
    );
    let twice = site.obey(r#"{"order": "write", "vmid": 100, "rate": 1}"#);
    assert_eq!(twice["error"], "guest 100 writes already");
    drop(site);
    let ledger = ledger_file(&apple.directory, 100);
    let first = Ledger::load(&ledger).expect("a ledger");
    assert!(first.records() > 0);

    let banana = SiteSettings {
        cluster: "banana".to_owned(),
        directory: directory.path().join("b"),
        ..apple
    };
    let site = Site::start(banana.clone()).expect("a site");
    // What was moved is a copy.
    let images = |directory: &std::path::Path, alias: &str| {
        directory.join(alias).join("node1/var/lib/vz/images/100")
    };
    for name in ["vm-100-disk-0.raw", "vm-100-disk-1.qcow2"] {
        let from = images(&directory.path().join("a"), "apple").join(name);
        std::fs::copy(from, images(&banana.directory, "banana").join(name)).expect("copied");
    }
    let order = json!({"order": "write", "vmid": 100, "rate": 1 << 20, "ledger": ledger});
    assert_eq!(site.obey(&order.to_string()), json!({"writes": 100}));
    await_records(&site);
    let images = site.players.images("banana", 100).expect("images");
    drop(site);
    let second = Ledger::load(&ledger_file(&banana.directory, 100)).expect("a ledger");
    assert!(second.last_sequence > first.last_sequence);
    let verdict = second.check(&images).expect("readable");
    assert!(verdict.is_complete(), "{verdict}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut cherry = settings(directory.path());
    cherry.cluster = "cherry".to_owned();
    let error = Site::start(cherry).expect_err("no such cluster");
    assert_eq!(
        error.to_string(),
        "there is no cluster 'cherry' in the scenario"
    );

    let mut without_room = settings(directory.path());
    let guests = &mut without_room.scenario.clusters[0].guests;
    guests[0].disks[0].size = 0;
    let error = Site::start(without_room).expect_err("no room");
    assert_eq!(
        error.to_string(),
        "scsi0 has no room for a record of 4096 bytes"
    );

    // A pool that this machine does not have.
    let mut without_pool = settings(directory.path());
    without_pool.directory = directory.path().join("other");
    without_pool.scenario.clusters[0]
        .storages
        .push(StorageSpec {
            id: "tank".to_owned(),
            kind: "zfspool".to_owned(),
            real: true,
            extra: [("pool".to_owned(), "no-such-pool/vm".to_owned())].into(),
            ..StorageSpec::default()
        });
    without_pool.scenario.clusters[0].guests[0].disks[0].storage = "tank".to_owned();
    let error = Site::start(without_pool).expect_err("no pool");
    assert_eq!(
        error.to_string(),
        "could not activate storage 'tank', zfs error: cannot import 'no-such-pool': no such pool available"
    );
}
