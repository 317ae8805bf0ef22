//! What runs beside requests: sweeps, and what the provider publishes; it passes the time down.

use std::sync::Arc;
use std::time::Duration;

use crate::serve::clock;
use crate::serve::site::House;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Of the store: each sweep looks at every session.
const STORE_SWEEP_TICKS: u64 = 60;

/// Closes idle connections to the upstream, and forgets expired sessions; for ever.
pub(crate) async fn sweep(house: Arc<House>) {
    let mut evicted = 0;
    for tick in 1_u64.. {
        tokio::time::sleep(SWEEP_EVERY).await;
        house.site().upstream.sweep();
        if tick.is_multiple_of(STORE_SWEEP_TICKS) {
            crate::ports::SessionStore::sweep(house.store.as_ref(), clock::now());
        } else {
            house.store.settle();
        }
        let held = crate::ports::SessionStore::held(house.store.as_ref());
        house.metrics.sessions_held.set(i64::try_from(held).unwrap_or(i64::MAX));
        let now_evicted = house.store.evicted();
        house.metrics.sessions_evicted.inc_by(now_evicted.saturating_sub(evicted));
        evicted = now_evicted;
    }
}

/// Keeps what the provider publishes fresh; for ever, and anew after each reload.
pub(crate) async fn refresh_provider(house: Arc<House>) {
    let mut known_trouble: Option<String> = None;
    loop {
        let reloaded = house.reloaded.notified();
        let site = house.site();
        let Some(sign_in) = &site.sign_in else {
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
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = reloaded => {}
        }
    }
}
