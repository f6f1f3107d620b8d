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
//! How many: what the counter's measured rate spends in a moment, but only a
//! share of what is left of the limit, so that leases shrink to nothing as
//! the limit nears; then every hit is counted by itself.

use std::{hash::BuildHasherDefault, time::Duration};

use hashbrown::HashMap;

use super::{
    batch::{Seen, Terms},
    first_seen::Ready,
};
use crate::engine::time::Timestamp;

/// The leases of one lane.
#[derive(Debug)]
pub(super) struct Leases {
    leases: HashMap<u128, Lease, BuildHasherDefault<Ready>>,
    /// Most counters with a lease.
    most: usize,
    /// Hits taken and not spent, all counters together.
    outstanding: u64,
    /// Ended windows are looked for when there are so many leases.
    next_sweep: usize,
}

/// One counter's hits in advance. The counter is one of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    limit: u32,
    resets: Timestamp,
    /// The count in the store, as last seen, but not beyond the limit.
    top: u64,
    /// Of these, hits that are ours and not spent.
    balance: u64,
    /// When hits were last taken from the store.
    since: Timestamp,
    /// Hits that were asked for since then.
    demand: u64,
}

/// A lease should last about so long.
const HORIZON: Duration = Duration::from_millis(20);
/// No rate is measured over a shorter time.
const BLINK: Duration = Duration::from_millis(1);
/// Of what is left of a limit, one of so many parts for each that shares it.
const CAUTION: u64 = 2;
const FIRST_SWEEP: usize = 1_024;

// === impl Leases ===

impl Leases {
    pub(super) fn new(most: usize) -> Self {
        Self {
            leases: HashMap::default(),
            most,
            outstanding: 0,
            next_sweep: FIRST_SWEEP,
        }
    }

    /// Hits taken and not spent, all counters together.
    pub(super) fn outstanding(&self) -> u64 {
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
        let lease = self.leases.get_mut(&key)?;
        if lease.limit != terms.limit || now >= lease.resets {
            // It was for another limit, or its window has ended.
            self.outstanding -= lease.balance;
            self.leases.remove(&key);
            return None;
        }
        if hits > lease.balance {
            return None;
        }
        lease.demand = lease.demand.saturating_add(hits);
        let before = lease.top - lease.balance;
        lease.balance -= hits;
        self.outstanding -= hits;
        Some(Seen {
            before,
            after: lease.top - lease.balance,
        })
    }

    /// How many hits to take beyond the `waiting` ones, where `holders` take
    /// leases of one counter.
    pub(super) fn extra(
        &mut self,
        key: u128,
        terms: Terms,
        waiting: u64,
        holders: u64,
        now: Timestamp,
    ) -> u64 {
        let Some(lease) = self.leases.get_mut(&key) else {
            self.begin(key, terms, waiting, now);
            return 0;
        };
        if lease.limit != terms.limit || now >= lease.resets {
            self.outstanding -= lease.balance;
            self.leases.remove(&key);
            self.begin(key, terms, waiting, now);
            return 0;
        }
        let demand = lease.demand.saturating_add(waiting);
        let wanted = spent_in(HORIZON, demand, lease.since, now);
        let to_end = spent_in(until(now, lease.resets), demand, lease.since, now);
        let taken = lease.top.saturating_add(waiting);
        let left = u64::from(lease.limit).saturating_sub(taken);
        let share = left / holders.saturating_mul(CAUTION).max(1);
        lease.since = now;
        lease.demand = 0;
        wanted.min(to_end).saturating_sub(lease.balance).min(share)
    }

    /// The store has counted to `reply`, `extra` hits of which are ours.
    pub(super) fn grant(&mut self, key: u128, terms: Terms, reply: u64, extra: u64) {
        let Some(lease) = self.leases.get_mut(&key) else {
            return;
        };
        if lease.limit != terms.limit || lease.resets != terms.resets {
            return;
        }
        let within = reply.min(lease.limit.into());
        let granted = within.saturating_sub(reply.saturating_sub(extra));
        lease.balance = lease.balance.saturating_add(granted);
        // The store may have lost hits, or had some back.
        lease.top = within.max(lease.balance);
        self.outstanding = self.outstanding.saturating_add(granted);
    }

    /// Gives up what is not spent of one counter.
    pub(super) fn forget(&mut self, key: u128) {
        if let Some(lease) = self.leases.remove(&key) {
            self.outstanding -= lease.balance;
        }
    }

    /// Gives up all that is not spent: the store may have forgotten it.
    pub(super) fn clear(&mut self) {
        self.leases.clear();
        self.outstanding = 0;
    }

    fn begin(&mut self, key: u128, terms: Terms, waiting: u64, now: Timestamp) {
        if self.leases.len() >= self.next_sweep.min(self.most) {
            self.sweep(now);
        }
        if self.leases.len() >= self.most {
            return;
        }
        let lease = Lease {
            limit: terms.limit,
            resets: terms.resets,
            top: 0,
            balance: 0,
            since: now,
            demand: waiting,
        };
        self.leases.insert(key, lease);
    }

    /// Drops leases whose window has ended. The next time is when there are
    /// twice as many as then, so that it costs little for each.
    fn sweep(&mut self, now: Timestamp) {
        let mut lost = 0;
        self.leases.retain(|_, lease| {
            let lasts = now < lease.resets;
            if !lasts {
                lost += lease.balance;
            }
            lasts
        });
        self.outstanding -= lost;
        self.next_sweep = (self.leases.len() * 2).max(FIRST_SWEEP);
    }
}

/// Hits in `time` at the rate of `demand` hits from `since` to `now`.
fn spent_in(time: Duration, demand: u64, since: Timestamp, now: Timestamp) -> u64 {
    let measured = until(since, now).max(BLINK);
    let hits = u128::from(demand) * time.as_nanos() / measured.as_nanos();
    u64::try_from(hits).unwrap_or(u64::MAX)
}

fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_nanos(to.as_nanos().saturating_sub(from.as_nanos()))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
