//! Certificates for tests, and the folders that they are in.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;

/// Issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A folder as Kubernetes mounts a Secret: its files are links through one
/// link, `..data`, which is swapped when the Secret changes.
pub(crate) struct Secret {
    folder: TempDir,
    versions: u32,
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A pair whose certificate is valid for these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    /// A pair whose certificate has ended.
    pub(crate) fn issue_ended(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn issue_with(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

// === impl Pair ===

impl Pair {
    pub(crate) fn certificate_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

// === impl Secret ===

impl Secret {
    /// With `tls.crt`, `tls.key` and `ca.crt`, as Kubernetes names them.
    pub(crate) fn new(pair: &Pair, authority: &Authority) -> Self {
        let mut secret = Self {
            folder: tempfile::tempdir().unwrap(),
            versions: 0,
        };
        secret.swap(pair, authority);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let through = Path::new("..data").join(name);
            symlink(through, secret.folder.path().join(name)).unwrap();
        }
        secret
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Replaces all files as one.
    pub(crate) fn swap(&mut self, pair: &Pair, authority: &Authority) {
        let link = self.path("..data");
        let before = fs::read_link(&link).ok();
        self.versions += 1;
        let name = format!("..version_{}", self.versions);
        let folder = self.path(&name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tls.crt"), &pair.certificate).unwrap();
        fs::write(folder.join("tls.key"), &pair.key).unwrap();
        fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
        symlink(&name, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), link).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(self.folder.path().join(before)).unwrap();
        }
    }
}
