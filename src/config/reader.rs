//! Reads nodes of an expected kind, and reports what is something else.
//!
//! The reference checks in two passes, first the names and kinds of
//! everything, then whether values fit their fields. Here it is one pass,
//! which goes on after a mistake and tells the passes apart by [`Stage`].

use crate::engine::metadata;

use super::{
    metadata::Converter,
    problem::{LOADING, Report, Stage, clip},
    scalar::{Meaning, meaning},
    schema::{Choice, Field, is_nothing},
    yaml::{Mark, Node, Scalar, Value},
};

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Domain,
    Descriptor,
    RateLimit,
    Replace,
    WarmUp,
    Responses,
}

/// Every key and its places; what they mean is told by [`super::json_schema`].
pub(super) const KEYS: [(&str, &[Place]); 46] = [
    ("domain", &[Place::Domain]),
    ("key", &[Place::Descriptor]),
    ("value", &[Place::Descriptor]),
    ("descriptors", &[Place::Domain, Place::Descriptor]),
    ("rate_limit", &[Place::Descriptor]),
    ("unit", &[Place::RateLimit]),
    ("requests_per_unit", &[Place::RateLimit]),
    ("unit_multiplier", &[Place::RateLimit]),
    ("window", &[Place::RateLimit]),
    ("unlimited", &[Place::RateLimit]),
    ("accuracy", &[Place::RateLimit]),
    ("rate_limits", &[Place::Descriptor]),
    ("responses", &[Place::Domain, Place::Descriptor]),
    ("headers", &[Place::Responses]),
    ("reset", &[Place::Responses]),
    ("retry_after", &[Place::Responses]),
    ("body", &[Place::Responses]),
    ("content_type", &[Place::Responses]),
    ("status_text", &[Place::Responses]),
    ("time_zone", &[Place::RateLimit]),
    ("week_starts", &[Place::RateLimit]),
    ("algorithm", &[Place::RateLimit]),
    ("burst", &[Place::RateLimit]),
    ("max_queue", &[Place::RateLimit]),
    ("count", &[Place::RateLimit]),
    ("approximate", &[Place::RateLimit]),
    ("exact_up_to", &[Place::RateLimit]),
    ("remember", &[Place::RateLimit]),
    ("lockout", &[Place::RateLimit]),
    ("warm_up", &[Place::RateLimit]),
    ("from", &[Place::WarmUp]),
    ("over", &[Place::WarmUp]),
    ("flag_only", &[Place::RateLimit]),
    ("notify_below", &[Place::RateLimit]),
    ("opens_for", &[Place::RateLimit]),
    ("opened_by", &[Place::RateLimit]),
    ("charge", &[Place::Domain]),
    ("on_store_failure", &[Place::Domain]),
    ("shadow_mode", &[Place::Descriptor]),
    ("quota_mode", &[Place::Descriptor]),
    ("name", &[Place::RateLimit, Place::Replace]),
    ("replaces", &[Place::RateLimit]),
    ("detailed_metric", &[Place::Descriptor]),
    ("value_to_metric", &[Place::Descriptor]),
    ("share_threshold", &[Place::Descriptor]),
    (METADATA, &[Place::Descriptor]),
];

/// Those that the reference does not know: nowhere does it let them pass.
const OURS: [&str; 30] = [
    "accuracy",
    "algorithm",
    "approximate",
    "body",
    "burst",
    "charge",
    "content_type",
    "count",
    "exact_up_to",
    "flag_only",
    "from",
    "headers",
    "lockout",
    "max_queue",
    "notify_below",
    "on_store_failure",
    "opened_by",
    "opens_for",
    "over",
    "rate_limits",
    "remember",
    "reset",
    "responses",
    "retry_after",
    "status_text",
    "time_zone",
    "unit_multiplier",
    "warm_up",
    "week_starts",
    "window",
];

/// Free data: keys and types below it are the operator's own.
pub(super) const METADATA: &str = "metadata";

/// A map whose keys have been checked.
#[derive(Debug)]
pub(super) struct Fields<'n, 'a> {
    /// Where the map begins.
    pub(super) at: Mark,
    found: Vec<Found<'n, 'a>>,
}

