//! `/api/v1/clusters`: register, list, rename, remove, check health, read again.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::MutexGuard;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::input::{Body, InCluster, Parameters, is_name, page};
use super::journal::Done;
use super::viewer::ViewedBy;
use crate::clock;
use crate::fleet::{self, ClusterId, FleetError, Health, HealthState, Listing, Stats, Viewer, Views};
use crate::secret::Secret;
use crate::store::{self, new_id};

/// The longest name of a cluster, in characters.
const NAME_MOST: usize = 63;
/// How many namespaces of a cluster may be listed: each is watched for each kind.
const NAMESPACES_MOST: usize = 20;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(show, change, remove))
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
    /// Whether it decides by person: each user sees, and does, what the cluster's own rules allow.
    impersonate: bool,
    /// The only namespaces that are watched; none means all.
    namespaces: Vec<String>,
    /// Why the user may see nothing of it, where that is so.
    hidden: Option<String>,
    /// Another registered cluster with the same address, by its name.
    same_as: Option<String>,
    /// Its health.
    health: Health,
    /// How many Flux objects it has, of those that may be seen.
    stats: Stats,
}

impl Cluster {
    async fn one(app: &App, viewer: &Viewer, cluster: store::Cluster) -> Result<Self, ApiError> {
        let all = app.store.clusters().await?;
        let views = app.fleet.views(viewer, cluster.id.parse().ok()).await;
        Ok(Self::of(app, &views, &by_server(&all), cluster))
    }

    fn of(app: &App, views: &Views, all: &ByServer<'_>, cluster: store::Cluster) -> Self {
        let id = cluster.id.parse().ok();
        let stats = id.and_then(|id| app.fleet.stats_seen(views, Some(id)).ok()).unwrap_or_default();
        let same = all.get(cluster.server.as_str()).into_iter().flatten().find(|other| other.id != cluster.id);
        Self {
            health: id.map_or_else(closed, |id| health_of(app, id)),
            stats,
            impersonate: id.is_some_and(|id| app.fleet.asks_as_person(id)),
            hidden: id.and_then(|id| views.reason(id)).map(str::to_owned),
            same_as: same.map(|other| other.name.clone()),
            id: cluster.id,
            name: cluster.name,
            connection: cluster.connection.word(),
            server: cluster.server,
            context: cluster.context,
            created_at: cluster.created_at,
            created_by: cluster.created_by,
            namespaces: cluster.namespaces,
        }
    }
}

/// Registered clusters by the addresses of their APIs.
type ByServer<'a> = HashMap<&'a str, Vec<&'a store::Cluster>>;

fn by_server(all: &[store::Cluster]) -> ByServer<'_> {
    let mut found = ByServer::with_capacity(all.len());
    for cluster in all {
        found.entry(cluster.server.as_str()).or_default().push(cluster);
    }
    found
}

fn health_of(app: &App, id: ClusterId) -> Health {
    app.fleet.health(id).unwrap_or_else(|_| closed())
}

/// The health of a cluster that is registered but not watched: its connection could not be opened at startup.
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
    ViewedBy(viewer): ViewedBy,
    Parameters(paging): Parameters<Paging>,
) -> Result<Json<Listing<Cluster>>, ApiError> {
    let (limit, offset) = page(paging.limit, paging.offset)?;
    let all = app.store.clusters().await?;
    let total = all.len();
    let views = app.fleet.views(&viewer, None).await;
    let servers = by_server(&all);
    let part = all.iter().skip(offset as usize).take(limit as usize).cloned();
    Ok(Json(Listing { items: part.map(|cluster| Cluster::of(&app, &views, &servers, cluster)).collect(), total }))
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
    /// Whether the cluster is to decide by person; where ORCHESTRATOR_IMPERSONATE is true, all do.
    #[serde(default)]
    impersonate: bool,
    /// The only namespaces to watch, at most 20, where the credentials suffice for no more.
    #[serde(default)]
    namespaces: Vec<String>,
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
    ViewedBy(viewer): ViewedBy,
    Body(registration): Body<Registration>,
) -> Result<impl IntoResponse, ApiError> {
    let name = name(&registration.name)?;
    let choice = Choice { impersonate: registration.impersonate, namespaces: namespaces(&registration.namespaces)? };
    possible(&app, choice.impersonate)?;
    let connection = connection(&app, registration)?;
    let id = new_id().map_err(|error| ApiError::Store(error.into()))?;
    let mut new_activity = actor.new_activity("register");
    (new_activity.cluster, new_activity.cluster_name) = (Some(id.clone()), Some(name.clone()));
    let work = add(app.clone(), id, name, connection, choice, actor.name);
    let cluster = app.journal.perform(new_activity, work).await?;
    let location = format!("/api/v1/clusters/{}", cluster.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Cluster::one(&app, &viewer, cluster).await?)))
}

