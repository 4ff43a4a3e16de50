//! When a receiver is told what. Pure code: the faults and the time are its caller's.

use jiff::{SignedDuration, Timestamp};

use super::notice::Event;
use crate::health::Fault;

/// What one receiver was told.
///
/// Told once when a fault has lasted for `after`, again every `interval` while any lasts, and once when none was there for
/// `after`: parts that stumble several times are one story. The end is told only to who was told the begin.
#[derive(Debug)]
pub(super) struct Watch {
    after: SignedDuration,
    interval: SignedDuration,
    told: Option<Told>,
}

/// A story that was begun.
#[derive(Debug)]
struct Told {
    /// Since when something is at fault.
    since: Timestamp,
    /// When the last message was sent.
    at: Timestamp,
    /// The faults it named.
    faults: Vec<Fault>,
    /// Since when nothing is at fault.
    calm: Option<Timestamp>,
}

/// A message that is to be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) event: Event,
    /// Since when something is, or was, at fault.
    pub(super) since: Timestamp,
    /// What is at fault; of an end what was, as told last.
    pub(super) faults: Vec<Fault>,
}

impl Watch {
    pub(super) const fn new(after: SignedDuration, interval: SignedDuration) -> Self {
        Self { after, interval, told: None }
    }

    /// What is to be told of these faults at this time. The same again until [`Self::sent`].
    pub(super) fn due(&mut self, faults: &[Fault], now: Timestamp) -> Option<Due> {
        let oldest = faults.iter().map(|fault| fault.since).min();
        let is_past = |since: Timestamp, length| now.duration_since(since) >= length;
        match (&mut self.told, oldest) {
            (None, None) => None,
            (None, Some(since)) => {
                is_past(since, self.after).then(|| Due { event: Event::Paused, since, faults: faults.to_vec() })
            }
            (Some(told), Some(_)) => {
                told.calm = None;
                let (since, at) = (told.since, told.at);
                is_past(at, self.interval).then(|| Due { event: Event::StillPaused, since, faults: faults.to_vec() })
            }
            (Some(told), None) => {
                let calm = *told.calm.get_or_insert(now);
                is_past(calm, self.after).then(|| Due {
                    event: Event::Works,
                    since: told.since,
                    faults: told.faults.clone(),
                })
            }
        }
    }

    /// Notes that the receiver has it.
    pub(super) fn sent(&mut self, due: Due, now: Timestamp) {
        self.told = match due.event {
            Event::Paused | Event::StillPaused => {
                Some(Told { since: due.since, at: now, faults: due.faults, calm: None })
            }
            Event::Works | Event::Test => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute and an hour, looked at by the second.
    struct Story {
        watch: Watch,
        now: i64,
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn fault(part: &str, since: i64) -> Fault {
        Fault { part: part.to_owned(), reason: "out of reach".to_owned(), since: at(since), stands_by: false }
    }

    impl Story {
        fn begin() -> Self {
            let (after, interval) = (SignedDuration::from_secs(60), SignedDuration::from_secs(3600));
            Self { watch: Watch::new(after, interval), now: 0 }
        }

        /// What is told until a second, with these faults all the while: the second, the event, and how many faults.
        fn until(&mut self, end: i64, faults: &[Fault]) -> Vec<(i64, Event, usize)> {
            let mut told = Vec::new();
            while self.now < end {
                if let Some(due) = self.watch.due(faults, at(self.now)) {
                    told.push((self.now, due.event, due.faults.len()));
                    self.watch.sent(due, at(self.now));
                }
                self.now += 1;
            }
            told
        }
    }

    #[test]
    fn a_fault_is_told_once_an_interval_while_it_lasts_and_once_when_it_is_over() {
        let mut story = Story::begin();
        assert_eq!(story.until(100, &[]), []);
        let faults = [fault("target", 100)];
        let told = story.until(9_000, &faults);
        assert_eq!(told, [(160, Event::Paused, 1), (3_760, Event::StillPaused, 1), (7_360, Event::StillPaused, 1)]);
        assert_eq!(story.until(20_000, &[]), [(9_060, Event::Works, 1)]);
        assert_eq!(story.until(30_000, &[fault("target", 25_000)]).len(), 1 + 1, "the next one is another story");
    }

    #[test]
    fn a_fault_that_is_over_in_time_is_not_told_and_neither_is_its_end() {
        let mut story = Story::begin();
        assert_eq!(story.until(59, &[fault("target", 0)]), []);
        assert_eq!(story.until(10_000, &[]), []);
    }

    #[test]
    fn several_faults_are_one_message_and_those_that_come_later_wait_for_the_next() {
        let mut story = Story::begin();
        let both = [fault("source", 0), fault("queue", 30)];
        assert_eq!(story.until(1_000, &both), [(60, Event::Paused, 2)]);
        let three = [fault("source", 0), fault("queue", 30), fault("target", 1_000)];
        assert_eq!(story.until(4_000, &three), [(3_660, Event::StillPaused, 3)]);
        // It is over when all are.
        assert_eq!(story.until(6_000, &[fault("target", 1_000)]), []);
        assert_eq!(story.until(7_000, &[]), [(6_060, Event::Works, 3)]);
    }

    #[test]
    fn a_part_that_stumbles_again_and_again_is_one_story() {
        let mut story = Story::begin();
        assert_eq!(story.until(100, &[fault("target", 0)]).len(), 1);
        for round in 1..30 {
            let begin = round * 100;
            assert_eq!(story.until(begin + 50, &[]), [], "the calm was too short in round {round}");
            assert_eq!(story.until(begin + 100, &[fault("target", begin + 50)]), []);
        }
        assert_eq!(story.until(4_000, &[]), [(3_060, Event::Works, 1)]);
    }

    #[test]
    fn what_could_not_be_sent_is_due_until_it_is_and_an_end_needs_a_begin() {
        let mut watch = Story::begin().watch;
        for second in [60, 61, 5_000] {
            let due = watch.due(&[fault("target", 0)], at(second)).expect("a begin");
            assert_eq!((due.event, due.since), (Event::Paused, at(0)));
        }
        // Never sent: nothing to tell once it is over.
        assert_eq!((watch.due(&[], at(5_001)), watch.due(&[], at(9_000))), (None, None));

        let due = watch.due(&[fault("target", 9_000)], at(9_060)).expect("a begin");
        watch.sent(due, at(9_100));
        assert_eq!(watch.due(&[], at(9_200)), None);
        for second in [9_260, 9_300] {
            assert_eq!(watch.due(&[], at(second)).map(|due| due.event), Some(Event::Works), "until it is sent");
        }
    }
}
