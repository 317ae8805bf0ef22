//! Signing out at the provider, and logout tokens from it.

use dev_idp::users::{CONTOSO, FABRIKAM};
use dev_idp::{Endpoint, Lie, OldKey};
use serde_json::json;

use super::super::Tenants;
use super::*;

#[tokio::test]
async fn the_browser_is_led_to_the_place_that_discovery_names() {
    let back = url("http://localhost:8080/api/v1/auth/signed-out");
    for (settings, path) in [
        (oidc::settings as fn(&str) -> ProviderSettings, "/oidc/end_session"),
        (entra::contoso, "/c0117050-0000-4000-8000-00000000c017/oauth2/v2.0/logout"),
    ] {
        let bench = Bench::with(settings).await;
        let hint = bench.signed_in("ann").await.unwrap().grant.unwrap().id_token.unwrap();
        let place = bench.provider.logout_url(Some(&hint), &back).unwrap();
        assert_eq!(place.path(), path);
        assert_eq!(parameter(&place, "id_token_hint").as_deref(), Some(hint.expose()));
        assert_eq!(parameter(&place, "client_id").as_deref(), Some("sidegate-dev"));
        assert_eq!(parameter(&place, "post_logout_redirect_uri").as_deref(), Some(back.as_str()));
        let without = bench.provider.logout_url(None, &back).unwrap();
        assert_eq!(parameter(&without, "id_token_hint"), None);
        let unread = Bench::unread(settings).await;
        assert!(unread.provider.logout_url(None, &back).is_none(), "nothing is known yet");
    }
    assert!(Bench::with(github::settings).await.provider.logout_url(None, &back).is_none());
}

#[tokio::test]
async fn a_long_id_token_is_no_hint() {
    let bench = Bench::with(oidc::settings).await;
    let grant = bench.signed_in("carol").await.unwrap().grant.unwrap();
    assert!(grant.id_token.is_none(), "an address with it would be cut");
    // It is also kept for upstreams that receive it.
    let bench = Bench::with(oidc::settings_that_keep_id_tokens).await;
    let token = bench.signed_in("carol").await.unwrap().grant.unwrap().id_token.unwrap();
    assert!(token.expose().len() > 4096);
    let place = bench.provider.logout_url(Some(&token), &url("http://localhost:8080/")).unwrap();
    assert_eq!(parameter(&place, "id_token_hint"), None);
}

#[tokio::test]
async fn an_id_token_beyond_the_bound_is_not_kept_for_upstreams_either() {
    let bench = Bench::with(oidc::settings_that_keep_id_tokens).await;
    bench.control().lie(Lie::Claim("padding".into(), json!("x".repeat(13 * 1024))));
    let grant = bench.signed_in("ann").await.unwrap().grant.unwrap();
    assert!(grant.id_token.is_none());
}

#[tokio::test]
async fn a_logout_token_says_whose_session_is_over() {
    let bench = Bench::with(oidc::settings).await;
    let signed_in = bench.signed_in("ann").await.unwrap();
    let token = Secret::new(bench.idp.logout_token("ann").unwrap());
    let logout = bench.provider.verify_logout(&token, bench.now).await.unwrap();
    assert_eq!(logout.subject.as_deref(), Some("oidc-ann"));
    assert!(logout.provider_session.is_some() && logout.provider_session == signed_in.provider_session);
    assert!(!logout.id.is_empty() && logout.expires_at > bench.now);
    let other = bench.provider.verify_logout(&Secret::new(bench.idp.logout_token("ann").unwrap()), bench.now).await;
    assert_ne!(other.unwrap().id, logout.id);
}

#[tokio::test]
async fn a_logout_token_that_lies_is_refused() {
    let bench = Bench::with(oidc::settings).await;
    bench.sign_in("ann").await.unwrap();
    for lie in [
        Lie::WrongIssuer,
        Lie::WrongAudience,
        Lie::Expired,
        Lie::NotYetValid,
        Lie::MissingClaim("jti".into()),
        Lie::MissingClaim("iat".into()),
        Lie::MissingClaim("events".into()),
        Lie::Claim("nonce".into(), json!("n")),
        Lie::Claim("events".into(), json!({})),
        Lie::AlgNone,
        Lie::HmacWithPublicKey,
        Lie::UnknownKey,
        Lie::ForgedSignature,
        Lie::Kind("at+jwt".into()),
        Lie::Kind("dpop+jwt".into()),
    ] {
        bench.control().lie(lie.clone());
        let token = bench.idp.logout_token("ann").unwrap();
        let outcome = bench.provider.verify_logout(&Secret::new(token), bench.now).await;
        assert!(outcome.is_err(), "{lie:?} was believed");
        bench.control().honest();
    }
    for kind in ["JWT", "logout+jwt", "application/logout+jwt"] {
        bench.control().lie(Lie::Kind(kind.into()));
        let token = bench.idp.logout_token("ann").unwrap();
        bench.provider.verify_logout(&Secret::new(token), bench.now).await.unwrap();
        bench.control().honest();
    }
}

#[tokio::test]
async fn an_id_token_is_no_logout_token_and_a_new_key_is_fetched() {
    let bench = Bench::with(oidc::settings).await;
    let id_token = bench.signed_in("ann").await.unwrap().grant.unwrap().id_token.unwrap();
    let reason = bench.provider.verify_logout(&id_token, bench.now).await.err().unwrap();
    assert!(reason.contains("events"), "{reason}");
    bench.idp.rotate_key(OldKey::Drop).unwrap();
    let asked = bench.control().requests(Endpoint::Jwks);
    let token = Secret::new(bench.idp.logout_token("ann").unwrap());
    bench.provider.verify_logout(&token, bench.now).await.unwrap();
    assert_eq!(bench.control().requests(Endpoint::Jwks), asked + 1);
}

#[tokio::test]
async fn a_key_of_one_entra_tenant_signs_no_logout_token_of_another() {
    fn of_any_tenant(origin: &str) -> ProviderSettings {
        entra::settings(origin, Tenants::Common)
    }
    let oid = "0b1ec700-0000-4000-8000-000000001001";
    // The keys of one tenant's address are for it alone, those of the address of all for each.
    for (settings, tenant, counts) in [
        (entra::contoso as fn(&str) -> ProviderSettings, CONTOSO, true),
        (entra::contoso, FABRIKAM, false),
        (of_any_tenant, FABRIKAM, true),
    ] {
        let bench = Bench::with(settings).await;
        let issuer = json!(format!("{}/{tenant}/v2.0", bench.idp.origin()));
        for (name, value) in [("iss", issuer), ("tid", json!(tenant)), ("oid", json!(oid))] {
            bench.control().lie(Lie::Claim(name.into(), value));
        }
        let token = Secret::new(bench.idp.logout_token("ann").unwrap());
        match bench.provider.verify_logout(&token, bench.now).await {
            Ok(logout) => assert!(counts && logout.subject.as_deref() == Some(oid), "{tenant}"),
            Err(reason) => assert!(!counts && reason.contains("key of another tenant"), "{tenant}: {reason}"),
        }
    }
}

#[tokio::test]
async fn github_sends_no_logout_tokens() {
    let bench = Bench::with(github::settings).await;
    assert!(bench.provider.verify_logout(&Secret::new("e30.e30.AA"), bench.now).await.is_err());
}
