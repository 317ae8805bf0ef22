//! What stores know sessions by.

use aws_lc_rs::digest::{SHA256, digest};

use crate::domain::session::{SessionKey, SessionToken};

/// The SHA-256 of a token: whoever reads the store has no token. A token has 256 random bits, so no salt is needed.
pub(super) fn of(token: &SessionToken) -> SessionKey {
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(digest(&SHA256, token.expose().as_bytes()).as_ref()) {
        *to = *from;
    }
    SessionKey(key)
}
