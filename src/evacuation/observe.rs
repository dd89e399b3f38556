//! Observing a cluster for an evacuation or a restore.
//!
//! The whole cluster is listed in a constant number of calls; only the guests of one node are read one by one, and only
//! those nodes that a plan wants are asked for their notes and bridges. Never changes anything, never decides. Read
//! next: `seen.rs`, `plan/evacuate/facts.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::seen;
use crate::cluster::{Api, ApiError};
use crate::plan::evacuate::facts::{
    GuestFacts, GuestSeen, Inventory, NodeFacts, NodeSeen, Rule, RuleKind, StorageFacts,
};
use crate::plan::evacuate::note::{self, Closed, Stage, TAG_PREFIX};
use crate::plan::evacuate::{Evacuation, Request, decide, rights};
use crate::pve::guest::GuestSummary;
use crate::pve::ha::HaRuleKind;
use crate::pve::id::{NodeName, StorageId, Vmid};
use crate::pve::node::{NodeResources, StorageResources};
use crate::units::{Bytes, Cores};

/// How many guests or nodes are asked at one time.
const AT_ONCE: usize = 8;
/// How often a guest is read that is not where it was said to be, and the time between two attempts.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Lists the whole cluster, whatever its size, in six calls. Nothing is known yet that only a guest or a node itself says.
pub async fn listing(api: &dyn Api) -> Result<Inventory, ApiError> {
    let (nodes, guests, storages, rules, maintenance, members) = tokio::join!(
        api.node_resources(),
        api.guests(),
        api.cluster_storages(),
        api.ha_rules(),
        api.ha_maintenance(),
        api.nodes(),
    );
    let maintenance = maintenance?;
    let mut facts: BTreeMap<NodeName, NodeFacts> = nodes?
        .into_iter()
        .map(|node| (node.name.clone(), node_facts(&node, &maintenance)))
        .collect();
    // The list of resources may be some seconds old; the list of members is not.
    for member in members? {
        let node = facts.entry(member.name).or_default();
        node.online = member.online;
        node.maintenance |= member.maintenance;
    }
    for storage in storages? {
        if let Some(node) = facts.get_mut(&storage.node) {
            node.storages
                .insert(storage.storage.clone(), storage_facts(storage));
        }
    }
    let mut guests: Vec<GuestFacts> = guests?.into_iter().map(guest_facts).collect();
    guests.sort_by_key(|guest| guest.place.vmid);
    guests.dedup_by_key(|guest| guest.place.vmid);
    Ok(Inventory {
        cluster: api.alias().clone(),
        nodes: facts,
        guests,
        rules: rules?
            .into_iter()
            .filter(|rule| rule.in_force)
            .map(|rule| Rule {
                name: format!("HA rule {}", rule.name),
                guests: rule.resources.iter().map(|sid| sid.vmid).collect(),
                kind: match rule.kind {
                    HaRuleKind::Together => RuleKind::Together,
                    HaRuleKind::Apart => RuleKind::Apart,
                    HaRuleKind::NodeAffinity { nodes, strict } => RuleKind::Nodes {
                        nodes: nodes
                            .into_iter()
                            .map(|(node, priority)| (node, i64::from(priority)))
                            .collect(),
                        strict,
                    },
                },
            })
            .collect(),
    })
}

/// Reads the guests for which `wanted` says so. One that cannot be read stays unknown, and the plan refuses or lists it.
pub async fn read_guests(
    api: &Arc<dyn Api>,
    inventory: &mut Inventory,
    wanted: impl Fn(&GuestFacts) -> bool,
) -> Result<(), ApiError> {
    let mut vmids: BTreeSet<Vmid> = inventory
        .guests
        .iter()
        .filter(|guest| wanted(guest))
        .map(|guest| guest.place.vmid)
        .collect();
    for _ in 0..TRIES {
        vmids = read_each(api, inventory, &vmids).await?;
        if vmids.is_empty() {
            break;
        }
        // Whatever is being moved just now is not where the list said.
        tokio::time::sleep(PAUSE).await;
        for guest in api.guests().await? {
            let found = inventory
                .guests
                .binary_search_by_key(&guest.place.vmid, |known| known.place.vmid);
            if let (Ok(at), true) = (found, vmids.contains(&guest.place.vmid)) {
                inventory.guests[at].place = guest.place;
            }
        }
    }
    Ok(())
}

