//! The session store as the proxy uses it.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{LoadedSession, Pending};
use crate::domain::session::{Session, SessionKey, SessionSelector, SessionToken};
use crate::domain::time::Timestamp;

/// The most sessions that one person may have: a further sign-in ends their own oldest one. An operation that ends all of a person's
/// sessions therefore finds them all.
pub const SESSIONS_OF_ONE: usize = 500;

/// Where sessions are kept.
///
/// Only the browser has a session's token; the store has its [`SessionKey`], a hash. In every doubt a store returns
/// [`StoreUnavailable`]: this neither admits nor signs out anyone.
pub trait Sessions: Send + Sync {
    /// The key under which the store keeps the session of `token`.
    fn key(&self, token: &SessionToken) -> SessionKey;

    /// The session from this replica's own memory; never waits. Returns only sessions that are live at `now`, and records
    /// the use.
    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>>;

    /// A session that is live at `now`, from memory or the store; `Ok(None)`: there is none.
    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>>;

    /// The current version of a session, for holders that keep one long (an open WebSocket, an event stream): the renewed session if any
    /// replica has renewed it; `Ok(None)`: a replica has ended it. Records a use only if the holder was used: `used`.
    fn follow<'a>(
        &'a self,
        held: &'a Arc<LoadedSession>,
        used: bool,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>>;

    /// Stores a new session, and returns the token that names it.
    ///
    /// # Errors
    /// [`BeginError`]: the store is unavailable, or the session does not fit.
    fn begin(&self, session: Session, now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>>;

    /// Ends a session on every replica. A missing session counts as ended.
    ///
    /// # Errors
    /// [`EndError`], which says whether it goes on being tried. Until then the session counts as ended on this replica.
    fn end<'a>(&'a self, session: &'a LoadedSession) -> Pending<'a, Result<(), EndError>>;

    /// Ends whatever a token names for which [`Sessions::load`] found no live session. Anybody can make up such tokens: the records
    /// kept of them must not displace those of real sessions.
    ///
    /// # Errors
    /// As [`Sessions::end`].
    fn end_unseen<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), EndError>>;

    /// Consumes the `state` of a sign-in, which is valid once and until `until`. Returns whether it was unused before, on every replica
    /// if the store is shared. Of several concurrent callers exactly one gets `true`. Under a flood a shared store leaves the states to
    /// the memory of each replica.
    fn take_state<'a>(
        &'a self,
        state: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Consumes a `state` in this replica's memory only, for a callback that redeems nothing.
    fn take_state_here(&self, state: &str, now: Timestamp) -> bool;

    /// Sessions listed by owner; `None`: sessions exist only in cookies, so they cannot be listed.
    fn directory(&self) -> Option<&dyn Directory>;

    /// Leases to renew sessions; `None`: none can be renewed.
    fn leases(&self) -> Option<&dyn Leases>;

    /// Hands the ends that are not confirmed yet, and those that are noted from now on, to the store that a reload puts in this one's
    /// place. Returns how many of them it cannot take.
    fn hand_over(&self, _heir: &Arc<dyn Sessions>) -> usize {
        0
    }

    /// Takes an end that the store before this one has not confirmed: the session counts as ended here, and this store is asked until it
    /// confirms that. `false`: it cannot take it.
    fn inherit(&self, _key: SessionKey, _evidence: Evidence) -> bool {
        false
    }

    /// Applies the terms that a reload may change.
    ///
    /// # Errors
    /// The secrets cannot be used; the old terms stay in force.
    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String>;

    /// Does the work that is due every second: upkeep of caches, and dropping what has expired.
    fn sweep(&self, now: Timestamp);

    /// Sessions held in this replica's memory.
    fn held(&self) -> u64;

    /// Sessions that were evicted for lack of room since the start.
    fn evicted(&self) -> u64 {
        0
    }

    /// Waits until the store was tried once, with whatever result.
    fn tried(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The known reason why the store does not work; `None`: no known problem.
    fn trouble(&self) -> Option<String>;
}

/// How a store knows of a session that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It had the session itself.
    Session,
    /// A token named it, which may be made up: such ones have their own limits, so that they take no room from the others.
    Unseen,
}

/// Sessions listed by owner, to end them from elsewhere.
pub trait Directory: Send + Sync {
    /// The live sessions of a person, or of a session at the provider; at most some hundreds, newest first.
    fn of<'a>(
        &'a self,
        selector: SessionSelector<'a>,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Arc<LoadedSession>>, StoreUnavailable>>;

