//! Maps the claims of a bearer token to an identity.

use super::super::claims::TokenClaims;
use super::super::entra::{claimed, principal, username};
use super::super::omissions::Omissions;
use super::super::quote::quote;
use super::super::tenants::{PERSONAL, distrust};
use super::settings::ClaimNames;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::ports::{Omission, Omitted};

/// The identity in the claims, by the operator's claim names.
pub(super) fn of(claims: &TokenClaims, names: &ClaimNames, of_rules: &[String]) -> Identity {
    let text = |name: &str| claims.text(name).unwrap_or_default().to_owned();
    let email = claims.is_true("email_verified").then(|| text(&names.email));
    let email = email.and_then(|address| Email::parse(&address).ok());
    let username = match names.username.as_deref() {
        // An address is a username only if it is verified.
        Some(name) if name == names.email => {
            Username::Vouched(email.as_ref().map(|email| email.as_str().to_owned()).unwrap_or_default())
        }
        Some(name) => Username::Vouched(text(name)),
        None => Username::Displayed(text("preferred_username")),
    };
    Identity {
        provider: ProviderKind::Oidc,
        id: claims.text("sub").unwrap_or_default().to_owned(),
        email,
        name: text(&names.name),
        username,
        groups: claims.list(&names.groups),
        claims: claims.named(of_rules, &TokenClaims::default()),
    }
}

/// The identity in the claims of an Entra token. `named`: the operator named the tenant, and so trusts its administrators.
pub(super) fn of_entra(claims: &TokenClaims, named: bool, of_rules: &[String]) -> Result<Identity, String> {
    let text = |name: &str| claims.text(name).unwrap_or_default().to_owned();
    let id = claims.text("oid").ok_or("it has no object id (`oid`)")?.to_owned();
    let personal = claims.text("tid").is_some_and(|tenant| tenant.eq_ignore_ascii_case(PERSONAL));
    let upn = claims.text("upn");
    let email = claimed(claims, named).or_else(|| principal(upn?, personal));
    let mut groups = claims.list("groups");
    if named {
        groups.extend(claims.list("roles"));
    }
    let mut identity = Identity {
        provider: ProviderKind::Entra,
        id,
        email,
        name: text("name"),
        username: match upn {
            Some(upn) => username(upn.to_owned(), personal),
            None => Username::Displayed(text("preferred_username")),
        },
        groups,
        claims: claims.named(of_rules, &TokenClaims::default()),
    };
    if !named {
        distrust(&mut identity);
    }
    Ok(identity)
}

/// What of the claims does not count in `who`, whom [`of`] made of them: for the log of a refusal. `setting` names the username's claim.
pub(super) fn omitted(
    claims: &TokenClaims,
    names: &ClaimNames,
    setting: &str,
    of_rules: &[String],
    who: &Identity,
) -> Vec<Omitted> {
    let omissions = Omissions::default();
    let id = token_of(who);
    let email = if claims.has(&names.email) { claims.unverified_email(&names.email) } else { None };
    if let Some(why) = email {
        omissions.note(Omission::Email, format!("The email of {id} does not count: {why}"));
    }
    if let Some(name) = names.username.as_deref().filter(|name| *name != names.email)
        && let Some(kind) = claims.no_text(name)
    {
        let reason =
            format!("The username of {id} does not count: `{name}`, which {setting} names, is {kind}, not text");
        omissions.note(Omission::UsernameOfAnotherForm, reason);
    }
    omissions.note_groups(&id, claims, &names.groups);
    for name in of_rules {
        omissions.note_claim(&id, claims, name);
    }
    omissions.into_all()
}

/// The same for an Entra token and [`of_entra`].
pub(super) fn omitted_of_entra(claims: &TokenClaims, named: bool, of_rules: &[String], who: &Identity) -> Vec<Omitted> {
    let omissions = Omissions::default();
    let id = token_of(who);
    if let Some(address) = claims.text("email").filter(|_| who.email.is_none()) {
        let shown = quote(address);
        let why = match Email::parse(address) {
            Ok(_) => "an email counts only for a tenant that OAUTH_TENANT_ID names, or with `xms_edov`",
            Err(_) => "it is no address",
        };
        omissions.note(Omission::Email, format!("The email {shown} of {id} does not count: {why}"));
    }
    omissions.note_entra(&id, claims, named, true, of_rules);
    omissions.into_all()
}

fn token_of(who: &Identity) -> String {
    format!("a token of {}", quote(&who.id))
}
