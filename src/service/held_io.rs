//! A socket that holds back writes while a batch of calls is answered.
//!
//! HTTP/2 code flushes after every answer. A proxy's calls arrive many to a
//! read; holding their answers until all are there turns a system call per
//! call into one per batch. Where TLS is below, that is also one record (of
//! 16 KiB at most) instead of one for each answer.
//!
//! It waits for the client's preface by itself, before HTTP/2 code makes room
//! for anything: a client that says nothing costs hardly more than its socket.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// Held back at most; beyond it writes go out even while holding.
const MOST_HELD: usize = 64 * 1024;

/// Room for what is held back that an idle connection keeps.
const ROOM_KEPT: usize = 4 * 1024;

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Read at most in one turn, about: what HTTP/2 code has read it keeps room
/// for, and other connections wait meanwhile.
const MOST_IN_TURN: u64 = 8 * 1024;

/// The socket, as HTTP/2 code sees it.
#[derive(Debug)]
pub(crate) struct HeldIo<T> {
    inner: T,
    /// What HTTP/2 code has yet to be given of the preface.
    preface: &'static [u8],
    held: Vec<u8>,
    /// Bytes of `held` that are written.
    released: usize,
    switch: Arc<Switch>,
}

/// The handle on the socket's behaviour that its user keeps.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    holding: AtomicBool,
    deaf: AtomicBool,
    read: AtomicU64,
    written: AtomicU64,
    /// Bytes read in this turn.
    read_in_turn: AtomicU64,
    /// Bytes of the bodies of calls that wait, not yet asked for.
    body: AtomicU64,
}

// === impl Switch ===

impl Switch {
    /// From now on writes wait (true) or go out with the next flush (false).
    pub(crate) fn hold(&self, holding: bool) {
        self.holding.store(holding, Ordering::Relaxed);
    }

    /// From now on nothing is read (true) or it is (false); for it to go on,
    /// HTTP/2 code has to be polled.
    pub(crate) fn stop_reading(&self, stop: bool) {
        self.deaf.store(stop, Ordering::Relaxed);
    }

    /// A new turn: reading may go on.
    pub(crate) fn begin_turn(&self) {
        self.read_in_turn.store(0, Ordering::Relaxed);
    }

    /// Notes bytes of the body of a call that waits.
    pub(crate) fn add_body_bytes(&self, bytes: usize) {
        self.body.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of such bodies since the last time.
    pub(crate) fn take_body_bytes(&self) -> u64 {
        self.body.swap(0, Ordering::Relaxed)
    }

    /// Notes bytes read from the operating system.
    pub(crate) fn add_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the operating system (or TLS, whose buffer has a bound) has
    /// taken so far.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Relaxed)
    }
}

// === impl HeldIo ===

impl<T> HeldIo<T> {
    pub(crate) fn new(inner: T, switch: Arc<Switch>) -> Self {
        Self {
            inner,
            preface: &[],
            held: Vec::new(),
            released: 0,
            switch,
        }
    }

    pub(crate) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.switch)
    }
}

