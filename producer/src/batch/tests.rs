use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn lane(share: usize, action: Action, partition: u32) -> Lane {
    Lane {
        share,
        route: 0,
        queue: 0,
        table: "incident".into(),
        partition,
        action,
        partial: false,
        origin: Arc::from([]),
    }
}

fn config() -> BatchConfig {
    BatchConfig { batch_bytes_max: 1024, batch_records_max: 3, linger_ms: 5, open_bytes_max: 2048 }
}

fn drain(batcher: &mut Batcher) -> Vec<Batch> {
    std::iter::from_fn(|| batcher.next_closed()).collect()
}

fn lines(batches: &[Batch]) -> Vec<&str> {
    batches.iter().map(|batch| std::str::from_utf8(&batch.ndjson).unwrap()).collect()
}

#[test]
fn a_batch_closes_on_count_and_names_the_polls_of_its_records() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    let insert = lane(0, Action::Insert, 2);
    batcher.add(&insert, 1, 7, b"a\n", Some(4), now);
    batcher.add(&insert, 2, 7, b"b\n", Some(5), now);
    assert_eq!(drain(&mut batcher), []);
    batcher.add(&insert, 3, 8, b"c\n", None, now);
    let tickets = vec![Ticket { poll: 7, records: 2 }, Ticket { poll: 8, records: 1 }];
    assert_eq!(
        drain(&mut batcher),
        [Batch { lane: insert, records: 3, ndjson: b"a\nb\nc\n".to_vec(), tickets, notes: vec![4, 5] }]
    );
    assert_eq!((batcher.open_bytes(), batcher.next_deadline()), (0, None));
}

#[test]
fn a_batch_is_larger_than_its_limit_only_for_a_record_that_is() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    let insert = lane(0, Action::Insert, 0);
    for (key, bytes) in [(1, 600), (2, 600), (3, 3000), (4, 1024), (5, 1)] {
        batcher.add(&insert, key, 0, &vec![b'x'; bytes], None, now);
    }
    let sizes: Vec<_> = drain(&mut batcher).iter().map(|batch| batch.ndjson.len()).collect();
    assert_eq!(sizes, [600, 600, 3000, 1024]);
    assert_eq!(batcher.open_bytes(), 1);
}

#[test]
fn a_batch_closes_after_its_linger_counted_from_its_first_record() {
    let (mut batcher, start) = (Batcher::new(config()), Instant::now());
    let ms = |ms| start + Duration::from_millis(ms);
    batcher.add(&lane(0, Action::Insert, 0), 1, 0, b"a\n", None, start);
    batcher.add(&lane(0, Action::Insert, 1), 2, 0, b"b\n", None, ms(2));
    batcher.add(&lane(0, Action::Insert, 0), 3, 0, b"c\n", None, ms(4));
    assert_eq!(batcher.next_deadline(), Some(ms(5)));
    batcher.close_due(ms(4));
    assert_eq!(drain(&mut batcher), []);
    batcher.close_due(ms(5));
    assert_eq!(lines(&drain(&mut batcher)), ["a\nc\n"]);
    assert_eq!(batcher.next_deadline(), Some(ms(7)));
    batcher.close_all();
    assert_eq!(lines(&drain(&mut batcher)), ["b\n"]);
}

#[test]
fn a_batch_waits_longer_while_the_source_is_far_ahead_and_no_longer_than_that() {
    let (mut batcher, start) = (Batcher::new(config()), Instant::now());
    batcher.set_behind(true);
    batcher.add(&lane(0, Action::Insert, 0), 1, 0, b"a\n", None, start);
    assert_eq!(batcher.next_deadline(), Some(start + Duration::from_millis(50)));
    batcher.set_behind(false);
    assert_eq!(batcher.next_deadline(), Some(start + Duration::from_millis(5)));
}

#[test]
fn a_record_closes_the_other_batch_that_holds_its_key_and_no_more() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    batcher.add(&lane(0, Action::Update, 0), 9, 0, b"other\n", None, now);
    batcher.add(&lane(0, Action::Insert, 0), 1, 0, b"insert\n", None, now);
    batcher.add(&lane(0, Action::Update, 0), 1, 0, b"update\n", None, now);
    assert_eq!(lines(&drain(&mut batcher)), ["insert\n"]);
    batcher.add(&lane(0, Action::Update, 0), 1, 0, b"again\n", None, now);
    assert_eq!(lines(&drain(&mut batcher)), ["other\nupdate\nagain\n"]);
}

