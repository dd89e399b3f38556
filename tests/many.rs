//! Many guests with one command while one request in twenty goes wrong, and now and then one is given up: each ends moved
//! or as it was, nothing of ours is left, and the program's memory stays small.
//!
//! Ten guests at each run; `PROXMOVE_GUESTS=200` for as many as the project promises, `PROXMOVE_SEED=6` for other faults.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::GuestSpec;
use serde_json::Value;
use stage::{
    Ended, MIB, clusters, config, disk, guest, launch, moved, names, nothing_left, run, runs,
    to_banana,
};

/// The most memory the program may ever have used, in KiB.
const MOST: u64 = 200 * 1024;
/// Commands after which every guest must have been moved.
const ROUNDS: usize = 8;

/// Runs the program, and returns the most memory it was seen to use, in KiB. From its first change on, `disturb` is in
/// force: a plan that cannot be made is given up as a whole, and no guest would be moved under faults.
fn measured(stage: &Stage, words: &[&str], disturb: impl FnOnce()) -> (Ended, u64) {
    let mut disturb = Some(disturb);
    stage.simulation.faults().forget();
    let mut running = launch(stage, words, &[]).patient(Duration::from_secs(3000));
    let status = format!("/proc/{}/status", running.id());
    let mut most = 0;
    while !running.is_over() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(peak.unwrap_or(0));
        if !stage.simulation.faults().writes().is_empty()
            && let Some(disturb) = disturb.take()
        {
            disturb();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    (running.wait(), most)
}

/// Makes about one request in twenty go wrong, in one of four ways.
fn break_some(stage: &Stage, random: &mut fastrand::Rng, requests: usize) {
    let faults = stage.simulation.faults();
    faults.clear();
    for nth in 1..=requests {
        if random.u32(..20) != 0 {
            continue;
        }
        let kind = match random.u8(..4) {
            0 => FaultKind::Error(500, "broken".to_owned()),
            1 => FaultKind::Error(596, "Connection timed out".to_owned()),
            2 => FaultKind::LostAnswer,
            _ => FaultKind::LostRequest,
        };
        faults.add(Fault {
            cluster: None,
            method: None,
            path: "*".to_owned(),
            nth: Some(nth),
            kind,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_guests_are_moved_while_one_request_in_twenty_goes_wrong() {
    let count = number_in("PROXMOVE_GUESTS").unwrap_or(10);
    let seed = number_in("PROXMOVE_SEED").unwrap_or(5);
    let name = |number: u32| format!("vm{number:03}");
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let specs = (0..count)
        .map(|number| {
            let disks = vec![disk("scsi0", "raw", MIB)];
            GuestSpec {
                // Some are given up while they are still going down.
                shutdown: random.u64(50..4000),
                ..guest(1000 + number, &name(number), disks, 0)
            }
        })
        .collect();
    let stage = stage::start(clusters(specs), |_| {}).await;
    let before: Vec<_> = (0..count)
        .map(|number| config(&stage, "apple", 1000 + number))
        .collect();
    let mut given_up = BTreeSet::new();
    let (began, mut most, mut failed) = (Instant::now(), 0, 0);
    for round in 0..ROUNDS {
        let here = names(&stage, "apple");
        let left: Vec<String> = (0..count)
            .filter(|number| !given_up.contains(number))
            .map(name)
            .filter(|name| here.contains(name) || is_under_way(&stage, name))
            .collect();
        if left.is_empty() {
            break;
        }
        stage.simulation.faults().clear();
        // The last round is without faults: a night ends.
        let disturb = || {
            if round + 1 < ROUNDS {
                break_some(&stage, &mut random, left.len() * 120);
            }
        };
        let guests: Vec<&str> = left.iter().map(String::as_str).collect();
        let words = to_banana(&[], &guests);
        let (ended, memory) = measured(&stage, &words, disturb);
        let fine: &[i32] = match round + 1 < ROUNDS {
            true => &[0, 4, 5, 6],
            false => &[0],
        };
        assert!(
            fine.contains(&ended.code),
            "{} {}{}",
            ended.code,
            ended.stdout,
            ended.stderr
        );
        failed += ended.told("move-failed").len();
        most = most.max(memory);
        // Every second of those that are not through is given up, while requests still go wrong.
        let half_way = (0..count).filter(|number| is_under_way(&stage, &name(*number)));
        for number in half_way.collect::<Vec<_>>().into_iter().step_by(2) {
            if round + 1 < ROUNDS {
                let words = [
                    "abort",
                    "--json",
                    "--patience",
                    "5s",
                    "apple",
                    "banana",
                    &name(number),
                ];
                let ended = run(&stage, &words);
                assert!(
                    [0, 4, 5, 6].contains(&ended.code),
                    "{}{}",
                    ended.stdout,
                    ended.stderr
                );
                if ended.code == 0 {
                    given_up.insert(number);
                }
            }
        }
    }
    stage.simulation.faults().clear();
    for number in 0..count {
        let vmid = 1000 + number;
        if given_up.contains(&number) {
            assert_eq!(config(&stage, "apple", vmid), before[number as usize]);
            assert!(runs(&stage, "apple", vmid));
            assert_eq!(stage.vmid("banana", &name(number)), None);
        } else {
            moved(&stage, ("apple", vmid), "banana", &name(number));
        }
    }
    assert_eq!(
        names(&stage, "banana").len(),
        count as usize - given_up.len()
    );
    let status: Value =
        serde_json::from_str(&run(&stage, &["status", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(
        (&status["moves"], &status["odd"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    run(&stage, &["cleanup", "--yes"]).expect(0);
    let found = run(&stage, &["cleanup", "-n", "--json"]).expect(0).stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["items"], Value::Array(vec![]), "{found}");
    nothing_left(&stage);
    eprintln!(
        "seed {seed}: of {count} guests {} were moved and {} given up in {:.0} s, {failed} failures on the way, at most {} \
         MiB of memory",
        count as usize - given_up.len(),
        given_up.len(),
        began.elapsed().as_secs_f64(),
        most / 1024
    );
    assert!(failed > 0, "nothing went wrong");
    assert!(0 < most && most < MOST, "{most} KiB");
}

/// Says whether a move of the guest has begun and is not finished.
fn is_under_way(stage: &Stage, name: &str) -> bool {
    let world = stage.simulation.world();
    let guests = world
        .clusters
        .iter()
        .flat_map(|cluster| cluster.guests.values());
    let mark = format!("\nname: {name}\n");
    guests.into_iter().any(|guest| {
        guest
            .config
            .get("description")
            .is_some_and(|text| text.contains(&mark))
    })
}

fn number_in(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}
