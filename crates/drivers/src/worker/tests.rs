//! Tasks as real processes: what they see, how they end, and that nothing of them is left.

use std::{fs, process::Command};

use caelum_model::id::TaskId;
use caelum_testkit::target::{Script, Target as Site};
use tempfile::TempDir;
use tokio::time::Instant as Clock;

use super::*;
use crate::probe::Scripted;

struct World {
    runner: Arc<Runner>,
    folder: TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let settings = Settings {
        node_id: NodeId::parse("n-1").expect("valid"),
        shell: "/bin/sh".into(),
        directory: folder.path().join("tasks"),
        environment: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
        kill_after: Duration::from_millis(300),
    };
    let runner = Runner::new(settings, RootCertStore::empty(), Arc::new(Scripted::default()));
    World { runner: Arc::new(runner.expect("a runner")), folder }
}

fn lease(kind: TaskKind, data: Value) -> TaskLease {
    TaskLease {
        held: Held { task_id: TaskId::parse("t-1").expect("valid"), fence: 7 },
        attempt: 2,
        task_type: kind,
        task_data: data,
        timeout_seconds: 60,
        lease_ms: 15_000,
    }
}

fn shell(command: &str) -> TaskLease {
    lease(TaskKind::Shell, json!({ "command": command }))
}

/// A task that runs.
struct Running {
    stop: CancellationToken,
    happenings: mpsc::Receiver<(Held, Happening)>,
    said: String,
}

impl Running {
    fn begin(world: &World, lease: TaskLease) -> Self {
        let (sender, happenings) = mpsc::channel(64);
        let (runner, stop) = (Arc::clone(&world.runner), CancellationToken::new());
        let stopped = stop.clone();
        tokio::spawn(async move { runner.run(lease, stopped, sender).await });
        Self { stop, happenings, said: String::new() }
    }

    async fn next(&mut self) -> Happening {
        let (held, happening) = self.happenings.recv().await.expect("it has not ended");
        assert_eq!(held.fence, 7);
        if let Happening::Output(chunk) = &happening {
            self.said.push_str(&chunk.text);
        }
        happening
    }

    /// Waits until it has written a line that ends with this.
    async fn until_it_says(&mut self, end: &str) {
        while !self.said.ends_with(end) {
            self.next().await;
        }
    }

    async fn end(&mut self) -> Ending {
        loop {
            if let Happening::Ended(ending) = self.next().await {
                return ending;
            }
        }
    }
}

async fn run(world: &World, lease: TaskLease) -> (Ending, String) {
    let mut running = Running::begin(world, lease);
    let ending = running.end().await;
    (ending, running.said)
}

/// Whether a process runs; one that only waits to be buried does not.
fn is_alive(id: &str) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_program_ends_as_its_exit_code_says() {
    let world = world();
    let (ending, said) = run(&world, shell("echo hello; echo oh >&2")).await;
    assert_eq!((ending.outcome, ending.exit_code, ending.error), (TaskState::Succeeded, Some(0), None));
    assert_eq!(ending.output_bytes, 9);
    assert!(said.contains("hello\n") && said.contains("oh\n"), "{said}");
    let (ending, _) = run(&world, shell("exit 3")).await;
    assert_eq!((ending.outcome, ending.exit_code), (TaskState::Failed, Some(3)));
    let (ending, _) = run(&world, shell("kill -9 $$")).await;
    assert_eq!((ending.outcome, ending.exit_code), (TaskState::Failed, None));
    assert_eq!(ending.error.as_deref(), Some("ended by signal 9"));
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let world = world();
    let lost = lease(TaskKind::Script, json!({ "script": "1", "interpreter": "no-such-thing" }));
    let (ending, _) = run(&world, lost).await;
    assert!(ending.error.expect("failed").contains("start no-such-thing"));
    let (ending, _) = run(&world, lease(TaskKind::Shell, json!({ "command": 5 }))).await;
    assert!(ending.error.expect("failed").starts_with("task_data: "));
    let (ending, _) = run(&world, lease(TaskKind::Ssh, json!({}))).await;
    assert_eq!(ending.outcome, TaskState::Failed);
    let (ending, _) = run(&world, lease(TaskKind::Shell, json!({ "command": "true", "cwd": "tmp" }))).await;
    assert!(ending.error.expect("failed").contains("absolute"));
}

