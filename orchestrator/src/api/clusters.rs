//! `/api/v1/clusters`: register, list, rename, remove, ask how they are, read anew.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::input::{Body, InCluster, Parameters, page};
use super::journal::Done;
use crate::clock;
use crate::fleet::{self, ClusterId, FleetError, Health, HealthState, Listing, Stats};
use crate::secret::Secret;
use crate::store::{self, new_id};

/// How many characters a cluster's name may have.
const NAME_MOST: usize = 63;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(show, rename, remove))
        .routes(routes!(health))
        .routes(routes!(sync))
        .routes(routes!(stats))
}

/// A registered cluster; its kubeconfig is never shown.
#[derive(Serialize, ToSchema)]
struct Cluster {
    /// 32 hexadecimal digits.
    id: String,
    /// What people call it; no two have the same.
    name: String,
    /// How it is reached: `kubeconfig` or `in_cluster`.
    #[schema(value_type = String)]
    connection: &'static str,
    /// The address of its API.
    server: String,
    /// The context of the kubeconfig.
    context: Option<String>,
    /// When it was registered.
    #[serde(serialize_with = "clock::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// Who registered it.
    created_by: String,
    /// How it is.
    health: Health,
    /// How many Flux objects it has.
    stats: Stats,
}

impl Cluster {
    fn of(app: &App, cluster: store::Cluster) -> Self {
        let id = cluster.id.parse().ok();
        let stats = id.and_then(|id| app.fleet.stats(Some(id)).ok()).unwrap_or_default();
        Self {
            health: id.map_or_else(closed, |id| health_of(app, id)),
            stats,
            id: cluster.id,
            name: cluster.name,
            connection: cluster.connection.word(),
            server: cluster.server,
            context: cluster.context,
            created_at: cluster.created_at,
            created_by: cluster.created_by,
        }
    }
}

fn health_of(app: &App, id: ClusterId) -> Health {
    app.fleet.health(id).unwrap_or_else(|_| closed())
}

/// Of a cluster that is registered and not looked after: what it is reached by could not be used at the start.
fn closed() -> Health {
    let reason = "its kubeconfig cannot be opened (add the key that it was sealed under to ENCRYPTION_KEY and restart, or \
                  register it again), or it is the cluster that the orchestrator runs in, and IN_CLUSTER is not true";
    Health { state: HealthState::Down, reason: Some(reason.into()), ..Health::connecting() }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// How many at most: 1 to 500; 50 unless given.
    limit: Option<String>,
    /// How many to leave out before them.
    offset: Option<String>,
}

/// All clusters, by name.
#[utoipa::path(get, operation_id = "listClusters", path = "/api/v1/clusters", tag = "clusters", params(Paging), responses(
    (status = 200, body = Listing<Cluster>),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn list(
    State(app): State<App>,
    Parameters(paging): Parameters<Paging>,
) -> Result<Json<Listing<Cluster>>, ApiError> {
    let (limit, offset) = page(paging.limit, paging.offset)?;
    let all = app.store.clusters().await?;
    let total = all.len();
    let part = all.into_iter().skip(offset as usize).take(limit as usize);
    Ok(Json(Listing { items: part.map(|cluster| Cluster::of(&app, cluster)).collect(), total }))
}

/// A cluster to be registered: with a kubeconfig, or the one that the orchestrator runs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registration {
    /// What to call it: 1 to 63 characters.
    name: String,
    /// What `kubectl config view --raw --minify --flatten` prints; at most 256 KiB.
    #[schema(value_type = Option<String>)]
    kubeconfig: Option<Secret>,
    /// The context to use; without one, the current one.
    context: Option<String>,
    /// Instead of a kubeconfig: the cluster that the orchestrator runs in.
    #[serde(default)]
    in_cluster: bool,
}

