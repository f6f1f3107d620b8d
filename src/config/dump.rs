//! Compiled rules → JSON, for people who ask what is loaded.

use serde_json::{Map, Value, json};

use crate::engine::{
    algorithm::Algorithm,
    calendar::WEEKDAYS,
    limit::{Limit, Quota, Unit},
    metadata,
    responses::{Body, ResponsesDef},
    rules::{Counting, Domain, LimitRule, RuleId, RuleSet, Source},
};

use super::{
    responses::{PROBLEM, RESET},
    schema,
};

/// Rules as JSON: domains sorted by name, rules in file order, each with its
/// source. Flags stand only where they are true.
///
/// Does not recurse over rules; the result is as deep as they are nested,
/// which [`super::compile()`] bounds.
#[must_use]
pub fn to_json(rules: &RuleSet) -> Value {
    let names = rules.domain_names();
    let domains = names.into_iter().filter_map(|name| {
        let domain = rules.domain(name.as_bytes())?;
        let mut value = json!({"domain": name, "descriptors": below(rules, domain.root())});
        for (key, word) in settings(domain) {
            value[key] = json!(word);
        }
        if let Some(responses) = &rules.detail(domain.root()).responses {
            value["responses"] = look(responses);
        }
        Some(value)
    });
    json!({"domains": domains.collect::<Vec<_>>()})
}

/// A line for each limit, as the reference shows what is loaded.
#[must_use]
pub fn to_lines(rules: &RuleSet) -> String {
    let mut lines = vec![];
    for id in rules.ids() {
        let rule = rules.rule(id);
        let limits: Vec<(&str, String)> = if rule.is_special() {
            let limits = rules.detail(id).limits.iter();
            let told = limits.filter(|limit| !limit.is_event());
            told.map(|limit| (limit.limit.window.unit().name(), quantity(limit.limit)))
                .collect()
        } else {
            match rule.quota {
                None => vec![],
                Some(Quota::Unlimited) => vec![("unknown", "0".to_owned())],
                Some(Quota::Limited(limit)) => vec![(limit.window.unit().name(), quantity(limit))],
            }
        };
        let path = if limits.is_empty() {
            continue;
        } else {
            format!("{}.{}", rules.domain_of(id), rules.path_text(id))
        };
        for (unit, requests) in limits {
            let unit = unit.to_ascii_uppercase();
            let (shadow, quota) = (rule.shadow_mode, rule.quota_mode);
            lines.push(format!(
                "{path}: unit={unit} requests_per_unit={requests}, shadow_mode: {shadow}, quota_mode: {quota}\n"
            ));
        }
    }
    lines.sort_unstable();
    lines.concat()
}

/// The reference knows no windows of several units.
fn quantity(limit: Limit) -> String {
    match limit.window.multiplier() {
        1 => limit.requests.to_string(),
        times => format!("{} unit_multiplier={times}", limit.requests),
    }
}

/// What files say for all of a domain: keys and words of the file format.
#[must_use]
pub fn settings(domain: Domain) -> Vec<(&'static str, &'static str)> {
    let policy = domain.policy();
    let charge = policy.charge.map(|it| schema::word(&schema::CHARGE, it));
    let failure = policy.on_store_failure;
    let failure = failure.map(|it| schema::word(&schema::ON_STORE_FAILURE, it));
    [("charge", charge), ("on_store_failure", failure)]
        .into_iter()
        .filter_map(|(key, word)| Some((key, word?)))
        .collect()
}

/// How many limits of a domain have `accuracy: leased`.
#[must_use]
pub fn leased_limits(rules: &RuleSet, domain: Domain) -> usize {
    let (mut count, mut below) = (0, vec![domain.root()]);
    while let Some(id) = below.pop() {
        let detail = rules.detail(id);
        count += usize::from(rules.rule(id).counting == Counting::Leased);
        count += detail.limits.iter().filter(|limit| limit.leased).count();
        below.extend(&detail.children);
    }
    count
}

