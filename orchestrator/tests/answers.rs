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
async fn whoami_shows_the_identity_and_only_that_an_assertion_came() {
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
        answer
            .body
            .contains(r#"<span id="who" title="ann@example.com"><bdi>Ann &#60;b&#62;Müller&#60;/b&#62;</bdi></span>"#),
        "{}",
        answer.body
    );
    assert!(answer.body.contains(r#"<form method="post" action="/api/v1/auth/logout">"#));
    assert!(answer.body.contains(r#"<button id="sign-out" class="quiet-button" type="submit">"#));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let policy = answer.header("content-security-policy").unwrap();
    for part in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn in_open_mode_the_page_says_so_and_has_nothing_to_sign_out_of() {
    let answer = Orchestrator::start().await.ask("GET /", &[]).await;
    assert!(answer.body.contains("open mode: nobody is signed in"), "{}", answer.body);
    assert!(!answer.body.contains("sign-out"), "{}", answer.body);
}

#[tokio::test]
async fn without_scripts_a_page_says_what_it_needs() {
    let answer = Orchestrator::start().await.ask("GET /", &ANN).await;
    let (_, rest) = answer.body.split_once("<noscript>").unwrap();
    assert!(rest.split_once("</noscript>").unwrap().0.contains("These pages need JavaScript"), "{rest}");
}

#[tokio::test]
async fn every_page_is_the_same_document_and_nothing_else_is_a_page() {
    let orchestrator = Orchestrator::start().await;
    let html = "Accept: text/html,application/xhtml+xml";
    for page in ["/", "/clusters/1", "/clusters/1/Kustomization/a/b", "/resources?q=x", "/activity", "/settings"] {
        let answer = orchestrator.ask(&format!("GET {page}"), &[html]).await;
        assert_eq!((answer.status(), answer.body.contains(r#"<main id="main""#)), (200, true), "{page}");
    }
    for address in ["/nothing", "/clusters", "/clusters/1/Kustomization"] {
        let answer = orchestrator.ask(&format!("GET {address}"), &[html]).await;
        assert_eq!((answer.status(), answer.body.contains(r#"<main id="main""#)), (404, true), "{address}");
        assert!(answer.header("content-security-policy").is_some(), "{address}");
    }
}

#[tokio::test]
async fn all_that_the_page_loads_is_here() {
    let orchestrator = Orchestrator::start().await;
    let page = orchestrator.ask("GET /", &ANN).await.body;
    let loaded: Vec<&str> =
        page.split("\"").filter(|text| text.starts_with("/assets/") || text.contains("://")).collect();
    assert!(loaded.len() >= 20, "{loaded:?}");
    let mut imports = 0;
    for address in &loaded {
        let answer = orchestrator.ask(&format!("GET {address}"), &[]).await;
        assert_eq!((answer.status(), answer.header("x-content-type-options")), (200, Some("nosniff")), "{address}");
        assert!(answer.header("cache-control").unwrap().contains("immutable"), "{address}");
        let folder = address.rsplit_once('/').unwrap().0;
        for (import, _) in answer.body.split("from \"").skip(1).filter_map(|rest| rest.split_once('"')) {
            let file = match import.strip_prefix("../") {
                Some(name) => format!("{}/{name}", folder.rsplit_once('/').unwrap().0),
                None => format!("{folder}/{}", import.trim_start_matches("./")),
            };
            assert!(loaded.contains(&file.as_str()), "{address} imports {import}, which the page does not name");
            imports += 1;
        }
    }
    assert!(imports > 50, "{imports}");
}

#[tokio::test]
async fn a_file_under_the_address_of_another_version_is_not_kept() {
    let answer = Orchestrator::start().await.ask("GET /assets/0123456789abcdef/app.js", &[]).await;
    assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-store")));
}

#[test]
fn no_script_makes_markup_of_text() {
    let mut scripts = 0;
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/assets");
    for folder in [assets.clone(), assets.join("pages")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "js") {
                continue;
            }
            let script = std::fs::read_to_string(&path).unwrap();
            for door in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"]
            {
                assert!(!script.contains(door), "{}: {door}", path.display());
            }
            scripts += 1;
        }
    }
    assert!(scripts > 20, "{scripts}");
}

#[tokio::test]
async fn healthz_is_ok() {
    let answer = Orchestrator::start().await.ask("GET /healthz", &[]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn other_addresses_and_methods_are_refused() {
    let orchestrator = Orchestrator::start().await;
    for address in ["/nothing", "/assets/1/nothing.js", "/api/v1/nothing"] {
        let answer = orchestrator.ask(&format!("GET {address}"), &[]).await;
        assert_eq!((answer.status(), &answer.json()["error"]), (404, &json!("not_found")), "{address}");
    }
    let answer = orchestrator.ask("POST /api/v1/whoami", &["Content-Length: 0"]).await;
    assert_eq!((answer.status(), answer.header("allow")), (405, Some("GET,HEAD")));
}
