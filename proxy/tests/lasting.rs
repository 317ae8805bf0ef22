//! Long-lived exchanges (event streams, long responses, WebSockets) close within 5 s of the end of their session, and not before.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::Incoming;

use crate::support::client::{full, next_data, pieces};
use crate::support::h2::H2;
use crate::support::{Browser, Client, Proxy, Upstream, until};

/// The contract's limit.
const SOON: Duration = Duration::from_secs(5);
const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Answers with an endless body: `/events` with an event stream, anything else with bytes; `/quiet…` sends one piece only.
pub async fn endless() -> Upstream {
    Upstream::streaming(async |request| {
        let (mut sender, body) = pieces();
        let path = request.uri().path().to_owned();
        let quiet = path.starts_with("/quiet");
        tokio::spawn(async move {
            while sender.send_data(Bytes::from_static(b"data: tick\n\n")).await.is_ok() {
                if quiet {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let kind = if path.ends_with("events") { "text/event-stream" } else { "application/octet-stream" };
        Response::builder().header("content-type", kind).body(body).unwrap()
    })
    .await
}

/// Opens a stream on behalf of a browser, and waits for its first piece.
pub async fn open(browser: &Browser<'_>, proxy: &Proxy, version: Version, path: &str) -> (Client, Incoming) {
    let mut client = Client::of(version, proxy.address).await;
    let request = Request::get(path).header("cookie", browser.cookie_header());
    let answer = client.send(request, full("")).await.unwrap();
    assert_eq!(answer.status(), 200, "{version:?} {path}");
    let mut body = answer.into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "data: tick\n\n");
    (client, body)
}

/// How long it takes until the stream is aborted, which must not look like its normal end.
pub async fn wait_until_aborted(body: &mut Incoming) -> Duration {
    let began = Instant::now();
    let reading = async {
        loop {
            match next_data(body).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return began.elapsed(),
                None => panic!("it ended as if it were complete"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), reading).await.expect("it stays open")
}

/// Checks that pieces still arrive, for longer than it takes to notice the end of a session.
pub async fn keeps_arriving(body: &mut Incoming) {
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        next_data(body).await.expect("it has ended").expect("it was broken off");
    }
}

#[tokio::test]
async fn a_logout_breaks_off_streams_of_every_kind_within_5_seconds_and_nobody_elses() {
    let upstream = endless().await;
    let proxy = Proxy::start(&upstream).await;
    for version in BOTH {
        let (mut ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
        let mut anns = Vec::new();
        for path in ["/events", "/quiet/events", "/download", "/quiet/download"] {
            anns.push((path, open(&ann, &proxy, version, path).await));
        }
        let (_client, mut bobs) = open(&bob, &proxy, version, "/events").await;
        let began = Instant::now();
        assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
        for (path, (_client, body)) in &mut anns {
            wait_until_aborted(body).await;
            assert!(began.elapsed() < SOON, "{version:?} {path} took {:?}", began.elapsed());
        }
        keeps_arriving(&mut bobs).await;
    }
}

#[tokio::test]
async fn an_event_stream_whose_reader_takes_nothing_ends_with_its_session_too() {
    let upstream = endless().await;
    let proxy = Proxy::start(&upstream).await;
    let mut ann = proxy.signed_in_as("ann").await;
    let connection = H2::connect(proxy.address, 0).await;
    connection.get(1, "/events", &[("cookie", &ann.cookie_header())]).await;
    until("the stream is open", async || connection.received().answered == [1]).await;
    let began = Instant::now();
    assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
    until("the stream is reset", async || connection.received().reset == [1]).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(connection.received().data, 0);
}

#[tokio::test]
async fn the_end_of_an_event_stream_that_nobody_reads_is_no_longer_held_than_any_other() {
    let upstream = Upstream::streaming(async |_| {
        Response::builder().header("content-type", "text/event-stream").body(full("data: the last\n\n")).unwrap()
    })
    .await;
    // Longer than the pause after which the session is asked about again.
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("TIMEOUT_BODY", "3s").start().await;
    let ann = proxy.signed_in_as("ann").await;
    let connection = H2::connect(proxy.address, 1).await;
    connection.get(1, "/events", &[("cookie", &ann.cookie_header())]).await;
    until("its first byte has come", async || connection.received().data == 1).await;
    let began = Instant::now();
    until("the connection is closed", async || connection.received().closed).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn ending_a_session_from_another_browser_breaks_off_its_streams_within_5_seconds() {
    let upstream = endless().await;
    let proxy = Proxy::start(&upstream).await;
    let (mut here, there) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await);
    let (_one, mut theirs) = open(&there, &proxy, Version::HTTP_11, "/events").await;
    let (_two, mut ours) = open(&here, &proxy, Version::HTTP_11, "/events").await;
    assert_eq!(here.send(Request::delete("/api/v1/auth/sessions")).await.json()["ended"], 1);
    let took = wait_until_aborted(&mut theirs).await;
    assert!(took < SOON, "{took:?}");
    keeps_arriving(&mut ours).await;
}

/// Reads only the head of a request; or all of it, and answers slowly, with a length; or never starts to answer.
async fn slow() -> Upstream {
    Upstream::streaming(async |request| {
        let (mut sender, body) = pieces();
        match request.uri().path() {
            "/silent" => std::future::pending().await,
            "/stuck" => {
                std::mem::forget(request);
                std::future::pending().await
            }
            "/upload" => {
                let mut upload = request.into_body();
                while let Some(Ok(_)) = next_data(&mut upload).await {}
                Response::new(full("complete"))
            }
            _ => {
                tokio::spawn(async move {
                    for _ in 0..1000 {
                        if sender.send_data(Bytes::from_static(b"data: tick\n\n")).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
                Response::builder().header("content-length", "12000").body(body).unwrap()
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_logout_ends_uploads_short_answers_that_take_long_and_requests_that_wait_within_5_seconds() {
    let upstream = slow().await;
    let proxy = Proxy::start(&upstream).await;
    for version in BOTH {
        let (mut ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
        let (_short, mut answer) = open(&ann, &proxy, version, "/short").await;
        let (_other, mut others) = open(&bob, &proxy, version, "/short").await;
        let mut waiting = Vec::new();
        for path in ["/silent", "/upload", "/stuck"] {
            let mut client = Client::of(version, proxy.address).await;
            let (mut sender, body) = pieces();
            let request = Request::builder().method(if path == "/silent" { "GET" } else { "POST" }).uri(path);
            let request = request.header("cookie", ann.cookie_header());
            let body = if path == "/silent" { full("") } else { body };
            tokio::spawn(async move {
                // Slow but steady, or as fast as it is read.
                let piece = Bytes::from(vec![b'x'; if path == "/stuck" { 64 * 1024 } else { 100 }]);
                while path != "/silent" && sender.send_data(piece.clone()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(if path == "/stuck" { 1 } else { 50 })).await;
                }
                std::future::pending::<()>().await;
            });
            waiting.push((
                path,
                tokio::spawn(async move { client.send(request, body).await.map(|answer| answer.status()) }),
            ));
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let began = Instant::now();
        assert_eq!(ann.post("/api/v1/auth/logout").await.status, 200);
        for (path, answer) in waiting {
            let status = tokio::time::timeout(Duration::from_secs(15), answer).await.expect(path).unwrap();
            assert!(began.elapsed() < SOON, "{version:?} {path} took {:?}", began.elapsed());
            assert!(status.as_ref().map_or(true, |status| *status == 401), "{version:?} {path}: {status:?}");
        }
        wait_until_aborted(&mut answer).await;
        assert!(began.elapsed() < SOON, "{version:?}: a short answer took {:?}", began.elapsed());
        keeps_arriving(&mut others).await;
    }
}

#[tokio::test]
async fn a_reload_from_open_mode_to_sign_in_ends_what_nobody_had_open_within_5_seconds() {
    let upstream = endless().await;
    let plan = Proxy::with_sign_in("github", &upstream).await.without("OAUTH_ENABLED");
    let proxy = plan.file("SIDEGATE_CONFIG", "sidegate.toml", "oauth_enabled = false").start_alone().await;
    let mut streams = Vec::new();
    for version in BOTH {
        for path in ["/events", "/quiet/events", "/download"] {
            streams.push((path, open(&Browser::of(&proxy), &proxy, version, path).await));
        }
    }
    let (mut goes, _) = (streams.remove(0).1, ());
    keeps_arriving(&mut goes.1).await;
    let began = Instant::now();
    std::fs::write(proxy.folder().join("sidegate.toml"), "oauth_enabled = true").unwrap();
    proxy.logs("the configuration was read again").await;
    wait_until_aborted(&mut goes.1).await;
    for (path, (_client, body)) in &mut streams {
        wait_until_aborted(body).await;
        assert!(began.elapsed() < SOON + Duration::from_secs(1), "{path} took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_reload_that_refuses_the_user_breaks_off_streams_within_5_seconds() {
    let upstream = endless().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let proxy = plan.file("OAUTH_ALLOWED_USERS_FILE", "allowed", "ann@example.com\nbob@example.com\n").start().await;
    let (ann, bob) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("bob").await);
    let (_one, mut anns) = open(&ann, &proxy, Version::HTTP_11, "/events").await;
    let (_two, mut bobs) = open(&bob, &proxy, Version::HTTP_2, "/events").await;
    std::fs::write(proxy.folder().join("allowed"), "bob@example.com\n").unwrap();
    proxy.logs("the configuration was read again").await;
    let took = wait_until_aborted(&mut anns).await;
    assert!(took < SOON, "{took:?}");
    keeps_arriving(&mut bobs).await;
}

#[tokio::test]
async fn a_reload_that_changes_the_provider_breaks_off_streams_within_5_seconds() {
    let upstream = endless().await;
    let plan = Proxy::with_sign_in("github", &upstream).await;
    let origin = plan.idp().origin();
    let file = |web: &str| format!("oauth_github_url = \"{web}\"\n");
    let plan = plan.without("OAUTH_GITHUB_URL").file("SIDEGATE_CONFIG", "sidegate.toml", &file(&origin));
    let proxy = plan.start().await;
    let ann = proxy.signed_in_as("ann").await;
    let (_client, mut body) = open(&ann, &proxy, Version::HTTP_11, "/events").await;
    std::fs::write(proxy.folder().join("sidegate.toml"), file("http://127.0.0.1:1")).unwrap();
    proxy.logs("the configuration was read again").await;
    let took = wait_until_aborted(&mut body).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_session_that_expires_takes_its_streams_with_it() {
    let upstream = endless().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_TTL", "3s").start().await;
    let ann = proxy.signed_in_as("ann").await;
    let (_client, mut body) = open(&ann, &proxy, Version::HTTP_11, "/events").await;
    let took = wait_until_aborted(&mut body).await;
    assert!(took < Duration::from_secs(3) + SOON, "{took:?}");
}

#[tokio::test]
async fn an_open_event_stream_does_not_keep_a_session_from_going_idle() {
    let upstream = endless().await;
    let proxy = Proxy::with_sign_in("github", &upstream).await.env("SESSION_IDLE_TTL", "3s").start().await;
    let (mut used, idle) = (proxy.signed_in_as("ann").await, proxy.signed_in_as("ann").await);
    let (_one, mut anns) = open(&used, &proxy, Version::HTTP_11, "/events").await;
    let (_two, mut idles) = open(&idle, &proxy, Version::HTTP_11, "/events").await;
    let began = Instant::now();
    let using = async {
        while began.elapsed() < Duration::from_secs(9) {
            assert_eq!(used.get("/api/v1/auth/me").await.status, 200, "requests keep a session alive");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let (took, ()) = tokio::join!(wait_until_aborted(&mut idles), using);
    assert!(took < Duration::from_secs(3) + SOON, "{took:?}");
    keeps_arriving(&mut anns).await;
}

#[tokio::test]
async fn without_sign_in_streams_stay_open() {
    let upstream = endless().await;
    let proxy = Proxy::open(&upstream).start().await;
    let mut client = Client::of(Version::HTTP_11, proxy.address).await;
    let mut body = client.get("/events").await.unwrap().into_body();
    keeps_arriving(&mut body).await;
}
