//! The files that a configuration was read from, each with a hash of what stood in it, so that a change is seen.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// No file of a configuration is larger; a device that never ends is not read for ever.
const FILE_LIMIT: u64 = 8 << 20;

/// Files, each with a hash of its content when it was read; without one where it could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Option<u64>>);

impl Files {
    /// Their paths, as configured.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Reads a file, and remembers what stood in it.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let content = read(path);
        self.0.insert(path.to_owned(), content.as_ref().ok().map(|bytes| hash(bytes)));
        content
    }

    /// The same files as they are now.
    pub(super) fn look_again(&self) -> Self {
        let now = |path: &PathBuf| (path.clone(), read(path).ok().map(|bytes| hash(&bytes)));
        Self(self.0.keys().map(now).collect())
    }

    /// These files, and those of `others` that are not among them.
    pub(super) fn or(mut self, others: Self) -> Self {
        for (path, seen) in others.0 {
            self.0.entry(path).or_insert(seen);
        }
        self
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB"));
    }
    Ok(content)
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
    fn a_file_that_never_ends_is_refused() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_change_is_seen_and_a_touch_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "ann").unwrap();
        let mut files = Files::default();
        files.read(&path).unwrap();
        std::fs::write(&path, "ann").unwrap();
        assert_eq!(files.look_again(), files);
        std::fs::write(&path, "bob").unwrap();
        assert_ne!(files.look_again(), files);
        std::fs::remove_file(&path).unwrap();
        assert_ne!(files.look_again(), files);
    }
}
