//! `[evacuate:CLUSTER]` and `[budget:NAME]`: how a cluster's nodes are emptied, and what must go on running meanwhile.
//!
//! Pure. It only reads words; whether a guest or a node of that name exists is found out later. Read next: `parse.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use super::parse::Fields;
use super::value::Wrong;
use crate::pve::evacuation::{Limits, MemoryBasis, Policy, Reserve, Selector};
use crate::pve::id::{ClusterAlias, InvalidId, NodeName, StorageId};

/// The keys of `[evacuate:CLUSTER]` beside the policies, each of which is a key.
const OTHER_KEYS: [&str; 14] = [
    "policy",
    "to",
    "local_disks",
    "map_storage",
    "ha_maintenance",
    "parallel",
    "parallel_per_target",
    "memory",
    "memory_reserve",
    "storage_reserve",
    "cpu_limit",
    "cpu_overcommit",
    "stop_timeout",
    "patience",
];
const BUDGET_KEYS: [&str; 6] = ["cluster", "tag", "pool", "name", "vmid", "min_running"];

/// How a cluster's nodes are evacuated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvacuateConfig {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// `policy=`: for guests that nothing else is said about.
    pub policy: Policy,
    /// `stop=tag:lab, 101` and so on, in the order of the manual.
    pub policies: Vec<(Selector, Policy)>,
    /// `to=`: the only nodes guests go to; all when empty.
    pub to: BTreeSet<NodeName>,
    /// `local_disks=`: whether disks on storages that are not shared are carried along.
    pub local_disks: bool,
    /// `map_storage=`: which storage such disks go to.
    pub storages: BTreeMap<StorageId, StorageId>,
    /// `ha_maintenance=`: whether the HA manager moves its guests by maintenance mode.
    pub ha_maintenance: bool,
    /// `parallel=`: guests that leave at one time.
    pub parallel: usize,
    /// `parallel_per_target=`: guests that arrive at one node at one time.
    pub parallel_per_target: usize,
    /// `memory=`, `memory_reserve=`, `storage_reserve=`, `cpu_limit=`, `cpu_overcommit=`.
    pub limits: Limits,
    /// `stop_timeout=`: how long a guest may take to shut down.
    pub stop_timeout: Duration,
    /// `patience=`: how long something that is waited for may show no change.
    pub patience: Duration,
}

impl EvacuateConfig {
    /// Returns what holds for a cluster without a section.
    pub fn usual(cluster: ClusterAlias) -> EvacuateConfig {
        EvacuateConfig {
            cluster,
            policy: Policy::Auto,
            policies: Vec::new(),
            to: BTreeSet::new(),
            local_disks: true,
            storages: BTreeMap::new(),
            ha_maintenance: true,
            parallel: 1,
            parallel_per_target: 2,
            limits: Limits::default(),
            stop_timeout: Duration::from_secs(180),
            patience: Duration::from_secs(600),
        }
    }
}

/// What must go on running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Its name.
    pub name: String,
    /// The only cluster it is about; every one when `None`.
    pub cluster: Option<ClusterAlias>,
    /// The guests it protects.
    pub guests: Selector,
    /// As many of them run at any time.
    pub min_running: usize,
}

impl Fields<'_> {
    /// Returns the keys of `[evacuate:CLUSTER]`.
    pub(super) fn evacuate_keys() -> Vec<&'static str> {
        let policies = Policy::ALL.into_iter().map(Policy::as_str);
        policies.chain(OTHER_KEYS).collect()
    }

    /// Returns the keys of `[budget:NAME]`.
    pub(super) fn budget_keys() -> &'static [&'static str] {
        &BUDGET_KEYS
    }

    pub(super) fn evacuate(
        &mut self,
        alias: &str,
        declared: &BTreeSet<String>,
    ) -> Option<EvacuateConfig> {
        let cluster = self.declared_cluster(alias, declared);
        let mut read = EvacuateConfig::usual(alias.parse().ok()?);
        for policy in Policy::ALL {
            let selectors = self.optional(policy.as_str(), |text| list(text, id::<Selector>));
            let selectors = selectors.into_iter().flatten();
            read.policies
                .extend(selectors.map(|selector| (selector, policy)));
        }
        if let Some(policy) = self.optional("policy", id) {
            read.policy = policy;
        }
        if let Some(nodes) = self.optional("to", |text| list(text, id)) {
            read.to = nodes.into_iter().collect();
        }
        if let Some(storages) = self.optional("map_storage", |text| list(text, storage_pair)) {
            read.storages = storages.into_iter().collect();
        }
        self.store("local_disks", yes_no, &mut read.local_disks);
        self.store("ha_maintenance", yes_no, &mut read.ha_maintenance);
        self.store("parallel", count, &mut read.parallel);
        self.store("parallel_per_target", count, &mut read.parallel_per_target);
        self.store("memory", id::<MemoryBasis>, &mut read.limits.memory);
        self.store(
            "memory_reserve",
            id::<Reserve>,
            &mut read.limits.memory_reserve,
        );
        self.store(
            "storage_reserve",
            id::<Reserve>,
            &mut read.limits.storage_reserve,
        );
        self.store("cpu_limit", percent, &mut read.limits.cpu_percent);
        if let Some(ratio) = self.optional("cpu_overcommit", ratio) {
            read.limits.cpu_overcommit = Some(ratio);
        }
        self.store("stop_timeout", time, &mut read.stop_timeout);
        self.store("patience", time, &mut read.patience);
        cluster.map(|_| read)
    }

    pub(super) fn budget(
        &mut self,
        name: &str,
        declared: &BTreeSet<String>,
    ) -> Option<BudgetConfig> {
        let cluster = match self.entries.get("cluster").copied() {
            Some(alias) => Some(self.declared_cluster(alias, declared)?),
            None => None,
        };
        let mut guests = Vec::new();
        for kind in ["tag", "pool", "name", "vmid"] {
            guests.extend(self.optional(kind, |text| id::<Selector>(&format!("{kind}={text}"))));
        }
        let min_running = self.required("min_running", "2", count);
        if guests.len() != 1 {
            self.problem(
                None,
                "needs exactly one of tag=, pool=, name=, vmid=",
                Some("tag=web".to_owned()),
            );
            return None;
        }
        Some(BudgetConfig {
            name: name.to_owned(),
            cluster,
            guests: guests.pop()?,
            min_running: min_running?,
        })
    }

    /// Reads a key that may be missing into its place.
    fn store<T>(&mut self, key: &str, read: fn(&str) -> Result<T, Wrong>, place: &mut T) {
        if let Some(value) = self.optional(key, read) {
            *place = value;
        }
    }
}

