//! Configuration as an operator sees it: exit codes, all faults at once, precedence, and the output of `check` and `health`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sidegate::config::options::ALL;

use crate::support::{Proxy, Upstream};

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_SECRET: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
const CALLBACK: &str = "https://app.example.com/api/v1/auth/callback";

const GITHUB: &[(&str, &str)] = &[
    ("OAUTH_ENABLED", "true"),
    ("OAUTH_PROVIDER", "github"),
    ("OAUTH_CLIENT_ID", "client"),
    ("OAUTH_CLIENT_SECRET", "hush-hush"),
    ("OAUTH_REDIRECT_URL", CALLBACK),
    ("OAUTH_ALLOWED_USERS", "ann"),
];
const ENTRA: &[(&str, &str)] = &[("OAUTH_PROVIDER", "entra"), ("OAUTH_TENANT_ID", "contoso.com")];
const OIDC: &[(&str, &str)] = &[("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", "https://id.example.com")];

/// The standard error of a run, and its exit code.
struct Run {
    code: Option<i32>,
    text: String,
}

fn run(args: &[&str], env: &[&[(&str, &str)]]) -> Run {
    let variables: BTreeMap<&str, &str> = env.iter().copied().flatten().copied().collect();
    let output = command(args).envs(variables).output().unwrap();
    let Output { status, stdout, stderr } = output;
    assert!(stdout.is_empty(), "standard output is for nobody: {}", String::from_utf8_lossy(&stdout));
    Run { code: status.code(), text: String::from_utf8(stderr).unwrap() }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

fn check(env: &[&[(&str, &str)]]) -> Run {
    run(&["check"], env)
}

/// Runs `check`, and returns the faults, one a line.
fn faults(env: &[&[(&str, &str)]]) -> Vec<String> {
    let Run { code, text } = check(env);
    assert_eq!(code, Some(2), "{text}");
    let mut lines = text.lines().map(str::to_owned);
    assert_eq!(lines.next().as_deref(), Some("sidegate: the configuration is wrong:"), "{text}");
    lines.collect()
}

#[test]
fn a_fifo_in_any_files_place_is_a_fault_and_no_hang() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo.to_str().unwrap(), folder.path().to_str().unwrap(), "/dev/zero"] {
        for name in [
            "SIDEGATE_CONFIG",
            "OAUTH_ALLOWED_USERS_FILE",
            "OAUTH_CLIENT_SECRET_FILE",
            "SESSION_SECRET_FILE",
            "SESSION_REDIS_URL_FILE",
            "SESSION_REDIS_CA_FILE",
            "OAUTH_CA_FILE",
            "OAUTH_PROXY_FILE",
            "UPSTREAM_CA_FILE",
            "ASSERTION_KEY_FILE",
            "TLS_CERT_FILE",
            "TLS_CLIENT_CA_FILE",
        ] {
            let mut env = vec![(name, path)];
            match name {
                "OAUTH_CLIENT_SECRET_FILE" => env.push(("OAUTH_CLIENT_SECRET", "")),
                "SESSION_REDIS_URL_FILE" => env.push(("SESSION_STORE", "redis")),
                "SESSION_REDIS_CA_FILE" => {
                    env.extend([
                        ("SESSION_STORE", "redis"),
                        ("SESSION_REDIS_URL", "rediss://r"),
                        ("SESSION_SECRET", SECRET),
                    ]);
                }
                "TLS_CERT_FILE" => env.push(("TLS_KEY_FILE", path)),
                _ => {}
            }
            for args in [&["check"] as &[&str], &[]] {
                let Run { code, text } = run(args, &[GITHUB, &env]);
                assert_eq!(code, Some(2), "{name}={path}: {text}");
                assert!(text.contains(name) && text.contains("not a regular file"), "{name}={path}: {text}");
            }
        }
    }
}

