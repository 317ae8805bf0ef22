//! The log gives reasons: why a user is refused, what is wrong with a provider or an application, and what a reload changed.

use bytes::Bytes;
use dev_idp::{Endpoint, Fault, Lie};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::client::pieces;
use crate::support::wire::Answer;
use crate::support::{Browser, HOST, Proxy, Upstream, until};

/// The lines of a level that hold a text.
fn lines(proxy: &Proxy, level: &str, text: &str) -> Vec<Value> {
    let lines = proxy.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["level"] == level && line.to_string().contains(text)).collect()
}

/// The id of the refused requests here.
const REQUEST: &str = "0123456789abcdef0123456789abcdef";

/// The response to a callback with that request id.
async fn called_back(browser: &mut Browser<'_>, callback: &str) -> Answer {
    let path = callback.strip_prefix(&format!("http://{HOST}")).unwrap();
    browser.send(Request::get(path).header("accept", "text/html").header("x-request-id", REQUEST)).await
}

/// The page for a refused user.
async fn refusal_page(proxy: &Proxy, user: &str) -> String {
    let mut browser = Browser::of(proxy);
    let authorize = browser.begin("/").await;
    let callback = proxy.idp().approve(&authorize, user).unwrap();
    let answer = called_back(&mut browser, &callback).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let page = answer.text();
    assert!(page.contains(REQUEST), "the page names another request: {page}");
    page
}

/// Checks that a line with this text has the request id of the page.
async fn logs_with_the_request(proxy: &Proxy, level: &str, text: &str) {
    proxy.logs(text).await;
    let found = lines(proxy, level, text);
    assert!(found.iter().any(|line| line["request_id"] == REQUEST), "{found:?}");
}

#[tokio::test]
async fn an_email_that_nobody_vouches_for_is_named_in_the_log_and_on_the_page() {
    let upstream = Upstream::start().await;
    let oidc = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_ALLOWED_USERS", "ann@example.com");
    let (email, verified) = (json!("ann@example.com"), json!(false));
    for lie in [
        Lie::Claim("email".into(), email.clone()),
        Lie::Claim("email_verified".into(), verified.clone()),
        Lie::UserInfoClaim("email".into(), email),
        Lie::UserInfoClaim("email_verified".into(), verified),
    ] {
        oidc.idp().control().lie(lie);
    }
    let proxy = oidc.start().await;
    let page = refusal_page(&proxy, "ann").await;
    assert!(page.contains("vouches for no email address of this account"), "{page}");
    logs_with_the_request(&proxy, "INFO", "`email_verified` of ann@example.com is false").await;
    proxy.logs("User not allowed").await;
    let refusal = lines(&proxy, "INFO", "User not allowed").pop().unwrap();
    assert!(refusal["reason"].as_str().unwrap().contains("no email of this user counts"), "{refusal}");
    assert_eq!(refusal["id"], "oidc-ann");
}

#[tokio::test]
async fn groups_of_another_shape_are_named() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_ALLOWED_GROUPS", "ops");
    plan.idp().control().lie(Lie::Claim("groups".into(), json!([{"role": "ops"}, "dev"])));
    let proxy = plan.start().await;
    let page = refusal_page(&proxy, "ann").await;
    assert!(page.contains("sent some of your groups in a form that is not understood"), "{page}");
    logs_with_the_request(&proxy, "WARN", "1 of the 2 entries of `groups` are not names: an object").await;
    logs_with_the_request(&proxy, "INFO", "some groups came in a form that is not understood").await;
}

#[tokio::test]
async fn groups_and_addresses_that_may_not_be_read_are_named() {
    let upstream = Upstream::start().await;
    for (endpoint, in_the_log, on_the_page) in [
        (Endpoint::Memberships, "ask for the scope read:org", "did not let your groups be read"),
        (Endpoint::Emails, "ask for the scope user:email", "did not let your email addresses be read"),
    ] {
        let plan = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_ALLOWED_GROUPS", "no-such-org");
        plan.idp().control().fail(endpoint, Fault::Status(403));
        let proxy = plan.start().await;
        let page = refusal_page(&proxy, "ann").await;
        assert!(page.contains(on_the_page), "{page}");
        assert!(!page.contains("vouches for no email address"), "{page}");
        logs_with_the_request(&proxy, "WARN", in_the_log).await;
    }
}

