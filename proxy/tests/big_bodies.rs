//! Bodies far bigger than memory: four at once in each direction, with the proxy's resident memory bounded throughout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::support::client::{full, pieces};
use crate::support::{Client, Out, Proxy, Upstream, memory};

/// Bodies at once, in each direction.
const BODIES: usize = 4;
/// The limit of the proxy's resident memory.
const MOST_KIB: u64 = 40 * 1024;
const PIECE: usize = 64 * 1024;

/// The size of each body.
const MEBIBYTES: usize = 1024;

fn body_of(mebibytes: usize) -> Out {
    let (mut sender, body) = pieces();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        for _ in 0..mebibytes * 1024 * 1024 / PIECE {
            if sender.send_data(piece.clone()).await.is_err() {
                return;
            }
        }
    });
    body
}

async fn length(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    length
}

/// The highest resident memory seen, in KiB, sampled continuously until `stop`.
fn watch(pid: u32, stop: Arc<AtomicBool>) -> (Arc<AtomicU64>, std::thread::JoinHandle<()>) {
    let highest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&highest);
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            seen.fetch_max(memory(pid, "VmRSS"), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    (highest, thread)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_bodies_each_way_pass_in_bounded_memory() {
    let size = MEBIBYTES;
    let upstream = Upstream::streaming(move |request| async move {
        if request.method() == http::Method::POST {
            let length = length(request.into_body()).await;
            return Response::new(full(length.to_string()));
        }
        Response::new(body_of(size))
    })
    .await;
    let proxy = Proxy::start(&upstream).await;
    let cookie = proxy.signed_in_as("ann").await.cookie_header();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let began = Instant::now();
        let before = memory(proxy.pid(), "VmRSS");
        let stop = Arc::new(AtomicBool::new(false));
        let (highest, watching) = watch(proxy.pid(), Arc::clone(&stop));
        let shared = Client::http2(proxy.address).await;
        let mut exchanges = JoinSet::new();
        for number in 0..2 * BODIES {
            let mut client = match (version, &shared) {
                (Version::HTTP_2, Client::Http2(sender)) => Client::Http2(sender.clone()),
                _ => Client::http1(proxy.address).await,
            };
            let upload = number % 2 == 0;
            let cookie = cookie.clone();
            exchanges.spawn(async move {
                let (request, body) =
                    if upload { (Request::post("/big"), body_of(size)) } else { (Request::get("/big"), full("")) };
                let answer = client.send_without_limit(request.header("cookie", cookie), body).await.unwrap();
                assert_eq!(answer.status(), 200);
                if upload {
                    let text = answer.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(text, (size * 1024 * 1024).to_string());
                } else {
                    assert_eq!(length(answer.into_body()).await, size * 1024 * 1024);
                }
            });
        }
        while let Some(done) = exchanges.join_next().await {
            done.unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        watching.join().unwrap();
        let highest = highest.load(Ordering::SeqCst);
        println!(
            "{version:?}: {BODIES} bodies of {size} MiB each way in {:.1} s; resident {before} KiB before, at most {highest} KiB",
            began.elapsed().as_secs_f32()
        );
        assert!(highest < MOST_KIB, "{version:?}: {highest} KiB resident");
    }
}
