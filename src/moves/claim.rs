//! Claiming a move: taking it, giving signs, noticing that somebody else took it, and leaving it.
//!
//! A claim stands in the placeholder's notes and is only ever written together with the digest it was judged by, so of
//! two operators one is refused. Reads /proc of this machine to know whether a process lives. Never decides who may: that
//! is `plan/claim.rs`. Read next: `plan/claim.rs`.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::observe::{is_of, seen};
use super::{GuestMove, MoveError, Mover};
use crate::cluster::{Api, ApiError, ConfigChange};
use crate::plan::claim::{Claim, Claimant, SIGN, Standing, judge};
use crate::plan::mark::{CREATING, Mark};
use crate::pve::guest::{GuestDetail, GuestKind, GuestRef};
use crate::report::Event;

/// How often a change is tried again that somebody else's came before.
pub(super) const ATTEMPTS: usize = 5;

/// How long leaving a claim may take: it is a courtesy, and a claim that is not left becomes stale.
const COURTESY: Duration = Duration::from_secs(5);

/// Returns who this process is.
pub fn here(by: &str) -> Claimant {
    let number = std::process::id();
    // Process numbers mean the same only since the same boot, and in the same namespace.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default();
    let hash = Sha256::digest(format!("{}{space}", boot.trim()));
    let machine: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Claimant {
        by: by.to_owned(),
        process: format!("{number}.{}", started(number).unwrap_or_default()),
        machine,
    }
}

/// Says whether a process of this machine lives: the number, and when it was started.
fn lives(process: &str) -> bool {
    let Some((number, start)) = process.split_once('.') else {
        return false;
    };
    number
        .parse()
        .is_ok_and(|number| started(number).is_some_and(|found| found == start))
}

/// Returns when a process was started, in ticks since the boot; `None` when there is none, or it is dead already.
fn started(number: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields begin behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" => None,
        _ => fields.get(19).map(|ticks| (*ticks).to_owned()),
    }
}

/// Returns the time by a cluster's clock.
pub(super) async fn now(api: &dyn Api) -> Timestamp {
    let skew = api.clock_skew_seconds().await.unwrap_or(0);
    let seconds = Timestamp::now().as_second().saturating_add(skew);
    Timestamp::from_second(seconds).unwrap_or_else(|_| Timestamp::now())
}

/// Judges the claim of a mark for somebody who only looks.
pub(super) fn standing(mark: &Mark, now: Timestamp) -> Standing {
    let nobody = Claimant {
        process: String::new(),
        ..here("")
    };
    judge(mark.claim.as_ref(), &nobody, now, lives)
}

/// Says whether the server refused a change because somebody else's came before; releases have different words.
pub(super) fn is_late(error: &ApiError) -> bool {
    let reason = error.reason();
    reason.contains("file change by other user")
        || reason.contains("detected modified configuration")
}

/// Signs that are given as long as this lives.
pub(super) struct Signs(JoinHandle<()>);

