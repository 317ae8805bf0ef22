//! GitHub: its token responses, with errors at status 200, and the REST resources of a user.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::bodies;
use crate::control::Lie;
use crate::dialect::Dialect;
use crate::grants::{GITHUB_REFRESH_LIFETIME, Grant, Refusal};
use crate::params::Params;
use crate::provider::{Origin, Provider};
use crate::token::{self, Denied, Issued};
use crate::users::{GitHubAccount, User};

const TROUBLESHOOTING: &str =
    "https://docs.github.com/apps/managing-oauth-apps/troubleshooting-oauth-app-access-token-request-errors/";
/// GitHub's page sizes.
const PAGE: usize = 30;
const LARGEST_PAGE: usize = 100;

/// `POST /login/oauth/access_token`.
pub(crate) async fn token(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fields = match token::exchange(&provider, &Dialect::GitHub, &origin, &headers, &body) {
        Ok(issued) => granted(&provider, issued),
        Err(denied) => {
            let (error, anchor) = code(&denied);
            vec![
                ("error", error.to_owned()),
                ("error_description", format!("{denied}.")),
                ("error_uri", format!("{TROUBLESHOOTING}#{anchor}")),
            ]
        }
    };
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|types| types.contains("application/json")) {
        let object: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), as_json(name, value))).collect();
        return bodies::json(StatusCode::OK, &Value::Object(object));
    }
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], form).into_response()
}

/// Times are numbers, everything else is text.
fn as_json(name: &str, value: String) -> Value {
    match value.parse::<u64>() {
        Ok(seconds) if name.ends_with("expires_in") => json!(seconds),
        Ok(_) | Err(_) => json!(value),
    }
}

fn granted(provider: &Provider, issued: Issued) -> Vec<(&'static str, String)> {
    let lies = provider.control.lies();
    let odd = lies.iter().find_map(|lie| if let Lie::TokenType(odd) = lie { Some(odd) } else { None });
    let kind = odd.cloned().unwrap_or_else(|| "bearer".to_owned());
    let mut fields = vec![("scope", issued.grant.scopes.join(",")), ("token_type", kind)];
    if !lies.contains(&Lie::NoAccessToken) {
        fields.insert(0, ("access_token", issued.access_token));
    }
    if let (Some(lasts), Some(refresh_token)) = (issued.expires_in, issued.refresh_token) {
        fields.push(("expires_in", lasts.to_string()));
        fields.push(("refresh_token", refresh_token));
        fields.push(("refresh_token_expires_in", GITHUB_REFRESH_LIFETIME.to_string()));
    }
    fields
}

/// GitHub's error code, and the documentation that explains it.
fn code(denied: &Denied) -> (&'static str, &'static str) {
    match denied {
        Denied::Client => ("incorrect_client_credentials", "incorrect-client-credentials"),
        Denied::Grant(Refusal::RedirectUrl) => ("redirect_uri_mismatch", "redirect-uri-mismatch"),
        Denied::GrantType => ("unsupported_grant_type", "unsupported-grant-type"),
        Denied::Refresh(_) => ("bad_refresh_token", "bad-refresh-token"),
        Denied::Grant(Refusal::Unknown | Refusal::Spent | Refusal::Expired | Refusal::Verifier | Refusal::Tenant)
        | Denied::Request(_)
        | Denied::Gone
        | Denied::Signing => ("bad_verification_code", "bad-verification-code"),
    }
}

/// `GET /user`.
pub(crate) async fn user(State(provider): State<Arc<Provider>>, headers: HeaderMap) -> Response {
    let (user, account, grant) = match caller(&provider, &headers) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let body = json!({
        "login": account.login,
        "id": account.id,
        "node_id": format!("U_{}", account.id),
        "type": "User",
        "site_admin": false,
        "name": user.name,
        "email": account.public_email,
        "company": null,
        "location": null,
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    });
    with_scopes(&grant, bodies::json(StatusCode::OK, &body))
}

