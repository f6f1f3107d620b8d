//! Tests of leases one by one; `lease_simulation.rs` has many share a store.

use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms {
    limit: 1_000,
    resets: Timestamp::from_secs(60),
    leased: true,
};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// What a lone holder takes in advance, in a flush of its own.
fn extra(leases: &mut Leases, terms: Terms, waiting: u64, now: Timestamp) -> u64 {
    leases.next_flush();
    leases.extra(1, terms, waiting, 1, now)
}

/// A lease of 100 hits: the positions from 6 to 105.
fn leased() -> Leases {
    let mut leases = Leases::new(10);
    assert_eq!(extra(&mut leases, TERMS, 5, at(1_000)), 0, "no rate yet");
    leases.grant(1, TERMS, 5, 0);
    leases.grant(1, TERMS, 105, 100);
    leases
}

fn spend(leases: &mut Leases, hits: u64, terms: Terms, now: Timestamp) -> Option<(u64, u64)> {
    let seen = leases.spend(1, hits, terms, now)?;
    Some((seen.before, seen.after))
}

#[test]
fn spends_what_it_covers_in_order() {
    let mut leases = leased();
    for (hits, expected) in [
        (0, None),
        (101, None),
        (40, Some((5, 45))),
        (61, None),
        (60, Some((45, 105))),
        (1, None),
    ] {
        assert_eq!(spend(&mut leases, hits, TERMS, at(2_000)), expected);
    }
    assert_eq!((leases.balance(1), leases.outstanding(at(2_000))), (0, 0));
}

#[test]
fn holds_each_hit_against_its_own_limit_and_window() {
    let limit = |limit| Terms { limit, ..TERMS };
    let other_window = Terms {
        resets: Timestamp::from_secs(3_600),
        ..TERMS
    };
    for (terms, now, expected) in [
        (TERMS, at(2_000), Some((5, 15))),
        (limit(2_000), at(2_000), Some((5, 15))),
        (limit(15), at(2_000), Some((5, 15))),
        (limit(14), at(2_000), None),
        (limit(0), at(2_000), None),
        (other_window, at(2_000), None),
        (TERMS, at(59_999), Some((5, 15))),
        (TERMS, at(60_000), None),
    ] {
        let mut leases = leased();
        let seen = spend(&mut leases, 10, terms, now);
        assert_eq!(seen, expected, "{terms:?} at {now:?}");
    }
}

#[test]
fn a_hit_with_another_limit_costs_the_lease_nothing() {
    let mut leases = leased();
    for limit in [3, 2_000, 0, 500] {
        let terms = Terms { limit, ..TERMS };
        spend(&mut leases, 200, terms, at(2_000));
        extra(&mut leases, terms, 1, at(2_000));
    }
    assert_eq!(leases.balance(1), 100);
}

#[test]
fn only_what_is_within_the_limit_is_kept() {
    for (reply, extra, kept) in [
        (1_000, 10, 10),
        (1_005, 10, 5),
        (1_010, 10, 0),
        (2_000, 10, 0),
        (u64::MAX, u64::MAX, 1_000),
        (5, 10, 5),
        (0, 0, 0),
    ] {
        let mut leases = Leases::new(10);
        leases.extra(1, TERMS, 1, 1, at(1_000));
        leases.grant(1, TERMS, reply, extra);
        assert_eq!(leases.outstanding, kept, "{extra} up to {reply}");
        assert_eq!(leases.balance(1), kept);
    }
}

