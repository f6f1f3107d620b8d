//! What Envoy sends for its actions, and what comes of it.

use anyhow::{Context as _, ensure};
use http::Method;
use ratekeeper::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, rate_limit_response::DescriptorStatus,
        rate_limit_service_client::RateLimitServiceClient,
    },
};
use serde_json::{Value, json};

use super::lab::{Lab, Setup, header, limit};

const RULES: &str = "
domain: lab
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 3, name: per-user}
  - key: tenant
    rate_limit: {unit: year, requests_per_unit: 4}
    descriptors:
      - key: plan
        value: free
        rate_limit: {unit: year, requests_per_unit: 1}
      - key: plan
        rate_limit: {unit: year, requests_per_unit: 2}
  - key: remote_address
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: remote_address
    value: 10.0.0.9
    rate_limit: {unit: year, requests_per_unit: 0}
  - key: header_match
    value: beta
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: overridden
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: cost
    rate_limit: {unit: year, requests_per_unit: 10}
  - key: generic_key
    value: bulk
    rate_limit: {unit: year, requests_per_unit: 10}
";

async fn lab() -> anyhow::Result<Lab> {
    let cost = |negative: bool| {
        json!([{
            "actions": [header("x-account", "cost")],
            "hits_addend": {"format": "%REQ(x-cost)%", "is_negative_hits": negative},
        }])
    };
    let setup = Setup {
        rules: RULES,
        flags: &[],
        envoy_headers: true,
        routes: vec![
            (
                "/nested",
                json!([limit(json!([
                    header("x-tenant", "tenant"),
                    header("x-plan", "plan")
                ]))]),
            ),
            ("/address", json!([limit(json!([{"remote_address": {}}]))])),
            (
                "/match",
                json!([limit(json!([{"header_value_match": {
                    "descriptor_value": "beta",
                    "headers": [{"name": "x-beta", "string_match": {"exact": "yes"}}],
                }}]))]),
            ),
            (
                "/override",
                json!([{
                    "actions": [header("x-user", "overridden")],
                    "limit": {"dynamic_metadata": {"metadata_key": {"key": "plan", "path": [{"key": "limit"}]}}},
                }]),
            ),
            ("/spend", cost(false)),
            ("/refund", cost(true)),
            (
                "/bulk",
                json!([
                    {"actions": [{"generic_key": {"descriptor_value": "bulk"}}], "hits_addend": {"number": 4}},
                    {"actions": [header("x-user", "user")]},
                ]),
            ),
            ("/filter", Value::Null),
            ("/", json!([limit(json!([header("x-user", "user")]))])),
        ],
    };
    Lab::start(&setup).await
}

/// A path, a header, and the statuses of one request after the other.
type Sequence = (
    &'static str,
    &'static [(&'static str, &'static [u8])],
    &'static [u16],
);

const SEQUENCES: &[Sequence] = &[
    ("/", &[("x-user", b"ann")], &[200, 200, 200, 429, 429]),
    ("/", &[("x-user", b"bob")], &[200, 200, 200, 429]),
    // Nothing to look at: no limit.
    ("/", &[], &[200, 200, 200, 200, 200]),
    // Not UTF-8: limited like any other, and each value by itself.
    ("/", &[("x-user", b"\xfc\xe9")], &[200, 200, 200, 429]),
    ("/", &[("x-user", b"\xfc\xe8")], &[200, 200, 200, 429]),
    // The deepest rule counts, for each tenant; the one above is not asked.
    (
        "/nested",
        &[("x-tenant", b"t"), ("x-plan", b"free")],
        &[200, 429],
    ),
    (
        "/nested",
        &[("x-tenant", b"t"), ("x-plan", b"paid")],
        &[200, 200, 429],
    ),
    (
        "/nested",
        &[("x-tenant", b"u"), ("x-plan", b"free")],
        &[200, 429],
    ),
    ("/nested", &[("x-plan", b"free")], &[200, 200, 200]),
    (
        "/address",
        &[("x-forwarded-for", b"10.0.0.1")],
        &[200, 200, 429],
    ),
    (
        "/address",
        &[("x-forwarded-for", b"2001:db8::1")],
        &[200, 200, 429],
    ),
    ("/address", &[("x-forwarded-for", b"10.0.0.9")], &[429]),
    ("/match", &[("x-beta", b"yes")], &[200, 200, 429]),
    ("/match", &[("x-beta", b"no")], &[200, 200, 200]),
    // The rule says 1, the metadata 2.
    ("/override", &[("x-user", b"ann")], &[200, 200, 429]),
    // Four at a time of ten; the other descriptor counts one at a time.
    ("/bulk", &[("x-user", b"cleo")], &[200, 200, 429]),
    ("/", &[("x-user", b"cleo")], &[429]),
    // The filter's own limits and hits.
    (
        "/filter",
        &[("x-account", b"dan"), ("x-cost", b"4")],
        &[200, 200, 429],
    ),
];

