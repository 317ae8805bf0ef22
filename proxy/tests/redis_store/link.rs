//! The link to a Redis that is there and yet fails: commands that it refuses, and a cluster of which one master does not work.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Request;

use super::{at, cluster_of, text};
use crate::support::redis::is_installed;
use crate::support::{Redis, Upstream, until};

/// Who listens for news at a node.
const LISTENERS: [&str; 4] = ["CLIENT", "LIST", "TYPE", "PUBSUB"];

/// A token of no session, which no replica has in memory.
fn made_up() -> String {
    (0..43).map(|_| fastrand::alphanumeric()).collect()
}

async fn connections_of(redis: &Redis) -> u64 {
    let info = redis.info("stats").await;
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_store_that_refuses_a_command_is_neither_connected_to_nor_logged_as_fast_as_requests_come() {
    if !is_installed() {
        return;
    }
    let (redis, upstream) = (Redis::start().await, Upstream::start().await);
    let proxy = at(&redis.url(), &upstream).await.start().await;
    redis.ask(&["ACL", "SETUSER", "default", "-hmget"]).await.unwrap();
    let (before, began) = (connections_of(&redis).await, Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        let tokens: Vec<String> = (0..8).map(|_| made_up()).collect();
        for answer in join_all(tokens.iter().map(|token| proxy.get_as(token, "/x"))).await {
            assert_eq!(answer.status, 503);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = connections_of(&redis).await - before;
    println!("{made} connections in 3 s");
    assert!(made < 40, "{made} connections");
    let log = proxy.log();
    for line in ["the session store 127.0.0.1", "news of ended sessions"] {
        let count = log.matches(line).count();
        assert!(count <= 6, "{count} lines have {line:?}:\n{log}");
    }
    assert!(log.contains("the ACL user needs more rights"), "{log}");
    redis.ask(&["ACL", "SETUSER", "default", "+hmget"]).await.unwrap();
    until("it is used again", async || proxy.get_as(&made_up(), "/x").await.status == 401).await;
}

/// Three masters, each of which works on without the others.
async fn cluster() -> (Vec<Redis>, String) {
    let options =
        ["--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no"];
    let (nodes, url) = cluster_of(3, &options, &[]).await;
    for node in &nodes {
        until("the cluster stands", async || {
            let state = text(node.ask(&["CLUSTER", "INFO"]).await);
            state.contains("cluster_state:ok") && state.contains("cluster_size:3")
        })
        .await;
    }
    (nodes, url)
}

#[tokio::test]
async fn in_a_cluster_a_master_that_hangs_leaves_the_sessions_of_the_others_alone() {
    if !is_installed() {
        return;
    }
    let (nodes, url) = cluster().await;
    let upstream = Upstream::start().await;
    let proxy = at(&url, &upstream).await.env("SESSION_STORE_TIMEOUT", "1s").start().await;
    let tokens: Vec<String> = (0..60).map(|_| made_up()).collect();
    let all_unknown = vec![401_u16; tokens.len()];
    let statuses = async || {
        let answers = join_all(tokens.iter().map(|token| proxy.get_as(token, "/x"))).await;
        answers.iter().map(|answer| answer.status.as_u16()).collect::<Vec<_>>()
    };
    assert_eq!(statuses().await, all_unknown);
    nodes[2].signal("STOP");
    let first = statuses().await;
    let [unknown, unavailable] = [401, 503].map(|status| first.iter().filter(|found| **found == status).count());
    // As many as break a link to a single node.
    assert!(unknown > 3 && unavailable > 3 && unknown + unavailable == tokens.len(), "{first:?}");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let changed = statuses().await.iter().zip(&first).filter(|(now, first)| now != first).count();
        assert!(changed <= 2, "{changed}: {}", proxy.log());
    }
    assert!(!proxy.log().contains("is away"), "{}", proxy.log());
    nodes[2].signal("CONT");
    until("it is back", async || statuses().await == all_unknown).await;
}

#[tokio::test]
async fn in_a_cluster_a_logout_holds_also_where_news_of_its_master_does_not_come_through() {
    if !is_installed() {
        return;
    }
    let (nodes, url) = cluster().await;
    let upstream = Upstream::start().await;
    let plan = at(&url, &upstream).await.env("SESSION_CACHE_TTL", "2s");
    let twin = plan.twin();
    let (one, two) = (plan.start().await, twin.start().await);
    until("both replicas listen", async || {
        let lists = join_all(nodes.iter().map(async |node| text(node.ask(&LISTENERS).await))).await;
        lists.iter().map(|list| list.lines().filter(|line| !line.is_empty()).count()).sum::<usize>() == 2
    })
    .await;
    // They listen at some of the nodes; those then get nothing from a node that has forgotten them.
    let (mut listened_at, mut silent) = (Vec::new(), None);
    for node in &nodes {
        if text(node.ask(&LISTENERS).await).trim().is_empty() {
            silent = Some(node);
        } else {
            listened_at.push(text(node.ask(&["CLUSTER", "MYID"]).await));
        }
    }
    let silent = silent.expect("two replicas do not listen at three nodes");
    let held = async || {
        let keys = silent.ask(&["KEYS", "sidegate:s:*"]).await.unwrap();
        redis::from_redis_value::<Vec<String>>(keys).unwrap().len()
    };
    let token = loop {
        let before = held().await;
        let token = two.signed_in_as("ann").await.cookie("session_token").unwrap().to_owned();
        if held().await > before {
            break token;
        }
    };
    assert_eq!(one.get_as(&token, "/x").await.status, 200);
    for id in &listened_at {
        assert_eq!(text(silent.ask(&["CLUSTER", "FORGET", id]).await), "OK");
    }
    let request = Request::post("/api/v1/auth/logout").header("cookie", format!("session_token={token}"));
    assert_eq!(two.send(request).await.status, 200);
    let began = Instant::now();
    until("the logout holds", async || one.get_as(&token, "/x").await.status == 401).await;
    println!("without news a logout held on the other replica after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
