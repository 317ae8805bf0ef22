//! `[[upstreams]]` of the file: the meaning of each key, and the text of each error.

use std::fs;

use super::*;
use crate::adapters::providers::ProviderSettings;
use crate::config::trial::{GITHUB, sources};
use crate::config::{Faults, Loaded, load};
use crate::serve::settings::Mode;

fn loads(text: &str) -> Result<Loaded, Faults> {
    loads_with(text, &[])
}

fn loads_with(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    fs::write(folder.path().join("none.pem"), "none").unwrap();
    fs::write(&path, text.replace("DIR", folder.path().to_str().unwrap())).unwrap();
    load(&sources(&["--config", path.to_str().unwrap()], &[GITHUB, env]))
}

fn faults(text: &str) -> Vec<String> {
    let all = loads(text).err().unwrap_or_else(|| panic!("no fault in {text}")).to_string();
    all.lines().map(str::to_owned).collect()
}

#[test]
fn an_upstream_has_what_is_written_and_the_usual_limits() {
    let loaded = loads(
        r#"
        timeout_body = "7s"
        [[upstreams]]
        name = "grafana"
        urls = ["http://grafana-1:3000", "unix:/run/g.sock"]
        strip_prefix = "/grafana/"
        host = "upstream"
        health = "/healthz?full=1"
        timeout_first_byte = "2s"
        limit_body = 1_000
        ignore_case = true
        [upstreams.response_headers]
        set = { "X-Frame-Options" = "DENY" }
        remove = ["Server"]
        [upstreams.identity]
        "X-WEBAUTH-USER" = "username"
        "X-Groups" = { value = "claim:teams", separator = " " }
        [[upstreams]]
        name = "plain"
        urls = "https://plain"
        identity = "none"
        [[routes]]
        upstream = "grafana"
        path = "/grafana/**"
        [[routes]]
        "#,
    )
    .unwrap_or_else(|faults| panic!("{faults}"));
    let [grafana, plain] = loaded.settings.upstreams.as_slice() else { panic!("two") };
    assert_eq!(
        grafana.pool.urls.iter().map(|url| url.address.origin()).collect::<Vec<_>>(),
        ["http://grafana-1:3000", "unix:/run/g.sock"]
    );
    assert_eq!(grafana.pool.health, Some(Health { path: "/healthz?full=1".into(), every: Duration::from_secs(10) }));
    let manner = &grafana.manner;
    assert_eq!(
        (manner.strip_prefix.as_deref(), manner.keeps_host, manner.limit_body),
        (Some("/grafana"), false, Some(1000))
    );
    assert_eq!((manner.first_byte, manner.body), (Duration::from_secs(2), Duration::from_secs(7)));
    assert_eq!((manner.set.len(), manner.remove.len()), (1, 1));
    let IdentityChoice::Table(table) = &grafana.identity else { panic!("a table") };
    assert_eq!((table.fields.len(), table.claims().collect::<Vec<_>>()), (2, vec!["teams"]));
    assert!(
        plain.pool.urls[0].trust.offers_http2 && plain.identity == IdentityChoice::Nothing && plain.manner.keeps_host
    );
    let [to_grafana, rest] = loaded.settings.rules.as_slice() else { panic!("two rules") };
    assert!(to_grafana.ignores_case && !rest.ignores_case);
    let text = loaded.effective.join("\n");
    assert!(
        text.contains("upstream grafana: urls [http://grafana-1:3000, unix:/run/g.sock] strip_prefix /grafana"),
        "{text}"
    );
    assert!(text.contains("identity [x-webauth-user, x-groups]  (line 3)"), "{text}");
}

