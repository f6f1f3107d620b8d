//! What is counted, and how it is told.
//!
//! In reading order: this file, what the process counts beside its store ·
//! [`series`] one row for each rule · `path` what a rule's series is called ·
//! [`families`] as Prometheus reads them · [`reference`](mod@reference) the
//! reference's names · [`mapping`] its names → Prometheus' · [`statsd`] lines
//! for a statsd daemon.
//!
//! Decisions are counted once, from the finished decision, by the limiter;
//! calls by who answered them.

pub mod families;
pub mod mapping;
mod path;
pub mod reference;
pub mod series;
pub mod statsd;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    counts::{Distribution, Histogram, LATENCIES, Shares},
    engine::{decision::Decision, descriptor::Request, rules::RuleSet, time::Timestamp},
};

use self::series::{Index, OVERFLOW, Series};

/// Everything that is counted beside the store.
#[derive(Debug)]
pub struct Metrics {
    series: Series,
    served: Shares<[Served; 2]>,
    global_shadow: AtomicU64,
    service_errors: AtomicU64,
    store_errors: AtomicU64,
    unknown_domains: Mutex<HashMap<Box<str>, u64>>,
    /// Connections that we closed, by reason.
    closed: Mutex<BTreeMap<&'static str, u64>>,
}

/// How a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `ShouldRateLimit`.
    Grpc,
    /// `/json`.
    Http,
}

/// Calls answered.
#[derive(Debug)]
struct Served {
    /// By gRPC's code.
    codes: [AtomicU64; CODES.len()],
    latencies: Histogram<{ LATENCIES.len() }>,
}

/// What calls were answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// By gRPC's code.
    pub codes: [u64; CODES.len()],
    /// How long they took, in microseconds.
    pub latencies: Distribution,
}

/// Why a call has no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be decided: its own fault, or there are no rules.
    Service,
    /// The store did not count.
    Store,
}

/// gRPC's codes by their numbers.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Series of rules, where nothing else is said. `--max-metric-series`.
pub const MOST_SERIES: usize = 10_000;
/// Domains without rules that are told by name.
const MOST_UNKNOWN_DOMAINS: usize = 100;

// === impl Metrics ===

impl Metrics {
    /// With at most `most_series` series of rules; 0: none, not even of domains.
    #[must_use]
    pub fn new(most_series: usize) -> Self {
        Self {
            series: Series::new(most_series),
            served: Shares::new(),
            global_shadow: AtomicU64::new(0),
            service_errors: AtomicU64::new(0),
            store_errors: AtomicU64::new(0),
            unknown_domains: Mutex::default(),
            closed: Mutex::default(),
        }
    }

    /// Counts a decision, made by `rules`, of which `index` is.
    pub fn record(
        &self,
        rules: &RuleSet,
        index: &Index,
        request: &Request<'_>,
        decision: &Decision,
        now: Timestamp,
    ) {
        if decision.shadowed {
            self.global_shadow.fetch_add(1, Ordering::Relaxed);
        }
        let mut counted = false;
        let told = self.series.is_told();
        for (place, status) in decision.statuses.iter().enumerate() {
            if series::counts(status) {
                counted = true;
                if told {
                    self.series
                        .record(rules, index, request, place, status, now);
                }
            }
        }
        if !counted && rules.domain(request.domain).is_none() {
            self.record_unknown(request);
        }
    }

    /// The reference counts each descriptor of a domain that has no rules.
    fn record_unknown(&self, request: &Request<'_>) {
        let descriptors = request.descriptors.len() as u64;
        let mut domain = String::new();
        path::push(&mut domain, request.domain);
        let mut unknown = self
            .unknown_domains
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = unknown.get_mut(domain.as_str()) {
            *count += descriptors;
        } else if unknown.len() < MOST_UNKNOWN_DOMAINS {
            unknown.insert(domain.into(), descriptors);
        } else {
            *unknown.entry(OVERFLOW.into()).or_default() += descriptors;
        }
    }

    /// Counts a call that got no decision.
    pub fn failed(&self, failure: Failure) {
        let count = match failure {
            Failure::Service => &self.service_errors,
            Failure::Store => &self.store_errors,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a gRPC connection that we close.
    pub fn closed(&self, reason: &'static str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed.entry(reason).or_default() += 1;
    }

    /// gRPC connections that we have closed, by reason.
    #[must_use]
    pub fn closed_connections(&self) -> BTreeMap<&'static str, u64> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.clone()
    }

    /// Counts the answer of a call by its gRPC code.
    pub fn answered(&self, protocol: Protocol, code: usize) {
        let served = self.served.mine(Served::both);
        if let Some(count) = served[protocol as usize].codes.get(code) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts how long `calls` calls took, each.
    pub fn took(&self, protocol: Protocol, time: Duration, calls: u64) {
        let served = self.served.mine(Served::both);
        served[protocol as usize].latencies.record_time(time, calls);
    }

    /// What calls of this kind were answered.
    #[must_use]
    pub fn served(&self, protocol: Protocol) -> Answered {
        let mut all = Answered {
            codes: [0; CODES.len()],
            latencies: Distribution::empty(LATENCIES),
        };
        for served in self.served.iter() {
            let served = &served[protocol as usize];
            for (sum, code) in all.codes.iter_mut().zip(&served.codes) {
                *sum += code.load(Ordering::Relaxed);
            }
            all.latencies.add(&served.latencies.read());
        }
        all
    }

    /// Calls without a decision.
    #[must_use]
    pub fn failures(&self, failure: Failure) -> u64 {
        match failure {
            Failure::Service => self.service_errors.load(Ordering::Relaxed),
            Failure::Store => self.store_errors.load(Ordering::Relaxed),
        }
    }

    /// Refusals that the process' shadow mode turned into passes.
    #[must_use]
    pub fn global_shadow(&self) -> u64 {
        self.global_shadow.load(Ordering::Relaxed)
    }

    /// The rows of rules.
    #[must_use]
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// Descriptors of domains that have no rules, by domain.
    #[must_use]
    pub fn unknown_domains(&self) -> Vec<(String, u64)> {
        let unknown = self
            .unknown_domains
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut unknown: Vec<(String, u64)> = unknown
            .iter()
            .map(|(domain, count)| (domain.to_string(), *count))
            .collect();
        unknown.sort_unstable();
        unknown
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(MOST_SERIES)
    }
}

// === impl Served ===

impl Served {
    fn both() -> [Self; 2] {
        std::array::from_fn(|_| Self {
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            latencies: Histogram::new(LATENCIES),
        })
    }
}

#[cfg(test)]
mod tests;
