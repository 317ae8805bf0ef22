//! The files of a configuration, each with a hash of its content, so that changes are detected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use zeroize::Zeroizing;

use crate::adapters::files::read;

/// Files, each with a hash of its content when it was read; without one if it could not be read.
#[derive(Clone, Default)]
pub struct Files {
    seen: BTreeMap<PathBuf, Option<u64>>,
    /// Their contents, so that a file that cannot be read later does not delay changes of the others.
    contents: Contents,
    /// The contents of the files of the active configuration.
    before: Contents,
    /// Messages about files that could not be read now.
    stale: Vec<String>,
}

type Contents = BTreeMap<PathBuf, Arc<Zeroizing<Vec<u8>>>>;

impl Files {
    /// For a reload: a file that cannot be read now keeps its content from `in_force`.
    pub(super) fn over(in_force: &Self) -> Self {
        Self { before: in_force.contents.clone(), ..Self::default() }
    }

    /// Whether this is a reload, with a configuration already in force.
    pub(super) fn are_read_again(&self) -> bool {
        !self.before.is_empty()
    }

    /// Their paths, as configured.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.seen.keys().map(PathBuf::as_path)
    }

    /// Reads the file that `variable` names, and stores its content.
    pub(super) fn read(&mut self, variable: &str, path: &Path) -> io::Result<Vec<u8>> {
        let read = read(path).map(|content| Arc::new(Zeroizing::new(content)));
        self.seen.insert(path.to_owned(), read.as_ref().ok().map(|content| hash(content)));
        let content = match (read, self.before.get(path)) {
            (Ok(content), _) => content,
            (Err(error), None) => return Err(error),
            (Err(error), Some(before)) => {
                let text =
                    format!("{variable}: cannot read the file {}: {error}: the old one stays in force", path.display());
                if !self.stale.contains(&text) {
                    self.stale.push(text);
                }
                Arc::clone(before)
            }
        };
        self.contents.insert(path.to_owned(), Arc::clone(&content));
        Ok(content.to_vec())
    }

    /// The changes from the active configuration: keys of the file `config` by their variables, and other files by their paths.
    pub(super) fn changes(&self, config: Option<&Path>) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, now) in &self.contents {
            match self.before.get(path) {
                Some(before) if before == now => {}
                Some(before) if Some(path.as_path()) == config => changes.extend(changed_keys(before, now)),
                Some(_) | None => changes.push(path.display().to_string()),
            }
        }
        changes.extend(
            self.before.keys().filter(|path| !self.contents.contains_key(*path)).map(|path| path.display().to_string()),
        );
        changes
    }

    /// The files that could not be read, and keep their earlier content.
    pub(super) fn take_stale(&mut self) -> Vec<String> {
        std::mem::take(&mut self.stale)
    }

    /// The same files in their current state.
    pub(super) fn look_again(&self) -> Self {
        let now = |path: &PathBuf| (path.clone(), read(path).ok().map(|bytes| hash(&bytes)));
        Self { seen: self.seen.keys().map(now).collect(), ..Self::default() }
    }

    /// These files, and those of `others` that are not among them.
    pub(super) fn or(mut self, others: Self) -> Self {
        for (path, seen) in others.seen {
            self.seen.entry(path).or_insert(seen);
        }
        self
    }
}

/// The variables of the keys that differ; never their values, which may be secret.
fn changed_keys(before: &[u8], now: &[u8]) -> Vec<String> {
    let table =
        |content: &[u8]| std::str::from_utf8(content).ok().and_then(|text| toml::from_str::<toml::Table>(text).ok());
    let (before, now) = (table(before).unwrap_or_default(), table(now).unwrap_or_default());
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    keys.into_iter().filter(|key| before.get(*key) != now.get(*key)).map(|key| key.to_ascii_uppercase()).collect()
}

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        self.seen == other.seen
    }
}

impl Eq for Files {}

/// Without their contents, which may be secret.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.seen.keys()).finish()
    }
}

/// Secret files are hashed too: a random seed makes the hashes useless outside this process.
fn hash(content: &[u8]) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SEED.hash_one(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_again_counts_as_it_was_and_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "ann").unwrap();
        let mut files = Files::default();
        files.read("LIST", &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut again = Files::over(&files);
        assert_eq!(again.read("LIST", &path).unwrap(), b"ann");
        assert_eq!(again.look_again(), again, "it is not read again and again");
        let stale = again.take_stale();
        assert!(stale.len() == 1 && stale[0].contains("the old one stays"), "{stale:?}");
        let mut later = Files::over(&again);
        assert_eq!(later.read("LIST", &path).unwrap(), b"ann");
        std::fs::write(&path, "bob").unwrap();
        assert_eq!(later.read("LIST", &path).unwrap(), b"bob");
        assert!(
            Files::default().read("LIST", &folder.path().join("other")).is_err(),
            "at the start nothing was there before"
        );
        assert!(!format!("{later:?}").contains("bob"));
    }

    #[test]
    fn what_changed_is_named_without_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let (config, list) = (folder.path().join("sidegate.toml"), folder.path().join("list"));
        let write = |text: &str, names: &str| {
            std::fs::write(&config, text).unwrap();
            std::fs::write(&list, names).unwrap();
        };
        let read = |over: &Files| {
            let mut files = Files::over(over);
            files.read("SIDEGATE_CONFIG", &config).unwrap();
            files.read("OAUTH_ALLOWED_USERS_FILE", &list).unwrap();
            files
        };
        write("session_ttl = \"1h\"\nsession_secret = \"canary\"\nlog_level = \"info\"", "ann");
        let first = read(&Files::default());
        assert!(read(&first).changes(Some(&config)).is_empty());
        write("# a remark\nsession_ttl = \"2h\"\nsession_secret = \"other\"\ncookie_name = \"x\"", "ann");
        let second = read(&first);
        assert_eq!(second.changes(Some(&config)), ["COOKIE_NAME", "LOG_LEVEL", "SESSION_SECRET", "SESSION_TTL"]);
        write("# a remark\nsession_ttl = \"2h\"\nsession_secret = \"other\"\ncookie_name = \"x\"", "bob");
        assert_eq!(read(&second).changes(Some(&config)), [list.display().to_string()]);
    }

    #[test]
    fn a_change_is_seen_and_a_touch_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "ann").unwrap();
        let mut files = Files::default();
        files.read("LIST", &path).unwrap();
        std::fs::write(&path, "ann").unwrap();
        assert_eq!(files.look_again(), files);
        std::fs::write(&path, "bob").unwrap();
        assert_ne!(files.look_again(), files);
        std::fs::remove_file(&path).unwrap();
        assert_ne!(files.look_again(), files);
    }
}
