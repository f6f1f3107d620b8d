//! Leases: hits taken in advance, so that a hot counter is decided here.
//!
//! When hits on a leased counter have to go to the store, `INCRBY` takes some
//! more than those that wait. Each hit owns a position of the counter, and is
//! admitted if that is within the limit: those that wait get the first
//! positions, in order; the others, as far as they are within the limit, are
//! kept and spent on later hits without asking. Nobody else can own them, so
//! the limit is never exceeded, whatever happens to this process. What is not
//! spent by the end of the window is lost: the limit may refuse early, by no
//! more than what is outstanding.
//!
//! How many: what the counter's measured rate spends in a moment, so that the
//! first lease of a window doubles with each command; but never more than a
//! share of the limit, so that all holders together keep back no more than a
//! twentieth of it, and only a share of what is left, so that leases shrink to
//! nothing as the limit nears. Then every hit is counted by itself.
//!
//! The argument that this is right is in `docs/adr/0008-leases.md`.

use std::{cmp::Reverse, collections::BinaryHeap, hash::BuildHasherDefault, time::Duration};

use hashbrown::{HashMap, hash_map::Entry};

use super::{
    batch::{Seen, Terms},
    first_seen::Ready,
};
use crate::engine::time::Timestamp;

/// The leases of one lane.
#[derive(Debug)]
pub(super) struct Leases {
    leases: HashMap<u128, Lease, BuildHasherDefault<Ready>>,
    /// When to look whether a lease can go, soonest first; one for each.
    visits: BinaryHeap<Reverse<(Timestamp, u128)>>,
    /// Most counters with a lease, or on the way to one.
    most: usize,
    /// Hits taken and not spent, all counters together.
    outstanding: u64,
    /// Counts the flushes.
    flush: u64,
}

/// One counter's hits in advance. The counter is one of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    /// When the window ends.
    resets: Timestamp,
    /// Hits that are ours and not spent.
    balance: u64,
    /// The highest of their positions; they are told as if they all lay right
    /// below, where those of several commands do not.
    top: u64,
    /// The count in the store, as last seen.
    count: u64,
    /// Hits asked for since `since`, which is at most a horizon ago.
    demand: u64,
    since: Timestamp,
    /// The flush that asked for more the last time.
    asked_in: u64,
    /// Nothing has been asked for since the last visit.
    is_idle: bool,
}

/// A lease should last about so long.
const HORIZON: Duration = Duration::from_millis(20);
/// Of a limit, all holders together keep back one of so many parts at most.
const KEPT_BACK: u64 = 20;
/// Of what is left of a limit, a holder takes one of so many parts of its
/// share.
const CAUTION: u64 = 2;
/// A counter that holds nothing is forgotten if it is not asked for so long,
/// so that a flood of cold ones leaves room for the hot.
const IDLE: Duration = Duration::from_secs(1);
/// Leases looked at in one call, to find those that can go.
const VISITS: usize = 8;
/// The same where nobody waits for the call.
const VISITS_AT_LEISURE: usize = 1_024;

// === impl Leases ===

impl Leases {
    pub(super) fn new(most: usize) -> Self {
        Self {
            leases: HashMap::default(),
            visits: BinaryHeap::new(),
            most,
            outstanding: 0,
            flush: 0,
        }
    }

    /// Hits taken and not spent, all counters together.
    pub(super) fn outstanding(&mut self, now: Timestamp) -> u64 {
        self.visit(VISITS_AT_LEISURE, now);
        self.outstanding
    }

    /// Hits of one counter that are taken and not spent.
    pub(super) fn balance(&self, key: u128) -> u64 {
        self.leases.get(&key).map_or(0, |lease| lease.balance)
    }

    /// What a take of `hits` sees if the lease covers it.
    pub(super) fn spend(
        &mut self,
        key: u128,
        hits: u64,
        terms: Terms,
        now: Timestamp,
    ) -> Option<Seen> {
        self.visit(VISITS, now);
        let lease = self.leases.get_mut(&key)?;
        let seen = lease.spend(hits, terms, now)?;
        self.outstanding -= hits;
        Some(seen)
    }

    /// Another flush is put together; the one before has been answered or
    /// never will be.
    pub(super) fn next_flush(&mut self) {
        self.flush = self.flush.wrapping_add(1);
    }

    /// How many hits to take beyond the `waiting` ones, where `holders` take
    /// leases of one counter. Once for each counter in a flush; then 0.
    pub(super) fn extra(
        &mut self,
        key: u128,
        terms: Terms,
        waiting: u64,
        holders: u64,
        now: Timestamp,
    ) -> u64 {
        self.visit(VISITS, now);
        let is_full = self.leases.len() >= self.most;
        match self.leases.entry(key) {
            Entry::Occupied(mut found) => {
                let lease = found.get_mut();
                let rate = lease.measure(waiting, now);
                if lease.asked_in == self.flush || lease.resets != terms.resets {
                    return 0;
                }
                lease.asked_in = self.flush;
                lease.extra(rate, terms, waiting, holders, now)
            }
            Entry::Vacant(free) if !is_full && now < terms.resets => {
                let lease = free.insert(Lease::new(terms, waiting, self.flush, now));
                self.visits.push(Reverse((lease.next_visit(now), key)));
                0
            }
            Entry::Vacant(_) => 0,
        }
    }

