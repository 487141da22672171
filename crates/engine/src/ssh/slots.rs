//! The slots themselves: who waits, what is open, what is being made.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use caelum_model::{UnixMs, ssh::SshPoolStats};

use super::{ConnectionId, Failure, FailureKind, Input, Limits, NotBegun, Output, Owner, Place, Ticket};
use crate::hash::mix;

/// Commands that end on a connection before it is tried with one channel more, after a host refused some: it may
/// only have been slow to let go of those before.
const GOOD_FOR_ANOTHER: usize = 32;
/// Times that one request is begun anew before it is refused.
const TRIES_MAX: u8 = 4;
/// Times in a row that a place may drop a connection before those who wait there are refused.
const DROPS_MAX: u32 = 6;
/// First wait after a dropped connection, ms; doubled each time, and spread by half of itself.
const DROP_WAIT_MS: i64 = 100;
/// First wait after a connect that timed out, ms; doubled each time.
const BACKOFF_MS: i64 = 2_000;
/// Longest wait, ms.
const BACKOFF_MAX_MS: i64 = 60_000;
/// Places that are remembered for their failures alone.
const REMEMBERED_MAX: usize = 20_000;

#[derive(Debug)]
struct Request {
    place: Place,
    owner: Owner,
    until_ms: UnixMs,
    tries: u8,
    /// The connection it runs on, and whether a command ran there before; none while it waits.
    runs_on: Option<(ConnectionId, bool)>,
}

#[derive(Debug)]
struct Connection {
    place: Place,
    state: ConnectionState,
}

#[derive(Debug)]
enum ConnectionState {
    Connecting { since_ms: UnixMs, is_aside: bool },
    Open { running: usize, channels: usize, ended: usize, idle_since_ms: UnixMs, has_run: bool },
}

#[derive(Debug, Default)]
struct Host {
    /// Who waits, by owner, and whose turn is next.
    waiting: BTreeMap<Owner, VecDeque<Ticket>>,
    turns: VecDeque<Owner>,
    waiting_count: usize,
    /// Connections in the order of their making.
    connections: Vec<ConnectionId>,
    connecting: usize,
    /// Connects that failed in a row, and what the last one said.
    failures: u32,
    last_failure: Option<Failure>,
    retry_at_ms: UnixMs,
    /// Whether it stands in one of the two lines for a handshake.
    is_in_line: bool,
}

impl Host {
    fn push(&mut self, owner: Owner, ticket: Ticket, is_in_front: bool) {
        let line = self.waiting.entry(owner).or_default();
        if line.is_empty() {
            if is_in_front { self.turns.push_front(owner) } else { self.turns.push_back(owner) }
        }
        if is_in_front {
            line.push_front(ticket)
        } else {
            line.push_back(ticket)
        }
        self.waiting_count += 1;
    }

    /// The next who is served: one of each owner in turn.
    fn pop(&mut self) -> Option<Ticket> {
        let owner = self.turns.pop_front()?;
        let line = self.waiting.get_mut(&owner)?;
        let ticket = line.pop_front()?;
        self.waiting_count -= 1;
        if line.is_empty() {
            self.waiting.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        Some(ticket)
    }

    fn remove(&mut self, owner: Owner, ticket: Ticket) {
        let Some(line) = self.waiting.get_mut(&owner) else { return };
        let Some(at) = line.iter().position(|waiting| *waiting == ticket) else { return };
        line.remove(at);
        self.waiting_count -= 1;
        if line.is_empty() {
            self.waiting.remove(&owner);
            self.turns.retain(|turn| *turn != owner);
        }
    }

    fn is_worth_nothing(&self) -> bool {
        self.waiting_count == 0 && self.connections.is_empty()
    }
}

/// All slots of a pool.
#[derive(Debug, Default)]
pub struct Slots {
    limits: Limits,
    hosts: HashMap<Place, Host>,
    connections: BTreeMap<ConnectionId, Connection>,
    requests: HashMap<Ticket, Request>,
    /// When those who wait have waited long enough.
    ends: BTreeSet<(UnixMs, Ticket)>,
    /// Places that want a handshake: those in health, and those that failed last time.
    line: VecDeque<Place>,
    line_aside: VecDeque<Place>,
    /// Handshakes since when; those aside have taken long.
    quick: BTreeSet<(UnixMs, ConnectionId)>,
    aside: BTreeSet<(UnixMs, ConnectionId)>,
    idle: BTreeSet<(UnixMs, ConnectionId)>,
    /// Places that may be tried again, and when.
    retries: BTreeSet<(UnixMs, Place)>,
    next_connection: u64,
    stats: SshPoolStats,
}

impl Slots {
    /// Slots within these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes what happened and says what is to be done.
    pub fn handle(&mut self, now_ms: UnixMs, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Ask { ticket, place, owner, until_ms } => {
                self.ask(now_ms, ticket, place, owner, until_ms, out);
            }
            Input::Withdraw(ticket) | Input::Done(ticket) => self.end(now_ms, ticket, out),
            Input::NotBegun(ticket, why) => self.not_begun(now_ms, ticket, why, out),
            Input::Connected(connection) => self.connected(now_ms, connection, out),
            Input::ConnectFailed(connection, failure) => {
                self.connect_failed(now_ms, connection, failure, out);
            }
            Input::Lost(connection) => {
                if let Some(place) = self.forget(connection) {
                    self.stats.total_closed += 1;
                    self.serve(now_ms, &place, out);
                }
            }
            Input::Clean => self.clean(now_ms, out),
            Input::Tick => {}
        }
        self.pass_time(now_ms, out);
        self.ramp(now_ms, out);
    }

