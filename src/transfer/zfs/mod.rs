//! The engine for ZFS to ZFS: snapshots of all volumes of a guest at one moment, and the differences between them.
//!
//! ```text
//!  begin    one snapshot over all volumes of a host, marked and held
//!  carry    look -> decide -> one stream, or one step back -> look again ... until the target has that snapshot
//!  observe  facts alone: guids, and what was written since
//!  tidy     the newest common snapshot stays, held and marked, for the way back; ours but it go
//! ```
//! Nothing is remembered between runs but what is on the volumes: snapshots named and marked as ours, holds, resume
//! tokens. `zfs receive -F` is never used; a target that is not ours, or that was used, is refused with the evidence.
//! Of what is verified: ZFS checks the stream and, whenever it reads, the disk; so `Verify::Full` reads nothing again here,
//! and a finished final pass means the same guid on both sides with nothing written after it. A resumed stream may be
//! made by another run, of another operator. The engine never decides about a guest.
//!
//! Snapshots of the guest's own travel where a pair names them; they are never held, and lose their mark at the end.
//!
//! Read next: `name.rs`, `decide.rs` and `travel.rs` (pure), `syntax.rs` and `read.rs` (pure),
//! `pass.rs`, `stream.rs`, `keep.rs`.

mod decide;
mod keep;
mod look;
mod name;
mod pass;
mod read;
mod refusals;
mod stream;
mod syntax;
mod travel;

pub(crate) use name::{HOLD, MARK};

use std::path::PathBuf;

use async_trait::async_trait;

use super::carry::GrantDirect;
use super::image::{ImageEngine, end_of};
use super::lines::Side;
use super::porters::Porters;
use super::{Engine, Kept, Pair, Pass, PassReport, Tell, Tool, TransferError, VolumeState};
use crate::units::Bytes;
use decide::{Claim, Refusal};
use look::{look, look_closely, must, must_or, trouble};
use read::{Snapshot, Volume};

/// The engine for ZFS to ZFS. One value serves all pairs of a run.
pub struct ZfsEngine {
    porters: Porters,
}

impl ZfsEngine {
    /// Makes an engine that puts `executable`, which must be able to run on the hosts, there as the porter.
    pub fn new(executable: impl Into<PathBuf>) -> ZfsEngine {
        ZfsEngine {
            porters: Porters::new(executable.into()),
        }
    }

    /// Makes an engine that shares its porters with the one for images.
    pub fn beside(image: &ImageEngine) -> ZfsEngine {
        ZfsEngine {
            porters: image.porters(),
        }
    }

    /// Says how pairs with a direct route get their access; without it, that route fails.
    #[must_use]
    pub fn with_direct(mut self, grant: GrantDirect) -> ZfsEngine {
        self.porters.grant = Some(grant);
        self
    }
}

#[async_trait]
impl Engine for ZfsEngine {
    async fn prepare(&self, pairs: &[Pair]) -> Result<(), TransferError> {
        for pair in pairs.iter().filter(|pair| pair.tool == Tool::Porter) {
            for end in [&pair.source, &pair.target] {
                self.porters.uploads.enter(end, &pair.name).await;
                self.porters.uploads.ensure(end, pair.drive).await?;
            }
        }
        Ok(())
    }

    /// Takes one snapshot over all volumes of each source host. A repeat takes another one.
    async fn begin(&self, pairs: &[Pair], pass: Pass) -> Result<(), TransferError> {
        let operation = super::image::operation(pass);
        let Some(first) = pairs.first() else {
            return Ok(());
        };
        let of = name::move_of(first);
        let side = |side| async move {
            let mut volumes = Vec::new();
            for group in by_host(pairs, side) {
                volumes.extend(look(&group, side, operation).await?.into_iter().flatten());
            }
            Ok::<_, TransferError>(volumes)
        };
        let (mut volumes, of_target) = tokio::try_join!(side(Side::Source), side(Side::Target))?;
        volumes.extend(of_target);
        let number = name::next_number(&of, &volumes);
        let name = name::snapshot(&of, number, pass != Pass::Precopy);
        for group in by_host(pairs, Side::Source) {
            let mut datasets = Vec::new();
            for pair in &group {
                datasets.push(look::dataset(pair, Side::Source, operation)?);
            }
            let take = syntax::snapshot(&datasets, &name, &of);
            let take = take.and(&syntax::hold(&datasets, &name));
            must(group[0], Side::Source, operation, &take).await?;
        }
        Ok(())
    }