#[test]
fn size_follows_the_rate_and_shrinks_near_the_limit() {
    // Hits that came in a number of milliseconds; limit, last count, holders,
    // time left → how many are taken in advance beside one that waits.
    for (hits, over, limit, count, holders, left, expected) in [
        (99, 20, 1_000_000, 0, 1, 9_000, 100),
        (99, 5, 1_000_000, 0, 1, 9_000, 100), // never more than were seen
        (99, 200, 1_000_000, 0, 1, 9_000, 10),
        (99, 20, 1_000_000, 0, 1, 10, 50), // the window ends
        (99, 20, 1_000_000, 0, 1, 0, 0),
        (99, 20, 1_000, 0, 1, 9_000, 50), // a twentieth of the limit
        (99, 20, 1_000, 0, 5, 9_000, 10),
        (99, 20, 1_000, 0, 0, 9_000, 50),
        (99, 20, 19, 0, 1, 9_000, 0),
        (99, 20, 1_000, 949, 1, 9_000, 25), // half of what is left
        (99, 20, 1_000, 949, 4, 9_000, 6),
        (99, 20, 1_000, 992, 4, 9_000, 0),
        (99, 20, 1_000, 5_000, 1, 9_000, 0),
        (0, 20_000, 1_000_000, 0, 1, 9_000, 0), // cold
        (99, 20, 0, 0, 1, 9_000, 0),
        (u64::MAX, 20, u32::MAX, 0, u64::MAX, 9_000, 0),
        (u64::MAX, 20, u32::MAX, 0, 1, 9_000, 214_748_364),
    ] {
        let terms = Terms {
            limit,
            resets: at(100_000 + left),
            leased: true,
        };
        let mut leases = Leases::new(10);
        leases.extra(1, terms, hits, holders, at(100_000 - over));
        leases.grant(1, terms, count, 0);
        leases.next_flush();
        let taken = leases.extra(1, terms, 1, holders, at(100_000));
        assert_eq!(
            taken, expected,
            "{hits} in {over} ms, {count} of {limit}, {holders} holders, {left} ms left"
        );
    }
}

#[test]
fn takes_only_what_it_does_not_hold() {
    let mut leases = leased();
    let terms = Terms {
        limit: 1_000_000,
        ..TERMS
    };
    for (spent, expected) in [(0, 0), (60, 21), (40, 61)] {
        let now = at(2_000);
        spend(&mut leases, spent, terms, now);
        let lease = leases.leases.get_mut(&1).expect("there");
        (lease.demand, lease.since) = (60, now);
        assert_eq!(extra(&mut leases, terms, 1, now), expected, "{spent} spent");
    }
}

#[test]
fn a_flush_takes_for_a_counter_once() {
    let mut leases = Leases::new(10);
    leases.next_flush();
    let ask = |leases: &mut Leases| leases.extra(1, TERMS, 10, 1, at(1_000));
    assert_eq!([ask(&mut leases), ask(&mut leases)], [0, 0], "new");
    leases.next_flush();
    assert_eq!([ask(&mut leases), ask(&mut leases)], [30, 0]);
    leases.next_flush();
    assert_eq!(ask(&mut leases), 50, "whatever became of the others");
}

#[test]
fn a_store_that_forgets_does_not_confuse() {
    let mut leases = leased();
    leases.grant(1, TERMS, 3, 3);
    assert_eq!(spend(&mut leases, 103, TERMS, at(2_000)), Some((2, 105)));
    let mut leases = leased();
    leases.grant(1, TERMS, 50, 50);
    assert_eq!(leases.balance(1), 105, "no more than there are positions");
    assert_eq!(leases.outstanding(at(2_000)), 105);
    leases.clear();
    assert_eq!((leases.balance(1), leases.outstanding(at(2_000))), (0, 0));
}

#[test]
fn one_counter_can_be_given_up() {
    let mut leases = leased();
    leases.extra(2, TERMS, 1, 1, at(1_000));
    leases.grant(2, TERMS, 10, 3);
    leases.forget(1);
    leases.forget(3);
    assert_eq!(spend(&mut leases, 1, TERMS, at(2_000)), None);
    assert_eq!((leases.balance(2), leases.outstanding), (3, 3));
    leases.grant(1, TERMS, 300, 10);
    assert_eq!(spend(&mut leases, 1, TERMS, at(2_000)), Some((290, 291)));
}

#[test]
fn are_bounded_and_go_when_they_are_over() {
    const MOST: usize = 1_000;
    let mut leases = Leases::new(MOST);
    let terms = |key: u128| Terms {
        resets: Timestamp::from_secs(if key < 500 { 10 } else { 3_600 }),
        ..TERMS
    };
    for key in 0..5_000 {
        leases.extra(key, terms(key), 1, 1, at(1_000));
        leases.grant(key, terms(key), 10, 5);
    }
    assert_eq!(leases.leases.len(), MOST);
    assert_eq!(leases.outstanding(at(9_999)), 5 * MOST as u64);
    assert_eq!(leases.outstanding(at(10_000)), 5 * 500, "windows end");
    assert_eq!(leases.leases.len(), 500);
    assert_eq!(leases.visits.len(), 500);
}

