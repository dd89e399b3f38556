//! Deciding: from everything observed to one plan per guest.
//!
//! Pure. It chooses VMIDs, volume names, formats, engines and routes, and collects every verdict. It never refuses by
//! itself without saying so in a [`Verdict`], and never forgets a drive silently: a drive that cannot be planned has a
//! verdict. With an earlier move's mark the recorded VMID and volumes are used again. Read next: `decide/volume.rs` (one
//! volume), `decide/zvol.rs` (those of ZFS), `show.rs`.

mod names;
mod snapshots;
#[cfg(test)]
mod tests;
pub(crate) mod volume;
mod zvol;

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::check::{self, hosts::Side, space::Demand, state::Snapshots};
use crate::plan::evacuate::note;
use crate::plan::facts::{
    Existing, ExistingMoves, HostKey, Hosts, SourceFacts, TargetFacts, WantedGuest,
};
use crate::plan::snapshots::SnapshotsPlan;
use crate::plan::source::Planned;
use crate::plan::translate::drives::{self, DriveValue};
use crate::plan::translate::{Input, translate};
use crate::plan::{
    Back, ConfigNote, DriveAction, DrivePlan, GuestPlan, MoveRequest, Severity, Verdict, rights,
};
use crate::pve::drive::{Bus, Drive, DriveKey, DriveSource};
use crate::pve::guest::{GuestKind, GuestRef, Power};
use crate::pve::id::{PoolId, StorageId, Vmid};
use crate::transfer::EngineKind;

/// What was decided.
#[derive(Clone, Debug)]
#[must_use = "a decision that nobody reads refuses nothing"]
pub struct Decision {
    /// One plan for each guest that was found, in the order they were named; each with its own verdicts.
    pub plans: Vec<GuestPlan>,
    /// Verdicts on the whole request, and on guests without a plan.
    pub verdicts: Vec<Verdict>,
}

impl Decision {
    /// Returns all verdicts, those on the whole request first.
    pub fn all_verdicts(&self) -> impl Iterator<Item = &Verdict> {
        let of_guests = self.plans.iter().flat_map(|plan| &plan.verdicts);
        self.verdicts.iter().chain(of_guests)
    }

    /// Says whether anything forbids to start.
    pub fn refused(&self) -> bool {
        self.all_verdicts()
            .any(|verdict| verdict.severity == Severity::Refuse)
    }
}

/// Decides about every guest of a request.
pub fn decide(
    request: &MoveRequest,
    source: &SourceFacts,
    target: &TargetFacts,
    hosts: &Hosts,
    existing: &ExistingMoves,
) -> Decision {
    let mut deciding = Deciding {
        request,
        source,
        target,
        hosts,
        existing,
        vmids: BTreeSet::new(),
        names: target.volumes.clone(),
        demands: BTreeMap::new(),
        used_hosts: BTreeSet::new(),
    };
    let mut verdicts: Vec<Verdict> = Vec::new();
    verdicts.extend(check::request::same_cluster(request));
    verdicts.extend(check::request::one_vmid_for_many(request));
    verdicts.extend(check::request::named_twice(request));
    verdicts.extend(check::request::target_node(request, target));
    if !request.skip_disks {
        for id in storages_in_use(request, existing) {
            verdicts.extend(check::request::target_storage(request, target, &id));
            verdicts.extend(check::request::target_section(target, &id));
        }
    }
    let (from, to) = (source.alias.as_str(), target.alias.as_str());
    verdicts.extend(check::request::unanswered(from, &source.unanswered));
    verdicts.extend(check::request::unanswered(to, &target.unanswered));

    let mut plans: Vec<GuestPlan> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in request
        .guests
        .iter()
        .filter(|name| seen.insert(name.as_str()))
    {
        match source.wanted.get(name) {
            None => verdicts.push(check::request::not_found(name, source)),
            Some(guest) => match deciding.guest(name, guest) {
                Ok(plan) => plans.push(plan),
                Err(verdict) => verdicts.push(verdict),
            },
        }
    }
    verdicts.extend(check::space::all(&deciding.demands, target, hosts));
    for (side, key) in &deciding.used_hosts {
        verdicts.extend(check::hosts::all(*side, key, hosts));
    }
    verdicts.extend(unused_mappings(request, source));
    Decision { plans, verdicts }
}

