//! What may come in from outside, and what has to hold whatever it is.
//!
//! Each function takes any bytes and panics where something does not hold.
//! The fuzzer in `fuzz/` looks for such bytes; [`super`] tries those kept.

#![allow(unreachable_pub, reason = "the fuzzer is another crate")]

use std::{
    collections::HashSet,
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
};

use prost::Message as _;
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{self, Options, Problems, SourceFile},
    engine::{
        decision::Policy,
        descriptor::{Descriptor, Entry, Hits, Request},
        headers::HeaderNames,
        key::HashSeed,
        limit::Unit,
        matching,
        plan::Plan,
        rules::{Domain, DomainDef, RuleDef, RuleId, RuleSet, composite_key},
        time::Timestamp,
        wildcard::{Pattern, WildcardIndex},
    },
    limiter::Limiter,
    proto::envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry as ProtoEntry, RateLimitOverride},
        },
        service::ratelimit::v3::{RateLimitRequest, RateLimitResponse, rate_limit_response::Code},
    },
    service::{
        grpc::Api,
        wire::{BadRequest, Bounds, Message, ResponseSettings},
    },
    storage::{
        AnyStore, ChargeMode, Ladder, MemoryStore,
        memory::{Config, WhenFull},
    },
};
use serde_json::Value;

// === rules ===

/// Separates files; no YAML may hold it, so nothing is lost.
const FILE_END: u8 = 0x1E;
const MOST_FILES: usize = 3;
/// Rules of one configuration that are looked for.
const MOST_PATHS: usize = 64;

/// Bytes as rules files: loads in a dialect or tells why not; what loads
/// can be shown, and its rules are found.
pub fn rules(bytes: &[u8]) {
    let files: Vec<SourceFile> = bytes
        .splitn(MOST_FILES, |&byte| byte == FILE_END)
        .zip(["a.yaml", "b.yaml", "c.yaml"])
        .map(|(bytes, name)| SourceFile {
            name: name.into(),
            bytes: bytes.to_vec(),
        })
        .collect();
    for (merge_domains, compat) in [(false, false), (true, false), (false, true), (true, true)] {
        let options = Options {
            merge_domains,
            compat,
        };
        match config::compile(&files, &options) {
            Ok(rules) => loaded(&rules),
            Err(problems) => refused(&problems),
        }
    }
}

fn refused(problems: &Problems) {
    assert!(!problems.is_empty(), "refused without a reason");
    assert!(!problems.to_string().is_empty());
    assert!(!problems.to_json().is_null());
    assert!(!problems.compat_lines().is_empty());
    for problem in problems.list() {
        assert!(problem.line > 0 && problem.column > 0, "{problem:?}");
    }
}

fn loaded(rules: &RuleSet) {
    let shown = config::to_json(rules).to_string();
    for name in rules.domain_names() {
        assert!(shown.contains(&Value::from(name).to_string()), "{name}");
        let domain = rules.domain(name.as_bytes());
        let domain = domain.expect("a domain that is listed");
        let mut open = vec![domain.root()];
        for _ in 0..MOST_PATHS {
            let Some(id) = open.pop() else { break };
            open.extend(&rules.detail(id).children);
            if id != domain.root() {
                is_found(rules, name, domain, id);
            }
        }
    }
}

/// A descriptor written like the rule leads to it, where all of the path
/// name values: without one, a neighbour may be meant.
fn is_found(rules: &RuleSet, name: &str, domain: Domain, id: RuleId) {
    let path = rules.path(id);
    let details = path.iter().map(|&id| rules.detail(id));
    let entries: Vec<Entry<'_>> = details
        .map(|detail| Entry {
            key: detail.key.as_bytes(),
            value: detail.value.as_bytes(),
        })
        .collect();
    let found = matching::find(rules, domain, &entries, &mut vec![]);
    if entries.iter().all(|entry| !entry.value.is_empty()) {
        assert_eq!(found, Some(id), "{entries:?}");
    }
    let descriptor = Descriptor {
        entries: &entries,
        limit: None,
        hits: Hits::Take(1),
    };
    let request = Request {
        domain: name.as_bytes(),
        descriptors: &[descriptor],
    };
    let plan = Plan::new(rules, &request, false, &mut vec![]);
    assert_eq!(plan.planned.len(), 1);
    for charge in &plan.charges {
        assert!(!charge.key.canonical().is_empty());
    }
}

// === request ===

