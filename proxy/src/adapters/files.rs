//! Access to files that the operator named, which cannot block us: only regular files, with a size limit and a time limit.

use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::Access;

/// The largest accepted file of a configuration.
const LARGEST: u64 = 8 << 20;

/// The time limit for a file: a network file system whose server is gone never responds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Without it, opening a FIFO waits until its other end is opened.
#[cfg(any(target_os = "linux", target_os = "android"))]
const O_NONBLOCK: i32 = 0o4000;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const O_NONBLOCK: i32 = 0x0004;

/// Files that are still being read: each is read by one thread only, so that one that never responds blocks only one thread.
static UNDER_WAY: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Reads a regular file, or the target of a link.
///
/// # Errors
/// If it cannot be read, is not a regular file, is larger than 8 MiB, or takes longer than 5 s.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    within(PATIENCE, path, read_regular)
}

/// Opens a regular file, or the target of a link, for appending; creates a missing one, for its owner only. Has no time limit.
///
/// # Errors
/// If it cannot be opened for appending, or is not a regular file.
pub fn append(path: &Path) -> io::Result<File> {
    append_to(path, OpenOptions::new().append(true).create(true).mode(0o600))
}

/// Checks that [`append`] would succeed, without creating or changing anything.
///
/// # Errors
/// Why it would not, or that checking took longer than 5 s.
pub fn can_append(path: &Path) -> io::Result<()> {
    within(PATIENCE, path, |path| match append_to(path, OpenOptions::new().append(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_create(path),
        outcome => outcome.map(drop),
    })
}

fn append_to(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match std::fs::metadata(path) {
        Ok(metadata) => refuse_others(&metadata)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = options.custom_flags(O_NONBLOCK).open(path)?;
    refuse_others(&file.metadata()?)?;
    Ok(file)
}

fn can_create(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let no_folder = |error: io::Error| io::Error::new(error.kind(), format!("its folder: {error}"));
    let metadata = std::fs::metadata(folder).map_err(no_folder)?;
    if !metadata.is_dir() {
        return Err(no_folder(io::ErrorKind::NotADirectory.into()));
    }
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| no_folder(error.into()))
}

fn within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it did not answer within {patience:?}"));
    if !under_way(|paths| paths.insert(path.to_owned())) {
        return Err(late());
    }
    let (sender, receiver) = mpsc::channel();
    let owned = path.to_owned();
    let reader = std::thread::Builder::new().name("file".to_owned()).spawn(move || {
        let outcome = work(&owned);
        under_way(|paths| paths.remove(&owned));
        // The caller may be gone.
        let _ = sender.send(outcome);
    });
    if let Err(error) = reader {
        under_way(|paths| paths.remove(path));
        return Err(error);
    }
    receiver.recv_timeout(patience).unwrap_or_else(|_| Err(late()))
}

fn under_way<T>(act: impl FnOnce(&mut HashSet<PathBuf>) -> T) -> T {
    act(&mut UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner))
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening, since opening alone has effects on some devices; and after it, since the file may have been replaced.
    refuse_others(&std::fs::metadata(path)?)?;
    let file: File = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    refuse_others(&metadata)?;
    let mut content = Vec::with_capacity(usize::try_from(metadata.len().min(LARGEST)).unwrap_or_default());
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB"));
    }
    Ok(content)
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
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "ann").unwrap();
        symlink("file", at("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&at(name)).unwrap(), b"ann", "{name}");
        }
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link to a fifo")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let began = Instant::now();
        for (path, what) in [
            (at("fifo"), "FIFO"),
            (at("link to a fifo"), "FIFO"),
            (at("socket"), "socket"),
            (folder.path().to_owned(), "directory"),
            ("/dev/zero".into(), "device"),
            ("/dev/null".into(), "device"),
            (at("gone"), "No such file"),
        ] {
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(what), "{}: {error}", path.display());
        }
        assert!(began.elapsed() < PATIENCE, "none was waited for");
    }

    #[test]
    fn only_regular_files_are_appended_to_and_a_new_one_is_its_owners() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        can_append(&at("new")).unwrap();
        assert!(!at("new").exists(), "looking makes nothing");
        for _ in 0..2 {
            append(&at("new")).unwrap().write_all(b"a\n").unwrap();
            can_append(&at("new")).unwrap();
        }
        assert_eq!(read(&at("new")).unwrap(), b"a\na\n");
        assert_eq!(std::fs::metadata(at("new")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link to a fifo")).unwrap();
        for (path, what) in [
            (at("fifo"), "FIFO"),
            (at("link to a fifo"), "FIFO"),
            (folder.path().to_owned(), "directory"),
            ("/dev/null".into(), "device"),
            (at("gone/audit.log"), "No such file"),
            (at("new/audit.log"), "directory"),
        ] {
            for error in [append(&path).unwrap_err(), can_append(&path).unwrap_err()] {
                assert!(error.to_string().to_lowercase().contains(&what.to_lowercase()), "{}: {error}", path.display());
            }
        }
    }

    #[test]
    fn a_fifo_that_takes_a_files_place_just_then_is_opened_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
            sender.send(opened.and_then(|file| refuse_others(&file.metadata()?)).is_err()).unwrap();
        });
        assert!(receiver.recv_timeout(PATIENCE).expect("it waits"), "it is no regular file");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_that_never_answers_is_given_up_and_takes_one_thread_only() {
        let path = Path::new("/nowhere/hung");
        let (release, hung) = mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let slow = move |_: &Path| {
            let _ = hung.recv();
            Ok(())
        };
        assert_eq!(within(short, path, slow).unwrap_err().kind(), io::ErrorKind::TimedOut);
        for _ in 0..3 {
            let error = within(short, path, |_: &Path| -> io::Result<()> { panic!("a second thread") }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        drop(release);
        let deadline = Instant::now() + PATIENCE;
        while within(PATIENCE, path, |_: &Path| Ok(())).is_err() {
            assert!(Instant::now() < deadline, "it stays given up");
            std::thread::yield_now();
        }
    }
}
