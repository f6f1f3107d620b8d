//! Simulated processes share a simulated store: whatever they and it do, no
//! window admits more than its limit. Flushes are the real ones; the store
//! reads the commands as they are sent. A seed tells the whole story of a run.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::{collections::HashMap, ops::Range};

use redis::{Arg, Pipeline, Value};

use super::*;
use crate::storage::redis::{
    batch::{Advice, Flush, Item, Key, News, Newsroom, Work},
    scripts::Scripts,
};

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
const SECONDS: u64 = 1_000_000_000;
/// When windows of any length begin.
const START: u64 = 999_997_200 * SECONDS;

/// What a run is like.
#[derive(Clone, Debug)]
struct World {
    processes: usize,
    /// How many lanes the processes believe to share a counter.
    holders: u64,
    counters: u64,
    limit: u32,
    /// Some hits are held against half the limit, or twice.
    limits_differ: bool,
    window: u64,
    /// One way, in nanoseconds.
    latency: Range<u64>,
    /// The largest hits; most are 1.
    largest: u64,
    /// The rest are chances at each arrival, in a thousand.
    refund: u64,
    crash: u64,
    /// The connection is lost, or the process has given up waiting.
    cut: u64,
    fail_over: u64,
    /// Changes that a failover forgets, at most.
    forgets: u64,
}

/// Hits of one window of one counter.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    offered: u64,
    admitted: u64,
    refused: u64,
    /// Nobody knows what became of them.
    failed: u64,
    /// Those admitted by leases.
    leased: u64,
    /// Off the count, by refunds and failovers.
    taken_off: u64,
    arrivals: u64,
}

type Tallies = HashMap<u128, Tally>;

/// One take, for the one who waits for it.
#[derive(Clone, Copy, Debug)]
struct Hit {
    key: u128,
    hits: u64,
    limit: u32,
}

#[derive(Default)]
struct Store {
    counts: HashMap<u128, u64>,
    journal: Vec<(u128, u64)>,
    commands: u64,
}

/// A process with one lane.
struct Process {
    leases: Leases,
    /// What was over at the count given.
    known_over: HashMap<u128, u64>,
    queue: Vec<Item<Hit>>,
    flying: Option<usize>,
    /// Hits that it may own by the store's book, and has not spent.
    owned: HashMap<u128, u64>,
}

/// A flush on its way.
struct Flight {
    process: usize,
    flush: Flush<Hit>,
    /// What is taken in advance, as the process told.
    extras: Vec<(u128, u64)>,
    arrives: bool,
    /// Its process has forgotten it.
    is_lost: bool,
    done: Option<Done>,
}

/// What the store did.
struct Done {
    replies: Vec<Value>,
    /// What each item has to be told.
    told: Vec<Seen>,
    /// Positions that nobody waits for: key, first one's predecessor, last.
    advance: Vec<(u128, u64, u64)>,
}

struct Simulation {
    world: World,
    random: Random,
    now: u64,
    store: Store,
    processes: Vec<Process>,
    flights: Vec<Option<Flight>>,
    /// When a flight reaches the store, and later its process.
    events: BinaryHeap<Reverse<(u64, usize)>>,
    tallies: Tallies,
}

struct Adviser<'a> {
    leases: &'a mut Leases,
    holders: u64,
    now: Timestamp,
    extras: Vec<(u128, u64)>,
}

/// Pseudo-random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    fn of<T: Clone>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize].clone()
    }

    fn happens(&mut self, in_a_thousand: u64) -> bool {
        self.below(1_000) < in_a_thousand
    }
}

