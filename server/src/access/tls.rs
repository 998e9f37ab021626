//! TLS by rustls: certificates and keys in PEM, only HTTP/2, TLS 1.2 and 1.3.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

type Chain = Vec<CertificateDer<'static>>;

/// The certificates of a PEM text, at least one.
pub(super) fn certificates(pem: &[u8]) -> anyhow::Result<Chain> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Chain, _>>()?;
    if chain.is_empty() {
        bail!("no certificate found: expected a PEM file");
    }
    Ok(chain)
}

/// The private key of a PEM text.
pub(super) fn key(pem: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).context("no private key found: expected a PEM file")
}

/// An acceptor with a certificate. If there are client authorities, it accepts only clients with a
/// certificate of one of them.
pub(super) fn acceptor(
    chain: Chain,
    key: PrivateKeyDer<'static>,
    client_authorities: Option<Chain>,
) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let config = match client_authorities {
        None => config.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority).context("invalid client authority")?;
            }
            let roots = Arc::new(roots);
            config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build()?,
            )
        }
    };
    let mut config = config.with_single_cert(chain, key).context("invalid certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The identity of a certificate: its first URI (such as a SPIFFE id) or DNS name, otherwise its digest.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Arc<str> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let named = parsed.as_ref().ok().and_then(|certificate| {
        certificate.valid_uri_names().next().or_else(|| certificate.valid_dns_names().next())
    });
    let digest = || format!("certificate {}", &blake3::hash(certificate).to_hex()[..16]);
    named.map_or_else(|| digest().into(), Into::into)
}
