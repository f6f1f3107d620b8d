//! The boundaries at which cases run: each takes a request and answers in
//! lines that can be compared.

mod engine;
mod grpc;
mod redis;
mod store;

pub(super) use redis::Deployment;

use ratekeeper::{
    config::{self, Options, SourceFile},
    engine::{
        decision::{Code, Decision, Policy, Status},
        headers::{HeaderNames, Headers},
        limit::Window,
        metadata,
        plan::Grant,
        rules::RuleSet,
        time::Timestamp,
    },
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Lines,
    format::{self, Asked, Case, Rules, Settings},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Plan, algorithm and decision over a plain map.
    Engine,
    /// The limiter with the memory store.
    Store,
    /// A server, asked over gRPC.
    Grpc,
    /// The limiter with a real Redis; for every case of `Store`.
    #[serde(skip)]
    Redis(Deployment),
}

/// What an answer tells beyond statuses and headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shows {
    pub(super) statistics: bool,
    pub(super) dynamic_metadata: bool,
}

pub(super) trait Boundary {
    fn shows(&self) -> Shows;
    fn ask(&mut self, now: Timestamp, request: &Asked) -> Lines;
}

/// Starts a boundary with a case's rules and settings, nothing counted.
pub(super) fn start(kind: Kind, case: &Case) -> Result<Box<dyn Boundary>, String> {
    match kind {
        Kind::Engine => Ok(Box::new(engine::Engine::new(case)?)),
        Kind::Store => Ok(Box::new(store::Store::new(case)?)),
        Kind::Redis(deployment) => Ok(Box::new(redis::store(deployment, case)?)),
        Kind::Grpc => Ok(Box::new(grpc::Grpc::new(case)?)),
    }
}

// === what boundaries share ===

/// The case's rules; `None` where none were ever loaded.
fn compile(case: &Case) -> Result<Option<RuleSet>, String> {
    let files: Vec<SourceFile> = match &case.rules {
        None => return Ok(None),
        Some(Rules::One(text)) => vec![source("rules.yaml", text)],
        Some(Rules::Named(files)) => files
            .iter()
            .map(|(name, text)| source(name, text))
            .collect(),
    };
    let options = Options {
        merge_domains: case.settings.merge_domains,
        ..Options::default()
    };
    config::compile(&files, &options)
        .map(Some)
        .map_err(|problems| format!("  rules: {problems:?}"))
}

fn source(name: &str, text: &str) -> SourceFile {
    SourceFile {
        name: name.into(),
        bytes: text.as_bytes().to_vec(),
    }
}

fn policy(settings: &Settings) -> Policy {
    let default = Policy::default();
    Policy {
        shadow_mode: settings.shadow_mode,
        quota_mode: settings.quota_mode,
        near_limit_ratio: settings
            .near_limit_ratio
            .unwrap_or(default.near_limit_ratio),
    }
}

/// What of a decision goes into an answer.
struct Shown {
    headers: Option<HeaderNames>,
    metadata: bool,
}

impl Shown {
    fn new(settings: &Settings) -> Result<Self, String> {
        let names = settings.headers.as_ref();
        let headers = names.map(|[limit, left, reset]| HeaderNames::new(limit, left, reset));
        Ok(Self {
            headers: headers.transpose().map_err(|error| error.to_string())?,
            metadata: settings.dynamic_metadata,
        })
    }
}

/// A decision as lines, with all that a caller inside the process can see.
fn decision_lines(rules: &RuleSet, decision: &Decision, shown: &Shown) -> Lines {
    let mut lines = Lines::new();
    lines.insert("overall".to_owned(), code_name(decision.code).to_owned());
    for (number, status) in (1..).zip(&decision.statuses) {
        lines.insert(format!("status {number}"), status_line(rules, status));
        let tally = status.tally;
        let hits = [
            tally.total,
            tally.over_limit,
            tally.near_limit,
            tally.within_limit,
            tally.shadow_mode,
            tally.given_back,
        ];
        lines.insert(format!("statistics {number}"), format::statistics(&hits));
    }
    if let (Some(names), Some(headers)) = (&shown.headers, Headers::of(decision)) {
        for (number, name, value) in [
            (1, &names.limit, u64::from(headers.limit)),
            (2, &names.remaining, u64::from(headers.remaining)),
            (3, &names.reset, headers.reset_seconds),
        ] {
            lines.insert(format!("header {number}"), format!("{name}: {value}"));
        }
    }
    if shown.metadata {
        let merged = metadata::Value::Map(decision.metadata(rules));
        put_metadata(&mut lines, "metadata", &to_json(&merged));
    }
    lines
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::OverLimit => "OVER",
    }
}

fn status_line(rules: &RuleSet, status: &Status) -> String {
    let code = code_name(status.code);
    let (left, reset) = (status.remaining, status.reset_seconds);
    match (status.grant, status.code, left, reset) {
        (Grant::Nothing, Code::Ok, 0, 0) => "no limit".to_owned(),
        (Grant::Unlimited, Code::Ok, u32::MAX, 0) => "unlimited".to_owned(),
        (Grant::Limited(limit), ..) => {
            let name = match status.name(rules) {
                "" => String::new(),
                name => format!("({name}) "),
            };
            let requests = limit.requests;
            let window = Window::times(limit.window.unit(), limit.window.multiplier());
            format!("{code} {requests}/{window} {name}left {left} reset {reset}")
        }
        (grant, ..) => format!("{code} {grant:?} left {left} reset {reset}"),
    }
}

/// Adds a line for metadata, unless it is empty. Numbers are written alike,
/// whether they came as integers or not.
pub(super) fn put_metadata(lines: &mut Lines, label: &str, value: &Value) {
    let value = with_floats(value);
    if value.as_object().is_none_or(|map| !map.is_empty()) {
        lines.insert(label.to_owned(), value.to_string());
    }
}

fn with_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(list) => list.iter().map(with_floats).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), with_floats(value)))
            .collect(),
        other => other.clone(),
    }
}

fn to_json(value: &metadata::Value) -> Value {
    match value {
        metadata::Value::Null => Value::Null,
        metadata::Value::Bool(value) => (*value).into(),
        metadata::Value::Number(value) => (*value).into(),
        metadata::Value::Text(text) => text.as_str().into(),
        metadata::Value::List(list) => list.iter().map(to_json).collect(),
        metadata::Value::Map(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), to_json(value)))
            .collect(),
    }
}
