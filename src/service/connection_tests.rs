use std::ops::Range;

use h2::client;
use http::HeaderValue;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{
    clock::Clock,
    engine::{decision::Policy, key::HashSeed},
    limiter::Limiter,
    service::{health, listener::Table, wire::ResponseSettings},
    storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
};

#[test]
fn a_clients_deadline_is_read() {
    for (text, expected) in [
        ("20m", Some(Duration::from_millis(20))),
        ("1H", Some(Duration::from_secs(3_600))),
        ("2M", Some(Duration::from_secs(120))),
        ("3S", Some(Duration::from_secs(3))),
        ("250u", Some(Duration::from_micros(250))),
        ("99999999n", Some(Duration::from_nanos(99_999_999))),
        ("0m", Some(Duration::ZERO)),
        ("999999999S", None),
        ("5", None),
        ("m", None),
        ("", None),
        ("-1S", None),
        ("1\u{e4}", None),
    ] {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(text.as_bytes()).expect("a value");
        headers.insert("grpc-timeout", value);
        assert_eq!(time_left(&headers), expected, "{text:?}");
    }
    assert_eq!(time_left(&HeaderMap::new()), None);
}

/// A connection by these limits, and its client's end.
async fn connect(limits: Limits) -> DuplexStream {
    let config = memory::Config {
        max_counters: 1,
        when_full: memory::WhenFull::Deny,
    };
    let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(0, 0)));
    let policy = Policy::default();
    let limiter = Limiter::new(
        Clock::System,
        store,
        Ladder::none(),
        policy,
        ChargeMode::Always,
    );
    let api = Api {
        limiter: Arc::new(limiter),
        bounds: Default::default(),
        response: ResponseSettings::default(),
        compat: false,
        unknown_code: false,
        tracer: None,
    };
    let (routes, _) = health::routes().unwrap();
    let shared = Arc::new(Shared::new(Arc::new(api), limits, None, routes));
    let (ours, theirs) = duplex(1 << 16);
    let seat = Table::new(10).seat().await;
    tokio::spawn(async move {
        let (_open, closing) = watch::channel(false);
        serve(ours, shared, seat, closing).await;
    });
    theirs
}

/// How long a connection lasts, in seconds, and whether a call was on its way
/// all the while; the end has to be one in good order.
async fn lifetime(limits: Limits, calling: bool) -> f64 {
    let begun = Instant::now();
    let io = connect(limits).await;
    let (mut calls, connection) = client::handshake(io).await.unwrap();
    let call =
        Request::post("http://a/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
            .header(CONTENT_TYPE, "application/grpc")
            .body(())
            .unwrap();
    let _call = calling.then(|| calls.send_request(call, false).unwrap());
    let over = timeout(Duration::from_secs(90_000), connection).await;
    match over.expect("it ends") {
        Ok(()) => {}
        Err(error) => assert_eq!(error.reason(), Some(Reason::NO_ERROR), "{error}"),
    }
    begun.elapsed().as_secs_f64()
}

fn limits(age: u64, grace: u64) -> Limits {
    let time = |seconds| (seconds > 0).then_some(Duration::from_secs(seconds));
    Limits {
        max_connection_age: time(age),
        max_connection_age_grace: time(grace),
        idle_timeout: Duration::from_secs(10_000),
        call_timeout: Duration::from_secs(1_000),
        ..Limits::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_goes_in_good_order() {
    for (age, grace, calling, expected) in [
        (100, 0, false, 90.0..114.0),
        (100, 50, false, 90.0..114.0),
        // A call that is never finished is waited for until the grace is over,
        (100, 50, true, 140.0..163.0),
        (100, 1, true, 91.0..114.0),
        // or for as long as it may take.
        (100, 0, true, 1_000.0..1_004.0),
        // Never, but for the other bounds.
        (0, 50, true, 10_000.0..10_005.0),
        (0, 0, false, 10_000.0..10_005.0),
        (u64::MAX, u64::MAX, false, 10_000.0..10_005.0),
    ] {
        let lasted = lifetime(limits(age, grace), calling).await;
        let told = format!("{age} s, {grace} s, calling: {calling}: {lasted} s");
        assert!(Range::contains(&expected, &lasted), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_began_together_do_not_end_together() {
    let limits = limits(1_000, 0);
    let ages = futures_util::future::join_all((0..20).map(|_| lifetime(limits, false))).await;
    let least = ages.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ages.iter().copied().fold(0.0, f64::max);
    assert!(least >= 900.0 && most <= 1_104.0, "{ages:?}");
    assert!(most - least > 20.0, "{ages:?}");
}
