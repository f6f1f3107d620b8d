//! Load on a server: how many decisions a second, how fast, at what cost.
//!
//! The client must cost far less than the server, or it measures itself: it
//! frames HTTP/2 by hand, many calls to one write and many answers to one
//! read, and looks at one field of an answer only. Where an answer is not a
//! decision, one ordinary gRPC call tells what the server has to say.
//!
//! In reading order: [`request`] and [`response`] are what is said,
//! [`keys`] and [`pace`] what is asked next and when, [`frame`] and
//! [`hpack`] how it looks on the wire, [`session`] the protocol without I/O,
//! [`connection`] the I/O, [`tally`] and [`cpu`] what is counted,
//! [`report`] what is told.

mod connection;
mod cpu;
mod frame;
mod hpack;
mod keys;
mod pace;
mod report;
mod request;
mod response;
mod session;
mod tally;

use std::{
    io,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    runtime, select,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, interval_at, sleep_until, timeout},
};

use self::{
    connection::{Connection, Shared, connect},
    cpu::CpuTime,
    keys::Keys,
    pace::Pace,
    tally::{Live, Tally},
};
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;

pub use self::{
    frame::ProtocolError,
    keys::{Distribution, NotADistribution},
    report::{Cpu, Refusal, Report},
    request::{DescriptorTemplate, NotADescriptor, RequestTemplate, TooBig},
    tally::Counts,
};

/// How often the one who watches is told.
const PROGRESS: Duration = Duration::from_millis(500);
/// How long the ordinary call that explains an error may take.
const EXPLANATION: Duration = Duration::from_secs(2);

/// What load to put on which server.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of the server, without TLS.
    pub addr: String,
    /// What to ask.
    pub request: RequestTemplate,
    /// How many keys there are, and how requests spread over them.
    pub keys: NonZeroU64,
    /// See [`Distribution`].
    pub distribution: Distribution,
    /// How many connections.
    pub connections: NonZeroUsize,
    /// How many calls each connection has in flight at most.
    pub concurrency: NonZeroUsize,
    /// When to stop.
    pub amount: Amount,
    /// Requests a second over all connections; `None` sends the next request
    /// as soon as an answer makes room (closed loop).
    pub rate: Option<f64>,
    /// How long to send before measuring.
    pub warm_up: Duration,
    /// How many threads send.
    pub threads: NonZeroUsize,
    /// Give up when no answer at all comes for so long.
    pub patience: Duration,
    /// The server's process, to measure what it uses.
    pub server_pid: Option<NonZeroU32>,
}

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// What is sent in so long a time.
    Time(Duration),
    /// So many requests.
    Requests(NonZeroU64),
}

/// How far a running load is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time since the start, warm-up included.
    pub elapsed: Duration,
    /// What has been counted by now.
    pub counts: Counts,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No server at the address.
    #[error("cannot connect to {addr}: {reason}")]
    Connect {
        /// The address, as given.
        addr: String,
        /// What the operating system says.
        reason: io::Error,
    },
    /// See [`ProtocolError`].
    #[error("{addr}: {reason}")]
    Protocol {
        /// The address, as given.
        addr: String,
        /// What was wrong.
        reason: ProtocolError,
    },
    /// See [`TooBig`].
    #[error(transparent)]
    TooBig(#[from] TooBig),
    /// The processor time of that process cannot be read.
    #[error("cannot read the processor time of process {0}: is it running, and on Linux?")]
    NoProcess(NonZeroU32),
    /// A thread could not be started.
    #[error("cannot start the generator: {0}")]
    Start(io::Error),
}

/// Puts the load on the server and reports. `progress` is called twice a
/// second. Ctrl-C ends the load early, with a report of what was measured.
///
/// Blocks, and brings its own threads and runtimes: not to be called from
/// within a runtime.
///
/// # Errors
/// There is no such server, or it does not speak gRPC.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, LoadError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(LoadError::Start)?
        .block_on(run_on(options, progress))
}

