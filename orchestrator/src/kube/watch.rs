//! A watch of one kind that resumes after dropped connections and expired versions.

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
    objects: Api<Seen>,
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
        let objects = match namespace {
            Some(namespace) => Api::namespaced_with(client.inner(), namespace, &resource),
            None => Api::all_with(client.inner(), &resource),
        };
        let events = events(objects.clone());
        Self { objects, events, listing: false }
    }

    /// Begins with a list again, and drops the request that is under way.
    pub(crate) fn restart(&mut self) {
        self.events = events(self.objects.clone());
        self.listing = false;
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
        let event = self.events.next().await;
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

fn events(objects: Api<Seen>) -> BoxStream<'static, watcher::Result<watcher::Event<Seen>>> {
    watcher(objects, watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)).boxed()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;
    use crate::kube::client::Access;
    use crate::kube::kubeconfig::Connection;
    use crate::secret::Secret;

    const LIST: &str = r#"{"kind":"BucketList","apiVersion":"a/v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    const IDLE: Duration = Duration::from_secs(1);

    /// A watch of what this server answers.
    async fn watch_of(listener: &TcpListener) -> Watch {
        let server = format!("http://{}", listener.local_addr().unwrap());
        let text = format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: c}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n"
        );
        let connection = Connection::Kubeconfig { kubeconfig: Secret::new(text), context: None };
        let client = Access::with_idle(&connection, IDLE).await.unwrap().client;
        let served = Served { group: "a".into(), version: "v1".into(), plural: "buckets".into() };
        Watch::new(&client, "Bucket", &served, None)
    }

    /// Accepts a request, and sends the head of its answer.
    async fn begin_answer(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n", LIST.len()).as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_page_that_stalls_is_given_up_and_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut watch = watch_of(&listener).await;
        tokio::spawn(async move {
            let mut open = Vec::new();
            // The first answer stops in the middle of its body.
            for sent in [LIST.len() / 2, LIST.len()] {
                let mut stream = begin_answer(&listener).await;
                stream.write_all(&LIST.as_bytes()[..sent]).await.unwrap();
                open.push(stream);
            }
            std::future::pending::<()>().await;
        });
        assert!(matches!(watch.next().await, Ok(WatchEvent::Begun)));
        let late = watch.next().await;
        assert!(matches!(late, Err(Fault::Unreachable(why)) if why.contains("within 1 s")));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Begun)));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Complete)));
    }

    #[tokio::test]
    async fn a_page_may_take_long_as_long_as_it_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut watch = watch_of(&listener).await;
        tokio::spawn(async move {
            let mut stream = begin_answer(&listener).await;
            // In ten pieces or so: three times as long as one of them may take.
            for piece in LIST.as_bytes().chunks(LIST.len() / 9) {
                sleep(IDLE * 3 / 10).await;
                stream.write_all(piece).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        assert!(matches!(watch.next().await, Ok(WatchEvent::Begun)));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Complete)));
    }
}
