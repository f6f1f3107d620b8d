//! What a scalar means: the types of YAML 1.1, as the reference reads them.

use super::yaml::{Scalar, Tag};

/// A scalar's meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    /// Nothing, `~` or `null`.
    Null,
    /// `yes`, `off`, `true`….
    Bool(bool),
    /// Decimal, octal (`010`), hexadecimal or binary.
    Int(i64),
    /// A whole number too large for [`Self::Int`].
    Large(u64),
    /// A number with a fraction, an exponent or too many digits.
    Float(f64),
    /// Everything else, and everything in quotes.
    Text,
    /// Not what its tag says.
    Mistagged,
}

/// What `scalar` means.
pub(crate) fn meaning(scalar: &Scalar<'_>) -> Meaning {
    let plain = || of_plain(&scalar.text);
    match scalar.tag {
        Tag::None if scalar.plain => plain(),
        Tag::None | Tag::Text => Meaning::Text,
        Tag::Null => only(plain(), |it| matches!(it, Meaning::Null)),
        Tag::Bool => only(plain(), |it| matches!(it, Meaning::Bool(_))),
        Tag::Int => only(plain(), |it| {
            matches!(it, Meaning::Int(_) | Meaning::Large(_))
        }),
        Tag::Float => match plain() {
            #[allow(clippy::cast_precision_loss, reason = "asked for by the tag")]
            Meaning::Int(number) => Meaning::Float(number as f64),
            other => only(other, |it| matches!(it, Meaning::Float(_))),
        },
    }
}

fn only(meaning: Meaning, fits: impl Fn(&Meaning) -> bool) -> Meaning {
    if fits(&meaning) {
        meaning
    } else {
        Meaning::Mistagged
    }
}

fn of_plain(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Meaning::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Meaning::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Meaning::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Meaning::Float(f64::NEG_INFINITY),
        _ => number(text).unwrap_or(Meaning::Text),
    }
}

fn number(text: &str) -> Option<Meaning> {
    let first = *text.as_bytes().first()?;
    if first == b'.' {
        return float(text);
    }
    // A number is short; what is longer than any is text.
    let numeric = matches!(first, b'+' | b'-' | b'0'..=b'9') && text.len() < 400;
    if !numeric || is_timestamp(text) {
        return None;
    }
    let digits = text.replace('_', "");
    integer(&digits).or_else(|| float(&digits))
}

/// Dates stay the text they were written as. They begin with `YYYY-`, and
/// so does nothing else that is a number.
fn is_timestamp(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    digits == 4 && text.as_bytes().get(4) == Some(&b'-')
}

fn integer(text: &str) -> Option<Meaning> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = split_radix(unsigned);
    // `from_str_radix` would take a second sign.
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    let signed = if negative {
        0_i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    };
    match signed {
        Some(number) => Some(Meaning::Int(number)),
        // Only decimal numbers may be unsigned with a plus sign left out.
        None if !negative && !text.starts_with('+') => Some(Meaning::Large(magnitude)),
        None => None,
    }
}

fn split_radix(text: &str) -> (u32, &str) {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.get(1)) {
        (Some(b'0'), Some(b'x' | b'X')) => (16, &text[2..]),
        (Some(b'0'), Some(b'b' | b'B')) => (2, &text[2..]),
        (Some(b'0'), Some(b'o' | b'O')) => (8, &text[2..]),
        (Some(b'0'), Some(_)) => (8, &text[1..]),
        _ => (10, text),
    }
}

