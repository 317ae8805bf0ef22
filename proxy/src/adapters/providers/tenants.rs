//! Which Entra tenants may sign in, and whose administrators are trusted for what they can choose.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use url::Url;

use super::Tenants;
use super::discovery::{Place, is_guid, tenant_of, trimmed};
use super::http::Http;
use super::publication::document;
use super::quote::quote;
use crate::domain::identity::Identity;

/// The tenant of every personal Microsoft account.
pub(super) const PERSONAL: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// Claims whose values Microsoft sets. A tenant's administrators can choose those of others, or assign them (`wids`, `scp`).
const MICROSOFTS: [&str; 9] = ["appid", "aud", "azp", "idtyp", "iss", "oid", "sub", "tid", "ver"];

/// The configured tenants, with domain names resolved.
pub(super) struct TenantList {
    tenants: Tenants,
    authority: Url,
    /// Tenants by the configured domain.
    resolved: ArcSwap<BTreeMap<String, String>>,
}

/// The verdict on a tenant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The operator named it: its administrators are trusted.
    Named,
    /// It may sign in, but its administrators may have put any address, app role, group name or claim into the token.
    Admitted,
    /// It may not sign in.
    Refused,
}

impl TenantList {
    pub(super) fn new(tenants: Tenants, authority: Url) -> Self {
        Self { tenants, authority, resolved: ArcSwap::default() }
    }

    /// Where these tenants' discovery document is: the tenant's own if there is one tenant, else the shared one of the kind.
    pub(super) fn place(&self) -> Place {
        let tenant = match &self.tenants {
            Tenants::Common => "common",
            Tenants::Organizations => "organizations",
            Tenants::Consumers => "consumers",
            Tenants::Named(names) => match names.as_slice() {
                [single] => single,
                names if names.iter().any(|name| name.eq_ignore_ascii_case(PERSONAL)) => "common",
                _ => "organizations",
            },
        };
        Place::Entra { authority: self.authority.clone(), tenant: tenant.to_owned() }
    }

    /// Judges the tenant `tid` of a verified token.
    pub(super) fn judge(&self, tid: &str) -> Verdict {
        let personal = tid.eq_ignore_ascii_case(PERSONAL);
        let admitted = |admitted| if admitted { Verdict::Admitted } else { Verdict::Refused };
        match &self.tenants {
            Tenants::Common => Verdict::Admitted,
            Tenants::Organizations => admitted(!personal),
            Tenants::Consumers => admitted(personal),
            Tenants::Named(names) => {
                let resolved = self.resolved.load();
                let same = |name: &String| resolved.get(name).unwrap_or(name).eq_ignore_ascii_case(tid);
                if names.iter().any(same) { Verdict::Named } else { Verdict::Refused }
            }
        }
    }

    /// The configured domains whose tenant is not known yet.
    pub(super) fn unresolved(&self) -> Vec<String> {
        let resolved = self.resolved.load();
        match &self.tenants {
            Tenants::Common | Tenants::Organizations | Tenants::Consumers => Vec::new(),
            Tenants::Named(names) => {
                names.iter().filter(|name| !is_guid(name) && !resolved.contains_key(*name)).cloned().collect()
            }
        }
    }

    /// Finds the tenants of unresolved domains by the issuer in their discovery documents. A resolved domain is not looked up again:
    /// its tenant does not change while we run.
    pub(super) async fn resolve(&self, http: &Http) -> Result<(), String> {
        for domain in self.unresolved() {
            let place = Place::Entra { authority: self.authority.clone(), tenant: domain.clone() };
            let found = document(http, &place).await.map_err(|error| unresolved(&domain, &error))?;
            let tenant = tenant_of(trimmed(&self.authority), &found.issuer)
                .ok_or_else(|| unresolved(&domain, "its discovery names no single tenant"))?;
            self.resolved.rcu(|known| {
                let mut known = BTreeMap::clone(known);
                known.insert(domain.clone(), tenant.clone());
                Arc::new(known)
            });
        }
        Ok(())
    }
}

