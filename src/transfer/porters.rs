//! Two porters put to work on one pair: connected by either route, and what they say turned into a result.
//!
//! Which commands they run is the engine's business; this only puts the porters there, connects them, waits, and finds
//! the error that explains most. It never decides about a volume. Read next: `carry.rs`, `upload.rs`.

use std::path::PathBuf;
use std::sync::Arc;

use super::carry::{self, Carried, DirectAccess, GrantDirect, PATIENCE};
use super::image::{end_of, host};
use super::lines::{About, Finished, Side, most_telling};
use super::upload::Uploads;
use super::{Pair, Progress, Route, TransferError};
use crate::host::command::Command;
use crate::host::{Exit, ShellError};

/// The porters of a run, for all engines.
#[derive(Clone)]
pub(crate) struct Porters {
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) grant: Option<GrantDirect>,
}

impl Porters {
    /// Takes the executable that is put on the hosts.
    pub(crate) fn new(executable: PathBuf) -> Porters {
        Porters {
            uploads: Arc::new(Uploads::new(executable)),
            grant: None,
        }
    }

    /// Runs a porter with the arguments `send` on the source host and one with `receive` on the target host.
    pub(crate) async fn carry(
        &self,
        pair: &Pair,
        operation: &'static str,
        send: &[String],
        receive: &[String],
        tell: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Finished, TransferError> {
        for end in [&pair.source, &pair.target] {
            self.uploads.enter(end, &pair.name).await;
        }
        // Somebody who tidied the same hosts may have taken the porters away; then each is put back, once. On the direct
        // route that of the target is missed only when that of the source is there again.
        for _ in 0..3 {
            let carried = self.carry_once(pair, operation, send, receive, tell);
            if let Some(finished) = carried.await? {
                return Ok(finished);
            }
        }
        Err(TransferError::Porter {
            operation,
            drive: pair.drive,
            address: pair.target.shell.address().to_owned(),
            reason: String::from(
                "the porter is removed again and again; is something cleaning up there?",
            ),
        })
    }

    /// Runs both porters once; `None` when one turned out to be missing.
    async fn carry_once(
        &self,
        pair: &Pair,
        operation: &'static str,
        send: &[String],
        receive: &[String],
        tell: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Option<Finished>, TransferError> {
        let source = self.uploads.ensure(&pair.source, pair.drive).await?;
        let target = self.uploads.ensure(&pair.target, pair.drive).await?;
        let mut send = Command::new(&source).arg("porter").args(send);
        let receive = Command::new(&target).arg("porter").args(receive);
        let carried = match pair.route {
            Route::Relay => {
                // Each is a login; the guest may be waiting.
                let (receiver, sender) = tokio::try_join!(
                    pair.target.shell.stream(&receive),
                    pair.source.shell.stream(&send)
                )
                .map_err(|source| host(operation, pair, source))?;
                carry::relay(sender, receiver, tell).await
            }
            Route::Direct => {
                let access = self.access(pair)?;
                send = send.args(direct_arguments(pair, &access, &receive));
                let sender = pair.source.shell.stream(&send).await;
                let sender = sender.map_err(|source| host(operation, pair, source))?;
                carry::direct(sender, &access, tell).await
            }
        };
        let Some(carried) = carried else {
            let silent = ShellError::Silent {
                address: format!(
                    "{} and {}",
                    pair.source.shell.address(),
                    pair.target.shell.address()
                ),
                command: send.brief(),
                silence: PATIENCE,
            };
            return Err(host(operation, pair, silent));
        };
        self.conclude(pair, operation, carried).await
    }

    fn access(&self, pair: &Pair) -> Result<DirectAccess, TransferError> {
        let granted = match &self.grant {
            Some(grant) => grant(pair),
            None => Err(String::from("no access was prepared for it")),
        };
        granted.map_err(|reason| TransferError::DirectRoute {
            drive: pair.drive,
            source_address: pair.source.shell.address().to_owned(),
            target_address: pair.target.shell.address().to_owned(),
            reason,
        })
    }

    /// Decides from what both sides said whether the pass succeeded.
    async fn conclude(
        &self,
        pair: &Pair,
        operation: &'static str,
        carried: Carried,
    ) -> Result<Option<Finished>, TransferError> {
        let about = About {
            operation,
            drive: pair.drive,
            source: pair.source.shell.address(),
            target: pair.target.shell.address(),
            direct: pair.route == Route::Direct,
        };
        let well = |exit: &Result<Exit, ShellError>| matches!(exit, Ok(Exit::Code(0)));
        let finished = carried.told.iter().find_map(|told| told.finished.clone());
        if let (Some(mut finished), true) =
            (finished, carried.exits.iter().all(|(_, exit)| well(exit)))
        {
            finished.repaired_at = carried.told.iter().find_map(|told| told.repaired_at);
            return Ok(Some(finished));
        }
        let mut missing = false;
        for (side, exit) in &carried.exits {
            if matches!(exit, Ok(Exit::Code(126 | 127))) {
                self.uploads.forget(end_of(pair, *side)).await;
                missing = true;
            }
        }
        let errors: Vec<_> = carried
            .told
            .iter()
            .flat_map(|told| told.errors.clone())
            .collect();
        // On the direct route the source host's ssh finds that.
        if errors.iter().any(|(_, report)| report.kind == "missing") {
            self.uploads.forget(&pair.target).await;
            missing = true;
        }
        if missing {
            return Ok(None);
        }
        // A connection that broke explains why both porters found themselves alone.
        let told = most_telling(&errors).filter(|(_, report)| report.kind != "gone");
        if let Some((side, report)) = told {
            return Err(about.error(*side, report));
        }
        let mut ended = Vec::new();
        for (side, exit) in carried.exits {
            match exit {
                Err(source) => return Err(host(operation, pair, source)),
                Ok(exit) => ended.push((side, exit)),
            }
        }
        let (side, exit) = ended
            .iter()
            .find(|(_, exit)| *exit != Exit::Code(0) && *exit != Exit::Code(1))
            .or(ended.iter().find(|(_, exit)| *exit != Exit::Code(0)))
            .cloned()
            .unwrap_or((Side::Source, Exit::Code(0)));
        let words: Vec<String> = carried
            .told
            .iter()
            .flat_map(|told| told.words.clone())
            .collect();
        let reason = match (errors.first(), words.is_empty()) {
            (_, false) => format!("the porter {exit}: {}", words.join("; ")),
            (Some((_, report)), true) => format!("the porter {exit}: {}", report.text),
            (None, true) => format!("the porter {exit} without a word"),
        };
        Err(TransferError::Porter {
            operation,
            drive: pair.drive,
            address: end_of(pair, side).shell.address().to_owned(),
            reason,
        })
    }
}

fn direct_arguments(pair: &Pair, access: &DirectAccess, receive: &Command) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--host",
        &access.address.host,
        "--receive",
        receive.line(),
        "--temp",
        &pair.source.temp,
        "--name",
        &pair.name,
    ]
    .map(String::from)
    .to_vec();
    let options = [
        ("--user", access.address.user.clone()),
        ("--port", access.address.port.map(|port| port.to_string())),
        ("--ciphers", access.ciphers.clone()),
    ];
    for (key, value) in options {
        if let Some(value) = value {
            arguments.push(String::from(key));
            arguments.push(value);
        }
    }
    arguments
}
