//! Clients that mean no good. While one is at work, others are answered, the
//! server's memory stays within bounds, and the one who abuses it is cut off
//! or refused.
//!
//! How long others wait is printed, not asserted: it depends on the machine.

pub(crate) mod peer;

use std::{
    num::{NonZeroU64, NonZeroUsize},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use prost::Message as _;
use ratekeeper::{
    load::{self, Amount, Distribution, Options, Report, RequestTemplate},
    proto::envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::{
            RateLimitRequest, rate_limit_response::Code,
            rate_limit_service_client::RateLimitServiceClient,
        },
    },
};

use tonic::transport::Endpoint;

use crate::process::{self, Server};
use peer::{
    CHECK, CONTINUATION, DATA, DECIDE, END_STREAM, HEADERS, PING, PREFACE, Peer, RST_STREAM,
    SETTINGS, WATCH, WINDOW_UPDATE, call, frame, head, length, open, streams,
};

const RULES: &str = "
domain: d
descriptors:
  - key: k
    rate_limit: { unit: hour, requests_per_unit: 4000000000 }
  - key: few
    rate_limit: { unit: hour, requests_per_unit: 10 }
";
/// By how much the server's memory may grow.
const GROWTH: u64 = 64 << 20;
/// What any flood may last.
const PATIENCE: Duration = Duration::from_secs(4);
/// Settings by number.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Scenarios measure memory and time, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `abuse` against a server with these flags while others ask it for
/// `seconds`, and holds the server to its promises.
fn against(name: &str, flags: &[&str], seconds: f64, abuse: impl FnOnce(&Server)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = [&["--drain-delay", "0s", "--drain-timeout", "1s"], flags].concat();
    let server = Server::start(RULES, &flags);
    ask(&server, Duration::from_millis(300));
    let before = server.memory();
    let (report, peak) = thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        let id = server.id();
        let watch = scope.spawn(move || {
            let mut peak = 0;
            while stopped.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(process::memory(id).unwrap_or(0));
            }
            peak
        });
        let others = scope.spawn(|| ask(&server, Duration::from_secs_f64(seconds)));
        abuse(&server);
        let report = others.join().expect("others are answered");
        drop(stop);
        (report, watch.join().expect("memory can be read"))
    });
    let growth = peak.saturating_sub(before);
    let latency = &report.latency_microseconds;
    println!(
        "{name}: others p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; memory +{:.1} MiB on {:.1}",
        latency.p50 / 1e3,
        latency.p99 / 1e3,
        latency.max / 1e3,
        growth as f64 / 1_048_576.0,
        before as f64 / 1_048_576.0,
    );
    assert_eq!(report.errors.total, 0, "{name}: {report:?}");
    assert_eq!(report.reconnects, 0, "{name}: {report:?}");
    assert_eq!(report.ok, report.decisions, "{name}: {report:?}");
    assert!(growth <= GROWTH, "{name}: memory grew by {growth} bytes");
    let ended = server.end(Duration::from_secs(5));
    let status = ended.unwrap_or_else(|| panic!("{name}: it does not end when asked to"));
    assert!(status.success(), "{name}: {status}");
}

/// What a client does that means well.
fn ask(server: &Server, time: Duration) -> Report {
    let descriptor = "k={key}".parse().expect("a descriptor");
    let options = Options {
        addr: server.grpc.to_string(),
        request: RequestTemplate::new("d", &[descriptor], 1, 1_000),
        keys: NonZeroU64::new(1_000).unwrap(),
        distribution: Distribution::Uniform,
        connections: NonZeroUsize::new(2).unwrap(),
        concurrency: NonZeroUsize::new(64).unwrap(),
        amount: Amount::Time(time),
        rate: Some(500.0),
        warm_up: Duration::ZERO,
        threads: NonZeroUsize::MIN,
        patience: Duration::from_secs(5),
        server_pid: None,
    };
    load::run(&options, &mut |_| {}).expect("the server answers")
}

/// A request that is answered OK.
fn message() -> Vec<u8> {
    request(&[("k", "v")]).encode_to_vec()
}

/// A request with one descriptor for each of these.
fn request(entries: &[(&str, &str)]) -> RateLimitRequest {
    let descriptors = entries.iter().map(|(key, value)| RateLimitDescriptor {
        entries: vec![Entry {
            key: (*key).to_owned().into_bytes().into(),
            value: (*value).to_owned().into_bytes().into(),
        }],
        ..RateLimitDescriptor::default()
    });
    RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: descriptors.collect(),
        hits_addend: 1,
    }
}

