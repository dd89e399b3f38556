//! `proxmove check`: whether everything a move needs is in place, without moving anything.
//!
//! Observing ([`cluster`], and `survey::hosts` for the storage hosts) is apart from judging ([`findings`], pure) and
//! from rendering ([`text`], pure). It writes nothing anywhere. Read next: `survey.rs`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cluster::{Api, ApiError};
use crate::config::{Config, Origin};
use crate::plan::Severity;
use crate::plan::check::hosts::{Side, address};
use crate::plan::check::zfs::{COMPLETE, TARGET_RIGHTS, pool_of};
use crate::plan::facts::zfs::{DatasetKind, Encryption, ZfsFacts, ZfsRights};
use crate::plan::facts::{HostFacts, HostKey, Hosts};
use crate::plan::rights::{Right, for_any_source, for_any_target, grant_command};
use crate::plan::route::{self, Place};
use crate::pve::id::ClusterAlias;
use crate::pve::inventory::{Node, Permissions, Release};
use crate::transfer::probe::with_causes;

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but worth knowing.
    Warn,
    /// A move would be refused or fail.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `proxmoverc`, `banana`, `root@node2 (local-ssd)`.
    pub subject: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What would make it better.
    pub remedy: Option<String>,
}

fn finding(
    subject: &str,
    level: Level,
    text: impl Into<String>,
    remedy: Option<String>,
) -> Finding {
    Finding {
        subject: subject.to_owned(),
        level,
        text: text.into(),
        remedy,
    }
}

/// What a cluster is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Guests leave it.
    Source,
    /// Guests come to it.
    Target,
    /// Both, or not known yet.
    Either,
}

/// What a cluster said.
#[derive(Clone, Debug)]
pub struct ClusterObserved {
    /// The cluster.
    pub alias: ClusterAlias,
    /// What it is wanted for.
    pub role: Role,
    /// Its release, or why it could not be asked: that covers reachability, certificate and login.
    pub release: Result<Release, String>,
    /// Its clock minus ours, in seconds.
    pub clock_skew: Result<i64, String>,
    /// Who is logged in.
    pub user: Result<String, String>,
    /// What they may do.
    pub permissions: Result<Permissions, String>,
    /// Its members.
    pub nodes: Result<Vec<Node>, String>,
}

/// Asks a cluster. Never fails: what it did not answer is part of what is observed.
pub async fn cluster(api: &dyn Api, role: Role) -> ClusterObserved {
    fn said<T>(answer: Result<T, ApiError>) -> Result<T, String> {
        answer.map_err(|error| with_causes(&error))
    }
    fn unasked<T>() -> Result<T, String> {
        Err("not asked".to_owned())
    }
    let release = said(api.release().await);
    if release.is_err() {
        // Each further call would wait as long for the same answer.
        return ClusterObserved {
            alias: api.alias().clone(),
            role,
            release,
            clock_skew: unasked(),
            user: unasked(),
            permissions: unasked(),
            nodes: unasked(),
        };
    }
    ClusterObserved {
        alias: api.alias().clone(),
        role,
        release,
        clock_skew: said(api.clock_skew_seconds().await),
        user: said(api.user().await),
        permissions: said(api.permissions().await),
        nodes: said(api.nodes().await),
    }
}

/// A storage host that was asked, and what for.
#[derive(Clone, Debug)]
pub struct HostAsked {
    /// The storages, such as `banana:local-ssd`.
    pub storages: Vec<String>,
    /// Where.
    pub key: HostKey,
}

/// Returns the hosts of all configured storages, each once.
pub fn hosts_of(config: &Config) -> Vec<HostAsked> {
    let mut asked: Vec<HostAsked> = Vec::new();
    for section in &config.storages {
        let key = HostKey::of(section);
        let mut name = format!("{}:{}", section.cluster, section.storage);
        if let Some(node) = &section.node {
            let _ = write!(name, "@{node}");
        }
        if let Origin::Derived(from) = &section.origin {
            let _ = write!(name, ", derived from {from}");
        }
        match asked.iter_mut().find(|host| host.key == key) {
            Some(host) => host.storages.push(name),
            None => asked.push(HostAsked {
                storages: vec![name],
                key,
            }),
        }
    }
    asked
}

