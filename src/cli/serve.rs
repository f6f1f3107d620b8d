//! `ratekeeper serve`: from settings to a running service.

use std::{
    fmt,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    app::{App, Ended, Exposition, ListenersTls},
    clock::Clock,
    config::RulesSource,
    engine::key::HashSeed,
    limiter::Limiter,
    reload::{FilesWatch, Loaded, Reload, Tried},
    rulebook::Rulebook,
    service::{certificates, listener::Listener, tls::Tls},
    settings::{Choice, GrpcAddress, Serve, Sink},
    storage::{AnyStore, Ladder, MemoryStore, RedisStore},
    telemetry::{metrics::Metrics, refusals::Refusals, traces::Traces},
    xds::Subscription,
};

/// File descriptors wanted, if the system allows so many.
const MOST_DESCRIPTORS: u64 = 65_536;
/// How long a start waits for the store.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How long the end waits for the trace collector.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Serves until a signal ends it.
///
/// # Errors
/// What keeps it from starting.
pub fn run(arguments: &Serve) -> anyhow::Result<ExitCode> {
    let (level, format) = arguments.logging();
    let _logging = crate::telemetry::logging::start(level, format);
    allow_connections();
    let limiter = Arc::new(limiter(arguments)?);
    let rulebook = Arc::new(Rulebook::new(limiter, Clock::System));
    let traces = arguments.traces()?;
    let traces = traces.as_ref().map(Traces::start).transpose()?;
    if let Some(config) = arguments.management_server()? {
        let subscription = Arc::new(Subscription::new(config, Arc::clone(&rulebook)));
        let rules = Rules::Server(subscription);
        return block_on(serve(arguments, rulebook, rules, traces));
    }
    let rules = Rules::Files(Files::load(arguments, &rulebook)?);
    block_on(serve(arguments, rulebook, rules, traces))
}

fn block_on(serving: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serving);
    // A name that is still being looked up holds nobody up.
    runtime.shutdown_background();
    ended
}

