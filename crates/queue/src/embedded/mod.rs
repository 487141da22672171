//! The embedded queue: one SQLite file, a row a record.
//!
//! # Purpose
//! A durable stream on one machine with nothing to install. SQLite's write-ahead log is the segment file;
//! its recovery is not ours to prove again.
//!
//! # Rules
//! - `log(partition, position, events, bytes)`; `heads(partition, position)` remembers the newest position
//!   of each partition, so that none is used twice after a trim; `identity(name)` tells this file from
//!   another of the same path.
//! - One writer thread. It takes every append that is waiting, up to [`GROUP_BYTES_MAX`], into one
//!   transaction with `synchronous = full`, and answers all of them after the commit: writers share the cost
//!   of one sync.
//! - At most [`APPENDS_WAITING_MAX`] appends wait; more make their callers wait.
//! - A read gives at most [`READ_BYTES_MAX`] bytes, and always at least one record if there is one.
//! - When appended and untrimmed records reach the limit given at opening, appends are refused until a trim.
//!
//! # What it does not do
//! It does not compress (the caller's records are compressed), and it does not know who reads.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use caelum_model::id::{Offset, PartitionId};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use tokio::sync::{oneshot, watch};

use crate::{AppendError, Depth, NewRecord, OpenError, PartitionStatus, Queue, QueueError, Record};

/// Most bytes in one commit.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Most appends waiting for the writer.
const APPENDS_WAITING_MAX: usize = 256;
/// Most bytes in one read.
const READ_BYTES_MAX: usize = 8 << 20;
/// Most bytes of one record: a commit holds at least one.
const RECORD_BYTES_MAX: usize = GROUP_BYTES_MAX;

const SCHEMA: &str = "
    create table if not exists log (
        partition integer not null,
        position integer not null,
        events integer not null,
        bytes blob not null,
        primary key (partition, position)
    ) without rowid;
    create table if not exists heads (
        partition integer primary key,
        position integer not null
    );
    create table if not exists identity (name text not null);
    insert into identity (name) select lower(hex(randomblob(16)))
        where not exists (select 1 from identity);
    pragma user_version = 1;";

enum Job {
    Append { records: Vec<NewRecord>, reply: oneshot::Sender<Result<Vec<Offset>, AppendError>> },
    Trim { partition: PartitionId, through: Offset, reply: oneshot::Sender<Result<(), QueueError>> },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(|record| record.bytes.len()).sum(),
            Self::Trim { .. } => 0,
        }
    }
}

#[derive(Default)]
struct Gauge {
    records: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    /// Newest position of each partition that was ever written to.
    newest: Mutex<BTreeMap<PartitionId, Offset>>,
}

/// The embedded queue.
pub struct Embedded {
    jobs: Mutex<Option<mpsc::SyncSender<Job>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    reader: Arc<Mutex<Connection>>,
    gauge: Arc<Gauge>,
    appended: watch::Receiver<u64>,
    identity: String,
    max_bytes: u64,
}

/// Writes a copy of a queue's file as it is at one moment into a file that must not be there yet, while the
/// queue is used; and gives the copy an identity of its own, since what is appended to the one from now on is
/// not in the other.
pub fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    let copy = || -> rusqlite::Result<()> {
        let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("pragma busy_timeout = 10000;")?;
        connection.execute("vacuum into ?1", [to.to_string_lossy()])?;
        let made = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        made.execute("update identity set name = lower(hex(randomblob(16)))", [])?;
        Ok(())
    };
    copy().map_err(|source| OpenError::File { path: from.display().to_string(), source: source.into() })
}

