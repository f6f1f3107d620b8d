//! Tests of the memory store.

use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::engine::{
    descriptor::Entry,
    key::CounterKey,
    limit::{Limit, Unit, Window},
};

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

fn store(max_counters: usize, when_full: WhenFull) -> MemoryStore {
    let config = Config {
        max_counters,
        when_full,
    };
    MemoryStore::new(config, HashSeed(1, 2))
}

/// Charges one counter per text, all at once; returns the counts after.
fn charge(
    store: &MemoryStore,
    mode: ChargeMode,
    now: Timestamp,
    asked: &[(&str, Unit, u32, Hits, bool)],
) -> Vec<u64> {
    let entries: Vec<[Entry<'_>; 1]> = asked
        .iter()
        .map(|(text, ..)| {
            [Entry {
                key: b"k",
                value: text.as_bytes(),
            }]
        })
        .collect();
    let charges: Vec<Charge<'_>> = asked
        .iter()
        .zip(&entries)
        .map(|((_, unit, requests, hits, shadow), entries)| Charge {
            key: CounterKey {
                domain: b"d",
                entries,
                shared: None,
                window: Window::of(*unit),
                kind: 0,
                last: None,
                several: false,
            },
            method: None,
            value: b"",
            limit: Limit {
                requests: *requests,
                window: Window::of(*unit),
            },
            hits: *hits,
            refuses: if *shadow {
                Refuses::Never
            } else {
                Refuses::Alone
            },
            leased: false,
        })
        .collect();
    let seen = store.charge(&charges, mode, now);
    seen.iter().map(|seen| seen.after).collect()
}

fn take_one(store: &MemoryStore, now: Timestamp, text: &str) -> u64 {
    charge(
        store,
        ChargeMode::Always,
        now,
        &[(text, Unit::Minute, 10, Hits::Take(1), false)],
    )[0]
}

fn sweep_all(store: &MemoryStore, now: Timestamp) {
    for _ in 0..store.sweeps_per_round() {
        store.sweep_next(now);
    }
}

#[test]
fn equal_keys_in_one_call_count_one_after_the_other() {
    let store = store(100, WhenFull::Deny);
    let hit = ("a", Unit::Minute, 10, Hits::Take(2), false);
    assert_eq!(charge(&store, ChargeMode::Always, NOW, &[hit, hit]), [2, 4]);
}

#[test]
fn a_limit_admits_exactly_its_number_from_many_threads() {
    let store = store(100_000, WhenFull::Deny);
    let admitted = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let hit = ("hot", Unit::Minute, 12_345, Hits::Take(1), false);
                    let after = charge(&store, ChargeMode::Always, NOW, &[hit])[0];
                    if after <= 12_345 {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 12_345);
}

#[test]
fn others_stand_still_without_a_race() {
    let store = store(100_000, WhenFull::Deny);
    std::thread::scope(|scope| {
        for reversed in [false, true, false, true] {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..2_000 {
                    let mut hits = [
                        ("tight", Unit::Minute, 100, Hits::Take(1), false),
                        ("wide", Unit::Minute, 1_000_000, Hits::Take(1), false),
                    ];
                    if reversed {
                        hits.reverse();
                    }
                    charge(store, ChargeMode::OthersStandStill, NOW, &hits);
                }
            });
        }
    });
    let look = [("wide", Unit::Minute, 1, Hits::Take(0), false)];
    assert_eq!(charge(&store, ChargeMode::Always, NOW, &look), [100]);
}

#[test]
fn a_shadow_rule_makes_nobody_stand_still() {
    let store = store(100, WhenFull::Deny);
    let both = |shadow| {
        [
            ("over", Unit::Minute, 0, Hits::Take(1), shadow),
            ("real", Unit::Minute, 10, Hits::Take(1), false),
        ]
    };
    let mode = ChargeMode::OthersStandStill;
    assert_eq!(charge(&store, mode, NOW, &both(true)), [1, 1]);
    assert_eq!(charge(&store, mode, NOW, &both(false)), [2, 1]);
}

// === all or nothing ===

/// A charge of the counter of that number.
#[derive(Clone, Copy, Debug)]
struct Asked {
    counter: usize,
    hits: Hits,
    limit: u32,
    refuses: Refuses,
}

