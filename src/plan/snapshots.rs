//! The guest's own snapshots: which travel with it, which stay, and what their sections say on the target.
//!
//! Pure. A snapshot is two things: data, which travels with the volumes, and a section of the guest's configuration,
//! which the API cannot create (`host/node_file.rs` writes it). Its memory never travels: what QEMU saved is for the
//! machine and the processor it was saved on. Read next: `decide/snapshots.rs`, which fills this in.

use std::collections::{BTreeMap, BTreeSet};

use crate::pve::guest::{GuestConfig, GuestDetail, GuestSnapshot};
use crate::pve::guest_file::Section;
use crate::units::Bytes;

/// What becomes of a guest's snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotsPlan {
    /// Those that travel, oldest first.
    pub travelling: Vec<SnapshotPlan>,
    /// Those that stay with the source, and why.
    pub staying: BTreeMap<String, String>,
    /// The travelling snapshot that the guest's present state comes from.
    pub parent: Option<String>,
    /// All that the source had when this was planned, where they travel at all.
    pub known: Vec<GuestSnapshot>,
}

/// One snapshot that travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Its name.
    pub name: String,
    /// The travelling snapshot it comes from.
    pub parent: Option<String>,
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// Its description.
    pub description: String,
    /// The guest's configuration in it, translated for the target.
    pub keys: BTreeMap<String, String>,
    /// Keys that get the value which the target's present configuration has, since the target made it itself.
    pub as_now: BTreeSet<String>,
    /// Whether the memory that it holds stays behind.
    pub without_memory: bool,
    /// Bytes that it adds to the copy, when known.
    pub bytes: Option<Bytes>,
}

impl SnapshotsPlan {
    /// Says whether the target's configuration has the sections of all that travel, and its place among them.
    pub fn recorded(&self, target: &GuestDetail) -> bool {
        let has = |plan: &SnapshotPlan| {
            target.snapshots.iter().any(|snapshot| {
                snapshot.name == plan.name
                    && snapshot.parent == plan.parent
                    && snapshot.taken == plan.taken
            })
        };
        self.travelling.is_empty()
            || (self.travelling.iter().all(has)
                && target.config.value("parent") == self.parent.as_deref())
    }

    /// Says in what the snapshots of the source differ from those that were planned; `None` when in nothing.
    pub fn changed(&self, source: &GuestDetail) -> Option<String> {
        if self.known.is_empty() {
            return None;
        }
        let new = |snapshot: &&GuestSnapshot| !self.known.contains(snapshot);
        let gone = |snapshot: &&GuestSnapshot| !source.snapshots.contains(snapshot);
        let names = |snapshots: Vec<&GuestSnapshot>| {
            let names: Vec<&str> = snapshots.iter().map(|it| it.name.as_str()).collect();
            names.join(", ")
        };
        let new = names(source.snapshots.iter().filter(new).collect());
        let gone = names(self.known.iter().filter(gone).collect());
        match (new.is_empty(), gone.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("{new} is new")),
            (true, false) => Some(format!("{gone} is gone")),
            (false, false) => Some(format!("{new} is new or another one, {gone} is gone")),
        }
    }

    /// Returns the sections to be written, with what the target's present configuration has to say.
    pub fn sections(&self, target: &GuestConfig) -> Vec<Section> {
        self.travelling
            .iter()
            .map(|plan| {
                let mut keys = plan.keys.clone();
                for key in &plan.as_now {
                    if let Some(value) = target.value(key) {
                        keys.insert(key.clone(), value.to_owned());
                    }
                }
                if let Some(parent) = &plan.parent {
                    keys.insert("parent".to_owned(), parent.clone());
                }
                keys.insert("snaptime".to_owned(), plan.taken.to_string());
                Section {
                    name: plan.name.clone(),
                    description: plan.description.clone(),
                    keys,
                }
            })
            .collect()
    }
}

/// Returns snapshots oldest first; of two that were taken in the same second, the one the other comes from.
pub(crate) fn in_order(snapshots: &[GuestSnapshot]) -> Vec<&GuestSnapshot> {
    let depth = |snapshot: &GuestSnapshot| {
        let mut depth = 0;
        let mut at = snapshot.parent.as_deref();
        while let Some(parent) = at.filter(|_| depth <= snapshots.len()) {
            depth += 1;
            let found = snapshots.iter().find(|it| it.name == parent);
            at = found.and_then(|found| found.parent.as_deref());
        }
        depth
    };
    let mut all: Vec<&GuestSnapshot> = snapshots.iter().collect();
    all.sort_by_key(|snapshot| (snapshot.taken, depth(snapshot)));
    all
}

/// Returns the nearest snapshot that travels: the parent itself, or one that it comes from.
pub(crate) fn ancestor(
    all: &[&GuestSnapshot],
    travels: &BTreeSet<String>,
    parent: Option<&str>,
) -> Option<String> {
    let mut at = parent?;
    // A circle of parents, should there be one, ends too.
    for _ in 0..=all.len() {
        if travels.contains(at) {
            return Some(at.to_owned());
        }
        let found = all.iter().find(|snapshot| snapshot.name == at)?;
        at = found.parent.as_deref()?;
    }
    None
}
