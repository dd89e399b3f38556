//! `proxmove check`: everything a move needs is tried, nothing is moved.
//!
//! Read next: `moves/check.rs`, the findings.

use std::collections::{BTreeMap, BTreeSet};

use super::{Process, Wiring, load, print};
use crate::cli::MoveCommand;
use crate::error::{ExitCode, Failure};
use crate::moves::check::{self, Role};
use crate::moves::survey;

/// Asks both clusters and all their storage hosts, and, when guests are named, shows what a move of them would do.
pub(super) async fn run(process: &Process, command: &MoveCommand) -> Result<ExitCode, Failure> {
    let config = load(&command.conduct.common, process)?;
    let request = &command.request;
    let clusters = (&request.source, &request.target);
    let wiring = Wiring::new(process, clusters, &command.conduct, config, None)?;
    let observed = if request.source == request.target {
        vec![check::cluster(wiring.mover.source.as_ref(), Role::Either).await]
    } else {
        let (source, target) = tokio::join!(
            check::cluster(wiring.mover.source.as_ref(), Role::Source),
            check::cluster(wiring.mover.target.as_ref(), Role::Target)
        );
        vec![source, target]
    };
    let mut config = wiring.config.clone();
    config
        .storages
        .retain(|storage| storage.cluster == request.source || storage.cluster == request.target);
    let asked = check::hosts_of(&config);
    let addresses: BTreeSet<_> = asked.iter().map(|host| host.key.ssh.clone()).collect();
    let shells = wiring.hosts.connect(addresses).await;
    let ask: BTreeMap<_, _> = asked
        .iter()
        .map(|host| (host.key.clone(), BTreeSet::new()))
        .collect();
    let hosts = survey::hosts(&ask, &shells).await;
    let findings = check::findings(&config, &observed, &asked, &hosts);
    let failed = check::failed(&findings);
    if command.conduct.common.json {
        let json = serde_json::to_string_pretty(&findings).unwrap_or_default();
        print(&(json + "\n"))?;
    } else {
        print(&check::text(&findings))?;
    }
    if failed || request.guests.is_empty() {
        return Ok(if failed {
            ExitCode::Refused
        } else {
            ExitCode::Done
        });
    }
    wiring.show_plan(command).await
}
