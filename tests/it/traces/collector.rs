//! An OTLP collector: it keeps what it is sent, over gRPC or HTTP, with TLS or
//! without.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming};

use crate::support::{local, wait_for};

/// Attributes as text.
pub(crate) type Attributes = BTreeMap<String, String>;

/// What was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) resource: Attributes,
    /// Of the request; names in lower case.
    pub(crate) headers: http::HeaderMap,
    pub(crate) span: Span,
}

/// A collector; it ends when it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    kept: Kept,
    task: JoinHandle<()>,
}

/// Certificate and key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Sent>>>);

// === impl Collector ===

impl Collector {
    pub(crate) async fn grpc(tls: Option<&Pair>) -> Self {
        let (kept, listener) = (Kept::default(), listener().await);
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(pair) = tls {
            let identity = Identity::from_pem(&pair.certificate, &pair.key);
            let tls = ServerTlsConfig::new().identity(identity);
            server = server.tls_config(tls).unwrap();
        }
        let served = server
            .add_service(TraceServiceServer::new(kept.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { served.await.unwrap() });
        Self {
            address,
            kept,
            task,
        }
    }

    pub(crate) async fn http(tls: Option<&Pair>) -> Self {
        let (kept, listener) = (Kept::default(), listener().await);
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(Pair::acceptor);
        let keep = kept.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (keep, acceptor) = (keep.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => keep.serve(stream).await,
                        Some(acceptor) => keep.serve(acceptor.accept(stream).await.unwrap()).await,
                    }
                });
            }
        });
        Self {
            address,
            kept,
            task,
        }
    }

    /// What has come so far.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.kept.0.lock().unwrap().clone()
    }

    /// All that has come, once `name` is among it.
    pub(crate) async fn wait_for(&self, name: &str) -> Vec<Sent> {
        let all = async || {
            let sent = self.sent();
            sent.iter()
                .any(|sent| sent.span.name == name)
                .then_some(sent)
        };
        wait_for(name, all).await.unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(local(0)).await.unwrap()
}

// === impl Kept ===

impl Kept {
    fn keep(&self, request: ExportTraceServiceRequest, headers: &http::HeaderMap) {
        let mut kept = self.0.lock().unwrap();
        for of_resource in request.resource_spans {
            let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter();
            kept.extend(spans.flat_map(|scope| scope.spans).map(|span| Sent {
                resource: resource.clone(),
                headers: headers.clone(),
                span,
            }));
        }
    }

    async fn serve(self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let service = hyper::service::service_fn(async |request: Request<Incoming>| {
            assert_eq!(request.uri().path(), "/v1/traces");
            let (head, body) = request.into_parts();
            assert_eq!(head.headers["content-type"], "application/x-protobuf");
            let body = body.collect().await.unwrap().to_bytes();
            self.keep(
                ExportTraceServiceRequest::decode(body).unwrap(),
                &head.headers,
            );
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        // It fails when the exporter goes.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .await;
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        self.keep(request.into_inner(), &headers);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

// === impl Sent ===

impl Sent {
    pub(crate) fn attributes(&self) -> Attributes {
        attributes(&self.span.attributes)
    }

    /// Of the spans that it links to.
    pub(crate) fn linked(&self) -> Vec<&[u8]> {
        let links = self.span.links.iter();
        links.map(|link| link.span_id.as_slice()).collect()
    }
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let text = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), text(pair)))
        .collect()
}

// === impl Pair ===

impl Pair {
    /// For `localhost`, signed by itself.
    pub(crate) fn make() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
