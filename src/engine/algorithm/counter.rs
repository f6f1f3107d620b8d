//! A counter of any algorithm: its state, and what goes for all of them.

use super::{
    Cell, Observation,
    bucket::{Bucket, bucket},
    fixed_window, gate,
    method::{Algorithm, Distinct, MOST_HITS, Method},
    sliding_log::{Log, sliding_log},
    sliding_window::{Sliding, sliding_window},
    ticks::{Ticks, micros, muldiv, timestamp},
    values::{Done, Values},
};
use crate::engine::{descriptor::Hits, limit::Limit, time::Timestamp};

/// A counter's stored state.
#[derive(Clone, Debug)]
pub struct Counter {
    state: State,
    /// Refused until then, in microseconds since the epoch.
    locked: u64,
    /// When it was seen first, where that matters; otherwise 0.
    first: u64,
    expires: Timestamp,
}

/// What to count.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How.
    pub method: Method,
    /// Against what.
    pub limit: Limit,
    /// The value, hashed, where different values are counted.
    pub value: u128,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Empty,
    Window(Cell),
    Sliding(Sliding),
    Log(Log),
    Bucket(Bucket),
    Values(Box<Values>),
    /// The last event, in microseconds since the epoch.
    Event(u64),
}

/// A counter as it was.
#[derive(Debug)]
pub struct Saved {
    /// All of it, without what may be large.
    counter: Counter,
    is_large: bool,
}

/// The whole numbers that 64-bit floating point tells apart.
const WHOLE: f64 = 9_007_199_254_740_992.0;

// === impl Counter ===

impl Default for Counter {
    fn default() -> Self {
        Self {
            state: State::Empty,
            locked: 0,
            first: 0,
            expires: Timestamp::default(),
        }
    }
}

