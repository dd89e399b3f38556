//! What is known to happen to a guest before anything is placed: its policy, and the ways that are open to it.
//!
//! Pure. Read next: `judge.rs`.

use super::Work;
use crate::plan::Severity;
use crate::plan::evacuate::facts::{Abroad, GuestFacts, kind_word};
use crate::plan::evacuate::place::Mover;
use crate::plan::evacuate::way::{self, Way};
use crate::pve::destination::Destination;
use crate::pve::evacuation::Policy;
use crate::pve::guest::GuestKind;

/// What is known to happen to a guest before anything is placed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft<'a> {
    pub(super) guest: &'a GuestFacts,
    pub(super) policy: Policy,
    pub(super) fate: Fate,
    pub(super) ways: Vec<Way>,
    /// Why the better ways are closed.
    pub(super) because: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    Stay(String),
    Stop {
        force: bool,
        why: String,
    },
    HaManager,
    Across {
        to: Destination,
        else_stop: bool,
        why: String,
    },
    Place,
    /// Refused; the verdict is written already.
    Refused,
}

impl<'a> Draft<'a> {
    pub(super) fn mover(&self) -> Option<Mover<'_>> {
        Some(Mover {
            guest: self.guest,
            seen: self.guest.seen.as_ref()?,
            ways: &self.ways,
        })
    }

    pub(super) fn is_placed(&self) -> bool {
        matches!(self.fate, Fate::Place | Fate::HaManager)
    }
}

impl<'a> Work<'a> {
    /// Says what happens to a guest, as far as that can be said without a node.
    pub(super) fn draft(&mut self, guest: &'a GuestFacts) -> Draft<'a> {
        let chosen = match self.request.policies.choose(guest) {
            Ok(chosen) => chosen,
            Err(reason) => {
                self.refuse(
                    Some(guest),
                    "policy-wrong",
                    reason,
                    "correct the guest's tags or [evacuate:...] in proxmoverc",
                );
                return fixed(guest, Policy::Auto, Fate::Refused);
            }
        };
        let policy = chosen.policy;
        let stay = |why: &str| fixed(guest, policy, Fate::Stay(why.to_owned()));
        if guest.template {
            return stay("templates stay");
        }
        let by_ha = self.request.ha_maintenance && is_managed(guest);
        if let Some(why) = self.request.select.refuses(guest) {
            if by_ha {
                self.refuse(
                    Some(guest),
                    "ha-not-selected",
                    format!(
                        "{why}, but the HA manager moves it when the node goes into maintenance"
                    ),
                    "select it too, or use --no-ha-maintenance",
                );
            }
            return stay(&why);
        }
        if let Some(draft) = self.begun_abroad(guest, policy) {
            return draft;
        }
        if by_ha && !fits_ha(guest, policy) {
            self.refuse(
                Some(guest),
                "ha-policy",
                format!(
                    "its policy is {policy} ({}), but the HA manager moves it in its own way",
                    chosen.from
                ),
                "change the policy, or use --no-ha-maintenance",
            );
            return fixed(guest, policy, Fate::Refused);
        }
        let from = |what: &str| format!("{what} by policy ({})", chosen.from);
        match policy {
            Policy::Ignore => return stay(&from("ignored")),
            Policy::Stop | Policy::ForceStop if !guest.runs() => return stay("is stopped already"),
            Policy::Stop | Policy::ForceStop => {
                let force = policy == Policy::ForceStop;
                let why = from("stopped");
                return fixed(guest, policy, Fate::Stop { force, why });
            }
            Policy::Auto | Policy::LiveMigrate | Policy::Migrate => {}
        }
        if guest.lock.as_deref() == Some("suspended") {
            return stay("is hibernated, and cannot be moved before it was started");
        }
        if let Some(lock) = guest.lock.as_deref() {
            let reason = format!("is locked ({lock}); it is waited for before its turn");
            let remedy = "let the work that locked it end first";
            self.verdict(Severity::Warn, Some(guest), "guest-locked", reason, remedy);
        }
        if let Some(draft) = self.all_across(guest, policy, &chosen.from) {
            return draft;
        }
        let (ways, because) = match self.open_ways(guest, policy) {
            Ok(open) => open,
            Err(reason) => return self.nowhere(guest, policy, &chosen.from, &reason),
        };
        let fate = if by_ha { Fate::HaManager } else { Fate::Place };
        Draft {
            guest,
            policy,
            fate,
            ways,
            because,
        }
    }

    /// Says what happens to a guest that an evacuation has sent to another cluster already.
    fn begun_abroad(&mut self, guest: &'a GuestFacts, policy: Policy) -> Option<Draft<'a>> {
        let to = guest.sent_abroad()?;
        let known = guest.seen.as_ref()?.abroad.as_ref()?;
        let mut refuse = |code: &'static str, reason: String, remedy: &str| {
            self.refuse(Some(guest), code, reason, remedy);
            Fate::Refused
        };
        let fate = match known {
            Abroad::Home => return None,
            Abroad::There(_) => Fate::Stay(format!(
                "was moved to {to}; this is its way back, and stays"
            )),
            Abroad::Begun { by, .. } => Fate::Across {
                to: to.clone(),
                else_stop: false,
                why: format!("its move there was begun by {by}, and is gone on with"),
            },
            Abroad::Returning(_) => refuse(
                "coming-back",
                format!("is on its way back from {to}"),
                "finish that first: proxmove restore",
            ),
            Abroad::NoAlias => refuse(
                "cluster-unknown",
                format!(
                    "was sent to {to}, and proxmoverc has no [pve:{}]",
                    to.cluster
                ),
                "add that section, or leave the guest out with --exclude",
            ),
            Abroad::Unknown(reason) => refuse(
                "abroad-unknown",
                format!("was sent to {to}, and how far that is cannot be found out: {reason}"),
                "mend that, or leave the guest out with --exclude",
            ),
        };
        Some(fixed(guest, policy, fate))
    }

    /// Says what happens to a VM when all are to go to another cluster.
    fn all_across(
        &mut self,
        guest: &'a GuestFacts,
        policy: Policy,
        from: &str,
    ) -> Option<Draft<'a>> {
        let across = self.request.across.as_ref().filter(|across| across.all)?;
        if guest.place.kind != GuestKind::Qemu || guest.own_name() != guest.name {
            return None;
        }
        if is_managed(guest) {
            self.refuse(
                Some(guest),
                "ha-across",
                format!("is a guest of HA, and cannot be moved to {}", across.to),
                "take it out of HA, or use --to-cluster without --all-to-cluster",
            );
            return Some(fixed(guest, policy, Fate::Refused));
        }
        if guest.runs() && policy == Policy::LiveMigrate {
            self.refuse(
                Some(guest),
                "policy-impossible",
                format!(
                    "its policy is {policy} ({from}), but a move to another cluster shuts it down for the last part"
                ),
                "give it the policy 'migrate' or 'auto', or leave it out with --exclude",
            );
            return Some(fixed(guest, policy, Fate::Refused));
        }
        let fate = Fate::Across {
            to: across.to.clone(),
            else_stop: false,
            why: "all VMs go there (--all-to-cluster)".to_owned(),
        };
        Some(fixed(guest, policy, fate))
    }

