//! WebSockets: bytes both ways, until either side ends or the session does.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::domain::policy::Permit;
use crate::ports::LoadedSession;
use crate::serve::body::Body;
use crate::serve::exchange::Exchange;
use crate::serve::site::House;
use crate::serve::{clock, headers};

/// How often an open tunnel's session is looked at: it is closed well within 5 s of its session's end.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Answers `101`, and copies bytes both ways from then on.
pub(crate) fn open(
    client: OnUpgrade,
    mut upstream: Response<Incoming>,
    permit: Permit<Arc<LoadedSession>>,
    exchange: &Exchange,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(upstream.headers_mut());
    headers::strip_response(response.headers_mut());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(sign_in) = &exchange.site.sign_in {
        sign_in.cookies.strip_response(response.headers_mut());
    }
    let house = Arc::clone(&exchange.house);
    let session = permit.session().cloned();
    exchange.house.tunnels.spawn(async move {
        let ended = tokio::select! {
            ended = carry(client, hyper::upgrade::on(upstream)) => ended,
            () = session_ended(&house, session) => Some("its session ended"),
        };
        if let Some(why) = ended {
            tracing::debug!("a WebSocket was closed: {why}");
        }
    });
    response
}

async fn carry(client: OnUpgrade, upstream: OnUpgrade) -> Option<&'static str> {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return Some("a side did not switch") };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.err().map(|_| "a side broke off")
}

/// Ends when the session has, or when the policy of the moment no longer admits its user; never where there is no session to end.
async fn session_ended(house: &House, session: Option<Arc<LoadedSession>>) {
    let Some(session) = session else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let site = house.site();
        let idle = site.sign_in.as_ref().map_or(Duration::ZERO, |sign_in| sign_in.lifetime.idle);
        let vouched = site.sign_in.as_ref().is_none_or(|sign_in| sign_in.vouches_for(&session));
        if !vouched || !session.is_live(idle, clock::now()) || site.policy.admit(Arc::clone(&session)).is_err() {
            return;
        }
    }
}
