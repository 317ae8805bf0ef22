//! Builds a snapshot from settings, at the start and at a reload, and keeps what outlives reloads.

use std::collections::BTreeMap;
use std::path::PathBuf;
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
use crate::adapters::telemetry::{DEFAULT_UPSTREAM, Metrics, RuleMetrics, StoreMetrics, UpstreamMetrics};
use crate::adapters::upstream::{Backends, PoolSettings, TokenFile, Upstream, UpstreamAddress, UpstreamSettings};
use crate::domain::rules::{Openness, Rules, TokenLists};
use crate::ports::{IdentityProvider, Sessions, StoreTerms};
use crate::serve::app::{App, SignIn, Snapshot};
use crate::serve::body::RequestBody;
use crate::serve::destination::{Destination, Destinations};
use crate::serve::identity_fields::IdentityFieldsBuilder;
use crate::serve::log_limit::LogLimit;
use crate::serve::renewal::{Renewals, Renewing};
use crate::serve::request::chosen::ChosenNames;
use crate::serve::request::cookies::Cookies;
use crate::serve::settings::{Mode, Settings, SignInSettings};
use crate::serve::upstream_settings::{DestinationSettings, IdentityChoice, Manner};

/// What outlives reloads: pools, stores, what was fetched from providers, and random secrets used if none are configured, so that a reload
/// interrupts no user.
pub(crate) struct Kept {
    secret: Vec<u8>,
    renewals: Arc<Renewals>,
    upstream_connections: Gauge,
    store_metrics: StoreMetrics,
    rule_metrics: RuleMetrics,
    upstream_metrics: UpstreamMetrics,
    signing: SigningKeys,
    /// The upstream's pool, kept while its settings are unchanged.
    upstream: Mutex<Option<(UpstreamSettings, Arc<Upstream<RequestBody>>)>>,
    /// The backends of the other upstreams, by the upstream's name, kept as far as their settings are unchanged.
    pools: Mutex<Pools>,
    /// Our tokens for upstreams, by their files.
    tokens: Mutex<TokenFiles>,
    /// The provider with what it has fetched, kept while its settings are unchanged.
    provider: Mutex<Option<KeptProvider>>,
    /// The issuers of bearer tokens with their keys, and recently verified tokens, kept likewise.
    bearers: Mutex<Option<Arc<Bearers>>>,
    /// The session store, kept likewise, and also in open mode.
    store: Mutex<Option<KeptStore>>,
}

type Pools = BTreeMap<String, Arc<Backends<RequestBody>>>;

type TokenFiles = BTreeMap<PathBuf, Arc<TokenFile>>;

/// The named upstreams, and that of `UPSTREAM_URL` if its identity fields or assertion are configured.
type NamedAndUsual = (Vec<Arc<Destination>>, Option<Arc<Destination>>);

type KeptStore = (StoreSettings, Arc<dyn Sessions>);

struct KeptProvider {
    settings: ProviderSettings,
    roots: Vec<CertificateDer<'static>>,
    way_out: Option<WayOut>,
    provider: Arc<dyn IdentityProvider>,
}

/// A snapshot that was built but is not active yet.
pub(crate) struct Next {
    snapshot: Snapshot,
    built: Built,
    /// The store that is kept, and its new terms.
    terms: Option<(Arc<dyn Sessions>, StoreTerms)>,
}

/// What the next reload can keep.
struct Built {
    pools: Pools,
    tokens: TokenFiles,
    upstream: (UpstreamSettings, Arc<Upstream<RequestBody>>),
    /// In open mode the earlier ones are kept.
    sign_in: Option<(KeptProvider, KeptStore)>,
    bearers: Option<Arc<Bearers>>,
}

