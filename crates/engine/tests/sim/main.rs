//! Whole clusters in virtual time. Every run is given by its seed, which a failure names.

mod world;

use caelum_engine::{
    cluster::{Event, Input, Way},
    discovery,
    enrol::AccessList,
};
use caelum_model::cluster::Liveness;
use world::{World, id, udp};

fn started(size: usize, subnets: usize, servers: usize, seed: u64) -> World {
    let mut world = World::new(size, subnets, servers, seed);
    for number in 0..size {
        world.start(number);
    }
    world
}

/// A fixed shuffle of 0..size.
fn order(size: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by_key(|number| caelum_engine::hash::mix(seed.wrapping_mul(1_000_003) + *number as u64));
    order
}

#[test]
fn twelve_hosts_in_any_order_know_each_other_within_a_second_and_each_pair_links_once() {
    for seed in 0..40 {
        let mut world = World::new(12, 1, 1, seed);
        for number in order(12, seed) {
            world.start(number);
            world.run((caelum_engine::hash::mix(seed + number as u64) % 700) as i64);
        }
        let took = world.until(1_000, World::all_know_all);
        assert!(took.is_some(), "seed {seed}: {} pairs are missing", world.missing());
        world.run(5_000);
        let links = world.links_by_pair();
        assert_eq!(links.len(), 66, "seed {seed}");
        assert!(links.values().all(|count| *count == 1), "seed {seed}: {links:?}");
    }
}

