//! Decisions as tables: `12 13!` are snapshots by guid, those with an exclamation mark are ours and final ones end in `f`.
//! One that ends in `c` is a guest's own that this move has carried.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::super::read::Bookmark;
use super::*;

/// Reads `name 1! 2!f 3 | #1 | mark | token | written 5`; the order of the snapshots is that of their creation.
fn volume(dataset: &str, text: &str) -> Volume {
    let mut volume = Volume {
        dataset: dataset.to_owned(),
        kind: "volume".to_owned(),
        guid: 1000,
        content: 1 << 20,
        ..Volume::default()
    };
    for (created, word) in (1..).zip(text.split_whitespace()) {
        match word {
            "mark" => volume.mark = Some("5-6".to_owned()),
            "token" => volume.token = Some("1-t".to_owned()),
            "filesystem" => volume.kind = "filesystem".to_owned(),
            _ => {
                if let Some(bytes) = word.strip_prefix("written=") {
                    volume.written = bytes.parse().expect("a number");
                } else if let Some(guid) = word.strip_prefix('#') {
                    volume.bookmarks.push(Bookmark {
                        name: format!("b{guid}"),
                        guid: guid.parse().expect("a number"),
                        created,
                    });
                } else {
                    let last = word.ends_with('f');
                    let carried = word.ends_with('c');
                    let ours = word.contains('!');
                    let guid: u64 = word
                        .trim_end_matches(['f', '!', 'c'])
                        .parse()
                        .expect("a number");
                    volume.snapshots.push(Snapshot {
                        name: if ours {
                            name::snapshot("5-6", guid, last)
                        } else {
                            format!("s{guid}")
                        },
                        guid,
                        created,
                        mark: (ours || carried).then(|| "5-6".to_owned()),
                        held: ours,
                    });
                }
            }
        }
    }
    volume
}

fn claim(adopt: bool) -> Claim {
    Claim {
        of: "5-6".to_owned(),
        adopt,
        snapshots: BTreeSet::new(),
    }
}

