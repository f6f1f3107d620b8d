//! What goes for every algorithm, and the definition of each.

use proptest::prelude::*;

use super::{
    Algorithm, Counter, Distinct, Method, Observation, WarmUp,
    counter::Terms,
    method::MOST_HITS,
    ticks::{muldiv, timestamp},
};
use crate::engine::{
    descriptor::Hits,
    limit::{Limit, Window},
    time::Timestamp,
};

/// 2026-11-22 10:00 UTC, in microseconds.
const TEN: u64 = 1_795_341_600_000_000;
const SECOND: u64 = 1_000_000;

fn terms(algorithm: Algorithm, requests: u32, seconds: u64) -> Terms {
    Terms {
        method: Method::plain(algorithm),
        limit: Limit {
            requests,
            window: Window::of_seconds(seconds).expect("a window"),
        },
        value: 0,
    }
}

fn bucket(burst: u32, max_queue: u32) -> Algorithm {
    Algorithm::Bucket { burst, max_queue }
}

fn distinct(exact_up_to: u32, remember: u32) -> Algorithm {
    Algorithm::DistinctValues(Distinct {
        exact_up_to,
        remember,
    })
}

/// One charge after the other, at microseconds after ten: whether it passes.
fn run(terms: &Terms, steps: &[(u64, u64)]) -> Vec<bool> {
    let mut counter = Counter::default();
    let steps = steps.iter();
    steps
        .map(|&(at, hits)| !take(&mut counter, terms, hits, at).is_over())
        .collect()
}

fn take(counter: &mut Counter, terms: &Terms, hits: u64, at: u64) -> Observation {
    counter
        .charge(terms, Hits::Take(hits), timestamp(TEN + at))
        .0
}

#[test]
fn a_token_bucket_passes_its_burst_and_then_one_after_the_other() {
    let terms = terms(bucket(30, 0), 30, 60);
    let mut steps = vec![(0, 1); 31];
    steps.extend([(2 * SECOND - 1, 1), (2 * SECOND, 1), (2 * SECOND, 1)]);
    steps.extend([(60 * SECOND, 29), (62 * SECOND, 2), (62 * SECOND, 1)]);
    let passed = run(&terms, &steps);
    let mut expected = vec![true; 30];
    expected.extend([false, false, true, false, true, false, true]);
    assert_eq!(passed, expected);
}

/// The level may be above a limit that has been lowered.
#[test]
fn a_refund_counts_while_a_bucket_is_too_full() {
    let (full, lowered) = (terms(bucket(10, 0), 10, 60), terms(bucket(5, 0), 5, 60));
    let mut counter = Counter::default();
    assert!(!take(&mut counter, &full, 10, 0).is_over());
    for after in [8, 6] {
        let (seen, _) = counter.charge(&lowered, Hits::GiveBack(2), timestamp(TEN));
        assert_eq!(seen.after, after);
    }
}

#[test]
fn a_leaky_bucket_says_how_long_to_wait() {
    // 2 a second, the first at once, three more wait.
    let terms = terms(bucket(1, 3), 2, 1);
    let mut counter = Counter::default();
    for (at, waits) in [(0, 0), (0, 500_000), (0, 1_000_000), (250_000, 1_250_000)] {
        let seen = take(&mut counter, &terms, 1, at);
        assert!(!seen.is_over());
        let told = seen.passes.as_nanos() / 1_000 - TEN - at;
        assert_eq!(told, waits, "at {at}");
    }
    let seen = take(&mut counter, &terms, 1, 250_000);
    assert!(seen.is_over());
    let passes = seen.passes.as_nanos() / 1_000 - TEN;
    assert_eq!(passes, 500_000);
}

#[test]
fn a_sliding_window_covers_the_last_one_in_part() {
    let terms = terms(Algorithm::SlidingWindow, 30, 60);
    let steps = [
        (59 * SECOND, 30),
        (60 * SECOND, 1),
        (90 * SECOND, 15),
        (90 * SECOND, 1),
        (120 * SECOND, 15),
        (120 * SECOND, 1),
    ];
    let passed = run(&terms, &steps);
    assert_eq!(passed, [true, false, true, false, true, false]);
}

