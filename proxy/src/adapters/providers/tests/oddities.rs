//! Unusual but valid data of real providers is accepted; invalid data that resembles it is refused.

use dev_idp::{Lie, OldKey};
use serde_json::{Value, json};

use super::*;

/// Each provider, and the outcome of a sign-in as Ann there.
async fn each(lie: Lie) -> Vec<(&'static str, Result<SignedIn, SignInError>)> {
    let mut outcomes = Vec::new();
    for (name, bench) in [
        ("github", Bench::with(github::settings).await),
        ("entra", Bench::with(entra::contoso).await),
        ("oidc", Bench::with(oidc::settings).await),
    ] {
        bench.control().lie(lie.clone());
        outcomes.push((name, bench.signed_in("ann").await));
    }
    outcomes
}

#[tokio::test]
async fn a_tokens_life_is_taken_sanely_whatever_it_looks_like() {
    for (sent, lasts) in [
        (json!("3599"), Some(3599)),
        (json!(3600.5), Some(3600)),
        (json!(1e30), Some(315_360_000)),
        (json!(-1), None),
        (json!("soon"), None),
        (Value::Null, None),
    ] {
        for (name, outcome) in each(Lie::TokenField("expires_in".into(), sent.clone())).await {
            let grant = outcome.unwrap_or_else(|error| panic!("{name}, {sent}: {error}")).grant.unwrap();
            let end = grant.access_expires_at.map(|end| end.since(now()).as_secs());
            let near = |(end, lasts): (u64, u64)| end <= lasts && lasts - end < 60;
            assert!(end.zip(lasts).map_or(end == lasts, near), "{name}, {sent}: {end:?}");
        }
    }
}

#[tokio::test]
async fn a_token_answer_counts_by_what_it_holds_not_by_what_it_is_called() {
    for kind in ["text/plain", "text/javascript; charset=utf-8", "application/octet-stream", ""] {
        for (name, outcome) in each(Lie::TokenContentType(kind.into())).await {
            outcome.unwrap_or_else(|error| panic!("{name}, {kind:?}: {error}"));
        }
    }
    let (scopes, no_error) =
        (Lie::TokenField("scope".into(), json!(["a", "b"])), Lie::TokenField("error".into(), json!("")));
    for lie in [Lie::TokenForm, scopes, no_error] {
        for (name, outcome) in each(lie.clone()).await {
            outcome.unwrap_or_else(|error| panic!("{name}, {lie:?}: {error}"));
        }
    }
}

#[tokio::test]
async fn userinfo_may_be_signed_and_is_then_verified() {
    let signed = |lies: Vec<Lie>| async move {
        let bench = Bench::with(oidc::settings).await;
        lies.into_iter().for_each(|lie| bench.control().lie(lie));
        bench.sign_in("bob").await
    };
    assert_eq!(signed(vec![Lie::SignedUserInfo]).await.unwrap().email_str(), "bob@example.com");
    let claim = |name: &str, value: Value| vec![Lie::UserInfoClaim(name.into(), value), Lie::SignedUserInfo];
    assert!(signed(claim("aud", json!(["sidegate-dev"]))).await.is_ok());
    for (lies, word) in [
        (vec![Lie::ForgedUserInfo], "signature"),
        (vec![Lie::OtherSubAtUserInfo, Lie::SignedUserInfo], "another subject"),
        (claim("sub", Value::Null), "no subject"),
        (claim("iss", json!("https://another-issuer.invalid")), "issuer"),
        (claim("aud", json!("another-client")), "audience"),
        (claim("exp", json!(1_000_000_000)), "expired"),
        (claim("iat", json!(9_000_000_000_u64)), "not valid yet"),
    ] {
        let reason = user_reason(signed(lies.clone()).await);
        assert!(reason.contains(word), "{lies:?}: {reason}");
        assert_no_secret(&reason);
    }
}

#[tokio::test]
async fn what_discovery_may_leave_out_may_be_null_or_empty() {
    for name in [
        "userinfo_endpoint",
        "end_session_endpoint",
        "token_endpoint_auth_methods_supported",
        "authorization_response_iss_parameter_supported",
    ] {
        for nothing in [Value::Null, json!("")] {
            for settings in [oidc::settings, entra::contoso] {
                let bench = Bench::unread(settings).await;
                bench.control().lie(Lie::DiscoveryField(name.into(), nothing.clone()));
                bench.provider.refresh(bench.now).await;
                assert_eq!(bench.provider.trouble(), None, "{name}: {nothing}");
                bench.sign_in("ann").await.unwrap_or_else(|error| panic!("{name}, {nothing}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn of_keys_with_one_name_or_none_each_is_tried() {
    for settings in [oidc::settings, entra::contoso] {
        for lie in [Lie::StrangeKeys, Lie::NoKeyNames] {
            let bench = Bench::unread(settings).await;
            bench.idp.rotate_key(OldKey::Keep).unwrap();
            bench.control().lie(lie.clone());
            bench.provider.refresh(bench.now).await;
            bench.sign_in("ann").await.unwrap_or_else(|error| panic!("{lie:?}: {error}"));
            bench.control().lie(Lie::ForgedSignature);
            assert!(bench.sign_in("ann").await.is_err(), "{lie:?}: a forged token was believed");
        }
    }
}

#[tokio::test]
async fn keys_without_names_are_read_again_when_none_of_them_fits() {
    let bench = Bench::unread(oidc::settings).await;
    bench.control().lie(Lie::NoKeyNames);
    bench.provider.refresh(bench.now).await;
    bench.idp.rotate_key(OldKey::Drop).unwrap();
    bench.sign_in("ann").await.unwrap();
}

#[tokio::test]
async fn groups_are_one_text_or_a_list_of_texts_or_of_objects() {
    let bench = Bench::with(oidc::settings).await;
    for (sent, groups) in [
        (json!("a, b c"), vec!["a, b c"]),
        (json!(["a", "b"]), vec!["a", "b"]),
        (json!([{"name": "a"}, {"id": "b"}, {"name": "c", "id": "d"}, 7, null]), vec!["a", "b", "c"]),
    ] {
        bench.control().lie(Lie::Claim("groups".into(), sent.clone()));
        assert_eq!(bench.sign_in("ann").await.unwrap().groups, groups, "{sent}");
        bench.control().honest();
    }
}
