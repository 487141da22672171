//! The sky: nodes around this one, as far from the centre as their answers take.
//!
//! Geometry only: topology in, coordinates out, the same every time. It draws nothing and knows no words.

use std::{collections::BTreeMap, fmt::Write};

use crate::topology::TopologyJson;

/// Width of the drawing.
pub const WIDTH: f64 = 800.0;
/// Height of the drawing.
pub const HEIGHT: f64 = 600.0;
/// From here on, links are drawn as few long paths and nodes as mere points.
pub const CROWD_FROM: usize = 300;
/// Lines that are drawn at most.
const LINES_MAX: usize = 4_000;
/// Where the nearest nodes stand, and where the outermost ring is.
const RADIUS_MIN: f64 = 52.0;
const RADIUS_MAX: f64 = 246.0;
/// Where nodes stand whose distance is not known.
const RADIUS_UNKNOWN: f64 = 276.0;
/// Rings, ms. The scale ends at the first that holds everything.
const RINGS: [f64; 6] = [1.0, 5.0, 20.0, 100.0, 500.0, 2_500.0];
/// Below this, all is equally near, ms.
const NEAR_MS: f64 = 0.2;

/// A place on the drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
}

/// A ring of equal distance.
#[derive(Clone, Debug, PartialEq)]
pub struct Ring {
    /// Its radius.
    pub radius: f64,
    /// The round trip it stands for, ms.
    pub rtt_ms: f64,
}

/// A line between two nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Which edge of the topology.
    pub edge: usize,
    /// One end.
    pub from: Spot,
    /// The other.
    pub to: Spot,
    /// `near`, `mid`, `far`, `remote`, `unknown` or `lossy`.
    pub class: &'static str,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Sky {
    /// Rings, innermost first.
    pub rings: Vec<Ring>,
    /// Radius of the ring of unknown distance, where a node stands on it.
    pub unknown: Option<f64>,
    /// Places of the nodes of the topology, in its order.
    pub spots: Vec<Spot>,
    /// Lines, in the order of its edges.
    pub lines: Vec<Line>,
}

/// Lays out a topology as it is seen from one of its nodes.
pub fn lay_out(known: &TopologyJson, own: &str) -> Sky {
    let mut distances: BTreeMap<&str, f64> = BTreeMap::new();
    for edge in &known.edges {
        let Some(rtt_ms) = edge.rtt_ms.filter(|rtt| rtt.is_finite()) else { continue };
        if edge.from == own {
            distances.insert(&edge.to, rtt_ms);
        } else if edge.to == own {
            distances.insert(&edge.from, rtt_ms);
        }
    }
    let farthest = distances.values().copied().fold(0.0, f64::max);
    let last = RINGS.iter().position(|ring| *ring >= farthest).unwrap_or(RINGS.len() - 1).max(1);
    let scale_ms = RINGS[last];
    let others: Vec<usize> = (0..known.nodes.len()).filter(|at| known.nodes[*at].id != own).collect();
    let mut spots = vec![Spot { x: WIDTH / 2.0, y: HEIGHT / 2.0 }; known.nodes.len()];
    let mut unknown = None;
    for (place, at) in others.iter().enumerate() {
        let radius = match distances.get(known.nodes[*at].id.as_str()) {
            Some(rtt_ms) => radius_of(*rtt_ms, scale_ms),
            None => *unknown.insert(RADIUS_UNKNOWN),
        };
        // Half a step past the top, where the rings are labelled.
        let share = (place as f64 + 0.5) / others.len() as f64;
        let angle = std::f64::consts::TAU * share - std::f64::consts::FRAC_PI_2;
        spots[*at] = Spot { x: WIDTH / 2.0 + radius * angle.cos(), y: HEIGHT / 2.0 + radius * angle.sin() };
    }
    let places: BTreeMap<&str, Spot> =
        known.nodes.iter().map(|node| node.id.as_str()).zip(spots.iter().copied()).collect();
    let lines = known
        .edges
        .iter()
        .enumerate()
        .filter_map(|(index, edge)| {
            let (from, to) = (*places.get(edge.from.as_str())?, *places.get(edge.to.as_str())?);
            let class = if edge.status == "lossy" { "lossy" } else { step(edge.rtt_ms) };
            Some(Line { edge: index, from, to, class })
        })
        .take(LINES_MAX)
        .collect();
    let rings = RINGS[..=last]
        .iter()
        .map(|rtt_ms| Ring { radius: radius_of(*rtt_ms, scale_ms), rtt_ms: *rtt_ms })
        .collect();
    Sky { rings, unknown, spots, lines }
}

/// A logarithm, so that what is near is not all on one spot: twice as long is a step outwards, not twice as far.
fn radius_of(rtt_ms: f64, scale_ms: f64) -> f64 {
    let share = (rtt_ms.max(0.0) / NEAR_MS).ln_1p() / (scale_ms / NEAR_MS).ln_1p();
    RADIUS_MIN + (RADIUS_MAX - RADIUS_MIN) * share.clamp(0.0, 1.0)
}

fn step(rtt_ms: Option<f64>) -> &'static str {
    match rtt_ms {
        None => "unknown",
        Some(rtt) if rtt < 1.0 => "near",
        Some(rtt) if rtt < 10.0 => "mid",
        Some(rtt) if rtt < 50.0 => "far",
        Some(_) => "remote",
    }
}

/// All lines of a kind as one path: a crowd needs no element for each.
pub fn paths(lines: &[Line]) -> Vec<(&'static str, String)> {
    let mut paths: BTreeMap<&'static str, String> = BTreeMap::new();
    for line in lines {
        let path = paths.entry(line.class).or_default();
        // Writing to a string cannot fail.
        let _ = write!(path, "M{:.0} {:.0}L{:.0} {:.0}", line.from.x, line.from.y, line.to.x, line.to.y);
    }
    paths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_is_farther_out_and_nothing_leaves_the_drawing() {
        let radii: Vec<f64> =
            [0.0, 0.5, 1.0, 5.0, 20.0, 100.0, 1e9].map(|rtt| radius_of(rtt, 100.0)).into_iter().collect();
        assert!(radii.windows(2).all(|pair| pair[0] <= pair[1]), "{radii:?}");
        assert_eq!((radii[0], radii[5], radii[6]), (RADIUS_MIN, RADIUS_MAX, RADIUS_MAX));
        const { assert!(RADIUS_UNKNOWN < HEIGHT / 2.0) };
    }
}
