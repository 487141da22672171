//! What the rest of the process holds of the cluster: commands in, roster, log lines and counts out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use caelum_engine::cluster::Command;
use caelum_engine::cluster::{Event, Input, Way};
use caelum_model::{
    UnixMs,
    cluster::Roster,
    envelope::{Envelope, MessageType},
    id::NodeId,
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Orders that may wait.
const ORDERS_MAX: usize = 256;
/// Log lines kept for slow readers.
const LOG_MAX: usize = 512;
/// Questions under way.
const QUESTIONS_MAX: usize = 1_024;

/// What goes to the loop.
#[derive(Debug)]
pub(super) enum Order {
    /// For the engine as it is.
    Command(Command),
    /// Ask a node.
    Ask {
        /// Whom.
        node_id: NodeId,
        /// What.
        message_type: MessageType,
        /// With what.
        payload: Value,
        /// How long to wait.
        timeout: Duration,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Box<Envelope>, String>>,
    },
}

/// A line of the live log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLine {
    /// When, by this machine's clock.
    pub at_ms: UnixMs,
    /// What happened, as a code that never changes.
    pub code: &'static str,
    /// What happened, for people.
    pub text: String,
    /// Whether it is worth an operator's attention.
    pub is_news: bool,
}

/// Counts since the start, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams sent.
    pub datagrams_sent: AtomicU64,
    /// Their bytes.
    pub datagram_bytes_sent: AtomicU64,
    /// Datagrams received.
    pub datagrams_received: AtomicU64,
    /// Of them not accepted.
    pub datagrams_refused: AtomicU64,
    /// Machines discovered.
    pub discovered: AtomicU64,
    /// Dials made.
    pub dials: AtomicU64,
    /// Of them that led to nothing.
    pub dials_failed: AtomicU64,
    /// Links that came to be.
    pub links_opened: AtomicU64,
    /// Links that were lost.
    pub links_lost: AtomicU64,
    /// Links refused.
    pub links_refused: AtomicU64,
    /// Frames received on links.
    pub frames_received: AtomicU64,
}

impl Counters {
    pub(super) fn take(&self, input: &Input<'_>) {
        match input {
            Input::Datagram { .. } => self.datagrams_received.fetch_add(1, Ordering::Relaxed),
            Input::Frame { .. } => self.frames_received.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    pub(super) fn sent(&self, datagrams: usize, bytes: usize) {
        self.datagrams_sent.fetch_add(datagrams as u64, Ordering::Relaxed);
        self.datagram_bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn dials(&self, number: u64) {
        self.dials.fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn note(&self, event: &Event) {
        let counter = match event {
            Event::Discovered { .. } => &self.discovered,
            Event::DialFailed { .. } => &self.dials_failed,
            Event::Linked { .. } => &self.links_opened,
            Event::Unlinked { .. } => &self.links_lost,
            Event::Refused { .. } | Event::ShutOut { what: Way::Link, .. } => &self.links_refused,
            Event::DatagramRefused { .. } | Event::ShutOut { what: Way::Beacon, .. } => {
                &self.datagrams_refused
            }
            Event::Silent { .. } | Event::Dialling { .. } | Event::Believed { .. } => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The rest of the process' hold of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    /// What this node believes.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// Whether a server is linked.
    pub is_served: watch::Receiver<bool>,
    log: broadcast::Sender<LogLine>,
    /// Counts since the start.
    pub counters: Arc<Counters>,
}

impl Handle {
    /// Tells the loop; false where it has ended.
    pub async fn tell(&self, command: Command) -> bool {
        self.orders.send(Order::Command(command)).await.is_ok()
    }

    /// Asks a node and waits for its answer.
    pub async fn ask(
        &self,
        node_id: NodeId,
        message_type: MessageType,
        payload: Value,
        timeout: Duration,
    ) -> Result<Box<Envelope>, String> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Ask { node_id, message_type, payload, timeout, answer };
        if self.orders.send(order).await.is_err() {
            return Err("the cluster's loop has ended".to_owned());
        }
        answered.await.unwrap_or_else(|_| Err("the cluster's loop has ended".to_owned()))
    }

    /// What happens from now on.
    pub fn log(&self) -> broadcast::Receiver<LogLine> {
        self.log.subscribe()
    }

    /// A handle that leads nowhere, with a roster that never changes: for tests of what holds one.
    pub fn detached(roster: Roster) -> Self {
        let (handle, reins) = pair();
        reins.publish(roster);
        handle
    }
}

/// The loop's end of it.
pub(super) struct Reins {
    pub(super) orders: mpsc::Receiver<Order>,
    roster: watch::Sender<Arc<Roster>>,
    served: watch::Sender<bool>,
    log: broadcast::Sender<LogLine>,
    pub(super) counters: Arc<Counters>,
    questions: HashMap<u64, oneshot::Sender<Result<Box<Envelope>, String>>>,
    tags: u64,
}

pub(super) fn pair() -> (Handle, Reins) {
    let (orders, received) = mpsc::channel(ORDERS_MAX);
    let (roster, shown) = watch::channel(Arc::default());
    let (served, is_served) = watch::channel(false);
    let log = broadcast::Sender::new(LOG_MAX);
    let counters = Arc::new(Counters::default());
    let handle =
        Handle { orders, roster: shown, is_served, log: log.clone(), counters: Arc::clone(&counters) };
    let reins = Reins { orders: received, roster, served, log, counters, questions: HashMap::new(), tags: 0 };
    (handle, reins)
}

impl Reins {
    pub(super) fn expect(&mut self, answer: oneshot::Sender<Result<Box<Envelope>, String>>) -> u64 {
        self.tags += 1;
        self.questions.retain(|_, answer| !answer.is_closed());
        if self.questions.len() < QUESTIONS_MAX {
            self.questions.insert(self.tags, answer);
        }
        self.tags
    }

    pub(super) fn answer(&mut self, tag: u64, answer: Result<Box<Envelope>, String>) {
        if let Some(question) = self.questions.remove(&tag) {
            // Whoever asked may have gone.
            drop(question.send(answer));
        }
    }

    pub(super) fn log(&self, at_ms: UnixMs, event: &Event) {
        if self.log.receiver_count() > 0 {
            let line =
                LogLine { at_ms, code: event.code(), text: event.to_string(), is_news: event.is_news() };
            drop(self.log.send(line));
        }
    }

    pub(super) fn serve(&self, is_served: bool) {
        self.served.send_if_modified(|before| std::mem::replace(before, is_served) != is_served);
    }

    pub(super) fn publish(&self, roster: Roster) {
        self.roster.send_replace(Arc::new(roster));
    }
}
