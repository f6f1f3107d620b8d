//! Tests of the wire: our reading and writing against generated code.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    engine::{decision::Policy, key::HashSeed, rules, time::Timestamp},
    limiter::Limiter,
    proto::envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry as ProtoEntry, RateLimitOverride},
        },
        service::ratelimit::v3::{RateLimitRequest, RateLimitResponse},
    },
    storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
};

fn arbitrary_request() -> impl Strategy<Value = RateLimitRequest> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..6);
    let entry = (bytes(), bytes()).prop_map(|(key, value)| ProtoEntry {
        key: key.into(),
        value: value.into(),
    });
    let limit = (any::<u32>(), -1..9, prop::option::of(any::<u32>())).prop_map(
        |(requests_per_unit, unit, unit_multiplier)| RateLimitOverride {
            requests_per_unit,
            unit,
            unit_multiplier,
        },
    );
    let descriptor = (
        prop::collection::vec(entry, 0..4),
        prop::option::of(limit),
        prop::option::of(any::<u64>()),
        any::<bool>(),
    )
        .prop_map(
            |(entries, limit, hits_addend, is_negative_hits)| RateLimitDescriptor {
                entries,
                limit,
                hits_addend,
                is_negative_hits,
            },
        );
    (
        "[a-c]{0,3}",
        prop::collection::vec(descriptor, 0..5),
        any::<u32>(),
    )
        .prop_map(|(domain, descriptors, hits_addend)| RateLimitRequest {
            domain,
            descriptors,
            hits_addend,
        })
}

/// What our reader made of a message, as the generated type.
fn as_proto(message: &Message<'_>) -> RateLimitRequest {
    let mut begin = 0;
    let descriptors = message.descriptors.iter().map(|asked| {
        let entries = &message.entries[begin..asked.entries_end];
        begin = asked.entries_end;
        RateLimitDescriptor {
            entries: entries
                .iter()
                .map(|entry| ProtoEntry {
                    key: entry.key.to_vec().into(),
                    value: entry.value.to_vec().into(),
                })
                .collect(),
            limit: asked.limit.map(|limit| RateLimitOverride {
                requests_per_unit: limit.requests_per_unit,
                unit: limit.unit,
                unit_multiplier: (limit.unit_multiplier != 0).then_some(limit.unit_multiplier),
            }),
            hits_addend: asked.hits_addend,
            is_negative_hits: asked.is_negative_hits,
        }
    });
    RateLimitRequest {
        domain: String::from_utf8_lossy(message.domain).into_owned(),
        descriptors: descriptors.collect(),
        hits_addend: message.hits_addend,
    }
}

/// Generated code keeps a multiplier of 0 apart from none; we need not.
fn normal(mut request: RateLimitRequest) -> RateLimitRequest {
    for descriptor in &mut request.descriptors {
        if let Some(limit) = &mut descriptor.limit {
            limit.unit_multiplier = limit.unit_multiplier.filter(|&n| n != 0);
        }
    }
    request
}

