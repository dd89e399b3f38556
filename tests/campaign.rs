//! The fault campaign: every call of the API and every command on a host of a full move, in turn, is broken in four ways;
//! afterwards the same command run again must finish the move, or an abort must bring the source back.
//!
//! ```text
//! crash         proxmove is killed (SIGKILL) when the call was carried out, or the command started
//! error         the call or command is refused and not carried out
//! lost answer   it is carried out, and the connection breaks before the answer
//! hang          it is not carried out and never answered; the operator waits three seconds and interrupts twice
//! ```
//! The outcome of each is a row of docs/FAULTS.rst. `PROXMOVE_CAMPAIGN=all` breaks all and writes the table; a run without
//! breaks every fifth of them, and must see what the table says. One after the other would take long, so several are
//! tried at once, each on clusters of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;
#[path = "campaign/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxmove::sim::host::faults::CommandFault;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use rustix::process::Signal;
use stage::{
    Ended, MIB, clusters, config, disk, guest, launch, left_files, moved, names, proved, run, runs,
    to_banana,
};

/// Of how many faults one is tried, unless all are.
const STRIDE: usize = 5;
/// How many are tried at once.
const AT_ONCE: usize = 4;
/// How long the operator looks at a move that hangs before the first Ctrl-C, and then before the second one.
const LOOKS: Duration = Duration::from_secs(3);
const LOOKS_AGAIN: Duration = Duration::from_secs(2);
/// Longer than any move here takes that does not hang.
const WHOLE_MOVE: Duration = Duration::from_secs(100);

const VMID: u32 = 700;

