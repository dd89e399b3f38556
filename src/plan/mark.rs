//! The mark: what a placeholder's notes say about the move it belongs to, and the names a guest has on the way.
//!
//! Pure. The mark is the only memory of a move: everything else is observed. A person can read it, and every proxmove on
//! any machine continues from it. Lines that are not known are left out of account, so that an older release reads a newer
//! one's marks, and the newer one those of the older, which say less. Read next: `order.rs`, `claim.rs`, `state.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::claim::Claim;
use super::order::Order;
use crate::pve::drive::DriveKey;
use crate::pve::guest::{GuestKind, GuestRef, LONGEST_DESCRIPTION};
use crate::pve::ha::HaSettings;
use crate::pve::id::{ClusterAlias, Vmid, Volid};

/// The name suffix of a placeholder on the target.
pub const CREATING: &str = "--CREATING";
/// The name suffix of a stopped source whose final delta is under way.
pub const CLONING: &str = "--CLONING";
/// The name suffix of a retired source.
pub const MIGRATED: &str = "--MIGRATED";

const FIRST_LINE: &str = "proxmove: this guest is being moved here, please leave it alone";
const LAST_LINE: &str = "proxmove: end of the move's notes";
const RETIRED: &str = "proxmove: moved to ";
const KEPT: &str = "kept: ";
const NOTHING: &str = "nothing";
const MOVING: &str = "proxmove: being moved to ";
/// Room for the lines that come and go: who works on it, and that it is finishing.
const ROOM_TO_COME: usize = 256;

/// What a placeholder's notes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The source cluster's alias at the operator's who began.
    pub source_cluster: ClusterAlias,
    /// Where the source guest was.
    pub source: GuestRef,
    /// Its name.
    pub name: String,
    /// Whether it ran when the move began.
    pub running: bool,
    /// Its `onboot` before the move.
    pub onboot: bool,
    /// Whether its configuration said so at all, rather than leaving it to the default.
    pub onboot_set: bool,
    /// What tells this move from any other of the same guest, also on the source; older releases wrote none.
    pub id: Option<String>,
    /// Who began, `user@machine`.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
    /// Each copied drive's volume on the target.
    pub volumes: BTreeMap<DriveKey, Volid>,
    /// On a way back, where the placeholder is the guest's own former self: the drives whose volumes were there before.
    /// Neither that guest nor these volumes are ever removed.
    pub kept: Option<BTreeSet<DriveKey>>,
    /// Whether the target is the guest now, and only our own things are still to be removed; the proof that it has all
    /// goes with them.
    pub finishing: bool,
    /// Whether it is being returned to its source after the target did not come up, as was asked for: what was written on
    /// the target is given up.
    pub returning: bool,
    /// What HA had for the source before it was told to ignore it.
    pub ha: Option<HaSettings>,
    /// The fingerprint of the source's configuration that the placeholder was made from; older releases wrote none.
    pub made_from: Option<String>,
    /// What was asked for; older releases did not write it.
    pub order: Option<Order>,
    /// Who works on it just now.
    pub claim: Option<Claim>,
}

