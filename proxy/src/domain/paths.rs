//! The paths of our own endpoints, defined here and otherwise only in the pages' templates.

/// The prefix of all of the proxy's own endpoints, except [`METADATA`].
pub const AUTH_PREFIX: &str = "/api/v1/auth";
/// Lists the issuers whose tokens are accepted, for clients (RFC 9728 §3).
pub const METADATA: &str = "/.well-known/oauth-protected-resource";

macro_rules! endpoints {
    ($($(#[doc = $doc:literal])+ $name:ident = $path:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = concat!("/api/v1/auth/", $path);)+

        /// Every endpoint, and every folder of endpoints.
        #[cfg(test)]
        pub(crate) const ALL: &[&str] = &[$($name),+];
    };
}

endpoints! {
    /// Whether sign-in is enabled.
    STATUS = "status";
    /// Begins a sign-in.
    LOGIN = "login";
    /// The provider redirects the browser here.
    CALLBACK = "callback";
    /// The signed-in user.
    ME = "me";
    /// The same, with the session.
    SESSION = "session";
    /// For authorization requests of proxies in front; a path that they describe may follow it.
    VERIFY = "verify";
    /// Ends the session.
    LOGOUT = "logout";
    /// Receives logout tokens from the provider.
    BACKCHANNEL_LOGOUT = "backchannel-logout";
    /// The user's own sessions; each has a path below it.
    SESSIONS = "sessions";
    /// Ends all of them except the current one.
    END_OTHERS = "sessions/end-others";
    /// The page to sign in on.
    SIGN_IN = "sign-in";
    /// The page after a sign-out.
    SIGNED_OUT = "signed-out";
    /// The keys of the identity assertion.
    JWKS = "jwks";
    /// The folder of files that pages load.
    ASSETS = "assets";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_below_the_prefix_and_named_once() {
        let mut paths = ALL.to_vec();
        assert!(paths.iter().all(|path| path.strip_prefix(AUTH_PREFIX).is_some_and(|rest| rest.starts_with('/'))));
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), ALL.len());
    }
}
