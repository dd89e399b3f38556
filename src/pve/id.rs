//! Ids: newtypes for everything that has a name or a number.
//!
//! Pure. An id that exists is well-formed: parsing is the only way to get one. Read next: `guest.rs`.

use std::fmt;
use std::str::FromStr;

/// A text that is not a well-formed id, with the kind of id that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {kind}{}", hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct InvalidId {
    /// What was expected: "VMID", "node name" ...
    pub kind: &'static str,
    /// What was given.
    pub text: String,
    /// What a valid one looks like.
    pub hint: Option<&'static str>,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str, hint: &'static str) -> InvalidId {
        InvalidId {
            kind,
            text: text.to_owned(),
            hint: Some(hint),
        }
    }
}

/// A guest's number, unique in its cluster: 100 to 999999999 (pve-common, `pve-vmid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(u32);

impl Vmid {
    /// Returns the VMID of that number, or an error outside 100..=999999999.
    pub fn new(number: u32) -> Result<Vmid, InvalidId> {
        match number {
            100..=999_999_999 => Ok(Vmid(number)),
            _ => Err(InvalidId::new(
                "VMID",
                &number.to_string(),
                "100 to 999999999",
            )),
        }
    }

    /// Returns the plain number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vmid {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Vmid, InvalidId> {
        let wrong = || InvalidId::new("VMID", text, "100 to 999999999");
        // A number's own parser would also take "+100" and "0100", which Proxmox VE does not.
        if text.starts_with(['+', '0']) {
            return Err(wrong());
        }
        Vmid::new(text.parse().map_err(|_| wrong())?)
    }
}

/// Declares a name-like id: a checked text with `Display`, `FromStr`, `AsRef<str>` and ordering.
macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $hint:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<$name, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(InvalidId::new($kind, text, $hint))
                }
            }
        }
    };
}

fn is_word(text: &str, also: &[char]) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(&c))
}

name_id!(
    /// A cluster's alias in proxmoverc (`[pve:ALIAS]`).
    ClusterAlias, "cluster alias", "letters, digits, '-', '_' and '.'", |text| is_word(text, &['-', '_', '.'])
);
name_id!(
    /// A node's name in its cluster.
    NodeName, "node name", "letters, digits and '-'", |text| is_word(text, &['-', '.'])
);
name_id!(
    /// A storage's id in storage.cfg (pve-storage, `pve-storage-id`).
    StorageId, "storage id", "letters, digits, '-', '_' and '.'", |text| is_word(text, &['-', '_', '.'])
);
name_id!(
    /// A resource pool's id; may be nested (`a/b`) from PVE 8.1.
    PoolId, "pool id", "letters, digits, '-', '_', '.' and '/'", |text| text.split('/').all(|part| {
        !matches!(part, "" | "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    })
);

/// A volume's full id, `STORAGE:volname`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Volid {
    /// The storage that holds the volume.
    pub storage: StorageId,
    /// The volume's name on that storage, such as `100/vm-100-disk-0.qcow2`.
    pub volname: String,
}

impl fmt::Display for Volid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.storage, self.volname)
    }
}

impl FromStr for Volid {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Volid, InvalidId> {
        let wrong = || InvalidId::new("volume id", text, "STORAGE:VOLUME");
        let (storage, volname) = text.split_once(':').ok_or_else(wrong)?;
        // The name becomes part of a path on a storage host: it must not climb out of the storage's directory.
        let climbs = volname.starts_with('/') || volname.split('/').any(|part| part == "..");
        if volname.is_empty() || climbs || volname.chars().any(char::is_control) {
            return Err(wrong());
        }
        Ok(Volid {
            storage: storage.parse().map_err(|_| wrong())?,
            volname: volname.to_owned(),
        })
    }
}

impl Volid {
    /// Returns the last part of the volume's name: the name of its file or zvol.
    pub fn last_name(&self) -> &str {
        last(&self.volname)
    }
}

fn last(volname: &str) -> &str {
    volname.rsplit('/').next().unwrap_or(volname)
}

/// Returns the guest a volume belongs to by its name: `100/anything`, `vm-100-disk-0`, `subvol-100-disk-0`, or the clone
/// `base-9000-disk-0/vm-100-disk-0`.
pub fn owner(volname: &str) -> Option<Vmid> {
    if let Some((parent, _)) = volname.rsplit_once('/')
        && let Ok(vmid) = last(parent).parse()
    {
        return Some(vmid);
    }
    let (kind, rest) = last(volname).split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    matches!(kind, "vm" | "base" | "subvol" | "basevol")
        .then(|| number.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests;
