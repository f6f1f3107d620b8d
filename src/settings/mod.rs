//! Settings of the process: flags, environment and a file → each component's
//! Config.
//!
//! A flag's variable has the reference's name where the reference has one. A
//! flag wins over its variable, and that over a file. In reading order:
//! [`sources`] where settings come from, [`file`](mod@file) what a file says,
//! [`secrets`] what is not shown; [`store`] the flags of the store;
//! [`reference`](mod@reference) every variable of the reference; [`answers`]
//! some settings by name.

pub(crate) mod answers;
pub(crate) mod file;
mod observe;
pub mod reference;
mod reload;
pub(crate) mod secrets;
pub(crate) mod sources;
mod store;
mod telemetry;
mod tls;
mod xds;

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{
    ArgAction, Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};

pub use sources::PrintFormat;
pub use store::Choice;
pub use telemetry::Sink;

use crate::{
    app,
    config::{self, ReadOptions, RulesSource},
    engine::{decision::Policy, headers::HeaderNames, rules::OnStoreFailure},
    service::{
        certificates,
        limits::Limits,
        wire::{Bounds, ResponseSettings},
    },
    storage::{ChargeMode, memory},
    telemetry::{logging, refusals, traces},
};

/// Flags and variables of `ratekeeper serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  ratekeeper serve --rules config/quickstart
  ratekeeper serve --rules limits.yaml --grpc-addr 127.0.0.1:8081 --http-addr 127.0.0.1:8080
  BACKEND_TYPE=memory RUNTIME_ROOT=/data RUNTIME_SUBDIRECTORY=ratelimit ratekeeper serve --compat")]
pub struct Serve {
    /// A rules file, or a folder of them (*.yaml and *.yml but not *.test.yaml,
    /// folders below too)
    #[arg(long, env = "RATEKEEPER_RULES", value_name = "PATH")]
    pub rules: Option<PathBuf>,

    /// Behave as envoyproxy/ratelimit does: its error codes, its folder of
    /// rules, its default log level. Implied when the program is called
    /// `ratelimit`
    #[arg(long, env = "RATEKEEPER_COMPAT", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    pub compat: bool,

    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    tls: tls::Tls,
    #[command(flatten)]
    runtime: Runtime,
    #[command(flatten)]
    xds: xds::Xds,
    #[command(flatten)]
    reload: reload::Reload,
    #[command(flatten)]
    decide: Decide,
    #[command(flatten)]
    store: store::Store,
    #[command(flatten)]
    telemetry: telemetry::Telemetry,
    #[command(flatten)]
    bounds: BoundFlags,
    #[command(flatten)]
    tracing: observe::Tracing,
    #[command(flatten)]
    refusals: observe::Refusals,
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    sources: sources::SourceFlags,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listeners")]
struct Listen {
    /// Address and port for gRPC
    #[arg(long, env = "RATEKEEPER_GRPC_ADDR", value_name = "ADDR:PORT")]
    grpc_addr: Option<SocketAddr>,
    /// Address for gRPC, unless --grpc-addr is given
    #[arg(long, env = "GRPC_HOST", value_name = "ADDR", default_value = "0.0.0.0", value_parser = host)]
    grpc_host: IpAddr,
    /// Port for gRPC, unless --grpc-addr is given
    #[arg(long, env = "GRPC_PORT", value_name = "PORT", default_value_t = 8081)]
    grpc_port: u16,
    /// Unix socket for gRPC, instead of address and port
    #[arg(long, env = "GRPC_UDS", value_name = "PATH")]
    grpc_uds: Option<PathBuf>,
    /// Address and port for HTTP
    #[arg(long, env = "RATEKEEPER_HTTP_ADDR", value_name = "ADDR:PORT")]
    http_addr: Option<SocketAddr>,
    /// Address for HTTP, unless --http-addr is given
    #[arg(long, env = "HOST", value_name = "ADDR", default_value = "0.0.0.0", value_parser = host)]
    http_host: IpAddr,
    /// Port for HTTP, unless --http-addr is given
    #[arg(long, env = "PORT", value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules in the reference's folders (unless --rules is given)")]
struct Runtime {
    /// The root of the tree
    #[arg(
        long,
        env = "RUNTIME_ROOT",
        value_name = "PATH",
        default_value = "/srv/runtime_data/current"
    )]
    runtime_root: PathBuf,
    /// The folder below it
    #[arg(long, env = "RUNTIME_SUBDIRECTORY", value_name = "NAME")]
    runtime_subdirectory: Option<String>,
    /// The folder below that, with the rules
    #[arg(
        long,
        env = "RUNTIME_APPDIRECTORY",
        value_name = "NAME",
        default_value = "config"
    )]
    runtime_appdirectory: String,
    /// Leave out files and folders whose names begin with a dot
    #[arg(long, env = "RUNTIME_IGNOREDOTFILES", value_name = "BOOL", default_value = "false",
          value_parser = boolean(), action = ArgAction::Set)]
    runtime_ignoredotfiles: bool,
    /// Name files from the folder below the root on (true), or from the rules' own folder on (false)
    #[arg(long, env = "RUNTIME_WATCH_ROOT", value_name = "BOOL", default_value = "true",
          value_parser = boolean(), action = ArgAction::Set)]
    runtime_watch_root: bool,
    /// Files of the same domain add up, instead of being a mistake
    #[arg(long, env = "MERGE_DOMAIN_CONFIG", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    merge_domains: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Decisions")]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
