//! `AUDIT=all`, and `sidegate simulate`: what a new configuration would change, for logged requests and for live sessions.

use std::process::Output;

use http::Request;
use serde_json::{Value, json};

use crate::support::proxy::Plan;
use crate::support::redis::is_installed;
use crate::support::{HOST, Proxy, Redis, Upstream, until};

const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";

async fn with_lists(upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream).await.env("OAUTH_ALLOWED_USERS", "ann,bob")
}

async fn simulate(plan: &Plan, arguments: &[&str]) -> Output {
    let mut command = plan.command();
    command.arg("simulate").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn every_decision_has_a_line_with_audit_all_and_simulate_makes_it_again() {
    let upstream = Upstream::start().await;
    let plan = with_lists(&upstream).await.env("AUDIT", "all").env("LOG_LEVEL", "info");
    let new = plan.twin().file(
        "SIDEGATE_CONFIG",
        "new.toml",
        "[[routes]]\nname = \"assets\"\npath = \"/assets/**\"\nallow = \"public\"\n\n\
         [[routes]]\nname = \"admin\"\nhost = \"app.example.com\"\npath = \"/admin/**\"\nallow = [\"bob\"]\n",
    );
    let same = plan.twin();
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    for path in ["/", "/admin/users?token=canary", "/admin/users"] {
        assert_eq!(ann.get(path).await.status, 200);
    }
    assert_eq!(proxy.get("/assets/app.css").await.status, 401);
    proxy.logs("Refused: GET /assets/app.css").await;
    let log = proxy.log();
    assert!(!log.contains("canary"), "a query is in the log");
    let decisions = proxy.decisions();
    let said: Vec<_> = decisions.iter().map(|line| (&line["decision"], &line["path"], &line["username"])).collect();
    let (permit, refuse, who) = (json!("permit"), json!("refuse"), json!("ann"));
    assert_eq!(
        said,
        [
            (&permit, &json!("/"), &who),
            (&permit, &json!("/admin/users"), &who),
            (&permit, &json!("/admin/users"), &who),
            (&refuse, &json!("/assets/app.css"), &Value::Null),
        ]
    );
    assert_eq!((&decisions[0]["host"], &decisions[0]["method"]), (&json!(HOST), &json!("GET")));

    let file = proxy.folder().join("audit.log");
    std::fs::write(&file, log.replace(HOST, "app.example.com")).unwrap();
    let audit = ["--audit", file.to_str().unwrap()];
    let unchanged = simulate(&same, &audit).await;
    assert_eq!(unchanged.status.code(), Some(0), "{unchanged:?}");
    assert_eq!(text(&unchanged.stdout), "nothing changes over 4 decisions and 0 sessions\n");
    let changed = simulate(&new, &[audit[0], audit[1], "--json"]).await;
    assert_eq!(changed.status.code(), Some(1), "{changed:?}");
    let changed: Value = serde_json::from_slice(&changed.stdout).unwrap();
    let (lost, gained) = (changed["lost"].as_array().unwrap(), changed["gained"].as_array().unwrap());
    assert_eq!((lost.len(), gained.len()), (1, 1), "{changed:#}");
    assert_eq!((&lost[0]["rule"], &lost[0]["line"], &lost[0]["times"]), (&json!("admin"), &json!(6), &json!(2)));
    assert_eq!(lost[0]["person"], decisions[0]["email"]);
    assert_eq!((&gained[0]["rule"], &gained[0]["person"]), (&json!("assets"), &Value::Null));
}

#[tokio::test]
async fn what_no_rule_was_asked_about_has_a_line_too_and_no_rule_changes_it() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("AUDIT", "all");
    let plan = plan.env("OAUTH_BEARER_AUDIENCES", "https://app.example.com");
    let open = plan.twin().file("SIDEGATE_CONFIG", "new.toml", "[[routes]]\nallow = \"public\"\n");
    let proxy = plan.start().await;
    let with = |fields: &str| Request::get("/x?token=canary").header("authorization", fields);
    assert_eq!(proxy.send(with("Bearer canary.canary.canary")).await.status, 401);
    assert_eq!(proxy.send(with("Bearer")).await.status, 400);
    assert_eq!(proxy.get(&format!("/{}", "a;b//%2e%2e%5c%252f;d/./x%23y%3fz%00.%20/".repeat(3))).await.status, 400);
    until("each has a line", async || proxy.decisions().len() == 3).await;
    let said: Vec<_> = proxy.decisions().iter().map(|line| (line["code"].clone(), line["decision"].clone())).collect();
    let codes = ["unauthenticated", "invalid_request", "bad_request"];
    assert_eq!(said, codes.map(|code| (json!(code), json!("refuse"))));
    assert!(proxy.decisions()[0]["reason"].as_str().unwrap().contains("bearer token"));
    assert!(!proxy.log().contains("canary"));
    let file = proxy.folder().join("audit.log");
    std::fs::write(&file, proxy.log()).unwrap();
    let output = simulate(&open, &["--audit", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected =
        "nothing changes over 3 decisions and 0 sessions; refused before any rule was asked, and not asked again: 3\n";
    assert_eq!(text(&output.stdout), expected);
}

#[tokio::test]
async fn without_audit_all_only_refusals_of_people_have_a_line() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let rules = "[[routes]]\npath = \"/admin/**\"\nallow = [\"bob\"]\n";
    let plan = plan.env("LOG_LEVEL", "info").file("SIDEGATE_CONFIG", "sidegate.toml", rules);
    let open = plan.twin().without("SIDEGATE_CONFIG");
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    ann.get("/").await;
    assert_eq!(ann.get("/admin/x").await.status, 403);
    proxy.logs("User not allowed").await;
    let log = proxy.log();
    assert!(!log.contains("\"decision\":\"permit\""), "{log}");
    let file = proxy.folder().join("audit.log");
    std::fs::write(&file, log).unwrap();
    let changed = simulate(&open, &["--audit", file.to_str().unwrap()]).await;
    assert_eq!(changed.status.code(), Some(1));
    let stdout = text(&changed.stdout);
    assert!(stdout.starts_with("gained: ann@"), "{stdout}");
    assert!(stdout.contains(&format!("GET {HOST}/admin/x")), "{stdout}");
}

#[tokio::test]
async fn sessions_that_nothing_would_let_in_any_more_are_reported() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = with_lists(&upstream).await.env("SESSION_STORE", "redis").env("SESSION_REDIS_URL", redis.url());
    let plan = plan.env("SESSION_SECRET", SECRET);
    let (same, new) = (plan.twin(), plan.twin().env("OAUTH_ALLOWED_USERS", "bob"));
    let proxy = plan.start().await;
    let (_ann, _bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let unchanged = simulate(&same, &["--sessions"]).await;
    assert_eq!(text(&unchanged.stdout), "nothing changes over 0 decisions and 2 sessions\n", "{unchanged:?}");
    let changed = simulate(&new, &["--sessions"]).await;
    assert_eq!(changed.status.code(), Some(1), "{changed:?}");
    let stdout = text(&changed.stdout);
    assert!(stdout.starts_with("lost:   ann@") && stdout.contains("every access"), "{stdout}");
    assert!(!stdout.contains("bob"), "{stdout}");
}

#[tokio::test]
async fn what_cannot_be_simulated_is_an_error_that_names_the_remedy() {
    let upstream = Upstream::start().await;
    let plan = with_lists(&upstream).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("other.log");
    std::fs::write(&file, "{\"message\":\"sidegate is ready\"}\n").unwrap();
    let text_lines = folder.path().join("text.log");
    std::fs::write(&text_lines, "INFO sidegate is ready\n\n{\"decision\":\"permit\"}\n").unwrap();
    for (arguments, remedy) in [
        (&[][..], "--audit FILE, --sessions"),
        (&["--audit", "/no/such/file"], "/no/such/file"),
        (&["--audit", file.to_str().unwrap()], "no decision is in it. Decisions are written with AUDIT=all"),
        (&["--audit", text_lines.to_str().unwrap()], "2 lines could not be read"),
        (&["--audit", text_lines.to_str().unwrap()], "LOG_FORMAT=json"),
        (&["--sessions"], "SESSION_STORE is `memory`"),
    ] {
        let output = simulate(&plan, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(remedy), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}
