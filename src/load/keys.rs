//! Which key the next request is for.

use std::{fmt, num::NonZeroU64, str::FromStr};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use thiserror::Error;

/// How requests spread over keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every key is as likely as any other.
    Uniform,
    /// The key of rank n is asked for in proportion to 1 / n to the power of
    /// this exponent: a few keys get most of the requests.
    Zipf(f64),
    /// One key after the other, and then from the first again.
    Sequential,
}

/// The text names no distribution.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "not a distribution; one of: uniform, sequential, zipf, zipf:EXPONENT (above 0 and up to 10, such as zipf:1.1)"
)]
pub struct NotADistribution;

/// An endless sequence of keys.
#[derive(Debug)]
pub(crate) enum Keys {
    Uniform { keys: u64, random: SmallRng },
    Zipf { zipf: Zipf, random: SmallRng },
    Sequential { keys: u64, next: u64, step: u64 },
}

/// Draws ranks by rejection-inversion (Hörmann and Derflinger, 1996): no
/// table, whatever the number of keys.
#[derive(Debug)]
pub(crate) struct Zipf {
    keys: f64,
    exponent: f64,
    low: f64,
    high: f64,
    /// Within this distance of its rank a draw needs no second look.
    sure: f64,
}

// === impl Distribution ===

impl FromStr for Distribution {
    type Err = NotADistribution;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "sequential" => Ok(Self::Sequential),
            None if text == "zipf" => Ok(Self::Zipf(1.0)),
            Some(("zipf", exponent)) => match exponent.parse() {
                Ok(exponent) if exponent > 0.0 && exponent <= 10.0 => Ok(Self::Zipf(exponent)),
                _ => Err(NotADistribution),
            },
            _ => Err(NotADistribution),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Sequential => f.write_str("sequential"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

// === impl Keys ===

impl Keys {
    /// The keys of connection `index` out of `connections`: the same ones in
    /// every run. In sequence the connections take turns.
    pub(crate) fn new(
        distribution: Distribution,
        keys: NonZeroU64,
        index: u64,
        connections: u64,
    ) -> Self {
        let keys = keys.get();
        let random = SmallRng::seed_from_u64(index);
        match distribution {
            Distribution::Uniform => Self::Uniform { keys, random },
            Distribution::Zipf(exponent) => Self::Zipf {
                zipf: Zipf::new(keys, exponent),
                random,
            },
            Distribution::Sequential => Self::Sequential {
                keys,
                next: index % keys,
                step: connections % keys,
            },
        }
    }

    /// The next key, below the number of keys.
    pub(crate) fn next(&mut self) -> u64 {
        match self {
            Self::Uniform { keys, random } => random.random_range(0..*keys),
            Self::Zipf { zipf, random } => zipf.draw(|| random.random()) - 1,
            Self::Sequential { keys, next, step } => {
                let key = *next;
                // Without overflow, whatever the number of keys.
                let left = *keys - *next;
                *next = if *step < left {
                    *next + *step
                } else {
                    *step - left
                };
                key
            }
        }
    }
}

// === impl Zipf ===

impl Zipf {
    #[allow(clippy::cast_precision_loss, reason = "ranks beyond 2⁵³ do not matter")]
    fn new(keys: u64, exponent: f64) -> Self {
        let keys = keys as f64;
        let mut zipf = Self {
            keys,
            exponent,
            low: 0.0,
            high: 0.0,
            sure: 0.0,
        };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(keys + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// A rank from 1 on; `random` draws from 0 up to 1.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number between 1 and the number of keys"
    )]
    fn draw(&self, mut random: impl FnMut() -> f64) -> u64 {
        loop {
            let area = self.high + random() * (self.low - self.high);
            let at = self.inverse(area);
            let rank = at.round().clamp(1.0, self.keys);
            if rank - at <= self.sure || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    /// The integral of `weight`, up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 {
            x.ln()
        } else {
            (x.powf(power) - 1.0) / power
        }
    }

    fn inverse(&self, area: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 {
            area.exp()
        } else {
            (1.0 + area * power).max(0.0).powf(1.0 / power)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(distribution: Distribution, keys: u64, count: usize) -> Vec<u64> {
        let mut drawn = Keys::new(distribution, NonZeroU64::new(keys).unwrap(), 0, 1);
        (0..count).map(|_| drawn.next()).collect()
    }

    #[test]
    fn distributions_are_read_and_written() {
        for (text, expected) in [
            ("uniform", Some("uniform")),
            ("sequential", Some("sequential")),
            ("zipf", Some("zipf:1")),
            ("zipf:1.1", Some("zipf:1.1")),
            ("zipf:0", None),
            ("zipf:-1", None),
            ("zipf:NaN", None),
            ("zipf:inf", None),
            ("uniform:1", None),
            ("", None),
        ] {
            let read = text.parse::<Distribution>();
            assert_eq!(
                read.ok().map(|d| d.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn keys_stay_in_their_range() {
        for distribution in [
            Distribution::Uniform,
            Distribution::Sequential,
            Distribution::Zipf(0.5),
            Distribution::Zipf(1.0),
            Distribution::Zipf(3.0),
            Distribution::Zipf(10.0),
        ] {
            for keys in [1, 2, 3, 1_000, u64::MAX] {
                let drawn = draw(distribution, keys, 1_000);
                assert!(drawn.iter().all(|&key| key < keys), "{distribution} {keys}");
            }
        }
    }

    #[test]
    fn sequences_of_connections_interleave() {
        for keys in [7, 10, 12] {
            let keys = NonZeroU64::new(keys).unwrap();
            let mut connections: Vec<_> = (0..4)
                .map(|index| Keys::new(Distribution::Sequential, keys, index, 4))
                .collect();
            for turn in 0..30 {
                for (index, connection) in (0..).zip(&mut connections) {
                    assert_eq!(connection.next(), (turn * 4 + index) % keys);
                }
            }
        }
    }

    #[test]
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    fn zipf_follows_its_law() {
        const DRAWS: usize = 200_000;
        for exponent in [0.7, 1.0, 1.1, 2.0] {
            let mut counts = [0_usize; 20];
            for key in draw(Distribution::Zipf(exponent), 20, DRAWS) {
                counts[usize::try_from(key).unwrap()] += 1;
            }
            let weights: Vec<f64> = (1..=20).map(|n| f64::from(n).powf(-exponent)).collect();
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = weight / sum * DRAWS as f64;
                // Five standard deviations; the draws are the same each time.
                let off = (*count as f64 - expected).abs() / expected.sqrt();
                assert!(off < 5.0, "zipf:{exponent}: {count} instead of {expected}");
            }
        }
    }
}
