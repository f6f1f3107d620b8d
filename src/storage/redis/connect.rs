//! From an address to connections that can be used: logged in, to a primary.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates, Value,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::time::timeout;

use super::{
    address::{Address, Login, Place, Server, TlsFiles},
    slots::{Node, Topology},
};
use crate::{clock::Clock, storage::StoreError};

/// Makes connections to one store.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Address,
    certificates: TlsCertificates,
    skip_hostname_verification: bool,
    connect_timeout: Duration,
    /// Whom to ask first.
    turn: AtomicUsize,
}

/// Where Debian, Red Hat and others keep the certificates they trust.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

// === impl Connector ===

impl Connector {
    /// # Errors
    /// A file for TLS cannot be read.
    pub fn new(
        address: Address,
        tls: &TlsFiles,
        connect_timeout: Duration,
    ) -> Result<Self, StoreError> {
        // Only one is compiled in; an application may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates =
            certificates(tls).map_err(|reason| StoreError::new(address.to_string(), reason))?;
        Ok(Self(Arc::new(Inner {
            address,
            certificates,
            skip_hostname_verification: tls.skip_hostname_verification,
            connect_timeout,
            turn: AtomicUsize::new(0),
        })))
    }

    /// The store, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        self.0.address.to_string()
    }

    /// Which nodes have which keys, where nobody has to be asked for that.
    #[must_use]
    pub fn known_topology(&self) -> Option<Topology> {
        match self.0.address {
            Address::Single(_) | Address::Sentinel { .. } => Some(Topology::single()),
            Address::Cluster(_) => None,
        }
    }

    /// How often it is to be looked at when nothing is wrong: what sentinels
    /// say may change while the old primary still answers.
    pub(super) fn round(&self) -> Duration {
        match self.0.address {
            Address::Sentinel { .. } => Duration::from_secs(2),
            Address::Single(_) | Address::Cluster(_) => Duration::from_secs(10),
        }
    }

    /// The primary that the sentinels name; `None` without sentinels.
    ///
    /// # Errors
    /// No sentinel answers in time.
    pub(super) async fn named_primary(&self) -> Result<Option<Server>, StoreError> {
        if !matches!(self.0.address, Address::Sentinel { .. }) {
            return Ok(None);
        }
        self.in_time(self.ask_sentinels()).await.map(Some)
    }

    /// A new connection to `node`, logged in, if it is a primary.
    ///
    /// # Errors
    /// There is none within the time-out, or the node takes no writes.
    pub async fn connect(&self, node: &Node) -> Result<MultiplexedConnection, StoreError> {
        self.in_time(async {
            let server = self.server(node).await?;
            let mut connection = self.open(&server).await?;
            self.check_role(&mut connection).await?;
            Ok(connection)
        })
        .await
    }

    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match timeout(self.0.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(self.error(format!("no connection within {:?}", self.0.connect_timeout))),
        }
    }

    /// Hears what is told on `channel` at `node`.
    ///
    /// # Errors
    /// There is no connection within the time-out.
    pub(super) async fn subscribe(&self, node: &Node, channel: &str) -> Result<PubSub, StoreError> {
        let failed = |error: redis::RedisError| self.error(error.to_string());
        self.in_time(async {
            let server = self.server(node).await?;
            let client = self.client(&server).map_err(failed)?;
            let mut subscription = client.get_async_pubsub().await.map_err(failed)?;
            subscription.subscribe(channel).await.map_err(failed)?;
            Ok(subscription)
        })
        .await
    }

    /// Which nodes have which keys. For a cluster, nodes that are known are
    /// asked first, then those of the address.
    ///
    /// # Errors
    /// No node says so in time.
    pub async fn topology(&self, known: Option<&Topology>) -> Result<Topology, StoreError> {
        let Address::Cluster(seeds) = &self.0.address else {
            return Ok(Topology::single());
        };
        let known = known.map_or(&[][..], Topology::nodes);
        // Another one first each time: one may have lost the others, or not
        // answer at all.
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn % known.len().max(1);
        let known = known.iter().cycle().skip(first).take(known.len());
        let known = known.filter_map(|node| self.cluster_server(node));
        let seeds = seeds
            .iter()
            .cycle()
            .skip(turn % seeds.len().max(1))
            .take(seeds.len());
        let mut failure = self.error("no node was asked".to_owned());
        for server in known.chain(seeds.cloned()) {
            match self.in_time(self.ask_slots(&server)).await {
                Ok(topology) => return Ok(topology),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask_slots(&self, server: &Server) -> Result<Topology, StoreError> {
        let mut connection = self.open(server).await?;
        let mut command = redis::cmd("CLUSTER");
        let reply = connection.send_packed_command(command.arg("SLOTS")).await;
        let reply = reply
            .and_then(Value::extract_error)
            .map_err(|error| self.error(format!("{}: {error}", server.place)))?;
        let host = match &server.place {
            Place::Tcp { host, .. } => host.as_str(),
            Place::Unix(_) => "127.0.0.1",
        };
        Topology::parse(&reply, host)
            .ok_or_else(|| self.error(format!("{} knows no slots", server.place)))
    }

    /// The server that is `node` now.
    async fn server(&self, node: &Node) -> Result<Server, StoreError> {
        let nowhere = || self.error("there is no such node".to_owned());
        match (&self.0.address, node) {
            (Address::Single(server), Node::Primary) => Ok(server.clone()),
            (Address::Sentinel { .. }, Node::Primary) => self.ask_sentinels().await,
            (_, node) => self.cluster_server(node).ok_or_else(nowhere),
        }
    }

    /// A node of the cluster: login and TLS are those of the address.
    fn cluster_server(&self, node: &Node) -> Option<Server> {
        let (Address::Cluster(seeds), Node::At(host, port)) = (&self.0.address, node) else {
            return None;
        };
        let seed = seeds.first()?;
        let tls = matches!(seed.place, Place::Tcp { tls: true, .. });
        Some(Server {
            place: Place::Tcp {
                host: host.clone(),
                port: *port,
                tls,
            },
            login: seed.login.clone(),
        })
    }

    /// Asks all sentinels at once; the first that knows is believed.
    async fn ask_sentinels(&self) -> Result<Server, StoreError> {
        let Address::Sentinel {
            sentinels,
            master,
            login,
            tls,
        } = &self.0.address
        else {
            return Err(self.error("there are no sentinels".to_owned()));
        };
        let asked = sentinels
            .iter()
            .map(|sentinel| Box::pin(self.ask_sentinel(sentinel, master)));
        let ((host, port), _) = futures_util::future::select_ok(asked).await?;
        let tls = *tls;
        Ok(Server {
            place: Place::Tcp { host, port, tls },
            login: login.clone(),
        })
    }

    async fn ask_sentinel(
        &self,
        sentinel: &Server,
        master: &str,
    ) -> Result<(String, u16), StoreError> {
        let mut connection = self.open(sentinel).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let found: Option<(String, u16)> = command
            .query_async(&mut connection)
            .await
            .map_err(|error| self.error(format!("sentinel {}: {error}", sentinel.place)))?;
        found.ok_or_else(|| self.error(format!("sentinel {} does not know it", sentinel.place)))
    }

    async fn open(&self, server: &Server) -> Result<MultiplexedConnection, StoreError> {
        let failed = |error: redis::RedisError| {
            self.error(format!("cannot connect to {}: {error}", server.place))
        };
        let client = self.client(server).map_err(failed)?;
        // Deadlines are the lanes'; the driver retries nothing.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.map_err(failed)
    }

    fn client(&self, server: &Server) -> redis::RedisResult<Client> {
        let tls = matches!(server.place, Place::Tcp { tls: true, .. });
        let info = connection_info(server)?;
        if !tls {
            return Client::open(info);
        }
        let client = Client::build_with_tls(info, self.0.certificates.clone())?;
        if !self.0.skip_hostname_verification {
            return Ok(client);
        }
        let mut address = client.get_connection_info().addr().clone();
        address.set_danger_accept_invalid_hostnames(true);
        Client::open(client.get_connection_info().clone().set_addr(address))
    }

    /// Only a primary takes writes.
    async fn check_role(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        let reply = connection.send_packed_command(&redis::cmd("ROLE")).await;
        let role = match reply.and_then(Value::extract_error) {
            Ok(Value::Array(parts)) => match parts.into_iter().next() {
                Some(Value::BulkString(role)) => role,
                Some(Value::SimpleString(role)) => role.into_bytes(),
                _ => vec![],
            },
            Ok(_) => vec![],
            // A user without the right to ask; a write will tell.
            Err(error) if error.code() == Some("NOPERM") => return Ok(()),
            Err(error) => return Err(self.error(error.to_string())),
        };
        if role == b"slave" {
            return Err(self.error("it is a replica now and takes no writes".to_owned()));
        }
        Ok(())
    }

    fn error(&self, reason: String) -> StoreError {
        StoreError::new(self.describe(), reason)
    }
}

/// The store's clock minus ours, in nanoseconds: its answer is taken to be
/// from half-way between question and answer.
///
/// # Errors
/// It does not tell the time.
pub(super) async fn offset(
    connection: &mut MultiplexedConnection,
    clock: &Clock,
) -> Result<i64, String> {
    let before = clock.now().as_nanos();
    let reply = redis::cmd("TIME")
        .query_async::<(u64, u64)>(connection)
        .await;
    let after = clock.now().as_nanos();
    let (seconds, micros) = reply.map_err(|error| error.to_string())?;
    let theirs = seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(micros.saturating_mul(1_000));
    let ours = before / 2 + after / 2;
    let offset = i128::from(theirs) - i128::from(ours);
    Ok(i64::try_from(offset).unwrap_or(0))
}

fn connection_info(server: &Server) -> redis::RedisResult<ConnectionInfo> {
    let address = match &server.place {
        Place::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Place::Tcp {
            host,
            port,
            tls: false,
        } => ConnectionAddr::Tcp(host.clone(), *port),
        Place::Tcp { host, port, .. } => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
    };
    let info = address.into_connection_info()?;
    Ok(info.set_redis_settings(login_settings(&server.login)))
}

fn login_settings(login: &Login) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default()
        .set_db(login.db)
        .set_skip_set_lib_name();
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(password);
    }
    settings
}

fn certificates(files: &TlsFiles) -> Result<TlsCertificates, String> {
    let client_tls = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(cert)?,
            client_key: read(key)?,
        }),
        (None, None) => None,
        _ => {
            return Err("a client certificate needs its key, and a key its certificate".to_owned());
        }
    };
    let root_cert = match &files.ca {
        None => None,
        Some(ca) => {
            let mut roots = read(ca)?;
            let system = SYSTEM_ROOTS
                .iter()
                .find_map(|path| std::fs::read(path).ok());
            roots.push(b'\n');
            roots.extend(system.unwrap_or_default());
            Some(roots)
        }
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
