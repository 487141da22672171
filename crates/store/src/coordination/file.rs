//! Keys in a directory that all servers see: a file a key, replaced by renaming, and a lock a key for writers.
//!
//! Whether a time is over is said by the file system's own clock: a file that was just made tells what time it
//! is there. That holds on a shared file system too, whose server stamps the files. Locks are those of the file
//! system (NFS 4, SMB), and let go when their holder dies.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{CALL_MAX, CoordinationError, KeptKey, VALUE_BYTES_MAX, hanging, space};

/// Calls at once: a file system that hangs holds no more threads than this.
const CALLS_MAX: usize = 4;
/// Pause between two tries for a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Most bytes of a file: a value as JSON, every byte escaped.
const FILE_BYTES_MAX: u64 = 8 * VALUE_BYTES_MAX as u64;

/// Tells the files of this process' calls apart.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// See the file.
#[derive(Clone)]
pub(super) struct SharedFolder {
    root: Arc<Path>,
    calls: Arc<Semaphore>,
}

/// What is in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    value: String,
    version: u64,
    expires_at_ms: i64,
}

impl SharedFolder {
    pub(super) fn open(path: &Path, of: &str) -> Result<Self, CoordinationError> {
        Ok(Self { root: path.join(space::file_name(of)).into(), calls: Arc::new(Semaphore::new(CALLS_MAX)) })
    }

    pub(super) fn place(&self) -> String {
        format!("file:{}", self.root.display())
    }

    pub(super) async fn put(&self, key: &str, value: &str, lives_ms: i64) -> Result<u64, CoordinationError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        let done = self.call("put", move |folder| folder.write(&key, None, value, lives_ms)).await?;
        Ok(done.unwrap_or(0))
    }

    pub(super) async fn compare_and_put(
        &self,
        key: &str,
        seen: Option<u64>,
        value: &str,
        lives_ms: i64,
    ) -> Result<Option<u64>, CoordinationError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.call("compare and put", move |folder| folder.write(&key, Some(seen), value, lives_ms)).await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<KeptKey>, CoordinationError> {
        let key = key.to_owned();
        self.call("get", move |folder| {
            let now_ms = folder.now_ms()?;
            Ok(folder.read(&key)?.and_then(|kept| kept.living(key, now_ms)))
        })
        .await
    }

    pub(super) async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<KeptKey>, CoordinationError> {
        let prefix = prefix.to_owned();
        self.call("list", move |folder| {
            let now_ms = folder.now_ms()?;
            let mut keys = Vec::new();
            for entry in fs::read_dir(folder.folder("keys"))? {
                let name = entry?.file_name();
                // What another program left there is no key.
                keys.extend(name.to_str().and_then(space::text_of).filter(|key| key.starts_with(&prefix)));
            }
            keys.sort_unstable();
            let mut living = Vec::new();
            for key in keys {
                if living.len() >= limit {
                    break;
                }
                living.extend(folder.read(&key)?.and_then(|kept| kept.living(key, now_ms)));
            }
            Ok(living)
        })
        .await
    }

    pub(super) async fn delete(&self, key: &str, seen: Option<u64>) -> Result<bool, CoordinationError> {
        let key = key.to_owned();
        self.call("delete", move |folder| {
            let _lock = folder.lock(&key)?;
            let is_seen = folder.read(&key)?.is_some_and(|kept| seen.is_none_or(|seen| seen == kept.version));
            if is_seen {
                fs::remove_file(folder.file(&key))?;
            }
            Ok(is_seen)
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CoordinationError> {
        let folder = self.clone();
        let ask = move || {
            folder.make()?;
            ask(&folder)
        };
        hanging::ask(&self.calls, operation, self.place(), ask).await
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder("keys").join(space::file_name(key))
    }

    fn make(&self) -> io::Result<()> {
        // The directory itself must be there: making it where nothing is mounted would part the servers.
        let parent = self.root.parent().unwrap_or(&self.root);
        if !parent.is_dir() {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                format!("there is no directory {}: make it, or mount it", parent.display()),
            ));
        }
        for name in ["keys", "locks", "new"] {
            let folder = self.folder(name);
            if !folder.is_dir() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
        }
        Ok(())
    }

    /// A new file, of this call alone.
    fn new_file(&self) -> io::Result<(PathBuf, File)> {
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        // The time makes the name of a process with the same id on another machine another one.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = self.folder("new").join(format!("{}-{number}-{since}", std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// What time it is where the files are.
    fn now_ms(&self) -> io::Result<i64> {
        let (path, file) = self.new_file()?;
        let made = file.metadata().and_then(|about| about.modified());
        fs::remove_file(&path)?;
        let since = made?.duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn read(&self, key: &str) -> io::Result<Option<Kept>> {
        let path = self.file(key);
        match fs::metadata(&path) {
            Ok(about) if about.len() > FILE_BYTES_MAX => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        match fs::read(&path) {
            // A file that does not read as ours lives no more: the next write replaces it.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes, if `seen` fits. Only who holds the key's lock writes.
    fn write(
        &self,
        key: &str,
        seen: Option<Option<u64>>,
        value: String,
        lives_ms: i64,
    ) -> io::Result<Option<u64>> {
        let mut lock = self.lock(key)?;
        let (now_ms, kept) = (self.now_ms()?, self.read(key)?);
        if let Some(seen) = seen {
            let living = kept.as_ref().filter(|kept| kept.expires_at_ms > now_ms);
            if living.map(|kept| kept.version) != seen {
                return Ok(None);
            }
        }
        // The lock remembers the number over a removal. Never behind the clock either, in case somebody tidied
        // the locks away.
        let last = kept.map_or(0, |kept| kept.version).max(number_in(&mut lock)?);
        let version = last.saturating_add(1).max(now_ms.unsigned_abs());
        lock.rewind()?;
        // Always as many digits, so that a shorter number leaves nothing of a longer one behind.
        lock.write_all(format!("{version:020}").as_bytes())?;
        let kept = Kept { value, version, expires_at_ms: now_ms.saturating_add(lives_ms) };
        let (path, mut file) = self.new_file()?;
        let renamed =
            file.write_all(&serde_json::to_vec(&kept)?).and_then(|()| fs::rename(&path, self.file(key)));
        if renamed.is_err() {
            // The error that counts is the one before.
            drop(fs::remove_file(&path));
        }
        renamed.map(|()| Some(version))
    }

    fn lock(&self, key: &str) -> io::Result<File> {
        let path = self.folder("locks").join(space::file_name(key));
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let until = Instant::now() + CALL_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "another writer holds the key's lock"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

/// The number that was given last under a lock; zero where none is to be read.
fn number_in(lock: &mut File) -> io::Result<u64> {
    let mut digits = String::new();
    match lock.take(20).read_to_string(&mut digits) {
        Ok(_) => Ok(digits.parse().unwrap_or(0)),
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(0),
        Err(error) => Err(error),
    }
}

impl Kept {
    fn living(self, key: String, now_ms: i64) -> Option<KeptKey> {
        (self.expires_at_ms > now_ms).then(|| KeptKey {
            key,
            value: self.value,
            version: self.version,
            lives_ms: self.expires_at_ms - now_ms,
        })
    }
}
