//! Incidents, settings of probes, and changed targets.

use caelum_model::{
    diagnosis::Label,
    id::{ClientId, TargetId},
    incident::{Entity, EntityKind, Incident, Severity},
    probe::ProbeSetting,
    target::Target,
};
use caelum_store::{IncidentQuery, StoreError};

use crate::{Records, promised};

fn incident(id: &str, opened_window_ms: i64, closed_window_ms: Option<i64>) -> Incident {
    Incident {
        id: id.to_owned(),
        label: if opened_window_ms % 2 == 0 { Label::Dns } else { Label::Loss },
        sublabel: None,
        entity: Entity { kind: EntityKind::Resolver, ids: vec!["192.0.2.53".to_owned()] },
        place: "resolver 192.0.2.53".to_owned(),
        opened_window_ms,
        detected_window_ms: opened_window_ms + 1,
        closed_window_ms,
        severity: Severity::Major,
        confidence: 0.97,
        sentence: "Look-ups are slow.".to_owned(),
        pairs: Vec::new(),
        pairs_touched: 6,
        pairs_observed: 6,
        consequences: Vec::new(),
        evidence: Vec::new(),
        steps: Vec::new(),
        is_flapping: false,
        revision: 1,
        updated_window_ms: opened_window_ms,
    }
}

fn ids(incidents: &[Incident]) -> Vec<&str> {
    incidents.iter().map(|incident| incident.id.as_str()).collect()
}

async fn incidents_are_listed_newest_first_and_cut_by_what_is_asked(records: Records) {
    let store = &records.store;
    let all = [incident("a", 10, Some(20)), incident("b", 15, None), incident("c", 30, None)];
    store.put_incidents(all.to_vec(), vec![], vec![]).await.expect("stores");
    let list = async |query: IncidentQuery| store.incidents(query).await.expect("lists");
    let any = IncidentQuery { limit: 10, ..IncidentQuery::default() };
    assert_eq!(ids(&list(any.clone()).await), ["c", "b", "a"]);
    assert_eq!(ids(&list(IncidentQuery { is_open: Some(true), ..any.clone() }).await), ["c", "b"]);
    assert_eq!(ids(&list(IncidentQuery { is_open: Some(false), ..any.clone() }).await), ["a"]);
    let label = Some(Label::Loss.as_str().to_owned());
    assert_eq!(ids(&list(IncidentQuery { label, ..any.clone() }).await), ["b"]);
    // One that ended at the start of the span is not in it; one that began at its end neither.
    assert_eq!(ids(&list(IncidentQuery { from_ms: Some(20), ..any.clone() }).await), ["c", "b"]);
    assert_eq!(ids(&list(IncidentQuery { to_ms: Some(30), ..any.clone() }).await), ["b", "a"]);
    let first = list(IncidentQuery { limit: 2, ..any.clone() }).await;
    let after = first.last().map(|last| (last.opened_window_ms, last.id.clone()));
    assert_eq!(ids(&list(IncidentQuery { after, ..any.clone() }).await), ["a"]);
    let elsewhere = Some("probe".to_owned());
    assert!(list(IncidentQuery { entity_type: elsewhere, ..any }).await.is_empty());
}

async fn an_incident_is_replaced_withdrawn_and_forgotten_once_over(records: Records) {
    let store = &records.store;
    store
        .put_incidents(vec![incident("a", 10, None), incident("b", 11, None)], vec![], vec![])
        .await
        .expect("stores");
    let over = Incident { revision: 2, ..incident("a", 10, Some(40)) };
    store.put_incidents(vec![over.clone()], vec!["b".to_owned()], vec![]).await.expect("stores");
    assert_eq!(store.incident("a").await.expect("reads"), Some(over));
    assert_eq!(store.incident("b").await.expect("reads"), None);
    store.put_incidents(vec![incident("c", 12, None)], vec![], vec![]).await.expect("stores");
    assert_eq!(store.drop_incidents(40).await.expect("drops"), 0);
    assert_eq!(store.drop_incidents(41).await.expect("drops"), 1);
    assert!(store.incident("c").await.expect("reads").is_some(), "what is open stays");
}

async fn a_probe_keeps_what_was_set_for_it_last(records: Records) {
    let store = &records.store;
    let client_id = ClientId::parse("lab-3").expect("valid");
    let usual = ProbeSetting::usual(client_id.clone());
    store.put_probe_setting(usual.clone()).await.expect("stores");
    let changed = ProbeSetting { group: Some("lab".to_owned()), mesh: false, ..usual };
    store.put_probe_setting(changed.clone()).await.expect("stores");
    assert_eq!(store.probe_settings().await.expect("reads"), [changed]);
    assert!(store.remove_probe_setting(&client_id).await.expect("removes"));
    assert!(!store.remove_probe_setting(&client_id).await.expect("removes"));
    assert!(store.probe_settings().await.expect("reads").is_empty());
}

async fn a_target_is_changed_in_place_and_takes_no_url_of_another(records: Records) {
    let store = &records.store;
    let target = |id: &str, url: &str| Target::usual(TargetId::parse(id).expect("valid"), url.to_owned(), 1);
    store.add_target(target("a", "tcp://a:1")).await.expect("adds");
    store.add_target(target("b", "tcp://b:1")).await.expect("adds");
    let changed = Target { tags: vec!["lab".to_owned()], ..target("a", "tcp://a:2") };
    assert!(store.update_target(changed.clone()).await.expect("changes"));
    assert_eq!(store.target(&changed.target_id).await.expect("reads"), Some(changed));
    let refused = store.update_target(target("a", "tcp://b:1")).await;
    assert!(matches!(refused, Err(StoreError::Exists { .. })), "{refused:?}");
    assert!(!store.update_target(target("c", "tcp://c:1")).await.expect("answers"));
}

promised! {
    incidents_are_listed_newest_first_and_cut_by_what_is_asked,
    an_incident_is_replaced_withdrawn_and_forgotten_once_over,
    a_probe_keeps_what_was_set_for_it_last,
    a_target_is_changed_in_place_and_takes_no_url_of_another,
}
