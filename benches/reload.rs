//! What a reload of many rules takes, and what calls feel of it.
//!
//! One server with 100,000 rules, under the same load twice: left alone, and
//! while its rules are replaced again and again. The ratio of the two within
//! one round is what counts. Every reload is asked for with a SIGHUP and over
//! when the server says so.
//!
//! `cargo bench --bench reload -- --help` tells the options. The output is a
//! page of Markdown. Linux, two cores, `taskset`.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::{NonZeroU64, NonZeroUsize},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ratekeeper::load::{self, Amount, Distribution, Options, Report, RequestTemplate};
use tokio::time::Instant;

/// A link to the rules in force.
const RULES: &str = "rules.yaml";
/// Between two looks whether a reload is over.
const LOOK: Duration = Duration::from_millis(5);
/// How long a start or a reload may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures reloads of many rules, and calls meanwhile.
#[derive(Debug, Parser)]
struct Args {
    /// How often the two take turns.
    #[arg(long, default_value = "3")]
    rounds: NonZeroUsize,

    /// Seconds for each measurement.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,

    /// Rules of the file.
    #[arg(long, default_value = "100000")]
    rules: NonZeroU64,

    /// From the end of a reload to the next one.
    #[arg(long, default_value_t = 1.0)]
    pause: f64,

    /// Requests a second; 0 for as many as there can be.
    #[arg(long, value_delimiter = ',', default_value = "3500,20000,0")]
    rates: Vec<f64>,

    /// Event loops of the server.
    #[arg(long, default_value = "1")]
    workers: NonZeroUsize,

    /// Where the server runs.
    #[arg(long, default_value = "0,1")]
    server_cores: String,

    /// Where the generator runs.
    #[arg(long, default_value = "0,1")]
    generator_cores: String,

    /// Another build of `ratekeeper` to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ratekeeper"), hide_default_value = true)]
    program: PathBuf,

    /// Given by `cargo bench`; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    // `cargo test --benches` and other runners pass arguments of their own.
    if std::env::args().any(|arg| arg == "--bench") {
        measure(&Args::parse())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args) -> Result<()> {
    println!(
        "{} rules; server with {} workers on cores {}, generator on {}; {} rounds of {} s; a reload {} s after the last one.\n",
        args.rules,
        args.workers,
        args.server_cores,
        args.generator_cores,
        args.rounds,
        args.seconds,
        args.pause
    );
    println!(
        "| asked for | round | | decisions/s | p50 µs | p99 µs | p99.9 µs | reloads | median s | longest s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    move_to(&args.generator_cores)?;
    for &rate in &args.rates {
        let mut ratios = vec![];
        let asked = if rate > 0.0 {
            rate.to_string()
        } else {
            "all".to_owned()
        };
        for round in 1..=args.rounds.get() {
            let server = Server::start(args)?;
            let alone = run(args, &server, rate)?;
            let (during, took) = while_reloading(args, &server, rate)?;
            for (what, report, took) in [("alone", &alone, &[][..]), ("reloading", &during, &took)]
            {
                println!("| {asked} | {round} | {what} | {}", row(report, took));
            }
            ratios.push(during.latency_microseconds.p99 / alone.latency_microseconds.p99);
        }
        println!(
            "| {asked} | **median** | p99 × alone | | | {:.2} | | | | |",
            median(ratios)
        );
    }
    Ok(())
}

fn row(report: &Report, took: &[f64]) -> String {
    let latency = &report.latency_microseconds;
    let mut row = format!(
        "{:.0} | {:.0} | {:.0} | {:.0} |",
        report.decisions_per_second, latency.p50, latency.p99, latency.p999
    );
    if took.is_empty() {
        return row + " | | |";
    }
    let longest = took.iter().copied().fold(0.0, f64::max);
    let _ = write!(
        row,
        " {} | {:.2} | {longest:.2} |",
        took.len(),
        median(took.to_vec())
    );
    row
}

/// The load, and what each reload beside it took, in seconds.
fn while_reloading(args: &Args, server: &Server, rate: f64) -> Result<(Report, Vec<f64>)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            let mut took = vec![];
            for version in [1, 0].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                took.push(server.reload(version)?);
                pause(Duration::from_secs_f64(args.pause));
            }
            Ok(took)
        });
        let report = run(args, server, rate);
        over.store(true, Ordering::Relaxed);
        let took: Result<Vec<f64>> = reloading.join().unwrap_or_else(|_| Ok(vec![]));
        Ok((report?, took?))
    })
}

