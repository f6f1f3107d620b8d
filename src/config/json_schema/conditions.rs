//! What keys say together: what excludes what, and what needs what.

use serde_json::{Map, Value, json};

use super::{
    Field, Place,
    values::{NO, YES, one_of_units},
};
use crate::{
    config::{
        limits::{MOST_IN_LOG, MOST_VALUES},
        schema::{ACCURACY, ALGORITHM, Accuracy, COUNT, Count, Kind, word},
    },
    engine::{limit::Unit, plan::MOST_LIMITS},
};

/// What concerns several keys of a place.
pub(super) fn conditions(place: Place, fields: &[Field]) -> Vec<Value> {
    match place {
        Place::Descriptor => vec![shared_by_a_wildcard(), several()],
        Place::RateLimit => [length(), unlimited(fields), gate(fields)]
            .into_iter()
            .chain(goes_with())
            .collect(),
        Place::Domain | Place::Replace | Place::WarmUp | Place::Responses => vec![],
    }
}

/// A limit says once how long its window is.
fn length() -> Value {
    json!({
        "if": {"anyOf": [is_yes("unlimited"), given("opens_for")]},
        "else": {
            "if": given("window"),
            "then": {"properties": {
                "unit": absent("window"),
                "unit_multiplier": absent("window"),
                "time_zone": absent("window"),
                "week_starts": absent("window"),
            }},
            "else": {"properties": {"unit": one_of_units(&Unit::ALL)}, "required": ["unit"]},
        },
    })
}

/// Without a limit there is nothing to say about it, but for what is ignored.
fn unlimited(fields: &[Field]) -> Value {
    let beside = ["unlimited", "requests_per_unit", "name", "replaces"];
    let mut others = others(fields, &beside, "unlimited");
    others["unit"] = when(one_of_units(&Unit::ALL), absent("unlimited"));
    when(is_yes("unlimited"), json!({"properties": others}))
}

/// A gate has an opener, and no window.
fn gate(fields: &[Field]) -> Value {
    let beside = [
        "opens_for",
        "opened_by",
        "flag_only",
        "unlimited",
        "requests_per_unit",
        "name",
        "replaces",
    ];
    let others = others(fields, &beside, "opens_for");
    json!({
        "if": given("opens_for"),
        "then": {"allOf": [given("opened_by"), {"properties": others}]},
        "else": {"properties": {"opened_by": absent("a window")}},
    })
}

/// All keys of a limit but some, absent.
fn others(fields: &[Field], but: &[&str], beside: &str) -> Value {
    let of_limits = |field: &&Field| field.places.contains(&Place::RateLimit);
    fields
        .iter()
        .filter(of_limits)
        .filter(|field| !but.contains(&field.key))
        .map(|field| (field.key.to_owned(), absent(beside)))
        .collect::<Map<_, _>>()
        .into()
}

/// What a limit says only together with something else.
fn goes_with() -> Vec<Value> {
    use Kind::{FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, TokenBucket};
    let algorithm = |kinds: &[Kind]| says("algorithm", &ALGORITHM, kinds);
    let is_fixed = || says_or_not("algorithm", &ALGORITHM, &[FixedWindow]);
    let fixed_or_sliding = says_or_not("algorithm", &ALGORITHM, &[FixedWindow, SlidingWindow]);
    let refuses = [FixedWindow, SlidingWindow, SlidingLog, TokenBucket];
    let refuses = says_or_not("algorithm", &ALGORITHM, &refuses);
    let values = || says("count", &COUNT, &[Count::DistinctValues]);
    let hits = || says_or_not("count", &COUNT, &[Count::Hits]);
    let one_by_one = || both(values(), is_no("approximate", "values that are kept"));
    let unit =
        |units: &[Unit]| json!({"properties": {"unit": one_of_units(units)}, "required": ["unit"]});
    let days = [Unit::Day, Unit::Week, Unit::Month, Unit::Year];
    let calendar = || {
        both(
            is_fixed(),
            absent_key("unit_multiplier", "time_zone and week_starts"),
        )
    };
    let plain = both(
        absent_key("lockout", "leased"),
        absent_key("warm_up", "leased"),
    );
    vec![
        when(given("burst"), algorithm(&[TokenBucket, LeakyBucket])),
        when(given("max_queue"), algorithm(&[LeakyBucket])),
        when(algorithm(&[LeakyBucket]), given("max_queue")),
        when(given("approximate"), values()),
        when(given("exact_up_to"), is_yes("approximate")),
        when(given("remember"), one_by_one()),
        when(values(), is_fixed()),
        when(given("lockout"), both(hits(), refuses)),
        when(given("warm_up"), both(hits(), fixed_or_sliding)),
        when(given("time_zone"), both(calendar(), unit(&days))),
        when(given("week_starts"), both(calendar(), unit(&[Unit::Week]))),
        when(
            says("accuracy", &ACCURACY, &[Accuracy::Leased]),
            both(both(hits(), is_fixed()), plain),
        ),
        when(algorithm(&[SlidingLog]), at_most_requests(MOST_IN_LOG)),
        when(one_by_one(), at_most_requests(MOST_VALUES)),
    ]
}

