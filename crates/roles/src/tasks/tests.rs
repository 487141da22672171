//! The desk against workers that are a few lines each, by a clock that moves when told.

use std::{sync::Arc, time::Duration};

use caelum_drivers::clock::{Clock as _, ManualClock};
use caelum_engine::task::order;
use caelum_model::{
    cluster::{Ceiling, Liveness, Member, Roster},
    host::HostIdentity,
    id::{NodeId, TaskId},
    node::{LinkFacts, Node, Thresholds},
    task::{LEASE_MS, Missed, OutputChunk, Promise, Schedule, Task, TaskAsk, TaskState},
    work::{Ending, Held, WorkAnswer, WorkItem, WorkPoll, WorkReport},
};
use caelum_store::{Store, StoreError, TaskStep};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::{Desk, Parts, RETURN_MS, Scheduler, TaskEvent, new_task};
use crate::bus::Bus;

const START: i64 = 1_000_000;

struct World {
    desk: Arc<Desk>,
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    roster: watch::Sender<Arc<Roster>>,
    _folder: tempfile::TempDir,
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).expect("valid")
}

fn ask() -> TaskAsk {
    TaskAsk { task_type: "shell".to_owned(), task_data: json!({"command": "true"}), ..TaskAsk::default() }
}

async fn world() -> World {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(Store::open(&folder.path().join("caelum.db")).expect("opens"));
    for name in ["a", "b"] {
        let known = Node {
            node_id: node(name),
            name: name.to_owned(),
            identity: HostIdentity::default(),
            roles: Vec::new(),
            version: "1".to_owned(),
            joined_at_ms: 1,
            seen_at_ms: START,
            sample: None,
            links: LinkFacts { ceiling: Ceiling::Shell, ..LinkFacts::default() },
        };
        store.put_node(known, None).await.expect("stores");
    }
    let clock = Arc::new(ManualClock::new(START));
    let (roster, shown) = watch::channel(Arc::default());
    let desk = Desk::new(Parts {
        store: Arc::clone(&store),
        bus: Bus::default(),
        clock: clock.clone(),
        server: "s".to_owned(),
        roster: shown,
        thresholds: Thresholds::default(),
    });
    World { desk, store, clock, roster, _folder: folder }
}

impl World {
    async fn add(&self, name: &str, ask: TaskAsk) -> Task {
        let task_id = TaskId::parse(name).expect("valid");
        let order = order::alone(ask).expect("an order");
        let task = new_task(task_id, order, "ann".to_owned(), self.clock.now_ms());
        self.store.add_tasks(vec![task], Vec::new()).await.expect("adds").remove(0)
    }

    /// A worker asks; answers when its poll is open or was answered.
    async fn ask(
        &self,
        name: &str,
        run: &str,
        free: u32,
        held: &[Held],
    ) -> JoinHandle<Result<WorkAnswer, StoreError>> {
        let poll = WorkPoll { worker: run.to_owned(), slots: 4, free, held: held.to_vec(), wait_ms: 20_000 };
        let (desk, node_id) = (Arc::clone(&self.desk), node(name));
        let before = self.desk.workers().polls;
        let asking = tokio::spawn(async move { desk.poll(&node_id, poll).await });
        let is_open = || {
            let workers = self.desk.workers();
            workers
                .by_node
                .get(&node(name))
                .is_some_and(|worker| worker.open.as_ref().is_some_and(|open| open.id > before))
        };
        while !asking.is_finished() && !is_open() {
            tokio::task::yield_now().await;
        }
        asking
    }

    /// What a worker is answered after a round.
    async fn given(&self, name: &str, run: &str, free: u32, held: &[Held]) -> WorkAnswer {
        let asking = self.ask(name, run, free, held).await;
        if !asking.is_finished() {
            self.desk.round().await.expect("a round");
        }
        asking.await.expect("no panic").expect("answers")
    }

    async fn say(&self, name: &str, items: Vec<WorkItem>) -> Vec<Held> {
        let report = WorkReport { worker: "w".to_owned(), items };
        self.desk.report(&node(name), report).await.expect("is kept").refused
    }

    async fn task(&self, name: &str) -> Task {
        self.store.task(&TaskId::parse(name).expect("valid")).await.expect("reads").expect("is there")
    }

    fn pass(&self, ms: i64) {
        self.clock.advance(Duration::from_millis(ms.unsigned_abs()));
    }
}

fn held(name: &str, fence: u64) -> Held {
    Held { task_id: TaskId::parse(name).expect("valid"), fence }
}

fn finished(name: &str, fence: u64, outcome: TaskState) -> WorkItem {
    let ending = Ending { outcome, exit_code: Some(0), error: None, output_bytes: 2 };
    WorkItem::Finished { held: held(name, fence), ending }
}

