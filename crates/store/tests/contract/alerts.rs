//! Promises about alerts, notices, what is set for nodes, and the longer steps of their history.

use caelum_model::{
    alert::{Alert, AlertStatus, Notice, NoticeKind, NoticeSettings, NoticeSubject},
    host::HostIdentity,
    id::NodeId,
    node::{Level, LinkFacts, Metric, Node, NodePoint, NodeSetting},
};
use caelum_store::{AlertQuery, AlertWrite, HistoryTier, NoticeOutcome, NoticeQuery, NoticeState};

use crate::{Records, promised};

fn node_id(name: &str) -> NodeId {
    NodeId::parse(name).expect("valid")
}

fn alert(id: &str, node: &str, metric: Metric, raised_at_ms: i64) -> Alert {
    Alert {
        alert_id: id.into(),
        node_id: node_id(node),
        node_name: "box\0".into(),
        metric,
        severity: Level::Warning,
        worst: Level::Warning,
        status: AlertStatus::Active,
        message: "CPU at 85 %".into(),
        value: 85.0,
        threshold: 80.0,
        raised_at_ms,
        changed_at_ms: raised_at_ms,
        acknowledged_at_ms: None,
        acknowledged_by: None,
        resolved_at_ms: None,
        resolved_because: None,
        held_until_ms: None,
        revision: 1,
    }
}

fn notice(id: &str, subject: &str, next_at_ms: i64) -> Notice {
    Notice {
        notice_id: id.into(),
        subject: NoticeSubject::Alert,
        subject_id: subject.into(),
        kind: NoticeKind::Failure,
        severity: Level::Warning,
        node_id: None,
        place: "box".into(),
        text: "box: CPU at 85 %".into(),
        channel: "log".into(),
        created_at_ms: next_at_ms,
        next_at_ms,
        attempts: 0,
        sent_at_ms: None,
        given_up_at_ms: None,
        error: None,
    }
}

fn new(alert: Alert) -> AlertWrite {
    AlertWrite { alert, seen: None }
}

fn over(alert: &Alert) -> AlertWrite {
    let resolved = Alert {
        status: AlertStatus::Resolved,
        resolved_at_ms: Some(50),
        revision: alert.revision + 1,
        ..alert.clone()
    };
    AlertWrite { alert: resolved, seen: Some(alert.revision) }
}

async fn one_alert_of_a_node_and_metric_stands_at_a_time(records: Records) {
    let store = &records.store;
    let first = alert("a1", "n-1", Metric::Cpu, 10);
    assert!(store.put_alerts(vec![new(first.clone())], vec![], vec![]).await.expect("stores"));
    let twin = new(alert("a2", "n-1", Metric::Cpu, 11));
    let others = vec![new(alert("a3", "n-1", Metric::Disk, 12)), twin.clone()];
    let told = vec![notice("x", "a3", 12)];
    assert!(!store.put_alerts(others, told, vec![]).await.expect("answers"), "all or nothing");
    assert_eq!(store.alert("a3").await.expect("reads"), None);
    assert!(
        store.notices(NoticeQuery { limit: 9, ..NoticeQuery::default() }).await.expect("reads").is_empty()
    );
    assert!(store.put_alerts(vec![over(&first)], vec![], vec![]).await.expect("stores"));
    assert!(store.put_alerts(vec![twin], vec![], vec![]).await.expect("stores"), "the first is over");
}

async fn a_change_on_what_is_no_longer_so_changes_nothing(records: Records) {
    let store = &records.store;
    let first = alert("a1", "n-1", Metric::Cpu, 10);
    store.put_alerts(vec![new(first.clone())], vec![], vec![]).await.expect("stores");
    let told = vec![notice("recovery", "a1", 50)];
    let (one, other) = tokio::join!(
        store.put_alerts(vec![over(&first)], told.clone(), vec![]),
        store.put_alerts(vec![over(&first)], told, vec![]),
    );
    let done = [one.expect("answers"), other.expect("answers")];
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
    assert!(!store.put_alerts(vec![over(&first)], vec![], vec![]).await.expect("answers"));
    let waiting = store.notices(NoticeQuery { limit: 9, ..NoticeQuery::default() }).await.expect("reads");
    assert_eq!(waiting.len(), 1);
}

