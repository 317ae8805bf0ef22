//! OpenID Connect.

use dev_idp::{Endpoint, Lie};
use serde_json::json;

use super::*;
use crate::domain::claims::Claims;
use crate::domain::identity::{ProviderKind, Username};
use crate::ports::Prompt;

pub(super) fn settings(origin: &str) -> ProviderSettings {
    with_claim(origin, None)
}

/// Settings with which upstreams receive the ID token.
pub(super) fn settings_that_keep_id_tokens(origin: &str) -> ProviderSettings {
    ProviderSettings::Oidc {
        client: ClientRegistration { keeps_id_token: true, ..client(&["openid", "profile", "email"]) },
        issuer: url(&format!("{origin}/oidc")),
        username_claim: None,
        wants_groups: true,
        claims: Vec::new(),
    }
}

fn with_claim(origin: &str, username_claim: Option<&str>) -> ProviderSettings {
    ProviderSettings::Oidc {
        client: client(&["openid", "profile", "email"]),
        issuer: url(&format!("{origin}/oidc")),
        username_claim: username_claim.map(ToOwned::to_owned),
        wants_groups: true,
        claims: Vec::new(),
    }
}

#[tokio::test]
async fn a_username_counts_as_long_as_the_claim_is_named_that_vouched_for_it() {
    let vouched = Bench::with(|origin| with_claim(origin, Some("preferred_username"))).await;
    let admits = |who: &Identity, claim: Option<&str>| {
        connect(&with_claim(&vouched.idp.origin(), claim), &[], None).unwrap().admits(who)
    };
    let who = vouched.sign_in("ann").await.unwrap();
    assert!(admits(&who, Some("preferred_username")));
    assert!(!admits(&who, Some("sub")) && !admits(&who, None));
    // From before the claim's name was kept.
    let before = Identity { claims: Claims::default(), ..who };
    assert!(admits(&before, Some("sub")) && !admits(&before, None));
    let displayed = Bench::with(settings).await.sign_in("ann").await.unwrap();
    for claim in [None, Some("preferred_username"), Some("sub")] {
        assert!(admits(&displayed, claim), "{claim:?}: it is nobody's name to the rules");
    }
}

#[tokio::test]
async fn the_browser_is_sent_with_state_nonce_and_a_challenge() {
    let bench = Bench::with(settings).await;
    let attempt = attempt();
    let address = bench.provider.authorization_url(&attempt, Some(Prompt::SelectAccount)).unwrap();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "sidegate-dev"),
        ("redirect_uri", "http://localhost:8080/api/v1/auth/callback"),
        ("scope", "openid profile email"),
        ("state", attempt.state()),
        ("nonce", attempt.nonce()),
        ("code_challenge_method", "S256"),
        ("prompt", "select_account"),
    ] {
        assert_eq!(parameter(&address, name).as_deref(), Some(value), "{name}");
    }
    let plain = bench.provider.authorization_url(&attempt, None).unwrap();
    assert_eq!(parameter(&plain, "prompt"), None);
    assert!(!plain.as_str().contains(attempt.verifier()));
}

#[tokio::test]
async fn everybody_is_who_their_claims_say() {
    let bench = Bench::with(settings).await;
    for (user, email, username, groups) in [
        ("ann", "ann@example.com", "ann", 2),
        ("bob", "bob@example.com", "bob", 1),
        ("carol", "carol@example.com", "carol", dev_idp::users::CAROLS_GROUPS),
        ("eve", "", "eve", 0),
        ("zoe", "zoe@example.com", "zoë, 100%", 2),
    ] {
        let who = bench.sign_in(user).await.unwrap();
        assert_eq!(who.provider, ProviderKind::Oidc);
        assert_eq!(who.id, format!("oidc-{user}"));
        assert_eq!(who.email_str(), email, "{user}");
        assert_eq!(who.username, Username::Displayed(username.into()));
        assert_eq!(who.groups.len(), groups, "{user}");
    }
    assert_eq!(bench.sign_in("zoe").await.unwrap().name, "Zoë <b>, 100%");
}

