//! Traces, over OTLP.
//!
//! In reading order: this file starts and stops; [`parent`] reads what callers
//! say of their traces; `export` sends what has finished, from a thread of its
//! own; `collector` gets to where it is sent.
//!
//! Finished spans wait in a queue with a bound. Where the collector does not
//! keep up they are dropped and counted: no call ever waits for it.

mod collector;
mod export;
pub mod parent;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector, trace::SpanData};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    clock::Clock,
    trace::{Sink, Tracer},
};

/// Settings of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How the collector is spoken to. `--tracing-exporter-protocol`, default
    /// HTTP.
    pub protocol: Protocol,
    /// `service.name`; `None` leaves it to the standard's variables.
    /// `--tracing-service-name`, default `RateLimit`.
    pub service_name: Option<String>,
    /// `service.namespace`. `--tracing-service-namespace`.
    pub service_namespace: Option<String>,
    /// `service.instance.id`. `--tracing-service-instance-id`, default a random
    /// UUID.
    pub service_instance_id: Option<String>,
    /// The share of calls that are traced, from 0 to 1, where their caller does
    /// not say. `--tracing-sampling-rate`, default 1.
    pub sampling_rate: f64,
    /// What clients send is told. `--tracing-values`.
    pub shows_values: bool,
    /// Spans that may wait for the collector. `--tracing-queue`, default 2,048.
    pub max_queue: usize,
    /// Spans that are sent at once. `--tracing-batch`, default 512.
    pub max_batch: usize,
    /// How long the first span of a batch waits for others.
    /// `--tracing-delay`, default 5 s.
    pub delay: Duration,
}

/// How the collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf in HTTP requests.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

/// Traces are not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The standard's variables are not right.
    #[error("traces cannot be sent: {0}")]
    Settings(String),
    /// A certificate or a key cannot be used.
    #[error("traces cannot be sent: {file}: {reason}")]
    File {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// The operating system gives no thread or no event queue.
    #[error("traces cannot be sent: {0}")]
    System(#[from] io::Error),
}

/// Figures of the exporter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Spans that have ended.
    pub finished: u64,
    /// Those of them that found the queue full.
    pub dropped: u64,
    /// Those that the collector has taken.
    pub exported: u64,
    /// Those that it has not taken.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    finished: AtomicU64,
    dropped: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
}

/// Reads the figures of the exporter.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Counts>);

/// Traces that are being sent.
#[derive(Debug)]
pub struct Traces {
    tracer: Tracer,
    counts: Arc<Counts>,
    /// Tells the exporter to send what there is, and go.
    stop: oneshot::Sender<()>,
    /// Ends when it has.
    done: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

/// What the reference calls itself.
const SERVICE_NAME: &str = "RateLimit";

// === impl Traces ===

impl Traces {
    /// Starts the exporter. The collector need not be there. Where it is, and
    /// how to get there, say the standard's variables (`OTEL_…`).
    ///
    /// # Errors
    /// What is said is no good.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exporter = {
            let _inside = runtime.enter();
            let resource = resource(config);
            collector::exporter(config.protocol, &resource)
        };
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                // It may not be dropped on another event loop.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let counts = Arc::new(Counts::default());
        let (spans, queue) = mpsc::channel(config.max_queue.max(1));
        let (stop, stopped) = oneshot::channel();
        let (end, done) = oneshot::channel();
        let pace = export::Pace {
            most: config.max_batch.max(1),
            delay: config.delay,
        };
        let counted = Arc::clone(&counts);
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                runtime.block_on(export::run(&exporter, queue, pace, &counted, stopped));
                drop(end);
                // A name that is still being looked up holds nobody up.
                runtime.shutdown_background();
            })?;
        let sink = Queue {
            spans,
            counts: Arc::clone(&counts),
        };
        let tracer = Tracer::new(
            config.sampling_rate,
            config.shows_values,
            Clock::System,
            sink,
        );
        Ok(Self {
            tracer,
            counts,
            stop,
            done,
        })
    }

    /// What begins spans.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// What reads the figures, for as long as anybody wants.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.counts))
    }

    /// Sends what there is, for as long as `patience`; false where that was
    /// not enough.
    pub async fn stop(self, patience: Duration) -> bool {
        // It is gone if it cannot be told.
        let _ = self.stop.send(());
        timeout(patience, self.done).await.is_ok()
    }
}

// === impl Queue ===

impl Sink for Queue {
    fn take(&self, span: SpanData) {
        self.counts.finished.fetch_add(1, Ordering::Relaxed);
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Meter ===

impl Meter {
    /// Figures for metrics.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            finished: read(&self.0.finished),
            dropped: read(&self.0.dropped),
            exported: read(&self.0.exported),
            failed: read(&self.0.failed),
        }
    }
}

/// Who sends: what the flags say, then what `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES` say, then what we say.
fn resource(config: &Config) -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").ok();
    let named = named.filter(|name| !name.is_empty());
    let name = config.service_name.clone().or(named);
    let said = [
        ("service.name", name),
        ("service.namespace", config.service_namespace.clone()),
        ("service.instance.id", config.service_instance_id.clone()),
    ];
    let said = said
        .into_iter()
        .filter_map(|(key, value)| Some(KeyValue::new(key, value?)));
    let ours = [
        KeyValue::new("service.name", SERVICE_NAME),
        KeyValue::new("service.instance.id", random_uuid()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    Resource::builder_empty()
        .with_attributes(ours)
        .with_detector(Box::new(
            opentelemetry_sdk::resource::TelemetryResourceDetector,
        ))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(said)
        .build()
}

/// A UUID of version 4.
fn random_uuid() -> String {
    let random: u128 = rand::random();
    let version = 0x4 << 76;
    let variant = 0b10 << 62;
    let bits = (random & !(0xf << 76) & !(0b11 << 62)) | version | variant;
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

// === impl Protocol ===

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        })
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceState;

    use super::*;
    use crate::trace::Parent;

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted() {
        let counts = Arc::new(Counts::default());
        let (spans, _queue) = mpsc::channel(2);
        let queue = Queue {
            spans,
            counts: Arc::clone(&counts),
        };
        let tracer = Tracer::new(1.0, false, Clock::System, queue);
        for _ in 0..5 {
            drop(tracer.begin("call", Parent::default(), || TraceState::NONE));
        }
        let figures = Meter(counts).figures();
        assert_eq!((figures.finished, figures.dropped), (5, 3));
    }

    #[test]
    fn random_uuids_are_of_version_4() {
        let uuid = random_uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        assert_ne!(uuid, random_uuid());
    }
}
