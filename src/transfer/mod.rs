//! Acting on one volume: the trait [`Engine`], and what a pass is.
//!
//! An engine knows a pair of volumes and two hosts; it never talks to the API and never decides about the guest.
//! Read next: `engines.rs` (who copies what), `image.rs` (files and block devices), `device.rs` (zvols), `zfs/mod.rs`
//! (snapshots), `carry.rs` (how bytes get from host to host).

pub mod carry;
pub mod compare;
mod device;
pub mod engines;
pub mod image;
pub mod leftovers;
mod lines;
mod porters;
pub mod probe;
mod stock;
mod upload;
pub mod zfs;
mod zvol;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use upload::OPERATION as UPLOAD;

use async_trait::async_trait;

use crate::config::SshAddress;
use crate::host::{Shell, ShellError};
use crate::pve::drive::DriveKey;
use crate::units::{Bandwidth, Bytes};

/// The disk formats proxmove reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// The guest's bytes as they are, in a file or on a block device.
    Raw,
    /// QEMU's own format, version 2 or 3.
    Qcow2,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// The source host connects to the target host.
    Direct,
    /// Through the operator's machine.
    Relay,
}

/// What runs on the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// Proxmove's own executable, uploaded for the move.
    Porter,
    /// dd and sha256sum over ssh, where the porter cannot run.
    Stock,
}

/// How much is verified after the final pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// What is on the target's disk is read back, past its caches, and compared with the source (default).
    #[default]
    Full,
    /// Every chunk is checked when it arrives; the target's disk is trusted to keep it.
    Transfer,
}

/// Which engine copies a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineKind {
    /// Files and block devices, compared and copied by what is in them ([`image`]).
    Image,
    /// ZFS to ZFS, by snapshots and their differences.
    Zfs,
}

/// A volume of ZFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zvol {
    /// `pool/dataset/vm-100-disk-0`.
    pub dataset: String,
    /// Whether it takes only the space it uses (the storage's `sparse`); otherwise its size is reserved.
    pub sparse: bool,
    /// The block size a new one is created with (the storage's `blocksize`); `None` for the default of ZFS. A received
    /// one keeps that of its source.
    pub block_size: Option<Bytes>,
}

/// How a stream of ZFS is made: what both pools support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFlags {
    /// `-c`: blocks travel as they are compressed on the source.
    pub compressed: bool,
    /// `-L`: blocks above 128 KiB stay as large as they are.
    pub large_blocks: bool,
    /// `-e`: tiny blocks travel inside the records about them.
    pub embedded: bool,
    /// `-w`: encrypted blocks travel as they are, and so do not need the key.
    pub raw: bool,
}

/// One end of a pair of volumes.
#[derive(Clone)]
pub struct End {
    /// The machine that has the volume.
    pub shell: Arc<dyn Shell>,
    /// How another storage host reaches this machine (`peer=`, else `ssh=`), for the direct route.
    pub peer: SshAddress,
    /// The file or device.
    pub path: String,
    /// The volume of ZFS behind `path`, where it is one.
    pub zvol: Option<Zvol>,
    /// Its format.
    pub format: Format,
    /// A directory for proxmove's own files on that machine.
    pub temp: String,
}

/// One volume of a guest and the place it goes to.
#[derive(Clone)]
pub struct Pair {
    /// The drive, for messages.
    pub drive: DriveKey,
    /// Which engine copies it.
    pub engine: EngineKind,
    /// How its stream is made, between ZFS and ZFS.
    pub stream: StreamFlags,
    /// Where the bytes are.
    pub source: End,
    /// Where they go. The file or zvol does not exist before the first pass.
    pub target: End,
    /// The size the guest sees.
    pub size: Bytes,
    /// Names this pair of this move in all files of ours: `[a-z0-9-]+`, the same at each run.
    pub name: String,
    /// How bytes travel.
    pub route: Route,
    /// What runs on the hosts.
    pub tool: Tool,
    /// Limit for this pair.
    pub limit: Option<Bandwidth>,
    /// Whether the mark of an interrupted move names the target volume. Then a pass takes it for ours although nothing
    /// of ours lies beside it any more, and believes nothing about its content; it must be a plain file or a zvol. Between
    /// ZFS and ZFS it must have a snapshot in common with its source, and nothing newer.
    pub adopt: bool,
    /// The names of the guest's own snapshots that travel with this volume; only between ZFS and ZFS. A file that keeps
    /// its format has its snapshots inside.
    pub snapshots: Vec<String>,
    /// Whether the target volume was there, complete, before this move began: the former source, on a way back. It is
    /// adopted as well, what it holds already is not carried, and it is never removed.
    pub kept: bool,
    /// Whether nothing is left behind for a way back (`--forget`).
    pub forget: bool,
}

/// What can be said of a volume that an earlier move left as its source, before anything is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Both sides have this snapshot, and nothing was written to the volume since.
    Base {
        /// Its name.
        snapshot: String,
        /// What was written to the other side since.
        changed: Bytes,
    },
    /// It is a file.
    File {
        /// When it was last written to, in seconds since 1970 by its host's clock.
        written: i64,
        /// What that clock says now.
        now: i64,
    },
    /// It is there, and nothing tells whether it was written to.
    Untold,
    /// It is not there.
    Missing,
    /// It cannot be written on.
    Unfit {
        /// What speaks against it.
        evidence: String,
    },
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The guest may be running: copy what differs from what the target has, seal nothing.
    Precopy,
    /// The guest is stopped: afterwards the target equals the source, and this was checked; leaves a seal.
    Final(Verify),
}

