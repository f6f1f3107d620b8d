//! HTTP/2 frames: reading them from a buffer, writing the few that a client
//! needs (RFC 9113).

use thiserror::Error;

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of every frame's header.
pub(crate) const HEADER_LEN: usize = 9;

/// The longest payload that the peer may send: we never announce more than
/// the default.
pub(crate) const MAX_PAYLOAD: usize = 16_384;

/// Frame types.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub(crate) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings by number.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// The server broke HTTP/2, or used a part of it that we refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server does not speak HTTP/2 as expected: {0}")]
pub struct ProtocolError(pub(crate) &'static str);

/// One frame, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

// === impl Frame ===

impl<'a> Frame<'a> {
    /// The first frame in `bytes` and its whole length; `None` until all of
    /// it is there.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if length > MAX_PAYLOAD {
            return Err(ProtocolError("a frame is longer than allowed"));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            payload,
        };
        Ok(Some((frame, HEADER_LEN + length)))
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA, without padding.
    pub(crate) fn data(&self) -> Result<&'a [u8], ProtocolError> {
        if !self.has(flag::PADDED) {
            return Ok(self.payload);
        }
        self.payload
            .split_first()
            .and_then(|(&padding, rest)| {
                let end = rest.len().checked_sub(usize::from(padding))?;
                rest.get(..end)
            })
            .ok_or(ProtocolError("padding is longer than its frame"))
    }

    /// The header block fragment of HEADERS, without padding and priority.
    pub(crate) fn header_fragment(&self) -> Result<&'a [u8], ProtocolError> {
        let block = self.data()?;
        if !self.has(flag::PRIORITY) {
            return Ok(block);
        }
        block
            .get(5..)
            .ok_or(ProtocolError("a HEADERS frame is too short"))
    }

    /// The four bytes that are the payload of RST_STREAM and WINDOW_UPDATE.
    pub(crate) fn word(&self) -> Result<u32, ProtocolError> {
        let word = self.payload.try_into();
        word.map(u32::from_be_bytes)
            .map_err(|_| ProtocolError("a frame has the wrong length for its type"))
    }

    /// The last stream and the error code of GOAWAY.
    pub(crate) fn goaway(&self) -> Result<(u32, u32), ProtocolError> {
        match self.payload.first_chunk::<8>() {
            Some(&[a, b, c, d, e, f, g, h]) => Ok((
                u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff,
                u32::from_be_bytes([e, f, g, h]),
            )),
            None => Err(ProtocolError("a GOAWAY frame is too short")),
        }
    }

    /// The pairs of SETTINGS.
    pub(crate) fn settings(&self) -> Result<impl Iterator<Item = (u16, u32)>, ProtocolError> {
        let (pairs, rest) = self.payload.as_chunks::<6>();
        if self.stream != 0 || !rest.is_empty() {
            return Err(ProtocolError("a SETTINGS frame is malformed"));
        }
        Ok(pairs.iter().map(|&[a, b, c, d, e, f]| {
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        }))
    }
}

// === writing ===

