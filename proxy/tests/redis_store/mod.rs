//! Sessions shared through Redis: real servers, two replicas of the real program, and outages.

mod failover;
mod link;
pub mod store;
mod tls;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::Full;
use sidegate::adapters::stores::redis::{Layout, RedisStore};
use sidegate::domain::session::{Session, SessionToken};
use sidegate::domain::time::Timestamp;
use sidegate::ports::{Claim, Leases as _, Sessions as _};
use zeroize::Zeroizing;

use crate::support::redis::{free_port, is_installed};
use crate::support::{Browser, HOST, Plan, Proxy, Redis, Upstream, until, wire};

const LOGOUT: &str = "/api/v1/auth/logout";
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAxMjM0NTY3ODk=";
const NEW_SECRET: &str = "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LTAxMjM0NTY3ODk=";

async fn at(url: &str, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream)
        .await
        .env("SESSION_STORE", "redis")
        .env("SESSION_REDIS_URL", url)
        .env("SESSION_SECRET", SECRET)
        .env("LOG_LEVEL", "info,sidegate=debug")
}

/// A cluster of so many nodes, made with further arguments of `redis-cli`; and its address. It may not work yet.
async fn cluster_of(count: usize, options: &[&str], more: &[&str]) -> (Vec<Redis>, String) {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Redis::start_with(options).await);
    }
    let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]).args(&addresses).args(more).arg("--cluster-yes");
    assert!(create.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());
    (nodes, format!("redis-cluster://{}", addresses.join(",")))
}

/// The text of a server's answer.
fn text(answer: Option<redis::Value>) -> String {
    answer.and_then(|answer| redis::from_redis_value(answer).ok()).unwrap_or_default()
}

/// Two replicas that share a store.
async fn two(plan: Plan) -> (Proxy, Proxy) {
    let twin = plan.twin();
    (plan.start().await, twin.start().await)
}

async fn signed_in(proxy: &Proxy, user: &str) -> String {
    proxy.signed_in_as(user).await.cookie("session_token").unwrap().to_owned()
}

async fn log_out(proxy: &Proxy, token: &str) -> u16 {
    let request = Request::post(LOGOUT).header("cookie", format!("session_token={token}"));
    proxy.send(request).await.status.as_u16()
}

#[tokio::test]
async fn a_session_is_good_on_every_replica_and_after_a_restart_and_a_logout_holds_on_all() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await;
    let later = plan.twin();
    let (one, two) = two(plan).await;
    let token = signed_in(&one, "ann").await;
    for proxy in [&one, &two, &two] {
        assert_eq!(proxy.get_as(&token, "/x").await.status, 200);
    }
    let three = later.start().await;
    assert_eq!(three.get_as(&token, "/x").await.status, 200);
    assert_eq!(log_out(&two, &token).await, 200);
    assert_eq!(two.get_as(&token, "/x").await.status, 401, "at once where it was asked");
    for proxy in [&one, &three] {
        let began = Instant::now();
        until("the logout holds", async || proxy.get_as(&token, "/x").await.status == 401).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

/// The address of a server with 10 ms of latency in each direction.
async fn far_away(port: u16) -> u16 {
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, write) = near.into_split();
                let (far_read, far_write) = TcpStream::connect(("127.0.0.1", port)).await.unwrap().into_split();
                tokio::join!(carry(read, far_write), carry(far_read, write))
            });
        }
    });
    far
}

#[tokio::test]
async fn a_replica_that_is_ready_serves_live_sessions_also_of_a_store_that_is_far_away() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let near = at(&redis.url(), &upstream).await;
    let far = near.twin().env("SESSION_REDIS_URL", format!("redis://127.0.0.1:{}", far_away(redis.port).await));
    let near = near.start().await;
    let token = signed_in(&near, "ann").await;
    let far = far.start_alone().await;
    let answer = far.get_as(&token, "/x").await;
    assert_eq!(answer.status, 200, "the first request after `ready`: {answer:?}");
}

