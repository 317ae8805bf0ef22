//! Reloads: what takes effect, what stays the same, and that no request is affected.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::Value;

use crate::support::{Browser, Proxy, Upstream, until};

const OLD: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const NEW: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// Replaces a file atomically, as careful programs do.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// How many reloads have had this outcome (`succeeded`, `failed`).
async fn reloads(proxy: &Proxy, how: &str) -> usize {
    let metrics = proxy.admin("/metrics").await.text();
    let name = format!("sidegate_reloads_total{{result=\"{how}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{metrics}"));
    line.parse().unwrap()
}

/// Changes something, and waits for the resulting reload.
async fn after_reload(proxy: &Proxy, change: impl FnOnce()) {
    let before = reloads(proxy, "succeeded").await;
    change();
    until("a reload", async || reloads(proxy, "succeeded").await > before).await;
}

async fn upstream_with_text(text: &'static str) -> Upstream {
    Upstream::answering(move |_| Response::new(Full::new(Bytes::from_static(text.as_bytes())))).await
}

#[tokio::test]
async fn sighup_reads_again_though_nothing_changed_and_sessions_stay() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let pending = ann.begin("/deep").await;
    after_reload(&proxy, || proxy.signal("HUP")).await;
    proxy.logs("the configuration was read again").await;
    assert_eq!(ann.get("/x").await.status, 200);
    // Also a sign-in in progress, though the secret is random.
    let callback = proxy.idp().approve(&pending, "ann").unwrap();
    assert_eq!(ann.follow_callback(&callback).await.location(), "/deep");
}

