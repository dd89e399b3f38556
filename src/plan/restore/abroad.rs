//! Guests that were sent to another cluster: how each comes back from there.
//!
//! Pure. What is here is the former self, to which the guest goes back with what has changed; or the guest itself, when
//! its move ended early. One that has not run there is given up, since that brings the guest back as it was and copies
//! nothing; one that has run there is finished, since what it wrote is only there. Read next: `plan/back.rs`.

use super::{Action, Return, Work};
use crate::plan::evacuate::decide::label;
use crate::plan::evacuate::facts::{Abroad, GuestFacts};
use crate::plan::evacuate::note::Away;
use crate::plan::{Severity, Verdict};

/// How a guest comes back from another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It goes to its former self, with what has changed.
    Back,
    /// Its move there is finished first, which it has nearly been.
    FinishAndBack,
    /// Its move there is given up.
    Abort,
}

impl Passage {
    /// Returns the word of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Passage::Back => "back",
            Passage::FinishAndBack => "finish, back",
            Passage::Abort => "give up",
        }
    }
}

impl Work<'_> {
    /// Decides about a guest that was sent to another cluster; `None` for one that is as any other.
    pub(super) fn sent_abroad(&mut self, guest: &GuestFacts, away: &Away) -> Option<Return> {
        let from = guest.sent_abroad()?.clone();
        let abroad = guest.seen.as_ref()?.abroad.clone()?;
        if abroad == Abroad::Home {
            return None;
        }
        let unfinished = matches!(abroad, Abroad::Begun { .. } | Abroad::Returning(_));
        if !self.request.move_guests {
            if unfinished {
                let reason = format!(
                    "its move to or from {from} is not finished, and its note is needed for that"
                );
                return Some(self.left(guest, Action::Stuck, reason));
            }
            return Some(Return {
                why: format!("stays on {from}; its note is removed here, as asked"),
                ..of(guest, Action::Forget, false)
            });
        }
        if guest.place.node != self.request.node {
            let reason = format!(
                "was sent to {from} from {}; bring it back there first: proxmove back {} {}",
                guest.place.node,
                from.cluster,
                guest.own_name()
            );
            return Some(self.left(guest, Action::Stuck, reason));
        }
        let (passage, why) = match abroad {
            Abroad::Home => return None,
            Abroad::Begun { by, runs: false } => (
                Passage::Abort,
                format!("its move to {from}, begun by {by}, ended early, and it never ran there"),
            ),
            Abroad::Begun { by, runs: true } => (
                Passage::FinishAndBack,
                format!("its move to {from}, begun by {by}, ended when it ran there already"),
            ),
            Abroad::There(Ok(why)) | Abroad::Returning(Ok(why)) => (Passage::Back, why),
            Abroad::There(Err(reason)) | Abroad::Returning(Err(reason)) => {
                let reason = format!("is on {from}, and has no way back: {reason}");
                return Some(self.left(guest, Action::Stuck, reason));
            }
            Abroad::Unknown(reason) => {
                let reason = format!("was sent to {from}: {reason}");
                return Some(self.left(guest, Action::Stuck, reason));
            }
            Abroad::NoAlias => {
                self.verdicts.push(Verdict {
                    guest: Some(label(guest)),
                    severity: Severity::Refuse,
                    code: "cluster-unknown",
                    reason: format!(
                        "was sent to {from} by {}, and proxmoverc has no [pve:{}]",
                        away.by, from.cluster
                    ),
                    remedy: "add that section, or leave the guest out with --exclude".to_owned(),
                });
                return Some(Return {
                    why: "refused".to_owned(),
                    ..of(guest, Action::Stuck, false)
                });
            }
        };
        if away.running
            && !guest.runs()
            && let Err(reason) = self.take_start(guest)
        {
            return Some(self.left(guest, Action::Stuck, reason));
        }
        let action = Action::FromCluster { from, passage };
        Some(Return {
            why,
            ..of(guest, action, away.running)
        })
    }
}

fn of(guest: &GuestFacts, action: Action, start: bool) -> Return {
    Return {
        place: guest.place.clone(),
        name: guest.own_name().to_owned(),
        action,
        start,
        why: String::new(),
        order: guest.seen.as_ref().and_then(|seen| seen.order),
        up_delay: guest.seen.as_ref().map_or(0, |seen| seen.up_delay),
    }
}
