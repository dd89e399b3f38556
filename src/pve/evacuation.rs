//! The words of evacuating: policies, selectors, reserves.
//!
//! Pure. It says what the words mean, and never which guest they hit; `plan/evacuate` decides that. Read next:
//! `plan/evacuate/policy.rs`.

use std::fmt;
use std::str::FromStr;

use super::id::{InvalidId, PoolId, Vmid};
use crate::units::Bytes;

/// What happens to a guest when its node is evacuated, in LXD's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Live where that is possible, else with a stop and a start elsewhere, else stopped in place.
    #[default]
    Auto,
    /// Live or not at all: a running guest that cannot be migrated live blocks the evacuation.
    LiveMigrate,
    /// Shut down, migrated, started there; a container is restarted there.
    Migrate,
    /// Shut down in place.
    Stop,
    /// Switched off in place.
    ForceStop,
    /// Left alone.
    Ignore,
}

impl Policy {
    /// All policies, in the order of the manual.
    pub const ALL: [Policy; 6] = [
        Policy::Auto,
        Policy::LiveMigrate,
        Policy::Migrate,
        Policy::Stop,
        Policy::ForceStop,
        Policy::Ignore,
    ];

    /// Returns the word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Policy::Auto => "auto",
            Policy::LiveMigrate => "live-migrate",
            Policy::Migrate => "migrate",
            Policy::Stop => "stop",
            Policy::ForceStop => "force-stop",
            Policy::Ignore => "ignore",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = InvalidId;

    /// Takes LXD's words and KubeVirt's eviction strategies, in any case, because Proxmox VE lowers tags.
    fn from_str(text: &str) -> Result<Policy, InvalidId> {
        let word = text.to_ascii_lowercase();
        if let Some(policy) = Policy::ALL.into_iter().find(|known| known.as_str() == word) {
            return Ok(policy);
        }
        match word.as_str() {
            "livemigrate" => Ok(Policy::LiveMigrate),
            "livemigrateifpossible" => Ok(Policy::Auto),
            // Without a strategy KubeVirt shuts a VM down, and its controller starts it elsewhere.
            "none" => Ok(Policy::Migrate),
            // Somebody else takes care of it.
            "external" => Ok(Policy::Ignore),
            _ => Err(InvalidId {
                kind: "evacuation policy",
                text: text.to_owned(),
                hint: Some("auto, live-migrate, migrate, stop, force-stop or ignore"),
            }),
        }
    }
}

/// One way of naming guests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// By number: `101`, `vmid=101` or `vmid:101`.
    Vmid(Vmid),
    /// By a tag: `tag=web` or `tag:web`.
    Tag(String),
    /// By resource pool, members of pools inside it included: `pool=prod` or `pool:prod`.
    Pool(PoolId),
    /// By name: `name=web1` or `name:web1`.
    Name(String),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Vmid(vmid) => write!(f, "vmid={vmid}"),
            Selector::Tag(tag) => write!(f, "tag={tag}"),
            Selector::Pool(pool) => write!(f, "pool={pool}"),
            Selector::Name(name) => write!(f, "name={name}"),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Selector, InvalidId> {
        let wrong = || InvalidId {
            kind: "selector",
            text: text.to_owned(),
            hint: Some("tag=NAME, pool=NAME, name=NAME, or a VMID"),
        };
        let text = text.trim();
        let Some((kind, value)) = text.split_once(['=', ':']) else {
            return text.parse().map(Selector::Vmid).map_err(|_| wrong());
        };
        let value = value.trim();
        if value.is_empty() {
            return Err(wrong());
        }
        match kind.trim() {
            "vmid" => value.parse().map(Selector::Vmid).map_err(|_| wrong()),
            "tag" => Ok(Selector::Tag(value.to_ascii_lowercase())),
            "pool" => value.parse().map(Selector::Pool).map_err(|_| wrong()),
            "name" => Ok(Selector::Name(value.to_owned())),
            _ => Err(wrong()),
        }
    }
}

/// What is kept free of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// A part of the whole.
    Percent(u8),
    /// So much.
    Bytes(Bytes),
}

