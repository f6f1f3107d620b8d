//! What is asked: descriptor templates, and their frames with blanks for
//! what differs from call to call (the stream and the key's number).

use std::{fmt, str::FromStr};

use prost::Message as _;
use thiserror::Error;

use super::{
    frame::{self, flag, kind},
    hpack::RequestBlocks,
};
use crate::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::RateLimitRequest,
};

/// What stands for the key's number in a template.
const PLACEHOLDER: &str = "{key}";

/// A gRPC message's own header: a flag and four bytes of length.
const PREFIX_LEN: usize = 5;

/// One descriptor, written `key=value,key=value`; `{key}` stands for the
/// number of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorTemplate(Vec<(String, String)>);

/// The text is no descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an entry without a key; a descriptor is written key=value,key=value")]
pub struct NotADescriptor;

/// The request does not fit into one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request has {0} bytes, more than the {max} that fit into one frame", max = frame::MAX_PAYLOAD - PREFIX_LEN)]
pub struct TooBig(usize);

/// A request with a blank for the key's number, which is always written
/// with the same number of digits.
#[derive(Clone, Debug)]
pub struct RequestTemplate {
    domain: String,
    descriptors: Vec<DescriptorTemplate>,
    hits: u32,
    digits: usize,
}

/// The frames of one request: HEADERS, and DATA that ends the stream.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Where each frame has its stream.
    stream_at: [usize; 2],
    /// Where the digits are, most significant first, again and again.
    digits_at: Vec<usize>,
    digits: usize,
}

/// The frames of all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// For the first request.
    pub(crate) first: Frames,
    /// For each later one.
    pub(crate) later: Frames,
    /// For all of them, when the server's header table is too small.
    pub(crate) plain: Frames,
    /// The header table that `first` and `later` need.
    pub(crate) table_size: usize,
    /// What one request takes from the server's flow-control window.
    pub(crate) data_len: usize,
}

// === impl DescriptorTemplate ===

