//! Where work goes: the node with the lowest score among those that may and can do it.
//!
//! # Purpose
//! A [`Board`] holds what is known of every node and hands out places. What it has handed out counts at once,
//! so that a burst between two heartbeats does not all go to the node that was idle at the first of them.
//!
//! # Rules
//! - `0.4·CPU % + 0.3·memory % + 0.2·min(10·tasks, 100) + 0.1·penalty`, lower wins (the weights of the cluster
//!   set-up guide, seed 003). The penalty is 0 for a healthy node, 25 for a warning, 50 where nothing is known
//!   yet. A metric that is not known counts as 50 %.
//! - Equal scores go to the node with fewer tasks, then to the smaller id: ten tasks saturate their part of
//!   the score, and without the count a full cluster would pile everything on one node.
//! - Offline, critical and draining nodes are no candidates, nor are those that lack a word that the work asks
//!   for, whose ceiling is below it, or that have no room.
//! - Every place comes with its reasons, and every refusal with its cause.
//!
//! # What it does not do
//! It moves nothing that runs, and it knows nothing of tasks but what they ask for.

use caelum_model::{cluster::Ceiling, id::NodeId, node::Level};

/// What is known of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub node_id: NodeId,
    /// Processor use, percent.
    pub cpu_percent: Option<f64>,
    /// Memory use, percent.
    pub memory_percent: Option<f64>,
    /// How it fares; none where it has not said yet.
    pub level: Option<Level>,
    /// Tasks that it has.
    pub tasks: u32,
    /// How many more it can begin; none where nobody counts.
    pub room: Option<u32>,
    /// Words that it can be chosen by: capabilities and tags.
    pub words: Vec<String>,
    /// The most it lets anybody do.
    pub ceiling: Ceiling,
    /// Whether it finishes what it has and takes nothing new.
    pub is_draining: bool,
}

/// What a piece of work asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    /// Words that the node must have.
    pub words: &'a [String],
    /// The node that it must be.
    pub node: Option<&'a NodeId>,
    /// What the node must let others do.
    pub ceiling: Ceiling,
}

/// A node and why it is that one.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Which.
    pub node_id: NodeId,
    /// Its score before this work; lower is better.
    pub score: f64,
    /// The parts of the score, as sentences.
    pub reasons: Vec<String>,
}

/// A node and why it is not that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub node_id: NodeId,
    /// The first thing that speaks against it.
    pub because: String,
}

/// Every node, and what has been given to it so far.
#[derive(Clone, Debug, Default)]
pub struct Board {
    candidates: Vec<Candidate>,
}

impl Candidate {
    /// How much it has to do; lower is better.
    pub fn score(&self) -> f64 {
        let [cpu, memory, tasks, health] = self.parts();
        cpu + memory + tasks + health
    }

    fn parts(&self) -> [f64; 4] {
        let known =
            |percent: Option<f64>| percent.filter(|p| p.is_finite()).unwrap_or(50.0).clamp(0.0, 100.0);
        let penalty = match self.level {
            Some(Level::Healthy) => 0.0,
            Some(Level::Warning) => 25.0,
            None => 50.0,
            Some(Level::Critical | Level::Offline) => 100.0,
        };
        [
            0.4 * known(self.cpu_percent),
            0.3 * known(self.memory_percent),
            0.2 * f64::from(self.tasks.saturating_mul(10).min(100)),
            0.1 * penalty,
        ]
    }

    /// What speaks against it for this work, if anything does.
    pub fn refusal(&self, wish: &Wish<'_>) -> Option<String> {
        if wish.node.is_some_and(|node| *node != self.node_id) {
            return Some("the work is for another node".to_owned());
        }
        match self.level {
            Some(Level::Offline) => return Some("it is offline".to_owned()),
            Some(Level::Critical) if wish.node.is_none() => return Some("it is critical".to_owned()),
            _ => {}
        }
        if self.is_draining {
            return Some("it is draining".to_owned());
        }
        if let Some(missing) = wish.words.iter().find(|word| !self.words.contains(word)) {
            return Some(format!("it has no `{missing}`"));
        }
        if self.ceiling < wish.ceiling {
            let (has, needs) = (self.ceiling.as_str(), wish.ceiling.as_str());
            return Some(format!("its ceiling is `{has}`, and the work needs `{needs}`"));
        }
        (self.room == Some(0)).then(|| "it has no room".to_owned())
    }

    fn reasons(&self) -> Vec<String> {
        let [cpu, memory, tasks, health] = self.parts();
        let measured = |name: &str, percent: Option<f64>, part: f64| match percent {
            Some(percent) => format!("{name} {percent:.0} % → {part:.1}"),
            None => format!("{name} not known → {part:.1}"),
        };
        let level = self.level.map_or("not known", Level::as_str);
        vec![
            measured("CPU", self.cpu_percent, cpu),
            measured("memory", self.memory_percent, memory),
            format!("{} task{} → {tasks:.1}", self.tasks, if self.tasks == 1 { "" } else { "s" }),
            format!("health {level} → {health:.1}"),
        ]
    }
}

