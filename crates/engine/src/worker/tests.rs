//! The rules of a worker, one by one.

use caelum_model::{id::TaskId, task::TaskKind};
use serde_json::json;

use super::*;

fn worker(slots: u32) -> Worker {
    let ceiling = Ceiling::Shell;
    Worker::new(Config { worker: "w".to_owned(), slots, grace_ms: 30_000, ceiling })
}

fn held(name: &str, fence: u64) -> Held {
    Held { task_id: TaskId::parse(name).expect("valid"), fence }
}

fn lease(name: &str, fence: u64) -> TaskLease {
    TaskLease {
        held: held(name, fence),
        attempt: 1,
        task_type: TaskKind::Shell,
        task_data: json!({ "command": "true" }),
        timeout_seconds: 60,
        lease_ms: LEASE_MS,
    }
}

fn leases(names: &[&str]) -> WorkAnswer {
    WorkAnswer { leases: names.iter().map(|name| lease(name, 1)).collect(), ..WorkAnswer::default() }
}

fn ending(outcome: TaskState) -> Ending {
    Ending { outcome, exit_code: Some(0), error: None, output_bytes: 0 }
}

fn begun(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Begin(lease) => Some(format!("{}/{}", lease.held.task_id, lease.held.fence)),
            _ => None,
        })
        .collect()
}

fn stopped(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Stop(_))).count()
}

fn polled(outputs: &[Output]) -> Option<(u64, WorkPoll)> {
    outputs.iter().find_map(|output| match output {
        Output::Poll { poll, ask } => Some((*poll, ask.clone())),
        _ => None,
    })
}

fn reported(outputs: &[Output]) -> Option<Vec<WorkItem>> {
    outputs.iter().find_map(|output| match output {
        Output::Report(report) => Some(report.items.clone()),
        _ => None,
    })
}

/// Answers the poll that is open.
fn answer(worker: &mut Worker, now_ms: i64, answer: WorkAnswer) -> Vec<Output> {
    let poll = worker.polls.last().expect("a poll is open").poll;
    worker.handle(now_ms, Input::Answered { poll, answer })
}

fn receive(worker: &mut Worker, now_ms: i64) -> Vec<Output> {
    worker.handle(now_ms, Input::Received(WorkReceipt::default()))
}

#[test]
fn it_asks_for_as_much_as_it_has_room_for() {
    let mut worker = worker(3);
    let (_, ask) = polled(&worker.handle(0, Input::Tick)).expect("asks at once");
    assert_eq!((ask.slots, ask.free, ask.held.len()), (3, 3, 0));
    let outputs = answer(&mut worker, 1, leases(&["a", "b"]));
    assert_eq!(begun(&outputs), ["a/1", "b/1"]);
    let (_, ask) = polled(&outputs).expect("asks again");
    assert_eq!((ask.free, ask.held), (1, vec![held("a", 1), held("b", 1)]));
}

#[test]
fn a_full_worker_still_listens_and_asks_anew_when_there_is_room() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    let (_, ask) = polled(&answer(&mut worker, 1, leases(&["a"]))).expect("asks");
    assert_eq!(ask.free, 0);
    let outputs = worker.handle(2, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    let (newer, ask) = polled(&outputs).expect("overtakes its own poll");
    assert_eq!(ask.free, 1);
    assert_eq!(ask.held, [held("a", 1)], "its end is not durable yet");
    assert!(polled(&worker.handle(3, Input::Tick)).is_none(), "two are enough");
    let outputs = worker.handle(4, Input::Answered { poll: newer - 1, answer: WorkAnswer::default() });
    assert!(polled(&outputs).is_none(), "the newer one is still open");
}

#[test]
fn more_than_it_has_room_for_waits_its_turn() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    assert_eq!(begun(&answer(&mut worker, 1, leases(&["a", "b"]))), ["a/1"]);
    let outputs = worker.handle(2, Input::Ended { held: held("a", 1), ending: ending(TaskState::Failed) });
    assert_eq!(begun(&outputs), ["b/1"]);
}

