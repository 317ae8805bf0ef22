//! Checks backends independently of requests: all of them by a health check if one is configured, else resting ones by connecting.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::backends::{Availability, Backend, Backends};
use super::{BoxError, Fields, Patience, RequestFraming, RequestHead, Restart};

/// How long a health check may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How soon a failed check is repeated: only the second failure counts, since a single lost response proves nothing.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl<B> Backends<B>
where
    B: Body<Data = Bytes> + Restart + Default + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts all tasks that are due: name look-ups and checks of backends. Call it a few times a second, inside a runtime.
    pub fn maintain(self: &Arc<Self>) {
        self.look_up_names();
        let now = Instant::now();
        for backend in self.all.load().iter() {
            let is_checked = self.settings.health.is_some() || backend.availability() == Availability::Resting;
            let mut check_state = backend.check_state();
            if !is_checked || check_state.under_way || check_state.due > now {
                continue;
            }
            check_state.under_way = true;
            drop(check_state);
            let (pool, backend) = (Arc::clone(self), Arc::clone(backend));
            tokio::spawn(async move { pool.check(&backend).await });
        }
    }

    async fn check(&self, backend: &Backend<B>) {
        match &self.settings.health {
            Some(health) => {
                let asked = tokio::time::timeout(ANSWER_WITHIN, backend.ask(&health.path)).await;
                let why = asked.unwrap_or_else(|_| Err(format!("it did not answer within {ANSWER_WITHIN:?}"))).err();
                self.record_check(backend, why, health.every);
            }
            None => match backend.connect_new().await {
                Ok(_) => self.record_check(backend, None, Duration::ZERO),
                // It keeps resting, for longer than before.
                Err(_) => backend.check_state().under_way = false,
            },
        }
    }

    fn record_check(&self, backend: &Backend<B>, trouble: Option<String>, every: Duration) {
        let (name, origin, was) = (&self.settings.name, backend.origin(), backend.availability());
        let mut check_state = backend.check_state();
        check_state.under_way = false;
        let Some(why) = trouble else {
            check_state.failed_checks = 0;
            check_state.due = Instant::now() + every;
            drop(check_state);
            backend.set_availability(Availability::Healthy);
            if was != Availability::Healthy {
                tracing::info!(upstream = name, "the backend {origin} is healthy again");
            }
            return;
        };
        check_state.failed_checks += 1;
        check_state.due = Instant::now() + if check_state.failed_checks < 2 { ASK_AGAIN.min(every) } else { every };
        check_state.why.clone_from(&why);
        let is_unhealthy = check_state.failed_checks >= 2;
        drop(check_state);
        if is_unhealthy {
            backend.set_availability(Availability::Unhealthy);
            if was != Availability::Unhealthy {
                tracing::warn!(upstream = name, "the backend {origin} is unhealthy, and gets no requests: {why}");
            }
        }
    }
}

impl<B> Backend<B>
where
    B: Body<Data = Bytes> + Restart + Default + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Runs the backend's health check.
    async fn ask(&self, path: &str) -> Result<(), String> {
        let lease = self.upstream.checkout(Instant::now(), true).await.map_err(|none| none.to_string())?;
        let patience = Patience { first_byte: ANSWER_WITHIN, body: ANSWER_WITHIN, look: ANSWER_WITHIN };
        let head = HealthRequest { path, host: self.authority() };
        let mut answer = lease.send(&head, RequestFraming::Absent, B::default(), patience).await;
        if answer.is_err() {
            // The connection may have been an old one.
            let lease = self.upstream.connect_new().await.map_err(|none| none.to_string())?;
            answer = lease.send(&head, RequestFraming::Absent, B::default(), patience).await;
        }
        match answer.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(format!("it answers {} to {path}", status.as_u16())),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

/// A health check's request.
struct HealthRequest<'a> {
    path: &'a str,
    host: &'a HeaderValue,
}

impl RequestHead for HealthRequest<'_> {
    fn method(&self) -> &Method {
        &Method::GET
    }

    fn target(&self) -> &str {
        self.path
    }

    fn write_fields(&self, fields: &mut impl Fields) {
        fields.field(&HOST, self.host);
        fields.field(&USER_AGENT, &HeaderValue::from_static("sidegate-health"));
    }

    fn receive_interim(&self, _: StatusCode, _: HeaderMap) {}
}
