//! The programs under test: built once, started with only the given settings, ended on drop.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The time limit for everything except builds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The variables that a program inherits: paths, and how cargo builds, so that what was built is used again. Others would let the
/// environment affect the result.
const INHERITED: [&str; 9] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_DEV_DEBUG",
];

static BUILT: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(build);

/// A running program. Its output is read continuously, so that its pipe never fills up, and printed when the test fails.
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    output: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts one of the three programs.
    pub(crate) fn start(name: &str, arguments: &[&str], settings: &[(&str, String)]) -> Self {
        let mut command = bare(&BUILT[name]);
        command.args(arguments).envs(settings.iter().map(|(variable, value)| (*variable, value)));
        Self::spawn(name, command)
    }

    /// Starts any command.
    pub(crate) fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let (sender, lines) = channel();
        read_on(child.stdout.take().unwrap(), sender.clone(), Arc::clone(&output));
        read_on(child.stderr.take().unwrap(), sender, Arc::clone(&output));
        Self { name: name.to_owned(), child, lines, output }
    }

    /// Waits for the next line with `marker`; returns what follows it.
    pub(crate) fn wait_for(&self, marker: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(marker) {
                        return rest.trim().to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{} does not say \"{marker}\" in time", self.name),
                Err(RecvTimeoutError::Disconnected) => panic!("{} ended without saying \"{marker}\"", self.name),
            }
        }
    }

    /// All output so far.
    pub(crate) fn output_so_far(&self) -> String {
        self.output.lock().unwrap().join("\n")
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "{} cannot be sent {signal}", self.name);
    }

    /// Sends a signal to its process group: it was spawned with one of its own.
    pub(crate) fn signal_all(&self, signal: &str) {
        let status = Command::new("kill").args([signal, "--", &format!("-{}", self.child.id())]).status().unwrap();
        assert!(status.success(), "{} cannot be sent {signal}", self.name);
    }

    /// Waits for the end; false if it does not end in time.
    pub(crate) fn ends_in_time(&mut self) -> bool {
        within(PATIENCE, || !self.running())
    }

    /// Waits for the end and for all output; returns the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        assert!(self.ends_in_time(), "{} does not end", self.name);
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.output_so_far());
        }
    }
}

/// Waits until the three programs are built.
pub(crate) fn built() {
    LazyLock::force(&BUILT);
}

/// Runs one of the three programs to its end.
pub(crate) fn succeeds(name: &str, arguments: &[&str], settings: &[(&str, String)]) -> bool {
    let mut command = bare(&BUILT[name]);
    command.args(arguments).envs(settings.iter().map(|(variable, value)| (*variable, value)));
    command.output().unwrap().status.success()
}

/// A command that inherits nothing but the paths of programs and files.
pub(crate) fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for variable in INHERITED {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
}

/// A free port, each another: for addresses that must be known before their owner starts. The kernel hands out none below 32768, so no
/// server that asks for any port gets it meanwhile.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(number % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls until `condition` holds; false if it does not in time.
pub(crate) fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder that cargo builds into.
pub(crate) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

fn read_on(pipe: impl Read + Send + 'static, lines: Sender<String>, output: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            output.lock().unwrap().push(line.clone());
            // The receiver may be gone; the pipe is still read.
            let _unheard = lines.send(line);
        }
    });
}

/// Only cargo knows the paths of other crates' programs. It does not rebuild what is up to date.
fn build() -> HashMap<String, PathBuf> {
    let output = bare(Path::new(env!("CARGO")))
        .args(["build", "--quiet", "--locked", "-p", "sidegate", "-p", "orchestrator", "-p", "dev-idp", "--bins"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(target())
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the programs do not build");
    let text = String::from_utf8(output.stdout).unwrap();
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    messages
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect()
}