    async fn observe(&self, pair: &Pair) -> Result<VolumeState, TransferError> {
        const OPERATION: &str = "look at the target";
        const OF_SOURCE: &str = "look at the source";
        let claim = claim(pair);
        // Both at once: a stopped guest waits for this.
        let (source, target) = tokio::join!(
            look_closely(pair, Side::Source, OF_SOURCE, None),
            look_closely(pair, Side::Target, OPERATION, None)
        );
        let Some(target) = target? else {
            return Ok(VolumeState::Absent);
        };
        if !decide::is_target(&target, &claim) || target.kind != "volume" {
            return Ok(VolumeState::Foreign);
        }
        let partial = VolumeState::Partial {
            in_place: Bytes(target.content),
        };
        let Some(source) = source? else {
            return Ok(partial);
        };
        let Some((here, there)) = decide::sealed(&source, &target, &claim) else {
            return Ok(partial);
        };
        if travel::gone(&source, &claim).is_some()
            || !travel::missing(&source, &target, &claim).is_empty()
        {
            return Ok(partial);
        }
        let (source_since, target_since) = tokio::try_join!(
            since(pair, Side::Source, &source, here, OF_SOURCE),
            since(pair, Side::Target, &target, there, OPERATION)
        )?;
        Ok(match (source_since, target_since) {
            (Some(0), Some(0)) => VolumeState::Synced {
                digest: proof(here.guid),
            },
            (Some(0), _) => VolumeState::TargetNewer,
            _ => VolumeState::SourceNewer,
        })
    }

    async fn look_back(&self, pair: &Pair) -> Result<Kept, TransferError> {
        const OPERATION: &str = "look at the kept volume";
        let claim = Claim {
            adopt: true,
            ..claim(pair)
        };
        let Some(target) = look_closely(pair, Side::Target, OPERATION, None).await? else {
            return Ok(Kept::Missing);
        };
        let source = look(&[pair], Side::Source, OPERATION).await?;
        let Some(source) = source.into_iter().next().flatten() else {
            let evidence = format!("{} is gone", look::dataset(pair, Side::Source, OPERATION)?);
            return Ok(Kept::Unfit { evidence });
        };
        let (snapshot, base) = match decide::kept(&source, &target, &claim) {
            Ok(kept) => kept,
            Err(refusal) => {
                let evidence = refusal.to_string();
                return Ok(Kept::Unfit { evidence });
            }
        };
        let changed = match base {
            syntax::Base::Snapshot(name) => {
                let volume = look_closely(pair, Side::Source, OPERATION, Some(&name)).await?;
                volume.and_then(|volume| volume.since)
            }
            syntax::Base::Bookmark(_) => None,
        };
        Ok(Kept::Base {
            snapshot,
            changed: Bytes(changed.unwrap_or(source.content)),
        })
    }

    async fn carry(
        &self,
        pair: &Pair,
        pass: Pass,
        tell: Tell<'_>,
    ) -> Result<PassReport, TransferError> {
        pass::carry(self, pair, pass, tell).await
    }

    async fn take_back(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "giving up what the target holds";
        let claim = claim(pair);
        let Some(target) = look_closely(pair, Side::Target, OPERATION, None).await? else {
            return Ok(());
        };
        let source = look(&[pair], Side::Source, OPERATION).await?;
        let Some(source) = source.into_iter().next().flatten() else {
            return Ok(());
        };
        if !decide::is_target(&target, &claim) {
            return Ok(());
        }
        let to = decide::given_up(&source, &target, &claim)
            .map_err(|refused| refusal(pair, OPERATION, &refused))?;
        match to {
            Some(to) => keep::back(pair, OPERATION, &target, &to, &[]).await,
            None => Ok(()),
        }
    }

