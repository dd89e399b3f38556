//! The simulated world: clusters with nodes, storages, users and guests, all of it behind one mutex.
//!
//! Holds state and the rules that keep it consistent; it knows no HTTP and no parameter checks (that is `../api`).
//! Disk images are real files under the simulation's directory, or zvols of a real pool. Read next: [`scenario`] (the start), [`guest`],
//! [`storage`], [`zpool`], [`pmxcfs`], [`migration`], [`ha`], [`rights`], [`task`], [`faults`].

pub mod faults;
pub mod guest;
pub mod ha;
pub mod images;
pub mod machine;
pub mod migration;
pub mod pmxcfs;
pub mod rights;
pub mod scenario;
pub mod setup;
pub mod storage;
pub mod task;
pub mod zpool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use guest::Guest;
use ha::HaManager;
use rights::User;
use scenario::{
    HaGroupSpec, HaRuleSpec, HaSpec, MappingSpec, NodeSpec, Pace, ReplicationSpec, StorageSpec,
};
use task::Task;

/// All clusters.
#[derive(Debug)]
pub struct World {
    /// The clusters, in the order of the scenario.
    pub clusters: Vec<Cluster>,
    /// How long things take.
    pub pace: Pace,
}

/// What a node last broadcast about a guest.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// Its fields, as `/cluster/resources` shows them.
    pub row: serde_json::Map<String, serde_json::Value>,
}

/// How a guest was from some moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The guest.
    pub vmid: u32,
    /// Its node.
    pub node: String,
    /// The node it is on its way to, and which has to have its memory as well.
    pub coming_to: Option<String>,
    /// Whether it runs.
    pub running: bool,
}

/// What the guests on a node use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Memory in bytes.
    pub memory: u64,
    /// CPUs.
    pub cpus: f64,
}

/// How a guest boots that does not boot as it should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// What its start ends with; empty when QEMU starts.
    pub fails: String,
    /// Whether its agent never answers, as that of a guest which hangs.
    pub mute: bool,
    /// What QEMU says of it as soon as it runs: `io-error`, for example; empty for `running`.
    pub status: String,
    /// How fast it writes while it runs, in bytes per second.
    pub write_rate: u64,
}

/// One resource pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Its comment.
    pub comment: Option<String>,
    /// Its guests, which need not exist.
    pub members: BTreeSet<u32>,
}

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its alias.
    pub alias: String,
    /// Its full version, `8.4.1`.
    pub version: String,
    /// Its clock minus the right time, in seconds; only the `Date` of its answers shows it.
    pub clock_skew: i64,
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
    /// Its storages.
    pub storages: Vec<StorageSpec>,
    /// Its users.
    pub users: BTreeMap<String, User>,
    /// Its pools.
    pub pools: BTreeMap<String, Pool>,
    /// Its replication jobs.
    pub replication: Vec<ReplicationSpec>,
    /// Its HA resources.
    pub ha: Vec<HaSpec>,
    /// Its HA groups.
    pub ha_groups: Vec<HaGroupSpec>,
    /// Its HA rules.
    pub ha_rules: Vec<HaRuleSpec>,
    /// What its HA manager knows and does.
    pub manager: HaManager,
    /// Its mapped devices.
    pub mappings: Vec<MappingSpec>,
    /// When each node booted, where that was not at the start.
    pub booted: BTreeMap<String, Instant>,
    /// What was asked of nodes: to reboot (true) or to shut down, and when.
    pub power_requests: Vec<(String, bool, Instant)>,
    /// Everywhere guests have been and whether they ran, oldest first.
    pub history: Vec<Moment>,
    /// Its guests.
    pub guests: BTreeMap<u32, Guest>,
    /// How those guests boot that do not boot as they should.
    pub boots: BTreeMap<u32, Boot>,
    /// Its tasks, oldest first.
    pub tasks: Vec<Task>,
    /// What the nodes last said of their guests.
    pub broadcasts: BTreeMap<u32, Broadcast>,
    /// What is known of the VMs' configuration files.
    pub filed: BTreeMap<u32, pmxcfs::Filed>,
    /// The directory that holds one directory tree per node.
    pub directory: PathBuf,
    /// The key its tickets are signed with.
    pub ticket_key: String,
    /// SHA-256 of its certificate as Proxmox VE writes it.
    pub fingerprint: String,
    /// When it was started.
    pub born: Instant,
    /// The newest process id given to a task or a guest.
    pub last_pid: u32,
}