fn possible(app: &App, impersonate: bool) -> Result<(), ApiError> {
    if impersonate && app.impersonation.is_none() {
        return Err(ApiError::Invalid(
            "impersonate: without ORCHESTRATOR_ASSERTION_JWKS nobody is known for sure, so that no cluster can decide by person"
                .into(),
        ));
    }
    Ok(())
}

fn connection(app: &App, registration: Registration) -> Result<fleet::Connection, ApiError> {
    match (registration.kubeconfig, registration.in_cluster) {
        (Some(kubeconfig), false) => {
            let context = registration.context.filter(|context| !context.is_empty());
            Ok(fleet::Connection::Kubeconfig { kubeconfig, context })
        }
        (None, true) if !app.in_cluster => Err(not_in_cluster()),
        (None, true) => Ok(fleet::Connection::InCluster),
        (Some(_), true) | (None, false) => {
            Err(ApiError::Invalid("give either a kubeconfig or in_cluster: true".into()))
        }
    }
}

fn not_in_cluster() -> ApiError {
    ApiError::Invalid("the orchestrator may not use the cluster that it runs in: start it with IN_CLUSTER=true".into())
}

async fn add(
    app: App,
    id: String,
    name: String,
    connection: fleet::Connection,
    choice: Choice,
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
        impersonate: choice.impersonate,
        namespaces: choice.namespaces,
    };
    let _turn = app.fleet.turn().await;
    let wanted = cluster.impersonate;
    let cluster = keep(&app, &cluster, kubeconfig, &connection).await?;
    let all = app.store.clusters().await.unwrap_or_default();
    let same = all.iter().find(|other| other.server == cluster.server && other.id != cluster.id);
    let same = same.map(|other| format!("; {} has the same address", other.name)).unwrap_or_default();
    let again = if cluster.impersonate == wanted {
        ""
    } else if app.impersonation.is_some() {
        "; it decides by person, as before it was removed"
    } else {
        "; it decides by person, as before it was removed, so that all is refused without ORCHESTRATOR_ASSERTION_JWKS"
    };
    let message = format!("Kubernetes {}{same}{again}", reached.version);
    Ok(Done { value: cluster, message })
}

/// Stores a cluster that has been reached, and watches it. The caller holds the turn.
async fn keep(
    app: &App,
    cluster: &store::Cluster,
    kubeconfig: Option<&Secret>,
    connection: &fleet::Connection,
) -> Result<store::Cluster, ApiError> {
    let cluster = app.store.add_cluster(cluster, kubeconfig).await?;
    let id = super::input::cluster(&cluster.id)?;
    app.fleet.add_with(id, &cluster.name, connection, &watch_options(app, &cluster)).await;
    Ok(cluster)
}

/// How a cluster is to be watched.
struct Choice {
    impersonate: bool,
    namespaces: Vec<String>,
}

fn watch_options(app: &App, cluster: &store::Cluster) -> fleet::WatchOptions {
    fleet::WatchOptions { as_person: app.impersonates(cluster.impersonate), namespaces: cluster.namespaces.clone() }
}

