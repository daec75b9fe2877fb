//! One copy of each string that many objects share: node names, pools, states.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

/// Gives out shared copies of equal strings. Clones share the set.
///
/// Meant for words with few values. The set forgets a word when nobody else holds it and
/// the set has doubled since it last looked, so renamed pools do not pile up.
#[derive(Clone, Debug, Default)]
pub struct Interner(Arc<Mutex<Words>>);

#[derive(Debug, Default)]
struct Words {
    set: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    pub fn get(&self, word: &str) -> Arc<str> {
        let mut words = self.0.lock();
        if let Some(known) = words.set.get(word) {
            return Arc::clone(known);
        }
        if words.set.len() >= words.sweep_at {
            words.set.retain(|word| Arc::strong_count(word) > 1);
            words.sweep_at = (words.set.len() * 2).max(64);
        }
        let word: Arc<str> = Arc::from(word);
        words.set.insert(Arc::clone(&word));
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_are_one_allocation() {
        let interner = Interner::default();

        assert!(Arc::ptr_eq(&interner.get("pve1"), &interner.get("pve1")));
    }

    #[test]
    fn words_that_nobody_uses_are_forgotten() {
        let interner = Interner::default();
        for word in 0..1000 {
            interner.get(&word.to_string());
        }

        assert!(interner.0.lock().set.len() <= 64);
    }
}
