//! The least HTTP client that will do, and the client's side of a sign-in.

use dev_idp::{DevIdp, Options};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Url, form_urlencoded};

pub(crate) const CALLBACK: &str = "http://localhost:8080/api/v1/auth/callback";
/// The pair of RFC 7636 appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// Whether the body was as long as the head said.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.body))
    }

    pub(crate) fn location(&self) -> Url {
        let location = self.header("location").unwrap_or_else(|| panic!("no location: {} {}", self.head, self.body));
        Url::parse(location).unwrap()
    }
}

pub(crate) async fn idp() -> DevIdp {
    DevIdp::start(Options::default()).await.unwrap()
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = Url::parse(url).unwrap();
    let authority = url.authority();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = format!(
        "{method} {}{query} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {}\r\n",
        url.path(),
        body.len()
    );
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let address = ("127.0.0.1", url.port().unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _reset_counts_as_end = stream.read_to_end(&mut bytes).await;
    read(&String::from_utf8(bytes).unwrap())
}

fn read(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, head: head.to_owned(), body: body.to_owned(), whole: true };
    if answer.header("transfer-encoding").is_some() {
        (answer.body, answer.whole) = dechunk(body);
    } else if let Some(length) = answer.header("content-length") {
        answer.whole = length.parse() == Ok(body.len());
    }
    answer
}

fn dechunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = tail.get(..size) else { break };
        body += chunk;
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}

pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    send("GET", url, headers, "").await
}

pub(crate) async fn get_as(url: &str, token: &str) -> Answer {
    get(url, &[("Authorization", &format!("Bearer {token}")), ("User-Agent", "test")]).await
}

pub(crate) async fn post(url: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut headers = headers.to_vec();
    headers.push(("Content-Type", "application/x-www-form-urlencoded"));
    send("POST", url, &headers, &body).await
}

/// An authorization request with everything that a good client sends, changed by `changes`: an
/// empty value takes a parameter out.
pub(crate) fn authorize_url(endpoint: &str, scope: &str, changes: &[(&str, &str)]) -> String {
    let mut fields = vec![
        ("response_type", "code"),
        ("client_id", "sidegate-dev"),
        ("redirect_uri", CALLBACK),
        ("scope", scope),
        ("state", "st/a te"),
        ("nonce", "n-1"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    Url::parse_with_params(endpoint, fields).unwrap().into()
}

pub(crate) fn param(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// The code that signing in as `user` brings.
pub(crate) fn code(idp: &DevIdp, authorize_url: &str, user: &str) -> String {
    let callback = Url::parse(&idp.approve(authorize_url, user).unwrap()).unwrap();
    assert_eq!(param(&callback, "state").as_deref(), Some("st/a te"));
    param(&callback, "code").unwrap_or_else(|| panic!("no code: {callback}"))
}

/// Redeems a code with everything that a good client sends, changed by `changes`.
pub(crate) async fn redeem(endpoint: &str, code: &str, changes: &[(&str, &str)]) -> Answer {
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("client_id", "sidegate-dev"),
        ("client_secret", "sidegate-dev-secret"),
        ("redirect_uri", CALLBACK),
        ("code", code),
        ("code_verifier", VERIFIER),
    ];
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    post(endpoint, &fields, &[("Accept", "application/json")]).await
}

/// The claims of an ID token, verified by another implementation against the published keys.
pub(crate) async fn verified(token: &str, jwks_url: &str) -> Result<Value, jsonwebtoken::errors::Error> {
    let _once = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(get(jwks_url, &[]).await.json()).unwrap();
    let header = jsonwebtoken::decode_header(token)?;
    let unknown = || jsonwebtoken::errors::Error::from(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat);
    let jwk = jwks.find(&header.kid.unwrap()).ok_or_else(unknown)?;
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    rules.set_audience(&["sidegate-dev"]);
    rules.validate_nbf = true;
    Ok(jsonwebtoken::decode::<Value>(token, &key, &rules)?.claims)
}
