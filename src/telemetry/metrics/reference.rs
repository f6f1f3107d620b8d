//! The reference's statistics, by its names: what its dashboards, alerts and
//! statsd daemons know.

use std::{borrow::Cow, sync::LazyLock};

use regex::Regex;

use super::{Failure, Metrics, Protocol, series::Name};
use crate::{counts::Distribution, engine::time::Timestamp};

/// One statistic.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// Its name, parts joined by dots.
    pub name: String,
    /// What it is.
    pub value: Value,
}

/// What a statistic is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// It only grows.
    Counter(u64),
    /// It goes up and down.
    Gauge(i64),
    /// Durations in microseconds.
    Timer(Distribution),
}

const RATE_LIMIT: &str = "ratelimit.service.rate_limit";

// === impl Stat ===

impl Stat {
    /// A counter.
    pub fn counter(name: impl Into<String>, value: u64) -> Self {
        Self {
            name: name.into(),
            value: Value::Counter(value),
        }
    }

    /// A gauge.
    pub fn gauge(name: impl Into<String>, value: i64) -> Self {
        Self {
            name: name.into(),
            value: Value::Gauge(value),
        }
    }

    /// Adds a counter of the same name; false for any other.
    fn takes_in(&mut self, other: &Self) -> bool {
        match (&mut self.value, &other.value) {
            (Value::Counter(sum), Value::Counter(more)) if self.name == other.name => {
                *sum += more;
                true
            }
            _ => false,
        }
    }
}

/// All statistics of decisions and calls, by name: what is told apart by
/// signs that a name cannot have is added up.
#[must_use]
pub fn stats(metrics: &Metrics, now: Timestamp) -> Vec<Stat> {
    let mut stats = vec![];
    for (name, numbers) in metrics.series().read(now) {
        let prefix = prefix_of(&name);
        let mut add = |kind: &str, value: u64| {
            stats.push(Stat::counter(format!("{prefix}.{kind}"), value));
        };
        add("total_hits", numbers.total_hits);
        add("over_limit", numbers.over_limit);
        add("near_limit", numbers.near_limit);
        add("within_limit", numbers.within_limit);
        add("over_limit_with_local_cache", numbers.known_over);
        add("shadow_mode", numbers.shadow_mode);
        // Not of the reference's, and so only where there is something to say.
        for (kind, hits) in [
            ("total_negative_hits", numbers.given_back),
            ("flagged", numbers.flagged),
        ] {
            if hits > 0 {
                add(kind, hits);
            }
        }
    }
    for (domain, descriptors) in metrics.unknown_domains() {
        let domain = clean(&domain);
        let name = format!("{RATE_LIMIT}.{domain}.domain_not_found");
        stats.push(Stat::counter(name, descriptors));
    }
    let call = "ratelimit.service.call.should_rate_limit";
    for (kind, failure) in [
        ("redis_error", Failure::Store),
        ("service_error", Failure::Service),
    ] {
        stats.push(Stat::counter(
            format!("{call}.{kind}"),
            metrics.failures(failure),
        ));
    }
    stats.push(Stat::counter(
        "ratelimit.service.global_shadow_mode",
        metrics.global_shadow(),
    ));
    let served = metrics.served(Protocol::Grpc);
    let method = "ratelimit_server.ShouldRateLimit";
    stats.push(Stat::counter(
        format!("{method}.total_requests"),
        served.codes.iter().sum(),
    ));
    stats.push(Stat {
        name: format!("{method}.response_time"),
        value: Value::Timer(served.latencies),
    });
    stats.sort_by(|a, b| a.name.cmp(&b.name));
    stats.dedup_by(|next, stat| stat.takes_in(next));
    stats
}

/// As `/stats` shows them: a line each, sorted.
#[must_use]
pub fn to_lines(stats: &[Stat]) -> String {
    let mut lines: Vec<String> = stats
        .iter()
        .map(|stat| match &stat.value {
            Value::Counter(value) => format!("{}: {value}\n", stat.name),
            Value::Gauge(value) => format!("{}: {value}\n", stat.name),
            Value::Timer(times) => format!(
                "{}: count={} sum={}ms\n",
                stat.name,
                times.count(),
                times.sum / 1_000
            ),
        })
        .collect();
    lines.sort_unstable();
    lines.concat()
}

fn prefix_of(name: &Name) -> String {
    let text = format!("{RATE_LIMIT}.{}.{}", name.domain, name.path);
    clean(&text).into_owned()
}

/// A name without what a statsd line has another use for: `:` and `|`, blanks
/// that end it, and the dots of addresses.
fn clean(name: &str) -> Cow<'_, str> {
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\d{1,3}(?:\.\d{1,3}){3}").expect("the pattern is right"));
    let bad = |c: char| matches!(c, ':' | '|') || c.is_control();
    let name = if name.contains(bad) {
        Cow::Owned(name.replace(bad, "_"))
    } else {
        Cow::Borrowed(name)
    };
    if !ADDRESS.is_match(&name) {
        return name;
    }
    let underscored = |found: &regex::Captures<'_>| found[0].replace('.', "_");
    Cow::Owned(ADDRESS.replace_all(&name, underscored).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_the_reference_does() {
        for (name, expected) in [
            ("a.b_c", "a.b_c"),
            ("a:b|c", "a_b_c"),
            ("ip_10.0.0.1.path", "ip_10_0_0_1.path"),
            ("v1.2.3", "v1.2.3"),
            ("x\n1|c", "x_1_c"),
        ] {
            assert_eq!(clean(name), expected);
        }
    }
}
