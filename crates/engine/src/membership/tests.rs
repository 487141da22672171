//! A table of members over a network in virtual time: who knows what, and how soon.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::cluster::ClusterKey;

use super::*;

fn key() -> ClusterKey {
    ClusterKey { generation: 1, secret: "k".repeat(64) }
}

fn id(number: usize) -> NodeId {
    NodeId::parse(&format!("n-{number:03}")).expect("valid")
}

fn addr(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (number / 250) as u8, (number % 250) as u8 + 1], 8181))
}

/// Members on one network, everything delivered after a millisecond unless told otherwise.
struct Table {
    members: Vec<Membership>,
    now_ms: i64,
    in_flight: BTreeMap<(i64, u64), (usize, usize, Vec<u8>)>,
    sent: u64,
    killed: BTreeSet<usize>,
    frozen: BTreeSet<usize>,
    side: Vec<u8>,
    news: Vec<(i64, usize, NodeId, Liveness)>,
    solicits: Vec<usize>,
}

impl Table {
    fn new(size: usize) -> Self {
        let config = |number| Config {
            node_id: id(number),
            addr: addr(number),
            run: 1,
            keys: vec![key()],
            seed: number as u64 + 1,
        };
        Self {
            members: (0..size).map(|number| Membership::new(config(number))).collect(),
            now_ms: 1_000,
            in_flight: BTreeMap::new(),
            sent: 0,
            killed: BTreeSet::new(),
            frozen: BTreeSet::new(),
            side: vec![0; size],
            news: Vec::new(),
            solicits: Vec::new(),
        }
    }

    /// All have heard each other's beacons and are linked.
    fn seated(size: usize) -> Self {
        let mut table = Self::new(size);
        for one in 0..size {
            for other in (0..size).filter(|other| *other != one) {
                table.tell(one, Input::Fresh { node_id: id(other), addr: addr(other), run: 1 });
                table.tell(one, Input::LinkUp { node_id: id(other), run: 1 });
            }
        }
        table.run(30_000);
        table.news.clear();
        table
    }

    fn tell(&mut self, who: usize, input: Input<'_>) {
        let mut out = Vec::new();
        let now = Now { ms: self.now_ms, wall_ms: 0 };
        self.members[who].handle(now, input, &mut out);
        for output in out {
            match output {
                Output::Send { to, bytes } => {
                    self.sent += 1;
                    if let Some(target) = (0..self.members.len()).find(|number| addr(*number) == to) {
                        self.in_flight.insert((self.now_ms + 1, self.sent), (who, target, bytes));
                    }
                }
                Output::Changed { node_id, liveness, .. } => {
                    self.news.push((self.now_ms, who, node_id, liveness));
                }
                Output::Solicit => self.solicits.push(who),
                Output::Located { .. } | Output::Refused { .. } => {}
            }
        }
    }

    fn run(&mut self, for_ms: i64) {
        let end_ms = self.now_ms + for_ms;
        loop {
            let wakeups = (0..self.members.len())
                .filter(|who| !self.killed.contains(who) && !self.frozen.contains(who))
                .filter_map(|who| Some((self.members[who].next_wakeup_ms()?.max(self.now_ms), who)));
            let wakeup = wakeups.min();
            let delivery = self.in_flight.keys().next().map(|(at_ms, _)| *at_ms);
            let next_ms = wakeup.map(|(at_ms, _)| at_ms).into_iter().chain(delivery).min();
            let Some(next_ms) = next_ms.filter(|next_ms| *next_ms <= end_ms) else { break };
            self.now_ms = next_ms;
            if delivery == Some(next_ms) {
                let (_, (from, to, bytes)) = self.in_flight.pop_first().expect("just looked");
                if self.killed.contains(&to) || self.side[from] != self.side[to] {
                    continue;
                }
                if self.frozen.contains(&to) {
                    // The kernel keeps it until the process goes on.
                    self.sent += 1;
                    self.in_flight.insert((self.now_ms + 50, self.sent), (from, to, bytes));
                    continue;
                }
                self.tell(to, Input::Datagram { from: addr(from), bytes: &bytes });
            } else if let Some((_, who)) = wakeup {
                self.tell(who, Input::Wake);
            }
        }
        self.now_ms = end_ms;
    }

