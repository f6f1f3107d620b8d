//! Answers against expectations.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::{
    Answer, Difference,
    expect::{Expect, NONE, StatusField, UNLIMITED},
    time::with_fraction,
};
use crate::proto::envoy::service::ratelimit::v3::{
    RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus, RateLimit},
};

/// What is not as expected. What changes from one ask of a step to the next
/// is looked at only in the last one.
pub(super) fn differences(expect: &Expect, answer: &Answer, is_last: bool) -> Vec<Difference> {
    let mut found = Found::default();
    if let Some(decision) = &expect.decision {
        let got = code(answer.response.overall_code());
        found.compare("decision", decision, got);
    }
    for (field, expected) in &expect.statuses {
        if is_last || !field.counts_down() {
            let got: Vec<String> = answer.each(*field);
            found.each(field.name(), expected, &got);
        }
    }
    if is_last {
        for (name, value) in &expect.headers {
            found.header(name, value.as_deref(), &answer.response);
        }
        found.body(expect, &answer.response.raw_body);
    }
    if let Some(expected) = &expect.metadata {
        let got = answer.json.get("dynamicMetadata");
        found.json("metadata", expected, got, Extras::Pass);
    }
    found.0
}

/// There is no answer to look at.
pub(super) fn no_answer(error: &str) -> Difference {
    Difference {
        field: "answer".to_owned(),
        expected: "a decision".to_owned(),
        got: format!("an error: {error}"),
    }
}

#[derive(Default)]
struct Found(Vec<Difference>);

/// What maps may have that is not expected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extras {
    /// Anything.
    Pass,
    /// Nothing.
    Differ,
}

// === impl Found ===

impl Found {
    fn add(&mut self, field: &str, expected: impl Into<String>, got: impl Into<String>) {
        self.0.push(Difference {
            field: field.to_owned(),
            expected: expected.into(),
            got: got.into(),
        });
    }

    fn compare(&mut self, field: &str, expected: &str, got: &str) {
        if expected != got {
            self.add(field, expected, got);
        }
    }

    fn each(&mut self, field: &str, expected: &[Option<String>], got: &[String]) {
        let pairs = expected.iter().zip(got);
        let differs = pairs
            .into_iter()
            .any(|(expected, got)| expected.as_ref().is_some_and(|expected| expected != got));
        if differs || expected.len() != got.len() {
            let expected: Vec<&str> = expected
                .iter()
                .map(|it| it.as_deref().unwrap_or("~"))
                .collect();
            let got: Vec<&str> = got.iter().map(String::as_str).collect();
            self.add(field, listed(&expected), listed(&got));
        }
    }

    /// A header is there once, with that value; or not at all.
    fn header(&mut self, name: &str, expected: Option<&str>, response: &RateLimitResponse) {
        let headers = response.response_headers_to_add.iter();
        let got: Vec<&str> = headers
            .filter(|header| header.key.eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
            .collect();
        if got != Vec::from_iter(expected) {
            let expected = expected.map_or_else(|| "no such header".to_owned(), quoted);
            let got: Vec<String> = got.into_iter().map(quoted).collect();
            let got = match &*got {
                [] => "no such header".to_owned(),
                got => got.join(" and "),
            };
            self.add(&format!("header {name}"), expected, got);
        }
    }

    fn body(&mut self, expect: &Expect, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        if let Some(expected) = &expect.body
            && expected.as_bytes() != body
        {
            self.add("body", quoted(expected), quoted(&text));
        }
        if let Some(expected) = &expect.body_json {
            match serde_json::from_slice::<Json>(body) {
                Ok(got) => self.json("body_json", expected, Some(&got), Extras::Differ),
                Err(_) => self.add("body_json", expected.to_string(), quoted(&text)),
            }
        }
    }

    /// Compares deeply, and names the places that differ.
    fn json(&mut self, path: &str, expected: &Json, got: Option<&Json>, extras: Extras) {
        match (expected, got) {
            (Json::Object(expected), Some(Json::Object(got))) => {
                for (name, expected) in expected {
                    let path = format!("{path}.{name}");
                    self.json(&path, expected, got.get(name), extras);
                }
                let more = got.iter().filter(|(name, _)| !expected.contains_key(*name));
                for (name, more) in more.filter(|_| extras == Extras::Differ) {
                    self.add(&format!("{path}.{name}"), "nothing", more.to_string());
                }
            }
            (Json::Array(expected), Some(Json::Array(got))) if expected.len() == got.len() => {
                for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
                    self.json(&format!("{path}[{index}]"), expected, Some(got), extras);
                }
            }
            (expected, Some(got)) if is_equal(expected, got) => {}
            (expected, got) => {
                let got = got.map_or_else(|| "nothing".to_owned(), Json::to_string);
                self.add(path, expected.to_string(), got);
            }
        }
    }
}