#[tokio::test]
async fn a_program_sees_what_it_was_given_and_nothing_else() {
    let world = world();
    let asked = json!({ "command": "env | sort", "env": { "COLOUR": "blue" } });
    let (_, said) = run(&world, lease(TaskKind::Shell, asked)).await;
    let names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
    let expected = [
        "CAELUM_NODE",
        "CAELUM_TASK_ATTEMPT",
        "CAELUM_TASK_FENCE",
        "CAELUM_TASK_ID",
        "CAELUM_TASK_RUN",
        "COLOUR",
        "PATH",
        "PWD",
    ];
    // Some shells add these of their own.
    let own = ["_", "SHLVL", "OLDPWD"];
    let names: Vec<&str> = names.into_iter().filter(|name| !own.contains(name)).collect();
    assert_eq!(names, expected);
    assert!(said.contains("CAELUM_TASK_FENCE=7\n") && said.contains("CAELUM_TASK_ATTEMPT=2\n"));
    let (ending, said) = run(&world, shell("cat; echo end")).await;
    assert_eq!((ending.outcome, said.as_str()), (TaskState::Succeeded, "end\n"), "its input is empty");
}

#[tokio::test]
async fn a_task_works_in_a_directory_of_its_own_that_is_gone_afterwards() {
    let world = world();
    let (_, said) = run(&world, shell("pwd; touch left-behind")).await;
    let directory = PathBuf::from(said.trim());
    assert!(directory.starts_with(world.folder.path().canonicalize().expect("is there")), "{said}");
    assert!(!directory.exists());
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let asked = json!({ "command": "pwd; touch kept", "cwd": elsewhere.path() });
    run(&world, lease(TaskKind::Shell, asked)).await;
    assert!(elsewhere.path().join("kept").exists());
}

