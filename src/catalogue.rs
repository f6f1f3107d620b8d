//! Every metric there is, and where its number comes from.
//!
//! `docs/metrics.md` lists the same; a test compares them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    engine::{
        limit::{Limit, Quota},
        rules::{Rule, RuleId, RuleSet},
    },
    limiter::Limiter,
    rulebook::Rulebook,
    service::{
        connection::Shared,
        listener::Table,
        tls::{self, Tls},
    },
    storage::{AnyStore, memory, redis::BackendStats},
    telemetry::{
        logging,
        metrics::{
            CODES, Protocol,
            families::{Families, Labels, float},
            reference::{self, Stat},
            series::{Numbers, OVERFLOW},
        },
        traces::Meter,
    },
    xds::Subscription,
};

/// A metric's name, and what it says.
pub type Entry = (&'static str, &'static str);

/// All metrics of our own, without those of the process.
pub const METRICS: &[Entry] = &[
    (
        "ratekeeper_buffered_bytes",
        "Bytes of unfinished calls that are held.",
    ),
    ("ratekeeper_build_info", "Always 1; the version is a label."),
    ("ratekeeper_connections", "Connections by listener."),
    (
        "ratekeeper_connections_closed_total",
        "gRPC connections that were closed from this side by reason.",
    ),
    (
        "ratekeeper_decisions_total",
        "Decisions on descriptors by domain, rule and outcome.",
    ),
    (
        "ratekeeper_domain_not_found_total",
        "Descriptors of domains that have no rules.",
    ),
    ("ratekeeper_hits_total", "Hits by domain, rule and kind."),
    (
        "ratekeeper_known_over_entries",
        "Counters known to be over, refused without asking the store, about.",
    ),
    (
        "ratekeeper_ladder_decisions_total",
        "Requests decided while the store was away, by rung.",
    ),
    (
        "ratekeeper_lease_outstanding_hits",
        "Hits taken in advance and not spent yet.",
    ),
    (
        "ratekeeper_log_lines_dropped_total",
        "Lines of the log that nobody took in time.",
    ),
    (
        "ratekeeper_log_lines_total",
        "Lines of the log that were written.",
    ),
    ("ratekeeper_memory_counters", "Counters held in memory."),
    (
        "ratekeeper_memory_counters_max",
        "As many counters as may be held in memory.",
    ),
    (
        "ratekeeper_memory_full_total",
        "New counters met when memory was full, by what was done.",
    ),
    ("ratekeeper_metric_series", "Series of rules that are told."),
    (
        "ratekeeper_metric_series_overflow_total",
        "Decisions counted in a domain's overflow series.",
    ),
    (
        "ratekeeper_request_duration_seconds",
        "Time from a request to its answer.",
    ),
    (
        "ratekeeper_requests_total",
        "Requests by protocol and gRPC code.",
    ),
    (
        "ratekeeper_rule_limit",
        "Requests that a rule allows in a unit.",
    ),
    (
        "ratekeeper_rule_utilization_ratio",
        "The largest share of its limit that a counter of the rule used in the last 15 to 30 seconds.",
    ),
    (
        "ratekeeper_rules_in_force",
        "Rules, with and without a limit.",
    ),
    (
        "ratekeeper_rules_last_load_failed",
        "1 when the last try to load rules was refused.",
    ),
    (
        "ratekeeper_rules_loaded_timestamp_seconds",
        "When the rules in force were loaded.",
    ),
    (
        "ratekeeper_rules_loads_total",
        "Tries to load rules by outcome.",
    ),
    (
        "ratekeeper_shadowed_requests_total",
        "Refusals that the process' shadow mode turned into passes.",
    ),
    (
        "ratekeeper_store_batch_size",
        "Changes of counters in one write to the store.",
    ),
    (
        "ratekeeper_store_calls_total",
        "Writes to the store by outcome.",
    ),
    (
        "ratekeeper_store_charges_total",
        "Changes of counters sent to the store.",
    ),
    (
        "ratekeeper_store_clock_skew_seconds",
        "The store's clock minus this machine's.",
    ),
    (
        "ratekeeper_store_commands_total",
        "Commands sent to the store; fewer than charges, where equal ones go as one.",
    ),
    (
        "ratekeeper_store_connections",
        "Connections to the store that can be used.",
    ),
    (
        "ratekeeper_store_duration_seconds",
        "Time from a write to the store to its replies.",
    ),
    (
        "ratekeeper_store_replicas",
        "Processes that share the store; 0 where unknown.",
    ),
    (
        "ratekeeper_store_up",
        "1 when nothing is wrong with the store.",
    ),
    (
        "ratekeeper_tls_certificate_expiry_timestamp_seconds",
        "When the certificate in force ends.",
    ),
    (
        "ratekeeper_tls_handshakes_total",
        "TLS handshakes by outcome.",
    ),
    (
        "ratekeeper_tls_reloads_total",
        "Changed certificates by outcome.",
    ),
    (
        "ratekeeper_trace_spans_dropped_total",
        "Spans for which the queue had no room.",
    ),
    (
        "ratekeeper_trace_spans_exported_total",
        "Spans that the collector took.",
    ),
    (
        "ratekeeper_trace_spans_failed_total",
        "Spans that the collector did not take.",
    ),
    (
        "ratekeeper_trace_spans_total",
        "Spans that were finished and sampled.",
    ),
    (
        "ratekeeper_waiting_calls",
        "Calls that wait for their client.",
    ),
    (
        "ratekeeper_xds_connected",
        "1 while there is a connection to the management server.",
    ),
    (
        "ratekeeper_xds_reconnects_total",
        "Tries to connect to the management server again.",
    ),
    (
        "ratekeeper_xds_responses_total",
        "Responses of the management server by outcome.",
    ),
];

