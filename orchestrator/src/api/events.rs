//! `GET /api/v1/events`: what changes, as it changes (Server-Sent Events).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::actor::Actor;
use super::error::{ApiError, Refusal};
use super::streams::Slot;
use super::viewer::ViewedBy;
use crate::fleet::{Change, Fleet, Viewer};
use crate::store::Activity;

const HEARTBEAT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
/// After this time the browser has to reconnect, through the proxy: a user who may no longer pass gets no more events.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(subscribe))
}

/// Changes as they happen: `object` {cluster, removed, summary}, `cluster` {cluster, health}, `cluster_removed` {cluster},
/// `activity`, and `resync` if some were missed: the lists have to be loaded again.
#[utoipa::path(get, operation_id = "subscribe", path = "/api/v1/events", tag = "events", responses(
    (status = 200, content_type = "text/event-stream", body = String),
    (status = "4XX", body = Refusal),
    (status = 503, body = Refusal),
))]
async fn subscribe(
    State(app): State<App>,
    actor: Actor,
    ViewedBy(viewer): ViewedBy,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    let person = actor.known().then_some(actor.name);
    let slot = app.streams.take(person).ok_or(ApiError::TooManyStreams)?;
    let listener = Listener {
        changes: app.fleet.subscribe(),
        fleet: app.fleet.clone(),
        viewer,
        activities: app.journal.subscribe(),
        ending: app.ending.clone(),
        lifetime: Box::pin(tokio::time::sleep(LIFETIME)),
        // A client that reconnects has missed events in between.
        pending: Some(first_event(headers.contains_key("Last-Event-ID"))),
        _slot: slot,
    };
    // Otherwise nginx would buffer the events.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((unbuffered, Sse::new(listen(listener)).keep_alive(KeepAlive::new().interval(HEARTBEAT).text(""))))
}

/// Sent at once, so that the browser knows that the stream is open.
fn first_event(again: bool) -> Event {
    let first_event = Event::default().id("1").retry(RETRY);
    if again { first_event.event("resync").data("{}") } else { first_event.comment("listening") }
}

struct Listener {
    changes: Receiver<Arc<Change>>,
    fleet: Fleet,
    viewer: Viewer,
    activities: Receiver<Arc<Activity>>,
    ending: CancellationToken,
    lifetime: Pin<Box<Sleep>>,
    pending: Option<Event>,
    _slot: Slot,
}

/// An event to send.
enum Received {
    /// Sent as it is.
    Ready(Event),
    /// Sent only to clients that may see the object.
    Changed(Arc<Change>),
}

fn listen(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(listener, |mut listener| async move {
        let event = match listener.pending.take() {
            Some(event) => event,
            None => listener.next().await?,
        };
        Some((Ok(event), listener))
    })
}

impl Listener {
    /// Returns the next event; skips those that the client may not see.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let change = match self.receive().await? {
                Received::Ready(event) => return Some(event),
                Received::Changed(change) => change,
            };
            if let Change::Object { cluster, summary, .. } = change.as_ref()
                && !self.fleet.shows(&self.viewer, *cluster, summary.kind, &summary.namespace).await
            {
                continue;
            }
            return Some(change_event(&change));
        }
    }

    async fn receive(&mut self) -> Option<Received> {
        tokio::select! {
            () = self.ending.cancelled() => None,
            () = self.lifetime.as_mut() => None,
            change = self.changes.recv() => match change {
                Ok(change) => Some(Received::Changed(change)),
                Err(RecvError::Lagged(_)) => Some(Received::Ready(resync(&json!({})))),
                Err(RecvError::Closed) => None,
            },
            activity = self.activities.recv() => match activity {
                Ok(activity) => Some(Received::Ready(event("activity", &*activity))),
                Err(RecvError::Lagged(_)) => Some(Received::Ready(resync(&json!({})))),
                Err(RecvError::Closed) => None,
            },
        }
    }
}

fn change_event(change: &Change) -> Event {
    match change {
        Change::Object { cluster, removed, summary } => {
            event("object", &json!({"cluster": cluster, "removed": removed, "summary": summary}))
        }
        Change::Cluster { cluster, health } => event("cluster", &json!({"cluster": cluster, "health": health})),
        Change::ClusterRemoved { cluster } => event("cluster_removed", &json!({"cluster": cluster})),
        Change::Reloaded { cluster } => resync(&json!({"cluster": cluster})),
    }
}

fn resync(data: &serde_json::Value) -> Event {
    event("resync", data)
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // These events always serialize; if one did not, the browser would have to fetch the lists again.
    let event = Event::default().event(name).json_data(data);
    event.unwrap_or_else(|_| Event::default().event("resync").data("{}"))
}
