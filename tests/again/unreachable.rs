//! An abort while something cannot be reached: it waits, does the half that is safe, and says what is left to type.

use std::time::Duration;

use proxmove::sim::world::faults::{Fault, FaultKind};

use crate::stage::{self, clusters, config, launch, names, run, runs};
use crate::{STOPS, of_kind, status_of, stop_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_that_cannot_be_reached_is_waited_for() {
    let specs = (0..2)
        .map(|number| of_kind(0, 600 + number, &format!("vm{number}")))
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.1).await;
    let synced = STOPS.iter().find(|stop| stop.rung == "synced").unwrap();
    let before = config(&stage, "apple", 600);
    stop_at(&stage, synced, "vm0");
    let faults = stage.simulation.faults();
    let away = |cluster: &str| {
        faults.clear();
        faults.add(Fault {
            cluster: Some(cluster.to_owned()),
            method: None,
            path: "*".to_owned(),
            nth: None,
            kind: FaultKind::LostRequest,
        });
    };
    // The target is away for longer than the operator waits: what is known is said, and nothing is done.
    away("banana");
    faults.forget();
    let ended = run(
        &stage,
        &[
            "abort",
            "--json",
            "--patience",
            "1s",
            "apple",
            "banana",
            "vm0",
        ],
    )
    .expect(6);
    let failed = &ended.told("move-failed")[0];
    let state = failed["state"].as_str().unwrap();
    assert_eq!(
        state,
        "nothing was changed; vm0--CLONING (600) is stopped on apple"
    );
    let next = failed["next"].as_str().unwrap();
    assert!(
        next.starts_with(
            "proxmove abort apple banana vm0, as soon as banana answers; or if banana is gone"
        ),
        "{next}"
    );
    assert!(
        next.contains("qm set 600 --name vm0 --onboot 1 && qm start 600 on node node1"),
        "{next}"
    );
    assert_eq!(
        faults
            .writes()
            .iter()
            .filter(|write| write.cluster == "apple")
            .count(),
        0
    );
    // So is the source.
    away("apple");
    let ended = run(
        &stage,
        &[
            "abort",
            "--json",
            "--patience",
            "1s",
            "apple",
            "banana",
            "vm0",
        ],
    )
    .expect(4);
    assert!(
        ended.stdout.contains("it is not known how vm0 is on apple"),
        "{}",
        ended.stdout
    );
    // Away for a while only.
    away("banana");
    let mut running = launch(
        &stage,
        &[
            "abort",
            "--json",
            "--patience",
            "3min",
            "apple",
            "banana",
            "vm0",
        ],
        &[],
    );
    std::thread::sleep(Duration::from_secs(6));
    assert!(!running.is_over());
    faults.clear();
    let ended = running.wait().expect(0);
    assert!(
        ended.stdout.contains("trying again for 3m"),
        "{}",
        ended.stdout
    );
    assert_eq!(config(&stage, "apple", 600), before);
    assert!(runs(&stage, "apple", 600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storage_host_that_is_away_does_not_keep_the_guest_down() {
    let specs = vec![of_kind(0, 600, "vm0")];
    let mut stage = stage::start(clusters(specs), |settings| settings.filled = 0.1).await;
    let named = STOPS
        .iter()
        .find(|stop| stop.rung == "target-named")
        .unwrap();
    let before = config(&stage, "apple", 600);
    stop_at(&stage, named, "vm0");
    stage.hosts.remove("banana-node2").unwrap().stop().await;
    let ended = run(
        &stage,
        &[
            "abort",
            "--json",
            "--patience",
            "1s",
            "apple",
            "banana",
            "vm0",
        ],
    )
    .expect(5);
    let failed = &ended.told("move-failed")[0];
    let state = failed["state"].as_str().unwrap();
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before"),
        "{state}"
    );
    assert_eq!(config(&stage, "apple", 600), before);
    assert!(runs(&stage, "apple", 600));
    // The placeholder stays: it is what names the copy.
    assert_eq!(names(&stage, "banana"), ["vm0--CREATING"]);
    assert_eq!(status_of(&stage, "vm0")["left"], "as-it-was");
}