/// Not even while nobody has come to drop it.
#[test]
fn nothing_is_spent_after_the_windows_end() {
    let mut leases = Leases::new(1_000);
    for key in 0..1_000 {
        leases.extra(key, TERMS, 1, 1, at(1_000));
        leases.grant(key, TERMS, 10, 5);
    }
    for key in (0..1_000).rev() {
        assert_eq!(leases.spend(key, 1, TERMS, TERMS.resets), None);
    }
    assert_eq!((leases.leases.len(), leases.outstanding), (0, 0));
}

#[test]
fn cold_counters_make_room_for_hot_ones() {
    const MOST: u128 = 100;
    let mut leases = Leases::new(MOST as usize);
    let terms = Terms {
        resets: Timestamp::from_secs(3_600),
        ..TERMS
    };
    for key in 0..MOST {
        leases.extra(key, terms, 1, 1, at(1_000));
    }
    leases.grant(0, terms, 10, 5);
    leases.extra(MOST, terms, 1, 1, at(1_500));
    assert!(!leases.leases.contains_key(&MOST), "no room yet");
    for round in 1..100 {
        leases.extra(1, terms, 1, 1, at(1_500 + round * 100));
    }
    let kept: Vec<u128> = leases.leases.keys().copied().collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!((leases.balance(0), kept.contains(&1)), (5, true));
}

#[derive(Clone, Debug)]
enum Deed {
    Spend(u64),
    Ask(u64, u64),
    Grant(u64, u64),
    NextFlush,
    Forget,
    Clear,
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..5_u64, 0..2_000_u64, Just(u64::MAX), any::<u64>()]
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => any_number().prop_map(Deed::Spend),
        4 => (any_number(), any_number()).prop_map(|(a, b)| Deed::Ask(a, b)),
        4 => (any_number(), any_number()).prop_map(|(a, b)| Deed::Grant(a, b)),
        2 => Just(Deed::NextFlush),
        1 => Just(Deed::Forget),
        1 => Just(Deed::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the store and the clock say: no panic, no more than is
    /// granted, never beyond a limit, and the sum is right.
    #[test]
    fn nonsense_does_no_harm(
        deeds in prop::collection::vec(
            (any_deed(), 0..4_u128, any_number(), prop_oneof![0..100_u32, any::<u32>()], any::<bool>()),
            1..200,
        ),
    ) {
        let mut leases = Leases::new(3);
        let mut now = 0_u64;
        let mut held = std::collections::HashMap::<u128, u128>::new();
        for (deed, key, time, limit, turns_back) in deeds {
            now = if turns_back { now.saturating_sub(time) } else { now.saturating_add(time) };
            let resets = Timestamp::from_nanos((now / 1_000).saturating_mul(1_000).saturating_add(1_000));
            let terms = Terms { limit, resets, leased: true };
            let at = Timestamp::from_nanos(now);
            match deed {
                Deed::Spend(hits) => if let Some(seen) = leases.spend(key, hits, terms, at) {
                    prop_assert_eq!(seen.after - seen.before, hits);
                    prop_assert!(seen.after <= u64::from(limit));
                    let held = held.entry(key).or_default();
                    prop_assert!(*held >= u128::from(hits));
                    *held -= u128::from(hits);
                },
                Deed::Ask(waiting, holders) => {
                    let extra = leases.extra(key, terms, waiting, holders, at);
                    prop_assert!(extra <= u64::from(limit) / 20);
                    prop_assert!(extra <= u64::from(limit).saturating_sub(waiting) / 2);
                }
                Deed::Grant(reply, extra) => {
                    leases.grant(key, terms, reply, extra);
                    *held.entry(key).or_default() += u128::from(extra);
                }
                Deed::NextFlush => leases.next_flush(),
                Deed::Forget => leases.forget(key),
                Deed::Clear => leases.clear(),
            }
            prop_assert!(leases.leases.len() <= 3);
            prop_assert_eq!(leases.visits.len(), leases.leases.len());
            let balances: u64 = leases.leases.values().map(|lease| lease.balance).sum();
            prop_assert_eq!(balances, leases.outstanding);
        }
    }
}
