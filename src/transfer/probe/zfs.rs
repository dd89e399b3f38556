//! Reading what a storage host said about a ZFS dataset: the lines of `zpool get`, `zfs get` and `zfs allow`.
//!
//! Pure. It never judges, and a line it does not know is none. Read next: `plan/facts/zfs.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::facts::zfs::{
    DatasetKind, Encryption, Features, SnapshotFacts, ZfsFacts, ZfsRights, ZvolFacts,
};
use crate::units::Bytes;

/// An answer while it is read.
pub(super) struct Answer {
    dataset: String,
    facts: Option<ZfsFacts>,
    /// By the part of their names below the dataset, which itself is the empty name.
    properties: BTreeMap<String, BTreeMap<String, String>>,
    login: Option<Login>,
    allowed: Allowed,
}

struct Login {
    root: bool,
    user: String,
    groups: BTreeSet<String>,
}

impl Answer {
    /// Begins with nothing.
    pub(super) fn new(dataset: &str) -> Answer {
        Answer {
            dataset: dataset.to_owned(),
            facts: None,
            properties: BTreeMap::new(),
            login: None,
            allowed: Allowed::default(),
        }
    }

    /// Reads one line: its first word, and the rest.
    pub(super) fn line(&mut self, word: &str, value: &str) {
        match word {
            "zfs-version" | "zfs-module" => {
                let facts = self.facts.get_or_insert_default();
                let said = version(value);
                // The older of both is what works; one that says nothing does not count.
                facts.version = match (facts.version, said) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            "zfs-login" => self.login = login(value),
            "zpool" => self.pool(value),
            "dataset" => self.property(value),
            "snapshot" => self.snapshot(value),
            "allow" => self.allowed.line(value),
            _ => {}
        }
    }

    /// Returns what was said; `None` when the host has no zfs.
    pub(super) fn facts(self) -> Option<ZfsFacts> {
        let mut facts = self.facts?;
        for (name, properties) in &self.properties {
            let kind = kind(properties);
            match (name.is_empty(), kind) {
                (true, kind) => {
                    facts.kind = kind;
                    facts.available = bytes(properties, "available");
                    facts.encryption = encryption(properties);
                }
                (false, Some(DatasetKind::Volume)) => {
                    facts.zvols.insert(name.clone(), zvol(properties));
                }
                (false, Some(DatasetKind::Filesystem) | None) => {
                    facts.others.insert(name.clone());
                }
            }
        }
        facts.rights = match self.login {
            Some(login) if login.root => ZfsRights::Root,
            Some(login) => ZfsRights::Delegated {
                devices: login.groups.contains(DEVICES),
                allowed: self.allowed.of(&login, &self.dataset),
                user: login.user,
            },
            None => ZfsRights::default(),
        };
        Some(facts)
    }

    /// Reads a line of `zpool get -Hp all`: pool, property, value, source.
    fn pool(&mut self, line: &str) {
        let facts = self.facts.get_or_insert_default();
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, property, value, _] = fields.as_slice() else {
            complain(facts, line);
            return;
        };
        match *property {
            "health" => facts.health = Some((*value).to_owned()),
            "readonly" => facts.read_only = *value == "on",
            _ => {
                if let Some(name) = property.strip_prefix("feature@") {
                    let features = facts.features.get_or_insert_with(Features::default);
                    if matches!(*value, "enabled" | "active") {
                        features.enabled.insert(name.to_owned());
                    }
                    if *value == "active" {
                        features.active.insert(name.to_owned());
                    }
                }
            }
        }
    }

    /// Reads a line of `zfs list -Hp -t snapshot -o name,written,referenced`.
    fn snapshot(&mut self, line: &str) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [full, written, referenced] = fields.as_slice() else {
            return;
        };
        let below = full
            .strip_prefix(self.dataset.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        let Some((zvol, name)) = below.and_then(|below| below.split_once('@')) else {
            return;
        };
        let number = |text: &str| Bytes(text.parse().unwrap_or(0));
        let facts = self.facts.get_or_insert_default();
        let taken = facts.snapshots.entry(zvol.to_owned()).or_default();
        taken.push(SnapshotFacts {
            name: name.to_owned(),
            written: number(written),
            referenced: number(referenced),
        });
    }

    /// Reads a line of `zfs get -Hp -o name,property,value`.
    fn property(&mut self, line: &str) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, property, value] = fields.as_slice() else {
            complain(self.facts.get_or_insert_default(), line);
            return;
        };
        let below = match name.strip_prefix(self.dataset.as_str()) {
            Some("") => "",
            Some(rest) => match rest.strip_prefix('/') {
                Some(below) => below,
                None => return,
            },
            None => return,
        };
        self.properties
            .entry(below.to_owned())
            .or_default()
            .insert((*property).to_owned(), (*value).to_owned());
    }
}

/// The group that owns block devices on Debian.
const DEVICES: &str = "disk";

fn complain(facts: &mut ZfsFacts, line: &str) {
    // What follows the first is advice, or comes of it.
    if facts.complaint.is_none() && !line.trim().is_empty() {
        facts.complaint = Some(line.trim().to_owned());
    }
}

