//! The backends of a named upstream: which one a request goes to, and which ones are taken out of use.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Body;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::answer::Answer;
use super::busy::Busy;
use super::pool::{Lease, NoConnection, Upstream};
use super::{
    BoxError, Failure, Health, Patience, RequestFraming, RequestHead, Restart, UpstreamAddress, UpstreamSettings,
};
use crate::adapters::certs;

/// How long a backend rests after its first failure, and at most: each further failure doubles it.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MOST: Duration = Duration::from_secs(30);

/// An upstream's backends, and how they are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The upstream's name.
    pub name: String,
    /// Their addresses.
    pub urls: Vec<UpstreamSettings>,
    /// How they are checked; `None`: only failed requests show that a backend is down.
    pub health: Option<Health>,
}

/// The backends of one upstream. `B` is the type of the request bodies sent to it.
pub struct Backends<B> {
    pub(super) settings: PoolSettings,
    pub(super) entries: Vec<Entry>,
    pub(super) all: ArcSwap<Vec<Arc<Backend<B>>>>,
    /// Locked while the set of backends changes.
    pub(super) changing: Mutex<()>,
    turn: AtomicUsize,
    connections: Gauge,
}

/// One of `urls`: one backend, or one for each address of its name.
pub(super) struct Entry {
    pub(super) settings: UpstreamSettings,
    tls: Option<Arc<ClientConfig>>,
    /// When its name is to be looked up; `None`: a look-up is under way, or it has no name.
    pub(super) lookup_due: Mutex<Option<Instant>>,
}

/// Whether a backend takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Availability {
    Healthy = 0,
    /// A request failed there: used only if there is no other.
    Resting = 1,
    /// Its health check failed or got no response.
    Unhealthy = 2,
}

/// One destination of requests.
pub struct Backend<B> {
    pub(super) upstream: Upstream<B>,
    entry: UpstreamSettings,
    /// Its addresses; empty: those that its name resolves to.
    pub(super) addresses: Vec<IpAddr>,
    authority: HeaderValue,
    busy: Arc<AtomicUsize>,
    availability: AtomicU8,
    /// How often it has failed since the last successful request.
    failures: AtomicU32,
    pub(super) check_state: Mutex<CheckState>,
}

/// The state of a backend that is not healthy, and when it is checked next.
pub(super) struct CheckState {
    pub(super) due: Instant,
    pub(super) under_way: bool,
    /// How many checks in a row have failed.
    pub(super) failed_checks: u32,
    pub(super) why: String,
}

