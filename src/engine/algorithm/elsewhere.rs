//! For stores that run the algorithms themselves: what they have to be told,
//! and what their answers mean.
//!
//! Such a store changes the state as [`Counter::charge`] would. It answers
//! with the state before, and the observation is made of that here: so it is
//! the same wherever the counter is.

use super::{
    Observation,
    counter::{Counter, Terms},
    method::{Algorithm, MOST_HITS},
    ticks::{Ticks, micros},
    values::observed,
};
use crate::engine::{descriptor::Hits, time::Timestamp};

/// A limit in numbers; times are microseconds, since the epoch or long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// A letter for each algorithm.
    pub kind: u8,
    /// The time of the charge.
    pub now: u64,
    /// Above which count it is over, when it has grown to its full size.
    pub full: u64,
    /// Requests of a window.
    pub requests: u32,
    /// A tick.
    pub tick: u64,
    /// The window in ticks.
    pub length: u64,
    /// When the fixed window of `now` began.
    pub start: u64,
    /// When that ends; how long a gate is open.
    pub ends: u64,
    /// How long it is locked.
    pub lockout: u64,
    /// Requests and seconds of a warm-up.
    pub warm_up: Option<(u32, u32)>,
    /// How long a value is remembered, and how many are kept one by one.
    pub values: Option<(u64, u32)>,
}

/// What a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// The state before the charge, as [`Counter::from_bytes`] reads it.
    State(&'a [u8]),
    /// Different values: how many before and after, whether it was known.
    Values {
        /// Before the charge.
        before: u64,
        /// After it.
        after: u64,
        /// The value passes whatever the count says.
        known: bool,
    },
}

/// Hits that a store is told.
#[must_use]
pub fn hits_told(hits: Hits) -> u64 {
    hits.amount().min(MOST_HITS)
}

// === impl Terms ===

impl Terms {
    /// The limit in numbers, at `now`.
    #[must_use]
    pub fn numbers(&self, now: Timestamp) -> Numbers {
        let window = self.limit.window;
        let ticks = Ticks::of(window);
        let seconds = |seconds: u32| u64::from(seconds) * 1_000_000;
        let warm_up = self.method.warm_up;
        let (kind, ends, values) = match self.method.algorithm {
            Algorithm::FixedWindow => (b'f', micros(window.end(now)), None),
            Algorithm::SlidingWindow => (b's', 0, None),
            Algorithm::SlidingLog => (b'l', 0, None),
            Algorithm::Bucket { .. } => (b'b', 0, None),
            Algorithm::DistinctValues(distinct) => {
                let values = (seconds(distinct.remember), distinct.exact_up_to);
                (b'd', micros(window.end(now)), Some(values))
            }
            Algorithm::Opened => (b'o', ticks.micros(), None),
            Algorithm::Event => (b'e', ticks.micros(), None),
        };
        Numbers {
            kind,
            now: micros(now),
            // A store counts in floating point.
            full: self.method.most(self.limit).min(1 << 52),
            requests: self.limit.requests,
            tick: ticks.tick,
            length: ticks.length,
            start: window.start(now).saturating_mul(1_000_000),
            ends,
            lockout: seconds(self.method.lockout),
            warm_up: warm_up.map(|warm_up| (warm_up.from, warm_up.over)),
            values,
        }
    }

    /// What `hits` saw at `now`, of what the store has answered; `None` for
    /// nonsense.
    #[must_use]
    pub fn observe(&self, stored: Stored<'_>, hits: Hits, now: Timestamp) -> Option<Observation> {
        match stored {
            Stored::State(bytes) => {
                let mut counter = Counter::from_bytes(self.method.algorithm, bytes)?;
                Some(counter.charge(self, hits, now).0)
            }
            Stored::Values {
                before,
                after,
                known,
            } => {
                let most = u64::from(self.limit.requests);
                let end = self.limit.window.end(now);
                Some(observed((before, after), known, most, end, now))
            }
        }
    }
}
