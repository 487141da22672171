//! The dashboard as a person meets it: a real browser on the real program.
//!
//! Every page that is visited must leave the console empty: no script error, nothing missing, nothing that
//! the content security policy forbids.

use std::time::Duration;

use caelum_testkit::{
    browser::Browser,
    event::{ndjson, now_ms},
    server::{PASSWORD, Plan, Server},
    story::{CASES, PROBE, Story},
    target::{Script, Target},
    wait,
};
use fantoccini::Locator;

/// Most time for something to appear on a page, on a machine that is busy with other tests.
const APPEARS: Duration = Duration::from_secs(60);

fn server() -> Server {
    let plan = Plan::new(env!("CARGO_BIN_EXE_caelum")).with_probe();
    plan.with(&["--agent-sample-interval-s", "1"]).start().expect("the server starts")
}

/// The text of the first element that a selector finds, once there is one.
async fn text(browser: &Browser, selector: &str) -> String {
    let element = browser.client.wait().at_most(APPEARS).for_element(Locator::Css(selector)).await;
    element.unwrap_or_else(|error| panic!("no {selector}: {error}")).text().await.expect("has a text")
}

async fn type_into(browser: &Browser, selector: &str, words: &str) {
    let field = browser.client.find(Locator::Css(selector)).await;
    field
        .unwrap_or_else(|error| panic!("no {selector}: {error}"))
        .send_keys(words)
        .await
        .expect("can be typed in");
}

async fn click(browser: &Browser, selector: &str) {
    let button = browser.client.find(Locator::Css(selector)).await;
    button.unwrap_or_else(|error| panic!("no {selector}: {error}")).click().await.expect("can be clicked");
}

async fn sign_in(browser: &Browser, server: &Server) {
    browser.client.goto(&server.https()).await.expect("goes there");
    type_into(browser, "#name", "admin").await;
    type_into(browser, "#password", PASSWORD).await;
    click(browser, "form button[type=submit]").await;
    text(browser, "[data-live=verdict]").await;
}

async fn assert_calm(browser: &Browser, place: &str) {
    assert_eq!(browser.complaints().await.expect("has a console"), Vec::<String>::new(), "on {place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_sees_this_machine_move() {
    let server = server();
    let browser = Browser::start(1440, 900).await.expect("a browser starts");
    sign_in(&browser, &server).await;
    assert_calm(&browser, "the overview").await;

    browser.client.goto(&format!("{}/machines", server.https())).await.expect("goes there");
    let first = wait::until_answered("this machine is listed", APPEARS, async || {
        let listed = text(&browser, "[data-live=machines]").await;
        listed.contains('%').then_some(listed)
    })
    .await;
    wait::until_answered("its numbers change without a reload", APPEARS, async || {
        (text(&browser, "[data-live=machines]").await != first).then_some(())
    })
    .await;
    assert_calm(&browser, "machines").await;

    for page in ["/network", "/settings/targets"] {
        browser.client.goto(&format!("{}{page}", server.https())).await.expect("goes there");
        text(&browser, "[data-live=verdict]").await;
        assert_calm(&browser, page).await;
    }
    browser.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_added_on_the_page_is_soon_measured() {
    let server = server();
    let target = Target::start(Script::default()).await.expect("a target starts");
    let browser = Browser::start(1024, 768).await.expect("a browser starts");
    sign_in(&browser, &server).await;

    browser.client.goto(&format!("{}/settings/targets", server.https())).await.expect("goes there");
    type_into(&browser, "#f-url", target.url()).await;
    type_into(&browser, "#f-name", "Scripted").await;
    click(&browser, "#add button.btn--primary").await;

    let row = format!("//section[@data-live='targets']//tr[contains(., '{}')]", target.url());
    wait::until_answered("its first measurement is shown", APPEARS, async || {
        let row = browser.client.find(Locator::XPath(&row)).await.ok()?;
        row.find(Locator::Css("time")).await.is_ok().then_some(())
    })
    .await;
    assert_calm(&browser, "targets").await;
    browser.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_became_slow_is_named_with_its_stage_on_the_open_page() {
    let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("the server starts");
    let browser = Browser::start(1440, 900).await.expect("a browser starts");
    sign_in(&browser, &server).await;
    let case = CASES.into_iter().find(|case| case.label == Some("Server-bound")).expect("one is");
    browser.client.goto(&format!("{}/network?probe={PROBE}", server.https())).await.expect("goes there");
    let calm = text(&browser, "[data-live=verdicts]").await;
    assert!(!calm.contains("Server-bound"), "{calm}");

    // The page is open while the events come in; the verdict appears on it without a reload.
    let story = Story::until(now_ms(), 0);
    let sender = server.api().expect("a client").with_token(&server.token("ingest").expect("a token"));
    for part in story.events.chunks(500) {
        let (status, answer) =
            sender.post_events("application/x-ndjson", ndjson(part)).await.expect("answered");
        assert_eq!(status, 202, "{answer}");
    }
    let host = case.url().trim_start_matches("https://").trim_end_matches('/').to_owned();
    let row = format!("//li[@class='incident'][contains(., 'Server-bound')][contains(., '{host}')]");
    let row = browser.client.wait().at_most(APPEARS).for_element(Locator::XPath(&row)).await;
    let sentence = row.expect("the verdict appears").text().await.expect("has a text");
    assert!(sentence.contains("confident"), "{sentence}");
    let listed = text(&browser, "[data-live=verdicts]").await;
    assert!(!listed.contains("healthy"), "{listed}");
    assert_calm(&browser, "the network page").await;
    browser.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_that_everything_is_counted_and_how_complete_this_probe_is() {
    let server = server();
    let browser = Browser::start(1440, 900).await.expect("a browser starts");
    sign_in(&browser, &server).await;
    browser.client.goto(&format!("{}/network", server.https())).await.expect("goes there");
    text(&browser, "[data-live=verdict]").await;
    // By keyboard, as the help of the keys says.
    let body = browser.client.find(Locator::Css("body")).await.expect("a page");
    body.send_keys("ge").await.expect("can be typed");
    wait::until_answered("the rates are known from two looks", APPEARS, async || {
        let stations = text(&browser, "[data-live=stations]").await;
        (stations.matches("events/s").count() == 2).then_some(())
    })
    .await;
    wait::until_answered("the probe's events are counted", APPEARS, async || {
        let sentence = text(&browser, "h1").await;
        sentence.starts_with("Everything that was accepted is counted; the newest event").then_some(())
    })
    .await;
    assert_calm(&browser, "the pipeline").await;

    browser.client.goto(&format!("{}/settings/targets", server.https())).await.expect("goes there");
    text(&browser, "[data-live=probes] a").await;
    click(&browser, "[data-live=probes] a").await;
    wait::until_answered("the probe's minutes are counted", APPEARS, async || {
        text(&browser, "[data-live=complete]").await;
        browser.client.find(Locator::Css(".cell[data-kind=whole]")).await.ok()
    })
    .await;
    let sentence = text(&browser, "h1").await;
    assert!(sentence.contains("is complete through"), "{sentence}");
    assert_calm(&browser, "the probe").await;
    browser.close().await.expect("closes");
}
