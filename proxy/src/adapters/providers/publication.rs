//! The documents that a provider publishes, cached: discovery is read hourly, keys also when none of them verifies a token.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, Notify};

use super::backoff::Backoff;
use super::discovery::{Document, Issuer, Place};
use super::http::Http;
use super::jwks::{KeySet, Sent};
use crate::domain::time::Timestamp;

/// How often it is read again while all is well.
const FRESH: Duration = Duration::from_secs(3600);
/// How often tokens that no known key verifies may trigger a read: forged tokens must not make us flood the provider.
const KEYS_AGAIN: Duration = Duration::from_secs(60);

/// The result of one read.
pub(super) struct Published {
    pub(super) document: Document,
    pub(super) issuer: Issuer,
    pub(super) keys: Arc<KeySet>,
}

/// The last successful read, kept through failures.
pub(super) struct Publication {
    place: Place,
    current: ArcSwapOption<Published>,
    trouble: ArcSwapOption<String>,
    /// Locked while reading, so that there is one reader at a time.
    reader: Mutex<Reader>,
    /// Notified when a caller waits for the first read.
    wanted: Notify,
    /// Notified when the first read has succeeded.
    there: Notify,
}

#[derive(Default)]
struct Reader {
    backoff: Backoff,
    keys_asked: Option<Timestamp>,
}

impl Publication {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            current: ArcSwapOption::empty(),
            trouble: ArcSwapOption::empty(),
            reader: Mutex::new(Reader::default()),
            wanted: Notify::new(),
            there: Notify::new(),
        }
    }

    /// The last successful read.
    pub(super) fn current(&self) -> Option<Arc<Published>> {
        self.current.load_full()
    }

    /// Why there is none; `None` while there is one, however old.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.current.load().is_some() {
            return None;
        }
        let failure = self.trouble.load_full();
        Some(failure.map_or_else(|| "discovery has not been read yet".to_owned(), |failure| failure.as_ref().clone()))
    }

    /// Reads everything, and returns the pause before the next refresh.
    pub(super) async fn refresh(&self, http: &Http) -> Duration {
        let mut reader = self.reader.lock().await;
        self.read(http, &mut reader).await
    }

    /// Waits until a caller waits for the first read.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits for a read, and requests one: the task that calls [`Self::refresh`] repeatedly then does so at once.
    pub(super) async fn first_reading(&self) {
        loop {
            let there = self.there.notified();
            if self.current.load().is_some() {
                return;
            }
            self.wanted.notify_one();
            there.await;
        }
    }

    /// The last successful read, or a first one. If another task is reading, waits for that read and uses its result.
    pub(super) async fn ready(&self, http: &Http) -> Result<Arc<Published>, String> {
        if self.current.load().is_none() {
            match self.reader.try_lock() {
                Ok(mut reader) => {
                    self.read(http, &mut reader).await;
                }
                Err(_) => drop(self.reader.lock().await),
            }
        }
        self.current().ok_or_else(|| self.trouble().unwrap_or_default())
    }

    /// Reads other keys than those in `seen`, at most once a minute. Old keys are kept if that fails.
    pub(super) async fn newer_keys(
        &self,
        http: &Http,
        seen: &Arc<Published>,
        now: Timestamp,
    ) -> Result<Option<Arc<Published>>, String> {
        let mut reader = self.reader.lock().await;
        let current = self.current().filter(|current| !Arc::ptr_eq(&current.keys, &seen.keys));
        if current.is_some() {
            return Ok(current);
        }
        if reader.keys_asked.is_some_and(|asked| now.since(asked) < KEYS_AGAIN) {
            return Ok(None);
        }
        reader.keys_asked = Some(now);
        let keys = keys(http, &seen.document).await?;
        let published =
            Arc::new(Published { document: seen.document.clone(), issuer: seen.issuer.clone(), keys: Arc::new(keys) });
        self.current.store(Some(Arc::clone(&published)));
        Ok(Some(published))
    }

    async fn read(&self, http: &Http, reader: &mut Reader) -> Duration {
        match published(http, &self.place).await {
            Ok(published) => {
                self.current.store(Some(Arc::new(published)));
                self.there.notify_waiters();
                self.trouble.store(None);
                reader.backoff.succeeded();
                FRESH
            }
            Err(failure) => {
                self.trouble.store(Some(Arc::new(failure)));
                reader.backoff.failed()
            }
        }
    }
}

async fn published(http: &Http, place: &Place) -> Result<Published, String> {
    let document = document(http, place).await?;
    let issuer = document.check(place)?;
    let keys = Arc::new(keys(http, &document).await?);
    Ok(Published { document, issuer, keys })
}

/// The document at `place`, unchecked.
pub(super) async fn document(http: &Http, place: &Place) -> Result<Document, String> {
    let answer = http.get(&place.document()).await.and_then(|answer| answer.json());
    answer.map_err(|error| format!("discovery: {error}"))
}

async fn keys(http: &Http, document: &Document) -> Result<KeySet, String> {
    let sent = http.get(&document.jwks_uri).await.and_then(|answer| answer.json::<Sent>());
    let keys = KeySet::from(sent.map_err(|error| format!("keys: {error}"))?);
    if keys.is_empty() {
        return Err("keys: none that is published can verify a signature".to_owned());
    }
    Ok(keys)
}