async fn run_on(
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, LoadError> {
    let shared = Arc::new(shared(options).await?);
    let mut generators = vec![];
    for connections in deal(options, &shared) {
        generators.push(Generator::start(connections, shared.clone(), options).await?);
    }
    let start = Instant::now();
    let mut work = pin!(finish(generators, start, options));
    let mut warm = pin!(sleep_until(start + options.warm_up));
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut ticks = interval_at(start + PROGRESS, PROGRESS);
    let (mut is_warm, mut is_interrupted) = (false, false);
    let mut cpu_before = None;
    let mut refusal = None;
    let (tally, generator_cpu) = loop {
        select! {
            result = &mut work => break result?,
            () = &mut warm, if !is_warm => {
                is_warm = true;
                cpu_before = server_cpu(options)?;
            }
            _ = &mut interrupt, if !is_interrupted => {
                is_interrupted = true;
                shared.stop.store(true, Ordering::Relaxed);
            }
            _ = ticks.tick() => {
                progress(Progress { elapsed: start.elapsed(), counts: shared.live.counts() });
                if refusal.is_none() {
                    refusal = explain(options, &shared).await;
                }
            }
        }
    };
    let cpu_after = cpu_before.as_ref().and_then(|_| server_cpu(options).ok()?);
    if refusal.is_none() {
        refusal = explain(options, &shared).await;
    }
    let elapsed = Duration::from_nanos(tally.last.saturating_sub(shared.measure_from));
    let cpu = Cpu {
        server_nanos: cpu_before
            .zip(cpu_after)
            .map(|(before, after)| after.since(&before)),
        generator_nanos: generator_cpu,
    };
    Ok(Report::new(options, &tally, elapsed, cpu, refusal))
}

async fn shared(options: &Options) -> Result<Shared, LoadError> {
    let measure_from = nanos(options.warm_up);
    Ok(Shared {
        server: resolve(&options.addr).await?,
        template: Arc::new(options.request.frames(&options.addr)?),
        concurrency: options.concurrency.get(),
        measure_from,
        until: match options.amount {
            Amount::Time(time) => measure_from.saturating_add(nanos(time)),
            Amount::Requests(_) => u64::MAX,
        },
        patience: options.patience,
        stop: AtomicBool::new(false),
        live: Live::default(),
        failed_key: AtomicU64::new(0),
    })
}

async fn resolve(addr: &str) -> Result<SocketAddr, LoadError> {
    let connect_error = |reason| LoadError::Connect {
        addr: addr.to_owned(),
        reason,
    };
    let mut found = lookup_host(addr).await.map_err(connect_error)?;
    found
        .next()
        .ok_or_else(|| connect_error(io::ErrorKind::NotFound.into()))
}

/// Each thread's connections, each with its share of the load.
fn deal(options: &Options, shared: &Arc<Shared>) -> Vec<Vec<Connection>> {
    let connections = options.connections.get();
    let threads = options.threads.get().min(connections);
    let mut hands: Vec<Vec<Connection>> = (0..threads).map(|_| vec![]).collect();
    for index in 0..connections {
        let (at, of) = (index as u64, connections as u64);
        let keys = Keys::new(options.distribution, options.keys, at, of);
        let pace = match options.rate {
            Some(rate) => Pace::open(rate, index, connections),
            None => Pace::closed(),
        };
        let budget = match options.amount {
            Amount::Time(_) => u64::MAX,
            Amount::Requests(all) => all.get() / of + u64::from(at < all.get() % of),
        };
        hands[index % threads].push(Connection::new(shared.clone(), keys, pace, budget));
    }
    hands
}

fn server_cpu(options: &Options) -> Result<Option<CpuTime>, LoadError> {
    let Some(pid) = options.server_pid else {
        return Ok(None);
    };
    match CpuTime::of_process(pid.get()) {
        Some(time) => Ok(Some(time)),
        None => Err(LoadError::NoProcess(pid)),
    }
}

/// Asks again in the ordinary way what failed, for what the server says.
async fn explain(options: &Options, shared: &Shared) -> Option<Refusal> {
    let key = shared.failed_key.load(Ordering::Relaxed).checked_sub(1)?;
    let call = async {
        let server = format!("http://{}", options.addr);
        let mut client = RateLimitServiceClient::connect(server).await.ok()?;
        let answer = client.should_rate_limit(options.request.request(key)).await;
        answer.err().map(|status| Refusal {
            code: format!("{:?}", status.code()),
            message: status.message().to_owned(),
        })
    };
    timeout(EXPLANATION, call).await.ok()?
}

// === generators ===

/// A thread that sends, with its connections made.
struct Generator {
    start: oneshot::Sender<Instant>,
    end: oneshot::Receiver<Result<Generated, ProtocolError>>,
}

/// What a thread has counted, and what it has used of the processor.
struct Generated {
    tally: Tally,
    cpu: Option<u64>,
}

impl Generator {
    /// Starts the thread and waits until all its connections are made.
    async fn start(
        connections: Vec<Connection>,
        shared: Arc<Shared>,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LoadError::Start)?;
        let (start, started) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let warm_up = options.warm_up;
        let body = async move {
            let streams = match connect_all(&connections, &shared).await {
                Ok(streams) => streams,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Nobody listens any more when another thread failed to start.
            if ready.send(Ok(())).is_ok()
                && let Ok(start) = started.await
            {
                let work = connections.into_iter().zip(streams);
                drop(ended.send(generate(work, &shared, start, warm_up).await));
            }
        };
        thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || runtime.block_on(body))
            .map_err(LoadError::Start)?;
        match is_ready.await {
            Ok(Ok(())) => Ok(Self { start, end }),
            Ok(Err(reason)) => Err(LoadError::Connect {
                addr: options.addr.clone(),
                reason,
            }),
            Err(_) => Err(ended_early()),
        }
    }
}