impl Drop for Signs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Mover {
    /// Claims a move that has a placeholder already; one that has none is claimed when that is created.
    pub(super) async fn claim(&self, job: &GuestMove) -> Result<(), MoveError> {
        let failed = || job.api("claiming the move");
        for _ in 0..ATTEMPTS {
            let found = seen(self.target.as_ref(), &job.plan.target)
                .await
                .map_err(failed())?;
            let Some(detail) = found.filter(|detail| is_of(detail, job)) else {
                return Ok(());
            };
            let Some(mark) = Mark::parse(detail.description()) else {
                return Ok(());
            };
            job.note(&mark);
            let now = now(self.target.as_ref()).await;
            let told = match judge(mark.claim.as_ref(), &self.claimant, now, lives) {
                Standing::Ours => return Ok(()),
                Standing::Free => None,
                Standing::Ended(claim) => Some(format!(
                    "the process of {} that worked on it has ended",
                    claim.describe(now)
                )),
                Standing::Stale(claim, _) => Some(format!(
                    "stale claim of {} is taken over",
                    claim.describe(now)
                )),
                Standing::Held(claim, _) if !self.take_over => {
                    return Err(MoveError::Held {
                        guest: job.plan.name.clone(),
                        holder: claim.describe(now),
                    });
                }
                Standing::Held(claim, _) => {
                    Some(format!("taken over from {}", claim.describe(now)))
                }
            };
            let claim = Some(Claim::new(&self.claimant, now));
            // Drives that the guest has got since it was placed.
            let mut volumes = job.mark.volumes.clone();
            volumes.extend(mark.volumes.clone());
            let claimed = Mark {
                claim,
                volumes,
                ..mark
            };
            match write(self.target.as_ref(), &detail, &claimed).await {
                Ok(()) => {
                    if let Some(text) = told {
                        let guest = Some(job.plan.name.clone());
                        self.reporter.tell(&Event::Notice { guest, text });
                    }
                    return Ok(());
                }
                // Whoever was first is judged in the next round.
                Err(error) if is_late(&error) => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        Err(MoveError::Held {
            guest: job.plan.name.clone(),
            holder: "somebody who changes the placeholder all the time".to_owned(),
        })
    }

    /// Gives signs that the claim is alive, and notices when it is lost.
    pub(super) fn give_signs(&self, job: &GuestMove) -> Signs {
        let (api, claimant) = (Arc::clone(&self.target), self.claimant.clone());
        let (place, lost) = (job.plan.target.clone(), Arc::clone(&job.lost));
        Signs(tokio::spawn(async move {
            loop {
                tokio::time::sleep(SIGN).await;
                if let Err(error) = sign(api.as_ref(), &place, &claimant, &lost).await {
                    log::debug!("no sign could be given: {error}");
                }
            }
        }))
    }

    /// Changes the mark, as long as the move is ours.
    pub(super) async fn change_mark(
        &self,
        job: &GuestMove,
        step: &str,
        change: impl Fn(&Mark) -> Mark,
    ) -> Result<(), MoveError> {
        let mut attempt = 1;
        loop {
            let (_, target) = self.still_ours(job).await?;
            let Some((detail, mark)) = target.and_then(|detail| {
                let mark = Mark::parse(detail.description())?;
                Some((detail, mark))
            }) else {
                return Ok(());
            };
            let changed = change(&mark);
            if changed == mark {
                job.note(&mark);
                return Ok(());
            }
            match write(self.target.as_ref(), &detail, &changed).await {
                Ok(()) => {
                    job.note(&changed);
                    return Ok(());
                }
                Err(error) if is_late(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(job.api(step)(error)),
            }
        }
    }

    /// Leaves the claim, so that whoever comes next need not wait. Failing is no harm.
    pub(super) async fn leave(&self, job: &GuestMove) {
        let leaving = async {
            let detail = self.target.guest(&job.plan.target).await.ok()?;
            let mark = Mark::parse(detail.description())?;
            if !is_held_by(&mark, &self.claimant) {
                return None;
            }
            let mark = Mark {
                claim: None,
                ..mark
            };
            write(self.target.as_ref(), &detail, &mark).await.ok()
        };
        let _ = tokio::time::timeout(COURTESY, leaving).await;
    }

    /// Makes sure that nobody else created a placeholder for the same guest at the same moment; whoever sees another one
    /// gives way, so that of two at most one goes on.
    pub(super) async fn give_way(&self, job: &GuestMove) -> Result<(), MoveError> {
        let failed = || job.api("looking for other moves of the guest");
        let api = self.target.as_ref();
        for node in api.nodes().await.map_err(failed())? {
            if !node.online {
                continue;
            }
            for guest in api.guests_on(&node.name).await.map_err(failed())? {
                let wanted = format!("{}{CREATING}", job.plan.name);
                if guest.place.vmid == job.plan.target.vmid
                    || guest.place.kind != GuestKind::Qemu
                    || guest.name.as_deref() != Some(&wanted)
                {
                    continue;
                }
                let Some(detail) = seen(api, &guest.place).await.map_err(failed())? else {
                    continue;
                };
                let Some(other) = Mark::parse(detail.description()).filter(|mark| {
                    mark.source == job.mark.source && mark.source_cluster == job.mark.source_cluster
                }) else {
                    continue;
                };
                // Nothing was copied into it yet, and it carries our own mark.
                api.delete(&job.plan.target).await.map_err(failed())?;
                return Err(MoveError::Held {
                    guest: job.plan.name.clone(),
                    holder: format!("{}, who began at the same moment", other.by),
                });
            }
        }
        Ok(())
    }
}

/// Says whether a mark is claimed by somebody else.
pub(super) fn taken_by(mark: &Mark, me: &Claimant) -> Option<String> {
    let claim = mark.claim.as_ref()?;
    let other = claim.claimant.process != me.process || claim.claimant.machine != me.machine;
    other.then(|| claim.claimant.by.clone())
}

fn is_held_by(mark: &Mark, me: &Claimant) -> bool {
    mark.claim.is_some() && taken_by(mark, me).is_none()
}

/// Gives one sign.
async fn sign(
    api: &dyn Api,
    place: &GuestRef,
    claimant: &Claimant,
    lost: &watch::Sender<bool>,
) -> Result<(), ApiError> {
    let Some(detail) = seen(api, place).await? else {
        return Ok(());
    };
    let Some(mark) = Mark::parse(detail.description()) else {
        return Ok(());
    };
    if taken_by(&mark, claimant).is_some() {
        lost.send_replace(true);
        return Ok(());
    }
    let Some(claim) = mark.claim.clone() else {
        return Ok(());
    };
    let seen = now(api).await;
    let claim = Some(Claim { seen, ..claim });
    match write(api, &detail, &Mark { claim, ..mark }).await {
        // The next sign looks again.
        Err(error) if is_late(&error) => Ok(()),
        other => other,
    }
}

/// Writes a mark in the place of the one that was read, unless the guest was changed since.
pub(super) async fn write(api: &dyn Api, read: &GuestDetail, mark: &Mark) -> Result<(), ApiError> {
    let description = mark.replaced_in(read.description());
    let change = ConfigChange {
        set: [("description".to_owned(), description)].into(),
        delete: Vec::new(),
        digest: read.config.value("digest").map(str::to_owned),
    };
    api.configure(&read.place, &change).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_of_another_time_does_not() {
        let me = here("ann@laptop");
        assert!(lives(&me.process), "{me:?}");
        assert_eq!(me, here("ann@laptop"));
        let (number, _) = me.process.split_once('.').expect("number and start");
        assert!(!lives(&format!("{number}.1")));
        assert!(!lives("0.0") && !lives("") && !lives(number));
        assert_eq!(me.machine.len(), 12);
    }
}