    /// When [`Input::Tick`] is due; none while there is nothing to wait for.
    pub fn next_wakeup(&self) -> Option<UnixMs> {
        let of = |line: &BTreeSet<(UnixMs, ConnectionId)>, after_ms: i64| {
            line.first().map(|(since_ms, _)| since_ms.saturating_add(after_ms))
        };
        let has_room_aside = self.aside.len() < self.limits.slow_handshakes;
        [
            self.ends.first().map(|(at_ms, _)| *at_ms),
            self.retries.first().map(|(at_ms, _)| *at_ms),
            of(&self.idle, self.limits.idle_ms),
            of(&self.quick, self.limits.connect_timeout_ms),
            of(&self.aside, self.limits.connect_timeout_ms),
            of(&self.quick, self.limits.slow_after_ms).filter(|_| has_room_aside),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How the pool stands.
    pub fn stats(&self) -> SshPoolStats {
        let mut stats = self.stats.clone();
        stats.connecting = self.quick.len() + self.aside.len();
        stats.active_connections = self.connections.len() - stats.connecting;
        stats.idle_connections = self.idle.len();
        stats.waiting = self.ends.len();
        stats.running = self.requests.len() - stats.waiting;
        for connection in self.connections.values() {
            if matches!(connection.state, ConnectionState::Open { .. }) {
                *stats.pools.entry(connection.place.0.to_string()).or_default() += 1;
            }
        }
        stats.total_pools = stats.pools.len();
        stats
    }

    fn ask(
        &mut self,
        now_ms: UnixMs,
        ticket: Ticket,
        place: Place,
        owner: Owner,
        until_ms: UnixMs,
        out: &mut Vec<Output>,
    ) {
        if self.ends.len() >= self.limits.waiting {
            let because =
                format!("{} commands wait for a connection already; ask again later", self.limits.waiting);
            out.push(Output::Refuse(ticket, Failure::new(FailureKind::Refused, because)));
            return;
        }
        if self.hosts.len() >= REMEMBERED_MAX {
            self.hosts.retain(|_, host| !host.is_worth_nothing());
        }
        let host = self.hosts.entry(place.clone()).or_default();
        if let Some(failure) = host.last_failure.as_ref()
            && failure.kind == FailureKind::TimedOut
            && host.connections.is_empty()
            && now_ms < host.retry_at_ms
        {
            let wait_s = (host.retry_at_ms - now_ms + 999) / 1_000;
            let because = format!("{} a moment ago; it is tried again in {wait_s} s", failure.because);
            out.push(Output::Refuse(ticket, Failure { because, ..failure.clone() }));
            return;
        }
        host.push(owner, ticket, false);
        self.ends.insert((until_ms, ticket));
        let request = Request { place: place.clone(), owner, until_ms, tries: 0, runs_on: None };
        self.requests.insert(ticket, request);
        self.serve(now_ms, &place, out);
    }

    /// A request is over, whatever it was doing.
    fn end(&mut self, now_ms: UnixMs, ticket: Ticket, out: &mut Vec<Output>) {
        let Some(request) = self.requests.remove(&ticket) else { return };
        match request.runs_on {
            None => {
                self.ends.remove(&(request.until_ms, ticket));
                if let Some(host) = self.hosts.get_mut(&request.place) {
                    host.remove(request.owner, ticket);
                }
                self.give_up_needless(&request.place, out);
            }
            Some((connection, _)) => {
                self.leave(now_ms, connection);
                self.serve(now_ms, &request.place, out);
            }
        }
    }

    /// A place where nobody waits any more is not dialled on: a handshake that nobody needs holds up others.
    fn give_up_needless(&mut self, place: &Place, out: &mut Vec<Output>) {
        let Some(host) = self.hosts.get(place) else { return };
        if host.waiting_count > 0 {
            return;
        }
        let connecting: Vec<ConnectionId> =
            host.connections.iter().copied().filter(|connection| self.is_connecting(*connection)).collect();
        for connection in connecting {
            self.forget(connection);
            out.push(Output::Close(connection));
        }
    }

    fn is_connecting(&self, connection: ConnectionId) -> bool {
        self.connections
            .get(&connection)
            .is_some_and(|connection| matches!(connection.state, ConnectionState::Connecting { .. }))
    }

    /// One command less on a connection.
    fn leave(&mut self, now_ms: UnixMs, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let ConnectionState::Open { running, channels, ended, idle_since_ms, .. } = &mut connection.state {
            *running = running.saturating_sub(1);
            *ended += 1;
            if *ended >= GOOD_FOR_ANOTHER && *channels < self.limits.channels_per_connection {
                (*channels, *ended) = (*channels + 1, 0);
            }
            if *running == 0 {
                *idle_since_ms = now_ms;
                self.idle.insert((now_ms, id));
            }
        }
    }

    fn not_begun(&mut self, now_ms: UnixMs, ticket: Ticket, why: NotBegun, out: &mut Vec<Output>) {
        let Some(request) = self.requests.get_mut(&ticket) else { return };
        let Some((id, was_reused)) = request.runs_on.take() else { return };
        // It did not run there after all.
        self.stats.total_reused -= u64::from(was_reused);
        request.tries += 1;
        let (place, owner, until_ms, tries) =
            (request.place.clone(), request.owner, request.until_ms, request.tries);
        self.leave(now_ms, id);
        match why {
            NotBegun::Full => {
                if let Some(Connection { state, .. }) = self.connections.get_mut(&id)
                    && let ConnectionState::Open { running, channels, ended, has_run, .. } = state
                {
                    (*channels, *ended) = ((*running).max(1), 0);
                    *has_run &= was_reused;
                }
            }
            NotBegun::Gone => {
                if self.forget(id).is_some() {
                    self.stats.total_closed += 1;
                    out.push(Output::Close(id));
                }
            }
        }
        if tries >= TRIES_MAX {
            self.requests.remove(&ticket);
            let because = match why {
                NotBegun::Full => "the host refuses channels; see MaxSessions of its sshd",
                NotBegun::Gone => "the host closes connections before a command begins",
            };
            out.push(Output::Refuse(ticket, Failure::new(FailureKind::Unreachable, because)));
        } else {
            self.ends.insert((until_ms, ticket));
            self.hosts.entry(place.clone()).or_default().push(owner, ticket, true);
        }
        self.serve(now_ms, &place, out);
    }

    fn connected(&mut self, now_ms: UnixMs, id: ConnectionId, out: &mut Vec<Output>) {
        let channels = self.limits.channels_per_connection;
        let Some(connection) = self.connections.get_mut(&id) else {
            // It was given up before it was there.
            out.push(Output::Close(id));
            return;
        };
        let ConnectionState::Connecting { since_ms, .. } = connection.state else { return };
        self.quick.remove(&(since_ms, id));
        self.aside.remove(&(since_ms, id));
        connection.state =
            ConnectionState::Open { running: 0, channels, ended: 0, idle_since_ms: now_ms, has_run: false };
        self.idle.insert((now_ms, id));
        self.stats.total_created += 1;
        let place = connection.place.clone();
        if let Some(host) = self.hosts.get_mut(&place) {
            host.connecting -= 1;
            host.failures = 0;
            host.last_failure = None;
            self.retries.remove(&(host.retry_at_ms, place.clone()));
            host.retry_at_ms = 0;
        }
        self.serve(now_ms, &place, out);
    }

    fn connect_failed(&mut self, now_ms: UnixMs, id: ConnectionId, failure: Failure, out: &mut Vec<Output>) {
        if !self.is_connecting(id) {
            return;
        }
        let Some(place) = self.forget(id) else { return };
        self.stats.total_failed += 1;
        let Some(host) = self.hosts.get_mut(&place) else { return };
        host.failures = host.failures.saturating_add(1);
        let doublings = host.failures.saturating_sub(1).min(10);
        let has_others = !host.connections.is_empty();
        let wait_ms = match failure.kind {
            FailureKind::Dropped => {
                let base_ms = DROP_WAIT_MS << doublings;
                // Those that were dropped together do not come back together.
                base_ms + i64::try_from(mix(id.0) % 1_000).unwrap_or(0) * base_ms / 2_000
            }
            FailureKind::TimedOut => BACKOFF_MS << doublings,
            // What is said at once costs little, and may be mended by whoever asks again.
            FailureKind::Refused | FailureKind::Unreachable if has_others => BACKOFF_MS << doublings,
            FailureKind::Refused | FailureKind::Unreachable => 0,
        };
        self.retries.remove(&(host.retry_at_ms, place.clone()));
        host.retry_at_ms = now_ms.saturating_add(wait_ms.min(BACKOFF_MAX_MS));
        self.retries.insert((host.retry_at_ms, place.clone()));
        host.last_failure = Some(failure.clone());
        let is_tried_again = failure.kind == FailureKind::Dropped && host.failures < DROPS_MAX;
        if is_tried_again || (has_others && failure.kind != FailureKind::Refused) {
            return;
        }
        if has_others && host.connecting < host.connections.len() {
            // What is open goes on serving.
            return;
        }
        while let Some(ticket) = self.hosts.get_mut(&place).and_then(Host::pop) {
            if let Some(request) = self.requests.remove(&ticket) {
                self.ends.remove(&(request.until_ms, ticket));
            }
            out.push(Output::Refuse(ticket, failure.clone()));
        }
        self.give_up_needless(&place, out);
    }

    /// Takes a connection out of everything; answers its place.
    fn forget(&mut self, id: ConnectionId) -> Option<Place> {
        let connection = self.connections.remove(&id)?;
        let host = self.hosts.get_mut(&connection.place);
        match connection.state {
            ConnectionState::Connecting { since_ms, .. } => {
                self.quick.remove(&(since_ms, id));
                self.aside.remove(&(since_ms, id));
                if let Some(host) = host {
                    host.connecting -= 1;
                    host.connections.retain(|other| *other != id);
                }
            }
            ConnectionState::Open { idle_since_ms, .. } => {
                self.idle.remove(&(idle_since_ms, id));
                if let Some(host) = host {
                    host.connections.retain(|other| *other != id);
                }
            }
        }
        Some(connection.place)
    }

    fn clean(&mut self, now_ms: UnixMs, out: &mut Vec<Output>) {
        let idle: Vec<ConnectionId> = self.idle.iter().map(|(_, id)| *id).collect();
        for id in idle {
            self.close(id, out);
        }
        let mut forgiven = Vec::new();
        for (place, host) in &mut self.hosts {
            if host.last_failure.take().is_some() {
                self.retries.remove(&(host.retry_at_ms, place.clone()));
                (host.failures, host.retry_at_ms) = (0, 0);
                forgiven.push(place.clone());
            }
        }
        for place in forgiven {
            self.serve(now_ms, &place, out);
        }
        self.hosts.retain(|_, host| !host.is_worth_nothing() || host.is_in_line);
    }

    fn close(&mut self, id: ConnectionId, out: &mut Vec<Output>) {
        self.forget(id);
        self.stats.total_closed += 1;
        out.push(Output::Close(id));
    }

    /// Gives channels to those who wait at a place, and puts it in line for a handshake where it needs one.
    fn serve(&mut self, now_ms: UnixMs, place: &Place, out: &mut Vec<Output>) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        for at in 0..host.connections.len() {
            let id = host.connections[at];
            let Some(Connection { state, .. }) = self.connections.get_mut(&id) else { continue };
            let ConnectionState::Open { running, channels, idle_since_ms, has_run, .. } = state else {
                continue;
            };
            while running < channels {
                let Some(ticket) = host.pop() else { break };
                let Some(request) = self.requests.get_mut(&ticket) else { continue };
                self.ends.remove(&(request.until_ms, ticket));
                request.runs_on = Some((id, *has_run));
                self.idle.remove(&(*idle_since_ms, id));
                *running += 1;
                self.stats.total_reused += u64::from(*has_run);
                out.push(Output::Run { ticket, connection: id, is_reused: *has_run });
                *has_run = true;
            }
        }
        if self.wants_another(now_ms, place) {
            self.stand_in_line(place);
        }
    }

    /// Whether one more connection to a place would serve somebody.
    fn wants_another(&self, now_ms: UnixMs, place: &Place) -> bool {
        let Some(host) = self.hosts.get(place) else { return false };
        host.connections.len() < self.limits.connections_per_host
            && now_ms >= host.retry_at_ms
            && host.waiting_count > host.connecting * self.limits.channels_per_connection
    }

    fn stand_in_line(&mut self, place: &Place) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        if host.is_in_line {
            return;
        }
        host.is_in_line = true;
        let line = if host.failures == 0 { &mut self.line } else { &mut self.line_aside };
        line.push_back(place.clone());
    }

