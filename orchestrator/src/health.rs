//! `orchestrator health`: queries the running orchestrator, for container health checks without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(3);
const STATUS_LINE: usize = "HTTP/1.1 200".len();

/// Requests `/healthz` from the orchestrator that listens on `listen`.
///
/// # Errors
/// If nothing responds there within 3 s, or the status is not 200.
pub async fn ask(listen: SocketAddr) -> anyhow::Result<()> {
    let addr = reachable(listen);
    tokio::time::timeout(PATIENCE, status_line(addr))
        .await
        .with_context(|| format!("the orchestrator at {addr} did not answer within {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("the orchestrator does not answer at {addr}: is it running, and with this address?"))
        .and_then(|line| {
            if line.ends_with(b" 200") {
                return Ok(());
            }
            bail!("what listens on {addr} is not a healthy orchestrator: it answered `{}`", line.escape_ascii())
        })
}

async fn status_line(addr: SocketAddr) -> anyhow::Result<[u8; STATUS_LINE]> {
    let mut stream = TcpStream::connect(addr).await?;
    // A host that is always served.
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LINE];
    stream.read_exact(&mut line).await?;
    Ok(line)
}

// The unspecified address can be listened on, but not connected to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_asked_by_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8081", "127.0.0.1:8081"), ("[::]:8081", "[::1]:8081"), ("192.0.2.7:8081", "192.0.2.7:8081")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
