//! Tasks: adding them, what happens to them, and finding them.
//!
//! Rows are locked in the order of their ids. Those that wait for one that ends are locked after it, so that two
//! writes may stand in each other's way: one of them is then done again.

use std::collections::BTreeSet;

use caelum_engine::task::{
    Refusal,
    queue::{AGED_MS, sort},
};
use caelum_model::{
    UnixMs,
    access::AuditEntry,
    id::{NodeId, TaskId},
    task::{OutputChunk, Task, TaskState},
};
use tokio_postgres::{Statement, types::ToSql};

use super::{
    Postgres,
    session::{Params, Session, from_json, id, limit, unsigned},
    settings::{AUDIT, Lines, plain},
    to_json,
};
use crate::{
    NodeTasks, ReadyClasses, StoreError, TaskCounts, TaskQuery, TaskStep, TaskWrote,
    tasks::{Additions, CHUNKS_MAX, Columns, Hand, KEPT_MAX, with_ids},
};

/// How often a write is tried that another one stands in the way of.
const TRIES: u32 = 4;

/// Takes tasks up for writing.
const LOCK: &str = "select document from tasks where task_id = any($1) order by task_id for update";
/// Writes [`Rows`].
const PUT: &str = "insert into tasks (task_id, status, kind, class, priority, created_at, ready_at, age_key,
        blockers, assigned_node, node_id, fence, worker, lease_until, completed_at, idempotency_key,
        document, is_cancelling)
     select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::integer[], $10::text[], $11::text[],
        $12::bigint[], $13::text[], $14::bigint[], $15::bigint[], $16::text[], $17::text[],
        $18::boolean[])
     on conflict (task_id) do update set status = excluded.status, ready_at = excluded.ready_at,
        blockers = excluded.blockers, assigned_node = excluded.assigned_node, class = excluded.class,
        node_id = excluded.node_id, fence = excluded.fence, worker = excluded.worker,
        lease_until = excluded.lease_until, completed_at = excluded.completed_at,
        document = excluded.document, is_cancelling = excluded.is_cancelling";
/// Writes down who waits for whom.
const WAIT: &str = "insert into task_dependencies (blocker_id, task_id)
     select * from unnest($1::text[], $2::text[]) on conflict do nothing";

