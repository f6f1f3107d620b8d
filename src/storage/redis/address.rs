//! Where a store is, from text.
//!
//! | text | store |
//! |---|---|
//! | `redis://[[user]:password@]host[:port][/db]` | one server |
//! | `rediss://…` | the same over TLS |
//! | `unix:///path[?db=1&user=u&password=p]` | one server at a Unix socket |
//! | `redis-sentinel://[[user]:password@]host:port[,host:port…]/master[/db][?sentinel_user=u&sentinel_password=p]` | whatever these sentinels call the primary of `master` |
//! | `redis-cluster://[[user]:password@]host:port[,host:port…]` | a cluster |
//!
//! `rediss-sentinel` and `rediss-cluster` are the same over TLS. `valkey` may
//! stand for `redis` everywhere.

use std::{collections::HashMap, fmt, path::PathBuf};

use percent_encoding::percent_decode_str;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// One server.
    Single(Server),
    /// Sentinels that know which server it is.
    Sentinel {
        /// Asked in this order.
        sentinels: Vec<Server>,
        /// The name of the set of servers.
        master: String,
        /// How to log in to the servers themselves.
        login: Login,
        /// TLS to the servers themselves.
        tls: bool,
    },
    /// A cluster: nodes that know the others.
    Cluster(Vec<Server>),
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub place: Place,
    /// How to log in.
    pub login: Login,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Over the network.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Speak TLS.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// How to log in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; `None` for the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database.
    pub db: i64,
}

/// Files for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate.
    pub cert: Option<PathBuf>,
    /// Our own certificate's key.
    pub key: Option<PathBuf>,
    /// Do not compare the server's name with its certificate; the certificate
    /// itself is verified all the same.
    pub skip_hostname_verification: bool,
}

/// The reference's settings of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceAddress {
    /// `REDIS_SOCKET_TYPE`: `tcp` or `unix`.
    pub socket_type: String,
    /// `REDIS_TYPE`: `single`, `sentinel` or `cluster`, in any case.
    pub kind: String,
    /// `REDIS_URL`.
    pub url: String,
    /// `REDIS_AUTH`: `password` or `user:password`.
    pub auth: String,
    /// `REDIS_TLS`.
    pub tls: bool,
    /// `REDIS_SENTINEL_AUTH`.
    pub sentinel_auth: String,
}

/// Why a text is no address. Never tells a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The part before `://` names nothing known.
    #[error(
        "{0:?} is no kind of store: use redis, rediss, unix, redis-sentinel, rediss-sentinel, redis-cluster or rediss-cluster"
    )]
    Scheme(String),
    /// There is no `://`.
    #[error("an address begins with its kind, such as redis://127.0.0.1:6379")]
    NoScheme,
    /// No host, or nothing but a port.
    #[error("a host is missing")]
    NoHost,
    /// The part after a host's colon; not repeated, it may be a password.
    #[error("what follows a host's colon is no port")]
    Port,
    /// Several servers where there can be one only.
    #[error("there are several hosts: use redis-sentinel:// or redis-cluster://")]
    SeveralHosts,
    /// The part after the host.
    #[error("what follows the host is no number of a database")]
    Database,
    /// A sentinel address without a name.
    #[error("the name of the primary is missing, as in redis-sentinel://host:26379/mymaster")]
    NoMaster,
    /// A cluster has one database.
    #[error("a cluster has no databases")]
    DatabaseInCluster,
    /// A Unix socket without a path.
    #[error("the path of the socket is missing, as in unix:///run/redis.sock")]
    NoPath,
    /// Something after `?` that means nothing.
    #[error("there is no setting {0:?}")]
    Setting(String),
    /// What follows a `?` is neither settings nor may be shown.
    #[error("a `?` in a user or a password is written %3F")]
    QuestionMark,
    /// Escaped bytes that are no text.
    #[error("the user, the password or the path is not UTF-8")]
    NotText,
    /// A value that the reference does not know either.
    #[error("{0} cannot be {1:?}")]
    Reference(&'static str, String),
    /// The reference ends at this too.
    #[error("REDIS_URL of sentinels is master,host:port[,host:port]")]
    ReferenceSentinel,
    /// The reference would look for a file of that name.
    #[error("REDIS_URL is no path of a socket: set REDIS_SOCKET_TYPE to tcp (its default is unix)")]
    ReferenceUnix,
}

/// The parts of an address.
struct Parts<'a> {
    user: Option<String>,
    password: Option<String>,
    hosts: &'a str,
    path: Vec<&'a str>,
    settings: HashMap<&'a str, &'a str>,
}