impl Counter {
    /// The counter that a store tells in numbers of 64-bit floating point, low
    /// byte first: three of its state, until when it is locked, when it was seen
    /// first, and for each hit of a log when it was and how many. `None` if
    /// that is not what it is told.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.chunks(8).map(|bytes| {
            let number = f64::from_le_bytes(bytes.try_into().ok()?);
            let is_whole = (0.0..=WHOLE).contains(&number) && number.fract() == 0.0;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "just checked"
            )]
            is_whole.then_some(number as u64)
        });
        let mut next = || numbers.next().flatten();
        let [a, b, c] = [next()?, next()?, next()?];
        let (locked, first) = (next()?, next()?);
        let state = match algorithm {
            Algorithm::FixedWindow => State::Window(Cell {
                count: a,
                window_start: b,
                expires: Timestamp::default(),
            }),
            Algorithm::SlidingWindow => State::Sliding(Sliding {
                start: a,
                last: b,
                count: c,
            }),
            Algorithm::SlidingLog => {
                let mut log = Log::new();
                while let Some(at) = next() {
                    log.push_back((at, u32::try_from(next()?).ok()?));
                }
                State::Log(log)
            }
            Algorithm::Bucket { .. } => State::Bucket(Bucket { level: a, at: b }),
            Algorithm::Opened | Algorithm::Event if a > 0 => State::Event(a),
            Algorithm::Opened | Algorithm::Event | Algorithm::DistinctValues(_) => State::Empty,
        };
        Some(Self {
            state,
            locked,
            first,
            expires: Timestamp::default(),
        })
    }

    /// Counts `hits` at `now`.
    pub fn charge(&mut self, terms: &Terms, hits: Hits, now: Timestamp) -> (Observation, Done) {
        let most = self.most(terms, hits, now);
        let (observation, done) = if self.is_locked(now) {
            (self.locked(most, hits), Done::Nothing)
        } else {
            self.count(terms, most, hits, now)
        };
        // A gate is as long as what has opened it says.
        if terms.method.algorithm != Algorithm::Opened {
            self.expires = self.end(terms, &observation, now);
        }
        (observation, done)
    }

    /// What `hits` would see; nothing is counted.
    #[must_use]
    pub fn peek(&mut self, terms: &Terms, hits: Hits, now: Timestamp) -> Observation {
        let saved = self.save();
        let (observation, done) = self.charge(terms, hits, now);
        self.restore(saved, done);
        observation
    }

    /// Leaves behind what a refusal does, though nothing is counted: refuses
    /// everything for as long as `terms` say, and begins anew then; has been
    /// seen, where it warms up from then on.
    pub fn lock(&mut self, terms: &Terms, now: Timestamp) {
        if let (Some(warm_up), 0) = (terms.method.warm_up, self.first) {
            self.first = micros(now);
            let over = u64::from(warm_up.over) * 1_000_000;
            self.expires = self.expires.max(timestamp(self.first + over));
        }
        if terms.method.lockout == 0 || self.is_locked(now) {
            return;
        }
        self.state = State::Empty;
        self.locked = micros(now) + u64::from(terms.method.lockout) * 1_000_000;
        self.expires = self.expires.max(timestamp(self.locked));
    }

    /// From here on it says nothing any more.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// As if it had never been seen.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        let nothing = match &self.state {
            State::Empty => true,
            State::Window(cell) => cell.count == 0,
            State::Sliding(sliding) => sliding.count == 0 && sliding.last == 0,
            State::Log(log) => log.is_empty(),
            State::Bucket(bucket) => bucket.level == 0,
            State::Values(values) => values.is_empty(),
            State::Event(_) => false,
        };
        nothing && self.locked == 0 && self.first == 0
    }

    /// How many plain counters it is as large as, about; at least 1.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.state {
            State::Log(log) => 1 + log.len() / 2,
            State::Values(values) => 1 + values.weight(),
            _ => 1,
        }
    }

    /// Forgets a value that was just added; false if there was none.
    pub fn forget(&mut self, done: Done) -> bool {
        match (&mut self.state, done) {
            (State::Values(values), Done::Added(_)) => {
                values.undo(done);
                true
            }
            _ => false,
        }
    }

    /// The counter as it is, to be restored. Values are not copied: what was
    /// done to them is taken back.
    #[must_use]
    pub fn save(&mut self) -> Saved {
        let is_large = matches!(self.state, State::Values(_));
        let counter = if is_large {
            Self {
                state: State::Empty,
                ..*self
            }
        } else {
            self.clone()
        };
        Saved { counter, is_large }
    }

    /// Makes it as it was before `done` was done.
    pub fn restore(&mut self, saved: Saved, done: Done) {
        let Saved { counter, is_large } = saved;
        let state = std::mem::replace(self, counter).state;
        if is_large {
            self.state = state;
            if let State::Values(values) = &mut self.state {
                values.undo(done);
            }
        }
    }

    /// Above which count it is over.
    fn most(&mut self, terms: &Terms, hits: Hits, now: Timestamp) -> u64 {
        let most = terms.method.most(terms.limit);
        let Some(warm_up) = terms.method.warm_up else {
            return most;
        };
        if self.first == 0 && matches!(hits, Hits::Take(1..)) {
            self.first = micros(now);
        }
        let from = u64::from(warm_up.from);
        let elapsed = match self.first {
            0 => 0,
            first => micros(now).saturating_sub(first) / 1_000_000,
        };
        let over = u64::from(warm_up.over);
        if elapsed >= over || from >= most {
            most
        } else {
            from + muldiv(elapsed, most - from, over)
        }
    }

    fn is_locked(&self, now: Timestamp) -> bool {
        micros(now) < self.locked
    }

    /// While it is locked nothing is counted.
    fn locked(&self, most: u64, hits: Hits) -> Observation {
        let (resets, passes) = self.unlocks(most, hits);
        Observation {
            before: most,
            after: match hits {
                Hits::Take(hits) => most + hits.clamp(1, MOST_HITS),
                Hits::GiveBack(_) => most,
            },
            most,
            resets,
            passes,
            known: false,
        }
    }

    /// When it is not locked any more, and when `hits` pass.
    fn unlocks(&self, most: u64, hits: Hits) -> (Timestamp, Timestamp) {
        let until = timestamp(self.locked);
        let never = hits.amount() > most;
        (until, if never { Timestamp::MAX } else { until })
    }

    fn count(
        &mut self,
        terms: &Terms,
        most: u64,
        hits: Hits,
        now: Timestamp,
    ) -> (Observation, Done) {
        if self.locked > 0 {
            self.locked = 0;
            self.state = State::Empty;
        }
        let (mut observation, done) = self.step(terms, most, hits, now);
        let refuses = matches!(hits, Hits::Take(1..)) && observation.is_over();
        if refuses && terms.method.lockout > 0 {
            self.lock(terms, now);
            (observation.resets, observation.passes) = self.unlocks(most, hits);
        }
        (observation, done)
    }

    fn step(
        &mut self,
        terms: &Terms,
        most: u64,
        hits: Hits,
        now: Timestamp,
    ) -> (Observation, Done) {
        let window = terms.limit.window;
        let observation = match terms.method.algorithm {
            Algorithm::FixedWindow => {
                let old = match self.state {
                    State::Window(cell) => Some(cell),
                    _ => None,
                };
                let step = fixed_window(terms.limit, old, hits, now);
                self.state = State::Window(step.cell);
                windowed(step.observation, most, hits, now)
            }
            Algorithm::SlidingWindow => {
                let old = match self.state {
                    State::Sliding(sliding) => sliding,
                    _ => Sliding::default(),
                };
                let (new, observation) = sliding_window(window, most, old, hits, now);
                self.state = State::Sliding(new);
                observation
            }
            Algorithm::SlidingLog => {
                let mut log = match std::mem::take(&mut self.state) {
                    State::Log(log) => log,
                    _ => Log::new(),
                };
                let observation = sliding_log(window, most, &mut log, hits, now);
                self.state = State::Log(log);
                observation
            }
            Algorithm::Bucket { burst, .. } => {
                let old = match self.state {
                    State::Bucket(bucket) => bucket,
                    _ => Bucket::default(),
                };
                let (new, observation) = bucket(terms.limit, burst, most, old, hits, now);
                // Neither a refusal nor a look leaves a trace of rounding.
                let refused = matches!(hits, Hits::Take(_)) && observation.is_over();
                if !refused && hits.amount() > 0 {
                    self.state = State::Bucket(new);
                }
                observation
            }
            Algorithm::DistinctValues(distinct) => {
                let mut values = match std::mem::take(&mut self.state) {
                    State::Values(values) => values,
                    _ => Box::default(),
                };
                let answer = values.charge(window, most, distinct, terms.value, hits, now);
                self.state = State::Values(values);
                return answer;
            }
            Algorithm::Opened => gate::opened(window, self.event(), now),
            Algorithm::Event => {
                let (last, observation) = gate::event(self.event(), hits, now);
                self.state = last.map_or(State::Empty, State::Event);
                observation
            }
        };
        (observation, Done::Nothing)
    }

    fn event(&self) -> Option<u64> {
        match self.state {
            State::Event(last) => Some(last),
            _ => None,
        }
    }

    /// When the state says nothing any more.
    fn end(&self, terms: &Terms, observation: &Observation, now: Timestamp) -> Timestamp {
        let length = Ticks::of(terms.limit.window).micros();
        let after = |micros: u64| timestamp(micros.saturating_add(length));
        let of_state = match &self.state {
            State::Empty => Timestamp::default(),
            State::Window(cell) => cell.expires,
            State::Sliding(sliding) => after(sliding.start + length),
            State::Log(log) => log
                .back()
                .map_or(Timestamp::default(), |&(at, _)| after(at)),
            State::Bucket(_) => observation.resets,
            State::Values(_) => match terms.method.algorithm {
                Algorithm::DistinctValues(Distinct { remember, .. }) => observation
                    .resets
                    .max(timestamp(micros(now) + u64::from(remember) * 1_000_000)),
                _ => observation.resets,
            },
            State::Event(last) => after(*last),
        };
        // It is new again if it has not been seen for as long as that takes.
        let of_warm_up = match terms.method.warm_up {
            Some(warm_up) if self.first > 0 => {
                timestamp(micros(now) + u64::from(warm_up.over) * 1_000_000)
            }
            _ => Timestamp::default(),
        };
        of_state.max(of_warm_up).max(timestamp(self.locked))
    }
}

/// What a fixed window tells, held against `most`.
fn windowed(seen: Observation, most: u64, hits: Hits, now: Timestamp) -> Observation {
    let amount = hits.amount();
    let over = matches!(hits, Hits::Take(_)) && seen.after > most;
    Observation {
        most,
        passes: match (over, amount > most) {
            (false, _) => now,
            (true, true) => Timestamp::MAX,
            (true, false) => seen.resets,
        },
        ..seen
    }
}
