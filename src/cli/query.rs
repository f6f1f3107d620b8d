//! `ratekeeper query`: asks a running server, as Envoy would.

use std::process::ExitCode;

use anyhow::Context as _;
use tonic::transport::Endpoint;

use super::explain::parse_descriptor;
use crate::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus},
        rate_limit_service_client::RateLimitServiceClient,
    },
};

/// Asks a running server, and shows its answer.
///
/// The exit code is 0 when the request may pass and 1 when it may not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  ratekeeper query --domain quickstart user=ann path=/login,method=POST --hits 2")]
pub struct Query {
    /// The server's gRPC address
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "HOST:PORT")]
    pub addr: String,
    /// The domain
    #[arg(long)]
    pub domain: String,
    /// Hits of each descriptor; 0 looks and takes none
    #[arg(long, default_value_t = 1)]
    pub hits: u64,
    /// How to show the answer
    #[arg(long, value_enum, default_value_t = super::check::Format::Text)]
    pub format: super::check::Format,
    /// Descriptors, each KEY=VALUE,KEY=VALUE; the first `=` ends the key
    #[arg(required = true, value_name = "KEY=VALUE,…")]
    pub descriptors: Vec<String>,
}

/// Asks, and prints the answer.
///
/// # Errors
/// There is no answer.
pub fn run(query: &Query) -> anyhow::Result<ExitCode> {
    let request = request(query)?;
    let response = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ask(&query.addr, request))?;
    match query.format {
        super::check::Format::Text => print!("{}", table(&query.descriptors, &response)),
        super::check::Format::Json => {
            let encoded = prost::Message::encode_to_vec(&response);
            let (json, _) = crate::service::http_json::response(&encoded)?;
            println!("{json:#}");
        }
    }
    Ok(super::exit_code(response.overall_code() != Code::OverLimit))
}

fn request(query: &Query) -> anyhow::Result<RateLimitRequest> {
    let descriptors = query
        .descriptors
        .iter()
        .map(|text| {
            let entries = parse_descriptor(text)?
                .into_iter()
                .map(|(key, value)| Entry {
                    key: key.into(),
                    value: value.into(),
                });
            Ok(RateLimitDescriptor {
                entries: entries.collect(),
                hits_addend: Some(query.hits),
                ..RateLimitDescriptor::default()
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(RateLimitRequest {
        domain: query.domain.clone(),
        descriptors,
        hits_addend: 0,
    })
}

async fn ask(addr: &str, request: RateLimitRequest) -> anyhow::Result<RateLimitResponse> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))
        .with_context(|| format!("{addr} is no address"))?
        .connect()
        .await
        .with_context(|| format!("cannot connect to {addr}"))?;
    let mut client = RateLimitServiceClient::new(channel);
    match client.should_rate_limit(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => anyhow::bail!("{:?}: {}", status.code(), status.message()),
    }
}

fn table(descriptors: &[String], response: &RateLimitResponse) -> String {
    let header = ["DESCRIPTOR", "CODE", "LIMIT", "LEFT", "RESET"].map(str::to_owned);
    let rows = descriptors
        .iter()
        .zip(&response.statuses)
        .map(|(descriptor, status)| row(descriptor, status));
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = format!("{}\n\n", response.overall_code().as_str_name());
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(descriptor: &str, status: &DescriptorStatus) -> [String; 5] {
    let limit = status.current_limit.as_ref();
    let reset = status.duration_until_reset.as_ref();
    let nothing = || "-".to_owned();
    [
        descriptor.to_owned(),
        status.code().as_str_name().to_owned(),
        limit.map_or_else(nothing, |limit| {
            let unit = limit.unit().as_str_name().to_ascii_lowercase();
            let per = match limit.unit_multiplier {
                Some(n) if n > 1 => format!("{n} {unit}s"),
                _ => unit,
            };
            let gap = if limit.name.is_empty() { "" } else { " " };
            format!("{} per {per}{gap}{}", limit.requests_per_unit, limit.name)
        }),
        limit.map_or_else(nothing, |_| status.limit_remaining.to_string()),
        reset.map_or_else(nothing, |reset| format!("{}s", reset.seconds)),
    ]
}