/// A known key, where it stands and its value.
type Found<'n, 'a> = (&'static str, Mark, &'n Node<'a>);

/// Reads the nodes of one file.
pub(super) struct Reader<'r, 'p> {
    pub(super) report: &'r mut Report<'p>,
    pub(super) compat: bool,
    /// Where in the tree of rules we are.
    pub(super) path: String,
    /// How many levels of descriptors deep.
    pub(super) level: usize,
}

// === impl Reader ===

impl<'p> Reader<'_, 'p> {
    /// Checks a map's keys and gives the values of those that belong there.
    pub(super) fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        place: Place,
        what: &str,
    ) -> Option<Fields<'n, 'a>> {
        let Value::Map(entries) = node.value() else {
            self.mismatch(node, what, "a map");
            return None;
        };
        let mut found: Vec<Found<'n, 'a>> = vec![];
        let mut meant = vec![];
        for (key, value) in entries {
            let Some(name) = self.key(key) else {
                continue;
            };
            match KEYS.iter().find(|(known, _)| *known == name) {
                Some((known, places)) if places.contains(&place) => {
                    self.set(&mut found, (known, key.at, value));
                }
                Some((known, places)) => self.misplaced(known, places, key.at, value),
                None => {
                    let nearest = self.nearest(name, place);
                    self.unknown(name, key.at, nearest);
                    meant.extend(nearest.map(|known| (known, key.at, value)));
                }
            }
        }
        // A mistyped name is read as what was meant, to find what is wrong
        // below it and not to miss it as well.
        for meant in meant {
            let belongs = allowed(meant.0).contains(&place);
            if belongs && found.iter().all(|(name, ..)| *name != meant.0) {
                found.push(meant);
            }
        }
        let at = node.at;
        Some(Fields { at, found })
    }

    fn set<'n, 'a>(&mut self, found: &mut Vec<Found<'n, 'a>>, new: Found<'n, 'a>) {
        let (known, at, _) = new;
        match found.iter_mut().find(|(name, ..)| *name == known) {
            None => found.push(new),
            Some(earlier) => {
                if !self.compat {
                    let message = format!("key '{known}' is given twice");
                    let hint = format!("the first one is on line {}", earlier.1.line);
                    self.problem(Stage::Keys, at, message, Some(hint));
                }
                *earlier = new;
            }
        }
    }

    /// A key as text; reports what is none.
    fn key<'n>(&mut self, key: &'n Node<'_>) -> Option<&'n str> {
        match key.value() {
            Value::Scalar(scalar) if meaning(scalar) == Meaning::Text => Some(&scalar.text),
            Value::Scalar(_) => {
                let message = format!("config error, key is not of type string: {}", shown(key));
                let hint = self.quoted(key);
                self.problem(Stage::Keys, key.at, message, hint);
                None
            }
            _ => {
                let message = format!("{LOADING}a list or a map cannot be a key");
                self.problem(Stage::Syntax, key.at, message, None);
                None
            }
        }
    }

    fn nearest(&self, name: &str, place: Place) -> Option<&'static str> {
        // Comparing a million keys takes seconds.
        let wanted = !self.report.is_full();
        wanted.then(|| nearest(name, place)).flatten()
    }

    fn unknown(&mut self, name: &str, at: Mark, nearest: Option<&'static str>) {
        let message = format!("config error, unknown key '{}'", clip(name));
        let hint = nearest.map(|known| format!("did you mean {known}?"));
        self.problem(Stage::Keys, at, message, hint);
    }

    /// The reference takes a known key anywhere and ignores it.
    fn misplaced(&mut self, known: &str, places: &[Place], at: Mark, value: &Node<'_>) {
        if self.compat && !OURS.contains(&known) {
            if known != METADATA {
                self.check_keys(value);
            }
            return;
        }
        let message = format!("config error, key '{known}' does not belong here");
        let homes: Vec<_> = places.iter().map(|place| place.name()).collect();
        let hint = format!("{known} goes into {}", homes.join(" or "));
        self.problem(Stage::Keys, at, message, Some(hint));
    }

    pub(super) fn text(&mut self, node: Option<&Node<'_>>, what: &str) -> Field<String> {
        let Some(node) = node else {
            return Field::Absent;
        };
        match scalar(node) {
            Some((_, Meaning::Null)) => Field::Absent,
            Some((scalar, Meaning::Bool(_) | Meaning::Int(_) | Meaning::Text)) => {
                Field::Given(scalar.text.clone().into_owned(), node.at)
            }
            _ => {
                self.mismatch(node, what, "text");
                Field::Broken
            }
        }
    }

    pub(super) fn flag(&mut self, fields: &Fields<'_, '_>, what: &'static str) -> bool {
        let Some(node) = fields.get(what) else {
            return false;
        };
        match scalar(node) {
            Some((_, Meaning::Bool(value))) => value,
            Some((_, Meaning::Null)) => false,
            _ => {
                self.mismatch(node, what, "true or false");
                false
            }
        }
    }

    /// True or false, where it is said.
    pub(super) fn said_flag(
        &mut self,
        fields: &Fields<'_, '_>,
        what: &'static str,
    ) -> Choice<bool> {
        let said = fields.get(what).filter(|node| !is_nothing(node));
        let at = said.map(|node| node.at);
        let value = self.flag(fields, what);
        at.map_or(Choice::Absent, |at| Choice::Given(value, at))
    }

    /// One of `words`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        node: Option<&Node<'_>>,
        what: &str,
        words: &[(&str, T)],
    ) -> Choice<T> {
        let Field::Given(text, at) = self.text(node, what) else {
            return Choice::Absent;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Choice::Given(*value, at);
        }
        let message = format!("invalid {what} '{}'", clip(&text));
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = format!("it is one of {}", words.join(", "));
        self.problem(Stage::Rules, at, message, Some(hint));
        Choice::Absent
    }

    /// A whole number from 1 on.
    pub(super) fn positive(&mut self, node: Option<&Node<'_>>, what: &str) -> Field<u32> {
        let Some(node) = node else {
            return Field::Absent;
        };
        match scalar(node) {
            Some((_, Meaning::Null)) => Field::Absent,
            Some((_, Meaning::Int(number))) => match u32::try_from(number) {
                Ok(number @ 1..) => Field::Given(number, node.at),
                Ok(0) | Err(_) => {
                    let message = format!("{LOADING}{what} must be from 1 to {}", u32::MAX);
                    self.problem(Stage::Types, node.at, message, None);
                    Field::Broken
                }
            },
            _ => {
                self.mismatch(node, what, "a whole number");
                Field::Broken
            }
        }
    }

    pub(super) fn number(&mut self, node: Option<&Node<'_>>, what: &str) -> u32 {
        let Some(node) = node else {
            return 0;
        };
        match scalar(node) {
            Some((_, Meaning::Null)) => 0,
            Some((_, Meaning::Int(number))) => u32::try_from(number).unwrap_or_else(|_| {
                let message = format!("{LOADING}{what} must be from 0 to {}", u32::MAX);
                self.problem(Stage::Types, node.at, message, None);
                0
            }),
            _ => {
                self.mismatch(node, what, "a whole number");
                0
            }
        }
    }

    /// A list of maps; nothing when it is null.
    pub(super) fn list<'n, 'a>(
        &mut self,
        node: Option<&'n Node<'a>>,
        what: &str,
    ) -> &'n [Node<'a>] {
        let Some(node) = node.filter(|node| !is_nothing(node)) else {
            return &[];
        };
        let Value::List(elements) = node.value() else {
            self.mismatch(node, what, "a list");
            return &[];
        };
        let is_map = |node: &Node<'_>| matches!(node.value(), Value::Map(_));
        if elements.iter().all(is_map) {
            return elements;
        }
        self.check_keys(node);
        &[]
    }

    pub(super) fn metadata(&mut self, node: Option<&Node<'_>>) -> metadata::Map {
        let Some(node) = node.filter(|node| !is_nothing(node)) else {
            return metadata::Map::new();
        };
        let Value::Map(entries) = node.value() else {
            let message = format!("{LOADING}metadata should be a map, but is {}", kind(node));
            self.problem(Stage::Types, node.at, message, None);
            return metadata::Map::new();
        };
        let mut converter = Converter::new(self.compat);
        let map = converter.map(entries);
        for (at, message) in converter.mistakes {
            let message = format!("error parsing metadata: {message}");
            self.problem(Stage::Rules, at, message, None);
        }
        map
    }

    /// Reports a value of the wrong kind, as the reference would: it first
    /// looks at keys and floats everywhere.
    fn mismatch(&mut self, node: &Node<'_>, what: &str, wanted: &str) {
        let before = self.report.count();
        self.check_keys(node);
        if self.report.count() > before {
            return;
        }
        let message = format!("{LOADING}{what} should be {wanted}, but is {}", kind(node));
        let hint = match scalar(node) {
            Some((scalar, Meaning::Text)) if !scalar.plain && wanted != "text" => {
                Some("without quotes it is not text".to_owned())
            }
            _ => None,
        };
        self.problem(Stage::Types, node.at, message, hint);
    }

    /// What the reference checks of everything, wherever it stands.
    fn check_keys(&mut self, node: &Node<'_>) {
        match node.value() {
            Value::Scalar(scalar) => match meaning(scalar) {
                Meaning::Float(_) | Meaning::Large(_) => {
                    let hint = self.quoted(node);
                    self.problem(Stage::Keys, node.at, "error checking config", hint);
                }
                Meaning::Mistagged => {
                    let message = format!("{LOADING}the value is not what its tag says");
                    self.problem(Stage::Syntax, node.at, message, None);
                }
                _ => {}
            },
            Value::List(elements) => self.check_elements(elements),
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let Some(name) = self.key(key) {
                        if KEYS.iter().all(|(known, _)| *known != name) {
                            let nearest = self.nearest(name, Place::Descriptor);
                            self.unknown(name, key.at, nearest);
                        } else if name != METADATA {
                            self.check_keys(value);
                        }
                    }
                }
            }
        }
    }

    fn check_elements(&mut self, elements: &[Node<'_>]) {
        for element in elements {
            if let Value::Map(_) = element.value() {
                self.check_keys(element);
            } else {
                let message = format!(
                    "config error, yaml file contains list of type other than map: {}",
                    shown(element)
                );
                self.problem(Stage::Keys, element.at, message, None);
            }
        }
    }

    fn quoted(&self, node: &Node<'_>) -> Option<String> {
        let text = node.text().filter(|text| !text.is_empty())?;
        Some(format!("if text is meant, write \"{}\"", clip(text)))
    }

    pub(super) fn problem(
        &mut self,
        stage: Stage,
        at: Mark,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.report.add(stage, at, &self.path, message, hint);
    }
}

