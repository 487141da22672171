//! Promises about targets, people, nodes, verdicts, settings and keys.

use caelum_model::{
    access::{AuditEntry, ClientBinding, Role, Scope, Token, User},
    alert::{ChannelKind, NoticeChannel, NoticeSettings, WebhookForm},
    host::HostIdentity,
    id::{NodeId, TargetId},
    node::{Level, LinkFacts, Node, NodePoint},
    target::{Target, TargetOrigin},
};
use caelum_store::{FactSwap, NoticeSwap, StoreError};

use crate::{Records, promised};

fn target(id: &str, url: &str, origin: TargetOrigin) -> Target {
    let target_id = TargetId::parse(id).expect("valid");
    Target { name: id.into(), origin, ..Target::usual(target_id, url.into(), 1) }
}

async fn a_failed_write_leaves_its_neighbours_standing(records: Records) {
    let store = &records.store;
    let results = tokio::join!(
        store.add_target(target("a", "tcp://a:1", TargetOrigin::Api)),
        store.add_target(target("b", "tcp://a:1", TargetOrigin::Api)),
        store.add_target(target("c", "tcp://c:1", TargetOrigin::Api)),
    );
    let refused = [&results.0, &results.1]
        .into_iter()
        .filter(|result| matches!(result, Err(StoreError::Exists { what }) if what.contains("tcp://a:1")));
    assert_eq!(refused.count(), 1, "{results:?}");
    assert!(results.2.is_ok());
    assert_eq!(store.targets().await.expect("read").len(), 2);
}

async fn targets_of_an_origin_are_replaced_and_others_keep_their_urls(records: Records) {
    let store = &records.store;
    store.add_target(target("own", "tcp://a:1", TargetOrigin::Api)).await.expect("added");
    store.add_target(target("old", "tcp://b:1", TargetOrigin::Config)).await.expect("added");
    let new =
        vec![target("x", "tcp://a:1", TargetOrigin::Config), target("y", "tcp://c:1", TargetOrigin::Config)];
    store.replace_targets(vec![TargetOrigin::Config], new).await.expect("replaced");
    let ids: Vec<String> =
        store.targets().await.expect("read").into_iter().map(|target| target.target_id.to_string()).collect();
    assert_eq!(ids, ["own", "y"]);
    let id = TargetId::parse("y").expect("valid");
    assert!(store.remove_target(&id).await.expect("asked"));
    assert!(!store.remove_target(&id).await.expect("asked"));
    assert_eq!(store.target(&id).await.expect("read"), None);
}

async fn an_expired_key_is_gone_before_it_is_swept(records: Records) {
    let store = &records.store;
    // A server goes by its own clock, a file by the caller's: both are given what is over for both.
    let now_ms = caelum_testkit::event::now_ms();
    store.put_key("session/1".into(), "ops".into(), now_ms, 60_000).await.expect("stored");
    let kept = store.key("session/1".into(), now_ms).await.expect("read").expect("lives");
    assert_eq!(kept.value, "ops");
    assert!((1..=60_000).contains(&kept.lives_ms), "{kept:?}");
    store.put_key("session/1".into(), "ops".into(), now_ms, -1).await.expect("stored");
    assert_eq!(store.key("session/1".into(), now_ms).await.expect("read"), None);
    assert_eq!(store.sweep_keys(now_ms).await.expect("swept"), 1);
}

async fn a_fact_is_claimed_once_and_replaced_only_as_it_was_seen(records: Records) {
    let other = records.another().await;
    let store = &records.store;
    let (mine, theirs) = tokio::join!(
        store.claim_fact("claimed", "mine".into()),
        other.claim_fact("claimed", "theirs".into())
    );
    let agreed = mine.expect("claimed");
    assert_eq!(agreed, theirs.expect("claimed"), "both were told the same");
    assert!(!store.replace_fact("claimed", "nobody's".into(), "new".into()).await.expect("asked"));
    assert!(store.replace_fact("claimed", agreed, "new".into()).await.expect("asked"));
    assert_eq!(other.fact("claimed").await.expect("read").as_deref(), Some("new"));
}