#[tokio::test]
async fn organisations_that_github_leaves_out_are_named() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_ALLOWED_GROUPS", "no-such-org");
    plan.idp().control().lie(Lie::PartialLists);
    let proxy = plan.start().await;
    let page = refusal_page(&proxy, "ann").await;
    assert!(page.contains("GitHub left out organisations of yours that have single sign-on"), "{page}");
    logs_with_the_request(&proxy, "WARN", "partial-results; organizations=21955855,20582480").await;
}

/// A callback whose sign-in is valid, but another part of which makes it unusable.
#[tokio::test]
async fn a_callback_that_is_not_whole_is_refused_for_its_true_reason() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("oidc", &upstream).await.start().await;
    let ours = format!("{}/oidc is expected", proxy.idp().origin());
    let iss = format!("iss={}/oidc", proxy.idp().origin());
    let cases = [
        (format!("{iss}&state=STATE"), "neither a `code` nor an `error`", "without an answer"),
        (format!("{iss}&code=&state=STATE"), "neither a `code` nor an `error`", "without an answer"),
        (format!("{iss}&code=a&code=b&state=STATE"), "has `code` more than once", "holds a part of it twice"),
        (format!("{iss}&error=a&error=b&state=STATE"), "has `error` more than once", "holds a part of it twice"),
        (format!("{iss}&{iss}&code=a&state=STATE"), "has `iss` more than once", "holds a part of it twice"),
        (format!("{iss}&code=a&state=STATE&state=STATE"), "has `state` more than once", "holds a part of it twice"),
        (format!("{iss}&code=a"), "has no `state`", "does not say which sign-in"),
        (
            "iss=http://evil.example&code=a&state=STATE".to_owned(),
            ours.as_str(),
            "does not come from the sign-in service",
        ),
        ("code=a&state=STATE".to_owned(), ours.as_str(), "does not come from the sign-in service"),
    ];
    for (number, (query, in_the_log, on_the_page)) in cases.into_iter().enumerate() {
        let mut browser = Browser::of(&proxy);
        let callback = browser.approved("/", "ann").await;
        let state = callback.split("state=").nth(1).unwrap().split('&').next().unwrap();
        let path = format!("/api/v1/auth/callback?{}", query.replace("STATE", state));
        let id = format!("{REQUEST}-{number}");
        let request = Request::get(path).header("accept", "text/html").header("x-request-id", &id);
        let answer = browser.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text().contains("invalid_state")), (400, true), "{query}");
        let page = answer.text();
        assert!(page.contains(on_the_page) && page.contains("Sign-in did not work"), "{query}: {page}");
        assert!(!page.contains("ten minutes") && !page.contains("no longer valid"), "{query}: {page}");
        let refused = || lines(&proxy, "INFO", &id).into_iter().find(|line| line["message"] == "request refused");
        until("the refusal is logged", async || refused().is_some()).await;
        let reason = refused().unwrap()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(in_the_log), "{query}: {reason}");
        let all = proxy.log();
        let of_this: Vec<_> = all.lines().filter(|line| line.contains(&id)).collect();
        assert!(of_this.iter().all(|line| !line.contains("ten minutes")), "{query}: {of_this:?}");
    }
    let mut browser = Browser::of(&proxy);
    let callback = browser.approved("/", "ann").await;
    let cookies = browser.cookie_header();
    let again = || Request::get(&callback).header("accept", "text/html").header("cookie", &cookies);
    assert_eq!(proxy.send(again()).await.status, 302);
    let page = proxy.send(again()).await.text();
    assert!(page.contains("<p>It has been used before.</p>"), "{page}");
}

