//! Deciding: from everything observed to one plan per guest.
//!
//! Pure. It chooses VMIDs, volume names, formats, engines and routes, and collects every verdict. It never refuses by
//! itself without saying so in a [`Verdict`], and never forgets a drive silently: a drive that cannot be planned has a
//! verdict. With an earlier move's mark the recorded VMID and volumes are used again. Read next: `show.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{StorageConfig, StoragePath};
use crate::plan::check::{self, hosts::Side, space::Demand};
use crate::plan::facts::{
    Existing, ExistingMoves, HostFacts, HostKey, Hosts, SourceFacts, TargetFacts, VolumeFacts,
    WantedGuest,
};
use crate::plan::translate::drives::{self, DriveValue, Sparse};
use crate::plan::translate::schema::Fit;
use crate::plan::translate::{Input, translate};
use crate::plan::{
    ConfigNote, DriveAction, DrivePlan, GuestPlan, MoveRequest, Severity, Verdict, VolumePlan,
    rights, route,
};
use crate::pve::drive::{Bus, Drive, DriveKey, DriveSource};
use crate::pve::guest::{GuestKind, GuestRef, Power};
use crate::pve::id::{PoolId, StorageId, Vmid, Volid};
use crate::transfer::Format;

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
        for id in deciding.storages_in_use() {
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
    let cards = configs()
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
    changes: Vec<ConfigNote>,
    verdicts: Vec<Verdict>,
}

impl<'a> Deciding<'a> {
    fn storages_in_use(&self) -> BTreeSet<StorageId> {
        let mapped = self.request.storages.values();
        std::iter::once(&self.request.storage)
            .chain(mapped)
            .cloned()
            .collect()
    }

