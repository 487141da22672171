//! What the diagnoser promises, on a real store.

use std::collections::BTreeMap;

use caelum_drivers::clock::ManualClock;
use caelum_engine::sketch::Histogram;
use caelum_model::{
    diagnosis::{Diagnosis, Label, PairStatus, Standing},
    event::Family,
    id::{ClientId, Offset, PartitionId},
    rollup::{LastSeen, MINUTE_MS, Measure, RollupState},
};
use caelum_store::{CommitOutcome, Ownership, WindowCommit};

use super::*;

/// 2026-01-05 14:00:00 UTC.
const START_MS: i64 = 1_767_621_600_000;
const SLOW: &str = "https://slow.example/";
const FINE: &str = "https://fine.example/";

/// A store, and the aggregator's part in it.
struct Scene {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    bus: Bus,
    owned: Ownership,
}

impl Scene {
    async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let owned =
            store.take_partition(PartitionId(0), "test".into(), 0).await.expect("asked").expect("taken");
        let clock = Arc::new(ManualClock::new(START_MS));
        Self { _directory: directory, store, clock, bus: Bus::default(), owned }
    }

    fn diagnoser(&self) -> Diagnoser {
        Diagnoser {
            store: Arc::clone(&self.store),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            owner: None,
            progress: Arc::default(),
        }
    }

    async fn commit(&mut self, rollups: Vec<Rollup>) {
        let through = Offset(self.owned.offset.0 + 1);
        let commit = WindowCommit { rollups, ..WindowCommit::default() };
        let outcome = self.store.commit_windows(PartitionId(0), self.owned, through, commit).await;
        assert_eq!(outcome.expect("committed"), CommitOutcome::Done);
        self.owned.offset = through;
    }

    /// Commits one minute of both targets, and sets the clock to its end.
    async fn commit_minute(&mut self, number: i64, dns_ms: f64) {
        self.clock.set(START_MS + (number + 1) * MINUTE_MS);
        self.commit(vec![row(SLOW, number, dns_ms, 6), row(FINE, number, 12.0, 6)]).await;
    }

    async fn diagnoses(&self) -> Vec<Diagnosis> {
        self.store.diagnoses(0, i64::MAX, 1_000).await.expect("read")
    }

    async fn statuses(&self) -> Vec<PairStatus> {
        self.store.pair_statuses().await.expect("read")
    }
}

/// A window of `events` measurements around a look-up time.
fn row(target: &str, number: i64, dns_ms: f64, events: u64) -> Rollup {
    let around = |value: f64| {
        let mut histogram = Histogram::default();
        for event in 0..events {
            histogram.record(value * (1.0 + 0.01 * event as f64)).expect("measurable");
        }
        histogram.encode()
    };
    let window_start_ms = START_MS + number * MINUTE_MS;
    Rollup {
        key: RollupKey {
            width_ms: MINUTE_MS,
            window_start_ms,
            client_id: ClientId::parse("probe-1").expect("valid"),
            target: target.into(),
            family: Family::V4,
        },
        partition: PartitionId(0),
        count_total: events,
        count_success: events,
        count_error: 0,
        errors_by_stage: BTreeMap::new(),
        errors_by_class: BTreeMap::new(),
        distributions: BTreeMap::from([
            (Measure::Dns, around(dns_ms)),
            (Measure::Tcp, around(20.0)),
            (Measure::Tls, around(26.0)),
            (Measure::Ttfb, around(60.0)),
        ]),
        late_merged: 0,
        last: LastSeen { ts_ms: window_start_ms + MINUTE_MS - 1, ..LastSeen::default() },
        state: RollupState::Provisional,
        version: 1,
        updated_at_ms: 0,
    }
}

fn dns_of(number: i64) -> f64 {
    if (12..17).contains(&number) { 380.0 } else { 12.0 }
}

/// Windows of a pair with a label, in minutes after the start.
fn minutes(diagnoses: &[Diagnosis], target: &str) -> Vec<i64> {
    diagnoses
        .iter()
        .filter(|diagnosis| diagnosis.target == target)
        .map(|diagnosis| (diagnosis.window_start_ms - START_MS) / MINUTE_MS)
        .collect()
}

#[tokio::test]
async fn a_slow_target_is_labelled_while_its_neighbour_is_not() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    for number in 0..20 {
        scene.commit_minute(number, dns_of(number)).await;
        diagnoser.look(&mut following).await.expect("looked");
    }
    let diagnoses = scene.diagnoses().await;
    assert_eq!(minutes(&diagnoses, SLOW), [12, 13, 14, 15, 16]);
    assert_eq!(minutes(&diagnoses, FINE), [0; 0]);
    assert!(diagnoses.iter().all(|diagnosis| diagnosis.label == Label::Dns && diagnosis.revision == 0));
    assert!(diagnoses.iter().all(|diagnosis| diagnosis.since_ms == START_MS + 12 * MINUTE_MS));
    let statuses = scene.statuses().await;
    assert_eq!(statuses.len(), 2);
    // The newest window is still filling.
    assert!(statuses.iter().all(|status| status.window_start_ms == START_MS + 18 * MINUTE_MS));
    assert!(statuses.iter().all(|status| status.standing == Standing::Usual));
}

