//! The rules of the slots, one by one and under any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Commands that end well are enough for one channel more.
const GOOD_ENOUGH: u64 = 40;

/// Slots with a small world around them that keeps count.
struct World {
    slots: Slots,
    now_ms: i64,
    limits: Limits,
    next_ticket: u64,
    connecting: BTreeMap<ConnectionId, Place>,
    open: BTreeMap<ConnectionId, Place>,
    running: BTreeMap<Ticket, ConnectionId>,
    waiting: BTreeSet<Ticket>,
    refused: Vec<(Ticket, Failure)>,
    ran: Vec<Ticket>,
    asked: u64,
    answered: BTreeMap<Ticket, u32>,
}

fn place(number: u8) -> Place {
    Place::of("root", &format!("192.0.2.{number}"), 22)
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            slots: Slots::new(limits),
            now_ms: 1_000,
            limits,
            next_ticket: 0,
            connecting: BTreeMap::new(),
            open: BTreeMap::new(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            refused: Vec::new(),
            ran: Vec::new(),
            asked: 0,
            answered: BTreeMap::new(),
        }
    }

    fn give(&mut self, input: Input) {
        let mut out = Vec::new();
        self.slots.handle(self.now_ms, input, &mut out);
        for output in out {
            self.take(output);
        }
        self.check();
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Connect(id, place) => assert!(self.connecting.insert(id, place).is_none()),
            Output::Run { ticket, connection, .. } => {
                assert!(self.open.contains_key(&connection), "a command goes to an open connection");
                assert!(self.waiting.remove(&ticket), "only one who waits is served");
                self.running.insert(ticket, connection);
                self.ran.push(ticket);
                *self.answered.entry(ticket).or_default() += 1;
            }
            Output::Refuse(ticket, failure) => {
                assert!(self.waiting.remove(&ticket), "only one who waits is refused");
                self.refused.push((ticket, failure));
                *self.answered.entry(ticket).or_default() += 1;
            }
            Output::Close(id) => {
                self.connecting.remove(&id);
                self.open.remove(&id);
            }
        }
    }

    fn check(&self) {
        let mut of: BTreeMap<&Place, usize> = BTreeMap::new();
        for place in self.connecting.values().chain(self.open.values()) {
            *of.entry(place).or_default() += 1;
        }
        assert!(of.values().all(|count| *count <= self.limits.connections_per_host), "too many: {of:?}");
        let mut on: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for connection in self.running.values() {
            *on.entry(*connection).or_default() += 1;
        }
        assert!(on.values().all(|count| *count <= self.limits.channels_per_connection));
        let stats = self.slots.stats();
        assert_eq!(stats.active_connections, self.open.len());
        assert_eq!(stats.connecting, self.connecting.len());
        assert_eq!(stats.waiting, self.waiting.len());
        assert_eq!(stats.running, self.running.len());
        assert_eq!(stats.total_created - stats.total_closed, stats.active_connections as u64);
    }

    fn ask_as(&mut self, number: u8, owner: u64, wait_ms: i64) -> Ticket {
        self.next_ticket += 1;
        self.asked += 1;
        let ticket = Ticket(self.next_ticket);
        self.waiting.insert(ticket);
        let until_ms = self.now_ms + wait_ms;
        self.give(Input::Ask { ticket, place: place(number), owner: Owner(owner), until_ms });
        ticket
    }

    fn ask(&mut self, number: u8) -> Ticket {
        self.ask_as(number, 1, 60_000)
    }

    fn connect(&mut self, number: u8) {
        let wanted = place(number);
        let ids: Vec<ConnectionId> =
            self.connecting.iter().filter(|(_, place)| **place == wanted).map(|(id, _)| *id).collect();
        for id in ids {
            self.connected(id);
        }
    }

    fn connected(&mut self, id: ConnectionId) {
        let place = self.connecting.remove(&id).expect("is being made");
        self.open.insert(id, place);
        self.give(Input::Connected(id));
    }

    fn fail(&mut self, number: u8, kind: FailureKind) {
        let wanted = place(number);
        let id = self.connecting.iter().find(|(_, place)| **place == wanted).map(|(id, _)| *id);
        let id = id.expect("is being made");
        self.connecting.remove(&id);
        self.give(Input::ConnectFailed(id, Failure::new(kind, "it said no")));
    }

    fn done(&mut self, ticket: Ticket) {
        self.running.remove(&ticket);
        self.give(Input::Done(ticket));
    }

    fn wait(&mut self, ms: i64) {
        self.now_ms += ms;
        self.give(Input::Tick);
    }

    fn lose(&mut self, id: ConnectionId) {
        self.open.remove(&id);
        self.give(Input::Lost(id));
    }
}

