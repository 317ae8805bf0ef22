//! The handle on a running provider: starts it, signs users in without HTTP, and changes the users.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinError};
use url::Url;

use crate::authorize::{self, Stop};
use crate::clock::Clock;
use crate::control::Control;
use crate::dialect::Dialect;
use crate::grants::Grants;
use crate::id_token;
use crate::keys::{Keys, OldKey};
use crate::logout;
use crate::params::Params;
use crate::provider::{Provider, Users, locked};
use crate::users::{self, User};
use crate::{routes, serve};

/// The options. The defaults suit tests: port 0 on loopback, all demo users, no control over HTTP.
#[derive(Clone)]
pub struct Options {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The one client's id: `sidegate-dev`.
    pub client_id: String,
    /// The one client's secret: `sidegate-dev-secret`.
    pub client_secret: String,
    /// The redirect URLs that are allowed, compared exactly.
    pub redirect_urls: Vec<String>,
    /// The origin in documents and tokens; without it, that of the request's `Host` if it is a loopback name, else the address that
    /// it listens on.
    pub public_url: Option<String>,
    /// Whether `POST /_control/…` is served. The [`Control`] handle works either way.
    pub allow_control: bool,
    /// The users who can sign in.
    pub users: Vec<User>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            client_id: "sidegate-dev".to_owned(),
            client_secret: "sidegate-dev-secret".to_owned(),
            redirect_urls: vec!["http://localhost:8080/api/v1/auth/callback".to_owned()],
            public_url: None,
            allow_control: false,
            users: users::demo(),
        }
    }
}

/// Why the provider does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {0}; free it, or choose another address with DEV_IDP_LISTEN_ADDR")]
    Listen(SocketAddr, #[source] io::Error),
    /// A redirect URL, or the public one, is not an absolute http or https URL.
    #[error("\"{0}\" is not an http or https URL, such as http://localhost:8080/api/v1/auth/callback")]
    Url(String),
    /// The system could not create a signing key.
    #[error("cannot make a signing key: the system's cryptography refuses")]
    Key,
}

