//! A laptop that sleeps: a move that is stopped for a while, gone on with by itself, or by another operator meanwhile.
//!
//! SIGSTOP is what sleeping is to everybody else: the process is there, holds its claim and its connections, and says
//! nothing. The other operator has another home. Read next: `claims.rs`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind, Recorded};
use proxmove::sim::world::scenario::GuestSpec;
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{
    self, Ended, MIB, Running, clusters, config, disk, guest, launch, launch_at, moved, names,
    nothing_left, processes, proved, runs,
};
use crate::{CONFIG, status_of};

/// The home of somebody else who may do the same.
struct Other(tempfile::TempDir);

impl Other {
    fn of(stage: &Stage) -> Other {
        let home = tempfile::Builder::new().prefix("bob-").tempdir().unwrap();
        let copy = |name: &str| {
            let to: PathBuf = home.path().join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            // With its permissions.
            std::fs::copy(stage.home.join(name), to).unwrap();
        };
        copy(".proxmoverc");
        for file in std::fs::read_dir(stage.home.join(".ssh")).unwrap() {
            copy(&format!(
                ".ssh/{}",
                file.unwrap().file_name().to_str().unwrap()
            ));
        }
        Other(home)
    }

    fn run(&self, words: &[&str]) -> Ended {
        launch_at(self.0.path(), words, &[]).wait()
    }
}

fn words<'a>(options: &[&'a str], name: &'a str) -> Vec<&'a str> {
    let place = ["apple", "banana", "node2", "local-ssd", name];
    [&["--json", "--yes"], options, &place].concat()
}

fn guests(number: u32) -> Vec<GuestSpec> {
    let one = |number: u32| {
        let disks = vec![disk("scsi0", "raw", 64 * MIB)];
        guest(600 + number, &format!("vm{number}"), disks, 16 * 1024)
    };
    (0..number).map(one).collect()
}

async fn filled(number: u32) -> Stage {
    stage::start(clusters(guests(number)), |settings| settings.filled = 0.9).await
}

fn send(process: u32, signal: Signal) {
    let process = Pid::from_raw(process as i32).unwrap();
    kill_process(process, signal).unwrap();
}

