//! The protobuf encoding, as far as the hot path needs it: reading fields in
//! place, writing small messages.

use std::fmt;

use bytes::{BufMut as _, BytesMut};
use smallvec::SmallVec;

/// Bytes that are no protobuf message, or not of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end within a field.
    Truncated,
    /// A varint has more than ten bytes.
    Varint,
    /// A field has no number, or an encoding that does not exist.
    Tag,
    /// A field has another encoding than its type asks for.
    WrongType,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-size number or a group: none of our fields is one.
    Other,
}

/// Walks the fields of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// How deep groups (long deprecated) may nest in what is skipped.
const MAX_GROUPS: u32 = 32;

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's number and value; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        let value = match kind {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                Value::Bytes(self.take(len)?)
            }
            _ => {
                self.skip(number, kind)?;
                Value::Other
            }
        };
        Ok(Some((number, value)))
    }

    fn tag(&mut self) -> Result<(u64, u64), Malformed> {
        let tag = self.varint()?;
        match (tag >> 3, tag & 7) {
            (number @ 1..0x2000_0000, kind @ 0..=5) => Ok((number, kind)),
            _ => Err(Malformed::Tag),
        }
    }

    /// Skips a fixed-size number or a group.
    fn skip(&mut self, number: u64, kind: u64) -> Result<(), Malformed> {
        match kind {
            1 => self.take(8).map(drop),
            5 => self.take(4).map(drop),
            3 => self.skip_group(number),
            _ => Err(Malformed::Tag),
        }
    }

    fn skip_group(&mut self, number: u64) -> Result<(), Malformed> {
        let mut open: SmallVec<[u64; MAX_GROUPS as usize]> = SmallVec::new();
        open.push(number);
        while let Some(&innermost) = open.last() {
            match self.tag()? {
                (number, 4) if number == innermost => drop(open.pop()),
                (number, 3) if open.len() < MAX_GROUPS as usize => open.push(number),
                (_, 3 | 4) => return Err(Malformed::Tag),
                (_, 0) => drop(self.varint()?),
                (_, 2) => {
                    let len = self.varint()?;
                    self.take(usize::try_from(len).map_err(|_| Malformed::Truncated)?)?;
                }
                (number, kind) => self.skip(number, kind)?,
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte holds the 64th bit only.
            if at == 9 && byte > 1 {
                return Err(Malformed::Varint);
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            Malformed::Truncated
        } else {
            Malformed::Varint
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

// === impl Value ===

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a number too large for its field loses its high bits: protobuf's rule"
)]
impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::WrongType),
        }
    }

    pub(crate) fn uint64(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed::WrongType),
        }
    }

    pub(crate) fn uint32(self) -> Result<u32, Malformed> {
        self.uint64().map(|value| value as u32)
    }

    pub(crate) fn int32(self) -> Result<i32, Malformed> {
        self.uint64().map(|value| value as i32)
    }
}

// === impl Malformed ===

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it ends within a field",
            Self::Varint => "a number is longer than 64 bits",
            Self::Tag => "a field has an impossible tag",
            Self::WrongType => "a field has the wrong type",
        })
    }
}

impl std::error::Error for Malformed {}

// === writing ===

/// A number; the default, 0, is not written.
pub(crate) fn put_uint(out: &mut BytesMut, number: u8, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, value);
    }
}

/// Text or bytes.
pub(crate) fn put_bytes(out: &mut BytesMut, number: u8, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

/// A message within a message: written in place, its length filled in after.
pub(crate) fn put_message(out: &mut BytesMut, number: u8, write: impl FnOnce(&mut BytesMut)) {
    put_varint(out, u64::from(number) << 3 | 2);
    let at = out.len();
    out.put_u8(0);
    write(out);
    let len = out.len() - at - 1;
    match u8::try_from(len) {
        Ok(short @ 0..0x80) => out[at] = short,
        _ => make_room(out, at, len),
    }
}

/// Puts a length that needs more than the one byte kept for it.
fn make_room(out: &mut BytesMut, at: usize, len: usize) {
    let mut prefix = BytesMut::new();
    put_varint(&mut prefix, len as u64);
    let body = at + prefix.len();
    out.resize(body + len, 0);
    out.copy_within(at + 1..at + 1 + len, body);
    out[at..body].copy_from_slice(&prefix);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "less than 0x80")]
    out.put_u8(value as u8);
}
