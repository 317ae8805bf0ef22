//! Lists and ends users' sessions for operators, in a separate process, with a shared store.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use zeroize::Zeroizing;

use crate::adapters::stores::redis::RedisStore;
use crate::adapters::stores::{StoreSettings, public_id};
use crate::adapters::telemetry::{Clean, Metrics, audit};
use crate::domain::browser;
use crate::domain::identity::{Identified as _, Identity};
use crate::domain::policy::AllowedUsers;
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, Sessions, StoreTerms};
use crate::serve::auth::ending;
use crate::serve::clock;
use crate::serve::settings::{Mode, Settings, SignInSettings};

/// How long connecting to the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// List sessions.
    List {
        /// Whose; `None`: all users'.
        who: Option<Who>,
        /// Whether to write one JSON object a line, rather than a table.
        json: bool,
    },
    /// End all sessions of a user.
    Revoke {
        /// Whose.
        who: Who,
    },
}

/// The users that an operator names, in the format of `OAUTH_ALLOWED_USERS`: an email, `id:…`, a username; `@domain` and `*` for many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    text: String,
    list: AllowedUsers,
}

impl Who {
    /// One or many users.
    ///
    /// # Errors
    /// If the text could never match a user.
    pub fn any(text: &str) -> Result<Self, String> {
        let text = text.trim().to_owned();
        if text.is_empty() {
            return Err("name somebody: an email, `id:` and the provider's id, or a username".to_owned());
        }
        let list = AllowedUsers::parse([text.as_str()]);
        let list = list.map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        Ok(Self { text, list })
    }

    /// One user.
    ///
    /// # Errors
    /// If the text names many (`@example.com`, `*`), or could never match a user.
    pub fn one(text: &str) -> Result<Self, String> {
        let who = Self::any(text)?;
        if who.text == "*" || who.text.starts_with('@') {
            return Err("name one person: an email, `id:` and the provider's id, or a username".to_owned());
        }
        Ok(who)
    }

    fn is(&self, identity: &Identity) -> bool {
        self.list.lists(identity)
    }
}

/// Runs a command, and returns a sentence about its result. The list is written to `out`.
///
/// # Errors
/// If sessions are not in a store that this process can reach, or the store does not respond.
pub async fn run(task: &Task, settings: Settings, out: &mut (dyn Write + Send)) -> anyhow::Result<String> {
    let Mode::SignIn(sign_in) = settings.mode else {
        bail!("nobody signs in: OAUTH_ENABLED is off");
    };
    let store = open(&sign_in)?;
    store.reach(PATIENCE).await?;
    match task {
        Task::List { who, json } => list(&store, who.as_ref(), *json, out).await,
        Task::Revoke { who } => revoke(store, who).await,
    }
}

/// Calls `seen` with each live session, once.
///
/// # Errors
/// As [`run`].
pub(super) async fn each_session(
    settings: Settings,
    now: Timestamp,
    mut seen: impl FnMut(&LoadedSession) + Send,
) -> anyhow::Result<()> {
    let Mode::SignIn(sign_in) = settings.mode else {
        bail!("nobody signs in: OAUTH_ENABLED is off");
    };
    let store = open(&sign_in)?;
    store.reach(PATIENCE).await?;
    let mut known = HashSet::new();
    let walked = store.all(now, |session| {
        if known.insert(session.key()) {
            seen(&session);
        }
    });
    walked.await.context("not all sessions were looked at: run it again")?;
    Ok(())
}

fn open(settings: &SignInSettings) -> anyhow::Result<Arc<RedisStore>> {
    match &settings.store {
        StoreSettings::Redis(redis) => {
            let terms = StoreTerms {
                idle: settings.lifetime.idle,
                secrets: settings.secrets.iter().map(|secret| Zeroizing::new(secret.0.clone())).collect(),
                cookie_beside: 0,
            };
            RedisStore::open(redis, &terms, &Metrics::new(&[], &[]).store).map_err(anyhow::Error::msg)
        }
        StoreSettings::Memory { .. } => bail!(
            "SESSION_STORE is `memory`: sessions are in the memory of the sidegate that serves, where no other process finds them. To keep \
             somebody out, take them off the allow list, which counts at once when it is read again; to end all sessions, restart \
             that sidegate; for this command, keep sessions in `redis`"
        ),
        StoreSettings::Jwt { .. } => bail!(
            "SESSION_STORE is `jwt`: sessions are in people's browsers only. To keep somebody out, take them off the allow list, which \
             counts at once when it is read again; to end all sessions, replace SESSION_SECRET; for this command, keep sessions in `redis`"
        ),
    }
}

