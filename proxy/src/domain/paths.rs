//! Where our own endpoints are: each path stands here, and nowhere else but in the pages' templates.

/// Where all of the proxy's own endpoints are, but for [`METADATA`].
pub const AUTH_PREFIX: &str = "/api/v1/auth";
/// Where clients learn whose tokens are accepted (RFC 9728 §3).
pub const METADATA: &str = "/.well-known/oauth-protected-resource";

macro_rules! endpoints {
    ($($(#[doc = $doc:literal])+ $name:ident = $path:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = concat!("/api/v1/auth/", $path);)+

        /// Every endpoint, and every folder of them.
        #[cfg(test)]
        pub(crate) const ALL: &[&str] = &[$($name),+];
    };
}

endpoints! {
    /// Whether people sign in.
    STATUS = "status";
    /// Begins a sign-in.
    LOGIN = "login";
    /// Where the provider sends the browser back to.
    CALLBACK = "callback";
    /// Who is signed in.
    ME = "me";
    /// The same, with the session.
    SESSION = "session";
    /// Where proxies in front ask; a path that they describe may stand behind it.
    VERIFY = "verify";
    /// Ends the session.
    LOGOUT = "logout";
    /// Where the provider tells of logouts.
    BACKCHANNEL_LOGOUT = "backchannel-logout";
    /// The person's own sessions; each is below it.
    SESSIONS = "sessions";
    /// Ends all of them but this one.
    END_OTHERS = "sessions/end-others";
    /// The page to sign in on.
    SIGN_IN = "sign-in";
    /// The page after a sign-out.
    SIGNED_OUT = "signed-out";
    /// The keys of the identity assertion.
    JWKS = "jwks";
    /// What pages load is below it.
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