#[test]
fn a_sliding_log_forgets_each_hit_when_its_time_has_come() {
    let terms = terms(Algorithm::SlidingLog, 3, 60);
    let steps = [
        (10 * SECOND, 1),
        (20 * SECOND, 2),
        (69 * SECOND, 1),
        (70 * SECOND, 1),
        (79 * SECOND, 1),
        (80 * SECOND, 2),
    ];
    let passed = run(&terms, &steps);
    assert_eq!(passed, [true, true, false, true, false, true]);
}

#[test]
fn a_lockout_refuses_for_its_time_and_begins_anew_then() {
    let mut terms = terms(Algorithm::FixedWindow, 3, 600);
    terms.method.lockout = 3_600;
    let mut counter = Counter::default();
    for _ in 0..3 {
        assert!(!take(&mut counter, &terms, 1, 0).is_over());
    }
    let seen = take(&mut counter, &terms, 1, 5 * SECOND);
    assert!(seen.is_over());
    assert_eq!(seen.passes, timestamp(TEN + 3_605 * SECOND));
    for at in [6, 700, 3_604] {
        let seen = take(&mut counter, &terms, 1, at * SECOND);
        assert!(seen.is_over(), "{at}");
        assert_eq!(seen.passes, timestamp(TEN + 3_605 * SECOND));
    }
    let given_back = counter.charge(&terms, Hits::GiveBack(9), timestamp(TEN + 6 * SECOND));
    assert_eq!(given_back.0.after, 3, "a refund does not open it");
    assert!(!take(&mut counter, &terms, 3, 3_605 * SECOND).is_over());
}

#[test]
fn a_limit_that_warms_up_grows_from_its_first_sight() {
    let mut terms = terms(Algorithm::FixedWindow, 1_000, 86_400);
    terms.method.warm_up = Some(WarmUp {
        from: 50,
        over: 14 * 86_400,
    });
    let mut counter = Counter::default();
    let day = 86_400 * SECOND;
    for (at, most) in [(0, 50), (day, 117), (7 * day, 525), (14 * day, 1_000)] {
        assert_eq!(take(&mut counter, &terms, 1, at).most, most, "at {at}");
    }
    assert_eq!(counter.expires(), timestamp(TEN + 28 * day));
}

#[test]
fn different_values_count_once_each_and_known_ones_pass() {
    let mut terms = terms(distinct(u32::MAX, 0), 2, 3_600);
    let mut counter = Counter::default();
    for (at, value, passes, after) in [
        (0, 1, true, 1),
        (0, 1, true, 1),
        (0, 2, true, 2),
        (0, 3, false, 3),
        (0, 1, true, 2),
        (3_600, 3, true, 1),
    ] {
        terms.value = value;
        let seen = take(&mut counter, &terms, 1, at * SECOND);
        assert_eq!(
            (!seen.is_over(), seen.after),
            (passes, after),
            "{value} at {at}"
        );
    }
    terms.value = 3;
    let back = counter.charge(&terms, Hits::GiveBack(1), timestamp(TEN + 3_600 * SECOND));
    assert_eq!(back.0.after, 0);
}

#[test]
fn a_remembered_value_outlives_its_window() {
    let mut terms = terms(distinct(u32::MAX, 7_200), 1, 3_600);
    let mut counter = Counter::default();
    for (at, value, passes) in [
        (0, 1, true),
        (3_600, 1, true),
        (3_600, 2, true),
        (3_600, 1, true),
        (3_600, 3, false),
        (7_199, 1, true),
        (7_200, 1, true),
        (7_200, 3, false),
    ] {
        terms.value = value;
        let seen = take(&mut counter, &terms, 1, at * SECOND);
        assert_eq!(!seen.is_over(), passes, "{value} at {at}");
    }
}

#[test]
fn many_values_are_estimated() {
    let mut terms = terms(distinct(1_000, 0), 100_000, 3_600);
    let mut counter = Counter::default();
    let mut passed = 0_u32;
    for value in 0..200_000_u128 {
        // Any spread of bits will do.
        let spread = value.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        terms.value = spread ^ spread >> 61;
        let seen = take(&mut counter, &terms, 1, 0);
        if seen.is_over() {
            break;
        }
        passed += 1;
        if value == 999 {
            assert_eq!(seen.after, 1_000, "still exact");
        }
    }
    assert!((95_000..105_000).contains(&passed), "{passed}");
}

