//! How long a guest is down because of its disks, and what the final delta costs: `cargo bench --bench downtime`.
//!
//! The real program moves a guest between simulated clusters whose hosts are real SSH servers. The share of the disk
//! that is dirty is exact: it is written between the last pre-copy and the shutdown. Prints tables of medians and exits
//! with 1 when a threshold is missed: the delta at most twice the dirty bytes, the final pass at most a tenth of the full
//! copy. `-- --smoke` is for gates: smaller, one run each, and only bytes are judged, as times say nothing there.
//! `docs/BENCHMARKS.rst` says how to read the figures. Read next: `one_move.rs`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod dirty;
mod one_move;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use proxmove::sim::guest::Format;
use proxmove::sim::host::Server;

use dirty::Pattern;
use one_move::{Figures, Order};

const MIB: u64 = 1 << 20;
/// The system's SSH server, where there is one.
const SSHD: &str = "/usr/sbin/sshd";
/// The link that is judged by, in Mbit/s: a line between two sites.
const LINK: u64 = 100;
/// A part of the disk: one per cent.
const DIRTY: f64 = 0.01;
/// What the final delta may be of the dirty bytes.
const MOST_DELTA: f64 = 2.0;
/// What the final pass may be of the full copy's time.
const MOST_TIME: f64 = 0.1;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was asked for on the command line.
struct Settings {
    smoke: bool,
    size: u64,
    runs: usize,
    limit: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("downtime: {problem}");
            eprintln!(
                "usage: cargo bench --bench downtime [-- [--smoke] [--size MIB] [--runs N] [--bwlimit MBIT | --unlimited]]"
            );
            return ExitCode::from(2);
        }
    };
    match tables(&settings).await {
        Ok(missed) if missed.is_empty() => {
            println!("\nall thresholds are kept");
            ExitCode::SUCCESS
        }
        Ok(missed) => {
            println!();
            for line in missed {
                println!("missed: {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("downtime: {error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        smoke: false,
        size: 1024 * MIB,
        runs: 3,
        limit: Some(LINK),
    };
    let mut sized = false;
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            let parsed = text.parse::<u64>().ok().filter(|number| *number > 0);
            parsed.ok_or_else(|| format!("{argument} wants a number, not '{text}'"))
        };
        match argument.as_str() {
            // Cargo says it to every benchmark.
            "--bench" => {}
            "--smoke" => {
                settings.smoke = true;
                settings.runs = 1;
            }
            "--size" => {
                settings.size = number()? * MIB;
                sized = true;
            }
            "--runs" => settings.runs = number()? as usize,
            "--bwlimit" => settings.limit = Some(number()?),
            "--unlimited" => settings.limit = None,
            other => return Err(format!("unexpected '{other}'")),
        }
    }
    if settings.smoke && !sized {
        settings.size = 128 * MIB;
    }
    Ok(settings)
}

/// Prints the tables; returns what was missed.
async fn tables(settings: &Settings) -> Result<Vec<String>, Failure> {
    let openssh = PathBuf::from(SSHD);
    let openssh = openssh.exists().then_some(Server::OpenSsh(openssh));
    if openssh.is_none() {
        println!("not run: all with OpenSSH hosts ({SSHD} is missing)");
    }
    let limit = settings.limit.map_or(String::new(), |limit| {
        format!(", link held to {limit} Mbit/s")
    });
    println!(
        "disk {} MiB, all of it written; medians of {} run(s){limit}\n",
        settings.size / MIB,
        settings.runs
    );
    let mut missed = downtime(settings, openssh.clone()).await?;
    println!();
    missed.extend(throughput(settings, openssh).await?);
    Ok(missed)
}

/// One per cent dirty, both formats, both patterns.
async fn downtime(settings: &Settings, openssh: Option<Server>) -> Result<Vec<String>, Failure> {
    let server = openssh.unwrap_or(Server::Embedded);
    println!(
        "1 % dirty at the stop, direct route, {} hosts",
        server_name(&server)
    );
    println!(
        "{:6} {:12} {:>11} {:>11} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "format",
        "dirty as",
        "full copy",
        "final pass",
        "ratio",
        "downtime",
        "dirty",
        "carried",
        "wire",
        "ratio"
    );
    let mut missed = Vec::new();
    for format in [Format::Raw, Format::Qcow2] {
        for pattern in [Pattern::Chunks, Pattern::Blocks] {
            let order = Order {
                size: settings.size,
                format,
                server: server.clone(),
                route: "direct",
                limit: settings.limit,
                dirty: Some((pattern, DIRTY)),
            };
            let runs = repeat(&order, settings.runs).await?;
            let full = median(&runs, |run| run.full_seconds);
            let last = median(&runs, |run| run.final_seconds);
            let down = median(&runs, |run| run.downtime_seconds);
            let dirty = median(&runs, |run| run.dirty as f64);
            let carried = median(&runs, |run| run.final_carried as f64);
            let wire = median(&runs, |run| run.final_wire as f64);
            let (time, delta) = (last / full, carried.max(wire) / dirty);
            let name = format!("{} {}", format_name(format), pattern.name());
            println!(
                "{:6} {:12} {full:>9.2} s {last:>9.2} s {time:>7.3} {down:>8.2} s {:>10} {:>10} {:>10} {delta:>7.2}",
                format_name(format),
                pattern.name(),
                mib(dirty),
                mib(carried),
                mib(wire),
            );
            if delta > MOST_DELTA {
                missed.push(format!("{name}: the delta is {delta:.2} times the dirty bytes, at most {MOST_DELTA} is wanted"));
            }
            if time > MOST_TIME && !settings.smoke {
                missed.push(format!("{name}: the final pass takes {time:.3} of the full copy's time, at most {MOST_TIME} is wanted"));
            }
        }
    }
    Ok(missed)
}

/// Nothing dirty: what the engine can carry and read, and the memory that takes.
async fn throughput(settings: &Settings, openssh: Option<Server>) -> Result<Vec<String>, Failure> {
    println!("nothing dirty; memory is the peak of each process");
    println!(
        "{:7} {:9} {:>10} {:>10} {:>12} {:>10} {:>10} {:>10}",
        "route", "hosts", "full copy", "rescan", "final+verify", "operator", "sender", "receiver"
    );
    let servers = [Some(Server::Embedded), openssh];
    for route in ["relay", "direct"] {
        for server in servers.iter().flatten() {
            let order = Order {
                size: settings.size,
                format: Format::Raw,
                server: server.clone(),
                route,
                limit: settings.limit,
                dirty: None,
            };
            let runs = repeat(&order, settings.runs).await?;
            let rate = |seconds: f64| match seconds {
                0.0 => "-".to_owned(),
                seconds => format!("{:.0} MB/s", settings.size as f64 / 1e6 / seconds),
            };
            println!(
                "{route:7} {:9} {:>10} {:>10} {:>12} {:>10} {:>10} {:>10}",
                server_name(server),
                rate(median(&runs, |run| run.full_seconds)),
                rate(median(&runs, |run| run.rescan_seconds)),
                rate(median(&runs, |run| run.final_seconds)),
                mib(median(&runs, |run| run.peaks.operator as f64)),
                mib(median(&runs, |run| run.peaks.sender as f64)),
                mib(median(&runs, |run| run.peaks.receiver as f64)),
            );
        }
    }
    Ok(Vec::new())
}

async fn repeat(order: &Order, runs: usize) -> Result<Vec<Figures>, Failure> {
    let mut figures = Vec::new();
    for seed in 0..runs {
        figures.push(one_move::measure(order, seed as u64 + 1).await?);
    }
    Ok(figures)
}

fn median(runs: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    let mut figures: Vec<f64> = runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / MIB as f64)
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

fn server_name(server: &Server) -> &'static str {
    match server {
        Server::Embedded => "embedded",
        Server::OpenSsh(_) => "OpenSSH",
    }
}
