//! The notes of an evacuation: on a guest that is away from its node, and on a node that is closed.
//!
//! Pure. They are the only memory of an evacuation: a person can read them, and every proxmove on any machine goes on
//! from them. A damaged note is no note. Nothing outside a note is ever changed. Read next: `mod.rs`.

use std::collections::BTreeMap;

use crate::pve::destination::Destination;
use crate::pve::guest::LONGEST_DESCRIPTION;
use crate::pve::id::NodeName;
use crate::units::Bytes;

const AWAY: Frame = Frame {
    first: "proxmove: this guest is away from its node, and comes back with 'proxmove restore'",
    last: "proxmove: end of the evacuation's notes",
};
const CLOSED: Frame = Frame {
    first: "proxmove: this node is closed, please place no guests here",
    last: "proxmove: end of the node's notes",
};

/// What every tag of an evacuation begins with.
pub const TAG_PREFIX: &str = "proxmove-from-";

/// Returns the tag of guests that came from a node; Proxmox VE keeps tags in lower case.
pub fn tag(origin: &NodeName) -> String {
    format!("{TAG_PREFIX}{}", origin.as_str().to_ascii_lowercase())
}

/// Returns the words of a guest's tags.
fn words(tags: &str) -> impl Iterator<Item = &str> {
    tags.split([';', ',', ' ']).filter(|word| !word.is_empty())
}

/// Returns tags with this tag of an evacuation instead of another one.
pub fn with_tag(tags: &str, tag: &str) -> String {
    let others = words(tags).filter(|word| !word.starts_with(TAG_PREFIX));
    others.chain([tag]).collect::<Vec<_>>().join(";")
}

/// Returns tags without that of an evacuation.
pub fn without_tag(tags: &str) -> String {
    if tag_in(tags).is_none() {
        return tags.to_owned();
    }
    let kept: Vec<&str> = words(tags)
        .filter(|word| !word.starts_with(TAG_PREFIX))
        .collect();
    kept.join(";")
}

/// Finds the tag of an evacuation among others.
pub fn tag_in(tags: &str) -> Option<&str> {
    words(tags).find(|word| word.starts_with(TAG_PREFIX))
}

/// Where a guest was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// To another node; or to none, when it is the one it was on: it was stopped there.
    Node(NodeName),
    /// Where the HA manager decides.
    ByHa,
    /// To another cluster; what stays is its former self.
    Cluster(Destination),
}

impl Sent {
    const BY_HA: &str = "where the HA manager decides";

    /// Returns the node of this cluster that was chosen.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Sent::Node(node) => Some(node),
            Sent::ByHa | Sent::Cluster(_) => None,
        }
    }

    fn parse(text: &str) -> Option<Sent> {
        match text {
            Sent::BY_HA => Some(Sent::ByHa),
            place if place.contains(':') => Some(Sent::Cluster(place.parse().ok()?)),
            node => Some(Sent::Node(node.parse().ok()?)),
        }
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sent::Node(node) => node.fmt(f),
            Sent::ByHa => f.write_str(Sent::BY_HA),
            Sent::Cluster(place) => place.fmt(f),
        }
    }
}

/// What a guest's notes say while it is away, or about to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// The node it belongs to.
    pub origin: NodeName,
    /// Where it was sent.
    pub to: Sent,
    /// Whether it ran before.
    pub running: bool,
    /// On another cluster, the bridges its cards are connected to instead of those here.
    pub bridges: BTreeMap<String, String>,
    /// Who moved it, `user@machine`.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
}

impl Away {
    /// Finds the note in a guest's description.
    pub fn parse(description: &str) -> Option<Away> {
        let values = AWAY.read(description)?;
        Some(Away {
            origin: values.get("origin")?.parse().ok()?,
            to: Sent::parse(values.get("sent to")?)?,
            running: yes_no(values.get("running")?)?,
            bridges: values
                .get("bridges")
                .map_or(Some(BTreeMap::new()), |text| pairs(text))?,
            by: (*values.get("by")?).to_owned(),
            since: (*values.get("since")?).to_owned(),
        })
    }

    /// Returns a description with this note instead of an older one; `None` where it would get too long.
    pub fn put(&self, description: &str) -> Option<String> {
        let mut lines = vec![
            format!("origin: {}", self.origin),
            format!("sent to: {}", self.to),
            format!("running: {}", if self.running { "yes" } else { "no" }),
            format!("by: {}", one_line(&self.by)),
            format!("since: {}", one_line(&self.since)),
        ];
        if !self.bridges.is_empty() {
            let pairs = self.bridges.iter();
            let pairs: Vec<String> = pairs.map(|(from, to)| format!("{from}={to}")).collect();
            lines.push(format!("bridges: {}", pairs.join(" ")));
        }
        // The limit of a guest's description.
        let text = AWAY.put(description, &lines);
        (text.chars().count() <= LONGEST_DESCRIPTION).then_some(text)
    }

