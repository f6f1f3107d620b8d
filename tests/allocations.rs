//! The decision makes no heap allocation: not in matching, counting or
//! deciding, and the request is read in place. A binary of its own, because
//! counting takes the process's allocator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::BytesMut;
use prost::Message as _;
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{Options, SourceFile, compile},
    engine::{decision::Policy, key::HashSeed, time::Timestamp},
    limiter::Limiter,
    proto::envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::{RateLimitRequest, RateLimitResponse},
    },
    service::wire::{self, Bounds, Message, ResponseSettings},
    storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 10, name: users}
  - key: path
    value: /files/*
    descriptors:
      - key: method
        rate_limit: {unit: hour, requests_per_unit: 10, replaces: [{name: users}]}
  - key: tier
    shadow_mode: true
    rate_limit: {unit: hour, requests_per_unit: 0}
";

fn limiter(mode: ChargeMode) -> Limiter {
    // It is the domain that says so, not the process.
    let line = match mode {
        ChargeMode::AllOrNothing => "charge: all_or_nothing",
        ChargeMode::Always | ChargeMode::OthersStandStill => "",
    };
    let file = SourceFile {
        name: "rules".into(),
        bytes: format!("{line}{RULES}").into(),
    };
    let rules = compile(&[file], &Options::default()).unwrap();
    let config = memory::Config {
        max_counters: 1_000,
        when_full: memory::WhenFull::Deny,
    };
    let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)));
    let clock = Clock::Manual(ManualClock::at(Timestamp::from_secs(1_000)));
    let limiter = Limiter::new(clock, store, Ladder::none(), Policy::default(), mode);
    limiter.set_rules(rules);
    limiter
}

fn request() -> Vec<u8> {
    let descriptor = |pairs: &[(&str, &str)]| RateLimitDescriptor {
        entries: pairs
            .iter()
            .map(|(key, value)| Entry {
                key: key.to_string().into(),
                value: value.to_string().into(),
            })
            .collect(),
        ..RateLimitDescriptor::default()
    };
    let request = RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: vec![
            descriptor(&[("user", "0123456789012345678901234567890123456789")]),
            descriptor(&[("path", "/files/a"), ("method", "GET")]),
            descriptor(&[("tier", "gold")]),
            descriptor(&[("unknown", "x")]),
        ],
        hits_addend: 1,
    };
    request.encode_to_vec()
}

/// Reads, decides and, if asked to, writes; the memory store never waits.
fn decide(limiter: &Limiter, bytes: &[u8], out: Option<&mut BytesMut>) {
    let message = Message::decode(bytes, &Bounds::default()).unwrap();
    let descriptors = message.descriptors();
    let request = message.request(&descriptors);
    let call = std::pin::pin!(limiter.decide(&request, None));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(answer) = call.poll(&mut context) else {
        panic!("the memory store waits");
    };
    let answer = answer.unwrap();
    if let Some(out) = out {
        wire::encode(&answer, &message, &ResponseSettings::default(), out);
    }
}

#[test]
fn reading_and_deciding_allocate_nothing() {
    for mode in [
        ChargeMode::Always,
        ChargeMode::OthersStandStill,
        ChargeMode::AllOrNothing,
    ] {
        let (limiter, bytes) = (limiter(mode), request());
        // The first time counters are made and this thread's buffers grow.
        decide(&limiter, &bytes, None);
        // Up to the limit and beyond it.
        for call in 2..15 {
            let counted = allocation_counter::measure(|| decide(&limiter, &bytes, None));
            assert_eq!(counted.count_total, 0, "{mode:?}, call {call}: {counted:?}");
        }
    }
}

#[test]
fn writing_the_answer_allocates_nothing_but_its_buffer() {
    let (limiter, bytes) = (limiter(ChargeMode::Always), request());
    let mut out = BytesMut::with_capacity(1_024);
    decide(&limiter, &bytes, Some(&mut out));
    out.clear();
    let counted = allocation_counter::measure(|| decide(&limiter, &bytes, Some(&mut out)));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let response = RateLimitResponse::decode(out.freeze()).unwrap();
    assert_eq!(response.statuses.len(), 4);
}

/// Counting has to be seen to count.
#[test]
fn an_allocation_would_be_seen() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8])));
    assert_eq!(counted.count_total, 1);
}