async fn alerts_are_listed_newest_first_and_cut_by_what_is_asked(records: Records) {
    let store = &records.store;
    let (a, b, c) = (
        alert("a", "n-1", Metric::Cpu, 10),
        Alert { severity: Level::Critical, ..alert("b", "n-2", Metric::Cpu, 20) },
        alert("c", "n-1", Metric::Disk, 20),
    );
    let all = vec![new(a.clone()), new(b.clone()), new(c.clone())];
    assert!(store.put_alerts(all, vec![], vec![]).await.expect("stores"));
    assert!(store.put_alerts(vec![over(&a)], vec![], vec![]).await.expect("stores"));
    let ids = async |query: AlertQuery| {
        let found = store.alerts(AlertQuery { limit: 10, ..query }).await.expect("reads");
        found.into_iter().map(|alert| alert.alert_id).collect::<Vec<_>>().join("")
    };
    assert_eq!(ids(AlertQuery::default()).await, "cba");
    assert_eq!(ids(AlertQuery { is_open: Some(true), ..AlertQuery::default() }).await, "cb");
    assert_eq!(ids(AlertQuery { status: Some(AlertStatus::Resolved), ..AlertQuery::default() }).await, "a");
    assert_eq!(ids(AlertQuery { severity: Some(Level::Critical), ..AlertQuery::default() }).await, "b");
    assert_eq!(ids(AlertQuery { node_id: Some(node_id("n-1")), ..AlertQuery::default() }).await, "ca");
    assert_eq!(ids(AlertQuery { after: Some((20, "c".into())), ..AlertQuery::default() }).await, "ba");
    assert_eq!(store.drop_alerts(50).await.expect("drops"), 0);
    assert_eq!(store.drop_alerts(51).await.expect("drops"), 1);
}

async fn a_notice_is_taken_by_one_sender_until_it_says_what_became_of_it(records: Records) {
    let (store, another) = (&records.store, records.another().await);
    let all: Vec<Notice> = (0..20).map(|n| notice(&format!("n{n:02}"), "a", 100)).collect();
    store.put_alerts(vec![], all, vec![]).await.expect("stores");
    assert!(store.claim_notices("one".into(), 99, 199, 50).await.expect("asks").is_empty(), "not due");
    let (mine, yours) = tokio::join!(
        store.claim_notices("one".into(), 100, 200, 12),
        another.claim_notices("two".into(), 100, 200, 12)
    );
    let (mut mine, mut yours) = (mine.expect("takes"), yours.expect("takes"));
    // Whoever found the others' taken asks again.
    yours.extend(another.claim_notices("two".into(), 100, 200, 50).await.expect("takes"));
    mine.extend(store.claim_notices("one".into(), 100, 200, 50).await.expect("takes"));
    let mut ids: Vec<&str> = mine.iter().chain(&yours).map(|notice| notice.notice_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), mine.len() + yours.len()), (20, 20));
    assert!(mine.iter().all(|notice| notice.attempts == 1));
    let first = mine[0].notice_id.clone();
    let sent = NoticeOutcome::Sent { at_ms: 101 };
    assert!(!store.settle_notice(first.clone(), "two".into(), sent.clone()).await.expect("answers"));
    assert!(store.settle_notice(first.clone(), "one".into(), sent.clone()).await.expect("answers"));
    assert!(!store.settle_notice(first, "one".into(), sent).await.expect("answers"), "it is sent");
    let later = NoticeOutcome::Later { next_at_ms: 150, error: "timed out".into() };
    store.settle_notice(yours[0].notice_id.clone(), "two".into(), later).await.expect("answers");
    let again = store.claim_notices("one".into(), 150, 250, 50).await.expect("takes");
    assert_eq!(again.len(), 1, "the others are still taken");
    assert_eq!((again[0].attempts, again[0].error.as_deref()), (2, Some("timed out")));
    let left = store.claim_notices("one".into(), 250, 300, 50).await.expect("takes");
    assert_eq!(left.len(), 19, "those of a sender that said nothing are free again");
    let given_up = NoticeOutcome::GivenUp { at_ms: 260, error: "x".into() };
    store.settle_notice(left[0].notice_id.clone(), "one".into(), given_up).await.expect("answers");
    let count = async |state| {
        let query = NoticeQuery { state: Some(state), limit: 50, ..NoticeQuery::default() };
        store.notices(query).await.expect("reads").len()
    };
    assert_eq!(count(NoticeState::Sent).await, 1);
    assert_eq!(count(NoticeState::GivenUp).await, 1);
    assert_eq!(count(NoticeState::Waiting).await, 18);
    assert_eq!(store.drop_notices(101).await.expect("drops"), 20);
}