#[tokio::test]
async fn an_account_of_another_tenant_reads_so_on_the_page() {
    let upstream = Upstream::start().await;
    let tenants = format!("{},07e20000-0000-4000-8000-000000000000", dev_idp::users::CONTOSO);
    let plan = Proxy::with_sign_in("entra", &upstream).await;
    let proxy = plan.env("OAUTH_TENANT_ID", tenants).start().await;
    let page = refusal_page(&proxy, "mallory").await;
    assert!(page.contains("Accounts of your organisation, or of this kind, are not let in here."), "{page}");
    logs_with_the_request(&proxy, "INFO", "is not among those that OAUTH_TENANT_ID lets in").await;
}

#[tokio::test]
async fn what_counts_only_for_a_named_tenant_is_named_in_the_log() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", "common");
    let rules = "[[routes]]\npath = \"/finance/**\"\nallow = [\"claim:department=finance\"]\n";
    let plan = plan.env("OAUTH_ALLOWED_GROUPS", dev_idp::users::ADMIN_ROLE);
    let plan = plan.file("SIDEGATE_CONFIG", "sidegate.toml", rules);
    plan.idp().control().lie(Lie::Claim("department".into(), json!("finance")));
    let proxy = plan.start().await;
    let page = refusal_page(&proxy, "ann").await;
    assert!(page.contains("No list of this site names your account.") && !page.contains("not understood"), "{page}");
    let why = "not count: roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names";
    for what in ["The app roles and group names of 0b1ec700-", "The claim `department` of 0b1ec700-"] {
        logs_with_the_request(&proxy, "INFO", what).await;
        let found = lines(&proxy, "INFO", what);
        assert!(found.iter().all(|line| line["message"].as_str().unwrap().ends_with(why)), "{found:?}");
    }
    proxy.logs("and app roles, group names and claims that administrators can choose do not count").await;
}

#[tokio::test]
async fn of_a_personal_accounts_name_no_setting_is_named_that_is_not_for_entra() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("entra", &upstream).await.env("OAUTH_TENANT_ID", "common");
    let proxy = plan.env("OAUTH_ALLOWED_USERS", "ann@contoso.example").start().await;
    refusal_page(&proxy, "pat").await;
    proxy.logs("User not allowed").await;
    let refusal = lines(&proxy, "INFO", "User not allowed").pop().unwrap();
    let reason = refusal["reason"].as_str().unwrap();
    assert!(reason.contains("a personal account's user principal name is only displayed"), "{reason}");
    assert!(!refusal.to_string().contains("OAUTH_USERNAME_CLAIM"), "{refusal}");
}

#[tokio::test]
async fn somebody_on_no_list_reads_so_on_the_page() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("OAUTH_ALLOWED_USERS", "bob").start().await;
    let page = refusal_page(&proxy, "ann").await;
    assert!(page.contains("No list of this site names your account. Ask the operator"), "{page}");
}

/// A failure at the callback is logged under the request id of the page.
#[tokio::test]
async fn every_end_of_a_sign_in_is_logged_with_the_id_that_its_page_shows() {
    let upstream = Upstream::start().await;
    let ended = async |lies: &[Lie], code: &str, in_the_log: &str| {
        let plan = Proxy::with_sign_in("oidc", &upstream).await;
        lies.iter().for_each(|lie| plan.idp().control().lie(lie.clone()));
        let proxy = plan.start().await;
        let mut browser = Browser::of(&proxy);
        let authorize = browser.begin("/").await;
        let callback = proxy.idp().approve(&authorize, "ann").unwrap();
        if code == "invalid_state" {
            browser = Browser::of(&proxy);
        }
        let answer = called_back(&mut browser, &callback).await;
        let page = answer.text();
        assert!(page.contains(code) && page.contains(REQUEST), "{code}: {} {page}", answer.status);
        proxy.logs(in_the_log).await;
        let all_have_the_id =
            proxy.log().lines().filter(|line| line.contains(in_the_log)).all(|line| line.contains(REQUEST));
        assert!(all_have_the_id, "{code}: {}", proxy.log());
    };
    ended(&[], "invalid_state", "Invalid OAuth state").await;
    ended(&[Lie::ErrorAtCallback("access_denied".into())], "sign_in_cancelled", "access_denied").await;
    ended(&[Lie::ErrorAtCallback("server_error".into())], "provider_error", "server_error").await;
    ended(&[Lie::ForgedSignature], "token_exchange_failed", "OAuth token exchange failed").await;
    ended(&[Lie::MissingClaim("name".into()), Lie::OtherSubAtUserInfo], "user_info_failed", "Failed to get user info")
        .await;
}