/// What the target holds of one pair, found on the hosts alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// No target volume.
    Absent,
    /// A target volume of ours, with that many bytes known to be in place.
    Partial {
        /// Bytes with a known content.
        in_place: Bytes,
    },
    /// A final pass completed once; the source was written to since: the size or times of a file are not the seal's,
    /// or ZFS counts something that was written to a zvol since its snapshot.
    SourceNewer,
    /// A final pass completed once; the source was not written to since, the target was.
    TargetNewer,
    /// A final pass completed, and neither side has been written to since.
    Synced {
        /// BLAKE3 over the content, in hexadecimal; between ZFS and ZFS `zfs guid 1234`, the final snapshot of both.
        digest: String,
    },
    /// A file or zvol is in the target's place that is not ours.
    Foreign,
}

/// A moment of a running pass, for the eyes only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the source looked at so far.
    pub scanned: Bytes,
    /// Bytes to look at.
    pub total: Bytes,
    /// Content bytes that differed and were carried.
    pub carried: Bytes,
    /// Bytes on the wire.
    pub wire: Bytes,
}

/// What a running pass tells, for the eyes only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// How far it is.
    Progress(Progress),
    /// What was decided that is not the usual course, and why: a text for people, without the drive.
    Decision(String),
}

/// Who is told.
pub type Tell<'a> = &'a (dyn Fn(News) + Send + Sync);

/// What a finished pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Totals.
    pub progress: Progress,
    /// How long it took.
    pub duration: Duration,
    /// BLAKE3 over the content, in hexadecimal, or `zfs guid 1234`; only of a final pass.
    pub digest: Option<String>,
    /// Bytes on the target's disk that were not what had been written there, and were replaced. More than none means
    /// that the target's storage does not keep what it is given.
    pub repaired: Bytes,
    /// The first offset of what was replaced.
    pub repaired_at: Option<u64>,
}

/// What went wrong with a volume. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A host did not do what it was asked.
    #[error("{operation} of {drive} failed")]
    Host {
        /// What was being done: "pre-copy", "final delta", "upload of the porter".
        operation: &'static str,
        /// The drive.
        drive: DriveKey,
        /// Why.
        #[source]
        source: ShellError,
    },
    /// The half of proxmove on a host reported an error.
    #[error("{operation} of {drive} failed on {address}: {reason}")]
    Porter {
        /// What was being done.
        operation: &'static str,
        /// The drive.
        drive: DriveKey,
        /// The host.
        address: String,
        /// Its words.
        reason: String,
    },
    /// The copy is not equal to the source.
    #[error("{drive} differs from its source at offset {offset}")]
    Differs {
        /// The drive.
        drive: DriveKey,
        /// First offset that differs.
        offset: u64,
    },
    /// The source host cannot connect to the target host; nothing was carried, another route may work.
    #[error("no direct way from {source_address} to {target_address} for {drive}: {reason}")]
    DirectRoute {
        /// The drive.
        drive: DriveKey,
        /// The source host.
        source_address: String,
        /// The target host.
        target_address: String,
        /// What ssh said there.
        reason: String,
    },
    /// Something that is not ours is in the way.
    #[error("{path} on {address} exists and is not proxmove's")]
    Foreign {
        /// The host.
        address: String,
        /// The file.
        path: String,
    },
}

/// A way of copying volumes.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Prepares both hosts (uploads the porter once per host, verified by hash). A repeat is harmless.
    async fn prepare(&self, pairs: &[Pair]) -> Result<(), TransferError>;

    /// Freezes what all volumes of a guest must have in common before a pass over them. A repeat is harmless.
    ///
    /// Called once before the pairs are carried, one by one or together.
    async fn begin(&self, pairs: &[Pair], pass: Pass) -> Result<(), TransferError>;

    /// Finds out what the target holds; changes nothing.
    async fn observe(&self, pair: &Pair) -> Result<VolumeState, TransferError>;

    /// Finds out whether the target volume is still what an earlier move away from it left; changes nothing.
    async fn look_back(&self, pair: &Pair) -> Result<Kept, TransferError>;

    /// Runs one pass. Interrupted anywhere, the next pass continues with what is in place.
    async fn carry(
        &self,
        pair: &Pair,
        pass: Pass,
        tell: Tell<'_>,
    ) -> Result<PassReport, TransferError>;

    /// Sees to it that nothing is believed of the target's content any more, after something else wrote there that is given
    /// up; the next pass compares all of it. Between ZFS and ZFS the target goes back to the final snapshot. A repeat is
    /// harmless.
    ///
    /// The caller has made sure that nobody wants what was written there since the final pass.
    async fn take_back(&self, pair: &Pair) -> Result<(), TransferError>;

    /// Removes our own files of this pair from both hosts, never a volume. A repeat is harmless.
    async fn tidy(&self, pair: &Pair) -> Result<(), TransferError>;

    /// Removes the target volume, if it is ours and was not there before, and then our files. A repeat is harmless.
    async fn discard(&self, pair: &Pair) -> Result<(), TransferError>;
}
