//! Everything a request needs, made at the start or at a reload, and swapped as a whole.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderMap;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::adapters::assertion::Assertions;
use crate::adapters::providers::bearer::Bearers;
use crate::adapters::seal::Sealer;
use crate::adapters::telemetry::{Metrics, RuleCounters, audit, audit_trouble};
use crate::adapters::upstream::Upstream;
use crate::domain::caller::TrustedProxies;
use crate::domain::path::ReturnTo;
use crate::domain::rules::{HostName, Rules};
use crate::domain::session::{Authority, Lifetime};
use crate::ports::{IdentityProvider, LoadedSession, Sessions};
use crate::serve::body::RequestBody;
use crate::serve::destination::Destinations;
use crate::serve::renewal::{Renewals, Renewing};
use crate::serve::request::chosen::ChosenNames;
use crate::serve::request::cookies::Cookies;
use crate::serve::request::headers;
use crate::serve::settings::{Limits, Timeouts};

/// What lives as long as the process: the counters, what survives a reload, and the current snapshot.
pub(crate) struct App {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) metrics: Arc<Metrics>,
    /// Open WebSockets, whose tasks are separate from those of their connections.
    pub(crate) tunnels: TaskTracker,
    /// Sessions that are renewed in the background.
    pub(crate) renewals: Arc<Renewals>,
    /// A wrapping count of sign-ins begun: distinguishes those that begin in the same millisecond.
    pub(crate) attempts: AtomicU16,
    /// Notified when the provider was asked, whatever it answered.
    pub(crate) provider_tried: Notify,
    /// Notified after each reload.
    pub(crate) reloaded: Notify,
    reload_failure: ArcSwapOption<String>,
}

/// The current settings, ready for requests.
pub(crate) struct Snapshot {
    pub(crate) rules: Rules,
    pub(crate) rule_metrics: RuleCounters,
    /// Whether every decision gets an audit line.
    pub(crate) audit_all: bool,
    pub(crate) sign_in: Option<SignIn>,
    pub(crate) upstream: Arc<Upstream<RequestBody>>,
    /// The upstreams that rules name.
    pub(crate) destinations: Destinations,
    /// Header names that no client may set, since upstreams get identities in them.
    pub(crate) chosen: Arc<ChosenNames>,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Peers whose connections begin with the PROXY protocol.
    pub(crate) proxy_protocol_from: TrustedProxies,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Snapshot {
    /// The target after a sign-in: a path of the public origin, or a URL of another host that it serves.
    pub(crate) fn return_to(&self, rd: &str) -> ReturnTo {
        let Some(sign_in) = &self.sign_in else { return ReturnTo::root() };
        ReturnTo::parse_among(rd, &sign_in.public_origin, |host| self.may_lead_back_to(host))
    }

    /// The same for a path of `host`, if a sign-in may return to that host; otherwise the path is taken as the public host's.
    pub(crate) fn return_to_on(&self, host: &str, path: &str) -> ReturnTo {
        let host = HostName::of(host);
        if path.starts_with('/') && self.may_lead_back_to(host.as_str()) {
            return self.return_to(&format!("https://{}{path}", host.as_str()));
        }
        self.return_to(path)
    }

    /// The port of the public origin, if it is not the scheme's default.
    pub(crate) fn public_port(&self) -> Option<u16> {
        self.sign_in.as_ref().and_then(|sign_in| sign_in.public_origin.port())
    }

    /// Whether a sign-in may return to that host: a rule names it, and it receives the session cookie. False for the public host.
    pub(crate) fn may_lead_back_to(&self, host: &str) -> bool {
        let Some(sign_in) = &self.sign_in else { return false };
        let is_sent_cookie = sign_in.cookies.domain().is_some_and(|domain| {
            host == domain || host.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
        });
        is_sent_cookie && !sign_in.is_public_host(host) && self.rules.names_host(host)
    }
}

/// How people sign in; `None` in open mode.
pub(crate) struct SignIn {
    pub(crate) provider: Arc<dyn IdentityProvider>,
    /// The accepted bearer token issuers; `None`: `Authorization` is ignored.
    pub(crate) bearers: Option<Arc<Bearers>>,
    pub(crate) store: Arc<dyn Sessions>,
    pub(crate) cookies: Cookies,
    pub(crate) sealer: Sealer,
    /// How sessions are renewed; it has the sealer of their grants.
    pub(crate) renewing: Arc<Renewing>,
    pub(crate) assertions: Assertions,
    pub(crate) public_origin: Url,
    /// The origin as browsers write it in `Origin`: without a trailing slash.
    pub(crate) origin_text: String,
    /// Host and port of the public origin, as browsers write them in `Host`.
    pub(crate) host_text: String,
    pub(crate) lifetime: Lifetime,
    /// The current authority of sessions.
    pub(crate) authority: Authority,
}

impl SignIn {
    /// Whether `host` is the public origin's host, whatever the port.
    pub(crate) fn is_public_host(&self, host: &str) -> bool {
        self.public_origin.host_str() == Some(HostName::of(host).as_str())
    }

