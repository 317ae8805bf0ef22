//! Limits, and an end that drops no request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use orchestrator::entrance::Entrance;
use orchestrator::serve::{self, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{Answer, Orchestrator, app};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let routes = Router::new().route("/slow", {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        get(move || async move {
            begun.notify_one();
            go_on.notified().await;
            "done"
        })
    });
    let orchestrator = Orchestrator::start_with(routes, Limits::default()).await;
    let mut idle = orchestrator.connect().await;
    let mut busy = orchestrator.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    begun.notified().await;

    let addr = orchestrator.addr;
    let mut served = orchestrator.end();
    // The idle connection's close shows that the drain has begun, and the listener is gone by then.
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert!(timeout(Duration::from_millis(50), &mut served).await.is_err(), "ended with a request in flight");

    go_on.notify_one();
    let answer = timeout(PATIENCE, Answer::read(&mut busy)).await.unwrap();
    assert_eq!((answer.status(), answer.body.as_str()), (200, "done"));
    timeout(PATIENCE, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_drain_ends_even_if_a_request_does_not() {
    let begun = Arc::new(Notify::new());
    let routes = Router::new().route("/stuck", {
        let begun = Arc::clone(&begun);
        get(move || async move {
            begun.notify_one();
            std::future::pending::<()>().await;
        })
    });
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let orchestrator = Orchestrator::start_with(routes, limits).await;
    let mut stuck = orchestrator.connect().await;
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    begun.notified().await;
    timeout(PATIENCE, orchestrator.end()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let limits = Limits { header_read: Duration::from_millis(100), ..Limits::default() };
    let orchestrator = Orchestrator::start_with(orchestrator::routes(app().await, Entrance::default()), limits).await;
    let mut slow = orchestrator.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_a_place() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let orchestrator = Orchestrator::start_with(orchestrator::routes(app().await, Entrance::default()), limits).await;
    let mut first = orchestrator.connect().await;
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();

    let mut second = orchestrator.connect().await;
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(50), second.read(&mut byte)).await.is_err(), "served beyond the limit");
    drop(first);
    let answer = timeout(PATIENCE, Answer::read(&mut second)).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_taken_port_is_reported_in_one_line_with_a_remedy() {
    let first = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = first.local_addr().unwrap();
    let error = serve::bind(addr).await.unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("ORCHESTRATOR_LISTEN_ADDR"), "{error}");
    assert!(!error.contains('\n'));
}