impl Reserve {
    /// Returns how much that is of `total`.
    pub fn of(self, total: Bytes) -> Bytes {
        match self {
            Reserve::Percent(percent) => {
                let part = u128::from(total.0) * u128::from(percent) / 100;
                Bytes(u64::try_from(part).unwrap_or(u64::MAX))
            }
            Reserve::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reserve::Percent(percent) => write!(f, "{percent} %"),
            Reserve::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl FromStr for Reserve {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Reserve, InvalidId> {
        let wrong = || InvalidId {
            kind: "reserve",
            text: text.to_owned(),
            hint: Some("such as 10% or 8G"),
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.trim().parse().map_err(|_| wrong())?;
            return if percent < 100 {
                Ok(Reserve::Percent(percent))
            } else {
                Err(wrong())
            };
        }
        let units = [('M', 20), ('G', 30), ('T', 40)];
        let (number, shift) = units
            .into_iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .ok_or_else(wrong)?;
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number
            .checked_mul(1u64 << shift)
            .map(|bytes| Reserve::Bytes(Bytes(bytes)))
            .ok_or_else(wrong)
    }
}

/// Which memory of a node counts as taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryBasis {
    /// The more careful of the two below.
    #[default]
    Both,
    /// What its running guests may use at most.
    Assigned,
    /// What is in use now.
    Used,
}

impl FromStr for MemoryBasis {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<MemoryBasis, InvalidId> {
        match text {
            "both" => Ok(MemoryBasis::Both),
            "assigned" => Ok(MemoryBasis::Assigned),
            "used" => Ok(MemoryBasis::Used),
            _ => Err(InvalidId {
                kind: "memory basis",
                text: text.to_owned(),
                hint: Some("both, assigned or used"),
            }),
        }
    }
}

/// How full a node may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Which memory counts as taken.
    pub memory: MemoryBasis,
    /// Memory that stays free.
    pub memory_reserve: Reserve,
    /// Percent of a node's processor time that may be in use.
    pub cpu_percent: u8,
    /// Virtual processors of running guests for each processor of the node, in percent; `None` for any number.
    pub cpu_overcommit: Option<u32>,
    /// Space of a storage that stays free.
    pub storage_reserve: Reserve,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: MemoryBasis::Both,
            memory_reserve: Reserve::Percent(10),
            cpu_percent: 90,
            cpu_overcommit: None,
            storage_reserve: Reserve::Percent(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vocabularies_are_understood() {
        for (word, policy) in [
            ("auto", Policy::Auto),
            ("live-migrate", Policy::LiveMigrate),
            ("LiveMigrate", Policy::LiveMigrate),
            ("LiveMigrateIfPossible", Policy::Auto),
            ("None", Policy::Migrate),
            ("External", Policy::Ignore),
            ("force-stop", Policy::ForceStop),
        ] {
            assert_eq!(word.parse(), Ok(policy), "{word}");
        }
        assert!("stopp".parse::<Policy>().is_err());
        assert!("".parse::<Policy>().is_err());
    }

    #[test]
    fn selectors_are_read_with_either_separator() {
        let selector = |text: &str| text.parse::<Selector>();
        assert_eq!(selector("tag=Web"), Ok(Selector::Tag("web".to_owned())));
        assert_eq!(selector("tag:web"), selector("tag=web"));
        assert_eq!(selector("101"), selector("vmid=101"));
        assert!(selector("tag=").is_err());
        assert!(selector("colour=red").is_err());
        assert!(selector("7").is_err());
    }

    #[test]
    fn reserves_are_parts_or_amounts() {
        assert_eq!("10%".parse(), Ok(Reserve::Percent(10)));
        assert_eq!("8G".parse(), Ok(Reserve::Bytes(Bytes::gib(8))));
        assert_eq!(Reserve::Percent(10).of(Bytes(1000)), Bytes(100));
        for wrong in ["", "%", "100%", "G", "8", "99999999999T", "8 GiB", "8€"] {
            assert!(wrong.parse::<Reserve>().is_err(), "{wrong}");
        }
    }
}