/// Whether no tenant's administrator can choose the values of this claim.
pub(super) fn is_set_by_microsoft(claim: &str) -> bool {
    MICROSOFTS.contains(&claim)
}

/// Removes from a user's identity what counts only for a tenant that the operator named: groups other than by id, and claims. App roles
/// must not be among the groups of a new token: a role may look like an id.
pub(super) fn distrust(identity: &mut Identity) {
    identity.groups.retain(|group| is_guid(group));
    let names = identity.claims.iter().map(|(name, _)| name).filter(|name| !is_set_by_microsoft(name));
    let chosen: Vec<String> = names.map(ToOwned::to_owned).collect();
    for name in chosen {
        identity.claims.set(&name, Vec::new());
    }
}

fn unresolved(domain: &str, reason: &str) -> String {
    format!("the tenant of {} in OAUTH_TENANT_ID is not known: {reason}", quote(domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Claims;
    use crate::domain::identity::{ProviderKind, Username};

    const CONTOSO: &str = "c0117050-0000-4000-8000-00000000c017";
    const FABRIKAM: &str = "fab21ca0-0000-4000-8000-00000000fab2";

    fn list(tenants: Tenants) -> TenantList {
        TenantList::new(tenants, Url::parse("https://login.example").unwrap())
    }

    fn named(names: &[&str]) -> TenantList {
        list(Tenants::Named(names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn each_setting_admits_its_tenants_only() {
        use Verdict::{Admitted, Named, Refused};
        for (list, contoso, fabrikam, personal) in [
            (list(Tenants::Common), Admitted, Admitted, Admitted),
            (list(Tenants::Organizations), Admitted, Admitted, Refused),
            (list(Tenants::Consumers), Refused, Refused, Admitted),
            (named(&[CONTOSO]), Named, Refused, Refused),
            (named(&[CONTOSO, PERSONAL]), Named, Refused, Named),
            (named(&["contoso.example"]), Refused, Refused, Refused),
        ] {
            assert_eq!(list.judge(CONTOSO), contoso);
            assert_eq!(list.judge(FABRIKAM), fabrikam);
            assert_eq!(list.judge(PERSONAL), personal);
        }
        assert_eq!(named(&[CONTOSO]).judge(&CONTOSO.to_ascii_uppercase()), Named);
    }

    #[test]
    fn nothing_that_administrators_choose_stays_of_a_tenant_that_is_not_named() {
        let mut claims = Claims::default();
        for (name, text) in [("department", "finance"), ("tid", FABRIKAM), ("wids", CONTOSO), ("appid", "c11e")] {
            claims.set(name, vec![text.to_owned()]);
        }
        let mut who = Identity {
            provider: ProviderKind::Entra,
            id: "1".into(),
            email: None,
            name: "Admin".into(),
            username: Username::Vouched("mallory@fabrikam.example".into()),
            groups: vec!["Admin".into(), CONTOSO.to_ascii_uppercase(), String::new(), "staff".into()],
            claims,
        };
        distrust(&mut who);
        assert_eq!(who.groups, [CONTOSO.to_ascii_uppercase()]);
        let kept: Vec<&str> = who.claims.iter().map(|(name, _)| name).collect();
        assert_eq!(kept, ["tid", "appid"]);
    }

    #[test]
    fn a_single_tenant_has_its_own_document() {
        for (list, segment) in [
            (named(&[CONTOSO]), CONTOSO),
            (named(&["contoso.example"]), "contoso.example"),
            (named(&[CONTOSO, FABRIKAM]), "organizations"),
            (named(&[CONTOSO, PERSONAL]), "common"),
            (list(Tenants::Consumers), "consumers"),
        ] {
            let expected = format!("https://login.example/{segment}/v2.0/.well-known/openid-configuration");
            assert_eq!(list.place().document().as_str(), expected);
        }
    }
}
