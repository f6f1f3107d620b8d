//! Wiring: listeners, workers, housekeeping, and the way down.
//!
//! The way down begins with the first signal: health says NOT_SERVING at once
//! while listeners stay open for the drain delay, so that proxies notice and
//! go elsewhere. Then listeners close, connections get a GOAWAY and finish
//! what they have, within the drain time-out. A second signal ends it all at
//! once.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic_health::server::HealthReporter;

use crate::{
    catalogue::{Catalogue, Watched},
    config,
    limiter::Limiter,
    rulebook::Rulebook,
    service::{
        connection::Shared,
        debug::{self, Debug},
        grpc::Api,
        health::{self, Readiness},
        http::{self, Http},
        limits::Limits,
        listener::{Listener, Table},
        page::Page,
        tls::Tls,
        wire::{Bounds, ResponseSettings},
        worker::{self, Duty},
    },
    storage::{AnyStore, MemoryStore},
    telemetry::{
        metrics::{mapping::Mapper, reference, statsd},
        traces::Meter,
    },
    trace::Tracer,
    xds::Subscription,
};

/// Settings of the running process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Event loops that serve gRPC. `--workers`, default one per core.
    pub workers: usize,
    /// Bounds of the transport.
    pub limits: Limits,
    /// Bounds of a request.
    pub bounds: Bounds,
    /// What goes into answers beside the decision.
    pub response: ResponseSettings,
    /// Answer errors as the reference does. `--compat`.
    pub compat: bool,
    /// Answer errors of the store with UNKNOWN. `--error-code unknown`.
    pub unknown_code: bool,
    /// The debug listener may take profiles. `--debug-profile`.
    pub debug_profile: bool,
    /// Traces calls, where it is there.
    pub tracer: Option<Tracer>,
    /// Healthy only while the rules have a domain. `--healthy-with-rules`.
    pub needs_domain: bool,
    /// From NOT_SERVING to closed listeners. `--drain-delay`, default 5 s.
    pub drain_delay: Duration,
    /// From closed listeners to the end. `--drain-timeout`, default 10 s.
    pub drain_timeout: Duration,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All calls were answered.
    Drained,
    /// Some connections were still open when the drain time-out was over.
    TimedOut,
    /// A second signal came.
    AtOnce,
}

/// The service, ready to run.
pub struct App {
    config: Config,
    rulebook: Arc<Rulebook>,
    grpc: Listener,
    http: Listener,
    debug: Option<Listener>,
    prometheus: Option<Exposition>,
    statsd: Option<statsd::Config>,
    subscription: Option<Arc<Subscription>>,
    traces: Option<Meter>,
    tls: ListenersTls,
}

/// The reference's statistics, for Prometheus.
#[derive(Debug)]
pub struct Exposition {
    /// Where to listen.
    pub listener: Listener,
    /// At which path.
    pub path: String,
    /// How names are mapped.
    pub mapper: Mapper,
}

/// TLS of each listener; `None`: it is not encrypted.
#[derive(Clone, Debug, Default)]
pub struct ListenersTls {
    /// Of the gRPC listener.
    pub grpc: Option<Arc<Tls>>,
    /// Of the HTTP listener.
    pub http: Option<Arc<Tls>>,
}

/// Every counter of a memory store is looked at once in this time.
const SWEEP_ROUND: Duration = Duration::from_secs(5);

/// From one look whether the store is ready to the next.
const READY_POLL: Duration = Duration::from_millis(50);

/// What runs until the process goes down.
struct Running {
    /// Turned true: not welcome any more.
    draining: watch::Sender<bool>,
    /// Turned true: finish and go.
    closing: watch::Sender<bool>,
    /// Turned true: go.
    ending: watch::Sender<bool>,
    health: HealthReporter,
    telling_health: JoinHandle<()>,
    accepting: JoinHandle<()>,
    /// The HTTP listeners.
    serving: JoinSet<()>,
    /// Turned true: tell the last statistics.
    telling_last: watch::Sender<bool>,
    /// What sends statistics.
    statistics: JoinSet<()>,
    /// Ends when the last worker has.
    workers: mpsc::Receiver<()>,
    housekeeping: JoinHandle<()>,
    /// Looks after certificates; aborted when dropped.
    certificates: JoinSet<()>,
}

// === impl App ===

impl App {
    /// Puts the service together; nothing is accepted yet.
    #[must_use]
    pub fn new(config: Config, rulebook: Arc<Rulebook>, grpc: Listener, http: Listener) -> Self {
        Self {
            config,
            rulebook,
            grpc,
            http,
            debug: None,
            prometheus: None,
            statsd: None,
            subscription: None,
            traces: None,
            tls: ListenersTls::default(),
        }
    }

