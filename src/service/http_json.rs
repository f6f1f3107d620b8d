//! `/json`: protobuf's JSON form of request and answer.
//!
//! Field names are read in lowerCamelCase and in snake_case, 64-bit numbers
//! as numbers or text, and `null` as if left out. Unknown fields are errors,
//! as in the reference. Keys and values of entries are text.

use std::{fmt, marker::PhantomData};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use prost::Message as _;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value, json};

use super::{
    grpc::JsonAnswer,
    wire::{Asked, BadRequest, Bounds, Message, Override},
};
use crate::{
    engine::descriptor::Entry,
    proto::envoy::{
        config::core::v3::HeaderValue,
        service::ratelimit::v3::{
            RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        },
    },
};

/// Elements of a list that are read before anything else is checked.
const MOST_ELEMENTS: usize = 10_000;

/// A `RateLimitRequest` in JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub(crate) struct JsonRequest {
    #[serde(deserialize_with = "or_default")]
    domain: String,
    #[serde(deserialize_with = "list")]
    descriptors: Vec<Object<JsonDescriptor>>,
    #[serde(alias = "hits_addend", deserialize_with = "number_or_default")]
    hits_addend: Number<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct JsonDescriptor {
    #[serde(deserialize_with = "list")]
    entries: Vec<Object<JsonEntry>>,
    limit: Option<Object<JsonLimit>>,
    #[serde(alias = "hits_addend")]
    hits_addend: Option<Number<u64>>,
    #[serde(alias = "is_negative_hits", deserialize_with = "or_default")]
    is_negative_hits: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JsonEntry {
    #[serde(deserialize_with = "or_default")]
    key: String,
    #[serde(deserialize_with = "or_default")]
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct JsonLimit {
    #[serde(alias = "requests_per_unit", deserialize_with = "number_or_default")]
    requests_per_unit: Number<u32>,
    #[serde(deserialize_with = "unit")]
    unit: i32,
    #[serde(alias = "unit_multiplier")]
    unit_multiplier: Option<Number<u32>>,
}

/// A JSON object; serde's own structs would read lists, too.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

/// A whole number, written as a number or as text.
#[derive(Clone, Copy, Debug, Default)]
struct Number<T>(T);

// === impl JsonRequest ===

impl JsonRequest {
    /// The request as if it had come over gRPC.
    ///
    /// # Errors
    /// It asks too much.
    pub(crate) fn message(&self, bounds: &Bounds) -> Result<Message<'_>, BadRequest> {
        let mut message = Message::default();
        message.set_domain(self.domain.as_bytes(), bounds)?;
        message.set_hits_addend(self.hits_addend.0);
        for Object(descriptor) in &self.descriptors {
            for Object(entry) in &descriptor.entries {
                let entry = Entry {
                    key: entry.key.as_bytes(),
                    value: entry.value.as_bytes(),
                };
                message.push_entry(entry, bounds)?;
            }
            message.push_descriptor(descriptor.asked(), bounds)?;
        }
        Ok(message)
    }
}

impl JsonDescriptor {
    fn asked(&self) -> Asked {
        Asked {
            limit: self.limit.as_ref().map(|Object(limit)| Override {
                requests_per_unit: limit.requests_per_unit.0,
                unit: limit.unit,
                unit_multiplier: limit.unit_multiplier.unwrap_or_default().0,
            }),
            hits_addend: self.hits_addend.map(|number| number.0),
            is_negative_hits: self.is_negative_hits,
            ..Asked::default()
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        return deserializer.deserialize_map(Members(PhantomData));

        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
    }
}

/// `null` is a field's default.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn number_or_default<'de, D, T>(deserializer: D) -> Result<Number<T>, D::Error>
where
    D: Deserializer<'de>,
    Number<T>: Deserialize<'de> + Default,
{
    or_default(deserializer)
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = match &value {
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format!("{value} is not a number of this field's range"))
            })
    }
}

/// `1e3` and `5.0` are whole numbers, too.
fn whole(number: f64) -> Option<u64> {
    const TWO_TO_THE_53: f64 = 9_007_199_254_740_992.0;
    let is_whole = (0.0..=TWO_TO_THE_53).contains(&number) && number.fract() == 0.0;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "just checked"
    )]
    is_whole.then_some(number as u64)
}

/// A unit by name or by number.
fn unit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Null => Some(0),
        Value::String(name) => Unit::from_str_name(name).map(i32::from),
        Value::Number(number) => number.as_i64().and_then(|n| i32::try_from(n).ok()),
        _ => None,
    };
    number.ok_or_else(|| D::Error::invalid_value(Unexpected::Other("a unit"), &"SECOND … YEAR"))
}

