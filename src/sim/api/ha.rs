//! High availability: resources, groups or rules, states, and requests, which are only queued.
//!
//! Read next: `../world/ha.rs` (the manager), `lrm.rs` (what nodes do for it).

use serde_json::{Map, Value, json};

use super::{Call, Refusal, Reply};
use crate::sim::world::Cluster;
use crate::sim::world::scenario::HaSpec;
use crate::sim::world::task::unix_now;

/// A digest of files nobody changes here.
const DIGEST: &str = "0000000000000000000000000000000000000000";

/// `GET /cluster/ha/resources`.
pub(super) fn resources(call: &mut Call<'_>) -> Reply {
    let wanted = call.text("type");
    let rows: Vec<Value> = call
        .cluster
        .ha
        .iter()
        .filter_map(|ha| {
            let row = resource(call.cluster, ha)?;
            wanted
                .is_none_or(|wanted| row["type"] == wanted)
                .then_some(row)
        })
        .collect();
    Ok(json!(rows))
}

fn resource(cluster: &Cluster, ha: &HaSpec) -> Option<Value> {
    let container = cluster.guests.get(&ha.guest)?.container;
    let kind = if container { "ct" } else { "vm" };
    let mut row = json!({
        "sid": format!("{kind}:{}", ha.guest), "type": kind, "state": ha.state, "digest": DIGEST,
    });
    if let Some(group) = ha.group.as_ref().filter(|_| cluster.release() < (9, 0)) {
        row["group"] = json!(group);
    }
    if ha.no_failback && cluster.release() >= (9, 0) {
        row["failback"] = json!(0);
    }
    for (key, most) in [
        ("max_restart", ha.max_restart),
        ("max_relocate", ha.max_relocate),
    ] {
        if let Some(most) = most {
            row[key] = json!(most);
        }
    }
    if let Some(comment) = &ha.comment {
        row["comment"] = json!(comment);
    }
    Some(row)
}

/// Finds the resource of a request, by `vm:100`, `ct:100` or `100`.
fn vmid(call: &Call<'_>) -> Result<u32, Refusal> {
    let sid = call.text("sid").unwrap_or_default();
    let number = sid
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or(0);
    let known = call.cluster.guests.contains_key(&number);
    if !sid.contains(':') && !known {
        return Err(Refusal::died(format!(
            "unable to detect SID from VMID - VM/CT {sid} does not exist"
        )));
    }
    match known && (!sid.contains(':') || call.cluster.sid(number) == sid) {
        true => Ok(number),
        false => Err(Refusal::died(format!("no such resource '{sid}'"))),
    }
}

/// `GET /cluster/ha/resources/SID`.
pub(super) fn show(call: &mut Call<'_>) -> Reply {
    let vmid = vmid(call)?;
    let found = call.cluster.ha.iter().find(|ha| ha.guest == vmid);
    let missing = || Refusal::died(format!("no such resource '{}'", call.cluster.sid(vmid)));
    found
        .and_then(|ha| resource(call.cluster, ha))
        .ok_or_else(missing)
}

/// `POST /cluster/ha/resources`.
pub(super) fn create(call: &mut Call<'_>) -> Reply {
    let vmid = vmid(call)?;
    let sid = call.cluster.sid(vmid);
    if call.cluster.ha.iter().any(|ha| ha.guest == vmid) {
        return Err(Refusal::died(format!(
            "create resource failed: resource ID '{sid}' already defined"
        )));
    }
    let group = call.text("group").map(str::to_owned);
    if group.is_some() && call.release() >= (9, 0) {
        return Err(Refusal::param(
            "group",
            "ha groups have been migrated to rules",
        ));
    }
    let known = |name: &String| {
        call.cluster
            .ha_groups
            .iter()
            .any(|known| known.name == *name)
    };
    if let Some(group) = group.as_ref().filter(|name| !known(name)) {
        return Err(Refusal::died(format!(
            "create resource failed: HA group '{group}' does not exist"
        )));
    }
    let most = |key: &str| call.number(key).and_then(|most| u32::try_from(most).ok());
    let resource = HaSpec {
        guest: vmid,
        state: match call.text("state").unwrap_or("started") {
            "enabled" => "started".to_owned(),
            state => state.to_owned(),
        },
        group,
        no_failback: call.text("failback") == Some("0"),
        max_restart: most("max_restart"),
        max_relocate: most("max_relocate"),
        comment: call.text("comment").map(str::to_owned),
    };
    call.cluster.ha.push(resource);
    Ok(Value::Null)
}

/// `DELETE /cluster/ha/resources/SID`. The guest stays as it is.
pub(super) fn remove(call: &mut Call<'_>) -> Reply {
    let vmid = vmid(call)?;
    let sid = call.cluster.sid(vmid);
    let before = call.cluster.ha.len();
    call.cluster.ha.retain(|ha| ha.guest != vmid);
    if call.cluster.ha.len() == before {
        return Err(Refusal::died(format!(
            "delete resource failed: {sid} not configured!"
        )));
    }
    if call.release() >= (9, 0) && call.text("purge") != Some("0") {
        for rule in &mut call.cluster.ha_rules {
            rule.guests.retain(|guest| *guest != vmid);
        }
        let rules = &mut call.cluster.ha_rules;
        rules.retain(|rule| !rule.guests.is_empty());
    }
    Ok(Value::Null)
}

