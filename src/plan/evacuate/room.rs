//! Room: what nodes and their storages can still take, while a plan fills them.
//!
//! Pure. Every guest that is placed is taken off at once, so that no later one counts on the same room; nothing is given
//! back, since a guest that leaves a node during an evacuation leaves the one node that takes none. Read next:
//! `place.rs`.

use std::collections::BTreeMap;

use super::facts::{GuestFacts, Inventory, NodeFacts};
use crate::pve::evacuation::{Limits, MemoryBasis};
use crate::pve::id::{NodeName, StorageId};
use crate::units::Bytes;

/// What is free on the nodes of a cluster.
#[derive(Clone, Debug)]
pub struct Room {
    limits: Limits,
    nodes: BTreeMap<NodeName, Free>,
    /// Space of shared storages is one for all nodes.
    shared: BTreeMap<StorageId, Bytes>,
}

/// What one node has free.
#[derive(Clone, Debug)]
struct Free {
    /// Bytes that may still be taken; negative where the node is over its limit already.
    memory: i128,
    cores: u32,
    /// Thousandths of a processor.
    load: i64,
    /// Virtual processors.
    virtual_cores: Option<i64>,
    storages: BTreeMap<StorageId, Bytes>,
}

/// What something needs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Memory.
    pub memory: Bytes,
    /// Virtual processors.
    pub cores: u32,
    /// The most virtual processors one guest has.
    pub widest: u32,
    /// Processor time, in thousandths of a processor.
    pub load: u64,
    /// Space by storage.
    pub space: BTreeMap<StorageId, Bytes>,
}

impl Need {
    /// Returns what a guest needs where it goes; one that does not run there needs nothing but space.
    pub fn of(guest: &GuestFacts, space: BTreeMap<StorageId, Bytes>) -> Need {
        if !guest.will_run() {
            return Need {
                space,
                ..Need::default()
            };
        }
        Need::running(guest, space)
    }

    /// Returns what a guest needs where it runs.
    pub fn running(guest: &GuestFacts, space: BTreeMap<StorageId, Bytes>) -> Need {
        Need {
            memory: guest.memory,
            cores: guest.cores,
            widest: guest.cores,
            load: guest.load,
            space,
        }
    }

    /// Adds another guest's need.
    pub fn add(&mut self, other: &Need) {
        self.memory += other.memory;
        self.cores += other.cores;
        self.widest = self.widest.max(other.widest);
        self.load += other.load;
        for (storage, bytes) in &other.space {
            *self.space.entry(storage.clone()).or_default() += *bytes;
        }
    }
}

/// What is lacking on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// So much memory.
    Memory(Bytes),
    /// Processors, in words.
    Cores(String),
    /// Space on a storage.
    Space(StorageId, Bytes),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lack::Memory(bytes) => write!(f, "lacks {bytes} of memory"),
            Lack::Cores(what) => f.write_str(what),
            Lack::Space(storage, bytes) => write!(f, "lacks {bytes} on {storage}"),
        }
    }
}

impl Room {
    /// Counts what is free now.
    pub fn new(inventory: &Inventory, limits: Limits) -> Room {
        let mut assigned: BTreeMap<&NodeName, (Bytes, u32)> = BTreeMap::new();
        for guest in &inventory.guests {
            let running = guest.runs().then_some(&guest.place.node);
            // What somebody else is bringing to a node is as good as there.
            let coming = guest.on_its_way().filter(|_| guest.will_run());
            for node in running.into_iter().chain(coming) {
                let sum = assigned.entry(node).or_default();
                sum.0 += guest.memory;
                sum.1 += guest.cores;
            }
        }
        let mut shared = BTreeMap::new();
        let nodes = inventory
            .nodes
            .iter()
            .map(|(name, node)| {
                for (storage, facts) in node.storages.iter().filter(|(_, facts)| facts.shared) {
                    let kept = limits.storage_reserve.of(facts.total);
                    shared.insert(storage.clone(), facts.available.saturating_sub(kept));
                }
                let sum = assigned.get(name).copied().unwrap_or_default();
                (name.clone(), Free::new(node, sum, limits))
            })
            .collect();
        Room {
            limits,
            nodes,
            shared,
        }
    }

