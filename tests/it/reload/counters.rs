//! Counters outlive the rules: a changed limit goes for what is counted
//! already, at once.

use ratekeeper::{
    clock::Clock,
    config::{self, Options, SourceFile},
    engine::{decision::Code, descriptor::Hits, rules::RuleSet},
    limiter::Limiter,
    storage::{AnyStore, Ladder},
};

use crate::redis::{ask, limiter, limiter_at, memory_store, servers::Server, settings};

/// Ways to count, as they stand in a rule.
const WAYS: [&str; 5] = [
    "",
    "accuracy: leased",
    "algorithm: sliding_window",
    "algorithm: sliding_log",
    "algorithm: token_bucket",
];

fn text(requests: u32, way: &str) -> String {
    let more = if way.is_empty() { "" } else { ", " };
    format!(
        "domain: d\ndescriptors:\n  - key: user\n    rate_limit: \
         {{unit: day, requests_per_unit: {requests}{more}{way}}}\n"
    )
}

fn compiled(text: &str) -> RuleSet {
    let source = SourceFile {
        name: "d.yaml".into(),
        bytes: text.into(),
    };
    config::compile(&[source], &Options::default()).unwrap()
}

/// Whether so many hits pass, and what is left after them.
async fn hit(limiter: &Limiter, hits: u64) -> (Code, u32) {
    let answer = ask(limiter, &[("user", "ann")], Hits::Take(hits)).await;
    let decision = answer.expect("an answer").decision;
    (decision.code, decision.statuses[0].remaining)
}

/// What a limit of 100 has counted is held against a limit of 200 and one
/// of 50 from the next hit on.
async fn changes(limiter: &Limiter, way: &str) {
    let change_to = |requests| limiter.set_rules(compiled(&text(requests, way)));
    assert_eq!(hit(limiter, 100).await, (Code::Ok, 0), "{way}");
    // Twice: the second time a store may know by itself.
    for _ in 0..2 {
        assert_eq!(hit(limiter, 1).await, (Code::OverLimit, 0), "{way}");
    }
    change_to(200);
    let (code, left) = hit(limiter, 10).await;
    assert_eq!(code, Code::Ok, "{way}");
    // Where refused hits count, too, there were two.
    assert!((88..=90).contains(&left), "{way}: {left}");
    change_to(50);
    for _ in 0..2 {
        assert_eq!(hit(limiter, 1).await, (Code::OverLimit, 0), "{way}");
    }
    change_to(200);
    let (code, left) = hit(limiter, 10).await;
    assert_eq!(code, Code::Ok, "{way}");
    assert!((74..=80).contains(&left), "{way}: {left}");
}

#[tokio::test]
async fn in_memory() {
    for way in WAYS {
        let store = AnyStore::Memory(memory_store());
        let limiter = limiter_at(&text(100, way), Clock::System, store, Ladder::none());
        changes(&limiter, way).await;
    }
}

#[tokio::test]
async fn in_redis() {
    let server = Server::plain();
    for way in WAYS {
        let limiter = limiter(&text(100, way), &settings(&server.address())).await;
        changes(&limiter, way).await;
    }
}
