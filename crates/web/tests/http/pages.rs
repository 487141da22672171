//! The dashboard as a browser without scripts would meet it, and the stream that keeps a page live.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_model::{
    access::Scope,
    host::{HostIdentity, HostSample, Usage},
    id::NodeId,
    node::{LinkFacts, Node, NodePoint},
};
use caelum_roles::bus::Change;
use caelum_web::serve::Transport;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::fixture::{Fixture, NOW_MS};

pub struct Answer {
    pub status: StatusCode,
    pub location: String,
    cookie: String,
    pub html: String,
}

async fn visit(fixture: &Fixture, request: axum::http::request::Builder, body: String) -> Answer {
    let mut request = request.header(header::ACCEPT, "text/html").body(Body::from(body)).expect("a request");
    request.extensions_mut().insert(Transport {
        peer: ([127, 0, 0, 1], 40_000).into(),
        is_tls: true,
        node: None,
    });
    let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
    let text = |name| {
        response
            .headers()
            .get(name)
            .map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
    };
    let (location, cookie) = (text(header::LOCATION), text(header::SET_COOKIE));
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("the body ends").to_bytes();
    Answer { status, location, cookie, html: String::from_utf8_lossy(&bytes).into_owned() }
}

pub async fn look(fixture: &Fixture, path: &str, cookie: &str) -> Answer {
    visit(fixture, Request::get(path).header(header::COOKIE, cookie), String::new()).await
}

pub async fn post(fixture: &Fixture, path: &str, cookie: &str, form: &str) -> Answer {
    let request = Request::post(path)
        .header(header::COOKIE, cookie)
        .header(header::HOST, "caelum.test")
        .header(header::ORIGIN, "https://caelum.test")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    visit(fixture, request, form.to_owned()).await
}

pub async fn signed_in(fixture: &Fixture, name: &str) -> String {
    let answer = post(fixture, "/login", "", &format!("name={name}&password=correct+horse")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    answer.cookie.split(';').next().expect("a cookie").to_owned()
}

async fn put_machine(fixture: &Fixture, name: &str, cpu_percent: f64) {
    let sample = HostSample {
        at_ms: NOW_MS,
        cpu_percent,
        memory: Usage { total_bytes: 100, used_bytes: 40 },
        load_average: [0.1; 3],
        ..HostSample::default()
    };
    let point = NodePoint::of(&sample, NOW_MS);
    let node = Node {
        node_id: NodeId::parse("n-test").expect("valid"),
        name: name.into(),
        identity: HostIdentity { cpu_cores: 4, ..HostIdentity::default() },
        roles: vec!["server".into()],
        version: "0".into(),
        joined_at_ms: NOW_MS - 60_000,
        seen_at_ms: NOW_MS,
        sample: Some(sample),
        links: LinkFacts::default(),
    };
    fixture.state.store.put_node(node, Some(point)).await.expect("stored");
}

#[tokio::test]
async fn a_page_leads_to_signing_in_and_from_there_back() {
    let fixture = Fixture::new().await;
    let away = look(&fixture, "/network?range=24h", "").await;
    assert_eq!(
        (away.status, away.location.as_str()),
        (StatusCode::SEE_OTHER, "/login?next=/network%3Frange%3D24h")
    );
    let form = look(&fixture, &away.location, "").await;
    assert!(form.html.contains("name=\"next\" value=\"/network?range=24h\""), "{}", form.html);
    let back =
        post(&fixture, "/login", "", "name=admin&password=correct+horse&next=/network?range=24h").await;
    assert_eq!((back.status, back.location.as_str()), (StatusCode::SEE_OTHER, "/network?range=24h"));
    let elsewhere =
        post(&fixture, "/login", "", "name=admin&password=correct+horse&next=//evil.example").await;
    assert_eq!(elsewhere.location, "/");
}

#[tokio::test]
async fn a_failed_sign_in_does_not_say_which_of_the_two_was_wrong() {
    let fixture = Fixture::new().await;
    let wrong_password = post(&fixture, "/login", "", "name=admin&password=x").await;
    let wrong_name = post(&fixture, "/login", "", "name=nobody&password=x").await;
    assert_eq!(wrong_password.status, StatusCode::UNAUTHORIZED);
    assert_eq!(wrong_password.html.replace("admin", "nobody"), wrong_name.html);
}

#[tokio::test]
async fn after_repeated_failures_the_page_counts_down() {
    let fixture = Fixture::new().await;
    let mut last = post(&fixture, "/login", "", "name=admin&password=x").await;
    for _ in 0..20 {
        if last.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        last = post(&fixture, "/login", "", "name=admin&password=x").await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(last.html.contains("data-count="), "{}", last.html);
}

#[tokio::test]
async fn every_page_opens_on_an_empty_store_and_with_a_machine() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "looker").await;
    for round in ["empty", "with a machine"] {
        for path in [
            "/",
            "/machines",
            "/network",
            "/settings/targets",
            "/run",
            "/run?on=all&command=uptime",
            "/?range=30d",
            "/network?measure=latency&probe=x&target=y",
        ] {
            let page = look(&fixture, path, &cookie).await;
            assert_eq!(page.status, StatusCode::OK, "{path}, {round}");
            assert!(page.html.contains("<h1>"), "{path}, {round}");
        }
        put_machine(&fixture, "a/b c", 12.0).await;
    }
    let machine = look(&fixture, "/machines/a%2Fb%20c", &cookie).await;
    assert_eq!(machine.status, StatusCode::OK);
    assert!(machine.html.contains("a/b c is healthy."), "{}", machine.html);
    let nobody = look(&fixture, "/machines/nobody", &cookie).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    assert!(nobody.html.contains("There is no such page."));
}

