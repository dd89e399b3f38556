//! Pure: the names of our snapshots, and whose a snapshot is.
//!
//! ```text
//!  proxmove-565-126-3         the third snapshot of the move from guest 565 to guest 126
//!  proxmove-565-126-4-final   the fourth, taken when the guest was stopped
//! ```
//! A number is one more than the largest that is left on either side, so it depends on no clock and on no memory of
//! ours. A name proves nothing: ours is what carries the property [`MARK`] as well, set on the snapshot itself. Never
//! asks a host. Read next: `syntax.rs`.

use super::read::{Snapshot, Volume};
use crate::transfer::Pair;

/// The property that marks what is ours; its value is the move's name.
pub(crate) const MARK: &str = "proxmove:move";
/// The hold that keeps others from destroying what the next increment starts from.
pub(crate) const HOLD: &str = "proxmove";

const PREFIX: &str = "proxmove-";
const FINAL: &str = "-final";

/// Returns the name of the move that a pair belongs to: the pair's own, without its drive.
pub(crate) fn move_of(pair: &Pair) -> String {
    pair.name
        .strip_suffix(&format!("-{}", pair.drive))
        .unwrap_or(&pair.name)
        .to_owned()
}

/// Returns the name of a snapshot of a move.
pub(crate) fn snapshot(of: &str, number: u64, is_final: bool) -> String {
    format!("{PREFIX}{of}-{number}{}", if is_final { FINAL } else { "" })
}

/// Returns the number in the name of a snapshot or bookmark of this move.
pub(crate) fn number(of: &str, name: &str) -> Option<u64> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix(of)?;
    let rest = rest.strip_prefix('-')?;
    let digits = rest.strip_suffix(FINAL).unwrap_or(rest);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Says whether a name is that of a final snapshot of this move.
pub(crate) fn is_final(of: &str, name: &str) -> bool {
    number(of, name).is_some() && name.ends_with(FINAL)
}

/// Says whether a snapshot was made by this move.
pub(crate) fn is_of(of: &str, snapshot: &Snapshot) -> bool {
    snapshot.mark.as_deref() == Some(of) && number(of, &snapshot.name).is_some()
}

/// Says whether a snapshot was made by any move.
pub(crate) fn is_ours(snapshot: &Snapshot) -> bool {
    snapshot
        .mark
        .as_deref()
        .is_some_and(|of| number(of, &snapshot.name).is_some())
}

/// Returns the number for the next snapshot of a move over these volumes.
///
/// Marks do not matter here: a name that is taken is taken, whoever gave it.
pub(crate) fn next_number<'a>(of: &str, volumes: impl IntoIterator<Item = &'a Volume>) -> u64 {
    let names = volumes.into_iter().flat_map(|volume| {
        let snapshots = volume.snapshots.iter().map(|snapshot| &snapshot.name);
        snapshots.chain(volume.bookmarks.iter().map(|bookmark| &bookmark.name))
    });
    let largest = names.filter_map(|name| number(of, name)).max();
    largest.map_or(1, |largest| largest.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_made() {
        for (number, last) in [(1, false), (12, true)] {
            let name = snapshot("565-126", number, last);
            assert_eq!(super::number("565-126", &name), Some(number));
            assert_eq!(is_final("565-126", &name), last);
        }
        for other in [
            "proxmove-565-1267-3",
            "proxmove-565-126-",
            "proxmove-565-126-x",
            "proxmove-565-126-3-last",
            "proxmove-565-126-+3",
            "proxmove-565-126",
            "autosnap-565-126-3",
            "proxmove-565-126-99999999999999999999999",
        ] {
            assert_eq!(number("565-126", other), None, "{other}");
        }
    }
}