/// Where the numbers come from.
pub struct Catalogue {
    rulebook: Arc<Rulebook>,
    /// Rules may come from a management server.
    subscription: Option<Arc<Subscription>>,
    /// Traces may be sent.
    traces: Option<Meter>,
    listeners: Vec<Watched>,
    /// What gRPC's connections share.
    shared: Arc<Shared>,
}

/// A listener whose connections are counted.
pub(crate) struct Watched {
    pub(crate) name: &'static str,
    pub(crate) table: Arc<Table>,
    pub(crate) tls: Option<Arc<Tls>>,
}

// === impl Catalogue ===

impl Catalogue {
    /// Reads from all of these.
    pub(crate) fn new(
        rulebook: Arc<Rulebook>,
        listeners: Vec<Watched>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            rulebook,
            subscription: None,
            traces: None,
            listeners,
            shared,
        }
    }

    /// The same, and rules come from a management server.
    pub(crate) fn following(mut self, subscription: Option<Arc<Subscription>>) -> Self {
        self.subscription = subscription;
        self
    }

    /// The same, and traces are sent.
    pub(crate) fn tracing(mut self, traces: Option<Meter>) -> Self {
        self.traces = traces;
        self
    }

    fn limiter(&self) -> &Limiter {
        self.rulebook.limiter()
    }

    /// All metrics, as Prometheus reads them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut families = Families::default();
        families.process();
        let mut told = Told(&mut families);
        let version = env!("CARGO_PKG_VERSION");
        told.gauge("ratekeeper_build_info", &[("version", version)], 1.0);
        self.connections(&mut told);
        self.requests(&mut told);
        self.rules(&mut told);
        self.series(&mut told);
        self.store(&mut told);
        self.management_server(&mut told);
        self.telling(&mut told);
        families.to_text()
    }

    fn connections(&self, told: &mut Told<'_>) {
        for Watched { name, table, tls } in &self.listeners {
            let listener = ("listener", *name);
            let connections = float(table.len() as u64);
            told.gauge("ratekeeper_connections", &[listener], connections);
            if let Some(tls) = tls {
                told.tls(listener, &tls.figures());
            }
        }
        for (reason, count) in self.limiter().metrics().closed_connections() {
            let labels = [("reason", reason)];
            told.counter("ratekeeper_connections_closed_total", &labels, count);
        }
        let (bytes, calls) = self.shared.held();
        told.gauge("ratekeeper_buffered_bytes", &[], float(bytes as u64));
        told.gauge("ratekeeper_waiting_calls", &[], float(calls as u64));
    }

    fn requests(&self, told: &mut Told<'_>) {
        let metrics = self.limiter().metrics();
        for (protocol, name) in [(Protocol::Grpc, "grpc"), (Protocol::Http, "http")] {
            let served = metrics.served(protocol);
            for (code, count) in CODES.iter().zip(served.codes) {
                if count > 0 || *code == "OK" {
                    let labels = [("protocol", name), ("code", code)];
                    told.counter("ratekeeper_requests_total", &labels, count);
                }
            }
            told.0.histogram(
                "ratekeeper_request_duration_seconds",
                help("ratekeeper_request_duration_seconds"),
                &[("protocol", name)],
                &served.latencies,
                1e6,
            );
        }
        told.counter(
            "ratekeeper_shadowed_requests_total",
            &[],
            metrics.global_shadow(),
        );
        let unknown = metrics.unknown_domains();
        let descriptors = unknown.iter().map(|(_, count)| count).sum();
        told.counter("ratekeeper_domain_not_found_total", &[], descriptors);
    }

    fn rules(&self, told: &mut Told<'_>) {
        let loads = self.rulebook.loads();
        for (outcome, count) in [("success", loads.successes), ("failure", loads.failures)] {
            told.counter(
                "ratekeeper_rules_loads_total",
                &[("outcome", outcome)],
                count,
            );
        }
        let failed = u64::from(loads.trouble.is_some());
        told.gauge("ratekeeper_rules_last_load_failed", &[], float(failed));
        let loaded = loads.loaded_at.map_or(0, |at| at.as_secs());
        told.gauge(
            "ratekeeper_rules_loaded_timestamp_seconds",
            &[],
            float(loaded),
        );
        let rules = self.limiter().rules().map_or(0, |rules| rules.len() as u64);
        told.gauge("ratekeeper_rules_in_force", &[], float(rules));
    }

    fn management_server(&self, told: &mut Told<'_>) {
        let Some(subscription) = &self.subscription else {
            return;
        };
        let figures = subscription.figures();
        let connected = f64::from(u8::from(figures.connected));
        told.gauge("ratekeeper_xds_connected", &[], connected);
        told.counter("ratekeeper_xds_reconnects_total", &[], figures.reconnects);
        for (outcome, count) in [
            ("accepted", figures.accepted),
            ("refused", figures.refused),
            ("undecodable", figures.undecodable),
        ] {
            told.counter(
                "ratekeeper_xds_responses_total",
                &[("outcome", outcome)],
                count,
            );
        }
    }

    /// What becomes of logs and traces.
    fn telling(&self, told: &mut Told<'_>) {
        let lines = logging::figures();
        told.counter("ratekeeper_log_lines_total", &[], lines.written);
        told.counter("ratekeeper_log_lines_dropped_total", &[], lines.dropped);
        if let Some(meter) = &self.traces {
            let spans = meter.figures();
            told.counter("ratekeeper_trace_spans_total", &[], spans.finished);
            for (name, count) in [
                ("ratekeeper_trace_spans_dropped_total", spans.dropped),
                ("ratekeeper_trace_spans_exported_total", spans.exported),
                ("ratekeeper_trace_spans_failed_total", spans.failed),
            ] {
                told.counter(name, &[], count);
            }
        }
    }

    fn series(&self, told: &mut Told<'_>) {
        let series = self.limiter().metrics().series();
        told.gauge("ratekeeper_metric_series", &[], float(series.len() as u64));
        let mut overflowed = 0;
        for (name, numbers) in series.read(self.limiter().now()) {
            let labels = [("domain", &*name.domain), ("rule", &*name.path)];
            told.numbers(&labels, &numbers);
            if *name.path == *OVERFLOW {
                overflowed += numbers.decisions();
            }
        }
        told.counter("ratekeeper_metric_series_overflow_total", &[], overflowed);
        if let Some((rules, hit)) = self.limiter().rules_hit() {
            let hit = hit.into_iter().take(series.most());
            told.limits(&limits_in_force(&rules, hit));
        }
    }

    fn store(&self, told: &mut Told<'_>) {
        let ladder = self.limiter().ladder();
        let memory = match self.limiter().store() {
            AnyStore::Memory(store) => {
                told.gauge("ratekeeper_store_up", &[("store", "memory")], 1.0);
                store
            }
            AnyStore::Redis(store) => {
                store
                    .backends()
                    .iter()
                    .for_each(|stats| told.backend(stats));
                let stats = store.stats();
                #[allow(clippy::cast_precision_loss, reason = "an offset to look at")]
                let skew = stats.clock_offset_nanos as f64 / 1e9;
                told.gauge("ratekeeper_store_clock_skew_seconds", &[], skew);
                told.gauge("ratekeeper_store_replicas", &[], f64::from(stats.replicas));
                let leased = float(stats.lease_outstanding);
                told.gauge("ratekeeper_lease_outstanding_hits", &[], leased);
                told.gauge(
                    "ratekeeper_known_over_entries",
                    &[],
                    float(stats.known_over),
                );
                let rungs = ladder.stats();
                for (rung, count) in [
                    ("error", rungs.error),
                    ("allow", rungs.allow),
                    ("deny", rungs.deny),
                    ("local", rungs.local),
                ] {
                    told.counter(
                        "ratekeeper_ladder_decisions_total",
                        &[("rung", rung)],
                        count,
                    );
                }
                ladder.local()
            }
        };
        told.memory(&memory.stats(), memory.most());
    }

    /// The reference's statistics, and what goes with them.
    #[must_use]
    pub fn reference(&self) -> Vec<Stat> {
        let limiter = self.limiter();
        let mut stats = reference::stats(limiter.metrics(), limiter.now());
        let loads = self.rulebook.loads();
        let service = "ratelimit.service";
        let counter = |name: &str, count| Stat::counter(format!("{service}.{name}"), count);
        stats.push(counter("config_load_success", loads.successes));
        stats.push(counter("config_load_error", loads.failures));
        let tries = loads.successes + loads.failures;
        stats.push(Stat::counter("runtime.load_attempts", tries));
        stats.push(Stat::counter("runtime.load_failures", loads.failures));
        if let AnyStore::Redis(store) = limiter.store() {
            for backend in store.backends() {
                let pool = match backend.name {
                    "per_second" => "ratelimit.redis_per_second_pool",
                    _ => "ratelimit.redis_pool",
                };
                let active = i64::try_from(backend.connections).unwrap_or(i64::MAX);
                stats.push(Stat::gauge(format!("{pool}.cx_active"), active));
                stats.push(Stat::counter(format!("{pool}.cx_total"), backend.connects));
                let closed = backend.disconnects;
                stats.push(Stat::counter(format!("{pool}.cx_local_close"), closed));
            }
            let known = store.stats();
            for (name, level) in [
                ("entryCount", known.known_over),
                ("hitCount", known.known_over_hits),
            ] {
                let level = i64::try_from(level).unwrap_or(i64::MAX);
                stats.push(Stat::gauge(format!("ratelimit.localcache.{name}"), level));
            }
        }
        stats
    }
}

