//! A lane: one worker's way to one node of the store.
//!
//! Group commit without a timer: what comes while a flush is in flight forms
//! the next one. An idle lane sends at once, so that a lone call waits for one
//! round trip; under load batches grow by themselves.
//!
//! A call waits for at most the store's deadline. When a flush is late, the
//! lane has *stalled*: everybody is refused at once, to be decided otherwise,
//! until the node answers pings as quickly as it should. When the connection
//! is lost the lane connects anew, and as long as that fails it is *down* and
//! refuses at once. A connection whose node stays silent is given up.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use super::{
    backend::{Backend, Counts, Redirect},
    batch::{Advice, Flush, Granted, Item, Key, News, Refused, Seen, Sight, Terms, Work},
    connect::Connector,
    first_seen::FirstSeen,
    lease::Leases,
    scripts::Scripts,
    slots::Node,
    ticket::Tag,
};
use crate::{
    engine::time::Timestamp,
    storage::StoreError,
    trace::{Span, Tracer},
};

/// How a lane treats its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneConfig {
    /// A call waits for the store no longer than this.
    pub(super) deadline: Duration,
    /// Changes that may wait for the next flush.
    pub(super) max_queue: usize,
}

/// One worker's way to one node.
#[derive(Debug)]
pub(super) struct Lane {
    /// The worker.
    seat: usize,
    node: Node,
    config: LaneConfig,
    /// That of the backend when the lane connected.
    era: AtomicU64,
    state: Mutex<State>,
    leases: Mutex<Leases>,
    work: Notify,
    backend: Weak<Backend>,
}

#[derive(Debug)]
struct State {
    queue: Vec<Item<Tag>>,
    condition: Condition,
}

/// Whether it is worth to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The node answers.
    Up,
    /// A connection was lost a moment ago, or was never made.
    Connecting,
    /// It does not answer in time; why.
    Stalled(StoreError),
    /// It cannot be reached; why.
    Down(StoreError),
    /// The node is not one of the store's any more.
    Closed,
}

/// Silence after which an idle connection is asked for a sign of life.
const IDLE: Duration = Duration::from_secs(1);
/// Silence after which a connection is given up.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// From one question whether a stalled node is well again to the next.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// So many answers within the deadline are enough.
const ENOUGH_PROBES: u32 = 5;
/// From one attempt to connect to the next: it doubles from the first to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// Counters with hits taken in advance.
const MOST_LEASES: usize = 65_536;

// === impl Lane ===

impl Lane {
    pub(super) fn new(
        seat: usize,
        node: Node,
        config: LaneConfig,
        backend: Weak<Backend>,
    ) -> Arc<Self> {
        Arc::new(Self {
            seat,
            node,
            config,
            era: AtomicU64::new(0),
            state: Mutex::new(State {
                queue: vec![],
                condition: Condition::Connecting,
            }),
            leases: Mutex::new(Leases::new(MOST_LEASES)),
            work: Notify::new(),
            backend,
        })
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn condition(&self) -> Condition {
        self.lock().condition.clone()
    }

    /// Lets `item` be part of the next flush. Where there is no use in waiting
    /// it is told so.
    pub(super) fn push(&self, item: Item<Tag>) {
        let mut state = self.lock();
        let refusal = match &state.condition {
            Condition::Up | Condition::Connecting => {
                if state.queue.len() < self.config.max_queue {
                    state.queue.push(item);
                    drop(state);
                    self.work.notify_one();
                    return;
                }
                self.error("too many calls wait for it already")
            }
            Condition::Stalled(error) | Condition::Down(error) => error.clone(),
            Condition::Closed => self.error("the node has left the cluster"),
        };
        drop(state);
        self.unsent(item, &refusal);
    }

    fn unsent(&self, item: Item<Tag>, error: &StoreError) {
        match self.backend.upgrade() {
            Some(backend) => backend.unsent(item, error),
            None => fail(item, error),
        }
    }

    /// The node answers, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.lock().condition == Condition::Up
    }

