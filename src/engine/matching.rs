//! Descriptor → rule.
//!
//! One level of the tree for each entry, in order. On a level the exact
//! child comes first, then the first wildcard in file order, then the child
//! that names the key alone. There is no way back: once a child is chosen
//! its siblings do not matter any more, even where the chosen one leads
//! nowhere.

use super::{
    descriptor::Entry,
    rules::{Domain, RuleId, RuleSet},
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
    domain: Domain,
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
    let child = rules.key_child(parent, entry.key)?;
    Some((child, Kind::KeyOnly))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::rules::{DomainDef, RuleDef, composite_key};

    fn rule(key: &str, value: &str, children: Vec<RuleDef>) -> RuleDef {
        RuleDef {
            key: key.to_owned(),
            value: value.to_owned(),
            children,
            ..RuleDef::default()
        }
    }

    fn compile(rules: Vec<RuleDef>) -> (RuleSet, Domain) {
        let domain = DomainDef {
            name: "d".to_owned(),
            rules,
            ..DomainDef::default()
        };
        let rules = RuleSet::compile(vec![domain]).unwrap();
        let domain = rules.domain(b"d").unwrap();
        (rules, domain)
    }

    /// The composite key of what `key` and `value` lead to on the first level.
    fn first_level(rules: &RuleSet, domain: Domain, key: &str, value: &str) -> Option<String> {
        let entry = Entry {
            key: key.as_bytes(),
            value: value.as_bytes(),
        };
        let (found, _) = step(rules, domain.root(), entry, &mut vec![])?;
        let composite = rules.rule(found).composite().to_vec();
        Some(String::from_utf8(composite).unwrap())
    }

    /// The definition of a pattern, without any cleverness.
    fn is_instance(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| is_instance(rest, &text[skip..])),
            Some((byte, rest)) => text.first() == Some(byte) && is_instance(rest, &text[1..]),
        }
    }

    /// The definition of precedence, likewise.
    fn expected<'a>(composites: &'a [String], key: &str, value: &str) -> Option<&'a String> {
        let text = format!("{key}_{value}");
        let find = |is_it: &dyn Fn(&str) -> bool| composites.iter().find(|c| is_it(c));
        find(&|c| c == text)
            .or_else(|| find(&|c| c.contains('*') && is_instance(c.as_bytes(), text.as_bytes())))
            .or_else(|| find(&|c| c == key))
    }

    proptest! {
        #[test]
        fn follows_the_definition(
            rules in prop::collection::vec(("[ab*_]{1,3}", "[ab*]{0,3}"), 0..12),
            entries in prop::collection::vec(("[ab*_]{0,3}", "[ab*]{0,4}"), 1..12),
        ) {
            let mut seen = HashSet::new();
            let (mut composites, mut definitions) = (vec![], vec![]);
            for (key, value) in &rules {
                let composite = composite_key(key, value);
                if seen.insert(composite.clone()) {
                    composites.push(composite);
                    definitions.push(rule(key, value, vec![]));
                }
            }
            let (rules, domain) = compile(definitions);
            for (key, value) in &entries {
                let found = first_level(&rules, domain, key, value);
                prop_assert_eq!(found.as_ref(), expected(&composites, key, value), "{} {}", key, value);
            }
        }
    }

    #[test]
    fn patterns_in_file_order_whatever_they_look_like() {
        let values = ["a**", "a*", "ab*", "*b", "abc", "x*y*", "xz*", "*"];
        let rules = values.map(|value| rule("k", value, vec![]));
        let (rules, domain) = compile(rules.into_iter().chain([rule("k", "", vec![])]).collect());
        for (value, expected) in [
            ("a", "k_a**"),
            ("a*", "k_a*"),
            ("ab", "k_a**"),
            ("abc", "k_abc"),
            ("cb", "k_*b"),
            ("xzy", "k_x*y*"),
            ("xz", "k_xz*"),
            ("", "k_*"),
            ("*b", "k_*b"),
            ("**", "k_*"),
        ] {
            let found = first_level(&rules, domain, "k", value);
            assert_eq!(found.as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_second_rule_of_the_same_key_is_not_found() {
        let leaf = |value: &str| vec![rule("leaf", value, vec![])];
        let twice = vec![
            rule("a", "b", leaf("1")),
            rule("a", "b", leaf("2")),
            rule("a_b", "", leaf("3")),
        ];
        let (rules, domain) = compile(twice);
        let entry = |key: &'static str, value: &'static str| Entry {
            key: key.as_bytes(),
            value: value.as_bytes(),
        };
        let found = |leaf| find(&rules, domain, &[entry("a", "b"), leaf], &mut vec![]);
        assert!(found(entry("leaf", "1")).is_some());
        assert_eq!(found(entry("leaf", "2")), None);
        assert_eq!(found(entry("leaf", "3")), None);
    }

    #[test]
    fn details_and_paths_follow_rules_to_their_places() {
        let tenants = (0..200)
            .map(|tenant| {
                let users = (0..5).map(|user| rule("user", &user.to_string(), vec![]));
                rule("tenant", &tenant.to_string(), users.collect())
            })
            .collect();
        let (rules, domain) = compile(tenants);
        assert_eq!(rules.len(), 200 * 6);
        assert_eq!(rules.detail(domain.root()).children.len(), 200);
        for (number, &tenant) in rules.detail(domain.root()).children.iter().enumerate() {
            assert_eq!(*rules.detail(tenant).value, *number.to_string());
            for (number, &user) in rules.detail(tenant).children.iter().enumerate() {
                assert_eq!(*rules.detail(user).value, *number.to_string());
                assert_eq!(rules.path(user)[..], [tenant, user]);
            }
        }
    }

    #[test]
    fn a_hundred_thousand_patterns_on_one_level_are_compiled_at_once() {
        let patterns = (0..100_000).map(|n| match n % 3 {
            0 => rule("k", &format!("*{n:05}"), vec![]),
            1 => rule("k", &format!("{n:05}*"), vec![]),
            _ => rule("k", &format!("{n:05}*z"), vec![]),
        });
        let (rules, domain) = compile(patterns.collect());
        for (value, expected) in [
            ("x99999", Some("k_*99999")),
            ("50002x", Some("k_50002*")),
            ("50003xz", Some("k_50003*z")),
            ("x", None),
        ] {
            assert_eq!(first_level(&rules, domain, "k", value).as_deref(), expected);
        }
    }
}
