//! What a refusal depends on: browser or program, directly or through a proxy in front, and where a sign-in returns to.

use std::sync::Arc;
use std::time::Duration;

use http::header::COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, Version};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::domain::caller::Caller;
use crate::domain::path::ReturnTo;
use crate::domain::paths;
use crate::domain::rules::HostName;
use crate::serve::answer::{grpc, query};
use crate::serve::app::Snapshot;
use crate::serve::request::headers::{self, RequestId};

/// The properties of the request that the answer depends on.
pub(crate) struct Asker {
    /// Whether the client prefers HTML to JSON.
    pub(super) html: bool,
    /// Whether a browser navigates, so that it is redirected to the sign-in.
    pub(super) navigates: bool,
    /// Whether it is a gRPC call.
    pub(super) grpc: bool,
    /// Whether it has any cookies, ours or not.
    pub(super) cookies: bool,
    /// Whether the connection speaks HTTP/1.
    pub(super) http1: bool,
    /// The requested URI.
    pub(super) uri: Uri,
    /// For support.
    pub(super) request_id: RequestId,
    /// The requested host; `None` if there are no rules.
    host: Option<String>,
    /// The proxy in front that asks on behalf of a client, if any.
    pub(super) front: Option<Front>,
    pub(super) snapshot: Arc<Snapshot>,
}

/// A proxy in front that asks about a client's request; the browser does not talk to us directly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    /// Whether it passes a redirect on to the browser.
    pub(crate) redirects: bool,
}

/// A request to these asks whether there is a session: it gets an answer, not a redirect to the sign-in.
const NEVER_LED_ON: [&str; 2] = [paths::ME, paths::SESSION];

/// The parameter of `login` for the maximum age of a sign-in, in seconds.
pub(crate) const MAX_AGE: &str = "max_age";

pub(super) fn with_max_age(mut url: String, sign: char, max_age: Option<Duration>) -> String {
    if let Some(max_age) = max_age {
        url.push_str(&format!("{sign}{MAX_AGE}={}", max_age.as_secs()));
    }
    url
}

impl Asker {
    /// Reads it from a refused request.
    pub(crate) fn of(
        head: &Parts,
        upgrades: bool,
        request_id: &RequestId,
        caller: &Caller,
        snapshot: &Arc<Snapshot>,
    ) -> Self {
        let host = if snapshot.rules.is_empty() { None } else { headers::host(&head.headers, caller) };
        Self {
            host: host.map(|host| HostName::of(host).as_str().to_owned()),
            html: headers::prefers_html(&head.headers),
            navigates: headers::is_navigation(head) && !upgrades && !NEVER_LED_ON.contains(&head.uri.path()),
            grpc: grpc::is_call(&head.headers),
            cookies: head.headers.contains_key(COOKIE),
            http1: head.version < Version::HTTP_2,
            uri: head.uri.clone(),
            request_id: request_id.clone(),
            front: None,
            snapshot: Arc::clone(snapshot),
        }
    }

    /// The same for a proxy in front: the head is that of the request which it asks about.
    pub(crate) fn by(self, front: Front) -> Self {
        Self { front: Some(front), ..self }
    }

    /// Whether a browser's navigation gets a redirect.
    pub(super) fn is_redirected(&self) -> bool {
        self.front.is_none_or(|front| front.redirects)
    }

    /// The sign-in URL: absolute if a proxy in front asks, since sign-in is on the public host and the browser on another.
    pub(super) fn login_place(&self) -> String {
        let origin = self.front.and(self.snapshot.sign_in.as_ref()).map_or("", |sign_in| sign_in.origin_text.as_str());
        format!("{origin}{}", paths::LOGIN)
    }

    /// Where a sign-in, or a retry, returns to: the requested page, or the page that a sign-in was requested for.
    pub(super) fn return_to(&self) -> ReturnTo {
        if self.uri.path() == paths::LOGIN {
            return query::wanted(self.uri.query(), &self.snapshot);
        }
        let path = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        // Sign-in is on the public host: a request for another host of ours returns there.
        self.snapshot.return_to_on(self.host.as_deref().unwrap_or_default(), path)
    }

    pub(super) fn login_url(&self, max_age: Option<Duration>) -> String {
        let url =
            format!("{}?rd={}", self.login_place(), utf8_percent_encode(self.return_to().as_str(), NON_ALPHANUMERIC));
        with_max_age(url, '&', max_age)
    }
}