const COUNTERS: usize = 6;
const KEYS: [[Entry<'static>; 1]; COUNTERS] = {
    const fn entry(value: &'static [u8]) -> [Entry<'static>; 1] {
        [Entry { key: b"k", value }]
    }
    [
        entry(b"0"),
        entry(b"1"),
        entry(b"2"),
        entry(b"3"),
        entry(b"4"),
        entry(b"5"),
    ]
};

fn all_or_nothing(store: &MemoryStore, now: Timestamp, asked: &[Asked]) -> Vec<Observation> {
    let window = Window::of(Unit::Minute);
    let charges: Vec<Charge<'_>> = asked
        .iter()
        .map(|asked| Charge {
            key: CounterKey {
                domain: b"d",
                entries: &KEYS[asked.counter],
                shared: None,
                window,
                kind: 0,
                last: None,
                several: false,
            },
            method: None,
            value: b"",
            limit: Limit {
                requests: asked.limit,
                window,
            },
            hits: asked.hits,
            refuses: asked.refuses,
            leased: false,
        })
        .collect();
    store
        .charge(&charges, ChargeMode::AllOrNothing, now)
        .to_vec()
}

fn refuses(asked: &[Asked], seen: &[(u64, u64)]) -> bool {
    Refuses::any(asked.iter().zip(seen).map(|(asked, &(_, after))| {
        let takes = matches!(asked.hits, Hits::Take(_));
        (asked.refuses, takes && after > u64::from(asked.limit))
    }))
}

fn counts(store: &MemoryStore, now: Timestamp) -> Vec<u64> {
    let look = |counter| Asked {
        counter,
        hits: Hits::Take(0),
        limit: u32::MAX,
        refuses: Refuses::Alone,
    };
    let looks: Vec<Asked> = (0..COUNTERS).map(look).collect();
    let seen = all_or_nothing(store, now, &looks);
    seen.iter().map(|seen| seen.after).collect()
}

/// What all-or-nothing means, in plain words: what each sees, and the counts.
fn plainly(counts: &mut [u64], asked: &[Asked]) -> Vec<(u64, u64)> {
    let mut tried = counts.to_vec();
    let mut seen: Vec<(u64, u64)> = asked
        .iter()
        .map(|asked| {
            let before = tried[asked.counter];
            tried[asked.counter] = asked.hits.apply(before);
            (before, tried[asked.counter])
        })
        .collect();
    if !refuses(asked, &seen) {
        counts.copy_from_slice(&tried);
        return seen;
    }
    for (asked, seen) in asked.iter().zip(&mut seen) {
        let gives_back = matches!(asked.hits, Hits::GiveBack(_));
        if gives_back || seen.1 <= u64::from(asked.limit) {
            *seen = (counts[asked.counter], counts[asked.counter]);
        }
    }
    seen
}

fn asked() -> impl Strategy<Value = Asked> {
    let hits = prop_oneof![
        4 => (0_u64..4).prop_map(Hits::Take),
        1 => (0_u64..4).prop_map(Hits::GiveBack),
    ];
    let refuses = prop_oneof![
        3 => Just(Refuses::Alone),
        1 => Just(Refuses::WithOthers),
        1 => Just(Refuses::Never),
    ];
    (0..COUNTERS, hits, 0_u32..8, refuses).prop_map(|(counter, hits, limit, refuses)| Asked {
        counter,
        hits,
        limit,
        refuses,
    })
}

proptest! {
    #[test]
    fn all_or_nothing_is_what_it_says(
        requests in prop::collection::vec(
            (prop::collection::vec(asked(), 0..6), prop::bool::weighted(0.1)),
            1..60,
        ),
    ) {
        let store = store(100_000, WhenFull::Deny);
        let (mut expected, mut now) = (vec![0; COUNTERS], NOW);
        for (asked, next_window) in requests {
            if next_window {
                now = Timestamp::from_secs(now.as_secs() + 60);
                expected.fill(0);
            }
            let seen = all_or_nothing(&store, now, &asked);
            let seen: Vec<_> = seen.iter().map(|seen| (seen.before, seen.after)).collect();
            prop_assert_eq!(seen, plainly(&mut expected, &asked), "{:?}", asked);
            prop_assert_eq!(counts(&store, now), expected.clone(), "{:?}", asked);
        }
        let live = expected.iter().filter(|&&count| count > 0).count();
        prop_assert!(store.stats().counters >= live);
    }
}

/// Every thread asks for other sets of the same counters, in other orders.
#[test]
fn refused_requests_leave_no_trace_from_many_threads() {
    const REQUESTS: usize = 4_000;
    let store = store(100_000, WhenFull::Deny);
    let limit = |counter: usize| 300 + 200 * u32::try_from(counter).unwrap();
    let admitted: [AtomicU64; COUNTERS] = Default::default();
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (store, admitted, refused) = (&store, &admitted, &refused);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                for _ in 0..REQUESTS {
                    let asked: Vec<Asked> = (0..random.random_range(1..5))
                        .map(|_| {
                            let counter = random.random_range(0..COUNTERS);
                            Asked {
                                counter,
                                hits: Hits::Take(random.random_range(0..3)),
                                limit: limit(counter),
                                refuses: Refuses::Alone,
                            }
                        })
                        .collect();
                    let seen = all_or_nothing(store, NOW, &asked);
                    let seen: Vec<_> = seen.iter().map(|seen| (seen.before, seen.after)).collect();
                    if refuses(&asked, &seen) {
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    for asked in &asked {
                        admitted[asked.counter].fetch_add(asked.hits.amount(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let admitted = admitted.map(AtomicU64::into_inner);
    assert_eq!(counts(&store, NOW), admitted);
    for (counter, admitted) in admitted.into_iter().enumerate() {
        assert!(admitted <= limit(counter).into(), "{admitted} of {counter}");
    }
    // The tightest is used up to the last hit, so there was something to refuse.
    assert_eq!(admitted[0], u64::from(limit(0)));
    assert!(refused.into_inner() > 1_000);
}

#[test]
fn what_a_full_store_refuses_leaves_no_trace() {
    let store = store(3, WhenFull::Deny);
    let ask = |counters: &[usize], refuses| {
        let asked: Vec<Asked> = counters
            .iter()
            .map(|&counter| Asked {
                counter,
                hits: Hits::Take(1),
                limit: 10,
                refuses,
            })
            .collect();
        let seen = all_or_nothing(&store, NOW, &asked);
        seen.iter().map(|seen| seen.after).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[0], Refuses::Alone), [1]);
    // Two would have a place, the third has none.
    assert_eq!(ask(&[0, 1, 2, 3], Refuses::Alone), [1, 0, 0, 11]);
    assert_eq!(store.stats().counters, 1);
    assert_eq!(counts(&store, NOW), [1, 0, 0, 0, 0, 0]);
    // Where that refuses nobody, what has a place is counted.
    assert_eq!(ask(&[0, 1, 2, 3], Refuses::Never), [2, 1, 1, 11]);
    assert_eq!(counts(&store, NOW), [2, 1, 1, 0, 0, 0]);
}

#[test]
fn a_counter_that_made_room_stays_away() {
    let store = store(1, WhenFull::EvictExpiringSoonest);
    let ask = |counter, limit| Asked {
        counter,
        hits: Hits::Take(1),
        limit,
        refuses: Refuses::Alone,
    };
    all_or_nothing(&store, NOW, &[ask(0, 10)]);
    all_or_nothing(&store, NOW, &[ask(0, 10), ask(1, 10), ask(1, 0)]);
    let stats = store.stats();
    assert_eq!((stats.counters, stats.evicted), (0, 1), "{stats:?}");
    assert_eq!(counts(&store, NOW), [0; COUNTERS]);
}

#[test]
fn ended_counters_are_freed_and_live_ones_are_not() {
    let store = store(1_000_000, WhenFull::Deny);
    for n in 0..1_000 {
        take_one(&store, NOW, &format!("minute {n}"));
    }
    let hour = [("hour", Unit::Hour, 10, Hits::Take(3), false)];
    charge(&store, ChargeMode::Always, NOW, &hour);
    sweep_all(&store, NOW);
    assert_eq!(store.stats().counters, 1_001);
    let later = Timestamp::from_secs(1_000_080);
    sweep_all(&store, later);
    assert_eq!(store.stats().counters, 1);
    assert_eq!(charge(&store, ChargeMode::Always, later, &hour), [6]);
}

#[test]
fn looks_and_refunds_make_no_counters() {
    let store = store(10, WhenFull::Deny);
    let asked = [
        ("a", Unit::Minute, 1, Hits::Take(0), false),
        ("b", Unit::Minute, 1, Hits::GiveBack(5), false),
    ];
    assert_eq!(charge(&store, ChargeMode::Always, NOW, &asked), [0, 0]);
    assert_eq!(store.stats(), Stats::default());
}

#[test]
fn a_full_store_forgets_nobody_by_default() {
    let store = store(100, WhenFull::Deny);
    for n in 0..100 {
        take_one(&store, NOW, &n.to_string());
    }
    for n in 100..10_000 {
        assert_eq!(take_one(&store, NOW, &n.to_string()), 11, "over the limit");
    }
    for n in 0..100 {
        assert_eq!(take_one(&store, NOW, &n.to_string()), 2);
    }
    let stats = store.stats();
    assert_eq!((stats.counters, stats.refused_when_full), (100, 9_900));
    let next_window = Timestamp::from_secs(1_000_020).saturating_add(GRACE);
    assert_eq!(take_one(&store, next_window, "new"), 1, "room again");
}

#[test]
fn a_full_store_may_let_new_counters_pass() {
    let store = store(1, WhenFull::Allow);
    take_one(&store, NOW, "a");
    assert_eq!(take_one(&store, NOW, "b"), 1);
    assert_eq!(take_one(&store, NOW, "b"), 1);
    assert_eq!(take_one(&store, NOW, "a"), 2);
    assert_eq!(store.stats().uncounted_when_full, 2);
}

#[test]
fn a_full_store_may_evict_what_ends_soonest() {
    let store = store(128, WhenFull::EvictExpiringSoonest);
    let day = |text| (text, Unit::Day, 10, Hits::Take(1), false);
    charge(&store, ChargeMode::Always, NOW, &[day("day")]);
    for n in 0..1_000 {
        assert_eq!(take_one(&store, NOW, &n.to_string()), 1);
    }
    assert_eq!(charge(&store, ChargeMode::Always, NOW, &[day("day")]), [2]);
    let stats = store.stats();
    assert!(stats.counters <= 128, "{stats:?}");
    assert_eq!(stats.counters as u64 + stats.evicted, 1_001);
}

#[test]
fn a_slot_is_40_bytes() {
    assert_eq!(size_of::<Slot>(), 40);
}

#[test]
fn a_full_store_charges_nothing_of_what_belongs_together() {
    let store = store(1, WhenFull::Deny);
    assert_eq!(take_one(&store, NOW, "old"), 1);
    let both = [
        ("old", Unit::Minute, 10, Hits::Take(1), false),
        ("new", Unit::Minute, 10, Hits::Take(1), false),
    ];
    assert_eq!(
        charge(&store, ChargeMode::AllOrNothing, NOW, &both),
        [1, 11]
    );
    assert_eq!(take_one(&store, NOW, "old"), 2, "as it was");
}

#[test]
fn a_counter_outlives_its_window_for_clocks_that_step_back() {
    let store = store(100, WhenFull::Deny);
    let (before, after) = (
        Timestamp::from_secs(1_000_019),
        Timestamp::from_secs(1_000_021),
    );
    assert_eq!(take_one(&store, before, "a"), 1);
    sweep_all(&store, after);
    assert_eq!(take_one(&store, before, "a"), 2);
    sweep_all(&store, after.saturating_add(GRACE));
    assert_eq!(store.stats().counters, 0);
}

/// Values are counters, too: a client cannot make a store grow beyond its
/// bound with them.
#[test]
fn different_values_are_bounded_like_counters() {
    use crate::engine::algorithm::{Algorithm, Distinct, Method};

    let store = MemoryStore::new(
        Config {
            max_counters: 10,
            when_full: WhenFull::Deny,
        },
        HashSeed(1, 2),
    );
    let window = Window::of(Unit::Hour);
    let entries = [Entry {
        key: b"k",
        value: b"v",
    }];
    let values: Vec<[u8; 1]> = (0..20).map(|value| [value]).collect();
    let charge = |value: &'static [u8], hits| Charge {
        key: CounterKey {
            domain: b"d",
            entries: Box::leak(Box::new(entries)),
            shared: None,
            window,
            kind: b'd',
            last: None,
            several: false,
        },
        method: Some(Method::plain(Algorithm::DistinctValues(Distinct {
            exact_up_to: u32::MAX,
            remember: 0,
        }))),
        value,
        limit: Limit {
            requests: 1_000,
            window,
        },
        hits,
        refuses: Refuses::Alone,
        leased: false,
    };
    let now = Timestamp::from_secs(1_800_000_000);
    let mut passed = 0;
    for mode in [ChargeMode::Always, ChargeMode::AllOrNothing] {
        for value in &values {
            let value: &'static [u8] = Box::leak(Box::new(*value));
            let charge = charge(value, Hits::Take(1));
            let seen = store.charge(&[charge], mode, now);
            passed += u32::from(mode == ChargeMode::Always && !charge.is_over(&seen[0]));
            assert!(store.stats().counters <= 10, "{:?}", store.stats());
        }
    }
    assert_eq!(passed, 9, "one for the counter itself");
    let back = charge(b"\0", Hits::GiveBack(1));
    let _ = store.charge(&[back], ChargeMode::Always, now);
    assert_eq!(store.stats().counters, 9);
    for _ in 0..store.sweeps_per_round() {
        store.sweep_next(Timestamp::from_secs(1_800_003_700));
    }
    assert_eq!(store.stats().counters, 0);
}
