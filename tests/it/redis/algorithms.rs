//! Every algorithm in Redis answers as it does in memory.

use futures_util::future::join_all;
use ratekeeper::{
    clock::{Clock, ManualClock},
    engine::{decision::Status, descriptor::Hits, time::Timestamp},
    limiter::Limiter,
    storage::{
        AnyStore, Ladder, MemoryStore,
        memory::{self, WhenFull},
        redis::Config,
    },
};

use super::{
    ask_for, compile, connected, limiter_at,
    servers::{Cluster, Server},
    settings,
};

/// One key for each way to count; `CHARGE` is replaced.
const RULES: &str = "
domain: d
charge: CHARGE
descriptors:
- {key: plain, rate_limit: {requests_per_unit: 4, window: 10s}}
- {key: locked, rate_limit: {requests_per_unit: 4, window: 10s, lockout: 13s}}
- {key: warm, rate_limit: {requests_per_unit: 9, window: 10s, warm_up: {from: 2, over: 40s}}}
- {key: sliding, rate_limit: {requests_per_unit: 7, window: 10s, algorithm: sliding_window}}
- {key: hourly, rate_limit: {requests_per_unit: 7, window: 3h, algorithm: sliding_window, lockout: 2h}}
- {key: log, rate_limit: {requests_per_unit: 5, window: 10s, algorithm: sliding_log}}
- {key: tokens, rate_limit: {requests_per_unit: 7, window: 10s, algorithm: token_bucket, burst: 3}}
- {key: monthly, rate_limit: {requests_per_unit: 999983, window: 30d, algorithm: token_bucket, burst: 5, lockout: 30s}}
- {key: queue, rate_limit: {requests_per_unit: 3, unit: second, algorithm: leaky_bucket, max_queue: 4}}
- key: values
  descriptors:
  - {key: value, rate_limit: {requests_per_unit: 3, window: 10s, count: distinct_values}}
- key: remembered
  descriptors:
  - {key: value, rate_limit: {requests_per_unit: 2, window: 5s, count: distinct_values, remember: 12s}}
- key: contact
  descriptors:
  - {key: direction, value: in}
  - {key: direction, value: out, rate_limit: {opens_for: 7s, opened_by: in}}
- key: several
  rate_limits:
  - {name: a, requests_per_unit: 3, unit: second}
  - {name: b, requests_per_unit: 9, window: 10s, algorithm: sliding_log}
  - {name: c, requests_per_unit: 20, unit: minute, algorithm: token_bucket, notify_below: 50%}
- {key: flagged, rate_limit: {requests_per_unit: 2, window: 10s, flag_only: true, algorithm: sliding_window}}
- {key: calendar, rate_limit: {requests_per_unit: 3, unit: day, time_zone: Europe/Berlin}}
";

const KEYS: [&str; 15] = [
    "plain",
    "locked",
    "warm",
    "sliding",
    "hourly",
    "log",
    "tokens",
    "monthly",
    "queue",
    "values",
    "remembered",
    "contact",
    "several",
    "flagged",
    "calendar",
];

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let place = self.below(list.len() as u64);
        &list[usize::try_from(place).expect("a place in the list")]
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }

    fn hits(&mut self) -> Hits {
        match self.below(12) {
            0 => Hits::Take(0),
            1 => Hits::GiveBack(1 + self.below(3)),
            2 => Hits::Take(2 + self.below(6)),
            _ => Hits::Take(1),
        }
    }

    /// Nanoseconds that pass.
    fn wait(&mut self) -> u64 {
        match self.below(8) {
            0..=2 => 0,
            3..=5 => self.below(2_000_000_000),
            6 => self.below(15_000_000_000),
            _ => self.below(4) * 3_600_000_000_000,
        }
    }
}

/// A key's second entry, where its rule has one.
fn further(key: &str, random: &mut Random) -> Option<(&'static str, &'static str)> {
    match key {
        "values" | "remembered" => {
            let values = ["u", "v", "w", "x", "y"];
            Some(("value", *random.of(&values)))
        }
        "contact" => Some(("direction", if random.below(3) == 0 { "in" } else { "out" })),
        _ => None,
    }
}

struct Twins {
    redis: Limiter,
    memory: Limiter,
    clock: ManualClock,
}

