//! A server in this process, asked over gRPC, with a clock that the case
//! moves.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Context as _;
use ratekeeper::{
    app::{App, Config},
    clock::{Clock, ManualClock},
    engine::time::Timestamp,
    limiter::LimitError,
    proto::envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
            rate_limit_service_client::RateLimitServiceClient,
        },
    },
    rulebook::Rulebook,
    service::{
        limits::Limits,
        listener::Listener,
        wire::{Bounds, ResponseSettings},
    },
};
use serde_json::Value;
use tokio::{
    runtime::{self, Runtime},
    sync::mpsc,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    super::{
        Lines,
        format::{Asked, AskedDescriptor, Case},
    },
    Boundary, Shown, Shows, put_metadata, store,
};

/// A running server and a connection to it.
pub(super) struct Grpc {
    clock: ManualClock,
    client: RateLimitServiceClient<Channel>,
    dynamic_metadata: bool,
    /// Dropped last: the server runs on it.
    runtime: Runtime,
    /// The server goes down when this is dropped.
    _signals: mpsc::Sender<()>,
}

impl Grpc {
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        Self::start(case).map_err(|error| format!("{error:#}"))
    }

    fn start(case: &Case) -> anyhow::Result<Self> {
        let clock = ManualClock::default();
        let limiter = store::limiter(case, &clock, store::memory()).map_err(anyhow::Error::msg)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _inside = runtime.enter();
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let (grpc, http) = (Listener::tcp(local)?, Listener::tcp(local)?);
        let address = grpc.address().context("a TCP listener has an address")?;
        let rulebook = Rulebook::new(Arc::new(limiter), Clock::Manual(clock.clone()));
        let app = App::new(config(case)?, Arc::new(rulebook), grpc, http);
        let (signals, received) = mpsc::channel(1);
        runtime.spawn(app.run(received));
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
        Ok(Self {
            clock,
            client: RateLimitServiceClient::new(channel),
            dynamic_metadata: case.settings.dynamic_metadata,
            runtime,
            _signals: signals,
        })
    }
}

fn config(case: &Case) -> anyhow::Result<Config> {
    let shown = Shown::new(&case.settings).map_err(anyhow::Error::msg)?;
    Ok(Config {
        workers: 1,
        limits: Limits::default(),
        bounds: Bounds::default(),
        response: ResponseSettings {
            headers: shown.headers,
            dynamic_metadata: shown.metadata,
        },
        compat: false,
        unknown_code: false,
        debug_profile: false,
        tracer: None,
        needs_domain: false,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::ZERO,
    })
}

impl Boundary for Grpc {
    fn shows(&self) -> Shows {
        Shows {
            statistics: false,
            dynamic_metadata: true,
        }
    }

    fn ask(&mut self, now: Timestamp, asked: &Asked) -> Lines {
        self.clock.set(now);
        let call = self.client.should_rate_limit(request(asked));
        match self.runtime.block_on(call) {
            Ok(response) => lines(response.get_ref(), self.dynamic_metadata),
            Err(status) => error_lines(&status),
        }
    }
}

/// The message; and the code, where it is not the one that says that asking
/// again is no use.
fn error_lines(status: &Status) -> Lines {
    let message = status.message().to_owned();
    let mut lines = Lines::from([("error".to_owned(), message)]);
    let no_rules = status.code() == tonic::Code::Unavailable
        && status.message() == LimitError::NoRules.to_string();
    if status.code() != tonic::Code::InvalidArgument && !no_rules {
        lines.insert("code".to_owned(), status.code().to_string());
    }
    lines
}

// === question ===

fn request(asked: &Asked) -> RateLimitRequest {
    RateLimitRequest {
        domain: asked.domain.clone(),
        descriptors: asked.descriptors.iter().map(descriptor).collect(),
        hits_addend: asked.hits,
    }
}

