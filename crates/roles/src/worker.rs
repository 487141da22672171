//! The worker of a node: it asks the servers for tasks, runs them, and says what became of them.
//!
//! What is begun, ended and said is `engine::worker`; how a task runs is `drivers::worker`. This is the loop
//! between them. The servers see that it is gone by its open poll.

use std::{collections::HashMap, sync::Arc, time::Duration};

use caelum_drivers::{
    work::{WorkError, WorkServer},
    worker::{Happening, Runner},
};
use caelum_engine::worker::{Config, Input, Output, Worker};
use caelum_model::{
    cluster::Ceiling,
    task::TaskState,
    work::{Ending, Held, WorkAnswer, WorkReceipt},
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Happenings that may wait for the loop. Programs that write faster wait.
const HAPPENINGS_MAX: usize = 1_024;
/// How long the loop naps when nothing is due.
const NAP: Duration = Duration::from_secs(60);

/// What a worker stands on.
pub struct WorkerRole {
    /// Names this run: the servers tell it from the one before by it.
    pub run: String,
    /// Tasks that run at once.
    pub slots: u32,
    /// How long running tasks have when told to stop.
    pub grace: Duration,
    /// The most that this node lets others do to it.
    pub ceiling: Ceiling,
    /// The servers; exchanged when the certificate is renewed or servers come and go.
    pub server: watch::Receiver<Arc<dyn WorkServer>>,
    /// What runs tasks.
    pub runner: Arc<Runner>,
}

/// What is under way.
struct Work {
    worker: Worker,
    origin: Instant,
    server: watch::Receiver<Arc<dyn WorkServer>>,
    runner: Arc<Runner>,
    polls: FuturesUnordered<BoxFuture<'static, (u64, Result<WorkAnswer, WorkError>)>>,
    report: Option<BoxFuture<'static, Result<WorkReceipt, WorkError>>>,
    tasks: JoinSet<()>,
    names: HashMap<task::Id, Held>,
    stops: HashMap<Held, CancellationToken>,
    happenings: mpsc::Sender<(Held, Happening)>,
    /// Whether it was said that no server answers.
    is_alone: bool,
    is_drained: bool,
}

impl WorkerRole {
    /// Works until told to stop, and then until what runs has ended or its grace is over.
    pub async fn run(self, stop: CancellationToken) {
        let config = Config {
            worker: self.run,
            slots: self.slots,
            grace_ms: i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX / 2),
            ceiling: self.ceiling,
        };
        let (sender, mut happenings) = mpsc::channel(HAPPENINGS_MAX);
        let mut work = Work {
            worker: Worker::new(config),
            origin: Instant::now(),
            server: self.server,
            runner: self.runner,
            polls: FuturesUnordered::new(),
            report: None,
            tasks: JoinSet::new(),
            names: HashMap::new(),
            stops: HashMap::new(),
            happenings: sender,
            is_alone: false,
            is_drained: false,
        };
        tracing::info!(code = "worker.started", slots = self.slots, "ready for tasks");
        work.take(Input::Tick);
        let mut is_draining = false;
        while !work.is_drained {
            let wake = work.wake();
            let input = tokio::select! {
                () = stop.cancelled(), if !is_draining => {
                    is_draining = true;
                    Input::Drain
                }
                Some((held, happening)) = happenings.recv() => work.input_of(held, happening),
                Some((poll, answer)) = work.polls.next(), if !work.polls.is_empty() => {
                    work.answered(poll, answer)
                }
                received = answer_of(&mut work.report) => work.received(received),
                Some(ended) = work.tasks.join_next_with_id(), if !work.tasks.is_empty() => {
                    match work.ended(ended) {
                        Some(input) => input,
                        None => continue,
                    }
                }
                () = tokio::time::sleep_until(wake) => Input::Tick,
            };
            work.take(input);
        }
        tracing::info!(code = "worker.stopped", "no task runs here any more");
    }
}

/// The answer to the report under way.
async fn answer_of<T>(report: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = report else { return std::future::pending().await };
    let answer = future.await;
    *report = None;
    answer
}

impl Work {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn wake(&self) -> Instant {
        let at = self.worker.next_wakeup_ms().and_then(|ms| u64::try_from(ms).ok());
        at.map_or_else(
            || Instant::now() + NAP,
            |ms| (self.origin + Duration::from_millis(ms)).min(Instant::now() + NAP),
        )
    }