fn unused_mappings(request: &MoveRequest, source: &SourceFacts) -> Vec<Verdict> {
    let configs = || source.wanted.values().map(|guest| &guest.detail.config.0);
    let sections = source
        .wanted
        .values()
        .flat_map(|guest| guest.sections.values());
    let cards = configs()
        .chain(sections.flatten().map(|section| &section.0))
        .flatten()
        .filter(|(key, _)| key.starts_with("net"))
        .map(|(_, value)| value.as_str());
    let mut verdicts = check::network::unused_mappings(request, cards);
    for key in request.storages.keys() {
        let name = key.to_string();
        if !configs().any(|config| config.contains_key(&name)) {
            let reason = format!("--map-storage {key}=... matches no drive");
            let remedy = "check the drive's name: qm config VMID";
            verdicts.push(Verdict::warn("", "mapping-unused", reason, remedy).of_request());
        }
    }
    verdicts
}

struct Deciding<'a> {
    request: &'a MoveRequest,
    source: &'a SourceFacts,
    target: &'a TargetFacts,
    hosts: &'a Hosts,
    existing: &'a ExistingMoves,
    /// VMIDs this plan has given away.
    vmids: BTreeSet<Vmid>,
    /// Volume names that exist or that this plan has given away.
    names: BTreeMap<StorageId, BTreeSet<String>>,
    /// What this plan puts on each storage.
    demands: BTreeMap<StorageId, Demand>,
    /// The hosts this plan needs.
    used_hosts: BTreeSet<(Side, HostKey)>,
}

/// One guest's plan as it grows.
#[derive(Default)]
struct Draft {
    drives: Vec<DrivePlan>,
    values: BTreeMap<DriveKey, String>,
    storages: BTreeSet<StorageId>,
    /// Whether the guest will be started on the target.
    start: bool,
    changes: Vec<ConfigNote>,
    verdicts: Vec<Verdict>,
}