/// `POST /applications/{client_id}/token`: whether a token was issued to the application, and to which user.
pub(crate) async fn check(
    State(provider): State<Arc<Provider>>,
    Path(client_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !token::is_client(&provider, &headers) {
        return message(StatusCode::UNAUTHORIZED, "Bad credentials");
    }
    let Some(token) = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| body.get("access_token").and_then(Value::as_str).map(ToOwned::to_owned))
    else {
        return message(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request.\n\n\"access_token\" wasn't supplied.");
    };
    let now = provider.clock.now();
    let grant = provider.grants().access(&token, now).filter(|grant| grant.dialect == Dialect::GitHub);
    let user = grant.as_ref().and_then(|grant| provider.user(&grant.user));
    let account = user.and_then(|user| user.github).filter(|_| client_id == provider.client_id);
    let (Some(grant), Some(account)) = (grant, account) else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let issued_to = provider
        .control
        .lies()
        .iter()
        .find_map(|lie| if let Lie::OfApplication(other) = lie { Some(other.clone()) } else { None });
    let body = json!({
        "id": number(&token),
        "token": token,
        "scopes": grant.scopes,
        "app": { "name": "sidegate", "url": "", "client_id": issued_to.unwrap_or(client_id) },
        "user": { "login": account.login, "id": account.id },
        "expires_at": null,
    });
    bodies::json(StatusCode::OK, &body)
}

/// `GET /user/emails`.
pub(crate) async fn emails(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    list(&provider, &origin, &uri, &headers, &["user:email", "user"], |account| {
        let emails = account.emails.iter();
        emails
            .map(|email| {
                json!({
                    "email": email.address,
                    "primary": email.primary,
                    "verified": email.verified,
                    "visibility": email.primary.then_some("private"),
                })
            })
            .collect()
    })
}

/// `GET /user/orgs`: organisations with an active membership.
pub(crate) async fn orgs(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    list(&provider, &origin, &uri, &headers, READS_ORGS, |account| {
        let active = account.memberships.iter().filter(|membership| membership.active);
        active.map(|membership| organization(&membership.org)).collect()
    })
}

/// `GET /user/teams`.
pub(crate) async fn teams(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    list(&provider, &origin, &uri, &headers, READS_ORGS, |account| {
        let teams = account.teams.iter();
        teams
            .map(|team| {
                json!({
                    "id": number(&format!("{}/{}", team.org, team.slug)),
                    "name": team.slug,
                    "slug": team.slug,
                    "privacy": "closed",
                    "permission": "pull",
                    "organization": organization(&team.org),
                })
            })
            .collect()
    })
}

/// `GET /user/memberships/orgs?state=active|pending`.
pub(crate) async fn memberships(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let params = Params::parse(uri.query().unwrap_or_default().as_bytes()).unwrap_or_default();
    let wanted = match params.find("state") {
        None => None,
        Some("active") => Some(true),
        Some("pending") => Some(false),
        Some(_) => {
            return message(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed: state must be active or pending");
        }
    };
    list(&provider, &origin, &uri, &headers, READS_ORGS, |account| {
        let memberships = account.memberships.iter();
        memberships
            .filter(|membership| wanted.is_none_or(|active| active == membership.active))
            .map(|membership| {
                json!({
                    "state": if membership.active { "active" } else { "pending" },
                    "role": "member",
                    "organization": organization(&membership.org),
                    "user": { "login": account.login, "id": account.id },
                })
            })
            .collect()
    })
}

const READS_ORGS: &[&str] = &["read:org", "write:org", "admin:org"];

/// One page of the list that `items` builds from the caller's account.
fn list(
    provider: &Provider,
    origin: &str,
    uri: &Uri,
    headers: &HeaderMap,
    scopes: &[&str],
    items: impl FnOnce(&GitHubAccount) -> Vec<Value>,
) -> Response {
    let (_, account, grant) = match caller(provider, headers) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    if !scopes.iter().any(|scope| grant.has_scope(scope)) {
        let needed = scopes.first().copied().unwrap_or_default();
        return with_scopes(
            &grant,
            message(StatusCode::FORBIDDEN, &format!("You need at least {needed} scope for this.")),
        );
    }
    let (page, link) = page(origin, uri, items(&account));
    let mut response = with_scopes(&grant, bodies::json(StatusCode::OK, &Value::Array(page)));
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    if provider.control.lies().contains(&Lie::PartialLists) {
        let left_out = HeaderValue::from_static("partial-results; organizations=21955855,20582480");
        response.headers_mut().insert("x-github-sso", left_out);
    }
    response
}

/// The items of one page and its `Link` header.
fn page(origin: &str, uri: &Uri, items: Vec<Value>) -> (Vec<Value>, Option<String>) {
    let query: Vec<(String, String)> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let number = |name: &str| {
        let found = query.iter().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.parse::<usize>().ok()).filter(|number| *number > 0)
    };
    let size = number("per_page").unwrap_or(PAGE).min(LARGEST_PAGE);
    let current = number("page").unwrap_or(1);
    let last = items.len().div_ceil(size).max(1);
    let link = |to: usize, rel: &str| {
        let others = query.iter().filter(|(name, _)| name != "page");
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(others)
            .append_pair("page", &to.to_string())
            .finish();
        format!("<{origin}{}?{query}>; rel=\"{rel}\"", uri.path())
    };
    let mut links = Vec::new();
    if current > 1 {
        links.push(link((current - 1).min(last), "prev"));
    }
    if current < last {
        links.push(link(current + 1, "next"));
        links.push(link(last, "last"));
    }
    if current > 1 {
        links.push(link(1, "first"));
    }
    let skipped = (current - 1).saturating_mul(size);
    let page = items.into_iter().skip(skipped).take(size).collect();
    (page, (!links.is_empty()).then(|| links.join(", ")))
}

