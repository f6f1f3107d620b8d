//! Gates: open for a time after an event.

use super::{
    Observation,
    ticks::{micros, timestamp},
};
use crate::engine::{descriptor::Hits, limit::Window, time::Timestamp};

/// Whether the gate is open: a count of 2 is refused, of 0 is not.
pub(super) fn opened(window: Window, last: Option<u64>, now: Timestamp) -> Observation {
    let length = window.seconds().saturating_mul(1_000_000);
    let closes = last.map_or(0, |last| last.saturating_add(length));
    let open = micros(now) < closes;
    Observation {
        before: if open { 0 } else { 1 },
        after: if open { 0 } else { 2 },
        most: 1,
        resets: timestamp(closes).max(now),
        passes: if open { now } else { Timestamp::MAX },
        known: false,
    }
}

/// Notes an event, or takes it back; says when there was the last one.
pub(super) fn event(last: Option<u64>, hits: Hits, now: Timestamp) -> (Option<u64>, Observation) {
    let last = match hits {
        Hits::Take(0) => last,
        Hits::Take(_) => Some(last.map_or(micros(now), |last| last.max(micros(now)))),
        Hits::GiveBack(_) => None,
    };
    let observation = Observation {
        before: 0,
        after: 0,
        most: u64::MAX,
        resets: now,
        passes: now,
        known: false,
    };
    (last, observation)
}
