//! An issuer's keys: from a file, or as published by the issuer, read every five minutes and when no known key verifies a token.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use url::Url;

use super::super::backoff::Backoff;
use super::super::discovery::{Issuer, KeysDocument, Place};
use super::super::http::Http;
use super::super::jwks::{KeySet, Sent};
use crate::domain::time::Timestamp;

/// How often keys are read again while all is well.
const FRESH: Duration = Duration::from_secs(300);
/// How often tokens that no known key verifies may trigger a read: forged tokens must not make us flood the issuer.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a request waits for keys.
const PATIENCE: Duration = Duration::from_secs(3);

/// The result of one read.
pub(super) struct Known {
    pub(super) issuer: Issuer,
    pub(super) keys: KeySet,
}

/// The keys of one issuer.
pub(super) enum Keys {
    /// Keys from a file, which a reload reads again.
    Filed(Arc<Known>),
    /// Keys that the issuer publishes.
    Published(Arc<Published>),
}

/// The published keys of an issuer.
pub(super) struct Published {
    http: Http,
    place: Place,
    current: ArcSwapOption<Known>,
    trouble: ArcSwapOption<String>,
    /// Locked while reading, so that there is one reader at a time.
    reader: Mutex<Reader>,
}

#[derive(Default)]
struct Reader {
    backoff: Backoff,
    read_at: Option<Timestamp>,
    /// The last time that such a token triggered a read.
    asked_at: Option<Timestamp>,
    /// When to retry after a failure.
    again_at: Option<Timestamp>,
}

/// Why a read is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// The keys may be missing, or old.
    Age,
    /// No known key verifies a token.
    NoKeyVerifies,
}

/// The number of keys in a JWK set that can verify signatures.
///
/// # Errors
/// Why the set cannot be used.
pub fn check_file(content: &[u8]) -> Result<usize, String> {
    file(content).map(|keys| keys.len())
}

fn file(content: &[u8]) -> Result<KeySet, String> {
    let sent = serde_json::from_slice::<Sent>(content)
        .map_err(|error| format!("is not a JWK set (line {}, column {})", error.line(), error.column()))?;
    let keys = KeySet::from(sent);
    if keys.is_empty() { Err("holds no key that can verify a signature".to_owned()) } else { Ok(keys) }
}

impl Keys {
    /// The keys in a file; an invalid one yields an empty set, which verifies nothing.
    pub(super) fn filed(issuer: Issuer, content: &[u8]) -> Self {
        Self::Filed(Arc::new(Known { issuer, keys: file(content).unwrap_or_default() }))
    }

    pub(super) fn published(http: Http, place: Place) -> Self {
        Self::Published(Arc::new(Published {
            http,
            place,
            current: ArcSwapOption::empty(),
            trouble: ArcSwapOption::empty(),
            reader: Mutex::new(Reader::default()),
        }))
    }

    /// The current keys.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn current(&self, now: Timestamp) -> Result<Arc<Known>, String> {
        match self {
            Self::Filed(known) => Ok(Arc::clone(known)),
            Self::Published(published) => {
                if published.current.load().is_none() {
                    published.wait_for_reading(Occasion::Age, now).await;
                }
                published.current.load_full().ok_or_else(|| published.reason())
            }
        }
    }

    /// Reads other keys than `seen`, none of which verifies a token; at most twice a minute.
    pub(super) async fn newer(&self, seen: &Arc<Known>, now: Timestamp) -> Option<Arc<Known>> {
        let Self::Published(published) = self else { return None };
        published.wait_for_reading(Occasion::NoKeyVerifies, now).await;
        published.current.load_full().filter(|current| !Arc::ptr_eq(current, seen))
    }

    /// Reads keys that are old or missing, and returns the pause before the next refresh.
    pub(super) async fn refresh(&self, now: Timestamp) -> Duration {
        match self {
            Self::Filed(_) => FRESH,
            Self::Published(published) => published.read_if_due(Occasion::Age, now).await,
        }
    }

    /// The issuer by its own account, if that is known.
    pub(super) fn issuer(&self) -> Option<Issuer> {
        match self {
            Self::Filed(known) => Some(known.issuer.clone()),
            Self::Published(published) => published.current.load().as_ref().map(|known| known.issuer.clone()),
        }
    }

    /// Why the last read failed.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Self::Filed(_) => None,
            Self::Published(published) => published.trouble.load_full().map(|why| why.as_ref().clone()),
        }
    }
}

