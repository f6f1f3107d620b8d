//! What each algorithm costs, and what it admits.
//!
//! `cargo bench --bench algorithms`: the time of a decision in the engine and
//! with the memory store, the memory of a counter, and, where there is a
//! `redis-server`, its CPU time for a decision: each beside a plain fixed
//! window, in the same run. `-- --redis` measures Redis alone; `-- --plot FILE`
//! draws what each admits instead.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{self, Options, SourceFile},
    engine::{
        algorithm::{Counter, counter::Terms, fixed_window},
        decision::{Decision, Policy},
        descriptor::{Descriptor, Entry, Hits, Request},
        key::HashSeed,
        plan::Plan,
        rules::RuleSet,
        time::Timestamp,
    },
    limiter::Limiter,
    storage::{
        AnyStore, ChargeMode, Ladder, MemoryStore, RedisStore, memory,
        redis::{
            Config,
            address::{Address, TlsFiles},
            key::Format,
        },
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name and limit of each; the first is what the others are held against.
const LIMITS: [(&str, &str); 9] = [
    ("fixed_window", "requests_per_unit: REQUESTS, unit: hour"),
    (
        "fixed_window, lockout",
        "requests_per_unit: REQUESTS, unit: hour, lockout: 1h",
    ),
    (
        "fixed_window, warm_up",
        "requests_per_unit: REQUESTS, unit: hour, warm_up: {from: 1, over: 1d}",
    ),
    (
        "fixed_window, calendar",
        "requests_per_unit: REQUESTS, unit: day, time_zone: Europe/Berlin",
    ),
    (
        "sliding_window",
        "requests_per_unit: REQUESTS, unit: hour, algorithm: sliding_window",
    ),
    (
        "sliding_log (100)",
        "requests_per_unit: 100, unit: hour, algorithm: sliding_log",
    ),
    (
        "token_bucket",
        "requests_per_unit: REQUESTS, unit: hour, algorithm: token_bucket",
    ),
    (
        "leaky_bucket",
        "requests_per_unit: REQUESTS, unit: hour, algorithm: leaky_bucket, max_queue: 1000000",
    ),
    (
        "distinct_values",
        "requests_per_unit: 100000, unit: hour, count: distinct_values",
    ),
];

const START: u64 = 1_800_000_000;
const COUNTERS: u64 = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--plot") {
        let file = arguments.get(place + 1).expect("--plot FILE");
        fs::write(file, plot()).expect("the plot is written");
        return;
    }
    // `cargo test --benches` only wants to see that it runs.
    let real = arguments.iter().any(|argument| argument == "--bench");
    if arguments.iter().any(|argument| argument == "--redis") {
        in_redis();
        return;
    }
    let rounds = if real { 2_000_000 } else { 100 };
    println!("| limit | engine, ns | × | memory store, ns | × | bytes per counter |");
    println!("|---|---|---|---|---|---|");
    let mut first = None;
    for (name, limit) in LIMITS {
        let rules = rules(limit);
        let engine = engine(&rules, rounds);
        let counters = if real { COUNTERS } else { 10 };
        let (store, bytes) = in_memory(limit, counters, rounds);
        let (engine_base, store_base) = *first.get_or_insert((engine, store));
        println!(
            "| {name} | {engine:.0} | {:.2} | {store:.0} | {:.2} | {bytes} |",
            engine / engine_base,
            store / store_base
        );
    }
    let values = if real { COUNTERS } else { 10 };
    println!(
        "\nOne counter of different values: {} bytes for each of {values}.",
        value_bytes(values)
    );
    if real {
        in_redis();
    }
}

fn rules(limit: &str) -> RuleSet {
    let limit = limit.replace("REQUESTS", "1000000000");
    let text = format!("domain: d\ndescriptors: [{{key: k, rate_limit: {{{limit}}}}}]\n");
    let file = SourceFile {
        name: "rules.yaml".into(),
        bytes: text.into_bytes(),
    };
    config::compile(&[file], &Options::default()).expect("good rules")
}

/// Nanoseconds of matching, counting on one counter and deciding.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn engine(rules: &RuleSet, rounds: u64) -> f64 {
    let mut scratch = vec![];
    let (mut cell, mut counter) = (None, Counter::default());
    let entries = [Entry {
        key: b"k",
        value: b"a value of usual length",
    }];
    let descriptors = [Descriptor {
        entries: &entries,
        limit: None,
        hits: Hits::Take(1),
    }];
    let request = Request {
        domain: b"d",
        descriptors: &descriptors,
    };
    let began = std::time::Instant::now();
    for round in 0..rounds {
        let now = Timestamp::from_nanos(START * 1_000_000_000 + round * 1_000);
        let plan = Plan::new(rules, black_box(&request), false, &mut scratch);
        let charge = plan.charges[0];
        let seen = match charge.method {
            None => {
                let step = fixed_window(charge.limit, cell, charge.hits, now);
                cell = Some(step.cell);
                step.observation
            }
            Some(method) => {
                let terms = Terms {
                    method,
                    limit: charge.limit,
                    value: 7,
                };
                counter.charge(&terms, charge.hits, now).0
            }
        };
        let decision = Decision::new(rules, &plan, &[seen], &Policy::default(), now);
        black_box(decision);
    }
    began.elapsed().as_nanos() as f64 / rounds as f64
}