/// Checks the namespaces' names and drops duplicates.
fn namespaces(given: &[String]) -> Result<Vec<String>, ApiError> {
    let mut names: Vec<String> = given.iter().map(|name| name.trim().to_owned()).collect();
    names.sort();
    names.dedup();
    if names.len() > NAMESPACES_MOST || !names.iter().all(|name| is_name(name) && !name.contains('.')) {
        return Err(ApiError::Invalid(format!(
            "namespaces: at most {NAMESPACES_MOST} names that Kubernetes allows, such as shop; none means all"
        )));
    }
    Ok(names)
}

/// Checks a cluster's name: people must be able to read it and to distinguish it from others.
fn name(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    // Rejects control characters and those that change the text direction: they make one name look like another.
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
async fn show(
    State(app): State<App>,
    InCluster(id): InCluster,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<Cluster>, ApiError> {
    let cluster = found(&app, id).await?;
    Cluster::one(&app, &viewer, cluster).await.map(Json)
}

async fn found(app: &App, id: ClusterId) -> Result<store::Cluster, ApiError> {
    app.store.cluster(&id.to_string()).await.map_err(|error| match error {
        store::StoreError::NotFound => ApiError::NotFound("there is no such cluster".into()),
        other @ (store::StoreError::TimedOut
        | store::StoreError::Database(_)
        | store::StoreError::NameTaken
        | store::StoreError::TooManyClusters
        | store::StoreError::InClusterTaken(_)
        | store::StoreError::Seal(_)
        | store::StoreError::UnknownValue(_)) => other.into(),
    })
}

/// What is to change; what is not given stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Changes {
    /// What to call it: 1 to 63 characters.
    name: Option<String>,
    /// Another kubeconfig, to take the place of the one that is kept, as when a token is renewed.
    #[schema(value_type = Option<String>)]
    kubeconfig: Option<Secret>,
    /// The context of that kubeconfig; without one, its current one.
    context: Option<String>,
    /// `true` has the cluster decide by person from now on. That cannot be undone here: a user who could undo
    /// it could act by the orchestrator's own account again.
    impersonate: Option<bool>,
    /// The only namespaces to watch from now on, at most 20; an empty list means all.
    namespaces: Option<Vec<String>>,
}

/// Gives a cluster another name, kubeconfig or choice of namespaces, or has it decide by person.
#[utoipa::path(patch, operation_id = "changeCluster", path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)), request_body = Changes,
    responses(
        (status = 200, body = Cluster),
        (status = "4XX", body = Refusal),
        (status = "5XX", body = Refusal),
    ))]
async fn change(
    State(app): State<App>,
    InCluster(id): InCluster,
    actor: Actor,
    ViewedBy(viewer): ViewedBy,
    Body(changes): Body<Changes>,
) -> Result<Json<Cluster>, ApiError> {
    let name = changes.name.as_deref().map(name).transpose()?;
    let namespaces = changes.namespaces.as_deref().map(namespaces).transpose()?;
    let mut cluster = found(&app, id).await?;
    let impersonate = match changes.impersonate {
        Some(false) if app.impersonates(cluster.impersonate) => {
            return Err(ApiError::Invalid(
                "impersonate: it cannot be taken back; a cluster with a kubeconfig can be removed and registered again with it"
                    .into(),
            ));
        }
        Some(wanted) => wanted,
        None => false,
    };
    possible(&app, impersonate && !cluster.impersonate)?;
    if changes.kubeconfig.is_some() && cluster.connection == store::Connection::InCluster {
        return Err(ApiError::Invalid("kubeconfig: the cluster that the orchestrator runs in has none".into()));
    }
    if changes.context.is_some() && changes.kubeconfig.is_none() {
        return Err(ApiError::Invalid("context: it is chosen together with a kubeconfig".into()));
    }
    let nothing =
        name.is_none() && namespaces.is_none() && changes.kubeconfig.is_none() && changes.impersonate.is_none();
    if nothing {
        return Err(ApiError::Invalid("give a name, a kubeconfig, namespaces, or impersonate".into()));
    }
    let begin = |word: &'static str, cluster: &store::Cluster| {
        let mut new_activity = actor.new_activity(word);
        (new_activity.cluster, new_activity.cluster_name) = (Some(cluster.id.clone()), Some(cluster.name.clone()));
        new_activity
    };
    // Each change is a record of its own in the activity log; the first failure stops.
    if let Some(kubeconfig) = changes.kubeconfig {
        let context = changes.context.filter(|context| !context.is_empty());
        let connection = fleet::Connection::Kubeconfig { kubeconfig, context };
        let work = replace(app.clone(), id, connection);
        cluster = app.journal.perform(begin("replace", &cluster), work).await?;
    }
    let narrows = |namespaces: &Vec<String>| {
        *namespaces != cluster.namespaces || app.fleet.namespaces(id).is_ok_and(|watched| watched != *namespaces)
    };
    if let Some(namespaces) = namespaces.filter(narrows) {
        let work = narrow(app.clone(), id, namespaces);
        cluster = app.journal.perform(begin("narrow", &cluster), work).await?;
    }
    // What is stored may not be in force: an earlier change may have broken off. Where the cluster is not watched, nothing is.
    let in_force = cluster.impersonate && (app.fleet.health(id).is_err() || app.fleet.asks_as_person(id));
    if impersonate && !in_force {
        let work = enable_impersonation(app.clone(), id);
        cluster = app.journal.perform(begin("impersonate", &cluster), work).await?;
    }
    if let Some(name) = name {
        let mut new_activity = begin("rename", &cluster);
        new_activity.cluster_name = Some(name.clone());
        cluster = app.journal.perform(new_activity, rename(app.clone(), id, name)).await?;
    }
    Cluster::one(&app, &viewer, cluster).await.map(Json)
}

