//! Protobuf ⇄ engine. Every quirk of Envoy's messages is in here.
//!
//! Requests are read where they lie: no copy, no allocation up to a usual
//! size, keys and values as bytes. Bounds are checked while reading, before
//! anything grows. The generated types are not used on this path; tests hold
//! both against each other.

use std::fmt;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::protobuf::{Malformed, Reader, Value, put_bytes, put_message, put_uint};
use crate::{
    engine::{
        decision::{Code, Status},
        descriptor::{Descriptor, Entry, Hits, Request},
        headers::{HeaderNames, Headers, Told},
        limit::{Limit, Unit, Window},
        plan::{Grant, PerDescriptor},
        responses::Response,
        rules::RuleSet,
    },
    limiter::Answer,
};

/// How much one request may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Descriptors. `--max-descriptors`, default 1,024.
    pub max_descriptors: usize,
    /// Entries of a descriptor. `--max-entries`, default 256.
    pub max_entries: usize,
    /// Bytes of a key, a value or the domain. `--max-entry-bytes`, default 65,536.
    pub max_entry_bytes: usize,
}

/// A request that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// It is not a `RateLimitRequest`.
    Malformed(Malformed),
    /// It asks more than is allowed; says what and how much is.
    TooLarge(&'static str, usize),
    /// An override's unit is none; holds the descriptor's place and the number.
    BadUnit(usize, i32),
}

/// A request as received, borrowed from its bytes.
#[derive(Debug, Default)]
pub struct Message<'a> {
    domain: &'a [u8],
    entries: SmallVec<[Entry<'a>; 8]>,
    descriptors: PerDescriptor<Asked>,
    hits_addend: u32,
}

/// A descriptor as received; its entries end at `entries_end`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub(crate) entries_end: usize,
    /// The override, if there is one.
    pub limit: Option<Override>,
    /// Hits, if the descriptor brings its own.
    pub hits_addend: Option<u64>,
    /// The hits are given back.
    pub is_negative_hits: bool,
}

/// A limit that the caller brings, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Requests per window.
    pub requests_per_unit: u32,
    /// The number of an `envoy.type.v3.RateLimitUnit`, or 7 for a week.
    pub unit: i32,
    /// Units per window; 0 counts as 1.
    pub unit_multiplier: u32,
}

/// What goes into answers beside the decision.
#[derive(Clone, Debug, Default)]
pub struct ResponseSettings {
    /// Add the three rate-limit headers under these names.
    pub headers: Option<HeaderNames>,
    /// Describe request and rules in `dynamic_metadata`.
    pub dynamic_metadata: bool,
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_descriptors: 1_024,
            max_entries: 256,
            max_entry_bytes: 65_536,
        }
    }
}