/// Adds more bytes of a flood.
type Flood = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// Floods from several connections, half of which read what they are told.
fn floods(server: &Server, mut begin: impl FnMut() -> Flood) {
    thread::scope(|scope| {
        for number in 0..4 {
            let next = begin();
            let mut peer = Peer::http2(server.grpc, &[]);
            if number % 2 == 0 {
                peer.listen();
            }
            scope.spawn(move || {
                assert!(
                    peer.flood(PATIENCE, next),
                    "not cut off; reads: {}",
                    number % 2 == 0
                );
            });
        }
    });
}

/// The same bytes again and again.
fn again(bytes: &[u8], times: usize) -> Flood {
    let chunk = bytes.repeat(times);
    Box::new(move |out| out.extend_from_slice(&chunk))
}

#[test]
fn calls_taken_back_at_once() {
    against("rapid reset", &[], 1.5, |server| {
        floods(server, || {
            let mut streams = streams();
            Box::new(move |out| {
                for stream in streams.by_ref().take(500) {
                    out.extend(open(stream, DECIDE));
                    out.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                }
            })
        });
    });
    against("rapid reset of whole calls", &[], 1.5, |server| {
        floods(server, || {
            let mut streams = streams();
            Box::new(move |out| {
                for stream in streams.by_ref().take(500) {
                    out.extend(call(stream, DECIDE, &message()));
                    out.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                }
            })
        });
    });
}

#[test]
fn header_blocks_without_end() {
    against("CONTINUATION flood", &[], 1.5, |server| {
        floods(server, || {
            let mut begun = false;
            Box::new(move |out| {
                if !begun {
                    out.extend(frame(HEADERS, 0, 1, &head(DECIDE)));
                    begun = true;
                }
                let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
                out.extend(frame(CONTINUATION, 0, 1, &field.repeat(100)));
            })
        });
    });
    against("empty CONTINUATION flood", &[], 1.5, |server| {
        floods(server, || {
            let mut begun = false;
            Box::new(move |out| {
                if !begun {
                    out.extend(frame(HEADERS, 0, 1, &head(DECIDE)));
                    begun = true;
                }
                out.extend(frame(CONTINUATION, 0, 1, b"").repeat(1_000));
            })
        });
    });
}

