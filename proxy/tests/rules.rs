//! Rules (`[[routes]]`) as seen by users, browsers and operators: access, responses and logs, and `sidegate explain`.

use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use dev_idp::{DevIdp, Lie, Options};
use http::{Request, Version};
use serde_json::{Value, json};

use crate::lasting::{endless, open, wait_until_aborted};
use crate::support::proxy::Plan;
use crate::support::{Browser, HOST, Proxy, Upstream, until};

const RULES: &str = r#"
[[routes]]
name = "assets"
path = "/assets/**"
allow = "public"

[[routes]]
name = "closed"
path = "/closed/**"
allow = "nobody"

[[routes]]
name = "team"
path = "/team/**"
allow = ["group:acme/platform", "bob"]

[[routes]]
name = "read"
path = "/wiki/**"
methods = ["GET"]
allow = "signed-in"
"#;

/// GitHub with `ann` on the list, and these rules.
async fn with_rules(rules: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream).await.env("OAUTH_ALLOWED_USERS", "ann").file(
        "SIDEGATE_CONFIG",
        "sidegate.toml",
        rules,
    )
}

fn explain(plan: &Plan, args: &[&str]) -> Output {
    plan.command().arg("explain").args(args).output().unwrap()
}

fn explained(plan: &Plan, args: &[&str]) -> Value {
    let output = explain(plan, &[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_public_path_is_open_to_everyone_and_carries_the_identity_of_a_user_who_is_signed_in() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let forged = Request::get("/assets/a.css").header("x-forwarded-user", "root").header("remote-user", "root");
    assert_eq!(proxy.send(forged).await.status.as_u16(), 200);
    let seen = upstream.last();
    assert_eq!((seen.header("x-forwarded-user"), seen.header("remote-user")), (String::new(), String::new()));
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/assets/a.css").await.status.as_u16(), 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), "ann");
    // A cookie without a valid session counts as signed out.
    assert_eq!(proxy.get_as("made-up", "/assets/a.css").await.status.as_u16(), 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), "");
}

#[tokio::test]
async fn what_a_public_rule_does_not_open_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    for path in [
        "/assets/../closed",
        "/assets/..%2fclosed",
        "/assets/%2e%2e/closed",
        "/assets//a",
        "/assets/a;b",
        "/assets/a%00",
        "/assets/./a",
        "/Assets/a",
        "/assets2",
        "/",
    ] {
        let answer = proxy.get(path).await;
        assert!([401, 403].contains(&answer.status.as_u16()), "{path}: {answer:?}");
    }
    assert!(upstream.received().is_empty());
    let too_many = format!("/{}", "a;b//%2e%2e%5c%252f;d/./x%23y%3fz%00.%20/".repeat(3));
    assert_eq!(proxy.get(&too_many).await.status.as_u16(), 400);
}

#[tokio::test]
async fn a_rules_own_list_lets_in_whom_it_names_and_nobody_else() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(
        ann.get("/team/x").await.status.as_u16(),
        200,
        "she is in acme/platform, which the rule made the proxy ask for"
    );
    // A user whom some rule might allow may sign in.
    let mut bob = proxy.signed_in_as("bob").await;
    assert_eq!(bob.get("/team/x").await.status.as_u16(), 200);
    assert_eq!(bob.get("/wiki/x").await.status.as_u16(), 200);
    assert_eq!(bob.get("/api/v1/auth/me").await.status.as_u16(), 200);
    let refused = bob.fetch("/").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "not_allowed"));
    assert_eq!(bob.send(Request::post("/wiki/x")).await.status.as_u16(), 403, "the rule is for GET");
    // With `signed-in`, every user of the provider gets a session.
    let mut eve = proxy.signed_in_as("eve").await;
    assert_eq!((eve.get("/wiki/x").await.status.as_u16(), eve.get("/team/x").await.status.as_u16()), (200, 403));
    proxy.logs("User not allowed: eve").await;
}