fn float(text: &str) -> Option<Meaning> {
    let shaped = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    if !shaped {
        return None;
    }
    // Digits that are out of range are text.
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Meaning::Float(number))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn plain(text: &str) -> Meaning {
        meaning(&Scalar {
            text: Cow::Borrowed(text),
            plain: true,
            tag: Tag::None,
        })
    }

    #[test]
    fn scalars_mean_what_yaml_1_1_says() {
        use Meaning::{Bool, Float, Int, Large, Null, Text};
        let table: &[(&[&str], Meaning)] = &[
            (&["", "~", "null", "Null", "NULL"], Null),
            (&["y", "Y", "yes", "Yes", "YES"], Bool(true)),
            (&["on", "On", "ON", "true", "True", "TRUE"], Bool(true)),
            (&["n", "N", "no", "No", "NO"], Bool(false)),
            (
                &["off", "Off", "OFF", "false", "False", "FALSE"],
                Bool(false),
            ),
            (&["yEs", "tRUE", "oN", "nil", "nUll", "yess"], Text),
            (
                &[
                    "8", "010", "0o10", "0x8", "0X8", "0b1000", "+8", "0_1_0", "+010",
                ],
                Int(8),
            ),
            (&["1_000", "1000", "0x3e8", "1__000", "1000_"], Int(1000)),
            (&["0", "-0", "00", "+0", "0x0"], Int(0)),
            (&["-8", "-010", "-0x8", "-0b1000"], Int(-8)),
            (&["9223372036854775807"], Int(i64::MAX)),
            (&["-9223372036854775808"], Int(i64::MIN)),
            (&["9223372036854775808"], Large(1 << 63)),
            (
                &["18446744073709551615", "0xffffffffffffffff"],
                Large(u64::MAX),
            ),
            (
                &["1.5", "1_.5", "+1.5", "15e-1", "1.5e0", "0.15E1", "1.5E+0"],
                Float(1.5),
            ),
            (&[".5", "0.5", "5e-1"], Float(0.5)),
            (&["5.", "5.0", "5e0", "05.0"], Float(5.0)),
            (&["09", "9.0", "+09"], Float(9.0)),
            (&["8e0_1"], Float(80.0)),
            (&[".inf", "+.INF", ".Inf"], Float(f64::INFINITY)),
            (&["-.inf", "-.INF"], Float(f64::NEG_INFINITY)),
            (
                &["18446744073709551616"],
                Float(18_446_744_073_709_551_616.0),
            ),
            (
                &[
                    "2026-01-01",
                    "2026-1-1 10:00:00",
                    "2026-01-01T10:00:00Z",
                    "2026-",
                ],
                Text,
            ),
            (
                &[
                    "10.0.0.1", "1.2.3", "12:30:45", "0x", "0b", "0b12", "0xg", "1e400",
                ],
                Text,
            ),
            (
                &[
                    "++5", "+-5", "-", "+", "_1", "-_", ".", "..", ".e1", "5e", "1 000", "٥",
                ],
                Text,
            ),
            (
                &[
                    "inf", "nan", "infinity", "-inf", "+nan", "0x1p3", "1,000", "5 ",
                ],
                Text,
            ),
        ];
        let wrong: Vec<_> = table
            .iter()
            .flat_map(|(texts, expected)| {
                texts
                    .iter()
                    .map(move |text| (*text, plain(text), *expected))
            })
            .filter(|(_, got, expected)| got != expected)
            .collect();
        assert_eq!(wrong, []);
        assert!(matches!(plain(".nan"), Float(nan) if nan.is_nan()));
    }

    #[test]
    fn quotes_make_text_and_tags_decide() {
        use Meaning::{Bool, Float, Int, Mistagged, Null, Text};
        for (text, plain, tag, expected) in [
            ("true", false, Tag::None, Text),
            ("5", false, Tag::None, Text),
            ("", false, Tag::None, Text),
            ("5", true, Tag::Text, Text),
            ("5", false, Tag::Int, Int(5)),
            ("yes", false, Tag::Bool, Bool(true)),
            ("5", true, Tag::Float, Float(5.0)),
            ("~", true, Tag::Null, Null),
            ("5", true, Tag::Bool, Mistagged),
            ("x", true, Tag::Int, Mistagged),
            ("1.5", true, Tag::Int, Mistagged),
        ] {
            let text = Cow::Borrowed(text);
            let scalar = Scalar { text, plain, tag };
            assert_eq!(meaning(&scalar), expected, "{scalar:?}");
        }
    }
}
