//! Who asks: an identity, how it was proved, and the claims that rules name.

use std::sync::Arc;

use super::certificate::ClientCertificate;
use super::claims::Claims;
use super::identity::Identity;
use super::time::Timestamp;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// Who it is, as the provider vouches for it.
    pub identity: &'a Identity,
    /// The name by which rules call the provider that vouches.
    pub provider: &'a str,
    /// By what the person is known.
    pub by: Proof,
    /// When the person last proved who they are; `None`: nobody has said.
    pub proved_at: Option<Timestamp>,
    /// The claims that rules name.
    pub claims: &'a Claims,
    /// The certificate that the connection has shown beside it.
    pub certificate: Option<&'a ClientCertificate>,
}

/// By what a request shows whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A session that began with a sign-in here.
    Session,
    /// A bearer token that somebody else issued.
    Bearer,
}

/// Something that says who asks.
pub trait Known {
    /// Who asks.
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