    /// The same, with a listener for people who look into it.
    #[must_use]
    pub fn with_debug(mut self, listener: Listener) -> Self {
        self.debug = Some(listener);
        self
    }

    /// The same, and the reference's statistics go to Prometheus.
    #[must_use]
    pub fn with_prometheus(mut self, exposition: Exposition) -> Self {
        self.prometheus = Some(exposition);
        self
    }

    /// The same, and the reference's statistics go to a daemon.
    #[must_use]
    pub fn with_statsd(mut self, config: statsd::Config) -> Self {
        self.statsd = Some(config);
        self
    }

    /// The same, and rules come from a management server.
    #[must_use]
    pub fn following(mut self, subscription: Option<Arc<Subscription>>) -> Self {
        self.subscription = subscription;
        self
    }

    /// The same, with listeners that are encrypted.
    #[must_use]
    pub fn with_tls(mut self, tls: ListenersTls) -> Self {
        self.tls = tls;
        self
    }

    /// The same, and traces are sent.
    #[must_use]
    pub fn tracing(mut self, traces: Option<Meter>) -> Self {
        self.traces = traces;
        self
    }

    /// Serves until `signals` says to go down, and then some.
    ///
    /// # Errors
    /// The operating system gives no threads.
    pub async fn run(self, mut signals: mpsc::Receiver<()>) -> anyhow::Result<Ended> {
        let (delay, patience) = (self.config.drain_delay, self.config.drain_timeout);
        let running = self.start().await?;
        signals.recv().await;
        tokio::select! {
            timed_out = running.drain(delay, patience) => Ok(timed_out),
            _ = signals.recv() => Ok(Ended::AtOnce),
        }
    }

    async fn start(self) -> anyhow::Result<Running> {
        let limiter = Arc::clone(self.rulebook.limiter());
        // For `/json`, which is served on this thread.
        limiter.store().take_seat();
        let (draining, draining_seen) = watch::channel(false);
        let (closing, closing_seen) = watch::channel(false);
        let (ending, ending_seen) = watch::channel(false);
        let api = Arc::new(Api {
            limiter: Arc::clone(&limiter),
            bounds: self.config.bounds,
            response: self.config.response,
            compat: self.config.compat,
            unknown_code: self.config.unknown_code,
            tracer: self.config.tracer,
        });
        let (routes, reporter) = health::routes().context("gRPC reflection")?;
        let readiness = Readiness {
            rulebook: Arc::clone(&self.rulebook),
            needs_domain: self.config.needs_domain,
        };
        health::say(&reporter, readiness.missing().is_none()).await;
        let limits = self.config.limits;
        let tls = self.tls;
        let shared = Arc::new(Shared::new(
            Arc::clone(&api),
            limits,
            tls.grpc.clone(),
            routes,
        ));
        let duty = Duty {
            shared: Arc::clone(&shared),
            closing: closing_seen.clone(),
            ending: ending_seen,
        };
        let (table, http_table) = (
            Table::new(limits.max_connections),
            Table::new(limits.max_connections),
        );
        let watched = |name, table: &Arc<Table>, tls: &Option<Arc<Tls>>| Watched {
            name,
            table: Arc::clone(table),
            tls: tls.clone(),
        };
        let listeners = vec![
            watched("grpc", &table, &tls.grpc),
            watched("http", &http_table, &tls.http),
        ];
        let catalogue = Catalogue::new(Arc::clone(&self.rulebook), listeners, shared);
        let catalogue = Arc::new(catalogue.following(self.subscription).tracing(self.traces));
        let (done, workers) = mpsc::channel(1);
        let senders = (0..self.config.workers.max(1))
            .map(|number| worker::start(number, duty.clone(), done.clone()))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot start a worker")?;
        let http = Http {
            api,
            readiness: readiness.clone(),
            limits,
            draining: draining_seen,
            show_rules: config::to_json,
            metrics: {
                let catalogue = Arc::clone(&catalogue);
                Page::new(move || catalogue.text())
            },
        };
        let router = http::router(Arc::new(http));
        let mut sites = vec![Site {
            listener: self.http,
            tls: tls.http.clone(),
            table: http_table,
            router,
        }];
        if let Some(listener) = self.debug {
            let seen = look_into(&limiter, &catalogue, self.config.debug_profile);
            sites.push(Site::plain(listener, debug::router(seen, &limits), &limits));
        }
        if let Some(exposition) = self.prometheus {
            sites.push(exposition.site(&catalogue, &limits));
        }
        let (telling_last, last_asked) = watch::channel(false);
        let (mut serving, mut statistics) = (JoinSet::new(), JoinSet::new());
        for site in sites {
            serving.spawn(site.serve(limits, closing_seen.clone()));
        }
        if let Some(config) = self.statsd {
            let collect = move || catalogue.reference();
            statistics.spawn(statsd::run(config, collect, last_asked));
        }
        Ok(Running {
            draining,
            closing,
            ending,
            telling_health: tokio::spawn(tell_health(readiness, reporter.clone())),
            health: reporter,
            accepting: tokio::spawn(self.grpc.accept(senders, table, closing_seen.clone())),
            serving,
            telling_last,
            statistics,
            workers,
            housekeeping: tokio::spawn(keep_house(limiter, self.rulebook)),
            certificates: tls.keep_fresh(),
        })
    }
}