fn world() -> World {
    World::new(Limits::default())
}

#[test]
fn one_connection_serves_command_after_command() {
    let mut world = world();
    for _ in 0..1_000 {
        let ticket = world.ask(1);
        world.connect(1);
        world.done(ticket);
    }
    let stats = world.slots.stats();
    assert_eq!((stats.total_created, stats.total_reused, stats.active_connections), (1, 999, 1));
}

#[test]
fn a_host_gets_more_connections_only_when_the_channels_of_one_are_taken() {
    let mut world = world();
    let first: Vec<Ticket> = (0..8).map(|_| world.ask(1)).collect();
    assert_eq!(world.connecting.len(), 1);
    world.connect(1);
    assert_eq!(world.running.len(), first.len());
    for _ in 0..40 {
        world.ask(1);
    }
    world.connect(1);
    assert_eq!((world.open.len(), world.running.len(), world.waiting.len()), (3, 24, 24));
}

#[test]
fn a_connection_that_nobody_uses_is_closed_at_its_time() {
    let mut world = world();
    let ticket = world.ask(1);
    world.connect(1);
    world.wait(400_000);
    assert_eq!(world.open.len(), 1, "a command runs on it");
    world.done(ticket);
    assert_eq!(world.slots.next_wakeup(), Some(world.now_ms + 300_000));
    world.wait(299_999);
    assert_eq!(world.open.len(), 1);
    world.wait(1);
    assert_eq!((world.open.len(), world.slots.stats().total_closed), (0, 1));
}

#[test]
fn handshakes_are_few_at_once_and_slow_ones_hold_up_nobody() {
    let mut world = world();
    for number in 0..200 {
        world.ask(number);
    }
    assert_eq!(world.connecting.len(), 16);
    // The first sixteen are frozen; a second later the others go on.
    world.wait(1_000);
    assert_eq!(world.connecting.len(), 32);
    for number in 16..200 {
        world.connect(number);
    }
    assert_eq!((world.open.len(), world.connecting.len(), world.waiting.len()), (184, 16, 16));
    world.wait(29_000);
    assert_eq!((world.refused.len(), world.connecting.len(), world.waiting.len()), (16, 0, 0));
}

