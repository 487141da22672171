-- What people said about nodes, as JSON documents.
create table node_settings (
    node_id text primary key,
    document text not null
);

-- Alerts: the document says it all, the columns are what lists are cut by. One of a node and metric stands.
create table alerts (
    alert_id text primary key,
    node_id text not null,
    metric text not null,
    status text not null,
    severity text not null,
    raised_at_ms integer not null,
    resolved_at_ms integer,
    revision integer not null,
    document text not null
);
create unique index alerts_one on alerts (node_id, metric) where resolved_at_ms is null;
create index alerts_raised on alerts (raised_at_ms);

-- Notices, until they are sent and for a while after. What changes is in columns.
create table notices (
    notice_id text primary key,
    subject_id text not null,
    created_at_ms integer not null,
    next_at_ms integer not null,
    attempts integer not null default 0,
    claimed_by text,
    claimed_until_ms integer not null default 0,
    sent_at_ms integer,
    given_up_at_ms integer,
    error text,
    document text not null
);
create index notices_due on notices (next_at_ms) where sent_at_ms is null and given_up_at_ms is null;
create index notices_created on notices (created_at_ms);
create index notices_subject on notices (subject_id);

-- History of nodes in longer steps; `samples` is how many points went in.
create table node_tiers (
    node_id text not null,
    width_ms integer not null,
    at_ms integer not null,
    samples integer not null,
    cpu_percent real not null,
    memory_percent real not null,
    swap_percent real,
    disk_percent real,
    load_1 real not null,
    load_5 real not null,
    load_15 real not null,
    disk_read_bytes_per_s real not null,
    disk_written_bytes_per_s real not null,
    received_bytes_per_s real not null,
    sent_bytes_per_s real not null,
    temperature_celsius real,
    process_count integer not null,
    primary key (node_id, width_ms, at_ms)
) without rowid;
