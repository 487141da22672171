-- Tasks: the document says it all, the columns are what they are found by.
create table tasks (
    task_id text collate "C" primary key,
    status text collate "C" not null,
    kind text not null,
    -- What is asked of a node: tasks of one class can be done by the same nodes.
    class text collate "C" not null,
    priority integer not null,
    created_at bigint not null,
    ready_at bigint not null,
    -- created_at minus what the priority is worth: the order within a class while everybody still gains.
    age_key bigint not null,
    blockers integer not null,
    -- The node that it must be done by.
    assigned_node text collate "C",
    -- The node of the newest attempt.
    node_id text collate "C",
    fence bigint not null,
    worker text,
    lease_until bigint,
    -- Called off, and its node has not let go of it.
    is_cancelling boolean not null,
    completed_at bigint,
    idempotency_key text collate "C" unique,
    document text not null
);
create index tasks_by_age on tasks (class, age_key) where status = 'queued' and blockers = 0;
create index tasks_by_priority on tasks (class, priority, created_at) where status = 'queued' and blockers = 0;
create index tasks_ready on tasks (ready_at) where status = 'queued' and blockers = 0;
create index tasks_leased on tasks (lease_until) where lease_until is not null;
create index tasks_held on tasks (node_id) where lease_until is not null;
create index tasks_cancelling on tasks (task_id) where is_cancelling;
create index tasks_assigned on tasks (assigned_node) where status = 'queued' and assigned_node is not null;
create index tasks_listed on tasks (created_at, task_id);
create index tasks_by_status on tasks (status, created_at, task_id);
create index tasks_over on tasks (completed_at) where completed_at is not null;

-- Who waits for whom.
create table task_dependencies (
    blocker_id text collate "C" not null,
    task_id text collate "C" not null,
    primary key (blocker_id, task_id)
);
create index task_dependencies_of on task_dependencies (task_id);

create table task_output (
    task_id text collate "C" not null,
    fence bigint not null,
    seq bigint not null,
    is_error boolean not null,
    after_ms bigint not null,
    -- Bytes of the attempt up to and with this chunk.
    total_bytes bigint not null,
    text text not null,
    primary key (task_id, fence, seq)
);

create table schedules (
    schedule_id text collate "C" primary key,
    name text not null,
    next_at bigint,
    document text not null
);
create index schedules_due on schedules (next_at) where next_at is not null;