impl Embedded {
    /// Opens the file, makes it if it is not there, and counts what is in it. Appends are refused while
    /// `max_bytes` or more are in it.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, OpenError> {
        Self::try_open(path, max_bytes)
            .map_err(|source| OpenError::File { path: path.display().to_string(), source: source.into() })
    }

    fn try_open(path: &Path, max_bytes: u64) -> rusqlite::Result<Self> {
        let writer = Connection::open(path)?;
        writer.execute_batch(
            "pragma journal_mode = wal; pragma synchronous = full; pragma busy_timeout = 10000;
             pragma cache_size = -2048; pragma journal_size_limit = 67108864;",
        )?;
        writer.execute_batch(SCHEMA)?;
        let reader = Connection::open(path)?;
        reader.execute_batch(
            "pragma query_only = on; pragma busy_timeout = 10000; pragma cache_size = -1024;",
        )?;
        let gauge = reader.query_row(
            "select count(*), coalesce(sum(events), 0), coalesce(sum(length(bytes)), 0) from log",
            [],
            |row| {
                Ok(Gauge {
                    records: AtomicU64::new(row.get::<_, i64>(0)?.unsigned_abs()),
                    events: AtomicU64::new(row.get::<_, i64>(1)?.unsigned_abs()),
                    bytes: AtomicU64::new(row.get::<_, i64>(2)?.unsigned_abs()),
                    newest: Mutex::default(),
                })
            },
        )?;
        let heads = reader
            .prepare("select partition, position from heads")?
            .query_map([], |row| {
                Ok((PartitionId(row.get(0)?), Offset(row.get::<_, i64>(1)?.cast_unsigned())))
            })?
            .collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
        let identity: String = reader.query_row("select name from identity", [], |row| row.get(0))?;
        *gauge.newest.lock().expect("nobody else has it yet") = heads;
        let gauge = Arc::new(gauge);
        let (jobs, waiting) = mpsc::sync_channel(APPENDS_WAITING_MAX);
        let (tell, appended) = watch::channel(0);
        let writer = thread::Builder::new()
            .name("queue-writer".into())
            .spawn({
                let gauge = Arc::clone(&gauge);
                move || run_writer(writer, &waiting, &gauge, &tell)
            })
            .expect("the operating system can start a thread at start-up");
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            reader: Arc::new(Mutex::new(reader)),
            gauge,
            appended,
            identity: format!("embedded:{identity}"),
            max_bytes,
        })
    }

    /// Hands a job to the writer; waits for room outside the async threads.
    async fn send(&self, job: Job) -> bool {
        let Some(jobs) = self.jobs.lock().expect("no code panics while it holds this lock").clone() else {
            return false;
        };
        match jobs.try_send(job) {
            Ok(()) => true,
            Err(mpsc::TrySendError::Full(job)) => {
                matches!(tokio::task::spawn_blocking(move || jobs.send(job).is_ok()).await, Ok(true))
            }
            Err(mpsc::TrySendError::Disconnected(_)) => false,
        }
    }

    /// Reads outside the async threads.
    async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let reader = Arc::clone(&self.reader);
        match tokio::task::spawn_blocking(move || Some(look(&*reader.lock().ok()?))).await {
            Ok(Some(result)) => {
                result.map_err(|source| QueueError::Backend { operation, source: source.into() })
            }
            Ok(None) | Err(_) => Err(QueueError::Closed { operation }),
        }
    }
}

