//! How to get to the collector: the standard's variables, and TLS.
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, `_HEADERS`, `_TIMEOUT`, `_COMPRESSION` and
//! their `_TRACES_` forms are read by the exporter itself; `_CERTIFICATE`,
//! `_CLIENT_CERTIFICATE` and `_CLIENT_KEY` here.

use std::{fs, io, sync::Arc, time::Duration};

use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{Protocol, StartError};

/// What a file holds, and its name.
type File = (Vec<u8>, String);

/// An exporter that is not connected yet. Within an event loop.
///
/// # Errors
/// A variable is not right, or a file cannot be read.
pub(super) fn exporter(
    protocol: Protocol,
    resource: &Resource,
) -> Result<SpanExporter, StartError> {
    let mut exporter = match protocol {
        Protocol::Grpc => grpc()?,
        Protocol::Http => http()?,
    };
    exporter.set_resource(resource);
    Ok(exporter)
}

fn grpc() -> Result<SpanExporter, StartError> {
    let mut builder = SpanExporter::builder().with_tonic();
    if uses_tls() {
        let mut tls = match file("CERTIFICATE")? {
            Some(file) => {
                certificates(&file)?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file.0))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some(((own, _), (key, _))) = own_pair()? {
            tls = tls.identity(Identity::from_pem(own, key));
        }
        builder = builder.with_tls_config(tls);
    }
    builder.build().map_err(unusable)
}

fn http() -> Result<SpanExporter, StartError> {
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
    if uses_tls() {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_only()
            .enable_http1()
            .build();
        builder = builder.with_http_client(HyperClient::new(connector, time_limit(), None));
    }
    builder.build().map_err(unusable)
}

fn unusable(error: ExporterBuildError) -> StartError {
    StartError::Settings(error.to_string())
}

/// Not where it is said to be plain, and not where nothing is said: that is
/// this machine.
fn uses_tls() -> bool {
    variable("ENDPOINT").is_some_and(|endpoint| {
        let scheme = endpoint.get(..7).unwrap_or_default();
        !scheme.eq_ignore_ascii_case("http://")
    })
}

/// Trusts the certificates that are named, or else the system's.
fn tls() -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(match file("CERTIFICATE")? {
        Some(file) => certificates(&file)?,
        None => rustls_native_certs::load_native_certs().certs,
    });
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Settings(error.to_string()))?
        .with_root_certificates(roots);
    let Some((own, key)) = own_pair()? else {
        return Ok(builder.with_no_client_auth());
    };
    let pair = builder.with_client_auth_cert(certificates(&own)?, secret(&key)?);
    pair.map_err(|error| bad(&own, &error.to_string()))
}

// The reader's own words show lines of the file: they are not told.

fn secret(file: &File) -> Result<PrivateKeyDer<'static>, StartError> {
    let secret = PrivateKeyDer::from_pem_slice(&file.0);
    secret.map_err(|_| bad(file, "there is no key in it (PEM, not encrypted)"))
}

fn certificates(file: &File) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.0).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(bad(file, "there is no certificate in it (PEM)")),
    }
}

/// Certificate and key of our own, where both are named.
fn own_pair() -> Result<Option<(File, File)>, StartError> {
    Ok(file("CLIENT_CERTIFICATE")?.zip(file("CLIENT_KEY")?))
}

/// What the file named by a variable holds.
fn file(name: &str) -> Result<Option<File>, StartError> {
    let read = |file: String| match fs::read(&file) {
        Ok(bytes) => Ok((bytes, file)),
        Err(error) => Err(unreadable(file, &error)),
    };
    variable(name).map(read).transpose()
}

fn unreadable(file: String, error: &io::Error) -> StartError {
    let reason = error.to_string();
    StartError::File { file, reason }
}

fn bad(file: &File, reason: &str) -> StartError {
    StartError::File {
        file: file.1.clone(),
        reason: reason.to_owned(),
    }
}

/// Milliseconds, as the exporter itself reads it.
fn time_limit() -> Duration {
    let millis = variable("TIMEOUT").and_then(|text| text.parse().ok());
    millis.map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

/// A variable of the standard's, that for traces before the one for all.
fn variable(name: &str) -> Option<String> {
    let read = |prefix| std::env::var(format!("OTEL_EXPORTER_OTLP_{prefix}{name}")).ok();
    let of_traces = read("TRACES_").filter(|value| !value.is_empty());
    of_traces.or_else(|| read("").filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_file_is_not_told() {
        // A line's end got lost.
        let file = |text: &str| (text.as_bytes().to_vec(), "tls.pem".to_owned());
        for text in [
            "-----BEGIN PRIVATE KEY-----MIIEvsecret\nx\n-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nse\u{1}cret\n-----END CERTIFICATE-----\n",
            "secret",
        ] {
            let told = [
                certificates(&file(text)).unwrap_err(),
                secret(&file(text)).unwrap_err(),
            ];
            for error in told {
                let told = error.to_string();
                assert!(told.contains("tls.pem: there is no"), "{told}");
                // As text, or as a list of bytes.
                assert!(!told.contains("secret") && !told.contains("115"), "{told}");
            }
        }
    }
}