/// A bit of everything that rules can say.
const RULES: &str = r#"
domain: d
descriptors:
- {key: k, rate_limit: {requests_per_unit: 2, unit: minute}}
- {key: k, value: v, rate_limit: {name: kv, requests_per_unit: 3, unit: hour}}
- {key: k, value: w*, share_threshold: true, rate_limit: {requests_per_unit: 1, unit: week}}
- {key: k, value: "*x*y", shadow_mode: true, rate_limit: {requests_per_unit: 0, unit: second}}
- {key: u, rate_limit: {unlimited: true}}
- key: n
  metadata: {a: [1, two, null, {b: true}]}
  descriptors:
  - {key: m, quota_mode: true, rate_limit: {requests_per_unit: 4294967295, unit: year}}
  - {key: r, rate_limit: {name: r, requests_per_unit: 1, unit: month, replaces: [{name: kv}]}}
"#;

/// Compiled once: that takes longer than all else.
static COMPILED: LazyLock<Arc<RuleSet>> = LazyLock::new(|| {
    let file = SourceFile {
        name: "rules.yaml".into(),
        bytes: RULES.into(),
    };
    let rules = config::compile(&[file], &Options::default());
    Arc::new(rules.expect("rules that load"))
});

/// Bytes as a message: read as the generated code reads it, decided and
/// answered.
pub fn request(bytes: &[u8]) {
    let bounds = Bounds::default();
    let ours = Message::decode(bytes, &bounds);
    let theirs = RateLimitRequest::decode(bytes);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => is_same(ours, theirs),
        // The generated code checks that the domain is text; for us a domain
        // that is none has no rules. In return it takes deeper groups, and
        // knows no bounds.
        (Ok(_), Err(error)) => {
            assert!(error.to_string().contains("UTF-8"), "{error}");
        }
        (Err(BadRequest::TooLarge(..)), Ok(_)) => {}
        (Err(error), Ok(_)) => assert!(has_deep_groups(bytes), "{error}"),
        (Err(_), Err(_)) => {}
    }
    let (api, clock) = api(&bounds);
    // Again later, and at the end of time.
    for now in [1_000_000_000, 1_000_000_001, u64::MAX] {
        clock.set(Timestamp::from_secs(now));
        let answer = api.should_rate_limit_now(bytes, None);
        match answer.expect("the memory store does not wait") {
            Ok(framed) => is_answer(&framed, ours.as_ref().expect("an answer")),
            Err(status) => assert!(!status.message().is_empty()),
        }
    }
}

/// A run of bytes that could open more groups than we follow.
fn has_deep_groups(bytes: &[u8]) -> bool {
    bytes.iter().filter(|&&byte| byte & 7 == 3).count() > 32
}

fn is_same(ours: &Message<'_>, theirs: &RateLimitRequest) {
    assert_eq!(ours.domain(), theirs.domain.as_bytes());
    let descriptors = ours.descriptors();
    assert_eq!(descriptors.len(), theirs.descriptors.len());
    for (ours, descriptor) in descriptors.iter().zip(&theirs.descriptors) {
        let entries = descriptor.entries.iter().map(|entry| Entry {
            key: &entry.key,
            value: &entry.value,
        });
        assert_eq!(ours.entries, entries.collect::<Vec<_>>());
        let own = descriptor.hits_addend;
        let amount = own.unwrap_or_else(|| theirs.hits_addend.max(1).into());
        let hits = match descriptor.is_negative_hits {
            true => Hits::GiveBack(amount),
            false => Hits::Take(amount),
        };
        assert_eq!(ours.hits, hits);
        let limit = descriptor.limit.as_ref();
        assert_eq!(
            ours.limit.map(|limit| {
                let window = limit.window;
                (limit.requests, window.unit(), window.multiplier())
            }),
            limit.and_then(|limit| {
                let multiplier = limit.unit_multiplier.unwrap_or_default().max(1);
                Some((limit.requests_per_unit, unit(limit.unit)?, multiplier))
            })
        );
    }
}

/// The unit of a number, as Envoy counts them.
fn unit(number: i32) -> Option<Unit> {
    Some(match number {
        1 => Unit::Second,
        2 => Unit::Minute,
        3 => Unit::Hour,
        4 => Unit::Day,
        5 => Unit::Month,
        6 => Unit::Year,
        7 => Unit::Week,
        _ => return None,
    })
}

