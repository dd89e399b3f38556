//! Properties that hold for any cluster: room is never exceeded, closed nodes stay closed, budgets are kept at every
//! moment of a schedule, and the same inventory gives the same plan.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proxmove::plan::evacuate::budget::Protected;
use proxmove::plan::evacuate::decide::{again, decide};
use proxmove::plan::evacuate::facts::{Inventory, RuleKind};
use proxmove::plan::evacuate::schedule::{Parallel, Schedule};
use proxmove::plan::evacuate::{Action, Evacuation, Request, closed_because};
use proxmove::pve::guest::Power;
use proxmove::pve::id::{NodeName, Vmid};
use proxmove::units::Bytes;

use crate::scenario::Scenario;

/// Returns a cluster with many odds: closed nodes, budgets, rules, stopped guests, containers, full storages.
fn scenario() -> impl Strategy<Value = Scenario> {
    let node = (8u64..64, 0u64..30, any::<bool>(), 0u8..12, 20u64..200);
    let guest = (
        (1usize..6, any::<bool>(), 0u8..4, 1u64..16, 1u32..8),
        (0u8..6, 0u8..5, 0u8..12, 0u8..4),
    );
    (
        proptest::collection::vec(node, 2..7),
        proptest::collection::vec(guest, 1..30),
        (0usize..3, any::<bool>(), 0u8..4),
    )
        .prop_map(|(nodes, guests, (min, stop_unplaced, policy))| {
            let nodes: serde_json::Map<String, serde_json::Value> = nodes
                .iter()
                .enumerate()
                .map(|(at, (memory, used, _, state, free))| {
                    let facts = serde_json::json!({
                        "memory": memory, "used": used.min(memory), "cores": 8,
                        "closed": *state == 0 && at > 0, "online": *state != 1 || at == 0,
                        "maintenance": *state == 2 && at > 0,
                        "storages": {
                            "nfs": {"kind": "nfs", "shared": true},
                            "zfs": {"kind": "zfspool", "free": free},
                        },
                    });
                    (format!("pve{}", at + 1), facts)
                })
                .collect();
            let count = nodes.len();
            let mut rules = Vec::new();
            let guests: Vec<serde_json::Value> = guests
                .iter()
                .enumerate()
                .map(|(at, ((node, lxc, running, memory, cores), (tag, disk, rule, ha)))| {
                    let vmid = 101 + at as u32;
                    let mut tags = Vec::new();
                    match tag {
                        0 => tags.push("web"),
                        1 => tags.extend(["web", "plb_anti_affinity_a"]),
                        2 => tags.push("plb_affinity_b"),
                        3 => tags.push("evacuate-stop"),
                        _ => {}
                    }
                    if *rule == 0 {
                        rules.push(serde_json::json!({"guests": [vmid], "nodes": {"pve2": 1, "pve3": 2}, "strict": true}));
                    }
                    serde_json::json!({
                        "vmid": vmid,
                        // About half of them are on the node that is evacuated.
                        "node": format!("pve{}", if *node >= 4 { 1 } else { node % count + 1 }),
                        "lxc": lxc, "running": *running > 0, "memory": memory, "cores": cores, "tags": tags,
                        "local": if *disk == 0 { serde_json::json!([{"storage": "zfs", "size": 20}]) } else { serde_json::json!([]) },
                        "ha": if *ha == 0 { Some("started") } else { None },
                    })
                })
                .collect();
            let policy = ["auto", "auto", "migrate", "auto"][usize::from(policy)];
            let text = serde_json::json!({
                "name": "random", "nodes": nodes, "guests": guests, "rules": rules,
                "request": {"budgets": [["tag=web", min]], "stop_unplaced": stop_unplaced, "policy": policy,
                            "reserve": "10%", "ha_maintenance": false},
                "expect": {},
            });
            serde_json::from_value(text).expect("is a scenario")
        })
}

/// What a node holds while a schedule runs, counted independently of the code under test.
struct World {
    memory: BTreeMap<NodeName, Bytes>,
    space: BTreeMap<NodeName, Bytes>,
    at: BTreeMap<Vmid, NodeName>,
    runs: BTreeSet<Vmid>,
}

