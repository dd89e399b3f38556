//! Looking for every move that is not finished, on all clusters, without any storage host.
//!
//! Changes nothing. Moves are found by names first (one call for each node), and then by the notes of the guests whose
//! names belong together; a guest's notes are read only when its name is that of a move. Read next: `plan/status.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::claim;
use super::observe::sighting;
use super::survey;
use crate::cluster::{Api, ApiError};
use crate::plan::claim::Standing;
use crate::plan::mark::{Mark, NameMark};
use crate::plan::state::{Data, Facts};
use crate::plan::status::{HeldBy, MoveStatus, Status, VolumeStatus, can_abort, left, rung};
use crate::pve::drive::DriveKey;
use crate::pve::guest::{GuestDetail, GuestKind, GuestSummary};
use crate::pve::id::ClusterAlias;
use crate::transfer::probe::with_causes;

/// How many guests are read at the same time on one cluster.
const AT_ONCE: usize = 8;

/// One cluster, and the guests it lists.
struct Seen {
    api: Arc<dyn Api>,
    guests: Vec<GuestSummary>,
}

/// Asks all clusters, and returns the moves that touch one of `wanted`; those of all when none is named.
///
/// `thorough` reads the notes of every guest: a move whose source is on a cluster that is not known here, and whose target
/// has its final name already, is not found otherwise.
pub async fn status(
    apis: Vec<Arc<dyn Api>>,
    wanted: &BTreeSet<ClusterAlias>,
    thorough: bool,
) -> Status {
    let mut status = Status::default();
    let mut asking = JoinSet::new();
    for api in apis {
        asking.spawn(async move {
            let listed = list(api.as_ref()).await;
            (api, listed)
        });
    }
    let mut clusters: BTreeMap<ClusterAlias, Seen> = BTreeMap::new();
    while let Some(Ok((api, listed))) = asking.join_next().await {
        let alias = api.alias().clone();
        match listed {
            Ok((guests, gaps)) => {
                let gaps = gaps.into_iter().map(|gap| format!("{alias}: {gap}"));
                status.unanswered.extend(gaps);
                clusters.insert(alias, Seen { api, guests });
            }
            Err(error) => status
                .unanswered
                .push(format!("{alias}: {}", with_causes(&error))),
        }
    }
    let stems = stems(clusters.values());
    // Sources that some mark speaks of; what is left over is odd.
    let mut explained: BTreeSet<(ClusterAlias, u32)> = BTreeSet::new();
    for (alias, cluster) in &clusters {
        let targets = match targets(cluster, &stems, thorough, &mut status).await {
            Ok(targets) => targets,
            Err(error) => {
                status
                    .unanswered
                    .push(format!("{alias}: {}", with_causes(&error)));
                continue;
            }
        };
        for (detail, mark) in targets {
            let source = source_of(&mark, alias, &detail, &clusters).await;
            let source = match source {
                Ok(source) => source,
                Err(error) => {
                    status.unanswered.push(format!(
                        "the source of {} ({}): {}",
                        mark.name,
                        mark.source_cluster,
                        with_causes(&error)
                    ));
                    None
                }
            };
            if let Some((at, source)) = &source {
                explained.insert((at.clone(), source.place.vmid.number()));
            }
            let touches = wanted.is_empty()
                || wanted.contains(alias)
                || source.as_ref().is_some_and(|(at, _)| wanted.contains(at));
            if touches {
                let changing = match &source {
                    Some((at, source)) => is_changing(clusters.get(at), source).await,
                    None => false,
                };
                let found = one(cluster, &detail, &mark, source.as_ref(), changing).await;
                status.moves.push(found);
            }
        }
    }
    for (alias, cluster) in &clusters {
        for guest in &cluster.guests {
            let Some(name) = &guest.name else { continue };
            let of_move = NameMark::split(name).1 == NameMark::Cloning;
            let known = explained.contains(&(alias.clone(), guest.place.vmid.number()));
            if of_move && !known && (wanted.is_empty() || wanted.contains(alias)) {
                status.odd.push(format!(
                    "{name} ({alias}/{}) is stopped for a move, but no guest on the clusters that were asked carries its mark",
                    guest.place.vmid
                ));
            }
        }
    }
    status
        .moves
        .sort_by(|a, b| (&a.guest, &a.target_cluster).cmp(&(&b.guest, &b.target_cluster)));
    status
}

