//! An Envoy whose routes a test writes as Envoy's JSON, with ratekeeper and
//! an upstream.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Envoy, TestApp, Upstream, local};

/// What differs from lab to lab.
pub(super) struct Setup<'a> {
    /// The rules file; its domain is `lab`.
    pub(super) rules: &'a str,
    /// Flags of `ratekeeper serve`.
    pub(super) flags: &'a [&'a str],
    /// Whether Envoy writes its x-ratelimit headers.
    pub(super) envoy_headers: bool,
    /// A path's prefix, and its rate limits in Envoy's words (or all of its
    /// `RateLimitPerRoute`); null: those of the filter.
    pub(super) routes: Vec<(&'a str, Value)>,
}

/// All of it, running.
pub(super) struct Lab {
    pub(super) app: Option<TestApp>,
    pub(super) grpc: SocketAddr,
    pub(super) envoy: Envoy,
    pub(super) upstream: Upstream,
    pub(super) rules: PathBuf,
    _folder: TempDir,
}

/// What Envoy made of ratekeeper's answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) ok: u64,
    pub(super) over_limit: u64,
    pub(super) error: u64,
}

impl Lab {
    pub(super) async fn start(setup: &Setup<'_>) -> anyhow::Result<Self> {
        Self::start_with(setup, |_| {}).await
    }

    /// The same, with `adjust` to change what Envoy knows of the service.
    pub(super) async fn start_with(
        setup: &Setup<'_>,
        adjust: impl FnOnce(&mut Value),
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let rules = folder.path().join("rules.yaml");
        fs::write(&rules, setup.rules)?;
        let app = TestApp::start(&rules, local(0), setup.flags).await?;
        let upstream = Upstream::start().await?;
        let mut config = config(setup, app.grpc, upstream.address);
        adjust(&mut config["static_resources"]["clusters"][0]);
        Ok(Self {
            grpc: app.grpc,
            app: Some(app),
            envoy: Envoy::start(&config.to_string()).await?,
            upstream,
            rules,
            _folder: folder,
        })
    }

    /// A connection to Envoy.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.envoy.listener("ingress")?).await
    }

    pub(super) async fn tally(&self) -> anyhow::Result<Tally> {
        let counter = async |name: &str| {
            let name = format!("cluster.upstream.ratelimit.{name}");
            self.envoy.counter(&name).await
        };
        Ok(Tally {
            ok: counter("ok").await?,
            over_limit: counter("over_limit").await?,
            error: counter("error").await?,
        })
    }
}

/// Envoy's rate limit of one descriptor with these actions.
pub(super) fn limit(actions: Value) -> Value {
    json!({ "actions": actions })
}

/// The action that sends a header's value under a key.
pub(super) fn header(name: &str, key: &str) -> Value {
    json!({"request_headers": {"header_name": name, "descriptor_key": key}})
}

fn config(setup: &Setup<'_>, grpc: SocketAddr, upstream: SocketAddr) -> Value {
    let routes: Vec<_> = setup.routes.iter().map(route).collect();
    let ingress = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        // The client's address is the last of x-forwarded-for.
        "use_remote_address": true,
        "xff_num_trusted_hops": 1,
        "http_filters": [metadata_filter(), limit_filter(setup.envoy_headers), {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "ingress",
                "address": address(local(0)),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": ingress,
                }]}],
            }],
            "clusters": [cluster("ratekeeper", grpc), cluster("upstream", upstream)],
        },
        "admin": {"address": address(local(0))},
    })
}

/// Hits are read only from a route's own `RateLimitPerRoute`, or the filter.
fn route((prefix, rate_limits): &(&str, Value)) -> Value {
    let mut route = json!({
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream", "timeout": "30s"},
    });
    if rate_limits.is_object() {
        let filters = json!({"envoy.filters.http.ratelimit": rate_limits});
        route["typed_per_filter_config"] = filters;
    } else if !rate_limits.is_null() {
        route["typed_per_filter_config"] = json!({"envoy.filters.http.ratelimit": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
            "rate_limits": rate_limits,
        }});
    }
    route
}

/// Stands in for a filter that knows a client's plan.
fn metadata_filter() -> Value {
    json!({
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [{
                "metadata_namespace": "plan",
                "value": {"limit": {"requests_per_unit": 2, "unit": "YEAR"}},
            }],
        },
    })
}

fn limit_filter(envoy_headers: bool) -> Value {
    json!({
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            "domain": "lab",
            "rate_limits": [{
                "actions": [header("x-account", "cost")],
                "hits_addend": {"format": "%REQ(x-cost)%"},
            }],
            // Only what is lost may count as lost, not what is slow here.
            "timeout": "20s",
            "enable_x_ratelimit_headers": if envoy_headers { "DRAFT_VERSION_03" } else { "OFF" },
            "rate_limited_as_resource_exhausted": true,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "ratekeeper"}},
            },
        },
    })
}

fn cluster(name: &str, endpoint: SocketAddr) -> Value {
    json!({
        "name": name,
        "connect_timeout": "5s",
        // Envoy's own bounds must not be what a test meets.
        "circuit_breakers": {"thresholds": [{
            "max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000,
        }]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(endpoint)}},
        ]}]},
    })
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