impl Cluster {
    /// Returns the release as major and minor.
    pub fn release(&self) -> (u32, u32) {
        let mut numbers = self
            .version
            .split(['.', '-'])
            .map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Returns `8.4`.
    pub fn release_text(&self) -> String {
        let (major, minor) = self.release();
        format!("{major}.{minor}")
    }

    /// Returns the node of that name; `localhost` is the first.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        match name {
            "localhost" => self.nodes.first(),
            _ => self.nodes.iter().find(|node| node.name == name),
        }
    }

    /// Returns the version of QEMU on a node.
    pub fn qemu_version(&self, node: &str) -> String {
        match self.node(node) {
            Some(node) if !node.qemu.is_empty() => node.qemu.clone(),
            _ => match self.release() {
                (..=6, _) => "5.2.0".to_owned(),
                (7, _) => "7.2.0".to_owned(),
                (8, _) => "9.2.0".to_owned(),
                _ => "10.1.2".to_owned(),
            },
        }
    }

    /// Returns the pool a guest is in.
    pub fn pool_of(&self, vmid: u32) -> Option<&str> {
        self.pools
            .iter()
            .find(|(_, pool)| pool.members.contains(&vmid))
            .map(|(name, _)| name.as_str())
    }

    /// Returns seconds since the start, plus some, so that nothing looks freshly booted.
    pub fn uptime(&self) -> u64 {
        3_600 + self.born.elapsed().as_secs()
    }

    /// Returns seconds since a node booted.
    pub fn node_uptime(&self, node: &str) -> u64 {
        match self.booted.get(node) {
            Some(booted) => booted.elapsed().as_secs(),
            None => self.uptime(),
        }
    }

    /// Returns the file that is there while a node has no power, for its SSH host.
    pub fn power_off_file(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.powered-off"))
    }

    /// Tells whether a node is up.
    pub fn is_online(&self, node: &str) -> bool {
        self.node(node).is_some_and(|node| node.online)
    }

    /// Tells whether most nodes are up; without that nothing can be written.
    pub fn is_quorate(&self) -> bool {
        let online = self.nodes.iter().filter(|node| node.online).count();
        online * 2 > self.nodes.len()
    }

    /// Returns what the guests use that run on each node.
    pub fn guest_use(&self) -> BTreeMap<&str, Use> {
        let mut used: BTreeMap<&str, Use> = BTreeMap::new();
        for guest in self.guests.values().filter(|guest| guest.run.is_some()) {
            let on_node = used.entry(guest.node.as_str()).or_default();
            on_node.memory += guest.memory();
            on_node.cpus += guest.cpu * guest.cpus() as f64;
        }
        used
    }

    /// Writes down how a guest is now.
    pub fn remember(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get(&vmid) {
            self.history.push(Moment {
                vmid,
                node: guest.node.clone(),
                coming_to: guest.migrating_to.clone(),
                running: guest.run.is_some(),
            });
        }
    }

    /// Returns a new process id.
    pub fn next_pid(&mut self) -> u32 {
        self.last_pid += 1;
        self.last_pid
    }

    /// Refreshes what the nodes say of their guests; done regularly by the simulation.
    pub fn refresh_broadcasts(&mut self) {
        let online = self.nodes.iter().filter(|node| node.online);
        let online: BTreeSet<&str> = online.map(|node| node.name.as_str()).collect();
        let rows: Vec<(u32, Broadcast)> = self
            .guests
            .values()
            .filter(|guest| online.contains(guest.node.as_str()))
            .filter(|guest| !guest.is_being_created())
            .map(|guest| {
                let row = guest.resource_row(self);
                (guest.vmid, Broadcast { row })
            })
            .collect();
        // What nobody broadcasts any more stays until it is overwritten, as it does for five minutes on a real node.
        self.broadcasts.extend(rows);
    }
}
