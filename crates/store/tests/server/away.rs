//! A server that is away, refuses, or holds something damaged.

use std::time::{Duration, Instant};

use caelum_model::{id::TargetId, target::TargetOrigin};
use caelum_store::{Address, OpenError, Store, StoreError};
use caelum_testkit::{
    postgres::{Plan, PostgresServer},
    wait,
};

use crate::{connect, target};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_outlives_its_servers_absence_and_loses_nothing_it_confirmed() {
    let mut server = Plan::new().durable().start().expect("starts");
    let store = connect(&server.url("postgres")).await;
    store.add_target(target(1)).await.expect("stored");
    server.kill();
    for _ in 0..3 {
        let asked = Instant::now();
        let error = store.add_target(target(2)).await.expect_err("the server is gone");
        assert!(error.is_transient(), "{error:?}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    }
    assert!(store.health().await.is_err());
    server.start().expect("starts again");
    let targets =
        wait::until_answered("the store answers again", PATIENCE, async || store.targets().await.ok());
    assert_eq!(targets.await, vec![target(1)]);
    store.add_target(target(2)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_of_a_write_is_not_used_again() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = connect(&server.url(&name)).await;
    store.add_target(target(1)).await.expect("stored");
    // Somebody holds the table, so that the write is under way when it is cut.
    let held = tokio::task::spawn_blocking({
        let name = name.clone();
        move || {
            let sql = "begin; lock table targets; select pg_sleep(1.5); commit";
            PostgresServer::shared().psql(&name, sql).expect("held")
        }
    });
    let is_held = "select count(*) from pg_locks where relation = 'targets'::regclass and granted and \
         mode = 'AccessExclusiveLock'";
    wait::until("the table is held", PATIENCE, || {
        server.psql(&name, is_held).is_ok_and(|count| count == "1").then_some(())
    });
    let cut = tokio::task::spawn_blocking({
        let name = name.clone();
        move || {
            let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where \
                 application_name = 'caelum' and wait_event_type = 'Lock' and datname = current_database()";
            wait::until("a write waits", PATIENCE, || {
                PostgresServer::shared().psql(&name, sql).is_ok_and(|cut| cut != "0").then_some(())
            });
        }
    });
    let error = store.replace_targets(vec![], vec![target(2)]).await.expect_err("it was cut");
    assert!(error.is_transient(), "{error:?}");
    cut.await.expect("no panic");
    held.await.expect("no panic");
    for _ in 0..20 {
        assert_eq!(store.targets().await.expect("read"), vec![target(1)]);
    }
    store.replace_targets(vec![], vec![target(2)]).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_too_long_for_a_lock_or_may_not_write_is_worth_another_try() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = connect(&format!("{}?options=-c%20lock_timeout%3D50ms", server.url(&name))).await;
    let held = tokio::task::spawn_blocking({
        let name = name.clone();
        move || {
            let sql = "begin; lock table targets; select pg_sleep(1); commit";
            PostgresServer::shared().psql(&name, sql).expect("held")
        }
    });
    let error = wait::until_answered("the lock is met", PATIENCE, async || {
        let answer = store.remove_target(&TargetId::parse("x").expect("valid")).await;
        answer.err()
    });
    assert!(error.await.is_transient());
    held.await.expect("no panic");
    server
        .psql("postgres", &format!("alter database {name} set default_transaction_read_only = on"))
        .expect("set");
    let cut =
        format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{name}'");
    server.psql("postgres", &cut).expect("cut");
    let error = store.add_target(target(3)).await.expect_err("a demoted primary takes nothing");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_document_is_named_and_harms_no_other() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = connect(&server.url(&name)).await;
    for number in 1..=2 {
        store.add_target(target(number)).await.expect("stored");
    }
    server.psql(&name, "update targets set document = '{' where target_id = 't-1'").expect("damaged");
    assert!(matches!(store.targets().await, Err(StoreError::Document { .. })));
    let good = TargetId::parse("t-2").expect("valid");
    assert_eq!(store.target(&good).await.expect("read"), Some(target(2)));
    let complaints = store.check().await.expect("checked");
    assert!(complaints.iter().any(|text| text.contains("t-1 in targets is damaged")), "{complaints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_settings_that_lose_data_and_parts_that_nobody_sees() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = connect(&server.url(&name)).await;
    server.psql(&name, "create table rollups_60s_20200101 (like rollups)").expect("made");
    let complaints = store.check().await.expect("checked").join("\n");
    for expected in ["fsync is off", "synchronous_commit is off", "rollups_60s_20200101 was a part"] {
        assert!(complaints.contains(expected), "{complaints}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_start_at_once_make_one_schema() {
    let server = PostgresServer::shared();
    for _ in 0..5 {
        let url = server.url(&server.new_database().expect("made"));
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let url = url.clone();
            starts.spawn(async move { connect(&url).await.health().await.expect("looked").schema });
        }
        let schemas = starts.join_all().await;
        assert!(schemas.iter().all(|schema| *schema == schemas[0] && *schema > 0), "{schemas:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_version_is_refused() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let address: Address = server.url(&name).parse().expect("an address");
    Store::connect(&address).await.expect("connects").close();
    server.psql(&name, "insert into schema_steps (version, digest) values (999, '')").expect("set");
    let refusal = Store::connect(&address).await.err();
    assert!(matches!(refusal, Some(OpenError::TooNew { found: 999, .. })), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_are_away_are_passed_over() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let url = format!("postgres://postgres@127.0.0.1:1,127.0.0.1:2,{}/{name}", server.place());
    connect(&url).await.add_target(target(1)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_connections_wait_their_turn() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = std::sync::Arc::new(connect(&format!("{}?pool=2", server.url(&name))).await);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = std::sync::Arc::clone(&store);
        callers.spawn(async move { store.add_target(target(number)).await });
    }
    assert!(callers.join_all().await.iter().all(Result::is_ok));
    assert_eq!(store.targets().await.expect("read").len(), 40);
    let count = format!("select count(*) <= 2 from pg_stat_activity where datname = '{name}'");
    assert_eq!(server.psql("postgres", &count).expect("asked"), "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_in_the_middle_leaves_nothing_behind() {
    let server = PostgresServer::shared();
    let name = server.new_database().expect("made");
    let store = connect(&format!("{}?pool=1", server.url(&name))).await;
    store.add_target(target(1)).await.expect("stored");
    for _ in 0..20 {
        let given_up = store.replace_targets(vec![TargetOrigin::Api], vec![]);
        drop(tokio::time::timeout(Duration::from_micros(300), given_up).await);
        let targets = store.targets().await.expect("the connection in between is gone");
        if targets.is_empty() {
            // It was quick enough to be done.
            store.add_target(target(1)).await.expect("stored");
        } else {
            assert_eq!(targets, vec![target(1)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_is_told_from_one_that_refuses() {
    let server = PostgresServer::shared();
    let away = Store::connect(&"postgres://u@127.0.0.1:1/d".parse().expect("an address")).await.err();
    assert!(matches!(away, Some(OpenError::Away { .. })), "{away:?}");
    let unknown = Store::connect(&server.url("nobody_made_this").parse().expect("an address")).await.err();
    assert!(matches!(unknown, Some(OpenError::Open { .. })), "{unknown:?}");
}
