//! Scenarios as data: a cluster, the words behind `evacuate node1`, what goes wrong, what comes out, and the way back.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxmove::plan::evacuate::note::{Closed, Stage as Step};
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::{ClusterSpec, GuestSpec, SnapshotSpec};
use proxmove::units::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::{ALIAS, Adjust, cluster, ct, ha, vm};
use crate::stage::launch;
use crate::state::{all, quick, start};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    #[serde(default = "newest")]
    version: String,
    /// GiB of memory by node; three nodes unless more are named.
    #[serde(default)]
    nodes: BTreeMap<String, u64>,
    #[serde(default)]
    closed: Vec<String>,
    #[serde(default)]
    offline: Vec<String>,
    guests: Vec<Guest>,
    #[serde(default)]
    budgets: String,
    #[serde(default)]
    run: Vec<String>,
    /// What happens to the nth request of a method and path.
    #[serde(default)]
    faults: Vec<Upset>,
    expect: Expect,
    restore: Option<Back>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    vmid: u32,
    node: Option<String>,
    storage: Option<String>,
    #[serde(default)]
    lxc: bool,
    #[serde(default = "yes")]
    running: bool,
    gib: Option<u64>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    ha: bool,
    #[serde(default)]
    migration_fault: String,
    #[serde(default)]
    ignores_shutdown: bool,
    #[serde(default)]
    snapshot: bool,
    lock: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upset {
    method: String,
    path: String,
    nth: Option<usize>,
    /// `error`, `lost answer`, `lost request`, `cut NODE`, `boot NODE`, `colleague VMID NODE`, `unlock VMID`, `stop VMID`,
    /// `start VMID`, `describe NODE`.
    what: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    exit: i32,
    #[serde(default)]
    guests: BTreeMap<String, String>,
    #[serde(default)]
    says: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    #[serde(default)]
    run: Vec<String>,
    /// What is done before: as in the faults.
    #[serde(default)]
    first: Vec<String>,
    #[serde(default)]
    exit: i32,
    #[serde(default)]
    guests: BTreeMap<String, String>,
    #[serde(default)]
    says: Vec<String>,
    /// Whether everything is as at the beginning, field by field.
    #[serde(default = "yes")]
    as_before: bool,
}

fn yes() -> bool {
    true
}

fn newest() -> String {
    "9.1.2".to_owned()
}

impl Scenario {
    fn spec(&self) -> ClusterSpec {
        let mut spec = cluster(&self.version, self.nodes.len().max(3));
        for node in &mut spec.nodes {
            if let Some(memory) = self.nodes.get(&node.name) {
                node.memory = memory << 30;
                node.memory_used = 0;
            }
            node.online = !self.offline.contains(&node.name);
            if self.closed.contains(&node.name) {
                let note = Closed {
                    stage: Step::Cordoned,
                    maintenance: false,
                    memory: Bytes::gib(64),
                    assigned: Bytes::ZERO,
                    by: "bob@desk".to_owned(),
                    since: "2026-01-02T03:04:05Z".to_owned(),
                };
                node.description = note.put("rack 4").unwrap();
            }
        }
        spec.guests = self.guests.iter().map(Guest::spec).collect();
        spec.ha = self
            .guests
            .iter()
            .filter(|guest| guest.ha)
            .map(|guest| ha(guest.vmid))
            .collect();
        spec
    }
}

impl Guest {
    fn spec(&self) -> GuestSpec {
        let node = self.node.as_deref().unwrap_or("node1");
        let storage = self.storage.as_deref().unwrap_or("san");
        let mut spec = if self.lxc {
            ct(self.vmid, node, storage)
        } else {
            vm(self.vmid, node, storage)
        };
        spec.running = self.running;
        if let Some(memory) = self.gib {
            spec = spec.gib(memory);
        }
        for (key, value) in &self.config {
            spec = spec.with(key, value);
        }
        spec.migration_fault.clone_from(&self.migration_fault);
        spec.ignores_shutdown = self.ignores_shutdown;
        spec.lock.clone_from(&self.lock);
        if self.snapshot {
            spec.snapshots = vec![SnapshotSpec {
                name: "before".to_owned(),
                ..SnapshotSpec::default()
            }];
        }
        spec
    }
}

