//! Real Redis servers for tests, on ports of their own; killed when dropped.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::PATIENCE;

const PAUSE: Duration = Duration::from_millis(10);

/// One server, a sentinel perhaps.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) port: u16,
    arguments: Vec<String>,
    /// How `redis-cli` gets there.
    client: Vec<String>,
    folder: TempDir,
}

/// What kind of server.
#[derive(Default)]
pub(crate) struct Options<'a> {
    /// Further arguments.
    pub(crate) arguments: &'a [&'a str],
    /// Its password, for the default user.
    pub(crate) password: Option<&'a str>,
    /// It is a sentinel, with this configuration.
    pub(crate) sentinel: Option<String>,
    /// It speaks TLS only, with these certificates.
    pub(crate) tls: Option<&'a Certificates>,
}

/// A primary, two replicas, and three sentinels.
pub(crate) struct Sentinels {
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

/// Three primaries with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

/// A certificate authority and what it has signed.
pub(crate) struct Certificates {
    folder: TempDir,
}

/// Waits, without an event loop, for something that will come.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}");
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "polls processes, not the code under test"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// A port that is free now; a cluster's second one, 10,000 above, too.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let start = 12_000 + u16::try_from(std::process::id() % 400).expect("small") * 100;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 42_000;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

// === impl Server ===

impl Server {
    /// A plain server.
    pub(crate) fn plain() -> Self {
        Self::start(&Options::default())
    }

    pub(crate) fn start(options: &Options<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let text = |port: u16| port.to_string();
        let mut arguments = vec![];
        let mut client = vec!["-p".to_owned(), text(port)];
        if let Some(configuration) = &options.sentinel {
            let file = folder.path().join("sentinel.conf");
            fs::write(&file, configuration).expect("a writable folder");
            arguments.push(file.display().to_string());
            arguments.push("--sentinel".to_owned());
        }
        match options.tls {
            None => arguments.extend(["--port".to_owned(), text(port)]),
            Some(certificates) => {
                arguments.extend(["--port", "0", "--tls-port"].map(str::to_owned));
                arguments.push(text(port));
                for (flag, file) in [
                    ("--tls-ca-cert-file", "ca.crt"),
                    ("--tls-cert-file", "server.crt"),
                    ("--tls-key-file", "server.key"),
                ] {
                    arguments.push(flag.to_owned());
                    arguments.push(certificates.path(file).display().to_string());
                }
                client.push("--tls".to_owned());
                for (flag, file) in [
                    ("--cacert", "ca.crt"),
                    ("--cert", "client.crt"),
                    ("--key", "client.key"),
                ] {
                    client.push(flag.to_owned());
                    client.push(certificates.path(file).display().to_string());
                }
            }
        }
        let socket = folder.path().join("redis.sock");
        let (dir, socket) = (
            folder.path().display().to_string(),
            socket.display().to_string(),
        );
        let usual = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            &dir,
            "--unixsocket",
            &socket,
        ];
        arguments.extend(usual.map(str::to_owned));
        if let Some(password) = options.password {
            arguments.extend(["--requirepass".to_owned(), password.to_owned()]);
            client.extend(["--no-auth-warning", "-a", password].map(str::to_owned));
        }
        arguments.extend(
            options
                .arguments
                .iter()
                .map(|&argument| argument.to_owned()),
        );
        let mut server = Self {
            child: None,
            port,
            arguments,
            client,
            folder,
        };
        server.restart();
        server
    }

    /// Starts it again, with nothing in it, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed: see tests/setup.sh");
        self.child = Some(child);
        wait_until("answer to PING", || {
            self.command(&["PING"]).trim() == "PONG"
        });
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it; connections stay open.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    /// Has it go on.
    pub(crate) fn cont(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill").success());
    }

