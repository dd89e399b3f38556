//! What proxmove itself writes into notes, where anybody may edit it: marks, orders, claims, notes of retired sources and
//! of guests that are away.

use proptest::prelude::*;
use proxmove::plan::claim::Claim;
use proxmove::plan::evacuate::note::{Away, Closed};
use proxmove::plan::mark::{
    Mark, NameMark, noted_move, retired_note, with_moving_note, with_retired_note,
    without_retired_note,
};
use proxmove::plan::order::Order;

use crate::mutations::text;

const ORDER: &str = "banana node2 local-ssd --skip-start --wait-before-stop --map-bridge=vmbr1=vmbr0 --map-storage=scsi1=slow \
    --max-downtime=30000ms --stop-timeout=5000ms --route=relay --verify=transfer --bwlimit=200 --parallel=3";
const CLAIM: &str = "ann@laptop 4242.88123 1f2e3d4c 2026-01-02T03:04:05Z 2026-01-02T03:05:05Z";

/// The notes of placeholders, sources, guests that are away and closed nodes, as proxmove leaves them.
const NOTES: [&str; 4] = [
    "proxmove: this guest is being moved here, please leave it alone\nsource: apple node1 qemu 565\nname: web1\nrunning: yes\n\
     onboot: no\nby: ann@laptop\nsince: 2026-01-02T03:04:05Z\nkept: scsi1 virtio0\nonboot-set: no\nid: 0a1b2c3d\n\
     volume: virtio0 local-ssd:100/vm-100-disk-0.qcow2\nvolume: scsi1 tank:vm-100-disk-1\n\
     order: banana node2 local-ssd --skip-start --bwlimit=200\n\
     claim: ann@laptop 4242.88123 1f2e3d4c 2026-01-02T03:04:05Z 2026-01-02T03:05:05Z\n\
     proxmove: end of the move's notes\n\nmy own notes\n",
    "my notes\n\nproxmove: moved to banana/126 on node2 on 2026-01-02 03:04:05 UTC (move 0a1b2c3d); kept as it was\n\n\
     proxmove: being moved to banana/126 on node2 (move 0a1b2c3d)",
    "mine\n\nproxmove: this guest is away from its node, and comes back with 'proxmove restore'\n- origin: pve1\n- sent to: pve2\n- running: yes\n\
     - by: ann@laptop\n- since: 2026-01-02T03:04:05Z\nproxmove: end of the evacuation's notes",
    "proxmove: this node is closed, please place no guests here\n- stage: evacuating\n- HA maintenance by proxmove: yes\n- memory: 68719476736\n\
     - assigned: 34359738368\n- by: ann@laptop\n- since: 2026-01-02T03:04:05Z\nproxmove: end of the node's notes\n\nothers' words",
];

/// The samples themselves are what proxmove reads, or the damage would begin at nothing.
#[test]
fn the_samples_are_read() {
    assert!(Mark::parse(NOTES[0]).is_some_and(|mark| mark.order.is_some() && mark.claim.is_some()));
    assert!(retired_note(NOTES[1]).is_some() && noted_move(NOTES[1]).is_some());
    assert!(Away::parse(NOTES[2]).is_some());
    assert!(Closed::parse(NOTES[3]).is_some());
    assert!(Order::parse(ORDER).is_some() && Claim::parse(CLAIM).is_some());
}

/// Says whether what is read is written so that the same is read again; what is no word or no line may become one first.
fn keeps<T: Clone + PartialEq>(read: &T, again: impl Fn(&T) -> Option<T>) -> bool {
    again(read).is_some_and(|once| again(&once) == Some(once))
}

fn mark_again(mark: &Mark) -> Option<Mark> {
    Mark::parse(&mark.render())
}

proptest! {
    #[test]
    fn fuzz_marks(notes in text(&NOTES)) {
        if let Some(mark) = Mark::parse(&notes) {
            // Others' words around it may be anything; the mark itself must come back.
            prop_assert!(keeps(&mark, mark_again), "{:?}", mark);
            let once = mark_again(&mark);
            prop_assert_eq!(Mark::parse(&mark.over("somebody's\nnotes")), once.clone());
            prop_assert_eq!(Mark::parse(&mark.replaced_in(&notes)), once.clone());
            // Only the claim's words may be put into other letters.
            let without_claim = |mark: &Mark| Mark { claim: None, ..mark.clone() };
            prop_assert_eq!(once.map(|once| without_claim(&once)), Some(without_claim(&mark)));
        }
    }

    #[test]
    fn fuzz_orders_and_claims(line in text(&[ORDER, CLAIM])) {
        if let Some(order) = Order::parse(&line) {
            prop_assert!(keeps(&order, |order| Order::parse(&order.render())), "{:?}", order);
        }
        if let Some(claim) = Claim::parse(&line) {
            prop_assert!(keeps(&claim, |claim| Claim::parse(&claim.render())), "{:?}", claim);
        }
    }

    #[test]
    fn fuzz_notes_of_sources(notes in text(&NOTES), place in text(&["banana/100 on node2"])) {
        let _ = (retired_note(&notes), noted_move(&notes));
        let bare = without_retired_note(&notes);
        prop_assert_eq!(without_retired_note(&bare), bare.clone());
        let one_line: String = place.chars().filter(|c| !c.is_control()).collect();
        for noted in [
            with_retired_note(&bare, &one_line, "2026-01-02 03:04:05 UTC", Some("0a1b2c3d")),
            with_moving_note(&bare, &one_line, Some("0a1b2c3d")),
        ] {
            let _ = (retired_note(&noted), noted_move(&noted), without_retired_note(&noted));
        }
    }

    #[test]
    fn fuzz_notes_of_evacuations(notes in text(&NOTES)) {
        if let Some(away) = Away::parse(&notes)
            && let Some(put) = away.put(&notes)
        {
            prop_assert!(keeps(&away, |away| Away::parse(&away.put(&notes)?)), "{:?}", away);
            prop_assert_eq!(Away::parse(&Away::remove(&put)), None);
        }
        if let Some(closed) = Closed::parse(&notes)
            && closed.put(&notes).is_some()
        {
            prop_assert!(keeps(&closed, |closed| Closed::parse(&closed.put(&notes)?)), "{:?}", closed);
        }
        let _ = (Away::remove(&notes), Closed::remove(&notes));
    }

    #[test]
    fn fuzz_names_with_marks(name in text(&["web1", "web1--CREATING", "a--CLONING", "b--MIGRATED"])) {
        let (own, mark) = NameMark::split(&name);
        prop_assert!(name.starts_with(own));
        prop_assert_eq!(mark == NameMark::Plain, own.len() == name.len());
    }
}
