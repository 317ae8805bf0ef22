//! The log's reader goes away, stands still, or was never there: lines are lost and counted, and nothing else happens.

use std::fs::OpenOptions;
use std::io::{PipeReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::support::Answer;

const PATIENCE: Duration = Duration::from_secs(20);
/// How many lines are logged: more than a pipe holds.
const LINES: usize = 400;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Gone,
    Still,
    FullDisk,
    Closed,
    Fine,
}

const ALL: [Reader; 5] = [Reader::Gone, Reader::Still, Reader::FullDisk, Reader::Closed, Reader::Fine];

/// The program with standard error as that reader has it, and what must be kept for it.
fn orchestrator(reader: Reader, arguments: &[&str]) -> (Command, Option<PipeReader>) {
    let program = env!("CARGO_BIN_EXE_orchestrator");
    let mut command = Command::new(if reader == Reader::Closed { "/bin/sh" } else { program });
    if reader == Reader::Closed {
        command.args(["-c", "exec \"$0\" \"$@\" 2>&-", program]);
    }
    command.args(arguments).env_clear().env("DATABASE_URL", "sqlite::memory:");
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let (errors, kept): (Stdio, _) = match reader {
        Reader::Gone => (std::io::pipe().unwrap().1.into(), None),
        Reader::Still => {
            let (read, mut write) = std::io::pipe().unwrap();
            write.write_all(&[b'x'; 65536]).unwrap();
            (write.into(), Some(read))
        }
        Reader::FullDisk => (OpenOptions::new().write(true).open("/dev/full").unwrap().into(), None),
        Reader::Closed | Reader::Fine => (Stdio::null(), None),
    };
    command.stderr(errors);
    (command, kept)
}

fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn ask(addr: &str, request: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let typed = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}{typed}\r\n{body}").as_bytes()).await.unwrap();
    timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap()
}

async fn listens(addr: &str) {
    let begun = Instant::now();
    while TcpStream::connect(addr).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "it does not listen");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn lost(addr: &str) -> u64 {
    let metrics = ask(addr, "GET /metrics", "").await.body;
    let line = metrics.lines().find(|line| line.starts_with("orchestrator_log_lines_lost_total ")).unwrap().to_owned();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn ended(child: &mut Child) -> Option<i32> {
    timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code()
}

/// Requests that log a line each, and the end.
async fn works_with(reader: Reader) {
    let addr = free();
    let (mut command, _kept) = orchestrator(reader, &["--listen", &addr]);
    let mut child = command.spawn().unwrap();
    listens(&addr).await;
    for days in 1..=LINES {
        let settings = format!("{{\"activity_retention_days\":{days}}}");
        assert_eq!(ask(&addr, "PUT /api/v1/settings", &settings).await.status(), 200, "{reader:?}");
    }
    if matches!(reader, Reader::Gone | Reader::FullDisk) {
        let begun = Instant::now();
        while lost(&addr).await < LINES as u64 {
            assert!(begun.elapsed() < PATIENCE, "{reader:?}: only {} are counted", lost(&addr).await);
            sleep(Duration::from_millis(20)).await;
        }
    } else {
        assert_eq!(lost(&addr).await, 0, "a queue that is not full loses nothing");
    }
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    assert_eq!(ended(&mut child).await, Some(0), "{reader:?}");
}

#[tokio::test]
async fn a_reader_that_has_gone_costs_lines_only() {
    works_with(Reader::Gone).await;
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_lines_only() {
    works_with(Reader::Still).await;
}

#[tokio::test]
async fn a_full_disk_costs_lines_only() {
    works_with(Reader::FullDisk).await;
}

#[tokio::test]
async fn a_closed_standard_error_costs_lines_only() {
    works_with(Reader::Closed).await;
}

#[tokio::test]
async fn commands_end_with_the_code_of_their_work_whatever_reads_their_output() {
    let nobody = free();
    let cases: [(&[&str], i32); 3] =
        [(&["health", "--listen", &nobody], 1), (&["--no-such-flag"], 2), (&["--listen", "8081"], 2)];
    for (arguments, code) in cases {
        for reader in ALL {
            let (mut command, _kept) = orchestrator(reader, arguments);
            assert_eq!(ended(&mut command.spawn().unwrap()).await, Some(code), "{arguments:?} {reader:?}");
        }
    }
    for reader in [Reader::Gone, Reader::FullDisk] {
        let (mut command, _kept) = orchestrator(reader, &["--help"]);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output: Stdio = if reader == Reader::Gone { std::io::pipe().unwrap().1.into() } else { full.into() };
        let mut child = command.stdout(output).stderr(Stdio::null()).spawn().unwrap();
        assert_eq!(ended(&mut child).await, Some(0), "{reader:?}");
    }
}

#[tokio::test]
async fn the_simulated_api_ends_quietly_once_nobody_reads_its_list() {
    for (reader, code, says) in [(Reader::Gone, 0, ""), (Reader::FullDisk, 1, "No space left on device")] {
        let (mut command, _kept) = orchestrator(Reader::Fine, &["demo-api", "--clusters", "1", "--objects", "1"]);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output: Stdio = if reader == Reader::Gone { std::io::pipe().unwrap().1.into() } else { full.into() };
        let child = command.stdout(output).stderr(Stdio::piped()).spawn().unwrap();
        let ended = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{reader:?}: {text}");
        assert!(text.contains(says) && text.is_empty() == says.is_empty(), "{reader:?}: {text}");
    }
}
