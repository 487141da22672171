//! A program in a process group of its own, from its start until nothing of the group is left.

use std::{ffi::OsString, io, path::PathBuf, process::ExitStatus, process::Stdio, time::Duration};

use caelum_model::task::TaskState;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Fault, Happening, Outcome, Teller, escaped::Mark, guard::Guard};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// How long a program has run when the guard is told of its group. Of a worker that is killed before that, the
/// guard finds the program by its mark; and most programs that do little never cost it anything.
const WATCHED_AFTER: Duration = Duration::from_millis(50);
/// How long the rest of the output is waited for once the group was killed: somebody who left the group may
/// still have the pipe, and is ended then.
const REST_MAX: Duration = Duration::from_millis(200);
/// How often it is looked whether the last of a killed group is gone, and how often at most.
const GONE_EVERY: Duration = Duration::from_millis(2);
const GONE_LOOKS: usize = 50;

/// What is run, and how.
pub(super) struct Program {
    /// The program and what it is given.
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) environment: Vec<(String, String)>,
    /// What is also in its environment, so that whatever it starts is known.
    pub(super) mark: Mark,
    pub(super) limit: Duration,
    pub(super) kill_after: Duration,
}

/// Why a program was asked to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Stopped,
    TimedOut,
}

/// Runs a program to its end.
pub(super) async fn run(
    program: Program,
    guard: &Guard,
    stop: &CancellationToken,
    teller: &mut Teller,
) -> Outcome {
    if stop.is_cancelled() {
        return Err(Fault::stopped());
    }
    let mut child = spawn(&program)?;
    // It was just started and not yet waited for, so it has its id.
    let group = i32::try_from(child.id().expect("it was not waited for")).expect("ids are small");
    guard.begin().await;
    teller.tell(Happening::Started).await;
    let limit = program.limit;
    let ended = follow(&mut child, group, program, guard, stop, teller).await;
    let (status, reason) = ended.map_err(|error| Fault::failed(format!("wait for the program: {error}")))?;
    match (reason, status) {
        (None, status) => judge(status),
        // It was asked to end and had just ended well.
        (Some(_), status) if status.success() => Ok(status.code()),
        (Some(Reason::Stopped), status) => Err(Fault { exit_code: status.code(), ..Fault::stopped() }),
        (Some(Reason::TimedOut), status) => {
            Err(Fault { exit_code: status.code(), ..Fault::timed_out(limit) })
        }
    }
}

