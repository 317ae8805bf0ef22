//! A rolling restart of three replicas with a shared store, under load: no client is affected.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::support::redis::is_installed;
use crate::support::{Client, Plan, Proxy, Redis, Upstream, client, until};

/// Users with continuous requests, in pairs.
const PEOPLE: [&str; 4] = ["ann", "bob", "carol", "zoe"];

/// The state of a load balancer: the replicas' addresses, and which of them reported ready last.
#[derive(Clone, Default)]
struct Balancer(Arc<Mutex<Vec<Replica>>>);

#[derive(Clone)]
struct Replica {
    address: SocketAddr,
    admin: SocketAddr,
    ready: Arc<AtomicBool>,
}

impl Balancer {
    fn add(&self, proxy: &Proxy) {
        let ready = Arc::new(AtomicBool::new(false));
        self.0.lock().unwrap().push(Replica { address: proxy.address, admin: proxy.admin, ready });
    }

    fn remove(&self, address: SocketAddr) {
        self.0.lock().unwrap().retain(|replica| replica.address != address);
    }

    fn all(&self) -> Vec<Replica> {
        self.0.lock().unwrap().clone()
    }

    fn is_ready(&self, address: SocketAddr) -> bool {
        self.all().iter().any(|replica| replica.address == address && replica.ready.load(Ordering::Relaxed))
    }

    /// Polls each replica's readiness, as often as an eager balancer does.
    async fn watch(self) {
        loop {
            for replica in self.all() {
                replica.ready.store(is_ready(replica.admin).await, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A ready replica; `turn` distributes the clients.
    fn pick(&self, turn: u64) -> Option<SocketAddr> {
        let ready: Vec<_> = self.all().into_iter().filter(|replica| replica.ready.load(Ordering::Relaxed)).collect();
        let turn = usize::try_from(turn).unwrap_or(0);
        ready.get(turn % ready.len().max(1)).map(|replica| replica.address)
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(admin).await else { return false };
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else { return false };
    tokio::spawn(connection);
    let request = Request::get("/readyz").header("host", "admin").body(client::full("")).unwrap();
    sender.send_request(request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

/// What the clients observed.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// A kept-alive connection closed as it was reused: every balancer retries such a `GET`.
    sent_again: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// One user's browser behind the balancer: keeps its connection while its replica is ready.
async fn keep_asking(balancer: Balancer, token: String, first: u64, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut turn = first;
    let mut open: Option<(Client, SocketAddr)> = None;
    while !stop.load(Ordering::Relaxed) {
        let kept = open.take().filter(|(_, address)| balancer.is_ready(*address));
        let reused = kept.is_some();
        turn += 1;
        let (mut client, address) = match kept {
            Some(kept) => kept,
            None => {
                let Some(address) = balancer.pick(turn) else { continue };
                (Client::http1(address).await, address)
            }
        };
        let request = Request::get("/x").header("cookie", format!("session_token={token}"));
        match client.send(request, client::full("")).await {
            Ok(answer) => {
                let (status, closes) = (answer.status(), answer.headers().contains_key("connection"));
                let whole = answer.into_body().collect().await;
                if status != StatusCode::OK || whole.is_err() {
                    seen.failures.lock().unwrap().push(format!("{status} {whole:?}"));
                }
                seen.answered.fetch_add(1, Ordering::Relaxed);
                if !closes {
                    open = Some((client, address));
                }
            }
            Err(_) if reused => {
                seen.sent_again.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => seen.failures.lock().unwrap().push(error.to_string()),
        }
    }
}

async fn plan(redis: &Redis, upstream: &Upstream) -> Plan {
    Proxy::with_sign_in("github", upstream)
        .await
        .env("SESSION_STORE", "redis")
        .env("SESSION_REDIS_URL", redis.url())
        .env("SESSION_SECRET", "cm9sbGluZy1yb2xsaW5nLXJvbGxpbmctcm9sbGluZy0wMTIzNDU2Nzg5")
        .env("SHUTDOWN_DELAY", "1s")
}

#[tokio::test]
async fn a_rolling_restart_of_three_replicas_fails_no_request_and_asks_nobody_to_sign_in() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let plan = plan(&redis, &upstream).await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(plan.twin().start().await);
    }
    let balancer = Balancer::default();
    for replica in &replicas {
        balancer.add(replica);
    }
    let watching = tokio::spawn(balancer.clone().watch());
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    for (first, user) in (0_u64..).zip(PEOPLE.iter().chain(&PEOPLE)) {
        let token = replicas[0].signed_in_as(user).await.cookie("session_token").unwrap().to_owned();
        let caller = keep_asking(balancer.clone(), token, first, Arc::clone(&seen), Arc::clone(&stop));
        callers.push(tokio::spawn(caller));
    }
    let answered = || seen.answered.load(Ordering::Relaxed);
    let mut serving = Vec::new();
    for mut old in replicas {
        let before = answered();
        until("there is load", async || answered() > before + 100).await;
        let new = plan.twin().start().await;
        balancer.add(&new);
        until("the new one is found ready", async || balancer.is_ready(new.address)).await;
        old.signal("TERM");
        assert_eq!(old.ended().await.code(), Some(0), "{}", old.log());
        balancer.remove(old.address);
        serving.push(new);
    }
    let before = answered();
    until("there is load at the end", async || answered() > before + 100).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    watching.abort();
    let failures = seen.failures.lock().unwrap();
    println!(
        "a rolling restart of three replicas: {} requests, {} failed, {} sent again on another connection, nobody asked to sign in",
        answered(),
        failures.len(),
        seen.sent_again.load(Ordering::Relaxed),
    );
    assert!(failures.is_empty(), "{failures:?}");
}