impl Advice for Adviser<'_> {
    fn is_one_slot(&self) -> bool {
        true
    }

    fn is_first(&mut self, _: &Key) -> bool {
        false
    }

    fn extra(&mut self, key: &Key, terms: Terms, waiting: u64) -> u64 {
        let hash = key.hash;
        let (holders, now) = (self.holders, self.now);
        let extra = self.leases.extra(hash, terms, waiting, holders, now);
        let most = u64::from(terms.limit) / (holders.max(1) * KEPT_BACK);
        assert!(extra + self.leases.balance(hash) <= most.max(self.leases.balance(hash)));
        self.extras.push((hash, extra));
        extra
    }
}

impl Store {
    /// Runs the commands of `pipeline`; says what was counted for each.
    fn run(&mut self, pipeline: &Pipeline) -> Vec<Value> {
        let mut replies = vec![];
        for command in pipeline.cmd_iter() {
            let args: Vec<&[u8]> = command
                .args_iter()
                .map(|arg| match arg {
                    Arg::Simple(bytes) => bytes,
                    _ => panic!("no cursors here"),
                })
                .collect();
            replies.push(Value::Int(self.run_one(&args) as i64));
        }
        replies
    }

    /// The count after it; that of a refund may be negative.
    fn run_one(&mut self, args: &[&[u8]]) -> i128 {
        self.commands += 1;
        let (key, by) = match args[0] {
            b"INCRBY" => (args[1], number(args[2])),
            b"EVAL" => (args[3], -number(args[4])),
            _ => panic!("an unknown command"),
        };
        let key = u128::from_be_bytes(key.try_into().expect("16 bytes"));
        let count = self.counts.entry(key).or_default();
        let after = i128::from(*count) + by;
        *count = u64::try_from(after.max(0)).expect("a small count");
        if by > 0 {
            self.journal.push((key, u64::try_from(by).expect("more")));
        }
        after
    }

    /// Forgets the last increments.
    fn fail_over(&mut self, forgets: u64, tallies: &mut Tallies) {
        for _ in 0..forgets {
            let Some((key, by)) = self.journal.pop() else {
                return;
            };
            let count = self.counts.entry(key).or_default();
            let lost = by.min(*count);
            *count -= lost;
            tallies.entry(key).or_default().taken_off += lost;
        }
    }
}

fn number(text: &[u8]) -> i128 {
    std::str::from_utf8(text)
        .expect("digits")
        .parse()
        .expect("a number")
}

impl Process {
    fn new() -> Self {
        Self {
            leases: Leases::new(1_000),
            known_over: HashMap::new(),
            queue: vec![],
            flying: None,
            owned: HashMap::new(),
        }
    }

    fn hear_of_refund(&mut self, key: u128) {
        self.known_over.remove(&key);
        self.leases.forget(key);
        self.owned.remove(&key);
    }

    fn give_up_leases(&mut self) {
        self.leases.clear();
        self.owned.clear();
    }
}

impl Simulation {
    fn new(seed: u64, world: World) -> Self {
        Self {
            random: Random(seed),
            now: 0,
            store: Store::default(),
            processes: (0..world.processes).map(|_| Process::new()).collect(),
            flights: vec![],
            events: BinaryHeap::new(),
            tallies: Tallies::new(),
            world,
        }
    }

    /// Hits arrive at these times, at these processes.
    fn play(mut self, arrivals: impl IntoIterator<Item = (u64, usize)>) -> Self {
        for (at, process) in arrivals {
            self.advance_to(at);
            self.make_trouble();
            if self.random.happens(self.world.refund) {
                self.give_back(process);
            } else {
                self.take(process);
            }
            self.check(process);
        }
        self.advance_to(u64::MAX);
        for tally in self.tallies.values() {
            let answered = tally.admitted + tally.refused + tally.failed;
            assert_eq!(answered, tally.offered, "{tally:?}");
        }
        self
    }

    fn advance_to(&mut self, at: u64) {
        while let Some(Reverse((due, flight))) = self.events.peek().copied() {
            if due > at {
                break;
            }
            self.events.pop();
            self.now = due;
            self.fly_on(flight);
        }
        self.now = at;
    }

