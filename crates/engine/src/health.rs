//! How a node fares: a level and the issues behind it.
//!
//! Offline beats critical beats warning beats healthy. A value that equals a threshold has reached it.
//! Ages are by the observer's clock; the node's own is never looked at.

use caelum_model::{
    UnixMs,
    cluster::{Liveness, Member, Roster},
    host::HostSample,
    node::{Issue, Level, Metric, Node, Threshold, Thresholds},
};

/// The level of a node and everything that crosses a threshold, worst first.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The worst of the issues.
    pub level: Level,
    /// What crosses a threshold now.
    pub issues: Vec<Issue>,
}

/// What is known of a node's being there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence<'a> {
    /// How long ago it reported, ms.
    pub age_ms: i64,
    /// Why membership believes that it is gone, if it does.
    pub gone: Option<&'a str>,
}

/// Judges a node as it is recorded and as membership sees it. One that was registered by hand and has not said
/// anything yet is offline.
pub fn of_node(node: &Node, roster: &Roster, now_ms: UnixMs, thresholds: &Thresholds) -> Health {
    let member = roster.members.iter().find(|member| member.node_id == node.node_id);
    let is_gone = |member: &&Member| matches!(member.liveness, Liveness::Dead | Liveness::Left);
    let gone = match node.is_heard() {
        true => member.filter(is_gone).map(|member| member.because.as_str()),
        false => Some("not heard yet"),
    };
    let presence = Presence { age_ms: now_ms - node.seen_at_ms, gone };
    health(node.sample.as_ref(), node.identity.cpu_cores, presence, thresholds)
}

/// Judges a sample. A node that has not sent one yet is offline from its time-out on and healthy before, with
/// nothing known against it; one that membership knows to be gone is offline at once.
pub fn health(
    sample: Option<&HostSample>,
    cores: u32,
    presence: Presence<'_>,
    thresholds: &Thresholds,
) -> Health {
    let timeout_s = thresholds.heartbeat_timeout_s as f64;
    let age_s = presence.age_ms.max(0) as f64 / 1000.0;
    if let Some(why) = presence.gone {
        let issue = Issue {
            metric: Metric::Heartbeat,
            severity: Level::Offline,
            message: format!("gone: {why}"),
            value: age_s,
            threshold: timeout_s,
        };
        return Health { level: Level::Offline, issues: vec![issue] };
    }
    if age_s >= timeout_s {
        let issue = Issue {
            metric: Metric::Heartbeat,
            severity: Level::Offline,
            message: format!("silent for {age_s:.0} s"),
            value: age_s,
            threshold: timeout_s,
        };
        return Health { level: Level::Offline, issues: vec![issue] };
    }
    let Some(sample) = sample else {
        return Health { level: Level::Healthy, issues: Vec::new() };
    };
    let per_core = if thresholds.load_per_core { f64::from(cores.max(1)) } else { 1.0 };
    let load = Threshold {
        warning: thresholds.load.warning * per_core,
        critical: thresholds.load.critical * per_core,
    };
    let fullest = sample
        .disks
        .iter()
        .filter_map(|disk| Some((disk.space.percent()?, disk.mount.as_str())))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let mut issues: Vec<Issue> = [
        judge(Metric::Cpu, Some(sample.cpu_percent), thresholds.cpu, |v| format!("CPU at {v:.0} %")),
        judge(Metric::Memory, sample.memory.percent(), thresholds.memory, |v| format!("memory at {v:.0} %")),
        judge(Metric::Disk, fullest.map(|(percent, _)| percent), thresholds.disk, |v| {
            format!("disk {} at {v:.0} %", fullest.map_or("", |(_, mount)| mount))
        }),
        judge(Metric::Load, Some(sample.load_average[0]), load, |v| format!("load {v:.1} on {cores} cores")),
    ]
    .into_iter()
    .flatten()
    .collect();
    issues.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
    let level = issues.first().map_or(Level::Healthy, |issue| issue.severity);
    Health { level, issues }
}