impl<'a> Deciding<'a> {
    fn storage_for(&self, key: DriveKey) -> &'a StorageId {
        let request = self.request;
        request.storages.get(&key).unwrap_or(&request.storage)
    }

    fn guest(&mut self, name: &str, guest: &WantedGuest) -> Result<GuestPlan, Verdict> {
        let request = self.request;
        let began = self.existing.get(name);
        let running = match began {
            Some(began) => began.mark.running,
            None => guest.detail.power == Power::Running,
        };
        let mut draft = Draft {
            start: running && !request.skip_start && !request.skip_disks,
            ..Draft::default()
        };
        draft.verdicts.extend(check::request::begun_elsewhere(
            request,
            name,
            self.existing,
        ));
        draft.verdicts.extend(check::request::drives_gone(
            request,
            name,
            &guest.detail.config,
            began,
        ));
        draft.verdicts.extend(check::request::name_taken(
            request,
            name,
            self.target,
            self.existing,
        ));
        if let Some(former) = began.and_then(|began| began.former.as_deref()) {
            draft.verdicts.extend(check::former::all(
                name,
                former,
                &self.target.alias,
                &self.source.alias,
            ));
        }
        if began.is_none() {
            draft
                .verdicts
                .extend(check::former::unused(name, request, self.target));
        }
        draft.verdicts.extend(check::state::all(name, guest));
        let (wish, release) = (request.ha, self.target.release);
        draft
            .verdicts
            .extend(super::ha::judge(name, guest, wish, release));
        draft.verdicts.extend(check::devices::all(name, guest));
        let place = match began {
            Some(began) => began.target.clone(),
            None => {
                let (vmid, taken) = self.vmid(name)?;
                draft.verdicts.extend(taken);
                GuestRef {
                    node: request.node.clone(),
                    kind: GuestKind::Qemu,
                    vmid,
                }
            }
        };
        self.vmids.insert(place.vmid);
        for drive in guest.detail.config.drives().0 {
            self.drive(name, guest, &drive, place.vmid, &mut draft);
        }
        let onboot = match began {
            Some(began) => began.mark.onboot,
            None => guest.detail.config.value("onboot") == Some("1"),
        };
        let onboot_set = match began {
            Some(began) => began.mark.onboot_set,
            None => guest.detail.config.value("onboot").is_some(),
        };
        let slots: BTreeSet<DriveKey> = draft.values.keys().copied().collect();
        let mut translation = translate(&Input {
            name,
            guest,
            source_release: self.source.release,
            target: self.target,
            vmid: place.vmid,
            bridges: &request.bridges,
            drives: &slots,
            onboot,
            root: self.target.user == "root@pam",
        });
        // The note and the tag of an evacuation say where the guest belongs in its own cluster; they stay there.
        if let Some(tags) = translation.create.remove("tags") {
            let tags = note::without_tag(&tags);
            if !tags.is_empty() {
                translation.create.insert("tags".to_owned(), tags);
            }
        }
        draft.changes.extend(translation.changes);
        draft.verdicts.extend(translation.verdicts);
        draft.verdicts.extend(check::network::bridges(
            name,
            &translation.create,
            self.target,
            request,
        ));
        let snapshots = match request.with_snapshots && !request.skip_disks {
            true => self.snapshots(name, guest, place.vmid, &place.node, &mut draft),
            false => {
                let are = where_snapshots_are(guest, &draft.drives);
                let verdict = check::state::snapshots(name, guest, are);
                draft.verdicts.extend(verdict);
                SnapshotsPlan::default()
            }
        };
        let pool = self.pool(name, guest, place.vmid, &mut draft);
        let mut keys = translation.create.clone();
        keys.extend(translation.finish.clone());
        let back = began.and_then(|began| {
            let kept = began.mark.kept.as_ref()?;
            let former = began.former.as_deref();
            Some(Back::of(kept, &draft.drives, former, &keys))
        });
        if let Some(back) = &back {
            draft.verdicts.extend(check::former::snapshots(
                name,
                began.and_then(|began| began.former.as_deref()),
                &draft.drives,
                back,
            ));
        }
        let used = rights::TargetUse {
            vmid: place.vmid,
            keys: &keys,
            drives: &draft.values,
            storages: &draft.storages,
            pool: pool.as_ref(),
            start: draft.start,
            joins_ha: request.ha == super::ha::HaWish::Recreate && guest.ha_state.is_some(),
            asks_agent: draft.start
                && request.boot_check.is_some()
                && super::boot::has_agent(guest.detail.config.value("agent")),
            release: self.target.release,
        };
        self.rights(name, guest, &used, &mut draft.verdicts);
        draft.changes.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(GuestPlan {
            name: name.to_owned(),
            source_cluster: self.source.alias.clone(),
            source: guest.detail.place.clone(),
            planned: Planned::of(&guest.detail.config),
            target_cluster: self.target.alias.clone(),
            target: place,
            running,
            create: translation.create,
            finish: translation.finish,
            description: note::Away::remove(guest.detail.description()),
            onboot,
            onboot_set,
            pool,
            back,
            drives: draft.drives,
            replication: guest.replication.iter().map(|job| job.id.clone()).collect(),
            snapshots,
            changes: draft.changes,
            verdicts: draft.verdicts,
        })
    }

    fn rights(
        &self,
        name: &str,
        guest: &WantedGuest,
        used: &rights::TargetUse<'_>,
        verdicts: &mut Vec<Verdict>,
    ) {
        let (source, target) = (self.source, self.target);
        let missing = rights::missing_on_source(source, guest, self.request.ha);
        verdicts.extend(check::rights::missing(
            name,
            source.alias.as_str(),
            &source.user,
            &missing,
        ));
        let missing = rights::missing_on_target(target, used);
        verdicts.extend(check::rights::missing(
            name,
            target.alias.as_str(),
            &target.user,
            &missing,
        ));
    }

    fn pool(
        &self,
        name: &str,
        guest: &WantedGuest,
        vmid: Vmid,
        draft: &mut Draft,
    ) -> Option<PoolId> {
        let pool = guest.pool.as_ref()?;
        let mut there = self.target.guests.iter();
        let there = there.find(|guest| guest.place.vmid == vmid);
        if let Some(joined) = there.and_then(|guest| guest.pool.as_ref()) {
            if joined != pool {
                draft.verdicts.push(Verdict::warn(
                    name,
                    "pool-other",
                    format!(
                        "{vmid} is in the pool {joined} of {}, and stays there, not in {pool}",
                        self.target.alias
                    ),
                    format!("afterwards: pvesh set /pools/{pool} --vms {vmid} --allow-move 1"),
                ));
            }
            return None;
        }
        if self.target.pools.contains(pool) {
            return Some(pool.clone());
        }
        draft.changes.push(ConfigNote {
            key: "pool".to_owned(),
            action: "dropped",
            reason: format!(
                "{} has no pool {pool}, or {} may not see it",
                self.target.alias, self.target.user
            ),
        });
        draft.verdicts.push(Verdict::warn(
            name,
            "pool-missing",
            format!(
                "its pool {pool} is not on {}, so it will be in none",
                self.target.alias
            ),
            format!("create it first: pvesh create /pools --poolid {pool}"),
        ));
        None
    }

    /// Chooses a VMID: the operator's, else the cluster's suggestions, each given once.
    fn vmid(&self, name: &str) -> Result<(Vmid, Option<Verdict>), Verdict> {
        if let Some(vmid) = self.request.target_vmid {
            return Ok((vmid, check::request::vmid_taken(name, vmid, self.target)));
        }
        let reserved = self.existing.values().map(|began| began.target.vmid);
        let taken: BTreeSet<Vmid> = self
            .target
            .guests
            .iter()
            .map(|guest| guest.place.vmid)
            .chain(reserved)
            .chain(self.vmids.iter().copied())
            .collect();
        // Volumes of a guest that is gone would become the new guest's.
        let free = |vmid: &Vmid| !taken.contains(vmid) && !self.target.has_volumes_of(*vmid);
        let suggested = self.target.free_vmids.iter().copied().find(free);
        let last = self.target.free_vmids.iter().max();
        let above = || {
            let start = last?.number();
            (start..=999_999_999)
                .filter_map(|number| Vmid::new(number).ok())
                .find(free)
        };
        suggested
            .or_else(above)
            .map(|vmid| (vmid, None))
            .ok_or_else(|| {
                Verdict::refuse(
                    name,
                    "vmid-none",
                    format!("{} has no free VMID", self.target.alias),
                    "name one with --target-vmid",
                )
            })
    }

    fn drive(
        &mut self,
        name: &str,
        guest: &WantedGuest,
        drive: &Drive,
        vmid: Vmid,
        draft: &mut Draft,
    ) {
        let key = drive.key;
        let skip = self.request.skip_disks;
        let leave = |draft: &mut Draft, reason: String| {
            draft.changes.push(ConfigNote {
                key: key.to_string(),
                action: "dropped",
                reason,
            });
            draft.drives.push(DrivePlan {
                key,
                action: DriveAction::Leave,
            });
        };
        let volid = match &drive.source {
            DriveSource::Volume(volid) => volid,
            DriveSource::Nothing => return set(draft, key, drives::ejected(drive)),
            // check::devices has refused these.
            DriveSource::PhysicalCdrom | DriveSource::Path(_) => return,
        };
        if key.bus == Bus::Unused {
            leave(
                draft,
                format!("{volid} is attached to nothing; it stays with the retired source"),
            );
            draft.verdicts.push(Verdict::warn(
                name,
                "unused-volume",
                format!("{key} ({volid}) is attached to nothing and stays behind"),
                format!(
                    "attach it first if it is needed: qm set {} --scsiN {volid}",
                    guest.detail.place.vmid
                ),
            ));
        } else if drive.is_cloudinit() && !skip {
            let storage = self.storage_for(key);
            set(draft, key, drives::cloudinit(drive, storage));
        } else if drive.is_cdrom() && !drive.is_cloudinit() {
            set(draft, key, drives::ejected(drive));
        } else if skip {
            leave(draft, format!("{volid} is not copied (--skip-disks)"));
        } else if let Some(plan) = self.volume(name, guest, drive, volid, vmid, draft) {
            draft.values.insert(key, plan.attach.clone());
            draft.storages.insert(plan.target.storage.clone());
            draft.drives.push(DrivePlan {
                key,
                action: DriveAction::Copy(Box::new(plan)),
            });
        }
    }
}

