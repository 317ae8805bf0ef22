//! Microsoft Graph: the signed-in user, and the user's groups.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::bodies;
use crate::dialect::Dialect;
use crate::grants::Grant;
use crate::provider::{Origin, Provider};
use crate::users::{CONSUMERS, EntraAccount, User};

/// Graph's page sizes.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 999;
/// The delegated permissions for reading one's own groups; any one of them is enough.
const READS_GROUPS: &[&str] = &["user.read", "groupmember.read.all", "group.read.all", "directory.read.all"];

/// `GET /v1.0/me`.
pub(crate) async fn me(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (user, account) = match caller(&provider, &headers, &["user.read", "user.readwrite"]) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let mut body = json!({
        "@odata.context": format!("{origin}/v1.0/$metadata#users/$entity"),
        "id": graph_id(&account),
        "displayName": user.name,
        "mail": account.mail,
        "userPrincipalName": account.upn,
        "businessPhones": [],
        "givenName": null,
        "surname": null,
        "jobTitle": null,
        "mobilePhone": null,
        "officeLocation": null,
        "preferredLanguage": null,
    });
    if let Value::Object(fields) = &mut body
        && let Some(select) = option(&uri, "$select")
    {
        // `userType` is returned only on request.
        let kind = if account.upn.contains("#EXT#") { "Guest" } else { "Member" };
        fields.insert("userType".to_owned(), json!(kind));
        keep(fields, &select);
    }
    bodies::json(StatusCode::OK, &body)
}

/// `GET /v1.0/me/transitiveMemberOf`: groups, and the directory roles that come with them.
pub(crate) async fn member_of(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    memberships(&provider, &origin, &uri, &headers, true)
}

/// `GET /v1.0/me/transitiveMemberOf/microsoft.graph.group`: groups only.
pub(crate) async fn member_of_groups(
    State(provider): State<Arc<Provider>>,
    Origin(origin): Origin,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    memberships(&provider, &origin, &uri, &headers, false)
}

fn memberships(provider: &Provider, origin: &str, uri: &Uri, headers: &HeaderMap, roles: bool) -> Response {
    let (_, account) = match caller(provider, headers, READS_GROUPS) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    if account.tid == CONSUMERS {
        let text = "Personal Microsoft accounts have no groups.";
        return refuse(StatusCode::BAD_REQUEST, "BadRequest", text);
    }
    let mut items: Vec<Value> = Vec::new();
    if roles && !account.groups.is_empty() {
        items.push(json!({
            "@odata.type": "#microsoft.graph.directoryRole",
            "id": "d12ec700-0000-4000-8000-000000000001",
            "displayName": "Directory Readers",
        }));
    }
    items.extend(account.groups.iter().map(|id| {
        json!({
            "@odata.type": "#microsoft.graph.group",
            "id": id,
            "displayName": format!("Group {id}"),
            "securityEnabled": true,
        })
    }));
    let select = option(uri, "$select");
    if let Some(select) = &select {
        for item in &mut items {
            if let Value::Object(fields) = item {
                keep(fields, select);
            }
        }
    }
    bodies::json(StatusCode::OK, &page(origin, uri, items))
}

fn page(origin: &str, uri: &Uri, items: Vec<Value>) -> Value {
    let number = |name| option(uri, name).and_then(|value| value.parse::<usize>().ok());
    let size = number("$top").filter(|top| *top > 0).unwrap_or(PAGE).min(LARGEST_PAGE);
    let skipped = number("$skiptoken").unwrap_or(0).min(items.len());
    let reached = skipped.saturating_add(size);
    let mut body = json!({
        "@odata.context": format!("{origin}/v1.0/$metadata#directoryObjects"),
        "value": items.iter().skip(skipped).take(size).collect::<Vec<_>>(),
    });
    if reached < items.len() {
        let query = uri.query().unwrap_or_default();
        let others = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "$skiptoken");
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(others)
            .append_pair("$skiptoken", &reached.to_string())
            .finish();
        if let Value::Object(fields) = &mut body {
            let next = format!("{origin}{}?{query}", uri.path());
            fields.insert("@odata.nextLink".to_owned(), json!(next));
        }
    }
    body
}

/// The caller of Graph, if the token has one of `scopes` (in lower case).
fn caller(provider: &Provider, headers: &HeaderMap, scopes: &[&str]) -> Result<(User, EntraAccount), Box<Response>> {
    let invalid = || {
        let text = "The access token is missing, expired or unknown.";
        let mut response = refuse(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", text);
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        Box::new(response)
    };
    let known = provider.bearer(headers);
    let (mut user, grant) =
        known.filter(|(_, grant)| matches!(grant.dialect, Dialect::Entra(_))).ok_or_else(invalid)?;
    let account = user.entra.take().ok_or_else(invalid)?;
    if !permits(&grant, scopes) {
        let text = "Insufficient privileges to complete the operation: ask for the scope User.Read.";
        return Err(Box::new(refuse(StatusCode::FORBIDDEN, "Authorization_RequestDenied", text)));
    }
    Ok((user, account))
}

/// A scope may have the resource as a prefix (`https://graph.microsoft.com/User.Read`).
fn permits(grant: &Grant, scopes: &[&str]) -> bool {
    grant.scopes.iter().any(|granted| {
        let name = granted.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        name == ".default" || scopes.contains(&name.as_str())
    })
}

/// Graph's id of a personal account is the last 16 digits of its object id.
fn graph_id(account: &EntraAccount) -> String {
    if account.tid != CONSUMERS {
        return account.oid.clone();
    }
    let digits: String = account.oid.chars().filter(char::is_ascii_hexdigit).collect();
    digits.chars().skip(16).collect()
}

fn option(uri: &Uri, name: &str) -> Option<String> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.into_owned())
}

/// Keeps what `$select` names, and the annotations.
fn keep(fields: &mut Map<String, Value>, select: &str) {
    fields.retain(|name, _| name.starts_with('@') || select.split(',').any(|wanted| wanted.trim() == name));
}

fn refuse(status: StatusCode, code: &str, text: &str) -> Response {
    bodies::json(status, &json!({ "error": { "code": code, "message": text } }))
}
