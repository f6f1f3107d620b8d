//! Rules from a management server: flags and variables → [`xds::Config`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{
    ArgAction, Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use prost_types::{Struct, Value, value::Kind};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use super::{boolean, duration};
use crate::{
    config::Options,
    proto::envoy::config::core::v3::{Node, node::UserAgentVersionType},
    xds::{
        self,
        backoff::Growth,
        connect::{Address, Server, Tls},
    },
};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules from a management server (xDS)")]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub(super) struct Xds {
    /// Take rules from this management server, instead of files
    #[arg(long, env = "RATEKEEPER_XDS_SERVER", value_name = "HOST:PORT", value_parser = Address::parse)]
    xds_server: Option<Address>,
    /// Where rules come from, unless --xds-server is given: FILE or GRPC_XDS_SOTW
    #[arg(long, env = "CONFIG_TYPE", value_name = "TYPE", default_value = "FILE", value_parser = from_server(), action = ArgAction::Set)]
    config_type: bool,
    /// The management server of --config-type GRPC_XDS_SOTW
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_URL", value_name = "HOST:PORT", default_value = "localhost:18000",
          value_parser = Address::parse)]
    xds_server_url: Address,
    /// What this process is called there
    #[arg(
        long,
        env = "CONFIG_GRPC_XDS_NODE_ID",
        value_name = "ID",
        default_value = "default"
    )]
    xds_node_id: String,
    /// What else it says of itself: key=value,…
    #[arg(
        long,
        env = "CONFIG_GRPC_XDS_NODE_METADATA",
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    xds_node_metadata: String,
    /// Headers of its call: name:value,…
    #[arg(
        long,
        env = "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
        value_name = "LIST",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    xds_headers: String,
    /// Speak TLS to it
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_USE_TLS", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    xds_tls: bool,
    /// Our own certificate, with --xds-tls
    #[arg(
        long,
        env = "CONFIG_GRPC_XDS_CLIENT_TLS_CERT",
        value_name = "FILE",
        requires = "xds_client_key"
    )]
    xds_client_cert: Option<PathBuf>,
    /// Its key
    #[arg(
        long,
        env = "CONFIG_GRPC_XDS_CLIENT_TLS_KEY",
        value_name = "FILE",
        requires = "xds_client_cert"
    )]
    xds_client_key: Option<PathBuf>,
    /// Authorities that are trusted beside the system's
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_TLS_CACERT", value_name = "FILE")]
    xds_ca_cert: Option<PathBuf>,
    /// The name that its certificate must have [default: the host]
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_TLS_SAN", value_name = "NAME")]
    xds_server_name: Option<String>,
    /// The first wait before it is asked again, when it has gone away
    #[arg(long, env = "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = duration)]
    xds_backoff_initial: Duration,
    /// The longest wait
    #[arg(long, env = "XDS_CLIENT_BACKOFF_MAX_INTERVAL", value_name = "TIME", default_value = "60s", value_parser = duration)]
    xds_backoff_max: Duration,
    /// How much longer each wait is than the one before; 2 where this is not above 1
    #[arg(
        long,
        env = "XDS_CLIENT_BACKOFF_RANDOM_FACTOR",
        value_name = "FACTOR",
        default_value_t = 0.5
    )]
    xds_backoff_factor: f64,
    /// Take up to half of each wait off, at random
    #[arg(long, env = "XDS_CLIENT_BACKOFF_JITTER", value_name = "BOOL", default_value = "true",
          value_parser = boolean(), action = ArgAction::Set)]
    xds_backoff_jitter: bool,
    /// Bytes of a message from it; 0 is 4 MiB
    #[arg(
        long,
        env = "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
        value_name = "BYTES",
        default_value_t = 0
    )]
    xds_max_message_bytes: usize,
    /// Without a sign of life, until it is asked for one. Servers in Go end connections that ask more
    /// often than every 5m, unless they say otherwise
    #[arg(long, env = "RATEKEEPER_XDS_KEEPALIVE_INTERVAL", value_name = "TIME", default_value = "5m30s", value_parser = duration)]
    xds_keepalive_interval: Duration,
    /// Read, and of no effect, as in the reference: waits are those of the flags above
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", value_name = "TIME", default_value = "3s",
          value_parser = duration, hide = true)]
    xds_connect_retry_interval: Duration,
}

