//! Watches the files of a configuration, and loads it again on `SIGHUP` or when one of them changes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::command::Sources;
use super::faults::Faults;
use super::files::Files;
use super::load::{Loaded, load_over};

/// The pause for related changes: editors and Kubernetes change several names at once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How often files are checked if the system reports no changes (network file systems, no inotify watches left).
const POLL: Duration = Duration::from_secs(30);
/// How long the watching of folders may hold up reloads, if a file system does not respond.
const PATIENCE: Duration = Duration::from_secs(1);

/// `SIGHUP`, which ends a process without a handler: create this before other processes can know of this one.
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Handles the signal from now on. Call it inside the runtime.
    #[must_use]
    pub fn install_handler() -> Self {
        Self(hangup())
    }
}

/// Calls `reload` with each new outcome, until it is dropped; it returns whether that configuration is now the active one. `files` are
/// those of the active configuration: changes since they were read are detected too.
pub async fn watch(
    hangup: Hangup,
    sources: Sources,
    files: Files,
    reload: impl FnMut(Result<Loaded, Faults>) -> bool + Send,
) {
    let (changed, changes) = mpsc::channel(1);
    run(hangup.0, watcher(changed), changes, POLL, sources, files, reload).await;
}

async fn run(
    mut hangup: Option<Signal>,
    watcher: Option<FolderWatcher>,
    mut changes: mpsc::Receiver<()>,
    poll: Duration,
    sources: Sources,
    mut files: Files,
    mut reload: impl FnMut(Result<Loaded, Faults>) -> bool + Send,
) {
    let sources = Arc::new(sources);
    let mut in_force = files.clone();
    loop {
        if let Some(watcher) = &watcher {
            watcher.watch(&files).await;
        }
        // The first check detects changes made before the folder was watched.
        let now = look(&files).await;
        if now != files {
            files = read_again(&sources, now, &mut in_force, &mut reload).await;
            // A file that changes all the time is not read more often than this.
            tokio::time::sleep(DEBOUNCE).await;
            continue;
        }
        tokio::select! {
            () = hung_up(&mut hangup) => files = read_again(&sources, now, &mut in_force, &mut reload).await,
            Some(()) = changes.recv() => {
                tokio::time::sleep(DEBOUNCE).await;
                while changes.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(poll) => {}
        }
    }
}

/// Loads the configuration, reports the outcome, and returns the files to watch. After one that is invalid, or cannot be used, the files of
/// the active configuration stay watched in addition to its own: the error may be fixed in either.
async fn read_again(
    sources: &Arc<Sources>,
    now: Files,
    in_force: &mut Files,
    reload: &mut (impl FnMut(Result<Loaded, Faults>) -> bool + Send),
) -> Files {
    let (sources, before) = (Arc::clone(sources), in_force.clone());
    let Ok(outcome) = spawn_blocking(move || load_over(&sources, &before)).await else { return now };
    let read = match &outcome {
        Ok(loaded) => loaded.files.clone(),
        Err(faults) => faults.files.clone(),
    };
    if reload(outcome) {
        in_force.clone_from(&read);
        read
    } else {
        read.or(now)
    }
}

async fn look(files: &Files) -> Files {
    let before = files.clone();
    let same = files.clone();
    spawn_blocking(move || before.look_again()).await.unwrap_or(same)
}

fn hangup() -> Option<Signal> {
    signal(SignalKind::hangup())
        .map_err(|error| {
            tracing::warn!("SIGHUP cannot be waited for, so it will not reload the configuration: {error}")
        })
        .ok()
}

async fn hung_up(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Watches the folders of files, in a thread of its own: a file system that never responds must not block anything else.
struct FolderWatcher(SyncSender<(Files, oneshot::Sender<()>)>);

impl FolderWatcher {
    /// Watches the folders of these files too. Waits a moment for it, so that no later change goes unnoticed.
    async fn watch(&self, files: &Files) {
        let (done, is_done) = oneshot::channel();
        // If the channel is full, the thread is still waiting for a file system.
        if self.0.try_send((files.clone(), done)).is_ok() {
            let _ = timeout(PATIENCE, is_done).await;
        }
    }
}

fn watcher(changed: mpsc::Sender<()>) -> Option<FolderWatcher> {
    let late = changed.clone();
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| changes_something(event.kind)) {
            // If the channel is full, a notification is pending already.
            let _ = changed.try_send(());
        }
    };
    let unwatched = |error: &dyn fmt::Display| tracing::warn!("changed files will be noticed only every 30 s: {error}");
    let mut watcher = notify::recommended_watcher(on_event).map_err(|error| unwatched(&error)).ok()?;
    let (sender, requests) = sync_channel::<(Files, oneshot::Sender<()>)>(1);
    let watch_all = move || {
        for (files, done) in requests {
            watch_folders(&mut watcher, &files);
            if done.send(()).is_err() {
                // Nobody waited any more: the files may have changed since they were read.
                let _ = late.try_send(());
            }
        }
    };
    std::thread::Builder::new().name("folders".to_owned()).spawn(watch_all).map_err(|error| unwatched(&error)).ok()?;
    Some(FolderWatcher(sender))
}