    fn fly_on(&mut self, number: usize) {
        let Some(mut flight) = self.flights[number].take() else {
            return;
        };
        if flight.done.is_some() {
            if !flight.is_lost {
                let process = flight.process;
                self.land(flight);
                self.check(process);
                self.send(process);
            }
            return;
        }
        if flight.arrives {
            let newsroom = Newsroom {
                channel: "".into(),
                name: "".into(),
            };
            let pipeline = flight.flush.pipeline(&newsroom, &Scripts::default());
            flight.done = Some(self.execute(&flight, &pipeline));
            let back = self.now + self.random.within(&self.world.latency);
            self.events.push(Reverse((back, number)));
            self.flights[number] = Some(flight);
        }
    }

    /// What the store does, and an account of it that owes nothing to the
    /// code under test: each item by itself, in order.
    fn execute(&mut self, flight: &Flight, pipeline: &Pipeline) -> Done {
        let mut counts = self.store.counts.clone();
        let replies = self.store.run(pipeline);
        let mut told = vec![];
        let mut extras = flight.extras.clone();
        let mut advance = vec![];
        let items = flight.flush.items();
        for (index, item) in items.iter().enumerate() {
            let key = item.tag.key;
            let count = counts.entry(key).or_default();
            let before = *count;
            match &item.work {
                Work::Take(_, hits, _) => *count += hits,
                Work::GiveBack(_, hits, _) => *count = count.saturating_sub(*hits),
                Work::Together(_) => panic!("not here"),
            }
            let after = *count;
            told.push(Seen::of(before, after));
            let later = items[index + 1..].iter();
            let run_goes_on = later
                .filter(|later| later.tag.key == key)
                .map(|later| matches!(later.work, Work::Take(..)))
                .next()
                == Some(true);
            if matches!(item.work, Work::Take(..)) {
                if !run_goes_on {
                    let next = extras.iter().position(|(of, _)| *of == key);
                    let (_, extra) = extras.remove(next.expect("asked for each run"));
                    advance.push((key, after, after + extra));
                    *count += extra;
                }
            } else {
                self.tallies.entry(key).or_default().taken_off += before - after;
                for process in &mut self.processes {
                    process.hear_of_refund(key);
                }
            }
        }
        assert_eq!(counts, self.store.counts, "counted as if one by one");
        Done {
            replies,
            told,
            advance,
        }
    }

    /// The reply is there.
    fn land(&mut self, flight: Flight) {
        let process = &mut self.processes[flight.process];
        process.flying = None;
        let Some(done) = flight.done else { return };
        let mut advance = done.advance;
        let mut told = done.told.into_iter();
        let tallies = &mut self.tallies;
        let mut given_back = vec![];
        let Process {
            leases,
            known_over,
            owned,
            ..
        } = process;
        flight.flush.settle(
            done.replies,
            |news| {
                let News::Granted(granted) = news else { return };
                let next = advance.iter().position(|(key, ..)| *key == granted.hash);
                let (key, from, to) = advance.remove(next.expect("one for each run"));
                assert_eq!((granted.reply, granted.extra), (to, to - from));
                let limit = u64::from(granted.terms.limit);
                *owned.entry(key).or_default() += to.min(limit) - from.min(limit);
                leases.grant(granted.hash, granted.terms, granted.reply, granted.extra);
            },
            |item, sight| {
                let seen = sight.expect("no errors here")[0];
                assert_eq!(Some(seen), told.next(), "its position, no other");
                let Hit { key, hits, limit } = item.tag;
                if matches!(item.work, Work::GiveBack(..)) {
                    given_back.push(key);
                    return;
                }
                let tally = tallies.entry(key).or_default();
                if seen.after <= limit.into() {
                    tally.admitted += hits;
                } else {
                    tally.refused += hits;
                }
                if seen.after >= limit.into() {
                    known_over.insert(key, seen.after);
                }
            },
        );
        assert_eq!(told.next(), None, "everybody is told");
        for key in given_back {
            process.hear_of_refund(key);
        }
    }

