//! SWIM itself: `foca` behind a queue of what it wants sent, woken and known.
//!
//! Nothing of the links is known here; see the module above for how both are weighed.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use caelum_model::id::NodeId;
use foca::{Config, Foca, Member, Notification, PeriodicParams, PostcardCodec, Runtime, State, Timer};
use rand::{SeedableRng, rngs::SmallRng};

use super::{Seat, Word};

/// Largest message, bytes: with the seal around it, a datagram stays below the least IPv6 MTU.
const MESSAGE_MAX: usize = 1_200;
/// Updates that wait to be spread; more means that they are old.
const TIMERS_MAX: usize = 65_536;
/// Most who are asked for everybody they know when they are met, in so many ms.
const ASKED_MAX: usize = 8;
const ASK_EVERY_MS: i64 = 1_000;
/// While there are rumours, they are told this often.
const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// While there are more than fit into a datagram or two, this often: each is told as many times, only sooner.
const GOSSIP_MANY_EVERY: Duration = Duration::from_millis(100);
const MANY: usize = 50;

/// What SWIM wants since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sends: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) up: Vec<Seat>,
    pub(super) down: Vec<Seat>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.up.is_empty() && self.down.is_empty()
    }
}

/// SWIM and its timers.
pub(super) struct Swim {
    foca: Foca<Seat, PostcardCodec, SmallRng, foca::NoCustomBroadcast>,
    wanted: Wanted,
    timers: BTreeMap<(i64, u64), Timer<Seat>>,
    timer_count: u64,
    /// The gossip's timer while there is nothing to tell: rumours are rare, and five wake-ups a second for
    /// none of them would be most of what a node costs at rest.
    gossip: Option<Timer<Seat>>,
    seats: HashMap<NodeId, Seat>,
    /// When strangers were last asked for whom they know, and how many since then.
    asked: (i64, usize),
}

/// Collects what foca asks for; timers get their time when they are taken over.
#[derive(Default)]
struct Wanted {
    found: Found,
    timers: Vec<(Duration, Timer<Seat>)>,
    /// Run and turn of whoever foca holds for active.
    active: HashMap<NodeId, (u64, u16)>,
}

