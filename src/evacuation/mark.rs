//! The note and the tag on a guest that is away from its node.
//!
//! Both go in one call, so that there is never one without the other; only our own lines and our own tag are touched.
//! Every method may be repeated. Read next: `plan/evacuate/note.rs`.

use std::collections::BTreeMap;

use super::Evacuator;
use super::close::is_conflict;
use crate::cluster::{ApiError, ConfigChange};
use crate::plan::evacuate::note::{Away, Sent, tag, with_tag, without_tag};
use crate::pve::guest::{GuestRef, LONGEST_DESCRIPTION};

const TRIES: usize = 5;
/// What a move to another cluster notes on its source, without which nobody finds the way back.
const ROOM_FOR_MOVE: usize = 256;

/// Why a guest could not be marked.
#[derive(Debug, thiserror::Error)]
pub(super) enum MarkError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("its notes are too long to hold another one")]
    NoRoom,
    #[error("somebody else changes its configuration all the time")]
    Contested,
}

impl Evacuator {
    /// Notes on a guest where it belongs. An older note of the same node keeps what it says about the former state.
    ///
    /// Returns the note that is there now.
    pub(super) async fn mark(&self, place: &GuestRef, away: &Away) -> Result<Away, MarkError> {
        for _ in 0..TRIES {
            let detail = self.api.guest(place).await?;
            let noted = match Away::parse(detail.description()) {
                // A guest that was away already goes home to its first origin, in its first state.
                Some(known) => Away {
                    to: away.to.clone(),
                    bridges: away.bridges.clone(),
                    ..known
                },
                None => away.clone(),
            };
            let description = noted.put(detail.description()).ok_or(MarkError::NoRoom)?;
            if matches!(noted.to, Sent::Cluster(_))
                && description.chars().count() + ROOM_FOR_MOVE > LONGEST_DESCRIPTION
            {
                return Err(MarkError::NoRoom);
            }
            let tags = detail.config.value("tags").unwrap_or_default();
            let change = ConfigChange {
                set: BTreeMap::from([
                    ("description".to_owned(), description),
                    ("tags".to_owned(), with_tag(tags, &tag(&noted.origin))),
                ]),
                delete: Vec::new(),
                digest: detail.config.value("digest").map(str::to_owned),
            };
            match self.api.configure(place, &change).await {
                Ok(()) => return Ok(noted),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MarkError::Contested)
    }

    /// Removes note and tag.
    pub(super) async fn unmark(&self, place: &GuestRef) -> Result<(), MarkError> {
        for _ in 0..TRIES {
            let detail = self.api.guest(place).await?;
            let tags = detail.config.value("tags").unwrap_or_default();
            let left = without_tag(tags);
            let description = Away::remove(detail.description());
            let is_noted = description != detail.description() || left != tags;
            if !is_noted {
                return Ok(());
            }
            let mut change = ConfigChange {
                digest: detail.config.value("digest").map(str::to_owned),
                ..ConfigChange::default()
            };
            for (key, value) in [("description", description), ("tags", left)] {
                if !value.trim().is_empty() {
                    change.set.insert(key.to_owned(), value);
                } else if detail.config.value(key).is_some() {
                    change.delete.push(key.to_owned());
                }
            }
            match self.api.configure(place, &change).await {
                Ok(()) => return Ok(()),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MarkError::Contested)
    }
}
