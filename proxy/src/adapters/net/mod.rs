//! Shared by client and upstream connections.

mod alarm;
mod pieces;
mod splice;
mod turn;

use std::io;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

pub(crate) use alarm::Alarm;
pub(crate) use pieces::{SMALL, write_pieces};
pub(crate) use splice::{Plain, Socket, Splice, is_stand_in, pipes_most};
pub(crate) use turn::{next_turn, turn};

/// How many unsent bytes the kernel may buffer, so that progress with a slow peer is noticed.
#[cfg(target_os = "linux")]
const UNSENT_MOST: u32 = 128 * 1024;

/// Sets the options of every TCP connection, of an upstream or of a client.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_MOST)?;
    Ok(())
}
