//! What each address answers.

use serde_json::json;

use crate::support::Orchestrator;

const ANN: [&str; 8] = [
    "X-Forwarded-User: ann",
    "X-Forwarded-Email: ann@example.com",
    "X-Forwarded-Preferred-Username: ann",
    "X-Forwarded-Groups: flux/admins,one%2Cgroup",
    "X-Forwarded-User-Id: 1001",
    "X-Forwarded-Name: Ann %3Cb%3EM%C3%BCller%3C/b%3E",
    "X-Forwarded-Provider: github",
    "X-Sidegate-Assertion: header.payload.signature",
];

#[tokio::test]
async fn whoami_tells_the_identity_and_only_that_an_assertion_came() {
    let answer = Orchestrator::start().await.ask("GET /api/v1/whoami", &ANN).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(!answer.body.contains("signature"), "{}", answer.body);
    assert_eq!(
        answer.json(),
        json!({
            "signed_in": true,
            "user": "ann",
            "email": "ann@example.com",
            "preferred_username": "ann",
            "groups": ["flux/admins", "one,group"],
            "user_id": "1001",
            "name": "Ann <b>Müller</b>",
            "provider": "github",
            "assertion": true,
            "headers": {
                "X-Forwarded-User": "ann",
                "X-Forwarded-Email": "ann@example.com",
                "X-Forwarded-Preferred-Username": "ann",
                "X-Forwarded-Groups": "flux/admins,one%2Cgroup",
                "X-Forwarded-User-Id": "1001",
                "X-Forwarded-Name": "Ann %3Cb%3EM%C3%BCller%3C/b%3E",
                "X-Forwarded-Provider": "github",
            },
        })
    );
}

#[tokio::test]
async fn whoami_without_identity_headers_is_nobody() {
    let answer = Orchestrator::start().await.ask("GET /api/v1/whoami", &[]).await;
    assert_eq!(answer.json(), json!({"signed_in": false, "assertion": false, "headers": {}}));
}

#[tokio::test]
async fn the_page_names_the_user_escaped_and_offers_to_sign_out() {
    let answer = Orchestrator::start().await.ask("GET /", &ANN).await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer.body.contains(r#"<h1 id="who"><bdi>Ann &#60;b&#62;Müller&#60;/b&#62;</bdi></h1>"#),
        "{}",
        answer.body
    );
    assert!(answer.body.contains(r#"<form method="post" action="/api/v1/auth/logout">"#));
    assert!(answer.body.contains(r#"<button id="sign-out" type="submit">"#));
    assert!(answer.body.contains("one,group"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[tokio::test]
async fn in_open_mode_the_page_says_so_and_has_nothing_to_sign_out_of() {
    let answer = Orchestrator::start().await.ask("GET /", &[]).await;
    assert!(answer.body.contains("open mode: nobody is signed in"), "{}", answer.body);
    assert!(!answer.body.contains("sign-out"), "{}", answer.body);
}

#[tokio::test]
async fn all_that_the_page_loads_is_here() {
    let orchestrator = Orchestrator::start().await;
    let page = orchestrator.ask("GET /", &ANN).await.body;
    let loaded: Vec<&str> =
        page.split("\"").filter(|text| text.starts_with("/assets/") || text.contains("://")).collect();
    assert!(loaded.len() >= 3, "{loaded:?}");
    for address in loaded {
        let answer = orchestrator.ask(&format!("GET {address}"), &[]).await;
        assert_eq!((answer.status(), answer.header("x-content-type-options")), (200, Some("nosniff")), "{address}");
    }
}

#[tokio::test]
async fn healthz_is_ok() {
    let answer = Orchestrator::start().await.ask("GET /healthz", &[]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn other_addresses_and_methods_are_refused() {
    let orchestrator = Orchestrator::start().await;
    for address in ["/nothing", "/assets/nothing", "/api/v1/nothing"] {
        let answer = orchestrator.ask(&format!("GET {address}"), &[]).await;
        assert_eq!((answer.status(), &answer.json()["error"]), (404, &json!("not_found")), "{address}");
    }
    let answer = orchestrator.ask("POST /api/v1/whoami", &["Content-Length: 0"]).await;
    assert_eq!((answer.status(), answer.header("allow")), (405, Some("GET,HEAD")));
}
