//! Microsoft Entra ID, built on the core of OpenID Connect: tenants, which source of an address is trusted, and Graph.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use url::Url;

use super::backoff::Backoff;
use super::claims::TokenClaims;
use super::discovery::{is_guid, may_sign};
use super::graph::{self, Graph, Me};
use super::http::{CallError, Http};
use super::id_token::IdToken;
use super::logout_token;
use super::omissions::{ONLY_NAMED, Omissions};
use super::quote::quote;
use super::relying_party::{Refreshed, RelyingParty, Verified};
use super::rereading::{Occasion, in_time, with_new_tokens};
use super::tenants::{PERSONAL, TenantList, Verdict, distrust};
use super::{ClientRegistration, Tenants};
use crate::domain::grant::Grant;
use crate::domain::identity::{Email, Identity, ProviderKind, Username};
use crate::domain::login::LoginAttempt;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{
    IdentityProvider, LogoutToken, Omission, Pending, Prompt, RenewError, Renewed, SignInError, SignedIn,
};

/// The delegated permission to read one's own account. Without it there is no user principal name.
const USER_READ: &str = "User.Read";

/// The claim that names a user's tenant. It is kept with the identity, since only an ID token has it.
const TENANT: &str = "tid";

/// The claim by which Entra says that the tenant has proven the domain of the address in `email`.
const PROVEN_DOMAIN: &str = "xms_edov";

/// Under this name an identity keeps that only [`PROVEN_DOMAIN`] makes its address count, since only an ID token has that claim. What a
/// token says under this name is never kept.
const PROVEN_BY: &str = "sidegate:email_proven_by";

/// Microsoft Entra ID.
pub(super) struct Entra {
    party: RelyingParty,
    tenants: TenantList,
    graph: Graph,
    wanted: Wanted,
    unresolved: ArcSwapOption<String>,
    backoff: Mutex<Backoff>,
}

/// What rules need beside the identity.
pub(super) struct Wanted {
    /// Groups: an overage is then read from Graph.
    pub(super) groups: bool,
    /// Claims of the ID token.
    pub(super) claims: Vec<String>,
}

