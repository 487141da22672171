-- What admits machines. Only the SHA-256 of the secret is kept.
create table join_tokens (
    token_id text primary key,
    secret_sha256 blob not null,
    role text not null,
    uses_left integer not null,
    uses integer not null,
    created_at_ms integer not null,
    expires_at_ms integer not null,
    revoked_at_ms integer
) without rowid;

-- Which key a node was admitted with. Rows stay after a revocation, so that the node stays out.
create table enrolments (
    node_id text primary key,
    key_sha256 text not null,
    role text not null,
    admitted_by text not null,
    admitted_at_ms integer not null,
    revoked_at_ms integer,
    ceiling text not null,
    hostname text not null,
    constraint enrolments_key_unique unique (key_sha256)
) without rowid;
