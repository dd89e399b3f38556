//! Finding interrupted moves by their marks, from the clusters alone.
//!
//! Changes nothing. Read next: `mod.rs`.

use std::collections::BTreeMap;

use crate::cluster::{Api, ApiError};
use crate::plan::facts::{Existing, ExistingMoves};
use crate::plan::mark::{Mark, NameMark};
use crate::pve::guest::{GuestKind, GuestSummary};

/// Finds the moves of the named guests that began earlier.
///
/// A guest of the target belongs to a move when it has the guest's name, with or without `--CREATING`, and its notes
/// carry the mark. Everything else of that name is somebody else's.
pub async fn find(
    names: &[String],
    target_guests: &[GuestSummary],
    target: &dyn Api,
) -> Result<ExistingMoves, ApiError> {
    let mut found = BTreeMap::new();
    for guest in target_guests {
        let Some(present) = &guest.name else { continue };
        let (name, mark) = NameMark::split(present);
        let ours = matches!(mark, NameMark::Creating | NameMark::Plain);
        if guest.place.kind != GuestKind::Qemu
            || !ours
            || !names.iter().any(|wanted| wanted == name)
        {
            continue;
        }
        let detail = match target.guest(&guest.place).await {
            Ok(detail) => detail,
            Err(error) if error.says_no_such_guest() => continue,
            Err(error) => return Err(error),
        };
        if let Some(mark) = Mark::parse(detail.description()).filter(|mark| mark.name == name) {
            found.insert(
                name.to_owned(),
                Existing {
                    target: guest.place.clone(),
                    mark,
                    former: None,
                },
            );
        }
    }
    Ok(found)
}
