//! Back-channel logout: creates logout tokens, and sends them to clients.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Host, Url, form_urlencoded};

use crate::claims;
use crate::id_token;
use crate::provider::Provider;

/// How long a client may take to respond.
const PATIENCE: Duration = Duration::from_secs(10);

/// A logout token for the latest sign-in of `user` at the OpenID Connect provider; `None` if there is no such user.
pub(crate) fn token(provider: &Provider, origin: &str, user: &str) -> Option<String> {
    let account = provider.user(user)?.oidc?;
    let grant = provider.grants().newest(user).cloned();
    id_token::issue_logout(provider, claims::logout(&account, grant.as_ref(), origin)).ok()
}

/// Posts `token` to a client's endpoint, which must be plain HTTP on loopback, and returns the response's status.
pub(crate) async fn send(to: &str, token: &str) -> io::Result<u16> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the address must be http on a loopback host");
    let url = Url::parse(to).ok().filter(is_loopback).ok_or_else(wrong)?;
    let address =
        url.socket_addrs(|| None)?.into_iter().find(|address| address.ip().is_loopback()).ok_or_else(wrong)?;
    let body = form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish();
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        url.path(),
        url.authority(),
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the client's answer is not HTTP"))
}

fn is_loopback(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && loopback
}
