//! Days, weeks, months and years as people in a place count them.

use std::{fmt, num::NonZeroU16};

use chrono::{
    DateTime, Datelike as _, Days, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Weekday,
};
use chrono_tz::Tz;

use super::limit::Unit;

/// Where days begin, and which day a week begins on: two bytes, since every
/// rule has room for one. One more than seven times the zone's place in the
/// list of all zones, and the weekday's from Monday on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Calendar(NonZeroU16);

/// The days that a week may begin on, by their names in rules files.
pub const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Mon),
    ("tuesday", Weekday::Tue),
    ("wednesday", Weekday::Wed),
    ("thursday", Weekday::Thu),
    ("friday", Weekday::Fri),
    ("saturday", Weekday::Sat),
    ("sunday", Weekday::Sun),
];

// === impl Calendar ===

impl Calendar {
    /// The calendar of a zone of the IANA database, such as `Europe/Berlin`;
    /// `None` for an unknown one.
    #[must_use]
    pub fn new(zone: &str, week_starts: Weekday) -> Option<Self> {
        let zone: Tz = zone.parse().ok()?;
        let place = chrono_tz::TZ_VARIANTS
            .iter()
            .position(|&other| other == zone)?;
        let number = 1 + 7 * place + week_starts.num_days_from_monday() as usize;
        let number = u16::try_from(number).ok()?;
        NonZeroU16::new(number).map(Self)
    }

