use super::*;
use crate::{
    engine::{
        algorithm::Observation,
        decision::Policy,
        descriptor::{Descriptor, Entry, Hits},
        limit::{Limit, Quota, Unit, Window},
        plan::Plan,
        rules::{DomainDef, Extra, LimitDef, RuleDef, Source},
    },
    telemetry::metrics::series::Numbers,
};

const LIMIT: u32 = 10;

/// Domains `d` and `e`: a rule `plain`, and one that names its values.
fn rules() -> RuleSet {
    let rule = |key: &str, value_to_metric| RuleDef {
        key: key.into(),
        value_to_metric,
        limit: Some(LimitDef {
            quota: Quota::Limited(Limit {
                requests: LIMIT,
                window: Window::of(Unit::Hour),
            }),
            name: String::new(),
            replaces: vec![],
            leased: false,
            extra: Extra::default(),
        }),
        source: Source {
            line: 1,
            ..Source::default()
        },
        ..RuleDef::default()
    };
    let domain = |name: &str| DomainDef {
        name: name.into(),
        rules: vec![rule("plain", false), rule("named", true)],
        ..DomainDef::default()
    };
    RuleSet::compile(vec![domain("d"), domain("e")]).unwrap()
}

struct Case {
    rules: RuleSet,
    index: Index,
    metrics: Metrics,
}

impl Case {
    fn new(most: usize) -> Self {
        let rules = rules();
        Self {
            index: Index::new(&rules),
            rules,
            metrics: Metrics::new(most),
        }
    }

    /// Counts a call that finds `before` hits and adds `hits`, at `now`.
    fn call(&self, domain: &str, entry: (&str, &str), before: u64, hits: u64, now: u64) {
        let entries = [Entry {
            key: entry.0.as_bytes(),
            value: entry.1.as_bytes(),
        }];
        let descriptors = [Descriptor {
            entries: &entries,
            limit: None,
            hits: Hits::Take(hits),
        }];
        let request = Request {
            domain: domain.as_bytes(),
            descriptors: &descriptors,
        };
        let plan = Plan::new(&self.rules, &request, false, &mut vec![]);
        let now = Timestamp::from_secs(now);
        let seen = Observation::of_window(before, before + hits, LIMIT, Timestamp::MAX);
        let seen = vec![seen; plan.charges.len()];
        let decision = Decision::new(&self.rules, &plan, &seen, &Policy::default(), now);
        self.metrics
            .record(&self.rules, &self.index, &request, &decision, now);
    }

    fn read(&self, now: u64) -> Vec<(String, Numbers)> {
        let read = self.metrics.series().read(Timestamp::from_secs(now));
        read.into_iter()
            .map(|(name, numbers)| (format!("{} {}", name.domain, name.path), numbers))
            .collect()
    }
}

#[test]
fn hits_are_added_up_by_rule() {
    let case = Case::new(10);
    for user in ["a", "b"] {
        case.call("d", ("plain", user), 0, 3, 0);
        case.call("d", ("named", user), 0, 1, 0);
    }
    case.call("d", ("plain", "a"), 8, 4, 0);
    case.call("d", ("other", "a"), 0, 1, 0);
    let read = case.read(0);
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["d plain", "d named_a", "d named_b"]);
    let expected = Numbers {
        passed: 2,
        refused: 1,
        total_hits: 10,
        within_limit: 6,
        over_limit: 2,
        near_limit: 2,
        peak: 10_000,
        ..Numbers::default()
    };
    assert_eq!(read[0].1, expected);
    case.call("nope", ("plain", "a"), 0, 1, 0);
    assert_eq!(case.metrics.unknown_domains(), [("nope".to_owned(), 1)]);
}

#[test]
fn a_million_values_stay_below_the_bound() {
    let case = Case::new(100);
    for user in 0..500_000 {
        let user = user.to_string();
        case.call("d", ("named", &user), 0, 1, 0);
        case.call("e", ("named", &user), 0, 2, 0);
    }
    case.call("d", ("plain", "x"), 0, 5, 0);
    let read = case.read(0);
    assert_eq!(read.len(), 102);
    let hits = |wanted: &str| {
        let read = read.iter().filter(|(name, _)| name.starts_with(wanted));
        read.map(|(_, numbers)| numbers.total_hits).sum::<u64>()
    };
    assert_eq!((hits("d"), hits("e")), (500_005, 1_000_000));
    assert!(hits("d __overflow__") > 499_000);
}

#[test]
fn names_that_meet_are_one_statistic() {
    let case = Case::new(10);
    case.call("d", ("named", "a:b"), 0, 5, 0);
    case.call("d", ("named", "a|b"), 0, 2, 0);
    for domain in ["x:y", "x|y", "x|y"] {
        case.call(domain, ("plain", "a"), 0, 1, 0);
    }
    let stats = reference::stats(&case.metrics, Timestamp::from_secs(0));
    let told = |name: &str| {
        let name = format!("ratelimit.service.rate_limit.{name}");
        let found = stats.iter().filter(|stat| stat.name == name);
        found.map(|stat| stat.value.clone()).collect::<Vec<_>>()
    };
    let counter = reference::Value::Counter;
    assert_eq!(told("d.named_a_b.total_hits"), [counter(7)]);
    assert_eq!(told("x_y.domain_not_found"), [counter(3)]);
}

#[test]
fn unknown_domains_stay_below_their_bound() {
    let case = Case::new(1);
    for domain in 0..10_000 {
        case.call(&format!("x{domain}"), ("plain", "a"), 0, 1, 0);
    }
    let unknown = case.metrics.unknown_domains();
    assert_eq!(unknown.len(), MOST_UNKNOWN_DOMAINS + 1);
    assert_eq!(unknown.iter().map(|(_, count)| count).sum::<u64>(), 10_000);
}

#[test]
fn the_most_used_is_shown_for_a_while() {
    let case = Case::new(10);
    let peak = |now| case.read(now)[0].1.peak;
    case.call("d", ("plain", "a"), 4, 1, 100);
    case.call("d", ("plain", "b"), 0, 1, 101);
    assert_eq!(peak(101), 5_000);
    case.call("d", ("plain", "b"), 1, 1, 116);
    assert_eq!(peak(116), 5_000);
    assert_eq!(peak(125), 2_000);
    assert_eq!(peak(300), 0);
    // A clock that is set back does not panic.
    case.call("d", ("plain", "b"), 1, 1, 5);
}

#[test]
fn calls_are_counted_by_their_answers() {
    let metrics = Metrics::default();
    metrics.answered(Protocol::Grpc, 0);
    metrics.answered(Protocol::Grpc, 14);
    metrics.answered(Protocol::Http, 99);
    metrics.took(Protocol::Grpc, Duration::from_micros(70), 2);
    let served = metrics.served(Protocol::Grpc);
    assert_eq!((served.codes[0], served.codes[14]), (1, 1));
    assert_eq!(served.latencies.sum, 140);
    assert_eq!(metrics.served(Protocol::Http).codes.iter().sum::<u64>(), 0);
}