impl Entra {
    pub(super) fn new(
        http: Http,
        mut registration: ClientRegistration,
        tenants: Tenants,
        authority: Url,
        graph: Url,
        wanted: Wanted,
    ) -> Self {
        let reads = |scope: &String| scope.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(USER_READ));
        if !registration.scopes.iter().any(reads) {
            registration.scopes.push(USER_READ.to_owned());
        }
        let tenants = TenantList::new(tenants, authority);
        Self {
            party: RelyingParty::new(http, registration, tenants.place()),
            tenants,
            graph: Graph::new(graph),
            wanted,
            unresolved: ArcSwapOption::empty(),
            backoff: Mutex::new(Backoff::default()),
        }
    }

    async fn identify(
        &self,
        id_token: &IdToken,
        access_token: &Secret,
        occasion: Occasion,
        omissions: &Omissions,
    ) -> Result<Identity, Unread> {
        let claims = &id_token.claims;
        let tenant = claims.text(TENANT).unwrap_or_default();
        let who = || claims.text("preferred_username").or_else(|| claims.text("oid")).unwrap_or("(no name)");
        let verdict = self.judge(tenant, who).await?;
        if id_token.key_issuer.as_deref().is_some_and(|template| !may_sign(template, claims)) {
            let reason = "ID token: it is signed with the key of another tenant";
            return Err(SignInError::TokenExchange(reason.to_owned()).into());
        }
        let object_id = claims.text("oid").ok_or_else(|| {
            let reason = "ID token: it has no object id: is the scope `profile` in OAUTH_SCOPES?";
            SignInError::TokenExchange(reason.to_owned())
        })?;
        let unread = |error: CallError| SignInError::UserInfo(graph::reason(&error));
        let me = self.graph.me(&self.party.http, access_token).await.map_err(unread)?;
        if !me.is(object_id) {
            return Err(Unread::AnotherAccount);
        }
        let (named, personal) = (verdict == Verdict::Named, tenant.eq_ignore_ascii_case(PERSONAL));
        let groups = self.groups(claims, access_token, named, occasion, omissions).await.map_err(unread)?;
        let email = vouched(claims, &me, named, personal);
        if email.is_none() {
            let reason = format!("No email of {} counts: {}", quote(object_id), why_no_email(&me, named, personal));
            omissions.note(Omission::Email, reason);
        }
        omissions.note_entra(&quote(object_id), claims, named, self.wanted.groups, &self.wanted.claims);
        let mut kept = claims.named(&self.wanted.claims, &TokenClaims::default());
        kept.set(TENANT, vec![tenant.to_owned()]);
        let mut identity = Identity {
            provider: ProviderKind::Entra,
            id: object_id.to_owned(),
            email,
            name: me.display_name.or_else(|| claims.text("name").map(ToOwned::to_owned)).unwrap_or_default(),
            username: username(me.user_principal_name, personal),
            groups,
            claims: kept,
        };
        if !named {
            distrust(&mut identity);
        }
        let is_proven = !named && claimed(claims, named).is_some();
        let proof = if is_proven { vec![PROVEN_DOMAIN.to_owned()] } else { Vec::new() };
        identity.claims.set(PROVEN_BY, proof);
        Ok(identity)
    }

    async fn judge<'w>(&self, tenant: &str, who: impl Fn() -> &'w str) -> Result<Verdict, SignInError> {
        let mut verdict = self.tenants.judge(tenant);
        if verdict == Verdict::Refused && !self.tenants.unresolved().is_empty() {
            self.tenants.resolve(&self.party.http).await.map_err(SignInError::Unreachable)?;
            verdict = self.tenants.judge(tenant);
        }
        match verdict {
            Verdict::Named | Verdict::Admitted => Ok(verdict),
            Verdict::Refused => Err(SignInError::NotAllowed {
                who: quote(who()),
                reason: format!("tenant {} is not among those that OAUTH_TENANT_ID lets in", quote(tenant)),
            }),
        }
    }

    /// Groups, and of a named tenant app roles. Groups that do not fit in the token are read from Graph; if Graph does not respond at a
    /// sign-in, or does not let the application read them, the user is in none of them.
    async fn groups(
        &self,
        claims: &TokenClaims,
        access_token: &Secret,
        named: bool,
        occasion: Occasion,
        omissions: &Omissions,
    ) -> Result<Vec<String>, CallError> {
        let mut groups = if self.wanted.groups && is_overage(claims) {
            match self.graph.groups(&self.party.http, access_token).await {
                Ok(groups) => groups,
                Err(error) if occasion == Occasion::SignIn || error.is_forbidden() => {
                    let (id, why) = (quote(claims.text("oid").unwrap_or_default()), graph::reason(&error));
                    let reason = format!("The groups of {id} cannot be read, so no group rule lets them in: {why}");
                    omissions.note(Omission::GroupsUnreadable, reason);
                    Vec::new()
                }
                Err(error) => return Err(error),
            }
        } else {
            claims.list("groups")
        };
        if named {
            groups.extend(claims.list("roles"));
        }
        Ok(groups)
    }

    async fn renewed(&self, before: &Identity, grant: &Grant, now: Timestamp) -> Result<Renewed, RenewError> {
        let Some(refresh_token) = &grant.refresh else {
            let identity = in_time(self.reread(before, &grant.access)).await?;
            return Ok(Renewed { identity: Ok(identity), grant: grant.clone() });
        };
        let mut refreshed = self.party.refresh_tokens(grant, refresh_token, now).await?;
        let read = in_time(self.read_refreshed(before, &mut refreshed, now)).await;
        with_new_tokens(read, refreshed.grant)
    }

    async fn read_refreshed(
        &self,
        before: &Identity,
        refreshed: &mut Refreshed,
        now: Timestamp,
    ) -> Result<Identity, RenewError> {
        let Some(id_token) = self.party.verify_refreshed(refreshed, now).await? else {
            return self.reread(before, &refreshed.grant.access).await;
        };
        if id_token.claims.text("oid") != Some(&before.id) {
            return Err(RenewError::Gone("the new ID token is of another account".to_owned()));
        }
        let omissions = Omissions::default();
        let identity = self.identify(&id_token, &refreshed.grant.access, Occasion::Renewal, &omissions).await;
        omissions.log();
        identity.map_err(|unread| match unread {
            Unread::AnotherAccount => RenewError::Gone(unread.to_string()),
            Unread::Failed(error) => gone_or_not_now(error),
        })
    }

    /// Whether the operator has named the tenant of a known identity. A session from before tenants were kept tells none: then nobody's
    /// administrators are believed.
    async fn is_named_tenants(&self, before: &Identity) -> Result<bool, RenewError> {
        let Some(tenant) = before.claims.texts(TENANT).first() else { return Ok(false) };
        let verdict = self.judge(tenant, || before.username.as_str()).await.map_err(gone_or_not_now)?;
        Ok(verdict == Verdict::Named)
    }

    /// Updates a known identity from Graph. What only an ID token has (app roles, an address that `xms_edov` proves) stays, and groups can
    /// only be removed: only a token says which of Graph's the application receives. If Graph refuses the token, the identity stays as it
    /// is. What counts only for a named tenant is removed in both cases if this one is not named (any more).
    async fn reread(&self, before: &Identity, access_token: &Secret) -> Result<Identity, RenewError> {
        let not_now = |error: CallError| RenewError::NotNow(graph::reason(&error));
        let named = self.is_named_tenants(before).await?;
        let me = match self.graph.me(&self.party.http, access_token).await {
            Ok(me) => me,
            Err(error) if error.is_unauthorized() => return Ok(trusted(before.clone(), named)),
            Err(error) => return Err(not_now(error)),
        };
        if !me.is(&before.id) {
            return Err(RenewError::Gone("Graph speaks of another account".to_owned()));
        }
        let mut groups = before.groups.clone();
        if self.wanted.groups && groups.iter().any(|group| is_guid(group)) {
            match self.graph.groups(&self.party.http, access_token).await {
                Ok(now) => {
                    let now: HashSet<String> = now.iter().map(|group| group.to_ascii_lowercase()).collect();
                    groups.retain(|group| !is_guid(group) || now.contains(&group.to_ascii_lowercase()));
                }
                Err(error) if error.is_unauthorized() || error.is_forbidden() => {}
                Err(error) => return Err(not_now(error)),
            }
        }
        let personal = me.is_personal() || has_personal_tenant(before);
        let email = reread_email(before, &me, named, personal);
        if let Some(lost) = before.email.as_ref().filter(|_| email.is_none()) {
            let (lost, id, why) = (quote(lost.as_str()), quote(&before.id), why_no_email(&me, named, personal));
            tracing::info!("The email {lost} of {id} does not count any more: {why}");
        }
        let mut identity = Identity {
            email,
            name: me.display_name.unwrap_or_else(|| before.name.clone()),
            username: username(me.user_principal_name, personal),
            groups,
            ..before.clone()
        };
        if identity.email != before.email {
            // What was proven was another address.
            identity.claims.set(PROVEN_BY, Vec::new());
        }
        Ok(trusted(identity, named))
    }
}

