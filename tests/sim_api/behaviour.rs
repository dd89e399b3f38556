//! What the simulation does beyond answering: faults, the record, real files, the hook for running guests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proxmove::sim::Simulation;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::machine::{GuestMachine, RunningGuest};
use proxmove::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, NodeSpec, Pace, Scenario, TokenSpec, UserSpec,
};

use super::client::{self, Answer};

fn scenario() -> Scenario {
    let root = UserSpec {
        id: "root@pam".to_owned(),
        password: "root".to_owned(),
        tokens: vec![TokenSpec {
            name: "t".to_owned(),
            secret: "s".to_owned(),
            ..TokenSpec::default()
        }],
        ..UserSpec::default()
    };
    let guest = GuestSpec {
        config: BTreeMap::from([("memory".to_owned(), "128".to_owned())]),
        disks: vec![DiskSpec::default()],
        ..GuestSpec::default()
    };
    let down = NodeSpec {
        name: "node2".to_owned(),
        online: false,
        ..NodeSpec::default()
    };
    Scenario {
        clusters: vec![ClusterSpec {
            nodes: vec![NodeSpec::default(), down],
            users: vec![root],
            guests: vec![guest],
            ..ClusterSpec::default()
        }],
        pace: Pace::quick(),
    }
}

/// Sends a request as root's token; `None` when the connection broke.
async fn call(simulation: &Simulation, method: &str, path: &str, form: &str) -> Option<Answer> {
    let cluster = &simulation.clusters[0];
    let url = format!("https://{}/api2/json{path}", cluster.address);
    let headers = [("authorization", "PVEAPIToken=root@pam!t=s".to_owned())];
    let body = (!form.is_empty()).then(|| {
        (
            "application/x-www-form-urlencoded".to_owned(),
            form.to_owned(),
        )
    });
    let client = client::client(cluster);
    client::try_send(&client, method, &url, &headers, body).await
}

async fn settle(simulation: &Simulation) {
    loop {
        let busy = simulation.world().clusters[0]
            .tasks
            .iter()
            .any(|task| task.ended.is_none());
        if !busy {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_lost_after_the_work_is_done() {
    let simulation = Simulation::start(scenario()).expect("a simulation");
    let faults = simulation.faults();
    faults.add(Fault::first("PUT", "*/config", FaultKind::LostRequest));
    faults.add(Fault {
        nth: Some(2),
        ..Fault::first("PUT", "*/config", FaultKind::LostAnswer)
    });
    let path = "/nodes/node1/qemu/100/config";
    assert!(call(&simulation, "PUT", path, "name=lost").await.is_none());
    assert_eq!(simulation.world().clusters[0].guests[&100].name(), "web1");
    assert!(call(&simulation, "PUT", path, "name=done").await.is_none());
    assert_eq!(simulation.world().clusters[0].guests[&100].name(), "done");
    let answer = call(&simulation, "PUT", path, "cipassword=hidden")
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    let writes = faults.writes();
    assert_eq!(writes.len(), 3);
    assert_eq!(writes[2].params["cipassword"], "***");
    assert!(!format!("{writes:?}").contains("hidden"));
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_removes_the_files_it_owns() {
    let simulation = Simulation::start(scenario()).expect("a simulation");
    let image = simulation.clusters[0].nodes[0]
        .root
        .join("var/lib/vz/images/100/vm-100-disk-0.qcow2");
    assert!(image.exists());
    let stray = image.with_file_name("vm-100-disk-9.raw");
    std::fs::write(&stray, vec![0; 4096]).expect("written");
    let answer = call(&simulation, "DELETE", "/nodes/node1/qemu/100", "")
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    settle(&simulation).await;
    assert!(!image.exists());
    assert!(stray.exists(), "nobody asked for unreferenced volumes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_cannot_be_reached() {
    let simulation = Simulation::start(scenario()).expect("a simulation");
    let answer = call(&simulation, "GET", "/nodes/node2/qemu", "")
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.reason.as_str()),
        (595, "No route to host")
    );
}

#[derive(Default)]
struct Watcher(Mutex<Vec<String>>);

impl GuestMachine for Watcher {
    fn start(&self, guest: &RunningGuest) {
        let sizes: Vec<u64> = guest.images.iter().map(|image| image.size).collect();
        self.0
            .lock()
            .expect("unpoisoned")
            .push(format!("start {} {sizes:?}", guest.vmid));
    }

    fn stop(&self, guest: &RunningGuest, hard: bool) {
        self.0
            .lock()
            .expect("unpoisoned")
            .push(format!("stop {} {hard}", guest.vmid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_guests_are_played() {
    let watcher = Arc::new(Watcher::default());
    let simulation = Simulation::start_with(scenario(), watcher.clone()).expect("a simulation");
    for (verb, form) in [
        ("start", ""),
        ("shutdown", "timeout=10"),
        ("start", ""),
        ("stop", ""),
    ] {
        let path = format!("/nodes/node1/qemu/100/status/{verb}");
        let answer = call(&simulation, "POST", &path, form)
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.reason);
        settle(&simulation).await;
    }
    let seen = watcher.0.lock().expect("unpoisoned").clone();
    let started = format!("start 100 [{}]", 64 << 20);
    assert_eq!(
        seen,
        [
            started.as_str(),
            "stop 100 false",
            started.as_str(),
            "stop 100 true"
        ]
    );
}

#[test]
fn scenarios_are_read_from_json() {
    let text = r#"{"clusters": [{"alias": "apple", "guests": [{"vmid": 100, "name": "web1", "running": true}]}]}"#;
    let scenario: Scenario = serde_json::from_str(text).expect("a scenario");
    assert_eq!(scenario.clusters[0].guests[0].name, "web1");
    assert!(serde_json::from_str::<Scenario>(r#"{"clusters": [{"nodez": []}]}"#).is_err());
}
