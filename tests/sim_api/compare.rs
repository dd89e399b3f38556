//! Compares a recorded answer with a simulated one.

use serde_json::{Map, Value};

/// Keys whose values are made up anew each time, or measured.
const VOLATILE: &[&str] = &["digest", "meta", "vmgenid", "smbios1", "snaptime"];

/// Keys that say which element of a list is which.
const IDENTITIES: &[&str] = &[
    "volid",
    "key",
    "id",
    "storage",
    "poolid",
    "name",
    "iface",
    "vmid",
    "drivename",
];

/// Replaces what differs from run to run: times, ids, the directory of the simulation.
pub(crate) fn normal(text: &str, roots: &[String]) -> String {
    let mut text = text.to_owned();
    for root in roots {
        text = text.replace(root.as_str(), "");
    }
    let text = without_macs(&text);
    // Anything in upper-case hex of eight digits or more is a part of a UPID or a ticket.
    let mut out = String::new();
    for word in text.split_inclusive([':', ' ', '\'', ',']) {
        let core = word.trim_end_matches([':', ' ', '\'', ',']);
        let hex = core.len() >= 8 && core.bytes().all(|b| b.is_ascii_hexdigit());
        let tail = &word[core.len()..];
        out.push_str(if hex { "X" } else { core });
        out.push_str(tail);
    }
    out
}

/// Replaces MAC addresses, which the server makes up.
fn without_macs(text: &str) -> String {
    let bytes = text.as_bytes();
    let is_mac = |at: usize| {
        text.is_char_boundary(at)
            && bytes.len() >= at + 17
            && (0..17).all(|n| match n % 3 {
                2 => bytes[at + n] == b':',
                _ => bytes[at + n].is_ascii_hexdigit(),
            })
    };
    let mut out = String::new();
    let mut at = 0;
    for (place, c) in text.char_indices() {
        if place < at {
            continue;
        }
        if is_mac(place) {
            out.push_str("MAC");
            at = place + 17;
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns what differs between two bodies, or nothing.
pub(crate) fn bodies(recorded: &str, ours: &str, values: bool, roots: &[String]) -> Option<String> {
    let parsed = (
        serde_json::from_str::<Value>(recorded),
        serde_json::from_str::<Value>(ours),
    );
    match parsed {
        (Ok(recorded), Ok(ours)) => shapes(&recorded, &ours, "", values, roots),
        (Err(_), Err(_)) => {
            let same = normal(recorded.trim(), roots) == normal(ours.trim(), roots);
            (!same).then(|| format!("text '{}' became '{}'", recorded.trim(), ours.trim()))
        }
        _ => Some(format!("body '{recorded:.80}' became '{ours:.80}'")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn shapes(
    recorded: &Value,
    ours: &Value,
    path: &str,
    values: bool,
    roots: &[String],
) -> Option<String> {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => objects(a, b, path, values, roots),
        (Value::Array(a), Value::Array(b)) => lists(a, b, path, values, roots),
        _ if kind(recorded) != kind(ours) => {
            Some(format!("{path}: {} became {}", kind(recorded), kind(ours)))
        }
        (Value::String(a), Value::String(b)) if path.contains("errors") => {
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text
                    .trim()
                    .lines()
                    .map(|line| normal(line, roots))
                    .collect();
                lines.sort();
                lines
            };
            (sorted(a) != sorted(b)).then(|| format!("{path}: '{a}' became '{b}'"))
        }
        _ if values && recorded != ours => {
            let (a, b) = (recorded.to_string(), ours.to_string());
            (normal(&a, roots) != normal(&b, roots)).then(|| format!("{path}: {a} became {b}"))
        }
        _ => None,
    }
}

fn objects(
    a: &Map<String, Value>,
    b: &Map<String, Value>,
    path: &str,
    values: bool,
    roots: &[String],
) -> Option<String> {
    // A drive that was idle for a while says for how long; none of the simulated ones does.
    let counted = |key: &&String| *key != "idle_time_ns";
    let lost: Vec<&String> = a
        .keys()
        .filter(counted)
        .filter(|key| !b.contains_key(*key))
        .collect();
    let more: Vec<&String> = b
        .keys()
        .filter(counted)
        .filter(|key| !a.contains_key(*key))
        .collect();
    if !lost.is_empty() || !more.is_empty() {
        return Some(format!("{path}: without {lost:?}, with {more:?}"));
    }
    // In a list of pending values the key says whether the value can be compared.
    let volatile = a
        .get("key")
        .and_then(Value::as_str)
        .is_some_and(|key| VOLATILE.contains(&key));
    a.iter()
        .filter(|(key, _)| counted(key))
        .find_map(|(key, value)| {
            let compare = values && !volatile && !VOLATILE.contains(&key.as_str());
            shapes(value, &b[key], &format!("{path}/{key}"), compare, roots)
        })
}

fn lists(a: &[Value], b: &[Value], path: &str, values: bool, roots: &[String]) -> Option<String> {
    let name = |value: &Value| {
        IDENTITIES
            .iter()
            .find_map(|key| value.get(*key))
            .map(ToString::to_string)
    };
    let named = a.iter().chain(b).all(|value| name(value).is_some());
    let by_task = a.iter().chain(b).any(|value| value.get("upid").is_some());
    if !named || by_task {
        // Tasks and log lines come and go; one of each is compared.
        return match (a.first(), b.first()) {
            (Some(a), Some(b)) => shapes(a, b, &format!("{path}[]"), false, roots),
            (None, None) => None,
            (None, Some(_)) => Some(format!("{path}: an empty list has entries")),
            (Some(_), None) => Some(format!("{path}: a list is empty")),
        };
    }
    for value in a {
        match b.iter().find(|other| name(other) == name(value)) {
            None => {
                return Some(format!("{path}: no {}", name(value).unwrap_or_default()));
            }
            Some(other) => {
                let at = format!("{path}[{}]", name(value).unwrap_or_default());
                if let Some(text) = shapes(value, other, &at, values, roots) {
                    return Some(text);
                }
            }
        }
    }
    b.iter()
        .find(|value| !a.iter().any(|other| name(other) == name(value)))
        .map(|value| format!("{path}: also {}", name(value).unwrap_or_default()))
}
