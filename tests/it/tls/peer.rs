//! The other end of a TLS connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use ratekeeper::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use rustls::{
    ClientConfig, ClientConnection, DEFAULT_VERSIONS, RootCertStore, SupportedProtocolVersion,
    crypto::ring, pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::pki::{Authority, Pair};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client over TLS.
pub(crate) type Client = RateLimitServiceClient<Channel>;

/// Whom a client trusts, who it is, and what it speaks.
pub(crate) struct Caller<'a> {
    roots: RootCertStore,
    name: ServerName<'static>,
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) alpn: &'a [u8],
    pub(crate) pair: Option<&'a Pair>,
}

// === impl Caller ===

impl Caller<'_> {
    /// Trusts `authority`, and means to speak to `name`.
    pub(crate) fn new(authority: &Authority, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        Self {
            roots,
            name: ServerName::try_from(name.to_owned()).unwrap(),
            versions: DEFAULT_VERSIONS,
            alpn: b"h2",
            pair: None,
        }
    }

    /// A handshake.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(self.config());
        let shaken = async {
            let socket = TcpStream::connect(address).await?;
            connector.connect(self.name.clone(), socket).await
        };
        Ok(timeout(PATIENCE, shaken).await.context("no handshake")??)
    }

    /// A gRPC client on one connection; it does not make another.
    pub(crate) async fn client(&self, address: SocketAddr) -> anyhow::Result<Client> {
        let mut stream = Some(TokioIo::new(self.connect(address).await?));
        let once = tower::service_fn(move |_| {
            let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
            std::future::ready(stream.map_err(std::io::Error::from))
        });
        let endpoint = Endpoint::from_static("http://ratekeeper");
        let channel = endpoint.connect_with_connector(once).await?;
        Ok(RateLimitServiceClient::new(channel))
    }

    /// All that is answered to a GET over HTTP/1.
    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> anyhow::Result<String> {
        let mut stream = self.connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answered = async {
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        timeout(PATIENCE, answered).await.context("no answer")?
    }

    /// What it says first.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let mut session = ClientConnection::new(self.config(), self.name.clone()).unwrap();
        let mut hello = vec![];
        session.write_tls(&mut hello).unwrap();
        hello
    }

    fn config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match self.pair {
            Some(pair) => builder
                .with_client_auth_cert(vec![pair.certificate_der()], pair.key_der())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![self.alpn.to_vec()];
        Arc::new(config)
    }
}