impl Postgres {
    /// Adds tasks and what the audit log says of the new ones, and answers them as they stand.
    pub async fn add_tasks(&self, tasks: Vec<Task>, lines: Vec<AuditEntry>) -> Result<Vec<Task>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let session = self.session("add tasks").await?;
            match add_alone(&session, tasks.clone(), lines.clone()).await {
                Ok(added) => {
                    self.written(session).await?;
                    return Ok(added);
                }
                // Somebody else added one of the same key, or two writes stood in each other's way.
                Err(error) if tries < TRIES && (error.is_conflict() || is_deadlock(&error)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets things happen to tasks, in order, in one write.
    pub async fn step_tasks(
        &self,
        steps: Vec<TaskStep>,
        now_ms: UnixMs,
        chance: u64,
    ) -> Result<Vec<Result<Task, Refusal>>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let session = self.session("write what happened to tasks").await?;
            match step(&session, &steps, now_ms, chance).await {
                Ok(outcomes) => {
                    self.written(session).await?;
                    return Ok(outcomes);
                }
                Err(error) if tries < TRIES && is_deadlock(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The classes of everything that waits for nothing but a node or its time, and when the next of it that
    /// cannot be given to a node now can be.
    pub async fn ready_classes(&self, now_ms: UnixMs, most: usize) -> Result<ReadyClasses, StoreError> {
        let session = self.session("list classes of tasks").await?;
        // From one class to the next by the index, however many tasks each has.
        let classes = session
            .prepare(
                "with recursive classes(class) as (
                    select min(class) from tasks where status = 'queued' and blockers = 0
                    union all
                    select (select min(class) from tasks
                            where status = 'queued' and blockers = 0 and tasks.class > classes.class)
                    from classes where classes.class is not null)
                 select class from classes where class is not null limit $1",
            )
            .await?;
        let next = session
            .prepare(
                "select min(ready_at) from tasks where status = 'queued' and blockers = 0 and ready_at > $1",
            )
            .await?;
        let most = limit(most);
        let (asked, after): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&most], [&now_ms]);
        // One round trip.
        let (classes, next) =
            tokio::try_join!(biased; session.ask(&classes, &asked), session.ask(&next, &after))?;
        Ok(ReadyClasses {
            classes: classes.iter().map(|row| session.get(row, 0)).collect::<Result<_, _>>()?,
            next_ready_at: next.first().map(|row| session.get(row, 0)).transpose()?.flatten(),
        })
    }

    /// The foremost tasks of each class that can be given to a node now, at most `limit` of each.
    pub async fn ready_tasks(
        &self,
        classes: Vec<String>,
        now_ms: UnixMs,
        most: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let session = self.session("list tasks that are ready").await?;
        let rows = session
            .rows(
                "select document from unnest($1::text[]) as asked(class), lateral (
                    (select document from tasks
                     where status = 'queued' and blockers = 0 and tasks.class = asked.class
                        and ready_at <= $2 and created_at > $3
                     order by age_key limit $4)
                    union all
                    (select document from tasks
                     where status = 'queued' and blockers = 0 and tasks.class = asked.class
                        and ready_at <= $2 and created_at <= $3
                     order by priority desc, created_at limit $4)) as found",
                &[&classes, &now_ms, &(now_ms - AGED_MS), &limit(most)],
            )
            .await?;
        let mut ready: Vec<Task> =
            rows.iter().map(|row| from_json(session.operation, row, 0)).collect::<Result<_, _>>()?;
        sort(&mut ready, now_ms);
        let mut taken: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
        ready.retain(|task| {
            let count = taken.entry(Columns::of(task).class).or_default();
            *count += 1;
            *count <= most
        });
        Ok(ready)
    }

    /// Tasks whose lease is over, the longest over first.
    pub async fn expired_leases(&self, now_ms: UnixMs, most: usize) -> Result<Vec<TaskId>, StoreError> {
        let session = self.session("list leases that are over").await?;
        let rows = session
            .rows(
                "select task_id from tasks where lease_until is not null and lease_until <= $1
                 order by lease_until limit $2",
                &[&now_ms, &limit(most)],
            )
            .await?;
        rows.iter().map(|row| id(session.operation, row, 0)).collect()
    }

