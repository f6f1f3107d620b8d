//! config/envoy/envoy.yaml with config/quickstart, as they are; only ports
//! are changed, and the filter's patience.

use std::{fs, net::TcpListener, path::Path};

use anyhow::ensure;
use http::{Method, StatusCode};

use crate::support::{Client, Envoy, TestApp, local};

#[tokio::test]
async fn limits_as_its_comments_say() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let app = TestApp::start(&root.join("config/quickstart"), local(0), &[]).await?;
    // The cluster must know the demo upstream's port beforehand.
    let hello = TcpListener::bind(local(0))?.local_addr()?.port();
    let mut config = fs::read_to_string(root.join("config/envoy/envoy.yaml"))?;
    for (shipped, used) in [
        ("port_value: 10000", "port_value: 0".to_owned()),
        ("port_value: 9901", "port_value: 0".to_owned()),
        ("port_value: 9000", format!("port_value: {hello}")),
        (
            "port_value: 8081",
            format!("port_value: {}", app.grpc.port()),
        ),
        ("timeout: 0.25s", "timeout: 20s".to_owned()),
    ] {
        ensure!(config.contains(shipped), "no {shipped} in the config");
        config = config.replace(shipped, &used);
    }
    let envoy = Envoy::start(&config).await?;
    let client = Client::connect(envoy.listener("ingress")?).await?;

    // A minute may end once in between: of more than two windows' worth some
    // are refused, and the first window's worth never is.
    let alice: &[(&str, &[u8])] = &[("x-user", b"alice")];
    let mut refused = 0;
    for number in 0..11 {
        let answer = client.get("/", alice).await?;
        let limit = answer.header("x-ratelimit-limit");
        ensure!(limit.contains("5;w=60;name=\"per-user\""), "{limit}");
        if answer.status == StatusCode::OK {
            ensure!(answer.body == "hello\n", "{answer:?}");
        } else {
            ensure!(answer.status == 429 && number >= 5, "{number}: {answer:?}");
            refused += 1;
        }
    }
    ensure!(refused > 0, "alice was never refused");

    for _ in 0..12 {
        let answer = client.get("/", &[("x-user", b"root")]).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }

    let mut refused = 0;
    for number in 0..21 {
        let answer = client.send(Method::POST, "/login?again", &[]).await?;
        if answer.status != StatusCode::OK {
            ensure!(answer.status == 429 && number >= 10, "{number}: {answer:?}");
            let limit = answer.header("x-ratelimit-limit");
            ensure!(limit.contains("10;w=3600;name=\"logins\""), "{limit}");
            refused += 1;
        }
    }
    ensure!(refused > 0, "logins were never refused");
    let answer = client.get("/login", &[]).await?;
    ensure!(answer.status == 200, "GET is no login: {answer:?}");

    for (path, header, policy) in [
        ("/files/a?b", "x-none", "1000;w=1"),
        ("/", "x-api-key", "10000;w=86400"),
    ] {
        let answer = client.get(path, &[(header, b"k")]).await?;
        let limit = answer.header("x-ratelimit-limit");
        ensure!(
            limit.contains(policy) && limit.contains("per-address"),
            "{path}: {limit}"
        );
    }
    ensure!(envoy.counter("cluster.upstream.ratelimit.error").await? == 0);
    Ok(())
}
