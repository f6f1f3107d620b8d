//! Every kind of server can be reached, and what is wrong is said in time.

use std::time::Duration;

use ratekeeper::{
    clock::Clock,
    engine::{decision::Code, descriptor::Hits},
    storage::redis::{
        Config,
        address::{Address, TlsFiles},
    },
};
use tokio::time::Instant;

use super::{
    ask, limiter,
    servers::{Certificates, Cluster, Options, Sentinels, Server},
    settings, store,
};

const RULES: &str = "
domain: d
descriptors:
  - key: a
    rate_limit: {unit: hour, requests_per_unit: 3}
  - key: s
    rate_limit: {unit: second, requests_per_unit: 1000}
";

/// Three of four pass, of several counters.
async fn counts(config: &Config) {
    let limiter = limiter(RULES, config).await;
    for value in 0..20 {
        let value = value.to_string();
        for number in 1..=4 {
            let answer = ask(&limiter, &[("a", &value)], Hits::Take(1)).await;
            let code = answer.expect("an answer").decision.code;
            assert_eq!(code == Code::Ok, number <= 3, "{value} {number}");
        }
    }
}

async fn fails(config: &Config, expected: &str) {
    let asked = Instant::now();
    let store = store(config, Clock::System);
    store.take_seat();
    let error = store
        .first_look(Duration::from_secs(20))
        .await
        .expect_err(expected);
    assert!(error.to_string().contains(expected), "{error}");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn one_server() {
    let server = Server::plain();
    counts(&settings(&server.address())).await;
    let socket = format!("unix://{}", server.socket().display());
    counts(&settings(&socket)).await;
    let other = format!("redis://127.0.0.1:{}/3", server.port);
    counts(&settings(&other)).await;
    assert!(
        server.command(&["-n", "3", "DBSIZE"]).trim() != "0",
        "in database 3"
    );
}

#[tokio::test]
async fn users_and_passwords() {
    let server = Server::start(&Options {
        password: Some("geheim"),
        arguments: &["--user", "limits", "on", ">p@ss", "~*", "+@all", "-role"],
        ..Options::default()
    });
    let at = |login: &str| settings(&format!("redis://{login}@127.0.0.1:{}", server.port));
    counts(&at(":geheim")).await;
    counts(&at("limits:p%40ss")).await;
    fails(&at(":wrong"), "cannot connect").await;
    fails(&settings(&server.address()), "uthentication").await;
}

#[tokio::test]
async fn tls_both_ways() {
    let certificates = Certificates::make();
    let server = Server::start(&Options {
        tls: Some(&certificates),
        ..Options::default()
    });
    let at = |host: &str, files: TlsFiles| Config {
        tls: files,
        ..settings(&format!("rediss://{host}:{}", server.port))
    };
    let good = TlsFiles {
        ca: Some(certificates.path("ca.crt")),
        cert: Some(certificates.path("client.crt")),
        key: Some(certificates.path("client.key")),
        skip_hostname_verification: false,
    };
    counts(&at("127.0.0.1", good.clone())).await;
    let other = TlsFiles {
        ca: Some(certificates.path("other.crt")),
        ..good.clone()
    };
    fails(&at("127.0.0.1", other.clone()), "certificate").await;
    let unverified = TlsFiles {
        skip_hostname_verification: true,
        ..other
    };
    fails(&at("127.0.0.1", unverified), "certificate").await;
    let nobody = TlsFiles {
        cert: None,
        key: None,
        ..good
    };
    fails(&at("127.0.0.1", nobody), "CertificateRequired").await;
}

#[tokio::test]
async fn sentinels() {
    let set = Sentinels::start(Some("geheim"), Some("wache"));
    counts(&settings(
        &set.address(":geheim@", "?sentinel_password=wache"),
    ))
    .await;
    fails(&settings(&set.address(":geheim@", "")), "NOAUTH").await;
    let replica = format!("redis://:geheim@127.0.0.1:{}", set.servers[1].port);
    fails(&settings(&replica), "is a replica").await;
}

#[tokio::test]
async fn a_cluster() {
    let cluster = Cluster::start();
    counts(&settings(&cluster.address())).await;
    for node in cluster.primaries() {
        let size = cluster.nodes[node].command(&["DBSIZE"]);
        assert!(size.trim() != "0", "every primary has some of the keys");
    }
}

#[tokio::test]
async fn another_server_for_limits_per_second() {
    let (main, per_second) = (Server::plain(), Server::plain());
    let config = Config {
        per_second: Some(Address::parse(&per_second.address()).expect("an address")),
        ..settings(&main.address())
    };
    let limiter = limiter(RULES, &config).await;
    for key in ["a", "s"] {
        let answer = ask(&limiter, &[(key, "x")], Hits::Take(1)).await;
        assert_eq!(answer.expect("an answer").decision.code, Code::Ok);
    }
    let keys = |server: &Server| server.command(&["KEYS", "*rk:*"]);
    assert!(keys(&main).contains(",1:a=") && !keys(&main).contains(",1:s="));
    assert!(keys(&per_second).contains(",1:s=") && !keys(&per_second).contains(",1:a="));
}

#[tokio::test]
async fn nobody_there() {
    fails(&settings("redis://127.0.0.1:1"), "refused").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = silent.local_addr().expect("its own").port();
    let quick = Config {
        connect_timeout: Duration::from_millis(200),
        ..settings(&format!("redis://127.0.0.1:{port}"))
    };
    fails(&quick, "no connection within 200ms").await;
}