fn is_answer(framed: &[u8], asked: &Message<'_>) {
    let (header, encoded) = framed.split_at(5);
    let len = u32::try_from(encoded.len()).expect("a short answer");
    assert_eq!(header[0], 0);
    assert_eq!(header[1..], len.to_be_bytes());
    let answer = RateLimitResponse::decode(encoded).expect("an answer is a message");
    let statuses = &answer.statuses;
    assert_eq!(statuses.len(), asked.descriptors().len());
    let over = statuses
        .iter()
        .any(|status| status.code() == Code::OverLimit);
    match answer.overall_code() {
        Code::Ok => {}
        Code::OverLimit => assert!(over, "refused without a reason: {answer:?}"),
        Code::Unknown => panic!("no code: {answer:?}"),
    }
    assert!(answer.dynamic_metadata.is_some());
    for status in statuses {
        assert_ne!(status.code(), Code::Unknown);
        if let Some(limit) = &status.current_limit {
            assert!(
                status.limit_remaining <= limit.requests_per_unit,
                "{status:?}"
            );
        }
    }
}

/// A server's inside with nothing counted, and its clock.
fn api(bounds: &Bounds) -> (Api, ManualClock) {
    let clock = ManualClock::at(Timestamp::from_secs(1_000_000_000));
    let store = MemoryStore::new(
        Config {
            max_counters: 64,
            when_full: WhenFull::Deny,
        },
        HashSeed(1, 2),
    );
    let limiter = Limiter::new(
        Clock::Manual(clock.clone()),
        AnyStore::Memory(store),
        Ladder::none(),
        Policy::default(),
        ChargeMode::Always,
    );
    limiter.set_rules(Arc::clone(&COMPILED));
    let headers = HeaderNames::new("limit", "left", "reset").expect("names of headers");
    let api = Api {
        limiter: Arc::new(limiter),
        bounds: *bounds,
        response: ResponseSettings {
            headers: Some(headers),
            dynamic_metadata: true,
        },
        compat: false,
        unknown_code: false,
        tracer: None,
    };
    (api, clock)
}

// === json ===

/// Bytes as a request in JSON: answered like the same one over gRPC.
pub fn json(bytes: &[u8]) {
    let bounds = Bounds::default();
    let (by_json, _) = api(&bounds);
    let Ok((answer, code)) = at_once(by_json.answer_json(bytes, None)) else {
        return;
    };
    let read: Value = serde_json::from_slice(bytes).expect("what was answered is JSON");
    let encoded = plain_request(&read).encode_to_vec();
    let (by_grpc, _) = api(&bounds);
    let framed =
        at_once(by_grpc.should_rate_limit(&encoded, None, None)).expect("an answer over gRPC, too");
    is_answer(
        &framed,
        &Message::decode(&encoded, &bounds).expect("a message"),
    );
    let response = RateLimitResponse::decode(&framed[5..]).expect("an answer is a message");
    assert_eq!(code, response.overall_code());
    assert_eq!(answer["overallCode"], code.as_str_name());
    let statuses = answer["statuses"].as_array().expect("a list");
    assert_eq!(statuses.len(), response.statuses.len());
    for (json, status) in statuses.iter().zip(&response.statuses) {
        assert_eq!(json["code"], status.code().as_str_name());
        let left = json.get("limitRemaining").map_or(0, number);
        assert_eq!(left, u64::from(status.limit_remaining));
        assert_eq!(
            json.get("currentLimit").is_some(),
            status.current_limit.is_some()
        );
    }
}

/// A request that is known to be right, read without any care.
fn plain_request(json: &Value) -> RateLimitRequest {
    RateLimitRequest {
        domain: text(&json["domain"]).to_owned(),
        descriptors: each(&json["descriptors"], |json| RateLimitDescriptor {
            entries: each(&json["entries"], |json| ProtoEntry {
                key: text(&json["key"]).to_owned().into(),
                value: text(&json["value"]).to_owned().into(),
            }),
            limit: member(json, ["limit", "limit"]).map(|json| RateLimitOverride {
                requests_per_unit: small(json, ["requestsPerUnit", "requests_per_unit"]),
                unit: plain_unit(&json["unit"]),
                unit_multiplier: Some(small(json, ["unitMultiplier", "unit_multiplier"])),
            }),
            hits_addend: member(json, ["hitsAddend", "hits_addend"]).map(number),
            is_negative_hits: member(json, ["isNegativeHits", "is_negative_hits"])
                == Some(&Value::Bool(true)),
        }),
        hits_addend: small(json, ["hitsAddend", "hits_addend"]),
    }
}

fn member<'a>(json: &'a Value, names: [&str; 2]) -> Option<&'a Value> {
    let member = names.into_iter().find_map(|name| json.get(name));
    member.filter(|value| !value.is_null())
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