#[test]
fn an_id_token_needs_a_store_that_keeps_it_and_a_provider_that_gives_it() {
    const OIDC: [(&str, &str); 2] = [("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", "https://id.example.com")];
    const SECRET: (&str, &str) = ("SESSION_SECRET", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=");
    const TABLE: &str = "\n[identity]\n\"Authorization\" = { value = \"id_token\", prefix = \"Bearer \" }\n";
    let keeps = |text: &str, env: &[(&str, &str)]| {
        let loaded = loads_with(text, env).unwrap_or_else(|faults| panic!("{faults}"));
        let Mode::SignIn(sign_in) = loaded.settings.mode else { panic!("open mode") };
        let (ProviderSettings::Github { client, .. }
        | ProviderSettings::Entra { client, .. }
        | ProviderSettings::Oidc { client, .. }) = sign_in.provider;
        (client.keeps_id_token, loaded.warnings.join("\n"))
    };
    let (kept, warnings) = keeps(TABLE, &OIDC);
    assert!(kept && !warnings.contains("id_token"), "{warnings}");
    assert!(!keeps("", &OIDC).0);
    let (_, warnings) = keeps(TABLE, &[]);
    assert!(warnings.contains("s.toml, line 3): asks for `id_token`, and GitHub gives none"), "{warnings}");
    let jwt = [&OIDC[..], &[("SESSION_STORE", "jwt"), SECRET]].concat();
    let faults = loads_with(TABLE, &jwt).err().unwrap().to_string();
    assert!(faults.contains("identity.Authorization (") && faults.contains("line 3): asks for `id_token`"), "{faults}");
    for bad in ["as = \"repeated\"", "separator = \"|\"", "only = [\"a\"]"] {
        let text = format!("[identity]\n\"X-A\" = {{ value = \"id_token\", {bad} }}\n");
        assert!(loads_with(&text, &OIDC).is_err(), "{bad}");
    }
}

#[test]
fn each_fault_has_its_line_and_what_would_be_right() {
    let with = |more: &str| format!("[[upstreams]]\nname = \"x\"\nurls = [\"http://x\"]\n{more}");
    let tls = |more: &str| format!("[[upstreams]]\nname = \"x\"\nurls = [\"https://x\"]\n{more}");
    for (text, line, says) in [
        ("[[upstreams]]\nurls = [\"http://x\"]".to_owned(), 1, "is missing: rules lead"),
        ("[[upstreams]]\nname = \"x\"".to_owned(), 1, "is missing: it says where"),
        ("[[upstreams]]\nname = \"X\"\nurls = [\"http://x\"]".to_owned(), 2, "small letters"),
        ("[[upstreams]]\nname = \"default\"\nurls = [\"http://x\"]".to_owned(), 2, "UPSTREAM_URL is called"),
        ("[[upstreams]]\nname = \"x\"\nurls = []".to_owned(), 3, "holds nothing"),
        (
            "[[upstreams]]\nname = \"x\"\nurls = [\n\"http://a\",\n\"http://b/path\"]".to_owned(),
            5,
            "end with its host and port",
        ),
        ("[[upstreams]]\nname = \"x\"\nurls = [\"http://u:canary@a\"]".to_owned(), 3, "name or a password"),
        ("[[upstreams]]\nname = \"x\"\nurls = [\"http://a\", \"http://a:80\"]".to_owned(), 3, "twice"),
        ("[[upstreams]]\nname = \"x\"\nurls = [\"http://127.0.0.1:8080\"]".to_owned(), 3, "LISTEN_ADDR itself"),
        ("[upstreams]\nname = \"x\"".to_owned(), 1, "two brackets"),
        (with("[[upstreams]]\nname = \"x\"\nurls = [\"http://y\"]"), 4, "in line 1"),
        (with("url = \"x\""), 4, "did you mean `urls`?"),
        (with("strip_prefix = \"grafana\""), 4, "front of a path"),
        (with("strip_prefix = \"/a/../b\""), 4, "segment"),
        (with("strip_prefix = \"/\""), 4, "front of a path"),
        (with("host = \"kep\""), 4, "`keep`"),
        (with("health = \"healthz\""), 4, "must be a path"),
        (with("health_every = \"10s\""), 4, "without `health`"),
        (with("health = \"/h\"\nhealth_every = \"1ms\""), 5, "from 1s"),
        (with("ca_file = \"DIR/none.pem\""), 4, "for `https` and `h2`"),
        (tls("ca_file = \"DIR/none.pem\""), 4, "no certificate"),
        (tls("client_cert_file = \"DIR/none.pem\""), 4, "without its key"),
        (tls("server_name = \"a b\""), 4, "no host name"),
        (with("timeout_connect = \"0\""), 4, "from 10ms"),
        (with("timeout_body = 5"), 4, "is a number"),
        (with("limit_body = 0"), 4, "from 1"),
        (with("limit_body = \"1\""), 4, "whole number"),
        (with("response_headers = { set = { \"Set-Cookie\" = \"a=1\" } }"), 4, "cookies"),
        (with("response_headers = { remove = [\"Content-Length\"] }"), 4, "frames"),
        (with("response_headers = { add = { \"A\" = \"1\" } }"), 4, "unknown key"),
        (with("response_headers = { set = { \"A\" = \"a\\nb\" } }"), 4, "control characters"),
        (with("identity = \"nobody\""), 4, "\"default\", \"none\""),
        (with("[upstreams.identity]\n\"Host\" = \"user\""), 5, "cannot be chosen"),
        (with("[upstreams.identity]\n\"Content_Length\" = \"user\""), 5, "cannot be chosen"),
        (with("[upstreams.identity]\n\"Cookie\" = \"user\""), 5, "cannot be chosen"),
        (with("[upstreams.identity]\n\"X-Forwarded-For\" = \"user\""), 5, "cannot be chosen"),
        (with("[upstreams.identity]\n\"Transfer-Encoding\" = \"user\""), 5, "cannot be chosen"),
        (with("[upstreams.identity]\n\"a b\" = \"user\""), 5, "not the name of a header"),
        (with("[upstreams.identity]\n\"X-A\" = \"usr\""), 5, "did you mean `user`?"),
        (with("[upstreams.identity]\n\"X-A\" = \"user\"\n\"x_a\" = \"id\""), 6, "named twice"),
        (with("[upstreams.identity]\n\"X-A\" = { value = \"groups\", separator = \"%\" }"), 5, "one sign"),
        (with("[upstreams.identity]\n\"X-A\" = { value = \"groups\", prefix = \"a,b\" }"), 5, "holds the separator"),
        (with("[upstreams.identity]\n\"X-A\" = { value = \"user\", only = [\"a\"] }"), 5, "for `groups`"),
        (with("[upstreams.identity]\n\"X-A\" = { value = \"user\", as = \"repeated\" }"), 5, "for `groups` and claims"),
        (with("[upstreams.identity]\n\"X-A\" = { value = \"groups\", az = 1 }"), 5, "unknown key"),
        (with("[upstreams.identity]\n\"X-A\" = \"id_tokn\""), 5, "did you mean `id_token`?"),
        ("[[identity]]\n\"X-A\" = \"user\"".to_owned(), 1, "one pair of brackets"),
        ("[identity]\n\"TE\" = \"user\"".to_owned(), 2, "cannot be chosen"),
        (with("[[routes]]\nupstream = \"monitoring\""), 5, "[[upstreams]] has `x`"),
        (
            "[[upstreams]]\nname = \"grafana\"\nurls = [\"http://x\"]\n[[routes]]\nupstream = \"grafna\"".to_owned(),
            5,
            "did you mean `grafana`?",
        ),
    ] {
        let found = faults(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let place = format!("s.toml, line {line})");
        assert!(
            found[0].contains(&place) && found[0].contains(says) && !found[0].contains("canary"),
            "{text}: {}",
            found[0]
        );
    }
}
