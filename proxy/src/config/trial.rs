//! Helpers with which tests of this floor load configurations.

use std::ffi::OsString;

use super::{Faults, Loaded, Sources, load};
use crate::serve::settings::{Mode, SignInSettings};

/// A complete configuration for GitHub.
pub(super) const GITHUB: &[(&str, &str)] = &[
    ("OAUTH_ENABLED", "true"),
    ("OAUTH_PROVIDER", "github"),
    ("OAUTH_CLIENT_ID", "id"),
    ("OAUTH_CLIENT_SECRET", "secret"),
    ("OAUTH_REDIRECT_URL", "https://app.example.com/api/v1/auth/callback"),
    ("OAUTH_ALLOWED_USERS", "ann"),
];

/// Sources with these flags and variables; later variables replace earlier ones.
pub(super) fn sources(args: &[&str], env: &[&[(&str, &str)]]) -> Sources {
    let args = std::iter::once("sidegate").chain(args.iter().copied()).map(OsString::from);
    let env = env.iter().copied().flatten().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Sources::read(args, env, false).ok().unwrap().1
}

/// Loads these variables.
pub(super) fn env(env: &[&[(&str, &str)]]) -> Result<Loaded, Faults> {
    load(&sources(&[], env))
}

/// Loads the configuration for GitHub, with these variables replaced.
pub(super) fn github(more: &[(&str, &str)]) -> Result<Loaded, Faults> {
    env(&[GITHUB, more])
}

/// The errors, one a line.
pub(super) fn faults(outcome: Result<Loaded, Faults>) -> String {
    outcome.err().expect("no fault was found").to_string()
}

/// The settings of sign-in.
pub(super) fn sign_in(outcome: Result<Loaded, Faults>) -> SignInSettings {
    match outcome.unwrap_or_else(|faults| panic!("{faults}")).settings.mode {
        Mode::SignIn(settings) => *settings,
        Mode::Open => panic!("open mode"),
    }
}

/// The warnings, one a line.
pub(super) fn warnings(outcome: Result<Loaded, Faults>) -> String {
    outcome.unwrap_or_else(|faults| panic!("{faults}")).warnings.join("\n")
}
