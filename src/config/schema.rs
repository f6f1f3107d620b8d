//! A document's nodes → typed definitions.
//!
//! What is found here concerns one place by itself: names, kinds, types.
//! What concerns several (an empty key, a limit's parts, equal keys) is
//! found by [`super::compile`].

use crate::engine::metadata;

use super::{
    metadata::Converter,
    problem::{LOADING, Report, Stage, clip},
    scalar::{Meaning, meaning},
    yaml::{Mark, Node, Scalar, Value},
};

/// Levels of descriptors below each other.
const MAX_LEVELS: usize = 100;

/// One document.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) at: Mark,
    pub(super) name: Field<String>,
    pub(super) descriptors: Vec<Descriptor>,
}

/// An element of `descriptors`.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) at: Mark,
    pub(super) key: Field<String>,
    pub(super) value: Field<String>,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) shadow_mode: bool,
    pub(super) quota_mode: bool,
    pub(super) detailed_metric: bool,
    pub(super) value_to_metric: bool,
    pub(super) share_threshold: bool,
    pub(super) metadata: metadata::Map,
    pub(super) descriptors: Vec<Descriptor>,
}

/// A `rate_limit`.
#[derive(Debug)]
pub(super) struct RateLimit {
    pub(super) at: Mark,
    pub(super) unit: Field<String>,
    pub(super) requests_per_unit: u32,
    pub(super) unlimited: bool,
    pub(super) name: Field<String>,
    /// The `name` of each, and where it stands.
    pub(super) replaces: Vec<(Mark, Field<String>)>,
}

/// What a file says about a field.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    /// Something wrong, which has been reported.
    Broken,
    /// This.
    Given(T, Mark),
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Domain,
    Descriptor,
    RateLimit,
    Replace,
}

/// Every key and its places.
const KEYS: [(&str, &[Place]); 16] = [
    ("domain", &[Place::Domain]),
    ("key", &[Place::Descriptor]),
    ("value", &[Place::Descriptor]),
    ("descriptors", &[Place::Domain, Place::Descriptor]),
    ("rate_limit", &[Place::Descriptor]),
    ("unit", &[Place::RateLimit]),
    ("requests_per_unit", &[Place::RateLimit]),
    ("unlimited", &[Place::RateLimit]),
    ("shadow_mode", &[Place::Descriptor]),
    ("quota_mode", &[Place::Descriptor]),
    ("name", &[Place::RateLimit, Place::Replace]),
    ("replaces", &[Place::RateLimit]),
    ("detailed_metric", &[Place::Descriptor]),
    ("value_to_metric", &[Place::Descriptor]),
    ("share_threshold", &[Place::Descriptor]),
    (METADATA, &[Place::Descriptor]),
];

/// Free data: keys and types below it are the operator's own.
const METADATA: &str = "metadata";

/// A map whose keys have been checked.
#[derive(Debug)]
struct Fields<'n, 'a> {
    at: Mark,
    found: Vec<(&'static str, &'n Node<'a>)>,
}

/// Reads the nodes of one file.
pub(super) struct Reader<'r, 'p> {
    report: &'r mut Report<'p>,
    compat: bool,
    /// Where in the tree of rules we are.
    path: String,
    level: usize,
}

/// Reads one document. `None` when it is not a map; that and all other
/// mistakes are reported.
pub(super) fn read(document: &Node<'_>, report: &mut Report<'_>, compat: bool) -> Option<Domain> {
    let mut reader = Reader {
        report,
        compat,
        path: String::new(),
        level: 0,
    };
    reader.domain(document)
}

/// The empty document.
pub(super) fn nothing() -> Domain {
    Domain {
        at: Mark::START,
        name: Field::Absent,
        descriptors: vec![],
    }
}

/// Whether a document says nothing.
pub(super) fn is_nothing(document: &Node<'_>) -> bool {
    matches!(document.value(), Value::Scalar(scalar) if meaning(scalar) == Meaning::Null)
}

// === impl Reader: places ===

impl Reader<'_, '_> {
    fn domain(&mut self, document: &Node<'_>) -> Option<Domain> {
        if is_nothing(document) {
            return Some(nothing());
        }
        let fields = self.fields(document, Place::Domain, "a file")?;
        let name = self.text(fields.get("domain"), "domain");
        name.as_str().clone_into(&mut self.path);
        self.path = clip(&self.path);
        Some(Domain {
            at: fields.at,
            name,
            descriptors: self.descriptors(fields.get("descriptors")),
        })
    }

