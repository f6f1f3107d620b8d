//! Free data that a rule attaches to answers.

use std::collections::BTreeMap;

/// A JSON-like value, without anything a protobuf `Struct` cannot hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map.
    Map(Map),
}

/// Named values, sorted.
pub type Map = BTreeMap<String, Value>;

/// Adds to `into` what it lacks of `more`: a present key stays, two maps
/// under one key merge in the same way.
pub fn merge(into: &mut Map, more: &Map) {
    for (key, value) in more {
        match (into.get_mut(key), value) {
            (Some(Value::Map(mine)), Value::Map(theirs)) => merge(mine, theirs),
            (Some(_), _) => {}
            (None, _) => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(pairs: [(&str, Value); N]) -> Map {
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    #[test]
    fn present_keys_stay_and_maps_merge() {
        let mut into = map([
            ("a", Value::Bool(true)),
            ("m", Value::Map(map([("x", Value::Number(1.0))]))),
        ]);
        let more = map([
            ("a", Value::Null),
            ("b", Value::Text("new".into())),
            (
                "m",
                Value::Map(map([("x", Value::Number(2.0)), ("y", Value::Number(3.0))])),
            ),
        ]);
        merge(&mut into, &more);
        let expected = map([
            ("a", Value::Bool(true)),
            ("b", Value::Text("new".into())),
            (
                "m",
                Value::Map(map([("x", Value::Number(1.0)), ("y", Value::Number(3.0))])),
            ),
        ]);
        assert_eq!(into, expected);
    }
}
