//! The reference's names → Prometheus' names and labels, by mappings in the
//! format of `statsd_exporter`: those built in, or a file's.
//!
//! Patterns with `*` for one part of a name are tried first, in order, then
//! regular expressions, in order. A name that none matches becomes a metric
//! of that name, `_` for every other sign.

use std::collections::BTreeMap;

use regex::{Captures, Regex};
use serde::Deserialize;

use super::{
    families::{Families, float},
    reference::{Stat, Value},
};
use crate::counts::Distribution;

/// Mappings, in the order they are tried.
#[derive(Debug)]
pub struct Mapper {
    mappings: Vec<Mapping>,
    /// Labels of all metrics.
    tags: Vec<(String, String)>,
    /// Durations of the response time are in milliseconds.
    in_millis: bool,
}

#[derive(Debug)]
struct Mapping {
    pattern: Regex,
    drops: bool,
    name: String,
    labels: Vec<(String, String)>,
    only: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Counter,
    Gauge,
    #[serde(alias = "timer")]
    Observer,
}

/// Why mappings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// It is not in the format.
    #[error("not a mapping in statsd_exporter's format: {0}")]
    Format(String),
    /// A pattern is none.
    #[error("mapping {0:?}: {1}")]
    Pattern(String, String),
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    mappings: Vec<FileMapping>,
}

#[derive(Debug, Default, Deserialize)]
struct Defaults {
    #[serde(default)]
    match_type: MatchType,
}

#[derive(Debug, Deserialize)]
struct FileMapping {
    r#match: String,
    match_type: Option<MatchType>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    action: Action,
    match_metric_type: Option<Kind>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MatchType {
    #[default]
    Glob,
    Regex,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Map,
    Drop,
}

/// Kinds of hits that have a metric with labels.
const KINDS: [&str; 5] = [
    "near_limit",
    "over_limit",
    "total_hits",
    "within_limit",
    "shadow_mode",
];

const RESPONSE_TIME: &str = "ratelimit_service_response_time_seconds";

// === impl Mapper ===

impl Mapper {
    /// The reference's own mappings; `in_millis`: the response time in its old
    /// unit.
    ///
    /// # Errors
    /// A pattern is none: never.
    pub fn built_in(in_millis: bool) -> Result<Self, MappingError> {
        let mut mappings = vec![];
        for kind in KINDS {
            let name = format!("ratelimit_service_rate_limit_{kind}");
            let of_one = format!("ratelimit.service.rate_limit.*.*.{kind}");
            let labels = [("domain", "$1"), ("key1", "$2")];
            mappings.push(Mapping::glob(&of_one, &name, &labels, None)?);
        }
        for (pattern, name, labels, only) in [
            (
                "ratelimit.service.call.should_rate_limit.*",
                "ratelimit_service_should_rate_limit_error",
                &[("err_type", "$1")][..],
                Some(Kind::Counter),
            ),
            (
                "ratelimit_server.*.total_requests",
                "ratelimit_service_total_requests",
                &[("grpc_method", "$1")],
                Some(Kind::Counter),
            ),
            (
                "ratelimit_server.*.response_time",
                RESPONSE_TIME,
                &[("grpc_method", "$1")],
                None,
            ),
        ] {
            mappings.push(Mapping::glob(pattern, name, labels, only)?);
        }
        // Deeper parts are dropped; their series add up.
        for kind in KINDS {
            let name = format!("ratelimit_service_rate_limit_{kind}");
            let pattern = format!(
                r"^ratelimit\.service\.rate_limit\.([^.]*)\.([^.]*)\.([^.]*)(?:\..*)?\.{kind}$"
            );
            let labels = [("domain", "$1"), ("key1", "$2"), ("key2", "$3")];
            mappings.push(Mapping::regex(&pattern, &name, &labels, None)?);
        }
        Ok(Self {
            mappings,
            tags: vec![],
            in_millis,
        })
    }

    /// Mappings of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, MappingError> {
        let file: File =
            serde_yaml::from_str(text).map_err(|error| MappingError::Format(error.to_string()))?;
        let mut globs = vec![];
        let mut regexes = vec![];
        for mapping in file.mappings {
            let labels: Vec<(&str, &str)> = mapping
                .labels
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let only = mapping.match_metric_type;
            let is_glob = mapping.match_type.unwrap_or(file.defaults.match_type) == MatchType::Glob;
            let make = if is_glob {
                Mapping::glob
            } else {
                Mapping::regex
            };
            let mut made = make(&mapping.r#match, &mapping.name, &labels, only)?;
            made.drops = mapping.action == Action::Drop;
            if is_glob {
                globs.push(made);
            } else {
                regexes.push(made);
            }
        }
        globs.append(&mut regexes);
        Ok(Self {
            mappings: globs,
            tags: vec![],
            in_millis: false,
        })
    }

