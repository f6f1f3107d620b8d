//! What a step expects, in the words in which answers are told: comparing
//! is comparing texts.

use serde_json::Value as Json;

use crate::config::{
    scalar::Meaning,
    yaml::{Node, Value},
};

use super::{
    ask::WrittenLimit,
    reader::{Reader, scalar},
};

/// What is expected of an answer; what is left out is not looked at.
#[derive(Debug, Default)]
pub(super) struct Expect {
    /// Whether the request passes.
    pub(super) decision: Option<String>,
    /// Of each descriptor; `None` is not looked at.
    pub(super) statuses: Vec<(StatusField, Vec<Option<String>>)>,
    /// Names with their values; `None`: not there.
    pub(super) headers: Vec<(String, Option<String>)>,
    pub(super) body: Option<String>,
    pub(super) body_json: Option<Json>,
    pub(super) metadata: Option<Json>,
}

/// Something that an answer tells of each descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusField {
    /// Whether it would pass by itself.
    Code,
    /// The path of the rule that decided.
    Rule,
    /// The limit.
    Limit,
    /// The limit's name.
    Name,
    /// Hits left.
    Remaining,
    /// Seconds until there are more.
    Reset,
}

/// What there is none of.
pub(super) const NONE: &str = "none";
/// A limit that there is none of because a rule says so.
pub(super) const UNLIMITED: &str = "unlimited";

const CODES: [(&str, &str); 3] = [("OK", "OK"), ("OVER", "OVER"), ("OVER_LIMIT", "OVER")];

/// Reads `expect` of a step that asks so many descriptors; `None` where that
/// is not known.
pub(super) fn read(
    node: &Node<'_>,
    descriptors: Option<usize>,
    reader: &mut Reader<'_, '_>,
) -> Option<Expect> {
    let statuses = StatusField::ALL.map(StatusField::name);
    let mut known = vec!["decision"];
    known.extend(statuses);
    known.extend(["headers", "body", "body_json", "metadata"]);
    let fields = reader.fields(node, "expect", &known)?;
    if fields.iter().next().is_none() {
        let hint = format!("one of {}", known.join(", "));
        reader.mistake(node.at, "nothing is expected", Some(hint));
        return None;
    }
    let mut expect = Expect::default();
    if let Some(node) = fields.get("decision") {
        expect.decision = code(node, "decision", reader);
    }
    for field in StatusField::ALL {
        if let Some(node) = fields.get(field.name()) {
            let values = each(node, field, descriptors, reader);
            expect.statuses.push((field, values));
        }
    }
    if let Some(node) = fields.get("headers") {
        expect.headers = headers(node, reader);
    }
    if let Some(node) = fields.get("body") {
        expect.body = reader.text(node, "body").map(str::to_owned);
    }
    if let Some(node) = fields.get("body_json") {
        expect.body_json = reader.json(node, "body_json");
    }
    if let Some(node) = fields.get("metadata") {
        match node.value() {
            Value::Map(_) => expect.metadata = reader.json(node, "metadata"),
            _ => reader.invalid(node, "metadata", "a map"),
        }
    }
    Some(expect)
}

/// One value for each descriptor.
fn each(
    node: &Node<'_>,
    field: StatusField,
    descriptors: Option<usize>,
    reader: &mut Reader<'_, '_>,
) -> Vec<Option<String>> {
    let elements = match node.value() {
        Value::List(elements) => elements,
        _ => std::slice::from_ref(node),
    };
    if let Some(descriptors) = descriptors.filter(|asked| elements.len() != *asked) {
        let name = field.name();
        let message = format!("{name} is not told for each of the descriptors that are asked");
        let hint = format!(
            "{descriptors} asked, {} told; in a list, ~ is not looked at",
            elements.len()
        );
        reader.mistake(node.at, message, Some(hint));
        return vec![];
    }
    let in_list = matches!(node.value(), Value::List(_));
    let values = elements.iter().map(|element| {
        let skip = in_list && matches!(scalar(element), Some((_, Meaning::Null)));
        if skip {
            None
        } else {
            field.read(element, reader)
        }
    });
    values.collect()
}

fn code(node: &Node<'_>, what: &str, reader: &mut Reader<'_, '_>) -> Option<String> {
    let text = reader.text(node, what)?;
    match CODES.iter().find(|(word, _)| *word == text) {
        Some((_, code)) => Some((*code).to_owned()),
        None => {
            reader.invalid(node, what, "OK or OVER");
            None
        }
    }
}

/// `Name: value`; null for a header that is not there.
fn headers(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Vec<(String, Option<String>)> {
    let entries = reader.entries(node, "headers").unwrap_or_default();
    if entries.is_empty() {
        let hint = "name: value, or name: null for one that must not be there";
        reader.mistake(node.at, "headers names none", Some(hint.to_owned()));
    }
    let headers = entries.into_iter().filter_map(|(name, _, value)| {
        let value = match scalar(value) {
            Some((_, Meaning::Null)) => None,
            _ => Some(reader.text(value, "a header")?.to_owned()),
        };
        Some((name, value))
    });
    headers.collect()
}

// === impl StatusField ===

impl StatusField {
    /// In the order in which they are told.
    pub(super) const ALL: [Self; 6] = [
        Self::Code,
        Self::Rule,
        Self::Limit,
        Self::Name,
        Self::Remaining,
        Self::Reset,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Rule => "rule",
            Self::Limit => "limit",
            Self::Name => "name",
            Self::Remaining => "remaining",
            Self::Reset => "reset",
        }
    }

    /// It changes from one ask of a step to the next.
    pub(super) fn counts_down(self) -> bool {
        match self {
            Self::Remaining | Self::Reset => true,
            Self::Code | Self::Rule | Self::Limit | Self::Name => false,
        }
    }

    fn read(self, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<String> {
        let text = reader.text(node, self.name())?;
        let given = match self {
            Self::Code => return code(node, "code", reader),
            Self::Rule | Self::Name => return Some(text.to_owned()),
            Self::Limit if matches!(text, NONE | UNLIMITED) => Some(text.to_owned()),
            Self::Limit => WrittenLimit::read(text).map(|limit| limit.to_string()),
            Self::Reset if text == NONE => Some(text.to_owned()),
            Self::Remaining => {
                return reader
                    .whole(node, "remaining", 0_u32)
                    .map(|n| n.to_string());
            }
            Self::Reset => seconds(node),
        };
        if given.is_none() {
            reader.invalid(node, self.name(), self.forms());
        }
        given
    }

    fn forms(self) -> &'static str {
        match self {
            Self::Limit => WrittenLimit::FORMS,
            _ => "a number of seconds",
        }
    }
}

/// Seconds as they are shown: without zeros behind the point.
fn seconds(node: &Node<'_>) -> Option<String> {
    match scalar(node)? {
        (_, Meaning::Int(number)) if number >= 0 => Some(number.to_string()),
        (_, Meaning::Float(number)) if number >= 0.0 => Some(number.to_string()),
        _ => None,
    }
}