    fn believes(&self, who: usize, about: usize) -> Liveness {
        self.members[who].standing(&id(about)).map_or(Liveness::Left, |standing| standing.liveness)
    }

    fn cut_links_of(&mut self, who: usize, because: &'static str) {
        for other in (0..self.members.len()).filter(|other| *other != who) {
            self.tell(other, Input::LinkDown { node_id: id(who), is_goodbye: false, because });
        }
    }
}

#[test]
fn one_introduction_is_enough_for_all_to_know_all() {
    let mut table = Table::new(20);
    for one in 1..20 {
        table.tell(one, Input::Fresh { node_id: id(0), addr: addr(0), run: 1 });
        table.tell(0, Input::Fresh { node_id: id(one), addr: addr(one), run: 1 });
    }
    table.run(10_000);
    for one in 0..20 {
        assert_eq!(table.members[one].nodes().filter(|(_, s)| s.liveness == Liveness::Alive).count(), 19);
    }
}

#[test]
fn a_killed_node_is_dead_for_all_within_a_second() {
    let mut table = Table::seated(12);
    let killed_ms = table.now_ms;
    table.killed.insert(3);
    table.cut_links_of(3, "link closed");
    table.run(1_000);
    for one in (0..12).filter(|one| *one != 3) {
        assert_eq!(table.believes(one, 3), Liveness::Dead);
    }
    let last = table.news.iter().filter(|news| news.3 == Liveness::Dead).map(|news| news.0 - killed_ms).max();
    assert!(last.is_some_and(|ms| ms <= CONFIRM_MS + 10), "{last:?}");
}

#[test]
fn a_lost_link_of_a_node_that_runs_makes_nobody_dead() {
    let mut table = Table::seated(5);
    table.cut_links_of(2, "link closed");
    table.run(30_000);
    assert!(table.news.iter().all(|news| news.3 != Liveness::Dead), "{:?}", table.news);
    assert!((0..5).filter(|one| *one != 2).all(|one| table.believes(one, 2) == Liveness::Alive));
}

#[test]
fn one_observer_that_lost_sight_is_corrected_by_others() {
    let mut table = Table::seated(6);
    // What 0 sends to 2 is lost; others still reach it.
    table.members[0].nodes.get_mut(&id(2)).expect("known").addr =
        Some("192.0.2.1:1".parse().expect("an address"));
    let wrong: SocketAddr = "192.0.2.1:1".parse().expect("an address");
    for witness in [1, 3, 4, 5] {
        let node = table.members[witness].nodes.get_mut(&id(2)).expect("known");
        assert_ne!(node.addr, Some(wrong));
    }
    table.tell(0, Input::LinkDown { node_id: id(2), is_goodbye: false, because: "link closed" });
    table.run(60_000);
    // Declared dead by one, it takes its next turn and is back everywhere.
    for one in [0, 1, 3, 4, 5] {
        assert_eq!(table.believes(one, 2), Liveness::Alive, "{one}");
    }
}

#[test]
fn processes_that_stand_still_for_four_seconds_are_not_declared_dead() {
    let mut table = Table::seated(20);
    for round in 0..3 {
        table.frozen.extend([round, round + 7]);
        table.run(4_000);
        table.frozen.clear();
        table.run(20_000);
    }
    assert!(table.news.iter().all(|news| news.3 != Liveness::Dead), "{:?}", table.news);
}

#[test]
fn an_observer_that_stood_still_asks_again_before_it_judges() {
    let mut table = Table::seated(6);
    table.tell(1, Input::LinkDown { node_id: id(2), is_goodbye: false, because: "link closed" });
    table.frozen.insert(1);
    table.run(5_000);
    table.frozen.clear();
    table.run(5_000);
    assert!(table.news.iter().all(|news| news.3 != Liveness::Dead), "{:?}", table.news);
    assert_eq!(table.believes(1, 2), Liveness::Alive);
}