#[tokio::test]
async fn nobody_signs_in_whom_neither_a_list_nor_a_rule_could_let_in() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\npath = \"/p\"\nallow = \"public\"\n[[routes]]\npath = \"/n\"\nallow = \"nobody\"\n[[routes]]\npath = \"/b\"\nallow = [\"bob\"]";
    let proxy = with_rules(rules, &upstream).await.start().await;
    let mut eve = Browser::of(&proxy);
    let answer = eve.sign_in("eve").await;
    assert_eq!((answer.status.as_u16(), eve.cookie("session_token")), (403, None));
    proxy.signed_in_as("bob").await;
}

#[tokio::test]
async fn a_refusal_gives_its_rule_and_its_reason_on_the_page_in_the_log_and_in_the_metrics() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let mut eve = proxy.signed_in_as("eve").await;
    let page = eve.open("/team/x").await;
    assert_eq!(page.status.as_u16(), 403);
    assert!(page.text().contains("team") && page.text().contains("your account is not on its list"), "{}", page.text());
    let closed = proxy.get("/closed/x").await;
    assert_eq!((closed.status.as_u16(), closed.code().as_str()), (403, "not_allowed"), "no sign-in would help");
    until("the refusals are in the log", async || {
        let log = proxy.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refusals: Vec<Value> = lines.filter(|line| line["event"] == "not_allowed").collect();
        let has = |rule: &str, reason: &str| {
            refusals.iter().any(|line| line["rule"] == rule && line["reason"].as_str().unwrap().starts_with(reason))
        };
        has("team", "the rule's `allow` does not name this person") && has("closed", "the rule lets nobody in")
    })
    .await;
    proxy.get("/assets/x").await;
    let metrics = proxy.admin("/metrics").await.text();
    for line in [
        "sidegate_rule_permits_total{rule=\"assets\"} 1",
        "sidegate_rule_refusals_total{rule=\"team\",reason=\"not_named\"} 1",
        "sidegate_rule_refusals_total{rule=\"closed\",reason=\"nobody\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_navigation_is_sent_to_sign_in_and_comes_back_and_anything_else_is_refused() {
    let upstream = Upstream::start().await;
    let proxy = with_rules(RULES, &upstream).await.start().await;
    let mut browser = Browser::of(&proxy);
    let away = browser.open("/team/x?y=1").await;
    assert_eq!((away.status.as_u16(), away.location().as_str()), (302, "/api/v1/auth/login?rd=%2Fteam%2Fx%3Fy%3D1"));
    let refused = proxy.get("/team/x").await;
    assert_eq!((refused.status.as_u16(), refused.json()["login_url"].clone()), (401, json!("/api/v1/auth/login")));
}

#[tokio::test]
async fn an_old_sign_in_is_sent_to_sign_in_again_and_comes_back() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nname = \"deploy\"\npath = \"/deploy/**\"\nallow = [\"ann\"]\nmax_age = \"2s\"";
    let proxy = with_rules(rules, &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/deploy/x").await.status.as_u16(), 200);
    until("the sign-in is old", async || ann.fetch("/deploy/x").await.status.as_u16() == 401).await;
    assert_eq!(ann.fetch("/deploy/x").await.json()["login_url"], "/api/v1/auth/login?max_age=2");
    assert_eq!(ann.get("/x").await.status.as_u16(), 200, "elsewhere it is not too old");
    let away = ann.open("/deploy/x").await;
    assert_eq!(
        (away.status.as_u16(), away.location().as_str()),
        (302, "/api/v1/auth/login?rd=%2Fdeploy%2Fx&max_age=2")
    );
    let authorize = ann.open(&away.location()).await.location();
    let back = ann.follow_callback(&proxy.idp().approve(&authorize, "ann").unwrap()).await;
    assert_eq!((back.status.as_u16(), back.location().as_str()), (302, "/deploy/x"));
    assert_eq!(ann.get("/deploy/x").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_provider_that_sends_no_time_of_the_sign_in_is_no_way_round_max_age() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nname = \"deploy\"\npath = \"/deploy/**\"\nallow = [\"@example.com\"]\nmax_age = \"15m\"";
    let proxy = Proxy::with_sign_in("oidc", &upstream)
        .await
        .env("OAUTH_ALLOWED_USERS", "@example.com")
        .file("SIDEGATE_CONFIG", "sidegate.toml", rules)
        .start()
        .await;
    let mut ann = proxy.signed_in_as("ann").await;
    let step_up = async |ann: &mut Browser<'_>| {
        let away = ann.open("/deploy/x").await;
        assert_eq!(away.status.as_u16(), 302, "no auth_time that counts: {away:?}");
        let authorize = ann.open(&away.location()).await.location();
        assert!(authorize.contains("max_age=900") && authorize.contains("prompt=login"), "{authorize}");
        ann.follow_callback(&proxy.idp().approve(&authorize, "ann").unwrap()).await
    };
    #[expect(clippy::disallowed_methods, reason = "a test makes up moments")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for lie in [
        Lie::MissingClaim("auth_time".into()),
        Lie::Claim("auth_time".into(), json!(now - 1000)),
        Lie::Claim("auth_time".into(), json!("now")),
        Lie::Claim("auth_time".into(), json!(1e300)),
    ] {
        proxy.idp().control().lie(lie.clone());
        let back = step_up(&mut ann).await;
        assert_eq!(back.status.as_u16(), 403, "{lie:?} and no loop");
        // She is on the list: nobody needs to let her in.
        let page = back.text();
        assert!(page.contains("the sign-in service does not say that yours is"), "{lie:?}: {page}");
        assert!(page.contains("id=\"try-again\"") && !page.contains("Ask the operator"), "{lie:?}: {page}");
        proxy.idp().control().honest();
    }
    let back = step_up(&mut ann).await;
    assert_eq!((back.status.as_u16(), back.location().as_str()), (302, "/deploy/x"));
    assert_eq!(ann.get("/deploy/x").await.status.as_u16(), 200);
}

