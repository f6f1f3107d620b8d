//! How hits become a count: pure functions on integers.
//!
//! `(limit, old cell, hits, now) → (new cell, observation)`. The memory store
//! runs them under a lock; any other store must give the same answers.

mod fixed_window;

pub use fixed_window::fixed_window;

use super::time::Timestamp;

/// A counter's stored state.
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
    /// The count after its hits.
    pub after: u64,
    /// When the count starts anew.
    pub resets: Timestamp,
}

/// A charge's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state to keep.
    pub cell: Cell,
    /// The state to answer with.
    pub observation: Observation,
}