async fn what_is_told_of_one_alert_goes_to_a_channel_in_order(records: Records) {
    let store = &records.store;
    let to = |channel: &str, notice: Notice| Notice { channel: channel.into(), ..notice };
    let told = vec![
        notice("failure", "a", 10),
        notice("recovery", "a", 20),
        to("mail", notice("mailed", "a", 20)),
        notice("another", "b", 20),
    ];
    store.put_alerts(vec![], told, vec![]).await.expect("stores");
    let taken = async |now_ms: i64| {
        let taken = store.claim_notices("one".into(), now_ms, now_ms + 100, 9).await.expect("takes");
        let mut ids: Vec<String> = taken.into_iter().map(|notice| notice.notice_id).collect();
        ids.sort_unstable();
        ids.join(" ")
    };
    assert_eq!(taken(30).await, "another failure mailed", "whoever has the failure may be killed with it");
    let later = NoticeOutcome::Later { next_at_ms: 60, error: "timed out".into() };
    assert!(store.settle_notice("failure".into(), "one".into(), later).await.expect("answers"));
    assert_eq!(taken(59).await, "");
    assert_eq!(taken(60).await, "failure");
    let sent = NoticeOutcome::Sent { at_ms: 61 };
    assert!(store.settle_notice("failure".into(), "one".into(), sent).await.expect("answers"));
    assert_eq!(taken(61).await, "recovery");
}

async fn what_was_not_tried_yet_can_be_taken_back_and_a_notice_is_added_once(records: Records) {
    let store = &records.store;
    let told = vec![notice("x", "a", 10), notice("y", "a", 99), notice("z", "b", 99)];
    store.put_alerts(vec![], told.clone(), vec![]).await.expect("stores");
    store.put_alerts(vec![], told, vec![]).await.expect("stores");
    assert_eq!(store.claim_notices("one".into(), 10, 20, 9).await.expect("takes").len(), 1);
    store.put_alerts(vec![], vec![], vec!["a".into()]).await.expect("stores");
    let left = store.notices(NoticeQuery { limit: 9, ..NoticeQuery::default() }).await.expect("reads");
    let ids: Vec<&str> = left.iter().map(|notice| notice.notice_id.as_str()).collect();
    assert_eq!(ids, ["z", "x"]);
    let query = NoticeQuery { subject_id: Some("a".into()), limit: 9, ..NoticeQuery::default() };
    assert_eq!(store.notices(query).await.expect("reads").len(), 1);
}

async fn who_is_told_is_kept_as_it_was_set(records: Records) {
    let store = &records.store;
    assert_eq!(store.notice_settings().await.expect("reads"), None);
    let settings = NoticeSettings::default();
    store.put_notice_settings(settings.clone()).await.expect("stores");
    assert_eq!(store.notice_settings().await.expect("reads"), Some(settings));
}

