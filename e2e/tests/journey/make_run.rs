//! `make run`: what a newcomer sees at a terminal.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use tempfile::{NamedTempFile, TempDir};

use crate::browser::Browser;
use crate::http;
use crate::programs::{self, Program, bare, free_port, root, target};

#[test]
fn it_starts_everything_says_what_to_open_and_ends_it_on_ctrl_c() {
    let ports = Ports::free();
    let mut run = Run::start(ports.command(Path::new("/dev/null")));
    assert_eq!(run.wait_for("ready: open "), format!("http://localhost:{}", ports.proxy));
    let users = run.wait_for("demo users: ");
    assert!(users.contains("ann") && users.contains("eve is refused"), "{users}");
    assert_eq!(http::visit(ports.proxy, "/api/v1/auth/status", "").body, r#"{"enabled":true}"#);
    assert_eq!(http::visit(ports.proxy, "/", "").status, 302);
    assert_eq!(ports.taken(), 4);

    run.signal("-INT");
    assert_eq!(run.ended(), Some(0));
    assert_eq!(ports.taken(), 0, "all are ended:\n{}", run.output_so_far());
}

#[tokio::test]
async fn a_newcomer_signs_in_at_what_it_says_to_open_and_is_refused_as_eve() {
    let Some(browser) = Browser::open().await else { return };
    let ports = Ports::free();
    let run = Run::start(ports.command(Path::new("/dev/null")));

    browser.goto(&run.wait_for("ready: open ")).await;
    browser.click("[data-user=ann]").await;
    assert_eq!(browser.sees("#who").await, "Ann Example");

    browser.click("#sign-out").await;
    browser.click("#sign-in-as-someone-else").await;
    browser.click("[data-user=eve]").await;
    browser.sees("main[data-code=not_allowed]").await;
}

#[test]
fn a_filled_in_env_file_names_the_real_provider_and_exported_variables_win() {
    let ports = Ports::free();
    let file = env_file(
        "# GitHub\r\n\
         export OAUTH_ENABLED=true   # on\n\
         OAUTH_PROVIDER=entra\n\n\
         OAUTH_PROVIDER=\"github\"\n\
         OAUTH_CLIENT_ID=$HOME-$(id)-'as-it-is' # and a comment\n\
         OAUTH_CLIENT_SECRET='with \"quotes\" and # no comment'\n\
         OAUTH_ALLOWED_USERS=@example.com, ann\t # people\n\
         OAUTH_REDIRECT_URL=http://overridden.example/api/v1/auth/callback",
    );
    let mut command = ports.command(file.path());
    command.env("OAUTH_REDIRECT_URL", format!("http://localhost:{}/api/v1/auth/callback", ports.proxy));
    let mut run = Run::start(command);
    assert_eq!(run.wait_for("ready: open "), format!("http://localhost:{}", ports.proxy));
    assert_eq!(http::visit(ports.proxy, "/api/v1/auth/status", "").body, r#"{"enabled":true}"#);
    let login = http::visit(ports.proxy, "/api/v1/auth/login", "");
    assert_eq!(login.status, 302);
    let login = login.head;
    assert!(login.contains("https://github.com/login/oauth/authorize?"), "{login}");
    assert!(login.contains("client_id=%24HOME-%24%28id%29-%27as-it-is%27&"), "{login}");
    assert_eq!(ports.taken(), 3, "no development provider beside a real one");

    run.signal("-TERM");
    assert_eq!(run.ended(), Some(0));
    assert!(!run.output_so_far().contains("dev-idp"), "{}", run.output_so_far());
    assert_eq!(ports.taken(), 0);
}

#[test]
fn when_one_of_them_dies_it_says_which_and_why_and_ends_the_others() {
    let ports = Ports::free();
    let file = env_file("SESSION_TTL=some-time");
    let mut run = Run::start(ports.command(file.path()));
    assert_eq!(
        run.wait_for("make run: sidegate ended by itself ("),
        "exit code 2), see its last lines above; ending the others"
    );
    assert_eq!(run.ended(), Some(1));
    let output = run.output_so_far();
    assert!(output.contains("sidegate     | ") && output.contains("SESSION_TTL"), "{output}");
    assert_eq!(ports.taken(), 0);
}

#[test]
fn a_taken_port_is_one_line_that_names_it_and_who_has_it() {
    for which in 0..4 {
        let mut ports = Ports::free();
        let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = squatter.local_addr().unwrap().port();
        *ports.all_mut()[which] = port;
        let mut run = Run::start(ports.command(Path::new("/dev/null")));
        let rest = run.wait_for(&format!("make run: port {port} is taken by "));
        assert!(rest.contains(&format!("(process {})", std::process::id())), "{rest}");
        assert_eq!((run.ended(), run.output_so_far().lines().count()), (Some(1), 1), "{}", run.output_so_far());
        drop(squatter);
        assert_eq!(ports.taken(), 0);
    }
}

#[test]
fn a_missing_tool_is_one_line_that_says_how_to_come_by_it() {
    for (there, missing) in [(&["bash", "dirname"][..], "cargo"), (&["bash", "dirname", "cargo"], "cc")] {
        let path = only(there);
        let mut command = Ports::free().command(Path::new("/dev/null"));
        command.env("PATH", path.path());
        let mut run = Run::start(command);
        run.wait_for(&format!("make run: {missing} is missing: install "));
        assert_eq!((run.ended(), run.output_so_far().lines().count()), (Some(1), 1), "{}", run.output_so_far());
    }
}

#[test]
fn a_faulty_env_file_is_reported_by_line_without_what_may_be_a_secret() {
    for faulty in ["A=1\nhush hush", "A=1\nSECRET='hush", "A=1\nSECRET=\"hush\" hush", "A=1\nB = hush"] {
        let file = env_file(faulty);
        let mut run = Run::start(Ports::free().command(file.path()));
        run.wait_for(&format!("make run: {}, line 2: ", file.path().display()));
        assert_eq!((run.ended(), run.output_so_far().lines().count()), (Some(1), 1), "{}", run.output_so_far());
        assert!(!run.output_so_far().contains("hush"), "{}", run.output_so_far());
    }
}

/// A running `make run`. If killed, it would leave its programs behind, so it is asked to end.
struct Run(Program);

impl Run {
    fn start(command: Command) -> Self {
        // A first build takes longer than a test waits for a line.
        programs::built();
        Self(Program::spawn("make run", command))
    }
}

impl Deref for Run {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Run {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.0.running() {
            self.0.signal("-TERM");
            let _killed_then = self.0.ends_in_time();
        }
    }
}

/// Ports for the four addresses, so that other programs on this machine do not interfere.
struct Ports {
    proxy: u16,
    admin: u16,
    orchestrator: u16,
    dev_idp: u16,
}

impl Ports {
    fn free() -> Self {
        Self { proxy: free_port(), admin: free_port(), orchestrator: free_port(), dev_idp: free_port() }
    }

    fn all_mut(&mut self) -> [&mut u16; 4] {
        [&mut self.proxy, &mut self.admin, &mut self.orchestrator, &mut self.dev_idp]
    }

    fn command(&self, env_file: &Path) -> Command {
        let mut command = bare(&root().join("scripts/run"));
        command
            .env("ENV_FILE", env_file)
            .env("CARGO_TARGET_DIR", target())
            .env("LISTEN_ADDR", format!("127.0.0.1:{}", self.proxy))
            .env("ADMIN_ADDR", format!("127.0.0.1:{}", self.admin))
            .env("ORCHESTRATOR_LISTEN_ADDR", format!("127.0.0.1:{}", self.orchestrator))
            .env("DEV_IDP_LISTEN_ADDR", format!("127.0.0.1:{}", self.dev_idp));
        command
    }

    /// How many of the ports are listened on.
    fn taken(&self) -> usize {
        let ports = [self.proxy, self.admin, self.orchestrator, self.dev_idp];
        ports.into_iter().filter(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()).count()
    }
}

fn env_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A folder with these programs and no others.
fn only(programs: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for program in programs {
        let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists()).unwrap();
        std::os::unix::fs::symlink(found, folder.path().join(program)).unwrap();
    }
    folder
}
