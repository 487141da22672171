//! News inside one process: what changed, so that live pages and loops look again.
//!
//! A change carries no data. Whoever cares reads the store, so a lost or doubled notice does no harm: a
//! subscriber that fell behind treats the gap as "everything may have changed".

use tokio::sync::broadcast;

/// Something that readers may want to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A node has a new sample.
    NodeSampled,
    /// Rollup rows were written.
    RollupsChanged,
    /// Verdicts or what is usual were written.
    DiagnosesChanged,
    /// Incidents opened, changed or closed.
    IncidentsChanged,
    /// The list of targets changed.
    TargetsChanged,
    /// Thresholds or other settings changed.
    SettingsChanged,
    /// Nodes, links or machines heard are not what they were.
    RosterChanged,
    /// Tasks or schedules were added, or are not where they were.
    TasksChanged,
    /// A task wrote something.
    TaskOutput,
    /// Alerts were raised, changed or cleared.
    AlertsChanged,
}

impl Change {
    /// Every change.
    pub const ALL: [Self; 10] = [
        Self::NodeSampled,
        Self::RollupsChanged,
        Self::DiagnosesChanged,
        Self::IncidentsChanged,
        Self::TargetsChanged,
        Self::SettingsChanged,
        Self::RosterChanged,
        Self::TasksChanged,
        Self::TaskOutput,
        Self::AlertsChanged,
    ];
}

/// The sending half, cheap to clone. Holds the last 64 changes for slow subscribers.
#[derive(Clone, Debug)]
pub struct Bus {
    sender: broadcast::Sender<Change>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(64) }
    }
}

impl Bus {
    /// Tells every subscriber. Having none is fine.
    pub fn publish(&self, change: Change) {
        // An error only says that nobody listens right now.
        drop(self.sender.send(change));
    }

    /// Subscribes to changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }
}
