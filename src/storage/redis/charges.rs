//! Charges of windows and buckets that share a run of one script: what it is
//! told and what its reply means. Pure.
//!
//! Redis is asked to move the states on, and tells each counter's state before
//! the run. What each charge has seen is worked out of that here, in order of
//! arrival, by the arithmetic of the memory store. So a counter costs Redis one
//! read and one write however many charges wait for it.

use redis::Value;

use super::batch::{Part, Refused, Seen};
use crate::engine::algorithm::{
    Counter,
    elsewhere::{Numbers, hits_told},
};

/// Charges on some counters, for one run of the script.
#[derive(Debug)]
pub(super) struct Charges {
    /// Each counter, in the order of the script's keys.
    counters: Vec<Charge>,
    /// The item of each charge and the place of its counter, in order of
    /// arrival.
    arrivals: Vec<(usize, usize)>,
}

/// What is charged, and in which terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    hash: u128,
    /// Without the time of a single charge.
    limit: Numbers,
}

/// Counters of a run: Redis does nothing else meanwhile.
const MOST_COUNTERS: usize = 64;
/// Charges of a run.
const MOST_CHARGES: usize = 256;
/// Numbers that a limit is told in.
const LIMIT: u64 = 10;
/// Bytes of a state: what [`Counter::from_bytes`] reads, and until when Redis
/// keeps it.
const STATE: usize = 48;

// === impl Charge ===

impl Charge {
    /// The charge of `part`, where that is one of these: a window or a bucket.
    pub(super) fn of(part: &Part) -> Option<Self> {
        let special = part.special.as_ref()?;
        let limit = special.terms.numbers(special.now);
        kind(&limit)?;
        Some(Self {
            hash: part.key.hash,
            limit: Numbers {
                now: 0,
                // A bucket knows no windows.
                start: if limit.kind == b'b' { 0 } else { limit.start },
                ..limit
            },
        })
    }

    /// Of the key's hash.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }
}

// === impl Charges ===

impl Charges {
    /// The first of a run.
    pub(super) fn new(item: usize, charge: Charge) -> Self {
        Self {
            counters: vec![charge],
            arrivals: vec![(item, 0)],
        }
    }

    /// Adds one and says which of the run it is; `None` if it needs another
    /// run: this is full, or charges that counter in other terms.
    pub(super) fn join(&mut self, item: usize, charge: Charge) -> Option<usize> {
        if self.arrivals.len() == MOST_CHARGES {
            return None;
        }
        let known = self.counters.iter();
        let place = match known.rev().position(|other| other.hash == charge.hash) {
            Some(from_behind) => self.counters.len() - 1 - from_behind,
            None if self.counters.len() == MOST_COUNTERS => return None,
            None => {
                self.counters.push(charge);
                self.counters.len() - 1
            }
        };
        if self.counters[place].limit != charge.limit {
            return None;
        }
        self.arrivals.push((item, place));
        Some(self.arrivals.len() - 1)
    }

    /// The items of its charges, in order of arrival.
    pub(super) fn items(&self) -> impl Iterator<Item = usize> {
        self.arrivals.iter().map(|(item, _)| *item)
    }

    /// An item of each counter, in the order of the script's keys.
    pub(super) fn keys(&self) -> Vec<usize> {
        let mut keys = Vec::with_capacity(self.counters.len());
        for (item, place) in &self.arrivals {
            if *place == keys.len() {
                keys.push(*item);
            }
        }
        keys
    }

    /// What the script is told of `parts`, the parts of its items: where in all
    /// these numbers the counters begin; every limit there is (`LIMIT` numbers);
    /// then for each counter where its limit is, how many charges, and of each
    /// when and how many hits, with a minus where they are given back.
    pub(super) fn text(&self, parts: &[&Part]) -> Vec<u8> {
        let mut limits: Vec<Numbers> = vec![];
        let of_counters = self.counters.iter().map(|counter| {
            let known = limits.iter().position(|limit| *limit == counter.limit);
            known.unwrap_or_else(|| {
                limits.push(counter.limit);
                limits.len() - 1
            })
        });
        let of_counters: Vec<usize> = of_counters.collect();
        let mut by_counter: Vec<(usize, &Part)> = self
            .arrivals
            .iter()
            .zip(parts)
            .map(|((_, place), part)| (*place, *part))
            .collect();
        by_counter.sort_by_key(|(place, _)| *place);
        let mut text = Text::default();
        // Numbers are counted from 1, as Lua does.
        let at = |limit: usize| 2 + LIMIT * limit as u64;
        text.put(at(limits.len()));
        for limit in &limits {
            text.put_limit(limit);
        }
        let groups = by_counter.chunk_by(|(one, _), (other, _)| one == other);
        for (group, limit) in groups.zip(of_counters) {
            text.put(at(limit));
            text.put(group.len() as u64);
            for (_, part) in group {
                text.put_charge(part);
            }
        }
        text.0
    }

    /// What each of `parts`, the parts of its items, has seen.
    pub(super) fn sights(
        &self,
        reply: Option<Value>,
        parts: &[&Part],
    ) -> Result<Vec<Seen>, Refused> {
        let states = match reply {
            Some(Value::BulkString(states)) if states.len() == STATE * self.counters.len() => {
                states
            }
            Some(Value::ServerError(error)) => return Err(Refused::Server(error)),
            _ => return Err(Refused::Nonsense),
        };
        let mut counters: Vec<Option<Counter>> = vec![None; self.counters.len()];
        let states: Vec<&[u8]> = states.chunks(STATE).collect();
        let arrivals = self.arrivals.iter().zip(parts);
        let seen = arrivals.map(|((_, place), part)| {
            let special = part.special.as_ref()?;
            let counter = match &mut counters[*place] {
                Some(counter) => counter,
                none => {
                    let algorithm = special.terms.method.algorithm;
                    none.insert(Counter::from_bytes(algorithm, states[*place])?)
                }
            };
            let (told, _) = counter.charge(&special.terms, part.hits(), special.now);
            Some(Seen {
                before: told.before,
                after: told.after,
                special: Some(told),
            })
        });
        let seen: Option<Vec<Seen>> = seen.collect();
        seen.ok_or(Refused::Nonsense)
    }
}