impl Mark {
    /// Returns the notes of the placeholder.
    pub fn render(&self) -> String {
        let yes_no = |value: bool| if value { "yes" } else { "no" };
        let source = &self.source;
        let mut lines = vec![
            FIRST_LINE.to_owned(),
            format!(
                "source: {} {} {} {}",
                self.source_cluster, source.node, source.kind, source.vmid
            ),
            format!("name: {}", self.name),
            format!("running: {}", yes_no(self.running)),
            format!("onboot: {}", yes_no(self.onboot)),
            format!("by: {}", self.by),
            format!("since: {}", self.since),
        ];
        if let Some(kept) = &self.kept {
            let drives: Vec<String> = kept.iter().map(ToString::to_string).collect();
            lines.push(match drives.is_empty() {
                true => format!("{KEPT}{NOTHING}"),
                false => format!("{KEPT}{}", drives.join(" ")),
            });
        }
        if !self.onboot_set {
            lines.push("onboot-set: no".to_owned());
        }
        if self.finishing {
            lines.push("finishing: yes".to_owned());
        }
        if self.returning {
            lines.push("returning: yes".to_owned());
        }
        lines.extend(
            self.ha
                .iter()
                .map(|ha| format!("ha: {}", super::ha::render(ha))),
        );
        lines.extend(self.id.iter().map(|id| format!("id: {id}")));
        let made_from = self.made_from.iter();
        lines.extend(made_from.map(|text| format!("made-from: {text}")));
        lines.extend(
            self.volumes
                .iter()
                .map(|(drive, volid)| format!("volume: {drive} {volid}")),
        );
        if let Some(order) = &self.order {
            let order = format!("order: {}", order.render());
            let length: usize = lines.iter().map(|line| line.chars().count() + 1).sum();
            // Rather to be told again than no mark at all.
            if length + order.chars().count() + LAST_LINE.len() + ROOM_TO_COME
                <= LONGEST_DESCRIPTION
            {
                lines.push(order);
            }
        }
        let claim = self.claim.iter();
        lines.extend(claim.map(|claim| format!("claim: {}", claim.render())));
        lines.push(LAST_LINE.to_owned());
        lines.join("\n")
    }

    /// Returns the notes of a placeholder that was there before, with its own below; without them when they do not fit.
    pub fn over(&self, notes: &str) -> String {
        let (mark, notes) = (self.render(), without_mark(notes));
        let both = format!("{mark}\n\n{notes}");
        match notes.is_empty() || both.chars().count() + ROOM_TO_COME > LONGEST_DESCRIPTION {
            true => mark,
            false => both,
        }
    }

    /// Returns notes with this mark in the place of the one in them; what people wrote around it stays.
    pub fn replaced_in(&self, notes: &str) -> String {
        let lines: Vec<&str> = notes.lines().map(str::trim_end).collect();
        let first = lines.iter().position(|line| *line == FIRST_LINE);
        let last = lines.iter().position(|line| *line == LAST_LINE);
        let mark = self.render();
        match (first, last) {
            (Some(first), Some(last)) if first < last => {
                let mut kept: Vec<&str> = lines[..first].to_vec();
                kept.push(&mark);
                kept.extend(&lines[last + 1..]);
                kept.join("\n")
            }
            _ => mark,
        }
    }

    /// Finds the mark in a guest's notes; `None` when there is none, or when it was damaged.
    ///
    /// A damaged mark is no mark: what proxmove does not recognise as its own it does not touch.
    pub fn parse(notes: &str) -> Option<Mark> {
        let mut lines = notes
            .lines()
            .map(str::trim_end)
            .skip_while(|line| *line != FIRST_LINE)
            .skip(1);
        let mut values = BTreeMap::new();
        let mut volumes = BTreeMap::new();
        loop {
            let line = lines.next()?;
            if line == LAST_LINE {
                break;
            }
            let (key, value) = line.split_once(": ")?;
            if key == "volume" {
                let (drive, volid) = value.split_once(' ')?;
                volumes.insert(drive.parse().ok()?, volid.parse().ok()?);
            } else {
                values.insert(key, value);
            }
        }
        let yes_no = |key: &str| match *values.get(key)? {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        let kept = match values.get("kept").copied() {
            None => None,
            Some(NOTHING) => Some(BTreeSet::new()),
            Some(drives) => {
                let drives = drives.split(' ').map(|drive| drive.parse().ok());
                Some(drives.collect::<Option<BTreeSet<DriveKey>>>()?)
            }
        };
        let mut source = values.get("source")?.split(' ');
        let source_cluster = source.next()?.parse().ok()?;
        let node = source.next()?.parse().ok()?;
        let kind = match source.next()? {
            "qemu" => GuestKind::Qemu,
            "lxc" => GuestKind::Lxc,
            _ => return None,
        };
        let vmid = source.next()?.parse().ok()?;
        Some(Mark {
            source_cluster,
            source: GuestRef { node, kind, vmid },
            name: (*values.get("name")?).to_owned(),
            running: yes_no("running")?,
            onboot: yes_no("onboot")?,
            onboot_set: yes_no("onboot-set").unwrap_or(true),
            id: values.get("id").map(|id| (*id).to_owned()),
            made_from: values.get("made-from").map(|text| (*text).to_owned()),
            by: (*values.get("by")?).to_owned(),
            since: (*values.get("since")?).to_owned(),
            volumes,
            kept,
            finishing: yes_no("finishing").unwrap_or(false),
            returning: yes_no("returning").unwrap_or(false),
            ha: values.get("ha").and_then(|line| super::ha::parse(line)),
            order: values.get("order").and_then(|line| Order::parse(line)),
            claim: values.get("claim").and_then(|line| Claim::parse(line)),
        })
    }
}

/// Returns notes without a mark in them.
fn without_mark(notes: &str) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in notes.lines() {
        inside |= line.trim_end() == FIRST_LINE;
        if !inside {
            kept.push(line);
        }
        inside &= line.trim_end() != LAST_LINE;
    }
    kept.join("\n").trim().to_owned()
}

