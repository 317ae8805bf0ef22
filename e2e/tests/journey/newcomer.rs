//! Follows README.md as a newcomer, on a fresh clone: every command of it in a shell, in order.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::http;
use crate::programs::{self, PATIENCE, Program, bare, free_port, root, target, within};

/// The repository's URL in the README.
const REPOSITORY: &str = "https://github.com/sidegate/sidegate";

/// A block of the README, by its language.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    text: String,
}

impl Block {
    /// Its commands, without what follows `#`.
    fn commands(&self) -> Vec<&str> {
        let lines = self.text.lines().map(|line| line.split(" #").next().unwrap().trim());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced
        .map(|block| {
            let (language, text) = block.split_once('\n').unwrap();
            Block { language: language.to_owned(), text: text.to_owned() }
        })
        .collect()
}

/// The newcomer's environment: a folder, a shell, tools.
struct Machine {
    folder: tempfile::TempDir,
    ports: Ports,
}

struct Ports {
    proxy: u16,
    admin: u16,
    orchestrator: u16,
    dev_idp: u16,
    application: u16,
}

impl Machine {
    fn new() -> Self {
        let [proxy, admin, orchestrator, dev_idp, application] = std::array::from_fn(|_| free_port());
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            ports: Ports { proxy, admin, orchestrator, dev_idp, application },
        };
        machine.publish();
        machine.install_tools();
        machine.reuse_what_was_built();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn clone(&self) -> PathBuf {
        self.path("sidegate")
    }

    /// Makes the files as they are here the repository to clone.
    fn publish(&self) {
        let published = self.path("published");
        let git = |arguments: &[&str], folder: &Path| {
            let output = Command::new("git").args(arguments).current_dir(folder).output().unwrap();
            assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        for file in git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"], root()).split('\0') {
            let from = root().join(file);
            // A file that is deleted, but not yet in a commit, is still listed.
            if file.is_empty() || !from.is_file() {
                continue;
            }
            let to = published.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
        git(&["init", "--quiet"], &published);
        git(&["add", "--all"], &published);
        let author = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        git(&[&author[..], &["commit", "--quiet", "--message=all"]].concat(), &published);
    }

    /// Cargo, except that it installs without optimisations: that saves minutes.
    fn install_tools(&self) {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let cargo = env!("CARGO");
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = install ]; then shift; exec {cargo} install --debug \"$@\"; fi\nexec {cargo} \"$@\"\n"
        );
        let file = bin.join("cargo");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Reuses libraries that were built here; the clone has its own build folder.
    fn reuse_what_was_built(&self) {
        let folder = Self::target();
        if folder.exists() {
            return;
        }
        programs::built();
        fs::create_dir_all(&folder).unwrap();
        let copied = Command::new("cp").arg("-al").arg(target().join("debug")).arg(folder.join("debug")).status();
        if !copied.is_ok_and(|status| status.success()) {
            let _partly = fs::remove_dir_all(folder.join("debug"));
        }
        // A shared lock would make each wait for the other.
        let _absent = fs::remove_file(folder.join("debug/.cargo-lock"));
    }

    fn target() -> PathBuf {
        target().join("newcomer")
    }

