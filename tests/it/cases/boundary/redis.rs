//! The limiter over a real Redis, with a clock that the case moves.

use std::sync::{Arc, Mutex};

use ratekeeper::storage::{
    AnyStore,
    redis::{Config, address::TlsFiles},
};

use super::{super::format::Case, store::Store};
use crate::redis::{
    self,
    servers::{Certificates, Cluster, Options, Sentinels, Server},
};

/// How Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Deployment {
    Plain,
    TlsAndUsers,
    Sentinels,
    Cluster,
}

/// Servers for all cases: each has its own keys.
struct Servers {
    address: String,
    tls: TlsFiles,
    _held: Box<dyn Send + Sync>,
}

/// By deployment. What is static is never dropped: it has to be taken out.
static RUNNING: [Mutex<Option<Arc<Servers>>>; 4] = [const { Mutex::new(None) }; 4];

impl Deployment {
    /// Its servers; started the first time.
    fn servers(self) -> Arc<Servers> {
        let mut running = RUNNING[self as usize].lock().expect("whole");
        Arc::clone(running.get_or_insert_with(|| Arc::new(self.start())))
    }

    /// Ends its servers, after all cases.
    pub(in super::super) fn end(self) {
        drop(RUNNING[self as usize].lock().expect("whole").take());
    }

    fn start(self) -> Servers {
        match self {
            Self::Plain => {
                let server = Server::plain();
                Servers::new(server.address(), TlsFiles::default(), server)
            }
            Self::TlsAndUsers => {
                let certificates = Certificates::make();
                let server = Server::start(&Options {
                    tls: Some(&certificates),
                    arguments: &["--user", "limits", "on", ">geheim", "~*", "&*", "+@all"],
                    ..Options::default()
                });
                let address = format!("rediss://limits:geheim@127.0.0.1:{}", server.port);
                let files = TlsFiles {
                    ca: Some(certificates.path("ca.crt")),
                    cert: Some(certificates.path("client.crt")),
                    key: Some(certificates.path("client.key")),
                    skip_hostname_verification: false,
                };
                Servers::new(address, files, (server, certificates))
            }
            Self::Sentinels => {
                let set = Sentinels::start(None, Some("wache"));
                let address = set.address("", "?sentinel_password=wache");
                Servers::new(address, TlsFiles::default(), set)
            }
            Self::Cluster => {
                let cluster = Cluster::start();
                Servers::new(cluster.address(), TlsFiles::default(), cluster)
            }
        }
    }
}

impl Servers {
    fn new(address: String, tls: TlsFiles, held: impl Send + Sync + 'static) -> Self {
        Self {
            address,
            tls,
            _held: Box::new(held),
        }
    }
}

/// The limiter over the store at these servers.
pub(super) fn store(deployment: Deployment, case: &Case) -> Result<Store, String> {
    Store::over(case, async |clock| {
        let servers = deployment.servers();
        let config = Config {
            own_clock: true,
            tls: servers.tls.clone(),
            ..redis::settings(&servers.address)
        };
        Ok(AnyStore::Redis(redis::connected(&config, clock).await))
    })
}