impl World {
    fn new(inventory: &Inventory) -> World {
        let mut world = World {
            memory: BTreeMap::new(),
            space: BTreeMap::new(),
            at: BTreeMap::new(),
            runs: BTreeSet::new(),
        };
        for guest in &inventory.guests {
            world.at.insert(guest.place.vmid, guest.place.node.clone());
            if guest.runs() {
                world.runs.insert(guest.place.vmid);
                *world.memory.entry(guest.place.node.clone()).or_default() += guest.memory;
            }
        }
        world
    }

    fn arrive(&mut self, inventory: &Inventory, vmid: Vmid, node: &NodeName) {
        let guest = inventory.guest(vmid).expect("is there");
        if guest.runs() {
            *self.memory.entry(node.clone()).or_default() += guest.memory;
        }
        let seen = guest.seen.as_ref().expect("was read");
        for volume in &seen.local {
            *self.space.entry(node.clone()).or_default() += volume.size;
        }
    }

    /// Judges a node that somebody arrives at.
    fn check(&self, inventory: &Inventory, node: &NodeName, running: bool) {
        let facts = &inventory.nodes[node];
        let assigned = self.memory.get(node).copied().unwrap_or_default();
        let limit = Bytes(facts.memory.0 - facts.memory.0 / 10);
        // What does not run takes no memory, also of a node that is over its limit already.
        assert!(
            !running || assigned <= limit,
            "{node}: {assigned} of {limit}"
        );
        let arrived: Bytes = assigned.saturating_sub(
            inventory
                .guests
                .iter()
                .filter(|guest| guest.place.node == *node && guest.runs())
                .map(|guest| guest.memory)
                .sum(),
        );
        assert!(
            !running || facts.memory_used + arrived <= limit,
            "{node}: {} in use",
            facts.memory_used
        );
        let space = self.space.get(node).copied().unwrap_or_default();
        let zfs = facts
            .storages
            .iter()
            .find(|(name, _)| name.as_str() == "zfs");
        assert!(space <= zfs.map_or(Bytes::ZERO, |(_, facts)| facts.available));
    }
}

fn budgets(inventory: &Inventory, request: &Request) -> Vec<Protected> {
    request
        .budgets
        .iter()
        .map(|budget| Protected::new(budget, inventory))
        .collect()
}

