//! Rights: what the user of the API lacks for a restore.
//!
//! Pure. Read next: `plan/evacuate/rights.rs`.

use super::{Action, Restore, Return};
use crate::plan::Verdict;
use crate::plan::evacuate::rights::missing;
use crate::plan::evacuate::way::Way;
use crate::pve::inventory::Permissions;

/// Returns what the rights of a user forbid or hide.
pub fn judge_rights(permissions: &Permissions, plan: &Restore) -> Vec<Verdict> {
    let guests = plan.guests.iter();
    let needs = guests.map(|guest| (guest.place.vmid, needed(guest)));
    missing(permissions, &plan.node, needs)
}

/// Returns the privileges that acting on a guest needs; each loses its note in the end.
fn needed(guest: &Return) -> &'static [&'static str] {
    match &guest.action {
        Action::Left | Action::Stuck => &[],
        Action::Forget => &["VM.Config.Options"],
        Action::AtHome if guest.start => &["VM.Config.Options", "VM.PowerMgmt"],
        Action::AtHome => &["VM.Config.Options"],
        Action::Back { way: Way::Cold, .. } => &["VM.Config.Options", "VM.Migrate", "VM.PowerMgmt"],
        Action::Back { .. } if guest.start => &["VM.Config.Options", "VM.Migrate", "VM.PowerMgmt"],
        Action::Back { .. } => &["VM.Config.Options", "VM.Migrate"],
        // The HA manager moves with rights of its own.
        Action::HaManager { .. } => &["VM.Config.Options"],
        // What else a move between clusters needs, the mover asks for.
        Action::FromCluster { .. } => &["VM.Config.Options", "VM.PowerMgmt"],
    }
}
