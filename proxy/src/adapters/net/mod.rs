//! What connections of both sides use, a client's and an upstream's.

mod alarm;
mod pieces;

use std::io;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

pub(crate) use alarm::Alarm;
pub(crate) use pieces::{SMALL, write_pieces};

/// What the kernel may hold of what is sent, in bytes, so that a far end which takes it slowly is seen to take it.
#[cfg(target_os = "linux")]
const UNSENT_MOST: u32 = 128 * 1024;

/// What every TCP connection is set to, of an upstream or of a client.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_MOST)?;
    Ok(())
}