    /// The same, and `tags` are labels of every metric.
    #[must_use]
    pub fn with_tags(mut self, tags: &[(String, String)]) -> Self {
        let label = |(name, value): &(String, String)| (to_name(name), value.clone());
        self.tags = tags.iter().map(label).collect();
        self
    }

    /// `stats` as Prometheus reads them.
    #[must_use]
    pub fn map(&self, stats: &[Stat]) -> Families {
        let mut sums: BTreeMap<(String, Vec<(String, String)>), Value> = BTreeMap::new();
        for stat in stats {
            let Some(key) = self.name(stat) else { continue };
            match sums.get_mut(&key) {
                Some(sum) => add(sum, &stat.value),
                None => {
                    sums.insert(key, stat.value.clone());
                }
            }
        }
        let mut families = Families::default();
        for ((name, labels), value) in &sums {
            let labels: Vec<(&str, &str)> = labels
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let help = "Of the statistics of the rate limit service.";
            match value {
                Value::Counter(count) => families.counter(name, help, &labels, float(*count)),
                #[allow(clippy::cast_precision_loss, reason = "a level to look at")]
                Value::Gauge(level) => families.gauge(name, help, &labels, *level as f64),
                Value::Timer(times) => {
                    let in_millis = self.in_millis && name == RESPONSE_TIME;
                    let one = if in_millis { 1e3 } else { 1e6 };
                    families.histogram(name, help, &labels, times, one);
                }
            }
        }
        families
    }

    /// The metric's name and labels; `None` where it is dropped.
    fn name(&self, stat: &Stat) -> Option<(String, Vec<(String, String)>)> {
        let kind = match stat.value {
            Value::Counter(_) => Kind::Counter,
            Value::Gauge(_) => Kind::Gauge,
            Value::Timer(_) => Kind::Observer,
        };
        let mut found = self
            .mappings
            .iter()
            .filter(|mapping| mapping.only.is_none_or(|only| only == kind))
            .filter_map(|mapping| Some((mapping, mapping.pattern.captures(&stat.name)?)));
        let (name, mut labels) = match found.next() {
            Some((mapping, _)) if mapping.drops => return None,
            Some((mapping, captures)) => mapping.expand(&captures),
            None => (to_name(&stat.name), vec![]),
        };
        labels.extend(self.tags.iter().cloned());
        labels.sort_unstable();
        labels.dedup_by(|a, b| a.0 == b.0);
        Some((name, labels))
    }
}

fn add(sum: &mut Value, more: &Value) {
    match (sum, more) {
        (Value::Counter(sum), Value::Counter(more)) => *sum += more,
        (Value::Gauge(sum), Value::Gauge(more)) => *sum = *more,
        (Value::Timer(sum), Value::Timer(more)) => add_times(sum, more),
        // Mapped to one name by a file: they are not of one kind.
        (_, _) => {}
    }
}

fn add_times(sum: &mut Distribution, more: &Distribution) {
    if sum.bounds == more.bounds {
        sum.add(more);
    }
}

/// `_` for what a metric's name cannot hold.
fn to_name(text: &str) -> String {
    let sign = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '_'
        }
    };
    let name: String = text.chars().map(sign).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        format!("_{name}")
    } else {
        name
    }
}

// === impl Mapping ===

impl Mapping {
    fn glob(
        pattern: &str,
        name: &str,
        labels: &[(&str, &str)],
        only: Option<Kind>,
    ) -> Result<Self, MappingError> {
        let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
        Self::regex(&format!("^{}$", parts.join("([^.]*)")), name, labels, only)
    }

    fn regex(
        pattern: &str,
        name: &str,
        labels: &[(&str, &str)],
        only: Option<Kind>,
    ) -> Result<Self, MappingError> {
        let wrong = |error: regex::Error| MappingError::Pattern(pattern.into(), error.to_string());
        Ok(Self {
            pattern: Regex::new(pattern).map_err(wrong)?,
            drops: false,
            name: name.into(),
            labels: labels
                .iter()
                .map(|(name, value)| (to_name(name), (*value).to_owned()))
                .collect(),
            only,
        })
    }

