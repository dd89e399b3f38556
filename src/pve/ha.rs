//! High availability: the guests it manages, and the rules about where they may be.
//!
//! Pure. States are open sets of words, since releases add some. Read next: `migration.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::guest::{GuestKind, GuestRef};
use super::id::{InvalidId, NodeName, Vmid};

/// The id of a guest as the HA manager knows it: `vm:100` or `ct:101`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HaSid {
    /// VM or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: Vmid,
}

impl HaSid {
    /// Returns the id of a guest.
    pub fn of(place: &GuestRef) -> HaSid {
        HaSid {
            kind: place.kind,
            vmid: place.vmid,
        }
    }
}

impl fmt::Display for HaSid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            GuestKind::Qemu => "vm",
            GuestKind::Lxc => "ct",
        };
        f.pad(&format!("{kind}:{}", self.vmid))
    }
}

impl FromStr for HaSid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<HaSid, InvalidId> {
        let wrong = || InvalidId {
            kind: "HA resource",
            text: text.to_owned(),
            hint: Some("such as vm:100 or ct:101"),
        };
        let (kind, vmid) = text.split_once(':').ok_or_else(wrong)?;
        Ok(HaSid {
            kind: match kind {
                "vm" => GuestKind::Qemu,
                "ct" => GuestKind::Lxc,
                _ => return Err(wrong()),
            },
            vmid: vmid.parse().map_err(|_| wrong())?,
        })
    }
}

/// A guest that HA knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaResource {
    /// Its id.
    pub sid: HaSid,
    /// What HA is doing with it: `started`, `stopped`, `migrate`, `queued`, `error`, `ignored` ...
    pub state: String,
    /// What was asked for: `started`, `stopped`, `disabled`, `ignored`.
    pub requested: Option<String>,
    /// The node HA has it on; `None` when HA has not looked at it yet.
    pub node: Option<NodeName>,
    /// Its group, up to 8.4.
    pub group: Option<String>,
    /// Whether it goes back to a node of higher priority by itself; from 9.0 on.
    pub failback: Option<bool>,
    /// How often it is restarted before it is moved.
    pub max_restart: Option<u32>,
    /// How often it is moved before HA gives up.
    pub max_relocate: Option<u32>,
}

impl HaResource {
    /// Says whether HA acts on it: one that is ignored behaves like any other guest.
    pub fn is_managed(&self) -> bool {
        self.requested.as_deref().unwrap_or(&self.state) != "ignored"
    }
}

/// What HA was asked to do with a guest: its resource as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaSettings {
    /// `started`, `stopped`, `disabled`, `ignored`.
    pub state: String,
    /// Its group, up to 8.4.
    pub group: Option<String>,
    /// Whether it goes back to a node of higher priority by itself; from 9.0 on. `None` for the default.
    pub failback: Option<bool>,
    /// How often it is restarted before it is moved; `None` for the default.
    pub max_restart: Option<u32>,
    /// How often it is moved before HA gives up; `None` for the default.
    pub max_relocate: Option<u32>,
    /// Its comment.
    pub comment: Option<String>,
}

/// A rule about where guests of HA may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaRule {
    /// Its name; that of the group up to 8.4.
    pub name: String,
    /// What it says.
    pub kind: HaRuleKind,
    /// The guests it is about.
    pub resources: BTreeSet<HaSid>,
    /// Whether it counts: it is switched on and HA found no contradiction in it.
    pub in_force: bool,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaRuleKind {
    /// The guests belong on these nodes, each with its priority; higher is preferred.
    NodeAffinity {
        /// The nodes.
        nodes: BTreeMap<NodeName, u32>,
        /// Whether they may be nowhere else.
        strict: bool,
    },
    /// The guests belong together on one node. Always strict.
    Together,
    /// The guests belong apart, each on a node of its own. Always strict.
    Apart,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_written() {
        for text in ["vm:100", "ct:101"] {
            let sid: HaSid = text.parse().expect("an id");
            assert_eq!(sid.to_string(), text);
        }
        for wrong in ["100", "vm:", "vm:99", "xx:100", "vm:100:1", ""] {
            assert!(wrong.parse::<HaSid>().is_err(), "{wrong}");
        }
    }
}
