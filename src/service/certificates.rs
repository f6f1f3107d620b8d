//! Files with certificates and keys → what a TLS handshake goes by.
//!
//! All of a listener's files are read together and either all of them are
//! good, or none is used. What is wrong is told with the file's path, and
//! never with what is in it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, InconsistentKeys,
    RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject as _},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{engine::time::Timestamp, watch::Look};

/// Bytes of a file: many times as much as all certificates of a system.
const MOST_BYTES: u64 = 4 << 20;

/// What is spoken inside of TLS; a client that names something else by ALPN
/// is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2: `h2`.
    Grpc,
    /// HTTP/1: `http/1.1`.
    Http,
}

/// How a listener proves who it is, and who may speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is spoken.
    pub protocol: Protocol,
    /// PEM: the listener's certificate, then those between it and a root.
    pub certificate: PathBuf,
    /// PEM: the certificate's key.
    pub key: PathBuf,
    /// Whose certificates are asked for; `None`: everybody may speak.
    pub clients: Option<Clients>,
}

/// Clients that may speak to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// PEM: roots of their certificates.
    pub ca: PathBuf,
    /// The system's roots are as good.
    pub system_roots: bool,
    /// The name that their certificates have to be valid for.
    pub name: Option<ServerName<'static>>,
}

/// Why a file cannot be used; nothing of what is in it is told.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct BadFile {
    path: PathBuf,
    reason: String,
}

/// What handshakes go by, until files change.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) server: Arc<ServerConfig>,
    /// When the listener's certificate ends, if it says so.
    pub(crate) not_after: Option<Timestamp>,
}

/// Asks the chain's verifier, and then for a name.
#[derive(Debug)]
struct NamedClients {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

// === impl Config ===

impl Config {
    /// Reads all files; blocks.
    ///
    /// # Errors
    /// One of them is not good, or they do not go together.
    pub(crate) fn load(&self) -> Result<Loaded, BadFile> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&self.certificate)?;
        let not_after = chain.first().and_then(|first| not_after(first));
        let key = key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| BadFile::new(&self.certificate, error))?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(clients.verifier(&provider)?),
            None => builder.with_no_client_auth(),
        };
        let server = builder.with_single_cert(chain, key);
        let mut server = server.map_err(|error| self.misfit(&error))?;
        server.alpn_protocols = vec![self.protocol.name().to_vec()];
        // Every connection proves itself anew, by the files as they are now;
        // a proxy makes few, and nothing is kept of those that are gone.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Loaded {
            server: Arc::new(server),
            not_after,
        })
    }

    /// What the files look like from outside; blocks.
    pub(crate) fn look(&self) -> u64 {
        let mut look = Look::default();
        look.file(&self.certificate);
        look.file(&self.key);
        if let Some(clients) = &self.clients {
            look.file(&clients.ca);
        }
        look.sum()
    }

    fn misfit(&self, error: &Error) -> BadFile {
        let certificate = self.certificate.display();
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => BadFile::new(
                &self.key,
                format_args!("the key is not that of the certificate in {certificate}"),
            ),
            Error::InvalidCertificate(_) => BadFile::new(&self.certificate, unusable(error)),
            _ => BadFile::new(
                &self.key,
                "no key that can be used: RSA from 2048 bits on, ECDSA on P-256 or P-384, Ed25519; not encrypted",
            ),
        }
    }
}

impl Protocol {
    /// The protocol's name in ALPN.
    fn name(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Http => b"http/1.1",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpc => "gRPC",
            Self::Http => "HTTP",
        })
    }
}

// === impl Clients ===

