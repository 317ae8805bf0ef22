//! Interns texts that many objects share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The smallest number of texts at which unused ones are removed.
const SWEEP_LEAST: usize = 4096;

/// Interned texts, each kept once while it is in use.
#[derive(Default)]
pub(super) struct Interner(Mutex<Texts>);

#[derive(Default)]
struct Texts {
    texts: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    /// The shared copy of a text.
    pub(super) fn intern(&self, text: &str) -> Arc<str> {
        let mut interned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = interned.texts.get(text) {
            return Arc::clone(found);
        }
        if interned.texts.len() >= interned.sweep_at.max(SWEEP_LEAST) {
            interned.texts.retain(|text| Arc::strong_count(text) > 1);
            interned.sweep_at = interned.texts.len() * 2;
        }
        let new: Arc<str> = text.into();
        interned.texts.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.intern("a"), &interner.intern("a")));
    }

    #[test]
    fn texts_that_nobody_uses_go() {
        let interner = Interner::default();
        let used = interner.intern("used");
        for number in 0..3 * SWEEP_LEAST {
            interner.intern(&number.to_string());
        }
        let interned = interner.0.lock().unwrap();
        assert!(interned.texts.len() <= SWEEP_LEAST && interned.texts.contains(&used));
    }
}
