//! `proxmove back`: guests go to their former selves, one after the other.
//!
//! Finds where each goes, and hands it over as an ordinary move. Read next: `moves/back.rs`.

use std::sync::Arc;

use super::{Process, Wiring, cluster, load};
use crate::cli::{BackCommand, MoveCommand};
use crate::cluster::http::HttpApi;
use crate::config::Config;
use crate::error::{ExitCode, Failure};
use crate::moves::back::{Clusters, NoWayBack, WayBack, find};
use crate::moves::interrupt::Interrupt;

/// Finds all ways back before the first guest is touched, and goes them one after the other.
pub(super) async fn run(process: &Process, command: &BackCommand) -> Result<ExitCode, Failure> {
    let conduct = &command.command.conduct;
    let config = load(&conduct.common, process)?;
    cluster(&config, &command.cluster)?;
    if let Some(to) = &command.to {
        cluster(&config, to)?;
    }
    let clusters = clusters(&config, conduct.common.verify_tls);
    let mut ways: Vec<(String, WayBack)> = Vec::new();
    for name in &command.command.request.guests {
        let way = find(
            name,
            &command.cluster,
            command.to.as_ref(),
            &clusters,
            &process.identity,
        )
        .await
        .map_err(|error| nowhere(name, &error))?;
        ways.push((name.clone(), way));
    }
    let mut interrupt: Option<Interrupt> = None;
    let mut worst = Vec::new();
    for (name, way) in ways {
        let request = way
            .request(&name, &command.command.request)
            .map_err(|error| nowhere(&name, &error))?;
        let one = MoveCommand {
            request,
            ..command.command.clone()
        };
        let between = (&one.request.source, &one.request.target);
        let mut wiring = Wiring::new(process, between, conduct, config.clone(), interrupt.clone())?;
        wiring.former = way.former(&name);
        let asked = wiring.mover.interrupt.clone();
        if asked.is_asked() {
            worst.push(ExitCode::Interrupted);
            break;
        }
        interrupt = Some(asked);
        worst.push(wiring.run(&one).await?);
    }
    Ok(ExitCode::worst(worst))
}

/// Connects to every configured cluster.
pub(super) fn clusters(config: &Config, verify_tls: bool) -> Clusters {
    config
        .clusters
        .iter()
        .map(|(alias, cluster)| {
            let api = HttpApi::connect(cluster.clone(), verify_tls);
            (alias.clone(), Arc::new(api) as Arc<_>)
        })
        .collect()
}

fn nowhere(name: &str, error: &NoWayBack) -> Failure {
    let next = match error {
        NoWayBack::Unanswered { .. } => "mend that and run the same command again".to_owned(),
        NoWayBack::Guest(_) => {
            "check the names: proxmove back CLUSTER VM, CLUSTER being where it is now".to_owned()
        }
        NoWayBack::Nowhere { .. } => {
            format!(
                "make an ordinary move, which copies everything: proxmove SOURCE DESTINATION NODEID STORAGE {name}"
            )
        }
        NoWayBack::Several { .. } => {
            "choose one with --to CLUSTER, or rename those that are not meant".to_owned()
        }
    };
    Failure::new(ExitCode::Refused, error)
        .context(format!("{name} has no way back"))
        .state("nothing was changed")
        .next(next)
}