#[tokio::test]
async fn a_reload_that_turns_sign_in_on_or_off_is_an_audit_event() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.without("OAUTH_ENABLED");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "oauth_enabled = false").start_alone().await;
    let events = || {
        let lines: Vec<Value> = proxy.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let audit = lines.into_iter().filter(|line| line["target"] == "sidegate::audit");
        audit.map(|line| line["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(events(), [""; 0]);
    let file = proxy.folder().join("sidegate.toml");
    after_reload(&proxy, || replace(&file, "oauth_enabled = true")).await;
    proxy.logs("OAuth enabled with provider: github").await;
    after_reload(&proxy, || replace(&file, "oauth_enabled = true\nsession_ttl = \"8h\"")).await;
    after_reload(&proxy, || replace(&file, "oauth_enabled = false")).await;
    proxy.logs("OAuth disabled: everything is forwarded without authentication").await;
    assert_eq!(events(), ["enabled", "disabled"]);
}

#[tokio::test]
async fn sighup_during_the_start_does_not_end_it() {
    let upstream = Upstream::start().await;
    let plan = Proxy::open(&upstream);
    let mut child = plan.command().stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    // The first line; it does not listen yet.
    log.read_line(&mut line).unwrap();
    assert!(line.contains("open mode") && !line.contains("ready"), "{line}");
    let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    while !line.contains("the configuration was read again") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended: {:?}", child.wait());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn an_upstream_changed_in_the_file_takes_the_next_requests() {
    let (one, two) = (upstream_with_text("one").await, upstream_with_text("two").await);
    let plan = Proxy::open(&one).without("UPSTREAM_URL");
    let proxy = plan
        .file("SIDEGATE_CONFIG", "sidegate.toml", &format!("upstream_url = \"http://{}\"", one.address))
        .start()
        .await;
    assert_eq!(proxy.get("/x").await.text(), "one");
    let config = proxy.folder().join("sidegate.toml");
    after_reload(&proxy, || replace(&config, &format!("upstream_url = \"http://{}\"", two.address))).await;
    assert_eq!(proxy.get("/x").await.text(), "two");
    // Written in place, as editors do.
    let before = reloads(&proxy, "succeeded").await;
    std::fs::write(&config, format!("upstream_url = \"http://{}\"", one.address)).unwrap();
    until("the first upstream answers again", async || proxy.get("/x").await.text() == "one").await;
    assert!(reloads(&proxy, "succeeded").await > before);
}

#[tokio::test]
async fn a_bad_configuration_is_reported_the_old_one_stays_and_a_fixed_one_takes_over() {
    let (one, two) = (upstream_with_text("one").await, upstream_with_text("two").await);
    let file = |upstream: &Upstream, more: &str| format!("upstream_url = \"http://{}\"\n{more}", upstream.address);
    let proxy = Proxy::open(&one)
        .without("UPSTREAM_URL")
        .file("SIDEGATE_CONFIG", "sidegate.toml", &file(&one, ""))
        .start()
        .await;
    let config = proxy.folder().join("sidegate.toml");
    let bad = format!("sesion_ttl = \"1h\"\ntimeout_idle = \"soon\"\nsession_secret = \"c2hvcnQtY2FuYXJ5\"\n{}", "");
    replace(&config, &file(&two, &bad));
    until("the reload fails", async || reloads(&proxy, "failed").await == 1).await;
    let ready = proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(text.starts_with("ready\nconfiguration: last reload failed: ") && text.lines().count() == 2, "{text}");
    assert!(text.contains("sesion_ttl"), "{text}");
    proxy.logs("the new configuration is wrong, the old one stays").await;
    let log = proxy.log();
    for what in ["did you mean `session_ttl`", "TIMEOUT_IDLE", "SESSION_SECRET"] {
        assert!(log.contains(what), "{what}: {log}");
    }
    assert!(!log.contains("c2hvcnQ") && !text.contains("c2hvcnQ"));
    assert!(proxy.admin("/metrics").await.text().contains("\nsidegate_config_last_reload_successful 0\n"));
    assert_eq!(proxy.get("/x").await.text(), "one");

    after_reload(&proxy, || replace(&config, &file(&two, ""))).await;
    assert_eq!(proxy.admin("/readyz").await.text(), "ready\n");
    assert!(proxy.admin("/metrics").await.text().contains("\nsidegate_config_last_reload_successful 1\n"));
    assert_eq!(proxy.get("/x").await.text(), "two");

    // Removed, and restored.
    std::fs::remove_file(&config).unwrap();
    until("readyz reports it", async || proxy.admin("/readyz").await.text().contains("cannot read the file")).await;
    assert_eq!(proxy.get("/x").await.text(), "two");
    after_reload(&proxy, || replace(&config, &file(&one, ""))).await;
    assert_eq!(proxy.get("/x").await.text(), "one");
}

#[tokio::test]
async fn a_configmap_swapped_as_kubernetes_does_is_read_again() {
    let (one, two) = (upstream_with_text("one").await, upstream_with_text("two").await);
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    for (version, upstream) in [("..2026_1", &one), ("..2026_2", &two)] {
        std::fs::create_dir(at(version)).unwrap();
        let text = format!("upstream_url = \"http://{}\"", upstream.address);
        std::fs::write(at(version).join("sidegate.toml"), text).unwrap();
    }
    symlink("..2026_1", at("..data")).unwrap();
    symlink("..data/sidegate.toml", at("sidegate.toml")).unwrap();
    let plan = Proxy::open(&one).without("UPSTREAM_URL");
    let proxy = plan.env("SIDEGATE_CONFIG", at("sidegate.toml").to_str().unwrap()).start().await;
    assert_eq!(proxy.get("/x").await.text(), "one");
    after_reload(&proxy, || {
        symlink("..2026_2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        std::fs::remove_dir_all(at("..2026_1")).unwrap();
    })
    .await;
    assert_eq!(proxy.get("/x").await.text(), "two");
}

#[tokio::test]
async fn a_user_taken_off_the_list_loses_access_with_the_session_still_there() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "users", "# people\r\n\r\nann\r\nbob\r\n").start().await;
    let users = proxy.folder().join("users");
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status, 200);
    after_reload(&proxy, || replace(&users, "bob\n")).await;
    for path in ["/x", "/api/v1/auth/me"] {
        let answer = ann.fetch(path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_allowed"), "{path}");
    }
    after_reload(&proxy, || replace(&users, "bob\nann\n")).await;
    assert_eq!(ann.get("/x").await.status, 200);
    // When it is deleted, the last good list stays valid; readyz and the log report it.
    std::fs::remove_file(&users).unwrap();
    until("readyz reports it", async || proxy.admin("/readyz").await.text().contains("OAUTH_ALLOWED_USERS_FILE")).await;
    proxy.logs("the old one stays").await;
    assert_eq!(ann.get("/x").await.status, 200);
    // When it is emptied, it allows no one.
    after_reload(&proxy, || replace(&users, "# nobody\n\n")).await;
    assert_eq!(ann.fetch("/x").await.code(), "not_allowed");
    assert_eq!(proxy.admin("/readyz").await.text(), "ready\n");
}

#[tokio::test]
async fn a_fifo_in_a_lists_place_is_reported_and_holds_up_no_other_reload() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let plan = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "oauth_allowed_users = [\"ann\"]");
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "users", "bob\n").start().await;
    let at = |name: &str| proxy.folder().join(name);
    let (mut ann, mut bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    std::fs::rename(at("fifo"), at("users")).unwrap();
    until("readyz reports it", async || proxy.admin("/readyz").await.text().contains("it is a FIFO")).await;
    assert_eq!(bob.get("/x").await.status, 200, "the last good list stays");
    // A user who is removed elsewhere still loses access.
    replace(&at("sidegate.toml"), "oauth_allowed_users = [\"eve\"]");
    until("the other list takes effect", async || ann.fetch("/x").await.status == 403).await;
    assert_eq!(bob.get("/x").await.status, 200);
    after_reload(&proxy, || {
        std::fs::remove_file(at("users")).unwrap();
        replace(&at("users"), "carl\n");
    })
    .await;
    until("the mended list takes effect", async || bob.fetch("/x").await.status == 403).await;
    until("readyz reports nothing", async || proxy.admin("/readyz").await.text() == "ready\n").await;
}