#[test]
fn a_lease_that_arrives_again_is_not_begun_again() {
    let mut worker = worker(4);
    worker.handle(0, Input::Tick);
    assert_eq!(begun(&answer(&mut worker, 1, leases(&["a"]))).len(), 1);
    assert!(begun(&answer(&mut worker, 2, leases(&["a"]))).is_empty(), "it runs");
    worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    assert!(begun(&answer(&mut worker, 4, leases(&["a"]))).is_empty(), "it ended and that is being said");
    receive(&mut worker, 5);
    assert!(begun(&answer(&mut worker, 6, leases(&["a"]))).is_empty(), "it is over and done with");
}

#[test]
fn a_newer_number_of_a_task_is_begun_once_the_older_one_is_gone() {
    let mut worker = worker(4);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 1, leases(&["a"]));
    let newer = WorkAnswer { leases: vec![lease("a", 2)], ..WorkAnswer::default() };
    let outputs = answer(&mut worker, 2, newer);
    assert_eq!((begun(&outputs).len(), stopped(&outputs)), (0, 1));
    let outputs = worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(TaskState::Failed) });
    assert_eq!(begun(&outputs), ["a/2"]);
    assert_eq!(reported(&outputs), None, "of the older one nothing is said");
}

#[test]
fn what_happens_is_told_in_order_and_one_report_at_a_time() {
    let mut worker = worker(2);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 1, leases(&["a"]));
    let items = reported(&worker.handle(2, Input::Started(held("a", 1)))).expect("at once");
    assert_eq!(items, [WorkItem::Started { held: held("a", 1) }]);
    let chunk = OutputChunk { fence: 1, seq: 0, is_error: false, text: "hello".to_owned(), after_ms: 1 };
    assert_eq!(reported(&worker.handle(3, Input::Output { held: held("a", 1), chunk })), None);
    worker.handle(4, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    let items = reported(&receive(&mut worker, 5)).expect("the rest");
    assert!(matches!(items[..], [WorkItem::Output { .. }, WorkItem::Finished { .. }]), "{items:?}");
}

#[test]
fn a_report_that_was_not_answered_is_sent_again_as_it_was() {
    let mut worker = worker(2);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 1, leases(&["a"]));
    let first = reported(&worker.handle(2, Input::Started(held("a", 1)))).expect("tells");
    worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    assert_eq!(reported(&worker.handle(4, Input::Unreceived)), None, "not at once");
    let at = worker.next_wakeup_ms().expect("later");
    assert!(at > 4 && at <= 4 + WAIT_MIN_MS, "{at}");
    assert_eq!(reported(&worker.handle(at, Input::Tick)), Some(first));
    let (_, ask) = polled(&answer(&mut worker, at, WorkAnswer::default())).expect("asks");
    assert_eq!(ask.held, [held("a", 1)], "until its end is durable it is held");
    receive(&mut worker, at + 1);
    receive(&mut worker, at + 2);
    let (_, ask) = polled(&answer(&mut worker, at + 3, WorkAnswer::default())).expect("asks");
    assert!(ask.held.is_empty());
}

#[test]
fn waits_grow_to_a_bound_while_nobody_answers() {
    let mut worker = worker(1);
    let (mut poll, _) = polled(&worker.handle(0, Input::Tick)).expect("asks");
    let mut now_ms = 0;
    for _ in 0..20 {
        worker.handle(now_ms, Input::Unanswered { poll });
        let at = worker.next_wakeup_ms().expect("tries again");
        assert!(at > now_ms && at - now_ms <= WAIT_MAX_MS);
        now_ms = at;
        poll = polled(&worker.handle(now_ms, Input::Tick)).expect("asks").0;
    }
}

#[test]
fn what_runs_is_renewed() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a"]));
    worker.handle(1, Input::Started(held("a", 1)));
    receive(&mut worker, 2);
    assert_eq!(worker.next_wakeup_ms(), Some(RENEW_MS));
    let items = reported(&worker.handle(RENEW_MS, Input::Tick)).expect("renews");
    assert_eq!(items, [WorkItem::Renewed { held: held("a", 1) }]);
    assert_eq!(reported(&receive(&mut worker, RENEW_MS + 1)), None);
    assert_eq!(worker.next_wakeup_ms(), Some(2 * RENEW_MS));
}

#[test]
fn a_lease_that_ran_out_ends_nothing_that_runs_and_begins_nothing() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a", "b"]));
    let outputs = worker.handle(LEASE_MS * 4, Input::Tick);
    assert_eq!(stopped(&outputs), 0);
    let outputs = worker
        .handle(LEASE_MS * 4, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    assert!(begun(&outputs).is_empty(), "b may be another node's by now");
}