    fn hit(&mut self, hits: u64) -> (Hit, Terms) {
        let start = self.now / self.world.window * self.world.window;
        let counter = self.random.below(self.world.counters);
        let limit = match self.world.limits_differ {
            true => self.random.of(&[
                self.world.limit / 2,
                self.world.limit,
                self.world.limit.saturating_mul(2),
            ]),
            false => self.world.limit,
        };
        let key = (u128::from(counter) << 64) | u128::from(start);
        let terms = Terms {
            limit,
            resets: Timestamp::from_nanos(start + self.world.window),
            leased: true,
        };
        (Hit { key, hits, limit }, terms)
    }

    fn take(&mut self, process: usize) {
        let hits = match self.world.largest {
            1 => 1,
            largest if self.random.happens(200) => 1 + self.random.below(largest),
            _ => 1,
        };
        let (hit, terms) = self.hit(hits);
        let Hit { key, limit, .. } = hit;
        let now = Timestamp::from_nanos(self.now);
        let tally = self.tallies.entry(key).or_default();
        tally.offered += hits;
        tally.arrivals += 1;
        let at = &mut self.processes[process];
        if let Some(seen) = at.leases.spend(key, hits, terms, now) {
            assert_eq!(seen.after - seen.before, hits);
            assert!(seen.after <= limit.into(), "within its own limit");
            let owned = at.owned.get_mut(&key).expect("owns some");
            *owned = owned.checked_sub(hits).expect("owns as many");
            tally.admitted += hits;
            tally.leased += hits;
            return;
        }
        let count = at.known_over.get(&key);
        if count.is_some_and(|count| *count >= limit.into()) {
            tally.refused += hits;
            return;
        }
        self.queue(process, hit, |key| Work::Take(key, hits, terms));
    }

    fn give_back(&mut self, process: usize) {
        let hits = self.random.below(5);
        let (hit, terms) = self.hit(hits);
        self.queue(process, hit, |key| Work::GiveBack(key, hits, terms));
    }

    fn queue(&mut self, process: usize, tag: Hit, work: impl FnOnce(Key) -> Work) {
        let key = Key {
            bytes: Box::new(tag.key.to_be_bytes()),
            hash: tag.key,
            ttl: 60,
        };
        self.processes[process].queue.push(Item {
            tag,
            work: work(key),
            asking: false,
            redirects: 0,
        });
        self.send(process);
    }

    fn send(&mut self, number: usize) {
        let process = &mut self.processes[number];
        if process.flying.is_some() || process.queue.is_empty() {
            return;
        }
        process.leases.next_flush();
        let mut adviser = Adviser {
            leases: &mut process.leases,
            holders: self.world.holders,
            now: Timestamp::from_nanos(self.now),
            extras: vec![],
        };
        let flush = Flush::new(std::mem::take(&mut process.queue), &mut adviser);
        process.flying = Some(self.flights.len());
        let there = self.now + self.random.within(&self.world.latency);
        self.events.push(Reverse((there, self.flights.len())));
        self.flights.push(Some(Flight {
            process: number,
            flush,
            extras: adviser.extras,
            arrives: true,
            is_lost: false,
            done: None,
        }));
    }

    fn make_trouble(&mut self) {
        let victim = self.random.below(self.world.processes as u64) as usize;
        if self.random.happens(self.world.crash) {
            self.lose_connection(victim);
            let queue = std::mem::take(&mut self.processes[victim].queue);
            self.fail(&queue);
            self.processes[victim] = Process::new();
        }
        if self.random.happens(self.world.cut) {
            self.lose_connection(victim);
            if self.random.happens(500) {
                self.processes[victim].give_up_leases();
            }
            self.send(victim);
        }
        if self.random.happens(self.world.fail_over) {
            let forgets = self.random.below(self.world.forgets + 1);
            self.store.fail_over(forgets, &mut self.tallies);
            for process in 0..self.world.processes {
                // Some replies were on their way.
                if self.random.happens(800) {
                    self.lose_connection(process);
                    if self.random.happens(800) {
                        self.processes[process].give_up_leases();
                    }
                    self.send(process);
                }
            }
        }
    }

