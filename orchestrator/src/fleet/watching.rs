//! Watches one kind of one cluster for as long as it is served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::kube::{Client, Fault, Served, Watch, WatchEvent};

use super::backoff::Backoff;
use super::cluster::{Cluster, Scope};
use super::held::{Held, Key};
use super::model::Kind;

/// The first delay after a fault.
const RETRY: Duration = Duration::from_millis(200);
/// How long a list waits for its permits. The holders may be slow; after that it runs without them.
const PERMIT_WAIT: Duration = Duration::from_secs(10);

/// After this time without a new fault, a failed watch counts as recovered: longer than its start may take.
const RECOVERED_AFTER: Duration = Duration::from_secs(12);
/// From how many faults in a row on they are reported: a watch that was cut off once resumes by itself.
const REPORTED_FROM: u32 = 2;

/// Watches a kind in a scope; ends when the cluster no longer serves it.
pub(super) async fn watch(cluster: Arc<Cluster>, client: Client, kind: Kind, scope: Scope, served: Served) {
    let mut watch = Watch::new(&client, kind.name(), &served, scope.as_deref());
    let mut backoff = Backoff::new(RETRY);
    let api_version = cluster.interner.intern(&served.api_version());
    let mut fresh: BTreeMap<Key, Held> = BTreeMap::new();
    let mut permits: Vec<OwnedSemaphorePermit> = Vec::new();
    let mut faults = 0;
    loop {
        let event = if faults > 0 && !watch.is_listing() {
            timeout(RECOVERED_AFTER, watch.next()).await.ok()
        } else {
            Some(watch.next().await)
        };
        match event {
            Some(Ok(WatchEvent::Begun)) => {
                fresh.clear();
                permits = acquire_permits(&cluster.list_permits, PERMIT_WAIT).await;
                continue;
            }
            Some(Ok(WatchEvent::Listed(seen))) => {
                let key = cluster.key(kind, seen.namespace(), seen.name());
                fresh.insert(key, Held::new(kind, &seen, &api_version, &cluster.interner));
                continue;
            }
            Some(Ok(WatchEvent::Complete)) => {
                cluster.listed(kind, &scope, std::mem::take(&mut fresh));
                permits.clear();
                // Only what comes after the list shows that the watch could begin.
                continue;
            }
            Some(Ok(WatchEvent::Changed(seen))) => drop(cluster.changed(kind, &seen)),
            Some(Ok(WatchEvent::Removed(seen))) => cluster.removed(kind, &seen),
            None => {}
            // Its definition was removed, or it is served in another version.
            Some(Err(Fault::NotFound(_))) => return,
            Some(Err(fault)) => {
                permits.clear();
                faults += 1;
                report_fault(&cluster, kind, &scope, &fault, faults);
                if matches!(fault, Fault::Gone(_)) && !watch.is_listing() {
                    // By itself it would ask for the same version again.
                    watch.restart();
                }
                sleep(backoff.next()).await;
                continue;
            }
        }
        if faults > 0 {
            faults = 0;
            backoff.reset();
            cluster.kind_recovered(kind, &scope);
        }
    }
}

fn report_fault(cluster: &Cluster, kind: Kind, scope: &Scope, fault: &Fault, faults: u32) {
    tracing::debug!(cluster = %cluster.id, %kind, reason = %fault, "a watch is interrupted");
    let is_reported = match fault {
        Fault::Forbidden(_) | Fault::Refused(_) => true,
        Fault::Unreachable(_) => faults >= REPORTED_FROM,
        // The list is read again, also after a watch was cut off; more often than that something is wrong.
        Fault::Gone(_) => faults > REPORTED_FROM,
        Fault::NotFound(_) | Fault::Conflict(_) => false,
    };
    if is_reported {
        cluster.kind_failed(kind, scope, fault);
    }
}

async fn acquire_permits(semaphores: &[Arc<Semaphore>; 2], wait: Duration) -> Vec<OwnedSemaphorePermit> {
    let deadline = Instant::now() + wait;
    let mut taken = Vec::with_capacity(semaphores.len());
    for semaphore in semaphores {
        if let Ok(Ok(permit)) = timeout_at(deadline, Arc::clone(semaphore).acquire_owned()).await {
            taken.push(permit);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_permits_are_waited_for_together() {
        let (none, one) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
        let (begun, wait) = (Instant::now(), Duration::from_millis(500));
        assert!(acquire_permits(&[Arc::clone(&none), none.clone()], wait).await.is_empty());
        assert!(begun.elapsed() >= wait && begun.elapsed() < wait * 2, "{:?}", begun.elapsed());
        assert_eq!(acquire_permits(&[none, one], Duration::ZERO).await.len(), 1);
    }
}