#[tokio::test]
async fn work_is_given_to_whoever_waits_and_what_came_of_it_is_kept() {
    let world = world().await;
    world.add("t", ask()).await;
    let answer = world.given("a", "w", 2, &[]).await;
    assert_eq!(answer.leases.len(), 1);
    assert_eq!((answer.leases[0].held.fence, answer.leases[0].attempt), (1, 1));
    let chunk = OutputChunk { fence: 1, seq: 0, is_error: false, text: "hi".to_owned(), after_ms: 1 };
    let refused = world
        .say(
            "a",
            vec![
                WorkItem::Started { held: held("t", 1) },
                WorkItem::Output { task_id: held("t", 1).task_id, chunk: chunk.clone() },
                finished("t", 1, TaskState::Succeeded),
            ],
        )
        .await;
    assert!(refused.is_empty());
    let task = world.task("t").await;
    assert_eq!(task.status, TaskState::Succeeded);
    assert_eq!(task.attempts[0].reasons.len(), 4, "why this node is kept");
    assert_eq!(world.store.task_output(&task.task_id, 1, None, 9).await.expect("reads"), [chunk]);
}

#[tokio::test]
async fn nobody_is_given_more_than_it_has_room_for() {
    let world = world().await;
    for name in ["t1", "t2", "t3"] {
        world.add(name, ask()).await;
    }
    assert_eq!(world.given("a", "w", 2, &[]).await.leases.len(), 2);
    assert_eq!(world.given("b", "v", 2, &[]).await.leases.len(), 1);
}

#[tokio::test]
async fn work_that_nobody_can_do_stands_in_nobodys_way() {
    let world = world().await;
    for n in 0..20 {
        let gpu = TaskAsk { requirements: vec!["gpu".to_owned()], priority: Some(100), ..ask() };
        world.add(&format!("g{n}"), gpu).await;
    }
    world.add("t", ask()).await;
    let answer = world.given("a", "w", 1, &[]).await;
    assert_eq!(answer.leases[0].held, held("t", 1));
}

#[tokio::test]
async fn a_worker_whose_poll_closes_loses_its_tasks_soon_and_its_late_word_is_refused() {
    let world = world().await;
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    let asking = world.ask("a", "w", 0, &[held("t", 1)]).await;
    asking.abort();
    assert!(asking.await.is_err(), "its connection closed");
    world.pass(RETURN_MS - 1);
    world.desk.tick().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Leased, "it may come back");
    world.pass(1);
    world.desk.tick().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Queued);
    assert_eq!(world.given("b", "v", 1, &[]).await.leases[0].held, held("t", 2));
    let refused = world.say("a", vec![finished("t", 1, TaskState::Succeeded)]).await;
    assert_eq!(refused, [held("t", 1)]);
    assert_eq!(world.task("t").await.status, TaskState::Leased);
    let back = world.given("a", "w", 0, &[held("t", 1)]).await;
    assert_eq!(back.abandon, [held("t", 1)], "it is told to end it");
}

#[tokio::test]
async fn a_worker_that_comes_back_in_time_keeps_its_tasks() {
    let world = world().await;
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    let asking = world.ask("a", "w", 0, &[held("t", 1)]).await;
    asking.abort();
    assert!(asking.await.is_err());
    world.pass(RETURN_MS - 100);
    let again = world.ask("a", "w", 0, &[held("t", 1)]).await;
    world.pass(RETURN_MS);
    world.desk.tick().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Leased);
    assert!(!again.is_finished());
}

#[tokio::test]
async fn silence_costs_a_worker_its_tasks_when_the_lease_is_over() {
    let world = world().await;
    world.pass(LEASE_MS);
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    world.pass(4_000);
    world.say("a", vec![WorkItem::Renewed { held: held("t", 1) }]).await;
    world.pass(LEASE_MS - 1);
    world.desk.sweep().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Leased);
    world.pass(1);
    world.desk.sweep().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Queued);
}

#[tokio::test]
async fn no_lease_ends_while_nobody_could_renew_it() {
    let world = world().await;
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    world.pass(60_000);
    world.desk.note("look", Err(StoreError::Closed { operation: "look" }));
    world.desk.sweep().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Leased, "the store was away");
    world.say("a", vec![WorkItem::Renewed { held: held("t", 1) }]).await;
    world.pass(LEASE_MS - 1);
    world.desk.sweep().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Leased);
}

#[tokio::test]
async fn a_new_run_of_a_worker_knows_nothing_of_the_old_ones_tasks() {
    let world = world().await;
    world.add("t", ask()).await;
    world.add("o", TaskAsk { promise: Promise::AtMostOnce, ..ask() }).await;
    assert_eq!(world.given("a", "w", 2, &[]).await.leases.len(), 2);
    let asking = world.ask("a", "w2", 0, &[]).await;
    assert_eq!(world.task("t").await.status, TaskState::Queued);
    assert_eq!(world.task("o").await.status, TaskState::Lost, "it may have begun");
    assert!(!asking.is_finished());
}

