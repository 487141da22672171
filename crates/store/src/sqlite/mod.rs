//! The SQLite backend: one writer thread that groups commits, a few readers apart.
//!
//! # Purpose
//! Everything Caelum must remember on one machine, in one file, surviving `kill -9` and power loss.
//!
//! # Rules
//! - A write is a closure over a transaction. The writer runs up to [`GROUP_MAX`] waiting writes inside one
//!   transaction, each in a savepoint of its own, so that one that fails leaves the others standing, and
//!   answers only after the commit is on the disk (`synchronous = full`).
//! - A read runs on one of [`READERS`] connections, outside the async threads.
//! - The queue of waiting writes is bounded by [`WRITES_WAITING_MAX`]; a full queue makes callers wait.
//! - Times are integer milliseconds, ids text, documents JSON text.
//!
//! # What it does not do
//! It reads no clock and chooses no ids: both come in with the call.

mod alerts;
mod backup;
mod coordination;
mod dead_letters;
mod enrolments;
mod incidents;
mod look;
mod migrate;
mod node_settings;
mod node_tiers;
mod nodes;
mod notices;
mod packages;
mod partitions;
mod people;
mod probes;
mod rollups;
mod schedules;
mod seen;
mod settings;
mod ssh;
mod targets;
mod tasks;
mod tiers;
mod verdicts;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::{Semaphore, oneshot};

use crate::{FaultKind, OpenError, StoreError};

/// Reading connections.
const READERS: usize = 3;
/// Most writes in one transaction.
const GROUP_MAX: usize = 128;
/// Most writes waiting for the writer.
const WRITES_WAITING_MAX: usize = 1024;

type Job = Box<dyn FnOnce(&Transaction<'_>) -> Answer + Send>;
/// Called after the group's commit with its result.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// Handle to the store; cheap to share behind an [`Arc`].
pub struct Sqlite {
    writes: Mutex<Option<mpsc::SyncSender<Job>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    readers: Arc<Readers>,
    path: PathBuf,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    free: Semaphore,
}

impl Sqlite {
    /// Opens the database file, makes it if it is not there, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open = |source| OpenError::Open { place: path.display().to_string(), source: Box::new(source) };
        let mut connection = Connection::open(path).map_err(open)?;
        prepare(&connection).map_err(open)?;
        migrate::run(&mut connection, path)?;
        let mut idle = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = Connection::open_with_flags(path, flags).map_err(open)?;
            prepare_reader(&reader).map_err(open)?;
            idle.push(reader);
        }
        let (writes, jobs) = mpsc::sync_channel(WRITES_WAITING_MAX);
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run_writer(connection, &jobs))
            .expect("the operating system can start a thread at start-up");
        Ok(Self {
            writes: Mutex::new(Some(writes)),
            writer: Mutex::new(Some(writer)),
            readers: Arc::new(Readers { idle: Mutex::new(idle), free: Semaphore::new(READERS) }),
            path: path.to_owned(),
        })
    }

    /// Runs a write in the next group and answers when it is durable.
    pub(crate) async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let outcome = in_savepoint(transaction, work);
            Box::new(move |committed| {
                let result = match (outcome, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Err(source), _) => Err(fault(operation, source)),
                    (Ok(_), Err(error)) => Err(fault(operation, copy_of(error))),
                };
                // The caller may have gone away; the write stands all the same.
                drop(reply.send(result));
            })
        });
        let writes = {
            let guard = self.writes.lock().expect("no code panics while it holds this lock");
            guard.clone().ok_or(StoreError::Closed { operation })?
        };
        // A full queue is back-pressure: wait for room outside the async threads.
        if let Err(refused) = writes.try_send(job) {
            let job = match refused {
                mpsc::TrySendError::Full(job) => job,
                mpsc::TrySendError::Disconnected(_) => return Err(StoreError::Closed { operation }),
            };
            let sent = tokio::task::spawn_blocking(move || writes.send(job).is_ok()).await;
            if !matches!(sent, Ok(true)) {
                return Err(StoreError::Closed { operation });
            }
        }
        answer.await.map_err(|_| StoreError::Closed { operation })?
    }

    /// Runs a read on a connection of its own, outside the async threads.
    pub(crate) async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let joined = async move {
            let _permit = readers.free.acquire().await.ok()?;
            let idle = Arc::clone(&readers);
            tokio::task::spawn_blocking(move || {
                let lease = ReaderLease::take(&idle)?;
                Some(work(lease.connection()))
            })
            .await
            .ok()?
        };
        match joined.await {
            Some(result) => result.map_err(|source| fault(operation, source)),
            None => Err(StoreError::Closed { operation }),
        }
    }

    /// Where it is.
    pub fn place(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    /// Waits until every accepted write is on the disk and closes the file. Later calls answer `Closed`.
    pub fn close(&self) {
        let writes = self.writes.lock().expect("no code panics while it holds this lock").take();
        drop(writes);
        let writer = self.writer.lock().expect("no code panics while it holds this lock").take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!(code = "store.writer_panicked", "the store's writer ended by a panic");
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection taken from the idle ones, given back also when the work panics.
struct ReaderLease<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl<'a> ReaderLease<'a> {
    fn take(readers: &'a Readers) -> Option<Self> {
        let connection = readers.idle.lock().ok()?.pop()?;
        Some(Self { readers, connection: Some(connection) })
    }

    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("it is taken out only when the lease is dropped")
    }
}

impl Drop for ReaderLease<'_> {
    fn drop(&mut self) {
        if let (Some(connection), Ok(mut idle)) = (self.connection.take(), self.readers.idle.lock()) {
            idle.push(connection);
        }
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "pragma journal_mode = wal;
         pragma synchronous = full;
         pragma foreign_keys = on;
         pragma busy_timeout = 10000;
         pragma temp_store = memory;
         pragma cache_size = -4096;
         pragma journal_size_limit = 16777216;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn prepare_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "pragma query_only = on; pragma busy_timeout = 10000; pragma cache_size = -2048; pragma temp_store = memory;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Runs until every sender is gone. A group that cannot be committed answers each of its writes with the error.
fn run_writer(mut connection: Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut answers: Vec<Answer> = Vec::new();
        let committed = commit_group(&mut connection, first, jobs, &mut answers);
        for answer in answers {
            answer(committed.as_ref().copied());
        }
        if let Err(error) = &committed {
            tracing::error!(code = "store.commit_failed", %error, "a group of writes was rolled back");
        }
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(code = "store.close_failed", %error, "the database file was not closed cleanly");
    }
}

fn commit_group(
    connection: &mut Connection,
    first: Job,
    jobs: &mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    let transaction = match connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            // Nothing was run: the write is answered with the error by a job that does nothing more.
            answers.push(refuse(first));
            return Err(error);
        }
    };
    answers.push(first(&transaction));
    while answers.len() < GROUP_MAX {
        let Ok(job) = jobs.try_recv() else { break };
        answers.push(job(&transaction));
    }
    transaction.commit()
}