fn judge(
    metric: Metric,
    value: Option<f64>,
    threshold: Threshold,
    message: impl Fn(f64) -> String,
) -> Option<Issue> {
    let value = value?;
    let (severity, limit) = if value >= threshold.critical {
        (Level::Critical, threshold.critical)
    } else if value >= threshold.warning {
        (Level::Warning, threshold.warning)
    } else {
        return None;
    };
    Some(Issue { metric, severity, message: message(value), value, threshold: limit })
}

#[cfg(test)]
mod tests {
    use caelum_model::host::{DiskSample, Usage};

    use super::*;

    fn sample(cpu: f64, memory: u64, disk: u64, load: f64) -> HostSample {
        HostSample {
            cpu_percent: cpu,
            memory: Usage { total_bytes: 100, used_bytes: memory },
            disks: vec![DiskSample {
                mount: "/".into(),
                space: Usage { total_bytes: 100, used_bytes: disk },
                ..DiskSample::default()
            }],
            load_average: [load, 0.0, 0.0],
            ..HostSample::default()
        }
    }

    fn level(sample: &HostSample, age_ms: i64) -> Level {
        health(Some(sample), 2, Presence { age_ms, gone: None }, &Thresholds::default()).level
    }

    #[test]
    fn the_seeds_thresholds_are_reached_by_the_value_itself() {
        let cases = [
            (sample(79.9, 84, 79, 3.9), Level::Healthy),
            (sample(80.0, 0, 0, 0.0), Level::Warning),
            (sample(95.0, 0, 0, 0.0), Level::Critical),
            (sample(0.0, 85, 0, 0.0), Level::Warning),
            (sample(0.0, 95, 0, 0.0), Level::Critical),
            (sample(0.0, 0, 80, 0.0), Level::Warning),
            (sample(0.0, 0, 90, 0.0), Level::Critical),
            (sample(0.0, 0, 0, 4.0), Level::Warning),
            (sample(0.0, 0, 0, 8.0), Level::Critical),
        ];
        for (sample, expected) in cases {
            assert_eq!(level(&sample, 0), expected, "{sample:?}");
        }
    }

    #[test]
    fn offline_beats_critical_from_the_time_out_on() {
        let critical = sample(99.0, 0, 0, 0.0);
        assert_eq!(level(&critical, 119_999), Level::Critical);
        assert_eq!(level(&critical, 120_000), Level::Offline);
    }

    #[test]
    fn the_worst_issue_comes_first_and_names_its_threshold() {
        let health = health(Some(&sample(80.0, 96, 0, 0.0)), 2, Presence::default(), &Thresholds::default());
        let seen: Vec<_> =
            health.issues.iter().map(|issue| (issue.metric, issue.severity, issue.threshold)).collect();
        assert_eq!(seen, vec![(Metric::Memory, Level::Critical, 95.0), (Metric::Cpu, Level::Warning, 80.0)]);
    }

    #[test]
    fn load_counts_per_core_where_asked_for() {
        let thresholds = Thresholds { load_per_core: true, ..Thresholds::default() };
        assert_eq!(
            health(Some(&sample(0.0, 0, 0, 7.9)), 2, Presence::default(), &thresholds).level,
            Level::Healthy
        );
        assert_eq!(
            health(Some(&sample(0.0, 0, 0, 8.0)), 2, Presence::default(), &thresholds).level,
            Level::Warning
        );
    }

    #[test]
    fn a_clock_that_stepped_back_makes_nobody_offline() {
        assert_eq!(level(&sample(0.0, 0, 0, 0.0), -5_000), Level::Healthy);
    }

    #[test]
    fn a_node_that_is_known_to_be_gone_is_offline_at_once() {
        let presence = Presence { age_ms: 1_000, gone: Some("link closed") };
        let health = health(Some(&sample(0.0, 0, 0, 0.0)), 2, presence, &Thresholds::default());
        assert_eq!((health.level, health.issues[0].message.as_str()), (Level::Offline, "gone: link closed"));
    }
}
