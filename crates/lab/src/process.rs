//! A program that was started and will be ended, with what it wrote.

#![expect(clippy::print_stderr, reason = "a failing test shows what its programs said")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::wait;

/// Process groups that run now.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Kills everything that was started here and still runs: for a program that is told to end in the middle.
pub fn kill_all() {
    for group in running().iter() {
        // SAFETY: kill has no memory to go wrong with. The groups are ours: their leaders were not waited for.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

fn running() -> MutexGuard<'static, BTreeSet<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program. Dropping it kills it, and shows the end of its log if a test is failing.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose standard output and error go to files `NAME.out` and `NAME.log` in a folder.
    pub fn start(mut command: Command, name: &str, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let open = |path: &Path| {
            let opened = File::options().create(true).append(true).open(path);
            opened.with_context(|| format!("open {}", path.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open(&folder.join(format!("{name}.out")))?)
            .stderr(open(&log)?)
            // A group of its own, so that what it started ends with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        running().extend(i32::try_from(child.id()));
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// Whether and how it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // Its id may be another's as soon as it was waited for.
        let mut running = running();
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_some() {
            running.remove(&self.id());
        }
        ended
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_end(&mut self, at_most: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, at_most, || self.ended())
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) {
        self.signal(self.id(), libc::SIGTERM);
    }

    /// Ends it and what it started without a word, as a crash does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(-self.id(), libc::SIGKILL);
        running().remove(&self.id());
        // It cannot refuse; an error says that it is gone already.
        drop(self.child.wait());
    }

    /// Stops it in its tracks, and waits until all its threads stand: it keeps its sockets and answers
    /// nobody.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(self.id(), libc::SIGSTOP);
        let threads = format!("/proc/{}/task", self.pid());
        wait::until(&format!("{} stands still", self.name), Duration::from_secs(10), || {
            let stands = |thread: &Path| {
                // The state follows the name, which may hold anything, in brackets.
                let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
            };
            fs::read_dir(&threads).ok()?.flatten().all(|thread| stands(&thread.path())).then_some(())
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(self.id(), libc::SIGCONT);
    }

    fn id(&self) -> i32 {
        i32::try_from(self.pid()).expect("process ids are small")
    }

    fn signal(&self, whom: i32, signal: i32) {
        // SAFETY: kill has no memory to go wrong with. The process is ours and was not waited for, so its
        // id, which is its group's too, cannot have passed to another.
        unsafe { libc::kill(whom, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(40);
            let end: Vec<&str> = log.lines().skip(from).collect();
            eprintln!("--- end of what {} logged\n{}\n---", self.name, end.join("\n"));
        }
    }
}
