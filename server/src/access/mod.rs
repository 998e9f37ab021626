//! Who may call: TLS, client certificates and tokens, read from files, and read again when they change.
//!
//! Calls are identified one by one, connections by their handshake; what is read anew holds for the
//! next ones. Streams that run go on, so a rotation interrupts nobody.

mod flags;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub(crate) use self::flags::AccessArgs;
pub(crate) use self::tls::identity_of;
use self::tokens::Tokens;
use crate::status::Refusal;

/// Who calls where nobody is asked who they are.
const ANYBODY: &str = "anonymous";

/// The files that say who may call. None: anybody may, in plain text.
#[derive(Clone, Debug, Default)]
pub struct AccessFiles {
    /// The server's certificate and those between it and the authority, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Authorities, PEM: clients must have a certificate of one of them.
    pub tls_client_ca: Option<PathBuf>,
    /// Lines of `identity token`: clients must send one of the tokens.
    pub tokens: Option<PathBuf>,
}

/// Who may call, as the files said when they were read last.
pub struct Access {
    files: AccessFiles,
    current: RwLock<Arc<Current>>,
    /// Of what was read last, be it usable or not.
    fingerprint: Mutex<blake3::Hash>,
}

#[derive(Default)]
struct Current {
    tls: Option<TlsAcceptor>,
    tokens: Option<Tokens>,
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used, or one is given without those that it needs.
    pub fn new(files: AccessFiles) -> anyhow::Result<Self> {
        if files.tls_cert.is_some() != files.tls_key.is_some() {
            bail!("a certificate needs its key: give both --tls-cert and --tls-key, or neither");
        }
        if files.tls_client_ca.is_some() && files.tls_cert.is_none() {
            bail!("--tls-client-ca needs TLS: give --tls-cert and --tls-key too");
        }
        let texts = Texts::read(&files)?;
        Ok(Self {
            current: RwLock::new(Arc::new(texts.parse(&files)?)),
            fingerprint: Mutex::new(texts.fingerprint()),
            files,
        })
    }

    /// Anybody may call, in plain text.
    pub fn open() -> Self {
        let fingerprint = Mutex::new(Texts::default().fingerprint());
        Self { files: AccessFiles::default(), current: RwLock::default(), fingerprint }
    }

    /// Reads the files again. What cannot be used is told and leaves all as it was.
    pub fn reload(&self) {
        match Texts::read(&self.files) {
            Ok(texts) => self.take(&texts),
            Err(error) => tracing::error!("access files: {error:#}; those read before stay in use"),
        }
    }

    /// Reads the files again if they have changed.
    pub(crate) fn reload_if_changed(&self) {
        // One that is missing for a moment is being replaced.
        let Ok(texts) = Texts::read(&self.files) else { return };
        let known = *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.fingerprint() != known {
            self.take(&texts);
        }
    }

    fn take(&self, texts: &Texts) {
        *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = texts.fingerprint();
        match texts.parse(&self.files) {
            Ok(current) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
                tracing::info!("access files read again");
            }
            Err(error) => tracing::error!("access files: {error:#}; those read before stay in use"),
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether callers must say who they are.
    pub fn asks(&self) -> bool {
        self.files.tokens.is_some() || self.files.tls_client_ca.is_some()
    }

    /// Whether connections are encrypted.
    pub const fn encrypts(&self) -> bool {
        self.files.tls_cert.is_some()
    }

    /// What accepts the next connection, if it is to be encrypted.
    pub(crate) fn tls(&self) -> Option<TlsAcceptor> {
        self.current().tls.clone()
    }

    /// Who makes a call.
    pub(crate) fn identify(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Arc<str>, Refusal> {
        let current = self.current();
        let Some(tokens) = &current.tokens else {
            return Ok(caller.certificate.clone().unwrap_or_else(|| ANYBODY.into()));
        };
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(Refusal::Unauthenticated { why: "no token came with the call" });
        };
        tokens
            .identify(header.as_bytes())
            .ok_or(Refusal::Unauthenticated { why: "the token is none of those known here" })
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the files hold.
#[derive(Default)]
struct Texts {
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
    tokens: Option<Vec<u8>>,
}

impl Texts {
    fn read(files: &AccessFiles) -> anyhow::Result<Self> {
        let read = |file: &Option<PathBuf>| match file {
            None => Ok(None),
            Some(path) => std::fs::read(path)
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

    fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for text in [&self.cert, &self.key, &self.client_ca, &self.tokens] {
            let text = text.as_deref().unwrap_or_default();
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
        hasher.finalize()
    }

    fn parse(&self, files: &AccessFiles) -> anyhow::Result<Current> {
        let in_file = |path: &Option<PathBuf>| {
            let path = path.as_deref().unwrap_or(Path::new("")).display().to_string();
            move || path
        };
        let tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = tls::certificates(cert).with_context(in_file(&files.tls_cert))?;
                let key = tls::key(key).with_context(in_file(&files.tls_key))?;
                let authorities = self.client_ca.as_deref().map(tls::certificates).transpose();
                let authorities = authorities.with_context(in_file(&files.tls_client_ca))?;
                Some(
                    tls::acceptor(chain, key, authorities)
                        .with_context(in_file(&files.tls_cert))?,
                )
            }
            _ => None,
        };
        let tokens = self.tokens.as_deref().map(Tokens::parse).transpose();
        Ok(Current { tls, tokens: tokens.with_context(in_file(&files.tokens))? })
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// Whom its certificate names, if it had to show one.
    certificate: Option<Arc<str>>,
    /// Calls that it makes now and may make.
    calls: watch::Sender<usize>,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr, certificate: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { address, certificate, calls: watch::Sender::new(0) })
    }

    /// Notes a call, until what is returned is dropped.
    pub(crate) fn calls(self: &Arc<Self>) -> Calling {
        self.calls.send_modify(|calls| *calls += 1);
        Calling(Arc::clone(self))
    }

    /// Waits until there has been no call for so long.
    pub(crate) async fn idle(&self, patience: std::time::Duration) {
        let mut calls = self.calls.subscribe();
        loop {
            // The sender lives as long as `self`.
            drop(calls.wait_for(|calls| *calls == 0).await);
            if tokio::time::timeout(patience, calls.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// A call that goes on.
#[derive(Debug)]
pub(crate) struct Calling(Arc<Caller>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}
