//! A rule's `metadata` → the engine's free data.

use std::collections::BTreeMap;

use crate::engine::metadata;

use super::{
    problem::clip,
    scalar::{Meaning, meaning},
    yaml::{Mark, Node, Value},
};

/// Maps and lists may nest this deep: each level becomes three messages in
/// an answer, and protobuf's readers stop at a hundred.
pub(super) const MAX_DEPTH: usize = 24;

/// Mistakes of one rule that are told.
const MAX_MISTAKES: usize = 1_000;

/// Converts the metadata of one rule.
#[derive(Debug, Default)]
pub(super) struct Converter {
    compat: bool,
    depth: usize,
    /// What could not be converted.
    pub(super) mistakes: Vec<(Mark, String)>,
}

// === impl Converter ===

impl Converter {
    pub(super) fn new(compat: bool) -> Self {
        Self {
            compat,
            ..Self::default()
        }
    }

    fn mistake(&mut self, at: Mark, message: String) {
        if self.mistakes.len() < MAX_MISTAKES {
            self.mistakes.push((at, message));
        }
    }

    pub(super) fn map(&mut self, entries: &[(Node<'_>, Node<'_>)]) -> metadata::Map {
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let Some(name) = self.key(key) else {
                continue;
            };
            let value = self.value(value);
            if map.insert(name.clone(), value).is_some() && !self.compat {
                let message = format!("key '{}' is given twice", clip(&name));
                self.mistake(key.at, message);
            }
        }
        map
    }

    /// Keys are text in the end: `y` becomes `true`, as in the reference.
    fn key(&mut self, key: &Node<'_>) -> Option<String> {
        let Value::Scalar(scalar) = key.value() else {
            let message = "a list or a map cannot be a key".to_owned();
            self.mistake(key.at, message);
            return None;
        };
        Some(match meaning(scalar) {
            Meaning::Null => "<nil>".to_owned(),
            Meaning::Bool(value) => value.to_string(),
            Meaning::Int(number) => number.to_string(),
            Meaning::Large(number) => number.to_string(),
            Meaning::Float(number) => number.to_string(),
            Meaning::Text | Meaning::Mistagged => scalar.text.clone().into_owned(),
        })
    }

    fn value(&mut self, node: &Node<'_>) -> metadata::Value {
        match node.value() {
            Value::Scalar(scalar) => self.scalar(node.at, meaning(scalar), &scalar.text),
            _ if self.depth == MAX_DEPTH => {
                let message = format!("nested more than {MAX_DEPTH} levels deep");
                self.mistake(node.at, message);
                metadata::Value::Null
            }
            Value::List(elements) => {
                self.depth += 1;
                let list = elements.iter().map(|element| self.value(element)).collect();
                self.depth -= 1;
                metadata::Value::List(list)
            }
            Value::Map(entries) => {
                self.depth += 1;
                let map = self.map(entries);
                self.depth -= 1;
                metadata::Value::Map(map)
            }
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "the wire format has floats only"
    )]
    fn scalar(&mut self, at: Mark, meaning: Meaning, text: &str) -> metadata::Value {
        match meaning {
            Meaning::Null => metadata::Value::Null,
            Meaning::Bool(value) => metadata::Value::Bool(value),
            Meaning::Int(number) => metadata::Value::Number(number as f64),
            Meaning::Large(number) => metadata::Value::Number(number as f64),
            Meaning::Float(number) if number.is_finite() => metadata::Value::Number(number),
            Meaning::Text => metadata::Value::Text(text.to_owned()),
            Meaning::Float(_) => {
                let message = format!("{text} is not a finite number");
                self.mistake(at, message);
                metadata::Value::Null
            }
            Meaning::Mistagged => {
                let message = "the value is not what its tag says".to_owned();
                self.mistake(at, message);
                metadata::Value::Null
            }
        }
    }
}