    /// Leaves the newest common snapshot on both sides, held and marked; the target is a volume as any other then.
    ///
    /// With snapshots of the guest's own nothing of ours is left: Proxmox VE rolls a volume back only to its newest
    /// snapshot, and the guest's newest is common to both sides as well.
    async fn tidy(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "tidying up";
        let claim = claim(pair);
        let source = look(&[pair], Side::Source, OPERATION).await?;
        let source = source.into_iter().next().flatten();
        let target = look(&[pair], Side::Target, OPERATION).await?;
        // Whosever the target is by now: of its snapshots only those go that carry our mark.
        let target = target.into_iter().next().flatten();
        let common: Option<(Snapshot, Snapshot)> = match (&source, &target) {
            (Some(source), Some(target)) => {
                decide::common(source, target).map(|(here, there)| (here.clone(), there.clone()))
            }
            (Some(_) | None, Some(_) | None) => None,
        };
        let mine = common
            .as_ref()
            .filter(|(here, _)| name::is_ours(here) && claim.snapshots.is_empty() && !pair.forget);
        for (side, volume, other) in [
            (Side::Source, &source, &target),
            (Side::Target, &target, &source),
        ] {
            let Some(volume) = volume else { continue };
            let keep = mine.map(|(here, there)| match side {
                Side::Source => here,
                Side::Target => there,
            });
            // What an earlier move left for its way back is of no use once both sides have something newer, or when no
            // way back is wanted.
            let superseded = |snapshot: &Snapshot| {
                let both = other
                    .as_ref()
                    .is_some_and(|other| other.snapshot(snapshot.guid).is_some());
                both && (pair.forget || keep.is_some_and(|keep| snapshot.created < keep.created))
            };
            let name = keep.map(|keep| keep.name.as_str());
            keep::prune(pair, side, OPERATION, &claim, volume, name, &superseded).await?;
        }
        if let Some(target) = &target {
            keep::drop_unwanted(pair, OPERATION, &claim, target).await?;
            keep::hand_over(pair, OPERATION, &claim, target).await?;
        }
        if let Some(target) = target.filter(|target| decide::is_marked(target, &claim)) {
            let unmark = syntax::unmark(&target.dataset);
            must(pair, Side::Target, OPERATION, &unmark).await?;
        }
        self.leave(pair).await
    }

    async fn discard(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "removal of the copy";
        let claim = claim(pair);
        let found = look(&[pair], Side::Target, OPERATION).await?;
        if let Some(target) = found.into_iter().next().flatten() {
            if decide::is_marked(&target, &claim) {
                keep::destroy_target(pair, OPERATION, &claim, &target).await?;
            } else if !claim.adopt {
                // Our snapshots of the source have no use here.
                self.tidy(pair).await?;
                return Err(TransferError::Foreign {
                    address: pair.target.shell.address().to_owned(),
                    path: target.dataset,
                });
            } else if target.token.is_some() && !target.snapshots.is_empty() {
                // It was there before this move, and stays; what was on its way into it goes.
                keep::abandon(pair, OPERATION).await?;
            }
        }
        self.tidy(pair).await
    }
}

impl ZfsEngine {
    /// Removes our own files of a pair from both hosts.
    async fn leave(&self, pair: &Pair) -> Result<(), TransferError> {
        const OPERATION: &str = "tidying up";
        if pair.tool == Tool::Stock {
            return Ok(());
        }
        for side in [Side::Source, Side::Target] {
            let end = end_of(pair, side);
            let files = super::upload::shell(super::image::TIDY, &[&end.temp, &pair.name]);
            must_or(pair, side, OPERATION, &files, &[]).await?;
            self.porters
                .uploads
                .leave(end, &pair.name, pair.drive)
                .await?;
        }
        Ok(())
    }
}

/// Returns whose the target of a pair may be.
fn claim(pair: &Pair) -> Claim {
    Claim {
        of: name::move_of(pair),
        adopt: pair.adopt,
        snapshots: pair.snapshots.iter().cloned().collect(),
    }
}

/// Returns how much was written to a volume since one of its snapshots; what was seen of it tells when that is the newest.
async fn since(
    pair: &Pair,
    side: Side,
    seen: &Volume,
    snapshot: &Snapshot,
    operation: &'static str,
) -> Result<Option<u64>, TransferError> {
    if seen.newest() == Some(snapshot) {
        return Ok(Some(seen.written));
    }
    let volume = look_closely(pair, side, operation, Some(&snapshot.name)).await?;
    Ok(volume.and_then(|volume| volume.since))
}

/// Returns what proves that both sides are equal.
fn proof(guid: u64) -> String {
    format!("zfs guid {guid}")
}

/// Groups pairs by the host of one of their ends.
fn by_host(pairs: &[Pair], side: Side) -> Vec<Vec<&Pair>> {
    let mut groups: Vec<Vec<&Pair>> = Vec::new();
    for pair in pairs {
        let address = end_of(pair, side).shell.address();
        let known = groups
            .iter_mut()
            .find(|group| end_of(group[0], side).shell.address() == address);
        match known {
            Some(group) => group.push(pair),
            None => groups.push(vec![pair]),
        }
    }
    groups
}

fn refusal(pair: &Pair, operation: &'static str, refusal: &Refusal) -> TransferError {
    let side = match refusal {
        Refusal::NoGoal { .. } | Refusal::Gone { .. } | Refusal::Late { .. } => Side::Source,
        Refusal::Foreign { .. }
        | Refusal::Kind { .. }
        | Refusal::Diverged { .. }
        | Refusal::Missed { .. }
        | Refusal::Newer { .. }
        | Refusal::Written { .. } => Side::Target,
    };
    trouble(pair, side, operation, refusal.to_string())
}
