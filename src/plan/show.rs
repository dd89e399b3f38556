//! Showing: what `--dry-run` prints, for people and as JSON.
//!
//! Pure: from a decision to a text or a value; printing is `report`'s. It shows the very plan that would be carried
//! out, and decides nothing. Estimates stand on assumptions, which are shown beside them. Read next: `show/text.rs`.

mod text;

pub use text::text;

use std::time::Duration;

use serde::Serialize;

use crate::plan::check::{Group, grouped};
use crate::plan::decide::Decision;
use crate::plan::snapshots::SnapshotsPlan;
use crate::plan::{DriveAction, GuestPlan, MoveRequest, Severity, VolumePlan, route};
use crate::transfer::{EngineKind, Route, StreamFlags, Tool, Verify};
use crate::units::{Bandwidth, Bytes};

/// What estimates stand on: nothing has been measured yet when a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumptions {
    /// The rate of the way between the hosts: what a gigabit link gives, or `--bwlimit` when that is lower.
    pub wire: Bandwidth,
    /// The rate at which a disk is read and compared.
    pub disk: Bandwidth,
    /// Percent of the data that changes between the last pre-copy and the stop.
    pub dirty_percent: u64,
    /// How long a guest takes to shut down.
    pub shutdown: Duration,
}

impl Assumptions {
    /// Returns the assumptions for a request.
    pub fn for_request(request: &MoveRequest) -> Assumptions {
        let link = Bandwidth::bytes_per_second(110 << 20);
        Assumptions {
            wire: request.limit.map_or(link, |limit| limit.min(link)),
            disk: Bandwidth::bytes_per_second(500 << 20),
            dirty_percent: 1,
            shutdown: Duration::from_secs(20),
        }
    }
}

/// A plan in the shape that is shown; the JSON form of a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shown {
    /// The source cluster.
    pub source: String,
    /// The target cluster.
    pub target: String,
    /// The target node.
    pub node: String,
    /// The target storage.
    pub storage: String,
    /// Whether anything forbids to start.
    pub refused: bool,
    /// Each guest.
    pub guests: Vec<ShownGuest>,
    /// All verdicts, grouped, refusals first.
    pub verdicts: Vec<ShownVerdict>,
    /// What the estimates assume.
    pub assumptions: String,
}

/// One guest of a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShownGuest {
    /// Its name.
    pub name: String,
    /// `apple/565 on node1`.
    pub from: String,
    /// `banana/126 on node2`.
    pub to: String,
    /// Whether it runs now.
    pub running: bool,
    /// Whether it will be started on the target.
    pub start: bool,
    /// The pool it joins.
    pub pool: Option<String>,
    /// Each drive.
    pub drives: Vec<ShownDrive>,
    /// Its snapshots, where they were to travel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<ShownSnapshot>,
    /// What is different in the configuration.
    pub changes: Vec<ShownChange>,
    /// Bytes to copy, as far as known.
    pub bytes: u64,
    /// Estimated seconds of copying.
    pub copy_seconds: u64,
    /// Estimated seconds of downtime; `None` for a guest that does not run.
    pub downtime_seconds: Option<u64>,
}

/// One drive of a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum ShownDrive {
    /// It is copied.
    #[serde(rename_all = "kebab-case")]
    Copy {
        /// The slot.
        drive: String,
        /// The source volume.
        source: String,
        /// Its format.
        source_format: &'static str,
        /// The target volume.
        target: String,
        /// Its format.
        target_format: &'static str,
        /// The size the guest sees.
        size: u64,
        /// Bytes occupied, when known.
        used: Option<u64>,
        /// What is of ZFS about it, on either side.
        #[serde(skip_serializing_if = "Option::is_none")]
        zfs: Option<Box<ShownZfs>>,
        /// The engine.
        engine: &'static str,
        /// The route.
        route: &'static str,
        /// The tool.
        tool: &'static str,
        /// Why this route and tool.
        because: String,
        /// The drive's value on the target.
        attach: String,
    },
    /// It gets a value.
    Set {
        /// The slot.
        drive: String,
        /// The value.
        value: String,
    },
    /// It is left behind.
    Leave {
        /// The slot.
        drive: String,
    },
}

