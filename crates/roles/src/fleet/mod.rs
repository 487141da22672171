//! One server among several: says that it lives, sees the others, and takes up what they wrote down.
//!
//! # Purpose
//! A loop that leaves this server's record where servers coordinate, reads everybody's, and makes of it: where
//! agents find servers, whom to link to, and the truth about the fleet for pages and load balancers. Beside it
//! [`relay`] carries news between the processes.
//!
//! # Rules
//! - The loop looks every [`LOOK`], and more often in its first moments; it beats every heartbeat interval, and
//!   at once where somebody is new.
//! - A backend that is away is tried at each look, said once, and harms nothing else: sessions, leases and
//!   everything that was written are in the records.
//! - Keys and revocations of other servers are taken up at each change and every [`TRUST`] anyway.
//!
//! # What it does not do
//! Which record counts and who is active is said by `engine::fleet`.

pub mod relay;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use caelum_drivers::{clock::Clock, random};
use caelum_engine::fleet::{self, Member, PREFIX, SERVERS_MAX, ServerRecord, Watch, key_of, verify};
use caelum_model::{UnixMs, id::NodeId};
use caelum_store::{Coordination, CoordinationError, Store};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    cluster::{Command, Handle},
    enrol::Registrar,
    vault::Vault,
};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The same in the first moments, and for how long.
const LOOK_FIRST: Duration = Duration::from_millis(400);
const FIRST: Duration = Duration::from_secs(8);
/// Time between two looks at keys and revocations without a change.
const TRUST: Duration = Duration::from_secs(15);
/// Most places that agents are told.
const PLACES_MAX: usize = 16;
/// Records that are read at once; more than count, so that foreign ones do not hide ours.
const RECORDS_MAX: usize = 4 * SERVERS_MAX;

/// What a server knows of its fleet.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The servers, this one first.
    pub members: Vec<Member>,
    /// What the backend said at the last look; none while it answers.
    pub error: Option<String>,
    /// How long the last write of the own record took, ms.
    pub write_ms: Option<f64>,
    /// How long the last look took, ms.
    pub read_ms: Option<f64>,
    /// When the backend answered last, by this server's clock.
    pub answered_at_ms: Option<UnixMs>,
    /// Records that proved nothing at the last look: altered, copied, or of another cluster.
    pub refused: usize,
}

/// The fleet as the rest of the process holds it.
#[derive(Clone)]
pub struct Fleet {
    /// Where servers coordinate.
    pub coordination: Coordination,
    /// Time between two signs of life.
    pub heartbeat: Duration,
    /// Silence after which a server counts as gone.
    pub timeout: Duration,
    view: watch::Receiver<Arc<View>>,
}

impl Fleet {
    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }
}

/// What the loop stands on.
pub struct Parts {
    /// Where servers coordinate.
    pub coordination: Coordination,
    /// Records.
    pub store: Arc<Store>,
    /// Where keys are sealed; none where this server's are its own.
    pub vault: Option<Arc<Vault>>,
    /// Says who is admitted, and tells nodes where servers are.
    pub registrar: Arc<Registrar>,
    /// The other nodes.
    pub cluster: Handle,
    /// News.
    pub bus: Bus,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This server.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// Where it is reached.
    pub servers: Vec<String>,
    /// Time between two signs of life.
    pub heartbeat: Duration,
    /// Silence after which a server counts as gone.
    pub timeout: Duration,
}

/// See the file.
pub struct Loop {
    parts: Parts,
    watch: Watch,
    nonce: String,
    instance: u64,
    counter: u64,
    begun: Instant,
    view: watch::Sender<Arc<View>>,
    places: Arc<RwLock<Vec<String>>>,
}

impl Loop {
    /// A loop that has not begun, and what it will know.
    pub fn new(parts: Parts) -> (Self, Fleet) {
        let (view, seen) = watch::channel(Arc::default());
        let fleet = Fleet {
            coordination: parts.coordination.clone(),
            heartbeat: parts.heartbeat,
            timeout: parts.timeout,
            view: seen,
        };
        let nonce = random::secret(16);
        let instance = u64::try_from(parts.clock.now_ms()).unwrap_or(0);
        let made = Self {
            watch: Watch::new(nonce.clone()),
            nonce,
            instance,
            counter: 0,
            begun: Instant::now(),
            view,
            places: Arc::default(),
            parts,
        };
        (made, fleet)
    }

