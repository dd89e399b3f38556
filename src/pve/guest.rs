//! Guests: what a cluster says about a virtual machine or a container.
//!
//! Pure. Read next: `property.rs`.

use std::collections::BTreeMap;
use std::fmt;

use super::drive::{Drive, DriveKey};
use super::id::{InvalidId, NodeName, PoolId, Vmid};

/// The most characters of a guest's description that Proxmox VE takes.
pub const LONGEST_DESCRIPTION: usize = 8192;

/// The kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl GuestKind {
    /// Returns the configuration key that holds the name: `name`, or `hostname` for a container.
    pub fn name_key(self) -> &'static str {
        match self {
            GuestKind::Qemu => "name",
            GuestKind::Lxc => "hostname",
        }
    }
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            GuestKind::Qemu => "qemu",
            GuestKind::Lxc => "lxc",
        })
    }
}

/// Where a guest is found: its node, kind and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestRef {
    /// The node it lives on.
    pub node: NodeName,
    /// VM or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: Vmid,
}

/// Whether the guest's process exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// The QEMU process or the container runs (it may be paused inside).
    Running,
    /// No process.
    Stopped,
    /// The node did not say.
    Unknown,
}

/// One line of a cluster's guest list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSummary {
    /// Where it is.
    pub place: GuestRef,
    /// Its name; guests may have none, and names may be double.
    pub name: Option<String>,
    /// Running or not, as the list says.
    pub power: Power,
    /// Whether it is a template.
    pub template: bool,
    /// Its lock, such as `migrate`; an open set of words.
    pub lock: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its resource pool.
    pub pool: Option<PoolId>,
    /// Its HA state when it is managed by HA.
    pub ha_state: Option<String>,
    /// Configured memory in bytes.
    pub memory: Option<crate::units::Bytes>,
    /// Memory in use on the node: what the guest costs it, where the release tells, else what the guest uses itself.
    pub memory_used: Option<crate::units::Bytes>,
    /// Its virtual CPUs.
    pub cpus: Option<u32>,
    /// How much of them is in use.
    pub cpu_used: Option<crate::units::Cores>,
}

/// A guest's configuration: keys to values as Proxmox VE shows them, numbers as text.
///
/// `description` is decoded text. `digest` is among the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestConfig(pub BTreeMap<String, String>);

impl GuestConfig {
    /// Returns the value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Says whether a drive with a volume is in that slot.
    pub fn has_volume(&self, slot: DriveKey) -> bool {
        let (drives, _) = self.drives();
        let mut here = drives.iter().filter(|drive| drive.key == slot);
        here.any(|drive| drive.volume().is_some())
    }

    /// Returns all drives in the order of their keys, and the drive-like keys whose value is not understood.
    pub fn drives(&self) -> (Vec<Drive>, Vec<(DriveKey, InvalidId)>) {
        let (mut drives, mut wrong) = (Vec::new(), Vec::new());
        for (key, value) in &self.0 {
            let Ok(key) = key.parse::<DriveKey>() else {
                continue;
            };
            match Drive::parse(key, value) {
                Ok(drive) => drives.push(drive),
                Err(error) => wrong.push((key, error)),
            }
        }
        drives.sort_by_key(|drive| drive.key);
        (drives, wrong)
    }
}

/// How a guest is just now, from one call that answers at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Running or stopped.
    pub power: Power,
    /// QEMU's own word; empty for a stopped guest.
    pub qmp_status: String,
    /// Seconds since its start.
    pub uptime: Option<u64>,
}

/// What came of asking a guest's agent whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentPing {
    /// It answers.
    Answers,
    /// It is switched on in the configuration, and does not answer.
    NotRunning,
    /// The configuration has it switched off.
    NotConfigured,
}

/// One change that waits for the next start of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChange {
    /// The configuration key.
    pub key: String,
    /// The new value; `None` when the key will be deleted.
    pub value: Option<String>,
}

/// One snapshot of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestSnapshot {
    /// Its name.
    pub name: String,
    /// The snapshot it comes from.
    pub parent: Option<String>,
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// Whether it holds the guest's memory.
    pub with_memory: bool,
}

/// Everything observed about one guest at one moment, from calls that answer at once (never from a lagging list).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDetail {
    /// Where it is.
    pub place: GuestRef,
    /// Its configuration with pending changes applied.
    pub config: GuestConfig,
    /// Changes that wait for the next start.
    pub pending: Vec<PendingChange>,
    /// Its snapshots, without the entry `current`.
    pub snapshots: Vec<GuestSnapshot>,
    /// Running or stopped.
    pub power: Power,
    /// QEMU's own word: `running`, `paused`, `prelaunch`, `io-error` ...; empty for a stopped guest.
    pub qmp_status: String,
    /// Its lock.
    pub lock: Option<String>,
    /// Whether HA manages it.
    pub ha_managed: bool,
    /// The QEMU machine it runs with, such as `pc-i440fx-9.2+pve1`.
    pub running_machine: Option<String>,
}

impl GuestDetail {
    /// Returns its configured name, or an empty text. Containers have theirs in another key.
    pub fn name(&self) -> &str {
        let key = self.place.kind.name_key();
        self.config.value(key).unwrap_or_default()
    }

    /// Returns its notes, or an empty text.
    pub fn description(&self) -> &str {
        self.config.value("description").unwrap_or_default()
    }
}
