//! The author of a request: an identity, how it was proved, and the claims that rules refer to.

use std::sync::Arc;

use super::certificate::ClientCertificate;
use super::claims::Claims;
use super::identity::Identity;
use super::time::Timestamp;

/// The author of a request.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// The identity that the provider vouches for.
    pub identity: &'a Identity,
    /// The provider's name in rules.
    pub provider: &'a str,
    /// How the identity was proved.
    pub by: Proof,
    /// When the user last authenticated; `None`: unknown.
    pub proved_at: Option<Timestamp>,
    /// The claims that rules refer to.
    pub claims: &'a Claims,
    /// The certificate of the connection, if any.
    pub certificate: Option<&'a ClientCertificate>,
}

/// How a request proves its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A session that began with a sign-in here.
    Session,
    /// A bearer token from another issuer.
    Bearer,
}

/// A source of a request's identity.
pub trait Known {
    /// The author of the request.
    fn principal(&self) -> Principal<'_>;
}

impl Known for Principal<'_> {
    fn principal(&self) -> Principal<'_> {
        *self
    }
}

impl<K: Known> Known for &K {
    fn principal(&self) -> Principal<'_> {
        (*self).principal()
    }
}

impl<K: Known> Known for Arc<K> {
    fn principal(&self) -> Principal<'_> {
        self.as_ref().principal()
    }
}
