//! Background tasks: sweeps, and reads of what the provider publishes; they pass the current time to the floors below.

use std::sync::Arc;
use std::time::Duration;

use crate::serve::app::App;
use crate::serve::clock;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often waiting sign-ins may trigger reads of an unavailable provider.
const WANTED_AT_MOST: Duration = Duration::from_secs(1);

/// Closes idle upstream connections, and runs the session store's due work; never returns.
pub(crate) async fn sweep(app: Arc<App>) {
    let mut evicted = 0;
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let snapshot = app.snapshot();
        snapshot.upstream.sweep();
        snapshot.destinations.iter().for_each(|destination| destination.backends.sweep());
        let Some(sign_in) = &snapshot.sign_in else { continue };
        sign_in.store.sweep(clock::now());
        app.metrics.sessions_held.set(i64::try_from(sign_in.store.held()).unwrap_or(i64::MAX));
        let now_evicted = sign_in.store.evicted();
        app.metrics.sessions_evicted.inc_by(now_evicted.saturating_sub(evicted));
        evicted = now_evicted;
    }
}

/// How often to check for due health checks and name look-ups.
const MAINTAIN_EVERY: Duration = Duration::from_millis(250);

/// Runs the checks of named upstreams' backends, and reads our tokens for them; never returns.
pub(crate) async fn maintain_backends(app: Arc<App>) {
    loop {
        let reloaded = app.reloaded.notified();
        let snapshot = app.snapshot();
        if snapshot.destinations.iter().next().is_none() {
            drop(snapshot);
            reloaded.await;
            continue;
        }
        for destination in snapshot.destinations.iter() {
            destination.backends.maintain();
            if let Some(token) = &destination.token {
                token.maintain();
            }
        }
        drop(snapshot);
        tokio::time::sleep(MAINTAIN_EVERY).await;
    }
}

/// Keeps the provider's documents fresh; never returns, and restarts after each reload.
pub(crate) async fn refresh_provider(app: Arc<App>) {
    let mut known_trouble: Option<String> = None;
    loop {
        let reloaded = app.reloaded.notified();
        let snapshot = app.snapshot();
        let Some(sign_in) = &snapshot.sign_in else {
            reloaded.await;
            continue;
        };
        let pause = sign_in.provider.refresh(clock::now()).await;
        let trouble = sign_in.provider.trouble();
        if trouble != known_trouble {
            match &trouble {
                Some(why) => tracing::error!("the identity provider is not usable yet: {why}"),
                None => tracing::info!("the identity provider is reachable again"),
            }
            known_trouble = trouble;
        }
        app.provider_tried.notify_one();
        // A waiting sign-in may trigger a retry, but strangers cannot cause more requests than this.
        let (provider, rest) = (&sign_in.provider, pause.saturating_sub(WANTED_AT_MOST));
        let due = async {
            tokio::time::sleep(pause.min(WANTED_AT_MOST)).await;
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = provider.wanted() => {}
            }
        };
        tokio::select! {
            () = due => {}
            () = reloaded => {}
        }
    }
}

/// How often the issuers of bearer tokens may be asked.
const KEYS_AT_MOST: Duration = Duration::from_secs(1);

/// Keeps the keys of the issuers of bearer tokens fresh; never returns, and restarts after each reload.
pub(crate) async fn refresh_keys(app: Arc<App>) {
    let mut known_troubles: Vec<String> = Vec::new();
    loop {
        let reloaded = app.reloaded.notified();
        let snapshot = app.snapshot();
        let Some(bearers) = snapshot.sign_in.as_ref().and_then(|sign_in| sign_in.bearers.as_ref()) else {
            reloaded.await;
            continue;
        };
        let pause = bearers.refresh(clock::now()).await.max(KEYS_AT_MOST);
        let troubles = bearers.troubles();
        for why in troubles.iter().filter(|why| !known_troubles.contains(why)) {
            tracing::error!("the keys of an issuer of bearer tokens cannot be read: {why}");
        }
        if troubles.is_empty() && !known_troubles.is_empty() {
            tracing::info!("the keys of all issuers of bearer tokens can be read again");
        }
        known_troubles = troubles;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = reloaded => {}
        }
    }
}