fn run(args: &Args, server: &Server, rate: f64) -> Result<Report> {
    let descriptor = "user=user-{key}".parse().context("the descriptor")?;
    let keys = args.rules;
    let options = Options {
        addr: server.grpc.to_string(),
        request: RequestTemplate::new("bench", &[descriptor], 1, keys.get()),
        keys,
        distribution: Distribution::Uniform,
        connections: NonZeroUsize::new(4).context("a number")?,
        concurrency: NonZeroUsize::new(64).context("a number")?,
        amount: Amount::Time(Duration::from_secs_f64(args.seconds)),
        rate: (rate > 0.0).then_some(rate),
        warm_up: Duration::from_secs(1),
        threads: NonZeroUsize::MIN,
        patience: Duration::from_secs(10),
        server_pid: None,
    };
    let report = load::run(&options, &mut |_| {})?;
    ensure!(
        report.errors.total == 0 && report.over_limit == 0,
        "not every request passed:\n{report}"
    );
    Ok(report)
}

/// A rule for each user; the limits tell one version from the other.
fn rules(count: u64, version: u32) -> String {
    let mut text = "domain: bench\ndescriptors:\n".to_owned();
    // As wide as the generator writes them.
    let width = count.saturating_sub(1).to_string().len();
    for number in 0..count {
        let limit = 4_000_000_000 + version;
        let _ = write!(
            text,
            "  - key: user\n    value: user-{number:0width$}\n    rate_limit:\n      unit: hour\n      requests_per_unit: {limit}\n"
        );
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

// === server ===

/// A server's process; it ends with this value.
struct Server {
    process: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(args: &Args) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for version in [0, 1] {
            let file = folder.path().join(version.to_string());
            fs::write(file, rules(args.rules.get(), version))?;
        }
        let file = folder.path().join(RULES);
        symlink("0", &file)?;
        let (grpc, http) = (free_addr()?, free_addr()?);
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", &args.server_cores])
            .arg(&args.program)
            .args(["serve", "--store", "memory", "--drain-delay", "0s"])
            .args(["--rules-poll", "0", "--rules"])
            .arg(file)
            .args(["--grpc-addr", &grpc.to_string()])
            .args(["--http-addr", &http.to_string()])
            .args(["--workers", &args.workers.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self {
            process: command.spawn()?,
            grpc,
            http,
            folder,
        };
        server.wait_for_loads(1)?;
        Ok(server)
    }

    /// Seconds from the signal to the new rules.
    fn reload(&self, version: u32) -> Result<f64> {
        let folder = self.folder.path();
        symlink(version.to_string(), folder.join("new"))?;
        fs::rename(folder.join("new"), folder.join(RULES))?;
        let before = self.loads().context("the server answers")?;
        let start = Instant::now();
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", "HUP", &id]).status()?;
        ensure!(sent.success(), "kill failed");
        self.wait_for_loads(before + 1)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn wait_for_loads(&self, successes: u64) -> Result<()> {
        let start = Instant::now();
        while self.loads() != Some(successes) {
            ensure!(start.elapsed() < PATIENCE, "no load in {PATIENCE:?}");
            pause(LOOK);
        }
        Ok(())
    }

    /// How many loads were good ones.
    fn loads(&self) -> Option<u64> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        write!(stream, "GET /healthcheck?detail HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        let detail: serde_json::Value = serde_json::from_str(body).ok()?;
        detail["loads"]["successes"].as_u64()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already: all the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Moves this process, and with it all threads to come.
fn move_to(cores: &str) -> Result<()> {
    let id = std::process::id().to_string();
    let moved = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", cores, &id])
        .stdout(Stdio::null())
        .status()
        .context("taskset")?;
    ensure!(moved.success(), "taskset failed");
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "waits for another process")]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