    fn descriptors(&mut self, node: Option<&Node<'_>>) -> Vec<Descriptor> {
        let elements = self.list(node, "descriptors");
        let Some(node) = node.filter(|_| !elements.is_empty()) else {
            return vec![];
        };
        if self.level == MAX_LEVELS {
            let message = format!("descriptors are nested more than {MAX_LEVELS} levels deep");
            self.problem(Stage::Rules, node.at, message, None);
            return vec![];
        }
        self.level += 1;
        let descriptors = elements
            .iter()
            .filter_map(|element| self.descriptor(element))
            .collect();
        self.level -= 1;
        descriptors
    }

    fn descriptor(&mut self, node: &Node<'_>) -> Option<Descriptor> {
        let above = self.path.len();
        self.path.push('.');
        self.path.push_str(&clip(&tentative_key(node)));
        let descriptor = self.descriptor_fields(node);
        self.path.truncate(above);
        descriptor
    }

    fn descriptor_fields(&mut self, node: &Node<'_>) -> Option<Descriptor> {
        let fields = self.fields(node, Place::Descriptor, "a descriptor")?;
        Some(Descriptor {
            at: fields.at,
            key: self.text(fields.get("key"), "key"),
            value: self.text(fields.get("value"), "value"),
            rate_limit: self.rate_limit(fields.get("rate_limit")),
            shadow_mode: self.flag(&fields, "shadow_mode"),
            quota_mode: self.flag(&fields, "quota_mode"),
            detailed_metric: self.flag(&fields, "detailed_metric"),
            value_to_metric: self.flag(&fields, "value_to_metric"),
            share_threshold: self.flag(&fields, "share_threshold"),
            metadata: self.metadata(fields.get(METADATA)),
            descriptors: self.descriptors(fields.get("descriptors")),
        })
    }

