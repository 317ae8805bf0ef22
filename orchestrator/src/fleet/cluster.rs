//! One cluster: its connection, its health, and the tasks that keep them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::kube::{Access, Client, Fault, KubeconfigFault};

use super::model::{Change, ClusterId, Health, HealthState, Kind};
use super::{Inner, Tuning};

/// One cluster that is looked after.
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    name: RwLock<Arc<str>>,
    health: RwLock<Health>,
    again: Notify,
    ending: CancellationToken,
}

impl Cluster {
    /// Begins to look after a cluster.
    pub(super) fn start(
        id: ClusterId,
        name: &str,
        access: Result<Access, KubeconfigFault>,
        fleet: &Inner,
    ) -> Arc<Self> {
        let cluster = Arc::new(Self {
            id,
            name: RwLock::new(name.into()),
            health: RwLock::new(Health::connecting()),
            again: Notify::new(),
            ending: fleet.ending.child_token(),
        });
        match access {
            Ok(access) => {
                let task = look_after(Arc::clone(&cluster), access.client, fleet.tuning, fleet.changes.clone());
                let ending = cluster.ending.clone();
                tokio::spawn(async move { ending.run_until_cancelled(task).await });
            }
            Err(fault) => {
                let down = Health {
                    state: HealthState::Down,
                    reason: Some(fault.to_string()),
                    checked_at: Some(clock::now()),
                    ..Health::connecting()
                };
                *cluster.health.write().unwrap_or_else(PoisonError::into_inner) = down;
            }
        }
        cluster
    }

    /// Ends all that is done for it.
    pub(super) fn stop(&self) {
        self.ending.cancel();
    }

    pub(super) fn health(&self) -> Health {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn rename(&self, name: &str) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = name.into();
    }

    pub(super) fn resync(&self) {
        self.again.notify_one();
    }
}

/// What is looked for in a cluster: a kind, its name and its group.
pub(super) fn wanted() -> [(Kind, &'static str, &'static str); 7] {
    Kind::ALL.map(|kind| (kind, kind.name(), kind.group()))
}

async fn look_after(cluster: Arc<Cluster>, client: Client, tuning: Tuning, changes: broadcast::Sender<Arc<Change>>) {
    loop {
        let asked = Instant::now();
        let answer = tokio::time::timeout(tuning.patience, client.version()).await;
        let answer = answer.unwrap_or_else(|_| Err(Fault::late(tuning.patience.as_secs())));
        note(&cluster, answer, asked.elapsed(), &changes);
        let _ = tokio::time::timeout(tuning.probe, cluster.again.notified()).await;
    }
}

fn note(cluster: &Cluster, answer: Result<String, Fault>, took: Duration, changes: &broadcast::Sender<Arc<Change>>) {
    let latency_ms = u64::try_from(took.as_millis()).ok();
    let mut health = cluster.health.write().unwrap_or_else(PoisonError::into_inner);
    health.checked_at = Some(clock::now());
    match answer {
        Ok(version) => {
            (health.state, health.reason) = (HealthState::Up, None);
            (health.version, health.latency_ms) = (Some(version), latency_ms);
        }
        Err(fault) => {
            (health.state, health.reason, health.latency_ms) = (HealthState::Down, Some(fault.to_string()), None);
        }
    }
    let _ = changes.send(Arc::new(Change::Cluster { cluster: cluster.id, health: health.clone() }));
}