/// Appends a frame's header. Payloads that we write are far below 2²⁴ bytes.
pub(crate) fn write_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, l0, l1, l2] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends a SETTINGS frame.
pub(crate) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    write_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the acknowledgement of SETTINGS.
pub(crate) fn write_settings_ack(out: &mut Vec<u8>) {
    write_header(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// Appends the answer to PING.
pub(crate) fn write_ping_ack(out: &mut Vec<u8>, payload: &[u8]) {
    write_header(out, payload.len(), kind::PING, flag::ACK, 0);
    out.extend_from_slice(payload);
}

/// Appends a WINDOW_UPDATE for the connection.
pub(crate) fn write_window_update(out: &mut Vec<u8>, increment: u32) {
    write_header(out, 4, kind::WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&increment.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        write_header(&mut bytes, payload.len(), kind, flags, stream);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_frame_is_read_once_all_of_it_is_there() {
        let mut bytes = frame(kind::DATA, flag::END_STREAM, 5, b"hello");
        let whole = bytes.len();
        for cut in 0..whole {
            assert_eq!(Frame::parse(&bytes[..cut]), Ok(None), "{cut} bytes");
        }
        bytes.extend_from_slice(b"more");
        let (read, length) = Frame::parse(&bytes).unwrap().unwrap();
        assert_eq!(length, whole);
        assert_eq!(
            (read.kind, read.flags, read.stream, read.payload),
            (kind::DATA, flag::END_STREAM, 5, &b"hello"[..])
        );
    }

    #[test]
    fn the_reserved_bit_of_a_stream_is_ignored() {
        let bytes = frame(kind::DATA, 0, 0x8000_0001, b"");
        assert_eq!(Frame::parse(&bytes).unwrap().unwrap().0.stream, 1);
    }

    #[test]
    fn a_frame_beyond_the_announced_size_is_refused() {
        for (length, refused) in [
            (MAX_PAYLOAD, false),
            (MAX_PAYLOAD + 1, true),
            (0xff_ffff, true),
        ] {
            let mut bytes = vec![];
            write_header(&mut bytes, length, kind::DATA, 0, 1);
            assert_eq!(Frame::parse(&bytes).is_err(), refused, "{length}");
        }
    }

    #[test]
    fn payloads_are_taken_apart_or_refused() {
        const PADDED: u8 = flag::PADDED;
        const BOTH: u8 = flag::PADDED | flag::PRIORITY;
        for (flags, payload, expected) in [
            (0, &b"ab"[..], Some(&b"ab"[..])),
            (PADDED, b"\x00ab", Some(b"ab")),
            (PADDED, b"\x02ab", Some(b"")),
            (PADDED, b"\x03ab", None),
            (PADDED, b"", None),
            (flag::PRIORITY, b"12345ab", Some(b"ab")),
            (flag::PRIORITY, b"1234", None),
            (BOTH, b"\x0112345ab", Some(b"a")),
            (BOTH, b"\x0312345ab", None),
        ] {
            let frame = Frame {
                kind: kind::HEADERS,
                flags,
                stream: 1,
                payload,
            };
            assert_eq!(
                frame.header_fragment().ok(),
                expected,
                "{flags:#x} {payload:?}"
            );
        }
    }

    #[test]
    fn fixed_payloads_must_have_their_length() {
        for (payload, word, goaway, settings) in [
            (&b""[..], None, None, Some(vec![])),
            (b"\0\0\x01", None, None, None),
            (b"\0\0\x01\0", Some(256), None, None),
            (b"\0\x03\0\0\0\x64", None, None, Some(vec![(3, 100)])),
            (b"\x80\0\0\x07\0\0\0\x0b", None, Some((7, 11)), None),
            (b"\0\0\0\x07\0\0\0\0because", None, Some((7, 0)), None),
        ] {
            let frame = Frame {
                kind: kind::SETTINGS,
                flags: 0,
                stream: 0,
                payload,
            };
            assert_eq!(frame.word().ok(), word, "{payload:?}");
            assert_eq!(frame.goaway().ok(), goaway, "{payload:?}");
            let read = frame.settings().ok().map(Iterator::collect::<Vec<_>>);
            assert_eq!(read, settings, "{payload:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = vec![];
        write_settings(&mut bytes, &[(setting::HEADER_TABLE_SIZE, 0)]);
        write_settings_ack(&mut bytes);
        write_ping_ack(&mut bytes, b"12345678");
        write_window_update(&mut bytes, 77);
        let mut rest = &bytes[..];
        let mut read = vec![];
        while let Some((frame, length)) = Frame::parse(rest).unwrap() {
            read.push((frame.kind, frame.flags, frame.payload.len()));
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        assert_eq!(
            read,
            [
                (kind::SETTINGS, 0, 6),
                (kind::SETTINGS, flag::ACK, 0),
                (kind::PING, flag::ACK, 8),
                (kind::WINDOW_UPDATE, 0, 4),
            ]
        );
    }
}
