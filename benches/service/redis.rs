//! The server counting in Redis, against the floor of the same round.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU64,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ratekeeper::load::{Distribution, Report};

use super::{Args, BOTH_CORES, GENERATOR_CORE, SERVER_CORE, Server, load_on, median, pause, run};

/// A load, and what it should cost at most, × the floor.
struct Load {
    name: &'static str,
    descriptor: &'static str,
    keys: u64,
    distribution: Distribution,
    aim: f64,
}

fn loads(args: &Args) -> Result<Vec<Load>> {
    let uniform = Distribution::Uniform;
    let load = |name, descriptor, keys, distribution, aim| Load {
        name,
        descriptor,
        keys,
        distribution,
        aim,
    };
    let zipf = "zipf:1.1".parse().map_err(anyhow::Error::msg)?;
    let keys = args.keys.get();
    Ok(vec![
        load("exact, uniform", "user={key}", keys, uniform, 2.0),
        load("exact, zipf 1.1", "user={key}", keys, zipf, 1.8),
        load("exact, one hot key", "user={key}", 1, uniform, 1.4),
        load("leased, one hot key", "leased={key}", 1, uniform, 1.3),
        load("over the limit", "over={key}", 1_000, uniform, 1.25),
    ])
}

/// What one round of a load cost.
struct Cost {
    per_second: f64,
    cpu: f64,
    ratio: f64,
    p50: f64,
    p99: f64,
    commands: f64,
    redis_cpu: f64,
}

pub(crate) fn measure(args: &Args) -> Result<()> {
    let redis = Redis::start()?;
    println!(
        "### Counting in Redis\n\nClosed loop, {} connections × {} in flight, {} keys. Server on core {SERVER_CORE}; Redis {} and the generator share core {GENERATOR_CORE}. The floor is the no-op tonic server, measured in the same round.\n",
        args.connections,
        args.concurrency,
        args.keys,
        redis.version(),
    );
    println!(
        "| load | decisions/s | CPU µs / decision | × floor | aim | p50 µs | p99 µs | commands / decision | Redis CPU µs / decision |\n|---|---|---|---|---|---|---|---|---|"
    );
    for load in loads(args)? {
        let mut costs = vec![];
        for _ in 0..args.rounds.get() {
            costs.push(round(args, &redis, &load)?);
        }
        let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure).collect());
        println!(
            "| {} | {:.0} | {:.2} | {:.2} | {} | {:.0} | {:.0} | {:.4} | {:.2} |",
            load.name,
            of(|cost| cost.per_second),
            of(|cost| cost.cpu),
            of(|cost| cost.ratio),
            load.aim,
            of(|cost| cost.p50),
            of(|cost| cost.p99),
            of(|cost| cost.commands),
            of(|cost| cost.redis_cpu),
        );
    }
    println!();
    two_processes(args, &redis)
}

fn round(args: &Args, redis: &Redis, load: &Load) -> Result<Cost> {
    let floor = cpu(&load_on(args, &Server::noop()?, None)?);
    let server = Server::ratekeeper(args, 1, SERVER_CORE, &redis.address())?;
    let keys = NonZeroU64::new(load.keys).context("a load has keys")?;
    let ask = || {
        run(
            args,
            &server,
            None,
            load.descriptor,
            keys,
            load.distribution,
        )
    };
    // Connections are made, keys have their time to live, leases their size.
    ask()?;
    let before = redis.figures()?;
    let report = ask()?;
    let after = redis.figures()?;
    ensure!(
        report.errors.total == 0,
        "not every request was answered:\n{report}"
    );
    // The report is of the measured time; Redis has seen its warm-up too.
    let seen = report.decisions as f64 * (args.seconds + 1.0) / args.seconds;
    let cpu = cpu(&report);
    Ok(Cost {
        per_second: report.decisions_per_second,
        cpu,
        ratio: cpu / floor,
        p50: report.latency_microseconds.p50,
        p99: report.latency_microseconds.p99,
        commands: (after.commands - before.commands) / seen,
        redis_cpu: (after.cpu - before.cpu) * 1e6 / seen,
    })
}

/// Two processes that share the counters, and both cores with all else.
fn two_processes(args: &Args, redis: &Redis) -> Result<()> {
    println!(
        "### Two processes on one Redis\n\nOne worker each, on both cores together with Redis and the generators; uniform keys.\n\n| processes | decisions/s | CPU µs / decision | p99 µs |\n|---|---|---|---|"
    );
    super::pin_generator(BOTH_CORES)?;
    for processes in [1, 2] {
        let servers = (0..processes)
            .map(|_| Server::ratekeeper(args, 1, BOTH_CORES, &redis.address()))
            .collect::<Result<Vec<_>>>()?;
        let reports = std::thread::scope(|scope| {
            let loads: Vec<_> = servers
                .iter()
                .map(|server| scope.spawn(|| load_on(args, server, None)))
                .collect();
            let join = |load: std::thread::ScopedJoinHandle<'_, Result<Report>>| {
                load.join()
                    .unwrap_or_else(|_| bail!("the generator failed"))
            };
            loads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let sum = |figure: fn(&Report) -> f64| reports.iter().map(figure).sum::<f64>();
        println!(
            "| {processes} | {:.0} | {:.2} | {:.0} |",
            sum(|report| report.decisions_per_second),
            sum(cpu) / f64::from(processes),
            reports
                .iter()
                .map(|report| report.latency_microseconds.p99)
                .fold(0.0, f64::max),
        );
    }
    println!();
    super::pin_generator(GENERATOR_CORE)
}

fn cpu(report: &Report) -> f64 {
    report
        .cpu
        .server_microseconds_per_decision
        .unwrap_or(f64::NAN)
}

/// A Redis server's process; it ends with this value.
struct Redis {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

/// Totals since it began.
struct Figures {
    /// `INCRBY`, `EXPIRE` and scripts.
    commands: f64,
    /// Seconds of processor time.
    cpu: f64,
}

impl Redis {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let process = Command::new("taskset")
            .args([
                "--cpu-list",
                GENERATOR_CORE,
                "redis-server",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder.path())
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server")?;
        let redis = Self {
            process,
            port,
            _folder: folder,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                return Ok(redis);
            }
            pause(Duration::from_millis(25));
        }
        bail!("redis-server does not listen")
    }

    fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn info(&self, section: &str) -> Result<String> {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "INFO", section])
            .output()
            .context("redis-cli")?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn version(&self) -> String {
        let info = self.info("server").unwrap_or_default();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        line.unwrap_or("unknown").trim().to_owned()
    }

    fn figures(&self) -> Result<Figures> {
        let calls = |line: &str| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = figures.split(',').next()?.parse::<f64>().ok()?;
            ["incrby", "expire", "eval"]
                .contains(&name)
                .then_some(calls)
        };
        let seconds = |line: &str| {
            let (name, seconds) = line.split_once(':')?;
            let counts = ["used_cpu_sys", "used_cpu_user"].contains(&name);
            counts.then(|| seconds.trim().parse::<f64>().ok()).flatten()
        };
        Ok(Figures {
            commands: self.info("commandstats")?.lines().filter_map(calls).sum(),
            cpu: self.info("cpu")?.lines().filter_map(seconds).sum(),
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Ended already: all the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
