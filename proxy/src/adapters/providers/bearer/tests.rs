//! Bearer tokens, valid and forged, in tables; the clock does not move.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA384,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::bearers::LONGEST;
use super::*;
use crate::domain::identity::Identified as _;
use crate::domain::principal::{Known as _, Proof};
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Keyring {
    first: EcdsaKeyPair,
    second: EcdsaKeyPair,
    unnamed: Ed25519KeyPair,
    rsa: RsaKeyPair,
    stranger: EcdsaKeyPair,
}

static KEYS: LazyLock<Keyring> = LazyLock::new(|| {
    let ec = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    Keyring {
        first: ec(),
        second: ec(),
        unnamed: Ed25519KeyPair::generate().unwrap(),
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        stranger: ec(),
    }
});

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec_jwk(pair: &EcdsaKeyPair) -> Value {
    let point = pair.public_key().as_ref();
    json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
}

fn with(mut object: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        match value.as_str() {
            Some("(absent)") => drop(object.as_object_mut().unwrap().remove(name)),
            _ => object[name] = value.clone(),
        }
    }
    object
}

/// Two keys of one name, one without, and an RSA key.
fn jwks() -> Vec<u8> {
    let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(KEYS.rsa.public_key());
    let keys = json!({ "keys": [
        with(ec_jwk(&KEYS.second), json!({ "kid": "a" })),
        with(ec_jwk(&KEYS.first), json!({ "kid": "a" })),
        { "kty": "OKP", "crv": "Ed25519", "x": b64(KEYS.unnamed.public_key()) },
        { "kty": "RSA", "kid": "r", "n": b64(rsa.n), "e": b64(rsa.e) },
    ]});
    serde_json::to_vec(&keys).unwrap()
}

fn issuer() -> IssuerSettings {
    IssuerSettings {
        name: "cluster".into(),
        issuer: IssuerName::Named(ISSUER.into()),
        audiences: vec!["https://app.example.com".into(), "sidegate".into()],
        client_id: None,
        takes_id_tokens: false,
        names: ClaimNames::default(),
        claims: vec!["kubernetes.io.namespace".into()],
        keys: Some(jwks()),
        roots: Vec::new(),
        way_out: None,
    }
}

fn bearers(issuers: Vec<IssuerSettings>) -> Bearers {
    Bearers::new(&BearerSettings { issuers, github: None }).unwrap()
}

/// A token as the kubelet projects it into a pod.
fn projected() -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:ci:deployer", "aud": ["https://app.example.com"],
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "jti": "0ddba11",
        "kubernetes.io": { "namespace": "ci", "serviceaccount": { "name": "deployer", "uid": "7" } },
    })
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", b64(header.to_string()), b64(claims.to_string()))
}

fn es256(pair: &EcdsaKeyPair, header: &Value, claims: &Value) -> String {
    let text = unsigned(header, claims);
    let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", b64(signature))
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "a", "typ": "JWT" })
}

fn token(claims: &Value) -> String {
    es256(&KEYS.first, &header(), claims)
}

async fn verify(bearers: &Bearers, token: &str) -> Result<Arc<LoadedSession>, BearerError> {
    bearers.verify(token, Timestamp::from_secs(NOW)).await.map(|(session, _)| session)
}

#[tokio::test]
async fn a_service_account_is_who_its_token_says() {
    let session = verify(&bearers(vec![issuer()]), &token(&projected())).await.unwrap();
    let principal = session.principal();
    assert_eq!((principal.provider, principal.by, principal.proved_at), ("cluster", Proof::Bearer, None));
    assert_eq!(principal.identity.id, "system:serviceaccount:ci:deployer");
    assert!(principal.claims.hold("kubernetes.io.namespace", "ci"));
    assert_eq!(session.session().expires_at, Timestamp::from_secs(NOW + 3600));
    assert_eq!((session.identity().email_str(), session.identity().username.as_str()), ("", ""));
    let text = std::str::from_utf8(session.headers().text()).unwrap();
    assert!(text.contains("x-forwarded-provider: cluster\r\n"), "{text}");
    assert!(text.contains("x-forwarded-user: system:serviceaccount:ci:deployer\r\n"), "{text}");
}

