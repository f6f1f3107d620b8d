//! How answers look to clients: which headers, and the body of a refusal.
//!
//! Values cannot break a header or a body: they are numbers, or texts of the
//! rules, and what is put into JSON is escaped here, whatever it is.

use std::fmt::Write as _;

use super::{
    decision::{Code, Decision, Status},
    limit::Limit,
    rules::RuleSet,
    time::Timestamp,
};

/// What a domain or a rule says; what it leaves open is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponsesDef {
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`; and the structured fields
    /// `RateLimit` and `RateLimit-Policy` of the IETF's draft.
    pub headers: Option<HeaderStyles>,
    /// What `X-RateLimit-Reset` tells, and `{reset}` in bodies.
    pub reset: Option<Reset>,
    /// Refusals tell `Retry-After`.
    pub retry_after: Option<bool>,
    /// The body of refusals.
    pub body: Option<Body>,
    /// Its content type.
    pub content_type: Option<String>,
    /// A refusal in words.
    pub status_text: Option<String>,
}

/// Which headers are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderStyles {
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset`.
    pub legacy: bool,
    /// `RateLimit` and `RateLimit-Policy`.
    pub ietf: bool,
}

/// How a reset is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// Seconds from now on.
    #[default]
    DeltaSeconds,
    /// Seconds since the epoch.
    UnixTimestamp,
}

/// The body of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A text with fields.
    Template(Template),
    /// Problem details of RFC 9457.
    Problem,
}

/// A text with fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// In order.
    pub pieces: Vec<Piece>,
    /// It is JSON, and so is what is put into it.
    pub json: bool,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// What there is to tell.
    Field(Field),
}

/// What a template can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Requests of a window.
    Limit,
    /// Hits left.
    Remaining,
    /// Seconds until the same hits pass, or where nobody can say until the
    /// reset; at least 1.
    RetryAfter,
    /// As [`Reset`] says.
    Reset,
    /// The window's seconds.
    Window,
    /// The limit's name.
    Name,
    /// The domain.
    Domain,
    /// A refusal in words.
    StatusText,
}

/// What is sent, beside the decision itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// In order.
    pub headers: Vec<(&'static str, String)>,
    /// Nothing but with a refusal.
    pub body: Option<String>,
    /// The legacy headers are among them.
    pub tells_legacy: bool,
}

/// A refusal in words, if nobody says otherwise.
const TOO_MANY: &str = "Too Many Requests";
/// The problem type that the IETF's draft registers.
const PROBLEM_TYPE: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

// === impl ResponsesDef ===

impl ResponsesDef {
    /// What is said here, and where nothing is, there.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            headers: self.headers.or(other.headers),
            reset: self.reset.or(other.reset),
            retry_after: self.retry_after.or(other.retry_after),
            // A content type belongs to its body.
            content_type: match (&self.content_type, &self.body) {
                (Some(own), _) => Some(own.clone()),
                (None, Some(_)) => None,
                (None, None) => other.content_type.clone(),
            },
            body: self.body.clone().or_else(|| other.body.clone()),
            status_text: self
                .status_text
                .clone()
                .or_else(|| other.status_text.clone()),
        }
    }

    /// What to send with a decision on a request of `domain`, made at `now`.
    #[must_use]
    pub fn render(
        &self,
        told: (&Status, Limit),
        decision: &Decision,
        rules: &RuleSet,
        domain: &str,
        now: Timestamp,
    ) -> Response {
        let facts = Facts::new(self, told, rules, domain, now);
        let mut response = Response::default();
        let styles = self.headers.unwrap_or_default();
        let mut header = |name, value: String| response.headers.push((name, value));
        if styles.legacy {
            header("X-RateLimit-Limit", facts.limit.requests.to_string());
            header("X-RateLimit-Remaining", facts.remaining.to_string());
            header("X-RateLimit-Reset", facts.reset.to_string());
        }
        if styles.ietf {
            let (name, window) = (token_text(facts.name), facts.limit.window.seconds());
            let (quota, left) = (facts.limit.requests, facts.remaining);
            header(
                "RateLimit-Policy",
                format!("\"{name}\";q={quota};w={window}"),
            );
            header(
                "RateLimit",
                format!("\"{name}\";r={left};t={}", facts.reset_seconds),
            );
        }
        response.tells_legacy = styles.legacy;
        if decision.code == Code::Ok {
            return response;
        }
        if let (Some(true), Some(seconds)) = (self.retry_after, facts.retry_after) {
            response.headers.push(("Retry-After", seconds.to_string()));
        }
        if let Some(body) = &self.body {
            let content_type = match (&self.content_type, body) {
                (Some(said), _) => said,
                (None, Body::Problem) => "application/problem+json",
                (None, Body::Template(Template { json: true, .. })) => "application/json",
                (None, Body::Template(_)) => "text/plain; charset=utf-8",
            };
            let content_type = content_type.to_owned();
            response.headers.push(("content-type", content_type));
            response.body = Some(facts.body(body));
        }
        response
    }
}

/// What there is to tell.
struct Facts<'a> {
    limit: Limit,
    remaining: u32,
    reset_seconds: u64,
    reset: u64,
    /// `None` where nobody can say.
    retry_after: Option<u64>,
    name: &'a str,
    domain: &'a str,
    status_text: &'a str,
}

// === impl Facts ===