    /// Ends the lane's task; what waits fails.
    pub(super) fn close(&self) {
        self.enter(Condition::Closed);
    }

    /// Serves until the lane is closed.
    pub(super) async fn run(self: Arc<Self>, connector: Connector) {
        let mut first_seen = FirstSeen::default();
        let mut was_lost = false;
        loop {
            let Some(mut connection) = self.connect(&connector).await else {
                return;
            };
            if let Some(backend) = self.backend.upgrade() {
                backend.has_connected();
                add_one(&backend.counts().connects);
            }
            // It may have come back empty, or as another server that has not
            // heard of everything.
            first_seen.clear();
            self.leases().clear();
            let learns = Scripts::load(&mut connection);
            let scripts = timeout(self.config.deadline, learns).await;
            let scripts = scripts.unwrap_or_default();
            self.enter(Condition::Up);
            if was_lost {
                let store = self.error("").store;
                tracing::info!(%store, "a store connection is back");
            }
            match self.serve(&mut connection, &scripts, &mut first_seen).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(store = %error.store, reason = %error.reason, "lost a store connection");
                    was_lost = true;
                    self.enter(Condition::Connecting);
                    self.count(|counts| add_one(&counts.disconnects));
                    self.report_trouble();
                }
            }
        }
    }

    fn count(&self, count: impl FnOnce(&Counts)) {
        if let Some(backend) = self.backend.upgrade() {
            count(backend.counts());
        }
    }

    /// A new connection; `None` when the lane is closed.
    async fn connect(&self, connector: &Connector) -> Option<MultiplexedConnection> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Before it connects: what changes meanwhile is seen.
            if let Some(backend) = self.backend.upgrade() {
                self.era.store(backend.era(), Ordering::Relaxed);
            }
            let attempt = connector.connect(&self.node);
            tokio::pin!(attempt);
            let mut tick = interval(LAST_PAUSE);
            let result = loop {
                tokio::select! {
                    biased;
                    result = &mut attempt => break result,
                    () = self.oldest_is_late() => {
                        self.fail_queue(&self.error("not connected in time"));
                    }
                    _ = tick.tick(), if !self.is_closed() => {
                        if self.is_outdated() {
                            break Err(self.error("another server is the primary now"));
                        }
                    }
                }
            };
            if self.is_closed() {
                return None;
            }
            match result {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    tracing::debug!(store = %error.store, reason = %error.reason, "cannot connect to the store");
                    self.enter(Condition::Down(error));
                    self.report_trouble();
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Flush after flush; ends well when the lane is closed.
    async fn serve(
        &self,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        first_seen: &mut FirstSeen,
    ) -> Result<(), StoreError> {
        let mut paid = Instant::now();
        loop {
            tokio::select! {
                biased;
                items = self.next_items() => {
                    let Some(items) = items else { return Ok(()) };
                    let items = self.still_wanted(items);
                    if !items.is_empty() {
                        self.flush(items, connection, scripts, first_seen).await?;
                    }
                }
                () = sleep(IDLE) => self.ask_for_life(connection).await?,
            }
            if self.is_outdated() {
                return Err(self.error("another server is the primary now"));
            }
            self.pay(&mut paid);
        }
    }

    /// Without those who have gone, or whose time is up: they are not sent.
    fn still_wanted(&self, items: Vec<Item<Tag>>) -> Vec<Item<Tag>> {
        let now = Instant::now();
        let wanted = |item: &Item<Tag>| {
            item.tag.as_ref().is_none_or(|(ticket, _)| {
                ticket.is_wanted(now) && now < ticket.arrived() + self.config.deadline
            })
        };
        let (items, unwanted): (Vec<_>, Vec<_>) = items.into_iter().partition(wanted);
        if !unwanted.is_empty() {
            let error = self.error("not sent in time");
            unwanted.into_iter().for_each(|item| fail(item, &error));
        }
        items
    }

    /// The sentinels have named another primary since the lane connected.
    fn is_outdated(&self) -> bool {
        let backend = self.backend.upgrade();
        backend.is_some_and(|backend| backend.era() != self.era.load(Ordering::Relaxed))
    }

    /// One write, one read.
    async fn flush(
        &self,
        items: Vec<Item<Tag>>,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        first_seen: &mut FirstSeen,
    ) -> Result<(), StoreError> {
        // One that had nearly no time left when it was sent says nothing about
        // the node.
        let now = Instant::now();
        let oldest = items.iter().filter_map(arrived).min().unwrap_or(now);
        let late = (oldest + self.config.deadline).max(now + self.config.deadline / 2);
        let Some(backend) = self.backend.upgrade() else {
            return Ok(());
        };
        let refunds = backend.refunds();
        self.leases().next_flush();
        let mut adviser = Adviser {
            lane: self,
            backend: &backend,
            first_seen,
        };
        let flush = Flush::new(items, &mut adviser);
        backend.counts().count(&flush);
        let mut span = self.span(&flush, &backend);
        let pipeline = flush.pipeline(backend.newsroom(), scripts);
        drop(backend);
        let mut probe = connection.clone();
        let reply = connection.send_packed_commands(&pipeline, 0, flush.len());
        tokio::pin!(reply);
        let replies = tokio::select! {
            biased;
            replies = &mut reply => replies,
            () = sleep_until(late) => {
                let error = self.error(&format!("no answer within {:?}", self.config.deadline));
                end(&mut span, Some(&error));
                flush.into_items().into_iter().for_each(|item| fail(item, &error));
                self.count(|counts| add_one(&counts.failures));
                self.enter(Condition::Stalled(error));
                self.report_trouble();
                return match timeout(PATIENCE, reply).await {
                    Ok(Ok(_)) => self.recover(&mut probe).await,
                    Ok(Err(error)) => Err(self.error(&error.to_string())),
                    Err(_) => Err(self.error("no answer at all")),
                };
            }
        };
        match replies {
            Ok(replies) => {
                self.count(|counts| counts.times.record_time(now.elapsed(), 1));
                let settled = self.settle(flush, replies, refunds, first_seen);
                end(&mut span, settled.as_ref().err());
                settled
            }
            Err(error) => {
                self.count(|counts| add_one(&counts.failures));
                let error = self.error(&error.to_string());
                end(&mut span, Some(&error));
                flush
                    .into_items()
                    .into_iter()
                    .for_each(|item| fail(item, &error));
                Err(error)
            }
        }
    }

    /// The span of a flush for calls that are traced: it links to them.
    fn span(&self, flush: &Flush<Tag>, backend: &Backend) -> Option<Span> {
        let tickets = flush.items().iter().filter_map(|item| item.tag.as_ref());
        let calls = tickets.filter_map(|(ticket, _)| ticket.trace());
        let mut span = Tracer::shared("Redis Pipeline Execution", calls)?;
        let number = |many: usize| i64::try_from(many).unwrap_or(i64::MAX);
        span.set("pipeline length", number(flush.len()));
        span.set("charges", number(flush.items().len()));
        span.set("store", backend.describe(&self.node));
        Some(span)
    }

    /// Tells everybody; an error where the node should not be asked again.
    fn settle(
        &self,
        flush: Flush<Tag>,
        replies: Vec<Value>,
        refunds: u64,
        first_seen: &mut FirstSeen,
    ) -> Result<(), StoreError> {
        let Some(backend) = self.backend.upgrade() else {
            return Ok(());
        };
        let mut broken = None;
        flush.settle(
            replies,
            |news| match news {
                News::Granted(Granted {
                    hash,
                    terms,
                    reply,
                    extra,
                }) => self.leases().grant(hash, terms, reply, extra),
                News::Mortal(key) => first_seen.forget(key),
            },
            |item, sight| match sight {
                Ok(mut sight) => {
                    self.leave_out_unspent(&item.work, &mut sight);
                    backend.learn(&item.work, &sight, refunds);
                    if let Some((ticket, place)) = item.tag {
                        ticket.tell(place, Ok(sight));
                    }
                }
                Err(refused) => {
                    let error = self.error(&refused.to_string());
                    if is_of_the_node(&refused) {
                        broken = Some(error.clone());
                    } else if is_of_the_cluster(&refused) {
                        self.report_trouble();
                    }
                    match redirect(&refused) {
                        Some(redirect) => backend.redirect(self.seat, item, redirect, error),
                        None => backend.unsent(item, &error),
                    }
                }
            },
        );
        broken.map_or(Ok(()), Err)
    }

    /// An idle connection may be dead without anybody noticing.
    async fn ask_for_life(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        match timeout(self.config.deadline, ping(connection)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(self.error(&reason)),
            Err(_) => {
                let error = self.error("no answer to a ping in time");
                self.enter(Condition::Stalled(error));
                self.report_trouble();
                self.recover(connection).await
            }
        }
    }

    /// Waits until the node answers in half the time that a call has, or some
    /// times in a row in all of it.
    async fn recover(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        let mut in_time = 0;
        loop {
            let asked = Instant::now();
            match timeout(PATIENCE, ping(connection)).await {
                Ok(Ok(())) => {
                    let took = asked.elapsed();
                    in_time = if took <= self.config.deadline {
                        in_time + 1
                    } else {
                        0
                    };
                    if took <= self.config.deadline / 2 || in_time >= ENOUGH_PROBES {
                        self.enter(Condition::Up);
                        return Ok(());
                    }
                }
                Ok(Err(reason)) => return Err(self.error(&reason)),
                Err(_) => return Err(self.error("no answer at all")),
            }
            if self.is_closed() {
                return Ok(());
            }
            sleep(PROBE_PAUSE).await;
        }
    }

    /// Changes the condition; fails those who wait in vain, and pays what is
    /// owed where that can be done again.
    fn enter(&self, condition: Condition) {
        let mut state = self.lock();
        if state.condition == Condition::Closed {
            return;
        }
        state.condition = condition;
        let hopeless = match &state.condition {
            Condition::Up | Condition::Connecting => None,
            Condition::Stalled(error) | Condition::Down(error) => Some(error.clone()),
            Condition::Closed => Some(self.error("the node has left the cluster")),
        };
        drop(state);
        match hopeless {
            Some(error) => self.fail_queue(&error),
            None => self.pay_now(),
        }
        self.work.notify_one();
    }

    /// What could not be added to the store may be possible now: it can fail
    /// without being away.
    fn pay(&self, paid: &mut Instant) {
        if paid.elapsed() >= IDLE {
            *paid = Instant::now();
            self.pay_now();
        }
    }

    fn pay_now(&self) {
        if let Some(backend) = self.backend.upgrade() {
            backend.pay();
        }
    }

    fn fail_queue(&self, error: &StoreError) {
        let queue = std::mem::take(&mut self.lock().queue);
        queue.into_iter().for_each(|item| self.unsent(item, error));
    }

    /// All that waits, as soon as there is something; `None` when closed.
    async fn next_items(&self) -> Option<Vec<Item<Tag>>> {
        loop {
            {
                let mut state = self.lock();
                if state.condition == Condition::Closed {
                    return None;
                }
                if !state.queue.is_empty() {
                    return Some(std::mem::take(&mut state.queue));
                }
            }
            self.work.notified().await;
        }
    }

    /// Ends when the first in the queue has waited for as long as it may.
    async fn oldest_is_late(&self) {
        loop {
            let oldest = self.lock().queue.iter().find_map(arrived);
            match oldest {
                Some(oldest) => return sleep_until(oldest + self.config.deadline).await,
                None => self.work.notified().await,
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.lock().condition == Condition::Closed
    }

    fn report_trouble(&self) {
        if let Some(backend) = self.backend.upgrade() {
            backend.look_again();
        }
    }

    /// A refund may have taken the count below what was taken in advance.
    pub(super) fn forget_lease(&self, key: u128) {
        self.leases().forget(key);
    }

    /// A look is not to see hits that we have taken for later.
    fn leave_out_unspent(&self, work: &Work, sight: &mut Sight) {
        if let (Work::Take(key, 0, Terms { leased: true, .. }), [seen]) = (work, &mut sight[..]) {
            let unspent = self.leases().balance(key.hash);
            seen.before = seen.before.saturating_sub(unspent);
            seen.after = seen.after.saturating_sub(unspent);
        }
    }

    /// A take from hits that were taken in advance, if they suffice.
    pub(super) fn spend(&self, key: u128, hits: u64, terms: Terms, now: Timestamp) -> Option<Seen> {
        self.leases().spend(key, hits, terms, now)
    }

    /// Hits taken in advance and not spent yet.
    pub(super) fn outstanding(&self, now: Timestamp) -> u64 {
        self.leases().outstanding(now)
    }

    /// Nothing under the lock can panic half-way.
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, reason: &str) -> StoreError {
        let store = self.backend.upgrade();
        let store = store.map_or_else(String::new, |backend| backend.describe(&self.node));
        StoreError::new(store, reason)
    }

    /// Nothing under the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flush has to know of its lane.
struct Adviser<'a> {
    lane: &'a Lane,
    backend: &'a Backend,
    first_seen: &'a mut FirstSeen,
}

impl Advice for Adviser<'_> {
    fn is_first(&mut self, key: &Key) -> bool {
        self.first_seen.insert(key.hash)
    }

    fn is_one_slot(&self) -> bool {
        self.backend.is_one_slot()
    }

    fn extra(&mut self, key: &Key, terms: Terms, waiting: u64) -> u64 {
        let (holders, now) = (self.backend.holders(), self.backend.now());
        let mut leases = self.lane.leases();
        leases.extra(key.hash, terms, waiting, holders, now)
    }
}

fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn arrived(item: &Item<Tag>) -> Option<Instant> {
    item.tag.as_ref().map(|(ticket, _)| ticket.arrived())
}

/// Ends a span, as a failed one where there is an error.
fn end(span: &mut Option<Span>, error: Option<&StoreError>) {
    if let (Some(mut span), Some(error)) = (span.take(), error) {
        span.fail(error.reason.to_string());
    }
}

/// Tells whoever waits for it.
pub(super) fn fail(item: Item<Tag>, error: &StoreError) {
    if let Some((ticket, place)) = item.tag {
        ticket.tell(place, Err(error.clone()));
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let reply = connection.send_packed_command(&::redis::cmd("PING")).await;
    match reply {
        Ok(Value::ServerError(error)) => Err(error.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The node as a whole cannot do what it is there for: it is worth to look
/// for another one.
fn is_of_the_node(refused: &Refused) -> bool {
    let Refused::Server(error) = refused else {
        return true;
    };
    const CODES: [&str; 7] = [
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "NOAUTH",
        "WRONGPASS",
        "NOREPLICAS",
        // Its scripts were flushed: they are loaded anew with a connection.
        "NOSCRIPT",
    ];
    // Before Redis 7, what a script runs into is told within its own error.
    let in_script = error.code() == "ERR"
        && error
            .details()
            .is_some_and(|text| CODES.iter().any(|code| text.contains(code)));
    in_script || CODES.contains(&error.code())
}

/// The node has lost the others: they may have given its slots away.
fn is_of_the_cluster(refused: &Refused) -> bool {
    matches!(refused, Refused::Server(error) if error.code() == "CLUSTERDOWN")
}

/// Where a node says that the key is.
fn redirect(refused: &Refused) -> Option<Redirect> {
    let Refused::Server(error) = refused else {
        return None;
    };
    let node = || {
        let (host, port) = error.details()?.rsplit_once(' ')?.1.rsplit_once(':')?;
        Some(Node::At(host.to_owned(), port.parse().ok()?))
    };
    match error.code() {
        "MOVED" => node().map(Redirect::Moved),
        "ASK" => node().map(Redirect::Ask),
        "TRYAGAIN" => Some(Redirect::TryAgain),
        _ => None,
    }
}
