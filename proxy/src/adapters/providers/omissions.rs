//! What a provider says of a person and does not count here: gathered while it is read, and written to the log.

use std::sync::{Mutex, PoisonError};

use crate::adapters::telemetry::Clean;
use crate::adapters::telemetry::audit::Origin;
use crate::ports::{Omission, Omitted};

/// What one reading leaves out.
#[derive(Default)]
pub(super) struct Omissions(Mutex<Vec<Omitted>>);

impl Omissions {
    /// Notes something that does not count, once.
    pub(super) fn note(&self, what: Omission, reason: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let omitted = Omitted { what, reason };
        if !all.contains(&omitted) {
            all.push(omitted);
        }
    }

    /// All that was noted.
    pub(super) fn into_all(self) -> Vec<Omitted> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all of it to the log, where no request asked for the reading.
    pub(super) fn log(self) {
        log(&self.into_all(), None);
    }
}

/// Writes what does not count to the log, with the request that the person signs in by.
pub fn log(all: &[Omitted], origin: Option<Origin<'_>>) {
    let client = origin.map(|origin| tracing::field::display(origin.client));
    let request_id = origin.map(|origin| tracing::field::display(Clean(origin.request_id)));
    for Omitted { what, reason } in all {
        // An address that is not verified is its owner's matter; what cannot be read is the operator's.
        if *what == Omission::Email {
            tracing::info!(client, request_id, "{reason}");
        } else {
            tracing::warn!(client, request_id, "{reason}");
        }
    }
}
