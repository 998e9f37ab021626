//! The same files as flags, environment and the table `[access]` of the configuration.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::AccessFiles;

/// Who may call. The files are read again when they change, and at SIGHUP.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessArgs {
    /// The server's certificate and those between it and the authority, PEM; turns TLS on.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Authorities, PEM: only clients with a certificate of one of them may connect.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// Lines of `identity token`: only calls with one of the tokens are served.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AccessArgs {
    /// These, or where one is not given, the others.
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
