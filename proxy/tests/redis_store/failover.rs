//! A master that is killed under load, behind sentinels and in a cluster.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::future::join_all;
use sidegate::adapters::stores::redis::Layout;
use zeroize::Zeroizing;

use super::store::{now, open_with, place};
use super::{SECRET, at, cluster_of, log_out, signed_in, text};
use crate::support::redis::{SENTINEL_PASSWORD, ask, is_installed};
use crate::support::{Browser, Proxy, Redis, Upstream, until};

/// How long the load goes on before and after.
const AROUND: Duration = Duration::from_millis(1500);
/// The longest time after the election of a new master in which requests may fail.
const BOUND: Duration = Duration::from_secs(2);

/// The tokens that are valid, and those that are not.
#[derive(Default)]
struct Book {
    live: RefCell<Vec<String>>,
    ended: RefCell<Vec<String>>,
    /// Logouts without a confirmation: they take effect in the end.
    limbo: RefCell<Vec<String>>,
    requests: Cell<u64>,
    failures: RefCell<Vec<Instant>>,
    sign_ins: Cell<u64>,
    wrong: RefCell<Vec<String>>,
    stop: Cell<bool>,
}

impl Book {
    fn record(&self, status: u16, right: u16, what: &str) {
        self.requests.set(self.requests.get() + 1);
        if status == 503 {
            self.failures.borrow_mut().push(Instant::now());
        } else if status != right {
            self.wrong.borrow_mut().push(format!("{what}: {status}"));
        }
    }

