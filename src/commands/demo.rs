//! `proxmove demo` and `proxmove sim`: the real program against simulated clusters.
//!
//! Read next: `sim/stage.rs`.

use std::collections::BTreeMap;

use super::{Process, Wiring, audience, print};
use crate::cli::{Common, Conduct, MoveCommand};
use crate::config;
use crate::error::{ExitCode, Failure};
use crate::host::ssh::SshEnvironment;
use crate::moves::interrupt::Interrupt;
use crate::plan::MoveRequest;
use crate::pve::id::InvalidId;
use crate::report::Event;
use crate::report::choose;
use crate::sim::host::Server;
use crate::sim::stage::{Stage, StageSettings};
use crate::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, NodeSpec, Pace, Scenario, StorageSpec,
};

/// The demo's guest on the source cluster.
const GUEST: (&str, u32) = ("apple", 565);

/// Moves a running guest with two disks from one simulated cluster to another, and leaves nothing behind.
pub(super) async fn run(process: &Process, common: &Common) -> Result<ExitCode, Failure> {
    let stage = Stage::start(settings())
        .await
        .map_err(|error| broken(&error))?;
    let ssh = SshEnvironment::below(&stage.home, process.ssh.user.clone());
    let process = Process {
        ssh,
        ..process.clone()
    };
    let common = Common {
        config: Some(stage.proxmoverc()),
        ..common.clone()
    };
    let (reporter, _) = choose(&audience(&process, &common, true));
    reporter.tell(&Event::Notice {
        guest: None,
        text: "two simulated clusters are up: apple with the running guest web1, and banana"
            .to_owned(),
    });
    let config = config::load(&stage.proxmoverc()).map_err(|error| Failure::config(&error))?;
    // Ctrl-C ends the demo's move as it would a real one; the stage is removed in any case.
    let interrupt = Interrupt::listen(|_| {}).map_err(|error| broken(&error))?;
    let request = request().map_err(|error| broken(&error))?;
    let command = MoveCommand {
        request,
        dry_run: false,
        conduct: Conduct::unasked(common),
    };
    let clusters = (&command.request.source, &command.request.target);
    let mover = Wiring::new(
        &process,
        clusters,
        &command.conduct,
        config,
        Some(interrupt),
    )?;
    let exit = mover.run(&command).await?;
    if exit == ExitCode::Done {
        let verdict = prove(&stage)?;
        reporter.tell(&Event::Notice {
            guest: Some("web1".to_owned()),
            text: verdict,
        });
    }
    for (_, host) in stage.hosts {
        host.stop().await;
    }
    Ok(exit)
}

/// Keeps simulated clusters running until the operator ends them, and prints how to play with them.
pub(super) async fn keep(process: &Process) -> Result<ExitCode, Failure> {
    let stage = Stage::start(settings())
        .await
        .map_err(|error| broken(&error))?;
    let config = stage.proxmoverc();
    let text = std::fs::read_to_string(&config).map_err(|error| broken(&error))?;
    print(&format!(
        "; {}\n{text}\n; try, in another terminal:\n;   HOME={} {} apple banana node2 local-ssd web1\n; Ctrl-C ends the simulation and removes everything.\n",
        config.display(),
        stage.home.display(),
        process.executable.display(),
    ))?;
    let interrupt = Interrupt::listen(|_| {}).map_err(|error| broken(&error))?;
    interrupt.asked().await;
    for (_, host) in stage.hosts {
        host.stop().await;
    }
    Ok(ExitCode::Done)
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ExitCode::Bug, error).context("the simulation does not start")
}

/// Says what of the source's writes is on the target, read from the target's images.
fn prove(stage: &Stage) -> Result<String, Failure> {
    let vmid = stage.vmid("banana", "web1").ok_or_else(|| {
        Failure::message(
            ExitCode::Bug,
            "the demo's guest is not on the target cluster",
        )
    })?;
    let verdict = stage
        .check(GUEST, ("banana", vmid))
        .map_err(|error| broken(&error))?;
    if verdict.is_complete() {
        Ok(format!(
            "proved: all {} records the guest had written before its stop are on the target, none is torn",
            verdict.expected
        ))
    } else {
        Err(Failure::message(
            ExitCode::Bug,
            format!("the target lacks writes of the source: {verdict:?}"),
        ))
    }
}

fn request() -> Result<MoveRequest, InvalidId> {
    Ok(MoveRequest {
        source: GUEST.0.parse()?,
        target: "banana".parse()?,
        node: "node2".parse()?,
        storage: "local-ssd".parse()?,
        guests: vec!["web1".to_owned()],
        skip_disks: false,
        skip_start: false,
        wait_before_stop: false,
        ignore_exists: false,
        allow_plain: false,
        with_snapshots: false,
        forget: false,
        target_vmid: None,
        bridges: BTreeMap::new(),
        storages: BTreeMap::new(),
        max_downtime: None,
        stop_timeout: std::time::Duration::from_secs(60),
        boot_check: None,
        on_failure: crate::plan::returning::OnFailure::Keep,
        ha: crate::plan::ha::HaWish::Refuse,
        route: None,
        verify: crate::transfer::Verify::Full,
        limit: None,
        parallel: 2,
    })
}

fn settings() -> StageSettings {
    let disk = |key: &str, format: &str, mebibytes: u64| DiskSpec {
        key: key.to_owned(),
        format: format.to_owned(),
        size: mebibytes << 20,
        ..DiskSpec::default()
    };
    let web1 = GuestSpec {
        vmid: GUEST.1,
        name: "web1".to_owned(),
        config: BTreeMap::from(
            [
                ("cores", "2"),
                ("memory", "2048"),
                ("ostype", "l26"),
                ("scsihw", "virtio-scsi-single"),
                ("net0", "virtio=BC:24:11:00:00:65,bridge=vmbr0"),
                ("ide2", "none,media=cdrom"),
                ("boot", "order=virtio0;ide2"),
                ("onboot", "1"),
                ("description", "the web server of the demo"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
        running: true,
        disks: vec![disk("virtio0", "qcow2", 512), disk("virtio1", "raw", 1024)],
        write_rate: 4 << 20,
        shutdown: 1_500,
        ..GuestSpec::default()
    };
    let node = |name: &str| NodeSpec {
        name: name.to_owned(),
        ..NodeSpec::default()
    };
    let apple = ClusterSpec {
        alias: "apple".to_owned(),
        guests: vec![web1],
        ..ClusterSpec::default()
    };
    let local_ssd = StorageSpec {
        id: "local-ssd".to_owned(),
        path: "/srv/local-ssd".to_owned(),
        content: "images".to_owned(),
        ..StorageSpec::default()
    };
    let banana = ClusterSpec {
        alias: "banana".to_owned(),
        version: "9.1.2".to_owned(),
        nodes: vec![node("node1"), node("node2")],
        storages: vec![StorageSpec::default(), local_ssd],
        ..ClusterSpec::default()
    };
    StageSettings {
        scenario: Scenario {
            clusters: vec![apple, banana],
            pace: Pace::default(),
        },
        server: Server::Embedded,
        seed: 565,
        hot_bytes: Some(64 << 20),
        filled: 0.5,
    }
}
