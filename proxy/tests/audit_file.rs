//! `AUDIT_FILE`: audit lines in a separate file, through its rotation, and with a file that cannot be written.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::proxy::Plan;
use crate::support::{Proxy, Upstream, until};

/// A proxy whose log has no audit lines: the file does not depend on the log.
async fn plan(upstream: &Upstream, file: &Path) -> Plan {
    let plan = Proxy::with_sign_in("github", upstream).await.env("OAUTH_ALLOWED_USERS", "ann,bob");
    plan.env("AUDIT", "all").env("AUDIT_FILE", file.to_str().unwrap()).env("LOG_LEVEL", "info,sidegate::audit=off")
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the file has a decision on that path.
async fn holds(file: &Path, path: &str) {
    until(&format!("{} holds {path}", file.display()), async || {
        lines(file).iter().any(|line| line["event"] == "decision" && line["path"] == path)
    })
    .await;
}

async fn check(plan: &Plan) -> Output {
    let mut command = plan.command();
    command.arg("check");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn audit_lines_are_appended_to_the_file_whatever_the_log_holds_and_simulate_reads_it() {
    let (upstream, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("audit.log");
    let plan = plan(&upstream, &file).await;
    assert_eq!(check(&plan).await.status.code(), Some(0));
    assert!(!file.exists(), "check makes nothing");
    let (again, mut simulate) = (plan.twin(), plan.twin().env("OAUTH_ALLOWED_USERS", "bob").command());
    let mut proxy = plan.start().await;
    until("the file is made", async || file.exists()).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut ann = proxy.signed_in_as("ann").await;
    assert_eq!(ann.get("/x").await.status, 200);
    proxy.signal("TERM");
    assert_eq!(proxy.ended().await.code(), Some(0));
    // Shutdown writes what is queued.
    let first = lines(&file);
    let events: Vec<&str> = first.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["enabled", "signed_in", "decision"]);
    assert!(first.iter().all(|line| line["target"] == "sidegate::audit" && line["timestamp"].is_string()));
    assert!(!proxy.log().contains("sidegate::audit"), "{}", proxy.log());

    let proxy = again.start().await;
    until("a second start appends", async || lines(&file).len() == first.len() + 1).await;
    drop(proxy);
    simulate.args(["simulate", "--audit"]).arg(&file);
    let output = tokio::task::spawn_blocking(move || simulate.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("lost:   ann@"), "{output:?}");
}

#[tokio::test]
async fn a_renamed_file_is_followed_by_a_new_one_and_let_go_of_on_sighup() {
    let (upstream, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let (file, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let proxy = plan(&upstream, &file).await.start().await;
    proxy.get("/one").await;
    holds(&file, "/one").await;
    std::fs::rename(&file, &old).unwrap();
    // Rotated without a signal to us.
    proxy.get("/two").await;
    holds(&file, "/two").await;
    assert_eq!(lines(&old).last().unwrap()["path"], "/one");
    std::fs::rename(&file, &old).unwrap();
    proxy.signal("HUP");
    until("the file is made again, without a line for it", async || file.exists()).await;
    let open = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).any(|target| target == old)
    };
    #[cfg(target_os = "linux")]
    assert!(!open(), "the old one is let go of");
    proxy.get("/three").await;
    holds(&file, "/three").await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_costs_lines_only_which_are_counted_and_reported() {
    let (upstream, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("audit.log");
    let proxy = plan(&upstream, &file).await.start().await;
    until("the file is made", async || file.exists()).await;
    std::fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert_eq!(proxy.get("/lost").await.status, 401);
    proxy.logs("it is a FIFO, and not a regular file: audit lines are lost until it can be").await;
    let metrics = async || proxy.admin("/metrics").await.text();
    until("it is counted", async || metrics().await.contains("sidegate_audit_lines_lost_total 1\n")).await;
    let ready = proxy.admin("/readyz").await;
    assert!(ready.status == 200 && ready.text().contains("AUDIT_FILE: "), "{}", ready.text());
    assert_eq!(proxy.get("/lost").await.status, 401);
    // A reload does not affect it.
    proxy.signal("HUP");
    proxy.logs("the configuration was read again").await;
    std::fs::remove_file(&file).unwrap();
    proxy.get("/back").await;
    holds(&file, "/back").await;
    proxy.logs("2 audit lines could not be written and are lost").await;
    assert!(!proxy.admin("/readyz").await.text().contains("AUDIT_FILE"));
    assert_eq!(proxy.log().matches("audit lines are lost until").count(), 1);
}

#[tokio::test]
async fn check_and_the_start_refuse_what_is_no_file_to_append_to() {
    let (upstream, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    for (path, why) in [
        (at("fifo"), "FIFO"),
        (folder.path().to_owned(), "a directory"),
        (at("none/audit.log"), "No such file"),
        ("/dev/null".into(), "a device"),
    ] {
        let plan = plan(&upstream, &path).await;
        for arguments in [&["check"][..], &[]] {
            let mut command = plan.command();
            command.args(arguments);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("AUDIT_FILE: cannot append to the file") && stderr.contains(why), "{stderr}");
        }
    }
}