struct Decide {
    /// Refuse nobody; statuses still tell the truth
    #[arg(long, env = "SHADOW_MODE", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    shadow_mode: bool,
    /// Treat every rule as one in quota mode
    #[arg(long, env = "QUOTA_MODE", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    quota_mode: bool,
    /// From which share of a limit on hits count as near it
    #[arg(
        long,
        env = "NEAR_LIMIT_RATIO",
        value_name = "RATIO",
        default_value_t = 0.8
    )]
    near_limit_ratio: f32,
    /// When a limit is over, the request's other counters stand still
    #[arg(long, env = "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    stop_when_over_limit: bool,
    /// Describe request and rules in the answer's dynamic metadata
    #[arg(long, env = "RESPONSE_DYNAMIC_METADATA", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    dynamic_metadata: bool,
    /// Add rate-limit headers to answers. Leave it off where Envoy's own
    /// enable_x_ratelimit_headers is on: headers are appended, not replaced
    #[arg(long, env = "LIMIT_RESPONSE_HEADERS_ENABLED", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    limit_headers: bool,
    /// The header for the limit
    #[arg(
        long,
        env = "LIMIT_LIMIT_HEADER",
        value_name = "NAME",
        default_value = "RateLimit-Limit"
    )]
    limit_header: String,
    /// The header for the hits left
    #[arg(
        long,
        env = "LIMIT_REMAINING_HEADER",
        value_name = "NAME",
        default_value = "RateLimit-Remaining"
    )]
    remaining_header: String,
    /// The header for the seconds until the window ends
    #[arg(
        long,
        env = "LIMIT_RESET_HEADER",
        value_name = "NAME",
        default_value = "RateLimit-Reset"
    )]
    reset_header: String,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Bounds: what a client may cost")]
