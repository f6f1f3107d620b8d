//! Calls while rules change: none is lost, each goes by one version.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ratekeeper::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse, rate_limit_service_client::RateLimitServiceClient,
    },
};
use tokio::task::JoinSet;
use tonic::{Status, transport::Channel};

use crate::{
    process::Server,
    redis::servers::{self, wait_until},
};

use super::{command, loads, write};

const SWAPS: u64 = 50;
const CONNECTIONS: usize = 4;
const CALLS_AT_ONCE: usize = 16;

/// Both descriptors of a request tell the version, by name and by limit. The
/// second version is longer, so that nothing is in the same place.
fn version(number: u32) -> String {
    let limit = |key: &str| {
        let requests = 1_000_000 * number;
        format!(
            "  - key: {key}\n    rate_limit: \
             {{unit: day, requests_per_unit: {requests}, name: v{number}}}\n"
        )
    };
    let more: String = (0..number * 100)
        .map(|n| limit(&format!("other{n}")))
        .collect();
    format!(
        "domain: d\ndescriptors:\n{more}{}{}",
        limit("one"),
        limit("two")
    )
}

fn request(value: usize) -> RateLimitRequest {
    let descriptor = |key: &'static str| RateLimitDescriptor {
        entries: vec![Entry {
            key: key.into(),
            value: value.to_string().into(),
        }],
        ..RateLimitDescriptor::default()
    };
    RateLimitRequest {
        domain: "d".into(),
        descriptors: vec![descriptor("one"), descriptor("two")],
        hits_addend: 1,
    }
}

/// The one version that an answer is by.
fn version_of(answer: Result<RateLimitResponse, Status>) -> Result<String, String> {
    let answer = answer.map_err(|status| status.to_string())?;
    let told: Vec<String> = answer
        .statuses
        .iter()
        .filter_map(|status| status.current_limit.as_ref())
        .map(|limit| format!("{} {}", limit.name, limit.requests_per_unit))
        .collect();
    match &*told {
        [one, two] if one == two && ["v1 1000000", "v2 2000000"].contains(&&**one) => {
            Ok(one.clone())
        }
        _ => Err(format!("{answer:?}")),
    }
}

/// Asks until it is over; how often each version answered.
async fn call(
    mut client: RateLimitServiceClient<Channel>,
    value: usize,
    over: Arc<AtomicBool>,
) -> Result<BTreeMap<String, u64>, String> {
    let mut seen = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let answer = client.should_rate_limit(request(value)).await;
        let version = version_of(answer.map(tonic::Response::into_inner))?;
        *seen.entry(version).or_default() += 1;
    }
    Ok(seen)
}

fn under_load(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &version(1));
    let mut command = command(&["--rules-poll", "5ms", "--store", store]);
    command
        .args(["--store-timeout", "5s", "--rules"])
        .arg(folder.path());
    let server = Server::run(&mut command);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut calls = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let address = format!("http://{}", server.grpc);
        let client = runtime
            .block_on(RateLimitServiceClient::connect(address))
            .unwrap();
        for number in 0..CALLS_AT_ONCE {
            let value = connection * CALLS_AT_ONCE + number;
            let call = call(client.clone(), value, Arc::clone(&over));
            calls.spawn_on(call, runtime.handle());
        }
    }
    for (swap, number) in (1..=SWAPS).zip([2, 1].into_iter().cycle()) {
        write(&file, &version(number));
        let successes = swap + 1;
        wait_until("load", || loads(&server)["successes"] == successes);
    }
    over.store(true, Ordering::Relaxed);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for answered in runtime.block_on(calls.join_all()) {
        for (version, count) in answered.expect("every call is answered, by one version") {
            *seen.entry(version).or_default() += count;
        }
    }
    println!("{store}: {seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|&count| count > SWAPS), "{seen:?}");
    assert_eq!(loads(&server)["failures"], 0);
}

#[test]
fn no_call_is_lost_and_each_goes_by_one_version() {
    under_load("memory");
}

#[test]
fn nor_while_calls_wait_for_redis() {
    let redis = servers::Server::plain();
    under_load(&redis.address());
}