/// What may follow a `?`.
const SETTINGS: [&str; 6] = [
    "user",
    "username",
    "password",
    "db",
    "sentinel_user",
    "sentinel_password",
];
const PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

// === impl Address ===

impl Address {
    /// Reads an address; the module's documentation has its forms.
    ///
    /// # Errors
    /// It has none of these forms.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::NoScheme)?;
        let lower = scheme.to_ascii_lowercase().replace("valkeys", "rediss");
        let kind = lower.replace("valkey", "redis");
        match kind.as_str() {
            "redis" | "rediss" => single(rest, kind == "rediss"),
            "unix" | "redis+unix" => unix(rest),
            "redis-sentinel" | "rediss-sentinel" => sentinel(rest, kind.starts_with("rediss")),
            "redis-cluster" | "rediss-cluster" => cluster(rest, kind.starts_with("rediss")),
            _ => Err(AddressError::Scheme(scheme.to_owned())),
        }
    }

    /// Reads the reference's settings.
    ///
    /// # Errors
    /// They say nothing that the reference would understand.
    pub fn from_reference(settings: &ReferenceAddress) -> Result<Self, AddressError> {
        let login = login_of(&settings.auth);
        let tls = settings.tls;
        match settings.kind.to_ascii_lowercase().as_str() {
            "single" => reference_single(settings, login),
            "sentinel" => {
                let (master, hosts) = settings
                    .url
                    .split_once(',')
                    .ok_or(AddressError::ReferenceSentinel)?;
                let sentinel_login = login_of(&settings.sentinel_auth);
                Ok(Self::Sentinel {
                    sentinels: servers(hosts, tls, SENTINEL_PORT, &sentinel_login)?,
                    master: master.to_owned(),
                    login,
                    tls,
                })
            }
            "cluster" => Ok(Self::Cluster(servers(&settings.url, tls, PORT, &login)?)),
            _ => Err(AddressError::Reference("REDIS_TYPE", settings.kind.clone())),
        }
    }
}

/// For people, without secrets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |servers: &[Server]| {
            let places: Vec<String> = servers.iter().map(|one| one.place.host()).collect();
            places.join(",")
        };
        match self {
            Self::Single(server) => server.place.fmt(f),
            Self::Sentinel {
                sentinels, master, ..
            } => write!(f, "redis-sentinel://{}/{master}", list(sentinels)),
            Self::Cluster(nodes) => write!(f, "redis-cluster://{}", list(nodes)),
        }
    }
}

fn single(rest: &str, tls: bool) -> Result<Address, AddressError> {
    let parts = parts(rest)?;
    let settings = parts.settings.clone();
    let mut login = parts.login(parts.path.first().copied())?;
    for (name, value) in settings {
        set_login(&mut login, name, value)?;
    }
    if parts.hosts.contains(',') {
        return Err(AddressError::SeveralHosts);
    }
    let place = place(parts.hosts, tls, PORT)?;
    Ok(Address::Single(Server { place, login }))
}

fn unix(rest: &str) -> Result<Address, AddressError> {
    let (path, settings) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err(AddressError::NoPath);
    }
    let mut login = Login::default();
    for (name, value) in pairs(settings) {
        set_login(&mut login, name, value)?;
    }
    let place = Place::Unix(decoded(path)?.into());
    Ok(Address::Single(Server { place, login }))
}

fn sentinel(rest: &str, tls: bool) -> Result<Address, AddressError> {
    let parts = parts(rest)?;
    let master = parts.path.first().filter(|name| !name.is_empty());
    let master = (*master.ok_or(AddressError::NoMaster)?).to_owned();
    let mut sentinel_login = Login::default();
    for (name, value) in &parts.settings {
        match *name {
            "sentinel_user" => sentinel_login.user = Some(decoded(value)?),
            "sentinel_password" => sentinel_login.password = Some(decoded(value)?),
            name => return Err(AddressError::Setting(name.to_owned())),
        }
    }
    Ok(Address::Sentinel {
        sentinels: servers(parts.hosts, tls, SENTINEL_PORT, &sentinel_login)?,
        master,
        login: parts.login(parts.path.get(1).copied())?,
        tls,
    })
}

