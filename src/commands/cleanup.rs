//! `proxmove cleanup`: what moves have left behind is listed, and removed after consent.
//!
//! Read next: `moves/cleanup.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Process, Wiring, audience, back, cluster, hosts, load, print, show};
use crate::cli::{CleanupCommand, Common, Conduct};
use crate::config::Config;
use crate::error::{ExitCode, Failure};
use crate::moves::abort::Return;
use crate::moves::again::Which;
use crate::moves::cleanup::{Cleanup, Found, by_place};
use crate::moves::interrupt::Interrupt;
use crate::moves::status::status;
use crate::plan::cleanup::is_abandoned;
use crate::plan::status::MoveStatus;
use crate::pve::id::ClusterAlias;
use crate::report::choose;
use crate::units::Bytes;

/// Lists, asks, removes.
pub(super) async fn run(process: &Process, command: &CleanupCommand) -> Result<ExitCode, Failure> {
    let common = &command.common;
    let mut config = load(common, process)?;
    for alias in &command.clusters {
        cluster(&config, alias)?;
    }
    let clusters = back::clusters(&config, common.verify_tls);
    let chosen: BTreeSet<ClusterAlias> = match command.clusters.as_slice() {
        [] => config.clusters.keys().cloned().collect(),
        named => named.iter().cloned().collect(),
    };
    for (alias, api) in &clusters {
        // A cluster that does not answer is told of below.
        if let Err(error) = show::add_derived(&mut config, alias, api.as_ref()).await {
            log::debug!("{alias}: nothing could be derived: {error}");
        }
    }
    let mut abandoned = Vec::new();
    if command.abandoned {
        let found = status(
            clusters.values().cloned().collect(),
            &BTreeSet::new(),
            false,
        )
        .await;
        // What a silent cluster has to say of a move is not known.
        if found.unanswered.is_empty() {
            let here = |found: &MoveStatus| {
                let mut chosen = chosen.iter();
                chosen.any(|alias| alias.as_str() == found.target_cluster)
            };
            let moves = found.moves.into_iter();
            abandoned.extend(moves.filter(|found| is_abandoned(found) && here(found)));
        }
    }
    let place = |found: &MoveStatus| (found.target_cluster.clone(), found.target_vmid);
    let cleanup = Cleanup {
        clusters: &clusters,
        chosen,
        config: &config,
        hosts: hosts(process, common),
        abandoned: abandoned.iter().map(place).collect(),
    };
    let mut found = cleanup.find().await;
    let count = found.removable().count();
    let gaps = match found.problems.is_empty() {
        true => ExitCode::Done,
        false => ExitCode::Failed,
    };
    if command.dry_run || count == 0 {
        shown(&found, common.json)?;
        return Ok(gaps);
    }
    if !common.json {
        print(&text(&found))?;
    }
    if !command.yes {
        let (_, operator) = choose(&audience(process, common, false));
        let question = format!("Remove {count} of these?");
        let agreed = tokio::task::spawn_blocking(move || operator.confirm(&question))
            .await
            .unwrap_or(None);
        if agreed != Some(true) {
            if common.json {
                shown(&found, true)?;
            }
            return Err(Failure::message(
                ExitCode::Refused,
                match agreed {
                    None => "nobody is there to agree",
                    Some(_) => "the operator said no",
                },
            )
            .state("nothing was removed")
            .next("run it again with --yes to remove what is listed, or with -n to list only"));
        }
    }
    let mut failed = Vec::new();
    let mut interrupt = None;
    for one in &abandoned {
        failed.extend(give_up(process, common, &config, one, &mut interrupt).await?);
    }
    failed.extend(cleanup.remove(&found).await);
    let exit = match failed.is_empty() {
        true => gaps,
        false => ExitCode::Failed,
    };
    let removed = count - failed.len();
    found.problems.extend(failed);
    if common.json {
        shown(&found, true)?;
    } else {
        let mut out = format!("Removed {removed}.\n");
        problems(&mut out, &found);
        print(&out)?;
    }
    Ok(exit)
}

/// Gives an abandoned move up; returns what to tell when that did not work, beside what was told on standard error.
async fn give_up(
    process: &Process,
    common: &Common,
    config: &Config,
    found: &MoveStatus,
    interrupt: &mut Option<Interrupt>,
) -> Result<Option<String>, Failure> {
    let alias = |text: &str| {
        text.parse()
            .map_err(|error| Failure::new(ExitCode::Bug, &error))
    };
    let which = Which {
        source: alias(found.source_cluster.as_deref().unwrap_or_default())?,
        target: alias(&found.target_cluster)?,
        guests: vec![found.guest.clone()],
    };
    // Standard output is for the list.
    let conduct = Conduct::unasked(Common {
        json: false,
        ..common.clone()
    });
    let clusters = (&which.source, &which.target);
    let wiring = Wiring::new(
        process,
        clusters,
        &conduct,
        config.clone(),
        interrupt.take(),
    )?;
    // Signals are listened for once.
    *interrupt = Some(wiring.mover.interrupt.clone());
    let wanted = Return {
        start: true,
        patience: Duration::ZERO,
        give_up: false,
    };
    let exit = wiring.batch().abort(&which, wanted).await;
    Ok((exit != ExitCode::Done).then(|| {
        format!(
            "the move of {} to {} was not given up; proxmove abort {} {} {0} says more",
            found.guest, which.target, which.source, which.target
        )
    }))
}

fn shown(found: &Found, json: bool) -> Result<ExitCode, Failure> {
    if json {
        let json = serde_json::to_string_pretty(found).unwrap_or_default();
        print(&(json + "\n"))
    } else {
        print(&text(found))
    }
}

fn problems(out: &mut String, found: &Found) {
    for problem in &found.problems {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "Problem: {problem}");
    }
}

fn text(found: &Found) -> String {
    let mut out = String::new();
    let bytes: u64 = found.removable().map(|item| item.bytes).sum();
    for (place, items) in by_place(found) {
        let _ = writeln!(out, "{place}");
        for item in items {
            let size = match item.bytes {
                0 => String::new(),
                bytes => format!(" ({})", Bytes(bytes)),
            };
            let _ = writeln!(
                out,
                "  {:<6} {}{size}\n         {}",
                item.action, item.name, item.why
            );
        }
    }
    problems(&mut out, found);
    let count = found.removable().count();
    let _ = match (count, found.items.len()) {
        (0, 0) => writeln!(out, "Nothing of proxmove's is left."),
        (0, _) => writeln!(out, "Nothing may be removed."),
        (count, _) => writeln!(out, "{count} may be removed, {} in all.", Bytes(bytes)),
    };
    out
}
