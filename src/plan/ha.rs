//! What becomes of a guest's HA resource: left alone, suspended for the move, or made anew on the target.
//!
//! Pure. HA restarts what it manages, so a source that is being moved must be out of its hands: its resource is set to
//! `ignored`, which HA then treats like any other guest. What it was before stands in the mark, so that an abort can put
//! it back. Rules of release 9 are about several guests and nodes of one cluster, and are never carried. Read next:
//! `moves/ha.rs`, which does it.

use std::fmt;

use super::Verdict;
use super::facts::WantedGuest;
use super::mark::MIGRATED;
use crate::pve::ha::HaSettings;
use crate::pve::inventory::Release;

/// `--ha`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaWish {
    /// A guest that HA manages is not moved.
    #[default]
    Refuse,
    /// HA ignores the source from before its stop on.
    Suspend,
    /// The same, and the target is given to HA with the same wishes; the source's resource is removed.
    Recreate,
}

impl fmt::Display for HaWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HaWish::Refuse => "refuse",
            HaWish::Suspend => "suspend",
            HaWish::Recreate => "recreate",
        })
    }
}

/// States in which HA is at work on a guest, or has given it up.
const BUSY: [&str; 6] = [
    "migrate",
    "relocate",
    "fence",
    "recovery",
    "error",
    "request_stop",
];

/// Judges a guest of HA.
pub fn judge(name: &str, guest: &WantedGuest, wish: HaWish, target: Release) -> Vec<Verdict> {
    let vmid = guest.detail.place.vmid;
    if !guest.detail.ha_managed && guest.ha_state.is_none() {
        return Vec::new();
    }
    let state = guest.ha_state.as_deref().unwrap_or("unknown");
    if state == "ignored" {
        let found = "it is configured for HA, in state ignored; its HA settings are not carried";
        return match wish {
            // An earlier run has suspended it, or somebody did.
            HaWish::Suspend | HaWish::Recreate => rules(name, guest, wish, target),
            HaWish::Refuse => vec![Verdict::warn(
                name,
                "ha-ignored",
                found,
                format!(
                    "when the move is done: ha-manager remove vm:{vmid}, and add it on the target"
                ),
            )],
        };
    }
    if wish == HaWish::Refuse {
        return vec![Verdict::refuse(
            name,
            "ha-managed",
            format!("it is managed by HA (state {state}), which would start it again"),
            format!(
                "--ha suspend or --ha recreate; or by hand: ha-manager set vm:{vmid} --state ignored, or ha-manager remove \
                 vm:{vmid}"
            ),
        )];
    }
    if BUSY.contains(&state) {
        return vec![Verdict::refuse(
            name,
            "ha-busy",
            format!("HA is at work on it, or has given it up (state {state})"),
            format!(
                "wait until ha-manager status shows another state; out of error: ha-manager set vm:{vmid} --state disabled"
            ),
        )];
    }
    let (code, text, remedy) = match wish {
        HaWish::Recreate => (
            "ha-recreated",
            format!(
                "HA ignores it from before its stop on (now {state}); when it runs on the target it is given to HA there, and \
                 removed here"
            ),
            "--ha suspend leaves it out of HA on the target".to_owned(),
        ),
        HaWish::Suspend | HaWish::Refuse => (
            "ha-suspended",
            format!(
                "HA ignores it from before its stop on (now {state}), also afterwards as {name}{MIGRATED}"
            ),
            format!("when the move is done: ha-manager remove vm:{vmid}"),
        ),
    };
    let mut verdicts = vec![Verdict::warn(name, code, text, remedy)];
    verdicts.extend(rules(name, guest, wish, target));
    verdicts
}

/// Says which rules and groups are not carried.
fn rules(name: &str, guest: &WantedGuest, wish: HaWish, target: Release) -> Vec<Verdict> {
    if wish != HaWish::Recreate || guest.ha_rules.is_empty() {
        return Vec::new();
    }
    let names = guest.ha_rules.join(", ");
    let how = match target >= (Release { major: 9, minor: 0 }) {
        true => "are not carried: from release 9 on they are rules of their cluster",
        false => "are carried only as a group of that name, where the target has one",
    };
    vec![Verdict::warn(
        name,
        "ha-rules",
        format!("its HA rules or groups ({names}) {how}"),
        "add it to the rules or groups of the target when it is there",
    )]
}

/// Writes what HA had for a guest into one line of the mark: `started failback=0 max-restart=2 comment=...`.
pub fn render(settings: &HaSettings) -> String {
    let mut words = vec![settings.state.clone()];
    words.extend(settings.group.iter().map(|group| format!("group={group}")));
    let failback = settings.failback.map(u8::from);
    words.extend(failback.map(|failback| format!("failback={failback}")));
    let restart = settings.max_restart;
    words.extend(restart.map(|most| format!("max-restart={most}")));
    let relocate = settings.max_relocate;
    words.extend(relocate.map(|most| format!("max-relocate={most}")));
    if let Some(comment) = &settings.comment {
        // It is the rest of the line.
        let line: Vec<&str> = comment.split_whitespace().collect();
        words.push(format!("comment={}", line.join(" ")));
    }
    words.join(" ")
}

