//! The exporter's thread: batch after batch, one at a time.

use std::{sync::atomic::Ordering, time::Duration};

use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::Counts;

/// How much is sent at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Spans of a batch.
    pub(super) most: usize,
    /// How long the first of them waits for others.
    pub(super) delay: Duration,
}

/// One batch takes no longer, whatever the collector's own time-out is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends until it is told to stop, or nobody is left to trace; then sends what
/// there is.
pub(super) async fn run(
    exporter: &impl SpanExporter,
    mut queue: mpsc::Receiver<SpanData>,
    pace: Pace,
    counts: &Counts,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut is_well = true;
    let mut goes_on = true;
    while goes_on {
        let mut batch = vec![];
        goes_on = fill(&mut batch, &mut queue, pace, &mut stopped).await;
        send(exporter, batch, counts, &mut is_well).await;
    }
    queue.close();
    loop {
        let mut batch = vec![];
        if queue.recv_many(&mut batch, pace.most).await == 0 {
            return;
        }
        send(exporter, batch, counts, &mut is_well).await;
    }
}

/// A batch that is full, or whose first has waited; false when it is the last.
async fn fill(
    batch: &mut Vec<SpanData>,
    queue: &mut mpsc::Receiver<SpanData>,
    pace: Pace,
    stopped: &mut oneshot::Receiver<()>,
) -> bool {
    let mut waited = std::pin::pin!(sleep(pace.delay));
    while batch.len() < pace.most {
        let room = pace.most - batch.len();
        let is_first = batch.is_empty();
        tokio::select! {
            biased;
            _ = &mut *stopped => return false,
            taken = queue.recv_many(batch, room) => {
                if taken == 0 {
                    return false;
                }
                if is_first {
                    waited.set(sleep(pace.delay));
                }
            }
            () = &mut waited, if !is_first => return true,
        }
    }
    true
}

/// What the collector does not take is lost, and counted.
async fn send(
    exporter: &impl SpanExporter,
    batch: Vec<SpanData>,
    counts: &Counts,
    is_well: &mut bool,
) {
    if batch.is_empty() {
        return;
    }
    let spans = batch.len() as u64;
    let sent = match timeout(PATIENCE, exporter.export(batch)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    };
    match sent {
        Ok(()) => {
            counts.exported.fetch_add(spans, Ordering::Relaxed);
            if !std::mem::replace(is_well, true) {
                tracing::info!("traces are taken again");
            }
        }
        Err(reason) => {
            counts.failed.fetch_add(spans, Ordering::Relaxed);
            if std::mem::replace(is_well, false) {
                tracing::warn!(reason, "the trace collector does not take traces");
            }
        }
    }
}
