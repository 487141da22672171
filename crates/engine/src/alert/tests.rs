//! The rules of alerts, looked at once a second in virtual time.

use caelum_model::{
    alert::ChannelKind,
    host::{HostIdentity, HostSample, Usage},
    node::LinkFacts,
};
use proptest::prelude::*;

use super::*;

/// Nodes, and a store that keeps what is decided.
struct World {
    now_ms: i64,
    watch: Watch,
    alerts: Vec<Alert>,
    notices: Vec<Notice>,
    withdrawn: usize,
    hush_until_ms: Option<i64>,
}

fn channel(name: &str, least: Level) -> NoticeChannel {
    NoticeChannel { name: name.to_owned(), kind: ChannelKind::Log, least, set: None }
}

fn node(cpu: f64, now_ms: i64) -> Node {
    Node {
        node_id: NodeId::parse("n-1").unwrap(),
        name: "box".into(),
        identity: HostIdentity::default(),
        roles: Vec::new(),
        version: "1".into(),
        joined_at_ms: 0,
        seen_at_ms: now_ms,
        sample: Some(HostSample {
            cpu_percent: cpu,
            memory: Usage { total_bytes: 100, used_bytes: 1 },
            ..HostSample::default()
        }),
        links: LinkFacts::default(),
    }
}

impl World {
    fn new() -> Self {
        Self {
            now_ms: 1_000_000,
            watch: Watch::default(),
            alerts: Vec::new(),
            notices: Vec::new(),
            withdrawn: 0,
            hush_until_ms: None,
        }
    }

    fn standing(&self) -> Vec<Alert> {
        self.alerts.iter().filter(|alert| alert.resolved_at_ms.is_none()).cloned().collect()
    }

    fn store(&mut self, decision: Decision) {
        let known = self.alerts.iter().position(|alert| alert.alert_id == decision.alert.alert_id);
        assert_eq!(decision.seen, known.map(|index| self.alerts[index].revision));
        if decision.is_withdrawn {
            let before = self.notices.len();
            self.notices.retain(|notice| notice.subject_id != decision.alert.alert_id);
            self.withdrawn += before - self.notices.len();
        }
        match known {
            Some(index) => self.alerts[index] = decision.alert,
            None => {
                let same = |alert: &Alert| (alert.node_id.clone(), alert.metric);
                assert!(self.standing().iter().all(|alert| same(alert) != same(&decision.alert)));
                self.alerts.push(decision.alert);
            }
        }
        for notice in decision.notices {
            assert!(self.notices.iter().all(|known| known.notice_id != notice.notice_id), "told twice");
            self.notices.push(notice);
        }
    }

    fn look(&mut self, node: &Node) {
        self.now_ms += 1_000;
        let now = Now { ms: self.now_ms, wall_ms: self.now_ms };
        let thresholds = Thresholds::default();
        let observed = Observed::of(node, &Roster::default(), self.now_ms, &thresholds, self.hush_until_ms);
        let channels = [channel("all", Level::Warning)];
        for decision in self.watch.look(now, &[observed], &self.standing(), &channels) {
            self.store(decision);
        }
    }

    fn cpu(&mut self, percent: f64, seconds: usize) {
        for _ in 0..seconds {
            let node = node(percent, self.now_ms + 1_000);
            self.look(&node);
        }
    }

    fn kinds(&self) -> Vec<NoticeKind> {
        self.notices.iter().map(|notice| notice.kind).collect()
    }
}

use NoticeKind::{Escalation, Failure, Recovery};

