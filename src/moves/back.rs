//! Finding a guest's former self, from the clusters alone: where a way back goes.
//!
//! Changes nothing. Every configured cluster is asked for a guest `NAME--MIGRATED` whose note says that it was moved to
//! where the guest is now, and for a way back that began earlier. Read next: `plan/back.rs`, `batch.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{resume, survey};
use crate::cluster::{Api, ApiError};
use crate::plan::MoveRequest;
use crate::plan::back::reusable;
use crate::plan::facts::{Existing, ExistingMoves};
use crate::plan::mark::{MIGRATED, Mark, retired_note};
use crate::pve::guest::{GuestDetail, GuestKind, GuestSummary, Power};
use crate::pve::id::ClusterAlias;
use crate::transfer::probe::with_causes;

/// The clusters that may be asked.
pub type Clusters = BTreeMap<ClusterAlias, Arc<dyn Api>>;

/// A way back that was found.
#[derive(Clone, Debug)]
pub struct WayBack {
    /// The cluster it leads to.
    pub target: ClusterAlias,
    /// The former self, or the placeholder it has become.
    pub existing: Existing,
}

/// Why there is no way back. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum NoWayBack {
    /// The guest's own cluster did not answer.
    #[error("{cluster} cannot be asked")]
    Unanswered {
        /// The cluster.
        cluster: ClusterAlias,
        /// Why.
        #[source]
        source: Box<ApiError>,
    },
    /// There is no such guest, or more than one.
    #[error("{0}")]
    Guest(String),
    /// No former self was found.
    #[error(
        "no cluster has a {name}{MIGRATED} that was moved to {place}{}",
        list(others)
    )]
    Nowhere {
        /// The guest.
        name: String,
        /// Where it is.
        place: String,
        /// What was found instead, and what could not be asked.
        others: Vec<String>,
    },
    /// More than one was found.
    #[error("{name} has more than one former self: {}", places.join(", "))]
    Several {
        /// The guest.
        name: String,
        /// Where they are.
        places: Vec<String>,
    },
}

fn list(others: &[String]) -> String {
    match others.is_empty() {
        true => String::new(),
        false => format!("; {}", others.join("; ")),
    }
}

/// Finds where a guest of `cluster` goes back to; with `to`, only on that cluster.
pub async fn find(
    name: &str,
    cluster: &ClusterAlias,
    to: Option<&ClusterAlias>,
    clusters: &Clusters,
    by: &str,
) -> Result<WayBack, NoWayBack> {
    let source = clusters
        .get(cluster)
        .ok_or_else(|| NoWayBack::Guest(format!("there is no cluster {cluster}")))?;
    let unanswered = |source| NoWayBack::Unanswered {
        cluster: cluster.clone(),
        source: Box::new(source),
    };
    let at_home = guests(source.as_ref()).await.map_err(unanswered)?;
    let mut others = Vec::new();
    let mut ways = Vec::new();
    let mut formers = Vec::new();
    for (alias, api) in clusters {
        if to.is_some_and(|to| to != alias) {
            continue;
        }
        let seen = match alias == cluster {
            true => Ok(at_home.clone()),
            false => guests(api.as_ref()).await,
        };
        match look(name, cluster, alias, api.as_ref(), seen).await {
            Ok(found) => {
                ways.extend(found.begun);
                formers.extend(
                    found
                        .former
                        .into_iter()
                        .map(|former| (alias.clone(), former)),
                );
            }
            Err(error) => others.push(format!("{alias} cannot be asked: {}", with_causes(&error))),
        }
    }
    let way = if ways.is_empty() {
        let guest = only(name, cluster, &at_home)?;
        let detail = source.guest(&guest.place).await.map_err(unanswered)?;
        for (alias, former) in formers {
            let note = retired_note(former.description());
            match note {
                Some(note) if (&note.cluster, note.vmid) == (cluster, guest.place.vmid) => {
                    ways.push(way(name, cluster, &detail, alias, former, by));
                }
                Some(note) => others.push(format!(
                    "{} of {alias} says that it was moved to {}/{}",
                    former.place.vmid, note.cluster, note.vmid
                )),
                None => others.push(format!(
                    "{} of {alias} does not say where it was moved to",
                    former.place.vmid
                )),
            }
        }
        match ways.len() {
            1 => ways.pop(),
            0 => {
                return Err(NoWayBack::Nowhere {
                    name: name.to_owned(),
                    place: format!("{cluster}/{}", guest.place.vmid),
                    others,
                });
            }
            _ => None,
        }
    } else if ways.len() == 1 {
        ways.pop()
    } else {
        None
    };
    way.ok_or_else(|| NoWayBack::Several {
        name: name.to_owned(),
        places: ways
            .iter()
            .map(|way| format!("{} of {}", way.existing.target.vmid, way.target))
            .collect(),
    })
}

