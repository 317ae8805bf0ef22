//! Interns texts that many objects share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The smallest number of texts at which unused ones are removed.
const SWEEP_LEAST: usize = 4096;

/// Interned texts, each kept once while it is in use.
#[derive(Default)]
pub(super) struct Words(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    texts: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Words {
    /// The shared copy of a text.
    pub(super) fn one(&self, text: &str) -> Arc<str> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.texts.get(text) {
            return Arc::clone(found);
        }
        if kept.texts.len() >= kept.sweep_at.max(SWEEP_LEAST) {
            kept.texts.retain(|text| Arc::strong_count(text) > 1);
            kept.sweep_at = kept.texts.len() * 2;
        }
        let new: Arc<str> = text.into();
        kept.texts.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let words = Words::default();
        assert!(Arc::ptr_eq(&words.one("a"), &words.one("a")));
    }

    #[test]
    fn texts_that_nobody_uses_go() {
        let words = Words::default();
        let used = words.one("used");
        for number in 0..3 * SWEEP_LEAST {
            words.one(&number.to_string());
        }
        let kept = words.0.lock().unwrap();
        assert!(kept.texts.len() <= SWEEP_LEAST && kept.texts.contains(&used));
    }
}
