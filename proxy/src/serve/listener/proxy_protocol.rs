//! The PROXY protocol, versions 1 and 2: a load balancer names the client of a connection before its first byte.
//!
//! See <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Reads the header and not one byte more, since TLS or HTTP follows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, including its line end, in bytes.
const LINE_MOST: usize = 107;
/// The most bytes after the fixed part of a version 2 header. Balancers send some dozens.
const REST_MOST: u16 = 4096;

/// Reads the header; returns the client's address. `None`: the balancer's own connection (a health check), or a client without one.
///
/// # Errors
/// `InvalidData` if it is not the PROXY protocol, or an address is invalid.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // Every valid header of either version is longer.
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    if begin == SIGNATURE { read_binary(stream).await } else { read_line(stream, &begin).await }
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 40000 443`.
async fn read_line(stream: &mut (impl AsyncRead + Unpin), begin: &[u8]) -> io::Result<Option<SocketAddr>> {
    if !begin.starts_with(b"PROXY ") {
        return Err(malformed("the connection does not begin with the PROXY protocol"));
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_MOST {
            return Err(malformed("its PROXY line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| malformed("its PROXY line is not text"))?;
    let mut words = text.trim_end_matches("\r\n").split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("its PROXY line does not name two addresses and two ports"));
    };
    let of_family = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain)
    };
    match (of_family(from), of_family(to), port(from_port), port(to_port)) {
        (Some(from), Some(_), Some(from_port), Some(_)) => Ok(Some(SocketAddr::new(from, from_port))),
        (_, _, _, _) => Err(malformed("an address or a port of its PROXY line is none")),
    }
}

/// Version 2: command, address family, length, addresses, and extensions, which are skipped.
async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let (does, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = stream.read_u16().await?;
    if length > REST_MOST {
        return Err(malformed("its PROXY header is too long"));
    }
    let mut rest = vec![0; usize::from(length)];
    stream.read_exact(&mut rest).await?;
    let passes_on = match does {
        0x20 => false,
        0x21 => true,
        _ => return Err(malformed("its PROXY header is of another version, or asks for what is not known")),
    };
    let short = || malformed("its PROXY header is shorter than its addresses");
    let named = match family {
        // TCP over IPv4, over IPv6.
        0x11 => Some(addresses::<4>(&rest).ok_or_else(short)?),
        0x21 => Some(addresses::<16>(&rest).ok_or_else(short)?),
        // Unspecified, datagrams, Unix sockets: no address that a rule could name.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(malformed("its PROXY header is for a family of addresses that is not known")),
    };
    Ok(named.filter(|_| passes_on))
}

/// The first of two addresses of `N` bytes, with the first of the two ports after them.
fn addresses<const N: usize>(rest: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = rest.split_first_chunk::<N>()?;
    let (_to, ports) = rest.split_first_chunk::<N>()?;
    let (from_port, _) = ports.first_chunk::<4>()?.split_first_chunk::<2>()?;
    Some(SocketAddr::new(IpAddr::from(*from), u16::from_be_bytes(*from_port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for these bytes, and the bytes left unread.
    async fn said(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let mut rest = bytes;
        let outcome = read(&mut rest).await;
        (outcome, rest.to_vec())
    }

    fn binary(does: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[does, family], &length, rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 1, 0xbb];

    #[tokio::test]
    async fn the_client_is_the_source_that_is_named() {
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0x9c, 0x40, 1, 0xbb]].concat();
        for (bytes, client) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n".to_vec(), Some("192.0.2.1:40000")),
            (b"PROXY TCP6 2001:db8::1 ::1 40000 443\r\n".to_vec(), Some("[2001:db8::1]:40000")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (binary(0x21, 0x11, &FOUR), Some("192.0.2.1:40000")),
            (binary(0x21, 0x11, &[&FOUR[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.1:40000")),
            (binary(0x21, 0x21, &six), Some("[2001:db8::1]:40000")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &FOUR), None),
            (binary(0x21, 0x00, &[]), None),
        ] {
            let (outcome, rest) = said(&[&bytes[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!(outcome.unwrap(), client.map(|text| text.parse().unwrap()), "{bytes:?}");
            assert_eq!(rest, b"GET / HTTP/1.1\r\n", "nothing of what follows is taken");
        }
    }

    #[tokio::test]
    async fn whatever_else_comes_ends_the_connection() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 40000\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 x\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +4000 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 040 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2  443\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 40000 443\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 192.0.2.2 40000 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 40000 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.256 192.0.2.2 40000 443\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_MOST], b"\r\n".to_vec()].concat(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\n".to_vec(),
            binary(0x11, 0x11, &FOUR),
            binary(0x22, 0x11, &FOUR),
            binary(0x21, 0x13, &FOUR),
            binary(0x21, 0x11, &FOUR[..11]),
            binary(0x21, 0x21, &FOUR),
            binary(0x21, 0x11, &[0; 5000]),
            binary(0x21, 0x11, &FOUR)[..20].to_vec(),
            Vec::new(),
        ] {
            assert!(said(&bytes).await.0.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(begin in proptest::bool::ANY, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let begin = if begin { &SIGNATURE[..] } else { b"PROXY " };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _outcome = runtime.block_on(said(&[begin, &bytes].concat()));
        }
    }
}
