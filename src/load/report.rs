//! What the load has shown, for people and for programs.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Options, tally::Tally};

/// The results of a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The server's address, as given.
    pub addr: String,
    /// The domain that was asked for.
    pub domain: String,
    /// How many connections.
    pub connections: usize,
    /// How many calls were in flight on each, at most.
    pub concurrency: usize,
    /// How many keys.
    pub keys: u64,
    /// How requests were spread over them.
    pub distribution: String,
    /// Requests a second that were to be sent; `None` for a closed loop.
    pub rate: Option<f64>,
    /// From the first to the last measured call.
    pub seconds: f64,
    /// Answers: `ok` and `over_limit`.
    pub decisions: u64,
    /// Answers in a second.
    pub decisions_per_second: f64,
    /// Calls that may pass.
    pub ok: u64,
    /// Calls that may not.
    pub over_limit: u64,
    /// Calls without an answer.
    pub errors: Errors,
    /// Connections that had to be made again.
    pub reconnects: u64,
    /// The server went away, or silent, before all was sent.
    pub gave_up: bool,
    /// What the server said when a failed call was repeated.
    pub first_error: Option<Refusal>,
    /// From the time at which a call was due to its answer.
    pub latency_microseconds: Latencies,
    /// Processor time; each part is missing where it was not measured.
    pub cpu: CpuReport,
}

/// Calls without an answer, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// All of them.
    pub total: u64,
    /// A gRPC status other than OK.
    pub status: u64,
    /// The server reset the call.
    pub reset: u64,
    /// The answer could not be understood.
    pub malformed: u64,
    /// The connection was lost.
    pub lost: u64,
    /// No answer at all for too long.
    pub timed_out: u64,
}

/// A gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its code.
    pub code: String,
    /// Its message.
    pub message: String,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// Half of the calls took no longer.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The average.
    pub mean: f64,
}

/// Processor time as measured, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Of the server.
    pub server_nanos: Option<u64>,
    /// Of the threads that send.
    pub generator_nanos: Option<u64>,
}

/// Processor time for one decision, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuReport {
    /// Of the server.
    pub server_microseconds_per_decision: Option<f64>,
    /// How many processors the server kept busy.
    pub server_cores: Option<f64>,
    /// Of the threads that send.
    pub generator_microseconds_per_decision: Option<f64>,
}

// === impl Report ===

