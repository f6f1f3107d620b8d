//! The generator against real sockets: tonic's server, and servers that
//! misbehave.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use tonic::{Response, Status, transport::server::TcpIncoming};

use super::*;
use crate::proto::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_response::Code,
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};

/// Counts what it is asked, lets a number of requests through, and fails for
/// the domain `broken`.
#[derive(Clone, Default)]
struct Server {
    lets_through: u64,
    /// Requests by the value of their first entry.
    seen: Arc<Mutex<HashMap<Vec<u8>, u64>>>,
}

#[tonic::async_trait]
impl RateLimitService for Server {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        if request.domain == "broken" {
            return Err(Status::failed_precondition("no rules for you"));
        }
        let mut seen = self.seen.lock().unwrap();
        *seen
            .entry(request.descriptors[0].entries[0].value.to_vec())
            .or_default() += 1;
        let passes = seen.values().sum::<u64>() <= self.lets_through;
        let code = if passes { Code::Ok } else { Code::OverLimit };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            ..RateLimitResponse::default()
        }))
    }
}

impl Server {
    fn letting_through(lets_through: u64) -> Self {
        Self {
            lets_through,
            ..Self::default()
        }
    }

    /// Serves until the test ends; says where.
    fn start(&self, max_streams: Option<u32>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let service = RateLimitServiceServer::new(self.clone());
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tonic::transport::Server::builder()
                    .max_concurrent_streams(max_streams)
                    .add_service(service)
                    .serve_with_incoming(TcpIncoming::from(listener))
                    .await
                    .unwrap();
            });
        });
        addr
    }
}

fn options(addr: &str, domain: &str, requests: u64) -> Options {
    let descriptor = "k={key}".parse().unwrap();
    Options {
        addr: addr.to_owned(),
        request: RequestTemplate::new(domain, &[descriptor], 1, 100),
        keys: NonZeroU64::new(100).unwrap(),
        distribution: Distribution::Sequential,
        connections: NonZeroUsize::new(3).unwrap(),
        concurrency: NonZeroUsize::new(16).unwrap(),
        amount: Amount::Requests(NonZeroU64::new(requests).unwrap()),
        rate: None,
        warm_up: Duration::ZERO,
        threads: NonZeroUsize::new(2).unwrap(),
        patience: Duration::from_secs(10),
        server_pid: NonZeroU32::new(std::process::id()),
    }
}

fn load(options: &Options) -> Result<Report, LoadError> {
    run(options, &mut |_| {})
}

#[test]
fn every_request_is_sent_once_and_its_answer_counted() {
    for max_streams in [None, Some(3)] {
        let server = Server::letting_through(700);
        let report = load(&options(&server.start(max_streams), "d", 1_000)).unwrap();
        assert_eq!((report.ok, report.over_limit), (700, 300), "{report}");
        assert_eq!(report.errors.total, 0, "{report}");
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen.len(), 100);
        assert!(seen.contains_key(&b"07"[..]));
        // Sequential, and as even as three connections' shares are.
        assert!(seen.values().all(|&n| (8..=12).contains(&n)), "{seen:?}");
        assert!(report.decisions_per_second > 0.0);
        assert!(report.latency_microseconds.max >= report.latency_microseconds.p50);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let server = Server::letting_through(u64::MAX);
    let mut options = options(&server.start(None), "d", 1_000);
    options.rate = Some(2_000.0);
    let report = load(&options).unwrap();
    assert_eq!(report.ok, 1_000);
    // The last of 1,000 is due after 499.5 ms and not before.
    assert!(report.seconds > 0.499, "{}", report.seconds);
}

#[test]
fn warming_up_is_not_measured() {
    let server = Server::letting_through(u64::MAX);
    let mut options = options(&server.start(None), "d", 100);
    options.rate = Some(2_000.0);
    options.warm_up = Duration::from_millis(100);
    let report = load(&options).unwrap();
    assert_eq!(report.ok, 100);
    assert_eq!(server.seen.lock().unwrap().values().sum::<u64>(), 300);
}

#[test]
fn an_error_is_told_in_the_servers_words() {
    let server = Server::default();
    let report = load(&options(&server.start(None), "broken", 50)).unwrap();
    assert_eq!((report.errors.status, report.decisions), (50, 0));
    let refusal = report.first_error.unwrap();
    assert_eq!(refusal.code, "FailedPrecondition");
    assert_eq!(refusal.message, "no rules for you");
}

#[test]
fn no_server_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = load(&options(&addr, "d", 1)).unwrap_err();
    assert!(error.to_string().contains(&addr), "{error}");
}

/// Accepts connections, and does the same to each.
fn misbehaving(act: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().flatten().for_each(act));
    addr
}

#[test]
fn another_protocol_is_an_error() {
    for (greeting, told) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP/1"),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "longer than allowed",
        ),
        (b"\0\0\0\x06\0\0\0\0\0", "not SETTINGS"),
    ] {
        let addr = misbehaving(move |mut stream| stream.write_all(greeting).unwrap());
        let error = load(&options(&addr, "d", 10)).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let addr = misbehaving(|mut stream| {
        // Settings, and never a word again.
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
        while stream.read(&mut [0; 1_024]).is_ok_and(|read| read > 0) {}
    });
    let mut options = options(&addr, "d", 100);
    options.connections = NonZeroUsize::MIN;
    options.patience = Duration::from_millis(50);
    let report = load(&options).unwrap();
    assert!(report.gave_up);
    assert_eq!(report.errors.timed_out, 16);
}

#[test]
fn a_server_that_goes_away_loses_what_was_in_flight() {
    let addr = misbehaving(|mut stream| {
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
        let mut read = 0;
        // Preface, settings, window and at least one request.
        while read < 200 {
            read += stream.read(&mut [0; 1_024]).unwrap();
        }
    });
    let mut options = options(&addr, "d", 40);
    options.connections = NonZeroUsize::MIN;
    let report = load(&options).unwrap();
    assert_eq!(report.errors.lost, 40);
    assert_eq!(report.reconnects, 2);
}

#[test]
fn what_a_leaving_server_has_not_looked_at_is_sent_again() {
    let server = Server::letting_through(u64::MAX);
    let good = server.start(None);
    let turns = AtomicU64::new(0);
    // The first connection is told to go away at once; later ones are
    // passed on to a server that answers.
    let addr = misbehaving(move |mut stream| {
        if turns.fetch_add(1, Ordering::Relaxed) == 0 {
            let going = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
            stream.write_all(&going[..9]).unwrap();
            // Preface, settings, window and at least one request; they may
            // come in one piece or in several.
            let mut read = 0;
            while read < 200 {
                read += stream.read(&mut [0; 4_096]).unwrap();
            }
            stream.write_all(&going[9..]).unwrap();
            // Closing with anything unread would take the GOAWAY back.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut [0; 4_096]).is_ok_and(|read| read > 0) {}
            return;
        }
        let to = TcpStream::connect(&good).unwrap();
        let (mut from, mut back) = (stream.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut { to }));
        thread::spawn(move || std::io::copy(&mut back, &mut { stream }));
    });
    let mut options = options(&addr, "d", 100);
    options.connections = NonZeroUsize::MIN;
    let report = load(&options).unwrap();
    assert_eq!((report.ok, report.errors.total), (100, 0), "{report}");
    assert_eq!(report.reconnects, 1);
}
