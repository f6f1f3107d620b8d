//! Every variable of envoyproxy/ratelimit, and what becomes of it here.
//!
//! The table in `docs/migrating.md` is made of this one. Variables without a
//! need here, and those that are refused, have their (hidden) flags from it,
//! too; the others have theirs where they are used.

use std::fmt::Write as _;

use anyhow::bail;
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    builder::{PossibleValuesParser, TypedValueParser as _},
};

use super::{boolean, duration};

/// A variable of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name; `<NAME>` and a `*` at the end stand for any text.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when it is not set, as the reference says it; empty where it
    /// is not set then.
    pub default: &'static str,
    /// What becomes of it here.
    pub status: Status,
    /// What is worth knowing.
    pub note: &'static str,
}

/// What a variable takes, in the reference's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `1 t T TRUE true True 0 f F FALSE false False`.
    Bool,
    /// A whole number.
    Int,
    /// A whole number; what is negative is refused.
    Natural,
    /// A number.
    Float,
    /// A duration as Go writes it.
    Duration,
    /// Any text.
    Text,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
    /// Texts with commas between them.
    List,
    /// `key:value` with commas between them.
    Map,
}

/// What becomes of a variable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It means what it means there.
    Honoured,
    /// It is read, a value of another kind is a mistake, and there is nothing
    /// here that it could change.
    NotNeeded,
    /// Another value than its default is a mistake, told with what to do
    /// instead.
    Refused,
}

/// The flags of variables that change nothing, or nothing but whether the
/// process starts.
#[derive(Clone, Debug)]
pub(super) struct Others {
    /// Those that are refused, of those that are set.
    refused: Vec<&'static Variable>,
}

use Kind::{Bool, Duration, Float, Int, List, Map, Natural, OneOf, Text};
use Status::{Honoured, NotNeeded, Refused};

const NO_POOL: &str = "each worker has one connection to each node";
const NO_PIPELINE: &str = "what arrives while a write is under way is the next write";
const NO_PARALLELISM: &str = "all nodes are asked at once; negative is a mistake, as there";
const EMPTY_POOL: OneOfNames = &["WAIT", "CREATE", "ERROR"];
const NO_EMPTY_POOL: &str =
    "there is no pool that could be empty; CREATE and ERROR are accepted, too";
const NO_MEMCACHED: &str = "count in Redis or in memory: memcached cannot hold a limit exactly. Means nothing where BACKEND_TYPE or --store says redis or memory";

/// Without a need here, and with a flag elsewhere.
const ITS_OWN_FLAG: &[&str] = &["CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL"];

type OneOfNames = &'static [&'static str];

