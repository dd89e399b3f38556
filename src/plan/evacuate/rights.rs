//! Rights: what the user of the API lacks for an evacuation.
//!
//! Pure. Guests that a user may not see are left out of every list without a word, which is why this is asked at all.
//! Read next: `mod.rs`.

use std::collections::BTreeMap;

use super::way::Way;
use super::{Action, Evacuation};
use crate::plan::{Severity, Verdict};
use crate::pve::id::{NodeName, Vmid};
use crate::pve::inventory::Permissions;

/// Returns what the rights of a user forbid or hide.
pub fn judge(permissions: &Permissions, plan: &Evacuation) -> Vec<Verdict> {
    let guests = plan.guests.iter();
    let needs = guests.map(|guest| (guest.place.vmid, needed(&guest.action)));
    missing(permissions, &plan.node, needs)
}

/// Returns what a user lacks to change a node's notes, and to do with guests what needs these privileges.
pub(in crate::plan) fn missing<'a>(
    permissions: &Permissions,
    node: &NodeName,
    needs: impl Iterator<Item = (Vmid, &'a [&'static str])>,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if !permissions.allows("/vms", "VM.Audit") {
        verdicts.push(Verdict {
            guest: None,
            severity: Severity::Warn,
            code: "guests-hidden",
            reason: "the user may not see all guests, and those it may not see stay".to_owned(),
            remedy: "grant VM.Audit on /vms".to_owned(),
        });
    }
    let node = format!("/nodes/{node}");
    // Of each missing right the first guest, and how many.
    let mut missing: BTreeMap<(&str, String), usize> = BTreeMap::new();
    if !permissions.allows(&node, "Sys.Modify") {
        missing.insert(("Sys.Modify", node), 0);
    }
    let mut lacking: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    for (vmid, privileges) in needs {
        let path = format!("/vms/{vmid}");
        for privilege in privileges {
            if !permissions.allows(&path, privilege) {
                let entry = lacking.entry(privilege).or_insert((path.clone(), 0));
                entry.1 += 1;
            }
        }
    }
    missing.extend(
        lacking
            .into_iter()
            .map(|(privilege, (path, count))| ((privilege, path), count)),
    );
    verdicts.extend(missing.into_iter().map(|((privilege, path), count)| {
        let more = match count {
            0 | 1 => String::new(),
            count => format!(" and for {} more guests", count - 1),
        };
        Verdict {
            guest: None,
            severity: Severity::Refuse,
            code: "right-missing",
            reason: format!("the user lacks {privilege} on {path}{more}"),
            remedy: format!("grant {privilege} on {path}, or on a path above it"),
        }
    }));
    verdicts
}

/// Returns the privileges that acting on a guest needs.
fn needed(action: &Action) -> &'static [&'static str] {
    match action {
        Action::Stay | Action::HaManager => &[],
        Action::Start => &["VM.PowerMgmt"],
        Action::Stop { .. } => &["VM.Config.Options", "VM.PowerMgmt"],
        // What else a move to another cluster needs, the mover asks for.
        Action::Across { .. } => &["VM.Config.Options", "VM.PowerMgmt"],
        Action::Go { way: Way::Cold, .. } => &["VM.Config.Options", "VM.Migrate", "VM.PowerMgmt"],
        Action::Go { .. } => &["VM.Config.Options", "VM.Migrate"],
    }
}
