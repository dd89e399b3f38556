//! Scenarios: what the simulated clusters look like at the start, as data.
//!
//! Plain values, readable from JSON; starting them is in `../mod.rs`. Everything has a default, so that a test names
//! only what it is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The clusters, and how fast the simulated time-consuming things are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// The clusters.
    pub clusters: Vec<ClusterSpec>,
    /// How long things take.
    pub pace: Pace,
}

/// How long things take, in milliseconds. The default is that of a real cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Between two broadcasts of guest states, which `/cluster/resources` shows.
    pub broadcast: u64,
    /// Of a task that creates, destroys or changes a guest.
    pub task: u64,
    /// Of a start.
    pub start: u64,
    /// Of the answer to a login or token that is refused.
    pub refusal: u64,
    /// How long a call waits for a guest that is locked by a task.
    pub lock_wait: u64,
    /// Of one round of the HA manager and of the nodes that do what it says.
    pub ha: u64,
    /// Of a node's boot, and of its way down.
    pub boot: u64,
    /// How much memory and how much of disks a migration carries in a second, in bytes; not milliseconds.
    pub migration: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            broadcast: 10_000,
            task: 700,
            start: 1_500,
            refusal: 3_000,
            lock_wait: 10_000,
            ha: 10_000,
            boot: 120_000,
            migration: 110 << 20,
        }
    }
}

impl Pace {
    /// Returns a pace for tests: everything still takes some time, but little. The broadcast stays out of date for a
    /// moment too, so that code that relies on it is found out.
    pub fn quick() -> Pace {
        Pace {
            broadcast: 400,
            task: 60,
            start: 60,
            refusal: 50,
            lock_wait: 400,
            ha: 60,
            boot: 300,
            migration: 32 << 30,
        }
    }
}

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSpec {
    /// Its name, also the alias in proxmoverc.
    pub alias: String,
    /// Its full version such as `8.4.1`.
    pub version: String,
    /// Its nodes; the first is the one that answers.
    pub nodes: Vec<NodeSpec>,
    /// Its storages.
    pub storages: Vec<StorageSpec>,
    /// Its users; `root@pam` is added when missing, with the password `root`.
    pub users: Vec<UserSpec>,
    /// Its pools.
    pub pools: Vec<String>,
    /// Its replication jobs.
    pub replication: Vec<ReplicationSpec>,
    /// Its HA resources.
    pub ha: Vec<HaSpec>,
    /// Its HA groups; before release 9 only.
    pub ha_groups: Vec<HaGroupSpec>,
    /// Its HA rules; from release 9 on.
    pub ha_rules: Vec<HaRuleSpec>,
    /// The nodes that are in maintenance.
    pub maintenance: Vec<String>,
    /// Its mapped devices; from release 8 on.
    pub mappings: Vec<MappingSpec>,
    /// Its guests.
    pub guests: Vec<GuestSpec>,
    /// Its clock minus the right time, in seconds, as the `Date` of its answers tells.
    pub clock_skew: i64,
}

impl Default for ClusterSpec {
    fn default() -> ClusterSpec {
        ClusterSpec {
            alias: "apple".to_owned(),
            version: "8.4.1".to_owned(),
            nodes: vec![NodeSpec::default()],
            storages: vec![StorageSpec::default()],
            users: Vec::new(),
            pools: Vec::new(),
            replication: Vec::new(),
            ha: Vec::new(),
            ha_groups: Vec::new(),
            ha_rules: Vec::new(),
            maintenance: Vec::new(),
            mappings: Vec::new(),
            guests: Vec::new(),
            clock_skew: 0,
        }
    }
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Whether it is up; calls to a node that is down are answered with 595.
    pub online: bool,
    /// Its bridges.
    pub bridges: Vec<String>,
    /// Its address as the cluster knows it.
    pub ip: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Logical CPUs.
    pub cpus: u32,
    /// Its QEMU, such as `9.2.0`; decides the machine types. Empty: that of the release.
    pub qemu: String,
    /// Its notes.
    pub description: String,
    /// Memory in use beside that of guests, in bytes.
    pub memory_used: u64,
    /// CPU in use beside that of guests, 0.0 to 1.0 of all of it.
    pub cpu_used: f64,
}

impl Default for NodeSpec {
    fn default() -> NodeSpec {
        NodeSpec {
            name: "node1".to_owned(),
            online: true,
            bridges: vec!["vmbr0".to_owned()],
            ip: "127.0.0.1".to_owned(),
            memory: 64 << 30,
            cpus: 8,
            qemu: String::new(),
            description: String::new(),
            memory_used: 2 << 30,
            cpu_used: 0.25,
        }
    }
}

/// One storage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSpec {
    /// Its id.
    pub id: String,
    /// `dir` or `zfspool`, or another type that is listed but holds no images here.
    pub kind: String,
    /// Its path on every node; mapped into the node's own directory.
    pub path: String,
    /// What it may hold.
    pub content: String,
    /// The nodes it is on; empty for all.
    pub nodes: Vec<String>,
    /// Whether all nodes see the same directory.
    pub shared: bool,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Whether it expects a mount that is not there.
    pub unmounted: bool,
    /// Its size in bytes.
    pub capacity: u64,
    /// Further keys of its configuration, shown as they are.
    pub extra: BTreeMap<String, String>,
    /// ISO images and their sizes.
    pub isos: BTreeMap<String, u64>,
    /// Whether a zfspool is kept in the dataset `extra.pool` of a pool of this machine, and its volumes are zvols;
    /// otherwise a file stands for each. The dataset must exist; `capacity` is not looked at.
    pub real: bool,
}