async fn list(
    store: &RedisStore,
    who: Option<&Who>,
    json: bool,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<String> {
    let (mut seen, mut written) = (HashSet::new(), Ok(()));
    if !json {
        written = writeln!(out, "{}", HEADING);
    }
    let walked = store
        .all(clock::now(), |session| {
            let wanted = who.is_none_or(|who| who.is(session.identity()));
            if wanted && written.is_ok() && seen.insert(session.key()) {
                written = if json { writeln!(out, "{}", fields(&session)) } else { writeln!(out, "{}", row(&session)) };
            }
        })
        .await;
    match written {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("the list could not be written")?,
    }
    walked.context("the list is not complete")?;
    Ok(match (seen.len(), who) {
        (1, _) => "1 session".to_owned(),
        (0, Some(who)) => none(who),
        (count, _) => format!("{count} sessions"),
    })
}

const HEADING: &str =
    "ID                                SIGNED IN             LAST SEEN             ADDRESS          USER  BROWSER";

/// Data from browsers and providers is cleaned, so that it cannot control a terminal.
fn row(session: &LoadedSession) -> String {
    let (began, device) = (session.session(), &session.session().device);
    format!(
        "{}  {}  {}  {:<15}  {}  {}",
        public_id(session.key()),
        began.created_at.rfc3339(),
        session.last_seen().rfc3339(),
        device.address.to_canonical().to_string(),
        Clean(session.identity().principal()),
        Clean(&browser(session)),
    )
}

fn fields(session: &LoadedSession) -> serde_json::Value {
    let (began, identity) = (session.session(), session.identity());
    json!({
        "id": public_id(session.key()),
        "user": identity.principal(),
        "user_id": identity.id,
        "email": identity.email_str(),
        "provider": identity.provider.as_str(),
        "created_at": began.created_at.rfc3339(),
        "last_seen": session.last_seen().rfc3339(),
        "expires_at": began.expires_at.rfc3339(),
        "address": began.device.address.to_canonical().to_string(),
        "browser": browser(session),
    })
}

fn browser(session: &LoadedSession) -> String {
    let text = &session.session().device.browser;
    browser::in_words(text).unwrap_or_else(|| text.clone())
}

/// Ends the sessions that it finds; sessions that begin meanwhile stay.
async fn revoke(store: Arc<RedisStore>, who: &Who) -> anyhow::Result<String> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    let walked = store
        .all(clock::now(), |session| {
            if who.is(session.identity()) && seen.insert(session.key()) {
                found.push(session);
            }
        })
        .await;
    let store: Arc<dyn Sessions> = store;
    let ended = ending::end_each(&store, &found).await;
    write_audit_lines(&found);
    walked.context("not all sessions were looked at: run it again")?;
    ended.context("the store did not confirm that all have ended: run it again")?;
    Ok(match found.len() {
        0 => none(who),
        1 => "1 session was ended".to_owned(),
        count => format!("{count} sessions were ended"),
    })
}

fn none(who: &Who) -> String {
    format!(
        "no session of {} (a username counts only where the provider vouches for it; an email and `id:…` always do)",
        Clean(&who.text)
    )
}

/// Writes an audit line for each user.
fn write_audit_lines(ended: &[Arc<LoadedSession>]) {
    let mut people: BTreeMap<&str, (&Identity, usize)> = BTreeMap::new();
    for session in ended {
        people.entry(&session.identity().id).or_insert((session.identity(), 0)).1 += 1;
    }
    for (identity, count) in people.into_values() {
        audit::sessions_ended(identity, count, "an operator revoked them", None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{Email, ProviderKind, Username};

    fn ann() -> Identity {
        Identity {
            provider: ProviderKind::Oidc,
            id: "7".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: "Ann".into(),
            username: Username::Displayed("ann".into()),
            groups: Vec::new(),
            claims: crate::domain::claims::Claims::default(),
        }
    }

    #[test]
    fn a_person_is_named_as_in_the_allow_list() {
        let is = |text: &str| Who::any(text).unwrap().is(&ann());
        assert!(is("ann@example.com") && is("Ann@Example.com") && is("id:7") && is("@example.com") && is("*"));
        assert!(
            !is("ann") && !is("id:8") && !is("7") && !is("bob@example.com"),
            "a name that is not vouched for is nobody's"
        );
    }

    #[test]
    fn only_one_person_at_a_time_is_revoked() {
        for many in ["@example.com", "*", " * ", "", " ", "id:", "group:acme", "a*"] {
            assert!(Who::one(many).is_err(), "{many:?}");
        }
        for one in ["ann", "ann@example.com", "id:7"] {
            assert!(Who::one(one).is_ok(), "{one}");
        }
    }
}
