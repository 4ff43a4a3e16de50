//! Which bulk shares begin, and which end before they began. Pure code.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::order::{End, Entry, Phase};

/// Bulk shares of one source that run at once, but for the members of a group, which says itself.
const RUNS_MAX: usize = 4;

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// These begin or go on, in this order.
    pub(super) start: Vec<Uuid>,
    /// These run and are to stop.
    pub(super) stop: Vec<Uuid>,
    /// These end without having begun here.
    pub(super) end: Vec<(Uuid, End)>,
}

/// Decides by what was asked (ids are in that order), what runs here, and which shares there are.
///
/// Of one share only one runs at a time. A member of a group begins when fewer than `parallel` of those before it are
/// left; when one fails or is cancelled, those that have not begun do not begin any more.
pub(super) fn plan(entries: &BTreeMap<Uuid, Entry>, active: &BTreeSet<Uuid>, known: impl Fn(&str) -> bool) -> Plan {
    let mut plan = Plan::default();
    let mut shares = BTreeSet::new();
    let mut ahead: BTreeMap<Uuid, usize> = BTreeMap::new();
    let mut broken: BTreeMap<Uuid, &str> = BTreeMap::new();
    let mut alone = entries.iter().filter(|(id, entry)| active.contains(id) && entry.order.member.is_none()).count();
    for (&id, entry) in entries {
        let order = &entry.order;
        let group = order.member.as_ref().map(|member| member.of);
        if let Some(phase) = entry.run.as_ref().map(|run| run.phase).filter(|phase| phase.is_end()) {
            if phase != Phase::Finished {
                broken.extend(group.map(|group| (group, order.share.as_str())));
            }
            continue;
        }
        let before = group.map_or(0, |group| *ahead.get(&group).unwrap_or(&0));
        let first = shares.insert(order.share.as_str());
        if active.contains(&id) {
            plan.stop.extend(order.cancel.then_some(id));
        } else if order.cancel {
            plan.end.push((id, End::Cancelled("asked to stop".to_owned())));
            broken.extend(group.map(|group| (group, order.share.as_str())));
            continue;
        } else if !known(&order.share) {
            plan.end.push((id, End::Failed(format!("the configuration has no share {}", order.share))));
            broken.extend(group.map(|group| (group, order.share.as_str())));
            continue;
        } else if let Some(failed) = group.and_then(|group| broken.get(&group))
            && entry.run.is_none()
        {
            plan.end.push((id, End::Cancelled(format!("{failed}, before it in the group, was not finished"))));
            continue;
        } else {
            let room = match &order.member {
                Some(member) => before < member.parallel,
                None => alone < RUNS_MAX,
            };
            if first && room {
                alone += usize::from(group.is_none());
                plan.start.push(id);
            }
        }
        if let Some(group) = group {
            ahead.insert(group, before + 1);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::bulk::order::{Member, Order, Run};

    #[derive(Default)]
    struct Board {
        entries: BTreeMap<Uuid, Entry>,
        active: BTreeSet<Uuid>,
    }

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    impl Board {
        fn ask(&mut self, number: u128, share: &str, group: Option<(u128, usize)>) -> &mut Entry {
            let member = group.map(|(of, parallel)| Member { group: "g".to_owned(), of: id(of), parallel });
            let order = Order {
                share: share.to_owned(),
                query: None,
                changed_since: None,
                rows_per_second: None,
                records: None,
                member,
                schedule: None,
                planned_at: Timestamp::UNIX_EPOCH,
                cancel: false,
            };
            self.entries.entry(id(number)).or_insert(Entry { order, run: None })
        }

        fn end(&mut self, number: u128, end: &End) {
            let mut run = Run::begin(id(99), Timestamp::UNIX_EPOCH);
            run.end(end, Timestamp::UNIX_EPOCH);
            self.active.remove(&id(number));
            self.entries.get_mut(&id(number)).expect("asked for").run = Some(run);
        }

        fn plan(&self) -> Plan {
            plan(&self.entries, &self.active, |share| share != "unknown")
        }

        /// Starts what is to start; the numbers.
        fn start(&mut self) -> Vec<u128> {
            let plan = self.plan();
            self.active.extend(&plan.start);
            plan.start.iter().map(Uuid::as_u128).collect()
        }
    }

    #[test]
    fn of_one_share_one_runs_at_a_time_in_the_order_asked_for() {
        let mut board = Board::default();
        for (number, share) in [(1, "a"), (2, "b"), (3, "a")] {
            board.ask(number, share, None);
        }
        assert_eq!(board.start(), [1, 2]);
        assert_eq!(board.start(), [0; 0]);
        board.end(2, &End::Finished);
        assert_eq!(board.start(), [0; 0]);
        board.end(1, &End::Failed(String::new()));
        assert_eq!(board.start(), [3]);
    }

    #[test]
    fn only_so_many_run_at_once() {
        let mut board = Board::default();
        for number in 1..=6 {
            board.ask(number, &number.to_string(), None);
        }
        assert_eq!(board.start(), [1, 2, 3, 4]);
        assert_eq!(board.start(), [0; 0]);
        board.end(2, &End::Finished);
        assert_eq!(board.start(), [5]);
    }

    #[test]
    fn members_of_a_group_begin_in_order_and_so_many_at_once() {
        let mut board = Board::default();
        for (number, share) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            board.ask(number, share, Some((7, 2)));
        }
        assert_eq!(board.start(), [1, 2]);
        board.end(2, &End::Finished);
        assert_eq!(board.start(), [3]);
        assert_eq!(board.start(), [0; 0]);
        board.end(1, &End::Finished);
        assert_eq!(board.start(), [4]);
    }

    #[test]
    fn what_a_group_has_not_begun_does_not_begin_after_a_failure() {
        for end in [End::Failed(String::new()), End::Cancelled(String::new())] {
            let mut board = Board::default();
            for (number, share) in [(1, "a"), (2, "b"), (3, "c")] {
                board.ask(number, share, Some((7, 1)));
            }
            board.ask(4, "d", Some((8, 1)));
            assert_eq!(board.start(), [1, 4]);
            board.end(1, &end);
            let plan = board.plan();
            assert_eq!((plan.start.len(), plan.end.len()), (0, 2));
            assert!(plan.end.iter().all(|(_, end)| matches!(end, End::Cancelled(why) if why.starts_with("a,"))));
        }
    }

    #[test]
    fn one_left_by_a_stopped_producer_goes_on_first() {
        let mut board = Board::default();
        board.ask(1, "a", Some((7, 1))).run = Some(Run::begin(id(98), Timestamp::UNIX_EPOCH));
        board.ask(2, "b", Some((7, 1)));
        assert_eq!(board.start(), [1]);
    }

    #[test]
    fn cancelling_stops_what_runs_and_ends_what_does_not() {
        let mut board = Board::default();
        board.ask(1, "a", None);
        board.ask(2, "a", None).order.cancel = true;
        board.ask(3, "unknown", None);
        assert_eq!(board.start(), [1]);
        board.ask(1, "a", None).order.cancel = true;
        let plan = board.plan();
        assert_eq!((plan.stop, plan.start), (vec![id(1)], vec![]));
        let ended: Vec<_> = plan.end.iter().map(|(id, end)| (id.as_u128(), matches!(end, End::Failed(_)))).collect();
        assert_eq!(ended, [(2, false), (3, true)]);
    }
}
