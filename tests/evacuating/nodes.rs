//! Closing and opening nodes by hand, and going through a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proxmove::evacuation::observe;
use proxmove::sim::world::faults::{Fault, FaultKind};

use crate::cluster::{Adjust as _, ClusterSpecExt as _, Lab, cluster, ct, ha, vm};
use crate::stage::launch;
use crate::state::{all, notes, quick, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_closed_and_opened_and_its_other_notes_stay() {
    let mut spec =
        cluster("9.1.2", 3).guests(vec![vm(101, "node1", "san"), vm(102, "node1", "san")]);
    spec.nodes[0].description = "rack 4, ask Ann".to_owned();
    spec.ha = vec![ha(101)];
    let stage = start(spec).await;
    // Without consent nothing happens.
    launch(&stage, &quick(&["cordon", "node1"]), &[])
        .wait()
        .expect(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    let closed = launch(&stage, &quick(&["cordon", "node1", "--yes"]), &[])
        .wait()
        .expect(0);
    assert!(
        closed.stdout.contains("node1 is closed (cordoned by"),
        "{}",
        closed.stdout
    );
    let text = notes(&stage, "node1");
    assert!(
        text.starts_with("rack 4, ask Ann\n") && text.contains("stage: cordoned"),
        "{text}"
    );
    let maintained = || {
        stage.simulation.world().clusters[0]
            .manager
            .maintenance
            .contains("node1")
    };
    assert!(maintained());
    // Repeating is harmless, and does not forget whose the maintenance is.
    launch(&stage, &quick(&["cordon", "node1", "--yes"]), &[])
        .wait()
        .expect(0);
    // Nobody evacuates to it.
    let plan = launch(&stage, &quick(&["evacuate", "node2", "--to", "node1"]), &[])
        .wait()
        .expect(4);
    assert!(
        plan.stdout.contains("is in HA maintenance"),
        "{}",
        plan.stdout
    );
    launch(&stage, &quick(&["uncordon", "node1", "--yes"]), &[])
        .wait()
        .expect(0);
    assert_eq!(notes(&stage, "node1"), "rack 4, ask Ann");
    assert!(!maintained());
    let wrong = launch(&stage, &quick(&["cordon", "node9", "--yes"]), &[])
        .wait()
        .expect(4);
    assert!(
        wrong.stderr.contains("node1, node2, node3"),
        "{}",
        wrong.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_a_cluster_are_gone_through_one_by_one() {
    let guests = vec![
        vm(101, "node1", "san"),
        ct(111, "node1", "local"),
        vm(201, "node2", "san"),
        vm(301, "node3", "local"),
    ];
    let stage = start(cluster("9.1.2", 3).guests(guests)).await;
    let before = all(&stage);
    let flag = stage.home.join("maintained");
    let command = format!("echo done >>{}", flag.display());
    let ended = launch(
        &stage,
        &quick(&["evacuate", "--rolling", "--yes", "--command", &command]),
        &[],
    )
    .wait()
    .expect(0);
    assert_eq!(
        std::fs::read_to_string(&flag).unwrap().lines().count(),
        3,
        "{}",
        ended.stdout
    );
    assert_eq!(all(&stage), before);
    for node in ["node1", "node2", "node3"] {
        assert_eq!(notes(&stage, node), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_through_a_cluster_stops_at_the_first_node_that_is_not_well() {
    let guests = vec![vm(101, "node1", "san"), vm(201, "node2", "san")];
    let stage = start(cluster("9.1.2", 3).guests(guests)).await;
    let ended = launch(
        &stage,
        &quick(&["evacuate", "--rolling", "--yes", "--command", "exit 3"]),
        &[],
    )
    .wait()
    .expect(5);
    assert!(
        ended.stderr.contains("the command on node1 failed"),
        "{}",
        ended.stderr
    );
    let now = all(&stage);
    assert_eq!(now[&201].node, "node2");
    assert_ne!(now[&101].node, "node1");
    assert!(notes(&stage, "node1").contains("stage: evacuated"));
}

/// A command that reboots: the node looks healthy for a moment, goes down, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_reboots_is_waited_for() {
    let guests = vec![vm(101, "node1", "san"), vm(201, "node2", "san")];
    let stage = start(cluster("9.1.2", 3).guests(guests)).await;
    let before = all(&stage);
    // Whatever ran for less time than this was booted in this test.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let flag = stage.home.join("reboot");
    let orders = stage.simulation.orders("apple").unwrap();
    let (seen, downs) = (flag.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&downs);
    let watch = std::thread::spawn(move || {
        let began = Instant::now();
        while counted.load(Ordering::Relaxed) < 1 && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
            if seen.exists() {
                std::thread::sleep(Duration::from_millis(500));
                orders.cut_power("node1");
                std::thread::sleep(Duration::from_millis(500));
                orders.boot("node1");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let command = format!("touch {} # reboot", flag.display());
    let words = [
        "evacuate",
        "--rolling",
        "--nodes",
        "node1",
        "--yes",
        "--command",
        &command,
    ];
    let ended = launch(&stage, &quick(&words), &[]).wait().expect(0);
    watch.join().unwrap();
    assert_eq!(downs.load(Ordering::Relaxed), 1);
    assert!(
        ended.stderr.contains("waiting until it has booted"),
        "{}",
        ended.stderr
    );
    assert_eq!(all(&stage), before);
}

/// Ten guests on three nodes and three hundred on twelve are listed by the same number of calls.
#[tokio::test(flavor = "multi_thread")]
async fn the_listing_of_a_larger_cluster_needs_no_more_calls() {
    let mut calls = Vec::new();
    for (nodes, guests) in [(3, 10), (12, 300)] {
        let all = (0..guests).map(|at| {
            let node = format!("node{}", at % nodes + 1);
            vm(101 + u32::try_from(at).unwrap(), &node, "san").stopped()
        });
        let mut spec = cluster("9.1.2", nodes).guests(all.collect());
        for guest in &mut spec.guests {
            guest.disks.clear();
        }
        let lab = Lab::start(spec);
        let api = lab.api();
        let inventory = observe::listing(&api).await.unwrap();
        assert_eq!(
            (inventory.nodes.len(), inventory.guests.len()),
            (nodes, guests)
        );
        calls.push(lab.calls());
    }
    assert_eq!(calls[0], calls[1], "{calls:?}");
    assert!(calls[0] <= 12, "{calls:?}");
}

/// Ctrl-C lets what is under way end, begins nothing more, and says what was not begun.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_evacuation_ends_cleanly_and_is_gone_on_with() {
    let guests = vec![vm(101, "node1", "san").gib(2), vm(102, "node1", "san")];
    let stage = start(cluster("9.1.2", 3).guests(guests)).await;
    let before = all(&stage);
    let process = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&process);
    stage.simulation.faults().add(Fault::first(
        "POST",
        "*/101/migrate",
        FaultKind::Before(Arc::new(move || {
            let id = i32::try_from(asked.load(Ordering::SeqCst)).unwrap();
            let process = rustix::process::Pid::from_raw(id).unwrap();
            rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        })),
    ));
    let running = launch(&stage, &quick(&["evacuate", "node1", "--execute"]), &[]);
    process.store(running.process() as usize, Ordering::SeqCst);
    let ended = running.wait().expect(130);
    assert!(
        ended.stdout.contains("was not begun: interrupted"),
        "{}",
        ended.stdout
    );
    let now = all(&stage);
    assert_eq!(
        (now[&101].node.as_str(), now[&101].running),
        ("node2", true)
    );
    assert_eq!(now[&102], before[&102]);
    launch(&stage, &quick(&["evacuate", "node1", "--execute"]), &[])
        .wait()
        .expect(0);
    assert_eq!(all(&stage)[&102].node, "node3");
    launch(&stage, &quick(&["restore", "node1", "--yes"]), &[])
        .wait()
        .expect(0);
    assert_eq!(all(&stage), before);
}

/// Without SSH to any node, guests of HA are a reason to stop before anything is changed.
#[tokio::test(flavor = "multi_thread")]
async fn maintenance_that_cannot_be_switched_is_found_before_the_first_change() {
    let mut spec =
        cluster("9.1.2", 3).guests(vec![vm(101, "node1", "san"), vm(102, "node1", "san")]);
    spec.ha = vec![ha(101)];
    let stage = start(spec).await;
    let before = all(&stage);
    let file = stage.proxmoverc();
    let text = std::fs::read_to_string(&file).unwrap();
    let cut: Vec<&str> = text.lines().filter(|line| !line.contains("ssh=")).collect();
    let cut = cut
        .join("\n")
        .replace("  path=", "  ssh=root@127.0.0.1:1\n  path=");
    std::fs::write(&file, cut).unwrap();
    let ended = launch(&stage, &quick(&["evacuate", "node1", "--execute"]), &[])
        .wait()
        .expect(5);
    assert!(
        ended
            .stderr
            .contains("cannot switch HA maintenance of node1 on"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("--no-ha-maintenance"),
        "{}",
        ended.stderr
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(all(&stage), before);
}