/// Returns where a guest's snapshots are: beside its volumes when all of them are copied from ZFS to ZFS.
fn where_snapshots_are(guest: &WantedGuest, drives: &[DrivePlan]) -> Snapshots {
    let mut copied = 0;
    for drive in drives {
        match &drive.action {
            DriveAction::Copy(volume) => match volume.engine {
                EngineKind::Zfs => copied += 1,
                EngineKind::Image => return Snapshots::Inside,
            },
            DriveAction::Set { .. } | DriveAction::Leave => {}
        }
    }
    // Drives without a plan are refused anyway; nothing is known about theirs.
    if copied > 0 && copied == guest.volumes.len() {
        Snapshots::StayBehind
    } else {
        Snapshots::Inside
    }
}

fn set(draft: &mut Draft, key: DriveKey, value: DriveValue) {
    draft.changes.extend(value.notes);
    draft.verdicts.extend(value.verdicts);
    draft.values.insert(key, value.value.clone());
    draft.drives.push(DrivePlan {
        key,
        action: DriveAction::Set { value: value.value },
    });
}

/// Returns the target's storages a request is about: those that are named, and those where an earlier move began.
pub fn storages_in_use(request: &MoveRequest, existing: &ExistingMoves) -> BTreeSet<StorageId> {
    let recorded = request
        .guests
        .iter()
        .filter_map(|name| existing.get(name))
        .flat_map(|began| began.mark.volumes.values())
        .map(|volid| &volid.storage);
    std::iter::once(&request.storage)
        .chain(request.storages.values())
        .chain(recorded)
        .cloned()
        .collect()
}

/// Returns the sections whose hosts must be asked, with the VMIDs whose files matter there.
///
/// The target's VMIDs are the suggestions, the operator's own, and those of earlier moves.
pub fn hosts_to_ask(
    request: &MoveRequest,
    source: &SourceFacts,
    target: &TargetFacts,
    existing: &ExistingMoves,
) -> BTreeMap<HostKey, BTreeSet<Vmid>> {
    let mut ask: BTreeMap<HostKey, BTreeSet<Vmid>> = BTreeMap::new();
    if request.skip_disks {
        return ask;
    }
    for guest in source.wanted.values() {
        for facts in guest.volumes.values() {
            if let Ok(section) = &facts.section {
                let vmids = ask.entry(HostKey::of(section)).or_default();
                vmids.insert(guest.detail.place.vmid);
            }
        }
    }
    let mut vmids: BTreeSet<Vmid> = target.free_vmids.iter().copied().collect();
    vmids.extend(request.target_vmid);
    vmids.extend(existing.values().map(|began: &Existing| began.target.vmid));
    for id in storages_in_use(request, existing) {
        if let Some(Ok(section)) = target.sections.get(&id) {
            ask.entry(HostKey::of(section)).or_default().extend(&vmids);
        }
    }
    ask
}
