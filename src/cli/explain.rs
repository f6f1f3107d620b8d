//! `ratekeeper explain`: which rule does a descriptor meet, and why?

use std::{fmt::Write as _, io::Write, path::PathBuf};

use anyhow::{Context as _, bail};

use crate::{
    config::{self, ReadOptions, RulesSource},
    engine::{
        descriptor::{Descriptor, Entry, Hits, Request},
        limit::Quota,
        matching::{self, Kind},
        plan::{Charge, Grant, Plan},
        rules::{Counting, LimitRule, RuleId, RuleSet},
    },
};

/// Children named in a near miss.
const MOST_CHILDREN: usize = 20;

/// Shows the path that each descriptor takes through the rules.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  ratekeeper explain --rules config/quickstart --domain quickstart user=ann path=/login,method=POST")]
pub struct Explain {
    /// A rules file, or a folder of them
    #[arg(long, env = "RATEKEEPER_RULES", value_name = "PATH")]
    pub rules: PathBuf,
    /// The request's domain
    #[arg(long)]
    pub domain: String,
    /// Join files of the same domain
    #[arg(long)]
    pub merge_domains: bool,
    /// Descriptors, each KEY=VALUE,KEY=VALUE; the first `=` ends the key
    #[arg(required = true, value_name = "KEY=VALUE,…")]
    pub descriptors: Vec<String>,
}

/// Whether a limit applies to any of the descriptors.
pub type Applies = bool;

/// Explains, and writes it to `out`.
///
/// # Errors
/// The rules cannot be read, a descriptor cannot, or `out` fails.
pub fn run(explain: &Explain, out: &mut impl Write) -> anyhow::Result<Applies> {
    let source = RulesSource {
        path: Some(explain.rules.clone()),
        read: ReadOptions::default(),
        compile: config::Options {
            merge_domains: explain.merge_domains,
            compat: false,
        },
    };
    let rules = source.compile(&source.read()?)?;
    let descriptors = explain
        .descriptors
        .iter()
        .map(|text| parse_descriptor(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let text = Explanation::new(&rules, &explain.domain).of(&descriptors);
    out.write_all(text.text.as_bytes())
        .context("standard output")?;
    Ok(text.applies)
}

/// Reads `key=value,key=value`.
///
/// # Errors
/// A pair has no `=`.
pub(crate) fn parse_descriptor(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    text.split(',')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => bail!("descriptor {text:?}: {pair:?} is not KEY=VALUE"),
        })
        .collect()
}

struct Explanation<'a> {
    rules: &'a RuleSet,
    domain: &'a str,
    text: String,
    applies: bool,
}

// === impl Explanation ===

impl<'a> Explanation<'a> {
    fn new(rules: &'a RuleSet, domain: &'a str) -> Self {
        Self {
            rules,
            domain,
            text: String::new(),
            applies: false,
        }
    }

    fn of(mut self, asked: &[Vec<(String, String)>]) -> Self {
        let entries: Vec<Vec<Entry<'_>>> = asked.iter().map(|pairs| to_entries(pairs)).collect();
        let descriptors: Vec<Descriptor<'_>> = entries
            .iter()
            .map(|entries| Descriptor {
                entries,
                limit: None,
                hits: Hits::Take(1),
            })
            .collect();
        let request = Request {
            domain: self.domain.as_bytes(),
            descriptors: &descriptors,
        };
        let plan = Plan::new(self.rules, &request, false, &mut Vec::new());
        let mut charges = plan.charges.iter();
        self.for_all();
        for (entries, planned) in entries.iter().zip(&plan.planned) {
            let found = self.walk(entries);
            if let Some(rule) = planned.rule {
                let path = self.rules.path_text(rule);
                self.line(1, &format!("rule: {path}"));
            }
            let limits: Vec<&LimitRule> = planned.limits(self.rules).map(|(_, l)| l).collect();
            for limit in &limits {
                self.applies |= !limit.is_event();
                let told = tell_limit(limit);
                let modes = self.modes(planned.rule);
                self.line(1, &format!("limit: {told}{modes}"));
                if let Some(charge) = charges.next() {
                    self.counter(charge);
                }
            }
            if !limits.is_empty() {
                continue;
            }
            match planned.grant {
                Grant::Limited(limit) => {
                    self.applies = true;
                    self.line(
                        1,
                        &format!("limit: {limit}{}", self.limit_name(planned.rule)),
                    );
                    if let Some(charge) = charges.next() {
                        self.counter(charge);
                    }
                }
                Grant::Unlimited => self.line(1, "unlimited: passes, uncounted"),
                Grant::Nothing => self.why_not(found, planned.replaced),
            }
        }
        self
    }

    fn counter(&mut self, charge: &Charge<'_>) {
        let mut key = format!("counter: {}", self.domain);
        charge.key.for_each_entry(|name, value| {
            let _ = write!(key, " | {}={}", lossy(name), lossy(value));
        });
        let _ = write!(key, " | per {}", charge.limit.window);
        self.line(1, &key);
    }

    /// What the domain says for all of its requests, if anything.
    fn for_all(&mut self) {
        let Some(domain) = self.rules.domain(self.domain.as_bytes()) else {
            return;
        };
        let words = config::dump::settings(domain);
        let words: Vec<String> = words
            .iter()
            .map(|(k, word)| format!("{k}: {word}"))
            .collect();
        if !words.is_empty() {
            self.line(
                0,
                &format!("domain `{}`: {}", self.domain, words.join(", ")),
            );
        }
    }

