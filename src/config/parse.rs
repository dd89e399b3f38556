//! Second pass: sections to a [`Config`], with every problem of the file and not only the first.
//!
//! Pure. It never asks a cluster or a host whether what it reads is true. Read next: `text.rs` (the first pass),
//! `value.rs` (the values one by one).

use std::collections::{BTreeMap, BTreeSet};

use super::text::{self, Section};
use super::value::{self, Wrong};
use super::{ClusterConfig, Config, Credentials, Origin, Problem, StorageConfig};
use crate::pve::id::{ClusterAlias, InvalidId, NodeName, StorageId};

const KINDS: [&str; 4] = ["pve", "storage", "evacuate", "budget"];
const CLUSTER_KEYS: [&str; 6] = [
    "api",
    "also",
    "token",
    "password_command",
    "fingerprint",
    "ca",
];
const STORAGE_KEYS: [&str; 4] = ["ssh", "path", "temp", "peer"];

/// Reads the text of a proxmoverc; `file` is its name in messages.
///
/// Fails with all problems there are: lines that cannot be read, then the sections in the order of the file. What is
/// merely odd is in the warnings of the result.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader {
        file,
        config: Config::default(),
        problems: Vec::new(),
    };
    let sections = text::sections(text, file, &mut reader.problems);
    let declared = declared_clusters(&sections);
    if declared.is_empty() {
        reader.problem(
            None,
            "has no cluster",
            Some("add [pve:ALIAS] with api=https://user@realm:PASSWORD@host:8006"),
        );
    }
    let mut seen = BTreeSet::new();
    for section in &sections {
        reader.section(section, &declared, &mut seen);
    }
    if reader.problems.is_empty() {
        Ok(reader.config)
    } else {
        Err(reader.problems)
    }
}

fn declared_clusters(sections: &[Section]) -> BTreeSet<String> {
    sections
        .iter()
        .filter_map(|section| section.name.as_deref()?.split_once(':'))
        .filter(|(kind, _)| kind.trim() == "pve")
        .map(|(_, alias)| alias.trim().to_owned())
        .collect()
}

/// What has been understood so far, and what was wrong.
struct Reader<'a> {
    file: &'a str,
    config: Config,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Adds a problem of the whole file.
    fn problem(&mut self, key: Option<&str>, message: &str, hint: Option<&str>) {
        self.problems.push(Problem {
            section: self.file.to_owned(),
            key: key.map(str::to_owned),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        });
    }

    fn section(
        &mut self,
        section: &Section,
        declared: &BTreeSet<String>,
        seen: &mut BTreeSet<String>,
    ) {
        let Some(name) = section.name.as_deref() else {
            for (key, _) in &section.entries {
                self.problem(
                    Some(key),
                    "stands above the first section",
                    Some("move it below a [pve:ALIAS]"),
                );
            }
            return;
        };
        let parts: Vec<&str> = name.split(':').map(str::trim).collect();
        let mut fields = Fields {
            section: format!("[{name}]"),
            entries: BTreeMap::new(),
            problems: Vec::new(),
        };
        if !seen.insert(parts.join(":")) {
            fields.problem(None, "appears twice", Some("merge the two".to_owned()));
        }
        match (parts[0], &parts[1..]) {
            ("pve", [alias]) => {
                fields.take_entries(section, &CLUSTER_KEYS);
                if let Some(cluster) = fields.cluster(alias, &mut self.config.warnings) {
                    self.config.clusters.insert(cluster.alias.clone(), cluster);
                }
            }
            ("storage", [alias, storage]) => {
                fields.take_entries(section, &STORAGE_KEYS);
                self.config
                    .storages
                    .extend(fields.storage(alias, storage, declared));
            }
            ("evacuate", [alias]) => {
                fields.take_entries(section, &Fields::evacuate_keys());
                if let Some(read) = fields.evacuate(alias, declared) {
                    self.config.evacuations.insert(read.cluster.clone(), read);
                }
            }
            ("budget", [name]) => {
                fields.take_entries(section, Fields::budget_keys());
                self.config.budgets.extend(fields.budget(name, declared));
            }
            ("evacuate", _) => fields.problem(
                None,
                "needs one cluster",
                Some("[evacuate:ALIAS]".to_owned()),
            ),
            ("budget", _) => {
                fields.problem(None, "needs one name", Some("[budget:NAME]".to_owned()));
            }
            ("pve", _) => fields.problem(None, "needs one alias", Some("[pve:ALIAS]".to_owned())),
            ("storage", _) => fields.problem(
                None,
                "needs a cluster and a storage",
                Some("[storage:ALIAS:NAME] or [storage:ALIAS:NAME@NODE]".to_owned()),
            ),
            (kind, _) => {
                let hint = nearest(kind, KINDS)
                    .unwrap_or_else(|| "[pve:ALIAS] or [storage:ALIAS:NAME]".to_owned());
                fields.problem(
                    None,
                    &format!("'{kind}' is not a kind of section"),
                    Some(hint),
                );
            }
        }
        self.problems.append(&mut fields.problems);
    }
}