    /// What is in flight may reach the store or not; nobody is told.
    fn lose_connection(&mut self, process: usize) {
        let arrives = self.random.happens(500);
        let Some(number) = self.processes[process].flying.take() else {
            return;
        };
        let Some(mut flight) = self.flights[number].take() else {
            return;
        };
        self.fail(flight.flush.items());
        flight.is_lost = true;
        flight.arrives &= arrives;
        self.flights[number] = Some(flight);
    }

    fn fail(&mut self, items: &[Item<Hit>]) {
        for item in items {
            if let (Work::Take(..), Hit { key, hits, .. }) = (&item.work, item.tag) {
                self.tallies.entry(key).or_default().failed += hits;
            }
        }
    }

    /// A process holds what it says, and no more than it owns.
    fn check(&self, process: usize) {
        let process = &self.processes[process];
        let leases = &process.leases;
        let balances = leases.leases.values().map(|lease| lease.balance);
        assert_eq!(balances.sum::<u64>(), leases.outstanding, "the sum");
        let is_exact = self.world.refund == 0 && self.world.forgets == 0;
        for (key, lease) in &leases.leases {
            let owned = process.owned.get(key).copied().unwrap_or(0);
            assert!(lease.balance <= owned, "no more than it owns");
            assert!(lease.balance <= lease.top);
            if is_exact {
                assert_eq!(lease.balance, owned, "nothing is lost");
            }
        }
    }
}

impl World {
    /// Nothing goes wrong, and everybody knows everything.
    fn quiet(processes: usize, limit: u32, window: u64) -> Self {
        Self {
            processes,
            holders: processes as u64,
            counters: 1,
            limit,
            limits_differ: false,
            window,
            latency: 50 * MICROS..300 * MICROS,
            largest: 1,
            refund: 0,
            crash: 0,
            cut: 0,
            fail_over: 0,
            forgets: 0,
        }
    }

    fn any(random: &mut Random) -> Self {
        let processes = 1 + random.below(8);
        let limit = match random.below(4) {
            0 => random.of(&[0, 1, 2, 3, 10, 79, 80, 81]),
            1 => random.of(&[10_000, 1_000_000, u32::MAX]),
            _ => 50 + random.below(500) as u32,
        };
        let window = random.of(&[1, 1, 10, 60, 3_600]) * SECONDS;
        Self {
            holders: random.of(&[0, 1, 2, processes]),
            counters: random.of(&[1, 1, 3]),
            limits_differ: random.happens(200),
            latency: random.of(&[
                10 * MICROS..50 * MICROS,
                100 * MICROS..MILLIS,
                MILLIS..30 * MILLIS,
            ]),
            largest: random.of(&[1, 1, 5, (u64::from(limit) + 1).min(1_000_000)]),
            refund: random.of(&[0, 0, 0, 20]),
            crash: random.of(&[0, 0, 10]),
            cut: random.of(&[0, 0, 20]),
            ..Self::quiet(processes as usize, limit, window)
        }
    }

    /// The most that any window may admit.
    fn most(&self, tally: &Tally) -> u64 {
        let limit = match self.limits_differ {
            true => u64::from(self.limit.saturating_mul(2)),
            false => self.limit.into(),
        };
        limit + tally.taken_off
    }
}

