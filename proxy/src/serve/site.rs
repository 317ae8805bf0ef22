//! Everything a request needs, made at the start or at a reload, and swapped whole.

use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use url::Url;
use zeroize::Zeroizing;

use crate::adapters::assertion::{Assertions, SigningKeys};
use crate::adapters::certs;
use crate::adapters::grants::GrantSealer;
use crate::adapters::providers::{self, ProviderSettings, WayOut};
use crate::adapters::seal::{self, Sealer};
use crate::adapters::stores::{self, StoreSettings};
use crate::adapters::telemetry::{Metrics, RuleCounters, RuleMetrics, StoreMetrics, audit};
use crate::adapters::upstream::{Upstream, UpstreamAddress, UpstreamSettings};
use crate::domain::caller::TrustedProxies;
use crate::domain::path::ReturnTo;
use crate::domain::rules::{HostName, Openness, Rules};
use crate::domain::session::{Authority, Lifetime};
use crate::ports::{IdentityProvider, LoadedSession, SessionStore, StoreTerms};
use crate::serve::body::RequestBody;
use crate::serve::cookies::Cookies;
use crate::serve::renewal::{Renewals, Renewing};
use crate::serve::settings::{Limits, Mode, Settings, SignInSettings, Timeouts};

/// What lives as long as the process: the counters, what outlives a reload, and the site of the moment.
pub(crate) struct House {
    site: ArcSwap<Site>,
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
    heirlooms: Heirlooms,
    reload_failure: ArcSwapOption<String>,
}

/// Random secrets for what `SESSION_SECRET` would give: kept over reloads, so that a reload interrupts nobody's sign-in.
struct Heirlooms {
    secret: Vec<u8>,
    renewals: Arc<Renewals>,
    upstream_connections: Gauge,
    store_metrics: StoreMetrics,
    rule_metrics: RuleMetrics,
    signing: SigningKeys,
    /// The upstream's pool, kept while its settings are the same.
    upstream: Mutex<Option<(UpstreamSettings, Arc<Upstream<RequestBody>>)>>,
    /// The provider with what it has fetched, kept likewise.
    provider: Mutex<Option<KeptProvider>>,
    /// The session store, kept likewise, and while nobody signs in.
    store: Mutex<Option<KeptStore>>,
}

type KeptStore = (StoreSettings, Arc<dyn SessionStore>);

struct KeptProvider {
    settings: ProviderSettings,
    roots: Vec<CertificateDer<'static>>,
    way_out: Option<WayOut>,
    provider: Arc<dyn IdentityProvider>,
}

/// A site that was built and is not in force.
pub(crate) struct Next {
    site: Site,
    kept: Kept,
    /// The store that goes on, and what it is told then.
    terms: Option<(Arc<dyn SessionStore>, StoreTerms)>,
}

/// What the next reload may go on with.
struct Kept {
    upstream: (UpstreamSettings, Arc<Upstream<RequestBody>>),
    /// In open mode those of before stay.
    sign_in: Option<(KeptProvider, KeptStore)>,
}

/// The settings of the moment, ready for requests.
pub(crate) struct Site {
    pub(crate) rules: Rules,
    pub(crate) rule_metrics: RuleCounters,
    pub(crate) sign_in: Option<SignIn>,
    pub(crate) upstream: Arc<Upstream<RequestBody>>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Site {
    /// Where a sign-in leads back to: a path of the public origin, or an address of another host that it serves.
    pub(crate) fn return_to(&self, rd: &str) -> ReturnTo {
        let Some(sign_in) = &self.sign_in else { return ReturnTo::root() };
        ReturnTo::parse_among(rd, &sign_in.public_origin, |host| self.may_lead_back_to(host))
    }

    /// Whether a sign-in may lead back to that host: a rule names it, and it is sent the session's cookie. The public host is a path's.
    pub(crate) fn may_lead_back_to(&self, host: &str) -> bool {
        let Some(sign_in) = &self.sign_in else { return false };
        let is_sent_cookie = sign_in.cookies.domain().is_some_and(|domain| {
            host == domain || host.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
        });
        is_sent_cookie && !sign_in.is_public_host(host) && self.rules.name_host(host)
    }
}

/// How people sign in; `None` in open mode.
pub(crate) struct SignIn {
    pub(crate) provider: Arc<dyn IdentityProvider>,
    pub(crate) store: Arc<dyn SessionStore>,
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
        session.session().authority == self.authority
    }
}

