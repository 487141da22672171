//! Reads from a replica: never older than what this process did, and not at all when it falls behind.

use std::time::Duration;

use caelum_model::{access::AuditEntry, id::PartitionId};
use caelum_store::Place;
use caelum_testkit::{postgres::Plan, wait};

use crate::connect;

const PATIENCE: Duration = Duration::from_secs(60);

fn line(at_ms: i64) -> AuditEntry {
    AuditEntry { at_ms, actor: "a".into(), action: "b".into(), subject: "c".into(), outcome: "done".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_answers_what_may_be_old_and_never_lacks_what_this_process_wrote() {
    let mut primary = Plan::new().with("wal_level=replica").start().expect("starts");
    let mut replica = primary.replica("second", Plan::new()).expect("follows");
    let store = connect(&format!("{}?replica={}", primary.url("postgres"), replica.place())).await;
    for at_ms in 1..=30 {
        store.audit(line(at_ms)).await.expect("written");
        let newest = store.audit_log(i64::MAX, 1).await.expect("read");
        assert_eq!(newest[0].at_ms, at_ms, "whoever wrote a line reads it");
    }
    wait::until_answered("the replica answers", PATIENCE, async || {
        store.audit_log(i64::MAX, 1).await.ok().filter(|_| store.reads().place == Place::Replica)
    })
    .await;
    let health = store.health().await.expect("looked");
    assert!(health.replicas[0].is_used, "{health:?}");

    // One that stands still does not answer for what it has not heard.
    replica.psql("postgres", "select pg_wal_replay_pause()").expect("paused");
    store.audit(line(31)).await.expect("written");
    assert_eq!(store.audit_log(i64::MAX, 1).await.expect("read")[0].at_ms, 31);
    assert_eq!(store.reads().place, Place::Primary);
    replica.psql("postgres", "select pg_wal_replay_resume()").expect("resumed");

    // One that is gone is not missed.
    replica.kill();
    assert_eq!(store.audit_log(i64::MAX, 1).await.expect("read")[0].at_ms, 31);
    replica.start().expect("starts again");
    wait::until_answered("the replica answers again", PATIENCE, async || {
        store.audit_log(i64::MAX, 1).await.ok().filter(|_| store.reads().place == Place::Replica)
    })
    .await;

    // Without the primary, the replica shows what there is; what decides does not happen.
    primary.kill();
    let log =
        wait::until_answered("pages are shown", PATIENCE, async || store.audit_log(i64::MAX, 1).await.ok());
    assert_eq!(log.await[0].at_ms, 31);
    assert_eq!(store.reads().place, Place::Replica);
    let refused = store.take_partition(PartitionId(1), "a".into(), 0).await.expect_err("nobody takes writes");
    assert!(refused.is_transient(), "{refused:?}");
}
