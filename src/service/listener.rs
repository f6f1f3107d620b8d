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
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};

use super::turns_true;

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;
/// Bytes of answers that the kernel holds for a client: left to itself it
/// takes megabytes, for which calls have been decided that nobody reads.
pub(super) const SEND_BUFFER: usize = 64 * 1024;
/// Connections that have lost their place and are not gone yet, before there
/// is room for another: a rush of clients must not cost more than all places.
const MOST_LEAVING: usize = 32;
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
    /// Connections that have lost their place and are not gone yet.
    leaving: AtomicUsize,
    /// Told when one of them is gone.
    gone: Notify,
    opened: Instant,
}

#[derive(Debug)]
struct Guest {
    /// Calls that were answered.
    answered: AtomicU64,
    /// Milliseconds from `Table::opened`; before any call, when it came.
    last_call: AtomicU64,
    taken: Notify,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<Table>,
    number: u64,
    guest: Arc<Guest>,
}

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
                    let seat = table.seat().await;
                    if workers[turn].try_send((socket, seat)).is_err() {
                        tracing::warn!("dropped a connection: its worker is behind or gone");
                    }
                }
                Err(error) => {
                    if !table.recover_from(&error, &closing).await {
                        return;
                    }
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER)?;
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
fn is_exhausted(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

// === impl Table ===

impl Table {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: Mutex::default(),
            next: AtomicU64::new(0),
            most,
            leaving: AtomicUsize::new(0),
            gone: Notify::new(),
            opened: Instant::now(),
        })
    }

    /// A place for a new connection. When all are taken, the one that is
    /// [worth least](Guest::worth) has to go.
    /// Then it waits until not too many of those are still about to go.
    pub(crate) async fn seat(self: &Arc<Self>) -> Seat {
        while self.leaving.load(Ordering::Relaxed) >= MOST_LEAVING {
            self.gone.notified().await;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let guest = Arc::new(Guest {
            answered: AtomicU64::new(0),
            last_call: AtomicU64::new(self.millis(Instant::now())),
            taken: Notify::new(),
        });
        let mut seats = self.seats();
        if seats.len() >= self.most && make_room(&mut seats) {
            self.leaving.fetch_add(1, Ordering::Relaxed);
        }
        seats.insert(number, Arc::clone(&guest));
        drop(seats);
        Seat {
            table: Arc::clone(self),
            number,
            guest,
        }
    }

    /// What to do when nothing could be accepted; whether to go on. A
    /// connection that failed before it was accepted is of no consequence.
    /// Without file descriptors one has to go, and there is no point in asking
    /// again at once: what the kernel has accepted by then cannot be taken.
    pub(crate) async fn recover_from(
        &self,
        error: &io::Error,
        closing: &watch::Receiver<bool>,
    ) -> bool {
        if super::connection::is_disconnect(error) {
            return true;
        }
        if is_exhausted(error) {
            if make_room(&mut self.seats()) {
                self.leaving.fetch_add(1, Ordering::Relaxed);
            }
            if *closing.borrow() {
                return false;
            }
        }
        tracing::warn!(%error, "cannot accept connections");
        sleep(EXHAUSTED_PAUSE).await;
        true
    }

    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
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

/// Whether somebody had to go.
fn make_room(seats: &mut HashMap<u64, Arc<Guest>>) -> bool {
    let least = seats
        .iter()
        .min_by_key(|(number, guest)| (guest.worth(), **number))
        .map(|(&number, _)| number);
    let guest = least.and_then(|number| seats.remove(&number));
    if let Some(guest) = &guest {
        guest.taken.notify_one();
    }
    guest.is_some()
}

// === impl Guest ===

impl Guest {
    /// Who stays when there is no room for all: first by the magnitude of the
    /// number of calls answered, then by who called last. A proxy that was
    /// quiet for a moment outlives any number of clients that call once or
    /// never; among those with about as many calls, the longest idle one goes.
    fn worth(&self) -> (u32, u64) {
        let answered = self.answered.load(Ordering::Relaxed);
        let magnitude = u64::BITS - answered.leading_zeros();
        (magnitude, self.last_call.load(Ordering::Relaxed))
    }
}

// === impl Seat ===

impl Seat {
    /// Ready when the place is needed for another.
    pub(crate) fn taken(&self) -> impl Future<Output = ()> + use<> {
        let guest = Arc::clone(&self.guest);
        async move { guest.taken.notified().await }
    }

    /// Notes calls: that there were some, and how many are answered.
    pub(crate) fn note_calls(&self, at: Instant, answered: u64) {
        let guest = &self.guest;
        guest.answered.fetch_add(answered, Ordering::Relaxed);
        guest
            .last_call
            .store(self.table.millis(at), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.table.seats().remove(&self.number).is_none() {
            self.table.leaving.fetch_sub(1, Ordering::Relaxed);
            self.table.gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Whether its place was needed for another.
    fn is_taken(seat: &Seat) -> bool {
        !seat.table.seats().contains_key(&seat.number)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_worth_least_makes_room() {
        // Calls answered by each when a third one comes, a second after
        // another; the longest idle one is the first.
        for (first, second, first_goes) in [
            (0, 0, true),
            (0, 1, true),
            (1, 0, false),
            (1, 1, true),
            (2, 1, false),
            (1_000, 1, false),
            (700, 900, true),
        ] {
            let table = Table::new(2);
            let seats = [table.seat().await, table.seat().await];
            for (seat, answered) in seats.iter().zip([first, second]) {
                seat.note_calls(Instant::now(), answered);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            seats[1].note_calls(Instant::now(), 0);
            let _third = table.seat().await;
            let gone = seats.each_ref().map(is_taken);
            assert_eq!(gone, [first_goes, !first_goes], "{first} and {second}");
            let goes = &seats[usize::from(!first_goes)];
            assert!(futures_util::poll!(Box::pin(goes.taken())).is_ready());
        }
    }

    #[tokio::test]
    async fn a_rush_waits_for_those_who_have_to_go() {
        let table = Table::new(2);
        let mut seats = VecDeque::new();
        for _ in 0..2 + MOST_LEAVING {
            seats.push_back(table.seat().await);
        }
        let mut next = Box::pin(table.seat());
        assert!(futures_util::poll!(&mut next).is_pending());
        seats.pop_front();
        seats.push_back(next.await);
        assert_eq!(table.seats().len(), 2);
        seats.clear();
        assert!(table.seats().is_empty());
        assert_eq!(table.leaving.load(Ordering::Relaxed), 0);
    }
}
