//! What counting a decision costs beside making it: a whole call without its
//! transport (decode, decide in memory, count, encode), and the counting
//! alone, in one run.
//!
//! Requests ask for rules at random, as in `decide.rs`.

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{Options, SourceFile, compile},
    engine::{decision::Policy, key::HashSeed, time::Timestamp},
    limiter::{Answer, Limiter},
    proto::envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::RateLimitRequest,
    },
    service::wire::{self, Bounds, Message, ResponseSettings},
    storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
    telemetry::metrics::{Metrics, series::Index},
};

/// The last is more than there may be series.
const SIZES: [usize; 3] = [1, 1_000, 100_000];
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// How the rules' series are named.
#[derive(Clone, Copy)]
enum Names {
    AsWritten,
    ByValue,
}

fn limiter(rules: usize, names: Names) -> Limiter {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    let limit = "rate_limit: {requests_per_unit: 1000000, unit: day}";
    match names {
        Names::AsWritten => (0..rules).for_each(|rule| {
            text += &format!("- {{key: user, value: user-{rule:06}, {limit}}}\n");
        }),
        Names::ByValue => text += &format!("- {{key: user, value_to_metric: true, {limit}}}\n"),
    }
    let file = SourceFile {
        name: "rules".into(),
        bytes: text.into(),
    };
    let rules = compile(&[file], &Options::default()).expect("rules");
    let config = memory::Config {
        max_counters: 1_000_000,
        when_full: memory::WhenFull::Deny,
    };
    let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)));
    let clock = Clock::Manual(ManualClock::at(NOW));
    let mode = ChargeMode::Always;
    let limiter = Limiter::new(clock, store, Ladder::none(), Policy::default(), mode);
    limiter.set_rules(rules);
    limiter
}

fn requests(rules: usize) -> Vec<Vec<u8>> {
    let mut random = SmallRng::seed_from_u64(1);
    let request = |rule: usize| RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: vec![RateLimitDescriptor {
            entries: vec![Entry {
                key: "user".into(),
                value: format!("user-{rule:06}").into(),
            }],
            ..RateLimitDescriptor::default()
        }],
        hits_addend: 1,
    };
    (0..100_000)
        .map(|_| request(random.random_range(0..rules)).encode_to_vec())
        .collect()
}

fn decide(limiter: &Limiter, message: &Message<'_>) -> Answer {
    let descriptors = message.descriptors();
    let request = message.request(&descriptors);
    let call = pin!(limiter.decide(&request, None));
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.expect("a decision"),
        Poll::Pending => unreachable!("the memory store does not wait"),
    }
}

fn all(criterion: &mut Criterion) {
    for (names, name) in [
        (Names::AsWritten, "named as written"),
        (Names::ByValue, "named by value"),
    ] {
        let mut group = criterion.benchmark_group(name);
        for rules in SIZES {
            let (limiter, requests) = (limiter(rules, names), requests(rules));
            let mut next = requests.iter().cycle();
            let mut out = BytesMut::new();
            group.bench_function(BenchmarkId::new("call", rules), |bencher| {
                bencher.iter(|| {
                    let bytes = next.next().expect("they go on for ever");
                    let message = Message::decode(bytes, &Bounds::default()).expect("a request");
                    let answer = decide(&limiter, &message);
                    out.clear();
                    wire::encode(&answer, &message, &ResponseSettings::default(), &mut out);
                    black_box(out.len())
                });
            });
            count(&mut group, &limiter, &requests, rules);
        }
        group.finish();
    }
}

type Group<'c> = criterion::BenchmarkGroup<'c, criterion::measurement::WallTime>;

/// Of decisions that are made beforehand, the counting alone.
fn count(group: &mut Group<'_>, limiter: &Limiter, requests: &[Vec<u8>], rules: usize) {
    let made: Vec<_> = requests[..20_000]
        .iter()
        .map(|bytes| {
            let message = Message::decode(bytes, &Bounds::default()).expect("a request");
            let answer = decide(limiter, &message);
            (message, answer.decision)
        })
        .collect();
    let metrics = Arc::new(Metrics::default());
    let set = limiter.rules().expect("rules");
    let index = Index::new(&set);
    let mut next = made.iter().cycle();
    group.bench_function(BenchmarkId::new("counting", rules), |bencher| {
        bencher.iter(|| {
            let (message, decision) = next.next().expect("they go on for ever");
            let descriptors = message.descriptors();
            let request = message.request(&descriptors);
            metrics.record(&set, &index, &request, decision, NOW);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