// === impl Fields ===

impl<'n, 'a> Fields<'n, 'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'n Node<'a>> {
        let mut found = self.found.iter();
        found
            .find(|(known, ..)| *known == name)
            .map(|(_, _, node)| *node)
    }
}

// === impl Place ===

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Domain => "the top level",
            Self::Descriptor => "a descriptor",
            Self::RateLimit => "rate_limit",
            Self::Replace => "an element of replaces",
            Self::WarmUp => "warm_up",
            Self::Responses => "responses",
        }
    }
}

fn allowed(name: &str) -> &'static [Place] {
    let known = KEYS.iter().find(|(known, _)| *known == name);
    known.map_or(&[], |(_, places)| places)
}

/// The known key that resembles `name` most, those of `place` first.
fn nearest(name: &str, place: Place) -> Option<&'static str> {
    if name.len() > 40 {
        return None;
    }
    let name = name.to_lowercase().replace(['-', ' '], "_");
    let mut best: Option<&'static str> = None;
    let mut best_score = 0.7;
    for (known, places) in KEYS {
        let here = places.contains(&place);
        let score = strsim::normalized_damerau_levenshtein(&name, known);
        let score = score + if here { 0.1 } else { 0.0 };
        if score > best_score {
            best = Some(known);
            best_score = score;
        }
    }
    best
}

