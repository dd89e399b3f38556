//! What is judged once for the whole request, and about names.
//!
//! Pure. Read next: `state.rs`.

use std::collections::BTreeSet;

use super::did_you_mean;
use crate::config::StorageConfig;
use crate::plan::facts::{Existing, ExistingMoves, SourceFacts, TargetFacts, Unanswered, member};
use crate::plan::mark::{CLONING, CREATING, MIGRATED};
use crate::plan::route::{self, Place};
use crate::plan::{MoveRequest, Verdict};
use crate::pve::drive::DriveKey;
use crate::pve::guest::{GuestConfig, GuestKind, GuestSummary};
use crate::pve::id::{StorageId, Vmid, Volid};

fn refuse(code: &'static str, reason: String, remedy: impl Into<String>) -> Verdict {
    Verdict::refuse("", code, reason, remedy).of_request()
}

fn warn(code: &'static str, reason: String, remedy: impl Into<String>) -> Verdict {
    Verdict::warn("", code, reason, remedy).of_request()
}

/// Refuses a move inside one cluster that was not asked for as such.
pub fn same_cluster(request: &MoveRequest) -> Option<Verdict> {
    (request.source == request.target && !request.ignore_exists).then(|| {
        refuse(
            "same-cluster",
            format!("{} is both source and target", request.source),
            "name another target cluster, or use --ignore-exists to move inside one cluster",
        )
    })
}

/// Refuses one VMID for several guests.
pub fn one_vmid_for_many(request: &MoveRequest) -> Option<Verdict> {
    let vmid = request.target_vmid?;
    (request.guests.len() > 1).then(|| {
        refuse(
            "vmid-for-many",
            format!(
                "--target-vmid {vmid} is given for {} guests",
                request.guests.len()
            ),
            "move that guest alone, or leave --target-vmid out",
        )
    })
}

/// Refuses guests that are named more than once.
pub fn named_twice(request: &MoveRequest) -> Vec<Verdict> {
    let mut seen = BTreeSet::new();
    let mut twice: Vec<&String> = request
        .guests
        .iter()
        .filter(|name| !seen.insert(name.as_str()))
        .collect();
    twice.dedup();
    twice
        .into_iter()
        .map(|name| {
            Verdict::refuse(
                name,
                "guest-twice",
                format!("{name} is named more than once"),
                "name it once",
            )
        })
        .collect()
}

/// Judges the target node.
pub fn target_node(request: &MoveRequest, target: &TargetFacts) -> Option<Verdict> {
    let Some(node) = member(&target.nodes, &request.node) else {
        let names = target.nodes.iter().map(|node| node.name.as_str());
        let hint = did_you_mean(request.node.as_str(), names);
        let all: Vec<&str> = target.nodes.iter().map(|node| node.name.as_str()).collect();
        return Some(refuse(
            "node-unknown",
            format!("{} has no node {}{hint}", target.alias, request.node),
            format!("choose one of: {}", all.join(", ")),
        ));
    };
    if !node.online {
        return Some(refuse(
            "node-offline",
            format!("node {} of {} is offline", node.name, target.alias),
            "bring it up, or choose another node",
        ));
    }
    node.maintenance.then(|| {
        refuse(
            "node-maintenance",
            format!("node {} of {} is in maintenance", node.name, target.alias),
            format!(
                "ha-manager crm-command node-maintenance disable {}, or choose another node",
                node.name
            ),
        )
    })
}

/// Judges one storage of the target node that volumes shall go to.
pub fn target_storage(
    request: &MoveRequest,
    target: &TargetFacts,
    id: &StorageId,
) -> Option<Verdict> {
    let online = member(&target.nodes, &request.node).is_some_and(|node| node.online);
    if !online {
        // Nothing can be known about it; the node's own verdict says why.
        return None;
    }
    let place = format!("storage {id} on node {} of {}", request.node, target.alias);
    let Some(storage) = target.storage(id) else {
        let hint = did_you_mean(id.as_str(), target.storages.iter().map(|at| at.id.as_str()));
        return Some(refuse(
            "storage-missing",
            format!("there is no {place}{hint}"),
            format!(
                "choose another storage, or create it; it also needs Datastore.Audit for {}",
                target.user
            ),
        ));
    };
    if !storage.enabled {
        return Some(refuse(
            "storage-disabled",
            format!("{place} is disabled"),
            format!("pvesm set {id} --disable 0"),
        ));
    }
    if !storage.active {
        return Some(refuse(
            "storage-inactive",
            format!("{place} is not active"),
            format!("see why: pvesm status --storage {id}"),
        ));
    }
    if !storage.content.contains("images") {
        let mut content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
        content.push("images");
        return Some(refuse(
            "storage-no-images",
            format!("{place} does not hold disk images"),
            format!("pvesm set {id} --content {}", content.join(",")),
        ));
    }
    if route::place(&storage.kind).is_none() {
        return Some(refuse(
            "storage-kind",
            format!(
                "{place} is of type {}, which this release does not copy to yet",
                storage.kind
            ),
            format!("choose a storage of type {}", route::STORAGE_KINDS),
        ));
    }
    None
}