/// Arrivals of hostile kinds, one after the other.
fn hostile(random: &mut Random, world: &World) -> Vec<(u64, usize)> {
    let processes = world.processes as u64;
    let mut now = START + random.below(world.window);
    let mut arrivals = vec![];
    for _ in 0..3 + random.below(5) {
        let hot = random.below(processes);
        let kind = random.below(6);
        let gap = match kind {
            0 => 0,            // all at once
            1 => 5 * MILLIS,   // a trickle
            2 => 100 * MICROS, // around the window's end
            _ => random.of(&[2 * MICROS, 20 * MICROS, 200 * MICROS]),
        };
        if kind == 2 {
            let end = (now / world.window + 1) * world.window;
            now = now.max(end - random.below(5 * MILLIS));
        }
        for number in 0..random.below(200) {
            now += random.below(2 * gap + 1);
            let process = match kind {
                3 => hot,
                4 => number % processes,
                _ => random.below(processes),
            };
            arrivals.push((now, process as usize));
        }
        now += random.of(&[0, MILLIS, 30 * MILLIS, 2 * SECONDS, world.window / 2]);
    }
    arrivals
}

fn play_any(seed: u64, change: impl FnOnce(&mut World)) -> Simulation {
    let mut random = Random(seed);
    let mut world = World::any(&mut random);
    change(&mut world);
    let arrivals = hostile(&mut random, &world);
    let out = Simulation::new(seed, world).play(arrivals);
    for (key, tally) in &out.tallies {
        assert!(
            tally.admitted <= out.world.most(tally),
            "seed {seed}, counter {key:x}: {tally:?} in {:?}",
            out.world
        );
    }
    out
}

/// Hits of all windows together.
fn total(tallies: &Tallies) -> Tally {
    let mut total = Tally::default();
    for tally in tallies.values() {
        total.arrivals += tally.arrivals;
        total.admitted += tally.admitted;
        total.refused += tally.refused;
        total.failed += tally.failed;
        total.leased += tally.leased;
        total.taken_off += tally.taken_off;
    }
    total
}

#[test]
fn no_window_admits_more_than_its_limit() {
    let (mut leased, mut refused, mut failed) = (0, 0, 0);
    for seed in 0..3_000 {
        let out = play_any(seed, |_| {});
        let total = total(&out.tallies);
        leased += total.leased;
        refused += u64::from(total.refused > 0);
        failed += u64::from(total.failed > 0);
    }
    // It would be easy if hardly anything happened.
    assert!(leased > 200_000, "only {leased} hits by leases");
    assert!(refused > 1_000, "only {refused} runs refused any");
    assert!(failed > 500, "only {failed} runs failed any");
}

#[test]
fn a_failover_costs_no_more_than_the_hits_it_loses() {
    let mut beyond = 0;
    for seed in 10_000..11_500 {
        let out = play_any(seed, |world| {
            world.fail_over = 10;
            world.forgets = 8;
            world.refund = 0;
            world.limits_differ = false;
        });
        let limit = u64::from(out.world.limit);
        let tallies = out.tallies.values();
        beyond += tallies.filter(|tally| tally.admitted > limit).count();
    }
    assert!(beyond > 100, "only {beyond} windows beyond their limit");
}

#[test]
fn a_failover_that_loses_nothing_costs_nothing() {
    for seed in 20_000..20_500 {
        play_any(seed, |world| world.fail_over = 10);
    }
}

/// What is refused early is what others keep back.
#[test]
fn no_more_is_kept_back_than_is_said() {
    let mut kept_back = 0;
    for seed in 30_000..31_000 {
        let out = play_any(seed, |world| {
            let quiet = World::quiet(world.processes, world.limit, world.window);
            *world = World {
                latency: world.latency.clone(),
                ..quiet
            };
        });
        let limit = u64::from(out.world.limit);
        let each = limit / (out.world.holders * KEPT_BACK);
        for tally in out.tallies.values().filter(|tally| tally.refused > 0) {
            let least = limit - each * out.world.processes as u64;
            assert!(
                tally.admitted >= least,
                "seed {seed}: {tally:?} in {:?}",
                out.world
            );
            kept_back += limit - tally.admitted;
        }
    }
    assert!(kept_back > 100, "only {kept_back} hits");
}

