//! As much of header compression (RFC 7541) as a client needs that sends
//! the same headers in every request and wants one number of the answer.
//!
//! Sending: the first request of a connection puts its headers into the
//! server's table, all others name them by number, seven bytes in all. That
//! is what Envoy does, so the server under load does the work it would do
//! for Envoy. Receiving: we announce a table of size 0, so that every block
//! stands for itself.

use super::frame::ProtocolError;

/// The method that is called.
const PATH: &[u8] = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const USER_AGENT: &[u8] = concat!("ratekeeper-load/", env!("CARGO_PKG_VERSION")).as_bytes();

/// Entries that the standard defines.
const STATIC_ENTRIES: usize = 61;
/// What the standard adds to an entry's name and value for its size.
const ENTRY_OVERHEAD: usize = 32;

/// The header blocks of a connection's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestBlocks {
    /// For the first request.
    pub(crate) first: Vec<u8>,
    /// For each later one.
    pub(crate) later: Vec<u8>,
    /// For all of them, when the server's table is too small.
    pub(crate) plain: Vec<u8>,
    /// The table size that `first` and `later` need.
    pub(crate) table_size: usize,
}

// === impl RequestBlocks ===

impl RequestBlocks {
    /// The blocks for requests to `authority`.
    pub(crate) fn new(authority: &str) -> Self {
        // Static index of the name (0: none has it), name, value.
        let fields: [(usize, &[u8], &[u8]); 5] = [
            (4, b":path", PATH),
            (1, b":authority", authority.as_bytes()),
            (0, b"te", b"trailers"),
            (31, b"content-type", b"application/grpc"),
            (58, b"user-agent", USER_AGENT),
        ];
        // `:method: POST` and `:scheme: http` are entries of the standard.
        let mut first = vec![0x83, 0x86];
        let mut later = first.clone();
        let mut plain = first.clone();
        let mut table_size = 0;
        for (at, (index, name, value)) in fields.into_iter().enumerate() {
            push_literal(&mut first, 0x40, 6, index, name, value);
            push_literal(&mut plain, 0, 4, index, name, value);
            // The newest entry has the lowest number.
            let number = STATIC_ENTRIES + fields.len() - at;
            push_integer(&mut later, 0x80, 7, number);
            table_size += name.len() + value.len() + ENTRY_OVERHEAD;
        }
        Self {
            first,
            later,
            plain,
            table_size,
        }
    }
}

