//! A server of Caelum whose records are on PostgreSQL, and what becomes of it when they are away.

use std::time::Duration;

use caelum_testkit::{
    api::Api,
    event::{Numbered, ndjson, now_ms},
    postgres::{self, PostgresServer},
    server::Plan,
    wait,
};

const PATIENCE: Duration = Duration::from_secs(90);
const MINUTE_MS: i64 = 60_000;
const BATCHES: usize = 12;
const BATCH: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_counted_once_when_the_records_go_away_and_come_back() {
    let mut records = postgres::Plan::new().durable().start().expect("starts");
    let plan = Plan::new(env!("CARGO_BIN_EXE_caelum"))
        .with_variable("CAELUM_SERVER_STORE", &records.url("postgres"));
    let server = plan.start().expect("starts");
    let api = server.api().expect("the authority is there");
    let writer = api.with_token(&server.token("ingest").expect("made"));
    let reader = api.with_token(&server.token("read").expect("made"));

    let mut probe = Numbered::new("probe", 7);
    let start = (now_ms() / MINUTE_MS - 3) * MINUTE_MS;
    for batch in 0..BATCHES {
        match batch {
            4 => records.kill(),
            8 => records.start().expect("starts again"),
            _ => {}
        }
        let events: Vec<_> =
            (0..BATCH).map(|_| probe.event("https://one.example/", start, Default::default())).collect();
        // While the records are away a server may ask to come again, but it must not crash.
        match batch {
            4..8 => drop(writer.post_events("application/x-ndjson", ndjson(&events)).await.expect("answers")),
            _ => deliver(&writer, &ndjson(&events)).await,
        }
    }
    // Everything again, as a probe does that heard no answers.
    let mut again = Numbered::new("probe", 7);
    for _ in 0..BATCHES {
        let events: Vec<_> =
            (0..BATCH).map(|_| again.event("https://one.example/", start, Default::default())).collect();
        deliver(&writer, &ndjson(&events)).await;
    }
    let all = u64::try_from(BATCHES * BATCH).expect("small");
    wait::until("every event is counted", PATIENCE, || (counted(&records) >= Some(all)).then_some(()));
    assert_eq!(counted(&records), Some(all), "once");
    let page = reader.json("/api/rollups?limit=10").await.expect("answers");
    assert_eq!(page["rollups"][0]["count_total"].as_u64(), Some(all), "{page}");
}

/// Posts until the answer is that it is durable.
async fn deliver(writer: &Api, body: &[u8]) {
    wait::until_answered("a batch is taken", PATIENCE, async || {
        match writer.post_events("application/x-ndjson", body.to_vec()).await {
            Ok((200..=299, _)) => Some(()),
            Ok((500..=599 | 429, _)) => None,
            other => panic!("a batch was refused: {other:?}"),
        }
    })
    .await;
}

fn counted(records: &PostgresServer) -> Option<u64> {
    records.psql("postgres", "select coalesce(sum(counted), 0) from partitions").ok()?.parse().ok()
}