/// One section's keys while they are being understood.
pub(super) struct Fields<'a> {
    section: String,
    pub(super) entries: BTreeMap<&'a str, &'a str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn problem(&mut self, key: Option<&str>, message: &str, hint: Option<String>) {
        self.problems.push(Problem {
            section: self.section.clone(),
            key: key.map(str::to_owned),
            message: message.to_owned(),
            hint,
        });
    }

    /// Takes the known keys, each once.
    fn take_entries(&mut self, section: &'a Section, known: &[&str]) {
        for (key, value) in &section.entries {
            if !known.contains(&key.as_str()) {
                let hint = nearest(key, known.iter().copied())
                    .unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
                self.problem(Some(key), "is not a key of this section", Some(hint));
            } else if self.entries.insert(key, value).is_some() {
                self.problem(Some(key), "appears twice", Some("keep one".to_owned()));
            }
        }
    }

    fn checked<T>(&mut self, key: &str, result: Result<T, Wrong>) -> Option<T> {
        result
            .map_err(|wrong| self.problem(Some(key), &wrong.message, wrong.hint))
            .ok()
    }

    /// Reads a key that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = *self.entries.get(key)?;
        self.checked(key, read(value))
    }

    /// Reads a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.problem(Some(key), "is missing", Some(format!("{key}={example}")));
        }
        self.optional(key, read)
    }

    fn id<T>(&mut self, parsed: Result<T, InvalidId>) -> Option<T> {
        parsed
            .map_err(|error| self.problem(None, &error.to_string(), None))
            .ok()
    }

    fn cluster(&mut self, alias: &str, warnings: &mut Vec<Problem>) -> Option<ClusterConfig> {
        let alias = self.id(alias.parse::<ClusterAlias>());
        let api = self.required(
            "api",
            "https://user@realm:PASSWORD@host:8006",
            value::api_url,
        );
        let token = self.optional("token", value::token);
        let command = self.optional("password_command", |text| match text {
            "" => Err(Wrong {
                message: "is empty".into(),
                hint: Some("password_command=pass show pve/apple".into()),
            }),
            text => Ok(text.to_owned()),
        });
        let also = self.optional("also", value::hosts);
        let fingerprints = self.optional("fingerprint", value::fingerprints);
        let ca = self.optional("ca", |text| {
            value::directory(text, "the absolute path of a PEM file")
        });
        let api = api?;
        if api.doubtful_encoding {
            warnings.push(Problem {
                section: self.section.clone(),
                key: Some("api".to_owned()),
                message: "the password has '%' escapes, which were decoded, beside characters that would be escaped too"
                    .to_owned(),
                hint: Some("write a literal '%' as %25".to_owned()),
            });
        }
        let credentials = self.credentials(api.user, api.password, token, command);
        Some(ClusterConfig {
            alias: alias?,
            host: api.host,
            port: api.port,
            credentials: credentials?,
            also: also.unwrap_or_default(),
            fingerprints: fingerprints.unwrap_or_default(),
            ca,
        })
    }

    /// Settles how to log in: exactly one of password, command and token.
    fn credentials(
        &mut self,
        user: Option<String>,
        password: Option<super::Secret>,
        token: Option<(String, super::Secret)>,
        command: Option<String>,
    ) -> Option<Credentials> {
        // A token or command that is there but broken has been reported; it still counts as the choice made.
        let has_token = self.entries.contains_key("token");
        let has_command = self.entries.contains_key("password_command");
        if usize::from(password.is_some()) + usize::from(has_token) + usize::from(has_command) > 1 {
            let second = if has_token {
                "token"
            } else {
                "password_command"
            };
            let hint = "keep one of: password in api=, password_command=, token=";
            self.problem(
                Some(second),
                "is a second way to log in",
                Some(hint.to_owned()),
            );
            return None;
        }
        if has_token {
            let (id, secret) = token?;
            if user.is_some_and(|user| !id.starts_with(&format!("{user}!"))) {
                let hint = "leave the user out of api=";
                self.problem(
                    Some("token"),
                    "belongs to another user than api= names",
                    Some(hint.to_owned()),
                );
                return None;
            }
            return Some(Credentials::Token { id, secret });
        }
        let Some(user) = user else {
            let hint = "api=https://user@realm:PASSWORD@host:8006, or add token=";
            self.problem(Some("api"), "names no user", Some(hint.to_owned()));
            return None;
        };
        match password {
            Some(password) => Some(Credentials::Password { user, password }),
            None if has_command => Some(Credentials::PasswordCommand {
                user,
                command: command?,
            }),
            None => {
                let hint = "add it to api=, or add password_command= or token=";
                self.problem(Some("api"), "has no password", Some(hint.to_owned()));
                None
            }
        }
    }

    /// Reads the name of a cluster that has a section.
    pub(super) fn declared_cluster(
        &mut self,
        alias: &str,
        declared: &BTreeSet<String>,
    ) -> Option<ClusterAlias> {
        let cluster = self.id(alias.parse::<ClusterAlias>())?;
        if !declared.contains(alias) {
            let hint = nearest(alias, declared.iter().map(String::as_str))
                .unwrap_or_else(|| format!("add [pve:{alias}]"));
            self.problem(None, &format!("there is no cluster '{alias}'"), Some(hint));
            return None;
        }
        Some(cluster)
    }

    fn storage(
        &mut self,
        alias: &str,
        place: &str,
        declared: &BTreeSet<String>,
    ) -> Option<StorageConfig> {
        let (storage, node) = match place.split_once('@') {
            Some((storage, node)) => (storage, Some(node)),
            None => (place, None),
        };
        let cluster = self.id(alias.parse::<ClusterAlias>());
        if cluster.is_some() && !declared.contains(alias) {
            let hint = nearest(alias, declared.iter().map(String::as_str))
                .unwrap_or_else(|| format!("add [pve:{alias}]"));
            self.problem(None, &format!("there is no cluster '{alias}'"), Some(hint));
        }
        let storage = self.id(storage.parse::<StorageId>());
        let node = node.map(|node| self.id(node.parse::<NodeName>()));
        let ssh = self.required("ssh", "root@host", value::ssh_address);
        let path = self.required(
            "path",
            "/DIRECTORY or zfs:POOL/DATASET",
            value::storage_path,
        );
        let temp = self.required("temp", "/DIRECTORY", |text| match text.split_once(':') {
            Some(("zfs", _)) => Err(Wrong {
                message: "is a dataset, and must be a plain directory".to_owned(),
                hint: Some("temp=/DIRECTORY".to_owned()),
            }),
            _ => value::directory(text, "temp=/DIRECTORY"),
        });
        let peer = self.optional("peer", value::ssh_address);
        Some(StorageConfig {
            cluster: cluster?,
            storage: storage?,
            node: match node {
                Some(node) => Some(node?),
                None => None,
            },
            ssh: ssh?,
            peer,
            path: path?,
            temp: temp?,
            origin: Origin::File,
        })
    }
}

/// Returns "did you mean 'NAME'?" for the known name that is nearest, when one is near.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min()
        // One slip for every three letters; more would suggest names that have nothing to do with the word.
        .filter(|(slips, name)| *slips <= (name.chars().count() / 3).max(1))
        .map(|(_, name)| format!("did you mean '{name}'?"))
}
