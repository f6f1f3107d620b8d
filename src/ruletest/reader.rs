//! Reads nodes of an expected kind, and reports what is something else.

use serde_json::{Map, Number, Value as Json};

use crate::config::{
    problem::{Report, Stage, clip},
    scalar::{Meaning, meaning},
    yaml::{Mark, Node, Scalar, Value},
};

/// How much a name must resemble a known one to be taken for a slip.
const RESEMBLES: f64 = 0.6;

/// Reads the nodes of one file.
pub(super) struct Reader<'r, 'p> {
    pub(super) report: &'r mut Report<'p>,
    /// The test that is being read.
    pub(super) test: String,
}

/// A map whose keys have been checked.
pub(super) struct Fields<'n, 'a> {
    found: Vec<Found<'n, 'a>>,
}

/// A key, where it stands and its value.
type Found<'n, 'a> = (String, Mark, &'n Node<'a>);

// === impl Reader ===

impl Reader<'_, '_> {
    pub(super) fn mistake(&mut self, at: Mark, message: impl Into<String>, hint: Option<String>) {
        self.report.add(Stage::Rules, at, &self.test, message, hint);
    }

    /// As [`mistake`](Self::mistake), where a value is not one of `what`.
    pub(super) fn invalid(&mut self, node: &Node<'_>, what: &str, hint: &str) {
        let message = format!("{what} cannot be {}", shown(node));
        self.mistake(node.at, message, Some(format!("it is {hint}")));
    }

    /// Checks a map's keys against `known` ones.
    pub(super) fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
        known: &[&str],
    ) -> Option<Fields<'n, 'a>> {
        let (mut found, unknown): (Vec<_>, Vec<_>) = self
            .entries(node, what)?
            .into_iter()
            .partition(|(name, ..)| known.contains(&&**name));
        for (name, at, value) in unknown {
            let meant = nearest(&name, known);
            let hint = meant.map_or_else(
                || format!("{what} has {}", known.join(", ")),
                |meant| format!("did you mean {meant}?"),
            );
            self.mistake(at, format!("unknown key '{}'", clip(&name)), Some(hint));
            // Read as what was meant, so as not to be missed as well.
            let meant = meant.filter(|meant| found.iter().all(|(name, ..)| name != meant));
            found.extend(meant.map(|meant| (meant.to_owned(), at, value)));
        }
        Some(Fields { found })
    }

    /// A map's keys and values; keys are text, and no two are equal.
    pub(super) fn entries<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
    ) -> Option<Vec<Found<'n, 'a>>> {
        let Value::Map(entries) = node.value() else {
            self.invalid(node, what, "a map");
            return None;
        };
        let mut found: Vec<Found<'n, 'a>> = vec![];
        for (key, value) in entries {
            let Some(name) = key.text() else {
                self.mistake(key.at, "a list or a map cannot be a key", None);
                continue;
            };
            match found.iter().find(|(earlier, ..)| earlier == name) {
                None => found.push((name.to_owned(), key.at, value)),
                Some((_, first, _)) => {
                    let hint = format!("the first one is on line {}", first.line);
                    let message = format!("key '{}' is given twice", clip(name));
                    self.mistake(key.at, message, Some(hint));
                }
            }
        }
        Some(found)
    }

    /// A list that is not empty.
    pub(super) fn list<'n, 'a>(&mut self, node: &'n Node<'a>, what: &str) -> &'n [Node<'a>] {
        match node.value() {
            Value::List(elements) if !elements.is_empty() => elements,
            _ => {
                self.invalid(node, what, "a list with at least one element");
                &[]
            }
        }
    }

    /// A scalar as it is written, `10` and `"10"` alike; but not null.
    pub(super) fn text<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<&'n str> {
        match scalar(node) {
            Some((scalar, meaning)) if meaning != Meaning::Null => Some(&scalar.text),
            _ => {
                self.invalid(node, what, "text");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, node: &Node<'_>, what: &str) -> Option<bool> {
        match scalar(node) {
            Some((_, Meaning::Bool(flag))) => Some(flag),
            _ => {
                self.invalid(node, what, "true or false");
                None
            }
        }
    }

    /// A whole number from `least` on.
    pub(super) fn whole<T>(&mut self, node: &Node<'_>, what: &str, least: T) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + std::fmt::Display,
    {
        let number = match scalar(node) {
            Some((_, Meaning::Int(number))) => u64::try_from(number).ok(),
            Some((_, Meaning::Large(number))) => Some(number),
            _ => None,
        };
        let number = number.and_then(|number| T::try_from(number).ok());
        let number = number.filter(|number| *number >= least);
        if number.is_none() {
            self.invalid(node, what, &format!("a whole number from {least} on"));
        }
        number
    }

    /// Any data, as JSON.
    pub(super) fn json(&mut self, node: &Node<'_>, what: &str) -> Option<Json> {
        match node.value() {
            Value::Scalar(scalar) => {
                let json = json_of(scalar);
                if json.is_none() {
                    self.invalid(node, what, "text, a number, true, false or null");
                }
                json
            }
            Value::List(elements) => {
                let elements = elements.iter().map(|element| self.json(element, what));
                elements.collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Value::Map(_) => {
                let mut map = Map::new();
                for (name, _, value) in self.entries(node, what)? {
                    map.insert(name, self.json(value, what)?);
                }
                Some(Json::Object(map))
            }
        }
    }
}

fn json_of(scalar: &Scalar<'_>) -> Option<Json> {
    match meaning(scalar) {
        Meaning::Null => Some(Json::Null),
        Meaning::Bool(flag) => Some(flag.into()),
        Meaning::Int(number) => Some(number.into()),
        Meaning::Large(number) => Some(number.into()),
        Meaning::Float(number) => Number::from_f64(number).map(Json::Number),
        Meaning::Text => Some(scalar.text.as_ref().into()),
        Meaning::Mistagged => None,
    }
}

// === impl Fields ===

impl<'n, 'a> Fields<'n, 'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'n Node<'a>> {
        let mut found = self.found.iter();
        let (_, _, node) = found.find(|(known, ..)| known == name)?;
        Some(node)
    }

    /// All of them, in file order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'n Node<'a>)> {
        self.found.iter().map(|(name, _, node)| (&**name, *node))
    }
}

/// A scalar and its meaning.
pub(super) fn scalar<'n, 'a>(node: &'n Node<'a>) -> Option<(&'n Scalar<'a>, Meaning)> {
    match node.value() {
        Value::Scalar(scalar) => Some((scalar, meaning(scalar))),
        _ => None,
    }
}

/// The known name that `name` is a slip of.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 100 {
        return None;
    }
    let name = name.to_lowercase().replace(['-', ' '], "_");
    let scored = known.iter().map(|known| {
        let score = strsim::normalized_damerau_levenshtein(&name, known);
        (*known, score)
    });
    let best = scored.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.filter(|(_, score)| *score > RESEMBLES)
        .map(|(known, _)| known)
}

fn shown(node: &Node<'_>) -> String {
    match node.value() {
        Value::List([]) => "an empty list".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
        Value::Scalar(scalar) if meaning(scalar) == Meaning::Null => "empty".to_owned(),
        Value::Scalar(scalar) => format!("`{}`", clip(&scalar.text)),
    }
}