/// Reads that line; `None` when it is none.
pub fn parse(line: &str) -> Option<HaSettings> {
    let (line, comment) = match line.split_once(" comment=") {
        Some((line, comment)) => (line, Some(comment.to_owned())),
        None => (line, None),
    };
    let mut words = line.split(' ');
    let mut settings = HaSettings {
        state: words.next().filter(|state| !state.is_empty())?.to_owned(),
        group: None,
        failback: None,
        max_restart: None,
        max_relocate: None,
        comment,
    };
    for word in words {
        match word.split_once('=')? {
            ("group", group) => settings.group = Some(group.to_owned()),
            ("failback", value) => settings.failback = Some(value == "1"),
            ("max-restart", most) => settings.max_restart = Some(most.parse().ok()?),
            ("max-relocate", most) => settings.max_relocate = Some(most.parse().ok()?),
            _ => return None,
        }
    }
    Some(settings)
}

/// Returns the settings for the target: the same wishes, with a group only where the target has it. `runs` says whether
/// the guest runs there; HA starts nothing that the move was to leave stopped.
pub fn on_target(
    before: &HaSettings,
    release: Release,
    groups: &[String],
    runs: bool,
) -> HaSettings {
    let rules = release >= (Release { major: 9, minor: 0 });
    let wants_it_running = matches!(before.state.as_str(), "started" | "enabled");
    HaSettings {
        state: match runs {
            false if wants_it_running => "stopped".to_owned(),
            _ => before.state.clone(),
        },
        group: before
            .group
            .clone()
            .filter(|group| !rules && groups.contains(group)),
        failback: before.failback.filter(|_| rules),
        ..before.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::sample::{World, release};

    fn settings() -> HaSettings {
        HaSettings {
            state: "started".to_owned(),
            group: Some("west".to_owned()),
            failback: Some(false),
            max_restart: Some(2),
            max_relocate: Some(0),
            comment: Some("ask Ann = before moving".to_owned()),
        }
    }

    #[test]
    fn what_ha_had_survives_its_line() {
        let line = render(&settings());
        assert_eq!(
            line,
            "started group=west failback=0 max-restart=2 max-relocate=0 comment=ask Ann = before moving"
        );
        assert_eq!(parse(&line), Some(settings()));
        assert_eq!(
            parse("started").map(|found| found.state),
            Some("started".to_owned())
        );
        for wrong in [
            "",
            "started colour=red",
            "started max-restart=many",
            "started group",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_target_gets_the_same_wishes_as_far_as_it_has_them() {
        let west = ["west".to_owned()];
        let at =
            |text, groups: &[String], runs| on_target(&settings(), release(text), groups, runs);
        let old = at("8.4", &west, true);
        assert_eq!((old.group.as_deref(), old.failback), (Some("west"), None));
        assert_eq!(old.state, "started");
        assert_eq!(at("8.4", &[], true).group, None);
        let new = at("9.1", &west, true);
        assert_eq!((new.group, new.failback), (None, Some(false)));
        assert_eq!((new.max_restart, new.max_relocate), (Some(2), Some(0)));
        // HA would start it, and nobody wanted that.
        assert_eq!(at("9.1", &[], false).state, "stopped");
    }

    #[test]
    fn what_is_judged() {
        let check = |state: Option<&str>, wish, expect: &[&str]| {
            let mut world = World::new();
            let guest = world.source.wanted.get_mut("web1").expect("web1");
            guest.ha_state = state.map(str::to_owned);
            guest.ha_rules = vec!["west".to_owned()];
            let verdicts = judge("web1", guest, wish, release("9.1"));
            let codes: Vec<_> = verdicts
                .iter()
                .map(|verdict| format!("{:?} {}", verdict.severity, verdict.code))
                .collect();
            assert_eq!(codes, expect, "{state:?} {wish}");
        };
        check(None, HaWish::Refuse, &[]);
        check(None, HaWish::Recreate, &[]);
        check(Some("started"), HaWish::Refuse, &["Refuse ha-managed"]);
        check(Some("ignored"), HaWish::Refuse, &["Warn ha-ignored"]);
        check(Some("started"), HaWish::Suspend, &["Warn ha-suspended"]);
        check(
            Some("started"),
            HaWish::Recreate,
            &["Warn ha-recreated", "Warn ha-rules"],
        );
        for busy in ["error", "migrate", "fence"] {
            check(Some(busy), HaWish::Suspend, &["Refuse ha-busy"]);
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".{0,200}") {
            let _ = parse(&line);
        }
    }
}