#[async_trait]
impl Queue for Embedded {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Offset>, AppendError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(bytes) =
            records.iter().map(|record| record.bytes.len()).find(|len| *len > RECORD_BYTES_MAX)
        {
            return Err(AppendError::TooLarge { bytes, max_bytes: RECORD_BYTES_MAX });
        }
        let depth_bytes = self.gauge.bytes.load(Ordering::Relaxed);
        if depth_bytes >= self.max_bytes {
            return Err(AppendError::Full { depth_bytes, max_bytes: self.max_bytes });
        }
        let (reply, answer) = oneshot::channel();
        if !self.send(Job::Append { records, reply }).await {
            return Err(AppendError::Closed);
        }
        answer.await.map_err(|_| AppendError::Closed)?
    }

    async fn read(
        &self,
        partition: PartitionId,
        after: Offset,
        limit: usize,
    ) -> Result<Vec<Record>, QueueError> {
        self.look("read the queue", move |reader| read_records(reader, partition, after, limit)).await
    }

    fn newest(&self, partition: PartitionId) -> Option<Offset> {
        let newest = self.gauge.newest.lock().expect("no code panics while it holds this lock");
        Some(newest.get(&partition).copied().unwrap_or_default())
    }

    async fn trim(&self, partition: PartitionId, through: Offset) -> Result<(), QueueError> {
        let operation = "trim the queue";
        let (reply, answer) = oneshot::channel();
        if !self.send(Job::Trim { partition, through, reply }).await {
            return Err(QueueError::Closed { operation });
        }
        answer.await.map_err(|_| QueueError::Closed { operation })?
    }

    async fn status(&self) -> Result<Vec<PartitionStatus>, QueueError> {
        self.look("count the queue's records", read_status).await
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX
    }

    fn depth(&self) -> Depth {
        Depth {
            records: self.gauge.records.load(Ordering::Relaxed),
            events: self.gauge.events.load(Ordering::Relaxed),
            bytes: self.gauge.bytes.load(Ordering::Relaxed),
        }
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.appended.clone()
    }

    fn close(&self) {
        drop(self.jobs.lock().expect("no code panics while it holds this lock").take());
        let writer = self.writer.lock().expect("no code panics while it holds this lock").take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!(code = "queue.writer_panicked", "the queue's writer ended by a panic");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

fn read_records(
    reader: &Connection,
    partition: PartitionId,
    after: Offset,
    limit: usize,
) -> rusqlite::Result<Vec<Record>> {
    let mut statement = reader.prepare_cached(
        "select position, events, bytes from log
         where partition = ?1 and position > ?2 order by position limit ?3",
    )?;
    let mut rows = statement.query(params![partition.0, after.0.cast_signed(), limit as i64])?;
    let mut records = Vec::new();
    let mut read_bytes = 0;
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(2)?;
        read_bytes += bytes.len();
        if read_bytes > READ_BYTES_MAX && !records.is_empty() {
            break;
        }
        records.push(Record {
            offset: Offset(row.get::<_, i64>(0)?.cast_unsigned()),
            events: row.get(1)?,
            bytes: Bytes::from(bytes),
        });
    }
    Ok(records)
}