impl Clients {
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, BadFile> {
        let bad = |error: &dyn std::fmt::Display| BadFile::new(&self.ca, error);
        let mut roots = RootCertStore::empty();
        if self.system_roots {
            // A system without any is as good: there is the file.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for certificate in certificates(&self.ca)? {
            roots
                .add(certificate)
                .map_err(|error| bad(&unusable(&error)))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        // Names of roots in every handshake would be many, and some clients
        // take them for all there are.
        let chain = builder.clear_root_hint_subjects().build();
        let chain = chain.map_err(|error| bad(&error))?;
        Ok(match self.name.clone() {
            Some(name) => Arc::new(NamedClients { chain, name }),
            None => chain,
        })
    }
}

// === impl NamedClients ===

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let certificate = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::from(CertificateError::BadEncoding))?;
        match certificate.verify_is_valid_for_subject_name(&self.name) {
            Ok(()) => Ok(verified),
            Err(_) => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

// === impl BadFile ===

impl BadFile {
    fn new(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// All certificates of a file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| BadFile::new(path, describe(&error)))?;
    if found.is_empty() {
        return Err(BadFile::new(path, "there is no certificate in it (PEM)"));
    }
    Ok(found)
}

/// The first key of a file.
fn key(path: &Path) -> Result<PrivateKeyDer<'static>, BadFile> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            BadFile::new(path, "there is no key in it (PEM, not encrypted)")
        }
        error => BadFile::new(path, describe(&error)),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, BadFile> {
    let mut bytes = vec![];
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(read) if read as u64 > MOST_BYTES => Err(BadFile::new(
            path,
            format_args!("more than {MOST_BYTES} bytes"),
        )),
        Ok(_) => Ok(bytes),
        Err(error) => Err(BadFile::new(path, cannot_read(&error))),
    }
}

/// What is wrong with a certificate, whosever it is.
fn unusable(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(kind) => format!("no certificate that can be used: {kind}"),
        other => other.to_string(),
    }
}

fn cannot_read(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// In words of our own: those of the reader show lines of the file.
fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "not whole: a section of it does not end (PEM)",
        pem::Error::Base64Decode(_) => "damaged: a section of it is not base64 (PEM)",
        _ => "not in PEM form",
    }
}

/// When a certificate (DER, RFC 5280) ends.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    /// The version, where it is not the first.
    const VERSION: u8 = 0xa0;
    let (_, signed) = next(&mut { certificate })?;
    let (_, mut fields) = next(&mut { signed })?;
    // Version, serial number, signature's algorithm, issuer; validity.
    if fields.first() == Some(&VERSION) {
        next(&mut fields)?;
    }
    for _ in 0..3 {
        next(&mut fields)?;
    }
    let (_, mut validity) = next(&mut fields)?;
    next(&mut validity)?;
    let (kind, text) = next(&mut validity)?;
    time(kind, text)
}

/// The next element: its kind, and what is in it.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&kind, after) = rest.split_first()?;
    let (&first, mut after) = after.split_first()?;
    let mut len = usize::from(first);
    if len >= 0x80 {
        let digits;
        (digits, after) = after.split_at_checked(len - 0x80)?;
        len = digits.iter().try_fold(0_usize, |len, &digit| {
            Some(len.checked_mul(256)? + usize::from(digit))
        })?;
    }
    let (content, after) = after.split_at_checked(len)?;
    *rest = after;
    Some((kind, content))
}

