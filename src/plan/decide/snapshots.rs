//! Deciding about the guest's own snapshots: which travel, which stay and why, and their sections for the target.
//!
//! Pure. A snapshot travels when each of its drives does, with its data: between ZFS and ZFS as snapshots of the volumes,
//! in a qcow2 file that stays one inside of it. One that is damaged, or that needs what does not travel, stays with a
//! warning; a way on which none can travel is refused. Its memory stays in any case: QEMU's state is for the machine and
//! the processor it was saved on, and without it a rollback gives the disks as after a power cut, and a guest that is off.
//! Read next: `../snapshots.rs` (what comes out), `../translate.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Deciding, Draft};
use crate::plan::facts::zfs::SnapshotFacts;
use crate::plan::facts::{HostKey, WantedGuest};
use crate::plan::snapshots::{SnapshotPlan, SnapshotsPlan, ancestor, in_order};
use crate::plan::translate::drives::{self, Sparse};
use crate::plan::translate::schema::Fit;
use crate::plan::translate::{Input, translate};
use crate::plan::{ConfigNote, DriveAction, Severity, Verdict, VolumePlan, check};
use crate::pve::drive::{Bus, Drive, DriveKey};
use crate::pve::guest::{GuestConfig, GuestSnapshot};
use crate::pve::id::{NodeName, Vmid, Volid};
use crate::pve::property::PropertyString;
use crate::transfer::{EngineKind, Format};
use crate::units::Bytes;

/// Why a snapshot does not travel.
enum Obstacle {
    /// It stays, for this reason.
    Stays(String),
    /// The guest must not be moved like this.
    Refused(Box<Verdict>),
}

fn stays<T>(why: impl Into<String>) -> Result<T, Obstacle> {
    Err(Obstacle::Stays(why.into()))
}

