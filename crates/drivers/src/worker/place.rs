//! The directories that tasks work in.
//!
//! # Rules
//! - A task's directory is empty when it begins, nobody else's meanwhile, and what it leaves there is removed.
//! - One that was left as it was made is kept for a later task, since most tasks leave nothing there, and making and
//!   removing one costs as much as half of a small program. It rests before that ([`REST`]): by then whatever
//!   left the task's group, and may still be in the directory, was found and ended (see [`super::escaped`]).
//! - So many rest at most ([`RESTING_MAX`]), and those that nobody needed for long ([`UNUSED`]) are removed as
//!   tasks end.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a directory rests. What left a group is looked for within a second.
const REST: Duration = Duration::from_secs(2);
/// Directories that rest at most.
const RESTING_MAX: usize = 4_096;
/// How long after a task one that rests is kept.
const UNUSED: Duration = Duration::from_secs(30);

/// All directories of a worker.
pub(super) struct Places {
    root: PathBuf,
    made: AtomicU64,
    /// Those that rest, the longest first.
    resting: Mutex<VecDeque<(Instant, PathBuf)>>,
}

/// The directory of one task.
pub(super) struct Place {
    pub(super) own: PathBuf,
}

impl Places {
    /// Begins anew: what a run before this one left behind is nobody's.
    pub(super) fn begin(root: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make_directory(root)?;
        Ok(Self { root: root.to_owned(), made: AtomicU64::new(1), resting: Mutex::default() })
    }

    /// A directory for a task.
    pub(super) async fn take(&self, now: Instant) -> Result<Place, (PathBuf, io::Error)> {
        let rested = {
            let mut resting = self.resting();
            let is_rested = resting.front().is_some_and(|(since, _)| now.duration_since(*since) >= REST);
            if is_rested { resting.pop_front() } else { None }
        };
        if let Some((_, own)) = rested {
            if is_as_made(&own) {
                return Ok(Place { own });
            }
            // Somebody who left the group came back to it.
            remove(&own).await;
        }
        let own = self.root.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        match make_directory(&own) {
            Ok(()) => Ok(Place { own }),
            Err(error) => Err((own, error)),
        }
    }

    /// Takes a directory back when nothing of its task is left.
    pub(super) async fn give_back(&self, place: Place, now: Instant) {
        if !is_as_made(&place.own) {
            return remove(&place.own).await;
        }
        let mut over = Vec::new();
        {
            let mut resting = self.resting();
            resting.push_back((now, place.own));
            let is_unused = |since: Instant| now.duration_since(since) >= UNUSED;
            // Two for each that comes, so that they become fewer.
            while over.len() < 2
                && (resting.len() > RESTING_MAX
                    || resting.front().is_some_and(|(since, _)| is_unused(*since)))
            {
                over.extend(resting.pop_front().map(|(_, own)| own));
            }
        }
        for own in over {
            remove(&own).await;
        }
    }

    fn resting(&self) -> MutexGuard<'_, VecDeque<(Instant, PathBuf)>> {
        self.resting.lock().expect("no code panics while it holds this lock")
    }
}

/// Whether a directory is there, is empty, and is for its owner alone.
fn is_as_made(own: &Path) -> bool {
    let is_ours = fs::symlink_metadata(own).is_ok_and(|found| found.is_dir() && mode_of(&found) == 0o700);
    is_ours && fs::read_dir(own).is_ok_and(|mut inside| inside.next().is_none())
}

#[cfg(unix)]
fn mode_of(found: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777
}

#[cfg(not(unix))]
fn mode_of(_: &fs::Metadata) -> u32 {
    0o700
}

async fn remove(own: &Path) {
    match tokio::fs::remove_dir_all(own).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(
            code = "worker.directory_stays", directory = %own.display(), %error,
            "the directory of a task could not be removed"
        ),
        _ => {}
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::begin(&folder.path().join("tasks")).unwrap();
        (folder, places)
    }

    #[tokio::test]
    async fn a_directory_that_was_left_as_it_was_made_is_used_again_when_it_has_rested() {
        let (_folder, places) = places();
        let now = Instant::now();
        let first = places.take(now).await.unwrap().own;
        places.give_back(Place { own: first.clone() }, now).await;
        let second = places.take(now + REST / 2).await.unwrap().own;
        assert_ne!(second, first, "it still rests");
        assert_eq!(places.take(now + REST).await.unwrap().own, first);
        assert_ne!(places.take(now + REST).await.unwrap().own, first, "it is taken");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_as_it_was_made_is_never_used_again() {
        let (_folder, places) = places();
        let now = Instant::now();
        let full = places.take(now).await.unwrap();
        fs::write(full.own.join("left"), "behind").unwrap();
        let path = full.own.clone();
        places.give_back(full, now).await;
        assert!(!path.exists(), "what a task leaves is removed");
        let gone = places.take(now).await.unwrap();
        fs::remove_dir(&gone.own).unwrap();
        places.give_back(gone, now).await;
        let late = places.take(now).await.unwrap().own;
        places.give_back(Place { own: late.clone() }, now).await;
        fs::write(late.join("late"), "by somebody who left the group").unwrap();
        assert_ne!(places.take(now + REST).await.unwrap().own, late);
        assert!(!late.exists());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_directory_with_other_permissions_is_never_used_again() {
        let (_folder, places) = places();
        let now = Instant::now();
        let open = places.take(now).await.unwrap();
        let path = open.own.clone();
        let permissions: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&path, permissions).unwrap();
        places.give_back(open, now).await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn directories_that_nobody_needed_for_long_go_as_tasks_end() {
        let (folder, places) = places();
        let now = Instant::now();
        let mut many = Vec::new();
        for _ in 0..6 {
            many.push(places.take(now).await.unwrap());
        }
        for place in many {
            places.give_back(place, now).await;
        }
        let later = now + UNUSED;
        for left in [4, 2] {
            let place = places.take(later).await.unwrap();
            places.give_back(place, later).await;
            assert_eq!(fs::read_dir(folder.path().join("tasks")).unwrap().count(), left);
        }
    }
}