#[test]
fn a_gate_is_open_for_a_time_after_an_event() {
    let (gate, event) = (
        terms(Algorithm::Opened, 1, 60),
        terms(Algorithm::Event, 1, 60),
    );
    let mut counter = Counter::default();
    assert!(take(&mut counter, &gate, 1, 0).is_over());
    assert!(!take(&mut counter, &event, 1, SECOND).is_over());
    assert!(!take(&mut counter, &gate, 1, 61 * SECOND - 1).is_over());
    assert!(take(&mut counter, &gate, 1, 61 * SECOND).is_over());
}

#[test]
fn nothing_overflows() {
    for algorithm in all() {
        let mut terms = terms(algorithm, u32::MAX, 366 * 86_400);
        terms.method.lockout = u32::MAX;
        let mut counter = Counter::default();
        for at in [Timestamp::default(), Timestamp::MAX, timestamp(TEN)] {
            for hits in [u64::MAX, 0, 1, MOST_HITS] {
                let _ = counter.charge(&terms, Hits::Take(hits), at);
                let _ = counter.charge(&terms, Hits::GiveBack(hits), at);
            }
        }
    }
}

fn all() -> [Algorithm; 9] {
    [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::SlidingLog,
        bucket(5, 0),
        bucket(1, 7),
        distinct(u32::MAX, 0),
        distinct(3, 0),
        Algorithm::Opened,
        Algorithm::Event,
    ]
}

prop_compose! {
    fn any_terms()(
        kind in 0..6_usize,
        requests in 0..12_u32,
        seconds in prop_oneof![1..100_u64, Just(3_600), Just(3_601), Just(86_400 * 30)],
        burst in 1..9_u32,
        queue in 0..9_u32,
        lockout in prop_oneof![Just(0), 1..100_u32],
        warm_up in prop::option::of((0..5_u32, 1..500_u32)),
    ) -> Terms {
        let algorithm = [
            Algorithm::FixedWindow,
            Algorithm::SlidingWindow,
            Algorithm::SlidingLog,
            bucket(burst, 0),
            bucket(burst, queue),
            distinct(u32::MAX, 0),
        ][kind];
        let mut terms = terms(algorithm, requests, seconds);
        let windows = kind < 2;
        terms.method.lockout = if kind < 4 { lockout } else { 0 };
        terms.method.warm_up = warm_up
            .filter(|_| windows)
            .map(|(from, over)| WarmUp { from, over });
        terms
    }
}

/// Waits (a share of the window, in thousandths), hits, whether they go back, value.
type Deed = (u64, u64, bool, u128);

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let wait = prop_oneof![Just(0), 0..400_u64, 0..3_000_u64];
    let back = prop::bool::weighted(0.1);
    prop::collection::vec((wait, 0..4_u64, back, 0..20_u128), 1..60)
}

