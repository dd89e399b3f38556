//! Deciding: what a move will do, and whether it may.
//!
//! Pure: values in, values out; no clock, no network, no async, no log. `facts` are what was observed, `check` judges
//! them, `translate` makes the target's configuration, `route` chooses engines and routes, `state` and `step` are the
//! ladder of a move. The plan that is shown is the plan that runs. Read next: `state.rs`.

pub mod abort;
pub mod aftermath;
pub mod back;
pub mod boot;
pub mod check;
pub mod claim;
pub mod cleanup;
pub mod decide;
pub mod evacuate;
pub mod facts;
pub mod ha;
pub mod mark;
pub mod order;
pub mod restore;
pub mod returning;
pub mod rights;
pub mod route;
#[cfg(test)]
pub(crate) mod sample;
pub mod show;
pub mod snapshots;
pub mod source;
pub mod state;
pub mod status;
pub mod step;
pub mod translate;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::StorageConfig;
use crate::plan::ha::HaWish;
use crate::plan::returning::OnFailure;
use crate::plan::snapshots::SnapshotsPlan;
use crate::pve::drive::DriveKey;
use crate::pve::guest::GuestRef;
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, Volid};
pub use back::Back;

use crate::transfer::{EngineKind, Format, Route, StreamFlags, Tool, Verify, Zvol};
use crate::units::{Bandwidth, Bytes};

/// What the operator wants, as far as decisions depend on it.
#[derive(Clone, Debug)]
pub struct MoveRequest {
    /// The cluster the guests are on.
    pub source: ClusterAlias,
    /// The cluster they go to.
    pub target: ClusterAlias,
    /// The node they go to.
    pub node: NodeName,
    /// The storage their volumes go to.
    pub storage: StorageId,
    /// The guests' names, in order.
    pub guests: Vec<String>,
    /// `--skip-disks`: everything but the volumes; implies `skip_start`.
    pub skip_disks: bool,
    /// `--skip-start`.
    pub skip_start: bool,
    /// `--wait-before-stop`.
    pub wait_before_stop: bool,
    /// `--ignore-exists`: a guest of that name on the target is no reason to refuse; allows moves inside one cluster.
    pub ignore_exists: bool,
    /// `--allow-plain`: what is encrypted on the source may lie on the target unencrypted.
    pub allow_plain: bool,
    /// `--with-snapshots`: the guest's own snapshots travel as well.
    pub with_snapshots: bool,
    /// `--forget`: nothing is left behind for a way back.
    pub forget: bool,
    /// `--target-vmid`.
    pub target_vmid: Option<Vmid>,
    /// `--map-bridge SOURCE=TARGET`.
    pub bridges: BTreeMap<String, String>,
    /// `--map-storage DRIVE=STORAGE`.
    pub storages: BTreeMap<DriveKey, StorageId>,
    /// `--max-downtime`: pre-copying goes on until the final delta is estimated to take less, while it pays.
    pub max_downtime: Option<Duration>,
    /// `--stop-timeout`: how long the guest may take to shut down before it is killed.
    pub stop_timeout: Duration,
    /// `--boot-check`: how long the guest may take on the target until it is up; `None` for no check.
    pub boot_check: Option<Duration>,
    /// `--on-failure`: what happens when it does not come up there.
    pub on_failure: OnFailure,
    /// `--ha`: what becomes of the guest's HA resource.
    pub ha: HaWish,
    /// `--route`; `None` is auto.
    pub route: Option<Route>,
    /// `--verify`.
    pub verify: Verify,
    /// `--bwlimit`.
    pub limit: Option<Bandwidth>,
    /// `--parallel`: drives copied at the same time.
    pub parallel: usize,
}

