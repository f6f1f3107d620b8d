//! The format of case files; see `tests/cases/README.md`.

use std::collections::BTreeMap;

use ratekeeper::engine::{
    descriptor::{Descriptor, Entry, Hits, Request},
    limit::{Limit, Unit, Window},
    time::Timestamp,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Lines,
    boundary::{Kind, Shows, put_metadata},
};

/// Rules, and what happens with them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) rules: Option<Rules>,
    #[serde(default = "default_domain")]
    domain: String,
    #[serde(default)]
    pub(super) settings: Settings,
    boundaries: Option<Vec<Kind>>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Rules {
    One(String),
    Named(BTreeMap<String, String>),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) shadow_mode: bool,
    pub(super) quota_mode: bool,
    pub(super) stop_when_over: bool,
    pub(super) dynamic_metadata: bool,
    pub(super) merge_domains: bool,
    pub(super) near_limit_ratio: Option<f32>,
    pub(super) headers: Option<[String; 3]>,
}

/// One request and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) note: Option<String>,
    at: Option<String>,
    domain: Option<String>,
    #[serde(default)]
    hits: u32,
    ask: OneOrMany<Ask>,
    reply: Option<OneOrMany<String>>,
    overall: Option<Overall>,
    #[serde(default)]
    headers: Vec<String>,
    body: Option<String>,
    #[serde(default)]
    metadata: serde_json::Map<String, Value>,
    dynamic_metadata: Option<Value>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
enum Overall {
    #[serde(rename = "OK")]
    Ok,
    #[serde(rename = "OVER")]
    Over,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

/// A descriptor, short or in full.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ask {
    Short(String),
    Full(FullAsk),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullAsk {
    of: Option<String>,
    #[serde(default)]
    entries: Vec<[Text; 2]>,
    limit: Option<String>,
    hits: Option<u64>,
    #[serde(default)]
    negative: bool,
}

/// Any bytes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Hex(Hex),
    Repeated(Repeated),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hex {
    hex: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeated {
    text: String,
    times: usize,
}

fn default_domain() -> String {
    "d".to_owned()
}

/// A request, as every boundary can send it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) domain: String,
    pub(super) hits: u32,
    pub(super) descriptors: Vec<AskedDescriptor>,
}

#[derive(Debug)]
pub(super) struct AskedDescriptor {
    pub(super) entries: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) limit: Option<Override>,
    pub(super) hits: Option<u64>,
    pub(super) negative: bool,
}

/// A limit as it stands on the wire.
#[derive(Debug)]
pub(super) struct Override {
    pub(super) requests: u32,
    pub(super) unit: i32,
    pub(super) multiplier: Option<u32>,
}

/// Units by their number on the wire.
const UNITS: [(i32, Unit); 7] = [
    (1, Unit::Second),
    (2, Unit::Minute),
    (3, Unit::Hour),
    (4, Unit::Day),
    (5, Unit::Month),
    (6, Unit::Year),
    (7, Unit::Week),
];

/// Kinds of hits in statistics, in the order of `Tally`'s fields.
const KINDS: [&str; 6] = ["total", "over", "near", "within", "shadow", "back"];

// === impl Case ===

impl Case {
    pub(super) fn applies_to(&self, kind: Kind) -> bool {
        let kind = match kind {
            Kind::Redis(_) => Kind::Store,
            kind => kind,
        };
        let kinds = self.boundaries.as_deref();
        kinds.is_none_or(|kinds| kinds.contains(&kind))
    }
}

// === impl Step ===

impl Step {
    pub(super) fn request(&self, case: &Case) -> Result<Asked, String> {
        let descriptors = self.ask.as_slice().iter().map(Ask::read);
        Ok(Asked {
            domain: self.domain.as_ref().unwrap_or(&case.domain).clone(),
            hits: self.hits,
            descriptors: descriptors.collect::<Result<_, _>>()?,
        })
    }

