//! Affinity: which guests belong together, which apart, and which nodes they may be on.
//!
//! Pure. Rules of the HA manager come with the inventory; those of tags (ProxLB's `plb_affinity_NAME`,
//! `plb_anti_affinity_NAME`, `plb_pin_NODE`; ProxBalance's `affinity_NAME`, `exclude_NAME`) are derived here. All are
//! kept alike; only node affinity that is not strict is a wish. Read next: `place.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{GuestFacts, Inventory, Rule, RuleKind};
use crate::pve::id::{NodeName, Vmid};

/// Derives rules from tags.
pub fn of_tags(inventory: &Inventory) -> Vec<Rule> {
    let mut groups: BTreeMap<(&str, bool), BTreeSet<Vmid>> = BTreeMap::new();
    let mut pins: BTreeMap<Vmid, BTreeMap<NodeName, i64>> = BTreeMap::new();
    for guest in inventory.guests.iter().filter(|guest| !guest.template) {
        for tag in &guest.tags {
            if let Some(apart) = group(tag) {
                groups
                    .entry((tag, apart))
                    .or_default()
                    .insert(guest.place.vmid);
            } else if let Some(node) = tag.strip_prefix("plb_pin_") {
                let pinned = inventory
                    .nodes
                    .keys()
                    .filter(|name| name.as_str().eq_ignore_ascii_case(node))
                    .map(|name| (name.clone(), 0));
                pins.entry(guest.place.vmid).or_default().extend(pinned);
            }
        }
    }
    let grouped = groups.into_iter().map(|((tag, apart), guests)| Rule {
        name: format!("tag {tag}"),
        guests,
        kind: if apart {
            RuleKind::Apart
        } else {
            RuleKind::Together
        },
    });
    let pinned = pins.into_iter().map(|(vmid, nodes)| Rule {
        name: "tag plb_pin".to_owned(),
        guests: BTreeSet::from([vmid]),
        kind: RuleKind::Nodes {
            nodes,
            strict: true,
        },
    });
    grouped.chain(pinned).collect()
}

/// Says of a tag that groups guests whether it keeps them apart.
fn group(tag: &str) -> Option<bool> {
    if tag.starts_with("plb_anti_affinity_") || tag.starts_with("exclude_") {
        Some(true)
    } else if tag.starts_with("plb_affinity_") || tag.starts_with("affinity_") {
        Some(false)
    } else {
        None
    }
}

/// All rules of a cluster, and where the guests they bind are.
#[derive(Debug)]
pub struct Affinity {
    rules: Vec<Rule>,
    of: BTreeMap<Vmid, Vec<usize>>,
    at: BTreeMap<Vmid, NodeName>,
}

impl Affinity {
    /// Collects the rules of the inventory and of tags.
    pub fn new(inventory: &Inventory) -> Affinity {
        let mut rules = inventory.rules.clone();
        rules.extend(of_tags(inventory));
        let mut of: BTreeMap<Vmid, Vec<usize>> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for vmid in &rule.guests {
                of.entry(*vmid).or_default().push(index);
            }
        }
        let at = inventory
            .guests
            .iter()
            .filter(|guest| of.contains_key(&guest.place.vmid))
            .map(|guest| (guest.place.vmid, guest.place.node.clone()))
            .collect();
        Affinity { rules, of, at }
    }

    /// Notes that a guest is, or will be, on another node.
    pub fn moved(&mut self, vmid: Vmid, node: &NodeName) {
        if let Some(at) = self.at.get_mut(&vmid) {
            *at = node.clone();
        }
    }

    fn rules_of(&self, vmid: Vmid) -> impl Iterator<Item = &Rule> {
        self.of
            .get(&vmid)
            .into_iter()
            .flatten()
            .map(|index| &self.rules[*index])
    }

    /// Returns the guests out of `movers` that must go to the same node as `vmid`, itself included.
    pub fn unit(&self, vmid: Vmid, movers: &BTreeSet<Vmid>) -> BTreeSet<Vmid> {
        let mut unit = BTreeSet::from([vmid]);
        let mut open = vec![vmid];
        while let Some(next) = open.pop() {
            for rule in self
                .rules_of(next)
                .filter(|rule| rule.kind == RuleKind::Together)
            {
                for member in rule.guests.intersection(movers) {
                    if unit.insert(*member) {
                        open.push(*member);
                    }
                }
            }
        }
        unit
    }

    /// Returns why a guest must not be on a node; `leaving` are guests that are going to leave where they are.
    pub fn refuses(&self, vmid: Vmid, node: &NodeName, leaving: &BTreeSet<Vmid>) -> Option<String> {
        let others = |rule: &'_ Rule| -> Vec<(Vmid, NodeName)> {
            rule.guests
                .iter()
                .filter(|member| **member != vmid && !leaving.contains(member))
                .filter_map(|member| Some((*member, self.at.get(member)?.clone())))
                .collect()
        };
        self.rules_of(vmid).find_map(|rule| match &rule.kind {
            RuleKind::Nodes {
                nodes,
                strict: true,
            } => (!nodes.contains_key(node)).then(|| format!("{} does not allow it", rule.name)),
            RuleKind::Nodes { strict: false, .. } => None,
            RuleKind::Together => {
                others(rule)
                    .into_iter()
                    .find(|(_, at)| at != node)
                    .map(|(member, at)| {
                        format!("{} keeps it with {member}, which is on {at}", rule.name)
                    })
            }
            RuleKind::Apart => others(rule)
                .into_iter()
                .find(|(_, at)| at == node)
                .map(|(member, _)| format!("{} keeps it apart from {member}", rule.name)),
        })
    }

    /// Returns how much a node is wished for by rules that are not strict; larger is better.
    pub fn wish(&self, vmid: Vmid, node: &NodeName) -> (bool, i64) {
        let mut wished = (true, 0);
        for rule in self.rules_of(vmid) {
            if let RuleKind::Nodes { nodes, strict } = &rule.kind {
                match nodes.get(node) {
                    Some(priority) => wished.1 += priority,
                    None if !strict => wished.0 = false,
                    None => {}
                }
            }
        }
        wished
    }

    /// Returns the rules that a guest's present place breaks, for people.
    pub fn broken(&self, guest: &GuestFacts) -> Option<String> {
        self.refuses(guest.place.vmid, &guest.place.node, &BTreeSet::new())
    }
}
