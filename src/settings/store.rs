//! Flags and variables of the store.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args, ValueEnum};

use super::{at_least_one, boolean, duration, reference::Others};
use crate::engine::rules::OnStoreFailure;
use crate::storage::{
    memory,
    redis::{
        self,
        address::{Address, ReferenceAddress, TlsFiles},
        key,
    },
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub(super) struct Store {
    /// Where counters live: `memory`, or redis://host:6379,
    /// unix:///path, redis-sentinel://host:port,host:port/master,
    /// redis-cluster://host:port,host:port (rediss… for TLS; users and
    /// passwords as user:password@)
    #[arg(
        long,
        env = "RATEKEEPER_STORE",
        value_name = "STORE",
        hide_env_values = true
    )]
    store: Option<String>,
    /// The reference's choice: `redis`, or `memory` here
    #[arg(long, env = "BACKEND_TYPE", value_name = "TYPE", hide = true)]
    backend_type: Option<String>,
    /// Where limits per second are counted, if elsewhere
    #[arg(
        long,
        env = "RATEKEEPER_PER_SECOND_STORE",
        value_name = "STORE",
        hide_env_values = true
    )]
    per_second_store: Option<String>,
    /// Put before every key of a shared store; counters in memory are not shared
    #[arg(
        long,
        env = "CACHE_KEY_PREFIX",
        value_name = "TEXT",
        default_value = ""
    )]
    cache_key_prefix: String,
    /// How keys are written [default: canonical; reference in compat mode]
    #[arg(long, env = "RATEKEEPER_KEY_FORMAT", value_name = "FORMAT")]
    key_format: Option<KeyFormat>,
    /// With the reference's keys: up to so many seconds are added to their time to live
    #[arg(
        long,
        env = "EXPIRATION_JITTER_MAX_SECONDS",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    expiration_jitter: u64,
    /// A call waits for the store no longer than this
    #[arg(long, env = "RATEKEEPER_STORE_TIMEOUT", value_name = "TIME", default_value = "15ms", value_parser = at_least_a_millisecond)]
    store_timeout: Duration,
    /// From the first packet to a connection that can be used [default: --redis-timeout]
    #[arg(long, env = "RATEKEEPER_STORE_CONNECT_TIMEOUT", value_name = "TIME", value_parser = at_least_a_millisecond)]
    store_connect_timeout: Option<Duration>,
    /// Changes of counters that may wait, for each worker and node; beyond that the store has failed
    #[arg(long, env = "RATEKEEPER_STORE_QUEUE", value_name = "N", default_value_t = 8_192, value_parser = at_least_one)]
    store_queue: usize,
    /// What domains that say nothing do when the store does not answer
    #[arg(
        long,
        env = "RATEKEEPER_ON_STORE_FAILURE",
        value_name = "WHAT",
        default_value = "error"
    )]
    on_store_failure: Failure,
    /// The gRPC code when the store does not answer and that is an error [default: unavailable;
    /// unknown in compat mode]
    #[arg(long, env = "RATEKEEPER_ERROR_CODE", value_name = "CODE")]
    error_code: Option<ErrorCode>,
    /// Processes that share the store, to count locally by [default: those that are heard of]
    #[arg(long, env = "RATEKEEPER_REPLICAS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,
    /// Counters remembered as over their limit, which are refused without asking the store, at most;
    /// 0: none. See --local-cache-size-in-bytes, too
    #[arg(
        long,
        env = "RATEKEEPER_KNOWN_OVER",
        value_name = "N",
        default_value_t = 1_000_000
    )]
    known_over: u64,
    /// Windows go by this machine's clock, not by the store's
    #[arg(long, env = "RATEKEEPER_OWN_CLOCK", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    own_clock: bool,
    /// Most counters held in memory
    #[arg(long, env = "RATEKEEPER_MAX_COUNTERS", value_name = "N", default_value_t = 10_000_000,
          value_parser = at_least_one)]
    max_counters: usize,
    /// What to do with a new counter beyond that
    #[arg(
        long,
        env = "RATEKEEPER_WHEN_FULL",
        value_name = "POLICY",
        default_value = "deny"
    )]
    when_full: Full,
    /// Certificates to trust beside the system's, for rediss
    #[arg(long, env = "REDIS_TLS_CACERT", value_name = "FILE")]
    redis_tls_cacert: Option<PathBuf>,
    /// Our certificate, for rediss
    #[arg(long, env = "REDIS_TLS_CLIENT_CERT", value_name = "FILE")]
    redis_tls_client_cert: Option<PathBuf>,
    /// Our certificate's key
    #[arg(long, env = "REDIS_TLS_CLIENT_KEY", value_name = "FILE")]
    redis_tls_client_key: Option<PathBuf>,
    /// Do not compare the server's name with its certificate
    #[arg(long, env = "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    redis_tls_skip_hostname_verification: bool,
    #[command(flatten)]
    reference: Reference,
    #[command(flatten)]
    others: Others,
}

