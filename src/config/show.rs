//! What proxmove will work with, for `proxmove config show`: the file's sections and the derived ones.
//!
//! Pure: returns text, prints nothing, and never shows a secret. The text has the form of a proxmoverc, so that a
//! derived section can be copied into the file and changed there.

mod evacuate;

use std::fmt::Write;

use serde_json::{Value, json};

use super::{ClusterConfig, Config, Credentials, Origin, Problem, StorageConfig};

/// Returns all sections as text, each with where it comes from; `file` is the name of the proxmoverc.
pub fn text(config: &Config, file: &str) -> String {
    let mut out = String::new();
    for cluster in config.clusters.values() {
        entry(
            &mut out,
            "",
            &format!("pve:{}", cluster.alias),
            &cluster_lines(cluster),
            file,
        );
        for storage in storages_of(config, cluster) {
            let origin = origin(storage, file);
            entry(
                &mut out,
                "  ",
                &section_name(storage),
                &storage_lines(storage),
                &origin,
            );
        }
    }
    for evacuation in config.evacuations.values() {
        let name = format!("evacuate:{}", evacuation.cluster);
        entry(
            &mut out,
            "",
            &name,
            &evacuate::evacuate_lines(evacuation),
            file,
        );
    }
    for budget in &config.budgets {
        let name = format!("budget:{}", budget.name);
        entry(&mut out, "", &name, &evacuate::budget_lines(budget), file);
    }
    for warning in &config.warnings {
        let _ = writeln!(out, "; warning: {warning}");
    }
    out
}

/// Returns the same as a JSON object.
pub fn json(config: &Config, file: &str) -> Value {
    let object = |pairs: Vec<(&'static str, String)>| -> serde_json::Map<String, Value> {
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), Value::String(value)))
            .collect()
    };
    let clusters: Vec<Value> = config
        .clusters
        .values()
        .map(|cluster| {
            let mut entry = object(cluster_lines(cluster));
            entry.insert("alias".to_owned(), json!(cluster.alias.as_str()));
            entry.insert("origin".to_owned(), json!(file));
            Value::Object(entry)
        })
        .collect();
    let storages: Vec<Value> = config
        .clusters
        .values()
        .flat_map(|cluster| storages_of(config, cluster))
        .map(|storage| {
            let mut entry = object(storage_lines(storage));
            entry.insert("cluster".to_owned(), json!(storage.cluster.as_str()));
            entry.insert("storage".to_owned(), json!(storage.storage.as_str()));
            entry.insert(
                "node".to_owned(),
                json!(storage.node.as_ref().map(|node| node.as_str())),
            );
            entry.insert("derived".to_owned(), json!(storage.origin != Origin::File));
            entry.insert("origin".to_owned(), json!(origin(storage, file)));
            Value::Object(entry)
        })
        .collect();
    let evacuations: Vec<Value> = config
        .evacuations
        .values()
        .map(|evacuation| {
            let mut entry = object(evacuate::evacuate_lines(evacuation));
            entry.insert("cluster".to_owned(), json!(evacuation.cluster.as_str()));
            entry.insert("origin".to_owned(), json!(file));
            Value::Object(entry)
        })
        .collect();
    let budgets: Vec<Value> = config
        .budgets
        .iter()
        .map(|budget| {
            let mut entry = object(evacuate::budget_lines(budget));
            entry.insert("budget".to_owned(), json!(budget.name));
            entry.insert("origin".to_owned(), json!(file));
            Value::Object(entry)
        })
        .collect();
    let warnings: Vec<String> = config.warnings.iter().map(Problem::to_string).collect();
    json!({
        "clusters": clusters,
        "storages": storages,
        "evacuations": evacuations,
        "budgets": budgets,
        "warnings": warnings,
    })
}

fn entry(
    out: &mut String,
    indent: &str,
    name: &str,
    lines: &[(&'static str, String)],
    origin: &str,
) {
    let _ = writeln!(out, "{indent}[{name}] ; from {origin}");
    for (key, value) in lines {
        let _ = writeln!(out, "{indent}{key}={value}");
    }
    out.push('\n');
}

fn storages_of<'a>(
    config: &'a Config,
    cluster: &'a ClusterConfig,
) -> impl Iterator<Item = &'a StorageConfig> {
    config
        .storages
        .iter()
        .filter(|storage| storage.cluster == cluster.alias)
}

fn section_name(storage: &StorageConfig) -> String {
    let node = storage
        .node
        .as_ref()
        .map(|node| format!("@{node}"))
        .unwrap_or_default();
    format!("storage:{}:{}{node}", storage.cluster, storage.storage)
}

fn origin(storage: &StorageConfig, file: &str) -> String {
    match &storage.origin {
        Origin::File => file.to_owned(),
        Origin::Derived(what) => what.clone(),
    }
}

fn cluster_lines(cluster: &ClusterConfig) -> Vec<(&'static str, String)> {
    let login = match &cluster.credentials {
        Credentials::Password { user, password } => format!("{user}:{password}@"),
        Credentials::PasswordCommand { user, .. } => format!("{user}@"),
        Credentials::Token { .. } => String::new(),
    };
    let host = super::bracketed(&cluster.host);
    let mut lines = vec![("api", format!("https://{login}{host}:{}", cluster.port))];
    if !cluster.also.is_empty() {
        let hosts = cluster.also.iter();
        let hosts: Vec<String> = hosts
            .map(|(host, port)| format!("{}:{port}", super::bracketed(host)))
            .collect();
        lines.push(("also", hosts.join(", ")));
    }
    match &cluster.credentials {
        Credentials::Password { .. } => {}
        // The command is shown: it says where the password is, not what it is.
        Credentials::PasswordCommand { command, .. } => {
            lines.push(("password_command", command.clone()))
        }
        Credentials::Token { id, secret } => lines.push(("token", format!("{id}={secret}"))),
    }
    if !cluster.fingerprints.is_empty() {
        let shown = cluster.fingerprints.iter().map(|bytes| {
            let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            pairs.join(":")
        });
        lines.push(("fingerprint", shown.collect::<Vec<_>>().join(", ")));
    }
    lines.extend(cluster.ca.clone().map(|ca| ("ca", ca)));
    lines
}

fn storage_lines(storage: &StorageConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![("ssh", storage.ssh.to_string())];
    lines.extend(storage.peer.as_ref().map(|peer| ("peer", peer.to_string())));
    lines.push(("path", storage.path.to_string()));
    lines.push(("temp", storage.temp.clone()));
    lines
}
