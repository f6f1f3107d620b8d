//! Limits that look at keys → a tree of rules.
//!
//! A limit that names a key as a variable counts each of its values; one that
//! only wants it to be another value than some counts all values together.
//! Where several limits meet one descriptor, each value that one of them names
//! is a rule of its own, with all limits that apply to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::engine::plan::MOST_LIMITS;

/// Orders of a limit's keys that are tried.
const MOST_ORDERS: usize = 24;

/// What a limit wants of a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    quota: Quota,
    /// In the order of the descriptor's entries.
    keys: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Quota {
    requests: u32,
    seconds: u64,
    name: String,
}

/// What a limit wants of a key's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Value {
    /// It is this one.
    equal: Option<String>,
    /// It is none of these.
    not: BTreeSet<String>,
    /// Each value has a count of its own.
    counts: bool,
}

/// Rules of one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    key: String,
    value: Any,
    limits: Vec<Quota>,
    below: Tree,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Any {
    /// This value.
    One(String),
    /// Any value, each with a count of its own.
    Each,
    /// Any value, all with one count.
    Together,
}

/// Which limit of those that were given cannot stand with the others, and why.
struct Conflict(String);

/// A limit, and how many of its keys have been met.
type Part<'w> = (&'w Wanted, usize);

/// A tree of as many of the limits as go together; those that do not, by
/// their place, and why.
pub(super) fn build(all: &[&Wanted]) -> (Tree, Vec<(usize, String)>) {
    let mut alike: Vec<Wanted> = vec![];
    for wanted in all {
        let like = alike.iter().find(|it| it.names() == wanted.names());
        alike.push(wanted.ordered_as(like.unwrap_or(wanted)));
    }
    if let Ok(tree) = level(&parts(alike.iter())) {
        return (tree, vec![]);
    }
    let mut kept: Vec<Wanted> = vec![];
    let mut tree = Tree::default();
    let mut left_out = vec![];
    for (place, wanted) in alike.iter().enumerate() {
        let mut why = String::new();
        let fits = orders(wanted, &kept).into_iter().find_map(|ordered| {
            match level(&parts(kept.iter().chain([&ordered]))) {
                Ok(tree) => Some((ordered, tree)),
                Err(Conflict(text)) => {
                    if why.is_empty() {
                        why = text;
                    }
                    None
                }
            }
        });
        match fits {
            Some((ordered, with_it)) => {
                kept.push(ordered);
                tree = with_it;
            }
            None => left_out.push((place, why)),
        }
    }
    (tree, left_out)
}

fn parts<'w>(all: impl Iterator<Item = &'w Wanted>) -> Vec<Part<'w>> {
    all.map(|wanted| (wanted, 0)).collect()
}

/// The limit with its keys in other orders; where one of the same keys is
/// kept, in the order of that alone: both are about one descriptor.
fn orders(wanted: &Wanted, kept: &[Wanted]) -> Vec<Wanted> {
    let names = wanted.names();
    if let Some(like) = kept.iter().find(|it| it.names() == names) {
        return vec![wanted.ordered_as(like)];
    }
    let mut orders = vec![wanted.clone()];
    let mut at = 0;
    while let Some(base) = orders.get(at).cloned() {
        for place in 1..base.keys.len() {
            let mut next = base.clone();
            next.keys.swap(0, place);
            let is_new = orders.iter().all(|known| known.keys != next.keys);
            if is_new && orders.len() < MOST_ORDERS {
                orders.push(next);
            }
        }
        at += 1;
    }
    orders
}

