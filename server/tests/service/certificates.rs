//! A certificate authority and its certificates, as files in a temporary folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of the same name are not distinguished until a signature is checked.
        let name = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a DNS name or a URI.
    pub(crate) fn certify(&self, name: &str) -> Certificate {
        self.certify_until(name, 4000)
    }

    /// A certificate that has expired.
    pub(crate) fn certify_expired(&self, name: &str) -> Certificate {
        self.certify_until(name, 2001)
    }

    fn certify_until(&self, name: &str, year: i32) -> Certificate {
        let dns = if name.contains(':') { Vec::new() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(dns).unwrap();
        if name.contains(':') {
            params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        }
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| {
            let name = name.replace([':', '/'], "_");
            self.folder.path().join(format!("{name}-{year}-{kind}.pem"))
        };
        let files = Certificate { cert: file("cert"), key: file("key") };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
