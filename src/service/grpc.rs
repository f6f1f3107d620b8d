//! `ShouldRateLimit`: message in, message out, and the codes of errors.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    http_json::{self, JsonRequest, Object},
    spans,
    wire::{self, BadRequest, Bounds, Message, ResponseSettings},
};
use crate::{
    limiter::{Answer, LimitError, Limiter},
    proto::envoy::service::ratelimit::v3::rate_limit_response,
    telemetry::metrics::{Failure, Protocol},
    trace::{Span, Traced, Tracer},
};

/// What the gRPC and the HTTP side have in common.
#[derive(Debug)]
pub struct Api {
    /// Decides.
    pub limiter: Arc<Limiter>,
    /// How much one request may ask.
    pub bounds: Bounds,
    /// What goes into answers beside the decision.
    pub response: ResponseSettings,
    /// Answer errors with the reference's codes.
    pub compat: bool,
    /// Answer errors of the store with the reference's code, UNKNOWN.
    pub unknown_code: bool,
    /// Traces calls, where it is there.
    pub tracer: Option<Tracer>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The request is no good.
    Request(BadRequest),
    /// The request was understood, and there is no decision.
    Limit(LimitError),
}

/// An answer in JSON, and whether it refuses.
pub type JsonAnswer = (serde_json::Value, rate_limit_response::Code);

/// Why there is no answer in JSON.
#[derive(Debug)]
pub enum JsonError {
    /// The request is not a `RateLimitRequest` in JSON.
    Unreadable(serde_json::Error),
    /// It is one, and there is no answer.
    Api(ApiError),
}

// === impl Api ===

impl Api {
    /// Answers an encoded request with a framed, encoded response. From
    /// `until` on the caller does not wait any more. Spans are below `trace`.
    ///
    /// # Errors
    /// There is no answer; the status says why.
    pub async fn should_rate_limit(
        &self,
        request: &[u8],
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<Bytes, Status> {
        let answer = async {
            let message = Message::decode(request, &self.bounds)?;
            self.answer(&message, until, trace).await
        };
        let answer = answer.await;
        answer
            .inspect(|_| self.limiter.metrics().answered(Protocol::Grpc, 0))
            .map_err(|error| self.failed(Protocol::Grpc, &error))
    }

    /// Counts a call that gets no decision; says its status.
    fn failed(&self, protocol: Protocol, error: &ApiError) -> Status {
        let failure = match error {
            ApiError::Limit(LimitError::Store(_) | LimitError::TooLate) => Failure::Store,
            ApiError::Request(_) | ApiError::Limit(_) => Failure::Service,
        };
        let status = self.status(error);
        let metrics = self.limiter.metrics();
        metrics.failed(failure);
        metrics.answered(protocol, status.code() as usize);
        status
    }

    /// As [`should_rate_limit`](Self::should_rate_limit), at once and without
    /// keeping anything for later; `None` where the store has to be waited for.
    pub fn should_rate_limit_now(
        &self,
        request: &[u8],
        trace: Option<&Traced>,
    ) -> Option<Result<Bytes, Status>> {
        if !self.limiter.store().never_waits() {
            return None;
        }
        let call = pin!(self.should_rate_limit(request, None, trace));
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// Answers a request with a framed, encoded response.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn answer(
        &self,
        message: &Message<'_>,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<Bytes, ApiError> {
        let mut span = trace.map(|call| spans::decision(call, message));
        let below = span.as_ref().map(Span::traced);
        let answer = self.decide_traced(message, until, below).await;
        if let Some(span) = &mut span {
            spans::decided(span, answer.as_ref().map(|answer| &answer.decision));
        }
        let answer = answer?;
        Ok(self.frame(&answer, message))
    }

    /// Decides on a request, before there is an encoded answer.
    pub(crate) fn decide(
        &self,
        message: &Message<'_>,
        until: Option<Instant>,
    ) -> impl Future<Output = Result<Answer, ApiError>> {
        self.decide_traced(message, until, None)
    }

    async fn decide_traced(
        &self,
        message: &Message<'_>,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<Answer, ApiError> {
        // Where there are no rules for the domain, no override counts either.
        let rules = self.limiter.snapshot();
        if rules.knows(message.domain()) {
            message.check_overrides()?;
        }
        let descriptors = message.descriptors();
        let request = message.request(&descriptors);
        let decided = self.limiter.decide_by(rules, &request, until, trace).await;
        decided.map_err(ApiError::Limit)
    }

    /// Answers a request in JSON with an answer in JSON.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn answer_json(
        &self,
        request: &[u8],
        trace: Option<&Traced>,
    ) -> Result<JsonAnswer, JsonError> {
        let begun = Instant::now();
        let answer = self.answer_object(request, trace).await;
        let metrics = self.limiter.metrics();
        match &answer {
            Ok(_) => metrics.answered(Protocol::Http, 0),
            Err(JsonError::Unreadable(_)) => {
                metrics.failed(Failure::Service);
                metrics.answered(Protocol::Http, Code::InvalidArgument as usize);
            }
            Err(JsonError::Api(error)) => drop(self.failed(Protocol::Http, error)),
        }
        metrics.took(Protocol::Http, begun.elapsed(), 1);
        answer
    }

