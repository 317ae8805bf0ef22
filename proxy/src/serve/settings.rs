//! The settings of this floor: types that `config` builds and has checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use crate::adapters::certs::{ClientAuth, PemFiles};
use crate::adapters::providers::bearer::BearerSettings;
use crate::adapters::providers::{ProviderSettings, WayOut};
use crate::adapters::stores::StoreSettings;
use crate::adapters::telemetry::LogSettings;
use crate::adapters::upstream::UpstreamSettings;
use crate::domain::caller::TrustedProxies;
use crate::domain::policy::AllowLists;
use crate::domain::rules::{Rule, TokenLists};
use crate::domain::secret::Secret;
use crate::domain::session::Lifetime;
use crate::serve::upstream_settings::{DestinationSettings, IdentityChoice};

/// All settings of `sidegate`, checked.
pub struct Settings {
    /// `LISTEN_ADDR`; a change needs a restart.
    pub listen: Listen,
    /// `ADMIN_ADDR`; a change needs a restart.
    pub admin: SocketAddr,
    /// `HTTP_REDIRECT_ADDR`; a change needs a restart.
    pub redirect: Option<SocketAddr>,
    /// `EXT_AUTHZ_ADDR`; a change needs a restart.
    pub ext_authz: Option<SocketAddr>,
    /// `TLS_CERT_FILE` and `TLS_KEY_FILE`; empty: no TLS on this listener.
    pub tls: Vec<PemFiles>,
    /// `TLS_CLIENT_CA_FILE` and `TLS_CLIENT_AUTH`: which client certificates are requested; `None`: none.
    pub client_auth: Option<ClientAuth>,
    /// Whether and how people sign in.
    pub mode: Mode,
    /// `[[routes]]`, in the order of the file.
    pub rules: Vec<Rule>,
    /// The default upstream, for requests that no rule routes elsewhere.
    pub upstream: UpstreamSettings,
    /// `[identity]`: the identity fields for that upstream.
    pub identity: IdentityChoice,
    /// `ASSERTION_GROUPS`: whether its assertions name groups.
    pub assertion_groups: bool,
    /// `[[upstreams]]`: the upstreams that rules may name.
    pub upstreams: Vec<DestinationSettings>,
    /// `TRUSTED_PROXIES`.
    pub trusted_proxies: TrustedProxies,
    /// `PROXY_PROTOCOL_FROM`: which peers' connections begin with the PROXY protocol.
    pub proxy_protocol_from: TrustedProxies,
    /// `LIMIT_…`.
    pub limits: Limits,
    /// `TIMEOUT_…`.
    pub timeouts: Timeouts,
    /// `SHUTDOWN_…`.
    pub shutdown: Shutdown,
    /// `AUDIT`: whether every decision is logged, rather than only changes and refusals.
    pub audit_all: bool,
    /// `LOG_…`; a change needs a restart.
    pub log: LogSettings,
}

/// Where the proxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On an address.
    Address(SocketAddr),
    /// On a Unix socket file.
    File(PathBuf),
    /// On the socket that systemd passes.
    Systemd,
}

/// Whether people sign in.
pub enum Mode {
    /// `OAUTH_ENABLED` is off: everything is forwarded without authentication.
    Open,
    /// People sign in.
    SignIn(Box<SignInSettings>),
}

/// How people sign in, and how their sessions are kept.
pub struct SignInSettings {
    /// The provider.
    pub provider: ProviderSettings,
    /// `OAUTH_BEARER_…` and `[[tokens]]`: which issuers' bearer tokens are accepted; `None`: tokens are ignored.
    pub bearer: Option<BearerSettings>,
    /// The allow lists of each section of `[[tokens]]`.
    pub token_lists: TokenLists,
    /// `OAUTH_CA_FILE`: additional root certificates for the connection to the provider.
    pub provider_roots: Vec<CertificateDer<'static>>,
    /// `OAUTH_PROXY`, else `HTTPS_PROXY`: the forward proxy to the provider.
    pub way_out: Option<WayOut>,
    /// Scheme and host of `OAUTH_REDIRECT_URL`, with path `/`.
    pub public_origin: Url,
    /// Who is admitted.
    pub allow: AllowLists,
    /// `SESSION_STORE`: where sessions are kept.
    pub store: StoreSettings,
    /// `SESSION_TTL` and `SESSION_IDLE_TTL`.
    pub lifetime: Lifetime,
    /// `SESSION_RECHECK`: how often the provider is asked again with an access token; zero: never.
    pub recheck: Duration,
    /// `SESSION_SECRET`, at least 32 bytes each: the first seals, all open. Empty: random at the start.
    pub secrets: Vec<SecretKey>,
    /// `COOKIE_…`.
    pub cookie: CookieSettings,
    /// `ASSERTION_KEY_FILE`: EC P-256 private keys in PEM; the first signs. Empty: derived from `secrets`, else random.
    pub assertion_keys: Vec<Secret>,
}

/// The bytes of one `SESSION_SECRET`. It has no `Debug` or `Display`.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct SecretKey(pub Vec<u8>);

/// The session cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieSettings {
    /// `COOKIE_NAME`.
    pub name: String,
    /// `COOKIE_DOMAIN`; `None`: this host only.
    pub domain: Option<String>,
    /// `COOKIE_SECURE`.
    pub secure: bool,
}

/// Limits on what a client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `LIMIT_HEADER_BYTES`: a larger request head is answered 431.
    pub header_bytes: usize,
    /// `LIMIT_CONNECTIONS`: further connections wait in the kernel's queue.
    pub connections: usize,
    /// `LIMIT_MEMORY`, in bytes; 0: no limit; `None`: derived from what the system allows.
    pub memory: Option<usize>,
}

/// How long each step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `TIMEOUT_HEADER`.
    pub header: Duration,
    /// `TIMEOUT_IDLE`.
    pub idle: Duration,
    /// `TIMEOUT_FIRST_BYTE`.
    pub first_byte: Duration,
    /// `TIMEOUT_BODY`.
    pub body: Duration,
}

/// The steps of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// `SHUTDOWN_DELAY`: how long to keep accepting connections while reporting not ready.
    pub delay: Duration,
    /// `SHUTDOWN_TIMEOUT`: how long requests in flight may take to end.
    pub timeout: Duration,
}
