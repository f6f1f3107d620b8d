//! What values a key takes, as an editor reads them: in YAML 1.2.

use serde_json::{Value, json};

use super::{Place, reference};
use crate::{config::schema::word, engine::limit::Unit};

pub(super) fn text() -> Value {
    json!({"type": ["string", "integer", "boolean", "null"]})
}

/// As `takes`, but neither absent nor empty.
pub(super) fn filled(mut takes: Value) -> Value {
    if let Some(types) = takes["type"].as_array_mut() {
        types.retain(|kind| kind != "null");
    }
    takes["minLength"] = json!(1);
    takes
}

pub(super) fn at_most(mut takes: Value, most: u64) -> Value {
    takes["maximum"] = json!(most);
    takes
}

/// As `takes`, in characters that may stand in a header.
pub(super) fn visible(mut takes: Value) -> Value {
    takes["pattern"] = json!("^[ -~]*$");
    takes["patternErrorMessage"] = json!("only characters that may stand in a header");
    takes
}

/// A value, not a pattern.
pub(super) fn one_value() -> Value {
    let mut takes = text();
    takes["pattern"] = json!("^[^*]*$");
    takes["patternErrorMessage"] = json!("one value, without *");
    takes
}

/// As `takes`, with what holds without it.
pub(super) fn or(mut takes: Value, default: Value) -> Value {
    takes["default"] = default;
    takes
}

pub(super) fn choice<T: Copy + PartialEq>(words: &[(&str, T)], default: Option<T>) -> Value {
    let mut all: Vec<Value> = words.iter().map(|(word, _)| json!(word)).collect();
    all.push(Value::Null);
    let takes = json!({"type": ["string", "null"], "enum": all});
    match default {
        Some(default) => or(takes, word(words, default).into()),
        None => takes,
    }
}

/// A word, or a list of them; among others, null says nothing.
pub(super) fn one_or_several(words: &[&str]) -> Value {
    let mut all: Vec<Value> = words.iter().copied().map(Value::from).collect();
    all.push(Value::Null);
    json!({
        "type": ["string", "array", "null"],
        "if": {"type": "string"},
        "then": {"enum": all},
        "items": {"enum": all},
    })
}

/// What YAML 1.1 takes for true, and YAML 1.2 for text.
pub(super) const YES: [&str; 8] = ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON"];
pub(super) const NO: [&str; 8] = ["n", "N", "no", "No", "NO", "off", "Off", "OFF"];

pub(super) fn flag() -> Value {
    json!({
        "type": ["boolean", "string", "null"],
        "pattern": format!("^({}|{})$", YES.join("|"), NO.join("|")),
        "errorMessage": "true or false, without quotes",
        "default": false,
    })
}

/// Text are numbers that only YAML 1.1 knows: `1_000`, `0b11`, `0X1F`.
pub(super) fn whole_number(from: u32) -> Value {
    json!({
        "type": ["integer", "string", "null"],
        "minimum": from,
        "maximum": u32::MAX,
        "pattern": "^[-+]?(0[bBoOxX][0-9a-fA-F_]+|[0-9]+_[0-9_]*)$",
        "patternErrorMessage": "a whole number, without quotes",
    })
}

/// Any text: what has to be a unit depends on the keys beside it.
pub(super) fn unit() -> Value {
    let mut takes = text();
    takes["examples"] = Unit::ALL.map(Unit::name).to_vec().into();
    takes
}

/// One of some units, in any letter case.
pub(super) fn one_of_units(units: &[Unit]) -> Value {
    let names: Vec<&str> = units.iter().map(|unit| unit.name()).collect();
    let any_case = |letter: char| format!("[{letter}{}]", letter.to_ascii_uppercase());
    let patterns = names
        .iter()
        .map(|name| name.chars().map(any_case).collect());
    let patterns: Vec<String> = patterns.collect();
    json!({
        "type": "string",
        "pattern": format!("^({})$", patterns.join("|")),
        "errorMessage": format!("one of {}", names.join(", ")),
    })
}

/// `10%`, `10` or `+10`; an editor takes the last two for numbers.
pub(super) fn percentage() -> Value {
    json!({
        "type": ["string", "integer", "null"],
        "pattern": "^[+]?0*([1-9][0-9]?|100)%?$",
        "minimum": 1,
        "maximum": 100,
        "errorMessage": "a share from 1% to 100%",
        "examples": ["10%"],
    })
}

/// Not all zeros; empty counts as absent.
pub(super) fn duration() -> Value {
    json!({
        "type": ["string", "null"],
        "pattern": "^(([0-9]+[smhd])*0*[1-9][0-9]*[smhd]([0-9]+[smhd])*)?$",
        "errorMessage": "whole seconds, such as 5s, 5m, 1h30m, 14d",
        "examples": ["5s", "5m", "1h30m", "14d"],
    })
}

/// The same, neither absent nor empty.
pub(super) fn required_duration() -> Value {
    let mut takes = filled(duration());
    takes["errorMessage"] = json!("whole seconds, such as 5s, 5m, 1h30m, 14d");
    takes
}

pub(super) fn limit_name() -> Value {
    let mut takes = text();
    takes["pattern"] = json!(r#"^[^"\\\u0000-\u001f\u007f-\u009f]*$"#);
    takes["patternErrorMessage"] = json!("without quotes, backslashes and control characters");
    takes
}

pub(super) fn map_of(place: Place) -> Value {
    json!({"type": ["object", "null"], "allOf": [reference(place)]})
}

pub(super) fn list_of(place: Place) -> Value {
    json!({
        "type": ["array", "null"],
        "items": {"type": "object", "allOf": [reference(place)], "errorMessage": "a map"},
    })
}
