//! config/providers behind a real Envoy, with the snippets that are shipped
//! for it: what a client sees is what the provider publishes.
//!
//! Windows go by the real time, so each may end once in a test: a limit is
//! reached after at least its requests, and before twice as many.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::lab::{Lab, Setup};
use crate::support::{Answer, Client};

type Headers<'a> = [(&'a str, &'a [u8])];

/// A provider's rules, and an Envoy with its snippet.
async fn provider(name: &str) -> anyhow::Result<(Lab, Client)> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let rules = fs::read_to_string(config.join(format!("providers/{name}.yaml")))?;
    let snippet = fs::read_to_string(config.join(format!("envoy/providers/{name}.yaml")))?;
    let snippet: Value = serde_yaml::from_str(&snippet).context("the snippet")?;
    let setup = Setup {
        rules: &rules,
        flags: &[],
        envoy_headers: false,
        routes: vec![("/", snippet)],
    };
    let lab = Lab::start(&setup).await?;
    let client = lab.client().await?;
    Ok((lab, client))
}

/// Asks until it is refused, which is after `limit` requests or more.
async fn until_refused(
    client: &Client,
    headers: &Headers<'_>,
    limit: usize,
) -> anyhow::Result<Answer> {
    for number in 0..=2 * limit {
        let answer = client.get("/", headers).await?;
        if answer.status != 200 {
            ensure!(answer.status == 429, "{answer:?}");
            ensure!(number >= limit, "refused after {number} of {limit}");
            return Ok(answer);
        }
    }
    anyhow::bail!(
        "{headers:?} is not refused after {} requests",
        2 * limit + 1
    )
}

async fn passes(client: &Client, headers: &Headers<'_>) -> anyhow::Result<Answer> {
    let answer = client.get("/", headers).await?;
    ensure!(answer.status == 200, "{headers:?}: {answer:?}");
    Ok(answer)
}

fn number(answer: &Answer, header: &str) -> anyhow::Result<u64> {
    let value = answer.header(header);
    value
        .parse()
        .with_context(|| format!("{header}: {value:?}"))
}

/// `Retry-After` of a refusal, which is no more than `window`.
fn retry_after(answer: &Answer, window: u64) -> anyhow::Result<u64> {
    let seconds = number(answer, "retry-after")?;
    ensure!((1..=window).contains(&seconds), "{seconds} of {window}");
    Ok(seconds)
}

/// `X-RateLimit-*` with a reset that is a time within `window` from now on.
fn legacy(answer: &Answer, limit: u64, window: u64) -> anyhow::Result<()> {
    ensure!(number(answer, "x-ratelimit-limit")? == limit, "{answer:?}");
    ensure!(number(answer, "x-ratelimit-remaining")? <= limit);
    #[allow(clippy::disallowed_methods, reason = "the server's clock is real, too")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let reset = number(answer, "x-ratelimit-reset")?;
    // A moment has passed since, and a reset within a second is told by the next.
    ensure!(
        (now.saturating_sub(30)..=now + window + 2).contains(&reset),
        "{reset} at {now}"
    );
    Ok(())
}

fn body(answer: &Answer) -> anyhow::Result<Value> {
    ensure!(
        answer.header("content-type") == "application/json",
        "{answer:?}"
    );
    Ok(serde_json::from_slice(&answer.body)?)
}