    /// Lets a node be as full again as it once was, if that is more than the limits say.
    pub fn allow(&mut self, node: &NodeName, once: Bytes, taken: Bytes) {
        if let Some(free) = self.nodes.get_mut(node) {
            free.memory = free.memory.max(i128::from(once.0) - i128::from(taken.0));
        }
    }

    /// Returns what a node lacks for a need; empty when it has room.
    pub fn lacks(&self, node: &NodeName, need: &Need) -> Vec<Lack> {
        let Some(free) = self.nodes.get(node) else {
            return vec![Lack::Cores("is not known".to_owned())];
        };
        let mut lacks = Vec::new();
        if need.memory > Bytes::ZERO && i128::from(need.memory.0) > free.memory {
            let missing = i128::from(need.memory.0) - free.memory;
            lacks.push(Lack::Memory(Bytes(
                u64::try_from(missing).unwrap_or(u64::MAX),
            )));
        }
        if free.cores > 0 && need.widest > free.cores {
            lacks.push(Lack::Cores(format!(
                "has {} processors, and {} are needed",
                free.cores, need.widest
            )));
        }
        if free.cores > 0
            && need.load > 0
            && i64::try_from(need.load).unwrap_or(i64::MAX) > free.load
        {
            lacks.push(Lack::Cores(format!(
                "would use more than {} % of its processors",
                self.limits.cpu_percent
            )));
        }
        if need.cores > 0
            && free
                .virtual_cores
                .is_some_and(|left| i64::from(need.cores) > left)
        {
            lacks.push(Lack::Cores(
                "would have more virtual processors than the limit".to_owned(),
            ));
        }
        for (storage, bytes) in &need.space {
            let left = self
                .shared
                .get(storage)
                .or_else(|| free.storages.get(storage))
                .copied()
                .unwrap_or_default();
            if *bytes > left {
                lacks.push(Lack::Space(storage.clone(), bytes.saturating_sub(left)));
            }
        }
        lacks
    }

    /// Takes a need off a node's room.
    pub fn take(&mut self, node: &NodeName, need: &Need) {
        let Some(free) = self.nodes.get_mut(node) else {
            return;
        };
        free.memory -= i128::from(need.memory.0);
        free.load -= i64::try_from(need.load).unwrap_or(i64::MAX);
        if let Some(left) = &mut free.virtual_cores {
            *left -= i64::from(need.cores);
        }
        for (storage, bytes) in &need.space {
            let left = match self.shared.get_mut(storage) {
                Some(left) => left,
                None => free.storages.entry(storage.clone()).or_default(),
            };
            *left = left.saturating_sub(*bytes);
        }
    }

    /// Returns the memory that a node may still take; zero where it is over its limit.
    pub fn memory(&self, node: &NodeName) -> Bytes {
        self.nodes.get(node).map_or(Bytes::ZERO, |free| {
            Bytes(u64::try_from(free.memory.max(0)).unwrap_or(u64::MAX))
        })
    }
}

impl Free {
    fn new(node: &NodeFacts, (assigned, virtual_cores): (Bytes, u32), limits: Limits) -> Free {
        let taken = match limits.memory {
            MemoryBasis::Assigned => assigned,
            MemoryBasis::Used => node.memory_used,
            MemoryBasis::Both => assigned.max(node.memory_used),
        };
        let reserve = limits.memory_reserve.of(node.memory);
        let allowed_load = u64::from(node.cores) * 10 * u64::from(limits.cpu_percent);
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Free {
            memory: i128::from(node.memory.0) - i128::from(reserve.0) - i128::from(taken.0),
            cores: node.cores,
            load: signed(allowed_load) - signed(node.load),
            virtual_cores: limits
                .cpu_overcommit
                .filter(|_| node.cores > 0)
                .map(|percent| {
                    signed(u64::from(node.cores) * u64::from(percent) / 100)
                        - i64::from(virtual_cores)
                }),
            storages: node
                .storages
                .iter()
                .filter(|(_, facts)| !facts.shared)
                .map(|(storage, facts)| {
                    let kept = limits.storage_reserve.of(facts.total);
                    (storage.clone(), facts.available.saturating_sub(kept))
                })
                .collect(),
        }
    }
}
