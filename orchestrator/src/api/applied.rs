//! `…/flux/{kind}/{namespace}/{name}/applied`: the status of what an object applied, read on request; a container's last log
//! lines; what would change if it were applied again; and `/api/v1/clusters/{id}/flux/controllers`: Flux's own controllers.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::error::{ApiError, Refusal};
use super::input::{AtObject, InCluster, Parameters, given, is_name};
use super::viewer::ViewedBy;
use crate::fleet::{Applied, Comparison, Container, Controller};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(applied))
        .routes(routes!(compare))
        .routes(routes!(log))
        .routes(routes!(controllers))
}

/// How each thing that an object applied is, read from the cluster now: 200 things at most, workloads with their pods.
#[utoipa::path(get, operation_id = "showApplied", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/applied", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Applied), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn applied(State(app): State<App>, at: AtObject, ViewedBy(viewer): ViewedBy) -> Result<Json<Applied>, ApiError> {
    Ok(Json(app.fleet.applied_for(&viewer, at.cluster, at.kind, &at.namespace, &at.name).await?))
}

/// What would change if the manifests that the cluster keeps of an object, or of what it applied, were applied again: by dry runs of the
/// cluster's server, 100 objects at most.
#[utoipa::path(get, operation_id = "compareObject", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/comparison", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Comparison), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn compare(
    State(app): State<App>,
    at: AtObject,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<Comparison>, ApiError> {
    Ok(Json(app.fleet.comparison_for(&viewer, at.cluster, at.kind, &at.namespace, &at.name).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// The kind of the workload, such as `Deployment`: one that the object applied.
    workload_kind: String,
    /// The workload's name.
    workload: String,
    /// The namespace of the workload and its pods.
    within: String,
    /// The pod's name.
    pod: String,
    /// The container's name.
    container: String,
    /// `true` for the container as it was before its last start.
    previous: Option<String>,
}

/// What a container has written.
#[derive(Serialize, ToSchema)]
struct Written {
    /// Its last lines: 200 at most, and 256 KiB.
    text: String,
}

/// The last lines of a container's log, of a pod of a workload that the object applied.
#[utoipa::path(get, operation_id = "showLog", path = "/api/v1/clusters/{id}/flux/{kind}/{namespace}/{name}/applied/log", tag = "objects",
    params(("id" = String, Path), ("kind" = String, Path), ("namespace" = String, Path), ("name" = String, Path), Which),
    responses((status = 200, body = Written), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn log(
    State(app): State<App>,
    at: AtObject,
    ViewedBy(viewer): ViewedBy,
    Parameters(which): Parameters<Which>,
) -> Result<Json<Written>, ApiError> {
    let previous = match given(which.previous).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::BadRequest("previous: true or false".into())),
    };
    for name in [&which.workload, &which.within, &which.pod, &which.container] {
        if !is_name(name) {
            return Err(ApiError::NotFound("that is no name that Kubernetes allows".into()));
        }
    }
    let Which { workload_kind: kind, workload, within: namespace, pod, container, .. } = which;
    let of = Container { kind, namespace, workload, pod, container, previous };
    let text = app.fleet.log_for(&viewer, at.cluster, at.kind, &at.namespace, &at.name, &of).await?;
    Ok(Json(Written { text }))
}

/// Flux's own controllers in a cluster.
#[derive(Serialize, ToSchema)]
struct Controllers {
    /// Them, by name.
    items: Vec<Controller>,
}

/// Flux's own controllers in a cluster: how they are, and which version of each runs, read from the cluster now.
#[utoipa::path(get, operation_id = "listControllers", path = "/api/v1/clusters/{id}/flux/controllers", tag = "clusters",
    params(("id" = String, Path)),
    responses((status = 200, body = Controllers), (status = "4XX", body = Refusal), (status = "5XX", body = Refusal)))]
async fn controllers(
    State(app): State<App>,
    InCluster(id): InCluster,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<Controllers>, ApiError> {
    Ok(Json(Controllers { items: app.fleet.controllers_for(&viewer, id).await? }))
}
