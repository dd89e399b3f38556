//! A guest that does not come up on its target: `--boot-check`, `--on-failure`, and the return to the source.
//!
//! The real program against the simulation, whose guests boot badly on request and write while they do so. Read next:
//! `src/plan/returning.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "boot_check/back.rs"]
mod back;
#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::Boot;
use proxmove::sim::world::faults::{Fault, FaultKind, Recorded};
use proxmove::sim::world::scenario::GuestSpec;
use serde_json::Value;
use stage::{
    Ended, MIB, clusters, config, disk, guest, kill, launch, moved, names, nothing_left, proved,
    run, runs, to_banana,
};

const TARGET: u32 = 300;

/// A guest with a raw and a qcow2 disk, and an agent.
fn with_agent(vmid: u32, name: &str) -> GuestSpec {
    let disks = vec![
        disk("scsi0", "raw", 16 * MIB),
        disk("scsi1", "qcow2", 16 * MIB),
    ];
    let mut spec = guest(vmid, name, disks, 64 * 1024);
    spec.config.insert(
        "agent".to_owned(),
        "enabled=1,fstrim_cloned_disks=1".to_owned(),
    );
    spec
}

async fn stage_with(guests: Vec<GuestSpec>) -> Stage {
    stage::start(clusters(guests), |settings| settings.filled = 0.3).await
}

/// Has the target guest boot in some way from now on.
fn boots(stage: &Stage, vmid: u32, boot: Boot) {
    boots_on(stage, "banana", vmid, boot);
}

fn boots_on(stage: &Stage, cluster: &str, vmid: u32, boot: Boot) {
    let mut world = stage.simulation.world();
    let mut clusters = world.clusters.iter_mut();
    let cluster = clusters.find(|known| known.alias == cluster);
    cluster.unwrap().boots.insert(vmid, boot);
}

/// A guest whose start fails.
fn cannot_be_started() -> Boot {
    Boot {
        fails: "start failed: QEMU exited with code 1".to_owned(),
        ..Boot::default()
    }
}

/// A guest that starts, writes, and whose agent never answers.
fn hangs() -> Boot {
    Boot {
        mute: true,
        write_rate: 256 * 1024,
        ..Boot::default()
    }
}

fn go(stage: &Stage, options: &[&str], name: &str) -> Ended {
    run(stage, &to_banana(options, &[name]))
}

fn failure(ended: &Ended) -> Value {
    ended.told("move-failed").pop().unwrap()
}