impl Runtime<Seat> for &mut Wanted {
    fn notify(&mut self, notification: Notification<'_, Seat>) {
        match notification {
            Notification::MemberUp(seat) | Notification::Rename(_, seat) => {
                self.active.insert(seat.node_id.clone(), (seat.run, seat.turn));
                self.found.up.push(seat.clone());
            }
            Notification::MemberDown(seat) => {
                if self.active.get(&seat.node_id).is_some_and(|active| *active <= (seat.run, seat.turn)) {
                    self.active.remove(&seat.node_id);
                }
                self.found.down.push(seat.clone());
            }
            Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Seat, data: &[u8]) {
        self.found.sends.push((to.addr, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Seat>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// Slow and careful: quick detection is the links' part.
fn config() -> Config {
    let number = |number| NonZeroUsize::new(number).expect("a constant above zero");
    Config {
        probe_period: Duration::from_secs(5),
        probe_rtt: Duration::from_millis(1_500),
        num_indirect_probes: number(3),
        max_transmissions: NonZeroU8::new(15).expect("a constant above zero"),
        suspect_to_down_after: Duration::from_secs(10),
        remove_down_after: Duration::from_secs(24 * 3_600).into(),
        max_packet_size: number(MESSAGE_MAX),
        notify_down_members: true,
        // What rumour and servers missed: somebody is asked for everybody now and then. An answer is a full
        // datagram, which makes this the largest part of what SWIM costs at rest.
        periodic_announce: Some(PeriodicParams {
            frequency: Duration::from_secs(60),
            num_members: number(1),
        }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(60),
            num_members: number(1),
        }),
        periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_EVERY, num_members: number(3) }),
    }
}

impl Swim {
    pub(super) fn new(seat: Seat, seed: u64) -> Self {
        Self {
            foca: Foca::new(seat, config(), SmallRng::seed_from_u64(seed), PostcardCodec),
            wanted: Wanted::default(),
            timers: BTreeMap::new(),
            timer_count: 0,
            gossip: None,
            seats: HashMap::new(),
            asked: (i64::MIN, 0),
        }
    }

    pub(super) fn next_wakeup_ms(&self) -> Option<i64> {
        self.timers.keys().next().map(|(at_ms, _)| *at_ms)
    }

    /// Somebody is known to be there: as a member, and asked for everybody else it knows. Those who are met
    /// for the first time are not all asked: a newcomer that a server tells of a thousand nodes would cause a
    /// thousand answers of a thousand bytes each, all of which say the same.
    pub(super) fn meet(&mut self, now_ms: i64, seat: Seat, word: Word) {
        if self.is_seated(&seat) {
            return;
        }
        let is_new = !self.seats.contains_key(&seat.node_id);
        self.seats.entry(seat.node_id.clone()).or_insert_with(|| seat.clone());
        let member = std::iter::once(Member::alive(seat.clone()));
        let met = self.foca.apply_many(member, word != Word::Server, &mut self.wanted);
        self.ignore(met);
        // A seat that is down stays down: asking it makes it take a new one.
        if !is_new && word == Word::FirstHand || self.may_ask(now_ms) {
            let asked = self.foca.announce(seat, &mut self.wanted);
            self.ignore(asked);
        }
    }

    fn may_ask(&mut self, now_ms: i64) -> bool {
        if now_ms.saturating_sub(self.asked.0) >= ASK_EVERY_MS {
            self.asked = (now_ms, 0);
        }
        self.asked.1 += 1;
        self.asked.1 <= ASKED_MAX
    }

    /// Run and turn of a node that is active.
    pub(super) fn active(&self, node_id: &NodeId) -> Option<(u64, u16)> {
        self.wanted.active.get(node_id).copied()
    }

    /// Whether a seat comes after the one that is known of its node.
    pub(super) fn is_successor(&self, seat: &Seat) -> bool {
        self.seats.get(&seat.node_id).is_none_or(|known| (seat.run, seat.turn) > (known.run, known.turn))
    }

    /// Asks somebody believed dead, unless too many were asked just now.
    pub(super) fn rejoin_some(&mut self, now_ms: i64, node_id: &NodeId) {
        if self.may_ask(now_ms) {
            self.rejoin(node_id);
        }
    }

    /// Asks somebody believed dead, so that it takes a new seat.
    pub(super) fn rejoin(&mut self, node_id: &NodeId) {
        if let Some(seat) = self.seats.get(node_id).cloned() {
            let asked = self.foca.announce(seat, &mut self.wanted);
            self.ignore(asked);
        }
    }

    /// This node is gone; everybody is told.
    pub(super) fn declare_down(&mut self, node_id: &NodeId) {
        let member =
            self.foca.iter_membership_state().find(|member| member.id().node_id == *node_id).cloned();
        let Some(member) = member.filter(|member| member.state() != State::Down) else { return };
        let down = Member::new(member.id().clone(), member.incarnation(), State::Down);
        let told = self.foca.apply_many(std::iter::once(down), true, &mut self.wanted);
        self.ignore(told);
        let spread = self.foca.gossip(&mut self.wanted);
        self.ignore(spread);
    }

    /// A message from a member.
    pub(super) fn receive(&mut self, message: &[u8]) -> Result<(), ()> {
        match self.foca.handle_data(message, &mut self.wanted) {
            Ok(()) => Ok(()),
            // Speaking to a seat we had before, or of a state that has passed: no fault of the bytes.
            Err(foca::Error::DataFromOurselves | foca::Error::NotConnected | foca::Error::NotUndead) => {
                Ok(())
            }
            Err(_) => Err(()),
        }
    }

    /// Runs what is due.
    pub(super) fn wake(&mut self, now_ms: i64) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now_ms {
                break;
            }
            let timer = entry.remove();
            let done = self.foca.handle_timer(timer, &mut self.wanted);
            self.ignore(done);
            self.keep_timers(now_ms);
        }
    }

    /// Leaves in good order.
    pub(super) fn leave(&mut self) {
        let left = self.foca.leave_cluster(&mut self.wanted);
        self.ignore(left);
    }

    /// What is wanted since the last time.
    pub(super) fn take(&mut self, now_ms: i64) -> Found {
        self.keep_timers(now_ms);
        let found = std::mem::take(&mut self.wanted.found);
        for seat in found.up.iter().chain(&found.down) {
            self.seats.insert(seat.node_id.clone(), seat.clone());
        }
        found
    }

    fn keep_timers(&mut self, now_ms: i64) {
        let is_quiet = self.foca.updates_backlog() == 0;
        if !is_quiet && let Some(timer) = self.gossip.take() {
            self.wanted.timers.push((GOSSIP_EVERY, timer));
        }
        for (after, timer) in self.wanted.timers.drain(..) {
            if is_quiet && matches!(timer, Timer::PeriodicGossip(_)) {
                self.gossip = Some(timer);
                continue;
            }
            let is_gossip = matches!(timer, Timer::PeriodicGossip(_));
            let after =
                if is_gossip && self.foca.updates_backlog() > MANY { GOSSIP_MANY_EVERY } else { after };
            if self.timers.len() >= TIMERS_MAX {
                continue;
            }
            self.timer_count += 1;
            let at_ms = now_ms + i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
            self.timers.insert((at_ms, self.timer_count), timer);
        }
    }

    fn is_seated(&self, seat: &Seat) -> bool {
        self.wanted.active.get(&seat.node_id).is_some_and(|(run, _)| *run >= seat.run)
    }

    /// Foca refuses what does not fit its state (nobody to gossip with, a probe cut short): its next turn
    /// follows, and nothing is lost.
    fn ignore(&self, done: Result<(), foca::Error>) {
        drop(done);
    }
}
