//! The provider's state: its client, users, keys, and what it has issued.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use url::Host;

use crate::clock::Clock;
use crate::control::Control;
use crate::grants::{Grant, Grants};
use crate::keys::Keys;
use crate::users::User;

/// The state that every handler shares.
pub(crate) struct Provider {
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) public_url: Option<String>,
    pub(crate) listen: SocketAddr,
    pub(crate) redirect_urls: Mutex<Vec<String>>,
    pub(crate) users: Mutex<Users>,
    pub(crate) grants: Mutex<Grants>,
    pub(crate) keys: Keys,
    pub(crate) clock: Clock,
    pub(crate) control: Control,
}

/// The users in their order, each found at once: benchmarks sign a million in.
pub(crate) struct Users {
    list: Vec<User>,
    places: HashMap<String, usize>,
}

impl Users {
    pub(crate) fn new(list: Vec<User>) -> Self {
        // Of several with one id the first counts.
        let places = list.iter().enumerate().rev().map(|(place, user)| (user.id.clone(), place)).collect();
        Self { list, places }
    }

    pub(crate) fn list(&self) -> &[User] {
        &self.list
    }

    fn find(&self, id: &str) -> Option<&User> {
        self.list.get(*self.places.get(id)?)
    }

    /// Adds a user, or replaces the one with the same id.
    pub(crate) fn put(&mut self, user: User) {
        match self.places.get(&user.id).and_then(|place| self.list.get_mut(*place)) {
            Some(known) => *known = user,
            None => {
                self.places.insert(user.id.clone(), self.list.len());
                self.list.push(user);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if !self.places.contains_key(id) {
            return;
        }
        self.list.retain(|user| user.id != id);
        *self = Self::new(std::mem::take(&mut self.list));
    }
}

impl Provider {
    pub(crate) fn user(&self, id: &str) -> Option<User> {
        locked(&self.users).find(id).cloned()
    }

    pub(crate) fn grants(&self) -> MutexGuard<'_, Grants> {
        locked(&self.grants)
    }

    /// The user and the grant of a valid access token.
    pub(crate) fn bearer(&self, headers: &HeaderMap) -> Option<(User, Grant)> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
            return None;
        }
        let grant = self.grants().access(token.trim(), self.clock.now())?;
        Some((self.user(&grant.user)?, grant))
    }

    /// The origin by which the caller reaches the provider: the configured one, else the request's `Host` if that is a loopback name,
    /// else the address that it listens on.
    pub(crate) fn origin(&self, host: Option<&str>) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        match host {
            Some(host) if is_loopback(host) => format!("http://{host}"),
            Some(_) | None => format!("http://{}", reachable(self.listen)),
        }
    }
}

/// The address at which a server listening on `listen` is reachable from this machine.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn is_loopback(authority: &str) -> bool {
    let Ok(url) = url::Url::parse(&format!("http://{authority}/")) else {
        return false;
    };
    // Anything but a bare authority would put a client's path into our documents.
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || authority.contains('@') {
        return false;
    }
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`Provider::origin`] of a request.
pub(crate) struct Origin(pub(crate) String);

impl FromRequestParts<Arc<Provider>> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, provider: &Arc<Provider>) -> Result<Self, Infallible> {
        Ok(Self(provider.origin(host(&parts.uri, &parts.headers))))
    }
}

fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| uri.authority().map(axum::http::uri::Authority::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_believed() {
        for host in ["localhost:9400", "127.0.0.1:9400", "[::1]:9400", "idp.localhost", "localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1:9400", "a@localhost", "localhost/x", "localhost?x", ""]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:9400".parse().unwrap()).to_string(), "127.0.0.1:9400");
        assert_eq!(reachable("[::]:9400".parse().unwrap()).to_string(), "[::1]:9400");
    }
}