    /// Tasks that a node has.
    pub async fn worker_tasks(&self, node_id: &NodeId) -> Result<Vec<Task>, StoreError> {
        let session = self.session("list tasks of a node").await?;
        let rows = session
            .rows(
                "select document from tasks where node_id = $1 and lease_until is not null order by task_id",
                &[&node_id.as_str()],
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Tasks that were called off and that a node still has.
    pub async fn cancelling_tasks(&self, most: usize) -> Result<Vec<Task>, StoreError> {
        let session = self.session("list tasks that are called off").await?;
        let rows = session
            .rows("select document from tasks where is_cancelling order by task_id limit $1", &[&limit(most)])
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// Tasks that match a query, newest first.
    pub async fn tasks(&self, query: TaskQuery) -> Result<Vec<Task>, StoreError> {
        let session = self.session("list tasks").await?;
        let status: Option<Vec<&str>> =
            (!query.status.is_empty()).then(|| query.status.iter().map(|status| status.as_str()).collect());
        let kind = query.kind.map(|kind| kind.as_str());
        let node = query.node_id.as_ref().map(NodeId::as_str);
        let text = query.text.map(plain);
        let after_ms = query.after.as_ref().map(|(created_at, _)| *created_at);
        let after_id = query.after.as_ref().map(|(_, task_id)| task_id.as_str());
        let most = limit(query.limit);
        let given: [&(dyn ToSql + Sync); 7] = [&status, &kind, &node, &text, &after_ms, &after_id, &most];
        let rows = session
            .rows(
                "select document from tasks
                 where ($1::text[] is null or status = any($1))
                    and ($2::text is null or kind = $2)
                    and ($3::text is null or node_id = $3 or assigned_node = $3)
                    and ($4::text is null or position(lower($4) in lower(document)) > 0)
                    and ($5::bigint is null or (created_at, task_id) < ($5, $6::text))
                 order by created_at desc, task_id desc limit $7",
                &given,
            )
            .await?;
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
    }

    /// The task with this id.
    pub async fn task(&self, task_id: &TaskId) -> Result<Option<Task>, StoreError> {
        let session = self.session("read a task").await?;
        let row = session.row("select document from tasks where task_id = $1", &[&task_id.as_str()]).await?;
        row.map(|row| from_json(session.operation, &row, 0)).transpose()
    }

    /// How many tasks there are.
    pub async fn task_counts(&self) -> Result<TaskCounts, StoreError> {
        let session = self.session("count tasks").await?;
        let mut counts = TaskCounts::default();
        let rows = session.rows("select status, count(*) from tasks group by status", &[]).await?;
        for row in &rows {
            if let Some(status) = TaskState::parse(&session.get::<String>(row, 0)?) {
                counts.by_status.push((status, unsigned(session.operation, row, 1)?));
            }
        }
        counts.by_status.sort();
        let rows = session
            .rows(
                "select node, count(*) filter (where status = 'queued'),
                    count(*) filter (where status = 'leased'), count(*) filter (where status = 'running')
                 from (
                    select assigned_node as node, status from tasks
                    where status = 'queued' and assigned_node is not null
                    union all
                    select node_id, status from tasks
                    where lease_until is not null and node_id is not null) as each
                 group by node order by node",
                &[],
            )
            .await?;
        for row in &rows {
            counts.by_node.push(NodeTasks {
                node_id: id(session.operation, row, 0)?,
                queued: unsigned(session.operation, row, 1)?,
                leased: unsigned(session.operation, row, 2)?,
                running: unsigned(session.operation, row, 3)?,
            });
        }
        Ok(counts)
    }

    /// Keeps what tasks wrote; answers for each whether it came under the task's newest fencing number.
    pub async fn append_output(&self, wrote: Vec<TaskWrote>) -> Result<Vec<bool>, StoreError> {
        let session = self.session("keep output of tasks").await?;
        session.begin().await?;
        let tasks: Vec<&str> = wrote.iter().map(|wrote| wrote.task_id.as_str()).collect();
        let nodes: Vec<&str> = wrote.iter().map(|wrote| wrote.node_id.as_str()).collect();
        let fences: Vec<i64> = wrote.iter().map(|wrote| wrote.chunk.fence.cast_signed()).collect();
        // Each is held against the task as it stands, and against what the attempt wrote before.
        let rows = session
            .rows(
                "select coalesce(t.node_id = g.node_id and t.fence = g.fence, false),
                    coalesce((select total_bytes from task_output o
                        where o.task_id = g.task_id and o.fence = g.fence order by seq desc limit 1), 0)
                 from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality
                    as g(task_id, node_id, fence, n)
                 left join tasks t on t.task_id = g.task_id
                 order by g.n",
                &[&tasks, &nodes, &fences],
            )
            .await?;
        let mut answers = Vec::with_capacity(wrote.len());
        let mut kept = Vec::new();
        let mut totals: std::collections::BTreeMap<(&str, i64), i64> = std::collections::BTreeMap::new();
        for (wrote, row) in wrote.iter().zip(&rows) {
            let is_holder: bool = session.get(row, 0)?;
            answers.push(is_holder);
            let before: i64 = session.get(row, 1)?;
            let total =
                totals.entry((wrote.task_id.as_str(), wrote.chunk.fence.cast_signed())).or_insert(before);
            let then = total.saturating_add(limit(wrote.chunk.text.len()));
            if is_holder && wrote.chunk.seq < CHUNKS_MAX && then <= KEPT_MAX {
                *total = then;
                kept.push((wrote, then));
            }
        }
        let tasks: Vec<&str> = kept.iter().map(|(wrote, _)| wrote.task_id.as_str()).collect();
        let fences: Vec<i64> = kept.iter().map(|(wrote, _)| wrote.chunk.fence.cast_signed()).collect();
        let seqs: Vec<i64> = kept.iter().map(|(wrote, _)| wrote.chunk.seq.cast_signed()).collect();
        let errors: Vec<bool> = kept.iter().map(|(wrote, _)| wrote.chunk.is_error).collect();
        let times: Vec<i64> = kept.iter().map(|(wrote, _)| wrote.chunk.after_ms).collect();
        let totals: Vec<i64> = kept.iter().map(|(_, total)| *total).collect();
        let texts: Vec<String> = kept.iter().map(|(wrote, _)| plain(wrote.chunk.text.clone())).collect();
        session
            .execute(
                "insert into task_output (task_id, fence, seq, is_error, after_ms, total_bytes, text)
                 select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::boolean[], $5::bigint[],
                    $6::bigint[], $7::text[])
                 on conflict do nothing",
                &[&tasks, &fences, &seqs, &errors, &times, &totals, &texts],
            )
            .await?;
        session.commit().await?;
        self.written(session).await?;
        Ok(answers)
    }

    /// What an attempt wrote after a number, in order.
    pub async fn task_output(
        &self,
        task_id: &TaskId,
        fence: u64,
        after_seq: Option<u64>,
        most: usize,
    ) -> Result<Vec<OutputChunk>, StoreError> {
        let session = self.session("read output of a task").await?;
        let after = after_seq.map_or(-1, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let rows = session
            .rows(
                "select fence, seq, is_error, text, after_ms from task_output
                 where task_id = $1 and fence = $2 and seq > $3 order by seq limit $4",
                &[&task_id.as_str(), &fence.cast_signed(), &after, &limit(most)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(OutputChunk {
                    fence: unsigned(session.operation, row, 0)?,
                    seq: unsigned(session.operation, row, 1)?,
                    is_error: session.get(row, 2)?,
                    text: session.get(row, 3)?,
                    after_ms: session.get(row, 4)?,
                })
            })
            .collect()
    }

    /// Forgets tasks that reached a final state before a time, and their output.
    pub async fn drop_tasks(&self, before_ms: UnixMs, most: usize) -> Result<usize, StoreError> {
        let session = self.session("drop old tasks").await?;
        session.begin().await?;
        let rows = session
            .rows(
                "delete from tasks where task_id in (
                    select task_id from tasks where completed_at is not null and completed_at < $1
                    order by completed_at limit $2 for update skip locked)
                 returning task_id",
                &[&before_ms, &limit(most)],
            )
            .await?;
        let gone: Vec<String> =
            rows.iter().map(|row| session.get(row, 0)).collect::<Result<_, StoreError>>()?;
        session.execute("delete from task_output where task_id = any($1)", &[&gone]).await?;
        session
            .execute(
                "delete from task_dependencies where task_id = any($1) or blocker_id = any($1)",
                &[&gone],
            )
            .await?;
        session.commit().await?;
        self.written(session).await?;
        Ok(gone.len())
    }
}

/// Adds tasks in a transaction of their own.
async fn add_alone(
    session: &Session,
    tasks: Vec<Task>,
    lines: Vec<AuditEntry>,
) -> Result<Vec<Task>, StoreError> {
    let lines = with_ids(&tasks, lines);
    let is_looking =
        tasks.iter().any(|task| task.order.idempotency_key.is_some() || !task.order.depends_on.is_empty());
    if is_looking {
        session.begin().await?;
    }
    let new = New::of(session, tasks).await?;
    let lines = Lines::of(new.additions.lines_of_new(lines));
    let (put, wait, say) =
        (session.prepare(PUT).await?, session.prepare(WAIT).await?, session.prepare(AUDIT).await?);
    let rows = Rows::of(new.hand.changed());
    let (blockers, waiting) = new.waiting();
    let (row_params, line_params) = (rows.params(), lines.params());
    let wait_params: [&(dyn ToSql + Sync); 2] = [&blockers, &waiting];
    let begin = async || if is_looking { Ok(()) } else { session.begin().await };
    let run = async |is_wanted: bool, statement: &Statement, params: Params<'_>| {
        if is_wanted { session.run(statement, params).await } else { Ok(0) }
    };
    // One round trip: where a statement fails, the commit behind it rolls back.
    tokio::try_join!(
        biased;
        begin(),
        run(!rows.is_empty(), &put, &row_params),
        run(!waiting.is_empty(), &wait, &wait_params),
        run(!lines.is_empty(), &say, &line_params),
        session.commit(),
    )?;
    Ok(new.answers())
}

/// Adds tasks inside a transaction.
pub(super) async fn add(session: &Session, tasks: Vec<Task>) -> Result<(), StoreError> {
    let new = New::of(session, tasks).await?;
    let rows = Rows::of(new.hand.changed());
    if !rows.is_empty() {
        session.execute(PUT, &rows.params()).await?;
    }
    let (blockers, waiting) = new.waiting();
    if !waiting.is_empty() {
        session.execute(WAIT, &[&blockers, &waiting]).await?;
    }
    Ok(())
}

/// Tasks that are to be added, once it was looked what they go by and wait for.
struct New {
    additions: Additions,
    hand: Hand,
    waiting: Vec<(TaskId, TaskId)>,
}

impl New {
    /// Asks nothing where no task has a key or waits for another.
    async fn of(session: &Session, tasks: Vec<Task>) -> Result<Self, StoreError> {
        let keys: Vec<&str> = tasks.iter().filter_map(|task| task.order.idempotency_key.as_deref()).collect();
        let known: Vec<Task> = if keys.is_empty() {
            Vec::new()
        } else {
            let rows =
                session.rows("select document from tasks where idempotency_key = any($1)", &[&keys]).await?;
            rows.iter().map(|row| from_json(session.operation, row, 0)).collect::<Result<_, _>>()?
        };
        let now_ms = tasks.first().map_or(0, |task| task.created_at);
        let additions = Additions::sort(tasks, &known);
        let mut hand = Hand::new(known, now_ms, 0);
        // Locked, so that none of them ends between being looked at and being waited for.
        let lock = "select document from tasks where task_id = any($1) order by task_id for share";
        hand.take_up(read(session, additions.blockers().iter(), lock).await?);
        additions.put_into(&mut hand);
        let waiting = additions.waiting();
        Ok(Self { additions, hand, waiting })
    }

