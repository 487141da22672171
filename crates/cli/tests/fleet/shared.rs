//! What servers share: pages, sessions, settings, the truth about each other; and what becomes of it when what
//! they coordinate by is away.

use std::time::{Duration, Instant};

use caelum_testkit::{
    api::Api,
    fleet::{Fleet, PATIENCE},
    measure,
    redis::RedisServer,
    wait,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fleet;

async fn health(api: &Api) -> Option<(StatusCode, String)> {
    let answer = api.answer("/api/fleet/cluster/health").await.ok()?;
    Some((answer.status(), answer.text().await.ok()?))
}

async fn until_health(api: &Api, wanted: u16) {
    wait::until_answered(&format!("health is answered with {wanted}"), PATIENCE, async || {
        health(api).await.filter(|(status, _)| status.as_u16() == wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_one_to_people_and_programs() {
    let fleet = fleet(2, &[]).await;
    let (a, b) = (fleet.servers[0].api().expect("a client"), fleet.servers[1].api().expect("a client"));
    // A session of one is a session of the other, until it ends on either.
    let signed_in = a.signed_in().await.expect("signs in");
    let there = signed_in.at(&fleet.servers[1].https());
    assert_eq!(there.json("/api/me").await.expect("answers")["name"], "admin");
    // What changes on one is on the other.
    let target = json!({ "url": "tcp://192.0.2.1:80", "name": "somewhere" });
    let added = signed_in.request(Method::POST, "/api/targets").json(&target).send().await.expect("answers");
    assert!(added.status().is_success(), "{}", added.status());
    let listed = there.json("/api/targets").await.expect("answers");
    assert!(listed.to_string().contains("somewhere"), "{listed}");
    let mut thresholds = there.json("/api/nodes/thresholds").await.expect("answers");
    thresholds["cpu"]["warning"] = json!(11.0);
    let put = signed_in.request(Method::PUT, "/api/nodes/thresholds").json(&thresholds).send().await;
    assert!(put.expect("answers").status().is_success());
    wait::until_answered("thresholds that a server keeps in memory follow", PATIENCE, async || {
        (there.json("/api/nodes/thresholds").await.ok()?["cpu"]["warning"] == 11.0).then_some(())
    })
    .await;
    // Each tells the same truth.
    for api in [&signed_in, &there] {
        let status = api.json("/api/fleet/cluster/status").await.expect("answers");
        assert_eq!((&status["enabled"], &status["backend"]), (&json!(true), &json!("postgres")));
        assert_eq!((&status["total_nodes"], &status["active_nodes"]), (&json!(2), &json!(2)), "{status}");
        let check = api.json("/api/fleet/cluster/health-check").await.expect("answers");
        assert_eq!((&check["overall"], &check["failover"]["ready"]), (&json!("healthy"), &json!(true)));
        assert!(check["backend"]["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{check}");
    }
    assert_eq!(health(&a).await.expect("answers").0, 200);
    assert_eq!(b.answer("/api/fleet/cluster/status").await.expect("answers").status(), 401);
    let out = there.request(Method::POST, "/api/logout").send().await.expect("answers");
    assert!(out.status().is_success());
    assert_eq!(signed_in.answer("/api/me").await.expect("answers").status(), 401);
    // The command line says it too.
    let token = fleet.servers[0].token("admin").expect("made");
    let data = fleet.servers[0].data();
    let data = data.to_str().expect("plain names");
    for (words, expected) in [
        (&["fleet", "status"][..], "2 of 2 servers live"),
        (&["fleet", "nodes", "--json"], "\"active\""),
        (&["fleet", "health"], "healthy"),
        (&["fleet", "load-balancer", "nginx"], "upstream caelum"),
    ] {
        let output = fleet.servers[0].run(&[words, &["--data", data, "--token", &token]].concat());
        let output = output.expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(expected), "{text}{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_server_is_never_listed_and_a_killed_one_is_inactive_soon() {
    let mut fleet =
        fleet(2, &[("CAELUM_CLUSTER_HEARTBEAT_INTERVAL_S", "1"), ("CAELUM_CLUSTER_NODE_TIMEOUT_S", "4")])
            .await;
    let forge = |sql: &str| fleet.records.psql("postgres", sql).expect("written");
    // One that nobody signed, a copy under another name, and a copy that is put back later.
    forge(
        "insert into coordination select 'server/n-forged', replace(value, '\"name', '\"nome'), \
         nextval('coordination_versions'), expires_at_ms + 3600000 from coordination where key like 'server/%' limit 1",
    );
    forge(
        "insert into coordination select 'server/n-copied', value, nextval('coordination_versions'), \
         expires_at_ms + 3600000 from coordination where key like 'server/%' and key not like '%forged' limit 1",
    );
    let api = fleet.admin(0).expect("a client");
    wait::until_answered("both forgeries were seen and refused", PATIENCE, async || {
        let check = api.json("/api/fleet/cluster/health-check").await.ok()?;
        (check["sync"]["refused_records"] == 2).then_some(())
    })
    .await;
    let status = api.json("/api/fleet/cluster/status").await.expect("answers");
    assert_eq!(status["total_nodes"], 2, "{status}");

    let killed = std::fs::read_to_string(fleet.servers[1].data().join("secrets/node.id")).expect("is there");
    let kept = fleet
        .records
        .psql("postgres", &format!("select value from coordination where key = 'server/{killed}'"))
        .expect("read");
    fleet.servers[1].kill();
    let inactive = async || {
        let status = api.json("/api/fleet/cluster/status").await.ok()?;
        (status["active_nodes"] == 1 && status["inactive_nodes"] == 1).then_some(())
    };
    wait::until_answered("the killed one is inactive", PATIENCE, inactive).await;
    // Its last record again, as fresh as can be: it proves nothing.
    fleet
        .records
        .psql(
            "postgres",
            &format!(
                "insert into coordination values ('server/{killed}', $${kept}$$, 999999999, 9999999999999) \
                 on conflict (key) do update set value = excluded.value, expires_at_ms = excluded.expires_at_ms"
            ),
        )
        .expect("written");
    let looked = api.json("/api/fleet/cluster/health-check").await.expect("answers");
    let age = |check: &serde_json::Value| check["sync"]["last_look_age_ms"].as_i64();
    wait::until_answered("it was looked at again", PATIENCE, async || {
        let check = api.json("/api/fleet/cluster/health-check").await.ok()?;
        (age(&check) < age(&looked)).then_some(())
    })
    .await;
    assert!(inactive().await.is_some(), "a copy that is put back is no sign of life");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_away_nobody_is_logged_out_and_nothing_written_is_lost() {
    let redis = RedisServer::start_for("caelum", "s3cret", "~* +@all").expect("starts");
    without_redis(redis).await;
}

async fn without_redis(mut redis: RedisServer) {
    let url = redis.url();
    let fleet = fleet(2, &[("CAELUM_CLUSTER_ADDRESS", &url)]).await;
    let api = fleet.servers[0].api().expect("a client").signed_in().await.expect("signs in");
    let status = api.json("/api/fleet/cluster/status").await.expect("answers");
    assert_eq!(status["backend"], "redis");
    assert!(!status.to_string().contains("s3cret"), "{status}");
    redis.process().freeze();
    for server in &fleet.servers {
        until_health(&server.api().expect("a client"), 503).await;
    }
    // Whoever was signed in still is, on each; and writes are taken.
    for (nth, server) in fleet.servers.iter().enumerate() {
        let api = api.at(&server.https());
        assert_eq!(api.json("/api/me").await.expect("answers")["name"], "admin");
        let target = json!({ "url": format!("tcp://192.0.2.{nth}:80"), "name": format!("written {nth}") });
        let added = api.request(Method::POST, "/api/targets").json(&target).send().await.expect("answers");
        assert!(added.status().is_success(), "{}", added.status());
        let check = api.json("/api/fleet/cluster/health-check").await.expect("answers");
        assert_eq!((&check["overall"], &check["backend"]["connected"]), (&json!("unhealthy"), &json!(false)));
    }
    redis.process().thaw();
    all_is_there_again(&fleet, &api).await;
    // Gone, with everything that was in it.
    redis.kill();
    for server in &fleet.servers {
        until_health(&server.api().expect("a client"), 503).await;
    }
    let away = Duration::from_secs(measure::variable("CAELUM_REDIS_AWAY_S", 1));
    let gone = Instant::now();
    let mut asked = 0;
    while gone.elapsed() < away {
        let api = api.at(&fleet.servers[asked % 2].https());
        assert_eq!(api.json("/api/me").await.expect("answers")["name"], "admin");
        if asked % 200 == 0 {
            let target = json!({ "url": format!("tcp://198.51.100.7:{}", asked + 1), "name": "while away" });
            let added =
                api.request(Method::POST, "/api/targets").json(&target).send().await.expect("answers");
            assert!(added.status().is_success(), "{}", added.status());
        }
        asked += 1;
    }
    assert!(asked > 0, "nobody was asked while it was away");
    redis.restart().expect("starts again");
    all_is_there_again(&fleet, &api).await;
}

async fn all_is_there_again(fleet: &Fleet, api: &Api) {
    for server in &fleet.servers {
        until_health(&server.api().expect("a client"), 200).await;
    }
    fleet.see_each_other(2).await.expect("they can be asked");
    let listed = api.json("/api/targets").await.expect("answers").to_string();
    assert!(listed.contains("written 0") && listed.contains("written 1"), "{listed}");
    assert_eq!(api.json("/api/me").await.expect("answers")["name"], "admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_from_the_records_says_so() {
    let mut fleet = fleet(1, &[]).await;
    let api = fleet.servers[0].api().expect("a client");
    until_health(&api, 200).await;
    fleet.records.kill();
    until_health(&api, 503).await;
    let (_, said) = health(&api).await.expect("answers");
    assert!(said.contains("the records cannot be reached"), "{said}");
    fleet.records.start().expect("starts again");
    until_health(&api, 200).await;
    assert!(fleet.servers[0].stop(Duration::from_secs(20)).success());
}
