//! Requests that go on while something happens.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::ensure;
use tokio::task::JoinSet;

use super::lab::{Lab, Tally};
use crate::support::{Client, wait_for};

/// What they go by: any user but one passes.
pub(super) const RULES: &str = "
domain: lab
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1000000}
  - key: user
    value: banned
    rate_limit: {unit: year, requests_per_unit: 0}
";

/// Requests that go on until they are stopped.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    senders: JoinSet<anyhow::Result<()>>,
}

// === impl Traffic ===

impl Traffic {
    pub(super) async fn start(lab: &Lab) -> anyhow::Result<Self> {
        let mut traffic = Self {
            stop: Arc::default(),
            sent: Arc::default(),
            senders: JoinSet::new(),
        };
        for _ in 0..8 {
            let client = lab.client().await?;
            let (stop, sent) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.sent));
            traffic.senders.spawn(send_until(client, stop, sent));
        }
        Ok(traffic)
    }

    /// Waits for so many more.
    pub(super) async fn more(&self, number: u64) -> anyhow::Result<()> {
        let enough = self.sent.load(Ordering::Relaxed) + number;
        wait_for("requests", async || {
            (self.sent.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await
    }

    /// Stops; each request was decided, and none was lost.
    pub(super) async fn end(mut self, lab: &Lab) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(sender) = self.senders.join_next().await {
            sender??;
        }
        let ok = self.sent.load(Ordering::Relaxed);
        let expected = Tally {
            ok,
            over_limit: 0,
            error: 0,
        };
        let tally = lab.tally().await?;
        ensure!(tally == expected, "{tally:?} of {ok}");
        Ok(())
    }
}

async fn send_until(
    client: Client,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let answer = client.get("/", &[("x-user", b"any")]).await?;
        ensure!(answer.status == 200, "{answer:?}");
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
