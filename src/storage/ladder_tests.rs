//! Tests of what is decided without the store.

use std::time::Duration;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    engine::{
        descriptor::Entry,
        key::CounterKey,
        limit::{Unit, Window},
        plan::Refuses,
    },
    storage::{
        RedisStore,
        redis::{
            Config,
            address::{Address, TlsFiles},
            key::Format,
        },
    },
};

const NOW: Timestamp = Timestamp::from_secs(90);
const MINUTE: Window = Window::of(Unit::Minute);

fn charge(requests: u32, hits: Hits) -> Charge<'static> {
    Charge {
        key: CounterKey {
            domain: b"d",
            entries: &[],
            shared: None,
            window: MINUTE,
            kind: 0,
            last: None,
            several: false,
        },
        method: None,
        value: b"",
        limit: Limit {
            requests,
            window: MINUTE,
        },
        hits,
        refuses: Refuses::Alone,
        leased: false,
    }
}

/// Whether it passes, and the hits that are left.
fn read(charge: &Charge<'_>, seen: Observation) -> (bool, u64) {
    assert_eq!(seen.resets, Timestamp::from_secs(120));
    let limit = u64::from(charge.limit.requests);
    (seen.after <= limit, limit.saturating_sub(seen.after))
}

#[test]
fn everything_passes_or_nothing_does() {
    for (requests, hits, left) in [
        (10, Hits::Take(3), 7),
        (10, Hits::Take(30), 0),
        (0, Hits::Take(1), 0),
        (10, Hits::Take(0), 10),
        (10, Hits::GiveBack(3), 10),
    ] {
        let charge = charge(requests, hits);
        assert_eq!(
            read(&charge, allowed(&charge, NOW)),
            (true, left),
            "{hits:?}"
        );
        let takes = matches!(hits, Hits::Take(_));
        assert_eq!(read(&charge, denied(&charge, NOW)), (!takes, 0), "{hits:?}");
    }
}

#[test]
fn a_share_is_at_least_one_of_a_limit_that_is_not_zero() {
    for (requests, replicas, expected) in [
        (10, 1, 10),
        (10, 3, 3),
        (2, 3, 1),
        (1, 100, 1),
        (0, 3, 0),
        (u32::MAX, 1, u32::MAX),
    ] {
        let share = share(&charge(requests, Hits::Take(1)), replicas)
            .limit
            .requests;
        assert_eq!(share, expected, "{requests} of {replicas}");
    }
}

#[test]
fn a_share_is_told_against_the_whole_limit() {
    let (whole, share) = (charge(10, Hits::Take(1)), charge(3, Hits::Take(1)));
    for (after, passes, left) in [(1, true, 2), (3, true, 0), (4, false, 0)] {
        let ends = Timestamp::from_secs(120);
        let counted = Observation::of_window(after - 1, after, 3, ends);
        let seen = scaled(counted, &share, &whole);
        assert_eq!(
            read(&charge(10, Hits::Take(1)), seen),
            (passes, left),
            "{after}"
        );
    }
}

#[test]
fn only_what_is_missing_is_decided_here() {
    let ladder = Ladder::none();
    let charges = [charge(10, Hits::Take(1)), charge(5, Hits::Take(1))];
    let known = Observation::of_window(7, 8, 10, Timestamp::from_secs(120));
    let unanswered = || Unanswered {
        error: StoreError::new("a store", "is down"),
        seen: PerDescriptor::from_slice(&[Some(known), None]),
    };
    let memory = AnyStore::Memory(MemoryStore::new(
        memory::Config {
            max_counters: 1,
            when_full: memory::WhenFull::Deny,
        },
        HashSeed(1, 2),
    ));
    let decide = |says| {
        ladder.decide(
            says,
            &memory,
            &charges,
            unanswered(),
            ChargeMode::Always,
            NOW,
        )
    };
    let error = decide(None).expect_err("an error is the default");
    assert_eq!(error.to_string(), "store a store: is down");
    let seen = decide(Some(OnStoreFailure::Allow)).expect("a decision");
    assert_eq!(seen[0], known);
    assert_eq!(read(&charges[1], seen[1]), (true, 4));
    let stats = ladder.stats();
    assert_eq!(
        (stats.error, stats.allow, stats.deny, stats.local),
        (1, 1, 0, 0)
    );
}

/// A store that nobody has ever reached.
fn away() -> AnyStore {
    let config = Config {
        address: Address::parse("redis://127.0.0.1:1").unwrap(),
        per_second: None,
        tls: TlsFiles::default(),
        deadline: Duration::from_millis(1),
        connect_timeout: Duration::from_millis(1),
        per_second_connect_timeout: None,
        max_queue: 1,
        format: Format::Canonical,
        prefix: String::new(),
        jitter: 0,
        known_over: 1,
        own_clock: false,
        needs_connection: false,
    };
    let clock = Clock::Manual(ManualClock::at(NOW));
    AnyStore::Redis(RedisStore::new(&config, clock, HashSeed(1, 2), 1).unwrap())
}

/// One hit each on counters `a` and `b`, of which the store has told about
/// `a`: what is seen of `b`.
fn after_of_b(ladder: &Ladder, store: &AnyStore, a: Option<u64>, mode: ChargeMode) -> u64 {
    let entry = |value| [Entry { key: b"k", value }];
    let (one, other) = (entry(b"a".as_slice()), entry(b"b".as_slice()));
    let charge = |entries| {
        let mut charge: Charge<'_> = charge(10, Hits::Take(1));
        charge.key.entries = entries;
        charge
    };
    let told = a.map(|after| Observation::of_window(after, after, 10, MINUTE.end(NOW)));
    let unanswered = Unanswered {
        error: StoreError::new("redis", "away"),
        seen: [told, None].into_iter().collect(),
    };
    let charges = [charge(&one), charge(&other)];
    let local = Some(OnStoreFailure::Local);
    let seen = ladder
        .decide(local, store, &charges, unanswered, mode, NOW)
        .unwrap();
    assert_eq!(seen.len(), 2);
    seen[1].after
}

#[test]
fn what_the_store_has_refused_is_not_counted_locally_where_it_is_all_or_nothing() {
    let local = memory::Config {
        max_counters: 10,
        when_full: memory::WhenFull::Deny,
    };
    let local = MemoryStore::new(local, HashSeed(1, 2));
    let ladder = Ladder::new(OnStoreFailure::Error, Some(1), local);
    let store = away();
    for (a, mode, after) in [
        (Some(11), ChargeMode::AllOrNothing, 0),
        (Some(10), ChargeMode::AllOrNothing, 1),
        (Some(11), ChargeMode::AllOrNothing, 1),
        (None, ChargeMode::AllOrNothing, 2),
        (Some(11), ChargeMode::Always, 3),
    ] {
        assert_eq!(
            after_of_b(&ladder, &store, a, mode),
            after,
            "{a:?}, {mode:?}"
        );
    }
}
