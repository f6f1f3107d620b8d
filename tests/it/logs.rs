//! The log of the running process: its formats, its level, and refusals in it.

use std::time::Duration;

use ratekeeper::proto::envoy::service::ratelimit::v3::rate_limit_response::Code;
use tokio::time::Instant;

use crate::{
    process,
    support::wait_for,
    traces::service::{Client, Service},
};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {unit: hour, requests_per_unit: 0}
  - key: path
    value: /files/*
    rate_limit: {unit: day, requests_per_unit: 0, name: files}
";
const DEBUG: [&str; 2] = ["--debug-addr", "127.0.0.1:0"];

/// Calls that are all refused.
async fn refused(client: &mut Client, calls: usize) {
    for _ in 0..calls {
        let answer = client.ask("user", "secret", &[]).await;
        assert_eq!(answer.overall_code(), Code::OverLimit);
    }
}

/// With a 0 for each digit: times and ports differ.
fn masked(line: &str) -> String {
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    line.chars().map(digit).collect()
}

// === formats ===

#[tokio::test]
async fn the_process_logs_as_the_reference_does_in_compat_mode() {
    let loaded = "Successfully loaded new configuration";
    for (format, expected) in [
        (
            "text",
            format!(r#"time="0000-00-00T00:00:00Z" level=info msg="{loaded}" domains=0"#),
        ),
        (
            "JSON",
            format!(
                r#"{{"@message":"{loaded}","@timestamp":"0000-00-00T00:00:00.000000000Z","domains":0,"level":"info"}}"#
            ),
        ),
    ] {
        let variables = [("LOG_LEVEL", "Info"), ("LOG_FORMAT", format)];
        let statsd = ["--compat", "--disable-stats", DEBUG[0], DEBUG[1]];
        let service = Service::start(RULES, &statsd, &variables).await;
        let (_, _, log) = service.end().await;
        let line = log.lines().find(|line| line.contains(loaded));
        assert_eq!(masked(line.expect(&log)), expected);
    }
}

#[tokio::test]
async fn a_log_that_is_no_terminal_has_no_colours() {
    let service = Service::start(RULES, &[], &[]).await;
    let (_, _, log) = service.end().await;
    assert_eq!(
        masked(log.lines().next().unwrap()),
        "0000-00-00T00:00:00.000000Z  INFO Successfully loaded new configuration domains=0"
    );
}

// === refusals ===

#[tokio::test]
async fn refusals_are_logged_only_where_that_is_asked_for() {
    let service = Service::start(RULES, &["--log-level", "info"], &[]).await;
    refused(&mut service.client().await, 20).await;
    let (_, _, log) = service.end().await;
    assert!(!log.contains("refused"), "{log}");
}

#[tokio::test]
async fn a_share_of_the_refusals_is_logged_without_values() {
    let flags = ["--log-refusals", "2/10"];
    let service = Service::start(RULES, &flags, &[]).await;
    let mut client = service.client().await;
    refused(&mut client, 20).await;
    // Known to no rule: it passes, and is no refusal.
    client.ask("other", "secret", &[]).await;
    let (_, _, log) = service.end().await;
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused"))
        .collect();
    assert_eq!(lines.len(), 4, "{log}");
    let (_, said) = lines[0].split_once("rule=").unwrap();
    assert!(lines[0].contains("domain=d "), "{}", lines[0]);
    let (rule, at) = said.split_once(" at=").unwrap();
    assert_eq!(rule, r#""user""#);
    let (file, rest) = at.split_once(" limit=").unwrap();
    assert!(file.ends_with(r#"rules.yaml:4""#), "{file}");
    assert_eq!(rest, r#"0 per hour code="OVER_LIMIT""#);
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn values_are_logged_at_debug_or_where_that_is_asked_for() {
    let all = ["--log-refusals", "1/1"];
    for (more, level) in [
        (["--log-level=debug", "--log-values=false"], "DEBUG"),
        (["--log-level=info", "--log-values"], " INFO"),
    ] {
        let flags = [&all[..], &more].concat();
        let service = Service::start(RULES, &flags, &[]).await;
        let mut client = service.client().await;
        client.ask("path", "/files/a\nb", &[]).await;
        let (_, _, log) = service.end().await;
        let told: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("/files/a"))
            .collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains(level), "{log}");
        assert!(told[0].contains(r#"rule="path_/files/*""#), "{log}");
        assert!(told[0].contains("path=/files/a"), "{log}");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_is_no_flood_of_lines() {
    let flags = ["--log-refusals", "1/1", "--log-refusals-per-second", "5"];
    let service = Service::start(RULES, &flags, &[]).await;
    let mut client = service.client().await;
    let begun = Instant::now();
    refused(&mut client, 500).await;
    let seconds = begun.elapsed().as_secs() + 2;
    let (_, _, log) = service.end().await;
    let lines = log.lines().filter(|line| line.contains("refused")).count() as u64;
    assert!((5..=5 * seconds).contains(&lines), "{lines} in {seconds} s");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let flags = [
        "--log-refusals=1/1",
        "--log-refusals-per-second=1000000",
        "--log-values",
    ];
    let service = Service::start_unread(RULES, &flags).await;
    let mut client = service.client().await;
    // Several times what a pipe holds.
    let value = "x".repeat(1_000);
    for _ in 0..400 {
        client.ask("user", &value, &[]).await;
    }
    let (status, took, _) = service.end().await;
    assert!(status.success());
    // It waits a second for somebody to read what is left.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

// === the level ===

#[tokio::test]
async fn the_level_changes_while_it_runs() {
    let flags = [
        &DEBUG[..],
        &["--log-refusals", "1/1", "--log-level", "warn"],
    ]
    .concat();
    let service = Service::start(RULES, &flags, &[]).await;
    let debug = service.debug.unwrap();
    let mut client = service.client().await;
    let ask = async |method: &'static str, body: &'static str| {
        let asked = move || process::http(debug, method, "/log-level", body);
        tokio::task::spawn_blocking(asked).await.unwrap()
    };
    let level = |name: &str| (200, format!(r#"{{"level":"{name}"}}"#));
    assert_eq!(ask("GET", "").await, level("warn"));
    refused(&mut client, 3).await;
    assert_eq!(ask("POST", "info").await, level("info"));
    refused(&mut client, 2).await;
    let refusals = || service.log().matches("refused").count();
    wait_for("lines", async || (refusals() == 2).then_some(()))
        .await
        .unwrap();
    assert_eq!(ask("POST", "error").await, level("error"));
    refused(&mut client, 2).await;
    assert_eq!(ask("POST", "loud").await.0, 400);
    let (_, _, log) = service.end().await;
    assert_eq!(log.matches("refused").count(), 2, "{log}");
}
