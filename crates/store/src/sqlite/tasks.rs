//! Tasks: adding them, what happens to them, and finding them.

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
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{Sqlite, from_json, parse_id, settings, to_json, unsigned};
use crate::{
    NodeTasks, ReadyClasses, StoreError, TaskCounts, TaskQuery, TaskStep, TaskWrote,
    tasks::{Additions, CHUNKS_MAX, Columns, Hand, KEPT_MAX, with_ids},
};

impl Sqlite {
    /// Adds tasks and what the audit log says of the new ones, and answers them as they stand.
    pub async fn add_tasks(&self, tasks: Vec<Task>, lines: Vec<AuditEntry>) -> Result<Vec<Task>, StoreError> {
        self.write("add tasks", move |transaction| add(transaction, tasks, lines)).await
    }

    /// Lets things happen to tasks, in order, in one write.
    pub async fn step_tasks(
        &self,
        steps: Vec<TaskStep>,
        now_ms: UnixMs,
        chance: u64,
    ) -> Result<Vec<Result<Task, Refusal>>, StoreError> {
        self.write("write what happened to tasks", move |transaction| {
            let ids: BTreeSet<&TaskId> = steps.iter().map(|step| &step.task_id).collect();
            let mut hand = Hand::new(read(transaction, ids)?, now_ms, chance);
            let outcomes = steps.iter().map(|step| hand.step(&step.task_id, step.event.clone())).collect();
            loop {
                let ended = hand.take_ended();
                if ended.is_empty() {
                    break;
                }
                let mut waiting = Vec::new();
                let mut find = transaction.prepare_cached(
                    "select blocker_id, task_id from task_dependencies where blocker_id = ?1",
                )?;
                for (blocker, _) in &ended {
                    let found = find.query_map(params![blocker.as_str()], |row| {
                        Ok((parse_id(0, &row.get::<_, String>(0)?)?, parse_id(1, &row.get::<_, String>(1)?)?))
                    })?;
                    waiting.extend(found.collect::<rusqlite::Result<Vec<(TaskId, TaskId)>>>()?);
                }
                let missing: BTreeSet<&TaskId> =
                    waiting.iter().map(|(_, task_id)| task_id).filter(|id| !hand.has(id)).collect();
                let read = read(transaction, missing)?;
                hand.take_up(read);
                hand.tell(&ended, &waiting);
            }
            put(transaction, hand.changed())?;
            Ok(outcomes)
        })
        .await
    }

    /// The classes of everything that waits for nothing but a node or its time, and when the next of it that
    /// cannot be given to a node now can be.
    pub async fn ready_classes(&self, now_ms: UnixMs, limit: usize) -> Result<ReadyClasses, StoreError> {
        self.read("list classes of tasks", move |connection| {
            // From one class to the next by the index, however many tasks each has.
            let classes = connection
                .prepare_cached(
                    "with recursive classes(class) as (
                        select min(class) from tasks where status = 'queued' and blockers = 0
                        union all
                        select (select min(class) from tasks
                                where status = 'queued' and blockers = 0 and tasks.class > classes.class)
                        from classes where classes.class is not null)
                     select class from classes where class is not null limit ?1",
                )?
                .query_map(params![limit as i64], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let next_ready_at = connection
                .prepare_cached(
                    "select min(ready_at) from tasks
                     where status = 'queued' and blockers = 0 and ready_at > ?1",
                )?
                .query_row(params![now_ms], |row| row.get(0))?;
            Ok(ReadyClasses { classes, next_ready_at })
        })
        .await
    }