/// A rule whose nested rules are being written.
struct Open {
    value: Map<String, Value>,
    ids: std::vec::IntoIter<RuleId>,
    done: Vec<Value>,
}

fn below(rules: &RuleSet, root: RuleId) -> Value {
    let open = |id: RuleId, value| Open {
        value,
        ids: rules.detail(id).children.clone().into_iter(),
        done: vec![],
    };
    let mut current = open(root, Map::new());
    let mut above = vec![];
    loop {
        if let Some(id) = current.ids.next() {
            let child = open(id, rule(rules, id));
            above.push(std::mem::replace(&mut current, child));
            continue;
        }
        let Some(parent) = above.pop() else {
            return Value::Array(current.done);
        };
        let mut finished = std::mem::replace(&mut current, parent);
        if !finished.done.is_empty() {
            let nested = Value::Array(finished.done);
            finished.value.insert("descriptors".into(), nested);
        }
        current.done.push(Value::Object(finished.value));
    }
}

fn rule(rules: &RuleSet, id: RuleId) -> Map<String, Value> {
    let (rule, detail) = (rules.rule(id), rules.detail(id));
    let mut value = Map::new();
    value.insert("key".into(), json!(*detail.key));
    if !detail.value.is_empty() {
        value.insert("value".into(), json!(*detail.value));
    }
    if let (Some(quota), false) = (rule.quota, rule.is_special()) {
        let mut limit = limit(quota, &detail.name, &detail.replaces);
        if rule.counting == Counting::Leased {
            limit.insert("accuracy".into(), json!("leased"));
        }
        value.insert("rate_limit".into(), Value::Object(limit));
    }
    let limits = detail.limits.iter().filter(|limit| !limit.is_event());
    let mut limits: Vec<Value> = limits.map(special).collect();
    match limits.len() {
        0 => {}
        1 => {
            value.insert("rate_limit".into(), limits.remove(0));
        }
        _ => {
            value.insert("rate_limits".into(), Value::Array(limits));
        }
    }
    for (name, flag) in [
        ("shadow_mode", rule.shadow_mode),
        ("quota_mode", rule.quota_mode),
        ("detailed_metric", detail.detailed_metric),
        ("value_to_metric", detail.value_to_metric),
        ("share_threshold", detail.share_threshold),
    ] {
        if flag {
            value.insert(name.into(), json!(true));
        }
    }
    if let Some(responses) = &detail.responses {
        value.insert("responses".into(), look(responses));
    }
    if !detail.metadata.is_empty() {
        value.insert("metadata".into(), map(&detail.metadata));
    }
    if let Some(source) = &detail.source {
        value.insert("source".into(), place(source));
    }
    value
}

/// What a management server sends has a name, but no lines.
fn place(source: &Source) -> Value {
    match source.line {
        0 => json!({"file": *source.file}),
        line => json!({"file": *source.file, "line": line}),
    }
}

fn limit(quota: Quota, name: &str, replaces: &[Box<str>]) -> Map<String, Value> {
    let mut value = Map::new();
    match quota {
        Quota::Unlimited => {
            value.insert("unlimited".into(), json!(true));
        }
        Quota::Limited(limit) => {
            value.insert("requests_per_unit".into(), json!(limit.requests));
            value.insert("unit".into(), json!(limit.window.unit().name()));
            if limit.window.multiplier() != 1 {
                let multiplier = json!(limit.window.multiplier());
                value.insert("unit_multiplier".into(), multiplier);
            }
            if let Some(calendar) = limit.window.calendar() {
                let (zone, week_starts) = calendar.parts();
                value.insert("time_zone".into(), json!(zone));
                if limit.window.unit() == Unit::Week {
                    let word = schema::word(&WEEKDAYS, week_starts);
                    value.insert("week_starts".into(), json!(word));
                }
            }
        }
    }
    if !name.is_empty() {
        value.insert("name".into(), json!(name));
    }
    if !replaces.is_empty() {
        let names = replaces.iter().map(|name| json!({"name": **name}));
        value.insert("replaces".into(), names.collect());
    }
    value
}

