//! GitHub's tokens, which are opaque: GitHub is asked whether a token was issued to this application, and whose it is.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use super::super::github::Github;
use super::super::http::{CallError, Http, below};
use super::super::{ConnectError, ProviderSettings, discovery};
use super::settings::GithubSettings;
use super::verdict::{Accepted, BearerError};
use crate::domain::identity::{Identity, ProviderKind};
use crate::domain::secret::Secret;
use crate::domain::session::{Authority, Device, Session, SessionKey};
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// The provider's name in rules: the same as for users who signed in with GitHub.
pub(super) const NAME: &str = ProviderKind::Github.as_str();
/// How many tokens are checked at once. In all their number is not limited: made-up tokens, each of them another, count against our quota
/// at GitHub.
const AT_ONCE: usize = 8;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a rejected token is remembered.
const REFUSED: Duration = Duration::from_secs(60);
const REFUSED_MOST: u64 = 10_000;
/// The longest token that GitHub issues, in bytes.
const LONGEST: usize = 1024;

/// The application's tokens.
pub(super) struct GithubTokens {
    http: Http,
    github: Github,
    check: Url,
    issuer: String,
    client_id: String,
    basic: HeaderValue,
    authority: Authority,
    lasts: Duration,
    turns: Semaphore,
    refused: Cache<SessionKey, ()>,
}

/// GitHub's description of a token of the application.
#[derive(Deserialize)]
struct Checked {
    app: CheckedApp,
    user: CheckedUser,
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct CheckedApp {
    client_id: String,
}

#[derive(Deserialize)]
struct CheckedUser {
    id: u64,
}

impl GithubTokens {
    pub(super) fn new(settings: &GithubSettings) -> Result<Self, ConnectError> {
        let GithubSettings { client, web, api, groups, .. } = settings;
        let http =
            Http::new(&settings.roots, [web, api].iter().any(|url| url.scheme() == "https"), settings.way_out.clone())?;
        let credentials = STANDARD.encode(format!("{}:{}", client.id, client.secret.expose()));
        let mut basic = HeaderValue::from_str(&format!("Basic {credentials}"))
            .map_err(|_| ConnectError::Address(api.origin().ascii_serialization()))?;
        basic.set_sensitive(true);
        let provider = ProviderSettings::Github {
            client: client.clone(),
            web: web.clone(),
            api: api.clone(),
            groups: groups.clone(),
        };
        Ok(Self {
            github: Github::new(http.clone(), client.clone(), web.clone(), api.clone(), groups),
            check: below(api, &format!("applications/{}/token", client.id)),
            issuer: format!("{}/login/oauth", discovery::trimmed(web)),
            client_id: client.id.clone(),
            basic,
            authority: provider.authority(),
            lasts: settings.lasts,
            turns: Semaphore::new(AT_ONCE),
            refused: Cache::builder().max_capacity(REFUSED_MOST).time_to_live(REFUSED).build(),
            http,
        })
    }

    pub(super) const fn authority(&self) -> Authority {
        self.authority
    }

    pub(super) fn issuer(&self) -> String {
        self.issuer.clone()
    }

    /// Waits for a turn to check a token, unless it cannot be valid.
    pub(super) async fn turn(&self, token: &Secret, key: &SessionKey) -> Result<SemaphorePermit<'_>, BearerError> {
        let of_a_token = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let looks_like_one = token.expose().len() <= LONGEST && token.expose().bytes().all(of_a_token);
        if !looks_like_one || self.refused.contains_key(key) {
            return Err(not_ours());
        }
        let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            BearerError::Unavailable(format!("{NAME}: more than {AT_ONCE} tokens are being asked about at once"))
        })
    }

    /// Asks GitHub whose the token is.
    pub(super) async fn verify(
        &self,
        token: &Secret,
        key: SessionKey,
        now: Timestamp,
    ) -> Result<Accepted, BearerError> {
        let checked = self.ask(token).await?;
        let Some(checked) = checked.filter(|checked| checked.app.client_id == self.client_id) else {
            self.refused.insert(key, ());
            return Err(not_ours());
        };
        let away = |error: CallError| BearerError::Unavailable(format!("{NAME}: {error}"));
        let identity = self.github.identity(token).await.map_err(away)?;
        if identity.id != checked.user.id.to_string() {
            return Err(BearerError::Invalid(format!("{NAME}: GitHub speaks of two accounts for one token")));
        }
        Ok(self.accept(identity, checked.expires_at.as_deref(), key, now))
    }

    /// GitHub's description of the token; `None`: it is not a token of this application.
    async fn ask(&self, token: &Secret) -> Result<Option<Checked>, BearerError> {
        let away = |why: String| BearerError::Unavailable(format!("{NAME}: {why}"));
        let body = json!({ "access_token": token.expose() }).to_string().into_bytes();
        let mut request = Request::post(self.check.as_str()).body(body).map_err(|error| away(error.to_string()))?;
        request.headers_mut().insert(AUTHORIZATION, self.basic.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(super::super::github_api::HEADERS);
        let answer = self.http.call(request).await.map_err(|error| away(error.to_string()))?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => Ok(None),
            _ => answer.json().map(Some).map_err(|error| away(error.to_string())),
        }
    }

    fn accept(&self, identity: Identity, expires_at: Option<&str>, key: SessionKey, now: Timestamp) -> Accepted {
        let ends = expires_at
            .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
            .and_then(|end| u64::try_from(end.unix_timestamp()).ok())
            .map(Timestamp::from_secs);
        let device = Device::new(std::net::Ipv4Addr::UNSPECIFIED.into(), "");
        let mut session = Session::begin(identity, self.authority, device, self.lasts, now);
        let expires_at = ends.unwrap_or(session.expires_at).min(session.expires_at);
        session.expires_at = expires_at;
        let session = LoadedSession::of_token(key, session, NAME.into(), Vec::new(), now);
        Accepted { session: Arc::new(session), expires_at }
    }
}

fn not_ours() -> BearerError {
    BearerError::Invalid("it is not a JWT, nor a token that GitHub issued to this application".to_owned())
}