impl Twins {
    async fn new(config: &Config, charge: &str) -> Self {
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let config = Config {
            own_clock: true,
            ..config.clone()
        };
        let store = connected(&config, Clock::Manual(clock.clone())).await;
        let rules = RULES.replace("CHARGE", charge);
        let over = |store| limiter_at(&rules, Clock::Manual(clock.clone()), store, Ladder::none());
        let memory = memory::Config {
            max_counters: 1_000_000,
            when_full: WhenFull::Deny,
        };
        let seed = ratekeeper::engine::key::HashSeed(1, 2);
        let memory = AnyStore::Memory(MemoryStore::new(memory, seed));
        Self {
            redis: over(AnyStore::Redis(store)),
            memory: over(memory),
            clock,
        }
    }
}

type Asked<'a> = Vec<(Vec<(&'a str, &'a str)>, Hits)>;

async fn ask(limiter: &Limiter, asked: &Asked<'_>) -> Vec<Status> {
    let asked: Vec<_> = asked
        .iter()
        .map(|(e, hits)| (e.as_slice(), *hits))
        .collect();
    let answer = ask_for(limiter, &asked, None, None).await;
    let mut statuses = answer.expect("an answer").decision.statuses.into_vec();
    for status in &mut statuses {
        // Memory has no need to remember what is over.
        status.tally.known_over = 0;
    }
    statuses
}

/// Many counters of each kind, each with a life of its own.
async fn each_by_itself(config: &Config, traces: u64, charge: &str) {
    let twins = Twins::new(config, charge).await;
    let mut random = Random(0x5eed_0001);
    let mut now = 1_800_000_000_000_000_000;
    let mut refused = [0_u32; KEYS.len()];
    for trace in 0..traces {
        let value = trace.to_string();
        for _ in 0..12 {
            now += random.wait();
            twins.clock.set(Timestamp::from_nanos(now));
            let asked: Vec<Asked<'_>> = KEYS
                .iter()
                .map(|key| {
                    let mut entries = vec![(*key, value.as_str())];
                    entries.extend(further(key, &mut random));
                    vec![(entries, random.hits())]
                })
                .collect();
            let got = join_all(asked.iter().map(|asked| ask(&twins.redis, asked))).await;
            for (place, (asked, got)) in asked.iter().zip(got).enumerate() {
                let expected = ask(&twins.memory, asked).await;
                assert_eq!(got, expected, "{asked:?} at {now} of trace {trace}");
                let is_over = expected[0].code == ratekeeper::engine::decision::Code::OverLimit;
                refused[place] += u32::from(is_over || expected[0].special.flagged != 0);
            }
        }
    }
    // A trace that never reaches a limit would show nothing.
    for (key, refused) in KEYS.iter().zip(refused) {
        assert!(u64::from(refused) > traces / 4, "{key}: {refused}");
    }
}

/// Requests of several descriptors.
async fn together(config: &Config, requests: u64, charge: &str) {
    let twins = Twins::new(config, charge).await;
    let mut random = Random(0x5eed_0002);
    let mut now = 1_800_000_000_000_000_000;
    let names = ["0", "1", "2"];
    for request in 0..requests {
        now += random.wait();
        twins.clock.set(Timestamp::from_nanos(now));
        let hits = random.hits();
        let asked: Asked<'_> = (0..1 + random.below(4))
            .map(|_| {
                let key = *random.of(&KEYS);
                let mut entries = vec![(key, *random.of(&names))];
                entries.extend(further(key, &mut random));
                (entries, hits)
            })
            .collect();
        let got = ask(&twins.redis, &asked).await;
        let expected = ask(&twins.memory, &asked).await;
        assert_eq!(got, expected, "{asked:?} at {now}, request {request}");
    }
}

/// One script after the other counts on the same counters, and rules come and
/// go meanwhile.
async fn in_turns(config: &Config, requests: u64) {
    let twins = Twins::new(config, "always").await;
    let mut random = Random(0x5eed_0003);
    let mut now = 1_800_000_000_000_000_000;
    let fewer = [", lockout: 13s", ", lockout: 2h", ", lockout: 30s"];
    let unguarded = fewer
        .iter()
        .fold(RULES.to_owned(), |rules, part| rules.replace(part, ""));
    let guarded = RULES.replace("burst: 3", "burst: 3, lockout: 3s").replace(
        "window: 10s, algorithm: sliding_window",
        "window: 10s, algorithm: sliding_window, lockout: 3s, warm_up: {from: 1, over: 9s}",
    );
    for request in 0..requests {
        if random.below(4) == 0 {
            let charge = *random.of(&["always", "all_or_nothing"]);
            let rules = random
                .of(&[RULES, &unguarded, &guarded])
                .replace("CHARGE", charge);
            twins.redis.set_rules(compile(&rules));
            twins.memory.set_rules(compile(&rules));
        }
        now += random.wait() / 4;
        twins.clock.set(Timestamp::from_nanos(now));
        let key = *random.of(&KEYS);
        let mut entries = vec![(key, "x")];
        entries.extend(further(key, &mut random));
        let asked: Asked<'_> = vec![(entries, random.hits())];
        let got = ask(&twins.redis, &asked).await;
        let expected = ask(&twins.memory, &asked).await;
        assert_eq!(got, expected, "{asked:?} at {now}, request {request}");
    }
}

