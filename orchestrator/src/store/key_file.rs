//! The key file beside an SQLite database, used when ENCRYPTION_KEY is not set.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{KEY_LEN, Key, SealError};
use crate::files;

/// The longest file that is read, in bytes: a key takes 44.
const FILE_MOST: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or created.
    #[error("cannot read or make the key file {}: give the directory to this program's user, or set ENCRYPTION_KEY", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the key file {} does not hold {KEY_LEN} bytes of base64: put the right one back from your backup", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The database holds kubeconfigs that only the missing file's key opens.
    #[error(
        "the database holds sealed kubeconfigs, and {}, which opens them, is gone: put it back from your backup, or set \
         ENCRYPTION_KEY to what it held",
        .path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// `orchestrator.db` has its key in `orchestrator.key`.
pub(super) fn path_beside(database: &Path) -> PathBuf {
    database.with_extension("key")
}

/// Reads the key from the file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Key>, KeyFileError> {
    let text = match files::read_text(path, FILE_MOST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyFileError::Io { path: path.into(), source }),
    };
    let mode = fs::metadata(path).map(|metadata| metadata.mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others than this program's user can read the key file: chmod 600 it");
    }
    let malformed = || KeyFileError::Malformed { path: path.into() };
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| malformed())?);
    Key::new(&bytes).map(Some).ok_or_else(malformed)
}

/// Creates the file with a random key, readable by this program's user only.
pub(super) fn make(path: &Path) -> Result<Key, KeyFileError> {
    let key = Key::random()?;
    write(path, &key).map_err(|source| KeyFileError::Io { path: path.into(), source })?;
    tracing::info!(
        path = %path.display(),
        "made a key that seals kubeconfigs: keep a copy apart from the database's, since one is of no use without the other"
    );
    Ok(key)
}

fn write(path: &Path, key: &Key) -> io::Result<()> {
    // Never overwrites an existing file, and is never readable by others, not even briefly.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let text = Zeroizing::new(format!("{}\n", STANDARD.encode(key.bytes())));
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