/// Judges everything that was observed.
pub fn findings(
    config: &Config,
    clusters: &[ClusterObserved],
    asked: &[HostAsked],
    hosts: &Hosts,
) -> Vec<Finding> {
    let mut findings = of_config(config);
    for observed in clusters {
        findings.extend(of_cluster(observed));
    }
    for host in asked {
        findings.extend(of_host(host, hosts));
    }
    findings
}

fn of_config(config: &Config) -> Vec<Finding> {
    let counted = format!(
        "{} clusters, {} storages",
        config.clusters.len(),
        config.storages.len()
    );
    let mut findings = vec![finding("proxmoverc", Level::Ok, counted, None)];
    findings.extend(config.warnings.iter().map(|problem| {
        let key = problem
            .key
            .as_ref()
            .map(|key| format!(" {key}"))
            .unwrap_or_default();
        let text = format!("{}{key}: {}", problem.section, problem.message);
        finding("proxmoverc", Level::Warn, text, problem.hint.clone())
    }));
    findings
}

/// Tickets are refused when clocks differ by more than this many seconds (pve-access-control grants five minutes).
const SKEW_FAIL: u64 = 300;
/// From here on, times in notes and logs confuse people.
const SKEW_WARN: u64 = 30;
/// The oldest release proxmove knows the API of.
const OLDEST: Release = Release { major: 6, minor: 4 };

fn of_cluster(observed: &ClusterObserved) -> Vec<Finding> {
    let subject = observed.alias.as_str();
    let release = match &observed.release {
        Ok(release) => *release,
        Err(why) => {
            let remedy = format!("see 'api=' in [pve:{subject}] of proxmoverc");
            return vec![finding(subject, Level::Fail, why, Some(remedy))];
        }
    };
    let user = observed.user.as_deref().unwrap_or("?");
    let mut findings = vec![finding(
        subject,
        Level::Ok,
        format!("reached, logged in as {user}"),
        None,
    )];
    findings.push(if release < OLDEST {
        let text = format!(
            "PVE {release} is older than {OLDEST}, the oldest release that is known to work"
        );
        finding(
            subject,
            Level::Warn,
            text,
            Some("update it first".to_owned()),
        )
    } else {
        finding(subject, Level::Ok, format!("PVE {release}"), None)
    });
    findings.push(of_clock(subject, &observed.clock_skew));
    match &observed.nodes {
        Ok(nodes) => findings.extend(nodes.iter().map(|node| of_node(subject, node))),
        Err(why) => findings.push(unasked(subject, "its nodes", why)),
    }
    match &observed.permissions {
        Ok(permissions) => findings.extend(of_rights(observed, release, user, permissions)),
        Err(why) => findings.push(unasked(subject, "the rights", why)),
    }
    findings
}

fn unasked(subject: &str, what: &str, why: &str) -> Finding {
    finding(
        subject,
        Level::Warn,
        format!("{what} cannot be seen: {why}"),
        None,
    )
}

fn of_node(subject: &str, node: &Node) -> Finding {
    let name = &node.name;
    match (node.online, node.maintenance) {
        (true, false) => finding(subject, Level::Ok, format!("node {name} is online"), None),
        (true, true) => finding(
            subject,
            Level::Warn,
            format!("node {name} is in maintenance"),
            Some(format!(
                "ha-manager crm-command node-maintenance disable {name}"
            )),
        ),
        (false, _) => finding(
            subject,
            Level::Warn,
            format!("node {name} is offline; its guests cannot be moved"),
            Some("bring it up".to_owned()),
        ),
    }
}