fn refused<T>(message: &str, hint: &str) -> Result<T, Wrong> {
    Err(Wrong {
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
    })
}

fn id<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Wrong> {
    text.parse().map_err(|error: InvalidId| Wrong {
        message: error.to_string(),
        hint: None,
    })
}

fn list<T>(text: &str, read: fn(&str) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    text.split(',').map(|part| read(part.trim())).collect()
}

fn storage_pair(text: &str) -> Result<(StorageId, StorageId), Wrong> {
    match text.split_once('=') {
        Some((from, to)) => Ok((id(from.trim())?, id(to.trim())?)),
        None => refused(
            "names no two storages",
            "map_storage=local-zfs=tank, local=data",
        ),
    }
}

fn yes_no(text: &str) -> Result<bool, Wrong> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => refused("is neither yes nor no", "yes or no"),
    }
}

fn count(text: &str) -> Result<usize, Wrong> {
    match text.parse() {
        Ok(number) if (1..=1000).contains(&number) => Ok(number),
        _ => refused("is not a number from 1 to 1000", "1"),
    }
}

fn percent(text: &str) -> Result<u8, Wrong> {
    match text.trim_end_matches('%').trim().parse() {
        Ok(number) if (1..=100).contains(&number) => Ok(number),
        _ => refused("is not a percentage from 1 to 100", "90%"),
    }
}

/// Reads a ratio such as 2 or 1.5 as hundredths.
fn ratio(text: &str) -> Result<u32, Wrong> {
    match text.parse::<f64>() {
        // `as` saturates; the range was checked.
        Ok(ratio) if (0.1..=100.0).contains(&ratio) => Ok((ratio * 100.0).round() as u32),
        _ => refused("is not a ratio", "2.0 for two virtual processors each"),
    }
}

fn time(text: &str) -> Result<Duration, Wrong> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => refused("is not a time of at least 1s", "3min"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const PVE: &str = "[pve:apple]\napi=https://root@pam:x@host:8006\n";

    fn problems(text: &str) -> Vec<String> {
        let problems = parse(&format!("{PVE}{text}"), "rc").expect_err("is wrong");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_is_read() {
        let text = "[evacuate:apple]\npolicy=LiveMigrateIfPossible\nstop=tag:lab, 101\nlive-migrate=pool:prod\n\
                    to=pve2, pve3\nlocal_disks=no\nmap_storage=local-zfs=tank, local=data\nha_maintenance=no\n\
                    parallel=3\nmemory_reserve=8G\ncpu_overcommit=1.5\nstop_timeout=5min\n\
                    [budget:web]\ntag=web\nmin_running=2\n";
        let config = parse(&format!("{PVE}{text}"), "rc").expect("parses");
        let read = &config.evacuations[&"apple".parse().expect("parses")];
        assert_eq!(read.policy, Policy::Auto);
        let policies: Vec<String> = read
            .policies
            .iter()
            .map(|(selector, policy)| format!("{selector} {policy}"))
            .collect();
        assert_eq!(
            policies,
            ["pool=prod live-migrate", "tag=lab stop", "vmid=101 stop"]
        );
        assert_eq!(
            (read.to.len(), read.storages.len(), read.parallel),
            (2, 2, 3)
        );
        assert!(!read.local_disks && !read.ha_maintenance);
        assert_eq!(read.limits.cpu_overcommit, Some(150));
        assert_eq!(read.stop_timeout, Duration::from_secs(300));
        assert_eq!(config.budgets[0].min_running, 2);
        assert_eq!(config.budgets[0].guests, Selector::Tag("web".to_owned()));
    }

    #[test]
    fn every_mistake_is_named_with_its_section_and_key() {
        let found = problems(
            "[evacuate:apple]\npolicy=stopp\nstop=colour:red\nparallel=0\nlocal_disks=maybe\nstopp=101\n\
             [evacuate:aple]\n[budget:web]\ntag=web\npool=prod\n[budget:db]\ntag=db\nmin_running=2\ncluster=pear\n",
        );
        let expected = [
            "[evacuate:apple] stopp: is not a key",
            "[evacuate:apple] stop: 'colour:red' is not a valid selector",
            "[evacuate:apple] policy: 'stopp' is not a valid evacuation policy",
            "[evacuate:apple] local_disks: is neither yes nor no",
            "[evacuate:apple] parallel: is not a number",
            "[evacuate:aple]: there is no cluster 'aple'",
            "[budget:web] min_running: is missing",
            "[budget:web]: needs exactly one of",
            "[budget:db]: there is no cluster 'pear'",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}, not {expected}");
        }
    }
}
