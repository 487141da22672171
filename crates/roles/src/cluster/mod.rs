//! A node among nodes: one loop that joins [`caelum_engine::cluster`] to sockets and links.
//!
//! The loop selects, the engine decides, the loop obeys. Whoever wants something of the cluster holds a
//! [`Handle`]; what the cluster learns about nodes comes out as [`Fact`]s, for the role that keeps records.

mod handle;
mod lines;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use caelum_drivers::{
    beacon::{Air, Destination},
    clock::Clock,
    link::{self, Link},
};
use caelum_engine::{
    Now,
    cluster::{Cluster, Config, Event, Input, Output, To, Way},
};
use caelum_model::{
    beacon::DATAGRAM_ACCEPTED_MAX,
    cluster::NodePass,
    envelope::{Envelope, Heartbeat, MachineInfo, RosterDelta},
    id::NodeId,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::handle::{Command, Counters, Handle, LogLine};
use self::{
    handle::{Order, Reins},
    lines::Lines,
};

/// The roster is published at most this often.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// And this often when nothing but ages and round trips changes.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Time for goodbyes to leave.
const GOODBYE_MAX: Duration = Duration::from_millis(300);

/// Something learnt about a node.
#[derive(Debug)]
pub enum Fact {
    /// It described itself.
    Registered {
        /// Who.
        pass: NodePass,
        /// Where from.
        remote: SocketAddr,
        /// What it says.
        info: Box<MachineInfo>,
    },
    /// Its metrics.
    Heartbeat {
        /// Whose.
        node_id: NodeId,
        /// What they are.
        heartbeat: Box<Heartbeat>,
    },
    /// A request for the roles above; answered by [`Command::Answer`].
    Requested {
        /// On which link.
        link: caelum_engine::cluster::LinkId,
        /// Whose.
        pass: NodePass,
        /// What.
        envelope: Box<Envelope>,
    },
    /// Somebody whose network has no access spoke to us: for the audit log.
    ShutOut {
        /// Where from.
        from: IpAddr,
        /// How.
        what: Way,
    },
    /// A server told keys or revocations.
    Told(Box<RosterDelta>),
}

/// How links are dialled; exchanged when certificates are renewed.
pub type DialTls = Arc<RwLock<Option<link::Tls>>>;

/// What the loop stands on.
pub struct ClusterRole {
    /// Who this node is.
    pub config: Config,
    /// Datagrams; none where beacons are switched off.
    pub air: Option<Arc<dyn Air>>,
    /// Links that others dialled.
    pub accepted: mpsc::Receiver<Link>,
    /// How links are dialled.
    pub tls: DialTls,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where facts go.
    pub facts: mpsc::Sender<Fact>,
    /// Whether anybody looks at the roster.
    pub is_watched: bool,
}

impl ClusterRole {
    /// The loop, ready to run, and the handle to it.
    pub fn prepare(self) -> (Handle, Running) {
        let (handle, reins) = handle::pair();
        let running = Running {
            origin: Instant::now(),
            cluster: Cluster::new(self.config),
            air: self.air,
            accepted: self.accepted,
            lines: Lines::new(self.tls),
            clock: self.clock,
            facts: self.facts,
            reins,
            is_watched: self.is_watched,
            is_changed: true,
            published_ms: i64::MIN,
        };
        (handle, running)
    }
}

/// The loop and what it holds.
pub struct Running {
    origin: Instant,
    cluster: Cluster,
    air: Option<Arc<dyn Air>>,
    accepted: mpsc::Receiver<Link>,
    lines: Lines,
    clock: Arc<dyn Clock>,
    facts: mpsc::Sender<Fact>,
    reins: Reins,
    is_watched: bool,
    is_changed: bool,
    published_ms: i64,
}

impl Running {
    /// Takes part until told to stop, then says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut buffer = vec![0; DATAGRAM_ACCEPTED_MAX + 1];
        let mut is_accepting = true;
        self.take(Input::Start).await;
        loop {
            let wake = tokio::time::sleep_until(self.wake_at());
            tokio::select! {
                () = stop.cancelled() => break,
                received = receive(self.air.as_deref(), &mut buffer) => {
                    let (length, from) = received;
                    self.take(Input::Datagram { from, bytes: &buffer[..length] }).await;
                }
                link = self.accepted.recv(), if is_accepting => match link {
                    Some(link) => self.opened(link, false).await,
                    None => is_accepting = false,
                },
                event = self.lines.next() => self.line_event(event).await,
                Some(order) = self.reins.orders.recv() => self.order(order).await,
                () = wake => self.take(Input::Wake).await,
            }
            self.publish();
        }
        self.take(Input::Stop).await;
        self.lines.close_all(GOODBYE_MAX).await;
    }

    fn now(&self) -> Now {
        let ms = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX);
        Now { ms, wall_ms: self.clock.now_ms() }
    }

    fn wake_at(&self) -> tokio::time::Instant {
        let mut at_ms = self.cluster.next_wakeup_ms().unwrap_or(i64::MAX / 2);
        if self.is_watched {
            let every = if self.is_changed { PUBLISH_EVERY } else { REFRESH_EVERY };
            at_ms = at_ms.min(self.published_ms.saturating_add(every.as_millis() as i64));
        }
        let at_ms = u64::try_from(at_ms).unwrap_or(0).min(86_400_000_000);
        tokio::time::Instant::from_std(self.origin + Duration::from_millis(at_ms))
    }

    async fn opened(&mut self, link: Link, is_dialled: bool) {
        let (pass, remote) = (link.pass.clone(), link.peer);
        let link = self.lines.take_up(link);
        self.take(Input::LinkOpened { link, pass, remote, is_dialled }).await;
    }

    async fn line_event(&mut self, event: lines::LineEvent) {
        match event {
            lines::LineEvent::Dialled(link) => self.opened(*link, true).await,
            lines::LineEvent::DialFailed { addr, reason, was_refused } => {
                self.take(Input::DialFailed { addr, reason, was_refused }).await;
            }
            lines::LineEvent::Text(link, text) => self.take(Input::Frame { link, text: &text }).await,
            lines::LineEvent::Pong(link, payload, rtt_ms) => {
                self.take(Input::Pong { link, payload, rtt_ms }).await;
            }
            lines::LineEvent::Ended(link, how) => self.take(Input::LinkEnded { link, how }).await,
        }
    }

    async fn order(&mut self, order: Order) {
        match order {
            Order::Command(command) => self.take(Input::Command(command)).await,
            Order::Ask { node_id, message_type, payload, timeout, answer } => {
                let tag = self.reins.expect(answer);
                let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
                self.take(Input::Ask { node_id, tag, message_type, payload, timeout_ms }).await;
            }
        }
    }

    async fn take(&mut self, input: Input<'_>) {
        let now = self.now();
        let mut outputs = Vec::new();
        self.reins.counters.take(&input);
        self.cluster.handle(now, input, &mut outputs);
        for output in outputs {
            self.obey(output).await;
        }
    }

    async fn obey(&mut self, output: Output) {
        match output {
            Output::Send { to, bytes } => self.send(to, &bytes).await,
            Output::Dial { addr, is_stranger, .. } => {
                self.reins.counters.dials(1);
                self.lines.dial(addr, is_stranger);
            }
            Output::Frame { link, text } => self.lines.say(link, text),
            Output::Ping { link, payload } => self.lines.ping(link, payload),
            Output::Drop { link } => self.lines.close(link),
            Output::Registered { pass, remote, info } => {
                self.tell(Fact::Registered { pass, remote, info }).await;
            }
            Output::Heartbeat { node_id, heartbeat } => {
                self.tell(Fact::Heartbeat { node_id, heartbeat }).await;
            }
            Output::Requested { link, pass, envelope } => {
                self.tell(Fact::Requested { link, pass, envelope }).await;
            }
            Output::Told(delta) => self.tell(Fact::Told(delta)).await,
            Output::Answered { tag, answer } => self.reins.answer(tag, answer),
            Output::Event(event) => {
                self.note(&event);
                if let Event::ShutOut { from, what } = event {
                    self.tell(Fact::ShutOut { from, what }).await;
                }
            }
            Output::RosterChanged => self.is_changed = true,
        }
    }

    /// A full channel means that the store is slow: waiting here would stall detection, so the newest fact
    /// gives way; a heartbeat follows in seconds.
    async fn tell(&mut self, fact: Fact) {
        if let Err(mpsc::error::TrySendError::Full(fact)) = self.facts.try_send(fact) {
            if matches!(fact, Fact::Heartbeat { .. }) {
                tracing::warn!(
                    code = "cluster.facts_full",
                    "records are kept too slowly; a heartbeat is left out"
                );
            } else {
                // Keys and revocations must not be lost.
                drop(tokio::time::timeout(Duration::from_secs(1), self.facts.send(fact)).await);
            }
        }
    }

    async fn send(&mut self, to: To, bytes: &[u8]) {
        let Some(air) = &self.air else { return };
        let to = match to {
            To::Everyone => Destination::Everyone,
            To::EveryoneSecond => Destination::EveryoneSecond,
            To::One(addr) => Destination::One(addr),
        };
        let report = air.send(to, bytes).await;
        self.reins.counters.sent(report.sent, report.sent * bytes.len());
        for failure in report.failures {
            tracing::debug!(code = "discovery.send_failed", %failure, "a datagram could not be sent");
        }
    }

    fn note(&self, event: &Event) {
        self.reins.counters.note(event);
        let code = event.code();
        if event.is_news() {
            tracing::info!(code, "{event}");
        } else {
            tracing::debug!(code, "{event}");
        }
        self.reins.log(self.clock.now_ms(), event);
    }

    fn publish(&mut self) {
        self.reins.serve(self.cluster.is_served());
        if !self.is_watched {
            return;
        }
        let now = self.now();
        let every = if self.is_changed { PUBLISH_EVERY } else { REFRESH_EVERY };
        if now.ms < self.published_ms.saturating_add(every.as_millis() as i64) {
            return;
        }
        self.published_ms = now.ms;
        self.is_changed = false;
        self.reins.publish(self.cluster.roster(now));
    }
}

/// The next datagram; never, where there is no air.
async fn receive(air: Option<&dyn Air>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(air) = air else { return std::future::pending().await };
    loop {
        match air.receive(buffer).await {
            Ok(received) => return received,
            Err(error) => {
                tracing::warn!(code = "discovery.receive_failed", %error, "a datagram could not be read");
                // A socket that fails at once and always must not make the loop spin.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
