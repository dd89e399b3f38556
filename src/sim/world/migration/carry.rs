//! Carrying volumes to another node, and the guest with them. Files are really moved.
//!
//! What it cannot do and the real thing can: converting a disk to another format. Read next: `../storage.rs`.

use std::collections::BTreeMap;
use std::fs;

use super::Transfer;
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, holds_volume, volume_of};
use crate::sim::world::storage::VolumeName;

impl Cluster {
    /// Checks that a volume can be carried at all, and that there is room for it.
    pub fn can_carry(
        &self,
        guest: &Guest,
        transfer: &Transfer,
        target: &str,
    ) -> Result<(), String> {
        let failed = |text: String| {
            format!(
                "storage migration for '{}' to storage '{}' failed - {text}",
                transfer.volid, transfer.storage
            )
        };
        let name = self.parse_volume(&transfer.volid)?;
        let (from, to) = (
            self.storage(&name.storage)?,
            self.storage(&transfer.storage)?,
        );
        let kinds = ["dir", "zfspool"];
        if from.real
            || to.real
            || !kinds.contains(&from.kind.as_str())
            || !kinds.contains(&to.kind.as_str())
        {
            return Err(failed(format!(
                "storage type '{}' is not simulated",
                to.kind
            )));
        }
        if from.kind != to.kind && !transfer.online {
            return Err(failed(format!(
                "cannot migrate from storage type '{}' to '{}'",
                from.kind, to.kind
            )));
        }
        if name.format() == "qcow2" && to.kind == "zfspool" {
            return Err(failed("converting a disk is not simulated".to_owned()));
        }
        self.active_storage(&transfer.storage, target)
            .map_err(failed)?;
        let used = self
            .look_at_volume(name, &guest.node)?
            .map_or(0, |volume| volume.used);
        let free = self.space(to, target).map_or(0, |space| space.available);
        match used > free {
            true => Err(failed("No space left on device".to_owned())),
            false => Ok(()),
        }
    }

    /// Moves a guest with its volumes to another node. It must not be played meanwhile.
    pub fn relocate(
        &mut self,
        vmid: u32,
        target: &str,
        transfers: &[Transfer],
        log: &mut Vec<String>,
    ) -> Result<(), String> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Err(format!("no such guest {vmid}"));
        };
        let source = guest.node.clone();
        for transfer in transfers {
            let name = self.parse_volume(&transfer.volid)?;
            let new = self.carry(&name, &source, target, transfer)?;
            log.push(format!(
                "volume '{}' is '{new}' on the target",
                transfer.volid
            ));
            if let Some(guest) = self.guests.get_mut(&vmid) {
                rename(guest, &transfer.volid, &new);
            }
        }
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.node = target.to_owned();
        }
        Ok(())
    }

    fn carry(
        &self,
        name: &VolumeName,
        source: &str,
        target: &str,
        transfer: &Transfer,
    ) -> Result<String, String> {
        let to = self.storage(&transfer.storage)?;
        let old = self.volume_path(name, source)?;
        let same = VolumeName {
            storage: to.id.clone(),
            file: match to.kind.as_str() {
                "zfspool" => name.file.trim_end_matches(".raw").to_owned(),
                _ if name.file.contains('.') => name.file.clone(),
                _ => format!("{}.raw", name.file),
            },
            ..name.clone()
        };
        // The name is kept unless it is taken there.
        let new = match self.volume_path(&same, target)?.exists() {
            false => same,
            true => self.free_volume_name(to, target, name.owner.unwrap_or(0), name.format()),
        };
        let path = self.volume_path(&new, target)?;
        let failed = |error: std::io::Error| {
            format!(
                "storage migration for '{}' to storage '{}' failed - {error}",
                transfer.volid, to.id
            )
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::rename(&old, &path).map_err(failed)?;
        if let Some(parent) = old.parent() {
            // Fails while other images are in it, which is as it should be.
            let _ = fs::remove_dir(parent);
        }
        Ok(new.volid())
    }
}

/// Puts another name for a volume wherever a guest names it.
fn rename(guest: &mut Guest, old: &str, new: &str) {
    let swap = |config: &mut BTreeMap<String, String>| {
        for (_, value) in config.iter_mut().filter(|(key, _)| holds_volume(key)) {
            if volume_of(value) == old {
                *value = value.replacen(old, new, 1);
            }
        }
    };
    swap(&mut guest.config);
    swap(&mut guest.pending);
    for snapshot in &mut guest.snapshots {
        swap(&mut snapshot.config);
    }
}
