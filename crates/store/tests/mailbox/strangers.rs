//! Accounts for machines can do what joining takes and nothing else; and who writes what does not belong there is
//! tidied away.

use std::os::unix::fs::symlink;

use caelum_engine::mailbox::REQUEST_BYTES_MAX;
use caelum_store::{Address, Store};
use caelum_testkit::postgres::PostgresServer;

use crate::{Place, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_for_machines_in_redis_reads_no_request_and_writes_no_answer() {
    let place = Place::redis().await;
    place.one.hang_out("signA").await.expect("hung out");
    let redis = place.redis.as_ref().expect("is there");
    let as_machine = |words: &[&str]| {
        let login = ["--user", "caelum-join", "--pass", "j0in"];
        redis.ask(&[&login, words].concat()).unwrap_or_else(|refusal| refusal.to_string())
    };
    for words in [
        &["get", "{caelum:c-1}:join:q:01"][..],
        &["set", "{caelum:c-1}:join:a:r1", "x"],
        &["set", "{caelum:c-1}:join:sign", "x"],
        &["set", "{caelum:c-1}:join:q:001", "x"],
        &["get", "{caelum:c-1}:k:server/a"],
        &["keys", "*"],
        &["del", "{caelum:c-1}:join:q:01"],
    ] {
        let said = as_machine(words);
        assert!(said.contains("NOPERM") || said.contains("permission"), "{words:?}: {said}");
    }
    // What is too large goes unread, and what is no text at all does not hold up the rest.
    let large = "x".repeat(REQUEST_BYTES_MAX + 1);
    assert_eq!(as_machine(&["set", "{caelum:c-1}:join:q:01", &large]), "OK");
    assert!(place.machine.post(2, "fine").await.expect("left"));
    assert_eq!(place.one.take(0, 8).await.expect("taken"), ["fine"]);
    assert!(place.machine.post(1, "free again").await.expect("left"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_for_machines_in_postgresql_sees_no_table() {
    let place = Place::postgres().await;
    place.one.hang_out("signA").await.expect("hung out");
    assert!(place.machine.post(1, "a request").await.expect("left"));
    let (database, machine) = place.database.clone().expect("is there");
    // What servers do needs more than it may.
    for refused in [place.machine.take(0, 8).await.is_err(), place.machine.reply("r1", "x").await.is_err()] {
        assert!(refused);
    }
    assert!(open(&machine).await.hang_out("signB").await.is_err());
    let address: Address = machine.parse().expect("an address");
    assert!(Store::reach(&address).await.expect("lets it in").enrolments().await.is_err());
    let role = machine.split("//").nth(1).and_then(|rest| rest.split(':').next()).expect("a user").to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let server = PostgresServer::shared();
        let ask = |sql: &str| server.psql(&database, &format!("set role {role}; {sql}"));
        let large = ask("select caelum_mailbox_post(2, repeat('x', 16385))").expect("answers");
        assert!(large.ends_with('f'), "{large}");
        for slot in ["-1", "100", "null"] {
            let beside = ask(&format!("select caelum_mailbox_post({slot}, 'x')")).expect("answers");
            assert!(beside.ends_with('f'), "{slot}: {beside}");
        }
        let others = ask("select caelum_mailbox_read('q/01') is null").expect("answers");
        assert!(others.ends_with('t'), "{others}");
        assert!(ask("select * from mailbox").is_err() && ask("select * from meta").is_err());
        assert!(ask("create table t (x int)").is_err());
    });
    asked.await.expect("no panic");
    assert_eq!(place.one.take(0, 8).await.expect("taken"), ["a request"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plain_file_in_the_directory_is_removed_unread() {
    let place = Place::folder().await;
    place.one.hang_out("signA").await.expect("hung out");
    let root = place.folder.as_ref().expect("is there").path().join("c-1-join");
    let (requests, secret) = (root.join("requests"), root.join("secret"));
    std::fs::write(&secret, "not yours").expect("written");
    symlink(&secret, requests.join("03")).expect("linked");
    std::fs::create_dir(requests.join("04")).expect("made");
    std::fs::write(requests.join("05"), "x".repeat(REQUEST_BYTES_MAX + 1)).expect("written");
    std::fs::write(requests.join("06"), b"\xff\xfe").expect("written");
    std::fs::write(requests.join("README.txt"), "hello").expect("left");
    assert!(place.machine.post(9, "fine").await.expect("left"));
    assert_eq!(place.one.take(0, 8).await.expect("taken"), ["fine"]);
    assert_eq!(std::fs::read_to_string(&secret).expect("stays"), "not yours");
    for slot in 3..7 {
        assert!(place.machine.post(slot, "free again").await.expect("left"), "{slot}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_makes_no_directory_where_no_server_did() {
    let place = Place::folder().await;
    assert_eq!(place.machine.sign().await.expect("asked"), None);
    let refusal = place.machine.post(1, "x").await.expect_err("no server was there");
    assert!(refusal.is_transient, "{refusal}");
    assert!(!place.folder.as_ref().expect("is there").path().join("c-1-join").exists());
}
