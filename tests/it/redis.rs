//! Counting in real Redis servers.

mod connect;
mod counting;
mod failover;
mod faults;
mod leases;
mod proxy;
pub(crate) mod servers;
mod together;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ratekeeper::{
    clock::Clock,
    config::{self, Options, SourceFile},
    engine::{
        decision::Policy,
        descriptor::{Descriptor, Entry, Hits, Request},
        key::HashSeed,
        rules::OnStoreFailure,
    },
    limiter::{Answer, LimitError, Limiter},
    storage::{
        AnyStore, ChargeMode, Ladder, MemoryStore, RedisStore, memory,
        redis::{
            Config,
            address::{Address, TlsFiles},
            key::Format,
        },
    },
};

/// Settings for a store at `address`, with a deadline that a busy machine
/// can hold, and keys of its own.
pub(crate) fn settings(address: &str) -> Config {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Config {
        address: Address::parse(address).expect("an address"),
        per_second: None,
        tls: TlsFiles::default(),
        deadline: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        max_queue: 10_000,
        format: Format::Canonical,
        prefix: format!("test{}:", NEXT.fetch_add(1, Ordering::Relaxed)),
        jitter: 0,
        known_over: 10_000,
        own_clock: false,
    }
}

/// A store that is not connected yet.
pub(crate) fn store(config: &Config, clock: Clock) -> RedisStore {
    let (seed, id) = (HashSeed(rand::random(), rand::random()), rand::random());
    RedisStore::new(config, clock, seed, id).expect("good settings")
}

/// A limiter with these rules over a store that has a seat on this thread.
/// Within an event loop.
pub(crate) async fn limiter(rules: &str, config: &Config) -> Limiter {
    let store = store(config, Clock::System);
    store.take_seat();
    store
        .first_look(Duration::from_secs(5))
        .await
        .expect("the store is there");
    limiter_over(rules, store, OnStoreFailure::Error)
}

pub(crate) fn limiter_over(rules: &str, store: RedisStore, failure: OnStoreFailure) -> Limiter {
    let local = memory::Config {
        max_counters: 1_000,
        when_full: memory::WhenFull::Deny,
    };
    let local = MemoryStore::new(local, HashSeed(1, 2));
    let limiter = Limiter::new(
        Clock::System,
        AnyStore::Redis(store),
        Ladder::new(failure, None, local),
        Policy::default(),
        ChargeMode::Always,
    );
    let source = SourceFile {
        name: "rules.yaml".into(),
        bytes: rules.as_bytes().to_vec(),
    };
    let rules = config::compile(&[source], &Options::default());
    limiter.set_rules(rules.expect("good rules"));
    limiter
}

/// Asks for one descriptor of domain `d`.
pub(crate) async fn ask(
    limiter: &Limiter,
    entries: &[(&str, &str)],
    hits: Hits,
) -> Result<Answer, LimitError> {
    let entries: Vec<Entry<'_>> = entries
        .iter()
        .map(|(key, value)| Entry {
            key: key.as_bytes(),
            value: value.as_bytes(),
        })
        .collect();
    let descriptor = Descriptor {
        entries: &entries,
        limit: None,
        hits,
    };
    let request = Request {
        domain: b"d",
        descriptors: &[descriptor],
    };
    limiter.decide(&request, None).await
}
