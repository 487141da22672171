//! When something that is the matter with a node becomes an alert, when it is over, and who is told.
//!
//! # Purpose
//! Health jumps with every sample; people must not. A [`Watch`] looks at the health of all nodes again and
//! again and answers which alerts change and which notices that makes.
//!
//! # Rules
//! - An alert is raised once a threshold was reached for the hold without a break; a node that cannot be reached,
//!   at once. It is over once the value was below the threshold by the margin for the quiet time without a break.
//! - Getting worse is a change of the same alert. It is told of once for each level; getting a little better is
//!   not told of.
//! - What a node that cannot be reached said last no longer counts: its other alerts are over without a notice.
//! - A muted node and quiet hours hold notices back, never alerts. What is over before they end is never told.
//!
//! # What it does not do
//! It keeps no alerts: those that stand come in with each look, from the store. So another server goes on where
//! this one stopped; only holds and quiet times begin anew there, and nobody is told twice.

#[cfg(test)]
mod tests;
mod told;

use std::collections::{HashMap, HashSet};

use caelum_model::{
    UnixMs,
    alert::{Alert, AlertEnd, AlertStatus, Notice, NoticeChannel, NoticeKind},
    cluster::Roster,
    id::NodeId,
    node::{Issue, Level, Metric, Node, Threshold, Thresholds},
};

use crate::{Now, hash::fnv1a, health};

pub use told::{next_attempt, of_incident};

/// Levels that an alert can have, mildest first.
const LEVELS: [Level; 3] = [Level::Warning, Level::Critical, Level::Offline];
/// Metrics that are watched.
const METRICS: [Metric; 5] = [Metric::Cpu, Metric::Memory, Metric::Disk, Metric::Load, Metric::Heartbeat];

/// A node as it fares now.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Which.
    pub node_id: NodeId,
    /// Name people use.
    pub name: String,
    /// What reaches a threshold.
    pub reached: Vec<Issue>,
    /// What reaches a threshold less the margin.
    pub held: Vec<Issue>,
    /// How long a threshold must be reached, ms.
    pub hold_ms: i64,
    /// How long a value must be below its bound, ms.
    pub clear_ms: i64,
    /// Until when its notices are held back, if they are.
    pub hush_until_ms: Option<UnixMs>,
}

impl Observed {
    /// A node as it is recorded and as membership sees it, with the thresholds that hold for it.
    pub fn of(
        node: &Node,
        roster: &Roster,
        now_ms: UnixMs,
        thresholds: &Thresholds,
        hush_until_ms: Option<UnixMs>,
    ) -> Self {
        let span = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Self {
            node_id: node.node_id.clone(),
            name: node.name.clone(),
            reached: health::of_node(node, roster, now_ms, thresholds).issues,
            held: health::of_node(node, roster, now_ms, &lowered(thresholds)).issues,
            hold_ms: span(thresholds.alert_hold_s),
            clear_ms: span(thresholds.alert_clear_s),
            hush_until_ms: hush_until_ms.filter(|until| *until > now_ms),
        }
    }

    fn is_offline(&self) -> bool {
        self.reached.iter().any(|issue| issue.severity == Level::Offline)
    }
}

/// The bounds below which a value must be for an alert to end.
fn lowered(thresholds: &Thresholds) -> Thresholds {
    let margin = if thresholds.alert_margin.is_finite() { thresholds.alert_margin.max(0.0) } else { 0.0 };
    let by = |threshold: Threshold, less: &dyn Fn(f64) -> f64| Threshold {
        warning: less(threshold.warning),
        critical: less(threshold.critical),
    };
    // A bound at or below zero could never be gone below.
    let points = |value: f64| if value > margin { value - margin } else { value };
    let share = |value: f64| value * (1.0 - (2.0 * margin / 100.0).min(0.9));
    Thresholds {
        cpu: by(thresholds.cpu, &points),
        memory: by(thresholds.memory, &points),
        disk: by(thresholds.disk, &points),
        load: by(thresholds.load, &share),
        ..*thresholds
    }
}

/// A change of an alert and what follows from it; all of it is to be stored, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The alert as it is to be.
    pub alert: Alert,
    /// The revision it was decided on; none for a new one.
    pub seen: Option<u64>,
    /// Who is to be told.
    pub notices: Vec<Notice>,
    /// Whether what was not told yet of this alert is not to be told any more.
    pub is_withdrawn: bool,
}

/// How long a metric has been where it is.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    /// Since when the level is reached, for each of [`LEVELS`].
    reached: [Option<i64>; LEVELS.len()],
    /// Since when the value is below the level's bound.
    below: [Option<i64>; LEVELS.len()],
    /// Whether an alert stood at the look before.
    stood: bool,
}