#[test]
fn an_alert_takes_the_hold_and_ends_after_the_quiet_time() {
    let mut world = World::new();
    world.cpu(85.0, 30);
    assert!(world.alerts.is_empty(), "the first look only begins the hold");
    world.cpu(85.0, 1);
    assert_eq!((world.standing().len(), world.kinds()), (1, vec![Failure]));
    assert_eq!(world.notices[0].text, "box: CPU at 85 % (warning)");
    world.cpu(77.0, 300);
    assert_eq!(world.standing().len(), 1, "below the threshold and not by the margin");
    world.cpu(70.0, 60);
    assert_eq!(world.standing().len(), 1);
    world.cpu(70.0, 1);
    assert_eq!((world.standing().len(), world.kinds()), (0, vec![Failure, Recovery]));
    assert_eq!(world.alerts[0].resolved_because, Some(AlertEnd::Recovered));
    assert_eq!(world.notices[1].text, "box: CPU is below its threshold again, after 6 min");
}

#[test]
fn a_metric_that_flaps_every_second_for_ten_minutes_is_told_of_twice_at_most() {
    for (low, high) in [(10.0, 99.0), (79.0, 81.0), (94.0, 96.0), (76.0, 97.0), (70.0, 85.0), (89.0, 96.0)] {
        let mut world = World::new();
        for _ in 0..300 {
            world.cpu(high, 1);
            world.cpu(low, 1);
        }
        world.cpu(0.0, 120);
        assert!(world.notices.len() <= 2, "{low} and {high}: {:?}", world.kinds());
        assert!(world.standing().is_empty());
    }
}

#[test]
fn a_node_that_comes_and_goes_every_second_is_told_of_twice_at_most() {
    let mut world = World::new();
    for turn in 0..600 {
        let mut node = node(99.0, world.now_ms + 1_000);
        if turn % 2 == 0 {
            node.seen_at_ms = 0;
        }
        world.look(&node);
    }
    assert_eq!(world.kinds(), [Failure]);
    world.cpu(0.0, 120);
    assert_eq!(world.kinds(), [Failure, Recovery]);
}

#[test]
fn getting_worse_changes_the_alert_that_stands() {
    let mut world = World::new();
    world.cpu(85.0, 60);
    world.cpu(97.0, 60);
    assert_eq!(world.alerts.len(), 1);
    assert_eq!((world.alerts[0].severity, world.kinds()), (Level::Critical, vec![Failure, Escalation]));
    world.cpu(85.0, 90);
    assert_eq!(world.alerts[0].severity, Level::Warning, "a little better, without a word");
    world.cpu(97.0, 60);
    assert_eq!(world.kinds(), [Failure, Escalation], "that level was told of already");
    world.cpu(10.0, 90);
    assert_eq!(world.kinds(), [Failure, Escalation, Recovery]);
    assert_eq!(world.alerts.len(), 1);
}

#[test]
fn a_node_that_cannot_be_reached_has_one_alert_and_starts_anew_afterwards() {
    let mut world = World::new();
    world.cpu(97.0, 60);
    let mut gone = node(97.0, 0);
    gone.seen_at_ms = 0;
    world.look(&gone);
    let standing = world.standing();
    assert_eq!((standing.len(), standing[0].metric), (1, Metric::Heartbeat));
    assert_eq!(world.alerts[0].resolved_because, Some(AlertEnd::Superseded));
    assert_eq!(world.kinds(), [Failure, Failure], "of the CPU and of the silence, at once");
    world.cpu(97.0, 31);
    let metrics: Vec<Metric> = world.standing().iter().map(|alert| alert.metric).collect();
    assert_eq!(metrics, [Metric::Heartbeat, Metric::Cpu]);
}

#[test]
fn whoever_takes_over_tells_nobody_twice() {
    let mut world = World::new();
    world.cpu(85.0, 60);
    world.watch = Watch::default();
    world.cpu(85.0, 120);
    world.watch = Watch::default();
    world.cpu(10.0, 61);
    assert_eq!((world.alerts.len(), world.kinds()), (1, vec![Failure, Recovery]));
}

#[test]
fn what_is_over_before_quiet_hours_end_is_never_told() {
    let mut world = World::new();
    world.hush_until_ms = Some(world.now_ms + 3_600_000);
    world.cpu(85.0, 60);
    assert_eq!(world.standing().len(), 1, "alerts are not held back");
    assert_eq!(world.notices[0].next_at_ms, world.hush_until_ms.unwrap());
    world.cpu(97.0, 60);
    assert_eq!((world.kinds(), world.notices[0].severity), (vec![Failure], Level::Critical));
    world.cpu(10.0, 90);
    assert!(world.notices.is_empty() && world.standing().is_empty());
}

