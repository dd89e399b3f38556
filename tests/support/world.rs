//! A stage from a scenario file, and the real program run against it.
//!
//! A [`Case`] names only what differs from `tests/scenarios/base.json`. It never judges what the program does: the
//! suites do. Read next: `tests/refusals.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use proxmove::sim::host::Server;
use proxmove::sim::stage::{Stage, StageSettings};
use proxmove::sim::world::scenario::{ClusterSpec, Pace, Scenario};
use serde::Deserialize;
use serde_json::Value;

/// Longer than any run here takes; a run that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What is asked for when a case says nothing else.
pub const CLASSIC: &str = "apple banana node2 local-ssd web1";

/// One scenario: what differs from the base, and what is typed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub about: String,
    /// The command lines that are refused.
    pub refused: Vec<String>,
    /// Command lines that are not refused in the same world: the contrast. With -n.
    pub allowed: Vec<String>,
    /// The exit code of those refused.
    pub exit: i32,
    /// Merged into the source cluster.
    pub source: Value,
    /// Merged into the target cluster.
    pub target: Value,
    /// Merged into the source's first guest.
    pub guest: Value,
    /// More guests of the source; each is merged into a copy of the first one.
    pub more_guests: Vec<Value>,
    /// Changes to proxmoverc: in a section, the first occurrence of a text becomes another one.
    pub edits: Vec<Edit>,
    /// Files below the clusters' directory, each with that many bytes that are not zero.
    pub files: BTreeMap<String, u64>,
    /// Hosts (`CLUSTER-NODE`) whose key the operator does not know.
    pub strangers: Vec<String>,
    /// Hosts that are down.
    pub down: Vec<String>,
    /// More that must never be shown, beside the passwords and token secrets of the clusters.
    pub secrets: Vec<String>,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            about: String::new(),
            refused: vec![CLASSIC.to_owned()],
            allowed: Vec::new(),
            exit: 4,
            source: Value::Null,
            target: Value::Null,
            guest: Value::Null,
            more_guests: Vec::new(),
            edits: Vec::new(),
            files: BTreeMap::new(),
            strangers: Vec::new(),
            down: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

/// One change to proxmoverc. `{stage}` stands for the stage's directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The section's header, without its brackets.
    pub section: String,
    /// What is there.
    pub find: String,
    /// What shall be there.
    pub replace: String,
}

