//! Which guests an evacuation is about.
//!
//! Pure. A guest that is not selected stays, and the plan says why. Read next: `policy.rs`.

use super::facts::GuestFacts;
use crate::pve::evacuation::Selector;
use crate::pve::id::PoolId;

/// What the operator selected. Everything, unless something is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Guests that match any of these; all, when there are none.
    pub only: Vec<Selector>,
    /// Guests that match any of these stay.
    pub exclude: Vec<Selector>,
}

impl Selection {
    /// Returns why a guest is not selected, or nothing.
    pub fn refuses(&self, guest: &GuestFacts) -> Option<String> {
        if let Some(selector) = self
            .exclude
            .iter()
            .find(|selector| matches(selector, guest))
        {
            return Some(format!("excluded by {selector}"));
        }
        if self.only.is_empty() || self.only.iter().any(|selector| matches(selector, guest)) {
            return None;
        }
        Some("not selected".to_owned())
    }

    /// Returns the selectors that match none of the guests; they are most likely slips.
    pub fn idle<'a>(&'a self, guests: &'a [&GuestFacts]) -> impl Iterator<Item = &'a Selector> {
        self.only
            .iter()
            .chain(&self.exclude)
            .filter(|selector| !guests.iter().any(|guest| matches(selector, guest)))
    }
}

/// Says whether a selector names a guest.
pub fn matches(selector: &Selector, guest: &GuestFacts) -> bool {
    match selector {
        Selector::Vmid(vmid) => guest.place.vmid == *vmid,
        Selector::Tag(tag) => guest.tags.contains(tag),
        Selector::Pool(pool) => guest.pool.as_ref().is_some_and(|of| is_inside(of, pool)),
        // One that is being moved to another cluster, or was, is still called so.
        Selector::Name(name) => {
            guest.name == *name || (guest.sent_abroad().is_some() && guest.own_name() == name)
        }
    }
}

/// Says whether a pool is another one or is nested in it.
fn is_inside(inner: &PoolId, outer: &PoolId) -> bool {
    inner
        .as_str()
        .strip_prefix(outer.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