    /// The store has counted to `reply`, the last `extra` hits of which are
    /// ours.
    pub(super) fn grant(&mut self, key: u128, terms: Terms, reply: u64, extra: u64) {
        let lease = self.leases.get_mut(&key);
        if let Some(lease) = lease.filter(|lease| lease.resets == terms.resets) {
            let before = lease.balance;
            lease.grant(terms, reply, extra);
            self.outstanding += lease.balance - before;
        }
    }

    /// Gives up what is not spent of one counter: a refund may have been of
    /// hits that were taken in advance.
    pub(super) fn forget(&mut self, key: u128) {
        if let Some(lease) = self.leases.get_mut(&key) {
            self.outstanding -= lease.balance;
            lease.balance = 0;
        }
    }

    /// Gives up all that is not spent: the store may have forgotten it.
    pub(super) fn clear(&mut self) {
        self.leases.clear();
        self.visits.clear();
        self.outstanding = 0;
    }

    /// Drops leases that are over or were never needed. Each is looked at
    /// when its time has come, no more than `at_most` in one call.
    fn visit(&mut self, at_most: usize, now: Timestamp) {
        for _ in 0..at_most {
            match self.visits.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => return,
            }
            let Some(Reverse((_, key))) = self.visits.pop() else {
                return;
            };
            let Entry::Occupied(mut found) = self.leases.entry(key) else {
                continue;
            };
            let lease = found.get_mut();
            if lease.can_go(now) {
                self.outstanding -= lease.balance;
                found.remove();
            } else {
                lease.is_idle = true;
                self.visits.push(Reverse((lease.next_visit(now), key)));
            }
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Nothing yet: a rate shows with the second command at the earliest.
    fn new(terms: Terms, waiting: u64, flush: u64, now: Timestamp) -> Self {
        Self {
            resets: terms.resets,
            balance: 0,
            top: 0,
            count: 0,
            demand: waiting,
            since: now,
            asked_in: flush,
            is_idle: false,
        }
    }

    fn spend(&mut self, hits: u64, terms: Terms, now: Timestamp) -> Option<Seen> {
        let is_of_now = now < self.resets && terms.resets == self.resets;
        if hits == 0 || hits > self.balance || !is_of_now {
            return None;
        }
        let before = self.top - self.balance;
        let after = before + hits;
        // Each hit is held against its own limit: that may have been lowered.
        if after > terms.limit.into() {
            return None;
        }
        self.balance -= hits;
        self.demand = self.demand.saturating_add(hits);
        self.is_idle = false;
        Some(Seen::of(before, after))
    }

    /// Hits asked for in the last horizon, `waiting` ones among them; fewer if
    /// the counter has not been known for so long.
    fn measure(&mut self, waiting: u64, now: Timestamp) -> u64 {
        self.demand = self.demand.saturating_add(waiting);
        self.is_idle = false;
        let measured = until(self.since, now);
        if measured > HORIZON {
            self.demand = scale(self.demand, HORIZON, measured);
            self.since = self.since.saturating_add(measured.saturating_sub(HORIZON));
        }
        self.demand
    }

    /// How many hits to take at `rate` hits in a horizon.
    fn extra(&self, rate: u64, terms: Terms, waiting: u64, holders: u64, now: Timestamp) -> u64 {
        let time = HORIZON.min(until(now, self.resets));
        let holders = holders.max(1);
        let limit = u64::from(terms.limit);
        let left = limit.saturating_sub(self.count.saturating_add(waiting));
        scale(rate, time, HORIZON)
            .min(limit / holders.saturating_mul(KEPT_BACK))
            .min(left / holders.saturating_mul(CAUTION))
            .saturating_sub(self.balance)
    }

    fn grant(&mut self, terms: Terms, reply: u64, extra: u64) {
        self.count = reply;
        let within = reply.min(terms.limit.into());
        let granted = within.saturating_sub(reply.saturating_sub(extra));
        if granted == 0 {
            return;
        }
        // What is left of an earlier lease lies lower, unless the store has
        // lost hits, or was given some back.
        let top = if self.balance == 0 {
            within
        } else {
            within.max(self.top)
        };
        self.top = top;
        self.balance = self.balance.saturating_add(granted).min(top);
    }

    /// Its window has ended, or it holds nothing and nobody asks.
    fn can_go(&self, now: Timestamp) -> bool {
        now >= self.resets || (self.is_idle && self.balance == 0)
    }

    fn next_visit(&self, now: Timestamp) -> Timestamp {
        self.resets.min(now.saturating_add(IDLE))
    }
}

/// What `hits` in `measured` are in `time`.
fn scale(hits: u64, time: Duration, measured: Duration) -> u64 {
    let scaled = u128::from(hits).saturating_mul(time.as_nanos()) / measured.as_nanos().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_nanos(to.as_nanos().saturating_sub(from.as_nanos()))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "lease_simulation.rs"]
mod simulation;