    fn take(&mut self, input: Input) {
        for output in self.worker.handle(self.now_ms(), input) {
            match output {
                Output::Begin(lease) => {
                    let (held, stop) = (lease.held.clone(), CancellationToken::new());
                    self.stops.insert(held.clone(), stop.clone());
                    let (runner, happenings) = (Arc::clone(&self.runner), self.happenings.clone());
                    let begun = self.tasks.spawn(async move { runner.run(lease, stop, happenings).await });
                    self.names.insert(begun.id(), held);
                }
                Output::Stop(held) => {
                    if let Some(stop) = self.stops.get(&held) {
                        stop.cancel();
                    }
                }
                Output::Poll { poll, ask } => {
                    let server = Arc::clone(&self.server.borrow());
                    self.polls.push(async move { (poll, server.poll(&ask).await) }.boxed());
                }
                Output::Report(report) => {
                    let server = Arc::clone(&self.server.borrow());
                    self.report = Some(async move { server.report(&report).await }.boxed());
                }
                Output::Drained => self.is_drained = true,
            }
        }
    }

    fn input_of(&mut self, held: Held, happening: Happening) -> Input {
        match happening {
            Happening::Started => Input::Started(held),
            Happening::Output(chunk) => Input::Output { held, chunk },
            Happening::Ended(ending) => {
                self.stops.remove(&held);
                Input::Ended { held, ending }
            }
        }
    }

