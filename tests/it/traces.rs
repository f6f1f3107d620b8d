//! Traces: what callers say is heeded, and what happens is told, to a
//! collector that speaks OTLP.

pub(crate) mod collector;
pub(crate) mod service;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{net::TcpListener, time::Instant};

use self::{
    collector::{Collector, Pair, Sent},
    service::Service,
};
use crate::{process, redis::servers, support::local};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {unit: hour, requests_per_unit: 1000000}
  - key: few
    rate_limit: {unit: hour, requests_per_unit: 1}
";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const CALL: &str = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const DECISION: &str = "ShouldRateLimit Execution";
const WAIT: &str = "Wait for Store";
const FLUSH: &str = "Redis Pipeline Execution";

type Variables<'v> = &'v [(&'v str, &'v str)];

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'s>(sent: &'s [Sent], name: &str) -> Vec<&'s Sent> {
    sent.iter().filter(|sent| sent.span.name == name).collect()
}

/// A service that sends traces there soon.
async fn traced(endpoint: &str, variables: &[(&str, &str)], flags: &[&str]) -> Service {
    let usual = [
        ("TRACING_ENABLED", "true"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
    ];
    let variables = [&usual, variables].concat();
    Service::start(RULES, flags, &variables).await
}

// === what callers say ===

#[tokio::test]
async fn the_callers_trace_goes_on() {
    let collector = Collector::grpc(None).await;
    let endpoint = format!("http://{}", collector.address);
    let grpc = [("TRACING_EXPORTER_PROTOCOL", "grpc")];
    // A caller that records its trace is believed, whatever the rate.
    let rate = ["--tracing-sampling-rate", "0"];
    let service = traced(&endpoint, &grpc, &rate).await;
    let mut client = service.client().await;
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let single = format!("{TRACE}-{SPAN}-1");
    let ways: [&[(&str, &str)]; 3] = [
        &[("traceparent", &traceparent), ("tracestate", "a=1,b=2")],
        &[("b3", &single)],
        &[
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "1"),
        ],
    ];
    for headers in ways {
        client.ask("user", "ann", headers).await;
    }
    // One that does not is believed, too; and nobody has said anything here.
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    client
        .ask("user", "ann", &[("traceparent", &unsampled)])
        .await;
    client.ask("user", "ann", &[("b3", "0")]).await;
    client.ask("user", "ann", &[]).await;
    let (_, told) = process::http(service.http, "GET", "/metrics", "");
    for what in ["", "_dropped", "_exported", "_failed"] {
        let name = format!("\nratekeeper_trace_spans{what}_total ");
        assert!(told.contains(&name), "{name}\n{told}");
    }
    let (status, ..) = service.end().await;
    assert!(status.success());
    let sent = collector.sent();
    let calls = named(&sent, CALL);
    assert_eq!(calls.len(), ways.len(), "{calls:#?}");
    for call in &calls {
        assert_eq!(hex(&call.span.trace_id), TRACE);
        assert_eq!(hex(&call.span.parent_span_id), SPAN);
        assert_eq!(call.span.kind, 2, "a server's");
    }
    assert_eq!(calls[0].span.trace_state, "a=1,b=2");
    assert_eq!(calls[1].span.trace_state, "");
}

#[tokio::test]
async fn the_rate_decides_for_callers_that_say_nothing() {
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    for (rate, said, expected) in [("1", None, 1), ("1", Some(&unsampled), 0), ("0", None, 0)] {
        let collector = Collector::http(None).await;
        let endpoint = format!("http://{}", collector.address);
        let service = traced(&endpoint, &[("TRACING_SAMPLING_RATE", rate)], &[]).await;
        let headers: Vec<(&str, &str)> = said
            .iter()
            .map(|said| ("traceparent", said.as_str()))
            .collect();
        service.client().await.ask("user", "ann", &headers).await;
        service.end().await;
        let sent = collector.sent();
        assert_eq!(named(&sent, CALL).len(), expected, "{rate} {said:?}");
        assert!(
            named(&sent, CALL)
                .iter()
                .all(|call| call.span.parent_span_id.is_empty())
        );
    }
}

// === what is told ===

