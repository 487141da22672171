//! A mailbox in a directory that machines and servers see: a file a request, in a folder where machines may write,
//! and a file an answer, in one where they may only read.
//!
//! | in `DIRECTORY/CLUSTER-join` | who writes |
//! |---|---|
//! | `requests` | machines; servers take out |
//! | `answers`, `sign`, `new` | servers |
//!
//! Servers take a request by moving it where only they write, and look at it there: what is no plain file, or too
//! large, is removed unread.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use caelum_engine::mailbox::{
    ANSWER_BYTES_MAX, ANSWER_LIVES_MS, REQUEST_BYTES_MAX, REQUEST_LIVES_MS, SIGN_LIVES_MS, SLOTS, slot_name,
};
use tokio::sync::Semaphore;

use super::SIGN_BYTES_MAX;
use crate::{
    CoordinationError,
    coordination::{hanging, space},
};

/// Calls at once: a file system that hangs holds no more threads than this.
const CALLS_MAX: usize = 2;
/// Names in a folder that are looked at in one go.
const NAMES_MAX: usize = 1_000;

/// Tells the files of this process' calls apart.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// See the file.
#[derive(Clone)]
pub(super) struct DropFolder {
    root: Arc<Path>,
    calls: Arc<Semaphore>,
}

impl DropFolder {
    pub(super) fn open(path: &Path, of: &str) -> Self {
        let root = path.join(format!("{}-join", space::file_name(of)));
        Self { root: root.into(), calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    pub(super) fn place(&self) -> String {
        format!("file:{}", self.root.display())
    }

    pub(super) async fn sign(&self) -> Result<Option<String>, CoordinationError> {
        self.call("read the sign", |folder| read(&folder.root.join("sign"), SIGN_BYTES_MAX)).await
    }

    pub(super) async fn post(&self, slot: String, request: String) -> Result<bool, CoordinationError> {
        self.call("leave a request", move |folder| {
            let requests = folder.root.join("requests");
            let fresh = requests.join(format!(".{}", unique()));
            write_new(&fresh, &request, 0o644)?;
            // A link is made only where nothing has the name, and then the file is whole.
            let linked = fs::hard_link(&fresh, requests.join(slot));
            drop(fs::remove_file(&fresh));
            match linked {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub(super) async fn answer(&self, request_id: String) -> Result<Option<String>, CoordinationError> {
        self.call("read an answer", move |folder| {
            read(&folder.root.join("answers").join(request_id), ANSWER_BYTES_MAX)
        })
        .await
    }

    pub(super) async fn hang_out(&self, sign: String) -> Result<String, CoordinationError> {
        self.call("hang out a sign", move |folder| {
            folder.make()?;
            let path = folder.root.join("sign");
            let now = folder.now()?;
            sweep(&folder.root.join("answers"), now, ms(ANSWER_LIVES_MS), |_| true)?;
            sweep(&folder.root.join("new"), now, ms(REQUEST_LIVES_MS), |_| true)?;
            // What a machine left half done, or somebody else left, is no request.
            sweep(&folder.root.join("requests"), now, ms(REQUEST_LIVES_MS), |name| name.len() != 2)?;
            if age(&path, now)?.is_some_and(|age| age < ms(SIGN_LIVES_MS))
                && let Some(hangs) = read(&path, SIGN_BYTES_MAX)?
            {
                return Ok(hangs);
            }
            folder.put(&path, &sign)?;
            Ok(sign)
        })
        .await
    }

    pub(super) async fn take(&self, first: u8, most: usize) -> Result<Vec<String>, CoordinationError> {
        self.call("take requests", move |folder| {
            folder.make()?;
            let mut there = BTreeSet::new();
            let mut looked_at = 0;
            for entry in fs::read_dir(folder.root.join("requests"))?.take(NAMES_MAX) {
                looked_at += 1;
                there.extend(entry?.file_name().into_string());
            }
            // Where somebody left more than can be looked at, each place is tried.
            let is_crowded = looked_at >= NAMES_MAX;
            let mut taken = Vec::new();
            for slot in (0..SLOTS).map(|nth| slot_name((first + nth) % SLOTS)) {
                if taken.len() >= most {
                    break;
                }
                if is_crowded || there.contains(&slot) {
                    taken.extend(folder.take_one(&slot)?);
                }
            }
            Ok(taken)
        })
        .await
    }

    pub(super) async fn reply(&self, request_id: String, answer: String) -> Result<(), CoordinationError> {
        self.call("leave an answer", move |folder| {
            folder.make()?;
            folder.put(&folder.root.join("answers").join(request_id), &answer)
        })
        .await
    }

    /// Takes one request, if there is one and no other server was faster.
    fn take_one(&self, slot: &str) -> io::Result<Option<String>> {
        let own = self.root.join("new").join(unique());
        match fs::rename(self.root.join("requests").join(slot), &own) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let found = read(&own, REQUEST_BYTES_MAX);
        remove(&own);
        found
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CoordinationError> {
        let folder = self.clone();
        hanging::ask(&self.calls, operation, self.place(), move || ask(&folder)).await
    }

    /// A server makes the folders; machines only use them.
    fn make(&self) -> io::Result<()> {
        let parent = self.root.parent().unwrap_or(&self.root);
        if !parent.is_dir() {
            let said = format!("there is no directory {}: make it, or mount it", parent.display());
            return Err(io::Error::new(ErrorKind::NotFound, said));
        }
        for name in ["requests", "answers", "new"] {
            let folder = self.root.join(name);
            if !folder.is_dir() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
        }
        Ok(())
    }

    /// What time it is where the files are.
    fn now(&self) -> io::Result<SystemTime> {
        let path = self.root.join("new").join(unique());
        write_new(&path, "", 0o600)?;
        let made = fs::symlink_metadata(&path).and_then(|about| about.modified());
        fs::remove_file(&path)?;
        made
    }

    /// Puts a file there at once and whole, readable to machines where the folder is.
    fn put(&self, path: &Path, text: &str) -> io::Result<()> {
        let own = self.root.join("new").join(unique());
        write_new(&own, text, 0o644)?;
        let moved = fs::set_permissions(&own, fs::Permissions::from_mode(0o644))
            .and_then(|()| fs::rename(&own, path));
        if moved.is_err() {
            drop(fs::remove_file(&own));
        }
        moved
    }
}

/// A name that no other call takes, also on another machine.
fn unique() -> String {
    let number = CALLS.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{number}-{since}", std::process::id())
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

/// The text of a plain file that is not too large; none for anything else.
fn read(path: &Path, bytes_max: usize) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_file() && about.len() <= bytes_max as u64 => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8(bytes).ok().filter(|text| text.len() <= bytes_max))
}

/// How old a file is; none where there is none.
fn age(path: &Path, now: SystemTime) -> io::Result<Option<Duration>> {
    match fs::symlink_metadata(path).and_then(|about| about.modified()) {
        Ok(made) => Ok(Some(now.duration_since(made).unwrap_or_default())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what is too old. What cannot be removed is somebody else's, and tried again.
fn sweep(folder: &Path, now: SystemTime, lives: Duration, is_swept: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.take(NAMES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        if is_swept(&name.to_string_lossy()) && age(&entry.path(), now)?.is_some_and(|age| age >= lives) {
            remove(&entry.path());
        }
    }
    Ok(())
}

fn remove(path: &PathBuf) {
    // A folder that has something in it stays: that is no request, and in nobody's way.
    if fs::remove_file(path).is_err() {
        drop(fs::remove_dir(path));
    }
}