#[test]
fn frames_that_are_no_calls() {
    for (name, bytes) in [
        ("PING flood", frame(PING, 0, 0, b"01234567")),
        ("SETTINGS flood", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
        (
            "WINDOW_UPDATE flood",
            frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        ),
        ("flood of unknown frames", frame(99, 0, 0, &[0; 64])),
    ] {
        against(name, &[], 1.5, |server| {
            floods(server, || again(&bytes, 2_000));
        });
    }
}

#[test]
fn bodies_in_tiny_pieces() {
    against("tiny DATA", &[], 1.5, |server| {
        floods(server, || {
            let mut begun = false;
            Box::new(move |out| {
                if !begun {
                    out.extend(open(1, DECIDE));
                    out.extend(frame(DATA, 0, 1, &length(1 << 20)));
                    begun = true;
                }
                out.extend(frame(DATA, 0, 1, b"x").repeat(2_000));
            })
        });
    });
    against("empty DATA", &[], 1.5, |server| {
        floods(server, || {
            let mut begun = false;
            Box::new(move |out| {
                if !begun {
                    out.extend(open(1, DECIDE));
                    begun = true;
                }
                out.extend(frame(DATA, 0, 1, b"").repeat(2_000));
            })
        });
    });
}

/// Opens `connections`, says `bytes` on each, and waits until all are closed.
fn all_are_closed(
    server: &Server,
    connections: usize,
    settings: &[(u16, u32)],
    patience: Duration,
    bytes: &[u8],
) {
    let mut peers: Vec<Peer> = (0..connections)
        .map(|_| {
            let mut peer = Peer::http2(server.grpc, settings);
            // The server may have had enough already.
            peer.press(bytes);
            peer
        })
        .collect();
    let deadline = tokio::time::Instant::now() + patience;
    for (number, peer) in peers.iter_mut().enumerate() {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        assert!(
            peer.is_closed_within(left),
            "connection {number} is not cut off"
        );
    }
}

#[test]
fn answers_without_a_window() {
    let calls: Vec<u8> = streams()
        .take(1_000)
        .flat_map(|stream| call(stream, DECIDE, &message()))
        .collect();
    against("zero windows", &["--call-timeout", "1s"], 3.5, |server| {
        let settings = [(INITIAL_WINDOW_SIZE, 0)];
        all_are_closed(server, 50, &settings, Duration::from_secs(8), &calls);
    });
}

#[test]
fn calls_that_are_never_finished() {
    for (name, path) in [
        ("50,000 unended streams", DECIDE),
        ("50,000 unended streams, another service", WATCH),
    ] {
        let heads: Vec<u8> = streams()
            .take(1_000)
            .flat_map(|stream| open(stream, path))
            .collect();
        against(name, &["--call-timeout", "1s"], 3.5, |server| {
            // Those who only ask once are answered all the same.
            let mut asks = Peer::http2(server.grpc, &[]);
            all_are_closed(server, 50, &[], Duration::from_secs(5), &heads);
            asks.send(&call(1, CHECK, b""));
            assert!(asks.is_answered(Duration::from_secs(1)), "no health");
        });
    }
}

#[test]
fn answers_that_are_never_read() {
    let big = request(&[("k", "v"); 1_000]).encode_to_vec();
    let body = [&length(big.len())[..], &big].concat();
    let mut calls = frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000_u32.to_be_bytes());
    for stream in streams().take(200) {
        calls.extend(open(stream, DECIDE));
        calls.extend(frame(DATA, END_STREAM, stream, &body));
    }
    let settings = [(INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    against("unread answers", &["--call-timeout", "1s"], 3.5, |server| {
        let mut peers: Vec<Peer> = (0..50)
            .map(|_| Peer::deaf(server.grpc, &settings))
            .collect();
        for peer in &mut peers {
            peer.press(&calls);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
        for (number, peer) in peers.iter_mut().enumerate() {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(peer.is_gone_within(left), "client {number} is not cut off");
        }
    });
}

#[test]
fn handshakes_that_are_never_finished() {
    let flags = ["--handshake-timeout", "2s"];
    against("500 half-open handshakes", &flags, 4.0, |server| {
        let mut peers: Vec<Peer> = (0..1_000)
            .map(|number| {
                let address = if number % 2 == 0 {
                    server.grpc
                } else {
                    server.http
                };
                Peer::connect(address)
            })
            .collect();
        let slow = b"GET /healthcheck HTTP/1.1\r\nhost: a\r\n";
        for step in 0..10 {
            for (number, peer) in peers.iter_mut().enumerate().skip(200) {
                let text: &[u8] = if number % 2 == 0 { PREFACE } else { slow };
                peer.say(&text[step..=step]);
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(4);
        for (number, peer) in peers.iter_mut().enumerate() {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(peer.is_closed_within(left), "handshake {number} goes on");
        }
    });
}

#[test]
fn connections_that_do_nothing() {
    let flags = ["--idle-timeout", "2s"];
    against("2,000 idle connections", &flags, 4.0, |server| {
        let mut peers: Vec<Peer> = (0..2_000).map(|_| Peer::http2(server.grpc, &[])).collect();
        for (number, peer) in peers.iter_mut().enumerate().take(900) {
            let patience = Duration::from_secs(2);
            assert!(peer.is_closed_within(patience), "connection {number} stays");
        }
        let mut youngest = peers.pop().expect("there are 2,000");
        assert!(youngest.say(&call(1, DECIDE, &message())));
        let told = |text: &[u8]| text.windows(11).any(|part| part == b"grpc-status");
        let answer = youngest.read_until(Duration::from_millis(200), told);
        assert!(answer.is_some(), "the youngest connection was closed");
        for (number, peer) in peers.iter_mut().enumerate().rev() {
            let patience = Duration::from_secs(7);
            assert!(peer.is_closed_within(patience), "connection {number} stays");
        }
    });
}

#[test]
fn slow_bodies_keep_nobody_waiting() {
    against("50 slow bodies over HTTP", &[], 1.0, |server| {
        let head = |length: usize| {
            format!(
                "POST /json HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            )
        };
        let mut slow: Vec<Peer> = (0..50).map(|_| Peer::connect(server.http)).collect();
        for peer in &mut slow {
            peer.say(format!("{}{{", head(1_000)).as_bytes());
        }
        let body = r#"{"domain":"d","descriptors":[{"entries":[{"key":"k","value":"v"}]}]}"#;
        let mut quick = Peer::connect(server.http);
        quick.say(format!("{}{body}", head(body.len())).as_bytes());
        let answer = quick.read_all(Duration::from_secs(1));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for peer in &mut slow {
            let answer = peer.read_all(Duration::from_secs(4));
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
    });
}

#[test]
fn bodies_of_fifty_megabytes() {
    const BODY: usize = 50 << 20;
    against("50 MB body over gRPC", &[], 1.5, |server| {
        let mut peer = Peer::http2(server.grpc, &[]);
        peer.say(&open(1, DECIDE));
        peer.say(&frame(DATA, 0, 1, &length(BODY)));
        let mut left = BODY / 16_384;
        peer.flood(Duration::from_secs(2), |out| {
            if left > 0 {
                left -= 1;
                out.extend(frame(DATA, 0, 1, &[b'x'; 16_384]));
            } else {
                out.extend(frame(DATA, END_STREAM, 1, b"x"));
            }
        });
    });
    against("50 MB bodies over HTTP", &[], 1.5, |server| {
        let mut peers: Vec<Peer> = (0..20).map(|_| Peer::connect(server.http)).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            let framing = if number % 2 == 0 {
                format!("content-length: {BODY}")
            } else {
                "transfer-encoding: chunked".to_owned()
            };
            peer.say(format!("POST /json HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n").as_bytes());
            let chunk = [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat();
            peer.flood(Duration::from_millis(100), |out| {
                out.extend_from_slice(&chunk)
            });
        }
        for peer in &mut peers {
            let answer = peer.read_all(Duration::from_millis(200));
            let answer = String::from_utf8_lossy(&answer);
            // One that still sends when it is refused may not get to read why.
            let is_told = answer.is_empty() || answer.starts_with("HTTP/1.1 413");
            assert!(is_told, "{answer}");
        }
    });
}

#[test]
fn large_messages_are_no_floods() {
    let long = "v".repeat(60_000);
    let large = request(&[("k", long.as_str()); 15]).encode_to_vec();
    let body = [&length(large.len())[..], &large].concat();
    against("a large message, slowly", &[], 2.5, |server| {
        let mut peer = Peer::http2(server.grpc, &[]);
        assert!(peer.say(&open(1, DECIDE)));
        for part in body.chunks(16_000) {
            peer.send(&frame(DATA, 0, 1, part));
            thread::park_timeout(Duration::from_millis(25));
        }
        peer.send(&frame(DATA, END_STREAM, 1, b""));
        assert!(peer.is_answered(Duration::from_secs(2)), "not answered");
    });
    against("a message that is too large", &[], 1.5, |server| {
        let mut peer = Peer::http2(server.grpc, &[]);
        assert!(peer.say(&open(1, DECIDE)));
        peer.send(&frame(DATA, 0, 1, &length(50 << 20)));
        for _ in 0..(64 << 10) / 16_000 {
            peer.send(&frame(DATA, 0, 1, &[b'x'; 16_000]));
        }
        assert!(peer.is_answered(Duration::from_secs(2)), "not refused");
        // Others on the same connection do not suffer.
        thread::park_timeout(Duration::from_millis(1_500));
        peer.send(&call(3, DECIDE, &message()));
        assert!(peer.is_answered(Duration::from_secs(2)), "cut off");
    });
}

#[test]
fn requests_that_ask_too_much() {
    let long = |bytes: usize| request(&[("k", &"v".repeat(bytes))]);
    let mut entries = request(&[("k", "v")]);
    let entry = entries.descriptors[0].entries[0].clone();
    entries.descriptors[0].entries = vec![entry; 1_000];
    let mut domain = request(&[("k", "v")]);
    domain.domain = "d".repeat(100_000);
    let cases = [
        (
            request(&[("k", "v"); 10_000]),
            tonic::Code::InvalidArgument,
            "1024",
        ),
        (entries, tonic::Code::InvalidArgument, "256"),
        (long(100_000), tonic::Code::InvalidArgument, "65536"),
        (domain, tonic::Code::InvalidArgument, "65536"),
        (long(1 << 20), tonic::Code::ResourceExhausted, "1048576"),
        (long(3 << 20), tonic::Code::ResourceExhausted, "1048576"),
    ];
    against("requests that ask too much", &[], 1.5, |server| {
        blocking(async {
            let mut client = client(server).await;
            for (number, (request, code, bound)) in cases.into_iter().enumerate() {
                let refused = client.should_rate_limit(request).await;
                let status = refused.expect_err("refused");
                let told = (status.code(), status.message().contains(bound));
                assert_eq!(told, (code, true), "case {number}: {status:?}");
            }
        });
    });
}

#[test]
fn hits_beyond_all_bounds() {
    against("hits beyond all bounds", &[], 1.5, |server| {
        blocking(async {
            let mut client = client(server).await;
            for hits in [1 << 63, u64::MAX, (1 << 63) - 1, u64::MAX, 1] {
                let mut request = request(&[("few", "v"), ("few", "v")]);
                for descriptor in &mut request.descriptors {
                    descriptor.hits_addend = Some(hits);
                }
                let answer = client.should_rate_limit(request).await.expect("an answer");
                let answer = answer.into_inner();
                assert_eq!(answer.overall_code(), Code::OverLimit, "{hits} hits");
                for status in &answer.statuses {
                    let told = (status.code(), status.limit_remaining);
                    assert_eq!(told, (Code::OverLimit, 0), "{hits} hits");
                }
            }
        });
    });
}

fn blocking(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future);
}

async fn client(server: &Server) -> RateLimitServiceClient<tonic::transport::Channel> {
    let address = format!("http://{}", server.grpc);
    let endpoint = Endpoint::from_shared(address).expect("an address");
    RateLimitServiceClient::new(endpoint.connect().await.expect("a server"))
}
