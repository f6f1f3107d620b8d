//! Limits: how many hits in how long a window.

use std::fmt;

use super::{calendar::Calendar, time::Timestamp};

/// A unit of time, with the reference's fixed lengths: a month is 30 days
/// and a year 365, whatever the calendar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// 1 second.
    Second,
    /// 60 seconds.
    Minute,
    /// 3,600 seconds.
    Hour,
    /// 86,400 seconds.
    Day,
    /// 604,800 seconds; starts on Thursday 00:00 UTC.
    Week,
    /// 2,592,000 seconds.
    Month,
    /// 31,536,000 seconds.
    Year,
}

/// The length of a limit's window: a unit, or several of them.
///
/// A fixed window starts at a multiple of its length since the epoch; where it
/// goes by a calendar, when a day, week, month or year begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    unit: Unit,
    multiplier: u32,
    calendar: Option<Calendar>,
}

/// So many requests in a window; 0 refuses all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Hits that pass in one window.
    pub requests: u32,
    /// How long the window is.
    pub window: Window,
}

/// What a rule grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Everything passes and nothing is counted.
    Unlimited,
    /// At most this much passes.
    Limited(Limit),
}

// === impl Unit ===

impl Unit {
    /// Every unit, shortest first.
    pub const ALL: [Self; 7] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
    ];

    /// Its length.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Week => 604_800,
            Self::Month => 2_592_000,
            Self::Year => 31_536_000,
        }
    }

    /// Its name in rules files (lower case).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The unit of that name in any letter case; `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|unit| unit.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Window ===

impl Window {
    /// One unit.
    #[must_use]
    pub const fn of(unit: Unit) -> Self {
        Self {
            unit,
            multiplier: 1,
            calendar: None,
        }
    }

    /// A day, week, month or year of a calendar; `None` for other units.
    #[must_use]
    pub const fn of_calendar(unit: Unit, calendar: Calendar) -> Option<Self> {
        match unit {
            Unit::Day | Unit::Week | Unit::Month | Unit::Year => Some(Self {
                unit,
                multiplier: 1,
                calendar: Some(calendar),
            }),
            Unit::Second | Unit::Minute | Unit::Hour => None,
        }
    }

    /// Several units; 0 counts as 1, as it does for Envoy.
    #[must_use]
    pub const fn times(unit: Unit, multiplier: u32) -> Self {
        let multiplier = if multiplier == 0 { 1 } else { multiplier };
        Self {
            unit,
            multiplier,
            calendar: None,
        }
    }

    /// The longest window that a rule may have: 366 days.
    pub const LONGEST_SECONDS: u64 = 366 * 86_400;

    /// A window of `seconds`, in the longest of seconds, minutes, hours and
    /// days of which it is a multiple. `None` for 0 and beyond
    /// [`LONGEST_SECONDS`](Self::LONGEST_SECONDS).
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Option<Self> {
        if seconds == 0 || seconds > Self::LONGEST_SECONDS {
            return None;
        }
        let units = [Unit::Day, Unit::Hour, Unit::Minute, Unit::Second];
        let unit = units
            .into_iter()
            .find(|unit| seconds.is_multiple_of(unit.seconds().into()))?;
        let multiplier = u32::try_from(seconds / u64::from(unit.seconds())).ok()?;
        Some(Self::times(unit, multiplier))
    }

    /// The unit of which this is a multiple.
    #[must_use]
    pub const fn unit(self) -> Unit {
        self.unit
    }

    /// How many units long; at least 1.
    #[must_use]
    pub const fn multiplier(self) -> u32 {
        self.multiplier
    }

    /// The calendar that it goes by, if any.
    #[must_use]
    pub const fn calendar(self) -> Option<Calendar> {
        self.calendar
    }

    /// Its length in seconds; at least 1. Where it goes by a calendar, the
    /// fixed length of its unit.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.unit.seconds() as u64 * self.multiplier as u64
    }

    /// A length in seconds that no such window exceeds.
    #[must_use]
    pub const fn longest_seconds(self) -> u64 {
        match self.calendar {
            // A leap year, a month of 31 days, a day on which clocks go back.
            Some(_) => self.seconds() + 2 * 86_400,
            None => self.seconds(),
        }
    }

    /// When the fixed window of `now` began, in seconds since the epoch.
    #[must_use]
    pub fn start(self, now: Timestamp) -> u64 {
        match self.calendar {
            None => {
                let length = self.seconds();
                now.as_secs() / length * length
            }
            Some(calendar) => calendar.window(self.unit, now.as_secs()).0,
        }
    }

    /// When the fixed window of `now` ends.
    #[must_use]
    pub fn end(self, now: Timestamp) -> Timestamp {
        let end = match self.calendar {
            None => self.start(now).saturating_add(self.seconds()),
            Some(calendar) => calendar.window(self.unit, now.as_secs()).1,
        };
        Timestamp::from_secs(end)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.multiplier {
            1 => write!(f, "{}", self.unit)?,
            n => write!(f, "{n} {}s", self.unit)?,
        }
        match self.calendar {
            Some(calendar) => write!(f, " in {calendar}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", self.requests, self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_any_length_are_told_in_the_longest_unit() {
        for (seconds, expected) in [
            (1, Some((Unit::Second, 1))),
            (90, Some((Unit::Second, 90))),
            (300, Some((Unit::Minute, 5))),
            (5_400, Some((Unit::Minute, 90))),
            (7_200, Some((Unit::Hour, 2))),
            (14 * 86_400, Some((Unit::Day, 14))),
            (366 * 86_400, Some((Unit::Day, 366))),
            (366 * 86_400 + 1, None),
            (0, None),
        ] {
            let window = Window::of_seconds(seconds);
            let told = window.map(|window| (window.unit(), window.multiplier()));
            assert_eq!(told, expected, "{seconds}");
            assert!(window.is_none_or(|window| window.seconds() == seconds));
        }
    }

    #[test]
    fn names_go_both_ways_in_any_case() {
        for unit in Unit::ALL {
            assert_eq!(Unit::from_name(unit.name()), Some(unit));
            assert_eq!(Unit::from_name(&unit.name().to_uppercase()), Some(unit));
        }
        assert_eq!(Unit::from_name("fortnight"), None);
        assert_eq!(Unit::from_name(""), None);
    }

    #[test]
    fn the_longest_window_does_not_overflow() {
        let longest = Window::times(Unit::Year, u32::MAX);
        assert_eq!(longest.seconds(), 31_536_000 * u64::from(u32::MAX));
        assert_eq!(Window::times(Unit::Hour, 0), Window::of(Unit::Hour));
    }
}
