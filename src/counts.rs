//! Numbers that many threads add to and few read: each thread has its own
//! share of the memory, so that counting is not a meeting of cores.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// As many shares as there may be; more threads share them.
const MOST_SHARES: usize = 16;

thread_local! {
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One `T` for each of a few threads.
#[derive(Debug)]
pub struct Shares<T>(Box<[Share<T>]>);

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Share<T>(OnceLock<Box<T>>);

/// How often something took how long, or was how large: counts by upper
/// bounds, and the sum.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    /// One for each bound, and one for what is beyond them all.
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

/// What a histogram held at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Upper bounds, inclusive, ascending.
    pub bounds: &'static [u64],
    /// How many were within each bound and above the one before; the last:
    /// beyond them all.
    pub counts: Vec<u64>,
    /// The sum of all.
    pub sum: u64,
}

/// Upper bounds of latencies, in microseconds.
pub const LATENCIES: &[u64; 18] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 15_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of sizes of batches.
pub const SIZES: &[u64; 12] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

// === impl Shares ===

impl<T> Shares<T> {
    /// A share for each core, and one for all else; made when it is used.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shares = (cores + 1).min(MOST_SHARES);
        Self((0..shares).map(|_| Share(OnceLock::new())).collect())
    }

    /// This thread's share.
    pub fn mine(&self, make: impl FnOnce() -> T) -> &T {
        let share = &self.0[number() % self.0.len()];
        share.0.get_or_init(|| Box::new(make()))
    }

    /// All shares that were used.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0
            .iter()
            .filter_map(|share| share.0.get().map(|it| &**it))
    }
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Threads are numbered as they come.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    MINE.with(|mine| match mine.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        }
    })
}

// === impl Histogram ===

impl<const N: usize> Histogram<N> {
    /// Empty.
    #[must_use]
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Takes in `times` times `value`.
    pub fn record(&self, value: u64, times: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        let count = self.counts.get(place).unwrap_or(&self.beyond);
        count.fetch_add(times, Ordering::Relaxed);
        self.sum
            .fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// Takes in a duration, in whole microseconds.
    pub fn record_time(&self, time: Duration, times: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.record(micros, times);
    }

    /// What it holds.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let counts = self.counts.iter().chain([&self.beyond]);
        Distribution {
            bounds: self.bounds,
            counts: counts.map(|it| it.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

// === impl Distribution ===

impl Distribution {
    /// Nothing.
    #[must_use]
    pub fn empty(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0,
        }
    }

    /// Adds another one of the same bounds.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// All that was taken in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_between_their_bounds() {
        let histogram = Histogram::new(&[1, 10, 100]);
        for (value, times) in [(0, 1), (1, 1), (2, 3), (10, 1), (11, 1), (101, 2)] {
            histogram.record(value, times);
        }
        histogram.record_time(Duration::from_micros(50), 1);
        let read = histogram.read();
        assert_eq!(read.counts, [2, 4, 2, 2]);
        assert_eq!(read.sum, 1 + 6 + 10 + 11 + 202 + 50);
        let mut twice = Distribution::empty(read.bounds);
        twice.add(&read);
        twice.add(&read);
        assert_eq!(twice.count(), 20);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let shares: Shares<AtomicU64> = Shares::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let mine = shares.mine(AtomicU64::default);
                        mine.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let sum: u64 = shares.iter().map(|it| it.load(Ordering::Relaxed)).sum();
        assert_eq!(sum, 20_000);
    }
}
