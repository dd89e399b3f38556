//! Clusters and requests as data, in few words: what a scenario does not name is as in most clusters.

use std::collections::{BTreeMap, BTreeSet};

use proxmove::plan::evacuate::Request;
use proxmove::plan::evacuate::across::{Across, Said};
use proxmove::plan::evacuate::budget::Budget;
use proxmove::plan::evacuate::facts::{
    Abroad, GuestFacts, GuestSeen, Inventory, LocalVolume, NodeFacts, NodeSeen, Rule, RuleKind,
    StorageFacts,
};
use proxmove::plan::evacuate::note::{Away, Closed, Sent, Stage};
use proxmove::plan::evacuate::policy::Policies;
use proxmove::plan::evacuate::select::Selection;
use proxmove::plan::evacuate::way::Allowed;
use proxmove::plan::{Severity, Verdict};
use proxmove::pve::destination::Destination;
use proxmove::pve::evacuation::{Limits, MemoryBasis, Policy, Reserve, Selector};
use proxmove::pve::guest::{GuestKind, GuestRef, Power};
use proxmove::pve::id::{NodeName, StorageId, Vmid};
use proxmove::units::Bytes;
use serde::Deserialize;

fn yes() -> bool {
    true
}

fn of_64() -> u64 {
    64
}

fn of_4() -> u64 {
    4
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) nodes: BTreeMap<String, Node>,
    #[serde(default)]
    pub(crate) guests: Vec<Guest>,
    #[serde(default)]
    pub(crate) rules: Vec<RuleText>,
    #[serde(default)]
    pub(crate) request: RequestText,
    /// What the mover says against guests that would go to another cluster, by name.
    #[serde(default)]
    pub(crate) mover: BTreeMap<String, String>,
    /// GiB of memory that are free on the node of that cluster.
    #[serde(default = "of_64")]
    pub(crate) free_there: u64,
    pub(crate) expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    #[serde(default = "of_64")]
    pub(crate) memory: u64,
    #[serde(default)]
    pub(crate) used: u64,
    #[serde(default = "cores")]
    pub(crate) cores: u32,
    #[serde(default)]
    pub(crate) load: u64,
    #[serde(default = "yes")]
    pub(crate) online: bool,
    #[serde(default)]
    pub(crate) maintenance: bool,
    #[serde(default)]
    pub(crate) closed: bool,
    pub(crate) bridges: Option<BTreeSet<String>>,
    pub(crate) storages: Option<BTreeMap<String, StorageText>>,
}

fn cores() -> u32 {
    32
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StorageText {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) shared: bool,
    #[serde(default = "yes")]
    pub(crate) active: bool,
    #[serde(default = "of_1000")]
    pub(crate) free: u64,
    pub(crate) content: Option<BTreeSet<String>>,
}

fn of_1000() -> u64 {
    1000
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guest {
    pub(crate) vmid: u32,
    #[serde(default = "pve1")]
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) lxc: bool,
    #[serde(default = "yes")]
    pub(crate) running: bool,
    #[serde(default)]
    pub(crate) template: bool,
    #[serde(default = "of_4")]
    pub(crate) memory: u64,
    #[serde(default = "two")]
    pub(crate) cores: u32,
    #[serde(default)]
    pub(crate) load: u64,
    #[serde(default)]
    pub(crate) tags: BTreeSet<String>,
    pub(crate) pool: Option<String>,
    pub(crate) lock: Option<String>,
    pub(crate) ha: Option<String>,
    #[serde(default)]
    pub(crate) local: Vec<Volume>,
    #[serde(default)]
    pub(crate) devices: Vec<String>,
    #[serde(default)]
    pub(crate) only_stopped: Vec<String>,
    pub(crate) allowed: Option<BTreeSet<String>>,
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, Vec<String>>,
    pub(crate) bridges: Option<BTreeSet<String>>,
    #[serde(default)]
    pub(crate) snapshots: bool,
    pub(crate) order: Option<u32>,
    pub(crate) away: Option<AwayText>,
    /// What is true of it on the cluster it was sent to: `home`, `begun`, `ran`, `there`, `there, but ...`, `returning`,
    /// `no alias`, `silent`.
    pub(crate) abroad: Option<String>,
    /// Its name has this behind it: `--MIGRATED`.
    #[serde(default)]
    pub(crate) behind: String,
}

fn pve1() -> String {
    "pve1".to_owned()
}