/// All of them.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    // Listeners.
    row("HOST", Text, "0.0.0.0", Honoured, ""),
    row("PORT", Int, "8080", Honoured, ""),
    row("DEBUG_HOST", Text, "0.0.0.0", Honoured, "`127.0.0.1` is the default here: the port shows the inside of the process"),
    row("DEBUG_PORT", Int, "6070", Honoured, ""),
    row("GRPC_UDS", Text, "", Honoured, ""),
    row("GRPC_HOST", Text, "0.0.0.0", Honoured, ""),
    row("GRPC_PORT", Int, "8081", Honoured, ""),
    row("GRPC_MAX_CONNECTION_AGE", Duration, "24h", Honoured, ""),
    row("GRPC_MAX_CONNECTION_AGE_GRACE", Duration, "1h", Honoured, ""),
    row("GRPC_SERVER_USE_TLS", Bool, "false", Honoured, ""),
    row("GRPC_SERVER_TLS_CERT", Text, "", Honoured, ""),
    row("GRPC_SERVER_TLS_KEY", Text, "", Honoured, ""),
    row("GRPC_CLIENT_TLS_CACERT", Text, "", Honoured, ""),
    row("GRPC_CLIENT_TLS_SAN", Text, "", Honoured, ""),
    // Logs.
    row("LOG_LEVEL", Text, "WARN", Honoured, ""),
    row("LOG_FORMAT", Text, "text", Honoured, ""),
    // Rules.
    row("CONFIG_TYPE", Text, "FILE", Honoured, ""),
    row("FORCE_START_WITHOUT_INITIAL_CONFIG", Bool, "false", Honoured, ""),
    row("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", Bool, "false", Honoured, ""),
    row("RUNTIME_ROOT", Text, "/srv/runtime_data/current", Honoured, ""),
    row("RUNTIME_SUBDIRECTORY", Text, "", Honoured, ""),
    row("RUNTIME_APPDIRECTORY", Text, "config", Honoured, ""),
    row("RUNTIME_IGNOREDOTFILES", Bool, "false", Honoured, ""),
    row("RUNTIME_WATCH_ROOT", Bool, "true", Honoured, ""),
    row("MERGE_DOMAIN_CONFIG", Bool, "false", Honoured, "in the order of file names, not at random"),
    row("CONFIG_GRPC_XDS_NODE_ID", Text, "default", Honoured, ""),
    row("CONFIG_GRPC_XDS_NODE_METADATA", Text, "", Honoured, ""),
    row("CONFIG_GRPC_XDS_SERVER_URL", Text, "localhost:18000", Honoured, ""),
    row("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", Duration, "3s", NotNeeded, "waits are those of `XDS_CLIENT_BACKOFF_*`"),
    row("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", Map, "", Honoured, ""),
    row("CONFIG_GRPC_XDS_SERVER_USE_TLS", Bool, "false", Honoured, ""),
    row("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", Text, "", Honoured, ""),
    row("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", Text, "", Honoured, ""),
    row("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", Text, "", Honoured, ""),
    row("CONFIG_GRPC_XDS_SERVER_TLS_SAN", Text, "", Honoured, ""),
    row("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", Duration, "10s", Honoured, ""),
    row("XDS_CLIENT_BACKOFF_MAX_INTERVAL", Duration, "60s", Honoured, ""),
    row("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", Float, "0.5", Honoured, "a factor that is not above 1, such as the default, is 2: the wait grows"),
    row("XDS_CLIENT_BACKOFF_JITTER", Bool, "true", Honoured, ""),
    row("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", Int, "0", Honoured, ""),
    // Metrics.
    row("USE_DOG_STATSD", Bool, "false", Honoured, ""),
    row("USE_DOG_STATSD_MOGRIFIERS", List, "", Honoured, ""),
    row("DOG_STATSD_MOGRIFIER_<NAME>_PATTERN", Text, "", Honoured, ""),
    row("DOG_STATSD_MOGRIFIER_<NAME>_NAME", Text, "", Honoured, ""),
    row("DOG_STATSD_MOGRIFIER_<NAME>_TAGS", Map, "", Honoured, ""),
    row("USE_STATSD", Bool, "true", Honoured, ""),
    row("STATSD_HOST", Text, "localhost", Honoured, ""),
    row("STATSD_PORT", Int, "8125", Honoured, ""),
    row("STATSD_PROTOCOL", Text, "tcp", Honoured, ""),
    row("GOSTATS_LOGGING_SINK_DISABLED", Bool, "false", NotNeeded, "without effect there, too"),
    row("EXTRA_TAGS", Map, "", Honoured, ""),
    row("STATS_FLUSH_INTERVAL", Duration, "10s", Honoured, ""),
    row("DISABLE_STATS", Bool, "false", Honoured, ""),
    row("USE_PROMETHEUS", Bool, "false", Honoured, ""),
    row("PROMETHEUS_ADDR", Text, ":9090", Honoured, ""),
    row("PROMETHEUS_PATH", Text, "/metrics", Honoured, ""),
    row("PROMETHEUS_MAPPER_YAML", Text, "", Honoured, ""),
    row("PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS", Bool, "false", Honoured, ""),
    // Decisions.
    row("NEAR_LIMIT_RATIO", Float, "0.8", Honoured, ""),
    row("SHADOW_MODE", Bool, "false", Honoured, ""),
    row("QUOTA_MODE", Bool, "false", Honoured, ""),
    row("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", Bool, "false", Honoured, "and atomic"),
    row("RESPONSE_DYNAMIC_METADATA", Bool, "false", Honoured, ""),
    row("LIMIT_RESPONSE_HEADERS_ENABLED", Bool, "false", Honoured, ""),
    row("LIMIT_LIMIT_HEADER", Text, "RateLimit-Limit", Honoured, ""),
    row("LIMIT_REMAINING_HEADER", Text, "RateLimit-Remaining", Honoured, ""),
    row("LIMIT_RESET_HEADER", Text, "RateLimit-Reset", Honoured, ""),
    row("USE_CALENDAR_MONTH_RATE_LIMIT", Bool, "false", Refused, "say it in the rules: `unit: month` with `time_zone: UTC`. Newer than the version described here"),
    // The store.
    row("BACKEND_TYPE", Text, "redis", Honoured, "`memory` here, too; `memcache` is refused: see [memcached](#memcached)"),
    row("CACHE_KEY_PREFIX", Text, "", Honoured, ""),
    row("EXPIRATION_JITTER_MAX_SECONDS", Int, "300", Honoured, ""),
    row("LOCAL_CACHE_SIZE_IN_BYTES", Int, "0", Honoured, "see [the local cache](#the-local-cache)"),
    row("REDIS_SOCKET_TYPE", Text, "unix", Honoured, ""),
    row("REDIS_TYPE", Text, "SINGLE", Honoured, ""),
    row("REDIS_URL", Text, "/var/run/nutcracker/ratelimit.sock", Honoured, ""),
    row("REDIS_AUTH", Text, "", Honoured, ""),
    row("REDIS_SENTINEL_AUTH", Text, "", Honoured, ""),
    row("REDIS_TLS", Bool, "false", Honoured, ""),
    row("REDIS_TLS_CLIENT_CERT", Text, "", Honoured, ""),
    row("REDIS_TLS_CLIENT_KEY", Text, "", Honoured, ""),
    row("REDIS_TLS_CACERT", Text, "", Honoured, ""),
    row("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", Bool, "false", Honoured, ""),
    row("REDIS_TIMEOUT", Duration, "10s", Honoured, "to connect, as there; a call waits for `--store-timeout` (15 ms)"),
    row("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", Bool, "false", Honoured, "each of two stores has to have a connection, not either"),
    row("REDIS_POOL_SIZE", Int, "10", NotNeeded, NO_POOL),
    row("REDIS_POOL_ON_EMPTY_BEHAVIOR", OneOf(EMPTY_POOL), "WAIT", NotNeeded, NO_EMPTY_POOL),
    row("REDIS_POOL_ON_EMPTY_WAIT_DURATION", Duration, "", NotNeeded, "not read there, either"),
    row("REDIS_PIPELINE_WINDOW", Duration, "0", NotNeeded, NO_PIPELINE),
    row("REDIS_PIPELINE_LIMIT", Int, "0", NotNeeded, NO_PIPELINE),
    row("REDIS_CLUSTER_PIPELINE_PARALLELISM", Natural, "1", NotNeeded, NO_PARALLELISM),
    row("REDIS_STARTUP_INITIAL_INTERVAL", Duration, "1s", NotNeeded, "tried anew every 10 to 200 ms, while calls are answered as `on_store_failure` says"),
    row("REDIS_STARTUP_MAX_INTERVAL", Duration, "30s", NotNeeded, "the same"),
    row("REDIS_STARTUP_MAX_ELAPSED_TIME", Duration, "0", Honoured, "the process ends if Redis has not been reached by then; it listens meanwhile, and says that it is not healthy"),
    row("REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", Bool, "false", NotNeeded, "always so here. Newer than the version described here"),
    row("REDIS_PERSECOND", Bool, "false", Honoured, ""),
    row("REDIS_PERSECOND_SOCKET_TYPE", Text, "unix", Honoured, ""),
    row("REDIS_PERSECOND_TYPE", Text, "SINGLE", Honoured, ""),
    row("REDIS_PERSECOND_URL", Text, "/var/run/nutcracker/ratelimitpersecond.sock", Honoured, ""),
    row("REDIS_PERSECOND_AUTH", Text, "", Honoured, ""),
    row("REDIS_PERSECOND_SENTINEL_AUTH", Text, "", Honoured, ""),
    row("REDIS_PERSECOND_TLS", Bool, "false", Honoured, ""),
    row("REDIS_PERSECOND_TIMEOUT", Duration, "10s", Honoured, "as REDIS_TIMEOUT"),
    row("REDIS_PERSECOND_POOL_SIZE", Int, "10", NotNeeded, NO_POOL),
    row("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", OneOf(EMPTY_POOL), "WAIT", NotNeeded, NO_EMPTY_POOL),
    row("REDIS_PERSECOND_PIPELINE_WINDOW", Duration, "0", NotNeeded, NO_PIPELINE),
    row("REDIS_PERSECOND_PIPELINE_LIMIT", Int, "0", NotNeeded, NO_PIPELINE),
    row("REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM", Natural, "1", NotNeeded, NO_PARALLELISM),
    row("MEMCACHE_HOST_PORT", List, "", Refused, NO_MEMCACHED),
    row("MEMCACHE_SRV", Text, "", Refused, NO_MEMCACHED),
    row("MEMCACHE_SRV_REFRESH", Duration, "0", Refused, NO_MEMCACHED),
    row("MEMCACHE_MAX_IDLE_CONNS", Int, "2", Refused, NO_MEMCACHED),
    row("MEMCACHE_TLS", Bool, "false", Refused, NO_MEMCACHED),
    row("MEMCACHE_TLS_CLIENT_CERT", Text, "", Refused, NO_MEMCACHED),
    row("MEMCACHE_TLS_CLIENT_KEY", Text, "", Refused, NO_MEMCACHED),
    row("MEMCACHE_TLS_CACERT", Text, "", Refused, NO_MEMCACHED),
    row("MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", Bool, "false", Refused, NO_MEMCACHED),
    // Traces.
    row("TRACING_ENABLED", Bool, "false", Honoured, ""),
    row("TRACING_SERVICE_NAME", Text, "RateLimit", Honoured, ""),
    row("TRACING_SERVICE_NAMESPACE", Text, "", Honoured, ""),
    row("TRACING_SERVICE_INSTANCE_ID", Text, "", Honoured, "a random UUID unless it is set"),
    row("TRACING_EXPORTER_PROTOCOL", Text, "http", Honoured, ""),
    row("TRACING_SAMPLING_RATE", Float, "1", Honoured, ""),
    row("OTEL_EXPORTER_OTLP_*", Text, "", Honoured, "the OTLP standard's own"),
];

