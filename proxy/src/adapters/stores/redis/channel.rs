//! The channel that tells every replica which sessions ended or changed, and the pulse that proves it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSubStream;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};

use super::dial::{Conn, within};
use super::hot::Hot;
use super::line::{Line, say};
use super::names;
use crate::adapters::telemetry::StoreMetrics;
use crate::domain::session::SessionKey;

/// How often a replica tells itself something.
const PULSE: Duration = Duration::from_millis(300);
/// Not hearing oneself for so long means that news does not come through.
pub(super) const SILENCE_MOST: Duration = Duration::from_secs(1);
/// The pause before another try.
const PAUSE: Duration = Duration::from_millis(200);

/// What a replica listens to.
pub(super) struct Channel {
    pub(super) line: Arc<Line>,
    pub(super) hot: Arc<Hot>,
    pub(super) metrics: StoreMetrics,
    /// Where news is told.
    pub(super) news: String,
    /// Where only we are heard.
    pub(super) pulse: String,
    /// Who we are, so that our own changes are not read again.
    pub(super) replica: u64,
}

/// A session has ended.
pub(super) fn ended(key: SessionKey) -> String {
    format!("e:{}", names::hex(&key.0))
}

/// A session was changed by a replica.
pub(super) fn changed(key: SessionKey, by: u64) -> String {
    format!("c:{by:016x}:{}", names::hex(&key.0))
}

impl Channel {
    /// Listens; for ever.
    pub(super) async fn listen(self) {
        let mut told = false;
        loop {
            let outcome = self.subscribe().await;
            let why = match outcome {
                Ok((stream, generation)) => {
                    self.hot.subscribed();
                    self.metrics.channel.set(1);
                    if std::mem::take(&mut told) {
                        tracing::info!("news of ended sessions comes through again");
                    }
                    let why = self.hear(stream, generation).await;
                    self.metrics.channel.set(0);
                    why
                }
                Err(why) => why,
            };
            if self.line.link().is_none() {
                // The line says so itself; here it would be said twice.
                let mut up = self.line.watch();
                let _ = up.wait_for(|generation| *generation != 0).await;
                continue;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "news of ended sessions does not come through ({why}): sessions in memory count for SESSION_CACHE_TTL at most"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Subscribes at the node of the link, in a cluster at any that answers.
    async fn subscribe(&self) -> Result<(PubSubStream, u64), String> {
        let link = self.line.link().ok_or("the store is away")?;
        let nodes = match &link.node {
            Some(node) => vec![node.clone()],
            None => link.map.load().nodes(),
        };
        let mut failures = Vec::new();
        for node in nodes {
            let subscribed = async {
                let (mut sink, stream) = self.line.dialer.listener(&node).await?.split();
                sink.subscribe(&[self.news.as_str(), self.pulse.as_str()]).await?;
                Ok(stream)
            };
            match within(self.line.dialer.timeout * 2, subscribed).await {
                Ok(stream) => return Ok((stream, link.generation)),
                Err(error) => failures.push(format!("{node}: {}", say(&error))),
            }
        }
        Err(failures.join("; "))
    }

    /// Hears what comes until it ends, and says why it did.
    async fn hear(&self, mut stream: PubSubStream, generation: u64) -> String {
        let mut up = self.line.watch();
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.take(message.get_channel_name(), message.get_payload_bytes()),
                    None => return "the connection ended".to_owned(),
                },
                _ = pulse.tick() => {
                    if self.hot.silence() > SILENCE_MOST {
                        return "it is silent".to_owned();
                    }
                    self.beat();
                }
                changed = up.wait_for(|now| *now != 0 && *now != generation) => {
                    let _ = changed;
                    return "the store is on another connection".to_owned();
                }
            }
        }
    }

    /// Tells ourselves the time; what we hear of it later proves all that was told before it.
    fn beat(&self) {
        let (line, channel, now) = (Arc::clone(&self.line), self.pulse.clone(), self.hot.now());
        tokio::spawn(async move {
            let mut cmd = redis::cmd("PUBLISH");
            cmd.arg(channel).arg(now);
            let Ok(link) = line.link_or_refuse() else { return };
            let mut conn = link.conn.clone();
            let published = async {
                match &mut conn {
                    Conn::Node(_) => conn.run(&cmd).await,
                    // By every master: news comes from the one that has the session.
                    Conn::Cluster(cluster) => {
                        let masters = (MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::OneSucceeded));
                        cluster.route_command(cmd.clone(), RoutingInfo::MultiNode(masters)).await
                    }
                }
            };
            let outcome = within(line.dialer.timeout, published).await;
            let _ = line.settle(&link, outcome);
        });
    }

    fn take(&self, channel: &str, payload: &[u8]) {
        let Ok(text) = std::str::from_utf8(payload) else { return };
        if channel == self.pulse {
            if let Ok(at) = text.parse() {
                self.hot.proven(at);
            }
            return;
        }
        match text.split_once(':') {
            Some(("e", key)) => {
                if let Some(key) = names::read(key) {
                    self.hot.end(key);
                }
            }
            Some(("c", rest)) => {
                let Some((by, key)) = rest.split_once(':') else { return };
                if let Some(key) = names::read(key)
                    && u64::from_str_radix(by, 16) != Ok(self.replica)
                {
                    self.hot.change(key);
                }
            }
            // Of a later version.
            Some(_) | None => {}
        }
    }
}