struct BoundFlags {
    /// Descriptors of a request
    #[arg(long, env = "RATEKEEPER_MAX_DESCRIPTORS", value_name = "N", default_value_t = Bounds::default().max_descriptors, value_parser = at_least_one)]
    max_descriptors: usize,
    /// Entries of a descriptor
    #[arg(long, env = "RATEKEEPER_MAX_ENTRIES", value_name = "N", default_value_t = Bounds::default().max_entries, value_parser = at_least_one)]
    max_entries: usize,
    /// Bytes of a key, a value or a domain
    #[arg(long, env = "RATEKEEPER_MAX_ENTRY_BYTES", value_name = "BYTES", default_value_t = Bounds::default().max_entry_bytes, value_parser = at_least_one)]
    max_entry_bytes: usize,
    /// Bytes of a message
    #[arg(long, env = "RATEKEEPER_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_message_bytes, value_parser = at_least_one)]
    max_message_bytes: usize,
    /// Bytes of unfinished messages, all connections together
    #[arg(long, env = "RATEKEEPER_MAX_BUFFERED_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_buffered_bytes, value_parser = at_least_one)]
    max_buffered_bytes: usize,
    /// Bytes of a call's headers
    #[arg(long, env = "RATEKEEPER_MAX_HEADER_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_header_bytes, value_parser = clap::value_parser!(u32).range(1..))]
    max_header_bytes: u32,
    /// Connections of each listener. For one more, the one with the fewest calls answered (by order
    /// of magnitude) is closed, of several the longest idle
    #[arg(long, env = "RATEKEEPER_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().max_connections,
          value_parser = at_least_one)]
    max_connections: usize,
    /// Calls at once on a connection. Proxies send up to 1,024 before they know this bound
    #[arg(long, env = "RATEKEEPER_MAX_CONCURRENT_STREAMS", value_name = "N", default_value_t = Limits::default().max_concurrent_streams, value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent_streams: u32,
    /// From the connection to its HTTP/2 preface, TLS included; over HTTP/1 to the end of TLS, and
    /// again to a request's head
    #[arg(long, env = "RATEKEEPER_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    handshake_timeout: Duration,
    /// From a call's beginning to its end
    #[arg(long, env = "RATEKEEPER_CALL_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    call_timeout: Duration,
    /// Without any call, until a gRPC connection is closed
    #[arg(long, env = "RATEKEEPER_IDLE_TIMEOUT", value_name = "TIME", default_value = "1h", value_parser = duration)]
    idle_timeout: Duration,
    /// Without a sign of life, until a client is asked for one, and again until it is given up
    #[arg(long, env = "RATEKEEPER_KEEPALIVE_INTERVAL", value_name = "TIME", default_value = "60s", value_parser = duration)]
    keepalive_interval: Duration,
    /// From a gRPC connection's beginning, give or take a tenth, until its client is asked to make
    /// a new one; 0 is never
    #[arg(long, env = "GRPC_MAX_CONNECTION_AGE", value_name = "TIME", default_value = "24h", value_parser = duration)]
    max_connection_age: Duration,
    /// From then on, until it is closed though calls are under way; 0 is never
    #[arg(long, env = "GRPC_MAX_CONNECTION_AGE_GRACE", value_name = "TIME", default_value = "1h", value_parser = duration)]
    max_connection_age_grace: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Process")]
struct Process {
    /// Event loops that serve gRPC [default: one per core]
    #[arg(long, env = "RATEKEEPER_WORKERS", value_name = "N", value_parser = at_least_one)]
    workers: Option<usize>,
    /// From the signal, when health fails, until listeners close
    #[arg(long, env = "RATEKEEPER_DRAIN_DELAY", value_name = "TIME", default_value = "5s", value_parser = duration)]
    drain_delay: Duration,
    /// From then on, for running calls to finish
    #[arg(long, env = "RATEKEEPER_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    drain_timeout: Duration,
    /// error, warn, info, debug or trace [default: info; warn in compat mode]
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", value_parser = logging::parse_level)]
    log_level: Option<tracing::Level>,
    /// text or json
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_parser = log_format(), ignore_case = true)]
    log_format: logging::Format,
}

/// Where to listen for gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcAddress {
    /// Address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

// === impl Serve ===

impl Serve {
    /// Where rules are.
    ///
    /// # Errors
    /// Nothing says where.
    pub fn rules_source(&self) -> anyhow::Result<RulesSource> {
        let compile = self.compile();
        if let Some(path) = &self.rules {
            let read = ReadOptions::default();
            return Ok(RulesSource {
                path: Some(path.clone()),
                read,
                compile,
            });
        }
        if !self.compat && self.runtime.runtime_subdirectory.is_none() {
            bail!("no rules: say where they are with --rules <file or folder>");
        }
        let (path, read) = self.runtime.folder();
        Ok(RulesSource {
            path,
            read,
            compile,
        })
    }

    /// Where rules come from, if it is a management server.
    ///
    /// # Errors
    /// They are said to be in files as well.
    pub fn management_server(&self) -> anyhow::Result<Option<crate::xds::Config>> {
        self.xds.config(self.rules.as_ref(), self.compile())
    }

    /// Whether to serve before there are rules.
    #[must_use]
    pub fn starts_without_rules(&self) -> bool {
        self.reload.starts_without_rules()
    }

    /// What to do when rules in files change.
    #[must_use]
    pub fn reload(&self) -> crate::reload::Config {
        self.reload.config(self.compat)
    }

    fn compile(&self) -> config::Options {
        config::Options {
            merge_domains: self.runtime.merge_domains,
            compat: self.compat,
        }
    }

