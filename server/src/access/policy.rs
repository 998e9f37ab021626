//! The rules that the files contain, and their reload.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::Builder;

use anyhow::{Context as _, bail};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::files::{AccessFiles, Contents};
use super::peer::Peer;
use super::tls;
use super::tokens::Tokens;
use crate::status::Refusal;

/// Identity of every call to a server without authentication.
const ANONYMOUS: &str = "anonymous";

/// The access policy of a server, from the last valid contents of the files.
pub struct Access {
    files: AccessFiles,
    rules: RwLock<Arc<Rules>>,
    /// Fingerprint of the contents that were read last, valid or not.
    fingerprint: Mutex<blake3::Hash>,
}

#[derive(Default)]
struct Rules {
    tls: Option<TlsAcceptor>,
    tokens: Option<Tokens>,
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read or is invalid, or a file that it depends on is not given.
    pub fn new(files: AccessFiles) -> anyhow::Result<Self> {
        if files.tls_cert.is_some() != files.tls_key.is_some() {
            bail!("--tls-cert and --tls-key need each other: set both, or neither");
        }
        if files.tls_client_ca.is_some() && files.tls_cert.is_none() {
            bail!("--tls-client-ca needs TLS: set --tls-cert and --tls-key too");
        }
        let contents = Contents::read(&files)?;
        Ok(Self {
            rules: RwLock::new(Arc::new(Rules::parse(&contents, &files)?)),
            fingerprint: Mutex::new(contents.fingerprint()),
            files,
        })
    }

    /// An access policy that serves every call, in plain text.
    pub fn open() -> Self {
        let fingerprint = Mutex::new(Contents::default().fingerprint());
        Self { files: AccessFiles::default(), rules: RwLock::default(), fingerprint }
    }

    /// Runs a reload on a thread of its own: reading a file blocks for as long as its file system does not
    /// answer, which must not keep calls and signals waiting.
    pub(crate) async fn apart(self: &Arc<Self>, reload: fn(&Self)) {
        let access = Arc::clone(self);
        let (reloaded, end) = oneshot::channel();
        let thread = Builder::new().name("access".into()).spawn(move || {
            reload(&access);
            // The caller waits for this, unless the server has ended.
            reloaded.send(()).ok();
        });
        match thread {
            // Without an end it has panicked, which the panic hook has logged.
            Ok(_thread) => drop(end.await),
            Err(error) => {
                tracing::warn!(%error, "access files not checked: the system has no thread for it");
            }
        }
    }

    /// Reloads the files. Invalid files are logged and change nothing.
    pub fn reload(&self) {
        match Contents::read(&self.files) {
            Ok(contents) => self.apply(&contents),
            Err(error) => Self::log_invalid(&error),
        }
    }

    /// Reloads the files if they have changed.
    pub(crate) fn reload_if_changed(&self) {
        // A file that cannot be read may be in the middle of a replacement: the next check reads it
        // again.
        let Ok(contents) = Contents::read(&self.files) else { return };
        let known = *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        if contents.fingerprint() != known {
            self.apply(&contents);
        }
    }

    fn apply(&self, contents: &Contents) {
        *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = contents.fingerprint();
        match Rules::parse(contents, &self.files) {
            Ok(rules) => {
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                tracing::info!("access files reloaded");
            }
            Err(error) => Self::log_invalid(&error),
        }
    }

    fn log_invalid(error: &anyhow::Error) {
        tracing::error!("invalid access files: {error:#}; the previous ones stay in use");
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether calls must authenticate, by a token or a certificate.
    pub fn requires_auth(&self) -> bool {
        self.files.tokens.is_some() || self.files.tls_client_ca.is_some()
    }

    /// Whether only a certificate identifies a call.
    pub(crate) const fn requires_certificates(&self) -> bool {
        self.files.tls_client_ca.is_some() && self.files.tokens.is_none()
    }

    /// Whether connections are encrypted.
    pub const fn encrypts(&self) -> bool {
        self.files.tls_cert.is_some()
    }

    /// The acceptor for the next connection, if connections are encrypted.
    pub(crate) fn tls(&self) -> Option<TlsAcceptor> {
        self.rules().tls.clone()
    }

    /// The identity of a call: the name of its token, or of the certificate of its connection.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] if the server requires tokens and the call has none that it knows, or requires
    /// certificates and the connection has none, such as one over a Unix socket.
    pub(crate) fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Arc<str>, Refusal> {
        let rules = self.rules();
        let Some(tokens) = &rules.tokens else {
            if self.requires_certificates() && peer.certificate.is_none() {
                return Err(Refusal::Unauthenticated { why: "the connection has no certificate" });
            }
            return Ok(peer.certificate.clone().unwrap_or_else(|| ANONYMOUS.into()));
        };
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(Refusal::Unauthenticated { why: "the call has no token" });
        };
        tokens
            .identify(header.as_bytes())
            .ok_or(Refusal::Unauthenticated { why: "the token is unknown" })
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Rules {
    fn parse(contents: &Contents, files: &AccessFiles) -> anyhow::Result<Self> {
        let in_file = |path: &Option<PathBuf>| {
            let path = path.as_deref().unwrap_or(Path::new("")).display().to_string();
            move || path
        };
        let tls = match (&contents.cert, &contents.key) {
            (Some(cert), Some(key)) => {
                let chain = tls::certificates(cert).with_context(in_file(&files.tls_cert))?;
                let key = tls::key(key).with_context(in_file(&files.tls_key))?;
                let authorities = contents.client_ca.as_deref().map(tls::certificates).transpose();
                let authorities = authorities.with_context(in_file(&files.tls_client_ca))?;
                let acceptor = tls::acceptor(chain, key, authorities);
                Some(acceptor.with_context(in_file(&files.tls_cert))?)
            }
            _ => None,
        };
        let tokens = contents.tokens.as_deref().map(Tokens::parse).transpose();
        Ok(Self { tls, tokens: tokens.with_context(in_file(&files.tokens))? })
    }
}
