//! A `ratekeeper serve` with an environment of the test's own, whose log is
//! kept.

use std::{
    fs,
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use ratekeeper::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse, rate_limit_service_client::RateLimitServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout},
};
use tonic::transport::Channel;

use crate::support::PATIENCE;

/// A running service; killed when dropped.
pub(crate) struct Service {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Where it is looked into, if anywhere.
    pub(crate) debug: Option<SocketAddr>,
    child: Child,
    folder: TempDir,
    /// Held, so that the process can go on printing.
    _output: Lines<BufReader<ChildStdout>>,
}

// === impl Service ===

impl Service {
    /// Ready to be asked on return.
    pub(crate) async fn start(rules: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = command(&folder, rules, flags, variables);
        Self::run(folder, command).await
    }

    /// The same, with a log that nobody reads, of which a pipe holds little.
    pub(crate) async fn start_unread(rules: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(&folder, rules, flags, &[]);
        command.stderr(Stdio::piped());
        Self::run(folder, command).await
    }

    async fn run(folder: TempDir, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut grpc, mut http, mut debug) = (None, None, None);
        while grpc.is_none() || http.is_none() {
            let line = timeout(PATIENCE, output.next_line()).await.unwrap();
            let Some(line) = line.unwrap() else {
                panic!("it ended: {}", log(&folder));
            };
            let address = |prefix| {
                line.strip_prefix(prefix)
                    .map(|it: &str| it.parse().unwrap())
            };
            debug = debug.or_else(|| address("debugging listens on "));
            grpc = grpc.or_else(|| address("gRPC listens on "));
            http = http.or_else(|| address("HTTP listens on "));
        }
        Self {
            grpc: grpc.unwrap(),
            http: http.unwrap(),
            debug,
            child,
            folder,
            _output: output,
        }
    }

    /// How it ends where it cannot start, and what it says.
    pub(crate) async fn fails(flags: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command(&folder, "domain: d", flags, variables)
            .spawn()
            .unwrap();
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        (status, log(&folder))
    }

    pub(crate) async fn client(&self) -> Client {
        let address = format!("http://{}", self.grpc);
        Client(RateLimitServiceClient::connect(address).await.unwrap())
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        log(&self.folder)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Asks it to end; how it did, how long that took, and its log.
    pub(crate) async fn end(mut self) -> (ExitStatus, Duration, String) {
        let asked = Instant::now();
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.unwrap().success());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("it ends").unwrap();
        (status, asked.elapsed(), self.log())
    }
}

fn command(folder: &TempDir, rules: &str, flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let file = folder.path().join("rules.yaml");
    fs::write(&file, rules).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratekeeper"));
    command
        .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr"])
        .args(["127.0.0.1:0", "--rules"])
        .arg(&file)
        .args(flags)
        .env_clear()
        .env("RATEKEEPER_DRAIN_DELAY", "0s")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    command
}

fn log(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("log")).unwrap()
}

// === Client ===

/// One connection.
#[derive(Clone)]
pub(crate) struct Client(RateLimitServiceClient<Channel>);

impl Client {
    /// Asks domain `d` for a descriptor of one entry, with these headers.
    pub(crate) async fn ask(
        &mut self,
        key: &str,
        value: &str,
        headers: &[(&'static str, &str)],
    ) -> RateLimitResponse {
        let mut request = tonic::Request::new(RateLimitRequest {
            domain: "d".to_owned(),
            descriptors: vec![RateLimitDescriptor {
                entries: vec![Entry {
                    key: key.to_owned().into(),
                    value: value.to_owned().into(),
                }],
                ..RateLimitDescriptor::default()
            }],
            hits_addend: 0,
        });
        for &(name, value) in headers {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let answer = timeout(PATIENCE, self.0.should_rate_limit(request)).await;
        answer.unwrap().unwrap().into_inner()
    }
}
