//! Buckets: hits fill, time drains, `requests` in each window.
//!
//! A token bucket and a leaky bucket are one thing: so many hits pass at once
//! (`burst`), so many more wait for their turn (`max_queue`, 0 for a token
//! bucket), the rest is refused and not counted. The count is the level: the
//! tokens that are missing from a full token bucket, or the requests in the
//! queue.
//!
//! Example: 30 per minute with a burst of 30. 30 hits pass at once, then one
//! every two seconds.
//!
//! The level is kept in parts of a hit, and rounded up: less than a millionth
//! of a hit is lost with each that passes, never won; none at whole seconds of
//! windows of a minute, an hour or a day.

use super::{
    Observation,
    method::MOST_HITS,
    ticks::{Ticks, micros, muldiv, timestamp},
};
use crate::engine::{descriptor::Hits, limit::Limit, time::Timestamp};

/// A bucket's level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// In parts of a hit.
    pub(super) level: u64,
    /// As of when, in microseconds since the epoch.
    pub(super) at: u64,
}

/// One hit: twelve parts for each second of a day.
const ONE: u64 = 1_036_800;

/// Counts `hits` at `now`.
pub(super) fn bucket(
    limit: Limit,
    burst: u32,
    most: u64,
    old: Bucket,
    hits: Hits,
    now: Timestamp,
) -> (Bucket, Observation) {
    let ticks = Ticks::of(limit.window);
    let rate = u64::from(limit.requests) * ONE;
    let state = drain(old, ticks, rate, micros(now));
    let before = state.level.div_ceil(ONE);
    let after_draining = |state: Bucket, level: u64| {
        timestamp(state.at.saturating_add(time(level, ticks, limit))).max(now)
    };
    // The old state is not rounded.
    let exact = if state.level > 0 { old } else { state };
    // When no more than so many hits of all that there are then are left.
    let down_to = |hits: u64, left: u64| {
        after_draining(exact, (exact.level + hits * ONE).saturating_sub(left * ONE))
    };
    let gives_back = matches!(hits, Hits::GiveBack(_));
    let amount = hits.amount().min(MOST_HITS) * ONE;
    let (level, hits) = match hits {
        Hits::GiveBack(_) => (state.level.saturating_sub(amount), 0),
        Hits::Take(_) => (state.level + amount, amount / ONE),
    };
    let after = level.div_ceil(ONE);
    let fits = gives_back || after <= most;
    let new = if fits {
        Bucket { level, ..state }
    } else {
        state
    };
    let at_once = u64::from(burst).max(hits);
    let passes = match fits {
        false if hits > most => Timestamp::MAX,
        false => down_to(hits, most),
        true if level > at_once * ONE && hits > 0 => down_to(hits, at_once),
        true => now,
    };
    let observation = Observation {
        before,
        after,
        most,
        resets: if fits {
            after_draining(new, new.level)
        } else {
            after_draining(exact, exact.level)
        },
        passes,
        known: false,
    };
    (new, observation)
}

/// The level at `now`.
fn drain(old: Bucket, ticks: Ticks, rate: u64, now: u64) -> Bucket {
    if old.at > ticks.latest(now) {
        return Bucket { level: 0, at: now };
    }
    let elapsed = now.saturating_sub(old.at);
    let (whole, part) = (
        elapsed / ticks.tick / ticks.length,
        elapsed / ticks.tick % ticks.length,
    );
    let drained = whole
        .saturating_mul(rate)
        .saturating_add(muldiv(part, rate, ticks.length));
    let level = old.level.saturating_sub(drained);
    let at = if level == 0 {
        old.at.max(now)
    } else {
        // What is less than a tick drains later.
        old.at + (elapsed - elapsed % ticks.tick)
    };
    Bucket { level, at }
}

/// Microseconds until `level` has drained.
fn time(level: u64, ticks: Ticks, limit: Limit) -> u64 {
    let rate = u128::from(limit.requests) * u128::from(ONE);
    if level == 0 {
        return 0;
    }
    if rate == 0 {
        return ticks.micros();
    }
    let length = (u128::from(level) * u128::from(ticks.length)).div_ceil(rate);
    u64::try_from(length).map_or(u64::MAX, |length| length.saturating_mul(ticks.tick))
}
