//! proxmove and the Python original on the same pools and data: `tests/lab/run --bench zfs`.
//!
//! A running guest that writes is moved between two simulated clusters with real zpools, in the storage lab, by one
//! program and by the other, in turn. Everything is measured from outside and in the same way for both: when the guest
//! stops and runs again, what the hosts' network devices counted, how busy their processors were; only the times of the
//! single passes are what the programs tell. After each move every record of the guest is looked for. The original comes
//! from PyPI into a directory of this benchmark's own; nothing of it is part of proxmove. `docs/BENCHMARKS.rst` says how
//! to read the figures. Read next: `one_move.rs`, `original.rs`.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

#[path = "../../tests/support/machines.rs"]
mod machines;
mod meter;
mod one_move;
mod original;
#[path = "../../tests/support/sites.rs"]
mod sites;
#[path = "../../tests/support/stage.rs"]
mod stage;

use std::process::ExitCode;

use machines::Lab;
use one_move::Figures;
use original::Original;

/// What was asked for on the command line.
pub(crate) struct Settings {
    /// MiB of the guest's disk, which is written all over.
    pub(crate) size: u64,
    pub(crate) runs: usize,
    /// KiB a second that the guest writes.
    pub(crate) rate: u64,
}

/// Who moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Ours,
    Original,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("zfs: {problem}");
            eprintln!("usage: tests/lab/run --bench zfs [-- [--size MIB] [--runs N] [--rate KIB]]");
            return ExitCode::from(2);
        }
    };
    let lab = match Lab::find() {
        Ok(lab) => lab,
        Err(why) => {
            eprintln!("zfs: it needs the storage lab (tests/lab/run --bench zfs): {why}");
            return ExitCode::from(77);
        }
    };
    let original = Original::install();
    let version = match &original {
        Ok(original) => original.version().to_owned(),
        Err(why) => {
            eprintln!("zfs: without the original: {why}");
            "not measured".to_owned()
        }
    };
    println!(
        "One disk of {} MiB, written all over; the guest goes on writing {} KiB/s; {} runs each, in turn.",
        settings.size, settings.rate, settings.runs
    );
    println!("original: proxmove {version}, Python\n");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut failed = original.is_err();
    for run in 0..settings.runs {
        let mut measure = |who: Program, name: &str, all: &mut Vec<Figures>| match one_move::measure(
            &lab,
            &settings,
            who,
            original.as_ref().ok(),
        ) {
            Ok(figures) => {
                println!("run {run}, {name}: {figures}");
                all.push(figures);
            }
            Err(why) => {
                println!("run {run}, {name} failed: {why}");
                failed = true;
            }
        };
        measure(Program::Ours, "proxmove", &mut ours);
        if original.is_ok() {
            measure(Program::Original, "original", &mut theirs);
        }
    }
    println!("\nmedians:\n{}", Figures::head());
    for (name, all) in [("proxmove", &ours), ("original", &theirs)] {
        if !all.is_empty() {
            println!("{name:<10} {}", Figures::median(all).row());
        }
    }
    if failed {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn settings(arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        size: 256,
        runs: 3,
        rate: 512,
    };
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            let number = text.parse::<u64>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("{argument} wants a number, not '{text}'"))
        };
        match argument.as_str() {
            "--size" => settings.size = number()?,
            "--runs" => settings.runs = usize::try_from(number()?).unwrap_or(1),
            "--rate" => settings.rate = number()?,
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(settings)
}
