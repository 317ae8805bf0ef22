//! What we ask of the place where sessions are kept.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{LoadedSession, Pending};
use crate::domain::session::{Session, SessionKey, SessionToken, Whose};
use crate::domain::time::Timestamp;

/// How many sessions one person may have at a time: with a further sign-in their own oldest one ends. Whatever ends all of somebody's
/// sessions therefore finds them all.
pub const SESSIONS_OF_ONE: usize = 500;

/// Where sessions are kept.
///
/// A session's token is known to the browser alone; the store knows its [`SessionKey`], a hash. On every doubt a store answers
/// [`StoreUnavailable`]: nobody is let in because of it, and nobody is signed out.
pub trait Sessions: Send + Sync {
    /// What the store knows the session of `token` by.
    fn key(&self, token: &SessionToken) -> SessionKey;

    /// A session that this replica holds in its own memory; never waits. It answers only with sessions that are live at `now`, and notes
    /// that they were used.
    fn hot(&self, token: &SessionToken, now: Timestamp) -> Option<Arc<LoadedSession>>;

    /// A session that is live at `now`, from wherever it is kept; `Ok(None)`: there is none.
    fn load<'a>(
        &'a self,
        token: &'a SessionToken,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>>;

    /// The session as it is now, for whoever holds one for long (an open WebSocket, an event stream): the renewed one in place of an older
    /// one, wherever it was renewed; `Ok(None)`: it has ended, wherever it was ended. It is noted as used only where the holder was: `used`.
    fn follow<'a>(
        &'a self,
        held: &'a Arc<LoadedSession>,
        used: bool,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Arc<LoadedSession>>, StoreUnavailable>>;

    /// Keeps a new session, and gives the token that names it.
    ///
    /// # Errors
    /// [`BeginError`]: the store is away, or the session does not fit.
    fn begin(&self, session: Session, now: Timestamp) -> Pending<'_, Result<SessionToken, BeginError>>;

    /// Ends a session, on every replica. One that is not there has ended. Where the store does not confirm it, this replica holds the
    /// session for ended at once, and goes on trying.
    fn end<'a>(&'a self, session: &'a LoadedSession) -> Pending<'a, Result<(), StoreUnavailable>>;

    /// Ends whatever a token names that [`Sessions::load`] has found no live session for. Anybody can make up such tokens: what is
    /// remembered of them must not take the room of sessions that were there.
    fn end_unseen<'a>(&'a self, token: &'a SessionToken) -> Pending<'a, Result<(), StoreUnavailable>>;

    /// Takes the `state` of a sign-in, which counts once, and will not be good any more from `until` on: whether it had not been taken
    /// before, on any replica where the store is shared. Of several that ask at once exactly one is told so.
    fn take_state<'a>(
        &'a self,
        state: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Sessions by whose they are; `None`: they live in the cookie alone, so that a list of them cannot be had.
    fn directory(&self) -> Option<&dyn Directory>;

    /// Leases to renew sessions; `None`: none can be renewed.
    fn leases(&self) -> Option<&dyn Leases>;

    /// Takes what a reload may change.
    ///
    /// # Errors
    /// Where the secrets cannot be used; the old terms stay.
    fn reconfigure(&self, terms: &StoreTerms) -> Result<(), String>;

    /// Does what is due every second: settles, and sheds what has expired.
    fn sweep(&self, now: Timestamp);

    /// Sessions held in this replica's memory.
    fn held(&self) -> u64;

    /// Sessions that were given up for want of room since the start.
    fn evicted(&self) -> u64 {
        0
    }

    /// Waits until the store has been tried once, whatever came of it.
    fn tried(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// What keeps the store from working, as far as is known; `None`: nothing.
    fn trouble(&self) -> Option<String>;
}

/// Sessions by whose they are, for those who end them from elsewhere.
pub trait Directory: Send + Sync {
    /// The live sessions of a person, or of a session at the provider; at most some hundreds, the newest first.
    fn of<'a>(
        &'a self,
        whose: Whose<'a>,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Arc<LoadedSession>>, StoreUnavailable>>;

    /// Whether `what`, which must count once only, was noted on any replica.
    fn has_come<'a>(&'a self, what: &'a str, now: Timestamp) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Notes it until then.
    fn note_coming<'a>(
        &'a self,
        what: &'a str,
        until: Timestamp,
        now: Timestamp,
    ) -> Pending<'a, Result<(), StoreUnavailable>>;
}

/// How long the lease to renew a session lasts, and so how long the new tokens may wait for the store.
pub const LEASE: Duration = Duration::from_secs(30);

/// Leases to renew sessions, for one at a time over all replicas.
pub trait Leases: Send + Sync {
    /// Asks for the lease to renew a session: at most one has it at a time, over all replicas. With it comes the session as the store has it at
    /// this moment, which another replica may have renewed already.
    fn claim(&self, key: SessionKey, now: Timestamp) -> Pending<'_, Result<Claim, StoreUnavailable>>;

    /// Puts a renewed session in its place, on every replica, and gives the lease back. `false`: it has ended meanwhile, and stays ended.
    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        session: Session,
        now: Timestamp,
    ) -> Pending<'a, Result<bool, StoreUnavailable>>;

    /// Gives the lease back without having renewed. Best effort: it runs out by itself.
    fn release<'a>(&'a self, lease: &'a Lease) -> Pending<'a, ()>;
}

/// What a store is told at the start and at a reload.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreTerms {
    /// `SESSION_IDLE_TTL`: how long a session may go unused; zero: for ever.
    pub idle: Duration,
    /// `SESSION_SECRET`, or a random one where none is set: the first seals and signs, all open and verify. Never empty.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
    /// What a session cookie takes beside its value, in bytes: its name and its attributes.
    pub cookie_beside: usize,
}

/// The answer to who asks for the lease to renew a session.
pub enum Claim {
    /// It may be renewed now.
    Granted(Lease),
    /// Somebody else renews it at this moment.
    Taken,
    /// It has ended.
    Ended,
}

/// The lease to renew a session; it runs out after [`LEASE`].
pub struct Lease {
    /// The session as the store has it.
    pub session: Arc<LoadedSession>,
    /// Tells this lease from later ones.
    pub ticket: u64,
}

/// The store did not answer: nobody is let in because of it, and nobody is signed out.
#[derive(Debug, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

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
        /// What it takes.
        bytes: usize,
        /// What there is room for.
        most: usize,
    },
    /// This machine cannot keep secrets.
    #[error("{0}")]
    Internal(String),
}