fn spawn(program: &Program) -> Result<Child, Fault> {
    let (name, arguments) = program.arguments.split_first().ok_or_else(|| Fault::failed("no program"))?;
    let failed = |error: io::Error| {
        let (name, place) = (name.to_string_lossy(), program.directory.display());
        Fault::failed(format!("start {name} in {place}: {error}"))
    };
    Command::new(name)
        .args(arguments)
        .current_dir(&program.directory)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

async fn follow(
    child: &mut Child,
    group: i32,
    program: Program,
    guard: &Guard,
    stop: &CancellationToken,
    teller: &mut Teller,
) -> io::Result<(ExitStatus, Option<Reason>)> {
    let mut pipes = Pipes::of(child);
    let (watch_at, mut is_watched) = (Instant::now() + WATCHED_AFTER, false);
    // A time-out of a week still fits an instant.
    let limit = Instant::now() + program.limit;
    let (mut reason, mut kill_at) = (None, None);
    let status = loop {
        let flush_at = teller.collector.due().map(Instant::from_std);
        tokio::select! {
            status = child.wait() => break status,
            () = sleep_until(watch_at), if !is_watched => {
                is_watched = true;
                guard.watch(group).await;
            }
            () = stop.cancelled(), if reason.is_none() => {
                reason = Some(Reason::Stopped);
                signal(group, libc::SIGTERM);
                kill_at = Some(Instant::now() + program.kill_after);
            }
            () = sleep_until(limit), if reason.is_none() => {
                reason = Some(Reason::TimedOut);
                signal(group, libc::SIGTERM);
                kill_at = Some(Instant::now() + program.kill_after);
            }
            () = sleep_until(kill_at.unwrap_or(limit)), if kill_at.is_some() => {
                kill_at = None;
                signal(group, libc::SIGKILL);
            }
            (is_error, read) = pipes.read(), if pipes.is_open() => {
                teller.write(is_error, &read).await;
            }
            () = sleep_until(flush_at.unwrap_or(limit)), if flush_at.is_some() => {
                let rest = teller.collector.rest(std::time::Instant::now());
                for chunk in rest {
                    teller.tell(Happening::Output(chunk)).await;
                }
            }
        }
    };
    // What it left running in its group ends with it.
    signal(group, libc::SIGKILL);
    if is_watched {
        guard.forget(group).await;
    }
    let mut mark = Some(program.mark);
    if let Some(mark) = mark.take_if(|_| reason.is_some()) {
        mark.end().await;
    }
    let rest = async {
        while pipes.is_open() {
            let (is_error, read) = pipes.read().await;
            teller.write(is_error, &read).await;
        }
    };
    if timeout(REST_MAX, rest).await.is_err() {
        tracing::debug!(code = "worker.pipe_held", group, "somebody outside the group holds the output");
        if let Some(mark) = mark.take() {
            mark.end().await;
        }
    }
    for _ in 0..GONE_LOOKS {
        if is_gone(group) {
            break;
        }
        tokio::time::sleep(GONE_EVERY).await;
    }
    Ok((status?, reason))
}

fn judge(status: ExitStatus) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Some(0)),
        (Some(code), _) => Err(Fault {
            outcome: TaskState::Failed,
            exit_code: Some(code),
            error: format!("ended with exit code {code}"),
        }),
        (None, Some(signal)) => Err(Fault::failed(format!("ended by signal {signal}"))),
        (None, None) => Err(Fault::failed("ended without a status")),
    }
}

/// Both ends of what a program writes.
struct Pipes {
    out: Option<Pipe>,
    error: Option<Pipe>,
}

struct Pipe {
    from: Box<dyn AsyncRead + Send + Unpin>,
    buffer: Vec<u8>,
}

impl Pipe {
    fn new(from: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self { from: Box::new(from), buffer: Vec::with_capacity(READ_BYTES) }
    }

    /// Reads some; nothing at the end. Nothing is lost where this is dropped.
    async fn read(&mut self) -> Vec<u8> {
        self.buffer.reserve(READ_BYTES);
        // A pipe that cannot be read has ended.
        drop(self.from.read_buf(&mut self.buffer).await);
        std::mem::take(&mut self.buffer)
    }
}

impl Pipes {
    fn of(child: &mut Child) -> Self {
        Self { out: child.stdout.take().map(Pipe::new), error: child.stderr.take().map(Pipe::new) }
    }

    fn is_open(&self) -> bool {
        self.out.is_some() || self.error.is_some()
    }

    /// Waits for something to be written. A pipe that ends is closed.
    async fn read(&mut self) -> (bool, Vec<u8>) {
        async fn some(pipe: &mut Option<Pipe>) -> Vec<u8> {
            match pipe {
                Some(pipe) => pipe.read().await,
                None => std::future::pending().await,
            }
        }
        let (is_error, read) = tokio::select! {
            read = some(&mut self.out) => (false, read),
            read = some(&mut self.error) => (true, read),
        };
        if read.is_empty() {
            let pipe = if is_error { &mut self.error } else { &mut self.out };
            *pipe = None;
        }
        (is_error, read)
    }
}

/// Sends a signal to every process of a group.
pub(super) fn signal(group: i32, signal: libc::c_int) {
    // SAFETY: the call takes numbers only. A group that is gone is no error that matters.
    unsafe { libc::kill(-group, signal) };
}

/// Whether no process of a group is left.
pub(super) fn is_gone(group: i32) -> bool {
    // SAFETY: the call takes numbers only, and signal 0 is none.
    let answer = unsafe { libc::kill(-group, 0) };
    answer != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}
