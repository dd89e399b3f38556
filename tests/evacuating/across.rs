//! Guests that find no room go to another cluster, write there, and come back with what has changed.

use std::path::PathBuf;
use std::time::Duration;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::scenario::{ClusterSpec, DiskSpec, GuestSpec};
use serde_json::Value;

use crate::cluster::{Adjust, ct, ha};
use crate::stage::{
    self, Ended, MIB, clusters, config, disk, guest, launch, launch_at, moved, nothing_left,
    proved, runs, write_on,
};
use crate::state::{all, notes, quick};

const PLACE: &str = "banana:node2:local-ssd";

/// A raw disk of so many MiB. The mover would add this option, which then is there at the end, too.
fn drive(size: u64) -> DiskSpec {
    DiskSpec {
        options: "discard=on".to_owned(),
        ..disk("scsi0", "raw", size * MIB)
    }
}

/// A VM with a raw disk that writes at a rate, and has that much memory.
fn writing(vmid: u32, name: &str, gib: u64, rate: u64) -> GuestSpec {
    guest(vmid, name, vec![drive(256)], rate).gib(gib)
}

/// Two clusters; the other node of the first one has 4 GiB of memory.
fn small(guests: Vec<GuestSpec>) -> Vec<ClusterSpec> {
    let mut specs = clusters(guests);
    specs[0].nodes[1].memory = 4 << 30;
    specs[0].nodes[1].memory_used = 0;
    specs
}

async fn start(specs: Vec<ClusterSpec>) -> Stage {
    stage::start(specs, |settings| {
        settings.seed = 31;
        settings.hot_bytes = Some(2 * MIB);
        settings.filled = 0.5;
    })
    .await
}

fn evacuate(stage: &Stage, options: &[&str]) -> Ended {
    let words = [&["evacuate", "node1", "--json"], options].concat();
    launch(stage, &quick(&words), &[]).wait()
}

/// Copies what an operator has to another place, where nothing else is.
fn another_machine(stage: &Stage) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    std::fs::create_dir_all(home.join(".ssh")).unwrap();
    std::fs::copy(stage.proxmoverc(), home.join(".proxmoverc")).unwrap();
    for entry in std::fs::read_dir(stage.home.join(".ssh"))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), home.join(".ssh").join(entry.file_name())).unwrap();
    }
    (directory, home)
}

fn of(list: &Value, vmid: u32) -> Value {
    let mut found = list["guests"].as_array().unwrap().iter();
    let found = found.find(|guest| guest["vmid"] == vmid);
    found
        .unwrap_or_else(|| panic!("{vmid} is not in {list}"))
        .clone()
}