fn read_status(reader: &Connection) -> rusqlite::Result<Vec<PartitionStatus>> {
    reader
        .prepare_cached(
            "select partition, position,
                 (select count(*) from log where log.partition = heads.partition)
             from heads order by partition",
        )?
        .query_map([], |row| {
            Ok(PartitionStatus {
                partition: PartitionId(row.get(0)?),
                newest: Offset(row.get::<_, i64>(1)?.cast_unsigned()),
                records: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        })?
        .collect()
}

/// Runs until every sender is gone; what was accepted before is written first.
fn run_writer(
    mut connection: Connection,
    waiting: &mpsc::Receiver<Job>,
    gauge: &Gauge,
    tell: &watch::Sender<u64>,
) {
    while let Ok(first) = waiting.recv() {
        let mut group_bytes = first.bytes();
        let mut group = vec![first];
        while group_bytes < GROUP_BYTES_MAX {
            let Ok(job) = waiting.try_recv() else { break };
            group_bytes += job.bytes();
            group.push(job);
        }
        commit_group(&mut connection, group, gauge, tell);
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(code = "queue.close_failed", %error, "the queue's file was not closed cleanly");
    }
}

/// What one job did inside the transaction, to be told after the commit.
enum Done {
    Appended(Vec<Offset>),
    Trimmed(Depth),
}

fn commit_group(connection: &mut Connection, group: Vec<Job>, gauge: &Gauge, tell: &watch::Sender<u64>) {
    let committed = write_group(connection, &group);
    let mut appended = false;
    for (index, job) in group.into_iter().enumerate() {
        let done = match &committed {
            Ok(done) => Ok(&done[index]),
            Err(error) => Err(copy_of(error)),
        };
        // Whoever asked may have gone away; the write stands all the same.
        match (job, done) {
            (Job::Append { records, reply }, Ok(Done::Appended(offsets))) => {
                let events: u64 = records.iter().map(|record| u64::from(record.events)).sum();
                let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
                gauge.records.fetch_add(records.len() as u64, Ordering::Relaxed);
                gauge.events.fetch_add(events, Ordering::Relaxed);
                gauge.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                {
                    let mut newest = gauge.newest.lock().expect("no code panics while it holds this lock");
                    for (record, offset) in records.iter().zip(offsets) {
                        newest.insert(record.partition, *offset);
                    }
                }
                appended = true;
                drop(reply.send(Ok(offsets.clone())));
            }
            (Job::Trim { reply, .. }, Ok(Done::Trimmed(gone))) => {
                gauge.records.fetch_sub(gone.records, Ordering::Relaxed);
                gauge.events.fetch_sub(gone.events, Ordering::Relaxed);
                gauge.bytes.fetch_sub(gone.bytes, Ordering::Relaxed);
                drop(reply.send(Ok(())));
            }
            (Job::Append { reply, .. }, Err(source)) => {
                drop(reply.send(Err(AppendError::Backend { source: source.into() })));
            }
            (Job::Trim { reply, .. }, Err(source)) => {
                let source = source.into();
                drop(reply.send(Err(QueueError::Backend { operation: "trim the queue", source })));
            }
            (Job::Append { .. }, Ok(Done::Trimmed(_))) | (Job::Trim { .. }, Ok(Done::Appended(_))) => {
                unreachable!("each job is answered in its own place")
            }
        }
    }
    if let Err(error) = &committed {
        tracing::error!(code = "queue.commit_failed", %error, "a group of appends was rolled back");
    }
    if appended {
        tell.send_modify(|count| *count += 1);
    }
}

fn write_group(connection: &mut Connection, group: &[Job]) -> rusqlite::Result<Vec<Done>> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut done = Vec::with_capacity(group.len());
    for job in group {
        done.push(match job {
            Job::Append { records, .. } => Done::Appended(insert(&transaction, records)?),
            Job::Trim { partition, through, .. } => {
                Done::Trimmed(remove(&transaction, *partition, *through)?)
            }
        });
    }
    transaction.commit()?;
    Ok(done)
}

fn insert(transaction: &Transaction<'_>, records: &[NewRecord]) -> rusqlite::Result<Vec<Offset>> {
    let mut head = transaction.prepare_cached(
        "insert into heads (partition, position) values (?1, 1)
         on conflict (partition) do update set position = position + 1 returning position",
    )?;
    let mut row = transaction
        .prepare_cached("insert into log (partition, position, events, bytes) values (?1, ?2, ?3, ?4)")?;
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        let position: i64 = head.query_row(params![record.partition.0], |row| row.get(0))?;
        row.execute(params![record.partition.0, position, record.events, record.bytes.as_ref()])?;
        offsets.push(Offset(position.cast_unsigned()));
    }
    Ok(offsets)
}

fn remove(transaction: &Transaction<'_>, partition: PartitionId, through: Offset) -> rusqlite::Result<Depth> {
    let key = params![partition.0, through.0.cast_signed()];
    let gone = transaction
        .prepare_cached(
            "select count(*), coalesce(sum(events), 0), coalesce(sum(length(bytes)), 0) from log
             where partition = ?1 and position <= ?2",
        )?
        .query_row(key, |row| {
            Ok(Depth {
                records: row.get::<_, i64>(0)?.unsigned_abs(),
                events: row.get::<_, i64>(1)?.unsigned_abs(),
                bytes: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        })
        .optional()?
        .unwrap_or_default();
    transaction
        .prepare_cached("delete from log where partition = ?1 and position <= ?2")?
        .execute(params![partition.0, through.0.cast_signed()])?;
    Ok(gone)
}

/// `rusqlite::Error` is not `Clone`; its code and text are what callers need.
fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    let code = match error {
        rusqlite::Error::SqliteFailure(code, _) => *code,
        _ => rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
    };
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    struct Fixture {
        directory: tempfile::TempDir,
    }

    #[async_trait]
    impl contract::Fixture for Fixture {
        async fn open(&self, max_bytes: u64) -> Box<dyn Queue> {
            Box::new(Embedded::open(&self.directory.path().join("queue.db"), max_bytes).expect("opens"))
        }
    }

    #[tokio::test]
    async fn the_embedded_queue_keeps_the_contract() {
        contract::run(|| Fixture { directory: tempfile::tempdir().expect("a temporary directory") }).await;
    }
}