/// Adds the note of a retired source to its description, instead of an older one.
///
/// Proxmox VE refuses descriptions over 8192 characters; the note is left out rather than any of the guest's own text.
pub fn with_retired_note(description: &str, target: &str, since: &str, id: Option<&str>) -> String {
    let id = id.map(|id| format!(" (move {id})")).unwrap_or_default();
    with_note(
        description,
        &format!(
            "{RETIRED}{target} on {since}{id}; kept as a way back, do not start it while it runs there"
        ),
    )
}

/// Adds the note of a source that is being moved to its description, so that a second move of it is noticed.
pub fn with_moving_note(description: &str, target: &str, id: Option<&str>) -> String {
    match id {
        Some(id) => with_note(description, &format!("{MOVING}{target} (move {id})")),
        None => without_retired_note(description),
    }
}

/// Adds the note of a former self, the way back to which was given up, to its description, instead of an older one.
///
/// It reads as that of a retired source, but names no time: what was written since then was written by that way back.
pub fn with_given_up_note(description: &str, target: &str) -> String {
    with_note(
        description,
        &format!(
            "{RETIRED}{target}; a way back was given up, its volumes are partly overwritten: do not start it"
        ),
    )
}

fn with_note(description: &str, note: &str) -> String {
    let original = without_retired_note(description);
    let noted = if original.is_empty() {
        note.to_owned()
    } else {
        format!("{}\n\n{note}", original.trim_end())
    };
    if noted.chars().count() > LONGEST_DESCRIPTION {
        original
    } else {
        noted
    }
}

/// What the note of a retired source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The cluster it was moved to, by the alias that the mover's operator had for it.
    pub cluster: ClusterAlias,
    /// Its VMID there.
    pub vmid: Vmid,
    /// When it was retired, in seconds since 1970 by the mover's clock; `None` when that cannot be read.
    pub since: Option<i64>,
}

/// Reads the note of a retired source off its description; `None` when there is none.
pub fn retired_note(description: &str) -> Option<Retired> {
    let note = description
        .lines()
        .find_map(|line| line.trim_end().strip_prefix(RETIRED))?;
    let (moved, _) = note.split_once(';').unwrap_or((note, ""));
    let (cluster, vmid) = moved.split(' ').next()?.split_once('/')?;
    let when = moved.rsplit_once(" on ").map_or("", |(_, when)| when);
    // Behind it stands which move it was.
    let when = when.split_once(" (").map_or(when, |(when, _)| when);
    Some(Retired {
        cluster: cluster.parse().ok()?,
        vmid: vmid.parse().ok()?,
        since: seconds_of(when),
    })
}

/// Reads `2026-01-02 03:04:05 UTC`; the seconds may be missing, and are the last of that minute then.
fn seconds_of(when: &str) -> Option<i64> {
    let when = when.trim().strip_suffix(" UTC")?.replacen(' ', "T", 1);
    let full = match when.matches(':').count() {
        1 => format!("{when}:59Z"),
        _ => format!("{when}Z"),
    };
    let time: jiff::Timestamp = full.parse().ok()?;
    Some(time.as_second())
}

