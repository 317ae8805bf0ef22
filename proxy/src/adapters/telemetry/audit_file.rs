//! `AUDIT_FILE`: appends audit lines to a file, which may be renamed, removed or emptied meanwhile, as `logrotate` does.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use log_lines::{Lines, Out};

use super::Clean;
use crate::adapters::files;

static LINES: Lines = Lines::new();
static WRITER: OnceLock<()> = OnceLock::new();
/// Why lines cannot be written now.
static TROUBLE: Mutex<Option<String>> = Mutex::new(None);

/// Appends audit lines to that file from now on, for the whole process; creates a missing file at once.
pub(super) fn start(path: &Path) {
    WRITER.get_or_init(|| {
        let mut file = AuditFile { path: path.to_owned(), open: None };
        // Without the thread the queue fills up, and lost lines are counted.
        let _started = thread::Builder::new().name("audit".to_owned()).spawn(move || {
            file.reopen();
            LINES.write_out(file, log_lost);
        });
    });
}

/// Opens the file again, so that a renamed one can be compressed or removed.
pub fn reopen_audit_file() {
    if WRITER.get().is_some() {
        LINES.reopen();
    }
}

/// How many audit lines could not be written since the start.
#[must_use]
pub fn lost_audit_lines() -> u64 {
    LINES.lost()
}

/// Why audit lines cannot be written now.
#[must_use]
pub fn audit_trouble() -> Option<String> {
    TROUBLE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(super) fn flush(until: Instant) {
    if WRITER.get().is_some() {
        LINES.flush(until);
    }
}

fn log_lost(lost: u64) {
    tracing::warn!(lost, "AUDIT_FILE: {lost} audit lines could not be written and are lost; it can be written again");
}

/// Writes one formatted audit line.
#[derive(Clone, Copy, Default)]
pub(super) struct AuditLine;

impl Write for AuditLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file identified by its path: lines are appended to the file that now has that path.
struct AuditFile {
    path: PathBuf,
    /// The open file, with its device and inode numbers.
    open: Option<(File, (u64, u64))>,
}

impl AuditFile {
    /// The file that now has that path.
    fn current(&mut self) -> io::Result<&mut File> {
        let is_current = self.open.as_ref().is_some_and(|(_, id)| {
            std::fs::metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == *id)
        });
        if !is_current {
            self.open = None;
        }
        let (file, _) = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => {
                let file = files::append(&self.path)?;
                let metadata = file.metadata()?;
                self.open.insert((file, (metadata.dev(), metadata.ino())))
            }
        };
        Ok(file)
    }

    /// Notes the outcome of a write, and logs it if it changed.
    fn note(&self, outcome: Result<(), &io::Error>) {
        let why = outcome.err().map(|error| format!("{} cannot be written: {error}", self.path.display()));
        let mut trouble = TROUBLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &why
            && trouble.is_none()
        {
            tracing::error!("AUDIT_FILE: {}: audit lines are lost until it can be", Clean(why));
        }
        *trouble = why;
    }
}

impl Out for AuditFile {
    fn reopen(&mut self) {
        self.open = None;
        let outcome = self.current().map(drop);
        self.note(outcome.as_ref().copied());
    }
}

impl Write for AuditFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let outcome = self.current().and_then(|file| file.write(text));
        match &outcome {
            Ok(_) => self.note(Ok(())),
            // These are retried.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => self.note(Err(error)),
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_file_of_that_name_whatever_becomes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let mut file = AuditFile { path: path.clone(), open: None };
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!((read(&moved).as_str(), read(&path).as_str()), ("one\n", "two\n"), "renamed");
        std::fs::remove_file(&path).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(read(&path), "three\n", "removed");
        File::create(&path).unwrap();
        file.write_all(b"four\n").unwrap();
        assert_eq!(read(&path), "four\n", "emptied");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = file.write_all(b"five\n").unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
        std::fs::remove_dir(&path).unwrap();
        file.write_all(b"six\n").unwrap();
        assert_eq!(read(&path), "six\n", "back again");
    }
}
