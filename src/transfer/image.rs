//! The engine for images: files (raw, qcow2) and zvols, copied while the guest runs.
//!
//! Same format on both sides: the bytes of the file itself, so an image keeps its internal snapshots. Different formats:
//! what the guest sees, with no second copy in between. The work is done by porters on the hosts; this engine puts them
//! there, connects them, and turns what they say into values. It never reads a volume itself and never decides about a
//! guest. Of block devices, only zvols can be targets, since only they can say whose they are; any other one counts as
//! foreign. Read next: `device.rs` (zvols), `carry.rs`, `upload.rs`, then `porter/mod.rs`; `stock.rs` for hosts where no
//! porter can run.

pub(super) mod arguments;

use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;

use arguments::{send_arguments, target_arguments};

use super::carry::GrantDirect;
use super::device::{self, Whose, Zvols};
use super::lines::{About, Side, most_telling};
use super::porters::Porters;
use super::upload::{self, shell};
use super::{
    End, Engine, Kept, News, Pair, Pass, PassReport, Progress, Tell, Tool, TransferError,
    VolumeState, stock,
};
use crate::host::command::Command;
use crate::host::{Exit, Output, ShellError};
use crate::porter::{SourceState, Target};
use crate::units::Bytes;

/// Says, without a porter, whether there is a target (`absent`), a manifest beside it, and how much space it takes.
const GLANCE: &str = r#"test -e "$1" || test -L "$1" || { echo absent; exit 0; }
test -e "$2/proxmove-$3.manifest" || { echo foreign; exit 0; }
stat -c 'there %b %B' -- "$1""#;

/// Says of a file when it was written to, and what its host takes the time for.
const LOOK_BACK: &str = r#"test -e "$1" || test -L "$1" || { echo missing; exit 0; }
test -f "$1" && ! test -L "$1" || { echo unfit; exit 0; }
echo "there $(stat -c %Y -- "$1") $(date +%s)""#;

/// Removes our files of a pair, and drafts and private directories that killed passes left.
///
/// A private directory for which temp has too long a name is elsewhere (`porter/direct.rs`), where it may be that of
/// another move between the same numbers: there, only those whose maker is gone are removed.
pub(crate) const TIDY: &str = r#"for left in /tmp/"proxmove-$2.agent-"* "${XDG_RUNTIME_DIR:-/tmp}/proxmove-$2.agent-"*; do
maker="${left#*.agent-}"; test -e "/proc/${maker%%-*}" || rm -rf -- "$left"; done
cd "$1" 2>/dev/null || exit 0
for kind in manifest seal stock agent; do rm -rf -- "proxmove-$2.$kind" "proxmove-$2.$kind-"*; done"#;

/// The engine for images. One value serves all pairs of a run.
pub struct ImageEngine {
    porters: Porters,
}

impl ImageEngine {
    /// Makes an engine that puts `executable`, which must be able to run on the hosts, there as the porter.
    pub fn new(executable: impl Into<PathBuf>) -> ImageEngine {
        ImageEngine {
            porters: Porters::new(executable.into()),
        }
    }

    /// Says how pairs with a direct route get their access; without it, that route fails.
    #[must_use]
    pub fn with_direct(mut self, grant: GrantDirect) -> ImageEngine {
        self.porters.grant = Some(grant);
        self
    }

    /// Returns the porters, for another engine to share.
    pub(crate) fn porters(&self) -> Porters {
        self.porters.clone()
    }

    /// Runs a porter command that only reads, for as long as it says something.
    pub(super) async fn porter_reads(
        &self,
        pair: &Pair,
        side: Side,
        operation: &'static str,
        arguments: &[&str],
    ) -> Result<Vec<u8>, TransferError> {
        self.porter_for(pair, side, operation, arguments, super::carry::PATIENCE)
            .await
    }

    /// Runs a short porter command and returns what it printed. Puts a porter that was removed back, once.
    async fn porter(
        &self,
        pair: &Pair,
        side: Side,
        operation: &'static str,
        arguments: &[&str],
    ) -> Result<Vec<u8>, TransferError> {
        self.porter_for(pair, side, operation, arguments, upload::PATIENCE)
            .await
    }

