-- The schema's own steps; the digest tells a step that was changed after it was applied.
create table schema_steps (
    version integer primary key,
    digest text not null,
    applied_at timestamptz not null default now()
);

-- Facts about this store itself.
create table meta (
    key text collate "C" primary key,
    value text not null
);

-- Settings changed at run time, as JSON documents.
create table settings (
    key text collate "C" primary key,
    value text not null
);

-- People who may sign in. The hash is argon2id in PHC form.
create table users (
    name text collate "C" primary key,
    role text not null,
    password_hash text not null,
    created_at_ms bigint not null
);

-- Bearer tokens. Only the SHA-256 of the secret is kept.
create table tokens (
    token_id text collate "C" primary key,
    name text not null,
    secret_sha256 bytea not null,
    scopes text not null,
    binding text not null,
    created_at_ms bigint not null,
    expires_at_ms bigint,
    revoked_at_ms bigint,
    constraint tokens_secret_unique unique (secret_sha256)
);

-- Keys with a time to live.
create table coordination (
    key text collate "C" primary key,
    value text not null,
    version bigint not null,
    expires_at_ms bigint not null
);
create index coordination_expiry on coordination (expires_at_ms);

-- Machines that have joined; the document holds identity and the last sample.
create table nodes (
    node_id text collate "C" primary key,
    name text collate "C" not null,
    document text not null,
    seen_at_ms bigint not null
);
create index nodes_name on nodes (name);

-- History of a node, a point a sample.
create table node_points (
    node_id text collate "C" not null,
    at_ms bigint not null,
    cpu_percent double precision not null,
    memory_percent double precision not null,
    swap_percent double precision,
    disk_percent double precision,
    load_1 double precision not null,
    load_5 double precision not null,
    load_15 double precision not null,
    disk_read_bytes_per_s double precision not null,
    disk_written_bytes_per_s double precision not null,
    received_bytes_per_s double precision not null,
    sent_bytes_per_s double precision not null,
    temperature_celsius double precision,
    process_count bigint not null,
    primary key (node_id, at_ms)
);
-- Old points go by time; blocks of a table that only grows are in the order of time.
create index node_points_time on node_points using brin (at_ms);

-- What probes measure.
create table targets (
    target_id text collate "C" primary key,
    url text collate "C" not null,
    document text not null,
    constraint targets_url_unique unique (url)
);

-- Owner and progress of each partition of the event stream. Rows and position move in one transaction.
create table partitions (
    partition integer primary key,
    owner text not null,
    fence bigint not null,
    position bigint not null,
    counted bigint not null default 0,
    duplicates bigint not null default 0,
    too_late bigint not null default 0,
    -- What the newest commit was, so that one whose answer was lost is known again.
    last_commit bigint not null default 0
) with (fillfactor = 50);

-- Aggregators that share the partitions. A beat that does not change is that of a dead one.
create table aggregators (
    owner text collate "C" primary key,
    beat bigint not null,
    document text not null
) with (fillfactor = 50);

-- What one probe saw of one target in one window. Distributions are engine::sketch bytes, null where
-- nothing was measured. Parts are made as rows come: see parts.rs.
create table rollups (
    width_ms bigint not null,
    window_start_ms bigint not null,
    client_id text collate "C" not null,
    target text collate "C" not null,
    family smallint not null,
    partition integer not null,
    count_total bigint not null,
    count_success bigint not null,
    count_error bigint not null,
    errors_by_stage text not null,
    errors_by_class text not null,
    dns bytea,
    tcp bytea,
    tls bytea,
    ttfb bytea,
    total bytea,
    throughput bytea,
    rtt bytea,
    jitter bytea,
    loss bytea,
    rpm bytea,
    late_merged bigint not null,
    last text not null,
    state text not null,
    version bigint not null,
    updated_at_ms bigint not null,
    rev bigint not null,
    primary key (width_ms, window_start_ms, client_id, target, family)
) partition by range (width_ms, window_start_ms);
create index rollups_rev on rollups (rev);
create index rollups_pair on rollups (client_id, target, family, width_ms, window_start_ms);
create index rollups_open on rollups (partition) where state = 'provisional';

-- Number of the newest commit of rollups: one row, whose lock orders commits. It never goes back, so that
-- whoever reads "since" a number misses nothing.
create table revisions (
    newest bigint not null
) with (fillfactor = 10);
insert into revisions (newest) values (0);

-- Longer windows that must be merged again because a shorter one in them changed.
create table stale_tiers (
    partition integer not null,
    width_ms bigint not null,
    window_start_ms bigint not null,
    client_id text collate "C" not null,
    target text collate "C" not null,
    family smallint not null,
    mark bigint not null,
    primary key (partition, width_ms, window_start_ms, client_id, target, family)
);

-- Sequence numbers counted, by probe and epoch; ranges are a JSON list of closed ranges.
create table seen_ranges (
    partition integer not null,
    client_id text collate "C" not null,
    epoch bigint not null,
    ranges text not null,
    edges text not null,
    max_ts_ms bigint not null,
    too_late bigint not null,
    primary key (partition, client_id, epoch)
);

-- Ids of counted events that have no sequence number, kept for the horizon.
create table seen_ids (
    partition integer not null,
    event_id bytea not null,
    recv_minute bigint not null,
    primary key (partition, event_id)
);
create index seen_ids_minute on seen_ids (partition, recv_minute);

-- Events kept aside instead of being counted, newest kept.
create table dead_letters (
    id bigint generated always as identity primary key,
    partition integer not null,
    kept_at_ms bigint not null,
    client_id text collate "C" not null,
    ts_ms bigint not null,
    reason text collate "C" not null,
    state text not null,
    document text not null
);
create index dead_letters_state on dead_letters (partition, id) where state = 'requested';

-- Verdicts, a row a window that has one.
create table diagnoses (
    window_start_ms bigint not null,
    client_id text collate "C" not null,
    target text collate "C" not null,
    family smallint not null,
    label text not null,
    document text not null,
    primary key (client_id, target, family, window_start_ms)
);
create index diagnoses_window on diagnoses (window_start_ms);

-- What is usual for a pair and how it stands.
create table pairs (
    client_id text collate "C" not null,
    target text collate "C" not null,
    family smallint not null,
    window_start_ms bigint not null,
    document text not null,
    primary key (client_id, target, family)
);

-- Who did what.
create table audit (
    id bigint generated always as identity primary key,
    at_ms bigint not null,
    actor text not null,
    action text not null,
    subject text not null,
    outcome text not null
);
create index audit_time on audit (at_ms);

-- What admits machines. Only the SHA-256 of the secret is kept.
create table join_tokens (
    token_id text collate "C" primary key,
    secret_sha256 bytea not null,
    role text not null,
    uses_left bigint not null,
    uses bigint not null,
    created_at_ms bigint not null,
    expires_at_ms bigint not null,
    revoked_at_ms bigint
);

-- Which key a node was admitted with. Rows stay after a revocation, so that the node stays out.
create table enrolments (
    node_id text collate "C" primary key,
    key_sha256 text collate "C" not null,
    role text not null,
    admitted_by text not null,
    admitted_at_ms bigint not null,
    revoked_at_ms bigint,
    ceiling text not null,
    hostname text not null,
    constraint enrolments_key_unique unique (key_sha256)
);
