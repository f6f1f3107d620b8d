//! A backend: the nodes of one store, and the lanes to them.
//!
//! Each worker that takes a seat gets its own lane to every node, on its own
//! event loop. A watcher looks after the backend from time to time and when
//! there is trouble: which node has which slots, how far the store's clock is
//! from ours, how many processes share the store.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::aio::MultiplexedConnection;
use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    address::Server,
    batch::{Flush, Item, Newsroom, Sight, Work},
    connect::{Connector, offset},
    key::Keys,
    known_over::KnownOver,
    lane::{Condition, Lane, LaneConfig, fail},
    owed::Owed,
    slots::{Node, Topology},
    ticket::Tag,
};
use crate::{
    clock::Clock,
    counts::{Distribution, Histogram, LATENCIES, SIZES},
    engine::time::Timestamp,
    storage::StoreError,
};

/// One store: a server, whatever sentinels call the primary, or a cluster.
#[derive(Debug)]
pub(super) struct Backend {
    connector: Connector,
    config: LaneConfig,
    routing: ArcSwap<Routing>,
    /// The event loops of workers, by seat.
    seats: Mutex<Vec<Handle>>,
    /// Something is wrong: the watcher shall look.
    trouble: Notify,
    /// The watcher has looked.
    looked: Notify,
    has_connected: AtomicBool,
    /// The store's clock minus ours, in nanoseconds.
    offset: AtomicI64,
    /// Processes that share the store; 0 where unknown.
    replicas: AtomicU32,
    counts: Counts,
    known_over: Arc<KnownOver>,
    owed: Owed,
    era: AtomicU64,
    /// The primary that sentinels have named.
    primary: Mutex<Option<Server>>,
    /// Since when fewer processes are heard of.
    fewer_since: Mutex<Option<Instant>>,
    keys: Keys,
    /// Counts refunds: what was learnt before one may be wrong after it.
    refunds: AtomicU64,
    clock: Clock,
    /// Windows go by our own clock, not by the store's.
    own_clock: bool,
    /// Stands before the keys of the backend's own.
    prefix: Box<str>,
    newsroom: Newsroom,
}

/// Where keys are, and how to get there.
#[derive(Debug)]
struct Routing {
    topology: Option<Topology>,
    /// By seat, then by node.
    lanes: Vec<Vec<Arc<Lane>>>,
}

/// Figures about one store, for metrics.
#[derive(Clone, Debug)]
pub struct BackendStats {
    /// `main`, or `per_second`.
    pub name: &'static str,
    /// Nothing is wrong with it now.
    pub up: bool,
    /// Connections that can be used.
    pub connections: u64,
    /// Connections made so far.
    pub connects: u64,
    /// Connections lost so far.
    pub disconnects: u64,
    /// Writes, each of one or more commands.
    pub flushes: u64,
    /// Writes that were not answered, or not in time.
    pub failures: u64,
    /// Commands sent.
    pub commands: u64,
    /// Changes of counters that these stood for.
    pub charges: u64,
    /// Changes of counters in each write.
    pub sizes: Distribution,
    /// From a write to its replies, in microseconds.
    pub times: Distribution,
}

/// What lanes have done.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) flushes: AtomicU64,
    /// Flushes that were not answered, or not in time.
    pub(super) failures: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) charges: AtomicU64,
    pub(super) lease_hits: AtomicU64,
    /// Connections made, and lost.
    pub(super) connects: AtomicU64,
    pub(super) disconnects: AtomicU64,
    /// Charges of a flush.
    pub(super) sizes: Histogram<{ SIZES.len() }>,
    /// From a flush to its replies.
    pub(super) times: Histogram<{ LATENCIES.len() }>,
}

/// Where else an item has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot has moved to this node.
    Moved(Node),
    /// The slot is moving to this node; this key is there already.
    Ask(Node),
    /// The keys of a script are on two nodes for a moment.
    TryAgain,
}