/// Registers a cluster: its kubeconfig is checked, reached and kept sealed.
#[utoipa::path(post, operation_id = "registerCluster", path = "/api/v1/clusters", tag = "clusters", request_body = Registration, responses(
    (status = 201, body = Cluster),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn register(
    State(app): State<App>,
    actor: Actor,
    Body(registration): Body<Registration>,
) -> Result<impl IntoResponse, ApiError> {
    let name = name(&registration.name)?;
    let connection = connection(&app, registration)?;
    let id = new_id().map_err(|error| ApiError::Store(error.into()))?;
    let mut deed = actor.deed("register");
    (deed.cluster, deed.cluster_name) = (Some(id.clone()), Some(name.clone()));
    let work = add(app.clone(), id, name, connection, actor.name);
    let cluster = app.journal.doing(deed, work).await?;
    let location = format!("/api/v1/clusters/{}", cluster.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Cluster::of(&app, cluster))))
}

fn connection(app: &App, registration: Registration) -> Result<fleet::Connection, ApiError> {
    match (registration.kubeconfig, registration.in_cluster) {
        (Some(kubeconfig), false) => {
            let context = registration.context.filter(|context| !context.is_empty());
            Ok(fleet::Connection::Kubeconfig { kubeconfig, context })
        }
        (None, true) if !app.in_cluster => Err(ApiError::Invalid(
            "the orchestrator may not use the cluster that it runs in: start it with IN_CLUSTER=true".into(),
        )),
        (None, true) => Ok(fleet::Connection::InCluster),
        (Some(_), true) | (None, false) => {
            Err(ApiError::Invalid("give either a kubeconfig or in_cluster: true".into()))
        }
    }
}

async fn add(
    app: App,
    id: String,
    name: String,
    connection: fleet::Connection,
    created_by: String,
) -> Result<Done<store::Cluster>, ApiError> {
    let reached = app.fleet.check(&connection).await?;
    let (kind, kubeconfig) = match &connection {
        fleet::Connection::Kubeconfig { kubeconfig, .. } => (store::Connection::Kubeconfig, Some(kubeconfig)),
        fleet::Connection::InCluster => (store::Connection::InCluster, None),
    };
    let cluster = store::Cluster {
        id,
        name,
        connection: kind,
        context: reached.context,
        server: reached.server,
        created_at: clock::now(),
        created_by,
    };
    app.store.add_cluster(&cluster, kubeconfig).await?;
    app.fleet.add(super::input::cluster(&cluster.id)?, &cluster.name, &connection).await;
    let message = format!("Kubernetes {}", reached.version);
    Ok(Done { value: cluster, message })
}

/// A name that people can read and tell from others.
fn name(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    // Beside control characters those that turn the reading direction: they make one name look like another.
    let readable = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if (1..=NAME_MOST).contains(&text.chars().count()) && text.chars().all(readable) {
        return Ok(text.to_owned());
    }
    Err(ApiError::Invalid(format!("name: from 1 to {NAME_MOST} characters, without control characters")))
}

/// One cluster.
#[utoipa::path(get, operation_id = "showCluster", path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 200, body = Cluster),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn show(State(app): State<App>, InCluster(id): InCluster) -> Result<Json<Cluster>, ApiError> {
    let cluster = found(&app, id).await?;
    Ok(Json(Cluster::of(&app, cluster)))
}

async fn found(app: &App, id: ClusterId) -> Result<store::Cluster, ApiError> {
    app.store.cluster(&id.to_string()).await.map_err(|error| match error {
        store::StoreError::NotFound => ApiError::NotFound("there is no such cluster".into()),
        other @ (store::StoreError::TimedOut
        | store::StoreError::Database(_)
        | store::StoreError::NameTaken
        | store::StoreError::TooManyClusters
        | store::StoreError::Seal(_)
        | store::StoreError::Strange(_)) => other.into(),
    })
}

/// What is to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Renaming {
    /// What to call it: 1 to 63 characters.
    name: String,
}

