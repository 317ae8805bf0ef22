//! PEM files: roots, the certificate with its key, and the keys that sign assertions.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::adapters::certs::PemFiles;
use crate::config::options::{ASSERTION_KEY_FILE, Knob, TLS_CERT_FILE, TLS_KEY_FILE};
use crate::config::reading::Reading;
use crate::domain::secret::Secret;

/// Additional roots; none if the option is not set.
pub(super) fn roots(reading: &mut Reading, knob: Knob) -> Vec<CertificateDer<'static>> {
    let Some(path) = reading.path(knob) else { return Vec::new() };
    let Some(content) = reading.file(knob, &path) else { return Vec::new() };
    roots_in(&content).unwrap_or_else(|problem| {
        reading.fault(knob, format!("the file {} {problem}", path.display()));
        Vec::new()
    })
}

/// The roots in a file.
pub(super) fn roots_in(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let roots = certificates(content)?;
    let mut store = RootCertStore::empty();
    roots.iter().try_for_each(|root| store.add(root.clone())).map_err(|_| "holds a certificate that cannot be read")?;
    Ok(roots)
}

pub(super) fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"),
        Ok(found) => Ok(found),
        Err(_) => Err("holds PEM that is broken off or not base64"),
    }
}

/// Certificates and their keys: the same number of both, in matching pairs.
pub(super) fn tls(reading: &mut Reading) -> Vec<PemFiles> {
    let (certificates, keys) = (reading.list(TLS_CERT_FILE), reading.list(TLS_KEY_FILE));
    match (certificates.len(), keys.len()) {
        (1.., 0) => reading.fault(TLS_KEY_FILE, "is not set, but TLS_CERT_FILE is: TLS needs both"),
        (0, 1..) => reading.fault(TLS_CERT_FILE, "is not set, but TLS_KEY_FILE is: TLS needs both"),
        (shown, signing) if shown != signing => {
            let count = |files: usize| if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            let problem = format!(
                "names {}, but TLS_CERT_FILE {}: each certificate needs its own key, in the same order",
                count(signing),
                count(shown)
            );
            reading.fault(TLS_KEY_FILE, problem);
        }
        (_, _) => {
            let pairs = certificates.into_iter().map(PathBuf::from).zip(keys.into_iter().map(PathBuf::from));
            return pairs.filter_map(|(certificate, key)| pair(reading, certificate, key)).collect();
        }
    }
    Vec::new()
}

fn pair(reading: &mut Reading, certificate: PathBuf, key: PathBuf) -> Option<PemFiles> {
    let (chain, private) = (reading.file(TLS_CERT_FILE, &certificate), reading.file(TLS_KEY_FILE, &key));
    let private = private.map(Zeroizing::new);
    let shown = chain.as_ref().and_then(|content| {
        certificates(content)
            .map_err(|problem| reading.fault(TLS_CERT_FILE, format!("the file {} {problem}", certificate.display())))
            .ok()
    });
    let signs = private.as_ref().and_then(|content| {
        let problem = "holds no private key in PEM that can be read; one that is encrypted cannot";
        PrivateKeyDer::from_pem_slice(content)
            .map_err(|_| reading.fault(TLS_KEY_FILE, format!("the file {} {problem}", key.display())))
            .ok()
    });
    if let Err(error) = CertifiedKey::from_der(shown?, signs?, &default_provider()) {
        reading.fault(
            TLS_KEY_FILE,
            format!(
                "the key {} does not go with the certificate {} of TLS_CERT_FILE: {error}",
                key.display(),
                certificate.display()
            ),
        );
    }
    Some(PemFiles { certificate, key, chain: chain?, private: private? })
}