impl<T: AsyncRead + Unpin> HeldIo<T> {
    /// Waits for the client's preface.
    ///
    /// # Errors
    /// The client says something else, or goes.
    pub(crate) async fn greeted(&mut self) -> io::Result<()> {
        let mut said = [0; PREFACE.len()];
        let mut len = 0;
        while len < said.len() {
            match self.inner.read(&mut said[len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => len += read,
            }
            if said[..len] != PREFACE[..len] {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
            }
        }
        self.preface = PREFACE;
        Ok(())
    }
}

impl<T: AsyncWrite + Unpin> HeldIo<T> {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.released < self.held.len() {
            let left = &self.held[self.released..];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.released += written;
                    let written = written as u64;
                    self.switch.written.fetch_add(written, Ordering::Relaxed);
                }
            }
        }
        self.held.clear();
        self.held.shrink_to(ROOM_KEPT);
        self.released = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeldIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.switch.deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if self.switch.read_in_turn.load(Ordering::Relaxed) >= MOST_IN_TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if self.preface.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        } else {
            let (now, later) = self
                .preface
                .split_at(self.preface.len().min(buf.remaining()));
            buf.put_slice(now);
            self.preface = later;
        }
        let read = (buf.filled().len() - before) as u64;
        self.switch.read_in_turn.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HeldIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() - self.released >= MOST_HELD {
            ready!(self.poll_release(cx))?;
        }
        // Only after a write that did not take all is there something to move.
        let released = std::mem::take(&mut self.released);
        self.held.drain(..released);
        let taken = bytes.len().min(MOST_HELD);
        self.held.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.switch.is_holding() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::service::counted::Counted;

    #[tokio::test]
    async fn writes_wait_while_held_and_keep_their_order() {
        let switch = Arc::new(Switch::default());
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let counted = Counted::new(ours, Arc::clone(&switch));
        let mut io = HeldIo::new(counted, Arc::clone(&switch));
        switch.hold(true);
        io.write_all(b"one ").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b"two").await.unwrap();
        let mut seen = [0; 7];
        assert!(futures_util::poll!(Box::pin(theirs.read(&mut seen))).is_pending());
        switch.hold(false);
        io.flush().await.unwrap();
        theirs.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"one two");
        theirs.write_all(b"12345").await.unwrap();
        io.read_exact(&mut seen[..5]).await.unwrap();
        assert_eq!(switch.bytes_read(), 5);
    }

    #[tokio::test]
    async fn a_turn_reads_so_much_and_the_next_goes_on() {
        let switch = Arc::new(Switch::default());
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut io = HeldIo::new(ours, Arc::clone(&switch));
        let sent = vec![1; 100_000];
        theirs.write_all(&sent).await.unwrap();
        let mut seen = vec![0; sent.len()];
        {
            let read = Box::pin(io.read_exact(&mut seen[..40_000]));
            assert!(
                futures_util::poll!(read).is_ready(),
                "one read may go beyond"
            );
        }
        assert!(futures_util::poll!(Box::pin(io.read(&mut seen))).is_pending());
        switch.begin_turn();
        switch.stop_reading(true);
        assert!(futures_util::poll!(Box::pin(io.read(&mut seen))).is_pending());
        switch.stop_reading(false);
        assert!(futures_util::poll!(Box::pin(io.read(&mut seen))).is_ready());
    }

    #[tokio::test]
    async fn the_preface_is_waited_for_and_passed_on() {
        for (said, greeted) in [
            (PREFACE, true),
            (&PREFACE[..23], false),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
            (b"", false),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let mut io = HeldIo::new(ours, Arc::default());
            theirs.write_all(said).await.unwrap();
            theirs.write_all(b"more").await.unwrap();
            drop(theirs);
            let text = String::from_utf8_lossy(said);
            assert_eq!(io.greeted().await.is_ok(), greeted, "{text}");
            if greeted {
                let mut seen = vec![];
                io.read_to_end(&mut seen).await.unwrap();
                assert_eq!(seen, [PREFACE, b"more"].concat());
            }
        }
    }

    #[tokio::test]
    async fn room_is_given_back_once_it_is_not_needed() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut io = HeldIo::new(ours, Arc::default());
        io.write_all(&[1; 50_000]).await.unwrap();
        assert!(io.held.capacity() >= 50_000);
        io.flush().await.unwrap();
        assert!(io.held.capacity() <= ROOM_KEPT);
        theirs.read_exact(&mut [0; 50_000]).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_held_has_a_bound() {
        let switch = Arc::new(Switch::default());
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut io = HeldIo::new(ours, Arc::clone(&switch));
        switch.hold(true);
        let chunk = vec![0; 10 * MOST_HELD];
        let write = Box::pin(io.write_all(&chunk));
        assert!(futures_util::poll!(write).is_pending());
        assert!(io.held.len() <= 2 * MOST_HELD);
    }

    #[tokio::test]
    async fn what_is_written_in_part_does_not_pile_up() {
        let (ours, _theirs) = tokio::io::duplex(MOST_HELD - 1);
        let mut io = HeldIo::new(ours, Arc::default());
        io.write_all(&[1; MOST_HELD]).await.unwrap();
        assert!(futures_util::poll!(Box::pin(io.flush())).is_pending());
        io.write_all(&[1; 10]).await.unwrap();
        assert_eq!(io.held.len(), 11);
    }
}
