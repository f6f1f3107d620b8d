//! Different values: how many of them in a window, each counted once.
//!
//! A value that is known passes, even where the limit is reached; it is known
//! until the window ends, or for as long as it is to be remembered. A new one
//! that does not fit is refused and not remembered.
//!
//! Values are told apart by 128 bits of a hash. Up to a number of values that
//! the limit says each is kept; beyond that their number is
//! estimated from a `HyperLogLog` sketch of 4,096 registers: the standard error is
//! 1.6 %, and the counter costs 4 KiB, however many values there are. Once the
//! estimate has reached the limit everything is refused until the window ends,
//! known values too: a sketch cannot tell them apart.

use std::collections::HashMap;

use super::{
    Observation,
    method::Distinct,
    ticks::{micros, timestamp},
};
use crate::engine::{descriptor::Hits, limit::Window, time::Timestamp};

/// Values that have passed.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// When the window began that `count` is of, in microseconds.
    start: u64,
    /// New values of that window.
    count: u64,
    /// When each was seen first, in microseconds.
    seen: HashMap<[u64; 2], u64>,
    sketch: Option<Box<Sketch>>,
}

/// What a charge did, to be undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Done {
    /// Nothing.
    #[default]
    Nothing,
    /// The value is new.
    Added(u128),
    /// The value was given back; when it was seen, and whether it counted.
    Removed(u128, u64, bool),
    /// A register of the sketch was raised, from that.
    Raised(usize, u8),
}

/// An estimate of how many different values there are.
#[derive(Clone, Debug)]
pub struct Sketch {
    registers: [u8; REGISTERS],
    /// Of all registers 2^(32 - register).
    sum: u64,
    zeros: u64,
}

/// Registers of a sketch.
pub const REGISTERS: usize = 4_096;
/// The highest that a register can be.
pub const TOP: u32 = 32;

// === impl Values ===

impl Values {
    /// Counts the value `value` at `now`.
    pub(super) fn charge(
        &mut self,
        window: Window,
        most: u64,
        distinct: Distinct,
        value: u128,
        hits: Hits,
        now: Timestamp,
    ) -> (Observation, Done) {
        let end = self.turn(window, distinct, now);
        let known = self.knows(value, distinct, now);
        let before = self.count();
        let (after, done) = match hits {
            Hits::Take(0) => (before, Done::Nothing),
            // A sketch cannot tell whom it knows once it knows many: at the
            // limit it refuses all.
            Hits::Take(_) if self.sketch.is_some() && before >= most => (before + 1, Done::Nothing),
            Hits::Take(_) if known => (before, Done::Nothing),
            Hits::Take(_) => self.add(value, most, distinct, now),
            Hits::GiveBack(0) => (before, Done::Nothing),
            Hits::GiveBack(_) => self.remove(value),
        };
        let surely = known && self.sketch.is_none();
        (observed((before, after), surely, most, end, now), done)
    }