impl<B> Backends<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Creates the backends of these settings, without connecting; those that `before` has with the same address and trust keep their
    /// connections. `connections` counts open ones.
    ///
    /// # Errors
    /// If an address cannot be connected to, or TLS cannot be set up.
    pub fn new(settings: &PoolSettings, before: Option<&Self>, connections: Gauge) -> Result<Self, String> {
        let mut entries = Vec::with_capacity(settings.urls.len());
        let mut all = Vec::with_capacity(settings.urls.len());
        for url in &settings.urls {
            let known = before.and_then(|before| before.entries.iter().find(|entry| entry.settings == *url));
            let tls = match known {
                Some(entry) => entry.tls.clone(),
                None => tls(url)?,
            };
            let entry = Entry::new(url.clone(), tls);
            let kept: Vec<_> = before.iter().flat_map(|before| before.of_entry(url)).collect();
            if kept.is_empty() {
                all.push(Arc::new(entry.backend(None, Vec::new(), connections.clone())?));
            } else {
                all.extend(kept);
            }
            entries.push(entry);
        }
        Ok(Self {
            settings: settings.clone(),
            entries,
            all: ArcSwap::from_pointee(all),
            changing: Mutex::new(()),
            turn: AtomicUsize::new(0),
            connections,
        })
    }

    /// Whether the backends have these settings.
    #[must_use]
    pub fn are_of(&self, settings: &PoolSettings) -> bool {
        self.settings == *settings
    }

    fn of_entry(&self, url: &UpstreamSettings) -> Vec<Arc<Backend<B>>> {
        self.all.load().iter().filter(|backend| backend.entry == *url).cloned().collect()
    }

    /// Creates a backend for addresses of an entry's name.
    pub(super) fn backend_of(&self, entry: &Entry, addresses: Vec<IpAddr>) -> Result<Backend<B>, String> {
        // Several addresses of one backend are tried in the order of the name look-up.
        let one = match addresses.as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        entry.backend(one, addresses, self.connections.clone())
    }

    /// Picks the backend for a request: of the healthy ones the one with the fewest requests under way, else a resting one. Never an
    /// unhealthy one, or one that the request was sent to before.
    pub fn pick(&self, tried: &[Arc<Backend<B>>]) -> Option<Arc<Backend<B>>> {
        let all = self.all.load();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(_, &Arc<Backend<B>>)> = None;
        for place in 0..all.len() {
            let Some(backend) = all.get(start.wrapping_add(place) % all.len()) else { continue };
            let availability = backend.availability.load(Ordering::Relaxed);
            if availability == Availability::Unhealthy as u8 || tried.iter().any(|other| Arc::ptr_eq(other, backend)) {
                continue;
            }
            let rank = (availability, backend.busy.load(Ordering::Relaxed));
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, backend));
            }
        }
        best.map(|(_, backend)| Arc::clone(backend))
    }

    /// What is wrong with the backends, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let line = |backend: &Arc<Backend<B>>| {
            let word = match backend.availability() {
                Availability::Healthy => return backend.upstream.trouble(),
                Availability::Resting => "rests",
                Availability::Unhealthy => "is unhealthy",
            };
            Some(format!("{} {word}: {}", backend.origin(), backend.check_state().why))
        };
        self.all.load().iter().filter_map(line).collect()
    }

    /// Closes connections that have been idle for long.
    pub fn sweep(&self) {
        self.all.load().iter().for_each(|backend| backend.upstream.sweep());
    }
}

/// The TLS settings for one address; each address has its own, so that they share no TLS sessions.
fn tls(url: &UpstreamSettings) -> Result<Option<Arc<ClientConfig>>, String> {
    let offered: &[&[u8]] = match (&url.address, url.trust.offers_http2) {
        (UpstreamAddress::H2 { .. }, _) => &[b"h2"],
        (UpstreamAddress::Https { .. }, true) => &[b"h2", b"http/1.1"],
        (UpstreamAddress::Https { .. }, false) => &[b"http/1.1"],
        (UpstreamAddress::Http { .. } | UpstreamAddress::H2c { .. } | UpstreamAddress::Unix(_), _) => return Ok(None),
    };
    let config = certs::client_config_as(url.trust.client.as_ref(), &url.roots, offered);
    Ok(Some(Arc::new(config.map_err(|error| format!("the upstream {}: {error}", url.address.origin()))?)))
}

impl Entry {
    fn new(settings: UpstreamSettings, tls: Option<Arc<ClientConfig>>) -> Self {
        let has_name = settings.address.host_and_port().is_some_and(|(host, _)| host.parse::<IpAddr>().is_err());
        let lookup_due = Mutex::new(has_name.then(Instant::now));
        Self { settings, tls, lookup_due }
    }

    fn backend<B>(&self, at: Option<IpAddr>, addresses: Vec<IpAddr>, connections: Gauge) -> Result<Backend<B>, String>
    where
        B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut settings = self.settings.clone();
        if let (Some(ip), Some((host, _))) = (at, self.settings.address.host_and_port()) {
            // The certificate is for the name, whichever of its addresses is used.
            let _name = settings.trust.server_name.get_or_insert_with(|| host.to_owned());
            settings.address = settings.address.at(ip.to_string());
        }
        let authority = self.settings.address.authority();
        Ok(Backend {
            upstream: Upstream::new(&settings, self.tls.clone(), connections)?,
            entry: self.settings.clone(),
            addresses,
            authority: HeaderValue::from_str(&authority).map_err(|_| format!("`{authority}` is no host"))?,
            busy: Arc::default(),
            availability: AtomicU8::new(Availability::Healthy as u8),
            failures: AtomicU32::new(0),
            check_state: Mutex::new(CheckState {
                due: Instant::now(),
                under_way: false,
                failed_checks: 0,
                why: String::new(),
            }),
        })
    }
}

