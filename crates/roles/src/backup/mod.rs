//! Backups while everything runs: made, proved by restoring them aside, pruned, and put back.
//!
//! # What is in one
//! A copy of the records and of the queue, each of one moment, the secrets and the settings file. Records on a
//! PostgreSQL server come along as a dump by its own tool. Not in it: the probe's spool, whose events are on
//! their way; a restored probe begins a new epoch, so none of its numbers is used twice.
//!
//! # Why what comes back is exact
//! The queue is copied before the records. What was accepted before the copy is in it; what of that the records
//! had counted is known to them by probe, epoch and number. So a restored server reads the restored queue from
//! its beginning, as a stream of its own, and counts only what is not counted yet.

mod restore;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use caelum_drivers::{
    archive::{self, ArchiveError, Source},
    clock::Clock,
    dump::{self, DumpError},
};
use caelum_engine::backup as rules;
use caelum_model::{
    UnixMs,
    backup::{Backup, FORMAT, Manifest},
};
use caelum_store::{Address, Store, StoreError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use restore::{Restored, restore, verify};

/// The records in a data directory and in a backup.
const RECORDS: &str = "caelum.db";
/// The queue, likewise.
const QUEUE: &str = "queue.db";
/// Records that a server's own tool wrote.
const DUMP: &str = "records.dump";
/// The settings file, likewise.
const SETTINGS: &str = "caelum.toml";
/// Keys and certificates, likewise.
const SECRETS: &str = "secrets";
/// Among them, what secrets in the records are sealed under.
const MASTER_KEY: &str = "master.key";
/// Time between looks at whether one is due.
const LOOK: Duration = Duration::from_secs(60);
/// After one that failed, how long until the next is tried, ms.
const AGAIN_MS: i64 = 15 * 60_000;

const HOUR_MS: i64 = 3_600_000;

/// Why there is no backup, or why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another one is made now.
    #[error("another backup is being made now")]
    Busy,
    /// The archive could not be written or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The records could not be copied or looked at.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the backup could not be opened as what it is.
    #[error("{what} of the backup cannot be used: {why}")]
    Unusable {
        /// Which file.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The records on a server could not be dumped.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A file or directory.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is something already where the backup was to be put.
    #[error("there is a Caelum in {} already: name another directory, or say --replace to set it aside", .0.display())]
    Occupied(PathBuf),
    /// The work was cut off.
    #[error("the backup was cut off by the end of the process")]
    CutOff,
}

/// How often backups are made, and where they are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where backups are put.
    pub directory: PathBuf,
    /// Hours between two; 0 makes none by itself.
    pub every_h: u64,
    /// Days after which one is removed.
    pub keep_days: u64,
}

/// What a server backs up.
pub struct Parts {
    /// The data directory.
    pub data: PathBuf,
    /// The records.
    pub store: Arc<Store>,
    /// Where they are.
    pub address: Address,
    /// The file of the queue, where it is one.
    pub queue: Option<PathBuf>,
    /// Often and where.
    pub plan: Plan,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This version.
    pub version: &'static str,
    /// This server.
    pub node_id: String,
    /// Its cluster.
    pub cluster_name: String,
}

/// How the last one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastTry {
    /// When it was begun; none while there was none since the start.
    pub at_ms: Option<UnixMs>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Makes backups of one server.
pub struct Backups {
    parts: Parts,
    turn: Semaphore,
    last: Mutex<LastTry>,
}

