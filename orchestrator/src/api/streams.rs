//! Limits how many event streams are open, in total and per person.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// In total.
const MOST: usize = 256;
/// Per person: a dozen windows in two browsers.
const MOST_EACH: usize = 24;

/// The open streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    each: HashMap<String, usize>,
}

/// A stream's slot, released when dropped.
pub(super) struct Slot {
    streams: Streams,
    person: Option<String>,
}

impl Streams {
    /// Takes a slot; `None` if there is none left. Without a proxy people cannot be distinguished: then only the total counts.
    pub(super) fn take(&self, person: Option<String>) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = person.as_ref().and_then(|person| open.each.get(person)).copied().unwrap_or_default();
        if open.all >= MOST || theirs >= MOST_EACH {
            return None;
        }
        open.all += 1;
        if let Some(person) = &person {
            open.each.insert(person.clone(), theirs + 1);
        }
        Some(Slot { streams: self.clone(), person })
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        let Some(person) = &self.person else { return };
        if let Some(theirs) = open.each.get_mut(person) {
            *theirs = theirs.saturating_sub(1);
            if *theirs == 0 {
                open.each.remove(person);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_most_in_all_and_for_each_and_places_come_back() {
        let streams = Streams::default();
        let ann: Vec<_> = (0..MOST_EACH).map(|_| streams.take(Some("ann".into())).unwrap()).collect();
        assert!(streams.take(Some("ann".into())).is_none());
        let others: Vec<_> = (MOST_EACH..MOST).map(|_| streams.take(None).unwrap()).collect();
        assert!(streams.take(Some("bo".into())).is_none() && streams.take(None).is_none());
        drop(ann);
        assert!(streams.take(Some("ann".into())).is_some());
        drop(others);
        assert_eq!(streams.count(), 0);
        assert!(streams.0.lock().unwrap().each.is_empty(), "nobody is remembered for nothing");
    }
}
