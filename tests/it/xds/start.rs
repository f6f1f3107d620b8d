//! The program with rules from a management server: what it waits for, and
//! the environment that Envoy Gateway gives it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{ExitStatus, Stdio},
};

use ratekeeper::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, rate_limit_response::Code,
        rate_limit_service_client::RateLimitServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::management::{Authority, Management, domain, listen};
use crate::{
    process::http,
    redis::servers,
    support::{PATIENCE, local, wait_for},
};

const LISTENER_TLS: bool = true;

/// A ratekeeper process; killed when dropped.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts `path` with this environment and no other.
    fn start(path: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("RATEKEEPER_DRAIN_DELAY", "0s")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let lines = BufReader::new(output).lines();
        Self { child, lines }
    }

    /// The rest of the next line that begins like this.
    async fn says(&mut self, prefix: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return rest.to_owned();
                }
            }
            panic!("it ended before it said {prefix:?}");
        };
        timeout(PATIENCE, found).await.expect("it says so")
    }

    async fn listens(&mut self) -> (SocketAddr, SocketAddr) {
        let grpc = self.says("gRPC listens on ").await.parse().unwrap();
        let http = self.says("HTTP listens on ").await.parse().unwrap();
        (grpc, http)
    }

    async fn terminate(mut self) -> ExitStatus {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.unwrap().success());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends").unwrap()
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ratekeeper"))
}

fn ipv4(address: SocketAddr) -> SocketAddr {
    local(address.port())
}

/// The code for one hit of `domain`, key `k`.
async fn ask(channel: Channel, domain: &str) -> Result<Code, tonic::Status> {
    let request = RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: vec![RateLimitDescriptor {
            entries: vec![Entry {
                key: "k".into(),
                value: "v".into(),
            }],
            ..RateLimitDescriptor::default()
        }],
        hits_addend: 1,
    };
    let mut client = RateLimitServiceClient::new(channel);
    let answer = client.should_rate_limit(request).await?;
    Ok(answer.into_inner().overall_code())
}

async fn plain(grpc: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", ipv4(grpc))).unwrap();
    endpoint.connect().await.unwrap()
}

#[tokio::test]
async fn nothing_listens_before_the_first_rules() {
    let mut management = Management::start(0, None).await;
    let server = management.address.to_string();
    let port = {
        let free = listen(0).await;
        free.local_addr().unwrap().port()
    };
    let grpc = local(port).to_string();
    let flags = [
        "serve",
        "--xds-server",
        &server,
        "--grpc-addr",
        &grpc,
        "--http-addr",
        "127.0.0.1:0",
    ];
    let mut program = Program::start(program(), &flags, &[]);
    program.says("waiting for the first rules from ").await;
    let mut stream = management.stream().await;
    stream.request().await;
    // What cannot be decoded is no configuration.
    // The second time the answer takes its time, in which it would listen.
    for nonce in ["a", "b"] {
        let nonsense = prost_types::Any::default();
        stream.send_any("0", nonce, vec![nonsense]).await;
        stream.request().await;
    }
    assert!(TcpStream::connect(local(port)).is_err());

    stream.adopt("1", &[domain("a", "k", 1)]).await;
    let (grpc, _) = program.listens().await;
    let channel = plain(grpc).await;
    assert_eq!(ask(channel.clone(), "a").await.unwrap(), Code::Ok);
    assert_eq!(ask(channel, "a").await.unwrap(), Code::OverLimit);
    assert!(program.terminate().await.success());
}

#[tokio::test]
async fn a_signal_ends_the_wait() {
    let mut management = Management::start(0, None).await;
    let server = management.address.to_string();
    let environment = [("CONFIG_GRPC_XDS_SERVER_URL", &*server)];
    let flags = ["serve", "--config-type", "GRPC_XDS_SOTW"];
    let mut program = Program::start(program(), &flags, &environment);
    program.says("waiting for the first rules from ").await;
    management.stream().await;
    assert!(program.terminate().await.success());
}

/// The reference serves on with an error for each call.
#[tokio::test]
async fn bad_rules_are_a_configuration_too() {
    let mut management = Management::start(0, None).await;
    let server = management.address.to_string();
    let environment = [
        ("BACKEND_TYPE", "memory"),
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", &*server),
        ("GRPC_PORT", "0"),
        ("PORT", "0"),
        ("DEBUG_PORT", "0"),
    ];
    let mut program = Program::start(program(), &["serve", "--compat"], &environment);
    let mut stream = management.stream().await;
    stream.request().await;
    stream.send("1", "1", &[domain("a", "", 1)]).await;
    let (grpc, _) = program.listens().await;
    let error = ask(plain(grpc).await, "a").await.unwrap_err();
    assert_eq!(error.message(), "no rate limit configuration loaded");
}