/// Starts with these settings, and returns the error of a start that fails at once; `None` if it is ready.
fn start_fault(env: &[&[(&str, &str)]]) -> Option<String> {
    use std::io::{BufRead as _, BufReader};

    let variables: BTreeMap<&str, &str> = env.iter().copied().flatten().copied().collect();
    let mut child = command(&[])
        .envs([("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")])
        .envs(variables)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut ready = false;
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        text += &line;
        text.push('\n');
        if line.contains("sidegate is ready") {
            ready = true;
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    (!ready).then_some(text)
}

#[test]
fn check_passes_what_a_start_passes_and_nothing_else() {
    let oidc = |issuer: &'static str| vec![("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", issuer)];
    let jwt = [("SESSION_STORE", "jwt"), ("SESSION_SECRET", SECRET)];
    let redis =
        |url: &'static str| vec![("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET), ("SESSION_REDIS_URL", url)];
    let trials: Vec<(Vec<(&str, &str)>, bool)> = vec![
        (vec![], true),
        (oidc("http://idp.localhost:9400"), false),
        (oidc("http://localhost.:9400"), false),
        (oidc("http://localhost:9400"), true),
        (oidc("http://LOCALHOST:9400"), true),
        (oidc("http://127.0.0.1:9400"), true),
        (oidc("http://127.1:9400"), true),
        (oidc("http://[::1]:9400"), true),
        (oidc("http://[::ffff:127.0.0.1]:9400"), true),
        (oidc("http://[::ffff:10.0.0.1]:9400"), false),
        (oidc("http://0.0.0.0:9400"), false),
        (oidc("http://id.example.com"), false),
        (oidc("https://id.example.com"), true),
        (
            vec![
                ("OAUTH_PROVIDER", "entra"),
                ("OAUTH_ENTRA_AUTHORITY", "http://login.localhost:1"),
                ("OAUTH_GRAPH_URL", "http://localhost:1"),
            ],
            false,
        ),
        (vec![("OAUTH_GITHUB_URL", "http://git.localhost:1"), ("OAUTH_GITHUB_API_URL", "http://localhost:1")], false),
        (vec![("UPSTREAM_URL", "https://app.example.com")], true),
        (vec![("UPSTREAM_URL", "h2c://127.0.0.1:1")], true),
        (vec![("UPSTREAM_URL", "unix:/run/app.sock")], true),
        (vec![("UPSTREAM_URL", "https://[::1]:1")], true),
        (vec![("COOKIE_NAME", "__Host-session")], true),
        (vec![("COOKIE_NAME", "a b")], false),
        (vec![("LOG_LEVEL", "info,hyper=debug")], true),
        (jwt.to_vec(), true),
        (redis("redis://127.0.0.1:1"), true),
        (redis("rediss://redis.example.com"), true),
        (redis("rediss://[::1]:1"), true),
        (redis("redis-cluster://127.0.0.1:1,127.0.0.1:2"), true),
        (redis("rediss-cluster://redis.example.com:1"), true),
        (redis("redis-sentinel://127.0.0.1:1/master/0"), true),
    ];
    for (more, sound) in trials {
        let checked = check(&[GITHUB, &more]);
        let started = start_fault(&[GITHUB, &more]);
        assert_eq!(checked.code == Some(0), started.is_none(), "{more:?}: {} {started:?}", checked.text);
        assert_eq!(checked.code, Some(if sound { 0 } else { 2 }), "{more:?}: {}", checked.text);
    }
}

fn valid(env: &[&[(&str, &str)]]) -> String {
    let Run { code, text } = check(env);
    assert_eq!(code, Some(0), "{env:?}: {text}");
    assert!(text.ends_with("the configuration is valid\n"), "{text}");
    text
}

/// The files that variables name.
struct Fixtures(tempfile::TempDir);

impl Fixtures {
    fn new() -> Self {
        let fixtures = Self(tempfile::tempdir().unwrap());
        let (one, other) =
            (rcgen::generate_simple_self_signed(["a.example".into()]).unwrap(), rcgen::KeyPair::generate().unwrap());
        for (name, text) in [
            ("tls.crt", one.cert.pem()),
            ("tls.key", one.signing_key.serialize_pem()),
            ("other.key", other.serialize_pem()),
            ("empty", String::new()),
            ("secret", format!("{SECRET}\n")),
            ("redis", "redis://ann:hush@redis:6379/0\n".into()),
            ("proxy", "http://ann:hush@proxy:3128\n".into()),
            ("users", "ann\n# comment\n\n@example.com\r\n".into()),
            ("sidegate.toml", "session_ttl = \"1h\"".into()),
        ] {
            std::fs::write(fixtures.0.path().join(name), text).unwrap();
        }
        fixtures
    }

    /// Replaces `@name` by the path of a file.
    fn fill(&self, value: &str) -> String {
        match value.strip_prefix("file:") {
            Some(name) => self.0.path().join(name).to_str().unwrap().to_owned(),
            None => value.to_owned(),
        }
    }
}

/// A variable, the variables that it needs, valid values, and invalid values.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);

const REDIS: &[(&str, &str)] =
    &[("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET), ("SESSION_REDIS_URL", "redis://redis:6379")];
const REDISS: &[(&str, &str)] =
    &[("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET), ("SESSION_REDIS_URL", "rediss://redis:6379")];
const SENTINEL: &[(&str, &str)] =
    &[("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET), ("SESSION_REDIS_URL", "redis-sentinel://a,b/mymaster")];

const TABLE: &[Row] = &[
    ("SIDEGATE_CONFIG", &[], &["file:sidegate.toml"], &["/nowhere/sidegate.toml", "file:tls.crt"]),
    (
        "LISTEN_ADDR",
        &[],
        &["0.0.0.0:8080", "[::1]:0", ":8080", "localhost:0", "unix:/run/sidegate.sock", "systemd"],
        &["8080", "example.com:80", "0.0.0.0", ":65536", "unix:sidegate.sock", "unix:", "launchd"],
    ),
    ("ADMIN_ADDR", &[], &["10.1.2.3:9091", "[fd00::5]:9091", ":9091"], &["9091", "http://127.0.0.1:9091"]),
    ("LOG_LEVEL", &[], &["error", "warn", "info", "debug", "trace", "info,sidegate=debug"], &["inof", "sidegate=loud"]),
    ("LOG_FORMAT", &[], &["json", "text"], &["xml"]),
    ("AUDIT", &[], &["default", "all", "ALL"], &["none", "true"]),
    ("AUDIT_FILE", &[], &["file:secret"], &["/nowhere/audit.log", "/dev/null"]),
    ("OAUTH_ENABLED", &[], &["true", "false", "TRUE"], &["ture", "maybe"]),
    ("OAUTH_PROVIDER", &[], &["github"], &["gitlab"]),
    ("OAUTH_PROVIDER", ENTRA, &["entra", "azure"], &["azur"]),
    ("OAUTH_PROVIDER", OIDC, &["oidc"], &["openid"]),
    ("OAUTH_CLIENT_ID", &[], &["x"], &["", " "]),
    ("OAUTH_CLIENT_SECRET", &[], &["x"], &[""]),
    ("OAUTH_CLIENT_SECRET_FILE", &[("OAUTH_CLIENT_SECRET", "")], &["file:secret"], &["/nowhere/secret", "file:empty"]),
    (
        "OAUTH_REDIRECT_URL",
        &[],
        &[CALLBACK, "http://localhost:8080/api/v1/auth/callback"],
        &[
            "",
            "https://app.example.com/",
            "https://app.example.com/api/v1/auth/callback/",
            "ftp://a/api/v1/auth/callback",
            "app",
        ],
    ),
    ("OAUTH_SCOPES", &[], &["read:user,user:email", "read:user user:email"], &["a\"b"]),
    ("OAUTH_USERNAME_CLAIM", OIDC, &["preferred_username"], &[]),
    ("OAUTH_USERNAME_CLAIM", &[], &[], &["login"]),
    ("OAUTH_ALLOWED_USERS", &[], &["ann,bob@example.com,@example.org,id:7", "*"], &["", " , "]),
    ("OAUTH_ALLOWED_USERS_FILE", &[], &["file:users", "file:empty"], &["/nowhere/users", ""]),
    ("OAUTH_ALLOWED_GROUPS", &[], &["acme", "acme/platform"], &["", ","]),
    (
        "OAUTH_TENANT_ID",
        ENTRA,
        &["contoso.com", "common", "organizations", "72f988bf-86f1-41af-91ab-2d7cd011db47"],
        &["common,contoso.com"],
    ),
    ("OAUTH_TENANT_ID", &[], &[], &["contoso.com"]),
    (
        "OAUTH_ISSUER_URL",
        OIDC,
        &["https://id.example.com/realm", "http://localhost:9400/oidc"],
        &["", "http://id.example.com", "id"],
    ),
    (
        "OAUTH_GITHUB_URL",
        &[("OAUTH_GITHUB_API_URL", "https://ghe.example.com/api/v3")],
        &["https://ghe.example.com"],
        &["http://ghe.example.com"],
    ),
    (
        "OAUTH_GITHUB_API_URL",
        &[("OAUTH_GITHUB_URL", "https://ghe.example.com")],
        &["https://ghe.example.com/api/v3"],
        &["http://ghe.example.com"],
    ),
    ("OAUTH_ENTRA_AUTHORITY", ENTRA, &["https://login.microsoftonline.us"], &["http://login.example.com"]),
    ("OAUTH_GRAPH_URL", ENTRA, &["https://graph.microsoft.us"], &["http://graph.example.com"]),
    ("OAUTH_CA_FILE", &[], &["file:tls.crt"], &["/nowhere/ca", "file:empty", "file:tls.key"]),
    (
        "OAUTH_PROXY",
        &[],
        &["http://proxy.example.com:3128", "https://ann:hush@proxy", "none"],
        &["socks5://proxy:1080", "http://proxy/x"],
    ),
    ("OAUTH_PROXY_FILE", &[], &["file:proxy"], &["/nowhere/proxy", "file:empty", "file:users"]),
    ("SESSION_STORE", REDIS, &["memory", "redis", "jwt"], &["disk"]),
    (
        "SESSION_REDIS_URL",
        REDIS,
        &["redis://r", "rediss://ann:hush@r:6380/1", "redis-sentinel://a,b/mymaster/0", "redis-cluster://a:1,b:2"],
        &["r:6379", "redis://a,b", "redis://hush@r", "redis-sentinel://a", "http://r"],
    ),
    (
        "SESSION_REDIS_URL_FILE",
        &[("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET)],
        &["file:redis"],
        &["/nowhere/url", "file:empty", "file:users"],
    ),
    ("SESSION_REDIS_PREFIX", REDIS, &["sidegate:", "app-1/"], &["a{b}", "a*", "a b"]),
    ("SESSION_REDIS_SENTINEL_PASSWORD", SENTINEL, &["hush"], &[]),
    ("SESSION_REDIS_SENTINEL_PASSWORD_FILE", SENTINEL, &["file:secret"], &["/nowhere/secret", "file:empty"]),
    ("SESSION_REDIS_CA_FILE", REDISS, &["file:tls.crt"], &["/nowhere/ca.pem", "file:empty", "file:users"]),
    ("SESSION_STORE_TIMEOUT", REDIS, &["250ms", "10s"], &["250", "0", "11s"]),
    ("SESSION_CACHE_TTL", REDIS, &["1s", "5m"], &["0", "500ms", "6m"]),
    ("SESSION_IDLE_TTL", &[("SESSION_STORE", "jwt"), ("SESSION_SECRET", SECRET)], &["0"], &["30m"]),
    ("SESSION_MEMORY_BYTES", &[], &["1048576", "134217728"], &["1048575", "1G", "-1"]),
    ("SESSION_TTL", &[], &["24h", "400d", "1h30m"], &["24", "0", "401d", "soon"]),
    ("SESSION_IDLE_TTL", &[], &["0", "30m"], &["30", "-1s"]),
    ("SESSION_RECHECK", &[], &["0", "15m", "1d"], &["15", "25h"]),
    ("SESSION_SECRET", &[], &[SECRET, OTHER_SECRET], &["c2hvcnQ=", "not base64 at all!"]),
    ("SESSION_SECRET_FILE", &[], &["file:secret"], &["/nowhere/secret", "file:empty", "file:users"]),
    ("COOKIE_NAME", &[], &["session", "__Host-session"], &["a b", "a=b"]),
    ("COOKIE_DOMAIN", &[], &["example.com", ".example.com"], &["com", "example.org", "127.0.0.1"]),
    ("COOKIE_SECURE", &[], &["true", "false"], &["perhaps"]),
    (
        "UPSTREAM_URL",
        &[],
        &["http://app:80", "https://app", "h2c://app:50051", "unix:/run/app.sock"],
        &["app:80", "http://app/path", "unix:app.sock", "http://127.0.0.1:8080"],
    ),
    ("OAUTH_BEARER_AUDIENCES", OIDC, &["https://app.example.com", "api,other"], &[]),
    ("OAUTH_BEARER_GITHUB", &[], &["true", "false"], &["perhaps"]),
    ("UPSTREAM_IGNORE_CASE", &[], &["true", "false"], &["perhaps"]),
    ("ASSERTION_GROUPS", &[], &["true", "false"], &["perhaps"]),
    ("UPSTREAM_CA_FILE", &[("UPSTREAM_URL", "https://app")], &["file:tls.crt"], &["/nowhere/ca", "file:users"]),
    ("ASSERTION_KEY_FILE", &[], &["file:tls.key", "file:tls.key,file:other.key"], &["/nowhere/key", "file:tls.crt"]),
    (
        "HTTP_REDIRECT_ADDR",
        &[("OAUTH_REDIRECT_URL", "https://app.example.com/api/v1/auth/callback")],
        &[":8082", "127.0.0.1:0"],
        &["8082", ":8080", ":9091"],
    ),
    (
        "EXT_AUTHZ_ADDR",
        &[],
        &[":9001", "10.1.2.3:9001", "[::1]:0"],
        &["9001", "http://127.0.0.1:9001", ":9091", ":8080"],
    ),
    ("PROXY_PROTOCOL_FROM", &[], &["10.0.0.0/8", "192.0.2.7,::1"], &["balancer", "10.0.0.0/33", "unix:"]),
    ("TLS_CERT_FILE", &[("TLS_KEY_FILE", "file:tls.key")], &["file:tls.crt"], &["/nowhere/crt", "file:tls.key", ""]),
    (
        "TLS_KEY_FILE",
        &[("TLS_CERT_FILE", "file:tls.crt")],
        &["file:tls.key"],
        &["/nowhere/key", "file:other.key", "file:users", ""],
    ),
    (
        "TLS_CLIENT_CA_FILE",
        &[("TLS_CERT_FILE", "file:tls.crt"), ("TLS_KEY_FILE", "file:tls.key")],
        &["file:tls.crt"],
        &["/nowhere/ca", "file:users"],
    ),
    (
        "TLS_CLIENT_AUTH",
        &[("TLS_CERT_FILE", "file:tls.crt"), ("TLS_KEY_FILE", "file:tls.key"), ("TLS_CLIENT_CA_FILE", "file:tls.crt")],
        &["required", "optional"],
        &["perhaps", "none"],
    ),
    (
        "TRUSTED_PROXIES",
        &[],
        &["10.0.0.0/8,192.0.2.7,fd00::/8", "unix:"],
        &["10.0.0.0/33", "unix", "proxy.example.com"],
    ),
    ("LIMIT_HEADER_BYTES", &[], &["8192", "65536"], &["8191", "64k", "-1"]),
    ("LIMIT_CONNECTIONS", &[], &["1", "10000"], &["0", "many"]),
    ("LIMIT_MEMORY", &[], &["0", "16777216", "201326592"], &["1", "16777215", "192M", "-1"]),
    ("TIMEOUT_HEADER", &[], &["10s", "500ms"], &["0", "10"]),
    ("TIMEOUT_IDLE", &[], &["75s"], &["0s", "25h"]),
    ("TIMEOUT_CONNECT", &[], &["5s"], &["0", "11m"]),
    ("TIMEOUT_FIRST_BYTE", &[], &["60s", "1h"], &["0", "25h"]),
    ("TIMEOUT_BODY", &[], &["60s"], &["0", "1 m"]),
    ("SHUTDOWN_DELAY", &[], &["0s", "5s", "0"], &["5", "2h"]),
    ("SHUTDOWN_TIMEOUT", &[], &["30s", "0"], &["30", "2h"]),
];

#[test]
fn every_variable_takes_what_is_right_and_names_itself_where_it_is_wrong() {
    let files = Fixtures::new();
    let judge = |row: &Row, value: &str| {
        let mut env: BTreeMap<&str, String> = GITHUB.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        env.extend(row.1.iter().map(|(name, value)| (*name, files.fill(value))));
        let filled: Vec<_> = if row.0 == "ASSERTION_KEY_FILE" {
            value.split(',').map(|item| files.fill(item)).collect()
        } else {
            vec![files.fill(value)]
        };
        env.insert(row.0, filled.join(","));
        let output = command(&["check"]).envs(&env).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for row in TABLE {
        for good in row.2 {
            let (code, text) = judge(row, good);
            assert_eq!(code, Some(0), "{}={good}: {text}", row.0);
        }
        for bad in row.3 {
            let (code, text) = judge(row, bad);
            assert_eq!(code, Some(2), "{}={bad} was taken: {text}", row.0);
            let faults: Vec<&str> = text.lines().skip(1).collect();
            assert_eq!(faults.len(), 1, "{}={bad}: {text}", row.0);
            assert!(faults[0].starts_with(row.0), "{}={bad}: {text}", row.0);
            let says_what_is_right =
                ["for example ", "openssl", "did you mean"].iter().any(|hint| faults[0].contains(hint));
            assert!(says_what_is_right, "{}={bad}: {text}", row.0);
        }
    }
}

#[test]
fn the_table_of_this_test_has_every_variable() {
    let known = variables();
    for name in &known {
        assert!(TABLE.iter().any(|row| row.0 == *name), "{name} is not tried");
    }
    for row in TABLE {
        assert!(known.contains(&row.0), "{} is no variable", row.0);
    }
}

fn variables() -> Vec<&'static str> {
    ALL.iter().map(|knob| knob.variable).collect()
}

#[test]
fn a_wrong_configuration_ends_the_start_with_code_2_and_all_its_faults_at_once() {
    let env: &[(&str, &str)] = &[
        ("OAUTH_CLIENT_ID", ""),
        ("OAUTH_REDIRECT_URL", "https://app.example.com/callback"),
        ("OAUTH_ALLOWED_USERS", ""),
        ("SESSION_TTL", "1x"),
        ("SESSION_SECRET", "c2hvcnQtY2FuYXJ5"),
        ("UPSTREAM_URL", "http://canary:canary@app"),
        ("LIMIT_CONNECTIONS", "0"),
        ("TLS_CERT_FILE", "/nowhere/tls.crt"),
        ("TLS_KEY_FILE", "/nowhere/tls.key"),
        ("OAUTH_ALOWED_GROUPS", "canary"),
    ];
    let mut wrong: Vec<&str> = env.iter().map(|(name, _)| *name).collect();
    wrong.sort_unstable();
    for args in [&[][..], &["check"]] {
        let Run { code, text } = run(args, &[GITHUB, env]);
        assert_eq!(code, Some(2), "{text}");
        let mut named: Vec<&str> = text.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
        named.sort_unstable();
        assert_eq!(named, wrong, "{text}");
        assert!(!text.contains("canary") && !text.contains("c2hvcnQ") && !text.contains("hush"), "{text}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    let canary = "s3cr3t-c4n4ry";
    let mut env: Vec<(&str, &str)> = vec![("OAUTH_ENABLED", canary)];
    let all = variables();
    env.extend(
        all.iter()
            .map(|name| (*name, canary))
            .filter(|(name, _)| !name.ends_with("_FILE") && *name != "SIDEGATE_CONFIG"),
    );
    let Run { code, text } = check(&[&env]);
    assert_eq!(code, Some(2));
    assert!(text.lines().count() > 20, "{text}");
    assert!(!text.contains(canary), "{text}");
}

#[test]
fn an_unknown_key_of_the_file_is_a_fault_that_asks_whether_another_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    let judge = |text: &str| {
        std::fs::write(&path, text).unwrap();
        faults(&[&[("SIDEGATE_CONFIG", path.to_str().unwrap())]]).join("\n")
    };
    let text = judge("sesion_ttl = \"1h\"\n");
    assert!(text.starts_with("sesion_ttl (") && text.contains("did you mean `session_ttl`?"), "{text}");
    let text = judge("quite_another = 1\nlog_lvel = \"info\"\n");
    assert_eq!(text.lines().count(), 2, "{text}");
    for section in ["[[tokens]]", "[[providers]]", "[[upstreams]]", "[identity_headers]"] {
        let text = judge(&format!("{section}\npath = \"/x\"\n"));
        assert!(text.contains("unknown key"), "{section}: {text}");
    }
    let text = judge("log_level = \"info\nsession_ttl = 1");
    assert!(text.starts_with("SIDEGATE_CONFIG: "), "{text}");
}

#[test]
fn variables_a_letter_or_two_off_are_faults_further_ones_warnings_and_those_of_others_ignored() {
    for (typed, meant) in [
        ("OAUTH_ALLOWED_USER", "OAUTH_ALLOWED_USERS"),
        ("SESSION_TLL", "SESSION_TTL"),
        ("OAUTH_CLEINT_ID", "OAUTH_CLIENT_ID"),
    ] {
        let text = faults(&[GITHUB, &[(typed, "x")]]).join("\n");
        assert!(text.starts_with(typed) && text.contains(&format!("did you mean {meant}?")), "{text}");
    }
    assert!(valid(&[GITHUB, &[("OAUTH_QUITE_ANOTHER", "x")]]).contains("warning: OAUTH_QUITE_ANOTHER"));
    for (unknown, says) in [
        ("ROUTES", "[[routes]]"),
        ("PUBLIC_PATHS", "[[routes]]"),
        ("UPSTREAM_URLS", "did you mean UPSTREAM_URL?"),
        ("TRUSTED_PROXY", "changes nothing"),
        ("LISTEN_ADRR", "did you mean LISTEN_ADDR?"),
        ("TLS_CLIENT_CA_FILES", "did you mean TLS_CLIENT_CA_FILE?"),
    ] {
        let text = valid(&[GITHUB, &[(unknown, "x")]]);
        assert!(text.contains(&format!("warning: {unknown} is not known")) && text.contains(says), "{text}");
    }
    let plain = valid(&[GITHUB]);
    let others: &[(&str, &str)] = &[
        ("SESSION_MANAGER", "local/x"),
        ("SESSION_SERVICE_HOST", "10.0.0.1"),
        ("OAUTH_PORT", "tcp://10.0.0.1:80"),
        ("OAUTH_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
        ("AWS_KEY_FILE", "/etc/ssl/key.pem"),
        ("LOG_FILE", "/dev/stderr"),
    ];
    assert_eq!(valid(&[GITHUB, others]), plain);
}

#[test]
fn open_mode_beside_complete_oauth_settings_is_reported_so_that_it_cannot_be_missed() {
    for enabled in ["", "false"] {
        let text = valid(&[GITHUB, &[("OAUTH_ENABLED", enabled)]]);
        assert!(text.contains("warning: OPEN MODE: NOBODY SIGNS IN"), "{text}");
    }
    assert!(!valid(&[]).contains("warning"));
    assert!(!valid(&[GITHUB]).contains("OPEN MODE"));
}

#[test]
fn without_any_allow_list_a_warning_says_that_everyone_may_pass() {
    let only: Vec<_> = GITHUB.iter().copied().filter(|(name, _)| *name != "OAUTH_ALLOWED_USERS").collect();
    assert!(valid(&[&only]).contains("warning: "), "{}", valid(&[&only]));
    assert!(!valid(&[GITHUB]).contains("warning: "));
}

#[test]
fn a_flag_wins_over_its_variable_the_variable_over_the_file_the_file_over_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    let config = path.to_str().unwrap();
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    // Each source is wrong in turn: it is reported if it takes effect, and ignored if it does not.
    write("session_ttl = \"file\"");
    let Run { code, text } = run(&["--config", config, "check"], &[]);
    assert!(code == Some(2) && text.contains(&format!("SESSION_TTL ({config})")), "{text}");
    let Run { code, text } = run(&["check", "--config", config], &[&[("SESSION_TTL", "1h")]]);
    assert_eq!(code, Some(0), "{text}");
    write("session_ttl = \"1h\"");
    let Run { code, text } = run(&["check"], &[&[("SESSION_TTL", "variable"), ("SIDEGATE_CONFIG", config)]]);
    assert!(code == Some(2) && text.contains("\nSESSION_TTL: "), "{text}");
    let Run { code, text } = run(&["check", "--session-ttl", "1h"], &[&[("SESSION_TTL", "variable")]]);
    assert_eq!(code, Some(0), "{text}");
    let Run { code, text } =
        run(&["check", "--session-ttl=flag"], &[&[("SESSION_TTL", "1h"), ("SIDEGATE_CONFIG", config)]]);
    assert!(code == Some(2) && text.contains("SESSION_TTL (--session-ttl)"), "{text}");
    // `--config` is an option like any other.
    let Run { code, text } = run(&["check", "--config", config], &[&[("SIDEGATE_CONFIG", "/nowhere/sidegate.toml")]]);
    assert_eq!(code, Some(0), "{text}");
    let Run { code, text } = run(&["check"], &[&[("SESSION_TTL", "")]]);
    assert_eq!(code, Some(0), "an empty variable is none: {text}");
}

#[test]
fn a_secret_given_twice_is_a_fault_and_has_no_flag() {
    let files = Fixtures::new();
    let secret = files.fill("file:secret");
    for (plain, file) in
        [("OAUTH_CLIENT_SECRET", "OAUTH_CLIENT_SECRET_FILE"), ("SESSION_SECRET", "SESSION_SECRET_FILE")]
    {
        let text = faults(&[GITHUB, &[(plain, SECRET), (file, &secret)]]).join("\n");
        assert!(text.starts_with(&format!("{plain}: is given beside {file}")) && !text.contains(SECRET), "{text}");
        let flag = format!("--{}=canary", plain.to_lowercase().replace('_', "-"));
        let Run { code, text } = run(&["check", &flag], &[GITHUB]);
        assert!(code == Some(2) && !text.contains("canary"), "{text}");
    }
}

#[test]
fn help_shows_every_option_with_its_variable_and_default() {
    for args in [&["--help"][..], &["check", "--help"]] {
        let output = command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("--session-ttl"));
    }
    let output = command(&["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for name in variables() {
        assert!(help.contains(&format!("[variable: {name}] [default: ")), "{name}");
    }
    for (flag, variable, default) in [
        ("--listen-addr", "LISTEN_ADDR", "0.0.0.0:8080"),
        ("--admin-addr", "ADMIN_ADDR", "127.0.0.1:9091"),
        ("--session-ttl", "SESSION_TTL", "24h"),
        ("--session-idle-ttl", "SESSION_IDLE_TTL", "0"),
        ("--cookie-name", "COOKIE_NAME", "session_token"),
        ("--upstream-url", "UPSTREAM_URL", "http://127.0.0.1:8081"),
        ("--oauth-tenant-id", "OAUTH_TENANT_ID", "common"),
        ("--limit-header-bytes", "LIMIT_HEADER_BYTES", "65536"),
        ("--limit-connections", "LIMIT_CONNECTIONS", "10000"),
        ("--timeout-header", "TIMEOUT_HEADER", "10s"),
        ("--timeout-idle", "TIMEOUT_IDLE", "75s"),
        ("--timeout-connect", "TIMEOUT_CONNECT", "5s"),
        ("--timeout-first-byte", "TIMEOUT_FIRST_BYTE", "60s"),
        ("--timeout-body", "TIMEOUT_BODY", "60s"),
        ("--shutdown-delay", "SHUTDOWN_DELAY", "0s"),
        ("--shutdown-timeout", "SHUTDOWN_TIMEOUT", "30s"),
    ] {
        assert!(help.contains(&format!("{flag} <")), "{flag}");
        assert!(help.contains(&format!("[variable: {variable}] [default: {default}]")), "{variable} is not {default}");
    }
}

#[test]
fn check_opens_no_socket() {
    // Both addresses are taken, and the provider and the upstream are listening: neither gets a connection.
    let taken = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let others = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [listen, admin] = taken.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let [issuer, upstream] = others.each_ref().map(|listener| format!("http://{}", listener.local_addr().unwrap()));
    valid(&[
        GITHUB,
        OIDC,
        &[("LISTEN_ADDR", &listen), ("ADMIN_ADDR", &admin), ("OAUTH_ISSUER_URL", &issuer), ("UPSTREAM_URL", &upstream)],
    ]);
    let redis = upstream.replace("http://", "redis://");
    for store in
        [redis.clone(), redis.replace("redis:", "redis-cluster:"), redis.replace("redis:", "redis-sentinel:") + "/m/0"]
    {
        valid(&[GITHUB, &[("SESSION_STORE", "redis"), ("SESSION_SECRET", SECRET), ("SESSION_REDIS_URL", &store)]]);
    }
    for listener in taken.iter().chain(&others) {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn health_asks_the_running_proxy_and_needs_only_its_admin_address() {
    let upstream = Upstream::start().await;
    let mut proxy = Proxy::open(&upstream).start().await;
    let health = |address: String| {
        tokio::task::spawn_blocking(move || run(&["health"], &[&[("ADMIN_ADDR", &address), ("OAUTH_ENABLED", "true")]]))
    };
    let at = proxy.admin.to_string();
    let Run { code, text } = health(at.clone()).await.unwrap();
    assert_eq!((code, text.as_str()), (Some(0), ""));
    // An unspecified address is probed at loopback.
    let Run { code, text } = health(format!("0.0.0.0:{}", proxy.admin.port())).await.unwrap();
    assert_eq!(code, Some(0), "{text}");
    proxy.signal("TERM");
    proxy.ended().await;
    let Run { code, text } = health(at).await.unwrap();
    assert_eq!(code, Some(1));
    assert!(text.contains("ADMIN_ADDR") && text.lines().count() == 1, "{text}");
    let Run { code, .. } = health("nowhere".into()).await.unwrap();
    assert_eq!(code, Some(2), "a wrong address is a wrong configuration");
}

#[tokio::test]
async fn health_fails_while_draining() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("SHUTDOWN_DELAY", "20s").start().await;
    proxy.signal("TERM");
    crate::support::until("it drains", async || proxy.admin("/readyz").await.status == 503).await;
    assert_eq!(proxy.admin("/readyz").await.text(), "draining\n");
    assert_eq!(proxy.admin("/livez").await.status, 200);
    let at = proxy.admin.to_string();
    let Run { code, text } = run(&["health"], &[&[("ADMIN_ADDR", &at)]]);
    assert_eq!(code, Some(1));
    assert!(text.contains("draining"), "{text}");
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_code_1_and_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, other) in [("LISTEN_ADDR", "ADMIN_ADDR"), ("ADMIN_ADDR", "LISTEN_ADDR")] {
        let env = [(name, address.as_str()), (other, "127.0.0.1:0"), ("LOG_LEVEL", "error")];
        let Run { code, text } = run(&[], &[&env]);
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(name) && text.contains(&address) && text.contains("in use"), "{text}");
    }
}

#[tokio::test]
async fn log_lines_are_json_objects_or_text_as_asked_for_and_as_many_as_asked_for() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("LOG_LEVEL", "info").start().await;
    proxy.get("/x").await;
    for line in proxy.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
        assert!(["INFO", "WARN", "ERROR"].contains(&line["level"].as_str().unwrap()), "{line}");
    }
    // As text, from level `warn`: the warning of open mode is logged, info lines are not.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = |level: &str| {
        let more =
            [("OAUTH_ENABLED", "false"), ("LISTEN_ADDR", &address), ("LOG_FORMAT", "text"), ("LOG_LEVEL", level)];
        run(&[], &[GITHUB, &more]).text
    };
    let text = said("warn");
    assert!(
        text.contains(" WARN ") && text.contains("OPEN MODE") && !text.contains('{') && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(!said("error").contains("OPEN MODE"));
}

#[tokio::test]
async fn the_example_file_starts() {
    let upstream = Upstream::start().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let config = root.join("config/sidegate.toml");
    let proxy = Proxy::open(&upstream).env("SIDEGATE_CONFIG", config.to_str().unwrap()).start().await;
    assert_eq!(proxy.get("/x").await.text(), "hello from upstream");
}

#[tokio::test]
async fn it_listens_on_ipv6_too() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::open(&upstream).env("LISTEN_ADDR", "[::1]:0").env("ADMIN_ADDR", "[::1]:0").start().await;
    assert!(proxy.address.is_ipv6() && proxy.admin.is_ipv6());
    assert_eq!(proxy.get("/x").await.text(), "hello from upstream");
    assert_eq!(upstream.last().header("x-forwarded-for"), "::1");
    assert_eq!(proxy.admin("/livez").await.status, 200);
    let at = proxy.admin.to_string();
    assert_eq!(run(&["health"], &[&[("ADMIN_ADDR", &at)]]).code, Some(0));
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines `NAME=value` of an env file.
fn env_file(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_settings_of_the_kubernetes_manifests_are_valid_once_they_are_filled_in() {
    let files = Fixtures::new();
    for flavour in ["sidecar", "gateway"] {
        let mut env = env_file(&repository(&format!("deploy/kubernetes/{flavour}/settings.env")));
        let manifest = repository(&format!("deploy/kubernetes/{flavour}/deployment.yaml"));
        let container = manifest.split("- name: sidegate\n").nth(1).unwrap();
        let own = container.lines().filter_map(|line| {
            let (name, value) = line.trim().strip_prefix("- { name: ")?.strip_suffix(" }")?.split_once(", value: ")?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        env.extend(own);
        for name in [
            "ADMIN_ADDR",
            "LISTEN_ADDR",
            "OAUTH_CLIENT_SECRET_FILE",
            "SESSION_SECRET_FILE",
            "UPSTREAM_URL",
            "SHUTDOWN_DELAY",
        ] {
            assert!(env.iter().any(|(known, _)| known == name), "{flavour} lacks {name}: {env:?}");
        }
        let check = |ip: &str, client: &str| {
            let mut filled: BTreeMap<&str, String> = BTreeMap::new();
            for (name, value) in &env {
                let value = match name.as_str() {
                    "OAUTH_CLIENT_ID" => client.to_owned(),
                    name if name.ends_with("SECRET_FILE") => files.fill("file:secret"),
                    _ => value.replace("$(POD_IP)", ip),
                };
                filled.insert(name, value);
            }
            let output = command(&["check"]).envs(&filled).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        for ip in ["10.244.1.7", "[fd00:10:244::7]"] {
            let (code, text) = check(ip, "Iv23liAbCdEfGhIjKlMn");
            assert_eq!((code, text.contains("warning")), (Some(0), false), "{flavour}: {text}");
        }
        let (code, text) = check("10.244.1.7", "");
        assert_eq!(code, Some(2));
        assert!(text.lines().count() == 2 && text.contains("\nOAUTH_CLIENT_ID: "), "{flavour}: {text}");
    }
}

/// The environment of the service `sidegate` in a Compose file; `None` if the shell's value is passed on.
fn compose(file: &str) -> Vec<(String, Option<String>)> {
    let text = repository(&format!("deploy/{file}"));
    let service = text.split("\n  sidegate:\n").nth(1).unwrap();
    let environment = service.split("    environment:\n").nth(1).unwrap();
    let settings = environment.lines().filter(|line| !line.trim_start().starts_with('#'));
    let lines = settings.map_while(|line| line.strip_prefix("      - "));
    lines
        .map(|line| match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (line.to_owned(), None),
        })
        .collect()
}

#[test]
fn the_compose_files_pass_on_known_variables_and_the_development_one_is_complete() {
    let all = compose("docker-compose.yml");
    assert!(all.len() > 30, "{all:?}");
    for file in ["docker-compose.yml", "docker-compose.dev.yml", "docker-compose.secrets.yml"] {
        for (name, _) in compose(file) {
            assert!(variables().contains(&name.as_str()), "{file}: {name}");
        }
    }
    // As Compose expands `${NAME:-default}` when the shell does not set the variable.
    let filled = |value: String| match value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) => inner.split_once(":-").unwrap().1.to_owned(),
        None => value,
    };
    let given = |file| compose(file).into_iter().filter_map(|(name, value)| Some((name, filled(value?))));
    let env: BTreeMap<String, String> = given("docker-compose.yml").chain(given("docker-compose.dev.yml")).collect();
    let output = command(&["check"]).envs(&env).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.contains("warning")), (Some(0), false), "{text}");
    // Names inside the containers (files, addresses) are not passed on; every other setting is.
    for name in variables() {
        let inside = name.ends_with("_FILE")
            || ["SIDEGATE_CONFIG", "ADMIN_ADDR", "HTTP_REDIRECT_ADDR", "EXT_AUTHZ_ADDR"].contains(&name);
        assert!(inside || all.iter().any(|(known, _)| known == name), "{name} is not passed on");
    }
}
