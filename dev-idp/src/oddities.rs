//! Valid but unusual responses, as real providers send them: applied after the normal response is built.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::control::{Endpoint, Lie};
use crate::id_token;
use crate::keys::Key;
use crate::provider::Provider;

/// No response is longer, in bytes.
const LONGEST: usize = 1024 * 1024;

/// Applies the lies about unusual forms to responses.
pub(crate) async fn intercept(State(provider): State<Arc<Provider>>, request: Request, next: Next) -> Response {
    let endpoint = Endpoint::of(request.uri().path());
    let answer = next.run(request).await;
    match endpoint {
        Some(endpoint) => make(&provider, endpoint, answer).await,
        None => answer,
    }
}

/// Applies those lies to a response of `endpoint`.
async fn make(provider: &Provider, endpoint: Endpoint, answer: Response) -> Response {
    let mut answer = answer;
    for lie in provider.control.lies() {
        answer = match (endpoint, lie) {
            (Endpoint::Token, Lie::TokenField(name, value)) => with_field(answer, &name, value).await,
            (Endpoint::Discovery, Lie::DiscoveryField(name, value)) => with_field(answer, &name, value).await,
            (Endpoint::Token, Lie::TokenForm) => as_form(answer).await,
            (Endpoint::Token, Lie::TokenContentType(kind)) => of_type(answer, &kind),
            (Endpoint::UserInfo, Lie::SignedUserInfo) => signed(provider, answer, false).await,
            (Endpoint::UserInfo, Lie::ForgedUserInfo) => signed(provider, answer, true).await,
            (Endpoint::Jwks, Lie::NoKeyNames) => changed_keys(answer, |keys| nameless(keys)).await,
            (Endpoint::Jwks, Lie::StrangeKeys) => changed_keys(answer, with_foreign_keys).await,
            _ => answer,
        };
    }
    answer
}

async fn object(answer: Response) -> (Response, Map<String, Value>) {
    let (head, body) = answer.into_parts();
    let bytes = to_bytes(body, LONGEST).await.unwrap_or_default();
    let object = serde_json::from_slice(&bytes).unwrap_or_default();
    (Response::from_parts(head, bytes.into()), object)
}

fn rewritten(answer: Response, text: String) -> Response {
    let (mut head, _) = answer.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    (head.status, head.headers, text).into_response()
}

async fn with_field(answer: Response, name: &str, value: Value) -> Response {
    let (answer, mut object) = object(answer).await;
    object.insert(name.to_owned(), value);
    rewritten(answer, Value::Object(object).to_string())
}

async fn as_form(answer: Response) -> Response {
    let (answer, object) = object(answer).await;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let pairs = object.iter().map(|(name, value)| (name.as_str(), text(value)));
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    of_type(rewritten(answer, form), "application/x-www-form-urlencoded")
}

fn of_type(mut answer: Response, kind: &str) -> Response {
    answer.headers_mut().remove(header::CONTENT_TYPE);
    if let Ok(kind) = HeaderValue::from_str(kind)
        && !kind.is_empty()
    {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}

async fn signed(provider: &Provider, answer: Response, forged: bool) -> Response {
    let (answer, object) = object(answer).await;
    match id_token::sign_userinfo(provider, object, forged) {
        Ok(token) => of_type(rewritten(answer, token), "application/jwt"),
        Err(_) => answer,
    }
}

async fn changed_keys(answer: Response, change: impl FnOnce(&mut Vec<Value>)) -> Response {
    let (answer, mut object) = object(answer).await;
    if let Some(Value::Array(keys)) = object.get_mut("keys") {
        change(keys);
    }
    rewritten(answer, Value::Object(object).to_string())
}

fn nameless(keys: &mut [Value]) {
    keys.iter_mut().filter_map(Value::as_object_mut).for_each(|key| drop(key.remove("kid")));
}

/// Inserts, before the good keys, another one of the same `kid`, and some unusable ones.
fn with_foreign_keys(keys: &mut Vec<Value>) {
    let name = keys.first().and_then(|key| key.get("kid")).cloned().unwrap_or_default();
    let mut foreign = vec![
        json!({ "kty": "XYZ", "kid": name, "alg": "XY999" }),
        json!({ "kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": name, "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "oct", "kid": name, "k": "AQAB" }),
        Value::Null,
    ];
    if let Ok(Value::Object(mut other)) = Key::generate().map(|other| other.jwk()) {
        other.insert("kid".to_owned(), name);
        foreign.push(Value::Object(other));
    }
    keys.splice(0..0, foreign);
}
