//! The program itself: exit codes, signals and `health`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn orchestrator(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    command
        .args(args)
        .env_clear()
        .env("DATABASE_URL", "sqlite::memory:")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts the program on a free port, and waits for the line that names it.
async fn started() -> (Child, String) {
    let mut child = orchestrator(&["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let addr = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("ended early");
        if let Some((_, addr)) = line.split_once("listens on http://") {
            break addr.to_owned();
        }
    };
    // Someone has to read on, or the program would block or fail on a full or closed pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, addr)
}

async fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn health_follows_the_program_and_a_signal_ends_it_with_success() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, addr) = started().await;
        assert_eq!(outcome(&mut orchestrator(&["health", "--listen", &addr])).await, (Some(0), String::new()));

        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0), "{signal}");

        let (code, reason) = outcome(&mut orchestrator(&["health", "--listen", &addr])).await;
        assert_eq!(code, Some(1));
        assert!(reason.contains("does not answer at"), "{reason}");
    }
}

#[tokio::test]
async fn health_knows_the_address_from_the_environment() {
    let (_child, addr) = started().await;
    let mut command = orchestrator(&["health"]);
    assert_eq!(outcome(command.env("ORCHESTRATOR_LISTEN_ADDR", &addr)).await, (Some(0), String::new()));
}

#[tokio::test]
async fn an_address_open_to_others_is_refused_with_the_reason() {
    let (code, reason) = outcome(&mut orchestrator(&["--listen", "0.0.0.0:0"])).await;
    assert_eq!(code, Some(2));
    assert!(reason.contains("ORCHESTRATOR_BEHIND_PROXY=true"), "{reason}");
}

#[tokio::test]
async fn a_taken_port_ends_the_start_with_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, reason) = outcome(&mut orchestrator(&["--listen", &addr])).await;
    assert_eq!((code, reason.lines().count()), (Some(1), 1), "{reason}");
    assert!(reason.contains(&addr), "{reason}");
}