#[tokio::test]
async fn a_calls_spans_hang_on_each_other_and_tell_no_values() {
    let collector = Collector::http(None).await;
    let endpoint = format!("http://{}", collector.address);
    let service = traced(&endpoint, &[], &[]).await;
    let mut client = service.client().await;
    client.ask("few", "secret", &[]).await;
    client.ask("few", "secret", &[]).await;
    let body = r#"{"domain":"d","descriptors":[{"entries":[{"key":"few","value":"secret"}]}]}"#;
    assert_eq!(process::http(service.http, "POST", "/json", body).0, 429);
    process::http(service.http, "POST", "/json", "nonsense");
    service.end().await;
    let sent = collector.sent();
    let (calls, decisions) = (named(&sent, CALL), named(&sent, DECISION));
    assert_eq!((calls.len(), decisions.len()), (2, 3), "{sent:#?}");
    for (name, key, value, times) in [
        (CALL, "rpc.system", "grpc", 2),
        (CALL, "rpc.method", "ShouldRateLimit", 2),
        (CALL, "rpc.grpc.status_code", "0", 2),
        (DECISION, "domain", "d", 3),
        (DECISION, "descriptors", "1", 3),
        (DECISION, "code", "OK", 1),
        (DECISION, "code", "OVER_LIMIT", 2),
        ("/json", "http.response.status_code", "429", 1),
        ("/json", "http.response.status_code", "400", 1),
    ] {
        let has = |sent: &&&Sent| sent.attributes().get(key).is_some_and(|it| it == value);
        let found = named(&sent, name).iter().filter(has).count();
        assert_eq!(found, times, "{name} {key} {value}");
    }
    // One below the other, each within the one above it.
    for (below, above) in [("Match Rules", DECISION), (WAIT, DECISION)] {
        let below = named(&sent, below);
        assert_eq!(below.len(), 3);
        for span in below {
            let parent = &span.span.parent_span_id;
            let above = named(&sent, above);
            let above = above.iter().find(|it| it.span.span_id == *parent).unwrap();
            assert_eq!(above.span.trace_id, span.span.trace_id);
            assert!(above.span.start_time_unix_nano <= span.span.start_time_unix_nano);
            assert!(above.span.end_time_unix_nano >= span.span.end_time_unix_nano);
        }
    }
    assert!(!format!("{sent:?}").contains("secret"));
}

#[tokio::test]
async fn values_are_told_where_that_is_asked_for() {
    let collector = Collector::http(None).await;
    let endpoint = format!("http://{}", collector.address);
    let service = traced(&endpoint, &[], &["--tracing-values"]).await;
    service.client().await.ask("user", "a\"n\n", &[]).await;
    service.end().await;
    let sent = collector.sent();
    assert_eq!(
        named(&sent, DECISION)[0].attributes()["request string"],
        r#"domain:"d" descriptors:{entries:{key:"user" value:"a\"n\n"} hits_addend:{value:1}}"#
    );
}

#[tokio::test]
async fn a_resource_says_who_sends() {
    let told: [(Variables<'_>, [Option<&str>; 4]); 4] = [
        (&[], [Some("RateLimit"), None, None, None]),
        (
            &[
                ("OTEL_SERVICE_NAME", "standard"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=third,cell=7"),
            ],
            [Some("standard"), None, None, Some("7")],
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "service.name=third,cell=7")],
            [Some("third"), None, None, Some("7")],
        ),
        (
            &[
                ("OTEL_SERVICE_NAME", "standard"),
                ("TRACING_SERVICE_NAME", "envoy-ratelimit"),
                ("TRACING_SERVICE_NAMESPACE", "edge"),
                ("TRACING_SERVICE_INSTANCE_ID", "pod-1"),
            ],
            [Some("envoy-ratelimit"), Some("edge"), Some("pod-1"), None],
        ),
    ];
    for (variables, [name, namespace, instance, cell]) in told {
        let collector = Collector::grpc(None).await;
        let endpoint = format!("http://{}", collector.address);
        let headers = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=val"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        let variables = [&headers, variables].concat();
        let service = traced(&endpoint, &variables, &[]).await;
        service.client().await.ask("user", "ann", &[]).await;
        service.end().await;
        let sent = collector.sent();
        let resource = &sent[0].resource;
        let get = |key: &str| resource.get(key).map(String::as_str);
        assert_eq!(get("service.name"), name);
        assert_eq!(get("service.namespace"), namespace);
        assert_eq!(get("cell"), cell);
        match instance {
            Some(_) => assert_eq!(get("service.instance.id"), instance),
            None => assert_eq!(get("service.instance.id").unwrap().len(), 36),
        }
        assert_eq!(sent[0].headers["x-key"], "val");
    }
}

#[tokio::test]
async fn the_collector_may_speak_tls() {
    let (pair, folder) = (Pair::make(), tempfile::tempdir().unwrap());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &pair.certificate).unwrap();
    let http = Collector::http(Some(&pair)).await;
    let grpc = Collector::grpc(Some(&pair)).await;
    for (collector, protocol) in [(http, "http"), (grpc, "grpc")] {
        let endpoint = format!("https://localhost:{}", collector.address.port());
        let variables = [
            ("TRACING_EXPORTER_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.to_str().unwrap()),
        ];
        let service = traced(&endpoint, &variables, &[]).await;
        service.client().await.ask("user", "ann", &[]).await;
        collector.wait_for(CALL).await;
    }
}

// === the store's work ===

