//! Points in time as test files write them, and back.

use std::time::Duration;

use crate::engine::time::Timestamp;

/// When tests begin that do not say when: a Thursday, so that windows of
/// every unit up to a week begin then.
pub(super) const START: Timestamp = Timestamp::from_secs(1_767_225_600);

/// What a time looks like.
pub(super) const FORMS: &str =
    "2026-11-22T10:00:00Z, seconds since 1970, or +1s, +500ms, +5m after the step before";

const NANOS: u64 = 1_000_000_000;
const SECONDS_OF_A_DAY: u64 = 86_400;

/// Units of a duration in nanoseconds, those first whose names others begin
/// with.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3_600 * NANOS),
    ("d", SECONDS_OF_A_DAY * NANOS),
];

/// Reads a time; one with a `+` begins at `before`.
pub(super) fn read(text: &str, before: Timestamp) -> Option<Timestamp> {
    if let Some(more) = text.strip_prefix('+') {
        return Some(before.saturating_add(duration(more)?));
    }
    let nanos = match text.strip_suffix('Z') {
        Some(text) => rfc3339(text)?,
        None => decimal(text, NANOS)?,
    };
    Some(Timestamp::from_nanos(nanos))
}

/// Reads `500ms`, `1.5s`, `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    let mut nanos = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_alphabetic());
        let (name, tail) = tail.split_at(letters.unwrap_or(tail.len()));
        let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == name)?;
        nanos = nanos.checked_add(decimal(number, *unit)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(nanos))
}

/// Reads `12` or `12.5` of a unit; what is finer than a nanosecond is no
/// number.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(unit.into())?;
    if part % scale != 0 {
        return None;
    }
    let part = u64::try_from(part / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Reads `2026-11-22T10:00:00.5` to nanoseconds since 1970.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, fraction) = match time.find('.') {
        Some(dot) => (&time[..dot], decimal(&format!("0{}", &time[dot..]), NANOS)?),
        None => (time, 0),
    };
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let month_index = usize::try_from(month.checked_sub(1)?).ok()?;
    let days = *months(year).get(month_index)?;
    let exists = (1970..2554).contains(&year)
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !exists {
        return None;
    }
    let days = (1970..year).map(days_of).sum::<u64>()
        + months(year)[..month_index].iter().sum::<u64>()
        + day
        - 1;
    let seconds = days * SECONDS_OF_A_DAY + hour * 3_600 + minute * 60 + second;
    Some(seconds * NANOS + fraction)
}

/// Three numbers of so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text
        .split(separator)
        .zip(digits)
        .filter(|(part, digits)| {
            part.len() == *digits && part.bytes().all(|byte| byte.is_ascii_digit())
        })
        .map(|(part, _)| part.parse().ok())
        .collect::<Option<_>>()?;
    let length = digits.iter().sum::<usize>() + 2;
    parts.try_into().ok().filter(|_| text.len() == length)
}

fn months(year: u64) -> [u64; 12] {
    let february = if days_of(year) == 366 { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

fn days_of(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

/// A time as text, with as many digits after the second as it needs.
pub(super) fn show(time: Timestamp) -> String {
    let (mut days, of_day) = (
        time.as_secs() / SECONDS_OF_A_DAY,
        time.as_secs() % SECONDS_OF_A_DAY,
    );
    let mut year = 1970;
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    for length in months(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let day = days + 1;
    let clock = with_fraction(
        format!("{hour:02}:{minute:02}:{second:02}"),
        time.as_nanos() % NANOS,
    );
    format!("{year:04}-{month:02}-{day:02}T{clock}Z")
}

/// `seconds`, and behind a point what is not whole.
pub(super) fn with_fraction(seconds: String, nanos: u64) -> String {
    if nanos == 0 {
        return seconds;
    }
    let digits = format!("{nanos:09}");
    format!("{seconds}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let before = Timestamp::from_secs(100);
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:01Z", Some(951_868_801_000_000_000)),
            ("2026-11-22T00:00:00.5Z", Some(1_795_305_600_500_000_000)),
            ("2024-02-29T23:59:59Z", Some(1_709_251_199_000_000_000)),
            ("7", Some(7_000_000_000)),
            ("7.000000001", Some(7_000_000_001)),
            ("+1s", Some(101_000_000_000)),
            ("+500ms", Some(100_500_000_000)),
            ("+5m", Some(400_000_000_000)),
            ("+1.5h", Some(5_500_000_000_000)),
            ("+1h30m", Some(5_500_000_000_000)),
            ("+1d", Some(86_500_000_000_000)),
            ("+0s", Some(100_000_000_000)),
            ("+", None),
            ("+1", None),
            ("+1x", None),
            ("+-1s", None),
            ("+1.s", None),
            ("+0.5ns", None),
            ("-1", None),
            ("", None),
            ("7.0000000001", None),
            ("18446744074", None),
            ("99999999999999999999999999999999999999999999", None),
            ("2026-11-22", None),
            ("2026-11-22T10:00:00", None),
            ("2026-11-22T10:00:00+01:00", None),
            ("2026-11-22T10:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-1-1T00:00:00Z", None),
            ("2026-01-01-01T00:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("Z", None),
        ] {
            let read = read(text, before).map(Timestamp::as_nanos);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_they_are_written() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-12-31T23:59:59.000000001Z",
            "2024-02-29T10:20:30.25Z",
            "2553-12-31T00:00:00Z",
        ] {
            assert_eq!(show(read(text, START).unwrap()), text);
        }
        assert_eq!(show(START), "2026-01-01T00:00:00Z");
        assert!(show(Timestamp::MAX).starts_with("2554-"));
    }
}