/// Gives a cluster another name.
#[utoipa::path(patch, operation_id = "renameCluster", path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)), request_body = Renaming,
    responses(
        (status = 200, body = Cluster),
        (status = "4XX", body = Refusal),
        (status = "5XX", body = Refusal),
    ))]
async fn rename(
    State(app): State<App>,
    InCluster(id): InCluster,
    actor: Actor,
    Body(renaming): Body<Renaming>,
) -> Result<Json<Cluster>, ApiError> {
    let name = name(&renaming.name)?;
    let cluster = found(&app, id).await?;
    let mut deed = actor.deed("rename");
    (deed.cluster, deed.cluster_name) = (Some(cluster.id.clone()), Some(name.clone()));
    let at = app.clone();
    let renamed = app.journal.doing(deed, async move {
        at.store.rename_cluster(&cluster.id, &name).await?;
        gone_is_well(at.fleet.rename(id, &name))?;
        let message = format!("It was {}", cluster.name);
        Ok(Done { value: store::Cluster { name, ..cluster }, message })
    });
    let renamed = renamed.await?;
    Ok(Json(Cluster::of(&app, renamed)))
}

/// Removes a cluster and its kubeconfig from here; in the cluster itself nothing changes.
#[utoipa::path(delete, operation_id = "removeCluster", path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 204),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn remove(State(app): State<App>, InCluster(id): InCluster, actor: Actor) -> Result<StatusCode, ApiError> {
    let cluster = found(&app, id).await?;
    let mut deed = actor.deed("remove");
    (deed.cluster, deed.cluster_name) = (Some(cluster.id.clone()), Some(cluster.name));
    let at = app.clone();
    let removed = app.journal.doing(deed, async move {
        at.store.remove_cluster(&cluster.id).await?;
        gone_is_well(at.fleet.remove(id))?;
        Ok(Done::silently(()))
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A cluster whose kubeconfig could not be opened is not in the fleet.
fn gone_is_well(outcome: Result<(), FleetError>) -> Result<(), FleetError> {
    if let Err(FleetError::NotFound { .. }) = outcome { Ok(()) } else { outcome }
}

/// How a cluster is.
#[utoipa::path(get, operation_id = "clusterHealth", path = "/api/v1/clusters/{id}/health", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 200, body = Health),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn health(State(app): State<App>, InCluster(id): InCluster) -> Result<Json<Health>, ApiError> {
    found(&app, id).await?;
    Ok(Json(health_of(&app, id)))
}

/// Has a cluster be connected to and read anew; what comes of it is told as events.
#[utoipa::path(post, operation_id = "syncCluster", path = "/api/v1/clusters/{id}/sync", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 202, body = Health),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn sync(State(app): State<App>, InCluster(id): InCluster, actor: Actor) -> Result<impl IntoResponse, ApiError> {
    let cluster = found(&app, id).await?;
    let mut deed = actor.deed("sync");
    (deed.cluster, deed.cluster_name) = (Some(cluster.id), Some(cluster.name));
    let at = app.clone();
    let begun = app.journal.doing(deed, async move { Ok(Done::silently(at.fleet.resync(id)?)) });
    begun.await?;
    Ok((StatusCode::ACCEPTED, Json(health_of(&app, id))))
}

/// How many Flux objects a cluster has, by status and kind.
#[utoipa::path(get, operation_id = "clusterStats", path = "/api/v1/clusters/{id}/flux/stats", tag = "resources", params(("id" = String, Path)), responses(
    (status = 200, body = Stats),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn stats(State(app): State<App>, InCluster(id): InCluster) -> Result<Json<Stats>, ApiError> {
    Ok(Json(app.fleet.stats(Some(id))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_readable_and_not_empty() {
        assert_eq!(name(" production-eu ").unwrap(), "production-eu");
        assert!(name(&"ü".repeat(NAME_MOST)).is_ok());
        for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\0", &"a".repeat(NAME_MOST + 1)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
