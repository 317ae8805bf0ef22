//! TLS for outgoing connections: the trusted roots, and our client certificate.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tracing::warn;

/// There is no root to verify a server's certificate with.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The machine has no roots, and none were given.
    #[error(
        "no trusted root certificates were found ({reason}): install the system's (Debian: `ca-certificates`), or name a file of them (`OAUTH_CA_FILE`, `UPSTREAM_CA_FILE`)"
    )]
    None {
        /// Why the machine's roots were not found.
        reason: String,
    },
    /// The TLS library failed.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A config for outgoing connections: TLS 1.2 and 1.3, the machine's roots and `extra` ones, and `alpn` offered in this order. Without the
/// machine's roots only the extra ones are used, with a warning.
///
/// # Errors
/// [`RootsError::None`] if there is no root at all.
pub fn client_config(extra: &[CertificateDer<'static>], alpn: &[&[u8]]) -> Result<ClientConfig, RootsError> {
    client_config_as(None, extra, alpn)
}

/// Our identity for another server: a certificate with its chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Our own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// The same, presenting our certificate to a server that requests it.
///
/// # Errors
/// [`RootsError`], also if certificate and key do not match.
pub fn client_config_as(
    client: Option<&ClientIdentity>,
    extra: &[CertificateDer<'static>],
    alpn: &[&[u8]],
) -> Result<ClientConfig, RootsError> {
    let native = rustls_native_certs::load_native_certs();
    let reason = native.errors.first().map_or_else(|| "the system's store is empty".to_owned(), ToString::to_string);
    client_config_with(native.certs, &reason, client, extra, alpn)
}

pub(super) fn client_config_with(
    native: Vec<CertificateDer<'static>>,
    reason: &str,
    client: Option<&ClientIdentity>,
    extra: &[CertificateDer<'static>],
    alpn: &[&[u8]],
) -> Result<ClientConfig, RootsError> {
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(native);
    // A configured root must be usable: skipping it would surface much later, as an unknown issuer.
    for root in extra {
        roots.add(root.clone())?;
    }
    if roots.is_empty() {
        return Err(RootsError::None { reason: reason.to_owned() });
    }
    if known == 0 {
        warn!(reason, "the machine has no trusted root certificates: only those of the configured file count");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots);
    let mut config = match client {
        Some(client) => config.with_client_auth_cert(client.chain.clone(), client.key.clone_key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_root_nothing_is_trusted() {
        let fault = client_config_with(Vec::new(), "no such file", None, &[], &[]).unwrap_err().to_string();
        assert!(fault.contains("no such file") && fault.contains("ca-certificates"), "{fault}");
        let bad = CertificateDer::from(vec![0]);
        assert!(matches!(
            client_config_with(Vec::new(), "", None, std::slice::from_ref(&bad), &[]),
            Err(RootsError::Tls(_))
        ));
        let good = rcgen::generate_simple_self_signed(["one.example".to_owned()]).unwrap().cert.der().clone();
        client_config_with(vec![bad, good], "", None, &[], &[]).unwrap();
    }
}
