//! The whole server against the floor under it: a tonic server that does
//! nothing but answer, measured in the same run.
//!
//! A machine's speed moves from minute to minute, so the two take turns, and
//! the ratio of neighbouring rounds is what counts. Each server is a process
//! of its own, held to one core, with the generator on another; processor
//! time is the server's own, from the operating system.
//!
//! `cargo bench --bench service -- --help` tells the options. The output is
//! a page of Markdown. Linux, at least two cores, `taskset`.

mod redis;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use ratekeeper::{
    load::{self, Amount, Distribution, Options, Report, RequestTemplate},
    proto::envoy::service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
    },
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// The floor gets the allocator that the server has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where servers run; the generator runs on the other one.
const SERVER_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";

/// Every key stays below it.
const RULES: &str = "\
domain: bench
descriptors:
  - key: user
    rate_limit:
      unit: hour
      requests_per_unit: 4000000000
  - key: leased
    rate_limit:
      unit: hour
      requests_per_unit: 4000000000
      accuracy: leased
  - key: over
    rate_limit:
      unit: hour
      requests_per_unit: 1
";

/// Compares `ratekeeper serve` with a tonic server that does nothing.
#[derive(Debug, Parser)]
struct Args {
    /// How often the two take turns.
    #[arg(long, default_value = "5")]
    rounds: NonZeroUsize,

    /// Seconds for each measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,

    /// Connections of the generator.
    #[arg(long, default_value = "4")]
    connections: NonZeroUsize,

    /// Calls in flight on each connection.
    #[arg(long, default_value = "64")]
    concurrency: NonZeroUsize,

    /// Different keys.
    #[arg(long, default_value = "100000")]
    keys: NonZeroU64,

    /// Requests a second of the open loop.
    #[arg(long, default_value_t = 3_500.0)]
    rate: f64,

    /// Measures these parts.
    #[arg(long, value_delimiter = ',', default_value = "saturated,open,scaling")]
    parts: Vec<Part>,

    /// Measures the no-op server only.
    #[arg(long)]
    floor_only: bool,

    /// Another build of `ratekeeper` to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ratekeeper"), hide_default_value = true)]
    program: PathBuf,

    /// More arguments for `ratekeeper serve`, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    serve: String,

    /// Given by `cargo bench`; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,

    /// Be the no-op server at this address.
    #[arg(long, hide = true)]
    noop_server: Option<SocketAddr>,
}

/// A part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Closed loop: decisions a second, and processor time for each.
    Saturated,
    /// Open loop: latencies at a rate that neither server feels.
    Open,
    /// One worker against two.
    Scaling,
    /// Counting in a Redis of its own, under several loads.
    Redis,
}

