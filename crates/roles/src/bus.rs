//! News inside one process, and of other servers: what changed, so that live pages and loops look again.
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
    /// Packages were built, used or revoked, or one is being built.
    PackagesChanged,
}

impl Change {
    /// Every change.
    pub const ALL: [Self; 11] = [
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
        Self::PackagesChanged,
    ];
}

/// The sending half, cheap to clone. Holds the last 64 changes for slow subscribers.
#[derive(Clone, Debug)]
pub struct Bus {
    sender: broadcast::Sender<Change>,
    /// What happened here, for other servers.
    outgoing: broadcast::Sender<Change>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(64), outgoing: broadcast::Sender::new(64) }
    }
}

impl Bus {
    /// Tells every subscriber. Having none is fine.
    pub fn publish(&self, change: Change) {
        // An error only says that nobody listens right now.
        drop(self.sender.send(change));
        drop(self.outgoing.send(change));
    }

    /// Passes on what another server said: to everybody here, and not back.
    pub fn hear(&self, change: Change) {
        drop(self.sender.send(change));
    }

    /// Follows what happens here and nowhere else.
    pub fn outgoing(&self) -> broadcast::Receiver<Change> {
        self.outgoing.subscribe()
    }

    /// Subscribes to changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }
}
