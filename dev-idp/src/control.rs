//! Faults on demand, and a record of requests: the handle for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::bodies;
use crate::dialect::Dialect;
use crate::grants::{GITHUB_TOKEN_LIFETIME, TOKEN_LIFETIME};

/// The time limit of a normal response, including a slow sender's request body.
const PATIENCE: Duration = Duration::from_secs(10);

/// A group of endpoints that fail together; the same at each provider that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// The authorization endpoint (`GET`; not the decision on its page).
    Authorize,
    /// The token endpoint.
    Token,
    /// The provider's public keys.
    Jwks,
    /// `…/.well-known/openid-configuration`.
    Discovery,
    /// UserInfo.
    UserInfo,
    /// The sign-out endpoint for browsers.
    EndSession,
    /// GitHub's `/user`.
    User,
    /// GitHub's `/user/emails`.
    Emails,
    /// GitHub's `/user/orgs`.
    Orgs,
    /// GitHub's `/user/teams`.
    Teams,
    /// GitHub's `/user/memberships/orgs`.
    Memberships,
    /// GitHub's `/applications/{client_id}/token`.
    CheckToken,
    /// Graph's `/me`.
    GraphMe,
    /// Graph's `/me/transitiveMemberOf`.
    GraphGroups,
}

impl Endpoint {
    pub(crate) fn of(path: &str) -> Option<Self> {
        let api = path.strip_prefix("/api/v3").unwrap_or(path);
        match api {
            "/user" => return Some(Self::User),
            "/user/emails" => return Some(Self::Emails),
            "/user/orgs" => return Some(Self::Orgs),
            "/user/teams" => return Some(Self::Teams),
            "/user/memberships/orgs" => return Some(Self::Memberships),
            "/v1.0/me" => return Some(Self::GraphMe),
            _ if api.starts_with("/applications/") => return Some(Self::CheckToken),
            _ => {}
        }
        let by_suffix = [
            ("/authorize", Self::Authorize),
            ("/token", Self::Token),
            ("/access_token", Self::Token),
            ("/jwks", Self::Jwks),
            ("/discovery/v2.0/keys", Self::Jwks),
            ("/.well-known/openid-configuration", Self::Discovery),
            ("/userinfo", Self::UserInfo),
            ("/end_session", Self::EndSession),
            ("/oauth2/v2.0/logout", Self::EndSession),
            ("/transitiveMemberOf", Self::GraphGroups),
            ("/transitiveMemberOf/microsoft.graph.group", Self::GraphGroups),
        ];
        by_suffix.iter().find(|(suffix, _)| path.ends_with(suffix)).map(|(_, endpoint)| *endpoint)
    }
}