#[test]
fn the_same_key_in_another_queue_closes_nothing() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    batcher.add(&lane(0, Action::Insert, 0), 1, 0, b"a\n", None, now);
    batcher.add(&Lane { queue: 1, ..lane(1, Action::Insert, 0) }, 1, 0, b"b\n", None, now);
    assert_eq!(drain(&mut batcher), []);
}

#[test]
fn changes_of_another_origin_are_a_batch_of_their_own() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    let local = lane(0, Action::Insert, 0);
    let passed = Lane { origin: Arc::from(["crm".to_owned()]), ..local.clone() };
    batcher.add(&local, 1, 0, b"a\n", None, now);
    batcher.add(&passed, 2, 0, b"b\n", None, now);
    batcher.close_all();
    let origins: Vec<_> = drain(&mut batcher).into_iter().map(|batch| batch.lane.origin.len()).collect();
    assert_eq!(origins, [0, 1]);
}

#[test]
fn the_oldest_batches_close_when_all_together_hold_too_much() {
    let (mut batcher, now) = (Batcher::new(config()), Instant::now());
    for partition in 0..3 {
        batcher.add(&lane(0, Action::Insert, partition), partition.into(), 0, &[b'x'; 900], None, now);
    }
    let partitions: Vec<_> = drain(&mut batcher).iter().map(|batch| batch.lane.partition).collect();
    assert_eq!((partitions, batcher.open_bytes()), (vec![0], 1800));
}

#[test]
fn every_value_out_of_range_is_reported_at_once() {
    assert_eq!(BatchConfig::default().validate(), []);
    let bad = BatchConfig { batch_bytes_max: 9 << 20, batch_records_max: 0, linger_ms: 10_001, open_bytes_max: 1 };
    let fields: Vec<_> = bad.validate().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["batch_bytes_max", "batch_records_max", "linger_ms", "open_bytes_max"]);
}

/// One step of a schedule: a record, or time passing.
#[derive(Clone, Debug)]
enum Step {
    Add { share: usize, action: Action, key: u64, padding: usize },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let add = (0..3_usize, prop::sample::select(Action::ALL.to_vec()), 0..12_u64, 0..700_usize)
        .prop_map(|(share, action, key, padding)| Step::Add { share, action, key, padding });
    prop_oneof![9 => add, 1 => (0..8_u64).prop_map(|ms| Step::Wait { ms })]
}

proptest! {
    #[test]
    fn each_key_keeps_its_order_and_nothing_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 0..300), records_max in 1..20_u32, open_bytes_max in 1024..8192_usize,
    ) {
        let limits = BatchConfig { batch_bytes_max: 1024, batch_records_max: records_max, linger_ms: 5, open_bytes_max };
        let (mut batcher, mut now) = (Batcher::new(limits), Instant::now());
        let (mut added, mut closed) = (HashMap::<_, Vec<usize>>::new(), Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add { share, action, key, padding } => {
                    // Shares 0 and 1 send to one queue, share 2 to another; a key has one partition of each.
                    let queue = share / 2;
                    let lane = Lane { queue, ..lane(share, action, u32::try_from(key % 2).unwrap()) };
                    let line = format!("{queue}/{key} {number} {}\n", "x".repeat(padding));
                    batcher.add(&lane, key, number as u64 / 10, line.as_bytes(), None, now);
                    added.entry(format!("{queue}/{key}")).or_default().push(number);
                }
                Step::Wait { ms } => {
                    now += Duration::from_millis(ms);
                    batcher.close_due(now);
                    prop_assert!(batcher.next_deadline().is_none_or(|due| due > now));
                }
            }
            closed.extend(drain(&mut batcher));
            prop_assert!(batcher.open_bytes() <= open_bytes_max);
            prop_assert_eq!(batcher.open_bytes(), batcher.open.values().map(|open| open.batch.ndjson.len()).sum::<usize>());
        }
        batcher.close_all();
        closed.extend(drain(&mut batcher));
        prop_assert!(batcher.holders.is_empty() && batcher.lanes.is_empty() && batcher.open_bytes() == 0);

        let mut published = HashMap::<_, Vec<usize>>::new();
        for batch in &closed {
            let text = std::str::from_utf8(&batch.ndjson).unwrap();
            prop_assert_eq!(text.lines().count(), batch.records as usize);
            prop_assert_eq!(batch.tickets.iter().map(|ticket| ticket.records).sum::<u32>(), batch.records);
            prop_assert!(batch.records <= records_max && batch.ndjson.len() <= 1024);
            for line in text.lines() {
                let mut words = line.split(' ');
                let key = words.next().unwrap().to_owned();
                published.entry(key).or_default().push(words.next().unwrap().parse().unwrap());
            }
        }
        prop_assert_eq!(published, added);
    }
}
