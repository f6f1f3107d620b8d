//! Descriptors as test files write them: the syntax of `tests/cases`.

use crate::{
    config::yaml::{Node, Value},
    engine::limit::Unit,
    proto::envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        service::ratelimit::v3::rate_limit_response::rate_limit,
    },
};

use super::reader::Reader;

/// Bytes that a repeated text may come to.
const MOST_BYTES: usize = 1 << 20;

/// A limit, its number taken apart from its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrittenLimit {
    pub(super) requests: u32,
    pub(super) unit: Unit,
    pub(super) multiplier: u32,
}

/// Reads one descriptor or a list of them.
pub(super) fn descriptors(
    node: &Node<'_>,
    reader: &mut Reader<'_, '_>,
) -> Option<Vec<RateLimitDescriptor>> {
    let Value::List(_) = node.value() else {
        return Some(vec![descriptor(node, reader)?]);
    };
    let elements = reader.list(node, "ask");
    let descriptors = elements.iter().map(|element| descriptor(element, reader));
    let descriptors: Vec<_> = descriptors.collect();
    descriptors.into_iter().collect()
}

fn descriptor(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<RateLimitDescriptor> {
    let Value::Map(_) = node.value() else {
        return Some(RateLimitDescriptor {
            entries: pairs(node, reader)?,
            ..RateLimitDescriptor::default()
        });
    };
    let known = ["of", "entries", "limit", "hits", "negative"];
    let fields = reader.fields(node, "a descriptor", &known)?;
    let entries = match (fields.get("of"), fields.get("entries")) {
        (Some(of), None) => pairs(of, reader),
        (None, Some(entries)) => entry_list(entries, reader),
        _ => {
            let hint = "of: key=value,key=value, or entries: [[key, value], [key, value]]";
            let message = "a descriptor has either `of` or `entries`";
            reader.mistake(node.at, message, Some(hint.to_owned()));
            None
        }
    };
    // What is wrong has been reported and is as good as left out.
    let limit = fields.get("limit");
    let hits = fields.get("hits");
    let negative = fields.get("negative");
    Some(RateLimitDescriptor {
        entries: entries.unwrap_or_default(),
        limit: limit.and_then(|it| override_of(it, reader)),
        hits_addend: hits.and_then(|it| reader.whole(it, "hits", 0)),
        is_negative_hits: negative.is_some_and(|it| reader.flag(it, "negative") == Some(true)),
    })
}

/// `key=value,key=value`; the empty text has no entries.
fn pairs(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Vec<Entry>> {
    let text = reader.text(node, "a descriptor")?;
    if text.is_empty() {
        return Some(vec![]);
    }
    let pairs = text.split(',').map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some(entry(key.as_bytes(), value.as_bytes()))
    });
    let entries = pairs.collect::<Option<_>>();
    if entries.is_none() {
        reader.invalid(node, "a descriptor", "key=value,key=value");
    }
    entries
}

fn entry(key: &[u8], value: &[u8]) -> Entry {
    Entry {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
    }
}

/// `[[key, value], [key, value]]`.
fn entry_list(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Vec<Entry>> {
    let mut entries = vec![];
    for element in reader.list(node, "entries") {
        let Value::List([key, value]) = element.value() else {
            reader.invalid(element, "an entry", "[key, value]");
            return None;
        };
        entries.push(entry(&bytes(key, reader)?, &bytes(value, reader)?));
    }
    (!entries.is_empty()).then_some(entries)
}

/// A text, `{hex: fce9}`, or `{text: ab, times: 1000}`.
fn bytes(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Vec<u8>> {
    let Value::Map(_) = node.value() else {
        return Some(reader.text(node, "a key or value")?.as_bytes().to_vec());
    };
    let fields = reader.fields(node, "a key or value", &["hex", "text", "times"])?;
    match (fields.get("hex"), fields.get("text"), fields.get("times")) {
        (Some(hex), None, None) => {
            let bytes = unhex(reader.text(hex, "hex")?);
            if bytes.is_none() {
                reader.invalid(hex, "hex", "two hexadecimal digits for each byte");
            }
            bytes
        }
        (None, Some(text), Some(times)) => {
            let text = reader.text(text, "text")?;
            let count: usize = reader.whole(times, "times", 0)?;
            if text.len().saturating_mul(count) > MOST_BYTES {
                reader.invalid(times, "times", "so many that it comes to 1 MiB at most");
                return None;
            }
            Some(text.repeat(count).into_bytes())
        }
        _ => {
            reader.invalid(
                node,
                "a key or value",
                "text, {hex: fce9} or {text: ab, times: 10}",
            );
            None
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    bytes.collect()
}

fn override_of(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<RateLimitOverride> {
    let limit = WrittenLimit::read(reader.text(node, "limit")?);
    let Some(limit) = limit else {
        reader.invalid(node, "limit", WrittenLimit::FORMS);
        return None;
    };
    let name = limit.unit.name().to_ascii_uppercase();
    Some(RateLimitOverride {
        requests_per_unit: limit.requests,
        unit: rate_limit::Unit::from_str_name(&name)?.into(),
        unit_multiplier: (limit.multiplier != 1).then_some(limit.multiplier),
    })
}

// === impl WrittenLimit ===

impl WrittenLimit {
    /// What it looks like.
    pub(super) const FORMS: &str = "`10 per hour`, `10/hour` or `10 per 5 minutes`";

    /// Reads `10 per hour`, `10/hour`, `10/5 minutes`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (requests, window) = text.split_once('/').or_else(|| text.split_once(" per "))?;
        let window = window.trim();
        let (multiplier, name) = match window.split_once(' ') {
            Some((multiplier, name)) => (multiplier.parse().ok()?, name.trim()),
            None => (1, window),
        };
        let unit = Unit::from_name(name).or_else(|| Unit::from_name(name.strip_suffix('s')?))?;
        Some(Self {
            requests: requests.trim().parse().ok()?,
            unit,
            multiplier,
        })
        .filter(|limit| limit.multiplier > 0)
    }
}

/// As answers are shown: `10 per 5 minutes`.
impl std::fmt::Display for WrittenLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.multiplier {
            1 => write!(f, "{} per {}", self.requests, self.unit),
            n => write!(f, "{} per {n} {}s", self.requests, self.unit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        for (text, expected) in [
            ("10 per hour", Some("10 per hour")),
            ("10/hour", Some("10 per hour")),
            ("10/Hour", Some("10 per hour")),
            ("10/5 minutes", Some("10 per 5 minutes")),
            ("10 per 5 minutes", Some("10 per 5 minutes")),
            ("10 per 1 week", Some("10 per week")),
            ("0/second", Some("0 per second")),
            ("4294967296/second", None),
            ("10 per fortnight", None),
            ("10 per 0 hours", None),
            ("10", None),
            ("per hour", None),
            ("-1/hour", None),
        ] {
            let read = WrittenLimit::read(text).map(|limit| limit.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_read() {
        for (text, expected) in [
            ("fce9", Some(vec![0xfc, 0xe9])),
            ("", Some(vec![])),
            ("f", None),
            ("+1", None),
            ("é", None),
        ] {
            assert_eq!(unhex(text), expected, "{text}");
        }
    }
}