impl Published {
    fn reason(&self) -> String {
        let why = self.trouble.load_full();
        why.map_or_else(|| format!("the issuer did not answer within {PATIENCE:?}"), |why| why.as_ref().clone())
    }

    /// Waits for a read, which continues even if the caller is dropped.
    async fn wait_for_reading(self: &Arc<Self>, occasion: Occasion, now: Timestamp) {
        let published = Arc::clone(self);
        let reading = tokio::spawn(async move { published.read_if_due(occasion, now).await });
        // After the deadline, go on with the keys known by then.
        let _late = tokio::time::timeout(PATIENCE, reading).await;
    }

    async fn read_if_due(&self, occasion: Occasion, now: Timestamp) -> Duration {
        let mut reader = self.reader.lock().await;
        if let Some(rest) = reader.rest(occasion, now) {
            return rest;
        }
        if occasion == Occasion::NoKeyVerifies {
            reader.asked_at = Some(now);
        }
        match read(&self.http, &self.place).await {
            Ok(known) => {
                self.current.store(Some(Arc::new(known)));
                self.trouble.store(None);
                reader.backoff.succeeded();
                (reader.read_at, reader.again_at) = (Some(now), None);
                FRESH
            }
            Err(why) => {
                self.trouble.store(Some(Arc::new(why)));
                let pause = reader.backoff.failed();
                reader.again_at = Some(now + pause);
                pause
            }
        }
    }
}

impl Reader {
    /// How long to wait before the next read; `None`: read now.
    fn rest(&self, occasion: Occasion, now: Timestamp) -> Option<Duration> {
        let until = |since: Option<Timestamp>, pause: Duration| {
            since.map(|since| (since + pause).since(now)).filter(|rest| !rest.is_zero())
        };
        let failed = until(self.again_at, Duration::ZERO);
        failed.or_else(|| match occasion {
            Occasion::Age => until(self.read_at, FRESH),
            // A caller that waited during a read sees its result.
            Occasion::NoKeyVerifies => until(self.asked_at, AGAIN),
        })
    }
}

async fn read(http: &Http, place: &Place) -> Result<Known, String> {
    let answer = http.get(&place.document()).await.and_then(|answer| answer.json::<KeysDocument>());
    let document = answer.map_err(|error| format!("discovery: {error}"))?;
    let issuer = document.check(place)?;
    let keys = fetch(http, &document.jwks_uri).await?;
    Ok(Known { issuer, keys })
}

async fn fetch(http: &Http, url: &Url) -> Result<KeySet, String> {
    let sent = http.get(url).await.and_then(|answer| answer.json::<Sent>());
    let keys = KeySet::from(sent.map_err(|error| format!("keys: {error}"))?);
    if keys.is_empty() {
        return Err("keys: none that is published can verify a signature".to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn keys_are_read_every_five_minutes_and_for_an_unknown_one_twice_a_minute() {
        let after = |secs| NOW + Duration::from_secs(secs);
        let reader = Reader { read_at: Some(NOW), asked_at: Some(after(10)), ..Reader::default() };
        assert_eq!(reader.rest(Occasion::Age, after(20)), Some(Duration::from_secs(280)));
        assert_eq!(reader.rest(Occasion::Age, after(300)), None);
        assert_eq!(reader.rest(Occasion::NoKeyVerifies, after(20)), Some(Duration::from_secs(20)));
        assert_eq!(reader.rest(Occasion::NoKeyVerifies, after(40)), None);
        let failed = Reader { again_at: Some(after(8)), ..Reader::default() };
        assert_eq!(
            failed.rest(Occasion::NoKeyVerifies, after(1)),
            Some(Duration::from_secs(7)),
            "back-off holds for all"
        );
        assert_eq!(Reader::default().rest(Occasion::Age, NOW), None);
    }

    #[test]
    fn a_file_of_keys_holds_at_least_one_that_verifies() {
        assert!(check_file(b"{\"keys\":[]}").unwrap_err().contains("no key"));
        assert!(check_file(b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AQAB\"}]}").unwrap_err().contains("no key"));
        assert!(check_file(b"keys: []").unwrap_err().contains("line 1"));
        assert_eq!(check_file(b"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}"), Ok(1));
    }
}