    /// Whether the request's `Origin`, if present, is that of a page of `host`: of the public host it may be the public origin, whatever
    /// port the proxies in front write, or that of another port that `host` names: a browser's names the port that it asks.
    pub(crate) fn is_origin_of(&self, headers: &HeaderMap, host: &str) -> bool {
        let is_own = || headers::is_same_origin(headers, &headers::origin_of(self.public_origin.scheme(), host));
        if self.is_public_host(host) {
            headers::is_same_origin(headers, &self.origin_text)
                || headers::names_other_port(host, &self.public_origin) && is_own()
        } else {
            is_own()
        }
    }

    /// Whether the current provider vouched for a session to this deployment, and still does: after a change of provider, client id or public
    /// origin, old sessions are not valid, nor are those of another deployment with the same secret, or of a tenant that is not named any
    /// more.
    pub(crate) fn vouches_for(&self, session: &LoadedSession) -> bool {
        if session.is_token() {
            return self.bearers.as_ref().is_some_and(|bearers| bearers.vouches_for(session));
        }
        session.session().authority == self.authority && self.provider.admits(&session.session().identity)
    }
}

impl App {
    pub(crate) fn new(snapshot: Snapshot, metrics: Arc<Metrics>, renewals: Arc<Renewals>) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            metrics,
            tunnels: TaskTracker::new(),
            renewals,
            attempts: AtomicU16::new(0),
            provider_tried: Notify::new(),
            reloaded: Notify::new(),
            reload_failure: ArcSwapOption::empty(),
        }
    }

    /// The current snapshot. A request takes it once.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Swaps the snapshot; requests in flight finish with the old one.
    pub(crate) fn swap(&self, next: Snapshot) {
        let before = self.snapshot();
        if let (Some(before), Some(sign_in)) = (&before.sign_in, &next.sign_in)
            && before.authority != sign_in.authority
        {
            tracing::warn!(
                "the provider, the client id or the public origin has changed: the sessions so far count no more, since they are not of these"
            );
        }
        let (was, is) = (before.sign_in.as_ref(), next.sign_in.as_ref());
        match (was.map(|sign_in| sign_in.provider.kind()), is.map(|sign_in| sign_in.provider.kind())) {
            (was, Some(kind)) if was != Some(kind) => audit::enabled(kind),
            (Some(_), None) => audit::disabled(),
            (Some(_) | None, Some(_)) | (None, None) => {}
        }
        self.snapshot.store(Arc::new(next));
        self.reload_failure.store(None);
        self.reloaded.notify_waiters();
    }

    /// Records why the last reload failed, for `readyz`.
    pub(crate) fn note_reload_failure(&self, reason: String) {
        self.reload_failure.store(Some(Arc::new(reason)));
    }

    /// The current problems, a line each.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let snapshot = self.snapshot();
        let sign_in = snapshot.sign_in.as_ref();
        let bearers = sign_in.and_then(|sign_in| sign_in.bearers.as_ref());
        let tokens = bearers.map(|bearers| bearers.troubles()).unwrap_or_default();
        [
            sign_in.and_then(|sign_in| sign_in.provider.trouble()).map(|why| format!("provider: {why}")),
            sign_in.and_then(|sign_in| sign_in.store.trouble()).map(|why| format!("store: {why}")),
            snapshot.upstream.trouble().map(|why| format!("upstream: {why}")),
            audit_trouble().map(|why| format!("AUDIT_FILE: {why}")),
            self.reload_failure.load().as_deref().map(|why| format!("configuration: last reload failed: {why}")),
        ]
        .into_iter()
        .flatten()
        .chain(snapshot.destinations.iter().flat_map(|destination| destination.troubles()))
        .chain(tokens.into_iter().map(|why| format!("tokens: {why}")))
        .collect()
    }
}
