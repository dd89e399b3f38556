//! The hook for whatever plays a running guest: it may write into the disk images while the guest runs.
//!
//! The simulated API calls it; it must never call back into the simulation.

use std::path::PathBuf;

use crate::pve::drive::DriveKey;

/// A guest that starts or stops.
#[derive(Clone, Debug)]
pub struct RunningGuest {
    /// Its cluster.
    pub cluster: String,
    /// Its number.
    pub vmid: u32,
    /// Its images, read-only ones (CD) left out.
    pub images: Vec<GuestImage>,
    /// How fast it writes, in bytes per second.
    pub write_rate: u64,
}

/// One image of a guest.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// Its slot.
    pub drive: DriveKey,
    /// The file.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The size the guest sees, in bytes.
    pub size: u64,
}

/// Plays running guests.
pub trait GuestMachine: Send + Sync {
    /// Starts to write. Returns at once.
    fn start(&self, guest: &RunningGuest);

    /// Stops writing before it returns. With `hard` nothing is flushed; without it, everything is.
    fn stop(&self, guest: &RunningGuest, hard: bool);
}

/// Guests that never write.
#[derive(Debug)]
pub struct IdleMachine;

impl GuestMachine for IdleMachine {
    fn start(&self, _guest: &RunningGuest) {}

    fn stop(&self, _guest: &RunningGuest, _hard: bool) {}
}
