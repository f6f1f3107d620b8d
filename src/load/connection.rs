//! One connection's life: send what is due, read what has come, connect
//! again when the server goes away.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::{
    frame::ProtocolError,
    keys::Keys,
    pace::Pace,
    request::Template,
    session::{Call, Failure, Outcome, Session},
    tally::{Counts, Live, Tally},
};

/// Room for many answers, and more than the longest frame.
const READ_BUFFER: usize = 256 << 10;
/// How often a connection looks at the clock when nothing else wakes it.
const TICK: Duration = Duration::from_millis(20);
/// Timers are this coarse: the rest of a wait is spent looking at the clock.
const TIMER_SLACK: Duration = Duration::from_millis(2);
/// How long to wait before connecting again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What all connections of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) server: SocketAddr,
    pub(crate) template: Arc<Template>,
    pub(crate) concurrency: usize,
    /// From when on calls are measured, in nanoseconds since the start.
    pub(crate) measure_from: u64,
    /// When sending ends, in nanoseconds since the start.
    pub(crate) until: u64,
    /// How long to wait for an answer when none comes at all.
    pub(crate) patience: Duration,
    /// Ends the run early.
    pub(crate) stop: AtomicBool,
    pub(crate) live: Live,
    /// The key of a call that failed, plus 1.
    pub(crate) failed_key: AtomicU64,
}

/// One connection and its share of the load.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: Keys,
    pub(crate) pace: Pace,
    /// How many calls to measure at most.
    pub(crate) budget: u64,
    /// Calls that a server left alone when it went away.
    pub(crate) again: VecDeque<Call>,
    pub(crate) tally: Tally,
    done: Vec<(Call, Outcome)>,
    start: Instant,
}

/// How a session ended.
enum End {
    /// All that was to be sent is answered, or will not be.
    Finished,
    /// The server will not take any more on this connection.
    Drained,
    /// The connection broke.
    Broken,
    /// The server does not answer any more.
    Silent,
}