impl Backups {
    /// Makes none yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, turn: Semaphore::new(1), last: Mutex::default() })
    }

    /// How often and where.
    pub fn plan(&self) -> &Plan {
        &self.parts.plan
    }

    /// How the last one ended since the start.
    pub fn last(&self) -> LastTry {
        self.last.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Whether one is being made now.
    pub fn is_busy(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// Those that are there, newest first.
    pub fn list(&self) -> Result<Vec<Backup>, BackupError> {
        list(&self.parts.plan.directory)
    }

    /// When the next one is made by itself, if any is.
    pub fn due_ms(&self) -> Option<UnixMs> {
        let every_ms = hours_ms(self.parts.plan.every_h);
        let names: Vec<String> = self.list().ok()?.into_iter().map(|backup| backup.name).collect();
        (every_ms > 0).then(|| rules::due_ms(&names, every_ms, self.parts.clock.now_ms()))
    }

    /// Makes one, restores it aside to see that it can be, and removes those that are too old. Refused while
    /// another is being made.
    pub async fn make(&self) -> Result<Backup, BackupError> {
        let _turn = self.turn.try_acquire().map_err(|_| BackupError::Busy)?;
        let now_ms = self.parts.clock.now_ms();
        let made = self.make_now(now_ms).await;
        *self.last.lock().expect("no code panics while it holds this lock") =
            LastTry { at_ms: Some(now_ms), error: made.as_ref().err().map(words) };
        if made.is_ok() {
            self.prune(now_ms);
        }
        made
    }

    async fn make_now(&self, now_ms: UnixMs) -> Result<Backup, BackupError> {
        let Parts { data, store, address, queue, plan, .. } = &self.parts;
        archive::make_private(&plan.directory)?;
        let name = rules::name(now_ms);
        let scratch = Scratch::make(&plan.directory, &format!(".{name}.copies"))?;
        let mut sources = Vec::new();
        // The queue first: see the head of this file.
        if let Some(from) = queue.clone() {
            let to = scratch.0.join(QUEUE);
            sources.push(Source { name: QUEUE.to_owned(), path: to.clone() });
            let copied = blocking(move || caelum_queue::copy(&from, &to)).await?;
            copied.map_err(|error| BackupError::Unusable { what: QUEUE, why: words(&error) })?;
        }
        // Before the records: where the master key is replaced between the two, these hold the hand-over to the new
        // one, which the old one opens. The new one would open nothing of older records.
        let early = scratch.0.join(MASTER_KEY);
        let has_key = match fs::copy(data.join(SECRETS).join(MASTER_KEY), &early) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(BackupError::File { what: "copy", path: early, source }),
        };
        match address {
            Address::Sqlite(_) => {
                let to = scratch.0.join(RECORDS);
                store.copy_to(&to).await?;
                sources.push(Source { name: RECORDS.to_owned(), path: to });
            }
            Address::Postgres(postgres) => {
                let to = scratch.0.join(DUMP);
                let environment = postgres.tool_environment().await;
                let unusable = |why| BackupError::Unusable { what: "the address of the records", why };
                let environment = environment.map_err(|error| unusable(error.to_string()))?;
                dump::postgres(&environment, &to).await?;
                sources.push(Source { name: DUMP.to_owned(), path: to });
            }
        }
        sources.extend(kept_files(data)?);
        let name_of_key = format!("{SECRETS}/{MASTER_KEY}");
        if let Some(source) = sources.iter_mut().find(|source| has_key && source.name == name_of_key) {
            source.path = early;
        }
        let about = Manifest {
            format: FORMAT,
            version: self.parts.version.to_owned(),
            made_at_ms: now_ms,
            node_id: self.parts.node_id.clone(),
            cluster_name: self.parts.cluster_name.clone(),
            files: Vec::new(),
        };
        let to = plan.directory.join(&name);
        let written = to.clone();
        let bytes = blocking(move || pack(&written, about, &sources)).await??;
        drop(scratch);
        if let Err(error) = verify(&to).await {
            // One that cannot be restored is worse than none: it would be counted on.
            remove(&to);
            return Err(error);
        }
        Ok(Backup { name, made_at_ms: now_ms.div_euclid(1_000) * 1_000, bytes })
    }

    fn prune(&self, now_ms: UnixMs) {
        let Ok(backups) = self.list() else { return };
        let names: Vec<String> = backups.into_iter().map(|backup| backup.name).collect();
        let kept_ms = hours_ms(self.parts.plan.keep_days.saturating_mul(24));
        for name in rules::outdated(&names, kept_ms, now_ms) {
            tracing::info!(code = "backup.pruned", name, "a backup was older than it is kept");
            remove(&self.parts.plan.directory.join(name));
        }
    }

    /// Makes one whenever it is due, until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now_ms = self.parts.clock.now_ms();
            let last = self.last();
            let is_too_early = last.error.is_some()
                && last.at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < AGAIN_MS);
            if is_too_early || self.due_ms().is_none_or(|due_ms| due_ms > now_ms) {
                continue;
            }
            match self.make().await {
                Ok(made) => {
                    tracing::info!(code = "backup.made", name = made.name, bytes = made.bytes, "backed up")
                }
                Err(BackupError::Busy) => {}
                Err(error) => {
                    tracing::error!(
                        code = "backup.failed",
                        error = words(&error),
                        "no backup was made; trying again in 15 min"
                    );
                }
            }
        }
    }
}

/// Backups in a directory, newest first. None where there is no directory yet.
pub fn list(directory: &Path) -> Result<Vec<Backup>, BackupError> {
    let failed = |source| BackupError::File { what: "read", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(made_at_ms) = rules::made_at_ms(&name) else { continue };
        // One that goes at this moment is no longer there.
        let Ok(about) = entry.metadata() else { continue };
        found.push(Backup { name, made_at_ms, bytes: about.len() });
    }
    found.sort_by_key(|backup| std::cmp::Reverse(backup.made_at_ms));
    Ok(found)
}

/// Secrets and settings of a data directory.
fn kept_files(data: &Path) -> Result<Vec<Source>, BackupError> {
    let mut sources = Vec::new();
    let settings = data.join(SETTINGS);
    if settings.is_file() {
        sources.push(Source { name: SETTINGS.to_owned(), path: settings });
    }
    let secrets = data.join(SECRETS);
    let failed = |source| BackupError::File { what: "read", path: secrets.clone(), source };
    for entry in fs::read_dir(&secrets).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && !name.starts_with('.') {
            sources.push(Source { name: format!("{SECRETS}/{name}"), path: entry.path() });
        }
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}

fn pack(to: &Path, mut about: Manifest, sources: &[Source]) -> Result<u64, BackupError> {
    about.files = sources.iter().map(archive::describe).collect::<Result<_, _>>()?;
    Ok(archive::write(to, &about, sources)?)
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// A place for one. What a process left there that was killed goes first.
    fn name(folder: &Path, name: &str) -> Result<Self, BackupError> {
        let path = folder.join(name);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BackupError::File { what: "clear", path, source })
            }
            _ => Ok(Self(path)),
        }
    }

    fn make(folder: &Path, name: &str) -> Result<Self, BackupError> {
        let scratch = Self::name(folder, name)?;
        archive::make_private(&scratch.0)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(code = "backup.scratch_stays", %error, path = %self.0.display(), "a directory could not be removed");
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(code = "backup.not_removed", %error, path = %path.display(), "a backup could not be removed");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackupError::CutOff)
}

fn hours_ms(hours: u64) -> i64 {
    i64::try_from(hours).unwrap_or(i64::MAX / HOUR_MS).saturating_mul(HOUR_MS)
}

/// An error with what led to it.
fn words(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests;