fn of_clock(subject: &str, skew: &Result<i64, String>) -> Finding {
    let skew = match skew {
        Ok(skew) => *skew,
        Err(why) => return unasked(subject, "its clock", why),
    };
    let level = match skew.unsigned_abs() {
        0..=SKEW_WARN => Level::Ok,
        seconds if seconds <= SKEW_FAIL => Level::Warn,
        _ => Level::Fail,
    };
    let text = match skew {
        0 => "its clock agrees with this machine's".to_owned(),
        ahead if ahead > 0 => format!("its clock is {ahead} s ahead of this machine's"),
        behind => format!(
            "its clock is {} s behind this machine's",
            behind.unsigned_abs()
        ),
    };
    let remedy = (level != Level::Ok)
        .then(|| "synchronise both clocks (chrony, systemd-timesyncd)".to_owned());
    finding(subject, level, text, remedy)
}

/// The table of rights: one finding per right, the missing ones with the command that grants them.
fn of_rights(
    observed: &ClusterObserved,
    release: Release,
    user: &str,
    permissions: &Permissions,
) -> Vec<Finding> {
    let mut rights: Vec<Right> = Vec::new();
    if observed.role != Role::Target {
        rights.extend(for_any_source());
    }
    if observed.role != Role::Source {
        rights.extend(for_any_target(release));
    }
    rights.sort();
    rights.dedup_by(|a, b| a.path == b.path && a.privileges == b.privileges);
    rights
        .iter()
        .map(|right| {
            let privilege = right.privileges.first().copied().unwrap_or_default();
            let what = format!("{privilege} on {} (to {})", right.path, right.purpose);
            if right.held(user, permissions) {
                return finding(observed.alias.as_str(), Level::Ok, what, None);
            }
            // Rights on single guests and storages may be enough; the plan of a move knows exactly.
            let level = match right.path.as_str() {
                "/" | "/pool" | "/sdn/zones" => Level::Warn,
                _ if any_below(permissions, right) => Level::Warn,
                _ => Level::Fail,
            };
            let command = grant_command(user, &right.path, &[privilege]);
            finding(
                observed.alias.as_str(),
                level,
                format!("missing: {what}"),
                Some(command),
            )
        })
        .collect()
}

/// Says whether a right is held somewhere below its path.
fn any_below(permissions: &Permissions, right: &Right) -> bool {
    let below = format!("{}/", right.path.trim_end_matches('/'));
    permissions.0.iter().any(|(path, held)| {
        path.starts_with(&below)
            && right
                .privileges
                .iter()
                .any(|privilege| held.contains_key(*privilege))
    })
}

/// What only matters on a storage that guests come to.
const WRITES: &[&str] = &["path-not-writable", "zfs-right-missing"];

fn of_host(asked: &HostAsked, hosts: &Hosts) -> Vec<Finding> {
    let subject = format!("{} ({})", address(&asked.key), asked.storages.join("; "));
    let bad = crate::plan::check::hosts::all(Side::Target, &asked.key, hosts);
    let mut findings: Vec<Finding> = bad
        .iter()
        .map(|verdict| {
            let level = match verdict.severity {
                // A storage that guests only leave need not be writable.
                Severity::Refuse if WRITES.contains(&verdict.code) => Level::Warn,
                Severity::Refuse => Level::Fail,
                Severity::Warn => Level::Warn,
            };
            finding(
                &subject,
                level,
                &verdict.reason,
                Some(verdict.remedy.clone()),
            )
        })
        .collect();
    if let Some(Ok(host)) = hosts.get(&asked.key) {
        if bad.is_empty() {
            let free = host
                .temp
                .free
                .map(|free| format!(", {free} free"))
                .unwrap_or_default();
            let how = if host.temp.exists {
                "is writable"
            } else {
                "does not exist yet and can be made"
            };
            let text = format!("reached; {} {how}{free}", asked.key.temp);
            findings.push(finding(&subject, Level::Ok, text, None));
        }
        if let (Some(dataset), Some(zfs)) = (&asked.key.dataset, &host.zfs) {
            findings.extend(of_zfs(&subject, dataset, zfs));
        }
        findings.extend(of_porter(&subject, &asked.key, host));
        findings.push(of_ssh(&subject, host));
    }
    findings
}