    /// Settings are to be printed, and nothing is to be served.
    #[must_use]
    pub fn print_config(&self) -> Option<PrintFormat> {
        self.sources.print_config
    }

    /// What is wrong with settings that are each right by themselves.
    #[must_use]
    pub fn mistakes(&self) -> Vec<anyhow::Error> {
        let checks = [
            self.store().map(|_| ()),
            self.app().map(|_| ()),
            self.sink().map(|_| ()),
            self.management_server().map(|_| ()),
            self.grpc_tls().map(|_| ()),
            self.http_tls().map(|_| ()),
            self.traces().map(|_| ()),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    /// Where to listen for gRPC.
    #[must_use]
    pub fn grpc_address(&self) -> GrpcAddress {
        let listen = &self.listen;
        match (&listen.grpc_uds, listen.grpc_addr) {
            (_, Some(address)) => GrpcAddress::Tcp(address),
            (Some(path), None) => GrpcAddress::Unix(path.clone()),
            (None, None) => GrpcAddress::Tcp(SocketAddr::new(listen.grpc_host, listen.grpc_port)),
        }
    }

    /// Where to listen for HTTP.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        let listen = &self.listen;
        listen
            .http_addr
            .unwrap_or_else(|| SocketAddr::new(listen.http_host, listen.http_port))
    }

    /// Where to listen for people who look into the process, if anywhere.
    #[must_use]
    pub fn debug_address(&self) -> Option<SocketAddr> {
        self.telemetry.debug_address(self.compat)
    }

    /// Where statistics go.
    ///
    /// # Errors
    /// To more than one place, or the settings of that place are no good.
    pub fn sink(&self) -> anyhow::Result<Sink> {
        self.telemetry.sink(self.compat)
    }

    /// As many series of rules as metrics may have.
    #[must_use]
    pub fn max_metric_series(&self) -> usize {
        self.telemetry.max_series()
    }

    /// TLS of the gRPC listener; `None`: it is not encrypted.
    ///
    /// # Errors
    /// Settings do not go together.
    pub fn grpc_tls(&self) -> anyhow::Result<Option<certificates::Config>> {
        self.tls.grpc()
    }

    /// TLS of the HTTP listener; `None`: it is not encrypted.
    ///
    /// # Errors
    /// Settings do not go together.
    pub fn http_tls(&self) -> anyhow::Result<Option<certificates::Config>> {
        self.tls.http()
    }

    /// Where counters shall live.
    ///
    /// # Errors
    /// What is said names no store.
    pub fn store(&self) -> anyhow::Result<Choice> {
        self.store.choice(self.compat)
    }

    /// Settings of counters in memory.
    #[must_use]
    pub fn memory_store(&self) -> memory::Config {
        self.store.memory()
    }

    /// What to do when the store does not answer, and how many processes
    /// share it, where that is said.
    #[must_use]
    pub fn ladder(&self) -> (OnStoreFailure, Option<u32>) {
        (self.store.on_store_failure(), self.store.replicas())
    }

    /// By when the store has to have been reached for the first time; `None`:
    /// whenever.
    #[must_use]
    pub fn store_patience(&self) -> Option<Duration> {
        self.store.patience()
    }

    /// What bears on answers.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.decide.policy()
    }

    /// What happens to a request's other counters when one is over.
    #[must_use]
    pub fn charge_mode(&self) -> ChargeMode {
        self.decide.charge_mode()
    }

    /// Settings of the running process.
    ///
    /// # Errors
    /// A header's name is none.
    pub fn app(&self) -> anyhow::Result<app::Config> {
        Ok(app::Config {
            workers: self.process.workers.unwrap_or_else(cores),
            limits: self.bounds.limits(),
            bounds: self.bounds.bounds(),
            response: self.decide.response()?,
            compat: self.compat,
            unknown_code: self.store.unknown_code(),
            debug_profile: self.telemetry.debug_profile(),
            tracer: None,
            needs_domain: self.reload.needs_domain(),
            drain_delay: self.process.drain_delay,
            drain_timeout: self.process.drain_timeout,
        })
    }

    /// Settings of traces; `None` where there are to be none.
    ///
    /// # Errors
    /// A variable is not right.
    pub fn traces(&self) -> anyhow::Result<Option<traces::Config>> {
        self.tracing.config()
    }

