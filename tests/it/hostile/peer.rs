//! The other end of a connection, and what it may say: raw HTTP/2 frames, well
//! formed or not.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DECIDE: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const WATCH: &str = "/grpc.health.v1.Health/Watch";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// How long a read or a write may block before deadlines are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// A connection.
pub(crate) struct Peer(TcpStream);

// === impl Peer ===

impl Peer {
    /// A TCP connection that has said nothing yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the server listens"))
    }

    /// An HTTP/2 connection with these settings.
    pub(crate) fn http2(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::connect(address).greet(settings)
    }

    /// An HTTP/2 connection that takes in next to nothing unless it is read:
    /// the operating system has no room for it.
    pub(crate) fn deaf(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a socket");
        socket.connect(&address.into()).expect("the server listens");
        Self::over(socket.into()).greet(settings)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(GLANCE)).expect("a socket");
        stream.set_write_timeout(Some(GLANCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self(stream)
    }

    fn greet(mut self, settings: &[(u16, u32)]) -> Self {
        let pairs: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.say(&[PREFACE, &frame(SETTINGS, 0, 0, &pairs)].concat());
        self
    }

    /// Sends what should fit into the socket's buffer; whether it did.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Sends as much as the server takes in a short time.
    pub(crate) fn press(&mut self, bytes: &[u8]) {
        let deadline = Instant::now() + GLANCE;
        let mut left = bytes;
        while !left.is_empty() && Instant::now() < deadline {
            match self.0.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if is_pause(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Sends all of it, unless the server closes or does not take it in.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let (mut left, mut stalls) = (bytes, 0);
        while !left.is_empty() && stalls < 3 {
            match self.0.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if is_pause(&error) => stalls += 1,
                Err(_) => return,
            }
        }
    }

    /// Whether a call is answered, or refused with a status, within `patience`.
    pub(crate) fn is_answered(&mut self, patience: Duration) -> bool {
        // Trailers: HEADERS that end their stream.
        let ends = [HEADERS, END_STREAM | END_HEADERS];
        let told = |text: &[u8]| text.windows(2).any(|part| part == ends);
        self.read_until(patience, told)
            .is_some_and(|answer| !answer.is_empty())
    }

    /// Sends what `next` gives, without end; whether the server cuts us off
    /// within `patience`.
    pub(crate) fn flood(&mut self, patience: Duration, mut next: impl FnMut(&mut Vec<u8>)) -> bool {
        let deadline = Instant::now() + patience;
        let mut bytes = vec![];
        while Instant::now() < deadline {
            if bytes.is_empty() {
                next(&mut bytes);
            }
            match self.0.write(&bytes) {
                Ok(written) => drop(bytes.drain(..written)),
                Err(error) if is_pause(&error) => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Reads and forgets all that the server says, in a thread of its own.
    pub(crate) fn listen(&self) {
        let mut stream = self.0.try_clone().expect("a file descriptor");
        thread::spawn(move || {
            let mut bytes = [0; 16_384];
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if is_pause(&error) => {}
                    Err(_) => return,
                }
            }
        });
    }

    /// Whether the server closes the connection within `patience`.
    pub(crate) fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.read_until(patience, |_| false).is_none()
    }

    /// Whether the server closes the connection within `patience`, of one that
    /// does not read what it says.
    pub(crate) fn is_gone_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // Whatever it means, so little is no flood.
            match self.0.write(&[0]) {
                Err(error) if !is_pause(&error) => return true,
                _ => thread::park_timeout(GLANCE),
            }
        }
        false
    }

    /// All that the server has said once `enough` says that it is; `None` when
    /// it closed the connection before, empty when it took too long.
    pub(crate) fn read_until(
        &mut self,
        patience: Duration,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let (mut seen, mut bytes) = (vec![], [0; 16_384]);
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => seen.extend_from_slice(&bytes[..read]),
                Err(error) if is_pause(&error) => {}
                Err(_) => return None,
            }
            if enough(&seen) {
                return Some(seen);
            }
            if Instant::now() >= deadline {
                return Some(vec![]);
            }
        }
    }

    /// All that the server says until it closes or `patience` is over.
    pub(crate) fn read_all(&mut self, patience: Duration) -> Vec<u8> {
        let deadline = Instant::now() + patience;
        let (mut seen, mut bytes) = (vec![], [0; 16_384]);
        while Instant::now() < deadline {
            match self.0.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => seen.extend_from_slice(&bytes[..read]),
                Err(error) if is_pause(&error) => {}
                Err(_) => break,
            }
        }
        seen
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ends `listen`'s thread, too.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [l0, l1, l2, kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a call to `path`.
pub(crate) fn head(path: &str) -> Vec<u8> {
    // POST, http, and the rest as literals that no table remembers.
    let mut block = vec![0x83, 0x86];
    let fields = [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// HEADERS of a call to `path`, with its body still to come.
pub(crate) fn open(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(path))
}

/// A whole call.
pub(crate) fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let body = [&length(message.len())[..], message].concat();
    [open(stream, path), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// What comes before a gRPC message of so many bytes.
pub(crate) fn length(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes).unwrap().to_be_bytes();
    [&[0][..], &length].concat()
}

/// The numbers of a client's streams, in order.
pub(crate) fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}
