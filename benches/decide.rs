//! The engine alone: a request is matched, its counter's step computed, the
//! decision made. No store, no clock, no protobuf.
//!
//! Every request asks for another rule, drawn at random from all of them, so
//! that with many rules neither the rule nor its place in the table is in a
//! near cache: what a server sees whose clients use all of its rules. The
//! requests themselves lie in memory in the order of their use, as a request
//! that has just been decoded does.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use ratekeeper::engine::{
    algorithm::{Observation, fixed_window},
    decision::{Code, Decision, Policy},
    descriptor::{Descriptor, Entry, Hits, Request},
    limit::{Limit, Quota, Unit, Window},
    plan::{PerDescriptor, Plan},
    rules::{DomainDef, Extra, LimitDef, RuleDef, RuleSet},
    time::Timestamp,
};

const SIZES: [usize; 4] = [1, 100, 10_000, 100_000];
/// Each rule of the largest set once, before the first one again: more would
/// only take cache from the rules that a server's requests do not take.
const REQUESTS: usize = 100_000;
const DOMAIN: &str = "bench";

/// How the rules look.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// `user` with a value each.
    Exact,
    /// `path` with a pattern each: `/service-000123/*`.
    Wildcard,
    /// Four levels; the last one's values are the rules.
    Nested,
}

// === rules ===

impl Shape {
    const ALL: [Self; 3] = [Self::Exact, Self::Wildcard, Self::Nested];

    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Nested => "4 levels",
        }
    }

    /// `count` rules with a limit.
    fn rules(self, count: usize) -> Vec<RuleDef> {
        match self {
            Self::Exact => (0..count)
                .map(|n| limited("user", &format!("user-{n:06}")))
                .collect(),
            Self::Wildcard => (0..count)
                .map(|n| limited("path", &format!("/service-{n:06}/*")))
                .collect(),
            Self::Nested => nested(count),
        }
    }

    /// The path to the rule of that number, with a value of its own.
    fn path(self, rule: usize, count: usize, random: u32) -> Vec<(String, String)> {
        let own = |key: &str, value: String| (key.to_owned(), value);
        match self {
            Self::Exact => vec![own("user", format!("user-{rule:06}"))],
            Self::Wildcard => vec![own("path", format!("/service-{rule:06}/item-{random}"))],
            Self::Nested => {
                let [tenant, region, service] = levels(rule, count);
                vec![
                    own("tenant", format!("tenant-{tenant}")),
                    own("region", format!("region-{region}")),
                    own("service", format!("service-{service}")),
                    own("user", format!("user-{rule:06}")),
                ]
            }
        }
    }
}

/// Where a rule is in a tree whose inner levels branch alike.
fn levels(rule: usize, count: usize) -> [usize; 3] {
    let branches = branches(count);
    [
        rule % branches,
        rule / branches % branches,
        rule / branches / branches % branches,
    ]
}

fn branches(count: usize) -> usize {
    (1..).find(|n: &usize| n.pow(4) >= count).unwrap_or(1)
}

fn nested(count: usize) -> Vec<RuleDef> {
    let mut tenants: Vec<RuleDef> = vec![];
    for rule in 0..count {
        let [tenant, region, service] = levels(rule, count);
        let tenant = child(&mut tenants, "tenant", tenant);
        let region = child(&mut tenant.children, "region", region);
        let service = child(&mut region.children, "service", service);
        service
            .children
            .push(limited("user", &format!("user-{rule:06}")));
    }
    tenants
}

fn child<'a>(level: &'a mut Vec<RuleDef>, key: &str, number: usize) -> &'a mut RuleDef {
    let value = format!("{key}-{number}");
    let at = level.iter().position(|rule| rule.value == value);
    let at = at.unwrap_or_else(|| {
        level.push(rule(key, &value, None));
        level.len() - 1
    });
    &mut level[at]
}

fn limited(key: &str, value: &str) -> RuleDef {
    let limit = Limit {
        requests: 1_000,
        window: Window::of(Unit::Minute),
    };
    let limit = LimitDef {
        leased: false,
        extra: Extra::default(),
        quota: Quota::Limited(limit),
        name: String::new(),
        replaces: vec![],
    };
    rule(key, value, Some(limit))
}

fn rule(key: &str, value: &str, limit: Option<LimitDef>) -> RuleDef {
    RuleDef {
        key: key.to_owned(),
        value: value.to_owned(),
        limit,
        ..RuleDef::default()
    }
}

// === requests ===

/// The texts of all requests in one piece of memory, in the order of use.
struct Requests {
    texts: Vec<u8>,
    /// End of each text.
    ends: Vec<u32>,
    /// Texts of one request: key, value, key, value …
    each: usize,
    next: usize,
}

impl Requests {
    fn new(shape: Shape, rules: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(1);
        // Every rule as often as any other.
        let mut order: Vec<usize> = (0..rules).cycle().take(REQUESTS).collect();
        order.shuffle(&mut random);
        let mut requests = Self {
            texts: vec![],
            ends: vec![],
            each: 0,
            next: 0,
        };
        for rule in order {
            let path = shape.path(rule, rules, random.random_range(0..1_000_000));
            requests.each = path.len() * 2;
            for text in path.iter().flat_map(|(key, value)| [key, value]) {
                requests.texts.extend_from_slice(text.as_bytes());
                requests
                    .ends
                    .push(u32::try_from(requests.texts.len()).expect("a few megabytes"));
            }
        }
        requests
    }

    /// The next request's entries; after the last the first again.
    fn next(&mut self) -> PerDescriptor<Entry<'_>> {
        let first = self.next;
        self.next = (first + self.each) % self.ends.len();
        let text = |at: usize| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.texts[start as usize..self.ends[at] as usize]
        };
        (first..first + self.each)
            .step_by(2)
            .map(|at| Entry {
                key: text(at),
                value: text(at + 1),
            })
            .collect()
    }
}

// === measuring ===

fn decide(rules: &RuleSet, entries: &[Entry<'_>], now: Timestamp, scratch: &mut Vec<u8>) -> Code {
    let descriptors = [Descriptor {
        entries,
        limit: None,
        hits: Hits::Take(1),
    }];
    let request = Request {
        domain: DOMAIN.as_bytes(),
        descriptors: &descriptors,
    };
    let plan = Plan::new(rules, &request, false, scratch);
    let seen: PerDescriptor<Observation> = plan
        .charges
        .iter()
        .map(|charge| fixed_window(charge.limit, None, charge.hits, now).observation)
        .collect();
    assert_eq!(seen.len(), 1, "a rule applies");
    Decision::new(rules, &plan, &seen, &Policy::default(), now).code
}

fn all(criterion: &mut Criterion) {
    let now = Timestamp::from_secs(1_800_000_000);
    for shape in Shape::ALL {
        let mut group = criterion.benchmark_group(shape.name());
        for count in SIZES {
            let domain = DomainDef {
                name: DOMAIN.to_owned(),
                rules: shape.rules(count),
                ..DomainDef::default()
            };
            let rules = RuleSet::compile(vec![domain]).expect("few enough");
            let mut requests = Requests::new(shape, count);
            let mut scratch = vec![];
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| decide(&rules, black_box(&requests.next()), now, &mut scratch));
            });
        }
        group.finish();
    }
    // What of it is the benchmark's own: the request is fetched, not decided.
    let mut requests = Requests::new(Shape::Exact, 100_000);
    criterion.bench_function("fetching a request", |bencher| {
        bencher.iter(|| black_box(requests.next()).len());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