const fn row(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    status: Status,
    note: &'static str,
) -> Variable {
    Variable {
        name,
        kind,
        default,
        status,
        note,
    }
}

/// The table as `docs/migrating.md` has it.
#[must_use]
pub fn markdown() -> String {
    let mut table = "| variable | type | default | here | |\n|---|---|---|---|---|\n".to_owned();
    for variable in VARIABLES {
        let Variable {
            name,
            kind,
            default,
            status,
            note,
        } = variable;
        let default = match *default {
            "" => "–".to_owned(),
            default => format!("`{default}`"),
        };
        let (kind, status) = (kind.name(), status.name());
        // A String takes everything.
        let _ = writeln!(
            table,
            "| `{name}` | {kind} | {default} | {status} | {note} |"
        );
    }
    table
}

// === impl Variable ===

impl Variable {
    /// Whether `name` is this variable, or one of those that it stands for.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        if let Some(start) = self.name.strip_suffix('*') {
            return name.starts_with(start);
        }
        match self.name.split_once("<NAME>") {
            None => name == self.name,
            Some((start, end)) => {
                name.len() > start.len() + end.len()
                    && name.starts_with(start)
                    && name.ends_with(end)
            }
        }
    }

    /// It stands for many, which no single flag can have.
    #[must_use]
    pub fn is_family(&self) -> bool {
        self.name.contains(['<', '*'])
    }

    /// The name of its setting: that of its flag, with `_`.
    fn id(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// Its flag, where it has it from this table.
    fn argument(&self) -> Option<Arg> {
        if self.status == Honoured || ITS_OWN_FLAG.contains(&self.name) {
            return None;
        }
        let argument = Arg::new(self.id())
            .long(self.id().replace('_', "-"))
            .env(self.name)
            .hide(true)
            .action(ArgAction::Set)
            .allow_hyphen_values(true)
            .help(self.note)
            .help_heading(super::store::REFERENCE_HEADING);
        let argument = match self.kind {
            Bool => argument.value_parser(boolean().map(|_| ())),
            Int => argument.value_parser(|text: &str| whole(text, i64::MIN)),
            Natural => argument.value_parser(|text: &str| whole(text, 0)),
            Float => argument.value_parser(|text: &str| text.parse::<f64>().map(|_| ())),
            Duration => argument.value_parser(|text: &str| duration(text).map(|_| ())),
            OneOf(names) => argument
                .value_parser(PossibleValuesParser::new(names).map(|_| ()))
                .ignore_case(true),
            Text | List | Map => argument.value_parser(|_: &str| Ok::<(), String>(())),
        };
        Some(match self.default {
            "" => argument,
            default => argument.default_value(default),
        })
    }
}