/// Which of four processes is asked at which moment of a window, both out of
/// a million, when `done` of a million hits have come.
type Pattern = fn(done: u64, random: &mut Random) -> (u64, u64);

const PATTERNS: &[(&str, Pattern)] = &[
    ("steady", |done, random| (done, random.below(4))),
    ("all at the start", |done, random| {
        (done / 20, random.below(4))
    }),
    ("all at the end", |done, random| {
        (950_000 + done / 20, random.below(4))
    }),
    ("one after the other", |done, _| (done, done / 250_001)),
    ("taking turns in bursts", |done, _| {
        (done / 50_000 * 50_000, done / 50_000 % 4)
    }),
    ("one hot, the others for a moment", |done, _| {
        let process = if done < 150_000 { done / 50_000 } else { 3 };
        (done, process)
    }),
    (
        "a burst from three, then silence, then one",
        |done, random| match done < 300_000 {
            true => (done / 100, random.below(3)),
            false => (done, 3),
        },
    ),
];

#[test]
fn demand_of_twice_the_limit_gets_nearly_all_of_it() {
    const WINDOWS: u64 = 3;
    for (name, pattern) in PATTERNS {
        for limit in [10, 99, 400, 1_000, 10_000] {
            for window in [SECONDS, 60 * SECONDS] {
                let mut random = Random(limit);
                let mut arrivals = vec![];
                for number in 0..WINDOWS {
                    let start = START + number * window;
                    for hit in 0..2 * limit {
                        let done = hit * 1_000_000 / (2 * limit);
                        let (at, process) = pattern(done, &mut random);
                        let at = start + window / 1_000_000 * at;
                        arrivals.push((at, process as usize));
                    }
                }
                let world = World::quiet(4, limit as u32, window);
                let out = Simulation::new(limit, world).play(arrivals);
                assert_eq!(out.tallies.len() as u64, WINDOWS);
                for tally in out.tallies.values() {
                    assert!(
                        tally.admitted <= limit && tally.admitted * 100 >= limit * 95,
                        "{name}: {tally:?} of {limit} in {window} ns"
                    );
                }
            }
        }
    }
}

/// Single hits at `rate` a second to each process, for `time`.
fn saturate(world: World, rate: u64, time: u64) -> Simulation {
    let processes = world.processes as u64;
    let hits = rate * processes * time / SECONDS;
    let arrivals = (0..hits).map(|hit| {
        let at = START + hit * time / hits;
        (at, (hit % processes) as usize)
    });
    Simulation::new(rate, world).play(arrivals)
}

#[test]
fn a_hot_counter_costs_next_to_no_commands() {
    let near = 50 * MICROS..150 * MICROS;
    let far = MILLIS..2 * MILLIS;
    for (limit, window, processes, rate, latency) in [
        (u32::MAX, SECONDS, 1, 200_000, &near),
        (u32::MAX, SECONDS, 4, 25_000, &near),
        (u32::MAX, SECONDS, 4, 25_000, &far),
        (1_000_000, 3_600 * SECONDS, 4, 50_000, &near),
        (100_000, SECONDS, 4, 50_000, &near),
        (20_000, SECONDS, 4, 25_000, &near),
        (20_000, SECONDS, 4, 25_000, &far),
        (1_000, SECONDS, 4, 25_000, &near),
        (10, SECONDS, 4, 25_000, &near),
    ] {
        let world = World {
            latency: latency.clone(),
            ..World::quiet(processes, limit, window)
        };
        let out = saturate(world, rate, SECONDS);
        let total = total(&out.tallies);
        assert!(
            out.store.commands * 100 <= total.arrivals,
            "{} commands for {} hits: {processes} × {rate} at {limit} in {window} ns, {latency:?}",
            out.store.commands,
            total.arrivals
        );
    }
}
