//! Whole moves by the real program of guests with snapshots inside of their qcow2 files, and what is refused.
//!
//! QEMU's own qemu-img makes the snapshots and judges them. Between pools: `snapshot_lab.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/disks.rs"]
mod disks;
#[path = "support/not_run.rs"]
mod not_run;
#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use disks::{hash, qemu};
use proxmove::sim::stage::Stage;
use proxmove::sim::world::guest::Snapshot;
use proxmove::sim::world::scenario::{GuestSpec, SnapshotSpec};
use stage::{MIB, clusters, config, disk, guest, nothing_left, run};

const PLACE: [&str; 5] = ["apple", "banana", "node2", "local-ssd", "web1"];

/// Returns a stopped guest with two snapshots, of which the second is said to hold memory.
fn with_snapshots() -> GuestSpec {
    let snapshot = |name: &str, with_memory| SnapshotSpec {
        name: name.to_owned(),
        description: format!("{name}: before\nthe upgrade"),
        with_memory,
    };
    GuestSpec {
        running: false,
        snapshots: vec![snapshot("s1", false), snapshot("s2", true)],
        ..guest(565, "web1", vec![disk("scsi0", "qcow2", 16 * MIB)], 0)
    }
}

/// Returns the only file of a guest's disks.
fn image(stage: &Stage, cluster: &str, vmid: u32) -> PathBuf {
    let world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter()
        .find(|it| it.alias == cluster)
        .unwrap();
    let guest = &cluster.guests[&vmid];
    cluster.running_guest(guest).images.remove(0).path
}

fn snapshots(stage: &Stage, cluster: &str, vmid: u32) -> Vec<Snapshot> {
    let world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter()
        .find(|it| it.alias == cluster)
        .unwrap();
    cluster.guests[&vmid].snapshots.clone()
}

/// Returns the hash of what a guest would see after going back to a snapshot; the file itself is not touched.
fn rolled_back(file: &Path, snapshot: &str) -> Option<blake3::Hash> {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::copy(file, at("copy.qcow2")).unwrap();
    qemu("qemu-img", &["snapshot", "-a", snapshot, &at("copy.qcow2")])?;
    qemu(
        "qemu-img",
        &["convert", "-O", "raw", &at("copy.qcow2"), &at("raw")],
    )?;
    Some(hash(&at("raw")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_inside_of_a_file_are_known_on_the_target() {
    let stage = stage::start(clusters(vec![with_snapshots()]), |_| {}).await;
    let source = image(&stage, "apple", 565);
    let file = source.display().to_string();
    let mut recorded = BTreeMap::new();
    for (place, name) in ["s1", "s2"].into_iter().enumerate() {
        let write = format!("write -P {} {}M 3M", 7 + place, 2 * place);
        if qemu("qemu-io", &["-f", "qcow2", "-c", &write, &file]).is_none() {
            return;
        }
        qemu("qemu-img", &["snapshot", "-c", name, &file]);
        recorded.insert(name, rolled_back(&source, name).unwrap());
    }
    assert_ne!(recorded["s1"], recorded["s2"]);

    // Without being asked for, they would be there and nobody would know.
    let refused = run(&stage, &PLACE).expect(4);
    assert!(
        refused
            .stderr
            .contains("--with-snapshots carries those of qcow2"),
        "{}",
        refused.stderr
    );
    let arguments = [&["--with-snapshots"], &PLACE[..]].concat();
    stage.simulation.faults().forget();
    let plan = run(&stage, &[&["-n"], &arguments[..]].concat()).expect(0);
    assert!(
        plan.stdout.contains("snapshot  s1 travels\n"),
        "{}",
        plan.stdout
    );
    assert!(
        plan.stdout
            .contains("snapshot  s2 travels, without its memory\n"),
        "{}",
        plan.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);

    run(&stage, &arguments).expect(0);
    let target = stage.vmid("banana", "web1").unwrap();
    let there = snapshots(&stage, "banana", target);
    let here = snapshots(&stage, "apple", 565);
    let shown = |all: &[Snapshot]| -> Vec<_> {
        let shown = |it: &Snapshot| {
            (
                it.name.clone(),
                it.description.clone(),
                it.taken,
                it.parent.clone(),
            )
        };
        all.iter().map(shown).collect()
    };
    assert_eq!(shown(&there), shown(&here));
    assert!(there.iter().all(|snapshot| !snapshot.with_memory));
    let volume = format!("local-ssd:{target}/vm-{target}-disk-0.qcow2");
    for (there, here) in there.iter().zip(&here) {
        assert_eq!(there.config["scsi0"], format!("{volume},size=16M"));
        assert_eq!(there.config["name"], "web1");
        for key in [
            "cores", "memory", "net0", "boot", "onboot", "vmgenid", "tags",
        ] {
            assert_eq!(there.config[key], here.config[key], "{key}");
        }
    }
    assert_eq!(config(&stage, "banana", target)["parent"], "s2");
    for (name, recorded) in recorded {
        assert_eq!(
            rolled_back(&image(&stage, "banana", target), name),
            Some(recorded),
            "{name}"
        );
    }
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_dies_beside_the_file_enters_them_when_it_is_run_again() {
    let stage = stage::start(clusters(vec![with_snapshots()]), |_| {}).await;
    let arguments = [&["--with-snapshots"], &PLACE[..]].concat();
    let home = stage.home.parent().unwrap();
    let files = home.join("hosts/banana-node2/etc/pve/nodes/node2/qemu-server");
    // Something of Proxmox VE works on the guest when its file is to be written.
    let lock = home.join("hosts/banana-node2/var/lock/qemu-server");
    fs::create_dir_all(&lock).unwrap();
    let held = fs::File::create(lock.join("lock-100.conf")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let failed = run(&stage, &arguments);
    assert!(
        failed.stderr.contains("is held by something else"),
        "{}",
        failed.stderr
    );
    assert!(
        failed
            .stderr
            .contains("entering the snapshots of web1 failed"),
        "{}",
        failed.stderr
    );
    assert_ne!(failed.code, 0);
    let before = fs::read_to_string(files.join("100.conf")).unwrap();
    assert!(!before.contains("[s1]"), "{before}");
    drop(held);
    run(&stage, &arguments).expect(0);
    let target = stage.vmid("banana", "web1").unwrap();
    assert_eq!(snapshots(&stage, "banana", target).len(), 2);
    let after = fs::read_to_string(files.join("100.conf")).unwrap();
    assert_eq!(after.matches("[s1]").count(), 1, "{after}");
    assert!(!after.contains("proxmove"), "{after}");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_be_written_to_is_refused_before_anything_is_written() {
    let stage = stage::start(clusters(vec![with_snapshots()]), |_| {}).await;
    let home = stage.home.parent().unwrap();
    let local = home.join("hosts/banana-node2/etc/pve/local");
    fs::remove_file(&local).unwrap();
    std::os::unix::fs::symlink("nodes/node1", &local).unwrap();
    let arguments = [&["--with-snapshots"], &PLACE[..]].concat();
    stage.simulation.faults().forget();
    let refused = run(&stage, &arguments).expect(4);
    assert!(
        refused.stderr.contains("it is node node1"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("[node-file]"), "{}", refused.stderr);
    assert_eq!(stage.simulation.faults().writes(), []);
    nothing_left(&stage);
}
