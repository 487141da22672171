//! The pages about counting and joining on a real store: what they show, and what their forms do.

use axum::http::StatusCode;
use caelum_model::{
    access::Scope,
    id::{ClientId, PartitionId},
    rollup::SeenRanges,
};
use caelum_store::{DeadLetter, DeadLetterQuery, DeadLetterState, WindowCommit};

use crate::{
    fixture::{Fixture, NOW_MS, event},
    pages::{Stream, look, post, signed_in},
};

/// A partition with a probe that has a gap, and two events kept aside: one that can be counted after all, and
/// one that is older than what is kept.
async fn counted(fixture: &Fixture) {
    let store = &fixture.state.store;
    store.aggregator_round("a-1".into(), r#"{"host":"alpha","windows":3}"#.into()).await.expect("beats");
    let partition = PartitionId(0);
    let owned = store.take_partition(partition, "a-1".into(), 0).await.expect("asked").expect("is free");
    let client_id = ClientId::parse("probe-1").expect("valid");
    let letter = |days: i64, n| DeadLetter {
        id: 0,
        partition,
        kept_at_ms: NOW_MS,
        client_id: client_id.clone(),
        ts_ms: NOW_MS - days * 86_400_000,
        reason: "too_late".into(),
        state: DeadLetterState::Kept,
        document: event(n).to_string(),
    };
    let commit = WindowCommit {
        seen: vec![SeenRanges {
            client_id: client_id.clone(),
            epoch: 7,
            ranges: vec![(1, 10), (16, 30)],
            edges: vec![(NOW_MS - 900_000, NOW_MS - 600_000), (NOW_MS - 300_000, NOW_MS - 1_000)],
            max_ts_ms: NOW_MS - 1_000,
            too_late: 2,
        }],
        dead_letters: vec![letter(8, 11), letter(40, 12)],
        counted: 25,
        too_late: 2,
        ..WindowCommit::default()
    };
    store.commit_windows(partition, owned, owned.offset, commit).await.expect("stored");
}

async fn states(fixture: &Fixture) -> Vec<(i64, DeadLetterState)> {
    let query = DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() };
    let letters = fixture.state.store.dead_letters(query).await.expect("read");
    letters.into_iter().map(|letter| (letter.id, letter.state)).collect()
}

#[tokio::test]
async fn the_pipeline_page_shows_what_is_counted_and_what_was_kept_aside() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let empty = look(&fixture, "/network/pipeline", &cookie).await;
    assert_eq!(empty.status, StatusCode::OK);
    assert!(empty.html.contains("No aggregator runs"), "{}", empty.html);
    assert!(empty.html.contains("No event is kept aside"), "{}", empty.html);
    counted(&fixture).await;
    let page = look(&fixture, "/network/pipeline?reason=too_late", &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.contains("<h1>Everything that was accepted is counted;"), "{}", page.html);
    assert!(page.html.contains("Count 2\u{a0}events after all"), "{}", page.html);
    let (newest, _) = states(&fixture).await[0];
    let chosen = look(&fixture, &format!("/network/pipeline?letter={newest}"), &cookie).await;
    assert!(chosen.html.contains("older than the minutes that are kept"), "{}", chosen.html);
    let odd = look(&fixture, "/network/pipeline?letter=x&cursor=&state=&client_id=nobody", &cookie).await;
    assert_eq!(odd.status, StatusCode::OK);
    assert!(odd.html.contains("No event matches the filter."), "{}", odd.html);
    let away = look(&fixture, "/network/pipeline", "").await;
    assert_eq!(away.location, "/login?next=/network/pipeline");
}

