//! The user who views, as clusters with impersonation know them: an extractor for handlers.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::App;
use crate::fleet::{Person, Viewer};
use crate::identity::{Impersonation, Verified};

/// The user who views.
pub(super) struct ViewedBy(pub(super) Viewer);

impl FromRequestParts<App> for ViewedBy {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let verified = parts.extensions.get::<Verified>();
        Ok(Self(Viewer::Person(person(verified, app.impersonation.as_ref()))))
    }
}

/// Only a signed assertion counts here: anyone could have set the headers.
fn person(verified: Option<&Verified>, how: Option<&Impersonation>) -> Result<Person, String> {
    let (Some(Verified(identity)), Some(how)) = (verified, how) else {
        return Err(
            "this cluster decides by person, and without ORCHESTRATOR_ASSERTION_JWKS nobody is known for sure".into()
        );
    };
    let Some(identity) = identity else {
        return Err("this cluster decides by person, and nobody is signed in".into());
    };
    Person::new(how.by.of(identity), &identity.groups, &how.prefix).map_err(|reason| reason.to_string())
}