fn push_literal(
    out: &mut Vec<u8>,
    form: u8,
    prefix_bits: u32,
    index: usize,
    name: &[u8],
    value: &[u8],
) {
    push_integer(out, form, prefix_bits, index);
    if index == 0 {
        push_text(out, name);
    }
    push_text(out, value);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    push_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits are masked")]
fn push_integer(out: &mut Vec<u8>, form: u8, prefix_bits: u32, value: usize) {
    let most = (1_usize << prefix_bits) - 1;
    if value < most {
        out.push(form | value as u8);
        return;
    }
    out.push(form | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

// === reading ===

/// `grpc-status` as written, and in the standard's Huffman code.
const GRPC_STATUS: [&[u8]; 2] = [b"grpc-status", b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f"];
/// `0` likewise.
const ZERO: [&[u8]; 2] = [b"0", b"\x07"];

/// Whether a header block has a `grpc-status`, and whether that is 0.
pub(crate) fn grpc_status_is_ok(block: &[u8]) -> Result<Option<bool>, ProtocolError> {
    let mut rest = block;
    let mut status = None;
    while let Some(&form) = rest.first() {
        match form {
            0x80.. => {
                check_index(take_integer(&mut rest, 7)?)?;
            }
            0x20..0x40 => {
                take_integer(&mut rest, 5)?;
            }
            _ => {
                let prefix_bits = if form >= 0x40 { 6 } else { 4 };
                let index = take_integer(&mut rest, prefix_bits)?;
                let is_status = if index == 0 {
                    take_text(&mut rest)?.is(GRPC_STATUS)
                } else {
                    check_index(index)?;
                    false
                };
                let value = take_text(&mut rest)?;
                if is_status {
                    status = Some(value.is(ZERO));
                }
            }
        }
    }
    Ok(status)
}

struct Text<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    fn is(&self, [plain, huffman]: [&[u8]; 2]) -> bool {
        self.bytes == if self.huffman { huffman } else { plain }
    }
}

fn check_index(index: usize) -> Result<(), ProtocolError> {
    match index {
        1..=STATIC_ENTRIES => Ok(()),
        _ => Err(ProtocolError(
            "a header refers to a table that we have switched off",
        )),
    }
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<Text<'a>, ProtocolError> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = take_integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(TRUNCATED)?;
    *rest = after;
    Ok(Text { huffman, bytes })
}

const TRUNCATED: ProtocolError = ProtocolError("a header block ends too early");

fn take_integer(rest: &mut &[u8], prefix_bits: u32) -> Result<usize, ProtocolError> {
    let mut next = || {
        let (&byte, after) = rest.split_first().ok_or(TRUNCATED)?;
        *rest = after;
        Ok::<_, ProtocolError>(usize::from(byte))
    };
    let most = (1_usize << prefix_bits) - 1;
    let mut value = next()? & most;
    if value < most {
        return Ok(value);
    }
    // Three more bytes reach 2 MiB, far beyond any block that we accept.
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtocolError("a number in a header block is too big"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_requests_are_seven_bytes() {
        let blocks = RequestBlocks::new("localhost:8081");
        assert_eq!(blocks.later, [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]);
        assert!(blocks.table_size < 4_096);
    }

    #[test]
    fn literals_carry_names_and_values() {
        let blocks = RequestBlocks::new("h");
        let after_path = 2 + 2 + PATH.len();
        assert_eq!(blocks.first[2..4], [0x44, 60]);
        assert_eq!(blocks.first[after_path..][..3], [0x41, 1, b'h']);
        assert_eq!(blocks.plain[2..4], [0x04, 60]);
        let tail = [&[0x0f, 0x2b, 21][..], USER_AGENT].concat();
        assert!(blocks.plain.ends_with(&tail));
        assert_eq!(grpc_status_is_ok(&blocks.plain), Ok(None));
    }

    #[test]
    fn integers_go_both_ways() {
        for prefix_bits in [4, 5, 6, 7] {
            for value in [
                0, 1, 14, 15, 16, 30, 31, 127, 128, 254, 1_337, 16_384, 2_000_000,
            ] {
                let mut bytes = vec![];
                push_integer(&mut bytes, 0, prefix_bits, value);
                let mut rest = &bytes[..];
                assert_eq!(take_integer(&mut rest, prefix_bits), Ok(value), "{value}");
                assert!(rest.is_empty(), "{value}");
            }
        }
    }

    #[test]
    fn the_status_is_found_in_any_form() {
        const HUFFMAN: &[u8] = GRPC_STATUS[1];
        let literal = |form: u8, name: &[u8], huffman: bool, value: &[u8]| {
            let mark = if huffman { 0x80 } else { 0 };
            let length = |text: &[u8]| u8::try_from(text.len()).unwrap() | mark;
            [&[form, length(name)], name, &[length(value)], value].concat()
        };
        for (block, expected) in [
            (vec![], None),
            (vec![0x88], None),
            (vec![0x20, 0x88], None),
            (literal(0, b"grpc-status", false, b"0"), Some(true)),
            (literal(0x10, b"grpc-status", false, b"0"), Some(true)),
            (literal(0x40, b"grpc-status", false, b"14"), Some(false)),
            (literal(0x40, HUFFMAN, true, &[0x07]), Some(true)),
            (literal(0x40, HUFFMAN, true, &[0x0f]), Some(false)),
            (literal(0x40, b"grpc-message", false, b"0"), None),
            (
                [vec![0x88], literal(0, b"grpc-status", false, b"2")].concat(),
                Some(false),
            ),
            // `content-type: x`, its name by number.
            (
                [
                    &[0x5f, 1, b'x'][..],
                    &literal(0, b"grpc-status", false, b"0"),
                ]
                .concat(),
                Some(true),
            ),
        ] {
            assert_eq!(grpc_status_is_ok(&block), Ok(expected), "{block:02x?}");
        }
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for block in [
            &[0x40][..],
            &[0x40, 3, b'a'],
            &[0x40, 1, b'a'],
            &[0x40, 1, b'a', 0x85],
            &[0x80],
            &[0xbe],
            &[0x7e, 1, b'a'],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0x3f],
        ] {
            assert!(grpc_status_is_ok(block).is_err(), "{block:02x?}");
        }
    }
}
