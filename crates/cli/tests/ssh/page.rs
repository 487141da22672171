//! The page Run in a real browser: machines are chosen, a key is accepted where it was refused, answers come in.

use std::time::Duration;

use caelum_testkit::{browser::Browser, server::PASSWORD, wait};
use fantoccini::Locator;

use crate::lab::Lab;

const SOON: Duration = Duration::from_secs(60);

async fn text(browser: &Browser, selector: &str) -> String {
    let element = browser.client.wait().at_most(SOON).for_element(Locator::Css(selector)).await;
    element.unwrap_or_else(|error| panic!("no {selector}: {error}")).text().await.expect("has a text")
}

async fn click(browser: &Browser, selector: &str) {
    let button = browser.client.find(Locator::Css(selector)).await;
    button.unwrap_or_else(|error| panic!("no {selector}: {error}")).click().await.expect("can be clicked");
}

async fn write(browser: &Browser, selector: &str, words: &str) {
    let field = browser.client.find(Locator::Css(selector)).await;
    field
        .unwrap_or_else(|error| panic!("no {selector}: {error}"))
        .send_keys(words)
        .await
        .expect("is a field");
}

async fn answers_with(browser: &Browser, what: &str) -> String {
    wait::until_answered(what, SOON, async || {
        let shown = text(browser, "#answers").await;
        shown.contains(what).then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_run_from_the_page_and_a_key_accepted_where_it_was_refused() {
    let lab = Lab::start(&[]).await;
    let sshd = lab.sshd(171, 3).await;
    lab.add_all(&sshd, 171).await;
    let other = lab.sshd(191, 1).await;
    lab.add("new", &other.addresses()[0].to_string(), other.port()).await;
    let browser = Browser::start(1440, 1000).await.expect("a browser starts");
    browser.client.goto(&format!("{}/login?next=/run", lab.server.https())).await.expect("goes there");
    write(&browser, "#name", "admin").await;
    write(&browser, "#password", PASSWORD).await;
    click(&browser, "form button[type=submit]").await;
    text(&browser, "#console").await;

    browser.client.goto(&format!("{}/run?on=tag%3Dlab", lab.server.https())).await.expect("goes there");
    assert_eq!(text(&browser, "[data-go-run] [data-chosen]").await, "4");
    write(&browser, "#run input[name=command]", "echo hello from the page").await;
    click(&browser, "[data-go-run]").await;
    let shown = answers_with(&browser, "3 machines agree").await;
    assert!(shown.contains("hello from the page") && shown.contains("1 refused"), "{shown}");
    assert!(shown.find("refused") < shown.find("3 machines agree"), "what went wrong comes first: {shown}");
    keep(&browser, "run").await;

    click(&browser, "#answers .host-key button").await;
    answers_with(&browser, "Accepted").await;
    click(&browser, "[data-go-run]").await;
    answers_with(&browser, "4 machines agree").await;
    assert_eq!(browser.complaints().await.expect("has a console"), Vec::<String>::new());
    browser.close().await.expect("closes");
}

/// Keeps a picture of the page where somebody wants to see it.
async fn keep(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("CAELUM_PICTURES") else { return };
    let picture = browser.client.screenshot().await.expect("a picture");
    let path = std::path::PathBuf::from(folder).join(format!("{name}.png"));
    std::fs::write(&path, picture).expect("written");
}
