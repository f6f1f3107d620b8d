//! Tests of the memory store.

use std::sync::atomic::AtomicU32;

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
            },
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
