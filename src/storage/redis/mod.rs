//! Counters in Redis (or Valkey): single, behind Sentinel, or a cluster.
//!
//! In reading order: [`address`] says where a store is, [`connect`] gets
//! there, [`slots`] knows which node has a key; [`key`] writes keys; `batch`
//! makes commands of charges and answers of replies, `charges` does so for
//! windows and buckets; `lane` sends one batch after the other to one node;
//! `backend` has the lanes of one store and watches it; `known_over` refuses
//! without asking, `lease` admits without asking; `owed` remembers what is to
//! be counted later; `ticket` is a call's wait; `together` charges several
//! counters as one. This file puts them
//! together.

pub mod address;
mod backend;
mod batch;
mod charges;
pub mod connect;
mod first_seen;
pub mod key;
mod known_over;
mod lane;
mod lease;
mod owed;
mod scripts;
pub mod slots;
mod ticket;
mod together;

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

pub use self::backend::BackendStats;

use self::{
    address::{Address, TlsFiles},
    backend::Backend,
    batch::{Item, Key, Part, Seen, Special, Terms, Together, Work},
    connect::Connector,
    key::{Format, Keys},
    known_over::{KnownOver, Verdict},
    lane::LaneConfig,
    ticket::{Answers, Caller, Ticket},
};
use super::{ChargeMode, StoreError, Unanswered};
use crate::{
    clock::Clock,
    engine::{
        algorithm::{Algorithm, Observation, counter},
        descriptor::Hits,
        key::HashSeed,
        limit::{Unit, Window},
        plan::{Charge, PerDescriptor},
        time::Timestamp,
    },
    trace::Traced,
};

/// Settings of a store in Redis.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is. `--store`.
    pub address: Address,
    /// Where limits per second are counted, if elsewhere.
    /// `--per-second-store`.
    pub per_second: Option<Address>,
    /// Certificates for both.
    pub tls: TlsFiles,
    /// A call waits for the store no longer than this. `--store-timeout`,
    /// default 15 ms.
    pub deadline: Duration,
    /// From the first packet to a connection that can be used.
    /// `--store-connect-timeout`, default 500 ms; `REDIS_TIMEOUT`.
    pub connect_timeout: Duration,
    /// The same for the store of limits per second, if other.
    /// `REDIS_PERSECOND_TIMEOUT`.
    pub per_second_connect_timeout: Option<Duration>,
    /// Changes of counters that may wait, for each worker and node.
    /// `--store-queue`, default 8,192.
    pub max_queue: usize,
    /// How keys are written. `--key-format`.
    pub format: Format,
    /// Stands before every key. `CACHE_KEY_PREFIX`.
    pub prefix: String,
    /// Up to so many seconds are added to a key's time to live.
    /// `EXPIRATION_JITTER_MAX_SECONDS`, used with the reference's keys.
    pub jitter: u64,
    /// Counters remembered as over their limit. `--known-over`.
    pub known_over: u64,
    /// Windows go by this process's clock, not by the store's. `--own-clock`.
    pub own_clock: bool,
    /// Without a connection it is not ready, even if it has been reached
    /// before. `--redis-health-check-active-connection`.
    pub needs_connection: bool,
}

/// Counters in Redis.
#[derive(Debug)]
pub struct RedisStore {
    shared: Arc<Shared>,
    /// See [`Config::needs_connection`].
    needs_connection: bool,
    /// One worker takes its seats at a time, so that they are of one number.
    seating: Mutex<()>,
}

/// What calls need, wherever they run.
#[derive(Debug)]
struct Shared {
    keys: Keys,
    jitter: u64,
    main: Arc<Backend>,
    per_second: Option<Arc<Backend>>,
    known_over: Arc<KnownOver>,
}

