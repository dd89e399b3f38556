//! What servers answer: every recorded answer of a real Proxmox VE, damaged as text and as JSON, through every reader of
//! the client; and what storage hosts print.

use proptest::prelude::*;
use proxmove::cluster::task;
use proxmove::cluster::wire::{self, guest, ha, inventory, migration, node, schema};
use proxmove::transfer::probe;
use serde_json::Value;

use crate::mutations::{bytes, text};

/// Returns the bodies of recorded answers of each shape, the shorter ones.
fn recorded() -> Vec<Vec<u8>> {
    let mut bodies = std::collections::BTreeMap::new();
    for file in [
        include_str!("../fixtures/transcripts/pve9-happy-move.jsonl"),
        include_str!("../fixtures/transcripts/pve9-more.jsonl"),
        include_str!("../fixtures/transcripts/pve8-more.jsonl"),
        include_str!("../fixtures/transcripts/pve8-proxmove-zfs.jsonl"),
        include_str!("../fixtures/transcripts/pve8-errors.jsonl"),
    ] {
        for line in file.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            let body = entry["body"].as_str().unwrap_or_default();
            if (12..6000).contains(&body.len()) {
                let path = entry["path"].as_str().unwrap_or_default();
                let path: String = path.chars().filter(|c| !c.is_ascii_digit()).collect();
                bodies
                    .entry(path)
                    .or_insert_with(|| body.as_bytes().to_vec());
            }
        }
    }
    assert!(bodies.len() > 30, "only {} kinds of answers", bodies.len());
    bodies.into_values().collect()
}

/// Hands a value to every reader.
fn read_all(value: &Value) {
    let volid = "local:565/vm-565-disk-0.qcow2".parse().unwrap();
    let kind = proxmove::pve::guest::GuestKind::Qemu;
    let node_name = "node1".parse().unwrap();
    let _ = (
        task::state(value),
        task::log_lines(value),
        task::running(value),
    );
    let _ = (wire::release(value), wire::vmid(value));
    let _ = (
        guest::resources(value),
        guest::guests_on(value, &node_name, kind),
        guest::config(value),
    );
    let _ = (
        guest::pending(value),
        guest::snapshots(value),
        guest::status(value),
    );
    let _ = (
        ha::services(value),
        ha::rules(value),
        ha::groups(value, &[]),
    );
    let _ = (
        inventory::cluster_status(value),
        inventory::nodes(value),
        inventory::maintenance(value),
    );
    let _ = (
        inventory::storages(value),
        inventory::volumes(value),
        inventory::volume(value, &volid),
    );
    let _ = (
        inventory::bridges(value),
        inventory::machines(value),
        inventory::permissions(value),
    );
    let _ = (
        inventory::replication_jobs(value),
        inventory::pools(value),
        inventory::pool_members(value),
    );
    let _ = migration::preconditions(value);
    let _ = (
        node::config(value),
        node::status(value),
        node::resources(value),
        node::storages(value),
    );
    if let Ok(config) = guest::config(value) {
        let _ = config.drives();
    }
}

/// Exchanges something inside of a value.
fn spoil(value: &mut Value, mut at: usize, with: &Value) -> usize {
    if at == 0 {
        *value = with.clone();
        return usize::MAX;
    }
    at -= 1;
    let inner: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return at,
    };
    for value in inner {
        at = spoil(value, at, with);
        if at == usize::MAX {
            break;
        }
    }
    at
}

fn odd() -> impl Strategy<Value = Value> {
    let odd = [
        "null",
        "true",
        "-1",
        "0",
        "1.5",
        "1e300",
        "18446744073709551615",
        "-9223372036854775808",
        "\"\"",
        "\"1\"",
        "\"-\"",
        "\"\u{0}\"",
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "\"unknown\"",
        "\"99999999999999999999\"",
        "\"vm-1-disk-0\"",
    ];
    let odd: Vec<Value> = odd
        .iter()
        .map(|text| serde_json::from_str(text).unwrap_or(Value::Null))
        .collect();
    proptest::sample::select(odd)
}

const PROBE: &str = "motd\nproxmove-probe 1\nsystem Linux\nmachine x86_64\ntool dd\ntool zfs\nssh OpenSSH_9.2p1 Debian-2\n\
    path-exists yes\npath-writable yes\npath-df /dev/sda1 51475068 20971520 27862076 43% /srv/data\npath-options rw,relatime\n\
    temp-df tmpfs 102400 0 102400 0% /tmp\ntemp-options rw,noexec\nfile 565 vm-565-disk-0.qcow2\nzfs-version zfs-2.1.11\n\
    zfs-module 2.1.11-1\nzfs-login 0 root root\nzpool tank\tsize\t1099511627776\t-\nzpool tank\thealth\tONLINE\t-\n\
    zpool tank\tfeature@encryption\tenabled\tlocal\ndataset tank/vms\ttype\tfilesystem\ndataset tank/vms\tavailable\t12345678\n\
    dataset tank/vms/vm-565-disk-0\tvolsize\t34359738368\ndataset tank/vms/vm-565-disk-0\treferenced\t1234\n\
    snapshot tank/vms/vm-565-disk-0@early\t0\t999\nallow ---- Permissions on tank/vms\nallow \tuser mover create,mount\nend 1\n";

proptest! {
    #[test]
    fn fuzz_answers_as_bytes(body in bytes(recorded())) {
        if let Ok(value) = serde_json::from_slice::<Value>(&body) {
            read_all(&value);
            read_all(&value["data"]);
        }
    }

    #[test]
    fn fuzz_answers_as_values(
        body in proptest::sample::select(recorded()),
        places in proptest::collection::vec((0usize..400, odd()), 1..5),
    ) {
        let mut value = serde_json::from_slice::<Value>(&body).unwrap_or(Value::Null)["data"].take();
        for (at, with) in &places {
            spoil(&mut value, *at, with);
        }
        read_all(&value);
    }

    #[test]
    fn fuzz_probes(answer in text(&[PROBE]), dataset in proptest::option::of(text(&["tank/vms", "tank"]))) {
        let _ = probe::parse("root@node1", dataset.as_deref(), &answer);
    }

    #[test]
    fn fuzz_schemas(javascript in text(&[
        "const apiSchema = [{\"path\":\"/nodes/{node}/qemu/{vmid}/config\",\"info\":{\"POST\":{\"parameters\":{\"properties\":\
         {\"cores\":{\"type\":\"integer\",\"minimum\":1},\"net[n]\":{\"type\":\"string\",\"format\":{\"model\":{\"enum\":[\"virtio\"]}}}}}}}}];\nlet x = 1;",
    ])) {
        let _ = schema::config_schema(&javascript);
    }
}
