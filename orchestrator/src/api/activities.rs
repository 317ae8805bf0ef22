//! `/api/v1/activities`: who did what; as a list, and whole as a file.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::error::{ApiError, Refusal};
use super::export::{Format, rows};
use super::input::{Parameters, given, page};
use crate::clock;
use crate::fleet::{Kind, Listing};
use crate::store::{Activity, Filter, Outcome};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Choice {
    /// Who did it.
    actor: Option<String>,
    /// What was done: `register`, `rename`, `replace`, `narrow`, `impersonate`, `remove`, `sync`, `reconcile`, `suspend`, `resume` or `settings`.
    action: Option<String>,
    /// The id of a cluster.
    cluster: Option<String>,
    /// A kind, such as `Kustomization`; case does not count.
    kind: Option<String>,
    /// `succeeded` or `failed`.
    outcome: Option<String>,
    /// A text that occurs in any of the names or the message; case does not count.
    q: Option<String>,
    /// Not before this moment (RFC 3339).
    since: Option<String>,
    /// Before this moment (RFC 3339).
    until: Option<String>,
    /// How many at most: 1 to 500; 50 unless given.
    limit: Option<String>,
    /// How many to leave out before them.
    offset: Option<String>,
    /// For an export: `csv` (unless given) or `json`.
    format: Option<String>,
}

impl Choice {
    fn filter(&mut self) -> Result<Filter, ApiError> {
        let outcome = match given(self.outcome.take()).as_deref() {
            None => None,
            Some("succeeded") => Some(Outcome::Succeeded),
            Some("failed") => Some(Outcome::Failed),
            Some(_) => return Err(ApiError::BadRequest("outcome: succeeded or failed".into())),
        };
        // Uses the log's spelling of a kind that we know.
        let kind = given(self.kind.take()).map(|kind| kind.parse::<Kind>().map_or(kind, |kind| kind.name().to_owned()));
        Ok(Filter {
            actor: text(self.actor.take()),
            action: text(self.action.take()),
            cluster: text(self.cluster.take()),
            kind: text(kind),
            outcome,
            text: text(self.q.take()),
            since: moment("since", self.since.take())?,
            until: moment("until", self.until.take())?,
            after: None,
        })
    }
}

// PostgreSQL rejects NUL in text; in SQLite a NUL would match nothing either.
fn text(value: Option<String>) -> Option<String> {
    given(value).map(|value| value.replace('\0', "\u{fffd}"))
}

fn moment(name: &str, value: Option<String>) -> Result<Option<OffsetDateTime>, ApiError> {
    let wrong = || ApiError::BadRequest(format!("{name}: a moment such as 2026-01-31T10:00:00Z"));
    given(value).map(|value| clock::parse(&value).ok_or_else(wrong)).transpose()
}

/// What was done, the newest first.
#[utoipa::path(get, operation_id = "listActivities", path = "/api/v1/activities", tag = "activities", params(Choice), responses(
    (status = 200, body = Listing<Activity>),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn list(
    State(app): State<App>,
    Parameters(mut choice): Parameters<Choice>,
) -> Result<Json<Listing<Activity>>, ApiError> {
    let filter = choice.filter()?;
    let (limit, offset) = page(choice.limit, choice.offset)?;
    let items = app.store.activities(&filter, limit, offset).await?;
    let total = usize::try_from(app.store.count_activities(&filter).await?).unwrap_or(usize::MAX);
    Ok(Json(Listing { items, total }))
}

/// All that fits, as a file.
#[utoipa::path(get, operation_id = "exportActivities", path = "/api/v1/activities/export", tag = "activities", params(Choice), responses(
    (status = 200, content((String = "text/csv"), (Vec<Activity> = "application/json"))),
    (status = "4XX", body = Refusal),
    (status = "5XX", body = Refusal),
))]
async fn export(State(app): State<App>, Parameters(mut choice): Parameters<Choice>) -> Result<Response, ApiError> {
    let filter = choice.filter()?;
    let format = match given(choice.format).as_deref() {
        None | Some("csv") => Format::Csv,
        Some("json") => Format::Json,
        Some(_) => return Err(ApiError::BadRequest("format: csv or json".into())),
    };
    // Checks the database first: once the download has started, an error can only cut it off.
    app.store.ping().await?;
    let file = format!("attachment; filename=\"activity-{}.{}\"", clock::now().date(), format.ending());
    let headers = [(header::CONTENT_TYPE, format.content_type().to_owned()), (header::CONTENT_DISPOSITION, file)];
    Ok((headers, Body::from_stream(rows(app.store, filter, format))).into_response())
}