/// A way for an endpoint to fail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Answer correctly after this delay (milliseconds over HTTP).
    #[serde(deserialize_with = "millis")]
    Slow(Duration),
    /// Do not answer until the fault is cleared, then answer correctly.
    Hold,
    /// Answer with this status and a short JSON object.
    Status(u16),
    /// Answer with an OAuth error of this name: at status 400, but GitHub's token endpoint at 200.
    Refuse(String),
    /// Answer 200 with JSON that breaks off in the middle.
    Malformed,
    /// Answer 200 with one JSON string of this many MiB, streamed.
    Huge(u32),
    /// Send half of a response, then close the connection.
    Cut,
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// A wrong value in an otherwise valid response. The first group concerns ID tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// Another `nonce`.
    WrongNonce,
    /// Another `aud`.
    WrongAudience,
    /// The client and another party in `aud`, and the right `azp`.
    ManyAudiences,
    /// An `azp` that is not the client.
    WrongAuthorizedParty,
    /// Another `iss`.
    WrongIssuer,
    /// `exp` an hour ago.
    Expired,
    /// `nbf` and `iat` an hour from now.
    NotYetValid,
    /// An `at_hash` of another access token.
    WrongAccessTokenHash,
    /// The named claim is left out.
    MissingClaim(String),
    /// The named claim has this value.
    Claim(String, Value),
    /// `hasgroups` in place of the groups.
    HasGroups,
    /// `alg: none` and an empty signature.
    AlgNone,
    /// Another `typ` in the header of a logout token.
    Kind(String),
    /// HS256 with the PEM of the public key as the secret.
    HmacWithPublicKey,
    /// Signed with a key that is not in the JWK set, under a `kid` that is not there either.
    UnknownKey,
    /// Signed with a key that is not in the JWK set, under the `kid` of one that is.
    ForgedSignature,
    /// `email_verified` as the text `"true"` or `"false"`, at UserInfo too.
    EmailVerifiedAsText,

    /// UserInfo returns another `sub`.
    OtherSubAtUserInfo,
    /// The named claim has this value at UserInfo.
    UserInfoClaim(String, Value),

    /// The token response has no `id_token`.
    NoIdToken,
    /// The token response has no `access_token`.
    NoAccessToken,
    /// The token response has this `token_type`.
    TokenType(String),

    /// The token response's named field has this value, at GitHub too.
    TokenField(String, Value),
    /// The token response is form-encoded.
    TokenForm,
    /// The token response has this `Content-Type`; empty: none.
    TokenContentType(String),
    /// Discovery's named field has this value.
    DiscoveryField(String, Value),
    /// UserInfo answers with a signed token.
    SignedUserInfo,
    /// UserInfo answers with a token that is signed with another key, under the `kid` of ours.
    ForgedUserInfo,
    /// Neither keys nor tokens have a `kid`.
    NoKeyNames,
    /// The JWK set starts with another key of the same `kid`, and with unusable keys.
    StrangeKeys,

    /// GitHub reports that a token was issued to this application.
    OfApplication(String),
    /// GitHub's lists report that organisations with single sign-on were left out.
    PartialLists,
    /// The callback gets no `iss`, though discovery advertises it.
    NoIssAtCallback,
    /// The callback gets another issuer's `iss`.
    WrongIssAtCallback,
    /// The callback gets another `state`.
    WrongState,
    /// The callback gets no `state`.
    NoState,
    /// The callback gets this `error` in place of a code.
    ErrorAtCallback(String),
}

/// One request as received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header names, in lower case, and values, in their order.
    pub headers: Vec<(String, String)>,
}

impl Captured {
    /// The first value of the header `name` (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Makes the provider fail and lie, and records requests. Clones share one state.
#[derive(Clone, Default)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Behaviour>,
    /// Changes with every request and every change of faults.
    turn: watch::Sender<u64>,
}

#[derive(Default)]
struct Behaviour {
    faults: HashMap<Endpoint, Planned>,
    lies: Vec<Lie>,
    counts: HashMap<Endpoint, u64>,
    last: HashMap<Endpoint, Captured>,
    refreshes: u64,
    /// The lifetime of access tokens, in seconds.
    lifetime: Option<u64>,
    expiring_github: bool,
}

struct Planned {
    fault: Fault,
    /// How many times it still applies; `None`: until it is cleared.
    left: Option<u32>,
}

impl Control {
    /// Makes `endpoint` fail until [`Control::clear`].
    pub fn fail(&self, endpoint: Endpoint, fault: Fault) {
        self.plan(endpoint, fault, None);
    }

    /// Makes `endpoint` fail `times` times and then recover.
    pub fn fail_times(&self, times: u32, endpoint: Endpoint, fault: Fault) {
        self.plan(endpoint, fault, Some(times));
    }

    /// Ends the fault of `endpoint`, and releases the requests that it holds.
    pub fn clear(&self, endpoint: Endpoint) {
        self.locked().faults.remove(&endpoint);
        self.turn();
    }

    /// Applies `lie` to every affected response, until [`Control::honest`]. Several lies add up.
    pub fn lie(&self, lie: Lie) {
        self.locked().lies.push(lie);
    }

    /// Ends all lies.
    pub fn honest(&self) {
        self.locked().lies.clear();
    }

    /// Sets the lifetime of expiring access tokens that are issued from now on.
    pub fn token_lifetime(&self, lifetime: Duration) {
        self.locked().lifetime = Some(lifetime.as_secs());
    }

    /// Makes GitHub issue, from now on, the tokens of a GitHub App with expiring tokens: access tokens for eight hours (or as set by
    /// [`Control::token_lifetime`]), and refresh tokens.
    pub fn expiring_github_tokens(&self) {
        self.locked().expiring_github = true;
    }

    /// How many token requests used a refresh token.
    pub fn refreshes(&self) -> u64 {
        self.locked().refreshes
    }

    pub(crate) fn count_refresh(&self) {
        self.locked().refreshes += 1;
    }

