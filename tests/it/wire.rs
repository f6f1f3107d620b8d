//! Our definitions against Envoy's own, as crate `envoy-types` has them: what
//! one side writes, the other reads, field by field.
//!
//! Every field is set to a value of its own; a field that one side does not
//! know, or has under another number or type, would not come back.

use envoy_types::pb::{
    envoy::{
        config::core::v3 as their_core, extensions::common::ratelimit::v3 as their_common,
        service::ratelimit::v3 as theirs,
    },
    google::protobuf as their_types,
};
use prost::Message;
use ratekeeper::proto::envoy::{
    config::core::v3 as our_core, extensions::common::ratelimit::v3 as our_common,
    service::ratelimit::v3 as ours,
};

/// `message` as `To` reads it.
fn across<To: Message + Default>(message: &impl Message) -> To {
    To::decode(&*message.encode_to_vec()).unwrap()
}

fn their_request() -> theirs::RateLimitRequest {
    use their_common::rate_limit_descriptor::{Entry, RateLimitOverride};
    let entry = |key: &str, value: &str| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    theirs::RateLimitRequest {
        domain: "domain".to_owned(),
        descriptors: vec![
            their_common::RateLimitDescriptor {
                entries: vec![entry("key", "value"), entry("ключ", "")],
                limit: Some(RateLimitOverride {
                    requests_per_unit: 42,
                    unit: 5,
                }),
                hits_addend: Some(their_types::UInt64Value { value: u64::MAX }),
                is_negative_hits: true,
            },
            their_common::RateLimitDescriptor {
                hits_addend: Some(their_types::UInt64Value { value: 0 }),
                ..Default::default()
            },
        ],
        hits_addend: 7,
    }
}

fn their_response() -> theirs::RateLimitResponse {
    use theirs::rate_limit_response::{
        DescriptorStatus, Quota, RateLimit, quota::ExpirationSpecifier,
    };
    let quota = |requests| Quota {
        requests,
        id: "id".to_owned(),
        expiration_specifier: Some(ExpirationSpecifier::ValidUntil(their_types::Timestamp {
            seconds: 1,
            nanos: 2,
        })),
    };
    let header = |key: &str| their_core::HeaderValue {
        key: key.to_owned(),
        value: "value".to_owned(),
        raw_value: vec![0, 255],
    };
    let text = |text: &str| their_types::Value {
        kind: Some(their_types::value::Kind::StringValue(text.to_owned())),
    };
    theirs::RateLimitResponse {
        overall_code: 2,
        statuses: vec![DescriptorStatus {
            code: 1,
            current_limit: Some(RateLimit {
                name: "name".to_owned(),
                requests_per_unit: 3,
                unit: 7,
            }),
            limit_remaining: 4,
            duration_until_reset: Some(their_types::Duration {
                seconds: 5,
                nanos: 6,
            }),
            quota: Some(quota(8)),
        }],
        response_headers_to_add: vec![header("response")],
        request_headers_to_add: vec![header("request")],
        raw_body: b"body".to_vec(),
        dynamic_metadata: Some(their_types::Struct {
            fields: [("field".to_owned(), text("text"))].into(),
        }),
        quota: Some(quota(9)),
    }
}

#[test]
fn envoys_request_comes_back_whole() {
    let request = their_request();
    let read: ours::RateLimitRequest = across(&request);
    let descriptor = &read.descriptors[0];
    assert_eq!(read.hits_addend, 7);
    assert_eq!(&*descriptor.entries[0].key, b"key");
    assert_eq!(&*descriptor.entries[1].key, "ключ".as_bytes());
    assert_eq!(descriptor.hits_addend, Some(u64::MAX));
    assert!(descriptor.is_negative_hits);
    // A message that is there and 0 is not one that is absent.
    assert_eq!(read.descriptors[1].hits_addend, Some(0));
    assert_eq!(across::<theirs::RateLimitRequest>(&read), request);
}