fn hits(amount: u64, back: bool) -> Hits {
    if back {
        Hits::GiveBack(amount)
    } else {
        Hits::Take(amount)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// A client that waits as long as it is told is admitted.
    #[test]
    fn who_waits_is_admitted(mut terms in any_terms(), deeds in deeds()) {
        let length = terms.limit.window.seconds() * 1_000;
        let (mut counter, mut at) = (Counter::default(), 0);
        for (wait, amount, back, value) in deeds {
            at += wait * length;
            terms.value = value;
            let (seen, _) = counter.charge(&terms, hits(amount, back), timestamp(TEN + at));
            if !back && seen.is_over() && seen.passes < Timestamp::MAX {
                prop_assert!(seen.passes > timestamp(TEN + at));
                let later = counter.peek(&terms, Hits::Take(amount), seen.passes);
                prop_assert!(!later.is_over(), "{seen:?} then {later:?}");
            }
            prop_assert!(seen.resets >= timestamp(TEN + at));
        }
    }

    /// All of the limit is there again when that was said, if nothing came.
    #[test]
    fn what_resets_is_whole_again(mut terms in any_terms(), deeds in deeds()) {
        let length = terms.limit.window.seconds() * 1_000;
        let (mut counter, mut at) = (Counter::default(), 0);
        for (wait, amount, back, value) in deeds {
            at += wait * length;
            terms.value = value;
            let (seen, _) = counter.charge(&terms, hits(amount, back), timestamp(TEN + at));
            let later = counter.peek(&terms, Hits::Take(0), seen.resets);
            prop_assert_eq!(later.after, 0, "{:?} then {:?}", seen, later);
        }
    }

    /// Looking changes nothing, and neither does what is taken back.
    #[test]
    fn what_is_restored_never_was(mut terms in any_terms(), deeds in deeds()) {
        let length = terms.limit.window.seconds() * 1_000;
        let (mut counter, mut twin, mut at) = (Counter::default(), Counter::default(), 0);
        for (place, (wait, amount, back, value)) in deeds.into_iter().enumerate() {
            at += wait * length;
            let now = timestamp(TEN + at);
            terms.value = value;
            let hits = hits(amount, back);
            let peeked = twin.peek(&terms, hits, now);
            if place % 3 == 0 {
                let saved = twin.save();
                let (_, done) = twin.charge(&terms, hits, now);
                twin.restore(saved, done);
            }
            let (seen, _) = counter.charge(&terms, hits, now);
            prop_assert_eq!(peeked, seen);
            prop_assert_eq!(twin.charge(&terms, hits, now).0, seen);
        }
    }

    /// In no window of its length do more pass than the limit says.
    #[test]
    fn a_sliding_log_is_exact(limit in 1..10_u32, steps in prop::collection::vec((0..40_u64, 1..4_u64), 1..80)) {
        let terms = terms(Algorithm::SlidingLog, limit, 60);
        let (mut counter, mut at) = (Counter::default(), 0);
        let mut passed: Vec<(u64, u64)> = vec![];
        for (wait, amount) in steps {
            at += wait * SECOND;
            let seen = take(&mut counter, &terms, amount, at);
            let recent: u64 = passed
                .iter()
                .filter(|(then, _)| then + 60 * SECOND > at)
                .map(|(_, n)| n)
                .sum();
            prop_assert_eq!(seen.before, recent);
            prop_assert_eq!(seen.is_over(), recent + amount > limit.into());
            if !seen.is_over() {
                passed.push((at, amount));
            }
        }
    }

    /// A bucket admits its burst and what drains, in any time.
    #[test]
    fn a_bucket_admits_what_it_says(
        requests in 1..50_u32,
        seconds in 1..100_u64,
        burst in 1..20_u32,
        steps in prop::collection::vec((0..5_000_000_u64, 1..4_u64), 1..80),
    ) {
        let terms = terms(bucket(burst, 0), requests, seconds);
        let (mut counter, mut at) = (Counter::default(), 0);
        // Exactly: the level in hits times the window's microseconds.
        let (window, mut level, mut last) = (u128::from(seconds * SECOND), 0_u128, 0);
        for (wait, amount) in steps {
            at += wait;
            level = level.saturating_sub(u128::from(at - last) * u128::from(requests));
            last = at;
            let seen = take(&mut counter, &terms, amount, at);
            let total = level + u128::from(amount) * window;
            let room = u128::from(burst) * window;
            if seen.is_over() {
                // Late by no more than the rounding of the steps so far.
                prop_assert!(total + window / 1_000 > room, "{total} of {room}");
            } else {
                prop_assert!(total <= room, "{total} of {room}");
                level = total;
            }
        }
    }

    /// What is said of bursts: `limit · (1 + d / window)` in any time `d`.
    #[test]
    fn a_sliding_window_bounds_bursts(
        limit in 1..40_u32,
        steps in prop::collection::vec((0..8_000_000_u64, 1..4_u64), 1..120),
    ) {
        let terms = terms(Algorithm::SlidingWindow, limit, 60);
        let (mut counter, mut at) = (Counter::default(), 0);
        let mut passed: Vec<(u64, u64)> = vec![];
        for (wait, amount) in steps {
            at += wait;
            if !take(&mut counter, &terms, amount, at).is_over() {
                passed.push((at, amount));
            }
        }
        for (first, &(from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for &(to, n) in &passed[first..] {
                sum += n;
                let time = (to - from).min(60 * SECOND);
                if to - from <= 60 * SECOND {
                    let most = u64::from(limit) * (60 * SECOND + time);
                    prop_assert!(sum * 60 * SECOND <= most, "{sum} in {time}");
                }
            }
        }
    }

    #[test]
    fn products_are_exact(a in 0..1_u64 << 35, b in 0..1_u64 << 52, more in 0..1_u64 << 34) {
        let w = a + more + 1;
        prop_assert_eq!(u128::from(muldiv(a, b, w)), u128::from(a) * u128::from(b) / u128::from(w));
    }
}
