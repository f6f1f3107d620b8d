//! Simulated processes share a simulated store: whatever they and it do, no
//! window admits more than its limit.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::{HashMap, VecDeque};

use super::*;

const NANOS: u64 = 1_000_000_000;

/// Pseudo-random numbers: the seed tells the whole story of a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// `INCRBY`, and nothing else.
#[derive(Default)]
struct Store {
    counts: HashMap<u128, u64>,
    commands: u64,
    /// Counts as a replica knows them.
    replica: HashMap<u128, u64>,
    /// Hits that a failover has lost, by key.
    lost: HashMap<u128, u64>,
}

impl Store {
    fn incr_by(&mut self, key: u128, by: u64) -> u64 {
        self.commands += 1;
        let count = self.counts.entry(key).or_default();
        *count += by;
        *count
    }

    fn replicate(&mut self) {
        self.replica.clone_from(&self.counts);
    }

    fn fail_over(&mut self) {
        for (key, count) in &self.counts {
            let kept = self.replica.get(key).copied().unwrap_or(0);
            *self.lost.entry(*key).or_default() += count - kept;
        }
        self.counts.clone_from(&self.replica);
    }
}

/// A lane: one flush in flight, one counter.
struct Process {
    leases: Leases,
    queue: Vec<u64>,
    /// What is in flight: who waits, in order, and the store's reply.
    flush: Option<(Vec<u64>, u128, Terms, u64, u64)>,
}

#[derive(Clone, Copy)]
struct World {
    limit: u32,
    window: u64,
    holders: u64,
    /// Chances in percent, at each step.
    crash: u64,
    lose_reply: u64,
    fail_over: u64,
}

impl World {
    fn terms(&self, now: Timestamp) -> (u128, Terms) {
        let start = now.as_nanos() / self.window * self.window;
        let resets = Timestamp::from_nanos(start + self.window);
        let terms = Terms {
            limit: self.limit,
            resets,
            leased: true,
        };
        (start.into(), terms)
    }
}

impl Process {
    fn new() -> Self {
        Self {
            leases: Leases::new(100),
            queue: vec![],
            flush: None,
        }
    }

    /// A hit arrives; says how many are admitted now.
    fn hit(&mut self, world: &World, hits: u64, now: Timestamp) -> u64 {
        let (key, terms) = world.terms(now);
        match self.leases.spend(key, hits, terms, now) {
            Some(seen) => {
                assert!(seen.after <= terms.limit.into(), "spent beyond the limit");
                assert_eq!(seen.after - seen.before, hits);
                hits
            }
            None => {
                self.queue.push(hits);
                0
            }
        }
    }

    fn send(&mut self, world: &World, store: &mut Store, now: Timestamp) {
        if self.flush.is_some() || self.queue.is_empty() {
            return;
        }
        let (key, terms) = world.terms(now);
        let waiting = std::mem::take(&mut self.queue);
        let sum = waiting.iter().sum();
        let extra = self.leases.extra(key, terms, sum, world.holders, now);
        let reply = store.incr_by(key, sum + extra);
        self.flush = Some((waiting, key, terms, reply, extra));
    }

    /// The reply comes; hits admitted, and of which window.
    fn receive(&mut self) -> (u128, u64) {
        let Some((waiting, key, terms, reply, extra)) = self.flush.take() else {
            return (0, 0);
        };
        let mut position = reply - extra - waiting.iter().sum::<u64>();
        let mut admitted = 0;
        for hits in waiting {
            position += hits;
            if position <= terms.limit.into() {
                admitted += hits;
            }
        }
        self.leases.grant(key, terms, reply, extra);
        (key, admitted)
    }
}

struct Outcome {
    admitted: HashMap<u128, u64>,
    asked: HashMap<u128, u64>,
    store: Store,
}