#[tokio::test]
async fn a_wrong_path_answers_people_with_a_page_and_programs_with_json() {
    let fixture = Fixture::new().await;
    let page = look(&fixture, "/nonsense", "").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.html.contains("<h1>There is no such page.</h1>"));
    let token = fixture.token(Scope::Read).await;
    let (status, json) = fixture.get("/nonsense", &token).await;
    assert_eq!((status, json["error"]["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    let api = look(&fixture, "/api/nonsense", "").await;
    assert!(api.html.starts_with('{'), "{}", api.html);
}

#[tokio::test]
async fn a_target_is_added_and_removed_by_form_and_a_refused_one_keeps_what_was_typed() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let refused = post(
        &fixture,
        "/settings/targets",
        &cookie,
        "url=gopher%3A%2F%2Fx&name=%3Cb%3E&interval_s=7&timeout_ms=900",
    )
    .await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.html.contains("value=\"gopher://x\""), "{}", refused.html);
    assert!(!refused.html.contains("<b>\""), "typed text is escaped");
    let added = post(
        &fixture,
        "/settings/targets",
        &cookie,
        "url=https%3A%2F%2Fexample.net%2F&name=&interval_s=7&timeout_ms=900&families=both",
    )
    .await;
    assert_eq!((added.status, added.location.as_str()), (StatusCode::SEE_OTHER, "/settings/targets"));
    let targets = fixture.state.store.targets().await.expect("readable");
    assert_eq!((targets.len(), targets[0].interval_s, targets[0].timeout_ms), (1, 7, 900));
    let again =
        post(&fixture, "/settings/targets", &cookie, "url=https%3A%2F%2Fexample.net%2F&interval_s=7").await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let form = format!("target_id={}", targets[0].target_id);
    let removed = post(&fixture, "/settings/targets/remove", &cookie, &form).await;
    assert_eq!(removed.status, StatusCode::SEE_OTHER);
    assert!(fixture.state.store.targets().await.expect("readable").is_empty());
}

#[tokio::test]
async fn a_viewer_who_posts_a_target_anyway_is_refused_with_a_page() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "looker").await;
    let refused = post(&fixture, "/settings/targets", &cookie, "url=https%3A%2F%2Fexample.net%2F").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.html.contains("This is not allowed."));
    assert!(fixture.state.store.targets().await.expect("readable").is_empty());
}