/// One thing a move does that can be broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The n-th call of a cluster's API with that method and path.
    Call {
        cluster: String,
        method: String,
        path: String,
        nth: usize,
    },
    /// The n-th command on a host.
    Command {
        host: String,
        nth: usize,
        does: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Breaks {
    Crash,
    Error,
    LostAnswer,
    Hang,
}

const BREAKS: [Breaks; 4] = [
    Breaks::Crash,
    Breaks::Error,
    Breaks::LostAnswer,
    Breaks::Hang,
];

impl Place {
    fn shown(&self) -> (String, String) {
        match self {
            Place::Call {
                cluster,
                method,
                path,
                nth,
            } => {
                let path = path.replace("/700", "/VMID").replace("/100", "/VMID");
                // What a UPID or a file is called differs from move to move.
                let path: Vec<&str> = path
                    .split('/')
                    .map(|part| {
                        if part.starts_with("UPID") {
                            "UPID"
                        } else {
                            part
                        }
                    })
                    .collect();
                (
                    cluster.clone(),
                    format!("{method} {} ({nth})", path.join("/")),
                )
            }
            Place::Command { host, nth, does } => (host.clone(), format!("{does} ({nth})")),
        }
    }
}

/// Says what a command does, without the paths and numbers of one move.
fn does(line: &str) -> String {
    let words: Vec<&str> = line
        .split([' ', '\'', '"', '\n'])
        .filter(|word| !word.is_empty())
        .collect();
    let verb = words
        .windows(2)
        .find(|pair| pair[0] == "porter")
        .map(|pair| pair[1]);
    match verb {
        Some(verb) => format!("porter {verb}"),
        None if line.contains("uname") => "look at the host".to_owned(),
        None if line.contains("cat >") || line.contains("cat>") => "upload".to_owned(),
        None => "shell".to_owned(),
    }
}

fn pattern(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .map(|part| if part.starts_with("UPID") { "*" } else { part })
        .collect();
    parts.join("/")
}

async fn a_stage() -> Stage {
    let specs = vec![guest(
        VMID,
        "web1",
        vec![disk("scsi0", "raw", 2 * MIB)],
        32 * 1024,
    )];
    stage::start(clusters(specs), |settings| settings.filled = 0.5).await
}

/// Returns everything a full move does, in order, as often as it does it in any case.
fn places(stage: &Stage) -> Vec<Place> {
    let mut counts: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    let mut places = Vec::new();
    for request in stage.simulation.faults().requests() {
        let path = pattern(&request.path);
        let key = (
            request.cluster.clone(),
            request.method.clone(),
            path.clone(),
        );
        let nth = counts.entry(key).or_default();
        *nth += 1;
        // How often a task or a guest is polled is chance; the first looks are not.
        if request.method == "GET" && *nth > 2 {
            continue;
        }
        places.push(Place::Call {
            cluster: request.cluster,
            method: request.method,
            path,
            nth: *nth,
        });
    }
    for (host, server) in &stage.hosts {
        for (at, line) in server.commands().unwrap().lines().iter().enumerate() {
            places.push(Place::Command {
                host: host.clone(),
                nth: at + 1,
                does: does(line),
            });
        }
    }
    places
}

/// The process that is to be killed at the moment of a crash, known only after it was started.
type Victim = Arc<Mutex<Option<u32>>>;

fn shot(victim: &Victim) -> Arc<dyn Fn() + Send + Sync> {
    let victim = Arc::clone(victim);
    Arc::new(move || {
        // The first call may come before the number is known.
        for _ in 0..200 {
            if let Some(process) = *victim.lock().unwrap() {
                stage::kill(process);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

fn arm(stage: &Stage, place: &Place, breaks: Breaks, victim: &Victim) {
    match place {
        Place::Call {
            cluster,
            method,
            path,
            nth,
        } => stage.simulation.faults().add(Fault {
            cluster: Some(cluster.clone()),
            nth: Some(*nth),
            ..Fault::first(
                method,
                path,
                match breaks {
                    Breaks::Crash => FaultKind::After(shot(victim)),
                    Breaks::Error => FaultKind::Error(500, "broken".to_owned()),
                    Breaks::LostAnswer => FaultKind::LostAnswer,
                    Breaks::Hang => FaultKind::Hang,
                },
            )
        }),
        Place::Command { host, nth, .. } => {
            let commands = stage.hosts[host].commands().unwrap();
            commands.add(
                *nth,
                match breaks {
                    Breaks::Crash => CommandFault::Started(shot(victim)),
                    Breaks::Error => CommandFault::Error,
                    Breaks::LostAnswer => CommandFault::LostAnswer,
                    Breaks::Hang => CommandFault::Hang,
                },
            );
        }
    }
}

fn disarm(stage: &Stage) {
    stage.simulation.faults().clear();
    for host in stage.hosts.values() {
        host.commands().unwrap().clear();
    }
}

/// Runs the move that is broken; `None` when it had to be interrupted, because it hung.
fn broken_run(stage: &Stage, breaks: Breaks, victim: &Victim) -> Option<Ended> {
    let mut running = launch(stage, &to_banana(&[], &["web1"]), &[])
        .patient(WHOLE_MOVE + Duration::from_secs(60));
    *victim.lock().unwrap() = Some(running.id());
    if breaks != Breaks::Hang {
        return Some(running.wait());
    }
    let until = |running: &mut stage::Running, time: Duration| {
        let began = Instant::now();
        while began.elapsed() < time && !running.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
        running.is_over()
    };
    // What does not wait for the one that hangs goes on meanwhile, so the operator looks for a while.
    if until(&mut running, LOOKS * 3) {
        return Some(running.wait());
    }
    running.signal(Signal::INT);
    if !until(&mut running, LOOKS_AGAIN) {
        running.signal(Signal::INT);
    }
    running.wait();
    None
}

/// What came of one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    place: (String, String),
    breaks: Breaks,
    first: String,
    then: &'static str,
}

/// Breaks one thing and judges what comes of it; every second one is brought back instead of finished, where it can be.
async fn broken(place: Place, breaks: Breaks, number: usize) -> Row {
    let stage = a_stage().await;
    let before = config(&stage, "apple", VMID);
    let victim = Victim::default();
    arm(&stage, &place, breaks, &victim);
    let what = format!("{:?} at {:?}", breaks, place);
    let row = tokio::task::spawn_blocking(move || {
        let ended = broken_run(&stage, breaks, &victim);
        disarm(&stage);
        let first = match &ended {
            None => "hangs".to_owned(),
            Some(ended) if ended.code == -9 => "killed".to_owned(),
            Some(ended) => format!("exit {}", ended.code),
        };
        let code = ended.as_ref().map_or(130, |ended| ended.code);
        assert!(
            [0, 4, 5, 6, 130, -9].contains(&code),
            "{what}: {code}\n{}",
            ended.map_or(String::new(), |ended| format!(
                "{}{}",
                ended.stdout, ended.stderr
            ))
        );
        let then = if code == 0 {
            "moved"
        } else if number.is_multiple_of(2) && may_abort(&stage) {
            let ended = run(
                &stage,
                &[
                    "abort",
                    "--json",
                    "--patience",
                    "20s",
                    "apple",
                    "banana",
                    "web1",
                ],
            );
            assert_eq!(ended.code, 0, "{what}: {}{}", ended.stdout, ended.stderr);
            assert_eq!(config(&stage, "apple", VMID), before, "{what}");
            assert!(runs(&stage, "apple", VMID), "{what}");
            assert_eq!(names(&stage, "banana"), [] as [String; 0], "{what}");
            "brought back"
        } else {
            let mut last = None;
            for _ in 0..3 {
                let ended = run(&stage, &to_banana(&[], &["web1"]));
                let done =
                    ended.code == 0 || (ended.code == 4 && ended.stdout.contains("moved already"));
                last = Some(ended);
                if done {
                    break;
                }
            }
            let last = last.unwrap();
            let done = last.code == 0 || last.stdout.contains("moved already");
            assert!(done, "{what}: {} {}{}", last.code, last.stdout, last.stderr);
            "finished by a rerun"
        };
        if then != "brought back" {
            let target = moved(&stage, ("apple", VMID), "banana", "web1");
            proved(&stage, ("apple", VMID), ("banana", target));
        }
        let left: Vec<PathBuf> = left_files(&stage);
        assert_eq!(left, [] as [PathBuf; 0], "{what}");
        Row {
            place: place.shown(),
            breaks,
            first,
            then,
        }
    })
    .await;
    row.unwrap()
}

/// Says whether there is something to abort: a placeholder, and a guest that has not run on the target.
fn may_abort(stage: &Stage) -> bool {
    let named = names(stage, "banana");
    let began = named.iter().any(|name| name.starts_with("web1"));
    let ran = stage
        .vmid("banana", "web1")
        .is_some_and(|vmid| runs(stage, "banana", vmid));
    let retired = config(stage, "apple", VMID)["name"].ends_with("--MIGRATED");
    began && !ran && !retired
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_breaks_the_move_is_finished_or_the_source_brought_back() {
    let began = Instant::now();
    let all = std::env::var("PROXMOVE_CAMPAIGN").is_ok_and(|wanted| wanted == "all");
    let first = a_stage().await;
    run(&first, &to_banana(&[], &["web1"])).expect(0);
    let places = places(&first);
    drop(first);
    let faults: Vec<(Place, Breaks)> = places
        .iter()
        .flat_map(|place| BREAKS.map(|breaks| (place.clone(), breaks)))
        .collect();
    assert!(places.len() > 50, "{places:#?}");
    let stride = if all { 1 } else { STRIDE };
    let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    let mut tried = 0;
    for (number, (place, breaks)) in faults.into_iter().enumerate() {
        if number % stride != 0 {
            continue;
        }
        tried += 1;
        let turns = Arc::clone(&turns);
        running.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (number, broken(place, breaks, number).await)
        });
    }
    let mut rows = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        let (number, row) = ended.unwrap();
        eprintln!(
            "{:4.0} s {number:4} {:?} at {}: {}: {}, {}",
            began.elapsed().as_secs_f64(),
            row.breaks,
            row.place.0,
            row.place.1,
            row.first,
            row.then
        );
        rows.insert(number, row);
    }
    let rows: Vec<Row> = rows.into_values().collect();
    let count = |then: &str| rows.iter().filter(|row| row.then == then).count();
    eprintln!(
        "{tried} faults at {} places in {:.0} s: {} moved all the same, {} finished by a rerun, {} brought back",
        places.len(),
        began.elapsed().as_secs_f64(),
        count("moved"),
        count("finished by a rerun"),
        count("brought back")
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FAULTS.rst");
    if all {
        std::fs::write(file, table::table(&rows, tried, places.len())).unwrap();
        return;
    }
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        text.contains(table::ALL),
        "docs/FAULTS.rst is no table of all faults: PROXMOVE_CAMPAIGN=all cargo test --test campaign writes it"
    );
    let differences = table::differences(&text, &rows);
    assert!(
        differences.is_empty(),
        "docs/FAULTS.rst is not what was seen; if this is right, PROXMOVE_CAMPAIGN=all cargo test --test campaign writes it \
         anew:\n{}",
        differences.join("\n")
    );
}