    /// Returns a description without the note.
    pub fn remove(description: &str) -> String {
        AWAY.remove(description)
    }

    /// Returns a description with the note that `other` has, if it has one and both have room together.
    pub fn carry(description: &str, other: &str) -> String {
        Away::parse(other)
            .and_then(|away| away.put(description))
            .unwrap_or_else(|| description.to_owned())
    }
}

/// How far the work on a closed node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Only closed.
    Cordoned,
    /// Guests are leaving.
    Evacuating,
    /// What should leave has left.
    Evacuated,
    /// Guests are coming back.
    Restoring,
}

impl Stage {
    const ALL: [Stage; 4] = [
        Stage::Cordoned,
        Stage::Evacuating,
        Stage::Evacuated,
        Stage::Restoring,
    ];

    /// Returns the word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Cordoned => "cordoned",
            Stage::Evacuating => "evacuating",
            Stage::Evacuated => "evacuated",
            Stage::Restoring => "restoring",
        }
    }
}

/// What a node's notes say while it is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// How far the work is.
    pub stage: Stage,
    /// Whether proxmove switched HA maintenance on, so that opening switches it off.
    pub maintenance: bool,
    /// The node's memory when it was closed.
    pub memory: Bytes,
    /// What its running guests could use at most when it was closed. A node that had that much before may have it again.
    pub assigned: Bytes,
    /// Who closed it, `user@machine`.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
}

impl Closed {
    /// Finds the note in a node's description.
    pub fn parse(description: &str) -> Option<Closed> {
        let values = CLOSED.read(description)?;
        let stage = *values.get("stage")?;
        Some(Closed {
            stage: Stage::ALL
                .into_iter()
                .find(|known| known.as_str() == stage)?,
            maintenance: yes_no(values.get("HA maintenance by proxmove")?)?,
            memory: Bytes(values.get("memory")?.parse().ok()?),
            assigned: Bytes(values.get("assigned")?.parse().ok()?),
            by: (*values.get("by")?).to_owned(),
            since: (*values.get("since")?).to_owned(),
        })
    }

    /// Returns a description with this note instead of an older one; `None` where it would get too long.
    pub fn put(&self, description: &str) -> Option<String> {
        let lines = [
            format!("stage: {}", self.stage.as_str()),
            format!(
                "HA maintenance by proxmove: {}",
                if self.maintenance { "yes" } else { "no" }
            ),
            format!("memory: {}", self.memory.0),
            format!("assigned: {}", self.assigned.0),
            format!("by: {}", one_line(&self.by)),
            format!("since: {}", one_line(&self.since)),
        ];
        // The limit of a node's description.
        let text = CLOSED.put(description, &lines);
        (text.len() <= 64 * 1024).then_some(text)
    }

    /// Returns a description without the note.
    pub fn remove(description: &str) -> String {
        CLOSED.remove(description)
    }

    /// Returns who closed the node and when, for people.
    pub fn describe(&self) -> String {
        format!(
            "{} by {} since {}",
            self.stage.as_str(),
            self.by,
            self.since
        )
    }
}

fn pairs(text: &str) -> Option<BTreeMap<String, String>> {
    let pair = |word: &str| {
        let (from, to) = word.split_once('=')?;
        Some((from.to_owned(), to.to_owned()))
    };
    text.split(' ').map(pair).collect()
}

fn yes_no(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ").trim().to_owned()
}

/// The first and the last line of a note.
struct Frame {
    first: &'static str,
    last: &'static str,
}

impl Frame {
    /// Returns the place of the note's lines in a text, its frame included.
    fn find(&self, lines: &[&str]) -> Option<(usize, usize)> {
        let first = lines
            .iter()
            .position(|line| line.trim_end() == self.first)?;
        let length = lines[first..]
            .iter()
            .position(|line| line.trim_end() == self.last)?;
        Some((first, first + length))
    }