    /// A shell with one command, in a process group of its own, as a terminal gives it.
    fn shell(&self, command: &str, folder: &Path) -> Command {
        let mut shell = bare(Path::new("bash"));
        let Ports { proxy, admin, orchestrator, dev_idp, application } = self.ports;
        let command = command
            .replace("localhost:8080", &format!("localhost:{proxy}"))
            .replace("127.0.0.1:3000", &format!("127.0.0.1:{application}"));
        let installed = self.path("home/.cargo/bin");
        let path = [self.path("bin"), installed].into_iter().map(PathBuf::into_os_string);
        let path: Vec<OsString> = path.chain([std::env::var_os("PATH").unwrap()]).collect();
        // The newcomer's home is another folder, except for downloads.
        let home = std::env::var_os("HOME").unwrap_or_default();
        let or_below =
            |name: &str, folder: &str| std::env::var_os(name).unwrap_or_else(|| Path::new(&home).join(folder).into());
        shell
            .args(["-euc", &command])
            .current_dir(folder)
            .process_group(0)
            .env("PATH", path.join(&OsString::from(":")))
            .env("CARGO_HOME", or_below("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", or_below("RUSTUP_HOME", ".rustup"))
            .env("HOME", self.path("home"))
            .env("CARGO_INSTALL_ROOT", self.path("home/.cargo"))
            .env("CARGO_TARGET_DIR", Self::target())
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", format!("url.file://{}.insteadOf", self.path("published").display()))
            .env("GIT_CONFIG_VALUE_0", REPOSITORY)
            .env("LISTEN_ADDR", format!("127.0.0.1:{proxy}"))
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("ORCHESTRATOR_LISTEN_ADDR", format!("127.0.0.1:{orchestrator}"))
            .env("DEV_IDP_LISTEN_ADDR", format!("127.0.0.1:{dev_idp}"));
        shell
    }

    /// Runs a command to its end.
    fn run(&self, command: &str, folder: &Path) -> Output {
        self.shell(command, folder).output().unwrap()
    }

    /// Runs a command that must succeed; returns its output.
    fn succeeds(&self, command: &str, folder: &Path) -> String {
        let output = self.run(command, folder);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {:?}\n{stdout}\n{stderr}", output.status);
        stdout.into_owned()
    }

    /// Starts a command that runs until Ctrl-C.
    fn starts(&self, command: &str, folder: &Path, settings: &[(&str, String)]) -> Running {
        let mut shell = self.shell(&format!("exec {command}"), folder);
        shell.envs(settings.iter().map(|(name, value)| (*name, value)));
        Running(Program::spawn(command, shell))
    }
}

/// A command that runs until Ctrl-C, which a terminal sends to all of its processes.
struct Running(Program);

impl Running {
    /// Waits long enough for a build to come first.
    fn wait_for_output(&mut self, text: &str) {
        let mut found = false;
        within(20 * PATIENCE, || {
            let runs = self.0.running();
            found = self.0.output_so_far().contains(text);
            found || !runs
        });
        assert!(found, "\"{text}\" is not said:\n{}", self.0.output_so_far());
    }

    fn ends_on_ctrl_c(mut self) {
        self.0.signal_all("-INT");
        assert!(self.0.ends_in_time(), "it does not end on Ctrl-C:\n{}", self.0.output_so_far());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running() {
            self.0.signal_all("-TERM");
            let _killed_then = self.0.ends_in_time();
        }
    }
}

/// An application without sign-in.
fn application(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|stream| http::answer(stream, "here"))
    });
}