impl House {
    pub(crate) fn build(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let renewals = Arc::new(Renewals::new(Arc::clone(&metrics)));
        let heirlooms = Heirlooms {
            secret: seal::random_secret()?.to_vec(),
            renewals: Arc::clone(&renewals),
            upstream_connections: metrics.upstream_connections.clone(),
            store_metrics: metrics.store.clone(),
            rule_metrics: metrics.rules.clone(),
            signing: SigningKeys::random()?,
            upstream: Mutex::new(None),
            provider: Mutex::new(None),
            store: Mutex::new(None),
        };
        let Next { site, kept, .. } = heirlooms.next(settings)?;
        heirlooms.keep(kept);
        Ok(Self {
            site: ArcSwap::from_pointee(site),
            metrics,
            tunnels: TaskTracker::new(),
            renewals,
            attempts: AtomicU16::new(0),
            provider_tried: Notify::new(),
            reloaded: Notify::new(),
            heirlooms,
            reload_failure: ArcSwapOption::empty(),
        })
    }

    /// The site of the moment. A request takes it once.
    pub(crate) fn site(&self) -> Arc<Site> {
        self.site.load_full()
    }

    /// Builds the site of new settings, whole; nothing of it is in force yet.
    pub(crate) fn prepare(&self, settings: Settings) -> anyhow::Result<Next> {
        self.heirlooms.next(settings)
    }

    /// Swaps the site; requests under way end with the old one.
    ///
    /// # Errors
    /// Where the store that goes on does not take its new terms; then nothing is swapped.
    pub(crate) fn take(&self, next: Next) -> anyhow::Result<()> {
        let Next { site, kept, terms } = next;
        if let Some((store, terms)) = terms {
            store.reconfigure(&terms).map_err(anyhow::Error::msg)?;
        }
        self.heirlooms.keep(kept);
        let before = self.site();
        if let (Some(before), Some(sign_in)) = (&before.sign_in, &site.sign_in)
            && before.authority != sign_in.authority
        {
            tracing::warn!(
                "the provider, the client id or the public origin has changed: the sessions so far count no more, since they are not of these"
            );
        }
        let (was, is) = (before.sign_in.as_ref(), site.sign_in.as_ref());
        match (was.map(|sign_in| sign_in.provider.kind()), is.map(|sign_in| sign_in.provider.kind())) {
            (was, Some(kind)) if was != Some(kind) => audit::enabled(kind),
            (Some(_), None) => audit::disabled(),
            (Some(_) | None, Some(_)) | (None, None) => {}
        }
        self.site.store(Arc::new(site));
        self.reload_failure.store(None);
        self.reloaded.notify_waiters();
        Ok(())
    }

    /// Notes why the last reload failed, for `readyz`.
    pub(crate) fn note_reload_failure(&self, reason: String) {
        self.reload_failure.store(Some(Arc::new(reason)));
    }

