//! Judging a guest's former self, to which it goes back.
//!
//! Pure. What was written to its volumes is judged in `../back.rs`, when their hosts have been asked. Read next:
//! `../back.rs`.

use crate::plan::back::Back;
use crate::plan::facts::TargetFacts;
use crate::plan::mark::MIGRATED;
use crate::plan::{DriveAction, DrivePlan, MoveRequest, Verdict};
use crate::pve::guest::{GuestDetail, GuestKind, Power};
use crate::pve::id::ClusterAlias;
use crate::transfer::EngineKind;

/// Returns all verdicts on a former self that a way back is about to overwrite.
pub fn all(
    name: &str,
    former: &GuestDetail,
    target: &ClusterAlias,
    source: &ClusterAlias,
) -> Vec<Verdict> {
    let vmid = former.place.vmid;
    let guest = format!("{name}{MIGRATED} on {target} ({vmid})");
    let mut verdicts = Vec::new();
    if former.power != Power::Stopped {
        verdicts.push(Verdict::refuse(
            name,
            "former-running",
            format!("{guest} runs; somebody started it"),
            format!("find out who uses it; if it is to be overwritten: qm stop {vmid}"),
        ));
    }
    if let Some(lock) = &former.lock {
        verdicts.push(Verdict::refuse(
            name,
            "former-locked",
            format!("{guest} is locked ({lock})"),
            format!("wait until that ends; only if nothing is at work any more: qm unlock {vmid}"),
        ));
    }
    if former.ha_managed {
        verdicts.push(Verdict::refuse(
            name,
            "former-ha-managed",
            format!("{guest} is managed by HA, which might start it"),
            format!("ha-manager remove vm:{vmid}"),
        ));
    }
    if former.config.value("template") == Some("1") {
        verdicts.push(Verdict::refuse(
            name,
            "former-template",
            format!("{guest} was made a template"),
            "move the guest to a new one: an ordinary move, without 'back'",
        ));
    }
    verdicts.push(Verdict::warn(
        name,
        "former-overwritten",
        format!(
            "{guest} becomes {name} again: its volumes are overwritten with what changed on {source}, and are no fallback \
             any more"
        ),
        format!(
            "to leave it alone and copy everything to a new guest: proxmove {source} {target} {} STORAGE {name}",
            former.place.node
        ),
    ));
    verdicts
}

/// Refuses a former self whose snapshots are inside of images that are overwritten, and tells which volumes are left over.
pub fn snapshots(
    name: &str,
    former: Option<&GuestDetail>,
    drives: &[DrivePlan],
    back: &Back,
) -> Vec<Verdict> {
    let Some(former) = former else {
        return Vec::new();
    };
    let vmid = former.place.vmid;
    let inside = drives.iter().any(|drive| {
        matches!(&drive.action, DriveAction::Copy(volume) if volume.kept && volume.engine == EngineKind::Image)
    });
    let mut verdicts = Vec::new();
    if inside && !former.snapshots.is_empty() {
        let names: Vec<&str> = former
            .snapshots
            .iter()
            .map(|snapshot| snapshot.name.as_str())
            .collect();
        verdicts.push(Verdict::refuse(
            name,
            "former-snapshots",
            format!(
                "{name}{MIGRATED} ({vmid}) has snapshots, which would be lost with its content: {}",
                names.join(", ")
            ),
            format!("delete them first: qm delsnapshot {vmid} NAME"),
        ));
    }
    if !back.left.is_empty() {
        verdicts.push(Verdict::warn(
            name,
            "former-unattached",
            format!(
                "volumes of {name}{MIGRATED} ({vmid}) have no drive any more and stay unused: {}",
                back.left.join(", ")
            ),
            "remove them afterwards if nobody needs them",
        ));
    }
    verdicts
}

/// Points at a former self that an ordinary move does not use.
pub fn unused(name: &str, request: &MoveRequest, target: &TargetFacts) -> Option<Verdict> {
    let retired = format!("{name}{MIGRATED}");
    let former = target.guests.iter().find(|guest| {
        guest.place.kind == GuestKind::Qemu && guest.name.as_deref() == Some(retired.as_str())
    })?;
    Some(Verdict::warn(
        name,
        "way-back",
        format!(
            "{} has {retired} ({}), which is left alone: everything is copied to a new guest",
            target.alias, former.place.vmid
        ),
        format!(
            "to overwrite it with what has changed, and send only that: proxmove back {} {name}",
            request.source
        ),
    ))
}
