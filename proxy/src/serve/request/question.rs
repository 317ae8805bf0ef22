//! The input of the judgement for a request: judged at once, and again while a response stays open.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Uri};

use crate::domain::caller::Caller;
use crate::domain::certificate::ClientCertificate;
use crate::domain::judge::{Ask, Permit, Refusal, judge};
use crate::domain::principal::Known;
use crate::domain::readings::Readings;
use crate::domain::rules::Rules;
use crate::domain::time::Timestamp;
use crate::serve::request::headers;

/// The input of the judgement, with all readings of the path.
pub(crate) fn ask<'a>(
    head: &'a Parts,
    caller: &'a Caller,
    rules: &Rules,
    path: &'a Readings<'a>,
    now: Timestamp,
) -> Ask<'a> {
    let mut ask = Ask {
        host: "",
        forwarded_host: None,
        method: head.method.as_str(),
        path,
        from: caller.client,
        certificate: None,
        now,
    };
    // Without rules they are not used.
    if !rules.is_empty() {
        ask.host = text(head.headers.get(HOST));
        ask.forwarded_host = if caller.trusted { headers::host(&head.headers, caller) } else { None };
    }
    ask
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The input of the judgement, kept as long as the response lasts: each part is a handle to the request's own bytes.
#[derive(Clone)]
pub(crate) struct Question {
    uri: Uri,
    method: Method,
    host: Option<HeaderValue>,
    forwarded_host: Option<HeaderValue>,
    from: IpAddr,
    certificate: Option<Arc<ClientCertificate>>,
}

impl Question {
    /// The input for the request with this head.
    pub(crate) fn of(head: &Parts, caller: &Caller) -> Self {
        let forwarded_host = if caller.trusted { headers::host(&head.headers, caller) } else { None };
        Self {
            uri: head.uri.clone(),
            method: head.method.clone(),
            host: head.headers.get(HOST).cloned(),
            forwarded_host: forwarded_host.and_then(|host| HeaderValue::from_str(host).ok()),
            from: caller.client,
            certificate: None,
        }
    }

    /// A copy in its own memory, for responses that stay open for long: a handle would keep the request's whole read buffer.
    pub(crate) fn kept(self) -> Self {
        let own = |value: HeaderValue| HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value);
        // Only the path is judged again.
        let uri = Uri::try_from(self.uri.path()).unwrap_or(self.uri);
        Self { uri, host: self.host.map(own), forwarded_host: self.forwarded_host.map(own), ..self }
    }

    /// The same with the client certificate of its connection.
    pub(crate) fn with(self, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { certificate, ..self }
    }

    /// Judges it again by the current rules; `None`: its path cannot be judged.
    pub(crate) fn ask_again<S: Known>(
        &self,
        rules: &Rules,
        who: Option<S>,
        now: Timestamp,
    ) -> Option<Result<Permit<S>, Refusal>> {
        let path = Readings::of(self.uri.path()).ok()?;
        let ask = Ask {
            host: text(self.host.as_ref()),
            forwarded_host: self.forwarded_host.as_ref().map(|host| text(Some(host))),
            method: self.method.as_str(),
            path: &path,
            from: self.from,
            certificate: self.certificate.as_deref(),
            now,
        };
        Some(judge(rules, &ask, who))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_kept_for_long_says_the_same_in_memory_of_its_own() {
        for path in ["/a", "//a/b", "/a%2Fb;c/../d"] {
            let read = Bytes::from(format!("{path}?q=1"));
            let shared = Question {
                uri: Uri::from_maybe_shared(read.clone()).unwrap(),
                method: Method::GET,
                host: Some(HeaderValue::from_maybe_shared(Bytes::from_static(b"a.example")).unwrap()),
                forwarded_host: None,
                from: IpAddr::from([127, 0, 0, 1]),
                certificate: None,
            };
            assert!(read.as_ptr_range().contains(&shared.uri.path().as_ptr()), "a handle, until it is kept");
            let host = shared.host.clone().unwrap();
            let kept = shared.kept();
            assert_eq!((kept.uri.path(), kept.host.as_ref()), (path, Some(&host)));
            assert!(!read.as_ptr_range().contains(&kept.uri.path().as_ptr()), "{path}");
            assert_ne!(kept.host.unwrap().as_bytes().as_ptr(), host.as_bytes().as_ptr());
        }
    }
}