/// Reads guests where they are known to be. Returns those that could not be read.
async fn read_each(
    api: &Arc<dyn Api>,
    inventory: &mut Inventory,
    vmids: &BTreeSet<Vmid>,
) -> Result<BTreeSet<Vmid>, ApiError> {
    let shared = shared_storages(inventory);
    let places: Vec<_> = inventory
        .guests
        .iter()
        .filter(|guest| vmids.contains(&guest.place.vmid))
        .map(|guest| guest.place.clone())
        .collect();
    let mut unread = BTreeSet::new();
    let read = each(places, |place| {
        let (api, shared) = (Arc::clone(api), Arc::clone(&shared));
        async move {
            let seen = seen::read(api.as_ref(), &place, &shared).await;
            (place, seen)
        }
    })
    .await;
    for (place, seen) in read {
        let found = inventory
            .guests
            .binary_search_by_key(&place.vmid, |guest| guest.place.vmid);
        match (found, seen) {
            (Ok(at), Ok((seen, power, lock))) => {
                let guest = &mut inventory.guests[at];
                // The list lags; the guest's own status does not.
                guest.power = power;
                guest.lock = lock;
                guest.seen = Some(seen);
            }
            (_, Err(error @ (ApiError::Unreachable { .. } | ApiError::Login { .. }))) => {
                return Err(error);
            }
            (_, Err(error)) => {
                log::debug!("{}: {error}", place.vmid);
                unread.insert(place.vmid);
            }
            (Err(_), Ok(_)) => {}
        }
    }
    Ok(unread)
}

/// Asks nodes for their notes and bridges. A node that does not answer is as good as closed.
pub async fn look_at(api: &Arc<dyn Api>, inventory: &mut Inventory, nodes: &BTreeSet<NodeName>) {
    let answers = each(nodes.iter().cloned().collect(), |node| {
        let api = Arc::clone(api);
        async move {
            let (config, bridges) = tokio::join!(api.node_config(&node), api.bridges(&node));
            let seen = match (config, bridges) {
                (Ok(config), Ok(bridges)) => NodeSeen {
                    closed: Closed::parse(&config.description),
                    bridges: bridges.into_iter().collect(),
                    silent: None,
                },
                (Err(error), _) | (_, Err(error)) => NodeSeen {
                    silent: Some(error.to_string()),
                    ..NodeSeen::default()
                },
            };
            (node, seen)
        }
    })
    .await;
    for (node, seen) in answers {
        if let Some(facts) = inventory.nodes.get_mut(&node) {
            facts.seen = Some(seen);
        }
    }
}

/// Observes what an evacuation needs, and decides it, as far as one cluster is concerned.
pub async fn evacuation(
    api: &Arc<dyn Api>,
    request: &Request,
) -> Result<(Inventory, Evacuation), ApiError> {
    let mut inventory = gather(api, request).await?;
    let plan = decided(api, &mut inventory, request).await?;
    Ok((inventory, plan))
}

/// Observes what is known to be needed before anything is decided.
pub(super) async fn gather(api: &Arc<dyn Api>, request: &Request) -> Result<Inventory, ApiError> {
    let mut inventory = listing(api.as_ref()).await?;
    if inventory.is_online(&request.node) {
        let here = |guest: &GuestFacts| guest.place.node == request.node && !guest.template;
        read_guests(api, &mut inventory, here).await?;
        let own = BTreeSet::from([request.node.clone()]);
        look_at(api, &mut inventory, &own).await;
        // An evacuation that ended early may have left guests elsewhere that are not started yet.
        let tag = note::tag(&request.node);
        let began = |node: &NodeFacts| {
            let closed = node.seen.as_ref().and_then(|seen| seen.closed.as_ref());
            closed.is_some_and(|closed| closed.stage == Stage::Evacuating)
        };
        if inventory.nodes.get(&request.node).is_some_and(began) {
            let elsewhere =
                |guest: &GuestFacts| guest.place.node != request.node && guest.tags.contains(&tag);
            read_guests(api, &mut inventory, elsewhere).await?;
        }
    }
    Ok(inventory)
}

