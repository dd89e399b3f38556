//! `proxmove status`, `resume`, `abort` and `verify`: moves that were begun earlier.
//!
//! Read next: `moves/again.rs`, `moves/status.rs`.

use std::sync::Arc;

use super::{Process, Wiring, cluster, derived, hosts, load, print};
use crate::cli::{AbortCommand, ResumeCommand, StatusCommand, VerifyCommand};
use crate::cluster::Api;
use crate::cluster::http::HttpApi;
use crate::error::{ExitCode, Failure};
use crate::moves::abort::Return;
use crate::moves::status;
use crate::moves::survey::Sections;
use crate::moves::verify::{self, Verifier};
use crate::plan::status::text;
use crate::transfer::image::ImageEngine;

/// Shows every move that is not finished.
pub(super) async fn status(
    process: &Process,
    command: &StatusCommand,
) -> Result<ExitCode, Failure> {
    let config = load(&command.common, process)?;
    for alias in &command.clusters {
        cluster(&config, alias)?;
    }
    let apis = config.clusters.values().map(|cluster| {
        let api = HttpApi::connect(cluster.clone(), command.common.verify_tls);
        Arc::new(api) as Arc<dyn Api>
    });
    let found = status::status(apis.collect(), &command.clusters, command.thorough).await;
    if command.common.json {
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&found).unwrap_or_default()
        ))?;
    } else {
        print(&text(&found))?;
    }
    Ok(if found.unanswered.is_empty() {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

/// Goes on with moves that were begun earlier.
pub(super) async fn resume(
    process: &Process,
    command: &ResumeCommand,
) -> Result<ExitCode, Failure> {
    let config = load(&command.conduct.common, process)?;
    let clusters = (&command.which.source, &command.which.target);
    let wiring = Wiring::new(process, clusters, &command.conduct, config, None)?;
    let change = |request: &mut crate::plan::MoveRequest| {
        request.wait_before_stop |= command.wait_before_stop;
        request.limit = command.limit.or(request.limit);
        request.parallel = command.parallel.unwrap_or(request.parallel);
        command.afterwards.put(request);
    };
    Ok(wiring.batch().resume(&command.which, change).await)
}

/// Brings the sources of moves back as they were.
pub(super) async fn abort(process: &Process, command: &AbortCommand) -> Result<ExitCode, Failure> {
    let config = load(&command.conduct.common, process)?;
    let clusters = (&command.which.source, &command.which.target);
    let wiring = Wiring::new(process, clusters, &command.conduct, config, None)?;
    let wanted = Return {
        start: command.start,
        patience: command.patience,
        give_up: command.discard_target,
    };
    Ok(wiring.batch().abort(&command.which, wanted).await)
}

/// Compares the volumes of finished moves again.
pub(super) async fn verify(
    process: &Process,
    command: &VerifyCommand,
) -> Result<ExitCode, Failure> {
    let config = load(&command.common, process)?;
    let api = |alias| -> Result<Arc<dyn Api>, Failure> {
        let cluster = cluster(&config, alias)?.clone();
        Ok(Arc::new(HttpApi::connect(
            cluster,
            command.common.verify_tls,
        )))
    };
    let verifier = Verifier {
        source: api(&command.which.source)?,
        target: api(&command.which.target)?,
        engine: ImageEngine::new(&process.executable),
        hosts: hosts(process, &command.common),
        sections: Sections {
            config: &config,
            derive: &derived,
        },
    };
    let findings = verifier.verify(&command.which).await;
    if command.common.json {
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&findings).unwrap_or_default()
        ))?;
    } else {
        print(&verify::text(&findings))?;
    }
    let exits = findings.iter().map(|found| match found.equal {
        Some(true) => ExitCode::Done,
        Some(false) => ExitCode::Failed,
        None => ExitCode::Refused,
    });
    Ok(ExitCode::worst(exits))
}
