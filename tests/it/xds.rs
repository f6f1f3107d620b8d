//! Rules from a management server: what is acknowledged, what is refused, and
//! what becomes of connections. `start` is about the program.

mod management;
mod start;

use std::{path::Path, sync::Arc, time::Duration};

use prost::Message as _;
use prost_types::{Any, Struct, Value, value::Kind};
use ratekeeper::{
    clock::Clock,
    config::Options,
    engine::{
        decision::{Code, Policy},
        descriptor::{Descriptor, Entry, Hits, Request},
    },
    limiter::{LimitError, Limiter},
    proto::{
        envoy::config::core::v3::Node,
        ratelimit::config::ratelimit::v3::{RateLimitConfig, RateLimitDescriptor},
    },
    rulebook::Rulebook,
    storage::{AnyStore, ChargeMode, Ladder},
    xds::{
        Config, Figures, MAX_MESSAGE_BYTES, Subscription,
        backoff::Growth,
        connect::{Address, Server, Tls},
    },
};
use tokio::{task::JoinHandle, time::Instant};
use tonic::metadata::MetadataMap;

use self::management::{Authority, Management, TYPE_URL, domain, listen};
use crate::{
    redis::memory_store,
    support::{PATIENCE, wait_for},
};

/// A client of a management server, in this process.
struct Client {
    subscription: Arc<Subscription>,
    rulebook: Arc<Rulebook>,
    running: JoinHandle<()>,
}

impl Client {
    fn start(config: Config) -> Self {
        let (store, mode) = (AnyStore::Memory(memory_store()), ChargeMode::Always);
        let limiter = Limiter::new(
            Clock::System,
            store,
            Ladder::none(),
            Policy::default(),
            mode,
        );
        let rulebook = Arc::new(Rulebook::new(Arc::new(limiter), Clock::System));
        let subscription = Arc::new(Subscription::new(config, Arc::clone(&rulebook)));
        let run = Arc::clone(&subscription).run();
        let running = tokio::spawn(async {
            run.await;
        });
        Self {
            subscription,
            rulebook,
            running,
        }
    }

    fn figures(&self) -> Figures {
        self.subscription.figures()
    }

