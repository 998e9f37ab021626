//! Client authentication and TLS: files with certificates and a token.
//!
//! They are read when a connection or a call begins, so that a file replaced during a long training
//! takes effect without a restart.

use std::path::{Path, PathBuf};

use forebay_proto::types::file;
use http::HeaderValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Cause, Error};

/// Files for servers with TLS, and for those that authenticate their clients.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Access {
    /// PEM file of the authorities that a server's certificate must come from. Enables TLS for
    /// endpoints without `http://`.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE", env = "FOREBAY_TLS_CA"))]
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the client's certificate, for servers that require one.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE", env = "FOREBAY_TLS_CERT"))]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE", env = "FOREBAY_TLS_KEY"))]
    pub tls_key: Option<PathBuf>,
    /// The name that servers' certificates must have. Default: the endpoint's host.
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", env = "FOREBAY_TLS_NAME"))]
    pub tls_name: Option<String>,
    /// File with the token for servers that require one: the last word of its first line.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE", env = "FOREBAY_TOKEN_FILE"))]
    pub token_file: Option<PathBuf>,
}

impl Access {
    /// Reads all files once, so that mistakes are reported at the start. `encrypted` says of each
    /// endpoint whether it uses TLS.
    pub(crate) fn check(&self, encrypted: &[bool]) -> Result<(), Error> {
        let missing = if self.tls_cert.is_some() != self.tls_key.is_some() {
            "a certificate needs its key: expected both --tls-cert and --tls-key, or neither"
        } else if self.tls_ca.is_none() && encrypted.contains(&true) {
            "https needs the servers' authority: expected a PEM file (--tls-ca), such as \
             /etc/ssl/certs/ca-certificates.crt for public servers"
        } else {
            self.tls().and(self.token()).map_err(|cause| Error::Options(cause.to_string()))?;
            return Ok(());
        };
        Err(Error::Options(missing.into()))
    }

    /// The URL of an endpoint, which uses TLS if it says so, or has no scheme and there is an
    /// authority.
    pub(crate) fn url(&self, name: &str) -> String {
        let scheme = if self.tls_ca.is_some() { "https" } else { "http" };
        if name.contains("://") { name.to_owned() } else { format!("{scheme}://{name}") }
    }

    /// Adds TLS to an endpoint with https. `host` is the name that its certificate must have, if that
    /// is not the endpoint's host; `tls_name` overrides it.
    pub(crate) fn secured(
        &self,
        endpoint: Endpoint,
        host: Option<&str>,
    ) -> Result<Endpoint, Cause> {
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        let unusable = |error: tonic::transport::Error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            Cause::Access(format!("TLS: {}", source.unwrap_or_else(|| error.to_string())))
        };
        let mut tls = self.tls()?;
        if let Some(name) = self.tls_name.as_deref().or(host) {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(unusable)
    }

    fn tls(&self) -> Result<ClientTlsConfig, Cause> {
        let mut tls = ClientTlsConfig::new();
        if let Some(file) = &self.tls_ca {
            let pem = read(file)?;
            if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(Cause::Access(format!(
                    "{}: the file contains no certificate",
                    file.display()
                )));
            }
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }

    /// The value of the `authorization` header, if there is a token. It is never printed.
    pub(crate) fn token(&self) -> Result<Option<HeaderValue>, Cause> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let unusable = || Cause::Access(format!("{}: the file contains no token", file.display()));
        let text = String::from_utf8(read(file)?).map_err(|_secret| unusable())?;
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
        let token = line.and_then(|line| line.split_whitespace().last()).ok_or_else(unusable)?;
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_secret| unusable())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Largest file with certificates or a token.
const MAX_FILE: u64 = 1 << 20;

fn read(file: &Path) -> Result<Vec<u8>, Cause> {
    file::read(file, MAX_FILE)
        .map_err(|error| Cause::Access(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Result<String, String> {
        let folder = std::env::temp_dir().join(format!("forebay-token-{:016x}", {
            use std::hash::{BuildHasher as _, RandomState};
            RandomState::new().hash_one(text)
        }));
        std::fs::write(&folder, text).unwrap();
        let access = Access { token_file: Some(folder.clone()), ..Access::default() };
        let token = access.token().map_err(|cause| cause.to_string());
        std::fs::remove_file(folder).unwrap();
        token.map(|value| {
            let value = value.unwrap();
            assert_eq!(format!("{value:?}"), "Sensitive");
            value.to_str().unwrap().to_owned()
        })
    }

    #[test]
    fn a_token_is_the_last_word_of_the_first_line() {
        for text in ["abc", "abc\n", "# ours\n\n team abc \n other def"] {
            assert_eq!(token(text).as_deref(), Ok("Bearer abc"), "{text:?}");
        }
        for text in ["", "# none\n", "a\u{e9}b\u{0}c"] {
            assert!(token(text).unwrap_err().ends_with("contains no token"), "{text:?}");
        }
    }

    #[test]
    fn missing_files_are_reported() {
        let check = |access: &Access, encrypted| {
            access.check(&[encrypted]).map_err(|error| error.to_string())
        };
        let access = Access::default();
        assert_eq!(check(&access, false), Ok(()));
        assert!(check(&access, true).unwrap_err().contains("--tls-ca"));
        let half = Access { tls_cert: Some("a.pem".into()), ..Access::default() };
        assert!(check(&half, false).unwrap_err().contains("needs its key"));
        let absent = Access { tls_ca: Some("no/ca.pem".into()), ..Access::default() };
        assert!(check(&absent, false).unwrap_err().contains("no/ca.pem"));
        let own_source = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into());
        let other = Access { tls_ca: own_source, ..Access::default() };
        assert!(check(&other, false).unwrap_err().ends_with("contains no certificate"));
        let absent = Access { token_file: Some("no/token".into()), ..Access::default() };
        assert!(check(&absent, false).unwrap_err().contains("no/token"));
    }
}
