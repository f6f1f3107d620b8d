//! One HTTP/2 connection, from its first byte to its last.
//!
//! `ShouldRateLimit` calls are answered right here, in the connection's task:
//! all that arrived with one read, then one write. So are those of other
//! services (health, reflection), which are few.
//!
//! Nothing a client does may hold memory or time without bound: see
//! [`Limits`]. Every second the connection's account is looked at, calls that
//! take too long are given up, and a client that only costs is cut off.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::{Ping, PingPong, Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    task::unconstrained,
    time::{Instant, Interval, MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{
    call::{Call, Ended, Finished},
    counted::Counted,
    grpc::Api,
    held_io::{HeldIo, Switch},
    limits::{Account, Budget, Limits, STREAM_WINDOW},
    listener::Seat,
    other_services::{self, OtherServices},
    spans,
    tls::{NoTls, Tls},
    turns_true,
};
use crate::telemetry::metrics::Protocol;
use tonic::Code;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// How often the account is looked at.
const TICK: Duration = Duration::from_secs(1);
/// From a GOAWAY until a connection without calls is closed, answered or not.
const GOODBYE: Duration = Duration::from_secs(2);
/// Calls that may wait, all connections together: some KB each.
const MAX_WAITING: usize = 2_048;
/// And of one connection, however many others wait.
const MAX_WAITING_HERE: usize = 32;
/// Calls taken in before other connections of the worker get their turn.
const BATCH: usize = 256;
/// Bytes of answers that a client may leave unread before its next calls are
/// taken in.
const MAX_UNREAD: u64 = 64 * 1024;
/// Bytes of all messages that a client may send before we have read some.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Calls of other services at once, all connections together: some megabytes.
const MAX_OTHER_CALLS: usize = 4_096;
/// And of one connection: no client can take all of them.
const MAX_OTHER_CALLS_HERE: usize = 16;

/// Why connections are closed: others have more need of the place.
const PLACE_NEEDED: &str = "place needed";
/// The client did not get to HTTP/2 in time.
const NO_HANDSHAKE: &str = "no handshake";

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) api: Arc<Api>,
    pub(crate) limits: Limits,
    /// `None`: connections are not encrypted.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) others: OtherServices,
    /// Calls of other services that may still begin.
    pub(crate) other_calls: Arc<Semaphore>,
    /// Bytes of unfinished calls.
    pub(crate) buffered: Arc<AtomicUsize>,
    /// Calls that wait.
    pub(crate) waiting: Arc<AtomicUsize>,
}

type OtherCall = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Connection<T> {
    shared: Arc<Shared>,
    http2: h2::server::Connection<HeldIo<T>, Bytes>,
    switch: Arc<Switch>,
    /// Calls that are not done yet.
    waiting: FuturesUnordered<Call>,
    seat: Seat,
    /// It has had more calls waiting than there is room for.
    is_overrun: bool,
    /// Bytes written by when; it moves on while answers are read.
    last_written: (u64, Instant),
    /// Calls of other services; they end with the connection, at once.
    others: FuturesUnordered<OtherCall>,
    /// Totals since the connection began; their change in a second is judged.
    account: Account,
    judged: Account,
    ping: Option<PingPong>,
    opened: Instant,
    /// From then on it is old, and has to go; `None`: never.
    max_age: Option<Duration>,
    /// Calls answered that the seat does not know of yet.
    answered: u64,
    last_call: Instant,
    /// When the first call of this turn came, if one did.
    turn_began: Option<Instant>,
    /// Calls of this turn that are answered already.
    at_once: u64,
    last_byte: Instant,
}

/// On the way out: a GOAWAY is sent.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: Instant,
    /// How long its calls may take; `None`: as long as they do.
    grace: Option<Duration>,
}

