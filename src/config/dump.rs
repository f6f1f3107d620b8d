//! Compiled rules → JSON, for people who ask what is loaded.

use serde_json::{Map, Value, json};

use crate::engine::{
    limit::Quota,
    metadata,
    rules::{Domain, RuleId, RuleSet},
};

use super::schema;

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
        Some(value)
    });
    json!({"domains": domains.collect::<Vec<_>>()})
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
        count += usize::from(rules.rule(id).leased);
        below.extend(&rules.detail(id).children);
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
    if let Some(quota) = rule.quota {
        let mut limit = limit(quota, &detail.name, &detail.replaces);
        if rule.leased {
            limit.insert("accuracy".into(), json!("leased"));
        }
        value.insert("rate_limit".into(), Value::Object(limit));
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
    if !detail.metadata.is_empty() {
        value.insert("metadata".into(), map(&detail.metadata));
    }
    if let Some(source) = &detail.source {
        let source = json!({"file": *source.file, "line": source.line});
        value.insert("source".into(), source);
    }
    value
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