/// Numbers are equal whether written with a point or not.
fn is_equal(expected: &Json, got: &Json) -> bool {
    match (expected, got) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (expected, got) => expected == got,
    }
}

fn listed(values: &[&str]) -> String {
    match values {
        [value] => (*value).to_owned(),
        values => format!("[{}]", values.join(", ")),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

// === impl Answer ===

impl Answer {
    /// The rules of its descriptors as expectations have them.
    pub(super) fn rules_text(&self) -> String {
        let rules = self.each(StatusField::Rule);
        listed(&rules.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Its body; empty when there is none.
    pub(super) fn body(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.response.raw_body)
    }

    fn each(&self, field: StatusField) -> Vec<String> {
        let statuses = self.response.statuses.iter().zip(&self.rules);
        statuses
            .map(|(status, rule)| shown(field, status, rule.as_deref()))
            .collect()
    }
}

fn shown(field: StatusField, status: &DescriptorStatus, rule: Option<&str>) -> String {
    let limit = status.current_limit.as_ref();
    let none = || NONE.to_owned();
    match field {
        StatusField::Code => code(status.code()).to_owned(),
        StatusField::Rule => rule.map_or_else(none, str::to_owned),
        StatusField::Limit => match limit {
            Some(limit) => limit_text(limit),
            None if status.limit_remaining == u32::MAX => UNLIMITED.to_owned(),
            None => none(),
        },
        StatusField::Name => match limit.map(|limit| limit.name.as_str()) {
            None | Some("") => none(),
            Some(name) => name.to_owned(),
        },
        StatusField::Remaining => status.limit_remaining.to_string(),
        StatusField::Reset => status
            .duration_until_reset
            .as_ref()
            .map_or_else(none, |it| {
                with_fraction(it.seconds.to_string(), u64::try_from(it.nanos).unwrap_or(0))
            }),
    }
}

fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::OverLimit => "OVER",
        Code::Unknown => "UNKNOWN",
    }
}

fn limit_text(limit: &RateLimit) -> String {
    let unit = limit.unit().as_str_name().to_ascii_lowercase();
    match limit.unit_multiplier {
        Some(times) if times > 1 => format!("{} per {times} {unit}s", limit.requests_per_unit),
        _ => format!("{} per {unit}", limit.requests_per_unit),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compared(expected: &Json, got: &Json, extras: Extras) -> Vec<String> {
        let mut found = Found::default();
        found.json("m", expected, Some(got), extras);
        let lines = found.0.iter();
        lines
            .map(|it| format!("{}: {} / {}", it.field, it.expected, it.got))
            .collect()
    }

    #[test]
    fn data_is_compared_deeply() {
        use Extras::{Differ, Pass};
        let got = json!({"a": {"b": [1, {"c": 2.0, "d": "x"}]}, "e": null});
        for (expected, extras, differences) in [
            (got.clone(), Differ, &[][..]),
            (json!({"a": {"b": [1.0, {"c": 2}]}}), Pass, &[]),
            (
                json!({"a": {"b": [1, {"c": 2}]}}),
                Differ,
                &["m.a.b[1].d: nothing / \"x\"", "m.e: nothing / null"],
            ),
            (
                json!({"a": {"b": [1, {"c": 3, "f": 1}]}}),
                Pass,
                &["m.a.b[1].c: 3 / 2.0", "m.a.b[1].f: 1 / nothing"],
            ),
            (
                json!({"a": {"b": [1]}}),
                Pass,
                &["m.a.b: [1] / [1,{\"c\":2.0,\"d\":\"x\"}]"],
            ),
            (json!({"e": {}}), Pass, &["m.e: {} / null"]),
            (json!({"e": null}), Pass, &[]),
            (json!({"g": null}), Pass, &["m.g: null / nothing"]),
        ] {
            assert_eq!(compared(&expected, &got, extras), differences, "{expected}");
        }
    }
}