/// Why a connection is over.
#[derive(Debug)]
enum Over {
    /// It was closed, by whichever side, in good order or not.
    Closed,
    /// We cut it off.
    CutOff(&'static str),
}

/// Serves until the client goes, `closing` turns true and all calls are
/// done, or the client is cut off.
pub(crate) async fn serve<T>(io: T, shared: Arc<Shared>, seat: Seat, closing: watch::Receiver<bool>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + shared.limits.handshake_timeout;
    let switch = Arc::default();
    let io = Counted::new(io, Arc::clone(&switch));
    let Some(tls) = shared.tls.clone() else {
        return greet(HeldIo::new(io, switch), shared, seat, closing, deadline).await;
    };
    match tls.accept(io, &seat, deadline).await {
        Ok(io) => greet(HeldIo::new(io, switch), shared, seat, closing, deadline).await,
        Err(NoTls::PlaceNeeded) => shared.note_closed(PLACE_NEEDED),
        Err(NoTls::TooSlow) => shared.note_closed(NO_HANDSHAKE),
        // Told by the listener's own figures.
        Err(NoTls::Failed) => {}
    }
}

async fn greet<T>(
    mut io: HeldIo<T>,
    shared: Arc<Shared>,
    seat: Seat,
    closing: watch::Receiver<bool>,
    deadline: Instant,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        biased;
        () = seat.taken() => return shared.note_closed(PLACE_NEEDED),
        greeted = timeout_at(deadline, io.greeted()) => match greeted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return shared.note_failed(&error),
            Err(_) => return shared.note_closed(NO_HANDSHAKE),
        },
    }
    // Boxed: the state of a whole connection is not for those who say nothing.
    Box::pin(serve_greeted(io, shared, seat, closing, deadline)).await;
}

async fn serve_greeted<T>(
    io: HeldIo<T>,
    shared: Arc<Shared>,
    seat: Seat,
    closing: watch::Receiver<bool>,
    deadline: Instant,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let switch = io.switch();
    let handshake = timeout_at(deadline, builder(&shared.limits).handshake(io));
    let http2 = tokio::select! {
        result = handshake => match result {
            Ok(Ok(http2)) => http2,
            Ok(Err(error)) => return shared.note_failed(&error),
            Err(_) => return shared.note_closed(NO_HANDSHAKE),
        },
        () = seat.taken() => return shared.note_closed(PLACE_NEEDED),
    };
    let mut connection = Connection::new(Arc::clone(&shared), http2, switch, seat);
    if let Over::CutOff(reason) = connection.run(closing).await {
        tracing::warn!(reason, "cut off a client");
        shared.api.limiter.metrics().closed(reason);
    }
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        // A proxy whose calls time out takes back up to all of them at once.
        .max_pending_accept_reset_streams(limits.max_concurrent_streams as usize)
        .max_concurrent_reset_streams(64)
        .reset_stream_duration(Duration::from_secs(1))
        .max_send_buffer_size(64 * 1024);
    builder
}