    /// Which refusals to log; `None` for none.
    #[must_use]
    pub fn refusals(&self) -> Option<refusals::Config> {
        self.refusals.config()
    }

    /// From which level on to log, and how.
    #[must_use]
    pub fn logging(&self) -> (tracing::Level, logging::Format) {
        let default = if self.compat {
            tracing::Level::WARN
        } else {
            tracing::Level::INFO
        };
        let level = self.process.log_level.unwrap_or(default);
        let format = match self.process.log_format {
            logging::Format::Text if self.compat => logging::Format::ReferenceText,
            logging::Format::Json if self.compat => logging::Format::ReferenceJson,
            format => format,
        };
        (level, format)
    }
}

impl Runtime {
    fn folder(&self) -> (Option<PathBuf>, ReadOptions) {
        let subdirectory = self.runtime_subdirectory.as_deref().unwrap_or_default();
        let folder = self.runtime_root.join(subdirectory);
        let application = &self.runtime_appdirectory;
        let dots = self.runtime_ignoredotfiles;
        if !self.runtime_watch_root {
            let read = ReadOptions::reference("", dots);
            return (Some(folder.join(application)), read);
        }
        let read = ReadOptions::reference(&format!("{application}."), dots);
        // The reference loads nothing then, and says so.
        let path = (!subdirectory.is_empty()).then_some(folder);
        (path, read)
    }
}

impl Decide {
    fn policy(&self) -> Policy {
        Policy {
            shadow_mode: self.shadow_mode,
            quota_mode: self.quota_mode,
            near_limit_ratio: self.near_limit_ratio,
        }
    }

    fn charge_mode(&self) -> ChargeMode {
        if self.stop_when_over_limit {
            ChargeMode::OthersStandStill
        } else {
            ChargeMode::Always
        }
    }

    fn response(&self) -> anyhow::Result<ResponseSettings> {
        let headers = if self.limit_headers {
            let names = HeaderNames::new(
                &self.limit_header,
                &self.remaining_header,
                &self.reset_header,
            )
            .context("rate-limit headers")?;
            Some(names)
        } else {
            None
        };
        Ok(ResponseSettings {
            headers,
            dynamic_metadata: self.dynamic_metadata,
        })
    }
}

impl BoundFlags {
    fn bounds(&self) -> Bounds {
        Bounds {
            max_descriptors: self.max_descriptors,
            max_entries: self.max_entries,
            max_entry_bytes: self.max_entry_bytes,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_concurrent_streams: self.max_concurrent_streams,
            max_message_bytes: self.max_message_bytes,
            max_buffered_bytes: self.max_buffered_bytes,
            max_header_bytes: self.max_header_bytes,
            handshake_timeout: self.handshake_timeout,
            call_timeout: self.call_timeout,
            idle_timeout: self.idle_timeout,
            keepalive_interval: self.keepalive_interval,
            max_connection_age: unless_zero(self.max_connection_age),
            max_connection_age_grace: unless_zero(self.max_connection_age_grace),
        }
    }
}

fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The reference's spellings of yes and no.
pub(crate) fn boolean() -> impl clap::builder::TypedValueParser<Value = bool> {
    PossibleValuesParser::new([
        "true", "false", "1", "0", "t", "f", "T", "F", "TRUE", "FALSE", "True", "False",
    ])
    .map(|text| matches!(text.as_str(), "1" | "t" | "T" | "TRUE" | "true" | "True"))
}

fn log_format() -> impl clap::builder::TypedValueParser<Value = logging::Format> {
    PossibleValuesParser::new(["text", "json"]).map(|text| {
        match text.to_ascii_lowercase().as_str() {
            "json" => logging::Format::Json,
            _ => logging::Format::Text,
        }
    })
}

/// An address, or a name that has one.
fn host(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let mut found = (text, 0)
        .to_socket_addrs()
        .map_err(|error| format!("neither an IP address nor a name that has one: {error}"))?;
    let first = found.next().ok_or("the name has no address")?;
    Ok(first.ip())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// `0s`, `1.5s`, `250ms`, `2h45m`, as Go writes durations.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration such as 250ms, 1.5s or 2h45m".to_owned())
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds: f64 = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        total = total.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("1.5s", Some(1_500)),
            ("2h45m", Some(9_900_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("9999999999999999999h", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
