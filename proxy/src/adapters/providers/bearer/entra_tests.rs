//! Access tokens as Entra issues them, in versions 1.0 and 2.0, in tables, against the development provider, which publishes keys as
//! Entra does.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dev_idp::users::{CONSUMERS, CONTOSO, FABRIKAM};
use dev_idp::{DevIdp, Lie, OldKey, Options};
use serde_json::{Value, json};
use url::Url;

use super::super::Tenants;
use super::*;
use crate::domain::identity::Identified as _;
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// An API's registration: its own URI, and the id that version 2.0 uses.
const API: &str = "api://0aadad10-0000-4000-8000-00000000a910";
const API_ID: &str = "0aadad10-0000-4000-8000-00000000a910";
const OTHER_API: &str = "00000003-0000-0000-c000-000000000000";

struct Trial {
    idp: DevIdp,
    bearers: Bearers,
}

impl Trial {
    async fn of(tenants: Tenants) -> Self {
        let idp = DevIdp::start(Options::default()).await.unwrap();
        // Entra's access tokens have the type `JWT`.
        idp.control().lie(Lie::Kind("JWT".into()));
        let bearers = bearers(&idp, tenants);
        Self { idp, bearers }
    }

    /// A user's token of version 2.0.
    fn second(&self) -> Value {
        json!({
            "ver": "2.0", "iss": format!("{}/{CONTOSO}/v2.0", self.idp.origin()), "tid": CONTOSO, "aud": API_ID,
            "oid": "0b1ec700-0000-4000-8000-000000001001", "sub": "pairwise", "azp": "c11e", "azpacr": "1",
            "name": "Ann", "preferred_username": "ann@contoso.example", "scp": "Reports.Read", "uti": "x", "rh": "0.x",
        })
    }

    /// A user's token of version 1.0.
    fn first(&self) -> Value {
        json!({
            "ver": "1.0", "iss": format!("https://sts.windows.net/{CONTOSO}/"), "tid": CONTOSO, "aud": API,
            "oid": "0b1ec700-0000-4000-8000-000000001001", "sub": "pairwise", "appid": "c11e", "appidacr": "1", "acr": "1",
            "amr": ["pwd", "mfa"], "name": "Ann", "unique_name": "ann@contoso.example", "upn": "ann@contoso.example",
            "ipaddr": "192.0.2.1", "scp": "Reports.Read",
        })
    }

