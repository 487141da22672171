//! Finds and ends processes of a task that left its group: `setsid`, a double fork, a job of an interactive shell.
//!
//! Every program of a task gets a mark in its environment ([`MARK`]), which whatever it starts inherits, wherever
//! it goes. A process with a mark of this worker whose task does not run here any more is left over, and is
//! killed: at once where the task was called off or took too long, within a second where it ended by itself.
//! Whoever means to leave something running starts it without the variable, or by a service manager.
//!
//! A control group would do the same with less looking, but not everywhere may one be made, and moving a process
//! into one costs milliseconds at each start. What gives itself another user's rights is not seen.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::random;

/// The variable that marks a program of a task: the worker's run and a number.
pub(super) const MARK: &str = "CAELUM_TASK_RUN";
/// How long after a task's end it is looked for what is left of it, so that many ends need one look.
const LATER: Duration = Duration::from_secs(1);
/// Looks until nothing is found, and the pause between them: what is killed may have just started another.
const LOOKS_MAX: usize = 100;
const PAUSE: Duration = Duration::from_millis(2);

/// The marks that one worker has given out.
#[derive(Debug)]
pub(super) struct Marks {
    run: String,
    numbers: AtomicU64,
    live: Mutex<BTreeSet<u64>>,
    is_sweep_due: AtomicBool,
}

/// The mark of one program, for as long as it may run.
#[derive(Debug)]
pub(super) struct Mark {
    marks: Arc<Marks>,
    number: u64,
}

impl Marks {
    pub(super) fn new() -> Arc<Self> {
        let run = random::secret(16);
        Arc::new(Self {
            run,
            numbers: AtomicU64::new(1),
            live: Mutex::default(),
            is_sweep_due: AtomicBool::new(false),
        })
    }

    /// What all marks of this worker begin with.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// A mark for a program that is about to start.
    pub(super) fn give(self: &Arc<Self>) -> Mark {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.live().insert(number);
        Mark { marks: Arc::clone(self), number }
    }

    fn live(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.live.lock().expect("no code panics while it holds this lock")
    }

    /// Whether an environment has a mark of a program that runs here no more.
    fn is_left_over(&self, environment: &[u8]) -> bool {
        let number = environment.split(|byte| *byte == 0).find_map(|entry| {
            let number = entry
                .strip_prefix(MARK.as_bytes())?
                .strip_prefix(b"=")?
                .strip_prefix(self.run.as_bytes())?
                .strip_prefix(b".")?;
            std::str::from_utf8(number).ok()?.parse::<u64>().ok()
        });
        number.is_some_and(|number| !self.live().contains(&number))
    }

    /// Kills what is left over, until a look finds nothing; answers how many were killed.
    fn sweep(&self) -> usize {
        let mut killed = 0;
        for _ in 0..LOOKS_MAX {
            match self.kill_once() {
                0 => break,
                found => killed += found,
            }
            std::thread::sleep(PAUSE);
        }
        killed
    }

    fn kill_once(&self) -> usize {
        let Ok(processes) = fs::read_dir("/proc") else { return 0 };
        let mut found = 0;
        for process in processes.flatten() {
            let name = process.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let is_left_over = || {
                // Whoever is gone, or is another user's, has nothing to read.
                fs::read(process.path().join("environ")).is_ok_and(|read| self.is_left_over(&read))
            };
            if is_left_over() && kill(id, is_left_over) {
                found += 1;
            }
        }
        found
    }
}

impl Mark {
    /// What the variable says.
    pub(super) fn text(&self) -> String {
        format!("{}.{}", self.marks.run, self.number)
    }

    /// The task was ended before its time: whatever has its mark goes with it, before this returns.
    pub(super) async fn end(self) {
        let marks = Arc::clone(&self.marks);
        marks.live().remove(&self.number);
        let swept = tokio::task::spawn_blocking(move || marks.sweep()).await;
        if let Ok(killed @ 1..) = swept {
            tracing::debug!(code = "worker.escaped", killed, "processes had left the group of a task");
        }
    }
}

impl Drop for Mark {
    /// The task ended by itself: it is looked soon what it left running.
    fn drop(&mut self) {
        if !self.marks.live().remove(&self.number) || self.marks.is_sweep_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let marks = Arc::clone(&self.marks);
        // Without a runtime the worker is ending, and its guard looks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(LATER).await;
            marks.is_sweep_due.store(false, Ordering::Release);
            if let Ok(killed @ 1..) = tokio::task::spawn_blocking(move || marks.sweep()).await {
                tracing::info!(
                    code = "worker.left_over",
                    killed,
                    "tasks had left processes running outside of their groups; they were ended"
                );
            }
        });
    }
}

/// Kills a process, if it is still the one that was looked at when it can no longer be another.
#[cfg(target_os = "linux")]
fn kill(id: i32, is_meant: impl Fn() -> bool) -> bool {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    // SAFETY: the call takes numbers only and answers a new descriptor or -1.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    let Ok(descriptor) = i32::try_from(opened) else { return false };
    if descriptor < 0 {
        // Before Linux 5.3 there is only the number.
        let is_unknown = io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
        // SAFETY: the call takes numbers only.
        return is_unknown && unsafe { libc::kill(id, libc::SIGKILL) } == 0;
    }
    // SAFETY: the descriptor was just made for us and is nobody else's.
    let process = unsafe { OwnedFd::from_raw_fd(descriptor) };
    if !is_meant() {
        return false;
    }
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and no information goes with the signal.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, nothing, 0) };
    sent == 0
}

/// Elsewhere there is no such list of processes.
#[cfg(not(target_os = "linux"))]
fn kill(_: i32, _: impl Fn() -> bool) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_of_this_run_whose_program_ended_are_left_over() {
        let marks = Marks::new();
        let (ended, runs) = (marks.give(), marks.give());
        marks.live().remove(&ended.number);
        let environment = |text: String| [b"A=1\0CAELUM_TASK_RUN=", text.as_bytes(), b"\0B=2\0"].concat();
        assert!(marks.is_left_over(&environment(ended.text())));
        assert!(!marks.is_left_over(&environment(runs.text())));
        assert!(!marks.is_left_over(&environment(format!("{}x", ended.text()))));
        assert!(!marks.is_left_over(&environment("another.1".to_owned())));
        assert!(!marks.is_left_over(b"") && !marks.is_left_over(b"CAELUM_TASK_RUN\0"));
    }
}
