//! `responses`: how answers look to clients.

use crate::engine::responses::{Body, Field, HeaderStyles, Reset, ResponsesDef, Template};

use super::{
    problem::{Stage, clip},
    reader::{Place, Reader},
    schema::{Field as Said, is_nothing},
    yaml::{Mark, Node, Value},
};

pub(super) const RESET: [(&str, Reset); 2] = [
    ("delta_seconds", Reset::DeltaSeconds),
    ("unix_timestamp", Reset::UnixTimestamp),
];
/// The body that needs no template.
pub(super) const PROBLEM: &str = "problem";

impl Reader<'_, '_> {
    /// A `responses`, and where it stands.
    pub(super) fn responses(&mut self, node: Option<&Node<'_>>) -> Option<(ResponsesDef, Mark)> {
        let node = node.filter(|node| !is_nothing(node))?;
        let fields = self.fields(node, Place::Responses, "responses")?;
        let content_type = self.text(fields.get("content_type"), "content_type");
        let content_type = self.line(content_type, "content_type");
        let body = match self.text(fields.get("body"), "body") {
            Said::Given(text, at) => Some(self.body(&text, content_type.as_deref(), at)),
            Said::Absent | Said::Broken => None,
        };
        let status_text = self.text(fields.get("status_text"), "status_text");
        let responses = ResponsesDef {
            headers: self.header_styles(fields.get("headers")),
            reset: self.choice(fields.get("reset"), "reset", &RESET).get(),
            retry_after: self.said_flag(&fields, "retry_after").get(),
            body,
            content_type,
            status_text: self.line(status_text, "status_text"),
        };
        Some((responses, fields.at))
    }

    /// One word, or a list of them.
    fn header_styles(&mut self, node: Option<&Node<'_>>) -> Option<HeaderStyles> {
        let node = node.filter(|node| !is_nothing(node))?;
        let words = match node.value() {
            Value::List(words) => words.iter().collect(),
            Value::Scalar(_) | Value::Map(_) => vec![node],
        };
        let mut styles = HeaderStyles::default();
        for word in words {
            match self.text(Some(word), "headers") {
                Said::Given(text, _) if text == "legacy" => styles.legacy = true,
                Said::Given(text, _) if text == "ietf" => styles.ietf = true,
                Said::Given(text, at) => {
                    let message = format!("invalid headers '{}'", clip(&text));
                    let hint = "they are legacy, ietf, or both".to_owned();
                    self.problem(Stage::Rules, at, message, Some(hint));
                }
                Said::Absent | Said::Broken => {}
            }
        }
        Some(styles)
    }

    /// A text that fits into one line of a header.
    fn line(&mut self, field: Said<String>, what: &str) -> Option<String> {
        let Said::Given(text, at) = field else {
            return None;
        };
        let visible = |char: char| (' '..='~').contains(&char);
        if what == "content_type" && !text.chars().all(visible) || text.contains(char::is_control) {
            let message = format!("{what} cannot contain {:?}", clip(&text));
            let hint = "it ends up in a header, or on a line".to_owned();
            self.problem(Stage::Rules, at, message, Some(hint));
            return None;
        }
        Some(text)
    }

    fn body(&mut self, text: &str, content_type: Option<&str>, at: Mark) -> Body {
        if text == PROBLEM {
            return Body::Problem;
        }
        let (mut template, unknown) = Template::parse(text);
        for word in unknown {
            let near = |name: &str| strsim::normalized_damerau_levenshtein(name, word) > 0.6;
            if let Some((name, _)) = Field::ALL.iter().find(|(name, _)| near(name)) {
                let message = format!("unknown field '{{{}}}' in a body", clip(word));
                let hint = format!("did you mean {{{name}}}?");
                self.problem(Stage::Rules, at, message, Some(hint));
            }
        }
        let parsed = serde_json::from_str::<serde_json::Value>(&template.sample());
        let is_json = content_type.is_some_and(|content_type| {
            let kind = content_type.split(';').next().unwrap_or_default().trim();
            kind == "application/json" || kind.ends_with("+json")
        });
        match parsed {
            Ok(_) => template.json = content_type.is_none() || is_json,
            Err(error) if is_json || looks_like_json(text) => {
                let message = format!("the body is no JSON: {error}");
                let hint = "fields for text stand between quotes, numbers without".to_owned();
                self.problem(Stage::Rules, at, message, Some(hint));
            }
            Err(_) => {}
        }
        Body::Template(template)
    }
}

/// It was meant as JSON, whatever became of it.
fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with("{\"")
}
