//! The authorization code flow with PKCE (RFC 6749 §4.1, RFC 7636): the authorization request, and the exchange of the code for tokens.

use std::time::Duration;

use http::{Response, StatusCode};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, ExtraTokenFields,
    HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError,
    Scope, StandardRevocableToken, StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::ClientRegistration;
use super::http::{CallError, Http, field};
use super::quote::quote;
use crate::domain::grant::Grant;
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{Pending, Prompt, RenewError};

type TokenAnswer = StandardTokenResponse<WithIdToken, BasicTokenType>;
type OauthClient = Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// The fields that OpenID Connect adds to a token response (OpenID Connect Core §3.1.3.3).
#[derive(Serialize, Deserialize)]
struct WithIdToken {
    /// Checked later: the parser would not name it if it were of another kind.
    id_token: Option<Value>,
}

impl ExtraTokenFields for WithIdToken {}

impl std::fmt::Debug for WithIdToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("WithIdToken")
    }
}

/// Error codes after which only a new sign-in brings tokens: the grant or the user is gone (RFC 6749 §5.2, and GitHub's own code for
/// it), or the user has to interact again (OpenID Connect Core §3.1.2.6; Entra's conditional access).
const GONE: [&str; 6] = [
    "invalid_grant",
    "bad_refresh_token",
    "access_denied",
    "interaction_required",
    "login_required",
    "consent_required",
];

/// The tokens from the token endpoint.
pub(super) struct Tokens {
    access: Secret,
    expires_in: Option<Duration>,
    refresh: Option<Secret>,
    /// The ID token; the error says that something else is in its place. The other tokens count all the same: the old ones may be void.
    pub(super) id: Option<Result<Secret, String>>,
}

impl Tokens {
    #[cfg(test)]
    pub(super) fn for_test(access: &str) -> Self {
        Self { access: Secret::new(access), expires_in: None, refresh: None, id: None }
    }

    /// Makes a grant of these tokens, valid from `now`. Without a new refresh token, that of `before` stays in use (RFC 6749 §6).
    pub(super) fn grant(self, before: Option<&Grant>, now: Timestamp) -> Grant {
        Grant {
            access: self.access,
            access_expires_at: self.expires_in.map(|lasts| now + lasts),
            refresh: self.refresh.or_else(|| before?.refresh.clone()),
            id_token: before.and_then(|grant| grant.id_token.clone()),
            supplied_by_userinfo: before.map(|grant| grant.supplied_by_userinfo.clone()).unwrap_or_default(),
        }
    }
}

/// The client of the flow.
pub(super) struct CodeFlow {
    registration: ClientRegistration,
}

impl CodeFlow {
    pub(super) fn new(registration: ClientRegistration) -> Self {
        Self { registration }
    }

    pub(super) fn client_id(&self) -> &str {
        &self.registration.id
    }

    /// The URL to redirect the browser to; `nonce` for OpenID Connect.
    pub(super) fn authorization_url(
        &self,
        endpoint: &Url,
        attempt: &LoginAttempt,
        nonce: Option<&str>,
        prompt: Option<Prompt>,
    ) -> Url {
        let client = self.client().set_auth_uri(AuthUrl::from_url(endpoint.clone()));
        let verifier = PkceCodeVerifier::new(attempt.verifier().to_owned());
        let scopes = self.registration.scopes.iter().map(|scope| Scope::new(scope.clone()));
        let mut request = client
            .authorize_url(|| CsrfToken::new(attempt.state().to_owned()))
            .add_scopes(scopes)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        if let Some(nonce) = nonce {
            request = request.add_extra_param("nonce", nonce);
        }
        // OpenID Connect Core §3.1.2.1. GitHub supports neither: for it the sign-in here is what counts.
        let max_age = attempt.max_age.filter(|_| nonce.is_some());
        if let Some(max_age) = max_age {
            request = request.add_extra_param("max_age", max_age.as_secs().to_string());
        }
        let prompt = match (prompt, max_age) {
            (Some(Prompt::SelectAccount), Some(_)) => Some("login select_account"),
            (Some(Prompt::SelectAccount), None) => Some("select_account"),
            (None, Some(_)) => Some("login"),
            (None, None) => None,
        };
        if let Some(prompt) = prompt {
            request = request.add_extra_param("prompt", prompt);
        }
        request.url().0
    }

