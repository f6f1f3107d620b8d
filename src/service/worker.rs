//! Workers: threads with an event loop each, among which connections are
//! spread. A connection stays with its worker, so that nothing it does has to
//! be handed between threads.

use std::{io, sync::Arc, thread};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    connection::{self, Shared},
    listener::{Accepted, Seat},
    turns_true,
};

/// Accepted connections that may wait for a worker.
const QUEUE: usize = 1_024;

/// What a worker serves, and until when.
#[derive(Clone)]
pub(crate) struct Duty {
    pub(crate) shared: Arc<Shared>,
    /// Turns true when connections shall finish what they have and go.
    pub(crate) closing: watch::Receiver<bool>,
    /// Turns true when they shall go at once.
    pub(crate) ending: watch::Receiver<bool>,
}

/// Starts a worker; it ends once the sender is dropped and its connections
/// are gone. `done` is dropped at its end.
///
/// # Errors
/// The operating system gives no thread or no event queue.
pub(crate) fn start(
    number: usize,
    duty: Duty,
    done: mpsc::Sender<()>,
) -> io::Result<mpsc::Sender<(Accepted, Seat)>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            runtime.block_on(work(receiver, duty));
            drop(done);
        })?;
    Ok(sender)
}

async fn work(mut accepted: mpsc::Receiver<(Accepted, Seat)>, duty: Duty) {
    duty.shared.api.limiter.store().take_seat();
    let mut connections = JoinSet::new();
    let mut ending = duty.ending.clone();
    loop {
        tokio::select! {
            () = turns_true(&mut ending) => return,
            socket = accepted.recv() => match socket {
                Some((socket, seat)) => serve(socket, seat, &duty, &mut connections),
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    tokio::select! {
        () = turns_true(&mut ending) => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
}

fn serve(socket: Accepted, seat: Seat, duty: &Duty, connections: &mut JoinSet<()>) {
    let started = match socket {
        Accepted::Tcp(stream) => {
            TcpStream::from_std(stream).map(|stream| spawn(stream, seat, duty, connections))
        }
        Accepted::Unix(stream) => {
            UnixStream::from_std(stream).map(|stream| spawn(stream, seat, duty, connections))
        }
    };
    if let Err(error) = started {
        tracing::warn!(%error, "dropped a connection");
    }
}

fn spawn<T>(stream: T, seat: Seat, duty: &Duty, connections: &mut JoinSet<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&duty.shared);
    let closing = duty.closing.clone();
    connections.spawn(connection::serve(stream, shared, seat, closing));
}
