//! The link to Redis: one connection for all calls, kept up by one task, and a circuit breaker for when the store is down.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};

use super::cluster::ClusterMap;
use super::dial::{Conn, Dialer, late, within};
use super::scripts;
use super::sentinel::{self, Replication};
use super::settings::{Host, Layout};
use crate::adapters::telemetry::{Clean, StoreMetrics};
use crate::ports::StoreUnavailable;

/// After this many failures in a row no call is made until a probe succeeds.
const FAILURES_MOST: u32 = 3;
/// The first and the last of the growing pauses between probes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A failover takes sentinels and nodes about a second: while waiting for its end, probe more often.
const FAILOVER_PAUSE: Duration = Duration::from_millis(300);
/// A link that breaks this soon is followed by a pause, or the store would be connected to as fast as requests come.
const BRIEF: Duration = Duration::from_secs(5);
/// How often it is logged that such links break, one after the other.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// How often to check whether the node is still the master, and which replicas it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The line to the store.
pub(super) struct Line {
    pub(super) dialer: Arc<Dialer>,
    /// The key that a probe writes and that expires at once.
    probe: String,
    link: ArcSwapOption<Link>,
    /// The generation of the link; 0 if there is none.
    up: watch::Sender<u64>,
    /// Whether connecting was tried, successfully or not.
    tried: watch::Sender<bool>,
    broken: Notify,
    generations: AtomicU64,
    /// Why there is no link.
    why: Mutex<String>,
    metrics: StoreMetrics,
}

/// A working connection.
pub(super) struct Link {
    pub(super) conn: Conn,
    /// Distinguishes the link from earlier ones.
    pub(super) generation: u64,
    /// The node; `None` in a cluster, where the map names the nodes.
    pub(super) node: Option<Host>,
    /// For a single node: how many replicas are connected.
    replicas: AtomicUsize,
    pub(super) map: ArcSwap<ClusterMap>,
    /// The cluster's masters when the link was made.
    masters: HashSet<Host>,
    /// How many calls in a row failed.
    failures: AtomicU32,
    /// Whether a call failed since the link was last looked at.
    has_failed: AtomicBool,
}

impl Link {
    /// How many replicas receive what is written under `key`.
    pub(super) fn replicas(&self, key: &str) -> usize {
        match self.conn {
            Conn::Node(_) => self.replicas.load(Ordering::Relaxed),
            Conn::Cluster(_) => self.map.load().replicas(key),
        }
    }
}

impl Line {
    pub(super) fn new(dialer: Dialer, probe: String, metrics: StoreMetrics) -> Self {
        Self {
            dialer: Arc::new(dialer),
            probe,
            link: ArcSwapOption::empty(),
            up: watch::Sender::new(0),
            tried: watch::Sender::new(false),
            broken: Notify::new(),
            generations: AtomicU64::new(0),
            why: Mutex::new("it has not been reached yet".to_owned()),
            metrics,
        }
    }

