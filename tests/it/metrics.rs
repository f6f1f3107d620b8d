//! What the process tells of itself: `/metrics`, the reference's statistics
//! for Prometheus, statsd and DogStatsD, and the debug listener.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use prost::Message as _;
use ratekeeper::{
    catalogue::METRICS,
    proto::{
        envoy::service::ratelimit::v3::{
            RateLimitRequest, rate_limit_service_client::RateLimitServiceClient,
        },
        perftools::profiles::Profile,
    },
};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{
    process::{Server, http},
    redis::servers::{Server as Redis, wait_until},
};

const RULES: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 2, unit: hour}
  - key: ip
    descriptors:
      - key: path
        value: /login
        rate_limit: {requests_per_unit: 5, unit: minute}
  - key: account
    value_to_metric: true
    rate_limit: {requests_per_unit: 5, unit: minute}
";

/// Asks over `/json`; each descriptor is a list of `key=value`.
fn ask(server: &Server, domain: &str, entries: &[&str]) -> u16 {
    let entries = entries.iter().map(|entry| {
        let (key, value) = entry.split_once('=').unwrap();
        json!({"key": key, "value": value})
    });
    let descriptor = json!({"entries": entries.collect::<Vec<_>>()});
    let request = json!({"domain": domain, "descriptors": [descriptor]});
    server.http("POST", "/json", &request.to_string()).0
}

fn ask_all(server: &Server) {
    for expected in [200, 200, 429] {
        assert_eq!(ask(server, "shop", &["user=ann"]), expected);
    }
    ask(server, "shop", &["ip=10.0.0.1", "path=/login"]);
    ask(server, "shop", &["account=a:7|c"]);
    ask(server, "nope", &["user=ann"]);
}

fn text(address: SocketAddr, path: &str) -> String {
    let (status, text) = http(address, "GET", path, "");
    assert_eq!(status, 200, "{path}: {text}");
    text
}

/// Names of the metrics in a text.
fn names(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split(' ').next()).collect()
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|it| it == *line), "{line}\n{text}");
    }
}

#[test]
fn our_own_metrics_tell_everything() {
    let server = Server::start(RULES, &[]);
    ask_all(&server);
    let told = text(server.http, "/metrics");
    assert_lines(
        &told,
        &[
            r#"ratekeeper_decisions_total{domain="shop",rule="user",outcome="ok"} 2"#,
            r#"ratekeeper_decisions_total{domain="shop",rule="user",outcome="over_limit"} 1"#,
            r#"ratekeeper_hits_total{domain="shop",rule="user",kind="total"} 3"#,
            r#"ratekeeper_hits_total{domain="shop",rule="ip.path_/login",kind="within_limit"} 1"#,
            r#"ratekeeper_hits_total{domain="shop",rule="account_a:7|c",kind="total"} 1"#,
            r#"ratekeeper_rule_limit{domain="shop",rule="user",unit="hour"} 2"#,
            r#"ratekeeper_rule_utilization_ratio{domain="shop",rule="user"} 1"#,
            r#"ratekeeper_requests_total{protocol="http",code="OK"} 6"#,
            r#"ratekeeper_request_duration_seconds_count{protocol="http"} 6"#,
            "ratekeeper_domain_not_found_total 1",
            r#"ratekeeper_rules_loads_total{outcome="success"} 1"#,
            "ratekeeper_memory_counters 3",
            r#"ratekeeper_store_up{store="memory"} 1"#,
        ],
    );
    assert!(text(server.http, "/metrics").contains("process_resident_memory_bytes "));
}

#[test]
fn what_is_beyond_the_bound_is_counted_each_time() {
    let server = Server::start(RULES, &["--max-metric-series", "1"]);
    ask(&server, "shop", &["user=ann"]);
    for _ in 0..3 {
        ask(&server, "shop", &["ip=10.0.0.1", "path=/login"]);
    }
    let told = text(server.http, "/metrics");
    let beyond = r#"ratekeeper_decisions_total{domain="shop",rule="__overflow__",outcome="ok"} 3"#;
    assert_lines(
        &told,
        &[beyond, "ratekeeper_metric_series_overflow_total 3"],
    );
    let limits = told.matches("\nratekeeper_rule_limit{").count();
    assert_eq!(limits, 1, "{told}");
}

