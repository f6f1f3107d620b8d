//! Four processes share a limit by leases, under full load.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ratekeeper::{
    clock::Clock,
    proto::envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::{
            RateLimitRequest, rate_limit_response::Code,
            rate_limit_service_client::RateLimitServiceClient,
        },
    },
};
use tokio::{task::JoinSet, time::Instant};

use super::servers::Server;
use crate::process;

const LIMIT: u64 = 400;
const RULES: &str = "
domain: d
descriptors:
  - key: hot
    rate_limit: {unit: second, requests_per_unit: 400, accuracy: leased}
";
/// Whole windows that are looked at.
const WINDOWS: u64 = 31;
/// Calls at once, to each process.
const AT_ONCE: usize = 8;

#[tokio::test]
async fn four_processes_never_exceed_a_limit_and_nearly_reach_it() {
    let server = Server::plain();
    let flags = [
        "--store",
        &server.address(),
        "--store-timeout",
        "2s",
        "--workers",
        "1",
        "--drain-delay",
        "0s",
    ];
    let processes: Vec<process::Server> = (0..4)
        .map(|_| process::Server::start(RULES, &flags))
        .collect();
    let until = Instant::now() + Duration::from_secs(WINDOWS + 2);
    let mut callers = JoinSet::new();
    for process in &processes {
        for _ in 0..AT_ONCE {
            callers.spawn(call_until(process.grpc, until));
        }
    }
    let mut all = Windows::new();
    while let Some(calls) = callers.join_next().await {
        for (window, calls) in calls.expect("no panic").expect("answers") {
            let sum = all.entry(window).or_default();
            sum.passed += calls.passed;
            sum.asked += calls.asked;
            sum.at_edge += calls.at_edge;
        }
    }
    // The first and the last are not whole.
    let windows: Vec<Calls> = all.into_values().collect();
    let whole = &windows[1..windows.len() - 1];
    println!("calls in each window: {whole:?}");
    assert!(whole.len() >= 30, "{}", whole.len());
    for (number, calls) in whole.iter().enumerate() {
        assert!(
            calls.passed <= LIMIT,
            "window {number}: {calls:?} of {LIMIT}"
        );
    }
    // All together, with those of which the window is not certain.
    let passed: u64 = windows
        .iter()
        .map(|calls| calls.passed + calls.at_edge)
        .sum();
    assert!(
        passed <= LIMIT * windows.len() as u64,
        "{passed} in {} windows",
        windows.len()
    );
    // Demand is twice the limit and more, unless the machine is busy.
    let busy: Vec<&Calls> = whole
        .iter()
        .filter(|calls| calls.asked * 4 >= LIMIT * 5)
        .collect();
    assert!(
        busy.len() * 2 > whole.len(),
        "the load was too small: {whole:?}"
    );
    let nearly = |calls: &&&Calls| (calls.passed + calls.at_edge) * 100 >= LIMIT * 95;
    assert_eq!(busy.iter().filter(nearly).count(), busy.len(), "{busy:?}");
}

/// Calls of one window.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    asked: u64,
    passed: u64,
    /// Passed, but so close to the window's edge that they may have been
    /// counted in the one before or after.
    at_edge: u64,
}

type Windows = BTreeMap<u64, Calls>;

/// By this much an answer's time is uncertain.
const EDGE_NANOS: i64 = 5_000_000;

/// Calls one after the other.
async fn call_until(address: SocketAddr, until: Instant) -> anyhow::Result<Windows> {
    let mut client = RateLimitServiceClient::connect(format!("http://{address}")).await?;
    let mut windows = Windows::new();
    while Instant::now() < until {
        let request = RateLimitRequest {
            domain: "d".to_owned(),
            descriptors: vec![RateLimitDescriptor {
                entries: vec![Entry {
                    key: "hot".into(),
                    value: "x".into(),
                }],
                ..RateLimitDescriptor::default()
            }],
            hits_addend: 1,
        };
        let before = Clock::System.now().shifted(-EDGE_NANOS).as_secs();
        let answer = client.should_rate_limit(request).await?;
        let after = Clock::System.now().shifted(EDGE_NANOS).as_secs();
        let passed = u64::from(answer.into_inner().overall_code() == Code::Ok);
        let calls = windows.entry(after).or_default();
        calls.asked += 1;
        if before == after {
            calls.passed += passed;
        } else {
            calls.at_edge += passed;
        }
    }
    Ok(windows)
}
