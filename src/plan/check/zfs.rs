//! ZFS on storage hosts: the pool, the dataset, its features, and what the login may do there.
//!
//! Pure. Judged once per dataset, not per volume; it never asks which engine will work there. Read next:
//! `../route/stream.rs`.

use super::hosts::{Side, command};
use crate::plan::Verdict;
use crate::plan::facts::zfs::{DatasetKind, ZfsFacts, ZfsRights};
use crate::plan::facts::{HostFacts, HostKey};

/// What a login that is not root needs on a dataset that is read from: snapshots are made, marked, held, sent, remembered
/// and removed.
pub const SOURCE_RIGHTS: &[&str] = &[
    "bookmark", "destroy", "hold", "mount", "release", "send", "snapshot", "userprop",
];

/// What it needs on a dataset that is written to.
pub const TARGET_RIGHTS: &[&str] = &[
    "create",
    "destroy",
    "hold",
    "mount",
    "receive",
    "refreservation",
    "release",
    "rollback",
    "snapshot",
    "userprop",
];

/// The oldest OpenZFS with everything proxmove makes use of: resumable receives, holds in streams, encryption.
pub const COMPLETE: (u32, u32) = (0, 8);

/// Returns all verdicts on a storage's dataset; none for a directory.
pub fn all(side: Side, key: &HostKey, host: &HostFacts) -> Vec<Verdict> {
    let Some(dataset) = key.dataset.as_deref() else {
        return Vec::new();
    };
    let Some(zfs) = &host.zfs else {
        return vec![missing(key, host)];
    };
    let pool = pool_of(dataset);
    if let Some(verdict) = pool_usable(pool, host, zfs) {
        return vec![verdict];
    }
    if let Some(verdict) = usable(dataset, host, zfs) {
        return vec![verdict];
    }
    let checks = [
        degraded(pool, host, zfs),
        read_only(side, pool, host, zfs),
        rights(side, dataset, host, zfs),
        old(host, zfs),
        not_resumable(side, pool, host, zfs),
    ];
    checks.into_iter().flatten().collect()
}

/// Returns the pool of a dataset.
pub fn pool_of(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

fn refuse(code: &'static str, reason: String, remedy: impl Into<String>) -> Verdict {
    Verdict::refuse("", code, reason, remedy)
}

fn missing(key: &HostKey, host: &HostFacts) -> Verdict {
    refuse(
        "zfs-missing",
        format!("there is no zfs on {}", host.address),
        format!(
            "install zfsutils-linux there, or see that '{} command -v zfs' finds it; or correct 'ssh' of the storage section",
            command(key)
        ),
    )
}

/// Returns what zfs complained about, to stand behind a reason.
fn complaint(zfs: &ZfsFacts) -> String {
    zfs.complaint
        .as_ref()
        .map(|complaint| format!(": {complaint}"))
        .unwrap_or_default()
}

fn pool_usable(pool: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    match zfs.health.as_deref() {
        None => Some(refuse(
            "pool-missing",
            format!(
                "pool {pool} cannot be seen on {}{}",
                host.address,
                complaint(zfs)
            ),
            format!("zpool import {pool} there, or correct 'path' of the storage section"),
        )),
        Some("ONLINE" | "DEGRADED") => None,
        Some(health) => Some(refuse(
            "pool-failed",
            format!("pool {pool} on {} is {health}", host.address),
            format!(
                "see zpool status -x {pool} there, and bring its devices back: zpool clear {pool}"
            ),
        )),
    }
}

fn usable(dataset: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    match zfs.kind {
        Some(DatasetKind::Filesystem) => None,
        Some(DatasetKind::Volume) => Some(refuse(
            "dataset-not-filesystem",
            format!(
                "{dataset} on {} is a zvol, not a file system that can hold zvols",
                host.address
            ),
            "correct 'path' of the storage section: zfs: and the dataset that holds the zvols ('pool' in storage.cfg)",
        )),
        None => Some(refuse(
            "dataset-missing",
            format!(
                "there is no dataset {dataset} on {}{}",
                host.address,
                complaint(zfs)
            ),
            format!(
                "correct 'path' of the storage section ('pool' in storage.cfg), or create it there: zfs create -p {dataset}"
            ),
        )),
    }
}

fn degraded(pool: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    (zfs.health.as_deref() == Some("DEGRADED")).then(|| {
        Verdict::warn(
            "",
            "pool-degraded",
            format!("pool {pool} on {} is DEGRADED", host.address),
            format!("see zpool status -x {pool} there, and replace what failed first"),
        )
    })
}

fn read_only(side: Side, pool: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    let why = match side {
        Side::Source => "snapshots cannot be made there",
        Side::Target => "nothing can be received there",
    };
    zfs.read_only.then(|| {
        refuse(
            "pool-read-only",
            format!(
                "pool {pool} on {} was imported read only: {why}",
                host.address
            ),
            format!("zpool export {pool} && zpool import {pool}"),
        )
    })
}

fn rights(side: Side, dataset: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    let ZfsRights::Delegated { user, allowed, .. } = &zfs.rights else {
        return None;
    };
    let needed = match side {
        Side::Source => SOURCE_RIGHTS,
        Side::Target => TARGET_RIGHTS,
    };
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|right| !allowed.contains(*right))
        .collect();
    let user = if user.is_empty() { "USER" } else { user };
    (!missing.is_empty()).then(|| {
        refuse(
            "zfs-right-missing",
            format!(
                "{user} is not root on {} and lacks there for {dataset}: {}",
                host.address,
                missing.join(", ")
            ),
            format!(
                "zfs allow {user} {} {dataset}; or log in as root",
                missing.join(",")
            ),
        )
    })
}

fn old(host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    let what = match zfs.version {
        Some(version) if version >= COMPLETE => return None,
        Some((major, minor)) => format!("has OpenZFS {major}.{minor}"),
        None => "does not say which OpenZFS it has".to_owned(),
    };
    Some(Verdict::warn(
        "",
        "zfs-old",
        format!(
            "{} {what}; before {}.{} streams may travel uncompressed, encrypted volumes cannot travel as they are, and \
             an interrupted stream may begin anew",
            host.address, COMPLETE.0, COMPLETE.1
        ),
        "update it, or move while the way between the hosts is quiet",
    ))
}

fn not_resumable(side: Side, pool: &str, host: &HostFacts, zfs: &ZfsFacts) -> Option<Verdict> {
    let lacks = zfs.features.is_some() && !zfs.has("extensible_dataset");
    (side == Side::Target && lacks).then(|| {
        Verdict::warn(
            "",
            "receive-not-resumable",
            format!(
                "pool {pool} on {} lacks the feature extensible_dataset, so an interrupted stream begins anew",
                host.address
            ),
            format!("zpool set feature@extensible_dataset=enabled {pool}"),
        )
    })
}
