//! A primary is killed under load; another takes over.

use std::time::Duration;

use ratekeeper::{
    clock::Clock,
    engine::{descriptor::Hits, rules::OnStoreFailure},
    limiter::Limiter,
    storage::{AnyStore, redis::Config},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    ask, limiter_over,
    servers::{Cluster, Sentinels},
    settings, store,
};
use crate::support::PATIENCE;

const RULES: &str = "
domain: d
descriptors:
  - key: many
    rate_limit: {unit: hour, requests_per_unit: 1000000}
";

async fn limiter(address: &str) -> Limiter {
    let config = Config {
        deadline: Duration::from_millis(15),
        connect_timeout: Duration::from_millis(500),
        ..settings(address)
    };
    let store = store(&config, Clock::System);
    store.take_seat();
    store
        .first_look(Duration::from_secs(5))
        .await
        .expect("the store is there");
    limiter_over(RULES, store, OnStoreFailure::Error)
}

/// What a load saw.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    failed: u64,
    /// The longest that any call took.
    worst: Duration,
}

/// Asks for many keys, one after the other, until `is_over` says so.
async fn load(limiter: &Limiter, mut is_over: impl FnMut() -> bool) -> Seen {
    let mut seen = Seen::default();
    let mut number = 0_u64;
    while !is_over() {
        number += 1;
        let value = (number % 50).to_string();
        let asked = Instant::now();
        let answer = ask(limiter, &[("many", &value)], Hits::Take(1)).await;
        seen.worst = seen.worst.max(asked.elapsed());
        match answer {
            Ok(_) => seen.answered += 1,
            Err(_) => seen.failed += 1,
        }
        sleep(Duration::from_millis(1)).await;
    }
    seen
}

/// How long until every key is answered again.
async fn all_answered(limiter: &Limiter) -> Duration {
    let since = Instant::now();
    let all = async {
        loop {
            let mut well = true;
            for value in 0..50_u64 {
                let answer = ask(limiter, &[("many", &value.to_string())], Hits::Take(1)).await;
                well &= answer.is_ok();
            }
            if well {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("well again");
    since.elapsed()
}

/// Looks after the store as the service does.
async fn watched<T>(limiter: &Limiter, work: impl Future<Output = T>) -> T {
    let AnyStore::Redis(store) = limiter.store() else {
        panic!("it is in Redis")
    };
    tokio::select! {
        result = work => result,
        () = store.watch() => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn sentinels_promote_a_replica() {
    let mut set = Sentinels::start(None, None);
    let limiter = limiter(&set.address("", "")).await;
    watched(&limiter, async {
        load(&limiter, after(500)).await;
        let old = set.primary();
        set.servers[old].kill();
        let new = || {
            (0..3).find(|&server| {
                server != old && set.servers[server].command(&["ROLE"]).starts_with("master")
            })
        };
        let mut promoted = None;
        let seen = load(&limiter, || {
            promoted = promoted.or_else(new);
            promoted.is_some()
        })
        .await;
        let back = all_answered(&limiter).await;
        println!("sentinel failover: {seen:?}, well again {back:?} after the promotion");
        assert!(seen.failed > 0, "{seen:?}");
        assert!(back < Duration::from_secs(4), "{back:?}");
    })
    .await;
}

#[tokio::test]
async fn a_cluster_promotes_a_replica() {
    let mut cluster = Cluster::start();
    let limiter = limiter(&cluster.address()).await;
    watched(&limiter, async {
        let well = load(&limiter, after(500)).await;
        assert_eq!(well.failed, 0, "{well:?}");
        let old = cluster.primaries()[0];
        cluster.nodes[old].kill();
        let mut looks = 0;
        let seen = load(&limiter, || {
            looks += 1;
            looks % 20 == 0 && cluster.primaries().len() == 3
        })
        .await;
        let back = all_answered(&limiter).await;
        println!("cluster failover: {seen:?}, well again {back:?} after the promotion");
        assert!(seen.answered > 0, "the other primaries go on: {seen:?}");
        assert!(back < Duration::from_secs(4), "{back:?}");
    })
    .await;
}

/// A slot moves to another node while it is asked for: no call fails, no hit
/// is lost.
#[tokio::test]
async fn a_slot_moves() {
    let cluster = Cluster::start();
    let limiter = limiter(&cluster.address()).await;
    watched(&limiter, async {
        for _ in 0..10 {
            ask(&limiter, &[("many", "x")], Hits::Take(1))
                .await
                .expect("an answer");
        }
        let primaries = cluster.primaries();
        let has_it = |&&node: &&usize| {
            !cluster.nodes[node]
                .command(&["KEYS", "*many*"])
                .trim()
                .is_empty()
        };
        let from = *primaries.iter().find(has_it).expect("one has the key");
        let to = *primaries
            .iter()
            .find(|&&node| node != from)
            .expect("another");
        let key = cluster.nodes[from]
            .command(&["KEYS", "*many*"])
            .trim()
            .to_owned();
        let slot = cluster.nodes[from]
            .command(&["CLUSTER", "KEYSLOT", &key])
            .trim()
            .to_owned();
        let id = |node: usize| {
            cluster.nodes[node]
                .command(&["CLUSTER", "MYID"])
                .trim()
                .to_owned()
        };
        let (source, target) = (id(from), id(to));
        cluster.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        cluster.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        let port = cluster.nodes[to].port.to_string();
        cluster.nodes[from].command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "1000"]);
        // The key is on its new node, the slot is not: ASK.
        for _ in 0..10 {
            ask(&limiter, &[("many", "x")], Hits::Take(1))
                .await
                .expect("asked of the other");
        }
        for &node in &primaries {
            cluster.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
        // Now MOVED.
        for _ in 0..10 {
            ask(&limiter, &[("many", "x")], Hits::Take(1))
                .await
                .expect("sent on");
        }
        assert_eq!(cluster.nodes[to].command(&["GET", &key]).trim(), "30");
    })
    .await;
}

fn after(calls: u64) -> impl FnMut() -> bool {
    let mut left = calls;
    move || {
        left -= 1;
        left == 0
    }
}
