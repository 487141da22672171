//! Who ends the tasks of a worker that is killed.
//!
//! A killed worker ends nothing. So a shell of its own waits at a pipe, is told which process groups there
//! are, and kills those that are left when the pipe closes, which it does whatever the worker dies of; and then
//! whatever has a [mark](super::escaped) of the worker. It starts with the first program; where it is killed
//! itself, it is started again.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    sync::Mutex,
};

/// Keeps a list of groups; at the end of its input, kills them, and then what has a mark that begins with its
/// first argument. Each is looked for more than once: what is killed may have just started another.
const WATCH: &str = r#"
trap '' INT TERM HUP
groups=
while read -r what id; do
    case $what in
        +) groups="$groups $id" ;;
        -)
            kept=
            for one in $groups; do [ "$one" = "$id" ] || kept="$kept $one"; done
            groups=$kept
            ;;
    esac
done
for one in $groups; do kill -s KILL -- "-$one" 2>/dev/null; done
for look in 1 2 3; do
    for one in $(grep -lsz "^CAELUM_TASK_RUN=$1[.]" /proc/[0-9]*/environ 2>/dev/null); do
        one=${one#/proc/}
        kill -s KILL "${one%/environ}" 2>/dev/null
    done
done
"#;

pub(super) struct Guard {
    shell: PathBuf,
    run: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watcher: Option<(Child, ChildStdin)>,
    groups: Vec<i32>,
}

impl Guard {
    /// A guard of the worker whose marks begin with `run`.
    pub(super) fn new(shell: &Path, run: &str) -> Self {
        Self { shell: shell.to_owned(), run: run.to_owned(), state: Mutex::default() }
    }

    /// Something is about to run: from now on there is who waits.
    pub(super) async fn begin(&self) {
        let mut state = self.state.lock().await;
        if state.watcher.is_none() {
            self.start_watching(&mut state).await;
        }
    }

    /// This group is to end with the worker.
    pub(super) async fn watch(&self, group: i32) {
        let mut state = self.state.lock().await;
        state.groups.push(group);
        self.tell(&mut state, '+', group).await;
    }

    /// This group has ended.
    pub(super) async fn forget(&self, group: i32) {
        let mut state = self.state.lock().await;
        state.groups.retain(|one| *one != group);
        self.tell(&mut state, '-', group).await;
    }

    /// Kills the shell that waits.
    #[cfg(test)]
    pub(super) async fn end_watcher(&self) {
        if let Some((child, _)) = &mut self.state.lock().await.watcher {
            child.kill().await.expect("ends");
        }
    }

    async fn tell(&self, state: &mut State, what: char, group: i32) {
        if let Some((_, pipe)) = &mut state.watcher
            && pipe.write_all(format!("{what} {group}\n").as_bytes()).await.is_ok()
        {
            return;
        }
        self.start_watching(state).await;
    }

    async fn start_watching(&self, state: &mut State) {
        state.watcher = match self.start(&state.groups).await {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    code = "worker.no_guard", %error,
                    "tasks will outlive this worker if it is killed"
                );
                None
            }
        };
    }

    async fn start(&self, groups: &[i32]) -> std::io::Result<(Child, ChildStdin)> {
        let mut child = Command::new(&self.shell)
            .args(["-c", WATCH, "caelum-guard", &self.run])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What is sent to the worker's own group is not meant for it.
            .process_group(0)
            .spawn()?;
        let mut pipe = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        for group in groups {
            pipe.write_all(format!("+ {group}\n").as_bytes()).await?;
        }
        Ok((child, pipe))
    }
}
