//! Each provider against the development identity provider, over real sockets: honest, lying, and failing.

mod entra;
mod github;
mod logout;
mod oddities;
mod oidc;
mod publication;
mod renewal;
mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dev_idp::{Control, DevIdp, Endpoint, Fault, Options};
use url::Url;

use super::{ClientRegistration, ProviderSettings, connect};
use crate::domain::identity::Identity;
use crate::domain::login::{ATTEMPT_RANDOM, LoginAttempt};
use crate::domain::path::ReturnTo;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::ports::{IdentityProvider, SignInError, SignedIn};

/// A development identity provider, and ours on top of it.
struct Bench {
    idp: DevIdp,
    provider: Arc<dyn IdentityProvider>,
    now: Timestamp,
}

impl Bench {
    /// Starts after discovery and keys were read.
    async fn with(settings: impl FnOnce(&str) -> ProviderSettings) -> Self {
        let bench = Self::unread(settings).await;
        bench.provider.refresh(bench.now).await;
        bench
    }

    /// Starts before anything was read.
    async fn unread(settings: impl FnOnce(&str) -> ProviderSettings) -> Self {
        let idp = DevIdp::start(Options::default()).await.unwrap();
        let provider = connect(&settings(&idp.origin()), &[], None).unwrap();
        Self { idp, provider, now: now() }
    }

    fn control(&self) -> Control {
        self.idp.control()
    }

    /// Runs a whole sign-in as `user`.
    async fn sign_in(&self, user: &str) -> Result<Identity, SignInError> {
        self.signed_in(user).await.map(|signed_in| signed_in.identity)
    }

    /// The same; returns the grant too.
    async fn signed_in(&self, user: &str) -> Result<SignedIn, SignInError> {
        let attempt = attempt();
        let callback = self.callback(&attempt, user)?;
        self.provider.check_issuer(parameter(&callback, "iss").as_deref())?;
        assert_eq!(parameter(&callback, "state").as_deref(), Some(attempt.state()));
        let code = Secret::new(parameter(&callback, "code").unwrap());
        self.provider.sign_in(&code, &attempt, self.now).await
    }

    fn callback(&self, attempt: &LoginAttempt, user: &str) -> Result<Url, SignInError> {
        let address = self.provider.authorization_url(attempt, None)?;
        Ok(Url::parse(&self.idp.approve(address.as_str(), user).unwrap()).unwrap())
    }

    /// Signs in while `endpoint` fails in each way, and returns the outcomes.
    async fn through_faults(&self, endpoint: Endpoint, user: &str) -> Vec<(Fault, Result<Identity, SignInError>)> {
        let mut outcomes = Vec::new();
        for fault in faults() {
            self.control().fail(endpoint, fault.clone());
            outcomes.push((fault, self.sign_in(user).await));
            self.control().reset();
        }
        outcomes
    }
}

/// The ways in which an endpoint fails, except not responding at all.
fn faults() -> [Fault; 5] {
    [Fault::Status(500), Fault::Status(302), Fault::Malformed, Fault::Huge(3), Fault::Cut]
}

/// The log text for each fault.
fn words_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::Status(500) => "answered 500",
        Fault::Status(_) => "answered 302",
        Fault::Malformed => "not JSON at line 1, column",
        Fault::Huge(_) => "larger than 1 MiB",
        Fault::Cut => "broke off its answer",
        Fault::Refuse(_) => "was told to refuse",
        Fault::Slow(_) | Fault::Hold => "timed out after 10 s",
    }
}

fn attempt() -> LoginAttempt {
    let random: [u8; ATTEMPT_RANDOM] = std::array::from_fn(|place| u8::try_from(place).unwrap());
    LoginAttempt::begin(&random, ReturnTo::root(), 0, now())
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

fn client(scopes: &[&str]) -> ClientRegistration {
    ClientRegistration {
        id: "sidegate-dev".into(),
        secret: Secret::new("sidegate-dev-secret"),
        redirect_url: url("http://localhost:8080/api/v1/auth/callback"),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        keeps_id_token: false,
    }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the development provider's tokens are of the real time")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}

/// The reason of a failed token exchange.
fn exchange_reason<T>(outcome: Result<T, SignInError>) -> String {
    match outcome.map(drop) {
        Err(SignInError::TokenExchange(reason)) => reason,
        other => panic!("not a failed token exchange: {other:?}"),
    }
}

/// The reason of a failed user info request.
fn user_reason<T>(outcome: Result<T, SignInError>) -> String {
    match outcome.map(drop) {
        Err(SignInError::UserInfo(reason)) => reason,
        other => panic!("not a failed question for the user: {other:?}"),
    }
}

/// Checks that a log text contains no secret of the flow.
fn assert_no_secret(reason: &str) {
    for secret in ["sidegate-dev-secret", "eyJ", "gho_", "code=", "Bearer ", attempt().verifier(), attempt().nonce()] {
        assert!(!reason.contains(secret), "`{secret}` in: {reason}");
    }
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_given_up_after_ten_seconds() {
    let held = |endpoint: Endpoint, bench: Bench, user: &'static str| async move {
        bench.control().fail(endpoint, Fault::Hold);
        let outcome = tokio::time::timeout(Duration::from_secs(15), bench.sign_in(user)).await;
        outcome.expect("it is still waiting").expect_err("it let somebody in").to_string()
    };
    let reasons = tokio::join!(
        held(Endpoint::Token, Bench::with(oidc::settings).await, "ann"),
        held(Endpoint::UserInfo, Bench::with(oidc::settings).await, "bob"),
        held(Endpoint::GraphMe, Bench::with(entra::contoso).await, "ann"),
        held(Endpoint::User, Bench::with(github::settings).await, "ann"),
    );
    for reason in [reasons.0, reasons.1, reasons.2, reasons.3] {
        assert!(reason.starts_with("127.0.0.1:") || reason.contains(" 127.0.0.1:"), "{reason}");
        assert!(reason.contains(" timed out after 10 s"), "{reason}");
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_named() {
    let bench = Bench::with(github::settings).await;
    let attempt = attempt();
    bench.idp.shutdown().await;
    let reason = exchange_reason(bench.provider.sign_in(&Secret::new("code"), &attempt, bench.now).await);
    assert!(
        reason.contains("127.0.0.1:") && reason.contains("/login/oauth/access_token cannot be reached"),
        "{reason}"
    );
    assert!(reason.contains("refused"), "{reason}");
    assert_no_secret(&reason);
}

#[test]
fn an_address_in_the_clear_is_refused() {
    let settings = oidc::settings("http://idp.example");
    assert!(connect(&settings, &[], None).is_err_and(|error| error.to_string().contains("http://idp.example")));
}

#[test]
fn a_root_that_is_no_certificate_is_refused() {
    let settings = oidc::settings("http://127.0.0.1:1");
    assert!(connect(&settings, &[vec![1, 2, 3].into()], None).is_err());
}
