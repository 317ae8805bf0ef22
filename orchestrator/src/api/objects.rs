//! `/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}`: one Flux object, read live, and the actions on it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::input::{AtObject, BodyIfAny, given, read};
use super::journal::Done;
use super::viewer::ViewedBy;
use crate::fleet::{Action, Filter, ObjectDetail, ObjectRef, ObjectSummary, Page, Sort, Status, Tree, Viewer};

/// How many objects one request reconciles, and how many at a time.
const FAILED_MOST: usize = 200;
const FAILED_AT_ONCE: usize = 8;
/// After this time the request begins with no more of them: the proxy waits 60 s for the answer.
const FAILED_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(reconcile_failed))
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
async fn show(
    State(app): State<App>,
    at: AtObject,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<ObjectDetail>, ApiError> {
    Ok(Json(app.fleet.detail_for(&viewer, at.cluster, at.kind, &at.namespace, &at.name).await?))
}

/// Where an object comes from, and what it applied.
#[utoipa::path(get, operation_id = "objectTree", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/tree", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Tree), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn tree(State(app): State<App>, at: AtObject, ViewedBy(viewer): ViewedBy) -> Result<Json<Tree>, ApiError> {
    let root = ObjectRef { kind: at.kind, namespace: at.namespace, name: at.name };
    let views = app.fleet.views(&viewer, Some(at.cluster)).await;
    Ok(Json(app.fleet.tree_seen(&views, at.cluster, Some(&root))?))
}

/// How to reconcile.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Reconciliation {
    /// Whether the object's source is reconciled first; false unless given.
    #[serde(default)]
    with_source: bool,
    /// Of a HelmRelease: whether it is to be installed or upgraded although nothing has changed.
    #[serde(default)]
    force: bool,
    /// Of a HelmRelease: whether the failures that were counted are to be forgotten.
    #[serde(default)]
    reset: bool,
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
    ViewedBy(viewer): ViewedBy,
    BodyIfAny(how): BodyIfAny<Reconciliation>,
) -> Result<Json<ObjectSummary>, ApiError> {
    let action = match (how.with_source, how.force, how.reset) {
        (with_source, false, false) => Action::Reconcile { with_source },
        (false, true, false) => Action::Force,
        (false, false, true) => Action::Reset,
        (_, _, _) => return Err(ApiError::Invalid("give one of with_source, force and reset".into())),
    };
    act(app, at, actor, viewer, action).await
}

/// Which of the objects that failed.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Failed {
    /// Only those of the cluster with this id.
    cluster: Option<String>,
    /// Only those of this kind; case does not count.
    kind: Option<String>,
    /// Only those of this namespace.
    namespace: Option<String>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
struct Asked {
    /// How many reconciliations were requested.
    asked: usize,
    /// Objects whose reconciliation was not requested, and why.
    refused: Vec<NotAsked>,
    /// How many more have failed, and were not tried: ask again for them.
    left: usize,
}

/// An object whose reconciliation was not requested.
#[derive(Serialize, ToSchema)]
struct NotAsked {
    /// Its cluster's name.
    cluster_name: String,
    /// Itself.
    object: ObjectRef,
    /// Why not.
    message: String,
}

