//! Counter keys: which requests count together.
//!
//! A counter belongs to a domain, a descriptor's entries and a window
//! length. The canonical form prefixes every part with its length, so no
//! two different counters share a key, whatever bytes clients send.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use smallvec::SmallVec;

use super::{
    descriptor::Entry,
    limit::Window,
    rules::{RuleId, RuleSet},
};

/// The identity of a counter, borrowed from request and rules.
#[derive(Clone, Copy, Debug)]
pub struct CounterKey<'a> {
    /// The request's domain.
    pub domain: &'a [u8],
    /// The descriptor's entries.
    pub entries: &'a [Entry<'a>],
    /// The rule, where it or one above it shares a counter between values.
    pub shared: Option<(&'a RuleSet, RuleId)>,
    /// The limit's window.
    pub window: Window,
    /// Which way it is counted ([`Method::kind`](super::algorithm::Method::kind));
    /// 0 for a plain fixed window.
    pub kind: u8,
    /// Stands in the place of the last entry.
    pub last: Option<Entry<'a>>,
    /// Its rule has further limits, with other windows.
    pub several: bool,
}

/// A secret that clients cannot guess, chosen when the process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed(pub u64, pub u64);

/// A key's canonical form; inline up to a usual length.
pub type KeyBytes = SmallVec<[u8; 192]>;

// === impl HashSeed ===

impl HashSeed {
    /// 128 bits that stand for `bytes`.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

// === impl CounterKey ===

impl CounterKey<'_> {
    /// 128 bits of the canonical form. Two counters meet with probability
    /// 2⁻¹²⁸, and a client that does not know `seed` cannot search for such.
    #[must_use]
    pub fn hash(&self, seed: HashSeed) -> u128 {
        seed.hash(&self.canonical())
    }

    /// Domain, entries and window, each text with its length before it.
    #[must_use]
    pub fn canonical(&self) -> KeyBytes {
        let mut bytes = KeyBytes::new();
        push_text(&mut bytes, self.domain);
        self.for_each_entry(|key, value| {
            push_text(&mut bytes, key);
            push_text(&mut bytes, value);
        });
        bytes.extend_from_slice(&self.window.seconds().to_le_bytes());
        // No other key is longer by this one byte: all parts but these last
        // ones begin with eight bytes of length.
        let calendar = self.window.calendar();
        if self.kind != 0 || calendar.is_some() {
            bytes.push(self.kind);
        }
        // A calendar's window is longer than what follows it here, so that it
        // cannot be taken for the length of a text.
        if let Some(calendar) = calendar {
            push_text(&mut bytes, calendar.to_string().as_bytes());
        }
        bytes
    }

    /// Calls `visit` with each entry's key and the value that counts: the
    /// request's, or the pattern where that level shares its counter.
    pub fn for_each_entry(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        if let (Some(last), Some((_, others))) = (self.last, self.entries.split_last()) {
            let others = Self {
                entries: others,
                last: None,
                ..*self
            };
            others.for_each_entry(&mut visit as &mut dyn FnMut(&[u8], &[u8]));
            visit(last.key, last.value);
            return;
        }
        let Some((rules, rule)) = self.shared else {
            for entry in self.entries {
                visit(entry.key, entry.value);
            }
            return;
        };
        for (entry, level) in self.entries.iter().zip(rules.path(rule)) {
            if rules.detail(level).share_threshold {
                visit(
                    entry.key,
                    shared_value(rules.rule(level).composite(), entry.key),
                );
            } else {
                visit(entry.key, entry.value);
            }
        }
    }
}

/// The value part of a pattern over `key_value`; the whole pattern where a
/// star in its key part leaves no such part.
fn shared_value<'a>(pattern: &'a [u8], key: &[u8]) -> &'a [u8] {
    pattern
        .strip_prefix(key)
        .and_then(|rest| rest.strip_prefix(b"_"))
        .unwrap_or(pattern)
}

fn push_text(bytes: &mut KeyBytes, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limit::Unit;

    fn key<'a>(domain: &'a str, entries: &'a [Entry<'a>], unit: Unit) -> CounterKey<'a> {
        CounterKey {
            domain: domain.as_bytes(),
            entries,
            shared: None,
            window: Window::of(unit),
            kind: 0,
            last: None,
            several: false,
        }
    }

    fn entry<'a>(key: &'a str, value: &'a str) -> Entry<'a> {
        Entry {
            key: key.as_bytes(),
            value: value.as_bytes(),
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let cases: [(&str, Vec<Entry<'_>>, Unit); 7] = [
            ("d", vec![entry("a", "b_c")], Unit::Hour),
            ("d", vec![entry("a_b", "c")], Unit::Hour),
            ("d", vec![entry("a", "b"), entry("c", "")], Unit::Hour),
            ("d", vec![entry("a", "b"), entry("", "c")], Unit::Hour),
            ("d_a", vec![entry("b", "c")], Unit::Hour),
            ("d", vec![entry("a", "b_c")], Unit::Day),
            ("d", vec![], Unit::Hour),
        ];
        let seed = HashSeed(1, 2);
        let mut seen = std::collections::HashSet::new();
        for (domain, entries, unit) in &cases {
            assert!(
                seen.insert(key(domain, entries, *unit).hash(seed)),
                "{domain} {entries:?}"
            );
        }
    }

    #[test]
    fn the_seed_matters() {
        let entries = [entry("a", "b")];
        let key = key("d", &entries, Unit::Hour);
        assert_ne!(key.hash(HashSeed(1, 2)), key.hash(HashSeed(1, 3)));
    }
}