    async fn porter_for(
        &self,
        pair: &Pair,
        side: Side,
        operation: &'static str,
        arguments: &[&str],
        patience: std::time::Duration,
    ) -> Result<Vec<u8>, TransferError> {
        let end = end_of(pair, side);
        let mut again = true;
        loop {
            let path = self.porters.uploads.ensure(end, pair.drive).await?;
            let command = Command::new(path).arg("porter").args(arguments);
            let output = end
                .shell
                .run(&command, &[], patience)
                .await
                .map_err(|source| host(operation, pair, source))?;
            match output.exit {
                Exit::Code(0) => return Ok(output.stdout),
                Exit::Code(126 | 127) if again => {
                    self.porters.uploads.forget(end).await;
                    again = false;
                }
                Exit::Code(_) | Exit::Signal(_) => {
                    return Err(failed(pair, side, operation, &output));
                }
            }
        }
    }

    async fn observe_porter(
        &self,
        pair: &Pair,
        zvols: Zvols,
    ) -> Result<VolumeState, TransferError> {
        const OPERATION: &str = "look at the target";
        let arguments = target_arguments("observe", pair, zvols);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let printed = self
            .porter(pair, Side::Target, OPERATION, &arguments)
            .await?;
        let target = read_json::<Target>(pair, Side::Target, OPERATION, &printed)?;
        let (in_place, seal, kept) = match target {
            Target::Absent => return Ok(VolumeState::Absent),
            Target::Foreign => return Ok(VolumeState::Foreign),
            Target::Ours {
                in_place,
                seal,
                kept,
            } => (Bytes(in_place), seal, kept),
        };
        let partial = VolumeState::Partial { in_place };
        let Some(seal) = seal else {
            return Ok(partial);
        };
        let same = if seal.source.file {
            self.source_file_same(pair, &seal.source).await?
        } else {
            device::source_same(pair, &seal.source).await?
        };
        let kept = match zvols.target {
            Some(_) => device::target_kept(pair, &seal.digest).await?,
            None => Some(kept),
        };
        Ok(match (same, kept) {
            (Some(true), Some(true)) => VolumeState::Synced {
                digest: seal.digest,
            },
            (Some(true), Some(false)) => VolumeState::TargetNewer,
            (Some(false), _) => VolumeState::SourceNewer,
            (None, _) | (Some(true), None) => partial,
        })
    }

    /// Says whether the source file is what the seal speaks of; `None` while there is no porter to look at it.
    async fn source_file_same(
        &self,
        pair: &Pair,
        sealed: &SourceState,
    ) -> Result<Option<bool>, TransferError> {
        const OPERATION: &str = "look at the source";
        if self
            .porters
            .uploads
            .find(&pair.source, pair.drive)
            .await?
            .is_none()
        {
            return Ok(None);
        }
        let arguments = ["state", "--path", &pair.source.path];
        let printed = self
            .porter(pair, Side::Source, OPERATION, &arguments)
            .await?;
        let source = read_json::<SourceState>(pair, Side::Source, OPERATION, &printed)?;
        Ok(Some(source == *sealed))
    }

    /// Finds out as much as possible while there is no porter on the target, and writes nothing to get one there.
    async fn glance(&self, pair: &Pair) -> Result<VolumeState, TransferError> {
        const OPERATION: &str = "look at the target";
        let command = shell(GLANCE, &[&pair.target.path, &pair.target.temp, &pair.name]);
        let output = pair
            .target
            .shell
            .run(&command, &[], upload::PATIENCE)
            .await
            .map_err(|source| host(OPERATION, pair, source))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        match (&output.exit, words.as_slice()) {
            (Exit::Code(0), ["absent"]) => Ok(VolumeState::Absent),
            (Exit::Code(0), ["foreign"]) => Ok(VolumeState::Foreign),
            (Exit::Code(0), ["there", blocks, size]) => {
                let number = |text: &str| text.parse::<u64>().unwrap_or(0);
                Ok(VolumeState::Partial {
                    in_place: Bytes(number(blocks) * number(size)),
                })
            }
            _ => Err(failed(pair, Side::Target, OPERATION, &output)),
        }
    }
}

