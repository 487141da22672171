//! Who counts which partition: aggregators share them by watching each other's beats.
//!
//! # Purpose
//! Each aggregator calls [`Balancer::look`] with what the store says (everybody's beats, and who owns what)
//! and does what comes back: take, release, forget. All of them compute the same fair assignment from the
//! same facts, so they agree without talking to each other. Where their views differ for a moment the store's
//! fences decide: a partition has one owner whose commits count, whatever anybody believes.
//!
//! # Rules
//! - A member is alive while its beat changes; how long it has not is told by the observer's own clock, so no
//!   two clocks are compared. One that is new to the observer gets the benefit of the doubt.
//! - Each member holds `floor(P/n)` or `ceil(P/n)` of `P` partitions. Who holds a partition keeps it while that
//!   stays true, so that a newcomer costs only the partitions it gets.
//! - A partition of a live owner is never taken, only given: the owner commits, releases, and then it is taken.
//!
//! # What it does not do
//! It knows no offsets and moves no data, and it does not judge whether an owner gets on with its work.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::id::PartitionId;

/// Silence after which an aggregator counts as dead, ms.
pub const DEAD_MS: i64 = 5_000;
/// Silence after which a dead one is forgotten, ms.
pub const FORGET_MS: i64 = 300_000;
/// Most members that are watched; further ones are ignored, in order of their names.
pub const MEMBERS_MAX: usize = 256;

/// What the store says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Name and beat of everybody.
    pub members: Vec<(String, u64)>,
    /// Owner and fence of each partition that was ever owned; an empty name is nobody.
    pub owners: BTreeMap<PartitionId, (String, u64)>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Take a partition, if its fence is still this one.
    Take {
        /// Which.
        partition: PartitionId,
        /// Its fence as seen, 0 where it was never owned.
        seen_fence: u64,
    },
    /// Commit and give up a partition.
    Release(PartitionId),
    /// Give up a partition that an earlier run under this name left behind: there is nothing to commit.
    Disown {
        /// Which.
        partition: PartitionId,
        /// Its fence as seen.
        fence: u64,
    },
    /// Forget a member that has been silent for long, if its beat is still this one.
    Forget {
        /// Who.
        owner: String,
        /// Its last beat.
        beat: u64,
    },
}

/// One aggregator's view of how the partitions are shared.
#[derive(Clone, Debug)]
pub struct Balancer {
    me: String,
    partitions: u16,
    /// Beat and when it was last seen to change.
    heard: BTreeMap<String, (u64, i64)>,
}

impl Balancer {
    /// A balancer for the aggregator of this name.
    pub fn new(me: impl Into<String>, partitions: u16) -> Self {
        Self { me: me.into(), partitions, heard: BTreeMap::new() }
    }

    /// What is to be done now. `held` are the partitions that this aggregator has in hand.
    pub fn look(&mut self, now_ms: i64, view: &View, held: &BTreeSet<PartitionId>) -> Vec<Move> {
        self.hear(now_ms, view);
        let mut moves = Vec::new();
        let assigned = self.assign(now_ms, view);
        for partition in held {
            if assigned.get(partition) != Some(&self.me) {
                moves.push(Move::Release(*partition));
            }
        }
        for (partition, (owner, fence)) in &view.owners {
            let is_mine = *owner == self.me;
            if is_mine && !held.contains(partition) && assigned.get(partition) != Some(&self.me) {
                moves.push(Move::Disown { partition: *partition, fence: *fence });
            }
        }
        for (partition, owner) in &assigned {
            if *owner != self.me || held.contains(partition) {
                continue;
            }
            let (holder, fence) = view.owners.get(partition).cloned().unwrap_or_default();
            if holder == self.me || !self.is_alive(&holder, now_ms) {
                moves.push(Move::Take { partition: *partition, seen_fence: fence });
            }
        }
        for (owner, (beat, changed_ms)) in &self.heard {
            if *owner != self.me && now_ms - changed_ms >= FORGET_MS {
                moves.push(Move::Forget { owner: owner.clone(), beat: *beat });
            }
        }
        moves
    }