/// As behind a load balancer without readiness checks.
#[tokio::test]
async fn the_first_request_of_all_waits_for_the_store_to_be_reached() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let near = at(&redis.url(), &upstream).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let far = near.twin().env("SESSION_REDIS_URL", format!("redis://127.0.0.1:{}", far_away(redis.port).await));
    let far = far.env("LISTEN_ADDR", address.to_string());
    let near = near.start().await;
    let token = signed_in(&near, "ann").await;
    let first = async {
        loop {
            let request = Request::get("/x").header("host", HOST).header("cookie", format!("session_token={token}"));
            match wire::try_send(address, request.body(Full::default()).unwrap()).await {
                Ok(answer) => return answer,
                // Not listening yet.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let (_far, answer) = tokio::join!(far.start_alone(), first);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_pulse_that_another_publishes_keeps_no_ended_session_alive() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = two(at(&redis.url(), &upstream).await.env("SESSION_CACHE_TTL", "2s")).await;
    let token = signed_in(&one, "ann").await;
    assert_eq!(two.get_as(&token, "/x").await.status, 200);
    let channels = redis.ask(&["PUBSUB", "CHANNELS"]).await.unwrap();
    let channels: Vec<String> = redis::from_redis_value(channels).unwrap();
    for pulse in channels.iter().filter(|name| name.contains("pulse")) {
        for at in ["18446744073709551615", "9223372036854775807", "99999999999"] {
            redis.ask(&["PUBLISH", pulse, at]).await.unwrap();
        }
    }
    // Deleted directly in Redis, which then stops: the cached session is valid for SESSION_CACHE_TTL, and no longer.
    redis.signal("STOP");
    let began = Instant::now();
    until("it counts no more", async || two.get_as(&token, "/x").await.status != 200).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    redis.signal("CONT");
}

#[tokio::test]
async fn fifty_logouts_hold_on_the_other_replica_within_a_second() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = two(at(&redis.url(), &upstream).await).await;
    let mut tokens = Vec::new();
    for _ in 0..50 {
        let token = signed_in(&one, "ann").await;
        assert_eq!(two.get_as(&token, "/x").await.status, 200);
        tokens.push(token);
    }
    let mut longest = Duration::ZERO;
    for token in tokens {
        assert_eq!(log_out(&one, &token).await, 200);
        let began = Instant::now();
        until("the logout holds", async || two.get_as(&token, "/x").await.status == 401).await;
        longest = longest.max(began.elapsed());
    }
    println!("50 logouts: the slowest held on the other replica after {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test]
async fn a_store_that_is_away_and_back_signs_nobody_out_and_lets_nobody_in() {
    if !is_installed() {
        return;
    }
    let (mut redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = two(at(&redis.url(), &upstream).await.env("SESSION_CACHE_TTL", "3s")).await;
    let (hot, cold) = (signed_in(&one, "ann").await, signed_in(&two, "bob").await);
    let strange = "A".repeat(43);
    for way in ["stopped", "killed"] {
        assert_eq!(one.get_as(&hot, "/x").await.status, 200);
        if way == "stopped" {
            redis.signal("STOP")
        } else {
            redis.kill()
        }
        let began = Instant::now();
        if way == "killed" {
            // A server without persistence loses its sessions: this test only covers the outage, not the recovery.
            assert_eq!(one.get_as(&hot, "/x").await.status, 200, "what is in memory goes on");
            until("the store is named", async || one.admin("/readyz").await.text().contains("store: 127.0.0.1")).await;
            assert_eq!(one.admin("/readyz").await.status, 200);
            break;
        }
        for token in [&cold, &strange] {
            let asked = Instant::now();
            let answer = one.get_as(token, "/x").await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "session_store_unavailable"), "{way}");
            assert!(answer.headers.contains_key("retry-after"));
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        assert_eq!(one.get_as(&hot, "/x").await.status, 200, "what is in memory goes on");
        until("the store is named", async || one.admin("/readyz").await.text().contains("store: 127.0.0.1")).await;
        assert_eq!(one.admin("/readyz").await.status, 200);
        // A known outage is not waited for.
        let asked = Instant::now();
        for _ in 0..20 {
            assert_eq!(one.get_as(&cold, "/x").await.status, 503);
        }
        assert!(asked.elapsed() < Duration::from_secs(1), "20 refusals took {:?}", asked.elapsed());
        until("memory counts no more", async || one.get_as(&hot, "/x").await.status == 503).await;
        assert!(began.elapsed() > Duration::from_secs(2) && began.elapsed() < Duration::from_secs(6));
        redis.signal("CONT");
        let back = Instant::now();
        until("the store is back", async || one.get_as(&hot, "/x").await.status == 200).await;
        println!("a stopped store was used again {:?} after it went on", back.elapsed());
        for (proxy, token) in [(&one, &hot), (&one, &cold), (&two, &hot), (&two, &cold)] {
            until("nobody is signed out", async || proxy.get_as(token, "/x").await.status == 200).await;
        }
        assert_eq!(one.get_as(&strange, "/x").await.status, 401);
    }
}

#[tokio::test]
async fn a_logout_while_the_store_is_away_holds_here_at_once_and_everywhere_once_it_is_back() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = two(at(&redis.url(), &upstream).await).await;
    let token = signed_in(&one, "ann").await;
    assert_eq!(two.get_as(&token, "/x").await.status, 200);
    redis.signal("STOP");
    let request = Request::post(LOGOUT).header("cookie", format!("session_token={token}"));
    let answer = one.send(request).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "session_store_unavailable"));
    assert!(answer.set_cookies().iter().any(|set| set.starts_with("session_token=;")), "the cookie is cleared");
    assert_eq!(one.get_as(&token, "/x").await.status, 401, "ended here at once");
    assert!(one.admin("/readyz").await.text().contains("store: "));
    redis.signal("CONT");
    until("it ends there too", async || two.get_as(&token, "/x").await.status == 401).await;
    until("nothing waits any more", async || !one.admin("/readyz").await.text().contains("store: ")).await;
    assert_eq!(one.get_as(&token, "/x").await.status, 401);
    one.logs("is confirmed").await;
}