    fn expand(&self, captures: &Captures<'_>) -> (String, Vec<(String, String)>) {
        let text = |template: &str| {
            let mut text = String::new();
            captures.expand(template, &mut text);
            text
        };
        let labels = self.labels.iter();
        let labels = labels.map(|(name, value)| (name.clone(), text(value)));
        (to_name(&text(&self.name)), labels.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Histogram, LATENCIES};

    fn stats() -> Vec<Stat> {
        let times = Histogram::new(LATENCIES);
        times.record(2_000, 1);
        let prefix = "ratelimit.service.rate_limit";
        vec![
            Stat::counter(format!("{prefix}.shop.user.total_hits"), 1),
            Stat::counter(format!("{prefix}.shop.ip.path_x.total_hits"), 2),
            Stat::counter(format!("{prefix}.shop.ip.path_x.more.total_hits"), 3),
            Stat::counter(format!("{prefix}.shop.ip.path_x.1.2.3.total_hits"), 4),
            Stat::counter(format!("{prefix}.shop.user.over_limit_with_local_cache"), 5),
            Stat::counter(format!("{prefix}.nope.domain_not_found"), 6),
            Stat::counter("ratelimit.service.call.should_rate_limit.redis_error", 7),
            Stat::counter("ratelimit_server.ShouldRateLimit.total_requests", 8),
            Stat::counter("ratelimit.service.config_load_success", 9),
            Stat::gauge("ratelimit.redis_pool.cx_active", 10),
            Stat {
                name: "ratelimit_server.ShouldRateLimit.response_time".into(),
                value: Value::Timer(times.read()),
            },
        ]
    }

    /// The samples, without those of histograms but for their sums.
    fn samples(mapper: &Mapper) -> Vec<String> {
        let text = mapper.map(&stats()).to_text();
        let lines = text.lines();
        let told = lines.filter(|line| !line.starts_with('#') && !line.contains("_bucket"));
        told.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_built_in_mappings_are_the_references() {
        let rate_limit = "ratelimit_service_rate_limit_total_hits";
        assert_eq!(
            samples(&Mapper::built_in(false).unwrap()),
            [
                "ratelimit_redis_pool_cx_active 10".to_owned(),
                "ratelimit_service_config_load_success 9".to_owned(),
                "ratelimit_service_rate_limit_nope_domain_not_found 6".to_owned(),
                "ratelimit_service_rate_limit_shop_user_over_limit_with_local_cache 5".to_owned(),
                format!("{rate_limit}{{domain=\"shop\",key1=\"ip\",key2=\"path_x\"}} 9"),
                format!("{rate_limit}{{domain=\"shop\",key1=\"user\"}} 1"),
                "ratelimit_service_response_time_seconds_sum{grpc_method=\"ShouldRateLimit\"} 0.002"
                    .to_owned(),
                "ratelimit_service_response_time_seconds_count{grpc_method=\"ShouldRateLimit\"} 1"
                    .to_owned(),
                "ratelimit_service_should_rate_limit_error{err_type=\"redis_error\"} 7".to_owned(),
                "ratelimit_service_total_requests{grpc_method=\"ShouldRateLimit\"} 8".to_owned(),
            ]
        );
        let old = samples(&Mapper::built_in(true).unwrap());
        assert!(
            old.iter()
                .any(|line| line.ends_with("_sum{grpc_method=\"ShouldRateLimit\"} 2"))
        );
    }

    #[test]
    fn a_file_says_otherwise() {
        let mapper = Mapper::parse(
            r#"
mappings:
  - match: "."
    match_type: regex
    action: drop
    name: dropped
  - match: "ratelimit.service.rate_limit.*.*.total_hits"
    name: "hits_of_$2"
    timer_type: histogram
    labels: {domain: "$1"}
  - match: "ratelimit.service.rate_limit.*.*.*.total_hits"
    match_metric_type: gauge
    name: never
"#,
        )
        .unwrap()
        .with_tags(&[("a-z".into(), "1".into())]);
        assert_eq!(
            samples(&mapper),
            ["hits_of_user{a_z=\"1\",domain=\"shop\"} 1"]
        );
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        for (text, expected) in [
            ("mappings: 5", "not a mapping"),
            (
                "mappings: [{match: '(', match_type: regex, name: a}]",
                "mapping \"(\"",
            ),
            ("mappings: [{name: a}]", "match"),
        ] {
            let error = Mapper::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
