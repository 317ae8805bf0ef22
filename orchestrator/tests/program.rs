//! The program itself: exit codes, signals and `health`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orchestrator::demo::{Demo, Options};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::Answer;

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
    let (child, addr, _) = started_as(&mut orchestrator(&["--listen", "127.0.0.1:0"])).await;
    (child, addr)
}

/// The same for any command; and all that it says.
async fn started_as(command: &mut Command) -> (Child, String, Arc<Mutex<String>>) {
    let mut child = command.spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let addr = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("ended early");
        log.lock().unwrap().push_str(&format!("{line}\n"));
        if let Some((_, addr)) = line.split_once("listens on http://") {
            break addr.to_owned();
        }
    };
    // Someone has to read on, or the program would block or fail on a full or closed pipe.
    let sink = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            sink.lock().unwrap().push_str(&format!("{line}\n"));
        }
    });
    (child, addr, log)
}

async fn terminated(mut child: Child) -> Option<i32> {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code()
}

async fn ask(addr: &str, request: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    let typed = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    stream.write_all(format!("{head}{typed}\r\n{body}").as_bytes()).await.unwrap();
    timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap()
}

async fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -Sn 200; exec \"$0\" --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_orchestrator")])
        .env("DATABASE_URL", "sqlite::memory:")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (child, _, _) = started_as(&mut command).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id().unwrap())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert!(soft == hard && soft != "200", "{line}");
    assert_eq!(terminated(child).await, Some(0));
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
async fn hosts_are_named_and_health_asks_by_one_that_always_counts() {
    let mut command = orchestrator(&["--listen", "0.0.0.0:0", "--behind-proxy=true"]);
    command.env("ORCHESTRATOR_HOSTS", "https://flux.example.com/api/v1/auth/callback");
    let (_child, addr, _) = started_as(&mut command).await;
    let addr = addr.replace("0.0.0.0", "127.0.0.1");
    for (host, status) in
        [("flux.example.com", 200), ("localhost:8080", 200), ("evil.example", 421), ("orchestrator:8081", 421)]
    {
        let mut stream = TcpStream::connect(&addr).await.unwrap();
        let request = format!("GET /api/v1/clusters HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap().status(), status, "{host}");
    }
    let listen = format!("0.0.0.0:{}", addr.rsplit(':').next().unwrap());
    let mut health = orchestrator(&["health", "--listen", &listen, "--behind-proxy=true"]);
    assert_eq!(outcome(&mut health).await, (Some(0), String::new()));
}

#[tokio::test]
async fn health_knows_the_address_from_the_environment() {
    let (_child, addr) = started().await;
    let mut command = orchestrator(&["health"]);
    assert_eq!(outcome(command.env("ORCHESTRATOR_LISTEN_ADDR", &addr)).await, (Some(0), String::new()));
}

#[tokio::test]
async fn without_settings_all_is_kept_in_a_file_and_its_key_beside_it_and_the_log_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(Options { pace: Duration::ZERO, ..Options::default() }).await.unwrap();
    let kubeconfig = demo.kubeconfig("staging").expose().to_owned();
    let token = kubeconfig.split("token: ").nth(1).unwrap().trim().split('\n').next().unwrap();
    let mut command = orchestrator(&["--listen", "127.0.0.1:0"]);
    command.current_dir(folder.path()).env_remove("DATABASE_URL");

    let (child, addr, log) = started_as(&mut command).await;
    let body = json!({"name": "staging", "kubeconfig": kubeconfig}).to_string();
    assert_eq!(ask(&addr, "POST /api/v1/clusters", &body).await.status(), 201);
    let wrong = json!({"name": "other", "kubeconfig": kubeconfig.replace("token: demo", "token: x-demo")}).to_string();
    assert_eq!(ask(&addr, "POST /api/v1/clusters", &wrong).await.status(), 403);
    assert_eq!(terminated(child).await, Some(0));
    for file in ["orchestrator.db", "orchestrator.key"] {
        let metadata = std::fs::metadata(folder.path().join("data").join(file)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600, "{file}");
    }
    let bytes = std::fs::read(folder.path().join("data/orchestrator.db")).unwrap();
    assert!(
        memchr::memmem::find(&bytes, b"staging").is_some() && memchr::memmem::find(&bytes, token.as_bytes()).is_none()
    );
    {
        let log = log.lock().unwrap();
        assert!(log.contains("made a key") && log.contains("register") && log.contains("anonymous"), "{log}");
        assert!(!log.contains(token), "{log}");
    }

    let (child, addr, log) = started_as(&mut command).await;
    assert!(ask(&addr, "GET /api/v1/clusters", "").await.body.contains("staging"));
    assert!(!log.lock().unwrap().contains("made a key"));
    assert_eq!(terminated(child).await, Some(0));
}

#[tokio::test]
async fn the_demonstration_shows_three_clusters_leaves_nothing_and_ends_with_streams_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orchestrator(&["--demo", "--listen", "127.0.0.1:0"]);
    let (child, addr, _) = started_as(command.current_dir(folder.path()).env_remove("DATABASE_URL")).await;
    let clusters = ask(&addr, "GET /api/v1/clusters", "").await.json();
    let names: Vec<_> =
        clusters["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["production-eu", "production-us", "staging"]);

    let mut stream = TcpStream::connect(&addr).await.unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 15]).await.unwrap();
    let begun = Instant::now();
    assert_eq!(terminated(child).await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_fifo_or_a_device_in_the_place_of_a_file_ends_the_start_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fifo = at("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().await.unwrap().success());
    for (name, target) in [("a.key", "fifo"), ("b.key", "/dev/zero"), ("c.db", "fifo"), ("zeros", "/dev/zero")] {
        std::os::unix::fs::symlink(target, at(name)).unwrap();
    }
    let database = |name: &str| format!("sqlite://{}", at(name).display());
    for (variable, value, reason) in [
        ("ENCRYPTION_KEY_FILE", fifo.display().to_string(), "it is a FIFO"),
        ("ENCRYPTION_KEY_FILE", at("zeros").display().to_string(), "it is a device"),
        ("DATABASE_URL", database("a.db"), "it is a FIFO"),
        ("DATABASE_URL", database("b.db"), "it is a device"),
        ("DATABASE_URL", database("c.db"), "it is a FIFO"),
    ] {
        let (code, said) = outcome(orchestrator(&["--listen", "127.0.0.1:0"]).env(variable, &value)).await;
        assert!(code.is_some_and(|code| code != 0) && said.contains(reason), "{variable}={value}: {code:?} {said}");
    }
}

#[tokio::test]
async fn all_faults_of_the_configuration_are_reported_at_once() {
    let mut command = orchestrator(&["--listen", "8081"]);
    command.env("DATABASE_URL", "mysql://hidden").env("ENCRYPTION_KEY", "hidden").env("IN_CLUSTER", "perhaps");
    let (code, reason) = outcome(&mut command).await;
    assert_eq!((code, reason.lines().count()), (Some(2), 5), "{reason}");
    assert!(!reason.contains("hidden"), "{reason}");
}

#[tokio::test]
async fn a_variable_that_is_not_text_does_not_count_as_unset() {
    for name in ["DATABASE_URL", "ENCRYPTION_KEY"] {
        let mut command = orchestrator(&["--listen", "127.0.0.1:0"]);
        let (code, reason) = outcome(command.env(name, OsStr::from_bytes(b"hidden\xff"))).await;
        assert_eq!(code, Some(2), "{reason}");
        assert!(reason.contains(name) && !reason.contains("hidden"), "{reason}");
    }
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
