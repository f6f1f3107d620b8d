//! Fixed window: hits are counted from each multiple of the window's length
//! since the epoch to the next, and all of them, refused ones too.
//!
//! Example: 3 per hour, hits at 10:10, 10:20, 10:59, 10:59, 11:00. The fourth
//! sees a count of 4 and is over; the fifth begins a new window and sees 1.

use super::{Cell, Observation, Step, ticks::MOST_AHEAD};
use crate::engine::{descriptor::Hits, limit::Limit, time::Timestamp};

/// Counts `hits` in the window of `now`.
///
/// A clock that steps back a little does not begin an old window again: a cell
/// from a window or some seconds later goes on counting. One from further
/// ahead was written by a clock that was wrong, and counts for nothing.
#[must_use]
pub fn fixed_window(limit: Limit, old: Option<Cell>, hits: Hits, now: Timestamp) -> Step {
    let window = limit.window;
    // A calendar is looked up once for each window.
    if let (Some(cell), Some(_)) = (old, window.calendar())
        && cell.window_start <= now.as_secs()
        && now < cell.expires
    {
        return count(limit, cell.count, cell.window_start, cell.expires, hits);
    }
    let length = window.seconds();
    let start = window.start(now);
    let ahead = length.max(MOST_AHEAD);
    let (before, window_start) = match old {
        Some(cell) if (start..=start.saturating_add(ahead)).contains(&cell.window_start) => {
            (cell.count, cell.window_start)
        }
        _ => (0, start),
    };
    let resets = window.end(Timestamp::from_secs(window_start));
    count(limit, before, window_start, resets, hits)
}

fn count(limit: Limit, before: u64, window_start: u64, resets: Timestamp, hits: Hits) -> Step {
    let after = hits.apply(before);
    Step {
        cell: Cell {
            count: after,
            window_start,
            expires: resets,
        },
        observation: Observation::of_window(before, after, limit.requests, resets),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::limit::{Unit, Window};

    const MINUTE: Limit = Limit {
        requests: 10,
        window: Window::of(Unit::Minute),
    };

    #[test]
    fn counts_within_a_window_and_starts_anew_at_its_edge() {
        let mut cell = None;
        for (at, hits, before, after) in [
            (60, Hits::Take(2), 0, 2),
            (119, Hits::Take(1), 2, 3),
            (119, Hits::Take(0), 3, 3),
            (119, Hits::GiveBack(5), 3, 0),
            (119, Hits::Take(4), 0, 4),
            (120, Hits::Take(1), 0, 1),
            (119, Hits::Take(1), 1, 2),
            (60_000, Hits::Take(5), 0, 5),
            (121, Hits::Take(1), 0, 1),
        ] {
            let step = fixed_window(MINUTE, cell, hits, Timestamp::from_secs(at));
            assert_eq!(
                (step.observation.before, step.observation.after),
                (before, after),
                "{hits:?} at {at}"
            );
            cell = Some(step.cell);
        }
    }

    #[test]
    fn saturates() {
        let step = fixed_window(MINUTE, None, Hits::Take(u64::MAX), Timestamp::MAX);
        let step = fixed_window(
            MINUTE,
            Some(step.cell),
            Hits::Take(u64::MAX),
            Timestamp::MAX,
        );
        assert_eq!(step.observation.after, u64::MAX);
        assert_eq!(step.cell.expires, Timestamp::MAX);
    }

    proptest! {
        #[test]
        fn a_window_never_admits_more_than_its_limit(
            limit in 0_u64..50,
            charges in prop::collection::vec((0_u64..4, 0_u64..30), 1..200),
        ) {
            let mut cell = None;
            let mut now = 0;
            let mut admitted = std::collections::HashMap::<u64, u64>::new();
            for (hits, wait) in charges {
                now += wait;
                let at = Timestamp::from_secs(now);
                let step = fixed_window(MINUTE, cell, Hits::Take(hits), at);
                cell = Some(step.cell);
                if step.observation.after <= limit {
                    *admitted.entry(now / 60).or_default() += hits;
                }
                prop_assert!(step.observation.resets > at);
                prop_assert!(at.secs_until(step.observation.resets) <= 60);
            }
            prop_assert!(admitted.values().all(|&hits| hits <= limit));
        }
    }
}
