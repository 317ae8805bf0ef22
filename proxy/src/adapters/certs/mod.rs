//! Loads certificate files into a TLS config, and again when they change.

mod outgoing;
mod subject;
mod validity;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tracing::warn;
use zeroize::Zeroizing;

pub use self::outgoing::{ClientIdentity, RootsError, client_config, client_config_as};
pub use self::subject::client_certificate;
use self::validity::Validity;
use crate::domain::time::Timestamp;

/// The server certificates, and the TLS config that presents them: as long as client certificates are not requested, one config for the
/// life of the process, so that session tickets stay valid across reloads.
pub struct Certificates {
    shown: Arc<Shown>,
    config: ArcSwap<ServerConfig>,
    asked: ArcSwapOption<ClientAuth>,
}

/// Which client certificates are requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// `TLS_CLIENT_CA_FILE`: the accepted issuers.
    pub roots: Vec<CertificateDer<'static>>,
    /// `TLS_CLIENT_AUTH`: whether a client without one is refused.
    pub required: bool,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file is not PEM.
    #[error("{}: not readable as PEM ({reason}): write it in PEM (`-----BEGIN …-----`)", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has no certificate.
    #[error("{}: no certificate in it: put the server's own first, then the intermediate ones, in PEM (`-----BEGIN CERTIFICATE-----`)", .0.display())]
    NoCertificate(PathBuf),
    /// The first certificate is malformed.
    #[error("{}: its first certificate cannot be used: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has no private key.
    #[error("{}: no private key in it: put the certificate's key there, in PEM (`-----BEGIN PRIVATE KEY-----`)", .0.display())]
    NoKey(PathBuf),
    /// The private key is encrypted with a passphrase.
    #[error("{}: the private key is encrypted: write it without a passphrase (`openssl pkey -in old.pem -out key.pem`)", .0.display())]
    EncryptedKey(PathBuf),
    /// The private key cannot be used for TLS.
    #[error("{}: the private key cannot be used: {reason}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{} does not belong to {}: the key is not that of the first certificate; if both were just renewed, one of them is still the old file", key.display(), chain.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificates' file.
        chain: PathBuf,
    },
    /// Client certificates cannot be requested.
    #[error("clients cannot be asked for certificates: {0}")]
    ClientRoots(String),
    /// The TLS library failed.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Certificate and key as read.
#[derive(Clone)]
pub struct PemFiles {
    /// `TLS_CERT_FILE`: the certificate's path.
    pub certificate: PathBuf,
    /// `TLS_KEY_FILE`: the key's path.
    pub key: PathBuf,
    /// The server's own certificate first, in PEM.
    pub chain: Vec<u8>,
    /// The key, in PEM.
    pub private: Zeroizing<Vec<u8>>,
}

/// Certificates that were loaded but are not presented yet.
pub struct Next {
    pairs: Vec<Pair>,
    /// The config and the client certificate settings, if they changed.
    config: Option<(Arc<ServerConfig>, Option<Arc<ClientAuth>>)>,
}

impl Certificates {
    /// Loads certificates and keys, and warns if a certificate is not valid at `now` or soon will not be. A client gets the first one that
    /// matches its requested name (SNI), else the first. `asked`: which client certificates are requested.
    ///
    /// # Errors
    /// [`CertError`], naming the file and what is wrong with it.
    pub fn load(files: &[PemFiles], asked: Option<&ClientAuth>, now: Timestamp) -> Result<Self, CertError> {
        let provider = Arc::new(default_provider());
        let shown = Arc::new(Shown(ArcSwap::from_pointee(Pair::read_all(files, &provider)?)));
        let config = ArcSwap::from_pointee(server_config(provider, &shown, asked)?);
        let certificates = Self { shown, config, asked: ArcSwapOption::from_pointee(asked.cloned()) };
        certificates.warn(now);
        Ok(certificates)
    }

