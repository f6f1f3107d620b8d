//! Counters in this process's memory.
//!
//! Counters are spread over shards by a keyed hash of their key; a shard is a
//! flat table under a mutex. So a limit of N admits exactly N, from however
//! many threads. A counter costs 40 bytes and its share of the table's free
//! places.
//!
//! A lock is held for one counter's arithmetic, or longer: while a shard is
//! swept or evicted from, for a pass over all of it; and in
//! [`ChargeMode::OthersStandStill`], where all counters of a request change or
//! none, for that request, over all of its shards.
//!
//! A counter is freed some seconds after its window has ended: [`sweep_next`]
//! walks through the shards. One whose window has not ended is never dropped
//! unless the configured bound is reached and the policy says so.
//!
//! [`sweep_next`]: MemoryStore::sweep_next

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::{HashTable, hash_table};
use smallvec::SmallVec;

use super::ChargeMode;
use crate::engine::{
    algorithm::{
        Cell, Counter, Method, Observation, Step,
        counter::{Saved, Terms},
        fixed_window,
        values::Done,
    },
    descriptor::Hits,
    key::HashSeed,
    plan::{Charge, PerDescriptor, Refuses},
    time::Timestamp,
};

/// Settings of the memory store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most counters held at once; a different value counts as one, two hits of
    /// a sliding log as well. `--max-counters`, default 10,000,000.
    pub max_counters: usize,
    /// What to do with a new counter beyond that. `--when-full`, default `deny`.
    pub when_full: WhenFull,
}

/// What happens to a new counter when the store is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its hits are refused; nobody's limit is forgotten.
    #[default]
    Deny,
    /// Its hits pass uncounted; nobody's limit is forgotten.
    Allow,
    /// Its shard drops a 64th of its counters, at least one: those whose
    /// windows end soonest. Other shards are not looked at, so its hits are
    /// refused when its own has no counter to drop.
    EvictExpiringSoonest,
}

/// Counters of one process.
#[derive(Debug)]
pub struct MemoryStore {
    shards: Box<[Shard]>,
    seed: HashSeed,
    config: Config,
    live: AtomicUsize,
    next_sweep: AtomicUsize,
    warned_full: AtomicBool,
    refused: AtomicU64,
    uncounted: AtomicU64,
    evicted: AtomicU64,
}

/// Figures about the store, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Counters held, with those whose end has not been noticed yet.
    pub counters: usize,
    /// Charges refused because the store was full.
    pub refused_when_full: u64,
    /// Charges let pass uncounted because the store was full.
    pub uncounted_when_full: u64,
    /// Counters dropped before their window's end.
    pub evicted: u64,
}

/// Aligned so that two shards' locks never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: HashTable<Slot>,
    /// Counters that are more than a plain fixed window.
    special: HashTable<SpecialSlot>,
    /// When expired slots were last looked for, in seconds.
    swept: u64,
}

/// 40 bytes; the key is two halves because a `u128` would be aligned to 16.
#[derive(Debug)]
struct Slot {
    key: [u64; 2],
    cell: Cell,
}

#[derive(Debug)]
struct SpecialSlot {
    key: [u64; 2],
    counter: Counter,
}

/// What a charge found, to be put back.
enum Old {
    Plain(Option<Cell>),
    Special(Option<Saved>, Done),
}

