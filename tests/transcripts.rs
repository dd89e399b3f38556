//! The contract with Proxmox VE: every recorded answer of a real 8.4 and 9.2 must decode.
//!
//! Each entry of tests/fixtures/transcripts/ is routed by method and path to the decoder the client uses for it, or to
//! the envelope where the client does not use the endpoint, and must give a value or the right [`ApiError`]. The number
//! of entries per file and of decoded answers per decoder is asserted, so that nothing is skipped silently.

#[path = "transcripts/facts.rs"]
mod facts;
#[path = "transcripts/recorded.rs"]
mod recorded;

use std::collections::BTreeMap;

use proxmove::cluster::ApiError;
use proxmove::cluster::answer::Effect;
use proxmove::cluster::session::{self, Ticket};
use proxmove::cluster::task::{self, Upid};
use proxmove::cluster::wire::{self, Odd, guest, inventory, migration, node};
use proxmove::pve::guest::GuestKind;
use recorded::{Recorded, all};
use serde_json::Value;

/// Decodes the data of a successful answer with the client's own decoder and names that decoder.
///
/// A list must come out as long as it went in: skipping an entry is for entries nobody has seen yet.
fn decode(entry: &Recorded, data: &Value) -> Result<&'static str, Odd> {
    let path = entry.api_path();
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let whole = |decoded: usize, what: &'static str| {
        let expected = data.as_array().map_or(0, Vec::len);
        assert_eq!(decoded, expected, "{what} of {}", entry.place);
        Ok(what)
    };
    match (entry.method.as_str(), parts.as_slice()) {
        ("POST", ["access", "ticket"]) => session::ticket(data).map(|_| "ticket"),
        ("GET", ["version"]) => wire::release(data).map(|_| "release"),
        ("GET", ["access", "permissions"]) => {
            let rights = inventory::permissions(data)?.0;
            assert_eq!(
                rights.len(),
                data.as_object().map_or(0, |paths| paths.len())
            );
            Ok("permissions")
        }
        ("GET", ["cluster", "nextid"]) => wire::vmid(data).map(|_| "free vmid"),
        ("GET", ["cluster", "status"]) => {
            whole(inventory::cluster_status(data)?.len(), "cluster status")
        }
        ("GET", ["cluster", "resources"]) => {
            let entries = data.as_array().map(Vec::as_slice).unwrap_or_default();
            let of = |kind: &str| {
                let entries = data.as_array().into_iter().flatten();
                entries.filter(|entry| entry["type"] == kind).count()
            };
            assert_eq!(node::resources(data)?.len(), of("node"), "{}", entry.place);
            assert_eq!(
                node::storages(data)?.len(),
                of("storage"),
                "{}",
                entry.place
            );
            let is_guest = |entry: &&Value| matches!(entry["type"].as_str(), Some("qemu" | "lxc"));
            let expected = entries.iter().filter(is_guest).count();
            assert_eq!(guest::resources(data)?.len(), expected, "{}", entry.place);
            Ok("resources")
        }
        ("GET", ["nodes"]) => whole(inventory::nodes(data)?.len(), "nodes"),
        ("GET", ["pools"]) => whole(inventory::pools(data)?.len(), "pools"),
        ("GET", ["pools", _]) => {
            let members = data["members"].as_array().map(Vec::as_slice);
            let guests = |member: &&Value| member["vmid"].is_number();
            let members = members.unwrap_or_default().iter().filter(guests).count();
            assert_eq!(
                inventory::pool_members(data)?.len(),
                members,
                "{}",
                entry.place
            );
            Ok("pool members")
        }
        ("GET", ["storage"]) => whole(inventory::storage_settings(data)?.len(), "storage settings"),
        ("GET", ["nodes", _, "storage"]) => whole(inventory::storages(data)?.len(), "storages"),
        ("GET", ["nodes", _, "storage", _, "content"]) => {
            whole(inventory::volumes(data)?.len(), "volumes")
        }
        ("GET", ["nodes", _, "storage", _, "content", volid]) => {
            let volid = recorded::decoded(volid).parse().expect("a volume id");
            inventory::volume(data, &volid).map(|_| "volume")
        }
        ("GET", ["nodes", _, "network"]) => inventory::bridges(data).map(|_| "bridges"),
        ("GET", ["nodes", node, kind @ ("qemu" | "lxc")]) => {
            let node = node.parse().expect("a node");
            let kind = if *kind == "qemu" {
                GuestKind::Qemu
            } else {
                GuestKind::Lxc
            };
            whole(
                guest::guests_on(data, &node, kind)?.len(),
                "guests of a node",
            )
        }
        (
            "GET",
            ["nodes", _, "qemu" | "lxc", _, "config"]
            | ["nodes", _, "qemu", _, "snapshot", _, "config"],
        ) => {
            let config = guest::config(data)?;
            let keys = data.as_object().map_or(0, |keys| keys.len());
            assert_eq!(config.0.len(), keys, "{}", entry.place);
            let (_, wrong) = config.drives();
            assert_eq!(wrong, [], "{}", entry.place);
            Ok("config")
        }
        ("GET", ["nodes", _, "qemu" | "lxc", _, "pending"]) => {
            guest::pending(data).map(|_| "pending")
        }
        ("GET", ["nodes", _, "qemu", _, "snapshot"]) => {
            // One entry is always "current".
            let expected = data.as_array().map_or(0, Vec::len) - 1;
            assert_eq!(guest::snapshots(data)?.len(), expected, "{}", entry.place);
            Ok("snapshots")
        }
        ("GET", ["nodes", _, "qemu" | "lxc", _, "status", "current"]) => {
            guest::status(data).map(|_| "status")
        }
        ("GET", ["nodes", _, "status"]) => {
            let status = node::status(data)?;
            assert_eq!(data["memory"]["total"], status.memory_total.0);
            assert!(status.version.starts_with("pve-manager/") && status.cpus > 0);
            Ok("node status")
        }
        ("GET", ["nodes", _, "qemu" | "lxc", _, "migrate"]) => {
            let said = migration::preconditions(data)?;
            let raw = |key: &str| data[key].as_array().map_or(0, Vec::len);
            assert_eq!(
                said.local_disks.len(),
                raw("local_disks"),
                "{}",
                entry.place
            );
            // The laboratory's clusters had one node.
            let nodes = said.allowed_nodes.map(|nodes| nodes.len());
            assert_eq!(
                (nodes, said.not_allowed.len()),
                (Some(0), 0),
                "{}",
                entry.place
            );
            Ok("migrate preconditions")
        }
        ("GET", ["nodes", _, "tasks"]) => {
            let tasks = data.as_array().map(Vec::as_slice).unwrap_or_default();
            let runs = |task: &&Value| task.get("endtime").is_none();
            assert_eq!(
                task::running(data)?.len(),
                tasks.iter().filter(runs).count(),
                "{}",
                entry.place
            );
            Ok("tasks")
        }
        ("GET", ["nodes", _, "tasks", _, "status"]) => task::state(data).map(|_| "task state"),
        ("GET", ["nodes", _, "tasks", _, "log"]) => {
            let lines = task::log_lines(data)?.len();
            assert!(lines > 0, "{}", entry.place);
            Ok("task log")
        }
        ("POST", ["nodes", _, "qemu" | "lxc"])
        | ("DELETE", ["nodes", _, "qemu", _])
        | ("POST", ["nodes", _, "qemu", _, "status", _]) => {
            let upid: Upid = data
                .as_str()
                .unwrap_or_default()
                .parse()
                .map_err(|error| Odd(format!("{error}")))?;
            assert_eq!(upid.to_string(), data.as_str().unwrap_or_default());
            Ok("upid")
        }
        ("PUT", ["nodes", _, "qemu", _, "config"] | ["pools", ..]) => {
            assert_eq!(data, &Value::Null, "{}", entry.place);
            Ok("null is success")
        }
        // Endpoints the client does not use.
        _ => Ok("envelope"),
    }
}

