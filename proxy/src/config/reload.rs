//! Watches the files that a configuration was read from, and reads it again on `SIGHUP` or when one of them changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::command::Sources;
use super::faults::Faults;
use super::files::Files;
use super::load::{Loaded, load};

/// Editors and Kubernetes change several names for one change.
const SETTLE: Duration = Duration::from_millis(200);
/// How often files are looked at where the system tells nothing (network file systems, no inotify watches left).
const POLL: Duration = Duration::from_secs(30);

/// Calls `reload` with each new outcome, until it is dropped. `files` are those of the configuration in force: what changed since it
/// was read counts as changed.
pub async fn watch(sources: Sources, files: Files, reload: impl FnMut(Result<Loaded, Faults>) + Send) {
    watch_every(POLL, sources, files, reload).await;
}

async fn watch_every(
    poll: Duration,
    sources: Sources,
    mut files: Files,
    mut reload: impl FnMut(Result<Loaded, Faults>) + Send,
) {
    let sources = Arc::new(sources);
    let mut hangup = hangup();
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = watcher(changed);
    loop {
        if let Some(watcher) = &mut watcher {
            watch_folders(watcher, &files);
        }
        // What changed before its folder was watched is seen by this first look.
        let now = look(&files).await;
        if now != files {
            files = read_again(&sources, now, &mut reload).await;
            continue;
        }
        tokio::select! {
            () = hung_up(&mut hangup) => files = read_again(&sources, now, &mut reload).await,
            Some(()) = changes.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(poll) => {}
        }
    }
}

/// Reads everything, tells the outcome, and says what to watch from now on. A configuration that is not sound does not end the watch
/// over the files of the one in force, and adds its own: the fault may be mended in either.
async fn read_again(
    sources: &Arc<Sources>,
    now: Files,
    reload: &mut (impl FnMut(Result<Loaded, Faults>) + Send),
) -> Files {
    let sources = Arc::clone(sources);
    let Ok(outcome) = spawn_blocking(move || load(&sources)).await else { return now };
    let files = match &outcome {
        Ok(loaded) => loaded.files.clone(),
        Err(faults) => faults.files.clone().or(now),
    };
    reload(outcome);
    files
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

fn watcher(changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // Our own reading opens and closes files: it must not wake us again.
        let reads = |kind| match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
                false
            }
        };
        if !event.is_ok_and(|event| reads(event.kind)) {
            // A full channel already has the news.
            let _ = changed.try_send(());
        }
    };
    notify::recommended_watcher(tell)
        .map_err(|error| tracing::warn!("changed files will be noticed only every 30 s: {error}"))
        .ok()
}

/// Watches the folders, not the files: an editor's rename and Kubernetes' swapped link replace the file itself.
fn watch_folders(watcher: &mut RecommendedWatcher, files: &Files) {
    for folder in folders(files) {
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            tracing::debug!("{} is looked at only every 30 s: {error}", folder.display());
        }
    }
}

/// The folder that each file is named in, and the one where it really lies.
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
    use super::*;
    use std::ffi::OsString;
    use std::fs;

    /// An open-mode configuration in `folder`, watched; each outcome says the idle lifetime or the faults.
    async fn watched(path: &Path, poll: Duration, act: impl AsyncFnOnce(&mut mpsc::UnboundedReceiver<String>)) {
        let env = [("SIDEGATE_CONFIG", path.to_str().unwrap())]
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (_, sources) = Sources::read(["sidegate".into()], env, false).ok().unwrap();
        let loaded = load(&sources).unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let watch = watch_every(poll, sources, loaded.files, move |outcome| {
            let text = match outcome {
                Ok(loaded) => loaded.settings.log.filter,
                Err(faults) => faults.to_string(),
            };
            tell.send(text).unwrap();
        });
        tokio::select! {
            () = watch => panic!("the watch ended"),
            done = tokio::time::timeout(Duration::from_secs(20), act(&mut told)) => done.expect("no reload in 20 s"),
        }
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_or_mended_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        fs::write(&path, "log_level = \"info\"").unwrap();
        watched(&path, NEVER, async |told| {
            tokio::task::yield_now().await;
            fs::write(&path, "log_level = \"debug\"").unwrap();
            assert_eq!(told.recv().await.unwrap(), "debug");
            let other = folder.path().join("new");
            fs::write(&other, "log_level = \"warn\"").unwrap();
            fs::rename(&other, &path).unwrap();
            assert_eq!(told.recv().await.unwrap(), "warn");
            fs::remove_file(&path).unwrap();
            assert!(told.recv().await.unwrap().contains("cannot read the file"));
            fs::write(&path, "log_level = \"error\"").unwrap();
            let mut last = told.recv().await.unwrap();
            if last != "error" {
                last = told.recv().await.unwrap();
            }
            assert_eq!(last, "error");
        })
        .await;
    }

    #[tokio::test]
    async fn a_swapped_link_as_kubernetes_makes_it_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, level) in [("v1", "info"), ("v2", "debug")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("sidegate.toml"), format!("log_level = \"{level}\"")).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/sidegate.toml", at("sidegate.toml")).unwrap();
        watched(&at("sidegate.toml"), NEVER, async |told| {
            std::os::unix::fs::symlink("v2", at("..tmp")).unwrap();
            fs::rename(at("..tmp"), at("..data")).unwrap();
            assert_eq!(told.recv().await.unwrap(), "debug");
        })
        .await;
    }

    #[tokio::test]
    async fn what_changed_between_reading_and_watching_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidegate.toml");
        fs::write(&path, "log_level = \"info\"").unwrap();
        let mut files = Files::default();
        files.read(&path).unwrap();
        fs::write(&path, "log_level = \"debug\"").unwrap();
        assert_ne!(look(&files).await, files);
    }

    #[test]
    fn reading_a_file_does_not_wake_the_watch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "x").unwrap();
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = watcher(changed).unwrap();
        watcher.watch(folder.path(), RecursiveMode::NonRecursive).unwrap();
        fs::read(&path).unwrap();
        fs::read(&path).unwrap();
        fs::write(&path, "y").unwrap();
        changes.blocking_recv().unwrap();
    }
}
