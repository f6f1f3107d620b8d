//! Beside the reference on one Redis: what it would send is sent by hand, in
//! exactly its keys.

use std::{process::Command, time::Duration};

use ratekeeper::clock::Clock;

use super::servers::{Server, wait_until};
use crate::process;

/// Its windows are long, so that none ends while a test runs.
const RULES: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 30}
  - key: ip
    descriptors:
      - key: path
        rate_limit: {unit: year, requests_per_unit: 30}
  - key: file
    value: 'a/*'
    share_threshold: true
    rate_limit: {unit: year, requests_per_unit: 30}
  - key: empty
    rate_limit: {unit: year, requests_per_unit: 30}
";
const YEAR: u64 = 31_536_000;
const LIMIT: usize = 30;

/// A ratekeeper in the place of the reference.
fn in_its_place(redis: &Server, flags: &[&str]) -> process::Server {
    let url = format!("127.0.0.1:{}", redis.port);
    let mut all = vec![
        "--compat",
        "--redis-socket-type",
        "tcp",
        "--redis-url",
        &url,
    ];
    all.extend([
        "--drain-delay",
        "0s",
        "--workers",
        "2",
        "--store-timeout",
        "5s",
    ]);
    all.extend(flags);
    let server = process::Server::start(RULES, &all);
    wait_until("connection", || {
        server.http("GET", "/healthcheck", "").0 == 200
    });
    server
}

/// Whether a hit on these entries passes.
fn passes(server: &process::Server, entries: &[(&str, &str)], limit: &str) -> bool {
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!(r#"{{"key":"{key}","value":"{value}"}}"#))
        .collect();
    let body = format!(
        r#"{{"domain":"shop","descriptors":[{{"entries":[{}]{limit}}}]}}"#,
        entries.join(",")
    );
    match server.http("POST", "/json", &body) {
        (200, _) => true,
        (429, _) => false,
        other => panic!("{other:?}"),
    }
}

fn window_start(seconds: u64) -> u64 {
    let now = Clock::System.now().as_secs();
    now / seconds * seconds
}

/// What the reference does for a hit on this key.
fn passes_there(redis: &Server, key: &str) -> bool {
    let after = redis.command(&["INCRBY", key, "1"]);
    redis.command(&["EXPIRE", key, &(YEAR + 17).to_string()]);
    let after: usize = after.trim().parse().expect("a number");
    after <= LIMIT
}

#[test]
fn both_count_together_on_one_counter() {
    let redis = Server::plain();
    let ours = [in_its_place(&redis, &[]), in_its_place(&redis, &[])];
    let start = window_start(YEAR);
    let limit = r#","limit":{"requests_per_unit":30,"unit":"YEAR"}"#;
    for (entries, limit, key) in [
        (&[("user", "ann")][..], "", format!("shop_user_ann_{start}")),
        (
            &[("ip", "1.2.3.4"), ("path", "/x_y")],
            "",
            format!("shop_ip_1.2.3.4_path_/x_y_{start}"),
        ),
        (&[("file", "a/b")], "", format!("shop_file_a/*_{start}")),
        (&[("empty", "")], "", format!("shop_empty__{start}")),
        // A limit that the request brings: no rule has this value.
        (&[("other", "x")], limit, format!("shop_other_x_{start}")),
    ] {
        let mut passed = 0;
        for turn in 0..60 {
            let it_passes = match turn % 3 {
                2 => passes_there(&redis, &key),
                one => passes(&ours[one], entries, limit),
            };
            passed += usize::from(it_passes);
            assert_eq!(it_passes, turn < LIMIT, "{key}, hit {turn}");
        }
        assert_eq!(passed, LIMIT, "{key}");
        // Refused hits count here as they do there.
        assert_eq!(redis.command(&["GET", &key]).trim(), "60");
    }
    let keys = redis.command(&["KEYS", "shop*"]);
    assert_eq!(keys.lines().count(), 5, "{keys}");
}

/// Whoever comes first and whoever comes last finds what was counted.
#[test]
fn one_takes_over_from_the_other_and_gives_back() {
    let redis = Server::plain();
    let key = format!("shop_user_bob_{}", window_start(YEAR));
    for _ in 0..10 {
        assert!(passes_there(&redis, &key));
    }
    let ours = in_its_place(&redis, &[]);
    for _ in 0..15 {
        assert!(passes(&ours, &[("user", "bob")], ""));
    }
    assert!(ours.end(Duration::from_secs(20)).is_some());
    let left: Vec<bool> = (0..7).map(|_| passes_there(&redis, &key)).collect();
    assert_eq!(left, [true, true, true, true, true, false, false]);
    // It lives no shorter and no longer than the reference has it live.
    let key = format!("shop_user_eve_{}", window_start(YEAR));
    let ours = in_its_place(&redis, &[]);
    assert!(passes(&ours, &[("user", "eve")], ""));
    let lives: u64 = redis
        .command(&["TTL", &key])
        .trim()
        .parse()
        .expect("a number");
    assert!((YEAR - 60..YEAR + 300).contains(&lives), "{lives}");
}

#[test]
fn the_local_cache_is_off_as_it_is_there_unless_it_is_given_a_size() {
    let redis = Server::plain();
    let start = window_start(YEAR);
    let off = in_its_place(&redis, &[]);
    let on = in_its_place(&redis, &["--local-cache-size-in-bytes", "1000000"]);
    for (server, name, counted) in [(&off, "off", "40"), (&on, "on", "30")] {
        let key = format!("shop_user_{name}_{start}");
        for turn in 0..40 {
            assert_eq!(passes(server, &[("user", name)], ""), turn < 30);
        }
        assert_eq!(redis.command(&["GET", &key]).trim(), counted, "{name}");
        // A counter that an operator takes away is seen to be gone at once,
        // or not, as there.
        redis.command(&["DEL", &key]);
        assert_eq!(passes(server, &[("user", name)], ""), name == "off");
    }
}

#[test]
fn health_follows_the_connection_where_that_is_asked_for() {
    let mut redis = Server::plain();
    let follows = in_its_place(&redis, &["--redis-health-check-active-connection"]);
    let remembers = in_its_place(&redis, &[]);
    let health = |server: &process::Server| server.http("GET", "/healthcheck", "").0;
    let over_grpc = |server: &process::Server| {
        let address = server.grpc.to_string();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(serving(&address))
    };
    assert!(over_grpc(&follows));
    redis.kill();
    wait_until("failing health", || health(&follows) == 500);
    wait_until("failing health over gRPC", || !over_grpc(&follows));
    assert_eq!(health(&remembers), 200);
    redis.restart();
    wait_until("health", || health(&follows) == 200);
    wait_until("health over gRPC", || over_grpc(&follows));
}

async fn serving(address: &str) -> bool {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = channel
        .expect("an address")
        .connect()
        .await
        .expect("a server");
    let request = HealthCheckRequest {
        service: "ratelimit".to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await;
    answer.expect("an answer").into_inner().status() == ServingStatus::Serving
}

#[test]
fn a_start_that_never_reaches_redis_ends_when_it_is_told_to() {
    let started = |variables: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
            .args(["serve", "--compat", "--grpc-addr", "127.0.0.1:0"])
            .args(["--http-addr", "127.0.0.1:0", "--redis-url", "/nowhere"])
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .expect("it runs")
    };
    let output = started(&[("REDIS_STARTUP_MAX_ELAPSED_TIME", "100ms")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("has not been reached within 100ms"), "{told}");
}