impl Deciding<'_> {
    /// Decides about all snapshots of a guest, and tells its volumes which of them they carry.
    pub(super) fn snapshots(
        &mut self,
        name: &str,
        guest: &WantedGuest,
        vmid: Vmid,
        node: &NodeName,
        draft: &mut Draft,
    ) -> SnapshotsPlan {
        let all = in_order(&guest.detail.snapshots);
        let mut plan = SnapshotsPlan::default();
        let mut carried: BTreeMap<DriveKey, Vec<String>> = BTreeMap::new();
        for snapshot in &all {
            match self.snapshot(name, guest, snapshot, vmid, draft) {
                Ok((travels, keys)) => {
                    for key in keys {
                        let names = carried.entry(key).or_default();
                        names.push(snapshot.name.clone());
                    }
                    plan.travelling.push(travels);
                }
                Err(Obstacle::Stays(why)) => {
                    draft.verdicts.push(Verdict::warn(
                        name,
                        "snapshot-stays",
                        format!(
                            "its snapshot {} stays with the source: {why}",
                            snapshot.name
                        ),
                        "keep the retired source as long as it is needed",
                    ));
                    plan.staying.insert(snapshot.name.clone(), why);
                }
                Err(Obstacle::Refused(verdict)) => draft.verdicts.push(*verdict),
            }
        }
        let travels: BTreeSet<String> = plan.travelling.iter().map(|it| it.name.clone()).collect();
        let nearest = |parent: Option<&str>| ancestor(&all, &travels, parent);
        for travelling in &mut plan.travelling {
            travelling.parent = nearest(travelling.parent.as_deref());
        }
        plan.parent = nearest(guest.detail.config.value("parent"));
        plan.known = all.into_iter().cloned().collect();
        self.load(&mut plan, &carried, draft);
        if plan.travelling.is_empty() {
            return plan;
        }
        // It belongs to snapshots that are carried.
        draft.changes.retain(|note| note.key != "parent");
        draft.verdicts.extend(without_memory(name, &plan));
        draft
            .verdicts
            .extend(check::state::node_files(name, node, self.target));
        plan
    }

    /// Decides about one snapshot; returns it with the drives that carry its data.
    fn snapshot(
        &self,
        name: &str,
        guest: &WantedGuest,
        snapshot: &GuestSnapshot,
        vmid: Vmid,
        draft: &mut Draft,
    ) -> Result<(SnapshotPlan, Vec<DriveKey>), Obstacle> {
        let source = guest.detail.place.vmid;
        let refuse = |code, reason: String, remedy: String| {
            Err(Obstacle::Refused(Box::new(Verdict::refuse(
                name, code, reason, remedy,
            ))))
        };
        let section = match guest.sections.get(&snapshot.name) {
            Some(Ok(section)) => section,
            Some(Err(why)) => {
                return refuse(
                    "snapshot-unreadable",
                    format!("its snapshot {} cannot be read: {why}", snapshot.name),
                    format!("see qm listsnapshot {source}"),
                );
            }
            None => {
                return refuse(
                    "snapshot-unreadable",
                    format!("its snapshot {} was not examined", snapshot.name),
                    "run the command again".to_owned(),
                );
            }
        };
        if let Some(state) = section.value("snapstate") {
            return stays(format!("it is incomplete (snapstate: {state})"));
        }
        let mut plan = SnapshotPlan {
            name: snapshot.name.clone(),
            parent: section.value("parent").map(str::to_owned),
            taken: snapshot.taken,
            description: section.value("description").unwrap_or_default().to_owned(),
            without_memory: snapshot.with_memory || section.value("vmstate").is_some(),
            ..SnapshotPlan::default()
        };
        let mut carriers = Vec::new();
        let (parsed, wrong) = section.drives();
        if let Some((key, _)) = wrong.first() {
            return stays(format!("nothing is known of its drive {key}"));
        }
        let fit = Fit::of(self.target);
        for drive in parsed.iter().filter(|drive| drive.key.bus != Bus::Unused) {
            let key = drive.key.to_string();
            if drive.is_cloudinit() {
                plan.as_now.insert(key);
                continue;
            }
            let Some(volid) = drive.volume().filter(|_| !drive.is_cdrom()) else {
                plan.keys.insert(key, drives::EJECTED.to_owned());
                continue;
            };
            let Some((carrier, volume)) = copied(draft, volid) else {
                return stays(format!("it needs {volid}, which is not copied"));
            };
            self.carries(name, guest, &snapshot.name, carrier, volume)?;
            carriers.push(carrier);
            let attached = drives::attached(name, drive, &volume.target, Sparse::No, &fit);
            if let Some(verdict) = refusal(&attached.verdicts) {
                return stays(verdict.reason.clone());
            }
            plan.keys.insert(key, sized(&attached.value, drive));
        }
        self.translated(name, guest, section, vmid, &mut plan, draft)?;
        Ok((plan, carriers))
    }

    /// Translates all but the drives, as the present configuration is translated; what is written by root needs no rights.
    fn translated(
        &self,
        name: &str,
        guest: &WantedGuest,
        section: &GuestConfig,
        vmid: Vmid,
        plan: &mut SnapshotPlan,
        draft: &mut Draft,
    ) -> Result<(), Obstacle> {
        let slots = section.drives().0.into_iter().map(|drive| drive.key);
        let slots = slots.filter(|key| key.bus != Bus::Unused).collect();
        let mut then = guest.clone();
        then.detail.config = section.clone();
        for mine in ["description", "parent", "snaptime", "snapstate", "vmstate"] {
            then.detail.config.0.remove(mine);
        }
        then.detail
            .config
            .0
            .retain(|key, _| !key.starts_with("running"));
        let out = translate(&Input {
            name,
            guest: &then,
            source_release: self.source.release,
            target: self.target,
            vmid,
            bridges: &self.request.bridges,
            drives: &slots,
            onboot: section.value("onboot") == Some("1"),
            root: true,
        });
        let bridges = check::network::bridges(name, &out.create, self.target, self.request);
        if let Some(verdict) = refusal(&out.verdicts).or(refusal(&bridges)) {
            return stays(verdict.reason.clone());
        }
        // What is said of the present configuration is not said again of each snapshot.
        let said: BTreeSet<&str> = draft.verdicts.iter().map(|it| it.code).collect();
        let new = out.verdicts.iter().filter(|it| !said.contains(it.code));
        let new: Vec<Verdict> = new
            .map(|verdict| Verdict {
                reason: format!("snapshot {}: {}", plan.name, verdict.reason),
                ..verdict.clone()
            })
            .collect();
        draft.verdicts.extend(new);
        let known = |note: &ConfigNote| draft.changes.contains(note);
        let notes: Vec<ConfigNote> = out
            .changes
            .into_iter()
            .filter(|note| note.action != "kept for later" && !known(note))
            .map(|note| ConfigNote {
                key: format!("{}/{}", plan.name, note.key),
                ..note
            })
            .collect();
        draft.changes.extend(notes);
        plan.keys.extend(out.create);
        plan.keys.extend(out.finish);
        if let Some(own) = section.value("name") {
            plan.keys.insert("name".to_owned(), own.to_owned());
        }
        plan.as_now.insert("meta".to_owned());
        Ok(())
    }

    /// Says whether a volume's copy has a snapshot of it as well.
    fn carries(
        &self,
        name: &str,
        guest: &WantedGuest,
        snapshot: &str,
        key: DriveKey,
        volume: &VolumePlan,
    ) -> Result<(), Obstacle> {
        match volume.engine {
            EngineKind::Zfs => {
                let zvol = volume.source_zvol.as_ref();
                let dataset = zvol.map_or("", |zvol| zvol.dataset.as_str());
                let known = self
                    .taken(volume)
                    .iter()
                    .any(|taken| taken.name == snapshot);
                match known {
                    true => Ok(()),
                    false => stays(format!("there is no {dataset}@{snapshot}")),
                }
            }
            EngineKind::Image
                if volume.source_format == Format::Qcow2
                    && volume.target_format == Format::Qcow2 =>
            {
                Ok(())
            }
            EngineKind::Image => {
                let vmid = guest.detail.place.vmid;
                let what = match (&volume.source_zvol, volume.source_format) {
                    (Some(_), _) => "a zvol",
                    (None, Format::Qcow2) => "a qcow2 file",
                    (None, Format::Raw) => "a raw file",
                };
                Err(Obstacle::Refused(Box::new(Verdict::refuse(
                    name,
                    "snapshots-cannot-travel",
                    format!(
                        "{key}: the snapshots of {what} cannot be carried into {}",
                        volume.target
                    ),
                    format!(
                        "choose a storage that can keep them (ZFS for ZFS, files for qcow2), or back the guest up and \
                         delete them: qm listsnapshot {vmid}"
                    ),
                ))))
            }
        }
    }

    /// Returns the snapshots that the host of a source volume knows of it, oldest first.
    fn taken(&self, volume: &VolumePlan) -> &[SnapshotFacts] {
        let host = self.hosts.get(&HostKey::of(&volume.source_storage));
        host.and_then(|host| host.as_ref().ok())
            .and_then(|host| host.zfs.as_ref())
            .and_then(|zfs| zfs.snapshots.get(volume.source.last_name()))
            .map_or(&[], Vec::as_slice)
    }

    /// Tells each volume which snapshots it carries, and what they take.
    fn load(
        &mut self,
        plan: &mut SnapshotsPlan,
        carried: &BTreeMap<DriveKey, Vec<String>>,
        draft: &mut Draft,
    ) {
        for drive in &mut draft.drives {
            let DriveAction::Copy(volume) = &mut drive.action else {
                continue;
            };
            let Some(names) = carried.get(&drive.key) else {
                continue;
            };
            match volume.engine {
                EngineKind::Zfs => {
                    let sizes = sizes(self.taken(volume), names);
                    let present = volume.used.unwrap_or(volume.size);
                    let all = sizes.values().fold(0, |sum, bytes| sum + bytes.0);
                    volume.history = Bytes(all.saturating_sub(present.0));
                    volume.snapshots.clone_from(names);
                    for (name, bytes) in sizes {
                        let of = plan.travelling.iter_mut().find(|it| it.name == name);
                        if let Some(travelling) = of {
                            let before = travelling.bytes.unwrap_or_default();
                            travelling.bytes = Some(Bytes(before.0 + bytes.0));
                        }
                    }
                }
                // What a file takes has its snapshots in it.
                EngineKind::Image => {
                    let used = volume.used.unwrap_or_default();
                    volume.history = Bytes(used.0.saturating_sub(volume.size.0));
                }
            }
            let demand = self.demands.entry(volume.target.storage.clone());
            let demand = demand.or_default();
            match volume.engine {
                EngineKind::Zfs => demand.add(Some(volume.history), volume.history),
                EngineKind::Image => demand.add(Some(Bytes::ZERO), volume.history),
            }
        }
    }
}

