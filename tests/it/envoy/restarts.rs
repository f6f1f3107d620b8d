//! ratekeeper goes and comes back under an Envoy that goes on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::lab::{Lab, Setup, Tally, header, limit};
use crate::support::{Client, TestApp, wait_for};

const RULES: &str = "
domain: lab
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1000000}
  - key: user
    value: banned
    rate_limit: {unit: year, requests_per_unit: 0}
";

async fn lab() -> anyhow::Result<Lab> {
    let setup = Setup {
        rules: RULES,
        flags: &["--drain-delay", "300ms"],
        envoy_headers: false,
        routes: vec![("/", json!([limit(json!([header("x-user", "user")]))]))],
    };
    Lab::start(&setup).await
}

#[tokio::test]
async fn killed_and_back() -> anyhow::Result<()> {
    let mut lab = lab().await?;
    let client = lab.client().await?;
    let banned = async || anyhow::Ok(client.get("/", &[("x-user", b"banned")]).await?.status);
    ensure!(banned().await? == 429);
    lab.app.take().context("a running service")?.kill().await?;
    for _ in 0..5 {
        ensure!(banned().await? == 200, "requests go on without the service");
    }
    lab.app = Some(TestApp::start(&lab.rules, lab.grpc, &[]).await?);
    ensure!(
        banned().await? == 429,
        "the first request after the restart is limited"
    );
    let tally = lab.tally().await?;
    ensure!(
        tally
            == Tally {
                ok: 0,
                over_limit: 2,
                error: 5
            },
        "{tally:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_second_process_takes_over() -> anyhow::Result<()> {
    let mut lab = lab().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..10 {
        let client = lab.client().await?;
        senders.spawn(send_until(client, Arc::clone(&stop), Arc::clone(&sent)));
    }
    let more = async |number: u64| {
        let enough = sent.load(Ordering::Relaxed) + number;
        wait_for("requests", async || {
            (sent.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await
    };

    for _ in 0..2 {
        more(100).await?;
        let next = TestApp::start(&lab.rules, lab.grpc, &["--drain-delay", "300ms"]).await?;
        let last = lab.app.replace(next).context("a running service")?;
        let ended = last.terminate().await?;
        ensure!(ended.success(), "{ended}");
    }
    more(100).await?;

    stop.store(true, Ordering::Relaxed);
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let tally = lab.tally().await?;
    let ok = sent.load(Ordering::Relaxed);
    ensure!(
        tally
            == Tally {
                ok,
                over_limit: 0,
                error: 0
            },
        "{tally:?} of {ok}"
    );
    Ok(())
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
