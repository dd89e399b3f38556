//! `proxmove evacuate --rolling`: the nodes of a cluster one after the other.
//!
//! Stops at the first node that is not as it must be; what was done until then is done. Read next: `commands/evacuate.rs`.

use super::evacuate::Site;
use crate::cli::evacuate::EvacuateCommand;
use crate::error::{ExitCode, Failure};
use crate::evacuation::observe;
use crate::pve::id::NodeName;

/// Evacuates, maintains and restores each node.
pub(super) async fn run(site: &Site, command: &EvacuateCommand) -> Result<ExitCode, Failure> {
    let nodes = nodes(site, command).await?;
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let question = format!(
        "Go through {} of {}, one after the other?",
        names.join(", "),
        command.cluster
    );
    let consented = !site.is_dry_run() && site.tools().ask(question).await == Some(true);
    if !consented {
        // What would happen to the first node is true now; the plans of the others depend on it.
        for node in &nodes {
            site.evacuate(command, node, false).await?;
        }
        return Ok(ExitCode::Done);
    }
    for (at, node) in nodes.iter().enumerate() {
        let exit = one(site, command, node).await?;
        if exit != ExitCode::Done {
            let left: Vec<&str> = nodes[at + 1..].iter().map(NodeName::as_str).collect();
            return Err(Failure::message(
                exit,
                format!("stopped at {node}, which is not as it must be"),
            )
            .state(if left.is_empty() {
                "it was the last one".to_owned()
            } else {
                format!("{} were not begun", left.join(", "))
            })
            .next(format!(
                "look at {node}, 'proxmove restore {} {node}', then go on with --nodes",
                command.cluster
            )));
        }
    }
    Ok(ExitCode::Done)
}

async fn one(site: &Site, command: &EvacuateCommand, node: &NodeName) -> Result<ExitCode, Failure> {
    let exit = site.evacuate(command, node, true).await?;
    if exit != ExitCode::Done {
        return Ok(exit);
    }
    match &command.command {
        Some((line, silence)) => {
            site.tools()
                .maintain(node, line, *silence)
                .await
                .map_err(|error| Failure::new(ExitCode::Failed, &error))?;
        }
        None => {
            let question = format!("{node} is empty. Restore it, its maintenance being done?");
            if site.tools().ask(question).await != Some(true) {
                return Ok(ExitCode::Interrupted);
            }
        }
    }
    // Waits for the node's health itself.
    site.restore(site.everything_back(node), command.parallel, true)
        .await
}

async fn nodes(site: &Site, command: &EvacuateCommand) -> Result<Vec<NodeName>, Failure> {
    let inventory = observe::listing(site.tools().api.as_ref())
        .await
        .map_err(|error| Failure::new(ExitCode::Failed, &error).state("nothing was changed"))?;
    if let Some(unknown) = command
        .nodes
        .iter()
        .find(|node| !inventory.nodes.contains_key(*node))
    {
        return Err(Failure::message(
            ExitCode::Refused,
            format!("{} has no node {unknown}", command.cluster),
        )
        .state("nothing was changed")
        .next("correct --nodes"));
    }
    let down: Vec<&str> = inventory
        .nodes
        .iter()
        .filter(|(_, node)| !node.online || node.maintenance)
        .map(|(name, _)| name.as_str())
        .collect();
    if !down.is_empty() {
        return Err(Failure::message(
            ExitCode::Refused,
            format!("not all nodes are well: {}", down.join(", ")),
        )
        .state("nothing was changed")
        .next("bring them back first, or evacuate single nodes"));
    }
    if command.nodes.is_empty() {
        Ok(inventory.nodes.into_keys().collect())
    } else {
        Ok(command.nodes.clone())
    }
}