#[test]
fn a_place_that_did_not_answer_is_left_alone_for_a_while_and_says_so() {
    let mut world = world();
    world.ask(1);
    world.wait(30_000);
    assert_eq!(world.refused.len(), 1);
    world.ask(1);
    assert_eq!((world.refused.len(), world.connecting.len()), (2, 0));
    assert!(world.refused[1].1.because.contains("tried again in 2 s"), "{:?}", world.refused[1]);
    world.wait(2_000);
    world.ask(1);
    assert_eq!(world.connecting.len(), 1);
    world.connect(1);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_refusal_holds_for_all_who_wait_and_the_next_to_ask_finds_out_anew() {
    let mut world = world();
    for _ in 0..5 {
        world.ask(1);
    }
    world.fail(1, FailureKind::Refused);
    assert_eq!((world.refused.len(), world.waiting.len()), (5, 0));
    world.ask(1);
    assert_eq!(world.connecting.len(), 1, "a key may have been accepted by now");
}

#[test]
fn a_host_that_drops_connections_is_tried_again_a_little_later_each_time() {
    let mut world = world();
    world.ask(1);
    for _ in 0..3 {
        world.fail(1, FailureKind::Dropped);
        assert!(world.connecting.is_empty() && world.refused.is_empty());
        let wakeup_ms = world.slots.next_wakeup().expect("a retry is due");
        world.wait(wakeup_ms - world.now_ms);
    }
    world.connect(1);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_command_whose_connection_was_gone_before_it_began_begins_on_another() {
    let mut world = world();
    let ticket = world.ask(1);
    world.connect(1);
    world.done(ticket);
    let ticket = world.ask(1);
    let old = world.running.remove(&ticket).expect("runs");
    world.waiting.insert(ticket);
    world.open.remove(&old);
    world.give(Input::NotBegun(ticket, NotBegun::Gone));
    world.connect(1);
    assert!(world.running.contains_key(&ticket));
    assert_eq!(world.slots.stats().total_created, 2);
}

#[test]
fn a_server_with_fewer_channels_is_asked_for_no_more_than_it_has() {
    let mut world = world();
    let tickets: Vec<Ticket> = (0..4).map(|_| world.ask(1)).collect();
    world.connect(1);
    world.running.remove(&tickets[3]);
    world.waiting.insert(tickets[3]);
    world.give(Input::NotBegun(tickets[3], NotBegun::Full));
    assert_eq!((world.running.len(), world.connecting.len()), (3, 1));
}

#[test]
fn a_connection_that_was_full_once_gets_its_channels_back_when_it_does_well() {
    let mut world = World::new(Limits { connections_per_host: 1, ..Limits::default() });
    let tickets: Vec<Ticket> = (0..8).map(|_| world.ask(1)).collect();
    world.connect(1);
    let last = tickets[7];
    world.running.remove(&last);
    world.waiting.insert(last);
    world.give(Input::NotBegun(last, NotBegun::Full));
    assert_eq!((world.running.len(), world.waiting.len()), (7, 1));
    for _ in 0..GOOD_ENOUGH {
        let ticket = *world.running.keys().next().expect("one runs");
        world.done(ticket);
        world.ask(1);
    }
    assert_eq!(world.running.len(), 8);
    let stats = world.slots.stats();
    assert_eq!(stats.total_created + stats.total_reused, GOOD_ENOUGH + 8, "what did not begin counts once");
}

#[test]
fn who_asks_for_much_does_not_make_another_wait_for_all_of_it() {
    let mut world = World::new(Limits { connections_per_host: 1, ..Limits::default() });
    for _ in 0..100 {
        world.ask_as(1, 1, 60_000);
    }
    let other = world.ask_as(1, 2, 60_000);
    world.connect(1);
    let done: Vec<Ticket> = world.ran.iter().copied().take(2).collect();
    assert!(world.running.contains_key(&other) || !done.contains(&other));
    for ticket in done {
        world.done(ticket);
    }
    assert!(world.ran.contains(&other), "it is served in turn");
}

#[test]
fn cleaning_closes_what_is_idle_and_forgives_places_that_failed() {
    let mut world = world();
    let ticket = world.ask(1);
    world.connect(1);
    world.done(ticket);
    world.ask(2);
    world.wait(30_000);
    world.give(Input::Clean);
    assert_eq!(world.open.len(), 0);
    world.ask(2);
    assert_eq!(world.connecting.len(), 1);
}

#[test]
fn where_there_are_too_many_connections_the_longest_idle_one_makes_room() {
    let mut world = World::new(Limits { connections: 2, ..Limits::default() });
    for number in [1, 2] {
        let ticket = world.ask(number);
        world.connect(number);
        world.wait(10);
        world.done(ticket);
    }
    world.ask(3);
    assert_eq!((world.open.len(), world.connecting.len()), (1, 1));
    assert!(world.open.values().all(|open| *open == place(2)));
}

#[derive(Clone, Debug)]
enum Act {
    Ask(u8, u64, i64),
    Connect(usize),
    Fail(usize, u8),
    Done(usize),
    NotBegun(usize, bool),
    Withdraw(usize),
    Lose(usize),
    Clean,
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0u8..5, 0u64..3, 1i64..50_000).prop_map(|(place, owner, wait)| Act::Ask(place, owner, wait)),
        4 => any::<usize>().prop_map(Act::Connect),
        2 => (any::<usize>(), 0u8..4).prop_map(|(at, kind)| Act::Fail(at, kind)),
        5 => any::<usize>().prop_map(Act::Done),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, full)| Act::NotBegun(at, full)),
        1 => any::<usize>().prop_map(Act::Withdraw),
        1 => any::<usize>().prop_map(Act::Lose),
        1 => Just(Act::Clean),
        3 => prop_oneof![0i64..100, 0i64..5_000, 0i64..400_000].prop_map(Act::Wait),
    ]
}