    /// The foremost tasks of each class that can be given to a node now, at most `limit` of each.
    pub async fn ready_tasks(
        &self,
        classes: Vec<String>,
        now_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.read("list tasks that are ready", move |connection| {
            let mut gaining = connection.prepare_cached(
                "select document from tasks
                 where status = 'queued' and blockers = 0 and class = ?1 and ready_at <= ?2 and created_at > ?3
                 order by age_key limit ?4",
            )?;
            let mut aged = connection.prepare_cached(
                "select document from tasks
                 where status = 'queued' and blockers = 0 and class = ?1 and ready_at <= ?2 and created_at <= ?3
                 order by priority desc, created_at limit ?4",
            )?;
            let mut ready = Vec::new();
            for class in &classes {
                let mut of_class: Vec<Task> = Vec::new();
                for statement in [&mut gaining, &mut aged] {
                    let found = statement
                        .query_map(params![class, now_ms, now_ms - AGED_MS, limit as i64], task_of)?;
                    for task in found {
                        of_class.push(task?);
                    }
                }
                sort(&mut of_class, now_ms);
                of_class.truncate(limit);
                ready.append(&mut of_class);
            }
            sort(&mut ready, now_ms);
            Ok(ready)
        })
        .await
    }

    /// Tasks whose lease is over, the longest over first.
    pub async fn expired_leases(&self, now_ms: UnixMs, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.read("list leases that are over", move |connection| {
            connection
                .prepare_cached(
                    "select task_id from tasks where lease_until is not null and lease_until <= ?1
                     order by lease_until limit ?2",
                )?
                .query_map(params![now_ms, limit as i64], |row| parse_id(0, &row.get::<_, String>(0)?))?
                .collect()
        })
        .await
    }

    /// Tasks that a node has.
    pub async fn worker_tasks(&self, node_id: &NodeId) -> Result<Vec<Task>, StoreError> {
        let node_id = node_id.clone();
        self.read("list tasks of a node", move |connection| {
            connection
                .prepare_cached(
                    "select document from tasks where node_id = ?1 and lease_until is not null
                     order by task_id",
                )?
                .query_map(params![node_id.as_str()], task_of)?
                .collect()
        })
        .await
    }

    /// Tasks that were called off and that a node still has.
    pub async fn cancelling_tasks(&self, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.read("list tasks that are called off", move |connection| {
            connection
                .prepare_cached("select document from tasks where is_cancelling order by task_id limit ?1")?
                .query_map(params![limit as i64], task_of)?
                .collect()
        })
        .await
    }

