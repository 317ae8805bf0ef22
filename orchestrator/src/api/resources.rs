//! `/api/v1/resources`, of all clusters or one: the cached Flux objects, filtered and in pages; and the whole tree.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::error::{ApiError, Refusal};
use super::input::{InCluster, Parameters, given, page, read};
use super::viewer::ViewedBy;
use crate::fleet::{ClusterId, Filter, Listing, ObjectSummary, Page, Sort, Tree, Viewer};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(of_cluster)).routes(routes!(tree))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Choice {
    /// The id of a cluster.
    cluster: Option<String>,
    /// A kind, such as `Kustomization`; case does not count.
    kind: Option<String>,
    /// A namespace.
    namespace: Option<String>,
    /// `ready`, `progressing`, `failed`, `suspended`, `terminating` or `unknown`.
    status: Option<String>,
    /// Words that all occur in name, namespace, kind, cluster, revision or message; case does not count.
    q: Option<String>,
    /// `name` (unless given), `status` or `updated`.
    sort: Option<String>,
    /// How many at most: 1 to 500; 50 unless given.
    limit: Option<String>,
    /// How many to leave out before them.
    offset: Option<String>,
}

/// The Flux objects of all clusters.
#[utoipa::path(get, operation_id = "listResources", path = "/api/v1/resources", tag = "resources", params(Choice), responses(
    (status = 200, body = Listing<ObjectSummary>),
    (status = "4XX", body = Refusal),
))]
async fn all(
    State(app): State<App>,
    ViewedBy(viewer): ViewedBy,
    Parameters(choice): Parameters<Choice>,
) -> Result<Json<Listing<ObjectSummary>>, ApiError> {
    chosen(&app, &viewer, choice, None).await
}

/// The Flux objects of one cluster.
#[utoipa::path(get, operation_id = "listClusterResources", path = "/api/v1/clusters/{id}/resources", tag = "resources", params(("id" = String, Path), Choice), responses(
    (status = 200, body = Listing<ObjectSummary>),
    (status = "4XX", body = Refusal),
))]
async fn of_cluster(
    State(app): State<App>,
    InCluster(id): InCluster,
    ViewedBy(viewer): ViewedBy,
    Parameters(choice): Parameters<Choice>,
) -> Result<Json<Listing<ObjectSummary>>, ApiError> {
    app.fleet.health(id)?;
    chosen(&app, &viewer, choice, Some(id)).await
}

async fn chosen(
    app: &App,
    viewer: &Viewer,
    choice: Choice,
    within: Option<ClusterId>,
) -> Result<Json<Listing<ObjectSummary>>, ApiError> {
    let cluster = read("cluster", choice.cluster)?;
    if let (Some(within), Some(cluster)) = (within, cluster)
        && within != cluster
    {
        return Err(ApiError::BadRequest("cluster: the path names another one".into()));
    }
    let filter = Filter {
        cluster: within.or(cluster),
        kind: read("kind", choice.kind)?,
        namespace: given(choice.namespace),
        status: read("status", choice.status)?,
        text: given(choice.q),
    };
    let (limit, offset) = page(choice.limit, choice.offset)?;
    let sort = match given(choice.sort).as_deref() {
        None | Some("name") => Sort::Name,
        Some("status") => Sort::Status,
        Some("updated") => Sort::Updated,
        Some(_) => return Err(ApiError::BadRequest("sort: name, status or updated".into())),
    };
    let views = app.fleet.views(viewer, filter.cluster).await;
    Ok(Json(app.fleet.list_seen(&views, &filter, Page { limit: limit as usize, offset: offset as usize, sort })))
}

/// What comes from what in a cluster, from its sources to what was applied.
#[utoipa::path(get, operation_id = "clusterTree", path = "/api/v1/clusters/{id}/resources/tree", tag = "resources", params(("id" = String, Path)), responses(
    (status = 200, body = Tree),
    (status = "4XX", body = Refusal),
))]
async fn tree(
    State(app): State<App>,
    InCluster(id): InCluster,
    ViewedBy(viewer): ViewedBy,
) -> Result<Json<Tree>, ApiError> {
    let views = app.fleet.views(&viewer, Some(id)).await;
    Ok(Json(app.fleet.tree_seen(&views, id, None)?))
}