    fn read<'a>(&self, text: &'a str) -> Option<BTreeMap<&'a str, &'a str>> {
        let lines: Vec<&str> = text.lines().collect();
        let (first, last) = self.find(&lines)?;
        lines[first + 1..last]
            .iter()
            // Notes are Markdown: a list keeps the lines apart when a browser shows them.
            .map(|line| line.trim_end().trim_start_matches("- ").split_once(": "))
            .collect()
    }

    fn put(&self, text: &str, lines: &[String]) -> String {
        let rest = self.remove(text);
        let mut note = vec![self.first.to_owned()];
        note.extend(lines.iter().map(|line| format!("- {line}")));
        note.push(self.last.to_owned());
        let note = note.join("\n");
        if rest.trim().is_empty() {
            note
        } else {
            format!("{}\n\n{note}", rest.trim_end())
        }
    }

    fn remove(&self, text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let Some((first, last)) = self.find(&lines) else {
            return text.to_owned();
        };
        let before = lines[..first].join("\n");
        let after = lines[last + 1..].join("\n");
        let parts: Vec<&str> = [before.trim_end(), after.trim()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        parts.join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn away() -> Away {
        Away {
            origin: "pve1".parse().expect("parses"),
            to: Sent::Node("pve2".parse().expect("parses")),
            running: true,
            bridges: BTreeMap::new(),
            by: "ann@laptop".to_owned(),
            since: "2026-01-02T03:04:05Z".to_owned(),
        }
    }

    fn closed() -> Closed {
        Closed {
            stage: Stage::Evacuating,
            maintenance: true,
            memory: Bytes::gib(64),
            assigned: Bytes::gib(40),
            by: "ann@laptop".to_owned(),
            since: "2026-01-02T03:04:05Z".to_owned(),
        }
    }

    #[test]
    fn notes_come_and_go_without_a_trace() {
        let text = away().put("a colleague's words\n").expect("fits");
        assert_eq!(Away::parse(&text), Some(away()));
        assert_eq!(Away::remove(&text), "a colleague's words");
        let place = "banana:node2:local-ssd".parse().expect("parses");
        let mut text = text;
        for to in [Sent::ByHa, Sent::Cluster(place)] {
            let bridges = [("vmbr0", "vmbr1"), ("vmbr2", "vmbr0")];
            let bridges = bridges.map(|(from, to)| (from.to_owned(), to.to_owned()));
            let again = Away {
                to,
                bridges: bridges.into(),
                ..away()
            };
            text = again.put(&text).expect("fits");
            assert_eq!(text.matches("proxmove: this guest").count(), 1);
            assert_eq!(Away::parse(&text), Some(again.clone()));
            assert_eq!(Away::parse(&Away::carry("other words", &text)), Some(again));
        }
        assert_eq!(Away::carry("other words", "no note"), "other words");

        let text = closed().put("").expect("fits");
        assert_eq!(Closed::parse(&text), Some(closed()));
        assert_eq!(Closed::remove(&text), "");
        let both = away().put(&text).expect("fits");
        assert_eq!(Closed::parse(&both), Some(closed()));
        assert_eq!(Closed::remove(&both), away().put("").expect("fits"));
    }

    #[test]
    fn only_our_own_tag_comes_and_goes() {
        assert_eq!(
            with_tag("web;db", "proxmove-from-pve1"),
            "web;db;proxmove-from-pve1"
        );
        assert_eq!(with_tag("", "proxmove-from-pve1"), "proxmove-from-pve1");
        assert_eq!(
            with_tag("proxmove-from-pve2;web", "proxmove-from-pve1"),
            "web;proxmove-from-pve1"
        );
        assert_eq!(without_tag("web;proxmove-from-pve1;db"), "web;db");
        assert_eq!(without_tag("proxmove-from-pve1"), "");
        assert_eq!(without_tag("web, db"), "web, db");
        assert_eq!(tag_in("web;proxmove-from-pve1"), Some("proxmove-from-pve1"));
    }

    #[test]
    fn a_damaged_note_is_none() {
        let text = away().put("").expect("fits");
        let lines: Vec<&str> = text.lines().collect();
        for missing in 0..lines.len() {
            let mut damaged = lines.clone();
            damaged.remove(missing);
            assert_eq!(
                Away::parse(&damaged.join("\n")),
                None,
                "without line {missing}"
            );
        }
    }

    #[test]
    fn a_description_that_would_get_too_long_is_refused() {
        assert_eq!(away().put(&"x".repeat(8100)), None);
        assert!(away().put(&"x".repeat(7000)).is_some());
    }

    #[test]
    fn tags_are_in_lower_case() {
        assert_eq!(
            tag(&"PVE-1".parse().expect("parses")),
            "proxmove-from-pve-1"
        );
    }

    proptest! {
        #[test]
        fn what_others_wrote_stays(text in "[a-z \n:-]{0,200}") {
            let noted = away().put(&text).expect("fits");
            prop_assert_eq!(Away::parse(&noted), Some(away()));
            let without = Away::remove(&noted);
            prop_assert_eq!(without.trim(), text.trim());
        }
    }
}