fn mail_from(from: &str) -> NoticeSettings {
    let kind = ChannelKind::Webhook { url: format!("https://{from}.example.net/"), form: WebhookForm::Slack };
    let channel = NoticeChannel { name: from.into(), kind, least: Level::Warning, set: None };
    NoticeSettings { channels: vec![channel], quiet_hours: Vec::new() }
}

fn swap(key: &'static str, seen: Option<&str>, value: Option<&str>) -> FactSwap {
    FactSwap { key, seen: seen.map(str::to_owned), value: value.map(str::to_owned) }
}

async fn facts_and_settings_are_sealed_anew_together_or_not_at_all(records: Records) {
    let (store, other) = (&records.store, records.another().await);
    store.put_fact("one", "1".into()).await.expect("stored");
    store.put_fact("two", "1".into()).await.expect("stored");
    let before = NoticeSwap { seen: None, value: Some(mail_from("a")) };
    let new = |seen: &'static str| {
        vec![
            swap("one", Some("1"), Some("2")),
            swap("two", Some(seen), Some("2")),
            swap("new", None, Some("2")),
        ]
    };
    assert!(!store.reseal(new("0"), before.clone()).await.expect("asked"));
    let (one, two) = (store.fact("one").await.expect("read"), store.fact("two").await.expect("read"));
    assert_eq!((one.as_deref(), two.as_deref()), (Some("1"), Some("1")), "nothing was begun");
    assert_eq!(store.notice_settings().await.expect("read"), None);

    // Settings that somebody else stored since are not lost.
    other.put_notice_settings(mail_from("b")).await.expect("stored");
    assert!(!store.reseal(new("1"), before).await.expect("asked"));
    let seen = NoticeSwap { seen: Some(mail_from("b")), value: Some(mail_from("c")) };
    let (mine, theirs) = tokio::join!(store.reseal(new("1"), seen.clone()), other.reseal(new("1"), seen));
    assert_eq!(
        usize::from(mine.expect("asked")) + usize::from(theirs.expect("asked")),
        1,
        "of two at once one wins"
    );
    assert_eq!(other.notice_settings().await.expect("read"), Some(mail_from("c")));
    let unchanged = NoticeSwap { seen: Some(mail_from("c")), value: None };
    let gone =
        vec![swap("one", Some("2"), None), swap("never", None, None), swap("new", Some("2"), Some("3"))];
    assert!(store.reseal(gone, unchanged).await.expect("asked"));
    assert_eq!(other.fact("one").await.expect("read"), None);
    assert_eq!(other.fact("new").await.expect("read").as_deref(), Some("3"));
}

async fn settings_are_stored_only_under_the_fact_that_was_seen(records: Records) {
    let (store, other) = (&records.store, records.another().await);
    let put = |settings, seen: &str| store.put_notice_settings_under(settings, "key", seen.to_owned());
    assert!(!put(mail_from("a"), "1").await.expect("asked"), "there is no such fact");
    store.put_fact("key", "1".into()).await.expect("stored");
    assert!(put(mail_from("a"), "1").await.expect("asked"));
    // Each of the two goes before the other, or is refused.
    for _ in 0..20 {
        store.put_fact("key", "1".into()).await.expect("stored");
        store.put_notice_settings(mail_from("a")).await.expect("stored");
        let seen = NoticeSwap { seen: Some(mail_from("a")), value: Some(mail_from("sealed")) };
        let (resealed, stored) = tokio::join!(
            other.reseal(vec![swap("key", Some("1"), Some("2"))], seen),
            put(mail_from("new"), "1"),
        );
        let (resealed, stored) = (resealed.expect("asked"), stored.expect("asked"));
        let there = store.notice_settings().await.expect("read");
        let expected = if resealed { mail_from("sealed") } else { mail_from("new") };
        assert!(resealed != stored, "one of them was first, and the other saw it");
        assert_eq!(there, Some(expected));
    }
}