    /// Takes part until told to stop, and says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.parts.bus.subscribe();
        let mut told = self.parts.registrar.subscribe();
        let (mut beat_at, mut trust_at) = (Instant::now(), Instant::now());
        let mut was_away = false;
        loop {
            let now = Instant::now();
            if now >= trust_at {
                trust_at = now + TRUST;
                self.take_up().await;
            }
            if now >= beat_at {
                beat_at = now + self.parts.heartbeat;
                if let Err(error) = self.beat().await {
                    beat_at = now + LOOK;
                    self.failed(&error);
                }
            }
            match self.look().await {
                Ok(has_newcomer) => {
                    if std::mem::take(&mut was_away) {
                        tracing::info!(code = "fleet.back", "servers see each other again");
                        beat_at = Instant::now();
                    }
                    if has_newcomer {
                        beat_at = Instant::now();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut was_away, true) {
                        tracing::warn!(code = "fleet.away", %error, "this server does not see the others");
                    }
                    self.failed(&error);
                }
            }
            let pause = if self.begun.elapsed() < FIRST { LOOK_FIRST } else { LOOK };
            let wake = (Instant::now() + pause).min(beat_at.max(Instant::now()));
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        self.goodbye().await;
                        return;
                    }
                    () = tokio::time::sleep_until(wake) => break,
                    change = changes.recv() => match change {
                        // Who was shut out elsewhere is shut out here now.
                        Ok(Change::SettingsChanged) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                            trust_at = Instant::now();
                            break;
                        }
                        Ok(_) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
                    },
                    // What changed here is told to the others; they look at the records.
                    changed = told.recv() => if changed.is_ok() {
                        self.parts.bus.publish(Change::SettingsChanged);
                    },
                }
            }
        }
    }

    /// Keys and revocations that other servers wrote down.
    async fn take_up(&self) {
        let Some(vault) = &self.parts.vault else { return };
        let taken = async {
            let keys = vault.keys().await?;
            self.parts.registrar.take_up(keys).await?;
            Ok::<_, crate::vault::VaultError>(())
        };
        if let Err(error) = taken.await {
            tracing::warn!(
                code = "fleet.trust_not_read",
                error = %error,
                "what other servers decided about trust could not be read; trying again"
            );
        }
    }

    fn record(&self) -> ServerRecord {
        ServerRecord {
            node_id: self.parts.node_id.clone(),
            instance: self.instance,
            counter: self.counter,
            name: self.parts.name.clone(),
            servers: self.parts.servers.clone(),
            version: self.parts.version.clone(),
            roles: self.parts.roles.clone(),
            uptime_ms: i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX),
            nonce: self.nonce.clone(),
            seen: self.watch.seen(),
        }
    }

    async fn beat(&mut self) -> Result<(), CoordinationError> {
        self.counter += 1;
        let Some(key) = self.parts.registrar.keys().into_iter().next_back() else { return Ok(()) };
        let text = fleet::sign(&self.record(), &key);
        let begun = Instant::now();
        self.parts.coordination.put(&key_of(&self.parts.node_id), &text, self.parts.timeout).await?;
        let took = begun.elapsed();
        self.view.send_modify(|view| Arc::make_mut(view).write_ms = Some(ms(took)));
        Ok(())
    }

    async fn look(&mut self) -> Result<bool, CoordinationError> {
        let begun = Instant::now();
        let found = self.parts.coordination.list(PREFIX, RECORDS_MAX).await?;
        let took = begun.elapsed();
        let (keys, now_ms) = (self.parts.registrar.keys(), self.parts.clock.now_ms());
        let all = found.len();
        let records: Vec<ServerRecord> = found
            .iter()
            .filter_map(|kept| verify(&kept.key, &kept.value, &keys))
            .filter(|record| !self.parts.registrar.is_revoked(&record.node_id))
            .collect();
        let refused = all - records.len();
        let others = records.into_iter().filter(|record| record.node_id != self.parts.node_id).collect();
        let has_newcomer = self.watch.look(others, now_ms);
        let mut view = View {
            write_ms: self.view.borrow().write_ms,
            read_ms: Some(ms(took)),
            refused,
            ..View::default()
        };
        view.answered_at_ms = Some(now_ms);
        view.members = self.members(now_ms);
        self.tell(&view.members).await;
        self.show(view);
        Ok(has_newcomer)
    }

    fn members(&self, now_ms: UnixMs) -> Vec<Member> {
        let timeout_ms = i64::try_from(self.parts.timeout.as_millis()).unwrap_or(i64::MAX);
        let own = Member { record: self.record(), age_ms: 0, is_active: true };
        let others = self.watch.members(now_ms, timeout_ms);
        let others =
            others.into_iter().filter(|member| !self.parts.registrar.is_revoked(&member.record.node_id));
        std::iter::once(own).chain(others).collect()
    }

    /// Where servers are is told to nodes, and new ones are dialled.
    async fn tell(&self, members: &[Member]) {
        let mut sorted = members.to_vec();
        // The same list on every server: nodes take the word of any of them.
        sorted.sort_by(|a, b| a.record.node_id.cmp(&b.record.node_id));
        let places = fleet::places(&sorted, PLACES_MAX);
        let before = std::mem::replace(
            &mut *self.places.write().expect("no code panics while it holds this lock"),
            places.clone(),
        );
        for member in members.iter().skip(1).filter(|member| member.is_active) {
            let is_known = member.record.servers.iter().any(|place| before.contains(place));
            if !is_known
                && let Some(address) = member.record.servers.first().and_then(|place| place.parse().ok())
            {
                self.parts.cluster.tell(Command::Connect(address)).await;
            }
        }
        self.parts.registrar.set_servers(places);
    }

    fn failed(&self, error: &CoordinationError) {
        let members = self.members(self.parts.clock.now_ms());
        let mut view =
            View { members, error: Some(error.to_string()), ..(*self.view.borrow()).as_ref().clone() };
        (view.read_ms, view.write_ms) = (None, None);
        self.show(view);
    }

    fn show(&self, view: View) {
        let state = |view: &View| {
            let members = view.members.iter();
            let members: Vec<_> = members.map(|of| (of.record.node_id.clone(), of.is_active)).collect();
            (members, view.error.is_some())
        };
        let is_news = state(&view) != state(&self.view.borrow());
        self.view.send_replace(Arc::new(view));
        if is_news {
            // Every server sees for itself.
            self.parts.bus.hear(Change::RosterChanged);
        }
    }

    async fn goodbye(&self) {
        // Who cannot be told will see it by the silence.
        drop(self.parts.coordination.delete(&key_of(&self.parts.node_id)).await);
    }
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}
