//! A plan as people read it.
//!
//! Pure. Read next: `../state.rs`.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Shown, ShownDrive, ShownGuest, ShownSnapshot, ShownVerdict, shown};
use crate::plan::MoveRequest;
use crate::plan::decide::Decision;
use crate::units::Bytes;

/// Returns seconds as people say them.
pub(super) fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Returns the plan as people read it.
pub fn text(request: &MoveRequest, decision: &Decision) -> String {
    let shown = shown(request, decision);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_plan(&mut out, &shown);
    out
}

fn write_plan(out: &mut String, plan: &Shown) -> std::fmt::Result {
    for guest in &plan.guests {
        write_guest(out, guest)?;
    }
    if plan.guests.iter().any(|guest| guest.bytes > 0) {
        writeln!(out, "Estimates assume {}.\n", plan.assumptions)?;
    }
    if !plan.guests.is_empty() {
        writeln!(
            out,
            "Not carried: firewall rules, ACLs, backup jobs and replication settings; HA settings only with --ha recreate.\n"
        )?;
    }
    write_verdicts(out, "Refused", "refuse", &plan.verdicts)?;
    write_verdicts(out, "Warnings", "warn", &plan.verdicts)?;
    if plan.refused {
        writeln!(
            out,
            "Nothing will be started until what is refused is turned."
        )
    } else {
        writeln!(out, "Nothing forbids this move.")
    }
}

fn write_guest(out: &mut String, guest: &ShownGuest) -> std::fmt::Result {
    let power = if guest.running { "running" } else { "stopped" };
    writeln!(
        out,
        "{}: {} ({power}) -> {}",
        guest.name, guest.from, guest.to
    )?;
    for drive in &guest.drives {
        write_drive(out, drive)?;
    }
    for snapshot in &guest.snapshots {
        write_snapshot(out, snapshot)?;
    }
    if let Some(pool) = &guest.pool {
        writeln!(out, "  pool      {pool}")?;
    }
    // What is only set later is the same in the end.
    let changes = guest
        .changes
        .iter()
        .filter(|change| change.action != "kept for later");
    for change in changes {
        writeln!(
            out,
            "  {:<9} {}: {}",
            change.key, change.action, change.reason
        )?;
    }
    let copy = format!(
        "{} in about {}",
        Bytes(guest.bytes),
        time(guest.copy_seconds)
    );
    let end = match guest.downtime_seconds {
        Some(downtime) => format!(", downtime about {}", time(downtime)),
        None => ", no downtime, for it does not run".to_owned(),
    };
    writeln!(out, "  copy      {copy}{end}")?;
    if guest.running && !guest.start {
        writeln!(out, "  start     it will not be started on the target")?;
    }
    writeln!(out)
}

fn write_snapshot(out: &mut String, snapshot: &ShownSnapshot) -> std::fmt::Result {
    let name = &snapshot.name;
    if let Some(why) = &snapshot.because {
        return writeln!(out, "  snapshot  {name} stays: {why}");
    }
    let size = match snapshot.bytes {
        Some(bytes) => format!(" ({})", Bytes(bytes)),
        None => String::new(),
    };
    let memory = match snapshot.without_memory {
        true => ", without its memory",
        false => "",
    };
    writeln!(out, "  snapshot  {name}{size} travels{memory}")
}

fn write_drive(out: &mut String, drive: &ShownDrive) -> std::fmt::Result {
    match drive {
        ShownDrive::Copy {
            drive,
            source,
            source_format,
            target,
            target_format,
            size,
            used,
            zfs,
            engine,
            route,
            tool,
            because,
            ..
        } => {
            let used = match used {
                Some(used) => format!("{} occupied", Bytes(*used)),
                None => "occupied bytes unknown".to_owned(),
            };
            let zfs = zfs.as_deref();
            let from = match zfs.and_then(|zfs| zfs.source.as_ref()) {
                Some(_) => "zvol",
                None => source_format,
            };
            let to = match zfs.and_then(|zfs| zfs.sparse) {
                Some(true) => "sparse zvol",
                Some(false) => "zvol, all of its size reserved",
                None => target_format,
            };
            let engine = match zfs.and_then(|zfs| zfs.stream.as_deref()) {
                None => (*engine).to_owned(),
                Some("") => format!("{engine} (zfs send)"),
                Some(flags) => format!("{engine} (zfs send {flags})"),
            };
            writeln!(
                out,
                "  {drive:<9} {source} ({from}, {}, {used}) -> {target} ({to})",
                Bytes(*size)
            )?;
            writeln!(
                out,
                "            engine {engine}, route {route}, tool {tool}: {because}"
            )
        }
        ShownDrive::Set { drive, value } => writeln!(out, "  {drive:<9} set to {value}"),
        ShownDrive::Leave { drive } => writeln!(out, "  {drive:<9} left behind"),
    }
}

fn write_verdicts(
    out: &mut String,
    title: &str,
    severity: &str,
    verdicts: &[ShownVerdict],
) -> std::fmt::Result {
    let mut chosen = verdicts
        .iter()
        .filter(|verdict| verdict.severity == severity)
        .peekable();
    if chosen.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "{title}:")?;
    for verdict in chosen {
        let whom = match verdict.guests.as_slice() {
            [] => String::new(),
            guests => format!("{}: ", guests.join(", ")),
        };
        writeln!(out, "  {whom}{} [{}]", verdict.reason, verdict.code)?;
        writeln!(out, "    -> {}", verdict.remedy)?;
    }
    writeln!(out)
}