/// Counters for each shard that make further shards worth their memory.
const COUNTERS_PER_SHARD: usize = 4_096;
const MAX_SHARDS: usize = 256;
/// A counter is kept for so long after its window, for requests that have read
/// the clock before and for a clock that steps back a little.
const GRACE: Duration = Duration::from_secs(5);
/// A full shard is searched once for so many of its slots, not for each.
const EVICTED_SHARE: usize = 64;

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store. `seed` should be random: it keeps clients from making
    /// their counters meet other people's.
    #[must_use]
    pub fn new(config: Config, seed: HashSeed) -> Self {
        let shards = (config.max_counters / COUNTERS_PER_SHARD)
            .clamp(1, MAX_SHARDS)
            .next_power_of_two();
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            seed,
            config,
            live: AtomicUsize::new(0),
            next_sweep: AtomicUsize::new(0),
            warned_full: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            uncounted: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// See [`AnyStore::charge`](super::AnyStore::charge); never waits.
    #[must_use]
    pub fn charge(
        &self,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
    ) -> PerDescriptor<Observation> {
        match mode {
            ChargeMode::OthersStandStill if charges.len() > 1 => {
                self.charge_those_over(charges, now)
            }
            ChargeMode::AllOrNothing => self.charge_all_or_none(charges, now),
            ChargeMode::Always | ChargeMode::OthersStandStill => charges
                .iter()
                .map(|charge| {
                    let key = self.key(charge);
                    let mut table = self.shards[self.shard_of(key)].lock();
                    self.charge_one(&mut table, key, charge, charge.hits, now)
                })
                .collect(),
        }
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            counters: self.live.load(Ordering::Relaxed),
            refused_when_full: self.refused.load(Ordering::Relaxed),
            uncounted_when_full: self.uncounted.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// As many counters as there may be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.config.max_counters
    }

    /// How many calls of [`sweep_next`](Self::sweep_next) see every counter.
    #[must_use]
    pub fn sweeps_per_round(&self) -> usize {
        self.shards.len()
    }

    /// Frees the ended counters of the next shard.
    pub fn sweep_next(&self, now: Timestamp) {
        let index = self.next_sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let mut table = self.shards[index].lock();
        self.sweep(&mut table, now);
    }

    /// Charges those that go over and, if there are none, the others too.
    fn charge_those_over(
        &self,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> PerDescriptor<Observation> {
        let mut locked = Locked::new(self, charges);
        let goes_over: SmallVec<[bool; 8]> = charges
            .iter()
            .enumerate()
            .map(|(index, charge)| {
                let (table, key) = locked.table(index);
                let seen = self.peek(table, key, charge, charge.hits, now);
                charge.is_over(&seen)
            })
            .collect();
        let refused = goes_over
            .iter()
            .zip(charges)
            .any(|(&over, charge)| over && charge.refuses != Refuses::Never);
        charges
            .iter()
            .enumerate()
            .map(|(index, charge)| {
                let stands_still = refused && !goes_over[index];
                let hits = if stands_still {
                    Hits::Take(0)
                } else {
                    charge.hits
                };
                let (table, key) = locked.table(index);
                self.charge_one(table, key, charge, hits, now)
            })
            .collect()
    }

    /// Charges all and, if that refuses the request, takes it back before
    /// anybody else can see it: so what was refused because the store is full
    /// leaves no trace either.
    fn charge_all_or_none(
        &self,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> PerDescriptor<Observation> {
        let mut locked = Locked::new(self, charges);
        let mut old: SmallVec<[Old; 8]> = SmallVec::with_capacity(charges.len());
        let mut seen: PerDescriptor<Observation> = charges
            .iter()
            .enumerate()
            .map(|(index, charge)| {
                let (table, key) = locked.table(index);
                let Some(method) = charge.method else {
                    old.push(Old::Plain(table.get(key)));
                    return self.charge_one(table, key, charge, charge.hits, now);
                };
                let saved = table.special(key).map(Counter::save);
                let (seen, done) =
                    self.charge_special(table, key, (charge, method), charge.hits, now);
                old.push(Old::Special(saved, done));
                seen
            })
            .collect();
        let limits = charges.iter().zip(&seen);
        if !Refuses::any(limits.map(|(charge, seen)| (charge.refuses, charge.is_over(seen)))) {
            return seen;
        }
        // Of equal keys the first one's old state comes last, and stays.
        for (index, old) in old.into_iter().enumerate().rev() {
            let (table, key) = locked.table(index);
            match old {
                Old::Plain(old) => self.put_back(table, key, old),
                Old::Special(old, done) => self.restore(table, key, old, done),
            }
        }
        for (index, (charge, seen)) in charges.iter().zip(&mut seen).enumerate() {
            let (table, key) = locked.table(index);
            if charge.is_over(seen) {
                self.lock(table, key, charge, now);
            } else {
                *seen = self.peek(table, key, charge, Hits::Take(0), now);
            }
        }
        seen
    }

    /// What `hits` would see.
    fn peek(
        &self,
        table: &mut Table,
        key: [u64; 2],
        charge: &Charge<'_>,
        hits: Hits,
        now: Timestamp,
    ) -> Observation {
        match charge.method {
            None => fixed_window(charge.limit, table.get(key), hits, now).observation,
            Some(method) => {
                let terms = self.terms(charge, method);
                match table.special(key) {
                    Some(counter) => self.weighed(counter, |it| it.peek(&terms, hits, now)),
                    None => Counter::default().peek(&terms, hits, now),
                }
            }
        }
    }

    /// Undoes a charge, as [`put_back`](Self::put_back) does.
    fn restore(&self, table: &mut Table, key: [u64; 2], old: Option<Saved>, done: Done) {
        match old {
            Some(saved) => {
                if let Some(counter) = table.special(key) {
                    self.weighed(counter, |it| it.restore(saved, done));
                }
            }
            None => {
                let freed = table.remove_special(key);
                self.live.fetch_sub(freed, Ordering::Relaxed);
            }
        }
    }

    /// A counter that has refused may be locked by it, though nothing is
    /// counted.
    fn lock(&self, table: &mut Table, key: [u64; 2], charge: &Charge<'_>, now: Timestamp) {
        let takes = matches!(charge.hits, Hits::Take(1..));
        let leaves = |method: &Method| method.lockout > 0 || method.warm_up.is_some();
        let Some(method) = charge.method.filter(|method| leaves(method) && takes) else {
            return;
        };
        let terms = self.terms(charge, method);
        if let Some(counter) = table.special(key) {
            self.weighed(counter, |it| it.lock(&terms, now));
        } else if self.reserve(table, now) {
            let mut counter = Counter::default();
            counter.lock(&terms, now);
            table.insert_special(SpecialSlot { key, counter });
        }
    }

    fn charge_special(
        &self,
        table: &mut Table,
        key: [u64; 2],
        (charge, method): (&Charge<'_>, Method),
        hits: Hits,
        now: Timestamp,
    ) -> (Observation, Done) {
        let terms = self.terms(charge, method);
        if let Some(counter) = table.special(key) {
            let (seen, done) = self.weighed(counter, |it| it.charge(&terms, hits, now));
            let full = self.live.load(Ordering::Relaxed) > self.config.max_counters;
            if full && self.weighed(counter, |it| it.forget(done)) {
                self.warn_full();
                return (self.beyond(seen, hits), Done::Nothing);
            }
            return (seen, done);
        }
        let mut counter = Counter::default();
        let (seen, done) = counter.charge(&terms, hits, now);
        if counter.is_blank() {
            return (seen, done);
        }
        if self.reserve(table, now) {
            let more = counter.weight() - 1;
            self.live.fetch_add(more, Ordering::Relaxed);
            table.insert_special(SpecialSlot { key, counter });
            return (seen, done);
        }
        (self.beyond(seen, hits), Done::Nothing)
    }

    /// What is told where there is no room to count.
    fn beyond(&self, seen: Observation, hits: Hits) -> Observation {
        match self.config.when_full {
            WhenFull::Allow => {
                self.uncounted.fetch_add(1, Ordering::Relaxed);
                seen
            }
            WhenFull::Deny | WhenFull::EvictExpiringSoonest => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Observation {
                    before: seen.most,
                    after: seen.most.saturating_add(hits.amount().max(1)),
                    ..seen
                }
            }
        }
    }

    /// Changes a counter, and counts how it grows or shrinks.
    fn weighed<T>(&self, counter: &mut Counter, change: impl FnOnce(&mut Counter) -> T) -> T {
        let before = counter.weight();
        let result = change(counter);
        let after = counter.weight();
        if after > before {
            self.live.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.live.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    fn terms(&self, charge: &Charge<'_>, method: Method) -> Terms {
        Terms {
            method,
            limit: charge.limit,
            value: self.seed.hash(charge.value),
        }
    }

    /// Undoes a charge. A counter that had to make room meanwhile stays away.
    fn put_back(&self, table: &mut Table, key: [u64; 2], old: Option<Cell>) {
        let Ok(mut found) = table.entry(key) else {
            return;
        };
        if let Some(cell) = old {
            found.get_mut().cell = cell;
        } else {
            found.remove();
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn charge_one(
        &self,
        table: &mut Table,
        key: [u64; 2],
        charge: &Charge<'_>,
        hits: Hits,
        now: Timestamp,
    ) -> Observation {
        if let Some(method) = charge.method {
            return self
                .charge_special(table, key, (charge, method), hits, now)
                .0;
        }
        if let Ok(mut found) = table.entry(key) {
            let slot = found.get_mut();
            let step = fixed_window(charge.limit, Some(slot.cell), hits, now);
            slot.cell = step.cell;
            return step.observation;
        }
        let step = fixed_window(charge.limit, None, hits, now);
        if step.cell.count == 0 {
            // A look, or a refund of nothing: no counter is needed to say so.
            return step.observation;
        }
        self.insert(table, key, step, hits, now)
    }

    fn insert(
        &self,
        table: &mut Table,
        key: [u64; 2],
        step: Step,
        hits: Hits,
        now: Timestamp,
    ) -> Observation {
        if self.reserve(table, now) {
            table.insert(Slot {
                key,
                cell: step.cell,
            });
            return step.observation;
        }
        self.beyond(step.observation, hits)
    }

    /// Makes sure that one more counter may be held, and counts it.
    fn reserve(&self, table: &mut Table, now: Timestamp) -> bool {
        if self.try_reserve() {
            return true;
        }
        self.warn_full();
        if table.swept < now.as_secs() {
            self.sweep(table, now);
        }
        if self.try_reserve() {
            return true;
        }
        if self.config.when_full == WhenFull::EvictExpiringSoonest {
            let evicted = table.evict_soonest();
            self.live.fetch_sub(evicted, Ordering::Relaxed);
            self.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        }
        self.try_reserve()
    }

    fn try_reserve(&self) -> bool {
        let before = self.live.fetch_add(1, Ordering::Relaxed);
        let free = before < self.config.max_counters;
        if !free {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
        free
    }

    fn sweep(&self, table: &mut Table, now: Timestamp) {
        let freed = table.free_expired(now);
        self.live.fetch_sub(freed, Ordering::Relaxed);
    }

    fn warn_full(&self) {
        if !self.warned_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                max_counters = self.config.max_counters,
                when_full = ?self.config.when_full,
                "the memory store is full; see --max-counters and --when-full"
            );
        }
    }

    fn key(&self, charge: &Charge<'_>) -> [u64; 2] {
        let hash = charge.key.hash(self.seed);
        #[allow(clippy::cast_possible_truncation, reason = "takes the halves apart")]
        let halves = [hash as u64, (hash >> 64) as u64];
        halves
    }

    fn shard_of(&self, key: [u64; 2]) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "only low bits are used")]
        let low = key[1] as usize;
        low & (self.shards.len() - 1)
    }
}

/// The shards of one request's counters, locked in order, so that looking and
/// counting are one step and no two requests wait for each other.
struct Locked<'s> {
    keys: SmallVec<[[u64; 2]; 8]>,
    /// Of each key: which of `tables`.
    places: SmallVec<[usize; 8]>,
    tables: SmallVec<[MutexGuard<'s, Table>; 8]>,
}

// === impl Locked ===

impl<'s> Locked<'s> {
    fn new(store: &'s MemoryStore, charges: &[Charge<'_>]) -> Self {
        let keys: SmallVec<[[u64; 2]; 8]> = charges.iter().map(|c| store.key(c)).collect();
        let mut places: SmallVec<[usize; 8]> = keys.iter().map(|&k| store.shard_of(k)).collect();
        let mut order = places.clone();
        order.sort_unstable();
        order.dedup();
        let tables = order
            .iter()
            .map(|&shard| store.shards[shard].lock())
            .collect();
        for place in &mut places {
            *place = order.partition_point(|shard| shard < place);
        }
        Self {
            keys,
            places,
            tables,
        }
    }

    /// The table that a charge's counter is in, and its key.
    fn table(&mut self, charge: usize) -> (&mut Table, [u64; 2]) {
        (&mut self.tables[self.places[charge]], self.keys[charge])
    }
}

// === impl Shard ===

impl Shard {
    /// A panic elsewhere leaves a table whole: nothing in here can unwind
    /// between two steps that belong together.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Table ===

impl Table {
    fn entry(&mut self, key: [u64; 2]) -> Result<hash_table::OccupiedEntry<'_, Slot>, ()> {
        self.slots
            .find_entry(key[0], |slot| slot.key == key)
            .map_err(drop)
    }

    fn get(&self, key: [u64; 2]) -> Option<Cell> {
        self.slots
            .find(key[0], |slot| slot.key == key)
            .map(|slot| slot.cell)
    }

    fn insert(&mut self, slot: Slot) {
        self.slots
            .insert_unique(slot.key[0], slot, |slot| slot.key[0]);
    }

    fn special(&mut self, key: [u64; 2]) -> Option<&mut Counter> {
        let found = self.special.find_mut(key[0], |slot| slot.key == key);
        found.map(|slot| &mut slot.counter)
    }

    fn insert_special(&mut self, slot: SpecialSlot) {
        self.special
            .insert_unique(slot.key[0], slot, |slot| slot.key[0]);
    }

    /// How many plain counters that was as large as; 0 if there was none.
    fn remove_special(&mut self, key: [u64; 2]) -> usize {
        let found = self.special.find_entry(key[0], |slot| slot.key == key);
        found.map_or(0, |found| found.remove().0.counter.weight())
    }

    /// Drops slots whose window has ended; says how many.
    fn free_expired(&mut self, now: Timestamp) -> usize {
        self.swept = now.as_secs();
        self.retain(|expires| expires.saturating_add(GRACE) > now)
    }

    /// Drops those that would go soonest, a small share of all at once; says
    /// how many.
    fn evict_soonest(&mut self) -> usize {
        let plain = self.slots.iter().map(|slot| slot.cell.expires);
        let special = self.special.iter().map(|slot| slot.counter.expires());
        let mut ends: Vec<Timestamp> = plain.chain(special).collect();
        if ends.is_empty() {
            return 0;
        }
        let mut left = (ends.len() / EVICTED_SHARE).max(1);
        let (_, &mut last, _) = ends.select_nth_unstable(left - 1);
        let earlier = ends.iter().filter(|&&end| end < last).count();
        let mut at_last = left - earlier;
        self.retain(|expires| {
            let goes = left > 0 && (expires < last || (expires == last && at_last > 0));
            if goes {
                left -= 1;
                at_last -= usize::from(expires == last);
            }
            !goes
        })
    }

    fn retain(&mut self, mut keep: impl FnMut(Timestamp) -> bool) -> usize {
        let before = self.slots.len();
        self.slots.retain(|slot| keep(slot.cell.expires));
        let mut freed = before - self.slots.len();
        self.special.retain(|slot| {
            let stays = keep(slot.counter.expires());
            freed += if stays { 0 } else { slot.counter.weight() };
            stays
        });
        let (plain, special) = (self.slots.len(), self.special.len());
        if self.slots.capacity() / 4 > plain {
            self.slots.shrink_to(plain * 2, |slot| slot.key[0]);
        }
        if self.special.capacity() / 4 > special {
            self.special.shrink_to(special * 2, |slot| slot.key[0]);
        }
        freed
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