#[tokio::test]
async fn claims_that_rules_name_are_kept_by_every_store() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nname = \"money\"\npath = \"/money/**\"\nallow = [\"claim:department=finance\"]";
    for store in ["memory", "jwt"] {
        let proxy = Proxy::with_sign_in("oidc", &upstream)
            .await
            .env("OAUTH_ALLOWED_USERS", "@example.com")
            .env("SESSION_STORE", store)
            .env("SESSION_SECRET", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
            .file("SIDEGATE_CONFIG", "sidegate.toml", rules)
            .start()
            .await;
        for (claim, status) in [
            (json!("finance"), 200),
            (json!(["ops", "finance"]), 200),
            (json!("Finance"), 403),
            (json!("finance "), 403),
            (json!({ "name": "finance" }), 403),
            (json!(true), 403),
            (json!(null), 403),
        ] {
            proxy.idp().control().lie(Lie::Claim("department".into(), claim.clone()));
            let mut ann = proxy.signed_in_as("ann").await;
            assert_eq!(ann.get("/money/x").await.status.as_u16(), status, "{store}: {claim}");
            assert_eq!(ann.get("/x").await.status.as_u16(), 200);
            proxy.idp().control().honest();
        }
    }
}

#[tokio::test]
async fn what_is_open_is_asked_again_by_the_rules_of_the_moment() {
    let upstream = endless().await;
    let rules = |allow: &str| format!("[[routes]]\npath = \"/**\"\nallow = {allow}");
    let proxy = with_rules(&rules("\"signed-in\""), &upstream).await.start().await;
    let bob = proxy.signed_in_as("bob").await;
    let (_client, mut body) = open(&bob, &proxy, Version::HTTP_11, "/events").await;
    std::fs::write(proxy.folder().join("sidegate.toml"), rules("[\"ann\"]")).unwrap();
    proxy.signal("HUP");
    proxy.logs("the configuration was read again").await;
    assert!(wait_until_aborted(&mut body).await < Duration::from_secs(5));
}

#[tokio::test]
async fn a_wrong_rule_stops_the_start_and_changes_nothing_at_a_reload() {
    let upstream = Upstream::start().await;
    let plan = with_rules("[[routes]]\npath = \"x\"\nalow = \"public\"", &upstream).await;
    let output = plan.command().arg("check").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("sidegate.toml, line 2): does not begin with `/`"), "{text}");
    assert!(text.contains("line 3): is an unknown key; did you mean `allow`?"), "{text}");
    let proxy = with_rules(RULES, &upstream).await.start().await;
    std::fs::write(proxy.folder().join("sidegate.toml"), "[[routes]]\nallow = \"pubic\"").unwrap();
    proxy.signal("HUP");
    proxy.logs("the old one stays").await;
    assert_eq!(proxy.get("/assets/x").await.status.as_u16(), 200);
    assert!(proxy.admin("/readyz").await.text().contains("did you mean `public`?"));
}

