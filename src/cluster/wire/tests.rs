use serde_json::json;

use super::guest::{config, guests_on, pending, resources, snapshots, status};
use super::inventory::*;
use super::schema::config_schema;
use super::*;
use crate::pve::guest::{GuestKind, Power};
use crate::units::Bytes;

#[test]
fn numbers_texts_and_truth_are_read_either_way() {
    let check = |value: Value, expect: (Option<&str>, Option<u64>, Option<bool>)| {
        let seen = (text(&value), count(&value), flag(&value));
        let expect = (expect.0.map(str::to_owned), expect.1, expect.2);
        assert_eq!(seen, expect, "{value}");
    };
    check(json!(1), (Some("1"), Some(1), Some(true)));
    check(json!("1"), (Some("1"), Some(1), Some(true)));
    check(json!(0), (Some("0"), Some(0), Some(false)));
    check(json!(""), (Some(""), None, Some(false)));
    check(json!(true), (Some("1"), Some(1), Some(true)));
    check(json!(-5), (Some("-5"), Some(0), Some(true)));
    check(json!("1.5e3"), (Some("1.5e3"), Some(1500), Some(true)));
    check(json!(2.5), (Some("2.5"), Some(2), Some(true)));
    check(json!("NaN"), (Some("NaN"), None, Some(true)));
    check(json!(null), (None, None, None));
    check(json!([1]), (None, None, None));
}

#[test]
fn an_odd_entry_is_skipped_and_an_odd_list_is_an_error() {
    let value = json!([{"vmid": "100", "name": null, "status": "running"}, 7, null, {"name": "x"},
        {"vmid": 101, "status": "wondering", "tags": "a;b c,d", "template": "1", "maxmem": "1024"}]);
    let node: crate::pve::id::NodeName = "n1".parse().expect("name");
    let guests = guests_on(&value, &node, GuestKind::Qemu).expect("a list");
    let numbers: Vec<_> = guests.iter().map(|g| g.place.vmid.number()).collect();
    assert_eq!(numbers, [100, 101]);
    assert_eq!(
        (guests[0].name.as_deref(), guests[0].power),
        (None, Power::Running)
    );
    assert_eq!(guests[1].tags, ["a", "b", "c", "d"]);
    assert_eq!(
        (guests[1].template, guests[1].power),
        (true, Power::Unknown)
    );
    assert_eq!(guests[1].memory, Some(Bytes(1024)));
    assert!(guests_on(&json!("no"), &node, GuestKind::Qemu).is_err());
    assert_eq!(guests_on(&json!(null), &node, GuestKind::Qemu), Ok(vec![]));
}

#[test]
fn the_cluster_wide_list_keeps_guests_only() {
    let value = json!([
        {"type": "qemu", "vmid": 100, "node": "n1", "status": "unknown", "hastate": "started", "pool": "a/b"},
        {"type": "lxc", "vmid": 101, "node": "n1", "status": "stopped", "lock": "backup"},
        {"type": "openvz", "vmid": 102, "node": "n1"}, {"type": "node", "node": "n1"}, {"type": "storage"}]);
    let guests = resources(&value).expect("a list");
    assert_eq!(guests.len(), 2);
    assert_eq!(guests[0].ha_state.as_deref(), Some("started"));
    assert_eq!(guests[0].pool.as_ref().map(|p| p.as_str()), Some("a/b"));
    assert_eq!(
        (guests[1].place.kind, guests[1].lock.as_deref()),
        (GuestKind::Lxc, Some("backup"))
    );
}