/// A list whose length is bounded while it is read.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    return deserializer.deserialize_any(List(PhantomData));

    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST_ELEMENTS} elements")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(vec![])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut elements = vec![];
            while let Some(element) = seq.next_element()? {
                if elements.len() == MOST_ELEMENTS {
                    return Err(A::Error::invalid_length(MOST_ELEMENTS + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
}

// === answers ===

/// An encoded answer in JSON, and whether it refuses.
///
/// # Errors
/// The bytes are no answer.
pub(crate) fn response(encoded: &[u8]) -> Result<JsonAnswer, prost::DecodeError> {
    let response = RateLimitResponse::decode(encoded)?;
    let code = response.overall_code();
    let mut object = Map::new();
    set(&mut object, "overallCode", code_name(code));
    set(&mut object, "statuses", each(&response.statuses, status));
    let headers = &response.response_headers_to_add;
    set(&mut object, "responseHeadersToAdd", each(headers, header));
    if !response.raw_body.is_empty() {
        let body = BASE64.encode(&response.raw_body);
        object.insert("rawBody".to_owned(), body.into());
    }
    if let Some(metadata) = response.dynamic_metadata {
        object.insert("dynamicMetadata".to_owned(), structure(metadata));
    }
    Ok((Value::Object(object), code))
}

/// Fields with their default value are left out.
fn set(object: &mut Map<String, Value>, name: &str, value: Value) {
    let default = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(elements) => elements.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Object(_) => false,
    };
    if !default {
        object.insert(name.to_owned(), value);
    }
}

fn each<T>(list: &[T], convert: impl Fn(&T) -> Value) -> Value {
    list.iter().map(convert).collect()
}

fn code_name(code: Code) -> Value {
    match code {
        Code::Unknown => Value::Null,
        code => code.as_str_name().into(),
    }
}

fn status(status: &DescriptorStatus) -> Value {
    let mut object = Map::new();
    set(&mut object, "code", code_name(status.code()));
    let limit = status.current_limit.as_ref();
    set(
        &mut object,
        "currentLimit",
        limit.map_or(Value::Null, current_limit),
    );
    set(&mut object, "limitRemaining", status.limit_remaining.into());
    if let Some(duration) = &status.duration_until_reset {
        let text = format!("{}s", duration.seconds);
        set(&mut object, "durationUntilReset", text.into());
    }
    Value::Object(object)
}

fn current_limit(limit: &RateLimit) -> Value {
    let mut object = Map::new();
    set(
        &mut object,
        "requestsPerUnit",
        limit.requests_per_unit.into(),
    );
    set(&mut object, "unit", limit.unit().as_str_name().into());
    set(&mut object, "name", limit.name.clone().into());
    let multiplier = limit.unit_multiplier;
    set(
        &mut object,
        "unitMultiplier",
        multiplier.map_or(Value::Null, Value::from),
    );
    Value::Object(object)
}

fn header(header: &HeaderValue) -> Value {
    json!({ "key": header.key, "value": header.value })
}

fn structure(from: prost_types::Struct) -> Value {
    from.fields
        .into_iter()
        .map(|(name, value)| (name, plain(value)))
        .collect()
}

fn plain(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => plain_number(number),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(yes)) => yes.into(),
        Some(Kind::StructValue(fields)) => structure(fields),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(plain).collect(),
    }
}

/// A Struct's numbers are floats; whole ones are written without a point.
fn plain_number(number: f64) -> Value {
    match whole(number) {
        Some(whole) => whole.into(),
        None => number.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(json: &str) -> Result<Message<'static>, String> {
        let request: Object<JsonRequest> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let request: &'static JsonRequest = Box::leak(Box::new(request.0));
        request
            .message(&Bounds::default())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn both_spellings_and_forms_of_numbers_are_read() {
        let forms = [
            r#"{"domain":"d","hitsAddend":2,"descriptors":[{"entries":[{"key":"k","value":"v"}],
                "limit":{"requestsPerUnit":3,"unit":"HOUR","unitMultiplier":4},"hitsAddend":"5","isNegativeHits":true}]}"#,
            r#"{"domain":"d","hits_addend":"2","descriptors":[{"entries":[{"key":"k","value":"v"}],
                "limit":{"requests_per_unit":3.0,"unit":3,"unit_multiplier":"4"},"hits_addend":5,"is_negative_hits":true}]}"#,
        ];
        let read = forms.map(|form| format!("{:?}", reads(form).unwrap()));
        assert_eq!(read[0], read[1]);
        let bare = [
            r"{}",
            r#"{"domain":null,"descriptors":null,"hitsAddend":null}"#,
        ];
        for form in bare {
            assert_eq!(
                format!("{:?}", reads(form).unwrap()),
                format!("{:?}", Message::default())
            );
        }
    }

    #[test]
    fn what_the_reference_refuses_is_refused() {
        for bad in [
            "",
            "[]",
            r#"{"descriptors":[[]]}"#,
            "nonsense",
            r#"{"domain":1}"#,
            r#"{"unknown":1}"#,
            r#"{"hitsAddend":-1}"#,
            r#"{"hitsAddend":1.5}"#,
            r#"{"hitsAddend":4294967296}"#,
            r#"{"hitsAddend":"x"}"#,
            r#"{"descriptors":{}}"#,
            r#"{"descriptors":[{"entries":[{"key":"k","extra":1}]}]}"#,
            r#"{"descriptors":[{"limit":{"unit":"FORTNIGHT"}}]}"#,
            r#"{"descriptors":[{"hitsAddend":18446744073709551616}]}"#,
        ] {
            assert!(reads(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_bounded_while_reading() {
        let many = format!(r#"{{"descriptors":[{}{{}}]}}"#, "{},".repeat(MOST_ELEMENTS));
        assert!(reads(&many).unwrap_err().contains("10001"), "{many:.80}");
    }
}
