//! The state a guest is in: what must be brought to an end before it can move.
//!
//! Pure. Read next: `devices.rs`.

use crate::plan::Verdict;
use crate::plan::facts::{TargetFacts, WantedGuest};
use crate::plan::mark::{CLONING, CREATING, MIGRATED};
use crate::pve::guest::Power;
use crate::pve::id::NodeName;

/// Returns all verdicts on a guest's state, but for its [`snapshots`] and for HA (`plan/ha.rs`).
pub fn all(name: &str, guest: &WantedGuest) -> Vec<Verdict> {
    let checks: [fn(&str, &WantedGuest) -> Option<Verdict>; 8] = [
        locked, suspended, pending, replicated, template, odd_status, firewalled, name_fits,
    ];
    checks
        .iter()
        .filter_map(|check| check(name, guest))
        .collect()
}

/// Refuses a locked guest: something is at work on it.
pub fn locked(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let lock = guest.detail.lock.as_deref()?;
    if lock == "suspended" {
        return None;
    }
    Some(Verdict::refuse(
        name,
        "guest-locked",
        format!("it is locked ({lock})"),
        format!(
            "wait until that ends; only if nothing is at work any more: qm unlock {}",
            guest.detail.place.vmid
        ),
    ))
}

/// Refuses a hibernated guest: its memory lies in a volume of its own.
pub fn suspended(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let vmid = guest.detail.place.vmid;
    let hibernated = guest.detail.lock.as_deref() == Some("suspended")
        || guest.detail.config.value("vmstate").is_some();
    hibernated.then(|| {
        Verdict::refuse(
            name,
            "guest-suspended",
            "it is suspended to disk, and its memory cannot be moved",
            format!("resume it (qm start {vmid}), and shut it down properly if you like"),
        )
    })
}

/// Refuses a guest that does not run with the configuration that is stored.
pub fn pending(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let keys: Vec<&str> = guest
        .detail
        .pending
        .iter()
        .map(|change| change.key.as_str())
        .collect();
    let vmid = guest.detail.place.vmid;
    (!keys.is_empty()).then(|| {
        Verdict::refuse(
            name,
            "pending-changes",
            format!("changes wait for its next start: {}", keys.join(", ")),
            format!(
                "stop and start it (qm reboot {vmid}), or revert them: qm set {vmid} --revert {}",
                keys.join(",")
            ),
        )
    })
}

/// Judges a guest's replication jobs: one that is copying just now is waited for; they stay with the source.
pub fn replicated(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let jobs = &guest.replication;
    if jobs.is_empty() {
        return None;
    }
    if !guest.replicating.is_empty() {
        return Some(Verdict::refuse(
            name,
            "replication-running",
            format!(
                "its replication {} is copying just now",
                guest.replicating.join(", ")
            ),
            "wait until pvesr status shows its end, or have that waited for: --wait-for-locks 30min",
        ));
    }
    let targets: Vec<String> = jobs
        .iter()
        .map(|job| format!("{} to {}", job.id, job.target))
        .collect();
    let commands: Vec<String> = jobs
        .iter()
        .map(|job| format!("pvesr delete {}", job.id))
        .collect();
    Some(Verdict::warn(
        name,
        "replicated",
        format!(
            "its replication jobs stay with the source and go on copying {name}{MIGRATED}: {}",
            targets.join(", ")
        ),
        format!(
            "when the move is done: {}, without which it cannot be removed either; on the target add what you want",
            commands.join(" && ")
        ),
    ))
}

/// Refuses a template.
pub fn template(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let vmid = guest.detail.place.vmid;
    (guest.detail.config.value("template") == Some("1")).then(|| {
        Verdict::refuse(
            name,
            "template",
            "it is a template",
            format!("make a full clone of it and move that: qm clone {vmid} NEWID --full"),
        )
    })
}

/// What a guest's snapshots are to a copy of its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    /// They lie beside the volumes and stay with the source, where they go on working.
    StayBehind,
    /// They may lie inside the volumes.
    Inside,
}