impl FromStr for DescriptorTemplate {
    type Err = NotADescriptor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            match key {
                "" => Err(NotADescriptor),
                _ => Ok((key.to_owned(), value.to_owned())),
            }
        });
        Ok(Self(entries.collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for DescriptorTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

// === impl RequestTemplate ===

impl RequestTemplate {
    /// A template for keys numbered from 0 up to `keys`; `hits` of 0 leaves
    /// the number of hits to the server (which takes it for 1).
    #[must_use]
    pub fn new(domain: &str, descriptors: &[DescriptorTemplate], hits: u32, keys: u64) -> Self {
        Self {
            domain: domain.to_owned(),
            descriptors: descriptors.to_vec(),
            hits,
            digits: keys.saturating_sub(1).to_string().len(),
        }
    }

    /// The domain that is asked for.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The request for one key.
    #[must_use]
    pub fn request(&self, key: u64) -> RateLimitRequest {
        let number = format!("{key:0width$}", width = self.digits);
        let fill = |text: &str| text.replace(PLACEHOLDER, &number).into_bytes().into();
        let descriptor = |template: &DescriptorTemplate| RateLimitDescriptor {
            entries: template
                .0
                .iter()
                .map(|(key, value)| Entry {
                    key: fill(key),
                    value: fill(value),
                })
                .collect(),
            ..RateLimitDescriptor::default()
        };
        RateLimitRequest {
            domain: self.domain.clone(),
            descriptors: self.descriptors.iter().map(descriptor).collect(),
            hits_addend: self.hits,
        }
    }

    /// The frames of requests to `authority`.
    pub(crate) fn frames(&self, authority: &str) -> Result<Template, TooBig> {
        let message = self.request(0).encode_to_vec();
        let data_len = message.len() + PREFIX_LEN;
        if data_len > frame::MAX_PAYLOAD {
            return Err(TooBig(message.len()));
        }
        let digits_at = self.digits_at(&message);
        let blocks = RequestBlocks::new(authority);
        let frames = |block: &[u8]| Frames::new(block, &message, &digits_at, self.digits);
        Ok(Template {
            first: frames(&blocks.first),
            later: frames(&blocks.later),
            plain: frames(&blocks.plain),
            table_size: blocks.table_size,
            data_len,
        })
    }

    /// Where a key's digits are in its encoded request: where the requests
    /// of two keys without a common digit differ.
    fn digits_at(&self, zeros: &[u8]) -> Vec<usize> {
        let ones = u64::from_str(&"1".repeat(self.digits)).unwrap_or_default();
        let ones = self.request(ones).encode_to_vec();
        let differ = zeros.iter().zip(&ones).enumerate();
        differ
            .filter(|(_, (zero, one))| zero != one)
            .map(|(at, _)| at)
            .collect()
    }
}

// === impl Frames ===

impl Frames {
    fn new(block: &[u8], message: &[u8], digits_at: &[usize], digits: usize) -> Self {
        let mut bytes = vec![];
        frame::write_header(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 0);
        bytes.extend_from_slice(block);
        let data_at = bytes.len();
        let data_len = PREFIX_LEN + message.len();
        frame::write_header(&mut bytes, data_len, kind::DATA, flag::END_STREAM, 0);
        bytes.push(0);
        // Checked to fit into a frame, thus into four bytes.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        let message_at = bytes.len();
        bytes.extend_from_slice(message);
        Self {
            bytes,
            stream_at: [5, data_at + 5],
            digits_at: digits_at.iter().map(|at| message_at + at).collect(),
            digits,
        }
    }

    /// Appends the request for `key` on `stream`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, stream: u32, mut key: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frames = &mut out[start..];
        for at in self.stream_at {
            frames[at..at + 4].copy_from_slice(&stream.to_be_bytes());
        }
        let mut number = [b'0'; 20];
        for digit in number[..self.digits].iter_mut().rev() {
            *digit += (key % 10) as u8;
            key /= 10;
        }
        let digits = number[..self.digits].iter().cycle();
        for (at, digit) in self.digits_at.iter().zip(digits) {
            frames[*at] = *digit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::frame::Frame;

    fn template(descriptors: &[&str], keys: u64) -> RequestTemplate {
        let descriptors: Vec<_> = descriptors.iter().map(|d| d.parse().unwrap()).collect();
        RequestTemplate::new("d", &descriptors, 3, keys)
    }

    #[test]
    fn descriptors_are_read_and_written() {
        for (text, expected) in [
            ("k=v", Some("k=v")),
            ("k", Some("k=")),
            ("k=a=b,l={key}", Some("k=a=b,l={key}")),
            ("", None),
            ("=v", None),
            ("k=v,", None),
        ] {
            let read = text.parse::<DescriptorTemplate>();
            assert_eq!(
                read.ok().map(|d| d.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn frames_hold_the_request_of_their_key() {
        for (descriptors, keys) in [
            (&["user={key}"][..], 1),
            (&["user={key}"], 10),
            (&["user={key}"], 11),
            (&["a=1,{key}={key}x{key}", "b={key}"], 1_000_000),
            (&["fixed=1"], 1_000),
            (&["user={key}"], u64::MAX),
        ] {
            let template = template(descriptors, keys);
            let frames = template.frames("h").unwrap();
            for key in [0, 1, 7, keys / 2, keys - 1] {
                let key = key.min(keys - 1);
                let mut bytes = b"before".to_vec();
                frames.later.write(&mut bytes, 0x0102_0305, key);
                let (headers, length) = Frame::parse(&bytes[6..]).unwrap().unwrap();
                let (data, _) = Frame::parse(&bytes[6 + length..]).unwrap().unwrap();
                assert_eq!((headers.stream, data.stream), (0x0102_0305, 0x0102_0305));
                assert_eq!(data.payload.len(), frames.data_len);
                let sent = RateLimitRequest::decode(&data.payload[PREFIX_LEN..]).unwrap();
                assert_eq!(sent, template.request(key), "{descriptors:?} {key}");
            }
        }
    }

    #[test]
    fn numbers_have_one_width() {
        let request = template(&["user=u{key}"], 1_000).request(7);
        assert_eq!(&request.descriptors[0].entries[0].value[..], b"u007");
        assert_eq!(request.hits_addend, 3);
    }

    #[test]
    fn a_request_must_fit_into_a_frame() {
        let long = format!("k={}", "x".repeat(frame::MAX_PAYLOAD));
        assert!(template(&[&long], 1).frames("h").is_err());
    }
}
