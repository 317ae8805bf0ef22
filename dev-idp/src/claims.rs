//! The claims of a user, correct, before any lie is applied.

use serde_json::{Map, Value, json};

use crate::grants::{Grant, s256};
use crate::users::{EntraAccount, OidcAccount, User};

/// Beyond this many groups Entra points to Graph in place of listing them in a JWT.
const OVERAGE: usize = 200;

/// A JSON object of claims.
pub(crate) type Claims = Map<String, Value>;

/// The ID token's claims about an Entra account (version 2.0).
pub(crate) fn entra(user: &User, account: &EntraAccount, grant: &Grant, origin: &str, client_id: &str) -> Claims {
    let mut claims = Claims::new();
    claims.insert("iss".to_owned(), json!(format!("{origin}/{}/v2.0", account.tid)));
    claims.insert("sub".to_owned(), json!(pairwise(account, client_id)));
    claims.insert("tid".to_owned(), json!(account.tid));
    claims.insert("ver".to_owned(), json!("2.0"));
    claims.insert("uti".to_owned(), json!(grant.id));
    claims.insert("sid".to_owned(), json!(session(&grant.id)));
    if grant.has_scope("profile") {
        claims.insert("oid".to_owned(), json!(account.oid));
        claims.insert("name".to_owned(), json!(user.name));
        claims.insert("preferred_username".to_owned(), json!(account.upn));
    }
    if grant.has_scope("email") {
        insert_some(&mut claims, "email", account.mail.as_ref());
        insert_some(&mut claims, "xms_edov", account.edov.as_ref());
    }
    if account.groups.len() > OVERAGE {
        let endpoint = format!("{origin}/{}/users/{}/getMemberObjects", account.tid, account.oid);
        claims.insert("_claim_names".to_owned(), json!({ "groups": "src1" }));
        claims.insert("_claim_sources".to_owned(), json!({ "src1": { "endpoint": endpoint } }));
    } else {
        insert_list(&mut claims, "groups", &account.groups);
    }
    insert_list(&mut claims, "roles", &account.roles);
    claims
}

/// The ID token's claims about an OpenID Connect account.
pub(crate) fn oidc(user: &User, account: &OidcAccount, grant: &Grant, origin: &str) -> Claims {
    let mut claims = if account.at_userinfo_only { Claims::new() } else { about(user, account, grant) };
    claims.insert("iss".to_owned(), json!(format!("{origin}/oidc")));
    claims.insert("sub".to_owned(), json!(account.sub));
    claims.insert("sid".to_owned(), json!(session(&grant.id)));
    claims
}

/// The session id at the provider: every sign-in has its own.
fn session(grant: &str) -> String {
    format!("sid-{grant}")
}

/// The claims of a logout token: the user, and, if there was a sign-in, its session.
pub(crate) fn logout(account: &OidcAccount, grant: Option<&Grant>, origin: &str) -> Claims {
    let mut claims = Claims::new();
    claims.insert("iss".to_owned(), json!(format!("{origin}/oidc")));
    claims.insert("sub".to_owned(), json!(account.sub));
    if let Some(grant) = grant {
        claims.insert("sid".to_owned(), json!(session(&grant.id)));
    }
    claims
}

/// The UserInfo claims of an OpenID Connect account.
pub(crate) fn oidc_userinfo(user: &User, account: &OidcAccount, grant: &Grant) -> Claims {
    let mut claims = about(user, account, grant);
    claims.insert("sub".to_owned(), json!(account.sub));
    claims
}

/// The claims of Entra's UserInfo (at Graph): fewer than in the ID token.
pub(crate) fn entra_userinfo(user: &User, account: &EntraAccount, grant: &Grant, client_id: &str) -> Claims {
    let mut claims = Claims::new();
    claims.insert("sub".to_owned(), json!(pairwise(account, client_id)));
    if grant.has_scope("profile") {
        claims.insert("name".to_owned(), json!(user.name));
    }
    if grant.has_scope("email") {
        insert_some(&mut claims, "email", account.mail.as_ref());
    }
    claims
}

fn about(user: &User, account: &OidcAccount, grant: &Grant) -> Claims {
    let mut claims = Claims::new();
    if grant.has_scope("profile") {
        claims.insert("name".to_owned(), json!(user.name));
        insert_some(&mut claims, "preferred_username", account.username.as_ref());
    }
    if grant.has_scope("email") {
        insert_some(&mut claims, "email", account.email.as_ref());
        insert_some(&mut claims, "email_verified", account.email_verified.as_ref());
    }
    insert_list(&mut claims, "groups", &account.groups);
    claims
}

/// Entra's `sub` differs between applications.
fn pairwise(account: &EntraAccount, client_id: &str) -> String {
    s256(&format!("{client_id}\n{}\n{}", account.tid, account.oid))
}

fn insert_some<T: Clone + Into<Value>>(claims: &mut Claims, name: &str, value: Option<&T>) {
    if let Some(value) = value {
        claims.insert(name.to_owned(), value.clone().into());
    }
}

fn insert_list(claims: &mut Claims, name: &str, list: &[String]) {
    if !list.is_empty() {
        claims.insert(name.to_owned(), json!(list));
    }
}