#[tokio::test]
async fn actions_become_limits() -> anyhow::Result<()> {
    let lab = lab().await?;
    let client = lab.client().await?;
    let mut passed = 0;
    for (path, headers, expected) in SEQUENCES {
        for (number, &status) in expected.iter().enumerate() {
            let told = || format!("{path} {headers:?}, request {}", number + 1);
            let answer = client.get(path, headers).await.with_context(told)?;
            ensure!(answer.status == status, "{}: {answer:?}", told());
            let limited = answer.header("x-envoy-ratelimited") == "true";
            ensure!(limited == (status == 429), "{}: {answer:?}", told());
            passed += u64::from(status == 200);
        }
    }
    ensure!(
        lab.upstream.requests() == passed,
        "refused requests go no further"
    );
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn headers_equal_the_decision() -> anyhow::Result<()> {
    let lab = lab().await?;
    let client = lab.client().await?;
    let mut rpc = RateLimitServiceClient::connect(format!("http://{}", lab.grpc)).await?;
    for remaining in [2, 1, 0, 0] {
        let before = look(&mut rpc, "user", "dora").await?;
        let answer = client.get("/", &[("x-user", b"dora")]).await?;
        let after = look(&mut rpc, "user", "dora").await?;
        ensure!(after.limit_remaining == remaining, "{after:?}");
        let limit = answer.header("x-ratelimit-limit");
        ensure!(limit == "3, 3;w=31536000;name=\"per-user\"", "{limit}");
        let shown = answer.header("x-ratelimit-remaining");
        ensure!(shown == remaining.to_string(), "{shown}, not {remaining}");
        let reset: i64 = answer.header("x-ratelimit-reset").parse()?;
        let (most, least) = (seconds(&before)?, seconds(&after)?);
        ensure!(
            (least..=most).contains(&reset),
            "{reset} in {least}..={most}"
        );
    }
    Ok(())
}

/// Asks with no hits: nothing is counted.
async fn look(
    rpc: &mut RateLimitServiceClient<tonic::transport::Channel>,
    key: &str,
    value: &str,
) -> anyhow::Result<DescriptorStatus> {
    let request = RateLimitRequest {
        domain: "lab".to_owned(),
        descriptors: vec![RateLimitDescriptor {
            entries: vec![Entry {
                key: key.to_owned().into(),
                value: value.to_owned().into(),
            }],
            hits_addend: Some(0),
            ..RateLimitDescriptor::default()
        }],
        ..RateLimitRequest::default()
    };
    let answer = rpc.should_rate_limit(request).await?.into_inner();
    answer.statuses.into_iter().next().context("a status")
}

fn seconds(status: &DescriptorStatus) -> anyhow::Result<i64> {
    let reset = status.duration_until_reset.as_ref().context("a reset")?;
    ensure!(
        reset.nanos == 0,
        "whole seconds, as Envoy cuts off the rest"
    );
    Ok(reset.seconds)
}

#[tokio::test]
async fn costs_are_spent_and_refunded() -> anyhow::Result<()> {
    let lab = lab().await?;
    let client = lab.client().await?;
    for (path, cost, status, remaining) in [
        ("/spend", "6", 200, "4"),
        // A look.
        ("/spend", "0", 200, "4"),
        ("/refund", "2", 200, "6"),
        ("/spend", "5", 200, "1"),
        // What is refused counts too: 9 + 3.
        ("/spend", "3", 429, "0"),
        ("/refund", "3", 200, "1"),
        ("/spend", "1", 200, "0"),
        ("/spend", "1", 429, "0"),
        // More than was spent: nothing is in hand after that.
        ("/refund", "50", 200, "10"),
        ("/spend", "10", 200, "0"),
        ("/spend", "1", 429, "0"),
    ] {
        let headers: &[(&str, &[u8])] = &[("x-account", b"a"), ("x-cost", cost.as_bytes())];
        let answer = client.get(path, headers).await?;
        ensure!(answer.status == status, "{path} {cost}: {answer:?}");
        let shown = answer.header("x-ratelimit-remaining");
        ensure!(
            shown == remaining,
            "{path} {cost}: {shown}, not {remaining}"
        );
    }
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn grpc_clients_see_resource_exhausted() -> anyhow::Result<()> {
    let lab = lab().await?;
    let client = lab.client().await?;
    let headers: &[(&str, &[u8])] = &[
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
        ("x-user", b"grace"),
    ];
    for expected in ["0", "0", "0", "8"] {
        let answer = client
            .send(Method::POST, "/lab.Greeter/Hello", headers)
            .await?;
        ensure!(answer.status == 200, "{answer:?}");
        // A refusal has no body, so its status is among the headers.
        let status = answer
            .trailers
            .get("grpc-status")
            .or(answer.headers.get("grpc-status"));
        let status = status.context("a gRPC status")?;
        ensure!(status == expected, "{status:?}, not {expected}");
        let limit = answer.header("x-ratelimit-limit");
        ensure!(limit.starts_with("3, 3;"), "{limit}");
    }
    Ok(())
}

#[tokio::test]
async fn own_headers_reach_the_client() -> anyhow::Result<()> {
    let setup = Setup {
        rules: RULES,
        flags: &["--limit-headers", "--reset-header", "X-Reset"],
        envoy_headers: false,
        routes: vec![("/", json!([limit(json!([header("x-user", "user")]))]))],
    };
    let lab = Lab::start(&setup).await?;
    let client = lab.client().await?;
    for (status, remaining) in [(200, "2"), (200, "1"), (200, "0"), (429, "0")] {
        let answer = client.get("/", &[("x-user", b"hal")]).await?;
        ensure!(answer.status == status, "{answer:?}");
        let shown = answer.header("ratelimit-remaining");
        ensure!(shown == remaining, "{shown}, not {remaining}");
        let limit = answer.header("ratelimit-limit");
        ensure!(limit.starts_with('3'), "{limit}");
        let reset: u64 = answer.header("x-reset").parse()?;
        ensure!((1..=31_536_000).contains(&reset), "{reset}");
        ensure!(!answer.headers.contains_key("x-ratelimit-limit"));
        if status == 200 {
            let echoed = String::from_utf8_lossy(&answer.body);
            ensure!(echoed.contains("\"x-user\": \"hal\""), "{echoed}");
        }
    }
    Ok(())
}