    /// The lifetime of an access token issued now; `None`: it does not expire.
    pub(crate) fn lifetime(&self, dialect: &Dialect) -> Option<u64> {
        let state = self.locked();
        match dialect {
            Dialect::GitHub if !state.expiring_github => None,
            Dialect::GitHub => Some(state.lifetime.unwrap_or(GITHUB_TOKEN_LIFETIME)),
            Dialect::Entra(_) | Dialect::Oidc => Some(state.lifetime.unwrap_or(TOKEN_LIFETIME)),
        }
    }

    /// Ends all faults and lies, resets the token lifetimes, and clears counts and captured requests.
    pub fn reset(&self) {
        *self.locked() = Behaviour::default();
        self.turn();
    }

    /// How many requests `endpoint` has received.
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.locked().counts.get(&endpoint).copied().unwrap_or_default()
    }

    /// The last request that `endpoint` received.
    pub fn last(&self, endpoint: Endpoint) -> Option<Captured> {
        self.locked().last.get(&endpoint).cloned()
    }

    /// Waits until `endpoint` has received at least `count` requests. The caller sets the time limit.
    pub async fn arrived(&self, endpoint: Endpoint, count: u64) {
        let mut turns = self.shared.turn.subscribe();
        while self.requests(endpoint) < count {
            if turns.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn lies(&self) -> Vec<Lie> {
        self.locked().lies.clone()
    }

    fn plan(&self, endpoint: Endpoint, fault: Fault, left: Option<u32>) {
        self.locked().faults.insert(endpoint, Planned { fault, left });
        self.turn();
    }

    /// Counts and captures `request`, and returns its fault.
    fn arrive(&self, endpoint: Endpoint, request: &Request) -> Option<Fault> {
        let captured = capture(request);
        let mut state = self.locked();
        *state.counts.entry(endpoint).or_default() += 1;
        state.last.insert(endpoint, captured);
        let fault = match state.faults.get_mut(&endpoint) {
            None => None,
            Some(Planned { fault, left: None }) => Some(fault.clone()),
            Some(Planned { fault, left: Some(left) }) => {
                *left = left.saturating_sub(1);
                let (fault, done) = (fault.clone(), *left == 0 && *fault != Fault::Hold);
                if done {
                    state.faults.remove(&endpoint);
                }
                Some(fault)
            }
        };
        drop(state);
        self.turn();
        fault
    }

    async fn released(&self, endpoint: Endpoint) {
        let mut turns = self.shared.turn.subscribe();
        while self.holds(endpoint) {
            if turns.changed().await.is_err() {
                return;
            }
        }
    }

    fn holds(&self, endpoint: Endpoint) -> bool {
        self.locked().faults.get(&endpoint).is_some_and(|planned| planned.fault == Fault::Hold)
    }

    fn turn(&self) {
        self.shared.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    fn locked(&self) -> MutexGuard<'_, Behaviour> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts and captures the request, and applies the fault, if one is set.
pub(crate) async fn intercept(State(control): State<Control>, request: Request, next: Next) -> Response {
    let github = request.uri().path().starts_with("/login/oauth/");
    let fault = match Endpoint::of(request.uri().path()) {
        None => None,
        Some(endpoint) => match control.arrive(endpoint, &request) {
            Some(Fault::Hold) => {
                control.released(endpoint).await;
                None
            }
            other => other,
        },
    };
    match fault {
        None | Some(Fault::Hold) => honest(request, next).await,
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            honest(request, next).await
        }
        Some(Fault::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            bodies::json(status, &serde_json::json!({ "message": "dev-idp was told to fail" }))
        }
        Some(Fault::Refuse(error)) => {
            let status = if github { StatusCode::OK } else { StatusCode::BAD_REQUEST };
            bodies::json(
                status,
                &serde_json::json!({ "error": error, "error_description": "dev-idp was told to refuse" }),
            )
        }
        Some(Fault::Malformed) => bodies::malformed(),
        Some(Fault::Huge(mebibytes)) => bodies::huge(mebibytes),
        Some(Fault::Cut) => bodies::cut(),
    }
}

async fn honest(request: Request, next: Next) -> Response {
    // A sender that never ends its body must not hold a connection forever.
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn capture(request: &Request) -> Captured {
    let headers = request.headers().iter();
    Captured {
        method: request.method().to_string(),
        target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
    }
}
