//! Counts are exact, whatever is coalesced, remembered or dropped on the way.

use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use ratekeeper::{
    clock::{Clock, ManualClock},
    engine::{
        decision::{Code, Decision, Status},
        descriptor::Hits,
        limit::{Limit, Unit, Window},
        time::Timestamp,
    },
    limiter::Limiter,
    storage::{
        AnyStore, Ladder,
        redis::{Config, address::TlsFiles, key::Format},
    },
};
use tokio::time::Instant;

use super::{
    ask, ask_for, connected, limiter, limiter_at, limiter_over, memory_store, redis_store,
    servers::{Certificates, Cluster, Options as ServerOptions, Sentinels, Server},
    settings, watched,
};

const RULES: &str = "
domain: d
descriptors:
  - key: few
    rate_limit: {unit: hour, requests_per_unit: 3}
  - key: many
    rate_limit: {unit: hour, requests_per_unit: 1000000}
  - key: leased
    rate_limit: {unit: hour, requests_per_unit: 1000000, accuracy: leased}
";

fn code(answer: Result<ratekeeper::limiter::Answer, ratekeeper::limiter::LimitError>) -> Code {
    answer.expect("an answer").decision.code
}

/// `INCRBY`s and `EXPIRE`s so far.
fn counted(server: &Server) -> u64 {
    let calls = server.calls();
    ["incrby", "expire"]
        .iter()
        .filter_map(|name| calls.get(*name))
        .sum()
}

// === keys ===

#[tokio::test]
async fn a_reference_service_counts_with_us() {
    let server = Server::plain();
    let config = Config {
        format: Format::Reference,
        prefix: "p:".to_owned(),
        jitter: 300,
        ..settings(&server.address())
    };
    let limiter = limiter(RULES, &config).await;
    assert_eq!(
        code(ask(&limiter, &[("few", "x")], Hits::Take(1)).await),
        Code::Ok
    );
    let keys = server.command(&["KEYS", "*few*"]);
    let key = keys.trim();
    let start: u64 = key
        .strip_prefix("p:d_few_x_")
        .expect(key)
        .parse()
        .expect(key);
    assert_eq!(start % 3_600, 0);
    let ttl: u64 = server.command(&["TTL", key]).trim().parse().expect("a TTL");
    assert!((3_600 - 5..3_600 + 300).contains(&ttl), "{ttl}");
    // What the other service would send.
    assert_eq!(server.command(&["INCRBY", key, "1"]).trim(), "2");
    assert_eq!(
        code(ask(&limiter, &[("few", "x")], Hits::Take(1)).await),
        Code::Ok
    );
    assert_eq!(
        code(ask(&limiter, &[("few", "x")], Hits::Take(1)).await),
        Code::OverLimit
    );
    // The fourth was refused without asking: there was nothing left.
    assert_eq!(server.command(&["GET", key]).trim(), "3");
}

#[tokio::test]
async fn keys_live_for_their_windows_length() {
    let server = Server::plain();
    let config = settings(&server.address());
    let limiter = limiter(RULES, &config).await;
    // A plain command, a refund, and a script.
    for (value, hits) in [("a", Hits::Take(1)), ("b", Hits::GiveBack(1))] {
        code(ask(&limiter, &[("few", value)], hits).await);
    }
    for key in server.command(&["KEYS", "*rk:*"]).lines() {
        let ttl: u64 = server.command(&["TTL", key]).trim().parse().expect("a TTL");
        assert!((3_600..=3_605).contains(&ttl), "{key}: {ttl}");
    }
    // A store that was emptied is no reason to leave keys for ever.
    server.command(&["FLUSHALL"]);
    for _ in 0..2 {
        code(ask(&limiter, &[("few", "a")], Hits::Take(1)).await);
    }
    let keys = server.command(&["KEYS", "*rk:*"]);
    assert_ne!(server.command(&["TTL", keys.trim()]).trim(), "-1", "{keys}");
}

// === commands ===

#[tokio::test]
async fn a_hot_key_costs_few_commands() {
    let server = Server::plain();
    let limiter = limiter(RULES, &settings(&server.address())).await;
    let (before, rounds) = (counted(&server), 50);
    for _ in 0..rounds {
        let asks = (0..256).map(|_| ask(&limiter, &[("many", "x")], Hits::Take(1)));
        join_all(asks).await;
    }
    let commands = counted(&server) - before;
    assert!(
        commands * 20 <= 256 * rounds,
        "{commands} for {}",
        256 * rounds
    );
}

