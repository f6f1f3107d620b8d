//! Lines on their way out, from a thread of their own.
//!
//! Whoever logs is an event loop: it must not wait for a pipe that nobody
//! reads. Lines wait in a queue with a bound, in lines and in bytes; those
//! beyond it are dropped and counted, and that is logged once there is room.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const MOST_LINES: usize = 8_192;
/// Bytes that may wait.
const MOST_BYTES: usize = 4 << 20;
/// From one look whether all is written to the next.
const PAUSE: Duration = Duration::from_millis(1);

/// Takes lines.
#[derive(Clone)]
pub(super) struct Lines {
    /// `None`: there is no thread; written at once.
    queue: Option<SyncSender<Vec<u8>>>,
    counts: Arc<Counts>,
}

/// Takes one line.
pub(super) struct Line<'l>(&'l Lines);

#[derive(Debug, Default)]
struct Counts {
    /// Bytes that are not written yet.
    waiting: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Figures of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Lines that were written.
    pub written: u64,
    /// Lines that found no room.
    pub dropped: u64,
}

// === impl Lines ===

impl Lines {
    /// Writes to `out` from now on.
    pub(super) fn start(out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel(MOST_LINES);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(out, &lines, &counted));
        Self {
            queue: thread.is_ok().then_some(queue),
            counts,
        }
    }

    /// Waits until all is written, for as long as `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.counts.waiting.load(Ordering::Acquire) > 0 && Instant::now() < until {
            thread::park_timeout(PAUSE);
        }
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            written: self.counts.written.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }

    fn take(&self, line: &[u8]) -> io::Result<()> {
        let Some(queue) = &self.queue else {
            return io::stderr().write_all(line);
        };
        let counts = &self.counts;
        let waiting = counts.waiting.fetch_add(line.len(), Ordering::AcqRel);
        let has_room = waiting + line.len() <= MOST_BYTES;
        if !has_room || queue.try_send(line.to_vec()).is_err() {
            counts.waiting.fetch_sub(line.len(), Ordering::AcqRel);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Writes until nobody is left to log.
fn write_all(mut out: impl Write, lines: &Receiver<Vec<u8>>, counts: &Counts) {
    let mut told = 0;
    for line in lines {
        // There is nowhere to say that standard error cannot be written to.
        if out.write_all(&line).is_ok() {
            counts.written.fetch_add(1, Ordering::Relaxed);
        }
        counts.waiting.fetch_sub(line.len(), Ordering::AcqRel);
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if dropped > told && counts.waiting.load(Ordering::Acquire) < MOST_BYTES / 2 {
            tracing::warn!(lines = dropped - told, "log lines were dropped");
            told = dropped;
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lines").field(&self.counts).finish()
    }
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Line<'l> {
        Line(self)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.take(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::*;

    /// A pipe that takes a line when it is told to.
    struct Pipe {
        goes_on: Receiver<()>,
        out: Sender<Vec<u8>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            self.goes_on.recv().map_err(|_| gone())?;
            self.out.send(bytes.to_vec()).map_err(|_| gone())?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (go, goes_on) = mpsc::channel();
        let (out, read) = mpsc::channel();
        let lines = Lines::start(Pipe { goes_on, out });
        let said = MOST_LINES + 100;
        for number in 0..said {
            let line = format!("{number}\n");
            lines.make_writer().write_all(line.as_bytes()).unwrap();
        }
        // One is with the thread, maybe.
        let dropped = lines.figures().dropped;
        assert!((99..=100).contains(&dropped), "{dropped}");
        lines.flush(Duration::from_millis(5));
        assert_eq!(lines.figures().written, 0);
        for _ in 0..said {
            go.send(()).unwrap();
        }
        lines.flush(Duration::from_secs(30));
        assert_eq!(lines.figures().written + dropped, said as u64);
        assert_eq!(read.try_iter().next().unwrap(), b"0\n");
    }

    #[test]
    fn few_lines_may_be_too_many_bytes() {
        let (_go, goes_on) = mpsc::channel();
        let (out, _read) = mpsc::channel();
        let lines = Lines::start(Pipe { goes_on, out });
        let line = vec![b'x'; MOST_BYTES / 3];
        for _ in 0..10 {
            lines.make_writer().write_all(&line).unwrap();
        }
        assert_eq!(lines.figures().dropped, 7);
    }
}