#[test]
fn every_command_of_the_readme_does_what_it_says_on_a_fresh_clone() {
    // The programs are built once more, from the clone: that takes minutes.
    if std::env::var_os("CI").is_none() {
        eprintln!(
            "SKIPPED: the README is followed on a fresh clone where CI is set: CI=true cargo test --test journey newcomer"
        );
        return;
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let shell: Vec<Vec<&str>> = blocks.iter().filter(|block| block.language == "sh").map(Block::commands).collect();
    let tables: Vec<&str> =
        blocks.iter().filter(|block| block.language == "toml").map(|block| block.text.as_str()).collect();
    let machine = Machine::new();
    let (clone, proxy) = (machine.clone(), machine.ports.proxy);
    // New or changed blocks must be run here too.
    let [try_it, install, protect, ask, explain, own_env] = shell.as_slice() else {
        panic!("other blocks: {shell:#?}")
    };
    // The other two examples of rules need an external issuer, and time to pass: the proxy's own tests run them verbatim.
    let [settings, rules, _by_tokens, _step_up] = tables.as_slice() else { panic!("other tables: {tables:#?}") };

    let [fetch, run] = try_it.as_slice() else { panic!("{try_it:?}") };
    let there = machine.succeeds(&format!("{fetch} && pwd"), machine.folder.path());
    assert_eq!(fs::canonicalize(there.lines().last().unwrap()).unwrap(), fs::canonicalize(&clone).unwrap());
    let mut running = machine.starts(run, &clone, &[]);
    running.wait_for_output(&format!("ready: open http://localhost:{proxy}"));
    assert_eq!(http::visit(proxy, "/", "").status, 302);
    running.ends_on_ctrl_c();

    let [build, version] = install.as_slice() else { panic!("{install:?}") };
    machine.succeeds(build, &clone);
    assert!(machine.succeeds(version, &clone).starts_with("sidegate "));

    // Stand-ins replace GitHub and the application.
    application(machine.ports.application);
    let idp = format!("http://localhost:{}", machine.ports.dev_idp);
    let redirect = format!("http://localhost:{proxy}/api/v1/auth/callback");
    let _github = Program::start(
        "dev-idp",
        &[],
        &[("DEV_IDP_LISTEN_ADDR", format!("127.0.0.1:{}", machine.ports.dev_idp)), ("DEV_IDP_REDIRECT_URL", redirect)],
    );
    let mut settings = settings
        .replacen("oauth_client_id = \"...\"", "oauth_client_id = \"sidegate-dev\"", 1)
        .replacen("oauth_client_secret = \"...\"", "oauth_client_secret = \"sidegate-dev-secret\"", 1)
        .replace("localhost:8080", &format!("localhost:{proxy}"))
        .replace("127.0.0.1:3000", &format!("127.0.0.1:{}", machine.ports.application));
    settings.push_str(&format!("\noauth_github_url = \"{idp}\"\noauth_github_api_url = \"{idp}\"\n"));
    fs::write(clone.join("sidegate.toml"), &settings).unwrap();
    let [close, check, serve] = protect.as_slice() else { panic!("{protect:?}") };
    machine.succeeds(close, &clone);
    machine.succeeds(check, &clone);
    let mut running = machine.starts(serve, &clone, &[]);
    running.wait_for_output("sidegate is ready");

    let [curl] = ask.as_slice() else { panic!("{ask:?}") };
    let answer = machine.succeeds(curl, &clone);
    let expected = blocks.iter().find(|block| block.language == "text").unwrap();
    assert!(answer.starts_with(expected.text.trim()), "{answer}");
    let sent = http::visit(proxy, "/", "");
    assert_eq!(sent.status, 302);
    assert!(sent.head.contains("/api/v1/auth/login?rd="), "{}", sent.head);

    // Rules in the same file, without a restart.
    settings.push_str(rules);
    fs::write(clone.join("sidegate.toml"), &settings).unwrap();
    let open = within(PATIENCE, || {
        http::exchange(proxy, "GET", "/assets/a.css", "", "").is_ok_and(|answer| answer.status == 200)
    });
    assert!(open, "the rule does not take effect");
    let [explain] = explain.as_slice() else { panic!("{explain:?}") };
    let explained = machine.run(explain, &clone);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert_eq!(explained.status.code(), Some(1), "{text}");
    assert!(text.contains("refuse") && text.contains("admin"), "{text}");
    running.ends_on_ctrl_c();

    // With a filled-in `.env`.
    let [copy, run] = own_env.as_slice() else { panic!("{own_env:?}") };
    machine.succeeds(copy, &clone);
    let file = clone.join(".env");
    let filled = fs::read_to_string(&file)
        .unwrap()
        .replacen("OAUTH_CLIENT_ID=\n", "OAUTH_CLIENT_ID=sidegate-dev\n", 1)
        .replacen("OAUTH_CLIENT_SECRET=\n", "OAUTH_CLIENT_SECRET=sidegate-dev-secret\n", 1)
        .replace("localhost:8080", &format!("localhost:{proxy}"));
    fs::write(&file, filled).unwrap();
    let mut running = machine.starts(run, &clone, &[]);
    running.wait_for_output(&format!("ready: open http://localhost:{proxy}"));
    let login = http::visit(proxy, "/api/v1/auth/login", "").head;
    assert!(login.contains("https://github.com/login/oauth/authorize?"), "{login}");
    running.ends_on_ctrl_c();
}

#[test]
fn blocks_and_their_commands_are_found() {
    let text = "# A\n\n```sh\ncd x # there\n# nothing\n\nmake run\n```\n\ntext\n\n```toml\na = 1 # b\n```\n";
    let found = blocks(text);
    assert_eq!(found.iter().map(|block| block.language.as_str()).collect::<Vec<_>>(), ["sh", "toml"]);
    assert_eq!(found[0].commands(), ["cd x", "make run"]);
}
