//! The documents that a provider publishes, cached: discovery is read hourly, keys also when none of them verifies a token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, Notify};

use super::backoff::Backoff;
use super::discovery::{Document, Issuer, Place};
use super::http::Http;
use super::jwks::{KeySet, Sent};
use crate::domain::time::Timestamp;

/// How often it is read again while all is well.
const FRESH: Duration = Duration::from_secs(3600);
/// How often tokens that no known key verifies may trigger a read: forged tokens must not make us flood the provider. Failed reads are
/// retried sooner, with growing pauses.
const KEYS_AGAIN: Duration = Duration::from_secs(60);

/// Who sent a token that no known key verifies. Each has its own reads of newer keys: forged tokens cannot use up those of sign-ins.
#[derive(Clone, Copy)]
pub(super) enum Sender {
    /// The provider, in its answer to us.
    Provider,
    /// Anyone, in a request.
    Anyone,
}

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
    for_provider: KeyReads,
    for_anyone: KeyReads,
}

/// The reads of newer keys for tokens of one sender.
#[derive(Default)]
struct KeyReads {
    backoff: Backoff,
    /// The last successful one.
    read_at: Option<Timestamp>,
    /// Since then: the last failure, and when to retry.
    failure: Option<(String, Timestamp)>,
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

    /// Reads other keys than those in `seen`, at most once a minute for each kind of sender. `None`: there are none. Old keys are kept if it
    /// fails; the last failure is returned until the next try.
    pub(super) async fn newer_keys(
        &self,
        http: &Http,
        seen: &Arc<Published>,
        sender: Sender,
        now: Timestamp,
    ) -> Result<Option<Arc<Published>>, String> {
        // Before the wait for another reader, since `now` is from before it too.
        let began = Instant::now();
        let mut reader = self.reader.lock().await;
        let current = self.current().filter(|current| !Arc::ptr_eq(&current.keys, &seen.keys));
        if current.is_some() {
            return Ok(current);
        }
        let reads = match sender {
            Sender::Provider => &mut reader.for_provider,
            Sender::Anyone => &mut reader.for_anyone,
        };
        if !reads.is_due(now)? {
            return Ok(None);
        }
        let keys = keys(http, &seen.document).await.map_err(|reason| reads.failed(reason, now + began.elapsed()))?;
        reads.succeeded(now);
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

impl KeyReads {
    /// Whether keys may be read now; the error is the last failure, if it is too early to retry.
    fn is_due(&self, now: Timestamp) -> Result<bool, String> {
        match &self.failure {
            Some((reason, again_at)) if now < *again_at => Err(reason.clone()),
            Some(_) => Ok(true),
            None => Ok(self.read_at.is_none_or(|read_at| now.since(read_at) >= KEYS_AGAIN)),
        }
    }

    fn succeeded(&mut self, now: Timestamp) {
        self.backoff.succeeded();
        (self.read_at, self.failure) = (Some(now), None);
    }

    /// Notes a failure, and returns its reason. Callers that waited for this read do not retry at once.
    fn failed(&mut self, reason: String, now: Timestamp) -> String {
        let again_at = now + self.backoff.failed();
        self.failure = Some((reason.clone(), again_at));
        reason
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