    /// Everything that is due.
    fn pass_time(&mut self, now_ms: UnixMs, out: &mut Vec<Output>) {
        let limits = self.limits;
        while let Some((since_ms, id)) = self.quick.first().copied()
            && now_ms - since_ms >= limits.slow_after_ms
            && self.aside.len() < limits.slow_handshakes
        {
            self.quick.remove(&(since_ms, id));
            self.aside.insert((since_ms, id));
            if let Some(Connection { state: ConnectionState::Connecting { is_aside, .. }, .. }) =
                self.connections.get_mut(&id)
            {
                *is_aside = true;
            }
        }
        let is_late = |line: &BTreeSet<(UnixMs, ConnectionId)>| {
            line.first().copied().filter(|(since_ms, _)| now_ms - since_ms >= limits.connect_timeout_ms)
        };
        while let Some((_, id)) = is_late(&self.aside).or_else(|| is_late(&self.quick)) {
            let because = format!("it did not answer within {} s", limits.connect_timeout_ms / 1_000);
            self.connect_failed(now_ms, id, Failure::new(FailureKind::TimedOut, because), out);
            out.push(Output::Close(id));
        }
        while let Some((since_ms, id)) = self.idle.first().copied()
            && now_ms - since_ms >= limits.idle_ms
        {
            self.close(id, out);
        }
        while let Some((at_ms, place)) = self.retries.first().cloned()
            && at_ms <= now_ms
        {
            self.retries.remove(&(at_ms, place.clone()));
            self.serve(now_ms, &place, out);
        }
        while let Some((until_ms, ticket)) = self.ends.first().copied()
            && until_ms <= now_ms
        {
            self.refuse_late(ticket, out);
        }
    }