/// `pressure`: hits offered in a window, for each hit of the limit, in
/// percent.
fn simulate(seed: u64, world: World, processes: usize, pressure: u64, windows: u64) -> Outcome {
    let mut random = Random(seed | 1);
    let mut all: Vec<Process> = (0..processes).map(|_| Process::new()).collect();
    let mut out = Outcome {
        admitted: HashMap::new(),
        asked: HashMap::new(),
        store: Store::default(),
    };
    let hits_offered = (u64::from(world.limit) * pressure / 100).clamp(50, 4_000);
    let steps = hits_offered * windows;
    let pace = world.window / hits_offered.max(1);
    let mut now = Timestamp::from_nanos(world.window * 1_000 + random.below(world.window));
    let mut arrivals: VecDeque<usize> = VecDeque::new();
    for _ in 0..steps {
        // Bursts: some of the time nothing comes, then all at once.
        let wait = if random.chance(20) {
            pace * random.below(5)
        } else {
            pace
        };
        now = now.saturating_add(Duration::from_nanos(wait));
        if random.chance(2) {
            // To the very edge of the window.
            let (_, terms) = world.terms(now);
            now = Timestamp::from_nanos(terms.resets.as_nanos() - random.below(2));
        }
        for _ in 0..=random.below(3) {
            let who = if random.chance(50) {
                0
            } else {
                random.below(processes as u64) as usize
            };
            arrivals.push_back(who);
        }
        while let Some(who) = arrivals.pop_front() {
            let hits = match random.below(20) {
                0 => random.below(u64::from(world.limit) + 2),
                1 => random.below(10),
                _ => 1,
            };
            let (key, _) = world.terms(now);
            *out.asked.entry(key).or_default() += hits;
            let admitted = all[who].hit(&world, hits, now);
            *out.admitted.entry(key).or_default() += admitted;
        }
        for process in &mut all {
            if random.chance(60) {
                process.send(&world, &mut out.store, now);
            }
            if random.chance(world.lose_reply) && process.flush.is_some() {
                // Counted, and nobody was told: their calls have failed.
                process.flush = None;
                process.leases.clear();
            }
            if random.chance(60) {
                let (key, admitted) = process.receive();
                *out.admitted.entry(key).or_default() += admitted;
            }
            if random.chance(world.crash) {
                *process = Process::new();
            }
            let balances: u64 = process
                .leases
                .leases
                .values()
                .map(|lease| lease.balance)
                .sum();
            assert_eq!(balances, process.leases.outstanding(), "seed {seed}");
        }
        if random.chance(30) {
            out.store.replicate();
        }
        if random.chance(world.fail_over) {
            out.store.fail_over();
        }
    }
    out
}

fn world(random: &mut Random) -> World {
    World {
        limit: [0, 1, 3, 10, 100, 1_000][random.below(6) as usize],
        window: [1, 10, 60, 3_600][random.below(4) as usize] * NANOS,
        holders: random.below(9),
        crash: random.below(3),
        lose_reply: random.below(5),
        fail_over: 0,
    }
}

#[test]
fn no_window_admits_more_than_its_limit() {
    for seed in 1..=2_000 {
        let mut random = Random(seed * 7_919);
        let world = world(&mut random);
        let processes = 1 + random.below(8) as usize;
        let out = simulate(seed, world, processes, 300, 2);
        for (window, admitted) in out.admitted {
            assert!(
                admitted <= world.limit.into(),
                "seed {seed}: {admitted} of {} in window {window}",
                world.limit
            );
        }
    }
}

#[test]
fn a_failover_costs_no_more_than_the_hits_it_loses() {
    let mut lost_some = 0;
    for seed in 1..=1_000 {
        let mut random = Random(seed * 104_729);
        let world = World {
            fail_over: 1,
            ..world(&mut random)
        };
        let out = simulate(seed, world, 1 + random.below(4) as usize, 300, 2);
        for (window, admitted) in out.admitted {
            let lost = out.store.lost.get(&window).copied().unwrap_or(0);
            lost_some += u64::from(lost > 0);
            assert!(
                admitted <= u64::from(world.limit) + lost,
                "seed {seed}: {admitted} of {} in window {window}, {lost} lost",
                world.limit
            );
        }
    }
    assert!(lost_some > 100, "only {lost_some} windows lost anything");
}

/// Steady demand of single hits at `rate` a second, from each process.
fn steady(limit: u32, processes: usize, rate: u64, windows: u64) -> Outcome {
    let world = World {
        limit,
        window: NANOS,
        holders: processes as u64,
        crash: 0,
        lose_reply: 0,
        fail_over: 0,
    };
    let mut all: Vec<Process> = (0..processes).map(|_| Process::new()).collect();
    let mut out = Outcome {
        admitted: HashMap::new(),
        asked: HashMap::new(),
        store: Store::default(),
    };
    let start = 1_000 * NANOS;
    let round_trip = 200_000;
    let each = NANOS / rate;
    let mut next_reply = vec![u64::MAX; processes];
    for step in 0..rate * windows {
        let at = start + step * each;
        let now = Timestamp::from_nanos(at);
        let (key, _) = world.terms(now);
        for (process, due) in all.iter_mut().zip(&mut next_reply) {
            *out.asked.entry(key).or_default() += 1;
            *out.admitted.entry(key).or_default() += process.hit(&world, 1, now);
            if at >= *due {
                let (key, admitted) = process.receive();
                *out.admitted.entry(key).or_default() += admitted;
                *due = u64::MAX;
            }
            if process.flush.is_none() && !process.queue.is_empty() {
                process.send(&world, &mut out.store, now);
                *due = at + round_trip;
            }
        }
    }
    out
}