#[test]
fn envoys_response_comes_back_whole() {
    let response = their_response();
    let read: ours::RateLimitResponse = across(&response);
    assert_eq!(across::<theirs::RateLimitResponse>(&read), response);
}

#[test]
fn our_request_comes_back_whole_but_for_what_is_newer() {
    let mut request: ours::RateLimitRequest = across(&their_request());
    let limit = request.descriptors[0].limit.as_mut().unwrap();
    limit.unit_multiplier = Some(3);
    let theirs: theirs::RateLimitRequest = across(&request);
    assert_eq!(theirs, their_request(), "a newer field does no harm");
}

#[test]
fn our_response_comes_back_whole_but_for_what_is_newer() {
    let mut response: ours::RateLimitResponse = across(&their_response());
    let limit = response.statuses[0].current_limit.as_mut().unwrap();
    limit.unit_multiplier = Some(3);
    let theirs: theirs::RateLimitResponse = across(&response);
    assert_eq!(theirs, their_response(), "a newer field does no harm");
}

/// Fields that `envoy-types` does not have yet, by their published numbers.
#[test]
fn newer_fields_have_their_published_numbers() {
    let limit = our_common::rate_limit_descriptor::RateLimitOverride {
        unit_multiplier: Some(9),
        ..Default::default()
    };
    assert_eq!(limit.encode_to_vec(), [0x1a, 2, 8, 9], "field 3, a wrapper");
    let limit = ours::rate_limit_response::RateLimit {
        unit_multiplier: Some(9),
        ..Default::default()
    };
    assert_eq!(limit.encode_to_vec(), [0x22, 2, 8, 9], "field 4, a wrapper");
}

#[test]
fn enumerations_have_envoys_numbers() {
    use envoy_types::pb::envoy::r#type::v3::RateLimitUnit as TheirUnit;
    use ratekeeper::proto::envoy::r#type::v3::RateLimitUnit as OurUnit;
    use theirs::rate_limit_response as t;
    for number in 0..10 {
        let unit = |name: Option<&str>| name.map(str::to_owned);
        assert_eq!(
            unit(
                OurUnit::try_from(number)
                    .ok()
                    .map(|unit| unit.as_str_name())
            ),
            unit(
                TheirUnit::try_from(number)
                    .ok()
                    .map(|unit| unit.as_str_name())
            ),
        );
        assert_eq!(
            unit(
                ours::rate_limit_response::rate_limit::Unit::try_from(number)
                    .ok()
                    .map(|unit| unit.as_str_name())
            ),
            unit(
                t::rate_limit::Unit::try_from(number)
                    .ok()
                    .map(|unit| unit.as_str_name())
            ),
        );
        assert_eq!(
            unit(
                ours::rate_limit_response::Code::try_from(number)
                    .ok()
                    .map(|code| code.as_str_name())
            ),
            unit(
                t::Code::try_from(number)
                    .ok()
                    .map(|code| code.as_str_name())
            ),
        );
    }
}

#[test]
fn bytes_that_are_no_text_are_read_by_us_alone() {
    let request = ours::RateLimitRequest {
        descriptors: vec![our_common::RateLimitDescriptor {
            entries: vec![our_common::rate_limit_descriptor::Entry {
                key: "user".into(),
                value: b"\xfc\xe9".to_vec().into(),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let bytes = request.encode_to_vec();
    assert_eq!(ours::RateLimitRequest::decode(&*bytes).unwrap(), request);
    assert!(theirs::RateLimitRequest::decode(&*bytes).is_err());
}

#[test]
fn header_values_carry_all_three_fields() {
    let header = our_core::HeaderValue {
        key: "k".to_owned(),
        value: "v".to_owned(),
        raw_value: b"r".to_vec().into(),
    };
    let theirs: their_core::HeaderValue = across(&header);
    assert_eq!(
        (&*theirs.key, &*theirs.value, &*theirs.raw_value),
        ("k", "v", &b"r"[..])
    );
}
