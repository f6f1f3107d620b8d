use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::engine::time::Timestamp;

/// Says "first" once for each key, and always takes the same in advance.
#[derive(Default)]
struct Adviser {
    known: Vec<u128>,
    extra: u64,
}

impl Advice for Adviser {
    fn is_first(&mut self, key: &Key) -> bool {
        let is_first = !self.known.contains(&key.hash);
        self.known.push(key.hash);
        is_first
    }

    fn is_one_slot(&self) -> bool {
        true
    }

    fn extra(&mut self, _: &Key, _: Terms, _: u64) -> u64 {
        self.extra
    }
}

const EXACT: Terms = Terms {
    limit: 100,
    resets: Timestamp::MAX,
    leased: false,
};
const LEASED: Terms = Terms {
    leased: true,
    ..EXACT
};

fn key(number: u8) -> Key {
    Key {
        bytes: Box::new([number]),
        hash: number.into(),
        ttl: 60,
    }
}

fn take(tag: usize, number: u8, hits: u64) -> Item<usize> {
    item(tag, Work::Take(key(number), hits, EXACT))
}

fn item(tag: usize, work: Work) -> Item<usize> {
    Item {
        tag,
        work,
        asking: false,
        redirects: 0,
    }
}

/// Does what Redis would.
fn run(flush: &Flush<usize>, counts: &mut HashMap<u128, i64>) -> Vec<Value> {
    let reply = |command: &Command| match command {
        Command::Asking => Value::Okay,
        Command::Expire { .. } => Value::Int(1),
        Command::Run {
            item, sum, extra, ..
        } => {
            let count = counts.entry(flush.key(*item).hash).or_default();
            *count += i64::try_from(sum + extra).expect("small hits");
            Value::Int(*count)
        }
        Command::GiveBack { item } => {
            let Work::GiveBack(key, hits, _) = &flush.items[*item].work else {
                panic!("not a refund")
            };
            let count = counts.entry(key.hash).or_default();
            let after = *count - i64::try_from(*hits).expect("small hits");
            *count = after.max(0);
            Value::Int(after)
        }
        Command::Together { .. } | Command::Charges(_) => Value::Nil,
    };
    flush.commands.iter().map(reply).collect()
}

fn settle(flush: Flush<usize>, replies: Vec<Value>) -> Vec<(usize, Option<Seen>)> {
    let mut told = vec![];
    flush.settle(
        replies,
        |_| {},
        |item, sight| told.push((item.tag, sight.ok().map(|sight| sight[0]))),
    );
    told
}

fn seen(before: u64, after: u64) -> Option<Seen> {
    Some(Seen::of(before, after))
}

#[test]
fn equal_keys_share_a_command_and_each_gets_its_own_answer() {
    let items = vec![take(0, 7, 2), take(1, 8, 1), take(2, 7, 3), take(3, 7, 0)];
    let flush = Flush::new(items, &mut Adviser::default());
    assert_eq!(flush.len(), 4, "an INCRBY and an EXPIRE for each key");
    let replies = vec![Value::Int(15), Value::Int(1), Value::Int(1), Value::Int(1)];
    assert_eq!(
        settle(flush, replies),
        [
            (0, seen(10, 12)),
            (1, seen(0, 1)),
            (2, seen(12, 15)),
            (3, seen(15, 15)),
        ]
    );
}

#[test]
fn a_refund_ends_a_run() {
    let refund = item(1, Work::GiveBack(key(7), 5, EXACT));
    let items = vec![take(0, 7, 2), refund, take(2, 7, 1)];
    let mut adviser = Adviser {
        known: vec![7],
        extra: 0,
    };
    let flush = Flush::new(items, &mut adviser);
    assert_eq!(flush.len(), 3);
    let replies = run(&flush, &mut HashMap::from([(7, 1)]));
    assert_eq!(
        settle(flush, replies),
        [(0, seen(1, 3)), (1, seen(3, 0)), (2, seen(0, 1))]
    );
}

