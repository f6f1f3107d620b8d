//! Arithmetic on times that is exact here and in Redis.
//!
//! Redis' scripts count in 64-bit floating point, which is exact for whole
//! numbers below 2⁵³. So times are microseconds since the epoch, windows are
//! counted in ticks of a microsecond or, if they are long, a millisecond, and
//! products are divided as they are multiplied, digit by digit.

use super::super::{limit::Window, time::Timestamp};

/// A window's length, and its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Microseconds of a tick.
    pub(super) tick: u64,
    /// Ticks of the window; below 2³⁵.
    pub(super) length: u64,
}

/// By how many seconds a clock may have been ahead, whatever the window.
pub(super) const MOST_AHEAD: u64 = 10;
/// Windows up to so many seconds are counted in microseconds.
const FINE: u64 = 3_600;

// === impl Ticks ===

impl Ticks {
    pub(super) fn of(window: Window) -> Self {
        // Overrides, which may be longer, are never counted in ticks.
        let seconds = window.seconds().min(Window::LONGEST_SECONDS);
        if seconds <= FINE {
            Self {
                tick: 1,
                length: seconds * 1_000_000,
            }
        } else {
            Self {
                tick: 1_000,
                length: seconds * 1_000,
            }
        }
    }

    /// The window's length in microseconds.
    pub(super) fn micros(self) -> u64 {
        self.tick * self.length
    }

    /// The latest time, in microseconds, of a state that is to be believed at
    /// `now`: one from later on was written by a clock that was wrong.
    pub(super) fn latest(self, now: u64) -> u64 {
        now + self.micros().max(MOST_AHEAD * 1_000_000)
    }
}

/// `a · b / w`, rounded down, for `a ≤ w < 2³⁶` and `b < 2⁵²`.
pub(super) fn muldiv(a: u64, b: u64, w: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    u64::try_from(product / u128::from(w.max(1))).unwrap_or(u64::MAX)
}

/// Microseconds since the epoch.
pub(super) fn micros(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000
}

/// The time at so many microseconds since the epoch.
pub(super) fn timestamp(micros: u64) -> Timestamp {
    Timestamp::from_nanos(micros.saturating_mul(1_000))
}