/// Counters of one request that are compared with each other.
const MOST_COMPARED: usize = 64;
/// How often all is looked at when nothing is wrong.
const ROUND: Duration = Duration::from_secs(10);
/// And when something is.
const TROUBLED_ROUND: Duration = Duration::from_millis(200);
/// A look takes no longer.
const LOOK: Duration = Duration::from_secs(2);
/// A process that has not been heard of for so long is gone.
const GONE: Duration = Duration::from_secs(30);
/// Processes that share a store of which that is not known.
const SUPPOSED_REPLICAS: u32 = 4;
/// Counters whose changes are remembered while the store is away.
const MOST_OWED: usize = 65_536;
/// Of these, as many go at once.
const PAID_AT_ONCE: usize = 1_000;
const MOST_REDIRECTS: u8 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(2);

thread_local! {
    /// The seat of the worker that runs on this thread.
    static SEAT: Cell<usize> = const { Cell::new(0) };
}

// === impl Counts ===

impl Default for Counts {
    fn default() -> Self {
        Self {
            flushes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            charges: AtomicU64::new(0),
            lease_hits: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            sizes: Histogram::new(SIZES),
            times: Histogram::new(LATENCIES),
        }
    }
}

impl Counts {
    /// Counts a flush that is sent.
    pub(super) fn count<T>(&self, flush: &Flush<T>) {
        let add = |count: &AtomicU64, more: usize| count.fetch_add(more as u64, Ordering::Relaxed);
        add(&self.flushes, 1);
        add(&self.commands, flush.len());
        add(&self.charges, flush.items().len());
        self.sizes.record(flush.items().len() as u64, 1);
    }
}

// === impl Backend ===