/// Figures about the store, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Writes, each of one or more commands.
    pub flushes: u64,
    /// Commands sent.
    pub commands: u64,
    /// Changes of counters that these stood for.
    pub charges: u64,
    /// Calls decided without the store because their counter was over.
    pub known_over_hits: u64,
    /// Counters remembered as over their limit, about.
    pub known_over: u64,
    /// Hits taken in advance and not spent yet.
    pub lease_outstanding: u64,
    /// Charges admitted from hits taken in advance.
    pub lease_hits: u64,
    /// The store's clock minus ours, in nanoseconds.
    pub clock_offset_nanos: i64,
    /// Processes that share the store; 0 where unknown.
    pub replicas: u32,
}

/// A charge whose answer has to come from the store.
#[derive(Debug)]
struct Asked {
    /// Its place in the request.
    place: usize,
    key: Key,
    terms: Terms,
    /// A counter that is more than a plain fixed window.
    special: Option<Part>,
}

thread_local! {
    /// Where keys are put together; kept to save its allocation.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A key lives for its window's length, whenever in the window that begins, and
/// so many seconds more: clocks may be wrong.
const SLACK: u64 = 5;

// === impl RedisStore ===

impl RedisStore {
    /// A store that is not connected yet. `seed` and `id` should be random.
    ///
    /// # Errors
    /// Certificates cannot be read.
    pub fn new(
        config: &Config,
        clock: Clock,
        seed: HashSeed,
        id: u128,
    ) -> Result<Self, StoreError> {
        let lanes = LaneConfig {
            deadline: config.deadline,
            max_queue: config.max_queue,
        };
        let keys = Keys::new(config.format, &config.prefix, seed);
        let known_over = Arc::new(KnownOver::new(config.known_over));
        let backend = |address: &Address, connect_timeout| -> Result<Arc<Backend>, StoreError> {
            let connector = Connector::new(address.clone(), &config.tls, connect_timeout)?;
            Ok(Backend::new(
                connector,
                lanes,
                &config.prefix,
                keys.clone(),
                Arc::clone(&known_over),
                (clock.clone(), config.own_clock),
                id,
            ))
        };
        Ok(Self {
            shared: Arc::new(Shared {
                keys: keys.clone(),
                jitter: config.jitter,
                main: backend(&config.address, config.connect_timeout)?,
                per_second: match &config.per_second {
                    Some(address) => {
                        let its_own = config.per_second_connect_timeout;
                        Some(backend(address, its_own.unwrap_or(config.connect_timeout))?)
                    }
                    None => None,
                },
                known_over: Arc::clone(&known_over),
            }),
            needs_connection: config.needs_connection,
            seating: Mutex::new(()),
        })
    }

    /// Gives the event loop that this runs on its own connections, for calls
    /// made on this thread. Without any seat nothing can be counted.
    pub fn take_seat(&self) {
        let _turn = self.seating.lock().unwrap_or_else(PoisonError::into_inner);
        for backend in self.shared.backends() {
            backend.take_seat();
        }
    }

    /// Looks at the store once, for as long as `patience`: not having reached
    /// it is no reason not to start.
    ///
    /// # Errors
    /// It was not reached.
    pub async fn first_look(&self, patience: Duration) -> Result<(), StoreError> {
        let look = async {
            for backend in self.shared.backends() {
                backend.look().await?;
            }
            Ok(())
        };
        match timeout(patience, look).await {
            Ok(result) => result,
            Err(_) => Err(self.shared.main.error("it has not been reached yet")),
        }
    }

    /// Looks after the store for as long as it is polled: where keys are, its
    /// clock, who else is there.
    pub async fn watch(&self) {
        let main = Arc::clone(&self.shared.main).watch();
        match &self.shared.per_second {
            Some(other) => {
                tokio::join!(main, Arc::clone(other).watch());
            }
            None => main.await,
        }
    }

    /// The store's time when ours is `ours`.
    #[must_use]
    pub fn now(&self, ours: Timestamp) -> Timestamp {
        self.shared.main.time(ours)
    }

    /// The store has been reached since the process began.
    #[must_use]
    pub fn has_been_reached(&self) -> bool {
        self.shared.backends().all(|backend| backend.is_ready())
    }

    /// The store has been reached, and has a connection now where it needs
    /// one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.has_been_reached()
            && (!self.needs_connection
                || self.shared.backends().all(|backend| backend.is_connected()))
    }

    /// What is wrong with the store now, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<StoreError> {
        self.shared.backends().find_map(|backend| backend.trouble())
    }

    /// Where it is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        self.shared.main.describe(&slots::Node::Primary)
    }

    /// Processes that share the store, this one too; 0 where unknown.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.shared.main.replicas()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            known_over: self.shared.known_over.len(),
            known_over_hits: self.shared.known_over.hits(),
            clock_offset_nanos: self.shared.main.offset(),
            replicas: self.replicas(),
            ..Stats::default()
        };
        for backend in self.shared.backends() {
            let counts = backend.counts();
            stats.flushes += counts.flushes.load(Ordering::Relaxed);
            stats.commands += counts.commands.load(Ordering::Relaxed);
            stats.charges += counts.charges.load(Ordering::Relaxed);
            stats.lease_hits += counts.lease_hits.load(Ordering::Relaxed);
            stats.lease_outstanding += backend.lease_outstanding();
        }
        stats
    }

    /// Figures of each store there is, for metrics.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendStats> {
        let names = ["main", "per_second"];
        let backends = self.shared.backends().zip(names);
        backends
            .map(|(backend, name)| backend.stats(name))
            .collect()
    }

    /// Adds hits that were admitted while the store was away, as soon as it
    /// is back. Hits of windows that have ended by then are dropped.
    pub fn owe(&self, charge: &Charge<'_>, hits: u64, now: Timestamp) {
        // Other counters than plain windows go by when they are charged.
        if charge.method.is_some() {
            return;
        }
        let (key, terms) = self.shared.key_and_terms(charge, now);
        let backend = self.shared.backend(charge.limit.window);
        backend.owe(Work::Take(key, hits, terms));
    }

    /// See [`AnyStore::charge`](super::AnyStore::charge). From `until` on the
    /// caller does not wait any more.
    ///
    /// # Errors
    /// Not everything was answered in time; what was is told.
    pub async fn charge(
        &self,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<PerDescriptor<Observation>, Box<Unanswered>> {
        let needs_all = match mode {
            ChargeMode::Always => false,
            ChargeMode::OthersStandStill => charges.len() > 1,
            ChargeMode::AllOrNothing => true,
        };
        if needs_all {
            let caller = Caller::new(until, trace);
            return together::charge(&self.shared, charges, mode, now, caller).await;
        }
        let mut seen: PerDescriptor<Option<Observation>> = SmallVec::new();
        let mut asked: SmallVec<[Asked; 2]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            if let Some(part) = self.shared.special_part(charge, now) {
                asked.push(Asked {
                    place,
                    key: part.key.clone(),
                    terms: Terms::of_special(now),
                    special: Some(part),
                });
                seen.push(None);
                continue;
            }
            let observed = match self.shared.decide_here(charge, now) {
                Here::Decided(observation) => Some(observation),
                Here::Ask(key, terms) => {
                    asked.push(Asked {
                        place,
                        key,
                        terms,
                        special: None,
                    });
                    None
                }
            };
            seen.push(observed);
        }
        if asked.is_empty() {
            return Ok(seen.into_iter().flatten().collect());
        }
        let caller = Caller::new(until, trace);
        self.shared.ask_missing(charges, asked, seen, caller).await
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        for backend in self.shared.backends() {
            backend.close();
        }
    }
}