#[tokio::test]
async fn p0_is_as_published() -> anyhow::Result<()> {
    let (lab, client) = provider("p0").await?;
    // P0.1 and P0.2.
    let refused = until_refused(&client, &[("x-to-number", b"+49170")], 3).await?;
    retry_after(&refused, 300)?;
    ensure!(refused.body.is_empty());
    // P0.3: the retry passes and counts nowhere.
    let key = |key: &'static [u8]| {
        [
            ("x-to-number", b"+49171".as_slice()),
            ("x-api-key", b"a"),
            ("x-idempotency-key", key),
        ]
    };
    for _ in 0..10 {
        passes(&client, &key(b"x")).await?;
    }
    until_refused(&client, &[("x-to-number", b"+49171")], 2).await?;
    passes(&client, &key(b"x")).await?;
    // P0.4: the same contact again and again counts once.
    let contact = |tier: &'static [u8]| {
        [
            ("x-tier", tier),
            ("x-sender", b"s".as_slice()),
            ("x-contact", b"c"),
        ]
    };
    for tier in [b"1000".as_slice(), b"10000", b"100000", b"unlimited"] {
        passes(&client, &contact(tier)).await?;
    }
    // P0.5.
    let message =
        |direction: &'static [u8]| [("x-contact", b"c".as_slice()), ("x-direction", direction)];
    let closed = client.get("/", &message(b"outbound")).await?;
    ensure!(closed.status == 429, "{closed:?}");
    passes(&client, &message(b"inbound")).await?;
    passes(&client, &message(b"outbound")).await?;
    // P0.6.
    passes(&client, &[("x-account", b"acme")]).await?;
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn p1_is_as_published() -> anyhow::Result<()> {
    let (lab, client) = provider("p1").await?;
    // P1.1, P1.2, P1.5: both limits of a plan, headers on every answer.
    let sandbox: &Headers<'_> = &[("x-api-key", b"gsk_test_1")];
    legacy(&passes(&client, sandbox).await?, 10, 1)?;
    let refused = until_refused(&client, sandbox, 9).await?;
    legacy(&refused, 10, 1)?;
    let seconds = retry_after(&refused, 1)?;
    let expected = json!({
        "statusCode": 429,
        "message": "Rate limit exceeded for API key",
        "retry_after_seconds": seconds,
    });
    ensure!(body(&refused)? == expected, "{refused:?}");
    legacy(
        &passes(&client, &[("x-api-key", b"gsk_live_1")]).await?,
        100,
        1,
    )?;
    let high: &Headers<'_> = &[("x-plan", b"high_volume"), ("x-api-key", b"k")];
    legacy(&passes(&client, high).await?, 500, 1)?;
    let acme: &Headers<'_> = &[("x-plan", b"enterprise"), ("x-api-key", b"gsk_live_acme")];
    legacy(&passes(&client, acme).await?, 100, 1)?;
    // P1.3: what is beyond a second's messages is told to wait, not refused.
    let paced: &Headers<'_> = &[("x-throughput", b"80"), ("x-phone-number", b"1")];
    let requests = (0..400).map(|_| client.get("/", paced));
    let answers = futures_util::future::try_join_all(requests).await?;
    let delays: Vec<u64> = answers
        .iter()
        .filter_map(|answer| answer.header("x-ratelimit-delay-ms").parse().ok())
        .collect();
    ensure!(answers.iter().all(|answer| answer.status == 200));
    ensure!(
        delays.iter().any(|&millis| millis > 0),
        "nobody had to wait"
    );
    // P1.4.
    let conversation: &Headers<'_> = &[
        ("x-conversations", b"1000"),
        ("x-business", b"b"),
        ("x-contact", b"c"),
    ];
    for _ in 0..2 {
        let answer = passes(&client, conversation).await?;
        ensure!(
            number(&answer, "x-ratelimit-remaining")? == 999,
            "{answer:?}"
        );
    }
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn p2_is_as_published() -> anyhow::Result<()> {
    let (lab, client) = provider("p2").await?;
    // P2.1, P2.5 and P2.10: a warning before the end, then a refusal.
    let key: &Headers<'_> = &[("x-api-key", b"k")];
    let mut warned = 0;
    let mut refused = None;
    for number in 0..=200 {
        let answer = client.get("/", key).await?;
        if answer.status != 200 {
            ensure!(number >= 100, "refused after {number}");
            refused = Some(answer);
            break;
        }
        warned += u32::from(answer.header("x-ratelimit-notice").contains("of 100 left"));
    }
    ensure!(warned >= 9, "warned {warned} times");
    let refused = refused.context("it was never refused")?;
    let seconds = retry_after(&refused, 60)?;
    let message =
        format!("Rate limit exceeded. Please wait {seconds} seconds before trying again.");
    let expected = json!({"success": false, "error": message, "retryAfter": seconds});
    ensure!(body(&refused)? == expected, "{refused:?}");
    // P2.2 to P2.4, P2.6, P2.7, P2.8.
    for (headers, limit, window) in [
        (
            [("x-action", b"send".as_slice()), ("x-session", b"s")],
            30,
            60,
        ),
        (
            [("x-action", b"create_session"), ("x-api-key", b"j")],
            10,
            3_600,
        ),
        ([("x-action", b"qr"), ("x-session", b"s")], 1, 5),
        (
            [("x-plan", b"standard"), ("x-plan-sessions", b"k")],
            10,
            3_600,
        ),
        ([("x-plan", b"premium"), ("x-plan-messages", b"k")], 100, 60),
        ([("x-plan", b"trial"), ("x-plan-general", b"k")], 50, 60),
        ([("x-token-bucket", b"k"), ("x-none", b"")], 30, 60),
        ([("x-sliding-window", b"k"), ("x-none", b"")], 30, 60),
    ] {
        let refused = until_refused(&client, &headers, limit).await?;
        retry_after(&refused, window)?;
    }
    // P2.9: of 1,000 a day, 50 on the first.
    until_refused(&client, &[("x-new-number", b"n")], 50).await?;
    // P2.11.
    let refused = until_refused(&client, &[("x-abuse", b"k")], 300).await?;
    ensure!(retry_after(&refused, 86_400)? > 86_000, "{refused:?}");
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn p3_is_as_published() -> anyhow::Result<()> {
    let (lab, client) = provider("p3").await?;
    let asked = |tier: &'static [u8], key: &'static [u8]| {
        [
            ("x-tier", tier),
            ("x-endpoint", b"send".as_slice()),
            ("x-workspace", b"w"),
            ("idempotency-key", key),
        ]
    };
    // P3.4: a retry counts once.
    for _ in 0..3 {
        let answer = passes(&client, &asked(b"free", b"x")).await?;
        ensure!(
            number(&answer, "x-ratelimit-remaining")? == 29,
            "{answer:?}"
        );
    }
    // P3.1, P3.2 and P3.3.
    let plain = &asked(b"free", b"")[..3];
    let refused = until_refused(&client, plain, 29).await?;
    let seconds = retry_after(&refused, 60)?;
    ensure!(
        number(&refused, "x-ratelimit-reset")? == seconds,
        "{refused:?}"
    );
    let error = &body(&refused)?["error"];
    ensure!(error["code"] == "rate_limit_exceeded", "{refused:?}");
    ensure!(error["retry_after"] == format!("{seconds}s"), "{refused:?}");
    let better = passes(&client, &asked(b"pro", b"")[..3]).await?;
    ensure!(number(&better, "x-ratelimit-limit")? == 300, "{better:?}");
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}

#[tokio::test]
async fn p4_is_as_published() -> anyhow::Result<()> {
    let (lab, client) = provider("p4").await?;
    // P4.1 and P4.5.
    let expected = json!({
        "statusCode": 429,
        "message": "ThrottlerException: Too Many Requests",
        "error": "Too Many Requests",
    });
    for (action, limit) in [(b"send".as_slice(), 100), (b"verify", 300), (b"resend", 20)] {
        let headers = [("x-team", b"t".as_slice()), ("x-action", action)];
        let refused = until_refused(&client, &headers, limit).await?;
        legacy(&refused, limit as u64, 60)?;
        ensure!(body(&refused)? == expected, "{refused:?}");
    }
    // P4.2 and P4.3.
    until_refused(&client, &[("x-recipient", b"a@example.org")], 5).await?;
    let refused = until_refused(&client, &[("x-otp-session", b"s")], 3).await?;
    legacy(&refused, 3, 86_400)?;
    // P4.4: nobody is refused.
    for team in 0..15_u8 {
        let team = [b'a' + team];
        passes(&client, &[("x-seen-ip", b"10.0.0.1"), ("x-team", &team)]).await?;
    }
    // P4.8.
    let event = [
        ("x-event-team", b"conference".as_slice()),
        ("x-action", b"send"),
    ];
    legacy(&passes(&client, &event).await?, 1_000, 60)?;
    // P4.9: 1,000 requests, 100 at once, under a limit of 1,000 a minute.
    let requests = (0..900).map(|_| client.get("/", &event));
    let answers = futures_util::future::try_join_all(requests).await?;
    ensure!(answers.iter().all(|answer| answer.status == 200));
    ensure!(lab.tally().await?.error == 0);
    Ok(())
}
