//! How long planning takes in a large cluster, and how much memory: `cargo bench --bench evacuation`.
//!
//! 1,000 nodes and 20,000 guests, a few of them bound by rules and tags; one node with 20 guests and one with 400 are
//! evacuated. Only planning is measured; nothing is sent to anybody. The figures are in docs/BENCHMARKS.rst.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Instant;

use proxmove::plan::evacuate::Request;
use proxmove::plan::evacuate::decide::decide;
use proxmove::plan::evacuate::facts::{
    GuestFacts, GuestSeen, Inventory, NodeFacts, NodeSeen, Rule, RuleKind, StorageFacts,
};
use proxmove::plan::evacuate::policy::Policies;
use proxmove::plan::evacuate::select::Selection;
use proxmove::plan::evacuate::way::Allowed;
use proxmove::pve::evacuation::Limits;
use proxmove::pve::guest::{GuestKind, GuestRef, Power};
use proxmove::pve::id::{InvalidId, NodeName, StorageId, Vmid};
use proxmove::units::Bytes;

const NODES: u32 = 1_000;
const GUESTS: u32 = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for crowd in [20, 400] {
        let inventory = inventory(crowd)?;
        let request = request(node(0)?);
        let mut times = Vec::new();
        let mut plan = decide(&inventory, &request);
        for _ in 0..5 {
            let began = Instant::now();
            plan = decide(&inventory, &request);
            times.push(began.elapsed());
        }
        times.sort();
        let placed = plan
            .guests
            .iter()
            .filter(|guest| guest.target.is_some())
            .count();
        writeln!(
            out,
            "{NODES} nodes, {GUESTS} guests, {} of them on the node: {placed} placed, {} refusals; median {:.3} s, \
             slowest {:.3} s; peak memory of the process {}",
            plan.guests.len(),
            plan.verdicts.len(),
            times[times.len() / 2].as_secs_f64(),
            times[times.len() - 1].as_secs_f64(),
            peak()?
        )?;
    }
    Ok(())
}

/// Returns the most memory this process ever had.
fn peak() -> Result<Bytes, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|text| text.split_whitespace().next())
        .ok_or("no VmHWM")?
        .parse()?;
    Ok(Bytes::kib(kib))
}

fn node(number: u32) -> Result<NodeName, InvalidId> {
    format!("node{number:04}").parse()
}

fn inventory(crowd: u32) -> Result<Inventory, InvalidId> {
    let mut dice = fastrand::Rng::with_seed(7);
    let (shared, local): (StorageId, StorageId) = ("ceph".parse()?, "local-zfs".parse()?);
    let mut nodes = BTreeMap::new();
    for number in 0..NODES {
        nodes.insert(node(number)?, node_facts(&shared, &local, &mut dice));
    }
    let mut guests = Vec::new();
    for number in 0..GUESTS {
        let at = if number < crowd {
            0
        } else {
            1 + number % (NODES - 1)
        };
        guests.push(guest(
            100 + number,
            node(at)?,
            &shared,
            &local,
            at == 0,
            &mut dice,
        )?);
    }
    let rules = (0..200)
        .map(|number| {
            let members = (0..5).map(|_| Vmid::new(100 + dice.u32(..GUESTS)));
            Ok(Rule {
                name: format!("rule {number}"),
                guests: members.collect::<Result<_, _>>()?,
                kind: RuleKind::Apart,
            })
        })
        .collect::<Result<_, InvalidId>>()?;
    Ok(Inventory {
        cluster: "large".parse()?,
        nodes,
        guests,
        rules,
    })
}

fn node_facts(shared: &StorageId, local: &StorageId, dice: &mut fastrand::Rng) -> NodeFacts {
    let storage = |kind: &str, shared| StorageFacts {
        kind: kind.to_owned(),
        shared,
        active: true,
        content: BTreeSet::from(["images".to_owned(), "rootdir".to_owned()]),
        available: Bytes::gib(4000),
        total: Bytes::gib(8000),
    };
    NodeFacts {
        online: true,
        maintenance: false,
        cores: 64,
        load: dice.u64(1_000..30_000),
        memory: Bytes::gib(512),
        memory_used: Bytes::gib(dice.u64(50..300)),
        storages: BTreeMap::from([
            (shared.clone(), storage("rbd", true)),
            (local.clone(), storage("zfspool", false)),
        ]),
        seen: Some(NodeSeen {
            closed: None,
            bridges: BTreeSet::from(["vmbr0".to_owned()]),
            silent: None,
        }),
    }
}

fn guest(
    number: u32,
    node: NodeName,
    shared: &StorageId,
    local: &StorageId,
    read: bool,
    dice: &mut fastrand::Rng,
) -> Result<GuestFacts, InvalidId> {
    let kind = if dice.u8(..10) < 7 {
        GuestKind::Qemu
    } else {
        GuestKind::Lxc
    };
    let running = dice.u8(..10) < 8;
    let mut tags = BTreeSet::from([format!("team{}", number % 40)]);
    if number.is_multiple_of(50) {
        tags.insert(format!("plb_anti_affinity_{}", number % 7));
    }
    let storage = if number.is_multiple_of(4) {
        local
    } else {
        shared
    };
    Ok(GuestFacts {
        place: GuestRef {
            node,
            kind,
            vmid: Vmid::new(number)?,
        },
        name: format!("guest{number}"),
        power: if running {
            Power::Running
        } else {
            Power::Stopped
        },
        template: false,
        lock: None,
        tags,
        pool: None,
        ha: None,
        memory: Bytes::gib(dice.u64(1..16)),
        cores: dice.u32(1..8),
        load: dice.u64(..500),
        seen: read.then(|| GuestSeen {
            storages: BTreeSet::from([storage.clone()]),
            bridges: BTreeSet::from(["vmbr0".to_owned()]),
            ..GuestSeen::default()
        }),
    })
}

fn request(node: NodeName) -> Request {
    Request {
        node,
        to: BTreeSet::new(),
        select: Selection::default(),
        policies: Policies::default(),
        budgets: Vec::new(),
        limits: Limits::default(),
        allowed: Allowed {
            local_disks: true,
            storages: BTreeMap::new(),
        },
        ha_maintenance: true,
        stop_unplaced: false,
        across: None,
    }
}