#[tokio::test]
async fn headers_that_name_another_method_are_dropped_where_a_rule_names_methods() {
    let upstream = Upstream::start().await;
    let ask = || Request::get("/assets/x").header("x-http-method-override", "DELETE").header("x_http_method", "PUT");
    let proxy = with_rules(RULES, &upstream).await.start().await;
    assert_eq!(proxy.send(ask()).await.status.as_u16(), 200);
    let seen = upstream.last();
    assert_eq!((seen.header("x-http-method-override"), seen.header("x_http_method")), (String::new(), String::new()));
    let without = with_rules("[[routes]]\npath = \"/assets/**\"\nallow = \"public\"", &upstream).await.start().await;
    assert_eq!(without.send(ask()).await.status.as_u16(), 200);
    assert_eq!(upstream.last().header("x-http-method-override"), "DELETE");
}

#[tokio::test]
async fn a_rule_for_a_host_opens_that_host_and_both_hosts_must_be_let_in() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\nhost = \"*.open.example\"\nallow = \"public\"";
    let proxy = with_rules(rules, &upstream).await.env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    for (host, forwarded, status) in [
        ("a.open.example", None, 200),
        ("A.OPEN.example.:8080", None, 200),
        ("open.example", None, 401),
        ("a.open.example", Some("b.open.example"), 200),
        ("a.open.example", Some("evil.example"), 401),
        ("evil.example", Some("a.open.example"), 401),
    ] {
        let mut request = Request::get("/x").header("host", host);
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-host", forwarded);
        }
        assert_eq!(proxy.send(request).await.status.as_u16(), status, "{host} {forwarded:?}");
    }
}

#[tokio::test]
async fn a_sign_in_leads_back_to_another_host_that_a_rule_names() {
    let upstream = Upstream::start().await;
    let bare = HOST.split(':').next().unwrap();
    let other = format!("grafana.{bare}");
    let rules = format!("[[routes]]\nhost = \"{other}\"\nallow = \"signed-in\"");
    let proxy = with_rules(&rules, &upstream).await.env("COOKIE_DOMAIN", bare).start().await;
    let open = |host: &str| {
        Request::get("/d/x?y=1")
            .header("host", host)
            .header("accept", "text/html")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
    };
    let away = proxy.send(open(&other)).await;
    assert_eq!(decoded(&away.location()), format!("/api/v1/auth/login?rd=https://{other}/d/x?y=1"));
    let elsewhere = proxy.send(open("evil.example")).await;
    assert_eq!(decoded(&elsewhere.location()), "/api/v1/auth/login?rd=/d/x?y=1");
    let mut ann = Browser::of(&proxy);
    let authorize = ann.begin(&format!("https://{other}/d/x?y=1")).await;
    let back = ann.follow_callback(&proxy.idp().approve(&authorize, "ann").unwrap()).await;
    assert_eq!(back.location(), format!("https://{other}/d/x?y=1"));
    let mut eve = Browser::of(&proxy);
    let authorize = eve.begin("https://evil.example/").await;
    assert_eq!(eve.follow_callback(&proxy.idp().approve(&authorize, "ann").unwrap()).await.location(), "/");
}

/// A sign-in URL, with its `rd` decoded.
fn decoded(text: &str) -> String {
    let (path, query) = text.split_once("rd=").unwrap();
    let pairs: Vec<_> = url::form_urlencoded::parse(format!("rd={query}").as_bytes()).into_owned().collect();
    format!("{path}rd={}", pairs[0].1)
}

