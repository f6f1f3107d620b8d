//! Which metrics a PromQL expression names, and with which labels.

use std::collections::BTreeSet;

/// A metric in an expression.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selector {
    pub(super) metric: String,
    /// Labels of its matchers.
    pub(super) labels: BTreeSet<String>,
}

/// What an expression asks for.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) selectors: Vec<Selector>,
    /// Labels that it groups or joins by.
    pub(super) groupings: BTreeSet<String>,
}

const KEYWORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
const LISTS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

// === impl Query ===

impl Query {
    /// Reads an expression that promtool takes for a good one.
    pub(super) fn parse(expression: &str) -> Self {
        let mut query = Self::default();
        let mut rest = expression;
        while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
            rest = &rest[start..];
            let (word, after) = word(rest);
            let next = after.trim_start();
            if word.is_empty() {
                rest = query.skip(rest);
            } else if LISTS.contains(&word) && next.starts_with('(') {
                let (list, after) = until(&next[1..], ')');
                query
                    .groupings
                    .extend(list.split(',').map(|it| it.trim().to_owned()));
                rest = after;
            } else if is_applied(next) || KEYWORDS.contains(&word) || is_number(word) {
                rest = after;
            } else {
                rest = query.select(word, next);
            }
        }
        query
    }

    /// A metric, and its matchers if it has some.
    fn select<'a>(&mut self, metric: &str, after: &'a str) -> &'a str {
        let mut labels = BTreeSet::new();
        let mut rest = after;
        if let Some(mut matchers) = after.strip_prefix('{') {
            loop {
                matchers = matchers.trim_start_matches([',', ' ', '\n']);
                if let Some(after) = matchers.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (label, after) = word(matchers);
                assert!(!label.is_empty(), "{matchers}");
                labels.insert(label.to_owned());
                matchers = quoted(after.trim_start_matches(['=', '!', '~', ' ']));
            }
        }
        self.selectors.push(Selector {
            metric: metric.to_owned(),
            labels,
        });
        rest
    }

    /// A range, a text, or a sign.
    fn skip<'a>(&self, rest: &'a str) -> &'a str {
        match rest.chars().next() {
            Some('[') => until(rest, ']').1,
            Some('"') => quoted(rest),
            Some(sign) => &rest[sign.len_utf8()..],
            None => rest,
        }
    }
}

fn word(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

/// What comes before this is a function, or sums up: `sum(`, `sum by (`.
fn is_applied(next: &str) -> bool {
    next.starts_with('(') || ["by", "without"].contains(&word(next).0)
}

/// `0.05`, `5m`, `1w`: what begins with a digit is no name.
fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

fn until(text: &str, end: char) -> (&str, &str) {
    text.split_once(end).expect("a closing bracket")
}

/// What comes after a text in double quotes.
fn quoted(text: &str) -> &str {
    let inner = text.strip_prefix('"').expect("a text in quotes");
    inner.split_once('"').expect("an end of the text").1
}

#[test]
fn names_are_found() {
    let query = Query::parse(
        r#"histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{x="by (y)", z!~"b.*"}[5m] offset 1w)))
           > 0.05 and on(instance) c{} unless count(d) or time() - 14 * 24 * 3600"#,
    );
    let names: Vec<_> = query.selectors.iter().map(|it| &*it.metric).collect();
    assert_eq!(names, ["a_bucket", "c", "d"]);
    let labels: Vec<_> = query.selectors[0].labels.iter().collect();
    assert_eq!(labels, ["x", "z"]);
    let groupings: Vec<_> = query.groupings.iter().collect();
    assert_eq!(groupings, ["instance", "job", "le"]);
}
