//! HA: requests that are only queued, rules, maintenance, recovery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::{self, Adjust, Lab, ct, ha, node, to, vm};
use super::log;
use proxmove::cluster::Api;
use proxmove::config::SshAddress;
use proxmove::host::command::Command;
use proxmove::host::ssh::{SshEnvironment, SshOptions, SshShell};
use proxmove::host::{Exit, Shell as _};
use proxmove::pve::ha::HaRuleKind;
use proxmove::report::Operator;
use proxmove::sim::host::Server;
use proxmove::sim::stage::{Stage, StageSettings};
use proxmove::sim::world::scenario::{
    ClusterSpec, GuestSpec, HaGroupSpec, HaRuleSpec, HaSpec, Pace, Scenario,
};

fn lab(version: &str, guests: Vec<GuestSpec>, ha: Vec<HaSpec>, rules: Vec<HaRuleSpec>) -> Lab {
    Lab::start(ClusterSpec {
        guests,
        ha,
        ha_rules: rules,
        ..cluster::cluster(version, 3)
    })
}

fn rule(name: &str, affinity: &str, guests: &[u32]) -> HaRuleSpec {
    HaRuleSpec {
        name: name.to_owned(),
        affinity: affinity.to_owned(),
        guests: guests.to_vec(),
        ..HaRuleSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_ha_is_waited_for_until_the_manager_has_moved_it() {
    let guests = vec![vm(101, "node1", "san").gib(2), ct(111, "node1", "san")];
    let lab = lab("8.4.1", guests, vec![ha(101), ha(111)], Vec::new());
    let api = lab.api();
    for vmid in [101, 111] {
        api.migrate(&lab.place(vmid), &to("node2"), &|_| ())
            .await
            .unwrap();
        let guest = lab.guest(vmid);
        assert_eq!(guest.node, "node2");
    }
    // A container is not there before it runs again.
    assert!(lab.guest(111).run.is_some());
    let kinds: Vec<String> =
        lab.look(|cluster| cluster.tasks.iter().map(|task| task.kind.clone()).collect());
    assert!(
        kinds.contains(&"hamigrate".to_owned()) && kinds.contains(&"qmigrate".to_owned()),
        "{kinds:?}"
    );
    // A container of HA is shut down and migrated, never in one task.
    assert!(
        kinds.contains(&"vzshutdown".to_owned()) && kinds.contains(&"vzmigrate".to_owned()),
        "{kinds:?}"
    );
    let states = api.ha_status().await.unwrap();
    assert_eq!(states.len(), 2);
    assert!(
        states
            .iter()
            .all(|service| service.node == Some(node("node2"))),
        "{states:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_and_stopping_go_through_ha_as_well() {
    let lab = lab(
        "9.1.2",
        vec![vm(101, "node1", "san")],
        vec![ha(101)],
        Vec::new(),
    );
    let api = lab.api();
    let place = lab.place(101);
    api.shutdown(&place, Duration::from_secs(5)).await.unwrap();
    assert!(lab.guest(101).run.is_none());
    lab.until("HA has it stopped", |cluster| {
        cluster.ha[0].state == "stopped"
    });
    api.start(&place).await.unwrap();
    assert!(lab.guest(101).run.is_some());
    api.stop(&place).await.unwrap();
    assert!(lab.guest(101).run.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_keep_guests_apart_and_together() {
    let guests = vec![
        vm(101, "node1", "san"),
        vm(102, "node2", "san"),
        vm(103, "node1", "san"),
    ];
    let rules = vec![
        rule("apart", "negative", &[101, 102]),
        rule("pair", "positive", &[101, 103]),
    ];
    let lab = lab("9.1.2", guests, vec![ha(101), ha(102), ha(103)], rules);
    let api = lab.api();
    let said = api
        .migrate_preconditions(&lab.place(101), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said.dependent_resources, ["vm:103"]);
    let why = &said.not_allowed[&node("node2")].ha;
    assert_eq!(
        *why,
        [("vm:102".to_owned(), "resource-affinity".to_owned())]
    );
    // The request is taken all the same, and then ignored.
    let error = api
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert!(
        log(&error).contains("the HA manager did not move it to node2"),
        "{error}"
    );
    assert_eq!(lab.guest(101).node, "node1");
    api.migrate(&lab.place(101), &to("node3"), &|_| ())
        .await
        .unwrap();
    lab.until("its companion follows", |cluster| {
        cluster.guests[&103].node == "node3"
    });
    let rules = api.ha_rules().await.unwrap();
    let kinds: Vec<_> = rules.iter().map(|rule| rule.kind.clone()).collect();
    assert_eq!(kinds, [HaRuleKind::Apart, HaRuleKind::Together]);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_moves_guests_of_ha_away_and_back_and_nothing_else() {
    let mut parked = ha(104);
    parked.state = "stopped".to_owned();
    let guests = vec![
        vm(101, "node1", "san"),
        ct(111, "node1", "san"),
        vm(103, "node1", "san"),
        vm(104, "node1", "san").stopped(),
    ];
    let lab = lab("8.4.1", guests, vec![ha(101), ha(111), parked], Vec::new());
    let api = lab.api();
    assert!(api.ha_maintenance().await.unwrap().is_empty());
    lab.orders.maintenance("node1", true);
    lab.until("the guests of HA have left", |cluster| {
        [101, 111]
            .iter()
            .all(|vmid| cluster.guests[vmid].node != "node1" && cluster.guests[vmid].run.is_some())
    });
    // Those that HA keeps stopped stay, as do those it does not know.
    assert_eq!(lab.on("node1"), [103, 104]);
    assert_eq!(api.ha_maintenance().await.unwrap(), [node("node1")].into());
    let nodes = api.node_resources().await.unwrap();
    assert_eq!(nodes[0].ha_state.as_deref(), Some("maintenance"));
    assert!(
        api.nodes()
            .await
            .unwrap()
            .iter()
            .any(|node| node.maintenance)
    );
    // Nothing is migrated to it by HA.
    let error = api
        .migrate(&lab.place(101), &to("node1"), &|_| ())
        .await
        .unwrap_err();
    assert!(log(&error).contains("did not move it"), "{error}");
    lab.orders.maintenance("node1", false);
    lab.until("they are back", |cluster| {
        [101, 111]
            .iter()
            .all(|vmid| cluster.guests[vmid].node == "node1" && cluster.guests[vmid].run.is_some())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_moved_away_from_its_preferred_node_comes_back() {
    let preferred = HaRuleSpec {
        nodes: "node1:2,node2".to_owned(),
        ..rule("home", "", &[101])
    };
    let lab = lab(
        "9.1.2",
        vec![vm(101, "node1", "san")],
        vec![ha(101)],
        vec![preferred],
    );
    // Without asking whether it will stay there.
    lab.change(|cluster| {
        cluster
            .manager
            .commands
            .push("migrate vm:101 node3".to_owned())
    });
    lab.until("it is on node3", |cluster| {
        cluster.guests[&101].node == "node3"
    });
    lab.until("it is back", |cluster| cluster.guests[&101].node == "node1");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_say_before_release_9_what_rules_say_later() {
    let mut member = ha(101);
    member.group = Some("west".to_owned());
    let lab = Lab::start(ClusterSpec {
        guests: vec![vm(101, "node1", "san")],
        ha: vec![member],
        ha_groups: vec![HaGroupSpec {
            name: "west".to_owned(),
            nodes: "node1:2,node2".to_owned(),
            restricted: true,
            no_failback: true,
        }],
        ..cluster::cluster("8.4.1", 3)
    });
    let api = lab.api();
    let rules = api.ha_rules().await.unwrap();
    assert_eq!(rules.len(), 1);
    let HaRuleKind::NodeAffinity { nodes, strict } = &rules[0].kind else {
        panic!("{rules:?}");
    };
    assert!(*strict && nodes.len() == 2 && rules[0].resources.len() == 1);
    // A restricted group has nowhere else to go when both nodes are closed.
    lab.orders.maintenance("node1", true);
    lab.until("it is on node2", |cluster| {
        cluster.guests[&101].node == "node2"
    });
    lab.orders.maintenance("node2", true);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lab.guest(101).node, "node2");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_ha_are_recovered_from_a_node_that_died() {
    let guests = vec![
        vm(101, "node1", "san"),
        vm(102, "node1", "local"),
        vm(103, "node1", "san"),
    ];
    let lab = lab("9.1.2", guests, vec![ha(101), ha(102)], Vec::new());
    lab.orders.cut_power("node1");
    lab.until("it runs elsewhere", |cluster| {
        let guest = &cluster.guests[&101];
        guest.node != "node1" && guest.run.is_some()
    });
    // A disk that died with its node cannot be had elsewhere.
    lab.until("it is an error", |cluster| {
        let service = cluster.manager.services.get(&102);
        service.is_some_and(|service| service.state == "error")
    });
    assert_eq!(lab.guest(103).node, "node1");
    // HA leaves alone what it has given up.
    let target = match lab.guest(102).node.as_str() {
        "node2" => "node3",
        _ => "node2",
    };
    let error = lab
        .api()
        .migrate(&lab.place(102), &to(target), &|_| ())
        .await;
    let text = log(&error.unwrap_err());
    assert!(text.contains("must be disabled and fixed first"), "{text}");
}

/// Nobody to ask: the hosts are known.
struct Silent;

impl Operator for Silent {
    fn confirm(&self, _question: &str) -> Option<bool> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_a_node_switches_maintenance() {
    let spec = ClusterSpec {
        guests: vec![vm(101, "node1", "san")],
        ha: vec![ha(101)],
        ..cluster::cluster("8.4.1", 3)
    };
    let stage = Stage::start(StageSettings {
        scenario: Scenario {
            clusters: vec![spec],
            pace: Pace::quick(),
        },
        server: Server::Embedded,
        seed: 1,
        hot_bytes: None,
        filled: 0.0,
    })
    .await
    .unwrap();
    let home = stage.home.clone();
    let shell = |node: &str| {
        let host = &stage.hosts[&format!("apple-{node}")];
        let address = SshAddress {
            user: None,
            host: "127.0.0.1".to_owned(),
            port: Some(host.port),
        };
        let options = SshOptions {
            ciphers: None,
            operator: Arc::new(Silent),
            environment: SshEnvironment::below(&home, host.user.clone()),
        };
        SshShell::new(&address, options).unwrap()
    };
    let second = shell("node2");
    let ha_manager = |arguments: &'static [&'static str]| {
        let command = arguments
            .iter()
            .fold(Command::new("ha-manager"), |command, word| {
                command.arg(*word)
            });
        let second = &second;
        async move {
            let done = second.run(&command, b"", cluster::PATIENCE).await.unwrap();
            (
                done.exit,
                String::from_utf8_lossy(&done.stderr).into_owned(),
            )
        }
    };
    let at = |node: &'static str| {
        let world = stage.simulation.world();
        let guest = &world.clusters[0].guests[&101];
        guest.node == node && guest.run.is_some()
    };
    let until = |wanted: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !wanted() {
            assert!(started.elapsed() < cluster::PATIENCE, "waited in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let (exit, text) = ha_manager(&["crm-command", "node-maintenance", "enable", "node1"]).await;
    assert_eq!((exit, text.as_str()), (Exit::Code(0), ""));
    until(&|| !at("node1"));
    let (exit, text) = ha_manager(&["crm-command", "node-maintenance", "enable", "node9"]).await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Code(255), "no such cluster node 'node9'\n")
    );
    let (exit, text) = ha_manager(&["status"]).await;
    assert!(
        exit == Exit::Code(255) && text.contains("unknown command"),
        "{text}"
    );
    let (exit, _) = ha_manager(&["crm-command", "node-maintenance", "disable", "node1"]).await;
    assert_eq!(exit, Exit::Code(0));
    until(&|| at("node1"));
    let up = || stage.simulation.world().clusters[0].is_online("node3");
    let reboot = Command::new("reboot");
    let done = shell("node3").run(&reboot, b"", cluster::PATIENCE).await;
    assert_eq!(done.unwrap().exit, Exit::Code(0));
    until(&|| !up());
    until(&up);
    // Nobody logs in to a node without power.
    let orders = stage.simulation.orders(cluster::ALIAS).unwrap();
    orders.cut_power("node3");
    let truth = Command::new("true");
    let refused = shell("node3").run(&truth, b"", cluster::PATIENCE).await;
    assert!(refused.is_err(), "{refused:?}");
    orders.boot("node3");
    let back = shell("node3").run(&truth, b"", cluster::PATIENCE).await;
    assert_eq!(back.unwrap().exit, Exit::Code(0));
}