fn each<T>(json: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    let list = json.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(read).collect()
}

fn small(json: &Value, names: [&str; 2]) -> u32 {
    let number = member(json, names).map_or(0, number);
    u32::try_from(number).expect("a number of 32 bits")
}

fn number(json: &Value) -> u64 {
    match json {
        Value::String(text) => text.parse().expect("a number"),
        Value::Number(number) => number.as_u64().unwrap_or_else(|| {
            let whole = format!("{:.0}", number.as_f64().expect("a number"));
            whole
                .trim_start_matches('-')
                .parse()
                .expect("a whole number")
        }),
        _ => panic!("no number: {json}"),
    }
}

fn plain_unit(json: &Value) -> i32 {
    let names = [
        "UNKNOWN", "SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR", "WEEK",
    ];
    match json {
        Value::String(name) => {
            let place = names.iter().position(|known| known == name);
            i32::try_from(place.expect("a unit")).expect("a small number")
        }
        _ => i32::try_from(json.as_i64().unwrap_or_default()).expect("a number of 32 bits"),
    }
}

fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the memory store does not wait"),
    }
}

// === wildcard ===

const MOST_PATTERNS: usize = 16;
const LONGEST: usize = 64;

/// Lines as one `key=value` to look up, and patterns that it is looked up
/// in: alone, in the index and in compiled rules, all as the definition says.
pub fn wildcard(bytes: &[u8]) {
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| &line[..line.len().min(LONGEST)]);
    let asked = lines.next().unwrap_or_default();
    let patterns: Vec<&[u8]> = lines.take(MOST_PATTERNS).collect();
    alone_and_indexed(asked, &patterns);
    in_rules(asked, &patterns);
}

fn alone_and_indexed(asked: &[u8], patterns: &[&[u8]]) {
    let mut ranked = vec![];
    let mut expected = None;
    for (pattern, rank) in patterns.iter().zip(0..) {
        let Some(read) = Pattern::new(pattern) else {
            assert!(!pattern.contains(&b'*'));
            continue;
        };
        let matches = is_instance(pattern, asked);
        assert_eq!(read.matches(asked), matches, "{pattern:?}");
        if matches && expected.is_none() {
            expected = Some(rank);
        }
        ranked.push((read, rank));
    }
    assert_eq!(WildcardIndex::new(ranked).first_match(asked), expected);
}

fn in_rules(asked: &[u8], patterns: &[&[u8]]) {
    let mut seen = HashSet::new();
    let mut definitions = vec![];
    for pattern in patterns {
        let text = String::from_utf8_lossy(pattern);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        if !key.is_empty() && seen.insert(composite_key(key, value)) {
            definitions.push(definition(key, value));
        }
    }
    let composites: Vec<String> = definitions
        .iter()
        .map(|rule| composite_key(&rule.key, &rule.value))
        .collect();
    let domain = DomainDef {
        name: "d".to_owned(),
        rules: definitions,
        ..DomainDef::default()
    };
    let rules = RuleSet::compile(vec![domain]).expect("a few rules");
    let root = rules.domain(b"d").expect("the domain").root();
    let (key, value) = match asked.iter().position(|&byte| byte == b'=') {
        Some(at) => (&asked[..at], &asked[at + 1..]),
        None => (asked, &b""[..]),
    };
    let found = matching::step(&rules, root, Entry { key, value }, &mut vec![]);
    let found = found.map(|(id, _)| rules.rule(id).composite());
    let text = [key, value].join(&b'_');
    let find = |is_it: &dyn Fn(&[u8]) -> bool| {
        let mut composites = composites.iter().map(String::as_bytes);
        composites.find(|composite| is_it(composite))
    };
    let expected = find(&|composite| composite == text)
        .or_else(|| find(&|composite| composite.contains(&b'*') && is_instance(composite, &text)))
        .or_else(|| find(&|composite| composite == key));
    assert_eq!(found, expected);
}

fn definition(key: &str, value: &str) -> RuleDef {
    RuleDef {
        key: key.to_owned(),
        value: value.to_owned(),
        ..RuleDef::default()
    }
}

/// The definition of a pattern, without any cleverness: which lengths of
/// `text` the pattern so far can stand for.
fn is_instance(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for &byte in pattern {
        if byte == b'*' {
            for at in 1..reached.len() {
                reached[at] |= reached[at - 1];
            }
        } else {
            for at in (1..reached.len()).rev() {
                reached[at] = reached[at - 1] && text[at - 1] == byte;
            }
            reached[0] = false;
        }
    }
    reached[text.len()]
}
