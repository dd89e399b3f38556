//! What happens beside a move: a replication that is copying, an API node that dies.
//!
//! The real program against the simulation. Read next: `again.rs`, for what happens to the move itself.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::ReplicationSpec;
use stage::faults::before;
use stage::{
    Ended, MIB, clusters, config, disk, guest, launch, moved, proved, run, runs, to_banana,
};

fn go(stage: &Stage, options: &[&str]) -> Ended {
    run(stage, &to_banana(options, &["web1"]))
}

/// A stage whose web1 is replicated, just now or not.
async fn replicated(running: bool) -> Stage {
    let disks = vec![disk("scsi0", "qcow2", 16 * MIB)];
    let mut clusters = clusters(vec![guest(565, "web1", disks, 64 * 1024)]);
    clusters[0].replication = vec![ReplicationSpec {
        guest: 565,
        target: "node2".to_owned(),
        schedule: "*/15".to_owned(),
        running,
    }];
    stage::start(clusters, |_| {}).await
}

fn copying(stage: &Stage, running: bool) {
    stage.simulation.world().clusters[0].replication[0].running = running;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replication_that_is_copying_is_waited_for_before_the_move_begins() {
    let stage = replicated(true).await;
    let ended = go(&stage, &[]).expect(4);
    assert!(
        ended.stdout.contains("replication-running") && ended.stdout.contains("--wait-for-locks"),
        "{}",
        ended.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    let words = to_banana(&["--wait-for-locks", "5min"], &["web1"]);
    let running = launch(&stage, &words, &[]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stage.simulation.faults().writes(), [], "it did not wait");
    copying(&stage, false);
    let ended = running.wait().expect(0);
    let summary = ended.events().pop().unwrap();
    assert!(
        summary["left"].to_string().contains("pvesr delete 565-0"),
        "{summary}"
    );
    let target = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", target));
    // The job is as it was.
    assert_eq!(stage.simulation.world().clusters[0].replication.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replication_that_begins_meanwhile_is_waited_for_before_the_stop() {
    let stage = replicated(false).await;
    let world = stage.simulation.shared_world();
    let (began, broken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    // Its run begins when the placeholder is made, and takes three seconds.
    let (begins, ends) = (Arc::clone(&began), stage.simulation.shared_world());
    stage.simulation.faults().add(Fault {
        cluster: Some("banana".to_owned()),
        ..Fault::first(
            "POST",
            "/nodes/node2/qemu",
            FaultKind::Before(Arc::new(move || {
                world.lock().unwrap().clusters[0].replication[0].running = true;
                begins.store(true, Ordering::SeqCst);
                let ends = Arc::clone(&ends);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(3));
                    ends.lock().unwrap().clusters[0].replication[0].running = false;
                });
            })),
        )
    });
    let (seen, world) = (Arc::clone(&broken), stage.simulation.shared_world());
    stage.simulation.faults().add(Fault::first(
        "POST",
        "/nodes/*/qemu/565/status/shutdown",
        FaultKind::Before(Arc::new(move || {
            let running = world.lock().unwrap().clusters[0].replication[0].running;
            seen.store(running, Ordering::SeqCst);
        })),
    ));
    let began_at = Instant::now();
    let ended = go(&stage, &[]).expect(0);
    assert!(began.load(Ordering::SeqCst) && !broken.load(Ordering::SeqCst));
    assert!(began_at.elapsed() >= Duration::from_secs(3));
    let notices = ended.told("notice");
    assert!(
        notices
            .iter()
            .any(|told| told["text"].to_string().contains("its replication 565-0")),
        "{}",
        ended.stdout
    );
    let target = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_goes_on_with_another_node_of_the_cluster_that_nobody_configured() {
    let disks = vec![disk("scsi0", "qcow2", 16 * MIB)];
    let mut clusters = clusters(vec![guest(565, "web1", disks, 64 * 1024)]);
    for cluster in &mut clusters {
        cluster.nodes[1].ip = "127.0.0.2".to_owned();
    }
    let stage = stage::start(clusters, |_| {}).await;
    let second = "127.0.0.2".parse().unwrap();
    for alias in ["apple", "banana"] {
        stage.simulation.serve_also(alias, second).unwrap();
    }
    let text = std::fs::read_to_string(stage.proxmoverc()).unwrap();
    assert!(
        !text.contains("127.0.0.2") && !text.contains("also"),
        "{text}"
    );
    // One dies when the source is about to be stopped, the other when the target is about to be started.
    let (apple, banana) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (at_stop, at_start) = (Arc::clone(&apple), Arc::clone(&banana));
    let stops = ("POST", "/nodes/*/qemu/565/status/shutdown");
    before(&stage, "apple", stops, move || {
        at_stop.store(true, Ordering::SeqCst);
    });
    let starts = ("POST", "/nodes/*/qemu/*/status/start");
    before(&stage, "banana", starts, move || {
        at_start.store(true, Ordering::SeqCst);
    });
    let words = to_banana(&[], &["web1"]);
    let mut running = launch(&stage, &words, &[]);
    let mut ended = [false, false];
    while !running.is_over() {
        for (place, (alias, now)) in [("apple", &apple), ("banana", &banana)].iter().enumerate() {
            if now.load(Ordering::SeqCst) && !std::mem::replace(&mut ended[place], true) {
                stage.simulation.end_first_way(alias);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.wait().expect(0);
    assert_eq!(ended, [true, true]);
    let target = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", target));
    assert!(runs(&stage, "banana", target));
    assert_eq!(config(&stage, "apple", 565)["name"], "web1--MIGRATED");
}
