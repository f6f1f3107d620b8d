//! Points in time as integers. Nothing here reads a clock.

use std::{fmt, time::Duration};

use chrono::DateTime;

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// Nanoseconds since 1970-01-01 00:00 UTC; saturates in the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

// === impl Timestamp ===

impl Timestamp {
    /// The latest time that can be told.
    pub const MAX: Self = Self(u64::MAX);

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS))
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, the begun one not counted.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / NANOS
    }

    /// This time and `duration` more.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// This time on a clock that is `nanos` ahead, or behind where negative.
    #[must_use]
    pub const fn shifted(self, nanos: i64) -> Self {
        Self(self.0.saturating_add_signed(nanos))
    }

    /// What is left from `self` until `later`, in whole seconds, rounded up;
    /// 0 when `later` has passed.
    #[must_use]
    pub const fn secs_until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0).div_ceil(NANOS)
    }
}

/// `2026-11-26T03:07:12Z`, the begun second not counted.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.as_secs()).unwrap_or(i64::MAX);
        let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        fmt::Debug::fmt(&time, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_seconds_round_up() {
        let at = Timestamp::from_nanos;
        for (now, later, expected) in [
            (0, 0, 0),
            (0, 1, 1),
            (0, NANOS, 1),
            (0, NANOS + 1, 2),
            (5, 4, 0),
            (0, u64::MAX, 18_446_744_074),
        ] {
            assert_eq!(at(now).secs_until(at(later)), expected, "{now} to {later}");
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (time, expected) in [
            (Timestamp::default(), "1970-01-01T00:00:00Z"),
            (
                Timestamp::from_nanos(1_795_662_432 * NANOS + 5),
                "2026-11-26T03:07:12Z",
            ),
            (Timestamp::MAX, "2554-07-21T23:34:33Z"),
        ] {
            assert_eq!(time.to_string(), expected);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::from_secs(u64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.shifted(1), Timestamp::MAX);
        assert_eq!(
            Timestamp::from_nanos(5).shifted(-3),
            Timestamp::from_nanos(2)
        );
        assert_eq!(
            Timestamp::from_nanos(5).shifted(i64::MIN),
            Timestamp::default()
        );
    }
}
