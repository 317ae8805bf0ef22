//! The channel that announces to all replicas which sessions ended or changed, and the pulse that proves that it works. Other users of
//! the store can publish there too: their messages cause reads at most, and only our own pulse proves anything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSubStream;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};

use super::dial::{Conn, within};
use super::hot::Hot;
use super::line::{Line, describe};
use super::names;
use crate::adapters::seal;
use crate::adapters::telemetry::StoreMetrics;
use crate::domain::session::SessionKey;

/// How often a replica sends itself a pulse.
const PULSE: Duration = Duration::from_millis(300);
/// Without a pulse of our own for this long, news is considered not to arrive.
pub(super) const SILENCE_MOST: Duration = Duration::from_secs(1);
/// How many pulses may be under way; older ones prove nothing any more.
const PULSES_MOST: usize = 32;
/// The pause before the next try.
const PAUSE: Duration = Duration::from_millis(200);

/// The channel of one replica.
pub(super) struct Channel {
    pub(super) line: Arc<Line>,
    pub(super) hot: Arc<Hot>,
    pub(super) metrics: StoreMetrics,
    /// The channel name for news.
    pub(super) news: String,
    /// The channel name for this replica's pulses.
    pub(super) pulse: String,
    /// Our own number, so that we do not read our own changes again.
    pub(super) replica: u64,
    /// The pulses that were sent and not received yet.
    pub(super) pulses: Arc<Pulses>,
}

/// Pulses under way: the unguessable name of each, and when it was sent.
#[derive(Default)]
pub(super) struct Pulses(Mutex<VecDeque<([u8; 16], u64)>>);

impl Pulses {
    /// Records a pulse sent now, and returns its text; `None` if there is no randomness.
    fn send(&self, now: u64) -> Option<String> {
        let name = seal::random::<16>().ok()?;
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() >= PULSES_MOST {
            sent.pop_front();
        }
        sent.push_back((name, now));
        Some(names::hex(&name))
    }

    /// When the pulse with this text was sent; `None` if we did not send it, or received it or a later one before.
    fn receive(&self, text: &[u8]) -> Option<u64> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sent.iter().position(|(name, _)| names::hex(name).as_bytes() == text)?;
        sent.drain(..=at).next_back().map(|(_, sent)| sent)
    }
}

/// The session that a message is about; `None` for our own changes and for anything that no replica writes.
fn about(payload: &[u8], ourselves: u64) -> Option<SessionKey> {
    match std::str::from_utf8(payload).ok()?.split_once(':')? {
        ("e", key) => names::read(key),
        ("c", rest) => {
            let (by, key) = rest.split_once(':')?;
            names::read(key).filter(|_| u64::from_str_radix(by, 16) != Ok(ourselves))
        }
        // From a later version.
        _ => None,
    }
}

/// The message that a session has ended.
pub(super) fn ended(key: SessionKey) -> String {
    format!("e:{}", names::hex(&key.0))
}

/// The message that a replica changed a session.
pub(super) fn changed(key: SessionKey, by: u64) -> String {
    format!("c:{by:016x}:{}", names::hex(&key.0))
}