fn whole(text: &str, least: i64) -> Result<(), String> {
    match text.parse::<i64>() {
        Ok(number) if number >= least => Ok(()),
        Ok(_) => Err("it cannot be negative".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

// === impl Kind ===

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Bool => "BOOL",
            Int | Natural => "INT",
            Float => "FLOAT",
            Duration => "DURATION",
            Text | OneOf(_) => "STRING",
            List => "LIST",
            Map => "MAP",
        }
    }
}

// === impl Status ===

impl Status {
    fn name(self) -> &'static str {
        match self {
            Honoured => "honoured",
            NotNeeded => "accepted, not needed",
            Refused => "refused",
        }
    }
}

// === impl Others ===

impl Others {
    /// `says_where`: it is said where to count.
    ///
    /// # Errors
    /// A variable is set that cannot be honoured; says what to do instead.
    pub(super) fn check(&self, says_where: bool) -> anyhow::Result<()> {
        for variable in &self.refused {
            if variable.name.starts_with("MEMCACHE_") {
                if !says_where {
                    bail!(
                        "{}: there is no store \"memcache\": count in Redis with BACKEND_TYPE=redis and REDIS_URL, or in memory with BACKEND_TYPE=memory",
                        variable.name
                    );
                }
            } else {
                let instead = variable.note.split(". ").next().unwrap_or_default();
                bail!("{} is not honoured: {instead}", variable.name);
            }
        }
        Ok(())
    }
}

impl Args for Others {
    fn augment_args(command: Command) -> Command {
        command.args(VARIABLES.iter().filter_map(Variable::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Others {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_set = |variable: &Variable| {
            let mut given = matches.get_raw(&variable.id()).into_iter().flatten();
            given.any(|text| !variable.is_default(text.to_str()))
        };
        let is_refused = |variable: &&Variable| variable.status == Refused && is_set(variable);
        Ok(Self {
            refused: VARIABLES.iter().filter(is_refused).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Variable {
    fn is_default(&self, text: Option<&str>) -> bool {
        match (self.kind, text) {
            (Bool, Some(text)) => matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False"),
            (Duration, Some(text)) => duration(text) == duration(self.default),
            (_, text) => text == Some(self.default),
        }
    }
}
