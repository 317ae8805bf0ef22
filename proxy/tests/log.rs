//! The log's reader goes away, stalls, or was never there: lines are lost and counted, with no other effect.

use std::io::{PipeReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;

use crate::support::{Proxy, Upstream, until, wire};

/// The reader of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Gone,
    Still,
    FullDisk,
    Closed,
    Fine,
}

/// The output for a reader, and the pipe to keep open for it.
fn output(reader: Reader) -> (Stdio, Option<PipeReader>) {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    match reader {
        Reader::Gone => (std::io::pipe().unwrap().1.into(), None),
        Reader::Still => {
            let (read, mut write) = std::io::pipe().unwrap();
            write.write_all(&[b'x'; 65536]).unwrap();
            (write.into(), Some(read))
        }
        Reader::FullDisk => (full().into(), None),
        Reader::Closed | Reader::Fine => (Stdio::null(), None),
    }
}

/// The same program, with standard error closed if required.
fn with(reader: Reader, command: &Command) -> Command {
    let mut wrapped =
        Command::new(if reader == Reader::Closed { "/bin/sh" } else { command.get_program().to_str().unwrap() });
    if reader == Reader::Closed {
        wrapped.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(command.get_program());
    }
    wrapped.args(command.get_args()).env_clear().stdin(Stdio::null());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the program ends", async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = wire::send(address, Request::get(path).header("host", "x").body(Full::default()).unwrap()).await;
    (answer.status.as_u16(), answer.text())
}

async fn lost(admin: SocketAddr) -> u64 {
    let (_, metrics) = get(admin, "/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("sidegate_log_lines_lost_total ")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Requests that log a line each, a reload and the shutdown.
async fn works_with(reader: Reader) {
    let (upstream, listen, admin) = (Upstream::start().await, free(), free());
    let plan = Proxy::open(&upstream).env("LISTEN_ADDR", listen.to_string()).env("ADMIN_ADDR", admin.to_string());
    let (errors, _kept) = output(reader);
    let mut child = Killed(with(reader, &plan.command()).stdout(Stdio::null()).stderr(errors).spawn().unwrap());
    until("it listens", async || tokio::net::TcpStream::connect(admin).await.is_ok()).await;
    for _ in 0..300 {
        assert_eq!(get(listen, "/api/v1/auth/me").await.0, 404);
    }
    assert_eq!(get(listen, "/x").await.0, 200);
    if matches!(reader, Reader::Gone | Reader::FullDisk) {
        until("lost lines are counted", async || lost(admin).await > 300).await;
    } else {
        assert_eq!(lost(admin).await, 0, "a queue that is not full loses nothing");
    }
    let signal = |name: &str| Command::new("kill").args([name, &child.0.id().to_string()]).status().unwrap();
    assert!(signal("-HUP").success());
    let reloaded = "sidegate_reloads_total{result=\"succeeded\"} 1";
    until("it reloads", async || get(admin, "/metrics").await.1.contains(reloaded)).await;
    assert_eq!(get(listen, "/x").await.0, 200);
    assert!(signal("-TERM").success());
    assert_eq!(ended(&mut child.0).await.code(), Some(0), "{reader:?}");
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
    let upstream = Upstream::start().await;
    let nobody = free().to_string();
    let plan = || Proxy::open(&upstream).env("ADMIN_ADDR", nobody.as_str());
    let cases: [(&[&str], i32); 6] = [
        (&["check"], 0),
        (&["check", "--upstream-url", "ftp://x"], 2),
        (&["--no-such-flag"], 2),
        (&["health"], 1),
        (&["sessions", "list"], 1),
        (&["--upstream-url", "ftp://x"], 2),
    ];
    for (arguments, code) in cases {
        for reader in [Reader::Fine, Reader::Gone, Reader::Still, Reader::FullDisk, Reader::Closed] {
            let plan = plan();
            let (errors, _kept) = output(reader);
            let mut command = plan.command();
            command.args(arguments);
            let begun = Instant::now();
            let mut child = Killed(with(reader, &command).stdout(Stdio::null()).stderr(errors).spawn().unwrap());
            assert_eq!(ended(&mut child.0).await.code(), Some(code), "{arguments:?} {reader:?}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{arguments:?} {reader:?}");
        }
    }
    // 1 would say that the request is not let in.
    let explain: &[&str] = &["explain", "--path", "/x"];
    for (arguments, reader, code) in [
        (explain, Reader::Fine, 0),
        (explain, Reader::FullDisk, 2),
        (explain, Reader::Gone, 0),
        (&["explain", "--path", "/x", "--json"], Reader::FullDisk, 2),
    ] {
        let plan = plan();
        let (text, _kept) = output(reader);
        let mut command = plan.command();
        let mut child = Killed(command.args(arguments).stdout(text).stderr(Stdio::null()).spawn().unwrap());
        assert_eq!(ended(&mut child.0).await.code(), Some(code), "{arguments:?} {reader:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        for reader in [Reader::Gone, Reader::FullDisk] {
            let plan = plan();
            let (text, _kept) = output(reader);
            let mut command = plan.command();
            let mut child = Killed(command.args(arguments).stdout(text).stderr(Stdio::null()).spawn().unwrap());
            assert_eq!(ended(&mut child.0).await.code(), Some(0), "{arguments:?} {reader:?}");
        }
    }
}