fn limiter(limit: &str, store: AnyStore, clock: Clock) -> Limiter {
    let policy = Policy::default();
    let limiter = Limiter::new(clock, store, Ladder::none(), policy, ChargeMode::Always);
    limiter.set_rules(rules(limit));
    limiter
}

/// Nanoseconds of a decision over so many counters, and bytes of each.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn in_memory(limit: &str, counters: u64, rounds: u64) -> (f64, u64) {
    let before = resident_bytes();
    let config = memory::Config {
        max_counters: 10_000_000,
        when_full: memory::WhenFull::Deny,
    };
    let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)));
    let clock = ManualClock::at(Timestamp::from_secs(START));
    let limiter = limiter(limit, store, Clock::Manual(clock.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let measured = runtime.expect("a runtime").block_on(async {
        for number in 0..counters {
            ask(&limiter, number, counters).await;
        }
        let grown = resident_bytes().saturating_sub(before) / counters;
        let began = std::time::Instant::now();
        for round in 0..rounds {
            clock.set(Timestamp::from_nanos(START * 1_000_000_000 + round));
            ask(&limiter, round.wrapping_mul(2_654_435_761), counters).await;
        }
        (began.elapsed().as_nanos() as f64 / rounds as f64, grown)
    });
    // What is freed would be taken again by the next one, unseen.
    std::mem::forget(limiter);
    measured
}

async fn ask(limiter: &Limiter, number: u64, counters: u64) {
    let value = format!("{:023}", number % counters);
    let entries = [Entry {
        key: b"k",
        value: value.as_bytes(),
    }];
    let descriptors = [Descriptor {
        entries: &entries,
        limit: None,
        hits: Hits::Take(1),
    }];
    let request = Request {
        domain: b"d",
        descriptors: &descriptors,
    };
    let answer = limiter.decide(&request, None).await;
    black_box(answer.expect("an answer").decision);
}

/// Bytes that each different value of one counter costs.
fn value_bytes(values: u64) -> u64 {
    let rules = rules("requests_per_unit: 1000000, unit: hour, count: distinct_values");
    let rule = rules.detail(rules.domain(b"d").expect("d").root()).children[0];
    let limit = &rules.detail(rule).limits[0];
    let before = resident_bytes();
    let mut counter = Counter::default();
    for value in 0..values {
        let terms = Terms {
            method: limit.extra.method.expect("a method"),
            limit: limit.limit,
            value: u128::from(value) << 64 | u128::from(value.wrapping_mul(2_654_435_761)),
        };
        counter.charge(&terms, Hits::Take(1), Timestamp::from_secs(START));
    }
    let grown = resident_bytes().saturating_sub(before);
    black_box(counter);
    grown / values
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}

// === Redis ===

/// A server of its own, which ends with this.
struct Server {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints Redis' CPU time for a decision of each.
#[allow(clippy::disallowed_methods, reason = "it waits for another process")]
fn in_redis() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let socket = folder.path().join("redis.sock");
    let server = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
        ])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn();
    let Ok(server) = server else {
        println!("\nThere is no redis-server to measure.");
        return;
    };
    let patience = std::iter::repeat_n(Duration::from_millis(20), 500);
    for pause in patience.take_while(|_| !socket.exists()) {
        std::thread::sleep(pause);
    }
    let server = Server {
        child: server,
        _folder: folder,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    println!("\n| limit | Redis: CPU µs, 10,000 counters | × | one counter | × |");
    println!("|---|---|---|---|---|");
    let mut first = None;
    for (name, limit) in LIMITS {
        let many = runtime.block_on(redis_time(limit, &socket, 10_000));
        let one = runtime.block_on(redis_time(limit, &socket, 1));
        let (many_base, one_base) = *first.get_or_insert((many, one));
        println!(
            "| {name} | {many:.2} | {:.2} | {one:.3} | {:.2} |",
            many / many_base,
            one / one_base
        );
    }
    drop(server);
}

/// Microseconds of Redis' CPU for a decision, 64 of them at once.
async fn redis_time(limit: &str, socket: &std::path::Path, counters: u64) -> f64 {
    let address = format!("unix://{}", socket.display());
    let config = Config {
        address: Address::parse(&address).expect("an address"),
        per_second: None,
        tls: TlsFiles::default(),
        deadline: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        per_second_connect_timeout: None,
        max_queue: 10_000,
        format: Format::Canonical,
        prefix: format!("{counters}:{}:", rand::random::<u32>()),
        jitter: 0,
        known_over: 0,
        own_clock: false,
        needs_connection: false,
    };
    let store = RedisStore::new(&config, Clock::System, HashSeed(1, 2), rand::random());
    let store = store.expect("good settings");
    store.take_seat();
    let looked = store.first_look(Duration::from_secs(5)).await;
    looked.expect("the server is there");
    let limiter = limiter(limit, AnyStore::Redis(store), Clock::System);
    let rounds = 2_000_u64;
    let mut before = 0.0;
    for round in 0..rounds + rounds / 4 {
        if round == rounds / 4 {
            before = cpu(socket);
        }
        let asks = (0..64).map(|place| ask(&limiter, round * 64 + place, counters));
        join_all(asks).await;
    }
    (cpu(socket) - before) * 1e6 / (rounds * 64) as f64
}

