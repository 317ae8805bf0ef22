//! Starts, reloads and drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::certs::Certificates;
use crate::adapters::machine;
use crate::adapters::providers::bearer::BearerSettings;
use crate::adapters::telemetry::{Clean, LogSettings, Metrics, audit};
use crate::domain::policy::AllowedUsers;
use crate::run::admin::{self, Admin, Phase};
use crate::run::background;
use crate::run::kept::Kept;
use crate::run::listen::{Bound, Place, SocketFile, bind, listen};
use crate::serve::answer::rejection::CODES;
use crate::serve::app::App;
use crate::serve::clock;
use crate::serve::ext_authz::Checks;
use crate::serve::listener::accept::{Acceptor, places};
use crate::serve::listener::connection::Purpose;
use crate::serve::listener::crowd::Crowd;
use crate::serve::listener::drain::Drain;
use crate::serve::listener::redirect;
use crate::serve::listener::socket::Listener;
use crate::serve::listener::workers::Workers;
use crate::serve::settings::{Limits, Listen, Mode, Settings, Shutdown};
use crate::serve::watch::memory::Memory;

/// How long the start waits for the provider and the store.
const STARTING_MOST: Duration = Duration::from_secs(5);

/// A running proxy.
pub struct Running {
    app: Arc<App>,
    kept: Kept,
    admin: Arc<Admin>,
    certificates: Option<Arc<Certificates>>,
    addresses: Addresses,
    fixed: Fixed,
    /// The Unix socket that we must remove.
    file: Option<SocketFile>,
    stop_accepting: CancellationToken,
    drain: Drain,
    connections: TaskTracker,
    tasks: Vec<JoinHandle<()>>,
}

/// Settings that a reload does not change.
struct Fixed {
    listen: Listen,
    shutdown: Shutdown,
    connections: usize,
    memory: Option<usize>,
    log: LogSettings,
}

impl Fixed {
    fn of(settings: &Settings) -> Self {
        Self {
            listen: settings.listen.clone(),
            shutdown: settings.shutdown,
            connections: settings.limits.connections,
            memory: settings.limits.memory,
            log: settings.log.clone(),
        }
    }

    fn differs_beside_addresses(&self, other: &Self) -> bool {
        let of = |fixed: &Self| (fixed.shutdown, fixed.connections, fixed.memory);
        of(self) != of(other) || self.log != other.log
    }
}

/// The addresses that it listens on.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For requests.
    pub listen: Place,
    /// For probes and metrics.
    pub admin: SocketAddr,
    /// For redirects to https, if enabled.
    pub redirect: Option<SocketAddr>,
    /// For Envoy's requests by gRPC, if enabled.
    pub ext_authz: Option<SocketAddr>,
}

/// How many gRPC connections are accepted at a time: two from each thread of about a hundred Envoys.
const CHECKS_MOST: usize = 1024;
/// Their part of `LIMIT_MEMORY` and of the open files (one in this many), if they have a listener.
const CHECKS_PART: usize = 8;

