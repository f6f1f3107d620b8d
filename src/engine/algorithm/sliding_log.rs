//! Sliding log: remembers when each hit passed. Exact in any window of its
//! length, wherever it begins; costs memory for each hit of a window.
//!
//! Refused hits are not counted.

use std::collections::VecDeque;

use super::{
    Observation,
    method::MOST_HITS,
    ticks::{Ticks, micros, timestamp},
};
use crate::engine::{descriptor::Hits, limit::Window, time::Timestamp};

/// Hits that have passed, oldest first: when, in microseconds since the
/// epoch, and how many.
pub(super) type Log = VecDeque<(u64, u32)>;

/// Counts `hits` at `now`, of which `most` may pass.
pub(super) fn sliding_log(
    window: Window,
    most: u64,
    log: &mut Log,
    hits: Hits,
    now: Timestamp,
) -> Observation {
    let ticks = Ticks::of(window);
    let length = ticks.micros();
    let latest = ticks.latest(micros(now));
    if log.back().is_some_and(|&(last, _)| last > latest) {
        log.clear();
    }
    // A clock that steps back does not bring old hits to life again.
    let at = log
        .back()
        .map_or(micros(now), |&(last, _)| micros(now).max(last));
    let live = |&(then, _): &(u64, u32)| then + length > at;
    let before: u64 = log
        .iter()
        .filter(|hit| live(hit))
        .map(|&(_, n)| u64::from(n))
        .sum();
    let (after, passes) = match hits {
        Hits::GiveBack(hits) => {
            let mut left = hits.min(MOST_HITS);
            while left > 0
                && let Some((_, n)) = log.back_mut()
            {
                let taken = u64::from(*n).min(left);
                left -= taken;
                *n -= u32::try_from(taken).unwrap_or(*n);
                if *n == 0 {
                    log.pop_back();
                }
            }
            (before.saturating_sub(hits), now)
        }
        Hits::Take(hits) => {
            let hits = hits.min(MOST_HITS);
            let after = before + hits;
            if after > most {
                let passes = passes(log, length, at, after - most);
                (after, passes)
            } else {
                while log.front().is_some_and(|hit| !live(hit)) {
                    log.pop_front();
                }
                if let (Ok(n), true) = (u32::try_from(hits), hits > 0) {
                    match log.back_mut() {
                        Some((last, many)) if *last == at => *many += n,
                        _ => log.push_back((at, n)),
                    }
                }
                (after, now)
            }
        }
    };
    let resets = log.back().map_or(0, |&(last, _)| last + length);
    Observation {
        before,
        after,
        most,
        resets: timestamp(resets).max(now),
        passes,
        known: false,
    }
}

/// When `excess` of the hits will have left.
fn passes(log: &Log, length: u64, at: u64, excess: u64) -> Timestamp {
    let mut left = excess;
    for &(then, n) in log {
        let leaves = then + length;
        if leaves <= at {
            continue;
        }
        match left.checked_sub(n.into()) {
            None | Some(0) => return timestamp(leaves),
            Some(more) => left = more,
        }
    }
    Timestamp::MAX
}
