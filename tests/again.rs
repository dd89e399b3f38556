//! Moves that stopped half-way: shown by `proxmove status`, finished by `proxmove resume`, given up by `proxmove abort`.
//!
//! From every rung of the ladder, with the real program against the simulation: what status says there, that the command
//! it names finishes the move, and that an abort leaves the source field by field as it was, and nothing on the target.
//! Read next: `again/claims.rs`, two operators at once.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "again/claims.rs"]
mod claims;
#[path = "again/finished.rs"]
mod finished;
#[path = "again/neighbours.rs"]
mod neighbours;
#[path = "support/stage.rs"]
mod stage;
#[path = "again/suspended.rs"]
mod suspended;
#[path = "again/tasks.rs"]
mod tasks;
#[path = "again/unreachable.rs"]
mod unreachable;

use std::collections::BTreeMap;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::GuestSpec;
use serde_json::Value;
use stage::faults::{CONFIG, fails};
use stage::{
    Ended, MIB, clusters, config, disk, guest, launch, moved, names, nothing_left, processes,
    proved, run, runs, to_banana,
};

/// Where a move is made to stop, and what then is to be seen.
struct Stop {
    rung: &'static str,
    /// Cluster, method, path and which call of it fails.
    fails: Option<(&'static str, &'static str, &'static str, usize)>,
    options: &'static [&'static str],
    /// The exit code of the move that is stopped there.
    code: i32,
    left: &'static str,
}

/// Every rung at which a move can stop.
const STOPS: &[Stop] = &[
    Stop {
        rung: "placed",
        // The second time the target node's guests are listed is right after the placeholder was created.
        fails: Some(("banana", "GET", "/nodes/node2/qemu", 2)),
        options: &[],
        code: 5,
        left: "as-it-was",
    },
    Stop {
        rung: "precopied",
        fails: None,
        options: &["--max-downtime", "1ms"],
        code: 5,
        left: "as-it-was",
    },
    Stop {
        rung: "stopped",
        fails: Some(("apple", "PUT", CONFIG, 1)),
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "marked",
        // The call that marks the source is answered by nobody, and the target not reached after it.
        fails: None,
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "synced",
        fails: Some(("banana", "PUT", CONFIG, 1)),
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "attached",
        fails: Some(("banana", "PUT", CONFIG, 2)),
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "target-named",
        fails: Some(("apple", "PUT", CONFIG, 2)),
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "switched-over",
        fails: Some(("banana", "POST", "/nodes/*/qemu/*/status/start", 1)),
        options: &[],
        code: 6,
        left: "down",
    },
    Stop {
        rung: "started",
        fails: Some(("banana", "PUT", CONFIG, 3)),
        options: &[],
        code: 5,
        left: "taken-over",
    },
];

/// Moves a guest until it stops there.
fn stop_at(stage: &Stage, stop: &Stop, name: &str) -> Ended {
    let faults = stage.simulation.faults();
    faults.clear();
    if let Some((cluster, method, path, nth)) = stop.fails {
        fails(stage, cluster, (method, path), nth);
    }
    if stop.rung == "marked" {
        let more = faults.clone();
        let unreachable = move || {
            more.add(Fault {
                cluster: Some("banana".to_owned()),
                nth: None,
                ..Fault::first("GET", "*", FaultKind::Error(500, "boom".to_owned()))
            });
        };
        faults.add(Fault {
            cluster: Some("apple".to_owned()),
            ..Fault::first(
                "PUT",
                CONFIG,
                FaultKind::After(std::sync::Arc::new(unreachable)),
            )
        });
    }
    let ended = run(stage, &to_banana(stop.options, &[name]));
    faults.clear();
    assert_eq!(
        ended.code, stop.code,
        "{}: {}{}",
        stop.rung, ended.stdout, ended.stderr
    );
    ended
}

