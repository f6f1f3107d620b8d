//! How long to wait before the next try: longer each time. Pure.

use std::time::Duration;

/// The shortest first wait: nothing is tried without a pause.
const SHORTEST: Duration = Duration::from_millis(10);
/// How much longer each wait is than the one before, unless it is said.
const FACTOR: f64 = 2.0;

/// How waits grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The first wait.
    pub initial: Duration,
    /// The longest; not less than the first.
    pub max: Duration,
    /// How much longer each is than the one before; 2 where this would not
    /// make it longer.
    pub factor: f64,
    /// Take up to half of each wait off, so that many clients do not come
    /// back together.
    pub jitter: bool,
}

/// The waits of one row of failures.
#[derive(Clone, Debug)]
pub struct Backoff {
    growth: Growth,
    next: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// Begins with the first wait.
    #[must_use]
    pub fn new(growth: Growth) -> Self {
        let initial = growth.initial.max(SHORTEST);
        let grows = growth.factor.is_finite() && growth.factor > 1.0;
        Self {
            growth: Growth {
                initial,
                max: growth.max.max(initial),
                factor: if grows { growth.factor } else { FACTOR },
                jitter: growth.jitter,
            },
            next: initial,
        }
    }

    /// The next wait; `random` is from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let wait = self.next;
        let longer = Duration::try_from_secs_f64(wait.as_secs_f64() * self.growth.factor);
        self.next = longer.unwrap_or(Duration::MAX).min(self.growth.max);
        if self.growth.jitter {
            wait.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
        } else {
            wait
        }
    }

    /// All is well: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.next = self.growth.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(initial: u64, max: u64, factor: f64) -> Growth {
        Growth {
            initial: Duration::from_millis(initial),
            max: Duration::from_millis(max),
            factor,
            jitter: false,
        }
    }

    fn waits(growth: Growth, random: f64) -> Vec<u128> {
        let mut backoff = Backoff::new(growth);
        (0..5).map(|_| backoff.next(random).as_millis()).collect()
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        for (initial, max, factor, expected) in [
            (1_000, 10_000, 2.0, [1_000, 2_000, 4_000, 8_000, 10_000]),
            (1_000, 10_000, 1.5, [1_000, 1_500, 2_250, 3_375, 5_062]),
            // The reference's default, which would never grow.
            (1_000, 4_000, 0.5, [1_000, 2_000, 4_000, 4_000, 4_000]),
            (1_000, 4_000, 1.0, [1_000, 2_000, 4_000, 4_000, 4_000]),
            (1_000, 4_000, f64::NAN, [1_000, 2_000, 4_000, 4_000, 4_000]),
            (5_000, 1_000, 2.0, [5_000; 5]),
            (0, 1_000, 2.0, [10, 20, 40, 80, 160]),
            (1_000, 9_000, f64::MAX, [1_000, 9_000, 9_000, 9_000, 9_000]),
        ] {
            let waits = waits(growth(initial, max, factor), 0.7);
            assert_eq!(waits, expected, "{initial} {max} {factor}");
        }
    }

    #[test]
    fn jitter_takes_off_up_to_half_and_waits_still_do_not_shrink() {
        let jittered = Growth {
            jitter: true,
            ..growth(1_000, 8_000, 2.0)
        };
        assert_eq!(waits(jittered, 0.0), [1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(waits(jittered, 1.0), [500, 1_000, 2_000, 4_000, 4_000]);
        let mut backoff = Backoff::new(jittered);
        let mixed: Vec<_> = [0.0, 1.0, 0.5, 9.0]
            .map(|random| backoff.next(random).as_millis())
            .into();
        assert_eq!(mixed, [1_000, 1_000, 3_000, 4_000]);
    }

    #[test]
    fn after_a_success_waits_begin_anew() {
        let mut backoff = Backoff::new(growth(1_000, 8_000, 2.0));
        backoff.next(0.0);
        backoff.next(0.0);
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_secs(1));
    }
}