    /// What `redis-cli` says.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(&self.client)
            .args(words)
            .output()
            .expect("redis-cli is installed: see tests/setup.sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Calls by command, since it started or since `CONFIG RESETSTAT`.
    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        let calls = |line: &str| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = figures.split(',').next()?;
            Some((name.to_owned(), calls.parse().ok()?))
        };
        let text = self.command(&["INFO", "commandstats"]);
        text.lines().filter_map(calls).collect()
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Sentinels ===

impl Sentinels {
    /// The servers' password and the sentinels'.
    pub(crate) fn start(password: Option<&str>, sentinel_password: Option<&str>) -> Self {
        let primary = Server::start(&Options {
            password,
            arguments: &["--masterauth", password.unwrap_or("")],
            ..Options::default()
        });
        let of = format!("127.0.0.1 {}", primary.port);
        let mut servers = vec![primary];
        for _ in 0..2 {
            servers.push(Server::start(&Options {
                password,
                arguments: &["--replicaof", &of, "--masterauth", password.unwrap_or("")],
                ..Options::default()
            }));
        }
        let replicas = || servers[0].command(&["INFO", "replication"]);
        wait_until("replicas", || {
            replicas().matches("state=online").count() == 2
        });
        let mut configuration = format!("sentinel monitor limits {of} 2\n");
        configuration += "sentinel down-after-milliseconds limits 500\n";
        configuration += "sentinel failover-timeout limits 2000\n";
        if let Some(password) = password {
            configuration += &format!("sentinel auth-pass limits {password}\n");
        }
        if let Some(password) = sentinel_password {
            configuration += &format!("sentinel sentinel-pass {password}\n");
        }
        let sentinels: Vec<Server> = (0..3)
            .map(|_| {
                Server::start(&Options {
                    password: sentinel_password,
                    sentinel: Some(configuration.clone()),
                    ..Options::default()
                })
            })
            .collect();
        for sentinel in &sentinels {
            wait_until("sentinels that know each other", || {
                let known = sentinel.command(&["SENTINEL", "MASTER", "limits"]);
                let mut lines = known.lines();
                let has = |name: &str, value: &str, lines: &mut std::str::Lines<'_>| {
                    lines.any(|line| line == name) && lines.next() == Some(value)
                };
                has("num-slaves", "2", &mut lines) && has("num-other-sentinels", "2", &mut lines)
            });
        }
        Self { servers, sentinels }
    }

    /// `login` stands before the hosts, `settings` after the name.
    pub(crate) fn address(&self, login: &str, settings: &str) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(Server::host).collect();
        format!(
            "redis-sentinel://{login}{}/limits{settings}",
            hosts.join(",")
        )
    }

    /// The server that the sentinels call the primary now.
    pub(crate) fn primary(&self) -> usize {
        let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "limits"];
        let told = self.sentinels[0].command(&asked);
        let port = told.lines().nth(1).and_then(|line| line.parse().ok());
        let is_it = |server: &Server| Some(server.port) == port;
        self.servers.iter().position(is_it).expect("one of ours")
    }
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn start() -> Self {
        let nodes: Vec<Server> = (0..6)
            .map(|_| {
                Server::start(&Options {
                    arguments: &["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"],
                    ..Options::default()
                })
            })
            .collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(Server::host))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        for node in &nodes {
            wait_until("cluster", || {
                let info = node.command(&["CLUSTER", "INFO"]);
                let slots = node.command(&["CLUSTER", "SLOTS"]);
                info.contains("cluster_state:ok") && slots.matches("127.0.0.1").count() >= 6
            });
        }
        Self { nodes }
    }

    pub(crate) fn address(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Server::host).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// The nodes that are primaries now.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary = |node: &Server| node.command(&["ROLE"]).starts_with("master");
        (0..self.nodes.len())
            .filter(|&node| is_primary(&self.nodes[node]))
            .collect()
    }

    /// Asks wherever the key is.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let port = self.nodes[self.primaries()[0]].port.to_string();
        let output = Command::new("redis-cli")
            .args(["-c", "-p", &port])
            .args(words)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

// === impl Certificates ===

impl Certificates {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = "
            set -eu
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=ca
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout other.key -out other.crt -subj /CN=other
            for name in server client; do
                openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
                printf 'subjectAltName=IP:127.0.0.1,DNS:localhost' > $name.ext
                openssl x509 -req -days 2 -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile $name.ext -out $name.crt
            done";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self { folder }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.join(file)
    }
}
