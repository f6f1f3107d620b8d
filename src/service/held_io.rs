//! A socket that holds back writes while a batch of calls is answered.
//!
//! HTTP/2 code flushes after every answer. A proxy's calls arrive many to a
//! read; holding their answers until all are there turns a system call per
//! call into one per batch. It also counts what is read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Held back at most; beyond it writes go out even while holding.
const MOST_HELD: usize = 64 * 1024;

/// Read at most in one turn, about: what HTTP/2 code has read it keeps room
/// for, and other connections wait meanwhile.
const MOST_IN_TURN: u64 = 32 * 1024;

/// The socket, as HTTP/2 code sees it.
#[derive(Debug)]
pub(crate) struct HeldIo<T> {
    inner: T,
    held: BytesMut,
    switch: Arc<Switch>,
}

/// The handle on the socket's behaviour that its user keeps.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    holding: AtomicBool,
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

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the operating system has taken so far.
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
            held: BytesMut::new(),
            switch,
        }
    }
}

impl<T: AsyncWrite + Unpin> HeldIo<T> {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.held.advance(written);
                    let written = written as u64;
                    self.switch.written.fetch_add(written, Ordering::Relaxed);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeldIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.switch.read_in_turn.load(Ordering::Relaxed) >= MOST_IN_TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        self.switch.read.fetch_add(read, Ordering::Relaxed);
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
        if self.held.len() >= MOST_HELD {
            ready!(self.poll_release(cx))?;
        }
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

    #[tokio::test]
    async fn writes_wait_while_held_and_keep_their_order() {
        let switch = Arc::new(Switch::default());
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut io = HeldIo::new(ours, Arc::clone(&switch));
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
        assert!(futures_util::poll!(Box::pin(io.read(&mut seen))).is_ready());
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
}
