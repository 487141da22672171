//! Points of a node's history that no server has yet: kept in order, bounded, handed over when one is there.
//!
//! A link gives no receipt, so what was handed over is kept until the link has stood for [`SETTLED_MS`] after
//! it; if the link breaks before, it is handed over again, and the server leaves out what it has. Ages are
//! reckoned by this machine's own clock.

use std::collections::VecDeque;

use caelum_model::node::NodePoint;

/// Most points that are kept; the oldest give way. Twelve hours at one in ten seconds.
pub const POINTS_MAX: usize = 4_320;
/// Most points that are handed over at once.
pub const BATCH_MAX: usize = 200;
/// A link that stood so long after a message has delivered it, ms.
pub const SETTLED_MS: i64 = 8_000;

/// The points.
#[derive(Debug, Default)]
pub struct Backlog {
    points: VecDeque<(i64, NodePoint)>,
    /// How many of the oldest were handed over, and when.
    handed: Option<(usize, i64)>,
    dropped: u64,
}

impl Backlog {
    /// Keeps a point taken now.
    pub fn keep(&mut self, now_ms: i64, point: NodePoint) {
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
            self.dropped += 1;
            if let Some((count, _)) = &mut self.handed {
                *count = count.saturating_sub(1);
            }
        }
        self.points.push_back((now_ms, point));
    }

    /// The link broke: what was handed over lately may not have arrived.
    pub fn broke(&mut self) {
        self.handed = None;
    }

    /// The next points for the server, oldest first, each with its age in `at_ms`. Nothing while those
    /// handed over before are on their way.
    pub fn hand_over(&mut self, now_ms: i64) -> Vec<NodePoint> {
        if let Some((count, at_ms)) = self.handed {
            if now_ms - at_ms < SETTLED_MS {
                return Vec::new();
            }
            self.points.drain(..count.min(self.points.len()));
            self.handed = None;
        }
        let batch: Vec<NodePoint> = self
            .points
            .iter()
            .take(BATCH_MAX)
            .map(|(taken_ms, point)| NodePoint { at_ms: now_ms - taken_ms, ..*point })
            .collect();
        if !batch.is_empty() {
            self.handed = Some((batch.len(), now_ms));
        }
        batch
    }

    /// Points that are kept.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Points that did not fit and are gone.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(load: f64) -> NodePoint {
        NodePoint { load_1: load, ..NodePoint::default() }
    }

    #[test]
    fn what_was_kept_is_handed_over_in_order_with_its_age() {
        let mut backlog = Backlog::default();
        for number in 0..3 {
            backlog.keep(number * 1_000, point(number as f64));
        }
        let ages: Vec<(f64, i64)> =
            backlog.hand_over(10_000).iter().map(|point| (point.load_1, point.at_ms)).collect();
        assert_eq!(ages, [(0.0, 10_000), (1.0, 9_000), (2.0, 8_000)]);
        assert!(backlog.hand_over(11_000).is_empty(), "it is on its way");
        assert!(backlog.hand_over(10_000 + SETTLED_MS).is_empty() && backlog.is_empty());
    }

    #[test]
    fn a_link_that_breaks_soon_after_has_it_all_again() {
        let mut backlog = Backlog::default();
        backlog.keep(0, point(1.0));
        assert_eq!(backlog.hand_over(1_000).len(), 1);
        backlog.broke();
        assert_eq!(backlog.hand_over(2_000).len(), 1);
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let mut backlog = Backlog::default();
        for number in 0..POINTS_MAX + 5 {
            backlog.keep(number as i64, point(number as f64));
        }
        assert_eq!((backlog.len(), backlog.dropped()), (POINTS_MAX, 5));
        assert_eq!(backlog.hand_over(0)[0].load_1, 5.0);
        let mut handed = BATCH_MAX;
        let mut now_ms = 0;
        while !backlog.is_empty() {
            now_ms += SETTLED_MS;
            handed += backlog.hand_over(now_ms).len();
        }
        assert_eq!(handed, POINTS_MAX);
    }
}