impl Kept {
    /// Builds the state for a start, and what its reloads keep.
    pub(crate) fn start(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<(App, Self)> {
        let renewals = Arc::new(Renewals::new(Arc::clone(&metrics)));
        let kept = Self {
            secret: seal::random_secret()?.to_vec(),
            renewals: Arc::clone(&renewals),
            upstream_connections: metrics.upstream_connections.clone(),
            store_metrics: metrics.store.clone(),
            rule_metrics: metrics.rules.clone(),
            upstream_metrics: metrics.upstreams.clone(),
            signing: SigningKeys::random()?,
            upstream: Mutex::new(None),
            pools: Mutex::default(),
            tokens: Mutex::default(),
            provider: Mutex::new(None),
            bearers: Mutex::new(None),
            store: Mutex::new(None),
        };
        let Next { snapshot, built, .. } = kept.next(settings)?;
        kept.keep(built);
        Ok((App::new(snapshot, metrics, renewals), kept))
    }

    /// Activates what was built.
    ///
    /// # Errors
    /// If the kept store rejects its new terms; then nothing is replaced.
    pub(crate) fn take(&self, app: &App, next: Next) -> anyhow::Result<()> {
        let Next { snapshot, built, terms } = next;
        if let Some((store, terms)) = terms {
            store.reconfigure(&terms).map_err(anyhow::Error::msg)?;
        }
        self.keep(built);
        app.swap(snapshot);
        Ok(())
    }

    /// Builds the complete snapshot of new settings, without activating anything.
    pub(crate) fn next(&self, settings: Settings) -> anyhow::Result<Next> {
        let upstream = self.upstream(&settings.upstream)?;
        let (usual, chosen) = (usual_with_configured_identity(&settings), chosen_names(&settings));
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
        let tokens = self.tokens(&settings.upstreams);
        let ((named, usual), pools) = self.destinations(&settings.upstreams, usual, sign_in.as_ref(), &tokens)?;
        let bearers = sign_in.as_ref().and_then(|sign_in| sign_in.bearers.clone());
        let built =
            Built { pools, tokens, upstream: (settings.upstream, Arc::clone(&upstream)), sign_in: built, bearers };
        let rules = Rules::new(openness, settings.rules).with_token_lists(token_lists);
        let destinations = Destinations::new(named, usual, &rules);
        let snapshot = Snapshot {
            rule_metrics: self.rule_metrics.of(&rules),
            rules,
            audit_all: settings.audit_all,
            sign_in,
            upstream,
            chosen: Arc::new(chosen),
            destinations,
            trusted_proxies: settings.trusted_proxies,
            proxy_protocol_from: settings.proxy_protocol_from,
            limits: settings.limits,
            timeouts: settings.timeouts,
        };
        Ok(Next { snapshot, built, terms })
    }

    /// Stores what the next reload can keep.
    fn keep(&self, built: Built) {
        *lock(&self.upstream) = Some(built.upstream);
        *lock(&self.bearers) = built.bearers;
        *lock(&self.pools) = built.pools;
        *lock(&self.tokens) = built.tokens;
        if let Some((provider, store)) = built.sign_in {
            if !matches!(store.0, StoreSettings::Redis(_)) {
                self.store_metrics.shared(false);
            }
            *lock(&self.provider) = Some(provider);
            let mut kept = lock(&self.store);
            if let Some((_, before)) = kept.as_ref().filter(|(_, before)| !Arc::ptr_eq(before, &store.1)) {
                hand_over(before, &store.1);
            }
            *kept = Some(store);
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
            grants: Arc::new(GrantSealer::new(&secrets)?),
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
        // A kept store keeps the settings that it was opened with.
        let opened = lock(&self.store).as_ref().filter(|(_, old)| Arc::ptr_eq(old, &store)).map(|(old, _)| old.clone());
        *built = Some((kept_provider, (opened.unwrap_or(settings.store), store)));
        Ok(sign_in)
    }

    /// Other settings need other issuers, which have no cached tokens.
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

    /// The kept store with its new terms, applied once everything else is built, or a new store.
    fn store(
        &self,
        settings: &StoreSettings,
        terms: StoreTerms,
        changed: &mut Option<(Arc<dyn Sessions>, StoreTerms)>,
    ) -> anyhow::Result<Arc<dyn Sessions>> {
        if let Some((old, store)) = lock(&self.store).as_ref().filter(|(old, _)| old.can_continue_as(settings)) {
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

    /// The named upstreams, and that of `UPSTREAM_URL` if its identity fields or assertion are configured.
    fn destinations(
        &self,
        named: &[DestinationSettings],
        usual: Option<DestinationSettings>,
        sign_in: Option<&SignIn>,
        tokens: &TokenFiles,
    ) -> anyhow::Result<(NamedAndUsual, Pools)> {
        let mut pools = Pools::new();
        let mut one = |settings: &DestinationSettings, audience: String| -> anyhow::Result<Arc<Destination>> {
            let name = &settings.pool.name;
            let counters = self.upstream_metrics.of(name);
            let before = lock(&self.pools).get(name).cloned();
            let backends = match before.as_ref().filter(|before| before.are_of(&settings.pool)) {
                Some(same) => Arc::clone(same),
                None => {
                    let new = Backends::new(&settings.pool, before.as_deref(), counters.connections.clone());
                    Arc::new(new.map_err(anyhow::Error::msg)?)
                }
            };
            pools.insert(name.clone(), Arc::clone(&backends));
            let identity_fields = sign_in.map(|sign_in| {
                let assertions = sign_in.assertions.for_audience(audience);
                let impersonation = settings.acting.as_ref().map(|acting| acting.impersonation.clone());
                let grants = Arc::clone(&sign_in.renewing.grants);
                IdentityFieldsBuilder::new(
                    settings.identity.clone(),
                    settings.assertion_groups,
                    impersonation,
                    assertions,
                    grants,
                )
            });
            let token_file = settings.acting.as_ref().and_then(|acting| acting.token_file.as_ref());
            Ok(Arc::new(Destination {
                name: name.clone(),
                backends,
                manner: settings.manner.clone(),
                identity_fields,
                impersonates: settings.acting.is_some(),
                rejection_limit: LogLimit::new(),
                token: token_file.and_then(|path| tokens.get(path)).cloned(),
                counters,
            }))
        };
        let named = named.iter().map(|settings| one(settings, settings.pool.name.clone()));
        let named = named.collect::<anyhow::Result<Vec<_>>>()?;
        let origin = |settings: &DestinationSettings| {
            settings.pool.urls.first().map_or_else(String::new, |url| url.address.origin())
        };
        let usual = usual.map(|settings| one(&settings, origin(&settings))).transpose()?;
        Ok(((named, usual), pools))
    }

    /// Our tokens for these upstreams; a file that is read already stays in use.
    fn tokens(&self, named: &[DestinationSettings]) -> TokenFiles {
        let kept = lock(&self.tokens);
        let mut tokens = TokenFiles::new();
        for path in named.iter().filter_map(|settings| settings.acting.as_ref()?.token_file.as_ref()) {
            let open = || kept.get(path).cloned().unwrap_or_else(|| TokenFile::open(path.clone()));
            tokens.entry(path.clone()).or_insert_with(open);
        }
        tokens
    }

    fn upstream(&self, settings: &UpstreamSettings) -> anyhow::Result<Arc<Upstream<RequestBody>>> {
        if let Some((_, upstream)) = lock(&self.upstream).as_ref().filter(|(old, _)| old == settings) {
            return Ok(Arc::clone(upstream));
        }
        let tls = match settings.address {
            UpstreamAddress::Https { .. } => Some(Arc::new(certs::client_config(&settings.roots, &[b"http/1.1"])?)),
            UpstreamAddress::H2 { .. } => Some(Arc::new(certs::client_config(&settings.roots, &[b"h2"])?)),
            UpstreamAddress::Http { .. } | UpstreamAddress::H2c { .. } | UpstreamAddress::Unix(_) => None,
        };
        let upstream = Upstream::new(settings, tls, self.upstream_connections.clone());
        Ok(Arc::new(upstream.map_err(anyhow::Error::msg)?))
    }
}

/// The upstream of `UPSTREAM_URL`, if its identity fields or assertion are configured.
fn usual_with_configured_identity(settings: &Settings) -> Option<DestinationSettings> {
    if settings.identity == IdentityChoice::Usual && settings.assertion_groups {
        return None;
    }
    let pool = PoolSettings { name: DEFAULT_UPSTREAM.to_owned(), urls: vec![settings.upstream.clone()], health: None };
    let manner = Manner {
        strip_prefix: None,
        ignores_case: false,
        keeps_host: true,
        first_byte: settings.timeouts.first_byte,
        body: settings.timeouts.body,
        limit_body: None,
        set: Vec::new(),
        remove: Vec::new(),
    };
    let (identity, assertion_groups) = (settings.identity.clone(), settings.assertion_groups);
    Some(DestinationSettings { pool, manner, identity, assertion_groups, acting: None })
}

/// The names in all tables, and those for impersonation if an upstream acts as users.
fn chosen_names(settings: &Settings) -> ChosenNames {
    let choices = settings.upstreams.iter().map(|named| &named.identity).chain([&settings.identity]);
    let impersonation = settings.upstreams.iter().any(|named| named.acting.is_some());
    let fields = choices.flat_map(|choice| match choice {
        IdentityChoice::Table(table) => table.fields.as_slice(),
        IdentityChoice::Usual | IdentityChoice::Nothing => &[],
    });
    ChosenNames::new(fields.map(|field| &field.name), impersonation)
}

/// Hands over the logouts that the store before has not confirmed: people were told that they go on being tried.
fn hand_over(before: &Arc<dyn Sessions>, store: &Arc<dyn Sessions>) {
    let count = before.hand_over(store);
    if count > 0 {
        tracing::error!(
            count,
            "logouts that the session store before the reload has not confirmed could not be handed over to the new one: they are not tried again, and their sessions are valid in the old one until they expire"
        );
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
