//! Property strings: Proxmox VE's `value,key=value,...` notation.
//!
//! Pure. Keeps the order and every key it does not know. Read next: `drive.rs`.

use std::fmt;

/// An ordered list of `key=value` parts, the first of which may have no key (`local:100/disk.raw,size=4G`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyString {
    /// The parts in their order; the key is `None` for a bare value.
    pub parts: Vec<(Option<String>, String)>,
}

impl PropertyString {
    /// Parses a property string. Never fails: what has no `=` is a bare value.
    pub fn parse(text: &str) -> PropertyString {
        let parts = text
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (Some(key.to_owned()), value.to_owned()),
                None => (None, part.to_owned()),
            })
            .collect();
        PropertyString { parts }
    }

    /// Returns the value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.parts
            .iter()
            .find(|(k, _)| k.as_deref() == Some(key))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the first bare value.
    pub fn bare(&self) -> Option<&str> {
        self.parts
            .iter()
            .find(|(key, _)| key.is_none())
            .map(|(_, value)| value.as_str())
    }

    /// Sets `key`, keeping its place when it is there already.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self
            .parts
            .iter_mut()
            .find(|(k, _)| k.as_deref() == Some(key))
        {
            Some(part) => part.1 = value,
            None => self.parts.push((Some(key.to_owned()), value)),
        }
    }

    /// Removes `key`; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.parts.len();
        self.parts.retain(|(k, _)| k.as_deref() != Some(key));
        self.parts.len() != before
    }
}

impl fmt::Display for PropertyString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.parts.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match key {
                Some(key) => write!(f, "{key}={value}")?,
                None => f.write_str(value)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