#[tokio::test]
async fn a_logout_that_waits_for_the_store_goes_on_waiting_over_a_reload_that_changes_the_store() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await;
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "session_store_timeout = \"250ms\"").start().await;
    let token = signed_in(&proxy, "ann").await;
    redis.signal("STOP");
    assert_eq!(log_out(&proxy, &token).await, 503);
    let before = proxy.log().len();
    std::fs::write(proxy.folder().join("sidegate.toml"), "session_store_timeout = \"200ms\"").unwrap();
    proxy.signal("HUP");
    let is_reloaded = || proxy.log().get(before..).is_some_and(|log| log.contains("changed: SESSION_STORE_TIMEOUT"));
    until("it is reloaded", async || is_reloaded()).await;
    assert_eq!(proxy.get_as(&token, "/x").await.status, 401, "it has ended here, whichever store is asked");
    redis.signal("CONT");
    until("nothing waits any more", async || !proxy.admin("/readyz").await.text().contains("store: ")).await;
    assert_eq!(proxy.get_as(&token, "/x").await.status, 401);
    let keys: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "sidegate:s:*"]).await.unwrap()).unwrap();
    assert!(keys.is_empty(), "the store has heard of it: {keys:?}");
    proxy.logs("is confirmed").await;
}

/// The token of a session like this one, which another person began earlier.
async fn begun_earlier(store: &RedisStore, like: &Session, id: &str, millis: u64) -> String {
    let created_at = Timestamp::from_millis(like.created_at.millis() - millis);
    let mut session = Session { created_at, ..like.clone() };
    session.identity.id = id.to_owned();
    store.begin(session, store::now()).await.unwrap().expose().to_owned()
}

