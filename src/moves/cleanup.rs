//! Cleaning up: the moves in progress from all clusters, the leftovers from their storage hosts, and removing what may go.
//!
//! Looking changes nothing. What may go is decided in `plan/cleanup.rs`; what was decided is looked at again right before
//! it is removed, since a move may have begun. Read next: `plan/cleanup.rs`, `transfer/leftovers.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::back::Clusters;
use super::hosts::Hosts;
use super::survey;
use crate::cluster::{Api, ApiError};
use crate::config::Config;
use crate::plan::cleanup::{self, Fate, InProgress, Kind, Leftover, Moves};
use crate::plan::facts::HostKey;
use crate::plan::mark::{Mark, NameMark};
use crate::pve::guest::{GuestKind, GuestSummary};
use crate::pve::id::ClusterAlias;
use crate::transfer::leftovers;
use crate::transfer::probe::with_causes;

/// Where to look.
pub struct Cleanup<'a> {
    /// All configured clusters: a move on any of them may need what lies on another.
    pub clusters: &'a Clusters,
    /// Those whose hosts are looked at.
    pub chosen: BTreeSet<ClusterAlias>,
    /// proxmoverc, with what could be derived.
    pub config: &'a Config,
    /// Connections to the storage hosts.
    pub hosts: Arc<Hosts>,
    /// Moves that are given up, by the clusters and VMIDs of their placeholders; whoever removes has that done.
    pub abandoned: BTreeSet<(String, u32)>,
}

/// One thing that was found, and what is to become of it. The JSON form of it.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// `apple/node1` for a guest's cluster, `root@node1` for a host.
    pub place: String,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Bytes that are free when it is gone.
    pub bytes: u64,
    /// `remove` or `keep`.
    pub action: &'static str,
    /// Why.
    pub why: String,
    #[serde(skip)]
    key: Option<HostKey>,
    #[serde(skip)]
    leftover: Option<Leftover>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// In the order of places.
    pub items: Vec<Item>,
    /// What could not be asked, and why.
    pub problems: Vec<String>,
}

impl Found {
    /// Returns what would be removed.
    pub fn removable(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.action == "remove")
    }
}

impl Cleanup<'_> {
    /// Asks all clusters for moves in progress.
    async fn moves(&self) -> Moves {
        let mut moves = Moves::default();
        let mut listed = BTreeMap::new();
        for (alias, api) in self.clusters {
            match guests(api.as_ref()).await {
                Ok(guests) => {
                    listed.insert(alias, (api, guests));
                }
                Err(error) => {
                    moves.unanswered.insert(alias.clone(), with_causes(&error));
                }
            }
        }
        let all = listed.values().flat_map(|(_, guests)| guests);
        let sources: BTreeSet<String> = all
            .filter_map(|guest| source_of(guest.name.as_deref()?))
            .collect();
        for (alias, (api, guests)) in listed {
            match in_progress(alias, api.as_ref(), &guests, &sources).await {
                Ok(found) => moves.in_progress.extend(found),
                Err(error) => {
                    moves.unanswered.insert(alias.clone(), with_causes(&error));
                }
            }
        }
        moves
    }

    /// Looks everywhere; changes nothing.
    pub async fn find(&self) -> Found {
        let moves = self.moves().await;
        let mut found = Found::default();
        for (alias, why) in &moves.unanswered {
            found
                .problems
                .push(format!("{alias} cannot be asked: {why}"));
        }
        for known in &moves.in_progress {
            if self.chosen.contains(&known.cluster) {
                let vmid = known.target.vmid.number();
                let goes = (known.cluster.to_string(), vmid);
                let (action, why) = match self.abandoned.contains(&goes) {
                    true => ("remove", cleanup::given_up(known)),
                    false => ("keep", cleanup::placeholder(known)),
                };
                found.items.push(Item {
                    place: format!("{}/{}", known.cluster, known.target.node),
                    kind: Kind::Placeholder,
                    name: format!("{} ({})", known.present, known.target.vmid),
                    bytes: 0,
                    action,
                    why,
                    key: None,
                    leftover: None,
                });
            }
        }
        let keys: BTreeSet<HostKey> = self
            .config
            .storages
            .iter()
            .filter(|section| self.chosen.contains(&section.cluster))
            .map(HostKey::of)
            .collect();
        let addresses: BTreeSet<_> = keys.iter().map(|key| key.ssh.clone()).collect();
        let shells = self.hosts.connect(addresses).await;
        // Several storages of a host may share a directory.
        let mut seen = BTreeSet::new();
        for key in keys {
            let place = key.ssh.to_string();
            let listed = match shells.get(&key.ssh) {
                Some(Ok(shell)) => leftovers::find(shell.as_ref(), &key).await,
                Some(Err(why)) => Err(why.clone()),
                None => Err("there is no connection to it".to_owned()),
            };
            match listed {
                Ok(listed) => {
                    for leftover in listed {
                        if seen.insert((place.clone(), leftover.name.clone())) {
                            found.items.push(item(&place, &key, leftover, &moves));
                        }
                    }
                }
                Err(why) => {
                    let what = key.dataset.as_ref().unwrap_or(&key.temp);
                    let problem = format!("{place} cannot be asked about {what}: {why}");
                    if !found.problems.contains(&problem) {
                        found.problems.push(problem);
                    }
                }
            }
        }
        found
    }

    /// Removes what was found on hosts and may still go; returns what could not be removed, and why.
    pub async fn remove(&self, found: &Found) -> Vec<String> {
        let moves = self.moves().await;
        let addresses: BTreeSet<_> = found
            .removable()
            .filter_map(|item| Some(item.key.as_ref()?.ssh.clone()))
            .collect();
        let shells = self.hosts.connect(addresses).await;
        let mut failed = Vec::new();
        for item in found.removable() {
            let (Some(key), Some(leftover)) = (&item.key, &item.leftover) else {
                continue;
            };
            let removed = match (cleanup::decide(leftover, &moves), shells.get(&key.ssh)) {
                (Fate::Keep { why }, _) => Err(why),
                (Fate::Remove { .. }, Some(Ok(shell))) => {
                    leftovers::remove(shell.as_ref(), leftover).await
                }
                (Fate::Remove { .. }, Some(Err(why))) => Err(why.clone()),
                (Fate::Remove { .. }, None) => Err("there is no connection to it".to_owned()),
            };
            if let Err(why) = removed {
                failed.push(format!("{} on {} stays: {why}", item.name, item.place));
            }
        }
        failed
    }
}