async fn keys_are_counted_and_removed_by_prefix_and_value(records: Records) {
    let store = &records.store;
    for (key, value) in [("s/1", "a"), ("s/2", "a"), ("s/3", "b"), ("t%/1", "a")] {
        store.put_key(key.into(), value.into(), 1, 60_000).await.expect("stored");
    }
    assert_eq!(store.count_keys("s/".into(), 1).await.expect("read"), 3);
    assert_eq!(store.delete_keys_with_value("s/".into(), "a".into()).await.expect("removed"), 2);
    store.delete_key("s/3".into()).await.expect("removed");
    assert_eq!(store.count_keys("s/".into(), 1).await.expect("read"), 0);
    assert_eq!(store.count_keys("t%".into(), 1).await.expect("read"), 1, "a prefix is no pattern");
}

async fn a_user_is_replaced_by_name_and_the_audit_log_reads_newest_first(records: Records) {
    let store = &records.store;
    let user = |role| User { name: "admin".into(), role, password_hash: "x".into(), created_at_ms: 1 };
    store.put_user(user(Role::Viewer)).await.expect("stored");
    store.put_user(user(Role::Admin)).await.expect("stored");
    assert_eq!(store.users().await.expect("read"), vec![user(Role::Admin)]);
    assert_eq!(store.user("nobody".into()).await.expect("read"), None);
    for at_ms in 1..=2 {
        let entry = AuditEntry {
            at_ms,
            actor: "admin\0".into(),
            action: "target.add".into(),
            subject: "x".into(),
            outcome: "done".into(),
        };
        store.audit(entry).await.expect("written");
    }
    let log = store.audit_log(10, 10).await.expect("read");
    assert_eq!(log.iter().map(|entry| entry.at_ms).collect::<Vec<_>>(), vec![2, 1]);
    assert_eq!(store.audit_log(2, 10).await.expect("read").len(), 1);
}