/// A scalar and its meaning.
pub(super) fn scalar<'n, 'a>(node: &'n Node<'a>) -> Option<(&'n Scalar<'a>, Meaning)> {
    match node.value() {
        Value::Scalar(scalar) => Some((scalar, meaning(scalar))),
        _ => None,
    }
}

fn kind(node: &Node<'_>) -> String {
    match node.value() {
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
        Value::Scalar(scalar) if scalar.text.is_empty() => "empty".to_owned(),
        Value::Scalar(scalar) if scalar.plain => format!("`{}`", clip(&scalar.text)),
        Value::Scalar(scalar) => format!("the text \"{}\"", clip(&scalar.text)),
    }
}

/// A value the way the reference prints it.
fn shown(node: &Node<'_>) -> String {
    let mut text = String::new();
    show(node, &mut text);
    clip(&text)
}

fn show(node: &Node<'_>, text: &mut String) {
    // What follows would be cut off anyway.
    if text.len() > 1_000 {
        return;
    }
    match node.value() {
        Value::Scalar(scalar) => match meaning(scalar) {
            Meaning::Null => text.push_str("<nil>"),
            Meaning::Bool(value) => text.push_str(if value { "true" } else { "false" }),
            Meaning::Int(number) => text.push_str(&number.to_string()),
            Meaning::Large(number) => text.push_str(&number.to_string()),
            Meaning::Float(number) => text.push_str(&number.to_string()),
            Meaning::Text | Meaning::Mistagged => text.push_str(&clip(&scalar.text)),
        },
        Value::List(elements) => {
            text.push('[');
            for (index, element) in elements.iter().enumerate().take(200) {
                text.push_str(if index > 0 { " " } else { "" });
                show(element, text);
            }
            text.push(']');
        }
        Value::Map(entries) => {
            text.push_str("map[");
            for (index, (key, value)) in entries.iter().enumerate().take(200) {
                text.push_str(if index > 0 { " " } else { "" });
                show(key, text);
                text.push(':');
                show(value, text);
            }
            text.push(']');
        }
    }
}