/// Returns what status says of one guest's move.
fn status_of(stage: &Stage, name: &str) -> Value {
    let ended = run(stage, &["status", "--json"]).expect(0);
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    let moves = status["moves"].as_array().unwrap();
    let found: Vec<_> = moves
        .iter()
        .filter(|found| found["guest"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{name}: {status:#}");
    found[0].clone()
}

/// Guests of all kinds: with everything, without onboot and notes, and one that is stopped.
fn of_kind(kind: usize, vmid: u32, name: &str) -> GuestSpec {
    let disks = vec![disk("scsi0", "qcow2", 16 * MIB)];
    let mut spec = guest(vmid, name, disks, 64 * 1024);
    if kind == 1 {
        spec.config.remove("onboot");
        spec.config.remove("description");
    }
    if kind == 2 {
        spec.running = false;
        spec.config.insert("onboot".to_owned(), "0".to_owned());
    }
    spec
}

/// Returns the images on the target's storage.
fn target_files(stage: &Stage) -> Vec<std::path::PathBuf> {
    let images = stage
        .simulation
        .directory
        .join("banana/node2/srv/local-ssd/images");
    assert!(images.parent().unwrap().exists(), "{images:?}");
    let mut found = Vec::new();
    for directory in std::fs::read_dir(images).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(directory.path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_abort_from_every_rung_brings_the_source_back_field_by_field() {
    let kinds = 3;
    let specs = (0..STOPS.len() * kinds)
        .map(|number| of_kind(number % kinds, 600 + number as u32, &format!("vm{number}")))
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.2).await;
    let mut back = 0;
    for number in 0..STOPS.len() * kinds {
        let (stop, kind) = (&STOPS[number / kinds], number % kinds);
        // A guest that does not run goes through fewer rungs, and its codes are others.
        if kind == 2 && !["placed", "synced", "target-named"].contains(&stop.rung) {
            continue;
        }
        let (vmid, name) = (600 + number as u32, format!("vm{number}"));
        let before: BTreeMap<String, String> = config(&stage, "apple", vmid);
        let ran = runs(&stage, "apple", vmid);
        let others = target_files(&stage).len();
        if kind == 2 {
            let stopped = Stop {
                code: if stop.rung == "placed" { 5 } else { 6 },
                ..Stop { ..*stop }
            };
            stop_at(&stage, &stopped, &name);
        } else {
            stop_at(&stage, stop, &name);
        }
        let files = target_files(&stage);
        assert_eq!(files.len() > others, stop.rung != "placed", "{files:?}");
        let ended = run(&stage, &["abort", "--json", "apple", "banana", &name]);
        if stop.rung == "started" {
            // It has run there: nothing is given up, and the answer says what is the way back.
            ended.expect(4);
            assert!(runs(&stage, "banana", stage.vmid("banana", &name).unwrap()));
            assert_eq!(target_files(&stage), files);
            run(
                &stage,
                &["resume", "--json", "--yes", "apple", "banana", &name],
            )
            .expect(0);
            moved(&stage, ("apple", vmid), "banana", &name);
            continue;
        }
        let ended = ended.expect(0);
        assert_eq!(ended.told("move-aborted").len(), 1, "{}", ended.stdout);
        assert_eq!(
            config(&stage, "apple", vmid),
            before,
            "{} {kind}",
            stop.rung
        );
        assert_eq!(runs(&stage, "apple", vmid), ran, "{} {kind}", stop.rung);
        let left: Vec<_> = names(&stage, "banana")
            .into_iter()
            .filter(|known| known.starts_with(&format!("{name}--")) || *known == name)
            .collect();
        assert_eq!(left, [] as [String; 0], "{}", stop.rung);
        // What a finished move of another guest left is the only thing that may be there.
        assert_eq!(target_files(&stage).len(), others, "{}", stop.rung);
        back += 1;
        // Given up for good: a second abort finds nothing to do, and the guest can be moved anew.
        run(&stage, &["abort", "--json", "apple", "banana", &name]).expect(0);
        if kind == 0 {
            run(&stage, &to_banana(&[], &[&name])).expect(0);
            let target = moved(&stage, ("apple", vmid), "banana", &name);
            proved(&stage, ("apple", vmid), ("banana", target));
        }
    }
    eprintln!("{back} moves were brought back");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_names_the_command_that_finishes_a_move_from_every_rung() {
    let specs = (0..STOPS.len())
        .map(|number| of_kind(0, 600 + number as u32, &format!("vm{number}")))
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.2).await;
    let quiet = run(&stage, &["status"]).expect(0);
    assert_eq!(quiet.stdout, "no move is in progress\n");
    for (number, stop) in STOPS.iter().enumerate() {
        let (vmid, name) = (600 + number as u32, format!("vm{number}"));
        stop_at(&stage, stop, &name);
        stage.simulation.faults().forget();
        let found = status_of(&stage, &name);
        assert_eq!(stage.simulation.faults().writes(), []);
        // That data are equal only the hosts know: the clusters alone allow the rung above.
        let (rung, held) = match stop.rung {
            // It could not say that it ended.
            "marked" => ("synced", "; that process has ended"),
            rung => (rung, ""),
        };
        assert_eq!(found["rung"], rung, "{found:#}");
        let certain = ["placed", "precopied", "stopped", "started"];
        assert_eq!(found["certain"], certain.contains(&stop.rung), "{found:#}");
        assert_eq!(found["left"], stop.left, "{found:#}");
        let words = found["held"]["text"].as_str().unwrap_or_default();
        assert!(
            words.ends_with(held) && words.is_empty() == held.is_empty(),
            "{found:#}"
        );
        assert!(found["by"].as_str().unwrap().contains('@'), "{found:#}");
        let place = (
            &found["source_cluster"],
            &found["source_vmid"],
            &found["target_cluster"],
        );
        assert_eq!(place, (&"apple".into(), &vmid.into(), &"banana".into()));
        let there = found["volumes"][0]["there"].as_bool().unwrap();
        assert_eq!(there, stop.rung != "placed", "{found:#}");
        assert_eq!(
            found["abort"].is_null(),
            stop.rung == "started",
            "{found:#}"
        );
        let text = run(&stage, &["status", "banana"]).expect(0).stdout;
        assert!(
            text.contains(&format!("{name}: apple/{vmid} -> banana/")),
            "{text}"
        );
        let command = found["resume"].as_str().unwrap();
        assert_eq!(command, format!("proxmove resume apple banana {name}"));
        let mut words: Vec<&str> = command.split(' ').skip(1).collect();
        words.insert(1, "--yes");
        let ended = run(&stage, &words);
        if stop.options.is_empty() {
            ended.expect(0);
        } else {
            // What was asked for is kept, also the limit that stopped it; the command line can say otherwise.
            ended.expect(5);
            run(&stage, &to_banana(&[], &[&name])).expect(0);
        }
        let target = moved(&stage, ("apple", vmid), "banana", &name);
        proved(&stage, ("apple", vmid), ("banana", target));
    }
    assert_eq!(
        run(&stage, &["status"]).expect(0).stdout,
        "no move is in progress\n"
    );
    let done = run(&stage, &["resume", "--json", "apple", "banana", "vm0"]).expect(4);
    assert!(
        done.stdout.contains("no move of it to banana is under way"),
        "{}",
        done.stdout
    );
    let done = run(&stage, &["abort", "--json", "apple", "banana", "vm0"]).expect(4);
    assert!(done.stdout.contains("vm0--MIGRATED"), "{}", done.stdout);
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_goes_on_after_a_failure_unless_told_to_stop() {
    let specs = (0..6)
        .map(|number| of_kind(0, 600 + number, &format!("vm{number}")))
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.1).await;
    let faults = stage.simulation.faults();
    fails(&stage, "apple", ("PUT", CONFIG), 1);
    let words = to_banana(&[], &["vm0", "vm1", "vm2"]);
    let ended = run(&stage, &words).expect(6);
    let done = ended.told("batch-done");
    let ends = |done: &Value| -> Vec<(String, u64)> {
        let guests = done["guests"].as_array().unwrap();
        let end = |end: &Value| {
            (
                end["guest"].as_str().unwrap().to_owned(),
                end["exit_code"].as_u64().unwrap(),
            )
        };
        guests.iter().map(end).collect()
    };
    let expect = |codes: [u64; 3], first: usize| -> Vec<(String, u64)> {
        let end = |(at, code): (usize, u64)| (format!("vm{}", at + first), code);
        codes.into_iter().enumerate().map(end).collect()
    };
    assert_eq!(ends(&done[0]), expect([6, 0, 0], 0));
    let state = done[0]["guests"][0]["state"].as_str().unwrap();
    assert!(state.contains("vm0 is STOPPED on apple"), "{state}");
    moved(&stage, ("apple", 601), "banana", "vm1");
    faults.clear();
    fails(&stage, "apple", ("PUT", CONFIG), 1);
    let words = to_banana(&["--fail-fast"], &["vm3", "vm4", "vm5"]);
    let ended = run(&stage, &words).expect(6);
    assert_eq!(ends(&ended.told("batch-done")[0]), expect([6, 130, 130], 3));
    assert!(runs(&stage, "apple", 604) && runs(&stage, "apple", 605));
    faults.clear();
    // Both at once by their notes, in words for people.
    let ended = run(
        &stage,
        &["resume", "--yes", "apple", "banana", "vm0", "vm3"],
    )
    .expect(0);
    assert!(
        ended.stderr.contains("2 guests: 2 done, 0 not"),
        "{}",
        ended.stderr
    );
    moved(&stage, ("apple", 600), "banana", "vm0");
    moved(&stage, ("apple", 603), "banana", "vm3");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_closed_terminal_and_sigterm_stop_where_the_move_can_be_resumed() {
    let specs = (0..3)
        .map(|number| {
            guest(
                600 + number,
                &format!("vm{number}"),
                vec![disk("scsi0", "raw", 64 * MIB)],
                16 * 1024,
            )
        })
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.9).await;
    use rustix::process::Signal;
    for (number, signal) in [Signal::INT, Signal::TERM, Signal::HUP]
        .into_iter()
        .enumerate()
    {
        let (vmid, name) = (600 + number as u32, format!("vm{number}"));
        let words = to_banana(&["--bwlimit", "40"], &[&name]);
        let running = launch(&stage, &words, &[]);
        while !processes(&stage)
            .iter()
            .any(|(_, line)| line.contains("porter send"))
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        running.signal(signal);
        let ended = running.wait().expect(130);
        let failed = ended.told("move-failed");
        let state = failed[0]["state"].as_str().unwrap();
        assert!(
            state.contains(&format!("{name} is RUNNING on apple as before")),
            "{state}"
        );
        assert!(runs(&stage, "apple", vmid));
        // Nobody holds it any more, and the limit asked for is in its notes.
        assert!(status_of(&stage, &name)["held"].is_null());
        run(
            &stage,
            &[
                "resume",
                "--yes",
                "--bwlimit",
                "1000",
                "apple",
                "banana",
                &name,
            ],
        )
        .expect(0);
        moved(&stage, ("apple", vmid), "banana", &name);
    }
    nothing_left(&stage);
}