    /// Takes back what a charge did.
    pub(super) fn undo(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Added(value) => {
                self.remove(value);
            }
            Done::Removed(value, seen, counted) => {
                self.seen.insert(halves(value), seen);
                self.count += u64::from(counted);
            }
            Done::Raised(register, was) => {
                if let Some(sketch) = &mut self.sketch {
                    sketch.set(register, was);
                }
            }
        }
    }

    /// How many plain counters it is as large as, about.
    pub(super) fn weight(&self) -> usize {
        let sketch = usize::from(self.sketch.is_some()) * (REGISTERS / 40);
        self.seen.len() + sketch
    }

    /// Nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.sketch.is_none()
    }

    /// Begins a new window if it is time; says when this one ends.
    fn turn(&mut self, window: Window, distinct: Distinct, now: Timestamp) -> Timestamp {
        let start = window.start(now).saturating_mul(1_000_000);
        let length = window.seconds().saturating_mul(1_000_000);
        let ahead = start + length.max(10_000_000);
        if !(start..=ahead).contains(&self.start) {
            self.start = start;
            self.count = 0;
            self.sketch = None;
            if distinct.remember == 0 {
                self.seen.clear();
            } else {
                let keep = u64::from(distinct.remember) * 1_000_000;
                let now = micros(now);
                self.seen.retain(|_, seen| seen.saturating_add(keep) > now);
            }
        }
        window.end(timestamp(self.start))
    }

    fn knows(&self, value: u128, distinct: Distinct, now: Timestamp) -> bool {
        if let Some(sketch) = &self.sketch {
            let (register, rank) = place(value);
            return sketch.registers[register] >= rank;
        }
        let keep = u64::from(distinct.remember) * 1_000_000;
        self.seen
            .get(&halves(value))
            .is_some_and(|&seen| seen >= self.start || seen.saturating_add(keep) > micros(now))
    }

    fn count(&self) -> u64 {
        let sketch = self.sketch.as_ref();
        sketch.map_or(self.count, |sketch| sketch.estimate())
    }

    fn add(&mut self, value: u128, most: u64, distinct: Distinct, now: Timestamp) -> (u64, Done) {
        if self.sketch.is_none() && self.count >= distinct.exact_up_to.into() {
            if self.count >= most {
                return (self.count + 1, Done::Nothing);
            }
            let mut sketch = Sketch::new();
            for (&[low, high], _) in self.seen.iter().filter(|(_, seen)| **seen >= self.start) {
                let (register, rank) = place(u128::from(high) << 64 | u128::from(low));
                sketch.raise(register, rank);
            }
            self.seen = HashMap::new();
            self.sketch = Some(Box::new(sketch));
        }
        let Some(sketch) = &mut self.sketch else {
            if self.count >= most {
                return (self.count + 1, Done::Nothing);
            }
            self.seen.insert(halves(value), micros(now).max(self.start));
            self.count += 1;
            return (self.count, Done::Added(value));
        };
        let (register, rank) = place(value);
        let was = sketch.registers[register];
        sketch.raise(register, rank);
        let after = sketch.estimate().max(self.count);
        if after > most {
            sketch.set(register, was);
            return (after, Done::Nothing);
        }
        (after, Done::Raised(register, was))
    }

    /// A sketch cannot forget.
    fn remove(&mut self, value: u128) -> (u64, Done) {
        if self.sketch.is_some() {
            return (self.count(), Done::Nothing);
        }
        match self.seen.remove(&halves(value)) {
            Some(seen) => {
                let counted = seen >= self.start && self.count > 0;
                self.count -= u64::from(counted);
                (self.count, Done::Removed(value, seen, counted))
            }
            None => (self.count, Done::Nothing),
        }
    }
}

/// What is told of counts before and after; a value that is surely known
/// passes, whatever they say.
pub(super) fn observed(
    (before, after): (u64, u64),
    known: bool,
    most: u64,
    end: Timestamp,
    now: Timestamp,
) -> Observation {
    let most_now = if known { most.max(before) } else { most };
    Observation {
        before,
        after,
        most: most_now,
        resets: end,
        passes: match (after > most_now, most) {
            (false, _) => now,
            (true, 0) => Timestamp::MAX,
            (true, _) => end,
        },
        known: false,
    }
}

/// The register of a value, and what it raises that to.
#[must_use]
pub fn place(value: u128) -> (usize, u8) {
    let low = halves(value)[0];
    let register = usize::try_from(low % REGISTERS as u64).unwrap_or(0);
    let rank = (low >> REGISTERS.trailing_zeros()).trailing_zeros() + 1;
    (register, u8::try_from(rank.min(TOP)).unwrap_or(u8::MAX))
}

fn halves(value: u128) -> [u64; 2] {
    #[allow(clippy::cast_possible_truncation, reason = "takes the halves apart")]
    let halves = [value as u64, (value >> 64) as u64];
    halves
}

// === impl Sketch ===

impl Sketch {
    fn new() -> Self {
        Self {
            registers: [0; REGISTERS],
            sum: (REGISTERS as u64) << TOP,
            zeros: REGISTERS as u64,
        }
    }

    fn raise(&mut self, register: usize, rank: u8) {
        if self.registers[register] < rank {
            self.set(register, rank);
        }
    }

    fn set(&mut self, register: usize, rank: u8) {
        let was = self.registers[register];
        self.sum = self.sum - (1 << (TOP - u32::from(was))) + (1 << (TOP - u32::from(rank)));
        self.zeros = self.zeros - u64::from(was == 0) + u64::from(rank == 0);
        self.registers[register] = rank;
    }

    fn estimate(&self) -> u64 {
        estimate(self.sum, self.zeros)
    }
}

/// How many different values make such a sketch: the classic estimate, and
/// linear counting where there are few.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sum and zeros are below 2⁵³; the estimate is not exact anyway"
)]
fn estimate(sum: u64, zeros: u64) -> u64 {
    let registers = REGISTERS as f64;
    let alpha = 0.7213 / (1.0 + 1.079 / registers);
    let raw = alpha * registers * registers * 4_294_967_296.0 / sum as f64;
    let estimate = if raw <= 2.5 * registers && zeros > 0 {
        registers * (registers / zeros as f64).ln()
    } else {
        raw
    };
    (estimate + 0.5).floor() as u64
}