// === impl Connection ===

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    fn new(
        shared: Arc<Shared>,
        mut http2: h2::server::Connection<HeldIo<T>, Bytes>,
        switch: Arc<Switch>,
        seat: Seat,
    ) -> Self {
        let now = Instant::now();
        Self {
            ping: http2.ping_pong(),
            opened: now,
            max_age: shared.limits.max_connection_age.and_then(about),
            shared,
            http2,
            switch,
            waiting: FuturesUnordered::new(),
            seat,
            is_overrun: false,
            last_written: (0, now),
            others: FuturesUnordered::new(),
            account: Account::default(),
            judged: Account::default(),
            answered: 0,
            last_call: now,
            turn_began: None,
            at_once: 0,
            last_byte: now,
        }
    }

    async fn run(&mut self, mut closing: watch::Receiver<bool>) -> Over {
        let mut tick = ticker();
        let mut leaving: Option<Leaving> = None;
        let taken = self.seat.taken();
        tokio::pin!(taken);
        loop {
            tokio::select! {
                biased;
                over = std::future::poll_fn(|cx| self.poll_calls(cx)) => return match over {
                    Over::CutOff(_) => self.close(Reason::ENHANCE_YOUR_CALM, over).await,
                    Over::Closed => over,
                },
                () = &mut taken => {
                    self.shared.note_closed(PLACE_NEEDED);
                    return Over::Closed;
                }
                // Unconstrained: a client that always has more to say uses up
                // the task's budget, and must not keep time from passing.
                () = unconstrained(turns_true(&mut closing)), if leaving.is_none() => {
                    leaving = Some(self.leave(None));
                }
                _ = unconstrained(tick.tick()) => {
                    if let Err(reason) = self.look_after() {
                        let over = Over::CutOff(reason);
                        return self.close(Reason::ENHANCE_YOUR_CALM, over).await;
                    }
                    if leaving.is_none() && self.is_idle_too_long() {
                        self.shared.note_closed("idle");
                        leaving = Some(self.leave(None));
                    }
                    if leaving.is_none() && self.is_too_old() {
                        self.shared.note_closed("old");
                        let grace = self.shared.limits.max_connection_age_grace;
                        leaving = Some(self.leave(grace));
                    }
                    if leaving.is_some_and(|leaving| leaving.is_over(self.waiting.is_empty())) {
                        return self.close(Reason::NO_ERROR, Over::Closed).await;
                    }
                }
            }
        }
    }

    /// A turn, and whether what came in it is too much: a flood does not get
    /// the whole of the second before the next look.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        if self.poll_turn(cx).is_ready() {
            return Poll::Ready(Over::Closed);
        }
        match self.last_second().verdict() {
            Some(reason) => Poll::Ready(Over::CutOff(reason)),
            None => Poll::Pending,
        }
    }

    /// Takes in what there is, answers what can be answered, then writes.
    /// Ready when the connection is over.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = 0;
        self.switch.begin_turn();
        loop {
            if self.is_unread() {
                // Only writes. The client has granted the windows that these
                // answers need, so nothing has to be read for them to go out.
                self.switch.stop_reading(true);
                let closed = self.http2.poll_closed(cx).map(drop);
                self.switch.stop_reading(false);
                if closed.is_ready() || self.is_unread() {
                    return closed;
                }
            }
            self.switch.hold(true);
            let over = self.poll_batch(cx, &mut taken).is_ready();
            self.switch.hold(false);
            self.note_turn();
            let answered = std::mem::take(&mut self.answered);
            if taken > 0 || answered > 0 {
                self.seat.note_calls(self.last_call, answered);
            }
            if over {
                return Poll::Ready(());
            }
            // Now that nothing is held, this flushes; it may bring more.
            match self.http2.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok((request, respond)))) => {
                    taken += 1;
                    self.begin(request, respond, cx);
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
            if self.is_overrun {
                return Poll::Ready(());
            }
            if taken >= BATCH {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// The client lets its answers lie.
    fn is_unread(&self) -> bool {
        self.account.answer_bytes > self.switch.bytes_written() + MAX_UNREAD
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, taken: &mut usize) -> Poll<()> {
        while *taken < BATCH && !self.is_unread() && !self.is_overrun {
            match self.http2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    *taken += 1;
                    self.begin(request, respond, cx);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(finished)) = self.waiting.poll_next_unpin(cx) {
            if finished.ended == Ended::Answered {
                let metrics = self.shared.api.limiter.metrics();
                metrics.took(Protocol::Grpc, finished.accepted.elapsed(), 1);
            }
            self.count(finished);
        }
        while let Poll::Ready(Some(())) = self.others.poll_next_unpin(cx) {
            self.answered += 1;
        }
        Poll::Pending
    }

    fn begin(
        &mut self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        cx: &mut Context<'_>,
    ) {
        if self.turn_began.is_none() {
            self.last_call = Instant::now();
            self.turn_began = Some(self.last_call);
        }
        self.account.calls += 1;
        self.account.head_bytes += head_bytes(request.headers());
        if request.uri().path() != SHOULD_RATE_LIMIT {
            return self.begin_other(request, respond);
        }
        if let Some(refusal) = refusal(&request) {
            // An error means that the client is gone.
            let _ = respond.send_response(refusal, true);
            return;
        }
        let shared = &self.shared;
        let until = time_left(request.headers()).map(|left| Instant::now() + left);
        let tracer = shared.api.tracer.as_ref();
        let span = tracer.and_then(|tracer| spans::grpc(tracer, request.headers()));
        let mut call = Call::new(
            Arc::clone(&shared.api),
            request.into_body(),
            respond,
            Budget::new(
                Arc::clone(&shared.buffered),
                shared.limits.max_buffered_bytes,
            ),
            shared.limits.max_message_bytes,
            self.last_call,
            until,
        )
        .traced(span);
        match Pin::new(&mut call).poll(cx) {
            Poll::Ready(finished) => {
                self.at_once += 1;
                self.count(finished);
            }
            Poll::Pending => self.wait(call),
        }
    }

    /// Counts how long the calls of a turn took: they came together, and their
    /// answers go together.
    fn note_turn(&mut self) {
        let Some(began) = self.turn_began.take() else {
            return;
        };
        let answered = std::mem::take(&mut self.at_once);
        if answered > 0 {
            let metrics = self.shared.api.limiter.metrics();
            metrics.took(Protocol::Grpc, began.elapsed(), answered);
        }
    }

    fn count(&mut self, finished: Finished) {
        self.account.count(finished);
        self.answered += u64::from(finished.ended == Ended::Answered && !finished.is_refused);
    }

    /// Keeps a call until it can go on, if there is room.
    fn wait(&mut self, mut call: Call) {
        if call.is_deciding() {
            // The store bounds how many may wait for it, and for how long. A
            // place is needed only if the answer waits for the client, too.
            let places = Budget::new(Arc::clone(&self.shared.waiting), MAX_WAITING);
            self.waiting.push(call.at(places, Arc::clone(&self.switch)));
            return;
        }
        let mut place = Budget::new(Arc::clone(&self.shared.waiting), MAX_WAITING);
        place.add(1);
        if place.is_exceeded() && self.waiting.len() >= MAX_WAITING_HERE {
            // Refusing the call alone would not do: HTTP/2 keeps room for as
            // many streams as a connection has ever had at once.
            self.account.given_up += u64::from(call.give_up());
            self.overrun();
        } else {
            self.waiting.push(call.at(place, Arc::clone(&self.switch)));
        }
    }

    fn overrun(&mut self) {
        self.is_overrun = true;
        self.http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    fn begin_other(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let permit = Arc::clone(&self.shared.other_calls).try_acquire_owned();
        let has_room = self.others.len() < MAX_OTHER_CALLS_HERE;
        let (Ok(permit), true) = (permit, has_room) else {
            respond.send_reset(Reason::REFUSED_STREAM);
            self.account.given_up += 1;
            if self.account.since(&self.judged).verdict().is_some() {
                self.overrun();
            }
            return;
        };
        let call = other_services::answer(
            self.shared.others.clone(),
            request,
            respond,
            self.shared.limits.call_timeout,
        );
        self.others.push(Box::pin(async move {
            call.await;
            drop(permit);
        }));
    }

    /// Once a second: gives up calls that take too long, asks a silent client
    /// for a sign of life, judges the account.
    fn look_after(&mut self) -> Result<(), &'static str> {
        let now = Instant::now();
        for call in self.waiting.iter_mut() {
            let late = now.duration_since(call.accepted()) >= self.shared.limits.call_timeout;
            if late && call.give_up() {
                self.account.given_up += 1;
                let metrics = self.shared.api.limiter.metrics();
                metrics.answered(Protocol::Grpc, Code::DeadlineExceeded as usize);
            }
        }
        let second = self.last_second();
        self.judged = self.account;
        if self.is_overrun {
            return Err("too many unfinished calls");
        }
        let written = self.switch.bytes_written();
        if written > self.last_written.0 || !self.is_unread() {
            self.last_written = (written, now);
        } else if now.duration_since(self.last_written.1) >= self.shared.limits.call_timeout {
            return Err("its answers lie unread");
        }
        match second.verdict() {
            Some(reason) => Err(reason),
            None => self.ask_for_life(second.bytes_read, now),
        }
    }

    /// What was done since the last look.
    fn last_second(&mut self) -> Account {
        self.account.bytes_read = self.switch.bytes_read();
        self.account.message_bytes += self.switch.take_body_bytes();
        self.account.since(&self.judged)
    }

    fn ask_for_life(&mut self, bytes_read: u64, now: Instant) -> Result<(), &'static str> {
        let patience = self.shared.limits.keepalive_interval;
        if bytes_read > 0 {
            self.last_byte = now;
            return Ok(());
        }
        let silent = now.duration_since(self.last_byte);
        if silent >= patience.saturating_mul(2) {
            return Err("no sign of life");
        }
        if silent >= patience
            && let Some(ping) = &mut self.ping
        {
            // There is no other before the last one's answer was taken.
            let _ = ping.poll_pong(&mut Context::from_waker(Waker::noop()));
            // It fails when one is on its way already: one is enough.
            let _ = ping.send_ping(Ping::opaque());
        }
        Ok(())
    }

    /// Asks the client to go, with a GOAWAY; calls that are under way go on.
    fn leave(&mut self, grace: Option<Duration>) -> Leaving {
        self.http2.graceful_shutdown();
        Leaving {
            since: Instant::now(),
            grace,
        }
    }

    fn is_too_old(&self) -> bool {
        self.max_age.is_some_and(|age| self.opened.elapsed() >= age)
    }

    fn is_idle_too_long(&self) -> bool {
        self.waiting.is_empty() && self.last_call.elapsed() >= self.shared.limits.idle_timeout
    }

    /// Says why with a GOAWAY, if the client takes it in within a second and
    /// its place is not needed.
    async fn close(&mut self, reason: Reason, over: Over) -> Over {
        self.http2.abrupt_shutdown(reason);
        let taken = self.seat.taken();
        let gone = std::future::poll_fn(|cx| self.http2.poll_closed(cx));
        tokio::select! {
            _ = timeout(TICK, gone) => {}
            () = taken => {}
        }
        over
    }
}

