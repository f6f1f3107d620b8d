//! Sliding window: the hits of this fixed window, and of the one before as
//! many as it still covers, as if they had come evenly.
//!
//! Example: 30 per minute, 30 hits at 10:00:59. At 10:01:00 the last window
//! counts wholly, so nothing passes; at 10:01:30 half of it, so 15 do.
//!
//! Refused hits are not counted. In a burst of length `d` at most
//! `limit · (1 + d / window)` pass, wherever it is. In all of a window's
//! length it may be up to twice the limit, if the hits of one fixed window
//! all come at its end and the next ones as soon as they may; a sliding log
//! has no such case.

use super::{
    Observation,
    method::MOST_HITS,
    ticks::{Ticks, micros, muldiv, timestamp},
};
use crate::engine::{descriptor::Hits, limit::Window, time::Timestamp};

/// Hits of the last two fixed windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sliding {
    /// When the newer one began, in microseconds since the epoch.
    pub(super) start: u64,
    /// Hits of the older one.
    pub(super) last: u64,
    /// Hits of the newer one.
    pub(super) count: u64,
}

/// Counts `hits` at `now`, of which `most` may pass.
pub(super) fn sliding_window(
    window: Window,
    most: u64,
    old: Sliding,
    hits: Hits,
    now: Timestamp,
) -> (Sliding, Observation) {
    let ticks = Ticks::of(window);
    let length = ticks.micros();
    let state = shift(old, window.start(now).saturating_mul(1_000_000), ticks);
    let elapsed = micros(now).saturating_sub(state.start).min(length) / ticks.tick;
    let covered = |last: u64| {
        let left = ticks.length - elapsed;
        // Rounded up: what is covered in part counts.
        let product = u128::from(left) * u128::from(last);
        u64::try_from(product.div_ceil(ticks.length.into())).unwrap_or(u64::MAX)
    };
    let before = covered(state.last) + state.count;
    let amount = hits.amount().min(MOST_HITS);
    let (new, after, passes) = match hits {
        Hits::GiveBack(_) => {
            let of_last = amount.saturating_sub(state.count);
            let new = Sliding {
                count: state.count.saturating_sub(amount),
                last: state.last.saturating_sub(of_last),
                ..state
            };
            (new, covered(new.last) + new.count, now)
        }
        Hits::Take(_) if before + amount <= most => {
            let new = Sliding {
                count: state.count + amount,
                ..state
            };
            (new, before + amount, now)
        }
        Hits::Take(_) => (state, before + amount, passes(state, most, amount, ticks)),
    };
    let observation = Observation {
        before,
        after,
        most,
        resets: empties(new, length, now),
        passes,
        known: false,
    };
    (new, observation)
}

/// The state as of the window that begins at `start`.
fn shift(old: Sliding, start: u64, ticks: Ticks) -> Sliding {
    if (start..=ticks.latest(start)).contains(&old.start) {
        // Or from a clock that is a little ahead.
        old
    } else if old.start.saturating_add(ticks.micros()) == start {
        Sliding {
            start,
            last: old.count,
            count: 0,
        }
    } else {
        Sliding {
            start,
            last: 0,
            count: 0,
        }
    }
}

/// When nothing counts any more.
fn empties(state: Sliding, length: u64, now: Timestamp) -> Timestamp {
    let windows = if state.count > 0 {
        2
    } else {
        u64::from(state.last > 0)
    };
    timestamp(state.start + windows * length).max(now)
}

/// When `hits` that do not fit now do.
fn passes(state: Sliding, most: u64, hits: u64, ticks: Ticks) -> Timestamp {
    let Some(room) = most.checked_sub(hits) else {
        return Timestamp::MAX;
    };
    // In this window if the older hits leave soon enough, or in the next one.
    let (start, leaving, room) = match room.checked_sub(state.count) {
        Some(room) => (state.start, state.last, room),
        None => (state.start + ticks.micros(), state.count, room),
    };
    if leaving == 0 {
        return timestamp(start);
    }
    let left = muldiv(room.min(leaving), ticks.length, leaving);
    timestamp(start + (ticks.length - left) * ticks.tick)
}
