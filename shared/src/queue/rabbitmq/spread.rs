//! Which replica is to receive which partition: as evenly as whole partitions can be, with no more of them moved than that
//! takes.
//!
//! Pure: replicas that see the same come to the same. What comes out is a wish. Who receives is up to the broker, one
//! consumer for each partition, the one of the highest priority; so two replicas that see different things never both
//! receive, and at worst a partition moves once more.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::Hasher as _;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// Bits of a priority that are the weight: two replicas weigh the same once in a million partitions.
const WEIGHT_BITS: u32 = 20;

/// With which priority a replica is attached to which partition.
pub(super) type Priorities = BTreeMap<u32, i64>;

/// One replica as it is known.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Member {
    /// Its name.
    pub(super) replica: String,
    /// Where it is attached.
    pub(super) priorities: Priorities,
}

/// How much a partition leans to a replica (rendezvous hashing), the same in every version: hash and key (zero) are fixed.
pub(super) fn weight(replica: &str, partition: u32) -> i64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&partition.to_be_bytes());
    hasher.write(replica.as_bytes());
    i64::try_from(hasher.finish() % (1 << WEIGHT_BITS)).unwrap_or_default()
}

/// A priority to take a partition with: above everybody who was attached to it with `highest` or less.
pub(super) fn bid(replica: &str, partition: u32, highest: Option<i64>) -> i64 {
    let generation = highest.map_or(0, |highest| highest >> WEIGHT_BITS).saturating_add(1);
    (generation << WEIGHT_BITS) | weight(replica, partition)
}

/// A priority to stand by with: below whoever has the partition, and by weight among those that stand by, so that the
/// partitions of one that is gone go to several others.
pub(super) fn stand_by(replica: &str, partition: u32, highest: Option<i64>) -> i64 {
    let weight = weight(replica, partition);
    match highest {
        Some(highest) if highest <= weight => ((highest >> WEIGHT_BITS).saturating_sub(1) << WEIGHT_BITS) | weight,
        Some(_) | None => weight,
    }
}

/// The greatest priority anybody is attached to a partition with.
pub(super) fn highest(partition: u32, members: &BTreeMap<&str, &Member>) -> Option<i64> {
    members.values().filter_map(|member| member.priorities.get(&partition)).max().copied()
}

/// The member that receives a partition now, by its priority.
pub(super) fn owner<'a>(partition: u32, members: &BTreeMap<&'a str, &Member>) -> Option<&'a str> {
    let attached = members.iter().filter_map(|(id, member)| Some((*member.priorities.get(&partition)?, *id)));
    attached.max().map(|(_, id)| id)
}

/// Who is to receive each partition, by the ids of the members, of which there is one at least.
///
/// No member gets two partitions more than another. Partitions leave only members that have more than their part, and go
/// where they lean most.
pub(super) fn spread<'a>(partitions: u32, members: &BTreeMap<&'a str, &Member>) -> BTreeMap<u32, &'a str> {
    let mut owners: BTreeMap<u32, &str> =
        (0..partitions).filter_map(|partition| Some((partition, owner(partition, members)?))).collect();
    let mut room = room(partitions, &owners, members);
    let mut offers = Vec::new();
    for partition in 0..partitions {
        if owners.get(&partition).is_none_or(|owner| has_too_many(&room, owner)) {
            let takers = members.iter().filter(|(id, _)| has_room(&room, id));
            offers.extend(takers.map(|(id, member)| (Reverse(weight(&member.replica, partition)), partition, *id)));
        }
    }
    offers.sort_unstable();
    for (_, partition, taker) in offers {
        let owner = owners.get(&partition).copied();
        if has_room(&room, taker) && owner.is_none_or(|owner| has_too_many(&room, owner)) {
            owners.insert(partition, taker);
            for (id, change) in owner.map(|owner| (owner, 1)).into_iter().chain([(taker, -1)]) {
                *room.entry(id).or_default() += change;
            }
        }
    }
    owners
}

/// How many partitions more each member is to have; negative for one that has too many.
type Room<'a> = BTreeMap<&'a str, i64>;

fn has_room(room: &Room<'_>, id: &str) -> bool {
    room.get(id).is_some_and(|room| *room > 0)
}

fn has_too_many(room: &Room<'_>, id: &str) -> bool {
    room.get(id).is_some_and(|room| *room < 0)
}

