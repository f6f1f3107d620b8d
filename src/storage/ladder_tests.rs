//! Tests of what is decided without the store.

use std::time::Duration;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    engine::{
        descriptor::Entry,
        key::CounterKey,
        limit::{Unit, Window},
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

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

/// A store that nobody has ever reached.
fn away() -> AnyStore {
    let config = Config {
        address: Address::parse("redis://127.0.0.1:1").unwrap(),
        per_second: None,
        tls: TlsFiles::default(),
        deadline: Duration::from_millis(1),
        connect_timeout: Duration::from_millis(1),
        max_queue: 1,
        format: Format::Canonical,
        prefix: String::new(),
        jitter: 0,
        known_over: 1,
        own_clock: false,
    };
    let clock = Clock::Manual(ManualClock::at(NOW));
    AnyStore::Redis(RedisStore::new(&config, clock, HashSeed(1, 2), 1).unwrap())
}

/// One hit each on counters `a` and `b`, of which the store has told about
/// `a`: what is seen of `b`.
fn after_of_b(ladder: &Ladder, store: &AnyStore, a: Option<u64>, mode: ChargeMode) -> u64 {
    let entry = |value| [Entry { key: b"k", value }];
    let (one, other) = (entry(b"a".as_slice()), entry(b"b".as_slice()));
    let window = Window::of(Unit::Minute);
    let charge = |entries| Charge {
        key: CounterKey {
            domain: b"d",
            entries,
            shared: None,
            window,
        },
        limit: Limit {
            requests: 10,
            window,
        },
        hits: Hits::Take(1),
        refuses: Refuses::Alone,
        leased: false,
    };
    let told = a.map(|after| Observation {
        before: after,
        after,
        resets: window.end(NOW),
    });
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