    /// The current link, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    /// Watches the link: the generation of each new one, and 0 when there is none.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.up.subscribe()
    }

    /// Waits until connecting was tried once.
    pub(super) async fn tried(&self) {
        let mut tried = self.tried.subscribe();
        // Fails only if the sender is dropped, which `self` owns.
        let _ended = tried.wait_for(|tried| *tried).await;
    }

    /// Runs a command within the deadline; returns nil if a key has another type. Fails at once while the store is known to be down.
    pub(super) async fn call(&self, cmd: &Cmd) -> Result<Value, StoreUnavailable> {
        let link = self.first_link_or_refuse().await?;
        let mut conn = link.conn.clone();
        let outcome = within(self.dialer.timeout, conn.run(cmd)).await;
        // Another program's value under a key is no failure of the store: there is nothing of ours.
        let outcome = if outcome.as_ref().is_err_and(|error| error.code() == Some("WRONGTYPE")) {
            Ok(Value::Nil)
        } else {
            outcome
        };
        self.record_outcome(&link, outcome)
    }

    /// Runs commands in order on the node that holds `key`, within the deadline.
    pub(super) async fn call_all(&self, key: &str, pipeline: Pipeline) -> Result<Vec<Value>, StoreUnavailable> {
        let link = self.first_link_or_refuse().await?;
        let mut conn = link.conn.clone();
        let outcome = within(self.dialer.timeout, conn.run_all(key, pipeline)).await;
        self.record_outcome(&link, outcome)
    }

    /// Returns the link, and waits for the first one as long as a call may take: a load balancer without readiness checks sends
    /// requests as soon as the listener is open.
    pub(super) async fn first_link_or_refuse(&self) -> Result<Arc<Link>, StoreUnavailable> {
        if !*self.tried.borrow() {
            let _late = tokio::time::timeout(self.dialer.timeout, self.tried()).await;
        }
        self.link_or_refuse()
    }

    pub(super) fn link_or_refuse(&self) -> Result<Arc<Link>, StoreUnavailable> {
        self.link().ok_or_else(|| {
            self.metrics.refused.inc();
            StoreUnavailable(self.why())
        })
    }

    /// Records the outcome of a call. A permanent failure, or several in a row, breaks the link to a node.
    pub(super) fn record_outcome<T>(&self, link: &Link, outcome: RedisResult<T>) -> Result<T, StoreUnavailable> {
        match outcome {
            Ok(value) => {
                self.metrics.succeeded.inc();
                if link.failures.load(Ordering::Relaxed) != 0 {
                    link.failures.store(0, Ordering::Relaxed);
                }
                Ok(value)
            }
            Err(error) => {
                self.metrics.failed.inc();
                let failures = link.failures.fetch_add(1, Ordering::Relaxed) + 1;
                link.has_failed.store(true, Ordering::Relaxed);
                let why = describe(&error);
                tracing::debug!("a call to the session store failed: {why}");
                if breaks(&error, failures, matches!(link.conn, Conn::Cluster(_))) {
                    self.break_off(link, &why);
                }
                Err(StoreUnavailable(why))
            }
        }
    }

    /// Makes it the current link. As [`Line::break_off`], one at a time: what `up` says is true of the link.
    fn put_up(&self, link: &Arc<Link>) {
        let _alone = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        self.link.store(Some(Arc::clone(link)));
        self.up.send_replace(link.generation);
    }

    fn break_off(&self, link: &Link, why: &str) {
        // One at a time, and all of it before the notification that a new link follows: else that one would be taken for broken.
        let mut told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if self.link.load().as_ref().is_some_and(|ours| ours.generation == link.generation) {
            self.link.store(None);
            self.up.send_replace(0);
            why.clone_into(&mut told);
            self.broken.notify_one();
        }
    }

    /// Why the store is unavailable; `None` if it is available.
    pub(super) fn trouble(&self) -> Option<String> {
        self.link.load().is_none().then(|| format!("{}: {}", self.dialer.place.shown(), self.why()))
    }

    fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a link up; never returns.
    pub(super) async fn keep_up(self: Arc<Self>) {
        let shown = self.dialer.place.shown();
        let (first, last) = PAUSES;
        let last = if matches!(self.dialer.place.layout, Layout::Single) { last } else { FAILOVER_PAUSE };
        let (mut pause, mut was_logged, mut was_brief) = (first, false, false);
        let mut last_logged: Option<Instant> = None;
        loop {
            match self.connect().await {
                Ok(link) => {
                    let link = Arc::new(link);
                    // After one that broke soon, it is logged once it has lasted.
                    if !was_brief {
                        self.log_reachable(&link);
                    }
                    self.put_up(&link);
                    self.metrics.reachable.set(1);
                    self.tried.send_replace(true);
                    let mut monitored = pin!(self.monitor(&link));
                    let is_brief = tokio::time::timeout(BRIEF, monitored.as_mut()).await.is_ok();
                    if !is_brief {
                        if was_brief {
                            self.log_reachable(&link);
                        }
                        monitored.await;
                    }
                    self.metrics.reachable.set(0);
                    let is_repeated = was_brief && is_brief;
                    if !is_repeated || last_logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                        last_logged = Some(Instant::now());
                        tracing::error!(
                            "the session store {shown} is away ({}): who is not in memory gets 503, nobody is signed out",
                            self.why()
                        );
                    }
                    was_logged = true;
                    was_brief = is_brief;
                    if is_brief {
                        tokio::time::sleep(jittered(pause)).await;
                        pause = (pause * 2).min(last);
                    } else {
                        pause = first;
                    }
                }
                Err(why) => {
                    why.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
                    self.tried.send_replace(true);
                    if !std::mem::replace(&mut was_logged, true) {
                        tracing::error!("the session store {shown} cannot be reached, and is tried again: {why}");
                    }
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(last);
                }
            }
        }
    }

    fn log_reachable(&self, link: &Link) {
        tracing::info!(
            node = link.node.as_ref().map(ToString::to_string),
            "the session store {} is reachable",
            self.dialer.place.shown()
        );
    }

    /// Watches over the link until it is broken off.
    async fn monitor(&self, link: &Arc<Link>) {
        loop {
            tokio::select! {
                () = self.broken.notified() => {
                    if self.link.load().is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Err(why) = self.look(link).await {
                        self.break_off(link, &why);
                    }
                }
            }
        }
    }

    /// Checks that the node is still the master, by its own account and the sentinels'. Being a call like any other, it also detects an
    /// idle store that goes down.
    async fn look(&self, link: &Link) -> Result<(), String> {
        let mut conn = link.conn.clone();
        if let Conn::Cluster(_) = conn {
            return self.look_at_cluster(link, &mut conn).await;
        }
        let answer = within(self.dialer.timeout, conn.run(&sentinel::ask_replication())).await;
        if let Ok(answer) = self.record_outcome(link, answer) {
            let replication = Replication::of(answer);
            if !replication.is_master {
                return Err("it has become a replica".to_owned());
            }
            link.replicas.store(replication.replicas, Ordering::Relaxed);
        }
        if let Layout::Sentinel { master, password } = &self.dialer.place.layout
            && let Ok(named) = sentinel::named(&self.dialer, master, password.as_ref()).await
            && let Some((host, count)) = named.first()
            && count * 2 > self.dialer.place.hosts.len()
            && link.node.as_ref() != Some(host)
            // Sentinels that do not know of a failover yet name the old master, which is dead, or a replica by now.
            && self.reach(host).await.is_ok()
        {
            return Err(format!("most sentinels name another master, {host}"));
        }
        Ok(())
    }

    /// Reads the cluster's map. It can be had from any node: a link through which it cannot, and nothing else either, is of no use.
    async fn look_at_cluster(&self, link: &Link, conn: &mut Conn) -> Result<(), String> {
        let has_failed = link.has_failed.swap(false, Ordering::Relaxed);
        let mut why = String::new();
        for _ in 0..FAILURES_MOST {
            let answer = self.ask_map(conn).await;
            match self.record_outcome(link, answer) {
                Ok(answer) => {
                    let map = ClusterMap::read(answer);
                    let before = link.map.swap(Arc::new(map));
                    let is_stale = has_failed && has_other_masters(&link.masters, &before, &link.map.load());
                    return if is_stale { Err("the cluster has other masters".to_owned()) } else { Ok(()) };
                }
                Err(unavailable) => why = unavailable.0,
            }
            if self.link.load().is_none() {
                return Ok(());
            }
        }
        if link.failures.load(Ordering::Relaxed) >= FAILURES_MOST { Err(why) } else { Ok(()) }
    }

    /// Connects.
    async fn connect(&self) -> Result<Link, String> {
        let dialer = &self.dialer;
        let candidates = match &dialer.place.layout {
            Layout::Cluster => return self.reach_cluster().await,
            Layout::Single => dialer.place.hosts.clone(),
            Layout::Sentinel { master, password } => {
                // Two sentinels may each have begun a failover, and writes to the losing one's master are lost: only a master that most
                // sentinels name is used.
                let named = sentinel::named(dialer, master, password.as_ref()).await?;
                let agreed = named.into_iter().find(|(_, count)| count * 2 > dialer.place.hosts.len());
                vec![agreed.ok_or("the sentinels do not agree who is the master")?.0]
            }
        };
        let mut failures = Vec::new();
        for host in candidates {
            match self.reach(&host).await {
                Ok((conn, replication)) => {
                    return Ok(self.linked(conn, Some(host), replication.replicas, ClusterMap::default()));
                }
                Err(why) => failures.push(format!("{host}: {why}")),
            }
        }
        Err(failures.join("; "))
    }

    /// Connects to a node, and checks that it is a master and supports what sessions need.
    async fn reach(&self, host: &Host) -> Result<(Conn, Replication), String> {
        let dialer = &self.dialer;
        let mut conn = dialer.node(host).await.map_err(|error| describe(&error))?;
        let answer = within(dialer.timeout, conn.run(&sentinel::ask_replication())).await;
        let replication = Replication::of(answer.map_err(|error| describe(&error))?);
        if !replication.is_master {
            return Err("it is a replica: name the master, or the sentinels (redis-sentinel://)".to_owned());
        }
        self.try_out(&mut conn).await?;
        Ok((conn, replication))
    }

    async fn reach_cluster(&self) -> Result<Link, String> {
        let mut conn = self.dialer.cluster().await.map_err(|error| describe(&error))?;
        self.try_out(&mut conn).await?;
        let map = ClusterMap::read(self.ask_map(&mut conn).await.map_err(|error| describe(&error))?);
        Ok(self.linked(conn, None, 0, map))
    }

    /// Writes a probe, to detect a server that is full or refuses our commands.
    async fn try_out(&self, conn: &mut Conn) -> Result<(), String> {
        let probe = scripts::keep(&self.probe, b"", 0, 1);
        within(self.dialer.timeout * 2, conn.run(&probe)).await.map(|_| ()).map_err(|error| describe(&error))
    }

    fn linked(&self, conn: Conn, node: Option<Host>, replicas: usize, map: ClusterMap) -> Link {
        Link {
            conn,
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            node,
            replicas: AtomicUsize::new(replicas),
            masters: map.masters().into_iter().collect(),
            map: ArcSwap::from_pointee(map),
            failures: AtomicU32::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    async fn ask_map(&self, conn: &mut Conn) -> RedisResult<Value> {
        let Conn::Cluster(cluster) = conn else { return Err(late()) };
        use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg("SLOTS");
        let anybody = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        within(self.dialer.timeout, cluster.route_command(cmd, anybody)).await
    }
}

/// Whether a cluster has other masters than when it was connected to, by its last two maps: one may be from a node that knows less than the
/// others. The client does not notice by itself that a master that went silent was replaced.
fn has_other_masters(at_first: &HashSet<Host>, before: &ClusterMap, now: &ClusterMap) -> bool {
    let set = |map: &ClusterMap| map.masters().into_iter().collect::<HashSet<Host>>();
    set(now) != *at_first && set(now) == set(before)
}

/// Whether a call's failure, as the last of so many in a row, breaks the link. In a cluster it may be that of one master, which says nothing
/// of the others, and the client repairs its own connections: unless a node says that the whole cluster is down, only
/// [`Line::look_at_cluster`] decides.
fn breaks(error: &RedisError, failures: u32, is_cluster: bool) -> bool {
    let are_too_many = failures >= FAILURES_MOST;
    if is_cluster {
        // The same kind of error says that one slot has no master.
        let is_down = error.detail().is_some_and(|detail| detail.starts_with("The cluster is down"));
        return are_too_many && is_down && error.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown);
    }
    are_too_many
        || error.is_connection_dropped()
        || error.is_unrecoverable_error() && !error.is_timeout()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

/// Formats an error in one clean line, with advice for the common ones.
pub(super) fn describe(error: &RedisError) -> String {
    let text = error.to_string();
    let fix = if sentinel::lacks_password(error) {
        "; check user and password in SESSION_REDIS_URL"
    } else if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        "; the ACL user needs more rights, docs/sessions.md lists them"
    } else if text.contains("refused to switch database") {
        "; check the number of the database in SESSION_REDIS_URL, and that the ACL user has the right to `select`"
    } else {
        ""
    };
    format!("{}{fix}", Clean(&text))
}

