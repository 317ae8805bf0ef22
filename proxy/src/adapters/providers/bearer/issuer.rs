//! One issuer of JWTs: verifies its tokens and maps them to identities.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use url::Url;

use super::super::claims::TokenClaims;
use super::super::discovery::{self, Place};
use super::super::http::{Http, is_safe};
use super::super::id_token::{self, LEEWAY, Rejected, Signed};
use super::super::tenants::{TenantList, Verdict};
use super::super::{ConnectError, Tenants};
use super::keys::{Keys, Known};
use super::person;
use super::settings::{IssuerName, IssuerSettings};
use super::token::{self, Expected, Times};
use super::verdict::{Accepted, BearerError};
use crate::domain::identity::Identity;
use crate::domain::session::{Authority, Device, Session, SessionKey};
use crate::domain::time::Timestamp;
use crate::ports::{LoadedSession, Omitted};

/// No token is accepted for longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// An accepted issuer.
pub(super) struct Issuer {
    settings: IssuerSettings,
    name: Arc<str>,
    authority: Authority,
    /// The issuer as far as it is configured.
    configured: discovery::Issuer,
    keys: Keys,
    entra: Option<(TenantList, Http)>,
}

impl Issuer {
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, ConnectError> {
        let http = |url: &Url| {
            if !is_safe(url) {
                return Err(ConnectError::Address(url.origin().ascii_serialization()));
            }
            // The issuer decides where its keys are, which may be an https address.
            let needs_tls = url.scheme() == "https";
            Http::new(&settings.roots, needs_tls, settings.way_out.clone())
        };
        let (configured, keys, entra) = match (&settings.issuer, &settings.keys) {
            (IssuerName::Named(name), Some(content)) => {
                let issuer = discovery::Issuer::Exactly(name.clone());
                (issuer.clone(), Keys::filed(issuer, content), None)
            }
            (IssuerName::Named(name), None) => {
                let url = Url::parse(name).map_err(|_| ConnectError::Address(name.clone()))?;
                let keys = Keys::published(http(&url)?, Place::Issuer(url));
                (discovery::Issuer::Exactly(name.clone()), keys, None)
            }
            (IssuerName::Entra { authority, tenants }, _) => {
                let list = TenantList::new(tenants.clone(), authority.clone());
                let issuer = discovery::Issuer::TenantOf { authority: discovery::trimmed(authority).to_owned() };
                (issuer, Keys::published(http(authority)?, list.place()), Some((list, http(authority)?)))
            }
        };
        Ok(Self {
            name: settings.name.as_str().into(),
            authority: authority(settings, &configured),
            configured,
            keys,
            entra,
            settings: settings.clone(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn authority(&self) -> Authority {
        self.authority
    }

    /// The issuer's name for clients that look for one.
    pub(super) fn shown(&self) -> String {
        match &self.entra {
            Some((tenants, _)) => discovery::trimmed(&tenants.place().issuer()).to_owned(),
            None => self.keys.issuer().as_ref().unwrap_or(&self.configured).shown(),
        }
    }

    /// Whether a token with these claims may be this issuer's.
    pub(super) fn may_be_of(&self, claims: &TokenClaims) -> bool {
        token::may_be_of(&self.configured, claims)
    }

    pub(super) async fn refresh(&self, now: Timestamp) -> Duration {
        self.keys.refresh(now).await
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.keys.trouble()
    }

    /// Verifies a token whose claims are `peeked`: first its claims, since forged tokens must cost little, then its signature.
    pub(super) async fn verify(
        &self,
        token: &str,
        key: SessionKey,
        peeked: &TokenClaims,
        now: Timestamp,
    ) -> Result<Accepted, BearerError> {
        let invalid = |reason: String| BearerError::Invalid(format!("{}: {reason}", self.name));
        let expected = Expected {
            audiences: &self.settings.audiences,
            client_id: self.settings.client_id.as_deref(),
            takes_id_tokens: self.settings.takes_id_tokens,
            now: now.secs(),
        };
        token::check(peeked, &expected).map_err(invalid)?;
        let away = |reason: String| BearerError::Unavailable(format!("{}: {reason}", self.name));
        let known = self.keys.current(now).await.map_err(away)?;
        let (signed, known) = match id_token::signed(token, &known.keys) {
            Err(rejected @ Rejected::Key(_)) => match self.keys.newer(&known, now).await {
                Some(newer) => (id_token::signed(token, &newer.keys), newer),
                None => (Err(rejected), known),
            },
            outcome => (outcome, known),
        };
        let signed = signed.map_err(|rejected| invalid(rejected.to_string()))?;
        let times = check(&signed, &known, &expected).map_err(invalid)?;
        let IssuerSettings { names, claims: of_rules, client_id, .. } = &self.settings;
        let (identity, omitted) = match &self.entra {
            None => {
                let identity = person::of(&signed.claims, names, of_rules);
                // Only the plain provider has a client id here.
                let setting = if client_id.is_some() { "OAUTH_USERNAME_CLAIM" } else { "`username_claim`" };
                let omitted = person::omitted(&signed.claims, names, setting, of_rules, &identity);
                (identity, omitted)
            }
            Some((tenants, http)) => {
                let named = self.names_tenant_of(&signed.claims, tenants, http).await?;
                let identity = person::of_entra(&signed.claims, named, of_rules).map_err(BearerError::Invalid)?;
                let omitted = person::omitted_of_entra(&signed.claims, named, of_rules, &identity);
                (identity, omitted)
            }
        };
        Ok(self.accept(&signed.claims, identity, omitted, times, key, now))
    }

    /// Whether the operator named the tenant of a token of Entra; an error if its tokens are not accepted.
    async fn names_tenant_of(
        &self,
        claims: &TokenClaims,
        tenants: &TenantList,
        http: &Http,
    ) -> Result<bool, BearerError> {
        let tenant = claims.text("tid").unwrap_or_default();
        let mut verdict = tenants.judge(tenant);
        if verdict == Verdict::Refused && !tenants.unresolved().is_empty() {
            tenants.resolve(http).await.map_err(BearerError::Unavailable)?;
            verdict = tenants.judge(tenant);
        }
        if verdict == Verdict::Refused {
            return Err(BearerError::Invalid(format!("{}: OAUTH_TENANT_ID does not name its tenant", self.name)));
        }
        Ok(verdict == Verdict::Named)
    }

    fn accept(
        &self,
        claims: &TokenClaims,
        identity: Identity,
        omitted: Vec<Omitted>,
        times: Times,
        key: SessionKey,
        now: Timestamp,
    ) -> Accepted {
        let expires_at = Timestamp::from_secs(times.expires);
        // A token accepted within the leeway for clock skew must not end at once.
        let ends_at = if now < expires_at { expires_at } else { expires_at + Duration::from_secs(LEEWAY) };
        let device = Device::new(std::net::Ipv4Addr::UNSPECIFIED.into(), "");
        let mut session = Session::begin(identity, self.authority, device, Duration::ZERO, now);
        session.created_at = times.issued.map_or(now, Timestamp::from_secs).min(now);
        session.expires_at = ends_at.min(now + LONGEST);
        session.auth_time = claims.seconds("auth_time").map(|secs| Timestamp::from_secs(secs).min(now));
        let session = LoadedSession::of_token(key, session, Arc::clone(&self.name), omitted, now);
        Accepted { session: Arc::new(session), expires_at }
    }
}

/// Checks a token whose signature verifies.
fn check(signed: &Signed, known: &Known, expected: &Expected<'_>) -> Result<Times, String> {
    token::check_kind(signed.header.typ.as_deref())?;
    if !known.issuer.issues_version_1(&signed.claims) {
        id_token::check_issuer(&signed.claims, &known.issuer).map_err(|rejected| rejected.to_string())?;
    }
    // The keys of one Entra tenant must not sign for another.
    if signed.key_issuer.as_deref().is_some_and(|template| !known.issuer.may_sign_access(template, &signed.claims)) {
        return Err("it is signed with the key of another issuer".to_owned());
    }
    token::check(&signed.claims, expected)
}

/// Identifies the issuer and the settings that interpret its tokens: when one changes, earlier verifications no longer count.
///
/// The tenants and the keys of a file are among them: for one that was removed nobody vouches any more, and what its token has opened ends.
/// So does, on every change of these, what another token has opened: its client can open it again at once.
fn authority(settings: &IssuerSettings, configured: &discovery::Issuer) -> Authority {
    let mut parts = vec![settings.name.clone(), configured.shown(), format!("{:?}", settings.names)];
    parts.extend(settings.audiences.iter().cloned());
    parts.push(settings.takes_id_tokens.to_string());
    let mut tenants = match &settings.issuer {
        IssuerName::Named(_) => None,
        IssuerName::Entra { tenants, .. } => Some(tenants.clone()),
    };
    // In whatever order they are written.
    if let Some(Tenants::Named(names)) = &mut tenants {
        names.sort_unstable();
        names.dedup();
    }
    let keys = settings.keys.as_ref().map(|keys| digest(&SHA256, keys).as_ref().to_vec());
    parts.push(format!("{tenants:?} {keys:?}"));
    let hash = digest(&SHA256, format!("{parts:?}").as_bytes());
    let mut authority = [0; 8];
    for (to, from) in authority.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    Authority(authority)
}