async fn guests(api: &dyn Api) -> Result<Vec<GuestSummary>, ApiError> {
    let nodes = api.nodes().await?;
    Ok(survey::guests(api, &nodes).await?.0)
}

/// What one cluster has.
struct Found {
    begun: Vec<WayBack>,
    former: Vec<GuestDetail>,
}

async fn look(
    name: &str,
    cluster: &ClusterAlias,
    alias: &ClusterAlias,
    api: &dyn Api,
    seen: Result<Vec<GuestSummary>, ApiError>,
) -> Result<Found, ApiError> {
    let seen = seen?;
    let begun = resume::find(&[name.to_owned()], &seen, api).await?;
    let begun = begun
        .into_values()
        .filter(|begun| begun.mark.kept.is_some() && begun.mark.source_cluster == *cluster)
        .map(|existing| WayBack {
            target: alias.clone(),
            existing,
        })
        .collect();
    let retired = format!("{name}{MIGRATED}");
    let mut former = Vec::new();
    for guest in &seen {
        if guest.place.kind != GuestKind::Qemu || guest.name.as_deref() != Some(retired.as_str()) {
            continue;
        }
        match api.guest(&guest.place).await {
            Ok(detail) => former.push(detail),
            Err(error) if error.says_no_such_guest() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Found { begun, former })
}

/// Returns the only guest of that name.
fn only<'a>(
    name: &str,
    cluster: &ClusterAlias,
    guests: &'a [GuestSummary],
) -> Result<&'a GuestSummary, NoWayBack> {
    let named = |text: &str| -> Vec<&'a GuestSummary> {
        let is = |guest: &&GuestSummary| guest.name.as_deref() == Some(text);
        guests.iter().filter(is).collect()
    };
    match named(name).as_slice() {
        [only] if only.place.kind == GuestKind::Qemu => Ok(only),
        [only] => Err(NoWayBack::Guest(format!(
            "{name} ({}) of {cluster} is a container",
            only.place.vmid
        ))),
        [] => {
            let retired = named(&format!("{name}{MIGRATED}"));
            Err(NoWayBack::Guest(match retired.first() {
                Some(retired) => format!(
                    "{cluster} has no guest {name}, but {name}{MIGRATED} ({}): it is not there any more; name the cluster \
                     it is on now",
                    retired.place.vmid
                ),
                None => format!("{cluster} has no guest {name}"),
            }))
        }
        several => Err(NoWayBack::Guest(format!(
            "{name} is the name of {} guests of {cluster}",
            several.len()
        ))),
    }
}

fn way(
    name: &str,
    cluster: &ClusterAlias,
    guest: &GuestDetail,
    target: ClusterAlias,
    former: GuestDetail,
    by: &str,
) -> WayBack {
    let volumes = reusable(&former);
    WayBack {
        target,
        existing: Existing {
            target: former.place.clone(),
            mark: Mark {
                source_cluster: cluster.clone(),
                source: guest.place.clone(),
                name: name.to_owned(),
                running: guest.power == Power::Running,
                onboot: guest.config.value("onboot") == Some("1"),
                by: by.to_owned(),
                // It has not begun yet.
                since: String::new(),
                kept: Some(volumes.keys().copied().collect()),
                finishing: false,
                volumes,
                onboot_set: guest.config.value("onboot").is_some(),
                id: None,
                made_from: None,
                returning: false,
                ha: None,
                order: None,
                claim: None,
            },
            former: Some(Box::new(former)),
        },
    }
}

impl WayBack {
    /// Returns the request of an ordinary move that goes this way: `base` but for where it goes.
    ///
    /// Drives that the former self does not have go where its first one is, unless they are mapped.
    pub fn request(&self, name: &str, base: &MoveRequest) -> Result<MoveRequest, NoWayBack> {
        let volumes = &self.existing.mark.volumes;
        let first = volumes.values().next().map(|volid| volid.storage.clone());
        let storage = first
            .or_else(|| base.storages.values().next().cloned())
            .ok_or_else(|| {
                NoWayBack::Guest(format!(
                    "{name}{MIGRATED} ({}) of {} has no drive that could be gone back to",
                    self.existing.target.vmid, self.target
                ))
            })?;
        Ok(MoveRequest {
            source: self.existing.mark.source_cluster.clone(),
            target: self.target.clone(),
            node: self.existing.target.node.clone(),
            storage,
            guests: vec![name.to_owned()],
            ignore_exists: self.existing.mark.source_cluster == self.target,
            ..base.clone()
        })
    }

    /// Returns it as what a batch goes on with.
    pub fn former(&self, name: &str) -> ExistingMoves {
        match self.existing.begun() {
            // That is found again, like any move that began earlier.
            true => ExistingMoves::new(),
            false => ExistingMoves::from([(name.to_owned(), self.existing.clone())]),
        }
    }
}
