//! One `ShouldRateLimit` call: its body comes in, its answer goes out.
//!
//! Nearly every call is done the first time it is polled: its body came with
//! its head, a memory store does not wait, and the answer fits the client's
//! window. What is not done waits in the connection's own task.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    grpc::{Api, FRAME_HEADER, Framing, framing},
    held_io::Switch,
    limits::Budget,
    spans,
};
use crate::{telemetry::metrics::Protocol, trace::Span};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

type Answer = Result<Bytes, Status>;

/// A call under way.
pub(crate) struct Call {
    api: Arc<Api>,
    state: State,
    body: RecvStream,
    received: BytesMut,
    message_bytes: usize,
    answer_bytes: usize,
    budget: Budget,
    max_message_bytes: usize,
    accepted: Instant,
    /// From then on the client does not wait any more.
    until: Option<Instant>,
    /// Whom to tell when it is given up.
    waiting: Option<Waker>,
    /// Its place among those that wait, and where its bytes are counted then.
    place: Option<(Budget, Arc<Switch>)>,
    is_refused: bool,
    /// Its span, where it is traced.
    span: Option<Span>,
}

enum State {
    /// The body is coming in.
    Reading(SendResponse<Bytes>),
    /// The store is at work.
    Deciding(
        SendResponse<Bytes>,
        Pin<Box<dyn Future<Output = Answer> + Send>>,
    ),
    /// The answer waits for the client to make room.
    Sending(SendStream<Bytes>, Bytes),
    Done,
}

/// What there is to say of a call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// When its head came.
    pub(crate) accepted: Instant,
    pub(crate) ended: Ended,
    pub(crate) message_bytes: u64,
    pub(crate) answer_bytes: u64,
    /// Its message was not read to the end.
    pub(crate) is_refused: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was answered, maybe with an error.
    Answered,
    /// The client took it back.
    Aborted,
}

// === impl Call ===

impl Call {
    pub(crate) fn new(
        api: Arc<Api>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        budget: Budget,
        max_message_bytes: usize,
        accepted: Instant,
        until: Option<Instant>,
    ) -> Self {
        Self {
            api,
            state: State::Reading(respond),
            body,
            received: BytesMut::new(),
            message_bytes: 0,
            answer_bytes: 0,
            budget,
            max_message_bytes,
            accepted,
            until,
            waiting: None,
            place: None,
            is_refused: false,
            span: None,
        }
    }

    /// It is traced, where there is a span.
    pub(crate) fn traced(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }

    /// Takes a place among the calls that wait, until it is done.
    pub(crate) fn at(mut self, place: Budget, meter: Arc<Switch>) -> Self {
        meter.add_body_bytes(std::mem::take(&mut self.message_bytes));
        self.place = Some((place, meter));
        self
    }

    /// Whether it may wait for its client. One that waited for the store takes
    /// its place now.
    fn has_place(&mut self) -> bool {
        match &mut self.place {
            Some((place, _)) if place.is_empty() => {
                place.add(1);
                !place.is_exceeded()
            }
            // It has one, or is about to be given one.
            Some(_) | None => true,
        }
    }

