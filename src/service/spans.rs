//! What the spans of a call are called, and what they tell.
//!
//! ```text
//! envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit   or /json
//! └─ ShouldRateLimit Execution
//!    ├─ Match Rules
//!    └─ Wait for Store ⇄ Redis Pipeline Execution (a trace of its own)
//! ```
//!
//! What clients send, but for the domain, is told only where the process is
//! asked to.

use std::fmt::Write as _;

use http::HeaderMap;
use tonic::Status;

use super::{
    grpc::ApiError,
    wire::{BadRequest, Message},
};
use crate::{
    engine::{
        decision::{Code, Decision},
        descriptor::Hits,
    },
    limiter::LimitError,
    telemetry::traces::parent,
    trace::{Span, Traced, Tracer},
};

/// Characters of a domain that are told: its client chooses it.
const MOST_DOMAIN: usize = 256;
/// Bytes of a request that are told.
const MOST_REQUEST: usize = 4_096;

/// The span of a call of `ShouldRateLimit` with these headers.
pub(crate) fn grpc(tracer: &Tracer, headers: &HeaderMap) -> Option<Span> {
    const NAME: &str = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut span = parent::begin(tracer, NAME, headers)?;
    span.set("rpc.system", "grpc");
    span.set("rpc.service", "envoy.service.ratelimit.v3.RateLimitService");
    span.set("rpc.method", "ShouldRateLimit");
    Some(span)
}

/// How such a call ended.
pub(crate) fn grpc_ended(span: &mut Span, status: Option<&Status>) {
    let code = status.map_or(tonic::Code::Ok, Status::code);
    span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
    let is_ours = matches!(
        code,
        tonic::Code::Unknown
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::Unavailable
            | tonic::Code::DataLoss
    );
    if is_ours {
        span.fail(code.description());
    }
}

/// The span of a request of `/json`.
pub(crate) fn json(tracer: &Tracer, request: &http::Request<impl Sized>) -> Option<Span> {
    let mut span = parent::begin(tracer, "/json", request.headers())?;
    span.set("http.request.method", request.method().to_string());
    span.set("http.route", "/json");
    Some(span)
}

/// How such a request ended.
pub(crate) fn json_ended(span: &mut Span, status: http::StatusCode) {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.canonical_reason().unwrap_or("error"));
    }
}

/// The span of a decision, below its call's.
pub(crate) fn decision(call: &Traced, message: &Message<'_>) -> Span {
    let mut span = call.child("ShouldRateLimit Execution");
    let domain = String::from_utf8_lossy(message.domain());
    span.set(
        "domain",
        domain.chars().take(MOST_DOMAIN).collect::<String>(),
    );
    let descriptors = i64::try_from(message.descriptors().len()).unwrap_or(i64::MAX);
    span.set("descriptors", descriptors);
    if call.shows_values() {
        span.set("request string", request(message));
    }
    span
}

/// What came out of it.
pub(crate) fn decided(span: &mut Span, decided: Result<&Decision, &ApiError>) {
    match decided {
        Ok(decision) => span.set(
            "code",
            match decision.code {
                Code::Ok => "OK",
                Code::OverLimit => "OVER_LIMIT",
            },
        ),
        Err(error) => {
            span.set("code", "UNKNOWN");
            span.fail(reason(error));
        }
    }
}

/// Without anything that the client has sent.
fn reason(error: &ApiError) -> &'static str {
    match error {
        ApiError::Request(BadRequest::BadUnit(..)) => "a limit's unit is none",
        ApiError::Request(_) => "not a request",
        ApiError::Limit(LimitError::EmptyDomain) => "no domain",
        ApiError::Limit(LimitError::NoDescriptors) => "no descriptors",
        ApiError::Limit(LimitError::NoRules) => "no rules",
        ApiError::Limit(LimitError::TooLate) => "too late",
        ApiError::Limit(LimitError::Store(_)) => "the store failed",
    }
}

/// The request in protobuf's text form, not all of a long one.
fn request(message: &Message<'_>) -> String {
    let mut text = format!("domain:\"{}\"", message.domain().escape_ascii());
    for descriptor in message.descriptors() {
        if text.len() > MOST_REQUEST {
            break;
        }
        text.push_str(" descriptors:{");
        for entry in descriptor.entries {
            // Text takes what is written to it.
            let _ = write!(
                text,
                "entries:{{key:\"{}\" value:\"{}\"}} ",
                entry.key.escape_ascii(),
                entry.value.escape_ascii()
            );
        }
        let (amount, negative) = match descriptor.hits {
            Hits::Take(hits) => (hits, ""),
            Hits::GiveBack(hits) => (hits, " is_negative_hits:true"),
        };
        let _ = write!(text, "hits_addend:{{value:{amount}}}{negative}}}");
    }
    if let Some((end, _)) = text.char_indices().find(|(at, _)| *at > MOST_REQUEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
