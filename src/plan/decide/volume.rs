//! Deciding about one volume: where it goes, under which name and format, and how.
//!
//! Pure. Returns no plan when anything is missing; a verdict then says what. Read next: `zvol.rs`, `../route.rs`.

use super::{Deciding, Draft, Side, zvol};
use crate::config::{StorageConfig, StoragePath};
use crate::plan::facts::{HostFacts, HostKey, VolumeFacts, WantedGuest};
use crate::plan::route::Place;
use crate::plan::translate::drives::{self, Sparse};
use crate::plan::translate::schema::Fit;
use crate::plan::{ConfigNote, Verdict, VolumePlan, check, route};
use crate::pve::drive::Drive;
use crate::pve::id::{StorageId, Vmid, Volid};
use crate::pve::inventory::{Storage, Volume};
use crate::transfer::Format;
use crate::units::Bytes;

impl<'a> Deciding<'a> {
    /// Plans one volume; what is missing for that has its own verdict.
    pub(super) fn volume(
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
        let hosts = self.hosts;
        draft.verdicts.extend(check::volumes::all(
            name,
            self.source,
            guest,
            key,
            volid,
            facts,
            hosts,
        ));
        let began = self.existing.get(name);
        let recorded = began.and_then(|began| began.mark.volumes.get(&key));
        let wanted = self.storage_for(key);
        let storage = recorded.map_or(wanted, |volid| &volid.storage);
        let kept = began
            .and_then(|began| began.mark.kept.as_ref())
            .is_some_and(|kept| kept.contains(&key) && recorded.is_some());
        if kept {
            // Only a drive that was mapped by hand was meant to go elsewhere.
            if let Some(mapped) = self.request.storages.get(&key).filter(|id| *id != storage) {
                draft.verdicts.push(Verdict::warn(
                    name,
                    "storage-kept",
                    format!("{key}: its former volume is on storage {storage}, and it goes back to that, not to {mapped}"),
                    "move it to the other storage afterwards: qm disk move",
                ));
            }
        } else if storage != wanted {
            draft.verdicts.push(Verdict::warn(
                name,
                "storage-recorded",
                format!("{key}: its move began towards storage {storage}, and goes on there, not on {wanted}"),
                "to begin anew on the other storage, delete the placeholder on the target first",
            ));
        }
        let ready = self.ready(storage, facts)?;
        let place = Place::of(&ready.target.path);
        let source_format = route::format(&ready.volume.format)?;
        let target_format = match recorded {
            Some(volid) => format_of(volid, place).unwrap_or(source_format),
            None => route::target_format(key, source_format, self.target.release, place),
        };
        let impossible = |why: route::Impossible| {
            Verdict::refuse(name, why.code, format!("{key}: {}", why.reason), why.remedy)
        };
        let capability = match route::engine(ready.source, ready.target) {
            Ok(capability) => capability,
            Err(why) => {
                draft.verdicts.push(impossible(why));
                return None;
            }
        };
        let source_host = self.host(Side::Source, ready.source);
        let target_host = self.host(Side::Target, ready.target);
        let facts = source_host.and_then(|host| zvol::facts(host, volid));
        let used = zvol::occupied(capability, ready.volume, facts);
        let sparse = zvol::is_sparse(ready.target, ready.settings);
        // What is there takes no more space; what began earlier has its share already.
        if !kept && began.is_none_or(|began| !began.begun()) {
            let demand = self.demands.entry(ready.storage.clone()).or_default();
            if sparse {
                demand.add(used, ready.volume.size);
            } else {
                demand.reserve(ready.volume.size);
            }
        }
        let (source_host, target_host) = (source_host?, target_host?);
        let way = zvol::Way {
            name,
            key,
            capability,
            source_host,
            target_host,
            source: volid,
            recorded,
            allow_plain: self.request.allow_plain,
            start: draft.start,
        };
        let converts = source_format != target_format;
        let chosen = route::tool(capability, source_host, target_host, converts)
            .and_then(|(tool, tool_because)| {
                let (route, route_because) =
                    route::route(self.request.route, tool, source_host, ready.target)?;
                Ok((tool, route, format!("{route_because}; {tool_because}")))
            })
            .and_then(|chosen| way.devices().map_or(Ok(chosen), Err))
            .and_then(|chosen| Ok((chosen, way.stream(draft)?)));
        let ((tool, route, because), stream) = match chosen {
            Ok(chosen) => chosen,
            Err(why) => {
                draft.verdicts.push(impossible(why));
                return None;
            }
        };
        if converts {
            let why = match place {
                Place::Directory => "which this release of the target needs",
                Place::Zfs => "for volumes of ZFS have no other format",
            };
            draft.changes.push(ConfigNote {
                key: key.to_string(),
                action: "changed",
                reason: format!("becomes {}, {why}", route::extension(target_format)),
            });
        }
        let target_volid = match recorded {
            Some(volid) => volid.clone(),
            None => self.name_volume(&ready.storage, vmid, place, target_format, target_host),
        };
        let fit = Fit::of(self.target);
        let gives_back = if sparse { Sparse::Yes } else { Sparse::No };
        let attached = drives::attached(name, drive, &target_volid, gives_back, &fit);
        draft.changes.extend(attached.notes);
        draft.verdicts.extend(attached.verdicts);
        Some(VolumePlan {
            engine: capability.engine,
            stream,
            source: volid.clone(),
            source_storage: ready.source.clone(),
            source_path: path_of(ready.source, volid),
            source_zvol: zvol::source(ready.source, source_host, volid),
            source_format,
            target_path: path_of(ready.target, &target_volid),
            target_zvol: zvol::target(ready.target, ready.settings, &target_volid),
            target: target_volid,
            target_storage: ready.target.clone(),
            target_format,
            size: ready.volume.size,
            used,
            snapshots: Vec::new(),
            history: Bytes::ZERO,
            kept,
            changed: None,
            attach: attached.value,
            route,
            tool,
            because,
        })
    }

    /// Returns what planning a volume starts from; `None` when something is missing, which has its own verdict.
    fn ready<'b>(&self, storage: &StorageId, facts: &'b VolumeFacts) -> Option<Ready<'b>>
    where
        'a: 'b,
    {
        let target = self.target;
        Some(Ready {
            volume: facts.volume.as_ref().ok()?,
            source: facts.section.as_ref().ok()?,
            target: target.sections.get(storage)?.as_ref().ok()?,
            storage: storage.clone(),
            settings: target.storage(storage),
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
}

/// What planning a volume starts from.
struct Ready<'a> {
    volume: &'a Volume,
    source: &'a StorageConfig,
    target: &'a StorageConfig,
    storage: StorageId,
    settings: Option<&'a Storage>,
}

fn format_of(volid: &Volid, place: Place) -> Option<Format> {
    match place {
        Place::Directory => volid
            .volname
            .rsplit_once('.')
            .and_then(|(_, word)| route::format(word)),
        Place::Zfs => Some(Format::Raw),
    }
}

/// Returns a volume's path on its storage's host: a file, or the device of a zvol.
pub(crate) fn path_of(section: &StorageConfig, volid: &Volid) -> String {
    match &section.path {
        StoragePath::Directory(directory) => {
            format!("{}/{}", directory.trim_end_matches('/'), volid.volname)
        }
        StoragePath::Zfs(dataset) => format!("/dev/zvol/{dataset}/{}", volid.last_name()),
    }
}
