//! The eight steps of the evacuation runbook in one command, each with the result the runbook expects; and the way back.

use serde_json::Value;

use crate::cluster::{Adjust, ClusterSpecExt as _, ct, ha, mixed, vm};
use crate::stage::{self, launch};
use crate::state::{all, notes, quick, start};

fn of(list: &Value, vmid: u32) -> &Value {
    let found = list.as_array().unwrap().iter();
    found
        .into_iter()
        .find(|guest| guest["vmid"] == vmid)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eight_steps_and_the_way_back() {
    let mut spec = mixed("9.1.2", 4);
    // The runbook stops what it cannot move; here that is the one with a local ISO image.
    spec.guests
        .push(ct(114, "node1", "local").with("tags", "evacuate-ignore"));
    spec.guests
        .push(vm(107, "node1", "san").with("tags", "evacuate-migrate"));
    let stage = start(spec).await;
    let before = all(&stage);

    // Steps 1 to 4: the API answers, the inventory, the resources, the plan. A dry run is the default and writes nothing.
    let shown = launch(&stage, &quick(&["evacuate", "node1", "--json"]), &[])
        .wait()
        .expect(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    let plan: Value = serde_json::from_str(shown.stdout.lines().next().unwrap()).unwrap();
    let planned = &plan["guests"];
    let templates: Vec<u64> = planned
        .as_array()
        .unwrap()
        .iter()
        .filter(|guest| guest["why"] == "templates stay")
        .map(|guest| guest["vmid"].as_u64().unwrap())
        .collect();
    assert_eq!(templates, [190], "templates are no part of it");
    // The largest goes where most is free, and each after it counts what was placed: node2 has 16 GiB taken, node3 2.
    assert_eq!(of(planned, 101)["target"], "node4");
    assert_eq!(of(planned, 101)["action"], "live-migrate");
    assert_eq!(of(planned, 102)["target"], "node3");
    assert_eq!(
        of(planned, 104)["target"],
        "node2",
        "its storage is on two nodes only"
    );
    assert_eq!(of(planned, 104)["action"], "move");
    assert_eq!(of(planned, 106)["action"], "stop");
    assert_eq!(of(planned, 105)["action"], "HA manager");
    assert_eq!(of(planned, 111)["action"], "restart");
    assert_eq!(of(planned, 107)["action"], "migrate");
    assert_eq!(of(planned, 114)["action"], "stay");
    let capacity = plan["capacity"].as_array().unwrap();
    assert_eq!(capacity.len(), 3);
    for node in capacity {
        let (free, after) = (
            node["free_before"].as_u64().unwrap(),
            node["free_after"].as_u64().unwrap(),
        );
        assert!(after <= free, "{node}");
    }
    assert_eq!(all(&stage), before);

    // Steps 5 to 8: stop what cannot be moved, migrate the rest, look whether the node is empty, tell the results.
    let ran = launch(
        &stage,
        &quick(&["evacuate", "node1", "--execute", "--json"]),
        &[],
    )
    .wait()
    .expect(0);
    let lines: Vec<Value> = ran.events();
    assert_eq!(lines[0], plan, "what was shown is what runs");
    let results = &lines.last().unwrap()["guests"];
    let mut result: Vec<(u64, &str)> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|guest| {
            (
                guest["vmid"].as_u64().unwrap(),
                guest["result"].as_str().unwrap(),
            )
        })
        .collect();
    result.sort_unstable();
    assert_eq!(
        result,
        [
            (101, "OK"),
            (102, "OK"),
            (103, "OK"),
            (104, "OK"),
            (105, "OK"),
            (106, "STOPPED"),
            (107, "OK"),
            (111, "OK"),
            (112, "OK"),
            (113, "OK"),
            (114, "LEFT"),
            (190, "LEFT"),
        ]
    );
    let after = all(&stage);
    for (vmid, guest) in &after {
        let planned = planned
            .as_array()
            .unwrap()
            .iter()
            .find(|known| known["vmid"] == *vmid);
        if let Some(target) = planned.and_then(|known| known["target"].as_str())
            && *vmid != 105
        {
            assert_eq!(guest.node, target, "{vmid}");
            assert_eq!(guest.running, before[vmid].running, "{vmid}");
            assert!(
                guest.config["tags"].contains("proxmove-from-node1"),
                "{vmid}"
            );
            assert!(
                guest.config["description"].contains("origin: node1"),
                "{vmid}"
            );
        }
        assert_eq!(guest.lock, None);
    }
    assert_ne!(after[&105].node, "node1");
    assert!(!after[&106].running && after[&114].running);
    // The runbook's last question: what is left there? Only what was to stay.
    let left: Vec<u32> = after
        .iter()
        .filter(|(_, guest)| guest.node == "node1")
        .map(|(vmid, _)| *vmid)
        .collect();
    assert_eq!(left, [106, 114, 190]);
    assert!(notes(&stage, "node1").contains("stage: evacuated"));

    // The way back: every guest as it was, field by field.
    let back = launch(
        &stage,
        &quick(&["restore", "node1", "--yes", "--json"]),
        &[],
    )
    .wait()
    .expect(0);
    let results = back.events().pop().unwrap();
    assert_eq!(results["guests"].as_array().unwrap().len(), 10);
    assert_eq!(all(&stage), before);
    assert_eq!(notes(&stage, "node1"), "");
    // And again: there is nothing left to do.
    let again = launch(
        &stage,
        &quick(&["restore", "node1", "--yes", "--json"]),
        &[],
    )
    .wait()
    .expect(0);
    assert_eq!(
        again.events().pop().unwrap()["guests"],
        serde_json::json!([])
    );
    assert_eq!(all(&stage), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_at_the_end_when_all_can_move() {
    let guests = vec![
        vm(101, "node1", "san"),
        ct(111, "node1", "local"),
        vm(102, "node1", "local").stopped(),
    ];
    let stage = start(crate::cluster::cluster("8.4.1", 3).guests(guests)).await;
    launch(&stage, &quick(&["evacuate", "node1", "--execute"]), &[])
        .wait()
        .expect(0);
    assert!(all(&stage).values().all(|guest| guest.node != "node1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_and_guests_of_ha() {
    for version in ["7.4.3", "8.4.1", "9.1.2"] {
        let guests = vec![
            vm(101, "node1", "san"),
            ct(111, "node1", "san"),
            vm(102, "node1", "san"),
            vm(103, "node1", "san").stopped(),
        ];
        let mut spec = crate::cluster::cluster(version, 3).guests(guests);
        let mut parked = ha(103);
        parked.state = "stopped".to_owned();
        spec.ha = vec![ha(101), ha(111), parked];
        let stage = start(spec).await;
        let before = all(&stage);
        launch(&stage, &quick(&["evacuate", "node1", "--execute"]), &[])
            .wait()
            .expect(0);
        let away = all(&stage);
        assert!(
            away.values().all(|guest| guest.node != "node1"),
            "{version}"
        );
        for (vmid, guest) in &away {
            assert_eq!(guest.running, before[vmid].running, "{version} {vmid}");
        }
        let maintained = |stage: &proxmove::sim::stage::Stage| {
            stage.simulation.world().clusters[0]
                .manager
                .maintenance
                .contains("node1")
        };
        assert!(maintained(&stage), "{version}");
        launch(&stage, &quick(&["restore", "node1", "--yes"]), &[])
            .wait()
            .expect(0);
        assert!(!maintained(&stage), "{version}");
        assert_eq!(all(&stage), before, "{version}");
    }
    let _ = stage::program();
}