#[tokio::test]
async fn userinfo_is_asked_only_for_what_the_token_lacks() {
    let bench = Bench::with(settings).await;
    bench.sign_in("ann").await.unwrap();
    assert_eq!(bench.control().requests(Endpoint::UserInfo), 0);
    bench.sign_in("bob").await.unwrap();
    assert_eq!(bench.control().requests(Endpoint::UserInfo), 1);
}

#[tokio::test]
async fn the_configured_claim_is_the_username_that_counts() {
    let bench = Bench::with(|origin| with_claim(origin, Some("preferred_username"))).await;
    assert_eq!(bench.sign_in("ann").await.unwrap().username, Username::Vouched("ann".into()));
    assert_eq!(bench.sign_in("bob").await.unwrap().username, Username::Vouched("bob".into()));
    bench.control().lie(Lie::Claim("preferred_username".into(), json!(["ann"])));
    assert_eq!(bench.sign_in("ann").await.unwrap().username.vouched(), None);
}

#[tokio::test]
async fn an_id_token_that_lies_is_refused_with_the_reason() {
    let bench = Bench::with(settings).await;
    for (lie, word) in [
        (Lie::WrongNonce, "nonce"),
        (Lie::WrongAudience, "audience is not the client id"),
        (Lie::WrongAuthorizedParty, "authorized party"),
        (Lie::WrongIssuer, "issuer"),
        (Lie::Expired, "expired"),
        (Lie::NotYetValid, "not valid yet"),
        (Lie::WrongAccessTokenHash, "access token"),
        (Lie::MissingClaim("sub".into()), "subject"),
        (Lie::MissingClaim("iss".into()), "issuer"),
        (Lie::MissingClaim("aud".into()), "audience"),
        (Lie::MissingClaim("exp".into()), "expiry"),
        (Lie::MissingClaim("iat".into()), "time of issue"),
        (Lie::MissingClaim("nonce".into()), "nonce"),
        (Lie::Claim("aud".into(), json!(["sidegate-dev", "other"])), "authorized party"),
        (Lie::AlgNone, "algorithm"),
        (Lie::HmacWithPublicKey, "algorithm"),
        (Lie::UnknownKey, "does not publish"),
        (Lie::ForgedSignature, "signature"),
        (Lie::NoIdToken, "no ID token"),
        (Lie::NoAccessToken, "not a token response: `access_token` is missing"),
        (Lie::TokenField("access_token".into(), json!("")), "not a token response: `access_token` is missing"),
        (Lie::TokenField("access_token".into(), json!(7)), "not a token response: `access_token` is of another kind"),
        (Lie::TokenField("token_type".into(), json!(null)), "not a token response: `token_type` is missing"),
        (Lie::TokenField("token_type".into(), json!(["x"])), "not a token response: `token_type` is of another kind"),
        (
            Lie::TokenField("refresh_token".into(), json!({})),
            "not a token response: `refresh_token` is of another kind",
        ),
        (Lie::TokenField("id_token".into(), json!(7)), "not a token response: `id_token` is of another kind"),
        (Lie::TokenField("id_token".into(), json!("")), "no ID token"),
        (Lie::TokenType("mac".into()), "bearer"),
    ] {
        bench.control().lie(lie.clone());
        let reason = exchange_reason(bench.sign_in("ann").await);
        assert!(reason.contains(word), "{lie:?}: {reason}");
        assert_no_secret(&reason);
        bench.control().honest();
    }
    bench.sign_in("ann").await.unwrap();
}

#[tokio::test]
async fn what_is_odd_but_right_is_believed() {
    let bench = Bench::with(settings).await;
    for lie in [
        Lie::ManyAudiences,
        Lie::MissingClaim("at_hash".into()),
        Lie::MissingClaim("nbf".into()),
        Lie::EmailVerifiedAsText,
        Lie::TokenType("BEARER".into()),
    ] {
        bench.control().lie(lie.clone());
        assert_eq!(bench.sign_in("ann").await.unwrap().email_str(), "ann@example.com", "{lie:?}");
        bench.control().honest();
    }
    bench.control().lie(Lie::EmailVerifiedAsText);
    assert_eq!(bench.sign_in("eve").await.unwrap().email, None);
}