/// Why an identity could not be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("Graph speaks of another account than the ID token")]
    AnotherAccount,
    #[error(transparent)]
    Failed(#[from] SignInError),
}

impl From<Unread> for SignInError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::AnotherAccount => Self::UserInfo(unread.to_string()),
            Unread::Failed(error) => error,
        }
    }
}

/// Why a known identity cannot be read: the tenant may not come in any more, or the provider does not say.
fn gone_or_not_now(error: SignInError) -> RenewError {
    match error {
        SignInError::NotAllowed { reason, .. } => RenewError::Gone(reason),
        SignInError::Unreachable(_)
        | SignInError::Issuer(_)
        | SignInError::TokenExchange(_)
        | SignInError::UserInfo(_) => RenewError::NotNow(error.to_string()),
    }
}

/// A known identity as far as it counts. Logs that something of it does not.
fn trusted(mut known: Identity, named: bool) -> Identity {
    let personal = has_personal_tenant(&known);
    if personal {
        // A session from before such a name was only displayed has it as a vouched one.
        known.username = username(known.username.as_str().to_owned(), personal);
    }
    if named {
        return known;
    }
    let id = quote(&known.id);
    let mut trusted = known.clone();
    distrust(&mut trusted);
    trusted.claims.set(PROVEN_BY, known.claims.texts(PROVEN_BY).to_vec());
    if trusted != known {
        tracing::info!("Not all groups, app roles and claims of {id} count any more: {ONLY_NAMED}");
    }
    // Without Graph's answer the address can only be taken away.
    let is_vouched = is_proven(&known) || known.email == principal(known.username.as_str(), personal);
    if !is_vouched && let Some(lost) = trusted.email.take() {
        let lost = quote(lost.as_str());
        tracing::info!("The email {lost} of {id} does not count any more: it is not known to be of a proven domain");
    }
    trusted
}