/// Which of the script's steps counts it.
fn kind(limit: &Numbers) -> Option<u64> {
    match limit.kind {
        b'f' => Some(1),
        b's' => Some(2),
        b'b' => Some(3),
        _ => None,
    }
}

/// Numbers in 64-bit floating point, low byte first.
#[derive(Debug, Default)]
struct Text(Vec<u8>);

#[allow(
    clippy::cast_precision_loss,
    reason = "what is told to a script is below 2⁵³"
)]
impl Text {
    fn put(&mut self, number: u64) {
        self.0.extend_from_slice(&(number as f64).to_le_bytes());
    }

    fn put_limit(&mut self, limit: &Numbers) {
        self.put(kind(limit).unwrap_or_default());
        self.put(limit.full);
        self.put(limit.requests.into());
        self.put(limit.tick);
        self.put(limit.length);
        self.put(limit.start);
        self.put(limit.ends);
        self.put(limit.lockout);
        let (from, over) = limit
            .warm_up
            .map_or((-1.0, 0), |(from, over)| (from.into(), over.into()));
        self.0.extend_from_slice(&f64::to_le_bytes(from));
        self.put(over);
    }

    fn put_charge(&mut self, part: &Part) {
        let now = part
            .special
            .as_ref()
            .map_or(0, |special| special.terms.numbers(special.now).now);
        self.put(now);
        let hits = hits_told(part.hits()) as f64;
        let hits = if part.gives_back { -hits } else { hits };
        self.0.extend_from_slice(&hits.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            algorithm::{Algorithm, Method, counter::Terms},
            limit::{Limit, Unit, Window},
            plan::Refuses,
            time::Timestamp,
        },
        storage::redis::batch::{Key, Special},
    };

    /// A hit of a token bucket of 3, of so many a minute.
    fn part(counter: u8, requests: u32) -> Part {
        let now = Timestamp::from_secs(1_800_000_000);
        let algorithm = Algorithm::Bucket {
            burst: 3,
            max_queue: 0,
        };
        let terms = Terms {
            method: Method::plain(algorithm),
            limit: Limit {
                requests,
                window: Window::of(Unit::Minute),
            },
            value: 0,
        };
        Part {
            key: Key {
                bytes: Box::new([counter]),
                hash: counter.into(),
                ttl: 0,
            },
            gives_back: false,
            hits: 1,
            limit: requests,
            resets: now,
            refuses: Refuses::Alone,
            special: Some(Box::new(Special {
                terms,
                now,
                value: [0; 16],
            })),
        }
    }

    fn charge(part: &Part) -> Charge {
        Charge::of(part).expect("a bucket")
    }

    fn state(level: f64) -> Vec<u8> {
        let at = 1_800_000_000_000_000.0;
        let numbers = [level * 1_036_800.0, at, 0.0, 0.0, 0.0, 0.0];
        numbers.into_iter().flat_map(f64::to_le_bytes).collect()
    }

    #[test]
    fn charges_of_a_counter_see_one_another_in_order_of_arrival() {
        let parts = [part(7, 60), part(8, 60), part(7, 60), part(7, 60)];
        let mut charges = Charges::new(0, charge(&parts[0]));
        let rest = parts[1..].iter().zip(1..);
        let places = rest.map(|(part, item)| charges.join(item, charge(part)));
        assert!(places.eq([Some(1), Some(2), Some(3)]));
        assert_eq!(charges.keys(), [0, 1]);
        let parts: Vec<&Part> = parts.iter().collect();
        let reply = [state(1.0), state(0.0)].concat();
        let seen = charges.sights(Some(Value::BulkString(reply)), &parts);
        let seen = seen.expect("states");
        let counts: Vec<_> = seen.iter().map(|seen| (seen.before, seen.after)).collect();
        assert_eq!(counts, [(1, 2), (0, 1), (2, 3), (3, 4)]);
        let over = |seen: &Seen| seen.special.expect("a bucket").is_over();
        assert!(over(&seen[3]) && !over(&seen[2]));
    }

    #[test]
    fn other_terms_and_too_many_need_another_run() {
        let mut charges = Charges::new(0, charge(&part(0, 60)));
        assert!(charges.join(1, charge(&part(0, 61))).is_none());
        for counter in 1..64 {
            assert!(charges.join(1, charge(&part(counter, 60))).is_some());
        }
        assert!(charges.join(1, charge(&part(64, 60))).is_none());
        for _ in 64..MOST_CHARGES {
            assert!(charges.join(1, charge(&part(3, 60))).is_some());
        }
        assert!(charges.join(1, charge(&part(3, 60))).is_none());
    }

    #[test]
    fn nonsense_is_no_state() {
        let part = part(7, 60);
        let charges = Charges::new(0, charge(&part));
        let negative = state(-1.0);
        let half = vec![0; STATE - 1];
        for reply in [negative, half] {
            let seen = charges.sights(Some(Value::BulkString(reply)), &[&part]);
            assert!(matches!(seen, Err(Refused::Nonsense)));
        }
        for reply in [None, Some(Value::Nil), Some(Value::Int(1))] {
            assert!(charges.sights(reply, &[&part]).is_err());
        }
    }
}
