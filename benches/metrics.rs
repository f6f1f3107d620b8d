//! What counting decisions costs: whole calls without their transport (decode,
//! decide in memory, count, encode), against the same calls of a process that
//! counts no rules. Both take turns, a thousand calls each, so that whatever
//! else the machine does meets both; the ratio is the median of all turns.
//!
//! Requests ask for rules at random, as in `decide.rs`. A whole call over
//! HTTP/2 costs several times as much: `service` measures that.

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::BytesMut;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{Options, SourceFile, compile},
    engine::{decision::Policy, key::HashSeed, time::Timestamp},
    limiter::Limiter,
    proto::envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::RateLimitRequest,
    },
    service::wire::{self, Bounds, Message, ResponseSettings},
    storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
    telemetry::metrics::{MOST_SERIES, Metrics},
};

/// The last is more than there may be series.
const SIZES: [usize; 3] = [1, 1_000, 100_000];
const CALLS: usize = 1_000;
const TURNS: usize = 2_001;

/// How the rules' series are named.
#[derive(Clone, Copy)]
enum Names {
    AsWritten,
    ByValue,
}

fn limiter(rules: usize, names: Names, most_series: usize) -> Limiter {
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
    let clock = Clock::Manual(ManualClock::at(Timestamp::from_secs(1_800_000_000)));
    let mode = ChargeMode::Always;
    let limiter = Limiter::new(clock, store, Ladder::none(), Policy::default(), mode);
    limiter.set_rules(rules);
    limiter.counting_in(Arc::new(Metrics::new(most_series)))
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

fn call(limiter: &Limiter, bytes: &[u8], out: &mut BytesMut) {
    let message = Message::decode(bytes, &Bounds::default()).expect("a request");
    let descriptors = message.descriptors();
    let request = message.request(&descriptors);
    let decided = pin!(limiter.decide(&request, None));
    let Poll::Ready(answer) = decided.poll(&mut Context::from_waker(Waker::noop())) else {
        unreachable!("the memory store does not wait");
    };
    let answer = answer.expect("a decision");
    out.clear();
    wire::encode(&answer, &message, &ResponseSettings::default(), out);
    black_box(out.len());
}

/// Nanoseconds of a call.
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn turn(limiter: &Limiter, requests: &[Vec<u8>], out: &mut BytesMut) -> f64 {
    let begun = Instant::now();
    for bytes in requests {
        call(limiter, bytes, out);
    }
    begun.elapsed().as_secs_f64() * 1e9 / CALLS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // Under `cargo test --benches` it only has to start.
    let turns = if std::env::args().any(|it| it == "--bench") {
        TURNS
    } else {
        1
    };
    println!(
        "{:>18} {:>8} {:>12} {:>12} {:>7}",
        "series", "rules", "not counted", "counted", "ratio"
    );
    for (names, name) in [
        (Names::AsWritten, "as rules are"),
        (Names::ByValue, "by value"),
    ] {
        for rules in SIZES {
            let requests = requests(rules);
            let counted = limiter(rules, names, MOST_SERIES);
            let not_counted = limiter(rules, names, 0);
            let mut out = BytesMut::new();
            let (mut with, mut without, mut ratios) = (vec![], vec![], vec![]);
            let batches = requests.chunks(CALLS).cycle().take(turns + 100);
            for (number, batch) in batches.enumerate() {
                // Who goes first finds the requests in a farther cache.
                let both = if number % 2 == 0 {
                    let plain = turn(&not_counted, batch, &mut out);
                    (plain, turn(&counted, batch, &mut out))
                } else {
                    let told = turn(&counted, batch, &mut out);
                    (turn(&not_counted, batch, &mut out), told)
                };
                if number >= 100.min(turns) {
                    without.push(both.0);
                    with.push(both.1);
                    ratios.push(both.1 / both.0);
                }
            }
            println!(
                "{name:>18} {rules:>8} {:>9.0} ns {:>9.0} ns {:>7.3}",
                median(without),
                median(with),
                median(ratios)
            );
        }
    }
}
