//! The one field of the answer that matters: `overall_code`.

/// What the server decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The request may pass.
    Ok,
    /// It may not.
    OverLimit,
}

/// The message is no answer: not protobuf, or without a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// A gRPC message, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// All of it, and nothing after it.
    Whole(&'a [u8]),
    /// Not all of it yet.
    Partial,
    /// Compressed, or something follows it, or longer than allowed.
    Bad,
}

/// The longest message that is accepted; only rare, split ones are kept at all.
const MAX_MESSAGE: usize = 1 << 20;

/// Takes gRPC's own header from the data of a stream.
pub(crate) fn message(data: &[u8]) -> Message<'_> {
    let Some((&[compressed, a, b, c, d], rest)) = data.split_first_chunk::<5>() else {
        return Message::Partial;
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > MAX_MESSAGE || rest.len() > length {
        Message::Bad
    } else if rest.len() < length {
        Message::Partial
    } else {
        Message::Whole(rest)
    }
}

/// Reads `overall_code`, field 1, which encoders write first.
pub(crate) fn answer(message: &[u8]) -> Result<Answer, NoAnswer> {
    let mut rest = message;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => {
                return match varint(&mut rest)? {
                    1 => Ok(Answer::Ok),
                    2 => Ok(Answer::OverLimit),
                    _ => Err(NoAnswer),
                };
            }
            (_, 0) => {
                varint(&mut rest)?;
            }
            (_, 1) => skip(&mut rest, 8)?,
            (_, 2) => {
                let length = varint(&mut rest)?;
                skip(&mut rest, length)?;
            }
            (_, 5) => skip(&mut rest, 4)?,
            _ => return Err(NoAnswer),
        }
    }
    // The default: unknown.
    Err(NoAnswer)
}

fn skip(rest: &mut &[u8], length: u64) -> Result<(), NoAnswer> {
    let length = usize::try_from(length).map_err(|_| NoAnswer)?;
    *rest = rest.get(length..).ok_or(NoAnswer)?;
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, NoAnswer> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(NoAnswer)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(NoAnswer)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::envoy::service::ratelimit::v3::{
        RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus},
    };

    #[test]
    fn reads_what_prost_writes() {
        for (code, expected) in [
            (Code::Unknown, Err(NoAnswer)),
            (Code::Ok, Ok(Answer::Ok)),
            (Code::OverLimit, Ok(Answer::OverLimit)),
        ] {
            let response = RateLimitResponse {
                overall_code: code.into(),
                statuses: vec![DescriptorStatus::default(); 3],
                raw_body: "body".into(),
                ..RateLimitResponse::default()
            };
            assert_eq!(answer(&response.encode_to_vec()), expected, "{code:?}");
        }
    }

    #[test]
    fn any_order_is_fine_and_malformed_messages_are_not() {
        for (bytes, expected) in [
            (&b"\x08\x01"[..], Ok(Answer::Ok)),
            (b"\x12\x02ab\x08\x02", Ok(Answer::OverLimit)),
            (
                b"\x11\0\0\0\0\0\0\0\0\x15\0\0\0\0\x10\x07\x08\x01",
                Ok(Answer::Ok),
            ),
            (b"", Err(NoAnswer)),
            (b"\x08", Err(NoAnswer)),
            (b"\x08\x03", Err(NoAnswer)),
            (b"\x12\x05ab", Err(NoAnswer)),
            (
                b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                Err(NoAnswer),
            ),
            (b"\x0b\x08\x01", Err(NoAnswer)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Err(NoAnswer),
            ),
        ] {
            assert_eq!(answer(bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn messages_have_their_own_header() {
        for (data, expected) in [
            (&b""[..], Message::Partial),
            (b"\0\0\0\0", Message::Partial),
            (b"\0\0\0\0\0", Message::Whole(b"")),
            (b"\0\0\0\0\x02ab", Message::Whole(b"ab")),
            (b"\0\0\0\0\x02a", Message::Partial),
            (b"\0\0\0\0\x02abc", Message::Bad),
            (b"\x01\0\0\0\x02ab", Message::Bad),
            (b"\0\xff\0\0\0ab", Message::Bad),
        ] {
            assert_eq!(message(data), expected, "{data:02x?}");
        }
    }
}
