//! Where counters live.
//!
//! The port is one batched call: charges in, observations out. In reading
//! order: [`memory`] counts in this process.

pub mod memory;
pub mod redis;

use std::fmt;

use crate::engine::{
    algorithm::Observation,
    plan::{Charge, PerDescriptor},
    time::Timestamp,
};

pub use memory::MemoryStore;

/// A store, whichever it is.
#[derive(Debug)]
pub enum AnyStore {
    /// Counters of this process.
    Memory(MemoryStore),
}

/// What happens to a request's other counters when one of them goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargeMode {
    /// Every counter takes its hits, always.
    #[default]
    Always,
    /// Counters that go over take their hits, and then the others stand
    /// still. A shadow rule that goes over makes nobody stand still.
    OthersStandStill,
}

/// A store could not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// Which store, for people.
    pub store: String,
    /// What failed, for people.
    pub reason: String,
}

// === impl AnyStore ===

impl AnyStore {
    /// [`charge`](Self::charge) is always done when it is first polled.
    #[must_use]
    pub fn never_waits(&self) -> bool {
        match self {
            Self::Memory(_) => true,
        }
    }

    /// Applies `charges` and says what each saw: one observation for each
    /// charge, in the same order. Equal keys within one call are applied one
    /// after the other.
    ///
    /// # Errors
    /// The store did not answer; what it has counted by then is unknown.
    #[allow(clippy::unused_async, reason = "other stores wait for a network")]
    pub async fn charge(
        &self,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
    ) -> Result<PerDescriptor<Observation>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.charge(charges, mode, now)),
        }
    }
}

// === impl StoreError ===

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}: {}", self.store, self.reason)
    }
}

impl std::error::Error for StoreError {}