    /// Loads the certificates to present next.
    ///
    /// # Errors
    /// [`CertError`] as for [`Certificates::load`].
    pub fn prepare(&self, files: &[PemFiles], asked: Option<&ClientAuth>) -> Result<Next, CertError> {
        let provider = Arc::clone(self.config.load().crypto_provider());
        let pairs = Pair::read_all(files, &provider)?;
        let config = if self.asked.load().as_deref() == asked {
            None
        } else {
            Some((Arc::new(server_config(provider, &self.shown, asked)?), asked.cloned().map(Arc::new)))
        };
        Ok(Next { pairs, config })
    }

    /// Presents `next` to new connections, and requests the client certificates that go with it.
    pub fn show(&self, next: Next, now: Timestamp) {
        self.shown.0.store(Arc::new(next.pairs));
        if let Some((config, asked)) = next.config {
            self.config.store(config);
            self.asked.store(asked);
        }
        self.warn(now);
    }

    /// The config for accepting TLS connections: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// When the first of the certificates expires, in seconds since the Unix epoch.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.shown.0.load().iter().map(|pair| pair.validity.not_after).min().unwrap_or(i64::MAX)
    }

    /// What is wrong with each certificate at `now`, or will be within 14 days: `expires in 3 days`; with several, prefixed by the file.
    #[must_use]
    pub fn troubles(&self, now: Timestamp) -> Vec<String> {
        let (pairs, now) = (self.shown.0.load(), seconds(now));
        let line = |pair: &Pair| {
            let trouble = pair.validity.trouble(now)?;
            Some(if pairs.len() == 1 { trouble } else { format!("{} {trouble}", pair.file.display()) })
        };
        pairs.iter().filter_map(line).collect()
    }

    fn warn(&self, now: Timestamp) {
        for pair in self.shown.0.load().iter() {
            if let Some(trouble) = pair.validity.trouble(seconds(now)) {
                let file = pair.file.display();
                warn!(%file, "the certificate {trouble}: renew it; the file is read again when it changes");
            }
        }
    }
}