/// Asserts that a refusal became the right error, with the words the server used.
fn judge(entry: &Recorded, error: &ApiError) -> &'static str {
    let phrase = entry.reason.as_str();
    let body: Option<Value> = serde_json::from_str(&entry.body).ok();
    let text = error.to_string();
    assert!(!text.contains('\n'), "{}: {text}", entry.place);
    // The phrase is the first line of what the body says in full.
    let starts = |reason: &str| {
        let place = &entry.place;
        assert!(
            reason.starts_with(phrase.trim()),
            "{place}: '{reason}' is not '{phrase}'"
        );
    };
    match (entry.status, error) {
        (400, ApiError::Parameters { errors, .. }) => {
            let body = body.expect("a body");
            let expected = body["errors"].as_object().expect("errors");
            assert!(expected.keys().eq(errors.keys()), "{}: {text}", entry.place);
            assert!(errors.values().all(|words| !words.is_empty()), "{text}");
            "parameters"
        }
        (401, ApiError::Login { reason, .. }) => {
            starts(reason);
            "login"
        }
        (403, ApiError::Forbidden { reason, .. }) => {
            starts(reason);
            "forbidden"
        }
        (400 | 500 | 501 | 506 | 595, ApiError::Refused { status, reason, .. }) => {
            assert_eq!(*status, entry.status);
            starts(reason);
            assert!(
                !reason.starts_with("status "),
                "no words in {}",
                entry.place
            );
            "refused"
        }
        // The extjs form says 200 on the outside.
        (200, ApiError::Parameters { errors, .. }) if entry.path.starts_with("/api2/extjs/") => {
            assert!(errors.contains_key("name"), "{text}");
            "extjs"
        }
        _ => panic!("{}: status {} became {error:?}", entry.place, entry.status),
    }
}