/// Does to a stage what a word of a scenario says.
fn act(stage: &Arc<Stage>, what: &str) {
    let words: Vec<&str> = what.split(' ').collect();
    let orders = stage.simulation.orders(ALIAS).unwrap();
    let number = |text: &str| text.parse::<u32>().unwrap();
    match words.as_slice() {
        ["cut", node] => orders.cut_power(node),
        ["boot", node] => orders.boot(node),
        ["colleague", vmid, node] => {
            orders.migrate("bob@pam", number(vmid), node).unwrap();
        }
        ["wait"] => std::thread::sleep(std::time::Duration::from_secs(1)),
        ["memory", node, gib] => {
            let mut world = stage.simulation.world();
            let nodes = &mut world.clusters[0].nodes;
            let found = nodes.iter_mut().find(|known| known.name == *node).unwrap();
            found.memory = u64::from(number(gib)) << 30;
        }
        ["lock", vmid, lock] => {
            let mut world = stage.simulation.world();
            let guest = world.clusters[0].guests.get_mut(&number(vmid)).unwrap();
            guest.config.insert("lock".to_owned(), (*lock).to_owned());
        }
        ["unlock", vmid] => {
            let mut world = stage.simulation.world();
            world.clusters[0]
                .guests
                .get_mut(&number(vmid))
                .unwrap()
                .config
                .remove("lock");
        }
        ["close", node] => {
            let mut world = stage.simulation.world();
            let nodes = &mut world.clusters[0].nodes;
            let found = nodes.iter_mut().find(|known| known.name == *node).unwrap();
            found.description = "proxmove: this node is closed, please place no guests here\n- stage: cordoned\n- HA maintenance by proxmove: no\n- memory: 1\n- assigned: 0\n- by: bob@desk\n- since: now\nproxmove: end of the node's notes".to_owned();
        }
        other => panic!("{other:?}?"),
    }
}

fn install(stage: &Arc<Stage>, upset: &Upset) {
    let kind = match upset.what.split_once(": ") {
        Some(("error", reason)) => FaultKind::Error(500, reason.to_owned()),
        _ => match upset.what.as_str() {
            "lost answer" => FaultKind::LostAnswer,
            "lost request" => FaultKind::LostRequest,
            what => {
                let (what, weak) = (what.to_owned(), Arc::downgrade(stage));
                FaultKind::Before(Arc::new(move || {
                    if let Some(stage) = weak.upgrade() {
                        act(&stage, &what);
                    }
                }))
            }
        },
    };
    stage.simulation.faults().add(Fault {
        cluster: None,
        method: Some(upset.method.clone()),
        path: upset.path.clone(),
        nth: upset.nth,
        kind,
    });
}

/// Compares what the program told and what is true with what is expected.
fn judge(stage: &Stage, told: &Value, expected: &BTreeMap<String, String>) -> Vec<String> {
    let now = all(stage);
    let results: BTreeMap<String, &Value> = told["guests"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|guest| (guest["vmid"].to_string(), guest))
        .collect();
    let mut wrong = Vec::new();
    for (vmid, expected) in expected {
        let guest = &now[&vmid.parse::<u32>().unwrap()];
        let told = results
            .get(vmid)
            .map_or("-", |guest| guest["result"].as_str().unwrap_or("-"));
        let power = if guest.running { "running" } else { "stopped" };
        let found = format!("{told} {} {power}", guest.node);
        if found != *expected {
            let reason = results.get(vmid).map(|guest| guest["reason"].clone());
            wrong.push(format!("{vmid}: {found}, not {expected} ({reason:?})"));
        }
        if let Some(guest) = results.get(vmid)
            && guest["node"]
                .as_str()
                .is_some_and(|node| node != now[&vmid.parse::<u32>().unwrap()].node)
        {
            wrong.push(format!("{vmid}: it is told to be on {}", guest["node"]));
        }
    }
    wrong
}

