//! One move by one of the programs, and what it cost.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machines::Lab;
use crate::meter::Meter;
use crate::original::Original;
use crate::sites::{Site, Sites, cluster, zfspool};
use crate::stage::{disk, guest, program};
use crate::{Program, Settings};

const MIB: u64 = 1 << 20;
const VMID: u32 = 565;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Seconds: of the whole move; of the first stream; of the last one; in which the guest ran nowhere.
    whole: f64,
    first: f64,
    last: f64,
    down: f64,
    /// MiB that left the source host, and that came to both hosts.
    sent: f64,
    received: f64,
    /// Seconds of processors: source host, target host, operator's machine.
    cpu: [f64; 3],
    records: u64,
}

impl Figures {
    fn numbers(&self) -> [f64; 9] {
        let [source, target, operator] = self.cpu;
        [
            self.whole,
            self.first,
            self.last,
            self.down,
            self.sent,
            self.received,
            source,
            target,
            operator,
        ]
    }

    pub(crate) fn head() -> String {
        let words = [
            "whole", "first", "last", "down", "sent", "received", "source", "target", "operator",
        ];
        let words: Vec<String> = words.iter().map(|word| format!("{word:>8}")).collect();
        format!("{:<10} {}", "", words.join(" "))
    }

    pub(crate) fn row(&self) -> String {
        let numbers = self.numbers();
        let words: Vec<String> = numbers.iter().map(|it| format!("{it:>8.1}")).collect();
        words.join(" ")
    }

    pub(crate) fn median(all: &[Figures]) -> Figures {
        let middle = |place: usize| {
            let mut numbers: Vec<f64> = all.iter().map(|each| each.numbers()[place]).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        Figures {
            whole: middle(0),
            first: middle(1),
            last: middle(2),
            down: middle(3),
            sent: middle(4),
            received: middle(5),
            cpu: [middle(6), middle(7), middle(8)],
            records: 0,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [source, target, operator] = self.cpu;
        write!(
            f,
            "whole {:.1} s, first stream {:.1} s, last {:.1} s, down {:.1} s, sent {:.1} MiB, received {:.1} MiB, \
             cpu {source:.1} + {target:.1} + {operator:.1} s, {} records",
            self.whole, self.first, self.last, self.down, self.sent, self.received, self.records
        )
    }
}

/// Moves a guest; the error is why it was not moved. A record that is missing afterwards ends the benchmark.
pub(crate) fn measure(
    lab: &Lab,
    settings: &Settings,
    who: Program,
    original: Option<&Original>,
) -> Result<Figures, String> {
    let pool = || vec![zfspool("tank", &[("sparse", "1")])];
    let mut volume = disk("scsi0", "raw", settings.size * MIB);
    volume.storage = "tank".to_owned();
    let spec = guest(VMID, "web1", vec![volume], settings.rate * 1024);
    let sites = Sites::start_filled(
        lab,
        program(),
        cluster("apple", "node1", pool(), vec![spec]),
        cluster("banana", "node2", pool(), Vec::new()),
        1.0,
    );
    sites.source.await_records(VMID, 100);
    sites.source.machine.run("zpool sync");
    let original = original.filter(|_| who == Program::Original);
    let operator = original.map(|original| original.operator(lab, &sites));
    let (line, environment) = match (who, &operator) {
        (Program::Original, Some(operator)) => operator.command(&sites.home),
        (Program::Original | Program::Ours, _) => (
            format!(
                "{} --json --yes apple banana node2 tank web1",
                program().display()
            ),
            Vec::new(),
        ),
    };
    let both = [&sites.source, &sites.target];
    let before = both.map(Meter::read);
    let over = AtomicBool::new(false);
    let (ran, down) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&sites, &over));
        let ran = run(&line, &environment, &sites);
        over.store(true, Ordering::Relaxed);
        (ran, watching.join().unwrap())
    });
    let ran = ran?;
    let after = both.map(Meter::read);
    let used = [0, 1].map(|place| after[place].since(before[place]));
    let (first, last) = match who {
        Program::Ours => our_passes(&ran.lines),
        Program::Original => original_passes(&ran.lines),
    };
    let records = prove(&sites);
    Ok(Figures {
        whole: ran.seconds,
        first,
        last,
        down: down.as_secs_f64(),
        sent: used[0].sent as f64 / MIB as f64,
        received: (used[0].received + used[1].received) as f64 / MIB as f64,
        cpu: [used[0].cpu_seconds, used[1].cpu_seconds, ran.cpu_seconds],
        records,
    })
}