#[test]
fn a_silent_node_without_links_is_found_by_probes() {
    let mut table = Table::new(8);
    for one in 0..8 {
        for other in (0..8).filter(|other| *other != one) {
            table.tell(one, Input::Fresh { node_id: id(other), addr: addr(other), run: 1 });
        }
    }
    table.run(10_000);
    table.killed.insert(5);
    table.run(40_000);
    assert!((0..8).filter(|one| *one != 5).all(|one| table.believes(one, 5) == Liveness::Dead));
}

#[test]
fn a_split_heals_from_the_first_beacon_on() {
    let mut table = Table::seated(10);
    for member in 5..10 {
        table.side[member] = 1;
    }
    for one in 0..10 {
        for other in (0..10).filter(|other| (*other < 5) != (one < 5)) {
            table.tell(
                one,
                Input::LinkDown { node_id: id(other), is_goodbye: false, because: "host does not answer" },
            );
        }
    }
    table.run(600_000);
    assert_eq!((table.believes(0, 7), table.believes(7, 0)), (Liveness::Dead, Liveness::Dead));
    table.side = vec![0; 10];
    table.solicits.clear();
    table.tell(2, Input::Fresh { node_id: id(8), addr: addr(8), run: 1 });
    assert_eq!(table.solicits, [2], "whoever hears the lost asks everybody");
    for one in 0..10 {
        for other in (0..10).filter(|other| (*other < 5) != (one < 5)) {
            table.tell(one, Input::Fresh { node_id: id(other), addr: addr(other), run: 1 });
        }
    }
    table.run(5_000);
    for one in 0..10 {
        for other in (0..10).filter(|other| *other != one) {
            assert_eq!(table.believes(one, other), Liveness::Alive, "{one} about {other}");
        }
    }
    table.run(60_000);
    assert!(table.news.iter().rev().take(20).all(|news| news.3 != Liveness::Dead));
}

#[test]
fn a_goodbye_is_believed_at_once_and_a_new_run_is_back() {
    let mut table = Table::seated(4);
    table.killed.insert(1);
    for one in [0, 2, 3] {
        table.tell(one, Input::LinkDown { node_id: id(1), is_goodbye: true, because: "goodbye" });
        assert_eq!(table.believes(one, 1), Liveness::Left);
    }
    table.run(20_000);
    assert!([0, 2, 3].iter().all(|one| table.believes(*one, 1) == Liveness::Left));
    table.tell(0, Input::Fresh { node_id: id(1), addr: addr(1), run: 2 });
    assert_eq!(table.believes(0, 1), Liveness::Alive);
}

#[test]
fn a_node_without_udp_is_judged_by_its_link() {
    let mut table = Table::new(2);
    table.tell(0, Input::LinkUp { node_id: id(7), run: 1 });
    table.tell(0, Input::LinkDown { node_id: id(7), is_goodbye: false, because: "link closed" });
    table.run(RELINK_MS - 1);
    assert_eq!(table.believes(0, 7), Liveness::Suspect);
    table.tell(0, Input::LinkUp { node_id: id(7), run: 1 });
    assert_eq!(table.believes(0, 7), Liveness::Alive);
    table.tell(0, Input::LinkDown { node_id: id(7), is_goodbye: false, because: "link closed" });
    table.run(RELINK_MS + 1);
    assert_eq!(table.believes(0, 7), Liveness::Dead);
}

#[test]
fn what_is_replayed_forged_or_of_a_stranger_is_refused() {
    let mut table = Table::seated(2);
    let sealed = |run, seq, key: &ClusterKey| {
        packet::seal(&Packet::Here { nonce: 1 }, &id(1), run, seq, Some(key)).expect("sealed")
    };
    let other = ClusterKey { generation: 1, secret: "x".repeat(64) };
    let cases = [
        (sealed(1, 1, &key()), packet::Refusal::Replayed),
        (sealed(1, 9_000, &other), packet::Refusal::BadSeal),
        (sealed(0, 9_000, &key()), packet::Refusal::Unproven),
        (vec![0xca, 0xe1], packet::Refusal::Malformed),
    ];
    for (bytes, reason) in cases {
        let mut out = Vec::new();
        let input = Input::Datagram { from: addr(1), bytes: &bytes };
        table.members[0].handle(Now { ms: table.now_ms, wall_ms: 0 }, input, &mut out);
        assert_eq!(out, [Output::Refused { from: addr(1), reason }]);
    }
}

