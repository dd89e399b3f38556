//! Hosts that run no programs from proxmove's directory: the host's own tools copy. Such a move, when it stopped, is held
//! by whoever works on it, and given up as any other.

use serde_json::Value;

use crate::alone::{Own, SmallDisk, alone};
use crate::stage::faults::{CONFIG, claimed_by_bob, fails};
use crate::stage::{MIB, config, names, nothing_left, run, runs, to_banana};
use crate::{said, target_storage, with_vm0};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_by_the_hosts_own_tools_is_held_and_given_up_as_any_other() {
    let test = "stock::a_move_by_the_hosts_own_tools_is_held_and_given_up_as_any_other";
    if !alone(test, Own::Mounts) {
        return;
    }
    let stage = with_vm0(8 * MIB, 0.3).await;
    let source = stage.simulation.directory.join("apple/node1/var/lib/vz");
    let temps = [source, target_storage(&stage)].map(|storage| storage.join("temp"));
    let disks = temps.map(|temp| SmallDisk::mount_as(&temp, 64 * MIB, "noexec"));
    let plan = run(
        &stage,
        &[
            "-n",
            "--json",
            "apple",
            "banana",
            "node2",
            "local-ssd",
            "vm0",
        ],
    )
    .expect(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["guests"][0]["drives"][1]["tool"], "stock", "{plan:#}");

    let before = config(&stage, "apple", 600);
    fails(&stage, "banana", ("PUT", CONFIG), 1);
    run(&stage, &to_banana(&[], &["vm0"])).expect(6);
    stage.simulation.faults().clear();
    stage.simulation.faults().forget();

    // Bob is at work: it is his.
    claimed_by_bob(&stage, "vm0", 20);
    let abort = ["abort", "--json", "apple", "banana", "vm0"];
    let (error, _, _) = said(&run(&stage, &abort).expect(4));
    assert!(
        error.contains("is being moved by bob@desk (process 77) since "),
        "{error}"
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(config(&stage, "apple", 600)["name"], "vm0--CLONING");

    // Bob has gone home.
    claimed_by_bob(&stage, "vm0", 400);
    run(&stage, &abort).expect(0);
    assert_eq!(config(&stage, "apple", 600), before);
    assert!(runs(&stage, "apple", 600));
    assert_eq!(names(&stage, "banana"), [] as [String; 0]);
    let images = target_storage(&stage).join("images");
    let left = std::fs::read_dir(images).unwrap().flatten();
    let left: Vec<_> = left
        .filter(|entry| {
            entry
                .path()
                .read_dir()
                .is_ok_and(|mut files| files.next().is_some())
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
    nothing_left(&stage);
    drop(disks);
}
