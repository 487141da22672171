//! The last message ids of a peer: what was acted upon is not acted upon again.

use std::collections::{BTreeSet, VecDeque};

/// Ids remembered.
pub(super) const SEEN_MAX: usize = 1_024;

/// Ids, the oldest forgotten first.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<String>,
    ids: BTreeSet<String>,
}

impl Seen {
    /// Notes an id; false where it is known.
    pub(super) fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_and_only_the_last_are_remembered() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a"));
        assert!(!seen.is_new("a"));
        for n in 0..SEEN_MAX {
            assert!(seen.is_new(&n.to_string()));
        }
        assert_eq!(seen.ids.len(), SEEN_MAX);
        assert!(seen.is_new("a"), "the oldest was forgotten");
    }
}