/// Judges a guest's snapshots, whose configuration the API cannot create on the target.
///
/// Inside a qcow2 file the snapshots themselves would survive, but nothing in Proxmox VE would know of them.
pub fn snapshots(name: &str, guest: &WantedGuest, are: Snapshots) -> Option<Verdict> {
    let all = &guest.detail.snapshots;
    if all.is_empty() {
        return None;
    }
    let vmid = guest.detail.place.vmid;
    let names: Vec<&str> = all.iter().map(|snapshot| snapshot.name.as_str()).collect();
    let with_memory = all.iter().any(|snapshot| snapshot.with_memory);
    let (code, also) = if with_memory {
        (
            "snapshots-with-memory",
            ", and they hold its memory as well",
        )
    } else {
        ("snapshots", "")
    };
    match are {
        Snapshots::StayBehind => Some(Verdict::warn(
            name,
            "snapshots-stay",
            format!(
                "{} snapshots stay with the source, and it cannot be rolled back to them on the target: {}",
                names.len(),
                names.join(", ")
            ),
            format!(
                "--with-snapshots carries them; otherwise keep the retired source as long as they are needed, and see qm \
                 listsnapshot {vmid} there"
            ),
        )),
        Snapshots::Inside => {
            let commands: Vec<String> = names
                .iter()
                .map(|snapshot| format!("qm delsnapshot {vmid} {snapshot}"))
                .collect();
            Some(Verdict::refuse(
                name,
                code,
                format!(
                    "it has snapshots, whose configuration the API cannot create on another cluster{also}: {}",
                    names.join(", ")
                ),
                format!(
                    "--with-snapshots carries those of qcow2 files that stay such, writing the configuration as root; or \
                     back it up if you need them, then {}",
                    commands.join(" && ")
                ),
            ))
        }
    }
}

/// Refuses snapshots on a node whose guests' configuration files nobody may write: the API cannot create their sections.
pub fn node_files(name: &str, node: &NodeName, target: &TargetFacts) -> Option<Verdict> {
    let why = match target.node_files.get(node) {
        Some(Ok(_)) => return None,
        Some(Err(why)) => why.as_str(),
        None => "nobody was asked",
    };
    Some(Verdict::refuse(
        name,
        "node-file",
        format!(
            "its snapshots cannot be entered into its configuration on node {node}, which only root can do there by \
             SSH: {why}"
        ),
        format!(
            "let root log in to {node} itself with your key (ssh root@{node}), or leave --with-snapshots out"
        ),
    ))
}

/// Judges what QEMU says about itself.
pub fn odd_status(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let vmid = guest.detail.place.vmid;
    let detail = &guest.detail;
    match detail.power {
        Power::Unknown => Some(Verdict::refuse(
            name,
            "status-unknown",
            "its node does not say whether it runs",
            format!("see qm status {vmid} on {}", detail.place.node),
        )),
        Power::Stopped => None,
        Power::Running => match detail.qmp_status.as_str() {
            "" | "running" | "shutdown" => None,
            "io-error" | "internal-error" | "guest-panicked" => Some(Verdict::refuse(
                name,
                "guest-in-error",
                format!("QEMU has stopped it: {}", detail.qmp_status),
                format!("repair the cause, or stop it: qm stop {vmid}"),
            )),
            "paused" | "suspended" | "prelaunch" => Some(Verdict::warn(
                name,
                "guest-paused",
                format!(
                    "it is {}: it cannot shut down by itself and will be killed",
                    detail.qmp_status
                ),
                format!("resume it first: qm resume {vmid}"),
            )),
            other => Some(Verdict::refuse(
                name,
                "guest-busy",
                format!("QEMU is busy with it: {other}"),
                "wait until that ends",
            )),
        },
    }
}

/// Warns that firewall rules stay behind.
pub fn firewalled(name: &str, guest: &WantedGuest) -> Option<Verdict> {
    let vmid = guest.detail.place.vmid;
    let on = guest.detail.config.0.iter().any(|(key, value)| {
        key.starts_with("net") && value.split(',').any(|part| part == "firewall=1")
    });
    on.then(|| {
        Verdict::warn(
            name,
            "firewall-rules",
            "a network card has firewall=1; the guest's own firewall rules are not carried",
            format!("copy /etc/pve/firewall/{vmid}.fw by hand if there is one"),
        )
    })
}

/// Refuses a name that has no room for the marks.
pub fn name_fits(name: &str, _guest: &WantedGuest) -> Option<Verdict> {
    // A label of a DNS name, which Proxmox VE demands, has 63 characters at most.
    const LABEL: usize = 63;
    let longest = [CREATING, CLONING, MIGRATED]
        .map(str::len)
        .into_iter()
        .max()
        .unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or(name);
    (last.len() + longest > LABEL).then(|| {
        Verdict::refuse(
            name,
            "name-too-long",
            format!("its name leaves no room for {CREATING} and {MIGRATED}"),
            format!(
                "shorten its last part to {} characters: qm set VMID --name SHORTER",
                LABEL - longest
            ),
        )
    })
}
