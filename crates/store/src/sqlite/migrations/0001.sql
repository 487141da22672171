-- Facts about this store itself.
create table meta (
    key text primary key,
    value text not null
) without rowid;

-- Settings changed at run time, as JSON documents.
create table settings (
    key text primary key,
    value text not null
) without rowid;

-- People who may sign in. The hash is argon2id in PHC form.
create table users (
    name text primary key,
    role text not null,
    password_hash text not null,
    created_at_ms integer not null
) without rowid;

-- Bearer tokens. Only the SHA-256 of the secret is kept.
create table tokens (
    token_id text primary key,
    name text not null,
    secret_sha256 blob not null,
    scopes text not null,
    binding text not null,
    created_at_ms integer not null,
    expires_at_ms integer,
    revoked_at_ms integer,
    constraint tokens_secret_unique unique (secret_sha256)
) without rowid;

-- Keys with a time to live: sessions now, leases and heartbeats of servers later.
create table coordination (
    key text primary key,
    value text not null,
    version integer not null,
    expires_at_ms integer not null
) without rowid;
create index coordination_expiry on coordination (expires_at_ms);

-- Machines that have joined; the document holds identity and the last sample.
create table nodes (
    node_id text primary key,
    name text not null,
    document text not null,
    seen_at_ms integer not null
) without rowid;
create index nodes_name on nodes (name);

-- History of a node, a point a sample.
create table node_points (
    node_id text not null,
    at_ms integer not null,
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
    primary key (node_id, at_ms)
) without rowid;

-- What probes measure.
create table targets (
    target_id text primary key,
    url text not null,
    document text not null,
    constraint targets_url_unique unique (url)
) without rowid;

-- Owner and progress of each partition of the event stream. Rows and offset move in one transaction.
create table partitions (
    partition integer primary key,
    owner text not null,
    fence integer not null,
    offset integer not null,
    counted integer not null default 0,
    duplicates integer not null default 0,
    too_late integer not null default 0
);

-- What one probe saw of one target in one window. Distributions are engine::sketch bytes, null where
-- nothing was measured.
create table rollups (
    width_ms integer not null,
    window_start_ms integer not null,
    client_id text not null,
    target text not null,
    family integer not null,
    partition integer not null,
    count_total integer not null,
    count_success integer not null,
    count_error integer not null,
    errors_by_stage text not null,
    errors_by_class text not null,
    dns blob,
    tcp blob,
    tls blob,
    ttfb blob,
    total blob,
    throughput blob,
    rtt blob,
    jitter blob,
    loss blob,
    rpm blob,
    late_merged integer not null,
    last text not null,
    state text not null,
    version integer not null,
    updated_at_ms integer not null,
    rev integer not null,
    primary key (width_ms, window_start_ms, client_id, target, family)
) without rowid;
create index rollups_rev on rollups (rev);

-- Number of the newest commit of rollups: one row. It never goes back, not even when the rows of that commit
-- are dropped, so that whoever reads "since" a number misses nothing.
create table revisions (
    newest integer not null
);
insert into revisions (newest) values (0);

create index rollups_pair on rollups (client_id, target, family, width_ms, window_start_ms);

-- Sequence numbers counted, by probe and epoch; ranges are a JSON list of closed ranges.
create table seen_ranges (
    partition integer not null,
    client_id text not null,
    epoch integer not null,
    ranges text not null,
    max_ts_ms integer not null,
    too_late integer not null,
    primary key (partition, client_id, epoch)
) without rowid;

-- Ids of counted events that have no sequence number, kept for the horizon.
create table seen_ids (
    partition integer not null,
    event_id blob not null,
    recv_minute integer not null,
    primary key (partition, event_id)
) without rowid;
create index seen_ids_minute on seen_ids (partition, recv_minute);

-- Events kept aside instead of being counted, newest kept.
create table dead_letters (
    id integer primary key,
    client_id text not null,
    ts_ms integer not null,
    reason text not null,
    document text not null
);

-- Verdicts, a row a window that has one.
create table diagnoses (
    window_start_ms integer not null,
    client_id text not null,
    target text not null,
    family integer not null,
    label text not null,
    document text not null,
    primary key (client_id, target, family, window_start_ms)
) without rowid;
create index diagnoses_window on diagnoses (window_start_ms);

-- What is usual for a pair and how it stands.
create table pairs (
    client_id text not null,
    target text not null,
    family integer not null,
    document text not null,
    primary key (client_id, target, family)
) without rowid;

-- Who did what.
create table audit (
    id integer primary key,
    at_ms integer not null,
    actor text not null,
    action text not null,
    subject text not null,
    outcome text not null
);
create index audit_time on audit (at_ms);
