//! The answers for programs, one file a resource.

mod activities;
mod actor;
mod clusters;
mod error;
mod events;
mod export;
mod guard;
mod input;
mod journal;
mod objects;
mod openapi;
mod probes;
mod resources;
mod settings;
mod streams;
mod viewer;
mod whoami;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::fleet::Fleet;
use crate::identity::Impersonation;
use crate::metrics::Metrics;
use crate::store::Store;
pub(crate) use error::ApiError;
use journal::Journal;
use openapi::{Document, Head};
use streams::Streams;

/// What the handlers work with. A clone is the same one.
#[derive(Clone)]
pub struct App {
    fleet: Fleet,
    store: Store,
    journal: Journal,
    metrics: Arc<Metrics>,
    streams: Streams,
    ending: CancellationToken,
    in_cluster: bool,
    impersonation: Option<Impersonation>,
}

impl App {
    /// `ending` is cancelled when the end begins: event streams then end at once. `in_cluster` lets the cluster that the
    /// program runs in be registered.
    #[must_use]
    pub fn new(fleet: Fleet, store: Store, ending: CancellationToken, in_cluster: bool) -> Self {
        let journal = Journal::new(store.clone());
        Self {
            fleet,
            store,
            journal,
            metrics: Arc::default(),
            streams: Streams::default(),
            ending,
            in_cluster,
            impersonation: None,
        }
    }

    /// The same, with clusters that can be asked as the person who asks.
    #[must_use]
    pub fn with_impersonation(self, impersonation: Option<Impersonation>) -> Self {
        Self { impersonation, ..self }
    }

    /// Whether a cluster is to decide by person.
    fn impersonates(&self, cluster: bool) -> bool {
        cluster || self.impersonation.as_ref().is_some_and(|impersonation| impersonation.everywhere)
    }

    /// Waits until no action is under way any more.
    pub async fn rest(&self) {
        self.journal.rest().await;
    }
}

pub(crate) fn routes(app: App) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Head::openapi())
        .merge(probes::routes())
        .merge(clusters::routes())
        .merge(resources::routes())
        .merge(objects::routes())
        .merge(activities::routes())
        .merge(settings::routes())
        .merge(events::routes())
        .merge(whoami::routes())
        .merge(openapi::routes())
        .split_for_parts();
    let document = Document(document.to_json().unwrap_or_default().into());
    router
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(input::BODY_MOST))
        .layer(Extension(document))
        .layer(middleware::from_fn(guard::check))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = tokio::time::Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    app.metrics.answered(route.unwrap_or_default(), response.status(), begun.elapsed());
    response
}

pub(crate) async fn not_found() -> impl IntoResponse {
    ApiError::NotFound("there is nothing at this address; the start page is /".into())
}