#[tokio::test]
async fn signing_out_ends_the_session() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let out = post(&fixture, "/logout", &cookie, "").await;
    assert_eq!((out.status, out.location.as_str()), (StatusCode::SEE_OTHER, "/login"));
    assert_eq!(look(&fixture, "/", &cookie).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_theme_is_remembered_in_a_cookie_and_written_by_the_server() {
    let fixture = Fixture::new().await;
    let chosen = post(&fixture, "/theme", "", "theme=dark").await;
    assert!(chosen.cookie.starts_with("caelum_theme=dark; Path=/; SameSite=Lax"), "{}", chosen.cookie);
    let page = look(&fixture, "/login", "caelum_theme=dark").await;
    assert!(page.html.contains("<html lang=\"en\" data-theme=\"dark\">"));
}

/// A stream with what it has said so far.
pub struct Stream {
    body: Body,
    said: String,
}

impl Stream {
    pub async fn open(fixture: &Fixture, cookie: &str, query: &str) -> Self {
        let mut request = Request::get(format!("/api/live?{query}"))
            .header(header::COOKIE, cookie)
            .body(Body::empty())
            .expect("a request");
        request.extensions_mut().insert(Transport {
            peer: ([127, 0, 0, 1], 40_000).into(),
            is_tls: true,
            node: None,
        });
        let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
        Self { body: response.into_body(), said: String::new() }
    }

    /// Reads until the stream says something, and answers with everything said up to there.
    pub async fn until(&mut self, wanted: &str) -> String {
        for _ in 0..200 {
            if let Some(at) = self.said.find(wanted) {
                let rest = self.said.split_off(at + wanted.len());
                return std::mem::replace(&mut self.said, rest);
            }
            let frame = self.body.frame().await.expect("the stream goes on").expect("no error");
            if let Ok(data) = frame.into_data() {
                self.said.push_str(&String::from_utf8_lossy(&data));
            }
        }
        panic!("{wanted} was not said in 200 frames: {}", self.said);
    }
}

#[tokio::test]
async fn a_stream_begins_with_every_block_and_then_sends_only_what_changed() {
    let fixture = Fixture::new().await;
    put_machine(&fixture, "alpha", 12.0).await;
    let cookie = signed_in(&fixture, "looker").await;
    let mut stream =
        Stream::open(&fixture, &cookie, "topics=verdict,tiles,alerts,events&page=overview").await;
    let first = stream.until("event: clock").await;
    for topic in ["verdict", "tiles", "alerts", "events"] {
        assert_eq!(first.matches(&format!("event: {topic}\n")).count(), 1, "{topic} in {first}");
    }
    put_machine(&fixture, "alpha", 99.0).await;
    fixture.state.bus.publish(Change::NodeSampled);
    let changed = stream.until("CPU at 99\u{a0}%").await;
    assert!(changed.contains("event: tiles"), "{changed}");
    assert!(!changed.contains("event: events"), "events did not change: {changed}");
}

#[tokio::test]
async fn events_are_numbered_and_a_reader_who_returns_counts_on() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "looker").await;
    let mut stream = Stream::open(&fixture, &cookie, "topics=verdict&page=overview&last=41").await;
    let said = stream.until("\n\n").await;
    assert!(said.contains("id: 42\n"), "{said}");
}

#[tokio::test]
async fn a_machine_page_gets_its_charts_as_points() {
    let fixture = Fixture::new().await;
    put_machine(&fixture, "alpha", 12.5).await;
    let cookie = signed_in(&fixture, "looker").await;
    let query = "topics=machine-charts,cores&page=machines&machine=alpha";
    let mut stream = Stream::open(&fixture, &cookie, query).await;
    let said = stream.until("\"chart-cpu\"").await + &stream.until("\n").await;
    assert!(said.contains("event: points") && said.contains("\"reset\":true"), "{said}");
    assert!(said.contains("12.5"), "{said}");
}

#[tokio::test]
async fn nobody_gets_a_stream_without_being_signed_in() {
    let fixture = Fixture::new().await;
    let answer = look(&fixture, "/api/live?topics=verdict&page=overview", "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_topology_is_a_page_and_a_live_one() {
    let fixture = Fixture::new().await;
    put_machine(&fixture, "alpha", 12.0).await;
    let cookie = signed_in(&fixture, "looker").await;
    let page = look(&fixture, "/topology?link=n-test,n-x&sort=-rtt", &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.contains("This is the only node so far."), "{}", page.html);
    assert!(page.html.contains("These two are not linked now."));
    let query = "topics=topology,links,link&page=topology&link=n-test,n-x";
    let mut stream = Stream::open(&fixture, &cookie, query).await;
    let said = stream.until("event: clock").await;
    for topic in ["topology", "links", "link"] {
        assert_eq!(said.matches(&format!("event: {topic}\n")).count(), 1, "{topic} in {said}");
    }
}

#[tokio::test]
async fn a_machine_is_invited_by_form_and_the_command_is_shown_once() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let made = post(&fixture, "/machines/invite", &cookie, "").await;
    assert_eq!(made.status, StatusCode::OK);
    assert!(made.html.contains("caelum join "), "{}", made.html);
    let looker = signed_in(&fixture, "looker").await;
    let refused = post(&fixture, "/machines/invite", &looker, "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.html.contains("This is not allowed."), "{}", refused.html);
}

#[tokio::test]
async fn what_forms_of_the_machines_page_cannot_do_is_said_on_a_page() {
    let fixture = Fixture::new().await;
    let cookie = signed_in(&fixture, "admin").await;
    let unknown = post(&fixture, "/machines/adopt", &cookie, "machine_id=n-nobody&code=ABCD-EFGH").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.html.contains("<h1>The machine was not adopted.</h1>"), "{}", unknown.html);
    let off = post(&fixture, "/machines/discover", &cookie, "").await;
    assert_eq!(off.status, StatusCode::CONFLICT);
    assert!(off.html.contains("Discovery is switched off here"), "{}", off.html);
    let nowhere = post(&fixture, "/machines/connect", &cookie, "host=127.0.0.1&port=0").await;
    assert_eq!(nowhere.status, StatusCode::BAD_REQUEST);
    assert!(nowhere.html.contains("No connection was made."), "{}", nowhere.html);
}