impl Bounds {
    fn text<'a>(&self, text: &'a [u8], what: &'static str) -> Result<&'a [u8], BadRequest> {
        if text.len() > self.max_entry_bytes {
            return Err(BadRequest::TooLarge(what, self.max_entry_bytes));
        }
        Ok(text)
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    /// Reads an encoded `envoy.service.ratelimit.v3.RateLimitRequest`.
    ///
    /// # Errors
    /// The bytes are no such message, or it asks too much.
    pub fn decode(bytes: &'a [u8], bounds: &Bounds) -> Result<Self, BadRequest> {
        let mut message = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => message.set_domain(value.bytes()?, bounds)?,
                2 => message.decode_descriptor(value.bytes()?, bounds)?,
                3 => message.hits_addend = value.uint32()?,
                _ => {}
            }
        }
        Ok(message)
    }

    /// Names the domain.
    ///
    /// # Errors
    /// It is too long.
    pub fn set_domain(&mut self, domain: &'a [u8], bounds: &Bounds) -> Result<(), BadRequest> {
        self.domain = bounds.text(domain, "bytes of the domain")?;
        Ok(())
    }

    /// Sets the hits of descriptors that do not bring their own.
    pub fn set_hits_addend(&mut self, hits: u32) {
        self.hits_addend = hits;
    }

    /// Adds an entry to the descriptor that is pushed next.
    ///
    /// # Errors
    /// The descriptor has too many, or it is too long.
    pub fn push_entry(&mut self, entry: Entry<'a>, bounds: &Bounds) -> Result<(), BadRequest> {
        bounds.text(entry.key, "bytes of an entry's key")?;
        bounds.text(entry.value, "bytes of an entry's value")?;
        let begin = self.descriptors.last().map_or(0, |last| last.entries_end);
        if self.entries.len() - begin >= bounds.max_entries {
            return Err(BadRequest::TooLarge(
                "entries of a descriptor",
                bounds.max_entries,
            ));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Adds a descriptor that has the entries pushed since the one before.
    ///
    /// # Errors
    /// There are too many.
    pub fn push_descriptor(&mut self, asked: Asked, bounds: &Bounds) -> Result<(), BadRequest> {
        if self.descriptors.len() >= bounds.max_descriptors {
            return Err(BadRequest::TooLarge("descriptors", bounds.max_descriptors));
        }
        self.descriptors.push(Asked {
            entries_end: self.entries.len(),
            ..asked
        });
        Ok(())
    }

    /// The domain, as sent.
    #[must_use]
    pub fn domain(&self) -> &'a [u8] {
        self.domain
    }

    /// The descriptors, in the engine's terms. An override without a unit is
    /// none there; see [`check_overrides`](Self::check_overrides).
    #[must_use]
    pub fn descriptors(&self) -> PerDescriptor<Descriptor<'_>> {
        let mut begin = 0;
        let descriptors = self.descriptors.iter().map(|asked| {
            let entries = &self.entries[begin..asked.entries_end];
            begin = asked.entries_end;
            Descriptor {
                entries,
                limit: asked.limit.and_then(Override::limit),
                hits: self.hits(asked),
            }
        });
        descriptors.collect()
    }

    /// Every override names a unit.
    ///
    /// # Errors
    /// One does not.
    pub fn check_overrides(&self) -> Result<(), BadRequest> {
        for (place, asked) in self.descriptors.iter().enumerate() {
            if let Some(limit) = asked.limit
                && limit.limit().is_none()
            {
                return Err(BadRequest::BadUnit(place, limit.unit));
            }
        }
        Ok(())
    }

    /// The question, in the engine's terms.
    #[must_use]
    pub fn request<'b>(&'b self, descriptors: &'b [Descriptor<'b>]) -> Request<'b> {
        Request {
            domain: self.domain,
            descriptors,
        }
    }

    fn hits(&self, asked: &Asked) -> Hits {
        let amount = asked
            .hits_addend
            .unwrap_or_else(|| u64::from(self.hits_addend.max(1)));
        if asked.is_negative_hits {
            Hits::GiveBack(amount)
        } else {
            Hits::Take(amount)
        }
    }

    fn decode_descriptor(&mut self, bytes: &'a [u8], bounds: &Bounds) -> Result<(), BadRequest> {
        let mut asked = Asked::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => self.push_entry(decode_entry(value.bytes()?)?, bounds)?,
                2 => asked.limit.get_or_insert_default().decode(value.bytes()?)?,
                3 => decode_wrapper(value, asked.hits_addend.get_or_insert_default())?,
                4 => asked.is_negative_hits = value.uint64()? != 0,
                _ => {}
            }
        }
        self.push_descriptor(asked, bounds)
    }

    /// What `dynamic_metadata` says of the request.
    fn metadata(&self, answer: &Answer) -> prost_types::Struct {
        let mut begin = 0;
        let descriptors = self.descriptors.iter().map(|asked| {
            let entries = &self.entries[begin..asked.entries_end];
            begin = asked.entries_end;
            asked.metadata(entries)
        });
        let mut fields = vec![
            ("domain", metadata::text(self.domain)),
            ("descriptors", metadata::list(descriptors)),
        ];
        if self.hits_addend != 0 {
            fields.push(("hitsAddend", metadata::number(f64::from(self.hits_addend))));
        }
        let merged = answer.decision.metadata(answer.rules());
        if !merged.is_empty() {
            fields.push(("metadata", metadata::map(&merged)));
        }
        metadata::fields(fields)
    }
}

fn decode_entry(bytes: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut entry = Entry {
        key: b"",
        value: b"",
    };
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => entry.key = value.bytes()?,
            2 => entry.value = value.bytes()?,
            _ => {}
        }
    }
    Ok(entry)
}

/// A wrapper message around one number; what it lacks stays as it is.
fn decode_wrapper(value: Value<'_>, into: &mut u64) -> Result<(), Malformed> {
    let mut reader = Reader::new(value.bytes()?);
    while let Some((number, value)) = reader.next()? {
        if number == 1 {
            *into = value.uint64()?;
        }
    }
    Ok(())
}

// === impl Asked ===