    async fn verify(&self, claims: &Value, more: Value) -> Result<Arc<LoadedSession>, BearerError> {
        let mut claims = claims.clone();
        for (name, value) in more.as_object().unwrap() {
            if value == "(absent)" {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let token = self.idp.access_token(&claims).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the development provider's tokens are of the real time")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.bearers.verify(&token, Timestamp::from_secs(now)).await.map(|(session, _)| session)
    }
}

fn bearers(idp: &DevIdp, tenants: Tenants) -> Bearers {
    let issuer = IssuerSettings {
        name: "entra".into(),
        issuer: IssuerName::Entra { authority: Url::parse(&idp.origin()).unwrap(), tenants },
        audiences: vec![API.into(), API_ID.into()],
        client_id: Some("sidegate".into()),
        takes_id_tokens: false,
        names: ClaimNames::default(),
        claims: vec!["scp".into(), "idtyp".into()],
        keys: None,
        roots: Vec::new(),
        way_out: None,
    };
    Bearers::new(&BearerSettings { issuers: vec![issuer], github: None }).unwrap()
}

fn contoso() -> Tenants {
    Tenants::Named(vec![CONTOSO.into()])
}

/// The token, its changed claims, and the expected result.
type Row<'a> = (Value, Value, (&'a str, &'a str, &'a [&'a str]));

#[tokio::test]
async fn tokens_of_both_versions_say_who_it_is() {
    let trial = Trial::of(contoso()).await;
    // The token, its changed claims, and the expected result: vouched username, vouched email, groups.
    let rows: [Row<'_>; 12] = [
        (trial.second(), json!({}), ("", "", &[])),
        (trial.second(), json!({ "upn": "ann@contoso.example" }), ("ann@contoso.example", "ann@contoso.example", &[])),
        (trial.second(), json!({ "email": "ann@example.com" }), ("", "ann@example.com", &[])),
        (trial.second(), json!({ "aud": API }), ("", "", &[])),
        (trial.second(), json!({ "groups": ["g1"], "roles": ["Deployer"] }), ("", "", &["g1", "Deployer"])),
        // A program with its own permissions: no user, no scopes.
        (
            trial.second(),
            json!({ "idtyp": "app", "roles": ["Deployer"], "scp": "(absent)", "name": "(absent)", "preferred_username": "(absent)" }),
            ("", "", &["Deployer"]),
        ),
        (trial.first(), json!({}), ("ann@contoso.example", "ann@contoso.example", &[])),
        (trial.first(), json!({ "aud": API_ID }), ("ann@contoso.example", "ann@contoso.example", &[])),
        (trial.first(), json!({ "groups": ["g1"] }), ("ann@contoso.example", "ann@contoso.example", &["g1"])),
        (
            trial.first(),
            json!({ "idtyp": "app", "roles": ["Deployer"], "scp": "(absent)", "upn": "(absent)", "unique_name": "(absent)" }),
            ("", "", &["Deployer"]),
        ),
        // A guest's address does not belong to this tenant.
        (
            trial.first(),
            json!({ "upn": "gus_gmail.com#EXT#@contoso.example" }),
            ("gus_gmail.com#EXT#@contoso.example", "", &[]),
        ),
        // An overage yields no groups.
        (
            trial.second(),
            json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": { "src1": { "endpoint": "https://evil.example" } } }),
            ("", "", &[]),
        ),
    ];
    for (claims, more, (username, email, groups)) in rows {
        let session = trial.verify(&claims, more.clone()).await;
        let session = session.unwrap_or_else(|error| panic!("{claims} {more}: {error:?}"));
        let who = session.identity();
        assert_eq!(who.id, "0b1ec700-0000-4000-8000-000000001001", "{more}");
        assert_eq!((who.username.vouched().unwrap_or_default(), who.email_str()), (username, email), "{more}");
        assert_eq!(who.groups, groups, "{more}");
        assert_eq!(session.provider(), "entra");
    }
}

#[tokio::test]
async fn what_is_of_another_tenant_version_or_audience_is_refused() {
    let trial = Trial::of(contoso()).await;
    let origin = trial.idp.origin();
    let (first, second) = (trial.first(), trial.second());
    let rows = [
        (&second, json!({ "aud": OTHER_API }), "audience"),
        (&first, json!({ "aud": "https://graph.microsoft.com" }), "audience"),
        (&first, json!({ "aud": format!("{API}/") }), "audience"),
        (&second, json!({ "aud": "sidegate" }), "audience"),
        // The issuer must be that of its tenant, in the form of its version.
        (&second, json!({ "tid": FABRIKAM }), "issuer"),
        (&first, json!({ "tid": FABRIKAM }), "issuer"),
        (&second, json!({ "tid": "(absent)" }), "issuer"),
        (&first, json!({ "tid": "(absent)" }), "issuer"),
        (&first, json!({ "ver": "2.0" }), "issuer"),
        (&first, json!({ "ver": "(absent)" }), "issuer"),
        (&first, json!({ "ver": 1.0 }), "issuer"),
        (&second, json!({ "iss": format!("{origin}/{CONTOSO}/") }), "issuer"),
        (&second, json!({ "iss": "https://evil.example" }), "issuer"),
        (&first, json!({ "iss": format!("https://sts.windows.net/{CONTOSO}") }), "issuer"),
        (&first, json!({ "iss": format!("http://sts.windows.net/{CONTOSO}/") }), "issuer"),
        (&first, json!({ "iss": format!("https://sts.windows.net.evil.example/{CONTOSO}/") }), "issuer"),
        (&first, json!({ "iss": format!("https://sts.windows.net/{CONTOSO}/v2.0") }), "issuer"),
        (&first, json!({ "iss": format!("https://sts.windows.net/{FABRIKAM}/") }), "issuer"),
        (&first, json!({ "iss": "https://sts.windows.net/x/", "tid": "x" }), "issuer"),
        // Of another tenant. The signing key is valid for every tenant.
        (&first, json!({ "iss": format!("https://sts.windows.net/{FABRIKAM}/"), "tid": FABRIKAM }), ""),
        (&second, json!({ "iss": format!("{origin}/{FABRIKAM}/v2.0"), "tid": FABRIKAM }), ""),
        (&second, json!({ "oid": "(absent)" }), "object id"),
        (&first, json!({ "oid": "(absent)" }), "object id"),
        (&first, json!({ "nonce": "n" }), "`nonce`"),
    ];
    for (claims, more, word) in rows {
        let refusal = trial.verify(claims, more.clone()).await.err();
        let Some(BearerError::Invalid(reason)) = refusal else { panic!("{more}: {refusal:?}") };
        assert!(reason.contains(word), "{more}: {reason}");
    }
}

#[tokio::test]
async fn keys_of_one_tenant_sign_for_no_other_and_the_rest_is_for_the_list_of_tenants() {
    // Only Contoso's own keys, and a list with both tenants.
    let both = Tenants::Named(vec![CONTOSO.into(), FABRIKAM.into()]);
    for (tenants, tenant, is_good) in [
        (contoso(), CONTOSO, true),
        (contoso(), FABRIKAM, false),
        (both, FABRIKAM, true),
        (Tenants::Organizations, FABRIKAM, true),
        (Tenants::Organizations, CONSUMERS, false),
        (Tenants::Common, CONSUMERS, true),
    ] {
        let trial = Trial::of(tenants.clone()).await;
        let origin = trial.idp.origin();
        for (claims, iss) in [
            (trial.first(), format!("https://sts.windows.net/{tenant}/")),
            (trial.second(), format!("{origin}/{tenant}/v2.0")),
        ] {
            let verdict = trial.verify(&claims, json!({ "iss": iss, "tid": tenant })).await;
            assert_eq!(verdict.is_ok(), is_good, "{iss}: {:?}", verdict.err());
        }
    }
}

#[tokio::test]
async fn nobody_vouches_for_what_was_accepted_once_the_tenants_are_others_in_whatever_order_they_stand() {
    let named = |names: &[&str]| Tenants::Named(names.iter().map(|name| (*name).to_owned()).collect());
    let trial = Trial::of(named(&[CONTOSO, FABRIKAM])).await;
    let session = trial.verify(&trial.second(), json!({})).await.unwrap();
    for (tenants, counts) in [
        (named(&[CONTOSO, FABRIKAM]), true),
        (named(&[FABRIKAM, CONTOSO, FABRIKAM]), true),
        (named(&[FABRIKAM]), false),
        (Tenants::Organizations, false),
    ] {
        assert_eq!(bearers(&trial.idp, tenants.clone()).vouches_for(&session), counts, "{tenants:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_replaced_under_its_name_is_fetched() {
    let trial = Trial::of(contoso()).await;
    trial.verify(&trial.second(), json!({})).await.unwrap();
    trial.idp.rotate_key(OldKey::Replace).unwrap();
    trial.verify(&trial.second(), json!({ "uti": "y" })).await.unwrap();
}

#[tokio::test]
async fn app_roles_group_names_and_claims_count_only_for_a_named_tenant() {
    const GROUP: &str = "9a7f0000-0000-4000-8000-000000000001";
    for (tenants, named) in [
        (Tenants::Named(vec![FABRIKAM.into(), CONTOSO.into()]), true),
        (Tenants::Organizations, false),
        (Tenants::Common, false),
    ] {
        let trial = Trial::of(tenants.clone()).await;
        let origin = trial.idp.origin();
        for (claims, iss) in [
            (trial.first(), format!("https://sts.windows.net/{FABRIKAM}/")),
            (trial.second(), format!("{origin}/{FABRIKAM}/v2.0")),
        ] {
            let chosen = json!({
                "iss": iss, "tid": FABRIKAM, "groups": ["Admins", GROUP], "roles": ["Admin", CONTOSO], "idtyp": "app",
            });
            let session = trial.verify(&claims, chosen).await.unwrap();
            let who = session.identity();
            let groups = ["Admins", GROUP, "Admin", CONTOSO];
            assert_eq!(who.groups, if named { &groups[..] } else { &groups[1..2] }, "{tenants:?}");
            // The tenant's administrators consent to scopes.
            assert_eq!(who.claims.hold("scp", "Reports.Read"), named, "{tenants:?}");
            assert!(who.claims.hold("idtyp", "app"), "{tenants:?}");
        }
    }
}

#[tokio::test]
async fn a_personal_accounts_user_principal_name_is_only_displayed() {
    let trial = Trial::of(Tenants::Common).await;
    for (tenant, vouched) in [(CONSUMERS, None), (FABRIKAM, Some("ceo@contoso.example"))] {
        let iss = format!("{}/{tenant}/v2.0", trial.idp.origin());
        let more = json!({ "iss": iss, "tid": tenant, "upn": "ceo@contoso.example" });
        let session = trial.verify(&trial.second(), more).await.unwrap();
        let who = session.identity();
        assert_eq!((who.username.as_str(), who.username.vouched()), ("ceo@contoso.example", vouched));
    }
}

#[tokio::test]
async fn what_of_a_token_does_not_count_is_kept_for_the_log_of_a_refusal() {
    let odd = json!({ "email": "ann", "groups": { "a": 1 }, "roles": ["Admin", 7], "scp": 3, "idtyp": 3 });
    let only_named = "roles, group names and claims count only for a tenant that OAUTH_TENANT_ID names";
    for (tenants, says) in [
        (
            contoso(),
            [
                "it is no address",
                "`groups` is an object",
                "1 of the 2 entries of `roles`",
                "`scp` is a number",
                "`idtyp` is a number",
            ],
        ),
        (
            Tenants::Organizations,
            ["it is no address", "`groups` is an object", only_named, only_named, "`idtyp` is a number"],
        ),
    ] {
        let trial = Trial::of(tenants).await;
        let session = trial.verify(&trial.second(), odd.clone()).await.unwrap();
        let all: Vec<&str> = session.omitted().iter().map(|omitted| omitted.reason.as_str()).collect();
        assert_eq!(all.len(), says.len(), "{all:?}");
        for (reason, says) in all.iter().zip(says) {
            assert!(reason.contains("of a token of 0b1ec700-") && reason.contains(says), "{reason}");
        }
    }
    let trial = Trial::of(Tenants::Organizations).await;
    let session = trial.verify(&trial.second(), json!({ "email": "ann@contoso.example" })).await.unwrap();
    let all: Vec<&str> = session.omitted().iter().map(|omitted| omitted.reason.as_str()).collect();
    let [email, scopes] = all.as_slice() else { panic!("{all:?}") };
    assert!(email.contains("an email counts only for a tenant that OAUTH_TENANT_ID names"), "{email}");
    assert!(scopes.contains("The claim `scp` of a token of ") && scopes.ends_with(only_named), "{scopes}");
}
