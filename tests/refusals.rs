//! Every refusal, shown by the real program against the simulation: what is said, the exit code, and that nothing was
//! written anywhere.
//!
//! The worlds are the files in `tests/scenarios/refusals/`; beside each is what the program says in it (`.txt`), which
//! `UPDATE_EXPECT=1` writes anew. Read next: `support/world.rs`.
#![allow(clippy::unwrap_used)]

#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::{Expect, expect, expect_file};
use proxmove::sim::host::Server;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use world::{CLASSIC, Case, Run, World, listing, scenarios};

/// What the preflight has to refuse, each with the scenarios that show it.
const PROMISED: &[(&str, &[&str])] = &[
    ("name missing or double", &["name-missing", "name-double"]),
    ("guest locked", &["guest-locked", "guest-suspended"]),
    ("pending changes", &["pending-changes"]),
    ("HA-managed", &["ha-managed", "ha-ignored"]),
    ("replication jobs", &["replication-jobs"]),
    ("template", &["template"]),
    ("linked clone", &["linked-clone"]),
    ("snapshots", &["snapshots", "snapshots-with-memory"]),
    (
        "passthrough or local devices",
        &["passthrough", "local-drives"],
    ),
    ("keys only root may set", &["root-only-keys", "root-token"]),
    (
        "target name or VMID taken",
        &[
            "name-taken",
            "placeholder-foreign",
            "vmid-taken",
            "vmid-for-many",
        ],
    ),
    ("bridge missing on the target node", &["bridge-missing"]),
    ("not enough space", &["space-short"]),
    ("unknown image format", &["unknown-format"]),
    (
        "node offline",
        &["node-offline", "node-unknown", "source-node-offline"],
    ),
    ("temp not writable", &["temp-not-writable"]),
    (
        "missing right",
        &["missing-right-source", "missing-right-target"],
    ),
    (
        "target PVE older than what the config needs",
        &["target-older-key", "target-older-part", "machine-newer"],
    ),
    (
        "storage",
        &[
            "storage-no-images",
            "storage-missing",
            "storage-disabled",
            "storage-not-mounted",
            "path-missing",
            "volume-not-on-host",
        ],
    ),
    ("unknown cluster", &["alias-unknown"]),
    ("container", &["container"]),
    ("same cluster", &["same-cluster"]),
    ("storage host", &["ssh-unreachable", "ssh-unknown-key"]),
    (
        "API",
        &["wrong-fingerprint", "self-signed", "wrong-password"],
    ),
    ("nobody to ask", &["nobody-to-ask"]),
    ("several at once", &["several-at-once"]),
];

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(scenarios().join("refusals"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_promised_refusal_has_a_scenario() {
    let there: BTreeSet<String> = files().iter().map(|file| name(file)).collect();
    let promised = PROMISED.iter().flat_map(|(_, scenarios)| *scenarios);
    let promised: BTreeSet<String> = promised.map(|name| (*name).to_owned()).collect();
    assert_eq!(there, promised);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_is_refused_with_its_words_and_nothing_is_written() {
    // Two at a time: each world has servers of its own, and the machine may have two cores only.
    let turns = Arc::new(Semaphore::new(2));
    let mut running = JoinSet::new();
    for file in files() {
        let turns = Arc::clone(&turns);
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let inner = tokio::spawn(shown(file.clone())).await;
            inner.err().map(|_| name(&file))
        });
    }
    let mut failed = Vec::new();
    while let Some(result) = running.join_next().await {
        failed.extend(result.unwrap());
    }
    failed.sort();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Runs all command lines of one scenario.
async fn shown(file: PathBuf) {
    let case = Case::read(&file);
    let world = case.start(Server::Embedded).await;
    let before = listing(&world.root);
    let mut text = format!("# {}\n", case.about);
    for line in &case.refused {
        let run = world.run(line).await;
        write!(text, "\n{}", transcript(&world, line, &run)).unwrap();
        assert_eq!(run.code, Some(case.exit), "{line}: {run:?}");
        assert_eq!(run.stdout, "", "{line}");
        world.is_untouched(&before, line);
    }
    for line in &case.allowed {
        let line = format!("-n {line}");
        let run = world.run(&line).await;
        assert_eq!(run.code, Some(0), "{line}: {run:?}");
        writeln!(text, "\n$ proxmove {line} >/dev/null; echo $?\n0").unwrap();
        world.is_untouched(&before, &line);
    }
    expect_file![file.with_extension("txt")].assert_eq(&text);
}

fn transcript(world: &World, line: &str, run: &Run) -> String {
    let stderr = world.plain(&run.stderr);
    let code = run.code.unwrap_or(-1);
    format!("$ proxmove {line}; echo $?\n{stderr}{code}\n")
}

/// Two running disks, a pool that is not there, an image in the CD-ROM drive: something to say in each part of a plan.
fn rich() -> Case {
    let text = r#"{
        "guest": {
            "running": true,
            "pool": "web",
            "disks": [
                {"key": "virtio0", "format": "raw", "size": 16777216},
                {"key": "scsi1", "format": "raw", "size": 8388608, "options": "discard=on"}
            ],
            "config": {
                "net1": "virtio=BC:24:11:00:00:66,bridge=vmbr7,firewall=1",
                "ide2": "local:iso/debian.iso,media=cdrom",
                "onboot": "1",
                "description": "the web server",
                "tags": "prod"
            }
        },
        "source": {"storages": [{"isos": {"debian.iso": 65536}}], "pools": ["web"]}
    }"#;
    serde_json::from_str(text).unwrap()
}

async fn planned(options: &str, expect: Expect) -> Run {
    let world = rich().start(Server::Embedded).await;
    let before = listing(&world.root);
    let line = format!("-n {options} {CLASSIC}");
    let run = world.run(&line).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    world.is_untouched(&before, &line);
    expect.assert_eq(&world.plain(&run.stdout));
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dry_run_prints_the_whole_plan_and_writes_nothing() {
    planned("--map-bridge vmbr7=vmbr0 --bwlimit 100", expect![[""]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dry_run_as_json_says_the_same() {
    let world = rich().start(Server::Embedded).await;
    let before = listing(&world.root);
    let run = world
        .run(&format!("-n --json --map-bridge vmbr7=vmbr0 {CLASSIC}"))
        .await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    world.is_untouched(&before, "-n --json");
    let plan: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    expect![[""]].assert_eq(&world.plain(&format!("{plan:#}\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dry_run_shows_refusals_in_the_plan() {
    let world = rich().start(Server::Embedded).await;
    let before = listing(&world.root);
    let run = world.run(&format!("-n {CLASSIC}")).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    world.is_untouched(&before, "-n");
    assert!(run.stdout.contains("vmbr7"), "{}", run.stdout);
    assert!(run.stdout.contains("--map-bridge"), "{}", run.stdout);
}
