//! Listeners that speak TLS: who may speak to them, and what becomes of
//! certificates that change.

pub(crate) mod peer;

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use ratekeeper::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{RateLimitRequest, rate_limit_response::Code},
};
use rustls::version::{TLS12, TLS13};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    hostile::peer::Peer,
    pki::{Authority, Pair, Secret},
    process::Server,
    support::{PATIENCE, wait_for},
};
use peer::{Caller, Client};

const RULES: &str = "
domain: d
descriptors:
  - key: k
    rate_limit: {unit: year, requests_per_unit: 1000000}
";
const NAME: &str = "ratekeeper.example";

fn request() -> RateLimitRequest {
    RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: vec![RateLimitDescriptor {
            entries: vec![Entry {
                key: b"k".to_vec().into(),
                value: b"v".to_vec().into(),
            }],
            ..RateLimitDescriptor::default()
        }],
        hits_addend: 1,
    }
}

async fn call(client: &mut Client) -> anyhow::Result<()> {
    let answer = timeout(PATIENCE, client.should_rate_limit(request()))
        .await
        .context("no answer")??;
    ensure!(answer.into_inner().overall_code() == Code::Ok);
    Ok(())
}

/// A connection of its own and a call on it.
async fn ask(caller: &Caller<'_>, address: SocketAddr) -> anyhow::Result<()> {
    call(&mut caller.client(address).await?).await
}

/// Flags for gRPC over TLS, from a folder.
fn grpc_flags(secret: &Secret) -> Vec<String> {
    vec![
        "--grpc-tls".to_owned(),
        format!("--grpc-tls-cert={}", secret.text("tls.crt")),
        format!("--grpc-tls-key={}", secret.text("tls.key")),
        "--drain-delay=0s".to_owned(),
    ]
}