#[tokio::test]
async fn calls_that_there_is_no_room_for_are_counted() {
    let redis = Redis::plain();
    let store = redis.address();
    let server = Server::start(RULES, &["--store", &store, "--max-buffered-bytes", "1"]);
    let address = format!("http://{}", server.grpc);
    let mut client = RateLimitServiceClient::connect(address).await.unwrap();
    let request = RateLimitRequest {
        domain: "shop".to_owned(),
        ..RateLimitRequest::default()
    };
    let refused = client.should_rate_limit(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let told = tokio::task::spawn_blocking(move || text(server.http, "/metrics")).await;
    let line = r#"ratekeeper_requests_total{protocol="grpc",code="RESOURCE_EXHAUSTED"} 1"#;
    assert_lines(&told.unwrap(), &[line]);
}

#[test]
fn no_series_is_told_twice() {
    let rules = "
domain: shop
descriptors:
  - key: user
    rate_limits:
      - {requests_per_unit: 20, unit: minute}
      - {requests_per_unit: 10, unit: minute, algorithm: token_bucket}
  - {key: a.b, rate_limit: {requests_per_unit: 7, unit: minute}}
  - key: a
    descriptors: [{key: b, rate_limit: {requests_per_unit: 8, unit: minute}}]
";
    let server = Server::start(rules, &[]);
    ask(&server, "shop", &["user=ann"]);
    ask(&server, "shop", &["a.b=1"]);
    ask(&server, "shop", &["a=1", "b=1"]);
    let told = text(server.http, "/metrics");
    let samples = told.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<&str> = samples
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect();
    series.sort_unstable();
    let all = series.len();
    series.dedup();
    assert_eq!(series.len(), all, "{told}");
    for (rule, least) in [("user", 10), ("a.b", 7)] {
        let line = format!(
            r#"ratekeeper_rule_limit{{domain="shop",rule="{rule}",unit="minute"}} {least}"#
        );
        assert_lines(&told, &[&line]);
    }
}

/// Of the shipped policies: the share that is refused, how much of a limit is
/// used, and an address that is seen with too many teams.
#[test]
fn policies_are_told() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers/p4.yaml");
    let server = Server::start(&std::fs::read_to_string(path).unwrap(), &[]);
    for resend in 1..=25 {
        let status = ask(&server, "p4", &["team=a", "action=resend"]);
        assert_eq!(status == 429, resend > 20, "{resend}");
    }
    for team in 1..=12 {
        let team = format!("team={team}");
        assert_eq!(ask(&server, "p4", &["ip=10.0.0.1", &team]), 200);
    }
    let resend = r#"domain="p4",rule="team.action_resend""#;
    let teams = r#"domain="p4",rule="ip.team""#;
    assert_lines(
        &text(server.http, "/metrics"),
        &[
            &format!(r#"ratekeeper_decisions_total{{{resend},outcome="ok"}} 20"#),
            &format!(r#"ratekeeper_decisions_total{{{resend},outcome="over_limit"}} 5"#),
            &format!("ratekeeper_rule_utilization_ratio{{{resend}}} 1"),
            &format!(r#"ratekeeper_hits_total{{{teams},kind="flagged"}} 2"#),
        ],
    );
}

#[test]
fn every_metric_of_the_catalogue_is_told_and_no_other() {
    let redis = Redis::plain();
    let patient = ["--store-timeout", "5s"];
    let store = ["--store", &redis.address()];
    let server = Server::start(RULES, &[store, patient].concat());
    ask_all(&server);
    let told = text(server.http, "/metrics");
    let mut told = names(&told);
    told.retain(|name| !name.starts_with("process_"));
    let expected = METRICS.iter().map(|(name, _)| *name);
    // Rules come from a file here, and nothing is encrypted, closed or
    // traced: tests of these see the others.
    let elsewhere = ["_xds_", "_tls_", "_closed_", "_trace_"];
    let expected = expected.filter(|name| !elsewhere.iter().any(|it| name.contains(it)));
    assert_eq!(told, expected.collect::<Vec<_>>());
    let told = text(server.http, "/metrics");
    let charges = told
        .lines()
        .find_map(|line| line.strip_prefix("ratekeeper_store_charges_total{store=\"main\"} "));
    assert!(
        charges.is_some_and(|count| count.parse::<u64>().unwrap() >= 4),
        "{told}"
    );
}

#[test]
fn the_documentation_lists_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = rows
        .filter_map(|row| row.split('`').next())
        .map(|name| name.split('{').next().unwrap_or(name))
        .filter(|name| name.starts_with("ratekeeper_"))
        .collect();
    let expected: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, expected);
}

#[test]
fn the_references_dashboards_find_their_metrics() {
    let variables = [
        ("USE_PROMETHEUS", "true"),
        ("PROMETHEUS_ADDR", "127.0.0.1:0"),
        ("PROMETHEUS_PATH", "/prom"),
        (
            "PROMETHEUS_MAPPER_YAML",
            "/etc/statsd-exporter/missing.yaml",
        ),
        ("EXTRA_TAGS", "env:prod"),
    ];
    let server = Server::compat(RULES, &variables);
    ask_all(&server);
    let told = text(server.listens("Prometheus"), "/prom");
    let hits = "ratelimit_service_rate_limit_total_hits";
    assert_lines(
        &told,
        &[
            &format!(r#"{hits}{{domain="shop",env="prod",key1="user"}} 3"#),
            &format!(r#"{hits}{{domain="shop",env="prod",key1="ip",key2="path_/login"}} 1"#),
            &format!(r#"{hits}{{domain="shop",env="prod",key1="account_a_7_c"}} 1"#),
            r#"ratelimit_service_rate_limit_over_limit{domain="shop",env="prod",key1="user"} 1"#,
            r#"ratelimit_service_config_load_success{env="prod"} 1"#,
            r#"ratelimit_service_should_rate_limit_error{env="prod",err_type="redis_error"} 0"#,
            r#"ratelimit_service_rate_limit_nope_domain_not_found{env="prod"} 1"#,
            r#"ratelimit_service_total_requests{env="prod",grpc_method="ShouldRateLimit"} 0"#,
        ],
    );
    // Our own are there as well.
    assert!(text(server.http, "/metrics").contains("ratekeeper_build_info"));
}

#[test]
fn the_debug_listener_shows_rules_and_statistics() {
    let server = Server::compat(RULES, &[]);
    ask_all(&server);
    let debug = server.listens("debugging");
    assert!(debug.ip().is_loopback());
    assert_eq!(
        text(debug, "/rlconfig"),
        "shop.account: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false\n\
         shop.ip.path_/login: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false\n\
         shop.user: unit=HOUR requests_per_unit=2, shadow_mode: false, quota_mode: false\n"
    );
    let rate_limit = "ratelimit.service.rate_limit";
    assert_lines(
        &text(debug, "/stats"),
        &[
            &format!("{rate_limit}.shop.user.total_hits: 3"),
            &format!("{rate_limit}.shop.user.over_limit: 1"),
            &format!("{rate_limit}.shop.ip.path_/login.within_limit: 1"),
            &format!("{rate_limit}.nope.domain_not_found: 1"),
            "ratelimit.service.config_load_success: 1",
        ],
    );
    let listed = text(debug, "/whatever");
    assert!(
        listed.contains("/rlconfig: print out the currently loaded"),
        "{listed}"
    );
}

#[test]
fn a_profile_is_in_pprofs_format() {
    let debug = ["--debug-addr", "127.0.0.1:0"];
    let server = Server::start(RULES, &debug);
    let path = "/debug/pprof/profile?seconds=1";
    let (status, said) = http(server.listens("debugging"), "GET", path, "");
    assert_eq!((status, said.contains("--debug-profile")), (403, true));

    let server = Server::start(RULES, &[&debug[..], &["--debug-profile"]].concat());
    let mut stream = TcpStream::connect(server.listens("debugging")).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    // Something to sample.
    for _ in 0..200 {
        ask(&server, "shop", &["user=ann"]);
    }
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{:?}", &answer[..end]);
    let profile = Profile::decode(&answer[end..]).unwrap();
    assert_eq!(
        profile.string_table[1..5],
        ["samples", "count", "cpu", "nanoseconds"]
    );
    let locations: Vec<u64> = profile.location.iter().map(|it| it.id).collect();
    let mut used = profile.sample.iter().flat_map(|it| &it.location_id);
    assert!(used.all(|id| locations.contains(id)));
    assert!(profile.sample.iter().all(|it| it.value.len() == 2));
}

#[test]
fn who_does_not_read_an_answer_is_closed() {
    // More than what the system holds between the two.
    let mut rules = "domain: d\ndescriptors:\n".to_owned();
    for rule in 0..20_000 {
        rules += &format!(
            "- {{key: k, value: v{rule}, rate_limit: {{unit: day, requests_per_unit: 1}}}}\n"
        );
    }
    let server = Server::start(&rules, &["--call-timeout", "6s"]);
    let mut readers = vec![];
    for _ in 0..3 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.connect(&server.http.into()).unwrap();
        let mut reader = TcpStream::from(socket);
        write!(reader, "GET /rules HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut begins = [0; 15];
        reader.read_exact(&mut begins).unwrap();
        assert_eq!(&begins, b"HTTP/1.1 200 OK");
        readers.push(reader);
    }
    wait_until("only we are connected", || {
        let told = text(server.http, "/metrics");
        told.contains("ratekeeper_connections{listener=\"http\"} 1\n")
    });
}

#[test]
fn statistics_go_to_a_statsd_daemon() {
    let daemon = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = daemon.local_addr().unwrap().port().to_string();
    let variables = [
        ("USE_STATSD", "true"),
        ("STATSD_HOST", "127.0.0.1"),
        ("STATSD_PORT", &port),
        ("STATS_FLUSH_INTERVAL", "200ms"),
        ("EXTRA_TAGS", "env:prod,az:a"),
    ];
    let server = Server::compat(RULES, &variables);
    ask_all(&server);
    let (stream, _) = daemon.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let wanted = "ratelimit.service.rate_limit.shop.user.total_hits.__az=a.__env=prod:";
    let mut hits = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(value) = line.strip_prefix(wanted) {
            hits += value.strip_suffix("|c").unwrap().parse::<u64>().unwrap();
        }
        if hits == 3 {
            break;
        }
    }
    assert_eq!(hits, 3);
}

#[test]
fn statistics_go_to_dogstatsd_with_tags() {
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let port = daemon.local_addr().unwrap().port().to_string();
    let variables = [
        ("USE_DOG_STATSD", "true"),
        ("STATSD_HOST", "127.0.0.1"),
        ("STATSD_PORT", &port),
        ("STATS_FLUSH_INTERVAL", "200ms"),
        ("EXTRA_TAGS", "env:prod"),
        ("USE_DOG_STATSD_MOGRIFIERS", "HITS"),
        (
            "DOG_STATSD_MOGRIFIER_HITS_PATTERN",
            r"^ratelimit\.service\.rate_limit\.([^.]+)\.([^.]+)\.(.+)$",
        ),
        ("DOG_STATSD_MOGRIFIER_HITS_NAME", "ratelimit.$3"),
        ("DOG_STATSD_MOGRIFIER_HITS_TAGS", "domain:$1,descriptor:$2"),
    ];
    let server = Server::compat(RULES, &variables);
    ask_all(&server);
    let wanted = "|c|#env:prod,domain:shop,descriptor:user";
    let mut hits = 0;
    while hits < 3 {
        let mut packet = [0; 2_000];
        let bytes = daemon.recv(&mut packet).unwrap();
        let packet = std::str::from_utf8(&packet[..bytes]).unwrap();
        let lines = packet.lines().filter(|line| line.ends_with(wanted));
        let counts = lines.filter_map(|line| line.strip_prefix("ratelimit.total_hits:"));
        let counts = counts.map(|rest| rest.strip_suffix(wanted).unwrap());
        hits += counts
            .map(|count| count.parse::<u64>().unwrap())
            .sum::<u64>();
    }
    assert_eq!(hits, 3);
}