fn two() -> u32 {
    2
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwayText {
    pub(crate) origin: String,
    pub(crate) to: Option<String>,
    #[serde(default = "yes")]
    pub(crate) running: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Volume {
    pub(crate) storage: String,
    #[serde(default = "of_10")]
    pub(crate) size: u64,
    #[serde(default = "raw")]
    pub(crate) format: String,
    #[serde(default)]
    pub(crate) cdrom: bool,
}

fn of_10() -> u64 {
    10
}

fn raw() -> String {
    "raw".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleText {
    pub(crate) guests: BTreeSet<u32>,
    pub(crate) nodes: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    pub(crate) strict: bool,
    #[serde(default)]
    pub(crate) apart: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestText {
    pub(crate) node: Option<String>,
    #[serde(default)]
    pub(crate) to: BTreeSet<String>,
    #[serde(default)]
    pub(crate) only: Vec<String>,
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
    pub(crate) policy: Option<String>,
    #[serde(default)]
    pub(crate) policies: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) budgets: Vec<(String, usize)>,
    pub(crate) local_disks: Option<bool>,
    #[serde(default)]
    pub(crate) map: BTreeMap<String, String>,
    pub(crate) ha_maintenance: Option<bool>,
    #[serde(default)]
    pub(crate) stop_unplaced: bool,
    pub(crate) to_cluster: Option<String>,
    #[serde(default)]
    pub(crate) all_to_cluster: bool,
    pub(crate) reserve: Option<String>,
    pub(crate) memory: Option<String>,
    pub(crate) cpu_overcommit: Option<u32>,
    /// For a restore: what the node's note says, memory and assigned memory.
    pub(crate) was: Option<(u64, u64)>,
    #[serde(default)]
    pub(crate) no_move: bool,
    #[serde(default)]
    pub(crate) also_moved_on: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// VMID to `live-migrate pve2`, `stop` ...
    #[serde(default)]
    pub(crate) guests: BTreeMap<String, String>,
    /// Codes of refusals, each at least once, and no others.
    #[serde(default)]
    pub(crate) refused: BTreeSet<String>,
    /// Codes of warnings, each at least once.
    #[serde(default)]
    pub(crate) warned: BTreeSet<String>,
    /// What the shown plan has to contain.
    #[serde(default)]
    pub(crate) says: Vec<String>,
    /// VMIDs in the order in which they are taken on.
    pub(crate) order: Option<Vec<u32>>,
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn storage(name: &str) -> StorageId {
    name.parse().unwrap()
}

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn usual_storages() -> BTreeMap<String, StorageText> {
    let of = |kind: &str, shared| StorageText {
        kind: kind.to_owned(),
        shared,
        active: true,
        free: 1000,
        content: None,
    };
    BTreeMap::from([
        ("nfs".to_owned(), of("nfs", true)),
        ("zfs".to_owned(), of("zfspool", false)),
        ("thin".to_owned(), of("lvmthin", false)),
        ("local".to_owned(), of("dir", false)),
    ])
}

impl Scenario {
    pub(crate) fn inventory(&self) -> Inventory {
        let mut nodes: BTreeMap<NodeName, NodeFacts> = self
            .nodes
            .iter()
            .map(|(name, node)| (name.parse().unwrap(), node.facts()))
            .collect();
        for name in ["pve1", "pve2", "pve3"] {
            if self.nodes.is_empty() || (name == "pve1" && !self.nodes.contains_key(name)) {
                nodes.insert(
                    node(name),
                    serde_json::from_str::<Node>("{}").unwrap().facts(),
                );
            }
        }
        let mut guests: Vec<GuestFacts> = self.guests.iter().map(Guest::facts).collect();
        guests.sort_by_key(|guest| guest.place.vmid);
        Inventory {
            cluster: "apple".parse().unwrap(),
            nodes,
            guests,
            rules: self
                .rules
                .iter()
                .enumerate()
                .map(|(at, rule)| rule.rule(at))
                .collect(),
        }
    }

    pub(crate) fn request(&self) -> Request {
        let text = &self.request;
        Request {
            node: node(text.node.as_deref().unwrap_or("pve1")),
            to: text.to.iter().map(|name| node(name)).collect(),
            select: self.selection(),
            policies: Policies {
                default: text
                    .policy
                    .as_ref()
                    .map_or(Policy::Auto, |word| word.parse().unwrap()),
                rules: text
                    .policies
                    .iter()
                    .map(|(selector, policy)| (selector.parse().unwrap(), policy.parse().unwrap()))
                    .collect(),
            },
            budgets: text
                .budgets
                .iter()
                .map(|(selector, min_running)| Budget {
                    name: "keep".to_owned(),
                    guests: selector.parse().unwrap(),
                    min_running: *min_running,
                })
                .collect(),
            limits: self.limits(),
            allowed: self.allowed(),
            ha_maintenance: text.ha_maintenance.unwrap_or(true),
            stop_unplaced: text.stop_unplaced,
            across: text.to_cluster.as_ref().map(|place| Across {
                to: place.parse().unwrap(),
                all: text.all_to_cluster,
            }),
        }
    }

    /// Returns what is said about the only place on another cluster.
    pub(crate) fn said(&self) -> BTreeMap<Destination, Said> {
        let Some(text) = &self.request.to_cluster else {
            return BTreeMap::new();
        };
        let place: Destination = text.parse().unwrap();
        let mut inventory = self.inventory();
        inventory.guests.clear();
        let mut there = serde_json::from_str::<Node>("{}").unwrap().facts();
        there.memory = Bytes::gib(self.free_there);
        there.memory_used = Bytes::ZERO;
        there.seen = Some(NodeSeen::default());
        inventory.nodes.insert(place.node.clone(), there);
        let refuse = |(name, reason): (&String, &String)| Verdict {
            guest: (name != "all").then(|| name.clone()),
            severity: Severity::Refuse,
            code: "by-the-mover",
            reason: reason.clone(),
            remedy: "mend it".to_owned(),
        };
        let said = Said {
            inventory: Some(inventory),
            verdicts: self.mover.iter().map(refuse).collect(),
            remarks: BTreeMap::new(),
        };
        BTreeMap::from([(place, said)])
    }

    pub(crate) fn restore(&self) -> proxmove::plan::restore::Request {
        proxmove::plan::restore::Request {
            node: node(self.request.node.as_deref().unwrap_or("pve1")),
            move_guests: !self.request.no_move,
            also_moved_on: self.request.also_moved_on,
            select: self.selection(),
            limits: self.limits(),
            allowed: self.allowed(),
            closed: self.request.was.map(|(memory, assigned)| Closed {
                memory: Bytes::gib(memory),
                assigned: Bytes::gib(assigned),
                ..closed()
            }),
        }
    }

    fn selection(&self) -> Selection {
        let selectors = |words: &[String]| -> Vec<Selector> {
            words.iter().map(|word| word.parse().unwrap()).collect()
        };
        Selection {
            only: selectors(&self.request.only),
            exclude: selectors(&self.request.exclude),
        }
    }

    fn allowed(&self) -> Allowed {
        Allowed {
            local_disks: self.request.local_disks.unwrap_or(true),
            storages: self
                .request
                .map
                .iter()
                .map(|(from, to)| (storage(from), storage(to)))
                .collect(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            // Scenarios count in whole GiB.
            memory_reserve: self
                .request
                .reserve
                .as_ref()
                .map_or(Reserve::Percent(0), |text| text.parse().unwrap()),
            memory: self
                .request
                .memory
                .as_ref()
                .map_or(MemoryBasis::Both, |text| text.parse().unwrap()),
            cpu_overcommit: self.request.cpu_overcommit,
            storage_reserve: Reserve::Percent(0),
            ..Limits::default()
        }
    }
}

pub(crate) fn closed() -> Closed {
    Closed {
        stage: Stage::Evacuated,
        maintenance: false,
        memory: Bytes::gib(64),
        assigned: Bytes::ZERO,
        by: "bob@desk".to_owned(),
        since: "2026-01-02T03:04:05Z".to_owned(),
    }
}

impl Node {
    fn facts(&self) -> NodeFacts {
        let storages = self.storages.clone().unwrap_or_else(usual_storages);
        let bridges = BTreeSet::from(["vmbr0".to_owned()]);
        NodeFacts {
            online: self.online,
            maintenance: self.maintenance,
            cores: self.cores,
            load: self.load,
            memory: Bytes::gib(self.memory),
            memory_used: Bytes::gib(self.used),
            storages: storages
                .into_iter()
                .map(|(name, text)| (storage(&name), text.facts()))
                .collect(),
            seen: Some(NodeSeen {
                closed: self.closed.then(closed),
                bridges: self.bridges.clone().unwrap_or(bridges),
                silent: None,
            }),
        }
    }
}

impl StorageText {
    fn facts(self) -> StorageFacts {
        let both = ["images".to_owned(), "rootdir".to_owned()];
        StorageFacts {
            kind: self.kind,
            shared: self.shared,
            active: self.active,
            content: self.content.unwrap_or_else(|| both.into()),
            available: Bytes::gib(self.free),
            total: Bytes::gib(1000),
        }
    }
}

impl Guest {
    fn facts(&self) -> GuestFacts {
        let local: Vec<LocalVolume> = self
            .local
            .iter()
            .enumerate()
            .map(|(at, volume)| LocalVolume {
                volid: format!("{}:vm-{}-disk-{at}", volume.storage, self.vmid),
                storage: Some(storage(&volume.storage)),
                format: volume.format.clone(),
                size: Bytes::gib(volume.size),
                cdrom: volume.cdrom,
            })
            .collect();
        let mut storages: BTreeSet<StorageId> = local
            .iter()
            .filter_map(|volume| volume.storage.clone())
            .collect();
        if local.iter().all(|volume| volume.cdrom) {
            storages.insert(storage("nfs"));
        }
        GuestFacts {
            place: GuestRef {
                node: node(&self.node),
                kind: if self.lxc {
                    GuestKind::Lxc
                } else {
                    GuestKind::Qemu
                },
                vmid: vmid(self.vmid),
            },
            name: format!("guest{}{}", self.vmid, self.behind),
            power: if self.running {
                Power::Running
            } else {
                Power::Stopped
            },
            template: self.template,
            lock: self.lock.clone(),
            tags: self.tags.clone(),
            pool: self.pool.as_ref().map(|pool| pool.parse().unwrap()),
            ha: self.ha.clone(),
            memory: Bytes::gib(self.memory),
            cores: self.cores,
            load: self.load,
            seen: Some(GuestSeen {
                local,
                storages,
                devices: self.devices.clone(),
                only_stopped: self.only_stopped.clone(),
                allowed: self
                    .allowed
                    .as_ref()
                    .map(|nodes| nodes.iter().map(|name| node(name)).collect()),
                refused: self
                    .refused
                    .iter()
                    .map(|(name, reasons)| (node(name), reasons.clone()))
                    .collect(),
                bridges: self
                    .bridges
                    .clone()
                    .unwrap_or_else(|| BTreeSet::from(["vmbr0".to_owned()])),
                snapshots: self.snapshots,
                order: self.order,
                up_delay: 0,
                away: self.away.as_ref().map(|away| Away {
                    origin: node(&away.origin),
                    to: match &away.to {
                        None => Sent::ByHa,
                        Some(to) if to.contains(':') => Sent::Cluster(to.parse().unwrap()),
                        Some(to) => Sent::Node(node(to)),
                    },
                    bridges: BTreeMap::new(),
                    running: away.running,
                    by: "ann@laptop".to_owned(),
                    since: "2026-01-02T03:04:05Z".to_owned(),
                }),
                abroad: self.abroad.as_deref().map(abroad),
            }),
        }
    }
}

fn abroad(text: &str) -> Abroad {
    let begun = |runs| Abroad::Begun {
        by: "ann@laptop".to_owned(),
        runs,
    };
    match text {
        "home" => Abroad::Home,
        "begun" => begun(false),
        "ran" => begun(true),
        "there" => Abroad::There(Ok("comes back".to_owned())),
        "returning" => Abroad::Returning(Ok("comes back".to_owned())),
        "no alias" => Abroad::NoAlias,
        "silent" => Abroad::Unknown("no answer".to_owned()),
        other => match other.strip_prefix("there, but ") {
            Some(reason) => Abroad::There(Err(reason.to_owned())),
            None => panic!("{other}?"),
        },
    }
}

impl RuleText {
    fn rule(&self, at: usize) -> Rule {
        Rule {
            name: format!("rule {at}"),
            guests: self.guests.iter().map(|number| vmid(*number)).collect(),
            kind: match &self.nodes {
                Some(nodes) => RuleKind::Nodes {
                    nodes: nodes
                        .iter()
                        .map(|(name, weight)| (node(name), *weight))
                        .collect(),
                    strict: self.strict,
                },
                None if self.apart => RuleKind::Apart,
                None => RuleKind::Together,
            },
        }
    }
}

/// Reads all scenarios of a file.
pub(crate) fn read(file: &str) -> Vec<Scenario> {
    let path = format!(
        "{}/tests/scenarios/evacuation/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}
