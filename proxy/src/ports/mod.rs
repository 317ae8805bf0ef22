//! Floor 2, the interfaces to the outside: an identity provider, a session store, and the loaded session that a store returns.

mod loaded;
mod provider;
mod store;
mod upstream_identity;

use std::future::Future;
use std::pin::Pin;

pub use loaded::{IssuedAssertion, LoadedSession, Signed, note_every};
pub use provider::{
    IdentityProvider, LogoutToken, Omission, Omitted, Prompt, RenewError, Renewed, SignInError, SignedIn,
};
pub use store::{
    BeginError, Claim, Directory, EndError, Evidence, LEASE, Lease, Leases, SESSIONS_OF_ONE, Sessions, StoreTerms,
    StoreUnavailable,
};
pub use upstream_identity::{UpstreamIdentities, UpstreamIdentity};

/// A boxed future.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