    /// Ends, except `kept`, what is still listed of the selector: sessions that [`Directory::of`] does not return since this replica cannot
    /// read them (while secrets or versions are changed, another replica may have written them), or since they look unused by what the
    /// store knows, and may be in use on another replica. Returns how many. Those whose end is not confirmed yet are ended
    /// again, and not counted.
    ///
    /// Beside it stands why that may not be all: a list failed, which nobody tries again, or not every end was confirmed.
    fn end_remaining<'a>(
        &'a self,
        _selector: SessionSelector<'a>,
        _kept: Option<SessionKey>,
        _now: Timestamp,
    ) -> Pending<'a, (usize, Option<EndError>)> {
        Box::pin(std::future::ready((0, None)))
    }

    /// Whether `what`, which must be used only once, was recorded on any replica.
    fn has_come<'a>(&'a self, what: &'a str, now: Timestamp) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Records `what` until `until`.
    fn note_coming<'a>(
        &'a self,
        what: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>>;
}

/// How long the lease to renew a session lasts, and so how long the store may take to accept the new tokens.
pub const LEASE: Duration = Duration::from_secs(30);

/// Leases to renew sessions: one holder at a time across all replicas.
pub trait Leases: Send + Sync {
    /// Claims the lease to renew a session: at most one holder at a time across all replicas. A granted lease holds the session as the
    /// store has it now; another replica may have renewed it already.
    fn claim(&self, key: SessionKey, now: Timestamp) -> Pending<'_, Result<Claim, StoreUnavailable>>;

    /// Replaces a session by its renewed version on every replica, and returns the lease. `false`: the session has ended, and stays ended.
    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Returns the lease without a renewal. Best effort: a lease expires by itself.
    fn release<'a>(&'a self, lease: &'a Lease) -> Pending<'a, ()>;
}

/// What a store gets at the start and at a reload.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreTerms {
    /// `SESSION_IDLE_TTL`: how long a session may stay unused; zero: for ever.
    pub idle: Duration,
    /// `SESSION_SECRET`, or a random one if unset: the first seals and signs, all open and verify. Never empty.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
    /// The size of a session cookie without its value, in bytes: its name and its attributes.
    pub cookie_beside: usize,
}

/// The answer to a claim of the lease to renew a session.
pub enum Claim {
    /// The caller may renew the session now.
    Granted(Lease),
    /// Another holder is renewing the session now.
    Taken,
    /// The session has ended.
    Ended,
}

/// The lease to renew a session; it expires after [`LEASE`].
pub struct Lease {
    /// The session as the store has it.
    pub session: Arc<LoadedSession>,
    /// Distinguishes this lease from later ones.
    pub ticket: u64,
}

/// The store did not answer: this neither admits nor signs out anyone.
#[derive(Debug, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

/// Why the end of a session is not certain.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The store did not confirm it, and is asked again until it does. On this replica the session has ended.
    #[error(transparent)]
    Unconfirmed(StoreUnavailable),
    /// The store did not answer, or has no room for anybody's, and nobody asks it again: the session may be valid until it expires.
    #[error(transparent)]
    Unavailable(StoreUnavailable),
    /// The store has no room to remember another ended session of this person: nothing has changed, and the session is valid until it
    /// expires.
    #[error("{0}")]
    NoRoomOfPerson(String),
}

impl EndError {
    /// Whether the store is asked again until it confirms.
    #[must_use]
    pub const fn is_retried(&self) -> bool {
        match self {
            Self::Unconfirmed(_) => true,
            Self::Unavailable(_) | Self::NoRoomOfPerson(_) => false,
        }
    }

    /// Of two failures the one to tell: what nobody tries again goes before what is tried again.
    #[must_use]
    pub fn worse(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if one.is_retried() => Some(other),
            (one, other) => one.or(other),
        }
    }
}

impl From<EndError> for StoreUnavailable {
    fn from(error: EndError) -> Self {
        match error {
            EndError::Unconfirmed(unavailable) | EndError::Unavailable(unavailable) => unavailable,
            EndError::NoRoomOfPerson(why) => Self(why),
        }
    }
}

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] StoreUnavailable),
    /// The session would not fit into a cookie.
    #[error(
        "the session takes {bytes} bytes as a cookie, and browsers keep {most}: too many groups? Keep sessions in `redis` instead"
    )]
    TooLarge {
        /// The size of the session's cookie.
        bytes: usize,
        /// The largest size that browsers keep.
        most: usize,
    },
    /// A secret or a token could not be made: no random bytes, or sealing or signing failed.
    #[error("{0}")]
    Internal(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_tries_again_is_what_is_told() {
        let retried = || Some(EndError::Unconfirmed(StoreUnavailable("it is slow".to_owned())));
        let not = || Some(EndError::NoRoomOfPerson("it is full".to_owned()));
        let told = |one, other| EndError::worse(one, other).map(|error| error.is_retried());
        assert_eq!(told(None, None), None);
        for (one, other) in [(retried(), None), (None, retried()), (retried(), retried())] {
            assert_eq!(told(one, other), Some(true));
        }
        for (one, other) in [(not(), None), (None, not()), (not(), retried()), (retried(), not()), (not(), not())] {
            assert_eq!(told(one, other), Some(false));
        }
    }
}