impl Timer {
    fn note(&mut self, now_ms: i64, reached: Level, held: Level) {
        for (index, level) in LEVELS.into_iter().enumerate() {
            let keep = |since: Option<i64>, is_so: bool| is_so.then(|| since.unwrap_or(now_ms));
            self.reached[index] = keep(self.reached[index], reached >= level);
            self.below[index] = keep(self.below[index], held < level);
        }
    }

    /// The level that is to hold after this one.
    fn next(&self, now_ms: i64, level: Level, hold_ms: i64, clear_ms: i64) -> Level {
        let lasted = |since: Option<i64>, long: i64| since.is_some_and(|since| now_ms - since >= long);
        let risen = (0..LEVELS.len()).rev().find(|index| lasted(self.reached[*index], hold_ms));
        if let Some(index) = risen.filter(|index| LEVELS[*index] > level) {
            return LEVELS[index];
        }
        let stays = |index: &usize| LEVELS[*index] <= level && !lasted(self.below[*index], clear_ms);
        (0..LEVELS.len()).rev().find(stays).map_or(Level::Healthy, |index| LEVELS[index])
    }
}

/// What is remembered between two looks: since when each metric is where it is.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    timers: HashMap<(NodeId, Metric), Timer>,
}

impl Watch {
    /// Looks at all nodes. `standing` are the alerts that are not over, from the store.
    pub fn look(
        &mut self,
        now: Now,
        nodes: &[Observed],
        standing: &[Alert],
        channels: &[NoticeChannel],
    ) -> Vec<Decision> {
        let known: HashSet<&NodeId> = nodes.iter().map(|node| &node.node_id).collect();
        self.timers.retain(|(node_id, _), _| known.contains(node_id));
        let mut open: HashMap<(&NodeId, Metric), &Alert> =
            standing.iter().map(|alert| ((&alert.node_id, alert.metric), alert)).collect();
        let mut decisions = Vec::new();
        for node in nodes {
            for metric in METRICS {
                let alert = open.remove(&(&node.node_id, metric));
                if node.is_offline() && metric != Metric::Heartbeat {
                    self.timers.remove(&(node.node_id.clone(), metric));
                    decisions.extend(alert.map(|alert| end(alert, AlertEnd::Superseded, now.wall_ms)));
                    continue;
                }
                decisions.extend(self.judge(now, node, metric, alert, channels));
            }
        }
        // What is left belongs to nodes that are no more.
        let mut gone: Vec<&Alert> = open.into_values().collect();
        gone.sort_by(|a, b| a.alert_id.cmp(&b.alert_id));
        decisions.extend(gone.into_iter().map(|alert| end(alert, AlertEnd::Removed, now.wall_ms)));
        decisions
    }

    fn judge(
        &mut self,
        now: Now,
        node: &Observed,
        metric: Metric,
        alert: Option<&Alert>,
        channels: &[NoticeChannel],
    ) -> Option<Decision> {
        let find = |issues: &[Issue]| issues.iter().find(|issue| issue.metric == metric).cloned();
        let (reached, held) = (find(&node.reached), find(&node.held));
        let severity = |issue: &Option<Issue>| issue.as_ref().map_or(Level::Healthy, |issue| issue.severity);
        let key = (node.node_id.clone(), metric);
        if alert.is_none() && reached.is_none() {
            self.timers.remove(&key);
            return None;
        }
        let timer = self.timers.entry(key).or_default();
        if timer.stood && alert.is_none() {
            // Somebody ended it: the hold begins anew.
            *timer = Timer::default();
        }
        timer.stood = alert.is_some();
        timer.note(now.ms, severity(&reached), severity(&held));
        let level = alert.map_or(Level::Healthy, |alert| alert.severity);
        let hold_ms = if metric == Metric::Heartbeat { 0 } else { node.hold_ms };
        let next = timer.next(now.ms, level, hold_ms, node.clear_ms);
        match (alert, next) {
            (None, Level::Healthy) => None,
            (None, _) => Some(raise(node, reached?, next, now.wall_ms, channels)),
            (Some(alert), Level::Healthy) => {
                Some(recover(alert, None, now.wall_ms, node.hush_until_ms, channels))
            }
            (Some(alert), next) if next != level => {
                let issue = if next > level { reached } else { held };
                Some(shift(alert, node, issue, next, now.wall_ms, channels))
            }
            _ => None,
        }
    }
}

