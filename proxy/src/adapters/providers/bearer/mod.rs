//! Bearer tokens: the identity of a request's `Authorization: Bearer …`, from an issuer that the operator trusts.
//!
//! ```text
//! Bearers::verify -> remembered (a minute at most) -> Issuer (which `iss`) -> Keys (published, or a file) -> token (signature, claims)
//!                                                  -> GithubTokens (asked at GitHub)                     -> person (claims into an identity)
//! ```

mod bearers;
#[cfg(test)]
mod entra_tests;
mod github;
mod issuer;
mod keys;
mod person;
mod remembered;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod verdict;

pub use self::bearers::Bearers;
pub use self::keys::check_file;
pub use self::settings::{BearerSettings, ClaimNames, GithubSettings, IssuerName, IssuerSettings, is_same};
pub use self::verdict::{BearerError, Verified};
