//! Accidents of hosts, with the real program and real files: full disks, images that vanish, disks that cannot be read,
//! bytes that change on the way and where they lie, networks that swallow packets, SSH servers that die.
//!
//! What is to be seen each time: the guest is as it was, or its state is said; the message names the place and the
//! remedy; and when the cause is gone, the same command finishes the move, with all that the guest had written. What
//! mounts or connects something does it in namespaces of its own (`support/alone.rs`).
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/alone.rs"]
mod alone;
#[path = "accidents/changed.rs"]
mod changed;
#[path = "accidents/full.rs"]
mod full;
#[path = "support/home.rs"]
mod home;
#[path = "accidents/network.rs"]
mod network;
#[path = "support/not_run.rs"]
mod not_run;
#[path = "accidents/reading.rs"]
mod reading;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "support/stage.rs"]
mod stage;
#[path = "accidents/stock.rs"]
mod stock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proxmove::sim::stage::Stage;
use serde_json::Value;

use stage::{Ended, Running, clusters, disk, guest, moved, proved, run};

/// Starts one running guest with a raw disk of that size, so much of which is filled.
async fn with_vm0(size: u64, filled: f64) -> Stage {
    let disks = vec![disk("scsi0", "raw", size)];
    let specs = vec![guest(600, "vm0", disks, 64 * 1024)];
    stage::start(clusters(specs), |settings| settings.filled = filled).await
}

/// Returns what a failed move said: the error's lines, the state, and what to type next.
#[track_caller]
fn said(ended: &Ended) -> (String, String, String) {
    let failed = ended.told("move-failed");
    let failed = failed
        .first()
        .unwrap_or_else(|| panic!("nothing failed: {}{}", ended.stdout, ended.stderr));
    let lines: Vec<&str> = failed["error"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let text = |key: &str| failed[key].as_str().unwrap().to_owned();
    let (error, state, next) = (lines.join("\n"), text("state"), text("next"));
    eprintln!("error: {error}\nstate: {state}\nnext:  {next}");
    (error, state, next)
}

/// Runs the same command again, which must finish the move; returns the target's VMID.
#[track_caller]
fn finishes(stage: &Stage, words: &[&str], vmid: u32) -> u32 {
    run(stage, words).expect(0);
    let name = *words.last().unwrap();
    let target = moved(stage, ("apple", vmid), "banana", name);
    proved(stage, ("apple", vmid), ("banana", target));
    target
}

/// Waits until the porter that receives, or that sends, is at work for a while.
fn await_porter(stage: &Stage, running: &mut Running, verb: &str, then: Duration) {
    loop {
        assert!(!running.is_over(), "it was over before its porter was seen");
        let works = stage::processes(stage).into_iter().any(|(_, line)| {
            let words: Vec<&str> = line.split(' ').take(3).collect();
            words[0].contains("proxmove-porter-") && words[1..] == ["porter", verb]
        });
        if works {
            std::thread::sleep(then);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the directory of the target storage on its host.
fn target_storage(stage: &Stage) -> PathBuf {
    let directory = &stage.simulation.directory;
    directory.join("banana/node2/srv/local-ssd")
}

/// Returns the only image of a guest in a storage's `images`.
#[track_caller]
fn image(images: &Path, vmid: u32) -> PathBuf {
    let found = std::fs::read_dir(images.join(vmid.to_string())).unwrap();
    let found: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Returns the image of a guest on `apple`.
fn source_image(stage: &Stage, vmid: u32) -> PathBuf {
    let directory = &stage.simulation.directory;
    image(&directory.join("apple/node1/var/lib/vz/images"), vmid)
}