/// `PUT /cluster/ha/resources/SID`.
pub(super) fn change(call: &mut Call<'_>) -> Reply {
    let vmid = vmid(call)?;
    let sid = call.cluster.sid(vmid);
    let state = call.text("state").map(str::to_owned);
    let error = call
        .cluster
        .manager
        .services
        .get(&vmid)
        .is_some_and(|service| service.state == "error");
    if error && state.as_deref() != Some("disabled") {
        return Err(Refusal::died(format!(
            "service '{sid}' in error state, must be disabled and fixed first"
        )));
    }
    if call.text("group").is_some() && call.release() >= (9, 0) {
        return Err(Refusal::param(
            "group",
            "ha groups have been migrated to rules",
        ));
    }
    let group = call.text("group").map(str::to_owned);
    let failback = call.text("failback").map(|value| value == "1");
    let Some(resource) = call.cluster.ha.iter_mut().find(|ha| ha.guest == vmid) else {
        return Err(Refusal::died(format!("no such resource '{sid}'")));
    };
    if let Some(state) = state {
        resource.state = if state == "enabled" {
            "started".to_owned()
        } else {
            state
        };
    }
    if group.is_some() {
        resource.group = group;
    }
    if let Some(failback) = failback {
        resource.no_failback = !failback;
    }
    Ok(Value::Null)
}

/// `POST /cluster/ha/resources/SID/migrate`.
pub(super) fn migrate(call: &mut Call<'_>) -> Reply {
    request(call, "migrate")
}

/// `POST /cluster/ha/resources/SID/relocate`.
pub(super) fn relocate(call: &mut Call<'_>) -> Reply {
    request(call, "relocate")
}

fn request(call: &mut Call<'_>, task: &str) -> Reply {
    let vmid = vmid(call)?;
    let sid = call.cluster.sid(vmid);
    let node = call.text("node").unwrap_or_default().to_owned();
    if call.cluster.managed(vmid).is_none() {
        return Err(Refusal::died(format!("resource '{sid}' is not HA managed")));
    }
    if call
        .cluster
        .manager
        .services
        .get(&vmid)
        .is_some_and(|service| service.state == "error")
    {
        return Err(Refusal::died(format!(
            "service '{sid}' in error state, must be disabled and fixed first"
        )));
    }
    call.cluster
        .manager
        .commands
        .push(format!("{task} {sid} {node}"));
    if call.release() < (9, 0) {
        return Ok(Value::Null);
    }
    // It is queued in any case; what stands in its way is ignored by the manager later.
    let mut reply = json!({"sid": sid, "requested-node": node});
    let names = |vmids: Vec<u32>| -> Vec<String> {
        vmids.iter().map(|vmid| call.cluster.sid(*vmid)).collect()
    };
    let dependent = names(call.cluster.dependent(vmid));
    if !dependent.is_empty() {
        reply["comigrated-resources"] = json!(dependent);
    }
    let blocking = names(call.cluster.blocking(vmid, &node));
    if !blocking.is_empty() {
        let rows: Vec<Value> = blocking
            .into_iter()
            .map(|sid| json!({"sid": sid, "cause": "resource-affinity"}))
            .collect();
        reply["blocking-resources"] = json!(rows);
    }
    Ok(reply)
}

/// `GET /cluster/ha/groups`.
pub(super) fn groups(call: &mut Call<'_>) -> Reply {
    if call.release() >= (9, 0) {
        return Err(Refusal::died(
            "cannot index groups: ha groups have been migrated to rules",
        ));
    }
    let rows: Vec<Value> = call
        .cluster
        .ha_groups
        .iter()
        .map(|group| {
            json!({
                "group": group.name, "type": "group", "nodes": group.nodes, "restricted": u8::from(group.restricted),
                "nofailback": u8::from(group.no_failback), "digest": DIGEST,
            })
        })
        .collect();
    Ok(json!(rows))
}