#[tokio::test]
async fn a_lease_whose_answer_was_lost_is_given_again_under_the_same_number() {
    let world = world().await;
    world.add("t", ask()).await;
    let first = world.given("a", "w", 1, &[]).await;
    let again = world.given("a", "w", 1, &[]).await;
    assert_eq!(first.leases, again.leases);
    assert_eq!(world.task("t").await.attempts.len(), 1);
}

#[tokio::test]
async fn whoever_has_a_task_that_is_called_off_is_told_at_once() {
    let world = world().await;
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    let asking = world.ask("a", "w", 0, &[held("t", 1)]).await;
    let event = TaskEvent::CancelRequested { by: "ann".to_owned() };
    let steps = vec![TaskStep { task_id: held("t", 1).task_id, event }];
    let task = world.desk.step(steps).await.expect("writes").remove(0).expect("is called off");
    world.desk.cancelled(&task);
    let answer = asking.await.expect("no panic").expect("answers");
    assert_eq!(answer.cancel, [held("t", 1)]);
    let asking = world.ask("a", "w", 0, &[held("t", 1)]).await;
    assert!(!asking.is_finished(), "once is enough for a while");
    world.say("a", vec![finished("t", 1, TaskState::Cancelled)]).await;
    assert_eq!(world.task("t").await.status, TaskState::Cancelled);
}

#[tokio::test]
async fn a_node_that_membership_knows_to_be_dead_loses_its_tasks() {
    let world = world().await;
    world.add("t", ask()).await;
    world.given("a", "w", 1, &[]).await;
    world.pass(3_000);
    let member = Member {
        node_id: node("a"),
        name: "a".to_owned(),
        role: None,
        udp_addr: None,
        liveness: Liveness::Dead,
        because: "link closed".to_owned(),
        since_ms: 100,
        link: None,
        services: Vec::new(),
        version: String::new(),
        peers: Vec::new(),
    };
    world.roster.send_replace(Arc::new(Roster { members: vec![member], machines: Vec::new() }));
    world.desk.tick().await.expect("looks");
    assert_eq!(world.task("t").await.status, TaskState::Queued);
}

#[tokio::test]
async fn many_reports_at_once_are_each_answered_with_their_own() {
    let world = world().await;
    for n in 0..8 {
        world.add(&format!("t{n}"), ask()).await;
    }
    let answer = world.given("a", "w", 8, &[]).await;
    let reports = answer.leases.iter().map(|lease| {
        let held = lease.held.clone();
        let late = Held { fence: 99, ..held.clone() };
        let items = vec![WorkItem::Started { held }, WorkItem::Started { held: late.clone() }];
        let (desk, node_id) = (Arc::clone(&world.desk), node("a"));
        tokio::spawn(async move {
            let report = WorkReport { worker: "w".to_owned(), items };
            let receipt = desk.report(&node_id, report).await.expect("is kept");
            assert!(receipt.refused.contains(&late), "{receipt:?}");
        })
    });
    for report in reports.collect::<Vec<_>>() {
        report.await.expect("no panic");
    }
    assert_eq!(world.task("t0").await.status, TaskState::Running);
}

#[tokio::test]
async fn a_schedule_makes_one_task_a_time_and_one_for_all_that_were_missed() {
    let world = world().await;
    let schedule = |name: &str, missed| Schedule {
        schedule_id: name.to_owned(),
        name: name.to_owned(),
        cron: "* * * * *".to_owned(),
        time_zone: "UTC".to_owned(),
        enabled: true,
        missed,
        order: order::alone(ask()).expect("an order"),
        created_by: "ann".to_owned(),
        created_at: START,
        next_at: Some(START + 1_000),
        last_at: None,
        last_task_id: None,
    };
    world.store.put_schedule(schedule("once", Missed::RunOnce)).await.expect("stores");
    world.store.put_schedule(schedule("skip", Missed::Skip)).await.expect("stores");
    let scheduler = Scheduler {
        store: Arc::clone(&world.store),
        bus: Bus::default(),
        clock: world.clock.clone(),
        desk: Arc::clone(&world.desk),
    };
    let made = async || {
        scheduler.look().await.expect("looks");
        let mut last = Vec::new();
        for name in ["once", "skip"] {
            let schedule = world.store.schedule(name).await.expect("reads").expect("is there");
            assert!(schedule.next_at.expect("goes on") > world.clock.now_ms());
            last.push(schedule.last_at);
        }
        (world.store.task_counts().await.expect("counts").by_status[0].1, last)
    };
    world.pass(1_000);
    let first = Some(START + 1_000);
    assert_eq!(made().await, (2, vec![first, first]));
    assert_eq!(made().await.0, 2, "nothing is due");
    world.pass(3_600_000);
    assert_eq!(made().await, (3, vec![Some(START + 3_601_000), first]), "an hour was missed");
}
