//! `ratekeeper load`: how many decisions a second does a server make?

use std::{
    io::{IsTerminal as _, Write as _},
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::load::{
    self, Amount, DescriptorTemplate, Distribution, Options, Progress, Report, RequestTemplate,
};

const EXAMPLES: &str = "\
Examples:
  How much can it take? As much as 256 calls in flight make it do, for 5 seconds:
      ratekeeper load --addr 127.0.0.1:8081

  How fast is it at 2,000 requests a second?
      ratekeeper load --addr 127.0.0.1:8081 --rate 2000 --duration 30s

  Your own rules: a domain, and descriptors in which {key} stands for one of many values:
      ratekeeper load --addr 127.0.0.1:8081 --domain shop \\
          --descriptor tenant=acme,user={key} --descriptor path=/cart --keys 1000000

  A check for a script: 1,000 requests, 100 at a time, and not one of them may be refused:
      ratekeeper load --addr 127.0.0.1:8081 --requests 1000 --concurrency 100 \\
          --connections 1 --expect-no-refusals

  The exact count: how many of 1,000 requests for one key does a limit let through?
      ratekeeper load --addr 127.0.0.1:8081 --requests 1000 --keys 1 --json | jq .ok";

/// Put load on a server and measure it.
///
/// Sends ShouldRateLimit calls over plaintext gRPC, to ratekeeper or to any
/// other server of Envoy's rate limit protocol, and reports decisions a
/// second, latencies, and how many were allowed or refused.
///
/// Closed loop, the default: each connection keeps --concurrency calls in
/// flight and sends the next one as soon as an answer makes room. This finds
/// the most a server can do; the latencies are those of a saturated server.
///
/// Open loop, --rate: requests go out at fixed times, whatever the server
/// does, and latencies count from the time at which a request was *due*, so
/// that a stall shows in every request it held up. One processor is kept
/// busy so that requests leave on time.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct LoadArgs {
    /// The server's gRPC address, HOST:PORT.
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub addr: String,

    /// The domain to ask for.
    #[arg(long, default_value = "quickstart")]
    pub domain: String,

    /// A descriptor, KEY=VALUE,KEY=VALUE; give it again for several ones in
    /// each request. `{key}` stands for the number of a key, with leading
    /// zeros, so that all requests are of one length.
    #[arg(
        long = "descriptor",
        default_value = "user={key}",
        value_name = "ENTRIES"
    )]
    pub descriptors: Vec<DescriptorTemplate>,

    /// The hits that each request takes; 0 leaves it to the server, which
    /// takes 1.
    #[arg(long, default_value_t = 1)]
    pub hits: u32,

    /// How many different keys.
    #[arg(long, default_value = "100000")]
    pub keys: NonZeroU64,

    /// How requests spread over the keys: uniform, sequential, or
    /// zipf:EXPONENT (few keys get most requests; 1.1 is like much real
    /// traffic).
    #[arg(long, default_value = "uniform")]
    pub distribution: Distribution,

    /// How many connections. Envoy opens one for each of its worker threads.
    #[arg(long, default_value = "4")]
    pub connections: NonZeroUsize,

    /// The most calls in flight on each connection.
    #[arg(long, default_value = "64")]
    pub concurrency: NonZeroUsize,

    /// How long to measure, such as 500ms, 5s, 2m.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub duration: Duration,

    /// Measure so many requests instead of a time.
    #[arg(long, conflicts_with = "duration", value_name = "N")]
    pub requests: Option<NonZeroU64>,

    /// Open loop: so many requests a second, over all connections.
    #[arg(long, value_parser = rate, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Send for so long before measuring.
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub warmup: Duration,

    /// Threads that send. One saturates several processors of a server.
    #[arg(long, default_value = "1")]
    pub threads: NonZeroUsize,

    /// Give up when no answer at all comes for so long.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,

    /// The server's process on this machine: adds the processor time it uses
    /// for each decision (Linux).
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<NonZeroU32>,

    /// What makes the exit code 1.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "error",
        value_name = "WHAT"
    )]
    pub fail_on: Vec<FailOn>,

    /// Exit with 1 unless every single request was allowed: short for
    /// --fail-on over_limit,error.
    #[arg(long, conflicts_with = "fail_on")]
    pub expect_no_refusals: bool,

    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,

    /// Show progress on stderr even where that is no terminal.
    #[arg(long)]
    pub progress: bool,
}

/// What makes a load fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum FailOn {
    /// A request was refused.
    OverLimit,
    /// A request got no answer.
    Error,
    /// Nothing; only a server that cannot be reached.
    Never,
}

/// Runs the command. Brings its own runtime: not to be called from within
/// one.
///
/// # Errors
/// There is no such server, or it does not speak gRPC.
pub fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let shows = args.progress || std::io::stderr().is_terminal();
    let mut line = ProgressLine::default();
    let report = load::run(&args.options(), &mut |progress| {
        if shows {
            line.show(&progress);
        }
    });
    line.clear();
    let report = report?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(args.exit_code(&report))
}

// === impl LoadArgs ===

impl LoadArgs {
    fn options(&self) -> Options {
        Options {
            addr: self.addr.clone(),
            request: RequestTemplate::new(
                &self.domain,
                &self.descriptors,
                self.hits,
                self.keys.get(),
            ),
            keys: self.keys,
            distribution: self.distribution,
            connections: self.connections,
            concurrency: self.concurrency,
            amount: match self.requests {
                Some(requests) => Amount::Requests(requests),
                None => Amount::Time(self.duration),
            },
            rate: self.rate,
            warm_up: self.warmup,
            threads: self.threads,
            patience: self.timeout,
            server_pid: self.server_pid,
        }
    }

    fn exit_code(&self, report: &Report) -> ExitCode {
        if self.fails(report) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn fails(&self, report: &Report) -> bool {
        let on = |what| self.expect_no_refusals || self.fail_on.contains(&what);
        let refused = report.over_limit > 0;
        let failed = report.errors.total > 0 || report.gave_up;
        (refused && on(FailOn::OverLimit)) || (failed && on(FailOn::Error))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(unit_at.unwrap_or(text.len()));
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a number with a unit: ms, s, m or h, such as 500ms or 5s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err("a number above 0".to_owned()),
    }
}

// === progress ===

/// One line on stderr that is written over again and again.
#[derive(Debug, Default)]
struct ProgressLine {
    before: Option<Progress>,
}

impl ProgressLine {
    fn show(&mut self, now: &Progress) {
        // A watcher that has gone is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.text(now));
        self.before = Some(*now);
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for reading")]
    fn text(&self, now: &Progress) -> String {
        let (since, before) = match &self.before {
            Some(before) => (before.elapsed, before.counts.decisions()),
            None => (Duration::ZERO, 0),
        };
        let seconds = now.elapsed.saturating_sub(since).as_secs_f64();
        let decisions = now.counts.decisions().saturating_sub(before) as f64;
        format!(
            "{:.1} s   {:.0} decisions/s   OK {}   OVER_LIMIT {}   errors {}",
            now.elapsed.as_secs_f64(),
            decisions / seconds.max(1e-9),
            now.counts.ok,
            now.counts.over_limit,
            now.counts.failed
        )
    }

    fn clear(&self) {
        if self.before.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