// === impl Running ===

impl Running {
    async fn drain(mut self, delay: Duration, patience: Duration) -> Ended {
        self.telling_health.abort();
        health::say(&self.health, false).await;
        self.draining.send_replace(true);
        sleep(delay).await;
        self.closing.send_replace(true);
        let finished = timeout(patience, async {
            // The acceptor holds the workers' senders; nobody sends on
            // `workers`, so it ends when the last of them has.
            let _ = (&mut self.accepting).await;
            while self.serving.join_next().await.is_some() {}
            while self.workers.recv().await.is_some() {}
            // Now everything is counted.
            self.telling_last.send_replace(true);
            while self.statistics.join_next().await.is_some() {}
        });
        match finished.await {
            Ok(()) => Ended::Drained,
            Err(_) => Ended::TimedOut,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ending.send_replace(true);
        self.accepting.abort();
        self.serving.abort_all();
        self.statistics.abort_all();
        self.housekeeping.abort();
        self.certificates.abort_all();
        self.telling_health.abort();
    }
}

/// What is served over HTTP at one listener.
struct Site {
    listener: Listener,
    tls: Option<Arc<Tls>>,
    table: Arc<Table>,
    router: Router,
}

// === impl Site ===

impl Site {
    /// Without TLS.
    fn plain(listener: Listener, router: Router, limits: &Limits) -> Self {
        Self {
            listener,
            tls: None,
            table: Table::new(limits.max_connections),
            router,
        }
    }

    async fn serve(self, limits: Limits, closing: watch::Receiver<bool>) {
        let Self {
            listener,
            tls,
            table,
            router,
        } = self;
        http::serve(listener, tls, table, router, limits, closing).await;
    }
}

// === impl Exposition ===

impl Exposition {
    fn site(self, catalogue: &Arc<Catalogue>, limits: &Limits) -> Site {
        let (catalogue, mapper) = (Arc::clone(catalogue), self.mapper);
        let page = Page::new(move || mapper.map(&catalogue.reference()).to_text());
        Site::plain(
            self.listener,
            debug::prometheus(page, &self.path, limits),
            limits,
        )
    }
}

// === impl ListenersTls ===

impl ListenersTls {
    fn keep_fresh(self) -> JoinSet<()> {
        let all = [self.grpc, self.http].into_iter().flatten();
        all.map(Tls::keep_fresh).collect()
    }
}

/// What people see who look into the process.
fn look_into(limiter: &Arc<Limiter>, catalogue: &Arc<Catalogue>, profile: bool) -> Debug {
    let (limiter, catalogue) = (Arc::clone(limiter), Arc::clone(catalogue));
    Debug {
        profile,
        rules: Page::new(move || {
            let rules = limiter.rules();
            rules.map_or_else(String::new, |rules| config::to_lines(&rules))
        }),
        stats: Page::new(move || reference::to_lines(&catalogue.reference())),
    }
}

/// Looks after the store, and after rules that are not in force any more.
async fn keep_house(limiter: Arc<Limiter>, rulebook: Arc<Rulebook>) {
    tokio::join!(look_after_store(&limiter), rulebook.free_old());
}

async fn look_after_store(limiter: &Limiter) {
    match limiter.store() {
        AnyStore::Memory(store) => sweep(store, limiter).await,
        AnyStore::Redis(store) => {
            tokio::join!(store.watch(), sweep(limiter.ladder().local(), limiter));
        }
    }
}

/// Frees counters whose windows have ended, a shard at a time.
async fn sweep(store: &MemoryStore, limiter: &Limiter) {
    let rounds = u32::try_from(store.sweeps_per_round()).unwrap_or(u32::MAX);
    let mut tick = interval(SWEEP_ROUND / rounds);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        store.sweep_next(limiter.now());
    }
}

/// Says how it is, at first and whenever that changes.
async fn tell_health(readiness: Readiness, reporter: HealthReporter) {
    let mut told = None;
    let mut tick = interval(READY_POLL);
    loop {
        tick.tick().await;
        let ready = readiness.missing().is_none();
        if told != Some(ready) {
            told = Some(ready);
            health::say(&reporter, ready).await;
        }
    }
}
