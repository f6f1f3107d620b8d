//! Flags and variables of traces and of what is logged.

use std::time::Duration;

use anyhow::bail;
use clap::{ArgAction, Args};

use super::boolean;
use crate::telemetry::{
    refusals::{self, Share},
    traces::{Config, Protocol},
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Traces (OTLP; where to: OTEL_EXPORTER_OTLP_ENDPOINT)")]
pub(super) struct Tracing {
    /// Send traces
    #[arg(long, env = "TRACING_ENABLED", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    tracing_enabled: bool,
    /// The service's name [default: OTEL_SERVICE_NAME, or RateLimit]
    #[arg(long, env = "TRACING_SERVICE_NAME", value_name = "NAME")]
    tracing_service_name: Option<String>,
    /// The service's namespace
    #[arg(long, env = "TRACING_SERVICE_NAMESPACE", value_name = "NAME")]
    tracing_service_namespace: Option<String>,
    /// Names this process [default: a random UUID]
    #[arg(long, env = "TRACING_SERVICE_INSTANCE_ID", value_name = "ID")]
    tracing_service_instance_id: Option<String>,
    /// http or grpc [default: OTEL_EXPORTER_OTLP_PROTOCOL, or http]
    #[arg(long, env = "TRACING_EXPORTER_PROTOCOL", value_name = "PROTOCOL")]
    tracing_exporter_protocol: Option<String>,
    /// The share of calls that are traced, where their caller does not say
    #[arg(long, env = "TRACING_SAMPLING_RATE", value_name = "RATIO", default_value_t = 1.0, value_parser = ratio)]
    tracing_sampling_rate: f64,
    /// Tell in spans what clients send, values of descriptors too
    #[arg(long, env = "RATEKEEPER_TRACING_VALUES", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    tracing_values: bool,
    /// Spans that may wait for the collector; those beyond are dropped
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", value_name = "N", default_value_t = 2_048, value_parser = super::at_least_one)]
    tracing_queue: usize,
    /// Spans that are sent at once
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", value_name = "N", default_value_t = 512, value_parser = super::at_least_one)]
    tracing_batch: usize,
    /// How long the first span of a batch waits for others, in milliseconds
    #[arg(
        long,
        env = "OTEL_BSP_SCHEDULE_DELAY",
        value_name = "MS",
        default_value_t = 5_000
    )]
    tracing_delay_ms: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Refusals in the log")]
pub(super) struct Refusals {
    /// Log some of the calls that are refused, at info: 1/1 is all, 1/1000 one in a thousand
    #[arg(long, env = "RATEKEEPER_LOG_REFUSALS", value_name = "N/M")]
    log_refusals: Option<Share>,
    /// Lines about them in a second
    #[arg(
        long,
        env = "RATEKEEPER_LOG_REFUSALS_PER_SECOND",
        value_name = "N",
        default_value_t = 100
    )]
    log_refusals_per_second: u32,
    /// Tell there what clients send, values of descriptors too
    #[arg(long, env = "RATEKEEPER_LOG_VALUES", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    log_values: bool,
}

// === impl Refusals ===

impl Refusals {
    /// `None` where none are logged.
    pub(super) fn config(&self) -> Option<refusals::Config> {
        Some(refusals::Config {
            share: self.log_refusals?,
            per_second: self.log_refusals_per_second,
            shows_values: self.log_values,
        })
    }
}

// === impl Tracing ===

impl Tracing {
    /// `None` where no traces are sent.
    ///
    /// # Errors
    /// The protocol that the standard's variables name is not spoken.
    pub(super) fn config(&self) -> anyhow::Result<Option<Config>> {
        if !self.tracing_enabled {
            return Ok(None);
        }
        Ok(Some(Config {
            protocol: self.protocol()?,
            service_name: self.tracing_service_name.clone(),
            service_namespace: self.tracing_service_namespace.clone(),
            service_instance_id: self.tracing_service_instance_id.clone(),
            sampling_rate: self.tracing_sampling_rate,
            shows_values: self.tracing_values,
            max_queue: self.tracing_queue,
            max_batch: self.tracing_batch,
            delay: Duration::from_millis(self.tracing_delay_ms),
        }))
    }

    fn protocol(&self) -> anyhow::Result<Protocol> {
        // As in the reference, nobody minds while no traces are sent.
        match self.tracing_exporter_protocol.as_deref() {
            Some("http") => return Ok(Protocol::Http),
            Some("grpc") => return Ok(Protocol::Grpc),
            Some(other) => bail!("TRACING_EXPORTER_PROTOCOL={other}: http or grpc"),
            None => {}
        }
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ];
        for name in names {
            match std::env::var(name).as_deref() {
                Ok("grpc") => return Ok(Protocol::Grpc),
                Ok("http/protobuf") => return Ok(Protocol::Http),
                Ok("") | Err(_) => {}
                Ok(other) => bail!("{name}={other}: grpc and http/protobuf are spoken"),
            }
        }
        Ok(Protocol::default())
    }
}

/// A share; as in the reference, less than none is none and more than all is
/// all.
fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if !ratio.is_nan() => Ok(ratio.clamp(0.0, 1.0)),
        _ => Err("a number from 0 to 1".to_owned()),
    }
}