    /// The names of all zones.
    pub fn zones() -> impl Iterator<Item = &'static str> {
        chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
    }

    /// Its zone and the day that weeks begin on.
    #[must_use]
    pub fn parts(self) -> (&'static str, Weekday) {
        (self.zone().name(), self.week_starts())
    }

    fn zone(self) -> Tz {
        let place = usize::from((self.0.get() - 1) / 7);
        chrono_tz::TZ_VARIANTS
            .get(place)
            .copied()
            .unwrap_or(Tz::UTC)
    }

    fn week_starts(self) -> Weekday {
        let (_, day) = WEEKDAYS[usize::from((self.0.get() - 1) % 7)];
        day
    }

    /// When the `unit` around `now` begins and when it ends, both in seconds
    /// since the epoch.
    pub(super) fn window(self, unit: Unit, now: u64) -> (u64, u64) {
        self.dates(unit, now)
            .map(|(first, next)| (self.begin(first), self.begin(next)))
            // Beyond the years that a calendar has: as without one.
            .unwrap_or_else(|| {
                let length = u64::from(unit.seconds());
                let start = now / length * length;
                (start, start.saturating_add(length))
            })
    }

    /// The first day of the unit around `now`, and of the next one.
    fn dates(self, unit: Unit, now: u64) -> Option<(NaiveDate, NaiveDate)> {
        let now = DateTime::from_timestamp(i64::try_from(now).ok()?, 0)?;
        let today = self.zone().from_utc_datetime(&now.naive_utc()).date_naive();
        Some(match unit {
            Unit::Week => {
                let first = today.week(self.week_starts()).checked_first_day()?;
                (first, first.checked_add_days(Days::new(7))?)
            }
            Unit::Month => {
                let first = today.with_day(1)?;
                (first, first.checked_add_months(Months::new(1))?)
            }
            Unit::Year => {
                let first = NaiveDate::from_ymd_opt(today.year(), 1, 1)?;
                (first, first.checked_add_months(Months::new(12))?)
            }
            Unit::Second | Unit::Minute | Unit::Hour | Unit::Day => (today, today.succ_opt()?),
        })
    }

    /// When a day begins. Where clocks go forward at midnight that is later;
    /// where they go back over it, the first time.
    fn begin(self, day: NaiveDate) -> u64 {
        let midnight = day.and_time(NaiveTime::MIN);
        let zone = self.zone();
        let quarters = (0..96).map(|quarter| midnight + TimeDelta::minutes(15 * quarter));
        let first = quarters
            .filter_map(|time| zone.from_local_datetime(&time).earliest())
            .next();
        let seconds = first.map_or_else(|| midnight.and_utc().timestamp(), |time| time.timestamp());
        u64::try_from(seconds).unwrap_or(0)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.zone().name())?;
        match self.week_starts() {
            Weekday::Mon => Ok(()),
            other => write!(f, " ({other})"),
        }
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calendar({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since the epoch.
    fn at(text: &str) -> u64 {
        let time = DateTime::parse_from_rfc3339(text).unwrap().timestamp();
        u64::try_from(time).unwrap()
    }

    #[test]
    fn windows_follow_the_clocks_of_a_place() {
        for (zone, unit, now, start, end) in [
            // Ordinary days; a zone that is ahead of UTC, and one behind.
            (
                "UTC",
                Unit::Day,
                "2026-11-22T10:00:00Z",
                "2026-11-22T00:00:00Z",
                "2026-11-23T00:00:00Z",
            ),
            (
                "Asia/Kolkata",
                Unit::Day,
                "2026-11-22T18:30:00Z",
                "2026-11-22T18:30:00Z",
                "2026-11-23T18:30:00Z",
            ),
            (
                "America/New_York",
                Unit::Day,
                "2026-11-22T04:59:59Z",
                "2026-11-21T05:00:00Z",
                "2026-11-22T05:00:00Z",
            ),
            // Clocks go forward, and back.
            (
                "Europe/Berlin",
                Unit::Day,
                "2026-03-29T12:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                "Europe/Berlin",
                Unit::Day,
                "2026-10-25T12:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // There is no midnight on that day.
            (
                "Africa/Cairo",
                Unit::Day,
                "2026-04-24T12:00:00Z",
                "2026-04-23T22:00:00Z",
                "2026-04-24T21:00:00Z",
            ),
            // Midnight comes twice.
            (
                "America/Havana",
                Unit::Day,
                "2026-11-01T12:00:00Z",
                "2026-11-01T04:00:00Z",
                "2026-11-02T05:00:00Z",
            ),
            (
                "UTC",
                Unit::Week,
                "2026-11-22T10:00:00Z",
                "2026-11-16T00:00:00Z",
                "2026-11-23T00:00:00Z",
            ),
            (
                "UTC",
                Unit::Month,
                "2028-02-29T23:59:59Z",
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
            ),
            (
                "Europe/Berlin",
                Unit::Month,
                "2026-12-31T22:59:59Z",
                "2026-11-30T23:00:00Z",
                "2026-12-31T23:00:00Z",
            ),
            (
                "UTC",
                Unit::Year,
                "2026-12-31T23:59:59Z",
                "2026-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            let calendar = Calendar::new(zone, Weekday::Mon).unwrap();
            let window = calendar.window(unit, at(now));
            assert_eq!(window, (at(start), at(end)), "{zone} {unit} {now}");
        }
    }

    #[test]
    fn a_week_begins_when_it_is_said_to() {
        let calendar = Calendar::new("UTC", Weekday::Sun).unwrap();
        let sunday = at("2026-11-22T00:00:00Z");
        assert_eq!(
            calendar.window(Unit::Week, sunday),
            (sunday, sunday + 604_800)
        );
        assert_eq!(calendar.window(Unit::Week, sunday - 1).1, sunday);
        assert_eq!(calendar.to_string(), "UTC (Sun)");
    }

    #[test]
    fn every_zone_has_windows_that_hold_their_time() {
        for zone in Calendar::zones() {
            let calendar = Calendar::new(zone, Weekday::Mon).unwrap();
            for unit in [Unit::Day, Unit::Week, Unit::Month, Unit::Year] {
                for now in (0..40_u64).map(|n| 1_700_000_000 + n * 999_983 * 3) {
                    let (start, end) = calendar.window(unit, now);
                    assert!((start..end).contains(&now), "{zone} {unit} {now}");
                    assert_eq!(calendar.window(unit, start).0, start, "{zone} {unit} {now}");
                    assert_eq!(calendar.window(unit, end).0, end, "{zone} {unit} {now}");
                }
            }
        }
        for now in [0, u64::MAX, 1 << 40, u64::MAX / 2] {
            let calendar = Calendar::new("Pacific/Apia", Weekday::Mon).unwrap();
            let (start, end) = calendar.window(Unit::Year, now);
            assert!(start <= now && end >= now);
        }
    }
}
