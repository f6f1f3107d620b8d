//! A counter's key in Redis: which window of which counter.
//!
//! Canonical: `<prefix>rk:<domain>` and each entry, every text with its
//! length before it, then the window's length and start in seconds. For
//! domain `api`, entry `path`=`/v1`, 60 seconds:
//! `rk:3:api,4:path=3:/v1@60:1795320000`. No two counters share a key,
//! whatever bytes clients send.
//!
//! Reference: what envoyproxy/ratelimit writes, `<prefix>api_path_/v1_1795320000`,
//! so that both can count together in one Redis. Different counters can meet
//! there (`a`=`b_c` and `a_b`=`c`), as they do in the reference.

use std::io::Write as _;

use crate::engine::{
    key::{CounterKey, HashSeed},
    time::Timestamp,
};

/// How keys are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Ours: no two counters share a key.
    #[default]
    Canonical,
    /// Exactly the reference's.
    Reference,
}

/// Writes keys.
#[derive(Clone, Debug)]
pub struct Keys {
    format: Format,
    prefix: Box<[u8]>,
    seed: HashSeed,
}

// === impl Keys ===

impl Keys {
    /// `prefix` stands before every key. `seed` should be random.
    #[must_use]
    pub fn new(format: Format, prefix: &str, seed: HashSeed) -> Self {
        Self {
            format,
            prefix: prefix.as_bytes().into(),
            seed,
        }
    }

    /// How keys are written.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Puts the key of the window of `now` into `out`, instead of what is
    /// there; says when the window ends.
    pub(super) fn write(
        &self,
        key: &CounterKey<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Timestamp {
        let start = key.window.start(now);
        out.clear();
        out.extend_from_slice(&self.prefix);
        // The reference knows no two windows of one rule, and no calendar.
        let ours = key.several || key.window.calendar().is_some();
        match self.format {
            Format::Reference if ours => write_canonical(key, start, out),
            Format::Canonical => write_canonical(key, start, out),
            Format::Reference => write_reference(key, start, out),
        }
        key.window.end(now)
    }

    /// Puts the key of a counter that is more than a plain fixed window into
    /// `out`, instead of what is there. It is the canonical one in every
    /// format, without a window's start: `rk:3:api,4:path=3:/v1@60#b`.
    pub(super) fn write_special(&self, key: &CounterKey<'_>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.prefix);
        write_counter(key, out);
        out.extend_from_slice(&[b'#', key.kind]);
    }

    /// 128 bits that stand for `key` within this process.
    pub(super) fn hash(&self, key: &[u8]) -> u128 {
        self.seed.hash(key)
    }
}

/// 128 bits that stand for a value in every process; nobody can search for two
/// that have the same.
pub(super) fn value(value: &[u8]) -> [u8; 16] {
    let digest = ring::digest::digest(&ring::digest::SHA256, value);
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *byte = *from;
    }
    bytes
}

fn write_canonical(key: &CounterKey<'_>, start: u64, out: &mut Vec<u8>) {
    write_counter(key, out);
    out.push(b':');
    push_number(out, start);
}

fn write_counter(key: &CounterKey<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"rk:");
    push_text(out, key.domain);
    key.for_each_entry(|name, value| {
        out.push(b',');
        push_text(out, name);
        out.push(b'=');
        push_text(out, value);
    });
    out.push(b'@');
    push_number(out, key.window.seconds());
    if let Some(calendar) = key.window.calendar() {
        out.push(b'/');
        out.extend_from_slice(calendar.to_string().as_bytes());
    }
}

fn write_reference(key: &CounterKey<'_>, start: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.domain);
    out.push(b'_');
    key.for_each_entry(|name, value| {
        out.extend_from_slice(name);
        out.push(b'_');
        out.extend_from_slice(value);
        out.push(b'_');
    });
    push_number(out, start);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    push_number(out, text.len() as u64);
    out.push(b':');
    out.extend_from_slice(text);
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    write!(out, "{number}").expect("a Vec takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        descriptor::Entry,
        limit::{Unit, Window},
    };

    const AT: Timestamp = Timestamp::from_secs(1_795_321_234);

    fn written(format: Format, prefix: &str, entries: &[(&[u8], &[u8])], unit: Unit) -> Vec<u8> {
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|&(key, value)| Entry { key, value })
            .collect();
        let key = CounterKey {
            domain: b"d",
            entries: &entries,
            shared: None,
            window: Window::of(unit),
            kind: 0,
            last: None,
            several: false,
        };
        let mut out = b"left over".to_vec();
        Keys::new(format, prefix, HashSeed(1, 2)).write(&key, AT, &mut out);
        out
    }

    type Entries<'a> = &'a [(&'a [u8], &'a [u8])];

    #[test]
    fn are_the_references_byte_for_byte() {
        let cases: [(&str, Entries<'_>, &[u8]); 4] = [
            ("", &[(b"k", b"v"), (b"s", b"t")], b"d_k_v_s_t_1795320000"),
            ("", &[(b"k", b"")], b"d_k__1795320000"),
            ("p:", &[(b"k", b"\xff\n")], b"p:d_k_\xff\n_1795320000"),
            ("", &[], b"d_1795320000"),
        ];
        for (prefix, entries, expected) in cases {
            let key = written(Format::Reference, prefix, entries, Unit::Hour);
            assert_eq!(key, expected, "{}", String::from_utf8_lossy(&key));
        }
    }

    #[test]
    fn canonical_ones_never_meet() {
        let one = |entries: Entries<'_>, unit| {
            String::from_utf8(written(Format::Canonical, "", entries, unit)).expect("text")
        };
        let keys = [
            one(&[(b"a", b"b_c")], Unit::Hour),
            one(&[(b"a_b", b"c")], Unit::Hour),
            one(&[(b"a", b"b"), (b"c", b"")], Unit::Hour),
            one(&[(b"a", b"b,1:c=0:")], Unit::Hour),
            one(&[(b"a", b"b_c")], Unit::Day),
            one(&[], Unit::Hour),
        ];
        assert_eq!(keys[0], "rk:1:d,1:a=3:b_c@3600:1795320000");
        let different: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn say_when_their_window_ends() {
        let key = CounterKey {
            domain: b"d",
            entries: &[],
            shared: None,
            window: Window::of(Unit::Hour),
            kind: 0,
            last: None,
            several: false,
        };
        let keys = Keys::new(Format::Canonical, "", HashSeed(1, 2));
        let end = keys.write(&key, AT, &mut vec![]);
        assert_eq!(end, Timestamp::from_secs(1_795_323_600));
    }
}
