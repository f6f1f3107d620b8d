//! Flags and variables of metrics and the debug listener.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args, ValueEnum};
use regex::Regex;

use super::{boolean, duration, host};
use crate::telemetry::metrics::{
    MOST_SERIES,
    mapping::Mapper,
    statsd::{self, Dialect, Mogrifier},
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metrics and debugging")]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub(super) struct Telemetry {
    /// Series of rules that are told; what comes beyond them is added up by domain. 0: none at all
    #[arg(long, env = "RATEKEEPER_MAX_METRIC_SERIES", value_name = "N", default_value_t = MOST_SERIES,
          value_parser = series)]
    max_metric_series: usize,
    /// Address and port for looking into the process [default: none; 127.0.0.1:6070 in compat mode]
    #[arg(long, env = "RATEKEEPER_DEBUG_ADDR", value_name = "ADDR:PORT")]
    debug_addr: Option<SocketAddr>,
    /// Address for it, unless --debug-addr is given [default: 127.0.0.1]
    #[arg(long, env = "DEBUG_HOST", value_name = "ADDR", value_parser = host)]
    debug_host: Option<IpAddr>,
    /// Port for it, unless --debug-addr is given [default: 6070 in compat mode]
    #[arg(long, env = "DEBUG_PORT", value_name = "PORT")]
    debug_port: Option<u16>,
    /// Let the debug listener take profiles: stacks are sampled a hundred times a second meanwhile
    #[arg(long, env = "RATEKEEPER_DEBUG_PROFILE", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    debug_profile: bool,
    /// Send no statistics anywhere; /metrics and /stats remain
    #[arg(long, env = "DISABLE_STATS", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    disable_stats: bool,
    /// Send statistics to a statsd daemon [default: false; true in compat mode]
    #[arg(long, env = "USE_STATSD", num_args = 0..=1, default_missing_value = "true",
          value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    use_statsd: Option<bool>,
    /// Host of the statsd daemon
    #[arg(
        long,
        env = "STATSD_HOST",
        value_name = "HOST",
        default_value = "localhost"
    )]
    statsd_host: String,
    /// Port of the statsd daemon
    #[arg(
        long,
        env = "STATSD_PORT",
        value_name = "PORT",
        default_value_t = 8_125
    )]
    statsd_port: u16,
    /// How to speak to the statsd daemon
    #[arg(
        long,
        env = "STATSD_PROTOCOL",
        value_name = "PROTOCOL",
        default_value = "tcp"
    )]
    statsd_protocol: Transport,
    /// Send statistics to a DogStatsD daemon, over UDP, with tags
    #[arg(long, env = "USE_DOG_STATSD", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    use_dog_statsd: bool,
    /// Rewrite names for DogStatsD by the variables
    /// DOG_STATSD_MOGRIFIER_<NAME>_PATTERN, _NAME and _TAGS of these names
    #[arg(
        long,
        env = "USE_DOG_STATSD_MOGRIFIERS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    use_dog_statsd_mogrifiers: Vec<String>,
    /// Tags on every statistic, as key:value,key:value
    #[arg(
        long,
        env = "EXTRA_TAGS",
        value_name = "TAGS",
        default_value = "",
        value_parser = pairs
    )]
    extra_tags: Pairs,
    /// How often statistics are sent
    #[arg(long, env = "STATS_FLUSH_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = positive)]
    stats_flush_interval: Duration,
    /// Show the reference's statistics to Prometheus on a listener of their own
    #[arg(long, env = "USE_PROMETHEUS", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    use_prometheus: bool,
    /// Its address and port
    #[arg(long, env = "PROMETHEUS_ADDR", value_name = "ADDR:PORT", default_value = ":9090", value_parser = any_host)]
    prometheus_addr: SocketAddr,
    /// Its path
    #[arg(long, env = "PROMETHEUS_PATH", value_name = "PATH", default_value = "/metrics", value_parser = http_path)]
    prometheus_path: String,
    /// A mapping of names in statsd_exporter's format, instead of the built-in one
    #[arg(long, env = "PROMETHEUS_MAPPER_YAML", value_name = "FILE")]
    prometheus_mapper_yaml: Option<PathBuf>,
    /// Show the response time in milliseconds, as the reference once did
    #[arg(long, env = "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    prometheus_response_time_as_milliseconds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// Over a connection
    Tcp,
    /// In packets
    Udp,
}

/// Keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pairs(Vec<(String, String)>);

/// Where statistics go, beside `/metrics` and `/stats`.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere.
    None,
    /// To a daemon.
    Statsd(statsd::Config),
    /// To whoever asks here.
    Prometheus {
        /// Where to listen.
        address: SocketAddr,
        /// At which path.
        path: String,
        /// How names are mapped.
        mapper: Mapper,
    },
}

const DEBUG_PORT: u16 = 6_070;

/// Each series takes two kilobytes of memory at most, and about a kilobyte of `/metrics`.
const MOST_MAX_SERIES: usize = 10_000_000;

// === impl Telemetry ===

impl Telemetry {
    pub(super) fn max_series(&self) -> usize {
        self.max_metric_series
    }

    pub(super) fn debug_profile(&self) -> bool {
        self.debug_profile
    }

