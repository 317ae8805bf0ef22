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
use crate::domain::policy::{AllowedUsers, BadEntry};
use crate::domain::session::{Authority, SessionKey};
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
        let wanted = "name somebody: an email, `id:` and the provider's id, or a username";
        if text.is_empty() {
            return Err(wanted.to_owned());
        }
        let list = AllowedUsers::parse([text.as_str()]);
        // What a list of the configuration would be told is of no use here.
        let said =
            |fault: &BadEntry| if let BadEntry::OfRule(_) = fault { wanted.to_owned() } else { fault.to_string() };
        let list = list.map_err(|faults| faults.iter().map(said).collect::<Vec<_>>().join("; "))?;
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
    let authority = sign_in.provider.authority();
    match task {
        Task::List { who, json } => list(&store, &mut Wanted::new(who.as_ref(), authority), *json, out).await,
        Task::Revoke { who } => revoke(store, who, authority).await,
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

/// The sessions that a command is about, as the store names them.
struct Wanted<'w> {
    /// Whose; `None`: all users'.
    who: Option<&'w Who>,
    /// Whose word the configuration takes. In the same store there may be sessions of other deployments, and of the provider, client id or
    /// public origin before they were changed: nobody is let in by those here, and who they are of is for others to say.
    authority: Authority,
    /// The store may name a session twice.
    known: HashSet<SessionKey>,
    count: usize,
    others: usize,
}

impl<'w> Wanted<'w> {
    fn new(who: Option<&'w Who>, authority: Authority) -> Self {
        Self { who, authority, known: HashSet::new(), count: 0, others: 0 }
    }

    /// Whether the command is about this session, which has not come before.
    fn takes(&mut self, session: &LoadedSession) -> bool {
        let is_theirs = self.who.is_none_or(|who| who.is(session.identity()));
        if !is_theirs || !self.known.insert(session.key()) {
            return false;
        }
        let is_ours = session.session().authority == self.authority;
        let number = if is_ours { &mut self.count } else { &mut self.others };
        *number += 1;
        is_ours
    }

    /// A sentence about what was found, with what was left out.
    fn told(&self, found: String) -> String {
        let others = match self.others {
            0 => return found,
            1 => "1 more is".to_owned(),
            count => format!("{count} more are"),
        };
        format!("{found}; {others} of another provider, client id or public origin, and left out")
    }
}

async fn list(
    store: &RedisStore,
    wanted: &mut Wanted<'_>,
    json: bool,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<String> {
    let mut written = Ok(());
    if !json {
        written = writeln!(out, "{}", HEADING);
    }
    let walked = store
        .all(clock::now(), |session| {
            if written.is_ok() && wanted.takes(&session) {
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
    Ok(wanted.told(match (wanted.count, wanted.who) {
        (1, _) => "1 session".to_owned(),
        (0, Some(who)) => none(who),
        (count, _) => format!("{count} sessions"),
    }))
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
async fn revoke(store: Arc<RedisStore>, who: &Who, authority: Authority) -> anyhow::Result<String> {
    let (mut wanted, mut found) = (Wanted::new(Some(who), authority), Vec::new());
    let walked = store
        .all(clock::now(), |session| {
            if wanted.takes(&session) {
                found.push(session);
            }
        })
        .await;
    let store: Arc<dyn Sessions> = store;
    let ended = ending::end_each(&store, &found).await;
    // Of the others nobody knows: what tries them again ends with this process.
    write_audit_lines(&ended.confirmed);
    walked.context("not all sessions were looked at: run it again")?;
    let outcome = ended.failure.map_or(Ok(()), Err);
    outcome.context("the store did not confirm that all have ended: run it again")?;
    Ok(wanted.told(match found.len() {
        0 => none(who),
        1 => "1 session was ended".to_owned(),
        count => format!("{count} sessions were ended"),
    }))
}

fn none(who: &Who) -> String {
    format!(
        "no session of {} (a username counts only where the provider vouches for it; an email and `id:…` always do)",
        Clean(&who.text)
    )
}

/// Writes an audit line for each user: an id is one provider's.
fn write_audit_lines(ended: &[Arc<LoadedSession>]) {
    let mut people: BTreeMap<(&str, &str), (&Identity, usize)> = BTreeMap::new();
    for session in ended {
        let identity = session.identity();
        people.entry((identity.provider.as_str(), identity.id.as_str())).or_insert((identity, 0)).1 += 1;
    }
    for (identity, count) in people.into_values() {
        audit::sessions_ended(identity, count, "an operator revoked them", None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::{Email, ProviderKind, Username};
    use crate::domain::session::{Device, Session};

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
    fn sessions_of_another_authority_are_counted_apart_and_each_session_once() {
        let now = Timestamp::from_secs(1000);
        let session = |key: u8, authority: u8| {
            let device = Device::new([192, 0, 2, 1].into(), "Firefox");
            let hour = Duration::from_secs(3600);
            LoadedSession::new(
                SessionKey([key; 32]),
                Session::begin(ann(), Authority([authority; 8]), device, hour, now),
                now,
            )
        };
        let (ann, bob) = (Who::one("id:7").unwrap(), Who::one("id:8").unwrap());
        let mut wanted = Wanted::new(Some(&ann), Authority([1; 8]));
        assert_eq!(wanted.told("nothing".to_owned()), "nothing");
        assert!(wanted.takes(&session(1, 1)) && !wanted.takes(&session(1, 1)) && wanted.takes(&session(2, 1)));
        assert!(!wanted.takes(&session(3, 2)) && !wanted.takes(&session(3, 2)));
        assert_eq!((wanted.count, wanted.others), (2, 1));
        assert!(wanted.told("2 sessions".to_owned()).starts_with("2 sessions; 1 more is of another provider"));
        let mut wanted = Wanted::new(Some(&bob), Authority([1; 8]));
        assert!(!wanted.takes(&session(1, 1)) && !wanted.takes(&session(3, 2)));
        assert_eq!((wanted.count, wanted.others), (0, 0));
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