/// A limit that is more than a plain fixed window, or one of several.
fn special(rule: &LimitRule) -> Value {
    let quota = Quota::Limited(rule.limit);
    let mut value = limit(quota, &rule.name, &rule.replaces);
    if rule.leased {
        value.insert("accuracy".into(), json!("leased"));
    }
    let extra = &rule.extra;
    let mut set = |key: &str, member: Value| {
        value.insert(key.into(), member);
    };
    if let Some((_, opener)) = &extra.opened_by {
        set("opens_for", seconds(rule.limit.window.seconds()));
        set("opened_by", json!(opener));
    }
    if extra.flag_only {
        set("flag_only", json!(true));
    }
    if extra.notify_below > 0 {
        set("notify_below", json!(format!("{}%", extra.notify_below)));
    }
    let Some(method) = extra.method else {
        return Value::Object(value);
    };
    match method.algorithm {
        Algorithm::FixedWindow | Algorithm::Opened | Algorithm::Event => {}
        Algorithm::SlidingWindow => set("algorithm", json!("sliding_window")),
        Algorithm::SlidingLog => set("algorithm", json!("sliding_log")),
        Algorithm::Bucket {
            burst,
            max_queue: 0,
        } => {
            set("algorithm", json!("token_bucket"));
            set("burst", json!(burst));
        }
        Algorithm::Bucket { burst, max_queue } => {
            set("algorithm", json!("leaky_bucket"));
            set("burst", json!(burst));
            set("max_queue", json!(max_queue));
        }
        Algorithm::DistinctValues(distinct) => {
            set("count", json!("distinct_values"));
            if distinct.exact_up_to < u32::MAX {
                set("approximate", json!(true));
                set("exact_up_to", json!(distinct.exact_up_to));
            }
            if distinct.remember > 0 {
                set("remember", seconds(distinct.remember.into()));
            }
        }
    }
    if method.lockout > 0 {
        set("lockout", seconds(method.lockout.into()));
    }
    if let Some(warm_up) = method.warm_up {
        let over = seconds(warm_up.over.into());
        set("warm_up", json!({"from": warm_up.from, "over": over}));
    }
    Value::Object(value)
}

/// How answers look: what is said, and nothing else.
fn look(responses: &ResponsesDef) -> Value {
    let mut value = Map::new();
    let mut set = |key: &str, member: Option<Value>| {
        if let Some(member) = member {
            value.insert(key.into(), member);
        }
    };
    set(
        "headers",
        responses.headers.map(|styles| {
            let styles = [("legacy", styles.legacy), ("ietf", styles.ietf)];
            let sent = styles.into_iter().filter(|(_, sent)| *sent);
            sent.map(|(name, _)| name).collect()
        }),
    );
    let reset = responses.reset.map(|it| schema::word(&RESET, it));
    set("reset", reset.map(Value::from));
    set("retry_after", responses.retry_after.map(Value::from));
    let body = responses.body.as_ref().map(|body| match body {
        Body::Problem => PROBLEM.to_owned(),
        Body::Template(template) => template.to_string(),
    });
    set("body", body.map(Value::from));
    set(
        "content_type",
        responses.content_type.clone().map(Value::from),
    );
    set(
        "status_text",
        responses.status_text.clone().map(Value::from),
    );
    Value::Object(value)
}

fn seconds(seconds: u64) -> Value {
    json!(format!("{seconds}s"))
}

fn map(entries: &metadata::Map) -> Value {
    let entries = entries
        .iter()
        .map(|(key, value)| (key.clone(), free(value)));
    Value::Object(entries.collect())
}

fn free(value: &metadata::Value) -> Value {
    match value {
        metadata::Value::Null => Value::Null,
        metadata::Value::Bool(value) => json!(value),
        metadata::Value::Number(value) => json!(value),
        metadata::Value::Text(value) => json!(value),
        metadata::Value::List(values) => values.iter().map(free).collect(),
        metadata::Value::Map(entries) => map(entries),
    }
}
