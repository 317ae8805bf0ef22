//! The load over HTTP/1.1: one request at a time on each connection.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::{Shape, State, Target};
use crate::http::{self, Frame};
use crate::wire::{Address, Wire};

/// The largest read.
const BUFFER: usize = 256 * 1024;
/// How many bytes a slow client reads at a time, and how long it waits in between.
const SIP: usize = 256;
const BETWEEN_SIPS: Duration = Duration::from_millis(5);
/// The size of its socket's buffer: the kernel doubles it, and has a minimum of about 2 KiB.
const SMALL: u32 = 4096;

/// Opens the connections, and has each send requests until the load stops.
pub(super) async fn start(
    target: &Target,
    requests: &Arc<[Vec<u8>]>,
    shape: Shape,
    state: &Rc<State>,
    connections: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    for _ in 0..shape.connections {
        let (target, requests, state) = (target.clone(), Arc::clone(requests), Rc::clone(state));
        let mut client = if shape.fresh { None } else { Some(Client::open(&target.address, target.body).await?) };
        connections.spawn_local(async move {
            while let Some(due) = state.due().await {
                let mut current = match client.take() {
                    Some(client) => client,
                    None => Client::open(&target.address, target.body).await?,
                };
                current.exchange(target.next(&requests)?, target.body).await?;
                state.answered(due);
                if shape.fresh {
                    current.close().await;
                } else {
                    client = Some(current);
                }
            }
            Ok(())
        });
    }
    Ok(())
}

/// One connection.
pub(crate) struct Client {
    wire: Wire,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn open(address: &Address, body: usize) -> anyhow::Result<Self> {
        let wire = address.connect().await.context("no connection to a contender")?;
        Ok(Self::over(wire, (body + 16 * 1024).min(BUFFER)))
    }

    pub(crate) fn over(wire: Wire, buffer: usize) -> Self {
        Self { wire, read: Vec::with_capacity(buffer) }
    }

    /// Sends a request, and reads the whole response, which must be 200 with a body of this length.
    pub(crate) async fn exchange(&mut self, request: &[u8], body: usize) -> anyhow::Result<()> {
        let mut left = self.ask(request, Some(body)).await?;
        while left > 0 {
            self.read.clear();
            let read = self.wire.read_buf(&mut self.read).await?;
            ensure!(read > 0, "a contender closed a connection within an answer");
            left = left.checked_sub(read).context("there were bytes after an answer's end")?;
        }
        Ok(())
    }

    /// Sends a request and reads the response's head; returns how many bytes of the body are left.
    async fn ask(&mut self, request: &[u8], body: Option<usize>) -> anyhow::Result<usize> {
        self.wire.write_all(request).await?;
        self.wire.flush().await?;
        self.read.clear();
        loop {
            let read = self.wire.read_buf(&mut self.read).await?;
            ensure!(read > 0, "a contender closed a connection under load");
            let Some(frame) = Frame::parse(&self.read)? else { continue };
            if frame.status != 200 {
                let (status, read) = (frame.status, self.read.split_off(frame.head));
                return Err(http::unexpected(status, read, &mut self.wire).await);
            }
            let length = frame.length()?;
            let expected = body.is_none_or(|body| frame.body == Some(body));
            ensure!(expected, "an answer had {} bytes, not {}", length - frame.head, body.unwrap_or_default());
            return length.checked_sub(self.read.len()).context("there were bytes after an answer's end");
        }
    }

    /// Closes the connection like a client that is done. If the server closed first, that is no error.
    async fn close(mut self) {
        let _may_be_closed_already = self.wire.shutdown().await;
    }

    /// Returns true if the server has left the connection open, and sent nothing more.
    pub(crate) async fn is_open(&mut self) -> bool {
        let mut byte = [0];
        tokio::select! {
            biased;
            _ = self.wire.read(&mut byte) => false,
            () = std::future::ready(()) => true,
        }
    }
}

/// Requests a large response again and again, and reads each a few bytes at a time.
pub(super) async fn read_slowly(address: &Address, request: &[u8]) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL)?;
    let wire = address.connect_by(socket).await.context("no connection to a contender for a slow client")?;
    let mut client = Client::over(wire, SIP);
    loop {
        let mut left = client.ask(request, None).await?;
        let mut taken = [0; SIP];
        while left > 0 {
            tokio::time::sleep(BETWEEN_SIPS).await;
            let read = client.wire.read(&mut taken).await?;
            ensure!(read > 0, "a contender closed the connection of a slow client");
            left = left.checked_sub(read).context("there were bytes after an answer's end")?;
        }
    }
}
