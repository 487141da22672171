//! Running tasks, in whatever process is a node: what the worker is made of, and how it ends before the rest.

use std::{path, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    probe::Prober,
    random, tls,
    work::WorkServer,
    worker::{Remote, Runner, Settings},
};
use caelum_model::{cluster::Ceiling, config::Config, id::NodeId};
use caelum_roles::worker::WorkerRole;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{data::DataDirectory, environment};

/// Variables of this process that tasks see.
const SEEN: [&str; 5] = ["PATH", "HOME", "LANG", "USER", "TZ"];
/// Where programs are looked for when this process was not told.
const PATH_USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Time beyond all graces after which a worker is not waited for any more.
const SLACK: Duration = Duration::from_secs(2);

/// Where a worker stands.
pub(super) struct Place<'a> {
    pub(super) config: &'a Config,
    pub(super) data: &'a DataDirectory,
    pub(super) node_id: &'a NodeId,
    pub(super) ceiling: Ceiling,
    pub(super) authority_pem: &'a str,
    pub(super) server: watch::Receiver<Arc<dyn WorkServer>>,
    /// Runs tasks on other machines, on a server.
    pub(super) remote: Option<Arc<dyn Remote>>,
}

/// The time in which a worker works. It ends before the parts that it stands on.
#[derive(Clone)]
pub(super) struct Shift {
    over: CancellationToken,
    workers: TaskTracker,
    longest: Duration,
}

impl Shift {
    /// A shift that has not begun.
    pub(super) fn new(config: &Config) -> Self {
        let worker = &config.worker;
        let longest =
            Duration::from_secs(worker.grace_s) + Duration::from_millis(worker.kill_after_ms) + SLACK;
        Self { over: CancellationToken::new(), workers: TaskTracker::new(), longest }
    }

    /// Begins to work, where the settings and the node's ceiling allow it.
    pub(super) fn begin(&self, place: Place<'_>) {
        if !place.config.worker.enabled || place.ceiling < Ceiling::Tasks {
            return;
        }
        match role_of(place) {
            Ok(role) => {
                self.workers.spawn(role.run(self.over.clone()));
            }
            Err(error) => tracing::error!(
                code = "worker.none",
                error = format!("{error:#}"),
                "this machine runs no tasks"
            ),
        }
    }

    /// Takes no more tasks, and waits until those that run have ended or their grace is over.
    pub(super) async fn end(&self) {
        self.over.cancel();
        self.workers.close();
        if !self.workers.is_empty() {
            tracing::info!(code = "worker.draining", "stopping: running tasks may end");
        }
        if tokio::time::timeout(self.longest, self.workers.wait()).await.is_err() {
            tracing::warn!(code = "worker.cut", "tasks did not end in time");
        }
    }
}

fn role_of(place: Place<'_>) -> Result<WorkerRole> {
    let worker = &place.config.worker;
    let roots = tls::root_store(place.authority_pem).context("read the authorities that are trusted")?;
    let settings = Settings {
        node_id: place.node_id.clone(),
        shell: worker.shell.as_deref().unwrap_or("/bin/sh").into(),
        // Programs work elsewhere than this process does.
        directory: path::absolute(place.data.root().join("run/tasks")).context("find the tasks' place")?,
        environment: seen(environment::variables()),
        kill_after: Duration::from_millis(worker.kill_after_ms),
    };
    let prober = Prober::new(roots.clone())?;
    let slots = match worker.slots {
        0 => thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
        slots => u32::try_from(slots).unwrap_or(u32::MAX),
    };
    Ok(WorkerRole {
        run: random::secret(16),
        slots,
        grace: Duration::from_secs(worker.grace_s),
        ceiling: place.ceiling,
        server: place.server,
        runner: Arc::new(Runner::new(settings, roots, Arc::new(prober))?.with_remote(place.remote)),
    })
}

fn seen(variables: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen: Vec<_> = variables.into_iter().filter(|(name, _)| SEEN.contains(&name.as_str())).collect();
    if seen.iter().all(|(name, _)| name != "PATH") {
        seen.push(("PATH".to_owned(), PATH_USUAL.to_owned()));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_see_a_few_variables_and_no_secrets() {
        let given = |name: &str| (name.to_owned(), "x".to_owned());
        let named = |seen: Vec<(String, String)>| seen.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(named(seen(vec![given("CAELUM_TOKEN"), given("HOME"), given("PATH")])), ["HOME", "PATH"]);
        assert_eq!(named(seen(vec![given("AWS_SECRET")])), ["PATH"]);
    }
}
