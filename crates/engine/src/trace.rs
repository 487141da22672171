//! Which measurements are followed from the probe to their row, and how many at most.
//!
//! A trace is for looking at the way, not for counting: it is taken of one measurement in many, and where more
//! come at once than are worth looking at, the first are kept and the others go on untraced. Chance is an
//! argument. It neither makes spans nor sends them.

use caelum_model::trace::TraceContext;

/// Traces that one request, one record or one commit carries on, at most.
pub const CARRIED_MAX: usize = 8;

/// Whether a measurement is traced, where one in `one_in` is: `chance` is any number, each as likely as the
/// others.
pub fn is_chosen(chance: u64, one_in: u64) -> bool {
    // The remainder of a division favours small numbers by less than one part in 2^32 here.
    chance.is_multiple_of(one_in.max(1))
}

/// The beginning of a trace, from chance. Zeros have no meaning in either id, and become ones.
pub fn begin(chance: [u8; 24]) -> TraceContext {
    let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
    trace_id.copy_from_slice(&chance[..16]);
    span_id.copy_from_slice(&chance[16..]);
    if trace_id == [0; 16] {
        trace_id[15] = 1;
    }
    TraceContext { trace_id, span_id: step(span_id), is_sampled: true }
}

/// The id of a further step, from chance.
pub fn step(chance: [u8; 8]) -> [u8; 8] {
    if chance == [0; 8] { [0, 0, 0, 0, 0, 0, 0, 1] } else { chance }
}

/// The traces that several events carry on together: sampled ones, each journey once, the first
/// [`CARRIED_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    contexts: Vec<TraceContext>,
}

impl Carried {
    /// Carries what an event says, if it is a trace context, is sampled, is new and there is room. A text that
    /// is none is no reason to refuse the event: the standard asks to go on without.
    pub fn note(&mut self, traceparent: &str) {
        if self.contexts.len() < CARRIED_MAX
            && let Ok(context) = traceparent.parse()
        {
            self.add(context);
        }
    }

    /// The same for a context that is read already.
    pub fn add(&mut self, context: TraceContext) {
        let is_new = self.contexts.iter().all(|known| known.trace_id != context.trace_id);
        if context.is_sampled && is_new && self.contexts.len() < CARRIED_MAX {
            self.contexts.push(context);
        }
    }

    /// Whether nothing is carried.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// What is carried, in the order in which it came.
    pub fn contexts(&self) -> &[TraceContext] {
        &self.contexts
    }
}

impl FromIterator<TraceContext> for Carried {
    fn from_iter<I: IntoIterator<Item = TraceContext>>(contexts: I) -> Self {
        let mut carried = Self::default();
        contexts.into_iter().for_each(|context| carried.add(context));
        carried
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_in_so_many_is_chosen_and_one_in_one_is_all() {
        assert_eq!((0..10_000).filter(|chance| is_chosen(*chance, 100)).count(), 100);
        assert!((0..100).all(|chance| is_chosen(chance, 1) && is_chosen(chance, 0)));
    }

    #[test]
    fn chance_that_is_all_zeros_still_begins_a_trace() {
        let context = begin([0; 24]);
        assert_eq!(context.to_string().parse(), Ok(context));
        assert_ne!(step([0; 8]), [0; 8]);
    }

    #[test]
    fn a_journey_is_carried_once_and_only_where_it_is_sampled() {
        let (one, other) = (begin([1; 24]), begin([2; 24]));
        let further = one.child([9; 8]);
        let unsampled = TraceContext { is_sampled: false, ..begin([3; 24]) };
        let carried: Carried = [one, further, unsampled, other].into_iter().collect();
        assert_eq!(carried.contexts(), [one, other]);
    }

    #[test]
    fn more_traces_than_are_worth_looking_at_are_let_go() {
        let mut carried = Carried::default();
        assert!(carried.is_empty());
        for n in 1..=100 {
            carried.note(&begin([n; 24]).to_string());
        }
        assert_eq!(carried.contexts().len(), CARRIED_MAX);
        assert_eq!(carried.contexts()[0], begin([1; 24]));
    }

    proptest! {
        #[test]
        fn what_is_begun_travels_as_text(chance in any::<[u8; 24]>()) {
            let context = begin(chance);
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }

        #[test]
        fn a_traceparent_from_a_stranger_never_panics(text in "\\PC{0,80}", bytes in "[0-9a-f-]{50,60}") {
            let mut carried = Carried::default();
            carried.note(&text);
            carried.note(&bytes);
            prop_assert!(carried.contexts().len() <= 2);
        }

        #[test]
        fn one_letter_that_is_wrong_spoils_it_or_is_another_context(at in 0usize..55, letter in "\\PC") {
            let context = begin([7; 24]);
            let mut text: Vec<char> = context.to_string().chars().collect();
            text[at] = letter.chars().next().unwrap_or('x');
            let changed: String = text.into_iter().collect();
            if let Ok(read) = changed.parse::<TraceContext>() {
                prop_assert!(read != context || !(2..53).contains(&at) || changed == context.to_string());
            }
        }
    }
}