impl Asked {
    fn metadata(&self, entries: &[Entry<'_>]) -> prost_types::Value {
        let entries = entries.iter().map(|entry| {
            let joined = [entry.key, entry.value].join(&b'=');
            metadata::text(&joined)
        });
        let mut fields = vec![("entries", metadata::list(entries))];
        if let Some(limit) = self.limit {
            fields.push(("limit", metadata::text(limit.to_string().as_bytes())));
        }
        if let Some(hits) = self.hits_addend {
            #[allow(clippy::cast_precision_loss, reason = "a Struct's numbers are floats")]
            fields.push(("hitsAddend", metadata::number(hits as f64)));
        }
        metadata::object(fields)
    }
}

// === impl Override ===

impl Override {
    fn decode(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => self.requests_per_unit = value.uint32()?,
                2 => self.unit = value.int32()?,
                3 => {
                    let mut multiplier = u64::from(self.unit_multiplier);
                    decode_wrapper(value, &mut multiplier)?;
                    #[allow(clippy::cast_possible_truncation, reason = "protobuf's rule")]
                    let truncated = multiplier as u32;
                    self.unit_multiplier = truncated;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn limit(self) -> Option<Limit> {
        Some(Limit {
            requests: self.requests_per_unit,
            window: Window::times(unit_of_number(self.unit)?, self.unit_multiplier),
        })
    }
}

/// In the text form of protobuf, as dynamic metadata shows it.
impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if self.requests_per_unit != 0 {
            write!(f, "requests_per_unit:{}", self.requests_per_unit)?;
            gap = " ";
        }
        if self.unit != 0 {
            match unit_of_number(self.unit) {
                Some(unit) => write!(f, "{gap}unit:{}", unit.name().to_ascii_uppercase())?,
                None => write!(f, "{gap}unit:{}", self.unit)?,
            }
            gap = " ";
        }
        if self.unit_multiplier != 0 {
            write!(f, "{gap}unit_multiplier:{{value:{}}}", self.unit_multiplier)?;
        }
        Ok(())
    }
}

/// Requests and answers number the units alike.
const UNITS: [(i32, Unit); 7] = [
    (1, Unit::Second),
    (2, Unit::Minute),
    (3, Unit::Hour),
    (4, Unit::Day),
    (5, Unit::Month),
    (6, Unit::Year),
    (7, Unit::Week),
];

fn unit_of_number(number: i32) -> Option<Unit> {
    UNITS
        .into_iter()
        .find_map(|(n, unit)| (n == number).then_some(unit))
}

fn number_of_unit(unit: Unit) -> u64 {
    match unit {
        Unit::Second => 1,
        Unit::Minute => 2,
        Unit::Hour => 3,
        Unit::Day => 4,
        Unit::Month => 5,
        Unit::Year => 6,
        Unit::Week => 7,
    }
}

// === impl BadRequest ===

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "not a RateLimitRequest: {error}"),
            Self::TooLarge(what, most) => write!(f, "too many {what}: at most {most} are allowed"),
            Self::BadUnit(place, unit) => {
                write!(f, "descriptor {place}: unit {unit} of its limit is no unit")
            }
        }
    }
}

impl std::error::Error for BadRequest {}