fn nth<K: Copy, V>(map: &BTreeMap<K, V>, at: usize) -> Option<K> {
    (!map.is_empty()).then(|| *map.keys().nth(at % map.len()).expect("within"))
}

impl World {
    fn act(&mut self, act: Act) {
        match act {
            Act::Ask(number, owner, wait_ms) => {
                self.ask_as(number, owner, wait_ms);
            }
            Act::Connect(at) => {
                if let Some(id) = nth(&self.connecting, at) {
                    self.connected(id);
                }
            }
            Act::Fail(at, kind) => {
                if let Some(id) = nth(&self.connecting, at) {
                    self.connecting.remove(&id);
                    let kinds = [
                        FailureKind::Refused,
                        FailureKind::Dropped,
                        FailureKind::TimedOut,
                        FailureKind::Unreachable,
                    ];
                    let failure = Failure::new(kinds[usize::from(kind)], "it said no");
                    self.give(Input::ConnectFailed(id, failure));
                }
            }
            Act::Done(at) => {
                if let Some(ticket) = nth(&self.running, at) {
                    self.done(ticket);
                }
            }
            Act::NotBegun(at, is_full) => {
                if let Some(ticket) = nth(&self.running, at) {
                    self.running.remove(&ticket);
                    self.waiting.insert(ticket);
                    *self.answered.entry(ticket).or_default() -= 1;
                    let why = if is_full { NotBegun::Full } else { NotBegun::Gone };
                    self.give(Input::NotBegun(ticket, why));
                }
            }
            Act::Withdraw(at) => {
                if !self.waiting.is_empty() {
                    let ticket = *self.waiting.iter().nth(at % self.waiting.len()).expect("within");
                    self.waiting.remove(&ticket);
                    *self.answered.entry(ticket).or_default() += 1;
                    self.give(Input::Withdraw(ticket));
                }
            }
            Act::Lose(at) => {
                if let Some(id) = nth(&self.open, at) {
                    self.lose(id);
                }
            }
            Act::Clean => self.give(Input::Clean),
            Act::Wait(ms) => self.wait(ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order: the bounds hold (`check`, after every step), and in the end
    /// everybody was answered once.
    #[test]
    fn the_bounds_hold_and_everybody_is_answered_once(acts in proptest::collection::vec(act(), 1..120)) {
        let limits = Limits {
            connections_per_host: 2,
            channels_per_connection: 2,
            handshakes: 2,
            slow_handshakes: 2,
            connections: 6,
            ..Limits::default()
        };
        let mut world = World::new(limits);
        for act in acts {
            world.act(act);
        }
        // From now on every host answers and every command ends.
        for _ in 0..200 {
            while let Some(id) = nth(&world.connecting, 0) {
                world.connected(id);
            }
            while let Some(ticket) = nth(&world.running, 0) {
                world.done(ticket);
            }
            if world.waiting.is_empty() {
                break;
            }
            let wakeup_ms = world.slots.next_wakeup().expect("who waits is looked after");
            prop_assert!(wakeup_ms > world.now_ms, "a wake-up that is over already would spin");
            world.wait(wakeup_ms - world.now_ms);
        }
        prop_assert!(world.waiting.is_empty(), "nobody starves");
        prop_assert_eq!(world.answered.len() as u64, world.asked);
        prop_assert!(world.answered.values().all(|count| *count == 1));
    }
}
