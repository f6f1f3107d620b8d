//! How hits become a count: pure functions on integers.
//!
//! `(limit, old cell, hits, now) → (new cell, observation)`. The memory store
//! runs them under a lock; any other store must give the same answers.
//!
//! [`fixed_window`] is what most limits are, and has a path of its own. All
//! others are counted by a [`Counter`], in this order of reading: [`method`]
//! how a limit says it is counted · [`counter`] a counter's state, bans and
//! warm-up · `sliding_window`, `sliding_log`, `bucket`, `values`, `gate` the
//! algorithms · `ticks` exact arithmetic that Redis can do, too ·
//! [`elsewhere`] for stores that run the algorithms themselves.

mod bucket;
pub mod counter;
pub mod elsewhere;
mod fixed_window;
mod gate;
pub mod method;
mod sliding_log;
mod sliding_window;
mod ticks;
pub mod values;

pub use counter::Counter;
pub use fixed_window::fixed_window;
pub use method::{Algorithm, Distinct, Method, WarmUp};

use super::time::Timestamp;

/// The stored state of a counter of a fixed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Hits counted.
    pub count: u64,
    /// When the window began, in seconds since the epoch.
    pub window_start: u64,
    /// From here on the cell says nothing any more and may be freed.
    pub expires: Timestamp,
}

/// What one charge saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The count before its hits.
    pub before: u64,
    /// The count after its hits; where they are refused, what it would be.
    pub after: u64,
    /// A count above this is over the limit.
    pub most: u64,
    /// When all of the limit is there again, if nothing more comes.
    pub resets: Timestamp,
    /// When the same hits would pass; [`Timestamp::MAX`] where nobody can say.
    /// For hits that are paced: when their turn is.
    pub passes: Timestamp,
    /// It was known beforehand to be over: no store was asked.
    pub known: bool,
}

/// A charge's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state to keep.
    pub cell: Cell,
    /// The state to answer with.
    pub observation: Observation,
}

// === impl Observation ===

impl Observation {
    /// What a fixed window of `most` requests saw, which ends at `resets`.
    #[must_use]
    pub const fn of_window(before: u64, after: u64, most: u32, resets: Timestamp) -> Self {
        Self {
            before,
            after,
            most: most as u64,
            resets,
            passes: resets,
            known: false,
        }
    }

    /// The count is above the limit.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.after > self.most
    }
}

#[cfg(test)]
mod tests;