#[tokio::test]
async fn each_of_many_keys_costs_one_command_and_one_more_the_first_time() {
    let server = Server::plain();
    let limiter = limiter(RULES, &settings(&server.address())).await;
    let values: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    for round in 0..10 {
        let before = counted(&server);
        let entries: Vec<[(&str, &str); 1]> = values
            .iter()
            .map(|value| [("many", value.as_str())])
            .collect();
        join_all(
            entries
                .iter()
                .map(|entries| ask(&limiter, entries, Hits::Take(1))),
        )
        .await;
        let commands = counted(&server) - before;
        assert_eq!(
            commands,
            if round == 0 { 1_000 } else { 500 },
            "round {round}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_over_costs_no_command() {
    let server = Server::plain();
    let limiter = limiter(RULES, &settings(&server.address())).await;
    for _ in 0..4 {
        code(ask(&limiter, &[("few", "x")], Hits::Take(1)).await);
    }
    let before = counted(&server);
    for _ in 0..1_000 {
        assert_eq!(
            code(ask(&limiter, &[("few", "x")], Hits::Take(1)).await),
            Code::OverLimit
        );
    }
    assert_eq!(counted(&server), before);
}

#[tokio::test]
async fn a_hot_leased_key_costs_next_to_no_command() {
    let server = Server::plain();
    let limiter = limiter(RULES, &settings(&server.address())).await;
    let mut last = u64::MAX;
    for _ in 0..40 {
        let before = counted(&server);
        for _ in 0..20 {
            let asks = (0..256).map(|_| ask(&limiter, &[("leased", "x")], Hits::Take(1)));
            for answer in join_all(asks).await {
                assert_eq!(code(answer), Code::Ok);
            }
        }
        last = counted(&server) - before;
    }
    assert!(last * 100 <= 20 * 256, "{last} commands for {}", 20 * 256);
    let store = redis_store(&limiter);
    let (stats, taken) = (store.stats(), server.command(&["KEYS", "*leased*"]));
    let count: u64 = server
        .command(&["GET", taken.trim()])
        .trim()
        .parse()
        .expect("a count");
    assert_eq!(stats.lease_outstanding, count - 40 * 20 * 256, "{stats:?}");
}

// === answers ===

/// What a test does to one of a few counters.
#[derive(Clone, Copy, Debug)]
struct Deed {
    counter: u8,
    hits: Hits,
    limit: u32,
    seconds: u64,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let hits = prop_oneof![
        6 => (1_u64..4).prop_map(Hits::Take),
        1 => Just(Hits::Take(0)),
        1 => (0_u64..20).prop_map(Hits::Take),
        1 => (0_u64..6).prop_map(Hits::GiveBack),
    ];
    let limit = prop_oneof![5 => Just(10_u32), 1 => Just(15), 1 => Just(5), 1 => Just(0)];
    let seconds = prop_oneof![20 => Just(0_u64), 1 => 1_u64..90];
    let deed = (0_u8..3, hits, limit, seconds);
    let deed = deed.prop_map(|(counter, hits, limit, seconds)| Deed {
        counter,
        hits,
        limit,
        seconds,
    });
    prop::collection::vec(deed, 1..60)
}

fn over(store: AnyStore, clock: &ManualClock) -> Limiter {
    limiter_at(RULES, Clock::Manual(clock.clone()), store, Ladder::none())
}

async fn do_it(limiter: &Limiter, deed: Deed) -> Vec<Status> {
    let value = deed.counter.to_string();
    let limit = Limit {
        requests: deed.limit,
        window: Window::of(Unit::Minute),
    };
    let asked = [(&[("k", value.as_str())][..], deed.hits)];
    let answer = ask_for(limiter, &asked, Some(limit), None)
        .await
        .expect("an answer");
    let Decision { statuses, .. } = answer.decision;
    let mut statuses = statuses.into_vec();
    // Memory is always asked.
    for status in &mut statuses {
        status.tally.known_over = 0;
    }
    statuses
}

/// Deeds one after the other, then the same all at once: every answer is that
/// of the memory store, which counts each hit by itself, in the same order.
fn answers_are_those_of_memory(server: impl Fn() -> Config, deeds: &[Deed]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        for at_once in [1, 7] {
            let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
            let config = Config {
                own_clock: true,
                ..server()
            };
            let store = connected(&config, Clock::Manual(clock.clone())).await;
            let (redis, memory) = (
                over(AnyStore::Redis(store), &clock),
                over(AnyStore::Memory(memory_store()), &clock),
            );
            let mut now = 1_800_000_000;
            for deeds in deeds.chunks(at_once) {
                now += deeds[0].seconds;
                clock.set(Timestamp::from_secs(now));
                let got = join_all(deeds.iter().map(|&deed| do_it(&redis, deed))).await;
                for (deed, got) in deeds.iter().zip(got) {
                    assert_eq!(got, do_it(&memory, *deed).await, "{deed:?} of {at_once}");
                }
            }
        }
    });
}

#[test]
fn every_answer_is_the_one_that_memory_gives() {
    let server = Server::plain();
    let config = ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(deeds in deeds())| {
        answers_are_those_of_memory(|| settings(&server.address()), &deeds);
    });
}

#[test]
fn every_answer_of_a_cluster_is_the_one_that_memory_gives() {
    let cluster = Cluster::start();
    let config = ProptestConfig {
        cases: 15,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(deeds in deeds())| {
        answers_are_those_of_memory(|| settings(&cluster.address()), &deeds);
    });
}