/// Our own reading opens and closes files, which must not trigger another reload.
const fn changes_something(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

/// Watches the folders, not the files: editors and Kubernetes replace the file itself, by a rename or a changed link.
fn watch_folders(watcher: &mut RecommendedWatcher, files: &Files) {
    for folder in folders(files) {
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            tracing::debug!("{} is looked at only every 30 s: {error}", folder.display());
        }
    }
}

/// The folder in each file's path, and the one where it really is.
fn folders(files: &Files) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Some(PathBuf::from(".")),
        Some(folder) => Some(folder.to_owned()),
        None => None,
    };
    let real = |path: &Path| path.canonicalize().ok().and_then(|path| parent(&path));
    files.paths().flat_map(|path| [parent(path), real(path)]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::adapters::providers::ProviderSettings;
    use crate::config::trial;
    use crate::run::{self, Running};
    use crate::serve::settings::Mode;

    const NEVER: Duration = Duration::from_secs(3600);

    type Outcomes = mpsc::UnboundedReceiver<String>;

    fn at(path: &Path) -> Sources {
        trial::sources(&["--config", path.to_str().unwrap()], &[])
    }

    /// Watches `path` while `act` runs; each outcome is reported by its log level, or its errors.
    async fn watched(
        path: &Path,
        files: Files,
        poll: Option<Duration>,
        hangup: Option<Signal>,
        act: impl AsyncFnOnce(&mut Outcomes),
    ) {
        let (sender, mut outcomes) = mpsc::unbounded_channel();
        let reload = move |outcome: Result<Loaded, Faults>| {
            // Here the level `off` stands for a configuration that is valid and cannot be used.
            let is_used = outcome.as_ref().is_ok_and(|loaded| loaded.settings.log.filter != "off");
            let text = outcome.map_or_else(
                |faults| faults.to_string(),
                |loaded| format!("{} {}", loaded.settings.log.filter, loaded.stale.join("; ")).trim_end().to_owned(),
            );
            sender.send(text).unwrap();
            is_used
        };
        let (changed, changes) = mpsc::channel(1);
        let watcher = if poll.is_some() { None } else { watcher(changed) };
        let done = async { tokio::time::timeout(Duration::from_secs(20), act(&mut outcomes)).await };
        tokio::select! {
            () = run(hangup, watcher, changes, poll.unwrap_or(NEVER), at(path), files, reload) => panic!("the watch ended"),
            done = done => done.expect("no reload in 20 s"),
        }
    }

    /// Waits for an outcome; earlier ones may come from a half-written file.
    async fn wait_for(outcomes: &mut Outcomes, what: &str) {
        while !outcomes.recv().await.unwrap().contains(what) {}
    }

    fn loaded(path: &Path) -> Files {
        super::super::load::load(&at(path)).unwrap().files
    }

    fn write(path: &Path, level: &str) {
        fs::write(path, format!("log_level = \"{level}\"")).unwrap();
    }

    #[tokio::test]
    async fn a_folder_whose_file_system_never_responds_delays_a_reload_by_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        let files = loaded(&path);
        write(&path, "debug");
        let (sender, stuck) = sync_channel(1);
        let (reloaded, mut outcomes) = mpsc::unbounded_channel();
        let reload = move |outcome: Result<Loaded, Faults>| {
            reloaded.send(outcome.is_ok()).unwrap();
            outcome.is_ok()
        };
        let watcher = Some(FolderWatcher(sender));
        let (_changed, changes) = mpsc::channel(1);
        tokio::select! {
            () = run(None, watcher, changes, Duration::from_millis(50), at(&path), files, reload) => panic!("it ended"),
            outcome = timeout(Duration::from_secs(10), outcomes.recv()) => assert_eq!(outcome, Ok(Some(true))),
        }
        let (_, done) = stuck.recv().unwrap();
        assert!(done.is_closed(), "nobody waits any more");
    }

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_deleted_or_fixed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        watched(&path, loaded(&path), None, None, async |outcomes| {
            write(&path, "debug");
            wait_for(outcomes, "debug").await;
            let other = folder.path().join("new");
            write(&other, "warn");
            fs::rename(&other, &path).unwrap();
            wait_for(outcomes, "warn").await;
            fs::remove_file(&path).unwrap();
            wait_for(outcomes, "cannot read the file").await;
            write(&path, "error");
            wait_for(outcomes, "error").await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_fifo_in_a_files_place_is_reported_and_holds_up_no_other_change() {
        let folder = tempfile::tempdir().unwrap();
        let (path, secret) = (folder.path().join("sidegate.toml"), folder.path().join("secret"));
        let config =
            |level: &str| fs::write(&path, format!("session_secret_file = {secret:?}\nlog_level = \"{level}\""));
        fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
        config("info").unwrap();
        watched(&path, loaded(&path), None, None, async |outcomes| {
            let fifo = folder.path().join("fifo");
            assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            fs::rename(&fifo, &secret).unwrap();
            wait_for(outcomes, "it is a FIFO, and not a regular file: the old one stays in force").await;
            config("debug").unwrap();
            wait_for(outcomes, "debug SESSION_SECRET_FILE: cannot read the file").await;
            fs::remove_file(&secret).unwrap();
            fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
            while outcomes.recv().await.unwrap() != "debug" {}
        })
        .await;
    }

    #[tokio::test]
    async fn a_swapped_link_as_kubernetes_makes_it_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, level) in [("v1", "info"), ("v2", "debug")] {
            fs::create_dir(at(version)).unwrap();
            write(&at(version).join("sidegate.toml"), level);
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/sidegate.toml", at("sidegate.toml")).unwrap();
        let path = at("sidegate.toml");
        watched(&path, loaded(&path), None, None, async |outcomes| {
            std::os::unix::fs::symlink("v2", at("..tmp")).unwrap();
            fs::rename(at("..tmp"), at("..data")).unwrap();
            wait_for(outcomes, "debug").await;
        })
        .await;
    }

    #[tokio::test]
    async fn what_changed_between_reading_and_watching_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        let files = loaded(&path);
        write(&path, "debug");
        watched(&path, files, None, None, async |outcomes| wait_for(outcomes, "debug").await).await;
    }

    #[tokio::test]
    async fn where_the_system_reports_no_changes_files_are_polled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        watched(&path, loaded(&path), Some(Duration::from_millis(20)), None, async |outcomes| {
            write(&path, "debug");
            wait_for(outcomes, "debug").await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_a_faulty_configuration_names_is_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("sidegate.toml"), tempfile::tempdir().unwrap());
        write(&path, "info");
        watched(&path, loaded(&path), None, None, async |outcomes| {
            let secret = key.path().join("secret");
            fs::write(&path, format!("session_secret_file = {secret:?}\nlog_level = \"debug\"")).unwrap();
            wait_for(outcomes, "SESSION_SECRET_FILE").await;
            fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
            wait_for(outcomes, "debug").await;
        })
        .await;
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_not_the_configuration_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        watched(&path, loaded(&path), None, None, async |outcomes| {
            write(&path, "off");
            wait_for(outcomes, "off").await;
            fs::remove_file(&path).unwrap();
            wait_for(outcomes, "info SIDEGATE_CONFIG: cannot read the file").await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_hangup_reads_again_though_nothing_changed() {
        let hangup = hangup();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        write(&path, "info");
        watched(&path, loaded(&path), None, hangup, async |outcomes| {
            let kill = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status();
            assert!(kill.unwrap().success());
            assert_eq!(outcomes.recv().await.unwrap(), "info");
        })
        .await;
    }

    /// Whether clients that trust only this certificate are presented it.
    async fn shows(running: &Running, certificate: &rcgen::Certificate) -> bool {
        let config = crate::adapters::certs::client_config(&[certificate.der().clone()], &[]).unwrap();
        let stream = tokio::net::TcpStream::connect(running.addresses().listen.address().unwrap()).await.unwrap();
        let name = "one.example".try_into().unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
    }

    #[tokio::test]
    async fn a_reload_is_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let issue = || {
            let pair = rcgen::KeyPair::generate().unwrap();
            let certificate =
                rcgen::CertificateParams::new(["one.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
            fs::write(&chain, certificate.pem()).unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
            certificate
        };
        let settings = |issuer: &str| {
            let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
            let more = [
                ("OAUTH_PROVIDER", "oidc"),
                ("OAUTH_ISSUER_URL", "http://localhost:1"),
                ("OAUTH_ALLOWED_USERS", "@example.com"),
                ("LISTEN_ADDR", "127.0.0.1:0"),
                ("ADMIN_ADDR", "127.0.0.1:0"),
                ("TLS_CERT_FILE", chain),
                ("TLS_KEY_FILE", key),
            ];
            let mut settings = trial::github(&more).unwrap().settings;
            if let Mode::SignIn(sign_in) = &mut settings.mode
                && let ProviderSettings::Oidc { issuer: ours, .. } = &mut sign_in.provider
            {
                *ours = issuer.parse().unwrap();
            }
            settings
        };
        let old = issue();
        let running = run::start(settings("http://localhost:1")).await.unwrap();
        assert!(shows(&running, &old).await);
        let new = issue();
        // An error that only building the settings detects.
        assert!(running.reload(settings("http://idp.example:1")).is_err());
        assert!(shows(&running, &old).await && !shows(&running, &new).await, "nothing of it was taken");
        running.reload(settings("http://localhost:2")).unwrap();
        assert!(shows(&running, &new).await && !shows(&running, &old).await);
    }

    #[test]
    fn reading_a_file_does_not_wake_the_watch() {
        use notify::event::{ModifyKind, RemoveKind};
        assert!(!changes_something(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!changes_something(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(changes_something(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes_something(EventKind::Modify(ModifyKind::Any)));
        assert!(changes_something(EventKind::Remove(RemoveKind::Any)));
    }
}