fn text(event: &Value, key: &str) -> String {
    match &event[key] {
        Value::Array(lines) => lines
            .iter()
            .map(|line| line.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("; "),
        other => other.as_str().unwrap().to_owned(),
    }
}

/// Returns the images of a guest by their file names without its number.
fn images(stage: &Stage, directory: &str, vmid: u32) -> BTreeMap<String, Vec<u8>> {
    let directory: PathBuf = stage.simulation.directory.join(directory);
    let files = std::fs::read_dir(directory.join(vmid.to_string())).unwrap();
    let files = files.flatten().map(|file| {
        let name = file.file_name().into_string().unwrap();
        let name = name.replace(&format!("vm-{vmid}-"), "");
        (name, std::fs::read(file.path()).unwrap())
    });
    files.collect()
}

const APPLE: &str = "apple/node1/var/lib/vz/images";
const BANANA: &str = "banana/node2/srv/local-ssd/images";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_answers_is_up_and_the_move_says_by_what() {
    let mut plain = guest(566, "db1", vec![disk("scsi0", "qcow2", 8 * MIB)], 0);
    plain.config.remove("agent");
    let stage = stage_with(vec![with_agent(565, "web1"), plain]).await;
    let ended = go(&stage, &["--boot-check", "20s"], "web1").expect(0);
    let up = text(&ended.events().pop().unwrap(), "up");
    assert!(up.starts_with("its guest agent answered"), "{up}");
    let target = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", target));
    let ended = go(&stage, &["--boot-check", "2s"], "db1").expect(0);
    let up = text(&ended.events().pop().unwrap(), "up");
    assert!(
        up.starts_with("it has kept running") && up.contains("no guest agent"),
        "{up}"
    );
    moved(&stage, ("apple", 566), "banana", "db1");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_being_asked_to_return_everything_stays_and_the_failure_says_what_to_type() {
    let stage = stage_with(vec![with_agent(565, "web1"), with_agent(566, "db1")]).await;
    // One cannot be started at all.
    boots(&stage, TARGET, cannot_be_started());
    let vmid = TARGET.to_string();
    let ended = go(&stage, &["--target-vmid", &vmid], "web1").expect(6);
    let failed = failure(&ended);
    assert!(
        text(&failed, "error").contains("start failed: QEMU exited with code 1"),
        "{failed:#}"
    );
    assert!(text(&failed, "state").contains("STOPPED"), "{failed:#}");
    let next = text(&failed, "next");
    assert!(
        next.contains("proxmove abort apple banana web1"),
        "{failed:#}"
    );
    assert_eq!(config(&stage, "apple", 565)["name"], "web1--MIGRATED");
    // That it never ran is known, so the ordinary abort is a way back.
    let before = runs(&stage, "apple", 565);
    run(&stage, &["abort", "--json", "apple", "banana", "web1"]).expect(0);
    assert!(!before && runs(&stage, "apple", 565));
    assert_eq!(config(&stage, "apple", 565)["name"], "web1");

    // The other one starts, and hangs.
    boots(&stage, TARGET + 1, hangs());
    let options = ["--target-vmid", "301", "--boot-check", "2s"];
    let ended = go(&stage, &options, "db1").expect(6);
    let failed = failure(&ended);
    let error = text(&failed, "error");
    assert!(
        error.contains("its guest agent does not answer after 2s"),
        "{failed:#}"
    );
    assert!(runs(&stage, "banana", 301) && !runs(&stage, "apple", 566));
    let next = text(&failed, "next");
    assert!(
        next.contains("proxmove resume apple banana db1")
            && next.contains("proxmove abort --discard-target apple banana db1"),
        "{failed:#}"
    );
    // What is only on the target is not given up without a word.
    run(&stage, &["abort", "--json", "apple", "banana", "db1"]).expect(4);
    assert!(runs(&stage, "banana", 301));
    // With it, it is: switched off there, the source back, and nothing left.
    let ended = run(
        &stage,
        &[
            "abort",
            "--json",
            "--discard-target",
            "apple",
            "banana",
            "db1",
        ],
    )
    .expect(0);
    assert_eq!(ended.told("move-aborted").len(), 1);
    assert!(runs(&stage, "apple", 566));
    assert_eq!(config(&stage, "apple", 566)["name"], "db1");
    assert_eq!(names(&stage, "banana"), [] as [String; 0]);
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_is_returned_and_the_next_try_carries_only_the_difference() {
    for verify in ["full", "transfer"] {
        let stage = stage_with(vec![with_agent(565, "web1")]).await;
        let before = config(&stage, "apple", 565);
        boots(&stage, TARGET, hangs());
        let options = [
            "--verify",
            verify,
            "--target-vmid",
            "300",
            "--boot-check",
            "2s",
            "--on-failure",
            "return",
        ];
        let ended = go(&stage, &options, "web1").expect(5);
        let failed = failure(&ended);
        let error = text(&failed, "error");
        assert!(
            error.contains("was returned to its source") && error.contains("does not answer"),
            "{failed:#}"
        );
        assert!(text(&failed, "state").contains("RUNNING"), "{failed:#}");
        assert_eq!(config(&stage, "apple", 565), before);
        assert!(runs(&stage, "apple", 565) && !runs(&stage, "banana", TARGET));
        let kept = config(&stage, "banana", TARGET);
        assert_eq!(kept["name"], "web1--CREATING");
        assert!(!kept["description"].contains("returning"), "{kept:?}");
        // What it wrote there is there.
        let wrote = stage.check(("banana", TARGET), ("banana", TARGET)).unwrap();
        assert!(wrote.found > 0, "{wrote}");

        // It is repaired, and tried again.
        boots(&stage, TARGET, Boot::default());
        let again = [
            "--verify",
            verify,
            "--boot-check",
            "20s",
            "--on-failure",
            "return",
        ];
        let ended = go(&stage, &again, "web1").expect(0);
        let summary = ended.events().pop().unwrap();
        let carried = summary["carried"].as_u64().unwrap();
        let target = moved(&stage, ("apple", 565), "banana", "web1");
        assert_eq!(target, TARGET);
        let proof = proved(&stage, ("apple", 565), ("banana", TARGET));
        // Byte for byte, so nothing of the failed boot is left, and everything of the source is there.
        let (source, now) = (images(&stage, APPLE, 565), images(&stage, BANANA, TARGET));
        assert_eq!(source.len(), 2);
        for (name, bytes) in &source {
            assert!(now[name] == *bytes, "{verify}: {name} differs");
        }
        let gone = stage.check(("banana", TARGET), ("banana", TARGET)).unwrap();
        assert_eq!(gone.found, 0, "{gone}");
        let all: usize = source.values().map(Vec::len).sum();
        eprintln!(
            "--verify {verify}: {proof} records proved, {} of the failed boot gone, {carried} of {all} bytes carried again",
            wrote.found
        );
        assert!(carried < all as u64 / 2, "{carried} of {all}");
        // Nothing the disk kept badly was found: the claims had been given up.
        assert!(ended.told("warning").is_empty(), "{}", ended.stdout);
        nothing_left(&stage);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_cannot_be_started_is_returned_without_a_check() {
    let stage = stage_with(vec![with_agent(565, "web1")]).await;
    let before = config(&stage, "apple", 565);
    boots(&stage, TARGET, cannot_be_started());
    let options = ["--target-vmid", "300", "--on-failure", "return"];
    let ended = go(&stage, &options, "web1").expect(5);
    assert!(
        text(&failure(&ended), "error").contains("QEMU exited with code 1"),
        "{}",
        ended.stdout
    );
    assert_eq!(config(&stage, "apple", 565), before);
    assert!(runs(&stage, "apple", 565));
    // It may also be given up for good.
    run(&stage, &["abort", "--json", "apple", "banana", "web1"]).expect(0);
    assert_eq!(names(&stage, "banana"), [] as [String; 0]);
    assert!(runs(&stage, "apple", 565));
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_qemu_has_stopped_is_not_waited_for() {
    let mut plain = guest(565, "web1", vec![disk("scsi0", "raw", 8 * MIB)], 0);
    plain.config.remove("agent");
    let stage = stage_with(vec![plain]).await;
    boots(
        &stage,
        TARGET,
        Boot {
            status: "io-error".to_owned(),
            ..Boot::default()
        },
    );
    let began = Instant::now();
    let options = [
        "--target-vmid",
        "300",
        "--boot-check",
        "10min",
        "--on-failure",
        "return",
    ];
    let ended = go(&stage, &options, "web1").expect(5);
    assert!(began.elapsed() < Duration::from_secs(120));
    assert!(
        text(&failure(&ended), "error").contains("io-error"),
        "{}",
        ended.stdout
    );
    assert!(runs(&stage, "apple", 565));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_has_run_for_long_is_not_given_up_by_itself() {
    let stage = stage_with(vec![with_agent(565, "web1")]).await;
    boots(&stage, TARGET, hangs());
    let options = ["--target-vmid", "300", "--boot-check", "2s"];
    go(&stage, &options, "web1").expect(6);
    let longer = Duration::from_secs(5);
    std::thread::sleep(longer);
    let ended = run(
        &stage,
        &[
            "resume",
            "--json",
            "--on-failure",
            "return",
            "apple",
            "banana",
            "web1",
        ],
    )
    .expect(6);
    assert!(runs(&stage, "banana", TARGET) && !runs(&stage, "apple", 565));
    let warned = ended.told("warning");
    assert!(
        warned
            .iter()
            .any(|told| text(told, "text").contains("not returned by itself")),
        "{}",
        ended.stdout
    );
    // Finished as it is, when that is wanted.
    let words = ["resume", "--json", "--boot-check", "0s"];
    run(&stage, &[&words[..], &["apple", "banana", "web1"]].concat()).expect(0);
    moved(&stage, ("apple", 565), "banana", "web1");
}

/// What a killed return is gone on with.
const AFTER: [&str; 3] = ["rerun", "resume", "abort"];

/// Kills the program right after this call of its return.
fn killed_after(stage: &Stage, call: &Recorded, nth: usize, violated: &Arc<AtomicBool>) {
    let faults = stage.simulation.faults();
    faults.clear();
    let process = Arc::new(AtomicU32::new(0));
    let victim = Arc::clone(&process);
    faults.add(Fault {
        cluster: Some(call.cluster.clone()),
        nth: Some(nth),
        ..Fault::first(
            &call.method,
            &call.path,
            FaultKind::After(Arc::new(move || kill(victim.load(Ordering::SeqCst)))),
        )
    });
    watch(stage, violated);
    let running = launch(stage, &returning(), &[]);
    process.store(running.process(), Ordering::SeqCst);
    running.wait().expect(-9);
    faults.clear();
    watch(stage, violated);
}

/// Has it noticed when a copy is started while the other runs.
fn watch(stage: &Stage, violated: &Arc<AtomicBool>) {
    let world = stage.simulation.shared_world();
    let violated = Arc::clone(violated);
    stage.simulation.faults().add(Fault {
        cluster: Some("apple".to_owned()),
        nth: None,
        ..Fault::first(
            "POST",
            "/nodes/*/qemu/565/status/start",
            FaultKind::Before(Arc::new(move || {
                let world = world.lock().unwrap();
                let banana = world.clusters.iter().find(|known| known.alias == "banana");
                let guest = banana.and_then(|banana| banana.guests.get(&TARGET));
                if guest
                    .is_some_and(|guest| guest.run.is_some() || guest.name() != "web1--CREATING")
                {
                    violated.store(true, Ordering::SeqCst);
                }
            })),
        )
    });
}

fn returning() -> Vec<&'static str> {
    to_banana(&RETURNING, &["web1"])
}

const RETURNING: [&str; 6] = [
    "--target-vmid",
    "300",
    "--boot-check",
    "1s",
    "--on-failure",
    "return",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_return_that_is_killed_anywhere_is_gone_on_with() {
    let violated = Arc::new(AtomicBool::new(false));
    // Once without a kill, to know its calls.
    let stage = stage_with(vec![with_agent(565, "web1")]).await;
    boots(&stage, TARGET, hangs());
    watch(&stage, &violated);
    run(&stage, &returning()).expect(5);
    let calls = stage.simulation.faults().writes();
    let started = calls
        .iter()
        .position(|call| call.cluster == "banana" && call.path.ends_with("/status/start"))
        .unwrap();
    let calls: Vec<(Recorded, usize)> = calls[started..]
        .iter()
        .filter(|call| !call.path.ends_with("/agent/ping"))
        .map(|call| {
            let same = |other: &&Recorded| {
                (&other.cluster, &other.method, &other.path)
                    == (&call.cluster, &call.method, &call.path)
            };
            let earlier = calls.iter().take_while(|other| !std::ptr::eq(*other, call));
            (call.clone(), earlier.filter(same).count() + 1)
        })
        .collect();
    drop(stage);
    // Start, intention, stop, two steps of the source, one of the target, start, end of the intention, claim.
    assert!(calls.len() >= 8, "{calls:#?}");
    let told = Mutex::new(Vec::new());
    for (place, (call, nth)) in calls.iter().enumerate() {
        let stage = stage_with(vec![with_agent(565, "web1")]).await;
        let before = config(&stage, "apple", 565);
        boots(&stage, TARGET, hangs());
        killed_after(&stage, call, *nth, &violated);
        let (after, last) = (AFTER[place % AFTER.len()], place + 1 == calls.len());
        let what = format!("{} {} ({nth}) then {after}", call.method, call.path);
        let noted = config(&stage, "banana", TARGET)["description"].contains("returning: yes");
        let words: &[&str] = match after {
            "rerun" => &returning(),
            "resume" => &["resume", "--json", "--yes", "apple", "banana", "web1"],
            _ => &["abort", "--json", "apple", "banana", "web1"],
        };
        let ended = run(&stage, words);
        told.lock()
            .unwrap()
            .push(format!("{what}: {}, noted {noted}", ended.code));
        let target_runs = names(&stage, "banana").contains(&"web1".to_owned());
        if after != "abort" && !noted && target_runs && ended.code == 6 {
            // On a busy machine it has run for longer than the check watches until somebody looks again.
            assert!(ended.stdout.contains("not returned by itself"), "{what}");
            continue;
        }
        if after == "abort" && !noted && target_runs {
            // Nothing says that the boot has failed.
            assert_eq!(ended.code, 4, "{what}");
            continue;
        }
        if after == "abort" {
            assert_eq!(ended.code, 0, "{what}: {}{}", ended.stdout, ended.stderr);
            assert_eq!(names(&stage, "banana"), [] as [String; 0], "{what}");
        } else {
            assert_eq!(ended.code, 5, "{what}: {}{}", ended.stdout, ended.stderr);
            assert!(!runs(&stage, "banana", TARGET), "{what}");
            let target = config(&stage, "banana", TARGET);
            assert_eq!(target["name"], "web1--CREATING", "{what}");
            assert!(!target["description"].contains("returning"), "{what}");
        }
        assert!(runs(&stage, "apple", 565), "{what}");
        assert_eq!(config(&stage, "apple", 565), before, "{what}");
        if last || after == "abort" {
            boots(&stage, TARGET, Boot::default());
            run(&stage, &returning()).expect(0);
            let target = moved(&stage, ("apple", 565), "banana", "web1");
            proved(&stage, ("apple", 565), ("banana", target));
        }
    }
    eprintln!("{}", told.lock().unwrap().join("\n"));
    assert!(!violated.load(Ordering::SeqCst));
}
