//! Finds the current master, by what the sentinels and the node itself say.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};
use tokio::task::JoinSet;

use super::dial::{Dialer, within};
use super::settings::Host;
use crate::adapters::telemetry::Clean;
use crate::domain::secret::Secret;

/// Asks all sentinels concurrently, so that dead ones cost no time; returns the masters that they name, the one named most first. After a
/// failover they learn of it one after the other.
pub(super) async fn named(
    dialer: &Arc<Dialer>,
    name: &str,
    password: Option<&Secret>,
) -> Result<Vec<(Host, usize)>, String> {
    let mut asked = JoinSet::new();
    for host in dialer.place.hosts.clone() {
        let (dialer, name, password) = (Arc::clone(dialer), name.to_owned(), password.cloned());
        asked.spawn(async move {
            let outcome = ask(&dialer, &host, &name, password.as_ref()).await;
            outcome.map_err(|why| format!("{host}: {why}"))
        });
    }
    let (mut votes, mut failures) = (HashMap::<Host, usize>::new(), Vec::new());
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(host)) => *votes.entry(host).or_default() += 1,
            Ok(Err(why)) => failures.push(why),
            Err(_) => {}
        }
    }
    if votes.is_empty() {
        return Err(format!("no sentinel names the master: {}", failures.join("; ")));
    }
    let mut named: Vec<(Host, usize)> = votes.into_iter().collect();
    named.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(named)
}

async fn ask(dialer: &Dialer, host: &Host, name: &str, password: Option<&Secret>) -> Result<Host, String> {
    let mut cmd = redis::cmd("SENTINEL");
    cmd.arg("get-master-addr-by-name").arg(name);
    let answer = within(dialer.timeout, async { dialer.sentinel(host, password).await?.run(&cmd).await }).await;
    let answer = answer.map_err(|error| describe(&error))?;
    match redis::from_redis_value::<Option<(String, u16)>>(answer) {
        Ok(Some((name, port))) => Ok(Host { name, port }),
        Ok(None) => Err(format!("it knows no master `{name}`")),
        Err(_) => Err("it does not answer as a sentinel does".to_owned()),
    }
}

/// Formats a sentinel's error in one clean line.
fn describe(error: &RedisError) -> String {
    let fix = if lacks_password(error) { "; check SESSION_REDIS_SENTINEL_PASSWORD" } else { "" };
    format!("{}{fix}", Clean(&error.to_string()))
}

/// Whether a server refuses us for our password, or for the lack of one.
pub(super) fn lacks_password(error: &RedisError) -> bool {
    // Where the first command of a connection is `SELECT`, the client reports only the text of its refusal.
    let is_unauthenticated = error.detail().is_some_and(|detail| detail.starts_with("Authentication required"));
    error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH") || is_unauthenticated
}

/// The command that asks a node for its role.
pub(super) fn ask_replication() -> redis::Cmd {
    let mut cmd = redis::cmd("INFO");
    cmd.arg("replication");
    cmd
}

/// A node's description of itself (`INFO replication`): whether it is a master, and how many replicas are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) is_master: bool,
    pub(super) replicas: usize,
}

/// How old a replica's last progress report may be, in seconds, for it to count; each replica reports once a second.
const LAG_MOST: u64 = 3;

impl Replication {
    /// Reads the reply; anything that is not such a text counts as no master.
    pub(super) fn of(answer: redis::Value) -> Self {
        Self::read(&redis::from_redis_value::<String>(answer).unwrap_or_default())
    }

    fn read(info: &str) -> Self {
        let lines = || info.lines().filter_map(|line| line.trim_end().split_once(':'));
        let is_master = lines().any(|(name, value)| name == "role" && value == "master");
        let replicas = lines().filter(|(name, value)| {
            let numbered = name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok());
            let field = |name: &str| value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            let lag = field("lag").and_then(|lag| lag.parse::<u64>().ok());
            numbered && field("state") == Some("online") && lag.is_some_and(|lag| lag <= LAG_MOST)
        });
        Self { is_master, replicas: replicas.count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_that_wants_a_password_or_another_one_names_its_setting() {
        let unauthenticated = redis::parse_redis_value(b"-NOAUTH Authentication required.\r\n").unwrap();
        let wrong = RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed"));
        for error in [unauthenticated.extract_error().unwrap_err(), wrong] {
            assert!(describe(&error).ends_with("; check SESSION_REDIS_SENTINEL_PASSWORD"), "{}", describe(&error));
        }
        let other = redis::parse_redis_value(b"-ERR unknown command\r\n").unwrap().extract_error().unwrap_err();
        assert!(!describe(&other).contains("SESSION_REDIS"));
    }

    #[test]
    fn replicas_count_while_they_answer() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
            slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0\r\n\
            slave1:ip=127.0.0.1,port=6381,state=online,offset=14,lag=17\r\n\
            slave2:ip=127.0.0.1,port=6382,state=wait_bgsave,offset=0,lag=0\r\nslave_read_only:1\r\n";
        assert_eq!(Replication::read(info), Replication { is_master: true, replicas: 1 });
        assert_eq!(
            Replication::read("role:slave\r\nmaster_host:127.0.0.1\r\n"),
            Replication { is_master: false, replicas: 0 }
        );
    }
}