/// Whether a known identity is a personal account by its tenant. A session from before tenants were kept does not tell.
fn has_personal_tenant(known: &Identity) -> bool {
    known.claims.texts(TENANT).first().is_some_and(|tenant| tenant.eq_ignore_ascii_case(PERSONAL))
}

/// Whether the address of a known identity counted since its tenant has proven the domain. A session from before that was kept does not
/// tell.
fn is_proven(known: &Identity) -> bool {
    known.claims.hold(PROVEN_BY, PROVEN_DOMAIN)
}

/// The username. That of a personal account is an address whose domain nobody has proven.
pub(super) fn username(principal_name: String, personal: bool) -> Username {
    if personal { Username::Displayed(principal_name) } else { Username::Vouched(principal_name) }
}

/// The trusted address, if any.
///
/// Administrators of a tenant can write any `mail` and `email` ("nOAuth"), so these count only for a tenant that the operator named,
/// or, for `email`, if Entra says that the tenant has proven the domain (`xms_edov`). The domain of a user principal name is always proven,
/// but a guest's name is made up, and a personal account has none.
fn vouched(claims: &TokenClaims, me: &Me, named: bool, personal: bool) -> Option<Email> {
    let mail = me.mail.as_deref().filter(|_| named && !personal).and_then(|mail| Email::parse(mail).ok());
    claimed(claims, named).or(mail).or_else(|| principal(&me.user_principal_name, personal))
}

/// The address in the claim `email`, if it counts.
pub(super) fn claimed(claims: &TokenClaims, named: bool) -> Option<Email> {
    let address = claims.text("email").filter(|_| named || has_proven_domain(claims))?;
    Email::parse(address).ok()
}

/// The address that a user principal name is, if it counts.
pub(super) fn principal(name: &str, personal: bool) -> Option<Email> {
    let guest = name.to_ascii_uppercase().contains("#EXT#");
    if guest || personal { None } else { Email::parse(name).ok() }
}

/// Why no address is trusted.
fn why_no_email(me: &Me, named: bool, personal: bool) -> String {
    let name = quote(&me.user_principal_name);
    match (personal, named) {
        (true, false) => "it is a personal account, whose address nobody vouches for".to_owned(),
        (true, true) => "the ID token of this personal account has none".to_owned(),
        (false, true) => format!("the account has no mail, and {name} is a guest's name or no address"),
        (false, false) => format!(
            "{name} is a guest's name or no address, and mail or email count only for a tenant that OAUTH_TENANT_ID names"
        ),
    }
}

/// The trusted address without a new ID token: what Graph says by the same rules, else what the old token vouched for. That of a tenant
/// which is not named stands only if its domain is proven: the tenant may have been named when its administrators' word was taken.
fn reread_email(before: &Identity, me: &Me, named: bool, personal: bool) -> Option<Email> {
    let stands = if named {
        let was_principal = before.email_str() == before.username.as_str();
        let has_mail = me.mail.as_deref().is_some_and(|mail| !mail.is_empty());
        // Graph's word on a personal account's address never counts, so the ID token's stands.
        personal || !(was_principal || has_mail)
    } else {
        is_proven(before)
    };
    if stands { before.email.clone() } else { vouched(&TokenClaims::default(), me, named, personal) }
}

