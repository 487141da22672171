//! The links of a node as this floor keeps them: by name, by node, and by when each wants to be woken.
//!
//! A server of a thousand nodes looks here at every frame: nothing that is asked often looks at all links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use caelum_model::{
    cluster::{NodePass, NodeRole},
    id::NodeId,
};

use crate::link::{LinkId, Session};

/// One link.
pub(super) struct Line {
    pub(super) session: Session,
    pub(super) pass: Option<NodePass>,
    pub(super) remote: SocketAddr,
    pub(super) is_dialled: bool,
    pub(super) opened_ms: i64,
    pub(super) said_goodbye: bool,
    pub(super) was_refused: bool,
    pub(super) name: String,
    is_registered: bool,
    due_ms: Option<i64>,
}

impl Line {
    pub(super) fn new(
        session: Session,
        pass: Option<NodePass>,
        remote: SocketAddr,
        is_dialled: bool,
        opened_ms: i64,
        name: String,
    ) -> Self {
        Self {
            session,
            pass,
            remote,
            is_dialled,
            opened_ms,
            said_goodbye: false,
            was_refused: false,
            name,
            is_registered: false,
            due_ms: None,
        }
    }

    /// Whether its other end has said who it is.
    pub(super) fn is_registered(&self) -> bool {
        self.is_registered
    }

    fn is_served(&self) -> bool {
        self.is_registered && self.pass.as_ref().is_some_and(|pass| pass.role == NodeRole::Server)
    }
}

/// All links.
#[derive(Default)]
pub(super) struct Lines {
    lines: BTreeMap<LinkId, Line>,
    nodes: BTreeMap<NodeId, BTreeSet<LinkId>>,
    due: BTreeSet<(i64, LinkId)>,
    /// Registered links to servers.
    served: usize,
}

impl Lines {
    pub(super) fn insert(&mut self, link: LinkId, line: Line) {
        self.remove(link);
        if let Some(pass) = &line.pass {
            self.nodes.entry(pass.node_id.clone()).or_default().insert(link);
        }
        self.lines.insert(link, line);
        self.reschedule(link);
    }

    pub(super) fn remove(&mut self, link: LinkId) -> Option<Line> {
        let line = self.lines.remove(&link)?;
        self.served -= usize::from(line.is_served());
        if let Some(due_ms) = line.due_ms {
            self.due.remove(&(due_ms, link));
        }
        if let Some(pass) = &line.pass
            && let Some(links) = self.nodes.get_mut(&pass.node_id)
        {
            links.remove(&link);
            if links.is_empty() {
                self.nodes.remove(&pass.node_id);
            }
        }
        Some(line)
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Line> {
        self.lines.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Line> {
        self.lines.get_mut(&link)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &Line)> {
        self.lines.iter().map(|(link, line)| (*link, line))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Line> {
        self.lines.values()
    }

    /// The links to a node; mostly one.
    pub(super) fn to(&self, node_id: &NodeId) -> impl Iterator<Item = (LinkId, &Line)> {
        let links = self.nodes.get(node_id).into_iter().flatten();
        links.filter_map(|link| Some((*link, self.lines.get(link)?)))
    }

    /// Notes that the other end said who it is; whether for the first time.
    pub(super) fn register(&mut self, link: LinkId) -> Option<bool> {
        let line = self.lines.get_mut(&link)?;
        let is_first = !std::mem::replace(&mut line.is_registered, true);
        self.served += usize::from(is_first && line.is_served());
        Some(is_first)
    }

    /// Whether a server is linked.
    pub(super) fn is_served(&self) -> bool {
        self.served > 0
    }

    /// Asks a link anew when it wants to be woken; to be called whenever something happened to it.
    pub(super) fn reschedule(&mut self, link: LinkId) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        let due_ms = line.session.next_wakeup_ms();
        if due_ms == line.due_ms {
            return;
        }
        if let Some(before_ms) = std::mem::replace(&mut line.due_ms, due_ms) {
            self.due.remove(&(before_ms, link));
        }
        if let Some(due_ms) = due_ms {
            self.due.insert((due_ms, link));
        }
    }

    /// When the first of them wants to be woken.
    pub(super) fn next_wakeup_ms(&self) -> Option<i64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Those that want to be woken by now.
    pub(super) fn due(&self, now_ms: i64) -> Vec<LinkId> {
        self.due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms).map(|(_, link)| *link).collect()
    }
}