#[test]
fn hits_in_advance_come_last() {
    let items = vec![take(0, 7, 2), item(1, Work::Take(key(7), 3, LEASED))];
    let mut adviser = Adviser {
        known: vec![7],
        extra: 40,
    };
    let flush = Flush::new(items, &mut adviser);
    let (mut granted, mut told) = (vec![], vec![]);
    flush.settle(
        vec![Value::Int(55)],
        |news| granted.push(news),
        |item, sight| told.push((item.tag, sight.expect("counted")[0])),
    );
    let lease = Granted {
        hash: 7,
        terms: LEASED,
        reply: 55,
        extra: 40,
    };
    assert_eq!(granted, [News::Granted(lease)]);
    let at = |before, after| Seen::of(before, after);
    assert_eq!(told, [(0, at(10, 12)), (1, at(12, 15))]);
}

#[test]
fn counts_beyond_what_redis_knows_saturate() {
    let items = vec![take(0, 7, 1), take(1, 7, u64::MAX), take(2, 7, u64::MAX)];
    let flush = Flush::new(items, &mut Adviser::default());
    let overflow = Value::ServerError(
        redis::parse_redis_value(b"-ERR increment or decrement would overflow\r\n")
            .map(|value| match value {
                Value::ServerError(error) => error,
                _ => panic!("not an error"),
            })
            .expect("an error reply"),
    );
    let replies = vec![Value::Int(1), Value::Int(1), overflow.clone(), overflow];
    let told = settle(flush, replies);
    assert_eq!(told[0].1, seen(0, 1));
    for (_, seen) in &told[1..] {
        assert!(
            seen.expect("counted").after > u64::from(u32::MAX),
            "{told:?}"
        );
    }
}

#[test]
fn an_error_concerns_only_those_of_its_command() {
    let items = vec![take(0, 7, 1), take(1, 8, 1), take(2, 7, 1)];
    let mut adviser = Adviser {
        known: vec![7, 8],
        extra: 0,
    };
    let flush = Flush::new(items, &mut adviser);
    let moved = redis::parse_redis_value(b"-MOVED 7 127.0.0.1:7001\r\n").expect("a reply");
    let told = settle(flush, vec![moved, Value::Int(4)]);
    assert_eq!(told, [(0, None), (1, seen(3, 4)), (2, None)]);
}

#[test]
fn a_key_that_begins_anew_gets_its_time_to_live_again() {
    let mut adviser = Adviser {
        known: vec![7, 8],
        extra: 0,
    };
    let items = vec![take(0, 7, 2), take(1, 8, 2), take(2, 9, 1)];
    let flush = Flush::new(items, &mut adviser);
    let mut told = vec![];
    let replies = [2, 3, 1, 1].map(Value::Int).to_vec();
    flush.settle(replies, |news| told.push(news), |_, _| {});
    assert_eq!(told, [News::Mortal(7)]);
}

#[test]
fn replies_that_do_not_come_are_errors() {
    let flush = Flush::new(vec![take(0, 7, 1)], &mut Adviser::default());
    assert_eq!(settle(flush, vec![]), [(0, None)]);
}

proptest! {
    /// The same answers as one command for each hit, in order of arrival,
    /// whatever happened to the counters between flushes.
    #[test]
    fn every_answer_is_that_of_a_command_of_its_own(
        flushes in prop::collection::vec(
            prop::collection::vec((0_u8..4, 0_u64..5, prop::bool::weighted(0.2)), 1..30),
            1..6,
        ),
    ) {
        let mut adviser = Adviser::default();
        let (mut redis, mut model) = (HashMap::new(), HashMap::<u128, u64>::new());
        for flush in flushes {
            let mut expected = vec![];
            let mut items = vec![];
            for (tag, (number, hits, gives_back)) in flush.into_iter().enumerate() {
                let count = model.entry(number.into()).or_default();
                let before = *count;
                *count = if gives_back { before.saturating_sub(hits) } else { before + hits };
                expected.push((tag, seen(before, *count)));
                items.push(if gives_back {
                    item(tag, Work::GiveBack(key(number), hits, EXACT))
                } else {
                    take(tag, number, hits)
                });
            }
            let flush = Flush::new(items, &mut adviser);
            let replies = run(&flush, &mut redis);
            prop_assert_eq!(settle(flush, replies), expected);
        }
    }
}
