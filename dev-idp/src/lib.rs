//! A development identity provider: GitHub's, Entra's and OpenID Connect's endpoints, with demo users and faults on demand.
//!
//! For development and tests only: anyone who can reach it can sign in as any user.
//!
//! ```text
//! serve (accept) -> routes -> control::intercept (counts, faults) -> github | entra | graph | oidc
//!                                                                    |
//!                 authorize (pick a user, issue a code) -> grants -> token (redeem it) -> claims -> id_token
//! ```
//!
//! | provider | addresses |
//! | --- | --- |
//! | GitHub | `{origin}/login/oauth/…`; its API at `{origin}` and at `{origin}/api/v3` |
//! | Entra | authority `{origin}`, Graph at `{origin}/v1.0` |
//! | OpenID Connect | issuer `{origin}/oidc` |
//!
//! To sign in without a browser, `POST {authorize}/decision` with every parameter of the
//! authorization request and `user=ann` (or `cancel=1`); it answers 302 to the redirect URL. In
//! process, [`DevIdp::approve`] does the same without HTTP.

mod authorize;
mod bodies;
mod claims;
mod clock;
mod control;
mod control_api;
mod dialect;
mod entra;
mod github;
mod grants;
mod graph;
mod id_token;
mod idp;
mod keys;
pub mod lines;
mod logout;
mod oddities;
mod oidc;
mod pages;
mod params;
mod provider;
mod routes;
mod serve;
mod token;
pub mod users;

pub use control::{Captured, Control, Endpoint, Fault, Lie};
pub use idp::{DevIdp, Options, Refused, StartError};
pub use keys::OldKey;
pub use provider::reachable;
pub use users::User;