    /// The answer as lines, as far as a boundary shows it.
    pub(super) fn expected(&self, case: &Case, shows: Shows) -> Result<Lines, String> {
        let mut lines = Lines::new();
        let statuses = match (&self.reply, &self.error) {
            (Some(reply), None) => reply.as_slice(),
            (None, Some(error)) => {
                lines.insert("error".to_owned(), error.clone());
                return Ok(lines);
            }
            _ => return Err("a step has either reply or error".to_owned()),
        };
        let mut over = false;
        for (number, text) in (1..).zip(statuses) {
            let (status, hits) = match text.split_once('|') {
                Some((status, hits)) => (status, Some(hits)),
                None => (text.as_str(), None),
            };
            over |= status.starts_with("OVER");
            lines.insert(format!("status {number}"), status.trim().to_owned());
            if let (Some(hits), true) = (hits, shows.statistics) {
                let line = statistics(&read_statistics(hits)?);
                lines.insert(format!("statistics {number}"), line);
            }
        }
        let over = self.overall.as_ref().map_or(over, Overall::is_over);
        let overall = if over { "OVER" } else { "OK" };
        lines.insert("overall".to_owned(), overall.to_owned());
        for (number, header) in (1..).zip(&self.headers) {
            lines.insert(format!("header {number}"), header.clone());
        }
        if let Some(body) = &self.body {
            lines.insert("body".to_owned(), body.clone());
        }
        if case.settings.dynamic_metadata {
            put_metadata(
                &mut lines,
                "metadata",
                &Value::Object(self.metadata.clone()),
            );
        }
        if let (Some(whole), true) = (&self.dynamic_metadata, shows.dynamic_metadata) {
            put_metadata(&mut lines, "dynamic_metadata", whole);
        }
        Ok(lines)
    }
}

impl Overall {
    fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::Many(many) => many,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

/// What counts in statistics, as text; zeros are left out.
pub(super) fn statistics(hits: &[u64; 6]) -> String {
    let parts: Vec<String> = KINDS
        .iter()
        .zip(hits)
        .filter(|(_, hits)| **hits != 0)
        .map(|(kind, hits)| format!("{kind} {hits}"))
        .collect();
    parts.join(" ")
}

fn read_statistics(text: &str) -> Result<[u64; 6], String> {
    let mut hits = [0; 6];
    let words: Vec<&str> = text.split_whitespace().collect();
    for pair in words.chunks(2) {
        let place = KINDS.iter().position(|kind| *kind == pair[0]);
        let value = pair.get(1).and_then(|hits| hits.parse().ok());
        match (place, value) {
            (Some(place), Some(value)) => hits[place] = value,
            _ => return Err(format!("statistics {text:?}")),
        }
    }
    Ok(hits)
}

// === impl Ask ===

impl Ask {
    fn read(&self) -> Result<AskedDescriptor, String> {
        let full = match self {
            Self::Full(full) => full,
            Self::Short(text) => {
                return Ok(AskedDescriptor {
                    entries: read_entries(text)?,
                    limit: None,
                    hits: None,
                    negative: false,
                });
            }
        };
        let entries = match &full.of {
            Some(text) => read_entries(text)?,
            None => full
                .entries
                .iter()
                .map(|[key, value]| Ok((key.bytes()?, value.bytes()?)))
                .collect::<Result<_, String>>()?,
        };
        Ok(AskedDescriptor {
            entries,
            limit: full.limit.as_deref().map(Override::read).transpose()?,
            hits: full.hits,
            negative: full.negative,
        })
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn read_entries(text: &str) -> Result<Entries, String> {
    if text.is_empty() {
        return Ok(vec![]);
    }
    text.split(',')
        .map(|entry| match entry.split_once('=') {
            Some((key, value)) => Ok((key.into(), value.into())),
            None => Err(format!("entry {entry:?} has no =")),
        })
        .collect()
}

impl Text {
    fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Plain(text) => Ok(text.as_bytes().to_vec()),
            Self::Repeated(Repeated { text, times }) => Ok(text.repeat(*times).into_bytes()),
            Self::Hex(Hex { hex }) => (0..hex.len())
                .step_by(2)
                .map(|at| {
                    hex.get(at..at + 2)
                        .and_then(|two| u8::from_str_radix(two, 16).ok())
                })
                .collect::<Option<_>>()
                .ok_or_else(|| format!("hex {hex:?}")),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// Calls `ask` with the request in the engine's terms.
    pub(super) fn with_request<T>(&self, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        let entries: Vec<Vec<Entry<'_>>> = self
            .descriptors
            .iter()
            .map(AskedDescriptor::entries)
            .collect();
        let descriptors: Vec<Descriptor<'_>> = self
            .descriptors
            .iter()
            .zip(&entries)
            .map(|(descriptor, entries)| Descriptor {
                entries,
                limit: descriptor.limit(),
                hits: descriptor.hits(self.hits),
            })
            .collect();
        ask(&Request {
            domain: self.domain.as_bytes(),
            descriptors: &descriptors,
        })
    }
}

impl AskedDescriptor {
    fn entries(&self) -> Vec<Entry<'_>> {
        let entries = self.entries.iter();
        entries.map(|(key, value)| Entry { key, value }).collect()
    }

    fn limit(&self) -> Option<Limit> {
        let limit = self.limit.as_ref()?;
        Some(Limit {
            requests: limit.requests,
            window: limit.window()?,
        })
    }

    /// What the service makes of hits: a descriptor's own stand before the
    /// request's, of which 0 is 1.
    fn hits(&self, of_request: u32) -> Hits {
        let amount = self.hits.unwrap_or(u64::from(of_request.max(1)));
        if self.negative {
            Hits::GiveBack(amount)
        } else {
            Hits::Take(amount)
        }
    }
}

// === impl Override ===

impl Override {
    /// Reads `10/hour`, `10/5 minutes`, `10/unit 9`.
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("limit {text:?}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (requests, window) = text.split_once('/')?;
        let requests = requests.parse().ok()?;
        if let Some(number) = window.strip_prefix("unit ") {
            return Some(Self {
                requests,
                unit: number.parse().ok()?,
                multiplier: None,
            });
        }
        let (multiplier, name) = match window.split_once(' ') {
            Some((multiplier, name)) => (Some(multiplier.parse().ok()?), name.strip_suffix('s')?),
            None => (None, window),
        };
        let unit = Unit::from_name(name)?;
        Some(Self {
            requests,
            unit: UNITS.iter().find(|(_, known)| *known == unit)?.0,
            multiplier,
        })
    }