impl Board {
    /// A board of these nodes.
    pub fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Self { candidates }
    }

    /// Every node as it stands now, by id.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Finds the place for a piece of work and counts it there; where there is none, says of every node why.
    pub fn place(&mut self, wish: &Wish<'_>) -> Result<Place, Vec<Refused>> {
        let mut best: Option<(usize, f64)> = None;
        for (index, candidate) in self.candidates.iter().enumerate() {
            if candidate.refusal(wish).is_some() {
                continue;
            }
            let score = candidate.score();
            let is_better = best.is_none_or(|(held, held_score)| {
                let order = score.total_cmp(&held_score);
                order.then(candidate.tasks.cmp(&self.candidates[held].tasks)).is_lt()
            });
            if is_better {
                best = Some((index, score));
            }
        }
        let Some((index, score)) = best else {
            let refused = self.candidates.iter().filter_map(|candidate| {
                Some(Refused { node_id: candidate.node_id.clone(), because: candidate.refusal(wish)? })
            });
            return Err(refused.collect());
        };
        let candidate = &mut self.candidates[index];
        let place = Place { node_id: candidate.node_id.clone(), score, reasons: candidate.reasons() };
        candidate.tasks = candidate.tasks.saturating_add(1);
        candidate.room = candidate.room.map(|room| room.saturating_sub(1));
        Ok(place)
    }

    /// The best `count` different nodes for a piece of work, best first; nothing is counted.
    pub fn rank(&self, wish: &Wish<'_>, count: usize) -> Vec<Place> {
        let mut open: Vec<(&Candidate, f64)> = self
            .candidates
            .iter()
            .filter(|candidate| candidate.refusal(wish).is_none())
            .map(|candidate| (candidate, candidate.score()))
            .collect();
        open.sort_by(|(a, a_score), (b, b_score)| a_score.total_cmp(b_score).then(a.tasks.cmp(&b.tasks)));
        open.into_iter()
            .take(count)
            .map(|(candidate, score)| Place {
                node_id: candidate.node_id.clone(),
                score,
                reasons: candidate.reasons(),
            })
            .collect()
    }
}

/// A move of work from a node that cannot do it.
#[derive(Clone, Debug, PartialEq)]
pub struct Move<T> {
    /// What is moved.
    pub work: T,
    /// From where.
    pub from: NodeId,
    /// Why it cannot stay.
    pub because: String,
    /// Where to, and why there; none where no node can do it.
    pub to: Option<Place>,
}