/// Everything that will be done to one guest.
#[derive(Clone, Debug)]
pub struct GuestPlan {
    /// Its name.
    pub name: String,
    /// The source cluster.
    pub source_cluster: ClusterAlias,
    /// Where it is.
    pub source: GuestRef,
    /// What of its configuration this follows from.
    pub planned: source::Planned,
    /// The target cluster.
    pub target_cluster: ClusterAlias,
    /// Where it goes.
    pub target: GuestRef,
    /// Whether it runs now, so that it will be started there.
    pub running: bool,
    /// The configuration the placeholder is created with, without `name`, `description`, drives with volumes, and the
    /// keys of `finish`.
    pub create: BTreeMap<String, String>,
    /// The keys set at the very end: `onboot`, `protection`, `startup` as the source has them, `boot`.
    pub finish: BTreeMap<String, String>,
    /// The description of the source, for the target.
    pub description: String,
    /// The source's `onboot`.
    pub onboot: bool,
    /// Whether the source's configuration has `onboot` at all.
    pub onboot_set: bool,
    /// The pool to join.
    pub pool: Option<PoolId>,
    /// What becomes of the guest's former self, when it goes back to it.
    pub back: Option<Back>,
    /// All drives, in the order of their keys.
    pub drives: Vec<DrivePlan>,
    /// The replication jobs that its source keeps, by their ids.
    pub replication: Vec<String>,
    /// What becomes of its snapshots.
    pub snapshots: SnapshotsPlan,
    /// What is changed in the configuration, and why; nothing is lost silently.
    pub changes: Vec<ConfigNote>,
    /// Why it may go, may go with a warning, or must not.
    pub verdicts: Vec<Verdict>,
}

/// What will be done about one drive.
#[derive(Clone, Debug)]
pub struct DrivePlan {
    /// The slot.
    pub key: DriveKey,
    /// What happens.
    pub action: DriveAction,
}

/// What happens to one drive.
#[derive(Clone, Debug)]
pub enum DriveAction {
    /// The volume is copied and attached.
    Copy(Box<VolumePlan>),
    /// A value is set on the target at attach time (an ejected CD-ROM, a cloud-init drive created anew).
    Set {
        /// The value, such as `none,media=cdrom` or `local:cloudinit`.
        value: String,
    },
    /// Nothing (with `--skip-disks`).
    Leave,
}

/// How one volume is copied.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    /// Which engine copies it.
    pub engine: EngineKind,
    /// How its stream is made, between ZFS and ZFS.
    pub stream: StreamFlags,
    /// The volume on the source cluster.
    pub source: Volid,
    /// Its storage's section.
    pub source_storage: StorageConfig,
    /// Its path on the source host.
    pub source_path: String,
    /// The volume of ZFS behind that path, where it is one.
    pub source_zvol: Option<Zvol>,
    /// Its format.
    pub source_format: Format,
    /// The volume on the target cluster; its name carries the new VMID.
    pub target: Volid,
    /// Its storage's section.
    pub target_storage: StorageConfig,
    /// Its path on the target host.
    pub target_path: String,
    /// The volume of ZFS behind that path, where it is one.
    pub target_zvol: Option<Zvol>,
    /// Its format.
    pub target_format: Format,
    /// The size the guest sees.
    pub size: Bytes,
    /// Bytes really occupied, when known; the estimate of what must be copied.
    pub used: Option<Bytes>,
    /// The guest's snapshots that its stream from ZFS to ZFS carries.
    pub snapshots: Vec<String>,
    /// Bytes that snapshots add to the copy, beside what is occupied now.
    pub history: Bytes,
    /// Whether the target volume was there before, and is overwritten with what differs.
    pub kept: bool,
    /// Bytes that changed since a snapshot that both sides have, when there is one.
    pub changed: Option<Bytes>,
    /// The drive's value on the target, with the volume and all translated properties.
    pub attach: String,
    /// How bytes travel, and why.
    pub route: Route,
    /// What runs on the hosts.
    pub tool: Tool,
    /// Why this route and tool, for the plan's reader.
    pub because: String,
}

/// What happens to one configuration key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigNote {
    /// The key.
    pub key: String,
    /// `dropped`, `changed`, `added`, `needs root`, `kept for later`.
    pub action: &'static str,
    /// Why, and what the operator can do.
    pub reason: String,
}

/// A judgement on one guest, or on the whole request (`guest` is `None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The guest.
    pub guest: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for tests and `--json`: `guest-locked`, `bridge-missing` ...
    pub code: &'static str,
    /// What was found.
    pub reason: String,
    /// What would turn it.
    pub remedy: String,
}

/// How bad a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The move can go on.
    Warn,
    /// The move must not start.
    Refuse,
}