proptest! {
    #[test]
    fn reads_what_generated_code_writes(request in arbitrary_request()) {
        let bytes = request.encode_to_vec();
        let message = Message::decode(&bytes, &Bounds::default()).unwrap();
        prop_assert_eq!(as_proto(&message), normal(request));
    }

    /// Two messages one after the other are merged, by protobuf's rules.
    #[test]
    fn merges_as_generated_code_does(
        a in arbitrary_request(),
        b in arbitrary_request(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = a.encode_to_vec();
        bytes.extend(b.encode_to_vec());
        bytes.truncate(cut.index(bytes.len() + 1));
        let ours = Message::decode(&bytes, &Bounds::default());
        match RateLimitRequest::decode(&*bytes) {
            Ok(theirs) => prop_assert_eq!(as_proto(&ours.unwrap()), normal(theirs)),
            Err(_) => prop_assert!(ours.is_err()),
        }
    }

    #[test]
    fn reads_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let ours = Message::decode(&bytes, &Bounds::default());
        if let (Ok(ours), Ok(theirs)) = (ours, RateLimitRequest::decode(&*bytes)) {
            prop_assert_eq!(as_proto(&ours), normal(theirs));
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_are_read() {
    // As sent by Envoy for a header `x-user: \xfc\xe9`.
    let bytes = b"\x0a\x03lab\x12\x0c\x0a\x0a\x0a\x04user\x12\x02\xfc\xe9";
    let message = Message::decode(bytes, &Bounds::default()).unwrap();
    assert_eq!(message.entries[0].value, b"\xfc\xe9");
}

#[test]
fn fields_of_no_interest_are_skipped() {
    // Field 9 as fixed64, fixed32, group (with a group inside), bytes, varint.
    let bytes = b"\x49--------\x4d----\x4b\x53\x08\x01\x54\x0a\x01-\x4c\x4a\x01-\x48\x01\x18\x05";
    let message = Message::decode(bytes, &Bounds::default()).unwrap();
    assert_eq!(message.hits_addend, 5);
}

#[test]
fn malformed_bytes_are_told_apart() {
    use Malformed::{Tag, Truncated, Varint, WrongType};
    for (bytes, expected) in [
        (&b"\x0a"[..], Truncated),
        (b"\x0a\x05ab", Truncated),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Truncated),
        (b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", Varint),
        (b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Varint),
        (b"\x00\x01", Tag),
        (b"\x0f", Tag),
        (b"\x0c", Tag),
        (b"\x4b\x44", Tag),
        (b"\x08\x01", WrongType),
        (b"\x1a\x00", WrongType),
        (b"\x12\x02\x08\x01", WrongType),
    ] {
        let error = Message::decode(bytes, &Bounds::default()).unwrap_err();
        assert_eq!(error, BadRequest::Malformed(expected), "{bytes:x?}");
    }
    let nested = [0x4b_u8; 100];
    assert!(Message::decode(&nested, &Bounds::default()).is_err());
}

#[test]
fn a_request_that_asks_too_much_is_refused_with_the_bound() {
    let bounds = Bounds {
        max_descriptors: 2,
        max_entries: 3,
        max_entry_bytes: 4,
    };
    let entry = |key: &str| ProtoEntry {
        key: key.to_owned().into(),
        value: "v".into(),
    };
    let descriptor = |entries: Vec<ProtoEntry>| RateLimitDescriptor {
        entries,
        ..Default::default()
    };
    for (domain, descriptors, expected) in [
        ("abcd", vec![vec![entry("abcd"); 3]; 2], None),
        ("abcde", vec![], Some(("bytes of the domain", 4))),
        (
            "d",
            vec![vec![entry("abcde")]],
            Some(("bytes of an entry's key", 4)),
        ),
        (
            "d",
            vec![vec![entry("a"); 4]],
            Some(("entries of a descriptor", 3)),
        ),
        ("d", vec![vec![]; 3], Some(("descriptors", 2))),
    ] {
        let request = RateLimitRequest {
            domain: domain.to_owned(),
            descriptors: descriptors.into_iter().map(descriptor).collect(),
            hits_addend: 0,
        };
        let bytes = request.encode_to_vec();
        let error = Message::decode(&bytes, &bounds).err();
        let expected = expected.map(|(what, most)| BadRequest::TooLarge(what, most));
        assert_eq!(error, expected);
    }
}

#[test]
fn an_override_without_unit_is_an_error() {
    for unit in [-1, 0, 8, i32::MAX] {
        let request = RateLimitRequest {
            domain: "d".to_owned(),
            descriptors: vec![RateLimitDescriptor {
                limit: Some(RateLimitOverride {
                    unit,
                    ..Default::default()
                }),
                ..Default::default()
            }],
            hits_addend: 0,
        };
        let bytes = request.encode_to_vec();
        let message = Message::decode(&bytes, &Bounds::default()).unwrap();
        assert_eq!(message.check_overrides(), Err(BadRequest::BadUnit(0, unit)));
    }
}

#[test]
fn the_text_form_of_an_override() {
    let text = |requests_per_unit, unit, unit_multiplier| {
        let limit = Override {
            requests_per_unit,
            unit,
            unit_multiplier,
        };
        limit.to_string()
    };
    assert_eq!(text(7, 3, 0), "requests_per_unit:7 unit:HOUR");
    assert_eq!(text(0, 7, 0), "unit:WEEK");
    assert_eq!(
        text(1, 99, 3),
        "requests_per_unit:1 unit:99 unit_multiplier:{value:3}"
    );
    assert_eq!(text(0, 0, 0), "");
}

/// Asks a limiter with one rule, `k`, and reads our answer with generated code.
fn answer(quota: rules::LimitDef, request: &RateLimitRequest) -> RateLimitResponse {
    let rule = rules::RuleDef {
        key: "k".to_owned(),
        limit: Some(quota),
        metadata: [(
            "note".to_owned(),
            crate::engine::metadata::Value::Bool(true),
        )]
        .into(),
        ..rules::RuleDef::default()
    };
    let domain = rules::DomainDef {
        name: "d".to_owned(),
        rules: vec![rule],
        ..rules::DomainDef::default()
    };
    let clock = Clock::Manual(ManualClock::at(Timestamp::from_secs(10)));
    let config = memory::Config {
        max_counters: 100,
        when_full: memory::WhenFull::Deny,
    };
    let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)));
    let limiter = Limiter::new(
        clock,
        store,
        Ladder::none(),
        Policy::default(),
        ChargeMode::Always,
    );
    limiter.set_rules(RuleSet::compile(vec![domain]).unwrap());
    let settings = ResponseSettings {
        headers: Some(HeaderNames::new("L", "R", "T").unwrap()),
        dynamic_metadata: true,
    };
    let bytes = request.encode_to_vec();
    let message = Message::decode(&bytes, &Bounds::default()).unwrap();
    let descriptors = message.descriptors();
    let request = message.request(&descriptors);
    let answer = block_on(limiter.decide(&request, None)).unwrap();
    let mut out = BytesMut::new();
    encode(&answer, &message, &settings, &mut out);
    RateLimitResponse::decode(out.freeze()).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_long_name_and_all_parts_of_an_answer_are_written() {
    let name = "n".repeat(300);
    let limit = rules::LimitDef {
        leased: false,
        extra: rules::Extra::default(),
        quota: crate::engine::limit::Quota::Limited(Limit {
            requests: 300,
            window: Window::times(Unit::Minute, 3),
        }),
        name: name.clone(),
        replaces: vec![],
    };
    let request = RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: vec![
            RateLimitDescriptor {
                entries: vec![ProtoEntry {
                    key: "k".into(),
                    value: "\u{e9}".into(),
                }],
                ..Default::default()
            },
            RateLimitDescriptor::default(),
        ],
        hits_addend: 2,
    };
    let response = answer(limit, &request);
    assert_eq!(response.overall_code, 1);
    let status = &response.statuses[0];
    let current = status.current_limit.as_ref().unwrap();
    assert_eq!(
        (current.requests_per_unit, current.unit, &current.name),
        (300, 2, &name)
    );
    assert_eq!(current.unit_multiplier, Some(3));
    assert_eq!(status.limit_remaining, 298);
    assert_eq!(status.duration_until_reset.as_ref().unwrap().seconds, 170);
    let unmatched = &response.statuses[1];
    assert_eq!((unmatched.code, &unmatched.current_limit), (1, &None));
    let headers: Vec<_> = response
        .response_headers_to_add
        .iter()
        .map(|header| (&*header.key, &*header.value))
        .collect();
    assert_eq!(headers, [("L", "300"), ("R", "298"), ("T", "170")]);
    let metadata = response.dynamic_metadata.unwrap();
    assert_eq!(
        metadata.fields.keys().collect::<Vec<_>>(),
        ["descriptors", "domain", "hitsAddend", "metadata"]
    );
}