    /// Walks level by level and tells of each step; the rule at the end.
    fn walk(&mut self, entries: &[Entry<'_>]) -> Option<RuleId> {
        let title: Vec<String> = entries.iter().map(pair).collect();
        self.line(0, &title.join(", "));
        let Some(domain) = self.rules.domain(self.domain.as_bytes()) else {
            let known = self.rules.domain_names().join(", ");
            self.line(
                1,
                &format!("domain `{}` is not known; domains: {known}", self.domain),
            );
            return None;
        };
        let mut at = domain.root();
        for entry in entries {
            match matching::step(self.rules, at, *entry, &mut Vec::new()) {
                Some((child, kind)) => {
                    self.step(entry, child, kind);
                    at = child;
                }
                None => {
                    self.near_miss(at, entry);
                    return None;
                }
            }
        }
        Some(at)
    }

    fn step(&mut self, entry: &Entry<'_>, child: RuleId, kind: Kind) {
        let how = match kind {
            Kind::Exact => "is exactly",
            Kind::Wildcard => "matches the wildcard",
            Kind::KeyOnly => "has any value for",
        };
        let detail = self.rules.detail(child);
        let place = match &detail.source {
            Some(source) => format!("{}:{}", source.file, source.line),
            None => String::new(),
        };
        let text = format!("{} {how} `{}` ({place})", pair(entry), self.name(child));
        self.line(1, &text);
    }

    fn near_miss(&mut self, parent: RuleId, entry: &Entry<'_>) {
        let children = &self.rules.detail(parent).children;
        let place = if self.rules.detail(parent).source.is_none() {
            format!("domain `{}`", self.domain)
        } else {
            format!("`{}`", self.name(parent))
        };
        if children.is_empty() {
            let text = format!(
                "{} goes deeper than the rules: {place} has no children",
                pair(entry)
            );
            return self.line(1, &text);
        }
        let mut names: Vec<String> = children
            .iter()
            .take(MOST_CHILDREN)
            .map(|&child| self.name(child))
            .collect();
        if children.len() > MOST_CHILDREN {
            names.push(format!("and {} more", children.len() - MOST_CHILDREN));
        }
        let same_key = children
            .iter()
            .any(|&child| self.rules.detail(child).key.as_bytes() == entry.key);
        let what = if same_key {
            format!("value `{}` of `{}`", lossy(entry.value), lossy(entry.key))
        } else {
            format!("key `{}`", lossy(entry.key))
        };
        let text = format!(
            "{what} matched no child of {place}; children: {}",
            names.join(", ")
        );
        self.line(1, &text);
    }

    fn why_not(&mut self, found: Option<RuleId>, replaced: bool) {
        let text = match found {
            Some(_) if replaced => "no limit: another descriptor's limit replaces it".to_owned(),
            Some(id) if self.rules.detail(id).children.is_empty() => {
                format!(
                    "no limit: `{}` has no rate_limit, so it passes",
                    self.name(id)
                )
            }
            Some(id) => format!(
                "no limit: `{}` has no rate_limit of its own, only rules below it",
                self.name(id)
            ),
            None => "no limit: it passes, uncounted".to_owned(),
        };
        self.line(1, &text);
    }

    fn limit_name(&self, rule: Option<RuleId>) -> String {
        let Some(id) = rule else {
            return String::new();
        };
        let mut text = String::new();
        let detail = self.rules.detail(id);
        if !detail.name.is_empty() {
            let _ = write!(text, ", name {}", detail.name);
        }
        text.push_str(&self.modes(rule));
        text
    }

    fn modes(&self, rule: Option<RuleId>) -> String {
        let mut text = String::new();
        let Some(rule) = rule.map(|id| self.rules.rule(id)) else {
            return text;
        };
        if rule.shadow_mode {
            text.push_str(", shadow: refuses nobody");
        }
        if rule.quota_mode {
            text.push_str(", quota");
        }
        if rule.counting == Counting::Leased {
            text.push_str(", leased");
        }
        if rule.quota == Some(Quota::Unlimited) {
            text.push_str(", unlimited");
        }
        text
    }

    fn name(&self, id: RuleId) -> String {
        let detail = self.rules.detail(id);
        if detail.value.is_empty() {
            detail.key.to_string()
        } else {
            format!("{}={}", detail.key, detail.value)
        }
    }

    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.text, "{}{text}", "  ".repeat(depth));
    }
}

/// A limit of several, or one that is more than a plain fixed window.
fn tell_limit(limit: &LimitRule) -> String {
    if limit.is_event() {
        return "none: it opens a rule beside it".to_owned();
    }
    let extra = &limit.extra;
    let mut text = match &extra.opened_by {
        Some((key, value)) => format!("open for {} after {key}={value}", limit.limit.window),
        None => limit.limit.to_string(),
    };
    if let (Some(method), None) = (extra.method, &extra.opened_by) {
        let _ = write!(text, ", {method}");
    }
    if !limit.name.is_empty() {
        let _ = write!(text, ", name {}", limit.name);
    }
    if extra.flag_only {
        text.push_str(", only flags");
    }
    if extra.notify_below > 0 {
        let _ = write!(text, ", gives notice below {} %", extra.notify_below);
    }
    text
}

fn to_entries(pairs: &[(String, String)]) -> Vec<Entry<'_>> {
    pairs
        .iter()
        .map(|(key, value)| Entry {
            key: key.as_bytes(),
            value: value.as_bytes(),
        })
        .collect()
}

fn pair(entry: &Entry<'_>) -> String {
    format!("{}={}", lossy(entry.key), lossy(entry.value))
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
