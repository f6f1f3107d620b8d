use std::{
    fs,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream as ClientStream};

use super::*;
use crate::service::{
    certificates::Protocol,
    counted::Counted,
    held_io::{HeldIo, Switch},
    listener::Table,
};

/// Puts a new pair into a folder; gives the certificate.
fn renew(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    certificate.der().clone()
}

fn load(folder: &TempDir) -> Arc<Tls> {
    let config = Config {
        protocol: Protocol::Grpc,
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
        clients: None,
    };
    Tls::load(config).unwrap()
}

/// The server's end of a connection whose client says `said` and, if
/// `goes`, hangs up: why there is no handshake.
async fn hear(tls: &Tls, said: &[u8], goes: bool) -> Option<NoTls> {
    let (ours, mut theirs) = duplex(1 << 16);
    theirs.write_all(said).await.unwrap();
    let kept = (!goes).then_some(theirs);
    let seat = Table::new(1).seat().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let heard = tls.accept(ours, &seat, deadline).await;
    drop(kept);
    heard.err()
}

type Ends = (
    Result<Box<TlsStream<DuplexStream>>, NoTls>,
    io::Result<ClientStream<DuplexStream>>,
);

/// Both ends of a connection, of a client that trusts `certificate` alone.
async fn meet(tls: &Tls, certificate: CertificateDer<'static>, alpn: &[u8]) -> Ends {
    let (ours, theirs) = duplex(1 << 20);
    let seat = Table::new(1).seat().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    tokio::join!(
        tls.accept(ours, &seat, deadline),
        TlsConnector::from(client(certificate, alpn)).connect(name(), theirs)
    )
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a.example").unwrap()
}

/// A client that trusts `certificate` alone.
fn client(certificate: CertificateDer<'static>, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

#[tokio::test(start_paused = true)]
async fn only_handshakes_that_were_begun_can_fail() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let tls = load(&folder);
    // Silent ones and slow ones last until the deadline.
    for (said, goes, why, failures) in [
        (&b""[..], true, NoTls::Failed, 0),
        (b"", false, NoTls::TooSlow, 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, NoTls::Failed, 2),
        (b"\x16\x03\x01\x00\x05", true, NoTls::Failed, 3),
        (b"\x16\x03\x01\x02\x00\x01\x00", false, NoTls::TooSlow, 4),
        (b"\x16\x03\x01\x00\x05hello", false, NoTls::Failed, 5),
        (&[0x16; 1_000], false, NoTls::Failed, 6),
    ] {
        assert_eq!(hear(&tls, said, goes).await, Some(why), "{said:?}");
        let figures = tls.figures();
        let expected = (0, failures);
        assert_eq!(
            (figures.handshakes, figures.handshake_failures),
            expected,
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = renew(folder.path());
    let tls = load(&folder);
    for (alpn, is_good) in [(&b"h2"[..], true), (b"http/1.1", false)] {
        let (ours, theirs) = meet(&tls, certificate.clone(), alpn).await;
        assert_eq!((ours.is_ok(), theirs.is_ok()), (is_good, is_good));
    }
}

#[tokio::test]
async fn a_flush_is_one_record() {
    /// What a record adds: its header, its kind and its tag.
    const OVERHEAD: usize = 5 + 1 + 16;
    let folder = tempfile::tempdir().unwrap();
    let certificate = renew(folder.path());
    let (ours, theirs) = meet(&load(&folder), certificate, b"h2").await;
    let switch = Arc::new(Switch::default());
    let mut ours = HeldIo::new(ours.unwrap(), Arc::clone(&switch));
    switch.hold(true);
    for _ in 0..100 {
        ours.write_all(&[7; 100]).await.unwrap();
        ours.flush().await.unwrap();
    }
    switch.hold(false);
    ours.flush().await.unwrap();
    drop(ours);
    let mut wire = vec![];
    let mut socket = theirs.unwrap().into_inner().0;
    socket.read_to_end(&mut wire).await.unwrap();
    assert_eq!(wire.len(), 100 * 100 + OVERHEAD);
}

/// A socket that takes in all it is given, and counts how often.
struct Taker {
    inner: DuplexStream,
    writes: usize,
}

impl AsyncRead for Taker {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Taker {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn records_of_a_flush_leave_with_one_write() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = renew(folder.path());
    let tls = load(&folder);
    let (inner, theirs) = duplex(1 << 20);
    let switch = Arc::new(Switch::default());
    let counted = Counted::new(Taker { inner, writes: 0 }, Arc::clone(&switch));
    let seat = Table::new(1).seat().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let (ours, _theirs) = tokio::join!(
        tls.accept(counted, &seat, deadline),
        TlsConnector::from(client(certificate, b"h2")).connect(name(), theirs)
    );
    assert!(switch.bytes_read() > 100, "the hello counts");
    let mut ours = ours.unwrap();
    let before = ours.get_ref().0.get_ref().writes;
    let mut held = HeldIo::new(&mut ours, switch);
    held.write_all(&[7; 60_000]).await.unwrap();
    held.flush().await.unwrap();
    assert_eq!(ours.get_ref().0.get_ref().writes, before + 1);
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_taken_if_they_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let first = renew(folder.path());
    let tls = load(&folder);
    // Changed before anybody looks.
    let second = renew(folder.path());
    let fresh = tokio::spawn(Arc::clone(&tls).keep_fresh());
    let settled = || sleep(LOOK_EVERY * 4);
    let is_served = async |certificate: &CertificateDer<'static>| {
        let (ours, theirs) = meet(&tls, certificate.clone(), b"h2").await;
        ours.is_ok() && theirs.is_ok()
    };
    settled().await;
    assert!(!is_served(&first).await);
    assert!(is_served(&second).await);
    let figures = tls.figures();
    assert_eq!((figures.reloads, figures.reload_failures), (1, 0));

    fs::write(folder.path().join("tls.key"), "secret").unwrap();
    settled().await;
    settled().await;
    assert!(is_served(&second).await);
    let figures = tls.figures();
    assert_eq!((figures.reloads, figures.reload_failures), (1, 1));
    let trouble = figures.trouble.unwrap();
    assert!(trouble.contains("tls.key: there is no key"), "{trouble}");

    let third = renew(folder.path());
    settled().await;
    assert!(is_served(&third).await);
    let figures = tls.figures();
    assert_eq!((figures.reloads, figures.trouble), (2, None));
    let read = CertificateDer::from_pem_file(folder.path().join("tls.crt"));
    assert_eq!(read.unwrap(), third);
    fresh.abort();
}