/// Runs a plan to its end, with ends in a random order and some failures, and judges every moment.
fn run(
    inventory: &Inventory,
    request: &Request,
    plan: &Evacuation,
    parallel: Parallel,
    dice: &mut fastrand::Rng,
) {
    let watched = budgets(inventory, request);
    let mut schedule = Schedule::new(&plan.guests, budgets(inventory, request), parallel);
    let mut world = World::new(inventory);
    let mut busy = Vec::new();
    loop {
        for begun in schedule.begin() {
            if let Some(target) = &begun.target {
                assert_eq!(closed_because(inventory, target), None);
                world.arrive(inventory, begun.place.vmid, target);
                world.check(inventory, target, begun.power == Power::Running);
            }
            let down = match &begun.action {
                Action::Go { way, .. } => way.disrupts(),
                _ => true,
            };
            if down {
                world.runs.remove(&begun.place.vmid);
            }
            busy.push(begun);
            for budget in &watched {
                let run = budget.members.intersection(&world.runs).count();
                assert!(
                    run >= budget.min_running.min(budget.running.len()),
                    "{run} of {} run",
                    budget.min_running
                );
            }
            assert!(busy.len() <= parallel.total);
        }
        if busy.is_empty() {
            break;
        }
        let ended = busy.swap_remove(dice.usize(..busy.len()));
        let was_running = ended.power == Power::Running;
        let runs = was_running && matches!(ended.action, Action::Go { .. });
        if runs {
            world.runs.insert(ended.place.vmid);
        }
        if dice.u8(..) > 30
            && let Some(target) = &ended.target
        {
            world.at.insert(ended.place.vmid, target.clone());
        }
        schedule.ended(ended.place.vmid, runs);
    }
    assert!(schedule.is_done(), "waits for ever: {:?}", schedule.waits());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        max_global_rejects: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_schedule_of_any_plan_exceeds_anything(scenario in scenario(), seed in any::<u64>(), total in 1usize..6, per_target in 1usize..4) {
        let (inventory, request) = (scenario.inventory(), scenario.request());
        let plan = decide(&inventory, &request);
        let mut dice = fastrand::Rng::with_seed(seed);
        let parallel = Parallel { total, per_target };
        prop_assume!(!plan.refused());
        run(&inventory, &request, &plan, parallel, &mut dice);
    }

    #[test]
    fn the_same_inventory_gives_the_same_plan(scenario in scenario()) {
        let (inventory, request) = (scenario.inventory(), scenario.request());
        let (one, other) = (decide(&inventory, &request), decide(&inventory, &request));
        prop_assert_eq!(&one.guests, &other.guests);
        prop_assert_eq!(&one.verdicts, &other.verdicts);
        // Every guest of the node is in it once.
        let mut planned: Vec<Vmid> = one.guests.iter().map(|guest| guest.place.vmid).collect();
        planned.sort();
        let here: Vec<Vmid> = inventory.guests.iter().filter(|guest| guest.place.node == request.node).map(|guest| guest.place.vmid).collect();
        prop_assert_eq!(planned, here);
    }

    #[test]
    fn affinity_holds_where_a_plan_puts_guests(scenario in scenario()) {
        let (inventory, request) = (scenario.inventory(), scenario.request());
        let plan = decide(&inventory, &request);
        prop_assume!(!plan.refused());
        let mut at: BTreeMap<Vmid, &NodeName> = inventory.guests.iter().map(|guest| (guest.place.vmid, &guest.place.node)).collect();
        for guest in &plan.guests {
            if let Some(target) = &guest.target {
                at.insert(guest.place.vmid, target);
            }
        }
        for guest in plan.guests.iter().filter(|guest| guest.target.is_some()) {
            let (vmid, node) = (guest.place.vmid, at[&guest.place.vmid]);
            for rule in inventory.rules.iter().filter(|rule| rule.guests.contains(&vmid)) {
                if let RuleKind::Nodes { nodes, strict: true } = &rule.kind {
                    prop_assert!(nodes.contains_key(node));
                }
            }
            let tags = &inventory.guest(vmid).unwrap().tags;
            for other in inventory.guests.iter().filter(|other| other.place.vmid != vmid) {
                let there = at[&other.place.vmid];
                if tags.contains("plb_anti_affinity_a") && other.tags.contains("plb_anti_affinity_a") {
                    prop_assert!(there != node, "{} and {} on {}", vmid, other.place.vmid, node);
                }
                if tags.contains("plb_affinity_b") && other.tags.contains("plb_affinity_b") {
                    prop_assert!(there == node, "{} on {}, {} on {}", vmid, node, other.place.vmid, there);
                }
            }
        }
    }

    /// What was planned passes the judgement before its start as long as nothing has changed.
    #[test]
    fn an_unchanged_cluster_passes_the_second_look(scenario in scenario()) {
        let (inventory, request) = (scenario.inventory(), scenario.request());
        let plan = decide(&inventory, &request);
        prop_assume!(!plan.refused());
        let mut on_the_way: BTreeMap<Vmid, NodeName> = BTreeMap::new();
        let mut to_come: BTreeSet<Vmid> = plan.guests.iter().filter(|guest| guest.target.is_some()).map(|guest| guest.place.vmid).collect();
        for guest in &plan.guests {
            to_come.remove(&guest.place.vmid);
            let looked = again(&inventory, &request, guest, &on_the_way, &to_come, false);
            on_the_way.extend(guest.target.clone().map(|target| (guest.place.vmid, target)));
            prop_assert!(looked.is_ok(), "{:?}: {:?}", guest, looked);
        }
    }
}