/// Returns the drive whose volume is copied, and how.
fn copied<'a>(draft: &'a Draft, volid: &Volid) -> Option<(DriveKey, &'a VolumePlan)> {
    draft.drives.iter().find_map(|drive| match &drive.action {
        DriveAction::Copy(volume) if volume.source == *volid => Some((drive.key, &**volume)),
        DriveAction::Copy(_) | DriveAction::Set { .. } | DriveAction::Leave => None,
    })
}

/// Returns a drive's value with the size it had; nobody looks it up again inside a snapshot.
fn sized(value: &str, drive: &Drive) -> String {
    let mut properties = PropertyString::parse(value);
    if let Some(size) = drive.properties.value("size") {
        properties.set("size", size);
    }
    properties.to_string()
}

fn refusal(verdicts: &[Verdict]) -> Option<&Verdict> {
    verdicts
        .iter()
        .find(|verdict| verdict.severity == Severity::Refuse)
}

/// Returns what each of these snapshots adds to a copy: the oldest all it refers to, the others what was written since
/// the one before.
fn sizes(taken: &[SnapshotFacts], names: &[String]) -> BTreeMap<String, Bytes> {
    let mut sizes = BTreeMap::new();
    let mut written = 0;
    for snapshot in taken {
        written += snapshot.written.0;
        if names.contains(&snapshot.name) {
            let bytes = match sizes.is_empty() {
                true => snapshot.referenced,
                false => Bytes(written),
            };
            sizes.insert(snapshot.name.clone(), bytes);
            written = 0;
        }
    }
    sizes
}

fn without_memory(name: &str, plan: &SnapshotsPlan) -> Option<Verdict> {
    let names: Vec<&str> = plan
        .travelling
        .iter()
        .filter(|travelling| travelling.without_memory)
        .map(|travelling| travelling.name.as_str())
        .collect();
    (!names.is_empty()).then(|| {
        Verdict::warn(
            name,
            "snapshot-without-memory",
            format!(
                "the memory of {} stays with the source: a rollback to it on the target gives its disks as after a power \
                 cut, and a guest that is off",
                names.join(", ")
            ),
            "keep the retired source as long as the memory is needed",
        )
    })
}

#[cfg(test)]
mod tests;