    /// Says what happens to a guest that was planned to go, now.
    pub(super) fn draft_again(&self, guest: &'a GuestFacts) -> Result<Draft<'a>, String> {
        let policy = self.request.policies.choose(guest)?.policy;
        if let Some(lock) = &guest.lock {
            return Err(format!("it is locked ({lock})"));
        }
        let (ways, because) = self.open_ways(guest, policy)?;
        Ok(Draft {
            guest,
            policy,
            fate: Fate::Place,
            ways,
            because,
        })
    }

    /// Returns the ways nothing stands against, and why better ones are closed; the error says why all are.
    fn open_ways(&self, guest: &GuestFacts, policy: Policy) -> Result<(Vec<Way>, String), String> {
        let Some(seen) = &guest.seen else {
            return Err("has a configuration that could not be read".to_owned());
        };
        let mut open = Vec::new();
        let mut closed = Vec::new();
        for way in way::ways(guest, policy) {
            let against = way::obstacles(seen, *way, &self.request.allowed);
            if against.is_empty() {
                open.push(*way);
            } else if closed.is_empty() {
                closed = against;
            }
        }
        if open.is_empty() && closed.is_empty() {
            closed.push(format!(
                "a {} cannot be migrated while it runs",
                kind_word(guest.place.kind)
            ));
        }
        if open.is_empty() {
            return Err(closed.join("; "));
        }
        let because = if closed.is_empty() {
            String::new()
        } else {
            format!("not live: {}", closed.join("; "))
        };
        Ok((open, because))
    }

    /// Decides about a guest that can go nowhere at all.
    fn nowhere(
        &mut self,
        guest: &'a GuestFacts,
        policy: Policy,
        from: &str,
        reason: &str,
    ) -> Draft<'a> {
        let movable = guest.place.kind == GuestKind::Qemu && guest.own_name() == guest.name;
        let mut reason = reason.to_owned();
        if let Some(across) = self
            .request
            .across
            .as_ref()
            .filter(|_| guest.seen.is_some())
        {
            let live = guest.runs() && policy == Policy::LiveMigrate;
            if movable && !live && !is_managed(guest) {
                let fate = Fate::Across {
                    to: across.to.clone(),
                    else_stop: guest.runs() && policy == Policy::Auto,
                    why: format!("cannot go to another node: {reason}"),
                };
                return fixed(guest, policy, fate);
            }
            if guest.place.kind == GuestKind::Lxc {
                reason.push_str("; and containers cannot be moved to another cluster");
            }
        }
        if !guest.runs() {
            return fixed(
                guest,
                policy,
                Fate::Stay(format!("is stopped, and cannot be moved: {reason}")),
            );
        }
        if policy == Policy::Auto && guest.seen.is_some() {
            let why = format!("cannot be moved: {reason}");
            return fixed(guest, policy, Fate::Stop { force: false, why });
        }
        self.refuse(
            Some(guest),
            "policy-impossible",
            format!("its policy is {policy} ({from}), but it {reason}"),
            "remove what keeps it, or give it the policy 'stop', 'ignore' or 'auto'",
        );
        fixed(guest, policy, Fate::Refused)
    }
}

fn fixed<'a>(guest: &'a GuestFacts, policy: Policy, fate: Fate) -> Draft<'a> {
    Draft {
        guest,
        policy,
        fate,
        ways: Vec::new(),
        because: String::new(),
    }
}

/// Says whether the HA manager takes care of a guest.
pub fn is_managed(guest: &GuestFacts) -> bool {
    guest
        .ha
        .as_deref()
        .is_some_and(|state| !matches!(state, "ignored" | "disabled"))
}

/// Says whether what the HA manager would do is what the policy wants.
fn fits_ha(guest: &GuestFacts, policy: Policy) -> bool {
    match policy {
        Policy::Auto => true,
        Policy::LiveMigrate => guest.place.kind == GuestKind::Qemu,
        Policy::Migrate => guest.place.kind == GuestKind::Lxc,
        Policy::Stop | Policy::ForceStop | Policy::Ignore => false,
    }
}
