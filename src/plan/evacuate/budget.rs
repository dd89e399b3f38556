//! Disruption budgets: how many guests of a kind must run at any time.
//!
//! Pure. A live migration is no disruption. What a budget can never allow is refused before the first change; what it
//! allows only one after the other waits. Read next: `schedule.rs`.

use std::collections::BTreeSet;

use super::facts::Inventory;
use super::select::matches;
use crate::pve::evacuation::Selector;
use crate::pve::id::Vmid;

/// A budget as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name.
    pub name: String,
    /// The guests it protects.
    pub guests: Selector,
    /// As many of them run at any time.
    pub min_running: usize,
}

/// A budget with the guests of a cluster it protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Its name.
    pub name: String,
    /// As many of them run at any time.
    pub min_running: usize,
    /// All its guests.
    pub members: BTreeSet<Vmid>,
    /// Those that run now.
    pub running: BTreeSet<Vmid>,
}

impl Protected {
    /// Looks up a budget's guests.
    pub fn new(budget: &Budget, inventory: &Inventory) -> Protected {
        let members: Vec<_> = inventory
            .guests
            .iter()
            .filter(|guest| !guest.template && matches(&budget.guests, guest))
            .collect();
        Protected {
            name: budget.name.clone(),
            min_running: budget.min_running,
            members: members.iter().map(|guest| guest.place.vmid).collect(),
            running: members
                .iter()
                // A guest on a node that is not there runs for nobody.
                .filter(|guest| guest.runs() && inventory.is_online(&guest.place.node))
                .map(|guest| guest.place.vmid)
                .collect(),
        }
    }

    /// Returns why a running guest must not be taken down now, or nothing.
    pub fn refuses(&self, guest: Vmid) -> Option<String> {
        let left = self.running.len().saturating_sub(1);
        (self.running.contains(&guest) && left < self.min_running).then(|| {
            format!(
                "budget {}: {} of its guests must run, and {} do",
                self.name,
                self.min_running,
                self.running.len()
            )
        })
    }

    /// Judges a plan as a whole: `stopped` stay down, `restarted` are down for a while, one after the other, before
    /// anything is stopped. Returns what can never happen.
    pub fn judge(&self, stopped: &BTreeSet<Vmid>, restarted: &BTreeSet<Vmid>) -> Option<String> {
        let count = |of: &BTreeSet<Vmid>| of.intersection(&self.running).count();
        let (stopped, restarted) = (count(stopped), count(restarted));
        let running = self.running.len();
        if stopped > 0 && running - stopped < self.min_running {
            return Some(format!(
                "{stopped} of its {running} running guests would be stopped, and {} must run",
                self.min_running
            ));
        }
        if restarted > 0 && running - 1 < self.min_running {
            return Some(format!(
                "{running} of its guests run and {} must, so that none can be restarted",
                self.min_running
            ));
        }
        None
    }
}
