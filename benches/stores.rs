//! The memory store: time of a charge, and memory of a counter.
//!
//! `cargo bench --bench stores`. Keys are 40 bytes. Times are wall time per
//! charge, with all counters in place; memory is what the process grew by
//! (`VmRSS`), divided by the counters.

use std::{fs, hint::black_box, sync::Barrier};

use ratekeeper::{
    engine::{
        descriptor::{Entry, Hits},
        key::{CounterKey, HashSeed},
        limit::{Limit, Unit, Window},
        plan::{Charge, Refuses},
        time::Timestamp,
    },
    storage::{ChargeMode, MemoryStore, memory},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const CHARGES: u32 = 2_000_000;

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        measure(1_000, 1_000);
        return;
    }
    println!("| counters | bytes per counter | ns per charge, 1 thread | 2 threads |");
    println!("|---|---|---|---|");
    for counters in [1_000, 100_000, 1_000_000, 4_000_000] {
        measure(counters, CHARGES);
    }
}

fn measure(counters: u32, charges: u32) {
    let before = resident_bytes();
    let config = memory::Config {
        max_counters: 10_000_000,
        when_full: memory::WhenFull::Deny,
    };
    let store = MemoryStore::new(config, HashSeed(1, 2));
    for number in 0..counters {
        charge(&store, number);
    }
    assert_eq!(store.stats().counters, counters as usize);
    let grown = resident_bytes().saturating_sub(before);
    let one = time(&store, 1, counters, charges);
    let two = time(&store, 2, counters, charges);
    println!(
        "| {counters} | {} | {one:.0} | {two:.0} |",
        grown / u64::from(counters)
    );
}

/// Nanoseconds per charge of each thread, over keys in an order that jumps.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(store: &MemoryStore, threads: u32, counters: u32, charges: u32) -> f64 {
    let barrier = Barrier::new(threads as usize);
    let elapsed = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let began = std::time::Instant::now();
                    for number in 0..charges {
                        let jumped = (number + thread).wrapping_mul(2_654_435_761);
                        charge(store, jumped % counters);
                    }
                    began.elapsed()
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .max()
    });
    elapsed.unwrap_or_default().as_nanos() as f64 / f64::from(charges)
}

fn charge(store: &MemoryStore, number: u32) {
    let value = format_key(number);
    let entries = [Entry {
        key: b"user",
        value: &value,
    }];
    let window = Window::of(Unit::Year);
    let charge = Charge {
        key: CounterKey {
            domain: b"bench",
            entries: &entries,
            shared: None,
            window,
            kind: 0,
            last: None,
            several: false,
        },
        method: None,
        value: b"",
        limit: Limit {
            requests: u32::MAX,
            window,
        },
        hits: Hits::Take(1),
        refuses: Refuses::Alone,
        leased: false,
    };
    black_box(store.charge(&[charge], ChargeMode::Always, NOW));
}

/// 40 bytes that differ in their last ten.
fn format_key(mut number: u32) -> [u8; 40] {
    let mut key = [b'0'; 40];
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    key
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1_024
}
