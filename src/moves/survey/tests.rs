use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::cluster::task::Upid;
use crate::cluster::{ConfigChange, Tell};
use crate::host::command::Command;
use crate::host::{Exit, Output, ShellError, Stream};
use crate::plan::facts::Existing;
use crate::plan::mark::Mark;
use crate::plan::sample::{World, config, id, node, place, release, section, storage, summary};
use crate::pve::guest::{AgentPing, GuestConfig, GuestDetail, GuestRef, Power, Vitals};
use crate::pve::ha::{HaResource, HaRule, HaSettings, HaSid};
use crate::pve::id::{PoolId, Volid};
use crate::pve::inventory::{ConfigSchema, Permissions, Release, Volume};
use crate::pve::migration::{MigratePreconditions, MigrateRequest, Migrated};
use crate::pve::node::{NodeConfig, NodeResources, NodeStatus, StorageResources};
use crate::units::Bytes;

/// A cluster that answers from values and writes down what it was asked.
struct Fake {
    alias: ClusterAlias,
    nodes: Vec<Node>,
    listed: Vec<GuestSummary>,
    immediate: BTreeMap<NodeName, Vec<GuestSummary>>,
    broken: BTreeSet<&'static str>,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn new(alias: &str) -> Fake {
        Fake {
            alias: id(alias),
            nodes: vec![node("node1"), node("node2")],
            listed: vec![summary("node1", 565, "web1"), summary("node2", 566, "db1")],
            immediate: BTreeMap::from([
                (id("node1"), vec![summary("node1", 565, "web1")]),
                (id("node2"), vec![summary("node2", 566, "db1")]),
            ]),
            broken: BTreeSet::new(),
            calls: Mutex::new(Vec::new()),
        }
    }

    fn asked(&self, what: impl Into<String>) -> Result<(), ApiError> {
        let what = what.into();
        let broken = self.broken.iter().any(|word| what.starts_with(word));
        self.calls.lock().expect("in order").push(what.clone());
        if broken {
            return Err(ApiError::Refused {
                cluster: self.alias.clone(),
                request: what,
                status: 595,
                reason: "No route to host".to_owned(),
            });
        }
        Ok(())
    }

    fn count(&self, what: &str) -> usize {
        let calls = self.calls.lock().expect("in order");
        calls.iter().filter(|call| call.starts_with(what)).count()
    }
}

