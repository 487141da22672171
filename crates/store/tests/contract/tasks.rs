//! Tasks, what they wrote, and schedules.

use caelum_engine::task::{Refusal, TaskEvent, Under, order, queue::Class};
use caelum_model::{
    access::AuditEntry,
    id::{NodeId, TaskId},
    task::{Lease, Missed, OutputChunk, Promise, Schedule, Task, TaskAsk, TaskKind, TaskState},
    work::Ending,
};
use caelum_store::{NodeTasks, Store, TaskQuery, TaskStep, TaskWrote};
use serde_json::json;

use crate::{Records, promised};

fn id(text: &str) -> TaskId {
    TaskId::parse(text).expect("valid")
}

fn node(text: &str) -> NodeId {
    NodeId::parse(text).expect("valid")
}

fn ask() -> TaskAsk {
    TaskAsk { task_type: "shell".to_owned(), task_data: json!({"command": "true"}), ..TaskAsk::default() }
}

fn task(name: &str, created_at: i64, ask: TaskAsk) -> Task {
    Task {
        task_id: id(name),
        order: order::check(vec![ask], vec![id(name)]).expect("a task").remove(0).1,
        created_by: "ann".to_owned(),
        created_at,
        schedule_id: None,
        status: TaskState::Queued,
        blockers: 0,
        fence: 0,
        faults: 0,
        ready_at: created_at,
        lease: None,
        cancelled_by: None,
        attempts: Vec::new(),
        started_at: None,
        completed_at: None,
        error: None,
    }
}

fn after(name: &str, blockers: &[&str]) -> Task {
    let depends_on = blockers.iter().map(|blocker| (*blocker).to_owned()).collect();
    task(name, 1, TaskAsk { depends_on, ..ask() })
}

fn lease(name: &str, node_id: &str, until_ms: i64) -> TaskStep {
    let lease = Lease { node_id: node(node_id), worker: "w".to_owned(), until_ms };
    TaskStep { task_id: id(name), event: TaskEvent::Lease { lease, reasons: Vec::new() } }
}

fn finished(name: &str, node_id: &str, fence: u64, outcome: TaskState) -> TaskStep {
    let ending = Ending { outcome, exit_code: Some(0), error: None, output_bytes: 0 };
    let under = Under { node_id: node(node_id), fence };
    TaskStep { task_id: id(name), event: TaskEvent::Finished { under, ending } }
}

async fn states(store: &Store, names: &[&str]) -> Vec<TaskState> {
    let mut states = Vec::new();
    for name in names {
        states.push(store.task(&id(name)).await.expect("reads").expect("is there").status);
    }
    states
}

async fn ready(store: &Store, now_ms: i64, limit: usize) -> Vec<String> {
    let classes = store.ready_classes(now_ms, 100).await.expect("lists").classes;
    let ready = store.ready_tasks(classes, now_ms, limit).await.expect("lists");
    ready.iter().map(|task| task.task_id.to_string()).collect()
}

async fn steps_are_done_in_order_and_a_refused_one_changes_nothing(records: Records) {
    let store = &records.store;
    store.add_tasks(vec![task("a", 1, ask())], Vec::new()).await.expect("adds");
    let stranger = finished("a", "other", 1, TaskState::Succeeded);
    let late = finished("a", "n", 7, TaskState::Succeeded);
    let unknown = TaskStep { task_id: id("zz"), event: TaskEvent::Expired };
    let steps =
        vec![lease("a", "n", 100), stranger, late, unknown, finished("a", "n", 1, TaskState::Succeeded)];
    let outcomes = store.step_tasks(steps, 10, 1).await.expect("writes");
    assert_eq!(outcomes[0].as_ref().expect("leased").status, TaskState::Leased);
    assert_eq!(outcomes[1], Err(Refusal::Fenced { given: 1, newest: 1 }));
    assert_eq!(outcomes[2], Err(Refusal::Fenced { given: 7, newest: 1 }));
    assert_eq!(outcomes[3], Err(Refusal::Unknown));
    let kept = store.task(&id("a")).await.expect("reads").expect("is there");
    assert_eq!(Ok(&kept), outcomes[4].as_ref());
    assert_eq!(kept.status, TaskState::Succeeded);
}

