//! What a rule's series is called: one part for each level, joined by dots,
//! as the reference names its statistics.

use crate::engine::{
    descriptor::Entry,
    rules::{Detail, RuleId, RuleSet},
};

/// Bytes of a domain or of a level that are kept.
const MOST_BYTES: usize = 128;
/// Bytes of a domain and a path together; the rest of a longer one is left out.
const MOST_NAME_BYTES: usize = 640;
/// Levels that are named.
const MOST_LEVELS: usize = 32;

/// Whether the name holds values of requests.
pub(super) fn is_by_value(rules: &RuleSet, rule: RuleId) -> bool {
    rules.detail(rule).detailed_metric
        || rules
            .path(rule)
            .iter()
            .any(|&level| shows_value(rules.detail(level)))
}

/// The name as the rule is written.
pub(super) fn as_written(rules: &RuleSet, rule: RuleId, out: &mut String) {
    for (number, level) in rules.path(rule).into_iter().take(MOST_LEVELS).enumerate() {
        next(out, number);
        push(out, rules.rule(level).composite());
    }
}

/// The name with the values of a request.
pub(super) fn by_value(rules: &RuleSet, rule: RuleId, entries: &[Entry<'_>], out: &mut String) {
    let is_detailed = rules.detail(rule).detailed_metric;
    let path = rules.path(rule);
    let any_shared = path.iter().any(|&level| is_shared(rules.detail(level)));
    let levels = path.iter().zip(entries).take(MOST_LEVELS);
    for (number, (&level, entry)) in levels.enumerate() {
        next(out, number);
        let detail = rules.detail(level);
        if is_detailed && !is_shared(detail) {
            let bare = any_shared && entry.value.is_empty();
            push_entry(out, entry.key, entry.value, !bare);
        } else if !is_detailed && shows_value(detail) {
            push_entry(out, detail.key.as_bytes(), entry.value, is_pattern(detail));
        } else {
            push(out, rules.rule(level).composite());
        }
    }
}

/// The name of what a request's own limit is for.
pub(super) fn of_override(entries: &[Entry<'_>], out: &mut String) {
    for (number, entry) in entries.iter().take(MOST_LEVELS).enumerate() {
        next(out, number);
        push_entry(out, entry.key, entry.value, false);
    }
}

fn next(out: &mut String, number: usize) {
    if number > 0 {
        out.push('.');
    }
}

/// `key_value`; without value `key`, or `key_` where that is `always`.
fn push_entry(out: &mut String, key: &[u8], value: &[u8], always: bool) {
    push(out, key);
    if always || !value.is_empty() {
        out.push('_');
        push(out, value);
    }
}

/// Text of requests is not to be trusted: it is cut, and what is no text or
/// would break a line becomes `_`.
pub(super) fn push(out: &mut String, bytes: &[u8]) {
    let room = MOST_NAME_BYTES.saturating_sub(out.len());
    let bytes = &bytes[..bytes.len().min(MOST_BYTES).min(room)];
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if let (true, Ok(text)) = (bytes.iter().all(is_plain), std::str::from_utf8(bytes)) {
        return out.push_str(text);
    }
    for chunk in bytes.utf8_chunks() {
        let clean = |c: char| if c.is_control() { '_' } else { c };
        out.extend(chunk.valid().chars().map(clean));
        if !chunk.invalid().is_empty() {
            out.push('_');
        }
    }
}

fn is_pattern(detail: &Detail) -> bool {
    detail.key.contains('*') || detail.value.contains('*')
}

fn is_shared(detail: &Detail) -> bool {
    detail.share_threshold && is_pattern(detail)
}

/// This level is named by what the request says.
fn shows_value(detail: &Detail) -> bool {
    let any = detail.value.is_empty() || is_pattern(detail);
    detail.value_to_metric && any && !is_shared(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        limit::{Limit, Quota, Unit, Window},
        matching,
        rules::{DomainDef, Extra, LimitDef, RuleDef},
    };

    /// Of a rule: key, value, and flags (`v`alue, `d`etailed, `s`hared).
    type Level = (&'static str, &'static str, &'static str);
    /// Levels, the entries of a request, and the name.
    type Case<'c> = (&'c [Level], &'c [(&'c str, &'c str)], &'c str);

    fn rule_of(levels: &[Level]) -> RuleDef {
        let (key, value, flags) = levels[0];
        let limit = LimitDef {
            quota: Quota::Limited(Limit {
                requests: 1,
                window: Window::of(Unit::Hour),
            }),
            name: String::new(),
            replaces: vec![],
            leased: false,
            extra: Extra::default(),
        };
        RuleDef {
            key: key.into(),
            value: value.into(),
            value_to_metric: flags.contains('v'),
            detailed_metric: flags.contains('d'),
            share_threshold: flags.contains('s'),
            children: levels
                .get(1..)
                .filter(|it| !it.is_empty())
                .map(rule_of)
                .into_iter()
                .collect(),
            limit: Some(limit),
            ..RuleDef::default()
        }
    }

    fn name(levels: &[Level], entries: &[(&str, &str)]) -> String {
        let mut rule = rule_of(levels);
        rule.source.line = 1;
        let rules = RuleSet::compile(vec![DomainDef {
            name: "d".into(),
            rules: vec![rule],
            ..DomainDef::default()
        }])
        .unwrap();
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|(key, value)| Entry {
                key: key.as_bytes(),
                value: value.as_bytes(),
            })
            .collect();
        let domain = rules.domain(b"d").unwrap();
        let found = matching::find(&rules, domain, &entries, &mut vec![]).unwrap();
        let mut out = String::new();
        if is_by_value(&rules, found) {
            by_value(&rules, found, &entries, &mut out);
        } else {
            as_written(&rules, found, &mut out);
        }
        out
    }

    #[test]
    fn levels_are_named_as_the_reference_does() {
        let cases: &[Case<'_>] = &[
            (&[("a", "b", "")], &[("a", "b")], "a_b"),
            (&[("a", "", "")], &[("a", "b")], "a"),
            (&[("a", "", "v")], &[("a", "b")], "a_b"),
            (&[("a", "", "v")], &[("a", "")], "a"),
            (&[("a", "b", "v")], &[("a", "b")], "a_b"),
            (&[("a", "b*", "")], &[("a", "bc")], "a_b*"),
            (&[("a", "b*", "v")], &[("a", "bc")], "a_bc"),
            (&[("a", "b*", "vs")], &[("a", "bc")], "a_b*"),
            (&[("a", "", "d")], &[("a", "b")], "a_b"),
            (&[("a", "", "d")], &[("a", "")], "a_"),
            (
                &[("a", "", ""), ("c", "d", "")],
                &[("a", "b"), ("c", "d")],
                "a.c_d",
            ),
            (
                &[("a", "", ""), ("c", "", "d")],
                &[("a", "b"), ("c", "")],
                "a_b.c_",
            ),
            (
                &[("a", "b*", "s"), ("c", "", "d")],
                &[("a", "bc"), ("c", "")],
                "a_b*.c",
            ),
            (
                &[("a", "", "v"), ("c", "", "")],
                &[("a", "b"), ("c", "d")],
                "a_b.c",
            ),
            (
                &[("a", "", "v"), ("c", "", "d")],
                &[("a", ""), ("c", "d")],
                "a_.c_d",
            ),
        ];
        for (levels, entries, expected) in cases {
            assert_eq!(name(levels, entries), *expected, "{levels:?} {entries:?}");
        }
    }

    #[test]
    fn values_are_not_trusted() {
        let mut out = String::new();
        let entry = Entry {
            key: b"k\n",
            value: b"a\xff\r\nb|c:1",
        };
        of_override(&[entry], &mut out);
        assert_eq!(out, "k__a___b|c:1");
        out.clear();
        push(&mut out, &[b'x'; 100_000]);
        assert_eq!(out.len(), MOST_BYTES);
        for _ in 0..1_000 {
            push(&mut out, &[b'x'; 100]);
        }
        assert_eq!(out.len(), MOST_NAME_BYTES);
    }
}
