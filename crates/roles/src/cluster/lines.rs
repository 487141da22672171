//! The links of this node: one name each, one channel for what they all bring, and dials under way.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use caelum_drivers::link::{self, How, Incoming, Link, Outgoing};
use caelum_engine::cluster::{Ended, LinkId};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use super::DialTls;

/// What waits for the loop; a link that brings more waits itself.
const EVENTS_MAX: usize = 1_024;
/// Dials at once.
const DIALS_MAX: usize = 32;
/// Links at once.
const LINKS_MAX: usize = 4_096;

/// Something that a link or a dial brought.
pub(super) enum LineEvent {
    Dialled(Box<Link>),
    DialFailed { addr: SocketAddr, reason: String, was_refused: bool },
    Text(LinkId, String),
    Pong(LinkId, u64, f64),
    Ended(LinkId, Ended),
}

struct Line {
    outgoing: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
}

/// The links of this node.
pub(super) struct Lines {
    tls: DialTls,
    lines: HashMap<LinkId, Line>,
    count: u64,
    events: mpsc::Receiver<LineEvent>,
    sender: mpsc::Sender<LineEvent>,
    dials: Arc<Semaphore>,
}

impl Lines {
    pub(super) fn new(tls: DialTls) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        Self {
            tls,
            lines: HashMap::new(),
            count: 0,
            events,
            sender,
            dials: Arc::new(Semaphore::new(DIALS_MAX)),
        }
    }

    /// What comes next. We hold a sender ourselves, so there is always a next.
    pub(super) async fn next(&mut self) -> LineEvent {
        match self.events.recv().await {
            Some(event) => {
                if let LineEvent::Ended(link, _) = &event {
                    self.lines.remove(link);
                }
                event
            }
            None => std::future::pending().await,
        }
    }

    /// Names a link and reads it from now on.
    pub(super) fn take_up(&mut self, link: Link) -> LinkId {
        self.count += 1;
        let name = LinkId(self.count);
        let Link { mut incoming, outgoing, .. } = link;
        let sender = self.sender.clone();
        let is_full = self.lines.len() >= LINKS_MAX;
        let reader = tokio::spawn(async move {
            while let Some(brought) = (!is_full).then_some(incoming.recv()) {
                let (event, is_last) = match brought.await {
                    Some(Incoming::Text(text)) => (LineEvent::Text(name, text), false),
                    Some(Incoming::Pong { payload, rtt }) => {
                        (LineEvent::Pong(name, payload, rtt.as_secs_f64() * 1_000.0), false)
                    }
                    Some(Incoming::Closed(how)) => (LineEvent::Ended(name, ended(&how)), true),
                    None => (LineEvent::Ended(name, Ended::Failed), true),
                };
                if sender.send(event).await.is_err() || is_last {
                    return;
                }
            }
            drop(sender.send(LineEvent::Ended(name, Ended::Ours)).await);
        });
        self.lines.insert(name, Line { outgoing, reader });
        name
    }

    pub(super) fn say(&mut self, link: LinkId, text: String) {
        self.put(link, Outgoing::Text(text));
    }

    pub(super) fn ping(&mut self, link: LinkId, payload: u64) {
        self.put(link, Outgoing::Ping(payload));
    }

    fn put(&mut self, link: LinkId, outgoing: Outgoing) {
        let Some(line) = self.lines.get(&link) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = line.outgoing.try_send(outgoing) {
            // The other side does not read: what waits for it is bounded.
            self.end(link);
        }
    }

    /// Closes in good order; the reader sees it end.
    pub(super) fn close(&mut self, link: LinkId) {
        let Some(line) = self.lines.get(&link) else { return };
        if line.outgoing.try_send(Outgoing::Close).is_err() {
            self.end(link);
        }
    }

    fn end(&mut self, link: LinkId) {
        let Some(line) = self.lines.remove(&link) else { return };
        line.reader.abort();
        let sender = self.sender.clone();
        tokio::spawn(async move { drop(sender.send(LineEvent::Ended(link, Ended::Ours)).await) });
    }

    /// Dials; what becomes of it comes as an event.
    pub(super) fn dial(&mut self, addr: SocketAddr, is_stranger: bool) {
        let tls = self.tls.read().expect("no code panics while it holds this lock").clone();
        let (sender, dials) = (self.sender.clone(), Arc::clone(&self.dials));
        tokio::spawn(async move {
            let Ok(_place) = dials.acquire_owned().await else { return };
            let event = match (is_stranger, tls) {
                (false, None) => LineEvent::DialFailed {
                    addr,
                    reason: "this machine is not admitted to the cluster yet".to_owned(),
                    was_refused: false,
                },
                (is_stranger, tls) => {
                    let tls = if is_stranger { None } else { tls };
                    match link::dial(addr, tls.as_ref()).await {
                        Ok(link) => LineEvent::Dialled(Box::new(link)),
                        Err(error) => LineEvent::DialFailed {
                            addr,
                            was_refused: error.is_refusal(),
                            reason: error.to_string(),
                        },
                    }
                }
            };
            drop(sender.send(event).await);
        });
    }

    /// Lets what was said leave, then lets go.
    pub(super) async fn close_all(&mut self, time_max: Duration) {
        let names: Vec<LinkId> = self.lines.keys().copied().collect();
        for name in names {
            self.close(name);
        }
        let all_ended = async {
            while !self.lines.is_empty() {
                drop(self.next().await);
            }
        };
        // Whoever does not answer a goodbye in time is left; the kernel closes its socket.
        drop(tokio::time::timeout(time_max, all_ended).await);
    }
}

fn ended(how: &How) -> Ended {
    match how {
        How::Goodbye => Ended::Goodbye,
        How::Ended => Ended::Cut,
        How::TimedOut => Ended::TimedOut,
        How::Failed(_) => Ended::Failed,
    }
}