#[async_trait]
impl Engine for ImageEngine {
    async fn prepare(&self, pairs: &[Pair]) -> Result<(), TransferError> {
        for pair in pairs {
            if pair.tool == Tool::Stock {
                continue;
            }
            for end in [&pair.source, &pair.target] {
                self.porters.uploads.enter(end, &pair.name).await;
                self.porters.uploads.ensure(end, pair.drive).await?;
            }
        }
        Ok(())
    }

    /// Nothing: a pass compares what is there while it runs, volume by volume.
    async fn begin(&self, _pairs: &[Pair], _pass: Pass) -> Result<(), TransferError> {
        Ok(())
    }

    async fn observe(&self, pair: &Pair) -> Result<VolumeState, TransferError> {
        let seen = match device::target(pair).await? {
            None if pair.tool == Tool::Stock => return stock::observe(pair).await,
            None => None,
            Some(Whose::Nobodys) => return Ok(VolumeState::Absent),
            Some(Whose::Foreign { .. }) => return Ok(VolumeState::Foreign),
            Some(Whose::Ours(seen)) => Some(seen),
        };
        let zvols = Zvols {
            target: seen.as_ref().map(|seen| seen.guid),
            ..Zvols::default()
        };
        match (
            self.porters.uploads.find(&pair.target, pair.drive).await?,
            seen,
        ) {
            (Some(_), _) => self.observe_porter(pair, zvols).await,
            (None, Some(seen)) => Ok(VolumeState::Partial {
                in_place: seen.referenced,
            }),
            (None, None) => self.glance(pair).await,
        }
    }

    async fn look_back(&self, pair: &Pair) -> Result<Kept, TransferError> {
        const OPERATION: &str = "look at the kept volume";
        if pair.tool == Tool::Stock {
            return Ok(Kept::Unfit {
                evidence: format!(
                    "only the porter can write on {}, and it cannot run on both hosts",
                    pair.target.path
                ),
            });
        }
        match device::target(pair).await? {
            None => {}
            Some(Whose::Nobodys) => return Ok(Kept::Missing),
            Some(Whose::Ours(_) | Whose::Foreign { adoptable: true }) => return Ok(Kept::Untold),
            Some(Whose::Foreign { adoptable: false }) => {
                return Ok(Kept::Unfit {
                    evidence: format!("{} is no zvol of the guest alone", pair.target.path),
                });
            }
        }
        let command = shell(LOOK_BACK, &[&pair.target.path]);
        let output = pair
            .target
            .shell
            .run(&command, &[], upload::PATIENCE)
            .await
            .map_err(|source| host(OPERATION, pair, source))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        match (&output.exit, words.as_slice()) {
            (Exit::Code(0), ["missing"]) => Ok(Kept::Missing),
            (Exit::Code(0), ["unfit"]) => Ok(Kept::Unfit {
                evidence: format!("{} is no plain file", pair.target.path),
            }),
            (Exit::Code(0), ["there", written, now]) => {
                match (written.parse::<i64>(), now.parse::<i64>()) {
                    (Ok(written), Ok(now)) => Ok(Kept::File { written, now }),
                    _ => Err(failed(pair, Side::Target, OPERATION, &output)),
                }
            }
            _ => Err(failed(pair, Side::Target, OPERATION, &output)),
        }
    }

    async fn carry(
        &self,
        pair: &Pair,
        pass: Pass,
        tell: Tell<'_>,
    ) -> Result<PassReport, TransferError> {
        let tell = &|now: Progress| tell(News::Progress(now));
        if pair.tool == Tool::Stock {
            if let Some(zvol) = &pair.target.zvol {
                return Err(TransferError::Porter {
                    operation: operation(pass),
                    drive: pair.drive,
                    address: pair.target.shell.address().to_owned(),
                    reason: format!("only the porter can write to {}, a zvol", zvol.dataset),
                });
            }
            return stock::carry(pair, pass, tell).await;
        }
        let zvols = device::before(pair, pass).await?;
        let started = Instant::now();
        let mut receive = target_arguments("receive", pair, zvols);
        for (set, option) in [(pair.adopt, "--adopt"), (pair.kept, "--kept")] {
            if set {
                receive.extend([option, "yes"].map(String::from));
            }
        }
        let send = send_arguments(pair, pass, zvols);
        let finished = self
            .porters
            .carry(pair, operation(pass), &send, &receive, tell)
            .await?;
        let report = PassReport {
            progress: finished.progress,
            duration: started.elapsed(),
            digest: match pass {
                Pass::Precopy => None,
                Pass::Final(_) => Some(finished.digest),
            },
            repaired: finished.repaired,
            repaired_at: finished.repaired_at,
        };
        device::after(pair, pass, zvols, &report).await?;
        Ok(report)
    }

