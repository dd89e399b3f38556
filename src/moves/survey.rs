//! Surveying: asking both clusters and the storage hosts for everything a plan needs.
//!
//! Observes only; nothing is written anywhere, and nothing decided. The number of calls depends on the nodes and on the
//! guests that are wanted, never on how many guests there are. Errors that make a plan pointless end the survey; what a
//! plan can do without becomes an [`Unanswered`]. Read next: `plan/decide.rs`.
//!
//! The order is: [`target`], then the earlier moves' marks are looked up in what it found, then [`source`], then
//! [`hosts`] with connections to those that `plan::decide::hosts_to_ask` names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Api, ApiError};
use crate::config::{Config, SshAddress, StorageConfig};
use crate::host::{Shell, node_file};
use crate::plan::MoveRequest;
use crate::plan::facts::{
    ExistingMoves, HostKey, Hosts, SourceFacts, TargetFacts, Unanswered, VolumeFacts, WantedGuest,
    member,
};
use crate::plan::ha::HaWish;
use crate::plan::mark::{CLONING, MIGRATED};
use crate::pve::drive::Bus;
use crate::pve::guest::{GuestKind, GuestSummary};
use crate::pve::ha::HaSid;
use crate::pve::id::{ClusterAlias, NodeName, StorageId, Vmid};
use crate::pve::inventory::{Node, ReplicationJob, Storage};
use crate::transfer::probe;

/// Derives a storage section that proxmoverc does not have: from the cluster, the node and the storage.
///
/// The error says why that is not possible.
pub type Derive<'a> =
    dyn Fn(&ClusterAlias, &Node, &Storage) -> Result<StorageConfig, String> + Send + Sync + 'a;

/// Where sections come from: proxmoverc first, then derivation.
#[derive(Clone, Copy)]
pub struct Sections<'a> {
    /// proxmoverc.
    pub config: &'a Config,
    /// What is not in it.
    pub derive: &'a Derive<'a>,
}

impl Sections<'_> {
    /// Returns the section of a storage on a node, or why there is none.
    pub(super) fn find(
        &self,
        cluster: &ClusterAlias,
        node: &Node,
        id: &StorageId,
        storage: Option<&Storage>,
    ) -> Result<StorageConfig, String> {
        if let Some(section) = self.config.storage(cluster, id, &node.name) {
            return Ok(section.clone());
        }
        match storage {
            Some(storage) => (self.derive)(cluster, node, storage),
            None => Err(format!("node {} has no such storage", node.name)),
        }
    }
}

/// Lists all guests: one call for the cluster, and one per online node for what is immediate.
pub async fn guests(
    api: &dyn Api,
    nodes: &[Node],
) -> Result<(Vec<GuestSummary>, Vec<Unanswered>), ApiError> {
    let listed = api.guests().await?;
    let mut answers = BTreeMap::new();
    let mut unanswered = Vec::new();
    for node in nodes.iter().filter(|node| node.online) {
        match api.guests_on(&node.name).await {
            Ok(guests) => {
                answers.insert(node.name.clone(), guests);
            }
            Err(error) => unanswered.push(Unanswered {
                what: format!("guests of node {}", node.name),
                why: probe::with_causes(&error),
            }),
        }
    }
    Ok((merged(listed, answers), unanswered))
}

/// Returns one list: a node that answered knows best who lives on it; pools and HA states come from the cluster's list.
pub fn merged(
    listed: Vec<GuestSummary>,
    answers: BTreeMap<NodeName, Vec<GuestSummary>>,
) -> Vec<GuestSummary> {
    let answered: BTreeSet<NodeName> = answers.keys().cloned().collect();
    let old: BTreeMap<Vmid, GuestSummary> = listed
        .into_iter()
        .map(|guest| (guest.place.vmid, guest))
        .collect();
    let mut all: BTreeMap<Vmid, GuestSummary> = BTreeMap::new();
    for mut guest in answers.into_values().flatten() {
        if let Some(old) = old.get(&guest.place.vmid) {
            guest.pool = guest.pool.or_else(|| old.pool.clone());
            guest.ha_state = guest.ha_state.or_else(|| old.ha_state.clone());
        }
        all.insert(guest.place.vmid, guest);
    }
    for (vmid, guest) in old {
        // A guest that its node does not know any more has been deleted; the cluster's list lags.
        if !answered.contains(&guest.place.node) {
            all.entry(vmid).or_insert(guest);
        }
    }
    all.into_values().collect()
}

