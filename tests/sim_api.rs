//! Replays recorded conversations with a real Proxmox VE against the simulated one and compares the answers: status,
//! reason, the shape of the body, and the values of configurations.
//!
//! What differs is listed, with the reason, in `fixtures/transcript-differences.txt`; a difference that is not listed
//! fails the test. Where the recordings are absent, one line says so.
#![allow(clippy::print_stderr)]

#[path = "sim_api/behaviour.rs"]
mod behaviour;
#[path = "sim_api/client.rs"]
mod client;
#[path = "sim_api/compare.rs"]
mod compare;
#[path = "sim_api/laboratory.rs"]
mod laboratory;
#[path = "sim_api/replay.rs"]
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The recordings, and how many rows of each at least match.
const FILES: &[(&str, usize)] = &[
    ("pve8-smoke", 24),
    ("pve8-happy-move", 59),
    ("pve8-proxmove", 54),
    ("pve8-proxmove-zfs", 28),
    ("pve8-errors", 327),
    ("pve8-setup", 28),
    ("pve8-more", 48),
    ("pve9-happy-move", 59),
    ("pve9-proxmove", 32),
    ("pve9-errors", 327),
    ("pve9-setup", 23),
    ("pve9-more", 52),
];

fn recordings() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [
        "tests/fixtures/transcripts",
        "../shared/pve-transcripts",
        "../../shared/pve-transcripts",
    ]
    .into_iter()
    .map(|path| root.join(path))
    .find(|path| path.join("pve8-smoke.jsonl").exists())
}

/// Reads `FILE:ROW why` lines.
fn known_differences() -> BTreeMap<String, String> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/transcript-differences.txt");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(row, why)| (row.to_owned(), why.trim().to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_conversations_are_answered_alike() {
    let Some(directory) = recordings() else {
        eprintln!("not run: recorded_conversations_are_answered_alike (no recordings here)");
        return;
    };
    let known = known_differences();
    let only = std::env::var("REPLAY_ONLY").ok();
    let (mut unexpected, mut healed, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for (file, floor) in FILES {
        if only.as_deref().is_some_and(|only| only != *file) {
            continue;
        }
        let path = directory.join(format!("{file}.jsonl"));
        if !path.exists() {
            continue;
        }
        let outcome = replay::replay(file, &path).await;
        eprintln!("{}", outcome.table(file));
        let differing: BTreeSet<String> = outcome
            .differences
            .iter()
            .map(|(row, _)| format!("{file}:{row}"))
            .collect();
        for (row, text) in &outcome.differences {
            let name = format!("{file}:{row}");
            if !known.contains_key(&name) {
                unexpected.push(format!("{name} {text}"));
            }
        }
        let mine = known
            .keys()
            .filter(|row| row.split(':').next() == Some(file));
        healed.extend(mine.filter(|row| !differing.contains(*row)).cloned());
        if outcome.matched < *floor {
            few.push(format!(
                "{file}: {} of at least {floor} match",
                outcome.matched
            ));
        }
    }
    if !healed.is_empty() {
        eprintln!("listed as different, but alike: {}", healed.join(" "));
    }
    assert!(few.is_empty(), "{}", few.join("\n"));
    assert!(
        unexpected.is_empty(),
        "{} answers differ from the recorded ones:\n{}",
        unexpected.len(),
        unexpected.join("\n")
    );
}