/// What is in order about a dataset; what is not has a verdict.
fn of_zfs(subject: &str, dataset: &str, zfs: &ZfsFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(DatasetKind::Filesystem), Some("ONLINE")) = (zfs.kind, zfs.health.as_deref()) {
        let available = zfs
            .available
            .map(|available| format!(", {available} available"))
            .unwrap_or_default();
        let (level, encrypted, remedy) = match &zfs.encryption {
            None => (Level::Ok, String::new(), None),
            Some(Encryption { root, key_loaded }) if *key_loaded => (
                Level::Ok,
                format!(", encrypted with the key of {root}"),
                None,
            ),
            Some(Encryption { root, .. }) => (
                Level::Warn,
                format!(", encrypted, and the key of {root} is not loaded"),
                Some(format!("zfs load-key {root}")),
            ),
        };
        let text = format!(
            "dataset {dataset} is there{available}{encrypted}; pool {} is ONLINE",
            pool_of(dataset)
        );
        findings.push(finding(subject, level, text, remedy));
    }
    if let Some((major, minor)) = zfs.version.filter(|version| *version >= COMPLETE) {
        let text = format!("OpenZFS {major}.{minor}");
        findings.push(finding(subject, Level::Ok, text, None));
    }
    if let ZfsRights::Delegated { user, allowed, .. } = &zfs.rights
        && TARGET_RIGHTS.iter().all(|right| allowed.contains(*right))
    {
        let text = format!("{user} is not root, and may do there what is needed");
        findings.push(finding(subject, Level::Ok, text, None));
    }
    findings
}

fn of_porter(subject: &str, key: &HostKey, host: &HostFacts) -> Option<Finding> {
    let place = match key.dataset {
        Some(_) => Place::Zfs,
        None => Place::Directory,
    };
    let capability = route::between(place, place)?;
    Some(match route::tool(capability, host, host, false) {
        Ok((crate::transfer::Tool::Porter, _)) => {
            finding(subject, Level::Ok, "the porter can run there", None)
        }
        Ok((crate::transfer::Tool::Stock, why)) => {
            let remedy = "choose a 'temp' on a file system without noexec";
            finding(
                subject,
                Level::Warn,
                format!("copies would be made by {why}"),
                Some(remedy.to_owned()),
            )
        }
        Err(why) => finding(subject, Level::Fail, why.reason, Some(why.remedy)),
    })
}

fn of_ssh(subject: &str, host: &HostFacts) -> Finding {
    let (major, minor) = route::SCOPED_AGENT;
    match host.ssh {
        Some(version) if version >= route::SCOPED_AGENT => {
            let text = format!(
                "OpenSSH {}.{}: can send directly to another host",
                version.0, version.1
            );
            finding(subject, Level::Ok, text, None)
        }
        Some(version) => {
            let text = format!(
                "OpenSSH {}.{}: what it sends goes through this machine",
                version.0, version.1
            );
            finding(
                subject,
                Level::Warn,
                text,
                Some(format!("update it to {major}.{minor} or newer")),
            )
        }
        None => {
            let text = "no OpenSSH client: what it sends goes through this machine";
            finding(
                subject,
                Level::Warn,
                text,
                Some("install openssh-client there".to_owned()),
            )
        }
    }
}

/// Returns the findings as people read them, and a last line that counts.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut subject = "";
    for finding in findings {
        if finding.subject != subject {
            subject = &finding.subject;
            let _ = writeln!(out, "{subject}");
        }
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let _ = writeln!(out, "  {word}  {}", finding.text);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(out, "        -> {remedy}");
        }
    }
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    };
    let _ = writeln!(
        out,
        "{} ok, {} warnings, {} failures",
        count(Level::Ok),
        count(Level::Warn),
        count(Level::Fail)
    );
    out
}

/// Says whether anything would keep a move from working.
pub fn failed(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Fail)
}

#[cfg(test)]
mod tests;
