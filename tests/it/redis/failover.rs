//! A primary is killed under load; another takes over.

use std::{cell::Cell, time::Duration};

use ratekeeper::{
    clock::Clock,
    engine::{descriptor::Hits, rules::OnStoreFailure},
    limiter::Limiter,
    storage::redis::Config,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    ask, connected, limiter_over,
    servers::{Cluster, Sentinels},
    settings, watched,
};
use crate::support::PATIENCE;

const RULES: &str = "
domain: d
descriptors:
  - key: many
    rate_limit: {unit: hour, requests_per_unit: 1000000}
";

/// A limiter, and what it has admitted.
struct Counted {
    limiter: Limiter,
    admitted: Cell<i64>,
}

impl Counted {
    /// One hit; whether it was admitted.
    async fn hit(&self, value: &str) -> bool {
        let answer = ask(&self.limiter, &[("many", value)], Hits::Take(1)).await;
        self.admitted
            .set(self.admitted.get() + i64::from(answer.is_ok()));
        answer.is_ok()
    }
}

/// The hits in all keys of a server. Fewer than were admitted: some are lost.
/// More: some were counted whose calls were told that they had failed.
fn counted(command: impl Fn(&[&str]) -> String) -> i64 {
    let keys = command(&["KEYS", "*,4:many=*"]);
    let count = |key: &str| {
        command(&["GET", key])
            .trim()
            .parse::<i64>()
            .expect("a count")
    };
    keys.lines().filter(|key| !key.is_empty()).map(count).sum()
}

async fn limiter(address: &str) -> Counted {
    limiter_that_connects_within(Duration::from_millis(500), address).await
}

async fn limiter_that_connects_within(connect_timeout: Duration, address: &str) -> Counted {
    let config = Config {
        deadline: Duration::from_millis(15),
        connect_timeout,
        ..settings(address)
    };
    let store = connected(&config, Clock::System).await;
    Counted {
        limiter: limiter_over(RULES, store, OnStoreFailure::Error),
        admitted: Cell::new(0),
    }
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
async fn load(limiter: &Counted, mut is_over: impl FnMut() -> bool) -> Seen {
    let mut seen = Seen::default();
    let mut number = 0_u64;
    while !is_over() {
        number += 1;
        let value = (number % 50).to_string();
        let asked = Instant::now();
        let is_admitted = limiter.hit(&value).await;
        seen.worst = seen.worst.max(asked.elapsed());
        if is_admitted {
            seen.answered += 1;
        } else {
            seen.failed += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    seen
}

/// How long until every key is answered again.
async fn all_answered(limiter: &Counted) -> Duration {
    let since = Instant::now();
    let all = async {
        loop {
            let mut well = true;
            for value in 0..50_u64 {
                well &= limiter.hit(&value.to_string()).await;
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

#[tokio::test]
async fn sentinels_promote_a_replica() {
    let mut set = Sentinels::start(None, None);
    let limiter = limiter(&set.address("", "")).await;
    watched(&[&limiter.limiter], async {
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
        let now = set.primary();
        let counted = counted(|words| set.servers[now].command(words));
        let lost = limiter.admitted.get() - counted;
        println!(
            "sentinel failover: {seen:?}, well again {back:?} after the promotion, {lost} hits lost"
        );
        assert!(seen.failed > 0, "{seen:?}");
        assert!(back < Duration::from_secs(4), "{back:?}");
    })
    .await;
}

/// A connection that takes long to come is given up for the new primary.
#[tokio::test]
async fn sentinels_promote_a_replica_while_the_old_primary_hangs() {
    let set = Sentinels::start(None, None);
    let limiter = limiter_that_connects_within(PATIENCE, &set.address("", "")).await;
    watched(&[&limiter.limiter], async {
        let old = set.primary();
        set.servers[old].stop();
        let promoted = || set.primary() != old;
        load(&limiter, promoted).await;
        let back = all_answered(&limiter).await;
        assert!(back < PATIENCE / 3, "{back:?}");
    })
    .await;
}

#[tokio::test]
async fn a_cluster_promotes_a_replica() {
    let mut cluster = Cluster::start();
    let limiter = limiter(&cluster.address()).await;
    watched(&[&limiter.limiter], async {
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
        let nodes = cluster
            .primaries()
            .into_iter()
            .map(|node| &cluster.nodes[node]);
        let counted: i64 = nodes.map(|node| counted(|words| node.command(words))).sum();
        let lost = limiter.admitted.get() - counted;
        println!(
            "cluster failover: {seen:?}, well again {back:?} after the promotion, {lost} hits lost"
        );
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
    watched(&[&limiter.limiter], async {
        for _ in 0..10 {
            assert!(limiter.hit("x").await, "an answer");
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
            assert!(limiter.hit("x").await, "asked of the other");
        }
        for &node in &primaries {
            cluster.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
        // Now MOVED.
        for _ in 0..10 {
            assert!(limiter.hit("x").await, "sent on");
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