/// Waits for the turn to change a cluster, and reads it as it is then: what was read before may have been changed meanwhile.
async fn in_turn(app: &App, id: ClusterId) -> Result<(MutexGuard<'_, ()>, store::Cluster), ApiError> {
    let turn = app.fleet.turn().await;
    let cluster = found(app, id).await?;
    Ok((turn, cluster))
}

/// Replaces a cluster's kubeconfig, after checking that the new one works.
async fn replace(app: App, id: ClusterId, connection: fleet::Connection) -> Result<Done<store::Cluster>, ApiError> {
    let reached = app.fleet.check(&connection).await?;
    let fleet::Connection::Kubeconfig { kubeconfig, .. } = &connection else { return Err(ApiError::Internal) };
    // Not before the check, which takes seconds.
    let (_turn, before) = in_turn(&app, id).await?;
    app.store.replace_kubeconfig(&before.id, kubeconfig, reached.context.as_deref(), &reached.server).await?;
    app.fleet.add_with(id, &before.name, &connection, &watch_options(&app, &before)).await;
    let moved = if reached.server == before.server { String::new() } else { format!("; it was at {}", before.server) };
    let message = format!("Kubernetes {} at {}{moved}", reached.version, reached.server);
    Ok(Done { value: store::Cluster { context: reached.context, server: reached.server, ..before }, message })
}

async fn enable_impersonation(app: App, id: ClusterId) -> Result<Done<store::Cluster>, ApiError> {
    let (_turn, before) = in_turn(&app, id).await?;
    // First: what cannot be watched again must not be stored either.
    let connection = stored_connection(&app, &before).await?;
    app.store.impersonate(&before.id).await?;
    let cluster = store::Cluster { impersonate: true, ..before };
    app.fleet.add_with(id, &cluster.name, &connection, &watch_options(&app, &cluster)).await;
    Ok(Done::silently(cluster))
}

async fn narrow(app: App, id: ClusterId, namespaces: Vec<String>) -> Result<Done<store::Cluster>, ApiError> {
    let (_turn, before) = in_turn(&app, id).await?;
    // First, as above.
    let connection = stored_connection(&app, &before).await?;
    app.store.narrow(&before.id, &namespaces).await?;
    let cluster = store::Cluster { namespaces, ..before };
    app.fleet.add_with(id, &cluster.name, &connection, &watch_options(&app, &cluster)).await;
    let message = if cluster.namespaces.is_empty() { "All".to_owned() } else { cluster.namespaces.join(", ") };
    Ok(Done { value: cluster, message })
}