#[test]
fn what_is_refused_ends_without_a_word() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a"]));
    worker.handle(1, Input::Started(held("a", 1)));
    let outputs = worker.handle(2, Input::Received(WorkReceipt { refused: vec![held("a", 1)] }));
    assert_eq!(stopped(&outputs), 1);
    let outputs = worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(TaskState::Failed) });
    assert_eq!(reported(&outputs), None);
    assert_eq!(polled(&outputs).expect("has room").1.free, 1);
}

#[test]
fn a_task_that_is_called_off_ends_as_cancelled_unless_it_was_quicker() {
    for (outcome, said) in
        [(TaskState::Failed, TaskState::Cancelled), (TaskState::Succeeded, TaskState::Succeeded)]
    {
        let mut worker = worker(1);
        worker.handle(0, Input::Tick);
        answer(&mut worker, 0, leases(&["a"]));
        let cancel = || WorkAnswer { cancel: vec![held("a", 1)], ..WorkAnswer::default() };
        assert_eq!(stopped(&answer(&mut worker, 1, cancel())), 1);
        assert_eq!(stopped(&answer(&mut worker, 2, cancel())), 0, "once is enough");
        let items = reported(&worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(outcome) }));
        let [WorkItem::Finished { ending, .. }] = &items.expect("tells")[..] else { panic!("one item") };
        assert_eq!(ending.outcome, said);
    }
}

#[test]
fn a_task_that_waits_and_is_called_off_is_never_begun() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a", "b"]));
    let items =
        reported(&answer(&mut worker, 1, WorkAnswer { cancel: vec![held("b", 1)], ..WorkAnswer::default() }));
    assert!(matches!(&items.expect("tells")[..], [WorkItem::Finished { .. }]));
    receive(&mut worker, 2);
    let outputs = worker.handle(3, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    assert!(begun(&outputs).is_empty());
}

#[test]
fn while_it_drains_nothing_is_begun_and_what_was_not_is_given_back() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a", "b"]));
    let outputs = worker.handle(1, Input::Drain);
    assert_eq!(reported(&outputs), Some(vec![WorkItem::Returned { held: held("b", 1) }]));
    assert_eq!(stopped(&outputs), 0, "a has its grace");
    let outputs = answer(&mut worker, 2, leases(&["c"]));
    assert!(begun(&outputs).is_empty());
    assert_eq!(polled(&outputs).expect("still listens").1.free, 0);
    receive(&mut worker, 3);
    worker.handle(4, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    receive(&mut worker, 5);
    let outputs = receive(&mut worker, 6);
    assert!(outputs.contains(&Output::Drained), "{outputs:?}");
    assert_eq!(worker.next_wakeup_ms(), None);
}

#[test]
fn after_the_grace_what_still_runs_is_ended() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a"]));
    worker.handle(1, Input::Drain);
    let over = 30_001;
    assert_eq!(stopped(&worker.handle(over, Input::Tick)), 1);
    let outputs =
        worker.handle(over + 5, Input::Ended { held: held("a", 1), ending: ending(TaskState::Failed) });
    assert_eq!(outputs, [Output::Drained], "its node goes away with it, as the servers see it");
}

#[test]
fn an_idle_worker_is_drained_at_once() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    assert!(worker.handle(1, Input::Drain).contains(&Output::Drained));
}

#[test]
fn a_report_stays_below_what_a_server_takes() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a"]));
    worker.handle(1, Input::Started(held("a", 1)));
    let text = "\u{1}".repeat(32 << 10);
    for seq in 0..40 {
        let chunk = OutputChunk { fence: 1, seq, is_error: true, text: text.clone(), after_ms: 1 };
        worker.handle(2, Input::Output { held: held("a", 1), chunk });
    }
    let mut told = 0;
    while let Some(items) = reported(&receive(&mut worker, 3)) {
        let bytes = serde_json::to_string(&items).expect("has a JSON form").len();
        assert!(bytes <= caelum_model::work::REPORT_MAX, "{bytes}");
        told += items.len();
    }
    assert_eq!(told, 40);
}