/// A stage and what the operator knows about it.
pub struct World {
    pub stage: Stage,
    /// The directory everything is in.
    pub root: PathBuf,
    /// What must never be shown.
    pub secrets: Vec<String>,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Returns the directory of the scenarios.
pub fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// Merges a patch into a value, as RFC 7396 describes it.
pub fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl Case {
    /// Reads a case from its file.
    pub fn read(path: &Path) -> Case {
        let text = fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns the two clusters.
    pub fn scenario(&self) -> Scenario {
        let base = fs::read_to_string(scenarios().join("base.json")).unwrap();
        let mut base: Value = serde_json::from_str(&base).unwrap();
        let mut guest = base["guest"].take();
        merge(&mut guest, &self.guest);
        let mut guests = vec![guest.clone()];
        for patch in &self.more_guests {
            let mut more = guest.clone();
            merge(&mut more, patch);
            guests.push(more);
        }
        let mut clusters = Vec::new();
        for (name, patch) in [("source", &self.source), ("target", &self.target)] {
            let mut cluster = base[name].take();
            if name == "source" {
                cluster["guests"] = Value::Array(guests.clone());
            }
            merge(&mut cluster, patch);
            let spec: ClusterSpec = serde_json::from_value(cluster).unwrap();
            clusters.push(spec);
        }
        Scenario {
            clusters,
            pace: Pace::quick(),
        }
    }

    /// Starts it.
    pub async fn start(&self, server: Server) -> World {
        let scenario = self.scenario();
        let users = scenario.clusters.iter().flat_map(|cluster| &cluster.users);
        let secrets = users
            .flat_map(|user| {
                let tokens = user.tokens.iter().map(|token| token.secret.clone());
                tokens.chain([user.password.clone()])
            })
            .chain(self.secrets.clone())
            .filter(|secret| !secret.is_empty())
            .collect();
        let mut stage = Stage::start(StageSettings {
            scenario,
            server,
            seed: 20,
            hot_bytes: Some(4 << 20),
            filled: 0.5,
        })
        .await
        .unwrap();
        let root = stage.home.parent().unwrap().to_owned();
        for (name, bytes) in &self.files {
            let path = stage.simulation.directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = fs::File::create(path).unwrap();
            let bytes = vec![0xa5; usize::try_from(*bytes).unwrap()];
            file.write_all(&bytes).unwrap();
            // What a file occupies is certain only when it is on its disk.
            file.sync_all().unwrap();
        }
        let text = self.edited(fs::read_to_string(stage.proxmoverc()).unwrap(), &root);
        fs::write(stage.proxmoverc(), text).unwrap();
        let known = stage.home.join(".ssh/known_hosts");
        for name in &self.strangers {
            let line = &stage.hosts[name].known_hosts_line;
            let text = fs::read_to_string(&known).unwrap();
            assert!(text.contains(line.as_str()));
            fs::write(&known, text.replace(line.as_str(), "")).unwrap();
        }
        for name in &self.down {
            // Its address stays in the map's place: the texts are normalised with it.
            let host = stage.hosts.remove(name).unwrap();
            host.stop().await;
        }
        World {
            stage,
            root,
            secrets,
        }
    }

    fn edited(&self, mut text: String, root: &Path) -> String {
        for edit in &self.edits {
            let header = format!("[{}]", edit.section);
            let section = text
                .find(&header)
                .unwrap_or_else(|| panic!("no {header} in\n{text}"));
            let place = text[section..]
                .find(&edit.find)
                .unwrap_or_else(|| panic!("no {} in {header} of\n{text}", edit.find));
            let place = section + place;
            let replacement = edit.replace.replace("{stage}", root.to_str().unwrap());
            text.replace_range(place..place + edit.find.len(), &replacement);
        }
        text
    }
}

/// Everything below a directory: each path with what it is. Directories tell by their time when something in them was
/// made, even when it is gone again.
pub type Listing = BTreeMap<PathBuf, (bool, u64, i64, i64)>;

/// Lists everything below a directory.
pub fn listing(root: &Path) -> Listing {
    let mut all = Listing::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        // A directory's size says nothing, and differs between file systems.
        let size = if meta.is_dir() { 0 } else { meta.len() };
        all.insert(path, (meta.is_dir(), size, meta.mtime(), meta.mtime_nsec()));
    }
    all
}

impl World {
    /// Returns the program, ready to run in the operator's home, with nobody at a terminal.
    pub fn program(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_proxmove"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.stage.home)
            .env("TZ", "UTC")
            .current_dir(&self.stage.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end, and looks for secrets in what it said.
    pub async fn run(&self, line: &str) -> Run {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run_words(&words).await
    }

    /// The same, with arguments that are split already.
    pub async fn run_words(&self, words: &[&str]) -> Run {
        let mut command = self.program();
        let output = tokio::time::timeout(PATIENCE, command.args(words).output())
            .await
            .unwrap_or_else(|_| panic!("{words:?} does not end"))
            .unwrap();
        let run = Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        self.has_no_secret(&run.stdout);
        self.has_no_secret(&run.stderr);
        run
    }

    /// Panics when a text holds one of the passwords or token secrets.
    pub fn has_no_secret(&self, text: &str) {
        for secret in &self.secrets {
            assert!(!text.contains(secret.as_str()), "a secret is shown: {text}");
        }
    }

    /// Returns a text with words for what differs between runs: ports, paths, keys, the user.
    pub fn plain(&self, text: &str) -> String {
        let mut text = text.replace(self.root.to_str().unwrap(), "{stage}");
        for cluster in &self.stage.simulation.clusters {
            let hex: Vec<String> = cluster
                .fingerprint
                .iter()
                .map(|b| format!("{b:02X}"))
                .collect();
            text = text
                .replace(
                    &cluster.address.to_string(),
                    &format!("{{{}}}", cluster.alias),
                )
                .replace(
                    &hex.join(":"),
                    &format!("{{fingerprint of {}}}", cluster.alias),
                );
        }
        if let Some(host) = self.stage.hosts.values().next() {
            text = text.replace(&format!("{}@127.0.0.1", host.user), "{user}@127.0.0.1");
        }
        for (name, host) in &self.stage.hosts {
            text = text
                .replace(&format!("127.0.0.1:{}", host.port), &format!("{{{name}}}"))
                .replace(
                    &format!(" {} ", host.port),
                    &format!(" {{port of {name}}} "),
                )
                .replace(
                    &format!("[127.0.0.1]:{}", host.port),
                    &format!("[{{{name}}}]"),
                );
        }
        let text = masked(&text, "SHA256:", "{key}", |c| {
            c.is_ascii_alphanumeric() || "+/".contains(c)
        });
        let text = masked(&text, "ssh -p ", "{port}", |c| c.is_ascii_digit());
        masked(&text, "127.0.0.1:", "{port}", |c| c.is_ascii_digit())
    }

    /// Returns what was written through the API, as lines.
    pub fn writes(&self) -> Vec<String> {
        let writes = self.stage.simulation.faults().writes();
        writes
            .iter()
            .map(|write| format!("{} {} {}", write.cluster, write.method, write.path))
            .collect()
    }

    /// Returns whether a guest runs; `None` when there is none of that number.
    pub fn runs(&self, cluster: &str, vmid: u32) -> Option<bool> {
        let world = self.stage.simulation.world();
        let cluster = world.clusters.iter().find(|known| known.alias == cluster)?;
        Some(cluster.guests.get(&vmid)?.run.is_some())
    }

    /// Returns a guest's configuration.
    pub fn config(&self, cluster: &str, name: &str) -> Option<BTreeMap<String, String>> {
        let vmid = self.stage.vmid(cluster, name)?;
        let world = self.stage.simulation.world();
        let cluster = world.clusters.iter().find(|known| known.alias == cluster)?;
        Some(cluster.guests[&vmid].config.clone())
    }

    /// Panics unless both clusters and the disks are as they were.
    pub fn is_untouched(&self, before: &Listing, what: &str) {
        assert_eq!(self.writes(), Vec::<String>::new(), "{what} has written");
        let after = listing(&self.root);
        let changed: Vec<&PathBuf> = after
            .iter()
            .filter(|(path, facts)| before.get(*path) != Some(facts))
            .map(|(path, _)| path)
            .chain(before.keys().filter(|path| !after.contains_key(*path)))
            .collect();
        assert!(changed.is_empty(), "{what} has changed {changed:?}");
    }
}

/// Puts `word` for the characters that follow each `mark`, as long as `inside` holds.
fn masked(text: &str, mark: &str, word: &str, inside: impl Fn(char) -> bool) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(&inside);
        out.push_str(mark);
        if rest.len() < part.len() {
            out.push_str(word);
        }
        out.push_str(rest);
    }
    out
}
