//! Files in PEM: roots, the certificate with its key, and the keys that sign assertions.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::options::{ASSERTION_KEY_FILE, Knob, TLS_CERT_FILE, TLS_KEY_FILE};
use crate::config::reading::Reading;
use crate::domain::secret::Secret;
use crate::serve::settings::TlsFiles;

/// Further roots; none where the option is not set.
pub(super) fn roots(reading: &mut Reading, knob: Knob) -> Vec<CertificateDer<'static>> {
    let Some(path) = reading.path(knob) else { return Vec::new() };
    let Some(content) = reading.file(knob, &path) else { return Vec::new() };
    let roots = certificates(&content).and_then(|roots| {
        let mut store = RootCertStore::empty();
        roots
            .iter()
            .try_for_each(|root| store.add(root.clone()))
            .map_err(|_| "holds a certificate that cannot be read")?;
        Ok(roots)
    });
    roots.unwrap_or_else(|problem| {
        reading.fault(knob, format!("the file {} {problem}", path.display()));
        Vec::new()
    })
}

fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"),
        Ok(found) => Ok(found),
        Err(_) => Err("holds PEM that is broken off or not base64"),
    }
}

/// The certificate and its key: both or none, and of each other.
pub(super) fn tls(reading: &mut Reading) -> Option<TlsFiles> {
    let (certificate, key) = match (reading.path(TLS_CERT_FILE), reading.path(TLS_KEY_FILE)) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some(_), None) => {
            reading.fault(TLS_KEY_FILE, "is not set, but TLS_CERT_FILE is: TLS needs both");
            return None;
        }
        (None, Some(_)) => {
            reading.fault(TLS_CERT_FILE, "is not set, but TLS_KEY_FILE is: TLS needs both");
            return None;
        }
    };
    let chain = reading.file(TLS_CERT_FILE, &certificate).and_then(|content| {
        certificates(&content)
            .map_err(|problem| reading.fault(TLS_CERT_FILE, format!("the file {} {problem}", certificate.display())))
            .ok()
    });
    let private = reading.file(TLS_KEY_FILE, &key).and_then(|content| {
        let problem = "holds no private key in PEM that can be read; one that is encrypted cannot";
        PrivateKeyDer::from_pem_slice(&content)
            .map_err(|_| reading.fault(TLS_KEY_FILE, format!("the file {} {problem}", key.display())))
            .ok()
    });
    if let Err(error) = CertifiedKey::from_der(chain?, private?, &default_provider()) {
        reading.fault(TLS_KEY_FILE, format!("the key does not go with the certificate of TLS_CERT_FILE: {error}"));
    }
    Some(TlsFiles { certificate, key })
}

/// The keys that sign assertions, each as PKCS #8 in PEM, whichever form they had.
pub(super) fn assertion_keys(reading: &mut Reading) -> Vec<Secret> {
    let mut keys = Vec::new();
    for path in reading.list(ASSERTION_KEY_FILE) {
        let Some(content) = reading.file(ASSERTION_KEY_FILE, path.as_ref()) else { continue };
        let found: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(&content).collect();
        let found = found.ok().filter(|found| !found.is_empty());
        match found.and_then(|found| found.iter().map(p256_pem).collect::<Option<Vec<_>>>()) {
            Some(found) => keys.extend(found),
            None => reading.fault(
                ASSERTION_KEY_FILE,
                format!(
                    "the file {path} must hold EC P-256 private keys in PEM and no others; \
                     `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one"
                ),
            ),
        }
    }
    keys
}

fn p256_pem(key: &PrivateKeyDer<'_>) -> Option<Secret> {
    let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der()).ok()?;
    let document = STANDARD.encode(pair.to_pkcs8v1().ok()?.as_ref());
    Some(Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{document}\n-----END PRIVATE KEY-----\n")))
}
