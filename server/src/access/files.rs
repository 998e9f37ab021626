//! The files that define access: their paths, as flags and as the table `[access]`, and their contents.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use forebay_types::file;
use serde::Deserialize;

/// Largest file: 10,000 tokens, or a thousand certificates.
const MAX_FILE: u64 = 1 << 20;

/// Paths of the files that define access. Without any, every call is served, in plain text.
#[derive(Clone, Debug, Default)]
pub struct AccessFiles {
    /// Certificate of the server followed by intermediate certificates, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities of the clients, PEM: clients must have a certificate of one of them.
    pub tls_client_ca: Option<PathBuf>,
    /// Lines of `identity token`: clients must send one of the tokens.
    pub tokens: Option<PathBuf>,
}

/// Access control. The files are reloaded when they change, and on SIGHUP.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessArgs {
    /// Certificate of the server followed by intermediate certificates, PEM; enables TLS.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Certificate authorities, PEM: only clients with a certificate of one of them may connect.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// File of `identity token` lines, each token of at least 16 characters: only calls with one of them are served.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AccessArgs {
    /// These settings, with those of `other` for what is not set.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            token_file: self.token_file.or(other.token_file),
        }
    }

    pub(crate) fn files(self) -> AccessFiles {
        let Self { tls_cert, tls_key, tls_client_ca, token_file } = self;
        AccessFiles { tls_cert, tls_key, tls_client_ca, tokens: token_file }
    }
}

/// The contents of the files.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) cert: Option<Vec<u8>>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) client_ca: Option<Vec<u8>>,
    pub(super) tokens: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(files: &AccessFiles) -> anyhow::Result<Self> {
        let read = |file: &Option<PathBuf>| match file {
            None => Ok(None),
            Some(path) => file::read(path, MAX_FILE)
                .map(Some)
                .with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Self {
            cert: read(&files.tls_cert)?,
            key: read(&files.tls_key)?,
            client_ca: read(&files.tls_client_ca)?,
            tokens: read(&files.tokens)?,
        })
    }

    pub(super) fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for content in [&self.cert, &self.key, &self.client_ca, &self.tokens] {
            let content = content.as_deref().unwrap_or_default();
            hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
        }
        hasher.finalize()
    }
}