#[tokio::test]
async fn all_rows_at_once_and_a_restart_in_between_give_the_same_verdicts() {
    let mut by_minute = Scene::open().await;
    let mut at_once = Scene::open().await;
    let mut restarted = Scene::open().await;
    let diagnoser = by_minute.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    for number in 0..20 {
        by_minute.commit_minute(number, dns_of(number)).await;
        diagnoser.look(&mut following).await.expect("looked");
        at_once.commit_minute(number, dns_of(number)).await;
        restarted.commit_minute(number, dns_of(number)).await;
        // Nothing is kept in memory from one minute to the next.
        let fresh = restarted.diagnoser();
        let mut loaded = fresh.load().await.expect("loaded");
        fresh.look(&mut loaded).await.expect("looked");
    }
    let late = at_once.diagnoser();
    let mut loaded = late.load().await.expect("loaded");
    late.look(&mut loaded).await.expect("looked");
    let (expected, statuses) = (by_minute.diagnoses().await, by_minute.statuses().await);
    assert_eq!(minutes(&expected, SLOW), [12, 13, 14, 15, 16]);
    assert_eq!(minutes(&at_once.diagnoses().await, SLOW), minutes(&expected, SLOW));
    assert_eq!(at_once.statuses().await, statuses);
    assert_eq!(restarted.diagnoses().await, expected);
    assert_eq!(restarted.statuses().await, statuses);
}

#[tokio::test]
async fn a_row_that_only_settles_changes_nothing_and_a_late_event_revises_the_verdict() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    for number in 0..20 {
        scene.commit_minute(number, dns_of(number)).await;
        diagnoser.look(&mut following).await.expect("looked");
    }
    let before = scene.diagnoses().await;
    let mut settled = row(SLOW, 14, 380.0, 6);
    settled.state = RollupState::Settled;
    scene.commit(vec![settled]).await;
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(scene.diagnoses().await, before);

    let mut revised = row(SLOW, 14, 500.0, 8);
    (revised.state, revised.version, revised.late_merged) = (RollupState::Settled, 2, 2);
    scene.commit(vec![revised]).await;
    diagnoser.look(&mut following).await.expect("looked");
    let after = scene.diagnoses().await;
    assert_eq!(minutes(&after, SLOW), [12, 13, 14, 15, 16]);
    let changed: Vec<bool> = before.iter().zip(&after).map(|(old, new)| old != new).collect();
    assert!(changed[2], "the window that got events says so");
    assert!(!changed[0] || after[0].revision == 1);
    assert_eq!(after[2].revision, 1);
    assert!(after[2].evidence[0].value > 480.0);

    // The same while nobody looks.
    let noted = following.note(&diagnoser, Duration::ZERO).await;
    noted.expect("noted");
    let mut revised = row(SLOW, 15, 600.0, 9);
    (revised.state, revised.version, revised.late_merged) = (RollupState::Settled, 2, 3);
    scene.commit(vec![revised]).await;
    let mut following = diagnoser.load().await.expect("loaded");
    diagnoser.look(&mut following).await.expect("looked");
    let last = scene.diagnoses().await;
    assert_eq!(last[3].revision, after[3].revision + 1);
    assert!(last[3].evidence[0].value > 580.0);
}

#[tokio::test]
async fn the_newest_window_is_judged_again_when_it_gets_another_event() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    for number in 0..=15 {
        scene.commit_minute(number, dns_of(number)).await;
        diagnoser.look(&mut following).await.expect("looked");
    }
    assert_eq!(minutes(&scene.diagnoses().await, SLOW), [12, 13, 14]);
    // Most of the third slow window turns out to be as usual: there is no alarm yet.
    let mut revised = row(SLOW, 14, 12.0, 7);
    revised.version = 2;
    scene.commit(vec![revised]).await;
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(minutes(&scene.diagnoses().await, SLOW), [0; 0]);
    assert!(!following.pairs.has_replays());
}

#[tokio::test]
async fn an_hour_that_arrives_late_is_judged_in_order_of_time() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    for number in 0..12 {
        scene.commit_minute(number, 12.0).await;
    }
    for number in 30..40 {
        scene.commit_minute(number, 12.0).await;
    }
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(scene.diagnoses().await, []);
    // The hole was a fault, told backwards.
    for number in (12..30).rev() {
        let mut late = row(SLOW, number, dns_of(number), 6);
        (late.state, late.version) = (RollupState::Settled, 1);
        scene.commit(vec![late]).await;
    }
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(minutes(&scene.diagnoses().await, SLOW), [12, 13, 14, 15, 16]);
}

#[tokio::test]
async fn one_commit_larger_than_a_page_is_read_whole() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    let targets = PAGE + 200;
    let rows = (0..targets).map(|n| {
        let mut settled = row(&format!("tcp://10.0.0.1:{n}"), 0, 12.0, 1);
        settled.state = RollupState::Settled;
        settled
    });
    scene.commit(rows.collect()).await;
    scene.commit(vec![row(SLOW, 1, 12.0, 1)]).await;
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(following.pairs.len(), targets + 1);
}

