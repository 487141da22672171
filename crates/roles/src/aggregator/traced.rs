//! The last two steps of a trace: a record was folded, and its windows were committed.
//!
//! Folding happens in memory and many records share a commit, so the traces of what is folded wait here for
//! the commit that makes it a row. What is dropped with a lost partition is dropped here, too: whoever counts
//! it says so in the same trace.

use caelum_drivers::traces::{Timer, Tracer, chance_of_step};
use caelum_engine::trace::step;
use caelum_model::{
    id::{Offset, PartitionId},
    trace::TraceContext,
};
use caelum_queue::Record;

/// Traces that wait for one commit, at most.
const WAITING_MAX: usize = 64;

/// Traces of what is folded and not committed.
#[derive(Debug, Default)]
pub(super) struct Traced {
    waiting: Vec<TraceContext>,
}

impl Traced {
    /// Whether a commit has a trace to tell of.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Says that a record was folded, in each trace that it carries.
    pub(super) fn fold(
        &mut self,
        tracer: &Tracer,
        timer: &Timer,
        partition: PartitionId,
        record: &Record,
        traces: &[TraceContext],
    ) {
        for sent in traces {
            let context = sent.child(step(chance_of_step()));
            let attributes = vec![
                ("partition", u64::from(partition.0).into()),
                ("offset", record.offset.0.into()),
                ("events", u64::from(record.events).into()),
                ("bytes", (record.bytes.len() as u64).into()),
            ];
            tracer.record(timer.end("fold", context, Some(sent.span_id), attributes));
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push(context);
            }
        }
    }

    /// Says that everything through `through` is rows, in each trace that waited for it.
    pub(super) fn commit(
        &mut self,
        tracer: &Tracer,
        timer: &Timer,
        partition: PartitionId,
        through: Offset,
        rows: usize,
    ) {
        for folded in self.waiting.drain(..) {
            let context = folded.child(step(chance_of_step()));
            let attributes = vec![
                ("partition", u64::from(partition.0).into()),
                ("offset", through.0.into()),
                ("rows", (rows as u64).into()),
            ];
            tracer.record(timer.end("commit", context, Some(folded.span_id), attributes));
        }
    }
}
