//! How a limit is counted, where that is not a plain fixed window.

use std::fmt;

use super::super::limit::Limit;

/// Everything that a limit says beside its requests and its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// How hits become a count.
    pub algorithm: Algorithm,
    /// Once over the limit, refused for so many seconds; 0 for none.
    pub lockout: u32,
    /// The limit begins low.
    pub warm_up: Option<WarmUp>,
}

/// How hits become a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Counts from each multiple of the window to the next.
    FixedWindow,
    /// Two fixed windows, the last one weighted by how much of it is covered.
    SlidingWindow,
    /// Remembers every hit: exact in any window.
    SlidingLog,
    /// Refills `requests` in a window.
    Bucket {
        /// So many pass at once.
        burst: u32,
        /// So many more wait for their turn.
        max_queue: u32,
    },
    /// Counts different values of a descriptor's last entry.
    DistinctValues(Distinct),
    /// Open for a window's length after an event.
    Opened,
    /// The event that opens.
    Event,
}

/// How different values are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distinct {
    /// Beyond so many values they are estimated.
    pub exact_up_to: u32,
    /// A value is known for so many seconds, over the window's end; 0: until
    /// then.
    pub remember: u32,
}

/// A limit that begins at `from` and grows to its full size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Requests at first sight of the counter.
    pub from: u32,
    /// Seconds until all of the limit is there; at least 1.
    pub over: u32,
}

/// Hits of one charge that count, at most: more than any limit.
pub const MOST_HITS: u64 = 1 << 32;
/// Hits that a bucket holds, at most.
pub const MOST_IN_BUCKET: u64 = 1 << 31;

// === impl Method ===

impl Method {
    /// This algorithm, and nothing else.
    #[must_use]
    pub const fn plain(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            lockout: 0,
            warm_up: None,
        }
    }

    /// Above which count `limit` is over, when it has grown to its full size.
    #[must_use]
    pub const fn most(&self, limit: Limit) -> u64 {
        match self.algorithm {
            // Nothing drains at a rate of 0.
            Algorithm::Bucket { .. } if limit.requests == 0 => 0,
            Algorithm::Bucket { burst, max_queue } => burst as u64 + max_queue as u64,
            Algorithm::Opened => 1,
            Algorithm::Event => u64::MAX,
            Algorithm::FixedWindow
            | Algorithm::SlidingWindow
            | Algorithm::SlidingLog
            | Algorithm::DistinctValues(_) => limit.requests as u64,
        }
    }

    /// The same for a process that shares the limit with others: `part` of
    /// everything that can be divided.
    #[must_use]
    pub fn share(self, part: impl Fn(u32) -> u32) -> Self {
        let algorithm = match self.algorithm {
            Algorithm::Bucket { burst, max_queue } => Algorithm::Bucket {
                burst: part(burst),
                max_queue: part(max_queue),
            },
            other => other,
        };
        let warm_up = self.warm_up.map(|warm_up| WarmUp {
            from: part(warm_up.from),
            ..warm_up
        });
        Self {
            algorithm,
            warm_up,
            ..self
        }
    }

    /// A number for each way to count: counters of different ways are
    /// different counters.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self.algorithm {
            Algorithm::FixedWindow => b'f',
            Algorithm::SlidingWindow => b's',
            Algorithm::SlidingLog => b'l',
            Algorithm::Bucket { .. } => b'b',
            Algorithm::DistinctValues(_) => b'd',
            Algorithm::Opened | Algorithm::Event => b'o',
        }
    }
}

/// As rules files say it.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            Algorithm::FixedWindow => f.write_str("fixed_window")?,
            Algorithm::SlidingWindow => f.write_str("sliding_window")?,
            Algorithm::SlidingLog => f.write_str("sliding_log")?,
            Algorithm::Bucket {
                burst,
                max_queue: 0,
            } => write!(f, "token_bucket, burst {burst}")?,
            Algorithm::Bucket { burst, max_queue } => {
                write!(f, "leaky_bucket, burst {burst}, max_queue {max_queue}")?;
            }
            Algorithm::DistinctValues(distinct) => {
                f.write_str("distinct_values")?;
                if distinct.exact_up_to < u32::MAX {
                    write!(f, ", estimated beyond {}", distinct.exact_up_to)?;
                }
                if distinct.remember > 0 {
                    write!(f, ", remembered for {} s", distinct.remember)?;
                }
            }
            Algorithm::Opened => f.write_str("opens_for")?,
            Algorithm::Event => f.write_str("event")?,
        }
        if self.lockout > 0 {
            write!(f, ", lockout {} s", self.lockout)?;
        }
        if let Some(WarmUp { from, over }) = self.warm_up {
            write!(f, ", warm-up from {from} over {over} s")?;
        }
        Ok(())
    }
}