    /// Where to listen for people who look into the process.
    pub(super) fn debug_address(&self, compat: bool) -> Option<SocketAddr> {
        if let Some(address) = self.debug_addr {
            return Some(address);
        }
        let asked = compat || self.debug_host.is_some() || self.debug_port.is_some();
        let host = self.debug_host.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let port = self.debug_port.unwrap_or(DEBUG_PORT);
        asked.then(|| SocketAddr::new(host, port))
    }

    /// Where statistics go.
    ///
    /// # Errors
    /// To more than one place, or the settings of that place are no good.
    pub(super) fn sink(&self, compat: bool) -> anyhow::Result<Sink> {
        if self.disable_stats {
            return Ok(Sink::None);
        }
        let statsd = self.use_statsd.unwrap_or(compat);
        match (self.use_dog_statsd, statsd, self.use_prometheus) {
            (false, false, false) => Ok(Sink::None),
            (true, false, false) => Ok(Sink::Statsd(
                self.statsd(Dialect::DogStatsd(self.mogrifiers()?), false),
            )),
            (false, true, false) => {
                let tcp = self.statsd_protocol == Transport::Tcp;
                Ok(Sink::Statsd(self.statsd(Dialect::Statsd, tcp)))
            }
            (false, false, true) => Ok(Sink::Prometheus {
                address: self.prometheus_addr,
                path: self.prometheus_path.clone(),
                mapper: self.mapper()?.with_tags(&self.extra_tags.0),
            }),
            _ => bail!(
                "more than one of USE_STATSD, USE_DOG_STATSD and USE_PROMETHEUS is on: switch the others off (USE_STATSD is on by default in compat mode)"
            ),
        }
    }

    fn statsd(&self, dialect: Dialect, tcp: bool) -> statsd::Config {
        statsd::Config {
            dialect,
            tcp,
            address: format!("{}:{}", self.statsd_host, self.statsd_port),
            tags: self.extra_tags.0.clone(),
            every: self.stats_flush_interval,
        }
    }

    fn mogrifiers(&self) -> anyhow::Result<Vec<Mogrifier>> {
        let names = self.use_dog_statsd_mogrifiers.iter();
        let names = names.filter(|name| !name.is_empty());
        names.map(|name| mogrifier(name)).collect()
    }

    fn mapper(&self) -> anyhow::Result<Mapper> {
        let in_millis = self.prometheus_response_time_as_milliseconds;
        let Some(path) = &self.prometheus_mapper_yaml else {
            return Ok(Mapper::built_in(in_millis)?);
        };
        let shown = path.display();
        match fs::read_to_string(path) {
            Ok(text) => {
                Mapper::parse(&text).with_context(|| format!("PROMETHEUS_MAPPER_YAML {shown}"))
            }
            // A volume that is optional may be missing.
            Err(error) => {
                tracing::warn!(path = %shown, %error, "no mapping of names: the built-in one is used");
                Ok(Mapper::built_in(in_millis)?)
            }
        }
    }
}

fn mogrifier(name: &str) -> anyhow::Result<Mogrifier> {
    let read = |part: &str| {
        let variable = format!("DOG_STATSD_MOGRIFIER_{name}_{part}");
        let value = std::env::var(&variable).unwrap_or_default();
        (variable, value)
    };
    let needed = |part: &str| match read(part) {
        (variable, value) if value.is_empty() => bail!("{variable} is not set"),
        (_, value) => Ok(value),
    };
    let pattern = needed("PATTERN")?;
    let pattern =
        Regex::new(&pattern).with_context(|| format!("DOG_STATSD_MOGRIFIER_{name}_PATTERN"))?;
    let (variable, tags) = read("TAGS");
    let tags = pairs(&tags).map_err(|error| anyhow::anyhow!("{variable}: {error}"))?;
    Ok(Mogrifier {
        pattern,
        name: needed("NAME")?,
        tags: tags.0,
    })
}

/// `key:value,key:value`.
fn pairs(text: &str) -> Result<Pairs, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| match pair.split_once(':') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{pair:?} is not key:value")),
    });
    pairs.collect::<Result<_, _>>().map(Pairs)
}

/// `:port` is any address of this machine.
fn any_host(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| "no port".to_owned())?;
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found
        .next()
        .ok_or_else(|| "the name has no address".to_owned())
}

/// Without signs that a path of the router may not have.
fn http_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '?' | '#' | ':' | '*');
    if text.starts_with('/') && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a path such as /metrics".to_owned())
    }
}

fn series(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number <= MOST_MAX_SERIES => Ok(number),
        _ => Err(format!("a whole number from 0 to {MOST_MAX_SERIES}")),
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("more than 0".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::any};

    use super::*;

    #[test]
    fn a_path_is_one_that_can_be_served() {
        for (text, good) in [
            ("/metrics", true),
            ("/", true),
            ("/a//b-c.d~e%20f", true),
            ("/:a", false),
            ("/*a", false),
            ("/{a}", false),
            ("metrics", false),
            ("", false),
        ] {
            let path = http_path(text);
            assert_eq!(path.is_ok(), good, "{text}");
            if let Ok(path) = path {
                let _: Router = Router::new().route(&path, any(|| async {}));
            }
        }
    }

    #[test]
    fn there_is_memory_for_so_many_series() {
        assert_eq!(series("0"), Ok(0));
        assert_eq!(series("10000000"), Ok(10_000_000));
        for wrong in ["10000001", "18446744073709551615", "-1", "x"] {
            assert!(series(wrong).is_err(), "{wrong}");
        }
    }
}
