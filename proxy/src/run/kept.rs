//! Builds what requests need from settings, at the start and at a reload, and keeps what goes on over reloads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::adapters::assertion::{Assertions, SigningKeys};
use crate::adapters::certs;
use crate::adapters::grants::GrantSealer;
use crate::adapters::providers::bearer::{BearerSettings, Bearers};
use crate::adapters::providers::{self, ProviderSettings, WayOut};
use crate::adapters::seal::{self, Sealer};
use crate::adapters::stores::{self, StoreSettings};
use crate::adapters::telemetry::{Metrics, RuleMetrics, StoreMetrics};
use crate::adapters::upstream::{Upstream, UpstreamAddress, UpstreamSettings};
use crate::domain::rules::{Openness, Rules, TokenLists};
use crate::ports::{IdentityProvider, Sessions, StoreTerms};
use crate::serve::app::{App, SignIn, Snapshot};
use crate::serve::body::RequestBody;
use crate::serve::renewal::{Renewals, Renewing};
use crate::serve::request::cookies::Cookies;
use crate::serve::settings::{Mode, Settings, SignInSettings};

/// What goes on over a reload: pools, stores and what providers have said, and random secrets in place of those that are not set, so
/// that a reload interrupts nobody.
pub(crate) struct Kept {
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
    /// The issuers of bearer tokens with their keys, and the tokens that were verified lately, kept likewise.
    bearers: Mutex<Option<Arc<Bearers>>>,
    /// The session store, kept likewise, and while nobody signs in.
    store: Mutex<Option<KeptStore>>,
}

type KeptStore = (StoreSettings, Arc<dyn Sessions>);

struct KeptProvider {
    settings: ProviderSettings,
    roots: Vec<CertificateDer<'static>>,
    way_out: Option<WayOut>,
    provider: Arc<dyn IdentityProvider>,
}

/// A snapshot that was built and is not in force.
pub(crate) struct Next {
    snapshot: Snapshot,
    built: Built,
    /// The store that goes on, and what it is told then.
    terms: Option<(Arc<dyn Sessions>, StoreTerms)>,
}

/// What the next reload may go on with.
struct Built {
    upstream: (UpstreamSettings, Arc<Upstream<RequestBody>>),
    /// In open mode those of before stay.
    sign_in: Option<(KeptProvider, KeptStore)>,
    bearers: Option<Arc<Bearers>>,
}

impl Kept {
    /// What a start serves, and what its reloads go on with.
    pub(crate) fn start(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<(App, Self)> {
        let renewals = Arc::new(Renewals::new(Arc::clone(&metrics)));
        let kept = Self {
            secret: seal::random_secret()?.to_vec(),
            renewals: Arc::clone(&renewals),
            upstream_connections: metrics.upstream_connections.clone(),
            store_metrics: metrics.store.clone(),
            rule_metrics: metrics.rules.clone(),
            signing: SigningKeys::random()?,
            upstream: Mutex::new(None),
            provider: Mutex::new(None),
            bearers: Mutex::new(None),
            store: Mutex::new(None),
        };
        let Next { snapshot, built, .. } = kept.next(settings)?;
        kept.keep(built);
        Ok((App::new(snapshot, metrics, renewals), kept))
    }

    /// Puts what was built in force.
    ///
    /// # Errors
    /// Where the store that goes on does not take its new terms; then nothing is swapped.
    pub(crate) fn take(&self, app: &App, next: Next) -> anyhow::Result<()> {
        let Next { snapshot, built, terms } = next;
        if let Some((store, terms)) = terms {
            store.reconfigure(&terms).map_err(anyhow::Error::msg)?;
        }
        self.keep(built);
        app.swap(snapshot);
        Ok(())
    }

    /// Builds the snapshot of new settings, whole; nothing of it is in force yet.
    pub(crate) fn next(&self, settings: Settings) -> anyhow::Result<Next> {
        let upstream = self.upstream(&settings.upstream)?;
        let (mut built, mut terms) = (None, None);
        let mut token_lists = TokenLists::new();
        let (openness, sign_in) = match settings.mode {
            Mode::Open => (Openness::Open, None),
            Mode::SignIn(mut settings) => {
                token_lists = std::mem::take(&mut settings.token_lists);
                let openness = Openness::SignIn(Box::new(settings.allow.clone()));
                let audience = upstream.origin().to_owned();
                (openness, Some(self.sign_in(*settings, audience, &mut built, &mut terms)?))
            }
        };
        let bearers = sign_in.as_ref().and_then(|sign_in| sign_in.bearers.clone());
        let built = Built { upstream: (settings.upstream, Arc::clone(&upstream)), sign_in: built, bearers };
        let rules = Rules::new(openness, settings.rules).with_token_lists(token_lists);
        let snapshot = Snapshot {
            rule_metrics: self.rule_metrics.of(&rules),
            rules,
            audit_all: settings.audit_all,
            sign_in,
            upstream,
            trusted_proxies: settings.trusted_proxies,
            proxy_protocol_from: settings.proxy_protocol_from,
            limits: settings.limits,
            timeouts: settings.timeouts,
        };
        Ok(Next { snapshot, built, terms })
    }

    /// From now on this is what the next reload goes on with.
    fn keep(&self, built: Built) {
        *lock(&self.upstream) = Some(built.upstream);
        *lock(&self.bearers) = built.bearers;
        if let Some((provider, store)) = built.sign_in {
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
        built: &mut Option<(KeptProvider, KeptStore)>,
        changed: &mut Option<(Arc<dyn Sessions>, StoreTerms)>,
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
        let bearers = settings.bearer.as_ref().map(|settings| self.bearers(settings)).transpose()?;
        let terms = StoreTerms {
            idle: settings.lifetime.idle,
            secrets: secrets.iter().map(|secret| Zeroizing::new(secret.to_vec())).collect(),
            cookie_beside: cookies.beside_session(),
        };
        let store = self.store(&settings.store, terms, changed)?;
        let renewing = Renewing {
            renewals: Arc::clone(&self.renewals),
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
            bearers,
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
        *built = Some((kept_provider, (opened.unwrap_or(settings.store), store)));
        Ok(sign_in)
    }

    /// With other settings there are other ones, which remember no token.
    fn bearers(&self, settings: &BearerSettings) -> anyhow::Result<Arc<Bearers>> {
        match lock(&self.bearers).as_ref().filter(|kept| kept.is_of(settings)) {
            Some(kept) => Ok(Arc::clone(kept)),
            None => Ok(Arc::new(Bearers::new(settings)?)),
        }
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
        changed: &mut Option<(Arc<dyn Sessions>, StoreTerms)>,
    ) -> anyhow::Result<Arc<dyn Sessions>> {
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