async fn list(api: &dyn Api) -> Result<(Vec<GuestSummary>, Vec<String>), ApiError> {
    let nodes = api.nodes().await?;
    let (guests, gaps) = survey::guests(api, &nodes).await?;
    let gaps = gaps
        .into_iter()
        .map(|gap| format!("{}: {}", gap.what, gap.why));
    let offline = nodes.iter().filter(|node| !node.online);
    let offline = offline.map(|node| format!("node {} is offline", node.name));
    Ok((guests, gaps.chain(offline).collect()))
}

/// Returns the own names of all guests that are stopped for a move or retired.
fn stems<'a>(clusters: impl Iterator<Item = &'a Seen>) -> BTreeSet<String> {
    clusters
        .flat_map(|cluster| &cluster.guests)
        .filter_map(|guest| {
            let (name, mark) = NameMark::split(guest.name.as_deref()?);
            matches!(mark, NameMark::Cloning | NameMark::Migrated).then(|| name.to_owned())
        })
        .collect()
}

/// Returns the guests of a cluster that carry a mark.
async fn targets(
    cluster: &Seen,
    stems: &BTreeSet<String>,
    thorough: bool,
    status: &mut Status,
) -> Result<Vec<(GuestDetail, Mark)>, ApiError> {
    let candidates = cluster.guests.iter().filter(|guest| {
        let Some(name) = guest.name.as_deref() else {
            return false;
        };
        let (name, mark) = NameMark::split(name);
        let may_be = match mark {
            NameMark::Creating => true,
            NameMark::Plain => thorough || stems.contains(name),
            NameMark::Cloning | NameMark::Migrated => false,
        };
        guest.place.kind == GuestKind::Qemu && may_be
    });
    let mut waiting = candidates.cloned();
    let mut reading = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while reading.len() < AT_ONCE {
            let Some(guest) = waiting.next() else { break };
            let api = Arc::clone(&cluster.api);
            reading.spawn(async move { api.guest(&guest.place).await });
        }
        let Some(read) = reading.join_next().await else {
            break;
        };
        match read {
            Ok(Ok(detail)) => match Mark::parse(detail.description()) {
                Some(mark) => found.push((detail, mark)),
                None if NameMark::split(detail.name()).1 == NameMark::Creating => {
                    status.odd.push(format!(
                        "{} ({}/{}) is called like a placeholder, but its notes hold no mark of a move",
                        detail.name(),
                        cluster.api.alias(),
                        detail.place.vmid
                    ));
                }
                None => {}
            },
            Ok(Err(error)) if error.says_no_such_guest() => {}
            Ok(Err(error)) => return Err(error),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    Ok(found)
}

/// Finds the source of a move: on the cluster of that alias, or, where the alias means nothing here or another cluster,
/// on the only one that has such a guest.
async fn source_of(
    mark: &Mark,
    target: &ClusterAlias,
    target_guest: &GuestDetail,
    clusters: &BTreeMap<ClusterAlias, Seen>,
) -> Result<Option<(ClusterAlias, GuestDetail)>, ApiError> {
    let is_it = |alias: &ClusterAlias, guest: &&GuestSummary| {
        let itself = alias == target && guest.place.vmid == target_guest.place.vmid;
        let named = guest.name.as_deref().map(NameMark::split);
        let marks = [NameMark::Plain, NameMark::Cloning, NameMark::Migrated];
        !itself
            && guest.place.vmid == mark.source.vmid
            && guest.place.kind == mark.source.kind
            && named.is_some_and(|(name, how)| name == mark.name && marks.contains(&how))
    };
    let on = |alias: &ClusterAlias| {
        let seen = clusters.get(alias)?;
        let guest = seen.guests.iter().find(|guest| is_it(alias, guest))?;
        Some((alias.clone(), seen, guest.place.clone()))
    };
    let found = on(&mark.source_cluster).or_else(|| {
        let mut others = clusters.keys().filter_map(on);
        match (others.next(), others.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    });
    let Some((alias, seen, place)) = found else {
        return Ok(None);
    };
    match seen.api.guest(&place).await {
        Ok(detail) => Ok(Some((alias, detail))),
        Err(error) if error.says_no_such_guest() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether a task is starting or stopping a guest; where that cannot be asked, its status has to do.
async fn is_changing(cluster: Option<&Seen>, guest: &GuestDetail) -> bool {
    let Some(cluster) = cluster else { return false };
    match cluster.api.power_task(&guest.place).await {
        Ok(task) => task.is_some(),
        Err(error) => {
            log::debug!("tasks of {}: {error}", guest.place.vmid);
            false
        }
    }
}

/// Returns what is known of one move. `changing` says whether a task is starting or stopping its source.
async fn one(
    cluster: &Seen,
    target: &GuestDetail,
    mark: &Mark,
    source: Option<&(ClusterAlias, GuestDetail)>,
    changing: bool,
) -> MoveStatus {
    let alias = cluster.api.alias();
    let volumes = volumes(cluster.api.as_ref(), target, mark).await;
    let attached = mark
        .volumes
        .iter()
        .all(|(key, volid)| is_attached(target, *key, volid));
    let facts = Facts {
        source: source.map(|(_, detail)| sighting(detail, changing)),
        target: Some(sighting(target, false)),
        data: volumes
            .iter()
            .map(|volume| match volume.there {
                Some(true) | None => Data::Partial,
                Some(false) => Data::Missing,
            })
            .collect(),
        attached,
        finishing: mark.finishing,
    };
    let source_alias = source.map(|(alias, _)| alias);
    let shown = source_alias.map_or(mark.source_cluster.as_str(), ClusterAlias::as_str);
    let (rung, certain) = rung(&facts);
    let (left, state) = match source {
        Some(_) => left(&rung, &mark.name, mark.running, shown, alias.as_str()),
        None => (
            "unclear",
            format!("unclear: {} could not be looked at on {shown}", mark.name),
        ),
    };
    let state = match mark.returning {
        true => format!("{state}; it is being returned to its source"),
        false => state,
    };
    let now = claim::now(cluster.api.as_ref()).await;
    let held = match claim::standing(mark, now) {
        Standing::Free => None,
        Standing::Ours => None,
        Standing::Held(claim, _) => Some((claim, true, "")),
        Standing::Stale(claim, _) => Some((claim, false, "; stale")),
        Standing::Ended(claim) => Some((claim, false, "; that process has ended")),
    };
    let held = held.map(|(claim, alive, words)| HeldBy {
        text: format!("{}{words}", claim.describe(now)),
        alive,
    });
    let take_over = if held.as_ref().is_some_and(|held| held.alive) {
        " --take-over"
    } else {
        ""
    };
    let command = |verb: &str| {
        source_alias
            .map(|source| format!("proxmove {verb}{take_over} {source} {alias} {}", mark.name))
    };
    let resume = match &mark.order {
        Some(_) => command("resume"),
        // An older release did not note what was asked for.
        None => mark.volumes.values().next().and_then(|volid| {
            let (source, node) = (source_alias?, &target.place.node);
            Some(format!(
                "proxmove {source} {alias} {node} {} {} (with the options it began with)",
                volid.storage, mark.name
            ))
        }),
    };
    MoveStatus {
        guest: mark.name.clone(),
        source_cluster: source_alias.map(ToString::to_string),
        source_called: mark.source_cluster.to_string(),
        source_vmid: mark.source.vmid.number(),
        source_name: source.map(|(_, detail)| detail.name().to_owned()),
        target_cluster: alias.to_string(),
        target_vmid: target.place.vmid.number(),
        target_node: target.place.node.to_string(),
        target_name: target.name().to_owned(),
        rung: match source {
            Some(_) => rung.to_string(),
            None => "unknown".to_owned(),
        },
        certain: certain && source.is_some(),
        left: left.to_owned(),
        state,
        volumes,
        by: mark.by.clone(),
        since: mark.since.clone(),
        held,
        resume,
        abort: command("abort").filter(|_| mark.returning || can_abort(&facts)),
    }
}

fn is_attached(target: &GuestDetail, key: DriveKey, volid: &crate::pve::id::Volid) -> bool {
    let (drives, _) = target.config.drives();
    drives
        .iter()
        .any(|drive| drive.key == key && drive.volume() == Some(volid))
}

async fn volumes(api: &dyn Api, target: &GuestDetail, mark: &Mark) -> Vec<VolumeStatus> {
    let mut listed = BTreeMap::new();
    let storages: BTreeSet<_> = mark.volumes.values().map(|volid| &volid.storage).collect();
    for storage in storages {
        let (node, owner) = (&target.place.node, Some(target.place.vmid));
        match api.volumes(node, storage, owner).await {
            Ok(volumes) => {
                listed.insert(storage, volumes);
            }
            Err(error) => log::debug!("volumes on {storage}: {error}"),
        }
    }
    let volumes = mark.volumes.iter();
    volumes
        .map(|(drive, volid)| {
            let volumes = listed.get(&volid.storage);
            let found = volumes.and_then(|all| all.iter().find(|volume| volume.volid == *volid));
            VolumeStatus {
                drive: drive.to_string(),
                volume: volid.to_string(),
                there: volumes.map(|_| found.is_some()),
                allocated: found.and_then(|volume| volume.used).map(|used| used.0),
                size: found.map(|volume| volume.size.0),
            }
        })
        .collect()
}