    fn rate_limit(&mut self, node: Option<&Node<'_>>) -> Option<RateLimit> {
        let node = node.filter(|node| !is_nothing(node))?;
        let fields = self.fields(node, Place::RateLimit, "rate_limit")?;
        let replaces = self.list(fields.get("replaces"), "replaces");
        Some(RateLimit {
            at: fields.at,
            unit: self.text(fields.get("unit"), "unit"),
            requests_per_unit: self.number(fields.get("requests_per_unit"), "requests_per_unit"),
            unlimited: self.flag(&fields, "unlimited"),
            name: self.text(fields.get("name"), "name"),
            replaces: replaces
                .iter()
                .filter_map(|element| {
                    let fields = self.fields(element, Place::Replace, "an element of replaces")?;
                    Some((fields.at, self.text(fields.get("name"), "name")))
                })
                .collect(),
        })
    }
}

// === impl Reader: kinds ===

impl<'p> Reader<'_, 'p> {
    /// Checks a map's keys and gives the values of those that belong there.
    fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        place: Place,
        what: &str,
    ) -> Option<Fields<'n, 'a>> {
        let Value::Map(entries) = node.value() else {
            self.mismatch(node, what, "a map");
            return None;
        };
        let mut found: Vec<(&'static str, &'n Node<'a>)> = vec![];
        let mut meant = vec![];
        for (key, value) in entries {
            let Some(name) = self.key(key) else {
                continue;
            };
            match KEYS.iter().find(|(known, _)| *known == name) {
                Some((known, places)) if places.contains(&place) => {
                    self.set(&mut found, known, key.at, value);
                }
                Some((known, places)) => self.misplaced(known, places, key.at, value),
                None => {
                    let nearest = nearest(name, place);
                    self.unknown(name, key.at, nearest);
                    meant.extend(nearest.map(|(known, _)| (known, value)));
                }
            }
        }
        // A mistyped name is read as what was meant, to find what is wrong
        // below it and not to miss it as well.
        for (known, value) in meant {
            let belongs = allowed(known).contains(&place);
            if belongs && found.iter().all(|(name, _)| *name != known) {
                found.push((known, value));
            }
        }
        let at = node.at;
        Some(Fields { at, found })
    }

    fn set<'n, 'a>(
        &mut self,
        found: &mut Vec<(&'static str, &'n Node<'a>)>,
        known: &'static str,
        at: Mark,
        value: &'n Node<'a>,
    ) {
        match found.iter_mut().find(|(name, _)| *name == known) {
            None => found.push((known, value)),
            Some(earlier) => {
                if !self.compat {
                    let message = format!("key '{known}' is given twice");
                    let hint = format!("the first one is on line {}", earlier.1.at.line);
                    self.problem(Stage::Keys, at, message, Some(hint));
                }
                earlier.1 = value;
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

    fn unknown(&mut self, name: &str, at: Mark, nearest: Option<(&'static str, Place)>) {
        let message = format!("config error, unknown key '{}'", clip(name));
        let hint = nearest.map(|(known, _)| format!("did you mean {known}?"));
        self.problem(Stage::Keys, at, message, hint);
    }

    /// The reference takes a known key anywhere and ignores it.
    fn misplaced(&mut self, known: &str, places: &[Place], at: Mark, value: &Node<'_>) {
        if self.compat {
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

    fn text(&mut self, node: Option<&Node<'_>>, what: &str) -> Field<String> {
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

    fn flag(&mut self, fields: &Fields<'_, '_>, what: &'static str) -> bool {
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

    fn number(&mut self, node: Option<&Node<'_>>, what: &str) -> u32 {
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
    fn list<'n, 'a>(&mut self, node: Option<&'n Node<'a>>, what: &str) -> &'n [Node<'a>] {
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

    fn metadata(&mut self, node: Option<&Node<'_>>) -> metadata::Map {
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
                            self.unknown(name, key.at, nearest(name, Place::Descriptor));
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

    fn problem(
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
    fn get(&self, name: &str) -> Option<&'n Node<'a>> {
        let mut found = self.found.iter();
        found
            .find(|(known, _)| *known == name)
            .map(|(_, node)| *node)
    }
}

// === impl Field ===

impl Field<String> {
    /// The text; empty when there is none.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Given(text, _) => text,
            Self::Absent | Self::Broken => "",
        }
    }

    /// The text, taken out; empty when there is none.
    pub(super) fn into_string(self) -> String {
        match self {
            Self::Given(text, _) => text,
            Self::Absent | Self::Broken => String::new(),
        }
    }

    /// Its place, or that of what it is missing from.
    pub(super) fn at_or(&self, around: Mark) -> Mark {
        match self {
            Self::Given(_, at) => *at,
            Self::Absent | Self::Broken => around,
        }
    }

    /// Not said, or said to be empty; not when a mistake has been reported.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_broken() && self.as_str().is_empty()
    }

    /// A mistake has been reported.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
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
        }
    }
}

fn allowed(name: &str) -> &'static [Place] {
    let known = KEYS.iter().find(|(known, _)| *known == name);
    known.map_or(&[], |(_, places)| places)
}

/// The known key that resembles `name` most, those of `place` first.
fn nearest(name: &str, place: Place) -> Option<(&'static str, Place)> {
    if name.len() > 40 {
        return None;
    }
    let name = name.to_lowercase().replace(['-', ' '], "_");
    let mut best: Option<(&'static str, Place)> = None;
    let mut best_score = 0.7;
    for (known, places) in KEYS {
        let here = places.contains(&place);
        let score = strsim::normalized_damerau_levenshtein(&name, known);
        let score = score + if here { 0.1 } else { 0.0 };
        if score > best_score {
            best = Some((known, places[0]));
            best_score = score;
        }
    }
    best
}

/// The composite key for messages, before the fields have been checked.
fn tentative_key(node: &Node<'_>) -> String {
    let Value::Map(entries) = node.value() else {
        return "?".to_owned();
    };
    let text = |name: &str| {
        let mut entries = entries.iter().rev();
        let (_, value) = entries.find(|(key, _)| key.text() == Some(name))?;
        match scalar(value) {
            Some((_, Meaning::Null)) | None => None,
            Some((scalar, _)) => Some(scalar.text.as_ref()),
        }
    };
    match (text("key"), text("value").filter(|text| !text.is_empty())) {
        (None, _) => "?".to_owned(),
        (Some(key), None) => clip(key),
        (Some(key), Some(value)) => format!("{}_{}", clip(key), clip(value)),
    }
}

fn scalar<'n, 'a>(node: &'n Node<'a>) -> Option<(&'n Scalar<'a>, Meaning)> {
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
