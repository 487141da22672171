//! Servers behind a load balancer: any of them may be killed, or cut off.

use std::time::{Duration, Instant};

use caelum_model::id::NodeId;
use caelum_testkit::{
    api::Api,
    event::{Numbered, ndjson, now_ms},
    failover,
    fleet::{Balancer, Kind, PATIENCE, who_answers},
    measure,
    redis::RedisServer,
    wait,
};

use crate::fleet;

const MINUTE_MS: i64 = 60_000;
/// A page goes on within this time: what we promise.
const PROMISED: Duration = Duration::from_secs(5);

/// Posts until the answer is that it is durable.
async fn deliver(writer: &Api, body: Vec<u8>) {
    let begun = Instant::now();
    loop {
        match writer.post_events("application/x-ndjson", body.clone()).await {
            Ok((202, _)) => return,
            other => assert!(begun.elapsed() < PATIENCE, "a batch is not taken: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_goes_on_when_its_server_is_killed_and_no_event_is_missing() {
    let kills = usize::try_from(measure::variable("CAELUM_FLEET_KILLS", 6)).expect("small");
    let mut fleet = fleet(3, &[]).await;
    let admin = fleet.admin(0).expect("a client");
    let balancer = Balancer::start(Kind::Haproxy, &admin).await.expect("HAProxy takes it and starts");
    let writer = fleet.servers[0].api().expect("a client").at(&balancer.https());
    let writer = writer.with_token(&fleet.servers[0].token("ingest").expect("made"));
    let begun_ms = (now_ms() / MINUTE_MS - 1) * MINUTE_MS;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let posting = tokio::spawn(async move {
        let mut probe = Numbered::new("probe", 3);
        let mut posted = 0_u64;
        while stopped.try_recv().is_err() {
            let events: Vec<_> =
                (0..10).map(|_| probe.event("https://one.example/", begun_ms, Default::default())).collect();
            deliver(&writer, ndjson(&events)).await;
            posted += 10;
        }
        posted
    });
    let resumed = failover::measure(&mut fleet, &balancer, kills).await.expect("pages go on");
    assert_eq!(resumed.len(), kills);
    let slow: Vec<_> = resumed.iter().filter(|one| one.resumed > PROMISED).collect();
    assert!(slow.len() * 100 <= resumed.len(), "{slow:?} of {resumed:?}");
    stop.send(()).expect("it still posts");
    let posted = posting.await.expect("no panic");
    assert!(posted > 0);
    let counted = async || {
        let sql = "select coalesce(sum(counted), 0) from partitions";
        fleet.records.psql("postgres", sql).ok()?.parse::<u64>().ok()
    };
    wait::until_answered("every event is counted", PATIENCE, async || {
        counted().await.filter(|counted| *counted >= posted)
    })
    .await;
    assert_eq!(counted().await, Some(posted), "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_out_of_the_balancer_within_ten_seconds() {
    let mut fleet = fleet(2, &[]).await;
    let admin = fleet.admin(0).expect("a client");
    let balancer = Balancer::start(Kind::Haproxy, &admin).await.expect("HAProxy takes it and starts");
    let through = admin.at(&balancer.https());
    let mut answered = std::collections::BTreeSet::new();
    wait::until_answered("both servers answer through the balancer", PATIENCE, async || {
        answered.extend(who_answers(&through).await);
        (answered.len() == 2).then_some(())
    })
    .await;
    let frozen = std::fs::read_to_string(fleet.servers[1].data().join("secrets/node.id")).expect("is there");
    fleet.servers[1].process().freeze();
    let begun = Instant::now();
    wait::until("the balancer says that it is out", PATIENCE, || {
        balancer.log().contains(&format!("Server caelum/{frozen} is DOWN")).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for _ in 0..5 {
        assert_ne!(who_answers(&through).await, Some(frozen.clone()));
    }
    fleet.servers[1].process().thaw();
    wait::until_answered("it is in again", PATIENCE, async || {
        (who_answers(&through).await.as_ref() == Some(&frozen)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_served_through_the_balancer_while_redis_is_away_for_all() {
    let mut redis = RedisServer::start().expect("starts");
    let url = redis.url();
    let fleet = fleet(2, &[("CAELUM_CLUSTER_ADDRESS", &url)]).await;
    let admin = fleet.admin(0).expect("a client");
    let balancer = Balancer::start(Kind::Haproxy, &admin).await.expect("HAProxy takes it and starts");
    let through = admin.at(&balancer.https());
    wait::until_answered("the balancer serves", PATIENCE, async || who_answers(&through).await).await;
    redis.kill();
    wait::until("both are out", PATIENCE, || {
        balancer.log().contains("backend 'caelum' has no server available").then_some(())
    });
    assert!(through.json("/api/nodes").await.is_ok(), "who can serve, serves");
    assert!(through.json("/api/fleet/cluster/health").await.is_err(), "and tells the truth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_takes_its_configuration_and_goes_on_with_another_server() {
    let mut fleet = fleet(2, &[]).await;
    let admin = fleet.admin(0).expect("a client");
    let balancer = Balancer::start(Kind::Nginx, &admin).await.expect("nginx takes it and starts");
    let through = admin.at(&balancer.https());
    wait::until_answered("nginx serves", PATIENCE, async || who_answers(&through).await).await;
    let session = through.signed_in().await.expect("signs in");
    fleet.servers[0].kill();
    let left = std::fs::read_to_string(fleet.servers[1].data().join("secrets/node.id")).expect("is there");
    for _ in 0..4 {
        let answered = who_answers(&through).await.expect("somebody answers at once");
        assert_eq!(NodeId::parse(&answered).expect("an id").as_str(), left);
    }
    assert_eq!(session.json("/api/me").await.expect("answers")["name"], "admin");
}