#[tokio::test]
async fn both_issuers_are_shown_where_they_differ() {
    let upstream = Upstream::start().await;
    for lie in [Lie::WrongIssuer, Lie::WrongIssAtCallback] {
        let plan = Proxy::with_sign_in("oidc", &upstream).await;
        let ours = format!("{}/oidc is expected", plan.idp().origin());
        plan.idp().control().lie(lie.clone());
        let proxy = plan.start().await;
        assert!(Browser::of(&proxy).sign_in("ann").await.status.as_u16() >= 400);
        proxy.logs(&ours).await;
        let found = lines(&proxy, "INFO", &ours);
        assert!(found.iter().any(|line| line.to_string().contains("it says http")), "{lie:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_field_of_discovery_that_is_of_another_type_is_named() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await;
    plan.idp().control().lie(Lie::DiscoveryField("jwks_uri".into(), json!(7)));
    let proxy = plan.start_alone().await;
    let named = async || proxy.admin("/readyz").await.text().contains("`jwks_uri` is of another kind");
    until("readyz names the field", named).await;
}

/// A provider whose discovery redirects.
#[tokio::test]
async fn a_redirect_that_discovery_answers_is_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer =
                "HTTP/1.1 301 Moved\r\nlocation: https://idp.example/new?secret=1\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("oidc", &upstream).await.env("OAUTH_ISSUER_URL", format!("http://{address}"));
    let proxy = plan.start_alone().await;
    let named = async || proxy.admin("/readyz").await.text().contains("a redirect to https://idp.example/new:");
    until("readyz shows where it leads to", named).await;
    assert!(!proxy.admin("/readyz").await.text().contains("secret"), "a query is shown");
    // It was reached: a response is not "cannot be reached", and the text names the URL.
    let text = proxy.admin("/readyz").await.text();
    assert!(text.contains(&format!("{address}/.well-known/openid-configuration answered 301")), "{text}");
}

#[tokio::test]
async fn a_wrong_client_secret_is_an_error() {
    let upstream = Upstream::start().await;
    for kind in ["github", "oidc", "entra"] {
        let plan = Proxy::with_sign_in(kind, &upstream).await.env("OAUTH_CLIENT_SECRET", "another");
        let proxy = plan.start().await;
        assert_eq!(Browser::of(&proxy).sign_in("ann").await.status, 502);
        proxy.logs("nobody can sign in: the provider refuses this application").await;
        assert_eq!(lines(&proxy, "ERROR", "OAUTH_CLIENT_SECRET must be").len(), 1, "{kind}: {}", proxy.log());
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_is_logged_and_counted() {
    let upstream = Upstream::streaming(|_| async {
        let (mut sender, body) = pieces();
        tokio::spawn(async move {
            sender.send_data(Bytes::from_static(b"first")).await.unwrap();
            std::future::pending::<()>().await;
        });
        Response::new(body)
    })
    .await;
    let proxy = Proxy::open(&upstream).env("TIMEOUT_BODY", "300ms").start().await;
    let raw =
        proxy.raw(format!("GET /x HTTP/1.1\r\nhost: a\r\nx-request-id: {REQUEST}\r\nconnection: close\r\n\r\n")).await;
    assert!(raw.contains("first") && !raw.contains("never"), "{raw}");
    proxy.logs("an answer was cut off: it moved no byte for 300ms (TIMEOUT_BODY)").await;
    let cut = lines(&proxy, "INFO", "TIMEOUT_BODY");
    assert_eq!((cut.len(), &cut[0]["request_id"]), (1, &json!(REQUEST)), "{cut:?}");
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_bodies_cut_total{of=\"answer\"} 1"), "{metrics}");
    let upload = format!("POST /x HTTP/1.1\r\nhost: a\r\nx-request-id: {REQUEST}\r\ncontent-length: 9\r\n\r\nabc");
    proxy.raw(upload).await;
    logs_with_the_request(&proxy, "INFO", "a request's body was cut off").await;
}

/// Cookies that somebody may have planted.
#[tokio::test]
async fn sessions_that_do_not_count_are_logged_with_the_request() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let (ann, eve) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("eve").await);
    let token = |browser: &Browser<'_>| format!("session_token={}", browser.cookie("session_token").unwrap());
    let planted: Vec<_> = (0..9).map(|number| format!("session_token=planted-{number}")).collect();
    for (cookies, text) in [
        (format!("{}; {}", token(&ann), token(&eve)), "a request has two live sessions"),
        (planted.join("; "), "a request has more session cookies than are looked at"),
    ] {
        let request = Request::get("/x").header("cookie", cookies).header("x-request-id", REQUEST);
        assert_eq!(proxy.send(request).await.status, 401);
        logs_with_the_request(&proxy, "WARN", text).await;
        assert_eq!(lines(&proxy, "WARN", text)[0]["client"], "127.0.0.1");
    }
}