/// `YYMMDDhhmmssZ`, or with all four digits of the year.
fn time(kind: u8, text: &[u8]) -> Option<Timestamp> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = match kind {
        UTC_TIME if text.len() == 12 && *text < *"5" => format!("20{text}"),
        UTC_TIME if text.len() == 12 => format!("19{text}"),
        GENERALIZED_TIME if text.len() == 14 => text.to_owned(),
        _ => return None,
    };
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<u32>().ok();
    let year = i32::try_from(number(0, 4)?).ok()?;
    let day = chrono::NaiveDate::from_ymd_opt(year, number(4, 6)?, number(6, 8)?)?;
    let at = day.and_hms_opt(number(8, 10)?, number(10, 12)?, number(12, 14)?)?;
    let seconds = u64::try_from(at.and_utc().timestamp()).ok()?;
    Some(Timestamp::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;

    /// A folder with `tls.crt` and `tls.key` for this name.
    fn folder(name: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2031, 2, 3);
        let certificate = params.self_signed(&key).unwrap().pem();
        fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
        folder
    }

    fn config(folder: &TempDir) -> Config {
        Config {
            protocol: Protocol::Grpc,
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            clients: None,
        }
    }

    fn error(config: &Config) -> String {
        let Err(error) = config.load() else {
            panic!("{config:?} is good");
        };
        error.to_string()
    }

    #[test]
    fn a_good_pair_is_taken() {
        let folder = folder("a.example");
        let loaded = config(&folder).load().unwrap();
        let february = chrono::NaiveDate::from_ymd_opt(2031, 2, 3).unwrap();
        let expected = february.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
        let expected = Timestamp::from_secs(u64::try_from(expected).unwrap());
        assert_eq!(loaded.not_after, Some(expected));
        assert_eq!(loaded.server.alpn_protocols, [b"h2".to_vec()]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file_and_nothing_of_it() {
        let (good, other) = (folder("a.example"), folder("b.example"));
        let certificate = fs::read_to_string(good.path().join("tls.crt")).unwrap();
        let key = fs::read_to_string(good.path().join("tls.key")).unwrap();
        let others = fs::read_to_string(other.path().join("tls.key")).unwrap();
        let half = |text: &str| text[..text.len() / 2].to_owned();
        let damaged = |text: &str| text.replacen("\nM", "\n!", 1);
        for (name, text, expected) in [
            ("tls.crt", String::new(), "no certificate in it"),
            ("tls.crt", "secret".to_owned(), "no certificate in it"),
            ("tls.crt", key.clone(), "no certificate in it"),
            ("tls.crt", half(&certificate), "does not end"),
            ("tls.crt", damaged(&certificate), "not base64"),
            ("tls.crt", "-----BEGIN secret".to_owned(), "not in PEM form"),
            ("tls.key", String::new(), "no key in it"),
            ("tls.key", "secret".to_owned(), "no key in it"),
            ("tls.key", half(&key), "does not end"),
            ("tls.key", others, "not that of the certificate in"),
            (
                "tls.key",
                "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_owned(),
                "no key that can be used",
            ),
            (
                "tls.crt",
                "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n".to_owned(),
                "no certificate that can be used: BadEncoding",
            ),
        ] {
            let path = good.path().join(name);
            let before = fs::read(&path).unwrap();
            fs::write(&path, &text).unwrap();
            let error = error(&config(&good));
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(error.starts_with(&*path.to_string_lossy()), "{error}");
            assert!(
                !error.contains("secret") && !error.contains("c2Vj"),
                "{error}"
            );
            fs::write(&path, before).unwrap();
        }
        let huge = File::create(good.path().join("tls.key")).unwrap();
        huge.set_len(MOST_BYTES + 1).unwrap();
        assert!(error(&config(&good)).contains("more than"));
        fs::remove_file(good.path().join("tls.key")).unwrap();
        assert!(error(&config(&good)).contains("tls.key: cannot be read: No such file"));
    }

    #[test]
    fn roots_of_clients_are_checked_too() {
        let folder = folder("a.example");
        let mut config = config(&folder);
        config.clients = Some(Clients {
            ca: folder.path().join("ca.crt"),
            system_roots: false,
            name: None,
        });
        assert!(error(&config).contains("ca.crt: cannot be read"));
        fs::write(folder.path().join("ca.crt"), "").unwrap();
        assert!(error(&config).contains("ca.crt: there is no certificate in it"));
        let before = config.look();
        fs::copy(folder.path().join("tls.crt"), folder.path().join("ca.crt")).unwrap();
        assert!(config.load().is_ok());
        assert_ne!(config.look(), before);
    }

    #[test]
    fn times_are_read() {
        const UTC: u8 = 0x17;
        const GENERALIZED: u8 = 0x18;
        for (kind, text, expected) in [
            (UTC, "700101000001Z", Some(1)),
            (UTC, "310203040506Z", Some(1_927_857_906)),
            (UTC, "500101000000Z", None),
            (GENERALIZED, "19700102000000Z", Some(86_400)),
            (GENERALIZED, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED, "20501301000000Z", None),
            (UTC, "310203040506", None),
            (UTC, "3102030405Z", None),
            (0x0c, "310203040506Z", None),
        ] {
            let expected = expected.map(Timestamp::from_secs);
            assert_eq!(time(kind, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn no_bytes_make_the_reader_of_ends_panic() {
        let key = KeyPair::generate().unwrap();
        let whole = CertificateParams::new(["a".to_owned()]).unwrap();
        let whole = whole.self_signed(&key).unwrap().der().to_vec();
        assert!(not_after(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(not_after(&whole[..len]), None, "{len} bytes");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x30, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                not_after(&changed);
            }
        }
    }
}