/// Returns between half and all of a pause, so that replicas do not retry all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use redis::RedisConnectionInfo;

    use super::*;
    use crate::adapters::stores::redis::settings::{RedisPlace, RedisSettings};

    fn line() -> Line {
        let hosts = vec![Host { name: "127.0.0.1".to_owned(), port: 1 }];
        let layout = Layout::Single;
        let settings = RedisSettings {
            place: RedisPlace { layout, hosts, tls: false, user: None, password: None, database: 0 },
            prefix: String::new(),
            roots: Vec::new(),
            timeout: Duration::from_secs(1),
            cache_ttl: Duration::from_secs(10),
            memory_bytes: 0,
        };
        Line::new(Dialer::new(&settings).unwrap(), String::new(), StoreMetrics::default())
    }

    /// A link over which nothing is sent.
    async fn link(line: &Line) -> Arc<Link> {
        let (near, _) = tokio::io::duplex(1);
        let user = RedisConnectionInfo::default().set_skip_set_lib_name();
        let conn = super::super::dial::node_over(Box::new(near), &user).await.unwrap();
        Arc::new(line.linked(conn, None, 0, ClusterMap::default()))
    }

    fn answer(text: &str) -> RedisError {
        redis::parse_redis_value(text.as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[tokio::test]
    async fn failures_of_an_earlier_link_do_not_count_against_the_present_one() {
        let line = line();
        let (earlier, present) = (link(&line).await, link(&line).await);
        line.link.store(Some(Arc::clone(&present)));
        for _ in 0..FAILURES_MOST * 2 {
            assert!(line.record_outcome::<()>(&earlier, Err(late())).is_err());
        }
        assert!(line.record_outcome::<()>(&present, Err(late())).is_err());
        assert!(line.link().is_some(), "it failed once");
        assert!(line.record_outcome(&present, Ok(())).is_ok());
        for _ in 0..FAILURES_MOST {
            assert!(line.link().is_some());
            assert!(line.record_outcome::<()>(&present, Err(late())).is_err());
        }
        assert!(line.link().is_none(), "it failed several times in a row");
    }

    #[test]
    fn in_a_cluster_failures_break_the_link_only_where_the_whole_cluster_is_down() {
        let down = answer("-CLUSTERDOWN The cluster is down\r\n");
        let aborted = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
        let unserved = answer("-CLUSTERDOWN Hash slot not served\r\n");
        assert!(!breaks(&unserved, FAILURES_MOST, true));
        for error in [late(), aborted, answer("-NOPERM no permissions to run the 'hmget' command\r\n")] {
            assert!(!breaks(&error, FAILURES_MOST, true), "{error}");
            assert!(breaks(&error, FAILURES_MOST, false), "{error}");
        }
        assert!(breaks(&down, FAILURES_MOST, true) && !breaks(&down, FAILURES_MOST - 1, true));
    }

    #[test]
    fn a_clusters_masters_are_others_once_two_maps_say_so() {
        let map = |ports: &[i64]| {
            let node = |port: &i64| Value::Array(vec![Value::BulkString(b"127.0.0.1".to_vec()), Value::Int(*port)]);
            let range = |port| Value::Array(vec![Value::Int(0), Value::Int(9), node(port)]);
            ClusterMap::read(Value::Array(ports.iter().map(range).collect()))
        };
        let at_first = map(&[1, 2]).masters().into_iter().collect();
        assert!(!has_other_masters(&at_first, &map(&[2, 1]), &map(&[1, 2])));
        assert!(!has_other_masters(&at_first, &map(&[1, 2]), &map(&[1, 3])), "the first that says so");
        assert!(has_other_masters(&at_first, &map(&[3, 1]), &map(&[1, 3])));
        assert!(!has_other_masters(&at_first, &map(&[1, 3]), &map(&[1, 2])), "it was a node that did not know better");
    }

    #[test]
    fn a_refusal_names_its_mend() {
        let refused = |detail: &str| {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            RedisError::from((kind, "Redis server refused to switch database", detail.to_owned()))
        };
        let wrong = RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed"));
        for error in [wrong, answer("-NOAUTH Authentication required.\r\n"), refused("Authentication required.")] {
            assert!(describe(&error).ends_with("; check user and password in SESSION_REDIS_URL"), "{error}");
        }
        let denied = refused("User ann has no permissions to run the 'select' command");
        assert!(describe(&denied).ends_with("has the right to `select`"), "{}", describe(&denied));
        assert!(describe(&answer("-NOPERM no permissions\r\n")).contains("docs/sessions.md"));
        assert!(!describe(&answer("-ERR unknown command\r\n")).contains(';'));
    }
}
