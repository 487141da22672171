//! Scores and budgets of a target, from rows put there by hand.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use caelum_engine::sketch::Histogram;
use caelum_model::{
    access::Scope,
    event::Family,
    id::{ClientId, Offset, PartitionId},
    rollup::{LastSeen, Measure, Rollup, RollupKey, RollupState},
};
use caelum_store::WindowCommit;
use serde_json::json;

use crate::{
    fixture::{Fixture, NOW_MS},
    pages::{look, signed_in},
};

const URL: &str = "https://app.example.net/";
const DAY_MS: i64 = 86_400_000;

fn histogram(values: &[f64]) -> Vec<u8> {
    let mut histogram = Histogram::default();
    for value in values {
        histogram.record(*value).expect("measurable");
    }
    histogram.encode()
}

/// A window with one measurement for each time, and so many failures.
fn row(width_ms: i64, start_ms: i64, times: &[f64], failures: u64) -> Rollup {
    let count = times.len() as u64;
    Rollup {
        key: RollupKey {
            width_ms,
            window_start_ms: start_ms.div_euclid(width_ms) * width_ms,
            client_id: ClientId::parse("probe-1").expect("valid"),
            target: URL.into(),
            family: Family::Any,
        },
        partition: PartitionId(0),
        count_total: count + failures,
        count_success: count,
        count_error: failures,
        errors_by_stage: BTreeMap::new(),
        errors_by_class: BTreeMap::new(),
        distributions: [(Measure::Total, histogram(times)), (Measure::Ttfb, histogram(times))].into(),
        late_merged: 0,
        last: LastSeen::default(),
        state: RollupState::Settled,
        version: 1,
        updated_at_ms: NOW_MS,
    }
}

#[tokio::test]
async fn a_budget_is_counted_over_days_from_windows_of_every_length() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let wish = json!({"url": URL, "objective": {"within_ms": 300, "promised_bp": 9000, "days": 7}});
    let (status, made) = fixture.send("POST", "/api/targets", &token, &wish).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let path = format!("/api/targets/{}", made["target_id"].as_str().expect("an id"));
    let (_, nothing) = fixture.get(&path, &token).await;
    assert_eq!((&nothing["budget"]["all"], &nothing["budget"]["left"]), (&json!(0), &json!(null)));
    let rows = vec![
        row(DAY_MS, NOW_MS - 3 * DAY_MS, &[100.0; 90], 0),
        row(60_000, NOW_MS - 60_000, &[100.0, 200.0, 250.0, 900.0, 1_100.0], 5),
        // Older than the days: not counted.
        row(DAY_MS, NOW_MS - 20 * DAY_MS, &[900.0; 50], 50),
    ];
    let store = &fixture.state.store;
    let owned = store.take_partition(PartitionId(0), "test".into(), 0).await.expect("asked").expect("taken");
    let commit = WindowCommit { rollups: rows, ..WindowCommit::default() };
    store.commit_windows(PartitionId(0), owned, Offset(1), commit).await.expect("stored");
    let (status, json) = fixture.get(&path, &token).await;
    assert_eq!(status, StatusCode::OK);
    let budget = &json["budget"];
    assert_eq!((&budget["good"], &budget["all"]), (&json!(93), &json!(100)), "{budget}");
    let near = |value: &serde_json::Value, wanted: f64| {
        let value = value.as_f64().expect("a number");
        assert!((value - wanted).abs() < 1e-6, "{value} for {wanted}");
    };
    near(&budget["left"], 0.3);
    near(&budget["burn_1h"], 7.0);
    near(&budget["burn_6h"], 7.0);
    // At T = 300 ms: three satisfy, 900 and 1,100 ms are tolerable, five failed.
    near(&json["scores"]["apdex"], 0.4);
    assert!(json["scores"]["web_mos"].as_f64().is_some_and(|mos| (3.0..5.0).contains(&mos)));
    assert_eq!((&json["scores"]["streaming"], &json["scores"]["voice_mos"]), (&json!(null), &json!(null)));
    assert!(json["assumptions"].to_string().contains("G.107"));
    let (_, rollups) = fixture.get("/api/rollups", &token).await;
    near(&rollups["rollups"][0]["scores"]["apdex"], 0.4);
    let cookie = signed_in(&fixture, "looker").await;
    let id = made["target_id"].as_str().expect("an id");
    let page = look(&fixture, &format!("/targets/{id}"), &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.replace('\u{a0}', " ").contains("30 % left"), "{}", page.html);
    assert_eq!(look(&fixture, "/targets/none", &cookie).await.status, StatusCode::NOT_FOUND);
    assert_eq!(look(&fixture, "/network/mesh", &cookie).await.status, StatusCode::OK);
}