impl Channel {
    /// Listens; never returns.
    pub(super) async fn listen(self) {
        let mut was_logged = false;
        loop {
            let why = match self.subscribe().await {
                Ok((stream, unreceived, generation)) => {
                    self.hot.subscribed();
                    self.metrics.channel.set(1);
                    if std::mem::take(&mut was_logged) {
                        tracing::info!("news of ended sessions comes through again");
                    }
                    let why = self.receive_messages(stream, &unreceived, generation).await;
                    self.metrics.channel.set(0);
                    why
                }
                Err(why) => Some(why),
            };
            let Some(why) = why.filter(|_| self.line.link().is_some()) else {
                // The line logs this itself; do not log it twice.
                let mut up = self.line.watch();
                let _ = up.wait_for(|generation| *generation != 0).await;
                continue;
            };
            if !std::mem::replace(&mut was_logged, true) {
                tracing::warn!(
                    "news of ended sessions does not come through ({why}): sessions in memory count for SESSION_CACHE_TTL at most"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Subscribes at the link's node, or in a cluster at any that responds.
    async fn subscribe(&self) -> Result<(PubSubStream, Arc<AtomicUsize>, u64), String> {
        let link = self.line.link().ok_or("the store is away")?;
        let nodes = match &link.node {
            Some(node) => vec![node.clone()],
            None => link.map.load().nodes(),
        };
        let mut failures = Vec::new();
        for node in nodes {
            let subscribed = async {
                let (listener, unreceived) = self.line.dialer.listener(&node).await?;
                let (mut sink, stream) = listener.split();
                sink.subscribe(&[self.news.as_str(), self.pulse.as_str()]).await?;
                Ok((stream, unreceived))
            };
            match within(self.line.dialer.timeout * 2, subscribed).await {
                Ok((stream, unreceived)) => return Ok((stream, unreceived, link.generation)),
                Err(error) => failures.push(format!("{node}: {}", describe(&error))),
            }
        }
        Err(failures.join("; "))
    }

    /// Receives messages until the stream ends, and returns why it ended; `None`: the store is on another connection.
    async fn receive_messages(
        &self,
        mut stream: PubSubStream,
        unreceived: &AtomicUsize,
        generation: u64,
    ) -> Option<String> {
        let mut up = self.line.watch();
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => {
                        unreceived.store(0, Ordering::Relaxed);
                        self.take(message.get_channel_name(), message.get_payload_bytes());
                    }
                    None => return Some("the connection ended".to_owned()),
                },
                _ = pulse.tick() => {
                    if self.hot.silence() > SILENCE_MOST {
                        return Some("it is silent".to_owned());
                    }
                    self.send_pulse();
                }
                _ = up.wait_for(|now| *now != 0 && *now != generation) => return None,
            }
        }
    }

    /// Sends ourselves a pulse: receiving it proves that all earlier messages have arrived, in a cluster those of one master.
    fn send_pulse(&self) {
        let Some(text) = self.pulses.send(self.hot.now()) else { return };
        let (line, channel) = (Arc::clone(&self.line), self.pulse.clone());
        tokio::spawn(async move {
            let mut cmd = redis::cmd("PUBLISH");
            cmd.arg(channel).arg(text);
            let Ok(link) = line.link_or_refuse() else { return };
            let mut conn = link.conn.clone();
            let published = async {
                match &mut conn {
                    Conn::Node(_) => conn.run(&cmd).await,
                    // Through every master, so that one that is down does not silence the channel.
                    Conn::Cluster(cluster) => {
                        let masters = (MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::OneSucceeded));
                        cluster.route_command(cmd.clone(), RoutingInfo::MultiNode(masters)).await
                    }
                }
            };
            let outcome = within(line.dialer.timeout, published).await;
            let _ = line.record_outcome(&link, outcome);
        });
    }

    fn take(&self, channel: &str, payload: &[u8]) {
        if channel == self.pulse {
            if let Some(sent) = self.pulses.receive(payload) {
                self.hot.proven(sent);
            }
        } else if let Some(key) = about(payload, self.replica) {
            // A message does not end a session: the store itself is asked at its next use.
            self.hot.change(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: SessionKey = SessionKey([0xa5; 32]);

    #[test]
    fn only_pulses_that_we_have_sent_prove_anything_and_each_once() {
        let pulses = Pulses::default();
        let (one, two) = (pulses.send(100).unwrap(), pulses.send(400).unwrap());
        let forged = ["", "400", "18446744073709551615", &"0".repeat(32), &two.to_uppercase()];
        for text in forged.into_iter().filter(|text| **text != two) {
            assert_eq!(pulses.receive(text.as_bytes()), None, "{text}");
        }
        assert_eq!(pulses.receive(two.as_bytes()), Some(400));
        assert_eq!(pulses.receive(two.as_bytes()), None, "published once more by somebody else");
        assert_eq!(pulses.receive(one.as_bytes()), None, "an older one proves nothing more");
    }

    #[test]
    fn pulses_that_are_never_received_take_bounded_memory() {
        let pulses = Pulses::default();
        let first = pulses.send(1).unwrap();
        for at in 0..1000 {
            pulses.send(at).unwrap();
        }
        assert_eq!(pulses.0.lock().unwrap().len(), PULSES_MOST);
        assert_eq!(pulses.receive(first.as_bytes()), None);
    }

    #[test]
    fn news_names_a_session_and_our_own_is_no_news() {
        assert_eq!(about(ended(KEY).as_bytes(), 1), Some(KEY));
        assert_eq!(about(changed(KEY, 2).as_bytes(), 1), Some(KEY));
        assert_eq!(about(changed(KEY, 1).as_bytes(), 1), None);
        for odd in ["", "e", "e:", "e:zz", "c:1", "c:1:", "x:1", "e:\u{e9}", &format!("e:{}0", names::hex(&KEY.0))] {
            assert_eq!(about(odd.as_bytes(), 1), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_published_is_read_or_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let pulses = Pulses::default();
            pulses.send(1).unwrap();
            prop_assert_eq!(pulses.receive(&bytes), None);
            let _ = about(&bytes, 1);
        }
    }
}
