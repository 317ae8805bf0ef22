//! Closes what stays open for a session or a bearer token (WebSockets, event streams, long responses, uploads) when that ends; what is open
//! without either, when the rules no longer admit it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::judge::Permit;
use crate::domain::time::Timestamp;
use crate::ports::LoadedSession;
use crate::serve::app::{App, Snapshot};
use crate::serve::body::activity::Activity;
use crate::serve::body::guard::Ending;
use crate::serve::clock;
use crate::serve::request::question::Question;

/// How often the session is checked: what is open is closed well within 5 s of its session's end.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Something that stays open: the request's judgement input, and its session.
#[derive(Clone)]
pub(crate) struct Open {
    app: Arc<App>,
    question: Question,
    session: Option<Arc<LoadedSession>>,
}

impl Open {
    /// What an admitted request has opened.
    pub(crate) fn of(app: &Arc<App>, question: Question, permit: &Permit<Arc<LoadedSession>>) -> Self {
        Self { app: Arc::clone(app), question, session: permit.session().cloned() }
    }

    /// The same, without references to the request's own buffer.
    pub(crate) fn kept(self) -> Self {
        Self { question: self.question.kept(), ..self }
    }

    /// Whether the current rules still admit it, with the same session.
    fn is_let_in(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        match self.question.ask_again(&snapshot.rules, self.session.as_deref(), now) {
            Some(Ok(permit)) => permit.session().is_some() || self.session.is_none() || snapshot.sign_in.is_none(),
            Some(Err(_)) | None => false,
        }
    }
}

impl Ending for Open {
    fn end(&self, activity: Arc<Activity>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ended(self.clone(), activity))
    }
}

/// Ends when the session has ended on any replica, or when the current rules no longer admit the request. It follows a session
/// that is renewed. `activity` reports use by the client, without which the session may expire as idle although something is open.
pub(crate) async fn ended(mut open: Open, activity: Arc<Activity>) {
    let mut used = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (snapshot, now) = (open.app.snapshot(), clock::now());
        if let (Some(sign_in), Some(session)) = (&snapshot.sign_in, open.session.clone())
            // Bearer tokens are in no store.
            && !session.is_token()
        {
            used |= activity.take();
            match sign_in.store.follow(&session, used, now).await {
                Ok(Some(current)) => (open.session, used) = (Some(current), false),
                Ok(None) => return,
                // An unavailable store closes nothing, except what has certainly expired.
                Err(_) if session.is_live(Duration::ZERO, now) => {}
                Err(_) => return,
            }
        }
        if !open.is_let_in(&snapshot, now) {
            return;
        }
        // In open mode everything may stay open.
        let (Some(sign_in), Some(session)) = (&snapshot.sign_in, &open.session) else { continue };
        if !sign_in.vouches_for(session) || (session.is_token() && !session.is_live(Duration::ZERO, now)) {
            return;
        }
        if session.is_due(now) {
            sign_in.renewing.renew_in_background(session, now);
        }
    }
}
