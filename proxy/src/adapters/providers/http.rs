//! Calls to a provider, with limits on their time, on their size, and on what their errors reveal.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use url::Url;

use super::ConnectError;
use super::quote::quote;
use super::way_out::{Connector, WayOut, is_loopback};
use crate::domain::secret::Secret;

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit for a whole call, up to the last byte of the response.
const TOTAL: Duration = Duration::from_secs(10);
/// The largest response, in bytes. It is counted while it is read, whatever `Content-Length` says.
const LARGEST: usize = 1024 * 1024;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("sidegate/", env!("CARGO_PKG_VERSION")));

/// A client for calls to one provider. It never follows redirects: they could send a secret to another host, or us to an internal one.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Http {
    /// A client that trusts the system's roots and `extra_roots`, and uses the given way out.
    pub(super) fn new(
        extra_roots: &[CertificateDer<'static>],
        needs_tls: bool,
        way_out: Option<WayOut>,
    ) -> Result<Self, ConnectError> {
        let mut roots = RootCertStore::empty();
        if needs_tls {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for root in extra_roots {
            roots.add(root.clone()).map_err(ConnectError::Root)?;
        }
        if needs_tls && roots.is_empty() {
            return Err(ConnectError::NoRoots);
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(ConnectError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        // Plain HTTP is for loopback hosts only: `is_safe` checks every address that is configured or received.
        let way = Connector::new(tcp, tls.clone(), way_out);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(way);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client })
    }

    /// Fetches `url`.
    pub(super) async fn get(&self, url: &Url) -> Result<ProviderAnswer, CallError> {
        self.fetch(url, None, &[]).await
    }

    /// Fetches `url` on behalf of the user whose access token is given.
    pub(super) async fn get_as(
        &self,
        url: &Url,
        token: &Secret,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<ProviderAnswer, CallError> {
        let fault = |_| CallError::at(url, CallFault::Token);
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(fault)?;
        bearer.set_sensitive(true);
        self.fetch(url, Some(bearer), headers).await
    }

    async fn fetch(
        &self,
        url: &Url,
        bearer: Option<HeaderValue>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<ProviderAnswer, CallError> {
        let mut request =
            Request::get(url.as_str()).body(Vec::new()).map_err(|_| CallError::at(url, CallFault::Address))?;
        if let Some(bearer) = bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        request.headers_mut().extend(headers.iter().cloned());
        self.call(request).await
    }

    /// Sends `request` and reads the response, whatever its status.
    pub(super) async fn call(&self, request: Request<Vec<u8>>) -> Result<ProviderAnswer, CallError> {
        let place = place_of(request.uri());
        let mut request = request.map(|body| Full::new(Bytes::from(body)));
        request.headers_mut().insert(USER_AGENT, AGENT);
        request.headers_mut().entry(ACCEPT).or_insert(JSON);
        let answer = match tokio::time::timeout(TOTAL, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallFault::TimedOut),
        };
        match answer {
            Ok((status, headers, body)) => Ok(ProviderAnswer { place, status, headers, body }),
            Err(fault) => Err(CallError { place, fault }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, HeaderMap, Bytes), CallFault> {
        let response = self.client.request(request).await.map_err(|error| CallFault::Unreachable(chain(&error)))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { CallFault::TooLarge } else { CallFault::Broken(chain(error.as_ref())) }
        })?;
        Ok((head.status, head.headers, body.to_bytes()))
    }
}

/// A provider's response, of at most 1 MiB.
pub(super) struct ProviderAnswer {
    place: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ProviderAnswer {
    /// Parses the JSON of a successful response.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        if self.status != StatusCode::OK {
            return Err(self.refusal());
        }
        let reader = &mut serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(reader).map_err(|error| {
            // The parser's message may quote its input: report only the position.
            self.fault(match serde_json::from_slice::<IgnoredAny>(&self.body) {
                Ok(_) => CallFault::Unexpected(field(&error)),
                Err(error) => CallFault::NotJson((error.line(), error.column())),
            })
        })
    }

    /// The response as a signed token, if its type or its form says that it is one.
    pub(super) fn jwt(&self) -> Option<&str> {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let says = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/jwt"));
        let text = std::str::from_utf8(&self.body).ok()?.trim();
        // Three parts, the first of them a JSON object in base64url.
        let looks = text.starts_with("ey") && text.bytes().filter(|byte| *byte == b'.').count() == 2;
        (self.status == StatusCode::OK && (says || looks)).then_some(text)
    }

    /// This response as an error, with the provider's own message if there is one.
    pub(super) fn refusal(&self) -> CallError {
        if self.status.is_redirection() {
            return self.fault(CallFault::Moved(self.status, self.location()));
        }
        self.fault(CallFault::Status(self.status, provider_message(&self.body)))
    }

    /// The redirect's target, without the query, which may hold secrets.
    fn location(&self) -> String {
        let location = self.headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
        quote(location.split(['?', '#']).next().unwrap_or_default())
    }

    fn fault(&self, fault: CallFault) -> CallError {
        CallError { place: self.place.clone(), fault }
    }
}

/// Describes which field of a response is not as expected, and how.
pub(super) fn field(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let words = error.inner().to_string();
    // From the parser's message take only what is ours: the name of a missing field.
    let missing = words.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
    match (missing, error.path().to_string()) {
        (Some((name, _)), _) => format!("`{name}` is missing"),
        (None, path) if path == "." => "it is of another kind as a whole".to_owned(),
        (None, path) => format!("`{}` is of another kind", quote(&path)),
    }
}

/// Host, port and path.
fn place_of(uri: &Uri) -> String {
    let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 });
    quote(&format!("{}:{port}{}", uri.host().unwrap_or("the provider"), uri.path()))
}

