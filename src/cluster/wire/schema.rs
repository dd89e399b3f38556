//! The schema every node serves without login (`/pve-docs/api-viewer/apidoc.js`): which keys a VM may have there.
//!
//! The file is JavaScript: an assignment of a JSON array, then the code of the viewer. Only the array is read. Never
//! asks a cluster. Read next: `../observe.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::pve::inventory::ConfigSchema;

/// What the array is assigned to: up to 7.x, and from 8.x on.
const BEGINNINGS: [&str; 3] = ["var pveapi =", "const apiSchema =", "var apiSchema ="];

/// Parameters of the call that are no keys of a configuration.
const NOT_CONFIG: [&str; 13] = [
    "archive",
    "bwlimit",
    "force",
    "ha-managed",
    "import-working-storage",
    "live-restore",
    "node",
    "pool",
    "skiplock",
    "start",
    "storage",
    "unique",
    "vmid",
];

/// Decodes apidoc.js: the keys that `POST /nodes/{node}/qemu` takes, with the sub-keys of property strings.
///
/// `None` when the text is something else, such as the page of a proxy in between.
pub fn config_schema(javascript: &str) -> Option<ConfigSchema> {
    let array = BEGINNINGS.iter().find_map(|beginning| {
        let (_, rest) = javascript.split_once(beginning)?;
        Some(rest)
    })?;
    // The viewer's own code follows, so only the first JSON value is wanted.
    let tree: Value = serde_json::Deserializer::from_str(array)
        .into_iter()
        .next()?
        .ok()?;
    let node = find(&tree, "/nodes/{node}/qemu")?;
    let properties = node
        .pointer("/info/POST/parameters/properties")?
        .as_object()?;
    let entries: BTreeMap<_, _> = properties
        .iter()
        .filter(|(key, _)| !NOT_CONFIG.contains(&key.as_str()))
        .map(|(key, property)| (key.clone(), sub_keys(property)))
        .collect();
    (!entries.is_empty()).then_some(ConfigSchema(entries))
}

/// Returns the entry with that path; a tree's children are only searched where their paths can match.
fn find<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    tree.as_array()?.iter().find_map(|node| {
        let here = node.get("path").and_then(Value::as_str)?;
        if here == path {
            return Some(node);
        }
        let below = path
            .strip_prefix(here)
            .is_some_and(|rest| rest.starts_with('/'));
        below.then(|| find(node.get("children")?, path)).flatten()
    })
}

/// Returns the sub-keys of a property string: its `format` is then an object.
fn sub_keys(property: &Value) -> Option<BTreeSet<String>> {
    let format = property.get("format")?.as_object()?;
    Some(format.keys().cloned().collect())
}