#[test]
fn a_configuration_keeps_every_key() {
    let value = json!({"memory": 2048, "cpulimit": "1.5", "numa": 0, "description": "a\n#b: c", "new-in-12": "x",
        "lxc": [["lxc.a", "b"]], "gone": null});
    let config = config(&value).expect("an object");
    assert_eq!(config.value("memory"), Some("2048"));
    assert_eq!(config.value("numa"), Some("0"));
    assert_eq!(config.value("new-in-12"), Some("x"));
    assert_eq!(config.value("lxc"), Some(r#"[["lxc.a","b"]]"#));
    assert_eq!(config.value("gone"), None);
}

#[test]
fn pending_changes_are_told_from_settled_values() {
    let value = json!([{"key": "name", "value": "x"}, {"key": "memory", "value": "1", "pending": 96},
        {"key": "ide2", "value": "none", "delete": 1}, {"key": "net1", "delete": "2"},
        {"key": "boot", "value": "a", "pending": "b", "delete": 1}, {"key": "onboot", "value": 1, "delete": 0}]);
    let changes = pending(&value).expect("a list");
    let shown: Vec<_> = changes
        .iter()
        .map(|c| (c.key.as_str(), c.value.as_deref()))
        .collect();
    let expect = [
        ("memory", Some("96")),
        ("ide2", None),
        ("net1", None),
        ("boot", Some("b")),
    ];
    assert_eq!(shown, expect);
}

#[test]
fn snapshots_and_status() {
    let value = json!([{"name": "s1", "vmstate": "1", "snaptime": 5}, {"name": "current", "running": 0}, {"name": "s2"}]);
    let shown: Vec<_> = snapshots(&value)
        .expect("a list")
        .into_iter()
        .map(|s| (s.name, s.with_memory))
        .collect();
    assert_eq!(shown, [("s1".to_owned(), true), ("s2".to_owned(), false)]);
    let running = status(
        &json!({"status": "running", "qmpstatus": "paused", "vmid": "100", "lock": null,
        "ha": {"managed": "1"}, "running-machine": "pc-i440fx-9.2+pve1", "clipboard": null}),
    )
    .expect("a status");
    assert_eq!(
        (running.power, running.qmp_status.as_str()),
        (Power::Running, "paused")
    );
    assert!(running.ha_managed && running.lock.is_none());
    let stopped = status(&json!({"status": "stopped", "qmpstatus": "stopped"})).expect("a status");
    assert_eq!(
        (stopped.qmp_status.as_str(), stopped.running_machine),
        ("", None)
    );
    assert!(status(&json!({})).is_err());
}

#[test]
fn members_come_from_corosync_and_maintenance_from_the_ha_manager() {
    let status = json!([{"type": "cluster", "name": "c", "quorate": 1}, {"type": "node", "name": "n1", "online": "1",
        "ip": "10.0.0.1"}, {"type": "node", "name": "n2", "online": 0}]);
    let listed = json!([{"node": "n1", "status": "unknown"}, {"node": "n2", "status": "online"},
        {"node": "n3", "status": "online"}]);
    let ha = json!({"manager_status": {"node_status": {"n1": "online", "n2": "maintenance"},
        "node_request": {"n3": {"maintenance": 1}}}, "lrm_status": {"n1": {"mode": "active"}}, "quorum": {}});
    let nodes = merge_nodes(
        cluster_status(&status).expect("a list"),
        nodes(&listed).expect("a list"),
        &maintenance(&ha).expect("an object"),
    );
    let shown: Vec<_> = nodes
        .iter()
        .map(|n| {
            (
                n.name.as_str(),
                n.online,
                n.maintenance,
                n.address.as_deref(),
            )
        })
        .collect();
    let expect = [
        ("n1", true, false, Some("10.0.0.1")),
        ("n2", false, true, None),
        ("n3", true, true, None),
    ];
    assert_eq!(shown, expect);
    assert!(maintenance(&json!({})).expect("an object").is_empty());
}

#[test]
fn storages_with_their_settings_and_volumes() {
    let settings = storage_settings(&json!([{"storage": "data", "type": "dir", "path": "/srv",
        "content-dirs": {"images": "img", "iso": "i"}, "is_mountpoint": 1, "digest": "x", "nodes": null}]))
    .expect("a list");
    let data = &settings[&"data".parse().expect("id")];
    assert_eq!(data["content-dirs"], "images=img,iso=i");
    assert_eq!(data["is_mountpoint"], "1");
    assert!(!data.contains_key("digest") && !data.contains_key("nodes"));
    let storages = storages(
        &json!([{"storage": "data", "type": "dir", "content": "images,iso", "enabled": 1,
        "active": "1", "shared": 0, "avail": "1000", "total": 2.5e3}]),
    )
    .expect("a list");
    assert_eq!(
        (storages[0].available, storages[0].total),
        (Bytes(1000), Bytes(2500))
    );
    assert!(storages[0].active && storages[0].content.contains("iso"));
    let list = volumes(&json!([{"volid": "data:1/a.raw", "size": "5", "used": 3, "format": "raw", "vmid": "100",
        "parent": null}, {"volid": "nonsense", "size": 1}, {"volid": "data:b", "approximate-size": 9}]))
    .expect("a list");
    assert_eq!(list.len(), 2);
    assert_eq!(
        (list[0].size, list[0].used, list[1].size),
        (Bytes(5), Some(Bytes(3)), Bytes(9))
    );
    assert_eq!(list[0].owner.map(crate::pve::id::Vmid::number), Some(100));
}

#[test]
fn bridges_are_told_from_other_interfaces() {
    let value = json!([{"iface": "vmbr1", "type": "OVSBridge"}, {"iface": "eno1", "type": "eth"},
        {"iface": "vmbr0", "type": "bridge"}, {"iface": "blue", "type": "vnet"}, {"type": "bridge"}]);
    assert_eq!(bridges(&value).expect("a list"), ["blue", "vmbr0", "vmbr1"]);
}

#[test]
fn the_schema_is_read_out_of_the_viewers_javascript() {
    let tree = json!([{"path": "/cluster", "children": []}, {"path": "/nodes", "leaf": 0, "children": [
        {"path": "/nodes/{node}", "children": [{"path": "/nodes/{node}/qemu", "info": {"GET": {}, "POST": {"parameters":
        {"properties": {"vmid": {}, "node": {}, "name": {"type": "string", "format": "dns-name"}, "net[n]":
        {"format": {"model": {}, "bridge": {}}}, "onboot": {"type": "boolean"}}}}}}]}]}]);
    for beginning in ["var pveapi = ", "const apiSchema = "] {
        let javascript =
            format!("{beginning}{tree}\n;\nExt.onReady(function() {{ return ']'; }});");
        let schema = config_schema(&javascript).expect("a schema");
        assert_eq!(
            schema.0.keys().collect::<Vec<_>>(),
            ["name", "net[n]", "onboot"]
        );
        let net = schema
            .entry("net3")
            .and_then(Option::as_ref)
            .expect("sub-keys");
        assert!(net.contains("bridge") && net.len() == 2);
        assert_eq!(schema.entry("onboot"), Some(&None));
        assert_eq!(schema.entry("vmid"), None);
    }
    for other in [
        "",
        "<html>",
        "var pveapi = [",
        "var pveapi = {}",
        "const apiSchema = []",
    ] {
        assert_eq!(config_schema(other), None, "{other}");
    }
}

#[test]
fn small_answers() {
    assert_eq!(vmid(&json!("105")).map(|v| v.number()), Ok(105));
    assert_eq!(vmid(&json!(105)).map(|v| v.number()), Ok(105));
    assert!(vmid(&json!(7)).is_err());
    let shown = |value: Value| release(&value).map(|r| r.to_string());
    assert_eq!(
        shown(json!({"release": "8.4", "version": "8.4.1"})),
        Ok("8.4".into())
    );
    assert_eq!(shown(json!({"version": "7.4-17"})), Ok("7.4".into()));
    assert!(shown(json!({})).is_err());
    let jobs = replication_jobs(
        &json!([{"id": "100-0", "guest": "100", "target": "n2"}, {"id": "101-1"}, {"id": "x"}]),
    );
    assert_eq!(jobs.expect("a list").len(), 2);
    let rights = permissions(&json!({"/": {"VM.Audit": 1, "Sys.Audit": 0}, "/vms": "odd"}))
        .expect("an object");
    assert!(rights.allows("/vms/1", "VM.Audit") && !rights.allows("/vms/1", "Sys.Audit"));
    let members = pool_members(
        &json!([{"poolid": "a", "members": [{"vmid": 100, "type": "qemu"}, {"storage": "s"}]}]),
    );
    assert_eq!(members.expect("a list").len(), 1);
}