#[tokio::test]
async fn a_rotated_session_secret_keeps_the_sign_ins_that_are_under_way() {
    let upstream = Upstream::start().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("SESSION_SECRET_FILE", "secret", &format!("{OLD}\n")).start().await;
    let secret = proxy.folder().join("secret");
    let (mut ann, mut bob) = (Browser::of(&proxy), Browser::of(&proxy));
    let (anns, bobs) = (ann.begin("/a").await, bob.begin("/b").await);

    after_reload(&proxy, || replace(&secret, &format!("{NEW},{OLD}\n"))).await;
    let callback = proxy.idp().approve(&anns, "ann").unwrap();
    assert_eq!(ann.follow_callback(&callback).await.location(), "/a");
    assert_eq!(ann.get("/x").await.status, 200);

    // The old one is removed: what it sealed can no longer be opened, and sessions stay.
    after_reload(&proxy, || replace(&secret, &format!("{NEW}\n"))).await;
    let callback = proxy.idp().approve(&bobs, "bob").unwrap();
    let answer = bob.follow_callback(&callback).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(ann.get("/x").await.status, 200);
}

/// The key ids of the last assertion that the upstream received.
fn signed_by(upstream: &Upstream) -> String {
    let assertion = upstream.last().header("x-sidegate-assertion");
    let head = assertion.split('.').next().unwrap();
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head).unwrap();
    serde_json::from_slice::<Value>(&head).unwrap()["kid"].as_str().unwrap().to_owned()
}

async fn published(proxy: &Proxy) -> Vec<String> {
    let jwks = proxy.get("/api/v1/auth/jwks").await.json();
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn rotated_assertion_keys_are_both_published_and_the_first_signs_for_old_sessions_too() {
    let upstream = Upstream::start().await;
    let [old, new] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap().serialize_pem());
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("ASSERTION_KEY_FILE", "keys.pem", &old).start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    ann.get("/x").await;
    let first = signed_by(&upstream);
    assert_eq!(published(&proxy).await, std::slice::from_ref(&first));
    after_reload(&proxy, || replace(&proxy.folder().join("keys.pem"), &format!("{new}{old}"))).await;
    ann.get("/x").await;
    let second = signed_by(&upstream);
    assert_ne!(first, second);
    assert_eq!(published(&proxy).await, [second, first]);
}

#[tokio::test]
async fn a_reload_under_load_loses_no_request() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(&upstream).await;
    let ann = proxy.signed_in_as("ann").await;
    let cookie = ann.cookie_header();
    let done = std::sync::atomic::AtomicBool::new(false);
    let load = async |keeps: bool| {
        let mut sent = 0;
        let mut client = crate::support::client::Client::http1(proxy.address).await;
        while sent < 60 || !done.load(std::sync::atomic::Ordering::SeqCst) {
            if !keeps {
                client = crate::support::client::Client::http1(proxy.address).await;
            }
            let request = http::Request::get("/x").header("cookie", &cookie);
            let answer = client.send(request, crate::support::client::full("")).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(body, "hello from upstream");
            sent += 1;
        }
        sent
    };
    let hang_up = async {
        for _ in 0..10 {
            after_reload(&proxy, || proxy.signal("HUP")).await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (a, b, c, d, ()) = tokio::join!(load(true), load(true), load(false), load(false), hang_up);
    assert!(a + b + c + d >= 200);
    assert_eq!(upstream.received().len(), a + b + c + d);
}
