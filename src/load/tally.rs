//! What is counted while the load runs.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::{
    response::Answer,
    session::{Failure, Outcome},
};

/// Latencies from 100 ns to 10 minutes, to three digits.
const BOUNDS: (u64, u64, u8) = (100, 600_000_000_000, 3);

/// One connection's results, or those of all.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) over_limit: u64,
    pub(crate) failures: Failures,
    /// In nanoseconds, of answered calls.
    pub(crate) latencies: Histogram<u64>,
    /// When the last measured call ended, in nanoseconds since the start.
    pub(crate) last: u64,
    /// How often a connection was made again.
    pub(crate) reconnects: u64,
    /// Less was sent than was to be: the server is gone, or silent.
    pub(crate) gave_up: bool,
}

/// Calls without an answer, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) status: u64,
    pub(crate) reset: u64,
    pub(crate) malformed: u64,
    pub(crate) lost: u64,
    pub(crate) timed_out: u64,
}

/// Counts of the running load, for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Live {
    ok: AtomicU64,
    over_limit: AtomicU64,
    failed: AtomicU64,
}

/// What the load has done so far, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that may pass.
    pub ok: u64,
    /// Calls that may not.
    pub over_limit: u64,
    /// Calls without an answer.
    pub failed: u64,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> Self {
        let (low, high, digits) = BOUNDS;
        let latencies = Histogram::new_with_bounds(low, high, digits);
        Self {
            ok: 0,
            over_limit: 0,
            failures: Failures::default(),
            latencies: latencies.expect("the bounds are valid"),
            last: 0,
            reconnects: 0,
            gave_up: false,
        }
    }

    /// A call that was due at `intended` ended at `now`.
    pub(crate) fn record(&mut self, outcome: Outcome, intended: u64, now: u64) {
        self.last = self.last.max(now);
        match outcome {
            Outcome::Answered(answer) => {
                match answer {
                    Answer::Ok => self.ok += 1,
                    Answer::OverLimit => self.over_limit += 1,
                }
                self.latencies
                    .saturating_record(now.saturating_sub(intended));
            }
            Outcome::Failed(failure) => self.failures.add(failure),
            Outcome::Unprocessed => {}
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.ok += other.ok;
        self.over_limit += other.over_limit;
        self.failures.merge(other.failures);
        self.last = self.last.max(other.last);
        self.reconnects += other.reconnects;
        self.gave_up |= other.gave_up;
        self.latencies
            .add(&other.latencies)
            .expect("all histograms have the same bounds");
    }
}

// === impl Failures ===

impl Failures {
    fn add(&mut self, failure: Failure) {
        *match failure {
            Failure::Status => &mut self.status,
            Failure::Reset => &mut self.reset,
            Failure::Malformed => &mut self.malformed,
            Failure::Lost => &mut self.lost,
            Failure::TimedOut => &mut self.timed_out,
        } += 1;
    }

    fn merge(&mut self, other: Self) {
        self.status += other.status;
        self.reset += other.reset;
        self.malformed += other.malformed;
        self.lost += other.lost;
        self.timed_out += other.timed_out;
    }

    pub(crate) fn total(&self) -> u64 {
        self.status + self.reset + self.malformed + self.lost + self.timed_out
    }
}

// === impl Live ===

impl Live {
    pub(crate) fn add(&self, counts: Counts) {
        for (counter, count) in [
            (&self.ok, counts.ok),
            (&self.over_limit, counts.over_limit),
            (&self.failed, counts.failed),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            ok: self.ok.load(Ordering::Relaxed),
            over_limit: self.over_limit.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn record(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered(Answer::Ok) => self.ok += 1,
            Outcome::Answered(Answer::OverLimit) => self.over_limit += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Unprocessed => {}
        }
    }

    /// Calls with an answer.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.ok + self.over_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_from_the_intended_time() {
        let mut tally = Tally::new();
        let ok = Outcome::Answered(Answer::Ok);
        // Five calls were due a millisecond apart; a stall answered them all
        // at 10 ms.
        for intended in 0..5 {
            tally.record(ok, intended * 1_000_000, 10_000_000);
        }
        tally.record(Outcome::Failed(Failure::Lost), 0, 11_000_000);
        assert_eq!((tally.ok, tally.failures.lost), (5, 1));
        assert_eq!(tally.last, 11_000_000);
        let low = tally.latencies.value_at_quantile(0.0);
        let high = tally.latencies.max();
        assert!((5_990_000..=6_010_000).contains(&low), "{low}");
        assert!((9_990_000..=10_010_000).contains(&high), "{high}");
    }

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::new();
        for failure in [
            Failure::Status,
            Failure::Reset,
            Failure::Malformed,
            Failure::Lost,
            Failure::TimedOut,
        ] {
            let mut one = Tally::new();
            one.record(Outcome::Failed(failure), 0, 1);
            one.record(Outcome::Answered(Answer::OverLimit), 0, 2);
            one.record(Outcome::Unprocessed, 0, 3);
            all.merge(&one);
        }
        assert_eq!((all.failures.total(), all.over_limit), (5, 5));
        assert_eq!(all.latencies.len(), 5);
        // A clock that stands still or steps back is no reason to panic.
        all.record(Outcome::Answered(Answer::Ok), 5, 4);
        assert_eq!(all.ok, 1);
    }
}
