//! A management server for tests, which says what a test has it say.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::BoxStream};
use prost::Message as _;
use prost_types::Any;
use ratekeeper::proto::{
    envoy::service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
    ratelimit::config::ratelimit::v3::{
        RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    metadata::MetadataMap,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::support::{PATIENCE, local};

pub(crate) const TYPE_URL: &str =
    "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// The server; gone, with its connections, when killed or dropped.
pub(crate) struct Management {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    runtime: Option<Runtime>,
}

/// A client's stream.
pub(crate) struct Stream {
    /// With which it began.
    pub(crate) headers: MetadataMap,
    requests: Streaming<DiscoveryRequest>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

/// Someone who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: String,
}

struct Service(mpsc::Sender<Stream>);

// === impl Management ===

impl Management {
    /// Listens on `port`; 0 is any. With an authority it speaks TLS, and takes
    /// clients only that have a certificate of it.
    pub(crate) async fn start(port: u16, authority: Option<&Authority>) -> Self {
        let tls = authority.map(|authority| {
            let (certificate, key) = authority.sign();
            ServerTlsConfig::new()
                .identity(Identity::from_pem(certificate, key))
                .client_ca_root(Certificate::from_pem(&authority.certificate))
        });
        let listener = listen(port).await;
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, streams) = mpsc::channel(8);
        runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).unwrap();
            }
            let service = AggregatedDiscoveryServiceServer::new(Service(sender));
            let served = server
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener));
            served.await.unwrap();
        });
        Self {
            address,
            streams,
            runtime: Some(runtime),
        }
    }

    /// The next stream that a client begins.
    pub(crate) async fn stream(&mut self) -> Stream {
        let next = timeout(PATIENCE, self.streams.recv()).await;
        next.expect("a client comes").expect("the server runs")
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(self) {}
}

impl Drop for Management {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A server that was killed lets go of its port a little later.
pub(crate) async fn listen(port: u16) -> TcpListener {
    let binding = async {
        loop {
            match TcpListener::bind(local(port)) {
                Ok(listener) => return listener,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, binding).await.expect("a port")
}

#[async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let headers = request.metadata().clone();
        let (responses, mut queue) = mpsc::channel(8);
        let stream = Stream {
            headers,
            requests: request.into_inner(),
            responses,
        };
        let sent = self.0.send(stream).await;
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        Ok(Response::new(queue.boxed()))
    }
}

// === impl Stream ===

impl Stream {
    /// The client's next request.
    pub(crate) async fn request(&mut self) -> DiscoveryRequest {
        let next = timeout(PATIENCE, self.requests.message()).await;
        let next = next.expect("the client says something");
        next.expect("the stream is well")
            .expect("the stream goes on")
    }

    /// Sends these, and no more.
    pub(crate) async fn send(&self, version: &str, nonce: &str, configs: &[RateLimitConfig]) {
        let resources = configs.iter().map(|config| Any {
            type_url: TYPE_URL.to_owned(),
            value: config.encode_to_vec(),
        });
        self.send_any(version, nonce, resources.collect()).await;
    }

    pub(crate) async fn send_any(&self, version: &str, nonce: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.to_owned(),
            resources,
            type_url: TYPE_URL.to_owned(),
            nonce: nonce.to_owned(),
        };
        let sent = self.responses.send(Ok(response)).await;
        sent.expect("the stream goes on");
    }

    /// Sends these, which are good, and waits until they are in force.
    pub(crate) async fn adopt(&mut self, version: &str, configs: &[RateLimitConfig]) {
        let nonce = format!("nonce of {version}");
        self.send(version, &nonce, configs).await;
        let answer = self.request().await;
        assert_eq!(answer.error_detail, None);
        let answered = (&*answer.version_info, &*answer.response_nonce);
        assert_eq!(answered, (version, &*nonce));
    }
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(parameters, key),
            certificate,
        }
    }

    /// A certificate for this machine, and its key.
    pub(crate) fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "envoy-gateway"].map(str::to_owned);
        let parameters = CertificateParams::new(names).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes `ca.crt`, `tls.crt` and `tls.key` as a mounted Secret has them:
    /// links to `..data/`, which is a link that is swapped.
    pub(crate) fn write(&self, folder: &Path) {
        let version = tempfile::Builder::new()
            .prefix("..")
            .tempdir_in(folder)
            .unwrap()
            .keep();
        let (certificate, key) = self.sign();
        for (name, text) in [
            ("ca.crt", &self.certificate),
            ("tls.crt", &certificate),
            ("tls.key", &key),
        ] {
            std::fs::write(version.join(name), text).unwrap();
            let link = folder.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let (new, data) = (folder.join("..data_new"), folder.join("..data"));
        std::os::unix::fs::symlink(version.file_name().unwrap(), &new).unwrap();
        std::fs::rename(new, data).unwrap();
    }
}

/// A resource: `requests` a year for each value of `key`.
pub(crate) fn domain(name: &str, key: &str, requests: u32) -> RateLimitConfig {
    RateLimitConfig {
        name: format!("resource {name}"),
        domain: name.to_owned(),
        descriptors: vec![RateLimitDescriptor {
            key: key.to_owned(),
            rate_limit: Some(RateLimitPolicy {
                unit: RateLimitUnit::Year.into(),
                requests_per_unit: requests,
                ..RateLimitPolicy::default()
            }),
            ..RateLimitDescriptor::default()
        }],
    }
}
