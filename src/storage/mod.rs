//! Where counters live.
//!
//! The port is one batched call: charges in, observations out. In reading
//! order: [`memory`] counts in this process, [`redis`] in a store that many
//! processes share; the [`ladder`] decides while that is away.

pub mod ladder;
pub mod memory;
pub mod redis;

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{
    engine::{
        algorithm::Observation,
        plan::{Charge, PerDescriptor},
        time::Timestamp,
    },
    trace::Traced,
};

pub use ladder::Ladder;
pub use memory::MemoryStore;
pub use redis::RedisStore;

/// A store, whichever it is.
#[derive(Debug)]
pub enum AnyStore {
    /// Counters of this process.
    Memory(MemoryStore),
    /// Counters in Redis.
    Redis(RedisStore),
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
    /// Counters take their hits only if the request passes.
    AllOrNothing,
}

/// A store could not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// Which store, for people.
    pub store: Arc<str>,
    /// What failed, for people.
    pub reason: Arc<str>,
}

/// Not all charges of a call were answered.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// Why.
    pub error: StoreError,
    /// What those that were answered saw, in the order of the charges.
    pub seen: PerDescriptor<Option<Observation>>,
}

// === impl AnyStore ===

impl AnyStore {
    /// [`charge`](Self::charge) is always done when it is first polled.
    #[must_use]
    pub fn never_waits(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(_) => false,
        }
    }

    /// It has been reached since the process began.
    #[must_use]
    pub fn has_been_reached(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.has_been_reached(),
        }
    }

    /// It has been reached, and has a connection now where it needs one to
    /// be healthy.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.is_ready(),
        }
    }

    /// Gives the event loop that this runs on its own way to the store.
    pub fn take_seat(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(store) => store.take_seat(),
        }
    }

    /// How it is, for people and machines.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Memory(store) => serde_json::json!({
                "store": "memory",
                "figures": store.stats(),
            }),
            Self::Redis(store) => serde_json::json!({
                "store": store.describe(),
                "trouble": store.trouble().map(|error| error.to_string()),
                "figures": store.stats(),
            }),
        }
    }

    /// The time that windows go by when this process's clock shows `ours`.
    #[must_use]
    pub fn now(&self, ours: Timestamp) -> Timestamp {
        match self {
            Self::Memory(_) => ours,
            Self::Redis(store) => store.now(ours),
        }
    }

    /// Applies `charges` and says what each saw: one observation for each
    /// charge, in the same order. Equal keys within one call are applied one
    /// after the other. From `until` on the caller does not wait any more; a
    /// charge that has not been sent by then is not made. Spans of work that
    /// others share link to `trace`.
    ///
    /// # Errors
    /// The store did not answer; what it has counted by then is unknown.
    pub async fn charge(
        &self,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<PerDescriptor<Observation>, Box<Unanswered>> {
        match self {
            Self::Memory(store) => Ok(store.charge(charges, mode, now)),
            Self::Redis(store) => store.charge(charges, mode, now, until, trace).await,
        }
    }
}

// === impl StoreError ===

impl StoreError {
    /// `store` failed for `reason`.
    pub fn new(store: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self {
            store: store.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}: {}", self.store, self.reason)
    }
}

impl std::error::Error for StoreError {}
