//! The plan of an evacuation for people, and as JSON.
//!
//! Pure: returns text. Read next: `mod.rs`.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Action, Evacuation, GuestPlan, kind_name};
use crate::plan::{Severity, Verdict};
use crate::pve::guest::Power;

/// Returns the plan as tables.
pub fn text(plan: &Evacuation) -> String {
    let mut out = format!("Evacuation of node {} of {}\n\n", plan.node, plan.cluster);
    let mut rows = vec![row(&[
        "VMID",
        "NAME",
        "TYPE",
        "STATUS",
        "MEMORY",
        "ACTION",
        "TARGET",
        "WHY",
        "RUNNER-UP",
    ])];
    rows.extend(plan.guests.iter().map(guest_row));
    out.push_str(&table(&rows));
    let leaving = plan.guests.iter().filter(|guest| guest.leaves()).count();
    let stopping = plan
        .guests
        .iter()
        .filter(|guest| matches!(guest.action, Action::Stop { .. }))
        .count();
    let staying = plan.guests.len() - leaving - stopping;
    let _ = writeln!(
        out,
        "\n{leaving} leave, {stopping} are stopped, {staying} stay as they are."
    );
    if plan.ha_maintenance {
        out.push_str("HA maintenance is switched on for the node first.\n");
    }
    if !plan.capacity.is_empty() {
        out.push_str("\nMemory that may still be taken\n\n");
        out.push_str(&capacity_table(plan));
    }
    out.push_str(&verdicts_text(&plan.verdicts));
    out
}

/// Returns the plan as one JSON object.
pub fn json(plan: &Evacuation) -> Value {
    json!({
        "cluster": plan.cluster.as_str(),
        "node": plan.node.as_str(),
        "ha_maintenance": plan.ha_maintenance,
        "refused": plan.refused(),
        "guests": plan.guests.iter().map(guest_json).collect::<Vec<_>>(),
        "capacity": plan.capacity.iter().map(|node| json!({
            "node": node.node.as_str(),
            "memory": node.memory.0,
            "free_before": node.free_before.0,
            "free_after": node.free_after.0,
            "arriving": node.arriving,
            "closed": node.closed,
        })).collect::<Vec<_>>(),
        "verdicts": verdicts_json(&plan.verdicts),
    })
}

/// Returns verdicts as text; nothing for none.
pub fn verdicts_text(verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    for (severity, title) in [(Severity::Refuse, "Refused"), (Severity::Warn, "To know")] {
        let mut of: Vec<&Verdict> = verdicts
            .iter()
            .filter(|verdict| verdict.severity == severity)
            .collect();
        if of.is_empty() {
            continue;
        }
        of.sort_by_key(|verdict| verdict.code);
        let _ = writeln!(out, "\n{title}\n");
        for verdict in of {
            let guest = verdict
                .guest
                .as_ref()
                .map(|guest| format!("{guest}: "))
                .unwrap_or_default();
            let _ = writeln!(out, "  {guest}{} [{}]", verdict.reason, verdict.code);
            let _ = writeln!(out, "    remedy: {}", verdict.remedy);
        }
    }
    out
}

/// Returns verdicts as JSON.
pub fn verdicts_json(verdicts: &[Verdict]) -> Value {
    verdicts
        .iter()
        .map(|verdict| {
            json!({
                "guest": verdict.guest,
                "severity": match verdict.severity {
                    Severity::Refuse => "refuse",
                    Severity::Warn => "warn",
                },
                "code": verdict.code,
                "reason": verdict.reason,
                "remedy": verdict.remedy,
            })
        })
        .collect()
}

fn guest_json(guest: &GuestPlan) -> Value {
    let storages = match &guest.action {
        Action::Go { storages, .. } => storages
            .iter()
            .map(|(from, to)| (from.to_string(), json!(to.as_str())))
            .collect(),
        Action::Across { .. }
        | Action::HaManager
        | Action::Start
        | Action::Stop { .. }
        | Action::Stay => serde_json::Map::new(),
    };
    json!({
        "vmid": guest.place.vmid.number(),
        "name": guest.name,
        "type": kind_name(guest.place.kind),
        "status": power(guest.power),
        "memory": guest.memory.0,
        "action": guest.action.as_str(),
        "target": guest.place_to(),
        "storages": storages,
        "why": guest.why,
        "runner_up": guest.runner_up,
    })
}

fn guest_row(guest: &GuestPlan) -> Vec<String> {
    vec![
        guest.place.vmid.to_string(),
        guest.name.clone(),
        kind_name(guest.place.kind).to_owned(),
        power(guest.power).to_owned(),
        guest.memory.to_string(),
        guest.action.as_str().to_owned(),
        guest.place_to().unwrap_or_else(|| "-".to_owned()),
        guest.why.clone(),
        guest.runner_up.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Returns the word for whether a guest runs.
pub fn power(power: Power) -> &'static str {
    match power {
        Power::Running => "running",
        Power::Stopped => "stopped",
        Power::Unknown => "unknown",
    }
}

fn capacity_table(plan: &Evacuation) -> String {
    let mut rows = vec![row(&["NODE", "MEMORY", "BEFORE", "AFTER", "ARRIVING", ""])];
    // In a large cluster most nodes have nothing to do with it.
    let of_interest = |node: &&super::Capacity| plan.capacity.len() <= 20 || node.arriving > 0;
    let shown: Vec<_> = plan.capacity.iter().filter(of_interest).collect();
    let hidden = plan.capacity.len() - shown.len();
    for node in shown {
        rows.push(vec![
            node.node.to_string(),
            node.memory.to_string(),
            node.free_before.to_string(),
            node.free_after.to_string(),
            node.arriving.to_string(),
            node.closed.clone().unwrap_or_default(),
        ]);
    }
    let mut out = table(&rows);
    if hidden > 0 {
        let _ = writeln!(out, "and {hidden} nodes that take none");
    }
    out
}

/// Returns a row of plain words.
pub fn row(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Lines columns up; the last one is as wide as it is.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
