//! `/api/v1/settings`: the settings that people change at run time.

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::input::Body;
use super::journal::Done;
use crate::store::Settings;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show, change))
}

/// The settings.
#[utoipa::path(get, operation_id = "showSettings", path = "/api/v1/settings", tag = "settings", responses(
    (status = 200, body = Settings),
    (status = "5XX", body = Refusal),
))]
async fn show(State(app): State<App>) -> Result<Json<Settings>, ApiError> {
    Ok(Json(app.store.settings().await?))
}

/// Changes the settings.
#[utoipa::path(put, operation_id = "changeSettings", path = "/api/v1/settings", tag = "settings", request_body = Settings, responses(
    (status = 200, body = Settings),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn change(
    State(app): State<App>,
    actor: Actor,
    Body(settings): Body<Settings>,
) -> Result<Json<Settings>, ApiError> {
    settings.check().map_err(|reason| ApiError::Invalid(reason.into()))?;
    let store = app.store.clone();
    let changed = app.journal.perform(actor.new_activity("settings"), async move {
        let before = store.settings().await?;
        store.set(settings).await?;
        let (from, to) = (before.activity_retention_days, settings.activity_retention_days);
        Ok(Done { value: settings, message: format!("activity_retention_days from {from} to {to}") })
    });
    changed.await.map(Json)
}