    /// Names of the members that are alive, this one included.
    pub fn alive(&self, now_ms: i64) -> Vec<&str> {
        let others = self.heard.keys().filter(|owner| **owner != self.me && self.is_alive(owner, now_ms));
        let mut alive: Vec<&str> = others.map(String::as_str).chain([self.me.as_str()]).collect();
        alive.sort_unstable();
        alive
    }

    fn hear(&mut self, now_ms: i64, view: &View) {
        let named: BTreeMap<&str, u64> =
            view.members.iter().take(MEMBERS_MAX).map(|(owner, beat)| (owner.as_str(), *beat)).collect();
        self.heard.retain(|owner, _| named.contains_key(owner.as_str()));
        for (owner, beat) in named {
            match self.heard.get_mut(owner) {
                Some((known, changed_ms)) if *known != beat => (*known, *changed_ms) = (beat, now_ms),
                Some(_) => {}
                None => {
                    self.heard.insert(owner.to_owned(), (beat, now_ms));
                }
            }
        }
    }

    fn is_alive(&self, owner: &str, now_ms: i64) -> bool {
        owner == self.me || self.heard.get(owner).is_some_and(|(_, changed_ms)| now_ms - changed_ms < DEAD_MS)
    }

    /// Who should hold each partition.
    fn assign(&self, now_ms: i64, view: &View) -> BTreeMap<PartitionId, String> {
        let alive = self.alive(now_ms);
        let mut holding: BTreeMap<&str, usize> = alive.iter().map(|owner| (*owner, 0)).collect();
        for (owner, _) in view.owners.values() {
            if let Some(count) = holding.get_mut(owner.as_str()) {
                *count += 1;
            }
        }
        // Whoever holds most may hold the odd ones, so that they stay where they are.
        let mut order: Vec<(&str, usize)> = holding.into_iter().collect();
        order.sort_by_key(|(owner, count)| (std::cmp::Reverse(*count), *owner));
        let (share, odd) =
            (usize::from(self.partitions) / order.len(), usize::from(self.partitions) % order.len());
        let mut room: BTreeMap<&str, usize> = order
            .iter()
            .enumerate()
            .map(|(place, (owner, _))| (*owner, share + usize::from(place < odd)))
            .collect();
        let mut assigned = BTreeMap::new();
        let mut free = Vec::new();
        for partition in (0..self.partitions).map(PartitionId) {
            let holder = view.owners.get(&partition).map_or("", |(owner, _)| owner.as_str());
            match room.get_mut(holder) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    assigned.insert(partition, holder.to_owned());
                }
                _ => free.push(partition),
            }
        }
        let mut takers = order
            .iter()
            .flat_map(|(owner, _)| std::iter::repeat_n(*owner, room.get(owner).copied().unwrap_or(0)));
        for partition in free {
            let Some(taker) = takers.next() else { break };
            assigned.insert(partition, taker.to_owned());
        }
        assigned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A store and aggregators that do at once what their balancers say.
    #[derive(Default)]
    struct World {
        now_ms: i64,
        view: View,
        members: BTreeMap<String, (Balancer, BTreeSet<PartitionId>)>,
        moved: usize,
    }

    const PARTITIONS: u16 = 16;

    impl World {
        fn join(&mut self, name: &str) {
            let member = (Balancer::new(name, PARTITIONS), BTreeSet::new());
            self.members.insert(name.to_owned(), member);
        }

        fn kill(&mut self, name: &str) {
            self.members.remove(name);
        }

        fn round(&mut self) {
            self.now_ms += 1_000;
            for name in self.members.keys().cloned().collect::<Vec<_>>() {
                match self.view.members.iter_mut().find(|(owner, _)| *owner == name) {
                    Some((_, beat)) => *beat += 1,
                    None => self.view.members.push((name.clone(), 1)),
                }
                let (balancer, held) = self.members.get_mut(&name).expect("it is a member");
                for step in balancer.look(self.now_ms, &self.view, held) {
                    match step {
                        Move::Take { partition, seen_fence } => {
                            let entry = self.view.owners.entry(partition).or_default();
                            assert_eq!(entry.1, seen_fence);
                            *entry = (name.clone(), seen_fence + 1);
                            held.insert(partition);
                            self.moved += 1;
                        }
                        Move::Release(partition) => {
                            held.remove(&partition);
                            self.view.owners.get_mut(&partition).expect("it was held").0.clear();
                        }
                        Move::Disown { partition, fence } => {
                            let entry = self.view.owners.get_mut(&partition).expect("it was owned");
                            assert_eq!((&entry.0, entry.1), (&name, fence));
                            entry.0.clear();
                        }
                        Move::Forget { owner, .. } => self.view.members.retain(|(name, _)| *name != owner),
                    }
                }
            }
        }

        fn settle(&mut self, rounds: usize) {
            for _ in 0..rounds {
                self.round();
            }
        }

        fn shares(&self) -> Vec<usize> {
            self.members.values().map(|(_, held)| held.len()).collect()
        }
    }

    #[test]
    fn one_alone_takes_everything_at_once() {
        let mut world = World::default();
        world.join("a");
        world.round();
        assert_eq!(world.shares(), [16]);
    }

    #[test]
    fn a_newcomer_costs_only_what_it_gets() {
        let mut world = World::default();
        world.join("a");
        world.join("b");
        world.settle(8);
        assert_eq!(world.shares(), [8, 8]);
        world.moved = 0;
        world.join("c");
        world.settle(8);
        let mut shares = world.shares();
        shares.sort_unstable();
        assert_eq!((shares, world.moved), (vec![5, 5, 6], 5));
    }

    #[test]
    fn what_a_dead_one_held_is_taken_after_its_silence_and_not_before() {
        let mut world = World::default();
        world.join("a");
        world.join("b");
        world.settle(8);
        world.kill("b");
        world.settle(3);
        assert_eq!(world.shares(), [8], "its silence is not long enough yet");
        world.settle(4);
        assert_eq!(world.shares(), [16]);
    }

    #[test]
    fn one_that_starts_again_under_its_name_takes_its_own_without_waiting() {
        let mut world = World::default();
        world.join("a");
        world.join("b");
        world.settle(8);
        world.kill("b");
        world.join("b");
        world.round();
        assert_eq!(world.shares(), [8, 8]);
    }

    #[test]
    fn one_that_starts_again_gives_up_what_others_have_a_right_to() {
        let mut world = World::default();
        world.join("a");
        world.round();
        world.kill("a");
        world.join("b");
        world.join("a");
        world.settle(4);
        assert_eq!(world.shares(), [8, 8]);
    }

    #[test]
    fn the_long_silent_are_forgotten() {
        let mut world = World::default();
        world.join("a");
        world.join("b");
        world.settle(2);
        world.kill("b");
        world.settle(310);
        assert_eq!(world.view.members.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn whoever_comes_and_goes_every_partition_ends_with_one_owner_and_shares_are_even(
            story in proptest::collection::vec((0u8..4, any::<bool>(), 0usize..4), 1..30)
        ) {
            let mut world = World::default();
            world.join("m0");
            for (n, joins, rounds) in story {
                let name = format!("m{n}");
                if joins && !world.members.contains_key(&name) {
                    world.join(&name);
                } else if world.members.len() > 1 {
                    world.kill(&name);
                }
                world.settle(rounds);
                for (partition, (owner, _)) in &world.view.owners {
                    let holders: Vec<&String> = world
                        .members
                        .iter()
                        .filter(|(_, (_, held))| held.contains(partition))
                        .map(|(name, _)| name)
                        .collect();
                    prop_assert!(holders.len() <= 1, "{partition} is held by {holders:?}");
                    prop_assert!(holders.is_empty() || holders == [owner]);
                }
            }
            world.settle(20);
            let shares = world.shares();
            prop_assert_eq!(shares.iter().sum::<usize>(), usize::from(PARTITIONS));
            prop_assert!(shares.iter().max().unwrap_or(&0) - shares.iter().min().unwrap_or(&0) <= 1);
        }
    }
}