fn decided(source: &str, target: &str, adopt: bool, failed: &[Stream]) -> String {
    let source = volume("a/v", source);
    let target = (target != "none").then(|| volume("b/v", target));
    match decide(&source, target.as_ref(), &claim(adopt), failed) {
        Ok(decision) => format!("{}: {}", decision.next, decision.because),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

fn check(source: &str, target: &str, expect: Expect) {
    expect.assert_eq(&decided(source, target, false, &[]));
}

#[test]
fn only_what_came_after_the_final_pass_is_given_up() {
    let check = |source: &str, target: &str, expect: &str| {
        let (source, target) = (volume("a/v", source), volume("b/v", target));
        let given_up = match given_up(&source, &target, &claim(false)) {
            Ok(to) => format!("{to:?}"),
            Err(refusal) => format!("refused: {refusal}"),
        };
        assert_eq!(given_up, expect, "{}", target.dataset);
    };
    check(
        "1! 2!f",
        "mark 1! 2!f written=8192",
        "Some(\"proxmove-5-6-2-final\")",
    );
    check("1! 2!f", "mark 1! 2!f", "None");
    // The source runs again already: what it wrote is not asked for here.
    check(
        "2!f written=4096",
        "mark 2!f written=1",
        "Some(\"proxmove-5-6-2-final\")",
    );
    // Before the final pass nothing is given up by this.
    check("1!", "mark 1! written=8192", "None");
    check(
        "1! 2!f",
        "mark 2!f 3 written=8192",
        "refused: b/v has snapshots that are newer than the newest common one, proxmove-5-6-2-final (guid 2): s3 (guid 3)",
    );
}

#[test]
fn what_is_sent() {
    check(
        "9",
        "none",
        expect![
            "refused: a/v has no snapshot of this move; it was destroyed meanwhile, or never taken"
        ],
    );
    check(
        "9 1!",
        "none",
        expect!["full stream of proxmove-5-6-1: the target has nothing yet"],
    );
    check(
        "1! 2!",
        "mark 1!",
        expect![
            "increment from @proxmove-5-6-1 to proxmove-5-6-2: both sides have proxmove-5-6-1 (guid 1)"
        ],
    );
    check(
        "1! 2! 3!f",
        "mark 1! 2!",
        expect![
            "increment from @proxmove-5-6-2 to proxmove-5-6-3-final: both sides have proxmove-5-6-2 (guid 2)"
        ],
    );
    check(
        "2! #1",
        "mark 1!",
        expect![
            "increment from #b1 to proxmove-5-6-2: the source has a bookmark, b1, of the target's proxmove-5-6-1 (guid 1)"
        ],
    );
    check(
        "2!",
        "mark 2!",
        expect!["nothing: the target has proxmove-5-6-2 already"],
    );
    check(
        "1! 2!",
        "mark token",
        expect!["rest of a stream: an interrupted stream is continued where it broke off"],
    );
}

#[test]
fn names_mean_nothing() {
    // The same guid under another name, as after a rename.
    let mut source = volume("a/v", "1! 2!");
    source.snapshots[0].name = "renamed".to_owned();
    let target = volume("b/v", "mark 1!");
    let decision = decide(&source, Some(&target), &claim(false), &[]).expect("a decision");
    expect!["increment from @renamed to proxmove-5-6-2"].assert_eq(&decision.next.to_string());
    // The same name with another guid.
    let mut source = volume("a/v", "1! 2!");
    source.snapshots[0].guid = 77;
    let decision = decide(&source, Some(&target), &claim(false), &[]).expect("a decision");
    expect!["begin again"].assert_eq(&decision.next.to_string());
}

#[test]
fn it_falls_back_step_by_step() {
    let failed = |streams: &[Stream]| decided("1! 2! #1 3!", "mark 1! 2!", false, streams);
    let from = |base| Stream::Increment {
        base,
        to: "proxmove-5-6-3".to_owned(),
    };
    let mut streams = vec![from(Base::Snapshot("proxmove-5-6-2".to_owned()))];
    expect!["back to proxmove-5-6-1: the source no longer has proxmove-5-6-2 (guid 2), the target goes back to proxmove-5-6-1"].assert_eq(&failed(&streams));
    streams.push(from(Base::Snapshot("proxmove-5-6-1".to_owned())));
    expect!["increment from #b1 to proxmove-5-6-3: the source has a bookmark, b1, of the target's proxmove-5-6-1 (guid 1)"]
        .assert_eq(&decided("1! #1 3!", "mark 1!", false, &streams));
    streams.push(from(Base::Bookmark("b1".to_owned())));
    expect!["begin again: the source no longer has any of the snapshots that the target has: proxmove-5-6-1 (guid 1), proxmove-5-6-2 (guid 2)"].assert_eq(&failed(&streams));
    let token = Stream::Resume {
        token: "1-t".to_owned(),
    };
    expect!["abandon an interrupted stream: the interrupted stream cannot be continued: the source no longer has what it was made of"]
        .assert_eq(&decided("1!", "mark token", false, &[token]));
}

#[test]
fn what_is_not_ours_is_refused_with_the_evidence() {
    check(
        "1!",
        "",
        expect![
            "refused: b/v is there and does not carry proxmove's mark: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, and no snapshots"
        ],
    );
    check(
        "1!",
        "7 1! token",
        expect![
            "refused: b/v is there and does not carry proxmove's mark: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, and the snapshots s7 (guid 7), proxmove-5-6-1 (guid 1)"
        ],
    );
    check(
        "1!",
        "mark filesystem",
        expect!["refused: b/v is a filesystem, not a volume"],
    );
    check(
        "1! 2!",
        "mark 1! 8",
        expect![
            "refused: b/v has snapshots that are newer than the newest common one, proxmove-5-6-1 (guid 1): s8 (guid 8)"
        ],
    );
    check(
        "4! 5!",
        "mark 1! 8",
        expect![
            "refused: b/v and a/v have no snapshot in common: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, marked as of the move 5-6, and the snapshots proxmove-5-6-1 (guid 1), s8 (guid 8); the source has proxmove-5-6-4 (guid 4), proxmove-5-6-5 (guid 5)"
        ],
    );
    // A volume that a move's notes name, as a former source: nothing on it is ours to undo.
    let adopted = |target| decided("1! 2!", target, true, &[]);
    expect!["refused: b/v and a/v have no snapshot in common: a volume (guid 1000) with 1.0 MiB of content, 4.0 KiB of it newer than its snapshots, and no snapshots; the source has proxmove-5-6-1 (guid 1), proxmove-5-6-2 (guid 2)"].assert_eq(&adopted("written=4096"));
    expect!["refused: b/v was written to (4.0 KiB) since proxmove-5-6-1 (guid 1), and proxmove did not create it"].assert_eq(&adopted("1! written=4096"));
    expect![
        "increment from @proxmove-5-6-1 to proxmove-5-6-2: both sides have proxmove-5-6-1 (guid 1)"
    ]
    .assert_eq(&adopted("1!"));
}

#[test]
fn a_target_of_ours_that_was_touched() {
    check(
        "1! 2!",
        "mark 1! written=8192",
        expect![
            "back to proxmove-5-6-1: the target was written to (8.0 KiB) since proxmove-5-6-1, before it was complete"
        ],
    );
    check(
        "1!f 2!",
        "mark 1!f written=8192",
        expect![
            "refused: b/v was written to (8.0 KiB) since proxmove-5-6-1-final (guid 1), after the final pass: was the target in use?"
        ],
    );
    check(
        "2!",
        "mark",
        expect!["begin again: the target volume of this move has no snapshot to continue from"],
    );
    check(
        "2!",
        "mark 1!f written=1",
        expect![
            "refused: b/v and a/v have no snapshot in common: a volume (guid 1000) with 1.0 MiB of content, 1 B of it newer than its snapshots, marked as of the move 5-6, and the snapshots proxmove-5-6-1-final (guid 1); the source has proxmove-5-6-2 (guid 2)"
        ],
    );
}

fn any_volume() -> impl Strategy<Value = String> {
    let snapshot = (1u64..6, "!?f?").prop_map(|(guid, tail)| format!("{guid}{tail}"));
    let word = prop_oneof![
        4 => snapshot,
        1 => (1u64..6).prop_map(|guid| format!("#{guid}")),
        1 => Just("token".to_owned()),
        1 => Just("written=4096".to_owned()),
        2 => Just("mark".to_owned()),
    ];
    proptest::collection::vec(word, 0..8).prop_map(|words| words.join(" "))
}

/// Decides with the guest's snapshots of these guids travelling.
fn with(travel: &[u64], source: &str, target: &str, expect: Expect) {
    let source = volume("a/v", source);
    let target = (target != "none").then(|| volume("b/v", target));
    let claim = Claim {
        snapshots: travel.iter().map(|guid| format!("s{guid}")).collect(),
        ..claim(false)
    };
    let decided = match decide(&source, target.as_ref(), &claim, &[]) {
        Ok(decision) => format!("{}: {}", decision.next, decision.because),
        Err(refusal) => format!("refused: {refusal}"),
    };
    expect.assert_eq(&decided);
}

#[test]
fn snapshots_of_the_guest_travel_one_by_one_and_no_others() {
    with(
        &[2, 4],
        "1 2 3 4 5!",
        "none",
        expect!["full stream of s2: the target has nothing yet"],
    );
    with(
        &[2, 4],
        "1 2 3 4 5!",
        "2c mark",
        expect!["increment from @s2 to s4: both sides have s2 (guid 2)"],
    );
    with(
        &[2, 4],
        "1 2 3 4 5!",
        "2c 4c mark",
        expect!["increment from @s4 to proxmove-5-6-5: both sides have s4 (guid 4)"],
    );
    with(
        &[2, 4],
        "1 2 3 4 5!",
        "2c 4c 5! mark",
        expect!["nothing: the target has proxmove-5-6-5 already"],
    );
    with(
        &[2, 4],
        "1 2 3 4 5!",
        "2c token mark",
        expect!["rest of a stream: an interrupted stream is continued where it broke off"],
    );
    // Taken after ours: in the next round.
    with(
        &[2, 6],
        "2 5! 6",
        "2c 5! mark",
        expect!["nothing: the target has proxmove-5-6-5 already"],
    );
    with(
        &[6],
        "5! 6",
        "none",
        expect!["full stream of proxmove-5-6-5: the target has nothing yet"],
    );
    // Taken between two of ours.
    with(
        &[2, 6],
        "2 5! 6 7!",
        "2c 5! mark",
        expect!["increment from @proxmove-5-6-5 to s6: both sides have proxmove-5-6-5 (guid 5)"],
    );
}

#[test]
fn snapshots_that_were_missed_are_fetched_by_going_back() {
    // Ours is newer than what lacks: the guest's own before it is the base.
    with(
        &[2, 6],
        "2 6 7! 8!",
        "2c 7! mark",
        expect![
            "back to s2: s6 (guid 6) was taken before proxmove-5-6-7 (guid 7), so the target goes back to s2 and takes both in their order"
        ],
    );
    with(
        &[2, 6],
        "2 #5 6 7! 8!",
        "2c 5! 7! mark",
        expect![
            "back to proxmove-5-6-5: s6 (guid 6) was taken before proxmove-5-6-7 (guid 7), so the target goes back to proxmove-5-6-5 and takes both in their order"
        ],
    );
    // Begun without them.
    with(
        &[2],
        "2 5! 6!",
        "5! mark",
        expect![
            "begin again: s2 (guid 2) was taken before all that both sides have: proxmove-5-6-5 (guid 5)"
        ],
    );
    // Somebody's snapshot is not given up for them.
    with(
        &[2],
        "2 5! 6!",
        "5! 9 mark",
        expect![
            "refused: b/v lacks s2 (guid 2), which was taken before all that both sides have, and is not begun again: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, marked as of the move 5-6, and the snapshots proxmove-5-6-5 (guid 5), s9 (guid 9); go on without --with-snapshots, or delete what is there first"
        ],
    );
    // Nor is a copy begun again while the guest is down.
    with(
        &[2],
        "2 5! 6!f",
        "5!f mark",
        expect![
            "refused: b/v lacks s2 (guid 2), which was taken before all that both sides have, and is not begun again: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, marked as of the move 5-6, and the snapshots proxmove-5-6-5-final (guid 5); go on without --with-snapshots, or delete what is there first"
        ],
    );
    with(
        &[2],
        "2 5! 6!",
        "5!",
        expect![
            "refused: b/v is there and does not carry proxmove's mark: a volume (guid 1000) with 1.0 MiB of content, 0 B of it newer than its snapshots, and the snapshots proxmove-5-6-5 (guid 5)"
        ],
    );
    with(
        &[2, 6],
        "2 6 7! 8!",
        "2 7! mark written=9",
        expect![
            "back to s2: s6 (guid 6) was taken before proxmove-5-6-7 (guid 7), so the target goes back to s2 and takes both in their order"
        ],
    );
}

#[test]
fn what_the_source_no_longer_has_goes_on_the_target() {
    with(
        &[4],
        "4 5!",
        "2c 4c mark",
        expect!["destroy the copies of s2: the source no longer has s2 (guid 2)"],
    );
    with(
        &[2, 4],
        "4 5!",
        "2c 4c mark",
        expect![
            "refused: a/v has no snapshot s2 any more, which was to travel; was it deleted meanwhile?"
        ],
    );
    // Another one under the old name: s2 of guid 22 is told apart by its guid.
    with(
        &[],
        "1 5!",
        "1 2c mark",
        expect!["destroy the copies of s2: the source no longer has s2 (guid 2)"],
    );
    // Not carried by this move, so nothing of ours.
    with(
        &[4],
        "4 5!",
        "2 4c mark",
        expect!["increment from @s4 to proxmove-5-6-5: both sides have s4 (guid 4)"],
    );
    with(
        &[4],
        "4 5!",
        "4c 9 mark",
        expect![
            "refused: b/v has snapshots that are newer than the newest common one, s4 (guid 4): s9 (guid 9)"
        ],
    );
}

proptest! {
    #[test]
    fn nothing_without_our_mark_loses_anything(source in any_volume(), target in any_volume(), adopt: bool) {
        let (source, target) = (volume("a/v", &source), volume("b/v", &target));
        if let Ok(decision) = decide(&source, Some(&target), &claim(adopt), &[]) {
            match decision.next {
                Next::Restart => {
                    prop_assert!(target.mark.is_some());
                    prop_assert!(target.snapshots.iter().all(|snapshot| snapshot.mark.is_some()));
                }
                Next::Back { newer, .. } => {
                    prop_assert!(target.mark.is_some());
                    for name in newer {
                        let snapshot = target.snapshots.iter().find(|it| it.name == name);
                        prop_assert!(snapshot.is_some_and(|it| it.mark.is_some()));
                    }
                }
                Next::Drop(names) => {
                    for name in names {
                        let snapshot = target.snapshots.iter().find(|it| it.name == name);
                        prop_assert!(snapshot.is_some_and(|it| it.mark.is_some()));
                    }
                }
                Next::Carry(Stream::Full { .. }) => prop_assert!(false, "a full stream over something"),
                Next::Carry(_) | Next::Abandon | Next::Nothing => {
                    prop_assert!(adopt || target.mark.is_some());
                }
            }
        }
    }
}

#[test]
fn only_what_is_not_the_usual_course_is_told() {
    let usual = |source: &str, target: &str| {
        let source = volume("a/v", source);
        let target = (target != "none").then(|| volume("b/v", target));
        let next = decide(&source, target.as_ref(), &claim(true), &[])
            .expect("a decision")
            .next;
        is_usual(&next, &source, &claim(true))
    };
    assert!(usual("1!", "none"));
    assert!(usual("1! 2!", "1! mark"));
    assert!(usual("1! 2!", "2! mark"));
    // From somebody's snapshot, from a bookmark, the rest of a stream, a step back, from the beginning.
    assert!(!usual("1 2!", "1 mark"));
    assert!(!usual("#1 2!", "1! mark"));
    assert!(!usual("1! 2!", "1! mark token"));
    assert!(!usual("1! 3!", "1! 2! mark"));
    assert!(!usual("3!", "1! mark"));
}