/// Binds the listeners, and begins to serve.
///
/// # Errors
/// Why it cannot start, and how to fix that.
pub async fn start(settings: Settings) -> anyhow::Result<Running> {
    let metrics = Arc::new(Metrics::new(CODES, CODES));
    let admin_listener = bind("ADMIN_ADDR", settings.admin)?;
    let redirect_listener = settings.redirect.map(|address| bind("HTTP_REDIRECT_ADDR", address)).transpose()?;
    let checks_listener = settings.ext_authz.map(|address| bind("EXT_AUTHZ_ADDR", address)).transpose()?;
    let Bound { listener, place, file } = listen(&settings.listen)?;
    let addresses = Addresses {
        ext_authz: checks_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        listen: place,
        admin: admin_listener.local_addr()?,
        redirect: redirect_listener.as_ref().map(TcpListener::local_addr).transpose()?,
    };
    let certificates = load_certificates(&settings)?;
    let fixed = Fixed::of(&settings);
    log_what_is_served(&settings);
    let mut memory = memory(&settings.limits);
    let mut files = machine::raise_open_files();
    // They have a separate budget, so that neither side can starve the other.
    let checks = checks_listener.map(|listener| {
        let part = memory.map(|bytes| bytes / CHECKS_PART);
        memory = memory.zip(part).map(|(bytes, part)| bytes - part);
        let by_files = files.map_or(CHECKS_MOST, |files| usize::try_from(files).unwrap_or(usize::MAX) / CHECKS_PART);
        let places = by_files.clamp(1, CHECKS_MOST);
        files = files.map(|files| files.saturating_sub(places as u64));
        let crowd = Arc::new(Crowd::new(Arc::new(Memory::new(part)), metrics.connections_shed.clone()));
        (listener, places, crowd)
    });
    let places = places(&settings.limits, files, memory);
    let crowd = Arc::new(Crowd::new(Arc::new(Memory::new(memory)), metrics.connections_shed.clone()));
    let workers = Arc::new(Workers::start()?);
    let (app, kept) = Kept::start(settings, Arc::clone(&metrics))?;
    let app = Arc::new(app);
    if let Some(sign_in) = &app.snapshot().sign_in {
        audit::enabled(sign_in.provider.kind());
    }
    let troubles = {
        let (app, certificates) = (Arc::clone(&app), certificates.clone());
        move || {
            let ends =
                certificates.as_ref().map(|certificates| certificates.troubles(clock::now())).unwrap_or_default();
            app.troubles().into_iter().chain(ends.into_iter().map(|why| format!("certificate: {why}"))).collect()
        }
    };
    let admin = Arc::new(Admin::new(Box::new(troubles), Arc::clone(&metrics)));
    let mut running = Running {
        stop_accepting: CancellationToken::new(),
        drain: Drain::default(),
        connections: TaskTracker::new(),
        tasks: vec![
            tokio::spawn(admin::serve(admin_listener, Arc::clone(&admin), std::future::pending())),
            tokio::spawn(background::sweep(Arc::clone(&app))),
            tokio::spawn(background::refresh_provider(Arc::clone(&app))),
            tokio::spawn(background::refresh_keys(Arc::clone(&app))),
            tokio::spawn(background::maintain_backends(Arc::clone(&app))),
            tokio::spawn(keep_room(Arc::clone(&crowd))),
        ],
        app,
        kept,
        admin,
        certificates,
        addresses: addresses.clone(),
        fixed,
        file,
    };
    if let Some(listener) = redirect_listener {
        let stop = running.stop_accepting.clone();
        running.tasks.push(tokio::spawn(redirect::serve(listener, Arc::clone(&running.app), stop)));
    }
    running.publish_certificate_end();
    if let Some((listener, places, crowd)) = checks {
        running.tasks.push(tokio::spawn(keep_room(Arc::clone(&crowd))));
        let admin = Arc::clone(&running.admin);
        let checks = Checks { is_ready: Box::new(move || admin.phase() == Phase::Ready) };
        let acceptor = running.acceptor(Purpose::Checks(Arc::new(checks)), places, crowd, Arc::clone(&workers));
        running.accept(acceptor, Listener::Tcp(listener));
    }
    let purpose = Purpose::Requests(running.certificates.clone());
    running.accept(running.acceptor(purpose, places, crowd, workers), listener);
    let becoming_ready = become_ready(Arc::clone(&running.app), Arc::clone(&running.admin), addresses);
    running.tasks.push(tokio::spawn(becoming_ready));
    Ok(running)
}

/// Closes connections whenever they use too much memory; never returns.
async fn keep_room(crowd: Arc<Crowd>) {
    crowd.keep_room().await;
}

/// Becomes ready once the provider and the store have each been tried, successfully or not: earlier requests would be refused for lack of a
/// connection that is still being made.
async fn become_ready(app: Arc<App>, admin: Arc<Admin>, addresses: Addresses) {
    let tried = async {
        if let Some(sign_in) = &app.snapshot().sign_in {
            tokio::join!(app.provider_tried.notified(), sign_in.store.tried());
        }
    };
    // Unavailable does not mean unready: after this time `readyz` reports it.
    let _late = tokio::time::timeout(STARTING_MOST, tried).await;
    if admin.become_ready() {
        let redirect = addresses.redirect.map(tracing::field::display);
        let ext_authz = addresses.ext_authz.map(tracing::field::display);
        tracing::info!(listen = %addresses.listen, admin = %addresses.admin, redirect, ext_authz, "sidegate is ready");
    }
}