#[test]
fn a_worker_that_nobody_hears_ends_when_its_grace_is_over() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    answer(&mut worker, 0, leases(&["a"]));
    worker.handle(1, Input::Ended { held: held("a", 1), ending: ending(TaskState::Succeeded) });
    worker.handle(2, Input::Unreceived);
    assert!(!worker.handle(3, Input::Drain).contains(&Output::Drained));
    assert!(worker.handle(30_003, Input::Tick).contains(&Output::Drained));
}

#[test]
fn a_node_does_no_more_than_its_ceiling_allows() {
    let config = Config { worker: "w".to_owned(), slots: 2, grace_ms: 0, ceiling: Ceiling::Tasks };
    let mut worker = Worker::new(config);
    worker.handle(0, Input::Tick);
    let check = TaskLease { task_type: TaskKind::Http, ..lease("b", 1) };
    let outputs = answer(&mut worker, 1, WorkAnswer { leases: vec![lease("a", 1), check], ..leases(&[]) });
    assert_eq!(begun(&outputs), ["b/1"]);
    let items = reported(&outputs).expect("tells");
    let [WorkItem::Finished { ending, .. }] = &items[..] else { panic!("one item") };
    assert!(ending.error.as_deref().is_some_and(|error| error.contains("needs `shell`")), "{ending:?}");
}

/// Begins and ends tasks one after the other that each take so long.
fn work_off(worker: &mut Worker, count: usize, took_ms: i64, mut now_ms: i64) -> i64 {
    for number in 0..count {
        let name = format!("past-{now_ms}-{number}");
        answer(worker, now_ms, leases(&[&name]));
        now_ms += took_ms;
        let ended = Input::Ended { held: held(&name, 1), ending: ending(TaskState::Succeeded) };
        worker.handle(now_ms, ended);
        receive(worker, now_ms);
        receive(worker, now_ms);
    }
    now_ms
}

#[test]
fn while_tasks_are_short_it_asks_ahead_and_for_many_at_once() {
    let mut worker = worker(4);
    worker.handle(0, Input::Tick);
    let now_ms = work_off(&mut worker, 8, 5, 0);
    let names: Vec<String> = (0..36).map(|number| format!("t-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(worker.free(), 36, "four, and the most that may wait for four");
    answer(&mut worker, now_ms, leases(&names[..21]));
    assert_eq!((worker.running(), worker.free()), (4, 0), "fifteen more are not worth a question");
    let ended = Input::Ended { held: held("t-00", 1), ending: ending(TaskState::Succeeded) };
    let outputs = worker.handle(now_ms + 5, ended);
    assert_eq!(begun(&outputs), ["t-04/1"], "what was asked for ahead begins at once");
    assert_eq!(polled(&outputs).map(|(_, ask)| ask.free), Some(16), "half of what may wait is worth one");
}

#[test]
fn the_longer_tasks_are_the_less_is_asked_for_ahead() {
    let wants = |slots: u32, took_ms: i64| {
        let mut worker = worker(slots);
        worker.handle(0, Input::Tick);
        work_off(&mut worker, 40, took_ms, 0);
        worker.free()
    };
    let of_four = [1, 5, 10, 24, 49, 99, 101].map(|took_ms| wants(4, took_ms));
    assert_eq!(of_four, [36, 36, 24, 12, 8, 8, 4]);
    assert_eq!([wants(100, 1), wants(1_024, 1)], [100 + 256, 2 * 1_024], "what is held is bounded");
}

#[test]
fn what_was_asked_for_ahead_and_cannot_begin_is_given_back() {
    let mut worker = worker(1);
    worker.handle(0, Input::Tick);
    let now_ms = work_off(&mut worker, 8, 5, 0);
    answer(&mut worker, now_ms, leases(&["long", "next"]));
    assert_eq!(worker.next_wakeup_ms(), Some(now_ms + AHEAD_MS));
    let outputs = worker.handle(now_ms + AHEAD_MS, Input::Tick);
    let returned = reported(&outputs).expect("it says so");
    assert_eq!(returned, [WorkItem::Returned { held: held("next", 1) }]);
    receive(&mut worker, now_ms + AHEAD_MS);
    assert_eq!(worker.free(), 0, "tasks are long now");
}

#[test]
fn where_tasks_take_their_time_nothing_is_asked_for_ahead() {
    let mut worker = worker(4);
    worker.handle(0, Input::Tick);
    work_off(&mut worker, 20, 1_000, 0);
    assert_eq!(worker.free(), 4);
}
