//! Counting in real Redis servers.

mod algorithms;
mod connect;
mod counting;
mod failover;
mod faults;
mod leases;
mod migration;
mod proxy;
pub(crate) mod servers;
mod together;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use ratekeeper::{
    clock::Clock,
    config::{self, Options, SourceFile},
    engine::{
        decision::Policy,
        descriptor::{Descriptor, Entry, Hits, Request},
        key::HashSeed,
        limit::Limit,
        rules::{OnStoreFailure, RuleSet},
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
use tokio::time::Instant;

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
        per_second_connect_timeout: None,
        max_queue: 10_000,
        format: Format::Canonical,
        prefix: format!("test{}:", NEXT.fetch_add(1, Ordering::Relaxed)),
        jitter: 0,
        known_over: 10_000,
        own_clock: false,
        needs_connection: false,
    }
}

/// A store that is not connected yet.
pub(crate) fn store(config: &Config, clock: Clock) -> RedisStore {
    let (seed, id) = (HashSeed(rand::random(), rand::random()), rand::random());
    RedisStore::new(config, clock, seed, id).expect("good settings")
}

/// The same, with a seat on this thread, once it has been reached. Within an
/// event loop.
pub(crate) async fn connected(config: &Config, clock: Clock) -> RedisStore {
    let store = store(config, clock);
    store.take_seat();
    let looked = store.first_look(Duration::from_secs(5)).await;
    looked.expect("the store is there");
    store
}

/// A limiter with these rules over a store that has been reached.
pub(crate) async fn limiter(rules: &str, config: &Config) -> Limiter {
    let store = connected(config, Clock::System).await;
    limiter_over(rules, store, OnStoreFailure::Error)
}

pub(crate) fn limiter_over(rules: &str, store: RedisStore, failure: OnStoreFailure) -> Limiter {
    let ladder = Ladder::new(failure, None, memory_store());
    limiter_at(rules, Clock::System, AnyStore::Redis(store), ladder)
}

/// A limiter with these rules that goes by this clock.
pub(crate) fn limiter_at(rules: &str, clock: Clock, store: AnyStore, ladder: Ladder) -> Limiter {
    let limiter = Limiter::new(clock, store, ladder, Policy::default(), ChargeMode::Always);
    limiter.set_rules(compile(rules));
    limiter
}

pub(crate) fn compile(rules: &str) -> RuleSet {
    let source = SourceFile {
        name: "rules.yaml".into(),
        bytes: rules.as_bytes().to_vec(),
    };
    config::compile(&[source], &Options::default()).expect("good rules")
}

pub(crate) fn memory_store() -> MemoryStore {
    let config = memory::Config {
        max_counters: 1_000,
        when_full: memory::WhenFull::Deny,
    };
    MemoryStore::new(config, HashSeed(1, 2))
}

pub(crate) fn redis_store(limiter: &Limiter) -> &RedisStore {
    match limiter.store() {
        AnyStore::Redis(store) => store,
        AnyStore::Memory(_) => panic!("it is in Redis"),
    }
}

/// Works while the stores are looked after as the service does.
pub(crate) async fn watched<T>(limiters: &[&Limiter], work: impl Future<Output = T>) -> T {
    let watches = limiters.iter().map(|limiter| redis_store(limiter).watch());
    tokio::select! {
        result = work => result,
        _ = join_all(watches) => unreachable!("they never end"),
    }
}

/// Asks for one descriptor of domain `d`.
pub(crate) async fn ask(
    limiter: &Limiter,
    entries: &[(&str, &str)],
    hits: Hits,
) -> Result<Answer, LimitError> {
    ask_for(limiter, &[(entries, hits)], None, None).await
}

/// Asks for these descriptors of domain `d`: entries and hits, with a limit
/// for each if one is given.
pub(crate) async fn ask_for(
    limiter: &Limiter,
    asked: &[(&[(&str, &str)], Hits)],
    limit: Option<Limit>,
    until: Option<Instant>,
) -> Result<Answer, LimitError> {
    let entries: Vec<Vec<Entry<'_>>> = asked
        .iter()
        .map(|(entries, _)| {
            entries
                .iter()
                .map(|(key, value)| Entry {
                    key: key.as_bytes(),
                    value: value.as_bytes(),
                })
                .collect()
        })
        .collect();
    let descriptors: Vec<Descriptor<'_>> = asked
        .iter()
        .zip(&entries)
        .map(|((_, hits), entries)| Descriptor {
            entries,
            limit,
            hits: *hits,
        })
        .collect();
    let request = Request {
        domain: b"d",
        descriptors: &descriptors,
    };
    limiter.decide(&request, until).await
}
