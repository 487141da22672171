//! The rules of a task's life, one by one and against chance.

use caelum_model::{
    id::{NodeId, TaskId},
    task::{Lease, Promise, Task, TaskAsk, TaskState},
    work::Ending,
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    BACKOFF_MAX_MS, LOSSES_FREE, Refusal, TaskEvent, Under, next, order,
    queue::{AGED_MS, Class, age_key, effective_priority, sort},
};

fn task() -> Task {
    let ask = TaskAsk {
        task_type: "shell".to_owned(),
        task_data: json!({"command": "true"}),
        max_retries: Some(2),
        ..TaskAsk::default()
    };
    Task {
        task_id: TaskId::parse("t").unwrap(),
        order: order::alone(ask).unwrap(),
        created_by: "ann".to_owned(),
        created_at: 0,
        schedule_id: None,
        status: TaskState::Queued,
        blockers: 0,
        fence: 0,
        faults: 0,
        ready_at: 0,
        lease: None,
        cancelled_by: None,
        attempts: Vec::new(),
        started_at: None,
        completed_at: None,
        error: None,
    }
}

fn once() -> Task {
    let mut task = task();
    task.order.promise = Promise::AtMostOnce;
    task
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn lease(until_ms: i64) -> TaskEvent {
    TaskEvent::Lease {
        lease: Lease { node_id: node("n"), worker: "w".to_owned(), until_ms },
        reasons: vec!["it was idle".to_owned()],
    }
}

fn under(fence: u64) -> Under {
    Under { node_id: node("n"), fence }
}

fn ending(outcome: TaskState) -> Ending {
    Ending { outcome, exit_code: None, error: None, output_bytes: 0 }
}

fn finished(fence: u64, outcome: TaskState) -> TaskEvent {
    TaskEvent::Finished { under: under(fence), ending: ending(outcome) }
}

/// What stands after these events, each of them accepted, a millisecond apart and each long enough after the
/// last that every wait is over.
fn after(task: Task, events: Vec<TaskEvent>) -> Task {
    let mut now_ms = 0;
    events.into_iter().fold(task, |task, event| {
        now_ms += BACKOFF_MAX_MS + 1;
        next(task, event, now_ms, 7).unwrap()
    })
}

#[test]
fn a_task_is_leased_runs_and_ends() {
    let task =
        after(task(), vec![lease(i64::MAX), TaskEvent::Started(under(1)), finished(1, TaskState::Succeeded)]);
    assert_eq!(task.status, TaskState::Succeeded);
    assert!(task.lease.is_none() && task.completed_at.is_some());
    assert_eq!(task.attempts[0].outcome, Some(TaskState::Succeeded));
    assert_eq!(task.attempts[0].reasons, ["it was idle"]);
}

#[test]
fn a_write_under_an_old_fence_is_refused() {
    let again = after(task(), vec![lease(0), TaskEvent::Expired, lease(i64::MAX)]);
    assert_eq!(again.fence, 2);
    for late in
        [TaskEvent::Started(under(1)), finished(1, TaskState::Succeeded), TaskEvent::Returned(under(1))]
    {
        let refused = next(again.clone(), late, 0, 0).unwrap_err();
        assert_eq!(refused, Refusal::Fenced { given: 1, newest: 2 });
    }
}

#[test]
fn another_node_does_not_speak_for_the_one_that_has_it() {
    let held = after(task(), vec![lease(i64::MAX)]);
    let stranger = Under { node_id: node("m"), fence: 1 };
    assert!(next(held, TaskEvent::Started(stranger), 0, 0).is_err());
}

#[test]
fn the_same_ending_said_twice_is_the_same_ending() {
    let done = after(task(), vec![lease(i64::MAX), finished(1, TaskState::Failed)]);
    assert_eq!(done.status, TaskState::Queued, "it is tried again");
    let again = next(done.clone(), finished(1, TaskState::Failed), 9, 9).unwrap();
    assert_eq!(again, done);
    assert!(next(done, finished(1, TaskState::Succeeded), 9, 9).is_err(), "another one is not");
}

#[test]
fn faults_are_tried_again_as_often_as_asked_for_and_later_each_time() {
    let mut task = task();
    let mut now_ms = 0;
    for attempt in 1..=3u64 {
        task = next(task, lease(now_ms + 1), now_ms, 0).unwrap();
        task = next(task, finished(attempt, TaskState::Failed), now_ms, u64::MAX).unwrap();
        if attempt < 3 {
            assert_eq!(task.status, TaskState::Queued);
            assert!(task.ready_at - now_ms <= 1_000 << (attempt - 1), "{attempt}");
            now_ms = task.ready_at;
        }
    }
    assert_eq!((task.status, task.faults), (TaskState::Failed, 3));
    assert_eq!(task.error.as_deref(), Some("it failed"));
}

#[test]
fn a_lost_node_gives_an_at_least_once_task_back_at_once() {
    let lost =
        after(task(), vec![lease(0), TaskEvent::Started(under(1)), TaskEvent::WorkerGone { fence: 1 }]);
    assert_eq!((lost.status, lost.faults), (TaskState::Queued, 0));
    assert_eq!(lost.attempts[0].outcome, Some(TaskState::Lost));
}

#[test]
fn a_lost_node_loses_an_at_most_once_task_and_what_was_given_back_is_not_lost() {
    assert_eq!(after(once(), vec![lease(0), TaskEvent::Expired]).status, TaskState::Lost);
    let lost = after(once(), vec![lease(0), TaskEvent::Started(under(1)), TaskEvent::Expired]);
    assert_eq!(lost.status, TaskState::Lost);
    let back = after(once(), vec![lease(0), TaskEvent::Returned(under(1))]);
    assert_eq!((back.status, back.attempts[0].outcome), (TaskState::Queued, Some(TaskState::Queued)));
}

#[test]
fn a_task_that_fells_its_nodes_ends_as_lost() {
    let mut felled = task();
    let mut now_ms = 0;
    let mut losses = 0;
    while !felled.status.is_final() {
        now_ms += BACKOFF_MAX_MS + 1;
        felled = next(felled, lease(now_ms), now_ms, 3).unwrap();
        felled = next(felled, TaskEvent::Expired, now_ms, 3).unwrap();
        losses += 1;
    }
    assert_eq!(felled.status, TaskState::Lost);
    assert_eq!(losses, LOSSES_FREE + 2);
}

#[test]
fn a_lease_that_was_renewed_does_not_expire() {
    let held = next(task(), lease(100), 0, 0).unwrap();
    let renewed = next(held, TaskEvent::Renewed { under: under(1), until_ms: 300 }, 50, 0).unwrap();
    assert_eq!(next(renewed.clone(), TaskEvent::Expired, 299, 0), Err(Refusal::TooEarly { event: "expire" }));
    assert_eq!(next(renewed, TaskEvent::Expired, 300, 0).unwrap().status, TaskState::Queued);
}

#[test]
fn what_waits_is_cancelled_at_once_and_what_runs_when_its_node_lets_go() {
    let cancel = || TaskEvent::CancelRequested { by: "ann".to_owned() };
    assert_eq!(after(task(), vec![cancel()]).status, TaskState::Cancelled);
    let asked = after(task(), vec![lease(0), TaskEvent::Started(under(1)), cancel()]);
    assert_eq!((asked.status, asked.cancelled_by.as_deref()), (TaskState::Running, Some("ann")));
    for end in [
        finished(1, TaskState::Cancelled),
        finished(1, TaskState::Failed),
        TaskEvent::Expired,
        TaskEvent::WorkerGone { fence: 1 },
    ] {
        assert_eq!(next(asked.clone(), end, 1, 0).unwrap().status, TaskState::Cancelled);
    }
    let done = next(asked, finished(1, TaskState::Succeeded), 1, 0).unwrap();
    assert_eq!(done.status, TaskState::Succeeded, "it was faster");
}

#[test]
fn a_node_that_stops_gives_back_what_it_ended() {
    let stopped =
        after(task(), vec![lease(0), TaskEvent::Started(under(1)), finished(1, TaskState::Cancelled)]);
    assert_eq!((stopped.status, stopped.faults), (TaskState::Queued, 0));
}

#[test]
fn nothing_is_given_out_before_its_time_or_before_what_it_waits_for() {
    let early = Task { ready_at: 10, ..task() };
    assert!(next(early, lease(99), 9, 0).is_err());
    let waits = Task { blockers: 1, ..task() };
    assert!(next(waits.clone(), lease(99), 9, 0).is_err());
    let released = next(waits.clone(), TaskEvent::BlockerDone, 9, 0).unwrap();
    assert!(next(released, lease(99), 9, 0).is_ok());
    let failed = TaskEvent::BlockerFailed { task: TaskId::parse("other").unwrap() };
    let called_off = next(waits, failed, 9, 0).unwrap();
    assert_eq!(called_off.status, TaskState::Cancelled);
    assert_eq!(called_off.error.as_deref(), Some("it waited for other, which did not end well"));
}

#[test]
fn only_what_did_not_succeed_is_done_again() {
    let retry = || TaskEvent::Retry { by: "ann".to_owned() };
    let done = after(task(), vec![lease(0), finished(1, TaskState::Succeeded)]);
    assert!(next(done, retry(), 0, 0).is_err());
    let lost = after(once(), vec![lease(0), TaskEvent::Expired]);
    let again = next(lost, retry(), 5, 0).unwrap();
    assert_eq!((again.status, again.faults, again.ready_at), (TaskState::Queued, 0, 5));
    assert_eq!(again.fence, 1, "the next lease has a larger number");
}

#[test]
fn who_waits_gains_priority_up_to_ten() {
    let mut waiting = task();
    waiting.order.priority = 40;
    assert!((effective_priority(&waiting, 60_000) - 40.1).abs() < 1e-9);
    assert!((effective_priority(&waiting, AGED_MS * 9) - 50.0).abs() < 1e-9);
    let mut newer = Task { created_at: AGED_MS, ..task() };
    newer.order.priority = 49;
    assert!(age_key(&waiting) > age_key(&Task { order: newer.order.clone(), ..task() }));
    let mut both = [newer, waiting];
    sort(&mut both, AGED_MS);
    assert_eq!(both[0].order.priority, 40);
}

#[test]
fn a_class_is_what_is_asked_of_a_node() {
    let mut order = task().order;
    order.requirements = vec!["b".to_owned(), "a".to_owned()];
    let class = Class::of(&order);
    order.requirements.reverse();
    order.priority = 1;
    assert_eq!(Class::of(&order).text(), class.text());
    assert_eq!(Class::parse(&class.text()), Some(class));
}

fn event() -> impl Strategy<Value = TaskEvent> {
    let fence = 0u64..6;
    let who = prop_oneof![Just("n"), Just("m")];
    let under = (who, fence.clone()).prop_map(|(who, fence)| Under { node_id: node(who), fence });
    let outcome = prop::sample::select(TaskState::ALL.to_vec());
    prop_oneof![
        4 => (0i64..100).prop_map(lease),
        2 => under.clone().prop_map(TaskEvent::Started),
        1 => (under.clone(), 0i64..100).prop_map(|(under, until_ms)| TaskEvent::Renewed { under, until_ms }),
        4 => (under.clone(), outcome)
            .prop_map(|(under, outcome)| TaskEvent::Finished { under, ending: ending(outcome) }),
        1 => under.prop_map(TaskEvent::Returned),
        1 => Just(TaskEvent::Expired),
        1 => fence.prop_map(|fence| TaskEvent::WorkerGone { fence }),
        1 => Just(TaskEvent::CancelRequested { by: "ann".to_owned() }),
        1 => Just(TaskEvent::BlockerDone),
        1 => Just(TaskEvent::BlockerFailed { task: TaskId::parse("b").unwrap() }),
        2 => Just(TaskEvent::Retry { by: "ann".to_owned() }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_task_succeeds_once_and_its_fences_grow(
        events in prop::collection::vec((event(), 0i64..2_000, any::<u64>()), 0..60),
        is_once: bool,
    ) {
        let mut task = if is_once { once() } else { task() };
        let mut now_ms = 0;
        let mut begun = 0;
        for (event, step, chance) in events {
            now_ms += step;
            let is_retry = matches!(event, TaskEvent::Retry { .. });
            let Ok(then) = next(task.clone(), event, now_ms, chance) else { continue };
            prop_assert!(then.fence >= task.fence);
            if then.fence > task.fence {
                begun += 1;
                prop_assert_eq!(then.fence, task.fence + 1);
            }
            if task.status.is_final() && !is_retry {
                prop_assert_eq!(&then, &task, "what is final stays");
            }
            prop_assert_eq!(then.status.is_held(), then.lease.is_some());
            prop_assert_eq!(then.status.is_final(), then.completed_at.is_some());
            let successes =
                then.attempts.iter().filter(|attempt| attempt.outcome == Some(TaskState::Succeeded)).count();
            prop_assert!(successes <= 1);
            prop_assert_eq!(successes == 1, then.status == TaskState::Succeeded);
            prop_assert!(then.faults <= then.order.max_retries + 1);
            task = then;
        }
        prop_assert_eq!(begun, task.fence);
    }
}
