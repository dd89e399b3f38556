//! Whole moves by the real program: what was written before the stop is on the target, and all else is as promised.
//!
//! The guests write numbered records (`sim/guest.rs`); the clusters answer over HTTPS and the hosts over SSH.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::DiskSpec;
use serde_json::Value;
use stage::{
    MIB, clusters, config, disk, guest, left_files, moved, nothing_left, proved, run, runs,
    to_banana,
};

const GIB: u64 = 1 << 30;

/// Keys that a move changes, or that belong to one guest only.
const OF_ITS_OWN: [&str; 4] = ["digest", "meta", "vmgenid", "name"];

/// Returns the changes of the configuration that `-n` announces.
#[track_caller]
fn announced(stage: &Stage, arguments: &[&str]) -> Vec<Value> {
    stage.simulation.faults().forget();
    let run = run(stage, &[&["-n"], arguments].concat()).expect(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    plan["guests"][0]["changes"].as_array().unwrap().clone()
}

/// Compares two configurations key by key: equal values, apart from the volumes and from what was announced.
#[track_caller]
fn same(source: &BTreeMap<String, String>, target: &BTreeMap<String, String>, announced: &[Value]) {
    let is_drive = |key: &str| proxmove::sim::world::guest::is_drive(key);
    for (key, value) in source {
        let key = key.as_str();
        if OF_ITS_OWN.contains(&key) {
            continue;
        }
        let Some(moved) = target.get(key) else {
            panic!("{key}: {value} is missing on the target: {target:?}");
        };
        if is_drive(key) {
            // The volume is another one; its options are the same, apart from one that may be announced.
            let trims = announced
                .iter()
                .any(|change| change["key"] == key && change.to_string().contains("discard=on"));
            let options = |value: &str| {
                let mut options: Vec<String> =
                    value.split(',').skip(1).map(str::to_owned).collect();
                options.sort();
                options
            };
            let mut expected = options(value);
            if trims {
                expected.push("discard=on".to_owned());
                expected.sort();
            }
            assert_eq!(expected, options(moved), "{key}: {announced:?}");
        } else {
            assert_eq!(value, moved, "{key}");
        }
    }
    for key in target.keys().map(String::as_str) {
        let known = source.contains_key(key) || OF_ITS_OWN.contains(&key);
        assert!(known, "{key} is new on the target: {}", target[key]);
    }
}

/// Moves a guest that writes over its whole disks, and judges everything.
async fn a_writing_guest(seed: u64, disks: Vec<DiskSpec>, write_rate: u64, turned: bool) {
    let mut world = clusters(vec![guest(565, "web1", disks, write_rate)]);
    if turned {
        // From a newer release to an older one.
        world[0].version = "9.1.2".to_owned();
        world[1].version = "8.4.1".to_owned();
    }
    let stage = stage::start(world, |settings| settings.seed = seed).await;
    let before = config(&stage, "apple", 565);
    let arguments = to_banana(&[], &["web1"]);
    let changes = announced(&stage, &arguments);
    let run = run(&stage, &arguments).expect(0);

    let vmid = moved(&stage, ("apple", 565), "banana", "web1");
    let records = proved(&stage, ("apple", 565), ("banana", vmid));
    assert!(records > 100, "only {records} records were written");
    same(&before, &config(&stage, "banana", vmid), &changes);
    nothing_left(&stage);

    // JSON lines and nothing else, a summary last.
    let events = run.events();
    assert!(events.iter().all(|event| event["time"].is_string()));
    assert_eq!(events.first().unwrap()["event"], "move-started");
    let summary = events.last().unwrap();
    assert_eq!(summary["event"], "move-done", "{summary}");
    assert_eq!(summary["guest"], "web1");
    assert!(summary["downtime_seconds"].as_f64().unwrap() > 0.0);
    let verified = summary["verified"].as_array().unwrap().len();
    let drives = before
        .iter()
        .filter(|(key, value)| {
            proxmove::sim::world::guest::is_drive(key) && !value.contains("media=cdrom")
        })
        .count();
    assert_eq!(verified, drives, "{summary}");
    eprintln!(
        "seed {seed}: {records} records, {:.1} s, downtime {:.1} s, {} rounds, {} MiB carried, {} MiB of them at the end",
        run.duration.as_secs_f64(),
        summary["downtime_seconds"].as_f64().unwrap(),
        summary["rounds"],
        summary["carried"].as_u64().unwrap() / MIB,
        summary["final_carried"].as_u64().unwrap() / MIB,
    );

    again(&stage, &arguments, "banana", vmid);
}

/// Runs the same command once more: it says that the guest was moved, and changes nothing.
#[track_caller]
fn again(stage: &Stage, arguments: &[&str], target: &str, vmid: u32) {
    let before = (config(stage, "apple", 565), config(stage, target, vmid));
    stage.simulation.faults().forget();
    let run = run(stage, arguments).expect(4);
    assert!(run.stdout.contains("moved already"), "{}", run.stdout);
    assert!(
        run.events().is_empty() || run.told("move-done").is_empty(),
        "{}",
        run.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(
        before,
        (config(stage, "apple", 565), config(stage, target, vmid))
    );
    assert_eq!(left_files(stage), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_raw_disk_of_4_gib_is_moved_while_its_guest_writes_all_over_it() {
    a_writing_guest(11, vec![disk("virtio0", "raw", 4 * GIB)], 4 * MIB, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_qcow2_disk_of_4_gib_is_moved_while_its_guest_writes_all_over_it() {
    a_writing_guest(22, vec![disk("scsi0", "qcow2", 4 * GIB)], 4 * MIB, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_disks_and_state_that_must_be_converted_are_moved_while_their_guest_writes() {
    let option = |options: &str, disk: DiskSpec| DiskSpec {
        options: options.to_owned(),
        ..disk
    };
    let disks = vec![
        option("discard=on,cache=writeback", disk("scsi0", "raw", 4 * GIB)),
        option("iothread=1", disk("virtio3", "qcow2", GIB)),
        option(
            "efitype=4m,pre-enrolled-keys=1",
            disk("efidisk0", "qcow2", 540_672),
        ),
        // Before release 9, the state of a TPM has to be raw: this one is converted on the way.
        option("version=v2.0", disk("tpmstate0", "qcow2", 4 * MIB)),
    ];
    a_writing_guest(33, disks, 2 * MIB, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stopped_guest_is_moved_and_stays_stopped() {
    let mut web1 = guest(565, "web1", vec![disk("virtio0", "qcow2", 64 * MIB)], 0);
    web1.running = false;
    let stage = stage::start(clusters(vec![web1]), |_| {}).await;
    let image = stage
        .simulation
        .directory
        .join("apple/node1/var/lib/vz/images/565/vm-565-disk-0.qcow2");
    let content = std::fs::read(&image).unwrap();
    let before = config(&stage, "apple", 565);
    let arguments = to_banana(&[], &["web1"]);
    let changes = announced(&stage, &arguments);
    let ended = run(&stage, &arguments).expect(0);
    let summary = ended.events().pop().unwrap();
    assert_eq!(summary["event"], "move-done");
    assert!(summary["downtime_seconds"].is_null(), "{summary}");
    let vmid = stage.vmid("banana", "web1").unwrap();
    assert!(!runs(&stage, "banana", vmid));
    assert!(!runs(&stage, "apple", 565));
    let retired = config(&stage, "apple", 565);
    assert_eq!(retired["name"], "web1--MIGRATED");
    assert_eq!(retired["onboot"], "0");
    let kept = config(&stage, "banana", vmid);
    same(&before, &kept, &changes);
    assert_eq!(kept["onboot"], "1");
    let copy = stage.simulation.directory.join(format!(
        "banana/node2/srv/local-ssd/images/{vmid}/vm-{vmid}-disk-0.qcow2"
    ));
    assert_eq!(std::fs::read(copy).unwrap(), content);
    assert_eq!(std::fs::read(&image).unwrap(), content);
    nothing_left(&stage);
    again(&stage, &arguments, "banana", vmid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_command_moves_two_guests_and_a_failure_of_one_does_not_stop_the_other() {
    let disks = |key| vec![disk(key, "qcow2", 64 * MIB)];
    let guests = vec![
        guest(101, "web1", disks("virtio0"), MIB),
        guest(102, "db1", disks("scsi0"), MIB),
        guest(103, "mail1", disks("scsi0"), MIB),
        guest(104, "log1", disks("sata0"), MIB),
    ];
    let stage = stage::start(clusters(guests), |settings| settings.seed = 7).await;
    let both = run(&stage, &to_banana(&[], &["web1", "db1"])).expect(0);
    assert_eq!(both.told("move-done").len(), 2);
    for (vmid, name) in [(101, "web1"), (102, "db1")] {
        let target = moved(&stage, ("apple", vmid), "banana", name);
        proved(&stage, ("apple", vmid), ("banana", target));
    }

    let refuse = FaultKind::Error(500, "got no worker upid".to_owned());
    stage.simulation.faults().add(Fault {
        nth: None,
        ..Fault::first("POST", "/nodes/node1/qemu/103/status/shutdown", refuse)
    });
    let one = run(&stage, &to_banana(&[], &["mail1", "log1"])).expect(5);
    let failed = one.told("move-failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&failed[0]["guest"], &failed[0]["exit_code"]),
        (&"mail1".into(), &5.into())
    );
    let target = moved(&stage, ("apple", 104), "banana", "log1");
    proved(&stage, ("apple", 104), ("banana", target));
    // The failed one runs where it was, under its own name.
    let mail1 = config(&stage, "apple", 103);
    assert_eq!(
        (mail1["name"].as_str(), mail1["onboot"].as_str()),
        ("mail1", "1")
    );
    assert!(runs(&stage, "apple", 103));

    // A fault after the stop: the source is down, which is the worst.
    stage.simulation.faults().clear();
    let refuse = FaultKind::Error(500, "unable to lock".to_owned());
    stage.simulation.faults().add(Fault {
        cluster: Some("apple".to_owned()),
        nth: None,
        ..Fault::first("PUT", "/nodes/node1/qemu/103/config", refuse)
    });
    let down = run(&stage, &to_banana(&[], &["mail1"])).expect(6);
    assert!(
        down.told("move-failed")[0]["state"]
            .as_str()
            .unwrap()
            .contains("stopped")
            || down.told("move-failed")[0]["state"]
                .as_str()
                .unwrap()
                .contains("STOPPED"),
        "{}",
        down.stdout
    );

    // And mended: it continues to the end.
    stage.simulation.faults().clear();
    run(&stage, &to_banana(&[], &["mail1"])).expect(0);
    let target = moved(&stage, ("apple", 103), "banana", "mail1");
    proved(&stage, ("apple", 103), ("banana", target));
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn within_one_cluster_a_guest_is_moved_when_its_own_name_may_exist() {
    let web1 = guest(565, "web1", vec![disk("virtio0", "raw", 128 * MIB)], MIB);
    let stage = stage::start(clusters(vec![web1]), |settings| settings.seed = 9).await;
    let before = config(&stage, "apple", 565);
    let place = [
        "--json",
        "--yes",
        "apple",
        "apple",
        "node2",
        "local-ssd",
        "web1",
    ];
    run(&stage, &place).expect(4);
    let place = [&["--ignore-exists"], &place[..]].concat();
    let changes = announced(&stage, &place);
    run(&stage, &place).expect(0);
    let vmid = moved(&stage, ("apple", 565), "apple", "web1");
    assert_ne!(vmid, 565);
    proved(&stage, ("apple", 565), ("apple", vmid));
    same(&before, &config(&stage, "apple", vmid), &changes);
    nothing_left(&stage);
}
