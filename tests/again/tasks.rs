//! Moves that die while a task of theirs is at work: the task goes on, and whoever comes next waits for its end.

use std::time::Duration;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::scenario::GuestSpec;

use crate::stage::{
    self, Ended, MIB, clusters, config, disk, guest, launch, moved, names, nothing_left, proved,
    run, runs, to_banana,
};
use crate::status_of;

/// How long a guest takes to go down, and one to come up, in milliseconds.
const SLOW: u64 = 3000;

async fn slow_guests() -> Stage {
    let slow = |number: u32| GuestSpec {
        shutdown: SLOW,
        ..guest(
            600 + number,
            &format!("vm{number}"),
            vec![disk("scsi0", "qcow2", 16 * MIB)],
            16 * 1024,
        )
    };
    stage::start(clusters((0..2).map(slow).collect()), |settings| {
        settings.scenario.pace.start = SLOW;
    })
    .await
}

/// Begins to move a guest, and kills proxmove as soon as it has sent a request to this path.
fn killed_after(stage: &Stage, name: &str, request: &str) {
    stage.simulation.faults().forget();
    let words = to_banana(&[], &[name]);
    let mut running = launch(stage, &words, &[]);
    let sent = || {
        let writes = stage.simulation.faults().writes();
        writes.iter().any(|write| write.path.ends_with(request))
    };
    while !sent() {
        assert!(!running.is_over(), "it never sent {request}");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill();
}

fn steps(ended: &Ended) -> Vec<String> {
    let steps = ended.told("step-started");
    let steps = steps.iter().map(|step| step["step"].as_str().unwrap());
    steps.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shutdown_that_outlives_proxmove_is_waited_for() {
    let stage = slow_guests().await;
    // Given up: without waiting, the copies would go while the source still runs, and then it would go down for good.
    let before = config(&stage, "apple", 600);
    killed_after(&stage, "vm0", "/status/shutdown");
    assert!(runs(&stage, "apple", 600), "it was not slow enough");
    let status = status_of(&stage, "vm0");
    assert_eq!(status["rung"], "unsettled", "{status:#}");
    assert_eq!(
        status["state"],
        "unclear: a task is starting or stopping the source"
    );
    let ended = run(&stage, &["abort", "--json", "apple", "banana", "vm0"]).expect(0);
    assert_eq!(
        steps(&ended),
        ["await-task", "start-source", "discard", "remove"]
    );
    assert!(runs(&stage, "apple", 600));
    assert_eq!(config(&stage, "apple", 600), before);
    assert!(
        !names(&stage, "banana")
            .iter()
            .any(|name| name.starts_with("vm0"))
    );

    // Gone on with: no round of copying begins while the guest goes down.
    killed_after(&stage, "vm1", "/status/shutdown");
    let ended = run(
        &stage,
        &["resume", "--json", "--yes", "apple", "banana", "vm1"],
    )
    .expect(0);
    assert_eq!(steps(&ended)[..2], ["await-task", "mark-source"]);
    let vmid = moved(&stage, ("apple", 601), "banana", "vm1");
    proved(&stage, ("apple", 601), ("banana", vmid));
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_that_outlives_proxmove_is_waited_for() {
    let stage = slow_guests().await;
    // Given up: taking the claim waits for the lock that the start holds, and then the guest runs.
    killed_after(&stage, "vm0", "/status/start");
    let vmid = stage.vmid("banana", "vm0").unwrap();
    assert!(!runs(&stage, "banana", vmid), "it was not slow enough");
    let ended = run(&stage, &["abort", "--json", "apple", "banana", "vm0"]).expect(4);
    assert!(steps(&ended).is_empty());
    assert!(runs(&stage, "banana", vmid) && !runs(&stage, "apple", 600));
    let failed = &ended.told("move-failed")[0];
    let next = failed["next"].as_str().unwrap();
    assert!(next.contains("proxmove back"), "{next}");
    run(&stage, &["resume", "--yes", "apple", "banana", "vm0"]).expect(0);
    moved(&stage, ("apple", 600), "banana", "vm0");

    // Gone on with: it is not started a second time.
    killed_after(&stage, "vm1", "/status/start");
    stage.simulation.faults().forget();
    let ended = run(
        &stage,
        &["resume", "--json", "--yes", "apple", "banana", "vm1"],
    )
    .expect(0);
    assert_eq!(steps(&ended), ["tidy"]);
    let writes = stage.simulation.faults().writes();
    assert!(
        !writes
            .iter()
            .any(|write| write.path.ends_with("/status/start"))
    );
    let vmid = moved(&stage, ("apple", 601), "banana", "vm1");
    proved(&stage, ("apple", 601), ("banana", vmid));
    nothing_left(&stage);
}
