//! Copies bytes both ways between two streams. Holds no buffer while nothing comes, since most WebSockets are silent most of the time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are read at a time.
const PIECE: usize = 16 * 1024;
/// How many pieces a direction copies before other tasks get their turn.
const PIECES: usize = 16;

/// What one side has sent and the other has not taken yet.
#[derive(Default)]
struct Direction {
    /// Read but not yet written, from `taken` on; holds no memory once all is written.
    waiting: Vec<u8>,
    taken: usize,
    unflushed: bool,
    ended: bool,
    closed: bool,
}

/// Copies both ways until both sides have ended; the end of one side is passed on to the other.
///
/// # Errors
///
/// The first error of either side.
pub(crate) async fn both_ways<A, B>(a: &mut A, b: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Direction::default(), Direction::default());
    poll_fn(|context| {
        let one = there.poll_copy(context, a, b)?;
        let other = back.poll_copy(context, b, a)?;
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

impl Direction {
    /// Ready when the reader has ended and the writer was shut down.
    fn poll_copy(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE];
        for _ in 0..PIECES {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write_waiting(context, writer))?;
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                self.closed = true;
                continue;
            }
            let mut read = ReadBuf::new(&mut piece);
            match Pin::new(&mut *reader).poll_read(context, &mut read)? {
                Poll::Ready(()) if read.filled().is_empty() => self.ended = true,
                Poll::Ready(()) => self.poll_write_read(context, writer, read.filled())?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(context))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the waiting bytes, and frees their memory.
    fn poll_write_waiting(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *writer).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.taken += written,
            }
        }
        (self.waiting, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Writes what was just read; what the writer does not take now waits.
    fn poll_write_read(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
        read: &[u8],
    ) -> io::Result<()> {
        self.unflushed = true;
        let written = match Pin::new(writer).poll_write(context, read)? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => written,
            Poll::Pending => 0,
        };
        self.waiting = read.get(written..).unwrap_or_default().to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn all_bytes_pass_both_ways_through_sides_that_take_little_and_ends_pass_on() {
        // Neither side takes a whole piece at a time.
        let ((client, mut a), (mut b, server)) = (duplex(1000), duplex(7));
        let copying = tokio::spawn(async move { both_ways(&mut a, &mut b).await });
        let up: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let down: Vec<u8> = up.iter().rev().copied().collect();
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (mut server_reads, mut server_writes) = tokio::io::split(server);
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let (sent_up, sent_down) = (up.clone(), down.clone());
        let sending_up = async {
            client_writes.write_all(&sent_up).await.unwrap();
            client_writes.shutdown().await.unwrap();
        };
        let sending_down = async {
            server_writes.write_all(&sent_down).await.unwrap();
            server_writes.shutdown().await.unwrap();
        };
        let (.., read_up, read_down) = tokio::join!(
            sending_up,
            sending_down,
            server_reads.read_to_end(&mut got_up),
            client_reads.read_to_end(&mut got_down),
        );
        read_up.unwrap();
        read_down.unwrap();
        assert!(got_up == up && got_down == down);
        copying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_end_of_one_side_leaves_the_other_way_open() {
        let ((mut client, mut a), (mut b, mut server)) = (duplex(64), duplex(64));
        let copying = tokio::spawn(async move { both_ways(&mut a, &mut b).await });
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        client.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
        drop(server);
        copying.await.unwrap().unwrap();
    }
}
