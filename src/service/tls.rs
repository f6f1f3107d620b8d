//! TLS in front of a listener: handshakes, and certificates that change under
//! a running process.
//!
//! A handshake belongs to its connection's task, under the connection's
//! deadline and on its seat. What costs time in it, the key exchange and the
//! signature, is done for few connections between two turns of the others, so
//! that a rush of new clients does not keep those waiting who are there.
//!
//! Who says nothing yet costs a byte of buffer; an unfinished handshake, what
//! the TLS code buffers: 64 KiB at most, usually a tenth of that.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    certificates::{BadFile, Config, Loaded},
    listener::Seat,
};
use crate::{engine::time::Timestamp, watch::Watch};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often files that could not be used are read again, unchanged.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Handshakes that are computed between two turns of an event loop.
const AT_ONCE: usize = 4;
/// The first byte that a client says: a record of a handshake.
const HANDSHAKE: u8 = 0x16;

/// TLS of one listener.
pub struct Tls {
    config: Config,
    server: ArcSwap<ServerConfig>,
    /// What files looked like just before they were read.
    first_look: u64,
    /// Handshakes that may be computed.
    turns: Semaphore,
    handshakes: AtomicU64,
    handshake_failures: AtomicU64,
    loads: Mutex<Loads>,
}

/// What has become of handshakes and of attempts to load certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Handshakes that were finished.
    pub handshakes: u64,
    /// Those that were not: no TLS, no certificate that is good, too slow.
    pub handshake_failures: u64,
    /// Changed files that were taken.
    pub reloads: u64,
    /// Changed files that were not; those before stayed in force.
    pub reload_failures: u64,
    /// What is wrong with the files as they are; `None` if nothing.
    pub trouble: Option<Arc<str>>,
    /// When the certificate in force ends, if it says so.
    pub not_after: Option<Timestamp>,
}

/// Why there is no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTls {
    /// The client went, or does not speak as it should.
    Failed,
    /// It was too slow.
    TooSlow,
    /// Others have more need of the place.
    PlaceNeeded,
}

#[derive(Clone, Debug, Default)]
struct Loads {
    successes: u64,
    failures: u64,
    trouble: Option<Arc<str>>,
    not_after: Option<Timestamp>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files; blocks.
    ///
    /// # Errors
    /// They are not good.
    pub fn load(config: Config) -> Result<Arc<Self>, BadFile> {
        let first_look = config.look();
        let Loaded { server, not_after } = config.load()?;
        Ok(Arc::new(Self {
            config,
            server: ArcSwap::new(server),
            first_look,
            turns: Semaphore::new(AT_ONCE),
            handshakes: AtomicU64::new(0),
            handshake_failures: AtomicU64::new(0),
            loads: Mutex::new(Loads {
                not_after,
                ..Loads::default()
            }),
        }))
    }

    /// Figures until now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let loads = self.loads().clone();
        Figures {
            handshakes: self.handshakes.load(Ordering::Relaxed),
            handshake_failures: self.handshake_failures.load(Ordering::Relaxed),
            reloads: loads.successes,
            reload_failures: loads.failures,
            trouble: loads.trouble,
            not_after: loads.not_after,
        }
    }

    /// Looks after the files, without end: connections that begin from then
    /// on are served with what is new and good.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let files = self.config.clone();
        let mut watch = Watch::new(LOOK_EVERY, move || files.look());
        // They may have changed since they were read.
        if self.config.look() != self.first_look {
            self.reload().await;
        }
        loop {
            let in_trouble = self.loads().trouble.is_some();
            tokio::select! {
                () = watch.changed() => {}
                // What failed may have been the system, not the files.
                () = sleep(TRY_AGAIN), if in_trouble => {}
            }
            self.reload().await;
        }
    }

    async fn reload(&self) {
        let config = self.config.clone();
        match spawn_blocking(move || config.load()).await {
            Ok(Ok(loaded)) => self.adopt(loaded),
            Ok(Err(error)) => self.refuse(&error.to_string()),
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    fn adopt(&self, loaded: Loaded) {
        self.server.store(loaded.server);
        let mut loads = self.loads();
        loads.successes += 1;
        loads.trouble = None;
        loads.not_after = loaded.not_after;
        drop(loads);
        let path = self.config.certificate.display();
        tracing::info!(%path, "{}: the new certificate is in force", self.config.protocol);
    }

    /// What was in force stays so. Told once for each `trouble` in a row.
    fn refuse(&self, trouble: &str) {
        let trouble: Arc<str> = trouble.into();
        let mut loads = self.loads();
        loads.failures += 1;
        let before = loads.trouble.replace(Arc::clone(&trouble));
        drop(loads);
        if before.as_ref() != Some(&trouble) {
            tracing::error!(
                "{}: the certificate before stays in force: {trouble}",
                self.config.protocol
            );
        }
    }

    /// The handshake with a client; an error if there is none by `deadline`, or
    /// the place is needed for another. Boxed: what an encrypted connection
    /// holds is not for those who say nothing, or are not encrypted.
    pub(crate) async fn accept<T>(
        &self,
        io: T,
        seat: &Seat,
        deadline: Instant,
    ) -> Result<Box<TlsStream<T>>, NoTls>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let shaken = tokio::select! {
            biased;
            () = seat.taken() => {
                tracing::debug!("place needed before the TLS handshake");
                return Err(NoTls::PlaceNeeded);
            }
            shaken = timeout_at(deadline, self.begin(io)) => shaken,
        };
        let why = match shaken {
            // It looks whether there is a listener, and goes.
            Ok(Ok(None)) => return Err(NoTls::Failed),
            Ok(Ok(Some(stream))) => {
                self.handshakes.fetch_add(1, Ordering::Relaxed);
                return Ok(stream);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS handshake");
                NoTls::Failed
            }
            Err(_) => {
                tracing::debug!("TLS handshake took too long");
                NoTls::TooSlow
            }
        };
        self.handshake_failures.fetch_add(1, Ordering::Relaxed);
        Err(why)
    }

    /// `None`: it went without a word.
    async fn begin<T>(&self, mut io: T) -> io::Result<Option<Box<TlsStream<T>>>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut first = [0];
        if io.read(&mut first).await? == 0 {
            return Ok(None);
        }
        if first != [HANDSHAKE] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS"));
        }
        Box::pin(self.shake_hands(io, first)).await.map(Some)
    }

    async fn shake_hands<T>(&self, io: T, first: [u8; 1]) -> io::Result<Box<TlsStream<T>>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &first[..])?;
        let hello = LazyConfigAcceptor::new(acceptor, io).await?;
        // It is never closed.
        let turn = self.turns.acquire().await;
        // Here is what costs time.
        let handshake = hello.into_stream(self.server.load_full());
        yield_now().await;
        drop(turn);
        handshake.await.map(Box::new)
    }

    fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("config", &self.config)
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
