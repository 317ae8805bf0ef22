//! All routes of the provider.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

use crate::provider::Provider;
use crate::{authorize, control, control_api, entra, github, graph, oddities, oidc};

/// The longest form that is read, in bytes.
const LONGEST_FORM: usize = 64 * 1024;

pub(crate) fn router(provider: Arc<Provider>, allow_control: bool) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/login/oauth/authorize", get(authorize::ask))
        .route("/login/oauth/authorize/decision", post(authorize::decide))
        .route("/login/oauth/access_token", post(github::token))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(entra::discovery))
        .route("/{tenant}/discovery/v2.0/keys", get(entra::keys))
        .route("/{tenant}/oauth2/v2.0/authorize", get(authorize::ask))
        .route("/{tenant}/oauth2/v2.0/authorize/decision", post(authorize::decide))
        .route("/{tenant}/oauth2/v2.0/token", post(entra::token))
        .route("/{tenant}/oauth2/v2.0/logout", get(oidc::end_session).post(oidc::end_session))
        .route("/v1.0/me", get(graph::me))
        .route("/v1.0/me/transitiveMemberOf", get(graph::member_of))
        .route("/v1.0/me/transitiveMemberOf/microsoft.graph.group", get(graph::member_of_groups))
        .route("/oidc/.well-known/openid-configuration", get(oidc::discovery))
        .route("/oidc/jwks", get(oidc::jwks))
        .route("/oidc/authorize", get(authorize::ask))
        .route("/oidc/authorize/decision", post(authorize::decide))
        .route("/oidc/token", post(oidc::token))
        .route("/oidc/userinfo", get(oidc::userinfo).post(oidc::userinfo))
        .route("/oidc/end_session", get(oidc::end_session).post(oidc::end_session));
    for api in ["", "/api/v3"] {
        router = router
            .route(&format!("{api}/applications/{{client_id}}/token"), post(github::check))
            .route(&format!("{api}/user"), get(github::user))
            .route(&format!("{api}/user/emails"), get(github::emails))
            .route(&format!("{api}/user/orgs"), get(github::orgs))
            .route(&format!("{api}/user/teams"), get(github::teams))
            .route(&format!("{api}/user/memberships/orgs"), get(github::memberships));
    }
    if allow_control {
        router = router.merge(control_api::router());
    }
    router
        .layer(DefaultBodyLimit::max(LONGEST_FORM))
        .layer(middleware::from_fn_with_state(provider.control.clone(), control::intercept))
        .layer(middleware::from_fn_with_state(Arc::clone(&provider), oddities::intercept))
        .with_state(provider)
}