/// Goes through everything that happened: no node ever held more than it has, guests on their way counted; and of those
/// with the tag `web` as many ran at every moment as the budget says.
fn promises(stage: &Stage, scenario: &Scenario) -> Vec<String> {
    let spec = scenario.spec();
    let world = stage.simulation.world();
    let cluster = &world.clusters[0];
    let keep = scenario
        .budgets
        .lines()
        .find_map(|line| line.strip_prefix("min_running="))
        .map_or(0, |text| text.parse::<usize>().unwrap());
    let of_web = |vmid: &u32| {
        let tags = cluster.guests[vmid].config.get("tags");
        tags.is_some_and(|tags| tags.split(';').any(|tag| tag == "web"))
    };
    let mut now = BTreeMap::new();
    let mut wrong = Vec::new();
    for moment in &cluster.history {
        now.insert(moment.vmid, moment);
        if now.len() < spec.guests.len() {
            continue;
        }
        for node in &spec.nodes {
            let held: u64 = now
                .values()
                .filter(|guest| guest.running)
                .filter(|guest| {
                    guest.node == node.name || guest.coming_to.as_ref() == Some(&node.name)
                })
                .map(|guest| cluster.guests[&guest.vmid].memory())
                .sum();
            if held > node.memory {
                wrong.push(format!(
                    "{} held {} of {} GiB",
                    node.name,
                    held >> 30,
                    node.memory >> 30
                ));
            }
        }
        let run = now
            .values()
            .filter(|guest| guest.running && of_web(&guest.vmid))
            .count();
        if run < keep {
            wrong.push(format!("{run} ran, and {keep} must"));
        }
    }
    wrong.dedup();
    wrong
}

async fn play(scenario: &Scenario) -> Vec<String> {
    let stage = Arc::new(start(scenario.spec()).await);
    if !scenario.budgets.is_empty() {
        let file = stage.proxmoverc();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n{}\n", scenario.budgets)).unwrap();
    }
    let before = all(&stage);
    for upset in &scenario.faults {
        install(&stage, upset);
    }
    let mut words = vec!["evacuate", "node1", "--execute", "--json"];
    words.extend(scenario.run.iter().map(String::as_str));
    let ended = launch(&stage, &quick(&words), &[]).wait();
    let mut wrong = Vec::new();
    let everything = format!("{}\n{}", ended.stdout, ended.stderr);
    let told: Value = ended
        .stdout
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_default();
    if ended.code != scenario.expect.exit {
        wrong.push(format!("exit {}, not {}", ended.code, scenario.expect.exit));
    }
    wrong.extend(judge(&stage, &told, &scenario.expect.guests));
    for words in &scenario.expect.says {
        if !everything.contains(words.as_str()) {
            wrong.push(format!("does not say '{words}'"));
        }
    }
    if scenario.expect.exit == 4 && all(&stage) != before {
        wrong.push("was refused, and something is changed".to_owned());
    }
    wrong.extend(promises(&stage, scenario));
    if let Some(back) = scenario.restore.as_ref().filter(|_| wrong.is_empty()) {
        stage.simulation.faults().clear();
        for what in &back.first {
            act(&stage, what);
        }
        let mut words = vec!["restore", "node1", "--yes", "--json"];
        words.extend(back.run.iter().map(String::as_str));
        let ended = launch(&stage, &quick(&words), &[]).wait();
        let told: Value = ended
            .stdout
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        if ended.code != back.exit {
            wrong.push(format!(
                "the restore exits with {}, not {}",
                ended.code, back.exit
            ));
        }
        wrong.extend(judge(&stage, &told, &back.guests));
        let now = all(&stage);
        for words in &back.says {
            if !format!("{}{}", ended.stdout, ended.stderr).contains(words.as_str()) {
                wrong.push(format!("the restore does not say '{words}'"));
            }
        }
        for (vmid, guest) in now.iter().filter(|_| back.as_before) {
            if *guest != before[vmid] {
                wrong.push(format!("{vmid} is {guest:?}, and was {:?}", before[vmid]));
            }
        }
        if !wrong.is_empty() {
            wrong.push(format!("{}\n{}", ended.stdout, ended.stderr));
        }
    }
    if !wrong.is_empty() {
        wrong.push(everything);
    }
    wrong
        .into_iter()
        .map(|text| format!("{}: {text}", scenario.name))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn scenarios_end_as_expected() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/scenarios/evacuation/running.json"
    );
    let scenarios: Vec<Scenario> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(scenarios.len() >= 25, "{}", scenarios.len());
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut wrong = Vec::new();
    for scenario in scenarios
        .iter()
        .filter(|scenario| scenario.name.contains(&only))
    {
        wrong.extend(play(scenario).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