/// The rules for the next key of each of these.
fn level(parts: &[Part<'_>]) -> Result<Tree, Conflict> {
    let mut keys: Vec<&str> = vec![];
    for (wanted, at) in parts {
        if let Some((key, _)) = wanted.keys.get(*at)
            && !keys.contains(&key.as_str())
        {
            keys.push(key);
        }
    }
    let mut tree = Tree::default();
    for key in &keys {
        let here: Vec<Part<'_>> = parts
            .iter()
            .filter(|(wanted, at)| wanted.keys.get(*at).is_some_and(|(name, _)| name == key))
            .copied()
            .collect();
        rules_of_key(key, &here, &mut tree)?;
    }
    tree.check(&keys)?;
    Ok(tree)
}

fn rules_of_key(key: &str, here: &[Part<'_>], tree: &mut Tree) -> Result<(), Conflict> {
    let value = |part: &Part<'_>| part.0.keys[part.1].1.clone();
    let mut named: Vec<String> = vec![];
    for part in here {
        let Value { equal, not, .. } = value(part);
        for name in equal.into_iter().chain(not) {
            if !named.contains(&name) {
                named.push(name);
            }
        }
    }
    for name in named {
        let applies = |part: &&Part<'_>| match value(part) {
            Value {
                equal: Some(equal), ..
            } => equal == name,
            Value { not, .. } => !not.contains(&name),
        };
        let applying: Vec<Part<'_>> = here.iter().filter(applies).copied().collect();
        if applying.iter().any(|part| value(part).is_together()) {
            return Err(Conflict(format!(
                "it counts several values of {key} together, of which {name:?} has a limit of its own"
            )));
        }
        tree.0.push(rule(key, Any::One(name), &applying)?);
    }
    let others: Vec<Part<'_>> = here
        .iter()
        .filter(|part| value(part).equal.is_none())
        .copied()
        .collect();
    let together = others
        .iter()
        .filter(|part| value(part).is_together())
        .count();
    if together > 0 && together < others.len() {
        return Err(Conflict(format!(
            "of {key}, one limit counts each value and another one counts several together"
        )));
    }
    if !others.is_empty() {
        let any = if together > 0 {
            Any::Together
        } else {
            Any::Each
        };
        tree.0.push(rule(key, any, &others)?);
    }
    Ok(())
}

fn rule(key: &str, value: Any, applying: &[Part<'_>]) -> Result<Rule, Conflict> {
    let next: Vec<Part<'_>> = applying
        .iter()
        .map(|(wanted, at)| (*wanted, at + 1))
        .collect();
    let ends = next.iter().filter(|(wanted, at)| *at == wanted.keys.len());
    // Of two limits with one window the smaller one decides: both count the
    // same hits.
    let mut by_window: BTreeMap<u64, &Quota> = BTreeMap::new();
    for (Wanted { quota, .. }, _) in ends {
        let smallest = by_window.entry(quota.seconds).or_insert(quota);
        if quota.requests < smallest.requests {
            *smallest = quota;
        }
    }
    if by_window.len() > MOST_LIMITS {
        return Err(Conflict(format!(
            "a descriptor has at most {MOST_LIMITS} limits"
        )));
    }
    Ok(Rule {
        key: key.to_owned(),
        value,
        limits: by_window.into_values().cloned().collect(),
        below: level(&next)?,
    })
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn new(requests: u32, seconds: u64, name: &str) -> Self {
        Self {
            quota: Quota {
                requests,
                seconds,
                name: name.to_owned(),
            },
            keys: vec![],
        }
    }

    /// # Errors
    /// It can never apply, or no rule can say it.
    pub(super) fn compares(
        &mut self,
        key: &str,
        is_equal: bool,
        value: String,
    ) -> Result<(), String> {
        if value.contains('*') {
            return Err(format!(
                "{value:?}: a star in a rule's value stands for any text"
            ));
        }
        if value.is_empty() {
            return Err(format!(
                "no rule can ask for {key} to be empty, or not to be"
            ));
        }
        let wanted = self.value(key)?;
        let never = match (&wanted.equal, is_equal) {
            (Some(equal), true) => *equal != value,
            (Some(equal), false) => *equal == value,
            (None, true) => wanted.not.contains(&value),
            (None, false) => false,
        };
        if never {
            return Err(format!(
                "it can never apply: what it wants of {key} contradicts itself"
            ));
        }
        if is_equal {
            wanted.equal = Some(value);
            wanted.not.clear();
        } else if wanted.equal.is_none() {
            wanted.not.insert(value);
        }
        Ok(())
    }

    /// # Errors
    /// No rule can say it.
    pub(super) fn counts(&mut self, key: &str) -> Result<(), String> {
        self.value(key)?.counts = true;
        Ok(())
    }

    fn value(&mut self, key: &str) -> Result<&mut Value, String> {
        if key.contains('*') || key.is_empty() {
            return Err(format!("{key:?} cannot be the key of a rule"));
        }
        let place = match self.keys.iter().position(|(name, _)| name == key) {
            Some(place) => place,
            None => {
                self.keys.push((key.to_owned(), Value::default()));
                self.keys.len() - 1
            }
        };
        Ok(&mut self.keys[place].1)
    }

    fn names(&self) -> BTreeSet<&str> {
        self.keys.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn ordered_as(&self, like: &Self) -> Self {
        let mut keys = self.keys.clone();
        keys.sort_by_key(|(name, _)| like.keys.iter().position(|(other, _)| other == name));
        Self {
            quota: self.quota.clone(),
            keys,
        }
    }
}

// === impl Value ===

impl Value {
    /// Several values have one count.
    fn is_together(&self) -> bool {
        self.equal.is_none() && !self.counts
    }
}

// === impl Tree ===

impl Tree {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names are joined by `_` to be matched: those of one level must not meet.
    fn check(&self, keys: &[&str]) -> Result<(), Conflict> {
        let mut composites = BTreeSet::new();
        for rule in &self.0 {
            if !composites.insert(rule.composite()) {
                return Err(Conflict(format!(
                    "two rules would be called {}",
                    rule.composite()
                )));
            }
            let pattern = format!("{}_", rule.key);
            let met = keys.iter().find(|key| key.starts_with(&pattern));
            if let (Any::Together, Some(met)) = (&rule.value, met) {
                return Err(Conflict(format!(
                    "the rule for any {} would match {met}, too",
                    rule.key
                )));
            }
        }
        Ok(())
    }

    /// The keys of each descriptor that meets a limit.
    pub(super) fn descriptors(&self) -> Vec<Vec<String>> {
        let mut found = vec![];
        self.find_descriptors(&[], &mut found);
        found
    }

    fn find_descriptors(&self, above: &[String], found: &mut Vec<Vec<String>>) {
        for rule in &self.0 {
            let keys = [above, std::slice::from_ref(&rule.key)].concat();
            if !rule.limits.is_empty() && !found.contains(&keys) {
                found.push(keys.clone());
            }
            rule.below.find_descriptors(&keys, found);
        }
    }

    /// As YAML, below `descriptors:`.
    pub(super) fn write(&self, out: &mut String) {
        self.write_indented(0, out);
    }

    fn write_indented(&self, depth: usize, out: &mut String) {
        let indent = "    ".repeat(depth);
        for rule in &self.0 {
            // A String takes everything.
            let _ = writeln!(out, "{indent}  - key: {}", quoted(&rule.key));
            match &rule.value {
                Any::One(value) => {
                    let _ = writeln!(out, "{indent}    value: {}", quoted(value));
                }
                Any::Each => {}
                Any::Together => {
                    let _ = writeln!(
                        out,
                        "{indent}    value: \"*\"\n{indent}    share_threshold: true"
                    );
                }
            }
            match &rule.limits[..] {
                [] => {}
                [one] => {
                    let _ = writeln!(out, "{indent}    rate_limit: {}", one.yaml());
                }
                several => {
                    let _ = writeln!(out, "{indent}    rate_limits:");
                    for limit in several {
                        let _ = writeln!(out, "{indent}      - {}", limit.yaml());
                    }
                }
            }
            if !rule.below.is_empty() {
                let _ = writeln!(out, "{indent}    descriptors:");
                rule.below.write_indented(depth + 1, out);
            }
        }
    }
}

// === impl Rule ===

impl Rule {
    fn composite(&self) -> String {
        match &self.value {
            Any::One(value) => format!("{}_{value}", self.key),
            Any::Each => self.key.clone(),
            Any::Together => format!("{}_*", self.key),
        }
    }
}

// === impl Quota ===

impl Quota {
    fn yaml(&self) -> String {
        let Self {
            requests,
            seconds,
            name,
        } = self;
        let name = if name.is_empty() {
            String::new()
        } else {
            format!(", name: {}", quoted(name))
        };
        format!("{{requests_per_unit: {requests}, window: {seconds}s{name}}}")
    }
}

/// A text as YAML has it between quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