/// A descriptor's list of limits.
fn several() -> Value {
    json!({
        "properties": {"rate_limits": {
            "maxItems": MOST_LIMITS,
            "items": is_no("unlimited", "other limits"),
        }},
        "if": is_yes("quota_mode"),
        "then": {"properties": {"rate_limits": {"maxItems": 1}}},
    })
}

fn shared_by_a_wildcard() -> Value {
    let wildcard = json!({
        "type": "string",
        "pattern": r"\*",
        "errorMessage": "share_threshold goes with a * in key or value",
    });
    json!({
        "if": is_yes("share_threshold"),
        "then": {
            "if": {"properties": {"value": wildcard}, "required": ["value"]},
            "else": {"properties": {"key": wildcard}},
        },
    })
}

// === what conditions are made of ===

fn when(condition: Value, then: Value) -> Value {
    json!({"if": condition, "then": then})
}

fn both(one: Value, other: Value) -> Value {
    json!({"allOf": [one, other]})
}

fn not(condition: Value) -> Value {
    json!({"not": condition})
}

/// Something is said of `key`.
fn given(key: &str) -> Value {
    is(key, not(json!({"enum": [null, ""]})))
}

/// The flag `key` is set.
fn is_yes(key: &str) -> Value {
    let mut yes: Vec<Value> = vec![true.into()];
    yes.extend(YES.map(Value::from));
    is(key, json!({"enum": yes}))
}

/// The flag `key` is not set.
fn is_no(key: &str, beside: &str) -> Value {
    let mut no: Vec<Value> = vec![false.into(), Value::Null];
    no.extend(NO.map(Value::from));
    let message = format!("not beside {beside}");
    json!({"properties": {key: {"enum": no, "errorMessage": message}}})
}

/// `key` is there, with one of `which`.
fn says<T: Copy + PartialEq>(key: &str, words: &[(&str, T)], which: &[T]) -> Value {
    let which: Vec<_> = which.iter().map(|&it| word(words, it)).collect();
    is(key, json!({"enum": which}))
}

/// The same, or nothing is said of `key`.
fn says_or_not<T: Copy + PartialEq>(key: &str, words: &[(&str, T)], which: &[T]) -> Value {
    let mut which: Vec<Value> = which.iter().map(|&it| word(words, it).into()).collect();
    which.push(Value::Null);
    json!({"properties": {key: {"enum": which}}})
}

fn is(key: &str, value: Value) -> Value {
    json!({"type": "object", "properties": {key: value}, "required": [key]})
}

fn at_most_requests(most: u32) -> Value {
    json!({"properties": {"requests_per_unit": {"maximum": most}}})
}

fn absent_key(key: &str, beside: &str) -> Value {
    json!({"properties": {key: absent(beside)}})
}

fn absent(beside: &str) -> Value {
    json!({"type": "null", "errorMessage": format!("not beside {beside}")})
}