/// Reads `xms_edov`, in the forms that Entra has been seen to send.
fn has_proven_domain(claims: &TokenClaims) -> bool {
    match claims.value(PROVEN_DOMAIN) {
        Some(Value::Bool(proven)) => *proven,
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        Some(Value::String(text)) => text == "1" || text.eq_ignore_ascii_case("true"),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

/// Whether the groups were too many for the token.
fn is_overage(claims: &TokenClaims) -> bool {
    let named = claims.value("_claim_names").and_then(|names| names.get("groups")).is_some();
    named || claims.is_true("hasgroups")
}

impl IdentityProvider for Entra {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Entra
    }

    fn authorization_url(&self, attempt: &LoginAttempt, prompt: Option<Prompt>) -> Result<Url, SignInError> {
        self.party.authorization_url(attempt, prompt)
    }

    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), SignInError> {
        self.party.check_issuer(issuer)
    }

    fn sign_in<'a>(
        &'a self,
        code: &'a Secret,
        attempt: &'a LoginAttempt,
        now: Timestamp,
    ) -> Pending<'a, Result<SignedIn, SignInError>> {
        Box::pin(async move {
            let verified = self.party.redeem(code, attempt, now).await?;
            let provider_session = verified.provider_session();
            let auth_time = verified.auth_time(now);
            let Verified { id_token, grant, .. } = verified;
            let omissions = Omissions::default();
            let identity = self.identify(&id_token, &grant.access, Occasion::SignIn, &omissions).await?;
            let omitted = omissions.into_all();
            Ok(SignedIn { identity, grant: Some(grant), provider_session, auth_time, omitted })
        })
    }

    fn renew<'a>(
        &'a self,
        identity: &'a Identity,
        grant: &'a Grant,
        now: Timestamp,
    ) -> Pending<'a, Result<Renewed, RenewError>> {
        Box::pin(self.renewed(identity, grant, now))
    }

    fn admits(&self, identity: &Identity) -> bool {
        let Some(tenant) = identity.claims.texts(TENANT).first() else { return true };
        // While a domain is not resolved, nobody can say whose tenant it is: the next renewal does.
        self.tenants.judge(tenant) != Verdict::Refused || !self.tenants.unresolved().is_empty()
    }

    fn logout_url(&self, id_token: Option<&Secret>, return_to: &Url) -> Option<Url> {
        self.party.logout_url(id_token, return_to)
    }

    fn verify_logout<'a>(&'a self, token: &'a Secret, now: Timestamp) -> Pending<'a, Result<LogoutToken, String>> {
        Box::pin(async move {
            let logout_token::Verified { claims, key_issuer, id, expires_at } =
                self.party.verify_logout(token, now).await?;
            if key_issuer.as_deref().is_some_and(|template| !may_sign(template, &claims)) {
                return Err("it is signed with the key of another tenant".to_owned());
            }
            let text = |name| claims.text(name).map(ToOwned::to_owned);
            // Entra's `sub` differs between applications, and does not identify users here.
            let (subject, provider_session) = (text("oid"), text("sid"));
            if subject.is_none() && provider_session.is_none() {
                return Err("it names neither an object id nor a session".to_owned());
            }
            Ok(LogoutToken { subject, provider_session, id, expires_at })
        })
    }

    fn refresh(&self, _now: Timestamp) -> Pending<'_, Duration> {
        Box::pin(async move {
            let wait = self.party.refresh().await;
            let resolved = self.tenants.resolve(&self.party.http).await;
            let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
            match resolved {
                Ok(()) => {
                    self.unresolved.store(None);
                    backoff.succeeded();
                    wait
                }
                Err(reason) => {
                    self.unresolved.store(Some(Arc::new(reason)));
                    wait.min(backoff.failed())
                }
            }
        })
    }

    fn ready(&self) -> Pending<'_, ()> {
        Box::pin(self.party.ready())
    }

    fn wanted(&self) -> Pending<'_, ()> {
        Box::pin(self.party.wanted())
    }

    fn trouble(&self) -> Option<String> {
        let unresolved = self.unresolved.load_full().map(|reason| reason.as_ref().clone());
        self.party.trouble().or(unresolved)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::claims::Claims;

    /// What an identity keeps of an address of a proven domain, or of another.
    fn proof(proven: bool) -> Claims {
        let mut claims = Claims::default();
        if proven {
            claims.set(PROVEN_BY, vec![PROVEN_DOMAIN.to_owned()]);
        }
        claims
    }

    fn me(mail: Option<&str>, upn: &str) -> Me {
        serde_json::from_value(json!({ "id": "1", "mail": mail, "userPrincipalName": upn })).unwrap()
    }

    fn email(claims: Value, me: &Me, named: bool, personal: bool) -> String {
        let claims: TokenClaims = serde_json::from_value(claims).unwrap();
        vouched(&claims, me, named, personal).map(String::from).unwrap_or_default()
    }

    #[test]
    fn an_administrators_word_counts_only_for_a_named_tenant() {
        let ann = me(Some("mail@example.com"), "upn@contoso.example");
        let claimed = || json!({ "email": "claim@example.com" });
        assert_eq!(email(claimed(), &ann, true, false), "claim@example.com");
        assert_eq!(email(json!({}), &ann, true, false), "mail@example.com");
        assert_eq!(email(json!({}), &me(None, "upn@contoso.example"), true, false), "upn@contoso.example");
        assert_eq!(email(claimed(), &ann, false, false), "upn@contoso.example");
    }

    #[test]
    fn a_proven_domain_makes_the_claim_count_but_not_graphs_mail() {
        let ann = me(Some("mail@example.com"), "upn@contoso.example");
        for yes in [json!(true), json!(1), json!("1"), json!("true"), json!("True")] {
            let claims = json!({ "email": "claim@example.com", "xms_edov": yes });
            assert_eq!(email(claims, &ann, false, false), "claim@example.com", "{yes}");
        }
        for no in [json!(false), json!(0), json!("0"), json!(2), json!([true]), json!(null), json!("yes")] {
            let claims = json!({ "email": "claim@example.com", "xms_edov": no });
            assert_eq!(email(claims, &ann, false, false), "upn@contoso.example", "{no}");
        }
        assert_eq!(email(json!({ "xms_edov": true }), &ann, false, false), "upn@contoso.example");
    }

    #[test]
    fn guests_and_personal_accounts_have_no_principal_name_that_counts() {
        let guest = me(Some("gus@partner.example"), "gus_partner.example#EXT#@contoso.example");
        assert_eq!(email(json!({}), &guest, false, false), "");
        assert_eq!(email(json!({}), &guest, true, false), "gus@partner.example");
        assert_eq!(email(json!({}), &me(None, "g_x#ext#@contoso.example"), true, false), "");
        assert_eq!(email(json!({}), &me(Some("p@outlook.example"), "p@outlook.example"), false, true), "");
    }

    #[test]
    fn an_address_is_vouched_for_again_by_graph_or_stands_as_the_token_had_it() {
        let email = |address: &str, proven: bool, me: &Me, named: bool| {
            let before = Identity {
                provider: ProviderKind::Entra,
                id: "1".into(),
                email: Email::parse(address).ok(),
                name: String::new(),
                username: Username::Vouched("upn@contoso.example".into()),
                groups: Vec::new(),
                claims: proof(proven),
            };
            reread_email(&before, me, named, false).map(String::from).unwrap_or_default()
        };
        let moved = me(Some("new@example.com"), "new@contoso.example");
        let guest = me(Some("g@x.example"), "g_x#EXT#@contoso.example");
        assert_eq!(email("upn@contoso.example", false, &moved, false), "new@contoso.example");
        for proven in [false, true] {
            assert_eq!(email("old@example.com", proven, &moved, true), "new@example.com");
            assert_eq!(email("old@example.com", proven, &me(None, "new@contoso.example"), true), "old@example.com");
        }
        // Of a tenant that is not named only what `xms_edov` proves stands, which only a token has.
        assert_eq!(email("old@example.com", true, &moved, false), "old@example.com");
        assert_eq!(email("old@example.com", false, &moved, false), "new@contoso.example");
        assert_eq!(email("g@x.example", true, &guest, false), "g@x.example");
        assert_eq!(email("g@x.example", false, &guest, false), "");
        assert_eq!(email("", false, &guest, false), "");
    }

    #[test]
    fn a_personal_accounts_address_stands_as_a_named_tenants_token_or_one_of_a_proven_domain_had_it() {
        let address = "p@outlook.example";
        let pat: Me =
            serde_json::from_value(json!({ "id": "9a7b000000001007", "mail": address, "userPrincipalName": address }))
                .unwrap();
        // A session from before such a name was only displayed, and one from after it.
        let (vouched, displayed) = (Username::Vouched(address.into()), Username::Displayed(address.into()));
        for (username, proven) in [(vouched, false), (displayed.clone(), false), (displayed, true)] {
            let before = Identity {
                provider: ProviderKind::Entra,
                id: "00000000-0000-0000-9a7b-000000001007".into(),
                email: Email::parse(address).ok(),
                name: String::new(),
                username,
                groups: Vec::new(),
                claims: proof(proven),
            };
            assert_eq!(reread_email(&before, &pat, true, true), before.email);
            assert_eq!(reread_email(&before, &pat, false, true), before.email.filter(|_| proven));
        }
    }

    #[test]
    fn graph_calls_a_personal_account_by_half_of_its_object_id() {
        let object_id = "00000000-0000-0000-9a7b-000000001007";
        let called = |id: &str| -> Me {
            serde_json::from_value(json!({ "id": id, "userPrincipalName": "p@outlook.example" })).unwrap()
        };
        assert!(called("9a7b000000001007").is(object_id));
        assert!(called(object_id).is(object_id));
        for other in ["", "1007", "9a7b000000001008", "00000000-0000-0000-9a7b-000000001008"] {
            assert!(!called(other).is(object_id), "{other}");
        }
    }
}