/// Returns how long the guest ran on neither side.
fn watch(sites: &Sites, over: &AtomicBool) -> Duration {
    let runs = |site: &Site| {
        let running = site.order(&json!({"order": "running"}));
        !running["running"].as_array().unwrap().is_empty()
    };
    let (mut stopped, mut started) = (None, None);
    while started.is_none() && !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        match stopped {
            None if !runs(&sites.source) => stopped = Some(now),
            Some(since) if runs(&sites.target) => started = Some(now.duration_since(since)),
            None | Some(_) => {}
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    started.unwrap_or_default()
}

struct Ran {
    seconds: f64,
    cpu_seconds: f64,
    /// What it said, and when.
    lines: Vec<(f64, String)>,
}

/// Runs a command line; the shell tells what it and all it started used of the processor.
fn run(line: &str, environment: &[(&'static str, String)], sites: &Sites) -> Result<Ran, String> {
    let began = Instant::now();
    let mut child = Command::new("bash")
        .arg("-c")
        .arg(format!("TIMEFORMAT='processor %U %S'; time {line}"))
        .env("HOME", &sites.home)
        .envs(
            environment
                .iter()
                .map(|(key, value)| (*key, value.as_str())),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = Mutex::new(Vec::new());
    let listen = |stream: Box<dyn Read + Send>| {
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap_or_default();
            let now = began.elapsed().as_secs_f64();
            lines.lock().unwrap().push((now, line));
        }
    };
    let output = Box::new(child.stdout.take().unwrap());
    let errors = Box::new(child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| listen(output));
        scope.spawn(|| listen(errors));
    });
    let status = child.wait().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let lines = lines.into_inner().unwrap();
    let said: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
    if !status.success() {
        let last = &said[said.len().saturating_sub(12)..];
        return Err(format!("{line}: {status}\n{}", last.join("\n")));
    }
    let spent = said.iter().find_map(|line| line.strip_prefix("processor "));
    let spent = spent
        .unwrap()
        .split(' ')
        .map(|word| word.parse::<f64>().unwrap());
    Ok(Ran {
        seconds,
        cpu_seconds: spent.sum(),
        lines,
    })
}

/// Reads the first and the last pass from our events.
fn our_passes(lines: &[(f64, String)]) -> (f64, f64) {
    let passes: Vec<f64> = lines
        .iter()
        .filter_map(|(_, line)| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["event"] == "pass-done")
        .map(|event| event["seconds"].as_f64().unwrap())
        .collect();
    (passes[0], *passes.last().unwrap())
}

/// Reads the first and the last stream from when the original said that it begins, and said the next thing that is not
/// about it.
fn original_passes(lines: &[(f64, String)]) -> (f64, f64) {
    let mut passes = Vec::new();
    let mut since = None;
    for (now, line) in lines {
        if line.contains("zfs(1) send/recv") {
            since = Some(*now);
        } else if line.contains(": INFO: ") {
            passes.extend(since.take().map(|since| now - since));
        }
    }
    assert_eq!(passes.len(), 2, "{lines:?}");
    (passes[0], passes[1])
}

/// Fails unless all records are on both sides.
fn prove(sites: &Sites) -> u64 {
    let running = sites.target.order(&json!({"order": "running"}));
    let new = running["running"][0]
        .as_u64()
        .expect("it runs on the target");
    let new = u32::try_from(new).unwrap();
    let ledger = sites.source.ledger(VMID);
    let records = sites.target.prove(&ledger, &sites.target.images(new));
    let source = sites.source.prove(&ledger, &sites.source.images(VMID));
    assert_eq!(records, source);
    records
}