/// The keys that sign assertions, each converted to PKCS #8 in PEM.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der};

    use super::*;
    use crate::config::trial::{self, faults, github, sign_in};
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(folder.path().join(name), content).unwrap();
            }
            Self(folder)
        }

        fn at(&self, name: &str) -> String {
            self.0.path().join(name).to_str().unwrap().to_owned()
        }
    }

    fn certified() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A key in the format of `openssl ecparam -name prime256v1 -genkey`.
    fn sec1_pem() -> String {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let body = STANDARD.encode(der.as_ref());
        format!("{parameters}-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n")
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let ((certificate, key), (_, other)) = (certified(), certified());
        let folder = Folder::with(&[("crt", &certificate), ("key", &key), ("other", &other), ("empty", "")]);
        let tls = |crt: &str, key: &str| trial::env(&[&[("TLS_CERT_FILE", crt), ("TLS_KEY_FILE", key)]]);
        let loaded = tls(&folder.at("crt"), &folder.at("key")).unwrap();
        assert_eq!(loaded.settings.tls.len(), 1);
        let two = |names: [&str; 2]| names.map(|name| folder.at(name)).join(",");
        assert_eq!(tls(&two(["crt", "crt"]), &two(["key", "key"])).unwrap().settings.tls.len(), 2);
        let text = faults(tls(&two(["crt", "crt"]), &folder.at("key")));
        assert!(text.starts_with("TLS_KEY_FILE: names 1 file, but TLS_CERT_FILE 2 files"), "{text}");
        assert!(faults(tls(&two(["crt", "crt"]), &two(["key", "other"]))).contains("does not go with the certificate"));
        assert_eq!(loaded.files.paths().count(), 2);
        assert!(faults(tls(&folder.at("crt"), &folder.at("other"))).contains("does not go with the certificate"));
        assert!(faults(tls(&folder.at("empty"), &folder.at("key"))).starts_with("TLS_CERT_FILE: "));
        assert!(faults(tls(&folder.at("crt"), &folder.at("empty"))).starts_with("TLS_KEY_FILE: "));
        assert!(faults(tls(&folder.at("crt"), "")).starts_with("TLS_KEY_FILE: is not set"));
        assert!(faults(tls("", &folder.at("key"))).starts_with("TLS_CERT_FILE: is not set"));
        assert_eq!(faults(tls("/nowhere/a", "/nowhere/b")).lines().count(), 2);
    }

    #[test]
    fn roots_are_certificates_and_at_least_one() {
        let (certificate, key) = certified();
        let two = format!("# ours\n{certificate}\n{certificate}");
        let folder = Folder::with(&[("ca", &two), ("empty", "\n"), ("key", &key), ("cut", &certificate[..200])]);
        let roots = |name: &str| github(&[("OAUTH_CA_FILE", &folder.at(name))]);
        assert_eq!(sign_in(roots("ca")).provider_roots.len(), 2);
        for bad in ["empty", "key", "cut", "missing"] {
            assert!(faults(roots(bad)).starts_with("OAUTH_CA_FILE: "), "{bad}");
        }
    }

    #[test]
    fn assertion_keys_are_p256_in_either_form_and_several_rotate() {
        let sec1 = sec1_pem();
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let folder =
            Folder::with(&[("both", &format!("{p256}{sec1}")), ("one", &p256), ("p384", &p384), ("none", "x")]);
        let keys = |list: &str| github(&[("ASSERTION_KEY_FILE", list)]);
        let loaded = sign_in(keys(&format!("{},{}", folder.at("both"), folder.at("one")))).assertion_keys;
        assert_eq!(loaded.len(), 3);
        assert!(loaded[0] == loaded[2] && loaded[0] != loaded[1]);
        for key in &loaded {
            assert!(jsonwebtoken::EncodingKey::from_ec_pem(key.expose().as_bytes()).is_ok());
        }
        for bad in ["p384", "none", "missing"] {
            let text = faults(keys(&folder.at(bad)));
            assert!(text.starts_with("ASSERTION_KEY_FILE: ") && text.lines().count() == 1, "{text}");
        }
    }
}
