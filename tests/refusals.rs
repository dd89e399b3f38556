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
        "source": {"storages": [{"isos": {"debian.iso": 65536}}], "pools": ["web"]},
        "files": {"apple/node1/var/lib/vz/images/565/vm-565-disk-0.raw": 16777216}
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
    planned("--map-bridge vmbr7=vmbr0 --bwlimit 8 --route relay", expect![[r#"
        web1: apple/565 on node1 (running) -> banana/100 on node2
          ide2      set to none,media=cdrom
          scsi1     local:565/vm-565-disk-1.raw (raw, 8.0 MiB, 0 B occupied) -> local-ssd:100/vm-100-disk-0.raw (raw)
                    engine image, route relay, tool porter: through this machine, as asked; the porter runs on both hosts
          virtio0   local:565/vm-565-disk-0.raw (raw, 16.0 MiB, 16.0 MiB occupied) -> local-ssd:100/vm-100-disk-1.raw (raw)
                    engine image, route relay, tool porter: through this machine, as asked; the porter runs on both hosts
          ide2      changed: local:iso/debian.iso is ejected
          meta      dropped: the target writes its own (QEMU version and time of creation)
          net1      changed: bridge vmbr7 becomes vmbr0 (--map-bridge)
          pool      dropped: banana has no pool web, or root@pam may not see it
          virtio0   added: discard=on, so that the guest can give space back to the storage
          copy      16.0 MiB in about 17s, downtime about 21s

        Estimates assume 976.6 KiB/s between the hosts, 500.0 MiB/s from disk and all of it read on both sides after the stop, 1 % changed between the last pre-copy and the stop, 20s to shut down.

        Not carried: firewall rules, ACLs, backup jobs and replication settings; HA settings only with --ha recreate.

        Warnings:
          web1: a network card has firewall=1; the guest's own firewall rules are not carried [firewall-rules]
            -> copy /etc/pve/firewall/565.fw by hand if there is one
          web1: its pool web is not on banana, so it will be in none [pool-missing]
            -> create it first: pvesh create /pools --poolid web

        Nothing forbids this move.
    "#]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dry_run_as_json_says_the_same() {
    let world = rich().start(Server::Embedded).await;
    let before = listing(&world.root);
    let run = world
        .run(&format!(
            "-n --json --map-bridge vmbr7=vmbr0 --route relay {CLASSIC}"
        ))
        .await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    world.is_untouched(&before, "-n --json");
    let plan: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    expect![[r#"
        {
          "assumptions": "110.0 MiB/s between the hosts, 500.0 MiB/s from disk and all of it read on both sides after the stop, 1 % changed between the last pre-copy and the stop, 20s to shut down",
          "guests": [
            {
              "bytes": 16777216,
              "changes": [
                {
                  "action": "kept for later",
                  "key": "boot",
                  "reason": "set when its devices exist"
                },
                {
                  "action": "changed",
                  "key": "ide2",
                  "reason": "local:iso/debian.iso is ejected"
                },
                {
                  "action": "dropped",
                  "key": "meta",
                  "reason": "the target writes its own (QEMU version and time of creation)"
                },
                {
                  "action": "changed",
                  "key": "net1",
                  "reason": "bridge vmbr7 becomes vmbr0 (--map-bridge)"
                },
                {
                  "action": "dropped",
                  "key": "pool",
                  "reason": "banana has no pool web, or root@pam may not see it"
                },
                {
                  "action": "added",
                  "key": "virtio0",
                  "reason": "discard=on, so that the guest can give space back to the storage"
                }
              ],
              "copy-seconds": 1,
              "downtime-seconds": 21,
              "drives": [
                {
                  "action": "set",
                  "drive": "ide2",
                  "value": "none,media=cdrom"
                },
                {
                  "action": "copy",
                  "attach": "local-ssd:100/vm-100-disk-0.raw,discard=on",
                  "because": "through this machine, as asked; the porter runs on both hosts",
                  "drive": "scsi1",
                  "engine": "image",
                  "route": "relay",
                  "size": 8388608,
                  "source": "local:565/vm-565-disk-1.raw",
                  "source-format": "raw",
                  "target": "local-ssd:100/vm-100-disk-0.raw",
                  "target-format": "raw",
                  "tool": "porter",
                  "used": 0
                },
                {
                  "action": "copy",
                  "attach": "local-ssd:100/vm-100-disk-1.raw,discard=on",
                  "because": "through this machine, as asked; the porter runs on both hosts",
                  "drive": "virtio0",
                  "engine": "image",
                  "route": "relay",
                  "size": 16777216,
                  "source": "local:565/vm-565-disk-0.raw",
                  "source-format": "raw",
                  "target": "local-ssd:100/vm-100-disk-1.raw",
                  "target-format": "raw",
                  "tool": "porter",
                  "used": 16777216
                }
              ],
              "from": "apple/565 on node1",
              "name": "web1",
              "pool": null,
              "running": true,
              "start": true,
              "to": "banana/100 on node2"
            }
          ],
          "node": "node2",
          "refused": false,
          "source": "apple",
          "storage": "local-ssd",
          "target": "banana",
          "verdicts": [
            {
              "code": "firewall-rules",
              "guests": [
                "web1"
              ],
              "reason": "a network card has firewall=1; the guest's own firewall rules are not carried",
              "remedy": "copy /etc/pve/firewall/565.fw by hand if there is one",
              "severity": "warn"
            },
            {
              "code": "pool-missing",
              "guests": [
                "web1"
              ],
              "reason": "its pool web is not on banana, so it will be in none",
              "remedy": "create it first: pvesh create /pools --poolid web",
              "severity": "warn"
            }
          ]
        }
    "#]].assert_eq(&world.plain(&format!("{plan:#}\n")));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_is_told_as_json_too() {
    let case = Case::read(&scenarios().join("refusals/guest-locked.json"));
    let world = case.start(Server::Embedded).await;
    let before = listing(&world.root);
    let run = world.run(&format!("--json {CLASSIC}")).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(4), ""), "{run:?}");
    let event: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(event["event"], "move-failed");
    assert_eq!(event["exit_code"], 4);
    assert!(event.to_string().contains("guest-locked"), "{event}");
    world.is_untouched(&before, "--json");
}
