//! ratekeeper goes and comes back under an Envoy that goes on.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    lab::{Lab, Setup, Tally, header, limit},
    traffic::{RULES, Traffic},
};
use crate::support::TestApp;

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
    let traffic = Traffic::start(&lab).await?;
    for _ in 0..2 {
        traffic.more(100).await?;
        let next = TestApp::start(&lab.rules, lab.grpc, &["--drain-delay", "300ms"]).await?;
        let last = lab.app.replace(next).context("a running service")?;
        let ended = last.terminate().await?;
        ensure!(ended.success(), "{ended}");
    }
    traffic.more(100).await?;
    traffic.end(&lab).await
}