    /// Requests pages with sessions that are valid, ended, or made up.
    async fn visit(&self, proxy: &Proxy) {
        let nobody = "A".repeat(43);
        while !self.stop.get() {
            let live = any(&self.live).unwrap_or_else(|| nobody.clone());
            self.record(proxy.get_as(&live, "/x").await.status.as_u16(), 200, "a live session");
            let ended = any(&self.ended).unwrap_or_else(|| nobody.clone());
            self.record(proxy.get_as(&ended, "/x").await.status.as_u16(), 401, "an ended session");
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }

    /// Signs in twice, and out once.
    async fn sign_in_and_out(&self, proxy: &Proxy) {
        while !self.stop.get() {
            let mut tokens = Vec::new();
            for _ in 0..2 {
                let mut browser = Browser::of(proxy);
                let status = browser.sign_in("ann").await.status.as_u16();
                self.record(status, 302, "a sign-in");
                if status == 302 {
                    tokens.push(browser.cookie("session_token").unwrap().to_owned());
                    self.sign_ins.set(self.sign_ins.get() + 1);
                }
            }
            let mut tokens = tokens.into_iter();
            self.live.borrow_mut().extend(tokens.next());
            if let Some(token) = tokens.next() {
                let status = log_out(proxy, &token).await;
                self.record(status, 200, "a logout");
                // The other replica sees it within a second.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let list = if status == 200 { &self.ended } else { &self.limbo };
                list.borrow_mut().push(token);
            }
        }
    }

    /// Runs load on two replicas while `fail` kills a master and returns when a new one was elected.
    async fn run_load_during(
        &self,
        proxies: [&Proxy; 2],
        what: &str,
        fail: impl AsyncFnOnce() -> (Instant, Instant),
    ) -> usize {
        for proxy in proxies {
            for _ in 0..10 {
                let token = signed_in(proxy, "bob").await;
                self.live.borrow_mut().push(token);
            }
            let gone = signed_in(proxy, "bob").await;
            assert_eq!(log_out(proxy, &gone).await, 200);
            self.ended.borrow_mut().push(gone);
        }
        let visits = proxies.iter().flat_map(|proxy| (0..6).map(move |_| self.visit(proxy)));
        let sign_ins = proxies.iter().map(|proxy| self.sign_in_and_out(proxy));
        let failing = async {
            tokio::time::sleep(AROUND).await;
            let before = self.failures.borrow().len();
            assert_eq!(before, 0, "requests failed before anything was killed");
            let (killed, elected) = fail().await;
            tokio::time::sleep(BOUND + AROUND).await;
            self.stop.set(true);
            (killed, elected)
        };
        let ((killed, elected), _, _) = tokio::join!(failing, join_all(visits), join_all(sign_ins));
        let failures = self.failures.take();
        let (first, last) = (failures.iter().min().copied(), failures.iter().max().copied());
        let outage = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
        println!(
            "{what}: {} requests, {} sign-ins, {} failed with 503, over {outage:?}; new master after {:?}, last failure {:?} after that",
            self.requests.get(),
            self.sign_ins.get(),
            failures.len(),
            elected - killed,
            last.map_or(Duration::ZERO, |last| last.saturating_duration_since(elected)),
        );
        assert_eq!(*self.wrong.borrow(), Vec::<String>::new(), "none let in, none signed out, no other failure");
        assert!(last.is_none_or(|last| last <= elected + BOUND), "requests failed for too long");
        assert!(self.requests.get() > 300);
        let (live, ended, limbo) = (self.live.take(), self.ended.take(), self.limbo.take());
        for proxy in proxies {
            for token in &live {
                assert_eq!(proxy.get_as(token, "/x").await.status, 200, "signed out by a failover\n{}", proxy.log());
            }
            for token in &ended {
                assert_eq!(proxy.get_as(token, "/x").await.status, 401, "a logout was undone");
            }
            for token in &limbo {
                until("a logout is made up for", async || proxy.get_as(token, "/x").await.status == 401).await;
            }
        }
        live.len()
    }
}

fn any(tokens: &RefCell<Vec<String>>) -> Option<String> {
    fastrand::choice(tokens.borrow().iter()).cloned()
}

#[tokio::test]
async fn behind_sentinels_a_killed_master_signs_nobody_out() {
    if !is_installed() {
        return;
    }
    let mut master = Redis::start().await;
    let port = master.port.to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    // Never becomes a master: two sentinels that start a failover at once choose the same one, and writes to a master without
    // replicas are not lost with it.
    let other = Redis::start_with(&["--replicaof", "127.0.0.1", &port, "--replica-priority", "0"]).await;
    until("the replicas follow", async || master.info("replication").await.matches("state=online").count() == 2).await;
    let sentinels = [
        Redis::sentinel(master.port, 2).await,
        Redis::sentinel(master.port, 2).await,
        Redis::sentinel(master.port, 2).await,
    ];
    for sentinel in &sentinels {
        until("the sentinels know each other and the replicas", async || {
            let info = sentinel.info("sentinel").await;
            info.contains("slaves=2") && info.contains("sentinels=3")
        })
        .await;
    }
    let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis-sentinel://{}/mymaster/0", hosts.join(","));
    let upstream = Upstream::start().await;
    let plan = at(&url, &upstream).await.env("SESSION_CACHE_TTL", "1s");
    let (one, two) = super::two(plan.env("SESSION_REDIS_SENTINEL_PASSWORD", SENTINEL_PASSWORD)).await;
    let fail = async || {
        let killed = Instant::now();
        master.kill();
        until("there is a new master", async || {
            // The new master is the one that most sentinels name.
            let mut named = Vec::new();
            for sentinel in &sentinels {
                let answer = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", "mymaster"]).await;
                named.extend(answer.and_then(|answer| redis::from_redis_value::<(String, u16)>(answer).ok()));
            }
            [&replica, &other].iter().any(|node| named.iter().filter(|(_, port)| *port == node.port).count() >= 2)
        })
        .await;
        (killed, Instant::now())
    };
    Book::default().run_load_during([&one, &two], "a Sentinel trio with a killed master", fail).await;
}

#[tokio::test]
async fn in_a_cluster_a_killed_master_signs_nobody_out() {
    if !is_installed() {
        return;
    }
    let options =
        ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"];
    let (mut nodes, url) = cluster_of(6, &options, &["--cluster-replicas", "1"]).await;
    for node in &nodes {
        until("the cluster stands", async || {
            let replication = node.info("replication").await;
            text(node.ask(&["CLUSTER", "INFO"]).await).contains("cluster_state:ok")
                && (replication.contains("state=online") || replication.contains("master_link_status:up"))
        })
        .await;
    }
    let upstream = Upstream::start().await;
    let (one, two) = super::two(at(&url, &upstream).await.env("SESSION_CACHE_TTL", "1s")).await;
    let mut victim = None;
    for (n, node) in nodes.iter().enumerate() {
        if victim.is_none() && node.info("replication").await.contains("role:master") {
            victim = Some(n);
        }
    }
    let mut victim = nodes.remove(victim.unwrap());
    let myself = text(victim.ask(&["CLUSTER", "MYID"]).await);
    let urls: Vec<String> = nodes.iter().map(Redis::url).collect();
    let fail = async || {
        let killed = Instant::now();
        victim.kill();
        until("there is a new master", async || {
            let mut all = true;
            for url in &urls {
                let map = text(ask(url, &["CLUSTER", "NODES"]).await);
                let owns = |line: &&str| line.starts_with(&myself) && line.split(' ').count() > 8;
                all &= !map.is_empty() && !map.lines().any(|line| owns(&line));
                all &= text(ask(url, &["CLUSTER", "INFO"]).await).contains("cluster_state:ok");
            }
            all
        })
        .await;
        (killed, Instant::now())
    };
    let what = "a Cluster of 3 masters and 3 replicas with a killed master";
    let live = Book::default().run_load_during([&one, &two], what, fail).await;
    // Listing sessions queries every master.
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let secret = base64::engine::general_purpose::STANDARD.decode(SECRET).unwrap();
    let store = open_with(place(Layout::Cluster, &ports), vec![Zeroizing::new(secret)]).await;
    let mut all = HashSet::new();
    store.all(now(), |session| _ = all.insert(session.key())).await.unwrap();
    assert!(all.len() >= live, "{} of {live} sessions", all.len());
}
