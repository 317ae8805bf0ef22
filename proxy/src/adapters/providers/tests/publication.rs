//! Discovery and keys: missing, failing, rotated.

use dev_idp::{Endpoint, Fault, Lie, OldKey};

use super::*;

#[tokio::test]
async fn until_discovery_is_read_nobody_is_sent_there() {
    let bench = Bench::unread(oidc::settings).await;
    assert!(bench.provider.trouble().unwrap().contains("not been read yet"));
    for endpoint in [Endpoint::Discovery, Endpoint::Jwks] {
        for fault in faults() {
            bench.control().fail(endpoint, fault.clone());
            bench.provider.refresh(bench.now).await;
            let trouble = bench.provider.trouble().unwrap();
            assert!(trouble.contains(words_of(&fault)), "{endpoint:?} {fault:?}: {trouble}");
            let Err(SignInError::Unreachable(reason)) = bench.provider.authorization_url(&attempt(), None) else {
                panic!("{endpoint:?} {fault:?}: somebody was sent there");
            };
            assert_eq!(reason, trouble);
            bench.control().reset();
        }
    }
    bench.provider.refresh(bench.now).await;
    assert_eq!(bench.provider.trouble(), None);
    bench.sign_in("ann").await.unwrap();
}

#[tokio::test]
async fn it_comes_again_soon_while_failing_and_hourly_while_well() {
    let bench = Bench::unread(oidc::settings).await;
    bench.control().fail_times(3, Endpoint::Discovery, Fault::Status(500));
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(bench.provider.refresh(bench.now).await.as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 3600]);
}

#[tokio::test]
async fn a_good_reading_is_kept_through_failures() {
    let bench = Bench::with(oidc::settings).await;
    bench.control().fail(Endpoint::Discovery, Fault::Status(500));
    assert_eq!(bench.provider.refresh(bench.now).await.as_secs(), 1);
    assert_eq!(bench.provider.trouble(), None);
    bench.sign_in("ann").await.unwrap();
}

#[tokio::test]
async fn a_document_for_another_issuer_is_refused() {
    let idp =
        DevIdp::start(Options { public_url: Some("http://127.0.0.1:1".into()), ..Options::default() }).await.unwrap();
    let provider = connect(&oidc::settings(&format!("http://{}", idp.addr())), &[], None).unwrap();
    provider.refresh(now()).await;
    let trouble = provider.trouble().unwrap();
    assert!(trouble.contains("the issuer is http://127.0.0.1:1/oidc"), "{trouble}");
}

#[tokio::test]
async fn a_callback_to_a_replica_that_has_read_nothing_is_served() {
    let bench = Bench::with(oidc::settings).await;
    let fresh = connect(&oidc::settings(&bench.idp.origin()), &[], None).unwrap();
    let attempt = attempt();
    let callback = bench.callback(&attempt, "ann").unwrap();
    assert!(matches!(fresh.check_issuer(None), Err(SignInError::Unreachable(_))));
    assert!(matches!(fresh.check_issuer(Some("https://evil.example")), Err(SignInError::Issuer(_))));
    fresh.check_issuer(parameter(&callback, "iss").as_deref()).unwrap();
    let code = Secret::new(parameter(&callback, "code").unwrap());
    assert_eq!(fresh.sign_in(&code, &attempt, bench.now).await.unwrap().identity.id, "oidc-ann");
}

#[tokio::test]
async fn a_rotated_key_is_fetched_once_and_forged_ones_do_not_hammer() {
    for settings in [oidc::settings, entra::contoso] {
        let mut bench = Bench::with(settings).await;
        assert_eq!(bench.control().requests(Endpoint::Jwks), 1);
        bench.idp.rotate_key(OldKey::Drop).unwrap();
        let both = tokio::join!(bench.sign_in("ann"), bench.sign_in("bob"));
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(bench.control().requests(Endpoint::Jwks), 2);

        bench.control().lie(Lie::UnknownKey);
        for _ in 0..5 {
            assert!(exchange_reason(bench.sign_in("ann").await).contains("does not publish"));
        }
        assert_eq!(bench.control().requests(Endpoint::Jwks), 2);
        bench.control().honest();

        bench.idp.rotate_key(OldKey::Drop).unwrap();
        bench.now = bench.now + Duration::from_secs(61);
        bench.control().fail_times(1, Endpoint::Jwks, Fault::Status(500));
        assert!(exchange_reason(bench.sign_in("ann").await).contains("answered 500"));
        bench.now = bench.now + Duration::from_secs(61);
        bench.sign_in("ann").await.unwrap();
    }
}