/// As long, give or take a tenth, so that connections that began together do
/// not end together; `None` where that is for ever.
fn about(age: Duration) -> Option<Duration> {
    let share = rand::random_range(0.9..1.1);
    Duration::try_from_secs_f64(age.as_secs_f64() * share).ok()
}

/// What is wrong with a call's head, if anything.
fn refusal<B>(request: &Request<B>) -> Option<Response<()>> {
    let grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let status = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !grpc {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    Some(response)
}

/// Bytes of a call's headers, about as they were sent at most.
fn head_bytes(headers: &HeaderMap) -> u64 {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum::<usize>() as u64
}

/// How long the client waits, from its `grpc-timeout`: up to eight digits and
/// a unit.
fn time_left(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

fn ticker() -> Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

// === impl Leaving ===

impl Leaving {
    /// Nothing is waited for any more. A client that does not answer a GOAWAY
    /// would stay.
    fn is_over(&self, has_no_calls: bool) -> bool {
        let since = self.since.elapsed();
        (has_no_calls && since >= GOODBYE) || self.grace.is_some_and(|grace| since >= grace)
    }
}

// === impl Account ===

impl Account {
    fn count(&mut self, finished: Finished) {
        self.message_bytes += finished.message_bytes;
        self.answer_bytes += finished.answer_bytes;
        self.aborted += u64::from(finished.ended == Ended::Aborted);
        self.refused += u64::from(finished.is_refused);
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            bytes_read: self.bytes_read - earlier.bytes_read,
            calls: self.calls - earlier.calls,
            message_bytes: self.message_bytes - earlier.message_bytes,
            head_bytes: self.head_bytes - earlier.head_bytes,
            answer_bytes: self.answer_bytes - earlier.answer_bytes,
            aborted: self.aborted - earlier.aborted,
            given_up: self.given_up - earlier.given_up,
            refused: self.refused - earlier.refused,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Bytes of unfinished calls, and calls that wait for their client.
    pub(crate) fn held(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.buffered), read(&self.waiting))
    }

    /// We close a connection, for want of anything better.
    fn note_closed(&self, reason: &'static str) {
        tracing::debug!(reason, "closed a connection");
        self.api.limiter.metrics().closed(reason);
    }

    /// A client does not speak HTTP/2, or went before it did.
    fn note_failed(&self, error: &dyn std::error::Error) {
        tracing::debug!(%error, "no HTTP/2");
    }

    pub(crate) fn new(
        api: Arc<Api>,
        limits: Limits,
        tls: Option<Arc<Tls>>,
        others: OtherServices,
    ) -> Self {
        Self {
            api,
            limits,
            tls,
            others,
            other_calls: Arc::new(Semaphore::new(MAX_OTHER_CALLS)),
            buffered: Arc::new(AtomicUsize::new(0)),
            waiting: Arc::new(AtomicUsize::new(0)),
        }
    }
}

/// The kind of error a socket gives when the peer is gone.
pub(crate) fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
