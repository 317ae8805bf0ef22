//! The issuers whose bearer tokens are accepted, and the choice of a token's issuer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::ConnectError;
use super::super::claims::TokenClaims;
use super::super::quote::quote;
use super::github::{self, GithubTokens};
use super::issuer::Issuer;
use super::remembered::{Remembered, key_of};
use super::settings::BearerSettings;
use super::token;
use super::verdict::{Accepted, BearerError, Verified};
use crate::domain::secret::Secret;
use crate::domain::session::{Authority, SessionKey};
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;

/// The longest token that is accepted, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;

/// The accepted issuers, and the tokens that were verified lately.
pub struct Bearers {
    settings: BearerSettings,
    issuers: Vec<Issuer>,
    github: Option<GithubTokens>,
    remembered: Remembered,
}

impl Bearers {
    /// Creates them without any call: the first [`Self::refresh`] makes one.
    ///
    /// # Errors
    /// [`ConnectError`], if an address or the roots cannot be used.
    pub fn new(settings: &BearerSettings) -> Result<Self, ConnectError> {
        // If another caller was first, it installed the same one.
        let _installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        Ok(Self {
            issuers: settings.issuers.iter().map(Issuer::new).collect::<Result<_, _>>()?,
            github: settings.github.as_ref().map(GithubTokens::new).transpose()?,
            remembered: Remembered::default(),
            settings: settings.clone(),
        })
    }

    /// Whether it was created from the same settings: then it stays in use after a reload, with its cache.
    #[must_use]
    pub fn is_of(&self, settings: &BearerSettings) -> bool {
        self.settings == *settings
    }

    /// Returns whom the token identifies, and whether it had been verified before.
    ///
    /// # Errors
    /// [`BearerError`]: it is not accepted, or it cannot be verified now.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<(Arc<LoadedSession>, Verified), BearerError> {
        if token.len() > LONGEST {
            return Err(BearerError::Invalid(format!("it is longer than {LONGEST} bytes")));
        }
        let key = key_of(token);
        if let Some(session) = self.remembered.find(&key, now) {
            return Ok((session, Verified::Before));
        }
        let accepted = match token::peek(token) {
            Some(claims) => self.verify_jwt(token, key, &claims, now).await?,
            None => {
                let Some(github) = &self.github else { return Err(BearerError::Invalid("it is not a JWT".to_owned())) };
                let token = Secret::new(token);
                let _turn = github.turn(&token, &key).await?;
                // Of concurrent requests with the same token, only the first asks.
                if let Some(session) = self.remembered.find(&key, now) {
                    return Ok((session, Verified::Before));
                }
                github.verify(&token, key, now).await?
            }
        };
        self.remembered.keep(key, token.len(), &accepted, now);
        Ok((accepted.session, Verified::Now))
    }

    /// Accepts a token by the first issuer that does; if none does, the reason comes from the last issuer that it names.
    async fn verify_jwt(
        &self,
        token: &str,
        key: SessionKey,
        claims: &TokenClaims,
        now: Timestamp,
    ) -> Result<Accepted, BearerError> {
        let mut refusal = None;
        for issuer in self.issuers.iter().filter(|issuer| issuer.may_be_of(claims)) {
            match issuer.verify(token, key, claims, now).await {
                Ok(accepted) => return Ok(accepted),
                // Another issuer, which cannot be asked now, might have accepted it.
                Err(BearerError::Invalid(_)) if matches!(refusal, Some(BearerError::Unavailable(_))) => {}
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            let found = claims.text("iss").map_or_else(|| "none".to_owned(), quote);
            BearerError::Invalid(format!("its issuer is not one whose tokens are accepted here: {found}"))
        }))
    }

    /// Whether a verified token is still accepted: by an issuer with the same settings.
    #[must_use]
    pub fn vouches_for(&self, session: &LoadedSession) -> bool {
        let counts =
            |name: &str, authority: Authority| name == session.provider() && authority == session.session().authority;
        self.issuers.iter().any(|issuer| counts(issuer.name(), issuer.authority()))
            || self.github.as_ref().is_some_and(|github| counts(github::NAME, github.authority()))
    }

    /// The issuers, for clients that look for one (RFC 9728 §2).
    #[must_use]
    pub fn issuers(&self) -> Vec<String> {
        let mut names: Vec<String> = self.issuers.iter().map(Issuer::shown).collect();
        names.extend(self.github.as_ref().map(GithubTokens::issuer));
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// Reads keys that are old or missing, and returns the pause before the next refresh.
    pub async fn refresh(&self, now: Timestamp) -> Duration {
        let pauses = futures_util::future::join_all(self.issuers.iter().map(|issuer| issuer.refresh(now))).await;
        pauses.into_iter().min().unwrap_or(Duration::from_secs(3600))
    }

    /// The issuers whose keys cannot be read, each with the reason.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let trouble = |issuer: &Issuer| issuer.trouble().map(|why| format!("{}: {why}", issuer.name()));
        self.issuers.iter().filter_map(trouble).collect()
    }
}
