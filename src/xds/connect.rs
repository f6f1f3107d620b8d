//! From an address to a connection.
//!
//! Certificates are read anew for each connection, so those that were
//! replaced meanwhile are used.

use std::{
    error::Error,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Uri, uri::Authority};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower::service_fn;

use crate::watch::Look;

/// From the look-up of a name to the end of the handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From a PING to the end of the connection, when nothing comes back.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the kernel asks a silent host whether it is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A management server, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Certificates; without them it is spoken to in the clear.
    pub tls: Option<Tls>,
    /// Without a sign of life, until it is asked for one.
    pub keepalive_interval: Duration,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Authority);

/// Files with certificates, all in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities that are trusted beside the system's.
    pub authorities: Option<PathBuf>,
    /// The name that the server's certificate must have, instead of the host.
    pub name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of authorities has none.
    #[error("there is no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// The server does not answer, or not as it should.
    #[error("{}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
    /// It took too long.
    #[error("not connected within {CONNECT_TIMEOUT:?}")]
    TimedOut,
    /// The process ends.
    #[error("the process ends")]
    Ending,
}

// === impl Server ===

impl Server {
    /// Connects, within a bounded time.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let server = self.clone();
        let endpoint = tokio::task::spawn_blocking(move || server.endpoint()).await;
        let endpoint = endpoint.map_err(|_| ConnectError::Ending)??;
        // Left to itself a channel would connect again, without us: it gets
        // the means for one connection.
        let mut address = Some(self.address.clone());
        let connector = service_fn(move |_: Uri| tcp(address.take()));
        let connecting = endpoint.connect_with_connector(connector);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(ConnectError::TimedOut),
        }
    }

    /// How its certificates look from outside.
    #[must_use]
    pub fn look(&self) -> u64 {
        let mut look = Look::default();
        if let Some(tls) = &self.tls {
            let pair = tls.identity.iter().flat_map(|(cert, key)| [cert, key]);
            pair.chain(&tls.authorities)
                .for_each(|path| look.file(path));
        }
        look.sum()
    }

    /// Reads files.
    fn endpoint(&self) -> Result<Endpoint, ConnectError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address))?
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_interval.min(PING_TIMEOUT))
            .keep_alive_while_idle(true);
        match &self.tls {
            None => Ok(endpoint),
            Some(tls) => tls.secure(endpoint),
        }
    }
}

async fn tcp(address: Option<Address>) -> io::Result<TokioIo<TcpStream>> {
    let Some(Address(authority)) = address else {
        return Err(io::Error::other("the connection has ended"));
    };
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or_default();
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(TokioIo::new(stream))
}

// === impl Tls ===

impl Tls {
    fn secure(&self, endpoint: Endpoint) -> Result<Endpoint, ConnectError> {
        let mut config = ClientTlsConfig::new();
        if let Some((certificate, key)) = &self.identity {
            let identity = Identity::from_pem(read(certificate)?, read(key)?);
            config = config.identity(identity);
        }
        if let Some(name) = &self.name {
            config = config.domain_name(name);
        }
        let Some(path) = &self.authorities else {
            return Ok(endpoint.tls_config(config.with_native_roots())?);
        };
        let pem = read(path)?;
        if !CertificateDer::pem_slice_iter(&pem).any(|certificate| certificate.is_ok()) {
            return Err(ConnectError::NoCertificate(path.clone()));
        }
        config = config.ca_certificate(Certificate::from_pem(pem));
        // A bare image has no authorities of its own, which is an error there.
        endpoint
            .clone()
            .tls_config(config.clone().with_native_roots())
            .or_else(|_| Ok(endpoint.tls_config(config)?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|error| ConnectError::File {
        path: path.to_owned(),
        error,
    })
}

/// An error and what it comes from, each once: some say nothing themselves.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}

// === impl Address ===

impl Address {
    /// Reads `host:port`; `xds://` and gRPC's `dns:///` may stand before it.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("xds://").unwrap_or(text);
        let rest = rest.strip_prefix("dns:///").unwrap_or(rest);
        let wrong = || "a management server's host and port, such as localhost:18000".to_owned();
        let authority: Authority = rest.parse().map_err(|_| wrong())?;
        let named = !authority.host().is_empty() && !rest.contains('@');
        match authority.port_u16() {
            Some(_) if named => Ok(Self(authority)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (text, expected) in [
            ("localhost:18000", Some("localhost:18000")),
            ("envoy-gateway:18001", Some("envoy-gateway:18001")),
            ("xds://10.0.0.1:1", Some("10.0.0.1:1")),
            ("dns:///a.b:80", Some("a.b:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("localhost", None),
            (":18000", None),
            ("unix:/run/xds", None),
            ("https://a:1", None),
            ("me@a:1", None),
            ("a:1/b", None),
            ("a:99999", None),
            ("", None),
        ] {
            let parsed = Address::parse(text).ok().map(|it| it.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_files_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("ca.crt");
        fs::write(&empty, "nothing").unwrap();
        let missing = folder.path().join("tls.crt");
        for (tls, expected) in [
            (
                Tls {
                    identity: Some((missing.clone(), missing)),
                    ..Tls::default()
                },
                "tls.crt: No such file",
            ),
            (
                Tls {
                    authorities: Some(empty),
                    ..Tls::default()
                },
                "there is no certificate in",
            ),
        ] {
            let server = Server {
                address: Address::parse("localhost:1").unwrap(),
                tls: Some(tls),
                keepalive_interval: Duration::from_secs(1),
            };
            let error = server.endpoint().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
