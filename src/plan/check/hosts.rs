//! Storage hosts: whether they can be reached and worked on.
//!
//! Pure. Judged once per host, not per guest. Read next: `zfs.rs`, `rights.rs`.

use super::zfs;
use crate::plan::Verdict;
use crate::plan::facts::{HostFacts, HostKey, Hosts};
use crate::units::Bytes;

/// Which half of a move a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// It is read from.
    Source,
    /// It is written to.
    Target,
}

/// The executable and the manifests of a few disks; far less is needed for most moves.
const ROOM: Bytes = Bytes::mib(128);

/// Returns all verdicts on one host.
pub fn all(side: Side, key: &HostKey, hosts: &Hosts) -> Vec<Verdict> {
    let verdicts = match hosts.get(key) {
        None => vec![unreachable(key, "it was not asked")],
        Some(Err(why)) => vec![unreachable(key, why)],
        Some(Ok(host)) => {
            let mut verdicts: Vec<Verdict> = path(side, key, host).into_iter().collect();
            verdicts.extend(temp(key, host));
            verdicts.extend(zfs::all(side, key, host));
            verdicts
        }
    };
    verdicts.into_iter().map(Verdict::of_request).collect()
}

fn unreachable(key: &HostKey, why: &str) -> Verdict {
    let at = address(key);
    Verdict::refuse(
        "",
        "host-unreachable",
        format!("host {at} cannot be asked: {why}"),
        format!(
            "try '{}'; see 'ssh=' of its storage section in proxmoverc",
            command(key)
        ),
    )
}

/// Returns `user@host:port` as far as it is configured.
pub fn address(key: &HostKey) -> String {
    let user = key
        .ssh
        .user
        .as_ref()
        .map(|user| format!("{user}@"))
        .unwrap_or_default();
    let port = key
        .ssh
        .port
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{user}{}{port}", key.ssh.host)
}

/// Returns the command that logs in there: ssh itself takes no port behind a colon.
pub(super) fn command(key: &HostKey) -> String {
    let port = key.ssh.port.map(|port| format!("-p {port} "));
    let user = key.ssh.user.as_ref().map(|user| format!("{user}@"));
    format!(
        "ssh {}{}{}",
        port.unwrap_or_default(),
        user.unwrap_or_default(),
        key.ssh.host
    )
}

fn path(side: Side, key: &HostKey, host: &HostFacts) -> Option<Verdict> {
    let directory = key.directory.as_deref()?;
    let facts = host.path.as_ref()?;
    if !facts.exists {
        return Some(Verdict::refuse(
            "",
            "path-missing",
            format!("there is no directory {directory} on {}", host.address),
            "correct 'path' of the storage section: the directory that holds one directory per VMID",
        ));
    }
    (side == Side::Target && !facts.writable).then(|| {
        Verdict::refuse(
            "",
            "path-not-writable",
            format!("{directory} on {} is not writable", host.address),
            "log in as a user who may write there ('ssh=' of the storage section)",
        )
    })
}

fn temp(key: &HostKey, host: &HostFacts) -> Option<Verdict> {
    let facts = &host.temp;
    let temp = &key.temp;
    if !facts.writable {
        let what = if facts.exists {
            "is not writable"
        } else {
            "does not exist and cannot be created"
        };
        return Some(Verdict::refuse(
            "",
            "temp-not-writable",
            format!("{temp} on {} {what}", host.address),
            format!(
                "{} mkdir -p {temp}, or choose another 'temp' in its storage section",
                command(key)
            ),
        ));
    }
    if facts.free.is_some_and(|free| free < ROOM) {
        return Some(Verdict::warn(
            "",
            "temp-small",
            format!(
                "{temp} on {} has {} free",
                host.address,
                facts.free.unwrap_or_default()
            ),
            "choose a 'temp' with more room in its storage section",
        ));
    }
    // A missing one is made when the first file goes there.
    None
}
