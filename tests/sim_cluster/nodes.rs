//! Nodes: what they have, their notes, and what becomes of everything when they fail.

use std::time::Duration;

use super::cluster::{self, Adjust, GIB, Lab, node, to, vm};
use super::log;
use proxmove::cluster::{Api, ApiError};
use proxmove::sim::world::scenario::{ClusterSpec, GuestSpec, Pace};
use proxmove::units::{Bytes, Cores};

fn slow() -> Pace {
    Pace {
        migration: 4 << 30,
        ..Pace::quick()
    }
}

fn lab(guests: Vec<GuestSpec>) -> Lab {
    let spec = ClusterSpec {
        guests,
        ..cluster::cluster("9.1.2", 3)
    };
    Lab::start_at(spec, slow())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_tells_what_all_nodes_have() {
    let mut busy = vm(101, "node1", "san").gib(8).with("cores", "4");
    busy.cpu = 0.5;
    let lab = lab(vec![busy, vm(102, "node2", "san").gib(4).stopped()]);
    let api = lab.api();
    lab.simulation.faults().forget();
    let nodes = api.node_resources().await.unwrap();
    let storages = api.cluster_storages().await.unwrap();
    // A login, and one call each.
    assert_eq!(lab.simulation.faults().requests().len(), 3);
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[0].memory_total, Some(Bytes(64 * GIB)));
    // 2 GiB of its own, and the guest that runs.
    assert_eq!(nodes[0].memory_used, Some(Bytes(10 * GIB)));
    assert_eq!(nodes[1].memory_used, Some(Bytes(2 * GIB)));
    // A quarter of 8, and half of the guest's 4.
    assert_eq!(
        (nodes[0].cpu_used, nodes[1].cpu_used),
        (Some(Cores::whole(4)), Some(Cores::whole(2)))
    );
    let of = |id: &str| {
        storages
            .iter()
            .filter(|storage| storage.storage.as_str() == id)
            .count()
    };
    assert_eq!((of("san"), of("local"), of("fast")), (3, 3, 2));
    let san = storages
        .iter()
        .find(|storage| storage.storage.as_str() == "san")
        .unwrap();
    assert!(san.shared && san.available && san.content.contains("rootdir"));
    let status = api.node_status(&node("node1")).await.unwrap();
    assert_eq!((status.cpus, status.memory_used), (8, Bytes(10 * GIB)));
    assert_eq!(status.memory_available, Some(Bytes(54 * GIB)));
    let guests = api.guests().await.unwrap();
    assert_eq!(
        (guests[0].cpus, guests[0].cpu_used),
        (Some(4), Some(Cores::whole(2)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_of_a_node_are_not_overwritten_by_surprise() {
    let lab = lab(Vec::new());
    let (api, first) = (lab.api(), node("node1"));
    let empty = api.node_config(&first).await.unwrap();
    assert_eq!(
        (empty.description.as_str(), empty.digest.as_deref()),
        ("", None)
    );
    api.describe_node(&first, "rack 4\nclosed by proxmove", None)
        .await
        .unwrap();
    let written = api.node_config(&first).await.unwrap();
    assert_eq!(written.description, "rack 4\nclosed by proxmove");
    assert_eq!(
        api.node_config(&node("node2")).await.unwrap().description,
        ""
    );
    // Somebody else was faster.
    api.describe_node(&first, "rack 5", written.digest.as_deref())
        .await
        .unwrap();
    let error = api
        .describe_node(&first, "rack 6", written.digest.as_deref())
        .await
        .unwrap_err();
    assert!(
        error.reason().contains("detected modified configuration"),
        "{error}"
    );
    api.describe_node(&first, "", None).await.unwrap();
    assert_eq!(api.node_config(&first).await.unwrap().description, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_half_way_costs_nothing() {
    let lab = lab(vec![vm(101, "node1", "san").gib(4)]);
    let api = lab.api();
    let place = lab.place(101);
    let target = to("node2");
    let (result, ()) = tokio::join!(api.migrate(&place, &target, &|_| ()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lab.orders.cut_power("node2");
    });
    let text = log(&result.unwrap_err());
    assert!(text.starts_with("migration problems"), "{text}");
    let guest = lab.guest(101);
    assert_eq!(
        (guest.node.as_str(), guest.run.is_some(), guest.lock()),
        ("node1", true, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_half_way_leaves_a_stopped_and_locked_guest() {
    let lab = lab(vec![
        vm(101, "node1", "san").gib(4),
        vm(102, "node1", "san").with("onboot", "1"),
    ]);
    let api = lab.api();
    let place = lab.place(101);
    let upid = lab.orders.migrate("root@pam", 101, "node2").unwrap();
    lab.until("it is on its way", |cluster| {
        cluster.guests[&101].migrating_to.is_some()
    });
    lab.orders.cut_power("node1");
    let error = api
        .migrate(&place, &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ApiError::Refused { status: 595, .. }),
        "{error}"
    );
    assert!(api.nodes().await.unwrap().iter().any(|node| !node.online));
    let row = api.guests().await.unwrap();
    assert_eq!(row[0].power, proxmove::pve::guest::Power::Unknown);
    lab.orders.boot("node1");
    lab.until("onboot", |cluster| cluster.guests[&102].run.is_some());
    assert!(api.node_status(&node("node1")).await.unwrap().uptime < Duration::from_secs(60));
    let guest = lab.guest(101);
    assert_eq!(
        (guest.node.as_str(), guest.run.is_none(), guest.lock()),
        ("node1", true, Some("migrate"))
    );
    let task = api
        .follow(&upid.parse().unwrap(), &|_| ())
        .await
        .unwrap_err();
    assert_eq!(task.reason(), "unexpected status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reboots_when_it_is_told_to() {
    let lab = lab(vec![
        vm(101, "node2", "san").with("onboot", "1"),
        vm(102, "node2", "san"),
    ]);
    lab.change(|cluster| {
        let now = std::time::Instant::now();
        cluster.power_requests.push(("node2".to_owned(), true, now));
    });
    lab.until("it is down", |cluster| !cluster.is_online("node2"));
    lab.until("it is up", |cluster| cluster.is_online("node2"));
    lab.until("onboot", |cluster| cluster.guests[&101].run.is_some());
    assert!(lab.guest(102).run.is_none());
}