/// What a metric says.
fn help(name: &str) -> &'static str {
    let place = METRICS.binary_search_by_key(&name, |(name, _)| name);
    place.map_or("", |place| METRICS[place].1)
}

/// Metrics with their help.
struct Told<'f>(&'f mut Families);

// === impl Told ===

impl Told<'_> {
    fn counter(&mut self, name: &str, labels: Labels<'_>, value: u64) {
        self.0.counter(name, help(name), labels, float(value));
    }

    fn gauge(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.gauge(name, help(name), labels, value);
    }

    /// What one series counts. Kinds that few rules have are left out where
    /// they are 0.
    fn numbers(&mut self, labels: &[(&str, &str); 2], numbers: &Numbers) {
        let with = |label| [labels[0], labels[1], label];
        for (outcome, count, always) in [
            ("ok", numbers.passed, true),
            ("over_limit", numbers.refused, true),
            ("shadow", numbers.shadowed, false),
        ] {
            if always || count > 0 {
                let labels = with(("outcome", outcome));
                self.counter("ratekeeper_decisions_total", &labels, count);
            }
        }
        for (kind, count, always) in [
            ("total", numbers.total_hits, true),
            ("over_limit", numbers.over_limit, true),
            ("near_limit", numbers.near_limit, true),
            ("within_limit", numbers.within_limit, true),
            ("shadow_mode", numbers.shadow_mode, false),
            ("over_limit_with_local_cache", numbers.known_over, false),
            ("given_back", numbers.given_back, false),
            ("flagged", numbers.flagged, false),
        ] {
            if always || count > 0 {
                self.counter("ratekeeper_hits_total", &with(("kind", kind)), count);
            }
        }
        let share = float(numbers.peak) / 1e4;
        self.gauge("ratekeeper_rule_utilization_ratio", labels, share);
    }

    fn limits(&mut self, limits: &LimitsInForce<'_>) {
        for ((domain, rule, unit), requests) in limits {
            let labels = [("domain", *domain), ("rule", rule), ("unit", unit)];
            self.gauge("ratekeeper_rule_limit", &labels, f64::from(*requests));
        }
    }

    fn tls(&mut self, listener: (&str, &str), figures: &tls::Figures) {
        for (name, good, bad) in [
            (
                "ratekeeper_tls_handshakes_total",
                figures.handshakes,
                figures.handshake_failures,
            ),
            (
                "ratekeeper_tls_reloads_total",
                figures.reloads,
                figures.reload_failures,
            ),
        ] {
            self.counter(name, &[listener, ("outcome", "success")], good);
            self.counter(name, &[listener, ("outcome", "failure")], bad);
        }
        if let Some(end) = figures.not_after {
            let name = "ratekeeper_tls_certificate_expiry_timestamp_seconds";
            self.gauge(name, &[listener], float(end.as_secs()));
        }
    }

    fn backend(&mut self, stats: &BackendStats) {
        let store = ("store", stats.name);
        self.gauge(
            "ratekeeper_store_up",
            &[store],
            f64::from(u8::from(stats.up)),
        );
        self.gauge(
            "ratekeeper_store_connections",
            &[store],
            float(stats.connections),
        );
        // Not all that were sent less those that failed: some are on their way.
        let answered = stats.times.count();
        for (outcome, count) in [("ok", answered), ("error", stats.failures)] {
            let labels = [store, ("outcome", outcome)];
            self.counter("ratekeeper_store_calls_total", &labels, count);
        }
        self.counter("ratekeeper_store_charges_total", &[store], stats.charges);
        self.counter("ratekeeper_store_commands_total", &[store], stats.commands);
        for (name, read, one) in [
            ("ratekeeper_store_batch_size", &stats.sizes, 1.0),
            ("ratekeeper_store_duration_seconds", &stats.times, 1e6),
        ] {
            self.0.histogram(name, help(name), &[store], read, one);
        }
    }

    fn memory(&mut self, stats: &memory::Stats, most: usize) {
        self.gauge(
            "ratekeeper_memory_counters",
            &[],
            float(stats.counters as u64),
        );
        self.gauge("ratekeeper_memory_counters_max", &[], float(most as u64));
        for (done, count) in [
            ("refused", stats.refused_when_full),
            ("uncounted", stats.uncounted_when_full),
            ("evicted", stats.evicted),
        ] {
            self.counter("ratekeeper_memory_full_total", &[("done", done)], count);
        }
    }
}