/// What a wait was ended by.
enum Event {
    Read(usize),
    Closed,
    Time,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, keys: Keys, pace: Pace, budget: u64) -> Self {
        Self {
            shared,
            keys,
            pace,
            budget,
            again: VecDeque::new(),
            tally: Tally::new(),
            done: vec![],
            start: Instant::now(),
        }
    }

    /// Drives the load over `stream`, and over others when it ends too early.
    ///
    /// # Errors
    /// The server speaks another protocol, or is gone for good.
    pub(crate) async fn run(
        mut self,
        stream: TcpStream,
        start: Instant,
    ) -> Result<Tally, ProtocolError> {
        self.start = start;
        let mut stream = Some(stream);
        let mut wait = RECONNECT.0;
        while let Some(connected) = stream.take() {
            let mut session = Session::new(self.shared.template.clone(), self.shared.concurrency);
            let end = self.serve(&mut session, connected).await?;
            if session.has_answered() {
                wait = RECONNECT.0;
            }
            match end {
                End::Finished | End::Silent => break,
                End::Drained => {}
                End::Broken => back_off(&mut wait).await,
            }
            stream = self.reconnect(&mut wait).await;
        }
        let now = self.now();
        let left = self.again.drain(..);
        self.done
            .extend(left.map(|call| (call, Outcome::Failed(Failure::Lost))));
        self.record(now);
        self.tally.gave_up = !self.is_over(now);
        Ok(self.tally)
    }

    /// `None` when there is no server for too long, or nothing left to send.
    async fn reconnect(&mut self, wait: &mut Duration) -> Option<TcpStream> {
        let give_up = Instant::now() + self.shared.patience;
        while Instant::now() < give_up && !self.is_over(self.now()) {
            if let Ok(stream) = connect(self.shared.server).await {
                self.tally.reconnects += 1;
                return Some(stream);
            }
            back_off(wait).await;
        }
        None
    }

    async fn serve(
        &mut self,
        session: &mut Session,
        mut stream: TcpStream,
    ) -> Result<End, ProtocolError> {
        let mut buffer = vec![0; READ_BUFFER];
        let mut filled = 0;
        let mut timer = pin!(sleep(TICK));
        let mut heard = self.now();
        loop {
            let now = self.now();
            if session.in_flight() == 0 && session.can_send() {
                heard = now;
            }
            self.send(session, now);
            if session.in_flight() == 0 {
                if self.is_over(now) {
                    return Ok(End::Finished);
                }
                if session.is_draining() {
                    return Ok(End::Drained);
                }
            }
            let waits_for_server = session.in_flight() > 0 || !session.can_send();
            if waits_for_server && now > heard.saturating_add(nanos(self.shared.patience)) {
                session.abandon(Failure::TimedOut, &mut self.done);
                self.record(now);
                return Ok(End::Silent);
            }
            let spins = self.set_timer(session, now, timer.as_mut());
            let event = poll_fn(|cx| {
                let out = session.output();
                poll(
                    &mut stream,
                    out,
                    &mut buffer[filled..],
                    timer.as_mut(),
                    spins,
                    cx,
                )
            });
            match event.await {
                Ok(Event::Read(read)) => {
                    filled += read;
                    let used = session.receive(&buffer[..filled], &mut self.done)?;
                    buffer.copy_within(used..filled, 0);
                    filled -= used;
                    heard = self.now();
                    self.record(heard);
                }
                Ok(Event::Time) if spins => tokio::task::yield_now().await,
                Ok(Event::Time) => {}
                Ok(Event::Closed) | Err(_) => {
                    session.abandon(Failure::Lost, &mut self.done);
                    self.record(self.now());
                    return Ok(End::Broken);
                }
            }
        }
    }

    /// Writes to the session all calls that are due and have room.
    fn send(&mut self, session: &mut Session, now: u64) {
        while session.in_flight() < self.shared.concurrency && session.can_send() {
            let Some(call) = self.next_call(now) else {
                return;
            };
            session.send(call);
        }
    }

    fn next_call(&mut self, now: u64) -> Option<Call> {
        if let Some(call) = self.again.pop_front() {
            return Some(call);
        }
        if self.is_over(now) {
            return None;
        }
        let intended = self.pace.due(now);
        if intended > now {
            return None;
        }
        self.pace.advance();
        if intended >= self.shared.measure_from {
            self.budget -= 1;
        }
        Some(Call {
            key: self.keys.next(),
            intended,
        })
    }

    /// Nothing new is to be sent.
    fn is_over(&self, now: u64) -> bool {
        self.again.is_empty()
            && (self.budget == 0
                || self.pace.due(now) >= self.shared.until
                || self.shared.stop.load(Ordering::Relaxed))
    }

    /// Sets the timer to the next thing that is due, and says whether that is
    /// too soon for a timer.
    fn set_timer(&self, session: &Session, now: u64, timer: Pin<&mut Sleep>) -> bool {
        let due = self.pace.due(now);
        let room = session.in_flight() < self.shared.concurrency && session.can_send();
        let mut wait = TICK;
        if due > now && room && !self.is_over(now) {
            wait = Duration::from_nanos(due - now).saturating_sub(TIMER_SLACK);
            if wait.is_zero() {
                return true;
            }
        }
        let deadline = self.start + Duration::from_nanos(now) + wait.min(TICK);
        // Setting a timer costs about as much as a call: a closed loop does it
        // once a tick.
        if timer.is_elapsed() || deadline < timer.deadline() {
            timer.reset(deadline);
        }
        false
    }

    /// Books what has ended.
    fn record(&mut self, now: u64) {
        let mut counts = Counts::default();
        for (call, outcome) in self.done.drain(..) {
            counts.record(outcome);
            if outcome == Outcome::Unprocessed {
                self.again.push_back(call);
            } else if call.intended >= self.shared.measure_from {
                self.tally.record(outcome, call.intended, now);
            }
            if let Outcome::Failed(_) = outcome {
                self.shared
                    .failed_key
                    .store(call.key + 1, Ordering::Relaxed);
            }
        }
        self.shared.live.add(counts);
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }
}

async fn back_off(wait: &mut Duration) {
    sleep(*wait).await;
    *wait = (*wait * 2).min(RECONNECT.1);
}

/// Connects, without delaying small writes.
pub(crate) async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes what can be written and ends with the first thing that happens.
fn poll(
    stream: &mut TcpStream,
    out: &mut Vec<u8>,
    buffer: &mut [u8],
    timer: Pin<&mut Sleep>,
    spins: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Event>> {
    write_out(stream, out, cx)?;
    let mut buffer = ReadBuf::new(buffer);
    if Pin::new(stream).poll_read(cx, &mut buffer)?.is_ready() {
        return Poll::Ready(Ok(match buffer.filled().len() {
            0 => Event::Closed,
            read => Event::Read(read),
        }));
    }
    if !spins {
        ready!(timer.poll(cx));
    }
    Poll::Ready(Ok(Event::Time))
}

fn write_out(stream: &mut TcpStream, out: &mut Vec<u8>, cx: &mut Context<'_>) -> io::Result<()> {
    let mut written = 0;
    while written < out.len() {
        match Pin::new(&mut *stream).poll_write(cx, &out[written..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(more)) => written += more,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    out.drain(..written);
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
