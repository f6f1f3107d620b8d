//! Descriptor → rule.
//!
//! One level of the tree for each entry, in order. On a level the exact
//! child comes first, then the first wildcard in file order, then the child
//! that names the key alone. There is no way back: once a child is chosen
//! its siblings do not matter any more, even where the chosen one leads
//! nowhere.

use super::{
    descriptor::Entry,
    rules::{DomainId, RuleId, RuleSet},
};

/// How a child was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Key and value, or a request value that equals a pattern's text.
    Exact,
    /// A pattern.
    Wildcard,
    /// The key alone.
    KeyOnly,
}

/// The rule for a descriptor: the one that its last entry leads to, with or
/// without a limit.
///
/// `scratch` is overwritten; keeping it between calls saves its allocation.
#[must_use]
pub fn find(
    rules: &RuleSet,
    domain: DomainId,
    entries: &[Entry<'_>],
    scratch: &mut Vec<u8>,
) -> Option<RuleId> {
    if entries.is_empty() {
        return None;
    }
    let mut at = domain.root();
    for entry in entries {
        (at, _) = step(rules, at, *entry, scratch)?;
    }
    Some(at)
}

/// The child of `parent` that `entry` leads to.
#[must_use]
pub fn step(
    rules: &RuleSet,
    parent: RuleId,
    entry: Entry<'_>,
    scratch: &mut Vec<u8>,
) -> Option<(RuleId, Kind)> {
    if !rules.rule(parent).has_children {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(entry.key);
    scratch.push(b'_');
    scratch.extend_from_slice(entry.value);
    if let Some(child) = rules.exact_child(parent, scratch) {
        return Some((child, Kind::Exact));
    }
    if let Some(child) = rules.wildcard_child(parent, scratch) {
        return Some((child, Kind::Wildcard));
    }
    let child = rules.exact_child(parent, entry.key)?;
    Some((child, Kind::KeyOnly))
}