fn item(place: &str, key: &HostKey, leftover: Leftover, moves: &Moves) -> Item {
    let (action, why) = match cleanup::decide(&leftover, moves) {
        Fate::Remove { why } => ("remove", why),
        Fate::Keep { why } => ("keep", why),
    };
    Item {
        place: place.to_owned(),
        kind: leftover.kind,
        name: leftover.name.clone(),
        bytes: leftover.bytes,
        action,
        why,
        key: Some(key.clone()),
        leftover: Some(leftover),
    }
}

async fn guests(api: &dyn Api) -> Result<Vec<GuestSummary>, ApiError> {
    let nodes = api.nodes().await?;
    let (guests, unanswered) = survey::guests(api, &nodes).await?;
    for gap in unanswered {
        log::debug!("{}: {}: {}", api.alias(), gap.what, gap.why);
    }
    Ok(guests)
}

/// Returns the name of a guest whose source is stopped and marked, or retired.
fn source_of(present: &str) -> Option<String> {
    match NameMark::split(present) {
        (name, NameMark::Cloning | NameMark::Migrated) => Some(name.to_owned()),
        (_, NameMark::Plain | NameMark::Creating) => None,
    }
}

/// Returns the guests of a cluster that bear the mark of a move.
///
/// They are called `NAME--CREATING`, or `NAME` while a source of that name is `--CLONING` or `--MIGRATED` somewhere; no
/// other guest is asked for its notes, however many there are.
async fn in_progress(
    alias: &ClusterAlias,
    api: &dyn Api,
    guests: &[GuestSummary],
    sources: &BTreeSet<String>,
) -> Result<Vec<InProgress>, ApiError> {
    let mut found = Vec::new();
    for guest in guests {
        let Some(present) = &guest.name else { continue };
        let may = match NameMark::split(present) {
            (_, NameMark::Creating) => true,
            (name, NameMark::Plain) => sources.contains(name),
            (_, NameMark::Cloning | NameMark::Migrated) => false,
        };
        if guest.place.kind != GuestKind::Qemu || !may {
            continue;
        }
        let detail = match api.guest(&guest.place).await {
            Ok(detail) => detail,
            Err(error) if error.says_no_such_guest() => continue,
            Err(error) => return Err(error),
        };
        if let Some(mark) = Mark::parse(detail.description()) {
            found.push(InProgress {
                cluster: alias.clone(),
                target: guest.place.clone(),
                present: present.clone(),
                mark,
            });
        }
    }
    Ok(found)
}

/// Groups items by their place, in order.
pub fn by_place(found: &Found) -> BTreeMap<&str, Vec<&Item>> {
    let mut places: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in &found.items {
        places.entry(&item.place).or_default().push(item);
    }
    places
}