impl Backend {
    pub(super) fn new(
        connector: Connector,
        config: LaneConfig,
        prefix: &str,
        keys: Keys,
        known_over: Arc<KnownOver>,
        (clock, own_clock): (Clock, bool),
        id: u128,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            routing: ArcSwap::from_pointee(Routing {
                topology: connector.known_topology(),
                lanes: vec![],
            }),
            seats: Mutex::new(vec![]),
            trouble: Notify::new(),
            looked: Notify::new(),
            has_connected: AtomicBool::new(false),
            offset: AtomicI64::new(0),
            replicas: AtomicU32::new(0),
            counts: Counts::default(),
            connector,
            known_over,
            owed: Owed::new(MOST_OWED),
            era: AtomicU64::new(0),
            primary: Mutex::default(),
            fewer_since: Mutex::default(),
            keys,
            refunds: AtomicU64::new(0),
            clock,
            own_clock,
            prefix: prefix.into(),
            newsroom: Newsroom {
                channel: format!("{prefix}rk-refunds").into(),
                name: format!("{id:032x}").into(),
            },
        })
    }

    /// Gives the event loop that this runs on its own lanes, for calls made
    /// on this thread.
    pub(super) fn take_seat(self: &Arc<Self>) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.push(Handle::current());
        SEAT.set(seats.len() - 1);
        let topology = self.routing.load().topology.clone();
        self.rebuild(&seats, topology);
    }

    /// The lane to the node that has `key`; `None` where that is not known.
    pub(super) fn lane(&self, key: &[u8]) -> Option<Arc<Lane>> {
        let routing = self.routing.load();
        let node = routing.topology.as_ref()?.node_of(key);
        let seat = SEAT.get().min(routing.lanes.len().checked_sub(1)?);
        routing.lanes[seat].get(node).map(Arc::clone)
    }

    /// Sends `item` to the node that has its key.
    pub(super) fn push(&self, item: Item<Tag>) {
        match self.lane(&item.work.key().bytes) {
            Some(lane) => lane.push(item),
            None => self.unsent(item, &self.error("no node is known to have the key")),
        }
    }

    /// It was not sent, or had no effect: whoever waits is told so, and what
    /// nobody waits for is for later.
    pub(super) fn unsent(&self, item: Item<Tag>, error: &StoreError) {
        if item.tag.is_none() {
            self.owe(item.work);
        } else {
            fail(item, error);
        }
    }

    /// Has a change made as soon as the store can make it.
    pub(super) fn owe(&self, work: Work) {
        self.owed.add(work, self.now());
    }

    /// Makes changes that can be made now, not too many at once.
    pub(super) fn pay(&self) {
        if self.owed.is_empty() {
            return;
        }
        let can_go = |key: &[u8]| self.lane(key).is_some_and(|lane| lane.is_up());
        for item in self.owed.take(PAID_AT_ONCE, self.now(), can_go) {
            if item.work.gives_back() {
                self.gives_back();
            }
            self.push(item);
        }
    }

    /// Counts the primaries that sentinels have named.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::Relaxed)
    }

    /// A refund is on its way, or has been made.
    pub(super) fn gives_back(&self) {
        self.refunds.fetch_add(1, Ordering::SeqCst);
    }

    /// Refunds so far.
    pub(super) fn refunds(&self) -> u64 {
        self.refunds.load(Ordering::SeqCst)
    }

    /// Remembers a counter that has nothing left, unless there was a refund
    /// since the question was sent: then the order is not known.
    pub(super) fn learn(&self, work: &Work, sight: &Sight, refunds: u64) {
        match work {
            Work::Take(key, _, terms) => {
                let count = sight.first().map_or(0, |seen| seen.after);
                if count >= terms.limit.into() && self.refunds() == refunds {
                    let lasts = self.lasts(terms.resets);
                    self.known_over.learn(key.hash, count, terms.limit, lasts);
                }
            }
            Work::GiveBack(key, ..) => self.forget(key.hash),
            Work::Together(together) => {
                for (place, (part, seen)) in together.parts.iter().zip(sight).enumerate() {
                    // What a counter saw behind another change of the same
                    // request may have been taken back with that.
                    let earlier = &together.parts[..place];
                    let twice = earlier.len() > MOST_COMPARED
                        || earlier.iter().any(|it| it.key.hash == part.key.hash);
                    if part.special.is_some() || (twice && !part.gives_back) {
                        // Nothing is known.
                    } else if part.gives_back {
                        self.forget(part.key.hash);
                    } else if seen.before >= part.limit.into() && self.refunds() == refunds {
                        let lasts = self.lasts(part.resets);
                        self.known_over
                            .learn(part.key.hash, seen.before, part.limit, lasts);
                    }
                }
            }
        }
    }

    /// Hits of a counter were given back: nothing is known of it any more.
    fn forget(&self, key: u128) {
        self.gives_back();
        self.known_over.forget(key);
        let routing = self.routing.load();
        let lanes = routing.lanes.iter().flatten();
        lanes.for_each(|lane| lane.forget_lease(key));
    }

    /// How long it is until `resets`.
    fn lasts(&self, resets: Timestamp) -> Duration {
        let now = self.now().as_nanos();
        Duration::from_nanos(resets.as_nanos().saturating_sub(now))
    }

    /// Hits taken in advance and not spent yet.
    pub(super) fn lease_outstanding(&self) -> u64 {
        let routing = self.routing.load();
        let lanes = routing.lanes.iter().flatten();
        let now = self.now();
        lanes.map(|lane| lane.outstanding(now)).sum()
    }

    /// How many lanes, in all processes, take leases of one counter.
    pub(super) fn holders(&self) -> u64 {
        let replicas = match self.replicas() {
            0 => SUPPOSED_REPLICAS,
            replicas => replicas,
        };
        u64::from(replicas) * self.routing.load().lanes.len().max(1) as u64
    }

    /// The store's time.
    pub(super) fn now(&self) -> Timestamp {
        self.time(self.clock.now())
    }

    /// Ends all lanes.
    pub(super) fn close(&self) {
        for lane in self.routing.load().lanes.iter().flatten() {
            lane.close();
        }
    }

    /// See [`Topology::is_together`].
    pub(super) fn is_together(&self, a: &[u8], b: &[u8]) -> bool {
        let routing = self.routing.load();
        let topology = routing.topology.as_ref();
        topology.is_none_or(|topology| topology.is_together(a, b))
    }

    /// One script can have any keys.
    pub(super) fn is_one_slot(&self) -> bool {
        let routing = self.routing.load();
        let topology = routing.topology.as_ref();
        topology.is_some_and(|topology| topology.is_one_slot())
    }

    pub(super) fn newsroom(&self) -> &Newsroom {
        &self.newsroom
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The store's clock minus ours, in nanoseconds.
    pub(super) fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// The time that windows go by when our clock shows `ours`.
    pub(super) fn time(&self, ours: Timestamp) -> Timestamp {
        if self.own_clock {
            ours
        } else {
            ours.shifted(self.offset())
        }
    }

    /// Processes that share the store, this one too; 0 where unknown.
    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// The store has been reached at least once.
    pub(super) fn is_ready(&self) -> bool {
        self.has_connected.load(Ordering::Relaxed)
    }

    pub(super) fn has_connected(&self) {
        self.has_connected.store(true, Ordering::Relaxed);
    }

    /// There is a connection to one node at least.
    pub(super) fn is_connected(&self) -> bool {
        let routing = self.routing.load();
        let mut conditions = routing.lanes.iter().flatten().map(|lane| lane.condition());
        conditions.any(|it| matches!(it, Condition::Up | Condition::Stalled(_)))
    }

    /// Why calls are refused, for the first node of which they are.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        let routing = self.routing.load();
        if routing.topology.is_none() {
            return Some(self.error("it has not been reached yet"));
        }
        let mut conditions = routing.lanes.iter().flatten().map(|lane| lane.condition());
        conditions.find_map(|condition| match condition {
            Condition::Stalled(error) | Condition::Down(error) => Some(error),
            Condition::Connecting | Condition::Up | Condition::Closed => None,
        })
    }

    pub(super) fn describe(&self, node: &Node) -> String {
        match node {
            Node::Primary => self.connector.describe(),
            Node::At(host, port) => format!("{} at {host}:{port}", self.connector.describe()),
        }
    }

    /// Figures for metrics.
    pub(super) fn stats(&self, name: &'static str) -> BackendStats {
        let counts = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let routing = self.routing.load();
        let lanes = routing.lanes.iter().flatten();
        BackendStats {
            name,
            up: self.trouble().is_none(),
            connections: lanes.filter(|lane| lane.is_up()).count() as u64,
            connects: read(&counts.connects),
            disconnects: read(&counts.disconnects),
            flushes: read(&counts.flushes),
            failures: read(&counts.failures),
            commands: read(&counts.commands),
            charges: read(&counts.charges),
            sizes: counts.sizes.read(),
            times: counts.times.read(),
        }
    }

    /// Has the watcher look at once.
    pub(super) fn look_again(&self) {
        self.trouble.notify_one();
    }

    /// Sends an item where its node says that it belongs.
    pub(super) fn redirect(
        self: &Arc<Self>,
        seat: usize,
        mut item: Item<Tag>,
        redirect: Redirect,
        error: StoreError,
    ) {
        item.redirects += 1;
        let is_wanted = item
            .tag
            .as_ref()
            .is_none_or(|(ticket, _)| ticket.arrived().elapsed() < self.config.deadline);
        if item.redirects > MOST_REDIRECTS || !is_wanted {
            return self.unsent(item, &error);
        }
        let target = match &redirect {
            Redirect::Moved(node) | Redirect::Ask(node) => self.lane_to(seat, node),
            Redirect::TryAgain => None,
        };
        item.asking = matches!(redirect, Redirect::Ask(_)) && target.is_some();
        if matches!(redirect, Redirect::Moved(_)) {
            self.look_again();
        }
        match target {
            Some(lane) => lane.push(item),
            None => self.push_later(item, &redirect),
        }
    }

    /// Once the watcher has looked, or once a moment has gone by.
    fn push_later(self: &Arc<Self>, item: Item<Tag>, redirect: &Redirect) {
        let (backend, waits) = (Arc::clone(self), *redirect == Redirect::TryAgain);
        let patience = self.config.deadline;
        tokio::spawn(async move {
            if waits {
                sleep(TRY_AGAIN).await;
            } else {
                let _ = timeout(patience, backend.looked.notified()).await;
            }
            backend.push(item);
        });
    }

    fn lane_to(&self, seat: usize, node: &Node) -> Option<Arc<Lane>> {
        let routing = self.routing.load();
        let lanes = routing.lanes.get(seat)?;
        lanes.iter().find(|lane| lane.node() == node).cloned()
    }

    /// Makes lanes for `topology`; those to nodes that stay, stay.
    fn rebuild(self: &Arc<Self>, seats: &[Handle], topology: Option<Topology>) {
        let old = self.routing.load_full();
        let nodes = topology.as_ref().map_or(&[][..], Topology::nodes);
        let lanes: Vec<Vec<Arc<Lane>>> = seats
            .iter()
            .enumerate()
            .map(|(seat, handle)| {
                let lane = |node| {
                    self.lane_to(seat, node).unwrap_or_else(|| {
                        let lane = Lane::new(seat, node.clone(), self.config, Arc::downgrade(self));
                        handle.spawn(Arc::clone(&lane).run(self.connector.clone()));
                        lane
                    })
                };
                nodes.iter().map(lane).collect()
            })
            .collect();
        self.routing.store(Arc::new(Routing { topology, lanes }));
        let new = self.routing.load();
        for (seat, lanes) in old.lanes.iter().enumerate() {
            for lane in lanes {
                let stays = new.lanes[seat].iter().any(|new| Arc::ptr_eq(new, lane));
                if !stays {
                    lane.close();
                }
            }
        }
    }

    pub(super) fn error(&self, reason: &str) -> StoreError {
        StoreError::new(self.connector.describe(), reason)
    }
}