async fn connect_all(connections: &[Connection], shared: &Shared) -> io::Result<Vec<TcpStream>> {
    let mut streams = vec![];
    for _ in connections {
        streams.push(connect(shared.server).await?);
    }
    Ok(streams)
}

async fn generate(
    work: impl Iterator<Item = (Connection, TcpStream)>,
    shared: &Shared,
    start: Instant,
    warm_up: Duration,
) -> Result<Generated, ProtocolError> {
    let mut tasks = JoinSet::new();
    for (connection, stream) in work {
        tasks.spawn(connection.run(stream, start));
    }
    let before = async {
        sleep_until(start + warm_up).await;
        cpu::of_this_thread()
    };
    let all = async {
        let mut tally = Tally::new();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok(Ok(one)) => tally.merge(&one),
                Ok(Err(error)) => {
                    shared.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        Ok(tally)
    };
    let (before, tally) = tokio::join!(before, all);
    let cpu = before
        .zip(cpu::of_this_thread())
        .map(|(before, after)| after.saturating_sub(before));
    Ok(Generated { tally: tally?, cpu })
}

/// Lets the threads go and adds up what they counted.
async fn finish(
    generators: Vec<Generator>,
    start: Instant,
    options: &Options,
) -> Result<(Tally, Option<u64>), LoadError> {
    let mut ends = vec![];
    for generator in generators {
        // A thread that has ended tells so below.
        let _ = generator.start.send(start);
        ends.push(generator.end);
    }
    let mut tally = Tally::new();
    let mut cpu = Some(0);
    for end in ends {
        let generated = end.await.map_err(|_| ended_early())?;
        let generated = generated.map_err(|reason| LoadError::Protocol {
            addr: options.addr.clone(),
            reason,
        })?;
        tally.merge(&generated.tally);
        cpu = cpu.zip(generated.cpu).map(|(all, one)| all + one);
    }
    Ok((tally, cpu))
}

fn ended_early() -> LoadError {
    LoadError::Start(io::Error::other("a thread ended early"))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