    /// Redeems `code`. The error's text contains no secret.
    pub(super) async fn redeem(
        &self,
        http: &Http,
        endpoint: &Url,
        auth: AuthType,
        code: &Secret,
        attempt: &LoginAttempt,
    ) -> Result<Tokens, String> {
        let client = self.client().set_token_uri(TokenUrl::from_url(endpoint.clone())).set_auth_type(auth);
        let answer: TokenAnswer = client
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier().to_owned()))
            .request_async(http)
            .await
            .map_err(|error| reason(&error))?;
        issued(&answer)
    }

    /// Requests new tokens with the refresh token (RFC 6749 §6). The error's text contains no secret.
    pub(super) async fn refresh(
        &self,
        http: &Http,
        endpoint: &Url,
        auth: AuthType,
        token: &Secret,
    ) -> Result<Tokens, RenewError> {
        let client = self.client().set_token_uri(TokenUrl::from_url(endpoint.clone())).set_auth_type(auth);
        let token = RefreshToken::new(token.expose().to_owned());
        let answer: TokenAnswer = client.exchange_refresh_token(&token).request_async(http).await.map_err(|error| {
            let reason = reason(&error);
            if is_gone(&error) { RenewError::Gone(reason) } else { RenewError::NotNow(reason) }
        })?;
        issued(&answer).map_err(RenewError::NotNow)
    }

    fn client(&self) -> OauthClient {
        OauthClient::new(ClientId::new(self.registration.id.clone()))
            .set_client_secret(ClientSecret::new(self.registration.secret.expose().to_owned()))
            .set_redirect_uri(RedirectUrl::from_url(self.registration.redirect_url.clone()))
    }
}

fn issued(answer: &TokenAnswer) -> Result<Tokens, String> {
    if *answer.token_type() != BasicTokenType::Bearer {
        return Err("the token endpoint issued an access token that is not a bearer token".to_owned());
    }
    let id = match &answer.extra_fields().id_token {
        Some(Value::String(token)) => Some(Ok(Secret::new(token.as_str()))),
        Some(Value::Null) | None => None,
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Some(Err(no_token_answer("`id_token` is of another kind")))
        }
    };
    Ok(Tokens {
        access: Secret::new(answer.access_token().secret().as_str()),
        expires_in: answer.expires_in(),
        refresh: answer.refresh_token().map(|token| Secret::new(token.secret().as_str())),
        id,
    })
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = CallError;
    type Future = Pending<'c, Result<HttpResponse, CallError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(token_answer(self, request))
    }
}

/// Calls the token endpoint and normalizes its response. An `error` with status 200 (GitHub) becomes 400, as in RFC 6749 §5.2; a
/// failure that is not OAuth's own keeps its status, as does any response of a failing or overloaded provider (5xx, 429).
async fn token_answer(http: &Http, request: HttpRequest) -> Result<HttpResponse, CallError> {
    let answer = Http::call(http, request).await?;
    let failing = answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS;
    let fields = fields(&answer.body);
    let error = fields.as_ref().and_then(|fields| fields.get("error")).and_then(Value::as_str);
    let refused = !failing && error.is_some_and(|error| !error.is_empty());
    if !refused && answer.status != StatusCode::OK {
        return Err(answer.refusal());
    }
    let body = match fields {
        Some(fields) if refused => keep_fields(fields, &["error", "error_description", "error_uri"]),
        Some(mut fields) => {
            let lasts = fields.remove("expires_in").as_ref().and_then(seconds);
            let mut fields = keep_fields(fields, &["access_token", "token_type", "refresh_token", "id_token"]);
            fields.extend(lasts.map(|lasts| ("expires_in".to_owned(), lasts.into())));
            fields
        }
        None => answer.json()?,
    };
    let mut response = Response::new(Value::Object(body).to_string().into_bytes());
    *response.status_mut() = if refused { StatusCode::BAD_REQUEST } else { answer.status };
    Ok(response)
}

/// The fields of a response, in JSON or, as GitHub sends it, as a form. Its `Content-Type` is ignored: some send JSON as text, as
/// JavaScript, or without a type.
fn fields(body: &[u8]) -> Option<Map<String, Value>> {
    if let Ok(fields) = serde_json::from_slice(body) {
        return Some(fields);
    }
    let fields: Map<String, Value> = url::form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
        .collect();
    ["access_token", "error"].iter().any(|name| fields.contains_key(*name)).then_some(fields)
}

