//! Writes text and data together.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Up to this many bytes are copied together and written with one plain `send`, which costs the kernel less than a `writev`.
pub(crate) const SMALL: usize = 4096;

/// Writes pieces: small ones joined, large ones without a copy.
pub(crate) fn write_pieces<W: AsyncWrite>(
    stream: Pin<&mut W>,
    cx: &mut Context<'_>,
    pieces: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = pieces {
        return stream.poll_write(cx, only);
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
        return stream.poll_write_vectored(cx, pieces);
    }
    TOGETHER.with_borrow_mut(|together| {
        together.clear();
        for piece in pieces {
            together.extend_from_slice(piece);
        }
        stream.poll_write(cx, together)
    })
}

thread_local! {
    /// The buffer for joining small pieces: one for each thread, since it is always emptied before other code runs.
    static TOGETHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}
