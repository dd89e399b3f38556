//! Hosts that run no programs from proxmove's directory: the host's own tools copy. Such a move, when it stopped, is held
//! by whoever works on it, and given up as any other.

use proxmove::plan::claim::{Claim, Claimant};
use proxmove::plan::mark::Mark;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use serde_json::Value;

use crate::alone::{Own, SmallDisk, alone};
use crate::stage::{
    MIB, clusters, config, disk, guest, names, nothing_left, run, runs, start, to_banana,
};
use crate::{said, target_storage};

/// Lets bob, on another machine, hold the move, with a sign that is so many seconds old.
fn held_by_bob(stage: &Stage, age: i64) {
    let target = stage.vmid("banana", "vm0--CREATING").unwrap();
    let mut world = stage.simulation.world();
    let banana = world
        .clusters
        .iter_mut()
        .find(|cluster| cluster.alias == "banana");
    let notes = &mut banana.unwrap().guests.get_mut(&target).unwrap().config;
    let mut mark = Mark::parse(&notes["description"]).unwrap();
    let bob = Claimant {
        by: "bob@desk".to_owned(),
        process: "77.123".to_owned(),
        machine: "000000000000".to_owned(),
    };
    let seen = jiff::Timestamp::now().as_second() - age;
    mark.claim = Some(Claim::new(
        &bob,
        jiff::Timestamp::from_second(seen).unwrap(),
    ));
    notes.insert("description".to_owned(), mark.render());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_by_the_hosts_own_tools_is_held_and_given_up_as_any_other() {
    let test = "stock::a_move_by_the_hosts_own_tools_is_held_and_given_up_as_any_other";
    if !alone(test, Own::Mounts) {
        return;
    }
    let specs = vec![guest(
        600,
        "vm0",
        vec![disk("scsi0", "raw", 8 * MIB)],
        64 * 1024,
    )];
    let stage = start(clusters(specs), |settings| settings.filled = 0.3).await;
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
    stage.simulation.faults().add(Fault {
        cluster: Some("banana".to_owned()),
        ..Fault::first(
            "PUT",
            "/nodes/*/qemu/*/config",
            FaultKind::Error(500, "boom".to_owned()),
        )
    });
    run(&stage, &to_banana(&[], &["vm0"])).expect(6);
    stage.simulation.faults().clear();
    stage.simulation.faults().forget();

    // Bob is at work: it is his.
    held_by_bob(&stage, 20);
    let abort = ["abort", "--json", "apple", "banana", "vm0"];
    let (error, _, _) = said(&run(&stage, &abort).expect(4));
    assert!(
        error.contains("is being moved by bob@desk (process 77) since "),
        "{error}"
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(config(&stage, "apple", 600)["name"], "vm0--CLONING");

    // Bob has gone home.
    held_by_bob(&stage, 400);
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