fn server_config(
    provider: Arc<CryptoProvider>,
    shown: &Arc<Shown>,
    asked: Option<&ClientAuth>,
) -> Result<ServerConfig, CertError> {
    let verifier: Arc<dyn ClientCertVerifier> = match asked {
        None => Arc::new(NoClientAuth),
        Some(ClientAuth { roots, required }) => {
            let mut trusted = RootCertStore::empty();
            roots.iter().try_for_each(|root| trusted.add(root.clone()))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(&provider));
            let verifier = if *required { verifier } else { verifier.allow_unauthenticated() };
            verifier.build().map_err(|error| CertError::ClientRoots(error.to_string()))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(shown) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asked.is_some() {
        // A resumed session would keep its old certificate, whoever is trusted now: so each connection must present it again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Ticketer::new()?;
    }
    Ok(config)
}

fn seconds(time: Timestamp) -> i64 {
    i64::try_from(time.secs()).unwrap_or(i64::MAX)
}

/// The certificates that handshakes read; a reload replaces them.
struct Shown(ArcSwap<Vec<Pair>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pairs = self.0.load();
        let asked = hello.server_name().filter(|_| pairs.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let named = asked.and_then(|name| pairs.iter().find(|pair| pair.is_for(&name)));
        named.or(pairs.first()).map(|pair| Arc::clone(&pair.certified))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

struct Pair {
    file: PathBuf,
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Pair {
    fn read_all(files: &[PemFiles], provider: &CryptoProvider) -> Result<Vec<Self>, CertError> {
        files.iter().map(|files| Self::read(files, provider)).collect()
    }

    /// Whether the certificate is for that name, wildcards included.
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let leaf = self.certified.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        leaf.is_some_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }

    fn read(files: &PemFiles, provider: &CryptoProvider) -> Result<Self, CertError> {
        let (chain, key) = (files.certificate.as_path(), files.key.as_path());
        let certificates = certificates(chain, &files.chain)?;
        let bad_certificate =
            |reason: &str| CertError::BadCertificate { path: chain.into(), reason: reason.to_owned() };
        let validity = certificates
            .first()
            .and_then(|leaf| Validity::of(leaf))
            .ok_or_else(|| bad_certificate("it is not an X.509 certificate with a period of validity"))?;
        let certified = CertifiedKey::from_der(certificates, private_key(key, &files.private)?, provider);
        let certified = certified.map_err(|error| fault(&error, chain, key))?;
        Ok(Self { file: files.certificate.clone(), certified: Arc::new(certified), validity })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else is wrong, the key is what was being read")]
fn fault(error: &rustls::Error, chain: &Path, key: &Path) -> CertError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertError::Mismatch { key: key.into(), chain: chain.into() }
        }
        rustls::Error::InvalidCertificate(reason) => {
            CertError::BadCertificate { path: chain.into(), reason: format!("{reason:?}") }
        }
        other => CertError::BadKey { path: key.into(), reason: other.to_string() },
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertError::NotPem { path: path.into(), reason: error.to_string() })?;
    if certificates.is_empty() { Err(CertError::NoCertificate(path.into())) } else { Ok(certificates) }
}

fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
    // `ENCRYPTED PRIVATE KEY` of PKCS#8, and `Proc-Type: 4,ENCRYPTED` of the older format.
    if text.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(CertError::EncryptedKey(path.into()));
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(CertError::NoKey(path.into())),
        Err(error) => Err(CertError::NotPem { path: path.into(), reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::outgoing::client_config_with;
    use super::*;

    /// 2026-06-01, within the validity of the certificate from [`issued`].
    const NOW: Timestamp = Timestamp::from_secs(1_780_272_000);

    struct Files {
        dir: TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { dir: tempfile::tempdir().unwrap() };
            let (chain, key) = issued("one.example");
            files.write(&chain.pem(), &key.serialize_pem());
            files
        }

        fn write(&self, chain: &str, key: &str) {
            std::fs::write(self.chain(), chain).unwrap();
            std::fs::write(self.key(), key).unwrap();
        }

        fn chain(&self) -> PathBuf {
            self.dir.path().join("tls.crt")
        }

        fn key(&self) -> PathBuf {
            self.dir.path().join("tls.key")
        }

        fn pem(&self) -> PemFiles {
            let (certificate, key) = (self.chain(), self.key());
            let (chain, private) = (std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap());
            PemFiles { certificate, key, chain, private: private.into() }
        }

        fn load(&self) -> Result<Certificates, CertError> {
            Certificates::load(&[self.pem()], None, NOW)
        }

        fn fault(&self) -> String {
            self.load().err().unwrap().to_string()
        }
    }

    fn issued(name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2051, 1, 1);
        (params.self_signed(&key).unwrap(), key)
    }

    /// Does a handshake over an in-memory pipe; returns the client's connection after one byte from the server.
    async fn connect(
        certificates: &Certificates,
        client: ClientConfig,
        name: &'static str,
    ) -> rustls::ClientConnection {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(certificates.server_config());
        let server = async {
            let mut stream = acceptor.accept(far).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let client = async {
            let name = ServerName::try_from(name).unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near).await.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream
        };
        let (_server, client) = tokio::join!(server, client);
        client.into_inner().1
    }

    fn trusting(root: &CertificateDer<'static>, alpn: &[&[u8]]) -> ClientConfig {
        client_config_with(Vec::new(), "none", None, std::slice::from_ref(root), alpn).unwrap()
    }

    #[tokio::test]
    async fn a_changed_certificate_is_shown_without_a_restart() {
        let files = Files::new();
        let certificates = files.load().unwrap();
        let first = super::certificates(&files.chain(), &files.pem().chain).unwrap().remove(0);
        let connection = connect(&certificates, trusting(&first, &[b"h2"]), "one.example").await;
        assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));

        let (chain, key) = issued("two.example");
        files.write(&chain.pem(), &key.serialize_pem());
        certificates.show(certificates.prepare(&[files.pem()], None).unwrap(), NOW);
        let connection = connect(&certificates, trusting(chain.der(), &[b"http/1.1"]), "two.example").await;
        assert_eq!(connection.alpn_protocol(), Some(b"http/1.1".as_slice()));

        files.write("", "");
        assert!(certificates.prepare(&[files.pem()], None).is_err());
        connect(&certificates, trusting(chain.der(), &[]), "two.example").await;
    }

    #[tokio::test]
    async fn each_name_is_shown_its_own_certificate() {
        let (one, two, wild) = (Files::new(), Files::new(), Files::new());
        let mut roots = vec![super::certificates(&one.chain(), &one.pem().chain).unwrap().remove(0)];
        for (files, name) in [(&two, "two.example"), (&wild, "*.two.example")] {
            let (chain, key) = issued(name);
            files.write(&chain.pem(), &key.serialize_pem());
            roots.push(chain.der().clone());
        }
        let all = [one.pem(), two.pem(), wild.pem()];
        let certificates = Certificates::load(&all, None, NOW).unwrap();
        let shown = async |certificates: &Certificates, root: usize, name: &'static str| {
            let connection = connect(certificates, trusting(&roots[root], &[]), name).await;
            connection.peer_certificates().unwrap()[0] == roots[root]
        };
        assert!(shown(&certificates, 0, "one.example").await);
        assert!(shown(&certificates, 1, "two.example").await);
        assert!(shown(&certificates, 2, "a.two.example").await);
        certificates.show(certificates.prepare(&[two.pem(), one.pem()], None).unwrap(), NOW);
        assert!(shown(&certificates, 0, "one.example").await);
        assert!(shown(&certificates, 1, "two.example").await);
        let late = Timestamp::from_secs(2_556_144_001);
        let troubles = certificates.troubles(late);
        assert!(
            troubles.len() == 2 && troubles[0].starts_with(two.chain().to_str().unwrap()),
            "each that has ended is told: {troubles:?}"
        );
    }

    #[tokio::test]
    async fn clients_resume_their_sessions_by_ticket() {
        let files = Files::new();
        let certificates = files.load().unwrap();
        let root = super::certificates(&files.chain(), &files.pem().chain).unwrap().remove(0);
        let client = trusting(&root, &[]);
        let first = connect(&certificates, client.clone(), "one.example").await;
        assert!(matches!(first.handshake_kind(), Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)));
        let second = connect(&certificates, client, "one.example").await;
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
    }

    #[tokio::test]
    async fn clients_of_tls_1_2_are_served() {
        let files = Files::new();
        let certificates = files.load().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(super::certificates(&files.chain(), &files.pem().chain).unwrap().remove(0)).unwrap();
        let old = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = connect(&certificates, old, "one.example").await;
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    }

    #[test]
    fn a_fault_names_the_file_and_what_is_wrong_with_it() {
        let files = Files::new();
        let (chain, key) =
            (std::fs::read_to_string(files.chain()).unwrap(), std::fs::read_to_string(files.key()).unwrap());
        let expect = |parts: &[&str]| {
            let fault = files.fault();
            assert!(parts.iter().all(|part| fault.contains(part)), "{fault}");
            assert!(!fault.contains("BEGIN PRIVATE KEY-----\n"), "{fault}");
        };

        files.write("", &key);
        expect(&["tls.crt", "no certificate"]);
        files.write(&chain, "");
        expect(&["tls.key", "no private key"]);
        files.write(&chain, &chain);
        expect(&["tls.key", "no private key"]);
        files.write("-----BEGIN CERTIFICATE-----\n!!!\n", &key);
        expect(&["tls.crt", "PEM"]);
        files.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key);
        expect(&["tls.crt", "not an X.509 certificate"]);
        files.write(&chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        expect(&["tls.key", "cannot be used"]);
        files.write(&chain, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        expect(&["tls.key", "encrypted", "openssl pkey"]);
        files.write(&chain, &issued("other.example").1.serialize_pem());
        expect(&["tls.key", "does not belong to", "tls.crt"]);
    }

    #[test]
    fn an_expired_certificate_is_used_and_reported() {
        let files = Files::new();
        let late = Timestamp::from_secs(2_556_144_001);
        let certificates = Certificates::load(&[files.pem()], None, late).unwrap();
        assert_eq!(certificates.troubles(late), ["expired on 2051-01-01T00:00:00Z"]);
        assert!(certificates.troubles(NOW).is_empty());
        assert_eq!(certificates.not_after(), 2_556_144_000);
    }
}