    /// Its window; `None` for a unit that does not exist.
    fn window(&self) -> Option<Window> {
        let (_, unit) = UNITS.iter().find(|(number, _)| *number == self.unit)?;
        Some(Window::times(*unit, self.multiplier.unwrap_or(1)))
    }
}

// === time ===

/// The time of the steps, from one to the next.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<Timestamp>);

impl Clock {
    /// The time of `step`.
    pub(super) fn advance(&mut self, step: &Step) -> Result<Timestamp, String> {
        let now = match (step.at.as_deref(), self.0) {
            (None, Some(now)) => now,
            (None, None) => return Err("the first step needs a time".to_owned()),
            (Some(at), now) => read_time(at, now).ok_or_else(|| format!("time {at:?}"))?,
        };
        self.0 = Some(now);
        Ok(now)
    }
}

fn read_time(text: &str, now: Option<Timestamp>) -> Option<Timestamp> {
    if let Some(seconds) = text.strip_prefix('+') {
        let more = std::time::Duration::from_secs(seconds.parse().ok()?);
        return Some(now?.saturating_add(more));
    }
    match text.parse() {
        Ok(seconds) => Some(Timestamp::from_secs(seconds)),
        Err(_) => read_rfc3339(text),
    }
}

/// Reads `2026-11-22T10:00:00.5Z`; other zones are not needed.
fn read_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp::from_nanos(seconds * 1_000_000_000 + nanos))
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text
        .split(separator)
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: u64 = (1970..year)
        .map(|year| if is_leap(year) { 366 } else { 365 })
        .sum();
    years
        + months
            .iter()
            .zip(1..month)
            .map(|(days, _)| days)
            .sum::<u64>()
        + day
        - 1
}

#[test]
fn times_are_read() {
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2000-03-01T00:00:01Z", Some(951_868_801_000_000_000)),
        ("2026-11-22T00:00:00.5Z", Some(1_795_305_600_500_000_000)),
        ("7", Some(7_000_000_000)),
        ("2026-11-22", None),
        ("2026-11-22T10:00:00", None),
    ] {
        let read = read_time(text, None).map(Timestamp::as_nanos);
        assert_eq!(read, expected, "{text}");
    }
}