/// Logs what is served, and to whom: the first question when something does not work.
fn log_what_is_served(settings: &Settings) {
    let upstream = Clean(&settings.upstream.address.origin()).to_string();
    for named in &settings.upstreams {
        let urls: Vec<String> = named.pool.urls.iter().map(|url| url.address.origin()).collect();
        tracing::info!(upstream = named.pool.name, urls = %Clean(&urls.join(",")), "rules may lead to this upstream");
    }
    let Mode::SignIn(sign_in) = &settings.mode else {
        tracing::info!(upstream, "sidegate starts in open mode: everything is forwarded without authentication");
        return;
    };
    let allow = &sign_in.allow;
    tracing::info!(
        upstream,
        public_url = %sign_in.public_origin,
        provider = sign_in.provider.kind().as_str(),
        store = sign_in.store.name(),
        token_issuers = sign_in.bearer.as_ref().map_or(0, BearerSettings::count),
        everyone = allow.admits_everyone(),
        allowed_users = allow.users.as_ref().map_or(0, AllowedUsers::len),
        allowed_groups = allow.groups.as_ref().map_or(0, |groups| groups.iter().count()),
        "sidegate starts",
    );
}

/// Loads the certificates; `None`: TLS does not end here.
fn load_certificates(settings: &Settings) -> anyhow::Result<Option<Arc<Certificates>>> {
    if settings.tls.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Certificates::load(&settings.tls, settings.client_auth.as_ref(), clock::now())?)))
}

/// Builds everything that a start builds without other systems, and drops it: so `sidegate check` accepts nothing that a start refuses.
/// Call it inside a runtime; tasks started here connect only if that runs.
///
/// # Errors
/// What would prevent the start.
pub fn rehearse(settings: Settings) -> anyhow::Result<()> {
    load_certificates(&settings)?;
    Kept::start(settings, Arc::new(Metrics::new(CODES, CODES))).map(drop)
}

impl Running {
    /// The addresses that it listens on.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Applies new settings. Those that need a restart (addresses, whether TLS ends here, the connection limit) stay as they are, with a
    /// warning.
    ///
    /// # Errors
    /// What is wrong with them; the old ones stay active.
    pub fn reload(&self, settings: Settings) -> anyhow::Result<()> {
        let outcome = self.try_reload(settings);
        self.app.metrics.reloaded(outcome.is_ok(), clock::now());
        if let Err(error) = &outcome {
            self.app.note_reload_failure(format!("{error:#}"));
        }
        outcome
    }

    /// All or nothing: everything is built before anything is replaced.
    fn try_reload(&self, settings: Settings) -> anyhow::Result<()> {
        let shown = match (&self.certificates, settings.tls.as_slice()) {
            (Some(certificates), files @ [_, ..]) => {
                Some((certificates, certificates.prepare(files, settings.client_auth.as_ref())?))
            }
            (Some(_), []) | (None, _) => None,
        };
        let stays = self.what_stays(&settings);
        let next = self.kept.next(settings)?;
        self.kept.take(&self.app, next)?;
        if let Some((certificates, next)) = shown {
            certificates.show(next, clock::now());
            self.publish_certificate_end();
        }
        for what in stays {
            tracing::warn!("{what}");
        }
        Ok(())
    }

