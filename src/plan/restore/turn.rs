//! A guest's turn on the way back: which may come together.
//!
//! Pure. Read next: `evacuation/restore.rs`.

use super::{Action, Return};

impl Return {
    /// Says whether it may begin while others are at it: one more is allowed, and all have the same place in the start order.
    /// Of those that come from other clusters there is one at a time, for each takes the whole of the link.
    pub fn may_join<'a>(
        &self,
        busy: impl ExactSizeIterator<Item = &'a Return>,
        parallel: usize,
    ) -> bool {
        let abroad = |guest: &Return| matches!(guest.action, Action::FromCluster { .. });
        let mut busy = busy;
        busy.len() < parallel.max(1)
            && busy.all(|other| other.order == self.order && !(abroad(other) && abroad(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::restore::Passage;
    use crate::pve::guest::{GuestKind, GuestRef};

    fn guest(order: Option<u32>, action: Action) -> Return {
        Return {
            place: GuestRef {
                node: "pve2".parse().expect("parses"),
                kind: GuestKind::Qemu,
                vmid: "101".parse().expect("parses"),
            },
            name: "web1".to_owned(),
            action,
            start: true,
            why: String::new(),
            order,
            up_delay: 0,
        }
    }

    #[test]
    fn those_of_one_place_in_the_start_order_come_together() {
        let at_home = |order| guest(order, Action::AtHome);
        let (first, second, last) = (at_home(Some(1)), at_home(Some(2)), at_home(None));
        assert!(first.may_join([].iter(), 0), "one is always allowed");
        assert!(first.may_join([first.clone()].iter(), 2));
        assert!(!first.may_join([first.clone()].iter(), 1));
        assert!(!second.may_join([first.clone()].iter(), 5));
        assert!(!last.may_join([second].iter(), 5));
        assert!(last.may_join([last.clone(), last.clone()].iter(), 3));
    }

    #[test]
    fn of_those_from_other_clusters_there_is_one_at_a_time() {
        let abroad = || Action::FromCluster {
            from: "banana:node2:ssd".parse().expect("parses"),
            passage: Passage::Back,
        };
        let (one, other) = (guest(None, abroad()), guest(None, Action::AtHome));
        assert!(!one.may_join([one.clone()].iter(), 5));
        assert!(one.may_join([other.clone()].iter(), 5));
        assert!(other.may_join([one].iter(), 5));
    }
}
