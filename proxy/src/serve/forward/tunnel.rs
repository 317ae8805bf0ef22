//! WebSockets: copies bytes both ways, until either side or the session ends.

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::adapters::telemetry::Clean;
use crate::adapters::upstream::Tunnel;
use crate::serve::body::Body;
use crate::serve::body::activity::{Activity, ActivityStream};
use crate::serve::exchange::Exchange;
use crate::serve::forward::copy;
use crate::serve::forward::lasting::{self, Open};
use crate::serve::request::{connect, headers};
use crate::serve::watch::InFlight;

/// Responds `101`, over HTTP/2 `200`, and copies bytes both ways from then on. `held` keeps an HTTP/2 connection from counting as idle.
pub(crate) fn open(
    client: OnUpgrade,
    upstream: Tunnel,
    mut answered: HeaderMap,
    open: Open,
    exchange: &Exchange,
    held: Option<InFlight>,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    headers::strip_response(&mut answered);
    headers::strip_forbidden(&mut answered, StatusCode::SWITCHING_PROTOCOLS);
    if connect::is_websocket(&exchange.head) {
        connect::strip_answer(&mut answered);
        *response.headers_mut() = answered;
    } else {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = answered;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if let Some(sign_in) = &exchange.snapshot.sign_in {
        sign_in.cookies.strip_response(response.headers_mut());
    }
    let request_id: Box<str> = exchange.origin().request_id.into();
    exchange.app.tunnels.spawn(async move {
        let _held = held;
        let activity = Arc::new(Activity::default());
        let carried = carry(client, upstream, Arc::clone(&activity));
        let ended = tokio::select! {
            ended = carried => ended,
            () = lasting::ended(open, activity) => Some("its session ended, or the rules let it in no more"),
        };
        if let Some(why) = ended {
            tracing::debug!(request_id = %Clean(&request_id), "a WebSocket was closed: {why}");
        }
    });
    response
}

async fn carry(client: OnUpgrade, mut upstream: Tunnel, activity: Arc<Activity>) -> Option<&'static str> {
    let Ok(client) = client.await else { return Some("the client did not switch") };
    let mut client = ActivityStream::new(TokioIo::new(client), activity);
    copy::both_ways(&mut client, &mut upstream).await.err().map(|_| "a side broke off")
}