// === watching ===

impl Backend {
    /// Looks after the backend for as long as it is polled.
    pub(super) async fn watch(self: Arc<Self>) {
        tokio::join!(self.keep_looking(), self.hear_of_refunds());
    }

    async fn keep_looking(self: &Arc<Self>) {
        // What stays wrong, such as a right that is missing, is told once.
        let mut told = None;
        loop {
            let result = match timeout(LOOK, self.look()).await {
                Ok(result) => result,
                Err(_) => Err(self.error("no answer to the watcher")),
            };
            let well = match result {
                Ok(()) => {
                    told = None;
                    self.trouble().is_none()
                }
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(store = %error.store, reason = %error.reason, "cannot look after the store");
                        told = Some(error);
                    }
                    false
                }
            };
            self.looked.notify_waiters();
            sleep(TROUBLED_ROUND).await;
            if well {
                let round = self.connector.round();
                let _ = timeout(round, self.trouble.notified()).await;
            }
        }
    }

    /// Forgets counters of which another process has given hits back. What was
    /// not heard may have been anything, so without a connection nothing is
    /// remembered for long.
    async fn hear_of_refunds(&self) {
        let mut is_told = false;
        loop {
            self.known_over.forget_all();
            if let Err(error) = self.listen().await {
                // A right that is missing stays missing: once is enough.
                let is_denied = error.reason.contains("NOPERM");
                if is_denied && !is_told {
                    is_told = true;
                    tracing::warn!(store = %error.store, reason = %error.reason, "refunds of other processes are not heard of: counters that are over are not remembered for long");
                }
                tracing::debug!(store = %error.store, reason = %error.reason, "refunds are not heard of");
            }
            sleep(TROUBLED_ROUND).await;
        }
    }

    async fn listen(&self) -> Result<(), StoreError> {
        let node = {
            let routing = self.routing.load();
            let nodes = routing.topology.as_ref().map_or(&[][..], Topology::nodes);
            nodes.first().cloned()
        };
        let Some(node) = node else {
            return Err(self.error("it has not been reached yet"));
        };
        let channel = &self.newsroom.channel;
        let subscription = self.connector.subscribe(&node, channel).await?;
        let (mut sink, mut news) = subscription.split();
        self.known_over.forget_all();
        loop {
            match timeout(ROUND, news.next()).await {
                Ok(Some(message)) => self.hear(message.get_payload_bytes()),
                Ok(None) => return Err(self.error("the connection was lost")),
                Err(_) => {
                    let ping = timeout(LOOK, sink.ping::<::redis::Value>()).await;
                    if !matches!(ping, Ok(Ok(_))) {
                        return Err(self.error("no answer to a ping"));
                    }
                }
            }
        }
    }

    fn hear(&self, message: &[u8]) {
        let name = self.newsroom.name.as_bytes();
        if let Some((teller, key)) = message.split_at_checked(name.len())
            && teller != name
        {
            self.forget(self.keys.hash(key));
        }
    }

    /// Looks once: topology, clock, processes.
    pub(super) async fn look(self: &Arc<Self>) -> Result<(), StoreError> {
        self.check_primary().await?;
        let known = self.routing.load().topology.clone();
        let topology = self.connector.topology(known.as_ref()).await?;
        let node = topology
            .nodes()
            .get(topology.node_of(self.replicas_key().as_bytes()));
        let node = node.or_else(|| topology.nodes().first()).cloned();
        if known.as_ref() != Some(&topology) {
            let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            self.rebuild(&seats, Some(topology));
        }
        let Some(node) = node else {
            return Err(self.error("no node has any slot"));
        };
        let mut connection = self.connector.connect(&node).await?;
        let offset = offset(&mut connection, &self.clock).await;
        let offset = offset.map_err(|reason| self.error(&reason))?;
        self.offset.store(offset, Ordering::Relaxed);
        self.has_connected();
        self.count_replicas(&mut connection, offset).await
    }

    /// A store that has forgotten them, or that they have not reached again, is
    /// not believed at once that there are fewer.
    fn hear_of_replicas(&self, heard: u32) {
        let mut fewer_since = self
            .fewer_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if heard >= self.replicas() {
            *fewer_since = None;
        } else if fewer_since.get_or_insert_with(Instant::now).elapsed() < GONE {
            return;
        }
        self.replicas.store(heard, Ordering::Relaxed);
    }

    /// Has lanes connect anew where the sentinels name another primary.
    async fn check_primary(&self) -> Result<(), StoreError> {
        let Some(named) = self.connector.named_primary().await? else {
            return Ok(());
        };
        let mut primary = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        if primary.as_ref().is_some_and(|known| *known != named) {
            self.era.fetch_add(1, Ordering::Relaxed);
        }
        *primary = Some(named);
        Ok(())
    }

    fn replicas_key(&self) -> String {
        format!("{}rk-replicas", self.prefix)
    }

    /// Says that this process is there, and counts those that have.
    async fn count_replicas(
        &self,
        connection: &mut MultiplexedConnection,
        offset: i64,
    ) -> Result<(), StoreError> {
        let now = self.clock.now().shifted(offset).as_secs();
        let key = self.replicas_key();
        let mut pipeline = ::redis::Pipeline::with_capacity(4);
        pipeline
            .cmd("ZADD")
            .arg(&key)
            .arg(now)
            .arg(&*self.newsroom.name);
        let before = now.saturating_sub(GONE.as_secs());
        pipeline
            .cmd("ZREMRANGEBYSCORE")
            .arg(&key)
            .arg("-inf")
            .arg(before);
        pipeline.cmd("EXPIRE").arg(&key).arg(GONE.as_secs() * 2);
        pipeline.cmd("ZCARD").arg(&key);
        let replies = connection.send_packed_commands(&pipeline, 0, 4).await;
        let replies = replies.map_err(|error| self.error(&error.to_string()))?;
        if let Some(::redis::Value::Int(replicas)) = replies.last() {
            self.hear_of_replicas(u32::try_from(*replicas).unwrap_or(0));
        }
        Ok(())
    }
}