/// `GET /cluster/ha/rules`.
pub(super) fn rules(call: &mut Call<'_>) -> Reply {
    let (kind, resource) = (call.text("type"), call.text("resource"));
    let mut rows = Vec::new();
    for (order, rule) in call.cluster.ha_rules.iter().enumerate() {
        let sids: Vec<String> = rule
            .guests
            .iter()
            .map(|vmid| call.cluster.sid(*vmid))
            .collect();
        let about_nodes = rule.affinity.is_empty();
        let own = if about_nodes {
            "node-affinity"
        } else {
            "resource-affinity"
        };
        if kind.is_some_and(|kind| kind != own)
            || resource.is_some_and(|sid| !sids.iter().any(|own| own == sid))
        {
            continue;
        }
        let mut row = json!({
            "rule": rule.name, "type": own, "resources": sids.join(","), "order": order, "digest": DIGEST,
        });
        if about_nodes {
            row["nodes"] = json!(rule.nodes);
            row["strict"] = json!(u8::from(rule.strict));
        } else {
            row["affinity"] = json!(rule.affinity);
        }
        if rule.disabled {
            row["disable"] = json!(1);
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

fn first_online(cluster: &Cluster) -> &str {
    let online = cluster.nodes.iter().find(|node| node.online);
    online.map_or("", |node| node.name.as_str())
}

/// Returns the state as people see it.
fn verbose(ha: &HaSpec, state: Option<&str>, running: bool) -> String {
    let state = match (ha.state.as_str(), state) {
        ("ignored", _) => "ignored",
        (_, None) => "queued",
        ("started", Some("stopped")) => "starting",
        ("disabled", Some("stopped")) => "disabled",
        ("stopped" | "disabled", Some("started")) => "stopping",
        (_, Some("started")) if !running => "starting",
        (_, Some(state)) => state,
    };
    state.to_owned()
}

/// `GET /cluster/ha/status/current`.
pub(super) fn current(call: &mut Call<'_>) -> Reply {
    let cluster = &call.cluster;
    let first = first_online(cluster);
    let quorate = u8::from(cluster.is_quorate());
    let status = if cluster.is_quorate() {
        "OK".to_owned()
    } else {
        format!("No quorum on node '{first}'!")
    };
    let mut rows = vec![json!({
        "id": "quorum", "type": "quorum", "node": first, "status": status, "quorate": quorate,
    })];
    if !cluster.ha.is_empty() {
        rows.push(json!({
            "id": "master", "type": "master", "node": first, "timestamp": unix_now(),
            "status": format!("{first} (active)"),
        }));
        for (node, view) in &cluster.manager.nodes {
            let state = match (view.state.as_str(), cluster.is_online(node)) {
                ("maintenance", _) => "maintenance mode",
                (_, true) => "active",
                (_, false) => "old timestamp - dead?",
            };
            rows.push(json!({
                "id": format!("lrm:{node}"), "type": "lrm", "node": node, "timestamp": unix_now(),
                "status": format!("{node} ({state})"),
            }));
        }
    }
    for ha in &cluster.ha {
        let Some(guest) = cluster.guests.get(&ha.guest) else {
            continue;
        };
        let service = cluster.manager.services.get(&ha.guest);
        let sid = cluster.sid(ha.guest);
        let node = service.map_or(&guest.node, |service| &service.node);
        let running = service.is_some_and(|service| service.running);
        let state = verbose(ha, service.map(|service| service.state.as_str()), running);
        let mut row = json!({
            "id": format!("service:{sid}"), "type": "service", "sid": sid, "node": node, "state": state,
            "request_state": ha.state, "status": format!("{sid} ({node}, {state})"),
            "max_relocate": 1, "max_restart": 1,
        });
        if let Some(service) = service {
            row["crm_state"] = json!(service.state);
        }
        if cluster.release() >= (9, 0) {
            row["failback"] = json!(u8::from(!ha.no_failback));
        } else if let Some(group) = &ha.group {
            row["group"] = json!(group);
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

/// `GET /cluster/ha/status/manager_status`.
pub(super) fn manager(call: &mut Call<'_>) -> Reply {
    let cluster = &call.cluster;
    let first = first_online(cluster);
    let quorum = json!({"node": first, "quorate": if cluster.is_quorate() { "1" } else { "0" }});
    if cluster.ha.is_empty() {
        return Ok(json!({"manager_status": {}, "lrm_status": {}, "quorum": quorum}));
    }
    let states: Map<String, Value> = cluster
        .manager
        .nodes
        .iter()
        .map(|(node, view)| (node.clone(), json!(view.state)))
        .collect();
    let requests: Map<String, Value> = cluster
        .manager
        .maintenance
        .iter()
        .map(|node| (node.clone(), json!({"maintenance": 1})))
        .collect();
    let services: Map<String, Value> = cluster
        .manager
        .services
        .iter()
        .map(|(vmid, service)| {
            let mut row = json!({"state": service.state, "node": service.node, "uid": "0"});
            for (key, value) in [
                ("target", &service.target),
                ("maintenance_node", &service.maintenance_node),
            ] {
                if let Some(value) = value {
                    row[key] = json!(value);
                }
            }
            if service.running {
                row["running"] = json!(1);
            }
            (cluster.sid(*vmid), row)
        })
        .collect();
    let lrm: Map<String, Value> = cluster
        .manager
        .nodes
        .iter()
        .map(|(node, view)| {
            let (mode, state) = match view.state.as_str() {
                "maintenance" => ("maintenance", "maintenance"),
                _ => ("active", "active"),
            };
            (
                node.clone(),
                json!({"mode": mode, "state": state, "results": {}, "timestamp": unix_now()}),
            )
        })
        .collect();
    Ok(json!({
        "manager_status": {
            "master_node": first, "node_status": states, "node_request": requests, "service_status": services,
            "timestamp": unix_now(),
        },
        "lrm_status": lrm, "quorum": quorum,
    }))
}