#[tokio::test]
async fn userinfo_of_somebody_else_is_refused() {
    let bench = Bench::with(settings).await;
    bench.control().lie(Lie::OtherSubAtUserInfo);
    assert!(user_reason(bench.sign_in("bob").await).contains("another subject"));
    bench.control().honest();
    bench.control().lie(Lie::UserInfoClaim("sub".into(), json!(null)));
    assert!(user_reason(bench.sign_in("bob").await).contains("another subject"));
    bench.control().honest();
    bench.control().lie(Lie::UserInfoClaim("email_verified".into(), json!(false)));
    assert_eq!(bench.sign_in("bob").await.unwrap().email, None);
}

#[tokio::test]
async fn the_callbacks_issuer_is_required_and_ours() {
    let bench = Bench::with(settings).await;
    let issuer = format!("{}/oidc", bench.idp.origin());
    assert!(bench.provider.check_issuer(Some(&issuer)).is_ok());
    for bad in [None, Some("https://another-issuer.invalid"), Some(""), Some(&*format!("{issuer}/"))] {
        assert!(matches!(bench.provider.check_issuer(bad), Err(SignInError::Issuer(_))), "{bad:?}");
    }
    for lie in [Lie::NoIssAtCallback, Lie::WrongIssAtCallback] {
        bench.control().lie(lie.clone());
        assert!(matches!(bench.sign_in("ann").await, Err(SignInError::Issuer(_))), "{lie:?}");
        bench.control().honest();
    }
    assert_eq!(bench.control().requests(Endpoint::Token), 0, "a code was redeemed");
}

#[tokio::test]
async fn every_fault_of_an_endpoint_is_reported_for_what_it_is() {
    let bench = Bench::with(settings).await;
    for (fault, outcome) in bench.through_faults(Endpoint::Token, "ann").await {
        let reason = exchange_reason(outcome);
        assert!(reason.contains(words_of(&fault)), "{fault:?}: {reason}");
        assert_no_secret(&reason);
    }
    for (fault, outcome) in bench.through_faults(Endpoint::UserInfo, "bob").await {
        let reason = user_reason(outcome);
        assert!(reason.contains(words_of(&fault)), "{fault:?}: {reason}");
        assert_no_secret(&reason);
    }
}

#[tokio::test]
async fn a_code_is_good_once_and_for_its_own_verifier() {
    let bench = Bench::with(settings).await;
    let (mine, now) = (attempt(), bench.now);
    let code = || Secret::new(parameter(&bench.callback(&mine, "ann").unwrap(), "code").unwrap());
    let once = code();
    bench.provider.sign_in(&once, &mine, now).await.unwrap();
    let reason = exchange_reason(bench.provider.sign_in(&once, &mine, now).await);
    assert!(reason.contains("invalid_grant"), "{reason}");
    let other = LoginAttempt::begin(&[9; ATTEMPT_RANDOM], ReturnTo::root(), 0, now);
    let reason = exchange_reason(bench.provider.sign_in(&code(), &other, now).await);
    assert!(reason.contains("invalid_grant"), "{reason}");
}

#[tokio::test]
async fn a_wrong_secret_is_reported_in_the_providers_words() {
    let bench = Bench::with(|origin| match settings(origin) {
        ProviderSettings::Oidc { client, issuer, username_claim, wants_groups, claims } => ProviderSettings::Oidc {
            client: ClientRegistration { secret: Secret::new("wr0ng"), ..client },
            issuer,
            username_claim,
            wants_groups,
            claims,
        },
        other @ (ProviderSettings::Github { .. } | ProviderSettings::Entra { .. }) => other,
    })
    .await;
    let reason = exchange_reason(bench.sign_in("ann").await);
    assert!(reason.contains("invalid_client") && !reason.contains("wr0ng"), "{reason}");
}

#[tokio::test]
async fn the_clock_is_the_argument() {
    let mut bench = Bench::with(settings).await;
    let issued = bench.now;
    bench.now = issued + Duration::from_secs(2 * 3600);
    assert!(exchange_reason(bench.sign_in("ann").await).contains("expired"));
    bench.now = Timestamp::from_secs(issued.secs() - 120);
    assert!(exchange_reason(bench.sign_in("ann").await).contains("not valid yet"));
    bench.now = Timestamp::from_secs(issued.secs() - 30);
    bench.sign_in("ann").await.unwrap();
}