#[tokio::test]
async fn each_answers_as_in_memory() {
    let server = Server::plain();
    each_by_itself(&settings(&server.address()), 2_000, "always").await;
}

#[tokio::test]
async fn each_answers_as_in_memory_if_nothing_is_charged_when_refused() {
    let server = Server::plain();
    each_by_itself(&settings(&server.address()), 200, "all_or_nothing").await;
}

#[tokio::test]
async fn each_of_a_cluster_answers_as_in_memory() {
    let cluster = Cluster::start();
    each_by_itself(&settings(&cluster.address()), 100, "always").await;
}

#[tokio::test]
async fn several_are_charged_together_as_in_memory() {
    let server = Server::plain();
    together(&settings(&server.address()), 4_000, "all_or_nothing").await;
}

#[tokio::test]
async fn several_are_charged_one_by_one_as_in_memory() {
    let server = Server::plain();
    together(&settings(&server.address()), 4_000, "always").await;
}

#[tokio::test]
async fn scripts_keep_the_same_states() {
    let server = Server::plain();
    in_turns(&settings(&server.address()), 10_000).await;
}

/// A counter is kept for as long as it says anything, though not every charge
/// gives it a time to live.
#[tokio::test]
async fn what_is_written_in_place_is_kept_for_long_enough() {
    let server = Server::plain();
    let twins = Twins::new(&settings(&server.address()), "always").await;
    for (key, longest) in [
        ("tokens", 22),
        ("queue", 11),
        ("sliding", 26),
        ("locked", 20),
    ] {
        let asked: Asked<'_> = vec![(vec![(key, "x")], Hits::Take(1))];
        let (mut now, mut told_at) = (1_800_000_000_000, 0);
        let (mut told, mut in_place) = (0, 0);
        for _ in 0..25 {
            now += 400;
            twins.clock.set(Timestamp::from_nanos(now * 1_000_000));
            server.command(&["CONFIG", "RESETSTAT"]);
            ask(&twins.redis, &asked).await;
            let calls = server.calls();
            if calls.contains_key("set") {
                (told, told_at) = (told + 1, now);
            }
            in_place += u32::from(calls.contains_key("setrange"));
            let keys = server.command(&["KEYS", &format!("*{key}*")]);
            let name = keys.lines().next().expect("a key");
            let lives = server.command(&["PTTL", name]);
            let lives: u64 = lives.trim().parse().expect("a time to live");
            assert!(lives <= longest * 1_000, "{key}: {lives}");
            // Redis' own clock nearly stands still beside the other.
            assert!(lives - (now - told_at) > 4_000, "{key}: {lives}");
        }
        assert!(told < in_place, "{key}: {told} {in_place}");
        server.command(&["FLUSHALL"]);
    }
}

/// Somebody may flush the scripts that a node knows.
#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let server = Server::plain();
    let twins = Twins::new(&settings(&server.address()), "always").await;
    let asked: Asked<'_> = vec![(vec![("tokens", "x")], Hits::Take(1))];
    ask(&twins.redis, &asked).await;
    server.command(&["SCRIPT", "FLUSH"]);
    let mut failed = 0;
    while ask_for(
        &twins.redis,
        &[(&[("tokens", "x")], Hits::Take(1))],
        None,
        None,
    )
    .await
    .is_err()
    {
        failed += 1;
        assert!(failed < 1_000, "they are not");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Calls that come at once share a run of the script, and each gets the answer
/// that it would have got alone.
#[tokio::test]
async fn calls_at_once_are_answered_one_after_the_other() {
    let server = Server::plain();
    let twins = Twins::new(&settings(&server.address()), "always").await;
    for key in ["sliding", "log", "tokens", "queue", "locked", "warm"] {
        let asked: Asked<'_> = vec![(vec![(key, "x")], Hits::Take(1))];
        let before = server.calls().get("evalsha").copied().unwrap_or(0);
        let got = join_all((0..50).map(|_| ask(&twins.redis, &asked))).await;
        let runs = server.calls().get("evalsha").copied().unwrap_or(0) - before;
        assert!(runs <= 3, "{key}: {runs}");
        for got in got {
            assert_eq!(got, ask(&twins.memory, &asked).await, "{key}");
        }
    }
}
