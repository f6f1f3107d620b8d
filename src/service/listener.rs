//! Listening sockets, and who sits at the table: accepted connections are
//! handed to workers in turn, and their number is bounded.
//!
//! A proxy opens few connections (one for each of its threads), so leaving
//! their spread to the kernel can put them all on one worker. Taking turns
//! does not.

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};

use super::turns_true;

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;
/// How long to wait when there are no file descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// An open listening socket.
#[derive(Debug)]
pub enum Listener {
    /// An address and port.
    Tcp(TcpListener),
    /// A path; removed when the listener goes.
    Unix(UnixListener, SocketFile),
}

/// A Unix socket's file, known by its inode: when a later process has put
/// its own in the same place, that one is not ours to remove.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

/// A connection, not yet bound to a worker's event loop.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Those connected to one listener.
#[derive(Debug)]
pub(crate) struct Table {
    seats: Mutex<HashMap<u64, Arc<Guest>>>,
    next: AtomicU64,
    most: usize,
    opened: Instant,
}

#[derive(Debug)]
struct Guest {
    /// Milliseconds from `Table::opened`; at first, when it came.
    last_call: AtomicU64,
    /// How often it has brought calls.
    turns: AtomicU64,
    taken: Notify,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<Table>,
    number: u64,
    guest: Arc<Guest>,
}

/// A connection that has brought calls so often is a regular: a crowd of those
/// that come once does not push it out.
const REGULAR: u64 = 16;

// === impl Listener ===

impl Listener {
    /// Listens on an address. Several processes may share it
    /// (`SO_REUSEPORT`), so that a new one can start before an old one ends.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
    }

    /// Listens on a path. A socket that is left there from before is removed;
    /// any other file is not.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn unix(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile {
            path: path.to_owned(),
            inode: inode(path),
        };
        Ok(Self::Unix(listener, file))
    }

    /// The TCP address, as bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Accepts and hands on, in turn, until `closing` turns true. What the
    /// kernel has accepted by then is still taken.
    pub(crate) async fn accept(
        self,
        workers: Vec<mpsc::Sender<(Accepted, Seat)>>,
        table: Arc<Table>,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut turn = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.accept_one() => accepted,
                () = turns_true(&mut closing) => return,
            };
            match accepted {
                Ok(socket) => {
                    turn = (turn + 1) % workers.len();
                    if workers[turn].try_send((socket, table.seat())).is_err() {
                        tracing::warn!("dropped a connection: its worker is behind or gone");
                    }
                }
                Err(error) => {
                    if is_exhausted(&error) {
                        table.make_room();
                        // What the kernel has accepted cannot be taken.
                        if *closing.borrow() {
                            return;
                        }
                    }
                    pause_after(&error).await;
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                stream.into_std().map(Accepted::Tcp)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                stream.into_std().map(Accepted::Unix)
            }
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self, self.address()) {
            (Self::Unix(_, file), _) => write!(f, "unix:{}", file.path.display()),
            (Self::Tcp(_), Some(address)) => address.fmt(f),
            (Self::Tcp(_), None) => f.write_str("an unknown address"),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // Not there any more is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|found| found.ino())
}

/// No more file descriptors.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// A connection that failed before it was accepted is of no consequence;
/// without file descriptors there is no point in asking again at once.
pub(crate) async fn pause_after(error: &io::Error) {
    if super::connection::is_disconnect(error) {
        return;
    }
    tracing::warn!(%error, "cannot accept connections");
    sleep(EXHAUSTED_PAUSE).await;
}

// === impl Table ===

impl Table {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: Mutex::default(),
            next: AtomicU64::new(0),
            most,
            opened: Instant::now(),
        })
    }

    /// A place for a new connection. When all are taken, the connection that
    /// has been idle longest has to go: of those that have made no call if
    /// there are any, else of those that have made few.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let guest = Arc::new(Guest {
            last_call: AtomicU64::new(self.millis(Instant::now())),
            turns: AtomicU64::new(0),
            taken: Notify::new(),
        });
        let mut seats = self.seats();
        if seats.len() >= self.most {
            make_room(&mut seats);
        }
        seats.insert(number, Arc::clone(&guest));
        Seat {
            table: Arc::clone(self),
            number,
            guest,
        }
    }

    /// Has one connection go, as if its place were needed.
    pub(crate) fn make_room(&self) {
        make_room(&mut self.seats());
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.seats().len()
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Arc<Guest>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.opened);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

fn make_room(seats: &mut HashMap<u64, Arc<Guest>>) {
    let longest_idle = seats
        .iter()
        .min_by_key(|(number, guest)| (guest.standing(), **number))
        .map(|(&number, _)| number);
    if let Some(guest) = longest_idle.and_then(|number| seats.remove(&number)) {
        guest.taken.notify_one();
    }
}

// === impl Guest ===

impl Guest {
    /// Who has less of it goes first.
    fn standing(&self) -> (u64, u64) {
        let turns = self.turns.load(Ordering::Relaxed);
        let rank = match turns {
            0 => 0,
            1..REGULAR => 1,
            REGULAR.. => 2,
        };
        (rank, self.last_call.load(Ordering::Relaxed))
    }
}

// === impl Seat ===

impl Seat {
    /// Ready when the place is needed for another.
    pub(crate) fn taken(&self) -> impl Future<Output = ()> + use<> {
        let guest = Arc::clone(&self.guest);
        async move { guest.taken.notified().await }
    }

    pub(crate) fn set_last_call(&self, at: Instant) {
        let millis = self.table.millis(at);
        self.guest.last_call.store(millis, Ordering::Relaxed);
        self.guest.turns.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.seats().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_newcomers_does_not_push_out_a_regular() {
        let table = Table::new(3);
        let regular = table.seat();
        for _ in 0..REGULAR {
            regular.set_last_call(Instant::now());
        }
        let mut crowd = vec![];
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let newcomer = table.seat();
            newcomer.set_last_call(Instant::now());
            crowd.push(newcomer);
        }
        assert!(futures_util::poll!(Box::pin(regular.taken())).is_pending());
        for gone in &crowd[..18] {
            gone.taken().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_makes_room() {
        let table = Table::new(2);
        let first = table.seat();
        let second = table.seat();
        tokio::time::advance(Duration::from_secs(1)).await;
        first.set_last_call(Instant::now());
        let third = table.seat();
        assert_eq!(table.len(), 2);
        second.taken().await;
        assert!(futures_util::poll!(Box::pin(first.taken())).is_pending());
        drop((first, second, third));
        assert_eq!(table.len(), 0);
    }
}