/// Returns the bytes on the wire of the only move that was told.
fn wire(ended: &Ended) -> u64 {
    let told = ended.told("move-done");
    assert_eq!(told.len(), 1, "{}", ended.stdout);
    told[0]["wire"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_finds_no_room_goes_to_another_cluster_and_comes_back_with_what_changed() {
    let guests = vec![
        writing(565, "web1", 4, MIB),
        guest(566, "db1", vec![drive(32)], 0),
    ];
    let stage = start(small(guests)).await;
    let before = all(&stage);

    // Without it there is no room, and nothing is changed.
    let short = evacuate(&stage, &["--execute"]).expect(4);
    assert!(short.stdout.contains("capacity"), "{}", short.stdout);
    assert!(short.stdout.contains("of memory are missing in all"));
    // A dry run writes nothing.
    stage.simulation.faults().forget();
    let shown = evacuate(&stage, &["-n", "--to-cluster", PLACE]).expect(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    let plan = &shown.events()[0];
    let web = of(plan, 565);
    assert_eq!(
        (&web["action"], &web["target"]),
        (&"move".into(), &PLACE.into())
    );
    assert!(
        web["why"].as_str().unwrap().contains("no node takes it"),
        "{web}"
    );
    assert!(
        web["why"].as_str().unwrap().contains("copies about"),
        "{web}"
    );
    let other = of(plan, 566);
    assert_eq!(
        (&other["action"], &other["target"]),
        (&"live-migrate".into(), &"node2".into())
    );

    let there = evacuate(&stage, &["--execute", "--to-cluster", PLACE]).expect(0);
    let ran = &there.events()[0];
    for vmid in [565, 566] {
        let (shown, ran) = (of(plan, vmid), of(ran, vmid));
        for key in ["action", "target", "storages"] {
            assert_eq!(shown[key], ran[key], "what was shown is what runs");
        }
    }
    let results = there.events().pop().unwrap();
    let web = of(&results, 565);
    assert_eq!(
        (&web["result"], &web["cluster"]),
        (&"OK".into(), &"banana".into())
    );
    assert_eq!(of(&results, 566)["node"], "node2");
    assert_eq!(results["problems"], serde_json::json!([]));
    assert!(
        results["kept"][0]
            .as_str()
            .unwrap()
            .contains("web1--MIGRATED"),
        "{results}"
    );
    let new = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", new));
    let former = config(&stage, "apple", 565);
    assert!(former["tags"].contains("proxmove-from-node1"));
    assert!(former["description"].contains("sent to: banana:node2:local-ssd"));
    assert!(former["description"].contains("running: yes"));
    assert_eq!(config(&stage, "banana", new)["tags"], "prod;web");
    assert!(notes(&stage, "node1").contains("stage: evacuated"));

    // The same again: there is nothing left to do, and its former self is no guest that should have left.
    let again = evacuate(&stage, &["--execute", "--to-cluster", PLACE]).expect(0);
    let stays = of(&again.events()[0], 565);
    assert_eq!(stays["action"], "stay");
    assert!(
        stays["why"].as_str().unwrap().contains("its way back"),
        "{stays}"
    );

    // It writes there; somebody else brings everything back, from another machine.
    write_on(&stage, ("apple", 565), ("banana", new), MIB);
    let (_directory, home) = another_machine(&stage);
    let words = quick(&["restore", "node1", "--json", "--yes"]);
    let back = launch_at(&home, &words, &[]).wait().expect(0);
    let plan = of(&back.events()[0], 565);
    assert_eq!(
        (&plan["action"], &plan["start"]),
        (&"back".into(), &true.into())
    );
    let results = back.events().pop().unwrap();
    assert!(
        results["guests"]
            .as_array()
            .unwrap()
            .iter()
            .all(|guest| guest["result"] == "OK")
    );
    assert_eq!(moved(&stage, ("banana", new), "apple", "web1"), 565);
    proved(&stage, ("banana", new), ("apple", 565));
    assert_eq!(all(&stage), before, "field by field");
    assert_eq!(notes(&stage, "node1"), "");
    let (first, second) = (wire(&there), wire(&back));
    eprintln!(
        "{} KiB on the wire there, {} KiB back",
        first / 1024,
        second / 1024
    );
    assert!(second * 5 < first, "{first} bytes there, {second} back");
    nothing_left(&stage);

    // Nothing is left to bring back.
    let again = launch(&stage, &words, &[]).wait().expect(0);
    assert_eq!(
        again.events().pop().unwrap()["guests"],
        serde_json::json!([])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_move_leaves_it_there_and_all_means_all() {
    let mut specs = clusters(vec![
        guest(565, "web1", vec![drive(32)], 0),
        guest(566, "db1", vec![drive(32)], 0).stopped(),
        ct(567, "node1", "local").gib(1),
    ]);
    specs[0].storages[0].content = "images,rootdir".to_owned();
    let stage = start(specs).await;
    let words = ["--execute", "--to-cluster", PLACE, "--all-to-cluster"];
    let ended = evacuate(&stage, &words).expect(0);
    let plan = &ended.events()[0];
    assert_eq!(of(plan, 565)["target"], PLACE);
    assert_eq!(of(plan, 566)["target"], PLACE);
    assert_eq!(
        of(plan, 567)["target"],
        "node2",
        "a container stays in its cluster: {plan}"
    );
    let new = moved(&stage, ("apple", 565), "banana", "web1");
    let parked = stage.vmid("banana", "db1").unwrap();
    assert!(!runs(&stage, "banana", parked));

    let words = quick(&["restore", "node1", "--json", "--yes", "--no-move"]);
    launch(&stage, &words, &[]).wait().expect(0);
    assert_eq!(notes(&stage, "node1"), "");
    for (vmid, guest) in all(&stage) {
        let tags = guest.config.get("tags").cloned().unwrap_or_default();
        assert!(!tags.contains("proxmove-"), "{vmid}: {tags}");
        let notes = guest.config.get("description").cloned().unwrap_or_default();
        assert!(!notes.contains("origin:"), "{vmid}: {notes}");
    }
    // It stays there, and the way back by hand is as it was.
    assert!(runs(&stage, "banana", new));
    let back = ["back", "--json", "--yes", "banana", "web1"];
    launch(&stage, &back, &[]).wait().expect(0);
    assert!(runs(&stage, "apple", 565));
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_go_there_is_refused_before_the_first_change() {
    let disks = || vec![drive(32)];
    let mut odd = guest(566, "odd1", disks(), 0);
    odd = odd.with("net0", "virtio=BC:24:11:00:02:36,bridge=vmbr7");
    let mut specs = clusters(vec![
        guest(565, "web1", disks(), 0),
        odd,
        guest(567, "big1", disks(), 0).gib(100),
        guest(568, "ha1", disks(), 0),
    ]);
    specs[0].ha = vec![ha(568)];
    specs[0].nodes[0].bridges.push("vmbr7".to_owned());
    let stage = start(specs).await;
    let before = all(&stage);
    stage.simulation.faults().forget();
    let refused = |options: &[&str], codes: &[&str]| {
        let ended = evacuate(&stage, &[&["--execute"], options].concat()).expect(4);
        let verdicts = ended.events()[0]["verdicts"].to_string();
        for code in codes {
            assert!(verdicts.contains(code), "{code}: {verdicts}");
        }
        assert_eq!(all(&stage), before);
        assert_eq!(stage.simulation.faults().writes(), [], "{verdicts}");
        verdicts
    };
    let all_there = ["--to-cluster", PLACE, "--all-to-cluster"];
    let said = refused(&all_there, &["bridge-missing", "ha-across", "no-passage"]);
    assert!(
        said.contains("of memory"),
        "its node there is too small for one: {said}"
    );
    let wrong = [
        "--to-cluster",
        "banana:node9:local-ssd",
        "--all-to-cluster",
        "--vmid",
        "565",
    ];
    refused(
        &[&wrong[..], &["--no-ha-maintenance"]].concat(),
        &["node-unknown"],
    );
    let wrong = [
        "--to-cluster",
        "apple:node2:local-ssd",
        "--all-to-cluster",
        "--vmid",
        "565",
    ];
    refused(
        &[&wrong[..], &["--no-ha-maintenance"]].concat(),
        &["target-unknown"],
    );
    let unknown = ["--execute", "--to-cluster", "cherry:node1:local"];
    let ended = evacuate(&stage, &unknown).expect(3);
    assert!(ended.stderr.contains("cherry") || ended.stdout.contains("cherry"));

    // With the bridge mapped it goes, and comes back to the one it had.
    let mapped = [
        &all_there[..],
        &["--vmid", "566", "--no-ha-maintenance", "--execute"],
    ]
    .concat();
    let mapped = [&mapped[..], &["--map-bridge", "vmbr7=vmbr0"]].concat();
    evacuate(&stage, &mapped).expect(0);
    let new = moved(&stage, ("apple", 566), "banana", "odd1");
    assert!(config(&stage, "banana", new)["net0"].ends_with("bridge=vmbr0"));

    // On a machine that does not know the other cluster, that is said, and nothing is changed.
    let (_directory, home) = another_machine(&stage);
    let file = home.join(".proxmoverc");
    let text = std::fs::read_to_string(&file).unwrap();
    let (mut kept, mut skip) = (String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            skip = line.contains("banana");
        }
        if !skip {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    std::fs::write(&file, kept).unwrap();
    stage.simulation.faults().forget();
    let words = quick(&["restore", "node1", "--json", "--yes"]);
    let ended = launch_at(&home, &words, &[]).wait().expect(4);
    assert!(
        ended.stdout.contains("has no [pve:banana]"),
        "{}",
        ended.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    launch(&stage, &words, &[]).wait().expect(0);
    assert_eq!(all(&stage), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_interrupted_move_there_leaves_the_guest_running_and_is_given_up_by_a_restore() {
    let guests = vec![writing(565, "web1", 2, MIB), writing(566, "db1", 2, 0)];
    let stage = start(clusters(guests)).await;
    let before = all(&stage);
    let words = [
        "evacuate",
        "node1",
        "--json",
        "--execute",
        "--to-cluster",
        PLACE,
    ];
    let words = quick(&[&words[..], &["--all-to-cluster"]].concat());
    let running = launch(&stage, &words, &[]);
    while stage.vmid("banana", "web1--CREATING").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    running.signal(rustix::process::Signal::INT);
    let ended = running.wait().expect(130);
    let results = ended.events().pop().unwrap();
    assert_eq!(results["interrupted"], true);
    assert_eq!(of(&results, 565)["result"], "LEFT");
    assert_eq!(of(&results, 566)["reason"], "was not begun: interrupted");
    assert!(runs(&stage, "apple", 565) && runs(&stage, "apple", 566));
    let words = quick(&["restore", "node1", "--json", "--yes"]);
    let back = launch(&stage, &words, &[]).wait().expect(0);
    assert_eq!(of(&back.events()[0], 565)["action"], "give up");
    assert_eq!(all(&stage), before);
    assert_eq!(stage::names(&stage, "banana"), [] as [String; 0]);
    assert_eq!(notes(&stage, "node1"), "");
    nothing_left(&stage);
}

/// What is seen right before a run is killed: the rungs of a move from the first to the last.
const SEEN: [&str; 5] = ["placed", "stopped", "renamed", "retired", "started"];

fn is_seen(stage: &Stage, vmid: u32, name: &str, what: &str) -> bool {
    let here = config(stage, "apple", vmid)["name"].clone();
    match what {
        "placed" => stage.vmid("banana", &format!("{name}--CREATING")).is_some(),
        "stopped" => !runs(stage, "apple", vmid),
        "renamed" => here == format!("{name}--CLONING"),
        "retired" => here == format!("{name}--MIGRATED"),
        _ => {
            let there = stage.vmid("banana", name);
            there.is_some_and(|vmid| runs(stage, "banana", vmid))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_there_that_is_killed_is_gone_on_with_or_given_up() {
    let guests = (0..10).map(|number| {
        let disks = vec![drive(48)];
        guest(200 + number, &format!("vm{number}"), disks, 64 * 1024)
    });
    let stage = start(clusters(guests.collect())).await;
    let before = all(&stage);
    let mut killed = std::collections::BTreeSet::new();
    // Each is met twice: then the same command, and a restore at once.
    for (number, what) in (0..).zip(SEEN.iter().chain(&SEEN)) {
        let (vmid, name) = (200 + number, format!("vm{number}"));
        let goes_on = number < 5;
        let number = vmid.to_string();
        let select = ["--vmid", &number, "--all-to-cluster", "--to-cluster", PLACE];
        let words = quick(&[&["evacuate", "node1", "--json", "--execute"], &select[..]].concat());
        let mut running = launch(&stage, &words, &[]);
        while !is_seen(&stage, vmid, &name, what) && !running.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !running.is_over() {
            killed.insert(*what);
        }
        running.kill();
        if goes_on {
            launch(&stage, &words, &[]).wait().expect(0);
            let new = moved(&stage, ("apple", vmid), "banana", &name);
            proved(&stage, ("apple", vmid), ("banana", new));
        }
        let words = quick(&["restore", "node1", "--json", "--yes", "--vmid", &number]);
        let back = launch(&stage, &words, &[]).wait().expect(0);
        let action = of(&back.events()[0], vmid)["action"].clone();
        eprintln!("{name}: killed when {what}, then {action}");
        assert_eq!(all(&stage)[&vmid], before[&vmid], "{name}");
        let elsewhere = stage
            .vmid("banana", &name)
            .filter(|vmid| runs(&stage, "banana", *vmid));
        assert_eq!(elsewhere, None, "{name} runs twice");
        let half = stage.vmid("banana", &format!("{name}--CREATING"));
        assert_eq!(
            half, None,
            "{name}: its placeholder is left: {}",
            back.stdout
        );
    }
    assert!(killed.len() >= 4, "{killed:?}");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_way_home_that_is_killed_is_gone_on_with_by_the_same_command() {
    let guests = (0..3).map(|number| {
        let disks = vec![drive(48)];
        guest(200 + number, &format!("vm{number}"), disks, 64 * 1024)
    });
    let stage = start(clusters(guests.collect())).await;
    let before = all(&stage);
    let words = ["--execute", "--to-cluster", PLACE, "--all-to-cluster"];
    evacuate(&stage, &words).expect(0);
    for (vmid, name, what) in [
        (200, "vm0", "--CREATING"),
        (201, "vm1", ""),
        (202, "vm2", "started"),
    ] {
        let new = moved(&stage, ("apple", vmid), "banana", name);
        write_on(&stage, ("apple", vmid), ("banana", new), 64 * 1024);
        let number = vmid.to_string();
        let words = quick(&["restore", "node1", "--json", "--yes", "--vmid", &number]);
        let mut running = launch(&stage, &words, &[]);
        let seen = || match what {
            "started" => runs(&stage, "apple", vmid),
            mark => config(&stage, "apple", vmid)["name"] == format!("{name}{mark}"),
        };
        while !seen() && !running.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.kill();
        let now = config(&stage, "apple", vmid);
        assert!(
            now["tags"].contains("proxmove-from-node1"),
            "{name}: {now:?}"
        );
        // What it evacuates again meanwhile is told to be finished first.
        if what == "--CREATING" {
            let refused = evacuate(&stage, &["--execute", "--vmid", &number]).expect(4);
            assert!(refused.stdout.contains("coming-back"), "{}", refused.stdout);
        }
        launch(&stage, &words, &[]).wait().expect(0);
        assert_eq!(all(&stage)[&vmid], before[&vmid], "{name}");
        proved(&stage, ("banana", new), ("apple", vmid));
    }
    assert_eq!(notes(&stage, "node1"), "");
    nothing_left(&stage);
}