    /// Who waits for whom: blockers, and who waits for each of them.
    fn waiting(&self) -> (Vec<&str>, Vec<&str>) {
        self.waiting.iter().map(|(blocker, task_id)| (blocker.as_str(), task_id.as_str())).unzip()
    }

    fn answers(&self) -> Vec<Task> {
        self.additions.answers.iter().filter_map(|task_id| self.hand.get(task_id).cloned()).collect()
    }
}

/// Lets things happen to tasks, in a transaction of their own.
async fn step(
    session: &Session,
    steps: &[TaskStep],
    now_ms: UnixMs,
    chance: u64,
) -> Result<Vec<Result<Task, Refusal>>, StoreError> {
    let ids: BTreeSet<&str> = steps.iter().map(|step| step.task_id.as_str()).collect();
    let ids: Vec<&str> = ids.into_iter().collect();
    let (lock, write) = (session.prepare(LOCK).await?, session.prepare(PUT).await?);
    let asked: [&(dyn ToSql + Sync); 1] = [&ids];
    let ((), rows) = tokio::try_join!(biased; session.begin(), session.ask(&lock, &asked))?;
    let tasks: Vec<Task> =
        rows.iter().map(|row| from_json(session.operation, row, 0)).collect::<Result<_, _>>()?;
    let mut hand = Hand::new(tasks, now_ms, chance);
    let outcomes = steps.iter().map(|step| hand.step(&step.task_id, step.event.clone())).collect();
    loop {
        let ended = hand.take_ended();
        if ended.is_empty() {
            break;
        }
        let blockers: Vec<&str> = ended.iter().map(|(blocker, _)| blocker.as_str()).collect();
        let rows = session
            .rows(
                "select blocker_id, task_id from task_dependencies where blocker_id = any($1)",
                &[&blockers],
            )
            .await?;
        let waiting: Vec<(TaskId, TaskId)> = rows
            .iter()
            .map(|row| Ok((id(session.operation, row, 0)?, id(session.operation, row, 1)?)))
            .collect::<Result<_, StoreError>>()?;
        let missing: BTreeSet<&TaskId> =
            waiting.iter().map(|(_, task_id)| task_id).filter(|id| !hand.has(id)).collect();
        let read = read(session, missing, LOCK).await?;
        hand.take_up(read);
        hand.tell(&ended, &waiting);
    }
    let rows = Rows::of(hand.changed());
    if rows.is_empty() {
        session.commit().await?;
    } else {
        let params = rows.params();
        // One round trip: where the write fails, the commit behind it rolls back.
        tokio::try_join!(biased; session.run(&write, &params), session.commit())?;
    }
    Ok(outcomes)
}

async fn read<'a>(
    session: &Session,
    ids: impl IntoIterator<Item = &'a TaskId>,
    sql: &str,
) -> Result<Vec<Task>, StoreError> {
    let ids: Vec<&str> = ids.into_iter().map(TaskId::as_str).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.rows(sql, &[&ids]).await?;
    rows.iter().map(|row| from_json(session.operation, row, 0)).collect()
}

