//! The shapes on the wire: JSON values of Proxmox VE to the vocabulary of [`crate::pve`].
//!
//! Tolerant by law, because the server does not check its own answers: numbers come as texts and the other way round,
//! truth as `0`, `1`, `"1"` or `true`, and `null` means absent. A list entry that is not understood is skipped with a
//! debug line and never fails its list. Never asks a cluster. Read next: `wire/guest.rs`, `wire/inventory.rs`,
//! `wire/node.rs`, `wire/migration.rs`, `wire/ha.rs`, `wire/schema.rs`.

pub mod guest;
pub mod ha;
pub mod inventory;
pub mod migration;
pub mod node;
pub mod schema;

use serde_json::{Map, Value};

use crate::pve::inventory::Release;

/// Why a value could not be decoded; the client adds the cluster and the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Odd(pub String);

/// One JSON object, read tolerantly.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a>(pub &'a Map<String, Value>);

impl<'a> Entry<'a> {
    /// Wraps an object; anything else is odd.
    pub fn of(value: &'a Value) -> Result<Entry<'a>, Odd> {
        value
            .as_object()
            .map(Entry)
            .ok_or_else(|| Odd(format!("an object was expected, not {}", kind(value))))
    }

    /// Returns the value of `key`; `null` is absent.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns a scalar as text; the empty text is absent.
    pub fn text(&self, key: &str) -> Option<String> {
        self.value(key)
            .and_then(text)
            .filter(|text| !text.is_empty())
    }

    /// Returns a count from a number, a text or a fraction; a negative one is 0.
    pub fn count(&self, key: &str) -> Option<u64> {
        self.value(key).and_then(count)
    }

    /// Returns a number with decimals from a number or a text.
    pub fn fraction(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|number: &f64| number.is_finite())
    }

    /// Returns a truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.value(key).and_then(flag)
    }

    /// Returns an id from a text or number; `None` when it is missing or not well-formed.
    pub fn id<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    /// Returns the sub-object of `key`.
    pub fn entry(&self, key: &str) -> Option<Entry<'a>> {
        self.value(key).and_then(Value::as_object).map(Entry)
    }

    /// Returns all keys and values, `null` ones left out.
    pub fn fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.0.iter().filter(|(_, value)| !value.is_null())
    }
}

/// Returns a scalar as text, numbers as they were written; `None` for lists and objects.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(u8::from(*truth).to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns a count from a number, a text or a fraction; a negative one is 0.
pub fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(clamp)),
        Value::String(text) => {
            let text = text.trim();
            let fraction = || text.parse::<f64>().ok().filter(|n| n.is_finite());
            text.parse().ok().or_else(|| fraction().map(clamp))
        }
        Value::Bool(truth) => Some(u64::from(*truth)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn clamp(number: f64) -> u64 {
    // `as` saturates: negative numbers become 0.
    number as u64
}

/// Returns a truth value from `1`, `"0"`, `true`, `"yes"` or the empty text (Perl's false).
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) => match text.trim() {
            "" | "0" | "no" | "off" | "false" => Some(false),
            "1" | "yes" | "on" | "true" => Some(true),
            other => other.parse::<f64>().ok().map(|number| number != 0.0),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Decodes a list entry by entry; an entry that `decode` does not understand is skipped with a debug line.
///
/// `null` is an empty list, a single object a list of one (the log of an unknown task comes like that).
pub fn list<T>(
    value: &Value,
    what: &str,
    decode: impl Fn(Entry<'_>) -> Option<T>,
) -> Result<Vec<T>, Odd> {
    let single;
    let entries = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(entries) => entries.as_slice(),
        Value::Object(_) => {
            single = [value.clone()];
            &single[..]
        }
        other => return Err(Odd(format!("a list was expected, not {}", kind(other)))),
    };
    let mut decoded = Vec::with_capacity(entries.len());
    for entry in entries {
        match Entry::of(entry).ok().and_then(&decode) {
            Some(item) => decoded.push(item),
            None => log::debug!("skipping an entry in the list of {what}: {entry}"),
        }
    }
    Ok(decoded)
}

/// Decodes `GET /version`: the release of the answering node.
pub fn release(value: &Value) -> Result<Release, Odd> {
    let entry = Entry::of(value)?;
    // `release` is "8.4"; the newest 6.x and 7.x say "7.4" there as well, and "7.4-17" in `version`.
    entry
        .id("release")
        .or_else(|| entry.id("version"))
        .ok_or_else(|| Odd("no release in the version".to_owned()))
}

/// Decodes `GET /cluster/nextid`, a text in practice although the schema says integer.
pub fn vmid(value: &Value) -> Result<crate::pve::id::Vmid, Odd> {
    text(value)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Odd(format!("not a VMID: {value}")))
}

/// Splits Proxmox VE's lists in texts (`a,b`, `a;b`, `a b`).
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';', ' ']).filter(|word| !word.is_empty())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
