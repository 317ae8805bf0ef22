//! Hop-by-hop, forwarding and identity header fields: removes the client's, sets ours.

mod forwarded;
mod host;
mod intent;
mod strip;
mod trace;

pub(crate) use forwarded::{Forwarded, caller, is_rewritten};
pub(crate) use host::{
    Malformed, check, forwarded_host, host, host_name, is_host, names_other_port, normalize_forwarded_host, origin_of,
    own_origin,
};
pub(crate) use intent::{
    is_navigation, is_prefetch, is_same_origin, is_websocket, prefers_html, switches_to_websocket,
};
pub(crate) use strip::{
    is_method_override, is_odd_spelling, join_cookies, normalize_trusted, strip_forbidden, strip_method_overrides,
    strip_odd_spellings, strip_request, strip_response, strip_trailers,
};
pub(crate) use trace::{RequestId, Trace};

#[cfg(test)]
mod tests {
    use http::request::Parts;
    use http::{Request, Version};

    pub(super) fn head(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }
}
