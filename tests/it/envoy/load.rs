//! Many requests at once: exactly the limit passes, and no call is lost.

use anyhow::ensure;
use http::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use super::lab::{Lab, Setup, Tally, header, limit};

const RULES: &str = "
domain: lab
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 370}
";

async fn lab() -> anyhow::Result<Lab> {
    let setup = Setup {
        rules: RULES,
        flags: &[],
        envoy_headers: false,
        routes: vec![("/", json!([limit(json!([header("x-user", "user")]))]))],
    };
    Lab::start(&setup).await
}

/// `connections` clients send `each` requests; at once, or one after the
/// other.
async fn pass(lab: &Lab, connections: u64, each: u64, at_once: bool) -> anyhow::Result<u64> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(lab.client().await?);
    }
    let (lanes, turns) = if at_once { (each, 1) } else { (1, each) };
    let mut senders = JoinSet::new();
    for client in clients {
        for _ in 0..lanes {
            let client = client.clone();
            senders.spawn(async move {
                let mut passed = 0;
                for _ in 0..turns {
                    let answer = client.get("/", &[("x-user", b"all")]).await?;
                    passed += u64::from(answer.status == StatusCode::OK);
                }
                anyhow::Ok(passed)
            });
        }
    }
    let mut passed = 0;
    while let Some(sender) = senders.join_next().await {
        passed += sender??;
    }
    Ok(passed)
}

#[tokio::test]
async fn two_hundred_clients_get_exactly_the_limit() -> anyhow::Result<()> {
    let lab = lab().await?;
    let passed = pass(&lab, 200, 4, false).await?;
    ensure!(passed == 370, "{passed} passed");
    ensure!(lab.upstream.requests() == 370);
    let tally = lab.tally().await?;
    let expected = Tally {
        ok: 370,
        over_limit: 430,
        error: 0,
    };
    ensure!(tally == expected, "{tally:?}");
    Ok(())
}

/// The first calls of a fresh connection: Envoy sends them before it knows
/// how many the service would take.
#[tokio::test]
async fn a_thousand_calls_at_once_lose_none() -> anyhow::Result<()> {
    let lab = lab().await?;
    let passed = pass(&lab, 10, 100, true).await?;
    ensure!(passed == 370, "{passed} passed");
    let tally = lab.tally().await?;
    let expected = Tally {
        ok: 370,
        over_limit: 630,
        error: 0,
    };
    ensure!(tally == expected, "{tally:?}");
    Ok(())
}