#[allow(clippy::cast_precision_loss, reason = "figures for reading")]
impl Report {
    pub(crate) fn new(
        options: &Options,
        tally: &Tally,
        elapsed: Duration,
        cpu: Cpu,
        first_error: Option<Refusal>,
    ) -> Self {
        let decisions = tally.ok + tally.over_limit;
        let seconds = elapsed.as_secs_f64();
        Self {
            addr: options.addr.clone(),
            domain: options.request.domain().to_owned(),
            connections: options.connections.get(),
            concurrency: options.concurrency.get(),
            keys: options.keys.get(),
            distribution: options.distribution.to_string(),
            rate: options.rate,
            seconds,
            decisions,
            decisions_per_second: ratio(decisions as f64, seconds),
            ok: tally.ok,
            over_limit: tally.over_limit,
            errors: Errors::new(tally),
            reconnects: tally.reconnects,
            gave_up: tally.gave_up,
            first_error,
            latency_microseconds: Latencies::new(tally),
            cpu: CpuReport::new(cpu, decisions, seconds),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = match self.rate {
            Some(rate) => format!("open loop, {rate} requests/s"),
            None => "closed loop".to_owned(),
        };
        writeln!(
            f,
            "{}, domain {:?}: {} connections × {} in flight, {load}, {} keys ({}), {:.1} s",
            self.addr,
            self.domain,
            self.connections,
            self.concurrency,
            grouped(self.keys),
            self.distribution,
            self.seconds
        )?;
        writeln!(
            f,
            "\ndecisions   {:>14}   {} a second",
            grouped(self.decisions),
            grouped(whole(self.decisions_per_second))
        )?;
        self.line(f, "OK", self.ok)?;
        self.line(f, "OVER_LIMIT", self.over_limit)?;
        self.line(f, "errors", self.errors.total)?;
        self.write_errors(f)?;
        writeln!(f, "\nlatency     {}", self.latency_microseconds)?;
        write!(f, "{}", self.cpu)
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for reading")]
impl Report {
    fn line(&self, f: &mut fmt::Formatter<'_>, name: &str, count: u64) -> fmt::Result {
        let all = self.decisions + self.errors.total;
        let share = ratio(count as f64 * 100.0, all as f64);
        writeln!(f, "{name:<11} {:>14}   {share:.2} %", grouped(count))
    }

    fn write_errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = &self.errors;
        for (count, what) in [
            (errors.status, "answered with a gRPC error"),
            (errors.reset, "reset by the server"),
            (
                errors.malformed,
                "answered with something else than a decision",
            ),
            (errors.lost, "lost with their connection"),
            (errors.timed_out, "not answered in time"),
        ] {
            if count > 0 {
                writeln!(f, "  {:>24}   {what}", grouped(count))?;
            }
        }
        if let Some(refusal) = &self.first_error {
            writeln!(f, "the server says: {}: {}", refusal.code, refusal.message)?;
        }
        if self.reconnects > 0 {
            writeln!(f, "connected again {} times", grouped(self.reconnects))?;
        }
        if self.gave_up {
            writeln!(
                f,
                "gave up before all requests were sent: the server is gone or silent"
            )?;
        }
        Ok(())
    }
}

// === impl Errors ===

impl Errors {
    fn new(tally: &Tally) -> Self {
        let failures = &tally.failures;
        Self {
            total: failures.total(),
            status: failures.status,
            reset: failures.reset,
            malformed: failures.malformed,
            lost: failures.lost,
            timed_out: failures.timed_out,
        }
    }
}

// === impl Latencies ===

#[allow(clippy::cast_precision_loss, reason = "figures for reading")]
impl Latencies {
    fn new(tally: &Tally) -> Self {
        let latencies = &tally.latencies;
        if latencies.is_empty() {
            return Self::default();
        }
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies.max() as f64 / 1e3,
            mean: latencies.mean() / 1e3,
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in [
            ("p50", self.p50),
            ("   p90", self.p90),
            ("   p99", self.p99),
            ("   p99.9", self.p999),
            ("   max", self.max),
        ] {
            write!(f, "{name} {}", duration(value))?;
        }
        Ok(())
    }
}

// === impl CpuReport ===

#[allow(clippy::cast_precision_loss, reason = "figures for reading")]
impl CpuReport {
    fn new(cpu: Cpu, decisions: u64, seconds: f64) -> Self {
        let each = |nanos: u64| ratio(nanos as f64 / 1e3, decisions as f64);
        Self {
            server_microseconds_per_decision: cpu.server_nanos.map(each),
            server_cores: cpu
                .server_nanos
                .map(|nanos| ratio(nanos as f64 / 1e9, seconds)),
            generator_microseconds_per_decision: cpu.generator_nanos.map(each),
        }
    }
}

impl fmt::Display for CpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self
            .server_microseconds_per_decision
            .zip(self.server_cores)
            .map(|(each, cores)| format!("server {each:.2} µs a decision ({cores:.2} cores)"));
        let generator = self
            .generator_microseconds_per_decision
            .map(|each| format!("this generator {each:.2} µs a decision"));
        let parts: Vec<String> = server.into_iter().chain(generator).collect();
        if parts.is_empty() {
            return Ok(());
        }
        writeln!(f, "processor   {}", parts.join("   "))
    }
}

// === figures ===

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// `1234567` → `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds in the unit that suits them.
fn duration(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
        for (microseconds, expected) in [
            (0.0, "0 µs"),
            (999.0, "999 µs"),
            (1_500.0, "1.50 ms"),
            (2_500_000.0, "2.50 s"),
        ] {
            assert_eq!(duration(microseconds), expected);
        }
    }

    #[test]
    fn nothing_divides_by_zero() {
        let cpu = Cpu {
            server_nanos: Some(5),
            generator_nanos: Some(5),
        };
        let report = CpuReport::new(cpu, 0, 0.0);
        assert_eq!(report.server_cores, Some(0.0));
        assert_eq!(report.server_microseconds_per_decision, Some(0.0));
    }
}
