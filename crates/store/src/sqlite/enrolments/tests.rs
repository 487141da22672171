//! Who is admitted, on a real file.

use std::sync::Arc;

use super::*;

const NOW_MS: UnixMs = 1_000;

fn open() -> (tempfile::TempDir, Sqlite) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Sqlite::open(&directory.path().join("caelum.db")).expect("opens");
    (directory, store)
}

fn join_token(uses: u32) -> JoinToken {
    JoinToken {
        token_id: "t1".into(),
        secret_sha256: [7; 32],
        role: NodeRole::Agent,
        uses_left: uses,
        uses,
        created_at_ms: 1,
        expires_at_ms: 2_000,
        revoked_at_ms: None,
    }
}

fn enrolment(node_id: &str, key: &str) -> Enrolment {
    Enrolment {
        node_id: NodeId::parse(node_id).expect("valid"),
        key_sha256: key.into(),
        role: NodeRole::Agent,
        admitted_by: "token:t1".into(),
        admitted_at_ms: NOW_MS,
        revoked_at_ms: None,
        ceiling: Ceiling::Tasks,
        hostname: "box".into(),
    }
}

async fn admit(store: &Sqlite, node_id: &str, key: &str) -> AdmitOutcome {
    store.admit(enrolment(node_id, key), Some("t1".into()), NOW_MS).await.expect("written")
}

#[tokio::test]
async fn of_many_that_join_at_once_no_more_are_admitted_than_the_token_has_uses() {
    let (directory, store) = open();
    // Another process on the same file, as `caelum token` is.
    let second = Sqlite::open(&directory.path().join("caelum.db")).expect("opens");
    store.add_join_token(join_token(3)).await.expect("stored");
    let (first, second) = (Arc::new(store), Arc::new(second));
    let mut joins = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = Arc::clone(if n % 2 == 0 { &first } else { &second });
        joins.spawn(async move { admit(&store, &format!("n-{n}"), &format!("key-{n}")).await });
    }
    let outcomes = joins.join_all().await;
    let admitted = outcomes.iter().filter(|outcome| **outcome == AdmitOutcome::Admitted).count();
    assert_eq!(admitted, 3, "{outcomes:?}");
    assert!(outcomes.iter().all(|o| matches!(o, AdmitOutcome::Admitted | AdmitOutcome::TokenUsedUp)));
    assert_eq!(first.enrolments().await.expect("read").len(), 3);
    assert_eq!(second.join_token("t1".into()).await.expect("read").expect("there").uses_left, 0);
}

#[tokio::test]
async fn a_token_that_is_unknown_expired_or_revoked_admits_nobody_and_loses_no_use() {
    let (_directory, store) = open();
    assert_eq!(admit(&store, "n-1", "key-1").await, AdmitOutcome::TokenUnknown);
    store.add_join_token(join_token(5)).await.expect("stored");
    let late = store.admit(enrolment("n-1", "key-1"), Some("t1".into()), 2_000).await.expect("written");
    assert_eq!(late, AdmitOutcome::TokenExpired);
    assert!(store.revoke_join_token("t1".into(), 50).await.expect("written"));
    assert!(store.revoke_join_token("t1".into(), 60).await.expect("written"));
    assert!(!store.revoke_join_token("t2".into(), 60).await.expect("written"));
    assert_eq!(admit(&store, "n-1", "key-1").await, AdmitOutcome::TokenRevoked);
    assert!(store.enrolments().await.expect("read").is_empty());
    let tokens = store.join_tokens(10).await.expect("read");
    assert_eq!((tokens.len(), tokens[0].uses_left, tokens[0].revoked_at_ms), (1, 5, Some(50)));
}

#[tokio::test]
async fn nobody_takes_another_nodes_id_or_key_and_the_same_node_may_come_again() {
    let (directory, store) = open();
    store.add_join_token(join_token(9)).await.expect("stored");
    assert_eq!(admit(&store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    assert_eq!(admit(&store, "n-1", "key-2").await, AdmitOutcome::NodeIdTaken);
    assert_eq!(admit(&store, "n-2", "key-1").await, AdmitOutcome::NodeIdTaken);
    assert_eq!(admit(&store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    store.close();
    let store = Sqlite::open(&directory.path().join("caelum.db")).expect("opens again");
    assert_eq!(store.enrolments().await.expect("read"), vec![enrolment("n-1", "key-1")]);
    let found = store.enrolment_by_key("key-1".into()).await.expect("read");
    assert_eq!(found, Some(enrolment("n-1", "key-1")));
}

#[tokio::test]
async fn a_revoked_node_stays_out_under_its_id_and_under_its_key() {
    let (_directory, store) = open();
    store.add_join_token(join_token(9)).await.expect("stored");
    assert_eq!(admit(&store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    let id = NodeId::parse("n-1").expect("valid");
    assert!(store.revoke_node(&id, 77).await.expect("written"));
    assert!(!store.revoke_node(&NodeId::parse("n-9").expect("valid"), 77).await.expect("written"));
    for (node_id, key) in [("n-1", "key-1"), ("n-1", "key-2"), ("n-2", "key-1")] {
        assert_eq!(admit(&store, node_id, key).await, AdmitOutcome::NodeRevoked, "{node_id} {key}");
    }
    let uses_left = store.join_token("t1".into()).await.expect("read").expect("there").uses_left;
    assert_eq!(uses_left, 8);
    assert_eq!(store.enrolments().await.expect("read")[0].revoked_at_ms, Some(77));
}

#[tokio::test]
async fn a_token_of_the_same_id_is_not_stored_twice() {
    let (_directory, store) = open();
    store.add_join_token(join_token(1)).await.expect("stored");
    let again = store.add_join_token(join_token(1)).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
}