#[tokio::test]
async fn a_flush_and_the_calls_it_serves_link_to_each_other() {
    let redis = servers::Server::plain();
    let collector = Collector::grpc(None).await;
    let endpoint = format!("http://{}", collector.address);
    let grpc = [("TRACING_EXPORTER_PROTOCOL", "grpc")];
    let store = redis.address();
    let flags = ["--store", &store, "--store-timeout", "5s", "--workers", "1"];
    let service = traced(&endpoint, &grpc, &flags).await;
    let client = service.client().await;
    let calls = (0..50).map(|number| {
        let mut client = client.clone();
        async move { client.ask("user", &number.to_string(), &[]).await }
    });
    join_all(calls).await;
    // Calls that are not traced are flushed without a word.
    let flushes = named(&collector.wait_for(FLUSH).await, FLUSH).len();
    assert!(flushes > 0);
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let mut client = service.client().await;
    client
        .ask("user", "x", &[("traceparent", &unsampled)])
        .await;
    service.end().await;
    let sent = collector.sent();
    let (waits, flushes) = (named(&sent, WAIT), named(&sent, FLUSH));
    assert_eq!(waits.len(), 50);
    assert!(flushes.len() < 50, "calls share flushes: {}", flushes.len());
    for wait in &waits {
        let serving: Vec<_> = flushes
            .iter()
            .filter(|flush| flush.linked().contains(&wait.span.span_id.as_slice()))
            .collect();
        assert_eq!(serving.len(), 1);
        assert_eq!(wait.linked(), [serving[0].span.span_id.as_slice()]);
        assert_ne!(wait.span.trace_id, serving[0].span.trace_id);
        assert!(serving[0].span.parent_span_id.is_empty());
    }
    let linked: usize = flushes.iter().map(|flush| flush.linked().len()).sum();
    assert_eq!(linked, 50);
    let charges = |flush: &&Sent| flush.attributes()["charges"].parse::<usize>().unwrap();
    assert_eq!(flushes.iter().map(charges).sum::<usize>(), 50);
    assert!(
        flushes[0].attributes()["pipeline length"]
            .parse::<u32>()
            .unwrap()
            >= 1
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_told() {
    let collector = Collector::http(None).await;
    let endpoint = format!("http://{}", collector.address);
    let flags = [
        "--store",
        "redis://127.0.0.1:1",
        "--on-store-failure",
        "deny",
    ];
    let service = traced(&endpoint, &[], &flags).await;
    service.client().await.ask("user", "ann", &[]).await;
    service.end().await;
    let sent = collector.sent();
    let status = named(&sent, WAIT)[0].span.status.clone().unwrap();
    assert_eq!(status.code, 2, "{status:?}");
    assert_eq!(named(&sent, DECISION)[0].attributes()["code"], "OVER_LIMIT");
}

// === a collector that is not there ===

/// What is asked of a service while its collector is no help.
async fn unhelped(endpoint: &str, protocol: &str) {
    let variables = [
        ("TRACING_EXPORTER_PROTOCOL", protocol),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16"),
    ];
    let service = traced(endpoint, &variables, &[]).await;
    let mut client = service.client().await;
    let mut longest = Duration::ZERO;
    for _ in 0..500 {
        let asked = Instant::now();
        client.ask("user", "ann", &[]).await;
        longest = longest.max(asked.elapsed());
    }
    // Less than any time-out of an exporter.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let (status, took, log) = service.end().await;
    assert!(status.success());
    assert!(took < Duration::from_secs(8), "{took:?}");
    println!("{protocol} {endpoint}: longest {longest:?}, ended in {took:?}\n{log}");
}

#[tokio::test]
async fn a_collector_that_is_dead_slows_nobody() {
    for protocol in ["http", "grpc"] {
        unhelped("http://127.0.0.1:1", protocol).await;
    }
}

#[tokio::test]
async fn a_collector_that_hangs_slows_nobody() {
    // The operating system takes connections in; nobody answers.
    let listener = TcpListener::bind(local(0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::join!(unhelped(&endpoint, "http"), unhelped(&endpoint, "grpc"));
}

#[tokio::test]
async fn settings_that_are_no_good_are_refused() {
    let on = ("TRACING_ENABLED", "true");
    for (variable, said) in [
        (("TRACING_EXPORTER_PROTOCOL", "udp"), "udp"),
        (("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), "http/json"),
        (("TRACING_SAMPLING_RATE", "many"), "many"),
        (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b"), "endpoint"),
        (
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
            "/nowhere.pem",
        ),
    ] {
        let tls = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://x:1");
        let mut variables = vec![on, variable];
        if variable.0 == "OTEL_EXPORTER_OTLP_CERTIFICATE" {
            variables.push(tls);
        }
        let (status, log) = Service::fails(&[], &variables).await;
        assert!(!status.success(), "{variable:?}");
        assert!(log.to_lowercase().contains(said), "{variable:?}: {log}");
    }
}