    fn answered(&mut self, poll: u64, answer: Result<WorkAnswer, WorkError>) -> Input {
        match answer {
            Ok(answer) => {
                if std::mem::take(&mut self.is_alone) {
                    tracing::info!(code = "worker.heard", "a server answers again");
                }
                Input::Answered { poll, answer }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_alone, true) {
                    tracing::warn!(
                        code = "worker.no_server", error = %error,
                        "no server gives tasks; what runs runs on, and asking goes on"
                    );
                }
                Input::Unanswered { poll }
            }
        }
    }

    fn received(&mut self, received: Result<WorkReceipt, WorkError>) -> Input {
        match received {
            Ok(receipt) => Input::Received(receipt),
            Err(error) if error.is_final() => {
                tracing::error!(code = "worker.not_said", error = %error, "a report is given up");
                Input::Rejected
            }
            Err(error) => {
                tracing::debug!(code = "worker.unheard", error = %error, "a report is sent again");
                Input::Unreceived
            }
        }
    }

    /// A task whose code failed says nothing itself.
    fn ended(&mut self, ended: Result<(task::Id, ()), task::JoinError>) -> Option<Input> {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let held = self.names.remove(&id)?;
        let error = ended.err()?;
        tracing::error!(code = "worker.task_panicked", task = %held.task_id, %error, "this is a bug");
        self.stops.remove(&held);
        let ending = Ending {
            outcome: TaskState::Failed,
            exit_code: None,
            error: Some("the worker itself failed at this task".to_owned()),
            output_bytes: 0,
        };
        Some(Input::Ended { held, ending })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use async_trait::async_trait;
    use caelum_drivers::{probe::Scripted, tls, worker::Settings};
    use caelum_model::{
        id::{NodeId, TaskId},
        task::TaskKind,
        work::{TaskLease, WorkItem, WorkPoll, WorkReport},
    };
    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    /// A server that gives out what it has and writes down what it is told.
    #[derive(Default)]
    struct Fake {
        leases: Mutex<VecDeque<TaskLease>>,
        cancel: Mutex<Vec<Held>>,
        items: Mutex<Vec<WorkItem>>,
        held: Mutex<Vec<Held>>,
        /// Reports that are still to be lost.
        losses: Mutex<u32>,
        news: Notify,
    }

    #[async_trait]
    impl WorkServer for Fake {
        async fn poll(&self, ask: &WorkPoll) -> Result<WorkAnswer, WorkError> {
            self.held.lock().unwrap().clone_from(&ask.held);
            loop {
                let news = self.news.notified();
                let mut answer = WorkAnswer {
                    cancel: std::mem::take(&mut *self.cancel.lock().unwrap()),
                    ..WorkAnswer::default()
                };
                for _ in 0..ask.free {
                    answer.leases.extend(self.leases.lock().unwrap().pop_front());
                }
                if answer != WorkAnswer::default() {
                    return Ok(answer);
                }
                news.await;
            }
        }

        async fn report(&self, report: &WorkReport) -> Result<WorkReceipt, WorkError> {
            {
                let mut losses = self.losses.lock().unwrap();
                if *losses > 0 {
                    *losses -= 1;
                    return Err(WorkError::Unreachable { url: "here".to_owned(), detail: "lost".to_owned() });
                }
            }
            self.items.lock().unwrap().extend(report.items.iter().cloned());
            self.news.notify_waiters();
            Ok(WorkReceipt::default())
        }
    }

    impl Fake {
        fn give(&self, name: &str, command: &str) -> Held {
            let held = Held { task_id: TaskId::parse(name).unwrap(), fence: 1 };
            self.leases.lock().unwrap().push_back(TaskLease {
                held: held.clone(),
                attempt: 1,
                task_type: TaskKind::Shell,
                task_data: json!({ "command": command }),
                timeout_seconds: 60,
                lease_ms: 15_000,
            });
            self.news.notify_waiters();
            held
        }

        fn endings(&self) -> Vec<(String, TaskState)> {
            let items = self.items.lock().unwrap();
            let ending = |item: &WorkItem| match item {
                WorkItem::Finished { held, ending } => Some((held.task_id.to_string(), ending.outcome)),
                _ => None,
            };
            items.iter().filter_map(ending).collect()
        }

        fn said(&self) -> String {
            let items = self.items.lock().unwrap();
            let text = |item: &WorkItem| match item {
                WorkItem::Output { chunk, .. } => Some(chunk.text.clone()),
                _ => None,
            };
            items.iter().filter_map(text).collect()
        }

        async fn until(&self, is_so: impl Fn(&Self) -> bool) {
            let look = async {
                while !is_so(self) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), look).await.expect("comes about");
        }
    }

    struct World {
        server: Arc<Fake>,
        stop: CancellationToken,
        role: task::JoinHandle<()>,
        _server: watch::Sender<Arc<dyn WorkServer>>,
        _folder: tempfile::TempDir,
    }

    fn world(server: Fake, grace: Duration) -> World {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            node_id: NodeId::parse("n-1").unwrap(),
            shell: "/bin/sh".into(),
            directory: folder.path().join("tasks"),
            environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            kill_after: Duration::from_millis(100),
        };
        let runner =
            Runner::new(settings, tls::root_store("").unwrap(), Arc::new(Scripted::default())).unwrap();
        let server = Arc::new(server);
        let as_server: Arc<dyn WorkServer> = Arc::clone(&server) as Arc<dyn WorkServer>;
        let sender = watch::Sender::new(as_server);
        let role = WorkerRole {
            run: "w".to_owned(),
            slots: 2,
            grace,
            ceiling: Ceiling::Shell,
            server: sender.subscribe(),
            runner: Arc::new(runner),
        };
        let stop = CancellationToken::new();
        let role = tokio::spawn(role.run(stop.clone()));
        World { server, stop, role, _server: sender, _folder: folder }
    }

    #[tokio::test]
    async fn tasks_are_run_as_slots_come_free_and_everything_is_said() {
        let world = world(Fake::default(), Duration::from_secs(5));
        for number in 0..10 {
            world.server.give(&format!("t-{number}"), "echo hello");
        }
        world.server.until(|server| server.endings().len() == 10).await;
        assert!(world.server.endings().iter().all(|(_, outcome)| *outcome == TaskState::Succeeded));
        assert_eq!(world.server.said(), "hello\n".repeat(10));
        world.stop.cancel();
        world.role.await.expect("ends");
    }

    #[tokio::test]
    async fn a_report_that_is_lost_is_said_again() {
        let world = world(Fake { losses: Mutex::new(2), ..Fake::default() }, Duration::from_secs(5));
        world.server.give("t-1", "echo hello");
        world.server.until(|server| server.endings().len() == 1).await;
        assert_eq!(world.server.said(), "hello\n");
    }

    #[tokio::test]
    async fn a_task_that_is_called_off_ends() {
        let world = world(Fake::default(), Duration::from_secs(5));
        let held = world.server.give("t-1", "echo ready; sleep 1000");
        world.server.until(|server| server.said() == "ready\n").await;
        world.server.cancel.lock().unwrap().push(held);
        world.server.news.notify_waiters();
        world.server.until(|server| server.endings() == [("t-1".to_owned(), TaskState::Cancelled)]).await;
    }

    #[tokio::test]
    async fn what_runs_may_end_before_the_worker_does() {
        let world = world(Fake::default(), Duration::from_secs(20));
        world.server.give("t-1", "echo ready; sleep 0.3; echo done");
        world.server.until(|server| server.said() == "ready\n").await;
        world.stop.cancel();
        world.role.await.expect("ends");
        assert_eq!(world.server.endings(), [("t-1".to_owned(), TaskState::Succeeded)]);
        assert_eq!(world.server.said(), "ready\ndone\n");
    }

    #[tokio::test]
    async fn after_the_grace_a_worker_ends_what_still_runs_and_says_nothing() {
        let world = world(Fake::default(), Duration::from_millis(50));
        world.server.give("t-1", "echo ready; sleep 1000");
        world.server.until(|server| server.said() == "ready\n").await;
        world.stop.cancel();
        world.role.await.expect("ends");
        assert!(world.server.endings().is_empty());
    }
}