#[tokio::test]
async fn explain_says_what_would_be_answered_and_why() {
    let upstream = Upstream::start().await;
    let plan = with_rules(RULES, &upstream).await;
    for (args, code, decision, rule, line, reason) in [
        (&["--path", "/assets/x"][..], 0, "permit", json!("assets"), json!(2), "the rule is public"),
        (&["--path", "/assets/x?y=/../.."], 0, "permit", json!("assets"), json!(2), "the rule is public"),
        (&["--path", "/closed/x"], 1, "refuse", json!("closed"), json!(7), "the rule lets nobody in"),
        (&["--path", "/team/x"], 1, "refuse", json!("team"), json!(12), "unauthenticated"),
        (
            &["--path", "/team/x", "--user", "bob"],
            0,
            "permit",
            json!("team"),
            json!(12),
            "the rule's `allow` names the person",
        ),
        (
            &["--path", "/team/x", "--user", "ann", "--groups", "acme,acme/platform"],
            0,
            "permit",
            json!("team"),
            json!(12),
            "the rule's `allow` names",
        ),
        (
            &["--path", "/team/x", "--user", "ann"],
            1,
            "refuse",
            json!("team"),
            json!(12),
            "the rule's `allow` does not name",
        ),
        (
            &["--path", "/wiki/x", "--email", "eve@evil.example"],
            0,
            "permit",
            json!("read"),
            json!(17),
            "everyone who has signed in",
        ),
        (
            &["--path", "/wiki/x", "--method", "POST", "--id", "7"],
            1,
            "refuse",
            json!(null),
            json!(null),
            "no allow list names",
        ),
        (&["--path", "/x", "--user", "ann"], 0, "permit", json!(null), json!(null), "the allow lists name"),
        (&["--path", "/assets/../closed"], 1, "refuse", json!("closed"), json!(7), "nobody"),
    ] {
        let output = explain(&plan, &[args, &["--json"]].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {answer}");
        assert_eq!(
            (&answer["decision"], &answer["rule"], &answer["line"]),
            (&json!(decision), &rule, &line),
            "{args:?}"
        );
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{args:?}: {answer}");
        assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");
    }
    let readings = explained(&plan, &["--path", "/a/../b"])["readings"].clone();
    assert!(readings.as_array().unwrap().contains(&json!("/b")), "{readings}");
    let text = String::from_utf8(explain(&plan, &["--path", "/closed/x"]).stdout).unwrap();
    assert!(
        text.starts_with("refuse: the rule lets nobody in\nrule:     closed (line 7)\nreadings: /closed/x\n"),
        "{text}"
    );
    for wrong in
        [&["--provider", "corp", "--user", "ann"][..], &["--signed-in", "soon"], &["--claim", "x", "--user", "a"]]
    {
        assert_eq!(explain(&plan, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn explain_refuses_whom_an_upstream_cannot_act_as() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let token = plan.folder().join("token");
    std::fs::write(&token, "canary\n").unwrap();
    let text = format!(
        "[[upstreams]]\nname = \"kube\"\nurls = [\"http://127.0.0.1:1\"]\nimpersonate = true\ntoken_file = \"{}\"\n\n\
         [[routes]]\nname = \"cluster\"\npath = \"/kube/**\"\nallow = \"signed-in\"\nupstream = \"kube\"\n",
        token.display()
    );
    let plan = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &text);
    for (who, path, refusal) in [
        (["--user", "ann"], "/kube/x", None),
        (["--user", "system:admin"], "/kube/x", Some("Kubernetes' own")),
        (["--email", "ann@example.com"], "/kube/x", None),
        (["--user", "system:admin"], "/x", None),
    ] {
        let answer = explained(&plan, &[&who[..], &["--path", path]].concat());
        let decision = if refusal.is_some() { "refuse" } else { "permit" };
        assert_eq!(answer["decision"], decision, "{who:?} {path}: {answer}");
        // GitHub vouches for a username, which was not given.
        assert_eq!(answer["note"].is_string(), who[0] == "--email", "{answer}");
        if let Some(refusal) = refusal {
            assert!(answer["reason"].as_str().unwrap().contains(refusal), "{answer}");
            assert_eq!((&answer["rule"], &answer["line"]), (&json!("cluster"), &json!(7)), "{answer}");
        }
    }
    let refused = explain(&plan, &["--user", "system:admin", "--path", "/kube/x"]);
    assert_eq!(refused.status.code(), Some(1));
    let nobody = explained(&plan, &["--path", "/kube/x"]);
    assert_eq!(nobody["reason"], "unauthenticated");
}

#[tokio::test]
async fn explain_says_all_that_a_permit_depends_on() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await;
    let token = plan.folder().join("token");
    std::fs::write(&token, "canary\n").unwrap();
    let text = format!(
        "[[upstreams]]\nname = \"kube\"\nurls = [\"http://127.0.0.1:1\"]\nimpersonate = true\nimpersonate_user = \"id\"\n\
         token_file = \"{}\"\n\n[[routes]]\npath = \"/kube/**\"\nallow = [\"@example.com\"]\nmax_age = \"15m\"\nupstream = \"kube\"\n",
        token.display()
    );
    let plan = plan.file("SIDEGATE_CONFIG", "sidegate.toml", &text);
    let asked =
        |more: &[&str]| explained(&plan, &[&["--email", "ann@example.com", "--path", "/kube/x"], more].concat());
    let answer = asked(&[]);
    assert_eq!(answer["decision"], "permit", "{answer}");
    let note = answer["note"].as_str().unwrap();
    assert!(note.contains("add --id; ") && note.contains("`auth_time`"), "{note}");
    let answer = asked(&["--id", "7", "--signed-in", "5m"]);
    assert!(answer["decision"] == "permit" && answer.get("note").is_none(), "{answer}");
    assert_eq!(asked(&["--id", "system:serviceaccount:ci:bot"])["decision"], "refuse");
}

#[tokio::test]
async fn explain_says_where_a_permit_depends_on_a_time_that_a_provider_may_not_send() {
    let upstream = Upstream::start().await;
    let rules = "[[routes]]\npath = \"/deploy/**\"\nallow = [\"@example.com\"]\nmax_age = \"15m\"";
    for (provider, path, more, has_note) in [
        ("oidc", "/deploy/x", &[][..], true),
        ("entra", "/deploy/x", &[], true),
        ("oidc", "/deploy/x", &["--signed-in", "5m"], false),
        ("oidc", "/x", &[], false),
        ("github", "/deploy/x", &[], false),
    ] {
        let plan = Proxy::with_sign_in(provider, &upstream).await.file("SIDEGATE_CONFIG", "sidegate.toml", rules);
        let args = [&["--email", "ann@example.com", "--path", path][..], more].concat();
        let answer = explained(&plan, &args);
        assert_eq!(answer["decision"], "permit", "{provider} {args:?}: {answer}");
        let note = answer.get("note").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(note.contains("`auth_time`"), has_note, "{provider} {args:?}: {answer}");
        let output = explain(&plan, &args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            (text.contains("\nnote:     the rule's `max_age`"), output.status.code()),
            (has_note, Some(0)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn explain_agrees_with_the_request_path() {
    let upstream = Upstream::start().await;
    let plan = with_rules(RULES, &upstream).await;
    let twin = plan.twin().file("SIDEGATE_CONFIG", "sidegate.toml", RULES);
    let proxy = plan.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let pieces =
        ["/assets", "/closed", "/team", "/wiki", "/..", "/.", "//", "/%2e%2e", "%2f", ";x", "/a", "%61", "%00"];
    for n in 0..60_usize {
        let path: String = format!("{}{}{}", pieces[n % 4], pieces[(n * 7 + 4) % 13], pieces[(n * 5 + n / 13) % 13]);
        let method = ["GET", "POST"][n % 2];
        let args = ["--path", &path, "--method", method];
        let is_permit = |answer: &Value| answer["decision"] == "permit";
        let status = proxy.send(Request::builder().method(method).uri(&path)).await.status.as_u16();
        assert_eq!(status == 200, is_permit(&explained(&twin, &args)), "nobody {method} {path}: {status}");
        let status = ann.send(Request::builder().method(method).uri(&path)).await.status.as_u16();
        let whose = [&args[..], &["--user", "ann", "--groups", "acme,acme/platform"]].concat();
        assert_eq!(status == 200, is_permit(&explained(&twin, &whose)), "ann {method} {path}: {status}");
    }
}

#[tokio::test]
async fn rules_in_open_mode_close_nothing() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).file("SIDEGATE_CONFIG", "sidegate.toml", RULES).start().await;
    assert_eq!(proxy.get("/closed/x").await.status.as_u16(), 200);
}

#[test]
fn check_prints_what_is_in_force() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    std::fs::write(&path, RULES).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .env_clear()
        .env("SIDEGATE_CONFIG", &path)
        .env("LISTEN_ADDR", free.to_string())
        .args(["check", "--print"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("LISTEN_ADDR = {free}  (environment)")), "{text}");
    assert!(text.contains("rule team: path /team/** allow [group:acme/platform, bob]  (line 12)"), "{text}");
}

#[test]
fn the_front_pages_examples_go_behind_its_first_file_as_they_stand() {
    let first = examples("README.md", "Protect your own application").remove(0);
    let examples = examples("README.md", "Rules");
    assert_eq!(examples.len(), 3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    for example in examples {
        std::fs::write(&path, format!("{first}\n{example}")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let output = command.env_clear().arg("--config").arg(&path).arg("check").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{example}\n{stderr}");
    }
}

/// The example rules of a page, verbatim.
fn examples(page: &str, heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{}/../{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    section.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_examples_of_the_documentation_do_what_they_say() {
    let upstream = Upstream::start().await;
    let [assets, ci, deploy] = examples("README.md", "Rules").try_into().unwrap();
    let [api] = examples("docs/rules.md", "Examples").try_into().unwrap();
    let [preflight] = examples("docs/deployment.md", "CORS preflights").try_into().unwrap();
    // Ann is in acme and in acme/platform, zoe is in acme, bob is in neither.
    let start = async |rules: &str| {
        let plan = with_rules(rules, &upstream).await.env("OAUTH_ALLOWED_USERS", "ann,bob,zoe");
        plan.start().await
    };
    let proxy = start(&assets).await;
    let (mut ann, mut bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    assert_eq!((proxy.get("/assets/a.css").await.status.as_u16(), proxy.get("/").await.status.as_u16()), (200, 401));
    assert_eq!((ann.get("/admin/x").await.status.as_u16(), bob.get("/admin/x").await.status.as_u16()), (200, 403));
    assert_eq!(
        (bob.get("/").await.status.as_u16(), proxy.send(Request::post("/assets/x")).await.status.as_u16()),
        (200, 401)
    );

    let proxy = start(&api).await;
    let (mut ann, mut eve) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("eve").await);
    let writes = || Request::post("/api/x");
    assert_eq!((eve.get("/api/x").await.status.as_u16(), eve.send(writes()).await.status.as_u16()), (200, 403));
    assert_eq!((ann.get("/api/x").await.status.as_u16(), ann.send(writes()).await.status.as_u16()), (200, 200));

    // The test uses its own issuer.
    let actions = DevIdp::start(Options::default()).await.unwrap();
    let issuer = format!("{}/oidc", actions.origin());
    let proxy = start(&ci.replace("https://token.actions.githubusercontent.com", &issuer)).await;
    let workflow = |repository: &str| {
        let claims = json!({ "aud": "https://app.example.com", "sub": "workflow", "repository": repository });
        format!("Bearer {}", actions.access_token(&claims).unwrap())
    };
    let (ours, theirs) = (workflow("acme/app"), workflow("evil/app"));
    for (request, token, status) in [
        (Request::get("/api/x"), &ours, 200),
        (Request::post("/api/x"), &ours, 403),
        (Request::get("/x"), &ours, 403),
        (Request::get("/api/x"), &theirs, 403),
    ] {
        let answer = proxy.send(request.header("authorization", token)).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    }
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!((ann.get("/api/x").await.status.as_u16(), ann.send(writes()).await.status.as_u16()), (200, 200));

    let proxy = start(&deploy).await;
    let (mut ann, mut zoe) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("zoe").await);
    assert_eq!((ann.get("/deploy/x").await.status.as_u16(), zoe.get("/deploy/x").await.status.as_u16()), (200, 403));
    let plan = with_rules(&deploy, &upstream).await;
    let old = ["--path", "/deploy/x", "--user", "ann", "--groups", "acme,acme/platform", "--signed-in", "20m"];
    assert!(explained(&plan, &old)["reason"].as_str().unwrap().contains("older than the rule's `max_age`"));

    let proxy = start(&preflight).await;
    let options = async |path| proxy.send(Request::options(path)).await.status.as_u16();
    assert_eq!(
        (options("/api/x").await, options("/x").await, proxy.get("/api/x").await.status.as_u16()),
        (200, 401, 401)
    );
}