#[tokio::test]
async fn tokens_that_say_all_they_must_are_accepted() {
    let bearers = bearers(vec![issuer()]);
    for good in [
        json!({}),
        json!({ "aud": "sidegate" }),
        json!({ "aud": ["other", "sidegate", 7] }),
        json!({ "exp": NOW - 59 }),
        json!({ "exp": (NOW + 5) as f64 + 0.5 }),
        json!({ "exp": 4e9 }),
        json!({ "exp": u64::MAX }),
        json!({ "iat": NOW + 60, "nbf": NOW + 60 }),
        json!({ "iat": "(absent)", "nbf": "(absent)", "jti": "(absent)" }),
        json!({ "iat": NOW as f64 - 0.25 }),
        json!({ "typ": "Bearer", "azp": "somebody", "scope": "openid", "client_id": "x", "acr": "1" }),
        json!({ "sub": "s".repeat(1024) }),
    ] {
        let verdict = verify(&bearers, &token(&with(projected(), good.clone()))).await;
        assert!(verdict.is_ok(), "{good}: {:?}", verdict.err());
    }
    for kind in [json!("at+jwt"), json!("application/at+jwt"), json!("AT+JWT"), json!("jwt"), json!("(absent)")] {
        let header = with(header(), json!({ "typ": kind }));
        assert!(verify(&bearers, &es256(&KEYS.first, &header, &projected())).await.is_ok(), "{kind}");
    }
    // Each key with the token's key id is tried, and those without an id; a token without one is tried with all.
    for header in [header(), with(header(), json!({ "kid": "(absent)" }))] {
        assert!(verify(&bearers, &es256(&KEYS.second, &header, &projected())).await.is_ok());
    }
    let text = unsigned(&json!({ "alg": "EdDSA", "kid": "whatever" }), &projected());
    let signature = b64(KEYS.unnamed.sign(text.as_bytes()));
    assert!(verify(&bearers, &format!("{text}.{signature}")).await.is_ok(), "EdDSA");
    for (algorithm, padding) in
        [("RS256", &RSA_PKCS1_SHA256 as &'static dyn aws_lc_rs::signature::RsaEncoding), ("PS384", &RSA_PSS_SHA384)]
    {
        let text = unsigned(&json!({ "alg": algorithm, "kid": "r" }), &projected());
        let mut signature = vec![0; KEYS.rsa.public_modulus_len()];
        KEYS.rsa.sign(padding, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        assert!(verify(&bearers, &format!("{text}.{}", b64(signature))).await.is_ok(), "{algorithm}");
    }
}

#[tokio::test]
async fn each_claim_that_is_wrong_is_refused() {
    let bearers = bearers(vec![issuer()]);
    for (bad, word) in [
        (json!({ "iss": "(absent)" }), "issuer"),
        (json!({ "iss": null }), "issuer"),
        (json!({ "iss": "https://evil.example" }), "https://evil.example"),
        (json!({ "iss": format!("{ISSUER}/") }), "issuer"),
        (json!({ "iss": ISSUER.to_uppercase() }), "issuer"),
        (json!({ "iss": [ISSUER] }), "issuer"),
        (json!({ "sub": "(absent)" }), "subject"),
        (json!({ "sub": "" }), "subject"),
        (json!({ "sub": 7 }), "subject"),
        (json!({ "sub": "s".repeat(1025) }), "subject"),
        (json!({ "aud": "(absent)" }), "audience"),
        (json!({ "aud": null }), "audience"),
        (json!({ "aud": [] }), "audience"),
        (json!({ "aud": "other" }), "audiences is accepted: other"),
        (json!({ "aud": "SIDEGATE" }), "audience"),
        (json!({ "aud": "sidegate " }), "audience"),
        (json!({ "aud": { "sidegate": true } }), "audience"),
        (json!({ "aud": [["sidegate"]] }), "audience"),
        (json!({ "exp": "(absent)" }), "expiry"),
        (json!({ "exp": null }), "expiry"),
        (json!({ "exp": "4000000000" }), "expiry"),
        (json!({ "exp": 1e300 }), "expiry"),
        (json!({ "exp": -1 }), "expiry"),
        (json!({ "exp": [NOW + 5] }), "expiry"),
        (json!({ "exp": true }), "expiry"),
        (json!({ "exp": NOW - 60 }), "expired"),
        (json!({ "exp": (NOW - 60) as f64 + 0.9 }), "expired"),
        (json!({ "exp": 0 }), "expired"),
        (json!({ "iat": NOW + 61 }), "not valid yet"),
        (json!({ "iat": null }), "not valid yet"),
        (json!({ "iat": "now" }), "not valid yet"),
        (json!({ "iat": 1e300 }), "not valid yet"),
        (json!({ "nbf": NOW + 61 }), "not valid yet"),
        (json!({ "nbf": "soon" }), "not valid yet"),
        (json!({ "nbf": null }), "not valid yet"),
        (json!({ "cnf": { "jkt": "x" } }), "bound to a key"),
        (json!({ "cnf": null }), "bound to a key"),
        (json!({ "nonce": "n" }), "`nonce`"),
        (json!({ "at_hash": "x" }), "`at_hash`"),
        (json!({ "c_hash": null }), "`c_hash`"),
        (json!({ "events": {} }), "event"),
        (json!({ "typ": "ID" }), "no access token"),
        (json!({ "typ": "Refresh" }), "no access token"),
        (json!({ "typ": "Offline" }), "no access token"),
    ] {
        let refusal = verify(&bearers, &token(&with(projected(), bad.clone()))).await.err();
        let Some(BearerError::Invalid(reason)) = refusal else { panic!("{bad}: {refusal:?}") };
        assert!(reason.contains(word), "{bad}: {reason}");
    }
}

#[tokio::test]
async fn each_forgery_is_refused() {
    let bearers = bearers(vec![issuer()]);
    let claims = projected();
    let good = token(&claims);
    assert!(verify(&bearers, &good).await.is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let headed = |more: Value| es256(&KEYS.first, &with(header(), more), &claims);
    let strangers = |more: Value| es256(&KEYS.stranger, &with(header(), more), &claims);
    let by_hmac = |algorithm: &str, secret: &[u8]| {
        let text = unsigned(&json!({ "alg": algorithm, "kid": "a" }), &claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        format!("{text}.{}", b64(hmac::sign(&key, text.as_bytes())))
    };
    let other = b64(with(claims.clone(), json!({ "sub": "system:serviceaccount:kube-system:root" })).to_string());
    let cut = &parts[2][..parts[2].len() - 4];
    let forgeries: Vec<(&str, String)> = vec![
        ("alg none", format!("{}.", unsigned(&json!({ "alg": "none" }), &claims))),
        ("alg NONE", format!("{}.", unsigned(&json!({ "alg": "NONE", "kid": "a" }), &claims))),
        ("alg none with a signature", format!("{}.{}", unsigned(&json!({ "alg": "none" }), &claims), parts[2])),
        ("no alg", headed(json!({ "alg": "(absent)" }))),
        ("HMAC with the set", by_hmac("HS256", &jwks())),
        ("HMAC with the point", by_hmac("HS256", KEYS.first.public_key().as_ref())),
        ("HMAC with nothing", by_hmac("HS256", b"")),
        ("another algorithm", headed(json!({ "alg": "ES384" }))),
        ("RSA's algorithm", headed(json!({ "alg": "RS256" }))),
        ("an algorithm in small letters", headed(json!({ "alg": "es256" }))),
        ("another's signature", strangers(json!({}))),
        ("another's key by its own name", strangers(json!({ "kid": "stranger" }))),
        ("another's key without a name", strangers(json!({ "kid": "(absent)" }))),
        ("another's key in the header", strangers(json!({ "jwk": ec_jwk(&KEYS.stranger) }))),
        ("another's key at an address", strangers(json!({ "jku": "https://evil.example/keys" }))),
        ("a key's name that leads out", headed(json!({ "kid": "../../dev/null" }))),
        ("a key's name that is a number", headed(json!({ "kid": 7 }))),
        ("crit", headed(json!({ "crit": ["exp"] }))),
        ("crit of nothing", headed(json!({ "crit": [] }))),
        ("b64", headed(json!({ "crit": ["b64"], "b64": false }))),
        ("a logout token", headed(json!({ "typ": "logout+jwt" }))),
        ("an identity assertion", headed(json!({ "typ": "dpop+jwt" }))),
        ("a security event", headed(json!({ "typ": "application/secevent+jwt" }))),
        ("a kind that is no text", headed(json!({ "typ": 7 }))),
        ("an empty kind", headed(json!({ "typ": "" }))),
        ("other claims", format!("{}.{other}.{}", parts[0], parts[2])),
        ("a signature that is cut", format!("{}.{}.{cut}", parts[0], parts[1])),
        ("a signature of zeros", format!("{}.{}.{}", parts[0], parts[1], b64([0; 64]))),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("five parts", format!("{good}.x.y")),
        ("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("a header that is no JSON", format!("{}.{}.{}", b64("{"), parts[1], parts[2])),
        ("claims that are a list", es256(&KEYS.first, &header(), &json!([claims]))),
        ("claims that are a text", es256(&KEYS.first, &header(), &json!("x"))),
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("an opaque token", "gho_16C7e42F292c6912E7710c838347Ae178B4a".to_owned()),
        ("too long", format!("{good}{}", "x".repeat(LONGEST))),
    ];
    for (what, forged) in forgeries {
        let verdict = verify(&bearers, &forged).await;
        assert!(
            matches!(verdict, Err(BearerError::Invalid(_))),
            "{what} was accepted, or blamed on the issuer: {forged}"
        );
    }
    let long = token(&with(claims, json!({ "x": "y".repeat(LONGEST) })));
    assert!(
        matches!(verify(&bearers, &long).await, Err(BearerError::Invalid(why)) if why.contains("longer than 16384"))
    );
}

#[tokio::test]
async fn an_id_token_counts_only_where_the_operator_says_so() {
    let client = || IssuerSettings { client_id: Some("client".into()), ..issuer() };
    let id_token = token(&with(projected(), json!({ "aud": "client", "nonce": "n", "at_hash": "x" })));
    let both = token(&with(projected(), json!({ "aud": ["client", "sidegate"] })));
    let plain = bearers(vec![client()]);
    assert!(verify(&plain, &id_token).await.is_err());
    assert!(verify(&plain, &both).await.is_err(), "an ID token for several");
    let issuer =
        IssuerSettings { audiences: vec!["client".into(), "sidegate".into()], takes_id_tokens: true, ..client() };
    let bearers = bearers(vec![issuer]);
    assert!(verify(&bearers, &id_token).await.is_ok());
    assert!(verify(&bearers, &both).await.is_ok());
    let keycloaks = token(&with(projected(), json!({ "aud": "sidegate", "typ": "ID", "nonce": "n" })));
    assert!(verify(&bearers, &keycloaks).await.is_ok());
    let refresh = token(&with(projected(), json!({ "aud": "sidegate", "typ": "Refresh" })));
    assert!(verify(&bearers, &refresh).await.is_err());
}

#[tokio::test]
async fn claims_make_an_identity_by_the_names_that_the_operator_gave() {
    let names = ClaimNames {
        username: Some("login".into()),
        email: "mail".into(),
        groups: "realm_access.roles".into(),
        name: "title".into(),
    };
    let claims = json!({
        "login": "robot", "mail": "robot@example.com", "email_verified": true, "title": "Robot",
        "realm_access": { "roles": ["ops", 7] }, "auth_time": NOW - 5,
    });
    let session =
        verify(&bearers(vec![IssuerSettings { names, ..issuer() }]), &token(&with(projected(), claims))).await.unwrap();
    let who = session.identity();
    assert_eq!(
        (who.username.vouched(), who.email_str(), who.name.as_str(), who.groups.as_slice()),
        (Some("robot"), "robot@example.com", "Robot", &["ops".to_owned()][..])
    );
    assert_eq!(session.principal().proved_at, Some(Timestamp::from_secs(NOW - 5)));
    for not in [json!(false), json!("(absent)"), json!(1), json!("yes")] {
        let claims = json!({ "email": "a@example.com", "email_verified": not, "preferred_username": "root" });
        let session = verify(&bearers(vec![issuer()]), &token(&with(projected(), claims))).await.unwrap();
        assert_eq!((session.identity().email_str(), session.identity().username.vouched()), ("", None), "{not}");
    }
    for odd in [json!("soon"), json!(1e300), json!(-1)] {
        let session =
            verify(&bearers(vec![issuer()]), &token(&with(projected(), json!({ "auth_time": odd })))).await.unwrap();
        assert_eq!(session.principal().proved_at, None, "{odd}");
    }
    let future = json!({ "auth_time": NOW + 1000 });
    let session = verify(&bearers(vec![issuer()]), &token(&with(projected(), future))).await.unwrap();
    assert_eq!(session.principal().proved_at, Some(Timestamp::from_secs(NOW)), "a moment to come is this one");
}

#[tokio::test]
async fn of_several_sections_of_one_issuer_the_audience_says_which() {
    let other = IssuerSettings { name: "other".into(), audiences: vec!["other".into()], ..issuer() };
    let both = bearers(vec![issuer(), other]);
    let name = async |audience: &str| {
        let session = verify(&both, &token(&with(projected(), json!({ "aud": audience })))).await;
        session.map(|session| session.provider().to_owned()).ok()
    };
    assert_eq!(name("sidegate").await.as_deref(), Some("cluster"));
    assert_eq!(name("other").await.as_deref(), Some("other"));
    assert_eq!(name("third").await, None);
    assert_eq!(both.issuers(), [ISSUER]);
}

#[tokio::test]
async fn a_token_is_remembered_for_a_minute_and_never_past_its_end() {
    let at = |secs| Timestamp::from_secs(NOW + secs);
    let bearers = bearers(vec![issuer()]);
    let (long, short) = (token(&projected()), token(&with(projected(), json!({ "exp": NOW + 30 }))));
    for (token, after, expected) in [
        (&long, 0, Ok(Verified::Now)),
        (&long, 59, Ok(Verified::Before)),
        (&long, 60, Ok(Verified::Now)),
        (&short, 0, Ok(Verified::Now)),
        (&short, 29, Ok(Verified::Before)),
        (&short, 30, Ok(Verified::Now)),
        (&short, 31, Ok(Verified::Now)),
        (&short, 90, Err(())),
    ] {
        let verified = bearers.verify(token, at(after)).await.map(|(_, verified)| verified).map_err(drop);
        assert_eq!(verified, expected, "{after}");
    }
    // A token accepted within the leeway does not end at once.
    let (session, _) = bearers.verify(&short, at(31)).await.unwrap();
    assert_eq!(session.session().expires_at, at(90));
    // Rejected tokens are not cached, nor are tokens under other settings.
    assert!(bearers.verify("a.b.c", at(0)).await.is_err());
    assert!(
        !bearers.is_of(&BearerSettings::default())
            && bearers.is_of(&BearerSettings { issuers: vec![issuer()], github: None })
    );
}

#[tokio::test]
async fn what_was_accepted_counts_only_under_the_same_settings() {
    let session = verify(&bearers(vec![issuer()]), &token(&projected())).await.unwrap();
    assert!(bearers(vec![issuer()]).vouches_for(&session));
    for changed in [
        // The key that signed the token may be the one that was taken out of the file.
        IssuerSettings { keys: Some(b"{}".to_vec()), ..issuer() },
        IssuerSettings { name: "other".into(), ..issuer() },
        IssuerSettings { audiences: vec!["sidegate".into()], ..issuer() },
        IssuerSettings { issuer: IssuerName::Named("https://other.example".into()), ..issuer() },
        IssuerSettings { names: ClaimNames { username: Some("x".into()), ..ClaimNames::default() }, ..issuer() },
    ] {
        assert!(!bearers(vec![changed]).vouches_for(&session));
    }
    assert!(!bearers(Vec::new()).vouches_for(&session));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from))
}

proptest! {
    #[test]
    fn no_token_makes_it_panic_and_none_that_is_not_signed_is_accepted(
        text in ".{0,200}",
        parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 0..5),
        values in prop::collection::vec(
            (prop::sample::select(vec!["iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "typ", "cnf", "auth_time"]), any_json()),
            1..6,
        ),
    ) {
        let bearers = bearers(vec![issuer()]);
        let run = |token: &str| {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(verify(&bearers, token)).is_ok()
        };
        let mut claims = projected();
        for (name, value) in values {
            claims[name] = value;
        }
        prop_assert!(!run(&text));
        prop_assert!(!run(&parts.join(".")));
        prop_assert!(!run(&es256(&KEYS.stranger, &header(), &claims)));
        run(&token(&claims));
    }
}

#[tokio::test]
async fn what_of_a_token_does_not_count_is_kept_for_the_log_of_a_refusal() {
    let names = ClaimNames { username: Some("account.login".into()), email: "mail".into(), ..ClaimNames::default() };
    let issuer = |names, client_id| IssuerSettings { names, client_id, claims: vec!["level".into()], ..issuer() };
    let section = bearers(vec![issuer(names.clone(), None)]);
    let said = async |bearers: &Bearers, claims: Value| {
        let session = verify(bearers, &token(&with(projected(), claims))).await.unwrap();
        session.omitted().iter().map(|omitted| omitted.reason.clone()).collect::<Vec<_>>()
    };
    let of = "of a token of system:serviceaccount:ci:deployer";
    let username = format!("The username {of} does not count: `account.login`, which");
    for (claims, says) in [
        (
            json!({ "mail": "a@b.c" }),
            format!("The email {of} does not count: the provider sent a@b.c without `email_verified`"),
        ),
        (
            json!({ "mail": "a@b.c", "email_verified": false }),
            format!("The email {of} does not count: `email_verified` of a@b.c is false"),
        ),
        (
            json!({ "groups": [{ "role": "ops" }, "dev"] }),
            format!(
                "Not all groups {of} were taken, so no rule for those lets them in: 1 of the 2 entries of `groups` are not names: an object"
            ),
        ),
        (
            json!({ "level": 3 }),
            format!(
                "Not all of a claim {of} was taken, so no rule for the rest lets them in: `level` is a number, where a text or a list of names is expected"
            ),
        ),
        (json!({ "account": { "login": 7 } }), format!("{username} `username_claim` names, is a number, not text")),
    ] {
        assert_eq!(said(&section, claims.clone()).await, [says], "{claims}");
    }
    let good =
        json!({ "mail": "a@b.c", "email_verified": true, "groups": ["a"], "level": "3", "account": { "login": "x" } });
    for nothing in [json!({}), good] {
        assert!(said(&section, nothing.clone()).await.is_empty(), "{nothing}");
    }
    let plain = bearers(vec![issuer(names, Some("client".into()))]);
    let all = said(&plain, json!({ "account": { "login": 7 } })).await;
    assert_eq!(all, [format!("{username} OAUTH_USERNAME_CLAIM names, is a number, not text")]);
}