    /// Somebody waited long enough.
    fn refuse_late(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let Some(request) = self.requests.remove(&ticket) else { return };
        self.ends.remove(&(request.until_ms, ticket));
        let host = self.hosts.get_mut(&request.place);
        let is_busy = host.as_ref().is_some_and(|host| host.connecting < host.connections.len());
        let last = host.as_ref().and_then(|host| host.last_failure.clone());
        if let Some(host) = host {
            host.remove(request.owner, ticket);
        }
        let failure = match last {
            _ if is_busy => Failure::new(FailureKind::Refused, "no channel to it came free in time"),
            Some(failure) => failure,
            None => Failure::new(FailureKind::TimedOut, "there was no connection to it in time"),
        };
        out.push(Output::Refuse(ticket, failure));
        self.give_up_needless(&request.place, out);
    }

    /// Begins handshakes, as many as there may be: places in health first, one each in turn.
    fn ramp(&mut self, now_ms: UnixMs, out: &mut Vec<Output>) {
        while self.quick.len() < self.limits.handshakes
            && let Some(place) = self.line.pop_front()
        {
            if !self.begin(now_ms, place, false, out) {
                return;
            }
        }
        while self.aside.len() < self.limits.slow_handshakes
            && let Some(place) = self.line_aside.pop_front()
        {
            if !self.begin(now_ms, place, true, out) {
                return;
            }
        }
    }

