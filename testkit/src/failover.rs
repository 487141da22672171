//! How soon a page goes on when the server that it is on is killed: a reader that does as the page's script
//! does, through a real load balancer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    api::Api,
    fleet::{Balancer, Fleet, PATIENCE},
    wait,
};

/// Pauses before a new stream, as in `live.js` (without its jitter, at its longest).
const WAITS: [Duration; 4] = [
    Duration::from_millis(375),
    Duration::from_millis(1_250),
    Duration::from_millis(2_500),
    Duration::from_millis(5_000),
];
/// The stream of the page of targets.
const LIVE: &str = "/api/live?page=settings&topics=targets,probes";

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Resumed {
    /// From the kill to the first block of the new stream.
    pub resumed: Duration,
    /// From the kill until what was written after it, by somebody else, is on the page.
    pub shown: Duration,
}

/// What the page has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The newest block of targets.
    block: String,
    /// When the first block of the stream came.
    stream_at: Option<Instant>,
    /// Whose stream it is.
    node_id: String,
    /// Why the page can go on no more.
    over: Option<String>,
}

/// A page that is open. It closes when this is dropped.
struct Page {
    seen: Arc<Mutex<Seen>>,
    reading: JoinHandle<()>,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Page {
    fn open(api: Api) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let reading = tokio::spawn(read_on(api, Arc::clone(&seen)));
        Self { seen, reading }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_on(api: Api, seen: Arc<Mutex<Seen>>) {
    let seen = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut tries, mut last_id) = (0, String::new());
    loop {
        let path = if last_id.is_empty() { LIVE.to_owned() } else { format!("{LIVE}&last={last_id}") };
        if let Ok(mut answer) = api.answer(&path).await {
            if answer.status() == 401 {
                seen().over = Some("the session is over".to_owned());
                return;
            }
            let node = answer.headers().get("x-caelum-node").and_then(|name| name.to_str().ok());
            let node_id = node.unwrap_or_default().to_owned();
            let (mut text, mut is_first) = (String::new(), true);
            while let Ok(Some(bytes)) = answer.chunk().await {
                text.push_str(&String::from_utf8_lossy(&bytes));
                while let Some((event, rest)) = text.split_once("\n\n") {
                    tries = 0;
                    if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id:")) {
                        last_id = id.trim().to_owned();
                    }
                    if event.lines().any(|line| line.trim() == "event: targets") {
                        let mut seen = seen();
                        seen.block = event.to_owned();
                        if std::mem::take(&mut is_first) {
                            seen.stream_at = Some(Instant::now());
                            seen.node_id.clone_from(&node_id);
                        }
                    }
                    text = rest.to_owned();
                }
            }
        }
        tokio::time::sleep(WAITS[tries.min(WAITS.len() - 1)]).await;
        tries += 1;
    }
}

/// Kills the server that a signed-in page is on, again and again, and brings it back. Fails where the session
/// ends, or where something that was acknowledged is not on the page.
pub async fn measure(fleet: &mut Fleet, balancer: &Balancer, kills: usize) -> Result<Vec<Resumed>> {
    let through = fleet.servers[0].api()?.at(&balancer.https());
    let api = wait::until_answered("somebody signs in through the balancer", PATIENCE, async || {
        through.signed_in().await.ok()
    })
    .await;
    let ids: Vec<String> = fleet
        .servers
        .iter()
        .map(|server| std::fs::read_to_string(server.data().join("secrets/node.id")))
        .collect::<Result<_, _>>()
        .context("read the servers' ids")?;
    let page = Page::open(api.clone());
    let mut resumed = Vec::new();
    let mut written = vec![write(&api, 0).await];
    for number in 1..=kills {
        shown(&page, &written).await?;
        let on = page.seen().node_id.clone();
        let Some(nth) = ids.iter().position(|id| *id == on) else {
            bail!("the page is on no known server: {on:?}")
        };
        page.seen().stream_at = None;
        let begun = Instant::now();
        fleet.servers[nth].kill();
        written.push(write(&api, number).await);
        let first = wait::until_answered("the page goes on", PATIENCE, async || page.seen().stream_at).await;
        shown(&page, &written).await?;
        resumed.push(Resumed { resumed: first - begun, shown: begun.elapsed() });
        tokio::task::block_in_place(|| fleet.servers[nth].start())?;
        wait::until_answered("the server is back", PATIENCE, async || {
            let api = fleet.servers[nth].api().ok()?;
            let answer = api.answer("/api/fleet/cluster/health").await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }
    if let Some(why) = &page.seen().over {
        bail!("the page ended: {why}");
    }
    Ok(resumed)
}

/// Adds a target through the balancer, again until it is acknowledged. Answers its name.
async fn write(api: &Api, number: usize) -> String {
    let name = format!("written-{number:04}");
    let target =
        json!({ "url": format!("tcp://192.0.2.1:{}", 1_000 + number), "name": name, "enabled": false });
    wait::until_answered("something is written", PATIENCE, async || {
        let answer = api.request(Method::POST, "/api/targets").json(&target).send().await.ok()?;
        // The answer to the first try may have been lost.
        (answer.status().is_success() || answer.status() == 409).then_some(())
    })
    .await;
    name
}

/// Waits until everything that was acknowledged is on the page.
async fn shown(page: &Page, written: &[String]) -> Result<()> {
    let seen = wait::until_answered("everything that was written is on the page", PATIENCE, async || {
        let seen = page.seen();
        if let Some(why) = &seen.over {
            return Some(Err(why.clone()));
        }
        (seen.stream_at.is_some() && written.iter().all(|name| seen.block.contains(name.as_str())))
            .then_some(Ok(()))
    });
    seen.await.map_err(|why| anyhow::anyhow!("the page ended: {why}"))
}