fn descriptor(asked: &AskedDescriptor) -> RateLimitDescriptor {
    let entries = asked.entries.iter().map(|(key, value)| Entry {
        key: key.clone().into(),
        value: value.clone().into(),
    });
    RateLimitDescriptor {
        entries: entries.collect(),
        limit: asked.limit.as_ref().map(|limit| RateLimitOverride {
            requests_per_unit: limit.requests,
            unit: limit.unit,
            unit_multiplier: limit.multiplier,
        }),
        hits_addend: asked.hits,
        is_negative_hits: asked.negative,
    }
}

// === answer ===

fn lines(response: &RateLimitResponse, with_metadata: bool) -> Lines {
    let mut lines = Lines::new();
    lines.insert("overall".to_owned(), code_name(response.overall_code));
    for (number, status) in (1..).zip(&response.statuses) {
        lines.insert(format!("status {number}"), status_line(status));
    }
    for (number, header) in (1..).zip(&response.response_headers_to_add) {
        lines.insert(
            format!("header {number}"),
            format!("{}: {}", header.key, header.value),
        );
    }
    match &response.dynamic_metadata {
        Some(whole) => {
            let whole = struct_to_json(whole);
            if let Some(merged) = whole.get("metadata").filter(|_| with_metadata) {
                put_metadata(&mut lines, "metadata", merged);
            }
            put_metadata(&mut lines, "dynamic_metadata", &whole);
        }
        None if !with_metadata => {}
        surprise => {
            lines.insert("surprise".to_owned(), format!("{surprise:?}"));
        }
    }
    if !response.raw_body.is_empty() {
        let body = String::from_utf8_lossy(&response.raw_body).into_owned();
        lines.insert("body".to_owned(), body);
    }
    if let Some(surprise) = never_set(response) {
        lines.insert("surprise".to_owned(), surprise);
    }
    lines
}

/// What no answer has.
fn never_set(response: &RateLimitResponse) -> Option<String> {
    let RateLimitResponse {
        request_headers_to_add,
        quota,
        statuses,
        ..
    } = response;
    let quotas: Vec<_> = statuses
        .iter()
        .filter_map(|s| s.quota_specifier.as_ref())
        .collect();
    let nothing = request_headers_to_add.is_empty() && quota.is_none();
    (!nothing || !quotas.is_empty())
        .then(|| format!("{request_headers_to_add:?} {quota:?} {quotas:?}"))
}

fn code_name(number: i32) -> String {
    match Code::try_from(number) {
        Ok(Code::Ok) => "OK".to_owned(),
        Ok(Code::OverLimit) => "OVER".to_owned(),
        _ => format!("code {number}"),
    }
}

fn status_line(status: &DescriptorStatus) -> String {
    let (code, left) = (code_name(status.code), status.limit_remaining);
    let ok = code == "OK";
    match (&status.current_limit, &status.duration_until_reset) {
        (None, None) if ok && left == 0 => "no limit".to_owned(),
        (None, None) if ok && left == u32::MAX => "unlimited".to_owned(),
        (Some(limit), Some(reset)) if reset.nanos == 0 => {
            let limit = limit_text(limit);
            format!("{code} {limit} left {left} reset {}", reset.seconds)
        }
        _ => format!("{status:?}"),
    }
}

fn limit_text(limit: &RateLimit) -> String {
    let unit = Unit::try_from(limit.unit).map_or_else(
        |_| format!("unit {}", limit.unit),
        |unit| unit.as_str_name().to_ascii_lowercase(),
    );
    let window = match limit.unit_multiplier {
        None => unit,
        Some(times) => format!("{times} {unit}s"),
    };
    let name = match limit.name.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    format!("{}/{window}{name}", limit.requests_per_unit)
}

fn struct_to_json(fields: &prost_types::Struct) -> Value {
    fields
        .fields
        .iter()
        .map(|(key, value)| (key.clone(), to_json(value)))
        .collect()
}

fn to_json(value: &prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => (*value).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(fields)) => struct_to_json(fields),
    }
}