#[tokio::test]
async fn an_outage_is_one_line_when_it_begins_and_one_when_it_ends() {
    let upstream = Upstream::start().await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::open(&upstream).env("UPSTREAM_URL", format!("http://{address}")).start().await;
    for number in 0..5 {
        let request = Request::get("/x").header("x-request-id", format!("request-{number}"));
        assert_eq!(proxy.send(request).await.status, 502);
    }
    proxy.logs(&format!("cannot connect to the upstream http://{address}")).await;
    let warnings = lines(&proxy, "WARN", &format!("cannot connect to the upstream http://{address}"));
    assert_eq!((warnings.len(), &warnings[0]["request_id"]), (1, &json!("request-0")), "{warnings:?}");
    assert!(lines(&proxy, "WARN", "request-").len() == 1, "one line a failed request is too many: {}", proxy.log());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    for _ in 0..3 {
        assert_eq!(proxy.get("/x").await.status, 204);
    }
    proxy.logs("can be reached again").await;
    let over = lines(&proxy, "INFO", "can be reached again");
    assert_eq!((over.len(), &over[0]["failed"]), (1, &json!(5)), "{over:?}");
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_upstream_connect_errors_total{upstream=\"default\"} 5"), "{metrics}");
}

#[tokio::test]
async fn the_start_and_a_reload_say_what_is_served_and_what_changed() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let plan = plan
        .file("OAUTH_ALLOWED_USERS_FILE", "users", "ann\nbob\n")
        .file("SIDEGATE_CONFIG", "sidegate.toml", "session_ttl = \"1h\"\ntimeout_body = \"50s\"\n")
        .env("OAUTH_ALLOWED_GROUPS", "acme");
    let proxy = plan.start().await;
    let start = lines(&proxy, "INFO", "sidegate starts").pop().unwrap();
    for (field, value) in [
        ("upstream", json!(format!("http://{}", upstream.address))),
        ("public_url", json!(format!("http://{}/", HOST))),
        ("provider", json!("github")),
        ("store", json!("memory")),
        ("everyone", json!(false)),
        ("allowed_users", json!(2)),
        ("allowed_groups", json!(1)),
    ] {
        assert_eq!(start[field], value, "{start}");
    }
    let (config, users) = (proxy.folder().join("sidegate.toml"), proxy.folder().join("users"));
    std::fs::write(&config, "session_ttl = \"2h\"\ntimeout_body = \"50s\"\n").unwrap();
    proxy.logs("the configuration was read again; changed: SESSION_TTL").await;
    std::fs::write(&users, "ann\n").unwrap();
    proxy.logs(&format!("the configuration was read again; changed: {}", users.display())).await;
    proxy.signal("HUP");
    proxy.logs("the configuration was read again; changed: nothing").await;
}