#[async_trait]
impl Api for Fake {
    fn alias(&self) -> &ClusterAlias {
        &self.alias
    }
    async fn release(&self) -> Result<Release, ApiError> {
        self.asked("release").map(|()| release("8.4"))
    }
    async fn clock_skew_seconds(&self) -> Result<i64, ApiError> {
        self.asked("clock").map(|()| 1)
    }
    async fn nodes(&self) -> Result<Vec<Node>, ApiError> {
        self.asked("nodes").map(|()| self.nodes.clone())
    }
    async fn guests(&self) -> Result<Vec<GuestSummary>, ApiError> {
        self.asked("guests").map(|()| self.listed.clone())
    }
    async fn guests_on(&self, node: &NodeName) -> Result<Vec<GuestSummary>, ApiError> {
        self.asked(format!("on {node}"))?;
        Ok(self.immediate.get(node).cloned().unwrap_or_default())
    }
    async fn guest(&self, place: &GuestRef) -> Result<GuestDetail, ApiError> {
        self.asked(format!("guest {}", place.vmid))?;
        Ok(GuestDetail {
            place: place.clone(),
            config: config(
                "name: web1\nscsi0: san:565/vm-565-disk-0.raw\nscsi1: tank:vm-565-disk-1\nide2: iso:iso/x.iso,media=cdrom\n\
                 unused0: san:565/old.raw",
            ),
            pending: Vec::new(),
            snapshots: Vec::new(),
            power: Power::Running,
            qmp_status: "running".to_owned(),
            lock: None,
            ha_managed: false,
            running_machine: None,
        })
    }
    async fn snapshot(&self, place: &GuestRef, name: &str) -> Result<GuestConfig, ApiError> {
        self.asked(format!("snapshot {name} of {}", place.vmid))?;
        Ok(config("name: web1\nsnaptime: 7"))
    }
    async fn storages(&self, node: &NodeName) -> Result<Vec<Storage>, ApiError> {
        self.asked(format!("storages {node}"))?;
        let mut off = storage("off", "dir", &["images"]);
        off.active = false;
        Ok(vec![
            storage("san", "nfs", &["images"]),
            storage("tank", "zfspool", &["images"]),
            off,
        ])
    }
    async fn volume(&self, _node: &NodeName, volid: &Volid) -> Result<Volume, ApiError> {
        self.asked(format!("volume {volid}"))?;
        Ok(Volume {
            volid: volid.clone(),
            format: "raw".to_owned(),
            size: Bytes::gib(1),
            used: None,
            path: None,
            parent: None,
            owner: None,
        })
    }
    async fn volumes(
        &self,
        _node: &NodeName,
        storage: &StorageId,
        _owner: Option<Vmid>,
    ) -> Result<Vec<Volume>, ApiError> {
        self.asked(format!("content {storage}"))
            .map(|()| Vec::new())
    }
    async fn bridges(&self, node: &NodeName) -> Result<Vec<String>, ApiError> {
        self.asked(format!("bridges {node}"))
            .map(|()| vec!["vmbr0".to_owned()])
    }
    async fn machines(&self, node: &NodeName) -> Result<Vec<String>, ApiError> {
        self.asked(format!("machines {node}")).map(|()| Vec::new())
    }
    async fn permissions(&self) -> Result<Permissions, ApiError> {
        self.asked("permissions").map(|()| Permissions::default())
    }
    async fn user(&self) -> Result<String, ApiError> {
        self.asked("user").map(|()| "root@pam".to_owned())
    }
    async fn replication_jobs(&self) -> Result<Vec<ReplicationJob>, ApiError> {
        let job = |number: u32, guest: &str| ReplicationJob {
            id: format!("{guest}-{number}"),
            guest: id(guest),
            target: "node2".to_owned(),
        };
        self.asked("replication")
            .map(|()| vec![job(0, "565"), job(0, "566")])
    }
    async fn replicating(&self, place: &GuestRef) -> Result<Vec<String>, ApiError> {
        self.asked(format!("replicating {}", place.vmid))
            .map(|()| Vec::new())
    }
    async fn pools(&self) -> Result<Vec<PoolId>, ApiError> {
        self.asked("pools").map(|()| vec![id("customers")])
    }
    async fn config_schema(&self) -> Result<Option<ConfigSchema>, ApiError> {
        self.asked("schema").map(|()| None)
    }
    async fn free_vmid(&self) -> Result<Vmid, ApiError> {
        self.asked("nextid").map(|()| id("100"))
    }
    async fn create(
        &self,
        _place: &GuestRef,
        _config: &BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        panic!("a survey creates nothing");
    }
    async fn configure(&self, _place: &GuestRef, _change: &ConfigChange) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn start(&self, _place: &GuestRef) -> Result<(), ApiError> {
        panic!("a survey starts nothing");
    }
    async fn shutdown(&self, _place: &GuestRef, _patience: Duration) -> Result<(), ApiError> {
        panic!("a survey stops nothing");
    }
    async fn delete(&self, _place: &GuestRef) -> Result<(), ApiError> {
        panic!("a survey deletes nothing");
    }
    async fn join_pool(&self, _pool: &PoolId, _guest: Vmid) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn stop(&self, _place: &GuestRef) -> Result<(), ApiError> {
        panic!("a survey stops nothing");
    }
    async fn vitals(&self, _place: &GuestRef) -> Result<Vitals, ApiError> {
        panic!("a survey is not about what goes on");
    }
    async fn ping_agent(&self, _place: &GuestRef) -> Result<AgentPing, ApiError> {
        panic!("a survey is not about what goes on");
    }
    async fn node_resources(&self) -> Result<Vec<NodeResources>, ApiError> {
        panic!("a survey is not about nodes");
    }
    async fn cluster_storages(&self) -> Result<Vec<StorageResources>, ApiError> {
        panic!("a survey is not about nodes");
    }
    async fn node_status(&self, _node: &NodeName) -> Result<NodeStatus, ApiError> {
        panic!("a survey is not about nodes");
    }
    async fn node_config(&self, _node: &NodeName) -> Result<NodeConfig, ApiError> {
        panic!("a survey is not about nodes");
    }
    async fn describe_node(
        &self,
        _node: &NodeName,
        _description: &str,
        _digest: Option<&str>,
    ) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn migrate_preconditions(
        &self,
        _place: &GuestRef,
        _target: Option<&NodeName>,
    ) -> Result<Option<MigratePreconditions>, ApiError> {
        panic!("a survey is not about migrating");
    }
    async fn migrate(
        &self,
        _place: &GuestRef,
        _request: &MigrateRequest,
        _tell: Tell<'_>,
    ) -> Result<Migrated, ApiError> {
        panic!("a survey migrates nothing");
    }
    async fn running_migration(&self, _place: &GuestRef) -> Result<Option<Upid>, ApiError> {
        panic!("a survey is not about migrating");
    }
    async fn power_task(&self, _place: &GuestRef) -> Result<Option<Upid>, ApiError> {
        panic!("a survey is not about tasks");
    }
    async fn running_tasks(&self) -> Result<Vec<Upid>, ApiError> {
        panic!("a survey is not about tasks");
    }
    async fn follow(&self, _upid: &Upid, _tell: Tell<'_>) -> Result<(), ApiError> {
        panic!("a survey is not about tasks");
    }
    async fn ha_status(&self) -> Result<Vec<HaResource>, ApiError> {
        panic!("a survey is not about HA");
    }
    async fn ha_rules(&self) -> Result<Vec<HaRule>, ApiError> {
        panic!("a survey is not about HA");
    }
    async fn ha_resource(&self, _sid: HaSid) -> Result<Option<HaSettings>, ApiError> {
        panic!("a survey is not about HA");
    }
    async fn ha_acts_on(&self, _sid: HaSid) -> Result<bool, ApiError> {
        panic!("a survey is not about HA");
    }
    async fn set_ha_state(&self, _sid: HaSid, _state: &str) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn create_ha(&self, _sid: HaSid, _settings: &HaSettings) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn remove_ha(&self, _sid: HaSid) -> Result<(), ApiError> {
        panic!("a survey changes nothing");
    }
    async fn ha_maintenance(&self) -> Result<BTreeSet<NodeName>, ApiError> {
        panic!("a survey is not about HA");
    }
}

