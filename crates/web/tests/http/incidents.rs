//! Incidents over the API and on their pages, with records put there by hand.

use axum::http::StatusCode;
use caelum_model::{
    access::Scope,
    diagnosis::Label,
    event::Family,
    id::ClientId,
    incident::{Entity, EntityKind, Incident, IncidentEvidence, IncidentStep, PairRef, Severity, StepKind},
    rollup::Measure,
};

use crate::{
    fixture::{Fixture, NOW_MS},
    pages::{look, signed_in},
};

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn incident(id: &str, label: Label, opened_ms_ago: i64, closed_ms_ago: Option<i64>) -> Incident {
    let opened = NOW_MS - opened_ms_ago;
    Incident {
        id: id.to_owned(),
        label,
        sublabel: None,
        entity: Entity { kind: EntityKind::Resolver, ids: vec![HOSTILE.to_owned()] },
        place: format!("resolver {HOSTILE}"),
        opened_window_ms: opened,
        detected_window_ms: opened + 60_000,
        closed_window_ms: closed_ms_ago.map(|ago| NOW_MS - ago),
        severity: Severity::Critical,
        confidence: 0.94,
        sentence: format!("{} at resolver {HOSTILE} since 14:05.", label.as_str()),
        pairs: vec![PairRef {
            client_id: ClientId::parse("probe-1").expect("valid"),
            target: format!("https://example.net/{HOSTILE}"),
            family: Family::V4,
        }],
        pairs_touched: 6,
        pairs_observed: 7,
        consequences: vec![Measure::Ttfb],
        evidence: vec![
            IncidentEvidence {
                measure: Some(Measure::Dns),
                before: 17.0,
                during: 431.0,
                after: closed_ms_ago.map(|_| 18.0),
                z: 8.2,
                pairs: 6,
                pairs_observed: 7,
            },
            IncidentEvidence {
                measure: None,
                before: 0.0,
                during: 12.0,
                after: None,
                z: 5.0,
                pairs: 2,
                pairs_observed: 7,
            },
        ],
        steps: vec![IncidentStep {
            window_start_ms: opened,
            kind: StepKind::Opened,
            text: format!("opened by {HOSTILE}"),
        }],
        is_flapping: true,
        revision: 2,
        updated_window_ms: opened,
    }
}

async fn with_three() -> Fixture {
    let fixture = Fixture::new().await;
    let all = vec![
        incident("old", Label::Loss, 50 * 60_000, Some(20 * 60_000)),
        incident("dns", Label::Dns, 30 * 60_000, None),
        incident("new", Label::Server, 5 * 60_000, None),
    ];
    fixture.state.store.put_incidents(all, vec![], vec![]).await.expect("stored");
    fixture
}

#[tokio::test]
async fn incidents_are_listed_newest_first_page_by_page_and_by_what_is_asked() {
    let fixture = with_three().await;
    let token = fixture.token(Scope::Read).await;
    let ids = async |path: &str| {
        let (status, json) = fixture.get(path, &token).await;
        assert_eq!(status, StatusCode::OK, "{path}: {json}");
        let ids: Vec<String> = json["incidents"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|incident| incident["id"].as_str().expect("an id").to_owned())
            .collect();
        (ids, json["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(ids("/api/incidents").await.0, ["new", "dns", "old"]);
    assert_eq!(ids("/api/incidents?status=open").await.0, ["new", "dns"]);
    assert_eq!(ids("/api/incidents?status=closed&label=Loss-bound&entity_type=resolver").await.0, ["old"]);
    assert_eq!(ids(&format!("/api/incidents?from={}", NOW_MS - 600_000)).await.0, ["new", "dns"]);
    let (first, cursor) = ids("/api/incidents?limit=2").await;
    assert_eq!(first, ["new", "dns"]);
    let cursor = cursor.expect("more follow");
    assert_eq!(ids(&format!("/api/incidents?limit=2&cursor={cursor}")).await, (vec!["old".to_owned()], None));
    for wrong in ["status=maybe", "label=Slow", "entity_type=moon", "cursor=x"] {
        let (status, json) = fixture.get(&format!("/api/incidents?{wrong}"), &token).await;
        assert_eq!(
            (status, json["error"]["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("invalid_request"))
        );
    }
}

#[tokio::test]
async fn one_incident_comes_whole_and_an_unknown_one_is_absent() {
    let fixture = with_three().await;
    let token = fixture.token(Scope::Read).await;
    let (status, json) = fixture.get("/api/incidents/dns", &token).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(json["label"], "DNS-bound");
    assert_eq!(json["entity"]["type"], "resolver");
    assert_eq!(json["evidence"][0]["during"], 431.0);
    assert_eq!(json["closed_window_ms"], serde_json::Value::Null);
    let (status, _) = fixture.get("/api/incidents/none", &token).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = fixture.get("/api/incidents", "no such token").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_pages_show_what_is_wrong_and_let_no_name_out_of_its_quotes() {
    let fixture = with_three().await;
    let cookie = signed_in(&fixture, "looker").await;
    for path in [
        "/",
        "/incidents",
        "/incidents?status=open",
        "/incidents?status=closed&label=&entity_type=resolver",
        "/incidents/dns",
        "/incidents/old",
    ] {
        let page = look(&fixture, path, &cookie).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.html.contains("<script>alert"), "{path} lets a script through");
        assert_eq!(page.html.matches("<h1>").count(), 1, "{path} has one heading");
        assert!(page.html.contains("aria-label=\"2 open\""), "{path} counts the open ones");
    }
    let list = look(&fixture, "/incidents", &cookie).await.html;
    assert!(list.contains("/incidents/dns") && list.contains("/incidents/old"));
    let open = look(&fixture, "/incidents?status=open", &cookie).await.html;
    assert!(open.contains("/incidents/dns") && !open.contains("/incidents/old"));
    let one = look(&fixture, "/incidents/dns", &cookie).await.html.replace('\u{a0}', " ");
    for text in
        ["431 ms", "17 ms", "+8.2", "6 of 7", "94 % confident", "comes and goes", "First byte", "opened by"]
    {
        assert!(one.contains(text), "the page lacks {text}");
    }
    assert!(one.contains("data-plot=\"incident-course\""));
    assert_eq!(look(&fixture, "/incidents/none", &cookie).await.status, StatusCode::NOT_FOUND);
    assert_eq!(look(&fixture, "/incidents?label=Slow", &cookie).await.status, StatusCode::BAD_REQUEST);
}