fn cluster(rest: &str, tls: bool) -> Result<Address, AddressError> {
    let parts = parts(rest)?;
    if parts
        .path
        .iter()
        .any(|part| !part.is_empty() && *part != "0")
    {
        return Err(AddressError::DatabaseInCluster);
    }
    if let Some(name) = parts.settings.keys().next() {
        return Err(AddressError::Setting((*name).to_owned()));
    }
    let login = parts.login(None)?;
    Ok(Address::Cluster(servers(parts.hosts, tls, PORT, &login)?))
}

fn reference_single(settings: &ReferenceAddress, auth: Login) -> Result<Address, AddressError> {
    let url = settings.url.as_str();
    let mut address = match settings.socket_type.to_ascii_lowercase().as_str() {
        // It may hold a password: it is not repeated.
        "unix" if url.contains("://") => return Err(AddressError::ReferenceUnix),
        "unix" => {
            let place = Place::Unix(url.into());
            let login = Login::default();
            Address::Single(Server { place, login })
        }
        "tcp" => match url.split_once("://") {
            Some(("redis", rest)) => single(rest, settings.tls)?,
            Some((scheme, _)) => return Err(AddressError::Scheme(scheme.to_owned())),
            None => single(url, settings.tls)?,
        },
        _ => {
            let other = settings.socket_type.clone();
            return Err(AddressError::Reference("REDIS_SOCKET_TYPE", other));
        }
    };
    if let (Address::Single(server), true) = (&mut address, auth.password.is_some()) {
        server.login.user = auth.user;
        server.login.password = auth.password;
    }
    Ok(address)
}

/// `password` or `user:password`.
fn login_of(auth: &str) -> Login {
    let (user, password) = match auth.split_once(':') {
        Some((user, password)) => (Some(user.to_owned()), password),
        None => (None, auth),
    };
    Login {
        user: user.filter(|user| !user.is_empty()),
        password: (!auth.is_empty()).then(|| password.to_owned()),
        db: 0,
    }
}

fn set_login(login: &mut Login, name: &str, value: &str) -> Result<(), AddressError> {
    match name {
        "user" | "username" => login.user = Some(decoded(value)?),
        "password" => login.password = Some(decoded(value)?),
        "db" => login.db = database(value)?,
        _ => return Err(AddressError::Setting(name.to_owned())),
    }
    Ok(())
}

fn parts(rest: &str) -> Result<Parts<'_>, AddressError> {
    let (rest, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let is_setting = |(name, _)| SETTINGS.contains(&name);
    if !rest.contains('@')
        && settings.contains('@')
        && !pairs(settings).next().is_some_and(is_setting)
    {
        return Err(AddressError::QuestionMark);
    }
    // A password may hold a slash, hosts do not.
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((userinfo, rest)) => (Some(userinfo), rest),
        None => (None, rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, password) = match userinfo.map(|info| info.split_once(':').unwrap_or((info, ""))) {
        Some((user, password)) => (decoded(user)?, decoded(password)?),
        None => (String::new(), String::new()),
    };
    Ok(Parts {
        user: (!user.is_empty()).then_some(user),
        password: (!password.is_empty()).then_some(password),
        hosts,
        path: path.split('/').collect(),
        settings: pairs(settings).collect(),
    })
}

fn pairs(settings: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = settings.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn servers(hosts: &str, tls: bool, port: u16, login: &Login) -> Result<Vec<Server>, AddressError> {
    hosts
        .split(',')
        .map(|host| {
            Ok(Server {
                place: place(host.trim(), tls, port)?,
                login: login.clone(),
            })
        })
        .collect()
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`.
fn place(text: &str, tls: bool, default_port: u16) -> Result<Place, AddressError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| AddressError::Port)?,
        None => default_port,
    };
    let host = host.to_owned();
    Ok(Place::Tcp { host, port, tls })
}

fn database(text: &str) -> Result<i64, AddressError> {
    match text.parse() {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(AddressError::Database),
    }
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| AddressError::NotText)
}

// === impl Parts ===

impl Parts<'_> {
    fn login(&self, db: Option<&str>) -> Result<Login, AddressError> {
        Ok(Login {
            user: self.user.clone(),
            password: self.password.clone(),
            db: match db {
                None | Some("") => 0,
                Some(db) => database(db)?,
            },
        })
    }
}

// === impl Place ===

impl Place {
    /// `host:port`, or the path.
    fn host(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            Self::Tcp { tls: true, .. } => "rediss",
            Self::Tcp { .. } => "redis",
            Self::Unix(_) => "unix",
        };
        write!(f, "{scheme}://{}", self.host())
    }
}

/// Says that there is a password, not which.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("db", &self.db)
            .finish()
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
