//! The one place that reads the wall clock.
//!
//! A request's time is read once and passed down as a value.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::engine::time::Timestamp;

/// Where the time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system.
    System,
    /// A hand that is moved by tests and simulations.
    Manual(ManualClock),
}

/// A clock that stands until it is set.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

// === impl Clock ===

impl Clock {
    /// The time now; the epoch for a system clock that is set before it.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
                Timestamp::default().saturating_add(since_epoch.unwrap_or_default())
            }
            Self::Manual(clock) => Timestamp::from_nanos(clock.0.load(Ordering::Acquire)),
        }
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.as_nanos())))
    }

    /// Moves the hand, for every holder of this clock.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_nanos(), Ordering::Release);
    }
}