fn derive(cluster: &ClusterAlias, node: &Node, storage: &Storage) -> Result<StorageConfig, String> {
    match storage.kind.as_str() {
        "zfspool" => Err("zfspool has no files".to_owned()),
        _ => Ok(section(
            cluster.as_str(),
            storage.id.as_str(),
            node.name.as_str(),
            "/derived",
        )),
    }
}

fn with_section(cluster: &str, storage: &str) -> Config {
    Config {
        storages: vec![section(cluster, storage, "configured.example", "/images")],
        ..Config::default()
    }
}

async fn survey_source(
    api: &Fake,
    names: &[&str],
    existing: &ExistingMoves,
) -> Result<SourceFacts, ApiError> {
    let mut request = World::new().request;
    request.guests = names.iter().map(|name| (*name).to_owned()).collect();
    let config = with_section("apple", "san");
    let sections = Sections {
        config: &config,
        derive: &derive,
    };
    source(api, &request, sections, existing).await
}

#[tokio::test]
async fn the_source_is_asked_about_wanted_guests_only() {
    let mut api = Fake::new("apple");
    api.listed[0].pool = Some(id("customers"));
    let facts = survey_source(&api, &["web1", "web1", "gone"], &ExistingMoves::new())
        .await
        .expect("in order");
    assert_eq!(facts.wanted.len(), 1);
    assert_eq!(api.count("guests"), 1);
    assert_eq!(api.count("on "), 2);
    assert_eq!(api.count("guest "), 1);
    // CD-ROMs and loose volumes are not looked at.
    assert_eq!(api.count("volume "), 2);
    let guest = &facts.wanted["web1"];
    // The nodes do not know pools; the cluster's list does.
    assert_eq!(guest.pool, Some(id("customers")));
    assert_eq!(guest.replication.len(), 1);
    let san = &guest.volumes[&id("scsi0")];
    assert_eq!(
        san.section.as_ref().expect("in order").ssh.host,
        "configured.example"
    );
    assert_eq!(san.storage_kind.as_deref(), Some("nfs"));
    let tank = &guest.volumes[&id("scsi1")];
    assert_eq!(tank.section, Err("zfspool has no files".to_owned()));
    assert!(facts.unanswered.is_empty());
}