/// Asks the target cluster.
pub async fn target(
    api: &dyn Api,
    request: &MoveRequest,
    sections: Sections<'_>,
) -> Result<TargetFacts, ApiError> {
    let release = api.release().await?;
    let nodes = api.nodes().await?;
    let (guests, mut unanswered) = guests(api, &nodes).await?;
    let mut gap = |what: String, error: ApiError| {
        unanswered.push(Unanswered {
            what,
            why: probe::with_causes(&error),
        });
    };
    let mut facts = TargetFacts {
        alias: api.alias().clone(),
        release,
        user: api.user().await?,
        permissions: api.permissions().await?,
        guests,
        storages: Vec::new(),
        sections: BTreeMap::new(),
        volumes: BTreeMap::new(),
        bridges: None,
        machines: Vec::new(),
        pools: Vec::new(),
        schema: None,
        node_files: BTreeMap::new(),
        free_vmids: Vec::new(),
        unanswered: Vec::new(),
        nodes,
    };
    match api.pools().await {
        Ok(pools) => facts.pools = pools,
        Err(error) => gap("pools".to_owned(), error),
    }
    // Not every node serves its schema; the plan then knows by the release what it can.
    facts.schema = api.config_schema().await.ok().flatten();
    facts.free_vmids = free_vmids(api.free_vmid().await?, &facts.guests, request.guests.len());
    if let Some(node) = member(&facts.nodes, &request.node)
        .filter(|node| node.online)
        .cloned()
    {
        facts.storages = api.storages(&node.name).await?;
        match api.bridges(&node.name).await {
            Ok(bridges) => facts.bridges = Some(bridges),
            Err(error) => gap(format!("bridges of node {}", node.name), error),
        }
        match api.machines(&node.name).await {
            Ok(machines) => facts.machines = machines,
            Err(error) => gap(format!("machine types of node {}", node.name), error),
        }
        for storage in &facts.storages {
            let section = sections.find(&facts.alias, &node, &storage.id, Some(storage));
            facts.sections.insert(storage.id.clone(), section);
        }
        let mapped = request.storages.values();
        let used: BTreeSet<&StorageId> = std::iter::once(&request.storage).chain(mapped).collect();
        for id in used {
            if !facts
                .storage(id)
                .is_some_and(|storage| storage.enabled && storage.active)
            {
                continue;
            }
            match api.volumes(&node.name, id, None).await {
                Ok(volumes) => {
                    let names = volumes.into_iter().map(|volume| volume.volid.volname);
                    facts.volumes.insert(id.clone(), names.collect());
                }
                Err(error) => gap(format!("volumes on storage {id}"), error),
            }
        }
    }
    facts.unanswered = unanswered;
    Ok(facts)
}

/// Some VMIDs more than guests, because one may turn out to own old volumes.
const SPARE_VMIDS: usize = 4;

/// Returns the cluster's suggestion and the next numbers that no visible guest has.
pub fn free_vmids(suggestion: Vmid, guests: &[GuestSummary], count: usize) -> Vec<Vmid> {
    let taken: BTreeSet<Vmid> = guests.iter().map(|guest| guest.place.vmid).collect();
    let above = (suggestion.number().saturating_add(1)..=999_999_999)
        .filter_map(|number| Vmid::new(number).ok())
        .filter(|vmid| !taken.contains(vmid));
    std::iter::once(suggestion)
        .chain(above)
        .take(count + SPARE_VMIDS)
        .collect()
}

/// Asks the source cluster about the guests that are wanted.
pub async fn source(
    api: &dyn Api,
    request: &MoveRequest,
    sections: Sections<'_>,
    existing: &ExistingMoves,
) -> Result<SourceFacts, ApiError> {
    let release = api.release().await?;
    let nodes = api.nodes().await?;
    let (guests, mut unanswered) = guests(api, &nodes).await?;
    let replication = match api.replication_jobs().await {
        Ok(jobs) => jobs,
        Err(error) => {
            unanswered.push(Unanswered {
                what: "replication jobs".to_owned(),
                why: probe::with_causes(&error),
            });
            Vec::new()
        }
    };
    let mut wanted = BTreeMap::new();
    let mut storages: BTreeMap<NodeName, Vec<Storage>> = BTreeMap::new();
    for name in &request.guests {
        let Some(summary) = find(name, &guests, existing) else {
            continue;
        };
        let Some(node) = member(&nodes, &summary.place.node).filter(|node| node.online) else {
            continue;
        };
        if wanted.contains_key(name) {
            continue;
        }
        if !storages.contains_key(&node.name) {
            let listed = match api.storages(&node.name).await {
                Ok(listed) => listed,
                Err(error) => {
                    unanswered.push(Unanswered {
                        what: format!("storages of node {}", node.name),
                        why: probe::with_causes(&error),
                    });
                    Vec::new()
                }
            };
            storages.insert(node.name.clone(), listed);
        }
        let listed = storages.get(&node.name).map_or(&[][..], Vec::as_slice);
        let mut guest = wanted_guest(api, summary, node, listed, sections, &replication).await?;
        if request.ha == HaWish::Recreate && guest.ha_state.is_some() {
            let sid = HaSid::of(&summary.place);
            let rules = api.ha_rules().await?.into_iter();
            let rules = rules.filter(|rule| rule.resources.contains(&sid));
            guest.ha_rules = rules.map(|rule| rule.name).collect();
        }
        if request.with_snapshots {
            for snapshot in &guest.detail.snapshots {
                let section = api.snapshot(&summary.place, &snapshot.name).await;
                let section = section.map_err(|error| probe::with_causes(&error));
                guest.sections.insert(snapshot.name.clone(), section);
            }
        }
        wanted.insert(name.clone(), guest);
    }
    Ok(SourceFacts {
        alias: api.alias().clone(),
        release,
        user: api.user().await?,
        permissions: api.permissions().await?,
        nodes,
        guests,
        wanted,
        unanswered,
    })
}

