//! The program: what it prints, its exit codes, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-idp"));
    command.args(arguments).env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    banner: String,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts the program on a free port and reads until it says where it listens.
#[allow(clippy::zombie_processes, reason = "a child that ends early has failed the test")]
fn start(arguments: &[&str]) -> Running {
    let mut child = command(arguments).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut banner = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "ended early: {banner}");
        banner += &line;
        if let Some(address) = line.strip_prefix("dev-idp listening on http://") {
            let address = address.trim().to_owned();
            return Running { child, stderr, banner, address };
        }
    }
}

#[test]
fn it_warns_lists_the_users_answers_health_and_ends_on_sigterm() {
    let mut idp = start(&["--listen", "127.0.0.1:0"]);
    assert!(idp.banner.contains("for development only") && idp.banner.contains("ann"), "{}", idp.banner);
    assert!(!idp.banner.contains("NOT A LOOPBACK"));
    assert!(!idp.banner.contains("sidegate-dev-secret"));
    assert!(command(&["health", "--listen", &idp.address]).status().unwrap().success());
    assert!(Command::new("kill").args(["-TERM", &idp.child.id().to_string()]).status().unwrap().success());
    assert_eq!(idp.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    idp.stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(command(&["health", "--listen", &idp.address]).status().unwrap().code(), Some(1));
}

#[test]
fn it_warns_louder_beyond_loopback_and_is_asked_for_health_over_loopback() {
    let idp = start(&["--listen", "0.0.0.0:0"]);
    assert!(idp.banner.contains("NOT A LOOPBACK"));
    assert!(command(&["health", "--listen", &idp.address]).status().unwrap().success());
}

#[test]
fn a_taken_port_is_one_line_and_exit_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(&["--listen", &address]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&address) && text.contains("DEV_IDP_LISTEN_ADDR"), "{text}");
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Gone,
    Still,
    FullDisk,
    Closed,
}

/// The program with standard error as that reader has it, and what must be kept for it.
fn read_by(reader: Reader, arguments: &[&str]) -> (Command, Option<std::io::PipeReader>) {
    let program = env!("CARGO_BIN_EXE_dev-idp");
    let mut command = Command::new(if reader == Reader::Closed { "/bin/sh" } else { program });
    if reader == Reader::Closed {
        command.args(["-c", "exec \"$0\" \"$@\" 2>&-", program]);
    }
    command.args(arguments).env_clear().stdout(Stdio::null());
    let (errors, kept): (Stdio, _) = match reader {
        Reader::Gone => (std::io::pipe().unwrap().1.into(), None),
        Reader::Still => {
            let (read, mut write) = std::io::pipe().unwrap();
            write.write_all(&[b'x'; 65536]).unwrap();
            (write.into(), Some(read))
        }
        Reader::FullDisk => (std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into(), None),
        Reader::Closed => (Stdio::null(), None),
    };
    command.stderr(errors);
    (command, kept)
}

/// The exit code, which has to come within a while.
fn ended(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it does not end");
        }
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_serves_and_ends_whatever_reads_its_output() {
    for reader in [Reader::Gone, Reader::Still, Reader::FullDisk, Reader::Closed] {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (mut command, _kept) = read_by(reader, &["--listen", &address]);
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let health = |reader| read_by(reader, &["health", "--listen", &address]);
        loop {
            let (mut command, _kept) = health(reader);
            match ended(&mut command.spawn().unwrap()) {
                Some(0) => break,
                code => assert!(Instant::now() < until, "{reader:?}: {code:?}"),
            }
        }
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(ended(&mut child), Some(0), "{reader:?}");
        let (mut command, _kept) = health(reader);
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(1), "{reader:?}");
        let (mut command, _kept) = read_by(reader, &["--no-such-flag"]);
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(2), "{reader:?}");
    }
}