#[tokio::test]
async fn many_guests_cost_no_more_calls() {
    let mut api = Fake::new("apple");
    let crowd: Vec<GuestSummary> = (1000..6000)
        .map(|vmid| summary("node2", vmid, &format!("g{vmid}")))
        .collect();
    api.listed.extend(crowd.clone());
    api.immediate.insert(id("node2"), crowd);
    let facts = survey_source(&api, &["g5999"], &ExistingMoves::new())
        .await
        .expect("in order");
    assert_eq!(facts.wanted["g5999"].detail.place.vmid, id("5999"));
    assert!(api.calls.lock().expect("in order").len() < 15);
}

#[tokio::test]
async fn a_source_that_answers_half_is_still_surveyed() {
    let mut api = Fake::new("apple");
    api.broken = BTreeSet::from(["on node2", "replication", "volume tank"]);
    api.nodes.push(Node {
        online: false,
        ..node("node3")
    });
    api.listed.push(summary("node3", 700, "far"));
    let facts = survey_source(&api, &["web1", "db1", "far"], &ExistingMoves::new())
        .await
        .expect("in order");
    let names: Vec<&String> = facts.wanted.keys().collect();
    assert_eq!(names, ["db1", "web1"]);
    let gaps: Vec<&str> = facts
        .unanswered
        .iter()
        .map(|gap| gap.what.as_str())
        .collect();
    assert_eq!(gaps, ["guests of node node2", "replication jobs"]);
    assert!(facts.wanted["web1"].volumes[&id("scsi1")].volume.is_err());
    assert_eq!(api.count("on node3"), 0);
    // An API that does not answer at all ends the survey.
    api.broken = BTreeSet::from(["nodes"]);
    assert!(
        survey_source(&api, &["web1"], &ExistingMoves::new())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_target_is_asked_once_for_everything() {
    let api = Fake::new("banana");
    let mut request = World::new().request;
    request.storage = id("san");
    request.storages.insert(id("scsi1"), id("off"));
    let config = with_section("banana", "san");
    let sections = Sections {
        config: &config,
        derive: &derive,
    };
    let facts = target(&api, &request, sections).await.expect("in order");
    assert_eq!(facts.bridges, Some(vec!["vmbr0".to_owned()]));
    assert_eq!(
        facts.sections[&id("san")]
            .as_ref()
            .expect("in order")
            .ssh
            .host,
        "configured.example"
    );
    assert_eq!(
        facts.sections[&id("off")]
            .as_ref()
            .expect("in order")
            .ssh
            .host,
        "node2"
    );
    assert!(facts.sections[&id("tank")].is_err());
    // An inactive storage would only answer with an error.
    assert_eq!((api.count("content san"), api.count("content off")), (1, 0));
    assert_eq!(facts.free_vmids.first(), Some(&id("100")));
    assert!(facts.unanswered.is_empty());
}

#[tokio::test]
async fn a_target_node_that_is_off_is_not_asked() {
    let mut api = Fake::new("banana");
    api.nodes[1].online = false;
    let config = Config::default();
    let sections = Sections {
        config: &config,
        derive: &derive,
    };
    let facts = target(&api, &World::new().request, sections)
        .await
        .expect("in order");
    assert_eq!(facts.bridges, None);
    assert_eq!(api.count("storages"), 0);
    let mut api = Fake::new("banana");
    api.broken = BTreeSet::from(["bridges", "machines", "pools", "content", "schema"]);
    let mut request = World::new().request;
    request.storage = id("san");
    let facts = target(&api, &request, sections).await.expect("in order");
    assert_eq!(facts.unanswered.len(), 4);
}

#[test]
fn the_nodes_know_best_who_lives_on_them() {
    let mut renamed = summary("node1", 100, "new-name");
    renamed.power = Power::Stopped;
    let moved = summary("node2", 101, "moved");
    let mut listed = vec![
        summary("node1", 100, "old-name"),
        summary("node1", 101, "moved"),
        summary("node1", 102, "deleted"),
        summary("node3", 103, "unreachable"),
    ];
    listed[0].ha_state = Some("started".to_owned());
    let answers = BTreeMap::from([(id("node1"), vec![renamed]), (id("node2"), vec![moved])]);
    let shown: Vec<String> = merged(listed, answers)
        .iter()
        .map(|guest| {
            let name = guest.name.as_deref().unwrap_or_default();
            format!(
                "{} {} {:?} {:?}",
                guest.place.node, name, guest.power, guest.ha_state
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"node1 new-name Stopped Some("started")"#,
            "node2 moved Running None",
            "node3 unreachable Running None"
        ]
    );
}

#[test]
fn free_vmids_are_those_nobody_has() {
    let guests = [summary("node1", 101, "a"), summary("node1", 103, "b")];
    let numbers: Vec<u32> = free_vmids(id("100"), &guests, 2)
        .into_iter()
        .map(Vmid::number)
        .collect();
    assert_eq!(numbers, [100, 102, 104, 105, 106, 107]);
    assert_eq!(free_vmids(id("999999999"), &guests, 3).len(), 1);
}

#[test]
fn a_guest_is_found_by_name_or_by_its_earlier_move() {
    let mut none = ExistingMoves::new();
    let mut guests = vec![
        summary("node1", 100, "web1--CLONING"),
        summary("node1", 101, "twin"),
        summary("node2", 102, "twin"),
        summary("node2", 103, "box"),
        summary("node2", 104, "web2"),
    ];
    guests[3].place.kind = GuestKind::Lxc;
    let found = |name: &str, guests: &[GuestSummary], existing: &ExistingMoves| {
        find(name, guests, existing).map(|guest| guest.place.vmid.number())
    };
    for (name, expect) in [
        ("web1", None),
        ("twin", None),
        ("box", None),
        ("web2", Some(104)),
    ] {
        assert_eq!(found(name, &guests, &none), expect, "{name}");
    }
    let mark = Mark {
        source_cluster: id("apple"),
        // The guest has been migrated to another node since; its number stays.
        source: place("node9", 100),
        name: "web1".to_owned(),
        running: true,
        onboot: false,
        by: String::new(),
        since: String::new(),
        onboot_set: true,
        id: None,
        made_from: None,
        returning: false,
        ha: None,
        order: None,
        claim: None,
        volumes: BTreeMap::new(),
        kept: None,
        finishing: false,
    };
    let target = place("node2", 140);
    none.insert(
        "web1".to_owned(),
        Existing {
            target,
            mark,
            former: None,
        },
    );
    assert_eq!(found("web1", &guests, &none), Some(100));
    guests[0].name = Some("somebody-else".to_owned());
    assert_eq!(found("web1", &guests, &none), None);
}

struct FakeShell(&'static str, Exit);

#[async_trait]
impl Shell for FakeShell {
    fn address(&self) -> &str {
        "root@san"
    }
    async fn run(
        &self,
        _command: &Command,
        _input: &[u8],
        _patience: Duration,
    ) -> Result<Output, ShellError> {
        Ok(Output {
            exit: self.1.clone(),
            stdout: self.0.as_bytes().to_vec(),
            stderr: b"first\nsh: not allowed".to_vec(),
        })
    }
    async fn stream(&self, _command: &Command) -> Result<Stream, ShellError> {
        panic!("a probe is one short command");
    }
}

#[tokio::test]
async fn hosts_answer_or_say_why_not() {
    let key = |host: &str| HostKey::of(&section("apple", "san", host, "/images"));
    let ask: BTreeMap<HostKey, BTreeSet<Vmid>> = ["good", "wrong", "off", "unknown"]
        .map(|host| (key(host), BTreeSet::new()))
        .into();
    let good = FakeShell("proxmove-probe 1\nsystem Linux\nend 1\n", Exit::Code(0));
    let wrong = FakeShell("", Exit::Code(126));
    let shells = Shells::from([
        (key("good").ssh, Ok(Arc::new(good) as Arc<dyn Shell>)),
        (key("wrong").ssh, Ok(Arc::new(wrong) as Arc<dyn Shell>)),
        (key("off").ssh, Err("connection refused".to_owned())),
    ]);
    let hosts = hosts(&ask, &shells).await;
    assert_eq!(
        hosts[&key("good")].as_ref().expect("in order").address,
        "root@san"
    );
    for (host, why) in [
        ("wrong", "its shell exited with 126: sh: not allowed"),
        ("off", "connection refused"),
        ("unknown", "there is no connection to it"),
    ] {
        assert_eq!(hosts[&key(host)], Err(why.to_owned()));
    }
}