#[test]
fn where_a_linked_node_is_heard_is_told_once_when_it_is_first_known() {
    let mut table = Table::new(2);
    let mut told = |input: Input<'_>| {
        let mut out = Vec::new();
        table.members[0].handle(Now { ms: table.now_ms, wall_ms: 0 }, input, &mut out);
        out.into_iter().filter(|output| matches!(output, Output::Located { .. })).collect::<Vec<_>>()
    };
    let located = [Output::Located { node_id: id(1) }];
    assert_eq!(told(Input::LinkUp { node_id: id(1), run: 1 }), []);
    let here = |seq| packet::seal(&Packet::Here { nonce: 1 }, &id(1), 1, seq, Some(&key())).expect("sealed");
    assert_eq!(told(Input::Datagram { from: addr(1), bytes: &here(1) }), located);
    assert_eq!(told(Input::Datagram { from: addr(1), bytes: &here(2) }), []);
    assert_eq!(told(Input::Fresh { node_id: id(1), addr: addr(1), run: 1 }), []);
    // By a beacon instead; and whoever is met with its address is no news of an address.
    assert_eq!(told(Input::LinkUp { node_id: id(2), run: 1 }), []);
    let located = [Output::Located { node_id: id(2) }];
    assert_eq!(told(Input::Fresh { node_id: id(2), addr: addr(2), run: 1 }), located);
    assert_eq!(told(Input::Fresh { node_id: id(3), addr: addr(3), run: 1 }), []);
}

#[test]
fn a_server_brings_back_the_dead_who_sit_elsewhere_now_and_nobody_else() {
    let mut table = Table::seated(4);
    for number in [1, 2] {
        table.killed.insert(number);
        table.cut_links_of(number, "link closed");
    }
    table.killed.insert(3);
    table.tell(0, Input::LinkDown { node_id: id(3), is_goodbye: true, because: "goodbye" });
    table.run(5_000);
    let told = |table: &mut Table, number: usize, run, turn| {
        table.tell(0, Input::Introduced { node_id: id(number), addr: addr(number), run, turn });
        table.believes(0, number)
    };
    assert_eq!(table.believes(0, 1), Liveness::Dead);
    assert_eq!(told(&mut table, 1, 1, 0), Liveness::Dead, "the seat that is down stays down");
    assert_eq!(told(&mut table, 1, 1, 1), Liveness::Alive, "its successor is alive");
    assert_eq!(table.members[0].turn(&id(1)), 1);
    assert_eq!(told(&mut table, 2, 0, 9), Liveness::Dead, "a run that is over");
    assert_eq!(told(&mut table, 2, 2, 0), Liveness::Alive, "the next run");
    assert_eq!(told(&mut table, 3, 1, 7), Liveness::Left, "whoever said goodbye is gone for this run");
    assert_eq!(told(&mut table, 3, 2, 0), Liveness::Alive);
}

#[test]
fn a_revoked_node_is_forgotten_and_its_datagrams_count_for_nothing() {
    let mut table = Table::seated(3);
    table.tell(0, Input::Revoked { node_id: id(1) });
    assert!(table.members[0].standing(&id(1)).is_none());
    let bytes = packet::seal(&Packet::Here { nonce: 1 }, &id(1), 1, 9_999, Some(&key())).expect("sealed");
    let mut out = Vec::new();
    let input = Input::Datagram { from: addr(1), bytes: &bytes };
    table.members[0].handle(Now { ms: table.now_ms, wall_ms: 0 }, input, &mut out);
    assert!(out.contains(&Output::Refused { from: addr(1), reason: packet::Refusal::Unproven }), "{out:?}");
}
