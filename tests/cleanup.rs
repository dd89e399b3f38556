//! `proxmove cleanup` by the real program: what is listed, what goes, and what stays.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use serde_json::Value;
use stage::{
    MIB, clusters, config, disk, guest, launch, left_files, moved, proved, run, runs, to_banana,
};

/// Returns what was found, as `action kind name`.
#[track_caller]
fn found(stage: &Stage, arguments: &[&str]) -> Vec<(String, String, String)> {
    let ended = run(stage, &[&["cleanup", "--json"], arguments].concat()).expect(0);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["problems"], Value::Array(Vec::new()), "{found}");
    let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    let items = found["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            assert!(!text(item, "why").is_empty());
            let name = text(item, "name");
            let last = name.rsplit('/').next().unwrap().to_owned();
            (text(item, "action"), text(item, "kind"), last)
        })
        .collect()
}

fn touch_old(path: &Path) {
    let time = std::time::SystemTime::now() - Duration::from_secs(3600);
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_killed_move_left_stays_while_it_is_in_progress_and_goes_when_it_was_given_up() {
    let disks = vec![disk("virtio0", "raw", 256 * MIB)];
    let guests = vec![guest(565, "web1", disks, 64 * 1024)];
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.8).await;
    assert_eq!(found(&stage, &["-n"]), []);

    // Killed while it copies.
    let place = to_banana(&["--bwlimit", "200"], &["web1"]);
    let running = launch(&stage, &place, &[]);
    let began = Instant::now();
    let manifest = || {
        let files = left_files(&stage);
        files
            .into_iter()
            .find(|file| file.to_string_lossy().ends_with(".manifest"))
    };
    while manifest().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not copy"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    running.kill();
    while !stage::processes(&stage).is_empty() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "its porters do not end"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let new = stage.vmid("banana", "web1--CREATING").unwrap();
    // What is foreign is not even seen, however much it looks like ours.
    let temp: PathBuf = manifest().unwrap().parent().unwrap().to_owned();
    let foreign = [
        "proxmove-notes.txt",
        "proxmove-1-2-scsi0.old",
        "other.manifest",
    ];
    for name in foreign {
        std::fs::write(temp.join(name), "precious").unwrap();
    }
    // A porter that is not of this minute: another version's.
    let old = temp.join("proxmove-porter-0123456789abcdef");
    std::fs::write(&old, "x").unwrap();
    touch_old(&old);

    let before = left_files(&stage);
    stage.simulation.faults().forget();
    let seen = found(&stage, &["-n"]);
    let keeps = |kind: &str| {
        let kept = seen
            .iter()
            .filter(|item| item.0 == "keep" && item.1 == kind);
        kept.count()
    };
    assert!(seen.iter().all(|item| item.0 == "keep"), "{seen:?}");
    assert!(
        keeps("file") >= 1 && keeps("porter") >= 2 && keeps("placeholder") == 1,
        "{seen:?}"
    );
    assert!(seen.contains(&(
        "keep".into(),
        "placeholder".into(),
        format!("web1--CREATING ({new})")
    )));
    // With --yes nothing of it goes either.
    assert_eq!(found(&stage, &["--yes"]), seen);
    assert_eq!(left_files(&stage), before);
    assert_eq!(stage.simulation.faults().writes(), []);

    // Given up: the placeholder is deleted by hand.
    {
        let mut world = stage.simulation.world();
        let banana = world
            .clusters
            .iter_mut()
            .find(|known| known.alias == "banana")
            .unwrap();
        banana.guests.remove(&new).unwrap();
    }
    // What was uploaded minutes ago stays; a move may be about to begin.
    let seen = found(&stage, &["-n"]);
    let go: Vec<&str> = seen
        .iter()
        .filter(|item| item.0 == "remove")
        .map(|item| item.2.as_str())
        .collect();
    let manifest = format!("proxmove-565-{new}-virtio0.manifest");
    assert_eq!(
        go,
        [manifest.as_str(), "proxmove-porter-0123456789abcdef"],
        "{seen:?}"
    );
    // Without anybody to ask, and without --yes, nothing goes.
    let no = run(&stage, &["cleanup"]).expect(4);
    assert!(no.stdout.contains(&manifest), "{}", no.stdout);
    assert_eq!(left_files(&stage), before);
    // Only on the clusters that are named.
    assert!(
        found(&stage, &["-n", "apple"])
            .iter()
            .all(|item| item.0 == "keep")
    );
    for file in &before {
        if file.to_string_lossy().contains("proxmove-porter-") {
            touch_old(file);
        }
    }
    let done = run(&stage, &["cleanup", "--yes"]).expect(0);
    assert!(done.stdout.contains("Removed 4."), "{}", done.stdout);
    let mut left: Vec<String> = left_files(&stage)
        .iter()
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["proxmove-1-2-scsi0.old", "proxmove-notes.txt"]);
    assert_eq!(found(&stage, &["--yes"]), []);

    // Its volume is nobody's now, and stays; the guest itself was never touched, and is moved all the same.
    assert!(runs(&stage, "apple", 565));
    assert_eq!(config(&stage, "apple", 565)["name"], "web1");
    run(&stage, &place).expect(0);
    let again = moved(&stage, ("apple", 565), "banana", "web1");
    assert_ne!(
        again, new,
        "the number of a volume that is there is not given again"
    );
    proved(&stage, ("apple", 565), ("banana", again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_that_nobody_works_on_go_when_that_is_asked_for() {
    let guests = (0..3)
        .map(|number| {
            let disks = vec![disk("virtio0", "raw", 64 * MIB)];
            guest(600 + number, &format!("vm{number}"), disks, 0)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.9).await;
    let before = config(&stage, "apple", 600);
    // One is left while it is copied, one with its source down; one is copied just now.
    let copies = |name: &str| {
        let running = launch(&stage, &to_banana(&["--bwlimit", "40"], &[name]), &[]);
        let placeholder = format!("{name}--CREATING");
        while stage.vmid("banana", &placeholder).is_none() || left_files(&stage).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    };
    copies("vm0").kill();
    let start = ("POST", "/nodes/*/qemu/*/status/start");
    stage::faults::fails(&stage, "banana", start, 1);
    run(&stage, &to_banana(&[], &["vm1"])).expect(6);
    stage.simulation.faults().clear();
    let running = copies("vm2");

    let listed = found(&stage, &["-n", "--abandoned"]);
    let of = |listed: &[(String, String, String)], kind: &str| -> Vec<String> {
        let of_kind = listed.iter().filter(|item| item.1 == kind);
        of_kind
            .map(|item| format!("{} {}", item.0, item.2))
            .collect()
    };
    let placeholders = |listed| {
        let mut names = of(listed, "placeholder");
        for name in &mut names {
            name.truncate(name.find(" (").unwrap());
        }
        names.sort();
        names
    };
    assert_eq!(
        placeholders(&listed),
        ["keep vm1", "keep vm2--CREATING", "remove vm0--CREATING"]
    );
    // Unless it is asked for, it stays.
    assert_eq!(
        placeholders(&found(&stage, &["--yes"])),
        ["keep vm0--CREATING", "keep vm1", "keep vm2--CREATING"]
    );
    let done = run(&stage, &["cleanup", "--yes", "--abandoned"]).expect(0);
    assert!(done.stdout.contains("Removed 1."), "{}", done.stdout);
    assert!(done.stderr.contains("vm0"), "{}", done.stderr);
    assert_eq!(stage.vmid("banana", "vm0--CREATING"), None);
    assert_eq!(config(&stage, "apple", 600), before);
    assert!(runs(&stage, "apple", 600));
    // The others were not disturbed.
    running.wait().expect(0);
    moved(&stage, ("apple", 602), "banana", "vm2");
    run(&stage, &["resume", "--yes", "apple", "banana", "vm1"]).expect(0);
    moved(&stage, ("apple", 601), "banana", "vm1");
    stage::nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_goes_while_a_cluster_does_not_answer() {
    let stage = stage::start(clusters(Vec::new()), |_| {}).await;
    let temp = stage
        .simulation
        .directory
        .join("apple/node1/var/lib/vz/temp");
    let file = temp.join("proxmove-1-2-scsi0.manifest");
    std::fs::write(&file, "x").unwrap();
    // A cluster that is configured and not there: a move on it may need the file.
    let path = stage.proxmoverc();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!("{text}\n[pve:cherry]\napi=https://root@pam:x@127.0.0.1:9\n"),
    )
    .unwrap();
    for options in [&["-n"][..], &["--yes"], &["--yes", "apple"]] {
        let ended = run(&stage, &[&["cleanup"], options].concat()).expect(5);
        assert!(
            ended.stdout.contains("cherry cannot be asked"),
            "{}",
            ended.stdout
        );
        assert!(file.exists());
    }
    std::fs::write(&path, text).unwrap();
    let done = run(&stage, &["cleanup", "--yes", "apple"]).expect(0);
    assert!(done.stdout.contains("Removed 1."), "{}", done.stdout);
    assert!(!file.exists());
}
