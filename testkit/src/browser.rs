//! A real browser on the real dashboard, driven by WebDriver.
//!
//! The driver and the browser are Debian's; `cargo xtask test` installs them. What the browser says on its
//! console, violations of the content security policy included, can be read and must be empty.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{api::install_cryptography, process::Process, wait};

/// The driver, as Debian names it.
const DRIVER: &str = "chromedriver";
/// Most time the driver may take to listen.
const START: Duration = Duration::from_secs(30);

/// A browser of its own profile. End it with [`Browser::close`].
#[derive(Debug)]
pub struct Browser {
    /// What pages are driven with.
    pub client: Client,
    session: String,
    driver: String,
    _process: Process,
    _folder: TempDir,
}

impl Browser {
    /// Starts driver and browser with a window of this size.
    pub async fn start(width: u32, height: u32) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for the browser")?;
        let mut command = Command::new(DRIVER);
        command.arg("--port=0").env("HOME", folder.path()).current_dir(folder.path());
        let mut process = Process::start(command, DRIVER, folder.path()).context(
            "start the browser's driver; as root: apt-get install -y --no-install-recommends chromium chromium-driver",
        )?;
        let port = wait::within(START, || match process.ended() {
            Some(status) => Some(Err(status)),
            None => port_in(&process.output()).map(Ok),
        });
        let port = match port {
            Some(Ok(port)) => port,
            Some(Err(status)) => bail!("{DRIVER} ended with {status}: {}", process.log()),
            None => bail!("{DRIVER} did not name its port: {}{}", process.output(), process.log()),
        };
        let driver = format!("http://127.0.0.1:{port}");
        let profile = folder.path().join("profile");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let Value::Object(wanted) = wanted else { bail!("capabilities are an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&driver)
            .await
            .context("start the browser")?;
        let session = client.session_id().await.context("ask the browser for its session")?;
        let session = session.context("the browser has no session")?;
        Ok(Self { client, session, driver, _process: process, _folder: folder })
    }

    /// Errors and warnings on the console since the last call, each as one line.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        install_cryptography();
        let url = format!("{}/session/{}/se/log", self.driver, self.session);
        let answer = reqwest::Client::new().post(url).json(&json!({ "type": "browser" })).send().await;
        let answer: Value =
            answer.context("ask for the console")?.json().await.context("read the console")?;
        let entries = answer["value"].as_array().with_context(|| format!("read the console: {answer}"))?;
        let is_complaint = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        let line = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        Ok(entries.iter().filter(is_complaint).map(line).collect())
    }

    /// Ends the browser in good order; dropping it instead kills the driver.
    pub async fn close(self) -> Result<()> {
        self.client.close().await.context("close the browser")
    }
}

/// The port in `ChromeDriver was started successfully on port 40123.`
fn port_in(output: &str) -> Option<u16> {
    let rest = output.split("started successfully on port ").nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    // Without what follows the digits, more of them may still come.
    (rest.len() > digits.len()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Script, Target};

    #[test]
    fn the_port_is_read_only_when_it_is_written_whole() {
        assert_eq!(port_in("Starting\nChromeDriver was started successfully on port 40123.\n"), Some(40123));
        assert_eq!(port_in("ChromeDriver was started successfully on port 401"), None);
        assert_eq!(port_in(""), None);
    }

    #[tokio::test]
    async fn a_browser_shows_a_page_and_its_console() {
        let target = Target::start(Script { status: 404, ..Script::default() }).await.expect("starts");
        let browser = Browser::start(800, 600).await.expect("starts");
        browser.client.goto(target.url()).await.expect("goes there");
        let text = browser.client.source().await.expect("shows it");
        assert!(text.contains("xxx"), "{text}");
        let complaints = browser.complaints().await.expect("has a console");
        assert!(complaints.iter().any(|line| line.contains("404")), "{complaints:?}");
        browser.close().await.expect("closes");
    }
}