impl From<Malformed> for BadRequest {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

// === answers ===

/// Appends an encoded `envoy.service.ratelimit.v3.RateLimitResponse`.
pub fn encode(
    answer: &Answer,
    message: &Message<'_>,
    settings: &ResponseSettings,
    out: &mut BytesMut,
) {
    let decision = &answer.decision;
    put_uint(out, 1, number_of_code(decision.code));
    for status in &decision.statuses {
        put_message(out, 2, |out| put_status(out, status, answer.rules()));
    }
    let response = respond(answer, message.domain());
    if let Some(response) = &response {
        for (name, value) in &response.headers {
            put_text_header(out, name, value);
        }
    }
    let told_already = response.as_ref().is_some_and(|it| it.tells_legacy);
    if let Some(names) = &settings.headers
        && !told_already
        && let Some(headers) = Headers::of(decision)
    {
        put_header(out, &names.limit, u64::from(headers.limit));
        put_header(out, &names.remaining, u64::from(headers.remaining));
        put_header(out, &names.reset, headers.reset_seconds);
    }
    let told = Told::of(decision, answer.rules());
    if let Some(told) = &told {
        put_told(out, told);
    }
    if let Some(body) = response.and_then(|response| response.body) {
        put_bytes(out, 5, body.as_bytes());
    }
    if settings.dynamic_metadata || told.is_some() {
        let mut metadata = if settings.dynamic_metadata {
            message.metadata(answer)
        } else {
            metadata::fields(vec![])
        };
        if let Some(told) = told {
            metadata.fields.extend(told_metadata(told).fields);
        }
        put_bytes(out, 6, &prost::Message::encode_to_vec(&metadata));
    }
}

/// How the answer looks to clients, where rules say so.
fn respond(answer: &Answer, domain: &[u8]) -> Option<Response> {
    let (decision, rules) = (&answer.decision, answer.rules());
    let told = decision.told()?;
    let responses = rules.responses(domain, told.0.rule)?;
    let domain = String::from_utf8_lossy(domain);
    Some(responses.render(told, decision, rules, &domain, answer.now))
}

/// What clients are to know of limits that pace or give notice.
fn put_told(out: &mut BytesMut, told: &Told) {
    if let Some(millis) = told.delay_millis {
        put_header(out, "X-RateLimit-Delay-Ms", millis);
    }
    if let Some((left, limit)) = told.notice {
        let text = format!("approaching the limit: {left} of {limit} left");
        put_text_header(out, "X-RateLimit-Notice", &text);
    }
}

fn told_metadata(told: Told) -> prost_types::Struct {
    #[allow(clippy::cast_precision_loss, reason = "a Struct's numbers are floats")]
    let number = |number: u64| metadata::number(number as f64);
    let mut fields = vec![];
    if let Some(millis) = told.delay_millis {
        fields.push(("delay_ms", number(millis)));
    }
    if let Some((left, limit)) = told.notice {
        let notice = vec![("remaining", number(left)), ("limit", number(limit))];
        fields.push(("notice", metadata::object(notice)));
    }
    if !told.flagged.is_empty() {
        let names = told.flagged.iter();
        let names = names.map(|name| metadata::text(name.as_bytes()));
        fields.push(("flagged", metadata::list(names)));
    }
    metadata::fields(fields)
}

fn put_status(out: &mut BytesMut, status: &Status, rules: &RuleSet) {
    put_uint(out, 1, number_of_code(status.code));
    if let Grant::Limited(limit) = status.grant {
        put_message(out, 2, |out| put_limit(out, limit, status, rules));
    }
    put_uint(out, 3, u64::from(status.remaining));
    if matches!(status.grant, Grant::Limited(_)) {
        let seconds = status.reset_seconds.min(MAX_DURATION_SECONDS);
        put_message(out, 4, |out| put_uint(out, 1, seconds));
    }
}

/// Ten thousand years: what a `google.protobuf.Duration` may say at most.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;

fn put_limit(out: &mut BytesMut, limit: Limit, status: &Status, rules: &RuleSet) {
    put_uint(out, 1, u64::from(limit.requests));
    put_uint(out, 2, number_of_unit(limit.window.unit()));
    if let Some(rule) = status.rule
        && rules.rule(rule).named
    {
        put_bytes(out, 3, status.name(rules).as_bytes());
    }
    if limit.window.multiplier() > 1 {
        put_message(out, 4, |out| {
            put_uint(out, 1, u64::from(limit.window.multiplier()));
        });
    }
}

fn put_header(out: &mut BytesMut, name: &str, value: u64) {
    put_text_header(out, name, &value.to_string());
}

fn put_text_header(out: &mut BytesMut, name: &str, value: &str) {
    put_message(out, 3, |out| {
        put_bytes(out, 1, name.as_bytes());
        put_bytes(out, 2, value.as_bytes());
    });
}

fn number_of_code(code: Code) -> u64 {
    match code {
        Code::Ok => 1,
        Code::OverLimit => 2,
    }
}

/// Values of `google.protobuf.Struct`.
mod metadata {
    use prost_types::{ListValue, Struct, Value, value::Kind};

    use crate::engine::metadata::{Map, Value as Plain};

    pub(super) fn fields(fields: Vec<(&str, Value)>) -> Struct {
        Struct {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    pub(super) fn object(members: Vec<(&str, Value)>) -> Value {
        value(Kind::StructValue(fields(members)))
    }

    /// Text of a Struct is UTF-8; other bytes are replaced.
    pub(super) fn text(text: &[u8]) -> Value {
        value(Kind::StringValue(
            String::from_utf8_lossy(text).into_owned(),
        ))
    }

    pub(super) fn number(number: f64) -> Value {
        value(Kind::NumberValue(number))
    }

    pub(super) fn list(values: impl Iterator<Item = Value>) -> Value {
        value(Kind::ListValue(ListValue {
            values: values.collect(),
        }))
    }

    pub(super) fn map(map: &Map) -> Value {
        let fields = map
            .iter()
            .map(|(name, member)| (name.clone(), plain(member)))
            .collect();
        value(Kind::StructValue(Struct { fields }))
    }

    fn plain(from: &Plain) -> Value {
        match from {
            Plain::Null => value(Kind::NullValue(0)),
            Plain::Bool(yes) => value(Kind::BoolValue(*yes)),
            Plain::Number(n) => number(*n),
            Plain::Text(s) => text(s.as_bytes()),
            Plain::List(values) => list(values.iter().map(plain)),
            Plain::Map(members) => map(members),
        }
    }

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