    /// The store is at work on it.
    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.state, State::Deciding(..))
    }

    /// When its head came.
    pub(crate) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Ends it from our side: it took too long. False when it had ended.
    pub(crate) fn give_up(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Reading(mut respond) | State::Deciding(mut respond, _) => {
                respond.send_reset(Reason::CANCEL);
            }
            State::Sending(mut stream, _) => stream.send_reset(Reason::CANCEL),
            State::Done => return false,
        }
        // Only a call that is polled again is let go.
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        true
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ended, h2::Error>> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Reading(respond) => match self.poll_message(cx) {
                    Poll::Ready(message) => self.decide(message?, respond)?,
                    Poll::Pending => {
                        self.state = State::Reading(respond);
                        return Poll::Pending;
                    }
                },
                State::Deciding(mut respond, mut answer) => {
                    if respond.poll_reset(cx)?.is_ready() {
                        return Poll::Ready(Ok(Ended::Aborted));
                    }
                    match answer.as_mut().poll(cx) {
                        Poll::Ready(answer) => self.send(respond, answer)?,
                        Poll::Pending => {
                            self.state = State::Deciding(respond, answer);
                            return Poll::Pending;
                        }
                    }
                }
                State::Sending(mut stream, data) => {
                    self.answer_bytes = data.len();
                    match poll_send(&mut stream, &data, cx) {
                        Poll::Ready(sent) => return Poll::Ready(sent.map(|()| Ended::Answered)),
                        Poll::Pending if self.has_place() => {
                            self.state = State::Sending(stream, data);
                            return Poll::Pending;
                        }
                        Poll::Pending => {
                            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                            return Poll::Ready(Ok(Ended::Aborted));
                        }
                    }
                }
                State::Done => return Poll::Ready(Ok(Ended::Answered)),
            }
        }
    }

    /// The body's first message, whole; or why there is none.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<Bytes, Status>, h2::Error>> {
        loop {
            match framing(&self.received) {
                Framing::Compressed => return Poll::Ready(Ok(Err(compressed()))),
                Framing::Message(len) if len > self.max_message_bytes => {
                    return Poll::Ready(Ok(Err(self.too_large(len))));
                }
                Framing::Message(len) if self.received.len() >= FRAME_HEADER + len => {
                    let mut frame = self.received.split_to(FRAME_HEADER + len).freeze();
                    return Poll::Ready(Ok(Ok(frame.split_off(FRAME_HEADER))));
                }
                Framing::Message(_) | Framing::Incomplete => {}
            }
            let Some(data) = ready!(self.body.poll_data(cx)).transpose()? else {
                return Poll::Ready(Ok(Err(no_message())));
            };
            self.count_body(data.len());
            self.body.flow_control().release_capacity(data.len())?;
            if self.received.is_empty()
                && let Some(message) = whole_message(&data, self.max_message_bytes)
            {
                return Poll::Ready(Ok(Ok(message)));
            }
            self.budget.add(data.len());
            self.received.extend_from_slice(&data);
            if self.budget.is_exceeded() {
                return Poll::Ready(Ok(Err(busy())));
            }
        }
    }

    fn decide(
        &mut self,
        message: Result<Bytes, Status>,
        respond: SendResponse<Bytes>,
    ) -> Result<State, h2::Error> {
        let message = match message {
            Ok(message) => message,
            Err(status) => {
                self.is_refused = true;
                return self.refuse(respond, status);
            }
        };
        let trace = self.span.as_ref().map(Span::traced);
        match self.api.should_rate_limit_now(&message, trace) {
            Some(answer) => self.send(respond, answer),
            None => {
                let (api, until) = (Arc::clone(&self.api), self.until);
                let trace = trace.cloned();
                self.budget.add(message.len());
                if self.budget.is_exceeded() {
                    return self.refuse(respond, busy());
                }
                let answer = async move {
                    let trace = trace.as_ref();
                    api.should_rate_limit(&message, until, trace).await
                };
                Ok(State::Deciding(respond, Box::pin(answer)))
            }
        }
    }

    /// Answers a call that nobody has decided on, nor will.
    fn refuse(&mut self, respond: SendResponse<Bytes>, status: Status) -> Result<State, h2::Error> {
        let metrics = self.api.limiter.metrics();
        metrics.answered(Protocol::Grpc, status.code() as usize);
        self.send(respond, Err(status))
    }

    fn send(&mut self, respond: SendResponse<Bytes>, answer: Answer) -> Result<State, h2::Error> {
        if let Some(span) = &mut self.span {
            spans::grpc_ended(span, answer.as_ref().err());
        }
        send(respond, answer)
    }

    /// Bytes of a body count when they come: a large message in many pieces
    /// would look like a flood until its end.
    fn count_body(&mut self, bytes: usize) {
        match &self.place {
            Some((_, meter)) => meter.add_body_bytes(bytes),
            None => self.message_bytes += bytes,
        }
    }

    fn too_large(&self, len: usize) -> Status {
        let most = self.max_message_bytes;
        let text = format!("a message of {len} bytes is too large: at most {most} are allowed");
        Status::new(Code::ResourceExhausted, text)
    }
}

/// Ready when the call has ended, with how.
impl Future for Call {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let ended = match self.poll_ended(cx) {
            Poll::Ready(Ok(ended)) => ended,
            // The client's reset or the connection's end: there is nobody
            // left to tell.
            Poll::Ready(Err(_)) => Ended::Aborted,
            Poll::Pending => {
                self.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        if let (Ended::Aborted, Some(span)) = (ended, &mut self.span) {
            span.fail("the client is gone");
        }
        self.state = State::Done;
        Poll::Ready(Finished {
            accepted: self.accepted,
            ended,
            message_bytes: self.message_bytes as u64,
            answer_bytes: self.answer_bytes as u64,
            is_refused: self.is_refused,
        })
    }
}

/// The message of a frame that came in one piece, as most do.
fn whole_message(data: &Bytes, most: usize) -> Option<Bytes> {
    match framing(data) {
        Framing::Message(len) if len <= most && data.len() - FRAME_HEADER >= len => {
            Some(data.slice(FRAME_HEADER..FRAME_HEADER + len))
        }
        _ => None,
    }
}

fn send(mut respond: SendResponse<Bytes>, answer: Answer) -> Result<State, h2::Error> {
    match answer {
        Ok(data) => {
            let mut head = Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, GRPC);
            let stream = respond.send_response(head, false)?;
            Ok(State::Sending(stream, data))
        }
        Err(status) => {
            respond.send_response(status.into_http::<()>(), true)?;
            Ok(State::Done)
        }
    }
}

fn poll_send(
    stream: &mut SendStream<Bytes>,
    data: &Bytes,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    stream.reserve_capacity(data.len());
    while stream.capacity() < data.len() {
        match ready!(stream.poll_capacity(cx)) {
            Some(capacity) => drop(capacity?),
            None => return Poll::Ready(Err(Reason::CANCEL.into())),
        }
    }
    stream.send_data(data.clone(), false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    Poll::Ready(stream.send_trailers(trailers))
}

fn compressed() -> Status {
    Status::new(Code::Unimplemented, "compressed messages are not read")
}

fn no_message() -> Status {
    Status::new(Code::InvalidArgument, "the call has no complete message")
}

fn busy() -> Status {
    Status::new(
        Code::ResourceExhausted,
        "too many bytes of unfinished calls are held already",
    )
}
