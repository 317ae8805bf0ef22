//! The files that a configuration was read from, each with a hash of what stood in it, so that a change is seen.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use zeroize::Zeroizing;

use crate::adapters::files::read;

/// Files, each with a hash of its content when it was read; without one where it could not be.
#[derive(Clone, Default)]
pub struct Files {
    seen: BTreeMap<PathBuf, Option<u64>>,
    /// What stood in them, so that one which cannot be read later holds up no change of the others.
    contents: Contents,
    /// What stood in the files of the configuration in force.
    before: Contents,
    /// What is to be said of those that could not be read now.
    stale: Vec<String>,
}

type Contents = BTreeMap<PathBuf, Arc<Zeroizing<Vec<u8>>>>;

impl Files {
    /// For reading a configuration again: a file that cannot be read now counts as it was in `in_force`.
    pub(super) fn over(in_force: &Self) -> Self {
        Self { before: in_force.contents.clone(), ..Self::default() }
    }

    /// Their paths, as configured.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.seen.keys().map(PathBuf::as_path)
    }

    /// Reads a file that `variable` names, and remembers what stood in it.
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

    /// Which files could not be read, and count as they were before.
    pub(super) fn take_stale(&mut self) -> Vec<String> {
        std::mem::take(&mut self.stale)
    }

    /// The same files as they are now.
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

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        self.seen == other.seen
    }
}

impl Eq for Files {}

/// Without what stands in them, which may be secret.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.seen.keys()).finish()
    }
}

/// Secret files are hashed too: a seed of this process keeps the hashes from telling anything elsewhere.
fn hash(content: &[u8]) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SEED.hash_one(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_again_counts_as_it_was_and_is_told() {
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