#[tokio::test]
async fn a_script_runs_by_its_interpreter() {
    let world = world();
    let asked = json!({ "script": "echo \"$1-$2\"", "args": ["a b", "c"] });
    let (ending, said) = run(&world, lease(TaskKind::Script, asked)).await;
    assert_eq!((ending.exit_code, said.as_str()), (Some(0), "a b-c\n"));
    let asked =
        json!({ "script": "import sys; print(sys.argv[1])", "interpreter": "python3", "args": ["x"] });
    let (ending, said) = run(&world, lease(TaskKind::Script, asked)).await;
    assert_eq!((ending.error, said.as_str()), (None, "x\n"));
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let world = world();
    let (ending, said) = run(&world, shell("sleep 1000 & echo $!")).await;
    assert_eq!(ending.outcome, TaskState::Succeeded);
    assert!(!is_alive(said.trim()), "{said}");
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_ended_with_all_it_started() {
    let world = world();
    let mut long = shell("sleep 1000 & echo $!; trap '' TERM; while :; do sleep 0.05; done");
    long.timeout_seconds = 1;
    let began = Clock::now();
    let (ending, said) = run(&world, long).await;
    assert_eq!(ending.outcome, TaskState::TimedOut);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(!is_alive(said.trim()), "{said}");
}

#[tokio::test]
async fn a_task_that_is_called_off_is_gone_when_it_has_ended() {
    let world = world();
    let mut running = Running::begin(&world, shell("sleep 1000 & echo $!; wait; echo never"));
    running.until_it_says("\n").await;
    let id = running.said.trim().to_owned();
    assert!(is_alive(&id));
    running.stop.cancel();
    let ending = running.end().await;
    // How soon is measured by `cargo xtask bench tasks`.
    assert_eq!(ending.outcome, TaskState::Cancelled);
    assert!(!is_alive(&id));
}

#[tokio::test]
async fn a_program_may_end_in_its_own_way_when_it_is_called_off() {
    let world = world();
    let command = "trap 'echo cleaned; exit 9' TERM; echo ready; while :; do sleep 0.02; done";
    let mut running = Running::begin(&world, shell(command));
    running.until_it_says("ready\n").await;
    running.stop.cancel();
    let ending = running.end().await;
    assert_eq!((ending.outcome, ending.exit_code), (TaskState::Cancelled, Some(9)));
    assert!(running.said.contains("cleaned\n"), "{}", running.said);
}

#[tokio::test]
async fn somebody_outside_the_group_does_not_keep_a_task_from_ending() {
    let world = world();
    let (ending, said) = run(&world, shell("setsid sleep 1000 & echo $!; exit 0")).await;
    assert_eq!(ending.outcome, TaskState::Succeeded);
    assert!(!is_alive(said.trim()), "who holds the output is ended with the task");
}

#[tokio::test]
async fn what_left_the_group_ends_with_a_task_that_is_called_off() {
    let world = world();
    let command = "(setsid sh -c 'sleep 1000 & echo $!; wait' >escaped 2>&1 &) ; \
                   while ! [ -s escaped ]; do sleep 0.01; done; cat escaped; sleep 1000";
    let mut running = Running::begin(&world, shell(command));
    running.until_it_says("\n").await;
    let id = running.said.trim().to_owned();
    assert!(is_alive(&id), "it has a session of its own, and no parent here");
    running.stop.cancel();
    assert_eq!(running.end().await.outcome, TaskState::Cancelled);
    assert!(!is_alive(&id));
}

#[tokio::test]
async fn what_a_task_leaves_outside_of_its_group_is_found_unless_it_has_no_mark() {
    let world = world();
    // The task does not end before both have left its group: what is still in it ends with it, mark or none.
    let command = "setsid sh -c 'echo $$ >left; exec sleep 1000' >/dev/null 2>&1 & \
                   env -u CAELUM_TASK_RUN setsid sh -c 'echo $$ >meant; exec sleep 1000' >/dev/null 2>&1 & \
                   while ! [ -s left ] || ! [ -s meant ]; do sleep 0.01; done; cat left meant";
    let (ending, said) = run(&world, shell(command)).await;
    assert_eq!(ending.outcome, TaskState::Succeeded);
    let (left, meant) = said.trim().split_once('\n').expect("two ids");
    caelum_testkit::wait::until_answered("what was left is ended", Duration::from_secs(20), async || {
        (!is_alive(left)).then_some(())
    })
    .await;
    assert!(is_alive(meant), "it was started to stay");
    drop(Command::new("kill").args(["-9", meant]).status());
}

#[tokio::test]
async fn what_left_the_group_ends_with_a_worker_that_is_killed() {
    let guard = Guard::new(Path::new("/bin/sh"), "arun");
    let spawn = |mark: &str| {
        let mut command = tokio::process::Command::new("sleep");
        command.arg("1000").env("CAELUM_TASK_RUN", mark).process_group(0).spawn().expect("starts")
    };
    let (mut ours, mut others) = (spawn("arun.7"), spawn("arunx.7"));
    // With the first group that it hears of, it starts.
    guard.watch(i32::MAX).await;
    drop(guard);
    ours.wait().await.expect("is killed");
    assert!(others.try_wait().expect("asks").is_none());
    others.kill().await.expect("ends");
}

#[tokio::test]
async fn a_torrent_of_output_is_counted_and_kept_to_the_bound() {
    let world = world();
    let (ending, said) = run(&world, shell("yes | head -c 3000000; echo last >&2")).await;
    assert_eq!((ending.outcome, ending.output_bytes), (TaskState::Succeeded, 3_000_005));
    assert_eq!(said.len() as u64, caelum_model::task::OUTPUT_MAX);
}

#[tokio::test]
async fn programs_of_a_worker_that_is_killed_end() {
    let guard = Guard::new(Path::new("/bin/sh"), "nobody");
    let spawn = || {
        let mut command = tokio::process::Command::new("sleep");
        command.arg("1000").process_group(0).spawn().expect("starts")
    };
    let (mut watched, mut forgotten) = (spawn(), spawn());
    let group = |child: &tokio::process::Child| i32::try_from(child.id().expect("runs")).expect("small");
    guard.watch(group(&watched)).await;
    guard.watch(group(&forgotten)).await;
    guard.forget(group(&forgotten)).await;
    // Its end of the pipe closes, as it does when the process is gone.
    drop(guard);
    watched.wait().await.expect("is killed");
    assert!(forgotten.try_wait().expect("asks").is_none());
    forgotten.kill().await.expect("ends");
}

#[tokio::test]
async fn a_guard_that_is_killed_is_replaced() {
    let guard = Guard::new(Path::new("/bin/sh"), "nobody");
    let mut child =
        tokio::process::Command::new("sleep").arg("1000").process_group(0).spawn().expect("starts");
    let group = i32::try_from(child.id().expect("runs")).expect("small");
    guard.watch(group).await;
    guard.end_watcher().await;
    // The first word after its death may go astray, the group is told again all the same.
    guard.watch(group).await;
    guard.watch(group).await;
    drop(guard);
    child.wait().await.expect("is killed");
}

#[tokio::test]
async fn an_answer_is_checked_for_its_status_and_its_text() {
    let world = world();
    let site = Site::start(Script { body_bytes: 64, ..Script::default() }).await.expect("a site");
    let check = |more: Value| {
        let mut data = json!({ "url": site.url() });
        data.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        lease(TaskKind::Http, data)
    };
    let (ending, said) = run(&world, check(json!({ "expect_status": 200 }))).await;
    assert_eq!(ending.error, None);
    assert!(said.contains("200 OK, 64 bytes"), "{said}");
    let (ending, _) = run(&world, check(json!({ "expect_status": [201, 204] }))).await;
    assert_eq!(ending.error.as_deref(), Some("the answer is 200, not 201 or 204"));
    let (ending, _) = run(&world, check(json!({ "expect_text": "no such words" }))).await;
    assert_eq!(ending.outcome, TaskState::Failed);
    site.change(Script { status: 500, ..Script::default() });
    let (ending, _) = run(&world, check(json!({}))).await;
    assert!(ending.error.expect("failed").contains("500"));
}

#[tokio::test]
async fn a_file_is_fetched_whole_and_checked_or_not_at_all() {
    let world = world();
    let site = Site::start(Script { body_bytes: 100_000, ..Script::default() }).await.expect("a site");
    let path = world.folder.path().join("fetched");
    let fetch = |sha256: Option<&str>| {
        let data = json!({ "url": site.url(), "path": path, "sha256": sha256, "mode": "0600" });
        lease(TaskKind::Fetch, data)
    };
    let (ending, _) = run(&world, fetch(Some(&"0".repeat(64)))).await;
    assert!(ending.error.expect("failed").starts_with("SHA-256"));
    assert!(!path.exists());
    let (ending, said) = run(&world, fetch(None)).await;
    assert_eq!(ending.error, None);
    assert_eq!(fs::metadata(&path).expect("is there").len(), 100_000);
    let digest = said.trim().rsplit(' ').next().expect("a digest").to_owned();
    let (ending, _) = run(&world, fetch(Some(&digest))).await;
    assert_eq!(ending.error, None);
    let left: Vec<_> = fs::read_dir(world.folder.path()).expect("is there").flatten().collect();
    assert_eq!(left.len(), 2, "the file and the tasks' directory: {left:?}");
    let relative = lease(TaskKind::Fetch, json!({ "url": site.url(), "path": "here" }));
    assert!(run(&world, relative).await.0.error.expect("failed").contains("absolute"));
}

#[tokio::test]
async fn a_measurement_is_told_as_json() {
    let world = world();
    let asked = lease(TaskKind::Probe, json!({ "url": "https://example.net/" }));
    let (ending, said) = run(&world, asked).await;
    assert_eq!(ending.outcome, TaskState::Succeeded);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(told["target"], "https://example.net/");
    let (ending, _) = run(&world, lease(TaskKind::Probe, json!({ "url": "nonsense" }))).await;
    assert_eq!(ending.outcome, TaskState::Failed);
}

#[tokio::test]
async fn a_request_that_is_called_off_or_takes_too_long_ends() {
    let world = world();
    let slow = Script { first_byte: Duration::from_secs(600), ..Script::default() };
    let site = Site::start(slow).await.expect("a site");
    let mut running = Running::begin(&world, lease(TaskKind::Http, json!({ "url": site.url() })));
    assert_eq!(running.next().await, Happening::Started);
    running.stop.cancel();
    assert_eq!(running.end().await.outcome, TaskState::Cancelled);
    let mut short = lease(TaskKind::Http, json!({ "url": site.url() }));
    short.timeout_seconds = 1;
    assert_eq!(run(&world, short).await.0.outcome, TaskState::TimedOut);
}