impl Board {
    /// What waits for a node that is offline, critical or draining, and where it would go instead. Each move counts
    /// for the next, so that what is carried out is what was planned.
    pub fn rebalance<'a, T>(&mut self, waiting: impl IntoIterator<Item = (T, Wish<'a>)>) -> Vec<Move<T>> {
        let mut moves = Vec::new();
        for (work, wish) in waiting {
            let Some(from) = wish.node else { continue };
            let known = self.candidates.iter().find(|candidate| candidate.node_id == *from);
            let because = match known {
                None => Some("it is not a node".to_owned()),
                Some(candidate) => candidate.refusal(&Wish { node: None, ..wish.clone() }),
            };
            // One that is only full has room again soon.
            let Some(because) = because.filter(|_| known.is_none_or(|node| node.room != Some(0))) else {
                continue;
            };
            let to = self.place(&Wish { node: None, ..wish.clone() }).ok();
            if let (Some(_), Some(left)) =
                (&to, self.candidates.iter_mut().find(|candidate| candidate.node_id == *from))
            {
                left.tasks = left.tasks.saturating_sub(1);
            }
            moves.push(Move { work, from: from.clone(), because, to });
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cpu: f64, memory: f64) -> Candidate {
        Candidate {
            node_id: NodeId::parse(name).unwrap(),
            cpu_percent: Some(cpu),
            memory_percent: Some(memory),
            level: Some(Level::Healthy),
            tasks: 0,
            room: None,
            words: vec!["linux".into()],
            ceiling: Ceiling::Shell,
            is_draining: false,
        }
    }

    const ANY: Wish<'static> = Wish { words: &[], node: None, ceiling: Ceiling::Tasks };

    #[test]
    fn the_parts_weigh_four_three_two_and_one() {
        let mut busy = node("a", 50.0, 40.0);
        busy.tasks = 3;
        busy.level = Some(Level::Warning);
        assert!((busy.score() - (20.0 + 12.0 + 6.0 + 2.5)).abs() < 1e-9);
        busy.tasks = 400;
        assert!((busy.score() - (20.0 + 12.0 + 20.0 + 2.5)).abs() < 1e-9);
    }

    #[test]
    fn the_lowest_score_wins_and_says_why() {
        let mut board = Board::new(vec![node("a", 80.0, 10.0), node("b", 10.0, 10.0)]);
        let place = board.place(&ANY).unwrap();
        assert_eq!(place.node_id.as_str(), "b");
        assert_eq!(place.reasons.len(), 4);
        assert_eq!(place.reasons[0], "CPU 10 % → 4.0");
    }

    #[test]
    fn what_was_just_placed_counts_before_the_next_heartbeat() {
        let mut board = Board::new((0..100).map(|n| node(&format!("n{n:03}"), 10.0, 10.0)).collect());
        for _ in 0..1_000 {
            board.place(&ANY).unwrap();
        }
        let most = board.candidates().iter().map(|candidate| candidate.tasks).max().unwrap();
        assert_eq!(most, 10, "every node has the mean");
    }

    #[test]
    fn a_full_cluster_does_not_pile_up_on_one_node() {
        let mut board = Board::new((0..10).map(|n| node(&format!("n{n}"), 10.0, 10.0)).collect());
        for _ in 0..1_000 {
            board.place(&ANY).unwrap();
        }
        assert!(board.candidates().iter().all(|candidate| candidate.tasks == 100));
    }

    #[test]
    fn whoever_may_not_or_cannot_is_no_candidate() {
        let wish = Wish { words: &["gpu".to_owned()], node: None, ceiling: Ceiling::Shell };
        let mut capable = node("z", 90.0, 90.0);
        capable.words.push("gpu".into());
        let with = |change: fn(&mut Candidate)| {
            let mut candidate = capable.clone();
            candidate.node_id = NodeId::parse("other").unwrap();
            change(&mut candidate);
            candidate.refusal(&wish).unwrap()
        };
        assert_eq!(with(|c| c.words.clear()), "it has no `gpu`");
        assert_eq!(with(|c| c.is_draining = true), "it is draining");
        assert_eq!(with(|c| c.level = Some(Level::Offline)), "it is offline");
        assert_eq!(with(|c| c.level = Some(Level::Critical)), "it is critical");
        assert_eq!(
            with(|c| c.ceiling = Ceiling::Tasks),
            "its ceiling is `tasks`, and the work needs `shell`"
        );
        assert_eq!(with(|c| c.room = Some(0)), "it has no room");
        let mut board = Board::new(vec![node("a", 0.0, 0.0), capable]);
        assert_eq!(board.place(&wish).unwrap().node_id.as_str(), "z");
    }

    #[test]
    fn where_nobody_can_every_node_says_why() {
        let wish = Wish { words: &["gpu".to_owned()], node: None, ceiling: Ceiling::Tasks };
        let refused = Board::new(vec![node("a", 0.0, 0.0), node("b", 0.0, 0.0)]).place(&wish).unwrap_err();
        assert_eq!(refused.len(), 2);
        assert_eq!(refused[0].because, "it has no `gpu`");
    }

    #[test]
    fn a_named_node_is_used_even_when_it_is_critical() {
        let mut critical = node("a", 99.0, 99.0);
        critical.level = Some(Level::Critical);
        let id = critical.node_id.clone();
        let wish = Wish { words: &[], node: Some(&id), ceiling: Ceiling::Tasks };
        let mut board = Board::new(vec![critical, node("b", 0.0, 0.0)]);
        assert_eq!(board.place(&wish).unwrap().node_id, id);
    }

    #[test]
    fn what_waits_for_a_node_that_cannot_do_it_goes_where_there_is_room() {
        let mut draining = node("a", 0.0, 0.0);
        draining.is_draining = true;
        draining.tasks = 4;
        let (a, b) = (draining.node_id.clone(), NodeId::parse("b").unwrap());
        let mut board = Board::new(vec![draining, node("b", 10.0, 0.0), node("c", 10.0, 0.0)]);
        let on = |node| Wish { words: &[], node, ceiling: Ceiling::Tasks };
        let words = ["gpu".to_owned()];
        let nowhere = Wish { words: &words, node: Some(&a), ceiling: Ceiling::Tasks };
        let waiting =
            vec![(1, on(Some(&a))), (2, on(Some(&b))), (3, on(Some(&a))), (4, on(None)), (5, nowhere)];
        let moves = board.rebalance(waiting);
        let seen: Vec<(i32, Option<&str>)> = moves
            .iter()
            .map(|step| (step.work, step.to.as_ref().map(|place| place.node_id.as_str())))
            .collect();
        assert_eq!(seen, [(1, Some("b")), (3, Some("c")), (5, None)]);
        assert_eq!(moves[0].because, "it is draining");
        assert_eq!(board.candidates()[0].tasks, 2);
    }
}
