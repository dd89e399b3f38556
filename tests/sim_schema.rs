//! Compares the simulation's table of endpoints with Proxmox VE's own schema: every endpoint and parameter of ours
//! exists there with the same type and optionality, and none that is required there is missing here.
#![allow(clippy::print_stderr)]

use std::path::Path;

use proxmove::sim::api::schema::{ENDPOINTS, Format, Param, Version};
use serde_json::Value;

/// The releases the schema was taken from.
const RELEASES: [(&str, Version); 4] = [
    ("6.4", (6, 4)),
    ("7.4", (7, 4)),
    ("8.4", (8, 4)),
    ("9.1", (9, 1)),
];

/// What the schema is known not to have: it lists the endpoints that were asked for, not all there are.
const NOT_LISTED: &[&str] = &[
    "DELETE /pools/{poolid}",
    "GET /nodes/{node}/config",
    "PUT /nodes/{node}/config",
    "GET /nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
    "POST /nodes/{node}/qemu/{vmid}/status/reset",
];

fn schema() -> Option<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = ["../shared/pve-schema.json", "../../shared/pve-schema.json"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(root.join(path)).ok())?;
    serde_json::from_str(&text).ok()
}

fn optional(theirs: &Value) -> bool {
    theirs["optional"].as_u64() == Some(1)
}

/// Compares one parameter; the complaints name it by `at`.
fn compare(at: &str, ours: &Param, theirs: &Value, wrong: &mut Vec<String>) {
    let kind = theirs["type"].as_str().unwrap_or("string");
    if ours.kind.word() != kind {
        wrong.push(format!("{at}: {} here, {kind} there", ours.kind.word()));
    }
    if ours.optional != optional(theirs) {
        wrong.push(format!("{at}: optional {} here", ours.optional));
    }
    let (Format::Property(property), Some(keys)) = (ours.format, theirs["format"].as_object())
    else {
        return;
    };
    for (name, theirs) in keys {
        if theirs.get("alias").is_some() {
            if !property.aliases.iter().any(|alias| alias.0 == name) {
                wrong.push(format!("{at}: no alias {name} here"));
            }
            continue;
        }
        match property.keys.iter().find(|key| key.name == name) {
            Some(key) => compare(&format!("{at}.{name}"), key, theirs, wrong),
            None => wrong.push(format!("{at}: no {name} here")),
        }
    }
    for key in property.keys {
        if !keys.contains_key(key.name) {
            wrong.push(format!("{at}: no {} there", key.name));
        }
    }
}

#[test]
fn the_table_is_that_of_the_real_thing() {
    let Some(schema) = schema() else {
        eprintln!("not run: the_table_is_that_of_the_real_thing (no schema here)");
        return;
    };
    let theirs = schema["endpoints"].as_array().expect("endpoints");
    let mut wrong = Vec::new();
    for endpoint in ENDPOINTS {
        let name = format!("{} {}", endpoint.method, endpoint.path);
        let found = theirs
            .iter()
            .find(|other| other["method"] == endpoint.method && other["path"] == endpoint.path);
        let Some(other) = found else {
            if !NOT_LISTED.contains(&name.as_str()) {
                wrong.push(format!("{name} does not exist there"));
            }
            continue;
        };
        for (word, release) in RELEASES {
            let seen = other["seen_in"]
                .as_array()
                .is_none_or(|seen| seen.iter().any(|r| r == word));
            if seen != (endpoint.since <= release) {
                wrong.push(format!("{name}: in {word} there {seen}"));
            }
        }
        let empty = serde_json::Map::new();
        let params = other["parameters"]["properties"]
            .as_object()
            .unwrap_or(&empty);
        for ours in endpoint.params_in((9, 1)) {
            let at = format!("{name} {}", ours.name);
            match params.get(ours.name) {
                None => wrong.push(format!("{at} does not exist there")),
                Some(theirs) => compare(&at, ours, theirs, &mut wrong),
            }
            let seen_in = other["params_seen_in"][ours.name].as_array();
            for (word, release) in RELEASES {
                let seen = seen_in.is_none_or(|seen| seen.iter().any(|r| r == word));
                if endpoint.since <= release && seen != (ours.since <= release) {
                    wrong.push(format!("{at}: in {word} there {seen}"));
                }
            }
        }
        for (param, theirs) in params {
            let known = endpoint.params_in((9, 1)).any(|ours| ours.name == param);
            if !known && !optional(theirs) {
                wrong.push(format!(
                    "{name}: {param} is required there and missing here"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sub_keys_come_with_their_release() {
    let Some(schema) = schema() else {
        eprintln!("not run: sub_keys_come_with_their_release (no schema here)");
        return;
    };
    let theirs = schema["endpoints"].as_array().expect("endpoints");
    let create = theirs
        .iter()
        .find(|other| other["method"] == "POST" && other["path"] == "/nodes/{node}/qemu")
        .expect("create");
    let ours = ENDPOINTS
        .iter()
        .find(|ours| ours.method == "POST" && ours.path == "/nodes/{node}/qemu")
        .expect("create");
    let mut wrong = Vec::new();
    for (name, missing) in create["params_seen_in"].as_object().expect("an object") {
        let Some(param) = name.strip_suffix(":subkeys_missing_in") else {
            continue;
        };
        let Some(ours) = ours.params_in((9, 1)).find(|ours| ours.name == param) else {
            continue;
        };
        let Format::Property(property) = ours.format else {
            continue;
        };
        for (word, release) in RELEASES {
            // Before 8 a machine was a word without sub-keys, and what did not exist has none.
            if ours.since > release || (param == "machine" && release < (8, 0)) {
                continue;
            }
            for key in property.keys.iter().filter(|key| key.since > (0, 0)) {
                let lacks = missing[word]
                    .as_array()
                    .is_some_and(|keys| keys.iter().any(|other| other == key.name));
                if lacks != (key.since > release) {
                    wrong.push(format!(
                        "{param}.{}: missing in {word} there {lacks}",
                        key.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