/// Keeps the fields with these names, without nulls and empty texts, which count as absent. Others are not read (`scope` may be text or a list).
fn keep_fields(mut fields: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    fields.retain(|name, value| names.contains(&name.as_str()) && !value.is_null() && value.as_str() != Some(""));
    fields
}

/// A token's lifetime in seconds: a number, whole or not, or its text. An invalid, past or zero lifetime counts as unknown (0 means
/// "unlimited" at some), and one beyond ten years as ten years.
fn seconds(value: &Value) -> Option<u64> {
    const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;
    let number =
        value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number: &f64| *number >= 1.0)?;
    Some(Duration::from_secs_f64(number.min(LONGEST)).as_secs())
}

fn is_gone(error: &RequestTokenError<CallError, BasicErrorResponse>) -> bool {
    match error {
        RequestTokenError::ServerResponse(refusal) => GONE.contains(&refusal.error().as_ref()),
        RequestTokenError::Request(_) | RequestTokenError::Parse(..) | RequestTokenError::Other(_) => false,
    }
}

/// Logs an error that users cannot fix and that prevents all sign-ins.
fn log_registration_error(refusal: &BasicErrorResponse) {
    let code = refusal.error().as_ref();
    let fix = match code {
        "invalid_client" | "unauthorized_client" | "incorrect_client_credentials" => {
            "OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET must be those of the application as it is registered there, and the secret \
             must not have expired"
        }
        "redirect_uri_mismatch" => "OAUTH_REDIRECT_URL must be registered there, to the letter",
        _ => return,
    };
    let words = refusal.error_description().map(|words| format!(": {}", quote(words))).unwrap_or_default();
    tracing::error!("nobody can sign in: the provider refuses this application ({}{words}): {fix}", quote(code));
}

fn reason(error: &RequestTokenError<CallError, BasicErrorResponse>) -> String {
    match error {
        RequestTokenError::ServerResponse(refusal) => {
            log_registration_error(refusal);
            let code = quote(refusal.error().as_ref());
            let words = refusal.error_description().map(|words| format!(": {}", quote(words))).unwrap_or_default();
            format!("the token endpoint answered {code}{words}")
        }
        RequestTokenError::Request(error) => error.to_string(),
        // Neither the body nor the parser's message about it: both may contain a token.
        RequestTokenError::Parse(error, _) => no_token_answer(&field(error)),
        RequestTokenError::Other(words) => format!("the token endpoint's answer is unusable: {}", quote(words)),
    }
}

fn no_token_answer(why: &str) -> String {
    format!("the token endpoint's answer is not a token response: {why}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tokens_life_is_a_number_or_the_text_of_one() {
        for (sent, known) in [
            (json!(3600), Some(3600)),
            (json!("3599"), Some(3599)),
            (json!(" 60 "), Some(60)),
            (json!(3600.5), Some(3600)),
            (json!("3600.5"), Some(3600)),
            (json!(1e300), Some(315_360_000)),
            (json!(u64::MAX), Some(315_360_000)),
            (json!("inf"), Some(315_360_000)),
            (json!(0), None),
            (json!(-1), None),
            (json!("-3600"), None),
            (json!("NaN"), None),
            (json!("soon"), None),
            (json!(""), None),
            (json!(true), None),
            (json!([3600]), None),
            (json!({}), None),
        ] {
            assert_eq!(seconds(&sent), known, "{sent}");
        }
    }

    #[test]
    fn an_answer_is_json_or_a_form_and_nothing_else() {
        assert_eq!(fields(br#"{"access_token":"a"}"#).unwrap()["access_token"], "a");
        let form = fields(b"access_token=a%2Bb&scope=x%2Cy&token_type=bearer").unwrap();
        assert_eq!((&form["access_token"], &form["token_type"]), (&json!("a+b"), &json!("bearer")));
        assert_eq!(
            fields(b"error=bad_verification_code&error_description=x").unwrap()["error"],
            "bad_verification_code"
        );
        for not in [&b""[..], b"<html>access_token</html>", br#"{"access_token":"brok"#, b"[]", b"null", b"token=a"] {
            assert!(fields(not).is_none(), "{}", String::from_utf8_lossy(not));
        }
    }
}