impl<'a> Facts<'a> {
    fn new(
        says: &'a ResponsesDef,
        (status, limit): (&Status, Limit),
        rules: &'a RuleSet,
        domain: &'a str,
        now: Timestamp,
    ) -> Self {
        Self {
            limit,
            remaining: status.remaining,
            reset_seconds: status.reset_seconds,
            reset: match says.reset.unwrap_or_default() {
                Reset::DeltaSeconds => status.reset_seconds,
                Reset::UnixTimestamp => {
                    let second = if status.resets_on_the_second(rules) {
                        now.as_secs()
                    } else {
                        Timestamp::default().secs_until(now)
                    };
                    second.saturating_add(status.reset_seconds)
                }
            },
            retry_after: Some(status.retry_seconds).filter(|&seconds| seconds > 0),
            name: status.name(rules),
            domain,
            status_text: says.status_text.as_deref().unwrap_or(TOO_MANY),
        }
    }

    fn body(&self, body: &Body) -> String {
        match body {
            Body::Template(template) => self.fill(template),
            Body::Problem => self.problem(),
        }
    }

    fn fill(&self, template: &Template) -> String {
        let mut text = String::new();
        for piece in &template.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Field(field) => self.field(*field, template.json, &mut text),
            }
        }
        text
    }

    fn field(&self, field: Field, json: bool, out: &mut String) {
        let mut number = |number: u64| {
            let _ = write!(out, "{number}");
        };
        let text = match field {
            Field::Limit => return number(self.limit.requests.into()),
            Field::Remaining => return number(self.remaining.into()),
            Field::RetryAfter => {
                let reset = self.reset_seconds.max(1);
                return number(self.retry_after.unwrap_or(reset));
            }
            Field::Reset => return number(self.reset),
            Field::Window => return number(self.limit.window.seconds()),
            Field::Name => self.name,
            Field::Domain => self.domain,
            Field::StatusText => self.status_text,
        };
        if json {
            escape(text, out);
        } else {
            out.extend(text.chars().filter(|char| !char.is_control()));
        }
    }

    fn problem(&self) -> String {
        let mut text = format!("{{\"type\":\"{PROBLEM_TYPE}\",\"title\":\"");
        escape(self.status_text, &mut text);
        let _ = write!(text, "\",\"status\":429,\"detail\":\"{}", self.limit);
        text.push_str("\",\"violated-policies\":[\"");
        escape(policy_name(self.name), &mut text);
        let _ = write!(text, "\"],\"limit\":{}", self.limit.requests);
        if let Some(seconds) = self.retry_after {
            let _ = write!(text, ",\"retry_after\":{seconds}");
        }
        text.push('}');
        text
    }
}

/// A limit without a name has one all the same.
fn policy_name(name: &str) -> &str {
    if name.is_empty() { "default" } else { name }
}

/// A limit's name as the text of a structured field: visible ASCII.
fn token_text(name: &str) -> String {
    let fits = |char: char| (' '..='~').contains(&char) && !matches!(char, '"' | '\\');
    let name = policy_name(name).chars();
    name.map(|char| if fits(char) { char } else { '_' })
        .collect()
}

/// Adds `text` as the inside of a JSON string.
fn escape(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            '\u{0}'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            _ => out.push(char),
        }
    }
}

// === impl Field ===

impl Field {
    /// Every field, by its name in templates.
    pub const ALL: [(&str, Self); 8] = [
        ("limit", Self::Limit),
        ("remaining", Self::Remaining),
        ("retry_after", Self::RetryAfter),
        ("reset", Self::Reset),
        ("window", Self::Window),
        ("name", Self::Name),
        ("domain", Self::Domain),
        ("status_text", Self::StatusText),
    ];

    /// Something of its kind: digits, or text.
    #[must_use]
    pub fn sample(self) -> &'static str {
        match self {
            Self::Name | Self::Domain | Self::StatusText => "x",
            Self::Limit | Self::Remaining | Self::RetryAfter | Self::Reset | Self::Window => "1",
        }
    }
}

// === impl Template ===

impl Template {
    /// Takes a text apart: `{word}` is a field where the word is one's name;
    /// all else is as it stands. The second part says which words look like a
    /// field's name and are none.
    #[must_use]
    pub fn parse(text: &str) -> (Self, Vec<&str>) {
        let (mut pieces, mut unknown) = (vec![], vec![]);
        let (mut rest, mut plain) = (text, String::new());
        while let Some(open) = rest.find('{') {
            plain.push_str(&rest[..open]);
            let tail = &rest[open + 1..];
            let word = tail.split_once('}').map(|(word, _)| word);
            let word = word.filter(|word| {
                !word.is_empty() && word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_')
            });
            let field = word.and_then(|word| {
                let found = Field::ALL.iter().find(|(name, _)| *name == word);
                found.map(|(_, field)| *field)
            });
            match (word, field) {
                (Some(word), Some(field)) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Field(field));
                    rest = &tail[word.len() + 1..];
                }
                _ => {
                    unknown.extend(word);
                    plain.push('{');
                    rest = tail;
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        let template = Self {
            pieces,
            json: false,
        };
        (template, unknown)
    }

    /// The text with a sample in the place of every field.
    #[must_use]
    pub fn sample(&self) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Field(field) => field.sample(),
        });
        pieces.collect()
    }
}

/// As it was written.
impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Field(field) => {
                    let named = Field::ALL.iter().find(|(_, other)| other == field);
                    let name = named.map_or("", |(name, _)| name);
                    write!(f, "{{{name}}}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
