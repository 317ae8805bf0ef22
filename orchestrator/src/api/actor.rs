//! Who performs an action: an extractor for every handler that changes anything.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::identity::{Identity, received};
use crate::store::NewActivity;

const ANONYMOUS: &str = "anonymous";
/// How many characters of a name are kept.
const NAME_MOST: usize = 256;
const REQUEST_ID_MOST: usize = 128;

/// The identity that the proxy sent with the request; `anonymous` where it sent none.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) name: String,
    id: String,
    email: String,
    request_id: String,
}

impl Actor {
    /// Starts the record of an action that is about to be performed.
    pub(super) fn new_activity(&self, action: &'static str) -> NewActivity {
        NewActivity {
            actor: self.name.clone(),
            actor_id: self.id.clone(),
            actor_email: self.email.clone(),
            action,
            request_id: self.request_id.clone(),
            ..NewActivity::default()
        }
    }

    /// Returns true if a user is signed in.
    pub(super) fn known(&self) -> bool {
        self.name != ANONYMOUS || !self.id.is_empty()
    }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let identity = Identity::of(parts);
        let (name, id, email) = identity.map_or_else(
            || (ANONYMOUS.to_owned(), String::new(), String::new()),
            |identity| (clean(&identity.user), clean(&identity.user_id), clean(&identity.email)),
        );
        let request_id = received(&parts.headers, "X-Request-Id").filter(|id| well_formed(id)).unwrap_or_default();
        Ok(Self { name, id, email, request_id: request_id.to_owned() })
    }
}

/// Makes text safe to store, log and display: drops control characters and limits the length.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_MOST).collect()
}

fn well_formed(id: &str) -> bool {
    id.len() <= REQUEST_ID_MOST && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