/// One snapshot of a guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShownSnapshot {
    /// Its name.
    pub name: String,
    /// Whether it travels.
    pub travels: bool,
    /// Bytes it adds to the copy, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether its memory stays behind.
    pub without_memory: bool,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What is of ZFS about a copy. What does not apply is left out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShownZfs {
    /// The zvol that is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The zvol that is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether the target takes only the space it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<bool>,
    /// The flags of the stream from ZFS to ZFS: `-c -L -e`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// One change of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ShownChange {
    /// The key.
    pub key: String,
    /// What happens to it.
    pub action: &'static str,
    /// Why.
    pub reason: String,
}

/// One verdict with everybody it is about.
#[derive(Clone, Debug, Serialize)]
pub struct ShownVerdict {
    /// `refuse` or `warn`.
    pub severity: &'static str,
    /// Its code.
    pub code: &'static str,
    /// The guests; empty for the whole request.
    pub guests: Vec<String>,
    /// What was found.
    pub reason: String,
    /// What would turn it.
    pub remedy: String,
}

/// Returns a decision in the shape that is shown.
pub fn shown(request: &MoveRequest, decision: &Decision) -> Shown {
    let assumptions = Assumptions::for_request(request);
    let verdicts = grouped(decision.all_verdicts());
    Shown {
        source: request.source.to_string(),
        target: request.target.to_string(),
        node: request.node.to_string(),
        storage: request.storage.to_string(),
        refused: decision.refused(),
        guests: decision
            .plans
            .iter()
            .map(|plan| shown_guest(request, plan, &assumptions))
            .collect(),
        verdicts: verdicts.iter().map(shown_verdict).collect(),
        assumptions: assumed(request, decision, &assumptions),
    }
}

/// Says what the estimates stand on, as far as it matters for these guests.
fn assumed(request: &MoveRequest, decision: &Decision, assumptions: &Assumptions) -> String {
    let plans = &decision.plans;
    let none_read = plans.iter().all(|plan| sum(plan, read_after_stop) == 0);
    let only_streams = none_read && plans.iter().any(|plan| sum(plan, expected) > 0);
    let disk = if only_streams {
        String::new()
    } else {
        let sides = match request.verify {
            Verify::Full => "on both sides",
            Verify::Transfer => "once",
        };
        format!(
            "{} from disk and all of it read {sides} after the stop, ",
            assumptions.disk
        )
    };
    format!(
        "{} between the hosts, {disk}{} % changed between the last pre-copy and the stop, {} to shut down",
        assumptions.wire,
        assumptions.dirty_percent,
        text::time(assumptions.shutdown.as_secs())
    )
}

fn shown_verdict(group: &Group<'_>) -> ShownVerdict {
    ShownVerdict {
        severity: match group.severity {
            Severity::Refuse => "refuse",
            Severity::Warn => "warn",
        },
        code: group.code,
        guests: group.guests.iter().map(|name| (*name).to_owned()).collect(),
        reason: group.reason.to_owned(),
        remedy: group.remedy.to_owned(),
    }
}

fn shown_guest(request: &MoveRequest, plan: &GuestPlan, assumptions: &Assumptions) -> ShownGuest {
    let bytes = sum(plan, expected);
    let read = sum(plan, read_after_stop);
    let copy = assumptions.wire.time_for(Bytes(bytes));
    // The final pass reads every source image once, and with --verify full every target image as well.
    let passes = match request.verify {
        Verify::Full => 2,
        Verify::Transfer => 1,
    };
    let dirty = Bytes(bytes / 100 * assumptions.dirty_percent);
    let downtime = [
        assumptions.shutdown,
        assumptions
            .disk
            .time_for(Bytes(read))
            .saturating_mul(passes),
        assumptions.wire.time_for(dirty),
    ]
    .into_iter()
    .fold(Duration::ZERO, Duration::saturating_add);
    let (source, target) = (&plan.source, &plan.target);
    ShownGuest {
        name: plan.name.clone(),
        from: format!("{}/{} on {}", plan.source_cluster, source.vmid, source.node),
        to: format!("{}/{} on {}", plan.target_cluster, target.vmid, target.node),
        running: plan.running,
        start: plan.running && !request.skip_start && !request.skip_disks,
        pool: plan.pool.as_ref().map(ToString::to_string),
        drives: plan
            .drives
            .iter()
            .map(|drive| shown_drive(&drive.key.to_string(), &drive.action))
            .collect(),
        snapshots: shown_snapshots(&plan.snapshots),
        changes: plan
            .changes
            .iter()
            .map(|note| ShownChange {
                key: note.key.clone(),
                action: note.action,
                reason: note.reason.clone(),
            })
            .collect(),
        bytes,
        copy_seconds: seconds(copy),
        downtime_seconds: plan.running.then(|| seconds(downtime)),
    }
}