async fn of_two_that_lease_the_same_task_one_gets_it(records: Records) {
    let other = records.another().await;
    records.store.add_tasks(vec![task("a", 1, ask())], Vec::new()).await.expect("adds");
    let (one, two) = tokio::join!(
        records.store.step_tasks(vec![lease("a", "n", 100)], 10, 1),
        other.step_tasks(vec![lease("a", "m", 100)], 10, 1)
    );
    let (one, two) = (one.expect("writes").remove(0), two.expect("writes").remove(0));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

async fn a_second_order_with_the_same_key_is_the_same_task(records: Records) {
    let store = &records.store;
    let keyed = |name: &str| task(name, 1, TaskAsk { idempotency_key: Some("k".to_owned()), ..ask() });
    store.add_tasks(vec![keyed("a")], Vec::new()).await.expect("adds");
    let added = store.add_tasks(vec![keyed("b"), after("c", &["b"])], Vec::new()).await.expect("adds");
    assert_eq!(added[0].task_id, id("a"));
    assert_eq!(added[1].order.depends_on, [id("a")], "who waits for it waits for that task");
    assert!(store.task(&id("b")).await.expect("reads").is_none());
    let (one, two) = tokio::join!(
        store.add_tasks(
            vec![task("x", 1, TaskAsk { idempotency_key: Some("race".to_owned()), ..ask() })],
            Vec::new()
        ),
        store.add_tasks(
            vec![task("y", 1, TaskAsk { idempotency_key: Some("race".to_owned()), ..ask() })],
            Vec::new()
        ),
    );
    assert_eq!(one.expect("adds")[0].task_id, two.expect("adds")[0].task_id);
}

async fn what_the_audit_log_says_of_tasks_is_written_with_those_that_are_new(records: Records) {
    let store = &records.store;
    let keyed = |name: &str| task(name, 1, TaskAsk { idempotency_key: Some("k".to_owned()), ..ask() });
    let line = |at_ms: i64, name: &str| AuditEntry {
        at_ms,
        actor: "ann".to_owned(),
        action: "task.add".to_owned(),
        subject: name.to_owned(),
        outcome: "done".to_owned(),
    };
    let said = async || {
        let lines = store.audit_log(100, 9).await.expect("reads");
        lines.into_iter().map(|line| line.subject).collect::<Vec<String>>()
    };
    store.add_tasks(vec![keyed("a")], vec![line(1, "a")]).await.expect("adds");
    // One is known by its key, one is new; the third is new and nothing is to be said of it.
    let tasks = vec![keyed("b"), after("c", &["b"]), after("d", &["a"])];
    store.add_tasks(tasks, vec![line(2, "b"), line(3, "c")]).await.expect("adds");
    assert_eq!(said().await, ["c", "a"]);
    store.add_tasks(vec![task("e", 1, ask())], Vec::new()).await.expect("adds");
    assert_eq!(said().await, ["c", "a"]);
}

async fn a_task_waits_until_all_that_it_waits_for_ended_well(records: Records) {
    let store = &records.store;
    // In one breath, the last first.
    let tasks = vec![after("c", &["a", "b"]), task("a", 1, ask()), after("b", &["a"])];
    let added = store.add_tasks(tasks, Vec::new()).await.expect("adds");
    assert_eq!(added.iter().map(|task| task.blockers).collect::<Vec<_>>(), [2, 0, 1]);
    assert_eq!(ready(store, 5, 9).await, ["a"]);
    let end = async |name: &str| {
        let steps = vec![lease(name, "n", 100), finished(name, "n", 1, TaskState::Succeeded)];
        store.step_tasks(steps, 10, 1).await.expect("writes").remove(1).expect("ends");
    };
    end("a").await;
    assert_eq!(ready(store, 50, 9).await, ["b"]);
    end("b").await;
    assert_eq!(ready(store, 50, 9).await, ["c"]);
    let late = store.add_tasks(vec![after("d", &["a", "b"])], Vec::new()).await.expect("adds").remove(0);
    assert_eq!(late.blockers, 0, "both ended well before");
}

async fn what_did_not_end_well_calls_off_everything_behind_it(records: Records) {
    let store = &records.store;
    let tasks =
        vec![task("a", 1, TaskAsk { max_retries: Some(0), ..ask() }), after("b", &["a"]), after("c", &["b"])];
    store.add_tasks(tasks, Vec::new()).await.expect("adds");
    let steps = vec![lease("a", "n", 100), finished("a", "n", 1, TaskState::Failed)];
    store.step_tasks(steps, 10, 1).await.expect("writes");
    use TaskState::{Cancelled, Failed};
    assert_eq!(states(store, &["a", "b", "c"]).await, [Failed, Cancelled, Cancelled]);
    let late = store
        .add_tasks(vec![after("d", &["a"]), after("e", &["d"]), after("f", &["nowhere"])], Vec::new())
        .await;
    let late = late.expect("adds");
    assert!(late.iter().all(|task| task.status == Cancelled), "{late:?}");
    assert_eq!(late[2].error.as_deref(), Some("it waited for nowhere, which did not end well"));
}

async fn the_foremost_of_each_class_are_ready_and_who_waits_long_moves_up(records: Records) {
    let store = &records.store;
    let minute = 60_000;
    let of = |name: &str, created_at, priority| {
        task(name, created_at, TaskAsk { priority: Some(priority), ..ask() })
    };
    let gpu = TaskAsk { requirements: vec!["gpu".to_owned()], ..ask() };
    let tasks = vec![
        of("low", 0, 40),
        of("high", 0, 60),
        of("newer", 40 * minute, 43),
        task("special", 0, gpu),
        of("future", 500 * minute, 99),
    ];
    store.add_tasks(tasks, Vec::new()).await.expect("adds");
    assert_eq!(ready(store, 41 * minute, 9).await, ["high", "special", "low", "newer"]);
    // 100 minutes later the newer one has gained as much as it had been behind.
    assert_eq!(ready(store, 200 * minute, 9).await, ["high", "special", "newer", "low"]);
    let foremost = ready(store, 200 * minute, 1).await;
    assert_eq!(foremost, ["high", "special"], "one of each class");
    let seen = store.ready_classes(200 * minute, 9).await.expect("lists");
    assert_eq!(seen.next_ready_at, Some(500 * minute));
    let class = Class::of(&task("x", 0, ask()).order);
    assert!(seen.classes.contains(&class.text()));
}

async fn leases_that_are_over_and_tasks_of_a_node_are_found(records: Records) {
    let store = &records.store;
    let assigned = TaskAsk { assigned_node: Some("n".to_owned()), ..ask() };
    let tasks = vec![task("a", 1, ask()), task("b", 1, ask()), task("c", 1, ask()), task("d", 1, assigned)];
    store.add_tasks(tasks, Vec::new()).await.expect("adds");
    let started =
        TaskStep { task_id: id("b"), event: TaskEvent::Started(Under { node_id: node("n"), fence: 1 }) };
    let steps = vec![lease("a", "n", 100), lease("b", "n", 50), lease("c", "m", 900), started];
    store.step_tasks(steps, 10, 1).await.expect("writes");
    assert_eq!(store.expired_leases(100, 9).await.expect("lists"), [id("b"), id("a")]);
    let held = store.worker_tasks(&node("n")).await.expect("lists");
    assert_eq!(held.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(store.cancelling_tasks(9).await.expect("lists").is_empty());
    let cancel = |name: &str| TaskStep {
        task_id: id(name),
        event: TaskEvent::CancelRequested { by: "ann".to_owned() },
    };
    store.step_tasks(vec![cancel("c")], 10, 1).await.expect("writes");
    assert_eq!(store.cancelling_tasks(9).await.expect("lists")[0].task_id, id("c"));
    let counts = store.task_counts().await.expect("counts");
    use TaskState::{Leased, Queued, Running};
    assert_eq!(counts.by_status, [(Queued, 1), (Leased, 2), (Running, 1)]);
    let of = |name: &str, queued, leased, running| NodeTasks { node_id: node(name), queued, leased, running };
    assert_eq!(counts.by_node, [of("m", 0, 1, 0), of("n", 1, 1, 1)]);
}

async fn tasks_are_listed_newest_first_and_cut_by_what_is_asked(records: Records) {
    let store = &records.store;
    let http = TaskAsk {
        task_type: "http".to_owned(),
        task_data: json!({"url": "https://Example.net/"}),
        assigned_node: Some("n".to_owned()),
        ..TaskAsk::default()
    };
    store
        .add_tasks(vec![task("a", 1, ask()), task("b", 2, http), task("c", 3, ask())], Vec::new())
        .await
        .expect("adds");
    let list = async |query: TaskQuery| {
        let tasks = store.tasks(TaskQuery { limit: 2, ..query }).await.expect("lists");
        tasks.iter().map(|task| task.task_id.to_string()).collect::<Vec<_>>()
    };
    let any = TaskQuery::default();
    assert_eq!(list(any.clone()).await, ["c", "b"]);
    assert_eq!(list(TaskQuery { after: Some((2, id("b"))), ..any.clone() }).await, ["a"]);
    assert_eq!(list(TaskQuery { kind: Some(TaskKind::Http), ..any.clone() }).await, ["b"]);
    assert_eq!(list(TaskQuery { node_id: Some(node("n")), ..any.clone() }).await, ["b"]);
    assert_eq!(list(TaskQuery { text: Some("eXample.NET".to_owned()), ..any.clone() }).await, ["b"]);
    assert!(list(TaskQuery { status: vec![TaskState::Lost], ..any.clone() }).await.is_empty());
    assert_eq!(list(TaskQuery { status: vec![TaskState::Lost, TaskState::Queued], ..any }).await, ["c", "b"]);
}

async fn output_is_kept_once_and_only_under_the_newest_number(records: Records) {
    let store = &records.store;
    store.add_tasks(vec![task("a", 1, ask())], Vec::new()).await.expect("adds");
    store.step_tasks(vec![lease("a", "n", 100)], 10, 1).await.expect("writes");
    let wrote = |node_id: &str, fence, seq, text: &str| TaskWrote {
        task_id: id("a"),
        node_id: node(node_id),
        chunk: OutputChunk { fence, seq, is_error: seq == 1, text: text.to_owned(), after_ms: 5 },
    };
    let all = vec![
        wrote("n", 1, 0, "one"),
        wrote("n", 1, 1, "t\0wo"),
        wrote("m", 1, 2, "not its own"),
        wrote("n", 0, 2, "too old"),
    ];
    assert_eq!(store.append_output(all).await.expect("keeps"), [true, true, false, false]);
    let again = store.append_output(vec![wrote("n", 1, 1, "again"), wrote("n", 1, 2, "three")]).await;
    assert_eq!(again.expect("keeps"), [true, true]);
    let read = store.task_output(&id("a"), 1, Some(0), 9).await.expect("reads");
    assert_eq!(read.len(), 2);
    assert!(read[0].is_error && read[0].text.ends_with("wo") && read[1].text == "three");
    let large = "x".repeat(1 << 20);
    for seq in 3..7 {
        assert_eq!(store.append_output(vec![wrote("n", 1, seq, &large)]).await.expect("answers"), [true]);
    }
    let kept = store.task_output(&id("a"), 1, Some(2), 9).await.expect("reads");
    assert_eq!(kept.len(), 2, "what is too much is not kept");
}

async fn what_is_over_long_enough_is_forgotten_with_its_output(records: Records) {
    let store = &records.store;
    store.add_tasks(vec![task("a", 1, ask()), task("b", 1, ask())], Vec::new()).await.expect("adds");
    store.step_tasks(vec![lease("a", "n", 100)], 10, 1).await.expect("writes");
    let chunk = OutputChunk { fence: 1, seq: 0, is_error: false, text: "x".to_owned(), after_ms: 0 };
    let wrote = TaskWrote { task_id: id("a"), node_id: node("n"), chunk };
    store.append_output(vec![wrote]).await.expect("keeps");
    store.step_tasks(vec![finished("a", "n", 1, TaskState::Succeeded)], 20, 1).await.expect("writes");
    assert_eq!(store.drop_tasks(20, 9).await.expect("drops"), 0);
    assert_eq!(store.drop_tasks(21, 9).await.expect("drops"), 1);
    assert!(store.task(&id("a")).await.expect("reads").is_none());
    assert!(store.task_output(&id("a"), 1, None, 9).await.expect("reads").is_empty());
    assert_eq!(states(store, &["b"]).await, [TaskState::Queued], "what is not over stays");
}

async fn a_schedule_fires_once_however_many_look(records: Records) {
    let store = &records.store;
    let schedule = Schedule {
        schedule_id: "s".to_owned(),
        name: "nightly".to_owned(),
        cron: "0 2 * * *".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        enabled: true,
        missed: Missed::RunOnce,
        order: order::alone(TaskAsk { promise: Promise::AtMostOnce, ..ask() }).expect("an order"),
        created_by: "ann".to_owned(),
        created_at: 1,
        next_at: Some(100),
        last_at: None,
        last_task_id: None,
    };
    store.put_schedule(schedule.clone()).await.expect("stores");
    assert!(store.due_schedules(99, 9).await.expect("lists").is_empty());
    assert_eq!(store.due_schedules(100, 9).await.expect("lists"), std::slice::from_ref(&schedule));
    let fired = |name: &str| {
        let then = Schedule { next_at: Some(200), last_at: Some(100), ..schedule.clone() };
        (then, Some(task(name, 100, ask())))
    };
    let other = records.another().await;
    let ((then, a), (_, b)) = (fired("a"), fired("b"));
    let (one, two) = tokio::join!(
        store.fire_schedule(then.clone(), Some(100), a),
        other.fire_schedule(then.clone(), Some(100), b)
    );
    assert!(one.expect("answers") != two.expect("answers"));
    assert_eq!(store.tasks(TaskQuery { limit: 9, ..TaskQuery::default() }).await.expect("lists").len(), 1);
    assert_eq!(store.schedules().await.expect("lists"), std::slice::from_ref(&then));
    assert_eq!(store.schedule("s").await.expect("reads"), Some(then));
    assert!(store.remove_schedule("s").await.expect("removes"));
    assert!(!store.remove_schedule("s").await.expect("removes"));
}

promised! {
    steps_are_done_in_order_and_a_refused_one_changes_nothing,
    of_two_that_lease_the_same_task_one_gets_it,
    a_second_order_with_the_same_key_is_the_same_task,
    what_the_audit_log_says_of_tasks_is_written_with_those_that_are_new,
    a_task_waits_until_all_that_it_waits_for_ended_well,
    what_did_not_end_well_calls_off_everything_behind_it,
    the_foremost_of_each_class_are_ready_and_who_waits_long_moves_up,
    leases_that_are_over_and_tasks_of_a_node_are_found,
    tasks_are_listed_newest_first_and_cut_by_what_is_asked,
    output_is_kept_once_and_only_under_the_newest_number,
    what_is_over_long_enough_is_forgotten_with_its_output,
    a_schedule_fires_once_however_many_look,
}
