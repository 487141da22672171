//! Backends that go away, stand still, forget everything, or are not what they should be.

use std::time::{Duration, Instant};

use caelum_testkit::{redis::RedisServer, wait};

use crate::{PATIENCE, open};

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_is_used_again_and_gives_out_larger_numbers() {
    let mut server = RedisServer::start().expect("starts");
    let coordination = open(&server.url());
    let before = coordination.put("lead", "x", LONG).await.expect("stored");
    server.kill();
    let begun = Instant::now();
    let refusal = coordination.put("lead", "x", LONG).await.expect_err("it is gone");
    assert!(refusal.is_transient, "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.restart().expect("starts again");
    let after = wait::until_answered("it is used again", PATIENCE, async || {
        coordination.compare_and_put("lead", None, "y", LONG).await.ok()
    })
    .await;
    assert!(after.is_some_and(|after| after > before), "{after:?} after {before}: it forgot everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_holds_nobody_and_is_used_when_it_goes_on() {
    let mut server = RedisServer::start().expect("starts");
    let coordination = open(&server.url());
    coordination.put("server/a", "x", LONG).await.expect("stored");
    server.process().freeze();
    let begun = Instant::now();
    let refusal = coordination.get("server/a").await.expect_err("it stands still");
    assert!(refusal.is_transient, "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.process().thaw();
    wait::until_answered("it is used again", PATIENCE, async || {
        coordination.get("server/a").await.ok().flatten()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_and_never_shown() {
    let server = RedisServer::start_for("caelum", "s3cret", "~* +@all").expect("starts");
    let wrong = server.url().replace("s3cret", "0ther");
    let refusal = open(&wrong).get("server/a").await.expect_err("refused").to_string();
    assert!(!refusal.contains("0ther") && !refusal.contains("s3cret"), "{refusal}");
    assert!(refusal.contains("redis://caelum@127.0.0.1"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_mounted_is_not_made() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let missing = folder.path().join("mount");
    let coordination = open(&format!("file:{}", missing.display()));
    let refusal = coordination.put("server/a", "x", LONG).await.expect_err("there is none");
    assert!(refusal.is_transient && refusal.to_string().contains("mount"), "{refusal}");
    assert!(!missing.exists());
    std::fs::create_dir(&missing).expect("mounted by now");
    coordination.put("server/a", "x", LONG).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_program_left_in_the_directory_harms_nobody() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let coordination = open(&format!("file:{}", folder.path().display()));
    coordination.put("server/a", "x", LONG).await.expect("stored");
    let keys = folder.path().join("c-1/keys");
    std::fs::write(keys.join("server_2fa"), b"\xff{").expect("damaged");
    std::fs::write(keys.join("README.txt"), b"hello").expect("left");
    assert!(coordination.list("", 10).await.expect("listed").is_empty());
    coordination.put("server/a", "y", LONG).await.expect("replaced");
    assert_eq!(coordination.list("", 10).await.expect("listed").len(), 1);
}