/// Whether a charge can be decided without the store.
enum Here {
    Decided(Observation),
    Ask(Key, Terms),
}

// === impl Shared ===

impl Shared {
    fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        [&self.main].into_iter().chain(&self.per_second)
    }

    fn backend(&self, window: Window) -> &Arc<Backend> {
        match &self.per_second {
            Some(per_second) if window == Window::of(Unit::Second) => per_second,
            _ => &self.main,
        }
    }

    fn decide_here(&self, charge: &Charge<'_>, now: Timestamp) -> Here {
        SCRATCH.with_borrow_mut(|scratch| {
            let (hash, terms) = self.locate(charge, now, scratch);
            let seen = match charge.hits {
                Hits::Take(hits) => self.refuse_or_spend(charge, scratch, hash, hits, terms, now),
                Hits::GiveBack(_) => {
                    self.settle_refused(charge.limit.window, scratch, hash, terms);
                    None
                }
            };
            match seen {
                Some(seen) => {
                    let mut seen = seen.told(&terms);
                    // What a lease admits is never over.
                    seen.known = seen.is_over();
                    Here::Decided(seen)
                }
                None => Here::Ask(self.key(scratch, hash, charge.limit.window), terms),
            }
        })
    }

    /// Puts a charge's key into `key`; says its hash, and what the charge is
    /// held against.
    fn locate(&self, charge: &Charge<'_>, now: Timestamp, key: &mut Vec<u8>) -> (u128, Terms) {
        let resets = self.keys.write(&charge.key, now, key);
        let terms = Terms {
            limit: charge.limit.requests,
            resets,
            leased: charge.leased,
        };
        (self.keys.hash(key), terms)
    }

    /// A take that is refused, or admitted by a lease, without the store.
    fn refuse_or_spend(
        &self,
        charge: &Charge<'_>,
        key: &[u8],
        hash: u128,
        hits: u64,
        terms: Terms,
        now: Timestamp,
    ) -> Option<Seen> {
        let backend = self.backend(charge.limit.window);
        if terms.leased
            && hits > 0
            && let Some(lane) = backend.lane(key)
            && let Some(seen) = lane.spend(hash, hits, terms, now)
        {
            let lease_hits = &backend.counts().lease_hits;
            lease_hits.fetch_add(1, Ordering::Relaxed);
            return Some(seen);
        }
        match self.known_over.ask(hash, hits, terms.limit, true) {
            Verdict::Over(seen) => return Some(seen),
            Verdict::Ask => self.settle_refused(charge.limit.window, key, hash, terms),
            Verdict::Unknown => {}
        }
        None
    }

    /// Has the store count what was refused without it, before anything else
    /// happens to that counter.
    fn settle_refused(&self, window: Window, key: &[u8], hash: u128, terms: Terms) {
        let hits = self.known_over.forget(hash);
        if hits > 0 {
            let work = Work::Take(self.key(key, hash, window), hits, terms);
            self.backend(window).push(Item::nobodys(work));
        }
    }

    fn key_and_terms(&self, charge: &Charge<'_>, now: Timestamp) -> (Key, Terms) {
        SCRATCH.with_borrow_mut(|scratch| {
            let (hash, terms) = self.locate(charge, now, scratch);
            (self.key(scratch, hash, charge.limit.window), terms)
        })
    }

    /// A charge of a counter that is more than a plain fixed window.
    fn special_part(&self, charge: &Charge<'_>, now: Timestamp) -> Option<Part> {
        let method = charge.method?;
        let key = SCRATCH.with_borrow_mut(|scratch| {
            self.keys.write_special(&charge.key, scratch);
            Key {
                bytes: scratch.as_slice().into(),
                hash: self.keys.hash(scratch),
                ttl: 0,
            }
        });
        let (gives_back, hits) = match charge.hits {
            Hits::Take(hits) => (false, hits),
            Hits::GiveBack(hits) => (true, hits),
        };
        let value = if matches!(method.algorithm, Algorithm::DistinctValues(_)) {
            key::value(charge.value)
        } else {
            [0; 16]
        };
        let terms = counter::Terms {
            method,
            limit: charge.limit,
            value: 0,
        };
        Some(Part {
            key,
            gives_back,
            hits,
            limit: charge.limit.requests,
            resets: now,
            refuses: charge.refuses,
            special: Some(Box::new(Special { terms, now, value })),
        })
    }

    fn key(&self, bytes: &[u8], hash: u128, window: Window) -> Key {
        let more = match self.keys.format() {
            Format::Canonical => SLACK,
            Format::Reference => rand::random_range(0..self.jitter.max(1)),
        };
        Key {
            bytes: bytes.into(),
            hash,
            ttl: window.longest_seconds().saturating_add(more),
        }
    }

    /// Asks the store for what is missing in `seen`.
    async fn ask_missing(
        &self,
        charges: &[Charge<'_>],
        asked: SmallVec<[Asked; 2]>,
        mut seen: PerDescriptor<Option<Observation>>,
        caller: Caller,
    ) -> Result<PerDescriptor<Observation>, Box<Unanswered>> {
        let places: SmallVec<[(usize, Terms); 4]> = asked
            .iter()
            .map(|asked| (asked.place, asked.terms))
            .collect();
        let works = asked.into_iter().map(|asked| {
            let Asked {
                place, key, terms, ..
            } = asked;
            let charge = &charges[place];
            let work = match (asked.special, charge.hits) {
                (Some(part), _) => Work::Together(Together::each(part)),
                (None, Hits::Take(hits)) => Work::Take(key, hits, terms),
                (None, Hits::GiveBack(hits)) => Work::GiveBack(key, hits, terms),
            };
            (charge.key.window, work)
        });
        let answers = self.ask(works, caller).await;
        let mut failure = None;
        for (answer, (place, terms)) in first_of_each(answers).zip(places) {
            match answer {
                Ok(sight) => seen[place] = Some(sight.told(&terms)),
                Err(error) => failure = Some(error),
            }
        }
        finish(seen, failure)
    }

    /// Has all of `works` done; an answer for each, in order.
    async fn ask(
        &self,
        works: impl ExactSizeIterator<Item = (Window, Work)>,
        caller: Caller,
    ) -> Answers {
        let (ticket, waiting) = Ticket::new(works.len(), caller);
        for (place, (window, work)) in works.enumerate() {
            let backend = self.backend(window);
            if work.gives_back() {
                backend.gives_back();
            }
            backend.push(Item {
                tag: Some((Arc::clone(&ticket), place)),
                work,
                asking: false,
                redirects: 0,
            });
        }
        drop(ticket);
        waiting.await
    }
}

/// Of each answer the one count that is in it.
fn first_of_each(answers: Answers) -> impl Iterator<Item = Result<Seen, StoreError>> {
    answers.into_iter().map(|answer| {
        let sight = answer.unwrap_or_else(|| Err(no_answer()))?;
        sight.first().copied().ok_or_else(no_answer)
    })
}

/// The lane broke its promise to tell of everything.
fn no_answer() -> StoreError {
    StoreError::new("redis", "no answer")
}

/// All observations, or the failure and those there are.
fn finish(
    seen: PerDescriptor<Option<Observation>>,
    failure: Option<StoreError>,
) -> Result<PerDescriptor<Observation>, Box<Unanswered>> {
    match failure {
        None if seen.iter().all(Option::is_some) => Ok(seen.into_iter().flatten().collect()),
        failure => Err(Box::new(Unanswered {
            error: failure.unwrap_or_else(no_answer),
            seen,
        })),
    }
}

// === impl Seen ===

impl Seen {
    /// What is told of it, where it was held against `terms`.
    fn told(self, terms: &Terms) -> Observation {
        self.special.unwrap_or_else(|| {
            Observation::of_window(self.before, self.after, terms.limit, terms.resets)
        })
    }
}
