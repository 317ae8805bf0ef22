//! A server with TLS only, and a user with just the rights that sessions need.

use std::fs;

use tempfile::TempDir;

use super::{SECRET, at, log_out, signed_in};
use crate::support::redis::is_installed;
use crate::support::{Redis, Upstream, until};

/// The rights that `docs/sessions.md` lists.
fn rights() -> Vec<String> {
    let page = include_str!("../../../docs/sessions.md");
    let line = page.lines().find(|line| line.contains("user sidegate on")).expect("the page has the user");
    line.split_whitespace().skip_while(|word| *word != "~sidegate:*").map(str::to_owned).collect()
}

#[tokio::test]
async fn tls_and_a_user_with_few_rights() {
    if !is_installed() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) =
        (file("redis.crt", issued.cert.pem()), file("redis.key", issued.signing_key.serialize_pem()));
    let rights = rights();
    let mut user = vec!["--user", "sidegate", "on", ">hush-hush"];
    user.extend(rights.iter().map(String::as_str));
    let mut arguments = vec!["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    arguments.extend(user);
    let redis = Redis::start_with_tls(&arguments).await;
    let upstream = Upstream::start().await;
    // Another database than the first needs one more right.
    let url = |password: &str| format!("rediss://sidegate:{password}@localhost:{}/3", redis.port);
    let plan = at(&url("hush-hush"), &upstream).await.env("SESSION_REDIS_CA_FILE", &certificate);
    let (twin, wrong) = (plan.twin(), plan.twin().env("SESSION_REDIS_URL", url("canary")));
    let without_ca = plan.twin().without("SESSION_REDIS_CA_FILE");
    let (one, two) = (plan.start().await, twin.start().await);
    let token = signed_in(&one, "ann").await;
    assert_eq!(two.get_as(&token, "/x").await.status, 200);
    assert_eq!(log_out(&two, &token).await, 200);
    until("the logout holds", async || one.get_as(&token, "/x").await.status == 401).await;
    for proxy in [&one, &two] {
        assert!(!proxy.log().contains("more rights"), "{}", proxy.log());
    }
    let wrong = wrong.start_alone().await;
    wrong.logs("check user and password in SESSION_REDIS_URL").await;
    assert!(!wrong.log().contains("canary") && !wrong.log().contains(SECRET));
    assert_eq!(wrong.get_as(&token, "/x").await.status, 503);
    let without_ca = without_ca.start_alone().await;
    without_ca.logs("cannot be reached").await;
    assert_eq!(without_ca.get_as(&token, "/x").await.status, 503, "a certificate of nobody whom it trusts");
}