/// Requests the reconciliation of all objects that failed, 200 at most, and as many as can be begun within 30 s.
#[utoipa::path(post, operation_id = "reconcileFailed", path = "/api/v1/resources/reconcile", tag = "objects",
    request_body = Option<Failed>,
    responses((status = 200, body = Asked), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn reconcile_failed(
    State(app): State<App>,
    actor: Actor,
    ViewedBy(viewer): ViewedBy,
    BodyIfAny(which): BodyIfAny<Failed>,
) -> Result<Json<Asked>, ApiError> {
    let filter = Filter {
        cluster: read("cluster", which.cluster)?,
        kind: read("kind", which.kind)?,
        namespace: given(which.namespace),
        status: Some(Status::Failed),
        text: None,
    };
    let deadline = Instant::now() + FAILED_PATIENCE;
    let views = app.fleet.views(&viewer, filter.cluster).await;
    let failed = app.fleet.list_seen(&views, &filter, Page { limit: FAILED_MOST, offset: 0, sort: Sort::Name });
    let beyond = failed.total.saturating_sub(failed.items.len());
    let asked = failed.items.into_iter().map(|object| {
        let (app, actor, viewer) = (app.clone(), actor.clone(), viewer.clone());
        async move {
            let at = AtObject {
                cluster: object.cluster,
                kind: object.kind,
                namespace: object.namespace.clone(),
                name: object.name.clone(),
            };
            let outcome = act(app, at, actor, viewer, Action::Reconcile { with_source: false }).await;
            outcome.err().map(|error| NotAsked {
                cluster_name: object.cluster_name,
                object: ObjectRef { kind: object.kind, namespace: object.namespace, name: object.name },
                message: error.message(),
            })
        }
    });
    let (outcomes, late) = begun_before(deadline, asked).await;
    let all = outcomes.len();
    let refused: Vec<NotAsked> = outcomes.into_iter().flatten().collect();
    Ok(Json(Asked { asked: all - refused.len(), refused, left: beyond + late }))
}

/// The outcomes of what could be begun before `deadline`, some at a time, and how many could not.
async fn begun_before<T>(deadline: Instant, works: impl Iterator<Item = impl Future<Output = T>>) -> (Vec<T>, usize) {
    let works = works.map(move |work| async move { if Instant::now() < deadline { Some(work.await) } else { None } });
    let outcomes: Vec<Option<T>> = stream::iter(works).buffer_unordered(FAILED_AT_ONCE).collect().await;
    let all = outcomes.len();
    let done: Vec<T> = outcomes.into_iter().flatten().collect();
    let late = all - done.len();
    (done, late)
}

/// Has the object's controller leave it alone.
#[utoipa::path(post, operation_id = "suspendObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/suspend", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ObjectSummary), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn suspend(
    State(app): State<App>,
    at: AtObject,
    actor: Actor,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<ObjectSummary>, ApiError> {
    act(app, at, actor, viewer, Action::Suspend).await
}

/// Has the object's controller look after it again.
#[utoipa::path(post, operation_id = "resumeObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/resume", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ObjectSummary), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn resume(
    State(app): State<App>,
    at: AtObject,
    actor: Actor,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<ObjectSummary>, ApiError> {
    act(app, at, actor, viewer, Action::Resume).await
}

pub(super) async fn act(
    app: App,
    at: AtObject,
    actor: Actor,
    viewer: Viewer,
    action: Action,
) -> Result<Json<ObjectSummary>, ApiError> {
    // Without the cluster there is nothing to act on, and no name for the record.
    let cluster = app.store.cluster(&at.cluster.to_string()).await?;
    let (word, message) = match action {
        Action::Reconcile { with_source: true } => ("reconcile", "With its source"),
        Action::Reconcile { with_source: false } => ("reconcile", ""),
        Action::Force => ("reconcile", "Forced"),
        Action::Reset => ("reconcile", "With its failures forgotten"),
        Action::Suspend => ("suspend", ""),
        Action::Resume => ("resume", ""),
    };
    let mut new_activity = actor.new_activity(word);
    (new_activity.cluster, new_activity.cluster_name) = (Some(cluster.id), Some(cluster.name));
    (new_activity.kind, new_activity.namespace) = (Some(at.kind.name().into()), Some(at.namespace.clone()));
    new_activity.name = Some(at.name.clone());
    let fleet = app.fleet.clone();
    let done = app.journal.perform(new_activity, async move {
        let value = fleet.act_for(&viewer, at.cluster, at.kind, &at.namespace, &at.name, action).await?;
        Ok(Done { value, message: message.into() })
    });
    done.await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_begun_in_time_is_counted_and_what_is_begun_ends() {
        let soon = Instant::now() + Duration::from_millis(300);
        let slow = (0..20).map(|number| async move {
            tokio::time::sleep_until(soon).await;
            number
        });
        let (done, late) = begun_before(soon, slow).await;
        assert_eq!((done.len(), late), (FAILED_AT_ONCE, 20 - FAILED_AT_ONCE));
        let (done, late) = begun_before(Instant::now() + FAILED_PATIENCE, (0..20).map(std::future::ready)).await;
        assert_eq!((done.len(), late), (20, 0));
    }
}