/// Refuses a storage whose host and place are not known, or are those of another kind of storage.
pub fn target_section(target: &TargetFacts, id: &StorageId) -> Option<Verdict> {
    let storage = target.storage(id)?;
    let place = route::place(&storage.kind)?;
    let why = match target.sections.get(id) {
        Some(Ok(section)) => {
            let (code, reason, remedy) = mismatch(place, &storage.kind, section)?;
            return Some(refuse(code, reason, remedy));
        }
        Some(Err(why)) => why.as_str(),
        None => "it is not in proxmoverc",
    };
    Some(refuse(
        "storage-unconfigured",
        format!(
            "it is not known how to reach storage {id} of {}: {why}",
            target.alias
        ),
        format!(
            "add a section [storage:{}:{id}] with ssh, path and temp to proxmoverc",
            target.alias
        ),
    ))
}

/// Says what is wrong with a section whose `path` is not of its storage's kind: code, reason and remedy.
pub fn mismatch(
    place: Place,
    kind: &str,
    section: &StorageConfig,
) -> Option<(&'static str, String, String)> {
    let right = match (place, Place::of(&section.path)) {
        (Place::Directory, Place::Directory) | (Place::Zfs, Place::Zfs) => return None,
        (Place::Directory, Place::Zfs) => {
            "path=/DIRECTORY, the directory with one directory per VMID"
        }
        (Place::Zfs, Place::Directory) => "path=zfs:POOL/DATASET, the dataset with the zvols",
    };
    let name = format!("[storage:{}:{}]", section.cluster, section.storage);
    Some((
        "section-mismatch",
        format!(
            "storage {} of {} is of type {kind}, but its section says path={}",
            section.storage, section.cluster, section.path
        ),
        format!("write {right} into {name} of proxmoverc, or remove the section"),
    ))
}

/// Warns of what was asked and not answered.
pub fn unanswered(cluster: &str, unanswered: &[Unanswered]) -> Vec<Verdict> {
    unanswered
        .iter()
        .map(|gap| {
            warn(
                "not-observed",
                format!("{cluster} did not tell the {}: {}", gap.what, gap.why),
                "what depends on it was not checked; see 'proxmove check'",
            )
        })
        .collect()
}

fn named<'a>(guests: &'a [GuestSummary], name: &str) -> Vec<&'a GuestSummary> {
    guests
        .iter()
        .filter(|guest| guest.name.as_deref() == Some(name))
        .collect()
}

fn places(guests: &[&GuestSummary]) -> String {
    let places: Vec<String> = guests
        .iter()
        .map(|guest| format!("{} on {}", guest.place.vmid, guest.place.node))
        .collect();
    places.join(", ")
}

