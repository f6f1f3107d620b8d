//! Processes around a test: ratekeeper, Envoy, an upstream, and a client.
//!
//! Everything listens where the operating system finds room and is asked for
//! its address, so tests run side by side. Waiting is bounded by `PATIENCE`.

use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2 as client, server::conn::http2 as server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long anything may take on a busy machine before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that will come.
const PAUSE: Duration = Duration::from_millis(10);

/// A port of 127.0.0.1; 0 is any that is free.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, asking)
        .await
        .with_context(|| format!("no {what} in {PATIENCE:?}"))
}

// === TestApp ===

/// A ratekeeper process; killed when dropped.
pub(crate) struct TestApp {
    pub(crate) grpc: SocketAddr,
    child: Child,
    /// Held, so that the process can go on printing.
    _output: Lines<BufReader<ChildStdout>>,
}

impl TestApp {
    /// Serves `rules` on `grpc` (port 0: anywhere) and waits until it listens.
    pub(crate) async fn start(
        rules: &Path,
        grpc: SocketAddr,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
            .arg("serve")
            .arg("--rules")
            .arg(rules)
            .args(["--grpc-addr", &grpc.to_string()])
            .args(["--http-addr", "127.0.0.1:0"])
            .args(flags)
            // Settings of the machine are not the test's.
            .env_clear()
            .env("RATEKEEPER_DRAIN_DELAY", "0s")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut output = BufReader::new(output).lines();
        let listening = async {
            while let Some(line) = output.next_line().await? {
                if let Some(address) = line.strip_prefix("gRPC listens on ") {
                    return Ok(address.parse()?);
                }
            }
            bail!("ratekeeper ended before it listened")
        };
        let grpc = timeout(PATIENCE, listening)
            .await
            .context("ratekeeper does not listen")??;
        Ok(Self {
            grpc,
            child,
            _output: output,
        })
    }

    /// Ends it at once, as a crash does.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to go down, and waits until it has.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        let id = self.child.id().context("ratekeeper runs")?;
        // The shell's own kill: a bare system has no other, and Rust has none.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -TERM {id}")])
            .status()
            .await?;
        ensure!(sent.success(), "cannot signal ratekeeper");
        let ended = timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.context("ratekeeper does not end")??)
    }
}

// === Envoy ===

/// An Envoy process; killed when dropped.
pub(crate) struct Envoy {
    admin: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
    _child: Child,
    _folder: TempDir,
}

impl Envoy {
    /// Starts with `config`, which has an admin listener, and waits until it
    /// is live.
    pub(crate) async fn start(config: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let (file, log) = (folder.path().join("envoy.yaml"), folder.path().join("log"));
        let address_file = folder.path().join("admin");
        fs::write(&file, config)?;
        let mut child = Command::new(envoy_binary()?)
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&address_file)
            .arg("--log-path")
            .arg(&log)
            .args(["--concurrency", "2", "--disable-hot-restart"])
            .args(["--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let admin = wait_for("live Envoy", async || {
            if child.try_wait().ok()?.is_some() {
                return Some(None);
            }
            let address = fs::read_to_string(&address_file).ok()?.parse().ok()?;
            let answer = ask_admin(address, "/ready").await.ok()?;
            answer.starts_with("LIVE").then_some(Some(address))
        });
        let Some(admin) = admin.await? else {
            bail!(
                "Envoy ended:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            );
        };
        let listeners = ask_admin(admin, "/listeners").await?;
        let listeners = listeners
            .lines()
            .filter_map(|line| line.split_once("::"))
            .map(|(name, address)| Ok((name.to_owned(), address.parse()?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            admin,
            listeners,
            _child: child,
            _folder: folder,
        })
    }

    /// Where a listener is.
    pub(crate) fn listener(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.listeners
            .iter()
            .find(|(known, _)| known == name)
            .map(|&(_, address)| address)
            .with_context(|| format!("no listener {name} in {:?}", self.listeners))
    }

    /// A statistic's value; 0 when Envoy has nothing to count yet.
    pub(crate) async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let all = ask_admin(self.admin, "/stats").await?;
        let value = all.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            (known == name).then_some(value)
        });
        Ok(value.map_or(Ok(0), str::parse)?)
    }
}

/// The real thing, as `tests/setup.sh` installs it.
fn envoy_binary() -> anyhow::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/envoy");
    ensure!(
        path.exists(),
        "these tests need Envoy; run tests/setup.sh once"
    );
    Ok(path)
}

/// The admin listener speaks HTTP/1 only.
async fn ask_admin(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "admin")
        .body(Full::<Bytes>::default())?;
    let body = sender
        .send_request(request)
        .await?
        .into_body()
        .collect()
        .await?;
    connection.abort();
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

// === Upstream ===

/// An HTTP/2 server that says 200 to all, and OK to gRPC; it tells which
/// headers came in, and counts.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(local(0)).await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet(stream, Arc::clone(&counted)));
            }
        });
        Ok(Self {
            address,
            requests,
            accepting,
        })
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers the requests of one connection.
async fn greet(stream: TcpStream, requests: Arc<AtomicU64>) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        requests.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(echo(&request)) }
    });
    server::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(2_048)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn echo(
    request: &Request<Incoming>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let content_type = request.headers().get("content-type");
    let grpc = content_type.is_some_and(|found| found == "application/grpc");
    let told = format!("{:?}", request.headers());
    // gRPC: one empty message.
    let body = if grpc {
        Bytes::from_static(&[0; 5])
    } else {
        Bytes::from(told)
    };
    let trailers = grpc.then(|| {
        Ok(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]))
    });
    let mut response = Response::new(Full::new(body).with_trailers(async { trailers }));
    if let Some(content_type) = content_type {
        let headers = response.headers_mut();
        headers.insert("content-type", content_type.clone());
    }
    response
}

// === Client ===

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Client {
    sender: client::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        let (sender, connection) = client::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Self { sender, address })
    }

    pub(crate) async fn get(
        &self,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, headers).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> anyhow::Result<Answer> {
        let uri = format!("http://{}{path}", self.address);
        let mut request = Request::builder().method(method).uri(uri);
        for &(name, value) in headers {
            request = request.header(name, HeaderValue::from_bytes(value)?);
        }
        let request = request.body(Full::default())?;
        let answered = async {
            let (head, body) = self
                .sender
                .clone()
                .send_request(request)
                .await?
                .into_parts();
            let collected = body.collect().await?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                trailers: collected.trailers().cloned().unwrap_or_default(),
                body: collected.to_bytes(),
            })
        };
        timeout(PATIENCE, answered)
            .await
            .context("no answer from Envoy")?
    }
}

impl Answer {
    /// A header's value; of several, all.
    pub(crate) fn header(&self, name: &str) -> String {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        let texts = values.iter().map(|value| value.to_str().unwrap_or("?"));
        texts.collect::<Vec<_>>().join(" | ")
    }
}
