//! A watch of one kind that resumes after dropped connections and expired versions.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::Api;
use kube::core::ApiResource;
use kube::runtime::watcher;

use super::client::Client;
use super::discovery::Served;
use super::fault::Fault;
use super::flux::Seen;

/// How many objects a page of the list holds.
const PAGE: u32 = 200;
/// How long a page of the first list may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a watch runs, in seconds, before it is resumed: a silently dead connection is noticed then at the latest.
const WATCH_SECONDS: u32 = 120;

/// An event of a watch.
pub(crate) enum WatchEvent {
    /// A list of all objects begins.
    Begun,
    /// One object of the list.
    Listed(Box<Seen>),
    /// The list is complete.
    Complete,
    /// An object was added or changed.
    Changed(Box<Seen>),
    /// An object was deleted.
    Removed(Box<Seen>),
}

/// A watch of one kind, in one namespace or in all.
pub(crate) struct Watch {
    events: BoxStream<'static, watcher::Result<watcher::Event<Seen>>>,
    listing: bool,
}

impl Watch {
    pub(crate) fn new(client: &Client, kind: &str, served: &Served, namespace: Option<&str>) -> Self {
        let resource = ApiResource {
            group: served.group.clone(),
            version: served.version.clone(),
            api_version: served.api_version(),
            kind: kind.to_owned(),
            plural: served.plural.clone(),
        };
        let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        let objects = match namespace {
            Some(namespace) => Api::namespaced_with(client.inner(), namespace, &resource),
            None => Api::all_with(client.inner(), &resource),
        };
        let events = watcher(objects, config).boxed();
        Self { events, listing: false }
    }

    /// Returns true while a list is being read.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing
    }

    /// Returns the next event. The future may be dropped and called again.
    ///
    /// # Errors
    /// Why it failed; a later call continues.
    pub(crate) async fn next(&mut self) -> Result<WatchEvent, Fault> {
        let event = if self.listing {
            let event = tokio::time::timeout(PAGE_PATIENCE, self.events.next()).await;
            event.map_err(|_| Fault::late(PAGE_PATIENCE.as_secs()))?
        } else {
            self.events.next().await
        };
        let event = event.ok_or_else(|| Fault::Unreachable("the watch has ended".to_owned()))?;
        let event = match event.map_err(fault)? {
            watcher::Event::Init => WatchEvent::Begun,
            watcher::Event::InitApply(seen) => WatchEvent::Listed(Box::new(seen)),
            watcher::Event::InitDone => WatchEvent::Complete,
            watcher::Event::Apply(seen) => WatchEvent::Changed(Box::new(seen)),
            watcher::Event::Delete(seen) => WatchEvent::Removed(Box::new(seen)),
        };
        self.listing = matches!(event, WatchEvent::Begun | WatchEvent::Listed(_));
        Ok(event)
    }
}

fn fault(error: watcher::Error) -> Fault {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error.into(),
        watcher::Error::WatchError(status) => Fault::of_status(status.code, &status.message),
        watcher::Error::NoResourceVersion => {
            Fault::Unreachable("the answer is not what a Kubernetes API answers".to_owned())
        }
    }
}
