//! Everything a request needs, made at the start or at a reload, and swapped whole.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::{ArcSwap, ArcSwapOption};
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
use crate::serve::settings::{Limits, Timeouts};

/// What lives as long as the process: the counters, what outlives a reload, and the snapshot of the moment.
pub(crate) struct App {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) metrics: Arc<Metrics>,
    /// Open WebSockets, which end apart from their connections.
    pub(crate) tunnels: TaskTracker,
    /// Sessions that are renewed beside requests.
    pub(crate) renewals: Arc<Renewals>,
    /// How many sign-ins have begun, round and round: what tells those of one millisecond apart.
    pub(crate) attempts: AtomicU16,
    /// Told when the provider has been asked, whatever it answered.
    pub(crate) provider_tried: Notify,
    /// Told after each reload.
    pub(crate) reloaded: Notify,
    reload_failure: ArcSwapOption<String>,
}

/// The settings of the moment, ready for requests.
pub(crate) struct Snapshot {
    pub(crate) rules: Rules,
    pub(crate) rule_metrics: RuleCounters,
    /// Whether each decision has an audit line.
    pub(crate) audit_all: bool,
    pub(crate) sign_in: Option<SignIn>,
    pub(crate) upstream: Arc<Upstream<RequestBody>>,
    /// Where rules lead instead.
    pub(crate) destinations: Destinations,
    /// Names that no client may say, since upstreams are told by them who somebody is.
    pub(crate) chosen: Arc<ChosenNames>,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Whose connections begin with the PROXY protocol.
    pub(crate) proxy_protocol_from: TrustedProxies,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Snapshot {
    /// Where a sign-in leads back to: a path of the public origin, or an address of another host that it serves.
    pub(crate) fn return_to(&self, rd: &str) -> ReturnTo {
        let Some(sign_in) = &self.sign_in else { return ReturnTo::root() };
        ReturnTo::parse_among(rd, &sign_in.public_origin, |host| self.may_lead_back_to(host))
    }

    /// The same for a path of `host`, which counts where a sign-in may lead back there; elsewhere the path is the public host's.
    pub(crate) fn return_to_on(&self, host: &str, path: &str) -> ReturnTo {
        let host = HostName::of(host);
        if path.starts_with('/') && self.may_lead_back_to(host.as_str()) {
            return self.return_to(&format!("https://{}{path}", host.as_str()));
        }
        self.return_to(path)
    }

    /// The port of the public origin, where it is not that of https.
    pub(crate) fn public_port(&self) -> Option<u16> {
        self.sign_in.as_ref().and_then(|sign_in| sign_in.public_origin.port())
    }

    /// Whether a sign-in may lead back to that host: a rule names it, and it is sent the session's cookie. The public host is a path's.
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
    /// Whose bearer tokens are accepted; `None`: `Authorization` is not looked at.
    pub(crate) bearers: Option<Arc<Bearers>>,
    pub(crate) store: Arc<dyn Sessions>,
    pub(crate) cookies: Cookies,
    pub(crate) sealer: Sealer,
    /// How sessions are renewed; it has the sealer of their grants.
    pub(crate) renewing: Arc<Renewing>,
    pub(crate) assertions: Assertions,
    pub(crate) public_origin: Url,
    /// The origin as browsers write it in `Origin`: without a slash at its end.
    pub(crate) origin_text: String,
    /// Host and port of the public origin, as browsers write them in `Host`.
    pub(crate) host_text: String,
    pub(crate) lifetime: Lifetime,
    /// Who vouches for the sessions.
    pub(crate) authority: Authority,
}

impl SignIn {
    /// Whether that is the public origin's host, whatever the port.
    pub(crate) fn is_public_host(&self, host: &str) -> bool {
        self.public_origin.host_str() == Some(HostName::of(host).as_str())
    }

    /// Whether the provider of the moment has vouched for a session, to us: after a change of provider, client id or public origin the old
    /// sessions count no more, nor do those of another deployment with the same secret.
    pub(crate) fn vouches_for(&self, session: &LoadedSession) -> bool {
        if session.is_token() {
            return self.bearers.as_ref().is_some_and(|bearers| bearers.vouches_for(session));
        }
        session.session().authority == self.authority
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

    /// The snapshot of the moment. A request takes it once.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Swaps the snapshot; requests under way end with the old one.
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

    /// Notes why the last reload failed, for `readyz`.
    pub(crate) fn note_reload_failure(&self, reason: String) {
        self.reload_failure.store(Some(Arc::new(reason)));
    }

    /// What does not work at the moment, a line each.
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
