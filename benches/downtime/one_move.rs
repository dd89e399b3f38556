//! One move by the real program, and what it told about itself.
//!
//! Every figure comes from the program's own events (`--json`), the dirty bytes and the comparison of both images apart.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proxmove::sim::guest::{Format, Image, fill};
use proxmove::sim::host::Server;
use proxmove::sim::stage::{Stage, StageSettings};
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::{ClusterSpec, DiskSpec, GuestSpec, Pace, Scenario};
use serde_json::Value;
use tokio::process::Command;

use crate::Failure;
use crate::dirty::{self, Pattern};
use crate::watch::{Peaks, Watch};

/// Longer than any of these moves takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// A move to measure.
pub(crate) struct Order {
    pub(crate) size: u64,
    pub(crate) format: Format,
    pub(crate) server: Server,
    pub(crate) route: &'static str,
    /// For `--bwlimit`, in Mbit/s.
    pub(crate) limit: Option<u64>,
    /// What is written after the last pre-copy, as a share of the disk.
    pub(crate) dirty: Option<(Pattern, f64)>,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) full_seconds: f64,
    /// Of the last pre-copy after the first; 0 when there was none.
    pub(crate) rescan_seconds: f64,
    pub(crate) final_seconds: f64,
    pub(crate) final_carried: u64,
    pub(crate) final_wire: u64,
    pub(crate) downtime_seconds: f64,
    pub(crate) dirty: u64,
    pub(crate) peaks: Peaks,
}

/// Moves a guest and compares both images.
pub(crate) async fn measure(order: &Order, seed: u64) -> Result<Figures, Failure> {
    let stage = Stage::start(settings(order, seed)).await?;
    let image = Image {
        drive: String::from("virtio0"),
        path: only_image(&stage, "apple")?,
        format: order.format,
        size: order.size,
    };
    fill(&image, 1.0, seed)?;
    let dirtied = Arc::new(Mutex::new(None));
    if let Some((pattern, share)) = order.dirty {
        let (image, dirtied) = (image.clone(), Arc::clone(&dirtied));
        let write = move || {
            let written = dirty::write(&image, pattern, share, seed ^ 0xd1);
            *dirtied.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        };
        let before = FaultKind::Before(Arc::new(write));
        let fault = Fault::first("POST", "/nodes/*/qemu/*/status/shutdown", before);
        stage.simulation.faults().add(fault);
    }
    let (events, peaks) = run(order, &stage).await?;
    let mut figures = read(&events)?;
    figures.peaks = peaks;
    let written = dirtied
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    figures.dirty = match (order.dirty, written) {
        (None, None) => 0,
        (Some(_), Some(written)) => written?,
        _ => return Err("the guest was not shut down".into()),
    };
    if !same(&image.path, &only_image(&stage, "banana")?)? {
        return Err("the copy differs from its source".into());
    }
    for (_, host) in stage.hosts {
        host.stop().await;
    }
    Ok(figures)
}

fn settings(order: &Order, seed: u64) -> StageSettings {
    let guest = GuestSpec {
        vmid: 565,
        running: true,
        disks: vec![DiskSpec {
            key: "virtio0".to_owned(),
            format: match order.format {
                Format::Raw => "raw".to_owned(),
                Format::Qcow2 => "qcow2".to_owned(),
            },
            size: order.size,
            ..DiskSpec::default()
        }],
        shutdown: 1_000,
        ..GuestSpec::default()
    };
    let apple = ClusterSpec {
        guests: vec![guest],
        ..ClusterSpec::default()
    };
    let banana = ClusterSpec {
        alias: "banana".to_owned(),
        ..ClusterSpec::default()
    };
    StageSettings {
        scenario: Scenario {
            clusters: vec![apple, banana],
            pace: Pace::default(),
        },
        server: order.server.clone(),
        seed,
        hot_bytes: None,
        filled: 0.0,
    }
}

/// Runs the program to its end; returns its events.
async fn run(order: &Order, stage: &Stage) -> Result<(Vec<Value>, Peaks), Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxmove"));
    command
        .args(["apple", "banana", "node1", "local", "web1"])
        .args(["--yes", "--json", "--route", order.route])
        .env_clear()
        .env("HOME", &stage.home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(limit) = order.limit {
        command.arg(format!("--bwlimit={limit}"));
    }
    let child = command.spawn()?;
    let directory = stage.home.parent().unwrap_or(&stage.home).to_owned();
    let watch = Watch::start(child.id().unwrap_or_default(), directory);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let peaks = watch.stop();
    let output = output??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        return Err(format!("the move failed with {}:\n{told}{said}", output.status).into());
    }
    let mut events = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        if !line.is_empty() {
            events.push(serde_json::from_slice(line)?);
        }
    }
    Ok((events, peaks))
}

fn read(events: &[Value]) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let bytes = |event: &Value, key: &str| event[key].as_u64().unwrap_or(0);
    for event in events {
        let seconds = event["seconds"].as_f64().unwrap_or(0.0);
        match (event["event"].as_str(), event["pass"].as_str()) {
            (Some("pass-done"), Some("precopy")) if bytes(event, "round") == 1 => {
                figures.full_seconds = seconds;
            }
            (Some("pass-done"), Some("precopy")) => figures.rescan_seconds = seconds,
            (Some("pass-done"), Some("final")) => {
                figures.final_seconds = seconds;
                figures.final_carried = bytes(event, "carried");
                figures.final_wire = bytes(event, "wire");
            }
            (Some("move-done"), _) => {
                let downtime = event["downtime_seconds"].as_f64();
                figures.downtime_seconds = downtime.ok_or("the summary tells no downtime")?;
            }
            (Some("warning"), _) => return Err(format!("unexpected: {}", event["text"]).into()),
            _ => {}
        }
    }
    if figures.full_seconds == 0.0 || figures.final_seconds == 0.0 {
        return Err("the events tell of no full copy or of no final pass".into());
    }
    Ok(figures)
}

/// Returns the one disk image that a cluster has.
fn only_image(stage: &Stage, cluster: &str) -> Result<PathBuf, Failure> {
    let cluster = stage.simulation.cluster(cluster).ok_or("no such cluster")?;
    let mut found = Vec::new();
    for node in &cluster.nodes {
        let images = node.root.join("var/lib/vz/images");
        for guest in std::fs::read_dir(images)?.flatten() {
            for image in std::fs::read_dir(guest.path())?.flatten() {
                found.push(image.path());
            }
        }
    }
    match found.as_slice() {
        [image] => Ok(image.clone()),
        several => Err(format!("one image was expected, not {several:?}").into()),
    }
}

fn same(first: &Path, second: &Path) -> Result<bool, Failure> {
    let (mut first, mut second) = (File::open(first)?, File::open(second)?);
    let mut buffers = (vec![0; 1 << 20], vec![0; 1 << 20]);
    if first.metadata()?.len() != second.metadata()?.len() {
        return Ok(false);
    }
    loop {
        let count = first.read(&mut buffers.0)?;
        if count == 0 {
            return Ok(true);
        }
        second.read_exact(&mut buffers.1[..count])?;
        if buffers.0[..count] != buffers.1[..count] {
            return Ok(false);
        }
    }
}