    /// The changes that a reload does not apply.
    fn what_stays(&self, settings: &Settings) -> Vec<&'static str> {
        let mut stays = Vec::new();
        let moved = |was: SocketAddr, wanted: SocketAddr| wanted.port() != 0 && was != wanted;
        let one_moved = |was: Option<SocketAddr>, wanted: Option<SocketAddr>| match (was, wanted) {
            (Some(was), Some(wanted)) => moved(was, wanted),
            (was, wanted) => was.is_some() != wanted.is_some(),
        };
        let listen_moved = match (self.addresses.listen.address(), &settings.listen) {
            (Some(was), Listen::Address(wanted)) if self.fixed.listen != Listen::Systemd => moved(was, *wanted),
            (_, wanted) => self.fixed.listen != *wanted,
        };
        if listen_moved
            || moved(self.addresses.admin, settings.admin)
            || one_moved(self.addresses.redirect, settings.redirect)
            || one_moved(self.addresses.ext_authz, settings.ext_authz)
        {
            stays.push("LISTEN_ADDR, ADMIN_ADDR, HTTP_REDIRECT_ADDR and EXT_AUTHZ_ADDR take effect at the next start");
        }
        if Fixed::of(settings).differs_beside_addresses(&self.fixed) {
            stays.push(
                "LIMIT_CONNECTIONS, LIMIT_MEMORY, SHUTDOWN_DELAY, SHUTDOWN_TIMEOUT, LOG_LEVEL, LOG_FORMAT and AUDIT_FILE take effect at the next start",
            );
        }
        if self.certificates.is_none() != settings.tls.is_empty() {
            stays.push("TLS is turned on or off at the next start");
        }
        stays
    }

    /// Notes that a new configuration was invalid; the old one stays active.
    pub fn note_bad_configuration(&self, reason: &str) {
        self.app.metrics.reloaded(false, clock::now());
        self.app.note_reload_failure(reason.to_owned());
    }

    /// Shuts down: not ready at once; keeps accepting for `SHUTDOWN_DELAY`; lets requests in flight finish for up to `SHUTDOWN_TIMEOUT`.
    /// Returns whether all ended by themselves.
    pub async fn drain(mut self) -> bool {
        self.admin.enter(Phase::Draining);
        tracing::info!(delay = ?self.fixed.shutdown.delay, timeout = ?self.fixed.shutdown.timeout, "draining: no longer ready");
        tokio::time::sleep(self.fixed.shutdown.delay).await;
        self.stop_accepting.cancel();
        drop(self.file.take());
        self.drain.begin();
        self.connections.close();
        self.app.tunnels.close();
        let ended = async {
            self.connections.wait().await;
            self.app.tunnels.wait().await;
            self.app.renewals.finish().await;
        };
        let clean = tokio::time::timeout(self.fixed.shutdown.timeout, ended).await.is_ok();
        if clean {
            tracing::info!("drained: everything in flight has ended");
        } else {
            let left = self.connections.len() + self.app.tunnels.len() + self.app.renewals.under_way();
            tracing::warn!(left, "SHUTDOWN_TIMEOUT has passed: what is left is cut off");
        }
        for task in &self.tasks {
            task.abort();
        }
        clean
    }

    fn publish_certificate_end(&self) {
        if let Some(certificates) = &self.certificates {
            self.app.metrics.certificate_ends(certificates.not_after());
        }
    }

    fn acceptor(&self, purpose: Purpose, places: usize, crowd: Arc<Crowd>, workers: Arc<Workers>) -> Acceptor {
        Acceptor {
            app: Arc::clone(&self.app),
            purpose,
            connections: self.connections.clone(),
            drain: self.drain.clone(),
            room: Arc::new(Semaphore::new(places)),
            crowd,
            workers,
        }
    }

    fn accept(&self, acceptor: Acceptor, listener: Listener) {
        let stop = self.stop_accepting.clone();
        self.connections.spawn(async move { acceptor.run(listener, &stop).await });
    }
}

/// `LIMIT_MEMORY`, else the spare memory that the system allows; `None`: no limit.
fn memory(limits: &Limits) -> Option<usize> {
    let bytes = match limits.memory {
        Some(0) => None,
        Some(bytes) => Some(bytes),
        None => machine::spare_memory().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    };
    if let Some(bytes) = bytes {
        tracing::info!(bytes, "the connections of clients may take so much memory together (LIMIT_MEMORY)");
    }
    bytes
}