#[test]
fn what_outlasts_quiet_hours_is_told_when_they_end() {
    let mut world = World::new();
    world.hush_until_ms = Some(world.now_ms + 100_000);
    world.cpu(85.0, 200);
    world.cpu(10.0, 90);
    assert_eq!(world.kinds(), [Failure, Recovery]);
}

#[test]
fn a_channel_gets_nothing_less_bad_than_it_asks_for() {
    let alert = {
        let mut world = World::new();
        world.cpu(85.0, 60);
        world.alerts[0].clone()
    };
    let channels = [channel("all", Level::Warning), channel("pager", Level::Critical)];
    let told = |alert: &Alert| resolve(alert, "ops", 2_000_000, None, &channels).unwrap().notices.len();
    assert_eq!(told(&alert), 1);
    assert_eq!(told(&Alert { worst: Level::Critical, ..alert }), 2);
}

#[test]
fn what_somebody_ends_is_raised_again_only_after_another_hold() {
    let mut world = World::new();
    world.cpu(85.0, 60);
    let standing = world.standing().remove(0);
    let seen = acknowledge(&standing, "ops", world.now_ms).unwrap();
    assert_eq!(acknowledge(&seen.alert, "ops", world.now_ms), None);
    world.store(seen);
    let ended = resolve(&world.standing()[0], "ops", world.now_ms, None, &[]).unwrap();
    assert_eq!(resolve(&ended.alert, "ops", world.now_ms, None, &[]), None);
    world.store(ended);
    world.cpu(85.0, 30);
    assert!(world.standing().is_empty());
    world.cpu(85.0, 1);
    assert_eq!(world.standing().len(), 1);
}

#[test]
fn alerts_of_a_node_that_was_removed_are_over_without_a_word() {
    let mut world = World::new();
    world.cpu(85.0, 60);
    let now = Now { ms: world.now_ms, wall_ms: world.now_ms };
    let decisions = world.watch.look(now, &[], &world.standing(), &[channel("all", Level::Warning)]);
    assert_eq!(decisions[0].alert.resolved_because, Some(AlertEnd::Removed));
    assert!(decisions[0].notices.is_empty());
}

#[test]
fn attempts_come_less_and_less_often_and_end_after_a_day() {
    let (mut now_ms, mut attempts) = (0, 1);
    while let Some(next_ms) = next_attempt(attempts, now_ms) {
        assert!(next_ms > now_ms);
        (now_ms, attempts) = (next_ms, attempts + 1);
    }
    assert_eq!(now_ms / 3_600_000, 23);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a metric does, alerts of it come one after the other, each is told of once for each level, and
    /// not more often than hold and quiet time allow.
    #[test]
    fn notices_are_bounded_whatever_a_metric_does(
        steps in proptest::collection::vec((0.0..100.0f64, 1..40usize, prop::bool::weighted(0.1)), 1..60),
    ) {
        let mut world = World::new();
        let began_ms = world.now_ms;
        for (cpu, seconds, is_taken_over) in steps {
            if is_taken_over {
                world.watch = Watch::default();
            }
            world.cpu(cpu, seconds);
        }
        let spans = (world.now_ms - began_ms) / 90_000 + 1;
        prop_assert!(world.alerts.len() as i64 <= spans);
        prop_assert!(world.notices.len() <= world.alerts.len() * 3);
        for alert in &world.alerts {
            let of = |kind| {
                world.notices.iter().filter(|n| n.subject_id == alert.alert_id && n.kind == kind).count()
            };
            prop_assert_eq!(of(Failure), 1);
            prop_assert_eq!(of(Recovery), usize::from(alert.resolved_at_ms.is_some()));
        }
    }
}