/// Decides; nodes are looked at as far as the decision wants them.
pub(super) async fn decided(
    api: &Arc<dyn Api>,
    inventory: &mut Inventory,
    request: &Request,
) -> Result<Evacuation, ApiError> {
    loop {
        let mut plan = decide::decide(inventory, request);
        // Each round knows more nodes than the one before, so this ends.
        if plan.unseen.is_empty() {
            let permissions = api.permissions().await?;
            plan.verdicts.extend(rights::judge(&permissions, &plan));
            return Ok(plan);
        }
        look_at(api, inventory, &plan.unseen).await;
    }
}

/// Observes what a restore needs: the guests with a tag of an evacuation, and the node itself.
pub async fn restore(api: &Arc<dyn Api>, node: &NodeName) -> Result<Inventory, ApiError> {
    let mut inventory = listing(api.as_ref()).await?;
    let tagged = |guest: &GuestFacts| guest.tags.iter().any(|tag| tag.starts_with(TAG_PREFIX));
    let online: BTreeSet<NodeName> = inventory
        .nodes
        .iter()
        .filter(|(_, facts)| facts.online)
        .map(|(name, _)| name.clone())
        .collect();
    read_guests(api, &mut inventory, |guest| {
        tagged(guest) && online.contains(&guest.place.node)
    })
    .await?;
    if inventory.is_online(node) {
        look_at(api, &mut inventory, &BTreeSet::from([node.clone()])).await;
    }
    Ok(inventory)
}

/// Takes over from an older inventory what only guests and nodes themselves say.
pub fn remember(inventory: &mut Inventory, older: &Inventory) {
    for guest in &mut inventory.guests {
        if guest.seen.is_none() {
            guest.seen = older
                .guest(guest.place.vmid)
                .and_then(|known| known.seen.clone());
        }
    }
    for (name, node) in &mut inventory.nodes {
        if node.seen.is_none() {
            node.seen = older.nodes.get(name).and_then(|known| known.seen.clone());
        }
    }
}

/// Returns the storages that all nodes see alike.
pub(super) fn shared_storages(inventory: &Inventory) -> Arc<BTreeSet<StorageId>> {
    Arc::new(
        inventory
            .nodes
            .values()
            .flat_map(|node| &node.storages)
            .filter(|(_, facts)| facts.shared)
            .map(|(storage, _)| storage.clone())
            .collect(),
    )
}

/// Does something for each, some at one time.
async fn each<T, F, Fut>(all: Vec<T>, act: F) -> Vec<Fut::Output>
where
    F: Fn(T) -> Fut,
    Fut: Future + Send + 'static,
    Fut::Output: Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for item in all {
        if running.len() >= AT_ONCE {
            done.extend(running.join_next().await.and_then(Result::ok));
        }
        running.spawn(act(item));
    }
    while let Some(result) = running.join_next().await {
        done.extend(result.ok());
    }
    done
}

fn node_facts(node: &NodeResources, maintenance: &BTreeSet<NodeName>) -> NodeFacts {
    NodeFacts {
        online: node.online,
        maintenance: maintenance.contains(&node.name)
            || node.ha_state.as_deref() == Some("maintenance"),
        cores: node.cpus.unwrap_or(0),
        load: node.cpu_used.map_or(0, Cores::thousandths),
        memory: node.memory_total.unwrap_or_default(),
        memory_used: node.memory_used.unwrap_or_default(),
        storages: BTreeMap::new(),
        seen: None,
    }
}

fn storage_facts(storage: StorageResources) -> StorageFacts {
    StorageFacts {
        available: storage.free().unwrap_or_default(),
        total: storage.total.unwrap_or_default(),
        kind: storage.kind,
        shared: storage.shared,
        active: storage.available,
        content: storage.content,
    }
}

fn guest_facts(guest: GuestSummary) -> GuestFacts {
    GuestFacts {
        name: guest.name.unwrap_or_else(|| guest.place.vmid.to_string()),
        place: guest.place,
        power: guest.power,
        template: guest.template,
        lock: guest.lock,
        tags: guest
            .tags
            .iter()
            .map(|tag| tag.to_ascii_lowercase())
            .collect(),
        pool: guest.pool,
        ha: guest.ha_state,
        memory: guest.memory.unwrap_or(Bytes::ZERO),
        cores: guest.cpus.unwrap_or(0),
        load: guest.cpu_used.map_or(0, Cores::thousandths),
        seen: None::<GuestSeen>,
    }
}