#[test]
fn a_killed_host_is_known_to_all_within_a_second_and_a_cut_one_within_five() {
    for seed in 0..20 {
        let mut world = started(12, 1, 1, seed);
        world.run(20_000);
        world.kill(3);
        let took = world.until(2_000, |world| world.all_miss(3));
        assert!(took.is_some_and(|ms| ms <= 1_000), "seed {seed}: {took:?}");
        world.silence(7);
        let took = world.until(6_000, |world| {
            (0..12)
                .filter(|one| ![3, 7].contains(one))
                .all(|one| world.cluster(one).liveness(&id(7)) == Some(Liveness::Dead))
        });
        assert!(took.is_some_and(|ms| ms <= 5_000), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_tenth_frozen_for_four_seconds_makes_nobody_dead() {
    for seed in 0..10 {
        let mut world = started(20, 1, 1, seed);
        world.run(20_000);
        world.beliefs.clear();
        for round in 0..3 {
            let frozen = [(seed as usize + round) % 20, (seed as usize + round + 9) % 20];
            frozen.iter().for_each(|number| world.freeze(*number, true));
            world.run(4_000);
            frozen.iter().for_each(|number| world.freeze(*number, false));
            world.run(10_000);
        }
        let dead: Vec<_> = world.beliefs.iter().filter(|belief| belief.3 == Liveness::Dead).collect();
        assert!(dead.is_empty(), "seed {seed}: {dead:?}");
        assert!(world.all_know_all(), "seed {seed}");
    }
}

#[test]
fn a_split_of_ten_minutes_heals_within_five_seconds_of_the_first_beacon() {
    for seed in 0..5 {
        let mut world = started(12, 1, 1, seed);
        world.run(20_000);
        world.split(|number| u8::from(number >= 6));
        world.run(600_000);
        for (one, other) in [(0, 6), (6, 0), (5, 11)] {
            assert_eq!(world.cluster(one).liveness(&id(other)), Some(Liveness::Dead), "seed {seed}");
        }
        world.side = vec![0; 12];
        world.beliefs.clear();
        let first =
            world.until(20_000, |world| world.beliefs.iter().any(|belief| belief.3 == Liveness::Alive));
        assert!(first.is_some(), "seed {seed}: nobody was heard");
        let took = world.until(5_000, World::all_know_all);
        assert!(took.is_some(), "seed {seed}: {} pairs are missing", world.missing());
    }
}

#[test]
fn with_a_tenth_of_datagrams_lost_all_know_all_and_nobody_is_dead() {
    for seed in 0..5 {
        let mut world = World::new(12, 1, 1, seed);
        world.loss_permille = 100;
        for number in 0..12 {
            world.start(number);
        }
        assert!(world.until(10_000, World::all_know_all).is_some(), "seed {seed}");
        world.run(120_000);
        let dead = world.beliefs.iter().filter(|belief| belief.3 == Liveness::Dead).count();
        assert_eq!(dead, 0, "seed {seed}");
    }
}

#[test]
fn three_hundred_nodes_on_ten_networks_know_each_other_and_miss_the_dead() {
    let mut world = World::new(300, 10, 2, 7);
    for number in order(300, 7) {
        world.start(number);
        world.run(3);
    }
    let took = world.until(60_000, World::all_know_all);
    assert!(took.is_some(), "{} pairs are missing", world.missing());
    let most = (2..300).map(|number| world.cluster(number).linked().count()).max().expect("there are nodes");
    assert!(most <= 18, "a node has {most} links");
    world.kill(150);
    let took = world.until(10_000, |world| world.all_miss(150));
    assert!(took.is_some(), "some still believe in it");
}

#[test]
fn a_hundred_idle_nodes_send_at_most_260_bytes_a_second_each() {
    let mut world = started(100, 1, 1, 3);
    world.run(60_000);
    world.bytes.iter_mut().for_each(|bytes| *bytes = 0);
    world.kinds = [0; 4];
    world.run(120_000);
    let mean = world.bytes[1..].iter().sum::<u64>() / 99 / 120;
    assert!(
        mean <= 260,
        "{mean} bytes a second: {:?} for membership, beacons, frames, pings",
        world.kinds.map(|bytes| bytes / 100 / 120)
    );
}

#[test]
fn a_network_without_access_is_neither_heard_nor_linked_with() {
    let mut world = World::new(4, 1, 1, 21);
    // All but the last: its address ends in 4.
    world.access = AccessList::parse(["10.1.0.1", "10.1.0.2", "10.1.0.3"]).expect("networks");
    for number in 0..4 {
        world.start(number);
    }
    world.run(30_000);
    let told = |one: usize, what: Way| {
        let from = udp(3).ip();
        world.events.iter().filter(|event| **event == (one, Event::ShutOut { from, what })).count()
    };
    for one in 0..3 {
        assert_eq!(world.cluster(one).liveness(&id(3)), None, "node {one} knows it");
        assert_eq!(world.cluster(one).linked().count(), 2, "node {one}");
        assert_eq!(told(one, Way::Beacon), 1, "it is told of once a minute");
    }
    assert_eq!(told(0, Way::Link), 1, "it dials the server");
}

#[test]
fn a_new_run_of_a_node_replaces_the_old_one_everywhere() {
    let mut world = started(8, 1, 1, 5);
    world.run(20_000);
    for _ in 0..5 {
        world.kill(4);
        world.run(200);
        world.start(4);
        assert!(world.until(2_000, World::all_know_all).is_some(), "{} pairs are missing", world.missing());
        world.run(3_000);
    }
    assert!(world.links_by_pair().values().all(|count| *count == 1));
}

#[test]
fn forged_replayed_and_malformed_datagrams_change_nothing() {
    let mut world = started(3, 1, 1, 9);
    world.run(20_000);
    let before = world.cluster(0).roster(caelum_engine::Now { ms: 0, wall_ms: 0 }).members.len();
    let mut noise = 1_u64;
    for number in 0..20_000_u64 {
        noise = caelum_engine::hash::mix(noise + number);
        let bytes: Vec<u8> = match number % 4 {
            0 => noise.to_be_bytes().repeat((noise % 60) as usize),
            1 => format!(
                r#"{{"message_type":"CAELUM_BEACON","machine_id":"n-0001","websocket_port":9,"instance":"{}","seq":{number},"key_generation":1,"auth":"{noise:064x}"}}"#,
                discovery::instance_of(2)
            )
            .into_bytes(),
            2 => [&[0xca, 0xe1, 1, 0, 0, 0, 0, 1][..], &noise.to_be_bytes().repeat(8)].concat(),
            _ => b"{\"message_type\":\"CAELUM_BEACON\"".to_vec(),
        };
        world.tell(0, Input::Datagram { from: udp(200), bytes: &bytes });
        if number % 100 == 0 {
            world.run(100);
        }
    }
    let roster = world.cluster(0).roster(caelum_engine::Now { ms: 0, wall_ms: 0 });
    assert_eq!(roster.members.len(), before);
    assert!(roster.machines.iter().all(|machine| machine.sender_ip != udp(200).ip().to_string()));
    assert!(world.all_know_all());
}
