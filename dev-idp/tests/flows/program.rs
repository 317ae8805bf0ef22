//! The program: what it prints, its exit codes, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-idp"));
    command.args(arguments).env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    greeting: String,
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
    let mut greeting = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "ended early: {greeting}");
        greeting += &line;
        if let Some(address) = line.strip_prefix("dev-idp listening on http://") {
            let address = address.trim().to_owned();
            return Running { child, stderr, greeting, address };
        }
    }
}

#[test]
fn it_warns_lists_the_users_answers_health_and_ends_on_sigterm() {
    let mut idp = start(&["--listen", "127.0.0.1:0"]);
    assert!(idp.greeting.contains("for development only") && idp.greeting.contains("ann"), "{}", idp.greeting);
    assert!(!idp.greeting.contains("NOT A LOOPBACK"));
    assert!(!idp.greeting.contains("sidegate-dev-secret"));
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
    assert!(idp.greeting.contains("NOT A LOOPBACK"));
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