#[tokio::test]
async fn a_sign_in_over_an_older_session_goes_on_where_too_many_ends_wait_for_its_end_to_be_tried_again() {
    /// As many wait to be confirmed as there is room for, and how many a logout may bring.
    const MOST: usize = 10_000;
    const AT_ONCE: usize = 250;
    if !is_installed() {
        return;
    }
    let (master, upstream) = (Redis::start().await, Upstream::start().await);
    let _replica = master.replica().await;
    // What is written is never known to be on the replica.
    master.ask(&["ACL", "SETUSER", "default", "-wait"]).await.unwrap();
    let proxy = at(&master.url(), &upstream).await.start().await;
    let mut ann = proxy.signed_in_as("ann").await;
    let secrets = vec![Zeroizing::new(STANDARD.decode(SECRET).unwrap())];
    let beside = store::open_with(store::place(Layout::Single, &[master.port]), secrets).await;
    let token = SessionToken::parse(ann.cookie("session_token").unwrap()).unwrap();
    let mine = beside.load(&token, store::now()).await.unwrap().unwrap();
    for person in 0..=MOST / AT_ONCE {
        let mut cookies = Vec::new();
        for _ in 0..AT_ONCE {
            let token = begun_earlier(&beside, mine.session(), &format!("person {person}"), 0).await;
            cookies.push(format!("session_token={token}"));
        }
        let request = Request::post(LOGOUT).header("cookie", cookies.join("; "));
        assert_eq!(proxy.send(request).await.status, 503);
    }
    let old = begun_earlier(&beside, mine.session(), &mine.session().identity.id, 120_000).await;
    ann.set_cookie("session_token", &old);
    let answer = ann.sign_in("ann").await;
    assert_eq!(answer.status, 302, "{answer:?}");
    assert_ne!(ann.cookie("session_token"), Some(old.as_str()));
    assert_eq!(ann.get("/x").await.status, 200);
    assert_eq!(proxy.get_as(&old, "/x").await.status, 401, "it has ended here");
    proxy.logs("the end of a session that a sign-in replaces is not confirmed, and is not tried again").await;
}

#[tokio::test]
async fn a_dump_of_the_store_reveals_nothing() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await.env("SESSION_REDIS_PREFIX", "test-prefix:");
    let proxy = plan.start().await;
    let token = signed_in(&proxy, "ann").await;
    let me: serde_json::Value = serde_json::from_str(&proxy.get_as(&token, "/api/v1/auth/me").await.text()).unwrap();
    let keys: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "*"]).await.unwrap()).unwrap();
    assert!(keys.len() >= 2 && keys.iter().all(|key| key.starts_with("test-prefix:")), "{keys:?}");
    let mut dump = keys.join("\n").into_bytes();
    for key in &keys {
        let kind: String = redis::from_redis_value(redis.ask(&["TYPE", key]).await.unwrap()).unwrap();
        let words: &[&str] = match kind.as_str() {
            "hash" => &["HGETALL", key],
            "zset" => &["ZRANGE", key, "0", "-1", "WITHSCORES"],
            "string" => &["MGET", key],
            other => panic!("a {other}"),
        };
        let parts: Vec<Vec<u8>> = redis::from_redis_value(redis.ask(words).await.unwrap()).unwrap();
        dump.push(b'\n');
        dump.extend(parts.join(&b'\n'));
        let left: i64 = redis::from_redis_value(redis.ask(&["PTTL", key]).await.unwrap()).unwrap();
        assert!(left > 0, "{key} never expires");
    }
    let bearer =
        proxy.idp().control().last(dev_idp::Endpoint::User).unwrap().header("authorization").unwrap().to_owned();
    let access = bearer.split_once(' ').unwrap().1.to_owned();
    let secrets = [&token, &access].into_iter().map(String::as_str);
    let texts = ["id", "email", "name", "username"].map(|field| me[field].as_str().unwrap());
    // A number within a longer one is a part of a time.
    let is_digit = |at: Option<usize>| at.and_then(|at| dump.get(at)).is_some_and(u8::is_ascii_digit);
    let shows = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        dump.windows(text.len()).enumerate().any(|(at, part)| {
            let within_longer = is_number && (is_digit(at.checked_sub(1)) || is_digit(Some(at + text.len())));
            part == text.as_bytes() && !within_longer
        })
    };
    for secret in secrets.chain(texts).chain(["Mozilla", "192.168", "127.0.0.1"]) {
        assert!(secret.len() > 2, "{secret:?} would be found anywhere");
        assert!(!shows(secret), "the store shows {secret:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_means_sign_in_again() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await;
    let twin = plan.twin();
    let proxy = plan.start().await;
    let token = signed_in(&proxy, "ann").await;
    let keys: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "sidegate:s:*"]).await.unwrap()).unwrap();
    for value in ["", "\u{2}another version", "sidegate"] {
        redis.ask(&["HSET", &keys[0], "v", value]).await.unwrap();
        let fresh = twin.twin().start().await;
        let answer = fresh.get_as(&token, "/x").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "unauthenticated"), "{value:?}");
        fresh.logs("sign in again").await;
    }
    redis.ask(&["DEL", &keys[0]]).await.unwrap();
    redis.ask(&["SET", &keys[0], "another type"]).await.unwrap();
    let fresh = twin.start().await;
    assert_eq!(fresh.get_as(&token, "/x").await.status, 401, "a key of another type");
}

