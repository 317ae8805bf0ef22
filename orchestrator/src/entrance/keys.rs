//! The proxy's public keys: a JWK set in a file or at a URL, read again as it changes.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use tokio::time::Instant;
use url::Url;

use crate::api::ApiError;
use crate::files;

/// The longest set, in bytes, and how many of its keys are used.
const SET_MOST: usize = 64 * 1024;
const KEYS_MOST: usize = 16;
/// How long the proxy may take to respond.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long keys from a URL, and from a file, are used before they are read again.
const FRESH_URL: Duration = Duration::from_secs(300);
const FRESH_FILE: Duration = Duration::from_secs(5);
/// The shortest interval between reads for an unknown key id: a client with made-up ids cannot cause a read for each.
const PAUSE: Duration = Duration::from_secs(2);

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The proxy's `/api/v1/auth/jwks`.
    Url(Url),
}

/// A source that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    /// Not a valid URL.
    #[error("neither a file nor a URL; for example http://127.0.0.1:8080/api/v1/auth/jwks")]
    Form,
    /// An attacker on the network could substitute keys.
    #[error(
        "over plain http somebody in between could put keys of their own in: use https, a loopback address, or, where only the proxy shares the network, ORCHESTRATOR_BEHIND_PROXY=true"
    )]
    Plain,
}

impl Source {
    /// Parses a path or a URL; `private` says that only the proxy and we share the network.
    ///
    /// # Errors
    /// Why it is neither, or not safe.
    pub fn parse(text: &str, private: bool) -> Result<Self, BadSource> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| BadSource::Form)?;
        if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
            return Err(BadSource::Form);
        }
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if loopback || private => Ok(Self::Url(url)),
            "http" => Err(BadSource::Plain),
            _ => Err(BadSource::Form),
        }
    }
}

/// A key of the set, with its id.
type Key = (Option<String>, DecodingKey);
type Client = legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The keys, as they were last read.
pub(super) struct Keys {
    source: Source,
    client: Client,
    held: Mutex<Held>,
    /// Held during a read: one at a time.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    keys: Arc<Vec<Key>>,
    read: Option<Instant>,
    tried: Option<Instant>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        Self { source, client: client(), held: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The keys with this id; all keys if `name` is `None`.
    ///
    /// # Errors
    /// If no keys have been read yet. Keys that were read stay in use while they cannot be read again.
    pub(super) async fn of(&self, name: Option<&str>) -> Result<Vec<DecodingKey>, ApiError> {
        let (found, fresh, _) = self.find(name);
        if fresh && !found.is_empty() {
            return Ok(found);
        }
        // A request whose key is known does not wait for another request's read.
        let reading = if found.is_empty() { Some(self.reading.lock().await) } else { self.reading.try_lock().ok() };
        if reading.is_none() {
            return Ok(found);
        }
        let (found, fresh, due) = self.find(name);
        if (fresh && !found.is_empty()) || !due {
            return self.some(found);
        }
        self.read().await;
        let (found, ..) = self.find(name);
        self.some(found)
    }

    fn some(&self, found: Vec<DecodingKey>) -> Result<Vec<DecodingKey>, ApiError> {
        let none = self.held().read.is_none();
        if none { Err(ApiError::KeysUnavailable) } else { Ok(found) }
    }

    /// The keys with an id, whether they are fresh, and whether they may be read again now.
    fn find(&self, name: Option<&str>) -> (Vec<DecodingKey>, bool, bool) {
        let held = self.held();
        let of_name = held.keys.iter().filter(|(kid, _)| name.is_none() || kid.is_none() || kid.as_deref() == name);
        let fresh = match self.source {
            Source::File(_) => FRESH_FILE,
            Source::Url(_) => FRESH_URL,
        };
        let younger = |than: Duration, moment: Option<Instant>| moment.is_some_and(|moment| moment.elapsed() < than);
        (of_name.map(|(_, key)| key.clone()).collect(), younger(fresh, held.read), !younger(PAUSE, held.tried))
    }

    async fn read(&self) {
        self.held().tried = Some(Instant::now());
        let bytes = match &self.source {
            Source::File(path) => file(path.clone()).await,
            Source::Url(url) => self.fetch(url).await,
        };
        match bytes.and_then(|bytes| keys(&bytes)) {
            Ok(keys) => {
                let mut held = self.held();
                held.keys = Arc::new(keys);
                held.read = Some(Instant::now());
            }
            Err(reason) => {
                tracing::warn!(%reason, "the keys of ORCHESTRATOR_ASSERTION_JWKS cannot be read; those that were read count on");
            }
        }
    }

    async fn fetch(&self, url: &Url) -> Result<Bytes, String> {
        let request = Request::get(url.as_str()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        let request = request.body(Empty::new()).map_err(|_| "the URL cannot be asked".to_owned())?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("the proxy cannot be reached: {}", cause.unwrap_or_else(|| error.to_string()))
            })?;
            if !answer.status().is_success() {
                return Err(format!("the proxy answered {}", answer.status().as_u16()));
            }
            let body = Limited::new(answer.into_body(), SET_MOST).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|_| "the answer broke off, or is too long".to_owned())
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn file(path: PathBuf) -> Result<Bytes, String> {
    let read = tokio::task::spawn_blocking(move || files::read(&path, SET_MOST as u64));
    let contents =
        tokio::time::timeout(PATIENCE, read).await.map_err(|_| "the file cannot be read in time".to_owned())?;
    let contents = contents.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(Bytes::copy_from_slice(&contents))
}

/// The keys of a set that can verify an assertion: P-256, for signatures.
fn keys(bytes: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|_| "not a JWK set".to_owned())?;
    let usable = set.keys.into_iter().take(KEYS_MOST).filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let AlgorithmParameters::EllipticCurve(parameters) = &jwk.algorithm else { return None };
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| parameters.curve == EllipticCurve::P256 && signs)?;
        Some((jwk.common.key_id, key))
    });
    let usable: Vec<Key> = usable.collect();
    if usable.is_empty() { Err("no key of ES256 in the JWK set".to_owned()) } else { Ok(usable) }
}

fn client() -> Client {
    // Fails if a provider is installed already, which is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(https)
}
