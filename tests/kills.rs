//! Interrupted moves: whatever is killed, and whatever the API loses, the same command run again ends well.
//!
//! Moments are drawn from a seed and spread over the whole of a move, whose length is measured first. What was sent
//! already is not sent again: the hosts count what arrives, also of runs that could not tell any more.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use stage::{
    Ended, MIB, clusters, disk, guest, launch, moved, names, nothing_left, proved, received, run,
    runs, to_banana,
};

/// The size of each guest's disk.
const SIZE: u64 = 128 * MIB;
/// How often a move may have to be run again after its last kill. More than once only where a killed run's own commands
/// are still ending.
const RERUNS: usize = 3;
/// The guests of a stage: more than kills, because a move may end before its moment comes.
const GUESTS: u32 = 32;
const KILLS: usize = 25;

/// Kills that many moves on a stage, runs each again to its end, and judges the lot.
async fn kill_moves(seed: u64, format: &str, options: &[&str]) {
    let guests = (0..GUESTS)
        .map(|number| {
            let disks = vec![disk("virtio0", format, SIZE)];
            // Some records at few places: they must be there, and are not what is measured.
            guest(200 + number, &format!("vm{number}"), disks, 16 * 1024)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| {
        settings.seed = seed;
        settings.hot_bytes = Some(128 * 1024);
        settings.filled = 0.2;
    })
    .await;
    let mut random = fastrand::Rng::with_seed(seed);
    let start = |number: u32| {
        let name = format!("vm{number}");
        launch(&stage, &to_banana(options, &[&name]), &[])
    };

    let whole = start(0).wait().expect(0);
    let carried = whole.events().pop().unwrap()["carried"].as_u64().unwrap();
    let wire = received(&stage, "200");
    assert!(carried > SIZE / 8 && wire > SIZE / 16, "{carried} {wire}");

    let mut rungs: BTreeMap<String, usize> = BTreeMap::new();
    let (mut kills, mut moves, mut runs, mut worst) = (0, 0, 0, 0.0_f64);
    let mut resent = Vec::new();
    for number in 1..GUESTS {
        if kills >= KILLS {
            break;
        }
        let vmid = 200 + number;
        // One in four is killed twice.
        let planned = if random.u8(..4) == 0 { 2 } else { 1 };
        let mut killed = 0;
        for _ in 0..planned {
            let moment = whole.duration.mul_f64(random.f64() * 0.97);
            let mut running = start(number);
            let began = Instant::now();
            while began.elapsed() < moment && !running.is_over() {
                std::thread::sleep(Duration::from_millis(2));
            }
            if running.is_over() {
                running.wait().expect(0);
                break;
            }
            running.kill();
            killed += 1;
            *rungs.entry(rung(&stage, vmid, number)).or_default() += 1;
        }
        let (count, before_last, last) = converge(&stage, vmid, || start(number));
        runs += count;
        let target = moved(&stage, ("apple", vmid), "banana", &format!("vm{number}"));
        proved(&stage, ("apple", vmid), ("banana", target));
        if killed == 0 {
            continue;
        }
        kills += killed;
        moves += 1;
        // The last run tells its content bytes. Of the runs before it, what arrived is known, in bytes that may be
        // compressed: they stand for at least as much content, so this is sent again for certain.
        let content = before_last + last.events().last().map_or(0, carried_in);
        let percent = content.saturating_sub(carried) as f64 / SIZE as f64 * 100.0;
        worst = worst.max(percent);
        resent.push((percent, vmid));
    }
    nothing_left(&stage);
    let mean = resent.iter().map(|(percent, _)| percent).sum::<f64>() / resent.len() as f64;
    eprintln!(
        "{format} {options:?}: {kills} kills of {moves} moves of {:.1} s, {runs} reruns; resent {mean:.2} % of the disk on average, {worst:.2} % at most; killed at {rungs:?}",
        whole.duration.as_secs_f64()
    );
    assert!(kills >= KILLS, "only {kills} kills");
    let too_much: Vec<_> = resent
        .iter()
        .filter(|(percent, _)| *percent > 5.0)
        .collect();
    assert!(
        too_much.is_empty(),
        "sent again, in percent of the disk: {too_much:?}"
    );
}

/// Returns the content bytes of a whole run, by its summary.
fn carried_in(summary: &serde_json::Value) -> u64 {
    summary["carried"].as_u64().unwrap_or(0)
}

/// Runs a move until it ends well; returns how often that was, what the hosts had received before the last run, and how
/// that ended.
#[track_caller]
fn converge(stage: &Stage, vmid: u32, start: impl Fn() -> stage::Running) -> (usize, u64, Ended) {
    let mut last: Option<Ended> = None;
    for count in 1..=RERUNS {
        let before = received(stage, &vmid.to_string());
        let ended = start().wait();
        // Killed in its last moment: there is nothing left to do, and it says so.
        let is_done = ended.code == 4 && ended.stdout.contains("moved already");
        if ended.code == 0 || is_done {
            return (count, before, ended);
        }
        eprintln!(
            "rerun {count} of {vmid} ended with {}: {}{}",
            ended.code,
            ended.stdout.lines().last().unwrap_or(""),
            ended.stderr
        );
        last = Some(ended);
    }
    last.unwrap().expect(0);
    unreachable!("{:?}", names(stage, "apple"))
}

/// Says how far a move had come, by what both clusters show.
fn rung(stage: &Stage, vmid: u32, number: u32) -> String {
    let own = format!("vm{number}");
    let strip = |name: &str| name.strip_prefix(&own).unwrap_or(name).to_owned();
    let source = strip(&stage::config(stage, "apple", vmid)["name"]);
    let target = names(stage, "banana")
        .into_iter()
        .find(|name| {
            *name == own
                || name
                    .strip_prefix(&own)
                    .is_some_and(|rest| rest.starts_with("--"))
        })
        .map_or("none".to_owned(), |name| strip(&name));
    let running = if runs(stage, "apple", vmid) {
        "running"
    } else {
        "stopped"
    };
    let word = |name: String| {
        if name.is_empty() {
            "named".to_owned()
        } else {
            name
        }
    };
    format!("source {} {running}, target {}", word(source), word(target))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_moves_of_raw_disks_continue_where_they_were() {
    kill_moves(501, "raw", &["--bwlimit", "100"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_moves_of_qcow2_disks_over_the_relay_continue_where_they_were() {
    kill_moves(502, "qcow2", &["--bwlimit", "100", "--route", "relay"]).await;
}

/// Returns the private directories of senders on the direct route that are not in temp, whose name is too long here.
fn lent_agents() -> BTreeSet<String> {
    let names = std::fs::read_dir("/tmp").unwrap().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("proxmove-30") && name.contains(".agent-"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_porter_killed_on_either_side_is_no_harm() {
    let guests = (0..6)
        .map(|number| {
            guest(
                300 + number,
                &format!("vm{number}"),
                vec![disk("scsi0", "raw", SIZE)],
                16 * 1024,
            )
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| {
        settings.hot_bytes = Some(128 * 1024);
        settings.filled = 0.2;
    })
    .await;
    let mut random = fastrand::Rng::with_seed(503);
    let before = lent_agents();
    for number in 0..6_u32 {
        let side = ["receive", "send"][number as usize % 2];
        let route = ["auto", "relay"][number as usize / 2 % 2];
        let name = format!("vm{number}");
        let words = to_banana(&["--bwlimit", "100", "--route", route], &[&name]);
        let mut running = launch(&stage, &words, &[]);
        // Wait for the porter, then a little, then end it.
        let porter = loop {
            assert!(
                !running.is_over(),
                "{name} was moved before its porter was seen"
            );
            let found = stage::processes(&stage).into_iter().find(|(_, line)| {
                // The porter itself, not the shell or the ssh that started it.
                let words: Vec<&str> = line.split(' ').take(3).collect();
                words[0].contains("proxmove-porter-") && words[1..] == ["porter", side]
            });
            match found {
                Some((process, _)) => break process,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        std::thread::sleep(Duration::from_millis(random.u64(50..900)));
        stage::kill(porter);
        let ended = running.wait().expect(5);
        let failed = ended.told("move-failed");
        let error = failed[0]["error"].as_array().unwrap();
        assert!(error.len() > 1, "{error:?}");
        eprintln!("killed the porter that is to {side}, {route}: {error:?}");
        assert!(runs(&stage, "apple", 300 + number));
        run(&stage, &words).expect(0);
        let target = moved(&stage, ("apple", 300 + number), "banana", &name);
        proved(&stage, ("apple", 300 + number), ("banana", target));
    }
    nothing_left(&stage);
    // A killed sender had no time to remove its private directory.
    let left: Vec<_> = lent_agents().difference(&before).cloned().collect();
    assert_eq!(left, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_api_loses_a_rerun_converges() {
    let unreachable = || FaultKind::Error(595, "No route to host".to_owned());
    let (create, config) = ("/nodes/node2/qemu", "/nodes/*/qemu/*/config");
    let faults = [
        (
            "apple",
            "POST",
            "/nodes/*/qemu/*/status/shutdown",
            FaultKind::LostAnswer,
            1,
        ),
        (
            "apple",
            "POST",
            "/nodes/*/qemu/*/status/shutdown",
            FaultKind::LostRequest,
            1,
        ),
        (
            "apple",
            "POST",
            "/nodes/*/qemu/*/status/shutdown",
            unreachable(),
            1,
        ),
        ("banana", "POST", create, FaultKind::LostAnswer, 1),
        ("banana", "POST", create, FaultKind::LostRequest, 1),
        ("banana", "POST", create, unreachable(), 1),
        (
            "banana",
            "POST",
            "/nodes/*/qemu/*/status/start",
            FaultKind::LostAnswer,
            1,
        ),
        (
            "banana",
            "POST",
            "/nodes/*/qemu/*/status/start",
            FaultKind::LostRequest,
            1,
        ),
        (
            "banana",
            "POST",
            "/nodes/*/qemu/*/status/start",
            unreachable(),
            1,
        ),
        ("apple", "PUT", config, FaultKind::LostAnswer, 1),
        ("apple", "PUT", config, FaultKind::LostRequest, 2),
        ("apple", "PUT", config, FaultKind::LostAnswer, 2),
        ("banana", "PUT", config, unreachable(), 1),
        ("banana", "PUT", config, FaultKind::LostAnswer, 1),
        ("banana", "PUT", config, FaultKind::LostAnswer, 2),
        ("banana", "PUT", config, FaultKind::LostAnswer, 3),
        ("banana", "POST", config, FaultKind::LostAnswer, 1),
        ("banana", "POST", config, FaultKind::LostAnswer, 2),
        ("banana", "POST", config, FaultKind::LostRequest, 3),
    ];
    let guests = (0..faults.len() as u32)
        .map(|number| {
            guest(
                400 + number,
                &format!("vm{number}"),
                vec![disk("scsi0", "qcow2", 16 * MIB)],
                64 * 1024,
            )
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.2).await;
    for (number, (cluster, method, path, kind, nth)) in faults.into_iter().enumerate() {
        let (vmid, name) = (400 + number as u32, format!("vm{number}"));
        let what = format!("{cluster} {method} {path} {kind:?} {nth}");
        stage.simulation.faults().clear();
        stage.simulation.faults().add(Fault {
            cluster: Some(cluster.to_owned()),
            nth: Some(nth),
            ..Fault::first(method, path, kind)
        });
        let words = to_banana(&[], &[&name]);
        let first = run(&stage, &words);
        let mut count = 1;
        if first.code != 0 {
            assert!(
                [5, 6].contains(&first.code),
                "{what}: {}\n{}{}",
                first.code,
                first.stdout,
                first.stderr
            );
            // The API is back.
            stage.simulation.faults().clear();
            count += converge(&stage, vmid, || launch(&stage, &words, &[])).0;
        }
        eprintln!(
            "{what}: {} runs, the first ended with {}",
            count, first.code
        );
        let target = moved(&stage, ("apple", vmid), "banana", &name);
        proved(&stage, ("apple", vmid), ("banana", target));
        // No second guest came of a create whose answer was lost.
        let twins = names(&stage, "banana")
            .iter()
            .filter(|known| {
                known.starts_with(&name)
                    && (known.len() == name.len() || known[name.len()..].starts_with("--"))
            })
            .count();
        assert_eq!(twins, 1, "{what}: {:?}", names(&stage, "banana"));
    }
    nothing_left(&stage);
}