impl<B> Backend<B>
where
    B: Body<Data = Bytes> + Restart + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The backend's origin, for the log.
    pub fn origin(&self) -> &str {
        self.upstream.origin()
    }

    /// Its own name for `Host`.
    pub const fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Whether it belongs to that entry.
    pub(super) fn is_of(&self, entry: &Entry) -> bool {
        self.entry == entry.settings
    }

    /// Returns a connection for one request, as [`Upstream::checkout`] does; with `only_http1`, one for a request that HTTP/2 cannot carry.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time; the backend then rests.
    pub async fn checkout(&self, now: Instant, repeatable: bool, only_http1: bool) -> Result<Lease<B>, NoConnection> {
        // An HTTP/2-only server would not understand it.
        let only_http2 = matches!(self.entry.address, UpstreamAddress::H2 { .. } | UpstreamAddress::H2c { .. });
        let had = if only_http1 && !only_http2 {
            self.upstream.connect_http1().await
        } else {
            self.upstream.checkout(now, repeatable).await
        };
        had.inspect_err(|why| self.failed(&why.to_string()))
    }

    /// Returns an unused connection.
    ///
    /// # Errors
    /// [`NoConnection`] if none was available in time; the backend then rests.
    pub async fn connect_new(&self) -> Result<Lease<B>, NoConnection> {
        self.upstream.connect_new().await.inspect_err(|why| self.failed(&why.to_string()))
    }

    /// Sends a request on a connection of this backend, which counts as under way until its response has ended.
    ///
    /// # Errors
    /// [`Failure`], by its cause.
    pub async fn send(
        &self,
        lease: Lease<B>,
        head: &impl RequestHead,
        framing: RequestFraming,
        body: B,
        patience: Patience,
    ) -> Result<Response<Answer>, Failure<B>> {
        let (busy, is_reused) = (Busy::with(&self.busy), lease.is_reused());
        match lease.send(head, framing, body, patience).await {
            Ok(answer) => {
                self.succeeded();
                Ok(answer.map(|body| body.counted_by(busy)))
            }
            Err(failure) => {
                // On a warm connection the cause may be only its age; and a slow or aborting client is no failure of a backend.
                if let Failure::Closed(_) | Failure::Broken(_) = failure
                    && !is_reused
                {
                    self.failed(&failure.to_string());
                }
                Err(failure)
            }
        }
    }

    pub(super) fn availability(&self) -> Availability {
        match self.availability.load(Ordering::Relaxed) {
            0 => Availability::Healthy,
            1 => Availability::Resting,
            _ => Availability::Unhealthy,
        }
    }

    pub(super) fn set_availability(&self, availability: Availability) {
        self.availability.store(availability as u8, Ordering::Relaxed);
    }

    pub(super) fn check_state(&self) -> MutexGuard<'_, CheckState> {
        self.check_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failed request: further ones go elsewhere for a while.
    pub(super) fn failed(&self, why: &str) {
        let now = Instant::now();
        let mut check_state = self.check_state();
        why.clone_into(&mut check_state.why);
        // Concurrent failures count once.
        if self.availability() == Availability::Resting && check_state.due > now {
            return;
        }
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        check_state.due = now + REST_FIRST.saturating_mul(1 << before.min(5)).min(REST_MOST);
        let _changed = self.availability.compare_exchange(
            Availability::Healthy as u8,
            Availability::Resting as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        drop(check_state);
    }

    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        let _changed = self.availability.compare_exchange(
            Availability::Resting as u8,
            Availability::Healthy as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}