async fn a_token_is_found_by_its_hash_and_revoked_once(records: Records) {
    let store = &records.store;
    let token = Token {
        token_id: "t1".into(),
        name: "probe".into(),
        secret_sha256: [9; 32],
        scopes: vec![Scope::Ingest],
        binding: ClientBinding::Any,
        created_at_ms: 1,
        expires_at_ms: Some(5),
        revoked_at_ms: None,
    };
    store.add_token(token.clone()).await.expect("stored");
    let same_secret = Token { token_id: "t2".into(), ..token.clone() };
    assert!(matches!(store.add_token(same_secret).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.token_by_hash([9; 32]).await.expect("read"), Some(token));
    assert_eq!(store.token_by_hash([8; 32]).await.expect("read"), None);
    assert!(store.revoke_token("t1".into(), 3).await.expect("asked"));
    assert!(store.revoke_token("t1".into(), 4).await.expect("asked"));
    assert_eq!(store.tokens().await.expect("read")[0].revoked_at_ms, Some(3));
}

fn node(name: &str) -> Node {
    Node {
        node_id: NodeId::parse("n-1").expect("valid"),
        name: name.into(),
        identity: HostIdentity::default(),
        roles: Vec::new(),
        version: "1".into(),
        joined_at_ms: 1,
        seen_at_ms: 5,
        sample: None,
        links: LinkFacts::default(),
    }
}

fn point(at_ms: i64, cpu_percent: f64) -> NodePoint {
    NodePoint {
        at_ms,
        cpu_percent,
        memory_percent: 1.0,
        swap_percent: None,
        disk_percent: Some(2.0),
        load_1: 0.1,
        load_5: 0.2,
        load_15: 0.3,
        disk_read_bytes_per_s: 4.0,
        disk_written_bytes_per_s: 5.0,
        received_bytes_per_s: 6.0,
        sent_bytes_per_s: 7.0,
        temperature_celsius: Some(cpu_percent),
        process_count: 9,
    }
}

async fn a_nodes_history_is_thinned_by_equal_stretches_of_time(records: Records) {
    let store = &records.store;
    for (at_ms, cpu) in [(0, 99.0), (0, 10.0), (10, 20.0), (50, 30.0), (60, 50.0), (100, 77.0)] {
        store.put_node(node("box"), Some(point(at_ms, cpu))).await.expect("stored");
    }
    let id = NodeId::parse("n-1").expect("valid");
    let points = store.node_points(&id, 0, 100, 2).await.expect("read");
    let shape: Vec<_> = points.iter().map(|p| (p.at_ms, p.cpu_percent, p.temperature_celsius)).collect();
    assert_eq!(shape, vec![(10, 15.0, Some(20.0)), (60, 40.0, Some(50.0))]);
    assert_eq!((points[0].swap_percent, points[0].disk_percent), (None, Some(2.0)));
    let other = caelum_model::node::Node { node_id: NodeId::parse("n-0").expect("valid"), ..node("other") };
    store.put_node(other.clone(), Some(point(20, 5.0))).await.expect("stored");
    let loads = store.node_loads(10, 100, 40).await.expect("read");
    assert_eq!(
        loads,
        [(other.node_id.clone(), 10, 5.0), (id.clone(), 10, 20.0), (id.clone(), 50, 40.0)],
        "by node, then by time"
    );
    assert!(store.remove_node(&other.node_id).await.expect("removed"));
    assert_eq!(store.drop_node_points(60).await.expect("dropped"), 3);
    assert_eq!(store.node_points(&id, 0, 1_000, 10).await.expect("read").len(), 2);
}

async fn a_node_is_found_by_id_or_name_and_goes_with_its_history(records: Records) {
    let store = &records.store;
    store.put_node(node("box"), Some(point(1, 1.0))).await.expect("stored");
    store.put_node(node("new name"), None).await.expect("stored");
    assert_eq!(store.nodes().await.expect("read"), vec![node("new name")]);
    assert_eq!(store.node("box").await.expect("read"), None);
    for wanted in ["n-1", "new name"] {
        assert_eq!(store.node(wanted).await.expect("read"), Some(node("new name")));
    }
    let id = NodeId::parse("n-1").expect("valid");
    assert!(store.remove_node(&id).await.expect("asked"));
    assert!(!store.remove_node(&id).await.expect("asked"));
    assert!(store.node_points(&id, 0, 1_000, 10).await.expect("read").is_empty());
}

async fn a_fact_is_replaced_and_outlives_the_handle(records: Records) {
    assert_eq!(records.store.fact("node_id").await.expect("read"), None);
    for value in ["a", "b"] {
        records.store.put_fact("node_id", value.into()).await.expect("stored");
    }
    let records = records.reopened().await;
    assert_eq!(records.store.fact("node_id").await.expect("read").as_deref(), Some("b"));
    assert_eq!(records.store.thresholds().await.expect("read"), None);
}

async fn a_store_says_who_answers_and_how_large_it_is(records: Records) {
    let health = records.store.health().await.expect("looked");
    assert!(health.is_primary && !health.is_too_old && health.schema > 0, "{health:?}");
    let status = records.store.status().await.expect("measured");
    assert!(status.bytes > 0 && status.tables.iter().any(|table| table.name == "dead_letters"), "{status:?}");
    assert_eq!(status.known_schema, health.schema);
}

async fn a_closed_store_refuses_instead_of_hanging(records: Records) {
    records.store.close();
    assert!(matches!(records.store.sweep_keys(1).await, Err(StoreError::Closed { .. })));
}

promised!(
    a_failed_write_leaves_its_neighbours_standing,
    targets_of_an_origin_are_replaced_and_others_keep_their_urls,
    an_expired_key_is_gone_before_it_is_swept,
    a_fact_is_claimed_once_and_replaced_only_as_it_was_seen,
    facts_and_settings_are_sealed_anew_together_or_not_at_all,
    settings_are_stored_only_under_the_fact_that_was_seen,
    keys_are_counted_and_removed_by_prefix_and_value,
    a_user_is_replaced_by_name_and_the_audit_log_reads_newest_first,
    a_token_is_found_by_its_hash_and_revoked_once,
    a_nodes_history_is_thinned_by_equal_stretches_of_time,
    a_node_is_found_by_id_or_name_and_goes_with_its_history,
    a_fact_is_replaced_and_outlives_the_handle,
    a_store_says_who_answers_and_how_large_it_is,
    a_closed_store_refuses_instead_of_hanging,
);
