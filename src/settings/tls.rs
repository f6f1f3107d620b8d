//! TLS of the listeners.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgAction, Args};
use rustls::pki_types::ServerName;

use super::boolean;
use crate::service::certificates::{Clients, Config, Protocol};

#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "TLS of the listeners (files are PEM, and read anew when they change)"
)]
pub(super) struct Tls {
    /// Speak TLS over gRPC
    #[arg(long, env = "GRPC_SERVER_USE_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    grpc_tls: bool,
    /// The certificate for gRPC, then those between it and a root
    #[arg(long, env = "GRPC_SERVER_TLS_CERT", value_name = "FILE")]
    grpc_tls_cert: Option<PathBuf>,
    /// The key of the certificate for gRPC
    #[arg(long, env = "GRPC_SERVER_TLS_KEY", value_name = "FILE")]
    grpc_tls_key: Option<PathBuf>,
    /// Clients over gRPC need a certificate below one of these, or of the system's roots
    #[arg(long, env = "GRPC_CLIENT_TLS_CACERT", value_name = "FILE")]
    grpc_client_ca: Option<PathBuf>,
    /// And it has to be valid for this name
    #[arg(long, env = "GRPC_CLIENT_TLS_SAN", value_name = "NAME", value_parser = name)]
    grpc_client_san: Option<ServerName<'static>>,
    /// Speak TLS over HTTP, with this certificate, then those between it and a root
    #[arg(long, env = "RATEKEEPER_HTTP_TLS_CERT", value_name = "FILE")]
    http_tls_cert: Option<PathBuf>,
    /// The key of the certificate for HTTP
    #[arg(long, env = "RATEKEEPER_HTTP_TLS_KEY", value_name = "FILE")]
    http_tls_key: Option<PathBuf>,
    /// Clients over HTTP need a certificate below one of these
    #[arg(long, env = "RATEKEEPER_HTTP_CLIENT_CA", value_name = "FILE")]
    http_client_ca: Option<PathBuf>,
    /// And it has to be valid for this name
    #[arg(long, env = "RATEKEEPER_HTTP_CLIENT_SAN", value_name = "NAME", value_parser = name)]
    http_client_san: Option<ServerName<'static>>,
}

// === impl Tls ===

impl Tls {
    pub(super) fn grpc(&self) -> anyhow::Result<Option<Config>> {
        let clients = self.grpc_client_ca.as_ref().map(|ca| Clients {
            ca: ca.clone(),
            // As the reference does.
            system_roots: true,
            name: self.grpc_client_san.clone(),
        });
        let is_named = self.grpc_client_san.is_some();
        if !self.grpc_tls {
            if self.grpc_tls_cert.is_some() || clients.is_some() || is_named {
                tracing::warn!(
                    "gRPC is not encrypted, though there are files for it: --grpc-tls (GRPC_SERVER_USE_TLS) is off"
                );
            }
            return Ok(None);
        }
        let (Some(certificate), Some(key)) = (&self.grpc_tls_cert, &self.grpc_tls_key) else {
            bail!(
                "--grpc-tls (GRPC_SERVER_USE_TLS) needs --grpc-tls-cert (GRPC_SERVER_TLS_CERT) and --grpc-tls-key (GRPC_SERVER_TLS_KEY)"
            );
        };
        if is_named && clients.is_none() {
            bail!(
                "--grpc-client-san (GRPC_CLIENT_TLS_SAN) needs --grpc-client-ca (GRPC_CLIENT_TLS_CACERT): without it no client is asked for a certificate"
            );
        }
        Ok(Some(Config {
            protocol: Protocol::Grpc,
            certificate: certificate.clone(),
            key: key.clone(),
            clients,
        }))
    }

    pub(super) fn http(&self) -> anyhow::Result<Option<Config>> {
        let (certificate, key) = match (&self.http_tls_cert, &self.http_tls_key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if self.http_client_ca.is_none() && self.http_client_san.is_none() => {
                return Ok(None);
            }
            _ => bail!("TLS over HTTP needs --http-tls-cert and --http-tls-key"),
        };
        if self.http_client_san.is_some() && self.http_client_ca.is_none() {
            bail!("--http-client-san needs --http-client-ca");
        }
        let clients = self.http_client_ca.as_ref().map(|ca| Clients {
            ca: ca.clone(),
            system_roots: false,
            name: self.http_client_san.clone(),
        });
        Ok(Some(Config {
            protocol: Protocol::Http,
            certificate: certificate.clone(),
            key: key.clone(),
            clients,
        }))
    }
}

fn name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| "a DNS name, or an IP address".to_owned())
}
