//! The plan of a restore for people, and as JSON.
//!
//! Pure: returns text. Read next: `plan/restore.rs`.

use serde_json::{Value, json};

use super::Restore;
use crate::plan::evacuate::show;

/// Returns the plan as a table.
pub fn text(plan: &Restore) -> String {
    let mut rows = vec![show::row(&[
        "VMID", "NAME", "NOW ON", "ACTION", "START", "WHY",
    ])];
    rows.extend(plan.guests.iter().map(|guest| {
        vec![
            guest.place.vmid.to_string(),
            guest.name.clone(),
            guest.place.node.to_string(),
            guest.action.as_str().to_owned(),
            if guest.start { "yes" } else { "no" }.to_owned(),
            guest.why.clone(),
        ]
    }));
    format!(
        "Restore of node {} of {}\n\n{}{}",
        plan.node,
        plan.cluster,
        show::table(&rows),
        show::verdicts_text(&plan.verdicts)
    )
}

/// Returns the plan as one JSON object.
pub fn json(plan: &Restore) -> Value {
    json!({
        "cluster": plan.cluster.as_str(),
        "node": plan.node.as_str(),
        "guests": plan.guests.iter().map(|guest| json!({
            "vmid": guest.place.vmid.number(),
            "name": guest.name,
            "node": guest.place.node.as_str(),
            "action": guest.action.as_str(),
            "start": guest.start,
            "why": guest.why,
        })).collect::<Vec<_>>(),
        "verdicts": show::verdicts_json(&plan.verdicts),
    })
}