impl Default for StorageSpec {
    fn default() -> StorageSpec {
        StorageSpec {
            id: "local".to_owned(),
            kind: "dir".to_owned(),
            path: "/var/lib/vz".to_owned(),
            content: "images,iso".to_owned(),
            nodes: Vec::new(),
            shared: false,
            disabled: false,
            unmounted: false,
            capacity: 100 << 30,
            extra: BTreeMap::new(),
            isos: BTreeMap::new(),
            real: false,
        }
    }
}

/// One user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserSpec {
    /// `mover@pve`.
    pub id: String,
    /// The password.
    pub password: String,
    /// Path to roles or privileges, separated by commas.
    pub acl: BTreeMap<String, String>,
    /// The one-time password that is right, when a second factor is set.
    pub second_factor: Option<String>,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Whether it has expired.
    pub expired: bool,
    /// Its API tokens.
    pub tokens: Vec<TokenSpec>,
}

/// One API token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSpec {
    /// The part after `!`.
    pub name: String,
    /// The secret.
    pub secret: String,
    /// Whether it has rights of its own, which limit those of the user.
    pub privsep: bool,
    /// Those rights.
    pub acl: BTreeMap<String, String>,
    /// Whether it has expired.
    pub expired: bool,
}

/// One replication job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationSpec {
    /// The guest.
    pub guest: u32,
    /// The node it is replicated to.
    pub target: String,
    /// When.
    pub schedule: String,
    /// Whether it is copying just now.
    pub running: bool,
}

/// One HA resource.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HaSpec {
    /// The guest.
    pub guest: u32,
    /// `started`, `stopped`, `ignored` ...
    pub state: String,
    /// Its group.
    pub group: Option<String>,
    /// Whether it stays where it is when a node of higher priority comes back.
    pub no_failback: bool,
    /// How often it is restarted before it is moved, where that is set.
    pub max_restart: Option<u32>,
    /// How often it is moved before HA gives up, where that is set.
    pub max_relocate: Option<u32>,
    /// Its comment.
    pub comment: Option<String>,
}

/// One HA group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HaGroupSpec {
    /// Its name.
    pub name: String,
    /// Its nodes with priorities, `node1:2,node2`.
    pub nodes: String,
    /// Whether its guests may be nowhere else.
    pub restricted: bool,
    /// Whether its guests stay where they are when a node of higher priority comes back.
    pub no_failback: bool,
}

/// One HA rule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HaRuleSpec {
    /// Its name.
    pub name: String,
    /// The guests it is about.
    pub guests: Vec<u32>,
    /// `positive` or `negative` for a rule that keeps guests together or apart; empty for one about nodes.
    pub affinity: String,
    /// For a rule about nodes: those, with priorities.
    pub nodes: String,
    /// For a rule about nodes: whether its guests may be nowhere else.
    pub strict: bool,
    /// Whether it is switched off.
    pub disabled: bool,
}

/// One mapped device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MappingSpec {
    /// Its name, as in `hostpci0: mapping=NAME`.
    pub id: String,
    /// The nodes that have it.
    pub nodes: Vec<String>,
    /// Whether it can be migrated while its guest runs.
    pub live_migration: bool,
}

/// One guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestSpec {
    /// Its number.
    pub vmid: u32,
    /// `qemu` or `lxc`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its node; empty for the first.
    pub node: String,
    /// Further keys of its configuration.
    pub config: BTreeMap<String, String>,
    /// Whether it runs.
    pub running: bool,
    /// QEMU's word when it is not `running`, such as `paused`.
    pub qmp_status: Option<String>,
    /// Its disks, created as real files.
    pub disks: Vec<DiskSpec>,
    /// Its lock.
    pub lock: Option<String>,
    /// Changes that wait for the next start.
    pub pending: BTreeMap<String, String>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotSpec>,
    /// Its pool.
    pub pool: Option<String>,
    /// How fast it writes while it runs, in bytes per second; for the machine that plays the guest.
    pub write_rate: u64,
    /// How long it takes to shut down, in milliseconds.
    pub shutdown: u64,
    /// Whether it does not react to a shutdown.
    pub ignores_shutdown: bool,
    /// CPU it uses while it runs, 0.0 to 1.0 of its own.
    pub cpu: f64,
    /// What a migration of it fails with half-way; empty for none.
    pub migration_fault: String,
}

impl Default for GuestSpec {
    fn default() -> GuestSpec {
        GuestSpec {
            vmid: 100,
            kind: "qemu".to_owned(),
            name: "web1".to_owned(),
            node: String::new(),
            config: BTreeMap::new(),
            running: false,
            qmp_status: None,
            disks: Vec::new(),
            lock: None,
            pending: BTreeMap::new(),
            snapshots: Vec::new(),
            pool: None,
            write_rate: 0,
            shutdown: 100,
            ignores_shutdown: false,
            cpu: 0.0,
            migration_fault: String::new(),
        }
    }
}

/// One disk of a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    /// Its slot, such as `virtio0`.
    pub key: String,
    /// Its storage.
    pub storage: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Its size in bytes.
    pub size: u64,
    /// Further options of the drive, such as `discard=on`.
    pub options: String,
}

impl Default for DiskSpec {
    fn default() -> DiskSpec {
        DiskSpec {
            key: "virtio0".to_owned(),
            storage: "local".to_owned(),
            format: "qcow2".to_owned(),
            size: 64 << 20,
            options: String::new(),
        }
    }
}

/// One snapshot of a guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSpec {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it holds the memory.
    pub with_memory: bool,
}
