//! The connection to a provider: direct, or through an HTTP proxy by `CONNECT` (RFC 9110 §9.3.6).

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;
use url::{Host, Url};

use crate::domain::secret::Secret;

type BoxError = Box<dyn Error + Send + Sync>;
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A proxy, and the hosts that bypass it. It may contain a password, and cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WayOut {
    proxy: Secret,
    shown: String,
    exceptions: String,
}

impl WayOut {
    /// The proxy at `proxy`, bypassed for the hosts in `exceptions`, in the format of `NO_PROXY`: domains including their subdomains,
    /// addresses, networks, `*`.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub fn new(proxy: &str, exceptions: &str) -> Result<Self, String> {
        // Without a scheme it is an HTTP proxy, as in curl.
        let text = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
        let url = Url::parse(&text).map_err(|error| format!("is not a URL ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must be an HTTP proxy: it begins with http:// or https://".to_owned());
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("must end with its host and port: no path, no `?`, no `#`".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let way = Self {
            shown: format!("{host}:{port}"),
            proxy: Secret::new(url.as_str()),
            exceptions: exceptions.to_owned(),
        };
        // The library parses it in its own way: an address that it cannot use must not bypass the proxy.
        let anywhere = Matcher::builder().https(url.as_str()).build();
        anywhere
            .intercept(&Uri::from_static("https://provider.invalid/"))
            .map(|_| way)
            .ok_or_else(|| "cannot be used".to_owned())
    }

    /// Its host and port, without name and password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// Opens connections to a provider.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    to_proxy: HttpsConnector<HttpConnector>,
    proxy: Option<Arc<(Matcher, String)>>,
}

impl Connector {
    pub(super) fn new(tcp: HttpConnector, tls: ClientConfig, way_out: Option<WayOut>) -> Self {
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        let proxy = way_out.and_then(|way| Some(Arc::new((matcher(way.proxy.expose(), &way.exceptions)?, way.shown))));
        Self { tcp, to_proxy, proxy }
    }

    /// The proxy for a destination, and its display form; `None`: connect directly.
    fn proxy_to(&self, to: &Uri) -> Option<(Intercept, String)> {
        let (matcher, shown) = &**self.proxy.as_ref()?;
        let is_here = Url::parse(&to.to_string()).is_ok_and(|url| is_this_machine(&url));
        if is_here { None } else { Some((matcher.intercept(to)?, shown.clone())) }
    }
}

/// The destinations of `proxy`; `None`: all hosts bypass it.
fn matcher(proxy: &str, exceptions: &str) -> Option<Matcher> {
    // The library's `*` covers names only.
    let is_for_none = exceptions.split(',').any(|item| item.trim() == "*");
    (!is_for_none).then(|| Matcher::builder().https(proxy.to_owned()).no(exceptions.to_owned()).build())
}

/// Whether a call to `url` would go through a proxy with these exceptions, whichever it is.
pub fn goes_through_a_proxy(url: &Url, exceptions: &str) -> bool {
    let to = url.as_str().parse::<Uri>().ok();
    let intercepts = |to: Uri| matcher("http://proxy.invalid", exceptions)?.intercept(&to);
    !is_this_machine(url) && to.and_then(intercepts).is_some()
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some((found, shown)) = self.proxy_to(&to) else {
            let straight = self.tcp.call(to);
            return Box::pin(async move { Ok(MaybeHttpsStream::Http(straight.await?)) });
        };
        let mut tunnel = Tunnel::new(found.uri().clone(), self.to_proxy.clone());
        if let Some(name_and_password) = found.basic_auth() {
            tunnel = tunnel.with_auth(name_and_password.clone());
        }
        let through = tunnel.call(to);
        Box::pin(async move {
            through.await.map_err(|source| Box::new(Closed { proxy: shown, source: Box::new(source) }) as BoxError)
        })
    }
}

/// Whether the host of `url` is certainly this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether no proxy could reach the host for us: a loopback one, or a name under `.localhost`.
pub(super) fn is_this_machine(url: &Url) -> bool {
    is_loopback(url) || url.domain().is_some_and(|name| name.trim_end_matches('.').ends_with(".localhost"))
}

/// Connecting through the proxy failed.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy {proxy}")]
struct Closed {
    proxy: String,
    source: BoxError,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::certs;

    #[test]
    fn this_machine_is_reached_without_a_proxy() {
        let is_here = |url: &str| is_this_machine(&Url::parse(url).unwrap());
        for here in [
            "https://localhost",
            "http://127.9.9.9:1",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://idp.localhost",
        ] {
            assert!(is_here(here), "{here}");
        }
        for there in ["https://localhost.example.com", "https://10.0.0.1", "https://notlocalhost", "https://[::2]"] {
            assert!(!is_here(there), "{there}");
        }
    }

    #[test]
    fn no_proxy_names_domains_addresses_and_networks() {
        let tls = certs::client_config(&[], &[]).unwrap();
        for (exceptions, straight, through) in [
            ("", &[][..], &["https://idp.example.com", "https://10.1.2.3", "https://[2001:db8::1]"][..]),
            (
                "example.com",
                &["https://example.com", "https://idp.example.com:8443"],
                &["https://notexample.com", "https://example.com.evil.test", "https://example.org"],
            ),
            (".example.com", &["https://a.b.example.com"], &["https://notexample.com"]),
            (
                "10.0.0.0/8, 192.0.2.7",
                &["https://10.1.2.3", "https://192.0.2.7"],
                &["https://11.1.2.3", "https://192.0.2.8"],
            ),
            ("2001:db8::/32", &["https://[2001:db8:1::7]"], &["https://[2001:db9::7]", "https://32.1.13.184"]),
            ("10.0.0.0/8", &[], &["https://10.example.com", "https://ten.example.com"]),
            ("other.test,*", &["https://idp.example.com", "https://10.1.2.3"], &[]),
        ] {
            let way = WayOut::new("http://proxy:3128", exceptions).unwrap();
            let connector = Connector::new(HttpConnector::new(), tls.clone(), Some(way));
            let is_straight = |url: &&str| connector.proxy_to(&url.parse().unwrap()).is_none();
            assert!(straight.iter().all(is_straight), "{exceptions}: {straight:?}");
            assert!(!through.iter().any(is_straight), "{exceptions}: {through:?}");
        }
    }

    #[test]
    fn a_proxy_is_an_http_url_with_host_and_port() {
        for (good, shown) in [
            ("http://proxy.example.com:3128", "proxy.example.com:3128"),
            ("http://ann:hush%40@proxy:3128/", "proxy:3128"),
            ("https://proxy", "proxy:443"),
            ("proxy:3128", "proxy:3128"),
            ("http://[::1]:3128", "[::1]:3128"),
        ] {
            assert_eq!(WayOut::new(good, "").map(|way| way.shown).as_deref(), Ok(shown), "{good}");
        }
        for bad in
            ["socks5://proxy:1080", "http://", "http://proxy/path", "http://proxy?x", "http://a b", "", "ftp://proxy"]
        {
            let fault = WayOut::new(bad, "").err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(bad.is_empty() || !fault.contains(bad), "{fault}");
        }
    }
}
