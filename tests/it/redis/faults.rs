//! Whatever happens to Redis, decisions come in time, and all is well again
//! soon after it is.

use std::time::Duration;

use ratekeeper::{
    clock::Clock,
    engine::{decision::Code, descriptor::Hits, rules::OnStoreFailure},
    limiter::Limiter,
    storage::redis::Config,
};
use tokio::time::{Instant, sleep};

use super::{
    ask, limiter_over,
    proxy::{Network, Proxy},
    redis_store,
    servers::{Cluster, Sentinels, Server, wait_until},
    settings, store,
};
use crate::{process, support::wait_for};

const RULES: &str = "
domain: d
descriptors:
  - key: many
    rate_limit: {unit: hour, requests_per_unit: 1000000}
  - key: few
    rate_limit: {unit: hour, requests_per_unit: 4}
";

/// As a user would have it.
fn usual(address: &str) -> Config {
    Config {
        deadline: Duration::from_millis(15),
        connect_timeout: Duration::from_millis(500),
        ..settings(address)
    }
}

async fn limiter(address: &str, failure: OnStoreFailure) -> Limiter {
    let store = store(&usual(address), Clock::System);
    store.take_seat();
    let limiter = limiter_over(RULES, store, failure);
    is_well(&limiter, Duration::from_secs(10)).await;
    limiter
}