/// A write that never ran: dropping the job drops its reply, which the caller sees as `Closed`.
fn refuse(job: Job) -> Answer {
    drop(job);
    Box::new(|_| ())
}

fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    transaction.execute_batch("savepoint job")?;
    match work(transaction) {
        Ok(value) => {
            transaction.execute_batch("release job")?;
            Ok(value)
        }
        Err(error) => {
            transaction.execute_batch("rollback to job; release job")?;
            Err(error)
        }
    }
}

/// `rusqlite::Error` is not `Clone`; the code and text are what callers need.
fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
            Some(other.to_string()),
        ),
    }
}

/// What the database said, in the store's own words.
fn fault(operation: &'static str, source: rusqlite::Error) -> StoreError {
    let source = match source {
        rusqlite::Error::FromSqlConversionFailure(column, kind, cause) => {
            match cause.downcast::<serde_json::Error>() {
                Ok(source) => return StoreError::Document { operation, source: *source },
                Err(cause) => rusqlite::Error::FromSqlConversionFailure(column, kind, cause),
            }
        }
        other => other,
    };
    let kind = match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => FaultKind::Conflict,
        Some(
            rusqlite::ErrorCode::DatabaseBusy
            | rusqlite::ErrorCode::DatabaseLocked
            | rusqlite::ErrorCode::DiskFull
            | rusqlite::ErrorCode::SystemIoFailure,
        ) => FaultKind::Transient,
        _ => FaultKind::Lasting,
    };
    StoreError::Backend { operation, kind, source: Box::new(source) }
}

/// Writes a document; domain values always have a JSON form.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("domain values have string keys and no failing serialisers")
}

/// Reads a document inside a row mapping.
fn from_json<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Reads an id inside a row mapping.
fn parse_id<T: std::str::FromStr<Err = caelum_model::id::InvalidId>>(
    column: usize,
    text: &str,
) -> rusqlite::Result<T> {
    text.parse().map_err(|error: caelum_model::id::InvalidId| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Counters are stored as signed integers and never negative.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}
