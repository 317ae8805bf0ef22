//! The load over HTTP/2: several requests at a time on each connection.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::{AbortHandle, JoinSet};

use super::{Shape, State, Target};
use crate::http;
use crate::wire::{Address, Wire};

/// A browser's flow-control windows, in bytes: for one stream, and for a connection.
const WINDOW: u32 = 6 * 1024 * 1024;
const WINDOWS: u32 = 15 * 1024 * 1024;

/// Opens the connections, and has each stream send requests until the load stops.
pub(super) async fn start(
    target: &Target,
    requests: &Arc<[::http::Request<()>]>,
    shape: Shape,
    state: &Rc<State>,
    streams: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    for _ in 0..shape.connections {
        let session = if shape.fresh { None } else { Some(Rc::new(Session::open(&target.address).await?)) };
        for _ in 0..shape.streams {
            let (target, requests, state) = (target.clone(), Arc::clone(requests), Rc::clone(state));
            let session = session.clone();
            streams.spawn_local(async move {
                while let Some(due) = state.due().await {
                    let session = match &session {
                        Some(session) => Rc::clone(session),
                        None => Rc::new(Session::open(&target.address).await?),
                    };
                    exchange(&session.send, target.next(&requests)?.clone(), target.body).await?;
                    state.answered(due);
                }
                Ok(())
            });
        }
    }
    Ok(())
}

/// One connection; dropping it closes it.
pub(crate) struct Session {
    pub(crate) send: SendRequest<Bytes>,
    task: AbortHandle,
}

impl Session {
    pub(crate) async fn open(address: &Address) -> anyhow::Result<Self> {
        Self::over(address.connect().await.context("no connection to a contender")?).await
    }

    pub(crate) async fn over(wire: Wire) -> anyhow::Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOWS).enable_push(false);
        let (send, connection) = builder.handshake(wire).await.context("no HTTP/2 with a contender")?;
        // An error of the connection is also an error of each of its requests.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { send, task })
    }

    /// Returns true if the server has left the connection open.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a request, and reads the whole response, which must be 200 with a body of this length.
pub(crate) async fn exchange(
    send: &SendRequest<Bytes>,
    request: ::http::Request<()>,
    body: usize,
) -> anyhow::Result<()> {
    let mut send = send.clone().ready().await.context("a contender closed a connection under load")?;
    let (answer, _) = send.send_request(request, true)?;
    let answer = answer.await.context("a request was not answered")?;
    let (status, mut stream) = (answer.status(), answer.into_body());
    let (mut length, mut begin) = (0, Vec::new());
    while let Some(piece) = stream.data().await {
        let piece = piece.context("an answer was not complete")?;
        stream.flow_control().release_capacity(piece.len())?;
        length += piece.len();
        if status != ::http::StatusCode::OK {
            begin.extend_from_slice(&piece);
        }
    }
    if status != ::http::StatusCode::OK {
        return Err(http::not_200(status.as_u16(), &begin));
    }
    ensure!(length == body, "an answer had {length} bytes, not {body}");
    Ok(())
}