#[tokio::test]
async fn what_cannot_be_meant_keeps_it_from_starting() {
    for (arguments, environment, expected) in [
        (&["serve"][..], ("CONFIG_TYPE", "XDS"), "GRPC_XDS_SOTW"),
        (
            &["serve", "--rules", "a", "--xds-server", "b:1"],
            ("LOG_LEVEL", "info"),
            "it can only be one of them",
        ),
        (
            &["serve", "--xds-server", "b"],
            ("LOG_LEVEL", "info"),
            "host and port",
        ),
        (
            &["serve", "--xds-server", "b:1", "--xds-client-cert", "c"],
            ("LOG_LEVEL", "info"),
            "--xds-client-key",
        ),
    ] {
        let ended = Command::new(program())
            .args(arguments)
            .env_clear()
            .envs([environment])
            .kill_on_drop(true)
            .output();
        let ended = timeout(PATIENCE, ended).await.expect("it ends").unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn it_starts_as_envoy_gateway_starts_it() {
    let redis = servers::Server::plain();
    let folder = TempDir::new().unwrap();
    let certificates = folder.path().join("certs");
    fs::create_dir(&certificates).unwrap();
    let authority = Authority::new();
    authority.write(&certificates);
    let mut management = Management::start(0, Some(&authority)).await;
    let link = folder.path().join("ratelimit");
    std::os::unix::fs::symlink(program(), &link).unwrap();

    let file = |name: &str| certificates.join(name).display().to_string();
    let (certificate, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let server = format!("localhost:{}", management.address.port());
    let redis_url = format!("127.0.0.1:{}", redis.port);
    let mut environment = vec![
        ("RUNTIME_ROOT", "/data"),
        ("RUNTIME_SUBDIRECTORY", "ratelimit"),
        ("RUNTIME_IGNOREDOTFILES", "true"),
        ("RUNTIME_WATCH_ROOT", "false"),
        ("LOG_LEVEL", "info"),
        ("USE_STATSD", "false"),
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", &*server),
        ("CONFIG_GRPC_XDS_NODE_ID", "envoy-ratelimit"),
        ("GRPC_SERVER_TLS_CERT", &*certificate),
        ("GRPC_SERVER_TLS_KEY", &*key),
        ("GRPC_SERVER_TLS_CA_CERT", &*ca),
        ("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true"),
        ("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", &*certificate),
        ("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", &*key),
        ("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", &*ca),
        ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true"),
        ("REDIS_SOCKET_TYPE", "tcp"),
        ("REDIS_URL", &*redis_url),
        ("USE_PROMETHEUS", "true"),
        ("PROMETHEUS_ADDR", ":0"),
        ("PROMETHEUS_MAPPER_YAML", "/etc/statsd-exporter/conf.yaml"),
        ("TRACING_ENABLED", "true"),
        ("TRACING_SERVICE_NAME", "envoy-ratelimit"),
        ("TRACING_SERVICE_NAMESPACE", "envoy-gateway-system"),
        ("TRACING_SERVICE_INSTANCE_ID", "envoy-ratelimit-0"),
        ("TRACING_SAMPLING_RATE", "0.6"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        // Ports of its own, for tests that run side by side.
        ("GRPC_PORT", "0"),
        ("PORT", "0"),
        ("DEBUG_PORT", "0"),
    ];
    if LISTENER_TLS {
        environment.push(("GRPC_SERVER_USE_TLS", "true"));
    }
    let mut program = Program::start(&link, &[], &environment);
    let (grpc, http_address) = program.listens().await;
    let channel = if LISTENER_TLS {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority.certificate))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", ipv4(grpc))).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    } else {
        plain(grpc).await
    };
    let healthy = wait_for("health", async || {
        let (status, body) = http(ipv4(http_address), "GET", "/healthcheck", "");
        (status == 200).then_some(body)
    });
    assert_eq!(healthy.await.unwrap(), "OK");

    let mut stream = management.stream().await;
    let request = stream.request().await;
    assert_eq!(request.node.unwrap().id, "envoy-ratelimit");
    stream.adopt("1", &[]).await;
    assert_eq!(ask(channel.clone(), "a").await.unwrap(), Code::Ok);
    stream.adopt("2", &[domain("a", "k", 1)]).await;
    assert_eq!(ask(channel.clone(), "a").await.unwrap(), Code::Ok);
    assert_eq!(ask(channel.clone(), "a").await.unwrap(), Code::OverLimit);
    // As the reference would name it.
    let keys = redis.command(&["KEYS", "*"]);
    assert!(keys.lines().any(|key| key.starts_with("a_k_v_")), "{keys}");
    stream.adopt("3", &[]).await;
    assert_eq!(ask(channel, "a").await.unwrap(), Code::Ok);
    let (_, told) = http(ipv4(http_address), "GET", "/metrics", "");
    for line in [
        "ratekeeper_xds_connected 1",
        "ratekeeper_xds_reconnects_total 0",
        r#"ratekeeper_xds_responses_total{outcome="accepted"} 3"#,
    ] {
        assert!(told.lines().any(|it| it == line), "{line}\n{told}");
    }
    // The stream is open.
    assert!(program.terminate().await.success());
}
