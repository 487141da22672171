//! The master key is replaced while servers run, are killed, and revoke; afterwards the old one opens nothing.
//!
//! `CAELUM_ROTATION_KILLS` makes it kill more often than usual.

use std::{fs, process::Output, time::Duration};

use caelum_testkit::{
    api::Api,
    fleet::{Fleet, PATIENCE, invite},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fleet;

/// How often a server is killed while it replaces the key, unless asked for more.
const KILLS: u32 = 12;
/// When after the question the first kill comes, and by how much each of the next ones is later, until it begins
/// anew: the question arrives after some milliseconds, and its answer takes a few more.
const EARLIEST: Duration = Duration::from_millis(8);
const LATER: Duration = Duration::from_millis(3);
const STEPS: u32 = 12;

fn key_of(fleet: &Fleet, nth: usize) -> String {
    fs::read_to_string(fleet.servers[nth].data().join("secrets/master.key")).expect("is there")
}

/// Runs `caelum fleet …` beside a server, as its administrator.
fn asked(fleet: &Fleet, nth: usize, arguments: &[&str]) -> Output {
    let server = &fleet.servers[nth];
    let (data, token) = (server.data(), server.token("admin").expect("made"));
    let rest = ["--data", data.to_str().expect("plain names"), "--token", &token];
    server.run(&[&["fleet"], arguments, &rest].concat()).expect("runs")
}

fn text_of(output: &Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{error}")
}

async fn set_webhook(api: &Api, secret: &str) {
    let url = format!("https://{secret}.example.net/t0ken");
    let channel =
        json!({ "name": "hook", "least": "warning", "kind": "webhook", "url": url, "form": "slack" });
    let settings = json!({ "channels": [channel], "quiet_hours": [] });
    let put = api.request(Method::PUT, "/api/settings/notices").json(&settings).send().await.expect("asked");
    let (status, text) = (put.status(), put.text().await.expect("read"));
    assert!(status.is_success(), "{status} {text}");
}

/// What a server makes of the only channel: where it leads, if it opens.
async fn webhook(api: &Api) -> String {
    let settings = api.json("/api/settings/notices").await.expect("asked");
    settings["channels"][0]["url"].as_str().expect("an address").to_owned()
}

/// An agent's id that this server admitted, without a link.
fn admit(fleet: &Fleet, nth: usize, name: &str) -> String {
    let server = &fleet.servers[nth];
    let token = invite(server, "agent").expect("made");
    let folder = server.folder().join(name);
    let joined =
        server.run(&["join", &token, "--data", folder.to_str().expect("plain names")]).expect("runs");
    assert!(joined.status.success(), "{}", text_of(&joined));
    fs::read_to_string(folder.join("secrets/node.id")).expect("is there")
}

async fn revoke(api: &Api, id: &str) -> Value {
    let answer = api.request(Method::DELETE, &format!("/api/nodes/{id}")).send().await.expect("asked");
    let (status, body) = (answer.status(), answer.text().await.expect("read"));
    assert!(status.is_success(), "{status} {body}");
    serde_json::from_str(&body).unwrap_or(Value::Null)
}

async fn waits_for_nobody(api: &Api) {
    wait::until_answered("every server has the new key", PATIENCE, async || {
        let key = api.json("/api/fleet/master-key").await.ok()?;
        key["servers"].as_array()?.iter().all(|server| server["waits"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_admit_and_revoke_through_a_rotation_and_the_old_key_opens_nothing_after_it() {
    let mut fleet = fleet(2, &[]).await;
    let (first, second) = (fleet.admin(0).expect("a client"), fleet.admin(1).expect("a client"));
    set_webhook(&first, "before").await;
    let old = key_of(&fleet, 0);
    let (early, late) = (admit(&fleet, 0, "early"), admit(&fleet, 1, "late"));
    // What a server has that is away during all of it.
    let away = fleet.servers[1].folder().join("away");
    fs::create_dir_all(away.join("secrets")).expect("made");
    for file in fs::read_dir(fleet.servers[1].data().join("secrets")).expect("lists") {
        let file = file.expect("lists");
        fs::copy(file.path(), away.join("secrets").join(file.file_name())).expect("copied");
    }

    // Both revoke while the key is replaced; neither revocation is lost.
    let rotated = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let rotation = scope.spawn(|| asked(&fleet, 0, &["rotate-key", "--json"]));
            tokio::runtime::Handle::current().block_on(async {
                tokio::join!(revoke(&first, &early), revoke(&second, &late));
            });
            rotation.join().expect("no panic")
        })
    });
    assert!(rotated.status.success(), "{}", text_of(&rotated));
    let answer: Value = serde_json::from_slice(&rotated.stdout).expect("JSON");
    assert_eq!(answer["generation"], 2);
    let new = key_of(&fleet, 0);
    assert_ne!(new, old);
    assert!(!text_of(&rotated).contains(new.trim()), "no key is shown");
    wait::until("the second server has written the new key down by itself", PATIENCE, || {
        (key_of(&fleet, 1) == new).then_some(())
    });
    assert_eq!(webhook(&second).await, webhook(&first).await);
    assert!(webhook(&second).await.starts_with("https://before.example.net"), "{}", webhook(&second).await);
    set_webhook(&second, "after").await;
    assert!(webhook(&first).await.starts_with("https://after.example.net"));
    for id in [&early, &late] {
        let revoked = fleet.records.psql(
            "postgres",
            &format!("select count(*) from enrolments where node_id = '{id}' and revoked_at_ms is not null"),
        );
        assert_eq!(revoked.expect("asked"), "1");
    }
    admit(&fleet, 1, "during");
    let again = asked(&fleet, 1, &["rotate-key"]);
    assert!(text_of(&again).contains("is under way") && !again.status.success(), "{}", text_of(&again));

    waits_for_nobody(&first).await;
    let shown = asked(&fleet, 1, &["key"]);
    assert!(
        text_of(&shown).contains("number 2") && text_of(&shown).contains("still good"),
        "{}",
        text_of(&shown)
    );
    let finished = asked(&fleet, 1, &["rotate-key", "--finish"]);
    assert!(finished.status.success(), "{}", text_of(&finished));
    assert!(text_of(&asked(&fleet, 0, &["key"])).contains("no other opens anything"));

    // The old key is refused with what to do; so is it by the doctor.
    let refused = fleet.plan().with_data(&away).start().expect_err("its key opens nothing");
    let text = format!("{refused:#}");
    assert!(text.contains("was replaced on") && text.contains("Copy secrets/master.key"), "{text}");
    let doctor = fleet.servers[0].run(&["doctor", "--data", away.to_str().expect("plain names")]);
    let text = text_of(&doctor.expect("runs"));
    assert!(text.contains("has a key that was replaced"), "{text}");

    // Whoever joins or starts now has the new one.
    fleet.add().expect("joins");
    assert_eq!(key_of(&fleet, 2), new);
    fleet.servers[1].kill();
    fleet.servers[1].start().expect("starts with the key that it wrote down");
    admit(&fleet, 1, "afterwards");
    let log = fleet
        .records
        .psql("postgres", "select string_agg(action, ' ' order by id) from audit")
        .expect("asked");
    assert!(log.contains("master_key.rotate") && log.contains("master_key.finish"), "{log}");
    let sealed = fleet.records.psql("postgres", "select string_agg(value, '') from meta").expect("asked");
    assert!(!sealed.contains(new.trim()) && !sealed.contains(old.trim()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_while_it_replaces_the_key_starts_again_and_so_does_every_other() {
    let mut fleet = fleet(2, &[]).await;
    let second = fleet.admin(1).expect("a client");
    set_webhook(&second, "kept").await;
    let kills =
        std::env::var("CAELUM_ROTATION_KILLS").ok().and_then(|many| many.parse().ok()).unwrap_or(KILLS);
    let mut rotations = 0;
    for kill in 0..kills {
        let first = fleet.admin(0).expect("a client");
        let before = key_of(&fleet, 0);
        let mut asking = tokio::spawn(async move {
            drop(first.request(Method::POST, "/api/fleet/master-key/rotate").json(&json!({})).send().await);
        });
        // Whether it has answered by then or not: that is where it is killed.
        drop(tokio::time::timeout(EARLIEST + LATER * (kill % STEPS), &mut asking).await);
        fleet.servers[0].kill();
        asking.abort();
        fleet.servers[0].start().expect("the key that it has opens, or hands over to the one that does");
        let first = fleet.admin(0).expect("a client");
        for api in [&first, &second] {
            assert!(webhook(api).await.starts_with("https://kept.example.net"), "{}", webhook(api).await);
        }
        let state = first.json("/api/fleet/master-key").await.expect("asked");
        let is_replaced = state["handing_over"] == true;
        assert_eq!(
            key_of(&fleet, 0) != before,
            is_replaced,
            "either the old one or the new one, after kill {kill}"
        );
        if is_replaced {
            rotations += 1;
            waits_for_nobody(&second).await;
            let finished =
                second.request(Method::POST, "/api/fleet/master-key/finish").json(&json!({})).send().await;
            let finished = finished.expect("asked");
            let (status, text) = (finished.status(), finished.text().await.expect("read"));
            assert!(status.is_success(), "{status} {text}");
            assert_eq!(key_of(&fleet, 0), key_of(&fleet, 1));
        }
        admit(&fleet, 0, &format!("agent-{kill}"));
    }
    println!("killed {kills} times while the key was replaced: {rotations} times the new key held");
}
