//! Which policy a guest has, and who said so.
//!
//! Pure. The nearest word counts: the configuration's on this very guest, then the guest's own tag, then the
//! configuration's by name, tag and pool, then the default. Two words at the same distance that differ are a mistake,
//! found before anything is changed. Read next: `way.rs`.

use super::facts::GuestFacts;
use super::select::matches;
use crate::pve::evacuation::{Policy, Selector};

/// What a tag that names a policy begins with: `evacuate-stop`.
pub const TAG_PREFIX: &str = "evacuate-";

/// The configuration's policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// For guests that nothing else is said about.
    pub default: Policy,
    /// Policies for guests by selectors.
    pub rules: Vec<(Selector, Policy)>,
}

/// A guest's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What happens to it.
    pub policy: Policy,
    /// Who said so: `tag evacuate-stop`, `tag=web in the configuration`, or `default`.
    pub from: String,
}

impl Policies {
    /// Finds a guest's policy; the error says what is wrong.
    pub fn choose(&self, guest: &GuestFacts) -> Result<Chosen, String> {
        let own = self.configured(guest, |selector| matches!(selector, Selector::Vmid(_)))?;
        if let Some(chosen) = own {
            return Ok(chosen);
        }
        if let Some(chosen) = tagged(guest)? {
            return Ok(chosen);
        }
        let kinds: [fn(&Selector) -> bool; 3] = [
            |selector| matches!(selector, Selector::Name(_)),
            |selector| matches!(selector, Selector::Tag(_)),
            |selector| matches!(selector, Selector::Pool(_)),
        ];
        for kind in kinds {
            if let Some(chosen) = self.configured(guest, kind)? {
                return Ok(chosen);
            }
        }
        Ok(Chosen {
            policy: self.default,
            from: "default".to_owned(),
        })
    }

    fn configured(
        &self,
        guest: &GuestFacts,
        kind: fn(&Selector) -> bool,
    ) -> Result<Option<Chosen>, String> {
        let found = self
            .rules
            .iter()
            .filter(|(selector, _)| kind(selector) && matches(selector, guest))
            .map(|(selector, policy)| (*policy, format!("{selector} in the configuration")));
        one(found)
    }
}

fn tagged(guest: &GuestFacts) -> Result<Option<Chosen>, String> {
    let mut found = Vec::new();
    for tag in &guest.tags {
        let Some(word) = tag.strip_prefix(TAG_PREFIX) else {
            continue;
        };
        let policy: Policy = word
            .parse()
            .map_err(|error: crate::pve::id::InvalidId| format!("its tag '{tag}': {error}"))?;
        found.push((policy, format!("tag {tag}")));
    }
    one(found.into_iter())
}

fn one(mut found: impl Iterator<Item = (Policy, String)>) -> Result<Option<Chosen>, String> {
    let Some((policy, from)) = found.next() else {
        return Ok(None);
    };
    match found.find(|(other, _)| *other != policy) {
        Some((other, also)) => Err(format!(
            "{from} says {policy}, and {also} says {other}; which of them counts nobody knows"
        )),
        None => Ok(Some(Chosen { policy, from })),
    }
}