/// What a sign-in as Ann leaves out, as the log says it.
async fn left_out(lies: Vec<Lie>, settings: impl FnOnce(&str) -> ProviderSettings) -> Vec<String> {
    let bench = Bench::with(settings).await;
    lies.into_iter().for_each(|lie| bench.control().lie(lie));
    bench.signed_in("ann").await.unwrap().omitted.into_iter().map(|omitted| omitted.reason).collect()
}

#[tokio::test]
async fn of_an_address_without_email_verified_the_log_says_so_whatever_userinfo_has() {
    let says = "The email of oidc-ann does not count: the provider sent ann@example.com without `email_verified`";
    let silent = || {
        vec![Lie::UserInfoClaim("email".into(), json!(null)), Lie::UserInfoClaim("email_verified".into(), json!(null))]
    };
    let unverified = Lie::MissingClaim("email_verified".into());
    let with_token = |mut lies: Vec<Lie>| {
        lies.push(unverified.clone());
        lies
    };
    assert_eq!(left_out(with_token(silent()), settings).await, [says]);
    let none = Lie::DiscoveryField("userinfo_endpoint".into(), json!(null));
    let bench = Bench::unread(settings).await;
    bench.control().lie(none);
    bench.control().lie(unverified.clone());
    bench.provider.refresh(bench.now).await;
    assert_eq!(bench.signed_in("ann").await.unwrap().omitted[0].reason, says);
    // Where neither has one, the scope is named; where UserInfo has another, that one is described.
    let mut lies = silent();
    lies.push(Lie::MissingClaim("email".into()));
    assert!(left_out(lies, settings).await[0].contains("sent none: is the scope `email` in OAUTH_SCOPES?"));
    let other = vec![
        Lie::UserInfoClaim("email".into(), json!("a@b.c")),
        Lie::UserInfoClaim("email_verified".into(), json!(false)),
    ];
    assert!(left_out(with_token(other), settings).await[0].contains("`email_verified` of a@b.c is false"));
}

#[tokio::test]
async fn a_username_that_is_no_text_is_named() {
    let lies = |value| vec![Lie::Claim("number".into(), value)];
    let with = |origin: &str| with_claim(origin, Some("number"));
    let all = left_out(lies(json!(7)), with).await;
    assert_eq!(
        all,
        ["The username of oidc-ann does not count: `number`, which OAUTH_USERNAME_CLAIM names, is a number, not text"]
    );
    assert!(left_out(lies(json!("7")), with).await.is_empty());
    assert!(left_out(Vec::new(), with).await.is_empty());
}

#[tokio::test]
async fn a_claim_of_a_rule_that_is_no_text_is_named() {
    let with = |origin: &str| match settings(origin) {
        ProviderSettings::Oidc { client, issuer, username_claim, wants_groups, .. } => {
            ProviderSettings::Oidc { client, issuer, username_claim, wants_groups, claims: vec!["org.level".into()] }
        }
        other @ (ProviderSettings::Github { .. } | ProviderSettings::Entra { .. }) => other,
    };
    for (value, says) in [
        (json!(3), "`org.level` is a number, where a text or a list of names is expected"),
        (json!(true), "`org.level` is true or false,"),
        (json!({"a": 1}), "`org.level` is an object,"),
        (json!(["3", 3]), "1 of the 2 entries of `org.level` are not names: a number"),
    ] {
        for lie in [
            Lie::Claim("org".into(), json!({"level": value})),
            Lie::UserInfoClaim("org".into(), json!({"level": value})),
        ] {
            let all = left_out(vec![lie], with).await;
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(
                all[0].starts_with("Not all of a claim of oidc-ann was taken, so no rule for the rest lets them in: "),
                "{all:?}"
            );
            assert!(all[0].contains(says), "{all:?}");
        }
    }
    assert!(left_out(vec![Lie::Claim("org".into(), json!({"level": "3"}))], with).await.is_empty());
}