    async fn answer_object(
        &self,
        request: &[u8],
        trace: Option<&Traced>,
    ) -> Result<JsonAnswer, JsonError> {
        let Object(request): Object<JsonRequest> =
            serde_json::from_slice(request).map_err(JsonError::Unreadable)?;
        let message = request.message(&self.bounds)?;
        let framed = self.answer(&message, None, trace).await?;
        let answer = http_json::response(&framed[FRAME_HEADER..]);
        Ok(answer.expect("what was just encoded can be decoded"))
    }

    /// The gRPC status of an error: the reference knows only UNKNOWN.
    #[must_use]
    pub fn status(&self, error: &ApiError) -> Status {
        let code = match error {
            _ if self.compat || self.store_error_is_unknown(error) => Code::Unknown,
            ApiError::Request(_) => Code::InvalidArgument,
            ApiError::Limit(LimitError::EmptyDomain | LimitError::NoDescriptors) => {
                Code::InvalidArgument
            }
            ApiError::Limit(LimitError::TooLate) => Code::DeadlineExceeded,
            ApiError::Limit(LimitError::NoRules | LimitError::Store(_)) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    }

    fn store_error_is_unknown(&self, error: &ApiError) -> bool {
        self.unknown_code && matches!(error, ApiError::Limit(LimitError::Store(_)))
    }

    /// A gRPC frame: no compression, four bytes of length, the message.
    pub(crate) fn frame(&self, answer: &Answer, message: &Message<'_>) -> Bytes {
        let mut out = BytesMut::with_capacity(FRAME_HEADER + 64 * answer.decision.statuses.len());
        out.put_bytes(0, FRAME_HEADER);
        wire::encode(answer, message, &self.response, &mut out);
        let len = u32::try_from(out.len() - FRAME_HEADER)
            .expect("an answer is bounded by its request and the rules' names");
        out[1..FRAME_HEADER].copy_from_slice(&len.to_be_bytes());
        out.freeze()
    }
}

/// Bytes before each message of a gRPC body.
pub(crate) const FRAME_HEADER: usize = 5;

/// What is known of a body's first message by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Not even the frame's header is there.
    Incomplete,
    /// A message of this many bytes.
    Message(usize),
    /// Compressed, though we have not said that we read that.
    Compressed,
}

/// Reads a frame's header.
pub(crate) fn framing(body: &[u8]) -> Framing {
    match body {
        [0, a, b, c, d, ..] => {
            let len = u32::from_be_bytes([*a, *b, *c, *d]);
            Framing::Message(usize::try_from(len).unwrap_or(usize::MAX))
        }
        [0, ..] | [] => Framing::Incomplete,
        [_, ..] => Framing::Compressed,
    }
}

// === impl ApiError ===

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Limit(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<BadRequest> for ApiError {
    fn from(error: BadRequest) -> Self {
        Self::Request(error)
    }
}

// === impl JsonError ===

impl From<BadRequest> for JsonError {
    fn from(error: BadRequest) -> Self {
        Self::Api(error.into())
    }
}

impl From<ApiError> for JsonError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