#[tokio::test]
async fn a_rotated_secret_signs_nobody_out() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await;
    let rotated = plan.twin().env("SESSION_SECRET", format!("{NEW_SECRET},{SECRET}"));
    let done = plan.twin().env("SESSION_SECRET", NEW_SECRET);
    let old = plan.start().await;
    let before = signed_in(&old, "ann").await;
    let both = rotated.start().await;
    assert_eq!(both.get_as(&before, "/x").await.status, 200);
    let new = done.start().await;
    assert_eq!(new.get_as(&before, "/x").await.status, 401, "its secret is gone");
    new.logs("no SESSION_SECRET opens it").await;
}

#[tokio::test]
async fn a_logout_everywhere_ends_what_another_replica_has_renewed_under_a_newer_secret() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let old = at(&redis.url(), &upstream).await.start().await;
    let (one, two) = (signed_in(&old, "ann").await, signed_in(&old, "ann").await);
    let secrets = [NEW_SECRET, SECRET].map(|text| Zeroizing::new(STANDARD.decode(text).unwrap()));
    let newer = store::open_with(store::place(Layout::Single, &[redis.port]), secrets.to_vec()).await;
    let (two, now) = (SessionToken::parse(&two).unwrap(), store::now());
    let Claim::Granted(lease) = newer.claim(newer.key(&two), now).await.unwrap() else { panic!("nobody has it") };
    assert!(newer.renew(&lease, lease.session.session().clone(), now).await.unwrap());
    until("the older replica cannot open it", async || old.get_as(two.expose(), "/x").await.status == 401).await;
    let request = Request::post(format!("{LOGOUT}?everywhere=true")).header("cookie", format!("session_token={one}"));
    assert_eq!(old.send(request).await.status, 200);
    until("it has ended", async || newer.load(&two, now).await.unwrap().is_none()).await;
    old.logs("Sessions ended: ann").await;
}