fn main() -> Result<ExitCode> {
    // `cargo test --benches` and other runners pass arguments of their own.
    let ours = ["--bench", "--noop-server"];
    if !std::env::args().any(|arg| ours.contains(&arg.as_str())) {
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::parse();
    match args.noop_server {
        Some(addr) => serve_noop(addr)?,
        None => measure(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args) -> Result<()> {
    println!("{}", facts(args)?);
    pin_generator(GENERATOR_CORE)?;
    for part in &args.parts {
        match part {
            Part::Saturated => saturated(args)?,
            Part::Open => open(args)?,
            Part::Scaling | Part::Redis if args.floor_only => {}
            Part::Scaling => scaling(args)?,
            Part::Redis => redis::measure(args)?,
        }
    }
    Ok(())
}

// === parts ===

fn saturated(args: &Args) -> Result<()> {
    println!(
        "### At saturation\n\nClosed loop, {} connections × {} in flight, {} keys, server on core {SERVER_CORE}, generator on core {GENERATOR_CORE}.\n",
        args.connections, args.concurrency, args.keys
    );
    take_turns(args, None)
}

fn open(args: &Args) -> Result<()> {
    println!(
        "### At {} requests a second\n\nOpen loop: latencies count from the time at which a request was due.\n",
        args.rate
    );
    take_turns(args, Some(args.rate))
}

/// A B A B …, each server started anew for each round.
fn take_turns(args: &Args, rate: Option<f64>) -> Result<()> {
    println!("{HEAD}");
    let (mut floors, mut ours) = (vec![], vec![]);
    for round in 1..=args.rounds.get() {
        let floor = Row::new(&load_on(args, &Server::noop()?, rate)?);
        println!("{}", floor.line(&round.to_string(), "no-op tonic", None));
        if !args.floor_only {
            let row = Row::new(&load_on(
                args,
                &Server::ratekeeper(args, 1, SERVER_CORE, "memory")?,
                rate,
            )?);
            println!(
                "{}",
                row.line(&round.to_string(), "ratekeeper", Some(&floor))
            );
            ours.push((row, floor.cpu));
        }
        floors.push((floor, floor.cpu));
        io::stdout().flush()?;
    }
    println!(
        "{}",
        Row::median(&floors).line("**median**", "no-op tonic", None)
    );
    if !ours.is_empty() {
        println!(
            "{}",
            Row::median(&ours).line("**median**", "ratekeeper", None)
        );
    }
    println!();
    Ok(())
}

fn scaling(args: &Args) -> Result<()> {
    println!(
        "### Both cores\n\nOne worker on core {SERVER_CORE} with the generator on the other, then two workers on both cores, which they share with the generator.\n"
    );
    println!(
        "| round | workers | decisions/s | server CPU µs | generator CPU µs | × one worker |\n|---|---|---|---|---|---|"
    );
    let mut ratios = vec![];
    for round in 1..=args.rounds.get() {
        pin_generator(GENERATOR_CORE)?;
        let one = load_on(
            args,
            &Server::ratekeeper(args, 1, SERVER_CORE, "memory")?,
            None,
        )?;
        pin_generator(BOTH_CORES)?;
        let two = load_on(
            args,
            &Server::ratekeeper(args, 2, BOTH_CORES, "memory")?,
            None,
        )?;
        let ratio = two.decisions_per_second / one.decisions_per_second;
        for (workers, report, ratio) in [(1, &one, 1.0), (2, &two, ratio)] {
            println!(
                "| {round} | {workers} | {:.0} | {:.2} | {:.2} | {ratio:.2} |",
                report.decisions_per_second,
                report
                    .cpu
                    .server_microseconds_per_decision
                    .unwrap_or(f64::NAN),
                report
                    .cpu
                    .generator_microseconds_per_decision
                    .unwrap_or(f64::NAN),
            );
        }
        ratios.push(ratio);
    }
    println!("| **median** | 2 | | | | {:.2} |\n", median(ratios));
    pin_generator(GENERATOR_CORE)
}

fn load_on(args: &Args, server: &Server, rate: Option<f64>) -> Result<Report> {
    let report = run(
        args,
        server,
        rate,
        "user={key}",
        args.keys,
        Distribution::Uniform,
    )?;
    ensure!(
        report.errors.total == 0 && report.over_limit == 0,
        "not every request passed:\n{report}"
    );
    Ok(report)
}

fn run(
    args: &Args,
    server: &Server,
    rate: Option<f64>,
    descriptor: &str,
    keys: NonZeroU64,
    distribution: Distribution,
) -> Result<Report> {
    let descriptor = descriptor.parse().context("the descriptor")?;
    let options = Options {
        addr: server.addr.to_string(),
        request: RequestTemplate::new("bench", &[descriptor], 1, keys.get()),
        keys,
        distribution,
        connections: args.connections,
        concurrency: args.concurrency,
        amount: Amount::Time(Duration::from_secs_f64(args.seconds)),
        rate,
        warm_up: Duration::from_secs(1),
        threads: NonZeroUsize::MIN,
        patience: Duration::from_secs(10),
        server_pid: NonZeroU32::new(server.process.id()),
    };
    Ok(load::run(&options, &mut |_| {})?)
}

// === figures ===

const HEAD: &str = "\
| round | server | decisions/s | CPU µs / decision | × floor | p50 µs | p99 µs | p99.9 µs | generator CPU µs |
|---|---|---|---|---|---|---|---|---|";

/// What is told of one measurement.
#[derive(Clone, Copy, Debug)]
struct Row {
    per_second: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    generator: f64,
    /// Of medians: the median of each round's ratio.
    ratio: Option<f64>,
}

impl Row {
    fn new(report: &Report) -> Self {
        let latency = &report.latency_microseconds;
        let cpu = &report.cpu;
        Self {
            per_second: report.decisions_per_second,
            cpu: cpu.server_microseconds_per_decision.unwrap_or(f64::NAN),
            p50: latency.p50,
            p99: latency.p99,
            p999: latency.p999,
            generator: cpu.generator_microseconds_per_decision.unwrap_or(f64::NAN),
            ratio: None,
        }
    }

    /// Of each figure by itself; rows come with the floor of their round.
    fn median(rows: &[(Self, f64)]) -> Self {
        let of =
            |figure: fn(&Self) -> f64| median(rows.iter().map(|(row, _)| figure(row)).collect());
        Self {
            per_second: of(|row| row.per_second),
            cpu: of(|row| row.cpu),
            p50: of(|row| row.p50),
            p99: of(|row| row.p99),
            p999: of(|row| row.p999),
            generator: of(|row| row.generator),
            ratio: Some(median(
                rows.iter().map(|(row, floor)| row.cpu / floor).collect(),
            )),
        }
    }

    fn line(&self, round: &str, server: &str, floor: Option<&Self>) -> String {
        let ratio = self.ratio.or(floor.map(|floor| self.cpu / floor.cpu));
        format!(
            "| {round} | {server} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} |",
            self.per_second,
            self.cpu,
            ratio.unwrap_or(1.0),
            self.p50,
            self.p99,
            self.p999,
            self.generator,
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// What the figures depend on.
fn facts(args: &Args) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism()?;
    ensure!(
        cores.get() >= 2,
        "two cores are needed: one for the server, one for the generator"
    );
    let kernel = read("/proc/sys/kernel/osrelease");
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let mut text = String::new();
    writeln!(
        text,
        "`cargo bench --bench service -- {}`\n",
        given.join(" ")
    )?;
    writeln!(
        text,
        "{model}, {cores} cores, Linux {}; {} rounds of {} s after 1 s of warm-up; the medians' ratio is the median of the rounds' ratios.",
        kernel.trim(),
        args.rounds,
        args.seconds
    )?;
    Ok(text)
}

/// Moves this process, and with it all threads to come.
fn pin_generator(cores: &str) -> Result<()> {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", cores, &pid])
        .stdout(Stdio::null())
        .status()
        .context("taskset")?;
    ensure!(moved.success(), "taskset failed");
    Ok(())
}

// === servers ===

/// A server's process; it ends with this value.
struct Server {
    process: Child,
    addr: SocketAddr,
    _rules: Option<tempfile::TempDir>,
}

impl Server {
    fn noop() -> Result<Self> {
        let addr = free_addr()?;
        let mut command = pinned(SERVER_CORE, &std::env::current_exe()?);
        command.args(["--noop-server", &addr.to_string()]);
        Self::start(command, addr, None)
    }

    fn ratekeeper(args: &Args, workers: usize, cores: &str, store: &str) -> Result<Self> {
        let rules = tempfile::tempdir()?;
        std::fs::write(rules.path().join("bench.yaml"), RULES)?;
        let (grpc, http) = (free_addr()?, free_addr()?);
        let mut command = pinned(cores, &args.program);
        command
            .args(["serve", "--store", store, "--drain-delay", "0s", "--rules"])
            .arg(rules.path())
            .args(["--grpc-addr", &grpc.to_string()])
            .args(["--http-addr", &http.to_string()])
            .args(["--workers", &workers.to_string()])
            .args(args.serve.split_whitespace());
        Self::start(command, grpc, Some(rules))
    }

    fn start(
        mut command: Command,
        addr: SocketAddr,
        rules: Option<tempfile::TempDir>,
    ) -> Result<Self> {
        let mut server = Self {
            process: command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
            addr,
            _rules: rules,
        };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        for _ in 0..200 {
            if TcpStream::connect(self.addr).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended: {status}");
            }
            pause(Duration::from_millis(25));
        }
        bail!("the server does not listen on {}", self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already: all the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `taskset` becomes the program, so the process's number is the program's.
fn pinned(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cores]).arg(program);
    command
}

#[allow(clippy::disallowed_methods, reason = "waits for another process")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Answers every request alike.
struct Noop(RateLimitResponse);

#[tonic::async_trait]
impl RateLimitService for Noop {
    async fn should_rate_limit(
        &self,
        _: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

/// The answer has the fields that the real one has.
fn serve_noop(addr: SocketAddr) -> Result<()> {
    let status = DescriptorStatus {
        code: Code::Ok.into(),
        current_limit: Some(RateLimit {
            requests_per_unit: 4_000_000_000,
            unit: Unit::Hour.into(),
            ..RateLimit::default()
        }),
        limit_remaining: 3_999_999_999,
        duration_until_reset: Some(prost_types::Duration {
            seconds: 1_800,
            nanos: 0,
        }),
        ..DescriptorStatus::default()
    };
    let answer = RateLimitResponse {
        overall_code: Code::Ok.into(),
        statuses: vec![status],
        ..RateLimitResponse::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind(addr)?.with_nodelay(Some(true));
        tonic::transport::Server::builder()
            .add_service(RateLimitServiceServer::new(Noop(answer)))
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}
