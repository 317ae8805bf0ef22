//! Caches, for a minute, a cluster's answers on what people may list.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::model::Kind;
use super::person::Person;

/// How long an answer is valid.
const COUNTS: Duration = Duration::from_secs(60);
/// The age at which an answer is refreshed in the background: active users never wait for a refresh.
const AGES: Duration = Duration::from_secs(30);
/// How many answers are cached per cluster.
const ANSWERS_MOST: usize = 100_000;

/// A question about a person: which kind, in which namespace; an empty namespace means all.
pub(super) type Question = (Kind, String);

/// A cluster's cached answers.
#[derive(Default)]
pub(super) struct Answers(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    of: HashMap<Person, Of>,
    count: usize,
    /// The people whose answers are being refreshed.
    asking: HashSet<Person>,
}

/// The answers about one person.
type Of = BTreeMap<Kind, BTreeMap<String, (bool, Instant)>>;

/// The cached answers to some questions.
#[derive(Default)]
pub(super) struct Known {
    /// The questions answered with yes.
    pub(super) allowed: Vec<Question>,
    /// The questions without a valid answer.
    pub(super) open: Vec<Question>,
    /// The questions whose answers expire soon.
    pub(super) ageing: Vec<Question>,
}

impl Answers {
    /// The answer to one question, if it is still valid.
    pub(super) fn known(&self, person: &Person, kind: Kind, namespace: &str, now: Instant) -> Option<bool> {
        let kept = self.kept();
        let (allowed, asked) = kept.of.get(person)?.get(&kind)?.get(namespace)?;
        counts(*asked, now).then_some(*allowed)
    }

    /// The valid answers to these questions.
    pub(super) fn of(&self, person: &Person, questions: Vec<Question>, now: Instant) -> Known {
        let kept = self.kept();
        let about = kept.of.get(person);
        let mut known = Known::default();
        for question in questions {
            let answer = about.and_then(|about| about.get(&question.0)?.get(&question.1));
            let Some((allowed, asked)) = answer.filter(|(_, asked)| counts(*asked, now)) else {
                known.open.push(question);
                continue;
            };
            if now.duration_since(*asked) >= AGES {
                known.ageing.push(question.clone());
            }
            if *allowed {
                known.allowed.push(question);
            }
        }
        known
    }

    /// Stores an answer to a question asked at `asked`.
    pub(super) fn keep(&self, person: &Person, (kind, namespace): Question, allowed: bool, asked: Instant) {
        let mut kept = self.kept();
        if kept.count >= ANSWERS_MOST {
            kept.forget(asked);
        }
        if kept.count >= ANSWERS_MOST {
            return;
        }
        if !kept.of.contains_key(person) {
            kept.of.insert(person.clone(), Of::new());
        }
        let before =
            kept.of.get_mut(person).and_then(|of| of.entry(kind).or_default().insert(namespace, (allowed, asked)));
        kept.count += usize::from(before.is_none());
    }

    /// Returns true if a refresh for a person may start: none is running. [`Self::asked_again`] marks its end.
    pub(super) fn ask_again(&self, person: &Person) -> bool {
        self.kept().asking.insert(person.clone())
    }

    pub(super) fn asked_again(&self, person: &Person) {
        self.kept().asking.remove(person);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts(asked: Instant, now: Instant) -> bool {
    now.duration_since(asked) < COUNTS
}

impl Kept {
    /// Removes expired answers.
    fn forget(&mut self, now: Instant) {
        for of in self.of.values_mut() {
            for answers in of.values_mut() {
                answers.retain(|_, (_, asked)| counts(*asked, now));
            }
        }
        self.of.retain(|_, of| of.values().any(|answers| !answers.is_empty()));
        self.count = self.of.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(namespace: &str) -> Question {
        (Kind::Bucket, namespace.to_owned())
    }

    #[test]
    fn an_answer_counts_for_a_minute_and_ages_before_that() {
        let (answers, begun) = (Answers::default(), Instant::now());
        let [ann, bob] = ["ann", "bob"].map(|name| Person::new(name, &[], "").unwrap());
        answers.keep(&ann, question("a"), true, begun);
        answers.keep(&ann, question("b"), false, begun);
        let known = |person: &Person, after: Duration| {
            answers.of(person, vec![question("a"), question("b"), question("c")], begun + after)
        };
        let fresh = known(&ann, Duration::ZERO);
        assert_eq!((fresh.allowed, fresh.open, fresh.ageing), (vec![question("a")], vec![question("c")], vec![]));
        assert_eq!(known(&bob, Duration::ZERO).open.len(), 3);
        assert_eq!(known(&ann, AGES).ageing, [question("a"), question("b")]);
        let late = begun + COUNTS;
        assert_eq!((known(&ann, COUNTS).open.len(), answers.known(&ann, Kind::Bucket, "a", late)), (3, None));
        assert!(answers.ask_again(&ann) && !answers.ask_again(&ann) && answers.ask_again(&bob));
        answers.asked_again(&ann);
        assert!(answers.ask_again(&ann));
    }

    #[test]
    fn no_more_answers_are_kept_than_fit_and_old_ones_make_room() {
        let (answers, begun, ann) = (Answers::default(), Instant::now(), Person::new("ann", &[], "").unwrap());
        (0..=ANSWERS_MOST).for_each(|number| answers.keep(&ann, question(&number.to_string()), true, begun));
        let known = |number: usize, now| answers.known(&ann, Kind::Bucket, &number.to_string(), now);
        let count = || answers.kept().count;
        assert_eq!((count(), known(ANSWERS_MOST, begun)), (ANSWERS_MOST, None));
        let late = begun + COUNTS;
        answers.keep(&ann, question(&ANSWERS_MOST.to_string()), true, late);
        assert_eq!((count(), known(ANSWERS_MOST, late)), (1, Some(true)));
    }
}