/// The reference's way to say where Redis is; `--store` wins over it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = REFERENCE_HEADING)]
struct Reference {
    /// tcp or unix
    #[arg(
        long,
        env = "REDIS_SOCKET_TYPE",
        value_name = "TYPE",
        default_value = "unix"
    )]
    redis_socket_type: String,
    /// single, sentinel or cluster
    #[arg(
        long,
        env = "REDIS_TYPE",
        value_name = "TYPE",
        default_value = "SINGLE"
    )]
    redis_type: String,
    /// host:port, a path, or a list
    #[arg(
        long,
        env = "REDIS_URL",
        value_name = "URL",
        default_value = "/var/run/nutcracker/ratelimit.sock",
        hide_env_values = true
    )]
    redis_url: String,
    /// password or user:password
    #[arg(
        long,
        env = "REDIS_AUTH",
        value_name = "AUTH",
        default_value = "",
        hide_env_values = true
    )]
    redis_auth: String,
    /// Speak TLS
    #[arg(long, env = "REDIS_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    redis_tls: bool,
    /// password or user:password, for sentinels
    #[arg(
        long,
        env = "REDIS_SENTINEL_AUTH",
        value_name = "AUTH",
        default_value = "",
        hide_env_values = true
    )]
    redis_sentinel_auth: String,
    /// To connect, whichever way the store is said; 0 is the default [default: 500ms; 10s in compat mode]
    #[arg(long, env = "REDIS_TIMEOUT", value_name = "TIME", value_parser = duration)]
    redis_timeout: Option<Duration>,
    /// Not healthy without a connection, even if there was one before
    #[arg(long, env = "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    redis_health_check_active_connection: bool,
    /// End when the store has not been reached for the first time by then; 0: never
    #[arg(long, env = "REDIS_STARTUP_MAX_ELAPSED_TIME", value_name = "TIME", default_value = "0", value_parser = duration)]
    redis_startup_max_elapsed_time: Duration,
    /// Bytes for counters that are known to be over, about; 0: none are remembered
    /// [default: as many as --known-over; 0 in compat mode]
    #[arg(long, env = "LOCAL_CACHE_SIZE_IN_BYTES", value_name = "BYTES")]
    local_cache_size_in_bytes: Option<u64>,
    /// Count limits per second in another Redis
    #[arg(long, env = "REDIS_PERSECOND", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    redis_persecond: bool,
    /// As REDIS_SOCKET_TYPE
    #[arg(
        long,
        env = "REDIS_PERSECOND_SOCKET_TYPE",
        value_name = "TYPE",
        default_value = "unix",
        hide = true
    )]
    redis_persecond_socket_type: String,
    /// As REDIS_TYPE
    #[arg(
        long,
        env = "REDIS_PERSECOND_TYPE",
        value_name = "TYPE",
        default_value = "SINGLE",
        hide = true
    )]
    redis_persecond_type: String,
    /// As REDIS_URL
    #[arg(
        long,
        env = "REDIS_PERSECOND_URL",
        value_name = "URL",
        default_value = "/var/run/nutcracker/ratelimitpersecond.sock",
        hide = true,
        hide_env_values = true
    )]
    redis_persecond_url: String,
    /// As REDIS_AUTH
    #[arg(
        long,
        env = "REDIS_PERSECOND_AUTH",
        value_name = "AUTH",
        default_value = "",
        hide = true,
        hide_env_values = true
    )]
    redis_persecond_auth: String,
    /// As REDIS_TLS
    #[arg(long, env = "REDIS_PERSECOND_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide = true,
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    redis_persecond_tls: bool,
    /// As REDIS_TIMEOUT
    #[arg(long, env = "REDIS_PERSECOND_TIMEOUT", value_name = "TIME", value_parser = duration, hide = true)]
    redis_persecond_timeout: Option<Duration>,
    /// As REDIS_SENTINEL_AUTH
    #[arg(
        long,
        env = "REDIS_PERSECOND_SENTINEL_AUTH",
        value_name = "AUTH",
        default_value = "",
        hide = true,
        hide_env_values = true
    )]
    redis_persecond_sentinel_auth: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyFormat {
    /// No two counters share a key
    Canonical,
    /// Exactly the keys of envoyproxy/ratelimit, to count together with it
    Reference,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Failure {
    /// Answer with an error; the proxy decides
    Error,
    /// Let everything pass
    Allow,
    /// Refuse everything
    Deny,
    /// Count in this process against limit ÷ replicas
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ErrorCode {
    /// UNAVAILABLE
    Unavailable,
    /// UNKNOWN, as the reference
    Unknown,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Full {
    /// Refuse its hits; nobody's limit is forgotten
    Deny,
    /// Let its hits pass uncounted; nobody's limit is forgotten
    Allow,
    /// Forget counters whose windows end soonest
    EvictExpiringSoonest,
}

/// The heading of what the reference calls so.
pub(super) const REFERENCE_HEADING: &str =
    "Store in the reference's words (unless --store is given)";

/// From the first packet to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const REFERENCE_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a counter that is known to be over costs, about.
const KNOWN_OVER_BYTES: u64 = 150;
/// The reference's cache is never smaller.
const SMALLEST_LOCAL_CACHE: u64 = 512 << 10;

/// Where counters shall live.
#[derive(Clone, Debug)]
pub enum Choice {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(Box<redis::Config>),
}

// === impl Store ===

impl Store {
    /// Where counters shall live.
    ///
    /// # Errors
    /// What is said names no store.
    pub(super) fn choice(&self, compat: bool) -> anyhow::Result<Choice> {
        self.others
            .check(self.store.is_some() || self.backend_type.is_some())?;
        if let Some(store) = &self.store {
            if store.eq_ignore_ascii_case("memory") {
                return Ok(Choice::Memory);
            }
            if !store.contains("://") {
                let shown = super::secrets::masked("store", store);
                bail!(
                    "there is no store {shown:?}: use memory, or an address such as redis://host:6379"
                );
            }
            let address = Address::parse(store).context("--store")?;
            let per_second = self.per_second_store.as_deref();
            let per_second = per_second.map(Address::parse).transpose();
            return self.redis(address, per_second.context("--per-second-store")?, compat);
        }
        let backend = self.backend_type.as_deref().map(str::to_ascii_lowercase);
        match backend.as_deref() {
            Some("memory") => Ok(Choice::Memory),
            None | Some("") if !compat => Ok(Choice::Memory),
            None | Some("" | "redis") => self.reference_redis(compat),
            Some("memcache") => bail!(
                "there is no store \"memcache\": count in Redis with REDIS_URL, or in memory with BACKEND_TYPE=memory"
            ),
            Some(other) => bail!(
                "there is no store {other:?}: use --store memory, --store redis://host:6379, or BACKEND_TYPE redis or memory"
            ),
        }
    }

    fn reference_redis(&self, compat: bool) -> anyhow::Result<Choice> {
        let said = &self.reference;
        let main = ReferenceAddress {
            socket_type: said.redis_socket_type.clone(),
            kind: said.redis_type.clone(),
            url: said.redis_url.clone(),
            auth: said.redis_auth.clone(),
            tls: said.redis_tls,
            sentinel_auth: said.redis_sentinel_auth.clone(),
        };
        let per_second = said.redis_persecond.then(|| ReferenceAddress {
            socket_type: said.redis_persecond_socket_type.clone(),
            kind: said.redis_persecond_type.clone(),
            url: said.redis_persecond_url.clone(),
            auth: said.redis_persecond_auth.clone(),
            tls: said.redis_persecond_tls,
            sentinel_auth: said.redis_persecond_sentinel_auth.clone(),
        });
        let address = Address::from_reference(&main).context("REDIS_URL")?;
        let per_second = per_second.as_ref().map(Address::from_reference).transpose();
        self.redis(address, per_second.context("REDIS_PERSECOND_URL")?, compat)
    }

    fn redis(
        &self,
        address: Address,
        per_second: Option<Address>,
        compat: bool,
    ) -> anyhow::Result<Choice> {
        let format = match self.key_format {
            Some(KeyFormat::Canonical) => key::Format::Canonical,
            Some(KeyFormat::Reference) => key::Format::Reference,
            None if compat => key::Format::Reference,
            None => key::Format::Canonical,
        };
        Ok(Choice::Redis(Box::new(redis::Config {
            address,
            per_second,
            tls: TlsFiles {
                ca: self.redis_tls_cacert.clone(),
                cert: self.redis_tls_client_cert.clone(),
                key: self.redis_tls_client_key.clone(),
                skip_hostname_verification: self.redis_tls_skip_hostname_verification,
            },
            deadline: self.store_timeout,
            connect_timeout: self.connect_timeout(self.reference.redis_timeout, compat),
            per_second_connect_timeout: Some(
                self.connect_timeout(self.reference.redis_persecond_timeout, compat),
            ),
            max_queue: self.store_queue,
            format,
            prefix: self.cache_key_prefix.clone(),
            jitter: self.expiration_jitter,
            known_over: self.known_over(compat),
            own_clock: self.own_clock,
            needs_connection: self.reference.redis_health_check_active_connection,
        })))
    }

    fn connect_timeout(&self, reference: Option<Duration>, compat: bool) -> Duration {
        let said = reference.filter(|time| !time.is_zero());
        let default = if compat {
            REFERENCE_CONNECT_TIMEOUT
        } else {
            CONNECT_TIMEOUT
        };
        self.store_connect_timeout.or(said).unwrap_or(default)
    }

    /// Without a local cache, as is the reference's default, every refused
    /// hit is counted in the store.
    fn known_over(&self, compat: bool) -> u64 {
        let bytes = self.reference.local_cache_size_in_bytes;
        match bytes.or(compat.then_some(0)) {
            None => self.known_over,
            Some(0) => 0,
            Some(bytes) => {
                let fit = bytes.max(SMALLEST_LOCAL_CACHE) / KNOWN_OVER_BYTES;
                self.known_over.min(fit)
            }
        }
    }

    /// By when the store has to have been reached for the first time.
    pub(super) fn patience(&self) -> Option<Duration> {
        let patience = self.reference.redis_startup_max_elapsed_time;
        (!patience.is_zero()).then_some(patience)
    }

    /// Settings of counters in memory: all of them, or those of the time
    /// while the store is away.
    pub(super) fn memory(&self) -> memory::Config {
        memory::Config {
            max_counters: self.max_counters,
            when_full: match self.when_full {
                Full::Deny => memory::WhenFull::Deny,
                Full::Allow => memory::WhenFull::Allow,
                Full::EvictExpiringSoonest => memory::WhenFull::EvictExpiringSoonest,
            },
        }
    }

    pub(super) fn on_store_failure(&self) -> OnStoreFailure {
        match self.on_store_failure {
            Failure::Error => OnStoreFailure::Error,
            Failure::Allow => OnStoreFailure::Allow,
            Failure::Deny => OnStoreFailure::Deny,
            Failure::Local => OnStoreFailure::Local,
        }
    }

    pub(super) fn replicas(&self) -> Option<u32> {
        self.replicas
    }

    pub(super) fn unknown_code(&self) -> bool {
        self.error_code == Some(ErrorCode::Unknown)
    }
}

fn at_least_a_millisecond(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_millis(1) => Err("at least 1ms".to_owned()),
        time => Ok(time),
    }
}
