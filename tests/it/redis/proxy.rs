//! Between ratekeeper and Redis: a network that can be made bad.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::sleep,
};

/// What happens to replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Network {
    /// They come.
    #[default]
    Good,
    /// They come so much later.
    Slow(Duration),
    /// They do not come; connections stay open, new ones too.
    BlackHole,
    /// The next one is cut after its first byte.
    Cut,
}

/// Listens where ratekeeper connects to. Ends when dropped.
pub(crate) struct Proxy {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    network: Network,
    /// Where new connections go; old ones stay where they are.
    upstream: SocketAddr,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("redis://{}", listener.local_addr().expect("its own"));
        let state = Arc::new(Mutex::new(State {
            network: Network::Good,
            upstream: ([127, 0, 0, 1], port).into(),
        }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            accepting,
        }
    }

    pub(crate) fn set(&self, network: Network) {
        self.state.lock().expect("whole").network = network;
    }

    /// New connections go there.
    pub(crate) fn point_to(&self, port: u16) {
        self.state.lock().expect("whole").upstream = ([127, 0, 0, 1], port).into();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        let upstream = state.lock().expect("whole").upstream;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = forward(from_client, to_server) => {}
                () = reply(from_server, to_client, &state) => {}
            }
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn reply(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &Mutex<State>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let network = state.lock().expect("whole").network;
        match network {
            Network::Good => {}
            Network::Slow(delay) => sleep(delay).await,
            Network::BlackHole => continue,
            Network::Cut => {
                state.lock().expect("whole").network = Network::Good;
                let _ = to.write_all(&buffer[..1]).await;
                return;
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