    async fn take_back(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "giving up what the target holds";
        if pair.tool == Tool::Stock {
            return stock::unseal(pair).await;
        }
        let arguments = target_arguments("doubt", pair, Zvols::default());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = self.porter(pair, Side::Target, OPERATION, &arguments).await;
        done.map(drop)
    }

    async fn tidy(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "tidying up";
        device::tidy(pair).await?;
        for side in [Side::Source, Side::Target] {
            let end = end_of(pair, side);
            let command = shell(TIDY, &[&end.temp, &pair.name]);
            let output = end
                .shell
                .run(&command, &[], upload::PATIENCE)
                .await
                .map_err(|source| host(OPERATION, pair, source))?;
            if output.exit != Exit::Code(0) {
                return Err(failed(pair, side, OPERATION, &output));
            }
            if pair.tool == Tool::Porter {
                self.porters
                    .uploads
                    .leave(end, &pair.name, pair.drive)
                    .await?;
            }
        }
        Ok(())
    }

    async fn discard(&self, pair: &Pair) -> Result<(), TransferError> {
        if pair.kept {
            // It was there before this move.
            return self.tidy(pair).await;
        }
        if pair.target.zvol.is_some() {
            device::discard(pair).await?;
            return self.tidy(pair).await;
        }
        if pair.tool == Tool::Stock {
            stock::discard(pair).await?;
            return self.tidy(pair).await;
        }
        // Without a porter there, there may be nothing to discard at all.
        match self.observe(pair).await? {
            VolumeState::Absent => {}
            VolumeState::Foreign => {
                return Err(TransferError::Foreign {
                    address: pair.target.shell.address().to_owned(),
                    path: pair.target.path.clone(),
                });
            }
            VolumeState::Partial { .. }
            | VolumeState::SourceNewer
            | VolumeState::TargetNewer
            | VolumeState::Synced { .. } => {
                let arguments = target_arguments("discard", pair, Zvols::default());
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                self.porter(pair, Side::Target, "removal of the copy", &arguments)
                    .await?;
            }
        }
        self.tidy(pair).await
    }
}

pub(crate) fn end_of(pair: &Pair, side: Side) -> &End {
    match side {
        Side::Source => &pair.source,
        Side::Target => &pair.target,
    }
}

/// Returns the words for a pass in errors.
pub(crate) fn operation(pass: Pass) -> &'static str {
    match pass {
        Pass::Precopy => "pre-copy",
        Pass::Final(_) => "final delta",
    }
}

pub(crate) fn host(operation: &'static str, pair: &Pair, source: ShellError) -> TransferError {
    TransferError::Host {
        operation,
        drive: pair.drive,
        source,
    }
}

/// Turns a failed short command into an error, from a porter's report when there is one.
pub(crate) fn failed(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    output: &Output,
) -> TransferError {
    let mut told = super::lines::Told::new(side);
    told.take(&output.stderr, &|_| {});
    told.end();
    let about = About {
        operation,
        drive: pair.drive,
        source: pair.source.shell.address(),
        target: pair.target.shell.address(),
        direct: false,
    };
    match most_telling(&told.errors) {
        Some((side, report)) => about.error(*side, report),
        None => TransferError::Porter {
            operation,
            drive: pair.drive,
            address: end_of(pair, side).shell.address().to_owned(),
            reason: format!("the command {}: {}", output.exit, told.words.join("; ")),
        },
    }
}

fn read_json<T: serde::de::DeserializeOwned>(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    printed: &[u8],
) -> Result<T, TransferError> {
    serde_json::from_slice(printed).map_err(|error| TransferError::Porter {
        operation,
        drive: pair.drive,
        address: end_of(pair, side).shell.address().to_owned(),
        reason: format!("it printed something unexpected: {error}"),
    })
}