fn raise(
    node: &Observed,
    issue: Issue,
    level: Level,
    now_ms: UnixMs,
    channels: &[NoticeChannel],
) -> Decision {
    let name = format!("{}/{}/{now_ms}", node.node_id.as_str(), issue.metric.as_str());
    let alert = Alert {
        alert_id: format!("{:016x}", fnv1a(&name)),
        node_id: node.node_id.clone(),
        node_name: node.name.clone(),
        metric: issue.metric,
        severity: level,
        worst: level,
        status: AlertStatus::Active,
        message: issue.message,
        value: issue.value,
        threshold: issue.threshold,
        raised_at_ms: now_ms,
        changed_at_ms: now_ms,
        acknowledged_at_ms: None,
        acknowledged_by: None,
        resolved_at_ms: None,
        resolved_because: None,
        held_until_ms: node.hush_until_ms,
        revision: 1,
    };
    let notices = told::notices(&alert, NoticeKind::Failure, None, now_ms, node.hush_until_ms, channels);
    Decision { alert, seen: None, notices, is_withdrawn: false }
}

/// Worse or a little better, and still an alert.
fn shift(
    before: &Alert,
    node: &Observed,
    issue: Option<Issue>,
    level: Level,
    now_ms: UnixMs,
    channels: &[NoticeChannel],
) -> Decision {
    let mut alert = changed(before, now_ms);
    alert.severity = level;
    alert.node_name.clone_from(&node.name);
    if let Some(issue) = issue {
        (alert.message, alert.value, alert.threshold) = (issue.message, issue.value, issue.threshold);
    }
    if level <= before.worst {
        return Decision { alert, seen: Some(before.revision), notices: Vec::new(), is_withdrawn: false };
    }
    alert.worst = level;
    // Nobody was told of it yet: the first that they hear is how bad it has become.
    let is_untold = before.held_until_ms.is_some_and(|until| now_ms < until);
    let kind = if is_untold { NoticeKind::Failure } else { NoticeKind::Escalation };
    if is_untold {
        alert.held_until_ms = node.hush_until_ms.max(before.held_until_ms);
    }
    // Who looks into the milder one has not seen this.
    alert.status = AlertStatus::Active;
    let notices = told::notices(&alert, kind, None, now_ms, node.hush_until_ms, channels);
    Decision { alert, seen: Some(before.revision), notices, is_withdrawn: is_untold }
}

fn recover(
    before: &Alert,
    by: Option<&str>,
    now_ms: UnixMs,
    hush_until_ms: Option<UnixMs>,
    channels: &[NoticeChannel],
) -> Decision {
    let why = if by.is_some() { AlertEnd::Resolved } else { AlertEnd::Recovered };
    let mut decision = end(before, why, now_ms);
    if !decision.is_withdrawn {
        decision.notices =
            told::notices(&decision.alert, NoticeKind::Recovery, by, now_ms, hush_until_ms, channels);
    }
    decision
}

/// Over, without a word; what was not told yet is not told any more.
fn end(before: &Alert, why: AlertEnd, now_ms: UnixMs) -> Decision {
    let mut alert = changed(before, now_ms);
    alert.status = AlertStatus::Resolved;
    alert.resolved_at_ms = Some(now_ms);
    alert.resolved_because = Some(why);
    let is_untold = before.held_until_ms.is_some_and(|until| now_ms < until);
    Decision { alert, seen: Some(before.revision), notices: Vec::new(), is_withdrawn: is_untold }
}

fn changed(before: &Alert, now_ms: UnixMs) -> Alert {
    Alert { changed_at_ms: now_ms, revision: before.revision + 1, ..before.clone() }
}

/// Somebody has seen an alert; none where that changes nothing.
pub fn acknowledge(alert: &Alert, by: &str, now_ms: UnixMs) -> Option<Decision> {
    if alert.status != AlertStatus::Active {
        return None;
    }
    let mut seen = changed(alert, now_ms);
    seen.status = AlertStatus::Acknowledged;
    seen.acknowledged_at_ms = Some(now_ms);
    seen.acknowledged_by = Some(by.to_owned());
    Some(Decision { alert: seen, seen: Some(alert.revision), notices: Vec::new(), is_withdrawn: false })
}

/// Somebody says that an alert is over; none where it is. A threshold that is still reached raises a new one after
/// the hold.
pub fn resolve(
    alert: &Alert,
    by: &str,
    now_ms: UnixMs,
    hush_until_ms: Option<UnixMs>,
    channels: &[NoticeChannel],
) -> Option<Decision> {
    if alert.status == AlertStatus::Resolved {
        return None;
    }
    Some(recover(alert, Some(by), now_ms, hush_until_ms.filter(|until| *until > now_ms), channels))
}