async fn serve(
    arguments: &Serve,
    rulebook: Arc<Rulebook>,
    rules: Rules,
    traces: Option<Traces>,
) -> anyhow::Result<ExitCode> {
    let hangup = SignalKind::hangup();
    let mut down = vec![SignalKind::terminate(), SignalKind::interrupt()];
    let mut load = vec![];
    // The reference goes down, and a management server needs no asking.
    if arguments.compat || matches!(rules, Rules::Server(_)) {
        down.push(hangup);
    } else {
        load.push(hangup);
    }
    let (mut signals, asked) = (signals(&down)?, signals(&load)?);
    let sink = arguments.sink()?;
    let tls = ListenersTls {
        grpc: load_certificate(arguments.grpc_tls()?)?,
        http: load_certificate(arguments.http_tls()?)?,
    };
    let subscription = rules.follow(asked);
    look_for_store(rulebook.limiter()).await;
    let waits = !arguments.starts_without_rules();
    if let Some(subscription) = subscription.as_ref().filter(|_| waits) {
        let server = &subscription.server().address;
        say(format_args!("waiting for the first rules from {server}"));
        tokio::select! {
            () = subscription.first() => {}
            _ = signals.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
    are_apart(arguments, &sink)?;
    let grpc = match arguments.grpc_address() {
        GrpcAddress::Tcp(address) => Listener::tcp(address)
            .with_context(|| format!("cannot listen for gRPC on {address}"))?,
        GrpcAddress::Unix(path) => Listener::unix(&path)
            .with_context(|| format!("cannot listen for gRPC on {}", path.display()))?,
    };
    let address = arguments.http_address();
    let http =
        Listener::tcp(address).with_context(|| format!("cannot listen for HTTP on {address}"))?;
    let (grpc_name, http_name) = (grpc.to_string(), http.to_string());
    let limiter = Arc::clone(rulebook.limiter());
    let mut config = arguments.app()?;
    config.tracer = traces.as_ref().map(|traces| traces.tracer().clone());
    let app = App::new(config, rulebook, grpc, http)
        .following(subscription)
        .tracing(traces.as_ref().map(Traces::meter))
        .with_tls(tls);
    let app = with_listeners(app, arguments, sink)?;
    say(format_args!("gRPC listens on {grpc_name}"));
    say(format_args!("HTTP listens on {http_name}"));
    let ended = tokio::select! {
        ended = app.run(signals) => ended?,
        error = never_reached(&limiter, arguments.store_patience()) => return Err(error),
    };
    if let Some(traces) = traces
        && ended != Ended::AtOnce
        && !traces.stop(LAST_SPANS).await
    {
        tracing::warn!("the last spans were not sent in time");
    }
    match ended {
        Ended::Drained => {}
        Ended::TimedOut => tracing::warn!("some connections did not finish in time"),
        Ended::AtOnce => tracing::warn!("ended at once by a second signal"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Two listeners on one port would each get some of the connections: ports are
/// shared, so that a process can take another's place.
///
/// # Errors
/// Two of this process have the same port.
fn are_apart(arguments: &Serve, sink: &Sink) -> anyhow::Result<()> {
    let grpc = match arguments.grpc_address() {
        GrpcAddress::Tcp(address) => Some(address),
        GrpcAddress::Unix(_) => None,
    };
    let prometheus = match sink {
        Sink::Prometheus { address, .. } => Some(*address),
        Sink::None | Sink::Statsd(_) => None,
    };
    let all = [
        ("gRPC", grpc),
        ("HTTP", Some(arguments.http_address())),
        ("debugging", arguments.debug_address()),
        ("Prometheus", prometheus),
    ];
    let all = all
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)));
    let all: Vec<_> = all.filter(|(_, address)| address.port() != 0).collect();
    for (place, (name, address)) in all.iter().enumerate() {
        let meets = |(_, other): &&(&str, SocketAddr)| {
            let any = address.ip().is_unspecified() || other.ip().is_unspecified();
            address.port() == other.port() && (any || address.ip() == other.ip())
        };
        if let Some((other, _)) = all[..place].iter().find(meets) {
            anyhow::bail!(
                "{name} and {other} cannot both listen on port {}",
                address.port()
            );
        }
    }
    Ok(())
}

/// Adds the listeners and whatever else tells how the process is.
fn with_listeners(mut app: App, arguments: &Serve, sink: Sink) -> anyhow::Result<App> {
    if let Some(address) = arguments.debug_address() {
        let listener = Listener::tcp(address)
            .with_context(|| format!("cannot listen for debugging on {address}"))?;
        say(format_args!("debugging listens on {listener}"));
        app = app.with_debug(listener);
    }
    match sink {
        Sink::None => Ok(app),
        Sink::Statsd(config) => Ok(app.with_statsd(config)),
        Sink::Prometheus {
            address,
            path,
            mapper,
        } => {
            let listener = Listener::tcp(address)
                .with_context(|| format!("cannot listen for Prometheus on {address}"))?;
            say(format_args!("Prometheus listens on {listener}"));
            Ok(app.with_prometheus(Exposition {
                listener,
                path,
                mapper,
            }))
        }
    }
}

fn load_certificate(config: Option<certificates::Config>) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(config) = config else {
        return Ok(None);
    };
    let protocol = config.protocol;
    let loaded = Tls::load(config).with_context(|| format!("TLS for {protocol}"))?;
    Ok(Some(loaded))
}

/// Each connection is a file descriptor, and the usual limit is less than
/// what two listeners may have.
fn allow_connections() {
    if let Err(error) = rlimit::increase_nofile_limit(MOST_DESCRIPTORS) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

fn limiter(arguments: &Serve) -> anyhow::Result<Limiter> {
    let seed = HashSeed(rand::random(), rand::random());
    let memory = MemoryStore::new(arguments.memory_store(), seed);
    let (on_failure, replicas) = arguments.ladder();
    let (store, ladder) = match arguments.store()? {
        Choice::Memory => (AnyStore::Memory(memory), Ladder::none()),
        Choice::Redis(config) => {
            let store = RedisStore::new(&config, Clock::System, seed, rand::random())
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            let ladder = Ladder::new(on_failure, replicas, memory);
            (AnyStore::Redis(store), ladder)
        }
    };
    let limiter = Limiter::new(
        Clock::System,
        store,
        ladder,
        arguments.policy(),
        arguments.charge_mode(),
    );
    let metrics = Metrics::new(arguments.max_metric_series());
    let limiter = limiter.counting_in(Arc::new(metrics));
    Ok(match arguments.refusals() {
        Some(refusals) => limiter.log_refusals(Refusals::new(refusals)),
        None => limiter,
    })
}

/// A line on standard output. That nobody reads it any more ends nothing.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Looks for the store, not for long: it may come later.
async fn look_for_store(limiter: &Limiter) {
    let AnyStore::Redis(store) = limiter.store() else {
        return;
    };
    match store.first_look(FIRST_LOOK).await {
        Ok(()) => say(format_args!("counting in {}", store.describe())),
        Err(error) => {
            say(format_args!(
                "counting in {}, which does not answer yet",
                store.describe()
            ));
            tracing::warn!(store = %error.store, reason = %error.reason, "the store does not answer yet");
        }
    }
}

/// Ends when the store has not been reached once within `patience`.
async fn never_reached(limiter: &Limiter, patience: Option<Duration>) -> anyhow::Error {
    if let Some(patience) = patience {
        tokio::time::sleep(patience).await;
        if !limiter.store().has_been_reached() {
            return anyhow::anyhow!("the store has not been reached within {patience:?}");
        }
    }
    std::future::pending().await
}

/// Where rules come from.
enum Rules {
    Files(Files),
    Server(Arc<Subscription>),
}

/// Rules from files: who loads them, and what is loaded already.
struct Files {
    reload: Reload,
    watch: Option<FilesWatch>,
    tried: Tried,
}

impl Rules {
    /// From now on rules are taken as they come; from files at once when
    /// `asked` says so.
    fn follow(self, asked: mpsc::Receiver<()>) -> Option<Arc<Subscription>> {
        match self {
            Self::Files(files) => {
                tokio::spawn(files.reload.run(files.watch, asked, files.tried));
                None
            }
            Self::Server(subscription) => {
                tokio::spawn(Arc::clone(&subscription).run());
                Some(subscription)
            }
        }
    }
}

impl Files {
    /// Loads the first ones, and says in a line what there is.
    ///
    /// # Errors
    /// All that is wrong with them, where the process cannot do without.
    fn load(arguments: &Serve, rulebook: &Arc<Rulebook>) -> anyhow::Result<Self> {
        let source = arguments.rules_source()?;
        if source.path.is_none() {
            tracing::warn!("no runtime configuration. using nil loader.");
        }
        let reload = Reload::new(arguments.reload(), source.clone(), Arc::clone(rulebook));
        let watch = reload.watch();
        let mut tried = None;
        match reload.load(&mut tried) {
            Ok(Loaded::New(files)) => say(format_args!("{}", loaded(&source, files, rulebook))),
            Ok(Loaded::Same) => {}
            Err(error) if arguments.starts_without_rules() => rulebook.refuse(error),
            // The reference serves on, and answers each call that it has no
            // rules; it does so only where there is a folder to watch.
            Err(error) if arguments.compat && !error.is_about_all_of(&source) => {
                rulebook.refuse(error);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            reload,
            watch,
            tried,
        })
    }
}

fn loaded(source: &RulesSource, files: usize, rulebook: &Rulebook) -> String {
    match (&source.path, rulebook.limiter().rules()) {
        (Some(path), Some(rules)) => {
            let summary = super::check::summary(files, &rules);
            format!("loaded {summary} from {}", path.display())
        }
        _ => "no rules".to_owned(),
    }
}

/// A message for each of these signals; of several that wait, two.
fn signals(kinds: &[SignalKind]) -> anyhow::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    for kind in kinds {
        let mut stream = signal(*kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(()).await.is_ok() {}
        });
    }
    Ok(receiver)
}