    /// Begins one handshake; answers false where there may be no more connections just now.
    fn begin(&mut self, now_ms: UnixMs, place: Place, is_aside: bool, out: &mut Vec<Output>) -> bool {
        if let Some(host) = self.hosts.get_mut(&place) {
            host.is_in_line = false;
        }
        if !self.wants_another(now_ms, &place) {
            return true;
        }
        if self.connections.len() >= self.limits.connections {
            // The one that has had nothing to do for longest makes room.
            let Some((_, oldest)) = self.idle.first().copied() else {
                let Some(host) = self.hosts.get_mut(&place) else { return true };
                host.is_in_line = true;
                let line = if is_aside { &mut self.line_aside } else { &mut self.line };
                line.push_front(place);
                return false;
            };
            self.close(oldest, out);
        }
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        let handshakes = if is_aside { &mut self.aside } else { &mut self.quick };
        handshakes.insert((now_ms, id));
        let state = ConnectionState::Connecting { since_ms: now_ms, is_aside };
        self.connections.insert(id, Connection { place: place.clone(), state });
        if let Some(host) = self.hosts.get_mut(&place) {
            host.connections.push(id);
            host.connecting += 1;
        }
        out.push(Output::Connect(id, place.clone()));
        if self.wants_another(now_ms, &place) {
            self.stand_in_line(&place);
        }
        true
    }
}