fn kind(properties: &BTreeMap<String, String>) -> Option<DatasetKind> {
    match properties.get("type").map(String::as_str) {
        Some("filesystem") => Some(DatasetKind::Filesystem),
        Some("volume") => Some(DatasetKind::Volume),
        _ => None,
    }
}

fn bytes(properties: &BTreeMap<String, String>, name: &str) -> Option<Bytes> {
    properties.get(name)?.parse().ok().map(Bytes)
}

fn zvol(properties: &BTreeMap<String, String>) -> ZvolFacts {
    let reserved = bytes(properties, "refreservation").unwrap_or_default();
    ZvolFacts {
        size: bytes(properties, "volsize").unwrap_or_default(),
        referenced: bytes(properties, "referenced"),
        logical: bytes(properties, "logicalreferenced"),
        block_size: bytes(properties, "volblocksize"),
        sparse: reserved == Bytes::ZERO,
        compression: properties.get("compression").cloned().unwrap_or_default(),
        encryption: encryption(properties),
    }
}

fn encryption(properties: &BTreeMap<String, String>) -> Option<Encryption> {
    let how = properties.get("encryption")?;
    if matches!(how.as_str(), "off" | "-") {
        return None;
    }
    Some(Encryption {
        root: properties
            .get("encryptionroot")
            .cloned()
            .unwrap_or_default(),
        key_loaded: properties
            .get("keystatus")
            .is_some_and(|status| status == "available"),
    })
}

/// Reads the version off `zfs-2.3.9-1~bpo12+1` or `0.7.12-2+deb10u1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.strip_prefix("zfs-").unwrap_or(text);
    let text = text.strip_prefix("kmod-").unwrap_or(text);
    let mut numbers = text.split(['.', '-']);
    let major = numbers.next()?.trim_start_matches('v').parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

/// Reads `1000 mover mover disk`: the number, the name, and the groups of the login.
fn login(text: &str) -> Option<Login> {
    let mut words = text.split_whitespace();
    Some(Login {
        root: words.next()? == "0",
        user: words.next()?.to_owned(),
        groups: words.map(str::to_owned).collect(),
    })
}

/// What `zfs allow` prints: for the dataset and those above it a block each, with sections.
#[derive(Default)]
struct Allowed {
    /// The dataset of the present block, and its present section.
    dataset: String,
    section: Section,
    sets: BTreeMap<String, BTreeSet<String>>,
    entries: Vec<Entry>,
}

/// Where an entry counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    /// Nothing is said yet.
    #[default]
    None,
    /// `Permission sets:` names of sets and what is in them.
    Sets,
    /// `Create time permissions:` for whoever creates something there, on that.
    Create,
    /// `Local permissions:` on that dataset alone.
    Local,
    /// `Descendent permissions:`, `Local+Descendent permissions:`
    Below,
}

struct Entry {
    dataset: String,
    section: Section,
    /// `user ann`, `group staff`, `everyone`, or nothing for whoever creates.
    who: String,
    rights: BTreeSet<String>,
}

impl Allowed {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("---- Permissions on ") {
            rest.trim_end_matches('-')
                .trim()
                .clone_into(&mut self.dataset);
            self.section = Section::None;
            return;
        }
        match line.trim_end() {
            "Permission sets:" => self.section = Section::Sets,
            "Create time permissions:" => self.section = Section::Create,
            "Local permissions:" => self.section = Section::Local,
            "Descendent permissions:" | "Local+Descendent permissions:" => {
                self.section = Section::Below;
            }
            _ => {
                let text = line.trim();
                let (who, rights) = text.rsplit_once(' ').unwrap_or(("", text));
                let rights: BTreeSet<String> = rights.split(',').map(str::to_owned).collect();
                match self.section {
                    Section::None => {}
                    Section::Sets => self.sets.entry(who.to_owned()).or_default().extend(rights),
                    Section::Create | Section::Local | Section::Below => self.entries.push(Entry {
                        dataset: self.dataset.clone(),
                        section: self.section,
                        who: who.to_owned(),
                        rights,
                    }),
                }
            }
        }
    }

    /// Returns what a login may do with the dataset and with what it creates there.
    fn of(&self, login: &Login, dataset: &str) -> BTreeSet<String> {
        let mine = |entry: &&Entry| match entry.who.split_once(' ') {
            Some(("user", name)) => name == login.user,
            Some(("group", name)) => login.groups.contains(name),
            _ => matches!(entry.who.as_str(), "everyone" | ""),
        };
        let here = |entry: &&Entry| match entry.section {
            Section::Below | Section::Create => true,
            Section::Local => entry.dataset == dataset,
            Section::None | Section::Sets => false,
        };
        let mut rights: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = self
            .entries
            .iter()
            .filter(mine)
            .filter(here)
            .flat_map(|entry| entry.rights.iter().cloned())
            .collect();
        while let Some(right) = open.pop() {
            // A set may hold sets; one that was seen is not opened again.
            if rights.insert(right.clone())
                && let Some(set) = self.sets.get(&right)
            {
                open.extend(set.iter().cloned());
            }
        }
        rights
    }
}

#[cfg(test)]
mod tests;