    /// Takes one hit of `domain` for its key `k`.
    async fn ask(&self, domain: &str) -> Result<Code, LimitError> {
        let entries = [Entry {
            key: b"k",
            value: b"v",
        }];
        let descriptor = Descriptor {
            entries: &entries,
            limit: None,
            hits: Hits::Take(1),
        };
        let request = Request {
            domain: domain.as_bytes(),
            descriptors: &[descriptor],
        };
        let answer = self.rulebook.limiter().decide(&request, None).await?;
        Ok(answer.decision.code)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn config(management: &Management) -> Config {
    config_of(management.address.port(), None)
}

fn config_of(port: u16, tls: Option<Tls>) -> Config {
    Config {
        server: Server {
            address: Address::parse(&format!("localhost:{port}")).unwrap(),
            tls,
            keepalive_interval: PATIENCE,
        },
        node: Node {
            id: "node".to_owned(),
            ..Node::default()
        },
        headers: MetadataMap::new(),
        max_message_bytes: MAX_MESSAGE_BYTES,
        growth: growth(20, 20),
        compile: Options {
            compat: true,
            ..Options::default()
        },
    }
}

fn growth(initial: u64, max: u64) -> Growth {
    Growth {
        initial: Duration::from_millis(initial),
        max: Duration::from_millis(max),
        factor: 2.0,
        jitter: false,
    }
}

/// The files of a mounted Secret.
fn secret(folder: &Path) -> Tls {
    Tls {
        identity: Some((folder.join("tls.crt"), folder.join("tls.key"))),
        authorities: Some(folder.join("ca.crt")),
        name: None,
    }
}

#[tokio::test]
async fn it_asks_for_everything_and_says_who_it_is() {
    let mut management = Management::start(0, None).await;
    let mut config = config(&management);
    let text = Kind::StringValue("eu".to_owned());
    let fields = [("zone".to_owned(), Value { kind: Some(text) })].into();
    config.node.metadata = Some(Struct { fields });
    config.headers.insert("x-tenant", "7".parse().unwrap());
    let node = config.node.clone();
    let _client = Client::start(config);

    let mut stream = management.stream().await;
    assert_eq!(stream.headers.get("x-tenant").unwrap(), "7");
    let request = stream.request().await;
    assert_eq!(request.node, Some(node));
    assert_eq!(request.type_url, TYPE_URL);
    assert!(request.resource_names.is_empty());
    assert_eq!((&*request.version_info, &*request.response_nonce), ("", ""));
    assert_eq!(request.error_detail, None);
}

#[tokio::test]
async fn domains_appear_and_vanish_and_counters_stay() {
    let mut management = Management::start(0, None).await;
    let client = Client::start(config(&management));
    let mut stream = management.stream().await;
    stream.request().await;
    assert_eq!(client.ask("a").await, Err(LimitError::NoRules));

    // The first response may be empty.
    stream.adopt("1", &[]).await;
    assert_eq!(client.ask("a").await, Ok(Code::Ok));

    stream.adopt("2", &[domain("a", "k", 1)]).await;
    assert_eq!(client.ask("a").await, Ok(Code::Ok));
    assert_eq!(client.ask("a").await, Ok(Code::OverLimit));
    assert_eq!(client.ask("b").await, Ok(Code::Ok));

    let both = [domain("a", "k", 1), domain("b", "k", 0)];
    stream.adopt("3", &both).await;
    assert_eq!(client.ask("a").await, Ok(Code::OverLimit));
    assert_eq!(client.ask("b").await, Ok(Code::OverLimit));

    stream.adopt("4", &[domain("b", "k", 0)]).await;
    assert_eq!(client.ask("a").await, Ok(Code::Ok));
    assert_eq!(client.ask("b").await, Ok(Code::OverLimit));

    // Three hits were counted before it vanished.
    stream.adopt("5", &[domain("a", "k", 4)]).await;
    assert_eq!(client.ask("a").await, Ok(Code::Ok));
    assert_eq!(client.ask("a").await, Ok(Code::OverLimit));

    let figures = client.figures();
    assert_eq!(figures.version.as_deref(), Some("5"));
    assert_eq!((figures.accepted, figures.refused), (5, 0));
    assert!(figures.connected);
    assert_eq!(client.rulebook.loads().successes, 5);
}

#[tokio::test]
async fn bad_rules_are_refused_with_their_mistakes_and_the_good_ones_stay() {
    let mut management = Management::start(0, None).await;
    let client = Client::start(config(&management));
    let mut stream = management.stream().await;
    stream.request().await;
    // There is no good version yet.
    let bad = [domain("", "k", 1), domain("b", "", 1)];
    stream.send("1", "a", &bad).await;
    let answer = stream.request().await;
    assert_eq!((&*answer.version_info, &*answer.response_nonce), ("", "a"));
    let error = answer.error_detail.expect("an error");
    let expected = "resource : config file cannot have empty domain\n\
                    resource b: descriptor has empty key";
    assert_eq!((error.code, &*error.message), (3, expected));

    stream.adopt("2", &[domain("a", "k", 0)]).await;
    let twice = [domain("a", "k", 1), domain("a", "k", 1)];
    stream.send("3", "c", &twice).await;
    let answer = stream.request().await;
    assert_eq!((&*answer.version_info, &*answer.response_nonce), ("2", "c"));
    let error = answer.error_detail.expect("an error");
    let expected = "resource a: duplicate domain 'a' in config file";
    assert_eq!(error.message, expected);
    assert_eq!(client.ask("a").await, Ok(Code::OverLimit));

    let loads = client.rulebook.loads();
    assert_eq!((loads.successes, loads.failures), (1, 2));
    assert_eq!(loads.trouble.as_deref(), Some(expected));
    let figures = client.figures();
    assert_eq!((figures.accepted, figures.refused), (1, 2));
    assert_eq!(figures.version.as_deref(), Some("2"));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_but_is_no_failed_load() {
    let mut management = Management::start(0, None).await;
    let client = Client::start(config(&management));
    let mut stream = management.stream().await;
    stream.request().await;
    let any = |type_url: &str, value: &[u8]| Any {
        type_url: type_url.to_owned(),
        value: value.to_vec(),
    };
    // Nested deeper than any stack is.
    let deep = (0..200_000).fold(vec![], |below: Vec<u8>, _| {
        let mut field = vec![];
        prost::encoding::encode_key(4, prost::encoding::WireType::LengthDelimited, &mut field);
        prost::encoding::encode_varint(below.len() as u64, &mut field);
        if below.len() > 100_000 {
            return below;
        }
        field.extend(below);
        field
    });
    let mut config = domain("a", "k", 1).encode_to_vec();
    prost::encoding::encode_key(3, prost::encoding::WireType::LengthDelimited, &mut config);
    prost::encoding::encode_varint(deep.len() as u64, &mut config);
    config.extend(deep);
    for (number, (resource, expected)) in [
        (any(TYPE_URL, &[0xff]), "cannot decode resource 2: "),
        (any(TYPE_URL, b"\x0a\x01\xff"), "cannot decode resource 2: "),
        (any(TYPE_URL, &config), "recursion limit reached"),
        (
            any("type.googleapis.com/other", &[]),
            "is no RateLimitConfig",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let good = any(TYPE_URL, &domain("a", "k", 1).encode_to_vec());
        let nonce = number.to_string();
        stream.send_any("1", &nonce, vec![good, resource]).await;
        let answer = stream.request().await;
        assert_eq!(answer.response_nonce, nonce);
        let error = answer.error_detail.expect("an error");
        assert!(error.message.contains(expected), "{}", error.message);
    }
    assert_eq!(client.rulebook.loads().failures, 0);
    let figures = client.figures();
    assert_eq!((figures.undecodable, figures.refused), (4, 0));
    stream.adopt("2", &[domain("a", "k", 1)]).await;
}

/// Some servers send again at once what was refused.
#[tokio::test]
async fn refusals_in_a_row_take_their_time() {
    let mut management = Management::start(0, None).await;
    let _client = Client::start(config(&management));
    let mut stream = management.stream().await;
    stream.request().await;
    let since = Instant::now();
    for _ in 0..4 {
        stream.send("1", "", &[domain("", "k", 1)]).await;
        stream.request().await;
    }
    // 0, and half of 100, 200 and 400 ms at least.
    assert!(since.elapsed() >= Duration::from_millis(350));
}

#[tokio::test]
async fn it_comes_back_after_waits_that_grow() {
    let mut management = Management::start(0, None).await;
    let port = management.address.port();
    let client = Client::start(Config {
        growth: growth(100, 10_000),
        ..config(&management)
    });
    let mut stream = management.stream().await;
    stream.request().await;
    stream.adopt("7", &[domain("a", "k", 0)]).await;
    management.kill();

    // Nobody there, and then one who hangs up at once.
    let deaf = tokio::net::TcpListener::from_std({
        let listener = listen(port).await;
        listener.set_nonblocking(true).unwrap();
        listener
    })
    .unwrap();
    let mut times = vec![];
    for _ in 0..4 {
        let (peer, _) = deaf.accept().await.unwrap();
        times.push(Instant::now());
        drop(peer);
    }
    drop(deaf);
    // 200, 400 and 800 ms; they would be 300 together if they did not grow.
    let waited = times[3] - times[0];
    assert!(waited >= Duration::from_millis(1_000), "{waited:?}");
    // Rules stay meanwhile.
    assert_eq!(client.ask("a").await, Ok(Code::OverLimit));
    let figures = client.figures();
    assert!(!figures.connected);
    assert!(figures.trouble.is_some() && figures.reconnects >= 4);

    // A new server counts its versions anew: it is not told the old one.
    let mut management = Management::start(port, None).await;
    let mut stream = management.stream().await;
    let request = stream.request().await;
    assert_eq!((&*request.version_info, &*request.response_nonce), ("", ""));
    stream.adopt("1", &[domain("a", "k", 9)]).await;
    assert_eq!(client.ask("a").await, Ok(Code::Ok));
    let figures = client.figures();
    assert!(figures.connected && figures.trouble.is_none());

    // After a good response waits are short again.
    let since = Instant::now();
    management.kill();
    let mut management = Management::start(port, None).await;
    management.stream().await;
    assert!(since.elapsed() < Duration::from_millis(3_000));
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    // It takes connections and says nothing, not even HTTP/2's preface.
    let listener = listen(0).await;
    let port = listener.local_addr().unwrap().port();
    let mut config = config_of(port, None);
    config.server.keepalive_interval = Duration::from_millis(100);
    let client = Client::start(config);
    let figures = wait_for("notice", async || {
        let figures = client.figures();
        figures.trouble.is_some().then_some(figures)
    });
    let trouble = figures.await.unwrap().trouble.unwrap();
    assert!(trouble.contains("keep-alive timed out"), "{trouble}");
}

#[tokio::test]
async fn a_large_message_needs_room() {
    let mut management = Management::start(0, None).await;
    let small = Client::start(config(&management));
    let large = RateLimitConfig {
        descriptors: vec![RateLimitDescriptor {
            key: "x".repeat(MAX_MESSAGE_BYTES),
            ..RateLimitDescriptor::default()
        }],
        ..domain("a", "k", 1)
    };
    let mut stream = management.stream().await;
    stream.request().await;
    stream.send("1", "a", std::slice::from_ref(&large)).await;
    let trouble = wait_for("end of the stream", async || small.figures().trouble);
    let trouble = trouble.await.unwrap();
    assert!(
        trouble.contains("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES"),
        "{trouble}"
    );
    // It comes again.
    management.stream().await;
    drop(small);

    let mut management = Management::start(0, None).await;
    let _client = Client::start(Config {
        max_message_bytes: MAX_MESSAGE_BYTES + 1_000,
        ..config(&management)
    });
    let mut stream = management.stream().await;
    stream.request().await;
    stream.adopt("1", &[large]).await;
}

#[tokio::test]
async fn certificates_are_replaced_under_a_stream_and_between_two() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    old.write(folder.path());
    let mut management = Management::start(0, Some(&old)).await;
    let port = management.address.port();
    let mut config = config_of(port, Some(secret(folder.path())));
    // Who waited for this would wait for ever: it is the files that help.
    config.growth = growth(3_600_000, 3_600_000);
    let client = Client::start(config);
    let mut stream = management.stream().await;
    stream.request().await;
    stream.adopt("1", &[]).await;

    // The server is replaced first, and trusts nobody of old.
    management.kill();
    let mut management = Management::start(port, Some(&new)).await;
    wait_for("lost connection", async || client.figures().trouble)
        .await
        .unwrap();
    new.write(folder.path());
    let mut stream = management.stream().await;
    stream.request().await;
    stream.adopt("2", &[]).await;
    assert_eq!(client.figures().version.as_deref(), Some("2"));

    // Files that change under a stream do it no harm.
    old.write(folder.path());
    stream.adopt("3", &[]).await;
    assert!(client.figures().connected);
}

#[tokio::test]
async fn the_servers_certificate_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(), Authority::new());
    ours.write(folder.path());
    let mut management = Management::start(0, Some(&ours)).await;
    let port = management.address.port();
    let tls = secret(folder.path());

    // A certificate is for the name that is said, or else for the host.
    for (name, expected) in [("elsewhere", false), ("envoy-gateway", true)] {
        let client = Client::start(config_of(
            port,
            Some(Tls {
                name: Some(name.to_owned()),
                ..tls.clone()
            }),
        ));
        if expected {
            let mut stream = management.stream().await;
            stream.request().await;
        } else {
            let trouble = wait_for("refusal", async || client.figures().trouble);
            let trouble = trouble.await.unwrap();
            assert!(trouble.contains("not valid for name"), "{trouble}");
        }
    }
    let file = folder.path().join("other.crt");
    std::fs::write(&file, &other.certificate).unwrap();
    let client = Client::start(config_of(
        port,
        Some(Tls {
            authorities: Some(file),
            ..tls
        }),
    ));
    let trouble = wait_for("refusal", async || client.figures().trouble);
    let trouble = trouble.await.unwrap();
    assert!(trouble.contains("invalid peer certificate"), "{trouble}");
}
