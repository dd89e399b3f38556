//! What the target's release knows: its published schema where it is served, else a short table of when keys came.
//!
//! Pure. Never guesses that a key is fine when the schema says otherwise. Read next: `values.rs`.

use super::stem;
use crate::plan::facts::TargetFacts;
use crate::plan::{ConfigNote, Verdict};
use crate::pve::inventory::{ConfigSchema, Release};
use crate::pve::property::PropertyString;

/// Whether the target knows something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It does.
    Yes,
    /// It does not, and the guest is the same without.
    NoButHarmless,
    /// It does not, and the guest would be another one without.
    No,
}

/// Keys without which a guest is the same to those who use it.
const HARMLESS: &[&str] = &[
    "allow-ksm",
    "autostart",
    "ciupgrade",
    "migrate_downtime",
    "migrate_speed",
    "tags",
];

/// Sub-keys without which a guest is the same, by the key's stem.
const HARMLESS_PARTS: &[(&str, &[&str])] = &[
    (
        "agent",
        &[
            "freeze-fs",
            "freeze-fs-on-backup",
            "guest-fsfreeze",
            "fstrim_cloned_disks",
        ],
    ),
    ("vga", &["clipboard"]),
    ("efidisk", &["ms-cert"]),
    ("tpmstate", &["format"]),
    ("ide", DRIVE_PARTS),
    ("sata", DRIVE_PARTS),
    ("scsi", DRIVE_PARTS),
    ("virtio", DRIVE_PARTS),
];

const DRIVE_PARTS: &[&str] = &["backup", "replicate", "detect_zeroes"];

/// When keys came, for targets that do not serve their schema.
const SINCE: &[(&str, u32, u32)] = &[
    ("tpmstate", 7, 1),
    ("affinity", 7, 3),
    ("ciupgrade", 8, 0),
    ("amd-sev", 8, 3),
    ("virtiofs", 8, 4),
    ("allow-ksm", 9, 1),
    ("intel-tdx", 9, 1),
];

/// When sub-keys came, for targets that do not serve their schema.
const PARTS_SINCE: &[(&str, &str, u32, u32)] = &[
    ("efidisk", "efitype", 7, 1),
    ("efidisk", "pre-enrolled-keys", 7, 1),
    ("efidisk", "ms-cert", 9, 1),
    ("agent", "freeze-fs-on-backup", 7, 4),
    ("agent", "freeze-fs", 9, 1),
    ("agent", "guest-fsfreeze", 9, 1),
    ("usb", "mapping", 8, 0),
    ("vga", "clipboard", 8, 1),
    ("machine", "viommu", 8, 2),
    ("machine", "aw-bits", 9, 0),
    ("scsi", "product", 8, 2),
    ("scsi", "vendor", 8, 2),
    ("tpmstate", "format", 9, 0),
    ("net", "host-tunnel", 9, 2),
];

/// The target's knowledge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit<'a> {
    schema: Option<&'a ConfigSchema>,
    release: Release,
}

impl<'a> Fit<'a> {
    /// Returns what is known about a target.
    pub(crate) fn of(target: &'a TargetFacts) -> Fit<'a> {
        Fit {
            schema: target.schema.as_ref(),
            release: target.release,
        }
    }

    /// Says whether the target's schema is there and lists the key.
    pub(crate) fn lists(&self, key: &str) -> bool {
        self.schema
            .is_some_and(|schema| schema.entry(key).is_some())
    }

    /// Says whether the target knows a key.
    pub(crate) fn key(&self, key: &str) -> Known {
        let known = match self.schema {
            Some(schema) => schema.entry(key).is_some(),
            None => SINCE
                .iter()
                .find(|(name, ..)| *name == key || *name == stem(key))
                .is_none_or(|(_, major, minor)| self.at_least(*major, *minor)),
        };
        match known {
            true => Known::Yes,
            false if HARMLESS.contains(&key) => Known::NoButHarmless,
            false => Known::No,
        }
    }

    /// Says whether the target knows a sub-key of a property string.
    pub(crate) fn part(&self, key: &str, part: &str) -> Known {
        let stem = stem(key);
        let listed = self
            .schema
            .and_then(|schema| schema.entry(key))
            .and_then(Option::as_ref)
            .filter(|parts| !parts.is_empty());
        let known = match listed {
            Some(parts) => parts.contains(part),
            None => PARTS_SINCE
                .iter()
                .find(|(name, sub, ..)| *name == stem && *sub == part)
                .is_none_or(|(_, _, major, minor)| self.at_least(*major, *minor)),
        };
        let harmless = || {
            HARMLESS_PARTS
                .iter()
                .any(|(name, parts)| *name == stem && parts.contains(&part))
        };
        match known {
            true => Known::Yes,
            false if harmless() => Known::NoButHarmless,
            false => Known::No,
        }
    }

    /// Returns a value without the sub-keys the target does not know, and what is to be said about them.
    pub(crate) fn value(
        &self,
        guest: &str,
        key: &str,
        value: &str,
    ) -> (String, Vec<ConfigNote>, Vec<Verdict>) {
        let (mut notes, mut verdicts) = (Vec::new(), Vec::new());
        let mut properties = PropertyString::parse(value);
        let parts: Vec<String> = properties
            .parts
            .iter()
            .filter_map(|(part, _)| part.clone())
            .collect();
        let mut changed = false;
        // Only a property string has sub-keys; a plain text with a '=' in it (sshkeys) is left alone.
        for part in parts.iter().filter(|_| self.is_property_string(key)) {
            match self.part(key, part) {
                Known::Yes => {}
                Known::NoButHarmless => {
                    changed |= properties.remove(part);
                    notes.push(ConfigNote {
                        key: key.to_owned(),
                        action: "changed",
                        reason: format!(
                            "without '{part}', which PVE {} does not know",
                            self.release
                        ),
                    });
                }
                Known::No => verdicts.push(Verdict::refuse(
                    guest,
                    "key-unsupported",
                    format!(
                        "{key}: the target's PVE {} does not know '{part}'",
                        self.release
                    ),
                    format!("update the target, or remove '{part}' from {key}"),
                )),
            }
        }
        let value = if changed {
            properties.to_string()
        } else {
            value.to_owned()
        };
        (value, notes, verdicts)
    }

    fn is_property_string(&self, key: &str) -> bool {
        match self.schema.and_then(|schema| schema.entry(key)) {
            Some(parts) => parts.is_some(),
            None => PARTS_SINCE.iter().any(|(name, ..)| *name == stem(key)),
        }
    }

    /// Says whether the target's release is that one or newer.
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        self.release >= Release { major, minor }
    }
}