/// Says why a guest that was asked for is not among the wanted ones: missing, double, or a container.
pub fn not_found(name: &str, source: &SourceFacts) -> Verdict {
    let found = named(&source.guests, name);
    if let [only] = found.as_slice() {
        if only.place.kind == GuestKind::Lxc {
            return Verdict::refuse(
                name,
                "guest-is-container",
                format!(
                    "{name} ({}) is a container, which this release does not move yet",
                    only.place.vmid
                ),
                "move it by backup and restore: vzdump and pct restore",
            );
        }
        let offline = member(&source.nodes, &only.place.node).is_none_or(|node| !node.online);
        let why = if offline {
            "its node is offline"
        } else {
            "its node did not answer"
        };
        return Verdict::refuse(
            name,
            "guest-unreadable",
            format!("{name} ({}) cannot be read: {why}", places(&found)),
            format!("bring node {} up", only.place.node),
        );
    }
    if !found.is_empty() {
        return Verdict::refuse(
            name,
            "guest-double",
            format!(
                "{name} is the name of {} guests: {}",
                found.len(),
                places(&found)
            ),
            "rename all but one: qm set VMID --name OTHER-NAME",
        );
    }
    for (mark, meaning) in [
        (MIGRATED, "it has been moved already"),
        (CLONING, "its move is not finished"),
    ] {
        let marked = named(&source.guests, &format!("{name}{mark}"));
        if !marked.is_empty() {
            return Verdict::refuse(
                name,
                "guest-missing",
                format!(
                    "{} has no guest {name}, but {name}{mark} ({}): {meaning}",
                    source.alias,
                    places(&marked)
                ),
                format!(
                    "nothing is left to do; to move it again, rename it: qm set {} --name {name}",
                    marked
                        .first()
                        .map_or_else(String::new, |guest| guest.place.vmid.to_string())
                ),
            );
        }
    }
    let names = source
        .guests
        .iter()
        .filter_map(|guest| guest.name.as_deref());
    Verdict::refuse(
        name,
        "guest-missing",
        format!(
            "{} has no guest {name}{}",
            source.alias,
            did_you_mean(name, names)
        ),
        format!(
            "check the name; {} sees guests on which it has VM.Audit only",
            source.user
        ),
    )
}

/// Refuses a guest whose name is taken on the target, unless the taker is the placeholder of this very move.
pub fn name_taken(
    request: &MoveRequest,
    name: &str,
    target: &TargetFacts,
    existing: &ExistingMoves,
) -> Option<Verdict> {
    if existing.get(name).is_some_and(Existing::begun) {
        return None;
    }
    let placeholder = named(&target.guests, &format!("{name}{CREATING}"));
    if !placeholder.is_empty() {
        return Some(Verdict::refuse(
            name,
            "placeholder-foreign",
            format!(
                "{} has a {name}{CREATING} ({}) without proxmove's notes of this move",
                target.alias,
                places(&placeholder)
            ),
            "find out whose it is; rename or remove it",
        ));
    }
    if request.ignore_exists {
        return None;
    }
    let taken = named(&target.guests, name);
    (!taken.is_empty()).then(|| {
        Verdict::refuse(
            name,
            "name-taken",
            format!(
                "{} has a guest {name} already ({})",
                target.alias,
                places(&taken)
            ),
            "rename one of them, or use --ignore-exists to have both",
        )
    })
}

/// Refuses a VMID that somebody has.
pub fn vmid_taken(name: &str, vmid: Vmid, target: &TargetFacts) -> Option<Verdict> {
    let taker = target
        .guests
        .iter()
        .find(|guest| guest.place.vmid == vmid)?;
    let taker = taker.name.as_deref().unwrap_or("a guest without name");
    Some(Verdict::refuse(
        name,
        "vmid-taken",
        format!("VMID {vmid} is taken on {} by {taker}", target.alias),
        "choose another --target-vmid, or leave it out",
    ))
}

/// Refuses to continue a move on another node than it began on.
pub fn begun_elsewhere(
    request: &MoveRequest,
    name: &str,
    existing: &ExistingMoves,
) -> Option<Verdict> {
    let began = existing.get(name)?;
    (began.target.node != request.node).then(|| {
        Verdict::refuse(
            name,
            "begun-elsewhere",
            format!(
                "its move began towards node {}, not {}",
                began.target.node, request.node
            ),
            format!(
                "run it again with {}, or delete the placeholder on the target first",
                began.target.node
            ),
        )
    })
}

/// Refuses to go on with a move that has copied a drive which the guest does not have any more: the copy would be nobody's.
pub fn drives_gone(
    request: &MoveRequest,
    name: &str,
    source: &GuestConfig,
    began: Option<&Existing>,
) -> Vec<Verdict> {
    let Some(mark) = began.map(|began| &began.mark) else {
        return Vec::new();
    };
    let gone = mark.volumes.iter().filter(|(key, _)| {
        // The former self keeps its own.
        !source.has_volume(**key) && mark.kept.as_ref().is_none_or(|kept| !kept.contains(key))
    });
    let (from, to) = (&request.source, &request.target);
    let refuse = |(key, volid): (&DriveKey, &Volid)| {
        Verdict::refuse(
            name,
            "drive-gone",
            format!(
                "its move began with {key} (its copy is {volid}), which the guest does not have any more"
            ),
            format!("give the move up and begin anew: proxmove abort {from} {to} {name}"),
        )
    };
    gone.map(refuse).collect()
}