/// Why a sign-in was not redirected to its client: the text of the error page.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A running provider. Dropping it closes its port and every connection.
pub struct DevIdp {
    provider: Arc<Provider>,
    server: AbortHandle,
    ended: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl DevIdp {
    /// Creates a signing key (one for all providers of a process), listens, and serves on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on, a URL is invalid, or no key can be created.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        for url in &options.redirect_urls {
            absolute(url)?;
        }
        let public_url = match &options.public_url {
            Some(url) => Some(absolute(url)?.origin().ascii_serialization()),
            None => None,
        };
        let refused = |error| StartError::Listen(options.listen, error);
        let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
        let listen = listener.local_addr().map_err(refused)?;
        let keys = tokio::task::spawn_blocking(Keys::generate)
            .await
            .map_err(|_: JoinError| StartError::Key)?
            .map_err(|_| StartError::Key)?;
        let provider = Arc::new(Provider {
            client_id: options.client_id,
            client_secret: options.client_secret,
            public_url,
            listen,
            redirect_urls: Mutex::new(options.redirect_urls),
            users: Mutex::new(Users::new(options.users)),
            grants: Mutex::new(Grants::default()),
            keys,
            clock: Clock::default(),
            control: Control::default(),
        });
        let router = routes::router(Arc::clone(&provider), options.allow_control);
        let task = tokio::spawn(serve::serve(listener, router));
        Ok(Self { provider, server: task.abort_handle(), ended: Mutex::new(Some(task)) })
    }

    /// The public URL, or `http://127.0.0.1:{port}`; without a trailing slash.
    pub fn origin(&self) -> String {
        self.provider.origin(None)
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.provider.listen
    }

    /// Faults, lies, counts and captured requests.
    pub fn control(&self) -> Control {
        self.provider.control.clone()
    }

    /// The users who can sign in.
    pub fn users(&self) -> Vec<User> {
        locked(&self.provider.users).list().to_vec()
    }

    /// Adds a user, or replaces the one with the same `id`; valid tokens then refer to the new one.
    pub fn put_user(&self, user: User) {
        locked(&self.provider.users).put(user);
    }

    /// Removes a user and revokes everything issued to it: refreshing gives `invalid_grant`, APIs answer 401.
    pub fn remove_user(&self, id: &str) {
        locked(&self.provider.users).remove(id);
        self.revoke(id);
    }

    /// Revokes every code and token of a user, who may sign in again.
    pub fn revoke(&self, id: &str) {
        self.provider.grants().revoke_user(id);
    }

    /// A new logout token for the latest sign-in of a user at the OpenID Connect provider. Lies about claims and signatures apply
    /// too. `None`: there is no such user.
    pub fn logout_token(&self, user: &str) -> Option<String> {
        logout::token(&self.provider, &self.origin(), user)
    }

    /// An RFC 9068 access token of the OpenID Connect provider, for the client itself unless `claims`, a JSON object, overrides it,
    /// such as `aud`. Lies about claims and signatures apply too. `None`: it cannot be signed, or `claims` is not an object.
    pub fn access_token(&self, claims: &serde_json::Value) -> Option<String> {
        id_token::issue_access(&self.provider, &self.origin(), claims.as_object()?.clone()).ok()
    }

    /// Allows one more redirect URL.
    ///
    /// # Errors
    ///
    /// If it is not an absolute http or https URL.
    pub fn allow_redirect(&self, url: &str) -> Result<(), StartError> {
        absolute(url)?;
        let mut urls = locked(&self.provider.redirect_urls);
        if !urls.iter().any(|known| known == url) {
            urls.push(url.to_owned());
        }
        Ok(())
    }

    /// Signs ID tokens with a new key from now on.
    ///
    /// # Errors
    ///
    /// If no key can be created.
    pub fn rotate_key(&self, old: OldKey) -> Result<(), StartError> {
        self.provider.keys.rotate(old).map_err(|_| StartError::Key)
    }

    /// Moves the provider's clock forward: codes and tokens age, and new tokens get the new time.
    pub fn advance_clock(&self, by: Duration) {
        self.provider.clock.advance(by);
    }

    /// The URL to redirect the browser to if `user` were picked on the page at `authorize_url`: the redirect URL with a code, or with
    /// an `error`. No HTTP: nothing is counted, faults do not apply (lies do), no cookie is set.
    ///
    /// # Errors
    ///
    /// If the browser would get an error page: a wrong client or redirect URL, an unknown user, or one without an account there.
    pub fn approve(&self, authorize_url: &str, user: &str) -> Result<String, Refused> {
        self.decide(authorize_url, Some(user))
    }

    /// As [`DevIdp::approve`], but the person cancels: `error=access_denied`.
    ///
    /// # Errors
    ///
    /// As [`DevIdp::approve`].
    pub fn deny(&self, authorize_url: &str) -> Result<String, Refused> {
        self.decide(authorize_url, None)
    }

    /// Waits until the server is shut down.
    pub async fn ended(&self) {
        let task = locked(&self.ended).take();
        if let Some(task) = task {
            // An aborted task is the expected end.
            let _aborted = task.await;
        }
    }

    /// Closes the port and every connection, and waits until they are closed.
    pub async fn shutdown(self) {
        self.server.abort();
        self.ended().await;
    }

    fn decide(&self, authorize_url: &str, user: Option<&str>) -> Result<String, Refused> {
        let url =
            Url::parse(authorize_url).map_err(|error| Refused(format!("the authorization URL is not one: {error}")))?;
        let dialect = Dialect::of_authorize(url.path())
            .ok_or_else(|| Refused("the URL is not that of an authorization endpoint here".to_owned()))?;
        let params = Params::parse(url.query().unwrap_or_default().as_bytes()).map_err(Refused)?;
        let origin = self.provider.origin(Some(url.authority()));
        match authorize::decision(&self.provider, dialect, origin, &params, user) {
            Ok(location) | Err(Stop::Redirect(location)) => Ok(location),
            Err(Stop::Page(message)) => Err(Refused(message)),
        }
    }
}

impl Drop for DevIdp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn absolute(text: &str) -> Result<Url, StartError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| StartError::Url(text.to_owned()))
}