/// Waits until a process sleeps.
fn asleep(process: u32) {
    let began = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
        {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it never came there"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Begins a move and has it fall asleep while it copies.
fn asleep_copying(stage: &Stage, options: &[&str], vmid: u32, name: &str) -> Running {
    let running = launch(
        stage,
        &words(&[options, &["--bwlimit", "40"]].concat(), name),
        &[],
    );
    let began = Instant::now();
    let own = format!("--name {vmid}-");
    let copies = || {
        let lines = processes(stage);
        lines
            .iter()
            .any(|(_, line)| line.contains("porter receive") && line.contains(&own))
    };
    while !copies() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not copy"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // In the middle of it.
    std::thread::sleep(Duration::from_secs(2));
    assert!(copies(), "it was too fast");
    running.signal(Signal::STOP);
    asleep(running.process());
    running
}

/// Begins a move and has it fall asleep when it has sent a request, which is carried out.
fn asleep_with(stage: &Stage, name: &str, cluster: &str, method: &str, path: &str) -> Running {
    let process = Arc::new(AtomicU32::new(0));
    let sleeper = Arc::clone(&process);
    stage.simulation.faults().add(Fault {
        cluster: Some(cluster.to_owned()),
        ..Fault::first(
            method,
            path,
            FaultKind::Before(Arc::new(move || {
                send(sleeper.load(Ordering::SeqCst), Signal::STOP);
            })),
        )
    });
    let running = launch(stage, &words(&[], name), &[]);
    process.store(running.process(), Ordering::SeqCst);
    asleep(running.process());
    // What it sent arrives all the same.
    std::thread::sleep(Duration::from_secs(1));
    stage.simulation.faults().clear();
    running
}

/// Wakes it up and waits for its end.
fn awake(running: Running) -> Ended {
    running.signal(Signal::CONT);
    running.wait()
}

/// Fails the test unless the move is shown as somebody's who lives, and is not taken from them without a word.
fn held(stage: &Stage, other: &Other, name: &str, rung: &str) {
    let found = status_of(stage, name);
    assert_eq!(found["rung"], rung, "{found:#}");
    assert_eq!(found["held"]["alive"], true, "{found:#}");
    let resume = found["resume"].as_str().unwrap();
    assert_eq!(
        resume,
        format!("proxmove resume --take-over apple banana {name}")
    );
    stage.simulation.faults().forget();
    let refused = other.run(&words(&[], name)).expect(4);
    assert!(
        refused.stdout.contains("is being moved by"),
        "{}",
        refused.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);
}

/// Wakes up one whose move somebody else has ended, and returns what it says; it must not change anything any more.
fn awake_and_late(stage: &Stage, running: Running, code: i32) -> (String, String) {
    stage.simulation.faults().forget();
    let ended = awake(running).expect(code);
    assert_eq!(
        stage.simulation.faults().writes(),
        [] as [Recorded; 0],
        "{}",
        ended.stdout
    );
    let failed = &ended.told("move-failed")[0];
    eprintln!("{failed:#}");
    let error = failed["error"].to_string();
    assert!(error.contains("has taken the move of"), "{failed:#}");
    let text = |key: &str| failed[key].as_str().unwrap().to_owned();
    (text("state"), text("next"))
}

/// The two ways the data may take: through the machine that sleeps, or not.
const ROUTES: [&str; 2] = ["relay", "direct"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_sleeps_while_it_copies_goes_on_when_it_wakes_up() {
    let stage = filled(2).await;
    let other = Other::of(&stage);
    let mut sleeping = Vec::new();
    for (number, route) in (0..).zip(ROUTES) {
        let (vmid, name) = (600 + number, format!("vm{number}"));
        let running = asleep_copying(&stage, &["--route", route], vmid, &name);
        held(&stage, &other, &name, "precopied");
        assert!(runs(&stage, "apple", vmid));
        sleeping.push((vmid, name, running));
    }
    // Longer than a host that says nothing is waited for: it is the one that sleeps who has not listened.
    std::thread::sleep(Duration::from_secs(65));
    for (vmid, name, running) in sleeping {
        awake(running).expect(0);
        let target = moved(&stage, ("apple", vmid), "banana", &name);
        proved(&stage, ("apple", vmid), ("banana", target));
    }
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_sleeps_while_it_copies_is_finished_by_another_operator() {
    let stage = filled(2).await;
    let other = Other::of(&stage);
    for (number, route) in (0..).zip(ROUTES) {
        let (vmid, name) = (600 + number, format!("vm{number}"));
        let running = asleep_copying(&stage, &["--route", route], vmid, &name);
        let taken = other.run(&words(&["--take-over"], &name)).expect(0);
        assert!(taken.stdout.contains("taken over from"), "{}", taken.stdout);
        eprintln!("{route}: taken over and finished in {:?}", taken.duration);
        let target = moved(&stage, ("apple", vmid), "banana", &name);
        let (state, next) = awake_and_late(&stage, running, 5);
        assert_eq!(state, format!("{name} has moved to banana"));
        assert!(next.starts_with("nothing"), "{next}");
        moved(&stage, ("apple", vmid), "banana", &name);
        proved(&stage, ("apple", vmid), ("banana", target));
    }
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_sleeps_while_the_source_is_down_goes_on_when_it_wakes_up() {
    let stage = filled(1).await;
    let other = Other::of(&stage);
    let running = asleep_with(&stage, "vm0", "apple", "PUT", CONFIG);
    assert_eq!(config(&stage, "apple", 600)["name"], "vm0--CLONING");
    // Whether the data are equal only the hosts know; status goes by the names.
    held(&stage, &other, "vm0", "synced");
    assert!(!runs(&stage, "apple", 600));
    awake(running).expect(0);
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    proved(&stage, ("apple", 600), ("banana", target));
    nothing_left(&stage);
}

/// What another operator does while the first one sleeps with the source down.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_sleeps_while_the_source_is_down_is_ended_by_another_operator() {
    let stage = filled(3).await;
    let other = Other::of(&stage);
    let mut sleeps = Vec::new();
    for name in ["vm0", "vm1", "vm2"] {
        sleeps.push(asleep_with(&stage, name, "apple", "PUT", CONFIG));
    }
    let mut sleeps = sleeps.into_iter();

    // Finished.
    other.run(&words(&["--take-over"], "vm0")).expect(0);
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    let (state, _) = awake_and_late(&stage, sleeps.next().unwrap(), 5);
    assert_eq!(state, "vm0 has moved to banana");
    assert_eq!(moved(&stage, ("apple", 600), "banana", "vm0"), target);
    proved(&stage, ("apple", 600), ("banana", target));

    // Given up: it must not be begun again by somebody who does not know of that.
    let words = ["abort", "--json", "--take-over", "apple", "banana", "vm1"];
    other.run(&words).expect(0);
    let (state, _) = awake_and_late(&stage, sleeps.next().unwrap(), 5);
    assert!(state.starts_with("vm1 is RUNNING on apple"), "{state}");
    assert!(runs(&stage, "apple", 601));
    assert_eq!(config(&stage, "apple", 601)["name"], "vm1");
    assert_eq!(names(&stage, "banana"), ["vm0", "vm2--CREATING"]);

    // Still at work, by somebody who sleeps as well: it is theirs.
    let theirs = {
        let process = Arc::new(AtomicU32::new(0));
        let sleeper = Arc::clone(&process);
        stage.simulation.faults().add(Fault {
            cluster: Some("banana".to_owned()),
            nth: Some(2),
            ..Fault::first(
                "PUT",
                CONFIG,
                FaultKind::Before(Arc::new(move || {
                    send(sleeper.load(Ordering::SeqCst), Signal::STOP);
                })),
            )
        });
        let running = launch_at(
            other.0.path(),
            &crate::suspended::words(&["--take-over"], "vm2"),
            &[],
        );
        process.store(running.process(), Ordering::SeqCst);
        asleep(running.process());
        std::thread::sleep(Duration::from_secs(1));
        stage.simulation.faults().clear();
        running
    };
    let (state, next) = awake_and_late(&stage, sleeps.next().unwrap(), 6);
    assert!(
        state.contains("vm2 is STOPPED on apple as vm2--CLONING"),
        "{state}"
    );
    assert!(next.starts_with("leave it to them"), "{next}");
    awake(theirs).expect(0);
    let target = moved(&stage, ("apple", 602), "banana", "vm2");
    proved(&stage, ("apple", 602), ("banana", target));
    nothing_left(&stage);
}