fn start(flags: &[String]) -> Server {
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Server::start(RULES, &flags)
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    let mut flags = grpc_flags(&secret);
    flags.push(format!("--http-tls-cert={}", secret.text("tls.crt")));
    flags.push(format!("--http-tls-key={}", secret.text("tls.key")));
    let server = start(&flags);
    for versions in [&[&TLS12][..], &[&TLS13], &[&TLS12, &TLS13]] {
        let mut caller = Caller::new(&authority, NAME);
        caller.versions = versions;
        ask(&caller, server.grpc).await.unwrap();
        let stream = caller.connect(server.grpc).await.unwrap();
        let newest = versions[versions.len() - 1];
        assert_eq!(stream.get_ref().1.protocol_version(), Some(newest.version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

        caller.alpn = b"http/1.1";
        let answer = caller.get(server.http, "/healthcheck").await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        assert!(caller.connect(server.grpc).await.is_err(), "no HTTP/1");
    }
    // Nobody who speaks in clear is answered.
    for address in [server.grpc, server.http] {
        let mut peer = Peer::connect(address);
        peer.say(b"GET /healthcheck HTTP/1.0\r\n\r\n");
        assert!(peer.is_closed_within(Duration::from_secs(2)));
    }
    // Whoever trusts another authority does not speak.
    let stranger = Caller::new(&Authority::new("b"), NAME);
    assert!(ask(&stranger, server.grpc).await.is_err());
}

#[tokio::test]
async fn who_may_speak() {
    let (ours, others) = (Authority::new("a"), Authority::new("b"));
    let secret = Secret::new(&ours.issue(&[NAME]), &ours);
    let ca = secret.text("ca.crt");
    let any = [format!("--grpc-client-ca={ca}")];
    let named = [
        any[0].clone(),
        "--grpc-client-san=envoy.mesh.example".to_owned(),
    ];
    let good = || Some(ours.issue(&["envoy.mesh.example"]));
    let wildcard = || Some(ours.issue(&["*.mesh.example"]));
    let unnamed = || Some(ours.issue(&["other.example"]));
    let cases = |asked: usize| -> Vec<(&str, Option<Pair>, bool)> {
        vec![
            ("none", None, asked == 0),
            ("right name", good(), true),
            ("wildcard", wildcard(), true),
            ("wrong name", unnamed(), asked < 2),
            ("address", Some(ours.issue(&["127.0.0.1"])), asked < 2),
            (
                "wrong CA",
                Some(others.issue(&["envoy.mesh.example"])),
                asked == 0,
            ),
            (
                "ended",
                Some(ours.issue_ended(&["envoy.mesh.example"])),
                asked == 0,
            ),
        ]
    };
    for (asked, more) in [&[][..], &any, &named].into_iter().enumerate() {
        let server = start(&[&grpc_flags(&secret), more].concat());
        for (what, pair, is_good) in cases(asked) {
            for versions in [&[&TLS12][..], &[&TLS13]] {
                let mut caller = Caller::new(&ours, NAME);
                caller.versions = versions;
                caller.pair = pair.as_ref();
                let asked = ask(&caller, server.grpc).await;
                assert_eq!(asked.is_ok(), is_good, "{more:?}, {what}: {asked:?}");
            }
        }
    }
}

#[tokio::test]
async fn who_may_speak_over_http() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    let server = start(&[
        format!("--http-tls-cert={}", secret.text("tls.crt")),
        format!("--http-tls-key={}", secret.text("tls.key")),
        format!("--http-client-ca={}", secret.text("ca.crt")),
        "--http-client-san=10.0.0.7".to_owned(),
    ]);
    for (names, is_good) in [
        (None, false),
        (Some("envoy.mesh.example"), false),
        (Some("10.0.0.8"), false),
        (Some("10.0.0.7"), true),
    ] {
        let pair = names.map(|name| authority.issue(&[name]));
        let mut caller = Caller::new(&authority, NAME);
        caller.alpn = b"http/1.1";
        caller.pair = pair.as_ref();
        let answer = caller.get(server.http, "/healthcheck").await;
        let is_answered = answer.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"));
        assert_eq!(is_answered, is_good, "{names:?}");
    }
}

/// The variables of the reference, with one that Envoy Gateway sets beside
/// them, and nobody reads.
#[tokio::test]
async fn variables_of_the_reference_are_enough() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    // They need not be in one folder.
    let elsewhere = tempfile::tempdir().unwrap();
    let key = elsewhere.path().join("key.pem");
    fs::copy(secret.path("tls.key"), &key).unwrap();
    let (cert, ca) = (secret.text("tls.crt"), secret.text("ca.crt"));
    let server = Server::compat(
        RULES,
        &[
            ("GRPC_SERVER_USE_TLS", "true"),
            ("GRPC_SERVER_TLS_CERT", &cert),
            ("GRPC_SERVER_TLS_KEY", key.to_str().unwrap()),
            ("GRPC_SERVER_TLS_CA_CERT", "/there/is/no/such.crt"),
            ("GRPC_CLIENT_TLS_CACERT", &ca),
            ("GRPC_CLIENT_TLS_SAN", "envoy.mesh.example"),
            ("GRPC_MAX_CONNECTION_AGE", "0"),
            ("GRPC_MAX_CONNECTION_AGE_GRACE", "2h45m"),
        ],
    );
    let pair = authority.issue(&["envoy.mesh.example"]);
    let mut caller = Caller::new(&authority, NAME);
    assert!(ask(&caller, server.grpc).await.is_err());
    caller.pair = Some(&pair);
    ask(&caller, server.grpc).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_served_and_old_connections_live_on() {
    let authority = Authority::new("a");
    let first = authority.issue(&[NAME]);
    let mut secret = Secret::new(&first, &authority);
    let server = start(&grpc_flags(&secret));
    let caller = Caller::new(&authority, NAME);
    let mut old = caller.client(server.grpc).await.unwrap();
    let is_served = async |pair: &Pair| -> anyhow::Result<()> {
        wait_for("new certificate", async || {
            let stream = caller.connect(server.grpc).await.ok()?;
            let (_, session) = stream.get_ref();
            let served = session.peer_certificates()?.first()?.clone();
            (served == pair.certificate_der()).then_some(())
        })
        .await
    };
    is_served(&first).await.unwrap();

    let second = authority.issue(&[NAME]);
    secret.swap(&second, &authority);
    is_served(&second).await.unwrap();
    call(&mut old).await.unwrap();

    // A file is edited in place, then renamed into place.
    let third = authority.issue(&[NAME]);
    fs::write(secret.path("tls.crt"), &third.certificate).unwrap();
    fs::write(secret.path("tls.key"), &third.key).unwrap();
    is_served(&third).await.unwrap();
    let fourth = authority.issue(&[NAME]);
    for (name, text) in [("tls.crt", &fourth.certificate), ("tls.key", &fourth.key)] {
        fs::write(secret.path("new"), text).unwrap();
        fs::rename(secret.path("new"), secret.path(name)).unwrap();
    }
    is_served(&fourth).await.unwrap();
    call(&mut old).await.unwrap();
}

#[tokio::test]
async fn a_bad_pair_is_told_once_and_changes_nothing() {
    let authority = Authority::new("a");
    let first = authority.issue(&[NAME]);
    let mut secret = Secret::new(&first, &authority);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let flags = grpc_flags(&secret);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(RULES, &flags, |command| {
        command.stderr(fs::File::create(&log).unwrap());
    });
    let caller = Caller::new(&authority, NAME);
    let told = || fs::read_to_string(&log).unwrap();
    let half = |text: &str| text[..text.len() / 2].to_owned();
    for (number, bad) in [
        Pair {
            certificate: first.certificate.clone(),
            key: authority.issue(&[NAME]).key,
        },
        Pair {
            certificate: half(&first.certificate),
            key: first.key.clone(),
        },
        Pair {
            certificate: first.certificate.clone(),
            key: "secret".to_owned(),
        },
    ]
    .into_iter()
    .enumerate()
    {
        secret.swap(&bad, &authority);
        wait_for("complaint", async || {
            (told().lines().count() > number).then_some(())
        })
        .await
        .unwrap();
        ask(&caller, server.grpc).await.unwrap();
    }
    let told = told();
    assert_eq!(told.lines().count(), 3, "{told}");
    let (_, metrics) = server.http("GET", "/metrics", "");
    for line in [
        r#"ratekeeper_tls_reloads_total{listener="grpc",outcome="failure"} 3"#,
        r#"ratekeeper_tls_handshakes_total{listener="grpc",outcome="success"} 3"#,
        r#"ratekeeper_tls_certificate_expiry_timestamp_seconds{listener="grpc"} "#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    for (line, file) in told.lines().zip(["tls.key", "tls.crt", "tls.key"]) {
        assert!(line.contains(&*secret.text(file)), "{line}");
    }
    assert!(
        !told.contains("secret:") && !told.contains("BEGIN"),
        "{told}"
    );
}

#[test]
fn a_bad_pair_ends_the_start() {
    let authority = Authority::new("a");
    let good = authority.issue(&[NAME]);
    let secret = Secret::new(&good, &authority);
    let rules = secret.path("rules.yaml");
    fs::write(&rules, RULES).unwrap();
    fs::write(secret.path("other.key"), authority.issue(&[NAME]).key).unwrap();
    let cert = format!("--grpc-tls-cert={}", secret.text("tls.crt"));
    let key = |name: &str| format!("--grpc-tls-key={}", secret.text(name));
    let http = |name: &str| format!("--http-tls-cert={}", secret.text(name));
    for (flags, expected) in [
        (vec![], "needs --grpc-tls-cert"),
        (vec![cert.clone()], "needs --grpc-tls-cert"),
        (
            vec![cert.clone(), key("none.key")],
            "none.key: cannot be read",
        ),
        (
            vec![cert.clone(), key("rules.yaml")],
            "rules.yaml: there is no key",
        ),
        (
            vec![cert.clone(), key("other.key")],
            "other.key: the key is not that",
        ),
        (
            vec![
                cert.clone(),
                key("tls.key"),
                "--grpc-client-ca=/none.crt".to_owned(),
            ],
            "/none.crt: cannot be read",
        ),
        (
            vec![
                cert.clone(),
                key("tls.key"),
                "--grpc-client-san=a.b".to_owned(),
            ],
            "needs --grpc-client-ca",
        ),
        (
            vec![
                cert.clone(),
                key("tls.key"),
                "--grpc-client-san=a b".to_owned(),
            ],
            "a DNS name",
        ),
        (
            vec![cert.clone(), key("tls.key"), http("tls.crt")],
            "--http-tls-key",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
            .args([
                "serve",
                "--grpc-addr=127.0.0.1:0",
                "--http-addr=127.0.0.1:0",
            ])
            .args(["--grpc-tls", "--rules"])
            .arg(&rules)
            .args(&flags)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{flags:?}");
        assert!(told.contains(expected), "{flags:?}: {told}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("listens"));
    }
}

/// Handshakes that are begun and not finished keep nobody from being
/// answered, and are given up.
#[tokio::test]
async fn handshakes_that_are_never_finished() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    let mut flags = grpc_flags(&secret);
    flags.push("--handshake-timeout=3s".to_owned());
    flags.push(format!("--http-tls-cert={}", secret.text("tls.crt")));
    flags.push(format!("--http-tls-key={}", secret.text("tls.key")));
    let server = start(&flags);
    let caller = Caller::new(&authority, NAME);
    let mut old = caller.client(server.grpc).await.unwrap();
    call(&mut old).await.unwrap();
    let before = server.memory();

    let hello = Caller::new(&authority, NAME).hello();
    let mut half_open: Vec<_> = (0..1_000)
        .map(|number| {
            let address = [server.grpc, server.http][number % 2];
            let mut peer = Peer::connect(address);
            // Nothing, a byte, half of a hello, or a whole one.
            let said = [0, 1, hello.len() / 2, hello.len()][number / 2 % 4];
            peer.say(&hello[..said]);
            peer
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        call(&mut old).await.unwrap();
        ask(&caller, server.grpc).await.unwrap();
    }
    let waited = begun.elapsed() / 20;
    let growth = server.memory().saturating_sub(before);
    println!(
        "beside 1,000 handshakes: a call, a handshake and a call in {waited:?}; memory +{growth}"
    );
    assert!(growth < 32 << 20, "memory grew by {growth} bytes");
    let deadline = Instant::now() + Duration::from_secs(8);
    for (number, peer) in half_open.iter_mut().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(peer.is_closed_within(left), "handshake {number} goes on");
    }
    call(&mut old).await.unwrap();
}

/// Connections that we close are counted before TLS is spoken, too.
#[tokio::test]
async fn who_is_too_slow_is_counted() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    let mut flags = grpc_flags(&secret);
    flags.push("--handshake-timeout=100ms".to_owned());
    let server = start(&flags);
    let mut peer = Peer::connect(server.grpc);
    assert!(peer.is_closed_within(Duration::from_secs(5)));
    let line = r#"ratekeeper_connections_closed_total{reason="no handshake"} 1"#;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !server.http("GET", "/metrics", "").1.contains(line) {
        assert!(Instant::now() < deadline, "it is not counted");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Many handshakes at once, which cost time, keep those waiting little who
/// are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_of_handshakes() {
    let authority = Authority::new("a");
    let secret = Secret::new(&authority.issue(&[NAME]), &authority);
    let mut flags = grpc_flags(&secret);
    flags.push("--workers=1".to_owned());
    let server = start(&flags);
    let caller = Caller::new(&authority, NAME);
    let mut old = caller.client(server.grpc).await.unwrap();
    let hello = caller.hello();
    let mut rush: Vec<_> = (0..400).map(|_| Peer::connect(server.grpc)).collect();
    call(&mut old).await.unwrap();
    for peer in &mut rush {
        peer.say(&hello);
    }
    let mut waits = vec![];
    while waits.len() < 50 {
        let begun = Instant::now();
        call(&mut old).await.unwrap();
        waits.push(begun.elapsed());
    }
    let longest = waits.iter().max().unwrap();
    println!("beside 400 handshakes at once: the longest call took {longest:?}");
    for (number, peer) in rush.iter_mut().enumerate() {
        let answer = peer.read_until(Duration::from_secs(5), |answer| !answer.is_empty());
        assert!(answer.is_some_and(|answer| answer[0] == 0x16), "{number}");
    }
}
