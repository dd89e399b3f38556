//! The source's configuration as a plan was made from it, and what has changed since.
//!
//! Copying takes hours, and the guests of a batch wait for one another: meanwhile somebody adds memory, or a drive, or
//! stops the guest. A move that did not notice would leave the target with what the guest was. What proxmove itself
//! changes (name, onboot, notes) and what is not about the guest (digest, lock, place among its snapshots) does not count.
//!
//! Pure. Read next: `moves/meanwhile.rs`, which asks; `moves/anew.rs`, which plans anew.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::evacuate::note;
use crate::pve::guest::{GuestConfig, GuestDetail};

/// Keys that say nothing about whether the plan still fits.
const NOT_PLANNED: [&str; 6] = ["name", "onboot", "description", "digest", "lock", "parent"];

/// The part of a source's configuration that a plan follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned(BTreeMap<String, String>);

impl Planned {
    /// Returns what a plan follows from.
    pub fn of(config: &GuestConfig) -> Planned {
        let keys = config.0.iter();
        let keys = keys.filter(|(key, _)| !NOT_PLANNED.contains(&key.as_str()));
        let value = |key: &str, value: &str| match key {
            "tags" => note::without_tag(value),
            _ => value.to_owned(),
        };
        let kept = keys.map(|(key, text)| (key.clone(), value(key, text)));
        Planned(kept.filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Returns twelve hexadecimal digits that are others for another configuration.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.0 {
            // Neither a key nor a value of a configuration has line ends.
            hash.update(format!("{key}: {value}\n"));
        }
        let hash = hash.finalize();
        hash.iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Says in what the source is another now; `None` when in nothing. Values are not told: some are secrets.
    pub fn changed(&self, source: &GuestDetail) -> Option<String> {
        let now = Planned::of(&source.config);
        let keys: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let told = keys
            .into_iter()
            .filter_map(|key| match (self.0.get(key), now.0.get(key)) {
                (Some(before), Some(after)) if before == after => None,
                (Some(_), Some(_)) => Some(format!("{key} is another")),
                (None, _) => Some(format!("{key} is new")),
                (_, None) => Some(format!("{key} is gone")),
            });
        let waiting = source.pending.iter();
        let waiting =
            waiting.map(|change| format!("a change of {} waits for its next start", change.key));
        let told: Vec<String> = told.chain(waiting).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::World;

    fn config(lines: &str) -> GuestConfig {
        let lines = lines.lines().filter_map(|line| line.split_once(": "));
        GuestConfig(
            lines
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    const BEFORE: &str =
        "name: web1\nmemory: 2048\ncores: 2\nscsi0: san:565/a.raw,size=4G\ndigest: 1\nonboot: 1";

    #[test]
    fn what_the_operator_must_know_of_is_told_by_its_key() {
        let planned = Planned::of(&config(BEFORE));
        let mut world = World::new();
        let check = |lines: &str, world: &mut World| {
            world.guest().detail.config = config(lines);
            planned.changed(&world.guest().detail)
        };
        for same in [
            BEFORE.to_owned(),
            BEFORE.replace(
                "digest: 1",
                "digest: 2\nlock: backup\nparent: monday\ndescription: new",
            ),
            BEFORE
                .replace("name: web1", "name: web1--CLONING")
                .replace("onboot: 1", "onboot: 0"),
            format!("{BEFORE}\ntags: {}node1", note::TAG_PREFIX),
        ] {
            assert_eq!(check(&same, &mut world), None, "{same}");
        }
        for (lines, expect) in [
            (BEFORE.replace("2048", "4096"), "memory is another"),
            (BEFORE.replace("size=4G", "size=8G"), "scsi0 is another"),
            (BEFORE.replace("cores: 2\n", ""), "cores is gone"),
            (format!("{BEFORE}\nscsi1: san:565/b.raw"), "scsi1 is new"),
        ] {
            assert_eq!(check(&lines, &mut world).as_deref(), Some(expect));
            assert_ne!(
                Planned::of(&config(&lines)).fingerprint(),
                planned.fingerprint()
            );
        }
    }
}
