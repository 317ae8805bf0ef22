//! What a cluster has answered about what people may list, for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::model::Kind;
use super::person::Person;

/// How long an answer counts.
const COUNTS: Duration = Duration::from_secs(60);
/// How many answers are kept of a cluster.
const ANSWERS_MOST: usize = 100_000;

/// What clusters have answered about people: of a kind in a namespace, or in all (empty).
#[derive(Default)]
pub(super) struct Answers(Mutex<HashMap<Question, (bool, Instant)>>);

/// Who asks for what kind in which namespace; all of them, where it is empty.
type Question = (Person, Kind, String);

impl Answers {
    /// What was answered within the last minute.
    pub(super) fn known(&self, person: &Person, kind: Kind, namespace: &str) -> Option<bool> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.get(&(person.clone(), kind, namespace.to_owned()));
        answer.filter(|(_, asked)| asked.elapsed() < COUNTS).map(|(allowed, _)| *allowed)
    }

    /// Takes an answer to a question that was asked then.
    pub(super) fn keep(&self, person: &Person, kind: Kind, namespace: &str, allowed: bool, asked: Instant) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MOST {
            answers.retain(|_, (_, asked)| asked.elapsed() < COUNTS);
        }
        if answers.len() < ANSWERS_MOST {
            answers.insert((person.clone(), kind, namespace.to_owned()), (allowed, asked));
        }
    }
}
