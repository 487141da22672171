//! Promises about who is admitted.

use std::sync::Arc;

use caelum_model::{
    UnixMs,
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Enrolment, JoinToken},
};
use caelum_store::{AdmitOutcome, Store, StoreError};

use crate::{Records, promised};

const NOW_MS: UnixMs = 1_000;

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

async fn admit(store: &Store, node_id: &str, key: &str) -> AdmitOutcome {
    store.admit(enrolment(node_id, key), Some("t1".into()), NOW_MS).await.expect("written")
}

async fn of_many_that_join_at_once_no_more_are_admitted_than_the_token_has_uses(records: Records) {
    // Another process on the same records, as `caelum token` is.
    let (first, second) = (Arc::clone(&records.store), records.another().await);
    first.add_join_token(join_token(3)).await.expect("stored");
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

async fn a_token_that_is_unknown_expired_or_revoked_admits_nobody_and_loses_no_use(records: Records) {
    let store = &records.store;
    assert_eq!(admit(store, "n-1", "key-1").await, AdmitOutcome::TokenUnknown);
    store.add_join_token(join_token(5)).await.expect("stored");
    let late = store.admit(enrolment("n-1", "key-1"), Some("t1".into()), 2_000).await.expect("written");
    assert_eq!(late, AdmitOutcome::TokenExpired);
    assert!(store.revoke_join_token("t1".into(), 50).await.expect("written"));
    assert!(store.revoke_join_token("t1".into(), 60).await.expect("written"));
    assert!(!store.revoke_join_token("t2".into(), 60).await.expect("written"));
    assert_eq!(admit(store, "n-1", "key-1").await, AdmitOutcome::TokenRevoked);
    assert!(store.enrolments().await.expect("read").is_empty());
    let tokens = store.join_tokens(10).await.expect("read");
    assert_eq!((tokens.len(), tokens[0].uses_left, tokens[0].revoked_at_ms), (1, 5, Some(50)));
}

async fn nobody_takes_another_nodes_id_or_key_and_the_same_node_may_come_again(records: Records) {
    let store = &records.store;
    store.add_join_token(join_token(9)).await.expect("stored");
    assert_eq!(admit(store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    assert_eq!(admit(store, "n-1", "key-2").await, AdmitOutcome::NodeIdTaken);
    assert_eq!(admit(store, "n-2", "key-1").await, AdmitOutcome::NodeIdTaken);
    assert_eq!(admit(store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    let records = records.reopened().await;
    let store = &records.store;
    assert_eq!(store.enrolments().await.expect("read"), vec![enrolment("n-1", "key-1")]);
    let found = store.enrolment_by_key("key-1".into()).await.expect("read");
    assert_eq!(found, Some(enrolment("n-1", "key-1")));
}

async fn a_revoked_node_stays_out_under_its_id_and_under_its_key(records: Records) {
    let store = &records.store;
    store.add_join_token(join_token(9)).await.expect("stored");
    assert_eq!(admit(store, "n-1", "key-1").await, AdmitOutcome::Admitted);
    let id = NodeId::parse("n-1").expect("valid");
    assert!(store.revoke_node(&id, 77).await.expect("written"));
    assert!(!store.revoke_node(&NodeId::parse("n-9").expect("valid"), 77).await.expect("written"));
    for (node_id, key) in [("n-1", "key-1"), ("n-1", "key-2"), ("n-2", "key-1")] {
        assert_eq!(admit(store, node_id, key).await, AdmitOutcome::NodeRevoked, "{node_id} {key}");
    }
    let uses_left = store.join_token("t1".into()).await.expect("read").expect("there").uses_left;
    assert_eq!(uses_left, 8);
    assert_eq!(store.enrolments().await.expect("read")[0].revoked_at_ms, Some(77));
}

async fn a_token_of_the_same_id_is_not_stored_twice(records: Records) {
    let store = &records.store;
    store.add_join_token(join_token(1)).await.expect("stored");
    let again = store.add_join_token(join_token(1)).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
}

promised!(
    of_many_that_join_at_once_no_more_are_admitted_than_the_token_has_uses,
    a_token_that_is_unknown_expired_or_revoked_admits_nobody_and_loses_no_use,
    nobody_takes_another_nodes_id_or_key_and_the_same_node_may_come_again,
    a_revoked_node_stays_out_under_its_id_and_under_its_key,
    a_token_of_the_same_id_is_not_stored_twice,
);
