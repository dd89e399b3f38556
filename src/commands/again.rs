//! `proxmove status`, `proxmove resume` and `proxmove abort`: moves that were begun earlier.
//!
//! Read next: `moves/again.rs`, `moves/status.rs`.

use std::sync::Arc;

use super::{Plain, Process, Wiring, cluster, load, print};
use crate::cli::{AbortCommand, ResumeCommand, StatusCommand};
use crate::cluster::Api;
use crate::cluster::http::HttpApi;
use crate::error::{ExitCode, Failure};
use crate::moves::abort::Return;
use crate::moves::status;
use crate::plan::status::text;

/// Shows every move that is not finished.
pub(super) async fn status(process: &Process, command: &StatusCommand) -> Result<ExitCode, Failure> {
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
        print(&format!("{}\n", serde_json::to_string_pretty(&found).unwrap_or_default()))?;
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
pub(super) async fn resume(process: &Process, command: &ResumeCommand) -> Result<ExitCode, Failure> {
    let wiring = Wiring::plain(
        process,
        &Plain {
            source: &command.which.source,
            target: &command.which.target,
            yes: command.yes,
            take_over: command.take_over,
            fail_fast: command.fail_fast,
            common: &command.common,
        },
        load(&command.common, process)?,
        None,
    )?;
    let change = |request: &mut crate::plan::MoveRequest| {
        request.wait_before_stop |= command.wait_before_stop;
        request.limit = command.limit.or(request.limit);
        request.parallel = command.parallel.unwrap_or(request.parallel);
    };
    Ok(wiring.batch().resume(&command.which, change).await)
}

/// Brings the sources of moves back as they were.
pub(super) async fn abort(process: &Process, command: &AbortCommand) -> Result<ExitCode, Failure> {
    let wiring = Wiring::plain(
        process,
        &Plain {
            source: &command.which.source,
            target: &command.which.target,
            yes: false,
            take_over: command.take_over,
            fail_fast: command.fail_fast,
            common: &command.common,
        },
        load(&command.common, process)?,
        None,
    )?;
    let wanted = Return {
        start: command.start,
        patience: command.patience,
    };
    Ok(wiring.batch().abort(&command.which, wanted).await)
}