/// Tasks as they are written, column by column.
#[derive(Default)]
struct Rows<'a> {
    task_ids: Vec<&'a str>,
    status: Vec<&'a str>,
    kinds: Vec<&'a str>,
    classes: Vec<String>,
    priorities: Vec<i32>,
    created_at: Vec<i64>,
    ready_at: Vec<i64>,
    age_keys: Vec<i64>,
    blockers: Vec<i32>,
    assigned: Vec<Option<&'a str>>,
    nodes: Vec<Option<&'a str>>,
    fences: Vec<i64>,
    workers: Vec<Option<String>>,
    leases: Vec<Option<i64>>,
    completed_at: Vec<Option<i64>>,
    keys: Vec<Option<&'a str>>,
    documents: Vec<String>,
    cancelling: Vec<bool>,
}

impl<'a> Rows<'a> {
    fn of(tasks: impl Iterator<Item = &'a Task>) -> Self {
        let mut rows = Self::default();
        for task in tasks {
            let columns = Columns::of(task);
            rows.task_ids.push(task.task_id.as_str());
            rows.status.push(task.status.as_str());
            rows.kinds.push(task.order.task_type.as_str());
            rows.classes.push(columns.class);
            rows.priorities.push(task.order.priority);
            rows.created_at.push(task.created_at);
            rows.ready_at.push(task.ready_at);
            rows.age_keys.push(columns.age_key);
            rows.blockers.push(task.blockers.cast_signed());
            rows.assigned.push(task.order.assigned_node.as_ref().map(NodeId::as_str));
            rows.nodes.push(columns.node_id);
            rows.fences.push(columns.fence);
            rows.workers.push(columns.worker.map(|worker| plain(worker.to_owned())));
            rows.leases.push(columns.lease_until);
            rows.completed_at.push(task.completed_at);
            rows.keys.push(task.order.idempotency_key.as_deref());
            rows.documents.push(to_json(task));
            rows.cancelling.push(columns.is_cancelling);
        }
        rows
    }

    fn is_empty(&self) -> bool {
        self.task_ids.is_empty()
    }

    /// What [`PUT`] is given.
    fn params(&self) -> [&(dyn ToSql + Sync); 18] {
        [
            &self.task_ids,
            &self.status,
            &self.kinds,
            &self.classes,
            &self.priorities,
            &self.created_at,
            &self.ready_at,
            &self.age_keys,
            &self.blockers,
            &self.assigned,
            &self.nodes,
            &self.fences,
            &self.workers,
            &self.leases,
            &self.completed_at,
            &self.keys,
            &self.documents,
            &self.cancelling,
        ]
    }
}

/// Whether the server ended a transaction because two stood in each other's way.
fn is_deadlock(error: &StoreError) -> bool {
    let StoreError::Backend { source, .. } = error else { return false };
    source.to_string().contains("40P01")
}