/// Asks until there is a decision of the store; how long that took.
async fn is_well(limiter: &Limiter, patience: Duration) -> Duration {
    let since = Instant::now();
    loop {
        if ask(limiter, &[("many", "x")], Hits::Take(1)).await.is_ok() {
            return since.elapsed();
        }
        assert!(since.elapsed() < patience, "not well after {patience:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A fault lasts for a second and a half, with a call every few
/// milliseconds; then all is well again within a second.
async fn survives(
    name: &str,
    limiter: &Limiter,
    begin: impl AsyncFnOnce(),
    end: impl AsyncFnOnce(),
    expected: &str,
) {
    begin().await;
    let (since, mut took, mut errors) = (Instant::now(), vec![], vec![]);
    while since.elapsed() < Duration::from_millis(1_500) {
        let asked = Instant::now();
        let answer = ask(limiter, &[("many", "x")], Hits::Take(1)).await;
        took.push(asked.elapsed());
        errors.extend(answer.err().map(|error| error.to_string()));
        sleep(Duration::from_millis(2)).await;
    }
    end().await;
    let back = is_well(limiter, Duration::from_secs(3)).await;
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    let worst = took[took.len() - 1];
    println!(
        "{name}: {} calls, {} errors, p99 {p99:?}, worst {worst:?}, well again after {back:?}",
        took.len(),
        errors.len(),
    );
    assert!(
        errors.iter().any(|error| error.contains(expected)),
        "{name}: no error says {expected:?}: {:?}",
        errors.first()
    );
    // What is promised is 25 ms and 1 s; a machine that runs other tests
    // beside this one is not held to that.
    assert!(p99 < Duration::from_millis(250), "{name}: p99 {p99:?}");
    assert!(back < Duration::from_secs(2), "{name}: back after {back:?}");
}

#[tokio::test]
async fn a_server_that_is_gone_stopped_full_or_read_only() {
    let server = Server::plain();
    let limiter = limiter(&server.address(), OnStoreFailure::Error).await;
    survives(
        "stopped",
        &limiter,
        async || server.stop(),
        async || server.cont(),
        "no answer within 15ms",
    )
    .await;
    let pause = async || drop(server.command(&["CLIENT", "PAUSE", "1400", "ALL"]));
    survives(
        "paused",
        &limiter,
        pause,
        async || {},
        "no answer within 15ms",
    )
    .await;
    survives(
        "out of memory",
        &limiter,
        async || drop(server.command(&["CONFIG", "SET", "maxmemory", "1"])),
        async || drop(server.command(&["CONFIG", "SET", "maxmemory", "0"])),
        "OOM",
    )
    .await;
    survives(
        "read-only",
        &limiter,
        async || drop(server.command(&["REPLICAOF", "127.0.0.1", "1"])),
        async || drop(server.command(&["REPLICAOF", "NO", "ONE"])),
        "READONLY",
    )
    .await;
    let server = std::cell::RefCell::new(server);
    survives(
        "killed and back, empty",
        &limiter,
        async || server.borrow_mut().kill(),
        async || server.borrow_mut().restart(),
        "refused",
    )
    .await;
}

#[tokio::test]
async fn a_bad_network() {
    let server = Server::plain();
    let proxy = Proxy::to(server.port).await;
    let limiter = limiter(&proxy.address, OnStoreFailure::Error).await;
    for (name, network, expected) in [
        (
            "slow",
            Network::Slow(Duration::from_millis(50)),
            "no answer within 15ms",
        ),
        ("black hole", Network::BlackHole, "no answer within 15ms"),
        ("cut in a reply", Network::Cut, "redis://"),
    ] {
        let (begin, end) = (|| proxy.set(network), || proxy.set(Network::Good));
        survives(name, &limiter, async || begin(), async || end(), expected).await;
    }
}

/// The address stays; behind it, another server has become the primary. The
/// old connection says READONLY for ever.
#[tokio::test]
async fn a_primary_that_was_demoted_behind_its_address() {
    let (old, new) = (Server::plain(), Server::plain());
    let proxy = Proxy::to(old.port).await;
    let limiter = limiter(&proxy.address, OnStoreFailure::Error).await;
    survives(
        "demoted",
        &limiter,
        async || drop(old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()])),
        async || proxy.point_to(new.port),
        "replica",
    )
    .await;
    assert!(
        new.command(&["KEYS", "*many*"]).contains("many"),
        "counted in the new one"
    );
}

#[tokio::test]
async fn every_rung_of_the_ladder() {
    for (failure, passes) in [
        (OnStoreFailure::Allow, Some(true)),
        (OnStoreFailure::Deny, Some(false)),
        (OnStoreFailure::Error, None),
    ] {
        let mut server = Server::plain();
        let limiter = limiter(&server.address(), failure).await;
        server.kill();
        for _ in 0..10 {
            let answer = ask(&limiter, &[("few", "x")], Hits::Take(1)).await;
            let answer = answer.map(|answer| answer.decision.code == Code::Ok).ok();
            assert_eq!(answer, passes, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn what_was_admitted_locally_is_counted_later() {
    let mut server = Server::plain();
    let limiter = limiter(&server.address(), OnStoreFailure::Local).await;
    server.kill();
    let mut passed = 0;
    for _ in 0..10 {
        let answer = ask(&limiter, &[("few", "x")], Hits::Take(1)).await;
        let answer = answer.expect("an answer");
        passed += u64::from(answer.decision.code == Code::Ok);
    }
    assert_eq!(passed, 4, "alone, it has the whole limit");
    assert_eq!(limiter.ladder().stats().local, 10);
    server.restart();
    let store = redis_store(&limiter);
    while store.trouble().is_some() {
        sleep(Duration::from_millis(10)).await;
    }
    let answer = ask(&limiter, &[("few", "x")], Hits::Take(1))
        .await
        .expect("an answer");
    assert_eq!(answer.decision.code, Code::OverLimit);
    let key = server.command(&["KEYS", "*few*"]);
    assert_eq!(server.command(&["GET", key.trim()]).trim(), "4");
}

#[tokio::test]
async fn what_was_admitted_locally_is_offered_until_it_is_counted() {
    let server = Server::plain();
    let limiter = limiter(&server.address(), OnStoreFailure::Local).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..4 {
        let answer = ask(&limiter, &[("few", "x")], Hits::Take(1)).await;
        assert_eq!(answer.expect("an answer").decision.code, Code::Ok);
    }
    // It is offered, and refused, at least once: the connection stays.
    sleep(Duration::from_millis(1_500)).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let key = || server.command(&["KEYS", "*few*"]).trim().to_owned();
    wait_for("counted hits", async || (!key().is_empty()).then_some(()))
        .await
        .expect("counted");
    assert_eq!(server.command(&["GET", &key()]).trim(), "4");
}

#[tokio::test]
async fn no_more_calls_wait_than_there_is_room_for() {
    let server = Server::plain();
    let config = Config {
        max_queue: 10,
        ..settings(&server.address())
    };
    let store = store(&config, Clock::System);
    store.take_seat();
    let limiter = limiter_over(RULES, store, OnStoreFailure::Error);
    is_well(&limiter, Duration::from_secs(10)).await;
    server.stop();
    // One is sent, ten wait, the others do not.
    let first = ask(&limiter, &[("many", "x")], Hits::Take(1));
    tokio::pin!(first);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, &mut first).await.is_err());
    let values: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let entries: Vec<[(&str, &str); 1]> = values
        .iter()
        .map(|value| [("many", value.as_str())])
        .collect();
    let asks = entries
        .iter()
        .map(|entries| ask(&limiter, entries, Hits::Take(1)));
    let all = futures_util::future::join_all(asks);
    let go_on = async {
        sleep(soon).await;
        server.cont();
    };
    let (answers, ()) = tokio::join!(all, go_on);
    let (well, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((well.len(), failed.len()), (10, 90));
    for failure in failed {
        let error = failure.expect_err("failed").to_string();
        assert!(error.contains("too many calls wait"), "{error}");
    }
}

// === the process ===

#[test]
fn starts_without_a_store_and_ends_while_it_is_stopped() {
    let mut server = Server::plain();
    server.kill();
    let flags = [
        "--store",
        &server.address(),
        "--drain-delay",
        "0s",
        "--workers",
        "1",
    ];
    let app = process::Server::start(RULES, &flags);
    let health = |app: &process::Server| app.http("GET", "/healthcheck", "").0;
    assert!(health(&app) == 503);
    let body = r#"{"domain":"d","descriptors":[{"entries":[{"key":"few","value":"x"}]}]}"#;
    let (status, answer) = app.http("POST", "/json", body);
    assert!(status == 503 && answer.contains("redis://"), "{answer}");
    server.restart();
    wait_until("health", || health(&app) == 200);
    wait_until("decision", || app.http("POST", "/json", body).0 == 200);
    server.stop();
    let ended = app.end(Duration::from_secs(1));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    server.cont();
}

#[test]
fn takes_the_references_settings() {
    let server = Server::plain();
    let url = format!("127.0.0.1:{}", server.port);
    let flags = [
        "--compat",
        "--redis-socket-type",
        "tcp",
        "--redis-url",
        &url,
        "--drain-delay",
        "0s",
    ];
    let app = process::Server::start(RULES, &flags);
    let body = r#"{"domain":"d","descriptors":[{"entries":[{"key":"few","value":"x"}]}]}"#;
    wait_until("decision", || app.http("POST", "/json", body).0 == 200);
    let keys = server.command(&["KEYS", "d_few_x_*"]);
    assert_eq!(keys.lines().count(), 1, "in the reference's format: {keys}");
    let cluster = Cluster::start();
    let url = cluster.address().replace("redis-cluster://", "");
    let flags = [
        "--compat",
        "--redis-type",
        "CLUSTER",
        "--redis-url",
        &url,
        "--drain-delay",
        "0s",
    ];
    let app = process::Server::start(RULES, &flags);
    wait_until("decision", || app.http("POST", "/json", body).0 == 200);
    let set = Sentinels::start(Some("geheim"), Some("wache"));
    let url = set
        .address("", "")
        .replace("redis-sentinel://", "limits,")
        .replace("/limits", "");
    let flags = [
        "--compat",
        "--redis-type",
        "sentinel",
        "--redis-url",
        &url,
        "--redis-auth",
        "geheim",
        "--redis-sentinel-auth",
        "wache",
        "--drain-delay",
        "0s",
    ];
    let app = process::Server::start(RULES, &flags);
    wait_until("decision", || app.http("POST", "/json", body).0 == 200);
}