/// Returns a sum over all volumes that are copied.
fn sum(plan: &GuestPlan, bytes: fn(&VolumePlan) -> Bytes) -> u64 {
    plan.drives.iter().fold(0_u64, |sum, drive| {
        sum.saturating_add(match &drive.action {
            DriveAction::Copy(volume) => bytes(volume).0,
            DriveAction::Set { .. } | DriveAction::Leave => 0,
        })
    })
}

/// Returns the bytes a volume's copy is expected to carry: what is occupied, but no more than its size, and what its
/// snapshots add.
fn expected(volume: &VolumePlan) -> Bytes {
    let used = volume.changed.or(volume.used);
    let now = used.map_or(volume.size, |used| used.min(volume.size));
    Bytes(now.0.saturating_add(volume.history.0))
}

/// Returns the bytes of a volume that are read after the stop: all of an image, none of a stream beside its delta.
fn read_after_stop(volume: &VolumePlan) -> Bytes {
    match volume.engine {
        EngineKind::Image => expected(volume),
        EngineKind::Zfs => Bytes::ZERO,
    }
}

fn shown_snapshots(plan: &SnapshotsPlan) -> Vec<ShownSnapshot> {
    let travelling = plan.travelling.iter().map(|snapshot| ShownSnapshot {
        name: snapshot.name.clone(),
        travels: true,
        bytes: snapshot.bytes.map(|bytes| bytes.0),
        without_memory: snapshot.without_memory,
        because: None,
    });
    let staying = plan.staying.iter().map(|(name, why)| ShownSnapshot {
        name: name.clone(),
        travels: false,
        bytes: None,
        without_memory: false,
        because: Some(why.clone()),
    });
    travelling.chain(staying).collect()
}

fn shown_zfs(volume: &VolumePlan) -> Option<ShownZfs> {
    let (source, target) = (volume.source_zvol.as_ref(), volume.target_zvol.as_ref());
    (source.is_some() || target.is_some()).then(|| ShownZfs {
        source: source.map(|zvol| zvol.dataset.clone()),
        target: target.map(|zvol| zvol.dataset.clone()),
        sparse: target.map(|zvol| zvol.sparse),
        stream: match volume.engine {
            EngineKind::Image => None,
            EngineKind::Zfs => Some(flags(volume.stream)),
        },
    })
}

/// Returns the flags of `zfs send`.
fn flags(stream: StreamFlags) -> String {
    let all = [
        (stream.compressed, "-c"),
        (stream.large_blocks, "-L"),
        (stream.embedded, "-e"),
        (stream.raw, "-w"),
    ];
    let set: Vec<&str> = all
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .collect();
    set.join(" ")
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn shown_drive(key: &str, action: &DriveAction) -> ShownDrive {
    let drive = key.to_owned();
    match action {
        DriveAction::Copy(volume) => ShownDrive::Copy {
            drive,
            source: volume.source.to_string(),
            source_format: route::extension(volume.source_format),
            target: volume.target.to_string(),
            target_format: route::extension(volume.target_format),
            size: volume.size.0,
            used: volume.used.map(|used| used.0),
            zfs: shown_zfs(volume).map(Box::new),
            engine: match volume.engine {
                EngineKind::Image => "image",
                EngineKind::Zfs => "zfs",
            },
            route: match volume.route {
                Route::Direct => "direct",
                Route::Relay => "relay",
            },
            tool: match volume.tool {
                Tool::Porter => "porter",
                Tool::Stock => "stock",
            },
            because: volume.because.clone(),
            attach: volume.attach.clone(),
        },
        DriveAction::Set { value } => ShownDrive::Set {
            drive,
            value: value.clone(),
        },
        DriveAction::Leave => ShownDrive::Leave { drive },
    }
}

#[cfg(test)]
mod tests;