#[tokio::test]
async fn an_event_is_counted_after_all_by_form_and_by_nobody_who_may_only_look() {
    let fixture = Fixture::new().await;
    counted(&fixture).await;
    let (old, young) = (states(&fixture).await[0].0, states(&fixture).await[1].0);
    let looker = signed_in(&fixture, "looker").await;
    let refused = post(&fixture, "/network/pipeline/replay", &looker, &format!("id={young}")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.html.contains("This is not allowed."), "{}", refused.html);
    let admin = signed_in(&fixture, "admin").await;
    let form = format!("id={young}&back=/network/pipeline%3Freason%3Dtoo_late");
    let asked = post(&fixture, "/network/pipeline/replay", &admin, &form).await;
    assert_eq!(
        (asked.status, asked.location.as_str()),
        (StatusCode::SEE_OTHER, "/network/pipeline?reason=too_late&asked=1&skipped=0")
    );
    let said = look(&fixture, &asked.location, &admin).await;
    assert!(said.html.contains("1\u{a0}event is counted within seconds."), "{}", said.html);
    let all = post(&fixture, "/network/pipeline/replay", &admin, "reason=too_late&back=//evil.example").await;
    assert_eq!(all.location, "/network/pipeline?asked=0&skipped=1");
    assert_eq!(states(&fixture).await, [(old, DeadLetterState::Kept), (young, DeadLetterState::Requested)]);
    for wrong in ["", "id=x"] {
        let answer = post(&fixture, "/network/pipeline/replay", &admin, wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn a_probe_has_a_page_that_says_what_is_missing() {
    let fixture = Fixture::new().await;
    counted(&fixture).await;
    let cookie = signed_in(&fixture, "looker").await;
    let page = look(&fixture, "/probes/probe-1", &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.contains("5\u{a0}events are missing between"), "{}", page.html);
    assert_eq!(look(&fixture, "/probes/nobody", &cookie).await.status, StatusCode::NOT_FOUND);
    let mut stream =
        Stream::open(&fixture, &cookie, "topics=verdict,complete,gaps,measured&page=probe&probe=probe-1")
            .await;
    let said = stream.until("event: clock").await;
    for topic in ["verdict", "complete", "gaps", "measured"] {
        assert_eq!(said.matches(&format!("event: {topic}\n")).count(), 1, "{topic} in {said}");
    }
}

#[tokio::test]
async fn the_pipeline_page_is_live() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "looker").await;
    let query = "topics=verdict,stations,partitions,aggregators,letters,letter&page=pipeline&letter=1";
    let mut stream = Stream::open(&fixture, &cookie, query).await;
    let said = stream.until("event: clock").await;
    assert!(said.contains("No aggregator runs"), "{said}");
    counted(&fixture).await;
    fixture.state.bus.publish(caelum_roles::bus::Change::RollupsChanged);
    stream.until("Everything that was accepted is counted").await;
    stream.until("event: letters").await;
}

#[tokio::test]
async fn a_join_token_is_made_listed_and_revoked_by_forms() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let made = post(&fixture, "/settings/join-tokens", &cookie, "role=beacon&uses=3&hours=2").await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert!(made.html.contains("caelum join ") && made.html.contains("3\u{a0}machines"), "{}", made.html);
    let wrong = post(&fixture, "/settings/join-tokens", &cookie, "role=agent&uses=0&hours=many").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.html.contains("The time of validity is not a whole number: many."), "{}", wrong.html);
    let list = look(&fixture, "/settings/join-tokens", &cookie).await;
    assert!(list.html.contains("1\u{a0}join token lets machines join."), "{}", list.html);
    assert!(!list.html.contains("caelum join "), "the secret is shown once");
    let tokens = fixture.state.store.join_tokens(10).await.expect("read");
    let form = format!("token_id={}", tokens[0].token_id);
    let gone = post(&fixture, "/settings/join-tokens/revoke", &cookie, &form).await;
    assert_eq!((gone.status, gone.location.as_str()), (StatusCode::SEE_OTHER, "/settings/join-tokens"));
    let list = look(&fixture, "/settings/join-tokens", &cookie).await;
    assert!(list.html.contains("No machine can join by token now."), "{}", list.html);
}

#[tokio::test]
async fn a_viewer_neither_sees_join_tokens_nor_makes_one() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "looker").await;
    let page = look(&fixture, "/settings/join-tokens", &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.contains("Join tokens are for operators."), "{}", page.html);
    let refused = post(&fixture, "/settings/join-tokens", &cookie, "role=agent&uses=1&hours=1").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(fixture.state.store.join_tokens(10).await.expect("read").is_empty());
}

#[tokio::test]
async fn records_that_nobody_owns_are_shown_with_their_partition() {
    let fixture = Fixture::new().await;
    let ingest = fixture.token(Scope::Ingest).await;
    let (status, _) = fixture.send("POST", "/events", &ingest, &event(1)).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let token = fixture.token(Scope::Read).await;
    let (_, answer) = fixture.get("/api/pipeline", &token).await;
    let waiting: u64 = answer["partitions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|partition| partition["uncounted_records"].as_u64().expect("a number"))
        .sum();
    assert_eq!(waiting, 1, "{answer}");
}