    fn storage_for(&self, key: DriveKey) -> &'a StorageId {
        let request = self.request;
        request.storages.get(&key).unwrap_or(&request.storage)
    }

    fn guest(&mut self, name: &str, guest: &WantedGuest) -> Result<GuestPlan, Verdict> {
        let request = self.request;
        let began = self.existing.get(name);
        let mut draft = Draft::default();
        draft.verdicts.extend(check::request::begun_elsewhere(
            request,
            name,
            self.existing,
        ));
        draft.verdicts.extend(check::request::name_taken(
            request,
            name,
            self.target,
            self.existing,
        ));
        draft.verdicts.extend(check::state::all(name, guest));
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
        let running = match began {
            Some(began) => began.mark.running,
            None => guest.detail.power == Power::Running,
        };
        let slots: BTreeSet<DriveKey> = draft.values.keys().copied().collect();
        let translation = translate(&Input {
            name,
            guest,
            source_release: self.source.release,
            target: self.target,
            vmid: place.vmid,
            bridges: &request.bridges,
            drives: &slots,
            onboot,
        });
        draft.changes.extend(translation.changes);
        draft.verdicts.extend(translation.verdicts);
        draft.verdicts.extend(check::network::bridges(
            name,
            &translation.create,
            self.target,
            request,
        ));
        let pool = self.pool(name, guest, &mut draft);
        let start = running && !request.skip_start && !request.skip_disks;
        let mut keys = translation.create.clone();
        keys.extend(translation.finish.clone());
        let used = rights::TargetUse {
            vmid: place.vmid,
            keys: &keys,
            drives: &draft.values,
            storages: &draft.storages,
            pool: pool.as_ref(),
            start,
            release: self.target.release,
        };
        self.rights(name, guest, &used, &mut draft.verdicts);
        draft.changes.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(GuestPlan {
            name: name.to_owned(),
            source_cluster: self.source.alias.clone(),
            source: guest.detail.place.clone(),
            target_cluster: self.target.alias.clone(),
            target: place,
            running,
            create: translation.create,
            finish: translation.finish,
            description: guest.detail.description().to_owned(),
            onboot,
            pool,
            drives: draft.drives,
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
        let missing = rights::missing_on_source(source, guest);
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

    fn pool(&self, name: &str, guest: &WantedGuest, draft: &mut Draft) -> Option<PoolId> {
        let pool = guest.pool.as_ref()?;
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

    fn volume(
        &mut self,
        name: &str,
        guest: &WantedGuest,
        drive: &Drive,
        volid: &Volid,
        vmid: Vmid,
        draft: &mut Draft,
    ) -> Option<VolumePlan> {
        let key = drive.key;
        let Some(facts) = guest.volumes.get(&key) else {
            draft.verdicts.push(Verdict::refuse(
                name,
                "volume-unreadable",
                format!("{key}: {volid} was not examined"),
                "run the command again",
            ));
            return None;
        };
        let cluster = &self.source.alias;
        let hosts = self.hosts;
        draft.verdicts.extend(check::volumes::all(
            name, cluster, guest, key, volid, facts, hosts,
        ));
        let ready = self.ready(key, facts)?;
        let began = self.existing.get(name);
        let recorded = began.and_then(|began| began.mark.volumes.get(&key));
        if began.is_none() {
            let demand = self.demands.entry(ready.storage.clone()).or_default();
            demand.add(ready.volume.used, ready.volume.size);
        }
        let source_format = route::format(&ready.volume.format)?;
        let target_format = match recorded {
            Some(volid) => format_of(volid).unwrap_or(source_format),
            None => route::target_format(key, source_format, self.target.release),
        };
        let impossible = |why: route::Impossible| {
            Verdict::refuse(name, why.code, format!("{key}: {}", why.reason), why.remedy)
        };
        if let Err(why) = route::engine(ready.source, ready.target) {
            draft.verdicts.push(impossible(why));
            return None;
        }
        let source_host = self.host(Side::Source, ready.source);
        let target_host = self.host(Side::Target, ready.target);
        let (source_host, target_host) = (source_host?, target_host?);
        let chosen = route::tool(source_host, target_host, source_format != target_format)
            .and_then(|(tool, tool_because)| {
                let (route, route_because) =
                    route::route(self.request.route, tool, source_host, ready.target)?;
                Ok((tool, route, format!("{route_because}; {tool_because}")))
            });
        let (tool, route, because) = match chosen {
            Ok(chosen) => chosen,
            Err(why) => {
                draft.verdicts.push(impossible(why));
                return None;
            }
        };
        if source_format != target_format {
            draft.changes.push(ConfigNote {
                key: key.to_string(),
                action: "changed",
                reason: format!(
                    "becomes {}, which this release of the target needs",
                    route::extension(target_format)
                ),
            });
        }
        let target_volid = match recorded {
            Some(volid) => volid.clone(),
            None => self.name_volume(&ready.storage, vmid, target_format, target_host),
        };
        let fit = Fit::of(self.target);
        let attached = drives::attached(name, drive, &target_volid, Sparse::Yes, &fit);
        draft.changes.extend(attached.notes);
        draft.verdicts.extend(attached.verdicts);
        Some(VolumePlan {
            source: volid.clone(),
            source_storage: ready.source.clone(),
            source_path: path_of(ready.source, volid)?,
            source_format,
            target_path: path_of(ready.target, &target_volid)?,
            target: target_volid,
            target_storage: ready.target.clone(),
            target_format,
            size: ready.volume.size,
            used: ready.volume.used,
            attach: attached.value,
            route,
            tool,
            because,
        })
    }

    /// Returns what planning a volume starts from; `None` when something is missing, which has its own verdict.
    fn ready<'b>(&self, key: DriveKey, facts: &'b VolumeFacts) -> Option<Ready<'b>>
    where
        'a: 'b,
    {
        let storage = self.storage_for(key);
        let target = self.target;
        Some(Ready {
            volume: facts.volume.as_ref().ok()?,
            source: facts.section.as_ref().ok()?,
            target: target.sections.get(storage)?.as_ref().ok()?,
            storage: storage.clone(),
        })
    }

    /// Returns what a host said, and remembers that it is needed.
    fn host(&mut self, side: Side, section: &StorageConfig) -> Option<&'a HostFacts> {
        let key = HostKey::of(section);
        let hosts = self.hosts;
        let facts = hosts.get(&key).and_then(|host| host.as_ref().ok());
        self.used_hosts.insert((side, key));
        facts
    }

    /// Returns the volume with the lowest number that neither the storage, its host nor this plan knows.
    fn name_volume(
        &mut self,
        storage: &StorageId,
        vmid: Vmid,
        format: Format,
        host: &HostFacts,
    ) -> Volid {
        let names = self.names.entry(storage.clone()).or_default();
        let files = host.listing.get(&vmid).into_iter().flatten();
        names.extend(files.map(|file| format!("{vmid}/{file}")));
        let mut number: u32 = 0;
        let stem = loop {
            let stem = format!("{vmid}/vm-{vmid}-disk-{number}");
            // Proxmox VE counts a number as taken whatever the extension.
            let taken = names.iter().any(|name| {
                name.strip_prefix(&stem)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if !taken {
                break stem;
            }
            number += 1;
        };
        let volname = format!("{stem}.{}", route::extension(format));
        names.insert(volname.clone());
        Volid {
            storage: storage.clone(),
            volname,
        }
    }
}

/// What planning a volume starts from.
struct Ready<'a> {
    volume: &'a crate::pve::inventory::Volume,
    source: &'a StorageConfig,
    target: &'a StorageConfig,
    storage: StorageId,
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

fn format_of(volid: &Volid) -> Option<Format> {
    volid
        .volname
        .rsplit_once('.')
        .and_then(|(_, word)| route::format(word))
}

/// Returns a volume's path on its storage's host; `None` where volumes are no files.
fn path_of(section: &StorageConfig, volid: &Volid) -> Option<String> {
    match &section.path {
        StoragePath::Directory(directory) => Some(format!(
            "{}/{}",
            directory.trim_end_matches('/'),
            volid.volname
        )),
        StoragePath::Zfs(_) => None,
    }
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
    for id in std::iter::once(&request.storage).chain(request.storages.values()) {
        if let Some(Ok(section)) = target.sections.get(id) {
            ask.entry(HostKey::of(section)).or_default().extend(&vmids);
        }
    }
    ask
}

#[cfg(test)]
mod tests;
