//! Removes a client's own credentials for a Kubernetes API server, where that is asked to impersonate the session's person.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

/// An API server accepts a bearer token as a WebSocket subprotocol, since browsers can set no other field there.
const TOKEN_AS_PROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// Removes every field that the server could take for its client's name or credential.
pub(crate) fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| names_somebody(name.as_str())).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    strip_protocols(headers);
}

/// Whether a field carries an identity, other characters read as `-`. `X-Remote-…` counts if our certificate is a front proxy's.
pub(super) fn names_somebody(name: &str) -> bool {
    let folded = |b: u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    ["impersonate-", "x-remote-"].iter().any(|prefix| {
        name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(b, known)| folded(b) == known)
    })
}

fn strip_protocols(headers: &mut HeaderMap) {
    let is_token = |item: &[u8]| {
        item.get(..TOKEN_AS_PROTOCOL.len()).is_some_and(|front| front.eq_ignore_ascii_case(TOKEN_AS_PROTOCOL))
    };
    let items = |value: &HeaderValue| -> Vec<Vec<u8>> {
        value.as_bytes().split(|b| *b == b',').map(|item| item.trim_ascii().to_vec()).collect()
    };
    let all: Vec<Vec<u8>> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().flat_map(items).collect();
    if !all.iter().any(|item| is_token(item)) {
        return;
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    let kept: Vec<Vec<u8>> = all.into_iter().filter(|item| !item.is_empty() && !is_token(item)).collect();
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept.join(b", ".as_slice()))
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sent: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn nothing_is_left_by_which_a_client_could_be_somebody() {
        for name in [
            "authorization",
            "impersonate-user",
            "Impersonate_Group",
            "impersonate.uid",
            "impersonate-extra-scopes",
            "impersonate~extra%2fx",
            "impersonate-anything",
            "x-remote-group",
            "X_Remote_Extra-a",
            "x-remote-uid",
        ] {
            assert!(left(&[(name, "root"), (name, "2")]).is_empty(), "{name}");
        }
        assert_eq!(left(&[("impersonate", "1"), ("x-remotely", "1")]), ["impersonate: 1", "x-remotely: 1"]);
    }

    #[test]
    fn a_token_in_the_place_of_a_protocol_goes_and_the_protocols_stay() {
        let name = "sec-websocket-protocol";
        let token = "base64url.bearer.authorization.k8s.io.Y2FuYXJ5";
        assert_eq!(
            left(&[(name, "v5.channel.k8s.io,v4.channel.k8s.io")]),
            [format!("{name}: v5.channel.k8s.io,v4.channel.k8s.io")]
        );
        for sent in [
            vec![format!("v5.channel.k8s.io, {token}")],
            vec![token.to_owned(), "v5.channel.k8s.io".to_owned()],
            vec![format!("v5.channel.k8s.io,{},,{token}", token.to_uppercase())],
        ] {
            let sent: Vec<(&str, &str)> = sent.iter().map(|value| (name, value.as_str())).collect();
            assert_eq!(left(&sent), [format!("{name}: v5.channel.k8s.io")]);
        }
        assert!(left(&[(name, token)]).is_empty());
    }
}
