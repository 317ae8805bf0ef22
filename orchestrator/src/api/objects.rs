//! `/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}`: one Flux object, read live, and what can be done to it.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::input::{AtObject, BodyIfAny};
use super::journal::Done;
use crate::fleet::{Action, ObjectDetail, ObjectRef, ObjectSummary, Tree};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(tree))
        .routes(routes!(reconcile))
        .routes(routes!(suspend))
        .routes(routes!(resume))
}

/// One Flux object with its conditions, events, inventory and YAML, read from the cluster now.
#[utoipa::path(get, operation_id = "showObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ObjectDetail), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn show(State(app): State<App>, at: AtObject) -> Result<Json<ObjectDetail>, ApiError> {
    Ok(Json(app.fleet.detail(at.cluster, at.kind, &at.namespace, &at.name).await?))
}

/// Where an object comes from, and what it applied.
#[utoipa::path(get, operation_id = "objectTree", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/tree", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Tree), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn tree(State(app): State<App>, at: AtObject) -> Result<Json<Tree>, ApiError> {
    let root = ObjectRef { kind: at.kind, namespace: at.namespace, name: at.name };
    Ok(Json(app.fleet.tree(at.cluster, Some(&root))?))
}

/// How to reconcile.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Reconciliation {
    /// Whether the object's source is to be looked at first; without it, no.
    #[serde(default)]
    with_source: bool,
}

/// Has the object's controller look at it now.
#[utoipa::path(post, operation_id = "reconcileObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/reconcile", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    request_body = Option<Reconciliation>,
    responses((status = 200, body = ObjectSummary), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn reconcile(
    State(app): State<App>,
    at: AtObject,
    actor: Actor,
    BodyIfAny(Reconciliation { with_source }): BodyIfAny<Reconciliation>,
) -> Result<Json<ObjectSummary>, ApiError> {
    act(app, at, actor, Action::Reconcile { with_source }).await
}

/// Has the object's controller leave it alone.
#[utoipa::path(post, operation_id = "suspendObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/suspend", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ObjectSummary), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn suspend(State(app): State<App>, at: AtObject, actor: Actor) -> Result<Json<ObjectSummary>, ApiError> {
    act(app, at, actor, Action::Suspend).await
}

/// Has the object's controller look after it again.
#[utoipa::path(post, operation_id = "resumeObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/resume", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ObjectSummary), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn resume(State(app): State<App>, at: AtObject, actor: Actor) -> Result<Json<ObjectSummary>, ApiError> {
    act(app, at, actor, Action::Resume).await
}

async fn act(app: App, at: AtObject, actor: Actor, action: Action) -> Result<Json<ObjectSummary>, ApiError> {
    // A cluster that is not there has nothing that could be done to it, and no name to be remembered by.
    let cluster = app.store.cluster(&at.cluster.to_string()).await?;
    let (word, message) = match action {
        Action::Reconcile { with_source: true } => ("reconcile", "With its source"),
        Action::Reconcile { with_source: false } => ("reconcile", ""),
        Action::Suspend => ("suspend", ""),
        Action::Resume => ("resume", ""),
    };
    let mut deed = actor.deed(word);
    (deed.cluster, deed.cluster_name) = (Some(cluster.id), Some(cluster.name));
    (deed.kind, deed.namespace) = (Some(at.kind.name().into()), Some(at.namespace.clone()));
    deed.name = Some(at.name.clone());
    let fleet = app.fleet.clone();
    let done = app.journal.doing(deed, async move {
        let value = fleet.act(at.cluster, at.kind, &at.namespace, &at.name, action).await?;
        Ok(Done { value, message: message.into() })
    });
    done.await.map(Json)
}