// === impl Xds ===

impl Xds {
    /// Where rules come from, if it is a management server; `rules` is what
    /// says that they are in files.
    pub(super) fn config(
        &self,
        rules: Option<&PathBuf>,
        compile: Options,
    ) -> anyhow::Result<Option<xds::Config>> {
        let address = match &self.xds_server {
            Some(address) => address,
            None if self.config_type => &self.xds_server_url,
            None => return Ok(None),
        };
        if let Some(path) = rules {
            bail!(
                "rules from {} and from the management server {address}: it can only be one of them",
                path.display()
            );
        }
        let max_message_bytes = match self.xds_max_message_bytes {
            0 => xds::MAX_MESSAGE_BYTES,
            bytes => bytes,
        };
        Ok(Some(xds::Config {
            server: Server {
                address: address.clone(),
                tls: self.tls(),
                keepalive_interval: self.xds_keepalive_interval,
            },
            node: self.node(),
            headers: headers(&self.xds_headers)?,
            max_message_bytes,
            growth: Growth {
                initial: self.xds_backoff_initial,
                max: self.xds_backoff_max,
                factor: self.xds_backoff_factor,
                jitter: self.xds_backoff_jitter,
            },
            compile,
        }))
    }

    fn tls(&self) -> Option<Tls> {
        let pair = self
            .xds_client_cert
            .clone()
            .zip(self.xds_client_key.clone());
        self.xds_tls.then(|| Tls {
            identity: pair,
            authorities: self.xds_ca_cert.clone(),
            name: self.xds_server_name.clone(),
        })
    }

    fn node(&self) -> Node {
        let fields = metadata(&self.xds_node_metadata);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Node {
            id: self.xds_node_id.clone(),
            metadata: (!fields.is_empty()).then_some(Struct { fields }),
            user_agent_name: env!("CARGO_PKG_NAME").to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version)),
        }
    }
}

fn from_server() -> impl clap::builder::TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["FILE", "GRPC_XDS_SOTW"]).map(|text| text == "GRPC_XDS_SOTW")
}

/// `k=v,k=v`; an entry without `=` is dropped, as by the reference.
fn metadata(list: &str) -> BTreeMap<String, Value> {
    let pairs = list.split(',').filter_map(|entry| entry.split_once('='));
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    pairs
        .map(|(key, value)| (key.to_owned(), text(value)))
        .collect()
}

/// `k:v,k:v`; nothing of it is shown to anybody. Not read where flags are: a
/// mistake there is told with all that was given.
fn headers(list: &str) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    let pairs = list.split(',').filter(|_| !list.is_empty());
    for (place, pair) in (1..).zip(pairs) {
        let wrong = |what| {
            let flag = "--xds-headers (CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS)";
            anyhow::anyhow!("{flag}: number {place} {what}")
        };
        let Some((name, value)) = pair.split_once(':') else {
            return Err(wrong("is not written name:value"));
        };
        let key = AsciiMetadataKey::from_bytes(name.as_bytes())
            .map_err(|_| wrong("has a name that no header has"))?;
        let mut value = AsciiMetadataValue::try_from(value)
            .map_err(|_| wrong("has a value that does not fit into a header"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_pairs_and_drops_the_rest() {
        let keys = |list| metadata(list).into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(""), "");
        assert_eq!(keys("b=2,a=1,c,d="), "a b d");
        let value = metadata("a=b=c").remove("a").and_then(|value| value.kind);
        assert_eq!(value, Some(Kind::StringValue("b=c".to_owned())));
    }

    #[test]
    fn headers_are_pairs_and_nothing_else() {
        assert!(headers("").unwrap().is_empty());
        let read = headers("x-token:a:b,x-more:1").unwrap();
        assert_eq!(read.get("x-token").unwrap(), "a:b");
        assert_eq!(read.len(), 2);
        assert!(!format!("{read:?}").contains("a:b"), "{read:?}");
        for (wrong, expected) in [
            ("x-token", "number 1 is not written name:value"),
            ("a b:1", "number 1 has a name"),
            ("a:1,b:\n", "number 2 has a value"),
            ("x-bin:1", "number 1 has a name"),
            ("a:1,", "number 2 is not written"),
        ] {
            let told = headers(wrong).unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