/// The caller of the API; GitHub also requires a `User-Agent`.
fn caller(provider: &Provider, headers: &HeaderMap) -> Result<(User, GitHubAccount, Grant), Box<Response>> {
    if headers.get(header::USER_AGENT).is_none_or(|agent| agent.is_empty()) {
        let text =
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.\n";
        return Err(Box::new((StatusCode::FORBIDDEN, text).into_response()));
    }
    let known = provider.bearer(headers).filter(|(_, grant)| grant.dialect == Dialect::GitHub);
    let bad = || Box::new(message(StatusCode::UNAUTHORIZED, "Bad credentials"));
    let (mut user, grant) = known.ok_or_else(bad)?;
    let account = user.github.take().ok_or_else(bad)?;
    Ok((user, account, grant))
}

fn organization(login: &str) -> Value {
    json!({ "login": login, "id": number(login), "description": "" })
}

/// A stable number derived from a name.
fn number(name: &str) -> u32 {
    name.bytes().fold(5381_u32, |sum, byte| sum.wrapping_mul(33) ^ u32::from(byte)) >> 8
}

fn message(status: StatusCode, text: &str) -> Response {
    let body = json!({
        "message": text,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.as_str(),
    });
    bodies::json(status, &body)
}

fn with_scopes(grant: &Grant, mut response: Response) -> Response {
    if let Ok(scopes) = HeaderValue::from_str(&grant.scopes.join(", ")) {
        response.headers_mut().insert("x-oauth-scopes", scopes);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(query: &str, count: usize) -> (usize, Option<String>) {
        let uri: Uri = format!("/user/orgs{query}").parse().unwrap();
        let (items, link) = page("http://idp", &uri, vec![Value::Null; count]);
        (items.len(), link)
    }

    #[test]
    fn a_page_has_thirty_items_unless_asked_and_at_most_a_hundred() {
        assert_eq!(pages("", 231).0, 30);
        assert_eq!(pages("?per_page=50", 231).0, 50);
        assert_eq!(pages("?per_page=1000", 231).0, 100);
        assert_eq!(pages("?per_page=0", 231).0, 30);
    }

    #[test]
    fn links_lead_from_page_to_page_and_keep_the_query() {
        let (_, link) = pages("?state=active&per_page=100", 231);
        let link = link.unwrap();
        assert!(link.starts_with("<http://idp/user/orgs?state=active&per_page=100&page=2>; rel=\"next\", "), "{link}");
        let (count, link) = pages("?per_page=100&page=3", 231);
        assert_eq!(count, 31);
        assert!(!link.unwrap().contains("next"));
        assert_eq!(pages("", 30).1, None);
    }

    #[test]
    fn a_page_far_beyond_the_end_is_empty() {
        assert_eq!(pages("?page=18446744073709551615&per_page=100", 231).0, 0);
    }
}