#[tokio::test]
async fn keys_that_could_not_be_read_are_read_again_soon_and_the_reason_is_said_until_then() {
    for settings in [oidc::settings, entra::contoso] {
        let mut bench = Bench::with(settings).await;
        bench.idp.rotate_key(OldKey::Drop).unwrap();
        bench.control().fail(Endpoint::Jwks, Fault::Status(500));
        let begun = bench.now;
        // Pauses of one second, then two, then four.
        for (after, asked) in [(0, 2), (0, 2), (3, 3), (3, 3), (7, 4), (8, 4)] {
            bench.now = begun + Duration::from_secs(after);
            let reason = exchange_reason(bench.sign_in("ann").await);
            assert!(reason.contains("cannot be read: keys: ") && reason.contains("answered 500"), "{after}: {reason}");
            assert!(!reason.contains("does not publish"), "nobody knows: {reason}");
            assert_eq!(bench.control().requests(Endpoint::Jwks), asked, "{after}");
        }
        bench.control().clear(Endpoint::Jwks);
        bench.now = begun + Duration::from_secs(13);
        bench.sign_in("ann").await.unwrap();
        assert_eq!(bench.control().requests(Endpoint::Jwks), 5);
    }
}

#[tokio::test]
async fn forged_logout_tokens_keep_no_new_key_from_sign_ins_and_do_not_hammer() {
    let bench = Bench::with(oidc::settings).await;
    bench.control().lie(Lie::UnknownKey);
    for _ in 0..5 {
        let forged = Secret::new(bench.idp.logout_token("ann").unwrap());
        let reason = bench.provider.verify_logout(&forged, bench.now).await.err().unwrap();
        assert!(reason.contains("does not publish"), "{reason}");
    }
    assert_eq!(bench.control().requests(Endpoint::Jwks), 2);
    bench.control().honest();
    bench.idp.rotate_key(OldKey::Drop).unwrap();
    bench.sign_in("ann").await.unwrap();
    assert_eq!(bench.control().requests(Endpoint::Jwks), 3);
}

#[tokio::test]
async fn a_key_that_is_replaced_under_its_name_is_fetched_and_forged_tokens_do_not_hammer() {
    for settings in [oidc::settings, entra::contoso] {
        let mut bench = Bench::with(settings).await;
        bench.idp.rotate_key(OldKey::Replace).unwrap();
        let both = tokio::join!(bench.sign_in("ann"), bench.sign_in("bob"));
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(bench.control().requests(Endpoint::Jwks), 2);

        bench.now = bench.now + Duration::from_secs(61);
        bench.control().lie(Lie::ForgedSignature);
        for _ in 0..5 {
            assert!(exchange_reason(bench.sign_in("ann").await).contains("signature does not verify"));
        }
        assert_eq!(bench.control().requests(Endpoint::Jwks), 3);
        bench.control().honest();
        bench.sign_in("ann").await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_replaced_under_its_name_counts_for_logout_tokens_and_userinfo_too() {
    let mut bench = Bench::with(oidc::settings).await;
    bench.idp.rotate_key(OldKey::Replace).unwrap();
    let token = Secret::new(bench.idp.logout_token("ann").unwrap());
    assert_eq!(bench.provider.verify_logout(&token, bench.now).await.unwrap().subject.as_deref(), Some("oidc-ann"));

    let signed_in = bench.signed_in("bob").await.unwrap();
    bench.now = bench.now + Duration::from_secs(61);
    bench.idp.rotate_key(OldKey::Replace).unwrap();
    bench.control().lie(Lie::SignedUserInfo);
    let renewed = bench.provider.renew(&signed_in.identity, &signed_in.grant.unwrap(), bench.now).await.unwrap();
    assert_eq!(renewed.identity.unwrap(), signed_in.identity);
}