#[test]
fn every_recorded_answer_decodes() {
    let entries = all();
    let mut per_file = BTreeMap::<&str, usize>::new();
    let mut per_decoder = BTreeMap::<&str, usize>::new();
    for entry in &entries {
        *per_file.entry(entry.file()).or_default() += 1;
        // All problems at once: each has been printed when the test fails in the end.
        let decoder = std::panic::catch_unwind(|| match entry.data() {
            Ok(data) => decode(entry, &data).unwrap_or_else(|odd| panic!("{}: {odd}", entry.place)),
            Err(error) => judge(entry, &error),
        });
        let decoder = decoder.unwrap_or("FAILED");
        *per_decoder.entry(decoder).or_default() += 1;
    }
    let expect = [
        ("pve8-errors", 348),
        ("pve8-happy-move", 59),
        ("pve8-more", 155),
        ("pve8-proxmove", 54),
        ("pve8-proxmove-zfs", 28),
        ("pve8-setup", 80),
        ("pve8-smoke", 25),
        ("pve9-errors", 348),
        ("pve9-happy-move", 60),
        ("pve9-more", 131),
        ("pve9-proxmove", 33),
        ("pve9-setup", 74),
    ];
    assert_eq!(per_file, BTreeMap::from(expect));
    assert_eq!(entries.len(), 1395);
    assert_eq!(per_decoder.get("FAILED"), None);
    assert_eq!(per_decoder.values().sum::<usize>(), 1395);
    expect_test::expect![[r#"
        {
            "bridges": 1,
            "cluster status": 1,
            "config": 68,
            "envelope": 89,
            "extjs": 2,
            "forbidden": 48,
            "free vmid": 9,
            "guests of a node": 31,
            "login": 40,
            "migrate preconditions": 11,
            "node status": 1,
            "nodes": 17,
            "null is success": 208,
            "parameters": 106,
            "pending": 21,
            "permissions": 3,
            "pool members": 7,
            "pools": 29,
            "refused": 237,
            "release": 22,
            "resources": 49,
            "snapshots": 7,
            "status": 41,
            "storage settings": 5,
            "storages": 9,
            "task log": 38,
            "task state": 40,
            "tasks": 5,
            "ticket": 55,
            "upid": 171,
            "volume": 2,
            "volumes": 22,
        }"#]]
    .assert_eq(&format!("{per_decoder:#?}"));
}

#[test]
fn a_second_factor_is_never_taken_for_a_login() {
    let tickets = all().into_iter().filter(|entry| {
        entry.method == "POST" && entry.path.ends_with("/access/ticket") && entry.status == 200
    });
    let (mut full, mut partial) = (0, 0);
    for entry in tickets {
        let needs = entry.body.contains("NeedTFA");
        match session::ticket(&entry.data().expect("data")).expect("a ticket") {
            Ticket::Full { .. } => full += usize::from(!needs),
            Ticket::NeedsSecondFactor => partial += usize::from(needs),
        }
    }
    assert_eq!((full, partial), (51, 4));
}

#[test]
fn a_silent_proxy_is_perhaps_done_for_writes_only() {
    // Recorded 595s are refused connections, where nothing was done. The same answers with 596 are another matter.
    for mut entry in all().into_iter().filter(|entry| entry.status == 595) {
        assert!(
            matches!(entry.data(), Err(ApiError::Refused { status: 595, .. })),
            "{}",
            entry.place
        );
        entry.status = 596;
        let perhaps = matches!(
            entry.data(),
            Err(ApiError::Unreachable {
                maybe_done: true,
                ..
            })
        );
        assert_eq!(perhaps, entry.effect() == Effect::Writes, "{}", entry.place);
    }
}
