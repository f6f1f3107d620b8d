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

#[test]
fn the_discovery_messages_come_back_whole() {
    use envoy_types::pb::{envoy::service::discovery::v3 as t, google::rpc as their_rpc};
    use ratekeeper::proto::{
        envoy::{config::core::v3::node::UserAgentVersionType, service::discovery::v3 as o},
        google::rpc,
    };
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let version = UserAgentVersionType::UserAgentVersion("version".to_owned());
    let request = o::DiscoveryRequest {
        version_info: "1".to_owned(),
        node: Some(our_core::Node {
            id: "id".to_owned(),
            metadata: Some(prost_types::Struct {
                fields: [("field".to_owned(), text("text"))].into(),
            }),
            user_agent_name: "name".to_owned(),
            user_agent_version_type: Some(version),
        }),
        resource_names: vec!["resource".to_owned()],
        type_url: "type".to_owned(),
        response_nonce: "nonce".to_owned(),
        error_detail: Some(rpc::Status {
            code: 3,
            message: "message".to_owned(),
        }),
    };
    let theirs: t::DiscoveryRequest = across(&request);
    assert_eq!(theirs.version_info, "1");
    assert_eq!(theirs.resource_names, ["resource"]);
    assert_eq!(
        (&*theirs.type_url, &*theirs.response_nonce),
        ("type", "nonce")
    );
    let error = their_rpc::Status {
        code: 3,
        message: "message".to_owned(),
        details: vec![],
    };
    assert_eq!(theirs.error_detail, Some(error));
    let node = theirs.node.as_ref().unwrap();
    assert_eq!((&*node.id, &*node.user_agent_name), ("id", "name"));
    assert_eq!(node.metadata.as_ref().unwrap().fields.len(), 1);
    assert!(node.user_agent_version_type.is_some());
    assert_eq!(across::<o::DiscoveryRequest>(&theirs), request);

    let response = t::DiscoveryResponse {
        version_info: "2".to_owned(),
        resources: vec![their_types::Any {
            type_url: "type".to_owned(),
            value: vec![0, 255],
        }],
        type_url: "types".to_owned(),
        nonce: "nonce".to_owned(),
        ..Default::default()
    };
    let read: o::DiscoveryResponse = across(&response);
    assert_eq!(read.resources[0].value, [0, 255]);
    assert_eq!(across::<t::DiscoveryResponse>(&read), response);
}

#[test]
fn rules_in_messages_come_back_whole() {
    use envoy_types::pb::ratelimit::config::ratelimit::v3 as t;
    use ratekeeper::proto::ratelimit::config::ratelimit::v3 as o;
    let text = |text: &str| their_types::Value {
        kind: Some(their_types::value::Kind::StringValue(text.to_owned())),
    };
    let below = t::RateLimitDescriptor {
        key: "below".to_owned(),
        shadow_mode: true,
        detailed_metric: true,
        quota_mode: true,
        metadata: Some(their_types::Struct {
            fields: [("field".to_owned(), text("text"))].into(),
        }),
        ..Default::default()
    };
    let config = t::RateLimitConfig {
        name: "name".to_owned(),
        domain: "domain".to_owned(),
        descriptors: vec![t::RateLimitDescriptor {
            key: "key".to_owned(),
            value: "value".to_owned(),
            rate_limit: Some(t::RateLimitPolicy {
                unit: 6,
                requests_per_unit: u32::MAX,
                unlimited: true,
                name: "limit".to_owned(),
                replaces: vec![t::RateLimitReplace {
                    name: "other".to_owned(),
                }],
            }),
            descriptors: vec![below],
            ..Default::default()
        }],
    };
    let read: o::RateLimitConfig = across(&config);
    assert_eq!(across::<t::RateLimitConfig>(&read), config);
    for number in 0..7 {
        assert_eq!(
            o::RateLimitUnit::try_from(number).unwrap().as_str_name(),
            t::RateLimitUnit::try_from(number).unwrap().as_str_name(),
        );
    }
    assert_eq!(o::RateLimitUnit::Week as i32, 7, "a week is newer");
}