fn room<'a>(partitions: u32, owners: &BTreeMap<u32, &str>, members: &BTreeMap<&'a str, &Member>) -> Room<'a> {
    let owned = |id: &str| owners.values().filter(|owner| **owner == id).count();
    let mut members: Vec<_> = members.keys().map(|id| (Reverse(owned(id)), *id)).collect();
    members.sort_unstable();
    let (all, count) = (usize::try_from(partitions).unwrap_or_default(), members.len().max(1));
    // Those that have the most keep the ones left over.
    let part = |at: usize| all / count + usize::from(at < all % count);
    let signed = |number: usize| i64::try_from(number).unwrap_or_default();
    members.into_iter().enumerate().map(|(at, (owned, id))| (id, signed(part(at)) - signed(owned.0))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Replicas with the partitions they own, all of them attached to all.
    fn attached(partitions: u32, owned: &[&[u32]]) -> Vec<Member> {
        let member = |(at, owned): (usize, &&[u32])| {
            let replica = format!("replica-{at}");
            let priority = |partition| match owned.contains(&partition) {
                true => bid(&replica, partition, None),
                false => weight(&replica, partition),
            };
            let priorities = (0..partitions).map(|partition| (partition, priority(partition))).collect();
            Member { replica, priorities }
        };
        owned.iter().enumerate().map(member).collect()
    }

    fn view(members: &[Member]) -> BTreeMap<&str, &Member> {
        members.iter().map(|member| (member.replica.as_str(), member)).collect()
    }

    /// Has every member take what it is to have; how many partitions changed hands.
    fn settle(partitions: u32, members: &mut [Member]) -> usize {
        let seen = view(members);
        let wishes: Vec<_> = spread(partitions, &seen)
            .into_iter()
            .filter(|(partition, wished)| owner(*partition, &seen) != Some(*wished))
            .map(|(partition, wished)| {
                (wished.to_owned(), partition, bid(wished, partition, highest(partition, &seen)))
            })
            .collect();
        for (wished, partition, priority) in &wishes {
            let member = members.iter_mut().find(|member| member.replica == *wished).unwrap();
            member.priorities.insert(*partition, *priority);
        }
        wishes.len()
    }

    fn counts(partitions: u32, members: &[Member]) -> Vec<usize> {
        let seen = view(members);
        let owners: Vec<_> = (0..partitions).filter_map(|partition| owner(partition, &seen)).collect();
        seen.keys().map(|id| owners.iter().filter(|owner| *owner == id).count()).collect()
    }

    fn is_even(counts: &[usize]) -> bool {
        counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1
    }

    #[test]
    fn the_weight_of_a_replica_is_the_same_in_every_version() {
        assert_eq!((weight("consumer-1", 0), weight("consumer-1", 7)), (587_480, 811_221));
    }

    #[test]
    fn a_bid_is_above_every_priority_it_is_to_beat_and_every_stand_by() {
        let first = bid("a", 3, None);
        assert!(first > weight("b", 3) && first > weight("a", 3));
        let second = bid("b", 3, Some(first));
        assert!(second > first && bid("a", 3, Some(second)) > second);
    }

    #[test]
    fn who_stands_by_is_below_whoever_has_the_partition() {
        for highest in [bid("b", 3, None), weight("b", 3), weight("a", 3), 0, -1, -(1 << WEIGHT_BITS)] {
            assert!(stand_by("a", 3, Some(highest)) < highest, "{highest}");
        }
    }

    #[test]
    fn who_joins_takes_its_part_and_gets_the_same_one_again() {
        let all: Vec<u32> = (0..8).collect();
        let joined = || {
            let mut members = attached(8, &[&all, &[]]);
            assert_eq!(settle(8, &mut members), 4);
            let seen = view(&members);
            (0..8).map(|partition| owner(partition, &seen).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(joined(), joined());
    }

    #[test]
    fn more_replicas_than_partitions_get_one_or_none() {
        let mut members = attached(2, &[&[0, 1], &[], &[], &[]]);
        assert_eq!(settle(2, &mut members), 1);
        assert!(is_even(&counts(2, &members)));
    }

    proptest! {
        #[test]
        fn every_spread_is_even_moves_no_more_than_it_must_and_then_stays(
            partitions in 1_u32..40,
            owned in prop::collection::vec(prop::collection::btree_map(0_u32..40, 0_i64..(4 << WEIGHT_BITS), 0..40), 1..12),
        ) {
            let member = |(at, priorities)| Member { replica: format!("replica-{at}"), priorities };
            let mut members: Vec<_> = owned.into_iter().enumerate().map(member).collect();
            let before = counts(partitions, &members);
            let mut parts = before.clone();
            parts.sort_unstable_by_key(|owned| Reverse(*owned));
            let (all, count) = (partitions as usize, members.len());
            let kept: usize =
                parts.iter().enumerate().map(|(at, owned)| *owned.min(&(all / count + usize::from(at < all % count)))).sum();

            prop_assert_eq!(settle(partitions, &mut members), all - kept);
            let after = counts(partitions, &members);
            prop_assert!(is_even(&after), "{before:?} became {after:?}");
            prop_assert_eq!(after.iter().sum::<usize>(), all);
            prop_assert_eq!(settle(partitions, &mut members), 0, "it does not rest");
        }

        #[test]
        fn who_comes_moves_only_its_own_part_and_who_goes_only_what_it_had(partitions in 1_u32..40, count in 1_usize..12) {
            // One after the other, as processes start.
            let mut members: Vec<Member> = Vec::new();
            for at in 0..=count {
                let (replica, seen) = (format!("replica-{at}"), view(&members));
                let priority = |partition| stand_by(&replica, partition, highest(partition, &seen));
                let priorities = (0..partitions).map(|partition| (partition, priority(partition))).collect();
                members.push(Member { replica, priorities });
                let part = partitions as usize / members.len();
                prop_assert!(at == 0 || settle(partitions, &mut members) <= part);
            }

            let gone = members.swap_remove(0);
            let seen = view(&members);
            let had = (0..partitions).filter(|partition| {
                owner(*partition, &seen).is_some_and(|next| gone.priorities[partition] > seen[next].priorities[partition])
            });
            let had = had.count();
            // The broker hands them to those that stand by, some of whom have too many then.
            prop_assert!(settle(partitions, &mut members) <= had);
            prop_assert!(is_even(&counts(partitions, &members)));
        }
    }
}