#[test]
fn every_answer_behind_sentinels_is_the_one_that_memory_gives() {
    let set = Sentinels::start(None, None);
    let config = ProptestConfig {
        cases: 15,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(deeds in deeds())| {
        answers_are_those_of_memory(|| settings(&set.address("", "")), &deeds);
    });
}

#[test]
fn every_answer_over_tls_is_the_one_that_memory_gives() {
    let certificates = Certificates::make();
    let server = Server::start(&ServerOptions {
        tls: Some(&certificates),
        password: Some("geheim"),
        ..ServerOptions::default()
    });
    let settings = || Config {
        tls: TlsFiles {
            ca: Some(certificates.path("ca.crt")),
            cert: Some(certificates.path("client.crt")),
            key: Some(certificates.path("client.key")),
            skip_hostname_verification: false,
        },
        ..settings(&format!("rediss://:geheim@127.0.0.1:{}", server.port))
    };
    let config = ProptestConfig {
        cases: 10,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(deeds in deeds())| {
        answers_are_those_of_memory(settings, &deeds);
    });
}

#[tokio::test]
async fn processes_with_wrong_clocks_agree() {
    let server = Server::plain();
    let config = settings(&server.address());
    let mut limiters = vec![];
    for skew in [-5_000_000_000, 0, 5_000_000_000] {
        let now = Clock::System.now().shifted(skew);
        let store = connected(&config, Clock::Manual(ManualClock::at(now))).await;
        let seen = store.stats().clock_offset_nanos;
        assert!((seen + skew).abs() < 1_000_000_000, "{skew}: {seen}");
        limiters.push(limiter_over(RULES, store, Default::default()));
    }
    // One counter, and one window, for all of them.
    let mut codes = vec![];
    for limiter in limiters.iter().cycle().take(6) {
        codes.push(code(ask(limiter, &[("few", "x")], Hits::Take(1)).await));
    }
    assert_eq!(
        codes.iter().filter(|&&code| code == Code::Ok).count(),
        3,
        "{codes:?}"
    );
    assert_eq!(server.command(&["KEYS", "*few*"]).lines().count(), 1);
}

// === several processes ===

#[tokio::test]
async fn a_refund_of_another_process_is_heard_of() {
    let server = Server::plain();
    let config = settings(&server.address());
    let (one, other) = (limiter(RULES, &config).await, limiter(RULES, &config).await);
    watched(&[&one, &other], async {
        let listeners =
            || server.command(&["PUBSUB", "NUMSUB", &format!("{}rk-refunds", config.prefix)]);
        while listeners().lines().nth(1) != Some("2") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..4 {
            code(ask(&one, &[("few", "x")], Hits::Take(1)).await);
        }
        assert_eq!(
            code(ask(&one, &[("few", "x")], Hits::Take(1)).await),
            Code::OverLimit
        );
        code(ask(&other, &[("few", "x")], Hits::GiveBack(1)).await);
        let mut asked = 0;
        while code(ask(&one, &[("few", "x")], Hits::Take(1)).await) == Code::OverLimit {
            asked += 1;
            assert!(asked < 1_000, "the refund was not heard of");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn processes_know_how_many_they_are() {
    let server = Server::plain();
    let config = settings(&server.address());
    let (one, other) = (limiter(RULES, &config).await, limiter(RULES, &config).await);
    let replicas = |limiter: &Limiter| redis_store(limiter).replicas();
    assert_eq!((replicas(&one), replicas(&other)), (1, 2));
    watched(&[&one, &other], async {
        while replicas(&one) != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

// === calls that nobody waits for ===

#[tokio::test]
async fn a_call_that_is_gone_is_not_charged() {
    let server = Server::plain();
    let limiter = limiter(RULES, &settings(&server.address())).await;
    code(ask(&limiter, &[("many", "x")], Hits::Take(1)).await);
    server.stop();
    let sent = ask(&limiter, &[("many", "x")], Hits::Take(10));
    tokio::pin!(sent);
    let soon = Duration::from_millis(50);
    assert!(
        tokio::time::timeout(soon, &mut sent).await.is_err(),
        "it is under way"
    );
    // These come while the first is in flight: one goes, one has a deadline.
    let gone = ask(&limiter, &[("many", "x")], Hits::Take(100));
    assert!(tokio::time::timeout(soon, gone).await.is_err());
    let thousand = [(&[("many", "x")][..], Hits::Take(1_000))];
    let late = ask_for(&limiter, &thousand, None, Some(Instant::now() + soon));
    tokio::pin!(late);
    assert!(tokio::time::timeout(2 * soon, &mut late).await.is_err());
    let patient = ask(&limiter, &[("many", "x")], Hits::Take(10_000));
    tokio::pin!(patient);
    assert!(tokio::time::timeout(soon, &mut patient).await.is_err());
    server.cont();
    assert_eq!(code(sent.await), Code::Ok);
    assert_eq!(code(patient.await), Code::Ok);
    let error = late.await.expect_err("too late").to_string();
    assert!(error.contains("deadline"), "{error}");
    let key = server.command(&["KEYS", "*many*"]);
    assert_eq!(server.command(&["GET", key.trim()]).trim(), "10011");
}