/// Seconds of CPU that the server has used.
fn cpu(socket: &std::path::Path) -> f64 {
    let output = Command::new("redis-cli")
        .arg("-s")
        .arg(socket)
        .args(["INFO", "cpu"])
        .output()
        .expect("redis-cli");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    of("used_cpu_user:") + of("used_cpu_sys:")
}

// === plot ===

/// A limit of 30 a minute, as each algorithm takes it.
const PLOTTED: [(&str, &str, &str); 4] = [
    (
        "fixed_window",
        "requests_per_unit: 30, unit: minute",
        "#c0392b",
    ),
    (
        "sliding_window",
        "requests_per_unit: 30, unit: minute, algorithm: sliding_window",
        "#2471a3",
    ),
    (
        "sliding_log",
        "requests_per_unit: 30, unit: minute, algorithm: sliding_log",
        "#1e8449",
    ),
    (
        "token_bucket, burst 10",
        "requests_per_unit: 30, unit: minute, algorithm: token_bucket, burst: 10",
        "#8e44ad",
    ),
];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;

/// Hits that have passed by each millisecond, of hits at these.
fn admitted(limit: &str, hits: &[u32]) -> Vec<(u32, u32)> {
    let rules = rules(limit);
    let rule = rules.detail(rules.domain(b"d").expect("d").root()).children[0];
    let detail = rules.detail(rule);
    let (mut counter, mut cell) = (Counter::default(), None);
    let mut passed = 0;
    let mut points = vec![(0, 0)];
    for &at in hits {
        // A minute begins 30 seconds after the left edge.
        let edge = Timestamp::from_secs(START + 30);
        let now = edge.saturating_add(Duration::from_millis(at.into()));
        let over = match detail.limits.first() {
            Some(limit) => {
                let terms = Terms {
                    method: limit.extra.method.expect("a method"),
                    limit: limit.limit,
                    value: 0,
                };
                counter.charge(&terms, Hits::Take(1), now).0.is_over()
            }
            None => {
                let Some(ratekeeper::engine::limit::Quota::Limited(limit)) = rules.rule(rule).quota
                else {
                    continue;
                };
                let step = fixed_window(limit, cell, Hits::Take(1), now);
                cell = Some(step.cell);
                step.observation.is_over()
            }
        };
        if !over {
            points.push((at, passed));
            passed += 1;
            points.push((at, passed));
        }
    }
    points.push((180_000, passed));
    points
}

fn plot() -> String {
    let greedy: Vec<u32> = (200..1_800).map(|tenth| tenth * 100).collect();
    let bursts: Vec<u32> = (0..9)
        .flat_map(|burst| (0..60).map(move |hit| burst * 20_000 + hit * 10))
        .collect();
    let mut svg = String::new();
    let total = 2.0 * HEIGHT + 150.0;
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {total}\" font-family=\"sans-serif\" font-size=\"12\">",
        WIDTH + 80.0
    );
    let _ = writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
    panel(
        &mut svg,
        40.0,
        "Hits that pass: asking all the time, from 20 s on",
        &greedy,
    );
    panel(
        &mut svg,
        HEIGHT + 110.0,
        "Hits that pass: 60 at once every 20 s",
        &bursts,
    );
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, title: &str, hits: &[u32]) {
    let most = 140.0;
    let x = |at: f64| 50.0 + at / 180.0 * WIDTH;
    let y = |count: f64| top + HEIGHT - count / most * HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"50\" y=\"{}\" font-size=\"14\">{title}</text>",
        top - 12.0
    );
    for edge in [30.0, 90.0, 150.0] {
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#ccc\" stroke-dasharray=\"4\"/>",
            x(edge),
            top,
            top + HEIGHT
        );
    }
    for count in [0.0, 30.0, 60.0, 90.0, 120.0] {
        let _ = writeln!(
            svg,
            "<line x1=\"50\" x2=\"{0}\" y1=\"{1}\" y2=\"{1}\" stroke=\"#eee\"/><text x=\"20\" y=\"{2}\">{count}</text>",
            x(180.0),
            y(count),
            y(count) + 4.0
        );
    }
    for seconds in [0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0] {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\">{seconds} s</text>",
            x(seconds) - 8.0,
            top + HEIGHT + 16.0
        );
    }
    for (place, (name, limit, color)) in PLOTTED.into_iter().enumerate() {
        let points: Vec<String> = admitted(limit, hits)
            .iter()
            .map(|&(at, passed)| {
                format!("{:.1},{:.1}", x(f64::from(at) / 1e3), y(f64::from(passed)))
            })
            .collect();
        let mut points = points;
        points.dedup();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        );
        let _ = writeln!(
            svg,
            "<text x=\"60\" y=\"{}\" fill=\"{color}\">{name}</text>",
            top + 16.0 + place as f64 * 16.0
        );
    }
}
