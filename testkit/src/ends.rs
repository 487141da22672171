//! How soon tasks are gone that were called off, and how soon another worker has what a dead one had.
//!
//! The tasks start real processes, one of them in a session of its own, and say their ids; gone is what the kernel
//! no longer has, or only still has to bury.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{api::Api, event::now_ms, fleet::invite, process::Process, server::Server, wait};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Three processes: a shell, a child in its group, and one that left it and has no parent here.
const FAMILY: &str = "sleep 1000 & echo $!; (setsid sh -c 'echo $$ >escaped; exec sleep 1000' >/dev/null 2>&1 &) ; \
                      while ! [ -s escaped ]; do sleep 0.01; done; cat escaped; echo $$; wait";

/// What a worker's death is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Killed: the kernel closes its connections.
    Killed,
    /// Stopped in its tracks: its connections stand, and nobody answers.
    Frozen,
}

async fn ask(api: &Api, path: &str, body: &Value) -> Result<Value> {
    let answer = api.request(Method::POST, path).json(body).send().await.with_context(|| path.to_owned())?;
    let (status, text) = (answer.status(), answer.text().await.context("read the answer")?);
    if !status.is_success() {
        bail!("{path} was answered with {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("read the answer of {path}: {text}"))
}

async fn order(api: &Api, task: &Value) -> Result<String> {
    let made = ask(api, "/api/tasks", task).await?;
    Ok(made["task_id"].as_str().context("find the task's id")?.to_owned())
}

/// Whether a process runs; one that only waits to be buried does not.
fn is_alive(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// Calls so many tasks off on a node, one after the other; answers how long it took each time from asking for it
/// until nothing of the task was left. Fails where something stays.
pub async fn cancels(api: &Api, node_id: &str, count: u64) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..count {
        let task = json!({ "task_type": "shell", "task_data": FAMILY, "assigned_node": node_id });
        let id = order(api, &task).await?;
        let family = wait::until_answered("the task says who belongs to it", PATIENCE, async || {
            let output = api.json(&format!("/api/tasks/{id}/output")).await.ok()?;
            let chunks = output["output"].as_array()?.iter();
            let said: String = chunks.filter_map(|chunk| chunk["text"].as_str()).collect();
            let ids: Vec<u32> = said.lines().filter_map(|line| line.parse().ok()).collect();
            (ids.len() == 3 && said.ends_with('\n')).then_some(ids)
        })
        .await;
        if let Some(dead) = family.iter().find(|id| !is_alive(**id)) {
            bail!("process {dead} of the task ended by itself");
        }
        let begun = Instant::now();
        ask(api, &format!("/api/tasks/{id}/cancel"), &Value::Null).await?;
        while family.iter().any(|id| is_alive(*id)) {
            if begun.elapsed() > PATIENCE {
                bail!("of {family:?} something is left after {PATIENCE:?}");
            }
            wait::pass(Duration::from_millis(1));
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took)
}

/// Two agents of a server that nothing else is given to: the tasks ask for their group.
pub struct Pair<'a> {
    server: &'a Server,
    api: Api,
    agents: Vec<(String, Process)>,
}

/// The group of the two.
const GROUP: &str = "spare";

impl<'a> Pair<'a> {
    /// Admits and starts them.
    pub async fn start(server: &'a Server, api: &Api) -> Result<Self> {
        let mut pair = Self { server, api: api.clone(), agents: Vec::new() };
        for number in 0..2 {
            let token = invite(server, "agent")?;
            let folder = server.folder().join(format!("spare-{number}"));
            let folder = folder.to_str().context("temporary folders have plain names")?;
            let joined = server.run(&["join", &token, "--data", folder, "--ceiling", "shell"])?;
            if !joined.status.success() {
                bail!("an agent does not join: {}", String::from_utf8_lossy(&joined.stderr));
            }
            let id = fs::read_to_string(format!("{folder}/secrets/node.id")).context("read an agent's id")?;
            let agent = pair.begin(number)?;
            pair.agents.push((id, agent));
        }
        for (id, _) in &pair.agents {
            let path = format!("/api/nodes/{id}");
            let body = json!({ "group": GROUP });
            wait::until_answered("the agent is heard", PATIENCE, async || {
                let node = api.json(&path).await.ok()?;
                node["cpu_usage"].as_f64()?;
                let answer = api.request(Method::PATCH, &path).json(&body).send().await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
        }
        Ok(pair)
    }

    fn begin(&self, number: usize) -> Result<Process> {
        let name = format!("spare-{number}");
        let folder = self.server.folder().join(&name);
        let folder = folder.to_str().context("temporary folders have plain names")?;
        let arguments = ["agent", "--data", folder, "--port", "0", "--no-probe", "--name", &name];
        self.server
            .spawn(&name, &[&arguments[..], &["--ceiling", "shell", "--worker-slots", "2"][..]].concat())
    }

    /// Lets the one die that has a task, so often; answers how long it took each time until the other had it, by
    /// the server's clock, which is this machine's.
    pub async fn losses(&mut self, death: Death, count: u64) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        for _ in 0..count {
            let task = json!({ "task_type": "shell", "task_data": "sleep 1000", "requirements": [GROUP] });
            let id = order(&self.api, &task).await?;
            let path = format!("/api/tasks/{id}");
            let api = self.api.clone();
            let holder = wait::until_answered("the task runs", PATIENCE, async || {
                let task = api.json(&path).await.ok()?;
                (task["status"] == "running").then_some(())?;
                task["attempts"][0]["node_id"].as_str().map(str::to_owned)
            })
            .await;
            let nth = self.agents.iter().position(|(id, _)| *id == holder).context("it is with another")?;
            let begun_ms = now_ms();
            match death {
                Death::Killed => self.agents[nth].1.kill(),
                Death::Frozen => self.agents[nth].1.freeze(),
            }
            let leased_ms = wait::until_answered("another has the task", PATIENCE, async || {
                let task = api.json(&path).await.ok()?;
                let second = &task["attempts"][1];
                second["leased_at"].as_i64()
            })
            .await;
            took.push(Duration::from_millis(u64::try_from(leased_ms - begun_ms).unwrap_or(0)));
            ask(&self.api, &format!("{path}/cancel"), &Value::Null).await?;
            match death {
                Death::Killed => self.agents[nth].1 = self.begin(nth)?,
                Death::Frozen => self.agents[nth].1.thaw(),
            }
            wait::until_answered(
                "nothing is left of the task, and both ask for work",
                PATIENCE,
                async || {
                    let task = api.json(&path).await.ok()?;
                    let nodes = api.json("/api/nodes").await.ok()?;
                    let offline = nodes["nodes"].as_array()?.iter().any(|node| node["status"] == "offline");
                    (task["status"] == "cancelled" && !offline).then_some(())
                },
            )
            .await;
        }
        took.sort_unstable();
        Ok(took)
    }
}