fn node() -> Node {
    Node {
        node_id: node_id("n-1"),
        name: "box".into(),
        identity: HostIdentity::default(),
        roles: Vec::new(),
        version: "1".into(),
        joined_at_ms: 1,
        seen_at_ms: 5,
        sample: None,
        links: LinkFacts::default(),
    }
}

async fn what_is_set_for_a_node_goes_with_it(records: Records) {
    let store = &records.store;
    store.put_node(node(), None).await.expect("stores");
    let setting =
        NodeSetting { draining: true, tags: vec!["web".into()], ..NodeSetting::usual(node_id("n-1")) };
    store.put_node_setting(NodeSetting::usual(node_id("n-1"))).await.expect("stores");
    store.put_node_setting(setting.clone()).await.expect("stores");
    assert_eq!(store.node_settings().await.expect("reads"), std::slice::from_ref(&setting));
    assert_eq!(store.node_setting(&node_id("n-1")).await.expect("reads"), Some(setting));
    assert!(store.remove_node(&node_id("n-1")).await.expect("removes"));
    assert_eq!(store.node_setting(&node_id("n-1")).await.expect("reads"), None);
}

async fn longer_steps_weigh_what_went_in_and_stand_in_for_what_was_dropped(records: Records) {
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 3_600_000;
    let (store, id) = (&records.store, node_id("n-1"));
    // Three points in the first minute, one in the second; the swap is known of the first only.
    for (at_ms, cpu) in [(0, 10.0), (10_000, 20.0), (20_000, 30.0), (MINUTE, 60.0)] {
        let swap_percent = (at_ms == 0).then_some(50.0);
        let point = NodePoint {
            at_ms: 10 * HOUR + at_ms,
            cpu_percent: cpu,
            swap_percent,
            temperature_celsius: Some(cpu),
            process_count: cpu as u64,
            ..NodePoint::default()
        };
        store.put_node(node(), Some(point)).await.expect("stores");
    }
    for _ in 0..2 {
        let merged = store.merge_node_tier(HistoryTier::Minute, 10 * HOUR, 11 * HOUR).await.expect("merges");
        assert_eq!(merged, 2);
    }
    store.merge_node_tier(HistoryTier::Hour, 10 * HOUR, 11 * HOUR).await.expect("merges");
    let read = async |points| store.node_points(&id, 10 * HOUR, 11 * HOUR, points).await.expect("reads");
    assert_eq!(read(360).await.len(), 4, "samples, while they are there");
    assert_eq!(store.drop_node_points(11 * HOUR).await.expect("drops"), 4);
    let minutes: Vec<_> = read(360).await.iter().map(|p| (p.at_ms, p.cpu_percent, p.swap_percent)).collect();
    assert_eq!(minutes, [(10 * HOUR, 20.0, Some(50.0)), (10 * HOUR + MINUTE, 60.0, None)]);
    assert_eq!(store.drop_node_tier(HistoryTier::Minute, 11 * HOUR).await.expect("drops"), 2);
    let hours = read(360).await;
    assert_eq!(hours.len(), 1);
    let hour = hours[0];
    assert_eq!((hour.cpu_percent, hour.temperature_celsius, hour.process_count), (30.0, Some(60.0), 60));
    assert_eq!(hour.swap_percent, Some(50.0));
    assert_eq!(store.drop_node_tier(HistoryTier::Hour, 11 * HOUR).await.expect("drops"), 1);
}

promised!(
    one_alert_of_a_node_and_metric_stands_at_a_time,
    a_change_on_what_is_no_longer_so_changes_nothing,
    alerts_are_listed_newest_first_and_cut_by_what_is_asked,
    a_notice_is_taken_by_one_sender_until_it_says_what_became_of_it,
    what_is_told_of_one_alert_goes_to_a_channel_in_order,
    what_was_not_tried_yet_can_be_taken_back_and_a_notice_is_added_once,
    who_is_told_is_kept_as_it_was_set,
    what_is_set_for_a_node_goes_with_it,
    longer_steps_weigh_what_went_in_and_stand_in_for_what_was_dropped,
);
