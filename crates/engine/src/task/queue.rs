//! Which of those that wait is next, and what sets those that wait apart.
//!
//! # Rules
//! - Who waits gains 0.1 of priority a minute, 10 at most: nothing waits for ever.
//! - Tasks that ask the same of a node are a class. Of each class the foremost are looked at, so that work that
//!   nobody can do does not stand in front of other work.
//! - While nobody has gained everything, the order within a class never changes: it is that of [`age_key`].

use caelum_model::{
    UnixMs,
    cluster::Ceiling,
    id::NodeId,
    task::{Task, TaskOrder},
};
use serde::{Deserialize, Serialize};

use crate::placement::Wish;

/// Time in which one point of priority is gained, ms.
pub const POINT_MS: i64 = 600_000;
/// Most points that are gained.
pub const POINTS_MAX: i64 = 10;
/// Time after which nothing more is gained, ms.
pub const AGED_MS: i64 = POINT_MS * POINTS_MAX;

/// What the tasks of a class ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Class(pub Option<NodeId>, pub Vec<String>, pub Ceiling);

impl Class {
    /// The class of a task.
    pub fn of(order: &TaskOrder) -> Self {
        let mut words = order.requirements.clone();
        words.sort();
        words.dedup();
        Self(order.assigned_node.clone(), words, order.task_type.ceiling())
    }

    /// Its text, the same for the same class.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a class has a JSON form")
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The same as a wish.
    pub fn wish(&self) -> Wish<'_> {
        Wish { words: &self.1, node: self.0.as_ref(), ceiling: self.2 }
    }
}

/// The priority of a task that has waited since it was made.
pub fn effective_priority(task: &Task, now_ms: UnixMs) -> f64 {
    let waited_ms = (now_ms - task.created_at).clamp(0, AGED_MS);
    f64::from(task.order.priority) + waited_ms as f64 / POINT_MS as f64
}

/// What those are sorted by that still gain, smallest first.
pub fn age_key(task: &Task) -> i64 {
    task.created_at.saturating_sub(i64::from(task.order.priority) * POINT_MS)
}

/// Sorts, the foremost first.
pub fn sort(tasks: &mut [Task], now_ms: UnixMs) {
    tasks.sort_by(|a, b| {
        effective_priority(b, now_ms)
            .total_cmp(&effective_priority(a, now_ms))
            .then_with(|| a.created_at.cmp(&b.created_at))
            .then_with(|| a.task_id.cmp(&b.task_id))
    });
}
