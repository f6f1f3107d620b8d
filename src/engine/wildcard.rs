//! Patterns with `*`, and an index that finds the first of many that match.

use std::collections::{BTreeSet, HashMap};

/// A text in which each `*` stands for zero or more characters.
///
/// The pieces between the stars match in order and without overlap, the
/// first at the start and the last at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    prefix: Box<[u8]>,
    middles: Box<[Piece]>,
    suffix: Box<[u8]>,
}

/// A text to find, with the table that makes finding it linear (Knuth,
/// Morris and Pratt): no value makes a search quadratic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    text: Box<[u8]>,
    /// For each length matched so far, the longest shorter one to go on with.
    fallback: Box<[u32]>,
}

/// Patterns in their order, indexed by their first and last piece, so that
/// the cost of a look-up depends on how many *lengths* of these there are.
#[derive(Debug, Default)]
pub struct WildcardIndex {
    prefix_lengths: Box<[usize]>,
    by_prefix: HashMap<Box<[u8]>, Group>,
}

/// The patterns that begin with the same piece.
#[derive(Debug, Default)]
struct Group {
    /// The least rank in here.
    first: u32,
    suffix_lengths: Box<[usize]>,
    /// Ranks ascend in each list.
    by_suffix: HashMap<Box<[u8]>, Vec<Tail>>,
}

/// A rank, and what has to be found between prefix and suffix.
type Tail = (u32, Box<[Piece]>);

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern; `None` when there is no `*` in it.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut pieces = text.split(|&byte| byte == b'*');
        let prefix = pieces.next()?;
        let suffix = pieces.next_back()?;
        Some(Self {
            prefix: prefix.into(),
            middles: pieces.filter(|p| !p.is_empty()).map(Piece::new).collect(),
            suffix: suffix.into(),
        })
    }

    /// Whether the whole of `text` is an instance of the pattern.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let Some(rest) = text.strip_prefix(&*self.prefix) else {
            return false;
        };
        match rest.strip_suffix(&*self.suffix) {
            Some(between) => hold_in_order(&self.middles, between),
            None => false,
        }
    }
}

fn hold_in_order(pieces: &[Piece], text: &[u8]) -> bool {
    let mut rest = text;
    for piece in pieces {
        match piece.find_end(rest) {
            Some(end) => rest = &rest[end..],
            None => return false,
        }
    }
    true
}

// === impl Piece ===

impl Piece {
    fn new(text: &[u8]) -> Self {
        let mut fallback = vec![0_u32; text.len()];
        let mut matched = 0_usize;
        for at in 1..text.len() {
            while matched > 0 && text[at] != text[matched] {
                matched = fallback[matched - 1] as usize;
            }
            if text[at] == text[matched] {
                matched += 1;
            }
            fallback[at] = u32::try_from(matched).unwrap_or(u32::MAX);
        }
        Self {
            text: text.into(),
            fallback: fallback.into(),
        }
    }

    /// Where the first occurrence in `haystack` ends.
    fn find_end(&self, haystack: &[u8]) -> Option<usize> {
        let mut matched = 0_usize;
        for (at, &byte) in haystack.iter().enumerate() {
            while matched > 0 && byte != self.text[matched] {
                matched = self.fallback[matched - 1] as usize;
            }
            if byte == self.text[matched] {
                matched += 1;
            }
            if matched == self.text.len() {
                return Some(at + 1);
            }
        }
        None
    }
}

// === impl WildcardIndex ===

impl WildcardIndex {
    /// Indexes patterns, each with its rank; ranks must ascend.
    #[must_use]
    pub fn new(patterns: Vec<(Pattern, u32)>) -> Self {
        let mut by_prefix: HashMap<Box<[u8]>, Group> = HashMap::new();
        for (pattern, rank) in patterns {
            by_prefix
                .entry(pattern.prefix)
                .or_insert_with(|| Group {
                    first: rank,
                    ..Group::default()
                })
                .by_suffix
                .entry(pattern.suffix)
                .or_default()
                .push((rank, pattern.middles));
        }
        for group in by_prefix.values_mut() {
            group.suffix_lengths = lengths(group.by_suffix.keys());
        }
        Self {
            prefix_lengths: lengths(by_prefix.keys()),
            by_prefix,
        }
    }

    /// The least rank of the patterns that match `text`.
    #[must_use]
    pub fn first_match(&self, text: &[u8]) -> Option<u32> {
        let mut best = None;
        for &length in &self.prefix_lengths {
            let Some((prefix, rest)) = text.split_at_checked(length) else {
                break;
            };
            if let Some(group) = self.by_prefix.get(prefix)
                && best.is_none_or(|best| group.first < best)
            {
                best = group.first_match(rest, best);
            }
        }
        best
    }
}

impl Group {
    /// The least rank below `best` that matches what follows the prefix,
    /// or `best`.
    fn first_match(&self, rest: &[u8], mut best: Option<u32>) -> Option<u32> {
        for &length in &self.suffix_lengths {
            let Some(at) = rest.len().checked_sub(length) else {
                break;
            };
            let (between, suffix) = rest.split_at(at);
            let Some(candidates) = self.by_suffix.get(suffix) else {
                continue;
            };
            let found = candidates
                .iter()
                .take_while(|(rank, _)| best.is_none_or(|best| *rank < best))
                .find(|(_, middles)| hold_in_order(middles, between));
            if let Some((rank, _)) = found {
                best = Some(*rank);
            }
        }
        best
    }
}

/// The lengths that occur, ascending.
fn lengths<'a>(texts: impl Iterator<Item = &'a Box<[u8]>>) -> Box<[usize]> {
    let lengths: BTreeSet<usize> = texts.map(|text| text.len()).collect();
    lengths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("k_*", "k_", true),
            ("k_*", "k", false),
            ("k_a*a", "k_a", false),
            ("k_a*a", "k_aa", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*bc*cd", "abcd", false),
            ("a*bc*cd", "abccd", true),
            ("*aab*", "aaab", true),
            ("**", "", true),
            ("k_*x", "k_*x", true),
            ("*/v1/*", "p_/v1/x", true),
            ("*/v1/*", "p_/v2/x", false),
        ] {
            let read = Pattern::new(pattern.as_bytes()).unwrap();
            assert_eq!(
                read.matches(text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    /// The definition, without any cleverness.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            Some((byte, rest)) => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matches_the_definition(pattern in "[ab*]{0,8}", text in "[ab*]{0,10}") {
            match Pattern::new(pattern.as_bytes()) {
                Some(read) => {
                    let expected = naive(pattern.as_bytes(), text.as_bytes());
                    prop_assert_eq!(read.matches(text.as_bytes()), expected);
                }
                None => prop_assert!(!pattern.contains('*')),
            }
        }

        #[test]
        fn the_index_finds_the_first(
            patterns in prop::collection::vec("[ab]{0,3}[*][ab*]{0,4}", 0..12),
            text in "[ab]{0,8}",
        ) {
            let ranked = patterns.iter().zip(0..);
            let first = ranked.clone().find(|(p, _)| naive(p.as_bytes(), text.as_bytes()));
            let index = WildcardIndex::new(
                ranked.map(|(p, rank)| (Pattern::new(p.as_bytes()).unwrap(), rank)).collect(),
            );
            prop_assert_eq!(index.first_match(text.as_bytes()), first.map(|(_, rank)| rank));
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_cheap() {
        let pattern = Pattern::new("a*".repeat(10_000).as_bytes()).unwrap();
        assert!(pattern.matches("a".repeat(10_000).as_bytes()));
        assert!(!pattern.matches("a".repeat(9_999).as_bytes()));
    }
}
