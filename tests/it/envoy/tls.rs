//! Between Envoy and ratekeeper: TLS with certificates on both sides, and
//! connections that come to an end.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    lab::{Lab, Setup, header, limit},
    traffic::{RULES, Traffic},
};
use crate::{
    pki::{Authority, Secret},
    support::wait_for,
    tls::peer::Caller,
};

const SERVICE: &str = "ratekeeper.mesh.example";
const ENVOY: &str = "envoy.mesh.example";

/// The snippet that is shipped, with other files.
fn transport_socket(secret: &Secret) -> anyhow::Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/envoy/mtls.yaml");
    let mut text = fs::read_to_string(path)?;
    for (shipped, used) in [
        ("/certs/tls.crt", secret.text("tls.crt")),
        ("/certs/tls.key", secret.text("tls.key")),
        ("/certs/ca.crt", secret.text("ca.crt")),
        ("ratekeeper.example", SERVICE.to_owned()),
    ] {
        ensure!(text.contains(shipped), "no {shipped} in the snippet");
        text = text.replace(shipped, &used);
    }
    let snippet: Value = serde_yaml::from_str(&text)?;
    Ok(snippet["transport_socket"].clone())
}

/// A lab with this in the service's cluster.
async fn lab(flags: &[&str], cluster: impl FnOnce(&mut Value)) -> anyhow::Result<Lab> {
    let setup = Setup {
        rules: RULES,
        flags,
        envoy_headers: false,
        routes: vec![("/", json!([limit(json!([header("x-user", "user")]))]))],
    };
    Lab::start_with(&setup, cluster).await
}

/// With TLS by these files on both sides, and a new connection every few
/// requests.
async fn encrypted(ours: &Secret, theirs: &Secret) -> anyhow::Result<Lab> {
    let transport_socket = transport_socket(theirs)?;
    let flag = |name: &str, file: &str| format!("--{name}={}", ours.text(file));
    let flags = [
        "--grpc-tls".to_owned(),
        flag("grpc-tls-cert", "tls.crt"),
        flag("grpc-tls-key", "tls.key"),
        flag("grpc-client-ca", "ca.crt"),
        format!("--grpc-client-san={ENVOY}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    lab(&flags, |cluster| {
        cluster["transport_socket"] = transport_socket;
        let options = &mut cluster["typed_extension_protocol_options"];
        options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["common_http_protocol_options"] =
            json!({"max_requests_per_connection": 50});
    })
    .await
}

#[tokio::test]
async fn certificates_are_swapped_under_load() -> anyhow::Result<()> {
    let authority = Authority::new("a");
    let mut ours = Secret::new(&authority.issue(&[SERVICE]), &authority);
    let theirs = Secret::new(&authority.issue(&[ENVOY]), &authority);
    let lab = encrypted(&ours, &theirs).await?;
    let traffic = Traffic::start(&lab).await?;
    traffic.more(200).await?;

    let pair = authority.issue(&[ENVOY]);
    let mut caller = Caller::new(&authority, SERVICE);
    caller.pair = Some(&pair);
    for _ in 0..2 {
        let next = authority.issue(&[SERVICE]);
        ours.swap(&next, &authority);
        wait_for("new certificate", async || {
            let stream = caller.connect(lab.grpc).await.ok()?;
            let served = stream.get_ref().1.peer_certificates()?.first()?;
            (*served == next.certificate_der()).then_some(())
        })
        .await?;
        traffic.more(500).await?;
    }

    // A pair of which one half is missing.
    let mut bad = authority.issue(&[SERVICE]);
    bad.key = String::new();
    ours.swap(&bad, &authority);
    traffic.more(1_000).await?;
    traffic.end(&lab).await?;
    let handshakes = lab
        .envoy
        .counter("cluster.ratekeeper.ssl.handshake")
        .await?;
    ensure!(handshakes >= 20, "{handshakes} handshakes");
    Ok(())
}

#[tokio::test]
async fn an_envoy_without_the_right_name_is_refused() -> anyhow::Result<()> {
    let authority = Authority::new("a");
    let ours = Secret::new(&authority.issue(&[SERVICE]), &authority);
    let theirs = Secret::new(&authority.issue(&["other.mesh.example"]), &authority);
    let lab = encrypted(&ours, &theirs).await?;
    let client = lab.client().await?;
    // Envoy lets requests pass that nobody decides.
    let answer = client.get("/", &[("x-user", b"banned")]).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let tally = lab.tally().await?;
    ensure!((tally.ok, tally.error) == (0, 1), "{tally:?}");
    Ok(())
}

#[tokio::test]
async fn connections_of_a_second_lose_no_call() -> anyhow::Result<()> {
    let lab = lab(&["--max-connection-age", "1s"], |_| {}).await?;
    let traffic = Traffic::start(&lab).await?;
    wait_for("old connections", async || {
        let name = "cluster.ratekeeper.upstream_cx_close_notify";
        let closed = lab.envoy.counter(name).await.ok()?;
        (closed >= 6).then_some(())
    })
    .await
    .context("Envoy is told that a connection is old")?;
    traffic.more(100).await?;
    traffic.end(&lab).await
}
