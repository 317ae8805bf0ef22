//! Signing in and out, over each provider.

use http::Request;

use crate::support::{Browser, Proxy, Upstream};

#[tokio::test]
async fn every_provider_signs_ann_in() {
    let upstream = Upstream::start().await;
    for kind in ["github", "entra", "oidc"] {
        let proxy = Proxy::with_sign_in(kind, &upstream).await.start().await;
        let mut ann = proxy.signed_in_as("ann").await;
        assert_eq!(ann.get("/x").await.text(), "hello from upstream");
        let me = ann.get("/api/v1/auth/me").await.json();
        assert_eq!(me["email"], "ann@example.com", "{kind}");
        assert_eq!(me["provider"], kind);
        assert_eq!(me.as_object().unwrap().len(), 5);
        let answer = ann.post("/api/v1/auth/logout").await;
        assert_eq!(answer.json()["message"], "Logged out successfully");
        assert_eq!(ann.get("/x").await.code(), "unauthenticated");
        proxy.logs(&format!("OAuth enabled with provider: {kind}")).await;
    }
}

#[tokio::test]
async fn a_copied_cookie_is_dead_after_logout() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let mut thief = Browser::of(&proxy);
    thief.set_cookie("session_token", ann.cookie("session_token").unwrap());
    assert_eq!(thief.get("/x").await.status, 200);
    ann.post("/api/v1/auth/logout").await;
    assert_eq!(thief.get("/x").await.status, 401);
    let answer = proxy.send(Request::post("/api/v1/auth/logout")).await;
    assert_eq!(answer.status, 200, "logout without a session");
}
