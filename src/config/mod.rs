//! proxmoverc: what the operator configured, as values.
//!
//! Reading is done in two passes: text to sections, sections to [`Config`]. All problems are collected, each with its
//! section, key and a hint. Pure apart from [`load`]; it never asks a cluster (what can be derived from the API is
//! derived in `derive.rs` from values), never runs a `password_command`, never reads the environment. No secret is ever
//! displayed. Read next: `parse.rs`, `derive.rs`, `show.rs`.

pub mod derive;
pub mod evacuate;
mod parse;
pub mod show;
mod text;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use parse::parse;

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
    /// `[evacuate:ALIAS]`.
    pub evacuations: BTreeMap<ClusterAlias, evacuate::EvacuateConfig>,
    /// `[budget:NAME]`, in the order of the file.
    pub budgets: Vec<evacuate::BudgetConfig>,
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
    /// Other nodes that serve the same API, for when the first does not answer.
    pub also: Vec<(String, u16)>,
    /// SHA-256 of the servers' certificates, 32 bytes each; pins exactly these. Empty for none.
    pub fingerprints: Vec<[u8; 32]>,
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

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&bracketed(&self.host))?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Returns a host as it stands in front of a port: an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl fmt::Display for StoragePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoragePath::Directory(path) => f.write_str(path),
            StoragePath::Zfs(dataset) => write!(f, "zfs:{dataset}"),
        }
    }
}

/// Why there is no configuration. Display is a lowercase fragment without its source or its problems.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file can be read, but not be used.
    #[error("{} has {} problem{}", path.display(), problems.len(), if problems.len() == 1 { "" } else { "s" })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them: lines that cannot be read, then the sections in the order of the file.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// Returns all problems of the file.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Read { .. } => &[],
            ConfigError::Invalid { problems, .. } => problems,
        }
    }
}

/// Returns where the configuration is unless `--config` names another file.
pub fn default_path(home: &Path) -> PathBuf {
    home.join(".proxmoverc")
}

/// Reads a proxmoverc; reads nothing else and runs nothing.
///
/// Fails with all problems of the file at once. A file that others may read although it holds a password or a token
/// is a warning, because the original never minded.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let cannot_read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(cannot_read)?;
    let mode = file.metadata().map_err(cannot_read)?.permissions().mode();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(cannot_read)?;
    let name = path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let invalid = |problems| ConfigError::Invalid {
        path: path.to_owned(),
        problems,
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let lines = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        invalid(vec![Problem {
            section: name.clone(),
            key: None,
            message: format!("line {lines} is not UTF-8"),
            hint: Some(
                "save it as UTF-8, or write such characters of a password as %XX of their UTF-8"
                    .to_owned(),
            ),
        }])
    })?;
    let mut config = parse(&text, &name).map_err(invalid)?;
    // Read by the group or by anybody: 0o044.
    if mode & 0o044 != 0 && config.holds_secret() {
        config.warnings.push(Problem {
            section: name,
            key: None,
            message: "holds a password or token and can be read by others".to_owned(),
            hint: Some(format!("chmod 600 {}", path.display())),
        });
    }
    Ok(config)
}

impl Config {
    fn holds_secret(&self) -> bool {
        self.clusters
            .values()
            .any(|cluster| match cluster.credentials {
                Credentials::Password { .. } | Credentials::Token { .. } => true,
                Credentials::PasswordCommand { .. } => false,
            })
    }

    /// Adds a derived section, unless a section covers that storage on that node already. A repeat is harmless.
    ///
    /// Returns whether it was added.
    pub fn add_derived(&mut self, section: StorageConfig) -> bool {
        let covered = match &section.node {
            Some(node) => self
                .storage(&section.cluster, &section.storage, node)
                .is_some(),
            None => self
                .storages
                .iter()
                .any(|entry| entry.cluster == section.cluster && entry.storage == section.storage),
        };
        if !covered {
            self.storages.push(section);
        }
        !covered
    }

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