/// Returns the guest that is meant: the one of an earlier move by its number, else the only one of that name.
pub fn find<'a>(
    name: &str,
    guests: &'a [GuestSummary],
    existing: &ExistingMoves,
) -> Option<&'a GuestSummary> {
    let virtual_machine = |guest: &&GuestSummary| guest.place.kind == GuestKind::Qemu;
    if let Some(began) = existing.get(name) {
        let names = [
            name.to_owned(),
            format!("{name}{CLONING}"),
            format!("{name}{MIGRATED}"),
        ];
        return guests.iter().filter(virtual_machine).find(|guest| {
            guest.place.vmid == began.mark.source.vmid
                && guest.name.as_ref().is_some_and(|name| names.contains(name))
        });
    }
    let mut named = guests
        .iter()
        .filter(|guest| guest.name.as_deref() == Some(name));
    match (named.next(), named.next()) {
        (Some(only), None) => Some(only).filter(virtual_machine),
        _ => None,
    }
}

async fn wanted_guest(
    api: &dyn Api,
    summary: &GuestSummary,
    node: &Node,
    storages: &[Storage],
    sections: Sections<'_>,
    replication: &[ReplicationJob],
) -> Result<WantedGuest, ApiError> {
    let detail = api.guest(&summary.place).await?;
    let replication: Vec<ReplicationJob> = replication
        .iter()
        .filter(|job| job.guest == summary.place.vmid)
        .cloned()
        .collect();
    let replicating = match replication.is_empty() {
        true => Vec::new(),
        false => api.replicating(&summary.place).await?,
    };
    let mut volumes = BTreeMap::new();
    for drive in detail.config.drives().0 {
        let copied = drive.key.bus != Bus::Unused && !drive.is_cdrom();
        let Some(volid) = drive.volume().filter(|_| copied) else {
            continue;
        };
        let storage = storages.iter().find(|storage| storage.id == volid.storage);
        let volume = api.volume(&node.name, volid).await;
        volumes.insert(
            drive.key,
            VolumeFacts {
                volume: volume.map_err(|error| probe::with_causes(&error)),
                storage_kind: storage.map(|storage| storage.kind.clone()),
                section: sections.find(api.alias(), node, &volid.storage, storage),
            },
        );
    }
    Ok(WantedGuest {
        pool: summary.pool.clone(),
        ha_state: summary.ha_state.clone(),
        ha_rules: Vec::new(),
        replication,
        replicating,
        sections: BTreeMap::new(),
        volumes,
        detail,
    })
}

/// Connections to storage hosts, or why there is none.
pub type Shells = BTreeMap<SshAddress, Result<Arc<dyn Shell>, String>>;

/// Asks every storage host once; `ask` comes from `plan::decide::hosts_to_ask`.
pub async fn hosts(ask: &BTreeMap<HostKey, BTreeSet<Vmid>>, shells: &Shells) -> Hosts {
    let mut hosts = Hosts::new();
    for (key, vmids) in ask {
        let answer = match shells.get(&key.ssh) {
            Some(Ok(shell)) => probe::ask(shell.as_ref(), key, vmids).await,
            Some(Err(why)) => Err(why.clone()),
            None => Err("there is no connection to it".to_owned()),
        };
        hosts.insert(key.clone(), answer);
    }
    hosts
}

/// Returns the logins that may be on a node itself: those of the storages in use there, and root at the node's address.
pub fn logins_of(
    node: &NodeName,
    target: &TargetFacts,
    storages: &BTreeSet<StorageId>,
) -> Vec<SshAddress> {
    let sections = storages.iter().filter_map(|id| target.sections.get(id));
    let mut logins: Vec<SshAddress> = sections
        .flatten()
        .map(|section| section.ssh.clone())
        .collect();
    let address = member(&target.nodes, node).and_then(|node| node.address.clone());
    logins.extend(address.map(|host| SshAddress {
        user: Some("root".to_owned()),
        host,
        port: None,
    }));
    let mut seen = BTreeSet::new();
    logins.retain(|login| seen.insert(login.clone()));
    logins
}

/// Finds the first of these logins that may write the configuration files of a node's guests.
pub async fn node_file_login(
    node: &NodeName,
    logins: &[SshAddress],
    shells: &Shells,
) -> Result<SshAddress, String> {
    let mut why = Vec::new();
    for login in logins {
        let answer = match shells.get(login) {
            Some(Ok(shell)) => node_file::examine(shell.as_ref(), node).await,
            Some(Err(error)) => Err(error.clone()),
            None => Err("there is no connection to it".to_owned()),
        };
        match answer {
            Ok(()) => return Ok(login.clone()),
            Err(reason) => why.push(format!("{login}: {reason}")),
        }
    }
    match why.is_empty() {
        true => Err("no address of it is known".to_owned()),
        false => Err(why.join("; ")),
    }
}

#[cfg(test)]
mod tests;