#[test]
fn most_of_the_limit_is_admitted_where_demand_is_twice_as_much() {
    let limit = 20_000;
    let out = steady(limit, 4, 10_000, 5);
    let mut windows: Vec<_> = out.admitted.into_iter().collect();
    windows.sort_unstable();
    // What was in flight at the end is missing from the last one.
    windows.pop();
    assert_eq!(windows.len(), 4);
    for (window, admitted) in windows {
        let share = admitted * 100 / u64::from(limit);
        assert!((95..=100).contains(&share), "{share} % in window {window}");
    }
}

#[test]
fn a_hot_counter_is_decided_here() {
    let out = steady(u32::MAX, 2, 100_000, 2);
    let asked: u64 = out.asked.values().sum();
    assert!(
        out.store.commands * 100 <= asked,
        "{} commands for {asked} hits",
        out.store.commands
    );
}

const TERMS: Terms = Terms {
    limit: 1_000,
    resets: Timestamp::from_secs(60),
    leased: true,
};

/// A lease of 100 hits, up to the count 100.
fn leased(terms: Terms) -> Leases {
    let mut leases = Leases::new(10);
    let at = Timestamp::from_secs(1);
    assert_eq!(leases.extra(1, terms, 5, 1, at), 0, "no rate is known");
    leases.grant(1, terms, 5, 0);
    leases.grant(1, terms, 105, 100);
    leases
}

#[test]
fn belongs_to_one_limit_and_one_window() {
    let at = Timestamp::from_secs(2);
    let other = Terms {
        limit: 2_000,
        ..TERMS
    };
    for (terms, now, expected) in [
        (TERMS, at, true),
        (other, at, false),
        (TERMS, TERMS.resets, false),
    ] {
        let mut leases = leased(TERMS);
        assert_eq!(leases.spend(1, 1, terms, now).is_some(), expected);
        assert_eq!(leases.outstanding(), if expected { 99 } else { 0 });
    }
}

#[test]
fn hits_beyond_the_balance_go_to_the_store() {
    let mut leases = leased(TERMS);
    let at = Timestamp::from_secs(2);
    assert_eq!(leases.spend(1, 101, TERMS, at), None);
    let seen = leases.spend(1, 40, TERMS, at).expect("covered");
    assert_eq!((seen.before, seen.after), (5, 45));
    assert_eq!(leases.balance(1), 60);
}

#[test]
fn only_what_is_within_the_limit_is_kept() {
    for (reply, extra, kept) in [
        (1_000, 10, 10),
        (1_005, 10, 5),
        (1_010, 10, 0),
        (2_000, 10, 0),
    ] {
        let mut leases = Leases::new(10);
        leases.extra(1, TERMS, 1, 1, Timestamp::from_secs(1));
        leases.grant(1, TERMS, reply, extra);
        assert_eq!(leases.outstanding(), kept, "{extra} up to {reply}");
    }
}

#[test]
fn a_store_that_forgets_does_not_confuse() {
    let mut leases = leased(TERMS);
    leases.grant(1, TERMS, 3, 3);
    let at = Timestamp::from_secs(2);
    let seen = leases.spend(1, 103, TERMS, at).expect("all that was taken");
    assert_eq!((seen.before, seen.after), (0, 103));
}

#[test]
fn are_bounded_and_swept() {
    let mut leases = Leases::new(2_000);
    for key in 0..5_000 {
        let resets = Timestamp::from_secs(10 + key as u64 / 1_000);
        leases.extra(
            key,
            Terms { resets, ..TERMS },
            1,
            1,
            Timestamp::from_secs(1),
        );
    }
    assert_eq!(leases.leases.len(), 2_000);
    leases.extra(9_999, TERMS, 1, 1, Timestamp::from_secs(30));
    assert_eq!(leases.leases.len(), 1, "ended windows make room");
}
