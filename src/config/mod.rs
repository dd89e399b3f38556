//! proxmoverc: what the operator configured, as values.
//!
//! Reading is done in two passes: text to sections, sections to [`Config`]. All problems are collected, each with its
//! section, key and a hint. Pure apart from [`load`]; it never asks a cluster (what can be derived from the API is
//! derived in `derive.rs` from values). No secret is ever displayed. Read next: `parse.rs`, `derive.rs`.

use std::collections::BTreeMap;
use std::fmt;

use crate::pve::id::{ClusterAlias, NodeName, StorageId};

/// A text that is never shown: `Debug` and `Display` print stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Returns the secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything proxmoverc says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[pve:ALIAS]`.
    pub clusters: BTreeMap<ClusterAlias, ClusterConfig>,
    /// `[storage:ALIAS:NAME[@NODE]]`, in the order of the file.
    pub storages: Vec<StorageConfig>,
    /// What is odd but usable.
    pub warnings: Vec<Problem>,
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Its alias.
    pub alias: ClusterAlias,
    /// Host name or address of the API.
    pub host: String,
    /// Port of the API; 8006 unless the URL says otherwise.
    pub port: u16,
    /// How to log in.
    pub credentials: Credentials,
    /// SHA-256 of the server's certificate, 32 bytes; pins exactly this one.
    pub fingerprint: Option<[u8; 32]>,
    /// Path of a PEM file with the CA to trust.
    pub ca: Option<String>,
}

/// How to log in to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// `user@realm` and its password, out of the URL.
    Password {
        /// `user@realm`.
        user: String,
        /// The password, decoded.
        password: Secret,
    },
    /// `user@realm` and a command whose first output line is the password.
    PasswordCommand {
        /// `user@realm`.
        user: String,
        /// Run by `sh -c`.
        command: String,
    },
    /// An API token.
    Token {
        /// `user@realm!name`.
        id: String,
        /// Its secret.
        secret: Secret,
    },
}

/// Where to reach a machine by SSH; what is left out is found in ~/.ssh/config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshAddress {
    /// Login name.
    pub user: Option<String>,
    /// Host name, address, or an alias of ~/.ssh/config.
    pub host: String,
    /// Port.
    pub port: Option<u16>,
}

/// Where a storage keeps its volumes on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoragePath {
    /// `path=/dir`: the directory that holds one directory per VMID.
    Directory(String),
    /// `path=zfs:pool/dataset`.
    Zfs(String),
}

/// Where a storage section comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written in proxmoverc.
    File,
    /// Derived from the API; the text says from what.
    Derived(String),
}

/// One storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterAlias,
    /// Its id in storage.cfg.
    pub storage: StorageId,
    /// The only node it exists on; `None` for all nodes.
    pub node: Option<NodeName>,
    /// How the operator's machine reaches its host.
    pub ssh: SshAddress,
    /// How other storage hosts reach its host, when that differs.
    pub peer: Option<SshAddress>,
    /// Where the volumes are.
    pub path: StoragePath,
    /// A plain directory for proxmove's own files.
    pub temp: String,
    /// File or API.
    pub origin: Origin,
}

impl Config {
    /// Returns the section for a storage on a node: the one for exactly this node, else the one for all nodes.
    pub fn storage(
        &self,
        cluster: &ClusterAlias,
        storage: &StorageId,
        node: &NodeName,
    ) -> Option<&StorageConfig> {
        let mut candidates: Vec<_> = self
            .storages
            .iter()
            .filter(|entry| entry.cluster == *cluster && entry.storage == *storage)
            .filter(|entry| entry.node.as_ref().is_none_or(|at| at == node))
            .collect();
        candidates.sort_by_key(|entry| entry.node.is_none());
        candidates.first().copied()
    }
}

/// One thing that is wrong or odd in proxmoverc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `[storage:banana:ssd]`, or the file's name for problems of the whole file.
    pub section: String,
    /// The key, when one is to blame.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.section)?;
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}