/// A provider's own message for its refusal, in GitHub's, Graph's or OAuth's format.
fn provider_message(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str);
    let mut places = ["/error_description", "/error/message", "/message", "/error"].into_iter();
    let words = places.find_map(|place| text(place).filter(|words| !words.is_empty()));
    words.map(|words| format!(" ({})", quote(words))).unwrap_or_default()
}

/// A failed call. It names host, port and path, and what went wrong; never the query or the data sent.
#[derive(Debug, thiserror::Error)]
#[error("{place} {fault}")]
pub(super) struct CallError {
    place: String,
    pub(super) fault: CallFault,
}

impl CallError {
    fn at(url: &Url, fault: CallFault) -> Self {
        let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
        Self { place: quote(&format!("{}{port}{}", url.host_str().unwrap_or("the provider"), url.path())), fault }
    }

    /// Whether the provider says that this token may not read it, and would say so again.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self.fault, CallFault::Status(StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _))
            && !self.says("rate limit")
    }

    /// Whether the provider does not accept the token, or no longer.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self.fault, CallFault::Status(StatusCode::UNAUTHORIZED, _))
    }

    /// Whether the provider's own message contains `words`, given in lower case.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(&self.fault, CallFault::Status(_, said) if said.to_ascii_lowercase().contains(words))
    }
}

/// What went wrong in a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFault {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("timed out after {} s", TOTAL.as_secs())]
    TimedOut,
    #[error("sent an answer larger than 1 MiB")]
    TooLarge,
    #[error("broke off its answer: {0}")]
    Broken(String),
    #[error("answered {0}{1}")]
    Status(StatusCode, String),
    #[error("answered {0} with a redirect to {1}: redirects are not followed, so that address must be configured")]
    Moved(StatusCode, String),
    #[error("sent an answer that is not JSON at line {}, column {}", .0.0, .0.1)]
    NotJson((usize, usize)),
    #[error("sent JSON that is not what is expected there: {0}")]
    Unexpected(String),
    #[error("has an address that cannot be called")]
    Address,
    #[error("issued an access token that cannot be sent in a header")]
    Token,
    #[error("names a next page on another host")]
    Elsewhere,
    #[error("goes on for more than {0} pages")]
    Endless(usize),
}

impl CallFault {
    /// This fault for the host of `url`.
    pub(super) fn at(self, url: &Url) -> CallError {
        CallError::at(url, self)
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    quote(&text)
}

/// Whether secrets may be sent to `url`: `https`, or a loopback host. Names under `.localhost` do not count: their resolver decides
/// whether they lead to this machine, and many ask the network (RFC 6761 §6.3 only recommends that they do not).
pub fn is_safe(url: &Url) -> bool {
    url.host().is_some() && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
}

/// Appends `path` to the path of `base`, so that `https://ghe.example/api/v3` stays in front.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The next page of a list that began at `base`. It must have the same origin, or the token would go to the link's author.
pub(super) fn followed(base: &Url, next: Option<Url>) -> Result<Url, CallError> {
    next.filter(|next| next.origin() == base.origin()).ok_or_else(|| CallFault::Elsewhere.at(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for safe in [
            "https://idp.example/x",
            "http://localhost:9400",
            "http://127.0.0.1:1",
            "http://127.9.9.9:1",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_safe(&url(safe)), "{safe}");
        }
        for unsafe_ in [
            "http://idp.example",
            "http://localhost.evil.example",
            "http://idp.localhost:9400",
            "http://[::ffff:10.0.0.1]",
            "ftp://localhost",
            "http://10.0.0.1",
            "data:x",
        ] {
            assert!(!is_safe(&url(unsafe_)), "{unsafe_}");
        }
    }

    #[test]
    fn a_next_page_on_another_origin_is_not_followed() {
        let base = url("https://api.example/api/v3");
        assert!(followed(&base, Some(url("https://api.example/x?page=2"))).is_ok());
        for bad in ["https://evil.example/x", "http://api.example/x", "https://api.example:444/x", "data:x"] {
            assert!(followed(&base, Some(url(bad))).is_err(), "{bad}");
        }
        assert!(followed(&base, None).is_err());
    }

    #[test]
    fn paths_are_joined_below_the_base() {
        assert_eq!(below(&url("https://ghe.example/api/v3"), "user/emails").path(), "/api/v3/user/emails");
        assert_eq!(below(&url("https://ghe.example/api/v3/"), "user").path(), "/api/v3/user");
        assert_eq!(below(&url("https://api.github.com"), "user").as_str(), "https://api.github.com/user");
    }
}
