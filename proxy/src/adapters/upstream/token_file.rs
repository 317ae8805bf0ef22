//! The token that identifies us to an upstream, in a file that is read regularly: Kubernetes renews service account tokens every hour.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::adapters::files;

/// How often the file is read.
const READ_EVERY: Duration = Duration::from_secs(2);

/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;

/// A token file, and its content when it was last read.
pub struct TokenFile {
    path: PathBuf,
    /// The value of `Authorization`, or why there is none.
    now: ArcSwap<Result<HeaderValue, String>>,
    due: Mutex<Instant>,
    under_way: AtomicBool,
}

impl TokenFile {
    /// Reads the file. If that fails there is no token until a read succeeds.
    #[must_use]
    pub fn open(path: PathBuf) -> Arc<Self> {
        let first = authorization(&path);
        if let Err(why) = &first {
            tracing::error!(file = %path.display(), "{}", unusable(why));
        }
        Arc::new(Self {
            now: ArcSwap::from_pointee(first),
            path,
            due: Mutex::new(Instant::now() + READ_EVERY),
            under_way: AtomicBool::new(false),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `Bearer` with the token, marked sensitive so that it is never logged.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        self.now.load().as_ref().as_ref().ok().cloned()
    }

    /// Why there is no token.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let now = self.now.load();
        now.as_ref().as_ref().err().map(|why| format!("token_file {}: {why}", self.path.display()))
    }

    /// Starts reading the file again in the background if that is due. Call it a few times a second, inside a runtime.
    pub fn maintain(self: &Arc<Self>) {
        let now = Instant::now();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if *due > now || self.under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        *due = now + READ_EVERY;
        drop(due);
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            this.read();
            this.under_way.store(false, Ordering::Release);
        });
    }

    fn read(&self) {
        let (before, next) = (self.now.load_full(), authorization(&self.path));
        if *before == next {
            return;
        }
        let file = self.path.display();
        match &next {
            Ok(_) if before.is_ok() => tracing::info!(%file, "the token of token_file has changed"),
            Ok(_) => tracing::info!(%file, "there is a token in token_file again"),
            Err(why) => tracing::error!(%file, "{}", unusable(why)),
        }
        self.now.store(Arc::new(next));
    }
}

fn unusable(why: &str) -> String {
    format!("there is no token to be known by at the upstream: {why}; its requests are answered 502 until there is")
}

/// The value of `Authorization` for the token in a file.
///
/// # Errors
/// Why there is none, without anything from the file.
pub fn authorization(path: &Path) -> Result<HeaderValue, String> {
    let content = files::read(path).map(Zeroizing::new).map_err(|error| format!("the file cannot be read: {error}"))?;
    let token = content.trim_ascii();
    if token.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if token.len() > LONGEST {
        return Err(format!("the file holds more than {LONGEST} bytes, which is no token"));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(
            "the file holds something else than one token: blanks, line breaks, or signs beyond ASCII".to_owned()
        );
    }
    let text = Zeroizing::new([b"Bearer ", token].concat());
    let mut value = HeaderValue::from_bytes(&text).map_err(|_| "the token cannot be sent".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn one_token_counts_with_blanks_around_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (content, value) in [
            ("canary.a.b", Ok("Bearer canary.a.b")),
            (" \r\ncanary\n\n", Ok("Bearer canary")),
            ("", Err("is empty")),
            (" \n", Err("is empty")),
            ("canary\r\nImpersonate-User: root", Err("something else")),
            ("Bearer canary", Err("something else")),
            ("can\u{e4}ry", Err("something else")),
            ("can\0ary", Err("something else")),
        ] {
            std::fs::write(&path, content).unwrap();
            match (authorization(&path), value) {
                (Ok(found), Ok(value)) => {
                    assert_eq!(found, value);
                    assert!(!format!("{found:?}").contains("canary"), "it is never printed");
                }
                (Err(why), Err(says)) => assert!(why.contains(says) && !why.contains("canary"), "{content:?}: {why}"),
                (found, value) => panic!("{content:?}: {found:?}, {value:?}"),
            }
        }
        std::fs::write(&path, "a".repeat(LONGEST + 1)).unwrap();
        assert!(authorization(&path).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_file_that_is_gone_or_no_file_leaves_no_token_and_one_that_is_back_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let token = TokenFile::open(path.clone());
        assert_eq!(token.authorization().unwrap(), "Bearer one");
        std::fs::write(&path, "two").unwrap();
        token.read();
        assert_eq!(token.authorization().unwrap(), "Bearer two");
        std::fs::remove_file(&path).unwrap();
        token.read();
        assert!(token.authorization().is_none() && token.trouble().unwrap().contains("No such file"));
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        token.read();
        assert!(token.authorization().is_none() && token.trouble().unwrap().contains("FIFO"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "three").unwrap();
        token.read();
        assert!(token.trouble().is_none() && token.authorization().unwrap() == "Bearer three");
    }
}
