//! Files that the operator named: only regular ones, opened without waiting, and read up to a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads a regular file, or the target of a link, which may be a secret.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is longer than `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path, OpenOptions::new().read(true))?;
    // Allocate everything at the start: a growing buffer would leave a secret behind in freed memory.
    let room = file.metadata()?.len().min(most).saturating_add(1);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or_default()));
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(content)
}

/// The same for text.
///
/// # Errors
/// As for [`read`], and if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    let content = read(path, most)?;
    let text = std::str::from_utf8(&content);
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Creates a missing file, for its owner only.
///
/// # Errors
/// If it cannot be written, or is not a regular file.
pub(crate) fn create_missing(path: &Path) -> io::Result<()> {
    open(path, OpenOptions::new().append(true).create(true).mode(0o600)).map(drop)
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Checked before opening, since opening alone has effects on some devices; and after it, since the file may have been replaced.
    match std::fs::metadata(path) {
        Ok(metadata) => refuse_others(&metadata)?,
        // The options say whether that is an error.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Otherwise opening a FIFO waits until its other end is opened.
    let file = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    refuse_others(&file.metadata()?)?;
    Ok(file)
}

fn refuse_others(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, and not a regular file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_are_read_or_created_and_nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "ann").unwrap();
        symlink("file", at("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_text(&at(name), 3).unwrap().as_str(), "ann", "{name}");
            create_missing(&at(name)).unwrap();
        }
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link to a fifo")).unwrap();
        symlink("/dev/zero", at("zeros")).unwrap();
        for (name, what) in [("fifo", "FIFO"), ("link to a fifo", "FIFO"), ("zeros", "a device"), (".", "a directory")]
        {
            for error in [read(&at(name), 9).unwrap_err(), create_missing(&at(name)).unwrap_err()] {
                assert!(error.to_string().contains(what), "{name}: {error}");
            }
        }
        assert_eq!(read(&at("gone"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        create_missing(&at("gone")).unwrap();
        assert!(read(&at("gone"), 9).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_or_no_text_is_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hidden").unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().to_string(), "it is longer than 5 bytes");
        std::fs::write(&path, b"hidden\xff").unwrap();
        assert_eq!(read_text(&path, 9).unwrap_err().to_string(), "it is not text in UTF-8");
    }
}