    /// Tasks that match a query, newest first.
    pub async fn tasks(&self, query: TaskQuery) -> Result<Vec<Task>, StoreError> {
        self.read("list tasks", move |connection| {
            let mut sql = String::from("select document from tasks where true");
            let mut values: Vec<Value> = Vec::new();
            let mut demand = |condition: &str, given: Vec<Value>| {
                sql.push_str(" and ");
                sql.push_str(condition);
                values.extend(given);
            };
            if !query.status.is_empty() {
                let given: Vec<&str> = query.status.iter().map(|status| status.as_str()).collect();
                demand("status in (select value from json_each(?))", vec![to_json(&given).into()]);
            }
            if let Some(kind) = query.kind {
                demand("kind = ?", vec![kind.as_str().to_owned().into()]);
            }
            if let Some(node) = query.node_id {
                let node = node.as_str().to_owned();
                demand("(node_id = ? or assigned_node = ?)", vec![node.clone().into(), node.into()]);
            }
            if let Some(text) = query.text {
                demand("instr(lower(document), lower(?)) > 0", vec![text.into()]);
            }
            if let Some((created_at, task_id)) = query.after {
                let task_id = task_id.as_str().to_owned();
                demand("(created_at, task_id) < (?, ?)", vec![created_at.into(), task_id.into()]);
            }
            sql.push_str(" order by created_at desc, task_id desc limit ?");
            values.push((query.limit as i64).into());
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), task_of)?.collect()
        })
        .await
    }

    /// The task with this id.
    pub async fn task(&self, task_id: &TaskId) -> Result<Option<Task>, StoreError> {
        let task_id = task_id.clone();
        self.read("read a task", move |connection| {
            connection
                .prepare_cached("select document from tasks where task_id = ?1")?
                .query_row(params![task_id.as_str()], task_of)
                .optional()
        })
        .await
    }

    /// How many tasks there are.
    pub async fn task_counts(&self) -> Result<TaskCounts, StoreError> {
        self.read("count tasks", move |connection| {
            let mut counts = TaskCounts::default();
            let mut statement =
                connection.prepare_cached("select status, count(*) from tasks group by status")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let Some(status) = TaskState::parse(&row.get::<_, String>(0)?) {
                    counts.by_status.push((status, unsigned(row, 1)?));
                }
            }
            counts.by_status.sort();
            counts.by_node = connection
                .prepare_cached(
                    "select node, sum(queued), sum(leased), sum(running) from (
                        select assigned_node as node, 1 as queued, 0 as leased, 0 as running from tasks
                        where status = 'queued' and assigned_node is not null
                        union all
                        select node_id, 0, status = 'leased', status = 'running' from tasks
                        where lease_until is not null and node_id is not null)
                     group by node order by node",
                )?
                .query_map([], |row| {
                    Ok(NodeTasks {
                        node_id: parse_id(0, &row.get::<_, String>(0)?)?,
                        queued: unsigned(row, 1)?,
                        leased: unsigned(row, 2)?,
                        running: unsigned(row, 3)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(counts)
        })
        .await
    }

    /// Keeps what tasks wrote; answers for each whether it came under the task's newest fencing number.
    pub async fn append_output(&self, wrote: Vec<TaskWrote>) -> Result<Vec<bool>, StoreError> {
        self.write("keep output of tasks", move |transaction| {
            let mut holder =
                transaction.prepare_cached("select node_id, fence from tasks where task_id = ?1")?;
            let mut length = transaction.prepare_cached(
                "select total_bytes from task_output where task_id = ?1 and fence = ?2
                 order by seq desc limit 1",
            )?;
            let mut add = transaction.prepare_cached(
                "insert into task_output (task_id, fence, seq, is_error, after_ms, total_bytes, text)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7) on conflict do nothing",
            )?;
            let mut answers = Vec::with_capacity(wrote.len());
            for TaskWrote { task_id, node_id, chunk } in &wrote {
                let held: Option<(Option<String>, i64)> = holder
                    .query_row(params![task_id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let fence = chunk.fence.cast_signed();
                let is_holder = held.is_some_and(|(node, newest)| {
                    node.as_deref() == Some(node_id.as_str()) && newest == fence
                });
                answers.push(is_holder);
                if !is_holder || chunk.seq >= CHUNKS_MAX {
                    continue;
                }
                let before: i64 = length
                    .query_row(params![task_id.as_str(), fence], |row| row.get(0))
                    .optional()?
                    .unwrap_or(0);
                let total = before.saturating_add(chunk.text.len() as i64);
                if total > KEPT_MAX {
                    continue;
                }
                add.execute(params![
                    task_id.as_str(),
                    fence,
                    chunk.seq.cast_signed(),
                    chunk.is_error,
                    chunk.after_ms,
                    total,
                    chunk.text
                ])?;
            }
            Ok(answers)
        })
        .await
    }

    /// What an attempt wrote after a number, in order.
    pub async fn task_output(
        &self,
        task_id: &TaskId,
        fence: u64,
        after_seq: Option<u64>,
        limit: usize,
    ) -> Result<Vec<OutputChunk>, StoreError> {
        let task_id = task_id.clone();
        let after = after_seq.map_or(-1, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        self.read("read output of a task", move |connection| {
            connection
                .prepare_cached(
                    "select fence, seq, is_error, text, after_ms from task_output
                     where task_id = ?1 and fence = ?2 and seq > ?3 order by seq limit ?4",
                )?
                .query_map(params![task_id.as_str(), fence.cast_signed(), after, limit as i64], |row| {
                    Ok(OutputChunk {
                        fence: unsigned(row, 0)?,
                        seq: unsigned(row, 1)?,
                        is_error: row.get(2)?,
                        text: row.get(3)?,
                        after_ms: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Forgets tasks that reached a final state before a time, and their output.
    pub async fn drop_tasks(&self, before_ms: UnixMs, limit: usize) -> Result<usize, StoreError> {
        self.write("drop old tasks", move |transaction| {
            let gone: Vec<String> = transaction
                .prepare_cached(
                    "select task_id from tasks where completed_at is not null and completed_at < ?1
                     order by completed_at limit ?2",
                )?
                .query_map(params![before_ms, limit as i64], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for sql in [
                "delete from task_output where task_id = ?1",
                "delete from task_dependencies where task_id = ?1 or blocker_id = ?1",
                "delete from tasks where task_id = ?1",
            ] {
                let mut statement = transaction.prepare_cached(sql)?;
                for task_id in &gone {
                    statement.execute(params![task_id])?;
                }
            }
            Ok(gone.len())
        })
        .await
    }
}

/// Adds tasks inside a transaction.
pub(super) fn add(
    transaction: &Transaction<'_>,
    tasks: Vec<Task>,
    lines: Vec<AuditEntry>,
) -> rusqlite::Result<Vec<Task>> {
    let lines = with_ids(&tasks, lines);
    let mut known = Vec::new();
    let mut find = transaction.prepare_cached("select document from tasks where idempotency_key = ?1")?;
    for key in tasks.iter().filter_map(|task| task.order.idempotency_key.as_ref()) {
        known.extend(find.query_row(params![key], task_of).optional()?);
    }
    let now_ms = tasks.first().map_or(0, |task| task.created_at);
    let additions = Additions::sort(tasks, &known);
    let mut hand = Hand::new(known, now_ms, 0);
    hand.take_up(read(transaction, additions.blockers().iter())?);
    additions.put_into(&mut hand);
    put(transaction, hand.changed())?;
    let mut wait = transaction.prepare_cached(
        "insert into task_dependencies (blocker_id, task_id) values (?1, ?2) on conflict do nothing",
    )?;
    for (blocker, task_id) in additions.waiting() {
        wait.execute(params![blocker.as_str(), task_id.as_str()])?;
    }
    settings::audit(transaction, &additions.lines_of_new(lines))?;
    Ok(additions.answers.iter().filter_map(|task_id| hand.get(task_id).cloned()).collect())
}

fn read<'a>(
    connection: &Connection,
    ids: impl IntoIterator<Item = &'a TaskId>,
) -> rusqlite::Result<Vec<Task>> {
    let mut statement = connection.prepare_cached("select document from tasks where task_id = ?1")?;
    let mut tasks = Vec::new();
    for id in ids {
        tasks.extend(statement.query_row(params![id.as_str()], task_of).optional()?);
    }
    Ok(tasks)
}

fn put<'a>(transaction: &Transaction<'_>, tasks: impl Iterator<Item = &'a Task>) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "insert into tasks (task_id, status, kind, class, priority, created_at, ready_at, age_key, blockers,
            assigned_node, node_id, fence, worker, lease_until, completed_at, idempotency_key, document,
            is_cancelling)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
         on conflict (task_id) do update set status = excluded.status, ready_at = excluded.ready_at,
            blockers = excluded.blockers, assigned_node = excluded.assigned_node, class = excluded.class,
            node_id = excluded.node_id, fence = excluded.fence, worker = excluded.worker,
            lease_until = excluded.lease_until, completed_at = excluded.completed_at,
            document = excluded.document, is_cancelling = excluded.is_cancelling",
    )?;
    for task in tasks {
        let columns = Columns::of(task);
        put.execute(params![
            task.task_id.as_str(),
            task.status.as_str(),
            task.order.task_type.as_str(),
            columns.class,
            task.order.priority,
            task.created_at,
            task.ready_at,
            columns.age_key,
            task.blockers,
            task.order.assigned_node.as_ref().map(NodeId::as_str),
            columns.node_id,
            columns.fence,
            columns.worker,
            columns.lease_until,
            task.completed_at,
            task.order.idempotency_key,
            to_json(task),
            columns.is_cancelling
        ])?;
    }
    Ok(())
}

fn task_of(row: &Row<'_>) -> rusqlite::Result<Task> {
    from_json(0, &row.get::<_, String>(0)?)
}