#[tokio::test]
async fn a_secret_that_a_reload_takes_away_ends_its_sessions_here_too_and_nobody_elses() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = at(&redis.url(), &upstream).await;
    let proxy = plan.without("SESSION_SECRET").file("SESSION_SECRET_FILE", "secret", SECRET).start().await;
    let turn = async |secrets: String| {
        let before = proxy.log().len();
        std::fs::write(proxy.folder().join("secret"), secrets).unwrap();
        proxy.signal("HUP");
        until("it is reloaded", async || proxy.log().get(before..).is_some_and(|log| log.contains("was read again")))
            .await;
    };
    let ann = signed_in(&proxy, "ann").await;
    turn(format!("{NEW_SECRET},{SECRET}")).await;
    let bob = signed_in(&proxy, "bob").await;
    for token in [&ann, &bob] {
        assert_eq!(proxy.get_as(token, "/x").await.status, 200);
    }
    turn(NEW_SECRET.to_owned()).await;
    assert_eq!(proxy.get_as(&ann, "/x").await.status, 401, "the secret that sealed it is gone");
    assert_eq!(proxy.get_as(&bob, "/x").await.status, 200);
}

#[tokio::test]
async fn a_callback_that_redeems_nothing_leaves_nothing_in_the_store() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let proxy = at(&redis.url(), &upstream).await.start().await;
    let mut eve = Browser::of(&proxy);
    let noted = async || redis::from_redis_value::<Vec<String>>(redis.ask(&["KEYS", "sidegate:o:*"]).await.unwrap());
    for (answer, code) in [
        ("error=access_denied", "sign_in_cancelled"),
        ("error=server_error&code=made-up", "provider_error"),
        ("code=", "invalid_state"),
        ("x=y", "invalid_state"),
    ] {
        let authorize = eve.begin("/").await;
        let state = authorize.split("state=").nth(1).unwrap().split('&').next().unwrap();
        let refused = eve.fetch(&format!("/api/v1/auth/callback?{answer}&state={state}")).await;
        assert_eq!(refused.code(), code, "{answer}");
        assert!(noted().await.unwrap().is_empty(), "{answer}");
    }
    eve.sign_in("eve").await;
    assert_eq!(noted().await.unwrap().len(), 1, "one that redeems a code counts once on all replicas");
}

#[tokio::test]
async fn idle_sessions_end_on_all_replicas_and_those_in_use_anywhere_do_not() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let (one, two) = two(at(&redis.url(), &upstream).await.env("SESSION_IDLE_TTL", "2s")).await;
    let (used, idle) = (signed_in(&one, "ann").await, signed_in(&one, "bob").await);
    assert_eq!(two.get_as(&used, "/x").await.status, 200);
    let began = Instant::now();
    until("a time passes", async || {
        assert_eq!(one.get_as(&used, "/x").await.status, 200, "in use, after {:?}", began.elapsed());
        began.elapsed() > Duration::from_millis(3500)
    })
    .await;
    assert_eq!(two.get_as(&used, "/x").await.status, 200, "in use elsewhere");
    for proxy in [&one, &two] {
        assert_eq!(proxy.get_as(&idle, "/x").await.status, 401);
    }
    let keys: Vec<String> = redis::from_redis_value(redis.ask(&["KEYS", "sidegate:s:*"]).await.unwrap()).unwrap();
    assert_eq!(keys.len(), 1, "Redis forgets it by itself");
}

#[tokio::test]
async fn a_request_that_the_store_could_not_answer_for_has_a_line_in_the_audit_log() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let proxy = at(&redis.url(), &upstream).await.env("AUDIT", "all").start().await;
    redis.signal("STOP");
    let strange = "A".repeat(43);
    assert_eq!(proxy.get_as(&strange, "/x?token=canary").await.status, 503);
    until("there is a line", async || !proxy.decisions().is_empty()).await;
    let line = &proxy.decisions()[0];
    let values = ["decision", "code", "method", "path"].map(|key| line[key].as_str().unwrap_or_default().to_owned());
    assert_eq!(values, ["refuse", "session_store_unavailable", "GET", "/x"], "{line:#}");
    assert!(line["reason"].as_str().unwrap().contains("store"), "{line:#}");
    assert!(!proxy.log().contains("canary") && upstream.received().is_empty());
}