/// Domain, rule and unit of limits, and what they allow.
type LimitsInForce<'r> = BTreeMap<(&'r str, String, String), u32>;

/// The limits of these rules. Of those that are called the same, such as
/// several of a rule for one unit, the least.
fn limits_in_force(rules: &RuleSet, ids: impl Iterator<Item = RuleId>) -> LimitsInForce<'_> {
    let mut limits = LimitsInForce::new();
    for id in ids {
        let (domain, path) = (rules.domain_of(id), rules.path_text(id));
        for limit in limits_of(rules, id, rules.rule(id)) {
            let unit = match limit.window.multiplier() {
                1 => limit.window.unit().name().to_owned(),
                times => format!("{times} {}", limit.window.unit().name()),
            };
            let requests = limits.entry((domain, path.clone(), unit));
            let requests = requests.or_insert(limit.requests);
            *requests = limit.requests.min(*requests);
        }
    }
    limits
}

fn limits_of(rules: &RuleSet, id: RuleId, rule: &Rule) -> Vec<Limit> {
    if rule.is_special() {
        let limits = rules.detail(id).limits.iter();
        let told = limits.filter(|limit| !limit.is_event());
        return told.map(|limit| limit.limit).collect();
    }
    match rule.quota {
        Some(Quota::Limited(limit)) => vec![limit],
        Some(Quota::Unlimited) | None => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Distribution, Histogram, LATENCIES, SIZES};

    /// A counter that goes back looks like one that begins anew.
    #[test]
    fn a_write_that_is_on_its_way_is_not_counted_yet() {
        let times = Histogram::new(LATENCIES);
        times.record(70, 2);
        let mut stats = BackendStats {
            name: "main",
            up: true,
            connections: 1,
            connects: 1,
            disconnects: 0,
            flushes: 3,
            failures: 0,
            commands: 3,
            charges: 3,
            sizes: Distribution::empty(SIZES),
            times: times.read(),
        };
        for failures in [0, 1] {
            stats.failures = failures;
            let mut families = Families::default();
            Told(&mut families).backend(&stats);
            let told = families.to_text();
            let calls = r#"ratekeeper_store_calls_total{store="main",outcome="#;
            for line in [
                format!("{calls}\"ok\"}} 2\n"),
                format!("{calls}\"error\"}} {failures}\n"),
            ] {
                assert!(told.contains(&line), "{line}{told}");
            }
        }
    }

    #[test]
    fn metrics_are_sorted_and_explained() {
        assert!(METRICS.is_sorted_by(|a, b| a.0 < b.0));
        for (name, text) in METRICS {
            assert!(text.ends_with('.') && help(name) == *text, "{name}");
        }
    }
}