async fn rename(app: App, id: ClusterId, name: String) -> Result<Done<store::Cluster>, ApiError> {
    let (_turn, before) = in_turn(&app, id).await?;
    app.store.rename_cluster(&before.id, &name).await?;
    ignore_not_found(app.fleet.rename(id, &name))?;
    let message = format!("It was {}", before.name);
    Ok(Done { value: store::Cluster { name, ..before }, message })
}

async fn stored_connection(app: &App, cluster: &store::Cluster) -> Result<fleet::Connection, ApiError> {
    Ok(match cluster.connection {
        store::Connection::Kubeconfig => fleet::Connection::Kubeconfig {
            kubeconfig: app.store.kubeconfig(&cluster.id).await?,
            context: cluster.context.clone(),
        },
        // It may have been registered when that was allowed.
        store::Connection::InCluster if !app.in_cluster => return Err(not_in_cluster()),
        store::Connection::InCluster => fleet::Connection::InCluster,
    })
}

/// Removes a cluster and its kubeconfig from here; in the cluster itself nothing changes.
#[utoipa::path(delete, operation_id = "removeCluster", path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 204),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn remove(State(app): State<App>, InCluster(id): InCluster, actor: Actor) -> Result<StatusCode, ApiError> {
    let cluster = found(&app, id).await;
    if matches!(cluster, Err(ApiError::NotFound(_))) {
        // An earlier removal may have broken off after the database had done its part.
        let _turn = app.fleet.turn().await;
        ignore_not_found(app.fleet.remove(id))?;
    }
    let cluster = cluster?;
    let mut new_activity = actor.new_activity("remove");
    (new_activity.cluster, new_activity.cluster_name) = (Some(cluster.id.clone()), Some(cluster.name));
    let at = app.clone();
    let removed = app.journal.perform(new_activity, async move {
        let _turn = at.fleet.turn().await;
        at.store.remove_cluster(&cluster.id).await?;
        ignore_not_found(at.fleet.remove(id))?;
        Ok(Done::silently(()))
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts "not found": a cluster whose kubeconfig could not be opened is not in the fleet.
fn ignore_not_found(outcome: Result<(), FleetError>) -> Result<(), FleetError> {
    if let Err(FleetError::NotFound { .. }) = outcome { Ok(()) } else { outcome }
}

/// The health of a cluster.
#[utoipa::path(get, operation_id = "clusterHealth", path = "/api/v1/clusters/{id}/health", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 200, body = Health),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn health(State(app): State<App>, InCluster(id): InCluster) -> Result<Json<Health>, ApiError> {
    found(&app, id).await?;
    Ok(Json(health_of(&app, id)))
}

/// Reconnects to a cluster and reads it again; changes are sent as events.
#[utoipa::path(post, operation_id = "syncCluster", path = "/api/v1/clusters/{id}/sync", tag = "clusters", params(("id" = String, Path)), responses(
    (status = 202, body = Health),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn sync(State(app): State<App>, InCluster(id): InCluster, actor: Actor) -> Result<impl IntoResponse, ApiError> {
    let cluster = found(&app, id).await?;
    let mut new_activity = actor.new_activity("sync");
    (new_activity.cluster, new_activity.cluster_name) = (Some(cluster.id), Some(cluster.name));
    let at = app.clone();
    let begun = app.journal.perform(new_activity, async move { Ok(Done::silently(at.fleet.resync(id)?)) });
    begun.await?;
    Ok((StatusCode::ACCEPTED, Json(health_of(&app, id))))
}

/// How many Flux objects a cluster has, by status and kind.
#[utoipa::path(get, operation_id = "clusterStats", path = "/api/v1/clusters/{id}/flux/stats", tag = "resources", params(("id" = String, Path)), responses(
    (status = 200, body = Stats),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn stats(
    State(app): State<App>,
    InCluster(id): InCluster,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<Stats>, ApiError> {
    let views = app.fleet.views(&viewer, Some(id)).await;
    Ok(Json(app.fleet.stats_seen(&views, Some(id))?))
}

#[cfg(test)]
mod tests;