    /// What does not work at the moment, a line each.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let site = self.site();
        let sign_in = site.sign_in.as_ref();
        [
            sign_in.and_then(|sign_in| sign_in.provider.trouble()).map(|why| format!("provider: {why}")),
            sign_in.and_then(|sign_in| sign_in.store.trouble()).map(|why| format!("store: {why}")),
            site.upstream.trouble().map(|why| format!("upstream: {why}")),
            self.reload_failure.load().as_deref().map(|why| format!("configuration: last reload failed: {why}")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Heirlooms {
    fn next(&self, settings: Settings) -> anyhow::Result<Next> {
        let upstream = self.upstream(&settings.upstream)?;
        let (mut kept, mut terms) = (None, None);
        let (openness, sign_in) = match settings.mode {
            Mode::Open => (Openness::Open, None),
            Mode::SignIn(settings) => {
                let openness = Openness::SignIn(Box::new(settings.allow.clone()));
                let audience = upstream.origin().to_owned();
                (openness, Some(self.sign_in(*settings, audience, &mut kept, &mut terms)?))
            }
        };
        let kept = Kept { upstream: (settings.upstream, Arc::clone(&upstream)), sign_in: kept };
        let rules = Rules::new(openness, settings.rules);
        let site = Site {
            rule_metrics: self.rule_metrics.of(&rules),
            rules,
            sign_in,
            upstream,
            trusted_proxies: settings.trusted_proxies,
            limits: settings.limits,
            timeouts: settings.timeouts,
        };
        Ok(Next { site, kept, terms })
    }

    /// From now on this is what the next reload goes on with.
    fn keep(&self, kept: Kept) {
        *lock(&self.upstream) = Some(kept.upstream);
        if let Some((provider, store)) = kept.sign_in {
            if !matches!(store.0, StoreSettings::Redis(_)) {
                self.store_metrics.shared(false);
            }
            *lock(&self.provider) = Some(provider);
            *lock(&self.store) = Some(store);
        }
    }

    fn sign_in(
        &self,
        settings: SignInSettings,
        audience: String,
        kept: &mut Option<(KeptProvider, KeptStore)>,
        changed: &mut Option<(Arc<dyn SessionStore>, StoreTerms)>,
    ) -> anyhow::Result<SignIn> {
        let mut secrets: Vec<&[u8]> = settings.secrets.iter().map(|secret| secret.0.as_slice()).collect();
        let signing = if !settings.assertion_keys.is_empty() {
            SigningKeys::from_pem(&settings.assertion_keys)?
        } else if !secrets.is_empty() {
            SigningKeys::derived(&secrets)?
        } else {
            self.signing.clone()
        };
        if secrets.is_empty() {
            secrets.push(&self.secret);
        }
        let origin = &settings.public_origin;
        let origin_text = origin.origin().ascii_serialization();
        let host_text = origin_text.split_once("://").map_or_else(String::new, |(_, host)| host.to_owned());
        let cookies = Cookies::new(settings.cookie.clone(), origin);
        let authority = settings.provider.authority();
        let provider = self.provider(&settings)?;
        let terms = StoreTerms {
            idle: settings.lifetime.idle,
            secrets: secrets.iter().map(|secret| Zeroizing::new(secret.to_vec())).collect(),
            cookie_beside: cookies.beside_session(),
        };
        let store = self.store(&settings.store, terms, changed)?;
        let renewing = Renewing {
            house: Arc::clone(&self.renewals),
            provider: Arc::clone(&provider),
            store: Arc::clone(&store),
            grants: GrantSealer::new(&secrets)?,
            authority,
            recheck: settings.recheck,
        };
        let kept_provider = KeptProvider {
            settings: settings.provider,
            roots: settings.provider_roots,
            way_out: settings.way_out,
            provider: Arc::clone(&provider),
        };
        let sign_in = SignIn {
            authority,
            provider,
            store: Arc::clone(&store),
            renewing: Arc::new(renewing),
            cookies,
            sealer: Sealer::new(&secrets, "login")?,
            assertions: Assertions::new(signing, origin, audience),
            origin_text,
            host_text,
            lifetime: settings.lifetime,
            public_origin: settings.public_origin,
        };
        // What goes on keeps the settings that it was opened with.
        let opened = lock(&self.store).as_ref().filter(|(_, old)| Arc::ptr_eq(old, &store)).map(|(old, _)| old.clone());
        *kept = Some((kept_provider, (opened.unwrap_or(settings.store), store)));
        Ok(sign_in)
    }

    fn provider(&self, settings: &SignInSettings) -> anyhow::Result<Arc<dyn IdentityProvider>> {
        let kept = lock(&self.provider);
        let same = |kept: &&KeptProvider| {
            kept.settings == settings.provider
                && kept.roots == settings.provider_roots
                && kept.way_out == settings.way_out
        };
        match kept.as_ref().filter(same) {
            Some(kept) => Ok(Arc::clone(&kept.provider)),
            None => Ok(providers::connect(&settings.provider, &settings.provider_roots, settings.way_out.clone())?),
        }
    }

    /// The store that goes on, with the terms that it is to be told once everything else is built, or a new one.
    fn store(
        &self,
        settings: &StoreSettings,
        terms: StoreTerms,
        changed: &mut Option<(Arc<dyn SessionStore>, StoreTerms)>,
    ) -> anyhow::Result<Arc<dyn SessionStore>> {
        if let Some((old, store)) = lock(&self.store).as_ref().filter(|(old, _)| old.serve(settings)) {
            if old != settings {
                tracing::warn!(
                    "SESSION_MEMORY_BYTES has changed: it counts from the next start, since sessions live as long as the store"
                );
            }
            *changed = Some((Arc::clone(store), terms));
            return Ok(Arc::clone(store));
        }
        stores::open(settings, &terms, &self.store_metrics).map_err(anyhow::Error::msg)
    }

    fn upstream(&self, settings: &UpstreamSettings) -> anyhow::Result<Arc<Upstream<RequestBody>>> {
        if let Some((_, upstream)) = lock(&self.upstream).as_ref().filter(|(old, _)| old == settings) {
            return Ok(Arc::clone(upstream));
        }
        let tls = match settings.address {
            UpstreamAddress::Https { .. } => Some(Arc::new(certs::client_config(&settings.roots, &[b"http/1.1"])?)),
            UpstreamAddress::Http { .. } | UpstreamAddress::H2c { .. } | UpstreamAddress::Unix(_) => None,
        };
        let upstream = Upstream::new(settings, tls, self.upstream_connections.clone());
        Ok(Arc::new(upstream.map_err(anyhow::Error::msg)?))
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