fn is_note(line: &str) -> bool {
    line.starts_with(RETIRED) || line.starts_with(MOVING)
}

/// Returns a description without the note of a source that is being moved or was.
pub fn without_retired_note(description: &str) -> String {
    if !description.lines().any(is_note) {
        return description.to_owned();
    }
    let kept: Vec<&str> = description.lines().filter(|line| !is_note(line)).collect();
    kept.join("\n").trim_end().to_owned()
}

/// Returns which move a source's note speaks of, when it says so: its id, and where to.
pub fn noted_move(description: &str) -> Option<(&str, &str)> {
    let note = description.lines().find(|line| is_note(line))?;
    let rest = note
        .strip_prefix(RETIRED)
        .or_else(|| note.strip_prefix(MOVING))?;
    let (place, rest) = rest.split_once(" (move ")?;
    let (id, _) = rest.split_once(')')?;
    Some((id, place))
}

/// The part of a name that says how far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameMark {
    /// The guest's own name.
    Plain,
    /// `--CREATING`.
    Creating,
    /// `--CLONING`.
    Cloning,
    /// `--MIGRATED`.
    Migrated,
}

impl NameMark {
    /// Splits a guest's present name into its own name and the mark.
    pub fn split(name: &str) -> (&str, NameMark) {
        [
            (CREATING, NameMark::Creating),
            (CLONING, NameMark::Cloning),
            (MIGRATED, NameMark::Migrated),
        ]
        .into_iter()
        .find_map(|(suffix, mark)| Some((name.strip_suffix(suffix)?, mark)))
        .unwrap_or((name, NameMark::Plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark() -> Mark {
        Mark {
            source_cluster: "apple".parse().expect("parses"),
            source: GuestRef {
                node: "node1".parse().expect("parses"),
                kind: GuestKind::Qemu,
                vmid: "565".parse().expect("parses"),
            },
            name: "web1".to_owned(),
            running: true,
            onboot: false,
            onboot_set: false,
            id: Some("1f2e3d4c".to_owned()),
            made_from: Some("0a1b2c3d4e5f".to_owned()),
            by: "ann@laptop".to_owned(),
            since: "2026-01-02T03:04:05Z".to_owned(),
            volumes: BTreeMap::from([(
                "virtio0".parse().expect("parses"),
                "local-ssd:126/vm-126-disk-0.qcow2".parse().expect("parses"),
            )]),
            kept: None,
            finishing: false,
            returning: false,
            ha: None,
            order: Order::parse("banana node2 local-ssd --skip-start"),
            claim: Claim::parse("ann@laptop 42.1 aa 2026-01-02T03:04:05Z 2026-01-02T03:05:05Z"),
        }
    }

    #[test]
    fn a_mark_survives_the_notes_of_a_guest() {
        assert_eq!(Mark::parse(&mark().render()), Some(mark()));
        let surrounded = format!(
            "a colleague wrote this\n{}  \nand this\n",
            mark().render().replace('\n', "\r\n")
        );
        assert_eq!(Mark::parse(&surrounded), Some(mark()));
    }

    #[test]
    fn a_mark_says_that_its_move_is_finishing() {
        assert!(!mark().render().contains("finishing"));
        let finishing = Mark {
            finishing: true,
            ..mark()
        };
        assert_eq!(Mark::parse(&finishing.render()), Some(finishing));
    }

    #[test]
    fn a_mark_says_what_was_kept_for_a_way_back() {
        assert!(!mark().render().contains("kept"));
        let drives = |names: &[&str]| -> BTreeSet<DriveKey> {
            names
                .iter()
                .map(|name| name.parse().expect("parses"))
                .collect()
        };
        for kept in [
            drives(&[]),
            drives(&["scsi1"]),
            drives(&["scsi1", "virtio0"]),
        ] {
            let mark = Mark {
                kept: Some(kept),
                ..mark()
            };
            assert_eq!(Mark::parse(&mark.render()), Some(mark));
        }
        // Over notes that have a mark of an earlier attempt, one is left, and what is not ours stays.
        let old = mark()
            .over("mine\nproxmove: moved to banana/126 on node2 on 2026-01-02 03:04 UTC; kept");
        let new = Mark {
            since: "2027-01-01T00:00:00Z".to_owned(),
            ..mark()
        };
        let over = new.over(&old);
        assert_eq!(Mark::parse(&over), Some(new));
        assert_eq!(over.matches(FIRST_LINE).count(), 1);
        assert!(
            over.contains("\n\nmine\nproxmove: moved to banana/126"),
            "{over}"
        );
        assert_eq!(
            mark().over(&"x".repeat(LONGEST_DESCRIPTION)),
            mark().render()
        );
        let damaged = mark().render().replace("by: ", "kept: floppy9\nby: ");
        assert_eq!(Mark::parse(&damaged), None);
    }

    #[test]
    fn a_mark_says_that_a_guest_is_being_returned() {
        assert!(!mark().render().contains("returning"));
        let mark = Mark {
            returning: true,
            ha: super::super::ha::parse("started max-restart=2 comment=ask Ann"),
            ..mark()
        };
        assert!(
            mark.render()
                .contains("\nha: started max-restart=2 comment=ask Ann\n")
        );
        assert_eq!(Mark::parse(&mark.render()), Some(mark));
    }

    #[test]
    fn the_note_of_a_retired_source_is_read() {
        let check = |note: &str, expect: Option<(&str, &str, Option<i64>)>| {
            let found = retired_note(&format!("my notes\n\n{note}\n"));
            let found =
                found.map(|note| (note.cluster.to_string(), note.vmid.to_string(), note.since));
            let expect = expect.map(|(cluster, vmid, since)| (cluster.into(), vmid.into(), since));
            assert_eq!(found, expect, "{note}");
        };
        let noted = with_retired_note(
            "",
            "banana/126 on node2",
            "2026-01-02 03:04:05 UTC",
            Some("0a1b2c3d"),
        );
        check(&noted, Some(("banana", "126", Some(1_767_323_045))));
        let minute = with_retired_note("", "banana/126 on node2", "2026-01-02 03:04 UTC", None);
        check(&minute, Some(("banana", "126", Some(1_767_323_099))));
        check(
            "proxmove: moved to banana/126",
            Some(("banana", "126", None)),
        );
        check(
            "proxmove: moved to banana/126 on Tuesday",
            Some(("banana", "126", None)),
        );
        for other in [
            "",
            "proxmove: moved to somewhere",
            "proxmove: moved to a/b on c",
            "moved to banana/126",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn a_damaged_mark_is_none() {
        let text = mark().render();
        for (line, removed) in text.lines().enumerate() {
            let damaged: Vec<_> = text
                .lines()
                .enumerate()
                .filter(|(at, _)| *at != line)
                .map(|(_, text)| text)
                .collect();
            let parsed = Mark::parse(&damaged.join("\n"));
            let less = match removed.split(':').next() {
                Some("volume") => Mark {
                    volumes: BTreeMap::new(),
                    ..mark()
                },
                Some("onboot-set") => Mark {
                    onboot_set: true,
                    ..mark()
                },
                Some("id") => Mark { id: None, ..mark() },
                Some("made-from") => Mark {
                    made_from: None,
                    ..mark()
                },
                Some("order") => Mark {
                    order: None,
                    ..mark()
                },
                Some("claim") => Mark {
                    claim: None,
                    ..mark()
                },
                _ => {
                    assert_eq!(parsed, None, "without line {line}");
                    continue;
                }
            };
            assert_eq!(parsed, Some(less), "without line {line}");
        }
    }

    #[test]
    fn the_mark_of_an_older_release_is_read() {
        let text = "proxmove: this guest is being moved here, please leave it alone\n\
            source: apple node1 qemu 565\nname: web1\nrunning: yes\nonboot: no\nby: ann@laptop\n\
            since: 2026-01-02T03:04:05Z\nvolume: virtio0 local-ssd:126/vm-126-disk-0.qcow2\n\
            proxmove: end of the move's notes";
        let expect = Mark {
            onboot_set: true,
            id: None,
            made_from: None,
            order: None,
            claim: None,
            ..mark()
        };
        assert_eq!(Mark::parse(text), Some(expect));
    }

    #[test]
    fn a_mark_takes_the_place_of_the_one_before() {
        let notes = format!("above\r\n{}\nbelow\n", mark().render());
        let other = Mark {
            claim: None,
            ..mark()
        };
        let replaced = other.replaced_in(&notes);
        assert_eq!(replaced, format!("above\n{}\nbelow", other.render()));
        assert_eq!(other.replaced_in("nothing of ours"), other.render());
    }

    #[test]
    fn a_mark_never_grows_over_what_notes_may_hold() {
        let mut large = mark();
        for number in 0..30 {
            let drive = format!("scsi{number}").parse().expect("a drive");
            let volume = format!("storage-with-a-long-name:126/vm-126-disk-{number}.qcow2");
            large
                .volumes
                .insert(drive, volume.parse().expect("a volume"));
        }
        assert!(large.render().contains("order: ") && large.render().len() < LONGEST_DESCRIPTION);
        let bridges = (0..400).map(|number| (format!("vmbr{number}"), format!("vnet{number}")));
        if let Some(order) = &mut large.order {
            order.bridges = bridges.collect();
        }
        let text = large.render();
        assert!(
            !text.contains("order: ") && text.len() <= LONGEST_DESCRIPTION,
            "{}",
            text.len()
        );
        assert!(Mark::parse(&text).is_some_and(|mark| mark.claim.is_some()));
    }

    #[test]
    fn the_note_of_a_retired_source_comes_and_goes() {
        let id = Some("1f2e3d4c");
        let moving = with_moving_note("my notes\n", "banana/126", id);
        assert_eq!(
            moving,
            "my notes\n\nproxmove: being moved to banana/126 (move 1f2e3d4c)"
        );
        assert_eq!(noted_move(&moving), Some(("1f2e3d4c", "banana/126")));
        let noted = with_retired_note(&moving, "banana/126", "2026-01-02", id);
        assert!(noted.starts_with("my notes\n\nproxmove: moved to banana/126 on 2026-01-02"));
        assert_eq!(
            noted_move(&noted),
            Some(("1f2e3d4c", "banana/126 on 2026-01-02"))
        );
        assert_eq!(without_retired_note(&noted), "my notes");
        assert_eq!(without_retired_note(&moving), "my notes");
        let again = with_retired_note(&noted, "cherry/1", "2027-01-01", None);
        assert_eq!(again.matches("moved to").count(), 1);
        assert_eq!(noted_move(&again), None);
        assert_eq!(
            with_moving_note("my notes\n", "banana/126", None),
            "my notes\n"
        );
        assert_eq!(without_retired_note("plain\n"), "plain\n");
        let long = "x".repeat(8192);
        assert_eq!(with_retired_note(&long, "banana/126", "2026", id), long);
    }

    #[test]
    fn names_are_split() {
        assert_eq!(NameMark::split("web1"), ("web1", NameMark::Plain));
        assert_eq!(
            NameMark::split("web1--CREATING"),
            ("web1", NameMark::Creating)
        );
        assert_eq!(
            NameMark::split("web1--CLONING"),
            ("web1", NameMark::Cloning)
        );
        assert_eq!(
            NameMark::split("web1--MIGRATED"),
            ("web1", NameMark::Migrated)
        );
    }

    proptest! {
        #[test]
        fn no_notes_make_it_panic(notes in ".{0,300}", cut in 0usize..400) {
            let text = format!("{notes}{}", mark().render());
            let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= cut).last().unwrap_or(0);
            let _ = Mark::parse(&text[..cut]);
            let _ = Mark::parse(&notes);
        }
    }
}