#[tokio::test]
async fn pairs_that_are_not_measured_for_a_day_are_forgotten() {
    let mut scene = Scene::open().await;
    let diagnoser = scene.diagnoser();
    let mut following = diagnoser.load().await.expect("loaded");
    scene.commit_minute(0, 12.0).await;
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(following.pairs.len(), 2);
    scene.clock.advance(Duration::from_secs(25 * 3_600));
    scene.commit(vec![row(FINE, 25 * 60, 12.0, 6)]).await;
    diagnoser.look(&mut following).await.expect("looked");
    assert_eq!(following.pairs.len(), 1);
}

#[tokio::test]
async fn it_follows_the_news_until_told_to_stop() {
    let mut scene = Scene::open().await;
    let mut news = scene.bus.subscribe();
    let stop = CancellationToken::new();
    let running = tokio::spawn(scene.diagnoser().run(stop.clone()));
    for number in 0..17 {
        scene.commit_minute(number, dns_of(number)).await;
    }
    scene.bus.publish(Change::RollupsChanged);
    let verdicts_came = async {
        while scene.diagnoses().await.len() < 4 {
            let change = news.recv().await;
            assert!(
                matches!(
                    change,
                    Ok(Change::RollupsChanged | Change::DiagnosesChanged | Change::IncidentsChanged)
                ),
                "{change:?}"
            );
        }
    };
    tokio::time::timeout(Duration::from_secs(30), verdicts_came).await.expect("verdicts");
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test]
async fn a_store_that_fails_does_not_end_it() {
    let scene = Scene::open().await;
    scene.store.close();
    let stop = CancellationToken::new();
    let mut running = tokio::spawn(scene.diagnoser().run(stop.clone()));
    let ended = tokio::time::timeout(Duration::from_millis(200), &mut running).await;
    assert!(ended.is_err(), "it waits to try again");
    stop.cancel();
    running.await.expect("ends when told to");
}

async fn incidents(scene: &Scene) -> Vec<Incident> {
    scene.store.incidents(IncidentQuery { limit: 100, ..IncidentQuery::default() }).await.expect("read")
}

#[tokio::test]
async fn a_slow_target_becomes_an_incident_that_a_restart_goes_on_with() {
    let mut scene = Scene::open().await;
    let mut by_minute = Scene::open().await;
    let steady = by_minute.diagnoser();
    let mut following = steady.load().await.expect("loaded");
    for number in 0..30 {
        by_minute.commit_minute(number, dns_of(number)).await;
        steady.look(&mut following).await.expect("looked");
        scene.commit_minute(number, dns_of(number)).await;
        // Nothing is kept in memory from one minute to the next.
        let fresh = scene.diagnoser();
        let mut loaded = fresh.load().await.expect("loaded");
        fresh.look(&mut loaded).await.expect("looked");
        loaded.note(&fresh, Duration::ZERO).await.expect("noted");
    }
    let (restarted, expected) = (incidents(&scene).await, incidents(&by_minute).await);
    let [incident] = expected.as_slice() else { panic!("{expected:#?}") };
    assert_eq!(incident.label, Label::Dns);
    assert_eq!(incident.entity.ids, ["probe-1", SLOW, "ipv4"]);
    assert_eq!(incident.opened_window_ms, START_MS + 12 * MINUTE_MS);
    assert_eq!(incident.closed_window_ms, Some(START_MS + 17 * MINUTE_MS));
    let told = |incidents: &[Incident]| -> Vec<(String, i64, Option<i64>)> {
        let part = |it: &Incident| (it.id.clone(), it.opened_window_ms, it.closed_window_ms);
        incidents.iter().map(part).collect()
    };
    assert_eq!(told(&restarted), told(&expected));
    // Judged anew from the rows alone, twice, it is the same to the byte.
    let again = replay::replay(&scene.store, START_MS, START_MS + 60 * MINUTE_MS).await.expect("read");
    let text = serde_json::to_string(&again).expect("JSON");
    assert_eq!(again.incidents.len(), 1);
    assert_eq!(again.incidents[0].id, incident.id);
    let once_more = replay::replay(&scene.store, START_MS, START_MS + 60 * MINUTE_MS).await.expect("read");
    assert_eq!(text, serde_json::to_string(&once_more).expect("JSON"));
}

#[tokio::test]
async fn of_two_diagnosers_on_one_store_one_judges_and_the_other_takes_over() {
    let scene = Scene::open().await;
    let lease = |name: &str| {
        Lease::new(lease::DIAGNOSER, Arc::clone(&scene.store), scene.clock.clone(), name.to_owned())
    };
    let (one, two) = (lease("one"), lease("two"));
    one.take().await.expect("asked");
    let waits = tokio::time::timeout(Duration::from_millis(700), two.take()).await;
    assert!(waits.is_err(), "the first one leads");
    one.give_back().await.expect("asked");
    two.take().await.expect("it is its turn");
}
